from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, connect, make_project

from engine.authoring.pages import page
from engine.authoring.pages.client import client_file
from engine.authoring.pages.flow import chart
from engine.authoring.pages.mapping import rows
from engine.authoring.pages.markdown import code, flow, table
from engine.authoring.pages.reference import reference
from engine.authoring.pages.words import condition, limit, rules_of, waiting, what_follows
from engine.spec import types
from engine.spec.load import load_client, load_connector
from engine.spec.located import read
from engine.spec.project import Project

PROJECT = Project(ROOT)
CRM = """\
connect: 1
name: crm
title: CRM
description: Notes for everybody.
links: {api: 'https://crm.example/api'}
hosts: [api.crm.example, files.crm.example]
settings:
  required: [domain]
  properties:
    domain: {type: string, title: Domain, description: Under Setup., format: host, examples: [a.crm.example]}
    plan: {type: string, enum: [free, paid], default: free}
secrets:
  token: {title: API key, description: In the panel.}
  other: {title: Other, optional: true}
auth: {type: bearer, token: "${ secrets.token }"}
http: {base_url: https://api.crm.example, limits: {calls: {rate: 10/1s, of: credentials}}}
replies:
  outcomes:
    - {status: [401, 403], then: pause, why: The key is wrong.}
    - {code: BUSY, then: throttle, wait: 5m}
tables: {kinds: {view: "View | seen"}}
actions:
  add_note:
    title: A note on the person
    when: ${ event.email }
    lookups:
      person:
        key: ${ event.email }
        sources: {one: {request: {method: GET, path: /people}, rows: "${ response.body }"}}
    record:
      id: ${ lookups.person.id }
      text: "{{ tables.kinds | get(event.kind) }}: {{ event.name | truncate(80) }}"
    batch: {records: 10, wait: 5m}
    steps:
      send: {request: {path: /notes, json: {notes: "${ batch.records }"}}, repeat: may_double}
      file: {request: {method: PUT, url: 'https://files.crm.example/x', text: done}}
examples:
  - name: a note is added
    client: {settings: {domain: a.crm.example}}
    events: [{email: ana@example.com, kind: view, name: Camera}]
    exchange:
      - {sends: {method: GET, path: /people}, answers: {body: [{id: '7'}]}}
      - sends: {method: POST, path: /notes, json: {notes: [{id: '7', text: "View | seen: Camera"}]}}
        answers: {status: 201}
      - {sends: {method: PUT, path: /x, text: done}, answers: {status: 204}}
    outcomes: {add_note: [delivered]}
"""


def connector(text: str = CRM) -> types.Connector:
    found, findings, _ = load_connector(read(text, "crm.yaml"))
    assert (found is not None, findings) == (True, [])
    assert found is not None
    return found


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0].strip()


# --- what is checked in ---


@pytest.mark.parametrize("flags", [[], ["--language"], ["--functions"]])
def test_the_pages_of_this_repository_are_current(flags: list[str]) -> None:
    """Where this fails: `connect docs`, and the same with --language or --functions."""
    ended = connect("docs", "--check", *flags, project=ROOT)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_every_key_of_the_schemas_is_in_the_reference_with_its_meaning() -> None:
    text = reference()
    for name in ("connector", "client"):
        schema = json.loads((ROOT / f"schemas/{name}.schema.json").read_text())
        for part, keys in (("", schema), *schema["$defs"].items()):
            title = f"### {part}" if name == "connector" else f"### {name} {part}"
            under = text.partition(f"{title if part else f'## A {name}'}\n")[2].partition("\n##")[0]
            listed = re.findall(r"^\| `+ ?([^`|]+?) ?`+ \|", under, re.MULTILINE)
            assert listed == list(keys.get("properties", {})), part
    assert [line for line in text.splitlines() if line.startswith("| ") and line.count(" | ") < 1] == []


# --- a page ---


