"""The group of all commands, each imported when it runs; the list of them needs none."""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

from engine.cli.overview import ABOUT, COMMANDS, OPTIONS


class Commands(click.Group):
    """Commands that are imported when they run; the list of them needs none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        del ctx
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"engine.cli.{COMMANDS[name][0]}")
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


@click.group(
    cls=Commands, help=ABOUT, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help=OPTIONS["--version"]
)
def connect() -> None:
    pass


def called(args: list[str]) -> Any:
    """What the command returns; unlike click's own `main`, it lets every error through but wrong use."""
    if asked := os.environ.get("_CONNECT_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(connect, {}, "connect", "_CONNECT_COMPLETE", asked)
    try:
        with connect.make_context("connect", list(args)) as context:
            return connect.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort as abort:
        raise KeyboardInterrupt from abort
