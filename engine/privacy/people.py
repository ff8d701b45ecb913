"""A person who is to be forgotten -> what is theirs: in keys, in events, and in any text that names them."""

from __future__ import annotations

import json
import re
from hashlib import md5, sha1, sha256
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

# An address may stand behind an escape of JSON or of a URL, and then there is a letter before it.
_BEGINS = r"(?:(?<![\w.+-])|(?<=%[0-9a-f]{2})|(?<=\\[nrtbf])|(?<=\\u[0-9a-f]{4}))"
_ENDS = r"(?![\w-])(?!\.\w)"


def digest(text: str) -> str:
    """What stands for a value in a name that is kept: the value can't be read from it."""
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:24]


class Subject:
    """
    Someone as they are looked for: by an address, or another text, that is a key or a value of their events.

    `by_key`: only by the key of deliveries, for a key such as a number would stand for other things in other events.
    """

    def __init__(self, text: str, *, by_key: bool = False) -> None:
        self.by_key = by_key
        self.wanted = _folded(text)
        spellings = sorted({text.strip(), text.strip().lower(), self.wanted})
        self.digests = sorted({digest(each) for each in (text, *spellings)})
        named = [form for each in spellings for form in _forms(each)]
        alternatives = "|".join(re.escape(form) for form in sorted(set(named), key=lambda form: (-len(form), form)))
        self._named = re.compile(f"{_BEGINS}(?:{alternatives}){_ENDS}", re.IGNORECASE)
        self._quick = [form.casefold() for form in set(named)]

    def has(self, key: str | None, body: bytes) -> bool:
        """Is the key, or a text value anywhere in the JSON body, this person in whatever case?"""
        if key is not None and _folded(key) == self.wanted:
            return True
        if self.by_key or (b"\\" not in body and self.wanted not in body.decode(errors="replace").casefold()):
            return False  # without an escape the text stands there as it is
        try:
            return _holds(msgspec.json.decode(body), self.wanted)
        except (msgspec.DecodeError, RecursionError):
            return self.named_in(body)

    def named_in(self, text: bytes | str) -> bool:
        """Do they stand anywhere in the text: as they are written, as a URL or JSON writes them, or as a digest?"""
        text = text if isinstance(text, str) else text.decode(errors="replace")
        folded = text.casefold()
        return any(form in folded for form in self._quick) and self._named.search(text) is not None

    def taken_out(self, text: str) -> str:
        """The text, with *** where they stood."""
        return self._named.sub("***", text)


def _folded(text: str) -> str:
    return text.strip().casefold()


def _forms(text: str) -> set[str]:
    import html  # knows all entities by name: not in the time of a start

    raw = text.encode(errors="surrogatepass")
    hashed = {kind(raw, usedforsecurity=False).hexdigest() for kind in (md5, sha1, sha256)}
    return {text, quote(text, safe="", errors="replace"), quote_plus(text, errors="replace"), html.escape(text)} | {
        json.dumps(text)[1:-1],
        *hashed,
    }


def _holds(value: Any, wanted: str) -> bool:
    match value:
        case str():
            return _folded(value) == wanted
        case dict():
            return any(_folded(key) == wanted or _holds(item, wanted) for key, item in value.items())
        case list():
            return any(_holds(item, wanted) for item in value)
    return False
