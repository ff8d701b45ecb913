"""What a command imports before it does its work: what takes long to load and is not needed stays out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command import ROOT, environment

from engine import cli

CRM = 'receive: {client: "${ event.client }"}\n'
ABC = "client: abc\ningest: {keys: ['env:ABC']}\nconnectors: {crm: {}}\n"

FOR_SERVING = {
    "asyncio", "httpx", "prometheus_client", "sqlite3", "starlette", "structlog", "uvicorn", "uvloop", "engine.runtime",
    "engine.dashboard", "engine.stores.sqlite",
}  # fmt: skip
FOR_FEW = {
    "authlib", "babel", "boto3", "cryptography", "importlib.metadata", "jsonschema", "keyring", "multiprocessing.pool",
    "opentelemetry", "psycopg", "rich", "smtplib", "tarfile", "vcr", "zipfile",
}  # fmt: skip
FOR_SPECS = {"decimal", "jinja2", "jmespath", "jsonschema_rs", "msgspec", "re2", "yaml"}

RUN = "import sys; from engine import cli; cli.run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
SERVE = """
import io, os, signal, sys
from engine import cli

class Out(io.StringIO):
    def write(self, text):
        if "Admin:" in text:  # it answers from now on
            print(*sys.modules, file=sys.stderr)
            os.kill(os.getpid(), signal.SIGTERM)
        return len(text)

sys.stdout = Out()
cli.run(sys.argv[1:])
"""


@pytest.fixture
def home(project_from: Callable[..., Path]) -> Path:
    return project_from(crm=CRM, abc=ABC)


def imported(home: Path, *args: str, code: str = RUN) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        cwd=home,
        env={**environment(PYTHONPATH=str(ROOT)), "ABC": "key-of-abc"},
        check=True,
        timeout=60,
    )
    return set(done.stderr.splitlines()[-1].split())


def test_the_list_of_commands_imports_nothing_but_itself(home: Path) -> None:
    found = imported(home, "--help")
    assert {name for name in found if name.startswith("engine")} == {"engine", "engine.cli", "engine.cli.overview"}
    assert found & {"click", "inspect", "typing", "re", "shutil", "importlib.util"} == set()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_of_a_command_imports_nothing_that_its_work_needs(command: str, home: Path) -> None:
    found = imported(home, command, "--help")
    assert found & (FOR_SERVING | FOR_FEW | {"jinja2", "jmespath", "jsonschema_rs", "re2", "yaml"}) == set()


def test_a_file_that_is_sound_as_before_is_answered_for_without_what_checks_it(home: Path) -> None:
    assert "engine.spec.check" in imported(home, "validate", "clients/abc.yaml")
    found = imported(home, "validate", "clients/abc.yaml")
    assert found & (FOR_SERVING | FOR_FEW | FOR_SPECS) == set()
    assert {name for name in found if name.startswith("engine.spec.")} == {"engine.spec.shipped", "engine.spec.sound"}


def test_validate_imports_what_checks_and_not_what_serves(home: Path) -> None:
    found = imported(home, "validate", "--no-cache")
    assert "engine.spec.check" in found
    assert found & ((FOR_SERVING - {"asyncio"}) | FOR_FEW | {"jinja2", "ssl", "multiprocessing"}) == set()


def test_serve_answers_before_pages_metrics_and_senders_of_alerts_are_loaded(home: Path) -> None:
    found = imported(home, "serve", "--port", "0", "--admin-port", "0", code=SERVE)
    assert "uvicorn" in found
    later = {"httpx", "jinja2", "prometheus_client", "starlette", "structlog", "engine.dashboard.board"}
    assert found & (later | FOR_FEW | {"engine.alerts.mail", "engine.tagging.script", "engine.spec.check"}) == set()
    assert found & {"uvicorn.main", "uvicorn.supervisors", "watchfiles", "multiprocessing"} == set()


def test_serve_loads_no_reader_of_yaml_where_nothing_has_changed_since_it_ran(home: Path) -> None:
    from engine.spec import compiled

    project = compiled.open_kept(home)
    project.all()
    compiled.keep(project)
    found = imported(home, "serve", "--port", "0", "--admin-port", "0", code=SERVE)
    assert found & {"yaml", "engine.spec.load", "engine.spec.expand", "engine.spec.located"} == set()
    # what takes events in and delivers them comes with the first event, or soon after the start
    late = {"functions", "intake", "program", "sending", "walk", "worker", "stores.memory"}
    assert found & {f"engine.{name}" for name in late} == set()
    assert found & {"difflib", "encodings.idna", "html", "http.cookies", "re2", "zoneinfo"} == set()


UVICORN = """
import sys, threading
over = threading.Event()
if "beside" in sys.argv:
    threading.Thread(target=over.wait, daemon=True).start()
import engine.door.trimmed
whole = "uvicorn.main" in sys.modules
import configparser, logging.config, uvicorn.main
found = configparser.ConfigParser, logging.config.dictConfig, sys.modules["uvicorn.main"].Server
print(whole, *[each.__name__ for each in found], file=sys.stderr)
"""


def test_who_imports_what_serving_does_without_has_the_whole_of_it(home: Path) -> None:
    assert imported(home, code=UVICORN) == {"False", "ConfigParser", "dictConfig", "Server"}


def test_beside_another_thread_uvicorn_is_imported_whole(home: Path) -> None:
    assert imported(home, "beside", code=UVICORN) == {"True", "ConfigParser", "dictConfig", "Server"}


def test_a_uvicorn_that_asks_more_of_its_command_is_imported_whole(home: Path) -> None:
    import uvicorn

    newer = home / "uvicorn"  # the folder of a `-c` comes first
    newer.mkdir()
    real = str(Path(uvicorn.__file__).parent)
    (newer / "__init__.py").write_text(f"__path__.append({real!r})\nfrom uvicorn.main import Server, main, run, more\n")
    (newer / "main.py").write_text("from uvicorn.server import Server\nmain = run = more = None\n")
    assert imported(home, code=UVICORN) == {"True", "ConfigParser", "dictConfig", "Server"}
