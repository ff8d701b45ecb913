"""Texts: what `text` needs is a text; `string` makes one of a number or a boolean."""

import re
import unicodedata
from functools import lru_cache
from typing import Any

import re2

from engine.errors import BadValue
from engine.functions.definition import function
from engine.functions.values import MAX_ITEMS, Budget, Scalar, described, identity, printed

_MAX_PATTERN = 1_000
_LETTERS = str.maketrans({"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})


@function(
    "A text: numbers with all their digits and never an exponent, booleans as true and false.",
    ((5,), "5"),
    ((True,), "true"),
    (("007",), "007"),
)
def string(subject: Scalar) -> str:
    return printed(subject)


@function("In lower case.", (("User@Example.COM",), "user@example.com"))
def lower(subject: str) -> str:
    return subject.lower()


@function("In upper case.", (("são paulo",), "SÃO PAULO"))
def upper(subject: str) -> str:
    return subject.upper()


@function("Without white space at both ends.", (("  ana  ",), "ana"))
def trim(subject: str) -> str:
    return subject.strip()


@function("Each word with a capital first letter and the rest in lower case.", (("ANA d'ávila",), "Ana D'ávila"))
def title(subject: str) -> str:
    return re.sub(r"\S+", lambda word: word[0][:1].upper() + word[0][1:].lower(), subject)


@function(
    "Lower-case letters a to z and digits, all else one `separator`; accents are taken off.",
    (("Câmera DSLR – 24 MP!",), "camera-dslr-24-mp"),
    (("Câmera DSLR", "_"), "camera_dslr"),
)
def slug(subject: str, separator: str = "-") -> str:
    letters = unicodedata.normalize("NFKD", subject.lower().translate(_LETTERS))
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    words = re.findall(r"[a-z0-9]+", bare)
    return _joined(words, separator)


@function(
    "A hard cut after `length` characters, or bytes of UTF-8, without an ellipsis; no character is split.",
    (("Câmera DSLR", 6), "Câmera"),
    (("Câmera DSLR", 6, "bytes"), "Câmer"),
    (("São", 2, "bytes"), "S"),
)
def truncate(subject: str, length: int, unit: str = "characters") -> str:
    if length < 0:
        raise BadValue(f"`length` is 0 or more, got {length}")
    match unit:
        case "characters":
            cut = subject[:length]
            half_a_pair = len(cut) < len(subject) and "\ud800" <= cut[-1:] <= "\udbff"
            return cut[:-1] if half_a_pair else cut
        case "bytes":
            return subject.encode()[:length].decode(errors="ignore")
    raise BadValue(f"`unit` is 'characters' or 'bytes', got {described(unit)}")


@function(
    "The part of a text or list from `start` up to, without, `end`, counted from 0, or from the end if negative.",
    (("2026-01-28", 0, 4), "2026"),
    (("2026-01-28", -2), "28"),
    (([1, 2, 3, 4], 1, 3), [2, 3]),
)
def slice_(subject: str | list[Any], start: int, end: int | None = None) -> Any:
    return subject[start:end]


@function("Every `old` replaced by `new`.", (("3.499,90", ".", ""), "3499,90"))
def replace(subject: str, old: str, new: str) -> str:
    if not old:
        raise BadValue("`old` must not be empty")
    Budget().spend(len(subject) + subject.count(old) * (len(new) - len(old)))
    return subject.replace(old, new)


@function(
    "The pieces between separators; with `limit` at most so many, the last of which holds the rest.",
    (("a,b,c", ","), ["a", "b", "c"]),
    (("Ana Maria Braga", " ", 2), ["Ana", "Maria Braga"]),
)
def split(subject: str, separator: str, limit: int | None = None) -> list[Any]:
    if not separator:
        raise BadValue("`separator` must not be empty")
    if limit is not None and limit < 1:
        raise BadValue(f"`limit` is 1 or more, got {limit}")
    return subject.split(separator, -1 if limit is None else min(limit - 1, MAX_ITEMS))


@function(
    "The items of a list as one text; absent items are left out, a list or an object in it is an error.",
    ((["a", "b", "c"], ", "), "a, b, c"),
    ((["Ana", None, 7], " "), "Ana 7"),
)
def join(subject: list[Any], separator: str) -> str:
    return _joined(
        [item if item.__class__ is str else printed(item) for item in subject if item is not None], separator
    )


@function(
    "Whether a text has the text, or a list has an item equal to the value (types are strict: 1 is not '1').",
    (("checkout/cart", "cart"), True),
    ((["a", "b"], "c"), False),
    (([1, 2], "1"), False),
)
def contains(subject: str | list[Any], value: Any) -> bool:
    if isinstance(subject, list):
        wanted = identity(value)
        return any(identity(item) == wanted for item in subject)
    if not isinstance(value, str):
        raise BadValue(f"a text is needed for `value`, got {described(value)}")
    return value in subject


@function("Whether the text begins with `prefix`.", (("GA4.123.456", "GA4."), True))
def starts_with(subject: str, prefix: str) -> bool:
    return subject.startswith(prefix)


@function("Whether the text ends with `suffix`.", (("photo.png", ".jpg"), False))
def ends_with(subject: str, suffix: str) -> bool:
    return subject.endswith(suffix)


@function(
    "The first match of an RE2 pattern, or its group of that number; absent where nothing matches.",
    (("order 1234 of today", "[0-9]+"), "1234"),
    (("key-us21", "-([a-z]+)([0-9]+)$", 1), "us"),
    (("none", "[0-9]+"), None),
)
def regex(subject: str, pattern: str, group: int = 0) -> str | None:
    compiled = _compiled(pattern)
    if not 0 <= group <= compiled.groups:
        raise BadValue(f"the pattern has {compiled.groups} groups, got number {group}")
    found = compiled.search(subject)
    matched: str | None = found.group(group) if found else None
    return matched


@function(
    "Every match of an RE2 pattern replaced; in `new`, `\\1` is the first group, `\\0` the match, `\\\\` a backslash.",
    (("+55 (11) 99999-0000", "[^0-9+]", ""), "+5511999990000"),
    (("28/01/2026", "([0-9]+)/([0-9]+)/([0-9]+)", "\\3-\\2-\\1"), "2026-01-28"),
)
def regex_replace(subject: str, pattern: str, new: str) -> str:
    compiled = _compiled(pattern)
    template = _template(new)
    if any(isinstance(part, int) and part > compiled.groups for part in template):
        raise BadValue(f"the pattern has {compiled.groups} groups, `new` names one more")
    budget = Budget()
    parts: list[str] = []
    end = 0
    for found in compiled.finditer(subject):
        parts.append(subject[end : found.start()])
        parts.extend(part if isinstance(part, str) else found.group(part) or "" for part in template)
        budget.spend(sum(map(len, parts[-1 - len(template) :])))
        end = found.end()
    return "".join([*parts, subject[end:]])


def _joined(words: list[str], separator: str) -> str:
    Budget().spend(sum(map(len, words)) + len(separator) * max(0, len(words) - 1))
    return separator.join(words)


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    if len(pattern) > _MAX_PATTERN:
        raise BadValue(f"a pattern has at most {_MAX_PATTERN:,} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0]
        shown = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise BadValue(f"the pattern can't be used: {shown[:80]}") from None


def _template(new: str) -> tuple[str | int, ...]:
    """`a\\1b` → ("a", 1, "b")"""
    parts: list[str | int] = []
    for plain, escaped in re.findall(r"([^\\]+)|\\(.?)", new, re.DOTALL):
        if plain:
            parts.append(plain)
        elif escaped == "\\":
            parts.append("\\")
        elif escaped in "0123456789" and escaped:
            parts.append(int(escaped))
        else:
            raise BadValue("in `new` a backslash stands before a digit or a backslash")
    return tuple(parts)
