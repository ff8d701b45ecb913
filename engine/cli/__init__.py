"""
The command `connect`: a file for each command, none of which is imported before it is asked for.

Exit codes: 0 done, 1 findings or failures, 2 wrong use, 3 our fault. A command returns its code, or None for 0.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
from typing import Any

import click

from engine.errors import ConnectError

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


class Commands(click.Group):
    """Commands that are imported when they run; the list of them needs none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [name for name, (module, _) in COMMANDS.items() if importlib.util.find_spec(f"{__name__}.{module}")]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[name][0]}")
        command = getattr(module, "command", None) or getattr(module, name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0][:1] != "-" and args[0] not in COMMANDS:
            from engine.spec.findings import did_you_mean

            hint = did_you_mean(args[0], COMMANDS) or "see connect --help"
            raise click.UsageError(f"there is no command {args[0]}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"connect {version('daxgo-connect')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def connect() -> None:
    """Carry customer events into CRMs that are described in YAML."""


def main(args: list[str] | None = None) -> None:
    """Run a command and end the process with its code; CONNECT_TRACE=1 shows where an unexpected error came from."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """The exit code of a command; errors are told on stderr, in a line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to fail
    try:
        returned = _called(sys.argv[1:] if args is None else args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return returned if isinstance(returned, int) else 0
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nstopped", err=True)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ConnectError as error:
        if os.environ.get("CONNECT_TRACE"):
            raise
        click.echo(f"connect: {error}", err=True)
        return error.exit_code
    except Exception as error:
        if os.environ.get("CONNECT_TRACE"):
            raise
        said = " ".join(str(error).split())[:200]
        what = f"{type(error).__name__}: {said}" if said else type(error).__name__
        click.echo(f"connect: this is our fault: {what} (CONNECT_TRACE=1 shows where)", err=True)
        return 3


def _called(args: list[str]) -> Any:
    """What the command returns; unlike click's own `main`, it lets every error through to `run`."""
    if asked := os.environ.get("_CONNECT_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(connect, {}, "connect", "_CONNECT_COMPLETE", asked)
    try:
        with connect.make_context("connect", list(args)) as context:
            return connect.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
