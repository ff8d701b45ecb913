"""Who looked at a dead letter or changed one, or a lane -> a line: who, what, when; never what is in it."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import ConnectError
from engine.privacy.personal import addresses_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MAX_IDS = 100  # named in one line; of more only the count is told


class AuditUnwritable(ConnectError):
    """What can't be written down is not done."""


class Audit:
    """Lines of JSON at the end of a file that only its owner may read, or on stderr where there is none."""

    def __init__(self, file: Path | None, *, who: str, clock: Callable[[], float] = time.time) -> None:
        self.file, self.who, self.clock = file, who, clock

    def line(self, what: str, **facts: Any) -> None:
        """
        Before it is done: whoever dies in the middle has left a trace. Facts that are None are left out.

        AuditUnwritable if the line can't be written.
        """
        at = datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        given = {name: addresses_in(value) for name, value in facts.items() if value is not None}
        head = {"at": at, "level": "info", "event": "audit", "who": self.who, "what": what}
        written = msgspec.json.encode(head | given) + b"\n"
        if self.file is None:
            sys.stderr.write(written.decode())
            return
        try:
            handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, written)
            finally:
                os.close(handle)
        except OSError as error:
            raise AuditUnwritable(
                f"{self.file}: the audit can't be written, so nothing was done ({error.strerror}); "
                "CONNECT_AUDIT names another file"
            ) from None


def ids(dead_ids: list[int]) -> dict[str, Any]:
    """As facts of a line."""
    return {"count": len(dead_ids), "ids": dead_ids if len(dead_ids) <= MAX_IDS else None}


def operator(env: Mapping[str, str]) -> str:
    """The user of the operating system, and who became that user by sudo."""
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    by = env.get("SUDO_USER")
    return f"{name} (sudo by {by})" if by else name
