"""
What a schema finds wrong -> findings in plain words, each at the key or value an author has to change.

A schema may carry its own words as `errorMessage` and its own rule id as `x-rule`; with a rule of its own, no value is
repeated, since it could be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from engine.spec.findings import Finding, alike, close, did_you_mean, nearest_to
from engine.spec.shipped import bundled as bundled

if TYPE_CHECKING:
    from engine.spec.located import Located

Steps = tuple[str | int, ...]

MOST = 1_000  # findings of one file; the others are seen once these are mended
_BASE = "https://schemas.invalid/"  # never fetched: both files are at hand
_PATH = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d+\])+"
_OF_ABSENCE = re.compile(r": needs |\Aneeds |: stands beside ")
# What other tools call it, and what it is called here, if that is a key of the place.
_SYNONYMS = {
    "client": ("name",),
    "json": ("body", "data", "payload"),
    "body": ("json", "data"),
    "query": ("params", "parameters", "query_params"),
    "attempts": ("retries", "tries", "max_attempts", "max_retries"),
    "records": ("size", "count", "max_records", "limit"),
    "then": ("do", "action", "outcome", "result"),
    "url": ("uri", "endpoint", "address"),
    "when": ("if", "condition", "filter", "only_if"),
    "wait": ("delay", "interval", "backoff", "sleep"),
    "method": ("verb", "http_method"),
    "title": ("label", "display_name"),
    "record": ("mapping", "map", "fields", "body"),
}
_SYNONYM_PAIRS = [(word, name) for name, words in _SYNONYMS.items() for word in words]
_KINDS = {
    "object": "a map",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_UNITS = {"duration": "{}s or {}m", "size": "{}KB or {}MB", "rate": "{}/1m"}
_BOUNDS = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} entries",
    "maxProperties": "must have at most {} entries",
}


def violations(located: Located, schema: str) -> list[Finding]:
    """`schema` is connector, client or project."""
    data = located.data
    validator = _validator(schema)
    if validator.is_valid(data):
        return []
    found: dict[Finding, Steps] = {}
    meant: dict[Steps, set[str]] = {}  # by place, what keys were probably meant to be
    for error in validator.iter_errors(data):
        fault = _Fault(error, data)
        path = fault.path
        if fault.keyword == "additionalProperties":
            known = fault.schema.get("properties", {})
            for key in error.kind.unexpected[:MOST]:
                found[_unknown_key(located, schema, path, key, known)] = path
                if name := _probably(key, known):
                    meant.setdefault(path, set()).add(name)
        elif fault.keyword == "required":
            found[_missing_key(located, path, error.kind.property, fault.schema)] = path
        else:
            found[_explained(located, fault)] = path
        if len(found) >= MOST:
            break
    return [finding for finding, path in found.items() if not _follows(finding, path, meant)]


def _follows(finding: Finding, path: Steps, meant: Mapping[Steps, set[str]]) -> bool:
    """Would it go with the fault of a key beside it? A key written wrong is one fault, not two."""
    missing = [name for at, names in meant.items() if at in (path, path[:-1]) for name in names]
    words = set(re.findall(r"\w+", finding.message.rpartition(": ")[2]))
    return finding.rule != "unknown-key" and any(
        name in words and _OF_ABSENCE.search(finding.message) for name in missing
    )


def schema_fault(schema: Any) -> str:
    """Why a JSON Schema that an author wrote can't be used; empty if it can."""
    import jsonschema_rs

    if reference := outside_reference(schema):
        return f"$ref {reference} leads out of the schema; put it under $defs"
    if kind := _no_type(schema):
        return f"{kind} is not a type; {did_you_mean(kind, _KINDS) or 'types are ' + ', '.join(_KINDS)}"
    try:
        jsonschema_rs.validator_for(schema)
    except ValueError as error:
        return str(error).splitlines()[0][:200]
    return ""


def _no_type(schema: Any) -> str:
    """The first `type` of a schema that is none."""
    if not isinstance(schema, Mapping):
        return ""
    kinds = schema.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if isinstance(kind, str) and kind not in _KINDS:
            return kind
    inner = [*_values(schema.get("properties")), *_values(schema.get("$defs")), schema.get("items")]
    return next((found for part in inner if (found := _no_type(part))), "")


def _values(part: Any) -> list[Any]:
    return list(part.values()) if isinstance(part, Mapping) else []


def outside_reference(schema: Any) -> str:
    """The first `$ref` that does not stay in the schema."""
    if isinstance(schema, Mapping):
        reference = schema.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            return reference
        schema = list(schema.values())
    if isinstance(schema, list):
        return next((found for part in schema if (found := outside_reference(part))), "")
    return ""


@cache
def document(name: str) -> dict[str, Any]:
    """A schema of this engine, such as `connector`."""
    raw = (bundled("schemas") / f"{name}.schema.json").read_bytes()
    return {**json.loads(raw), "$id": f"{_BASE}{name}.schema.json"}


