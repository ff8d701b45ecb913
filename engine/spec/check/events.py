"""Paths of an event against `receive.schema`: what the schema does not have, and what was meant."""

from __future__ import annotations

import re
from typing import Any

from engine.notations.emitting import Problem
from engine.spec.findings import close, did_you_mean

_DEPTH = 20
_TOGETHER = ("allOf", "anyOf", "oneOf")
_BRANCHES = ("then", "else")
_NAMES = {"string": "text", "array": "a list", "number": "a number", "integer": "a number", "boolean": "true or false"}


def path_fault(schema: Any, path: tuple[str, ...], place: tuple[str | int, ...]) -> Problem | None:
    """What is wrong with `event.a.b`, given as ("event", "a", "b"); None where the schema has it, or can't tell."""
    nodes = _parts(schema, schema)
    for depth, key in enumerate(path[1:], 1):
        here = ".".join(path[:depth])
        known: dict[str, list[Any]] = {}
        for node in nodes:
            for name, child in node.get("properties", {}).items():
                known.setdefault(name, []).append(child)
        if key in known:
            nodes = [part for child in known[key] for part in _parts(child, schema)]
            continue
        if not known and (kind := _scalar(nodes)):
            hint = f"take one of its items: {here}[0].{key}" if kind == "a list" else f"write ${{ {here} }}"
            return Problem(place, "event-path", f"{'.'.join(path[: depth + 1])}: {here} is {kind}", hint)
        others = [child for node in nodes for child in _others(node, key)]
        if others:
            nodes = [part for child in others for part in _parts(child, schema)]
            continue
        if not known and not _closed(nodes):
            return None
        return _unknown(path, depth, key, list(known), place, closed=_closed(nodes))
    return None


def _unknown(
    path: tuple[str, ...], depth: int, key: str, known: list[str], place: tuple[str | int, ...], *, closed: bool
) -> Problem:
    says = f"{'.'.join(path[: depth + 1])} is not in the event schema"
    rest = path[depth + 1 :]
    near = next((name for name in known if close(key, name)), None)
    if near is not None:
        return Problem(place, "event-path", says, f"did you mean {'.'.join((*path[:depth], near, *rest))}?")
    if closed:
        hint = did_you_mean(key, known) or f"it has {', '.join(known[:12])}{'…' if len(known) > 12 else ''}"
        return Problem(place, "event-path", says, hint)
    hint = did_you_mean(key, known) or "add it to the schema, so that it is checked when it comes in"
    return Problem(place, "event-path", says, hint, "warning")


def _parts(schema: Any, root: Any, depth: int = 0) -> list[dict[str, Any]]:
    """A schema and all that it is put together of; references followed."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return []
    found = [schema]
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        found += _parts(_pointed(root, reference), root, depth + 1)
    for key in _TOGETHER:
        for part in schema.get(key) or ():
            found += _parts(part, root, depth + 1)
    for key in _BRANCHES:
        found += _parts(schema.get(key), root, depth + 1)
    return found


def _pointed(root: Any, reference: str) -> Any:
    found = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _scalar(nodes: list[dict[str, Any]]) -> str:
    """What it is where no node lets it be an object; empty where one does, or where none says."""
    kinds = [node["type"] for node in nodes if "type" in node]
    flat = [kind for each in kinds for kind in (each if isinstance(each, list) else [each])]
    return "" if not flat or "object" in flat else _NAMES.get(flat[0], str(flat[0]))


def _others(node: dict[str, Any], key: str) -> list[Any]:
    """The schemas of a key that is none of `properties`: by its pattern, or of any other key."""
    found = []
    for pattern, child in node.get("patternProperties", {}).items():
        try:
            if re.search(pattern, key):
                found.append(child)
        except re.error:
            found.append(child)
    if isinstance(node.get("additionalProperties"), dict):
        found.append(node["additionalProperties"])
    return found


def _closed(nodes: list[dict[str, Any]]) -> bool:
    return any(
        node.get("additionalProperties") is False or node.get("unevaluatedProperties") is False for node in nodes
    )
