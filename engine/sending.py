"""
A request of the spec -> bytes on the wire -> a reply, or NoReply; the only place that builds URLs and encodes bodies.

Hosts are checked here for every request, after all holes are filled. Redirects are not followed: a reply with 3xx is a
reply like any other.
"""

from __future__ import annotations

import re
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit

import msgspec

from engine import egress, tls
from engine.batching import ENCODED
from engine.bodies import (
    CSV,
    JSON,
    JSON_LINES,
    TEXT,
    Multipart,
    Part,
    csv_text,
    encoded_parts,
    json_lines,
    mapped,
    pairs,
)
from engine.errors import BadValue, EgressRefused
from engine.http import MAX_REPLY, NoReply, Prepared, Reply, Tls
from engine.mapping import ascii_only, compile_tree, encode_json
from engine.notations import semantics
from engine.notations.emitting import is_expression, is_template
from engine.privacy.masking import Masker as Masker
from engine.privacy.masking import maskable as maskable
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import httpx

    from engine.batching import Encoded
    from engine.expressions import Compiler, Path, Run
    from engine.spec import types

SAID = ((b"Accept", b"*/*"), (b"Accept-Encoding", b"gzip, deflate"), (b"Connection", b"keep-alive"))
MOST_CERTIFICATES = 200
_SAFE = frozenset(chr(code) for code in range(128) if quote(chr(code), safe="") == chr(code))
FEW_ODD = 24  # different characters that are looked for one after the other
_PLAIN_QUERY = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]++|%[0-9A-Fa-f]{2})*+\Z")
LONG_QUERY, LONGEST_URL = 200, 60_000
_HEADER = re.compile(r"[\t\x20-\x7e\xa0-\xff]*\Z")


class Transport(Protocol):
    """How a prepared request gets to the vendor: HTTP, a sandbox, an example's script."""

    def send(self, request: Prepared) -> Reply:
        """The reply, or NoReply."""


class Hosts:
    """The hosts a connector may speak to: literal names or `*.vendor.com`."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(pattern.lower() for pattern in patterns)

    def allows(self, host: str) -> bool:
        host = host.lower()
        return any(
            host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[1:])
            for pattern in self.patterns
        )

    def check(self, url: str) -> None:
        """EgressRefused unless the URL is https to a host that is named, on its usual port."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise EgressRefused("a URL without a valid host") from None
        if parts.scheme != "https" or parts.username or parts.password:
            raise EgressRefused(f"a request to {parts.scheme}://{host} is refused; https to one of `hosts` is allowed")
        if not self.allows(host) or port not in (None, 443):
            raise EgressRefused(f"{host}{f':{port}' if port else ''} is not in the connector's hosts")


class Placement(msgspec.Struct, frozen=True):
    """What an auth puts into a request."""

    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    cookies: dict[str, str] = {}
    form: dict[str, str] = {}
    json: dict[str, str] = {}
    url: str | None = None
    tls: Tls | None = None
    finish: Any = None  # Prepared -> Prepared, once it is encoded: what signs it


NOTHING = Placement()
KINDS = ("json", "form", "csv", "ndjson", "multipart", "text")


def finished(request: Prepared, placed: Placement) -> Prepared:
    """The encoded request with what signs it, and the certificates it goes with."""
    if placed.tls is not None:
        request = msgspec.structs.replace(request, tls=placed.tls)
    signed: Prepared = placed.finish(request) if placed.finish is not None else request
    return signed


