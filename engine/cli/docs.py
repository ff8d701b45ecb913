"""Write the pages of connectors, and the references of the language and its functions."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.spec.project import Project


@click.command("docs")
@click.argument("names", metavar="[CONNECTOR]...", nargs=-1)
@click.option("--out", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Where pages are written.")
@click.option("--check", is_flag=True, help="Write nothing; end with 1 where a page is not current.")
@click.option("--language", is_flag=True, help="The reference of every key, reference.md, instead.")
@click.option("--functions", is_flag=True, help="The reference of the functions, functions.md, instead.")
@options.project
def command(
    names: tuple[str, ...], out: Path | None, check: bool, language: bool, functions: bool, directory: Path
) -> int:
    """
    Write a page for each connector of the project, or for those that are named.

    Pages go to docs/connectors/ of the project, references to docs/. What no spec can say stands in NAME.notes.md
    beside the page and is taken in.
    """
    project = options.open_project(directory)
    stale = 0
    for file, text in pages(project, names, out, language=language, functions=functions):
        now = read(file)
        if now == text:
            if not check:
                click.echo(f"{shown(file)}: current")
            continue
        if check:
            stale += 1
            click.echo(f"{shown(file)}: {hint(now, text)}")
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")
        click.echo(f"{shown(file)}: written")
    if stale:
        click.echo(f"write {'it' if stale == 1 else 'them'} anew: {again(names, out, language, functions)}", err=True)
    return 1 if stale else 0


def pages(
    project: Project, names: tuple[str, ...], out: Path | None, *, language: bool, functions: bool
) -> Iterator[tuple[Path, str]]:
    """Each file with what should stand in it. UsageError and SpecErrors as the project raises them."""
    if language or functions:
        home = out or project.directory / "docs"
        if language:
            from engine.authoring.pages.reference import reference

            yield home / "reference.md", reference()
        if functions:
            from engine.functions.reference import reference as of_functions

            yield home / "functions.md", of_functions()
        return
    from engine.authoring.pages import page

    home = out or project.directory / "docs" / "connectors"
    language_page = "../language.md" if (home.parent / "language.md").exists() else ""
    files = project.connector_files()
    own = [name for name, path in files.items() if path.is_relative_to(project.directory)]
    for name in names or own or list(files):
        connector = project.connector(name)
        source = relative(files[name], home)
        notes = read(home / f"{name}.notes.md") or ""
        yield home / f"{name}.md", page(connector, source=source, notes=notes, language=language_page)


def relative(file: Path, home: Path) -> str:
    """The way from the page to the connector's file; of one that comes with the engine there is none."""
    from engine.spec.shipped import bundled

    if file.is_relative_to(bundled("connectors")) and not home.resolve().is_relative_to(
        bundled("connectors").parent.resolve()
    ):
        return ""
    return Path(os.path.relpath(file.resolve(), home.resolve())).as_posix()


def read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def hint(now: str | None, text: str) -> str:
    """What is not current, by the first line that differs."""
    if now is None:
        return "is missing"
    for line in difflib.unified_diff(now.splitlines(), text.splitlines(), lineterm="", n=0):
        if line[:1] in "+-" and line[:3] not in ("+++", "---"):
            what = "lacks" if line[0] == "+" else "still says"
            return f"is not current; it {what}: {line[1:].strip()[:100] or 'an empty line'}"
    return "is not current: the line ends"


def again(names: tuple[str, ...], out: Path | None, language: bool, functions: bool) -> str:
    flags = ["--language"] * language + ["--functions"] * functions + (["--out", str(out)] if out else [])
    return " ".join(["connect docs", *names, *flags])


def shown(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_absolute() and file.is_relative_to(here) else str(file)
