"""A way out, and the thread that goes it: three tries, each with an end, and nobody waits for them."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from engine import egress
from engine.errors import EgressRefused, SecretUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.alerts.messages import Message
    from engine.ports import Telemetry

TIMEOUT_S = 10.0  # of one try, from its beginning to its end
PAUSES_S = (1.0, 5.0)  # before the second and the third try
MOST_WAIT_S = 30.0  # that a receiver's Retry-After is waited for within three tries; longer, and it is for later
LOG = "log"
PRIVATE_ALERTS = "CONNECT_ALERT_PRIVATE"


class NotTaken(Exception):
    """The receiver said no; `wait_s` where it said how long to wait."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.why, self.wait_s = why, wait_s


class Way(ABC):
    """Where alerts go; `name` as in `connect.yaml`, `shown` without what is secret in its address."""

    name: str
    shown: str

    @abstractmethod
    def send(self, message: Message) -> str:
        """Tell it, and give what the receiver answered; any exception counts as not told."""

    def why(self, error: Exception) -> str:
        """What is told of an error; never its own text, which may name a secret address."""
        if isinstance(error, NotTaken):
            return error.why
        if isinstance(error, SecretUnavailable):
            return str(error)
        if isinstance(error, EgressRefused):
            return str(error).replace(egress.HINT, f"; if it is meant to, set {PRIVATE_ALERTS}=1")
        return type(error).__name__

    def close(self) -> None:
        """Let go of connections."""
        return


class LogWay(Way):
    """Alerts as `alert` and `alert-over` of the telemetry: a line in the log and a count."""

    name, shown = LOG, "the log"

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def send(self, message: Message) -> str:
        told = message.fields.get("troubles") or [message.fields]
        for each in told:
            event = "alert" if each["state"] == "open" else "alert-over"
            names = ("kind", "connector", "client", "severity", "since", "facts")
            facts = {name: each[name] for name in names if name in each}
            self._telemetry.event(event, **facts, text=each.get("what", message.text))
        return "written"


class Sent(NamedTuple):
    """What became of a message: told, or to be tried again no sooner than after `wait_s`."""

    told: bool
    answer: str
    wait_s: float = 0.0


def told(
    way: Way, message: Message, *, pauses_s: Sequence[float] = PAUSES_S, wait: Callable[[float], object] = time.sleep
) -> Sent:
    """Up to three tries; a Retry-After is heeded, within what may be waited for here."""
    answer, asked_s = "", 0.0
    for pause_s in (*pauses_s, None):
        try:
            return Sent(True, way.send(message))
        except Exception as error:  # whatever it is, the walk must not hear of it
            answer = way.why(error)
            asked_s = (error.wait_s or 0.0) if isinstance(error, NotTaken) else 0.0
        if pause_s is None or asked_s > MOST_WAIT_S:
            break
        wait(max(pause_s, asked_s))
    return Sent(False, answer, asked_s)


class Postman:
    """The thread of one way; what it is given goes out in order, and `done` hears of each."""

    def __init__(self, way: Way, *, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self.way, self._pauses_s = way, tuple(pauses_s)
        self._jobs: queue.SimpleQueue[tuple[Message, Callable[[Sent], None]] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def send(self, message: Message, done: Callable[[Sent], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"alerts to {self.way.name}", daemon=True)
            self._thread.start()
        self._jobs.put((message, done))

    def close(self) -> None:
        """No pause is waited for any more; it ends after what it has begun."""
        self._closing.set()
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            message, done = job
            done(told(self.way, message, pauses_s=self._pauses_s, wait=self._closing.wait))
        self.way.close()
