"""
What was found in a file, kept in `.connect/cache` until the file, what it refers to, or the engine changes.

The folder may be deleted at any time, and git passes it over. Where it can't be read or written, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.spec.findings import Finding
from engine.spec.located import MAX_BYTES
from engine.spec.shipped import bundled, engine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FOLDER = Path(".connect") / "cache"
_FILE = "validate.json"
_REFERENCE = re.compile(r"\$ref[\"']?\s*:\s*[\"']?([^\s\"'#{},]+)")


class Entry(msgspec.Struct, frozen=True):
    """What was found in a file of this content; `needs` are what else it depended on, each with its content's hash."""

    content: str
    needs: dict[str, str]
    findings: list[Finding]


class _Kept(msgspec.Struct):
    engine: str
    entries: dict[str, Entry]


class Remembered:
    """
    The entries of one project, by the file's path as it is shown.

    A need is `file:PATH`, `connector:NAME`, or `connectors` or `clients` for which there are.
    """

    def __init__(self, directory: Path, connectors: Mapping[str, Path]) -> None:
        self.directory, self.folder = directory, directory / FOLDER
        self.connectors = connectors
        self.old = self._read()
        self.new: dict[str, Entry] = {}
        self._hashes: dict[str, str] = {}

    def found(self, key: str, content: str) -> list[Finding] | None:
        """None where nothing is kept that still holds."""
        entry = self.old.get(key)
        if entry is None or not content or entry.content != content:
            return None
        if any(self.now(need) != was for need, was in entry.needs.items()):
            return None
        self.new[key] = entry
        return entry.findings

    def keep(self, key: str, content: str, needs: Iterable[str], findings: list[Finding]) -> None:
        if content:
            self.new[key] = Entry(content, {need: self.now(need) for need in needs}, findings)

    def now(self, need: str) -> str:
        """The hash of what is there now; empty where nothing is."""
        if need not in self._hashes:
            kind, _, name = need.partition(":")
            if kind == "connectors":
                self._hashes[need] = digest("\n".join(sorted(self.connectors)).encode())
            elif kind == "clients":
                files = sorted(path.name for path in (self.directory / "clients").glob("*.y*ml"))
                self._hashes[need] = digest("\n".join(files).encode())
            else:
                path = self.connectors.get(name) if kind == "connector" else Path(name)
                self._hashes[need] = content_of(path) if path is not None else ""
        return self._hashes[need]

    def save(self, *, whole: bool) -> None:
        """`whole`: all of the project was looked at, so what was not met is gone."""
        if not self.new or (self.new == self.old):
            return
        entries = self.new if whole else {**self.old, **self.new}
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            ignored = self.folder.parent / ".gitignore"
            if not ignored.exists():
                ignored.write_text("*\n", encoding="utf-8")
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".validate-")
            with os.fdopen(handle, "wb") as out:
                out.write(msgspec.json.encode(_Kept(engine(), entries)))
            os.replace(name, self.folder / _FILE)

    def _read(self) -> dict[str, Entry]:
        try:
            kept = msgspec.json.decode((self.folder / _FILE).read_bytes(), type=_Kept)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
        return kept.entries if kept.engine == engine() else {}


def referred(path: Path) -> list[str]:
    """The files that `$ref` in this file may mean, as needs; also those that are not there."""
    try:
        text = content(path).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    needs: dict[str, None] = {}
    for reference in _REFERENCE.findall(text):
        needs[f"file:{(path.parent / reference).resolve()}"] = None
        shipped = re.sub(r"^(\.\./)*(schemas/)?", "", reference)
        needs[f"file:{(bundled('schemas') / shipped).resolve()}"] = None
    return list(needs)


def content(path: Path) -> bytes:
    """OSError for what is no regular file, such as a device without an end."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as source:
        return source.read(10 * MAX_BYTES)


def content_of(path: Path) -> str:
    """The hash of a file's bytes; empty where it can't be read."""
    try:
        return digest(content(path))
    except OSError:
        return ""


def digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
