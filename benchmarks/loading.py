"""
A spec read, checked, in its types and compiled, beside what reading its YAML alone takes with `yaml.safe_load` (pure
Python); a thousand files validated by `connect validate`; and what `serve` keeps in memory.

The examples of a connector are run by `validate` too, and count as a line of their own: they are tests, not loading.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from benchmarks.measuring import ROOT, Comparison, alternate, at_most, compare, measured, version
from benchmarks.projects import write_project

TITLE = "Loading"
SPEC = ROOT / "connectors" / "rdstation.yaml"
CONNECT = Path(sys.executable).with_name("connect")
EVENT = {
    "email": "user@example.com",
    "eventType": "product_view",
    "timestamp": "2026-01-28T10:30:45.123Z",
    "product": {"id": "P", "name": "x", "price": 1.5, "url": "https://example.com/p"},
}


def loading(*, examples: bool) -> int:
    """As if for the first time: nothing that was compiled before is taken again."""
    from engine import expressions
    from engine.program import Program
    from engine.spec import types
    from engine.spec.check import check
    from engine.spec.project import Project

    expressions._KEPT.clear()
    project = Project(ROOT)
    assert check(project, [SPEC], examples=examples) == []
    Program(project.connector(SPEC.stem), types.Client(client="one", connectors={}), types.Binding())
    return 1


def plain() -> int:
    yaml.safe_load(SPEC.read_text(encoding="utf-8"))
    return 1


def validated(home: Path, *options: str) -> tuple[float, float]:
    """Seconds, and seconds of the processors."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run([CONNECT, "validate", *options], cwd=home, capture_output=True, text=True).stdout
    assert said == "no findings in 1000 files\n", said
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def serving(home: Path, clients: int) -> Iterator[tuple[int, str, Callable[[], float]]]:
    """Its process, its door, and how much memory it has now (MB)."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **{f"SHOP_{n:04}_KEY": f"key-{n}" for n in range(clients)}}
    process = subprocess.Popen(
        [CONNECT, "serve", "--port", "0", "--admin-port", "0", "--no-deliver", "--store", f"sqlite:///{home}/x.db"],
        cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    door = next(line.split()[1].rpartition("/")[0] for line in process.stdout if line.startswith("Events:"))

    def megabytes() -> float:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    try:
        time.sleep(4)  # what is loaded after the start is there now
        yield process.pid, door, megabytes
    finally:
        process.terminate()
        process.communicate()


def an_event_of_each(home: Path, door: str) -> None:
    for number, file in enumerate(sorted((home / "clients").glob("*.yaml"))):
        text = file.read_text()
        connector = text.partition("\nconnectors:\n  ")[2].partition(":")[0]
        event = json.dumps({**EVENT, "clientId": file.stem, "tid": file.stem}).encode()
        headers = {"Content-Type": "application/json", "X-Write-Key": f"key-{number}"}
        headers["Authorization"] = f"Bearer key-{number}"
        with suppress(urllib.error.HTTPError):  # one in direct mode, whose vendor can't be reached
            urllib.request.urlopen(urllib.request.Request(f"{door}/{connector}", event, headers)).close()


def measure(quick: bool) -> Iterator[Comparison]:
    rounds = 5 if quick else 9
    ways = {
        "safe_load": plain,
        "loaded": lambda: loading(examples=False),
        "with examples": lambda: loading(examples=True),
    }
    figures = alternate(ways, rounds=rounds, least_s=0.05 if quick else 0.3)
    against, lines = f"yaml.safe_load, {version('pyyaml')}", len(SPEC.read_text().splitlines())
    what = f"a spec of {lines} lines loaded, checked and compiled"
    yield compare(what, figures, "loaded", "safe_load", against, unit="ms", goal=at_most(0.5))
    yield compare(f"{what}, and its examples run", figures, "with examples", "safe_load", against, unit="ms")
    with tempfile.TemporaryDirectory() as folder:
        for connectors in (7, 100):
            home = write_project(Path(folder) / str(connectors), connectors=connectors, clients=1000 - connectors)
            what = f"validate of {connectors} connectors and {1000 - connectors} clients"
            cold = [validated(home, "--no-cache") for _ in range(1 if quick else 5)]
            yield measured(f"{what}, all looked at", [took for took, _ in cold], "s", goal=at_most(3))
            yield measured("that, in time of the processors (two share it)", [cpu for _, cpu in cold], "s")
            validated(home)
            warm = [validated(home) for _ in range(1 if quick else 5)]
            yield measured(f"{what}, unchanged", [took for took, _ in warm], "s", goal=at_most(0.3))
            yield measured("that, in time of the processors", [cpu for _, cpu in warm], "s")
        home = write_project(Path(folder) / "serve", connectors=50, clients=500)
        for what in ("a new project", "served before"):
            with serving(home, 500) as (_, door, megabytes):
                yield measured(
                    f"serve with 50 connectors and 500 clients, {what}", megabytes(), "MB", goal=at_most(120)
                )
                an_event_of_each(home, door)
                what = f"after an event of each client, {what}"
                yield measured(f"serve with 50 connectors, {what}", megabytes(), "MB", goal=at_most(120))
