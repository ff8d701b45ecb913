"""Dead letters: events that were rejected, kept with what was sent and what came back."""

from __future__ import annotations

import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, output
from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.ports import Store
    from engine.records import Dead

    Act = Callable[[list[int], float], int]

PAGE = 500
HEADS = ("id", "connector", "client", "action", "tries", "at")
EMAIL = re.compile(r"([\w.+-])[\w.+-]*(@|%40)([\w-]+\.[\w.-]+)")


@click.group("dead")
def command() -> None:
    """Events that were rejected: look at them, try them again, or discard them."""


def filters(given: Callable[..., Any]) -> Callable[..., Any]:
    given = click.option("--reason", metavar="TEXT", help="Only those with this in their reason.")(given)
    return options.lane_filters(given)


@command.command("list")
@filters
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Not more than so many.")
@options.as_json
@options.store
@options.project
def list_(
    connector: str | None,
    client: str | None,
    reason: str | None,
    limit: int,
    as_json: bool,
    store_url: str | None,
    directory: Path,
) -> None:
    """List them, the oldest first, each with its reason."""
    with opened(store_url, directory) as store:
        found = store.dead(connector=connector, client=client, reason=reason, limit=limit + 1)
    rows, more = found[:limit], len(found) > limit
    if as_json:
        output.print_json({"dead": [entry(dead) for dead in rows]})
        return
    cells = [
        [dead.id, dead.connector, dead.client, dead.action, dead.attempts, output.moment(dead.at)[:16]] for dead in rows
    ]
    click.echo(output.table(HEADS, cells, notes=[masked(dead.reason) for dead in rows]) if rows else "no dead letter")
    if more:
        click.echo(f"there are more than {limit}; see --limit", err=True)


def entry(dead: Dead) -> dict[str, Any]:
    """A dead letter as `list --json` has it."""
    return {
        "id": dead.id,
        "connector": dead.connector,
        "client": dead.client,
        "action": dead.action,
        "reason": dead.reason,
        "attempts": dead.attempts,
        "at": dead.at,
    }


@command.command("show")
@click.argument("dead_id", metavar="ID", type=int)
@click.option("--unmask", is_flag=True, help="Show the person's e-mail address.")
@options.as_json
@options.store
@options.project
def show(dead_id: int, unmask: bool, as_json: bool, store_url: str | None, directory: Path) -> None:
    """Show one whole: the event, what was sent, what came back, and what can be done."""
    with opened(store_url, directory) as store:
        dead = store.dead_letter(dead_id)
    if dead is None:
        raise UsageError(f"no dead letter has the id {dead_id}; see `connect dead list`")
    from engine.program import decode_event

    mask: Callable[[Any], Any] = (lambda value: value) if unmask else masked
    if as_json:
        trace = dead.trace
        more = {
            "code": dead.code,
            "event_id": dead.event_id,
            "received_at": dead.received_at,
            "event": decode_event(dead.body),
            "request": {"method": trace.method, "url": trace.url, "body": trace.request} if trace else None,
            "reply": {"status": trace.status, "body": trace.reply} if trace else None,
            "next": next_step(dead),
        }
        output.print_json(mask({**entry(dead), **more}))
    else:
        click.echo(text(dead, decode_event(dead.body), mask))


def text(dead: Dead, event: Any, mask: Callable[[Any], Any]) -> str:
    lines = [
        f"{click.style('dead letter', bold=True)} {dead.id}: {dead.connector}/{dead.client}, {dead.action}",
        f"reason:   {mask(dead.reason)}{f' [{dead.code}]' if dead.code and dead.code not in dead.reason else ''}",
        f"tries:    {dead.attempts}",
        f"received: {output.moment(dead.received_at)}",
        f"rejected: {output.moment(dead.at)}",
        f"event:    {dead.event_id}",
        output.pretty(mask(event)),
    ]
    if (trace := dead.trace) is not None:
        lines += ["", f"request:  {trace.method} {mask(trace.url)}", *([mask(trace.request)] if trace.request else [])]
        status = f"HTTP {trace.status}" if trace.status is not None else "none"
        lines += ["", f"reply:    {status}", *([mask(trace.reply)] if trace.reply else [])]
    lines += ["", f"next:     {next_step(dead)}"]
    lines += [f"          connect dead retry {dead.id}      to try it again"]
    lines += [f"          connect dead discard {dead.id}    to give it up"]
    return "\n".join(lines)


