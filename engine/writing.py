"""
What was learned from a CRM is written down as soon as the store takes it: asking again would send everything again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from engine.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.ports import Clock, Telemetry

T = TypeVar("T")
FIRST_S, LONGEST_S = 0.1, 5.0  # between two tries
PATIENCE_S = 3600.0
TOLD_AGAIN_S = 30.0  # a store that is away is looked at ten times a second, and every request says so


class Unreachable:
    """Tells the log that the store can't be reached: at once, where it says something else, and now and then."""

    def __init__(self, telemetry: Telemetry, now: Callable[[], float]) -> None:
        self._telemetry, self._now = telemetry, now
        self._told: tuple[str, float] | None = None  # what, and when

    def tell(self, error: StoreUnavailable) -> None:
        why, now = str(error), self._now()
        if self._told is None or self._told[0] != why or not 0 <= now - self._told[1] < TOLD_AGAIN_S:
            self._told = why, now
            self._telemetry.event("store-unavailable", why=why)


def written(
    write: Callable[[], T],
    *,
    clock: Clock,
    telemetry: Telemetry,
    over: Callable[[], bool] = lambda: False,
    patience_s: float = PATIENCE_S,
) -> T:
    """
    What `write` gives. While the store can't be written (a full disk) it is tried again for `patience_s`, or until
    `over`; then its StoreUnavailable is the caller's. A lease that was lost meanwhile is told by the store itself.
    """
    waited_s, wait_s = 0.0, FIRST_S
    while True:
        try:
            return write()
        except StoreUnavailable as error:
            if waited_s >= patience_s or over():
                raise
            if not waited_s:
                telemetry.event("store-unavailable", why=str(error))
        clock.sleep(wait_s)
        waited_s += wait_s
        wait_s = min(2 * wait_s, LONGEST_S)
