"""What is wrong with a file that a person wrote, and where: one line an editor can jump to."""

from __future__ import annotations

import difflib
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
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def dotted(path: Iterable[str | int]) -> str:
    """`actions.view.require[0].that`, as messages name a place."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
