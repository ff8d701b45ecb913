"""What each section measured last, when, of which commit and on which machine: benchmarks/results/SECTION.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, Comparison, Goal, version

FOLDER = ROOT / "benchmarks" / "results"
PACKAGES = ("google-re2", "httpx", "jinja2", "jmespath", "jsonschema-rs", "msgspec", "pyyaml", "starlette", "uvicorn")


@dataclass(frozen=True)
class Result:
    section: str
    title: str
    about: str  # the section's docstring
    taken: str  # 2026-11-28T18:04Z
    commit: str  # with "+" where the tree was changed
    quick: bool
    took_s: float
    machine: str
    versions: tuple[str, ...]  # of the packages that do our work
    comparisons: tuple[Comparison, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def save(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{self.section}.json").write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n")


def result_of(
    section: str, title: str, about: str, comparisons: Iterable[Comparison], *, quick: bool, took_s: float
) -> Result:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    return Result(
        section, title, about.strip(), now, commit(), quick, round(took_s, 1), machine(), versions(), tuple(comparisons)
    )


def saved() -> list[Result]:
    return [from_json(json.loads(file.read_text())) for file in sorted(FOLDER.glob("*.json"))]


def from_json(data: dict[str, Any]) -> Result:
    lines = [
        Comparison(**{**line, "goal": Goal(**line["goal"]) if line["goal"] else None}) for line in data["comparisons"]
    ]
    return Result(**{**data, "versions": tuple(data["versions"]), "comparisons": tuple(lines)})


def versions() -> tuple[str, ...]:
    return tuple(version(package) for package in PACKAGES)


def commit() -> str:
    try:
        name = git("rev-parse", "--short=9", "HEAD")
        return name + ("+" if git("status", "--porcelain", "--", "engine", "connectors", "schemas") else "")
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


def git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> str:
    """2 cores (Intel Xeon …), 23 GiB, Linux 6.1, CPython 3.11.7."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = processor()
    return (
        f"{cores} cores{f' ({model})' if model else ''}, {memory:.0f} GiB, {platform.system()} "
        f"{platform.release().partition('-')[0]}, {platform.python_implementation()} {platform.python_version()}"
    )


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor()
