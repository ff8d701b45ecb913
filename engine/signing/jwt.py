"""Claims and a key -> a JWT (RFC 7515, 7518): RS, PS, ES and HS with 256, 384 and 512 bits, and EdDSA."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Any

from engine.errors import BadValue
from engine.mapping import compile_tree, encode_json
from engine.signing.keys import Key
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.expressions import Compiler, Path
    from engine.spec.types import Jwt

CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


class JwtSigner:
    """`sign.NAME` is the JWT."""

    def __init__(self, compiler: Compiler, spec: Jwt, names: frozenset[str], place: Path) -> None:
        self.algorithm = spec.algorithm
        written = spec.key_as or ("text" if spec.algorithm.startswith("HS") else "pem")
        self.key = Key(compiler, spec.key, names, place, written=written, passphrase=spec.passphrase)
        self.header = compile_tree(compiler, spec.header, names, (*place, "header"))
        self.claims = compile_tree(compiler, spec.claims, names, (*place, "claims"))
        self.lifetime_s = int(units.duration(spec.lifetime)) if spec.lifetime else None

    def __call__(self, scope: Mapping[str, Any]) -> str:
        header = {"alg": self.algorithm, "typ": "JWT", **(self.header(scope) or {})}
        claims = self.claims(scope) or {}
        if self.lifetime_s is not None:
            now = int(scope["now"])
            claims = {"iat": now, "exp": now + self.lifetime_s, **claims}
        signed = f"{base64url(encode_json(header))}.{base64url(encode_json(claims))}"
        return f"{signed}.{base64url(self.signature(signed.encode(), scope))}"

    def signature(self, message: bytes, scope: Mapping[str, Any]) -> bytes:
        if self.algorithm.startswith("HS"):
            return hmac.new(self.key.secret(scope), message, f"sha{self.algorithm[2:]}").digest()
        return by_private_key(self.algorithm, self.key.private(scope), message)


def by_private_key(algorithm: str, key: Any, message: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa, utils

    found: bytes
    if algorithm == "EdDSA":
        if not isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
            raise BadValue("EdDSA needs an Ed25519 or Ed448 key", "key")
        found = key.sign(message)
        return found
    bits = algorithm[2:]
    digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[bits]
    if algorithm.startswith("ES"):
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != CURVES[algorithm]:
            raise BadValue(f"{algorithm} needs a key of the curve {CURVES[algorithm]}", "key")
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
        width = (key.key_size + 7) // 8
        return r.to_bytes(width, "big") + s.to_bytes(width, "big")
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BadValue(f"{algorithm} needs an RSA key", "key")
    length = hashlib.new(f"sha{bits}").digest_size
    pad = padding.PSS(padding.MGF1(digest), length) if algorithm.startswith("PS") else padding.PKCS1v15()
    found = key.sign(message, pad, digest)
    return found


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
