"""
A connector -> its page: flow, set-up, settings, mapping, payloads, limits, errors, provisioning, what to do in trouble.

What no spec can say stands beside it in a file of notes: what comes before its first heading follows the description,
a section "Set-up" comes before the settings, and the other sections come after the errors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.authoring.pages.actions import fields, mapping, tables
from engine.authoring.pages.client import settings
from engine.authoring.pages.failing import errors, provisioning, trouble
from engine.authoring.pages.flow import chart
from engine.authoring.pages.markdown import block
from engine.authoring.pages.pace import sending
from engine.authoring.pages.payloads import payloads

if TYPE_CHECKING:
    from engine.spec import types

WRITTEN = "<!-- Written by `connect docs`; change the connector, or the notes beside this page. -->"


def page(connector: types.Connector, *, source: str, notes: str = "", language: str = "") -> str:
    """
    The whole page, with the text of its notes in it.

    `source` is the way to the connector's file, empty where it comes with the engine; `language` is that to the page
    on the language, empty where there is none.
    """
    before, sections = split(notes)
    set_up = sections.pop("Set-up", "")
    parts = [
        f"# {connector.title}",
        WRITTEN,
        "\n".join([connector.description, where(connector, source)]).strip(),
        before,
        links(connector),
        f"## Flow\n\n{block('mermaid', chart(connector))}",
        f"## Set-up\n\n{set_up}" if set_up else "",
        settings(connector, shown="\nclient:" in notes),
        *(mapping(name, action) for name, action in connector.actions.items()),
        fields(connector),
        tables(connector),
        payloads(connector),
        sending(connector, language),
        errors(connector, language),
        provisioning(connector),
        *(f"## {title}\n\n{text}" for title, text in sections.items()),
        trouble(connector),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def where(connector: types.Connector, source: str) -> str:
    name = f"`{source.rpartition('/')[2] or f'{connector.name}.yaml'}`"
    return f"The connector is [{name}]({source})." if source else f"The connector, {name}, comes with the engine."


def split(notes: str) -> tuple[str, dict[str, str]]:
    """What comes before the first `##`, and the sections by their headings; a `#` of the notes is left out."""
    body = re.sub(r"\A# .*\n", "", notes.strip())
    first, *rest = re.split(r"^## ", body, flags=re.MULTILINE)
    sections = {}
    for text in rest:
        title, _, under = text.partition("\n")
        sections[title.strip()] = under.strip()
    return first.strip(), sections


def links(connector: types.Connector) -> str:
    named = [f"[{name}]({url})" for name, url in connector.links.items()]
    return f"The vendor's pages: {', '.join(named)}." if named else ""
