"""What the generated code calls: reading, comparing and writing values by the rules of docs/language.md, section 1."""

from __future__ import annotations

import re
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engine.errors import BadValue
from engine.errors import TooMuch as TooMuch
from engine.functions import values as values_

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ITEMS = 100_000
MAX_TEXT = 1_000_000
MAX_STEPS = 5_000_000  # of one expression or tree, over all its loops: seconds, and some 40 MB of text
MAX_NODES = 5_000_000  # values in what one gives
MAX_WEIGHT = 100_000_000  # characters in it
MAX_LEVELS = 200
NUMBERS = (int, Decimal)
KINDS = {
    str: "text",
    int: "number",
    Decimal: "number",
    bool: "boolean",
    list: "list",
    dict: "object",
    type(None): "null",
}


def kind(value: Any) -> str:
    """text | number | boolean | list | object | null."""
    return KINDS.get(type(value), "any")


def item(value: Any, position: int) -> Any:
    if value.__class__ is list and -len(value) <= position < len(value):
        return value[position]
    return None


def cut(value: Any, first: int | None, last: int | None, step: int | None) -> Any:
    return value[slice(first, last, step)] if value.__class__ is list else None


Work = list[int]  # the steps that are left to one run, in a list of one


def spend(work: Work, steps: int) -> None:
    work[0] -= steps
    if work[0] < 0:
        raise TooMuch(f"more than {MAX_STEPS:,} steps; loops within loops over long lists")


def metered(work: Work, call: Callable[..., Any], *arguments: Any) -> Any:
    """A function called in a loop: a step, one for each item or key of what it is given, and some for long texts."""
    steps = 1
    for value in arguments:
        if value.__class__ is str:
            steps += len(value) >> 4
        elif value.__class__ in DEEP:
            steps += len(value)
    spend(work, steps)
    return written(work, call(*arguments))


def metered_quick(work: Work, call: Callable[..., Any], *arguments: Any) -> Any:
    """One that takes as long for a long list as for a short one."""
    spend(work, 1)
    return call(*arguments)


def metered_slow(work: Work, call: Callable[..., Any], *arguments: Any) -> Any:
    """One that takes long for long texts, in a loop or not: a step for each character."""
    spend(work, 1 + sum(len(value) for value in arguments if value.__class__ is str))
    return written(work, call(*arguments))


def metered_deep(work: Work, call: Callable[..., Any], *arguments: Any) -> Any:
    """One that compares or writes whole values, which is paid for as it is done."""
    values_.PAYING.work = work
    try:
        return metered(work, call, *arguments)
    finally:
        values_.PAYING.work = None


def written(work: Work, value: Any) -> Any:
    """A text that was made in a loop, where many of them may pile up."""
    if value.__class__ is str:
        spend(work, len(value) >> 3)
    return value


DEEP = (dict, list)


def weighed(value: Any, work: Work | None = None, known: Any = None) -> Any:
    """
    The value, if it is of a size that can be written down; TooMuch where the same list or object is in it so often that
    it would be larger, which costs nothing until then. `work` pays for the look.

    Of the records of a batch that have been written down (`known`, an Encoded) the size is at most that of their bytes,
    and they are not looked through again where that is little enough.
    """
    level = [value] if value.__class__ in DEEP else []
    levels = nodes = characters = 0
    written_down = known.records if known is not None else level  # nothing is the list that was just made
    while level:
        below: list[Any] = []
        for each in level:
            nodes += len(each) + 1
            for child in each.values() if each.__class__ is dict else each:
                if child.__class__ is str:
                    characters += len(child)
                elif child.__class__ in DEEP:
                    if child is written_down and levels + 1 + known.levels <= MAX_LEVELS:
                        size = len(known.raw)
                        if nodes + size <= MAX_NODES and characters + size <= MAX_WEIGHT:
                            nodes, characters = nodes + size, characters + size
                            continue
                    below.append(child)
            if nodes > MAX_NODES or characters > MAX_WEIGHT:
                raise TooMuch(f"a value with more than {MAX_NODES:,} parts or {MAX_WEIGHT:,} characters")
        levels += 1
        if levels > MAX_LEVELS:
            raise TooMuch(f"a value nested more than {MAX_LEVELS} levels deep")
        level = below
    if work is not None:
        spend(work, nodes + (characters >> 6))
    return value


