"""
Findings -> the edits that are certain, and a text with them; an edit that would make the file worse is not made.

An edit is small: a word, a pair of quotes, the tabs of a line. All else of the text stays, comments and layout too.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.spec.findings import Finding, close, errors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ROUNDS = 60
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_MEANT = re.compile(r'did you mean "?([\w.$-]+)"?\?')
_PATH = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d+\])*"
_HOLE = re.compile(r"\{\{\s*(" + _PATH + r")\s*\}\}")
_EXPRESSION = re.compile(r"\$\{\s*(" + _PATH + r")\s*\}")
_NOT = re.compile(r"!\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)")
_AN_IDENTIFIER = re.compile(r"0\d+\Z|[0-9]+(?::[0-9]+)+\Z|\+\d+\Z")  # 007, 12:30, +5511: no number that one counts with
_IN_AN_EXPRESSION = (
    *("name", "function", "event-path", "unknown-setting", "unknown-secret", "unknown-table", "unknown-field"),
    *("unknown-token", "unknown-lookup", "unknown-var", "unknown-step", "unknown-name", "unknown-record-field"),
)
_FOUND_LATER = _IN_AN_EXPRESSION  # of one expression only the first fault is found
_NAMES_A_KEY = (
    "unknown-key",
    "unknown-action",
    "unknown-connector",
    "unknown-setting",
    "unknown-secret",
    "unknown-table",
)
_UNITS = {
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "d"),
}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\Z")
_RATE = re.compile(r"(\d+)\s*(?:/|per)\s*(\d*)\s*([A-Za-z]+)\Z")
_SIZE = re.compile(r"(\d+)\s*(B|K|M|G|KB|MB|GB|KIB|MIB|GIB|BYTES?)\Z", re.IGNORECASE)
_SIZES = {"b": "B", "byte": "B", "bytes": "B", "kb": "KB", "mb": "MB", "gb": "GB", "kib": "KiB", "mib": "MiB"}


class Edit(NamedTuple):
    """In this line (from 1), from this column (from 1), `old` becomes `new`."""

    line: int
    column: int
    old: str
    new: str

    @property
    def end(self) -> int:
        """The column behind it."""
        return self.column + len(self.old)


class Fixed(NamedTuple):
    """A file as it was and as it can be; `edits` counts what was changed."""

    file: str
    before: str
    after: str
    edits: int


class Source:
    """The lines of a text, without the breaks between them."""

    def __init__(self, text: str) -> None:
        self.text = text
        starts = [1 if text.startswith("\ufeff") else 0, *(found.end() for found in _LINE_BREAK.finditer(text))]
        ends = [*(found.start() for found in _LINE_BREAK.finditer(text)), len(text)]
        self._spans = list(zip(starts, ends, strict=True))

    @property
    def lines(self) -> list[str]:
        return [self.text[start:end] for start, end in self._spans]

    def line(self, number: int) -> str:
        if not 0 < number <= len(self._spans):
            return ""
        start, end = self._spans[number - 1]
        return self.text[start:end]

    def with_edits(self, edits: Iterable[Edit]) -> str:
        text = self.text
        for edit in sorted(edits, reverse=True):
            start = self._spans[edit.line - 1][0] + edit.column - 1
            text = f"{text[:start]}{edit.new}{text[start + len(edit.old) :]}"
        return text

    @property
    def indent(self) -> int:
        """How many blanks a level takes in this file."""
        depths = [len(line) - len(line.lstrip(" ")) for line in self.lines if line.strip()]
        return min((depth for depth in depths if depth), default=2)


def edits_for(findings: Sequence[Finding], source: Source) -> dict[Finding, list[Edit]]:
    """What is certain of these findings of one text; no two edits overlap."""
    secret = {(each.line, each.column) for each in findings if each.rule == "secret-literal"}
    taken: list[Edit] = []
    found: dict[Finding, list[Edit]] = {}
    for finding in findings:
        if (finding.line, finding.column) in secret:
            continue
        edits = _edits(finding, source)
        real = [edit for edit in edits if edit.old != edit.new and _stands(edit, source)]
        if real and not any(_overlap(edit, other) for edit in real for other in taken):
            taken += real
            found[finding] = real
    return found


def _stands(edit: Edit, source: Source) -> bool:
    return edit.column > 0 and source.line(edit.line)[edit.column - 1 : edit.end - 1] == edit.old


def _overlap(one: Edit, other: Edit) -> bool:
    return one.line == other.line and one.column <= other.end and other.column <= one.end


def _edits(finding: Finding, source: Source) -> list[Edit]:
    line, column = source.line(finding.line), finding.column
    match finding.rule:
        case "tab":
            return _without_tabs(finding.line, source)
        case "flow-expression":
            return _quoted_expression(finding.line, column, line)
        case "unquoted":
            return _plain_word(finding, line)
        case "type" if finding.hint.startswith("quote it"):
            token = _token(line, column)
            return [Edit(finding.line, column, token, f'"{token}"')] if token and token[0] not in "\"'" else []
        case "type" if finding.hint.startswith("write "):
            token, meant = _token(line, column), finding.hint.removeprefix("write ")
            return [Edit(finding.line, column, token, meant)] if meant in ("true", "false") or meant.isdigit() else []
        case "value" if "an expression is wanted here" in finding.message:
            token = _token(line, column)
            bare = token.strip("\"'")
            return [Edit(finding.line, column, token, f'"${{ {bare} }}"')] if re.fullmatch(_PATH, bare) else []
        case "literal" if said := re.fullmatch(r"write \$\{ (.+) \}", finding.hint):
            token = _token(line, column)
            return [Edit(finding.line, column, token, f'"${{ {said[1]} }}"')] if said[1] in token else []
        case "hole" | "mixed" | "not-path":
            return _rewritten(finding, line)
        case "unit":
            return _with_unit(finding, line)
        case "value" if finding.message.endswith("written in capitals, such as POST"):
            token = _token(line, column)
            return [Edit(finding.line, column, token, token.upper())]
        case _ if (said := _MEANT.search(finding.hint)) is not None:
            return _as_meant(finding, line, said[1])
    return []


# --- what was meant ---


def _as_meant(finding: Finding, line: str, meant: str) -> list[Edit]:
    column = finding.column
    token = _token(line, column)
    bare = token.strip("\"'")
    if (finding.rule in _NAMES_A_KEY or finding.rule == "value") and close(bare, meant):
        return [Edit(finding.line, column + token.find(bare), bare, meant)]
    if finding.rule in _IN_AN_EXPRESSION and ("${" in token or "{{" in token):
        wrong, right = _paths(finding, meant)
        if wrong and close(wrong.rpartition(".")[2], right.rpartition(".")[2]) and close(wrong, right):
            where = re.compile(rf"(?<![\w.'\"`$]){re.escape(wrong)}(?!\w)")
            return [
                Edit(finding.line, column + found.start(), wrong, right)
                for found in where.finditer(token)
                if not _in_a_literal(token, found.start())
            ]
    return []


def _paths(finding: Finding, meant: str) -> tuple[str, str]:
    """What stands in the expression, and what should: `settings.domian`, `settings.domain`."""
    says = finding.message
    for words in (r"unknown (?:function|name|filter) (\w+)", r"([\w.]+) is not in the event schema"):
        if found := re.search(words, says):
            return found[1], meant
    if found := re.search(r"(\w+)\.(\w+)(?:\.(\w+))?: (?:\2 is not among|the step does not save)", says):
        root, name, key = found.groups()
        return (f"{root}.{name}.{key}", f"{root}.{name}.{meant}") if key else (f"{root}.{name}", f"{root}.{meant}")
    return "", ""


def _in_a_literal(text: str, at: int) -> bool:
    """Is this place of an expression inside '…' or `…`? The quotes around the whole scalar do not count."""
    inner = text[1:at] if text[:1] in "\"'" else text[:at]
    return inner.count("`") % 2 == 1 or (text[:1] != "'" and inner.count("'") % 2 == 1)


# --- quotes ---


def _quoted_expression(number: int, column: int, line: str) -> list[Edit]:
    end = _end_of_expression(line, column - 1)
    if end is None:
        return []
    rest = line[end:]
    if not re.match(r"\s*([,\]}]|#|\Z)", rest):  # text goes on behind it
        inside = sum(line[: column - 1].count(char) for char in "[{") > sum(
            line[: column - 1].count(char) for char in "]}"
        )
        stops = re.search(r"[,\]}]|\s#|\Z", rest) if inside else re.search(r"\s#|\s*\Z", rest)
        end += stops.start() if stops else len(rest)
    text = line[column - 1 : end].rstrip()
    if text.startswith("${") and "${" in text[2:]:
        return []
    if '"' not in text and "\\" not in text:
        return [Edit(number, column, text, f'"{text}"')]
    return [Edit(number, column, text, f"'{text}'")] if "'" not in text else []


def _end_of_expression(line: str, start: int) -> int | None:
    """Behind the `}` or `}}` that closes what begins here."""
    if line.startswith("{{", start):
        end = line.find("}}", start)
        return None if end < 0 else end + 2
    depth, quote = 0, ""
    for at in range(start, len(line)):
        char = line[at]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'`\"":
            quote = char
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return at + 1
    return None


def _plain_word(finding: Finding, line: str) -> list[Edit]:
    token = _token(line, finding.column)
    word = token.lower()
    if word in ("true", "false", "null", "~"):
        new = "null" if word == "~" else word
    elif word in ("yes", "no", "on", "off") or _AN_IDENTIFIER.match(token):
        new = f'"{token}"'
    else:
        return []
    return [Edit(finding.line, finding.column, token, new)]


def _rewritten(finding: Finding, line: str) -> list[Edit]:
    """`{{ x }}` alone, `${ x }` in a text, `!a.b`: each in the notation of its place, quotes around it stay."""
    token = _token(line, finding.column)
    pattern, new = {
        "hole": (_HOLE, r"${ \1 }"),
        "mixed": (_EXPRESSION, r"{{ \1 }}"),
        "not-path": (_NOT, r"!(\1)"),
    }[finding.rule]
    changed = pattern.sub(new, token)
    if finding.rule == "mixed" and "${" in changed:
        return []
    return [Edit(finding.line, finding.column, token, changed)]


# --- units ---


def _with_unit(finding: Finding, line: str) -> list[Edit]:
    """Only where a unit is written already, in another way, or where none is needed: 0 is 0 in every unit."""
    token = _token(line, finding.column)
    bare = token.strip("\"'")
    quote = token[: len(token) - len(token.lstrip("\"'"))]
    what = f"{finding.message} {finding.hint}"
    if "/1m" in what:
        new = _rate(bare)
    elif "KB" in what or "size" in what:
        new = _size(bare)
    else:
        new = _span(bare)
    return [Edit(finding.line, finding.column, token, f"{quote}{new}{quote}")] if new else []


def _span(text: str) -> str:
    if text == "0":
        return "0s"
    found = _SPAN.match(text)
    unit = _UNITS.get(found[2] if found and found[2] == "m" else found[2].lower()) if found else None
    return f"{found[1]}{unit}" if found and unit and found[2] != "M" else ""


def _rate(text: str) -> str:
    found = _RATE.match(text)
    unit = _UNITS.get(found[3].lower()) if found and found[3] != "M" else None
    return f"{found[1]}/{found[2] or 1}{unit}" if found and unit else ""


def _size(text: str) -> str:
    if text == "0":
        return "0B"
    found = _SIZE.match(text)
    unit = _SIZES.get(found[2].lower()) if found else None
    return f"{found[1]}{unit}" if found and unit else ""


# --- places ---


def _token(line: str, column: int) -> str:
    """The scalar that begins here: with its quotes, or as far as plain text goes in this line."""
    rest = line[column - 1 :]
    if rest[:1] == '"':
        found = re.match(r'"(?:[^"\\]|\\.)*"', rest)
    elif rest[:1] == "'":
        found = re.match(r"'(?:[^']|'')*'", rest)
    else:
        found = re.match(r"(?:(?!:(?:\s|\Z)|\s#|[,\]}]).)*", rest)
        if found and ("${" in found[0] or "{{" in found[0]):  # it can't stand in { } or [ ], so it takes the line
            found = re.match(r"(?:(?!\s#).)*", rest)
    return found[0].rstrip() if found else ""


def _without_tabs(number: int, source: Source) -> list[Edit]:
    """The indentation of this line, and of those above and below that are indented by tabs too."""

    def indentation(at: int) -> str:
        found = re.match(r"[ \t]*", source.line(at))
        return found[0] if found else ""

    width = source.indent
    edits = []
    for step in (-1, 1):
        at = number if step > 0 else number - 1
        while "\t" in (blanks := indentation(at)):
            edits.append(Edit(at, 1, blanks, blanks.replace("\t", " " * width)))
            at += step
    if not edits and (tab := source.line(number).find("\t")) >= 0:
        edits.append(Edit(number, tab + 1, "\t", " "))
    return edits


# --- files ---


def fixed(
    file: str, text: str, findings: Sequence[Finding], look: Callable[[str], Sequence[Finding]]
) -> tuple[Fixed, list[Finding]]:
    """
    The text with all edits that are certain, and what is still found in it.

    `look` gives the findings of this file for another text of it. An edit that brings a finding is not made. Errors
    come first: while there are any, some things are not looked at.
    """
    now, left, count = text, list(findings), 0
    refused: set[tuple[str, str]] = set()
    for _ in range(ROUNDS):
        source = Source(now)
        wanted = edits_for(left, source)
        wanted = {each: edits for each, edits in wanted.items() if (each.rule, each.message) not in refused}
        errors = {each: edits for each, edits in wanted.items() if each.severity == "error"}
        turn = errors or wanted
        if not turn:
            break
        together = [edit for edits in turn.values() for edit in edits]
        made = _tried(source, together, left, look)
        if made is None and len(turn) > 1:
            first, edits = next(iter(turn.items()))
            made, together = _tried(source, edits, left, look), edits
            turn = {first: edits}
        if made is None:
            refused |= {(each.rule, each.message) for each in turn}
            continue
        now, left = made
        count += len(together)
    return Fixed(file, text, now, count), left


def _tried(
    source: Source, edits: Sequence[Edit], before: Sequence[Finding], look: Callable[[str], Sequence[Finding]]
) -> tuple[str, list[Finding]] | None:
    """The text with these edits and its findings; None where it would be worse."""
    text = source.with_edits(edits)
    after = list(look(text))
    said = {(each.rule, each.message) for each in before}
    new = [each for each in after if (each.rule, each.message) not in said]
    lines = {edit.line for edit in edits}
    if not errors_in(before):  # all of it had been looked at
        return None if new else (text, after)
    there = [[each for each in errors_in(found) if each.line in lines] for found in (before, after)]
    worse = len(there[1]) > len(there[0]) or any(each in new and each.rule not in _FOUND_LATER for each in there[1])
    return None if worse or set(after) == set(before) else (text, after)


def written(change: Fixed) -> bool:
    """Put the new text in the place of the old at once; False where the file is no longer what was looked at."""
    path = Path(change.file).resolve()
    if path.read_bytes() != change.before.encode():
        return False
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(change.after.encode())
        os.chmod(name, path.stat().st_mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return True


def diff(change: Fixed, *, shown: Callable[[str], str]) -> str:
    """A unified diff; `shown` gives each line as it may be shown."""
    before, after = (text.splitlines(keepends=True) for text in (change.before, change.after))
    lines = difflib.unified_diff(before, after, f"a/{change.file}", f"b/{change.file}")
    return "".join(
        line if line.startswith(("---", "+++", "@@")) else f"{line[0]}{shown(line[1:])}" for line in _whole(lines)
    )


def _whole(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
