"""Payloads in and out, taken from the examples, which are tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.authoring.pages.markdown import block, code, flow, pretty

if TYPE_CHECKING:
    from engine.spec import types

MOST_EXAMPLES = 6


def chosen(connector: types.Connector) -> list[types.Example]:
    """For each action the first example in which all goes well; one with a single event before all others."""
    found: list[types.Example] = []
    for name in connector.actions:
        fine = [
            one
            for one in connector.examples
            if one.outcomes.get(name) and set(map(str, one.outcomes[name])) == {"delivered"} and sent(one)
        ]
        fine.sort(key=lambda one: (len(one.events) != 1, len([each for each in one.exchange if each.sends]) > 4))
        if fine and fine[0] not in found:
            found.append(fine[0])
    return found[:MOST_EXAMPLES]


def sent(example: types.Example) -> list[types.Exchange]:
    return [each for each in example.exchange if each.sends is not None]


def payloads(connector: types.Connector) -> str:
    examples_ = chosen(connector)
    if not examples_:
        return ""
    first = examples_[0].events[0]
    found = [
        "## Payloads",
        f"These are examples of the connector, which are tests: `connect test {connector.name}` runs them.",
    ]
    marked = False
    for example in examples_:
        found.append(f"### {example.name[:1].upper()}{example.name[1:]}")
        for event in example.events:
            mark = " event" if event == first and not marked else ""
            marked = marked or bool(mark)
            found.append(("In:\n\n" if event is example.events[0] else "") + block(f"json{mark}", pretty(event)))
        ours = first in example.events
        for each in sent(example):
            found.append(exchange(each.sends or {}, each.answers or {}, ours=ours))
    return "\n\n".join(found)


def exchange(sends: dict[str, Any], answers: dict[str, Any], *, ours: bool) -> str:
    query = sends.get("query") or {}
    target = f"{sends.get('method', '')} {sends.get('host', '')}{sends.get('path', '')}".strip()
    parts = [f"Out: {code(target)}" + (f", query {code(flow(query))}" if query else "")]
    for form in ("json", "form"):
        if form in sends:
            mark = " sent" if form == "json" and ours else ""
            parts.append(block(f"json{mark}" if form == "json" else "json", pretty(sends[form])))
    for form in ("csv", "text"):
        if form in sends:
            parts.append(block("text", str(sends[form])))
    status = answers.get("fails") or f"HTTP {answers.get('status', 200)}"
    if "body" in answers:
        parts.append(f"Back: {status}\n\n{block('json', pretty(answers['body']))}")
    elif answers.get("text"):
        parts.append(f"Back: {status}\n\n{block('text', str(answers['text']))}")
    else:
        parts.append(f"Back: {status}.")
    return "\n\n".join(parts)
