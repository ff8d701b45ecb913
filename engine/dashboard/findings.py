"""What `connect validate` says of a file: looked for beside the pages, and remembered until a file changes."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import ConnectError, told
from engine.spec.findings import errors_in
from engine.spec.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.spec.findings import Finding

PART = 10  # files at once: between two parts others have their turn
STATE_S = 1.0  # how long a look at the times of all files is remembered
AGAIN_S = 600.0  # what a file refers to (a schema) may change without the file


class Looked(NamedTuple):
    """What was found in one file; `why` where it could not be looked at."""

    findings: tuple[Finding, ...]
    why: str = ""

    @property
    def errors(self) -> int:
        return len(errors_in(self.findings))

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors


class _Kept(NamedTuple):
    state: int
    at: float
    looked: Looked


class Findings:
    """Of the files of one project. One thread looks, only while somebody has asked."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._clock = directory, clock
        self._project = Project(directory)  # of its own: it is read in another thread
        self._kept: dict[Path, _Kept] = {}
        self._asked: dict[Path, None] = {}
        self._changed = threading.Condition()
        self._looking = False
        self._state: tuple[float, int] = (float("-inf"), 0)

    def of(self, files: Sequence[Path], *, wait_s: float = 0.0) -> dict[Path, Looked]:
        """Those that are known, after `wait_s` at most; the others are being looked at when this returns."""
        state = self.state()
        with self._changed:
            for file in files:
                if not self._is_known(file, state):
                    self._asked[file] = None
            if self._asked and not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="findings", daemon=True).start()
            self._changed.wait_for(lambda: all(self._is_known(file, state) for file in files), wait_s)
            return {file: self._kept[file].looked for file in files if self._is_known(file, state)}

    def _is_known(self, file: Path, state: int) -> bool:
        kept = self._kept.get(file)
        return kept is not None and kept.state == state and kept.at > self._clock() - AGAIN_S

    def state(self) -> int:
        """Another number when any file of the project is another, for findings may be about two of them."""
        now = self._clock()
        if self._state[0] < now - STATE_S:
            files = {**self._project.connector_files(), **self._project.client_files()}.values()
            marks = [_mark(file) for file in (*files, self._directory / "connect.yaml")]
            self._state = (now, hash(tuple(marks)))
        return self._state[1]

    def _look(self) -> None:
        while True:
            with self._changed:
                part = list(self._asked)[:PART]
                for file in part:
                    del self._asked[file]
                if not part:
                    self._looking = False
                    self._project = Project(self._directory)  # what was read, with all places, is large
                    return
            state = self.state()
            found = self._found(part)
            with self._changed:
                for file, looked in found.items():
                    self._kept[file] = _Kept(state, self._clock(), looked)
                self._changed.notify_all()

    def _found(self, files: Sequence[Path]) -> dict[Path, Looked]:
        from engine.spec.check import check

        there = [file for file in files if file.is_file()]
        gone = {file: Looked((), "the file is gone") for file in files if file not in there}
        try:
            findings = check(self._project, there) if there else []
        except ConnectError as error:
            return gone | {file: Looked((), str(error)) for file in there}
        except Exception as error:  # a fault of ours leaves the page whole
            return gone | {file: Looked((), told(error)) for file in there}
        return gone | {file: Looked(_of(findings, file)) for file in there}


def _of(findings: Iterable[Finding], file: Path) -> tuple[Finding, ...]:
    return tuple(each for each in findings if Path(each.file) == file)


def _mark(file: Path) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except OSError:
        return str(file), 0, -1
    return str(file), stat.st_mtime_ns, stat.st_size
