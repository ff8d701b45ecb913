"""Time as it is, as all hosts of a store have it, and time that a test moves."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DRIFT = 0.0001  # seconds that two clocks may move apart in each second
AGAIN_S = 60.0  # between two askings of what costs a way there and back
STEPPED_S = 1.0  # by which a machine's clock was moved, or the machine stood still


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class SharedClock:
    """
    One time for all hosts: this machine's, put right by as little as agrees with what the store's server says.

    Leases, rates and due times of hosts whose clocks differ would not fit together: who is half a minute ahead would
    take every lane as lost. Between two words of the server the time runs on by itself, whatever happens to the
    machine's clock.
    """

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._gate = threading.Lock()
        self._gap = self._offset = wall() - monotonic()
        self._low, self._high = float("-inf"), float("inf")  # between these is the server's time less ours
        self._at: float | None = None  # when the server was heard last; monotonic

    def now(self) -> float:
        return self._monotonic() + self._offset

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    @property
    def asks(self) -> bool:
        """Is it time to hear the server again?"""
        at = self._monotonic()
        return self._at is None or at - self._at > AGAIN_S or abs(self._wall() - at - self._gap) > STEPPED_S

    @property
    def ahead_s(self) -> float:
        """Of the store's time is this machine's."""
        return self._wall() - self.now()

    def told(self, earliest: float, latest: float, *, sent: float, received: float) -> None:
        """The server's time was between these at some moment from `sent` to `received`; these two are monotonic."""
        with self._gate:
            low, high = earliest - received, latest - sent
            if self._at is not None:
                apart = DRIFT * max(0.0, received - self._at)
                closer = max(low, self._low - apart), min(high, self._high + apart)
                low, high = closer if closer[0] <= closer[1] else (low, high)  # else that clock was moved
            self._low, self._high, self._at = low, high, received
            self._offset = min(max(self._offset, low), high)
            self._gap = self._wall() - self._monotonic()


class VirtualClock:
    """Time that moves when somebody waits: a twelve-hour outage takes milliseconds."""

    def __init__(self, start: float = 1_769_596_245.0) -> None:
        self.time = start

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += max(seconds, 0.0)
