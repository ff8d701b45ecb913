from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import ROOT, Ended, connect, environment, make_project

from engine.authoring.differences import ABSENT, Change, changes
from engine.records import Accepted, Draft
from engine.stores.sqlite import SqliteStore

CRM = """\
connect: 1
name: crm
title: CRM
hosts: [api.crm.example]
settings: {properties: {tag: {type: string, default: web}}}
secrets: {token: {title: T}}
receive: {client: "${ event.shop }"}
auth: {type: bearer, token: "${ secrets.token }"}
http: {base_url: https://api.crm.example, retry: {attempts: 5}}
replies:
  outcomes:
    - {status: 409, then: delivered}
    - {status: 423, then: retry}
actions:
  add_note:
    record:
      email: ${ event.email }
      tag: ${ settings.tag }
      vip: {$if: "${ event.total > `1000` }", then: true}
    batch: {records: 50, wait: 5m}
    request: {path: /notes, json: {notes: "${ batch.records }"}}
examples:
  - name: a visit becomes a note
    events: [{shop: any, email: ana@example.com}]
    exchange: [{sends: {path: /notes}, answers: {status: 200}}]
    outcomes: {add_note: [delivered]}
"""
SHOP = "client: shop\nconnectors: {crm: {secrets: {token: 'env:NONE'}}}\n"
REQUEST = {"action": "add_note", "step": "request", "method": "POST", "url": "https://api.crm.example/notes"}


def version(folder: Path, text: str = CRM, clients: str | None = SHOP) -> Path:
    for part in ("connectors", "clients"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "connectors/crm.yaml").write_text(text)
    if clients is not None:
        (folder / "clients/shop.yaml").write_text(clients)
    return folder


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return version(tmp_path / "old"), version(tmp_path / "new")


def changed(folder: Path, was: str, is_: str, file: str = "connectors/crm.yaml") -> None:
    text = (folder / file).read_text()
    assert was in text
    (folder / file).write_text(text.replace(was, is_))


def plan(*args: str | Path, code: int = 0, project: Path = ROOT, stdin: str = "") -> Any:
    ended = connect("plan", *args, "--json", project=project, stdin=stdin)
    assert (ended.code, ended.err) == (code, "")
    return ended.json


# --- what is the same ---


def test_nothing_is_different_where_nothing_changed(sides: tuple[Path, Path]) -> None:
    told = {"nothing": True, "samples": 1, "differing": 0, "strangers": 0, "connectors": []}
    assert plan(*sides, "--exit-code") == told


def test_a_change_of_words_for_people_and_of_examples_sends_nothing_else(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "title: CRM", "title: The CRM\ndescription: Other words.")
    changed(sides[1], "a visit becomes a note", "a visit is noted")
    ended = connect("plan", "old", "new", "--exit-code", project=sides[0].parent)
    told = "nothing is sent differently between old and new: 1 sample walked\n"
    assert (ended.code, ended.out, ended.err) == (0, told, "")


def test_the_bundled_connectors_are_planned_alike_twice(tmp_path: Path) -> None:
    """The walk is repeatable: ids, times and waits are the same in both sides."""
    one, two = make_project(tmp_path / "one"), make_project(tmp_path / "two")
    found = plan(one, two, "--exit-code")
    assert (found["nothing"], found["samples"] > 15) == (True, True)


# --- what differs ---


def test_a_changed_field_is_shown_by_event_action_and_path(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "email: ${ event.email }", "email: ${ upper(event.email) }\n      source: web")
    changed(sides[1], "path: /notes, json", "path: /v2/notes, json")
    (crm,) = plan(*sides, "--exit-code", code=1)["connectors"]
    assert crm["samples"] == [
        {
            "sample": "a visit becomes a note",
            "requests": [
                {
                    "change": "changed",
                    **REQUEST,
                    "url": "https://api.crm.example/v2/notes",
                    "fields": [
                        {"path": "path", "change": "changed", "old": "/notes", "new": "/v2/notes"},
                        {
                            "path": "body.notes[0].email",
                            "change": "changed",
                            "old": "ana@example.com",
                            "new": "ANA@EXAMPLE.COM",
                        },
                        {"path": "body.notes[0].source", "change": "added", "new": "web"},
                    ],
                }
            ],
            "outcomes": [],
        }
    ]
    assert (crm["rules"], crm["unseen"]) == ([], [])


def test_a_change_of_the_mapping_that_no_sample_reaches_is_named(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "> `1000`", "> `500`")
    found = plan(*sides)
    (crm,) = found["connectors"]
    assert (found["differing"], crm["samples"], crm["rules"]) == (0, [], [])
    assert crm["unseen"] == [
        {
            "path": "actions.add_note.record.vip.$if",
            "change": "changed",
            "old": "${ event.total > `1000` }",
            "new": "${ event.total > `500` }",
        }
    ]


