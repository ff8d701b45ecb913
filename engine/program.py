"""A connector and a client -> all stages compiled, once; what intake and the worker run."""

from __future__ import annotations

import random
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from engine.auth import Auth, given_by_consent, unquoted
from engine.batching import Batcher, Ready
from engine.caching import Cache
from engine.errors import BadValue, ConnectError, SecretUnavailable, SpecErrors
from engine.exchange import Call
from engine.expressions import Compiler
from engine.limits import Gate
from engine.lookups import Found, Lookup
from engine.mapping import compile_record, compile_tree
from engine.names import ARRIVED, BOUND, CHECKED, CLIENT, LOOKED_UP, LOOKING, MAPPED, REPLY, ROW
from engine.notations import semantics
from engine.notations.emitting import Problem, closest
from engine.outcomes import Judge, Level, probed
from engine.privacy.personal import Personal
from engine.records import Draft, Outcome, OutcomeKind
from engine.retrying import Backoff
from engine.sending import Hosts, Requester
from engine.sequence import in_sequence
from engine.spec import types, units
from engine.spec.findings import Finding
from engine.steps import Step, Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from engine.expressions import Path, Run
    from engine.outcomes import ResultsRule
    from engine.records import Delivery, Trace
    from engine.wire import Wire

MAX_DERIVED = 200  # characters
ANSWERED = (OutcomeKind.REJECT, OutcomeKind.SKIP)  # of a look-up: it was asked, and has said no
MASKED = 4  # shorter secrets stand in too many words to be told from them

# A row's context is a copy of this over the names that are bound: a copy of a dict with all its keys takes half as long
# as one that grows by them. What is not computed yet is absent; nothing is ever written into its two empty objects.
EMPTY_ROW: dict[str, Any] = {**dict.fromkeys(("event", "fields", "record")), "lookups": {}, "vars": {}}

decode_event = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


class Done(msgspec.Struct, frozen=True):
    """A delivery that ended, or has to wait, before it was in a batch."""

    delivery: Delivery
    outcome: Outcome
    trace: Trace | None = None


class Check:
    """One compiled `require`: a reason, or None where the record is fine."""

    def __init__(self, compiler: Compiler, spec: types.Requirement, place: Path, *, early: bool) -> None:
        names = LOOKING | {"delivery"} if early else CHECKED
        self.that = compiler.condition(spec.that, names, (*place, "that")) if spec.that is not None else None
        self.reason = compiler.text(spec.reason or "a check failed", names, (*place, "reason"))
        self.schema = spec.schema
        if self.schema is not None:
            import jsonschema_rs

            self.validator = jsonschema_rs.validator_for(self.schema, validate_formats=True)
        compiler.made(self, place)

    def fails(self, scope: dict[str, Any], record: Any) -> str | None:
        if self.that is not None and not self.that(scope):
            try:
                return str(self.reason(scope) or "a check failed")
            except BadValue:
                return "a check failed"
        if self.schema is not None:
            faults = [
                f"{'.'.join(map(str, error.instance_path)) or 'record'}: {error.message[:200]}"
                for error in self.validator.iter_errors(record if record is not None else {})
            ]
            return "; ".join(faults[:5]) or None
        return None


def failed(checks: Sequence[Check], scope: dict[str, Any], record: Any) -> str | None:
    """Why the first of them that does not hold fails."""
    for check in checks:
        if why := check.fails(scope, record):
            return why
    return None


