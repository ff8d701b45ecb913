"""Findings as text with the line and a caret, as GitHub annotations, as SARIF 2.1.0, or as JSON."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engine.errors import UsageError
from engine.spec.fix import Source, edits_for
from engine.spec.shipped import bundled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.spec.findings import Finding
    from engine.spec.fix import Edit

WIDTH = 80
FIXABLE = "fixable: run `connect validate --fix`"
ROOT = "%SRCROOT%"
_SECRETS = re.compile(r"\b(secrets|keys)[\"']?\s*:")
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_COLOURS = {"error": "\x1b[31m", "warning": "\x1b[33m"}
_PLAIN = "\x1b[0m"


def report(findings: Sequence[Finding], form: str, *, files: int, tty: bool = False, width: int = WIDTH) -> str:
    """
    `form` is text, github, sarif or json; `files` is how many were looked at.

    The text has no line break at its end. On a terminal (`tty`) it has colours and is as wide as `width`.
    """
    if form not in FORMS:
        raise UsageError(f"no report is called {form}; known are {', '.join(FORMS)}")
    if form == "text":
        return text(findings, files=files, tty=tty, width=width)
    return FORMS[form](findings)


def text(findings: Sequence[Finding], *, files: int, tty: bool = False, width: int = WIDTH) -> str:
    """Each finding, its line with a caret, its hint, whether it can be fixed; at the end how many there are."""
    lines = _Lines()
    fixes = lines.fixes(findings)
    blocks = [
        _block(finding, lines, fixable=finding in fixes, tty=tty, width=width if tty else WIDTH) for finding in findings
    ]
    return "\n\n".join([*blocks, summary(findings, files=files)])


def summary(findings: Sequence[Finding], *, files: int) -> str:
    """`3 errors, 1 warning in 7 files`."""
    count = Counter(finding.severity for finding in findings)
    kinds = [_counted(count[kind], kind) for kind in ("error", "warning") if count[kind]]
    return f"{', '.join(kinds) or 'no findings'} in {_counted(files, 'file')}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _block(finding: Finding, lines: _Lines, *, fixable: bool, tty: bool, width: int) -> str:
    colour, plain = (_COLOURS[finding.severity], _PLAIN) if tty else ("", "")
    place = f"{finding.file}:{finding.line}:{finding.column}: "
    kind = "warning: " if finding.severity == "warning" else ""
    says = _wrapped(f"{place}{kind}{_one_line(finding.message)} [{finding.rule}]", width, "    ")
    parts = [f"{colour}{says}{plain}" if tty else says]
    source = lines.of(finding.file, finding.line)
    if source.strip():
        parts += _excerpt(source, finding.column, width - 4)
    if finding.hint:
        parts.append(_wrapped(f"    {_one_line(finding.hint)}", width, "    "))
    if fixable:
        parts.append(f"    {FIXABLE}")
    return "\n".join(parts)


def _excerpt(source: str, column: int, room: int) -> list[str]:
    """The line and a caret below; of a long line the part around it."""
    shown, at = source.replace("\t", " "), column - 1
    if len(shown) > room:
        first = max(0, min(at - room // 2, len(shown) - room))
        shown, at = shown[first : first + room], at - first
    else:
        indent = len(shown) - len(shown.lstrip())
        cut = min(indent, max(at, 0))
        shown, at = shown[cut:], at - cut
    return [f"    {_printable(shown.rstrip())}", f"    {' ' * max(at, 0)}^"]


def _wrapped(line: str, width: int, indent: str) -> str:
    return "\n".join(
        textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [line]
    )


def _one_line(line: str) -> str:
    return _printable(" ".join(line.split()))


def _printable(line: str) -> str:
    """No control character of a file reaches the terminal."""
    return "".join(char if char.isprintable() else "�" for char in line)


class _Lines:
    """Source lines, each file read once; of a client's secrets none, for one may be written out there."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._shown: dict[str, list[str]] = {}

    def source(self, file: str) -> Source:
        if file not in self._sources:
            try:
                text = Path(file).read_bytes().decode("utf-8-sig") if Path(file).is_file() else ""
            except (OSError, UnicodeDecodeError):
                text = ""
            self._sources[file] = Source(text)
        return self._sources[file]

    def of(self, file: str, line: int) -> str:
        if file not in self._shown:
            self._shown[file] = without_secrets(self.source(file).lines)
        lines = self._shown[file]
        return lines[line - 1] if 0 < line <= len(lines) else ""

    def fixes(self, findings: Sequence[Finding]) -> dict[Finding, list[Edit]]:
        """The certain ones; none in a line that may hold a secret."""
        by_file: dict[str, list[Finding]] = {}
        for finding in findings:
            by_file.setdefault(finding.file, []).append(finding)
        found: dict[Finding, list[Edit]] = {}
        for file, those in by_file.items():
            for finding, edits in edits_for(those, self.source(file)).items():
                if all(self.of(file, edit.line) for edit in edits):
                    found[finding] = edits
        return found


