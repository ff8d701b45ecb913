"""Where requests may go: public addresses, judged when they are connected to, and nothing of the environment's."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.egress import HINT, LOOPBACK, PUBLIC, Egress, kind_of
from engine.http import NoReply, Prepared
from engine.sending import HttpTransport
from tests.command import EVENTS, KEYS, SECRETS, Running, connect, make_project, post, soon

OPEN = Egress(allow_private=True)
PRIVATE, OWN, SHARED = (
    "a private address",
    "an address of this machine",
    "a shared address of a provider (100.64.0.0/10)",
)
METADATA, LOCAL, MANY = "the metadata service of a cloud", "a link-local address", "a multicast address"
NONE, RESERVED = "no address at all", "a reserved address"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("10.0.0.1", PRIVATE), ("172.16.5.4", PRIVATE), ("172.31.255.255", PRIVATE), ("192.168.1.1", PRIVATE),
        ("192.0.2.1", PRIVATE), ("198.18.0.1", PRIVATE), ("203.0.113.9", PRIVATE),
        ("127.0.0.1", OWN), ("127.255.255.254", OWN), ("::1", OWN),
        ("0.0.0.0", NONE), ("::", NONE), ("0.1.2.3", PRIVATE),
        ("169.254.1.1", LOCAL), ("fe80::1", LOCAL), ("febf::1", LOCAL),
        ("169.254.169.254", METADATA), ("fd00:ec2::254", METADATA), ("169.254.170.2", METADATA),
        ("168.63.129.16", METADATA), ("100.100.100.200", METADATA), ("192.0.0.192", METADATA),
        ("224.0.0.1", MANY), ("239.255.255.250", MANY), ("ff02::1", MANY), ("ff0e::1", MANY),
        ("100.64.0.1", SHARED), ("100.127.255.255", SHARED),
        ("240.0.0.1", RESERVED), ("255.255.255.255", RESERVED),
        ("fc00::1", PRIVATE), ("fdff::1", PRIVATE), ("fec0::1", PRIVATE),
        ("2001:db8::1", RESERVED), ("100::1", RESERVED), ("4000::1", RESERVED), ("64:ff9b:1::1", RESERVED),
        ("::ffff:127.0.0.1", OWN), ("::ffff:10.0.0.1", PRIVATE), ("::ffff:169.254.169.254", METADATA),
        ("::ffff:100.64.0.1", SHARED), ("::ffff:8.8.8.8", RESERVED), ("::127.0.0.1", OWN), ("::8.8.8.8", RESERVED),
        ("64:ff9b::10.0.0.1", PRIVATE), ("64:ff9b::a9fe:a9fe", METADATA), ("2002:7f00:1::", OWN),
        ("2002:a00:1::", PRIVATE), ("2001:0:4136:e378:8000:63bf:3fff:fdd2", PRIVATE),
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused_and_called_by_its_kind(address: str, kind: str) -> None:
    found = ipaddress.ip_address(address)
    assert (kind_of(found), PUBLIC.refusal(found)) == (kind, kind)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::8.8.8.8", "2002:808:808::"],
)
def test_a_public_address_is_let_through(address: str) -> None:
    assert PUBLIC.refusal(ipaddress.ip_address(address)) == ""


@given(st.ip_addresses())
def test_no_address_is_let_through_that_python_does_not_call_global(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not PUBLIC.refusal(address):
        assert address.is_global or address in ipaddress.ip_network("64:ff9b::/96")
        assert not address.is_multicast


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "224.0.0.1", "0.0.0.0", "240.0.0.1"]
)
def test_what_no_crm_lives_at_stays_refused_where_private_addresses_are_allowed(address: str) -> None:
    assert OPEN.refusal(ipaddress.ip_address(address)) != ""


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "::1", "100.64.0.1", "fd12::1", "8.8.8.8"])
def test_private_addresses_can_be_allowed(address: str) -> None:
    assert OPEN.refusal(ipaddress.ip_address(address)) == ""


# --- at the wire ---


class Door:
    """A vendor, or a proxy, on the loopback: what came to it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                return

            def answer(self) -> None:
                outer.seen.append(f"{self.command} {self.path}")
                self.send_response(502 if self.command == "CONNECT" else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_CONNECT = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Answers of the name service: each look-up of a name takes the next; returns the names that were asked for."""
    real = socket.getaddrinfo

    def say(*answers: list[str]) -> list[str]:
        left, asked = list(answers), list[str]()

        def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if str(host).replace(".", "").replace(":", "").isdigit():
                return real(host, port, *args, **kwargs)
            asked.append(str(host))
            found = left.pop(0) if len(left) > 1 else left[0]
            return [entry for address in found for entry in real(address, port, *args, **kwargs)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return asked

    return say


def get(url: str, reach: Egress = PUBLIC, timeout_s: float = 2.0) -> int:
    transport = HttpTransport(None, reach)
    try:
        return transport.send(Prepared("GET", url, {}, None, timeout_s)).status
    finally:
        transport.close()


def refusal(url: str, reach: Egress = PUBLIC) -> tuple[bool, bool, str]:
    with pytest.raises(NoReply) as caught:
        get(url, reach)
    return caught.value.sent, caught.value.ours, caught.value.reason


def test_a_host_that_leads_to_this_machine_is_not_connected_to(door: Door, names: Callable[..., list[str]]) -> None:
    names(["127.0.0.1"])
    why = "crm.example leads to 127.0.0.1, an address of this machine; requests go to public addresses only"
    assert refusal(f"http://crm.example:{door.port}/x") == (False, True, f"{why}{HINT}")
    assert door.seen == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "localhost"])
def test_another_way_to_write_this_machine_is_no_way_in(door: Door, host: str) -> None:
    sent, ours, reason = refusal(f"http://{host}:{door.port}/x")
    assert (sent, ours, "an address of this machine" in reason, door.seen) == (False, True, True, [])


def test_the_metadata_service_is_refused_and_nothing_is_said_of_a_way_to_allow_it() -> None:
    why = "169.254.169.254 is the metadata service of a cloud; requests go to public addresses only"
    assert refusal("http://169.254.169.254/latest/meta-data/", OPEN) == (False, True, why)


def test_the_address_that_was_judged_is_the_one_that_is_connected_to(
    door: Door, names: Callable[..., list[str]]
) -> None:
    """A name that leads elsewhere a moment later (DNS rebinding): it is asked for once."""
    asked = names(["127.0.0.1"], ["10.255.255.1"])
    assert get(f"http://crm.example:{door.port}/x", LOOPBACK) == 204
    assert (asked, door.seen) == (["crm.example"], ["GET /x"])


def test_of_several_addresses_only_those_that_are_allowed_are_tried(
    door: Door, names: Callable[..., list[str]]
) -> None:
    names(["10.255.255.1", "127.0.0.1"])
    assert get(f"http://crm.example:{door.port}/x", LOOPBACK, 0.5) == 204


def test_a_sandbox_is_this_machine_and_nothing_else(names: Callable[..., list[str]]) -> None:
    names(["8.8.8.8"])
    transport = HttpTransport("http://localhost:1")
    with pytest.raises(NoReply) as caught:
        transport.send(Prepared("GET", "https://crm.example/x", {}, None, 1.0))
    why = "localhost leads to 8.8.8.8, not an address of this machine; requests go to public addresses only"
    assert (caught.value.ours, caught.value.reason) == (True, why)
    transport.close()


def test_a_name_that_is_not_known_is_an_outage_and_no_refusal() -> None:
    sent, ours, reason = refusal("https://nobody.invalid/")
    assert (sent, ours, reason.partition(":")[0]) == (False, False, "no connection to nobody.invalid")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"])
def test_a_proxy_of_the_environment_is_not_used(
    door: Door, names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    names(["127.0.0.1"])
    monkeypatch.setenv(name, f"http://127.0.0.1:{door.port}")
    for scheme in ("http", "https"):
        refusal(f"{scheme}://crm.example/x")
    assert door.seen == []


def test_a_proxy_that_was_named_is_asked_for_the_host(door: Door) -> None:
    reach = Egress(proxy=f"http://127.0.0.1:{door.port}")
    assert refusal("https://crm.example/x", reach)[1:] == (False, "no reply from crm.example: ProxyError")
    assert door.seen == ["CONNECT crm.example:443"]


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: "])
@pytest.mark.parametrize("url", ["http://crm.example/x", "https://crm.example/x"])
def test_a_reply_that_comes_in_drops_by_way_of_a_proxy_is_not_waited_for_without_end(url: str, head: bytes) -> None:
    """A drop each 50 ms: no single read waits long. Of https it is the tunnel, or what is to be TLS in it."""
    began, over = time.monotonic(), threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(10_000)
            connection.sendall(
                head if not url.startswith("https") or head.endswith(b" ") else head + b"\x16\x03\x03\x40"
            )
            while not over.wait(0.05):
                connection.sendall(b"\x00" if head.endswith(b"\n") else b"a")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        transport = HttpTransport(reach=Egress(proxy=f"http://127.0.0.1:{listener.getsockname()[1]}"))
        with pytest.raises(NoReply):
            transport.send(Prepared("GET", url, {}, None, 0.2))
        assert time.monotonic() - began < 5.0
        over.set()
        thread.join()
        transport.close()


def test_a_proxy_is_not_asked_for_a_private_address(door: Door) -> None:
    reach = Egress(proxy=f"http://127.0.0.1:{door.port}")
    assert refusal("https://10.0.0.1/x", reach)[1] is True
    assert door.seen == []


# --- a whole process ---


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = make_project(tmp_path)
    for file in (*made.glob("connectors/*.yaml"), *made.glob("clients/*.yaml")):
        if "rdstation" not in file.stem and file.stem != "client-xyz":
            file.unlink()
    spec = made / "connectors" / "rdstation.yaml"
    spec.write_text(spec.read_text().replace("api.rd.services", "127.0.0.1"))
    return made


def test_a_lane_whose_host_leads_to_a_private_address_is_paused_and_goes_on_where_that_is_allowed(home: Path) -> None:
    sent = connect("send", "rdstation", "rdstation.json", project=home, **SECRETS)
    why = "127.0.0.1 is an address of this machine; requests go to public addresses only"
    assert (sent.code, sent.out) == (1, f"send_conversion: failed: {why}{HINT}\n")
    assert sent.err == "with these credentials a lane would pause; see `connect check rdstation client-xyz`\n"
    allowed = connect("send", "rdstation", "rdstation.json", "--allow-private", project=home, **SECRETS)
    assert "no connection to 127.0.0.1: Connection refused" in allowed.out
    by_environment = connect("send", "rdstation", "rdstation.json", project=home, CONNECT_ALLOW_PRIVATE="1", **SECRETS)
    assert by_environment.out == allowed.out
    (home / "connect.yaml").write_text("allow_private: true\n")
    assert connect("send", "rdstation", "rdstation.json", project=home, **SECRETS).out == allowed.out
    strict = connect("send", "rdstation", "rdstation.json", "--no-allow-private", project=home, **SECRETS)
    assert strict.out == sent.out


def test_a_lane_that_was_paused_for_an_address_goes_on_where_that_is_allowed(home: Path) -> None:
    with Running("serve", "--port", "0", project=home, **SECRETS) as serve:
        port = serve.lines_until("Tokens are")[0].partition("127.0.0.1:")[2].partition("/")[0]
        key = {"X-Connect-Key": KEYS["rdstation"]}
        assert post(f"http://127.0.0.1:{port}/rdstation", EVENTS["rdstation"], **key)[0] == 401  # as for a wrong token
        soon(lambda: paused(home))
        assert serve.end().code == 0
    assert paused(home)["reason"].startswith("127.0.0.1 is an address of this machine;")
    connect("deliver", project=home, **SECRETS)
    assert paused(home)
    connect("deliver", "--allow-private", project=home, **SECRETS)
    assert not paused(home)


def paused(home: Path) -> Any:
    lanes = connect("status", "--json", project=home).json["lanes"]
    return next((lane for lane in lanes if lane["state"] == "paused"), None)


def test_serve_says_what_is_unusual_about_where_requests_go(home: Path) -> None:
    env = {**SECRETS, "HTTPS_PROXY": "http://10.1.1.1:3128"}
    with Running("serve", "--port", "0", "--allow-private", project=home, **env) as serve:
        said = serve.lines_until("Tokens are")
        assert serve.end().code == 0
    assert [line for line in said if "equests" in line] == [
        "Requests may go to private addresses: --allow-private.",
        "HTTPS_PROXY: not used for requests to vendors; CONNECT_PROXY names a proxy.",
    ]
    proxy = "http://user:s3cret-of-proxy@proxy.example.com:3128"
    with Running("serve", "--port", "0", project=home, CONNECT_PROXY=proxy, **SECRETS) as serve:
        said = serve.lines_until("Tokens are")
        assert serve.end().code == 0
    assert [line for line in said if "equests" in line] == [
        "Requests go by way of proxy.example.com; what addresses they reach is its choice."
    ]


def test_a_proxy_in_the_project_has_no_password(home: Path) -> None:
    (home / "connect.yaml").write_text("proxy: http://user:pass@proxy.example.com:3128\n")
    found = connect("send", "rdstation", "rdstation.json", project=home, **SECRETS)
    assert (found.code, "one with a password stands in CONNECT_PROXY" in found.err) == (1, True)
    assert EVENTS["rdstation"]["tid"] not in found.err
