"""The ledger in the store: one for all processes, so that each trouble is told by one of them, also after a restart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from engine.alerts.ledger import Ledger
from engine.errors import ConnectError
from engine.owners import new_owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.ports import Store

T = TypeVar("T")

MARK = "alerts"
LOCK_S = 30.0  # of a process that died while it wrote
BUSY_S = 5.0  # that another one's write is waited for


class Busy(ConnectError):
    """Another process has the ledger for longer than one write takes."""


class Book:
    """One for a process; its thread alone calls."""

    def __init__(self, store: Store, now: Callable[[], float], *, wait: Callable[[float], object] = time.sleep) -> None:
        self._store, self._now, self._wait = store, now, wait
        self._owner = new_owner()
        self._text: str | None = None  # as it was when it was last read or written
        self._aside: Ledger | None = None  # while the store is away

    def change(self, what: Callable[[Ledger, float], T]) -> T:
        """
        Read, changed and written as one; not locked and not written where nothing changes.

        `what` may be called twice. While the store is away this process goes by what it knows, and brings it in later.
        """
        try:
            found = self._changed(what)
        except Busy:
            raise
        except ConnectError:
            if self._aside is None:
                self._aside = Ledger.read(self._text)
            return what(self._aside, self._now())
        self._aside = None
        return found

    def read(self) -> Ledger:
        return Ledger.read(self._store.mark(MARK))

    def _changed(self, what: Callable[[Ledger, float], T]) -> T:
        text = self._store.mark(MARK)
        ledger = self._with_aside(Ledger.read(text))
        found = what(ledger, self._now())
        self._text = text
        if not ledger.changed:
            return found
        self._lock()
        try:
            if (again := self._store.mark(MARK)) != text:
                ledger = self._with_aside(Ledger.read(again))
                found = what(ledger, self._now())
            self._text = ledger.written()
            self._store.write_mark(MARK, self._text)
        finally:
            self._store.unlock(MARK, owner=self._owner)
        return found

    def _with_aside(self, ledger: Ledger) -> Ledger:
        """With what was told while the store was away."""
        for key, entry in (self._aside.entries if self._aside is not None else {}).items():
            there = ledger.entries.get(key)
            if there is None:
                ledger.entries[key], ledger.changed = entry, True
            elif entry.told.keys() - there.told.keys():
                there.told.update(entry.told)
                ledger.changed = True
        return ledger

    def _lock(self) -> None:
        until = time.monotonic() + BUSY_S
        while not self._store.lock(MARK, owner=self._owner, ttl_s=LOCK_S, now=self._now()):
            if time.monotonic() > until:
                raise Busy("another process writes down the alerts")
            self._wait(0.05)
