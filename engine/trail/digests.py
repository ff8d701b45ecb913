"""Whose an event is -> numbers that can be searched by, and from which nobody can read who it is."""

from __future__ import annotations

import re
from hashlib import blake2b
from struct import Struct

import msgspec

MOST_LOOKED_AT = 8  # places of an event with an @
_number = Struct("<q").unpack
_plain = re.compile(rb'"([!#-.0-\[\]-~]{1,150}@[!#-.0-\[\]-~]{1,150})"').match  # as addresses_in would find it


class Digests:
    """By a key of the installation (CONNECT_KEY, where there is one) and a salt of the trail."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._keyed = blake2b(key=blake2b(key, key=salt).digest(), digest_size=8)

    def of(self, text: str) -> int:
        """Of a person's address or key, in whatever case."""
        return self._of(_folded(text))

    def _of(self, folded: bytes) -> int:
        keyed = self._keyed.copy()
        keyed.update(folded)
        return _number(keyed.digest())[0]  # type: ignore[no-any-return]

    def of_event(self, key: str | None, body: bytes) -> tuple[int | None, int | None]:
        """Of two different people at most: addresses that are the whole of a text in the event, then its key."""
        at = body.find(b"@")
        if at < 0:
            return (self.of(key), None) if key else (None, None)
        plain = _plain(body, body.rfind(b'"', 0, at))
        if plain is not None and body.find(b"@", plain.end()) < 0:
            one = plain[1].lower()
            if key and (other := _folded(key)) != one:
                return self._of(one), self._of(other)
            return self._of(one), None
        found = addresses_in(body)
        if key and len(found) < 2 and (other := _folded(key)) not in found:
            found.append(other)
        people = [self._of(each) for each in found]
        return (people[0], people[1]) if len(people) == 2 else (people[0] if people else None, None)


def _folded(text: str) -> bytes:
    if text.isascii():
        return text.strip().lower().encode()
    return text.strip().casefold().encode(errors="replace")


def addresses_in(body: bytes) -> list[bytes]:
    """The first two texts of a JSON document that look like addresses and nothing else, as digests are made of them."""
    found: list[bytes] = []
    at = body.find(b"@")
    looked_at = 0
    while at >= 0 and looked_at < MOST_LOOKED_AT and len(found) < 2:
        looked_at += 1
        end = body.find(b'"', at)
        text = body[body.rfind(b'"', 0, at) + 1 : end]
        at = body.find(b"@", end)
        if b" " in text or b"/" in text or not 2 < len(text) < 320:
            continue
        if text.isascii() and b"\\" not in text:
            folded = text.lower()
        else:
            try:
                folded = msgspec.json.decode(b'"%b"' % text, type=str).strip().casefold().encode(errors="replace")
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        if folded not in found:
            found.append(folded)
    return found
