"""A reason in the engine's own words -> the same in Portuguese; what a vendor or a connector says stays as it is."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import NamedTuple

from engine.dashboard.texts_reasons import KINDS, LONG, REASONS

ONE = r"\S+?"
_HOLE = re.compile(r"\{(\w+)\}")
_PLACE = re.compile(r"(\S+?: )(.+)", re.DOTALL)  # a field, a function, a secret: before what is said of it
_IN_PORTUGUESE = dict(KINDS)
_EACH = "|".join(map(re.escape, sorted(_IN_PORTUGUESE, key=len, reverse=True)))
_KIND = re.compile(rf"\b(?:{_EACH})(?!\w)")
# What a hole can hold; a kind that was got may have the value behind it, which stays.
_HOLES = dict.fromkeys(LONG, ".+?") | {
    "got": rf"(?:(?:text|number|boolean) (?:\".*?\"|\S+?)|{_EACH})",
    "needed": rf"(?:{_EACH})(?:(?:, | or )(?:{_EACH})|(?: such as| or) \S+?)*",
}


class Reason(NamedTuple):
    """A text and the language that it is in, as HTML names it."""

    text: str
    language: str


class _Rule(NamedTuple):
    plain: str  # the longest part without a hole: where it is missing, nothing fits
    english: re.Pattern[str]
    portuguese: str


@cache
def _rules() -> list[_Rule]:
    rules = []
    for english, portuguese in REASONS:
        parts = _HOLE.split(english)  # text, name, text, name, …, text
        pattern = "".join(
            f"(?P<{part}>{_HOLES.get(part, ONE)})" if at % 2 else re.escape(part) for at, part in enumerate(parts)
        )
        rules.append(_Rule(max(parts[::2], key=len), re.compile(pattern, re.DOTALL), portuguese))
    return rules


def reason_in(text: str, language: str) -> Reason:
    """The reason in the language of the page, where it is one of ours."""
    if language == "pt" and (said := _portuguese(text)) is not None:
        return Reason(said, "pt-BR")
    return Reason(text, "en")


@lru_cache(maxsize=2_000)
def _portuguese(text: str) -> str | None:
    for plain, english, portuguese in _rules():
        if plain in text and (found := english.fullmatch(text)) is not None:
            return portuguese.format_map({name: _filled(name, part) for name, part in found.groupdict().items()})
    if (placed := _PLACE.fullmatch(text)) is not None and (said := _portuguese(placed[2])) is not None:
        return f"{placed[1]}{said}"
    return None


def _filled(name: str, part: str) -> str:
    if name == "said":
        return _portuguese(part) or part
    if name == "needed":
        return _KIND.sub(lambda found: _IN_PORTUGUESE[found[0]], part)
    if name == "got" and (kind := _KIND.match(part)) is not None:
        return f"{_IN_PORTUGUESE[kind[0]]}{part[kind.end() :]}"
    return part
