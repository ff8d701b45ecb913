"""Templates and what they show -> a page: escaped, in one language, under a policy that lets nothing else in."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
import msgspec
from markupsafe import Markup
from starlette.responses import Response

from engine.dashboard import charts
from engine.dashboard.reasons import reason_in

FOLDER = Path(__file__).parent
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers post forms with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
MAX_TEXT = 20_000  # characters of one body that is shown
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# What would turn the line around it or is not to be seen: shown as what it is.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_encode = msgspec.json.Encoder(decimal_format="number").encode


def seen(value: object, most: int = MAX_TEXT) -> str:
    """A text as it is shown: marks that can't be seen by their number, and cut where it is very long."""
    text = str(value)
    text = text if len(text) <= most else f"{text[:most]}…"
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def reason(text: object, language: str, most: int) -> Markup:
    """A reason in the language of the page where it is one of ours, with the words it has in the log and the store."""
    said = reason_in(str(text), language)
    if said.text == text:
        return Markup('<bdi lang="{}">{}</bdi>').format(said.language, seen(said.text, most))
    return Markup('<bdi lang="{}" title="{}">{}</bdi>').format(said.language, seen(text, most), seen(said.text, most))


def pretty(value: Any) -> str:
    """An event as JSON over several lines, its numbers exact."""
    return msgspec.json.format(_encode(value), indent=2).decode()


def body_text(text: str) -> str:
    """JSON over several lines where it is JSON, else as it is."""
    try:
        return pretty(msgspec.json.Decoder(float_hook=Decimal).decode(text.encode()))
    except (msgspec.DecodeError, RecursionError):
        return text


def span(seconds: float | None) -> str:
    """A length of time in two letters at most: 45 s, 12 min, 3 h, 5 d."""
    if seconds is None:
        return ""
    for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < size * most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def took(seconds: float | None) -> str:
    """How long an answer took: 85 ms, 1.2 s."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def moment(at: float, *, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time in UTC."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "-"


def number(value: float, language: str) -> str:
    """12,345 or 12.345."""
    text = f"{value:,.0f}"
    return text if language == "en" else text.replace(",", ".")


def percent(part: int, whole: int, language: str) -> str:
    """Of all; not 100 where one is missing."""
    if not whole:
        return "-"
    tenths = part * 1000 // whole
    text = "100 %" if part == whole else f"{tenths / 10:.1f} %"
    return text if language == "en" else text.replace(".", ",")


class Renderer:
    """The templates, compiled once, and the files beside them."""

    def __init__(self) -> None:
        self.static = {file.name: file.read_bytes() for file in (FOLDER / "static").iterdir() if file.is_file()}
        marks = {name: hashlib.sha256(body).hexdigest()[:12] for name, body in self.static.items()}
        self.env = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.names = frozenset(self.env.list_templates())
        self.env.filters |= {
            "seen": seen,
            "pretty": pretty,
            "body_text": body_text,
            "span": span,
            "took": took,
            "reason": reason,
            "moment": moment,
            "query": lambda given: urlencode({key: value for key, value in given.items() if value not in ("", None)}),
            "json": lambda value: json.dumps(value, ensure_ascii=False),
        }
        self.env.globals |= {
            "static": lambda name: f"/static/{name}?v={marks[name]}",
            "bars": charts.bars,
            "lines": charts.lines,
            "share": charts.share,
            "Line": charts.Line,
            "stack_max": charts.highest,
        }

    def html(self, template: str, **context: Any) -> str:
        return self.env.get_template(template).render(**context)

    def file(self, name: str) -> Response:
        """A file beside the templates; its address changes with what is in it."""
        body = self.static.get(name)
        if body is None:
            return Response("", 404, HEADERS)
        kept = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(body, 200, kept, media_type=_TYPES[name.rpartition(".")[2]])


def page(html: str, status: int = 200) -> Response:
    return Response(html, status, HEADERS, media_type="text/html; charset=utf-8")


def live_part(html: str, known: str, status: int = 200) -> Response:
    """What changes in a page; nothing where the browser shows just that."""
    tag = f'"{hashlib.blake2b(html.encode(), digest_size=12).hexdigest()}"'
    answer = Response("", 304, HEADERS) if known == tag and status == 200 else page(html, status)
    answer.headers["ETag"] = tag
    return answer


def see_other(path: str) -> Response:
    """Go and look there; only paths of this side."""
    return Response("", 303, {**HEADERS, "Location": path})
