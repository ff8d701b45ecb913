"""
How full the store and its disk are: measured beside the event loop, so that intake stops before anything is lost.

What waits is delivered all the same, and that makes room: space inside the file that has become free counts as free.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from engine.errors import ConnectError, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.ports import Telemetry

MIN_FREE = 100_000_000  # bytes of the disk that intake leaves: settling what was accepted needs some
LOOK_S = 1.0


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write there."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


class Capacity:
    """
    Of one store. `used` gives the bytes that its events take, `folder` lies on its disk; None: not known, never full.

    `max_bytes` None: as much as the disk holds.
    """

    def __init__(
        self,
        *,
        used: Callable[[], int] | None,
        folder: Path | None,
        max_bytes: int | None,
        telemetry: Telemetry,
        free: Callable[[Path], int] = free_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._used, self._folder, self._max_bytes = used, folder, max_bytes
        self._telemetry, self._free, self._clock = telemetry, free, clock
        self._measures = folder is not None or (used is not None and max_bytes is not None)
        self._measured_at = float("-inf")
        self._gate = threading.Lock()
        self._why: str | None = None

    def why(self) -> str | None:
        """Why nothing more should be taken in, as it was a second ago; quick, and measures anew in a thread."""
        if self._measures and self._clock() - self._measured_at > LOOK_S:
            self._measured_at = self._clock()
            threading.Thread(target=self.measure, name="capacity", daemon=True).start()
        return self._why

    def share(self) -> float | None:
        """How much is used of what the store may hold, 0 to 1; None: not known. It asks the store."""
        if self._used is None:
            return None
        try:
            used = self._used()
            rooms = [self._max_bytes - used] if self._max_bytes is not None else []
            rooms += [self._free(self._folder) - MIN_FREE] if self._folder is not None else []
        except (OSError, ConnectError):
            return None
        return used / (used + max(0, min(rooms))) if rooms and used else None

    def measure(self) -> str | None:
        """Why nothing more should be taken in, now; None: there is room."""
        with self._gate:
            try:
                why = self._found()
            except (OSError, ConnectError) as error:  # what can't be written says so itself
                self._telemetry.event("fault", where="capacity", error=told(error))
                return self._why
            if (why is None) != (self._why is None):
                facts: dict[str, Any] = {"reason": why} if why else {}
                self._telemetry.event("store-full" if why else "store-has-room", **facts)
            self._why = why
            return why

    def _found(self) -> str | None:
        if self._used is not None and self._max_bytes is not None and (used := self._used()) >= self._max_bytes:
            return f"the store holds {_shown(used)}, and max_store is {_shown(self._max_bytes)}"
        if self._folder is not None and (free := self._free(self._folder)) < MIN_FREE:
            return f"the store's disk has {_shown(free)} left, and {_shown(MIN_FREE)} are kept free"
        return None


def _shown(size: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"