class Action:
    """One compiled action."""

    def __init__(self, program: Program, name: str, spec: types.Action) -> None:
        compiler, connector = program.compiler, program.connector
        self.name, self.spec = name, spec
        place: Path = ("actions", name)
        drop = spec.drop or connector.drop
        self.mode = spec.mode or connector.receive.mode
        self.when = compiler.condition(spec.when, ROW, (*place, "when"))
        key = spec.key if spec.key is not None else connector.key
        self.key = compiler.value(key, ROW, (*place, "key") if spec.key is not None else ("key",))
        self.batcher = Batcher(
            compiler, spec.batch, (*place, "batch"), rows=uses_rows(spec), ascii=connector.http.json.ascii
        )
        self.lookups = {
            title: Lookup(
                compiler,
                lookup,
                name=title,
                place=(*place, "lookups", title),
                connector=connector,
                call=program.caller(name, place, spec, f"lookup {title}"),
                cache=program.cache,
            )
            for title, lookup in spec.lookups.items()
        }
        self.vars = (
            compile_tree(compiler, spec.vars, LOOKED_UP | {"vars"}, (*place, "vars"), drop) if spec.vars else None
        )
        self.early, self.late = self.checks(compiler, spec, place)
        # Where nothing comes between the two, the fields are made with the record.
        self.makes_fields = bool(connector.fields and spec.record) and not (self.early or self.lookups or self.vars)
        self.record: Run = (
            compile_record(compiler, connector.fields, spec.record, (*place, "record"), drop)
            if self.makes_fields
            else compile_tree(compiler, spec.record, MAPPED, (*place, "record"), drop)
        )
        single = spec.batch is None

        def steps(of: dict[str, types.Step], key: str) -> dict[str, Step]:
            return {
                title: Step(
                    compiler,
                    step if single else within(step, self.batcher.bytes),
                    name=title,
                    place=place if title == "request" and len(of) == 1 else (*place, key, title),
                    action=spec,
                    action_place=place,
                    connector=connector,
                    single=single,
                    call=program.caller(name, place, spec, title, drop),
                    cache=program.cache,
                )
                for title, step in of.items()
            }

        self.steps = Steps(name, steps(spec.steps, "steps"), steps(spec.on_failure, "on_failure"), single=single)
        compiler.made(self, place)

    def draft(self, scope: dict[str, Any], wanted: Container[str]) -> Draft:
        """The delivery that it makes of an event; `wanted`: the actions that want the event, too."""
        after = tuple([other for other in self.spec.after if other in wanted]) if self.spec.after else ()
        return Draft(self.name, key_text(self.key(scope)), after, self.spec.if_rejected == "continue")

    @staticmethod
    def checks(compiler: Compiler, spec: types.Action, place: Path) -> tuple[list[Check], list[Check]]:
        """Those that read no look-up and nothing mapped run before the look-ups."""
        early, late = [], []
        for index, requirement in enumerate(spec.require):
            at = (*place, "require", index)
            if requirement.schema is None:
                probe = Compiler()
                probe.condition(requirement.that, CHECKED, at)
                if not {use.path[0] for use in probe.uses} & {"lookups", "vars", "record"}:
                    early.append(Check(compiler, requirement, at, early=True))
                    continue
            late.append(Check(compiler, requirement, at, early=False))
        return early, late

    def prepare(
        self, program: Program, wire: Wire, deliveries: Sequence[Delivery], *, failures: int
    ) -> tuple[list[Ready], list[Done]]:
        """Look-ups, variables, record and checks for a window of deliveries: what is ready, and what ended."""
        done: list[Done] = []
        rows: list[tuple[Delivery, dict[str, Any]]] = []
        row = program.rows(wire.scope, fields=not self.makes_fields)
        for delivery in deliveries:
            ours = False
            try:
                scope = row(decode_event(delivery.body), delivery.received_at)
                if program.reads_delivery:
                    scope["delivery"] = {"id": delivery.id, "attempt": delivery.attempts + 1}
                reason = failed(self.early, scope, None) if self.early else None
            except (BadValue, msgspec.DecodeError) as error:
                reason = str(error)
            except Exception as error:  # whatever one event does to us, its lane goes on
                reason, ours = wire.fault("mapping", error), True
            if reason is not None:
                done.append(Done(delivery, Outcome(OutcomeKind.REJECT, reason, "invalid", private=ours)))
            else:
                if self.lookups:
                    scope["lookups"] = {}
                rows.append((delivery, scope))
        early = len(done)
        for name, lookup in self.lookups.items():
            if not rows:
                break
            left = []
            answers = self.look_up(lookup, wire, [scope for _, scope in rows], failures)
            for (delivery, scope), found in zip(rows, answers, strict=True):
                if found.outcome is not None:
                    done.append(Done(delivery, found.outcome, found.trace))
                    continue
                if found.value is not None:
                    scope["lookups"][name] = found.value
                left.append((delivery, scope))
            rows = left
        if self.lookups and (rows or any(one.outcome.kind in ANSWERED for one in done[early:])):
            wire.looked_up()
        if rows:
            wire.maps()
        ready: list[Ready] = []
        for delivery, scope in rows:
            ours = False
            try:
                if self.vars is not None:
                    scope["vars"] = self.vars(scope) or {}
                record = self.record(scope)
                one = self.batcher.ready(delivery, scope, record)
                reason = failed(self.late, scope, record)
            except BadValue as error:
                reason = str(error)
            except Exception as error:
                reason, ours = wire.fault("mapping", error), True
            if reason is not None:
                done.append(Done(delivery, Outcome(OutcomeKind.REJECT, reason, "invalid", private=ours)))
            else:
                ready.append(one)
        return ready, done

    @staticmethod
    def look_up(lookup: Lookup, wire: Wire, scopes: list[dict[str, Any]], failures: int) -> list[Found]:
        try:
            with wire.away():
                return lookup.find(wire, scopes, failures=failures)
        except ConnectError:
            raise
        except Exception as error:
            reason = f"look-up {lookup.name}: {wire.fault('look-up', error)}"
            return [Found(outcome=probed(Outcome(OutcomeKind.RETRY, reason, private=True)))] * len(scopes)

    def forget(self, wire: Wire, lookup: str, scope: dict[str, Any]) -> None:
        """The cached answer of a look-up for this row was stale."""
        if (found := self.lookups.get(lookup)) is not None:
            found.forget(scope)
        wire.telemetry.event("look-up-forgotten", connector=wire.connector, client=wire.client, lookup=lookup)