def test_an_event_that_a_person_gives_shows_it(sides: tuple[Path, Path], tmp_path: Path) -> None:
    changed(sides[1], "> `1000`", "> `500`")
    lines = [{"shop": "shop", "email": "a@b.example", "total": 700}, {"shop": "another", "email": "c@d.example"}]
    events = tmp_path / "events.jsonl"
    events.write_text("\n\n".join(map(json.dumps, lines)))
    found = plan(*sides, "--events", events)
    (crm,) = found["connectors"]
    (sample,) = crm["samples"]
    assert (sample["sample"], sample["client"], found["strangers"]) == ("line 1", "shop", 1)
    assert sample["requests"][0]["fields"] == [{"path": "body.notes[0].vip", "change": "added", "new": True}]
    assert crm["unseen"] == []


def test_an_event_over_several_lines_is_one_event(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "tag: ${ settings.tag }", "tag: ${ event.tag }")
    event = sides[0].parent / "event.json"
    event.write_text(json.dumps({"shop": "shop", "email": "ana@example.com", "tag": "x"}, indent=2))
    (crm,) = plan(*sides, "--events", event)["connectors"]
    assert [sample["sample"] for sample in crm["samples"]] == ["a visit becomes a note", "event 1"]


def test_a_change_at_the_end_of_a_long_word_is_seen(sides: tuple[Path, Path]) -> None:
    for side, end in zip(sides, ("", " | truncate(9)"), strict=True):
        changed(side, "${ event.email }", f'"{{{{ event.customer.contact.addresses.email{end} }}}}"')
        changed(side, ", email: ana@example.com", "")
    ended = connect("plan", *sides, project=sides[1], COLUMNS="80")
    assert '  …s.email }}" → …s.email | truncate(9) }}"\n' in ended.out


def test_rules_of_batches_limits_retry_and_outcomes_are_listed(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "attempts: 5", "attempts: 8")
    changed(sides[1], "wait: 5m", "wait: 15m")
    changed(
        sides[1],
        "    - {status: 423, then: retry}",
        "    - {status: 503, then: throttle}\n    - {status: 423, then: retry, wait: 5s}",
    )
    changed(sides[1], "    request: {path: /notes", "    limits: {calls: {rate: 10/1s}}\n    request: {path: /notes")
    (crm,) = plan(*sides)["connectors"]
    assert crm["rules"] == [
        {"path": "http.retry.attempts", "change": "changed", "old": 5, "new": 8},
        {"path": "replies.outcomes", "change": "removed", "old": {"status": 423, "then": "retry"}},
        {"path": "replies.outcomes", "change": "added", "new": {"status": 503, "then": "throttle"}},
        {"path": "replies.outcomes", "change": "added", "new": {"status": 423, "then": "retry", "wait": "5s"}},
        {"path": "actions.add_note.batch.wait", "change": "changed", "old": "5m", "new": "15m"},
        {
            "path": "actions.add_note.limits.calls",
            "change": "added",
            "new": {"rate": "10/1s"},
        },
    ]


def test_a_renamed_action_is_one_removed_and_one_added(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "add_note", "note")
    (crm,) = plan(*sides)["connectors"]
    (sample,) = crm["samples"]
    body = {"notes": [{"email": "ana@example.com", "tag": "web"}]}
    assert sample["requests"] == [
        {"change": "added", **REQUEST, "action": "note", "body": body},
        {"change": "removed", **REQUEST, "body": body},
    ]
    assert [(one["path"], one["change"]) for one in crm["rules"]] == [
        ("actions.note", "added"),
        ("actions.add_note", "removed"),
    ]


def test_what_becomes_of_an_event_is_compared_too(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "    batch:", '    require: [{that: "${ event.total }", reason: no total}]\n    batch:')
    (sample,) = plan(*sides)["connectors"][0]["samples"]
    assert [one["change"] for one in sample["requests"]] == ["removed"]
    assert sample["outcomes"] == [
        {"path": "add_note", "change": "changed", "old": "delivered", "new": "rejected: no total"}
    ]


def test_an_event_that_intake_refuses_in_one_of_them_says_so(sides: tuple[Path, Path]) -> None:
    changed(sides[1], '"${ event.shop }"}', '"${ event.shop }", schema: {required: [total]}}')
    (sample,) = plan(*sides)["connectors"][0]["samples"]
    assert [one["change"] for one in sample["requests"]] == ["removed"]
    (intake,) = sample["outcomes"]
    assert (intake["path"], intake["old"], intake["new"].startswith("refused: ")) == ("intake", "taken", True)


