"""
What happened in this process, by lane: a slot for each minute of the last hour and for each ten of the last day.

It hears what telemetry hears, and keeps no payload: numbers, and of the last exchanges method, host, status and time.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Lane = tuple[str, str]  # connector, client

MINUTE_S, TEN_S = 60, 600
MINUTES, TENS = 60, 144  # slots that are kept
MAX_LANES = 2_000  # further ones push out the one that was silent longest
MAX_EXCHANGES = 25  # of each lane
COUNTED = ("accepted", "delivered", "rejected", "skipped", "retries", "throttled", "answered", "unanswered")
_PLACE = {name: place for place, name in enumerate(COUNTED)}
_BOUNDS_S = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 60)
_EMPTY = array("I", bytes(4 * len(COUNTED)))
_NO_TIMES = array("I", bytes(4 * (len(_BOUNDS_S) + 1)))


class Exchange(NamedTuple):
    """One request to a vendor; `status` 0: no answer."""

    at: float
    action: str
    step: str
    method: str
    host: str
    status: int
    seconds: float


class Renewal(NamedTuple):
    """A log-in, or a token renewed: when, and whether it succeeded."""

    at: float
    succeeded: bool


class Slots:
    """The numbers of a span of time, cut into slots of equal length; empty ones take no room."""

    def __init__(self, length_s: int, most: int, summed: int = 0) -> None:
        self.length_s, self.most = length_s, most
        self.slots: dict[int, array[int]] = {}
        self.sums = [0] * summed  # of the first numbers over the whole span: an overview asks for all lanes at once

    def slot(self, now: float, empty: array[int]) -> array[int]:
        number = int(now // self.length_s)
        found = self.slots.get(number)
        if found is None:
            self.expire(now)
            found = self.slots[number] = array("I", empty)
        return found

    def expire(self, now: float) -> None:
        """What is older than the span goes; the oldest come first."""
        last = int(now // self.length_s) - self.most
        while self.slots and (number := next(iter(self.slots))) <= last:
            gone = self.slots.pop(number)
            for place in range(len(self.sums)):
                self.sums[place] -= gone[place]

    def latest(self, now: float) -> Iterator[array[int] | None]:
        """The slots up to now, the oldest first; None where nothing happened."""
        last = int(now // self.length_s)
        return (self.slots.get(number) for number in range(last - self.most + 1, last + 1))


class Tally:
    """What one lane did."""

    def __init__(self) -> None:
        self.minutes, self.tens = Slots(MINUTE_S, MINUTES, len(COUNTED)), Slots(TEN_S, TENS, len(COUNTED))
        self.times = Slots(MINUTE_S, MINUTES)
        self.exchanges: deque[Exchange] = deque(maxlen=MAX_EXCHANGES)
        self.renewal: Renewal | None = None

    def add(self, name: str, count: int, now: float) -> None:
        place = _PLACE[name]
        for slots in (self.minutes, self.tens):
            slot = slots.slot(now, _EMPTY)
            more = min(count, 0xFFFFFFFF - slot[place])
            slot[place] += more
            slots.sums[place] += more


class Series(NamedTuple):
    """One number for each slot, the oldest first."""

    values: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.values)


class History:
    """Counts while the process runs; any thread may tell and ask."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.since = clock()
        self._lanes: OrderedDict[Lane, Tally] = OrderedDict()
        self._lock = threading.Lock()

    # --- told ---

    def hear(self, name: str, facts: dict[str, object]) -> None:
        """As telemetry is told; what is not about a lane is passed over."""
        counted = _counts(name, facts)
        if not counted and name not in ("token-renewed", "token-refused", "token-failed"):
            return
        lane = (str(facts.get("connector", "")), str(facts.get("client", "")))
        if not all(lane):
            return
        now = self.clock()
        with self._lock:
            tally = self._tally(lane)
            for which, count in counted:
                tally.add(which, count, now)
            if name == "exchange":
                self._exchange(tally, facts, now)
            elif not counted:
                tally.renewal = Renewal(now, name == "token-renewed")

    def _tally(self, lane: Lane) -> Tally:
        tally = self._lanes.get(lane)
        if tally is None:
            while len(self._lanes) >= MAX_LANES:
                self._lanes.popitem(last=False)
            tally = self._lanes[lane] = Tally()
        self._lanes.move_to_end(lane)
        return tally

    @staticmethod
    def _exchange(tally: Tally, facts: dict[str, object], now: float) -> None:
        status, seconds = facts.get("status"), facts.get("seconds")
        took_s = float(seconds) if isinstance(seconds, int | float) else 0.0
        action, step, method, host = (str(facts.get(name, ""))[:200] for name in ("action", "step", "method", "host"))
        code = status if isinstance(status, int) else 0
        tally.exchanges.append(Exchange(now, action, step, method, host, code, took_s))
        slot = tally.times.slot(now, _NO_TIMES)
        slot[next((place for place, most in enumerate(_BOUNDS_S) if took_s <= most), len(_BOUNDS_S))] += 1

    # --- asked ---

    def series(self, lane: Lane, name: str, *, day: bool = False) -> Series:
        """Of the last hour by the minute, or of the last day by ten minutes."""
        with self._lock:
            tally, place = self._lanes.get(lane), _PLACE[name]
            if tally is None:
                return Series((0,) * (TENS if day else MINUTES))
            slots = tally.tens if day else tally.minutes
            return Series(tuple(slot[place] if slot else 0 for slot in slots.latest(self.clock())))

    def summed(self, lane: Lane, names: Sequence[str], parts: int, *, day: bool = False) -> list[list[int]]:
        """For each name so many numbers, the oldest first: of the last hour, or of the last day, cut into parts."""
        groups: list[list[array[int]]] = [[] for _ in range(parts)]
        with self._lock:
            if (tally := self._lanes.get(lane)) is not None:
                slots = tally.tens if day else tally.minutes
                first, size = int(self.clock() // slots.length_s) - slots.most + 1, -(-slots.most // parts)
                for number, slot in slots.slots.items():
                    if first <= number < first + slots.most:  # a clock that was put back has slots to come
                        groups[(number - first) // size].append(slot)
            places = [_PLACE[name] for name in names]
            return [[sum([slot[place] for slot in group]) for group in groups] for place in places]

    def totals(self, lane: Lane, *names: str) -> list[int]:
        """Of the last hour."""
        with self._lock:
            tally = self._lanes.get(lane)
            if tally is None:
                return [0] * len(names)
            tally.minutes.expire(self.clock())
            return [tally.minutes.sums[_PLACE[name]] for name in names]

    def quantiles(self, lane: Lane, *shares: float) -> list[float | None]:
        """How long the vendor took to answer over the last hour, in seconds: for 0.5 what half of the answers took."""
        with self._lock:
            tally = self._lanes.get(lane)
            slots = [slot for slot in tally.times.latest(self.clock()) if slot] if tally else []
            summed = [sum(counts) for counts in zip(*slots, strict=True)]
        return [quantile(summed, share) for share in shares]

    def quantile_series(self, lane: Lane, share: float) -> list[float | None]:
        """The same for each minute."""
        with self._lock:
            tally = self._lanes.get(lane)
            slots = list(tally.times.latest(self.clock())) if tally else [None] * MINUTES
            return [quantile(slot or (), share) for slot in slots]

    def exchanges(self, lane: Lane) -> list[Exchange]:
        """The last ones, the newest first."""
        with self._lock:
            tally = self._lanes.get(lane)
            return list(reversed(tally.exchanges)) if tally else []

    def renewal(self, lane: Lane) -> Renewal | None:
        with self._lock:
            tally = self._lanes.get(lane)
            return tally.renewal if tally else None


def quantile(counts: Iterable[int], share: float) -> float | None:
    """Between the bounds as if they were spread evenly; above the last bound it is the last bound."""
    counts = list(counts)
    wanted = share * sum(counts)
    if not wanted:
        return None
    passed = 0
    for place, count in enumerate(counts):
        if count and passed + count >= wanted:
            low = _BOUNDS_S[place - 1] if place else 0.0
            high = _BOUNDS_S[min(place, len(_BOUNDS_S) - 1)]
            return low + (high - low) * (wanted - passed) / count if high > low else low
        passed += count
    return _BOUNDS_S[-1]


def _counts(name: str, facts: dict[str, object]) -> list[tuple[str, int]]:
    count = facts.get("count", 1)
    times = count if isinstance(count, int) else 1
    match name:
        case "accepted" | "delivered" | "rejected" | "skipped":
            return [(name, times)]
        case "retry" | "later":
            return [("retries", times)]
        case "throttled":
            return [("throttled", 1)]
        case "exchange":
            return [("answered" if facts.get("status") else "unanswered", 1)]
    return []
