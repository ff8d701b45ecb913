"""One client against the connectors it binds, and the clients of a project against each other."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.auth import given_by_consent
from engine.errors import BadValue, SecretUnavailable, TooMuch
from engine.expressions import Compiler
from engine.limits import A_PERIOD
from engine.names import CLIENT
from engine.notations.emitting import Problem, Use, is_expression
from engine.program import Action, Program, patched, with_defaults
from engine.secrets import looks_literal
from engine.spec import types, units
from engine.spec.check.compiled import guarded
from engine.spec.check.limits import PER_S, zone_faults
from engine.spec.check.names import Names
from engine.spec.check.places import Sheet
from engine.spec.check.requests import all_requests
from engine.spec.check.rules import all_auths
from engine.spec.check.settings import values_faults
from engine.spec.findings import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from engine.ports import Secrets
    from engine.spec.check.connectors import Facts
    from engine.spec.located import Located

    Path = tuple[str | int, ...]

_LITERAL = (
    "a secret is a reference, never the value itself: env:NAME, file:PATH, aws-secretsmanager:ID#KEY, "
    "aws-ssm:/NAME or keyring:SERVICE/NAME"
)


class ClientFile(NamedTuple):
    client: types.Client
    located: Located
    indent: int = 0


def client_sheet(
    file: ClientFile,
    facts_of: Callable[[str], Facts | None],
    known: Collection[str],
    *,
    resolve: Secrets | None,
    gone: Collection[str] = (),
) -> Sheet:
    """`facts_of` gives None for a connector that can't be used; `known` are the names of all."""
    sheet = Sheet(file.located, indent=file.indent)
    client = file.client
    for kind, references in (("keys", client.ingest.keys), ("signatures", client.ingest.signatures)):
        for index, reference in enumerate(references):
            sheet.add(_reference_faults(reference, ("ingest", kind, index), resolve))
    for name, binding in client.connectors.items():
        place: Path = ("connectors", name)
        if name not in known:
            hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
            sheet.add([Problem(place, "unknown-connector", "there is no such connector", hint)])
        for secret, reference in binding.secrets.items():
            sheet.add(_reference_faults(reference, (*place, "secrets", secret), resolve))
        facts = facts_of(name) if name in known else None
        if facts is not None:
            bound = _Bound(facts, client, binding, file.located, place, gone)
            sheet.add(guarded(lambda bound=bound: list(bound.faults()), place))  # type: ignore[misc]
    return sheet


def _reference_faults(reference: str, place: Path, resolve: Secrets | None) -> Iterator[Problem]:
    if looks_literal(reference):
        yield Problem(place, "secret-literal", _LITERAL)
    elif resolve is not None:
        try:
            resolve.resolve(reference)
        except SecretUnavailable as error:
            yield Problem(place, "secret-unavailable", str(error))