def true(value: Any) -> bool:
    """Absent, false, "", [] and {} are false; all else, 0 too, is true."""
    return True if value.__class__ in NUMBERS else bool(value)


def same(left: Any, right: Any, work: Work | None = None) -> bool:
    """Equal, types strict: 1 is not true and not "1"; 1 equals 1.0. In a loop `work` pays for it."""
    if left.__class__ is right.__class__:
        if left.__class__ in DEEP:
            left, right = weighed(left, work), weighed(right, work)
            return bool(values_.identity(left) == values_.identity(right))
        return bool(left == right)
    return left.__class__ in NUMBERS and right.__class__ in NUMBERS and bool(left == right)


def ordered(left: Any, operator: str, right: Any) -> bool | None:
    """An order between numbers; between other things it is absent."""
    if left.__class__ not in NUMBERS or right.__class__ not in NUMBERS:
        return None
    if operator == "lt":
        return bool(left < right)
    if operator == "lte":
        return bool(left <= right)
    return bool(left > right) if operator == "gt" else bool(left >= right)


def compact(value: Any) -> Any:
    return [entry for entry in value if entry is not None] if value.__class__ is list else None


def solid(value: dict[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in value.items() if entry is not None}


def values(value: Any) -> Any:
    return list(value.values()) if value.__class__ is dict else None


def flat(value: Any, work: Work) -> Any:
    if value.__class__ is not list:
        return None
    spend(work, sum(len(entry) if entry.__class__ is list else 1 for entry in value))
    out: list[Any] = []
    for entry in value:
        out.extend(entry) if entry.__class__ is list else out.append(entry)
    return out


def bounded(value: Any, work: Work | None = None) -> list[Any]:
    """
    What a loop goes over: nothing for absent, a list of at most 100,000 items; anything else is a BadValue.

    `work` pays a step for each.
    """
    if value is None:
        return []
    if value.__class__ is not list:
        raise BadValue(f"a list is needed, got {kind(value)}")
    if len(value) > MAX_ITEMS:
        raise TooMuch(f"a list of {len(value)} items; {MAX_ITEMS} is the most")
    if work is not None:
        spend(work, len(value))
    found: list[Any] = value
    return found


plain = values_.printed  # a number, boolean or text as text: all digits, no exponent, true and false


def text(value: Any, name: str) -> str | None:
    """One hole of a text; absent stays absent."""
    if value is None:
        return None
    if value.__class__ is str:
        found: str = value
        return found
    if value.__class__ is int and -MAX_STEPS < value < MAX_STEPS:  # within all caps
        return str(value)
    try:
        return plain(value)
    except BadValue:
        raise BadValue(f"{name} is {kind(value)} and can't stand in a text") from None


def must(value: Any, name: str) -> str:
    """One hole where absent is not allowed: auth, hosts, methods, query texts."""
    found = text(value, name)
    if found is None:
        raise BadValue(f"{name} is absent")
    return found


def segment(value: Any, name: str) -> str:
    """One hole of a path: exactly one encoded segment."""
    found = must(value, name)
    if found in ("", ".", ".."):
        raise BadValue(f"{name} is {found!r}, which can't be a part of a path")
    return quote(found, safe="")


_HOST = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
_HOST_NAME = re.compile(rf"{_HOST}\Z")
_BASE = re.compile(rf"https://{_HOST}(?::443)?(?:/[^\x00-\x20\x7f?#\\]*)?\Z", re.IGNORECASE)
_LINK = re.compile(r"(?:https?://|mailto:)[^\x00-\x20\x7f][^\x00-\x1f\x7f]*\Z", re.IGNORECASE)


def url_host(value: Any, name: str) -> str:
    """One hole in the host of a URL: a label, or a whole name."""
    found = must(value, name)
    if not _HOST_NAME.match(found):
        raise BadValue(f"{name} is no name of a host: letters, digits, - and dots")
    return found


def url_base(value: Any, name: str) -> str:
    """The hole that a URL begins with: https, a host, and maybe a path."""
    found = must(value, name)
    if not _BASE.match(found):
        raise BadValue(f"{name} is no https address that something can be put behind")
    return found


def url_value(value: Any, name: str) -> str:
    """One hole behind the ? of a URL."""
    return quote(must(value, name), safe="")


def html(value: Any, name: str) -> str | None:
    """One hole in a text or a double-quoted attribute of HTML."""
    found = text(value, name)
    return None if found is None else escape(found)


def html_link(value: Any, name: str) -> str | None:
    """A whole link; of what is not http, https or mailto only `#` is left, so that the text around it is not lost."""
    found = text(value, name)
    return None if found is None else escape(found) if _LINK.match(found) else "#"


def html_part(value: Any, name: str) -> str | None:
    """A part of a link whose beginning is written."""
    found = text(value, name)
    return None if found is None else quote(found, safe="")


def html_mail(value: Any, name: str) -> str | None:
    """An address behind `mailto:`."""
    found = text(value, name)
    return None if found is None else quote(found, safe="@")


def concat(parts: tuple[str | None, ...]) -> str | None:
    """The parts of a text, or absent if one of them is."""
    if None in parts:
        return None
    whole = "".join(parts)  # type: ignore[arg-type]
    if len(whole) > MAX_TEXT:
        raise TooMuch(f"a text of {len(whole)} characters; {MAX_TEXT} is the most")
    return whole


def too_long(whole: str) -> None:
    """A text above its cap that was made without `concat`."""
    raise TooMuch(f"a text of {len(whole)} characters; {MAX_TEXT} is the most")


def digits(value: Any) -> str | None:
    """A number within the caps as text, as `plain` writes it."""
    return None if value is None else str(value) if value.__class__ is int else format(value, "f")


class Ready(str):
    """A text that is already right for where it goes; the hole passes it through."""

    __slots__ = ()


_SOQL = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f", "\0": ""}
)


