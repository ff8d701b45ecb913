"""A text, with or without a key -> its HMAC or hash, as hex or base64."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Any

from engine.signing.keys import Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.expressions import Compiler, Path
    from engine.spec.types import Hash, Hmac


class DigestSigner:
    """`sign.NAME` is the digest, keyed where there is a key."""

    def __init__(
        self, compiler: Compiler, spec: Hmac | Hash, names: frozenset[str], place: Path, key: Key | None
    ) -> None:
        self.algorithm, self.encoding, self.key = spec.algorithm, spec.encoding, key
        self.text = compiler.text(spec.text, names, (*place, "text"), "must")

    def __call__(self, scope: Mapping[str, Any]) -> str:
        message = wire_bytes(self.text(scope))
        if self.key is not None:
            return written(hmac.new(self.key.secret(scope), message, self.algorithm).digest(), self.encoding)
        return written(hashlib.new(self.algorithm, message, usedforsecurity=False).digest(), self.encoding)


def hmac_signer(compiler: Compiler, spec: Hmac, names: frozenset[str], place: Path) -> DigestSigner:
    key = Key(compiler, spec.key, names, place, written=spec.key_as or "text")
    return DigestSigner(compiler, spec, names, place, key)


def wire_bytes(text: str) -> bytes:
    """The bytes of a text that may have a body in it, as it goes over the wire."""
    return text.encode("utf-8", "surrogateescape")


def written(raw: bytes, encoding: str) -> str:
    match encoding:
        case "base64":
            return base64.b64encode(raw).decode()
        case "base64url":
            return base64.urlsafe_b64encode(raw).decode().rstrip("=")
    return raw.hex()
