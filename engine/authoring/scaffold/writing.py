"""Plain data -> YAML as a person would write it, with comments; `connect new` writes its files with this."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

WIDTH = 118

_REST = r"[^\n\t\"`\\#:{}\[\]]"
_PLAIN = re.compile(rf"(?:[A-Za-zÀ-ÿ/$]|\.\./){_REST}*(?::(?=\S){_REST}*)*\Z")
_UNIT = re.compile(r"[0-9]+(?:/[0-9]+)?(?:ms|[smhd]|[KM]i?B)\Z")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_BEYOND = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Note:
    """As a key of a map: a comment above what follows it. Its value says nothing."""

    def __init__(self, text: str) -> None:
        self.text = text


class Noted(NamedTuple):
    """A value with a comment behind it."""

    value: Any
    note: str


class Inline(dict[Any, Any]):
    """A map that stands in `{ }`, where it fits into the line."""


def plain(value: Any) -> Any:
    """The data without its comments."""
    match value:
        case Noted():
            return plain(value.value)
        case Mapping():
            return {key: plain(child) for key, child in value.items() if not isinstance(key, Note)}
        case list():
            return [plain(child) for child in value]
    return value


def key_of(name: str) -> str:
    """A key that begins with $ is a directive; $$ is the key itself."""
    return f"${name}" if name.startswith("$") else name


def access(path: Sequence[str | int]) -> str:
    """`response.body.errors[0]."a-b"`, as an expression reads it."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part)
            name = part if plain else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
            text += f".{name}" if text else name
    return text


def literal(value: Any) -> Any:
    """The same value where the language evaluates what it finds: marked as a literal, if anything in it looks alive."""
    return Inline({"$literal": value}) if _alive(plain(value)) else value


def _alive(value: Any) -> bool:
    match value:
        case Mapping():
            return any(str(key).startswith("$") or _alive(child) for key, child in value.items())
        case list():
            return any(map(_alive, value))
        case str():
            return any(sign in value for sign in ("${", "{{", "{%", "{#"))
    return False


def one_line(text: str, most: int = 200) -> str:
    """Somebody else's text, fit to stand in a comment or title: one line, nothing that YAML does not take."""
    line = " ".join(_UNPRINTABLE.sub(" ", text).replace("\x85", " ").split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def block(value: Any, indent: int = 0) -> list[str]:
    """The lines of a map or list that is not empty."""
    pad = " " * indent
    if isinstance(value, Mapping):
        lines: list[str] = []
        for key, child in value.items():
            if isinstance(key, Note):
                lines += comment(key.text, indent)
            else:
                lines += _entry(f"{pad}{_text(key)}:", child, indent)
        return lines
    lines = []
    for item in value:
        lines += _item(item, indent)
    return lines


def comment(text: str, indent: int = 0) -> list[str]:
    """`# …` in lines that fit; each line of `text` begins one."""
    pad = " " * indent
    found = []
    for line in text.split("\n"):
        first, below = f"{pad}# ", f"{pad}#   "
        wrapped = textwrap.wrap(
            line, WIDTH, initial_indent=first, subsequent_indent=below, break_long_words=False, break_on_hyphens=False
        )
        found += wrapped or [f"{pad}#"]
    return found


def _entry(head: str, child: Any, indent: int) -> list[str]:
    note = child.note if isinstance(child, Noted) else ""
    value = child.value if isinstance(child, Noted) else child
    if isinstance(value, Mapping | list) and value and not _fits(head, value):
        return _with_note(head, note, indent, block(value, indent + 2))
    return _with_note(f"{head} {_flow(value) if isinstance(value, Mapping | list) else _scalar(value)}", note, indent)


def _item(item: Any, indent: int) -> list[str]:
    pad = " " * indent
    note = item.note if isinstance(item, Noted) else ""
    value = item.value if isinstance(item, Noted) else item
    if not isinstance(value, Mapping | list) or not value or _fits(f"{pad}-", value):
        text = _flow(value) if isinstance(value, Mapping | list) else _scalar(value)
        return _with_note(f"{pad}- {text}", note, indent)
    lines = block(value, indent + 2)
    first = next(at for at, line in enumerate(lines) if not line.lstrip().startswith("#"))
    lines[first] = f"{pad}- {lines[first][indent + 2 :]}"
    return [*(comment(note, indent) if note else []), *(line[2:] for line in lines[:first]), *lines[first:]]


def _with_note(line: str, note: str, indent: int, below: list[str] | None = None) -> list[str]:
    if not note:
        return [line, *(below or [])]
    whole = f"{line}  # {note}"
    if len(whole) <= WIDTH:
        return [whole, *(below or [])]
    return [*comment(note, indent), line, *(below or [])]


def _fits(head: str, value: Any) -> bool:
    """Short enough, and made to stand in one line: an `Inline`, or a list of such and of scalars."""
    return _inline(value) and len(head) + 1 + len(_flow(value)) <= WIDTH


def _inline(value: Any) -> bool:
    if isinstance(value, Inline):
        return all(not isinstance(key, Note) and _inside(child) for key, child in value.items())
    return isinstance(value, list) and all(_inside(child) for child in value)


def _inside(value: Any) -> bool:
    if isinstance(value, Noted):
        return False
    return _inline(value) if isinstance(value, Mapping | list) and value else True


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key, flow=True)}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(child) for child in value) + "]"
    return _scalar(value, flow=True)


def _scalar(value: Any, *, flow: bool = False) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Decimal():
            return f"{value:f}"
    return _text(str(value), flow=flow)


def _text(text: str, *, flow: bool = False) -> str:
    if _UNPRINTABLE.search(text) or re.search("[\n\r\t\x85\u2028\u2029]", text):
        return _double(text)
    if text.startswith("${") and not flow and not re.search(": | #", text):
        return text
    if "{{" in text or "${" in text or "{%" in text:
        return f"'{text}'" if "'" not in text and '"' in text else _double(text)
    ends_well = text == text.strip() and not text.endswith(":")
    fits = ends_well and text.lower() not in _WORDS and " #" not in text and not (flow and re.search("[:,]", text))
    if _UNIT.match(text) or (_PLAIN.match(text) and fits):
        return text
    return "'" + text.replace("'", "''") + "'"


def _double(text: str) -> str:
    """JSON's escapes are YAML's, too, but for pairs of surrogates."""
    return _BEYOND.sub(lambda found: f"\\U{ord(found[0]):08x}", json.dumps(text, ensure_ascii=False))
