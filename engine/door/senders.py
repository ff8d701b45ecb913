"""
Who sent it: a write key, or a signature over time and body, stands for one client; a page of the web for its origin.

A signature is `t=UNIX-SECONDS,v1=HEX` with HEX the HMAC-SHA256, by the client's secret, of the seconds, a dot and the
body. `client=NAME` in it spares looking for the client whose it is. What is sent again within the window is told apart
by the event's id, as every repetition is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from engine.errors import Refused
from engine.records import Fault

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

WINDOW_S = 300  # a signature is as old, or as far ahead, as that at most
MOST_HASHED = 16_000_000  # bytes for one request, where the client has to be looked for
MOST_DIGESTS = 4  # two while a secret is exchanged; more is somebody's try
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


class Senders:
    """
    Those of one connector. `keys` and `signatures`: client -> its write keys, its secrets to sign with; `origins`:
    client -> the pages that may send for it; `active`: the clients whose events are taken.
    """

    def __init__(
        self,
        keys: Mapping[str, Collection[str]],
        signatures: Mapping[str, Collection[str]],
        origins: Mapping[str, Collection[str]],
        active: Collection[str],
    ) -> None:
        # By digest: how long it takes to find one says nothing about the key, and no more with many clients.
        self._keys = {_digest(key): client for client, listed in keys.items() for key in listed}
        self._proven: dict[str, str] = {}  # those of them that have come: looking for the same text again tells nothing
        self._secrets = {client: [secret.encode() for secret in listed] for client, listed in signatures.items()}
        self._count = sum(map(len, self._secrets.values()))
        self._origins, self._active = origins, active
        self.known = {client for found in (keys, signatures) for client, listed in found.items() if listed}
        self.all_known = bool(active) and set(active) <= self.known  # none is to be had without a key or a signature

    def holder(self, key: str | None, signature: str | None, body: bytes, now: float) -> str | None:
        """
        The client that key and signature belong to; None where neither was sent. What is sent has to be right.

        Refused with 401 or 403.
        """
        if not key and signature is None:
            if self.all_known:
                raise needs_proof()
            return None
        found = self._of_key(key) if key else None
        if signature is not None:
            found = self._of_signature(signature, body, now, found)
        if found not in self._active:
            raise Refused(403, "the client is not active", [Fault("key", f"{found} is switched off")])
        return found

    def require_origin(self, client: str, origin: str) -> None:
        """Refused with 403 where the page's origin is another client's."""
        if origin and origin not in self._origins.get(client, ()):
            raise Refused(403, "a page of another client", [Fault("origin", "not one of the client's origins")])

    def _of_key(self, key: str) -> str:
        found = self._proven.get(key)
        if found is None:
            found = self._keys.get(_digest(key))
            if found is None:
                raise Refused(
                    401, "unknown write key", [Fault("key", "no client of this connector has this write key")]
                )
            self._proven[key] = found
        return found

    def _of_signature(self, header: str, body: bytes, now: float, holder: str | None) -> str:
        seconds, digests, named = _parts(header)
        if abs(now - int(seconds)) > WINDOW_S:
            raise _wrong(f"its time is more than {WINDOW_S // 60} minutes from ours; is the sender's clock right?")
        if holder is not None and named not in (None, holder):
            raise Refused(403, "the signature names another client than the key", [Fault("signature", "of another")])
        named = holder or named
        if named is None and self._count * len(body) > MOST_HASHED:
            raise _wrong("say whose it is: client=NAME beside t and v1")
        found = None
        for client in self._secrets if named is None else [named]:
            for secret in self._secrets.get(client, ()):
                made = hmac.new(secret, seconds.encode() + b".", hashlib.sha256)
                made.update(body)
                right = made.hexdigest()
                if any(hmac.compare_digest(right, digest) for digest in digests):
                    found = client  # the others are tried all the same
        if found is None:
            raise _wrong("no client's secret gives it for this body; sign the bytes as they are sent")
        return found


def needs_proof() -> Refused:
    """401: the client has write keys or signs, and this came with neither."""
    return Refused(401, "a write key is needed", [Fault("key", "send it as X-Connect-Key, or ?key= for beacons")])


def _parts(header: str) -> tuple[str, list[str], str | None]:
    """(seconds, digests, client) of the header."""
    found: dict[str, list[str]] = {}
    for part in header[:1000].split(","):
        name, _, value = part.strip().partition("=")
        found.setdefault(name, []).append(value)
    times, digests = found.get("t", []), found.get("v1", [])
    if len(times) != 1 or not _SECONDS.fullmatch(times[0]) or not 0 < len(digests) <= MOST_DIGESTS:
        raise _wrong("it is written t=UNIX-SECONDS,v1=HEX")
    return (
        times[0],
        [digest.lower().encode("ascii", "replace").decode() for digest in digests],
        *found.get("client", [None])[:1],
    )


def _wrong(why: str) -> Refused:
    return Refused(401, "the signature can't be accepted", [Fault("signature", why)])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
