"""
The `sign` section of an auth: scope -> `sign.NAME`, of values alone or of a finished request.

A signer that reads `request` (or another that does) is late: it is run when the request is encoded, and what places it
can only add headers and parameters. Time and nonce come with the scope. No signer sends anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from engine.names import FINISHED
from engine.notations.emitting import Problem
from engine.signing.aws_sigv4 import AwsSigV4Signer
from engine.signing.digests import DigestSigner, hmac_signer
from engine.signing.jwt import JwtSigner
from engine.signing.keys import BYTES
from engine.signing.oauth1 import OAuth1Signer
from engine.spec import types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.expressions import Compiler, Path
    from engine.notations.emitting import Use

    Sign = Callable[[Mapping[str, Any]], str]


class Signers:
    """The compiled signers of one auth, in the order they are written; each sees those before it."""

    def __init__(self, compiler: Compiler, specs: Mapping[str, types.Signer], place: Path) -> None:
        self.signers: dict[str, Sign] = {}
        self.needs: dict[str, set[str]] = {}
        self.late: set[str] = set()
        for name, spec in specs.items():
            at = (*place, name)
            compiler.problems += key_faults(spec, at)
            before = len(compiler.uses)
            self.signers[name] = made(compiler, spec, at)
            uses = compiler.uses[before:]
            self.needs[name] = self.read(uses) - {name}
            finished = isinstance(spec, types.OAuth1 | types.AwsSigV4) or any(use.path[0] == "request" for use in uses)
            if finished or self.needs[name] & self.late:
                self.late.add(name)

    def read(self, uses: Iterable[Use]) -> set[str]:
        """The signers that these expressions read, and those that they read in turn."""
        found = {use.path[1] for use in uses if use.path[0] == "sign" and len(use.path) > 1}
        known = found & self.signers.keys()
        return known.union(*(self.needs[name] for name in known))

    def made(self, scope: Mapping[str, Any], names: set[str]) -> dict[str, str]:
        """`sign` as expressions see it. BadValue where a key or a text is not there."""
        found: dict[str, str] = dict(scope.get("sign", {}))
        for name, sign in self.signers.items():
            if name in names and name not in found:
                found[name] = sign({**scope, "sign": found})
        return found


def made(compiler: Compiler, spec: types.Signer, place: Path) -> Sign:
    match spec:
        case types.Jwt():
            return JwtSigner(compiler, spec, FINISHED, place)
        case types.Hmac():
            return hmac_signer(compiler, spec, FINISHED, place)
        case types.Hash():
            return DigestSigner(compiler, spec, FINISHED, place, None)
        case types.OAuth1():
            return OAuth1Signer(compiler, spec, FINISHED, place)
        case types.AwsSigV4():
            return AwsSigV4Signer(compiler, spec, FINISHED, place)
        case other:
            assert_never(other)


def key_faults(spec: types.Signer, place: Path) -> list[Problem]:
    """A key of a kind that the algorithm can't use, where that can be seen before there is one."""
    found: list[Problem] = []

    def fault(key: str, says: str, hint: str) -> None:
        found.append(Problem((*place, key), "signer", says, hint))

    match spec:
        case types.Jwt(algorithm=algorithm) if algorithm.startswith("HS"):
            if spec.key_as == "pem":
                fault(
                    "key_as", f"{algorithm} is signed with a shared secret, not with a private key", "text, hex, base64"
                )
            if spec.passphrase is not None:
                fault("passphrase", f"the secret of {algorithm} has no passphrase", "take it out")
        case types.Jwt(algorithm=algorithm) if spec.key_as in ("text", "hex"):
            fault(
                "key_as",
                f"{algorithm} is signed with a private key, which is no {spec.key_as}",
                "write pem, or base64 of it",
            )
        case types.Hmac(key_as=written) if written is not None and written not in BYTES:
            fault(
                "key_as", "an HMAC is keyed with a shared secret, not with a private key", "write text, hex or base64"
            )
        case types.OAuth1(algorithm="RSA-SHA1", key=None):
            fault("algorithm", "RSA-SHA1 is signed with a private key", "write `key: ${ secrets.NAME }`")
        case types.OAuth1() if spec.algorithm != "RSA-SHA1" and spec.key is not None:
            fault("key", f"{spec.algorithm} is signed with consumer_secret and token_secret", "take it out")
    written = getattr(spec, "key", None)
    if isinstance(written, str) and "-----BEGIN" in written:
        found.append(
            Problem(
                (*place, "key"),
                "secret-literal",
                "a private key stands in the file",
                "write `key: ${ secrets.NAME }`",
            )
        )
    return found
