"""
An auth section -> a token that is alive, and what it puts into a request.

Tokens live in the store, shared by all processes. One process renews at a time; the others wait for its result. A
rotated refresh token is stored before the new access token is used. A token is bound to a fingerprint of the secrets
it came from, so that newly given secrets win; one that a person's consent yielded outlives a change of the others, for
no secret could take its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import BadValue, EgressRefused, TokenUnreadable
from engine.http import NoReply, Reply
from engine.limits import Gate
from engine.mapping import compile_tree
from engine.names import ADDRESS, AUTH, BOUND, CLIENT, CONSENT, REPLY, SIGNED, WAIT
from engine.notations.emitting import Problem, is_expression
from engine.outcomes import DELIVERED, Judge, Level, probed
from engine.placing import AuthFailed as AuthFailed
from engine.placing import Certificates, Placing
from engine.placing import unquoted as unquoted
from engine.records import Outcome, OutcomeKind, TokenRow, Trace
from engine.retrying import moment
from engine.sending import Placement, Requester
from engine.signing import Signers
from engine.spec import types, units
from engine.writing import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.expressions import Compiler, Path, Run
    from engine.notations.emitting import Use
    from engine.sending import Hosts
    from engine.wire import Wire

LOCK_TTL_S = 90.0
WAIT_STEP_S = 0.2
NEW_S = 60.0  # a token of that age is not renewed ahead, however short its life
SECRET_WORDS = ("token", "secret", "password", "key", "session", "value", "signature")
CONSENTED, DISCOVERED = "#consented", "#discovered"  # beside what a log-in saved: no name begins so
MOMENTS = {"s": "epoch", "ms": "epoch_ms"}  # what the units of a span mean where a moment is told
# what a log-in's reply says where neither auth nor connector reads it (RFC 6749, section 5.2)
OAUTH_ERRORS = types.Replies(code="${ response.body.error }", message="${ response.body.error_description }")


class TokenStep:
    """One request of a log-in, with what is saved of its reply for the next."""

    def __init__(
        self, auth: Auth, name: str, spec: types.Step, place: Path, names: frozenset[str] = SIGNED | {"steps"}
    ) -> None:
        compiler = auth.compiler
        self.name = name
        self.when = compiler.condition(spec.when, names, (*place, "when"))
        before = len(compiler.uses)
        self.requester = Requester(
            compiler,
            spec.request,
            names=names,
            place=(*place, "request"),
            drop=types.Drop(),
            http=auth.http,
            hosts=auth.hosts,
        )
        self.signatures = auth.early(compiler.uses[before:])
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


class Consent:
    """How a person agrees once: where, and the request that makes a token of the answer (`connect login`)."""

    def __init__(self, auth: Auth, spec: types.Consent, save: dict[str, Any], place: Path) -> None:
        compiler, names = auth.compiler, CONSENT - {"token"}
        before = len(compiler.uses)
        self.url = compiler.text(spec.url, names, (*place, "url"), "must")
        self.query = compile_tree(compiler, spec.query, names, (*place, "query"))
        self.signatures = auth.early(compiler.uses[before:])
        at = (*place, "redirect_uri")
        self.redirect_uri = compiler.text(spec.redirect_uri, names, at, "must") if spec.redirect_uri else None
        told = auth.spec.token.replies if auth.spec.token is not None else None
        step = types.Step(request=spec.request, replies=None if told else OAUTH_ERRORS)
        self.step = TokenStep(auth, "consent", step, place, names)
        self.save = compile_tree(compiler, spec.save or save, names | REPLY, (*place, "save"))


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
        token, before = spec.token, len(compiler.uses)
        self.signers = Signers(compiler, spec.sign, (*place, "sign"))
        self.certificates = Certificates(compiler, connector.http.tls, ("http", "tls"))
        self.levels = [
            Level(compiler, token.replies if token else None, AUTH | REPLY | WAIT, (*place, "token", "replies")),
            Level(compiler, connector.replies, BOUND | REPLY | WAIT, ("replies",)),
            Level(compiler, OAUTH_ERRORS if token else None, REPLY, (*place, "token", "replies")),
        ]
        self.base_url = base_of(compiler, spec.base_url, (*place, "base_url")) if spec.base_url else None
        self.http_base_url = base_of(compiler, connector.http.base_url, ("http", "base_url"))
        self.placing = Placing(compiler, spec.place, self.signers, (*place, "place"))
        self.request = self.renewal = self.consent = None
        self.discovery: list[TokenStep] = []
        if token is not None:
            steps = token.steps or ({"request": types.Step(request=token.request)} if token.request else {})
            if steps:
                self.request = TokenRequest(self, steps, token.save, (*place, "token"))
            if token.renew is not None:
                save, step = token.renew.save or token.save, types.Step(request=token.renew.request)
                self.renewal = TokenRequest(self, {"request": step}, save, (*place, "token", "renew"))
            if token.consent is not None:
                self.consent = Consent(self, token.consent, token.save, (*place, "token", "consent"))
            self.discovery = [
                TokenStep(self, name, step, (*place, "token", "discover", name))
                for name, step in token.discover.items()
            ]
            self.log_in_placing = Placing(compiler, token.place, self.signers, (*place, "token", "place"))
            expires = token.expires
            self.after_s = units.duration(expires.after) if expires.after else None
            self.margin_s = units.duration(expires.margin)
            self.unit = expires.unit if expires.in_ is not None else MOMENTS.get(expires.unit, expires.unit)
            key, spoken = ("in", expires.in_) if expires.in_ is not None else ("at", expires.at)
            at = (*place, "token", "expires", key)
            self.expires = compiler.value(spoken, AUTH | REPLY, at) if spoken is not None else None
        self.granted = given_by_consent({place: spec}, compiler.uses[before:])
        self.url = self.placing.url
        self.cached: TokenRow | None = None

    @property
    def gates(self) -> list[Gate]:
        """Of each request of a log-in, as those of Program.gates."""
        asked = [one for one in (self.request, self.renewal) if one is not None]
        agreed = [self.consent.step] if self.consent is not None else []
        return [step.gate for step in (*(step for one in asked for step in one.steps), *agreed, *self.discovery)]

    @property
    def can_renew(self) -> bool:
        return self.request is not None or self.renewal is not None

    @property
    def is_precious(self) -> bool:
        """Would a log-in besides the stored token spend what can't be had again: a refresh token, a consent?"""
        request = self.spec.token.request if self.spec.token is not None else None
        body = (request.form or request.json or {}) if request is not None else {}
        refreshes = isinstance(body, dict) and body.get("grant_type") == "refresh_token"
        return self.consent is not None or refreshes

    def early(self, uses: list[Use]) -> set[str]:
        """The signatures that these expressions read; one over the finished request is not there yet."""
        found = self.signers.read(uses)
        for use in uses:
            if use.path[0] == "sign" and len(use.path) > 1 and use.path[1] in self.signers.late:
                says = f"sign.{use.path[1]} signs the finished request, which is not there yet"
                hint = "place it with `token: {place: {headers: …}}`"
                self.compiler.problems.append(Problem(use.place, "signer", says, hint))
        return found - self.signers.late

    # --- tokens ---

    def token(self, wire: Wire, *, stale: float | None = None) -> TokenRow | None:
        """
        A live token, logging in or renewing where needed; None where this auth has none.

        `stale` is the `obtained_at` of a token that the vendor has refused: only a newer one will do.
        Raises AuthFailed.
        """
        if self.request is None and self.consent is None:
            return None
        row = self.cached
        if row is not None and self.serves(row, wire, stale):
            return row
        deadline = wire.clock.now() + LOCK_TTL_S
        while True:
            row = self.stored(wire)
            if row is not None and self.serves(row, wire, stale):
                break
            if self.locked(wire):
                try:
                    row = self.stored(wire)
                    if row is None or not self.serves(row, wire, stale):
                        row = self.obtain(wire, row, stale)
                finally:
                    wire.store.unlock(self.lock(wire), owner=wire.owner)
                break
            if wire.clock.now() > deadline:
                raise AuthFailed(again("another process did not finish its log-in"))
            wire.clock.sleep(WAIT_STEP_S)
        self.cached = row
        self.hide(wire, row.values)
        return row

    def renew_ahead(self, wire: Wire, within_s: float) -> bool:
        """
        A new token in the store where the one there would not last for `within_s`, or there is none; was one made?

        Nothing happens where there is nothing to log in to, or where the token has no end. Raises AuthFailed.
        """
        if self.request is None and self.consent is None:
            return False
        began = wire.clock.now()

        def lasts(row: TokenRow | None) -> bool:
            if row is None:
                return False
            new = wire.clock.now() - row.obtained_at < NEW_S  # two that renew at the same time make one token
            return self.serves(row, wire, None, 0.0 if new else within_s)

        while not lasts(self.stored(wire)):
            if self.locked(wire):
                try:
                    row = self.stored(wire)
                    if lasts(row):
                        return False
                    self.cached = self.obtain(wire, row, None, within_s)
                    return True
                finally:
                    wire.store.unlock(self.lock(wire), owner=wire.owner)
            if wire.clock.now() > began + LOCK_TTL_S:
                raise AuthFailed(again("another process did not finish its log-in"))
            wire.clock.sleep(WAIT_STEP_S)
        return False

    def lock(self, wire: Wire) -> str:
        return f"token:{wire.connector}:{wire.client}:{self.name}"

    def locked(self, wire: Wire) -> bool:
        """Nobody else logs in from now on for a while; who has it may ask again, which prolongs it."""
        return wire.store.lock(self.lock(wire), owner=wire.owner, ttl_s=LOCK_TTL_S, now=wire.clock.now())

    def stored(self, wire: Wire) -> TokenRow | None:
        """What the store has; where it can't be decrypted, a log-in is made anew, unless that would spend more."""
        try:
            return wire.store.token(wire.connector, wire.client, self.name)
        except TokenUnreadable:
            if not self.is_precious:
                return None
            says = "the stored token can't be read; is CONNECT_KEY the key that it was saved with?"
            raise AuthFailed(Outcome(OutcomeKind.PAUSE, says)) from None

    def serves(self, row: TokenRow, wire: Wire, stale: float | None, ahead_s: float = 0.0) -> bool:
        if row.fingerprint != wire.fingerprint or (stale is not None and row.obtained_at <= stale):
            return False
        if self.discovery and DISCOVERED not in row.values:
            return False
        return self.lives(row, wire, ahead_s)

    def lives(self, row: TokenRow, wire: Wire, ahead_s: float = 0.0) -> bool:
        if row.expires_at is None:
            return True
        margin_s = min(
            self.margin_s, (row.expires_at - row.obtained_at) / 2
        )  # also a token of one minute serves a while
        return wire.clock.now() + ahead_s < row.expires_at - margin_s

    def obtain(self, wire: Wire, old: TokenRow | None, stale: float | None, ahead_s: float = 0.0) -> TokenRow:
        """
        A new token, stored before it is used: by renewal while the old one lives or came with a refresh token, which
        outlives it and may be the only one that is still good; else, or where that is refused, by a new log-in.
        """
        if old is not None and old.fingerprint != wire.fingerprint and not self.outlives(old, wire):
            old = None
        alive = old is not None and stale is None and (old.expires_at is None or wire.clock.now() < old.expires_at)
        failed: AuthFailed | None = None
        if old is not None and alive and old.fingerprint == wire.fingerprint and self.lives(old, wire, ahead_s):
            return self.discovered(wire, old, "log-in")  # all that it lacks
        if self.renewal is not None and old is not None and (alive or "refresh_token" in old.values):
            try:
                return self.discovered(wire, self.ask(wire, self.renewal, old, "renewed"), "renewed")
            except AuthFailed as error:
                failed = error
        if failed is not None and failed.outcome.kind is not OutcomeKind.PAUSE and self.is_precious:
            raise failed  # the newest refresh token may serve yet; an older one that comes again would end them all
        if self.lacks_consent(wire):
            raise AuthFailed(
                Outcome(OutcomeKind.PAUSE, self.ask_for_consent(wire, failed)), failed.trace if failed else None
            )
        assert self.request is not None
        return self.discovered(wire, self.ask(wire, self.request, old, "log-in"), "log-in")

    def outlives(self, row: TokenRow, wire: Wire) -> bool:
        """A consent is bound to no secret that a client could give anew, such as the app's password."""
        return CONSENTED in row.values and self.lacks_consent(wire)

    def lacks_consent(self, wire: Wire) -> bool:
        """Can only a person's consent yield the first token, since no secret stands for it?"""
        return self.consent is not None and (self.request is None or not self.granted <= wire.secrets.keys())

    def ask_for_consent(self, wire: Wire, failed: AuthFailed | None = None) -> str:
        why = f"{failed.outcome.reason}; agree anew" if failed is not None else "nobody has agreed yet"
        return f"{why}: run `{self.log_in_command(wire.connector, wire.client)}`"

    def log_in_command(self, connector: str, client: str) -> str:
        return f"connect login {connector} {client}{'' if self.name == 'default' else f' --auth {self.name}'}"

    def discovered(self, wire: Wire, row: TokenRow, how: str) -> TokenRow:
        """The token with what its first look around yields; it was stored before, so that nothing is lost by then."""
        if not self.discovery or DISCOVERED in row.values:
            return row
        scope, found = self.log_in_scope(wire, row), dict[str, Any]()
        try:
            for step in self.discovery:
                if step.when(scope):
                    reply, _ = self.send(wire, step, scope, how)
                    found |= step.save({**scope, "response": reply.scope}) or {}
                    scope = {**scope, "token": {**scope["token"], **found}}
        except (EgressRefused, BadValue) as error:
            reason = str(error) if isinstance(error, EgressRefused) else unquoted(error)
            raise AuthFailed(Outcome(OutcomeKind.PAUSE, f"after the log-in: {reason}")) from None
        whole = msgspec.structs.replace(row, values={**row.values, **found, DISCOVERED: True})
        self.hide(wire, whole.values)
        wire.store.save_token(wire.connector, wire.client, self.name, whole)
        return whole

    def agreed(self, wire: Wire, given: Mapping[str, Any], *, kept: bool = True) -> TokenRow:
        """
        The token that a person's consent yields, stored where `kept`; `given` is `consent` as expressions see it.

        Raises AuthFailed.
        """
        assert self.consent is not None
        scope = {**self.log_in_scope(wire, None), "consent": dict(given)}
        now = wire.clock.now()
        try:
            reply, trace = self.send(wire, self.consent.step, scope, "consent")
            inside = {**scope, "response": reply.scope}
            saved = self.consent.save(inside) or {}
            if not saved:
                raise AuthFailed(Outcome(OutcomeKind.PAUSE, f"HTTP {reply.status} without a token"), trace)
            expires_at = self.expiry(inside, saved, now)
        except (EgressRefused, BadValue) as error:
            reason = str(error) if isinstance(error, EgressRefused) else unquoted(error)
            raise AuthFailed(Outcome(OutcomeKind.PAUSE, f"the code can't be exchanged: {reason}")) from None
        row = TokenRow({**saved, CONSENTED: True}, now, expires_at, wire.fingerprint)
        self.hide(wire, row.values)
        if kept:
            wire.store.save_token(wire.connector, wire.client, self.name, row)
        return row

    def ask(self, wire: Wire, wanted: TokenRequest, old: TokenRow | None, how: str) -> TokenRow:
        saved: dict[str, Any] = {}
        scope = {**self.log_in_scope(wire, old), "steps": saved}
        trace, now = None, wire.clock.now()
        last: Reply | None = None
        self.hide(wire, old.values if old else {})
        try:
            for number, step in enumerate(wanted.steps):
                if not step.when(scope):
                    continue
                if number and not self.locked(wire):
                    raise AuthFailed(again("another process has taken over the log-in, which took too long"))
                now = wire.clock.now()
                last, trace = self.send(wire, step, scope, how)
                if kept := step.save({**scope, "response": last.scope}):
                    saved[step.name] = kept
                    self.hide(wire, kept, step.name)
            if last is None:
                raise BadValue("no step of the log-in applies")
            return self.keep(wire, wanted, scope, last, old, now, how)
        except EgressRefused as error:
            raise self.failed(wire, AuthFailed(Outcome(OutcomeKind.PAUSE, str(error))), how) from None
        except BadValue as error:
            reason = f"the log-in can't be built or read: {unquoted(error)}"
            raise self.failed(wire, AuthFailed(Outcome(OutcomeKind.PAUSE, reason), trace), how) from None
        except AuthFailed as error:
            raise self.failed(wire, error, how) from None

    @staticmethod
    def failed(wire: Wire, error: AuthFailed, how: str) -> AuthFailed:
        """Counted: as refused where a person must act, as failed where it is tried again, else not: a limit of ours."""
        kind = error.outcome.kind
        if kind is not OutcomeKind.THROTTLE or error.trace is not None:
            name = "token-refused" if kind is OutcomeKind.PAUSE else "token-failed"
            wire.telemetry.event(name, connector=wire.connector, client=wire.client, how=how, why=error.outcome.reason)
        return error

    def send(self, wire: Wire, step: TokenStep, scope: dict[str, Any], how: str) -> tuple[Reply, Trace]:
        """One request of the log-in, which the vendor took; AuthFailed where not."""
        scope = {**scope, "now": int(wire.clock.now()), "nonce": wire.nonce()}
        if step.signatures:
            scope["sign"] = self.signers.made(scope, step.signatures)
            for name in step.signatures:
                self.hide_signature(wire)(name, scope["sign"][name])
        base = self.base_url(scope) if self.base_url and step.requester.path is not None else ""
        placed = self.log_in_placing.fill(scope, self.certificates(scope), self.hide_signature(wire))
        prepared = msgspec.structs.replace(step.requester.prepare(scope, base or "", placed), purpose="auth")
        slots = step.gate.enter(wire.store, scope, owner=wire.owner, now=wire.clock.now(), credentials=wire.fingerprint)
        if isinstance(slots, Outcome):
            raise AuthFailed(slots)
        now = wire.clock.now()
        try:
            reply = wire.exchange(prepared, action="auth", step=how)
        finally:
            step.gate.leave(wire.store, slots, wire.owner)
        trace = Trace(prepared.method, wire.masker.mask(prepared.url))  # never bodies of a log-in
        if isinstance(reply, NoReply) and reply.ours:
            raise AuthFailed(Outcome(OutcomeKind.PAUSE, reply.reason), trace)
        if isinstance(reply, Reply):
            trace = msgspec.structs.replace(trace, status=reply.status)
        verdict = step.judge.verdict({**scope, "now": now, "failures": 0}, reply, records=1)
        outcome = wire.shown(verdict.outcome) or DELIVERED
        if outcome.kind is OutcomeKind.DELIVERED and isinstance(reply, Reply):
            return reply, trace
        if outcome.kind is OutcomeKind.THROTTLE:
            wire.refused(outcome, reply, action="auth")
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
        kept = dict(old.values) if old else {}
        if wanted is self.request:  # what was found out belongs to the log-in before this one
            kept.pop(DISCOVERED, None)
            kept.pop(CONSENTED, None)
        values = {**kept, **saved}
        row = TokenRow(
            values, obtained_at=now, expires_at=self.expiry(inside, saved, now), fingerprint=wire.fingerprint
        )
        self.hide(wire, row.values)
        written(  # it may have taken the place of a refresh token that is spent
            lambda: wire.store.save_token(wire.connector, wire.client, self.name, row),
            clock=wire.clock,
            telemetry=wire.telemetry,
        )
        wire.telemetry.event("token-renewed", connector=wire.connector, client=wire.client, how=how)
        return row

    def expiry(self, scope: Mapping[str, Any], saved: Mapping[str, Any], now: float) -> float | None:
        assert self.spec.token is not None
        expires = self.spec.token.expires
        if self.after_s is not None:
            return now + self.after_s
        if self.expires is not None:
            return moment(self.expires(scope), self.unit, now)
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

    def hide_signature(self, wire: Wire) -> Callable[[str, str], None]:
        def hide(name: str, value: str) -> None:
            words = value.replace(",", " ").split() if " " in value else []  # also a part of it that a vendor repeats
            parts = [word.partition("=")[2].strip('"') for word in words if "ignature=" in word]
            wire.masker.renew("/".join((wire.connector, wire.client, self.name, "sign", name)), value, *parts)

        return hide

    def log_in_scope(self, wire: Wire, row: TokenRow | None) -> dict[str, Any]:
        return {
            **wire.scope,
            "secrets": wire.secrets,
            "token": dict(row.values) if row else {},
            "now": int(wire.clock.now()),
        }

    # --- placement ---

    def place(self, wire: Wire, row: TokenRow | None) -> tuple[str, Placement]:
        """(base URL, what goes into the request). AuthFailed where a hole stays empty."""
        scope = {**self.log_in_scope(wire, row), "nonce": wire.nonce()}
        try:
            base = (self.url or self.base_url or self.http_base_url)(scope)
            return base, self.placing.fill(scope, self.certificates(scope), self.hide_signature(wire))
        except BadValue as error:
            raise AuthFailed(Outcome(OutcomeKind.PAUSE, f"auth: {unquoted(error)}")) from None


def base_of(compiler: Compiler, spec: str, place: Path) -> Run:
    """A base URL, in which a value is a host, a part of the path or all of it, and never leads to another place."""
    return compiler.text(spec, ADDRESS, place, "url_base" if is_expression(spec) else "url")


def again(reason: str) -> Outcome:
    return Outcome(OutcomeKind.RETRY, reason, count=False, outage=True)


def given_by_consent(auths: Mapping[Path, types.Auth], uses: Iterable[Use]) -> set[str]:
    """The secrets that a person's consent stands for: only the first request of a log-in reads them."""
    consented = [at for at, auth in auths.items() if auth.token and auth.token.consent]
    log_ins = {(*at, "token", key) for at in consented for key in ("request", "steps")}
    found: set[str] = set()
    others: set[str] = set()
    for use in uses:
        if use.path[0] == "secrets" and len(use.path) > 1:
            of_log_in = any(use.place[: len(place)] == place for place in log_ins)
            (found if of_log_in else others).add(use.path[1])
    return found - others


def jwt_expiry(token: Any) -> float | None:
    """`exp` of a JWT, unverified: it is only a hint of when to renew."""
    import base64
    import json

    try:
        payload = str(token).split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, KeyError, ValueError, TypeError):
        return None
