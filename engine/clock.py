"""Time as it is, and time that a test moves."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class VirtualClock:
    """Time that moves when somebody waits: a twelve-hour outage takes milliseconds."""

    def __init__(self, start: float = 1_769_596_245.0) -> None:
        self.time = start

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += max(seconds, 0.0)
