"""Dead letters as a file: one JSON object a line, out of one store and into another, or back."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from engine.cli import letters, options, output
from engine.errors import ConnectError, UsageError

if TYPE_CHECKING:
    from engine.records import Dead

SHOWN = 20  # refused lines that are named


@click.command("export")
@letters.filters
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="A new file; - is stdout.")
@options.store
@options.project
def export(out: Path, store_url: str | None, directory: Path, **given: Any) -> None:
    """Write them to a file, a line of JSON each, whole; they stay where they are."""
    from engine.upkeep.dead_letters import line_of

    wanted = letters.which(given)
    with letters.opened(store_url, directory) as place, ExitStack() as stack:
        place.audit.line("dead export", out=str(out), **wanted)
        file: BinaryIO = sys.stdout.buffer if str(out) == "-" else stack.enter_context(new_file(out))
        count = 0
        for dead in place.every(wanted):
            file.write(line_of(dead) + b"\n")
            count += 1
    click.echo(f"{count} written{'' if str(out) == '-' else f' to {out}, with all that is personal in them'}", err=True)


def new_file(path: Path) -> BinaryIO:
    """Only its owner may read it."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise UsageError(f"{path} is there already; name a new file") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


@click.command("import")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@options.as_json
@options.store
@options.project
def import_(file: Path, as_json: bool, store_url: str | None, directory: Path) -> int:
    """
    Take in the dead letters of a file that `connect dead export` wrote.

    Each is checked: its connector, client and action, and the event as intake would. One that is here already, waiting
    or dead, is not taken in again.
    """
    taken, here, lines = 0, 0, 0
    refused: list[tuple[int, str]] = []
    with letters.opened(store_url, directory) as place:
        from engine.stores.memory import MemoryStore

        store = place.store
        if isinstance(store, MemoryStore):  # nobody has written to it yet
            store = options.open_store(store_url, place.project)
        place.audit.line("dead import", file=str(file))
        try:
            part: list[Dead] = []
            for lines, line in enumerate(options.read_events(file).splitlines(), 1):
                if not line.strip():
                    continue
                try:
                    part.append(place.desk.dead_from(line, time.time()))
                except ConnectError as error:
                    refused.append((lines, str(error)))
                if len(part) == letters.PAGE:
                    admitted, part = store.admit(part), []
                    taken, here = taken + sum(admitted), here + len(admitted) - sum(admitted)
            admitted = store.admit(part)
            taken, here = taken + sum(admitted), here + len(admitted) - sum(admitted)
        finally:
            if store is not place.store:
                store.close()
    if as_json:
        faults = [{"line": number, "why": why} for number, why in refused]
        output.print_json({"imported": taken, "here": here, "refused": faults})
    else:
        click.echo(f"{taken} imported, {here} here already, {len(refused)} refused")
        for number, why in refused[:SHOWN]:
            click.echo(f"{file}:{number}: {why}", err=True)
        if len(refused) > SHOWN:
            click.echo(f"and {len(refused) - SHOWN} more", err=True)
    return 1 if refused else 0
