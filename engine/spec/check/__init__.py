"""
What a schema can't say of connectors, clients and `connect.yaml`: names, event paths, units, limits, clashes, examples.

Nothing is sent and no secret is resolved unless a source of secrets is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine.notations.emitting import Problem
from engine.spec.check.clients import ClientFile, clashes, client_sheet
from engine.spec.check.connectors import Facts, connector_sheet
from engine.spec.check.files import MARKDOWN, Piece, chosen, client_piece, connector_piece, loaded
from engine.spec.check.places import Sheet
from engine.spec.check.remembered import Remembered, content_of, digest, referred
from engine.spec.check.salvage import salvage, text_of
from engine.spec.check.sharing import shared_out
from engine.spec.findings import Finding, did_you_mean, in_file_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.ports import Secrets
    from engine.spec.located import Located
    from engine.spec.project import Project

__all__ = ["check", "looked_at"]

CLASHES = ""  # no file's path: what is remembered of the clients together
WORTH_A_PROCESS = 12  # as many connectors take longer than starting another process does


def check(
    project: Project,
    paths: Sequence[Path] = (),
    *,
    strict: bool = False,
    resolve: Secrets | None = None,
    examples: bool = True,
    remember: bool = False,
    processes: int = 1,
) -> list[Finding]:
    """
    All findings, in file order; of the whole project, or of the files and folders given.

    `strict` makes every warning an error. `resolve` also asks for each secret. `examples` runs those of the connectors.
    `remember` takes what was found before in files that have not changed, and keeps what is found now. Many connectors
    are shared out to `processes`. Raises UsageError for a path that is not there.
    """
    work = _Check(project, resolve=resolve, examples=examples)
    kept = Remembered(project.directory, work.known) if remember and examples and resolve is None else None
    found = work.run(chosen(project, paths), kept, processes)
    if kept is not None:
        kept.save(whole=not paths)
    if strict:
        found = [msgspec.structs.replace(each, severity="error") for each in found]
    return in_file_order(found)


def looked_at(project: Project, paths: Sequence[Path] = ()) -> int:
    """How many files `check` looks at; Markdown counts where it has a connector or a client in it."""
    return len({piece.file for piece in chosen(project, paths)})


class _Check:
    def __init__(self, project: Project, *, resolve: Secrets | None, examples: bool) -> None:
        self.project, self.resolve, self.examples = project, resolve, examples
        self.known = project.connector_files()
        self.facts: dict[str, Facts | None] = {}
        self.asked: set[str] = set()  # the connectors that were looked at for the piece at hand
        self.found: list[Finding] = []
        self.refers: dict[Path, list[str]] = {}

    def run(self, pieces: Sequence[Piece], kept: Remembered | None, processes: int) -> list[Finding]:
        found: list[Finding] = []
        contents = {} if kept is None else {piece.file: content_of(Path(piece.file)) for piece in pieces}
        stale = []
        for piece in pieces:
            before = kept.found(piece.file, contents[piece.file]) if kept is not None and _a_file(piece) else None
            if before is None:
                stale.append(piece)
            else:
                found += before
        for piece, findings, needs in self.each(stale, processes):
            found += findings
            if kept is not None and _a_file(piece):
                kept.keep(piece.file, contents[piece.file], needs, findings)
        return found + self.clashes(pieces, kept)

    def each(self, pieces: Sequence[Piece], processes: int) -> Iterator[tuple[Piece, list[Finding], list[str]]]:
        """Each piece with its findings and what it depends on; connectors come before clients."""
        pieces = sorted(pieces, key=lambda piece: piece.kind == "client")
        heavy = sum(piece.kind == "connector" for piece in pieces)
        if processes > 1 and heavy >= WORTH_A_PROCESS:
            yield from shared_out(self.one, pieces, self.home, processes)
        else:
            for piece in pieces:
                yield piece, *self.one(piece)

    def home(self, piece: Piece) -> str:
        """Pieces of one home are best looked at in one process: a connector and the clients that bind it first."""
        if piece.kind != "client":
            return piece.name or piece.file
        bound = piece.value.connectors if piece.value is not None else ()
        return next((name for name in bound if name in self.known), piece.file)

    def one(self, piece: Piece) -> tuple[list[Finding], list[str]]:
        """The findings of a piece on its own, and what besides itself they depend on."""
        self.found, self.asked = [], set()
        needs = self.referred(Path(piece.file))
        if piece.kind == "client":
            self.client(piece)
        elif piece.kind == "settings":
            needs += self.settings(piece)
        else:
            self.connector(piece)
        for name in sorted(self.asked - {piece.name}):
            needs += [f"connector:{name}", *self.referred(self.known[name])]
        if any(each.rule == "unknown-connector" for each in self.found):
            needs.append("connectors")
        return self.found, list(dict.fromkeys(needs))

    def referred(self, path: Path) -> list[str]:
        """Looked for once: many clients bind the same connector."""
        if path not in self.refers:
            self.refers[path] = referred(path)
        return self.refers[path].copy()

    def connector(self, piece: Piece) -> None:
        self.keep(piece, piece.findings)
        facts = self.facts_of_piece(piece)
        if facts is not None:
            sound = piece.value is not None  # what is read past a fault would only fail its examples
            self.sheet(piece, connector_sheet(facts, examples=self.examples and sound, indent=piece.indent))

    def client(self, piece: Piece) -> None:
        self.keep(piece, piece.findings)
        value, located, gone = piece.value, piece.located, set[str]()
        if value is None:
            value, located, gone = self.salvaged(piece)
        if any(each.message.startswith("ingest.") for each in piece.findings):
            gone.add("keys")  # what was cut there may have been one
        if value is not None and located is not None:
            file = ClientFile(value, located, piece.indent)
            self.sheet(piece, client_sheet(file, self.facts_of, self.known, resolve=self.resolve, gone=gone))

    def settings(self, piece: Piece) -> list[str]:
        """What else the findings of `connect.yaml` depend on."""
        self.keep(piece, piece.findings)
        if piece.value is None or piece.located is None or not piece.value.alerts.clients:
            return []
        names = self.project.client_names()
        hint = f"there are {', '.join(names)}" if names else "there is no client yet"
        sheet = Sheet(piece.located)
        for name in piece.value.alerts.clients:
            if name not in names:
                place, near = ("alerts", "clients", name), did_you_mean(name, names)
                sheet.add([Problem(place, "unknown-client", "there is no such client", near or hint)])
        self.sheet(piece, sheet)
        return ["clients", *(f"file:{path}" for path in self.project.client_files().values())]

    def clashes(self, pieces: Sequence[Piece], kept: Remembered | None) -> list[Finding]:
        asked = {piece.file for piece in pieces if piece.kind == "client"}
        if not asked:
            return []
        outside = [piece for piece in pieces if piece.kind == "client" and Path(piece.file).suffix != ".md"]
        all_of = {piece.file: piece for piece in outside}
        for path in self.project.client_files().values():
            all_of.setdefault(str(path), client_piece(self.project, path))
        content = ""
        if kept is not None:
            lines = [f"{file} {kept.now(f'file:{file}')} {file in asked}" for file in sorted(all_of)]
            content = digest("\n".join(lines).encode())
            if (before := kept.found(CLASHES, content)) is not None:
                return before
        files = [ClientFile(each.value, each.located) for each in all_of.values() if each.value and each.located]
        found: list[Finding] = []
        for file, problem in clashes(files, asked):
            sheet = Sheet(file.located)
            sheet.add([problem])
            found += sheet.findings()
        if kept is not None:
            kept.keep(CLASHES, content, (), found)
        return found

    # --- what is known of a connector ---

    def facts_of(self, name: str) -> Facts | None:
        """None for one that can't be used as a whole: its own findings come first."""
        self.asked.add(name)
        if name not in self.facts:
            piece = connector_piece(self.project, name, self.known[name])
            usable = piece.value is not None and piece.located is not None
            self.facts[name] = Facts(piece.value, piece.located) if usable and piece.located else None
        return self.facts[name]

    def facts_of_piece(self, piece: Piece) -> Facts | None:
        if piece.name and piece.value is not None:
            return self.facts_of(piece.name)
        value, located, gone = piece.value, piece.located, set[str]()
        if value is None and piece.kind == "connector":
            value, located, gone = self.salvaged(piece)
        if piece.name:
            self.facts[piece.name] = None
        return Facts(value, located, gone) if value is not None and located is not None else None

    def salvaged(self, piece: Piece) -> tuple[Any, Located | None, set[str]]:
        """The part of a faulty file that can be used; what is found on the way is kept."""
        text = piece.located.text if piece.located is not None else text_of(self.project, Path(piece.file))
        rest = salvage(text, piece.file, lambda located: loaded(piece.kind, located))
        if rest is None:
            return None, None, set()
        self.keep(piece, rest.findings)
        return rest.value, rest.located, rest.gone

    # --- findings ---

    def sheet(self, piece: Piece, sheet: Sheet) -> None:
        said = {(each.line, each.column, each.rule) for each in piece.findings}
        cut = {(each.line, each.column) for each in piece.findings if each.rule == "unclosed"}  # no more is known of it
        self.keep(
            piece,
            [
                each
                for each in sheet.findings()
                if (each.line, each.column, each.rule) not in said and (each.line, each.column) not in cut
            ],
        )

    def keep(self, piece: Piece, findings: Sequence[Finding]) -> None:
        shift = piece.indent
        self.found += (
            [msgspec.structs.replace(each, column=each.column + shift) for each in findings] if shift else findings
        )


def _a_file(piece: Piece) -> bool:
    """A whole YAML file, not a block of Markdown."""
    return Path(piece.file).suffix not in MARKDOWN