def without_secrets(lines: list[str]) -> list[str]:
    """The lines of a file; those of a client that may hold a secret are empty."""
    if not any(line.lstrip().startswith("client:") for line in lines):
        return lines
    shown: list[str] = []
    inside: int | None = None  # how far the key is indented that secrets stand below
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        if inside is not None and line.strip() and indent <= inside and not line.lstrip().startswith(("-", "]", "}")):
            inside = None
        if inside is None and _SECRETS.search(line):
            inside = indent
        shown.append("" if inside is not None else line)
    return shown


def github(findings: Sequence[Finding]) -> str:
    """Workflow commands, which GitHub shows beside the line."""
    return "\n".join(
        f"::{finding.severity} file={_property(finding.file)},line={finding.line},col={finding.column},"
        f"title={_property(finding.rule)}::{_data(_whole(finding))}"
        for finding in findings
    )


def _whole(finding: Finding) -> str:
    return f"{finding.message}; {finding.hint}" if finding.hint else finding.message


def _data(said: str) -> str:
    return said.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(said: str) -> str:
    return _data(said).replace(":", "%3A").replace(",", "%2C")


def as_json(findings: Sequence[Finding]) -> str:
    """Every finding with its fields, and with the edits that would mend it for certain."""
    fixes = _Lines().fixes(findings)
    listed = [{**_fields(finding), "fix": [edit._asdict() for edit in fixes.get(finding, ())]} for finding in findings]
    return json.dumps({"findings": listed}, ensure_ascii=False, indent=2)


def _fields(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in finding.__struct_fields__}


def sarif(findings: Sequence[Finding]) -> str:
    """One run; every rule that is broken is listed, as the page of the language describes it."""
    rules = sorted({finding.rule for finding in findings})
    fixes = _Lines().fixes(findings)
    run = {
        "tool": {
            "driver": {"name": "connect validate", "version": _version(), "rules": [_rule(each) for each in rules]}
        },
        "originalUriBaseIds": {ROOT: {"description": {"text": "the directory that connect was run in"}}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(each, rules.index(each.rule), fixes.get(each, ())) for each in findings],
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, ensure_ascii=False, indent=2)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("daxgo-connect")
    except PackageNotFoundError:
        return "0"


def _rule(rule: str) -> dict[str, Any]:
    wrong, instead = described().get(rule, (rule.replace("-", " "), ""))
    said = f"{wrong[:1].upper()}{wrong[1:]}."
    known = {"id": rule, "shortDescription": {"text": said}}
    if not instead:
        return known
    return {
        **known,
        "help": {"text": f"{said} Write instead: {instead}", "markdown": f"{said}\n\nWrite instead: {instead}"},
    }


@cache
def described() -> dict[str, tuple[str, str]]:
    """Of each rule what is wrong and what to write instead, from the table of docs/language.md."""
    try:
        page = (bundled("docs") / "language.md").read_text(encoding="utf-8")
    except OSError:
        return {}
    table = page.partition("\n## 24. Findings")[2]
    rows = (re.split(r"(?<!\\)\|", line) for line in table.splitlines() if line.startswith("| `"))
    return {
        cells[1].strip(" `"): tuple(_unlinked(cell) for cell in cells[2:4])  # type: ignore[misc]
        for cells in rows
        if len(cells) > 4
    }


def _unlinked(cell: str) -> str:
    """Without links, which lead nowhere from a report."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell).replace("\\|", "|").strip()


def _result(finding: Finding, rule: int, edits: Sequence[Edit]) -> dict[str, Any]:
    place = _artifact(finding.file)
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": rule,
        "level": finding.severity,
        "message": {"text": _whole(finding)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": place,
                    "region": {"startLine": finding.line, "startColumn": finding.column},
                }
            }
        ],
    }
    if edits:
        replaced = [
            {
                "deletedRegion": {
                    "startLine": edit.line,
                    "startColumn": edit.column,
                    "endLine": edit.line,
                    "endColumn": edit.end,
                },
                "insertedContent": {"text": edit.new},
            }
            for edit in edits
        ]
        result["fixes"] = [
            {
                "description": {"text": finding.hint or "as the rule says"},
                "artifactChanges": [{"artifactLocation": place, "replacements": replaced}],
            }
        ]
    return result


def _artifact(file: str) -> dict[str, str]:
    """From the directory that connect was run in; what lies outside of it, whole."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    if path.is_absolute():
        return {"uri": path.as_uri()}
    return {"uri": quote(path.as_posix()), "uriBaseId": ROOT}


FORMS: dict[str, Callable[[Sequence[Finding]], str]] = {
    "text": lambda findings: text(findings, files=len({finding.file for finding in findings})),
    "github": github,
    "sarif": sarif,
    "json": as_json,
}
