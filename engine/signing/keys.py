"""A key as a secret holds it (text, hex, base64, PEM) -> bytes, or a private key; no message repeats any of it."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from engine.errors import BadValue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.expressions import Compiler, Path, Run

BYTES = {"text", "hex", "base64"}


class Key:
    """A compiled key: scope -> its bytes, or the private key in it."""

    def __init__(
        self,
        compiler: Compiler,
        spec: str,
        names: frozenset[str],
        place: Path,
        *,
        written: str,
        passphrase: str | None = None,
    ) -> None:
        self.run: Run = compiler.text(spec, names, (*place, "key"), "must")
        self.passphrase = compiler.text(passphrase, names, (*place, "passphrase")) if passphrase is not None else None
        self.written = written
        self.last: tuple[tuple[bytes, bytes | None], Any] | None = (
            None  # reading a private key takes longer than using it
        )

    def secret(self, scope: Mapping[str, Any]) -> bytes:
        return decoded(self.run(scope), self.written)

    def private(self, scope: Mapping[str, Any]) -> Any:
        word = self.passphrase(scope) if self.passphrase is not None else None
        given = (decoded(self.run(scope), self.written), str(word).encode() if word is not None else None)
        if self.last is None or self.last[0] != given:
            self.last = (given, private_key(*given))
        return self.last[1]


def decoded(text: str, written: str) -> bytes:
    if written in ("hex", "base64"):
        read: Callable[[str], bytes] = bytes.fromhex if written == "hex" else standard_base64
        try:
            return read("".join(text.split()))
        except (ValueError, binascii.Error):
            raise BadValue(f"the key is not {written}; `key_as` says how it is written", "key") from None
    if written == "pem":
        return text.replace("\\n", "\n").encode()  # as one line of an environment variable has it
    return text.encode()


def standard_base64(text: str) -> bytes:
    letters = text.replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)


def private_key(raw: bytes, passphrase: bytes | None) -> Any:
    """A key of the cryptography library, from PEM or DER."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    is_pem = b"-----BEGIN" in raw
    load = serialization.load_pem_private_key if is_pem else serialization.load_der_private_key
    try:
        return load(raw.strip() if is_pem else raw, passphrase)
    except TypeError:
        what = (
            "is not encrypted, so it needs no `passphrase`" if passphrase else "is encrypted and needs a `passphrase`"
        )
        raise BadValue(f"the private key {what}", "key") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadValue("the private key can't be read; a PEM begins with -----BEGIN PRIVATE KEY-----", "key") from None
