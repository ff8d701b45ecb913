"""What a process that delivers does beside it: forgets whom others were told to forget, and removes what is old."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.ports import Clock, Store, Telemetry
    from engine.program import Program

LOOK_S = 2.0
EVERY_S = 3600.0  # between two looks for what is old
PART = 1000  # rows in one transaction


class Housekeeper:
    """One for a process; `look` is called every few seconds."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        telemetry: Telemetry,
        programs: Callable[[], Iterable[Program]],
        keep_dead_s: Callable[[], float | None],
    ) -> None:
        """`keep_dead_s`: how long dead letters are kept, now; None: for good."""
        self.store, self.clock, self.telemetry = store, clock, telemetry
        self.programs, self.keep_dead_s = programs, keep_dead_s
        self.forgotten: int | None = None
        self.asked_at = float("-inf")
        self.removed_at = float("-inf")

    def look(self) -> None:
        self.forget()
        if self.clock.now() - self.removed_at >= EVERY_S:
            self.removed_at = self.clock.now()
            self.expire()

    def forget(self) -> None:
        """
        Nothing stays of what look-ups found and steps made, when anybody was erased since the last look.

        The store keeps only how often that was: who it was, nobody is to know.
        """
        self.asked_at = self.clock.now()
        before, self.forgotten = self.forgotten, self.store.forgotten()
        if before != self.forgotten:  # the first time, too: it may have been since the start
            for program in self.programs():
                program.cache.clear()
            if before is not None:
                self.telemetry.event("caches-cleared", why="a person was erased")

    def forget_soon(self) -> None:
        """For a process that only answers direct callers: at their next event, but every two seconds at most."""
        if self.clock.now() - self.asked_at >= LOOK_S:
            self.forget()

    def expire(self) -> None:
        """Dead letters that are older than they are kept, and ids that ran out; in parts, so that nobody waits long."""
        kept = self.keep_dead_s()
        now = self.clock.now()
        before = None if kept is None else now - kept
        counts = {"dead": 0, "dedupe": 0}
        while any(part := self.store.expire(dead_before=before, now=now, most=PART).values()):
            counts = {name: count + more for (name, count), more in zip(counts.items(), part, strict=True)}
        if counts["dead"]:
            self.telemetry.event("dead-letters-expired", count=counts["dead"], before=before)
