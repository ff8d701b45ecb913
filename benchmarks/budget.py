"""
What the hot paths may cost: `make budget` fails where one costs over 15 % more than benchmarks/budget.json says.

Counted is what Python executes: instructions of its byte code, and calls of functions written in C. Both are the same
in every run, on every machine with the same minor version of Python and the same packages, so that no noise can fail
it. They do not see how long C takes. So what is short and needs no disk is timed, too: in turns with a fixed
piece of Python, the best of many. That ratio holds within a few percent even on a busy machine, but not between two
kinds of machine: it is judged only where its figures were taken, and shown in brackets anywhere else.

`python -m benchmarks.budget --move` writes the figures anew. Move them on purpose: in the commit that makes a path
dearer and says why, and after one that makes it cheaper, or the gain can be lost again unseen.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any, NamedTuple

from benchmarks.hot_paths import HOT_PATHS, HotPath
from benchmarks.measuring import ROOT, progress
from benchmarks.results import processor

FILE = ROOT / "benchmarks" / "budget.json"
LIMIT = 1.15
TRIES = 3  # of a time before it is believed
TURNS_S = 0.4
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
STARTS = {  # what is imported and executed in a new process
    "help": ("connect --help", "from engine.cli import run; run(['--help'])"),
    "validate": (
        "connect validate FILE",
        "from engine.cli import run; run(['validate', 'connectors/rdstation.yaml', '--no-cache'])",
    ),
    "serve": ("import what serve needs", "import engine.serve"),
}
COUNTED = """
import io, sys
count, before, out = 0, set(sys.modules), sys.stdout
def trace(frame, event, _):
    global count
    if event == "opcode":
        count += 1
    elif event == "call":
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
    return trace
sys.stdout = io.StringIO()
sys.settrace(trace)
exec(compile(sys.argv[1], "start", "exec"), {})
sys.settrace(None)
print(count, len(set(sys.modules) - before), file=out)
"""


class Figure(NamedTuple):
    """What one path costs in one way."""

    path: str
    kind: str  # instructions, calls, modules; time: in units of the fixed piece of Python
    value: float


class Judged(NamedTuple):
    figure: Figure
    kept: float | None  # None: there is no figure to judge by
    is_judged: bool

    @property
    def ratio(self) -> float:
        return self.figure.value / self.kept if self.kept else 1.0

    @property
    def is_over(self) -> bool:
        return self.is_judged and self.ratio > LIMIT


# --- counting ---


class Counter:
    """Counts, while it is on, what this thread executes and those that begin later."""

    def __init__(self) -> None:
        self.on = False
        self.instructions = 0
        self.calls = 0

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            self.instructions += self.on
        elif event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.trace

    def profile(self, _frame: FrameType, event: str, _: Any) -> None:
        if event == "c_call":
            self.calls += self.on


@contextmanager
def counting() -> Iterator[Counter]:
    counter, before = Counter(), (sys.gettrace(), sys.getprofile())
    threading.settrace(counter.trace)
    threading.setprofile(counter.profile)
    sys.settrace(counter.trace)
    sys.setprofile(counter.profile)
    try:
        yield counter
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
        threading.settrace(None)
        threading.setprofile(None)


def counted(name: str, path: HotPath) -> list[Figure]:
    """For one call."""
    with counting() as counter, path.made() as work:
        for number in range(1, 1 + path.warm + path.counted):
            run = work(number)
            counter.on = number > path.warm
            run()
            counter.on = False
    return [
        Figure(name, "instructions", round(counter.instructions / path.counted)),
        Figure(name, "calls", round(counter.calls / path.counted)),
    ]


def started(name: str, code: str) -> list[Figure]:
    """Of a new process; the first one is not counted, for it may write byte code."""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COUNTED, code], cwd=ROOT, capture_output=True, text=True, check=True
        )
    instructions, modules = map(int, done.stdout.split())
    return [Figure(name, "instructions", instructions), Figure(name, "modules", modules)]


# --- timing ---

EVENT = json.dumps(
    {
        "email": " User@Example.com ",
        "eventType": "product_view",
        "product": {"id": "PROD-12345", "name": "Smartphone", "price": 1299.9},
        "timestamp": "2026-01-28T10:30:45.123Z",
    }
)


def fixed() -> object:
    """The unit of time, some 0.3 ms; whoever changes it moves all times."""
    records = []
    for number in range(60):
        event = json.loads(EVENT)
        product = event.get("product") or {}
        record = {
            "id": product.get("id"),
            "email": event["email"].strip().lower(),
            "number": number,
            "price": f"{product['price']:.2f}" if "price" in product else None,
            "session": event.get("sessionId"),
        }
        records.append({key: value for key, value in record.items() if value is not None})
    return json.dumps(records)


def timed(name: str, path: HotPath) -> Figure:
    """The best of many turns over the best of as many of `fixed`: what disturbs a turn only makes it longer."""
    with path.made() as work, still():
        number, ours, unit = 1, float("inf"), float("inf")
        until = time.perf_counter() + TURNS_S
        while number <= path.warm + path.together or time.perf_counter() < until:
            runs = [work(number + at) for at in range(path.together)]
            number += path.together
            unit = min(unit, seconds([fixed]))
            ours = min(ours, seconds(runs))
    return Figure(name, "time", float(f"{ours / unit / path.together:.3g}"))


@contextmanager
def still() -> Iterator[None]:
    """What there was before is not looked at by the garbage collector: it would cost one path what others left."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def seconds(runs: Iterable[Callable[[], object]]) -> float:
    """Of the processor: what others take meanwhile is not in it."""
    began = time.thread_time()
    for run in runs:
        run()
    return time.thread_time() - began


