"""Deliver what is due, and end: for cron and other schedulers; with --watch, go on."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options
from engine.cli.serve import require_clients

if TYPE_CHECKING:
    from engine.records import Lane


@click.command("deliver")
@click.option("--watch", is_flag=True, help="Go on until SIGTERM or Ctrl-C.")
@click.option("--for", "time", metavar="TIME", help="End by then, such as 5m: no batch begins that might be late.")
@options.workers
@options.via
@options.allow_private
@options.store
@options.log_level
@options.project
def command(
    watch: bool,
    time: str | None,
    workers: int | None,
    via: str | None,
    allow_private: bool | None,
    store_url: str | None,
    log_level: str | None,
    directory: Path,
) -> int:
    """
    Deliver what is due, and end.

    The exit code is 1 if something was rejected or a client's deliveries are paused. With --watch it goes on until
    SIGTERM or Ctrl-C, as `connect serve` does without its door.
    """
    for_s = seconds(time)
    project = options.open_kept(directory)
    require_clients(project)
    via, reach = options.checked_via(via, project), options.reach(allow_private, project)
    with ExitStack() as stack:
        store = options.open_store(store_url, project)
        stack.callback(store.close)
        engine, telemetry, alerts = options.make_engine(
            project, store, via=via, reach=reach, workers=workers, log_level=log_level
        )
        stack.callback(engine.close)
        stack.callback(options.close_alerts, alerts)
        stack.callback(telemetry.close)
        if not os.environ.get("CONNECT_TRACE"):
            stack.callback(telemetry.catch())
        telemetry.begin()
        over = threading.Event()

        def end(*_: Any) -> None:
            over.set()
            engine.worker.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        engine.mark_paused(starting=True)
        before = {(lane.connector, lane.client): lane for lane in store.lanes()}
        if watch:
            threading.Thread(target=engine.watch, args=(over,), name="watch", daemon=True).start()
        engine.worker.ends_at = engine.clock.now() + for_s if for_s is not None else None
        engine.worker.run(until_empty=not watch)
        engine.mark_paused()
        if engine.watcher is not None:
            engine.watcher.look()
        return told(before, store.lanes())


def seconds(time: str | None) -> float | None:
    """UsageError for what is no duration."""
    from engine.errors import UsageError
    from engine.spec.units import UnitError, duration

    try:
        return duration(time) if time is not None else None
    except UnitError as error:
        raise UsageError(f"--for: {error}") from None


def told(before: dict[tuple[str, str], Lane], after: list[Lane]) -> int:
    """Say what was done, in a line; 1 if something was rejected or is paused."""
    sums = dict.fromkeys(("delivered", "rejected", "skipped", "waiting"), 0)
    for lane in after:
        old = before.get((lane.connector, lane.client))
        for name in ("delivered", "rejected", "skipped"):
            sums[name] += getattr(lane, name) - (getattr(old, name) if old is not None else 0)
        sums["waiting"] += lane.waiting
    paused = [f"{lane.connector}/{lane.client}" for lane in after if lane.state == "paused" and lane.waiting]
    click.echo(", ".join(f"{count} {name}" for name, count in sums.items()))
    if paused:
        click.echo(f"paused: {', '.join(paused)}; see `connect status`", err=True)
    return 1 if sums["rejected"] > 0 or paused else 0