def test_a_page_tells_settings_and_secrets_with_types_defaults_and_examples() -> None:
    assert section(page(connector(), source="crm.yaml"), "Settings and secrets") == (
        "| setting | type | required | default | what | examples |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| `domain` | string, host | yes | | Domain. Under Setup. | `a.crm.example` |\n"
        "| `plan` | `free` or `paid` | | `free` | | |\n"
        "\n"
        "| secret | required | what |\n"
        "| --- | --- | --- |\n"
        "| `token` | yes | API key. In the panel. |\n"
        "| `other` | | Other |\n"
        "\n"
        "What only an action reads that is off is not asked for. In a client file:\n"
        "\n"
        "```yaml\n"
        "client: my-shop\n"
        "ingest: {keys: ['env:MY_SHOP_KEY']}\n"
        "connectors:\n"
        "  crm:\n"
        "    settings:\n"
        "      domain: a.crm.example\n"
        "    secrets:\n"
        "      token: env:MY_SHOP_CRM_TOKEN\n"
        "```"
    )


def test_a_page_tells_an_action_from_look_up_to_request() -> None:
    assert section(page(connector(), source="crm.yaml"), "Action `add_note`") == (
        "A note on the person. It takes events where `${ event.email }`.\n"
        "\n"
        "| look-up | by | asked | not found |\n"
        "| --- | --- | --- | --- |\n"
        "| `person` | `${ event.email }` | `GET /people` (`one`) | dead letter, without an alarm |\n"
        "\n"
        "| field | from | |\n"
        "| --- | --- | --- |\n"
        "| `id` | `${ lookups.person.id }` | from look-up `person` |\n"
        "| `text` | `{{ tables.kinds \\| get(event.kind) }}: {{ event.name \\| truncate(80) }}` "
        "| cut at 80 characters; by table `kinds` |\n"
        "\n"
        "| step | request | body | |\n"
        "| --- | --- | --- | --- |\n"
        "| `send` | `POST /notes` | JSON: `{notes: ${ batch.records }}` "
        "| without an answer it is sent again, and may double |\n"
        "| `file` | `PUT https://files.crm.example/x` | text: `done` | |"
    )


def test_a_page_tells_limits_and_errors_and_where_to_look() -> None:
    text = page(connector(), source="crm.yaml")
    assert "| `calls` | all requests | `10/1s` requests; all with the same credentials; then the lane waits |" in text
    assert (
        "| HTTP 401 or 403 | the lane pauses, its events are kept, someone is told | The key is wrong. |\n"
        "| `BUSY` | the lane waits for 5m | |"
    ) in re.sub(r"\| \| the lane", "| the lane", text)
    trouble = section(text, "In trouble")
    assert "| HTTP 401 or 403 | The key is wrong. |" in trouble
    assert "`connect preview crm event.json --explain`" in trouble


def test_payloads_are_those_of_the_example_in_and_out_and_back() -> None:
    text = section(page(connector(), source="crm.yaml"), "Payloads")
    blocks = re.findall(r"```(\w+)( \w+)?\n(.*?)\n```", text, re.DOTALL)
    assert [(language + kind, json.loads(body) if language == "json" else body) for language, kind, body in blocks] == [
        ("json event", {"email": "ana@example.com", "kind": "view", "name": "Camera"}),
        ("json", [{"id": "7"}]),
        ("json sent", {"notes": [{"id": "7", "text": "View | seen: Camera"}]}),
        ("text", "done"),
    ]


def test_notes_stand_where_they_belong_and_none_is_lost() -> None:
    notes = "# CRM\n\nNot tried.\n\n## Choices\n\nNone is made.\n\n## Set-up\n\n1. A key.\n\n```yaml\nclient: x\n```\n"
    text = page(connector(), source="crm.yaml", notes=notes)
    heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert heads == [
        *(
            "Flow",
            "Set-up",
            "Settings and secrets",
            "Action `add_note`",
            "Tables",
            "Payloads",
            "Batches, limits, tries",
        ),
        *("Errors", "Choices", "In trouble"),
    ]
    assert text.index("Notes for everybody.") < text.index("Not tried.") < text.index("## Flow")
    assert "ingest:" not in text  # the notes have a client file