def test_a_changed_client_file_walks_the_examples_for_that_client(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "crm: {secrets", "crm: {settings: {tag: shop}, secrets", "clients/shop.yaml")
    (crm,) = plan(*sides)["connectors"]
    (sample,) = crm["samples"]
    assert (sample["sample"], sample["client"]) == ("a visit becomes a note", "shop")
    assert sample["requests"][0]["fields"] == [
        {"path": "body.notes[0].tag", "change": "changed", "old": "web", "new": "shop"}
    ]
    assert crm["rules"] == [{"path": "clients.shop.settings.tag", "change": "added", "new": "shop"}]


def test_a_connector_that_came_or_went_is_told_whole(sides: tuple[Path, Path]) -> None:
    (sides[0] / "connectors/crm.yaml").unlink()
    (sides[0] / "clients/shop.yaml").unlink()
    (crm,) = plan(*sides)["connectors"]
    assert (crm["connector"], crm["change"]) == ("crm", "added")
    assert [each["change"] for one in crm["samples"] for each in one["requests"]] == ["added", "added"]
    (crm,) = plan(*reversed(sides))["connectors"]
    assert (crm["connector"], crm["change"]) == ("crm", "removed")


def test_two_files_are_one_connector_whatever_they_are_called(sides: tuple[Path, Path]) -> None:
    old, new = (side / "connectors" / name for side, name in zip(sides, ("before.yaml", "after.yaml"), strict=True))
    old.write_text(CRM)
    new.write_text(CRM.replace("name: crm", "name: crm-new").replace("default: web", "default: mail"))
    (crm,) = plan(old, new)["connectors"]
    assert (crm["connector"], crm["change"]) == ("crm-new", "changed")
    (sample,) = crm["samples"]
    assert [one["path"] for one in sample["requests"][0]["fields"]] == ["body.notes[0].tag"]


# --- git ---


