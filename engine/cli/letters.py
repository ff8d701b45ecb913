"""What the commands over dead letters have in common: which are meant, where they are, and what is masked."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from engine.cli import options
from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.ports import Store
    from engine.records import Dead, Which
    from engine.spec.project import Project
    from engine.telemetry.audit import Audit
    from engine.upkeep.dead_letters import Desk

PAGE = 500
FILTERS = ("connector", "client", "action", "reason", "code", "key", "since", "until")


class Moment(click.ParamType[float]):
    """`2026-01-28`, `2026-01-28T10:30`, `2026-01-28T10:30:00Z`, or how long ago: `90m`, `3d`; unix seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from engine.spec import units

        if isinstance(value, float):
            return value
        try:
            return time.time() - units.duration(value)
        except units.UnitError:
            pass
        try:
            return datetime.fromisoformat(value).timestamp()  # without a zone it is this machine's
        except ValueError:
            self.fail(f"{value!r} is no time; write it as 2026-01-28, 2026-01-28T10:30 or 3d (ago)", param, ctx)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    moments: list[tuple[str, str]] = [
        ("until", "Only those rejected before this time."),
        ("since", "Only those rejected since: 2026-01-28, 2026-01-28T10:30, or 3d (ago)."),
    ]
    for name, text in moments:
        command = click.option(f"--{name}", metavar="TIME", type=Moment(), help=text)(command)
    command = click.option("--key", metavar="TEXT", help="Only those whose record has this key.")(command)
    command = click.option("--code", metavar="TEXT", help="Only those with this code of the vendor's.")(command)
    command = click.option("--reason", metavar="TEXT", help="Only those with this in their reason.")(command)
    command = click.option("--action", metavar="NAME", help="Only of this action.")(command)
    return options.lane_filters(command)


def which(given: dict[str, Any]) -> Which:
    """The filters among the options of a command."""
    found: Which = {name: given[name] for name in FILTERS if given.get(name) is not None}  # type: ignore[assignment]
    return found


def chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    command = click.option("--all", "all_", is_flag=True, help="All of them, or all that the other options leave.")(
        command
    )
    return click.argument("ids", metavar="[ID]...", type=int, nargs=-1)(filters(command))


class Place(NamedTuple):
    """An open project with its store, what is checked against it, and who is told of what is done."""

    project: Project
    store: Store
    desk: Desk
    audit: Audit

    def letter(self, dead_id: int) -> Dead:
        found = self.store.dead_letter(dead_id)
        if found is None:
            raise UsageError(f"no dead letter has the id {dead_id}; see `connect dead list`")
        return found

    def every(self, wanted: Which) -> Iterator[Dead]:
        after = 0
        while page := self.store.dead(limit=PAGE, after=after, **wanted):
            yield from page
            after = page[-1].id


@contextmanager
def opened(store_url: str | None, directory: Path) -> Iterator[Place]:
    from engine.upkeep.dead_letters import Desk

    project = options.open_project(directory)
    store = options.open_shared_store(store_url, project)
    try:
        yield Place(project, store, Desk(project), options.audit(project))
    finally:
        store.close()


class Short(NamedTuple):
    """What is kept in mind of a dead letter that is one of many."""

    id: int
    delivery_id: str
    connector: str
    client: str


def selected(
    place: Place, ids: tuple[int, ...], verb: str, *, all_: bool, yes: bool, given: dict[str, Any]
) -> tuple[list[Short], int]:
    """Those that were named, or all that fit; and how many of those named are not there."""
    wanted = which(given)
    if bool(ids) == all_:
        raise UsageError(f"name the ids to {verb}, or say --all" if not ids else "ids or --all, not both")
    if ids and wanted:
        raise UsageError(f"--{next(iter(wanted))} goes with --all")
    if ids:
        named = list(dict.fromkeys(ids))
        there = [dead for dead_id in named if (dead := place.store.dead_letter(dead_id)) is not None]
        return [short(dead) for dead in there], len(named) - len(there)
    found = [short(dead) for dead in place.every(wanted)]
    if found and not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{len(found)} fit; say --yes, for nobody is here to be asked")
        click.confirm(f"{verb} {len(found)}?", abort=True)
    return found, 0


def short(dead: Dead) -> Short:
    return Short(dead.id, dead.delivery_id, dead.connector, dead.client)


def moment_text(at: float) -> str:
    """A time of the machine's own zone, to the minute."""
    from engine.cli import output

    return output.moment(at)[:16]
