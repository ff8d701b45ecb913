"""The image and the compose file: small, pinned, nobody's root, nothing that can be written but what must be."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import ROOT, Running, connect, free_port, make_project

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, in order: (RUN, what is run)."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    found: list[list[tuple[str, str]]] = [[]]
    for line in whole.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, " ".join(rest.split())))
    return found


BEFORE, BUILD, FINAL = stages()


def values(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


def test_the_image_is_built_apart_and_begins_anew_from_a_slim_python() -> None:
    assert values(BEFORE, "ARG") == ["PYTHON=python:3.12-slim"]
    assert (values(BUILD, "FROM"), values(FINAL, "FROM")) == (["${PYTHON} AS build"], ["${PYTHON}"])
    assert values(FINAL, "COPY") == ["--from=build /opt/connect /opt/connect"]


def test_packages_are_pinned_and_no_cache_of_pip_stays() -> None:
    (run,) = values(BUILD, "RUN")
    assert "pip install --constraint constraints.txt '.[postgres,aws]'" in run
    assert "PIP_NO_CACHE_DIR=1" in " ".join(values(BUILD, "ENV"))
    assert "pip install" not in " ".join(values(FINAL, "RUN"))
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line]
    assert [line for line in pinned if "==" not in line] == []


def test_it_runs_as_nobody_and_ends_at_sigterm() -> None:
    (user,) = values(FINAL, "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)  # a number, so that an orchestrator sees that it is not root
    assert values(FINAL, "STOPSIGNAL") == ["SIGTERM"]
    assert values(FINAL, "ENTRYPOINT") == ['["connect"]']
    words = [name for name, _ in FINAL]
    assert words.index("USER") > max(at for at, name in enumerate(words) if name in ("RUN", "COPY"))


def test_what_it_starts_and_how_its_health_is_asked_are_what_there_is(tmp_path: Path) -> None:
    (started,) = values(FINAL, "CMD")
    command = yaml.safe_load(started)
    assert command == ["serve", "--host", "0.0.0.0", "--port", "8080"]
    shown = connect("serve", "--help", project=tmp_path).out
    assert [word for word in command if word.startswith("--") and word not in shown] == []
    (health,) = values(FINAL, "HEALTHCHECK")
    asked = yaml.safe_load(health.partition("CMD ")[2])
    assert asked[:2] == ["python", "-c"]
    assert "http://127.0.0.1:8080/healthz" in asked[2]


def test_its_health_is_asked_by_a_command_that_works(tmp_path: Path) -> None:
    port = free_port()
    (health,) = values(FINAL, "HEALTHCHECK")
    program = yaml.safe_load(health.partition("CMD ")[2])[2].replace(":8080", f":{port}")

    def healthy() -> bool:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0

    with Running("serve", "--port", str(port), "--admin-port", "0", project=make_project(tmp_path)) as serve:
        serve.lines_until("Admin:")
        assert healthy()
        serve.end()
    assert not healthy()


def ignored(path: str) -> bool:
    """As .dockerignore says: the last line that fits decides, and a folder that is ignored hides what is in it."""
    hidden = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if not line or line.startswith("#"):
            continue
        parts = path.split("/")
        upto = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        names = parts if line.removeprefix("!").startswith("**/") else []
        fits = any(each.count("/") == pattern.count("/") and fnmatch(each, pattern) for each in upto)
        if fits or any(fnmatch(name, pattern) for name in names):
            hidden = not line.startswith("!")
    return hidden


def test_what_the_build_copies_is_what_the_package_is_made_of() -> None:
    copied = {source.rstrip("/") for line in values(BUILD, "COPY") for source in line.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "pyproject.toml"}
    assert needed | set(project["project"]["license-files"]) <= copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    inside = [f"{path}/x.py" if (ROOT / path).is_dir() else path for path in copied]
    assert [path for path in inside if ignored(path)] == []
    kept_out = (".git/config", ".venv/bin/python", "tests/test_docker.py", "secrets/connect_key", "clients.env")
    assert [path for path in (*kept_out, "docs/aws.md", "engine/__pycache__/x.pyc") if not ignored(path)] == []


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_a_container_has_no_right_that_it_does_not_need(name: str) -> None:
    service = COMPOSE["services"][name]
    assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (
        True,
        ["ALL"],
        ["no-new-privileges:true"],
    )
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", service["user"])
    assert re.search(r":\d+\.\d+", service["image"])  # a version, and not the newest of today
    assert [each for each in service["tmpfs"] if "size=" not in each] == []
    assert not service.get("privileged")
    assert "cap_add" not in service
    bound = [each for each in service["volumes"] if each["type"] == "bind"]
    assert [each for each in bound if not each.get("read_only")] == []


def test_secrets_are_files_and_stand_in_no_environment() -> None:
    assert COMPOSE["secrets"] == {name: {"file": f"secrets/{name}"} for name in ("postgres_password", "connect_key")}
    for service in COMPOSE["services"].values():
        assert set(service["secrets"]) <= set(COMPOSE["secrets"])
        literal = [value for name, value in service["environment"].items() if re.search("PASSWORD|KEY|TOKEN", name)]
        assert [value for value in literal if "/run/secrets/" not in value] == []
    assert "@postgres:5432/connect" in COMPOSE["services"]["connect"]["environment"]["CONNECT_STORE"]
    assert ":" not in COMPOSE["services"]["connect"]["environment"]["CONNECT_STORE"].split("@")[0].partition("//")[2]


def test_the_database_is_reached_from_inside_and_the_door_from_this_machine() -> None:
    connect_, postgres = COMPOSE["services"]["connect"], COMPOSE["services"]["postgres"]
    assert connect_["ports"] == ["127.0.0.1:8080:8080"]
    assert "ports" not in postgres
    assert COMPOSE["networks"][postgres["networks"][0]] == {"internal": True}
    assert connect_["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "pg_isready" in postgres["healthcheck"]["test"]
    assert postgres["volumes"] == [{"type": "volume", "source": "events", "target": "/var/lib/postgresql/data"}]


def test_the_password_goes_from_its_file_to_the_process_and_the_process_takes_the_shell_s_place(tmp_path: Path) -> None:
    """What compose runs, run here: with the file of the secret, and with a command that shows what it was given."""
    (line,) = COMPOSE["services"]["connect"]["command"]
    assert COMPOSE["services"]["connect"]["entrypoint"] == ["/bin/sh", "-c"]
    (tmp_path / "password").write_text("two words\n")
    (tmp_path / "connect").write_text('#!/bin/sh\necho "$PGPASSWORD|$$|$*"\n')
    (tmp_path / "connect").chmod(0o755)
    shell = line.replace("$$", "$").replace("/run/secrets/postgres_password", shlex.quote(str(tmp_path / "password")))
    process = subprocess.Popen(["/bin/sh", "-c", shell], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, stdout=-1)
    said = process.communicate()[0].decode()
    assert said == f"two words|{process.pid}|serve --host 0.0.0.0 --port 8080\n"
