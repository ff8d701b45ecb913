"""One HTTP request, ready to go, and what came back: parsed when it is first looked at."""

from __future__ import annotations

import csv
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import ConnectError
from engine.unpacking import Unpacked, Unreadable, csv_rows, json_or_none, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_REPLY = 10_000_000
_COOKIES = re.compile(r",\s*(?=[!#$%&'*+.^_`|~0-9A-Za-z-]+=)")  # not the comma of a date


class Tls(msgspec.Struct, frozen=True):
    """PEM texts of a client's own certificates; never shown."""

    cert: str = ""
    key: str = ""
    passphrase: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        return "Tls(***)"


class Prepared(msgspec.Struct, frozen=True):
    """One HTTP request, ready to go."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None
    timeout_s: float
    decoded: Any = None  # the body before encoding, for preview
    purpose: str = ""  # "auth" for a log-in
    tls: Tls | None = None
    decode: tuple[str, ...] = ()  # how its reply is unpacked


class NoReply(ConnectError):
    """
    No answer came. `sent` False: the request surely did not arrive (refused, unknown host).

    `ours`: it will not get better by itself, for a certificate of the client's own can't be used.
    """

    def __init__(self, reason: str, *, sent: bool, ours: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.sent, self.ours = reason, sent, ours


class Reply:
    """What came back; parsed when first looked at."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.content = content

    fault = ""  # why it can't be unpacked
    files: list[dict[str, Any]] | None = None  # of an archive: name and body

    @cached_property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    @cached_property
    def body(self) -> Any:
        """Parsed JSON, exact; None if it is not JSON."""
        return json_or_none(self.content)

    @cached_property
    def rows(self) -> list[dict[str, str]] | None:
        """A CSV reply as a list of objects, by its header line."""
        if "csv" not in self.content_type:
            return None
        try:
            return csv_rows(self.text)
        except csv.Error:
            return None

    def unpacked(self, steps: Sequence[str]) -> Reply:
        """
        A 2xx with what is inside of it; any other reply as it is.

        Where a step fails `fault` says so, and there is neither body nor text.
        """
        if not steps or not 200 <= self.status < 300:
            return self
        unzipped = "gzip" in self.headers.get("content-encoding", "").lower()
        try:
            inside = unpack(self.content, steps, most=MAX_REPLY, unzipped=unzipped)
        except Unreadable as error:
            return UnpackedReply(self, Unpacked(None, ""), fault=f"the reply can't be read: {error}")
        return UnpackedReply(self, inside)

    @cached_property
    def cookies(self) -> dict[str, str]:
        """What the reply sets, by name; several headers of one name come joined by commas."""
        found = (part.split(";")[0].partition("=") for part in _COOKIES.split(self.headers.get("set-cookie", "")))
        return {name.strip(): value.strip() for name, sign, value in found if sign}

    @cached_property
    def scope(self) -> dict[str, Any]:
        """`response` as expressions see it."""
        found = {
            "status": self.status,
            "headers": self.headers,
            "body": self.body,
            "text": self.text,
            "content_type": self.content_type,
            "rows": self.rows,
            "files": self.files,
            "cookies": self.cookies or None,
        }
        return {name: value for name, value in found.items() if value is not None}


class UnpackedReply(Reply):
    """A reply whose `decode` has been done."""

    def __init__(self, packed: Reply, inside: Unpacked, fault: str = "") -> None:
        super().__init__(packed.status, packed.headers, packed.content)
        self.body, self.text, self.files, self.fault = inside.body, inside.text, inside.files, fault
        if inside.rows is not None:
            self.rows = inside.rows
