"""Which files are checked, and what each is: connector, client, settings, or blocks in Markdown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.errors import SpecErrors, UsageError
from engine.spec.findings import Finding, errors_in
from engine.spec.load import load_client, load_connector, load_schema_ref
from engine.spec.located import Located, read, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.spec.project import Project

YAML = (".yaml", ".yml")
MARKDOWN = (".md", ".markdown")
_BEGINS = re.compile(r"^(?:connect|client)[ \t]*:", re.MULTILINE)
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*(?:yaml|yml)\b", re.IGNORECASE)
_SKIPPED = ("node_modules", "__pycache__")


class Piece(NamedTuple):
    """A file, or a block of Markdown: its kind (connector | client | settings), its value, its findings, its places."""

    kind: str
    file: str
    value: Any
    findings: Sequence[Finding]
    located: Located | None
    indent: int = 0
    name: str = ""  # of a connector that is one of the project's


def chosen(project: Project, paths: Sequence[Path]) -> list[Piece]:
    """UsageError for a path that is not there. Without paths: all files of the project's own."""
    if not paths:
        return _of_project(project)
    found: dict[Path, list[Piece]] = {}
    for path in paths:
        if path.is_dir():
            if path.resolve() == project.directory.resolve():
                for piece in _of_project(project):
                    found.setdefault(Path(piece.file).resolve(), []).append(piece)
                continue
            for inner in _below(path):
                if _is_ours(inner):
                    found.setdefault(inner.resolve(), _pieces(project, inner))
        elif path.exists() or path.is_symlink():
            found.setdefault(path.resolve(), _pieces(project, path))
        else:
            raise UsageError(f"{path}: there is no such file or directory")
    return [piece for pieces in found.values() for piece in pieces]


def _of_project(project: Project) -> list[Piece]:
    own = (project.directory / "connectors").resolve()
    pieces = [_settings(project)] if (project.directory / "connect.yaml").exists() else []
    for name, path in project.connector_files().items():
        if path.parent.resolve() == own:
            pieces.append(connector_piece(project, name, path))
    for path in project.client_files().values():
        pieces.append(client_piece(project, path))
    return pieces


def _settings(project: Project) -> Piece:
    return Piece("settings", str(project.directory / "connect.yaml"), None, project.settings_errors, None)


def connector_piece(project: Project, name: str, path: Path) -> Piece:
    loaded = project.loaded_connector_at(path)
    return Piece("connector", str(loaded.path), loaded.value, loaded.findings, loaded.located, name=name)


def client_piece(project: Project, path: Path) -> Piece:
    loaded = project.loaded_client(path)
    return Piece("client", str(loaded.path), loaded.value, loaded.findings, loaded.located)


def _below(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in _SKIPPED)
        for name in sorted(names):
            path = Path(here) / name
            if path.suffix in (*YAML, *MARKDOWN) and name[0] != ".":
                yield path


def _is_ours(path: Path) -> bool:
    """Of the files in a folder: those in `connectors/` or `clients/`, and what says what it is."""
    if path.suffix in MARKDOWN or path.parent.name in ("connectors", "clients") or path.name == "connect.yaml":
        return True
    return _BEGINS.search(_start(path)) is not None


def _start(path: Path) -> str:
    try:
        with path.open("rb") as source:
            return source.read(1_000_000).decode("utf-8", "replace")
    except OSError:
        return ""


def _pieces(project: Project, path: Path) -> list[Piece]:
    if path.suffix in MARKDOWN:
        return list(_blocks(path))
    here = path.resolve()
    if here == (project.directory / "connect.yaml").resolve():
        return [_settings(project)]
    for name, known in project.connector_files().items():
        if known.resolve() == here:
            return [connector_piece(project, name, known)]
    for known in project.client_files().values():
        if known.resolve() == here:
            return [client_piece(project, known)]
    says_client = re.search(r"^client[ \t]*:", _start(path), re.MULTILINE) is not None
    return [_alone(path, "client" if says_client or path.parent.name == "clients" else "connector")]


def _alone(path: Path, kind: str) -> Piece:
    """A file outside of the project's folders."""
    try:
        located = read_file(path)
    except SpecErrors as error:
        return Piece(kind, str(path), None, error.findings, None)
    return _piece(kind, located, path)


def _piece(kind: str, located: Located, path: Path, indent: int = 0) -> Piece:
    value, findings, grown = loaded(kind, located)
    return Piece(kind, str(path), value, findings, grown, indent)


def loaded(kind: str, located: Located) -> tuple[Any, list[Finding], Located]:
    """As engine.spec.load does it, with the event schema of a connector in place."""
    if kind == "client":
        return load_client(located)
    connector, found, grown = load_connector(located)
    if connector is None:
        return None, found, grown
    schema, faults = load_schema_ref(grown, connector)
    receive = msgspec.structs.replace(connector.receive, schema=schema)
    connector = msgspec.structs.replace(connector, receive=receive)
    return (None if errors_in(faults) else connector), [*found, *faults], grown


def _blocks(path: Path) -> Iterator[Piece]:
    """The YAML blocks of a Markdown file that are a connector or a client; lines count from the file's beginning."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        says = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "can't be read"
        yield Piece("connector", str(path), None, [Finding(str(path), 1, 1, "unreadable", "error", says)], None)
        return
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        at += 1
        if fence is None:
            continue
        first, indent = at, len(fence[1])
        while at < len(lines) and not lines[at].strip().startswith(fence[2]):
            at += 1
        block = [line[indent:] if not line[:indent].strip() else line for line in lines[first:at]]
        begins = next((line for line in block if line.strip() and not line.startswith(("#", "---"))), "")
        kind = re.match(r"(connect|client)[ \t]*:", begins)
        if kind is None:
            continue
        try:
            located = read("\n" * first + "\n".join(block) + "\n", str(path))
        except SpecErrors as error:
            yield Piece("connector", str(path), None, error.findings, None, indent)
            continue
        yield _piece("client" if kind[1] == "client" else "connector", located, path, indent)
