"""What no example reaches is listed by its line; a program that nobody watches carries no trace of it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from command import connect, make_project
from conftest import whole

from engine.authoring.coverage import Coverage, Reached
from engine.authoring.examples import run_example
from engine.cli import junit
from engine.cli.junit import Case
from engine.errors import UsageError
from engine.program import Program
from engine.spec import types
from engine.spec.load import load_connector
from engine.spec.located import read

if TYPE_CHECKING:
    from pathlib import Path

CRM = """\
receive: {client: "${ event.client }"}
replies:
  outcomes:
    - {status: 404, then: reject}
    - {status: 409, then: skip}
definitions:
  structures:
    who:
      $if: ${ event.first }
      then: ${ event.first }
      else: nobody
actions:
  note:
    when: ${ event.kind != 'call' }
    lookups:
      person:
        key: ${ event.email }
        when_absent: continue
        when_many: reject
        sources:
          contacts:
            request: {method: GET, path: /contacts, query: {q: "${ key }"}}
            rows: ${ response.body.rows }
          leads:
            request: {method: GET, path: /leads, query: {q: "${ key }"}}
            rows: ${ response.body.rows }
            replies: {outcomes: [{status: 418, then: skip}]}
    record:
      id: ${ event.id }
      who: {$use: who}
      kind:
        $switch: ${ event.kind }
        cases: {view: View, buy: Sale}
        default: Other
    require:
      - {that: "${ present(record.id) }", reason: no id}
      - {schema: {required: [who]}}
    request: {path: /notes, json: "${ record }"}
  call:
    when: ${ event.kind == 'call' }
    record: {id: "${ event.id }", who: {$use: who}}
    batch: {records: 2}
    steps:
      open:
        request: {path: /calls, json: "${ batch.records }"}
        save: {id: "${ response.body.id }"}
      close:
        request:
          path: /calls/{{ steps.open.id }}
          json: {$if: "${ batch.size > `1` }", then: {many: true}, else: {many: false}}
        results:
          at: ${ response.body }
          ok: ${ result.ok }
          code: ${ result.code }
          outcomes:
            - {code: GONE, then: reject}
            - {code: LATER, then: retry}
    on_failure:
      undo: {request: {method: DELETE, path: "/calls/{{ steps.open.id }}"}}
"""

VIEW = """\
examples:
  - name: a view
    events: [{client: shop, id: '1', email: a@x.example, kind: view}]
    exchange:
      - {sends: {path: /v1/contacts}, answers: {body: {rows: []}}}
      - {sends: {path: /v1/leads}, answers: {body: {rows: []}}}
      - {sends: {path: /v1/notes}, answers: {status: 409}}
    outcomes: {note: [skipped]}
"""

REST = """\
  - name: two contacts
    events: [{client: shop, id: '1', email: a@x.example, first: Ana, kind: buy}]
    exchange:
      - {sends: {path: /v1/contacts}, answers: {body: {rows: [{}, {}]}}}
    outcomes: {note: [rejected]}
  - name: nobody is there
    events: [{client: shop, email: a@x.example, first: Ana, kind: buy}]
    exchange:
      - {sends: {path: /v1/contacts}, answers: {body: {rows: [{}]}}}
    outcomes: {note: [rejected]}
  - name: calls
    events: [{client: shop, id: '1', kind: call}, {client: shop, id: '2', kind: call}]
    exchange:
      - {sends: {path: /v1/calls}, answers: {body: {id: 7}}}
      - {sends: {path: /v1/calls/7}, answers: {body: [{ok: true}, {code: GONE}]}}
    outcomes: {call: [delivered, rejected]}
