"""Can we log in for a client, and is all there that its CRM must have? Asks the vendor, with fresh credentials."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, output
from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.onboarding.checking import Checked
    from engine.onboarding.provisioning import Thing
    from engine.program import Program
    from engine.runtime import Engine


PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*( [A-Za-z0-9_-]+)*")
WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


@click.command("check")
@click.argument("name", metavar="CONNECTOR")
@click.argument("client", metavar="CLIENT")
@click.option("--provision", is_flag=True, help="Look for what must exist in the CRM before events come.")
@click.option("--make", is_flag=True, help="With --provision: make what is missing and can be made.")
@options.via
@options.allow_private
@options.store
@options.as_json
@options.project
def command(
    name: str,
    client: str,
    provision: bool,
    make: bool,
    via: str | None,
    allow_private: bool | None,
    store_url: str | None,
    as_json: bool,
    directory: Path,
) -> int:
    """
    Can we log in for a client?

    Makes the requests under the connector's `checks:` with a new log-in; where it has none, it only logs in.

    With --provision it looks for the fields, event names and lists that the connector's `provision:` asks for, says
    what a person must do, and what to put into the client file. Nothing is written in the CRM without --make.
    """
    if make and not provision:
        raise UsageError("--make belongs to --provision")
    project = options.open_project(directory)
    from engine.runtime import Engine
    from engine.stores.lent import LentTokens

    store = LentTokens()
    engine = Engine(project, store, via=options.checked_via(via, project), reach=options.reach(allow_private, project))
    click.get_current_context().call_on_close(engine.close)
    program = engine.program(name, client)
    options.lend_tokens(store, program, store_url, project)
    if provision:
        return provisioned(engine, program, make=make, as_json=as_json)
    from engine.onboarding.checking import check

    found = check(engine.worker.world, program)
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


# --- what must exist first ---

SEEN = {"manual": "please see to it"}  # of the states, where the word itself would not do


def provisioned(engine: Engine, program: Program, *, make: bool, as_json: bool) -> int:
    from engine.onboarding.checking import wire_of
    from engine.onboarding.provisioning import Provisioning, settings_of
    from engine.program import Program

    asking = Program(program.connector, program.client, program.binding)  # it may need more secrets than what serves
    provisioning = Provisioning(asking)
    asking.require_sound(f"connectors/{program.connector.name}.yaml")
    wire = wire_of(engine.worker.world, asking)
    wire.fingerprint = engine.credentials(program).fingerprint  # stored tokens are bound to it
    things = provisioning.run(wire, make=make)
    settings = settings_of(things, program.settings)
    complete = all(thing.state not in ("missing", "failed") for thing in things)
    if as_json:
        output.print_json({"provision": [facts(thing) for thing in things], "settings": settings, "complete": complete})
    else:
        click.echo("\n".join(report(program, things, settings)))
    return 0 if complete else 1


def facts(thing: Thing) -> dict[str, Any]:
    found = thing._asdict()
    return {**found, "label": thing.label or None, "suggests": dict(thing.suggests)}


def report(program: Program, things: Sequence[Thing], settings: dict[str, Any]) -> list[str]:
    """What is there, what a person must do, and what belongs into the client file; in lines that fit."""
    connector, client = program.connector.name, program.client.client
    if not things:
        return [f"{connector} needs nothing to be there before"]
    rows = [(thing.shown, SEEN.get(thing.state, thing.state)) for thing in things]
    lines = [output.table(("WHAT", "STATE"), rows)]
    if todo := to_do(things):
        lines += ["", "To do:"]
        wide = len(str(len(todo)))
        for number, text in enumerate(todo, 1):
            lines.append(output.wrapped(f"{number:>{wide}}. {text}", below=" " * (wide + 2)))
    if settings:
        lines += [
            "",
            f"For {connector} in the client file of {client}:",
            "",
            "  settings:",
            *yaml_lines(settings, program.settings, 2),
        ]
    counts = Counter(SEEN.get(thing.state, thing.state) for thing in things)
    lines += ["", ", ".join(f"{number} {state}" for state, number in counts.items())]
    if can_be := sum(thing.can_make for thing in things):
        lines.append(output.wrapped(f"{can_be} can be made: connect check {connector} {client} --provision --make"))
    return lines


def to_do(things: Sequence[Thing]) -> list[str]:
    """What a person does; nothing for what `--make` does. Items of which the same is said stand together."""
    said: dict[tuple[str, str], list[str]] = {}
    for thing in things:
        text = "; ".join(filter(None, (thing.reason, thing.manual))) or "create it"
        if thing.state not in ("there", "made") and not thing.can_make:
            said.setdefault((thing.title, text), []).append(thing.label)
    found = []
    for (title, text), labels in said.items():
        shown = f"{title} ({', '.join(labels)})" if len(labels) > 1 else ": ".join(filter(None, (title, labels[0])))
        found.append(f"{shown}: {text}")
    return found


def yaml_lines(tree: dict[str, Any], given: Any, depth: int) -> list[str]:
    """A tree of settings as it stands in a client file; where another value stands now, with that as a comment."""
    lines = []
    for key, value in tree.items():
        name = f"{'  ' * depth}{scalar(key)}:"
        now = given.get(key) if isinstance(given, dict) else None
        if isinstance(value, dict) and value:
            lines += [name, *yaml_lines(value, now, depth + 1)]
        else:
            instead = f"  # instead of {output.shortened(scalar(now), 40)}" if now is not None else ""
            lines.append(f"{name} {scalar(value)}{instead}")
    return lines


def scalar(value: Any) -> str:
    """Plain where every reader of YAML takes it for the same text, else in quotes; lists as JSON, which is YAML."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return value
    from engine.mapping import encode_json

    return encode_json(value).decode()
