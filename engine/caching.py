"""What one client found, made or sent a moment ago; in the process, for a time."""

from __future__ import annotations

import threading
from typing import Any

MAX_CACHED = 100_000
SWEPT = 2  # of what is over, with each that comes: in time nothing of it is left


class Cache:
    """Values by what they are of and a key, until their time; the oldest go first, when over or when it is full."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[Any, float]] = {}
        self.credentials = ""  # fingerprint of those that it was found with
        self.lock = threading.Lock()

    def keep_for(self, credentials: str) -> None:
        """With other secrets the account may be another one: nothing that was found in the old one serves."""
        with self.lock:
            if credentials != self.credentials:
                self.kept.clear()
            self.credentials = credentials

    def get(self, of: str, key: str, now: float) -> tuple[Any] | None:
        with self.lock:
            kept = self.kept.get((of, key))
            return (kept[0],) if kept is not None and kept[1] > now else None

    def put(self, of: str, key: str, value: Any, now: float, for_s: float) -> None:
        with self.lock:
            self.kept.pop((of, key), None)  # the newest stands last
            for _ in range(SWEPT):
                oldest = next(iter(self.kept), None)
                if oldest is None or (self.kept[oldest][1] > now and len(self.kept) < MAX_CACHED):
                    break
                del self.kept[oldest]
            self.kept[of, key] = (value, now + for_s)

    def clear(self) -> None:
        with self.lock:
            self.kept.clear()

    def forget(self, of: str, key: str) -> None:
        with self.lock:
            self.kept.pop((of, key), None)
