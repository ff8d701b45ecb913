"""Which files are checked, and what each is: connector, client, settings, or blocks in Markdown."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.errors import SpecErrors, UsageError
from engine.spec.findings import Finding, errors_in
from engine.spec.load import load_client, load_connector, load_schema_ref
from engine.spec.located import Located, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.spec.project import Project

YAML = (".yaml", ".yml")
MARKDOWN = (".md", ".markdown")
_BEGINS = re.compile(r"^(?:connect|client)[ \t]*:", re.MULTILINE)
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*(?:yaml|yml)\b", re.IGNORECASE)
_SKIPPED = ("node_modules", "__pycache__")


class Known(NamedTuple):
    """What a piece is once it is read; `value` is None where a finding is an error."""

    value: Any
    findings: Sequence[Finding]
    located: Located | None


class Piece:
    """A file, or a block of Markdown, of some kind (connector | client | settings). It is read when it is looked at."""

    def __init__(self, kind: str, file: str, read: Callable[[], Known], *, indent: int = 0, name: str = "") -> None:
        self.kind, self.file, self.indent = kind, file, indent
        self.name = name  # of a connector that is one of the project's
        self._read = read

    @cached_property
    def known(self) -> Known:
        return self._read()

    @property
    def value(self) -> Any:
        return self.known.value

    @property
    def findings(self) -> Sequence[Finding]:
        return self.known.findings

    @property
    def located(self) -> Located | None:
        return self.known.located


def chosen(project: Project, paths: Sequence[Path]) -> list[Piece]:
    """UsageError for a path that is not there. Without paths: all files of the project's own."""
    if not paths:
        return _of_project(project)
    found: dict[Path, list[Piece]] = {}
    ours = {Path(piece.file).resolve(): piece for piece in _of_project(project, bundled=True)}
    for path in paths:
        if path.is_dir():
            if path.resolve() == project.directory.resolve():
                for piece in _of_project(project):
                    found.setdefault(Path(piece.file).resolve(), []).append(piece)
                continue
            for inner in _below(path):
                if _is_ours(inner):
                    found.setdefault(inner.resolve(), _pieces(project, ours, inner))
        elif path.exists() or path.is_symlink():
            found.setdefault(path.resolve(), _pieces(project, ours, path))
        else:
            raise UsageError(f"{path}: there is no such file or directory")
    return [piece for pieces in found.values() for piece in pieces]


def _of_project(project: Project, *, bundled: bool = False) -> list[Piece]:
    """The files of the project; `bundled` adds the connectors that come with the engine."""
    own = (project.directory / "connectors").resolve()
    pieces = [_settings(project)] if (project.directory / "connect.yaml").exists() else []
    for name, path in project.connector_files().items():
        if bundled or path.parent.resolve() == own:
            pieces.append(connector_piece(project, name, path))
    for path in project.client_files().values():
        pieces.append(client_piece(project, path))
    return pieces


def _settings(project: Project) -> Piece:
    path = project.directory / "connect.yaml"
    return Piece("settings", str(path), lambda: Known(*project.loaded_settings()[1:]))


def connector_piece(project: Project, name: str, path: Path) -> Piece:
    return Piece("connector", str(path), lambda: Known(*project.loaded_connector_at(path)[1:]), name=name)


def client_piece(project: Project, path: Path) -> Piece:
    return Piece("client", str(path), lambda: Known(*project.loaded_client(path)[1:]))


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
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as source:
            return source.read(1_000_000).decode("utf-8", "replace")
    except OSError:
        return ""


def _pieces(project: Project, ours: Mapping[Path, Piece], path: Path) -> list[Piece]:
    """`ours` are the project's own files, by where they are."""
    if path.suffix in MARKDOWN:
        return list(_blocks(project, path))
    if (piece := ours.get(path.resolve())) is not None:
        return [piece]
    says_client = re.search(r"^client[ \t]*:", _start(path), re.MULTILINE) is not None
    kind = "client" if says_client or path.parent.name == "clients" else "connector"
    return [Piece(kind, str(path), lambda: _alone(project, path, kind))]


def _alone(project: Project, path: Path, kind: str) -> Known:
    """A file outside of the project's folders."""
    try:
        located = project.read(path)
    except SpecErrors as error:
        return Known(None, error.findings, None)
    return Known(*loaded(kind, located))


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


def _blocks(project: Project, path: Path) -> Iterator[Piece]:
    """The YAML blocks of a Markdown file that are a connector or a client; lines count from the file's beginning."""
    try:
        lines = project.text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "can't be read"
        yield _known("connector", path, Known(None, [Finding(str(path), 1, 1, "unreadable", "error", why)], None))
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
        says = re.match(r"(connect|client)[ \t]*:", begins)
        if says is None:
            continue
        kind = "client" if says[1] == "client" else "connector"
        try:
            located = read("\n" * first + "\n".join(block) + "\n", str(path))
        except SpecErrors as error:
            yield _known(kind, path, Known(None, error.findings, None), indent)
            continue
        yield _known(kind, path, Known(*loaded(kind, located)), indent)


def _known(kind: str, path: Path, known: Known, indent: int = 0) -> Piece:
    return Piece(kind, str(path), lambda: known, indent=indent)
