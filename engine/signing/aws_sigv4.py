"""A finished request -> the Authorization header of AWS Signature Version 4."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engine.signing.digests import wire_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.expressions import Compiler, Path
    from engine.spec.types import AwsSigV4

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = {"authorization", "connection", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"}


class AwsSigV4Signer:
    """`sign.NAME` is the whole header; the request carries `X-Amz-Date` of the same second."""

    def __init__(self, compiler: Compiler, spec: AwsSigV4, names: frozenset[str], place: Path) -> None:
        self.texts = {
            name: compiler.text(getattr(spec, name), names, (*place, name), "must")
            for name in ("access_key", "secret_key", "region", "service")
        }

    def __call__(self, scope: Mapping[str, Any]) -> str:
        given = {name: str(run(scope)) for name, run in self.texts.items()}
        request = scope["request"]
        headers = {name: " ".join(str(value).split()) for name, value in request["headers"].items()}
        headers = {"host": request["host"], **{name: headers[name] for name in headers.keys() - UNSIGNED}}
        moment = headers.get("x-amz-date") or datetime.fromtimestamp(int(scope["now"]), UTC).strftime("%Y%m%dT%H%M%SZ")
        names = ";".join(sorted(headers))
        path = request["path"] if given["service"] == "s3" else quote(request["path"], safe="/~")
        canonical = "\n".join(
            (
                request["method"],
                path,
                ordered(request["query"]),
                *(f"{name}:{headers[name]}" for name in sorted(headers)),
                "",
                names,
                headers.get("x-amz-content-sha256") or hashlib.sha256(wire_bytes(request["body"])).hexdigest(),
            )
        )
        place = f"{moment[:8]}/{given['region']}/{given['service']}/aws4_request"
        text = "\n".join((ALGORITHM, moment, place, hashlib.sha256(canonical.encode()).hexdigest()))
        key = f"AWS4{given['secret_key']}".encode()
        for part in place.split("/"):
            key = hmac.new(key, part.encode(), "sha256").digest()
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        return f"{ALGORITHM} Credential={given['access_key']}/{place}, SignedHeaders={names}, Signature={signature}"


def ordered(query: str) -> str:
    """Parameters by name and value; one without a value gets an empty one."""
    pairs = [part.partition("=")[::2] for part in query.split("&") if part]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
