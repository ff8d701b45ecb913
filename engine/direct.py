"""One delivery walked while its caller waits, and the answer that the caller gets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from engine.errors import ConnectError, LeaseLost
from engine.records import Delivery, LaneChange, Outcome, OutcomeKind, Settled, Trace
from engine.retrying import DEFER_S
from engine.spec import units
from engine.walk import Ended, Walk

if TYPE_CHECKING:
    from engine.program import Action, Program
    from engine.reporting import Reporter
    from engine.walk import World


class Direct:
    """One delivery walked while its caller waits."""

    def __init__(
        self,
        world: World,
        reporter: Reporter,
        program: Program,
        delivery: Delivery,
        held: dict[tuple[str, str, str], float],
    ) -> None:
        """`held`: (connector, client, action) -> until when that action stands still; shared with the lanes."""
        self.world, self.reporter, self.program, self.delivery, self.held = world, reporter, program, delivery, held
        self.spec = program.connector.receive.answer
        self.lane = (program.connector.name, program.client.client)
        self.batch: str | None = None  # where it goes on from, if it got half way

    def answer(self) -> tuple[int, str, str]:
        """(status, outcome, reason)."""
        clock = self.world.clock
        action = self.program.actions[self.delivery.action]
        lane = self.world.store.lane(*self.lane)
        if lane is not None and lane.state == "paused":
            return self.end(Outcome(OutcomeKind.PAUSE, lane.reason or "the lane is paused"), None, already=True)
        if lane is not None and lane.not_before > clock.now():
            return self.later(self.spec.throttle, lane.reason or "throttled", lane.not_before)
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
            return self.end(Outcome(OutcomeKind.PAUSE, str(error)), None)
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
        ends_at = clock.now() + units.duration(self.spec.within)
        for tried in range(1, self.spec.tries + 1):
            one = next(iter(walk.fresh(action, [self.delivery], None)))[0]
            self.batch = one.progress.batch if one.progress is not None else None
            if one.outcome.kind is not OutcomeKind.RETRY or self.batch is not None:
                return self.end(one.outcome, one.trace)
            wait = one.outcome.wait_s if one.outcome.wait_s is not None else self.program.backoff.wait_s(tried)
            if tried == self.spec.tries:
                break
            if clock.now() + wait >= ends_at:
                attempts = 0 if one.outcome.outage else tried
                return self.later(202, one.outcome.reason, clock.now() + wait, attempts=attempts)
            clock.sleep(wait)
        reason = f"{one.outcome.reason} (after {self.spec.tries} tries)"
        return self.end(msgspec.structs.replace(one.outcome, reason=reason), one.trace, attempts=self.spec.tries)

    def later(self, status: int, reason: str, due_at: float, attempts: int = 0) -> tuple[int, str, str]:
        """It goes on from the buffer, or ends as a dead letter where the caller is told 4xx or 5xx."""
        if status >= 400:
            return self.bury(status, reason, "", None, attempts)
        self.settle(Settled(self.delivery.seq, "later", due_at=due_at, attempts=attempts, batch=self.batch))
        return status, "waiting", reason

    def end(
        self, outcome: Outcome, trace: Trace | None, *, attempts: int = 1, already: bool = False
    ) -> tuple[int, str, str]:
        now, spec = self.world.clock.now(), self.spec
        match outcome.kind:
            case OutcomeKind.DELIVERED:
                self.settle(Settled(self.delivery.seq, "delivered"))
                return spec.delivered, "delivered", ""
            case OutcomeKind.SKIP:
                self.settle(Settled(self.delivery.seq, "skipped", reason=outcome.reason))
                return spec.skip, "skipped", outcome.reason
            case OutcomeKind.THROTTLE:
                until = now + (outcome.wait_s or self.program.backoff.wait_s(1))
                if outcome.scope == "action":
                    self.held[*self.lane, self.delivery.action] = until
                elif not outcome.ours:
                    self.change(LaneChange(not_before=until, reason=outcome.reason))
                return self.later(spec.throttle, outcome.reason, until)
            case OutcomeKind.DEFER:
                return self.later(spec.defer, outcome.reason, now + (outcome.wait_s or DEFER_S))
            case OutcomeKind.PAUSE:
                if outcome.scope == "action":
                    self.held[*self.lane, self.delivery.action] = math.inf
                    self.reporter.paused(*self.lane, outcome.reason, self.delivery.action)
                elif not already:
                    self.change(LaneChange(pause=True, reason=outcome.reason))
                if spec.pause >= 400:
                    return self.bury(spec.pause, outcome.reason, outcome.code, trace, attempts)
                return self.later(spec.pause, outcome.reason, now)
            case OutcomeKind.RETRY | OutcomeKind.REAUTH:
                wait = outcome.wait_s if outcome.wait_s is not None else self.program.backoff.wait_s(attempts)
                return self.later(spec.retry, outcome.reason, now + wait, 0 if outcome.outage else attempts)
            case _:
                return self.bury(spec.reject, outcome.reason, outcome.code, trace, attempts, expected=outcome.expected)

    def bury(
        self, status: int, reason: str, code: str, trace: Trace | None, attempts: int, *, expected: bool = False
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
        return status, "rejected", reason

    def settle(self, row: Settled) -> None:
        self.world.store.settle(None, [row], now=self.world.clock.now())
        ended = Ended(self.delivery, Outcome(OutcomeKind.DELIVERED), None, None)
        self.reporter.settled(self.program, [ended], [row], None)

    def change(self, change: LaneChange) -> None:
        self.world.store.change_lane(*self.lane, change, now=self.world.clock.now())
        self.reporter.settled(self.program, [], [], change)
