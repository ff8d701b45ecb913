"""Whose an event is -> numbers that can be searched by, and from which nobody can read who it is."""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

import msgspec

MOST_KEPT = 4_096  # digests of people who come again and again
MOST_LOOKED_AT = 8  # places of an event with an @
_number = Struct("<q").unpack


class Digests:
    """By a key of the installation (CONNECT_KEY, where there is one) and a salt of the trail."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._keyed = blake2b(key=blake2b(key, key=salt).digest(), digest_size=8)
        self._made: dict[bytes, int] = {}

    def of(self, text: str) -> int:
        """Of a person's address or key, in whatever case."""
        return self._of(text.strip().casefold().encode(errors="replace"))

    def _of(self, folded: bytes) -> int:
        known = self._made.get(folded)
        if known is None:
            keyed = self._keyed.copy()
            keyed.update(folded)
            known = int(_number(keyed.digest())[0])
            if len(self._made) >= MOST_KEPT:
                self._made.clear()
            self._made[folded] = known
        return known

    def of_event(self, key: str | None, body: bytes) -> tuple[int | None, int | None]:
        """Of two different people at most: addresses that are the whole of a text in the event, then its key."""
        found = addresses_in(body)
        if not found:
            return (self.of(key), None) if key else (None, None)
        one = self._of(found[0])
        if len(found) == 2:
            other: int | None = self._of(found[1])
        elif key and (folded := key.strip().casefold().encode(errors="replace")) != found[0]:
            other = self._of(folded)
        else:
            return one, None
        return one, None if other == one else other


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
