from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from engine.spec import types
from engine.spec.project import AlertSettings, AlertWay, ClientAlerts, Settings
from engine.spec.violations import bundled, document

SCHEMAS = sorted(bundled("schemas").rglob("*.json"))
USE = {"$use", "except"}
OF_THE_STEP = {"request", "each", "once_per", "save", "results", "poll", "repeat"}

# struct -> (schema, its name in $defs, keys only an author writes, keys that are needed under a condition)
MIRRORS: list[tuple[type[msgspec.Struct], str, str | None, set[str], set[str]]] = [
    (types.Connector, "connector", None, set(), set()),
    (types.SecretField, "connector", "secret", set(), set()),
    (types.SettingsSchema, "connector", "settings", set(), set()),
    (types.Answer, "connector", "answer", set(), set()),
    (types.Receive, "connector", "receive", set(), set()),
    (types.Drop, "connector", "drop", set(), set()),
    (types.GrowingWait, "connector", "growing", set(), set()),
    (types.Retry, "connector", "retry", set(), set()),
    (types.Limit, "connector", "limit", set(), set()),
    (types.JsonEncoding, "connector", "json_encoding", set(), set()),
    (types.Csv, "connector", "csv", set(), set()),
    (types.Request, "connector", "request", USE, set()),
    (types.OutcomeRule, "connector", "outcome_rule", set(), set()),
    (types.Replies, "connector", "replies", USE, set()),
    (types.ResultOn, "connector", "result_on", set(), set()),
    (types.Results, "connector", "result", USE, set()),
    (types.Poll, "connector", "poll", set(), set()),
    (types.OncePer, "connector", "once_per", set(), set()),
    (types.Step, "connector", "step", USE, {"request"}),
    (types.Fold, "connector", "fold", set(), set()),
    (types.BatchMax, "connector", "batch_max", set(), set()),
    (types.Batch, "connector", "batch", set(), set()),
    (types.Source, "connector", "source", USE, {"request"}),
    (types.Create, "connector", "create", USE, {"request"}),
    (types.Lookup, "connector", "lookup", USE, set()),
    (types.Requirement, "connector", "requirement", set(), set()),
    (types.Action, "connector", "action", OF_THE_STEP, {"steps"}),
    (types.Expires, "connector", "expires", set(), set()),
    (types.Renew, "connector", "renew", set(), set()),
    (types.Token, "connector", "token", set(), set()),
    (types.Place, "connector", "place", set(), set()),
    (types.Consent, "connector", "consent", set(), set()),
    (types.Jwt, "connector", "signer_jwt", {"type"}, set()),
    (types.Hmac, "connector", "signer_hmac", {"type"}, set()),
    (types.Hash, "connector", "signer_hash", {"type"}, set()),
    (types.OAuth1, "connector", "signer_oauth1", {"type"}, set()),
    (types.AwsSigV4, "connector", "signer_aws_sigv4", {"type"}, set()),
    (types.Tls, "connector", "tls", set(), set()),
    (types.Auth, "connector", "auth_parts", set(), set()),
    (types.Http, "connector", "http", set(), set()),
    (types.Check, "connector", "check", set(), set()),
    (types.Provision, "connector", "provision", set(), set()),
    (types.ProvisionLook, "connector", "provision_look", set(), set()),
    (types.Suggestion, "connector", "suggestion", set(), set()),
    (types.Exchange, "connector", "exchange", set(), set()),
    (types.Example, "connector", "example", set(), set()),
    (types.SandboxReply, "connector", "sandbox_reply", set(), set()),
    (types.SandboxRoute, "connector", "sandbox_route", set(), set()),
    (types.SandboxToken, "connector", "sandbox_token", set(), set()),
    (types.SandboxLimit, "connector", "sandbox_limit", set(), set()),
    (types.Sandbox, "connector", "sandbox", set(), set()),
    (types.Client, "client", None, set(), set()),
    (types.Ingest, "client", "ingest", set(), set()),
    (types.Binding, "client", "binding", set(), set()),
    (Settings, "project", None, set(), set()),
    (AlertSettings, "project", "alerts", set(), set()),
    (ClientAlerts, "project", "client_alerts", set(), set()),
    (AlertWay, "project", "alert_way", set(), set()),
]


def target(schema: Any, home: dict[str, Any]) -> dict[str, Any]:
    """The schema with what its `$ref` says beneath it."""
    file, _, name = schema.get("$ref", "").partition("#/$defs/")
    if not name:
        return dict(schema)
    home = document("connector") if file else home
    return {**target(home["$defs"][name], home), **schema}


