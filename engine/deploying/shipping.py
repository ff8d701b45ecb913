"""
Files -> a folder, with a list of what was made there, so that nothing else is ever overwritten or removed.

`.connect-deploy.json` names each file with its hash, and what was chosen: the next run makes the same.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from engine.deploying.parts import Options
from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LIST = ".connect-deploy.json"
MADE_BY = "connect deploy aws"


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the list."""

    made_by: str = MADE_BY
    options: Options = Options()
    files: dict[str, str] = {}  # path -> SHA-256


class Change(msgspec.Struct, frozen=True):
    """What is to become of a file: written | current | removed; `foreign`: we did not make what stands there."""

    path: str
    state: str
    foreign: bool = False


def read(folder: Path) -> Made | None:
    """The list of the last run; None where there was none. UsageError where it can't be read."""
    try:
        return msgspec.json.decode((folder / LIST).read_bytes(), type=Made)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{folder / LIST} can't be read: {error}; remove it, and use --force") from None


def changes(folder: Path, files: Mapping[str, str], before: Made | None) -> list[Change]:
    """What a run would do, by path."""
    made = before.files if before is not None else {}
    found = []
    for path, text in sorted(files.items()):
        now = _hash_of(folder / path)
        if now == _hash(text):
            found.append(Change(path, "current"))
        else:
            found.append(Change(path, "written", foreign=now is not None and now != made.get(path)))
    for path in sorted(made.keys() - files.keys()):
        now = _hash_of(folder / path)
        if now is not None:
            found.append(Change(path, "removed", foreign=now != made[path]))
    return found


def write(folder: Path, files: Mapping[str, str], options: Options, *, force: bool) -> list[Change]:
    """
    Make the folder what it should be. UsageError, and nothing is written, where that would undo another's work.

    A file of ours that is no longer wanted is removed.
    """
    before = read(folder)
    wanted = changes(folder, files, before)
    foreign = [change.path for change in wanted if change.foreign]
    if foreign and not force:
        raise UsageError(
            f"{', '.join(foreign)} in {folder}: not made by this command, or changed since;"
            " nothing was written. --force overwrites it"
        )
    for change in wanted:
        if change.state == "written":
            _put(folder / change.path, files[change.path])
        elif change.state == "removed":
            (folder / change.path).unlink()
    made = Made(options=options, files={path: _hash(text) for path, text in sorted(files.items())})
    if before != made:
        _put(folder / LIST, msgspec.json.format(msgspec.json.encode(made), indent=2).decode() + "\n")
    return wanted


def stale(folder: Path, files: Mapping[str, str], options: Options) -> list[Change]:
    """What is not as it should be; what a run would change. Empty where the folder is current."""
    before = read(folder)
    found = [change for change in changes(folder, files, before) if change.state != "current"]
    if not found and (before is None or before.options != options):
        found.append(Change(LIST, "written"))
    return found


def _put(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(beside, path)
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}") from None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hash_of(path: Path) -> str | None:
    """None where there is no file; a folder that stands there counts as another's file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return ""


def shown(change: Change) -> dict[str, Any]:
    return {"path": change.path, "state": change.state}