"""


def measured(text: str) -> Reached:
    connector, findings, located = load_connector(read(whole(text), "connectors/crm.yaml"))
    assert connector is not None, findings
    coverage = Coverage(connector, located)
    for example in connector.examples:
        assert run_example(connector, example, compiler=coverage.compiler).message == ""
    return coverage.reached()


def missed(text: str) -> list[str]:
    """`kind: the line, from its column on`, up to the end of a word or two."""
    lines = whole(text).splitlines()
    return [f"{one.kind}: {lines[one.line - 1][one.column - 1 :][:22]}" for one in measured(text).missed]


def test_without_examples_every_part_is_missed_where_it_is_written() -> None:
    reached = measured(CRM)
    assert (len(reached.missed), reached.percent) == (reached.total, 0)
    assert missed(CRM) == [
        "outcome: {status: 404, then: re",
        "outcome: {status: 409, then: sk",
        "branch: then: ${ event.first }",
        "branch: else: nobody",
        "action: note:",
        "when_absent: when_absent: continue",
        "when_many: when_many: reject",
        "source: contacts:",
        "source: leads:",
        "outcome: {status: 418, then: sk",
        "branch: view: View, buy: Sale}",
        "branch: buy: Sale}",
        "branch: default: Other",
        'require: {that: "${ present(rec',
        "require: {schema: {required: [w",
        "step: request: {path: /notes",
        "action: call:",
        "step: open:",
        "step: close:",
        "branch: then: {many: true}, el",
        "branch: else: {many: false}}",
        "outcome: {code: GONE, then: rej",
        "outcome: {code: LATER, then: re",
        "step: undo: {request: {metho",
    ]


def test_what_an_example_reaches_is_listed_no_more() -> None:
    before, after = missed(CRM), missed(CRM + VIEW)
    assert [one for one in before if one not in after] == [
        "outcome: {status: 409, then: sk",
        "branch: else: nobody",
        "action: note:",
        "when_absent: when_absent: continue",
        "source: contacts:",
        "source: leads:",
        "branch: view: View, buy: Sale}",
        "step: request: {path: /notes",
    ]


def test_several_examples_reach_together() -> None:
    reached = measured(CRM + VIEW + REST)
    assert [(one.kind, one.what) for one in reached.missed] == [
        ("outcome", "the rule status 404: reject"),
        ("outcome", "the rule status 418: skip"),
        ("branch", "the default of the $switch"),
        ("require", "a record that this check of note rejects"),
        ("branch", "else of the $if"),
        ("outcome", "the rule code LATER: retry"),
        ("step", "the step undo of call"),
    ]
    assert (reached.total, reached.percent) == (24, 70)  # 17 of 24, rounded down


def test_what_is_found_is_no_case_of_nothing_found_and_one_that_passes_no_case_of_a_check() -> None:
    found = """\
examples:
  - name: a contact
    events: [{client: shop, id: '1', email: a@x.example}]
    exchange:
      - {sends: {path: /v1/contacts}, answers: {body: {rows: [{}]}}}
      - {sends: {path: /v1/notes}, answers: {body: {}}}
    outcomes: {note: [delivered]}
"""
    kinds = [one.kind for one in measured(CRM + found).missed if one.path.startswith("actions.note")]
    assert kinds.count("require") == 2
    assert {"when_absent", "when_many"} <= set(kinds)
    assert [one.what for one in measured(CRM + found).missed if one.kind == "source"] == [
        "the source leads of the look-up person"
    ]


def test_a_definition_is_one_part_however_often_it_is_used() -> None:
    assert CRM.count("{$use: who}") == 2
    assert missed(CRM).count("branch: then: ${ event.first }") == 1


def test_the_parts_of_a_log_in_s_replies_count() -> None:
    auth = """\
auth:
  type: oauth2_client_credentials
  token_url: https://api.crm.example/token
  client_id: ${ secrets.id }
  client_secret: ${ secrets.secret }
  replies: {outcomes: [{status: 400, then: pause}, {status: 403, then: pause}]}
secrets: {id: {title: Id}, secret: {title: Secret}}
receive: {client: "${ event.client }"}
examples:
  - name: refused
    events: [{client: shop, id: '1'}]
    exchange: [{sends: {path: /token}, answers: {status: 400}}]
    outcomes: {note: [waiting]}
"""
    assert missed(auth) == ["step: request: {path: /notes", "outcome: {status: 403, then: pa"]


def test_what_no_event_goes_through_is_not_counted() -> None:
    more = """\
checks:
  ping: {request: {method: GET, path: /me}, replies: {outcomes: [{status: 403, then: pause}]}}
provision:
  fields:
    make:
      request: {path: /fields, json: {$if: "${ settings.own }", then: {a: 1}}}
      replies: {outcomes: [{status: 409, then: delivered}]}
settings: {properties: {own: {type: string}}}
sandbox:
  routes: [{path: /me, reply: {body: {$if: "${ request.query.x }", then: {outcomes: []}, else: {}}}}]
