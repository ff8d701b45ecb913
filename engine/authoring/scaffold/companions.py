"""What stands beside a new connector: a client, an event, its schema, and a page."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from engine.authoring.scaffold.connector import events_of
from engine.authoring.scaffold.draft import DECIDE, Draft, Tree
from engine.authoring.scaffold.writing import Inline, Note, Noted, block, plain
from engine.spec.shipped import bundled


def client_text(draft: Draft, client: str) -> str:
    keys = [f"env:{variable(client, 'write_key')}"]
    entries: Tree = {
        "client": client,
        "title": f"An example client of {draft.title}",
        "ingest": Noted(Inline(keys=keys), "who sends this key is this client"),
        "connectors": binding(draft, client),
    }
    return "\n".join(
        [
            "# yaml-language-server: $schema=../schemas/client.schema.json",
            f"# One account of {draft.title}: copy this file for each. A secret is a reference, never the value.",
            *block(entries),
            "",
        ]
    )


def binding(draft: Draft, client: str) -> Tree:
    """What a client file says of this connector."""
    entry: Tree = {}
    if draft.samples:
        entry[Note(f"{DECIDE} made up, so that it runs; the account's own")] = None
        entry["settings"] = draft.samples
    if draft.auth.secrets:
        entry["secrets"] = {name: f"env:{variable(client, name)}" for name in draft.auth.secrets}
    return {draft.name: entry}


def variable(client: str, what: str) -> str:
    """`my-shop`, `api_key` -> MY_SHOP_API_KEY."""
    name = re.sub(r"[^A-Z0-9]+", "_", f"{client}_{what}".upper()).strip("_")
    return name if name[:1].isalpha() else f"CLIENT_{name}"


def event_text(draft: Draft) -> str:
    return f"{_json(events_of(draft, draft.actions[0])[0])}\n"


def schema_text(draft: Draft) -> str:
    """The part of the browsing event that the connector reads; the rest of an event is taken as it is."""
    whole = json.loads((bundled("schemas") / "events" / "browsing.schema.json").read_text(encoding="utf-8"))
    event = events_of(draft, draft.actions[0])[0]
    found = _only(whole, event)
    found["title"] = f"Event for {draft.title}"
    found["description"] = "What this connector reads of an event. Further keys are taken as they are."
    found["required"] = [name for name in whole["required"] if name in event]
    return f"{json.dumps(found, indent=2, ensure_ascii=False)}\n"


def _only(schema: Any, event: dict[str, Any]) -> dict[str, Any]:
    """The schema with the properties that this event has; `$defs` as they are."""
    kept = {name: each for name, each in schema["properties"].items() if name in event}
    return {**schema, "properties": kept}


def notes_text(draft: Draft, client: str) -> str:
    """`docs/connectors/NAME.notes.md`: what no connector can say, and `connect docs` takes into its page."""
    lines = [
        f"<!-- {DECIDE} say what was tried with a real account, and what not. -->",
        "",
        "No account was at hand when this was written.",
        "",
        "## Set-up",
        "",
        f"<!-- {DECIDE} where a person finds each secret in the vendor's pages, and which rights it needs. -->",
        "",
        "```yaml",
        *block({"client": client, "connectors": plain(binding(draft, client))}),
        "```",
        "",
        f"Then `connect check {draft.name} {client}`.",
        "",
        "## Limits of the vendor",
        "",
        f"<!-- {DECIDE} requests in a time, records in a request, bytes in a body; with a link. -->",
        "",
        "Not looked up yet.",
        "",
    ]
    return "\n".join(lines)


def page_text(draft: Draft, connector: str, notes: str) -> str:
    """`docs/connectors/NAME.md`, as `connect docs` writes it of this text and these notes."""
    from engine.authoring.pages import page
    from engine.spec.load import load_connector
    from engine.spec.located import read

    file = f"connectors/{draft.name}.yaml"
    value, _, _ = load_connector(read(connector, file))
    assert value is not None  # the engine has just run it
    return page(value, source=f"../../{file}", notes=notes)


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.Encoder(decimal_format="number").encode(value), indent=2).decode()
