"""A connection that listens for what others put, and those who wait for it; without one they look now and then."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psycopg

from engine.errors import StoreUnavailable
from engine.stores.postgres.connections import connect

if TYPE_CHECKING:
    from engine.stores.postgres.address import Address
    from engine.stores.postgres.connections import Connection

LONGEST_S = 0.5  # that one waits who listens
AGAIN_S = 1.0  # before a connection that broke is made anew
LOOK_S = 0.25  # between two looks whether the store was closed


class Waker:
    """One for a store; its thread and its connection begin with the first who waits."""

    def __init__(self, address: Address, *, listens: bool) -> None:
        self._address, self._listens = address, listens
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._heard = 0  # notifications
        self._looked = 0  # how many had been heard when somebody last began to look
        self._due = 0.0  # by time.monotonic: when something comes due of which nobody will be told
        self.listening = False

    def looks(self) -> None:
        """Somebody begins to look what is due: of what they hear from now on, they may not know."""
        with self._changed:
            self._looked = self._heard

    def nothing_before(self, seconds: float | None) -> None:
        """They found nothing, and for so long nothing will come due by itself."""
        self._due = time.monotonic() + (LONGEST_S if seconds is None else seconds)

    def wait(self, seconds: float) -> None:
        with self._changed:
            if self._thread is None and self._listens and not self._closed:
                self._thread = threading.Thread(target=self._listen, name="store-listener", daemon=True)
                self._thread.start()
            if self.listening:
                seconds = max(seconds, min(self._due - time.monotonic(), LONGEST_S))
            self._changed.wait_for(lambda: self._heard > self._looked or self._closed, seconds)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _listen(self) -> None:
        while not self._closed:
            try:
                connection = connect(self._address)
            except StoreUnavailable:
                self._pause()
                continue
            try:
                self._hear(connection)
            except psycopg.Error:
                self._wake(listening=False)  # what was said meanwhile was not heard
                self._pause()
            finally:
                connection.close()

    def _hear(self, connection: Connection) -> None:
        connection.execute(f'LISTEN "{self._address.channel}"'.encode())
        self._wake(listening=True)
        while not self._closed:
            for _ in connection.notifies(timeout=LOOK_S, stop_after=1):
                self._wake(listening=True)

    def _wake(self, *, listening: bool) -> None:
        with self._changed:
            self.listening = listening
            self._heard += 1
            self._changed.notify_all()

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, AGAIN_S)