def test_provisioning_is_told_by_what_is_looked_for_made_and_left_to_a_person() -> None:
    spec = connector(
        CRM + "provision:\n  fields:\n    title: Fields\n    each: ${ ['a'] }\n"
        "    look: {request: {method: GET, path: /fields}}\n"
        "    make: {request: {path: /fields}}\n    manual: Create {{ item }}.\n"
    )
    assert "| `fields` | Fields; each of `${ ['a'] }` | `GET /fields` | `POST /fields` | Create {{ item }}. |" in page(
        spec, source="crm.yaml"
    )


@pytest.mark.parametrize("name", sorted(PROJECT.connector_files()))
def test_the_client_file_of_every_page_is_one(name: str) -> None:
    text = client_file(PROJECT.connector(name))
    client, findings, _ = load_client(read(text, "my-shop.yaml"))
    assert (client is not None, findings) == (True, [])


# --- the flow ---


def test_the_chart_leads_from_the_event_by_every_stage_to_its_hosts() -> None:
    assert chart(connector()).splitlines() == [
        "flowchart TD",
        '  event(["an event"]) --> door["POST /crm<br/>stored, then answered"]',
        '  door --> a0["add_note<br/>when event.email"]',
        '  a0 --> a0l0{{"look-up person<br/>in one<br/>not found: dead letter"}}',
        '  a0l0 --> a0b[/"batch<br/>at most 10 records, 1MB<br/>waits up to 5m"/]',
        '  a0b --> a0s0["send:<br/>POST /notes"]',
        '  a0s0 --> a0s1["file:<br/>PUT https://files.crm.example/x"]',
        "  a0s0 -.-> host0",
        "  a0s1 -.-> host1",
        '  host0[("api.crm.example")]',
        '  host1[("files.crm.example")]',
    ]


def test_a_step_leads_to_the_hosts_that_its_address_or_its_log_in_names() -> None:
    spec = connector(
        CRM.replace("hosts: [api.crm.example, files.crm.example]", "hosts: ['*.crm.example', files.other.example]")
        .replace("url: 'https://files.crm.example/x'", "url: 'https://{{ settings.domain }}/x'")
        .replace("base_url: https://api.crm.example", "base_url: 'https://{{ settings.plan }}.crm.example'")
    )
    assert [line for line in chart(spec).splitlines() if "-.->" in line] == [
        "  a0s1 -.-> host0",  # whose address may be anywhere
        "  a0s1 -.-> host1",
    ]
    spec = connector(CRM.replace("url: 'https://files.crm.example/x'", "path: /x"))
    assert [line for line in chart(spec).splitlines() if "-.->" in line] == ["  a0s1 -.-> host0"]


LABEL = r'"(?:[^"<>`&]|<br/>)*"'
BOX = rf"\w+(?:\[{LABEL}\]|\(\[{LABEL}\]\)|\{{\{{{LABEL}\}}\}}|\[/{LABEL}/\]|\[\({LABEL}\)\])?"
LINE = re.compile(rf"  {BOX}(?: (?:-->|-\.->|-\. first \.->) {BOX})?")


@pytest.mark.parametrize("name", sorted(PROJECT.connector_files()))
def test_every_chart_is_mermaid_s_grammar(name: str) -> None:
    first, *lines = chart(PROJECT.connector(name)).splitlines()
    assert first == "flowchart TD"
    assert [line for line in lines if LINE.fullmatch(line) is None] == []


def test_nothing_in_a_spec_breaks_the_chart() -> None:
    mean = connector(CRM.replace("when: ${ event.email }", "when: ${ event.email == '\"]<br>#`x`&' }"))
    assert "when event.email == '#34;]#60;br#62;#35;#96;x#96;#38;'\"]" in chart(mean)
    assert [line for line in chart(mean).splitlines()[1:] if LINE.fullmatch(line) is None] == []


