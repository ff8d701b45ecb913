"""`connect alert`: a test to everybody, and what stands; and what the pages say of it."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from alert_receivers import Hook, Mailbox
from command import EVENTS, KEYS, ROOT, SECRETS, Running, connect, make_project, post, soon
from conftest import START

from engine.alerts.book import MARK
from engine.alerts.kinds import COVERED, KINDS
from engine.alerts.ledger import Ledger, Trouble
from engine.alerts.webhook import signed
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (ROOT / "docs/alerts.md").read_text(encoding="utf-8")
PRIVATE = {"CONNECT_ALERT_PRIVATE": "1"}
YAML = """
name: loja
alerts:
  to:
    ops: {by: slack, at: 'env:SLACK'}
    pager: {by: webhook, at: 'env:PAGER', secret: 'env:PAGER_SECRET'}
    mail: {by: smtp, at: 'file:smtp', from: connect@example.com, to: [ops@example.com]}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    yield box
    box.close()


def test_a_test_goes_to_everybody_and_says_who_was_told(home: Path, hook: Hook, mailbox: Mailbox) -> None:
    (home / "connect.yaml").write_text(YAML)
    (home / "smtp").write_text(f"smtp://127.0.0.1:{mailbox.port}\n")
    env = {**PRIVATE, "SLACK": hook.url, "PAGER": "http://127.0.0.1:1/s3cr3t", "PAGER_SECRET": "word"}
    ended = connect("alert", "test", project=home, **env)
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.splitlines() == [
        "ops (127.0.0.1): told: HTTP 200",
        "pager (127.0.0.1): not told: ConnectError",
        "mail (127.0.0.1): told: SMTP 250 by 127.0.0.1",
    ]
    nothing = "This is a test of the alerts of DaxGO Connect, by loja. Nothing is wrong."
    assert hook.bodies == [{"text": f"*test: nothing is wrong*\n{nothing}"}]
    assert [letter.get_content().strip() for letter in mailbox.letters] == [nothing]
    one = connect("alert", "test", "--to", "ops", "--json", project=home, **env)
    assert (one.code, one.json) == (
        0,
        {"tests": [{"to": "ops", "at": "127.0.0.1", "told": True, "answer": "HTTP 200"}]},
    )


def test_a_test_by_the_environment_says_what_is_missing(home: Path, hook: Hook) -> None:
    assert connect("alert", "test", project=home) == (
        2,
        "",
        "connect: nobody is told: see `alerts.to` of connect.yaml and CONNECT_ALERT_WEBHOOKS\n",
    )
    env = {**PRIVATE, "CONNECT_ALERT_WEBHOOKS": hook.url, "CONNECT_ALERT_SECRET": "word"}
    assert connect("alert", "test", project=home, **env).out == "webhook-1 (127.0.0.1): told: HTTP 200\n"
    assert "webhook-signature" in hook.raw[0][0]
    assert connect("alert", "test", "--to", "x", project=home, **env).err == (
        "connect: there is no way x; there are webhook-1\n"
    )
    smtp = connect("alert", "test", project=home, CONNECT_ALERT_SMTP="smtp://ana:w0rd@mail.example.com")
    assert (smtp.code, "w0rd" in smtp.err, "CONNECT_ALERT_FROM" in smtp.err) == (2, False, True)
    bad = connect("alert", "test", project=home, CONNECT_ALERT_SMTP="mail:w0rd")
    assert (bad.code, "w0rd" in bad.err) == (2, False)


def test_a_reference_that_yields_nothing_is_said(home: Path) -> None:
    (home / "connect.yaml").write_text("alerts: {to: {ops: {by: webhook, at: 'env:NONE'}}}\n")
    ended = connect("alert", "test", project=home)
    says = "ops (ops): not told: env:NONE: set the environment variable NONE\n"
    assert (ended.code, ended.out) == (1, says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{ops: {by: slack, at: 'https://hooks.slack.com/x'}}", "a reference such as env:NAME"),
        ("{ops: {by: smtp, at: 'env:A'}}", "from"),
        ("{ops: {by: pigeon, at: 'env:A'}}", "pigeon"),
        ("{ops: {by: smtp, at: 'env:A', from: \"a@b.c\\nBcc: x@y.z\", to: [a@b.c]}}", "an address such as"),
    ],
)
def test_wrong_settings_are_findings(home: Path, text: str, says: str) -> None:
    (home / "connect.yaml").write_text(f"alerts: {{to: {text}}}\n")
    ended = connect("alert", "test", project=home)
    assert (ended.code, says in ended.err, "hooks.slack.com" in ended.err) == (1, True, False)


