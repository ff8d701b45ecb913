"""Outcome rules: those that can never match, units, and look-ups or steps that are not there."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.notations.emitting import Problem
from engine.spec import units
from engine.spec.findings import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.spec.types import Action, Auth, Connector, OutcomeRule, Replies, Step

    Path = tuple[str | int, ...]

_CONDITIONS = ("status", "code", "message", "content_type", "header", "when")


class Rules(NamedTuple):
    """One list of rules; `actions` are those it may judge for."""

    place: Path
    rules: Sequence[OutcomeRule]
    actions: Mapping[str, Action]


def all_auths(connector: Connector) -> Iterator[tuple[Path, Auth]]:
    """Every way to log in, with its place."""
    if not connector.auths:
        yield ("auth",), connector.auth
    for name, auth in connector.auths.items():
        yield ("auths", name), auth


def rule_lists(connector: Connector) -> Iterator[Rules]:
    every = connector.actions
    yield from _of(connector.replies, ("replies",), every)
    for at, auth in all_auths(connector):
        if auth.token is not None:
            yield from _of(auth.token.replies, (*at, "token", "replies"), {})
            for key, steps in (("steps", auth.token.steps), ("discover", auth.token.discover)):
                for name, step in steps.items():
                    yield from _of(step.replies, (*at, "token", key, name, "replies"), {})
    for name, check in connector.checks.items():
        yield from _of(check.replies, ("checks", name, "replies"), {})
    for name, needed in connector.provision.items():
        if needed.look is not None:
            yield from _of(needed.look.replies, ("provision", name, "look", "replies"), {})
        if needed.make is not None:
            yield from _of(needed.make.replies, ("provision", name, "make", "replies"), {})
    for name, action in every.items():
        place: Path = ("actions", name)
        own = {name: action}
        yield from _of(action.replies, (*place, "replies"), own)
        for title, lookup in action.lookups.items():
            for source, spec in lookup.sources.items():
                yield from _of(spec.replies, (*place, "lookups", title, "sources", source, "replies"), own)
            if lookup.create is not None:
                yield from _of(lookup.create.replies, (*place, "lookups", title, "create", "replies"), own)
        for key, steps in (("steps", action.steps), ("on_failure", action.on_failure)):
            for title, step in steps.items():
                yield from _of_step(step, (*place, key, title), own)


def _of(replies: Replies | None, place: Path, actions: Mapping[str, Action]) -> Iterator[Rules]:
    if replies is not None and replies.outcomes:
        yield Rules((*place, "outcomes"), replies.outcomes, actions)


def _of_step(step: Step, place: Path, actions: Mapping[str, Action]) -> Iterator[Rules]:
    yield from _of(step.replies, (*place, "replies"), actions)
    for index, results in enumerate(step.results):
        if results.outcomes:
            yield Rules((*place, "results", index, "outcomes"), results.outcomes, actions)


def rule_faults(connector: Connector) -> Iterator[Problem]:
    for listed in rule_lists(connector):
        for index, rule in enumerate(listed.rules):
            place = (*listed.place, index)
            yield from _units(rule, place)
            yield from _targets(rule, place, listed.actions)
            before = next((at for at in range(index) if covers(listed.rules[at], rule)), None)
            if before is not None:
                always = not _conditions(listed.rules[before])
                why = "has no condition and takes all" if always else "takes all that it would"
                says = f"can never match: rule [{before}] of this list {why}"
                yield Problem(place, "unreachable", says, "put it before that one, or take it out")


def _conditions(rule: OutcomeRule) -> dict[str, Any]:
    return {key: value for key in _CONDITIONS if (value := getattr(rule, key)) is not None}


def covers(first: OutcomeRule, later: OutcomeRule) -> bool:
    """Does the first rule match whenever the later one would?"""
    ours, theirs = _conditions(first), _conditions(later)
    return all(key in theirs and _takes(key, value, theirs[key]) for key, value in ours.items())


def _takes(key: str, wide: Any, narrow: Any) -> bool:
    if wide == narrow:
        return True
    if key == "status":
        try:
            return _statuses(tuple(_listed(narrow))) <= _statuses(tuple(_listed(wide)))
        except units.UnitError:
            return False
    if key == "code":
        takes = units.codes(wide)
        return all((_no_wider(str(code)) and takes(str(code))) or code in _listed(wide) for code in _listed(narrow))
    if key == "message" and set(wide) == set(narrow) == {"contains"}:
        parts = [str(part).lower() for part in _listed(wide["contains"])]
        return all(any(part in str(text).lower() for part in parts) for text in _listed(narrow["contains"]))
    return False


@cache
def _statuses(spec: tuple[Any, ...]) -> frozenset[int]:
    holds = units.statuses(list(spec))
    return frozenset(status for status in range(100, 600) if holds(status))


def _no_wider(code: str) -> bool:
    """A code with a `*` stands for many; only one that ends with it can be compared as a text."""
    return "*" not in code[:-1]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# --- units and patterns ---


def _units(rule: OutcomeRule, place: Path) -> Iterator[Problem]:
    if rule.status is not None:
        yield from status_fault(rule.status, (*place, "status"))
    for key, test in (("message", rule.message), ("content_type", rule.content_type), *(rule.header or {}).items()):
        at = (*place, key) if key in ("message", "content_type") else (*place, "header", key)
        if isinstance(test, dict) and "matches" in test and (says := pattern_fault(test["matches"])):
            yield Problem((*at, "matches"), "regex", says, "look-around and back-references do not exist in RE2")
    yield from _zones(rule.wait, (*place, "wait"))


def status_fault(status: Any, place: Path) -> Iterator[Problem]:
    try:
        units.statuses(status)
    except units.UnitError as error:
        says, _, hint = str(error).partition("; ")
        yield Problem(place, "unit", says, hint)


def pattern_fault(pattern: Any) -> str:
    """Why RE2 can't read it; empty if it can."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(str(pattern), options)
    except re2.error as error:
        why = error.args[0] if error.args else error
        return f"not a regular expression: {why.decode() if isinstance(why, bytes) else why}"
    return ""


def _zones(wait: Any, place: Path) -> Iterator[Problem]:
    if isinstance(wait, list):
        for index, each in enumerate(wait):
            yield from _zones(each, (*place, index))
        return
    zone = wait.get("timezone") if isinstance(wait, dict) else None
    if isinstance(zone, str) and "${" not in zone and (says := zone_fault(zone)):
        yield Problem((*place, "timezone"), "unit", says, "such as America/Sao_Paulo or UTC")


def zone_fault(zone: Any) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo(str(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"{str(zone)[:60]!r} is not a time zone"
    return ""


# --- what a rule names ---


def _targets(rule: OutcomeRule, place: Path, actions: Mapping[str, Action]) -> Iterator[Problem]:
    if rule.forget is not None:
        known = list(dict.fromkeys(name for action in actions.values() for name in action.lookups))
        if rule.forget not in known:
            says = f"there is no look-up {rule.forget}"
            yield Problem((*place, "forget"), "unknown-lookup", says, _hint(rule.forget, known))
    if rule.from_ is not None and rule.from_ != "start":
        known = list(dict.fromkeys(name for action in actions.values() for name in action.steps))
        if rule.from_ not in known:
            says = f"there is no step {rule.from_}"
            yield Problem((*place, "from"), "unknown-step", says, _hint(rule.from_, [*known, "start"]))


def _hint(name: str, known: list[str]) -> str:
    return did_you_mean(name, known) or (f"there are {', '.join(known)}" if known else "there are none here")
