"""How many dead letters each lane has: counted seldom, for a count may read every letter."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.ports import Buffer
    from engine.records import Lane

KEPT_S = 60.0  # how long a count is remembered at least
COST = 30  # and this many times as long as it took


class DeadCounts:
    """For whoever asks again and again, as metrics do; any thread may."""

    def __init__(self, store: Buffer, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._kept: dict[tuple[str, str], int] = {}
        self._until = float("-inf")
        self._lock = threading.Lock()

    def __call__(self, lanes: Iterable[Lane]) -> Mapping[tuple[str, str], int]:
        """By (connector, client), 0 for a lane without any; a lane that never rejected is not asked for."""
        lanes = list(lanes)
        with self._lock:
            began = self._clock()
            if began >= self._until:
                self._kept = {
                    (connector, client): count
                    for connector in sorted({lane.connector for lane in lanes if lane.rejected})
                    for client, count in self._store.count_dead("client", connector=connector).items()
                }
                done = self._clock()
                self._until = done + max(KEPT_S, COST * (done - began))
            return {(lane.connector, lane.client): self._kept.get((lane.connector, lane.client), 0) for lane in lanes}