def git(folder: Path, *args: str) -> None:
    done = subprocess.run(
        ["git", "-c", "user.email=a@b.example", "-c", "user.name=a", *args],
        cwd=folder,
        capture_output=True,
        check=False,
        env=environment(HOME=str(folder)),
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A project below the root of a repository, as it is in many."""
    project = version(tmp_path / "repository" / "integrations" / "connect")
    git(tmp_path / "repository", "init", "-q")
    git(tmp_path / "repository", "add", "-A")
    git(tmp_path / "repository", "commit", "-qm", "first")
    return project


def test_without_sides_the_project_is_compared_with_git_s_head(repository: Path) -> None:
    assert plan(project=repository)["nothing"] is True
    changed(repository, "email: ${ event.email }", "mail: ${ event.email }")
    found = plan("--exit-code", project=repository, code=1)
    (sample,) = found["connectors"][0]["samples"]
    assert [(one["path"], one["change"]) for one in sample["requests"][0]["fields"]] == [
        ("body.notes[0].mail", "added"),
        ("body.notes[0].email", "removed"),
    ]
    git(repository, "commit", "-qam", "second")
    assert plan(project=repository)["nothing"] is True
    assert plan("--against", "HEAD~1", project=repository)["differing"] == 1


@pytest.mark.parametrize("name", ["no-such", "--output=x", "HEAD:connectors", "-x"])
def test_a_revision_that_is_none_is_wrong_use_and_no_option_of_git(repository: Path, name: str) -> None:
    ended = connect("plan", f"--against={name}", project=repository)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"connect: {name}: git knows no such revision in .\n"
    assert not (repository / "x").exists()


def test_outside_of_a_repository_the_two_sides_are_asked_for(sides: tuple[Path, Path]) -> None:
    ended = connect("plan", project=sides[0], GIT_CEILING_DIRECTORIES=str(sides[0].parent))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "connect: . is in no git repository; name two files or directories: connect plan OLD NEW\n"


def test_a_revision_that_can_t_be_used_is_told_by_its_name(repository: Path) -> None:
    changed(repository, "actions:", "acctions:")
    git(repository, "commit", "-qam", "broken")
    changed(repository, "acctions:", "actions:")
    ended = connect("plan", project=repository)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("connect: HEAD:connectors/crm.yaml:")


# --- stored events ---


@pytest.fixture
def stored(sides: tuple[Path, Path]) -> str:
    store = SqliteStore(f"{sides[1]}/connect.db")
    body = b'{"shop": "shop", "email": "zoe@private.example", "total": 700}'
    events = [Accepted("crm", "shop", f"e{n}", body, 1_769_596_245.0, (Draft("add_note"),)) for n in range(3)]
    store.put(events, now=1_769_596_245.0).result()
    store.close()
    return "sqlite:///connect.db"


def test_stored_events_are_samples_and_stay_as_they_are_and_their_values_unsaid(
    sides: tuple[Path, Path], stored: str
) -> None:
    changed(sides[1], "email: ${ event.email }", "email: ${ upper(event.email) }")
    before = (sides[1] / "connect.db").read_bytes()
    found = plan(*sides, "--from-store", stored, "2", "--project", sides[1])
    samples = found["connectors"][0]["samples"]
    assert [one["sample"] for one in samples] == ["a visit becomes a note", "stored event e0", "stored event e1"]
    (field,) = samples[1]["requests"][0]["fields"]
    assert field == {"path": "body.notes[0].email", "change": "changed", "old": "(text)", "new": "(text)"}
    assert "private.example" not in json.dumps(found).lower()
    shown = plan(*sides, "--from-store", stored, "2", "--values", "--project", sides[1])
    assert shown["connectors"][0]["samples"][1]["requests"][0]["fields"][0]["new"] == "ZOE@PRIVATE.EXAMPLE"
    assert (sides[1] / "connect.db").read_bytes() == before


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory:", "memory:: stored events are read from a store that lasts, such as sqlite:///connect.db"),
        ("sqlite:///none.db", "sqlite:///none.db: no such store; none.db is not in "),
    ],
)
def test_a_store_that_can_t_be_read_is_named(sides: tuple[Path, Path], url: str, says: str) -> None:
    ended = connect("plan", *sides, "--from-store", url, "1", project=sides[1])
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"connect: {says}")
    assert not (sides[1] / "none.db").exists()


# --- wrong use ---


def test_sides_of_different_versions_of_the_language_are_not_compared(sides: tuple[Path, Path]) -> None:
    changed(sides[0], "connect: 1", "connect: 2")
    for paths in (sides, [side / "connectors/crm.yaml" for side in sides]):
        ended = connect("plan", *paths, project=ROOT)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == (
            f"connect: {sides[0]}/connectors/crm.yaml is written in version 2 of the language, and this engine reads "
            "version 1; a plan needs both sides in that one: run it with an engine that reads both, or bring the file "
            "up first\n"
        )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("old",), "name both sides, connect plan OLD NEW, or none and --against a revision of git"),
        (("old", "new", "--against", "HEAD"), "name both sides, connect plan OLD NEW, or none and --against a revis"),
        (("old", "gone"), "gone: there is no such file or directory"),
        (("old", "new/connectors/crm.yaml"), "a plan compares two files, or two directories; here is one of each"),
        (("old", "new", "--connector", "cmr"), "no connector is called cmr; there are crm"),
        (("old", "new", "--events", "gone.jsonl"), "gone.jsonl: No such file or directory"),
        (("old", "new", "--events", "bad.jsonl"), "bad.jsonl:2: each line is one event, a JSON object"),
    ],
)
def test_wrong_use_of_plan_says_what_is_right(sides: tuple[Path, Path], args: tuple[str, ...], says: str) -> None:
    (sides[0].parent / "bad.jsonl").write_text("{}\n[1]\n")
    ended = connect("plan", *args, project=sides[0].parent)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"connect: {says}")


def test_a_side_that_can_t_be_used_is_told_with_its_findings(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "hosts:", "hots:")
    ended = connect("plan", *sides, project=ROOT)
    assert (ended.code, ended.out) == (1, "")
    assert f"{sides[1]}/connectors/crm.yaml:4:1: " in ended.err


# --- as people see it ---


@pytest.fixture
def told(sides: tuple[Path, Path]) -> tuple[Path, Path]:
    changed(sides[1], "email: ${ event.email }", "email: ${ upper(event.email) }\n      source: 'a ```, fence'")
    changed(sides[1], "attempts: 5", "attempts: 8")
    changed(sides[1], "> `1000`", "> `500`")
    second = sides[1] / "connectors/crm.yaml"
    visit = "  - name: a second visit\n    events: [{shop: any, email: bo@example.com}]\n"
    second.write_text(f"{second.read_text()}{visit}    outcomes: {{add_note: [delivered]}}\n")
    return sides


def out(ended: Ended) -> str:
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def test_the_text_fits_a_terminal_and_shows_once_what_differs_alike(told: tuple[Path, Path]) -> None:
    shown = out(connect("plan", "old", "new", project=told[0].parent))
    assert shown == (
        "crm\n"
        "  a visit becomes a note\n"
        "    ~ add_note: POST api.crm.example/notes\n"
        "      ~ body.notes[0].email  ana@example.com → ANA@EXAMPLE.COM\n"
        '      + body.notes[0].source  "a ```, fence"\n'
        "  a second visit\n"
        "    ~ add_note: POST api.crm.example/notes\n"
        "      ~ body.notes[0].email  bo@example.com → BO@EXAMPLE.COM\n"
        '      + body.notes[0].source  "a ```, fence"\n'
        "  rules\n"
        "    ~ http.retry.attempts  5 → 8\n"
        "\n"
        "2 of 2 samples differ between old and new; 1 rule changed\n"
    )
    changed(told[1], "email: ${ upper(event.email) }", "email: ${ event.email }")
    shown = out(connect("plan", "old", "new", project=told[0].parent))
    assert "a visit becomes a note (and 1 more)\n" in shown
    assert "a second visit" not in shown
    assert "a second visit\n" in out(connect("plan", "old", "new", "--all", project=told[0].parent))


def test_samples_differ_alike_whatever_the_places_and_the_number_of_their_records(sides: tuple[Path, Path]) -> None:
    changed(sides[1], "tag: ${ settings.tag }", "tag: other")
    second = sides[1] / "connectors/crm.yaml"
    visits = "[{shop: any, email: bo@example.com}, {shop: any, email: cy@example.com}]"
    example = f"  - name: two visits\n    events: {visits}\n    outcomes: {{add_note: [delivered, delivered]}}\n"
    second.write_text(f"{second.read_text()}{example}")
    shown = out(connect("plan", "old", "new", project=sides[0].parent))
    assert shown == (
        "crm\n"
        "  a visit becomes a note (and 1 more)\n"
        "    ~ add_note: POST api.crm.example/notes\n"
        "      ~ body.notes[0].tag  web → other\n"
        "\n"
        "2 of 2 samples differ between old and new\n"
    )


def test_markdown_is_a_comment_with_diffs_that_no_value_breaks(told: tuple[Path, Path]) -> None:
    shown = out(connect("plan", "old", "new", "--format", "markdown", project=told[0].parent))
    assert shown == (
        "### What this change sends\n"
        "\n"
        "2 of 2 samples differ between old and new; 1 rule changed.\n"
        "\n"
        "#### `crm`\n"
        "\n"
        "**a visit becomes a note**\n"
        "\n"
        "`add_note`, changed: `POST api.crm.example/notes`\n"
        "````diff\n"
        "- body.notes[0].email: ana@example.com\n"
        "+ body.notes[0].email: ANA@EXAMPLE.COM\n"
        '+ body.notes[0].source: "a ```, fence"\n'
        "````\n"
        "\n"
        "**a second visit**\n"
        "\n"
        "`add_note`, changed: `POST api.crm.example/notes`\n"
        "````diff\n"
        "- body.notes[0].email: bo@example.com\n"
        "+ body.notes[0].email: BO@EXAMPLE.COM\n"
        '+ body.notes[0].source: "a ```, fence"\n'
        "````\n"
        "\n"
        "**Rules**\n"
        "```diff\n"
        "- http.retry.attempts: 5\n"
        "+ http.retry.attempts: 8\n"
        "```\n"
    )


# --- differences ---


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, [Change("x.a", 1, True)]),
        ({"a": None}, {}, [Change("x.a", None, ABSENT)]),
        ({"a": [1, 2, 3]}, {"a": [2, 3]}, [Change("x.a[0]", 1, ABSENT)]),
        ([{"n": 1}, {"n": 2}], [{"n": 0}, {"n": 1}, {"n": 2}], [Change("x[0]", ABSENT, {"n": 0})]),
        ([{"n": 1, "m": 1}, {"n": 2}], [{"n": 1, "m": 2}, {"n": 2}], [Change("x[0].m", 1, 2)]),
        ([1], {"a": 1}, [Change("x", [1], {"a": 1})]),
        (msgspec.json.decode(b"1"), 1, []),
    ],
)
def test_two_values_differ_where_they_do(old: Any, new: Any, found: list[Change]) -> None:
    assert list(changes("x", old, new)) == found


def test_the_schemas_of_a_project_are_those_of_its_side(tmp_path: Path) -> None:
    one, two = make_project(tmp_path / "one"), make_project(tmp_path / "two")
    schema = two / "schemas/events/browsing.schema.json"
    data = json.loads(schema.read_text())
    schema.write_text(json.dumps({**data, "required": [*data.get("required", []), "storeId"]}))
    found = plan(one, two, "--connector", "rdstation")
    assert found["differing"] > 0
