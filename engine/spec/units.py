"""`15m`, `1MB`, `120/1m`, `5xx`: units as written, to seconds, bytes, pairs and tests."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 4_000  # tests: each client's program has the same ones
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z", re.ASCII)
_SIZE = re.compile(r"(\d+)(B|KB|MB|GB|KiB|MiB|GiB)\Z", re.ASCII)
_RATE = re.compile(r"(\d+)/(\S+)\Z", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


class Rate(NamedTuple):
    uses: int
    per_s: float


class UnitError(ValueError):
    """A text that is not in the unit asked for; the message says how it is written."""


def duration(text: Any) -> float:
    """Seconds of `250ms 10s 15m 4h 7d`."""
    if not isinstance(text, str) or not (match := _DURATION.match(text.strip())):
        raise UnitError(f"{text!r} is not a duration; write it as 250ms, 10s, 15m, 4h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def size(text: Any) -> int:
    """Bytes of `512KiB 1MB`."""
    if not isinstance(text, str) or not (match := _SIZE.match(text.strip())):
        raise UnitError(f"{text!r} is not a size; write it as 200B, 6KB, 512KiB or 1MB")
    return int(match[1]) * _BYTES[match[2]]


def rate(text: Any) -> Rate:
    """`120/1m` as a count and the seconds it is for."""
    if not isinstance(text, str) or not (match := _RATE.match(text.strip())) or int(match[1]) < 1:
        raise UnitError(f"{text!r} is not a rate; write it as 120/1m or 10/1s")
    if (per_s := duration(match[2])) <= 0:
        raise UnitError(f"{text!r} is not a rate; its time is 0")
    return Rate(int(match[1]), per_s)


def statuses(spec: Any) -> Callable[[int], bool]:
    """A test for `429`, `5xx`, `400-422` or a list of these; one for all who ask for the same."""
    parts = spec if isinstance(spec, list) else [spec]
    for part in parts:
        if _bounds(str(part)) is None:
            raise UnitError(f"{part!r} is not a status; write it as 429, 5xx or 400-422")
    return _status_test(tuple(map(str, parts)))


@lru_cache(KEPT)
def _status_test(parts: tuple[str, ...]) -> Callable[[int], bool]:
    wanted = [bounds for part in parts if (bounds := _bounds(part)) is not None]
    return lambda status: any(low <= status <= high for low, high in wanted)


@lru_cache(KEPT)
def _bounds(text: str) -> tuple[int, int] | None:
    if re.fullmatch(r"[1-5]xx", text):
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    match = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", text, re.ASCII)
    if match is None or int(match[1]) > int(match[2] or match[1]):
        return None
    return int(match[1]), int(match[2] or match[1])


def codes(spec: Any) -> Callable[[Any], bool]:
    """A test for a vendor's code, compared as text; a `*` at an end stands for anything there."""
    return _code_test(tuple(str(part) for part in (spec if isinstance(spec, list) else [spec])))


@lru_cache(KEPT)
def _code_test(wanted: tuple[str, ...]) -> Callable[[Any], bool]:
    whole = {part for part in wanted if "*" not in (part[:1], part[-1:])}
    starts = tuple(part[:-1] for part in wanted if part.endswith("*") and not part.startswith("*"))
    ends = tuple(part[1:] for part in wanted if part.startswith("*") and not part.endswith("*"))
    inside = tuple(part[1:-1] for part in wanted if part.startswith("*") and part.endswith("*"))

    def holds(code: Any) -> bool:
        if code is None:
            return False
        text = str(code)
        return text in whole or text.startswith(starts) or text.endswith(ends) or any(part in text for part in inside)

    return holds