def machine() -> str:
    """What times are bound to: the processor and the build of Python."""
    found: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        found = {key.strip(): value.strip() for key, _, value in lines}
    kind = "/".join(found.get(key, "") for key in ("cpu family", "model", "stepping"))
    return f"{processor()} {kind}, {platform.python_implementation()} {' '.join(platform.python_build())}"


# --- judging ---


def kept() -> dict[str, Any]:
    """{counts: {version of Python: {path: {kind: figure}}}, machine, times: {path: figure}}."""
    none: dict[str, Any] = {"counts": {}, "machine": "", "times": {}}
    return json.loads(FILE.read_text()) if FILE.exists() else none


def measured() -> Iterator[Figure]:
    for name, path in HOT_PATHS.items():
        progress(path.what)
        yield from counted(name, path)
        if path.is_timed:
            yield timed(name, path)
    for name, (what, code) in STARTS.items():
        progress(what)
        yield from started(name, code)


def judged(figure: Figure, by: dict[str, Any]) -> Judged:
    """A time that is over is taken again before it is believed."""
    if figure.kind != "time":
        value = by["counts"].get(PYTHON, {}).get(figure.path, {}).get(figure.kind)
        return Judged(figure, value, value is not None)
    value = by["times"].get(figure.path)
    verdict = Judged(figure, value, value is not None and by["machine"] == machine())
    for _ in range(TRIES - 1):
        if verdict.is_over:
            verdict = verdict._replace(figure=min(verdict.figure, timed(figure.path, HOT_PATHS[figure.path])))
    return verdict


def told(verdicts: Sequence[Judged]) -> str:
    """One line for a path, of at most 80 columns."""
    name = verdicts[0].figure.path
    cells = [f"{each.figure.value:>9,.10g} {change(each):<7}" for each in verdicts]
    return f"{what(name):<29}" + "".join(cells).rstrip()


def what(name: str) -> str:
    return HOT_PATHS[name].what if name in HOT_PATHS else STARTS[name][0]


def change(verdict: Judged) -> str:
    if verdict.kept is None:
        return "new"
    percent = f"{verdict.ratio - 1:+.0%}"
    if not verdict.is_judged:
        return f"({percent})"
    return f"{percent}!" if verdict.is_over else percent


def moved(before: dict[str, Any], figures: Iterable[Figure]) -> dict[str, Any]:
    """The figures of other versions of Python stay as they are."""
    counts: dict[str, dict[str, float]] = {}
    times: dict[str, float] = {}
    for figure in figures:
        if figure.kind == "time":
            times[figure.path] = figure.value
        else:
            counts.setdefault(figure.path, {})[figure.kind] = figure.value
    return {"counts": {**before["counts"], PYTHON: counts}, "machine": machine(), "times": times}


def spread(runs: int) -> int:
    """A time that strays by more than a few percent is of no use for a budget."""
    for name, path in ((name, path) for name, path in HOT_PATHS.items() if path.is_timed):
        values = sorted(timed(name, path).value for _ in range(runs))
        middle = median(values)
        print(
            f"{path.what:<29}{middle:>9,.10g}  {values[0] / middle - 1:+.1%} {values[-1] / middle - 1:+.1%}", flush=True
        )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--move", action="store_true", help="write the figures anew")
    parser.add_argument("--spread", type=int, metavar="RUNS", help="take the times so often: how far apart are they?")
    given = parser.parse_args()
    if given.spread:
        return spread(given.spread)
    figures_kept = kept()
    verdicts: list[Judged] = []
    print(f"{'':<29}{'instructions':<17}{'C calls, modules':<17}{'time':>9}")
    for _, figures in groupby(measured(), key=lambda figure: figure.path):
        of_path = [judged(figure, figures_kept) for figure in figures]
        progress("")
        print(told(of_path), flush=True)
        verdicts += of_path
    if given.move:
        FILE.write_text(json.dumps(moved(figures_kept, (each.figure for each in verdicts)), indent=1) + "\n")
        return 0
    if PYTHON not in figures_kept["counts"]:
        print(f"No figures for Python {PYTHON}; python -m benchmarks.budget --move writes them.")
    if figures_kept["machine"] != machine():
        print("The times were taken on another kind of machine; only what is counted is judged.")
    over = [each for each in verdicts if each.is_over]
    for each in over:
        print(f"OVER: {what(each.figure.path)}: {each.figure.kind} {each.figure.value:,.10g}, was {each.kept:,.10g}")
    if over:
        print(
            f"That is over {LIMIT - 1:.0%} more than in benchmarks/budget.json. If it was meant, move the figures with"
        )
        print("python -m benchmarks.budget --move, and say why in the commit.")
    elif any(each.is_judged and each.ratio < 1 / LIMIT for each in verdicts):
        print("Some are so much cheaper now that the gain could be lost unseen: python -m benchmarks.budget --move")
    return bool(over)


if __name__ == "__main__":
    sys.exit(main())
