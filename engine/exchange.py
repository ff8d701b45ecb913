"""One request with its limits and its auth -> a verdict: what every step, look-up, log-in and check goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.auth import AuthFailed
from engine.errors import BadValue, ConnectError
from engine.http import NoReply, Prepared, Reply
from engine.limits import Gate
from engine.outcomes import Verdict
from engine.records import Outcome, OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.auth import Auth
    from engine.outcomes import Judge
    from engine.records import Trace
    from engine.sending import Requester
    from engine.wire import Wire

SHORT_WAIT_S = 1.0
EXCHANGED_S = 1.0  # until a lane goes on with the secrets that were put in the place of refused ones


class Exchanged(NamedTuple):
    verdict: Verdict
    reply: Reply | None
    trace: Trace | None
    base_url: str = ""
    prepared: Prepared | None = None


class Call:
    """One compiled request of the spec with all that stands around it."""

    def __init__(self, requester: Requester, judge: Judge, auth: Auth, gate: Gate, *, action: str, step: str) -> None:
        self.requester, self.judge, self.auth, self.gate = requester, judge, auth, gate
        self.action, self.step = action, step

    def run(
        self,
        wire: Wire,
        scope: Mapping[str, Any],
        *,
        records: int,
        failures: int = 0,
        prepared: Prepared | None = None,
    ) -> Exchanged:
        """
        Limits, token, request, reply, verdict; a refused token buys one new token and one repeat.

        What was just `prepared` for this scope goes out as it is, the first time.

        Where all would stand still for a refusal, and the secrets are others at their source by now, it is tried with
        those first. BadValue and EgressRefused pass through: the request can't be built from this scope.
        """
        done = self.carried_out(wire, scope, records=records, failures=failures, prepared=prepared)
        outcome = done.verdict.outcome
        if outcome is None or outcome.kind is not OutcomeKind.PAUSE or not wire.outdated():
            return done
        why = f"{outcome.reason}; its secrets have been exchanged since"
        again = msgspec.structs.replace(
            outcome, kind=OutcomeKind.THROTTLE, reason=why, wait_s=EXCHANGED_S, count=False, ours=True
        )
        return done._replace(verdict=Verdict(again))

    def carried_out(
        self, wire: Wire, scope: Mapping[str, Any], *, records: int, failures: int, prepared: Prepared | None
    ) -> Exchanged:
        stale: float | None = None
        for last in (False, True):
            try:
                row = self.auth.token(wire, stale=stale)
                base_url, placed = self.auth.place(wire, row)
            except AuthFailed as failed:
                return Exchanged(Verdict(failed.outcome), None, failed.trace)
            except ConnectError:
                raise
            except Exception as error:  # no delivery's fault
                reason = f"auth: {wire.fault('auth', error)}"
                return Exchanged(Verdict(Outcome(OutcomeKind.PAUSE, reason, private=True)), None, None)
            try:
                if prepared is None or last:
                    prepared = self.requester.prepare(scope, base_url, placed)
            except AuthFailed as failed:  # a key that signs can't be used
                return Exchanged(Verdict(failed.outcome), None, failed.trace)
            reply = self.send(wire, prepared, scope)
            if isinstance(reply, Outcome):
                return Exchanged(Verdict(reply), None, None)
            if isinstance(reply, NoReply) and reply.ours:
                return Exchanged(Verdict(Outcome(OutcomeKind.PAUSE, reply.reason, private=True)), None, None)
            verdict = self.verdict(wire, scope, reply, records=records, failures=failures)
            wire.refused(verdict.outcome, reply, action=self.action)
            trace = wire.masker.trace(prepared, reply if isinstance(reply, Reply) else None)
            done = Exchanged(verdict, reply if isinstance(reply, Reply) else None, trace, base_url, prepared)
            if verdict.outcome is None or verdict.outcome.kind is not OutcomeKind.REAUTH:
                return done
            if last or row is None:
                why = "again after one token renewal" if row is not None else "and nothing to renew"
                paused = msgspec.structs.replace(
                    verdict.outcome, kind=OutcomeKind.PAUSE, reason=f"{verdict.outcome.reason} {why}"
                )
                return done._replace(verdict=Verdict(paused))
            stale = row.obtained_at
        raise AssertionError("unreachable")

    def follow(self, wire: Wire, link: str, done: Exchanged) -> Prepared:
        """A GET of the next page, authorised and signed anew. AuthFailed, BadValue and EgressRefused as in `run`."""
        assert done.prepared is not None
        _, placed = self.auth.place(wire, self.auth.token(wire))
        return self.requester.follow(link, done.base_url, done.prepared.headers, placed)

    def verdict(
        self, wire: Wire, scope: Mapping[str, Any], reply: Reply | NoReply, *, records: int, failures: int
    ) -> Verdict:
        """What the reply means, as it may be shown; of one that breaks the reading nothing is known."""
        judged = {**scope, "now": wire.clock.now(), "failures": failures}
        try:
            verdict = self.judge.verdict(judged, reply, records=records)
        except Exception as error:
            why = error if isinstance(error, BadValue) else wire.fault("reply", error)
            unread = self.judge.again(f"the reply can't be read: {why}")
            verdict = Verdict(msgspec.structs.replace(unread, private=not isinstance(error, BadValue)))
        return msgspec.structs.replace(verdict, outcome=wire.shown(verdict.outcome))

    def send(self, wire: Wire, prepared: Prepared, scope: Mapping[str, Any]) -> Reply | NoReply | Outcome:
        """Through the gate and onto the wire; a wait of at most a second is slept, a longer one is an outcome."""
        waited = 0.0
        while True:
            entered = self.gate.enter(
                wire.store, scope, owner=wire.owner, now=wire.clock.now(), credentials=wire.fingerprint
            )
            if isinstance(entered, list):
                break
            pause = entered.wait_s or 0.0
            if entered.kind is not OutcomeKind.THROTTLE or waited + pause > SHORT_WAIT_S:
                return entered
            wire.clock.sleep(pause)
            waited += pause
        try:
            return wire.exchange(prepared, action=self.action, step=self.step)
        finally:
            self.gate.leave(wire.store, entered, wire.owner)
