"""The JSON Schemas of connectors and clients as a page: every key with type, default, meaning and an example."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.authoring.pages.markdown import code, flow, table
from engine.spec.shipped import bundled

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRODUCTION = """\
# Every key

<!-- Written by `connect docs --language`; a test keeps it current. -->

What stands in the JSON Schemas, which editors read too (`connect schema`), as tables. How the parts work together is
told in [the language](language.md); `connect validate` checks them.
"""
_SHOWN = 60  # characters of an example


def reference() -> str:
    """The whole page as Markdown."""
    schemas = {
        name: json.loads((bundled("schemas") / f"{name}.schema.json").read_text("utf-8"))
        for name in ("connector", "client")
    }
    parts = [_INTRODUCTION.rstrip()]
    for name, schema in schemas.items():
        parts.append(f"## A {name}\n\n{schema.get('description', '')}".rstrip())
        parts.append(keys(schema, schema, name))
    for name, schema in schemas.items():
        whole = f"## Parts of a {name}"
        parts.append("\n\n".join([whole, *of_parts(schema, name)]))
    parts.append("\n\n".join(["## Kinds of values", *of_values(schemas)]))
    return "\n\n".join(part for part in parts if part) + "\n"


def of_parts(schema: dict[str, Any], file: str) -> Iterator[str]:
    """A section for each definition that has keys of its own."""
    for name, part in schema["$defs"].items():
        if part.get("properties"):
            about = part.get("description", "") or f"The keys of {title(name, file)}."
            yield f"### {title(name, file)}\n\n{about}\n\n{keys(part, schema, file)}"


def of_values(schemas: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The kinds that are one value or a choice of kinds, in one table."""
    rows = []
    for file, schema in schemas.items():
        for name, part in schema["$defs"].items():
            if part.get("properties") or "not" in part or not part.get("description"):
                continue
            rows.append([code(title(name, file)), kind(part, schema, file), part["description"], examples(part)])
    yield table(["kind", "type", "what", "examples"], [row for at, row in enumerate(rows) if row not in rows[:at]])


def title(name: str, file: str) -> str:
    return name if file == "connector" else f"{file} {name}"


def keys(part: dict[str, Any], schema: dict[str, Any], file: str) -> str:
    required = set(part.get("required", []))
    rows = []
    for name, field in part.get("properties", {}).items():
        whole = {**resolved(field, schema), **field}
        default = "required" if name in required else code(flow(whole["default"])) if "default" in whole else ""
        rows.append([code(name), kind(field, schema, file), default, whole.get("description", ""), examples(whole)])
    return table(["key", "type", "default", "what", "example"], rows)


def resolved(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The definition that a field refers to."""
    found: dict[str, Any] = schema["$defs"].get(str(field.get("$ref", "")).rpartition("/")[2], {})
    return found


def kind(field: dict[str, Any], schema: dict[str, Any], file: str) -> str:
    """A type in words, with a link where it has a section."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        target = schema["$defs"].get(name, {})
        if target.get("properties"):
            return f"[{title(name, file)}](#{title(name, file).replace(' ', '-').lower()})"
        if "$ref" in target:
            return kind(target, schema, file)
        return title(name, file).replace("_", " ") if target.get("description") else kind(target, schema, file)
    if "const" in field:
        return code(flow(field["const"]))
    if "enum" in field:
        return ", ".join(code(flow(value)) for value in field["enum"])
    names = field.get("type")
    if isinstance(names, list):
        return " or ".join(names)
    if names == "array":
        return f"list of {kind(field['items'], schema, file)}" if isinstance(field.get("items"), dict) else "list"
    if names == "object":
        entries = field.get("additionalProperties")
        return f"map of {kind(entries, schema, file)}" if isinstance(entries, dict) and entries else "map"
    return (
        str(names or "any")
        .replace("string", "text")
        .replace("integer", "whole number")
        .replace("boolean", "true or false")
    )


def examples(field: dict[str, Any]) -> str:
    """The first example, if a table can hold it."""
    for value in field.get("examples", []):
        text = flow(value)
        return code(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")
    return ""
