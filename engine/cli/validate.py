"""Check connectors, clients, connect.yaml and examples; nothing is sent."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import click

from engine.cli import options, output


@click.command("validate")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    default="text",
    show_default=True,
    type=click.Choice(["text", "github", "sarif", "json"]),
    help="For people, for GitHub's annotations, for code scanning, or for programs.",
)
@click.option("--strict", is_flag=True, help="Take every warning for an error.")
@click.option("--resolve-secrets", is_flag=True, help="Also ask for each secret that the clients name.")
@click.option("--no-cache", is_flag=True, help="Look at every file again, also at those that have not changed.")
@options.project
def command(
    paths: tuple[Path, ...], form: str, strict: bool, resolve_secrets: bool, no_cache: bool, directory: Path
) -> int:
    """
    Check connectors, clients, connect.yaml and examples.

    Without PATH, all of the project. The exit code is 1 if there is an error; warnings count with --strict.
    """
    project = options.open_project(directory)
    gc.set_threshold(100_000, 20, 100)  # the process ends soon: little of what it makes is worth looking for
    from engine.spec.check import check, looked_at
    from engine.spec.findings import errors_in
    from engine.spec.report import report

    resolve = options.secrets_of(project) if resolve_secrets else None
    found = check(project, paths, strict=strict, resolve=resolve, remember=not no_cache, processes=_processors())
    files, tty = looked_at(project, paths), output.watched()
    if said := report(found, form, files=files, tty=tty, width=output.width()):
        click.echo(said)
    return 1 if errors_in(found) else 0


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
