"""One request of a browser, read: what was asked for, by whom, in which language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from engine.dashboard.texts import Words, chosen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from engine.door.access import Visit

MAX_FORM = 4 * 1024 * 1024  # bytes
MAX_FIELDS = 100
LANGUAGE_COOKIE = "connect_language"


class Trouble(Exception):
    """What a page says instead; `key` is one of the texts."""

    def __init__(self, status: int, key: str, **holes: Any) -> None:
        super().__init__(key)
        self.status, self.key, self.holes = status, key, holes


class Ask(NamedTuple):
    """A request as the pages see it."""

    path: str
    params: Mapping[str, Any]
    query: Mapping[str, str]
    form: Mapping[str, str]
    visit: Visit
    words: Words
    known: str = ""  # the tag of what the browser shows already

    def text(self, name: str, most: int = 500) -> str:
        """Of the query; empty where it is not there."""
        return self.query.get(name, "").strip()[:most]

    def number(self, name: str, default: int, most: int = 2**53) -> int:
        """Of the query; what is no number is the default."""
        given = self.query.get(name, "")
        return min(int(given), most) if given.isascii() and given.isdigit() and len(given) < 20 else default


def words_of(request: Request) -> Words:
    asked = request.query_params.get("lang", "")
    kept = request.cookies.get(LANGUAGE_COOKIE, "")
    return Words(chosen(asked, kept, request.headers.get("accept-language", "")))


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a posted form; Trouble where it is none, or too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Trouble(415, "error_method")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM:
            raise Trouble(413, "error_too_large")
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise Trouble(400, "error_method") from None
    return dict(fields)