class Program:
    """All that runs for one client of one connector. Making it compiles everything; see `compiler.problems`."""

    def __init__(
        self,
        connector: types.Connector,
        client: types.Client,
        binding: types.Binding,
        *,
        jitter: Callable[[], float] = random.random,
        compiler: Compiler | None = None,
    ) -> None:
        self.connector, self.client, self.binding = connector, client, binding
        self.compiler = compiler or Compiler()
        self.gates: list[Gate] = []  # of each request, for those who look at what is used of its limits
        self.hosts = Hosts(connector.hosts)
        self.cache = Cache()
        self.personal = Personal(connector.receive.schema)
        self.settings = with_defaults(connector.settings, binding.settings)
        self.scope: dict[str, Any] = {
            "settings": self.settings,
            "client": {"name": client.client, "title": client.title},
            "tables": {name: {**table, **binding.tables.get(name, {})} for name, table in connector.tables.items()},
        }
        self.backoff = Backoff(connector.http.retry, jitter)
        self.fields = compile_tree(self.compiler, connector.fields, ARRIVED, ("fields",)) if connector.fields else None
        self.derive = {
            name: self.compiler.value(spec, CLIENT | {"secrets"}, ("derive", name))
            for name, spec in connector.derive.items()
        }
        self.auths = {
            name: Auth(
                self.compiler,
                spec,
                name=name,
                place=("auths", name) if connector.auths else ("auth",),
                connector=connector,
                hosts=self.hosts,
                lane=self.name,
            )
            for name, spec in (connector.auths or {"default": connector.auth}).items()
        }
        self.auth = next((auth for auth in self.auths.values() if self.serves(auth)), next(iter(self.auths.values())))
        self.used_auths = {self.auth.name}
        self.action_specs = patched(connector, binding)
        sequence, faults = in_sequence(self.action_specs)
        self.compiler.problems += faults
        self.actions = {name: Action(self, name, spec) for name in sequence if (spec := self.action_specs[name]).active}
        self.checks = {name: self.check_call(name, check) for name, check in connector.checks.items()}
        read = {use.path[0] for use in self.compiler.uses}
        self.reads_received_at, self.reads_delivery = "received_at" in read, "delivery" in read
        self.row_scope = self.rows(self.scope)

    @property
    def name(self) -> str:
        return f"{self.connector.name}/{self.client.client}"

    @cached_property
    def secret_names(self) -> set[str]:
        """The secrets that something enabled reaches."""
        return {
            use.path[1]
            for use in self.compiler.uses
            if use.path[0] == "secrets" and len(use.path) > 1 and not self.elsewhere(use.place)
        }

    @cached_property
    def consented_secrets(self) -> set[str]:
        """Those of them that `connect login` makes superfluous."""
        auths: dict[Path, types.Auth] = {("auths", name): spec for name, spec in self.connector.auths.items()}
        return given_by_consent(auths or {("auth",): self.connector.auth}, self.compiler.uses)

    def elsewhere(self, place: Path) -> bool:
        """Does this place belong to a way to log in that this client does not use?"""
        return place[:1] == ("auths",) and place[1] not in self.used_auths

    def serves(self, auth: Auth) -> bool:
        try:
            return auth.when(self.scope)
        except BadValue as error:
            self.compiler.problems.append(Problem(("auths", auth.name, "when"), "too-much", error.reason, "write less"))
            return False

    def auth_for(self, named: str | None, place: Path) -> Auth:
        """The way to log in that a request names, or the one that serves this client."""
        if named is None:
            return self.auth
        if named not in self.auths:
            hint = closest(named, self.auths) or f"there are {', '.join(self.auths)}"
            self.compiler.problems.append(Problem((*place, "auth"), "unknown-auth", f"no auth is called {named}", hint))
            return self.auth
        self.used_auths.add(named)
        return self.auths[named]

    def forget(self) -> None:
        """As if it were new: without what its look-ups and log-ins keep in memory."""
        self.cache.kept.clear()
        for auth in self.auths.values():
            auth.cached = None

    def require_sound(self, file: str) -> None:
        """SpecErrors unless everything compiled."""
        errors = [problem for problem in self.compiler.problems if problem.severity == "error"]
        if errors:
            raise SpecErrors(
                [
                    Finding(file, 1, 1, one.rule, "error", f"{'.'.join(map(str, one.place))}: {one.message}", one.hint)
                    for one in errors
                ]
            )

    def caller(
        self, action: str, place: Path, spec: types.Action, step: str, drop: types.Drop | None = None
    ) -> Callable[..., Call]:
        """What makes a Call of a request of this action: with the limits of connector, auth, action and request."""

        def call(request: types.Request, names: frozenset[str], at: Path, judge: Judge) -> Call:
            gate = Gate(self.name)
            gate.add(self.compiler, self.connector.http.limits, names, ("http", "limits"), owner="http")
            auth = self.auth_for(request.auth or spec.auth, at if request.auth else place)
            limits = ("auths", auth.name, "limits") if self.connector.auths else ("auth", "limits")
            gate.add(self.compiler, auth.spec.limits, names, limits, owner=f"auth.{auth.name}")
            gate.add(self.compiler, self.binding.limits, names, ("limits",), owner="client")
            gate.add(self.compiler, spec.limits, names, (*place, "limits"), owner=action)
            gate.add(self.compiler, request.limits, names, (*at, "limits"), owner=f"{action}.{step}")
            gate.costs(self.compiler, request.cost, names, at)
            self.gates.append(gate)
            requester = self.requester(request, names, at, drop or spec.drop or self.connector.drop)
            judge.can_renew = auth.can_renew
            return Call(requester, judge, auth, gate, action=action, step=step)

        return call

    def requester(self, request: types.Request, names: frozenset[str], at: Path, drop: types.Drop) -> Requester:
        headers = {**self.connector.http.headers, **request.headers}
        whole = msgspec.structs.replace(request, headers=headers)
        return Requester(
            self.compiler, whole, names=names, place=at, drop=drop, http=self.connector.http, hosts=self.hosts
        )

    def check_call(self, name: str, check: types.Check) -> Call:
        place: Path = ("checks", name, "request")
        names = BOUND
        read = names | REPLY | {"now", "failures"}
        levels = [
            Level(self.compiler, check.replies, read, ("checks", name, "replies")),
            Level(self.compiler, self.connector.replies, read, ("replies",)),
        ]
        no_results: list[ResultsRule] = []
        judge = Judge(self.compiler, levels, no_results, check.request.expect, names | REPLY, place)
        return self.caller("check", ("checks",), types.Action(steps={}), name)(check.request, names, place, judge)

    def derived(self, secrets: Mapping[str, str]) -> dict[str, Any]:
        """
        What `derive` makes of settings and parts of secrets.

        SecretUnavailable where one can't be had, or is no short part but a secret itself.
        """
        scope = {**self.scope, "secrets": dict(secrets)}
        found = {}
        for name, run in self.derive.items():
            try:
                value = run(scope)
                text = semantics.plain(value) if value is not None else ""
            except BadValue as error:
                raise SecretUnavailable(f"{self.name}: derived.{name} can't be had: {unquoted(error)}") from None
            if any(len(secret) >= MASKED and secret in text for secret in secrets.values()):
                raise SecretUnavailable(f"{self.name}: derived.{name} holds a whole secret; take a part of it")
            if len(text) > MAX_DERIVED:
                raise SecretUnavailable(f"{self.name}: derived.{name} is longer than {MAX_DERIVED} characters")
            if value is not None:
                found[name] = value
        return found

    # --- intake ---

    def rows(
        self, bound: Mapping[str, Any], *, fields: bool = True
    ) -> Callable[[dict[str, Any], float], dict[str, Any]]:
        """
        (event, received_at) -> its context: what mapping and conditions read, over the names that are `bound`; with its
        fields, or without.
        """
        empty, make_fields = {**bound, **EMPTY_ROW}, self.fields if fields else None
        reads_received_at = self.reads_received_at

        def row(event: dict[str, Any], received_at: float) -> dict[str, Any]:
            scope = empty.copy()
            scope["event"] = event
            if reads_received_at:
                scope["received_at"] = Decimal(repr(received_at))
            if fields:
                scope["fields"] = (make_fields(scope) if make_fields is not None else None) or {}
            return scope

        return row

    def drafts(self, event: dict[str, Any], received_at: float) -> tuple[Draft, ...]:
        """
        One draft for each enabled action that wants the event, after those it waits for. BadValue if a field can't be
        read.
        """
        scope = self.row_scope(event, received_at)
        wanted = {name: action for name, action in self.actions.items() if action.when(scope)}
        return tuple([action.draft(scope, wanted) for action in wanted.values()])


