"""What a walk did, with times, kept beside the telemetry until it is settled; only where somebody wants to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.records import Sent, Walked

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.ports import Clock, Telemetry
    from engine.records import Trace

MOST_SHOWN = 3  # exchanges of a batch that are kept whole; of the others only how they ended


class Journal:
    """The telemetry of one walk: passes everything on, and keeps what was sent."""

    def __init__(self, telemetry: Telemetry, clock: Clock, *, shows: bool = False) -> None:
        """`shows`: what was sent and what came back is wanted, too."""
        self._telemetry, self._clock, self._shows = telemetry, clock, shows
        self._shown: Callable[[], Trace] | None = None  # of the exchange that is told next
        self._began = clock.now()
        self._looked_up_at: float | None = None
        self._maps = False
        self._mapped_at: float | None = None
        self._window: list[Sent] = []  # sent before its records were mapped: look-ups, and the log-in for them
        self._sent: list[Sent] = []

    def event(self, name: str, /, **facts: object) -> None:
        self._telemetry.event(name, **facts)
        if name != "exchange":
            return
        now, seconds, status = self._clock.now(), facts.get("seconds"), facts.get("status")
        sent = Sent(
            action=str(facts.get("action") or ""),
            step=str(facts.get("step") or ""),
            method=str(facts.get("method") or ""),
            host=str(facts.get("host") or ""),
            status=status if isinstance(status, int) else 0,
            began=now - (seconds if isinstance(seconds, int | float) else 0.0),
            ended=now,
            shown=self._shown if len(self._sent) < MOST_SHOWN else None,
        )
        self._shown = None
        self._sent.append(sent)

    def said(self, shown: Callable[[], Trace]) -> None:
        """What the exchange that is told next can be shown as."""
        if self._shows:
            self._shown = shown

    def begin(self) -> None:
        """A window of deliveries, or a half-done batch, is taken up."""
        self._began, self._looked_up_at, self._mapped_at = self._clock.now(), None, None
        self._maps, self._window, self._sent = False, [], []

    def looked_up(self) -> None:
        self._looked_up_at = self._clock.now()

    def maps(self) -> None:
        """There are records to map: not all ended before, as where no look-up was answered."""
        self._maps = True

    def mapped(self) -> None:
        """What was sent so far was for all of the window; what comes is for one batch of it."""
        self._mapped_at = self._clock.now() if self._maps else None
        self._window, self._sent = self._sent, []

    def take(self) -> Walked:
        """What was done for the batch that is settled now."""
        sent, self._sent = self._sent, []
        return Walked(self._began, self._looked_up_at, self._mapped_at, tuple(self._window), tuple(sent))