class _Bound:
    """One client's binding of one connector."""

    def __init__(
        self,
        facts: Facts,
        client: types.Client,
        binding: types.Binding,
        located: Located,
        place: Path,
        gone: Collection[str],
    ) -> None:
        self.facts, self.connector = facts, facts.connector
        self.client, self.binding, self.located, self.place, self.gone = client, binding, located, place, gone
        self.names = Names(self.connector, self.connector.receive.schema, facts.gone)
        self.active = client.active and binding.active

    def faults(self) -> Iterator[Problem]:
        connector, binding, place = self.connector, self.binding, self.place
        yield from values_faults(connector, binding.settings, (*place, "settings"))
        for name in binding.tables:
            if name not in connector.tables and name not in self.facts.gone:
                hint = _meant(name, connector.tables)
                yield Problem((*place, "tables", name), "unknown-table", f"{connector.name} has no such table", hint)
        for name in binding.actions:
            if name not in connector.actions and name not in self.facts.gone:
                hint = _meant(name, connector.actions)
                yield Problem((*place, "actions", name), "unknown-action", f"{connector.name} has no such action", hint)
        try:
            actions = patched(connector, binding)
        except (msgspec.ValidationError, AttributeError, TypeError) as error:
            yield Problem((*place, "actions"), "patch", f"the changed action can't be used: {error}")
            return
        changed = {name: spec for name, spec in actions.items() if self.needs_compiling(name)}
        problems, uses = self.compiled(changed)
        yield from problems
        yield from self.limits(actions)
        enabled = [name for name, spec in actions.items() if spec.active]
        used = self.auths_used([actions[name] for name in enabled])
        read = [
            use
            for name in ("", *enabled)
            for use in self.uses_of(name, changed, uses)
            if use.place[0] != "auths" or use.place[1] in used or use.place[2:] == ("when",)
        ]
        if self.active and not self.facts.gone and not self.gone:
            yield from self.missing_settings(read)
        yield from self.secrets(read)
        yield from self.keys()

    # --- what is changed ---

    def needs_compiling(self, name: str) -> bool:
        patch = self.binding.actions.get(name, {})
        return name in self.connector.actions and any(
            key in patch and (key in ("when", "vars", "record") or _speaks(patch[key]))
            for key in ("when", "vars", "record", "limits", "batch")
        )

    def compiled(self, changed: dict[str, types.Action]) -> tuple[list[Problem], list[Use]]:
        """Only what the client wrote itself: what is wrong with the connector is said there."""
        problems: list[Problem] = []
        uses: list[Use] = []
        if not changed:
            return problems, uses
        connector = self.connector
        program = self.facts.bare
        together = msgspec.structs.replace(connector, actions={**connector.actions, **changed})
        names = Names(together, connector.receive.schema, self.facts.gone)
        for name, spec in changed.items():
            program.compiler = Compiler()
            problems += guarded(lambda name=name, spec=spec: _made(program, name, spec), ("actions", name))  # type: ignore[misc]
            uses += program.compiler.uses
        problems += names.unknown(uses)
        told = self.facts.told
        ours = [each for each in problems if (each.place, each.rule, each.message) not in told]
        return [each._replace(place=(*self.place, *each.place)) for each in ours], uses

    def uses_of(self, name: str, changed: dict[str, types.Action], uses: list[Use]) -> list[Use]:
        if name in changed:
            return [use for use in uses if use.place[:2] == ("actions", name)]
        return self.facts.by_action.get(name, [])

    # --- settings and secrets ---

    def auths_used(self, enabled: list[types.Action]) -> set[str]:
        """The way to log in that serves this client, and those that its actions and the checks name."""
        auths = self.connector.auths
        serving = next((name for name, auth in auths.items() if self.applies(auth.when)), next(iter(auths), ""))
        asked = [request.auth for action in enabled for request in _requests_of(action)]
        asked += [check.request.auth for check in self.connector.checks.values()]
        return {serving, *(action.auth for action in enabled if action.auth), *(name for name in asked if name)}

    def missing_settings(self, read: list[Use]) -> Iterator[Problem]:
        wanted = self.facts.reached("settings", read)
        for name in self.connector.settings.required:
            schema = self.connector.settings.properties.get(name, {})
            given = name in self.binding.settings or "default" in schema
            if not given and (name in wanted or "*" in wanted):
                title = schema.get("title")
                says = f"lacks the setting {name}{f' ({title})' if title else ''}"
                examples = schema.get("examples")
                hint = f"write {name}: {examples[0]}" if examples else f"write {name}: …"
                yield Problem((*self.place, "settings"), "missing-setting", says, hint)

    def secrets(self, read: list[Use]) -> Iterator[Problem]:
        connector, binding = self.connector, self.binding
        reached = self.facts.reached("secrets", read)
        consented = given_by_consent(dict(all_auths(connector)), read)
        for name, field in connector.secrets.items():
            if name in consented:
                continue
            needed = (name in reached or "*" in reached) and not field.optional and self.applies(field.when)
            if needed and name not in binding.secrets and self.active and name not in self.gone:
                title = f" ({field.title})" if field.title else ""
                hint = f"write {name}: env:NAME"
                yield Problem((*self.place, "secrets"), "missing-secret", f"lacks the secret {name}{title}", hint)
        for name in binding.secrets:
            place = (*self.place, "secrets", name)
            if name not in connector.secrets:
                if name not in self.facts.gone:
                    says = f"{connector.name} has no such secret"
                    yield Problem(place, "unknown-secret", says, _meant(name, connector.secrets))
            elif name not in reached | self.for_provision() and "*" not in reached and not self.facts.gone:
                says = "nothing that is switched on reads it"
                yield Problem(place, "unused-secret", says, "take it out, or switch on what needs it", "warning")

    def for_provision(self) -> set[str]:
        """Secrets of ways to log in that `provision` names: a client may have them, and can do without."""
        named = {request.auth for place, request in all_requests(self.connector) if place[0] == "provision"}
        uses = [use for use in self.facts.uses if use.place[0] == "auths" and use.place[1] in named]
        return self.facts.reached("secrets", uses)

    def applies(self, when: Any) -> bool:
        if when is None:
            return True
        compiler = Compiler()
        holds = compiler.condition(when, CLIENT, ())
        try:
            return not compiler.problems and holds(self.scope)
        except TooMuch:
            return True  # whether it is needed can't be said; the run will say why

    @property
    def scope(self) -> dict[str, Any]:
        """Settings of this client, tables of the connector: a client can't change what the vendor allows."""
        return {
            "settings": with_defaults(self.connector.settings, self.binding.settings),
            "client": {"name": self.client.client, "title": self.client.title},
            "tables": self.connector.tables,
        }

    def keys(self) -> Iterator[Problem]:
        ingest = self.client.ingest
        if ingest.keys or ingest.signatures or not self.active or not {"keys", "signatures"}.isdisjoint(self.gone):
            return
        if self.connector.receive.client is None:
            says = f"no event can come in: the client has no write key, and {self.connector.name} reads no client"
            yield Problem(self.place, "no-key", says, "write `ingest: {keys: [env:NAME]}`")
        else:
            says = "without a write key, whoever knows the client's name can send events for it"
            yield Problem(self.place, "no-key", says, "write `ingest: {keys: [env:NAME]}`", "warning")

    # --- what the vendor allows ---

    def limits(self, actions: dict[str, types.Action]) -> Iterator[Problem]:
        connector, binding, place = self.connector, self.binding, self.place
        yield from zone_faults(binding.limits, (*place, "limits"))
        for name, limit in binding.limits.items():
            yield from self.above(
                limit, connector.http.limits.get(name), (*place, "limits", name), ("http", "limits", name)
            )
        for name, patch in binding.actions.items():
            if name not in actions or name not in connector.actions:
                continue
            theirs = connector.actions[name]
            at = ("actions", name)
            if "limits" in patch:
                changed = {title: limit for title, limit in actions[name].limits.items() if title in patch["limits"]}
                yield from zone_faults(changed, (*place, *at, "limits"))
                for title in patch["limits"]:
                    ours = actions[name].limits.get(title)
                    where = (*at, "limits", title)
                    yield from self.above(ours, theirs.limits.get(title), (*place, *where), where)
            if isinstance(patch.get("batch"), dict):
                yield from self.batch(patch["batch"], theirs, (*at, "batch"))

    def batch(self, patch: dict[str, Any], theirs: types.Action, at: Path) -> Iterator[Problem]:
        place = (*self.place, *at)
        if theirs.batch is None:
            says = "the action sends one record at a time; a client can't make it send batches"
            yield Problem(place, "patch", says, "take it out")
            return
        if "max" in patch:
            says = f"what the vendor takes is said by the connector ({self.where((*at, 'max'))})"
            yield Problem((*place, "max"), "patch", says, "take it out")
        most = theirs.batch.max
        for key, limit, read in (("records", most.records, int), ("bytes", most.bytes, units.size)):
            if limit is not None and key in patch and read(patch[key]) > read(limit):
                says = f"{patch[key]} is above the {limit} that the vendor takes ({self.where((*at, 'max', key))})"
                yield Problem((*place, key), "vendor-limit", says, f"write at most {limit}")

    def above(self, ours: types.Limit | None, theirs: types.Limit | None, place: Path, at: Path) -> Iterator[Problem]:
        """A client may only lower a limit."""
        if ours is None or theirs is None or ours == theirs:
            return
        for key, per in (("rate", _per_s), ("concurrency", _slots), ("budget", _slots)):
            mine, vendors = self.value(getattr(ours, key)), self.value(getattr(theirs, key))
            if mine is None or vendors is None:
                continue
            left, right = per(mine), per(vendors)
            if left is None or right is None:
                continue
            a_day = ours.per != theirs.per and key == "budget"
            if (left / PER_S[ours.per] > right / PER_S[theirs.per]) if a_day else left > right:
                own, other = (f" {A_PERIOD[ours.per]}", f" {A_PERIOD[theirs.per]}") if a_day else ("", "")
                says = f"{mine}{own} is above the connector's {vendors}{other} ({self.where((*at, key))})"
                yield Problem((*place, key), "vendor-limit", says, "a client may only lower a limit")

    def value(self, spec: Any) -> Any:
        if not is_expression(spec):
            return spec
        compiler = Compiler()
        run = compiler.value(spec, CLIENT, ())
        try:
            return None if compiler.problems else run(self.scope)
        except BadValue:
            return None

    def where(self, place: Path) -> str:
        return Sheet(self.facts.located).where(place)


