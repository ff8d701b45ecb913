from __future__ import annotations

import random
import time
from decimal import Decimal
from pathlib import Path

import pytest

from engine.errors import SpecErrors
from engine.spec import types
from engine.spec.findings import Finding, errors_in
from engine.spec.load import load_client, load_connector, load_schema_ref
from engine.spec.located import read, read_file
from engine.spec.violations import bundled

SPEC = Path(__file__).parent / "spec"
GOOD = sorted((SPEC / "good").glob("*.yaml"))
BAD = sorted((SPEC / "bad").glob("*.yaml"))
OURS = [*sorted(bundled("connectors").glob("*.yaml")), *sorted(bundled("clients").glob("*.yaml"))]

HEAD = "connect: 1\nname: a\ntitle: A\nhosts: [api.example.com]\n"
ACTIONS = "actions: {a: {request: {path: /a}}}\n"


def is_client(path: Path) -> bool:
    return path.name.startswith("client-")


def findings_of(path: Path) -> list[Finding]:
    try:
        located = read_file(path, path.name)
    except SpecErrors as error:
        return list(error.findings)
    return (load_client(located) if is_client(path) else load_connector(located))[1]


def loaded(text: str) -> types.Connector:
    connector, findings, _ = load_connector(read(text, "f"))
    assert findings == []
    assert connector is not None
    return connector


@pytest.mark.parametrize("path", [*GOOD, *OURS], ids=lambda path: path.stem)
def test_a_good_file_loads_without_a_finding(path: Path) -> None:
    assert findings_of(path) == []


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_yields_exactly_the_findings_it_ends_with(path: Path) -> None:
    expected = [line.removeprefix("# expect: ") for line in path.read_text().splitlines() if line.startswith("# exp")]
    assert expected
    assert [str(finding).removeprefix(f"{path.name}:") for finding in findings_of(path)] == expected


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_never_becomes_a_value(path: Path) -> None:
    try:
        located = read_file(path)
    except SpecErrors:
        return
    assert (load_client(located) if is_client(path) else load_connector(located))[0] is None


def test_no_finding_repeats_a_literal_secret() -> None:
    text = "client: c\nconnectors: {x: {secrets: {a: hunter2, b: 4711, c: 0815, d: {e: hunter3}}}}\n"
    said = " ".join(str(finding) for finding in load_client(read(text, "f"))[1])
    assert said.count("[secret-literal]") == 4
    assert not any(secret in said for secret in ("hunter", "4711", "0815"))


def test_a_request_beside_the_actions_keys_is_the_step_named_request() -> None:
    action = loaded(
        HEAD
        + """
actions:
  a:
    when: ${ event.x }
    request: {path: /a, json: "${ batch.records }"}
    save: {id: "${ response.body.id }"}
    results: {at: "${ response.body }"}
    repeat: never
    replies: {code: "${ response.body.code }"}
"""
    ).actions["a"]
    assert action == types.Action(
        when="${ event.x }",
        replies=types.Replies(code="${ response.body.code }"),
        steps={
            "request": types.Step(
                request=types.Request(path="/a", json="${ batch.records }"),
                save={"id": "${ response.body.id }"},
                results=[types.Results(at="${ response.body }")],
                repeat="never",
            )
        },
    )


def test_defaults_are_filled_in_and_numbers_stay_exact() -> None:
    connector = loaded(HEAD + "http: {retry: {factor: 1.10}}\n" + ACTIONS)
    assert connector.http.retry == types.Retry(factor=Decimal("1.10"))
    assert connector.receive == types.Receive(mode="buffered", dedupe="0s")
    assert connector.auth == types.Auth()


def test_keys_that_are_words_of_python_have_their_own_name() -> None:
    text = HEAD + "replies: {outcomes: [{then: retry, attempts: 1, else: pause, from: start}]}\n" + ACTIONS
    assert loaded(text).replies.outcomes == [
        types.OutcomeRule(then="retry", attempts=1, else_="pause", from_="start"),
    ]


def test_the_places_follow_the_paths_of_the_types() -> None:
    _, _, located = load_connector(read(HEAD + ACTIONS, "f"))
    path = ("actions", "a", "steps", "request", "request", "path")
    assert located.mark(path) == (5, 31)
    assert located.key_mark(path) == (5, 25)


def test_findings_of_yaml_and_of_the_schema_come_together() -> None:
    connector, findings, _ = load_connector(read(HEAD + "titel: yes\n" + ACTIONS, "f"))
    assert connector is None
    assert [finding.rule for finding in findings] == ["unknown-key", "unquoted"]


def test_a_client_may_only_change_what_is_its_own() -> None:
    text = """
client: client-abc
title: Loja ABC
ingest: {keys: ["env:ABC_KEY"], origins: ["https://www.shop.example"]}
connectors:
  crm:
    match: GA4.1
    settings: {domain: shop.example.com, size: 1.50}
    secrets: {token: "env:ABC_TOKEN"}
    tables: {activity: {view: Viewed}}
    limits: {calls: {rate: 10/1s}}
    actions: {note: {active: true, batch: {records: 5}, record: {Old: {$remove: true}}}}
"""
    client, findings, _ = load_client(read(text, "f"))
    assert findings == []
    assert client == types.Client(
        client="client-abc",
        title="Loja ABC",
        ingest=types.Ingest(keys=["env:ABC_KEY"], origins=["https://www.shop.example"]),
        connectors={
            "crm": types.Binding(
                match="GA4.1",
                settings={"domain": "shop.example.com", "size": Decimal("1.50")},
                secrets={"token": "env:ABC_TOKEN"},
                tables={"activity": {"view": "Viewed"}},
                limits={"calls": types.Limit(rate="10/1s")},
                actions={"note": {"active": True, "batch": {"records": 5}, "record": {"Old": {"$remove": True}}}},
            )
        },
    )


