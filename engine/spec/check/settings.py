"""Values of settings against what the connector declares of them: kind, pattern, choices, units."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from engine.notations.emitting import Problem
from engine.spec import units
from engine.spec.check.rules import zone_fault
from engine.spec.findings import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.spec.types import Connector

    Path = tuple[str | int, ...]

_HOST = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z", re.IGNORECASE)
_KINDS = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
    "null": "null",
}


def values_faults(connector: Connector, values: Mapping[str, Any], place: Path) -> Iterator[Problem]:
    """Of settings that a client, an example or the sandbox gives."""
    known = connector.settings.properties
    for name, value in values.items():
        if name not in known:
            hint = did_you_mean(name, known) or (f"there are {', '.join(known)}" if known else "it has none")
            says = f"{connector.name} has no such setting"
            yield Problem((*place, name), "unknown-setting", says, hint)
        else:
            yield from value_faults(known[name], value, (*place, name))


def defaults_faults(connector: Connector) -> Iterator[Problem]:
    for name, schema in connector.settings.properties.items():
        if "default" in schema:
            place = ("settings", "properties", name, "default")
            empty = schema["default"] == "" and schema.get("type", "string") == "string"
            yield from () if empty else value_faults(schema, schema["default"], place)
        for index, example in enumerate(schema.get("examples", ())):
            yield from value_faults(schema, example, ("settings", "properties", name, "examples", index))


def value_faults(schema: dict[str, Any], value: Any, place: Path) -> Iterator[Problem]:
    try:
        errors = list(_validator(schema).iter_errors(value))
    except ValueError:  # not a JSON Schema: that is a finding already
        return
    for error in errors:
        yield _explained(schema, error, place)
    if not errors:
        yield from _unit_fault(schema, value, place)


_MOST = 1_000
_validators: dict[int, tuple[dict[str, Any], Any]] = {}  # by the schema's id, which is its own while it is kept


def _validator(schema: dict[str, Any]) -> Any:
    """What many clients are held against is compiled once. ValueError for what is no schema."""
    kept = _validators.get(id(schema))
    if kept is None:
        import jsonschema_rs

        if len(_validators) >= _MOST:
            _validators.clear()
        kept = _validators[id(schema)] = schema, jsonschema_rs.validator_for(schema)
    return kept[1]


def _explained(schema: dict[str, Any], error: Any, place: Path) -> Problem:
    """In words: what must stand there, never only what the library says of it."""
    at = (*place, *error.instance_path)
    keyword = str(error.schema_path[-1]) if error.schema_path else ""
    part: Any = schema
    for step in error.schema_path[:-1]:
        part = part.get(step, {}) if isinstance(part, dict) else {}
    part = part if isinstance(part, dict) else {}
    examples = part.get("examples") or schema.get("examples")
    hint = f"such as {_plain(examples[0])}" if examples else ""
    wanted = part.get(keyword)
    value = error.instance
    match keyword:
        case "type":
            listed = wanted if isinstance(wanted, list) else [wanted]
            says = f"must be {' or '.join(_KINDS.get(str(kind), str(kind)) for kind in listed)}"
            number = isinstance(value, int | Decimal) and not isinstance(value, bool)
            hint = f'quote it: "{value}"' if number and "string" in listed else hint
        case "enum":
            says = f"must be one of {', '.join(_plain(choice) for choice in wanted or ())}"
            hint = did_you_mean(str(value), [str(choice) for choice in wanted or ()])
        case "pattern":
            says = f"does not fit the pattern {wanted}"
        case _:
            says = str(error.message)
            says = says[:200] if len(says) <= 200 else f"{says[:200]}…"
    return Problem(at, "setting", says, hint)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _unit_fault(schema: dict[str, Any], value: Any, place: Path) -> Iterator[Problem]:
    wanted = schema.get("format")
    if wanted in _READ and not (isinstance(value, str) and "${" in value):
        try:
            _READ[wanted](value)
        except units.UnitError as error:
            says, _, hint = str(error).partition("; ")
            yield Problem(place, "unit", says, hint)


def _timezone(value: Any) -> None:
    if says := zone_fault(value):
        raise units.UnitError(f"{says}; such as America/Sao_Paulo or UTC")


def _host(value: Any) -> None:
    if not isinstance(value, str) or not _HOST.match(value):
        raise units.UnitError(f"{str(value)[:80]!r} is not a host; a name such as api.example.com, without https://")


_READ: dict[str, Callable[[Any], Any]] = {
    "rate": units.rate,
    "duration": units.duration,
    "size": units.size,
    "timezone": _timezone,
    "host": _host,
}