class Requester:
    """One compiled request: scope (and what auth places) -> Prepared."""

    def __init__(
        self,
        compiler: Compiler,
        spec: types.Request,
        *,
        names: frozenset[str],
        place: Path,
        drop: types.Drop,
        http: types.Http,
        hosts: Hosts,
    ) -> None:
        self.spec, self.hosts = spec, hosts
        self.ascii = http.json.ascii
        self.timeout_s = units.duration(spec.timeout or http.timeout)
        self.max_bytes = units.size(spec.max_bytes) if spec.max_bytes else None
        self.method = compiler.text(spec.method, names, (*place, "method"), "must")
        self.path = compiler.text(spec.path, names, (*place, "path"), "segment") if spec.path is not None else None
        hole = "must" if is_expression(spec.url) else "url"  # an address of a reply stays as it is
        self.url = compiler.text(spec.url, names, (*place, "url"), hole) if spec.url is not None else None
        self.query = self.tree(compiler, spec.query, names, (*place, "query"), drop)
        self.headers = self.tree(compiler, spec.headers, names, (*place, "headers"), drop)
        self.body: Run | None = None
        self.kind = next((kind for kind in KINDS if getattr(spec, kind) is not None), "none")
        if self.kind in ("json", "form", "ndjson"):
            self.body = self.tree(compiler, getattr(spec, self.kind), names, (*place, self.kind), drop)
        elif self.kind == "csv" and spec.csv is not None:
            self.body = compile_tree(compiler, spec.csv.rows, names, (*place, "csv", "rows"))
        elif self.kind == "text":
            self.body = compiler.text(spec.text, names, (*place, "text"))
        elif spec.multipart is not None:
            self.body = Multipart(compiler, spec.multipart, names, (*place, "multipart"), drop, ascii=self.ascii)

    @staticmethod
    def tree(compiler: Compiler, spec: Any, names: frozenset[str], place: Path, drop: types.Drop) -> Run:
        return compile_tree(compiler, spec, names, place, drop)

    def prepare(self, scope: Mapping[str, Any], base_url: str, placed: Placement = NOTHING) -> Prepared:
        """Fill every hole and encode; BadValue or EgressRefused if that can't be."""
        method = self.method(scope).upper()
        if not method.isalpha() or not method.isascii():
            raise BadValue("the method is not a word", "method")
        url = placed.url or self.address(scope, base_url)
        query = pairs(self.query(scope), "query") + list(placed.query.items())
        if query:
            url += ("&" if "?" in url else "?") + "&".join(f"{quoted(name)}={quoted(value)}" for name, value in query)
        self.hosts.check(url)
        filled = mapped(self.headers(scope), "headers")
        headers = {name: header(name, value) for name, value in filled.items() if value is not None}
        headers |= {name: header(name, value) for name, value in placed.headers.items()}
        if placed.cookies:
            headers["Cookie"] = header("Cookie", "; ".join(f"{name}={value}" for name, value in placed.cookies.items()))
        body = self.body(scope) if self.body is not None else None
        content, content_type = self.encode(body, placed, scope.get(ENCODED))
        if content_type and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = content_type
        if self.max_bytes is not None and content is not None and len(content) > self.max_bytes:
            raise BadValue(f"a body of {len(content)} bytes; {self.max_bytes} is the most", "request")
        written = content is not None and self.kind in ("csv", "text", "multipart")
        decoded = content.decode("utf-8", "replace") if written and content is not None else body
        made = Prepared(method, url, headers, content, self.timeout_s, decoded, decode=tuple(self.spec.decode))
        return finished(made, placed)

    def fingerprint(self, scope: Mapping[str, Any]) -> str:
        """Of what this request carries, without what auth places: two with the same are the same. Or a BadValue."""
        body = self.body(scope) if self.body is not None else None
        address = self.url(scope) if self.url is not None else self.path(scope) if self.path is not None else ""
        whole = [self.method(scope), address, self.query(scope), self.headers(scope), body]
        return sha256(encode_json(whole)).hexdigest()

    def address(self, scope: Mapping[str, Any], base_url: str) -> str:
        if self.url is not None:
            url = checked(str(self.url(scope)))
            if is_template(self.spec.url) and not is_expression(self.spec.url) and leads_up(urlsplit(url).path):
                raise BadValue(f"the path of the url leads upwards: {url[:80]}", "url")
            return url
        path = str(self.path(scope)) if self.path is not None else ""
        return join(base_url, path)

    def encode(self, body: Any, placed: Placement, known: Encoded | None = None) -> tuple[bytes | None, str]:
        if self.kind == "json" or (placed.json and self.kind == "none"):
            if placed.json:
                body = {**mapped(body, "json"), **placed.json}
            raw = encode_json({} if body is None else inserted(body, known) if known is not None else body)
            return (ascii_only(raw) if self.ascii else raw), JSON
        if self.kind == "multipart":
            return encoded_parts([*(body or []), *(Part(name, text.encode()) for name, text in placed.form.items())])
        if self.kind == "ndjson":
            return json_lines(body, ascii=self.ascii), JSON_LINES
        if self.kind == "form" or placed.form:
            fields = pairs(body, "form") + list(placed.form.items())
            return urlencode(fields).encode(), "application/x-www-form-urlencoded"
        if self.kind == "csv" and self.spec.csv is not None:
            return csv_text(body or [], self.spec.csv).encode(), CSV
        if self.kind == "text":
            return (body or "").encode(), TEXT
        return None, ""

    def follow(self, url: str, base_url: str, headers: dict[str, str], placed: Placement = NOTHING) -> Prepared:
        """A GET of a link that a reply gave (the next page), at the same base."""
        try:
            whole = checked(urljoin(base_url if base_url.endswith("/") else base_url + "/", url))
        except ValueError:
            raise BadValue("a link that is no URL", "next") from None
        self.hosts.check(whole)
        found = Prepared(
            "GET", whole, {**headers, **placed.headers}, None, self.timeout_s, decode=tuple(self.spec.decode)
        )
        return finished(found, placed)


