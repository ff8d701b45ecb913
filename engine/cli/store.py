"""The store itself: is it whole, is it of this engine's version, and how to move to another one."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, output
from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.records import Held
    from engine.spec.project import Project
    from engine.stores.checking import Checked
    from engine.stores.opening import Schema
    from engine.upkeep.copying import Copied


@click.group("store")
def command() -> None:
    """The store: check it, bring it up to date, copy it into another one."""


# --- check ---


@command.command("check", short_help="Say what is in a store, and what is wrong.")
@click.argument("url", required=False)
@options.as_json
@options.store
@options.project
def check(url: str | None, as_json: bool, store_url: str | None, directory: Path) -> int:
    """
    Say what is in a store, and whether it can be so: every row is read, nothing is changed.

    Without URL it is the project's own store. Ends with 1 where something is wrong.
    """
    from engine.stores import checking, opening

    project = options.open_project(directory)
    address = durable(url or options.store_address(store_url, project))
    schema = there(address, project)
    about: dict[str, Any] = {
        "store": opening.shown(address),
        "kind": address.split(":")[0],
        "version": schema.found,
        "known": schema.known,
    }
    if schema.found != schema.known:
        findings = [f"version {schema.found} of {schema.known}: bring it up to date with `connect store migrate`"]
        return told(about, None, findings, as_json=as_json)
    store = opening.look_into(address, project.directory)
    with ExitStack() as stack:
        stack.callback(store.close)
        rows = sum(total(store.count(lane.connector, lane.client, now=time.time())) for lane in store.lanes())
        step = stack.enter_context(output.progress("check", rows))
        found = checking.check(store, now=time.time(), step=step)
    findings = found.findings
    if (name := project.settings.name) is not None and found.project not in (None, name):
        findings.append(
            f"it holds the events of project `{found.project}`; this project is `{name}`; use another store"
        )
    return told(about, found, findings, as_json=as_json)


def told(about: dict[str, Any], found: Checked | None, findings: list[str], *, as_json: bool) -> int:
    encrypted = bool(os.environ.get("CONNECT_KEY"))
    lanes = [
        {
            "connector": lane.connector,
            "client": lane.client,
            "state": lane.state,
            "waiting": held.deliveries,
            "half_done": held.batches,
            "dead": held.dead,
            "ids": held.ids,
        }
        for lane, held in (found.lanes if found is not None else [])
    ]
    if as_json:
        more: dict[str, Any] = {}
        if found is not None:
            tokens = {"count": found.tokens, "encrypted": encrypted, "unreadable": found.unreadable}
            more = {"project": found.project, "tokens": tokens, "lanes": lanes}
        output.print_json({**about, **more, "findings": findings})
        return 1 if findings else 0
    click.echo(f"store:    {about['store']}")
    click.echo(f"version:  {about['version']}{'' if about['version'] == about['known'] else ' (old)'}")
    if found is not None:
        click.echo(f"project:  {found.project or 'nobody has put a name to it'}")
        click.echo(f"tokens:   {tokens_text(found, encrypted=encrypted)}")
        click.echo(output.table(HEADS, [list(lane.values()) for lane in lanes]) if lanes else "no lane")
    for finding in findings:
        click.echo(output.wrapped(f"{click.style('wrong:', fg='red')} {finding}", below="  "))
    if not findings:
        click.echo("nothing is wrong")
    return 1 if findings else 0


HEADS = ("connector", "client", "state", "waiting", "half-done", "dead", "ids")


def tokens_text(found: Checked, *, encrypted: bool) -> str:
    if found.unreadable:
        return f"{found.tokens}, of which {len(found.unreadable)} can't be read with this CONNECT_KEY"
    if not found.tokens:
        return "none"
    return f"{found.tokens}, {'encrypted with CONNECT_KEY' if encrypted else 'not encrypted: there is no CONNECT_KEY'}"


# --- migrate ---


@command.command("migrate", short_help="Bring a store to this engine's version.")
@click.argument("url", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@options.as_json
@options.store
@options.project
def migrate(url: str | None, dry_run: bool, as_json: bool, store_url: str | None, directory: Path) -> None:
    """
    Bring a store's tables to this engine's version; what is in it stays.

    `connect serve` and `deliver` do so themselves when they start. An older engine can't open it afterwards: copy the
    store's files before, if you may want to go back.
    """
    from engine.stores import opening

    project = options.open_project(directory)
    address = durable(url or options.store_address(store_url, project))
    schema = opening.schema_of(address, project.directory)
    if not dry_run and schema.found != schema.known:
        options.audit(project).line("store migrate", store=opening.shown(address))
        opening.open_store(address, project.directory, name=project.settings.name).close()
    if as_json:
        said = {"store": opening.shown(address), "from": schema.found, "to": schema.known}
        output.print_json({**said, "done": not dry_run})
    else:
        click.echo(f"{opening.shown(address)}: {migrated(schema, dry_run=dry_run)}")


def migrated(schema: Schema, *, dry_run: bool) -> str:
    if schema.found == schema.known:
        return f"is of version {schema.known}, this engine's; nothing to do"
    if not schema.found:
        return f"is not there yet; it {'would be' if dry_run else 'was'} made, of version {schema.known}"
    return f"version {schema.found} {'would become' if dry_run else 'became'} {schema.known}"


# --- copy ---


@command.command("copy", short_help="Copy all of a store into another of any kind.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@options.as_json
@options.project
def copy(source: str, target: str, as_json: bool, directory: Path) -> int:
    """
    Copy all that waits, is dead or is remembered, and tokens, from one store into another of any kind.

    Each lane of FROM is paused by hand and stays so; in TO it is opened once all of it is there and counted. A copy
    that was killed goes on when it is run again; so does one into which events came meanwhile. What is counted by rates
    and budgets is not copied: they begin anew.
    """
    from engine.clock import SystemClock
    from engine.stores import opening
    from engine.upkeep.copying import Copy

    project = options.open_project(directory)
    for address in (source, target):
        durable(address)
    if same(source, target, project):
        raise UsageError("FROM and TO are one store; name two")
    there(source, project)
    opening.schema_of(target, project.directory)
    names = (opening.shown(source), opening.shown(target))
    options.audit(project).line("store copy", source=names[0], target=names[1])
    with ExitStack() as stack:
        stores = []
        for address in (source, target):
            store = opening.open_store(address, project.directory, name=project.settings.name)
            stack.callback(store.close)
            stores.append(store)
        rows = sum(total(stores[0].count(lane.connector, lane.client, now=0)) for lane in stores[0].lanes())
        step = stack.enter_context(output.progress("copy", rows))
        now = getattr(stores[0], "clock", SystemClock()).now  # as those go by who hold its lanes
        copied = Copy(*stores, names=names, now=now, step=lambda count, lane: step(lane, count)).run()
    tell(copied, names, as_json=as_json)
    return 1 if any(lane.problem or lane.left for lane in copied) else 0


def tell(copied: list[Copied], names: tuple[str, str], *, as_json: bool) -> None:
    whole = not any(lane.problem or lane.left for lane in copied)
    if as_json:
        lanes = [
            {
                "connector": lane.connector,
                "client": lane.client,
                "from": held_json(lane.held),
                "to": held_json(lane.there),
                "problem": lane.problem,
                "left": lane.left,
            }
            for lane in copied
        ]
        output.print_json({"from": names[0], "to": names[1], "complete": whole, "lanes": lanes})
        return
    heads = ("connector", "client", "waiting", "half-done", "dead", "ids", "there")
    rows = [[lane.connector, lane.client, *parts(lane.held), word(lane)] for lane in copied]
    click.echo(output.table(heads, rows) if rows else f"{names[0]} has no lanes")
    for lane in copied:
        if lane.problem:
            click.echo(output.wrapped(f"{lane.connector}/{lane.client}: {lane.problem}", below="  "), err=True)
        if lane.left:
            more = f"{lane.left} more came into {names[0]} meanwhile; stop what puts them there, then run this again"
            click.echo(output.wrapped(f"{lane.connector}/{lane.client}: {more}", below="  "), err=True)
    if whole:
        click.echo(
            f"all of it is in {names[1]}. Next: name that as `store` in connect.yaml or CONNECT_STORE, and start.\n"
            f"The lanes of {names[0]} stay paused; `connect resume` there would send what waits a second time."
        )


def held_json(held: Held) -> dict[str, int]:
    return dict(zip(("waiting", "half_done", "dead", "ids"), parts(held), strict=True))


def parts(held: Held) -> tuple[int, int, int, int]:
    return held.deliveries, held.batches, held.dead, held.ids


def total(held: Held) -> int:
    return sum(parts(held))


def word(lane: Copied) -> str:
    if lane.problem:
        return "differs"
    return "in part" if lane.left else "all"


# --- which ---


def durable(address: str) -> str:
    if address.startswith("memory:"):
        raise UsageError("memory: is lost when its process ends, and seen by nobody else; name another store")
    return address


def there(address: str, project: Project) -> Schema:
    """The versions of a store that is there."""
    from engine.stores import opening

    schema = opening.schema_of(address, project.directory)
    if not schema.found:
        raise UsageError(f"{opening.shown(address)}: no store is there")
    return schema


def same(one: str, other: str, project: Project) -> bool:
    if one.startswith("sqlite:///") and other.startswith("sqlite:///"):
        files = [(project.directory / url.removeprefix("sqlite:///")).resolve() for url in (one, other)]
        return files[0] == files[1]
    return one == other
