"""Dead letters that are changed: their event mended, tried again, or given up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import letters, options, output
from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.cli.letters import Place, Short

LOOK_S = 1.0  # how often it is asked what became of those that were put back


# --- edit ---


@click.command("edit")
@click.argument("dead_id", metavar="ID", type=int)
@click.option(
    "--set", "sets", metavar="PATH=VALUE", multiple=True, help="A new value; JSON where it is JSON, else text."
)
@click.option("--unset", "unsets", metavar="PATH", multiple=True, help="Take this field out.")
@click.option(
    "--event", "file", metavar="FILE", type=click.Path(path_type=Path), help="The whole event anew; - is stdin."
)
@options.store
@options.project
def edit(
    dead_id: int,
    sets: tuple[str, ...],
    unsets: tuple[str, ...],
    file: Path | None,
    store_url: str | None,
    directory: Path,
) -> int:
    """
    Change the event of one; what is tried again is the changed event.

    Without --set, --unset or --event the event opens in $EDITOR. It has to be one that intake would take.
    """
    from engine.program import decode_event
    from engine.upkeep.dead_letters import differing

    if file is not None and (sets or unsets):
        raise UsageError("--event, or --set and --unset, not both")
    with letters.opened(store_url, directory) as place:
        dead = place.letter(dead_id)
        old = decode_event(dead.body)
        if not (file or sets or unsets):
            place.audit.line("dead reveal", id=dead_id, connector=dead.connector, client=dead.client)
        new = edited(old, sets, unsets, file)
        if new is None or (fields := differing(old, new)) == []:
            click.echo("nothing is changed")
            return 0
        mended = place.desk.mended(dead, new, time.time())
        lane = {"connector": dead.connector, "client": dead.client}
        place.audit.line("dead edit", id=dead_id, **lane, fields=fields)
        if not place.store.amend(dead_id, body=mended.body, key=mended.key):
            raise UsageError(f"dead letter {dead_id} is not there any more")
    click.echo(f"dead letter {dead_id}: changed {', '.join(fields)}; see `connect dead preview {dead_id}`")
    if not mended.wanted:
        click.echo(f"such an event would not go to {dead.action} if it came in now; a retry sends it there", err=True)
    return 0


def edited(old: dict[str, Any], sets: Sequence[str], unsets: Sequence[str], file: Path | None) -> Any:
    """The event as it is wanted; None where the editor was left without saving."""
    from engine.upkeep.dead_letters import changed, one_event, path_of, value_of

    if file is not None:
        return one_event(options.read_events(file))
    event: Any = old
    for assignment in sets:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: write it as product.price=12.50")
        event = changed(event, path_of(path), value_of(value))
    for path in unsets:
        event = changed(event, path_of(path), None, remove=True)
    if sets or unsets:
        return event
    written = click.edit(f"{output.pretty(old)}\n", extension=".json")
    return None if written is None else one_event(written.encode())


# --- retry ---


@click.command("retry")
@letters.chosen
@click.option("--wait", is_flag=True, help="Until it is known what became of them; a process has to deliver.")
@click.option(
    "--timeout", default=600, show_default=True, type=click.IntRange(1), metavar="SECONDS", help="For --wait."
)
@options.as_json
@options.store
@options.project
def retry(
    ids: tuple[int, ...],
    all_: bool,
    yes: bool,
    wait: bool,
    timeout: int,
    as_json: bool,
    store_url: str | None,
    directory: Path,
    **given: Any,
) -> int:
    """
    Put them back to be delivered, as if they had just come in.

    They go through their lane, at the pace of its limits. What was skipped because they were rejected comes with them.
    """
    from engine.telemetry.audit import ids as audited

    with letters.opened(store_url, directory) as place:
        chosen, missing = letters.selected(place, ids, "retry", all_=all_, yes=yes, given=given)
        place.audit.line("dead retry", **audited([one.id for one in chosen]), **letters.which(given))
        count = in_parts(chosen, "retry", lambda part: place.store.requeue(part, now=time.time()))
        held = paused(place, chosen)
        became = follow(place, chosen, timeout) if wait and count else None
    missing += len(chosen) - count
    if as_json:
        told = {"retried": count, "missing": missing}
        output.print_json(told if became is None else {**told, **became})
    else:
        click.echo(f"{count} back to be delivered")
        if became is not None:
            click.echo(", ".join(f"{number} {word}" for word, number in became.items() if number) or "0 done")
    for lane, reason in held:
        click.echo(f"{lane} is paused: {reason}; they wait until it goes on", err=True)
    return 1 if not_there(missing) or (became is not None and became["done"] < count) else 0


def paused(place: Place, chosen: Sequence[Short]) -> list[tuple[str, str]]:
    lanes = {(lane.connector, lane.client): lane for lane in place.store.lanes() if lane.state == "paused"}
    ours = sorted({(one.connector, one.client) for one in chosen} & lanes.keys())
    return [("/".join(lane), lanes[lane].reason or "") for lane in ours]


def follow(place: Place, chosen: Sequence[Short], timeout_s: float) -> dict[str, int]:
    """What became of those that were put back, when all have ended or the time is over."""
    ids = [one.delivery_id for one in chosen]
    until = time.monotonic() + timeout_s
    done = 0
    with output.progress("deliver", len(ids)) as step:
        while True:
            where = list(place.store.whereabouts(ids).values())
            waiting = where.count("waiting")
            for _ in range(len(ids) - waiting - done):
                step(f"{waiting} wait")
            done = max(done, len(ids) - waiting)
            if not waiting or time.monotonic() >= until:
                dead = where.count("dead")
                return {"done": len(ids) - waiting - dead, "rejected": dead, "waiting": waiting}
            time.sleep(min(LOOK_S, max(until - time.monotonic(), 0.01)))


# --- discard ---


@click.command("discard")
@letters.chosen
@click.option("--why", required=True, metavar="TEXT", help="Kept in the audit.")
@options.as_json
@options.store
@options.project
def discard(
    ids: tuple[int, ...],
    all_: bool,
    yes: bool,
    why: str,
    as_json: bool,
    store_url: str | None,
    directory: Path,
    **given: Any,
) -> int:
    """Give them up for good; they stay counted as rejected."""
    from engine.telemetry.audit import ids as audited

    with letters.opened(store_url, directory) as place:
        chosen, missing = letters.selected(place, ids, "discard", all_=all_, yes=yes, given=given)
        place.audit.line("dead discard", **audited([one.id for one in chosen]), **letters.which(given), why=why)
        count = in_parts(chosen, "discard", lambda part: place.store.discard(part, reason=why, now=time.time()))
    missing += len(chosen) - count
    if as_json:
        output.print_json({"discarded": count, "missing": missing})
    else:
        click.echo(f"{count} discarded")
    return 1 if not_there(missing) else 0


def in_parts(chosen: Sequence[Short], verb: str, act: Any) -> int:
    """So that nobody who writes to the store waits long."""
    count = 0
    parts = [chosen[at : at + letters.PAGE] for at in range(0, len(chosen), letters.PAGE)]
    with output.progress(verb, len(parts)) as step:
        for part in parts:
            count += act([one.id for one in part])
            step(str(count))
    return count


def not_there(missing: int) -> bool:
    if missing:
        click.echo(f"{missing} of them are not there (any more)", err=True)
    return missing > 0