# --- rows and words ---


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"a": {"b": "${ event.x }"}}, [("a.b", "`${ event.x }`", ())]),
        ({"a": 1, "$$b": ["x"]}, [("a", "always `1`", ()), ("$b[0]", "always `x`", ())]),
        (
            {"a": {"$if": "${ event.x }", "then": "y", "else": "n"}},
            [("a", "always `y`", ("if `${ event.x }`",)), ("a", "always `n`", ("unless `${ event.x }`",))],
        ),
        (
            {"a": {"$switch": "${ event.x }", "cases": {"1": "one"}, "default": "more"}},
            [("a", "`${ event.x }`", ("`one` for `1`; `more` for all else",))],
        ),
        (
            {"a": {"$each": "${ event.l }", "as": "i", "do": {"b": "${ i.b }"}}},
            [("a[].b", "`${ i.b }`", ("`i`: each of `${ event.l }`",))],
        ),
        (
            {"$merge": [{"a": 1}, "${ event.m }"]},
            [("a", "always `1`", ()), ("*", "`${ event.m }`", ("all of its keys",))],
        ),
        ({"a": {"$rest": "${ event }", "except": ["b"]}}, [("a.*", "`${ event }`", ("without `b`",))]),
        (
            {"a": {"$entries": {"N": "${ event.n }"}, "key": "name"}},
            [("a[] N", "`${ event.n }`", ("as `name`, `value`",))],
        ),
        (
            {"a": {"$object": [{"key": "${ settings.f }", "value": "${ event.v }"}]}},
            [("a.(${ settings.f })", "`${ event.v }`", ())],
        ),
        (
            {"a": {"$lines": ["x", "{{ event.y }}"]}},
            [("a", "`x`<br>`{{ event.y }}`", ("a line each, without those whose value is absent",))],
        ),
        ({"a": {"$all": {"b": "${ event.b }"}}}, [("a.b", "`${ event.b }`", ("all of it or nothing",))]),
        ({"a": {"$json": {"b": "${ event.b }"}}}, [("a", "`{b: ${ event.b }}`", ("as JSON text",))]),
        ({"a": {"$literal": "{{ x }}"}}, [("a", 'always `"{{ x }}"`', ())]),
        ({"a": {"$to_come": "${ event.b }"}}, [("a", "`{$to_come: ${ event.b }}`", ())]),
    ],
)
def test_a_mapping_is_told_row_by_row(tree: Any, told: list[tuple[str, str, tuple[str, ...]]]) -> None:
    assert [tuple(row) for row in rows(tree)] == told


@pytest.mark.parametrize(
    ("rule", "when", "then"),
    [
        ({"status": "5xx", "then": "retry"}, "HTTP 5xx", "it is tried again"),
        ({"code": ["A", "B_*"], "then": "reauth"}, "`A` or `B_*`", "one new token, and the request is repeated"),
        (
            {"message": {"contains": ["x", "y"]}, "then": "reject", "expected": True},
            "the message has “x” or “y”",
            "it ends as a dead letter, without an alarm",
        ),
        (
            {
                "status": 423,
                "when": "${ response.body.a }",
                "then": "retry",
                "wait": "5s",
                "attempts": 3,
                "else": "pause",
            },
            "HTTP 423; where `${ response.body.a }`",
            "it is tried again for 5s, 3 times, then pause",
        ),
        (
            {"then": "throttle", "scope": "action", "wait": {"header": "retry-after", "max": "1h"}},
            "anything else",
            "this action waits as long as header `retry-after` says, at most 1h",
        ),
        (
            {"header": {"x-a": "b"}, "then": "retry", "from": "start", "forget": "person"},
            "header `x-a` has “b”",
            "it is tried again; look-up `person` is asked anew; it begins anew",
        ),
    ],
)
def test_a_rule_is_told_in_words(rule: dict[str, Any], when: str, then: str) -> None:
    import msgspec

    found = msgspec.convert(rule, types.OutcomeRule)
    assert (condition(found), what_follows(found)) == (when, then)


