"""
Deliveries of an action that the connector has no more, or that is switched off: told at once, dead letters after a day.

Until then the action may come back and they go out as if nothing had been. A dead letter can be tried again, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.records import Ended, LaneChange, Outcome, OutcomeKind, Settled, Walked

if TYPE_CHECKING:
    from engine.program import Program
    from engine.records import Delivery, Lease
    from engine.reporting import Reporter
    from engine.walk import World

GRACE_S = 86_400.0  # from its arrival, or from when it was tried again
AT_ONCE = 1_000
CODE = "action-gone"


GONE = " is not in the connector any more, or is switched off"


def says(action: str) -> str:
    return f"the action {action}{GONE}"


class Withdrawn:
    """One for a worker."""

    def __init__(self, world: World, reporter: Reporter) -> None:
        self.world, self.reporter = world, reporter
        self.told: set[tuple[str, str, str]] = set()  # connector, client, action

    def look(self, lease: Lease, program: Program, action: str) -> tuple[bool, float | None]:
        """(was anything settled? when to look again), for one action that has deliveries and is not there."""
        store, now = self.world.store, self.world.clock.now()
        count, _, next_due = store.backlog(lease, action, now=now, cap=AT_ONCE)
        due = store.read(lease, action, limit=AT_ONCE, now=now) if count else []
        begun = [each for _, those in store.progress(lease, action, now=now) for each in those]
        self.tell(lease, action, count + len(begun))
        over = [each for each in (*due, *begun) if ends_at(each) <= now]
        left = [ends_at(each) for each in (*due, *begun) if ends_at(each) > now]
        again_at = min([*left, *([next_due] if next_due is not None else [])], default=None)
        if over:
            last = again_at is None and count < AT_ONCE
            self.bury(lease, program, action, over, now, LaneChange(reason="") if last else None)
        return bool(over), again_at

    def tell(self, lease: Lease, action: str, count: int) -> None:
        """Someone hears of it, once; and it stands beside the lane in `connect status`."""
        name = (lease.connector, lease.client, action)
        if name in self.told or not count:
            return
        self.told.add(name)
        self.world.store.settle(lease, [], now=self.world.clock.now(), change=LaneChange(reason=says(action)))
        self.reporter.withdrawn(*name, count if count < AT_ONCE else None)

    def bury(
        self, lease: Lease, program: Program, action: str, over: list[Delivery], now: float, change: LaneChange | None
    ) -> None:
        reason = says(action)
        ended = [Ended(each, Outcome(OutcomeKind.REJECT, reason, CODE), None, None) for each in over]
        rows = [Settled(each.seq, "rejected", attempts=each.attempts, reason=reason, code=CODE) for each in over]
        skipped = self.world.store.settle(lease, rows, now=now, change=change)
        if self.world.trail is not None:
            lane = (lease.connector, lease.client)
            self.world.trail.settled(*lane, program.personal, ended, rows, Walked(now), now=now)
        self.reporter.settled(program, ended, rows, None)
        self.reporter.followed(program, skipped)

    def forget(self, lease: Lease, action: str) -> None:
        """The action is there again."""
        if (name := (lease.connector, lease.client, action)) in self.told:
            self.told.discard(name)
            self.world.store.settle(lease, [], now=self.world.clock.now(), change=LaneChange(reason=""))
            self.reporter.back(lease.connector, lease.client)


def is_said(reason: str | None) -> bool:
    """Is it the reason of a lane that such deliveries wait in?"""
    return reason is not None and reason.endswith(GONE)


def ends_at(delivery: Delivery) -> float:
    return max(delivery.received_at, delivery.again_at or 0.0) + GRACE_S
