"""Let a client's deliveries go on: one that paused, or that waits after an outage."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.ports import Store


@click.command("resume")
@click.argument("connector")
@click.argument("client")
@options.store
@options.project
def command(connector: str, client: str, store_url: str | None, directory: Path) -> None:
    """Let a client's deliveries go on that are paused, or that wait after an outage."""
    from engine.records import LaneChange

    goes_on = LaneChange(pause=False, reason="", not_before=0.0, failures=0, failing_since=0)
    with known_lane(connector, client, store_url, directory) as store:
        options.audit(options.open_project(directory)).line("resume", connector=connector, client=client)
        store.change_lane(connector, client, goes_on, now=time.time())
        lane = store.lane(connector, client)
    click.echo(f"{connector}/{client} goes on; {lane.waiting if lane is not None else 0} waiting")


@contextmanager
def known_lane(connector: str, client: str, store_url: str | None, directory: Path) -> Iterator[Store]:
    """The store, if it has the lane or the project has the client; else a UsageError names the nearest."""
    from engine.errors import UsageError

    project = options.open_project(directory)
    if options.store_address(store_url, project).startswith("memory:"):
        raise UsageError("memory: is seen only by the process that serves; ask its admin side")
    store = options.open_store(store_url, project)
    try:
        if store.lane(connector, client) is None and connector not in project.client(client).connectors:
            raise UsageError(f"{client} has no connector {connector}")
        yield store
    finally:
        store.close()