"""
    assert measured(CRM + more).total == measured(CRM).total


def test_a_connector_without_parts_to_miss_is_covered_whole() -> None:
    assert Reached("crm", 0, []).percent == 100


def test_a_program_that_nobody_watches_has_nothing_of_it() -> None:
    connector, _, located = load_connector(read(whole(CRM + VIEW), "connectors/crm.yaml"))
    assert connector is not None
    client = types.Client(client="abc", connectors={"crm": types.Binding()})
    coverage = Coverage(connector, located)
    watched = Program(connector, client, client.connectors["crm"], compiler=coverage.compiler())
    plain = Program(connector, client, client.connectors["crm"])
    assert "taken" in watched.actions["note"].record.__code__.co_names
    assert "taken" not in plain.actions["note"].record.__code__.co_names
    assert "prepare" in vars(watched.actions["note"])
    assert "prepare" not in vars(plain.actions["note"])
    rule = plain.actions["note"].steps.steps["request"].call.judge.levels[-1].rules[0]
    assert "outcome" not in vars(rule)


# --- the command ---


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for part in ("connectors",):
        (tmp_path / part).mkdir()
    (tmp_path / "connectors" / "crm.yaml").write_text(whole(CRM + VIEW + REST))
    return tmp_path


def test_the_command_lists_what_is_missed_and_the_percentage(home: Path) -> None:
    ended = connect("test", "crm", "--coverage", project=home)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "connectors/crm.yaml:9:7: not reached: the rule status 404: reject"
    assert lines[-2:] == ["crm: 70% (17 of 24 parts)", "4 passed, 0 failed"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("least", "code"), [("70", 0), ("71", 1), ("100", 1), ("0", 0)])
def test_min_fails_below_it(home: Path, least: str, code: int) -> None:
    ended = connect("test", "crm", "--min", least, project=home)
    assert ended.code == code
    assert ("below --min" in ended.out) is bool(code)


def test_programs_are_told_what_is_missed(home: Path) -> None:
    found = connect("test", "crm", "--coverage", "--json", project=home).json
    assert set(found) == {"examples", "coverage"}
    assert set(found["examples"][0]) == {"connector", "name", "passed", "message"}
    (coverage,) = found["coverage"]
    assert {key: coverage[key] for key in ("connector", "percent", "reached", "total")} == {
        "connector": "crm",
        "percent": 70,
        "reached": 17,
        "total": 24,
    }
    assert coverage["missed"][0] == {
        "file": "connectors/crm.yaml",
        "line": 9,
        "column": 7,
        "kind": "outcome",
        "path": "replies.outcomes[0]",
        "what": "the rule status 404: reject",
    }


# --- JUnit ---


def test_junit_has_a_suite_for_each_connector_and_what_differs(home: Path) -> None:
    file = home / "connectors" / "crm.yaml"
    file.write_text(file.read_text().replace("outcomes: {call: [delivered, rejected]}", "outcomes: {call: []}"))
    ended = connect("test", "crm", "--junit", "report.xml", project=home)
    assert ended.code == 1
    root = ET.parse(home / "report.xml").getroot()
    assert (root.tag, root.attrib.keys()) == (
        "testsuites",
        {"name", "tests", "failures", "errors", "skipped", "time"},
    )
    (suite,) = root
    assert {key: suite.get(key) for key in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "crm",
        "tests": "4",
        "failures": "1",
        "errors": "0",
        "skipped": "0",
    }
    assert [(case.tag, case.get("classname"), case.get("name")) for case in suite] == [
        ("testcase", "crm", name) for name in ("a view", "two contacts", "nobody is there", "calls")
    ]
    assert all(float(case.get("time", "")) >= 0 and case.get("file") == "connectors/crm.yaml" for case in suite)
    failure = suite[3].find("failure")
    assert failure is not None
    said = "call has 2 deliveries, the example says 0"
    line = suite[3].get("line")
    assert (failure.attrib, failure.text) == (
        {"message": said, "type": "AssertionError"},
        f"connectors/crm.yaml:{line}: {said}",
    )


def test_junit_holds_any_text_and_counts_what_was_left_out() -> None:
    cases = [
        Case("a&b", 'quotes " <tags> & \x00 \x1b[31m \ud800 é', 0.5, "a.yaml", 1, failure="]]> \x08\nline two"),
        Case("a&b", "fine", 0.25, "a.yaml", 2),
        Case("other", "left", 0.0, "b.yaml", 3, skipped="nothing is sent"),
    ]
    root = ET.fromstring(junit.document(cases))
    assert {key: root.get(key) for key in ("tests", "failures", "skipped", "time")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "time": "0.750",
    }
    assert [suite.get("name") for suite in root] == ["a&b", "other"]
    assert root[0][0].get("name") == 'quotes " <tags> & � �[31m � é'
    assert root[0][0][0].get("message") == "]]> �\nline two"
    left = root[1][0].find("skipped")
    assert left is not None
    assert left.get("message") == "nothing is sent"


def test_junit_of_nothing_is_a_document_still() -> None:
    assert ET.fromstring(junit.document([])).get("tests") == "0"


def test_a_report_that_cannot_be_written_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no/report\.xml: No such file or directory$"):
        junit.write(tmp_path / "no" / "report.xml", [])


def test_replays_are_reported_too(tmp_path: Path) -> None:
    home = make_project(tmp_path)
    ended = connect(
        "test", "rdstation", "--replay", "-k", "a product view", "--junit", str(home / "r.xml"), project=home
    )
    assert ended.code == 1
    failure = ET.parse(home / "r.xml").getroot().find("testsuite/testcase/failure")
    assert failure is not None
    assert "there is no cassette" in str(failure.get("message"))
