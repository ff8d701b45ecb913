"""A finished request -> the Authorization header of OAuth 1.0a (RFC 5849)."""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from engine.errors import BadValue
from engine.signing.keys import Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.expressions import Compiler, Path
    from engine.spec.types import OAuth1

FORM = "application/x-www-form-urlencoded"


class OAuth1Signer:
    """`sign.NAME` is the whole header, `OAuth oauth_consumer_key="…", …`."""

    def __init__(self, compiler: Compiler, spec: OAuth1, names: frozenset[str], place: Path) -> None:
        self.algorithm = spec.algorithm
        self.texts = {
            name: compiler.text(text, names, (*place, name), "must" if name == "consumer_key" else "text")
            for name in ("consumer_key", "consumer_secret", "token", "token_secret", "realm")
            if (text := getattr(spec, name)) is not None
        }
        self.key = (
            Key(compiler, spec.key, names, place, written="pem", passphrase=spec.passphrase)
            if spec.key is not None
            else None
        )

    def __call__(self, scope: Mapping[str, Any]) -> str:
        given = {name: str(run(scope) or "") for name, run in self.texts.items()}
        request = scope["request"]
        oauth = {
            "oauth_consumer_key": given["consumer_key"],
            "oauth_nonce": str(scope["nonce"]),
            "oauth_signature_method": self.algorithm,
            "oauth_timestamp": str(int(scope["now"])),
            "oauth_version": "1.0",
        }
        if given.get("token"):
            oauth["oauth_token"] = given["token"]
        secrets = f"{escaped(given.get('consumer_secret', ''))}&{escaped(given.get('token_secret', ''))}"
        oauth["oauth_signature"] = self.signature(message(request, oauth), secrets, scope)
        realm = [f'realm="{escaped(given["realm"])}"'] if given.get("realm") else []
        return "OAuth " + ", ".join([*realm, *(f'{name}="{escaped(value)}"' for name, value in oauth.items())])

    def signature(self, text: str, secrets: str, scope: Mapping[str, Any]) -> str:
        match self.algorithm:
            case "PLAINTEXT":
                return secrets
            case "RSA-SHA1":
                return base64.b64encode(rsa_sha1(self.key, text.encode(), scope)).decode()
        digest = hmac.new(secrets.encode(), text.encode(), self.algorithm.removeprefix("HMAC-").lower()).digest()
        return base64.b64encode(digest).decode()


def rsa_sha1(key: Key | None, text: bytes, scope: Mapping[str, Any]) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    found = key.private(scope) if key is not None else None
    if not isinstance(found, rsa.RSAPrivateKey):
        raise BadValue("RSA-SHA1 needs an RSA key", "key")
    signed: bytes = found.sign(text, padding.PKCS1v15(), hashes.SHA1())
    return signed


def message(request: Mapping[str, Any], oauth: Mapping[str, str]) -> str:
    """The signature base string (section 3.4.1): method, address without its query, all parameters in order."""
    pairs = [*oauth.items(), *parse_qsl(request["query"], keep_blank_values=True)]
    if str(request["headers"].get("content-type", "")).split(";")[0].strip().lower() == FORM:
        pairs += parse_qsl(request["body"], keep_blank_values=True)
    listed = sorted((escaped(name), escaped(value)) for name, value in pairs)
    parameters = "&".join(f"{name}={value}" for name, value in listed)
    address = f"https://{request['host']}{request['path']}"
    return "&".join((request["method"], escaped(address), escaped(parameters)))


def escaped(text: str) -> str:
    return quote(text, safe="~")
