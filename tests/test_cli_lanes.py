from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import EVENTS, connect, make_project

from engine.records import Accepted, Draft, Settled, Trace
from engine.runtime import BY_HAND, Engine
from engine.spec.project import Project
from engine.stores.sqlite import SqliteStore

TRACE = Trace(
    "POST", "https://api.rd.services/c?e=user%40example.com", 400, '{"email": "user@example.com"}', "no such a@b.io"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


@pytest.fixture
def store(home: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(home / "connect.db")
    yield store
    store.close()


def put(
    store: SqliteStore, connector: str, client: str, action: str, count: int = 1, now: float = 1_000.0
) -> list[int]:
    body = json.dumps(EVENTS.get(connector, {})).encode()
    events = [
        Accepted(connector, client, f"e{number}", body, now, (Draft(action, "user@example.com"),))
        for number in range(count)
    ]
    return [stored.deliveries[0].seq for stored in store.put(events, now=now).result()]


def bury(store: SqliteStore, connector: str, client: str, action: str, reasons: list[str]) -> None:
    seqs = put(store, connector, client, action, len(reasons))
    rows = [
        Settled(seq, "rejected", attempts=3, reason=reason, code="E1", trace=TRACE)
        for seq, reason in zip(seqs, reasons, strict=True)
    ]
    store.settle(None, rows, now=2_000.5)


# status, pause, resume


def test_a_project_that_has_taken_nothing_in_has_no_lanes_and_gets_no_store(home: Path) -> None:
    assert connect("status", project=home) == (0, "no event has come in yet\n", "")
    assert connect("status", "--json", project=home).json == {"lanes": []}
    assert connect("dead", "list", "--json", project=home).json == {"dead": []}
    assert not (home / "connect.db").exists()


def test_status_shows_each_lane_in_a_line_of_80_columns(home: Path, store: SqliteStore) -> None:
    put(store, "responsys", "client-abc", "trigger_event", 3, now=time.time() - 7_300)
    bury(store, "rdstation", "client-with-a-name-that-is-rather-long-for-a-table", "send_conversion", ["no"])
    connect("pause", "responsys", "client-abc", "--reason", "the vendor works on it " * 4, project=home)
    ended = connect("status", project=home)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines] == [
        ["connector", "client", "state", "waiting", "delivered", "rejected", "skipped", "oldest"],
        ["rdstation", lines[1].split()[1], "idle", "0", "0", "1", "0"],
        ["responsys", "client-abc", "paused", "3", "0", "0", "0", "2h"],
        lines[3].split(),
    ]
    assert lines[1].split()[1].endswith("…")
    assert lines[3].startswith("  paused by hand: the vendor works on it the vendor")
    assert lines[3].endswith("…")


def test_a_lane_that_was_paused_by_hand_goes_on_by_hand(home: Path, store: SqliteStore) -> None:
    put(store, "responsys", "client-abc", "trigger_event", 2)
    paused = connect("pause", "responsys", "client-abc", project=home)
    assert paused == (0, "responsys/client-abc is paused; 2 waiting\n", "")
    assert connect("status", "--json", project=home).json["lanes"][0]["reason"] == BY_HAND
    engine = Engine(Project(home), store)
    engine.mark_paused()
    file = home / "clients" / "client-abc.yaml"
    file.write_text(file.read_text() + "    # mended\n    limits: {mine: {rate: 5/1s}}\n")
    engine.reload()
    engine.mark_paused()
    lane = store.lane("responsys", "client-abc")
    assert lane is not None
    assert lane.state == "paused"
    assert connect("resume", "responsys", "client-abc", project=home) == (
        0,
        "responsys/client-abc goes on; 2 waiting\n",
        "",
    )
    assert store.due_lanes(now=time.time()) == [("responsys", "client-abc")]


def test_a_client_that_has_not_the_connector_cannot_be_paused(home: Path) -> None:
    assert connect("pause", "responsys", "client-xyz", project=home) == (
        2,
        "",
        "connect: client-xyz has no connector responsys\n",
    )
    assert connect("pause", "responsys", "client-abd", project=home).err == (
        'connect: no client is called client-abd; did you mean "client-abc"?\n'
    )


def test_what_waits_in_memory_cannot_be_seen_from_outside(home: Path) -> None:
    for command in (("status",), ("dead", "list"), ("resume", "responsys", "client-abc")):
        ended = connect(*command, "--store", "memory:", project=home)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == "connect: memory: is seen only by the process that serves; ask its admin side\n"


# validate, test


def test_validate_finds_nothing_in_what_is_bundled(home: Path) -> None:
    ended = connect("validate", project=home)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "no findings in 6 files\n"


def test_validate_says_what_is_wrong_in_every_format(home: Path) -> None:
    (home / "clients" / "client-xyz.yaml").write_text("client: client-xyz\nconectors: {}\n")
    plain = connect("validate", "clients", project=home)
    assert (plain.code, plain.err) == (1, "")
    assert plain.out.startswith("clients/client-xyz.yaml:2:1: ")
    (finding,) = connect("validate", "clients", "--format", "json", project=home).json["findings"]
    del finding["message"]
    assert finding == {
        "file": "clients/client-xyz.yaml",
        "line": 2,
        "column": 1,
        "rule": "unknown-key",
        "severity": "error",
        "hint": 'did you mean "connectors"?',
        "fix": finding["fix"],
    }
    assert "connectors" in str(finding["fix"])
    github = connect("validate", "clients", "--format", "github", project=home)
    assert github.out.startswith("::error file=clients/client-xyz.yaml,line=2,col=1,title=unknown-key::")
    sarif = connect("validate", "clients", "--format", "sarif", project=home)
    assert (sarif.code, len(sarif.json["runs"][0]["results"])) == (1, 1)


def test_validate_asks_for_secrets_only_when_told_to(home: Path) -> None:
    assert connect("validate", "clients/client-xyz.yaml", project=home).code == 0
    asked = connect("validate", "clients/client-xyz.yaml", "--resolve-secrets", project=home)
    assert asked.code == 1
    assert "XYZ_RDSTATION_TOKEN" in asked.out


def test_the_examples_of_one_connector_run_and_say_so_to_programs(home: Path) -> None:
    ended = connect("test", "rdstation", "-k", "a product view", "--json", project=home)
    assert (ended.code, ended.json) == (
        0,
        {
            "examples": [
                {"connector": "rdstation", "name": "a product view becomes a conversion", "passed": True, "message": ""}
            ]
        },
    )


def test_an_example_that_fails_shows_the_first_difference_and_its_place(home: Path) -> None:
    file = home / "connectors" / "rdstation.yaml"
    text = file.read_text()
    file.write_text(text.replace("cf_product_id: PROD-789", "cf_product_id: PROD-780", 1))
    line = text[: text.index("a product view becomes a conversion")].count("\n") + 1
    ended = connect("test", "rdstation", "-k", "a product view", project=home)
    assert ended == (
        1,
        f"connectors/rdstation.yaml:{line}:5: failed a product view becomes a conversion\n"
        '  exchange 1: json.payload.cf_product_id is "PROD-789", the example says\n  "PROD-780"\n'
        "0 passed, 1 failed\n",
        "",
    )


def test_a_connector_that_cannot_be_read_fails_with_its_findings(home: Path) -> None:
    (home / "connectors" / "rdstation.yaml").write_text("connect: 1\nname: rdstation\n")
    ended = connect("test", "rdstation", project=home)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("connect: connectors/rdstation.yaml:1:1: ")


def test_a_connector_that_can_not_be_compiled_is_told_once_with_its_place(home: Path) -> None:
    path = home / "connectors" / "rdstation.yaml"
    path.write_text(path.read_text().replace("email: ${ fields.email }\n", "email: ${ field.email }\n"))
    ended = connect("test", "rdstation", project=home)
    assert ended.code == 1
    assert ended.err.count("unknown name field") == 1
    assert re.search(r"^connect: connectors/rdstation\.yaml:\d+:\d+: ", ended.err, re.MULTILINE)