def _made(program: Program, name: str, spec: types.Action) -> list[Problem]:
    Action(program, name, spec)
    return program.compiler.problems


def _requests_of(action: types.Action) -> Iterator[types.Request]:
    for step in (*action.steps.values(), *action.on_failure.values()):
        yield step.request
    for lookup in action.lookups.values():
        if lookup.request is not None:
            yield lookup.request
        for source in lookup.sources.values():
            yield source.request
        if lookup.create is not None:
            yield lookup.create.request


def _speaks(value: Any) -> bool:
    """Is there an expression somewhere in it?"""
    if isinstance(value, dict):
        return any(_speaks(child) for child in value.values())
    if isinstance(value, list):
        return any(_speaks(child) for child in value)
    return isinstance(value, str) and ("${" in value or "{{" in value)


def _per_s(text: Any) -> float | None:
    try:
        rate = units.rate(text)
    except units.UnitError:
        return None
    return rate.uses / rate.per_s if rate.per_s else None


def _slots(value: Any) -> float | None:
    return float(value) if isinstance(value, int | Decimal) else None


def _meant(name: str, known: Collection[str]) -> str:
    return did_you_mean(name, known) or (f"there are {', '.join(known)}" if known else "it has none")


# --- clients against each other ---


class _Claim(NamedTuple):
    file: ClientFile
    place: Path
    shown: str


