"""Dead letters: events that were rejected, kept with what was sent and what came back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import dead_changes, dead_files, letters, options, output
from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.records import Dead

HEADS = ("id", "connector", "client", "action", "tries", "at")
GROUPS = ("reason", "code", "client", "connector", "action")


@click.group("dead")
def command() -> None:
    """Events that were rejected: look at them, mend them, try them again, or discard them."""


# --- list ---


@command.command("list")
@letters.filters
@click.option("--by", type=click.Choice(GROUPS), help="How many of each instead, the most first.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Not more than so many.")
@click.option("--after", default=0, metavar="ID", type=int, help="Go on behind this one.")
@options.as_json
@options.store
@options.project
def list_(
    by: str | None,
    limit: int,
    after: int,
    as_json: bool,
    store_url: str | None,
    directory: Path,
    **given: Any,
) -> None:
    """List them, the oldest first, each with its reason."""
    from engine.upkeep import dead_letters

    wanted = letters.which(given)
    with letters.opened(store_url, directory) as place:
        place.audit.line("dead list", **wanted, by=by)
        if by is not None:
            counts = dead_letters.alike(place.store.count_dead(by, **wanted))
        else:
            found = place.store.dead(limit=limit + 1, after=after, **wanted)
            reasons = [place.desk.personal(dead.connector).text(dead.reason, dead.body) for dead in found]
    if by is not None:
        show_counts(by, counts, as_json=as_json)
        return
    rows, more = found[:limit], len(found) > limit
    if as_json:
        listed = [dead_letters.entry(dead, reason) for dead, reason in zip(rows, reasons, strict=False)]
        output.print_json({"dead": listed, **({"next": rows[-1].id} if more else {})})
        return
    cells = [
        [dead.id, dead.connector, dead.client, dead.action, dead.attempts, letters.moment_text(dead.at)]
        for dead in rows
    ]
    click.echo(output.table(HEADS, cells, notes=reasons[: len(rows)]) if rows else "no dead letter")
    if more:
        click.echo(f"there are more than {limit}; see --limit, or go on with --after {rows[-1].id}", err=True)


def show_counts(by: str, counts: list[tuple[str, int]], *, as_json: bool) -> None:
    if as_json:
        output.print_json({"counts": [{by: text, "count": count} for text, count in counts]})
    elif counts:
        click.echo(output.table(("count", by), [[count, text or "-"] for text, count in counts]))
    else:
        click.echo("no dead letter")


# --- show ---


@command.command("show")
@click.argument("dead_id", metavar="ID", type=int)
@click.option("--reveal", is_flag=True, help="Show what is personal in it, too.")
@options.as_json
@options.store
@options.project
def show(dead_id: int, reveal: bool, as_json: bool, store_url: str | None, directory: Path) -> None:
    """Show one whole: event, request, reply, the tries before, and what can be done; personal fields as ***."""
    from engine.upkeep import dead_letters

    with letters.opened(store_url, directory) as place:
        dead = place.letter(dead_id)
        place.audit.line("dead reveal" if reveal else "dead show", id=dead_id, **lane(dead))
        shown = dead_letters.parts(dead, None if reveal else place.desk.personal(dead.connector))
    if as_json:
        output.print_json(shown)
    else:
        click.echo(text(shown))


def lane(dead: Dead) -> dict[str, str]:
    return {"connector": dead.connector, "client": dead.client}


def text(shown: dict[str, Any]) -> str:
    code, reason, number = output.plain(shown["code"]), output.plain(shown["reason"]), shown["id"]
    lines = [
        f"{click.style('dead letter', bold=True)} {number}: {shown['connector']}/{shown['client']}, {shown['action']}",
        f"reason:   {reason}{f' [{code}]' if code and code not in reason else ''}",
        f"tries:    {shown['attempts']}",
        *(f"          {output.plain(tried(one))}" for one in shown["history"]),
        f"received: {output.moment(shown['received_at'])}",
        f"rejected: {output.moment(shown['at'])}",
        f"event:    {output.plain(shown['event_id'])}",
        output.pretty(shown["event"]),
    ]
    if (request := shown["request"]) is not None:
        lines += ["", f"request:  {request['method']} {request['url']}"]
        lines += filter(None, [output.plain(request["body"])])
        status = shown["reply"]["status"]
        lines += ["", f"reply:    {f'HTTP {status}' if status is not None else 'none'}"]
        lines += filter(None, [output.plain(shown["reply"]["body"])])
    lines += ["", f"next:     {shown['next']}"]
    steps = (
        ("edit", "to mend the event"),
        ("preview", "to see what would be sent"),
        ("retry", "to try it again"),
        ("discard", "to give it up"),
    )
    width = len(f"connect dead preview {number}")
    lines += [f"          {f'connect dead {verb} {number}'.ljust(width)}  {what}" for verb, what in steps]
    return "\n".join(lines)


def tried(one: dict[str, Any]) -> str:
    if one["times"] == 1:
        return f"{letters.moment_text(one['at'])}  {one['reason']}"
    return f"{letters.moment_text(one['until'])}  {one['reason']} ({one['times']} times)"


# --- preview ---


@command.command("preview")
@click.argument("dead_id", metavar="ID", type=int)
@click.option("--reveal", is_flag=True, help="Show what is personal in it, too.")
@options.as_json
@options.store
@options.project
def preview(dead_id: int, reveal: bool, as_json: bool, store_url: str | None, directory: Path) -> int:
    """
    Show what a retry would send with the files as they are now; nothing is sent.

    The connector's sandbox answers, as it does for `connect preview`.
    """
    from engine.authoring.preview import preview as previewed
    from engine.cli.preview import text as preview_text

    with letters.opened(store_url, directory) as place:
        dead = place.letter(dead_id)
        place.audit.line("dead reveal" if reveal else "dead preview", id=dead_id, **lane(dead))
        connector, client = place.project.connector(dead.connector), place.project.client(dead.client)
        if dead.action not in place.desk.program(dead.connector, dead.client).actions:
            raise UsageError(f"{dead.connector} has no action {dead.action} any more")
        shown = previewed(connector, client, dead.body, now=time.time(), letter=dead)
        skipped = [one for one in shown.skipped if one["action"] == dead.action]
        shown = shown._replace(skipped=skipped)
        if not reveal:
            personal = place.desk.personal(dead.connector)
            shown = shown._replace(
                requests=[personal.anywhere(one, dead.body) for one in shown.requests],
                skipped=[personal.anywhere(one, dead.body) for one in skipped],
            )
    if as_json:
        output.print_json({"requests": shown.requests, "skipped": shown.skipped})
    else:
        click.echo(preview_text(shown, simulated=connector.sandbox is not None))
    return 1 if shown.paused else 0


for other in (
    dead_changes.edit,
    dead_changes.retry,
    dead_changes.discard,
    dead_files.export,
    dead_files.import_,
):
    command.add_command(other)