@cache
def _validator(name: str) -> Any:
    import jsonschema_rs

    connector = document("connector")
    if name == "connector":
        return jsonschema_rs.validator_for(connector)
    registry = jsonschema_rs.Registry([(connector["$id"], connector)])
    return jsonschema_rs.validator_for(document(name), registry=registry)


class _Fault:
    """One error of the validator, with the part of the schema that it is about."""

    def __init__(self, error: Any, data: Any) -> None:
        self.path: Steps = tuple(error.instance_path)
        self.instance = data
        for part in self.path:  # not `error.instance`, in which numbers have lost digits
            self.instance = self.instance[part]
        location = error.absolute_keyword_location
        self.about_key = location.endswith("/propertyNames")
        if self.about_key:  # what a name looks like is said where names are described
            self.instance = error.kind.error.instance
            self.schema = _target(_schema_at(location))
            self.keyword = "propertyNames"
        else:
            parent, _, self.keyword = location.rpartition("/")
            self.schema = _schema_at(parent)


def _schema_at(location: str) -> Mapping[str, Any]:
    """The schema that an absolute address such as `…/client.schema.json#/$defs/patch` means."""
    home, _, pointer = location.partition("#")
    found: Any = document(home.removeprefix(_BASE).removesuffix(".schema.json"))
    for part in pointer.split("/")[1:]:
        step = unquote(part).replace("~1", "/").replace("~0", "~")
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found if isinstance(found, Mapping) else {}


def _unknown_key(located: Located, schema: str, path: Steps, key: str, known: Mapping[str, Any]) -> Finding:
    hint = _belongs_under(key, known)
    if not hint and (name := _probably(key, known)):
        hint = f'did you mean "{name}"?'
    if not hint:
        hint = (
            _among_names(known)
            or _belongs_above(schema, path, key)
            or (did_you_mean(key, known) if len(key) > 5 else "")
        )
    if not hint:
        here = [name for name in known if not name.startswith("$") and name not in ("args", "except")]
        hint = f"here stand {', '.join(here)}" if 0 < len(here) <= 20 else ""
    return located.finding((*path, key), "unknown-key", "unknown key", hint, on_key=True)


def _probably(key: str, known: Mapping[str, Any]) -> str | None:
    """The key that was meant: written a little otherwise, or as other tools call it."""
    near = nearest_to(key, known)
    if near and (close(key, near) or near.startswith(key) or key.startswith(near) or alike(key, near)):
        return near
    others = [name for word, name in _SYNONYM_PAIRS if word == key.lower() and name in known]
    return others[0] if others else None


def _belongs_under(key: str, known: Mapping[str, Any]) -> str:
    for name, part in known.items():
        if key in _target(part).get("properties", {}):
            return f"it belongs under `{name}:`"
    return ""


def _among_names(known: Mapping[str, Any]) -> str:
    """Is there but one map of named things that it could be an entry of?"""
    named = [name for name, part in known.items() if isinstance(_target(part).get("additionalProperties"), dict)]
    return f"it belongs under `{named[0]}:`" if len(named) == 1 and len(known) <= 2 else ""


def _belongs_above(schema: str, path: Steps, key: str) -> str:
    """Is it a key of the map that this one stands in?"""
    names = [at for at, part in enumerate(path) if isinstance(part, str)]
    if len(path) > 1 and names and key in _keys_at(schema, path[: names[-1]]):
        return f"it belongs one level up, beside `{path[names[-1]]}:`"
    return ""


def _keys_at(name: str, path: Steps) -> set[str]:
    """The keys that a schema knows for the map at this path."""
    here: list[Mapping[str, Any]] = _parts(document(name))
    for step in path:
        inner: list[Mapping[str, Any]] = []
        for part in here:
            if isinstance(step, int):
                inner += _parts(part.get("items"))
            else:
                inner += _parts(part.get("properties", {}).get(step, part.get("additionalProperties")))
        here = inner
    return {key for part in here for key in part.get("properties", {})}


