"""A vendor's document is read as it is meant; what can't be read says where, and what to do about it."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.authoring.openapi import Api, Shape, api_of, read_api, sample
from engine.errors import UsageError

DOCUMENTS = Path(__file__).parent / "openapi"


def document(**more: Any) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "Acme", "version": "1"},
        "paths": {"/notes": {"post": {"operationId": "addNote", "responses": {"204": {"description": "done"}}}}},
        **more,
    }


def api(**more: Any) -> Api:
    return api_of(json.dumps(document(**more)).encode(), "api.json")


def with_body(schema: Any, **schemas: Any) -> Api:
    post = {"requestBody": {"content": {"application/json": {"schema": schema}}}}
    return api(paths={"/notes": {"post": post}}, components={"schemas": schemas})


def body(schema: Any, **schemas: Any) -> Shape:
    made = with_body(schema, **schemas)
    found = made.request(made.operations()[0]).shape
    assert found is not None
    return found


def read_whole(raw: bytes, file: str) -> None:
    made = api_of(raw, file)
    for operation in made.operations():
        for part in (made.parameters, made.request, made.answers, made.security, made.servers):
            part(operation)


def error(text: bytes | str, file: str = "api.yaml") -> str:
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(UsageError) as refused:
        read_whole(raw, file)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- what is read ---


def test_the_operations_of_a_3_0_document_in_json() -> None:
    read = read_api(DOCUMENTS / "contacts-3.0.json")
    assert [(one.name, one.id, one.summary) for one in read.operations()] == [
        ("GET:/me", "whoAmI", ""),
        ("GET:/contacts", "listContacts", ""),
        ("POST:/contacts", "createContact", "Create a contact"),
        ("POST:/contacts/{contactId}/notes", "", "Add a note"),
        ("POST:/contacts/batch", "importContacts", ""),
        ("PUT:/photos", "sendPhoto", ""),
    ]


def test_the_body_of_a_3_1_document_in_yaml() -> None:
    read = read_api(DOCUMENTS / "orders-3.1.yaml")
    shape = read.request(read.operation("orders.create")).shape
    assert shape is not None
    assert [(part.name, part.required, part.shape.kind, part.shape.note) for part in shape.parts] == [
        ("order_id", True, "string", ""),
        ("customer", True, "object", ""),
        ("lines", True, "array", ""),
        ("currency", True, "string", ""),
        ("total", True, "string", ""),
        ("placed_on", True, "string", ""),
        ("channel", True, "string", ""),
        ("parent", False, "any", "Order has itself as a part"),
    ]


def test_yaml_is_read_as_1_2_says() -> None:
    text = "openapi: 3.0.0\npaths: {}\nx: {a: no, b: 2026-01-28, c: 0x1F, d: 1.50, 200: ok, e: ~, f: !!str 1}\n"
    assert api_of(text.encode(), "api.yaml").data["x"] == {
        "a": "no",
        "b": "2026-01-28",
        "c": "0x1F",
        "d": Decimal("1.50"),
        "200": "ok",
        "e": None,
        "f": 1,
    }


def test_anchors_and_merge_keys_are_read() -> None:
    text = "openapi: 3.0.0\na: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a]\n"
    data = api_of(text.encode(), "api.yaml").data
    assert (data["b"], data["c"]) == ({"x": 1, "y": 2}, [{"x": 1}])


def test_an_operation_is_named_by_method_and_path_or_by_its_id() -> None:
    read = read_api(DOCUMENTS / "contacts-3.0.json")
    names = ("POST:/contacts", "post /contacts", "createContact")
    assert {read.operation(name).name for name in names} == {"POST:/contacts"}


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("createContakt", 'did you mean "createContact"?'),
        ("POST:/contact", 'did you mean "POST:/contacts"?'),
        (
            "zzz",
            "it has GET:/me (whoAmI), GET:/contacts (listContacts), POST:/contacts (createContact), "
            "POST:/contacts/{contactId}/notes, POST:/contacts/batch (importContacts), PUT:/photos (sendPhoto)",
        ),
    ],
)
def test_an_operation_that_is_not_there_is_told_with_the_one_that_was_meant(wanted: str, hint: str) -> None:
    read = read_api(DOCUMENTS / "contacts-3.0.json", file="api.json")
    with pytest.raises(UsageError) as refused:
        read.operation(wanted)
    assert str(refused.value) == f"api.json: no operation is called {wanted}; {hint}"


def test_all_of_adds_up_and_one_of_is_its_first_form() -> None:
    shape = body(
        {
            "allOf": [
                {"$ref": "#/components/schemas/A"},
                {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
            ],
            "properties": {"c": {"oneOf": [{"type": "null"}, {"type": "boolean"}, {"type": "string"}]}},
        },
        A={"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "maxLength": 9}}},
    )
    assert [(part.name, part.required, part.shape.kind, part.shape.max_length) for part in shape.parts] == [
        ("c", False, "boolean", None),
        ("a", True, "string", 9),
        ("b", True, "integer", None),
    ]
    assert shape.parts[0].shape.note == "the first of 2 forms"


def test_what_is_read_only_is_not_sent_and_what_is_write_only_is_no_reply() -> None:
    schema = {"properties": {"id": {"type": "string", "readOnly": True}, "key": {"type": "string", "writeOnly": True}}}
    assert [part.name for part in body(schema).parts] == ["key"]
    content = {"content": {"application/json": {"schema": schema}}}
    read = api(paths={"/a": {"get": {"responses": {"200": content}}}})
    (answer,) = read.answers(read.operations()[0])
    assert answer.body.shape is not None
    assert [part.name for part in answer.body.shape.parts] == ["id"]


def test_a_schema_that_refers_to_itself_ends_where_it_comes_round() -> None:
    person = {
        "type": "object",
        "properties": {"boss": {"$ref": "#/components/schemas/Person"}, "age": {"type": "integer"}},
    }
    shape = body({"$ref": "#/components/schemas/Person"}, Person=person)
    assert sample(shape) == {"boss": "made-up", "age": 1}
    assert shape.parts[0].shape.note == "Person has itself as a part"


def test_a_schema_that_is_only_itself_says_nothing() -> None:
    assert body({"$ref": "#/components/schemas/A"}, A={"$ref": "#/components/schemas/A"}).kind == "any"
    assert body({"$ref": "#/components/schemas/A"}, A={"allOf": [{"$ref": "#/components/schemas/A"}]}).kind == "any"


def test_a_vast_schema_is_cut_off_and_read_quickly() -> None:
    """Each of twenty levels has ten parts of the next: ten to the twentieth in all."""
    names = [f"L{number}" for number in range(20)]
    schemas = {
        name: {
            "type": "object",
            "properties": {f"p{at}": {"$ref": f"#/components/schemas/{below}"} for at in range(10)},
        }
        for name, below in zip(names, [*names[1:], names[-1]], strict=True)
    }
    began = time.monotonic()
    shape = body({"$ref": "#/components/schemas/L0"}, **schemas)
    assert time.monotonic() - began < 5
    assert "more is nested here than is looked at" in str(shape)


def test_pointers_may_be_escaped() -> None:
    shape = body({"$ref": "#/components/schemas/a~1b%20c"}, **{"a/b c": {"type": "integer"}})
    assert shape.kind == "integer"


def test_parameters_of_the_path_and_of_the_operation_add_up() -> None:
    read = api(
        paths={
            "/a/{id}/{other}": {
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
                "post": {"parameters": [{"name": "q", "in": "query", "required": True, "example": "x"}]},
            }
        }
    )
    found = read.parameters(read.operations()[0])
    assert [(each.name, each.where, each.required, each.shape.kind) for each in found] == [
        ("id", "path", True, "integer"),
        ("q", "query", True, "any"),
        ("other", "path", True, "string"),
    ]


def test_json_is_preferred_to_a_form() -> None:
    content = {
        "application/x-www-form-urlencoded": {"schema": {"type": "object"}},
        "application/json; charset=utf-8": {"schema": {"type": "object"}},
    }
    read = api(paths={"/a": {"post": {"requestBody": {"content": content}}}})
    assert read.request(read.operations()[0]).media == "application/json"


def test_ways_to_log_in_are_told_as_they_stand() -> None:
    read = read_api(DOCUMENTS / "orders-3.1.yaml")
    ways = read.security(read.operation("orders.create"))
    assert [[(each.name, each.kind, each.flow or each.scheme, each.scopes) for each in way] for way in ways] == [
        [("oauth", "oauth2", "clientCredentials", ("orders.write", "orders.read"))],
        [("basic", "http", "basic", ())],
    ]


# --- what can't be read ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "api.yaml: the file is empty"),
        ("just a text", "api.yaml: no OpenAPI document: it has no `openapi: 3.…` at its top"),
        ("[1, 2]", "api.yaml: no OpenAPI document: it has no `openapi: 3.…` at its top"),
        ("info: {title: x}", "api.yaml: no OpenAPI document: it has no `openapi: 3.…` at its top"),
        (
            "swagger: '2.0'\npaths: {}",
            "api.yaml: Swagger 2.0 is not read, only OpenAPI 3.0 and 3.1; convert it first: "
            "npx swagger2openapi OLD.json -o openapi.yaml",
        ),
        ("asyncapi: 2.6.0", "api.yaml: this is AsyncAPI, not OpenAPI"),
        ("openapi: 4.0.0", "api.yaml: openapi: 4.0.0 is not read, only 3.0 and 3.1"),
        ("openapi: 3.0.0\npaths:\n  - a", "api.yaml:2: paths: a map is wanted here"),
        ("openapi: 3.0.0\npaths: {}", "api.yaml:2: paths: no paths: there is no operation to take"),
        ("openapi: 3.0.0\npaths: {notes: {}}", "api.yaml:2: paths.notes: a path begins with /"),
        ("openapi: 3.0.0\npaths: {/a: {post: 1}}", "api.yaml:2: paths./a.post: a map is wanted here"),
        ("openapi: 3.0.0\n\tpaths: 1", "api.yaml:2:1: no YAML here: found a tab character that violates indentation"),
        ("openapi: 3.0.0\na: [1", "api.yaml:3:1: no YAML here: did not find expected ',' or ']'"),
        ("openapi: 3.0.0\na: *b", "api.yaml:2:4: *b: no such anchor"),
        ('{"openapi": "3.0.0",\n "paths": {,}}', "api.yaml:2:12: no JSON here: expecting property name enclosed "
            "in double quotes"),
        ('{"openapi": "3.0.0", "x": NaN}', "api.yaml: NaN is no JSON"),
    ],
)  # fmt: skip
def test_a_broken_file_says_where(text: str, says: str) -> None:
    assert error(text) == says


def test_bytes_that_are_no_text_are_told_with_their_line() -> None:
    assert error(b"openapi: 3.0.0\n\xff") == "api.yaml:2: byte 0xff is not UTF-8; save it as UTF-8"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "a:\n" + "".join(f"{' ' * at}- \n" for at in range(400))]
)
def test_a_file_nested_without_end_is_refused(text: str) -> None:
    assert "nested" in error(text)


def test_a_file_that_is_too_large_is_refused() -> None:
    assert error(b"x" * 10_000_001) == "api.yaml: larger than 10 MB; cut out the operations that you need"


def test_a_large_file_is_read_in_seconds() -> None:
    schemas = {f"S{number}": {"type": "object", "description": "x" * 80} for number in range(60_000)}
    raw = json.dumps(document(components={"schemas": schemas})).encode()
    assert 7_000_000 < len(raw) < 10_000_000
    began = time.monotonic()
    assert len(api_of(raw, "api.json").operations()) == 1
    assert time.monotonic() - began < 10


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "no.yaml", "no such file or directory"),
        (tmp_path, "a directory, where a file is wanted"),
    ):
        with pytest.raises(UsageError) as refused:
            read_api(path)
        assert str(refused.value) == f"{path}: {why}"


HEAD = "openapi: 3.0.0\npaths:\n  /a:\n    post:\n      "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "requestBody: {$ref: other.yaml#/Body}",
            "api.yaml:5: paths./a.post.requestBody.$ref: other.yaml#/Body is outside of this file, and nothing "
                "is fetched; "
            "bundle all into one file first: npx @redocly/cli bundle openapi.yaml -o whole.yaml",
        ),
        (
            "requestBody: {$ref: '#/components/requestBodies/Nte'}\ncomponents: {requestBodies: {Note: {}}}",
            "api.yaml:5: paths./a.post.requestBody.$ref: #/components/requestBodies/Nte leads nowhere; "
            'did you mean "#/components/requestBodies/Note"?',
        ),
        (
            "requestBody: {$ref: '#/x'}\nx: {$ref: '#/x'}",
            "api.yaml:6: x: $ref #/x leads back to itself",
        ),
        (
            "requestBody: {content: {image/png: {}}}",
            "api.yaml:5: paths./a.post.requestBody: image/png is not written for you, "
            "only JSON, forms and text are",
        ),
        (
            "requestBody: {content: {application/json: {schema: {properties: []}}}}",
            "api.yaml:5: paths./a.post.requestBody.content.application/json.schema.properties: a map is wanted here",
        ),
        (
            "requestBody:\n        content:\n          application/json:\n            schema:\n"
            "              properties:\n                a: {properties: {b: 1}}",
            "api.yaml:10: paths./a.post.requestBody.content.application/json.schema.properties.a.properties.b: "
            "a schema is a map",
        ),
        ("parameters: [{in: query}]", "api.yaml:5: paths./a.post.parameters.0: a parameter needs a name"),
        ("parameters: [{name: a, in: body}]", "api.yaml:5: paths./a.post.parameters.0: a: in is path, query, "
            "header or cookie"),
        (
            "security: [{kee: []}]\ncomponents: {securitySchemes: {key: {type: http, scheme: basic}}}",
            "api.yaml:5: paths./a.post.security.0.kee: kee is not among components.securitySchemes; did you "
                "mean \"key\"?",
        ),
        (
            "security: [{key: []}]\ncomponents: {securitySchemes: {key: {type: basic}}}",
            "api.yaml:6: components.securitySchemes.key: type: basic is none of http, apiKey, oauth2, "
                "openIdConnect, mutualTLS",
        ),
        ("responses: []", "api.yaml:5: paths./a.post.responses: a map is wanted here"),
        ("servers: [{}]", "api.yaml:5: paths./a.post.servers.0: a server needs a url"),
    ],
)  # fmt: skip
def test_what_is_wrong_inside_is_told_with_line_and_place(text: str, says: str) -> None:
    assert error(HEAD + text) == says


def test_what_is_wrong_in_a_part_that_is_not_taken_is_no_matter() -> None:
    made = with_body({"type": "string"}, Broken={"$ref": "elsewhere.yaml#/x"})
    assert made.request(made.operations()[0]).shape == Shape("string")
