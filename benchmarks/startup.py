"""
From the start of a process to its answer, beside an empty Python: the processor's time that the process took.

Modules are compiled before. `validate` is asked of a file that is as it was the last time, and of one that is looked
at anew (`--no-cache`); `serve` of a project that was served before, and of one that is new, each time until the first
200 of /healthz, and of the former until the 202 of its first event, too; with `--port 0` and nothing delivered.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from benchmarks.measuring import CPU, Comparison, Took, alternate, at_most, compare
from benchmarks.projects import write_project

TITLE = "Start-up"
GOALS = {"connect --help": 3, "connect validate of one file": 6, "connect serve until it answers": 10}
SCRIPT = Path(sys.executable).with_name("connect")
AGAINST = "python -c pass"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **{f"SHOP_{n:04}_KEY": f"key-of-{n}" for n in range(4)}}


def finished(home: Path, *command: str | Path) -> Took:
    """The processor's time of a process and of those that it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(part) for part in command], cwd=home, env=environment(), capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(1, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def answered(home: Path, *command: str | Path, event: bytes | None = None) -> Took:
    """The processor's time that `serve` took until it answered: that it lives, or to an event for hubspot."""
    with tempfile.TemporaryDirectory() as folder:
        ports = ("--port", "0", "--admin-port", "0", "--no-deliver", "--store", f"sqlite:///{folder}/connect.db")
        process = subprocess.Popen(
            [str(part) for part in (*command, "serve", *ports)],
            cwd=home, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        door = next(line.split()[1] for line in process.stdout if line.startswith("Events:")).partition("{")[0]
        admin = next(line.split()[1] for line in process.stdout if line.startswith("Admin:"))
        headers = {"X-Connect-Key": environment()["SHOP_0001_KEY"], "Content-Type": "application/json"}
        asked = f"{admin}healthz" if event is None else urllib.request.Request(f"{door}hubspot", event, headers)
        with urllib.request.urlopen(asked) as answer:
            assert answer.status == (200 if event is None else 202)
        took = cpu_s(process.pid)
        process.terminate()
        process.communicate()
    return Took(1, took)


def cpu_s(pid: int) -> float:
    """Of all threads of a process, as Linux counts it."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def event_of(home: Path) -> bytes:
    """One that `hubspot` takes from shop-0001: the first of the connector's examples."""
    from engine.spec.project import Project

    connector = Project(home).connector("hubspot")
    event = connector.examples[0].events[0] | {"clientId": "shop-0001"}
    return msgspec.json.Encoder(decimal_format="number").encode(event)


def kept(home: Path) -> None:
    """As a process that serves keeps the project for the next one."""
    from engine.spec import compiled

    project = compiled.open_kept(home)
    project.all()
    compiled.keep(project)


def contestants(old: Path, new: Path) -> Mapping[str, Callable[[], Took]]:
    one = sorted((old / "connectors").glob("*.yaml"))[-2]
    event = event_of(old)
    module = (sys.executable, "-m", "engine.cli")
    return {
        AGAINST: lambda: finished(old, sys.executable, "-c", "pass"),
        "connect --help": lambda: finished(old, SCRIPT, "--help"),
        "python -m engine.cli --help": lambda: finished(old, *module, "--help"),
        "connect validate of one file": lambda: finished(old, SCRIPT, "validate", one),
        "python -m engine.cli validate of one file": lambda: finished(old, *module, "validate", one),
        "connect validate of one file, looked at anew": lambda: finished(old, SCRIPT, "validate", "--no-cache", one),
        "connect serve until it answers": lambda: answered(old, SCRIPT),
        "connect serve until its first event is answered": lambda: answered(old, SCRIPT, event=event),
        "connect serve until it answers, of a new project": lambda: answered(fresh(new), SCRIPT),
        **{f"connect {name} --help": helped(old, name) for name in ("validate", "serve", "test", "status", "dead")},
    }


def fresh(home: Path) -> Path:
    (home / ".connect" / "cache" / "specs.json").unlink(missing_ok=True)
    return home


def helped(home: Path, name: str) -> Callable[[], Took]:
    return lambda: finished(home, SCRIPT, name, "--help")


def measure(quick: bool) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        old, new = (write_project(Path(folder) / name, connectors=3, clients=4) for name in ("old", "new"))
        kept(old)
        time.sleep(0.01)
        figures = alternate(contestants(old, new), rounds=5 if quick else 9, clock=CPU)
        for what in figures.rates:
            if what == AGAINST:
                continue
            goal = GOALS.get(what.replace("python -m engine.cli", "connect"))
            yield compare(what, figures, what, AGAINST, unit="ms", goal=at_most(goal) if goal is not None else None)