def clashes(files: Iterable[ClientFile], chosen: Collection[str]) -> list[tuple[ClientFile, Problem]]:
    """What two clients claim: name, value in events, write key. Said in the later of them that was asked for."""
    claims: dict[tuple[str, str, str], list[_Claim]] = {}
    for file in files:
        client = file.client
        claims.setdefault(("duplicate-client", "", client.client), []).append(_Claim(file, ("client",), client.client))
        if not client.active:
            continue
        for kind, listed in (("keys", client.ingest.keys), ("signatures", client.ingest.signatures)):
            for index, key in enumerate(listed):
                claims.setdefault(("duplicate-key", "", key), []).append(_Claim(file, ("ingest", kind, index), ""))
        for name, binding in client.connectors.items():
            if binding.active:
                place: Path = ("connectors", name, "match") if binding.match else ("client",)
                value = binding.match or client.client
                claims.setdefault(("duplicate-match", name, value), []).append(_Claim(file, place, value))
    found = []
    for (rule, connector, _), claimed in claims.items():
        claimed.sort(key=lambda claim: claim.file.located.file in chosen)  # those not asked for come first
        names = {claim.file.client.client for claim in claimed}
        if len(claimed) < 2 or (rule == "duplicate-match" and len(names) < 2):
            continue  # a name that is given twice is said once
        first = claimed[0]
        for claim in claimed[1:]:
            if claim.file.located.file in chosen:
                at = Sheet(first.file.located).where(first.place)
                found.append((claim.file, Problem(claim.place, rule, _said(rule, connector, claim.shown, at))))
    return found


def _said(rule: str, connector: str, value: str, other: str) -> str:
    match rule:
        case "duplicate-client":
            return f"{value} is also the client of {other}"
        case "duplicate-key":
            return f"also a write key of another client: {other}"
    return f"events of {connector} with {value} are also bound in {other}"
