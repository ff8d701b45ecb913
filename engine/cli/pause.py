"""Hold a client's deliveries; its events are still taken in and kept."""

from __future__ import annotations

import time
from pathlib import Path

import click

from engine.cli import options
from engine.cli.resume import known_lane


@click.command("pause")
@click.argument("connector")
@click.argument("client")
@click.option("--reason", metavar="TEXT", help="What `connect status` will say.")
@options.store
@options.project
def command(connector: str, client: str, reason: str | None, store_url: str | None, directory: Path) -> None:
    """Hold a client's deliveries; its events are still taken in and kept until `connect resume`."""
    from engine.records import LaneChange
    from engine.runtime import BY_HAND

    with known_lane(connector, client, store_url, directory) as store:
        options.audit(options.open_project(directory)).line("pause", connector=connector, client=client, why=reason)
        why = f"{BY_HAND}: {reason}" if reason else BY_HAND
        store.change_lane(connector, client, LaneChange(pause=True, reason=why), now=time.time())
        lane = store.lane(connector, client)
    click.echo(f"{connector}/{client} is paused; {lane.waiting if lane is not None else 0} waiting")
