"""Who holds a lane, a lock or a slot: a process of a machine; and whether one of this machine surely lives no more."""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path


def _machine() -> str:
    """
    The host's name, and a digest of which kernel and which numbering of processes it is.

    Containers, and Lambda's machines, may have one name and the same process numbers, and know nothing of each other.
    """
    told = [os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")]
    with suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        told.append(os.readlink("/proc/self/ns/pid"))
    return f"{socket.gethostname().replace('/', '-')}.{sha256(chr(0).join(told).encode()).hexdigest()[:8]}"


_MACHINE = _machine()
_RUN = uuid.uuid4().hex[:12]
_NUMBERS = count(1)


def new_owner() -> str:
    """A name for one holder of this process."""
    return f"{_MACHINE}/{os.getpid()}/{_RUN}-{next(_NUMBERS)}"


def is_gone(owner: str) -> bool:
    """
    Surely dead: of this machine, and its process is not there, or is us under a number that was used before.

    Of other machines nothing is known; what they held comes free when its time is over.
    """
    parts = owner.split("/")
    if len(parts) != 3 or parts[0] != _MACHINE or not parts[1].isdigit():
        return False
    if int(parts[1]) == os.getpid():
        return parts[2].partition("-")[0] != _RUN
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
