"""
Files that were checked before and found sound: the same answer at once, while none of them has changed.

Of a project all files count, whichever were asked for: an answer may depend on each. Kept are what was asked and
digests of what the files were, in `.connect/cache` of the project; where that can't be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import os

from engine.spec.shipped import bundled, engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Any

FOLDER = os.path.join(".connect", "cache")
FILE = "sound.json"
YAML = (".yaml", ".yml")
MOST = 100  # answers of one project
MAX_BYTES = 10_000_000  # of a file; what is larger is looked at again


class Asked:
    """One question: are these files of a project sound, or all of them (no `paths`)?"""

    def __init__(self, directory: Path, paths: Sequence[Path]) -> None:
        self.folder = os.path.join(directory, FOLDER)
        self.answerable = all(path.suffix in YAML and os.path.isfile(path) for path in paths)
        self.key = "\n".join([os.getcwd(), *map(str, paths)])
        files = {os.path.join(directory, "connect.yaml"), *map(str, paths)}
        for folder in (
            bundled("connectors"),
            os.path.join(directory, "connectors"),
            os.path.join(directory, "clients"),
        ):
            files |= _specs_in(str(folder))
        self.state = _digest(files) if self.answerable else ""

    def answer(self) -> str | None:
        """What was said of them; None where it has to be looked at."""
        kept = self._kept().get(self.key) if self.state else None
        if not isinstance(kept, dict) or kept.get("state") != self.state:
            return None
        refers, says = kept.get("refers"), kept.get("says")
        if not isinstance(refers, list) or not isinstance(says, str) or kept.get("referred") != _digest(refers):
            return None
        return says

    def keep(self, says: str, refers: Iterable[str]) -> None:
        """`refers` are files elsewhere that the answer depends on, also those that are not there."""
        files = sorted(set(refers))
        referred = _digest(files)
        if not self.state or not referred:
            return
        kept = {key: each for key, each in self._kept().items() if key != self.key}
        kept = dict(list(kept.items())[1 - MOST :])
        kept[self.key] = {"state": self.state, "refers": files, "referred": referred, "says": says}
        import tempfile

        try:
            os.makedirs(self.folder, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".sound-")
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump({"engine": engine(), "answers": kept}, out)
            os.replace(name, os.path.join(self.folder, FILE))
        except OSError:
            pass

    def _kept(self) -> dict[str, Any]:
        try:
            with open(os.path.join(self.folder, FILE), encoding="utf-8") as source:
                kept = json.load(source)
        except (OSError, ValueError, RecursionError):
            return {}
        sound = isinstance(kept, dict) and kept.get("engine") == engine() and isinstance(kept.get("answers"), dict)
        return kept["answers"] if sound else {}


def _specs_in(folder: str) -> set[str]:
    try:
        return {os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(YAML)}
    except OSError:
        return set()


def _digest(files: Iterable[str]) -> str:
    """Of their paths and contents; empty where one is too large, or no regular file."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(files):
        content = None
        if os.path.isfile(path):
            try:
                with open(path, "rb") as source:
                    content = source.read(MAX_BYTES + 1)
            except OSError:
                return ""
            if len(content) > MAX_BYTES:
                return ""
        elif os.path.lexists(path):
            return ""
        said = b"-" if content is None else b"%d" % len(content)
        digest.update(b"%s\0%s\0%s" % (os.fsencode(path), said, content or b""))
    return digest.hexdigest()
