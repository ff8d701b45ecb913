"""dynamodb://TABLE?region=sa-east-1 -> where the table is."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from engine.errors import UsageError

EXAMPLE = "dynamodb://connect?region=sa-east-1"
OPTIONS = ("region", "endpoint", "create")


class Address(NamedTuple):
    """A table of a region; `endpoint` where it is not Amazon's own, `create` where it may be made."""

    table: str
    region: str
    endpoint: str | None = None
    create: bool = False


def parsed(url: str, env: Any) -> Address:
    """The region may stand in AWS_REGION or AWS_DEFAULT_REGION, as on Lambda. UsageError says what is wrong."""
    parts = urlsplit(url)
    table = parts.netloc
    if parts.scheme != "dynamodb" or not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", table) or parts.path not in ("", "/"):
        # What stands there instead may be a secret: credentials come from the environment or a role, never from a URL.
        raise UsageError(
            f"the URL of a DynamoDB store has the name of a table, 3 to 255 letters and digits, and nothing before it:"
            f" {EXAMPLE}"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise UsageError(f"{url}: {unknown[0]} is no option of a DynamoDB store; there are {', '.join(OPTIONS)}")
    region = options.get("region") or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    if not region:
        raise UsageError(f"{url}: no region is said; write it as in {EXAMPLE}, or set AWS_REGION")
    return Address(table, region, options.get("endpoint") or None, options.get("create") in ("1", "true", "yes"))
