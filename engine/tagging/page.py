"""One tag in words, as Markdown: what it sends, from where in the data layer, and what the page must allow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from engine.tagging.settings import FIELDS, KEY, PRODUCT_FIELDS, TYPES
from engine.tagging.snippet import policy
from engine.tagging.template import script_url

if TYPE_CHECKING:
    from engine.tagging.settings import Settings, Tag


def page(tag: Tag, *, client: str) -> str:
    settings = tag.settings
    parts = [
        f"# The tag of {client} for {settings.connector}",
        f"Events go to {settings.url}.",
        "\n".join(f"- {warning}" for warning in tag.warnings),
        "## Events",
        _table(("data layer", "`eventType`"), [(_names(name), f"`{name}`") for name in settings.events]),
        _left_out(tag),
        "## Fields",
        _table(("field", "from"), _fields(settings)),
        "## Consent",
        _consent(settings),
        "## What the page must allow",
        _table(("Content-Security-Policy", ""), [(f"`{name}`", source) for name, source in _policy(settings)]),
        f"Pages that may send: {', '.join(tag.origins) or 'none'}.",
        "## Without a browser",
        _curl(settings),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _names(name: str) -> str:
    return ", ".join(f"`{each}`" for each in dict.fromkeys((*TYPES.get(name, ()), name)))


def _left_out(tag: Tag) -> str:
    return f"No action wants {', '.join(f'`{name}`' for name in tag.unwanted)}: not sent." if tag.unwanted else ""


def _fields(settings: Settings) -> list[tuple[str, str]]:
    rows = [(f"`{name}`", f"always `{value}`") for name, value in settings.set.items()]
    if settings.id:
        made = "`eventType` and `orderId`, where there is an order; else made at random"
        rows.append((f"`{settings.id}`", f"`{settings.id}`; else {made}; the same over all tries"))
    rows += [(f"`{name}`", source) for name, source in FIELDS.items() if name in settings.only]
    if "product" in settings.only:
        rows += [(f"`product.{name}`", source) for name, source in PRODUCT_FIELDS.items() if name in settings.only]
    return rows


def _consent(settings: Settings) -> str:
    if not settings.consent:
        return "The tag asks for none: whoever puts it into the page sees to it."
    types = " and ".join(f"`{each}`" for each in settings.consent)
    return f"Nothing is sent and nothing stored before consent is granted for {types}."


def _policy(settings: Settings) -> list[tuple[str, str]]:
    own = policy(settings)
    return [
        ("connect-src", own["connect-src"]),
        ("script-src, of the snippet", own["script-src"]),
        ("script-src, of the template", script_url(settings)),
    ]


def _curl(settings: Settings) -> str:
    event = {
        "email": "user@example.com",
        "eventType": next(iter(settings.events), "product_view"),
        "timestamp": "2026-01-28T10:30:45Z",
        "product": {"id": "P1", "name": "Product", "price": 10},
        **settings.set,
        **({settings.id: "0b9c2a5e"} if settings.id else {}),
    }
    key = f"  -H 'X-Connect-Key: {settings.key or KEY}' \\\n" if settings.key is not None else ""
    body = json.dumps(event, ensure_ascii=False).replace("'", "'\\''")
    return f"```sh\ncurl {settings.url} \\\n{key}  -H 'Content-Type: application/json' \\\n  -d '{body}'\n```"


def _table(heads: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [heads, ("---", "---"), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
