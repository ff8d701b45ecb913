from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from command import EVENTS, PRODUCT, ROOT, connect, environment

from engine import cli
from engine.cli.commands import connect as group
from engine.errors import StoreUnavailable, UsageError

SLOW = {"httpx", "jsonschema", "jsonschema_rs", "uvicorn", "prometheus_client", "starlette", "yaml", "jinja2", "rich"}


@pytest.mark.parametrize("args", [["--version"], ["--help"]])
def test_the_version_and_the_list_of_commands_import_nothing_heavy(args: list[str]) -> None:
    code = f"import sys; from engine import cli; cli.run({args!r}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(), check=True
    )
    assert SLOW & {name.split(".")[0] for name in done.stdout.split()} == set()


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_list_of_commands_is_what_click_would_print(columns: int, tmp_path: Path) -> None:
    context = group.make_context("connect", [], resilient_parsing=True, terminal_width=min(columns, 100) - 2)
    for flag in ("--help", "-h"):
        assert connect(flag, project=tmp_path, COLUMNS=str(columns)) == (0, f"{context.get_help()}\n", "")


def test_in_a_narrow_terminal_the_list_of_commands_is_broken_into_shorter_lines(tmp_path: Path) -> None:
    listed = connect("--help", project=tmp_path, COLUMNS="60").out
    assert max(map(len, listed.splitlines())) <= 60
    assert "Deliver what is due, and end." in listed


def test_every_command_is_there_and_says_what_it_is_for(tmp_path: Path) -> None:
    listed = connect("--help", project=tmp_path).out
    for name, (module, says) in cli.COMMANDS.items():
        if (ROOT / "engine" / "cli" / f"{module}.py").exists():
            command = group.get_command(click.Context(group), name)
            assert command is not None
            assert command.help
            assert f"  {name} " in listed
            assert says in listed
    assert max(map(len, listed.splitlines())) <= 80


def test_a_command_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    ended = connect("prevew", project=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1] == 'Error: there is no command prevew; did you mean "preview"?'


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("no client is called x"), 2, "connect: no client is called x\n"),
        (StoreUnavailable("connect.db can't be read"), 3, "connect: connect.db can't be read\n"),
        (ValueError("1\n2"), 3, "connect: this is our fault: ValueError: 1 2 (CONNECT_TRACE=1 shows where)\n"),
        (click.Abort(), 130, "\nstopped\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)  # fmt: skip
def test_an_error_is_a_line_and_an_exit_code(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CONNECT_TRACE", raising=False)

    @click.command()
    def key() -> None:
        raise error

    monkeypatch.setattr("engine.cli.key.command", key)
    assert cli.run(["key"]) == code
    assert capsys.readouterr() == ("", says)


def test_connect_trace_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def key() -> None:
        raise ValueError("boom")

    monkeypatch.setattr("engine.cli.key.command", key)
    monkeypatch.setenv("CONNECT_TRACE", "1")
    with pytest.raises(ValueError, match="boom"):
        cli.run(["key"])


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m engine.cli schema | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment(), check=True
    )
    assert (done.stdout, done.stderr) == ("{\n0\n", "")


def test_a_terminal_that_lacks_a_letter_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "a.yaml").write_text("client: a\nconnectors: {rdstation: {secrets: {token: env:T}}}\n")
    (tmp_path / "event.json").write_text(
        json.dumps({**EVENTS["rdstation"], "tid": "a", "product": {**PRODUCT, "id": "a→é"}})
    )
    ended = connect("preview", "rdstation", "event.json", project=tmp_path, PYTHONIOENCODING="latin-1")
    assert (ended.code, ended.err) == (0, "")
    assert '"cf_product_id": "a\\u2192é"' in ended.out


@pytest.mark.parametrize("kind", ["connector", "client", "event", "project"])
def test_the_schemas_are_printed_as_they_are(kind: str, tmp_path: Path) -> None:
    ended = connect("schema", kind, project=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (ROOT / "schemas" / f"{kind}.schema.json").read_text()


def test_a_key_is_one_that_tokens_can_be_encrypted_with(tmp_path: Path) -> None:
    from engine.stores.opening import cipher

    key = connect("key", project=tmp_path).out.strip()
    assert cipher({"CONNECT_KEY": key}).decrypt(cipher({"CONNECT_KEY": key}).encrypt(b"token")) == b"token"
