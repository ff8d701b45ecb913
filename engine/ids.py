"""UUIDs of version 4, made many at once: each asking for randomness lets go of the interpreter, and costs more."""

from __future__ import annotations

import os

AT_ONCE = 64

_ready: list[str] = []
os.register_at_fork(after_in_child=_ready.clear)  # or parent and child would give the same ones


def random_id() -> str:
    """A new one, in any thread."""
    try:
        return _ready.pop()  # one step for the interpreter: no two threads are given the same
    except IndexError:
        first, *more = _made(AT_ONCE)
        _ready.extend(more)
        return first


def _made(count: int) -> list[str]:
    digits = os.urandom(16 * count).hex()
    return [_written(digits[at : at + 32]) for at in range(0, 32 * count, 32)]


def _written(digits: str) -> str:
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
