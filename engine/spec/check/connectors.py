"""One connector -> its findings, and the facts that the check of its clients needs."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from engine.errors import ConnectError
from engine.notations.emitting import ALL_NAMES, Problem, Use
from engine.program import Program
from engine.sandbox import path_pattern
from engine.spec import types, units
from engine.spec.check.compiled import ANYONE, compiled, guarded
from engine.spec.check.limits import limit_faults
from engine.spec.check.literals import literal_faults
from engine.spec.check.names import Names
from engine.spec.check.places import Sheet, node_at
from engine.spec.check.provisions import provision_faults
from engine.spec.check.requests import reply_faults, request_faults, scalar_faults
from engine.spec.check.rules import rule_faults, status_fault
from engine.spec.check.settings import defaults_faults, values_faults
from engine.spec.findings import alike, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from engine.spec.located import Located

    Path = tuple[str | int, ...]

_USED = re.compile(r"\$use[\"']?\s*:\s*[\"']?([A-Za-z][A-Za-z0-9_]*)")
_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)


class Facts:
    """A connector that was read: its value, its long form, what compiles to what."""

    def __init__(self, connector: types.Connector, located: Located, gone: Collection[str] = ()) -> None:
        self.connector, self.located, self.gone = connector, located, frozenset(gone)
        self.names = Names(connector, connector.receive.schema, gone)

    @cached_property
    def rules(self) -> list[Problem]:
        return [*rule_faults(self.connector), *_units(self.connector)]

    @cached_property
    def faults(self) -> list[Problem]:
        """What is not written in its unit: it would not compile."""
        return [each for each in self.rules if each.rule in ("unit", "regex", "path")]

    @cached_property
    def problems(self) -> list[Problem]:
        return self._compiled[0]

    @cached_property
    def uses(self) -> list[Use]:
        return self._compiled[1]

    @cached_property
    def _compiled(self) -> tuple[list[Problem], list[Use]]:
        found = compiled(self.connector, self.located, [each.place for each in self.faults])
        problems = [*found.problems, *self.names.unknown(found.uses)]
        return problems, list(dict.fromkeys(found.uses))

    @cached_property
    def told(self) -> frozenset[tuple[Path, str, str]]:
        """What is said of the connector is not said again of its clients."""
        return frozenset((each.place, each.rule, each.message) for each in self.problems)

    @cached_property
    def bare(self) -> Program:
        """The connector without its actions: what an action that a client has changed is compiled in."""
        return Program(
            msgspec.structs.replace(self.connector, actions={}, checks={}, fields={}), ANYONE, types.Binding()
        )

    @cached_property
    def by_action(self) -> dict[str, list[Use]]:
        """What each action reads; under the empty name, what all of them share."""
        found: dict[str, list[Use]] = {}
        for use in self.uses:
            if use.place[0] not in ("fields", "provision"):  # the latter is for `check`: no client needs it to run
                found.setdefault(str(use.place[1]) if use.place[0] == "actions" else "", []).append(use)
        return found

    def reached(self, root: str, uses: Collection[Use]) -> set[str]:
        """Names of settings or secrets that these uses read, also by way of `fields`; `*` where a use reads all."""
        fields = {use.path[1] if len(use.path) > 1 else "*" for use in uses if use.path[0] == "fields"}
        by_fields = [use for use in self.uses if use.place[0] == "fields" and ("*" in fields or use.place[1] in fields)]
        read = [use.path for use in [*uses, *by_fields] if use.path[0] == root]
        return {path[1] if len(path) > 1 else "*" for path in read}


def connector_problems(facts: Facts) -> Iterator[Problem]:
    connector, located = facts.connector, facts.located
    yield from facts.problems
    yield from facts.rules
    yield from request_faults(connector)
    yield from limit_faults(connector)
    yield from provision_faults(connector)
    yield from scalar_faults(located)
    yield from literal_faults(located, facts.names)
    yield from defaults_faults(connector)
    for name, action in connector.actions.items():
        yield from _batch_faults(action.batch, ("actions", name, "batch"))
        yield from _resend_faults(action, ("actions", name), facts)
    if connector.sandbox is not None:
        yield from _sandbox_faults(connector, connector.sandbox)
    for index, example in enumerate(connector.examples):
        yield from _example_names(connector, example, ("examples", index), facts.gone)
    if facts.gone:  # what follows would speak of what was cut
        return
    yield from reply_faults(connector)
    yield from _unused_definitions(located)
    yield from _without_example(connector)


def _batch_faults(batch: types.Batch | None, place: Path) -> Iterator[Problem]:
    if batch is None:
        return
    most = batch.max
    if most.records is not None and batch.records > most.records:
        says = f"{batch.records} is above the {most.records} of batch.max"
        yield Problem((*place, "records"), "batch-max", says, f"write at most {most.records}")
    if most.bytes is not None and units.size(batch.bytes) > units.size(most.bytes):
        says = f"{batch.bytes} is above the {most.bytes} of batch.max"
        yield Problem((*place, "bytes"), "batch-max", says, f"write at most {most.bytes}")


def _resend_faults(action: types.Action, place: Path, facts: Facts) -> Iterator[Problem]:
    """`resend` sends the request again without the records that were named: it must be made of them."""
    for title, step in action.steps.items():
        at = [index for index, results in enumerate(step.results) if results.unnamed == "resend"]
        requests = ((*place, "steps", title, "request"), (*place, "request"))
        read = {use.path[0] for use in facts.uses if any(use.place[: len(each)] == each for each in requests)}
        if at and not read & {"batch", "record", "item"}:
            says = "resend would send the same request again: it holds no records"
            hint = "resend stands on the request that has them; here delivered or retry"
            yield Problem((*place, "steps", title, "results", at[0], "unnamed"), "resend", says, hint)


def _units(connector: types.Connector) -> Iterator[Problem]:
    for name, action in connector.actions.items():
        for title, step in action.steps.items():
            for index, results in enumerate(step.results):
                if results.on.status is not None:
                    place: Path = ("actions", name, "steps", title, "results", index, "on", "status")
                    yield from status_fault(results.on.status, place)
    sandbox = connector.sandbox or types.Sandbox()
    for name, limit in sandbox.limits.items():
        try:
            units.rate(limit.rate)
        except units.UnitError as error:
            says, _, hint = str(error).partition("; ")
            yield Problem(("sandbox", "limits", name, "rate"), "unit", says, hint)
    for index, route in enumerate(sandbox.routes):
        try:
            re.compile(path_pattern(route.path))
        except re.error as error:
            yield Problem(("sandbox", "routes", index, "path"), "path", f"can't be matched: {error}")


def _sandbox_faults(connector: types.Connector, sandbox: types.Sandbox) -> Iterator[Problem]:
    place: Path = ("sandbox",)
    yield from values_faults(connector, sandbox.settings, (*place, "settings"))
    for name in sandbox.secrets:
        if name not in connector.secrets:
            hint = did_you_mean(name, connector.secrets)
            yield Problem((*place, "secrets", name), "unknown-secret", "the connector has no such secret", hint)
    for index, route in enumerate(sandbox.routes):
        for key, said, known in (("token", route.token, sandbox.tokens), ("limit", route.limit, sandbox.limits)):
            if said is not None and said not in known:
                says = f"sandbox.{key}s has no {said}"
                yield Problem((*place, "routes", index, key), f"unknown-{key}", says, did_you_mean(said, known))


def _example_names(
    connector: types.Connector, example: types.Example, place: Path, gone: Collection[str]
) -> Iterator[Problem]:
    given = example.client
    if isinstance(given.get("settings"), dict):
        yield from values_faults(connector, given["settings"], (*place, "client", "settings"))
    patched = given.get("actions") if isinstance(given.get("actions"), dict) else {}
    for at, names in ((("outcomes",), example.outcomes), (("client", "actions"), patched or {})):
        for name in names:
            if name not in connector.actions and name not in gone:
                hint = did_you_mean(name, connector.actions)
                yield Problem((*place, *at, name), "unknown-action", "the connector has no such action", hint)


def _unused_definitions(located: Located) -> Iterator[Problem]:
    used = set(_USED.findall(_COMMENT.sub("", located.text)))
    definitions = located.root.get("definitions")
    if definitions is None or not definitions.is_map:
        return
    for kind, home in definitions.value.items():
        for name in home.value if home.is_map else ():
            if name not in used:
                says = "nothing uses it"
                yield Problem(
                    ("definitions", kind, name),
                    "unused-definition",
                    says,
                    f"take it out, or write {{$use: {name}}}",
                    "warning",
                )


def _without_example(connector: types.Connector) -> Iterator[Problem]:
    shown = {name for example in connector.examples for name in example.outcomes}
    for name in connector.actions:
        if name not in shown:
            says = "no example shows what it sends"
            hint = f"write one under `examples:` with `outcomes: {{{name}: [delivered]}}`"
            yield Problem(("actions", name), "no-example", says, hint, "warning")


def _failing(connector: types.Connector) -> Iterator[Problem]:
    from engine.authoring.examples import Shared, run_example

    shared = Shared()
    for index, example in enumerate(connector.examples):
        place: Path = ("examples", index)
        try:
            result = run_example(connector, example, shared=shared)
        except ConnectError as error:
            yield Problem(place, "example", f"{example.name}: {error}")
            continue
        except Exception as error:  # whatever a file can bring about is a finding
            yield Problem(place, "example", f"{example.name}: {type(error).__name__} {error}")
            continue
        if not result.passed:
            yield Problem(place, "example", f"{example.name}: {result.message}")


_CUT = {
    "base-url": {"http", "base_url", "auth", "auths", "place"},
    "unreachable": {"status", "code", "message", "content_type", "header", "when"},
}


def _made_by_cutting(problem: Problem, facts: Facts) -> bool:
    """Is it there only because a faulty part of the file was left out?"""
    gone = facts.gone
    if not gone:
        return False
    if problem.message.partition(" ")[0].partition(".")[0] in gone & ALL_NAMES:  # a part that was cut gives no names
        return True
    if problem.rule.startswith("unknown-"):
        node = node_at(facts.located.root, problem.place)
        return str(problem.place[-1]) in gone or (node is not None and str(node.value) in gone)
    return any(alike(name, cut) for name in gone for cut in _CUT.get(problem.rule, ()))


def connector_sheet(facts: Facts, *, examples: bool, indent: int = 0) -> Sheet:
    sheet = Sheet(facts.located, indent=indent)
    problems = guarded(lambda: list(connector_problems(facts)), ())
    sheet.add(each for each in problems if not _made_by_cutting(each, facts))
    if examples and not facts.gone and not any(each.severity == "error" for each in problems):
        sheet.add(_failing(facts.connector))
    return sheet
