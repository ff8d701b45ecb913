"""What waits, for whom, and why: every lane with its counters."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from engine.ports import Store

HEADS = ("connector", "client", "state", "waiting", "delivered", "rejected", "skipped", "oldest")


@click.command("status")
@click.option("--watch", is_flag=True, help="Show it anew every two seconds, until Ctrl-C.")
@options.as_json
@options.store
@options.project
def command(watch: bool, as_json: bool, store_url: str | None, directory: Path) -> None:
    """
    What waits, for whom, and why.

    One line for each client of each connector; "oldest" is how long the oldest event has waited.
    """
    project = options.open_project(directory)
    with suppress(KeyboardInterrupt) if watch else nullcontext():
        while True:
            store = options.open_shared_store(store_url, project)
            try:
                show(store, as_json=as_json, clear=watch)
            finally:
                store.close()
            if not watch:
                return
            time.sleep(2)


def show(store: Store, *, as_json: bool, clear: bool) -> None:
    from engine.answers import shown_lane

    now = time.time()
    lanes = [shown_lane(lane, now=now) for lane in store.lanes()]
    if as_json:
        output.print_json({"lanes": lanes})
        sys.stdout.flush()
        return
    if clear and output.watched():
        click.clear()
    click.echo(text(lanes))
    if clear and not output.watched():
        click.echo()
    sys.stdout.flush()


def text(lanes: list[dict[str, Any]]) -> str:
    if not lanes:
        return "no event has come in yet"
    rows = [[*(lane[head] for head in HEADS[:-1]), output.ago(lane["oldest_s"])] for lane in lanes]
    return output.table(HEADS, rows, notes=[lane["reason"] or "" for lane in lanes])
