"""What a client has to say to a connector: settings, secrets, and the smallest client file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.authoring.pages.markdown import block, code, flow, listed, table

if TYPE_CHECKING:
    from engine.spec import types


def settings(connector: types.Connector, *, shown: bool = False) -> str:
    """The tables, and the smallest client file where none is `shown` in the notes."""
    required = set(connector.settings.required)
    rows_ = [
        [code(name), kind(field), "yes" if name in required else "", default(field), says(field), examples(field)]
        for name, field in connector.settings.properties.items()
    ]
    found = ["## Settings and secrets"]
    if rows_:
        found.append(table(["setting", "type", "required", "default", "what", "examples"], rows_))
    rows_ = [
        [code(name), needed(field), sentence(field.title, field.description)]
        for name, field in connector.secrets.items()
    ]
    if rows_:
        found.append(table(["secret", "required", "what"], rows_))
    found.append("What only an action reads that is off is not asked for." + ("" if shown else " In a client file:"))
    if not shown:
        found.append(block("yaml", client_file(connector)))
    return "\n\n".join(found)


def kind(field: dict[str, Any]) -> str:
    if "enum" in field:
        return listed([code(flow(value)) for value in field["enum"]], "or")
    if "const" in field:
        return code(flow(field["const"]))
    names = field.get("type", "any")
    word = " or ".join(names) if isinstance(names, list) else str(names)
    return f"{word}, {field['format']}" if "format" in field else word


def default(field: dict[str, Any]) -> str:
    return code(flow(field["default"])) if "default" in field else ""


def examples(field: dict[str, Any]) -> str:
    return ", ".join(code(flow(value)) for value in field.get("examples", []) if value != field.get("default"))


def says(field: dict[str, Any]) -> str:
    return sentence(field.get("title", ""), field.get("description", ""))


def sentence(title: str, description: str) -> str:
    """Title and description in one: "My Domain. Setup > My Domain."."""
    end = "" if not description or title.endswith((".", "?", "!")) else "."
    return " ".join(part for part in (f"{title}{end}" if title else "", description) if part)


def needed(field: types.SecretField) -> str:
    if field.when is not None:
        return f"where {code(flow(field.when))}"
    return "" if field.optional else "yes"


def client_file(connector: types.Connector) -> str:
    """What the smallest client file says."""
    lines = ["client: my-shop", "ingest: {keys: ['env:MY_SHOP_KEY']}", "connectors:", f"  {connector.name}:"]
    if connector.receive.client is not None:
        lines.append("    match: my-shop  # what the events say for this client")
    asked = {
        name: next(iter(field.get("examples", [])), field.get("default"))
        for name, field in connector.settings.properties.items()
        if name in connector.settings.required
    }
    if asked := {name: value for name, value in asked.items() if value is not None}:
        lines += ["    settings:", *(f"      {name}: {yaml(value)}" for name, value in asked.items())]
    word = re.sub(r"\W", "_", connector.name).upper()
    secrets = [name for name, field in connector.secrets.items() if not field.optional and field.when is None]
    secrets = secrets or list(connector.secrets)
    if secrets:
        lines += ["    secrets:", *(f"      {name}: env:MY_SHOP_{word}_{name.upper()}" for name in secrets)]
    return "\n".join(lines if len(lines) > 4 else [*lines[:3], f"  {connector.name}: {{}}"])


def yaml(value: Any) -> str:
    text = flow(value)
    return (
        text if not isinstance(value, str) or text.startswith('"') or re.fullmatch(r"[\w./@+-]+", text) else f'"{text}"'
    )
