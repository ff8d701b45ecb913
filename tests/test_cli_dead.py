"""`connect dead`: looked at, mended, tried again, given up, moved; `connect forget`; and the audit of all that."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import EVENTS, Running, connect, free_port, make_project, soon

from engine.records import Accepted, Draft, LaneChange, Settled, Trace
from engine.stores.sqlite import SqliteStore

EVENT = {**EVENTS["rdstation"], "name": "Ana Souza", "phone": "+5511999999999"}
TRACE = Trace(
    "POST",
    "https://api.rd.services/c?e=user%40example.com",
    400,
    '{"email": "user@example.com", "name": "Ana Souza"}',
    "no such Souza, 11 99999-9999, a@b.io",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


@pytest.fixture
def store(home: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(home / "connect.db")
    yield store
    store.close()


def bury(store: SqliteStore, lane: str, event: Any, *reasons: str) -> None:
    connector, client, action = lane.split("/")
    body = json.dumps(event).encode()
    for number, reason in enumerate(reasons):
        accepted = Accepted(connector, client, f"e{number}", body, 1_000.0, (Draft(action, "user@example.com"),))
        (stored,) = store.put([accepted], now=1_000.0).result()
        seq = stored.deliveries[0].seq
        store.settle(None, [Settled(seq, "later", due_at=1.0, reason="HTTP 503")], now=1_500.0)
        ended = Settled(seq, "rejected", attempts=3, reason=reason, code="E1", trace=TRACE)
        store.settle(None, [ended], now=2_000.5 + number)


@pytest.fixture
def buried(store: SqliteStore) -> SqliteStore:
    bury(store, "rdstation/client-xyz/send_conversion", EVENT, "HTTP 400: no user@example.com", "HTTP 422: other")
    bury(store, "responsys/client-abc/trigger_event", EVENTS["responsys"], "HTTP 400: list")
    return store


def audited(home: Path) -> list[dict[str, Any]]:
    """The lines of the audit, without what differs from run to run."""
    lines = [json.loads(line) for line in (home / "connect.audit.log").read_text().splitlines()]
    for line in lines:
        assert (line.pop("level"), line.pop("event"), bool(line.pop("who"))) == ("info", "audit", True)
        del line["at"]
    return lines


# looking


def test_dead_letters_are_listed_for_programs_and_for_people(home: Path, buried: SqliteStore) -> None:
    del buried
    assert connect("dead", "list", "--connector", "responsys", "--json", project=home).json == {
        "dead": [
            {
                "id": 3,
                "connector": "responsys",
                "client": "client-abc",
                "action": "trigger_event",
                "reason": "HTTP 400: list",
                "attempts": 3,
                "at": 2000.5,
            }
        ]
    }
    ended = connect("dead", "list", "--reason", "HTTP 400", project=home, TZ="UTC")
    assert ended == (
        0,
        "id  connector  client      action           tries  at\n"
        " 1  rdstation  client-xyz  send_conversion      3  1970-01-01 00:33\n"
        "  HTTP 400: no u***@example.com\n"
        " 3  responsys  client-abc  trigger_event        3  1970-01-01 00:33\n"
        "  HTTP 400: list\n",
        "",
    )
    more = connect("dead", "list", "--limit", "1", project=home)
    assert more.err == "there are more than 1; see --limit, or go on with --after 1\n"
    page = connect("dead", "list", "--limit", "1", "--after", "1", "--json", project=home).json
    assert ([each["id"] for each in page["dead"]], page["next"]) == ([2], 2)


def test_they_are_found_by_all_that_they_have_and_counted_by_what_they_share(home: Path, buried: SqliteStore) -> None:
    def ids(*options: str) -> list[int]:
        return [each["id"] for each in connect("dead", "list", "--json", *options, project=home).json["dead"]]

    del buried
    assert ids("--action", "trigger_event", "--key", "user@example.com", "--code", "E1") == [3]
    assert ids("--since", "1970-01-01T00:33:21Z") == [2]
    assert ids("--until", "1970-01-01T00:33:21Z", "--client", "client-xyz") == [1]
    assert ids("--since", "1d") == []
    counted = connect("dead", "list", "--by", "connector", project=home)
    assert counted == (0, "count  connector\n    2  rdstation\n    1  responsys\n", "")
    reasons = connect("dead", "list", "--by", "reason", "--client", "client-xyz", "--json", project=home).json
    assert reasons == {
        "counts": [{"reason": "HTTP 400: no u***@example.com", "count": 1}, {"reason": "HTTP 422: other", "count": 1}]
    }
    wrong = connect("dead", "list", "--since", "yesterday", project=home)
    assert (wrong.code, "write it as 2026-01-28, 2026-01-28T10:30 or 3d (ago)" in wrong.err) == (2, True)


def test_a_dead_letter_is_shown_whole_with_what_is_personal_masked(home: Path, buried: SqliteStore) -> None:
    del buried
    ended = connect("dead", "show", "1", project=home, TZ="UTC")
    assert ended == (
        0,
        "dead letter 1: rdstation/client-xyz, send_conversion\n"
        "reason:   HTTP 400: no u***@example.com [E1]\n"
        "tries:    3\n"
        "          1970-01-01 00:25  HTTP 503\n"
        "received: 1970-01-01 00:16:40+00:00\n"
        "rejected: 1970-01-01 00:33:20+00:00\n"
        "event:    e0\n"
        "{\n"
        '  "email": "u***@example.com",\n'
        '  "eventType": "product_view",\n'
        '  "product": {\n'
        '    "id": "PROD-1",\n'
        '    "name": "Café & Cia",\n'
        '    "price": 1299.9,\n'
        '    "url": "https://example.com/p"\n'
        "  },\n"
        '  "timestamp": "2026-01-28T10:30:45.123Z",\n'
        '  "tid": "GA4.123456789.987654321",\n'
        '  "name": "***",\n'
        '  "phone": "***"\n'
        "}\n"
        "\n"
        "request:  POST https://api.rd.services/c?e=u***%40example.com\n"
        '{"email": "u***@example.com", "name": "***"}\n'
        "\n"
        "reply:    HTTP 400\n"
        "no such ***, ***, a***@b.io\n"
        "\n"
        "next:     mend what the reason names, in the CRM or in the client's file\n"
        "          connect dead edit 1     to mend the event\n"
        "          connect dead preview 1  to see what would be sent\n"
        "          connect dead retry 1    to try it again\n"
        "          connect dead discard 1  to give it up\n",
        "",
    )
    revealed = connect("dead", "show", "1", "--reveal", "--json", project=home).json
    assert (revealed["event"], revealed["request"]["body"]) == (EVENT, TRACE.request)
    shown = connect("dead", "show", "1", "--json", project=home).json
    assert (shown["event"]["name"], shown["reply"], shown["history"]) == (
        "***",
        {"status": 400, "body": "no such ***, ***, a***@b.io"},
        [{"at": 1500.0, "until": 1500.0, "reason": "HTTP 503", "times": 1}],
    )
    lane = {"connector": "rdstation", "client": "client-xyz"}
    assert audited(home) == [
        {"what": "dead show", "id": 1, **lane},
        {"what": "dead reveal", "id": 1, **lane},
        {"what": "dead show", "id": 1, **lane},
    ]


def test_of_a_connector_that_is_gone_all_is_masked(home: Path, buried: SqliteStore) -> None:
    del buried
    (home / "connectors" / "rdstation.yaml").write_text("connect: 1\n")
    shown = connect("dead", "show", "1", "--json", project=home).json
    assert shown["event"]["product"] == {"id": "***", "name": "***", "price": "***", "url": "***"}


# mending


def test_a_mended_event_is_what_is_sent(home: Path, buried: SqliteStore) -> None:
    before = connect("dead", "preview", "1", "--json", project=home).json
    assert [one["action"] for one in before["requests"]] == ["send_conversion"]
    assert "PROD-1" in json.dumps(before)
    assert "user@example.com" not in json.dumps(before)
    assert "Souza" not in json.dumps(before)
    edited = connect(
        *("dead", "edit", "1", "--set", "product.id=NEW-7", "--set", "product.price=0.10", "--unset", "name"),
        project=home,
    )
    says = "dead letter 1: changed product.id, product.price, name; see `connect dead preview 1`\n"
    assert edited == (0, says, "")
    after = connect("dead", "preview", "1", "--reveal", "--json", project=home).json
    assert ("NEW-7" in json.dumps(after), "user@example.com" in json.dumps(after)) == (True, True)
    dead = buried.dead_letter(1)
    assert dead is not None
    assert b'"price":0.10' in dead.body
    assert connect("dead", "retry", "1", project=home).out == "1 back to be delivered\n"
    lease = buried.lease("rdstation", "client-xyz", owner="w", ttl_s=60, now=3e9)
    assert lease is not None
    assert [each.body for each in buried.read(lease, "send_conversion", limit=9, now=3e9)] == [dead.body]
    assert audited(home)[1] == {
        "what": "dead edit",
        "id": 1,
        "connector": "rdstation",
        "client": "client-xyz",
        "fields": ["product.id", "product.price", "name"],
    }


def test_an_event_is_mended_in_an_editor_or_from_a_file(home: Path, buried: SqliteStore) -> None:
    editor = home / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/PROD-1/EDITED/ "$1"\n')
    editor.chmod(0o755)
    ended = connect("dead", "edit", "1", project=home, EDITOR=str(editor), TMPDIR=str(home))
    assert ended.out == "dead letter 1: changed product.id; see `connect dead preview 1`\n"
    assert connect("dead", "edit", "1", project=home, EDITOR="true", TMPDIR=str(home)).out == "nothing is changed\n"
    whole = json.dumps({**EVENTS["rdstation"], "eventType": "from_a_file"})
    ended = connect("dead", "edit", "1", "--event", "-", project=home, stdin=whole)
    assert ended.out.startswith("dead letter 1: changed eventType, product.id, name, phone;")
    dead = buried.dead_letter(1)
    assert dead is not None
    assert json.loads(dead.body) == json.loads(whole)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--set", "email=nobody"], 1, "the event does not fit its schema; email: "),
        (["--set", "product=3"], 1, "the event does not fit its schema; product: "),
        (["--unset", "email"], 1, "the event does not fit its schema; email: missing"),
        (["--set", "tid=GA4.000"], 1, ""),
        (["--set", "product.id"], 2, "--set product.id: write it as product.price=12.50"),
        (["--set", "a[[0]=1"], 2, "'a[[0]' is no path in an event; write it as product.price or items[0].id"),
        (["--set", "email.x=1"], 2, "x has no place: there is no object around it"),
        (["--set", "items[0]=1"], 2, "there is no item 0"),
        (["--set", "a=1", "--event", "-"], 2, "--event, or --set and --unset, not both"),
    ],
)
def test_an_event_that_intake_would_not_take_is_not_kept(
    home: Path, buried: SqliteStore, args: list[str], code: int, says: str
) -> None:
    before = buried.dead()
    ended = connect("dead", "edit", "1", *args, project=home)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(f"connect: {says}")
    assert buried.dead() == before


# trying again, giving up


def test_dead_letters_go_back_or_for_good_by_id_or_by_what_they_have_in_common(home: Path, buried: SqliteStore) -> None:
    assert connect("dead", "retry", "1", project=home) == (0, "1 back to be delivered\n", "")
    discarded = connect(
        *("dead", "discard", "--all", "--connector", "responsys", "--yes", "--why", "a test"), project=home
    )
    assert discarded == (0, "1 discarded\n", "")
    again = connect("dead", "discard", "2", "3", "--why", "x", project=home)
    assert again == (1, "1 discarded\n", "1 of them are not there (any more)\n")
    told = connect("dead", "retry", "7", "--json", project=home)
    assert (told.code, told.json) == (1, {"retried": 0, "missing": 1})
    assert buried.dead() == []
    (rdstation, responsys) = buried.lanes()
    assert (rdstation.waiting, rdstation.rejected, responsys.waiting, responsys.rejected) == (1, 1, 0, 1)
    assert audited(home) == [
        {"what": "dead retry", "count": 1, "ids": [1]},
        {"what": "dead discard", "count": 1, "ids": [3], "connector": "responsys", "why": "a test"},
        {"what": "dead discard", "count": 1, "ids": [2], "why": "x"},
        {"what": "dead retry", "count": 0, "ids": []},
    ]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["retry"], "connect: name the ids to retry, or say --all\n"),
        (["retry", "1", "--all"], "connect: ids or --all, not both\n"),
        (["discard", "1", "--client", "client-abc", "--why", "x"], "connect: --client goes with --all\n"),
        (["discard", "--all", "--why", "x"], "connect: 3 fit; say --yes, for nobody is here to be asked\n"),
        (["show", "9"], "connect: no dead letter has the id 9; see `connect dead list`\n"),
        (["preview", "9"], "connect: no dead letter has the id 9; see `connect dead list`\n"),
    ],
)
def test_nothing_is_retried_or_discarded_by_a_slip(home: Path, buried: SqliteStore, args: list[str], says: str) -> None:
    assert connect("dead", *args, project=home) == (2, "", says)
    assert len(buried.dead()) == 3
    assert connect("dead", "discard", "1", project=home).code == 2  # without a reason


def test_whoever_waits_hears_what_became_of_them(home: Path, buried: SqliteStore) -> None:
    buried.change_lane("responsys", "client-abc", LaneChange(pause=True, reason="mended soon"), now=1.0)
    waits = connect("dead", "retry", "3", "--wait", "--timeout", "1", project=home)
    says = "responsys/client-abc is paused: mended soon; they wait until it goes on\n"
    assert waits == (1, "1 back to be delivered\n1 waiting\n", says)
    port = free_port()
    with Running("sandbox", "--port", str(port), project=home) as sandbox:
        sandbox.line()
        env = {"XYZ_RDSTATION_TOKEN": "sandbox-rd-public-token", "CONNECT_VIA": f"http://127.0.0.1:{port}"}
        with Running("deliver", "--watch", project=home, **env):
            ended = connect("dead", "retry", "1", "2", "--wait", "--json", project=home)
    assert (ended.code, ended.json) == (0, {"retried": 2, "missing": 0, "done": 2, "rejected": 0, "waiting": 0})


# as a file


def test_dead_letters_move_to_another_store_and_are_taken_in_once(home: Path, buried: SqliteStore) -> None:
    out = home / "dead.ndjson"
    said = "2 written to dead.ndjson, with all that is personal in them\n"
    export = ("dead", "export", "--connector", "rdstation", "--out", "dead.ndjson")
    assert connect(*export, project=home) == (0, "", said)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    again = connect(*export, project=home)
    assert (again.code, again.err) == (2, "connect: dead.ndjson is there already; name a new file\n")
    assert connect("dead", "import", "dead.ndjson", project=home).out == "0 imported, 2 here already, 0 refused\n"
    elsewhere = ("dead", "import", "dead.ndjson", "--store", "sqlite:///other.db")
    assert connect(*elsewhere, project=home).out == "2 imported, 0 here already, 0 refused\n"
    assert connect(*elsewhere, project=home).out == "0 imported, 2 here already, 0 refused\n"
    other = SqliteStore(home / "other.db")
    assert [dead.body for dead in other.dead()] == [
        json.dumps(EVENT, separators=(",", ":"), ensure_ascii=False).encode()
    ] * 2
    assert [(dead.trace, dead.tries, dead.at, dead.delivery_id) for dead in other.dead()] == [
        (dead.trace, dead.tries, dead.at, dead.delivery_id) for dead in buried.dead(connector="rdstation")
    ]
    other.close()


def test_a_line_that_can_not_be_taken_in_is_named_with_its_reason_and_the_others_are(
    home: Path, buried: SqliteStore
) -> None:
    connect("dead", "export", "--out", "dead.ndjson", project=home)
    first, second, third = map(json.loads, (home / "dead.ndjson").read_text().splitlines())
    lines = [
        {**first, "delivery_id": "new-1"},
        {**first, "event": {**first["event"], "email": "Ana Souza"}},
        {**first, "client": "client-xyy"},
        {**second, "action": "gone"},
        {**third, "connect": "dead/9"},
        {**third, "more": 1},
        {**third, "client": "client-xyz"},
        {**third, "delivery_id": ""},
    ]
    text = "\n".join([*map(json.dumps, lines), "{", ""])
    (home / "changed.ndjson").write_text(text)
    ended = connect("dead", "import", "changed.ndjson", "--json", project=home)
    assert (ended.code, ended.json["imported"], ended.json["here"]) == (1, 1, 0)
    whys = {each["line"]: each["why"] for each in ended.json["refused"]}
    assert list(whys) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert whys[2].startswith("the event does not fit its schema; email: ")
    assert "Souza" not in whys[2]
    assert whys[3] == 'no client is called client-xyy; did you mean "client-xyz"?'
    assert whys[4] == "rdstation has no action gone any more"
    assert whys[5] == "it is of the format 'dead/9'; this engine reads 'dead/1'"
    assert whys[7] == "client-xyz has no connector responsys; it has rdstation"
    assert whys[8] == "delivery_id and event_id can't be empty"
    assert len(buried.dead()) == 4
    shown = connect("dead", "import", "changed.ndjson", project=home)
    assert shown.out == "0 imported, 1 here already, 8 refused\n"
    assert shown.err.splitlines()[1] == f"changed.ndjson:3: {whys[3]}"


# people


def test_a_person_is_forgotten_and_it_is_said_what_was_found(home: Path, buried: SqliteStore) -> None:
    put = Accepted("rdstation", "client-xyz", "w1", json.dumps(EVENT).encode(), 1.0, (Draft("send_conversion"),), 1e12)
    buried.put([put], now=1.0).result()
    would = connect("forget", "USER@example.com", "--dry-run", project=home)
    found = (
        "     1  deliveries that waited (they count as skipped)\n"
        "     3  dead letters (they stay counted as rejected)\n"
        "     1  remembered ids\n"
    )
    assert would == (0, f"would be erased:\n{found}", "")
    assert len(buried.dead()) == 3
    told = connect("forget", "--client", "client-abc", "--json", "user@example.com", project=home).json
    counts = {"waiting": 0, "dead": 1, "dedupe": 0, "progress": 0, "traces": 0, "limits": 0, "mentioned": 0}
    assert told == {**counts, "under_way": [], "scrubbed": True}
    assert connect("forget", " User@Example.com", project=home).out.startswith("erased:\n     1  deliveries")
    assert connect("forget", "user@example.com", project=home).out == "nothing of them is in the store\n"
    assert buried.dead() == []
    files = [file for file in home.glob("connect.db*") if b"user@example.com" in file.read_bytes()]
    assert files == []
    lines = audited(home)
    assert lines[0] == {"what": "forget", "person": "U***@example.com", "dry_run": True}
    assert "user@" not in (home / "connect.audit.log").read_text().lower()


def test_a_key_is_forgotten_by_the_key_alone(home: Path, buried: SqliteStore) -> None:
    told = connect("forget", "--key", "user@example.com", "--json", project=home).json
    assert (told["dead"], told["mentioned"]) == (3, 0)
    assert buried.dead() == []
    assert connect("forget", project=home).err == "connect: name the person by an address or by --key\n"
    assert connect("forget", "a", project=home).err == "connect: that is too short for a person\n"


def test_a_process_that_delivers_removes_what_is_old(home: Path, buried: SqliteStore) -> None:
    (home / "connect.yaml").write_text("dead: {keep: 90d}\n")
    env = {"XYZ_RDSTATION_TOKEN": "t", "ABC_RESPONSYS_USERNAME": "u", "ABC_RESPONSYS_PASSWORD": "p"}
    with Running("deliver", "--watch", project=home, **env) as running:
        soon(lambda: buried.dead() == [])
        ended = running.end()
    (line,) = [json.loads(line) for line in ended.err.splitlines() if "dead-letters-expired" in line]
    assert (line["event"], line["count"], sum(lane.rejected for lane in buried.lanes())) == (
        "dead-letters-expired",
        3,
        3,
    )


# the audit


def test_what_can_not_be_written_down_is_not_done(home: Path, buried: SqliteStore) -> None:
    (home / "connect.audit.log").mkdir()
    ended = connect("dead", "discard", "1", "--why", "x", project=home)
    assert (ended.code, ended.out) == (3, "")
    assert "the audit can't be written, so nothing was done (Is a directory)" in ended.err
    assert len(buried.dead()) == 3
    spoken = connect("dead", "show", "1", "--json", project=home, CONNECT_AUDIT="-")
    assert (spoken.code, json.loads(spoken.err)["what"]) == (0, "dead show")
    elsewhere = home / "elsewhere.log"
    connect("dead", "list", "--key", "user@example.com", project=home, CONNECT_AUDIT=str(elsewhere))
    line = json.loads(elsewhere.read_text())
    assert (line["what"], line["key"], stat.S_IMODE(elsewhere.stat().st_mode)) == (
        "dead list",
        "u***@example.com",
        0o600,
    )


def test_whoever_holds_or_frees_a_lane_is_written_down(home: Path, buried: SqliteStore) -> None:
    del buried
    connect("pause", "responsys", "client-abc", "--reason", "their CRM is rebuilt", project=home)
    connect("resume", "responsys", "client-abc", project=home)
    lane = {"connector": "responsys", "client": "client-abc"}
    assert audited(home) == [
        {"what": "pause", **lane, "why": "their CRM is rebuilt"},
        {"what": "resume", **lane},
    ]


def test_what_a_terminal_would_obey_is_printed_as_what_it_is(home: Path, store: SqliteStore) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e no"
    trace = Trace("POST", "https://api.rd.services/c", 400, hostile, hostile)
    event = Accepted("rdstation", "client-xyz", hostile, b"{}", 1_000.0, (Draft("send_conversion"),))
    (stored,) = store.put([event], now=1_000.0).result()
    ended = Settled(stored.deliveries[0].seq, "rejected", attempts=1, reason=hostile, code=hostile, trace=trace)
    store.settle(None, [ended], now=1_001.0)
    shown = "\\u001b]0;owned\\u0007\\u001b[2J\\u202e no"
    for command, times in ((("dead", "show", "1"), 4), (("dead", "list"), 1), (("event", hostile), 1)):
        done = connect(*command, project=home)
        assert (done.out.count(shown), "\x1b" in done.out, "\u202e" in done.out) == (times, False, False), done.out
