"""
How much a sender may send: so many at once, and no more than the rate in the long run; counted in this process alone.

What was let in above the rate is owed: the next is let in when it has been paid for. So a list that is longer than the
rate is taken whole, and the pause after it is longer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.spec.units import Rate

MOST_SENDERS = 50_000
_NEVER_MIND_S = 1e-6  # what sums of floats are off


class Meter:
    """One sender's."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._each_s = rate.per_s / rate.uses
        self._owed_until = float("-inf")

    def wait_s(self) -> float:
        """0 where there is room for one more, else the seconds until there is."""
        short = self._owed_until + self._each_s - self.rate.per_s - self._clock()
        return short if short > _NEVER_MIND_S else 0.0

    def count(self, uses: int) -> None:
        self._owed_until = max(self._owed_until, self._clock()) + uses * self._each_s


class Meters:
    """One for each of many senders; those who owe nothing, and of too many the first, are forgotten."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic, most: int = MOST_SENDERS) -> None:
        self.rate = rate
        self._clock, self._most = clock, most
        self._each_s = rate.per_s / rate.uses
        self._owed_until: dict[str, float] = {}

    def wait_s(self, sender: str) -> float:
        """0 where there was room for one more, which is counted, else the seconds until there is."""
        now = self._clock()
        owed_until = max(self._owed_until.get(sender, now), now) + self._each_s
        if (short := owed_until - self.rate.per_s - now) > _NEVER_MIND_S:
            return short
        if len(self._owed_until) >= self._most and sender not in self._owed_until:
            self._forget(now)
        self._owed_until[sender] = owed_until
        return 0.0

    def _forget(self, now: float) -> None:
        owing = {sender: until for sender, until in self._owed_until.items() if until > now}
        for sender in list(owing)[: len(owing) - self._most // 2]:
            del owing[sender]
        self._owed_until = owing
