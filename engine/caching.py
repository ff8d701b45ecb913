"""What one client found, made or sent a moment ago; in the process, for a time."""

from __future__ import annotations

import threading
from typing import Any

MAX_CACHED = 100_000


class Cache:
    """Values by what they are of and a key, until their time; the oldest go first when it is full."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[Any, float]] = {}
        self.lock = threading.Lock()

    def get(self, of: str, key: str, now: float) -> tuple[Any] | None:
        with self.lock:
            kept = self.kept.get((of, key))
            return (kept[0],) if kept is not None and kept[1] > now else None

    def put(self, of: str, key: str, value: Any, until: float) -> None:
        with self.lock:
            while len(self.kept) >= MAX_CACHED:
                del self.kept[next(iter(self.kept))]
            self.kept[of, key] = (value, until)

    def forget(self, of: str, key: str) -> None:
        with self.lock:
            self.kept.pop((of, key), None)
