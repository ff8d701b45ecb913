"""What goes wrong: the rules over replies, what must exist before, and where a person looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.authoring.pages import words
from engine.authoring.pages.actions import address
from engine.authoring.pages.markdown import code, flow, link, table

if TYPE_CHECKING:
    from engine.spec import types


def errors(connector: types.Connector, language: str) -> str:
    rows_ = [
        [words.condition(rule), where, words.what_follows(rule, record=record), rule.why]
        for where, rule, record in words.rules_of(connector)
    ]
    rest = f"For all else {link('the rules of the language', language, 'judging-a-reply')} hold."
    if not rows_:
        return f"## Errors\n\nThere are no rules of its own. {rest}"
    about = f"The first rule that holds decides. {rest}"
    return f"## Errors\n\n{about}\n\n{table(['the vendor says', 'to', 'what happens', 'why'], rows_)}"


def provisioning(connector: types.Connector) -> str:
    """What must exist before events can come."""
    listed_: dict[str, Any] = getattr(connector, "provision", {}) or {}
    if not listed_:
        return ""
    rows_ = []
    for name, one in listed_.items():
        many = f"each of {code(flow(one.each))}" if one.each is not None else ""
        when = f"where {code(flow(one.when))}" if one.when is not None else ""
        look = code(address(one.look.request)) if one.look else ""
        made = code(address(one.make.request)) if one.make else ""
        what = "; ".join(part for part in (one.title, many, when) if part)
        rows_.append([code(name), what, look, made, one.manual, ", ".join(code(each.setting) for each in one.suggest)])
    heads = ["", "what", "looked for by", "made by", "by hand", "gives the setting"]
    about = (
        f"What must be there before the first event. `connect check {connector.name} CLIENT --provision` looks for it, "
        "and with `--make` makes what it can."
    )
    return f"## Provisioning\n\n{about}\n\n{table(heads, rows_)}"


def trouble(connector: types.Connector) -> str:
    name = connector.name
    seen: dict[str, list[str]] = {}
    for where, rule, _ in words.rules_of(connector):
        if rule.why and {rule.then, rule.else_} & {"pause", "reject"}:
            seen.setdefault(rule.why, []).append(f"{words.condition(rule)}{f' ({where})' if where else ''}")
    rows_ = [["; ".join(dict.fromkeys(conditions)), why] for why, conditions in seen.items()]
    rows_ += [
        ["nothing arrives", f"`connect status --connector {name}` says what waits, for whom and why"],
        [
            "an event was rejected",
            f"`connect dead list --connector {name}`, then `connect dead show ID`: request, reply, reason",
        ],
        [
            "a lane is paused",
            f"mend what its reason says, then `connect check {name} CLIENT` and `connect resume {name} CLIENT`",
        ],
        [
            "something else is sent than you think",
            f"`connect preview {name} event.json --explain` shows each field with its line",
        ],
        ["what was rejected shall go out after all", f"`connect dead retry --connector {name}`"],
    ]
    return f"## In trouble\n\n{table(['what you see', 'what to do'], rows_)}"