def inserted(body: Any, known: Encoded, levels: int = 3) -> Any:
    """The body with the bytes of the batch's records in the place of their list, where it stands near the top."""
    if body is known.records:
        return msgspec.Raw(known.raw)
    if body.__class__ is dict and levels:
        return {key: inserted(value, known, levels - 1) for key, value in body.items()}
    return body


def quoted(text: str) -> str:
    """As `quote` of the standard library with nothing safe; long texts of few odd characters many times faster."""
    found = text.encode().decode("latin-1")
    odd = set(found) - _SAFE
    if len(odd) > FEW_ODD:
        return quote(text, safe="")
    if "%" in odd:
        found = found.replace("%", "%25")
    for character in odd - {"%"}:
        found = found.replace(character, f"%{ord(character):02X}")
    return found


def checked(url: str) -> str:
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise BadValue("a URL with a blank, a backslash or a control character", "url")
    return url


def leads_up(path: str) -> bool:
    return any(unquote(part) in (".", "..") for part in path.split("/"))


def join(base_url: str, path: str) -> str:
    """Base URL and path; the path stays below the base."""
    if not path:
        return checked(base_url)
    if not path.startswith("/") or leads_up(path.split("?")[0]):
        raise BadValue(f"the path must begin with / and stay below the base URL: {path[:80]}", "path")
    return checked(base_url.rstrip("/") + path)


def header(name: str, value: Any) -> str:
    """The value without the blanks around it, which HTTP takes for nothing and a client library refuses to send."""
    text = semantics.must(value, name).strip(" \t")
    if not _HEADER.match(text):
        raise BadValue("a header can't carry a line break or this character", f"headers.{name}")
    return text


