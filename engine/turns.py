"""
Lanes compute one after the other, each what it has at hand.

Threads of one interpreter that compute at the same time are none the quicker for it: they take it from each other a
thousand times a second, and from those who have an answer to read or to write down; then all of them are done late, and
at the same moment.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

PATIENCE_S = 0.5  # who has waited for so long computes beside the others: one with much to do holds nobody up for long


class Alone:
    """The turns of one thread: `with alone:` while it computes, and in there `with alone.away():` while it waits."""

    def __init__(self, lock: threading.Lock, patience_s: float = PATIENCE_S) -> None:
        self._lock, self._patience_s = lock, patience_s
        self._has_it = False

    def __enter__(self) -> None:
        self._has_it = self._lock.acquire(timeout=self._patience_s)

    def __exit__(self, *_: object) -> None:
        if self._has_it:
            self._has_it = False
            self._lock.release()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Another may compute meanwhile."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()