_UNIT = "\x1f"  # a character that stands for itself in both


def soql(value: Any, name: str) -> str:
    """One hole of a SOQL text: a quoted literal, a number, a boolean, or a list of these in parentheses."""
    return quoted(value, name, lambda text: text.translate(_SOQL))


def sql(value: Any, name: str) -> str:
    """One hole of a text in standard SQL, where a quote is doubled and a backslash stands for itself."""
    return quoted(value, name, sql_text)


def sql_text(text: str) -> str:
    return text.replace("\0", "").replace("'", "''")


def quoted(value: Any, name: str, escape: Callable[[str], str]) -> str:
    if value.__class__ is Ready:
        return str(value)
    if value is None:
        raise BadValue(f"{name} is absent")
    if value.__class__ is list:
        if not value:
            raise BadValue(f"{name} is an empty list")
        if set(map(type, value)) == {str} and (whole := _UNIT.join(value)).count(_UNIT) == len(value) - 1:
            return "('" + escape(whole).replace(_UNIT, "','") + "')"  # many keys at once, twenty times as fast
        return "(" + ",".join(quoted(entry, name, escape) for entry in value) + ")"
    if value.__class__ is str:
        return "'" + escape(value) + "'"
    return must(value, name)


def soql_name(value: Any) -> Ready:
    """An identifier: letters, digits, `_`, and dots between them."""
    if value.__class__ is not str or not all(part.isascii() and part.isidentifier() for part in value.split(".")):
        raise BadValue("a name in a query has letters, digits and _ only")
    return Ready(value)


def soql_like(value: Any) -> Ready:
    """A pattern for LIKE whose own % and _ are literal, with % around it."""
    found = must(value, "a pattern").translate(_SOQL).replace("%", "\\%").replace("_", "\\_")
    return Ready(f"'%{found}%'")


sql_name = soql_name


def sql_like(value: Any) -> Ready:
    """The same in standard SQL, which has no escape of its own and is told one."""
    found = sql_text(must(value, "a pattern")).replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return Ready(f"'%{found}%' ESCAPE '!'")


HELPERS: dict[str, Any] = {
    function.__name__: function
    for function in (
        item, cut, same, ordered, compact, solid, values, flat, bounded, text, must, digits, spend, too_long,
        metered, metered_quick, metered_slow, metered_deep, weighed,
        segment, url_host, url_base, url_value, html, html_link, html_part, html_mail, concat, soql, soql_name,
        soql_like, sql, sql_like,
    )
} | {"sql_name": sql_name, "NO_KEYS": {}, "Decimal": Decimal, "TooMuch": TooMuch}  # fmt: skip
