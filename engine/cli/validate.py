"""Check connectors, clients, connect.yaml and examples, and mend what is certain; nothing is sent."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import options
from engine.spec.sound import Asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.spec.findings import Finding
    from engine.spec.fix import Fixed
    from engine.spec.project import Project


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
@click.option("--fix", "mend", is_flag=True, help="Change the files where it is certain what was meant.")
@click.option("--diff", "show", is_flag=True, help="Show what --fix would change, and change nothing.")
@click.option("--resolve-secrets", is_flag=True, help="Also ask for each secret that the clients name.")
@click.option("--no-cache", is_flag=True, help="Look at every file again, also at those that have not changed.")
@options.project
def command(
    paths: tuple[Path, ...],
    form: str,
    strict: bool,
    mend: bool,
    show: bool,
    resolve_secrets: bool,
    no_cache: bool,
    directory: Path,
) -> int:
    """
    Check connectors, clients, connect.yaml and examples.

    Without PATH, all of the project. The exit code is 1 if there is an error; warnings count with --strict.
    """
    asked = None if mend or show or resolve_secrets or no_cache or form != "text" else Asked(directory, paths)
    if asked is not None and (before := asked.answer()) is not None:
        click.echo(before)
        return 0
    from engine.cli import output

    project = options.open_project(directory)
    gc.set_threshold(1_000_000, 50, 100)  # the process ends soon: little of what it makes is worth looking for
    from engine.spec.check import check, looked_at
    from engine.spec.findings import errors_in
    from engine.spec.report import report

    def look() -> list[Finding]:
        resolve = options.secrets_of(project) if resolve_secrets else None
        found = check(project, paths, strict=strict, resolve=resolve, remember=not no_cache, processes=_processors())
        return found + _consents(project, paths) if resolve_secrets and not errors_in(found) else found

    found = look()
    if show:
        changes = _changes(project, found, strict=strict)
        click.echo("".join(_diff(change, found) for change in changes), nl=False)
        click.echo(f"{_counted(changes)} would change", err=True)
        return 1 if changes or errors_in(found) else 0
    if mend and (changes := [change for change in _changes(project, found, strict=strict) if _written(change)]):
        for change in changes:
            click.echo(f"fixed {_counted([change])}", err=True)
        found = look()
    files, tty = looked_at(project, paths), output.watched()
    if said := report(found, form, files=files, tty=tty, width=output.width()):
        click.echo(said)
    if asked is not None and not found:
        asked.keep(said, _referred(project, paths))
    return 1 if errors_in(found) else 0


def _consents(project: Project, paths: tuple[Path, ...]) -> list[Finding]:
    """Clients for whom a person still has to agree, by what the project's store has; of the files asked for."""
    from engine.onboarding.login import lacking
    from engine.spec.check.files import chosen

    address = project.settings.store
    if address.startswith("memory:"):
        return []
    files = {piece.file for piece in chosen(project, paths)}
    store = options.open_shared_store(None, project)
    try:
        return [finding for finding in lacking(project, store) if finding.file in files]
    finally:
        store.close()


def _referred(project: Project, paths: tuple[Path, ...]) -> list[str]:
    """The files that what is checked refers to."""
    from engine.spec.check.remembered import referred

    files = {*project.connector_files().values(), *project.client_files().values(), *paths}
    return [need.partition(":")[2] for file in files for need in referred(file)]


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _changes(project: Project, found: Sequence[Finding], *, strict: bool) -> list[Fixed]:
    """What can be mended in the files, tried on their texts alone."""
    from engine.spec.check import check
    from engine.spec.fix import fixed

    by_file: dict[str, list[Finding]] = {}
    for finding in found:
        by_file.setdefault(finding.file, []).append(finding)
    changes = []
    for file, findings in by_file.items():
        path = Path(file)
        try:
            text = path.read_bytes().decode("utf-8") if path.is_file() else ""
        except (OSError, UnicodeDecodeError):
            continue

        def look(text: str, file: str = file, path: Path = path) -> list[Finding]:
            return [
                each for each in check(project.with_texts({path: text}), [path], strict=strict) if each.file == file
            ]

        change, _ = fixed(file, text, findings, look)
        if change.edits:
            changes.append(change)
    return changes


def _written(change: Fixed) -> bool:
    from engine.spec.fix import written

    try:
        if written(change):
            return True
        click.echo(f"{change.file}: has changed meanwhile; run it again", err=True)
    except OSError as error:
        click.echo(f"{change.file}: can't be written: {error.strerror}", err=True)
    return False


def _diff(change: Fixed, found: Sequence[Finding]) -> str:
    """Where a secret is written out, no line that may hold one is shown."""
    from engine.spec.fix import Source, diff
    from engine.spec.report import without_secrets

    hidden: set[str] = set()
    if any(each.file == change.file and each.rule == "secret-literal" for each in found):
        for text in (change.before, change.after):
            lines = Source(text).lines
            hidden |= {line for line, shown in zip(lines, without_secrets(lines), strict=True) if not shown}
    return diff(change, shown=lambda line: "(may hold a secret)\n" if line.rstrip("\r\n") in hidden else line)


def _counted(changes: Sequence[Fixed]) -> str:
    """`connectors/acme.yaml: 2 places`, or how many places in how many files."""
    edits = sum(change.edits for change in changes)
    places = f"{edits} place{'' if edits == 1 else 's'}"
    if len(changes) == 1:
        return f"{changes[0].file}: {places}"
    return f"{places} in {len(changes)} files"
