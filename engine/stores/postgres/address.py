"""A store's URL -> what the driver is given, and what may be shown of it."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from engine.errors import UsageError

FORM = "postgresql://user:password@host:5432/database?schema=connect"
SCHEMA = "connect"
CONNECTIONS = 10  # of one process at most

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,50}")

# A host that vanished is noticed within half a minute; each may be given in the URL.
_GIVEN = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "application_name": "connect",
}


class Address(NamedTuple):
    """Where the store is: `url` has the password, `shown` has not."""

    url: str
    shown: str
    schema: str = SCHEMA
    connections: int = CONNECTIONS

    @property
    def channel(self) -> str:
        """What its workers listen on."""
        return f"wake_{self.schema}"


def parsed(url: str) -> Address:
    """UsageError, without a word of the password, for one that can't be one."""
    try:
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        _ = parts.port
    except ValueError:
        raise UsageError(f"the store's URL can't be read; it has the form {FORM}") from None
    if parts.scheme not in ("postgresql", "postgres") or not url.startswith(f"{parts.scheme}://"):
        raise UsageError(f"a PostgreSQL store has a URL such as {FORM}")
    if "@" in parts.path or parts.fragment:  # the rest of a password, and would be shown as a part of the address
        raise UsageError(f"in the password of the store's URL / is written %2F, # %23, ? %3F and @ %40: {FORM}")
    schema, most = given.pop("schema", SCHEMA), given.pop("connections", str(CONNECTIONS))
    if not _SCHEMA.fullmatch(schema):
        raise UsageError(f"schema={schema}: a name of small letters, digits and _, 51 at most")
    if not (most.isascii() and most.isdigit() and 2 <= int(most) <= 1000):
        raise UsageError(f"connections={most}: a number from 2 to 1000")
    if "password" in given:
        raise UsageError(f"the password stands before the host, so that it is never shown: {FORM}")
    where = parts.netloc.rpartition("@")[2]
    whole = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(_GIVEN | given), ""))
    return Address(whole, f"postgresql://{where}{parts.path}", schema, int(most))
