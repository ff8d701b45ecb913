"""What stands beside a new connector: a client, an event, its schema, and a page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from engine.scaffold.connector import events_of
from engine.scaffold.draft import DECIDE, Draft, Tree
from engine.scaffold.writing import Inline, Note, Noted, block, plain
from engine.spec.violations import bundled


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


def page_text(draft: Draft, client: str, sent: Any) -> str:
    """`docs/connectors/NAME.md`, in the order of the pages that come with the engine."""
    mode = "sent while the caller waits" if draft.direct else "stored, answered with 202, and sent afterwards"
    lines = [
        f"# {draft.title}",
        "",
        f"{draft.description or f'Carries shop events to {draft.title}.'} An event is {mode}.",
        f"The connector is [`connectors/{draft.name}.yaml`](../../connectors/{draft.name}.yaml).",
        "",
        f"<!-- {DECIDE} say what was tried with a real account, and what not. -->",
        "",
        "No account was at hand when this was written.",
        "",
        "## Set-up",
        "",
        f"<!-- {DECIDE} where a person finds each secret in the vendor's pages, and which rights it needs. -->",
        "",
        "```yaml",
        *block({"client": client, "connectors": _without_notes(binding(draft, client))}),
        "```",
        "",
        f"Then `connect check {draft.name} {client}`.",
        "",
    ]
    if draft.settings:
        rows = [
            (f"`{name}`", f"`{default}`" if (default := _default(each)) else "", plain(each).get("title", ""))
            for name, each in draft.settings.items()
        ]
        lines += [*_table(("setting", "default", "what"), rows), ""]
    if draft.auth.secrets:
        secrets = [(f"`{name}`", each["title"]) for name, each in plain(draft.auth.secrets).items()]
        lines += [*_table(("secret", "what"), secrets), ""]
    if draft.tables:
        names = ", ".join(f"`{name}`" for name in draft.tables)
        lines += [f"A client can change entries of these tables: {names}.", ""]
    for action in draft.actions:
        mapped = [(f"`{name}`", _code(value)) for name, value in leaves(plain(action.record))]
        lines += [f"## Mapping: `{action.name}`", "", f"`{action.method} {action.path}`: {action.title}.", ""]
        lines += [*_table((_cell(draft.title), "from"), mapped), ""] if mapped else []
    event = events_of(draft, draft.actions[0])[0]
    lines += ["In:", "", "```json event", _json(event), "```", ""]
    if isinstance(sent, dict | list):
        lines += ["Out:", "", "```json sent", _json(sent), "```", ""]
    lines += [
        "## Limits",
        "",
        f"<!-- {DECIDE} requests in a time, records in a request, bytes in a body; with a link. -->",
        "",
        *_limits(draft),
        "",
        "## Errors",
        "",
        *_errors(draft),
        "",
    ]
    return "\n".join(lines)


def _limits(draft: Draft) -> list[str]:
    found = ["- Ten requests a second for one client, until someone looks up the vendor's own limit."]
    found += [
        f"- `{action.name}` carries at most {action.records} records in a request."
        for action in draft.actions
        if action.records is not None
    ]
    return found


def _errors(draft: Draft) -> list[str]:
    again = "the token is renewed once; then the lane pauses" if draft.auth.refused == "reauth" else "the lane pauses"
    refused = "that record alone is found and" if any(each.records for each in draft.actions) else "it is"
    rows = [
        ("2xx with what `expect` asks for", "delivered"),
        ("2xx without it", "tried again; then the lane pauses"),
        ("401", f"{again}, someone is alerted, nothing is lost"),
        ("403", "the lane pauses, someone is alerted, nothing is lost"),
        ("429", "the lane waits as long as `Retry-After` says"),
        ("other 4xx", f"{refused} rejected: `connect dead list`"),
        ("5xx, no answer", "it waits and comes again, for up to three days"),
    ]
    return _table((f"{_cell(draft.title)} answers", "what happens"), rows)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each scalar of a record with its place: `product.id`, `items[].sku`."""
    if isinstance(value, dict) and "$each" in value:
        yield from leaves(value["do"], f"{path}[]")
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for child in value:
            yield from leaves(child, f"{path}[]")
    else:
        yield path, value


def _default(setting: Any) -> str:
    return str(plain(setting).get("default", ""))


def _without_notes(tree: Tree) -> Tree:
    found: Tree = plain(tree)
    return found


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"| {' | '.join('---' for _ in heads)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _code(value: Any) -> str:
    text = _cell(value)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.Encoder(decimal_format="number").encode(value), indent=2).decode()
