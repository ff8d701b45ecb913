"""
What is measured -> lines in CloudWatch's Embedded Metric Format: added up in the process, written once a minute.

A line is one JSON object; CloudWatch Logs makes metrics of it, and nothing calls an API for them. Every set of
dimensions with its values is a custom metric of its own and is paid for, so there are few: see docs/metrics.md.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from engine.telemetry.measures import FAMILIES, METRICS, Bounds, Sample, samples, states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.records import Lane

NAMESPACE = "DaxGOConnect"
# How CloudWatch shows a label that is a dimension; METRICS names what there is, with its unit and sets of dimensions.
DIMENSIONS = {"connector": "Connector", "client": "Client", "action": "Action"}
# The success rate of the seed, as metric math over two metrics of one client: exact however many lines there are.
SUCCESS_RATE = "100 * delivered / (delivered + rejected)"
MOST_VALUES = 100  # of one metric in one line, says the specification
MOST_DIMENSIONS = 1_000  # values of one dimension; further ones count as "other"
EVERY_S = 60.0

Series = tuple[tuple[str, str], ...]  # the dimensions of a line and their values


class Values:
    """Durations since the last line: all of them, or a hundred drawn evenly, and the longest always."""

    def __init__(self) -> None:
        self.kept: list[float] = []
        self._longest = float("-inf")
        self._count = 0

    def add(self, value: float, chance: Callable[[int], int]) -> None:
        self._count += 1
        if len(self.kept) < MOST_VALUES:
            self.kept.append(value)
        else:
            place = chance(self._count)
            if value > self._longest:
                place %= MOST_VALUES
            elif place >= MOST_VALUES or self.kept[place] == self._longest:
                return
            self.kept[place] = value
        self._longest = max(self._longest, value)


class EmfMetrics:
    """The metrics since the last line, by their dimensions; any thread may add to them."""

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        mask: Callable[[str], str] = lambda text: text,
        clock: Callable[[], float] = time.time,
        chance: Callable[[int], int] = random.randrange,
    ) -> None:
        """`chance(n)` is a number below n, each as likely as the others."""
        self._stream = stream if stream is not None else sys.stdout
        self._mask, self._clock, self._chance = mask, clock, chance
        self._bounds = Bounds(MOST_DIMENSIONS)
        self._sums: dict[Series, dict[str, int | float | Values]] = {}
        self._lock = threading.Lock()
        self._over: threading.Event | None = None

    def count(self, name: str, facts: Mapping[str, object]) -> None:
        """What an event adds."""
        found = samples(name, facts)
        if found:
            with self._lock:
                for sample in found:
                    self._add(sample)

    def flush(self, lanes: Callable[[], Iterable[Lane]] | None = None) -> None:
        """Write what there is, and how the lanes stand where they are given; a line for each set of dimensions."""
        try:
            found = list(lanes()) if lanes is not None else []
        except Exception:  # the store is away, or closed by now; what was counted is told all the same
            found = []
        now = self._clock()
        with self._lock:
            for lane in found:
                for sample in states(lane, now):
                    self._add(sample)
            sums, self._sums = self._sums, {}
            text = "".join(self._line(series, sums[series], now) for series in sorted(sums))
            if text:
                try:
                    self._stream.write(text)
                    self._stream.flush()
                except (OSError, ValueError):  # metrics that can't be written must not stop deliveries
                    return

    def begin(self, lanes: Callable[[], Iterable[Lane]] | None, every_s: float = EVERY_S) -> None:
        """Write once a minute from now on, in a thread of its own, until `close`."""
        over = self._over = threading.Event()

        def run() -> None:
            while not over.wait(every_s):
                self.flush(lanes)

        threading.Thread(target=run, name="metrics", daemon=True).start()

    def close(self, lanes: Callable[[], Iterable[Lane]] | None = None) -> None:
        """Write what is left, once more with the lanes."""
        if self._over is not None:
            self._over.set()
        self.flush(lanes)

    def _add(self, sample: Sample) -> None:
        gauge = FAMILIES[sample.family].kind == "gauge"
        for name, sets in _TOLD_BY[sample.family]:
            metric = METRICS[name]
            if any(sample.labels.get(label, "") not in among for label, among in metric.where.items()):
                continue
            for labels in sets:
                values = [sample.labels.get(label, "") for label in labels]
                if not all(values):  # a dimension has a value, or there is no such metric
                    continue
                series = tuple(
                    (DIMENSIONS[label], self._bounds.value(label, value))
                    for label, value in zip(labels, values, strict=True)
                )
                sums = self._sums.setdefault(series, {})
                if metric.unit == "Milliseconds":
                    known = sums.setdefault(name, Values())
                    assert isinstance(known, Values)
                    known.add(round(sample.amount * 1000, 1), self._chance)
                elif gauge:
                    sums[name] = round(sample.amount, 1)
                else:
                    known = sums.get(name, 0)
                    assert not isinstance(known, Values)
                    sums[name] = known + sample.amount

    def _line(self, series: Series, sums: Mapping[str, int | float | Values], now: float) -> str:
        told = {name: value.kept if isinstance(value, Values) else value for name, value in sums.items()}
        directive = {
            "Namespace": NAMESPACE,
            "Dimensions": [[name for name, _ in series]],
            "Metrics": [{"Name": name, "Unit": METRICS[name].unit} for name in sorted(told)],
        }
        whole: dict[str, Any] = {
            "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": [directive]},
            **{name: self._mask(value) for name, value in series},
            **{name: told[name] for name in sorted(told)},
        }
        return msgspec.json.encode(whole).decode() + "\n"


_TOLD_BY = {
    family: [(name, metric.sets) for name, metric in METRICS.items() if metric.family == family] for family in FAMILIES
}
