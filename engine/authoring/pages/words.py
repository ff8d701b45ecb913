"""Rules, waits, limits and expressions of a connector in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.authoring.pages.markdown import code, flow, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.spec import types

_TABLE = re.compile(r"\btables\.(\w+)")
_LOOKUP = re.compile(r"\blookups\.(\w+)")
_SAVED = re.compile(r"\bsteps\.(\w+)\.(\w+)")
_CUT = re.compile(r"truncate\((?:[^()`]*,\s*)?`?(\d+)`?")
_SAYS = {
    re.compile(r"\bdecimal\((?:[^()]*,\s*)?`?(\d+)`?\)"): "{} decimals",
    re.compile(r"\b(lower)\b"): "small letters",
    re.compile(r"\b(trim)\b(?!\w)"): "trimmed",
    re.compile(r"\b(money)\("): "as people write prices",
    re.compile(r"\b(sha256|sha1|md5)\b"): "hashed with {}",
    re.compile(r"\bdate\([^()]*'(%Y-%m-%d)'"): "the day",
    re.compile(r"\b(?:default|coalesce)\b()"): "with something else where it is absent",
}


def of_expression(text: str) -> list[str]:
    """What a reader may miss in an expression: a cut, a vocabulary, a look-up."""
    found = [f"cut at {most} characters" for most in dict.fromkeys(_CUT.findall(text))]
    for pattern, says in _SAYS.items():
        if match := pattern.search(text):
            found.append(says.format(match[1]))
    found += [f"by table {code(name)}" for name in dict.fromkeys(_TABLE.findall(text))]
    found += [f"from look-up {code(name)}" for name in dict.fromkeys(_LOOKUP.findall(text))]
    return found + [f"from step {code(step)}" for step in dict.fromkeys(step for step, _ in _SAVED.findall(text))]


def condition(rule: types.OutcomeRule) -> str:
    """When a rule holds."""
    found: list[str] = []
    if rule.status is not None:
        found.append(f"HTTP {listed(texts(rule.status), 'or')}")
    if rule.code is not None:
        found.append(listed([code(text) for text in texts(rule.code)], "or"))
    if rule.message is not None:
        found.append(f"the message {test(rule.message)}")
    if rule.content_type is not None:
        found.append(f"the content type {test(rule.content_type)}")
    for name, spec in (rule.header or {}).items():
        found.append(f"header {code(name)} {test(spec)}")
    if rule.when is not None:
        found.append(f"where {code(flow(rule.when))}")
    return "; ".join(found) or "anything else"


def texts(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value])]


def test(spec: Any) -> str:
    if isinstance(spec, dict):
        parts = []
        if "contains" in spec:
            parts.append(f"has {listed([quoted(part) for part in texts(spec['contains'])], 'or')}")
        if "matches" in spec:
            parts.append(f"matches {code(str(spec['matches']))}")
        return " and ".join(parts)
    return f"has {listed([quoted(part) for part in texts(spec)], 'or')}"


def quoted(text: str) -> str:
    return f"“{text}”"


def what_follows(rule: types.OutcomeRule, *, record: bool = False) -> str:
    """What the engine does then; `record`: the rule judges one record of a reply, not the whole of it."""
    whole = "this action" if rule.scope == "action" else "the lane"
    wait = f" {waiting(rule.wait)}" if rule.wait is not None else ""
    otherwise = after(rule.else_ or "reject")
    tries = f", {times(rule.attempts)}, then {otherwise}" if rule.attempts is not None else ""
    match rule.then:
        case "delivered":
            says = "counts as delivered"
        case "retry":
            says = f"{'this record' if record else 'it'} is tried again{wait}{tries}"
        case "defer":
            says = f"this delivery waits{wait}, nothing is counted"
        case "throttle":
            says = f"{whole} waits{wait or ' as long as the reply says, or ever longer'}"
        case "split":
            says = f"the batch is halved until the culprit stands alone; that one: {otherwise}"
        case "reauth":
            says = "one new token, and the request is repeated"
        case "reject":
            who = "all records" if rule.all else "this record" if record else "it"
            says = f"{who} ends as a dead letter{', without an alarm' if rule.expected else ''}"
        case "skip":
            says = "it is skipped, and counted as such"
        case "pause":
            says = f"{whole} pauses, its events are kept, someone is told"
        case other:
            says = other
    if rule.forget:
        says += f"; look-up {code(rule.forget)} is asked anew"
    if rule.from_:
        says += "; it begins anew" if rule.from_ == "start" else f"; it goes back to step {code(rule.from_)}"
    return says


def after(outcome: str) -> str:
    """What follows when a rule has had its turns."""
    words = {"reject": "dead letter", "pause": "pause", "skip": "skipped", "throttle": "the lane waits"}
    return words.get(outcome, outcome)


def times(count: int) -> str:
    return {0: "not once", 1: "once", 2: "twice"}.get(count, f"{count} times")


def waiting(wait: Any) -> str:
    """How long."""
    if isinstance(wait, list):
        return "for the longest of: " + "; ".join(waiting(one).removeprefix("for ") for one in wait)
    if not isinstance(wait, dict):
        return f"for {wait}"
    most = f", at most {wait['max']}" if "max" in wait else ""
    if "header" in wait:
        return f"as long as header {code(str(wait['header']))} says{most}"
    if "from" in wait:
        return f"as long as the reply says{most}"
    if "until" in wait:
        zone = f" in {wait['timezone']}" if "timezone" in wait else ""
        return f"until {wait['until']}{zone}"
    return f"for {wait.get('initial')}, longer each time{', up to ' + str(wait['max']) if 'max' in wait else ''}"


def limit(one: types.Limit) -> str:
    """What a limit allows."""
    found: list[str] = []
    if one.rate is not None:
        found.append(f"{code(flow(one.rate))} requests")
    if one.concurrency is not None:
        found.append(f"{code(flow(one.concurrency))} at the same time")
    if one.budget is not None:
        zone = f" in {one.timezone}" if one.per != "hour" else ""
        found.append(f"a budget of {code(flow(one.budget))} {'an' if one.per == 'hour' else 'a'} {one.per}{zone}")
    found.append(
        {"client": "each client", "credentials": "all with the same credentials", "host": "all clients"}[one.of]
    )
    if one.by is not None:
        found.append(f"for each {code(flow(one.by))} by itself")
    if one.when is not None:
        found.append(f"where {code(flow(one.when))}")
    found.append("then this delivery waits" if one.then == "defer" else "then the lane waits")
    return "; ".join(found)


def rules_of(connector: types.Connector) -> Iterator[tuple[str, types.OutcomeRule, bool]]:
    """Every rule with where it holds, and whether it judges single records; a rule of several places comes once."""
    seen: list[types.OutcomeRule] = []

    def new(where: str, replies: types.Replies | None, *, record: bool = False) -> Iterator[tuple[str, Any, bool]]:
        for rule in replies.outcomes if replies is not None else []:
            if rule not in seen:
                seen.append(rule)
                yield where, rule, record

    for auth in (connector.auths or {"": connector.auth}).values():
        if auth.token is not None:
            yield from new("log-in", auth.token.replies)
    yield from new("", connector.replies)
    for name, action in connector.actions.items():
        for title, lookup in action.lookups.items():
            for part in (*lookup.sources.values(), lookup.create):
                yield from new(f"look-up {code(title)}", part.replies if part is not None else None)
        yield from new(code(name), action.replies)
        for title, step in action.steps.items():
            where = code(name) if title == "request" else f"{code(name)}, step {code(title)}"
            yield from new(where, step.replies)
            for result in step.results:
                told = f"a record of {where}"
                yield from new(told, types_replies(result.outcomes), record=True)


def types_replies(outcomes: list[types.OutcomeRule]) -> types.Replies:
    from engine.spec.types import Replies

    return Replies(outcomes=outcomes)
