"""What happened -> a line of the log and the metrics; no secret passes, and no trouble with either meets the walk."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from engine.errors import ConnectError, told
from engine.privacy.personal import addresses
from engine.telemetry.measures import FAMILIES, MAX_VALUES, Bounds, dead_letters, samples, states

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram
    from prometheus_client.core import Metric

    from engine.ports import Traces
    from engine.records import Lane
    from engine.telemetry.emf import EmfMetrics

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
    "alert-over": "info",
    "audit": "info",
    "store-full": "error",
    "store-unavailable": "error",
    "token-refused": "error",
    "token-failed": "warning",
    "access-refused": "info",
    "api-limit": "info",
    "misconfigured": "debug",
    "traces-failed": "warning",
    "trail-failed": "warning",
    "lane-failed": "error",
    "finding": "warning",
    "fault": "error",
}
ALWAYS = ("audit",)  # stands in every log, however little else does
MAX_FACT = 2_000  # characters of one fact
SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

Mask = Callable[[str], str]
Lanes = Callable[[], Iterable["Lane"]]
DeadCounts = Callable[[Iterable["Lane"]], Mapping[tuple[str, str], int]]
Hear = Callable[[str, dict[str, object]], None]


class NullTelemetry:
    """Nobody listens."""

    def event(self, name: str, /, **facts: object) -> None:
        """Nothing is done with it."""


class Telemetry:
    """
    Events to JSON lines (to readable ones where a person watches) and to metrics; any thread may call.

    `mask` is given every text before it is cut and written; addresses of people are masked besides.
    `lanes` is asked when metrics are read. `prometheus` False: nobody scrapes this process, and its library is not
    loaded. `emf`: the metrics for CloudWatch, beside or instead. `traces` are sent when this is flushed and closed.
    """

    def __init__(
        self,
        *,
        mask: Mask,
        stream: TextIO | None = None,
        level: str = "info",
        lanes: Lanes | None = None,
        clock: Callable[[], float] = time.time,
        prometheus: bool = True,
        emf: EmfMetrics | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._mask = mask
        self._stream = stream if stream is not None else sys.stderr
        self._lowest = LEVELS[level]
        self._clock = clock
        self._line = _line_for_people() if self._stream.isatty() else _json_line
        self._lanes = lanes
        self._metrics = Metrics(lanes, clock) if prometheus else None
        self._emf, self._traces = emf, traces
        self._bound: dict[str, object] = {}
        self._hearers: list[Hear] = []

    def catch(self) -> Callable[[], None]:
        """
        From now on an error that nobody caught, in whatever thread, is a line like all others and no traceback.

        Until what is returned is called.
        """
        before = sys.excepthook, threading.excepthook, sys.unraisablehook

        def caught(error: BaseException | None, where: str) -> None:
            if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
                self.event("fault", where=where, error=told(error))

        sys.excepthook = lambda _kind, error, _place: caught(error, "process")
        threading.excepthook = lambda args: caught(args.exc_value, f"thread {args.thread.name if args.thread else ''}")
        sys.unraisablehook = lambda args: caught(args.exc_value, "clean-up")

        def release() -> None:
            sys.excepthook, threading.excepthook, sys.unraisablehook = before

        return release

    def bind(self, **facts: object) -> None:
        """What stands in every line from now on, such as the id of the request that a Lambda works on."""
        self._bound = facts

    def event(self, name: str, /, **facts: object) -> None:
        if self._metrics is not None:
            self._metrics.count(name, facts)
        if self._emf is not None:
            self._emf.count(name, facts)
        for hear in self._hearers:
            hear(name, facts)
        level = LEVEL_OF.get(name, "info")
        if LEVELS[level] < self._lowest and name not in ALWAYS:
            return
        head = {"at": _stamp(self._clock()), "level": level, "event": name}
        line = self._line(head | {key: self._fact(value) for key, value in (self._bound | facts).items()} | head)
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):  # a log that is full or closed must not stop deliveries
            return

    def tell(self, hear: Hear) -> None:
        """From now on what happens is told there, too, in the thread it happens in: be quick, and never raise."""
        self._hearers.append(hear)

    def metrics(self) -> bytes:
        """The metrics as Prometheus reads them; the media type is METRICS_TYPE."""
        return self._metrics.text() if self._metrics is not None else b""

    def watch(self, lanes: Lanes, dead_counts: DeadCounts | None = None) -> None:
        """Where the state of the lanes comes from when metrics are read, and how many dead letters they have."""
        self._lanes = lanes
        if self._metrics is not None:
            self._metrics.lanes, self._metrics.dead_counts = lanes, dead_counts

    def flush(self, *, lanes: bool = True) -> None:
        """Write what was counted for CloudWatch: at the end of an invocation, or once a minute. `lanes`: ask them."""
        if self._emf is not None:
            self._emf.flush(self._lanes if lanes else None)
        if self._traces is not None:
            self._traces.flush()

    def begin(self) -> None:
        """Write the metrics for CloudWatch once a minute, in a thread of its own."""
        if self._emf is not None:
            self._emf.begin(self._lanes)

    def close(self) -> None:
        """Write what is left."""
        if self._emf is not None:
            self._emf.close(self._lanes)
        if self._traces is not None:
            self._traces.close()

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
    """The metrics for Prometheus, with labels that stay bounded whatever is passed in."""

    def __init__(self, lanes: Lanes | None, clock: Callable[[], float]) -> None:
        self.lanes, self.clock = lanes, clock
        self.dead_counts: DeadCounts | None = None
        self._bounds = Bounds(MAX_VALUES)

    @cached_property
    def _made(self) -> tuple[CollectorRegistry, dict[str, Counter], dict[str, Histogram]]:
        """When the first is counted, or they are read, and not at the start, of whose time the library takes a part."""
        from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

        registry = CollectorRegistry(auto_describe=False)
        counters, seconds = {}, {}
        for name, family in FAMILIES.items():
            match family.kind:
                case "count":
                    counters[name] = Counter(name, family.meaning, family.labels, registry=registry)
                case "seconds":
                    seconds[name] = Histogram(name, family.meaning, family.labels, registry=registry, buckets=SECONDS)
        registry.register(LaneMetrics(self))
        ProcessCollector(registry=registry)
        return registry, counters, seconds

    @property
    def registry(self) -> CollectorRegistry:
        return self._made[0]

    def count(self, name: str, facts: Mapping[str, object]) -> None:
        """What an event adds; names that none counts are passed over."""
        for sample in samples(name, facts):
            _, counters, seconds = self._made
            labels = [self._bounds.value(label, sample.labels[label]) for label in FAMILIES[sample.family].labels]
            if sample.family in counters:
                counters[sample.family].labels(*labels).inc(sample.amount)
            else:
                seconds[sample.family].labels(*labels).observe(sample.amount)

    def text(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class LaneMetrics:
    """The lanes as they are at the moment of a scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        gauges = {
            name: GaugeMetricFamily(name, family.meaning, labels=family.labels)
            for name, family in FAMILIES.items()
            if family.kind == "gauge"
        }
        try:
            lanes = list(self._metrics.lanes()) if self._metrics.lanes is not None else []
            dead = self._metrics.dead_counts(lanes) if self._metrics.dead_counts is not None else {}
            gauges["connect_store_up"].add_metric([], 1)
        except ConnectError:
            lanes, dead = [], {}
            gauges["connect_store_up"].add_metric([], 0)
        now = self._metrics.clock()
        for sample in (*(sample for lane in lanes for sample in states(lane, now)), *dead_letters(dead)):
            labels = [sample.labels[label] for label in FAMILIES[sample.family].labels]
            gauges[sample.family].add_metric(labels, sample.amount)
        return list(gauges.values())


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
