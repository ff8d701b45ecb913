"""Numbers for deliveries: rising with time, and never the same in two processes."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

from engine.errors import StoreUnavailable
from engine.stores.dynamodb.table import Unmet

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.stores.dynamodb.table import Table

EPOCH_MS = 1_704_067_200_000  # 2024; 41 bits of milliseconds last until 2093
PAST = (366 * 86_400_000) << 22  # no number of a year that is over is given any more
PROCESSES = 1 << 14
COUNTS = 1 << 8  # numbers of one millisecond
KEPT_S = 3600.0  # for which a process has its number
MARGIN_S = 120.0  # before its end, for clocks differ
AHEAD_S = 60.0  # a number from further ahead is that of a clock that is wrong, and is not followed


class Seqs:
    """
    Milliseconds, the number of the process, a count. `clock` gives unix seconds.

    The number of a process is an item in the table: two processes must not have the same one, for a delivery that is
    put under another's seq would take its place.
    """

    def __init__(self, table: Table, clock: Callable[[], float] = time.time) -> None:
        self.table, self.clock = table, clock
        self._gate = threading.Lock()
        self._process: int | None = None
        self._until = 0.0
        self._ms = 0
        self._count = 0

    def __call__(self, count: int) -> int:
        """The first of `count` numbers that follow one another."""
        if count > COUNTS:
            raise ValueError(f"{count} seqs at once; {COUNTS} is the most")
        with self._gate:
            process = self._claimed()
            ms = max(int(self.clock() * 1000) - EPOCH_MS, self._ms)
            if ms > self._ms:
                self._ms, self._count = ms, 0
            if self._count + count > COUNTS:
                self._ms, self._count = self._ms + 1, 0
            first = (self._ms << 22) | (process << 8) | self._count
            self._count += count
            return first

    def saw(self, seq: int) -> None:
        """What comes after is higher, whatever our clock says."""
        with self._gate:
            ms = (seq >> 22) + 1
            if self._ms < ms <= int((self.clock() + AHEAD_S) * 1000) - EPOCH_MS:
                self._ms, self._count = ms, 0

    def _claimed(self) -> int:
        now = self.clock()
        if self._process is not None and now < self._until - MARGIN_S:
            if now < self._until - KEPT_S / 2:
                return self._process
            return self._claim([self._process], now, again=True)
        return self._claim(random.sample(range(PROCESSES), 32), now, again=False)

    def _claim(self, numbers: list[int], now: float, *, again: bool) -> int:
        until = now + KEPT_S
        for number in numbers:
            item = {
                "pk": {"S": "process"},
                "sk": {"S": str(number)},
                "until": {"N": repr(until)},
                "ttl": {"N": str(int(until) + 3600)},
            }
            try:
                condition = "attribute_not_exists(pk) OR #u < :over" if not again else "#u = :mine"
                values = {":over": {"N": repr(now - MARGIN_S)}} if not again else {":mine": {"N": repr(self._until)}}
                self.table.put(item, condition, values, {"#u": "until"})
            except Unmet:
                continue
            self._process, self._until = number, until
            self._ms, self._count = self._ms + 1, 0  # another number may be a lower one
            return number
        if again:  # it was taken from us, or the answer to our last word on it was lost
            return self._claim(random.sample(range(PROCESSES), 32), now, again=False)
        raise StoreUnavailable(f"{self.table}: no number is free for this process")
