"""What became of each delivery of a batch -> rows to settle, and what changes on the lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.records import LaneChange, Lease, OutcomeKind, Settled
from engine.retrying import DEFER_S, after_failure
from engine.walk import lane_wide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.program import Program
    from engine.records import Delivery, Ended, Outcome
    from engine.walk import World


MAX_FAILING = 100_000


class Verdicts:
    """The outcomes of one batch -> rows to settle, and what changes on the lane."""

    def __init__(self, world: World, program: Program, lease: Lease | None, failing: dict[str, float]) -> None:
        """`failing`: id of a delivery -> when it first failed in what looked like an outage; kept between turns."""
        self.world, self.program, self.lease, self.failing = world, program, lease, failing
        self.failures = lease.failures if lease else 0
        self.failing_since = lease.failing_since if lease else None
        self.held = lease is not None and lease.not_before > 0

    def of(self, ended: Sequence[Ended], now: float) -> tuple[list[Settled], LaneChange | None, dict[str, float]]:
        """(rows, lane change, action -> until when it stands still)."""
        rows: list[Settled] = []
        hold: float | None = None
        reason = ""
        pause: str | None = None
        actions: dict[str, float] = {}
        for one in ended:
            outcome, delivery = one.outcome, one.delivery
            if outcome.kind is OutcomeKind.DELIVERED:
                if self.failing:
                    self.failing.pop(delivery.id, None)
                rows.append(Settled(delivery.seq, "delivered"))
                continue
            batch = one.progress.batch if one.progress is not None else None
            kind: OutcomeKind = outcome.kind
            wait = outcome.wait_s
            attempts = delivery.attempts
            # What is kept of a reason is shown in logs, alerts and lists; of the event only `dead show --reveal` tells.
            why = self.program.personal.text(outcome.reason, delivery.body)
            if kind in (OutcomeKind.RETRY, OutcomeKind.REAUTH):
                attempts += 0 if outcome.outage or not outcome.count else 1
                age = self.age(delivery, now) if outcome.outage else 0.0
                counted = attempts if not outcome.outage else self.failures + 1
                kind, wait = after_failure(outcome, counted, age, self.program.backoff)
                if kind is OutcomeKind.RETRY and outcome.outage:
                    wait = wait or self.program.backoff.wait_s(counted)  # a vendor that is down and says 0 says nothing
                    hold, reason = max(hold or 0.0, now + wait), why
                    # While others come through it is this one that fails: it comes again ever more rarely.
                    wait = min(age, self.program.backoff.max_s) if self.failing_since is None else 0.0
            if kind not in (OutcomeKind.RETRY, OutcomeKind.DEFER, OutcomeKind.THROTTLE, OutcomeKind.PAUSE):
                self.failing.pop(delivery.id, None)
            if kind is OutcomeKind.DELIVERED:
                rows.append(Settled(delivery.seq, "delivered"))
            elif kind is OutcomeKind.SKIP:
                rows.append(Settled(delivery.seq, "skipped", reason=why))
            elif kind in (OutcomeKind.REJECT, OutcomeKind.SPLIT):
                text, tries = self.last_words(outcome, attempts, asked=one.trace is not None)
                rows.append(
                    Settled(
                        delivery.seq,
                        "rejected",
                        attempts=tries,
                        reason=self.program.personal.text(text, delivery.body),
                        code=outcome.code,
                        trace=one.trace,
                        expected=outcome.expected,
                    )
                )
            elif kind is OutcomeKind.PAUSE:
                rows.append(Settled(delivery.seq, "later", due_at=now, attempts=attempts, batch=batch))
                if outcome.scope == "action":
                    actions[delivery.action] = float("inf")
                else:
                    pause = why
            elif kind is OutcomeKind.THROTTLE:
                wait = wait or self.program.backoff.wait_s(self.failures + 1)
                if outcome.scope == "action":
                    actions[delivery.action] = now + wait
                    rows.append(Settled(delivery.seq, "later", due_at=now + wait, attempts=attempts, batch=batch))
                else:
                    hold, reason = max(hold or 0.0, now + wait), why
                    rows.append(Settled(delivery.seq, "later", due_at=now, attempts=attempts, batch=batch))
            else:  # retry and defer: this delivery again, later
                due = now + (wait or (DEFER_S if kind is OutcomeKind.DEFER else 0.0))
                rows.append(
                    Settled(
                        *(delivery.seq, "later", due, attempts, batch),
                        reason="" if outcome.ours else why,
                    )
                )
        return rows, self.change(ended, hold, reason, pause, now), actions

    def age(self, delivery: Delivery, now: float) -> float:
        """Seconds for which the lane, or this delivery where others come through, has met with nothing but outages."""
        while len(self.failing) >= MAX_FAILING:
            del self.failing[next(iter(self.failing))]
        first = self.failing.setdefault(delivery.id, now)
        since = max(self.failing_since, delivery.received_at) if self.failing_since is not None else now
        return now - max(min(first, since), delivery.again_at or 0.0)  # whoever tries it again wants it tried

    @staticmethod
    def last_words(outcome: Outcome, attempts: int, *, asked: bool) -> tuple[str, int]:
        """Reason and tries of a delivery that is given up, or that the vendor refused at the last of them."""
        if outcome.kind is not OutcomeKind.RETRY:
            return outcome.reason, attempts + asked
        if outcome.outage:
            return f"{outcome.reason} (given up: it went on for too long)", attempts
        return f"{outcome.reason} (after {attempts} tries)", attempts

    def change(
        self,
        ended: Sequence[Ended],
        hold: float | None,
        reason: str,
        pause: str | None,
        now: float,
    ) -> LaneChange | None:
        if pause is not None:
            return LaneChange(pause=True, reason=pause)
        if hold is not None:
            self.held = True
            if all(one.outcome.ours for one in ended if lane_wide(one.outcome)):
                return LaneChange(not_before=hold, reason=reason, failures=self.failures)
            self.failures += 1
            outage = any(one.outcome.outage for one in ended)
            self.failing_since = (self.failing_since or now) if outage else None  # a throttle is an answer
            since = self.failing_since or 0.0
            return LaneChange(not_before=hold, reason=reason, failures=self.failures, failing_since=since)
        if (self.failures or self.held or self.failing_since) and any(map(answered, ended)):
            self.failures, self.failing_since, self.held = 0, None, False
            return LaneChange(reason="", failures=0, failing_since=0)
        return None


def answered(one: Ended) -> bool:
    """Has the vendor said something about this delivery, good or bad?"""
    return one.outcome.kind is OutcomeKind.DELIVERED or (one.trace is not None and not one.outcome.outage)