def test_what_stands_is_listed_with_who_was_told_and_what_to_do(home: Path) -> None:
    assert connect("alert", "list", project=home).out == "no trouble stands\n"
    ledger = Ledger()
    for kind, told in [("lane-paused", {"ops": START, "log": START}), ("oldest", {})]:
        ledger.begin(Trouble(kind, "responsys", "client-abc", f"it is {kind}", START), START)
        ledger.entries[kind, "responsys", "client-abc"].told = dict(told)  # type: ignore[call-overload]
    store = SqliteStore(home / "connect.db")
    store.write_mark(MARK, ledger.written())
    store.close()
    lines = connect("alert", "list", project=home, TZ="UTC").out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["kind", "connector", "client", "severity", "since", "told"],
        ["lane-paused", "responsys", "client-abc", "error", "2026-01-28", "10:30:45+00:00", "ops"],
    ]
    assert lines[2:5:2] == ["  it is lane-paused", "  it is oldest"]
    assert "connect resume responsys client-abc" in " ".join(line.strip() for line in lines[5:])
    listed: list[dict[str, Any]] = connect("alert", "list", "--json", project=home).json["troubles"]
    assert [(each["kind"], each["since"], each["told"]) for each in listed] == [
        ("lane-paused", "2026-01-28T10:30:45Z", ["ops"]),
        ("oldest", "2026-01-28T10:30:45Z", []),
    ]


def delivered(home: Path) -> dict[str, int]:
    shown = connect("status", "--json", project=home).json["lanes"]
    return {lane["client"]: lane["delivered"] for lane in shown}


def test_the_walk_goes_on_while_a_webhook_hangs_slack_says_429_and_mail_is_down(home: Path, hook: Hook) -> None:
    busy = Hook()
    hook.gate.clear()
    busy.statuses, busy.headers = [429] * 9, {"retry-after": "60"}
    (home / "connect.yaml").write_text(
        "alerts: {to: {slack: {by: slack, at: 'env:SLACK'}, hangs: {by: webhook, at: 'env:HANGS'},"
        " mail: {by: smtp, at: 'env:SMTP', from: a@example.com, to: [b@example.com]}}}\n"
    )
    env = {**SECRETS, **PRIVATE, "SLACK": busy.url, "HANGS": hook.url, "SMTP": "smtp://127.0.0.1:1"}
    del env["ABC_RESPONSYS_PASSWORD"]
    with Running("sandbox", "--port", "0", project=home) as sandbox:
        via = sandbox.lines_until("export XYZ_WRITE_KEY")[1].removeprefix("export CONNECT_VIA=")
        with Running("serve", "--port", "0", "--via", via, project=home, **env) as serve:
            port = serve.lines_until("Tokens are")[0].partition("127.0.0.1:")[2].partition("/")[0]
            for name in ("responsys", "salesforce"):
                post(f"http://127.0.0.1:{port}/{name}", EVENTS[name], **{"X-Connect-Key": KEYS[name]})
            soon(lambda: busy.bodies)
            soon(lambda: delivered(home)["client-def"] == 1)
            began = time.monotonic()
            ended = serve.end()
            took_s = time.monotonic() - began
    busy.close()
    assert (ended.code, took_s < 20, hook.bodies, len(busy.bodies)) == (0, True, [], 1)
    faults = [json.loads(line) for line in ended.err.splitlines() if '"alerts"' in line]
    assert {(each["target"], each["error"]) for each in faults} >= {("127.0.0.1", "HTTP 429")}
    assert "s3cr3t" not in ended.err


# --- the page ---


def test_the_example_of_the_page_verifies_a_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    space: dict[str, Any] = {}
    exec(code, space)
    monkeypatch.setattr(space["time"], "time", lambda: START + 299)
    for secret in ("whsec_c2VjcmV0", "any other"):
        headers = signed(secret, "msg_1", int(START), b'{"a": 1}')
        assert space["is_ours"](headers, b'{"a": 1}', secret)
        assert not space["is_ours"](headers, b'{"a": 2}', secret)
        assert not space["is_ours"](headers, b'{"a": 1}', "whsec_b3RoZXI=")
        assert not space["is_ours"]({**headers, "webhook-id": "msg_2"}, b'{"a": 1}', secret)
    monkeypatch.setattr(space["time"], "time", lambda: START + 301)
    assert not space["is_ours"](headers, b'{"a": 1}', secret)


def test_the_table_of_the_page_is_the_one_of_the_engine() -> None:
    table = PAGE.partition("| kind | when |")[2].partition("\n\n")[0].splitlines()[2:]
    assert table == [
        f"| `{name}` | {kind.when} | {kind.severity} | {'yes' if kind.urgent else ''} | {kind.do} |"
        for name, kind in KINDS.items()
    ]


def test_the_kinds_of_the_schema_are_those_of_the_engine() -> None:
    schema = json.loads((ROOT / "schemas/project.schema.json").read_text(encoding="utf-8"))["$defs"]["alerts"]
    assert schema["properties"]["urgent"]["items"]["enum"] == sorted(KINDS, key=list(KINDS).index)
    assert {each for kinds in COVERED.values() for each in kinds} | COVERED.keys() <= KINDS.keys()
    told = " ".join(kind.do for kind in KINDS.values())
    for line in re.findall(r"`connect (.+?)`", told):
        words = line.replace("CONNECTOR", "x").replace("CLIENT", "x").split()
        asked = connect(*words[: 2 if words[0] in ("dead", "store", "alert") else 1], "--help", project=ROOT)
        assert asked.code == 0, line
        assert all(flag in asked.out for flag in words if flag.startswith("--")), line
