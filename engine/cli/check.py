"""Can we log in for a client? Asks the vendor, with fresh credentials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from engine.program import Program
    from engine.records import Outcome
    from engine.wire import Wire


class Checked(NamedTuple):
    name: str
    passed: bool
    status: int | None
    text: str


@click.command("check")
@click.argument("name", metavar="CONNECTOR")
@click.argument("client", metavar="CLIENT")
@options.via
@options.store
@options.as_json
@options.project
def command(name: str, client: str, via: str | None, store_url: str | None, as_json: bool, directory: Path) -> int:
    """
    Can we log in for a client?

    Makes the requests under the connector's `checks:` with a new log-in; where it has none, it only logs in.
    """
    project = options.open_project(directory)
    from engine.runtime import Engine
    from engine.stores.memory import MemoryStore
    from engine.walk import Walk

    engine = Engine(project, MemoryStore(), via=options.checked_via(via, project))
    click.get_current_context().call_on_close(engine.close)
    program = engine.program(name, client)
    wire = Walk(engine.worker.world, program, keep_alive=lambda: None).wire
    found = checks(program, wire) or [log_in(program, wire)]
    passed = all(one.passed for one in found)
    if as_json:
        keys = ("name", "passed", "status", "reason")
        output.print_json({"checks": [dict(zip(keys, one, strict=True)) for one in found]})
    else:
        click.echo("\n".join(f"{one.name}: {mark(one)}, {one.text}" for one in found))
        if passed and is_paused(store_url, directory, name, client):
            click.echo(f"the lane is still paused; run `connect resume {name} {client}`")
    return 0 if passed else 1


def mark(one: Checked) -> str:
    return output.coloured("passed" if one.passed else "failed")


def checks(program: Program, wire: Wire) -> list[Checked]:
    from engine.errors import RecordError

    found = []
    for name, call in program.checks.items():
        title = program.connector.checks[name].title or name
        try:
            done = call.run(wire, wire.scope, records=1)
        except RecordError as error:
            found.append(Checked(title, False, None, str(error)))
            continue
        said = f"HTTP {done.reply.status}" if done.reply is not None else "no reply"
        where = f"{done.trace.method} {done.trace.url}" if done.trace is not None else ""
        status = done.reply.status if done.reply is not None else None
        if good(done.verdict.outcome):
            found.append(Checked(title, True, status, f"{said} to {where}"))
        else:
            assert done.verdict.outcome is not None
            at = f" ({where})" if where else ""
            found.append(Checked(title, False, status, f"{done.verdict.outcome.reason or said}{at}"))
    return found


def good(outcome: Outcome | None) -> bool:
    return outcome is None or outcome.kind == "delivered"


def log_in(program: Program, wire: Wire) -> Checked:
    """For a connector without checks: a token, and whether everything is there that goes into a request."""
    from engine.auth import AuthFailed

    try:
        token = program.auth.token(wire)
        program.auth.place(wire, token)
    except AuthFailed as failed:
        status = failed.trace.status if failed.trace is not None else None
        return Checked("log-in", False, status, failed.outcome.reason)
    if token is None:
        text = f"all there; {program.connector.name} has no check, so nothing was asked"
        return Checked("secrets", True, None, text)
    return Checked("log-in", True, 200, "a new token")


def is_paused(store_url: str | None, directory: Path, connector: str, client: str) -> bool:
    project = options.open_project(directory)
    if options.store_address(store_url, project).startswith("memory:"):
        return False
    store = options.open_shared_store(store_url, project)
    try:
        lane = store.lane(connector, client)
        return lane is not None and lane.state == "paused"
    finally:
        store.close()
