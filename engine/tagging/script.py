"""`tag.js` as it is sent: without comments and blanks, with short names for what is only seen inside."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from itertools import product

# A text, a comment, a word or number, blanks, any other sign. The script has no regular expression and no text in ``.
_PART = re.compile(r"('[^'\n]*')|(//[^\n]*)|([\w$]+)|(\s+)|(.)")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@cache
def script() -> str:
    """One line of JavaScript."""
    return small((files("engine.tagging") / "tag.js").read_text(encoding="utf-8"))


def small(source: str) -> str:
    """The same program in one line; a blank stands only between two words."""
    shorter = renamed(source)
    parts: list[str] = []
    apart = False  # blanks or a comment were here
    for text, comment, word, blank, sign in _PART.findall(source):
        if comment or blank:
            apart = True
            continue
        after_dot = parts[-1:] == ["."] and parts[-3:] != [".", ".", "."]
        part = text or sign or (word if after_dot else shorter.get(word, word))
        if word and apart and parts and re.fullmatch(r"[\w$]", parts[-1][-1]):
            parts.append(" ")
        if part == "}" and parts[-1] == ";":
            parts.pop()
        parts.append(part)
        apart = False
    return "".join(parts).strip()


def renamed(source: str) -> dict[str, str]:
    """
    Names that the script declares -> one letter or two; the frequent ones first.

    A name that is also a key of an object stays: `{name: name}` has both, and which is which takes a parser to tell.
    """
    bare = re.sub(r"'[^'\n]*'|//[^\n]*", "''", source)
    declared: set[str] = set()
    for listed in re.findall(r"\(\[?((?:\.\.\.)?\w+(?:, \w+)*)\]?\) =>", bare):
        declared |= set(re.findall(r"\w+", listed))
    declared |= set(re.findall(r"(\w+) =>", bare))
    for line in bare.splitlines():
        if match := re.fullmatch(r" *(var )?(\w+)( = .*|[,;] *(?:'')?)", line):
            declared.add(match[2])
    words = re.findall(r"[\w$]+", bare)
    keys = set(re.findall(r"[{,]\s*(\w+):", bare))
    short = (name for name in [*_LETTERS, *map("".join, product("$", _LETTERS))] if name not in words)
    ours = sorted((name for name in declared - keys if len(name) > 1), key=lambda name: (-words.count(name), name))
    return dict(zip(ours, short, strict=False))