def key_text(value: Any) -> str | None:
    """A key as text; nothing to go by, such as an empty address, is no key."""
    if not semantics.true(value):
        return None
    return value if isinstance(value, str) else msgspec.json.Encoder(decimal_format="number").encode(value).decode()


def within(step: types.Step, most: int) -> types.Step:
    """A step whose body is never above the bytes of a batch, whatever stands around the records."""
    least = min(most, units.size(step.request.max_bytes)) if step.request.max_bytes else most
    return msgspec.structs.replace(step, request=msgspec.structs.replace(step.request, max_bytes=f"{least}B"))


def uses_rows(spec: Any) -> bool:
    """Does a request of this action send columns and rows?"""

    def inside(node: Any) -> bool:
        if isinstance(node, dict):
            return "$rows" in node or any(inside(child) for child in node.values())
        return isinstance(node, list) and any(inside(child) for child in node)

    return any(
        inside(getattr(step.request, kind)) for step in spec.steps.values() for kind in ("json", "form", "multipart")
    )


def with_defaults(schema: types.SettingsSchema, given: dict[str, Any]) -> dict[str, Any]:
    """Settings as given, with the defaults of the connector's schema, also inside of objects."""
    return fill({"properties": schema.properties}, given)


def fill(schema: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    filled = dict(given)
    for name, field in schema.get("properties", {}).items():
        if name not in filled and "default" in field:
            filled[name] = field["default"]
        if isinstance(filled.get(name), dict) and "properties" in field:
            filled[name] = fill(field, filled[name])
        elif name not in filled and any("default" in inner for inner in field.get("properties", {}).values()):
            filled[name] = fill(field, {})
    return filled


PATCHABLE = ("active", "when", "batch", "limits", "record", "vars", "title")


def patched(connector: types.Connector, binding: types.Binding) -> dict[str, types.Action]:
    """The connector's actions with the client's changes: maps merge, all else replaces, `$remove` takes a key out."""
    if not binding.actions:
        return dict(connector.actions)
    actions = dict(connector.actions)
    for name, patch in binding.actions.items():
        if name in actions:
            plain = msgspec.to_builtins(actions[name], builtin_types=(Decimal,))
            allowed = {key: value for key, value in patch.items() if key in PATCHABLE}
            actions[name] = msgspec.convert(overlay(plain, allowed), types.Action)
    return actions


def overlay(base: Any, change: Any) -> Any:
    if isinstance(base, dict) and isinstance(change, dict):
        merged = {key: value for key, value in base.items() if change.get(key) != {"$remove": True}}
        for key, value in change.items():
            if value != {"$remove": True}:
                merged[key] = overlay(merged.get(key), value)
        return merged
    return change
