"""Who holds a lane, a lock or a slot: a process of a machine; and whether one of this machine surely lives no more."""

from __future__ import annotations

import os
import socket
import uuid
from itertools import count

_MACHINE = socket.gethostname().replace("/", "-")
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
