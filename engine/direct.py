"""One event walked while its caller waits, action after action, and the answer that the caller gets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from engine.errors import ConnectError, LeaseLost
from engine.ports import Carrier
from engine.records import (
    Answered,
    Delivery,
    Ended,
    LaneChange,
    Outcome,
    OutcomeKind,
    Settled,
    Skipped,
    Stored,
    Told,
    Trace,
    Waiting,
    Walked,
)
from engine.retrying import DEFER_S
from engine.spec import units
from engine.walk import Walk

if TYPE_CHECKING:
    from engine.program import Action, Program
    from engine.reporting import Reporter
    from engine.telemetry.journal import Journal
    from engine.walk import World


# What a caller is told where the reason is for those who run this: hosts, addresses, secrets, files, faults of ours.
ACCEPTED = "this id was accepted before"
UNKNOWN = f"{ACCEPTED}; whether it still waits can't be said while so much does"
MOST_SEEN = 1_000  # deliveries of a lane that are looked through for those of one event
PAUSED = "deliveries stand still until someone here has looked"
THROTTLED = "the CRM, or a limit, asks to slow down"
UNREACHED = "the CRM could not be reached, or did not answer"
UNSENT = "it can't be sent; someone here has to look"
PLAIN = {
    OutcomeKind.PAUSE: PAUSED,
    OutcomeKind.THROTTLE: THROTTLED,
    OutcomeKind.RETRY: UNREACHED,
    OutcomeKind.REAUTH: UNREACHED,
}

Held = dict[tuple[str, str, str], float]  # (connector, client, action) -> until when that action stands still


class Caller:
    """One who waits while their event is walked, action after action."""

    def __init__(self, world: World, reporter: Reporter, program: Program, held: Held) -> None:
        """`held` is shared with the lanes."""
        self.world, self.reporter, self.program, self.held = world, reporter, program, held
        self.spec = program.connector.receive.answer
        self.direct = {name for name, action in program.actions.items() if action.mode == "direct"}
        self.told: dict[str, Told] = {}
        self.skipped: dict[str, str] = {}  # by action, why: what it waited for was rejected

    def walk(self, stored: Stored, hold_s: float) -> Answered:
        """
        The answer for them. `hold_s`: how long a delivery that is tried again is held for them.

        Of an event that was accepted before, what was rejected is tried again: nothing else of it can be lost or sent
        twice, and whoever was told 4xx or 5xx has no other way than to send it again.
        """
        deliveries = stored.deliveries
        if stored.duplicate:
            deliveries = self.rejected_before(stored.event_id, hold_s)
            again = {each.action for each in deliveries}
            waiting = self.waiting(stored.event_id)
            if waiting is None and not deliveries:
                return Answered(202, "waiting", stored.event_id, UNKNOWN)
            self.told = {name: Told(202, "waiting", ACCEPTED) for name in waiting or () if name not in again}
            if not deliveries and self.told:
                return self.answer(stored.event_id)
            if not deliveries:
                return Answered(self.spec.skip, "skipped", stored.event_id, f"{ACCEPTED}, and has ended")
        if not deliveries:
            return Answered(self.spec.skip, "skipped", stored.event_id, "no action wants this event")
        # Those wait for their batch, not for the caller.
        self.leave([each for each in deliveries if each.action not in self.direct])
        ends_at = self.world.clock.now() + units.duration(self.spec.within)
        held_until = min(each.due_at for each in deliveries)  # that of one which waits for another is not known yet
        for delivery in deliveries:
            if delivery.action in self.direct:
                self.told[delivery.action] = self.one(delivery, held_until, ends_at)
            else:
                self.told[delivery.action] = Told(202, "waiting", "it goes out with its batch")
        return self.answer(stored.event_id)

    def rejected_before(self, event_id: str, hold_s: float) -> tuple[Delivery, ...]:
        program, now = self.program, self.world.clock.now()
        lane = (program.connector.name, program.client.client)
        return tuple(self.world.store.revive(*lane, event_id, self.direct, now=now, hold_s=hold_s))

    def waiting(self, event_id: str) -> list[str] | None:
        """
        The actions of an event that still wait. None where so much waits in the lane that it is not looked through
        (whoever asks must not cost more than what they send), or the store can't show it.
        """
        store, name = self.world.store, (self.program.connector.name, self.program.client.client)
        lane = store.lane(*name)
        if lane is None or not lane.waiting:
            return []
        if lane.waiting > MOST_SEEN or not isinstance(store, Carrier):
            return None
        seen = store.carry_out(*name, Waiting, after=0, limit=MOST_SEEN)
        return [each.delivery.action for each in seen if each.delivery.event_id == event_id]

    def leave(self, deliveries: list[Delivery]) -> None:
        """To the lane, at once or as soon as what they wait for has ended."""
        if deliveries:
            later = [Settled(each.seq, "later", due_at=each.received_at) for each in deliveries]
            self.world.store.settle(None, later, now=self.world.clock.now())

    def one(self, delivery: Delivery, held_until: float, ends_at: float) -> Told:
        if delivery.action in self.skipped:
            return Told(self.spec.skip, "skipped", self.skipped[delivery.action])
        for name in self.program.actions[delivery.action].spec.after:
            if name in self.told and self.told[name].outcome == "waiting":
                self.leave([delivery])
                return Told(202, "waiting", f"{name} waits")
        if delivery.due_at == math.inf:
            delivery = msgspec.structs.replace(delivery, due_at=held_until)
        walked = Direct(self.world, self.reporter, self.program, delivery, self.held, ends_at)
        status, outcome, reason = walked.answer()
        self.skipped |= {each.action: each.reason for each in walked.skipped}
        return Told(status, outcome, reason)

    def answer(self, event_id: str) -> Answered:
        """The worst of what became of the direct actions; never 4xx or 5xx while any goes on."""
        direct = [told for action, told in self.told.items() if action in self.direct]
        waiting = [told for told in self.told.values() if told.outcome == "waiting"]
        worst = max([told for told in direct if told in waiting] or direct or waiting, key=lambda told: told.status)
        if worst.status >= 400 and waiting:
            worst = waiting[0]
        actions = self.told if len(self.told) > 1 else {}
        return Answered(worst.status, worst.outcome, event_id, worst.reason, actions)


class Direct:
    """One delivery walked while its caller waits."""

    def __init__(
        self,
        world: World,
        reporter: Reporter,
        program: Program,
        delivery: Delivery,
        held: Held,
        ends_at: float,
    ) -> None:
        """`ends_at`: no further try after that."""
        self.world, self.reporter, self.program, self.delivery, self.held = world, reporter, program, delivery, held
        self.ends_at = ends_at
        self.spec = program.connector.receive.answer
        self.lane = (program.connector.name, program.client.client)
        self.batch: str | None = None  # where it goes on from, if it got half way
        self.skipped: list[Skipped] = []  # what waited for it
        self.journal: Journal | None = None  # of its walk, where somebody follows it
        self.last: Ended | None = None  # what its last try came to

    def answer(self) -> tuple[int, str, str]:
        """(status, outcome, reason)."""
        clock = self.world.clock
        action = self.program.actions[self.delivery.action]
        lane = self.world.store.lane(*self.lane)
        if lane is not None and lane.state == "paused":
            paused = Outcome(OutcomeKind.PAUSE, lane.reason or "the lane is paused", private=True)
            return self.end(paused, None, already=True)
        if lane is not None and lane.not_before > clock.now():
            return self.later(self.spec.throttle, lane.reason or "throttled", lane.not_before, told=THROTTLED)
        until = self.held.get((*self.lane, action.name), 0.0)
        if until == math.inf:
            return self.end(Outcome(OutcomeKind.PAUSE, f"{action.name} is paused"), None, already=True)
        if until > clock.now():
            return self.later(self.spec.throttle, f"{action.name} is throttled", until)
        if self.delivery.key is not None and self.world.store.behind(*self.lane, self.delivery):
            return self.later(self.spec.defer, "an older event of the same key waits", clock.now())
        try:
            walk = Walk(self.world, self.program, keep_alive=self.still_ours)
        except ConnectError as error:
            return self.end(Outcome(OutcomeKind.PAUSE, str(error), private=True), None)
        self.journal = walk.journal
        try:
            return self.tries(walk, action)
        except LeaseLost as error:
            return 202, "waiting", str(error)

    def still_ours(self) -> None:
        """Before each request: LeaseLost where its answer might come after a lane has taken the delivery."""
        if self.world.clock.now() + units.duration(self.program.connector.http.timeout) > self.delivery.due_at:
            raise LeaseLost("it takes longer than its caller can wait; it goes on from the buffer")

    def tries(self, walk: Walk, action: Action) -> tuple[int, str, str]:
        clock = self.world.clock
        for tried in range(1, self.spec.tries + 1):
            one = self.last = next(iter(walk.fresh(action, [self.delivery], None)))[0]
            self.batch = one.progress.batch if one.progress is not None else None
            if one.outcome.kind is not OutcomeKind.RETRY or self.batch is not None:
                return self.end(one.outcome, one.trace)
            wait = one.outcome.wait_s if one.outcome.wait_s is not None else self.program.backoff.wait_s(tried)
            if tried == self.spec.tries:
                break
            if clock.now() + wait >= self.ends_at:
                attempts = 0 if one.outcome.outage else tried
                reason, told = one.outcome.reason, words(one.outcome)
                return self.later(202, reason, clock.now() + wait, attempts=attempts, told=told)
            clock.sleep(wait)
        reason = f"{one.outcome.reason} (after {self.spec.tries} tries)"
        return self.end(msgspec.structs.replace(one.outcome, reason=reason), one.trace, attempts=self.spec.tries)

    def later(
        self, status: int, reason: str, due_at: float, attempts: int = 0, *, told: str | None = None
    ) -> tuple[int, str, str]:
        """
        It goes on from the buffer, or ends as a dead letter where the caller is told 4xx or 5xx.

        `told`: in words that are fit for the caller, where the reason is not.
        """
        if status >= 400:
            return self.bury(status, reason, "", None, attempts, told=told)
        self.settle(Settled(self.delivery.seq, "later", due_at=due_at, attempts=attempts, batch=self.batch))
        return status, "waiting", told or reason

    def end(
        self, outcome: Outcome, trace: Trace | None, *, attempts: int = 1, already: bool = False
    ) -> tuple[int, str, str]:
        now, spec, told = self.world.clock.now(), self.spec, words(outcome)
        match outcome.kind:
            case OutcomeKind.DELIVERED:
                self.settle(Settled(self.delivery.seq, "delivered"))
                return spec.delivered, "delivered", ""
            case OutcomeKind.SKIP:
                self.settle(Settled(self.delivery.seq, "skipped", reason=outcome.reason))
                return spec.skip, "skipped", told
            case OutcomeKind.THROTTLE:
                until = now + (outcome.wait_s or self.program.backoff.wait_s(1))
                if outcome.scope == "action":
                    self.held[*self.lane, self.delivery.action] = until
                elif not outcome.ours:
                    self.change(LaneChange(not_before=until, reason=self.kept(outcome.reason)))
                return self.later(spec.throttle, outcome.reason, until, told=told)
            case OutcomeKind.DEFER:
                return self.later(spec.defer, outcome.reason, now + (outcome.wait_s or DEFER_S), told=told)
            case OutcomeKind.PAUSE:
                if outcome.scope == "action":
                    self.held[*self.lane, self.delivery.action] = math.inf
                    self.reporter.paused(*self.lane, self.kept(outcome.reason), self.delivery.action)
                elif not already:
                    self.change(LaneChange(pause=True, reason=self.kept(outcome.reason)))
                if spec.pause >= 400:
                    return self.bury(spec.pause, outcome.reason, outcome.code, trace, attempts, told=told)
                return self.later(spec.pause, outcome.reason, now, told=told)
            case OutcomeKind.RETRY | OutcomeKind.REAUTH:
                wait = outcome.wait_s if outcome.wait_s is not None else self.program.backoff.wait_s(attempts)
                tries = 0 if outcome.outage else attempts
                return self.later(spec.retry, outcome.reason, now + wait, tries, told=told)
            case _:
                expected = outcome.expected
                return self.bury(
                    spec.reject, outcome.reason, outcome.code, trace, attempts, expected=expected, told=told
                )

    def bury(
        self,
        status: int,
        reason: str,
        code: str,
        trace: Trace | None,
        attempts: int,
        *,
        expected: bool = False,
        told: str | None = None,
    ) -> tuple[int, str, str]:
        self.settle(
            Settled(
                self.delivery.seq,
                "rejected",
                attempts=attempts,
                reason=reason,
                code=code,
                trace=trace,
                expected=expected,
            )
        )
        return status, "rejected", told or reason

    def settle(self, row: Settled) -> None:
        row = msgspec.structs.replace(row, reason=self.kept(row.reason))
        now = self.world.clock.now()
        self.skipped = self.world.store.settle(None, [row], now=now)
        ended = self.last or Ended(self.delivery, Outcome(OutcomeKind.DELIVERED), None, None)
        if self.world.is_followed:
            walked = self.journal.take() if self.journal is not None else Walked(now)
            ended_at = self.world.clock.now()
            if self.world.traces is not None:
                self.world.traces.settled(*self.lane, [self.delivery], [row], walked, settled_at=now, now=ended_at)
            if self.world.trail is not None:
                personal = self.program.personal
                self.world.trail.settled(
                    *(*self.lane, personal, [ended], [row], walked), now=ended_at, skipped=self.skipped
                )
        self.reporter.settled(self.program, [ended], [row], None)
        self.reporter.followed(self.program, self.skipped)

    def kept(self, reason: str) -> str:
        """As others may read it; the caller is told what the CRM said of the event, for it is theirs."""
        return self.program.personal.text(reason, self.delivery.body)

    def change(self, change: LaneChange) -> None:
        self.world.store.change_lane(*self.lane, change, now=self.world.clock.now())
        self.reporter.settled(self.program, [], [], change)


def words(outcome: Outcome) -> str:
    """What the caller is told: what the CRM or the mapping said of the event, and nothing about our own side."""
    return PLAIN.get(outcome.kind, UNSENT) if outcome.private else outcome.reason
