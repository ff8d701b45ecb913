"""Did an event arrive? Its way, found by its id; or which events there were of a person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from engine.trail.entries import Exchange, Followed, Found
    from engine.trail.ways import Now, Way

MOST = 50  # events that are listed
LEAST = 10  # characters that are left of the name of a client, or an action
WORDS = {
    "retry": "failed, tried again",
    "throttle": "held back by a limit",
    "defer": "put off",
    "pause": "paused",
    "later": "put off",
    "waits": "waits",
    "stands": "waits, and its lane is paused",
    "dead": "dead letter",
    "unwanted": "accepted, no action wanted it",
    "unknown": "not known: it does not wait any more, and how it ended was not written down",
}

SHORT = {"retry": "failed", "throttle": "held back", "defer": "put off", "later": "put off", "pause": "paused"}


@click.command("event")
@click.argument("text", metavar="ID|EMAIL")
@options.lane_filters
@options.as_json
@options.store
@options.project
def command(
    text: str, client: str | None, connector: str | None, as_json: bool, store_url: str | None, directory: Path
) -> int:
    """
    Did an event arrive? Each of its attempts, with times, request and answer.

    Found by its id. Where there is none of that id, events whose id begins so, or that are of a person with that
    address, are listed. The exit code is 1 where nothing is known.
    """
    from engine.privacy.people import digest
    from engine.trail.entries import Query
    from engine.trail.ways import bodies, found, way_of
    from engine.upkeep.dead_letters import Desk

    project = options.open_project(directory)
    store = options.open_shared_store(store_url, project)
    trail = None
    try:
        trail = options.open_trail(project, store)
        options.audit(project).line("event show", connector=connector, client=client, text=digest(text))
        way = way_of(store, trail, text, connector=connector, client=client)
        rows: list[Found] = []
        unread = way.unread
        if not way.is_known and not unread:
            rows, _, unread = found(trail, Query(connector=connector, client=client), text, MOST)
        desk = Desk(project)
        shown = bodies(way, desk) if way.is_known else []
        missing = trail.state().missing if trail is not None else 0
    finally:
        if trail is not None:
            trail.keeper.close()
        store.close()
    if as_json:
        events = [{"connector": whose, "client": who, "event": event} for whose, who, event in shown]
        output.print_json(
            {**as_data(way), "event": events, "found": [row(each) for each in rows], "missing": missing}
            | {"unread": unread or None}
        )
    else:
        click.echo(told(way) if way.is_known else listed(rows, unread))
        remarks(way, missing, unread, has_trail=trail is not None)
    return 0 if way.is_known or rows else 1


def told(way: Way) -> str:
    from engine.trail.ways import now_at

    lines = [click.style(output.shortened(way.event_id, output.width()), bold=True)]
    for each in way.accepted:
        of, wanted = each.found, ", ".join(each.found.action.split())
        lines.append(f"  accepted {output.moment(of.received_at)[:19]}")
        lines.append(below(f"{of.connector}/{of.client}: {wanted or 'no action wanted it'}"))
    for one in now_at(way):
        said = state(one)
        lines.append(below(f"{output.shortened(lane(one), max(output.width() - 4 - len(said), LEAST))}: {said}"))
        if one.letter is not None:
            lines.append(f"  see `connect dead show {one.letter}`")
    for each in way.attempts:
        lines += ["", *attempt(each)]
    return "\n".join(lines)


def lane(one: Now | Found) -> str:
    return f"{one.connector}/{one.client} {one.action}"


def state(one: Now) -> str:
    said = WORDS.get(one.outcome, one.outcome)
    if one.letter is not None:
        said += f" {one.letter}"
    if one.outcome == "waits" and one.due_at == float("inf"):
        said += " for another action"
    return f"{said} ({'accepted ' if one.outcome in ('waits', 'stands') else ''}{output.moment(one.at)[:19]})"


def attempt(each: Followed) -> list[str]:
    one, stages = each.found, each.stages
    said = output.coloured(one.outcome) if one.outcome not in WORDS else WORDS[one.outcome]
    lines = [f"{output.moment(one.at)}  {said}{f', try {each.tries}' if each.tries > 1 else ''}", below(lane(one))]
    if one.reason or one.code:
        lines.append(below(one.reason if one.code in one.reason else f"{one.reason} {one.code}".strip()))
    times = [("accepted", one.received_at), ("taken up", stages.began)]
    times += [(name, at) for name, at in (("looked up", stages.looked_up_at), ("mapped", stages.mapped_at)) if at]
    lines += [f"  {name:<10} {output.moment(at)}" for name, at in times]
    lines += [below(exchange(sent)) for sent in (*stages.looked_up, *stages.sent)]
    if stages.more:
        lines.append(f"  and {stages.more} more requests")
    if each.together > 1:
        lines.append(f"  in a batch, with {each.together - 1} others that ended alike")
    if each.trace is not None:
        trace = each.trace
        lines.append(below(f"> {trace.method} {trace.url}"))
        lines += [below(f"> {trace.request}")] if trace.request else []
        lines.append(f"  < {trace.status or 'no answer'}")
        lines += [below(f"< {trace.reply}")] if trace.reply else []
    return lines


def below(text: str) -> str:
    return f"  {output.shortened(text, output.width() - 2)}"


def exchange(sent: Exchange) -> str:
    took = f"{(sent.ended - sent.began) * 1000:.0f} ms"
    return f"{sent.action or sent.step}: {sent.method} {sent.host} {sent.status or 'no answer'} in {took}"


def listed(rows: list[Found], unread: str) -> str:
    if not rows:
        return "neither waits such an event, nor is it a dead letter" if unread else "nothing is known of such an event"
    heads = ("at", "event", "client", "action", "outcome")
    outcomes = [SHORT.get(each.outcome, each.outcome) for each in rows]
    # A time and an outcome are of no use in part, and an id of little: client and action give way first.
    named = [[each.event_id, each.client, each.action] for each in rows]
    widths = [max(len(head), *(len(row[at]) for row in named)) for at, head in enumerate(heads[1:4])]
    room = output.width() - 19 - max(len("outcome"), *map(len, outcomes)) - 2 * (len(heads) - 1)
    while sum(widths) > room:
        which = widths.index(max(widths[1:]), 1)
        widths[which if widths[which] > LEAST else 0] -= 1
    cells = [
        [output.moment(each.at)[:19], *map(output.shortened, texts, widths), outcome]
        for each, texts, outcome in zip(rows, named, outcomes, strict=True)
    ]
    return output.table(heads, cells)


def remarks(way: Way, missing: int, unread: str, *, has_trail: bool) -> None:
    """What is not known, on stderr."""
    if unread:
        says = f"what became of events can't be read; the store has what waits and dead letters: {unread}"
        click.echo(output.plain(says), err=True)
    if not has_trail:
        click.echo("what becomes of events is not kept here; the store has what waits and dead letters", err=True)
    if missing:
        click.echo(f"{missing} entries are missing in what is kept, for too much came at once", err=True)
    if way.unseen:
        click.echo(f"{way.unseen} waiting deliveries were not looked through", err=True)
    if way.unasked:
        click.echo(f"{way.unasked} lanes with dead letters were not asked; give --connector and --client", err=True)


def as_data(way: Way) -> dict[str, Any]:
    from engine.trail.ways import now_at

    now = [
        {"connector": one.connector, "client": one.client, "action": one.action, "outcome": one.outcome, "at": one.at}
        | {"reason": one.reason, "due_at": None if one.due_at == float("inf") else one.due_at, "letter": one.letter}
        for one in now_at(way)
    ]
    attempts = [
        row(each.found)
        | {"tries": each.tries, "together": each.together, "stages": each.stages, "exchange": each.trace}
        for each in way.attempts
    ]
    accepted = [
        {"connector": one.connector, "client": one.client, "at": one.received_at, "actions": one.action.split()}
        for one in (each.found for each in way.accepted)
    ]
    return {
        "event_id": way.event_id,
        "accepted": accepted,
        "now": now,
        "attempts": attempts,
        "unseen": way.unseen,
        "unasked": way.unasked,
    }


def row(one: Found) -> dict[str, Any]:
    return {name: value for name, value in one._asdict().items() if name != "place"}