def properties(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every property, wherever one is written (conditions apart)."""
    if not isinstance(schema, dict):
        return
    for name, part in schema.get("properties", {}).items():
        yield f"{path}/{name}", part
    for keyword in ("properties", "$defs"):
        for name, part in schema.get(keyword, {}).items():
            yield from properties(part, f"{path}/{name}")
    for keyword in ("additionalProperties", "items", "then", "else"):
        yield from properties(schema.get(keyword), path)
    for part in schema.get("allOf", []):
        yield from properties(part, path)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_every_schema_is_a_schema(path: Path) -> None:
    schema = json.loads(path.read_bytes())
    assert jsonschema_rs.meta.is_valid(schema)
    assert schema["title"]
    assert schema["description"]


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_every_property_has_a_description_and_an_example(path: Path) -> None:
    home = json.loads(path.read_bytes())
    bare = [
        where
        for where, schema in properties(home)
        if not {"description", "examples"} <= target(schema, home).keys() and "not" not in target(schema, home)
    ]
    assert bare == []


@pytest.mark.parametrize("name", ["connector", "client", "project"])
def test_the_examples_of_every_property_are_valid(name: str) -> None:
    home = document(name)
    connector = document("connector")
    registry = jsonschema_rs.Registry([(connector["$id"], connector)])
    wrong = []
    for where, schema in properties(home):
        merged = {**schema, "$defs": home.get("$defs", {}), "$id": home["$id"]}
        validator = jsonschema_rs.validator_for(merged, registry=registry)
        wrong += [where for example in target(schema, home).get("examples", []) if not validator.is_valid(example)]
    assert wrong == []


def unions(schema: Any, path: str = "") -> Iterator[str]:
    for key, part in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key in ("oneOf", "anyOf"):
            yield path
        if key not in ("if", "examples") and isinstance(part, dict | list):
            yield from unions(part, f"{path}/{key}")


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_no_error_can_hide_in_a_union(path: Path) -> None:
    assert list(unions(json.loads(path.read_bytes()))) == []


@pytest.mark.parametrize("mirror", MIRRORS, ids=lambda mirror: mirror[0].__name__)
def test_types_and_schema_mirror_each_other(
    mirror: tuple[type[msgspec.Struct], str, str | None, set[str], set[str]],
) -> None:
    struct, name, part, written, conditional = mirror
    home = document(name)
    schema = home if part is None else home["$defs"][part]
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == fields.keys() | written
    required = {key for key, field in fields.items() if field.required}
    assert set(schema.get("required", [])) | conditional == required
    for key, field in fields.items():
        assert target(schema["properties"][key], home).get("default") == default_of(field), key


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """What a schema should give as `default`; structures have none of their own."""
    default = field.default
    if default is msgspec.NODEFAULT or isinstance(default, msgspec.Struct):
        return None
    return default


def test_every_struct_has_its_mirror() -> None:
    structs = {each for each in vars(types).values() if isinstance(each, type) and issubclass(each, types.Part)}
    assert structs - {types.Part} - {mirror[0] for mirror in MIRRORS} == set()


BROWSING = json.loads((bundled("schemas") / "events" / "browsing.schema.json").read_bytes())
EVENT: dict[str, Any] = {
    "email": "prospect@example.com",
    "eventType": "product_view",
    "product": {
        "id": "PROD-456",
        "name": "Câmera DSLR",
        "price": Decimal("3499.90"),
        "category": "Eletrônicos",
        "url": "https://example.com/camera",
    },
    "timestamp": "2026-01-28T12:00:00Z",
    "clientId": "client-def",
    "anything": {"else": [1]},
}


def browsing_fault(event: dict[str, Any]) -> str:
    validator = jsonschema_rs.validator_for(BROWSING, validate_formats=True)
    return " ".join("/".join(map(str, error.instance_path)) or error.message for error in validator.iter_errors(event))


def test_a_browsing_event_may_have_more_than_the_schema_names() -> None:
    assert browsing_fault(EVENT) == ""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"email": "nobody"}, "email"),
        ({"email": "a" * 250 + "@example.com"}, "email"),
        ({"eventType": "Product View"}, "eventType"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"product": {"id": "1"}}, "product"),
        ({"product": {"id": "1", "name": "x", "price": -1}}, "product/price"),
        ({"product": {"id": "1", "name": "x", "price": "12"}}, "product/price"),
    ],
)
def test_a_browsing_event_that_no_crm_could_use_is_refused(change: dict[str, Any], fault: str) -> None:
    assert browsing_fault({**EVENT, **change}).startswith(fault)


def test_a_browsing_event_needs_who_what_and_when() -> None:
    assert browsing_fault({"a": 1}).count("is a required property") == 3
