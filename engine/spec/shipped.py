"""What comes with the engine: its folders, and a text that is another one for another engine."""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from pathlib import Path

TYPE_CHECKING = False  # as a type checker wants it: `typing` is not needed to answer from what is kept
if TYPE_CHECKING:
    from collections.abc import Iterator

_ENGINE = Path(__file__).resolve().parents[1]


@cache
def bundled(folder: str) -> Path:
    """A folder that comes with the engine: in the wheel below `engine/bundled`, in a checkout beside `engine`."""
    inside = _ENGINE / "bundled" / folder
    return inside if inside.is_dir() else _ENGINE.parent / folder


@cache
def engine() -> str:
    """Changes with the engine's own files, with the installed libraries, and with Python."""
    ours = [str(_ENGINE), str(bundled("schemas"))]
    libraries = {
        f"{path} {os.stat(path).st_mtime_ns}" for path in sys.path if path.endswith("-packages") and os.path.isdir(path)
    }
    parts = [sys.version, *sorted(libraries), *sorted(part for folder in ours for part in _marks(folder))]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _marks(folder: str) -> Iterator[str]:
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _marks(entry.path)
            elif entry.name.endswith((".py", ".json")):
                stat = entry.stat()
                yield f"{entry.path} {stat.st_mtime_ns} {stat.st_size}"
