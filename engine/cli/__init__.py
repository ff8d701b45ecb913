"""
The command `connect`: a file for each command, none of which is imported before it is asked for.

The list of the commands is printed without click, whose import takes longer than all the rest of it.
Exit codes: 0 done, 1 findings or failures, 2 wrong use, 3 our fault. A command returns its code, or None for 0.
"""

from __future__ import annotations

import io
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


def main(args: list[str] | None = None) -> None:
    """Run a command and end the process with its code; CONNECT_TRACE=1 shows where an unexpected error came from."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """The exit code of a command; errors are told on stderr, in a line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to fail
    args = sys.argv[1:] if args is None else args
    try:
        if args in (["--help"], ["-h"]) and "_CONNECT_COMPLETE" not in os.environ and columns() >= WIDE:
            print(overview())
            returned: object = 0
        else:
            from engine.cli.commands import called

            returned = called(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return returned if isinstance(returned, int) else 0
    except KeyboardInterrupt:
        _tell("\nstopped")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("CONNECT_TRACE"):
            raise
        from engine.errors import ConnectError

        if isinstance(error, ConnectError):
            _tell(f"connect: {error}")
            return error.exit_code
        said = " ".join(str(error).split())[:200]
        what = f"{type(error).__name__}: {said}" if said else type(error).__name__
        _tell(f"connect: this is our fault: {what} (CONNECT_TRACE=1 shows where)")
        return 3


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


def _tell(text: str) -> None:
    if sys.stderr is not None:
        print(text, file=sys.stderr)
