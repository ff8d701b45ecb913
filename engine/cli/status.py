"""What waits, for whom, and why: every lane with its counters."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.ports import Store
    from engine.records import Lane
    from engine.spec.project import Project

HEADS = ("connector", "client", "state", "waiting", "delivered", "rejected", "skipped", "oldest")


class Interval(click.ParamType[float]):
    """`2s`, `500ms`; 0.1 s at least."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from engine.spec import units

        text, interval_s = str(value), 0.0
        with suppress(units.UnitError):
            interval_s = units.duration(text)
        if interval_s < 0.1:
            self.fail(f"{text!r} is no time from 100ms on; write it as 500ms or 2s", param, ctx)
        return interval_s


@click.command("status")
@click.option("--watch", is_flag=True, help="Show it anew again and again, with rates, until Ctrl-C.")
@click.option(
    "--interval",
    type=Interval(),
    default="2s",
    show_default=True,
    metavar="TIME",
    help="How long --watch waits between two looks, such as 500ms.",
)
@options.as_json
@options.store
@options.project
def command(watch: bool, interval: float, as_json: bool, store_url: str | None, directory: Path) -> None:
    """
    What waits, for whom, and why.

    One line for each client of each connector; "oldest" is how long the oldest event has waited. With --watch what
    needs attention comes first, and small charts show what waited and what was delivered, over three minutes.
    """
    project = options.open_project(directory)
    if watch:
        with suppress(KeyboardInterrupt):
            follow(Looking(store_url, project), interval, as_json=as_json)
        return
    store = options.open_shared_store(store_url, project)
    try:
        show(store, as_json=as_json)
    finally:
        store.close()


def show(store: Store, *, as_json: bool) -> None:
    from engine.door.answers import shown_lane

    now = time.time()
    lanes = [shown_lane(lane, now=now) for lane in store.lanes()]
    if as_json:
        output.print_json({"lanes": lanes})
    else:
        click.echo(text(lanes))


def text(lanes: list[dict[str, Any]]) -> str:
    if not lanes:
        return "no event has come in yet"
    rows = [[*(lane[head] for head in HEADS[:-1]), output.ago(lane["oldest_s"])] for lane in lanes]
    return output.table(HEADS, rows, notes=[lane["reason"] or "" for lane in lanes])


class Looking:
    """A store that is looked at again and again; it may come into being, or be away for a time."""

    def __init__(self, store_url: str | None, project: Project) -> None:
        self.store_url, self.project = store_url, project
        self.store: Store | None = None
        self.away: str | None = None  # why it could not be read at the last look

    def lanes(self) -> list[Lane]:
        from engine.errors import StoreUnavailable
        from engine.stores.memory import MemoryStore

        try:
            if self.store is None or isinstance(self.store, MemoryStore):
                self.close()
                self.store = options.open_shared_store(self.store_url, self.project)
            lanes = self.store.lanes()
        except StoreUnavailable as error:
            if self.away is None and self.store is None:
                raise  # it was never there: told at once, not again and again
            self.away = str(error)
            return []
        self.away = None
        return lanes

    def close(self) -> None:
        if self.store is not None:
            self.store.close()


def follow(looking: Looking, interval_s: float, *, as_json: bool) -> None:
    """Look again and again: a screen for a person, lines for a pipe, a line of JSON for a program."""
    from engine.cli import watching

    history = watching.History()

    def looks() -> Iterator[list[watching.Watched]]:
        try:
            found: list[watching.Watched] = []
            while True:
                lanes = looking.lanes()
                found = history.look(lanes, time.time()) if looking.away is None else found
                yield found
                time.sleep(interval_s)
        finally:
            looking.close()

    if as_json:
        for found in looks():
            print_line(found)
    elif output.watched():
        watching.on_screen(looks(), now=time.time, away=lambda: looking.away)
    else:
        for found in looks():
            click.echo(watching.plain(watching.frame(found, time.time(), width=80, height=None, away=looking.away)))
            click.echo()
            sys.stdout.flush()


def print_line(found: list[Any]) -> None:
    """One look as one line of JSON, in the order of `connect status`."""
    import msgspec

    from engine.door.answers import shown_lane

    now = time.time()
    lanes = [
        {**shown_lane(each.lane, now=now), "delivered_per_minute": _tenths(each.per_minute)}
        for each in sorted(found, key=lambda each: (each.lane.connector, each.lane.client))
    ]
    click.echo(msgspec.json.encode({"at": round(now, 3), "lanes": lanes}))
    sys.stdout.flush()


def _tenths(value: float | None) -> float | None:
    return round(value, 1) if value is not None else None
