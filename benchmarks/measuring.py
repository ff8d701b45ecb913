"""
Contestants take turns in one run (A B A B …): what slows the machine down slows all of them, so that ratios hold.

A ratio is always `ours / theirs` in the unit that is shown: with a rate more is better (`at_least`), with a time less
(`at_most`). It is the median of the rounds' own ratios, each of two runs that followed each other.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CPU, WALL = "CPU time", "wall clock"
SECONDS = {"s": 1.0, "ms": 1e3, "µs": 1e6, "ns": 1e9}  # units of time: for these a figure is what one takes
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Took:
    """What a contestant says that timed itself."""

    count: int
    seconds: float


Contestant = Callable[[], "int | Took"]


@dataclass(frozen=True)
class Figures:
    """What the contestants did, one figure a round: so many a second."""

    rates: Mapping[str, Sequence[float]]
    clock: str

    def values(self, name: str, unit: str) -> list[float]:
        """In that unit: a rate, or what one takes where the unit is one of time."""
        scale = SECONDS.get(unit)
        return [scale / rate if scale else rate for rate in self.rates[name]]

    @property
    def rounds(self) -> int:
        return len(next(iter(self.rates.values())))


@dataclass(frozen=True)
class Goal:
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


def at_least(value: float) -> Goal:
    return Goal(at_least=value)


def at_most(value: float) -> Goal:
    return Goal(at_most=value)


@dataclass(frozen=True)
class Comparison:
    """One line of a table. Without `theirs` the goal is one for `ours` itself, unless the contestant is missing."""

    what: str
    ours: float | None
    unit: str
    theirs: float | None = None
    against: str = ""  # "jinja2 3.1.6", "written by hand"
    ratio: float | None = None  # ours / theirs
    goal: Goal | None = None
    spread: float | None = None  # (largest - smallest) / median of the rounds' ratios
    how: str = ""  # "7 rounds, CPU time"
    missing: str = ""  # why it, or the contestant, is not had here

    @property
    def met(self) -> bool | None:
        """None where there is no goal, or nothing to judge."""
        judged = self.ratio if self.against else self.ours
        return None if self.goal is None or judged is None else self.goal.met(judged)


def alternate(
    contestants: Mapping[str, Contestant], *, rounds: int = LEAST_ROUNDS, clock: str = CPU, least_s: float = 0.3
) -> Figures:
    """
    Each in turn, `rounds` times over, each time for at least `least_s` seconds; a first turn of each is not counted.

    `clock` is CPU (this process's time) or WALL. One that returns `Took` is asked once a round and times itself.
    """
    assert rounds >= LEAST_ROUNDS, "a median of fewer says little"
    for contestant in contestants.values():
        contestant()
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, contestant in contestants.items():
            progress(f"round {number + 1} of {rounds}: {name}")
            rates[name].append(one_turn(contestant, clock, least_s))
    progress("")
    return Figures(rates, clock)


def one_turn(contestant: Contestant, clock: str, least_s: float) -> float:
    """How many a second."""
    now = time.process_time if clock == CPU else time.perf_counter
    count, began = 0, now()
    while True:
        did = contestant()
        if isinstance(did, Took):
            return did.count / did.seconds
        count += did
        if (took := now() - began) >= least_s:
            return count / took


def compare(
    what: str,
    figures: Figures,
    ours: str,
    theirs: str,
    against: str = "",
    *,
    unit: str = "events/s",
    goal: Goal | None = None,
) -> Comparison:
    """`ours` beside `theirs`, two contestants of one `alternate`; `against` says who the other is, with its version."""
    own, other = figures.values(ours, unit), figures.values(theirs, unit)
    ratios = [one / two for one, two in zip(own, other, strict=True)]
    return Comparison(
        what,
        median(own),
        unit,
        median(other),
        against or theirs,
        median(ratios),
        goal,
        spread(ratios),
        f"{figures.rounds} rounds, {figures.clock}",
    )


def measured(
    what: str, value: float | Sequence[float], unit: str, *, goal: Goal | None = None, how: str = ""
) -> Comparison:
    """A figure with no contestant (memory, a latency); of several the median."""
    values = [value] if isinstance(value, (int, float)) else list(value)
    how = how or (f"median of {len(values)}" if len(values) > 1 else "")
    return Comparison(
        what, median(values), unit, goal=goal, spread=spread(values) if len(values) > 1 else None, how=how
    )


def missing(what: str, against: str, why: str, *, goal: Goal | None = None, unit: str = "") -> Comparison:
    """A contestant, or a figure, that cannot be had on this machine."""
    return Comparison(what, None, unit, against=against, goal=goal, missing=why)


def spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / median(values)


def version(package: str) -> str:
    """Its name and version, as `against` wants it: "jinja2 3.1.6"."""
    return f"{package} {importlib.metadata.version(package)}"


class Beside:
    """
    A contestant in a process of its own: for each line on its standard input it does a round and answers with a line,
    `{"count": 1000, "seconds": 0.25}`. What it says before it has read one goes to `hello` (a line of JSON: versions).
    """

    def __init__(
        self, command: Sequence[str | Path], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [str(part) for part in command], cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hello: Any = self._line()

    def __call__(self) -> Took:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        said = self._line()
        return Took(said["count"], said["seconds"])

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()

    def _line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait(10)}")
        return json.loads(line)


def progress(text: str) -> None:
    """One line on a terminal's standard error that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {text[:76]}", end="" if text else "\r", file=sys.stderr, flush=True)
