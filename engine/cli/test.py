"""Run the connectors' examples: offline, on a virtual clock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from engine.spec.project import Loaded, Project
    from engine.spec.types import Connector, Example


class Ran(NamedTuple):
    connector: str
    name: str
    passed: bool
    message: str
    place: str


@click.command("test")
@click.argument("names", metavar="[CONNECTOR]...", nargs=-1)
@click.option("-k", "part", default="", metavar="TEXT", help="Only examples with this in their name.")
@options.as_json
@options.project
def command(names: tuple[str, ...], part: str, as_json: bool, directory: Path) -> int:
    """
    Run the examples of all connectors, or of those that are named.

    Each goes through the real engine, offline and on a virtual clock: no account and no waiting. For one that fails,
    the first difference is shown, and where it stands.
    """
    project = options.open_project(directory)
    wanted = [(loaded, at, example) for loaded in usable(project, names) for at, example in examples(loaded, part)]
    ran = []
    with output.progress("examples", len(wanted)) as step:
        for loaded, at, example in wanted:
            ran.append(run(loaded, at, example))
            step(example.name)
    failed = [one for one in ran if not one.passed]
    if as_json:
        keys = ("connector", "name", "passed", "message")
        output.print_json({"examples": [dict(zip(keys, one, strict=False)) for one in ran]})
    else:
        for one in failed:
            click.echo(
                output.wrapped(f"{one.place}: failed {one.name}", below="  ").replace(
                    "failed", output.coloured("failed"), 1
                )
            )
            click.echo(output.wrapped(f"  {one.message}", below="  "))
        click.echo(f"{len(ran) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def usable(project: Project, names: tuple[str, ...]) -> list[Loaded[Connector]]:
    """The connectors' files; UsageError for a name that is none, SpecErrors for a file that can't be used."""
    found = []
    for name in names or project.connector_files():
        project.connector(name)
        found.append(project.loaded_connector(name))
    return found


def examples(loaded: Loaded[Connector], part: str) -> list[tuple[int, Example]]:
    assert loaded.value is not None
    return [(at, one) for at, one in enumerate(loaded.value.examples) if part.lower() in one.name.lower()]


def run(loaded: Loaded[Connector], at: int, example: Example) -> Ran:
    from engine.examples import run_example

    assert loaded.value is not None
    assert loaded.located is not None
    result = run_example(loaded.value, example)
    line, column = loaded.located.mark(("examples", at))
    return Ran(result.connector, result.name, result.passed, result.message, f"{loaded.located.file}:{line}:{column}")
