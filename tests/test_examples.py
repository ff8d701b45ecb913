"""The examples of the bundled connectors pass, and an example that is wrong says where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from conftest import connector_from

from engine.authoring.examples import Result, Shared, run_example, unlike
from engine.spec.project import Project

if TYPE_CHECKING:
    from engine.spec.types import Connector, Example

BUNDLED = Project(Path(__file__).parents[1])
EXAMPLES = [
    (connector, example)
    for name in BUNDLED.connector_files()
    for connector in [BUNDLED.connector(name)]
    for example in connector.examples
]


@pytest.mark.parametrize(
    ("connector", "example"), EXAMPLES, ids=[f"{connector.name}: {example.name}" for connector, example in EXAMPLES]
)
def test_a_bundled_example_passes(connector: Connector, example: Example) -> None:
    assert run_example(connector, example) == Result(connector.name, example.name, True)


def test_every_bundled_connector_has_examples_for_each_of_its_actions() -> None:
    for name in BUNDLED.connector_files():
        connector = BUNDLED.connector(name)
        shown = {action for example in connector.examples for action in example.outcomes}
        assert shown == set(connector.actions), name


# --- what a wrong example says ---


def result(example: str, more: str = "") -> Result:
    connector = connector_from(f"{more}\nexamples:\n  - name: it\n{example}")
    return run_example(connector, connector.examples[0])


GOOD = """
    events: [{client: shop, id: '1'}]
    exchange:
      - {sends: {method: POST, path: /v1/notes, json: {id: '1'}}, answers: {status: 503}}
      - {after: 10s}
      - {sends: {method: POST, path: /v1/notes, json: {id: '1'}}, answers: {status: 200, body: {}}}
    outcomes: {note: [delivered]}
"""


def test_a_right_example_passes() -> None:
    assert result(GOOD) == Result("crm", "it", True)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("path: /v1/notes, json: {id: '1'}}, answers: {status: 503}", "path: /v1/x}, answers: {status: 503}",
         'exchange 1: path is "/v1/notes", the example says "/v1/x"'),
        ("POST, path: /v1/notes, json: {id: '1'}}, answers: {status: 503}", "PUT}, answers: {status: 503}",
         'exchange 1: method is "POST", the example says "PUT"'),
        ("json: {id: '1'}}, answers: {status: 503}", "json: {id: 1}}, answers: {status: 503}",
         'exchange 1: json.id is "1", the example says 1'),
        ("json: {id: '1'}}, answers: {status: 503}", "json: {}}, answers: {status: 503}",
         'exchange 1: json.id is "1", the example does not have it'),
        ("json: {id: '1'}}, answers: {status: 503}", "json: {id: '1', x: [2]}}, answers: {status: 503}",
         "exchange 1: json.x is missing, the example says [2]"),
        ("json: {id: '1'}}, answers: {status: 503}", "query: {a: b}}, answers: {status: 503}",
         'exchange 1: query.a is missing, the example says "b"'),
        ("json: {id: '1'}}, answers: {status: 503}", "headers: {X-A: b}}, answers: {status: 503}",
         'exchange 1: headers.X-A is missing, the example says "b"'),
        ("after: 10s", "after: 40s", "exchange 3: sent after 10s, the example says 40s"),
        ("note: [delivered]", "note: [rejected]", "note, event 1: delivered, the example says rejected"),
        ("note: [delivered]", "note: [delivered, delivered]", "note has 1 deliveries, the example says 2"),
        ("note: [delivered]", "", "note took the event too; list what became of it under outcomes"),
        ("answers: {status: 200, body: {}}", "answers: {status: 422, body: {}}",
         "note, event 1: rejected (HTTP 422), the example says delivered"),
    ],
)  # fmt: skip
def test_a_wrong_example_says_where_it_differs(right: str, wrong: str, message: str) -> None:
    assert right in GOOD
    assert result(GOOD.replace(right, wrong, 1)) == Result("crm", "it", False, message)


def test_a_request_more_or_less_than_listed_is_said() -> None:
    fewer = GOOD.replace("answers: {status: 200, body: {}}", "answers: {status: 503}")
    assert result(fewer).message == "note, event 1: waiting (HTTP 503), the example says delivered"
    retried = fewer.replace("status: 503", "status: 409")
    rule = "replies: {outcomes: [{status: 409, then: retry}]}"
    assert result(retried, rule).message == "note, event 1: waiting (HTTP 409), the example says delivered"
    more = GOOD.replace("{status: 503}", "{status: 200, body: {}}")
    assert result(more).message == "exchange 3 was never sent: POST /v1/notes; all deliveries had ended"


def test_an_example_of_a_refusal_names_status_and_field() -> None:
    schema = "receive: {client: '${ event.client }', schema: {required: [email]}}"
    refused = "    client: {match: shop}\n    events: [{client: shop}]\n    refused: {status: 422, field: email}\n"
    assert result(refused, schema) == Result("crm", "it", True)
    assert result(refused.replace("422", "400"), schema).message == "refused with 422, the example says 400"
    assert (
        result(refused.replace("field: email", "field: id"), schema).message
        == "refused for email: missing, the example names id"
    )
    assert result(refused).message == "the events were accepted, the example says refused"


@pytest.mark.parametrize(
    ("listed", "found", "says"),
    [
        (1, True, "json is true, the example says 1"),
        (0, False, "json is false, the example says 0"),
        ("1", 1, 'json is 1, the example says "1"'),
        (None, False, "json is false, the example says null"),
        ([1], [1, 2], "json has 2 items, the example says 1"),
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}, "json.a.b[0] is 2, the example says 1"),
        (1, msgspec.json.decode(b"1.0"), None),
    ],
)
def test_values_are_compared_with_their_types(listed: Any, found: Any, says: str | None) -> None:
    from decimal import Decimal

    assert unlike("json", listed, Decimal("1.0") if isinstance(found, float) else found) == says


@pytest.mark.parametrize("name", sorted(BUNDLED.connector_files()))
def test_examples_that_share_a_program_do_not_know_of_each_other(name: str) -> None:
    """In either order, and twice; also those that end otherwise than they say."""
    connector = BUNDLED.connector(name)
    wrong = [msgspec.structs.replace(each, name=f"not {each.name}", outcomes={}) for each in connector.examples]
    examples = [*connector.examples, *wrong]
    alone = {each.name: run_example(connector, each) for each in examples}
    shared = Shared()
    for each in [*examples, *reversed(examples)]:
        assert run_example(connector, each, shared=shared) == alone[each.name]
    assert 0 < len(shared.programs) < len(examples)
