"""One delivery walked while its caller waits, and the answer that the caller gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.errors import ConnectError
from engine.records import Delivery, LaneChange, Outcome, OutcomeKind, Settled, Trace
from engine.spec import units
from engine.walk import Ended, Walk

if TYPE_CHECKING:
    from engine.program import Program
    from engine.reporting import Reporter
    from engine.walk import World


class Direct:
    """One delivery walked while its caller waits."""

    def __init__(self, world: World, reporter: Reporter, program: Program, delivery: Delivery) -> None:
        self.world, self.reporter, self.program, self.delivery = world, reporter, program, delivery
        self.spec = program.connector.receive.answer
        self.lane = (program.connector.name, program.client.client)

    def answer(self) -> tuple[int, str, str]:
        """(status, outcome, reason)."""
        clock = self.world.clock
        action = self.program.actions[self.delivery.action]
        lane = self.world.store.lane(*self.lane)
        if lane is not None and lane.state == "paused":
            return self.end(Outcome(OutcomeKind.PAUSE, lane.reason or "the lane is paused"), None, already=True)
        if lane is not None and lane.not_before > clock.now():
            return self.later(self.spec.throttle, lane.reason or "throttled", lane.not_before)
        if self.delivery.key is not None and self.world.store.behind(*self.lane, self.delivery):
            return self.later(self.spec.defer, "an older event of the same key waits", clock.now())
        ends_at = clock.now() + units.duration(self.spec.within)
        try:
            walk = Walk(self.world, self.program, keep_alive=lambda: None)
        except ConnectError as error:
            return self.end(Outcome(OutcomeKind.PAUSE, str(error)), None)
        for tried in range(1, self.spec.tries + 1):
            one = next(iter(walk.fresh(action, [self.delivery], None)))[0]
            if one.outcome.kind is not OutcomeKind.RETRY or one.progress is not None:
                return self.end(one.outcome, one.trace)
            wait = one.outcome.wait_s if one.outcome.wait_s is not None else self.program.backoff.wait_s(tried)
            if tried == self.spec.tries:
                break
            if clock.now() + wait >= ends_at:
                return self.later(202, one.outcome.reason, clock.now() + wait, attempts=tried)
            clock.sleep(wait)
        reason = f"{one.outcome.reason} (after {self.spec.tries} tries)"
        return self.end(msgspec.structs.replace(one.outcome, reason=reason), one.trace, attempts=self.spec.tries)

    def later(self, status: int, reason: str, due_at: float, attempts: int = 0) -> tuple[int, str, str]:
        """It goes on from the buffer, or ends as a dead letter where the caller is told 4xx or 5xx."""
        if status >= 400:
            return self.bury(status, reason, "", None, attempts)
        self.settle(Settled(self.delivery.seq, "later", due_at=due_at, attempts=attempts))
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
                until = now + (outcome.wait_s if outcome.wait_s is not None else self.program.backoff.wait_s(1))
                if not outcome.ours:
                    self.change(LaneChange(not_before=until, reason=outcome.reason))
                return self.later(spec.throttle, outcome.reason, until)
            case OutcomeKind.DEFER:
                return self.later(spec.defer, outcome.reason, now + (outcome.wait_s or 60.0))
            case OutcomeKind.PAUSE:
                if not already:
                    self.change(LaneChange(pause=True, reason=outcome.reason))
                if spec.pause >= 400:
                    return self.bury(spec.pause, outcome.reason, outcome.code, trace, attempts)
                return self.later(spec.pause, outcome.reason, now)
            case OutcomeKind.RETRY | OutcomeKind.REAUTH:
                wait = outcome.wait_s if outcome.wait_s is not None else self.program.backoff.wait_s(attempts)
                return self.later(spec.retry, outcome.reason, now + wait, attempts)
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
