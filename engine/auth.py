"""
An auth section -> a token that is alive, and what it puts into a request.

Tokens live in the store, shared by all processes. One process renews at a time; the others wait for its result. A
rotated refresh token is stored before the new access token is used. A token is bound to a fingerprint of the secrets
it came from, so that newly given secrets win.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import BadValue, ConnectError, EgressRefused
from engine.limits import Gate
from engine.mapping import compile_tree
from engine.names import ADDRESS, AUTH, BOUND, CLIENT, REPLY, WAIT
from engine.outcomes import DELIVERED, Judge, Level, probed
from engine.records import Outcome, OutcomeKind, TokenRow, Trace
from engine.retrying import moment
from engine.sending import NOTHING, NoReply, Placement, Reply, Requester
from engine.spec import types, units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.expressions import Compiler, Path, Run
    from engine.sending import Hosts
    from engine.wire import Wire

LOCK_TTL_S = 90.0
WAIT_STEP_S = 0.2
SECRET_WORDS = ("token", "secret", "password", "key", "session", "value", "signature")


class AuthFailed(ConnectError):
    """No token can be had now; `outcome` is what that means for the lane: pause, throttle or retry."""

    def __init__(self, outcome: Outcome, trace: Trace | None = None) -> None:
        super().__init__(outcome.reason)
        self.outcome, self.trace = outcome, trace


class TokenStep:
    """One request of a log-in, with what is saved of its reply for the next."""

    def __init__(self, auth: Auth, name: str, spec: types.Step, place: Path) -> None:
        names, compiler = AUTH | {"steps"}, auth.compiler
        self.name = name
        self.when = compiler.condition(spec.when, names, (*place, "when"))
        self.requester = Requester(
            compiler,
            spec.request,
            names=names,
            place=(*place, "request"),
            drop=types.Drop(),
            http=auth.http,
            hosts=auth.hosts,
        )
        self.save = compile_tree(compiler, spec.save, names | REPLY, (*place, "save"))
        levels = [Level(compiler, spec.replies, names | REPLY | WAIT, (*place, "replies")), *auth.levels]
        self.judge = Judge(compiler, levels, [], spec.request.expect, names | REPLY, (*place, "request"))
        self.gate = Gate(auth.lane)
        limits = (*place, "request", "limits")
        self.gate.add(compiler, spec.request.limits, names, limits, owner=f"auth.{auth.name}.{name}")
        self.gate.costs(compiler, spec.request.cost, names, (*place, "request"))


class TokenRequest:
    """The request, or the chain of requests, that yields a token; `save` reads the last reply and what steps saved."""

    def __init__(self, auth: Auth, steps: dict[str, types.Step], save: dict[str, Any], place: Path) -> None:
        single = list(steps) == ["request"]
        self.steps = [
            TokenStep(auth, name, step, place if single else (*place, "steps", name)) for name, step in steps.items()
        ]
        self.save = compile_tree(auth.compiler, save, AUTH | REPLY | {"steps"}, (*place, "save"))


class Auth:
    """One compiled auth of a connector, for any client."""

    def __init__(
        self,
        compiler: Compiler,
        spec: types.Auth,
        *,
        name: str,
        place: Path,
        connector: types.Connector,
        hosts: Hosts,
        lane: str,
    ) -> None:
        self.when = compiler.condition(spec.when, CLIENT, (*place, "when"))
        self.compiler, self.spec, self.name, self.http, self.hosts = compiler, spec, name, connector.http, hosts
        self.lane = lane
        token = spec.token
        self.levels = [
            Level(compiler, token.replies if token else None, AUTH | REPLY | WAIT, (*place, "token", "replies")),
            Level(compiler, connector.replies, BOUND | REPLY | WAIT, ("replies",)),
        ]
        self.base_url = compiler.text(spec.base_url, ADDRESS, (*place, "base_url"), "must") if spec.base_url else None
        self.http_base_url = compiler.text(connector.http.base_url, ADDRESS, ("http", "base_url"), "must")
        self.request = self.renewal = None
        if token is not None:
            steps = token.steps or ({"request": types.Step(request=token.request)} if token.request else {})
            self.request = TokenRequest(self, steps, token.save, (*place, "token"))
            if token.renew is not None:
                save, step = token.renew.save or token.save, types.Step(request=token.renew.request)
                self.renewal = TokenRequest(self, {"request": step}, save, (*place, "token", "renew"))
            expires = token.expires
            self.after_s = units.duration(expires.after) if expires.after else None
            self.margin_s = units.duration(expires.margin)
            spoken = expires.in_ if expires.in_ is not None else expires.at
            self.expires = (
                compiler.value(spoken, AUTH | REPLY, (*place, "token", "expires")) if spoken is not None else None
            )
        self.parts: dict[str, dict[str, Run]] = {
            part: {
                key: compiler.text(text, AUTH, (*place, "place", part, key), "must")
                for key, text in getattr(spec.place, part).items()
            }
            for part in ("headers", "query", "cookies", "form", "json")
        }
        self.url = compiler.text(spec.place.url, AUTH, (*place, "place", "url"), "must") if spec.place.url else None
        self.cached: TokenRow | None = None

    @property
    def can_renew(self) -> bool:
        return self.request is not None

    # --- tokens ---

    def token(self, wire: Wire, *, stale: float | None = None) -> TokenRow | None:
        """
        A live token, logging in or renewing where needed; None where this auth has none.

        `stale` is the `obtained_at` of a token that the vendor has refused: only a newer one will do.
        Raises AuthFailed.
        """
        if self.request is None:
            return None
        row = self.cached
        if row is not None and self.serves(row, wire, stale):
            return row
        deadline = wire.clock.now() + LOCK_TTL_S
        lock = f"token:{wire.connector}:{wire.client}:{self.name}"
        while True:
            row = wire.store.token(wire.connector, wire.client, self.name)
            if row is not None and self.serves(row, wire, stale):
                break
            if wire.store.lock(lock, owner=wire.owner, ttl_s=LOCK_TTL_S, now=wire.clock.now()):
                try:
                    row = wire.store.token(wire.connector, wire.client, self.name)
                    if row is None or not self.serves(row, wire, stale):
                        row = self.obtain(wire, row, stale)
                finally:
                    wire.store.unlock(lock, owner=wire.owner)
                break
            if wire.clock.now() > deadline:
                raise AuthFailed(
                    Outcome(OutcomeKind.RETRY, "another process did not finish its log-in", count=False, outage=True)
                )
            wire.clock.sleep(WAIT_STEP_S)
        self.cached = row
        self.hide(wire, row.values)
        return row

    def serves(self, row: TokenRow, wire: Wire, stale: float | None) -> bool:
        if row.fingerprint != wire.fingerprint or (stale is not None and row.obtained_at <= stale):
            return False
        if row.expires_at is None:
            return True
        margin_s = min(
            self.margin_s, (row.expires_at - row.obtained_at) / 2
        )  # also a token of one minute serves a while
        return wire.clock.now() < row.expires_at - margin_s

    def obtain(self, wire: Wire, old: TokenRow | None, stale: float | None) -> TokenRow:
        """
        A new token, stored before it is used: by renewal while the old one lives or came with a refresh token, which
        outlives it and may be the only one that is still good; else, or where that is refused, by a new log-in.
        """
        assert self.request is not None
        if old is not None and old.fingerprint != wire.fingerprint:
            old = None
        alive = old is not None and stale is None and (old.expires_at is None or wire.clock.now() < old.expires_at)
        if self.renewal is not None and old is not None and (alive or "refresh_token" in old.values):
            try:
                return self.ask(wire, self.renewal, old, "renewed")
            except AuthFailed as failed:
                wire.telemetry.event(
                    "token-refused", connector=wire.connector, client=wire.client, why=failed.outcome.reason
                )
        return self.ask(wire, self.request, old, "log-in")

    def ask(self, wire: Wire, wanted: TokenRequest, old: TokenRow | None, how: str) -> TokenRow:
        saved: dict[str, Any] = {}
        scope = {
            **wire.scope,
            "secrets": wire.secrets,
            "token": dict(old.values) if old else {},
            "now": int(wire.clock.now()),
            "steps": saved,
        }
        trace, now = None, wire.clock.now()
        last: Reply | None = None
        self.hide(wire, old.values if old else {})
        try:
            for step in wanted.steps:
                if not step.when(scope):
                    continue
                now = wire.clock.now()
                last, trace = self.send(wire, step, scope, how)
                if kept := step.save({**scope, "response": last.scope}):
                    saved[step.name] = kept
                    self.hide(wire, kept, step.name)
            if last is None:
                raise BadValue("no step of the log-in applies")
            return self.keep(wire, wanted, scope, last, old, now, how)
        except EgressRefused as error:
            raise AuthFailed(Outcome(OutcomeKind.PAUSE, str(error))) from None
        except BadValue as error:
            reason = f"the log-in can't be built or read: {unquoted(error)}"
            raise AuthFailed(Outcome(OutcomeKind.PAUSE, reason), trace) from None

    def send(self, wire: Wire, step: TokenStep, scope: dict[str, Any], how: str) -> tuple[Reply, Trace]:
        """One request of the log-in, which the vendor took; AuthFailed where not."""
        base = self.base_url(scope) if self.base_url and step.requester.path is not None else ""
        prepared = msgspec.structs.replace(step.requester.prepare(scope, base or ""), purpose="auth")
        slots = step.gate.enter(wire.store, scope, owner=wire.owner, now=wire.clock.now(), credentials=wire.fingerprint)
        if isinstance(slots, Outcome):
            raise AuthFailed(slots)
        now = wire.clock.now()
        try:
            reply = wire.exchange(prepared, action="auth", step=how)
        finally:
            step.gate.leave(wire.store, slots, wire.owner)
        trace = Trace(prepared.method, wire.masker.mask(prepared.url))  # never bodies of a log-in
        if isinstance(reply, Reply):
            trace = msgspec.structs.replace(trace, status=reply.status)
        verdict = step.judge.verdict({**scope, "now": now, "failures": 0}, reply, records=1)
        outcome = wire.shown(verdict.outcome) or DELIVERED
        if outcome.kind is OutcomeKind.DELIVERED and isinstance(reply, Reply):
            return reply, trace
        raise AuthFailed(self.as_lane(outcome, reply), trace)

    def keep(
        self,
        wire: Wire,
        wanted: TokenRequest,
        scope: dict[str, Any],
        reply: Reply,
        old: TokenRow | None,
        now: float,
        how: str,
    ) -> TokenRow:
        inside = {**scope, "response": reply.scope}
        saved = wanted.save(inside) or {}
        if not saved:
            raise AuthFailed(probed(Outcome(OutcomeKind.RETRY, f"HTTP {reply.status} without a token")))
        values = {**(old.values if old else {}), **saved}
        row = TokenRow(
            values, obtained_at=now, expires_at=self.expiry(inside, saved, now), fingerprint=wire.fingerprint
        )
        self.hide(wire, row.values)
        wire.store.save_token(wire.connector, wire.client, self.name, row)
        wire.telemetry.event("token-renewed", connector=wire.connector, client=wire.client, how=how)
        return row

    def expiry(self, scope: Mapping[str, Any], saved: Mapping[str, Any], now: float) -> float | None:
        assert self.spec.token is not None
        expires = self.spec.token.expires
        if self.after_s is not None:
            return now + self.after_s
        if self.expires is not None:
            unit = expires.unit
            return moment(self.expires(scope), unit, now)
        if expires.jwt:
            return jwt_expiry(saved.get("value"))
        return None

    @staticmethod
    def as_lane(outcome: Outcome, reply: Reply | NoReply) -> Outcome:
        """A refused log-in is never one record's fault: the lane pauses, waits or tries again."""
        if outcome.kind is OutcomeKind.THROTTLE or outcome.outage:
            return outcome
        if outcome.kind is OutcomeKind.RETRY:
            return probed(outcome)
        status = f" (HTTP {reply.status})" if isinstance(reply, Reply) else ""
        return Outcome(OutcomeKind.PAUSE, f"the log-in was refused{status}: {outcome.reason}", outcome.code)

    def hide(self, wire: Wire, values: Mapping[str, Any], of: str = "") -> None:
        """Mask what was saved, or what the step `of` saved, by its names."""
        secret = [value for name, value in values.items() if any(word in name.lower() for word in SECRET_WORDS)]
        wire.masker.renew("/".join((wire.connector, wire.client, self.name, of)), *secret)

    # --- placement ---

    def place(self, wire: Wire, row: TokenRow | None) -> tuple[str, Placement]:
        """(base URL, what goes into the request). AuthFailed where a hole stays empty."""
        scope = {
            **wire.scope,
            "secrets": wire.secrets,
            "token": row.values if row else {},
            "now": int(wire.clock.now()),
        }
        try:
            base = (self.url or self.base_url or self.http_base_url)(scope)
            filled = {part: {key: run(scope) for key, run in runs.items()} for part, runs in self.parts.items()}
            return base, msgspec.convert(filled, Placement) if any(filled.values()) else NOTHING
        except BadValue as error:
            raise AuthFailed(Outcome(OutcomeKind.PAUSE, f"auth: {unquoted(error)}")) from None


def unquoted(error: BadValue) -> str:
    """The error without the values it quotes: here they are parts of secrets."""
    return re.sub(r'"[^"]*"|number \S+', "***", str(error))


def jwt_expiry(token: Any) -> float | None:
    """`exp` of a JWT, unverified: it is only a hint of when to renew."""
    import base64
    import json

    try:
        payload = str(token).split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, KeyError, ValueError, TypeError):
        return None
