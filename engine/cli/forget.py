"""Erase a person from the store: what waits, dead letters, half-done batches, remembered ids, caches."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, output
from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.privacy.forgetting import Erased

WORDS = {
    "waiting": "deliveries that waited (they count as skipped)",
    "dead": "dead letters (they stay counted as rejected)",
    "dedupe": "remembered ids",
    "progress": "half-done batches that begin anew",
    "traces": "dead letters of others that named them (request and reply are gone)",
    "limits": "names of limits",
    "trail": "entries of what is kept about what became of events",
}


@click.command("forget")
@click.argument("email", required=False)
@click.option("--key", metavar="TEXT", help="Instead of an address: the key of their records.")
@click.option("--client", metavar="NAME", help="Only in what is this client's; otherwise in all.")
@click.option("--mentions", is_flag=True, help="Also events of others that name the address inside a longer text.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option(
    "--no-scrub", is_flag=True, help="Do not write the store's file anew; deleted bytes stay in it for a time."
)
@options.as_json
@options.store
@options.project
def command(
    email: str | None,
    key: str | None,
    client: str | None,
    mentions: bool,
    dry_run: bool,
    no_scrub: bool,
    as_json: bool,
    store_url: str | None,
    directory: Path,
) -> int:
    """
    Erase a person from the store, and say what was found.

    The address is looked for as the key and as any text in an event, in whatever case. What was delivered is the
    CRM's, and is erased there.
    """
    if (email is None) == (key is None):
        raise UsageError("name the person by an address or by --key")
    if key is not None and mentions:
        raise UsageError("--mentions goes with an address")
    subject = (email if email is not None else key or "").strip()
    if len(subject) < 2:
        raise UsageError("that is too short for a person")
    from engine.clock import SystemClock
    from engine.privacy.forgetting import Erased, erase
    from engine.privacy.people import digest

    project = options.open_project(directory)
    if client is not None and client not in project.all()[1]:
        project.client(client)  # says what is wrong with it
    store = options.open_shared_store(store_url, project)
    look: dict[str, Any] = {"by_key": key is not None, "mentions": mentions, "client": client}
    try:
        who = {"key": digest(subject)} if key is not None else {"person": subject}
        options.audit(project).line("forget", **who, client=client, mentions=mentions or None, dry_run=dry_run or None)
        trail = options.open_trail(project, store)
        if dry_run:
            found = Erased(store.forget(subject, now=time.time(), dry=True, **look), [])
            if trail is not None:
                found = found.with_trail(trail, subject, by_key=key is not None, client=client, dry=True)
        else:
            found = erase(store, subject, clock=SystemClock(), waiting_for=waiting_for, trail=trail, **look)
        scrubbed = store.scrub() if not dry_run and not no_scrub else None
        if trail is not None:
            trail.close()
    finally:
        store.close()
    if as_json:
        lanes = [{"connector": connector, "client": client} for connector, client in found.under_way]
        unread = {"trail": None, "trail_unread": found.unread} if found.unread else {}
        output.print_json({**found.counts, "under_way": lanes, "scrubbed": scrubbed, **unread})
    else:
        click.echo(text(found, dry_run=dry_run))
    return remains(found, scrubbed, dry_run=dry_run)


def waiting_for(lanes: int) -> None:
    import sys

    if sys.stderr.isatty():
        told = f"{lanes} lanes are under way; waiting for them" if lanes else ""
        click.echo(f"\r{told:<60}\r", nl=False, err=True)


def text(found: Erased, *, dry_run: bool) -> str:
    lines = [f"{count:>6}  {WORDS[name]}" for name, count in found.counts.items() if name in WORDS and count]
    if not lines:
        return "nothing of them is in the store"
    return "\n".join(["would be erased:" if dry_run else "erased:", *lines])


def remains(found: Erased, scrubbed: bool | None, *, dry_run: bool) -> int:
    """What is not erased, on stderr; 1 where that can be helped by running it again."""
    if found.counts["mentioned"]:
        click.echo(
            f"{found.counts['mentioned']} events of others name the address inside a longer text; "
            "--mentions takes them too",
            err=True,
        )
    if found.under_way:
        lanes = ", ".join("/".join(lane) for lane in found.under_way)
        click.echo(f"{lanes} did not come to the end of its turn; run this again in a minute", err=True)
    if scrubbed is False:
        click.echo("another process reads the store without a pause; run this again, for bytes to be gone", err=True)
    if found.unread:
        left = "not counted" if dry_run else "still there"
        click.echo(
            f"what became of their events is {left}: {found.unread}; then run this again. "
            "Without that it goes when its time (`trail: {keep: …}`) is over",
            err=True,
        )
    return 1 if found.unread or (not dry_run and (found.under_way or scrubbed is False)) else 0