def test_waits_and_limits_are_told_in_words() -> None:
    assert waiting([{"initial": "1m", "factor": 2, "max": "1h"}, {"until": "midnight", "timezone": "UTC"}]) == (
        "for the longest of: 1m, longer each time, up to 1h; until midnight in UTC"
    )
    assert limit(types.Limit(concurrency=3, by="${ fields.email }", then="defer", when="${ settings.x }")) == (
        "`3` at the same time; each client; for each `${ fields.email }` by itself; where `${ settings.x }`; "
        "then this delivery waits"
    )


def test_every_rule_of_a_connector_is_told_once() -> None:
    told = [rule for _, rule, _ in rules_of(PROJECT.connector("salesforce"))]
    assert len(told) > 10
    assert [rule for at, rule in enumerate(told) if rule in told[:at]] == []


def test_markdown_stays_what_it_is_whatever_stands_in_it() -> None:
    assert code("a `b` c") == "``a `b` c``"
    assert code("`b`") == "`` `b` ``"
    assert table(["a", "b", "c"], [["x|y", "", "`z`"], ["", "", ""]]) == (
        "| a | c |\n| --- | --- |\n| x\\|y | `z` |\n| | |"
    )
    assert flow({"a": ["x y", "1", 1, True, None, "a: b", "${ x }"]}) == (
        '{a: [x y, "1", 1, true, null, "a: b", ${ x }]}'
    )


# --- the command ---


def test_docs_writes_the_pages_of_a_project_s_own_connectors_and_says_when_they_are_stale(tmp_path: Path) -> None:
    home = make_project(tmp_path)
    for file in (home / "connectors").iterdir():
        if file.stem != "rdstation":
            file.unlink()
    missing = connect("docs", "--check", project=home)
    assert (missing.code, missing.out) == (1, "docs/connectors/rdstation.md: is missing\n")
    assert missing.err == "write it anew: connect docs\n"
    assert connect("docs", project=home).out == "docs/connectors/rdstation.md: written\n"
    assert connect("docs", project=home).out == "docs/connectors/rdstation.md: current\n"
    assert connect("docs", "--check", project=home).out == ""
    spec = home / "connectors/rdstation.yaml"
    spec.write_text(spec.read_text().replace("default: 120/24h", "default: 100/24h"))
    stale = connect("docs", "--check", project=home)
    assert stale.code == 1
    assert stale.out.startswith("docs/connectors/rdstation.md: is not current; it still says: | `lead_rate` | string, ")
    assert "120/24h" in (home / "docs/connectors/rdstation.md").read_text()  # it wrote nothing


def test_the_page_of_a_connector_that_comes_with_the_engine_has_no_link_to_its_file(tmp_path: Path) -> None:
    ended = connect("docs", "salesforce", project=tmp_path)
    assert (ended.code, ended.out) == (0, "docs/connectors/salesforce.md: written\n")
    text = (tmp_path / "docs/connectors/salesforce.md").read_text()
    assert "The connector, `salesforce.yaml`, comes with the engine.\n" in text
    assert re.findall(r"\]\((?!https)[^)]*\)", text) == []  # nor one to pages that are not there


def test_docs_takes_names_and_another_place(tmp_path: Path) -> None:
    home = make_project(tmp_path)
    (home / "site").mkdir()
    (home / "site/rdstation.notes.md").write_text("Tried with a real account.\n")
    ended = connect("docs", "rdstation", "--out", "site", project=home)
    assert (ended.code, ended.out, ended.err) == (0, "site/rdstation.md: written\n", "")
    text = (home / "site/rdstation.md").read_text()
    assert "Tried with a real account.\n" in text
    assert "[`rdstation.yaml`](../connectors/rdstation.yaml)" in text
    wrong = connect("docs", "rdstatoin", project=home)
    assert (wrong.code, wrong.err) == (2, 'connect: no connector is called rdstatoin; did you mean "rdstation"?\n')
    both = connect("docs", "--language", "--functions", "--out", "site", project=home)
    assert both.out == "site/reference.md: written\nsite/functions.md: written\n"
