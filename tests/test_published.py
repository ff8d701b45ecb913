"""The OpenAPI document of what can be posted."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from conftest import connector_from

from engine.door.published import openapi

SCHEMA = """receive:
  client: ${ event.client }
  schema:
    $schema: https://json-schema.org/draft/2020-12/schema
    $id: https://shop.example/event.json
    type: object
    properties: {of: {$ref: '#/$defs/of'}, as: {const: {$ref: '#/kept'}}, again: {items: {$ref: '#'}}}
    $defs: {of: {type: string}}
"""


def document(text: str = "", *, proven: bool = False) -> dict[str, Any]:
    made = openapi({"crm": connector_from(text)}, {"crm": proven})
    assert json.loads(json.dumps(made)) == made
    return made


def test_each_connector_is_a_path_with_its_event_and_every_answer() -> None:
    made = document(SCHEMA)
    post = made["paths"]["/crm"]["post"]
    assert (made["openapi"], list(made["paths"]), post["operationId"]) == ("3.1.0", ["/crm"], "crm")
    event = {"$ref": "#/components/schemas/event-crm"}
    assert post["requestBody"]["content"]["application/json"]["schema"] == {
        "oneOf": [event, {"type": "array", "minItems": 1, "maxItems": 1000, "items": event}]
    }
    statuses = ["202", "400", "401", "403", "404", "405", "408", "413", "415", "422", "429", "500", "503"]
    assert sorted(post["responses"]) == statuses
    for status in statuses[1:]:
        answer = post["responses"][status]
        assert answer["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        assert ("headers" in answer) == (status in ("429", "503"))


def test_what_a_schema_says_of_itself_is_found_in_the_document() -> None:
    assert document(SCHEMA)["components"]["schemas"]["event-crm"] == {
        "type": "object",
        "properties": {
            "of": {"$ref": "#/components/schemas/event-crm/$defs/of"},
            "as": {"const": {"$ref": "#/kept"}},
            "again": {"items": {"$ref": "#/components/schemas/event-crm"}},
        },
        "$defs": {"of": {"type": "string"}},
    }
    assert document()["components"]["schemas"]["event-crm"] == {"type": "object"}


def test_without_a_key_nothing_is_to_be_had_where_all_clients_have_one() -> None:
    assert document(proven=True)["paths"]["/crm"]["post"]["security"] == [
        {"key": []},
        {"bearer": []},
        {"query": []},
        {"signature": []},
    ]
    assert document()["paths"]["/crm"]["post"]["security"][-1] == {}


def test_a_direct_connector_answers_as_its_author_chose() -> None:
    direct = document("receive: {mode: direct, client: '${ event.client }', answer: {retry: 203, pause: 500}}")
    responses = direct["paths"]["/crm"]["post"]["responses"]
    assert [status for status in sorted(responses) if status < "4"] == ["200", "202", "203"]
    assert {"4XX", "5XX"} <= set(responses)


@pytest.mark.parametrize("text", ["", SCHEMA, "receive: {mode: direct, client: '${ event.client }'}"])
def test_all_that_is_referred_to_is_there(text: str) -> None:
    made = document(text)
    for reference in references(made):
        place: Any = made
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    for schema in made["components"]["schemas"].values():
        assert jsonschema_rs.meta.is_valid(schema)


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for each in node for found in references(each)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return own + [found for key, each in node.items() if key != "const" for found in references(each)]
