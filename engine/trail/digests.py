"""Whose an event is -> numbers that can be searched by, and from which nobody can read who it is."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

MOST_LOOKED_AT = 8  # places of an event with an @


class Digests:
    """By a key of the installation (CONNECT_KEY, where there is one) and a salt of the trail."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        self._keyed = blake2b(key=blake2b(key, key=salt).digest(), digest_size=8)

    def of(self, text: str) -> int:
        """Of a person's address or key, in whatever case."""
        made = self._keyed.copy()
        made.update(text.strip().casefold().encode(errors="replace"))
        return int.from_bytes(made.digest(), signed=True)

    def of_event(self, key: str | None, body: bytes) -> tuple[int | None, int | None]:
        """Of two different people at most: addresses that are the whole of a text in the event, then its key."""
        first = second = None
        if b"@" in body:
            first, second = addresses_in(body)
        if key and key != first and second is None:
            first, second = (key, None) if first is None else (first, key)
        if first is None:
            return None, None
        one = self.of(first)
        other = None if second is None else self.of(second)
        return one, None if other == one else other


def addresses_in(body: bytes) -> tuple[str | None, str | None]:
    """The first two texts of a JSON document that look like addresses and nothing else."""
    first = None
    at = -1
    for _ in range(MOST_LOOKED_AT):
        at = body.find(b"@", at + 1)
        if at < 0:
            break
        begin, end = body.rfind(b'"', 0, at) + 1, body.find(b'"', at)
        text = body[begin:end]
        at = end
        if not 2 < len(text) < 320 or b" " in text or b"/" in text:
            continue
        try:
            written = msgspec.json.decode(b'"%b"' % text, type=str) if b"\\" in text else text.decode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if first is None:
            first = written
        elif written != first:
            return first, written
    return first, None
