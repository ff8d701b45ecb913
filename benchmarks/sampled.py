"""
Where the time of the finished walk goes: `python -m benchmarks.sampled` writes benchmarks/notes/profile.md.

Every few milliseconds of the processor's time the stack is looked at. That costs the walk next to nothing, where a
profiler that counts calls makes small functions look dear. Time in C or in a package is told of the line of ours that
called it; what other threads take is not seen.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from benchmarks.crm import crm
from benchmarks.drain import Engine, filled, scratch
from benchmarks.measuring import ROOT
from benchmarks.page import NOTES
from benchmarks.results import commit, machine
from engine.stores.sqlite import SqliteStore

ENGINE = str(ROOT / "engine")
EVERY_S = 0.001
SHOWN = 16


class Sampler:
    """Counts, by the processor's clock, in which functions of ours the main thread is."""

    def __init__(self) -> None:
        self.samples = 0
        self.own: Counter[str] = Counter()  # where it was, or what it had called outside of ours
        self.within: Counter[str] = Counter()  # on the stack at all

    def look(self, _signal: int, frame: FrameType | None) -> None:
        self.samples += 1
        names = list(dict.fromkeys(ours(frame)))
        self.own.update(names[:1])
        self.within.update(names)

    def run(self, work: Callable[[], object]) -> None:
        before = signal.signal(signal.SIGPROF, self.look)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        try:
            work()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)


def ours(frame: FrameType | None) -> Iterator[str]:
    """`mapping.Tree.emit`, from the innermost outwards; what was compiled from a spec is called so."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<") and not code.co_filename.startswith("<frozen"):
            yield "compiled from the spec"
        elif code.co_filename.startswith(ENGINE):
            module = ".".join(Path(code.co_filename).relative_to(ENGINE).with_suffix("").parts)
            yield f"{module}.{code.co_qualname}"
        frame = frame.f_back


def walked(connector: str, count: int) -> tuple[Sampler, float]:
    """The samples, and events a second of the processor."""
    sampler = Sampler()
    with scratch() as folder, crm() as base:
        filled(folder / "walk.db", connector, 1, count).close()
        engine = Engine(SqliteStore(folder / "walk.db"), connector, base)
        began = time.process_time()
        sampler.run(engine.worker.drain)
        rate = engine.delivered() / (time.process_time() - began)
        engine.close()
    return sampler, rate


def table(counts: Counter[str], samples: int) -> list[str]:
    known = [(name, count) for name, count in counts.most_common() if count < 0.99 * samples]  # the others say nothing
    lines = [f"| `{name}` | {count / samples:.1%} |" for name, count in known[:SHOWN]]
    return [line.replace("`compiled from the spec`", "compiled from the spec") for line in lines]


def page(connector: str, title: str, count: int) -> str:
    sampler, rate = walked(connector, count)
    own = table(sampler.own, sampler.samples)
    within = table(sampler.within, sampler.samples)
    return "\n".join(
        [
            f"**{title}**: {rate:,.0f} events/s of one core, {sampler.samples:,} samples. A function's own time, with",
            "what it calls in C and in packages; and all the time that it is on the stack:",
            "",
            "| its own | | on the stack | |",
            "| --- | ---: | --- | ---: |",
            *(one[:-1] + two for one, two in zip(own, within, strict=False)),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampled", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--count", type=int, default=50_000, help="events of each walk")
    parser.add_argument("--print", action="store_true", help="to standard output only")
    given = parser.parse_args()
    day = time.strftime("%Y-%m-%d", time.gmtime())
    parts = [
        "## Where the time of the walk goes",
        f"*Sampled {day} of `{commit()}` by `python -m benchmarks.sampled`, on {machine()}.*",
        page("responsys", "Responsys", given.count),
        page("salesforce", "Salesforce, which looks each person up", given.count),
    ]
    text = "\n\n".join(parts) + "\n"
    sys.stdout.write(text)
    if not given.print:
        NOTES.mkdir(exist_ok=True)
        (NOTES / "profile.md").write_text(text)


if __name__ == "__main__":
    main()
