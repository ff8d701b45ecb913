"""What happened -> a line of the log and the metrics; no secret passes, and no trouble with either meets the walk."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from engine.errors import ConnectError
from engine.personal import addresses

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from engine.records import Lane

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
LEVEL_OF = {
    "accepted": "debug",
    "refused": "debug",
    "exchange": "debug",
    "delivered": "debug",
    "skipped": "debug",
    "retry": "info",
    "split": "info",
    "lane-resumed": "info",
    "token-renewed": "info",
    "throttled": "info",
    "rejected": "warning",
    "dead-letter": "warning",
    "lane-paused": "warning",
    "alert": "warning",
    "audit": "info",
    "store-full": "error",
    "token-refused": "error",
    "lane-failed": "error",
    "fault": "error",
}
ALWAYS = ("audit",)  # stands in every log, however little else does
MAX_FACT = 2_000  # characters of one fact
MAX_VALUES = 5_000  # different values of one label; further ones count as "other"
SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

Mask = Callable[[str], str]
Lanes = Callable[[], Iterable["Lane"]]


class NullTelemetry:
    """Nobody listens."""

    def event(self, name: str, /, **facts: object) -> None:
        """Nothing is done with it."""


class Telemetry:
    """
    Events to JSON lines (to readable ones where a person watches) and to Prometheus metrics; any thread may call.

    `mask` is given every text before it is cut and written; addresses of people are masked besides.
    `lanes` is asked when metrics are read.
    """

    def __init__(
        self,
        *,
        mask: Mask,
        stream: TextIO | None = None,
        level: str = "info",
        lanes: Lanes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._mask = mask
        self._stream = stream if stream is not None else sys.stderr
        self._lowest = LEVELS[level]
        self._clock = clock
        self._line = _line_for_people() if self._stream.isatty() else _json_line
        self._metrics = Metrics(lanes, clock)

    def event(self, name: str, /, **facts: object) -> None:
        self._metrics.count(name, facts)
        level = LEVEL_OF.get(name, "info")
        if LEVELS[level] < self._lowest and name not in ALWAYS:
            return
        head = {"at": _stamp(self._clock()), "level": level, "event": name}
        line = self._line(head | {key: self._fact(value) for key, value in facts.items()} | head)
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):  # a log that is full or closed must not stop deliveries
            return

    def metrics(self) -> bytes:
        """The metrics as Prometheus reads them; the media type is METRICS_TYPE."""
        return self._metrics.text()

    def watch(self, lanes: Lanes) -> None:
        """Where the state of the lanes comes from when metrics are read."""
        self._metrics.lanes = lanes

    def _fact(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float | Decimal):
            return value
        if isinstance(value, Mapping):
            return {self._text(key): self._fact(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._fact(item) for item in value]
        return self._text(value)

    def _text(self, value: object) -> str:
        text = addresses(self._mask(str(value)))
        return text if len(text) <= MAX_FACT else f"{text[:MAX_FACT]}… ({len(text)} characters)"


class Metrics:
    """The counters, with labels that stay bounded whatever is passed in."""

    def __init__(self, lanes: Lanes | None, clock: Callable[[], float]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

        self.lanes, self.clock = lanes, clock
        self.registry: CollectorRegistry = CollectorRegistry(auto_describe=False)
        self._seen: dict[str, set[str]] = {}

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(name, help_text, labels, registry=self.registry)

        lane = ("connector", "client")
        self._accepted = counter("connect_events_accepted", "Events stored and answered for", *lane)
        self._refused = counter("connect_events_refused", "Requests or events not taken in", "connector", "status")
        self._deliveries = counter("connect_deliveries", "Deliveries settled", *lane, "action", "outcome")
        self._retries = counter("connect_retries", "Deliveries put back for another try", *lane, "action")
        self._exchanges = counter("connect_exchanges", "HTTP exchanges with vendors", *lane, "status_class")
        self._seconds = Histogram(
            "connect_exchange_seconds",
            "How long vendors took to answer",
            ("connector", "action"),
            registry=self.registry,
            buckets=SECONDS,
        )
        self._renewals = counter("connect_token_renewals", "Log-ins and renewals", *lane, "result")
        self._throttled = counter("connect_throttled", "Times a vendor or a limit asked to wait", *lane)
        self._alerts = counter("connect_alerts", "Alerts raised", "kind", *lane)
        self._faults = counter("connect_faults", "Errors of this program itself", "where")
        self.registry.register(LaneMetrics(self))
        ProcessCollector(registry=self.registry)

    def count(self, name: str, facts: Mapping[str, object]) -> None:
        """What an event adds to the counters; names that none counts are passed over."""
        lane = (self._label("connector", facts), self._label("client", facts))
        match name:
            case "accepted":
                self._accepted.labels(*lane).inc(_count(facts))
            case "refused":
                self._refused.labels(lane[0], self._label("status", facts)).inc(_count(facts))
            case "delivered" | "rejected" | "skipped":
                self._deliveries.labels(*lane, self._label("action", facts), name).inc(_count(facts))
            case "retry" | "later":
                self._retries.labels(*lane, self._label("action", facts)).inc(_count(facts))
            case "exchange":
                self._exchanges.labels(*lane, _status_class(facts.get("status"))).inc()
                seconds = facts.get("seconds")
                if isinstance(seconds, int | float):
                    self._seconds.labels(lane[0], self._label("action", facts)).observe(seconds)
            case "token-renewed" | "token-refused":
                self._renewals.labels(*lane, name.removeprefix("token-")).inc()
            case "throttled":
                self._throttled.labels(*lane).inc()
            case "alert":
                self._alerts.labels(self._label("kind", facts), *lane).inc()
            case "fault":
                self._faults.labels(self._label("where", facts)).inc()

    def text(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def _label(self, name: str, facts: Mapping[str, object]) -> str:
        value = facts.get(name)
        text = "" if value is None else str(value)[:200]
        seen = self._seen.setdefault(name, set())
        if text not in seen:
            if len(seen) >= MAX_VALUES:
                return "other"
            seen.add(text)
        return text


class LaneMetrics:
    """The lanes as they are at the moment of a scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        labels = ["connector", "client"]
        waiting = GaugeMetricFamily("connect_lane_waiting", "Deliveries that wait", labels=labels)
        paused = GaugeMetricFamily("connect_lane_paused", "1 while a person must act", labels=labels)
        oldest = GaugeMetricFamily("connect_oldest_seconds", "Age of the oldest waiting delivery", labels=labels)
        store = GaugeMetricFamily("connect_store_up", "1 while the store can be read")
        try:
            lanes = list(self._metrics.lanes()) if self._metrics.lanes is not None else []
            store.add_metric([], 1)
        except ConnectError:
            lanes = []
            store.add_metric([], 0)
        now = self._metrics.clock()
        for lane in lanes:
            names = [lane.connector, lane.client]
            waiting.add_metric(names, lane.waiting)
            paused.add_metric(names, int(lane.state == "paused"))
            oldest.add_metric(names, max(0.0, now - lane.oldest_at) if lane.oldest_at is not None else 0)
        return [waiting, paused, oldest, store]


def _count(facts: Mapping[str, object]) -> int:
    count = facts.get("count", 1)
    return count if isinstance(count, int) else 1


def _status_class(status: object) -> str:
    return f"{status // 100}xx" if isinstance(status, int) else "none"


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


def _json_line(facts: Mapping[str, Any]) -> str:
    return _encode(facts).decode() + "\n"


def _line_for_people() -> Callable[[Mapping[str, Any]], str]:
    from structlog.dev import ConsoleRenderer

    render = ConsoleRenderer(timestamp_key="at")

    def line(facts: Mapping[str, Any]) -> str:
        return f"{render(None, '', dict(facts))}\n"

    return line