def next_step(dead: Dead) -> str:
    if dead.expected:
        return "nothing: the connector expects such rejections"
    if dead.code == "invalid":
        return "mend the connector's or the client's file, or what sends such events"
    return "mend what the reason names, in the CRM or in the client's file"


def masked(value: Any) -> Any:
    """The same with every e-mail address as `u***@example.com`."""
    if isinstance(value, str):
        return EMAIL.sub(r"\1***\2\3", value)
    if isinstance(value, list):
        return [masked(one) for one in value]
    if isinstance(value, dict):
        return {key: masked(one) for key, one in value.items()}
    return value


def chosen(given: Callable[..., Any]) -> Callable[..., Any]:
    given = click.option("--yes", is_flag=True, help="Do not ask.")(given)
    given = click.option("--all", "all_", is_flag=True, help="All of them, or all that the other options leave.")(given)
    return click.argument("ids", metavar="[ID]...", type=int, nargs=-1)(filters(given))


@command.command("retry")
@chosen
@options.store
@options.project
def retry(ids: tuple[int, ...], store_url: str | None, directory: Path, **choice: Any) -> int:
    """Put them back to be delivered, as if they had just come in."""
    with opened(store_url, directory) as store:
        back: Act = lambda part, now: store.requeue(part, now=now)  # noqa: E731
        return each(store, ids, "retry", "back to be delivered", back, **choice)


@command.command("discard")
@chosen
@click.option("--because", default="discarded by hand", metavar="TEXT", help="Kept in the log of the store.")
@options.store
@options.project
def discard(ids: tuple[int, ...], store_url: str | None, directory: Path, because: str, **choice: Any) -> int:
    """Give them up for good; they stay counted as rejected."""
    with opened(store_url, directory) as store:
        gone: Act = lambda part, now: store.discard(part, reason=because, now=now)  # noqa: E731
        return each(store, ids, "discard", "discarded", gone, **choice)


def each(
    store: Store,
    ids: tuple[int, ...],
    verb: str,
    done: str,
    act: Act,
    *,
    all_: bool,
    yes: bool,
    connector: str | None,
    client: str | None,
    reason: str | None,
) -> int:
    """Those that were named, or all that fit; the exit code is 1 if one that was named is not there."""
    if bool(ids) == all_:
        raise UsageError(f"name the ids to {verb}, or say --all" if not ids else "ids or --all, not both")
    if ids and (connector or client or reason):
        raise UsageError("--connector, --client and --reason go with --all")
    wanted = list(ids) if ids else fitting(store, connector, client, reason)
    if all_ and wanted and not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{len(wanted)} fit; say --yes, for nobody is here to be asked")
        click.confirm(f"{verb} {len(wanted)}?", abort=True)
    count = 0
    parts = [wanted[at : at + PAGE] for at in range(0, len(wanted), PAGE)]
    with output.progress(verb, len(parts)) as step:
        for part in parts:
            count += act(part, time.time())
            step(str(count))
    click.echo(f"{count} {done}")
    if ids and count < len(set(ids)):
        click.echo(f"{len(set(ids)) - count} of them are not there (any more)", err=True)
        return 1
    return 0


def fitting(store: Store, connector: str | None, client: str | None, reason: str | None) -> list[int]:
    found: list[int] = []
    while page := store.dead(
        connector=connector, client=client, reason=reason, limit=PAGE, after=found[-1] if found else 0
    ):
        found += [dead.id for dead in page]
    return found


@contextmanager
def opened(store_url: str | None, directory: Path) -> Iterator[Store]:
    store = options.open_shared_store(store_url, options.open_project(directory))
    try:
        yield store
    finally:
        store.close()
