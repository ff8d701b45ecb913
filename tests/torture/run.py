"""
`python tests/torture/run.py` (`make torture`): all of the torture suite at its full size, saying which test runs and
for how long; then the figures, here as a short table and whole in docs/guarantees.md.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / ".cache" / "figures.jsonl"
PARTS = ["tests/torture", "tests/test_attack.py"]
SAYS_SO_EVERY_S = 15.0


class Progress:
    """A pytest plugin that writes past pytest's capturing: `[12/98] 3:05 test_x …  41 s`."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
        self.began, self.number, self.total, self.failed, self.took_s = time.monotonic(), 0, 0, 0, 0.0
        self.ended = threading.Event()

    def pytest_collection_finish(self, session: Any) -> None:
        self.total = len(session.items)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.number += 1
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        name = nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        self.out.write(f"[{self.number}/{self.total}] {minutes}:{seconds:02d} {name} … ")
        self.out.flush()
        self.took_s, self.ended = 0.0, threading.Event()
        threading.Thread(target=self.says_that_it_goes_on, args=(self.ended,), daemon=True).start()

    def says_that_it_goes_on(self, ended: threading.Event) -> None:
        began = time.monotonic()
        while not ended.wait(SAYS_SO_EVERY_S):
            self.out.write(f"{time.monotonic() - began:.0f} s … ")
            self.out.flush()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.took_s += report.duration
        self.failed += report.failed
        if report.failed:
            self.out.write("FAILED ")

    def pytest_runtest_logfinish(self) -> None:
        self.ended.set()
        self.out.write(f"{self.took_s:.1f} s\n")

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str]:
        counts = report.when == "call" or not report.passed
        return report.outcome if counts else "", "", ""  # no dots between the lines


def where() -> str:
    """The commit and the machine, as far as they count for the figures."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    commit = f" at commit {found.stdout.strip()}" if found.returncode == 0 else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{datetime.now(UTC):%Y-%m-%d}{commit}, on {cores} cores with Python {platform.python_version()}"


def main(args: list[str]) -> int:
    import pytest

    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.unlink(missing_ok=True)
    os.environ |= {"CONNECT_TORTURE": "full", "CONNECT_FIGURES": str(FIGURES)}
    os.chdir(ROOT)
    progress, begun_at = Progress(), where()
    load = os.getloadavg()[0]
    print(f"All of it takes some twenty minutes. {begun_at}; load before it {load:.1f}", flush=True)
    code = int(pytest.main([*(args or PARTS), "-p", "no:cacheprovider", "--no-header"], plugins=[progress]))
    took_s = int(time.monotonic() - progress.began)
    if not FIGURES.exists():
        return code
    if not args:
        run = (
            f"{begun_at}, in one piece; {progress.total} tests, {progress.failed} failed, {took_s // 60} min "
            f"{took_s % 60} s; load of the machine before it {load:.1f}."
        )
        with FIGURES.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": "run", "form": "full", "figures": run}) + "\n")
    subprocess.run([sys.executable, "tests/torture/page.py", str(FIGURES)], check=True)
    print(short(FIGURES.read_text(encoding="utf-8").splitlines()))
    print("docs/guarantees.md has them beside their promises.")
    return code


def short(lines: list[str]) -> str:
    """A line for each test that measured something; then how many were lost in all of them."""
    rows = [(row["test"], row["figures"]) for row in map(json.loads, lines) if row["test"] != "run"]
    lost = sum(int(number) for _, text in rows for number in re.findall(r"(\d+) lost", text))
    named = [f"{test.removeprefix('test_').replace('_', ' ')}\n    {text}" for test, text in rows]
    return "\n".join([*named, f"lost in all: {lost}"])


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "torture")]
    sys.exit(main(sys.argv[1:]))
