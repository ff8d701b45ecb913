"""Alerts to the log alone: once an hour for one trouble. What a process that runs does is in `alerting/`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.ports import Telemetry

REPEAT_S = 3600.0
KEEP = 10_000  # troubles remembered; more are told again


class Once:
    """One alert for one trouble: the same (kind, connector, client) again after an hour at the earliest."""

    def __init__(self, repeat_s: float = REPEAT_S) -> None:
        self._repeat_s = repeat_s
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def passes(self, kind: str, connector: str, client: str, now: float) -> int | None:
        """How often it was held back since it was last told, or None while it is to be held back."""
        trouble = (kind, connector, client)
        with self._lock:
            told_at, held_back = self._told.get(trouble, (None, 0))
            if told_at is not None and now - told_at < self._repeat_s:
                self._told[trouble] = (told_at, held_back + 1)
                return None
            if told_at is None and len(self._told) >= KEEP:
                del self._told[next(iter(self._told))]
            self._told.pop(trouble, None)
            self._told[trouble] = (now, 0)
            return held_back

    def forget(self, kind: str, connector: str, client: str) -> None:
        """It is over: the next one of its kind is not held back."""
        with self._lock:
            self._told.pop((kind, connector, client), None)


class LogAlerts:
    """Alerts as `alert` events of the telemetry: a line in the log and a count."""

    def __init__(
        self, telemetry: Telemetry, *, repeat_s: float = REPEAT_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._telemetry, self._clock = telemetry, clock
        self._once = Once(repeat_s)

    def alert(self, kind: str, *, connector: str, client: str, text: str, facts: Mapping[str, str]) -> None:
        repeated = self._once.passes(kind, connector, client, self._clock())
        if repeated is not None:
            again = f" ({repeated} more since the last alert)" if repeated else ""
            lane = {"connector": connector, "client": client}
            self._telemetry.event("alert", kind=kind, **lane, text=f"{text}{again}", facts=dict(facts))

    def over(self, kind: str, *, connector: str, client: str) -> None:
        self._once.forget(kind, connector, client)
