"""Deliver one event now, for real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from engine.authoring.preview import Ending

POLLS_S = 600.0  # for what a vendor works on in the background


@click.command("send")
@click.argument("name", metavar="CONNECTOR")
@click.argument("file", metavar="EVENT.json", type=click.Path(path_type=Path))
@click.option("--client", metavar="NAME", help="The client; may be left out where only one has the connector.")
@options.via
@options.allow_private
@options.store
@options.as_json
@options.project
def command(
    name: str,
    file: Path,
    client: str | None,
    via: str | None,
    allow_private: bool | None,
    store_url: str | None,
    as_json: bool,
    directory: Path,
) -> int:
    """
    Deliver one event now, for real.

    The event (or a list of them; - reads stdin) goes past the store and its batches. It is tried once; the exit code is
    0 only if all of it was delivered.
    """
    project = options.open_project(directory)
    who = options.client_of(project, name, client)
    body = options.read_events(file)
    from engine.authoring.preview import Single, accepted, at_once
    from engine.runtime import Engine
    from engine.stores.lent import LentTokens

    store = LentTokens()
    engine = Engine(project, store, via=options.checked_via(via, project), reach=options.reach(allow_private, project))
    click.get_current_context().call_on_close(engine.close)
    options.lend_tokens(store, engine.program(name, who), store_url, project)
    program = at_once(project.connector(name), project.client(who))
    events = accepted(program, body, engine.clock.now())
    world = engine.worker.world
    single = Single(
        program, engine.credentials(program), world.transport, engine.clock, masker=engine.masker, store=store
    )
    single.put(events)
    single.run(longest_s=POLLS_S, again=False)
    endings = single.endings()
    if as_json:
        output.print_json({"outcomes": [shown(one) for one in endings]})
    else:
        click.echo("\n".join(text(one) for one in endings) or "no action wants this event")
        if single.paused:
            click.echo(f"with these credentials a lane would pause; see `connect check {name} {who}`", err=True)
    return 0 if endings and all(one.kind == "delivered" for one in endings) else 1


def shown(one: Ending) -> dict[str, str]:
    return {"action": one.action, "outcome": word(one), "reason": one.outcome.reason}


def word(one: Ending) -> str:
    """`failed` for what would be tried again: here nobody tries."""
    return "failed" if one.kind == "later" else one.kind


def text(one: Ending) -> str:
    because = f": {one.outcome.reason}" if one.outcome.reason else ""
    return f"{one.action}: {output.coloured(word(one))}{because}"
