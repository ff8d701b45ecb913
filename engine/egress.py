"""
Which addresses a request may go to: the one place that opens connections to vendors and webhooks.

A name is looked up once, each address is judged, and the very address that was judged is connected to: what a second
look-up would say (DNS rebinding) is never asked. Proxies of the environment are not used, only one that was named.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import EgressRefused

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

    import httpx

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HINT = "; if it is meant to, run with --allow-private (CONNECT_ALLOW_PRIVATE=1)"
# No CRM lives there, whatever is allowed: what a cloud tells its machines, credentials among it.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
         "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    )
)  # fmt: skip
_SHARED = ipaddress.ip_network("100.64.0.0/10")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out
_LOCAL = ipaddress.ip_network("fc00::/7")
_SITE_LOCAL = ipaddress.ip_network("fec0::/10")
PRIVATE = ("a private address", "an address of this machine", "a shared address of a provider (100.64.0.0/10)")


class Egress(msgspec.Struct, frozen=True):
    """
    What a project lets its requests reach.

    `allow_private`: also addresses of its own networks. `proxy`: all requests go by way of it, and it decides.
    `loopback_only`: nothing but this machine.
    """

    allow_private: bool = False
    proxy: str | None = None
    loopback_only: bool = False

    def refusal(self, address: Address) -> str:
        """Why no connection may be made to it, or an empty text."""
        kind = kind_of(address)
        if self.loopback_only:
            return "" if kind == PRIVATE[1] else kind or "not an address of this machine"
        if not kind or (self.allow_private and kind in PRIVATE):
            return ""
        return kind


PUBLIC = Egress()
LOOPBACK = Egress(loopback_only=True)


def kind_of(address: Address) -> str:
    """What is not public about an address, in words; an empty text for what is. A v4 one inside of v6 is looked at."""
    inner = list(embedded(address))
    if _METADATA.intersection((*inner, address)):
        return "the metadata service of a cloud"
    wholes = inner if address in _NAT64 else [*inner, address]
    return next((kind for each in wholes if (kind := plain_kind(each))), "")


def plain_kind(address: Address) -> str:
    """The same of an address by itself."""
    if address.is_loopback:
        return PRIVATE[1]
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified:
        return "no address at all"
    if isinstance(address, ipaddress.IPv4Address):
        if address in _SHARED:
            return PRIVATE[2]
        return "" if address.is_global else "a reserved address" if address.is_reserved else PRIVATE[0]
    if address in _LOCAL or address in _SITE_LOCAL:
        return PRIVATE[0]
    return "" if address in _UNICAST and address.is_global else "a reserved address"


def embedded(address: Address) -> Iterable[ipaddress.IPv4Address]:
    """The v4 addresses that a v6 one leads to: mapped, compatible, NAT64, 6to4, Teredo."""
    if not isinstance(address, ipaddress.IPv6Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    low = int(address) & 0xFFFFFFFF
    if address in _NAT64 or (address in _COMPATIBLE and low > 1):
        yield ipaddress.IPv4Address(low)


def check_literal(host: str, egress: Egress) -> None:
    """EgressRefused for a host that is itself an address, which a proxy must not reach for us either."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return
    if why := egress.refusal(address):
        raise refused(host, address, why)


def refused(host: str, address: Address, why: str) -> EgressRefused:
    where = f"{host} is {why}" if host.strip("[]") == str(address) else f"{host} leads to {address}, {why}"
    return EgressRefused(f"{where}; requests go to public addresses only{HINT if why in PRIVATE else ''}")


class ByProxy:
    """How httpcore opens connections to a proxy that was named: wherever it stands; requests have an end there, too."""

    def __init__(self) -> None:
        import httpcore

        self.plain = httpcore.SyncBackend()

    def connect_tcp(self, *args: Any, **options: Any) -> Any:
        return Bounded(self.plain.connect_tcp(*args, **options))

    def sleep(self, seconds: float) -> None:
        self.plain.sleep(seconds)


class Guard:
    """
    How httpcore opens connections: it looks the name up, judges each address, and connects to one that may be reached.

    A name of which only some addresses may be reached is reached at those. EgressRefused where none may be.
    """

    def __init__(self, egress: Egress) -> None:
        import httpcore

        self.egress = egress
        self.plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> Any:
        import httpcore

        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from None
        failed: Exception | None = None
        refusal: EgressRefused | None = None
        for text in dict.fromkeys(str(entry[4][0]) for entry in found):
            address = ipaddress.ip_address(text.partition("%")[0])
            if why := self.egress.refusal(address):
                refusal = refusal or refused(host, address, why)
                continue
            try:  # by its number, so that nothing is looked up again
                return Bounded(self.plain.connect_tcp(text, port, timeout, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or refusal or httpcore.ConnectError("no address")

    def connect_unix_socket(self, *_: Any, **__: Any) -> Any:
        raise EgressRefused("a socket of this machine's file system")

    def sleep(self, seconds: float) -> None:
        self.plain.sleep(seconds)


def connected(host: str, port: int, egress: Egress, timeout_s: float) -> socket.socket:
    """A connection for what is not HTTP, judged as `Guard` does; EgressRefused or OSError."""
    failed: OSError | None = None
    refusal: EgressRefused | None = None
    for text in dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)):
        address = ipaddress.ip_address(text.partition("%")[0])
        if why := egress.refusal(address):
            refusal = refusal or refused(host, address, why)
            continue
        try:  # by its number, so that nothing is looked up again
            return socket.create_connection((text, port), timeout_s)
        except OSError as error:
            failed = error
    raise failed or refusal or OSError("no address")


_request = threading.local()  # of this thread: `ends_at`, monotonic seconds


@contextmanager
def ends_at(moment: float) -> Iterator[None]:
    """No read or write of this thread's request waits past that moment (monotonic seconds)."""
    _request.ends_at = moment
    try:
        yield
    finally:
        _request.ends_at = None


class Bounded:
    """A connection on which a request has an end: the library's time-outs begin anew with every byte that comes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        import httpcore

        data: bytes = self.stream.read(max_bytes, self.left(timeout, httpcore.ReadTimeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        import httpcore

        self.stream.write(buffer, self.left(timeout, httpcore.WriteTimeout))

    def left(self, timeout: float | None, over: type[Exception]) -> float | None:
        moment = getattr(_request, "ends_at", None)
        if moment is None:
            return timeout
        left: float = moment - time.monotonic()
        if left <= 0:
            raise over
        return left if timeout is None else min(timeout, left)

    def start_tls(self, *args: Any, **options: Any) -> Bounded:
        return Bounded(self.stream.start_tls(*args, **options))

    def close(self) -> None:
        self.stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


def client(egress: Egress, verify: ssl.SSLContext, timeout_s: float = 10.0) -> httpx.Client:
    """An `httpx.Client` that reaches what `egress` lets it reach: no redirects, nothing taken from the environment."""
    import httpcore
    import httpx

    transport = httpx.HTTPTransport(verify=verify, trust_env=False, proxy=egress.proxy)
    pool = getattr(transport, "_pool", None)
    if not isinstance(pool, httpcore.ConnectionPool) or not hasattr(pool, "_network_backend"):
        raise RuntimeError("this version of httpx has changed inside: what it connects to can't be bounded")
    if egress.proxy is not None:
        pool._network_backend = ByProxy()  # type: ignore[assignment]
    else:
        transport._pool = httpcore.ConnectionPool(
            ssl_context=verify,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=Guard(egress),  # type: ignore[arg-type]
        )
    return httpx.Client(transport=transport, follow_redirects=False, trust_env=False, timeout=timeout_s)