class HttpTransport:
    """
    Real HTTP by httpx: one synchronous client for each thread, one TLS context for all, and one more for each pair of
    certificates.

    `via` sends everything to one loopback address instead, Host and path unchanged (a sandbox). `reach` says which
    addresses may be connected to.
    """

    def __init__(self, via: str | None = None, reach: egress.Egress = egress.PUBLIC) -> None:
        self.via = via.rstrip("/") if via else None
        self.reach = egress.LOOPBACK if self.via else reach
        self.local = threading.local()
        self.contexts: dict[Tls | None, Any] = {}  # made at the first request: whoever only takes in needs none
        self.clients: list[Any] = []
        self.making = threading.Lock()

    def client(self, certificates: Tls | None = None) -> Any:
        """This thread's client for these certificates. BadValue where they can't be used."""
        kept: dict[Tls | None, Any] = self.local.__dict__.setdefault("kept", {})
        if certificates not in kept:
            from http.cookiejar import DefaultCookiePolicy

            client = egress.client(self.reach, self.context(certificates))
            client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # all clients go through it
            if len(kept) > MOST_CERTIFICATES:
                oldest = next(key for key in kept if key is not None)
                kept.pop(oldest).close()
            kept[certificates] = client
            self.clients.append(client)
        return kept[certificates]

    def context(self, certificates: Tls | None) -> Any:
        with self.making:
            if certificates not in self.contexts:
                if len(self.contexts) > MOST_CERTIFICATES:
                    self.contexts.pop(next(key for key in self.contexts if key is not None))
                self.contexts[certificates] = tls.context(certificates)
            return self.contexts[certificates]

    def send(self, request: Prepared) -> Reply:
        import httpx

        url, headers = request.url, {"User-Agent": "daxgo-connect", **request.headers}
        if self.via:
            parts = urlsplit(url)
            headers["Host"] = parts.netloc
            url = self.via + (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        ends_at = time.monotonic() + 2 * request.timeout_s  # the library's time-out is one for each piece
        try:
            if self.reach.proxy is not None:
                egress.check_literal(urlsplit(url).hostname or "", self.reach)
            client = self.client(request.tls if not self.via else None)
            times = dict.fromkeys(("connect", "read", "write", "pool"), request.timeout_s)
            asked = httpx.Request(
                request.method,
                parsed(url),
                headers=sent_headers(headers),
                content=request.content,
                extensions={"timeout": times},
            )
            with egress.ends_at(ends_at):
                # Not by way of the client: what it does besides (cookies, redirects, log-ins) is not wanted, and costs.
                response = client._transport.handle_request(asked)
                try:
                    content = bytearray()
                    for chunk in response.iter_bytes():
                        content += chunk
                        if len(content) > MAX_REPLY:
                            raise NoReply(f"a reply of more than {MAX_REPLY} bytes", sent=True)
                        if time.monotonic() > ends_at:
                            raise NoReply(unfinished(request), sent=True)
                    return Reply(response.status_code, response.headers, bytes(content))
                finally:
                    response.close()
        except (BadValue, EgressRefused) as error:  # of the certificates, or the address: nothing else comes here
            raise NoReply(str(error), sent=False, ours=True) from None
        except UnicodeError:  # the system's own word for a host with a label that is empty or too long
            raise NoReply(f"no host can be called {urlsplit(request.url).hostname}", sent=False) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NoReply(f"no connection to {self.whom(request)}: {cause(error, request)}", sent=False) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            if isinstance(error, httpx.ReadTimeout) and time.monotonic() >= ends_at:
                raise NoReply(unfinished(request), sent=True) from None
            raise NoReply(f"no reply from {self.whom(request)}: {cause(error, request)}", sent=True) from None

    def whom(self, request: Prepared) -> str:
        host = str(urlsplit(request.url).hostname)
        return f"{host} by way of {self.via}" if self.via else host

    def close(self) -> None:
        for client in self.clients:
            client.close()


def parsed(url: str) -> httpx.URL:
    """The library's own reading, but of a long query in which nothing is left to encode: it looks at each character."""
    import httpx

    address, sign, query = url.partition("?")
    plain = len(query) >= LONG_QUERY and len(url) <= LONGEST_URL and "#" not in address and _PLAIN_QUERY.match(query)
    if not plain:
        return httpx.URL(url)
    found = httpx.URL(address + sign)
    found._uri_reference = found._uri_reference._replace(query=query)
    return found


def sent_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """With what every client says that a request does not say itself."""
    named = {name.lower() for name in headers}
    return [
        *((name, value) for name, value in SAID if name.decode().lower() not in named),
        *((name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()),
    ]


def unfinished(request: Prepared) -> str:
    return f"a reply that was not whole within {2 * request.timeout_s:g}s"


def cause(error: Exception, request: Prepared) -> str:
    """The system's own words for a connection that failed; of all else only the kind, for a text may repeat the URL."""
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return f"not within {request.timeout_s:g}s"
    if isinstance(error, httpx.ConnectError):
        return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or "refused"
    return type(error).__name__
