"""What is wrong with a file that a person wrote, and where: one line an editor can jump to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

Severity = Literal["error", "warning"]


class Finding(msgspec.Struct, frozen=True, order=True):
    """Line and column count from 1; `hint` is what to write instead. Sorts by file, line, column."""

    file: str
    line: int
    column: int
    rule: str
    severity: Severity
    message: str
    hint: str = ""

    def __str__(self) -> str:
        says = f"{self.message}; {self.hint}" if self.hint else self.message
        return f"{self.file}:{self.line}:{self.column}: {says} [{self.rule}]"


def in_file_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted, and each only once."""
    return sorted(set(findings))


def errors_in(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "token"?`, or an empty text when nothing is close."""
    nearest = nearest_to(word, known)
    return f'did you mean "{nearest}"?' if nearest else ""


def nearest_to(word: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant; one that differs only in capitals, `-` and `_` before all others."""
    import difflib  # only where something is wrong

    names = list(known)
    nearest = [name for name in names if alike(name, word)] or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return nearest[0] if nearest else None


def alike(word: str, other: str) -> bool:
    """Are they one but for capitals, `-` and `_`?"""
    return _letters(word) == _letters(other)


def _letters(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")


def close(word: str, other: str) -> bool:
    """At most two letters apart, one in a short word; capitals do not count."""
    word, other = word.lower(), other.lower()
    most = 1 if min(len(word), len(other)) <= 4 else 2
    return abs(len(word) - len(other)) <= most and _distance(word, other) <= most


def _distance(word: str, other: str) -> int:
    """Letters put in, left out, exchanged, or swapped with their neighbour."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(word, 1):
        two_before, before = before, row
        row = [at]
        for to, wanted in enumerate(other, 1):
            cost = min(before[to] + 1, row[to - 1] + 1, before[to - 1] + (letter != wanted))
            if at > 1 and to > 1 and letter == other[to - 2] and word[at - 2] == wanted:
                cost = min(cost, two_before[to - 2] + 1)
            row.append(cost)
    return row[-1]


def dotted(path: Iterable[str | int]) -> str:
    """`actions.view.require[0].that`, as messages name a place."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