def test_what_only_an_expansion_makes_is_checked_too() -> None:
    text = HEAD + (
        "actions:\n"
        "  a: {request: {$use: r, except: [path]}}\n"
        "  b: {request: {$use: r, form: {}}}\n"
        "  c: {steps: {s: {$use: s, except: [request]}}}\n"
        "definitions: {requests: {r: {path: /a, json: {}}}, steps: {s: {request: {path: /a}}}}\n"
    )
    connector, findings, _ = load_connector(read(text, "f"))
    assert connector is None
    assert [str(finding) for finding in findings] == [
        "f:6:7: actions.a.steps.request.request: needs path (below the base URL) or url [missing-key]",
        "f:7:26: actions.b.steps.request.request.form: a request has one body: json, form, csv, ndjson, multipart or "
        "text [value]",
        'f:8:15: actions.c.steps.s: needs "request" [missing-key]',
    ]


def test_a_whole_number_is_written_as_one() -> None:
    _, findings, _ = load_connector(read(HEAD + "http: {retry: {attempts: 5.0}}\n" + ACTIONS, "f"))
    assert [str(finding) for finding in findings] == [
        "f:5:26: http.retry.attempts: must be a whole number, written without a point [shape]"
    ]


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_to_a_file_is_more_than_findings(seed: int) -> None:
    chance = random.Random(seed)
    tokens = [
        "{",
        "}",
        "[",
        "${",
        "{{",
        "}}",
        ": ",
        "\n",
        "\t",
        "&a ",
        "*a",
        "!x ",
        "'",
        '"',
        " #",
        "$use: x",
        "|",
        "? ",
    ]
    for _ in range(5):
        text = chance.choice([*GOOD, *BAD, *OURS]).read_text()
        for _ in range(chance.randint(1, 5)):
            at = chance.randrange(len(text))
            text = text[:at] + chance.choice(tokens) + text[at + chance.randint(0, 20) :]
        try:
            located = read(text, "f")
        except SpecErrors:
            continue
        for value, findings, _ in (load_connector(located), load_client(located)):
            assert value is not None or errors_in(findings), text


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "p" / "connectors").mkdir(parents=True)
    (tmp_path / "p" / "schemas").mkdir()
    (tmp_path / "p" / "schemas" / "own.json").write_text('{"required": ["a"]}')
    (tmp_path / "p" / "schemas" / "broken.json").write_text('{\n "a" 1}')
    (tmp_path / "p" / "schemas" / "elsewhere.json").write_text('{"$ref": "https://example.com/x.json"}')
    (tmp_path / "p" / "schemas" / "wrong.json").write_text('{"type": "thing"}')
    (tmp_path / "p" / "schemas" / "list.json").write_text("[]")
    (tmp_path / "outside.json").write_text("{}")
    (tmp_path / "p" / "schemas" / "link.json").symlink_to(tmp_path / "outside.json")
    return tmp_path / "p"


def referred(project: Path, reference: str) -> tuple[object, list[str]]:
    text = HEAD + f"receive: {{schema: {{$ref: {reference}}}}}\n" + ACTIONS
    path = project / "connectors" / "a.yaml"
    path.write_text(text)
    connector, findings, located = load_connector(read_file(path))
    assert findings == []
    assert connector is not None
    schema, faults = load_schema_ref(located, connector, root=project)
    return schema, [str(fault).removeprefix(f"{path}:") for fault in faults]


def test_an_event_schema_is_the_projects_own_or_comes_with_the_engine(project: Path) -> None:
    assert referred(project, "../schemas/own.json") == ({"required": ["a"]}, [])
    schema, faults = referred(project, "../schemas/events/browsing.schema.json")
    assert isinstance(schema, dict)
    assert (schema["title"], faults) == ("Browsing event", [])


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("../../outside.json", "leads out of the project"),
        ("../schemas/link.json", "leads out of the project"),
        ("/etc/hostname", "must be a path from this file, such as ../schemas/events/x.schema.json"),
        ("https://example.com/x.json", "must be a path from this file, such as ../schemas/events/x.schema.json"),
        ("../schemas/none.json", "no such file"),
        ("../schemas", "no such file"),
    ],
)
def test_an_event_schema_from_elsewhere_is_a_finding(project: Path, reference: str, says: str) -> None:
    assert referred(project, reference) == (
        None,
        [f"5:26: receive.schema.$ref: {reference}: {says} [schema]"],
    )


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("broken", "broken.json:2:6: not JSON: Expecting ':' delimiter"),
        ("list", "list.json: a JSON Schema is an object"),
        (
            "elsewhere",
            "not a JSON Schema: $ref https://example.com/x.json leads out of the schema; put it under $defs",
        ),
    ],
)
def test_an_event_schema_that_cannot_be_used_is_a_finding(project: Path, file: str, says: str) -> None:
    schema, faults = referred(project, f"../schemas/{file}.json")
    assert (schema, faults) == (None, [f"5:26: receive.schema.$ref: {says} [schema]"])


def test_two_hundred_connectors_load_in_two_seconds(tmp_path: Path) -> None:
    text = (SPEC / "good" / "definitions.yaml").read_text()
    for number in range(200):
        (tmp_path / f"{number}.yaml").write_text(text)
    begun = time.perf_counter()
    for path in tmp_path.iterdir():
        assert load_connector(read_file(path))[0] is not None
    assert time.perf_counter() - begun < 2