def _parts(schema: Any, depth: int = 0) -> list[Mapping[str, Any]]:
    """A schema with what it refers to and what it is put together from."""
    if not isinstance(schema, Mapping) or depth > 8:
        return []
    found = [schema]
    if "$ref" in schema:
        found += _parts(_target(schema), depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(key, ()):
            found += _parts(part, depth + 1)
    for key in ("then", "else"):
        found += _parts(schema.get(key), depth + 1)
    return found


def _target(schema: Any) -> Mapping[str, Any]:
    reference = schema.get("$ref", "") if isinstance(schema, Mapping) else ""
    if "#/$defs/" not in reference:
        return schema if isinstance(schema, Mapping) else {}
    name = reference.partition("#/$defs/")[2]
    homes = (document(home)["$defs"] for home in ("connector", "client"))
    return next((home[name] for home in homes if name in home), {})


def _missing_key(located: Located, path: Steps, key: str, schema: Mapping[str, Any]) -> Finding:
    says = schema.get("errorMessage") or f'needs "{key}"'
    return located.finding(path, "missing-key", says, on_key=True)


def _explained(located: Located, fault: _Fault) -> Finding:
    schema = fault.schema
    if fault.about_key:
        path = (*fault.path, fault.instance)
        return located.finding(path, "name", schema.get("errorMessage", "no such name"), on_key=True)
    if "x-rule" in schema:  # what stands here may be a secret: its own words, which repeat nothing
        return located.finding(fault.path, schema["x-rule"], schema["errorMessage"])
    rule, says, hint = _in_words(fault)
    return located.finding(fault.path, rule, says, hint, on_key=fault.keyword == "not")


def _in_words(fault: _Fault) -> tuple[str, str, str]:
    """Rule, what is wrong, what to write instead."""
    schema, value = fault.schema, fault.instance
    wanted = schema.get(fault.keyword)
    unit = schema.get("format") if schema.get("format") in _UNITS else None
    own = schema.get("errorMessage")
    if unit and _is_number(value):
        example = _UNITS[unit].replace("{}", str(value))
        return "unit", f"{value} is a bare number", f"write it with its unit, such as {example}"
    match fault.keyword:
        case "type":
            says = f"must be {_listed(wanted)}, not {_kind(value)}"
            return "type", says, _type_hint(value, wanted, schema)
        case "enum" if not own:
            return "value", *_no_choice(value, wanted or ())
        case "pattern" | "format" if not own:
            return "value", "is not written as it must be", _example(schema)
        case "uniqueItems":
            return "value", "an item stands twice", ""
        case bound if bound in _BOUNDS:
            return "value", own or _BOUNDS[bound].format(wanted), ""
    hint = ""
    if isinstance(value, str) and own:
        if re.fullmatch(_PATH, value) and own.startswith("an expression is wanted"):
            hint = f"write ${{ {value} }}"
        elif unit and re.search(r"\s//", value):
            hint = "a comment begins with ` #`"
    return ("unit" if unit else "value"), own or "is not allowed here", hint


def _no_choice(value: Any, choices: Iterable[Any]) -> tuple[str, str]:
    choices = list(choices)
    if not isinstance(value, str):
        return f"must be one of {', '.join(map(str, choices))}", ""
    hint = did_you_mean(value, [choice for choice in choices if isinstance(choice, str)])
    shown = value if len(value) <= 40 else f"{value[:40]}…"
    return (f"{shown} is not known" if hint else f"{shown} is not one of {', '.join(map(str, choices))}"), hint


def _type_hint(value: Any, wanted: Any, schema: Mapping[str, Any]) -> str:
    types = [wanted] if isinstance(wanted, str) else list(wanted)
    if "string" in types and (_is_number(value) or isinstance(value, bool)):
        return f'quote it: "{str(value).lower()}"'
    if isinstance(value, str) and (meant := _without_quotes(value, types)):
        return f"write {meant}"
    if "array" in types and isinstance(value, str):
        return "a list is written [a, b], or with `- ` in lines of its own"
    if "array" in types and isinstance(value, dict):
        return "each item begins with `- `"
    if "object" in types:
        if isinstance(value, list):
            return "without `- ` before its keys"
        return f"such as {written(schema['examples'][0])}" if schema.get("examples") else ""
    return ""


def _without_quotes(text: str, types: list[str]) -> str:
    """The truth or the number that a text says, where one of these is wanted."""
    if "boolean" in types and text.lower() in ("true", "yes", "on", "false", "no", "off"):
        return "true" if text.lower() in ("true", "yes", "on") else "false"
    if ("integer" in types or "number" in types) and re.fullmatch(r"0|[1-9][0-9]*", text):
        return text
    return ""


def written(value: Any) -> str:
    """A value in one line of YAML; empty where it would be long."""
    if isinstance(value, dict):
        text = f"{{{', '.join(f'{key}: {written(child)}' for key, child in value.items())}}}"
    elif isinstance(value, list):
        text = f"[{', '.join(map(written, value))}]"
    elif isinstance(value, str):
        text = value if re.fullmatch(r"[\w./-]+", value) else f'"{value}"'
    else:
        text = json.dumps(value)
    return text if len(text) <= 80 else "{…}"


def _example(schema: Mapping[str, Any]) -> str:
    examples = schema.get("examples")
    return f"such as {examples[0]}" if examples else ""


def _listed(wanted: Any) -> str:
    names = [_KINDS[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted)]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | Decimal():
            return f"{value}" if isinstance(value, Decimal) else "a number"
        case str():
            return "text"
        case list():
            return "a list"
    return "a map"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)
