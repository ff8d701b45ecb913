"""What `connect --help` says, printed without click: importing it takes longer than all the rest of that."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as a type checker wants it, without importing `typing`
if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT = "Carry customer events into CRMs that are described in YAML."

# name -> (its module here, what `connect --help` says of it)
COMMANDS = {
    "serve": ("serve", "Take events in and deliver them."),
    "deliver": ("deliver", "Deliver what is due, and end."),
    "validate": ("validate", "Check connectors, clients and examples."),
    "test": ("test", "Run the connectors' examples, offline."),
    "preview": ("preview", "Show the requests that an event would cause."),
    "plan": ("plan", "Show what a change does to what is sent."),
    "send": ("send", "Deliver one event now, for real."),
    "check": ("check", "Can we log in for a client?"),
    "login": ("login", "Let a person agree once, for a vendor that asks for it."),
    "status": ("status", "What waits, for whom, and why."),
    "event": ("event", "Did an event arrive? Its attempts, with times."),
    "dead": ("dead", "Events that were rejected: look, mend, retry, discard."),
    "alert": ("alert", "Who is told of trouble: try it, and see what stands."),
    "forget": ("forget", "Erase a person from the store."),
    "pause": ("pause", "Hold a client's deliveries."),
    "resume": ("resume", "Let a client's deliveries go on."),
    "store": ("store", "Check the store, bring it up to date, copy it into another."),
    "new": ("new", "Write a new connector."),
    "sandbox": ("sandbox", "Simulated CRMs on a port of this machine."),
    "demo": ("demo", "The whole thing on sample traffic."),
    "deploy": ("deploy", "Write the template that puts the project into AWS."),
    "docs": ("docs", "Write the pages of connectors."),
    "tag": ("tag", "Write the tag that sends a shop's events."),
    "schema": ("schema", "Print a JSON Schema, for editors."),
    "key": ("key", "Print a new key for CONNECT_KEY."),
}
OPTIONS = {"--version": "Show the version.", "-h, --help": "Show this message and exit."}
WIDE = 80  # columns; in fewer some lines would have to be broken, and click does that


def overview() -> str:
    """What `connect --help` says, letter for letter what click would say in a terminal that is wide enough."""
    return "\n".join(
        [
            "Usage: connect [OPTIONS] COMMAND [ARGS]...",
            f"\n  {ABOUT}\n\nOptions:",
            *_columns(list(OPTIONS.items())),
            "\nCommands:",
            *_columns([(name, says) for name, (_, says) in COMMANDS.items()]),
        ]
    )


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    wide = max(len(name) for name, _ in rows)
    return [f"  {name:<{wide}}  {says}" for name, says in rows]


def columns() -> int:
    """How wide the terminal is, as `shutil.get_terminal_size` says, which takes longer to import."""
    try:
        wide = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        wide = 0
    if wide <= 0:
        try:
            wide = os.get_terminal_size(sys.__stdout__.fileno()).columns if sys.__stdout__ is not None else 0
        except (OSError, ValueError):
            wide = 0
    return wide or WIDE
