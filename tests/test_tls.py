"""Client certificates out of secrets, at a server on loopback that takes nobody without one."""

from __future__ import annotations

import datetime
import gc
import http.server
import ipaddress
import os
import ssl
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from conftest import Shop, Vendor
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine import tls
from engine.egress import LOOPBACK
from engine.errors import BadValue
from engine.http import Prepared, Reply, Tls
from engine.sending import HttpTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

PEM = serialization.Encoding.PEM
CRM = """
hosts: [api.crm.example]
secrets: {cert: {title: Certificate}, key: {title: Key}, ca: {title: Root}, word: {optional: true}}
http:
  base_url: https://api.crm.example/v1
  retry: {attempts: 3, initial: 10s, jitter: none}
  tls: {cert: "${ secrets.cert }", key: "${ secrets.key }", ca: "${ secrets.ca }"}
"""


class Pair(NamedTuple):
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def cert_pem(self) -> str:
        return self.cert.public_bytes(PEM).decode()

    def key_pem(self, passphrase: str = "") -> str:
        how: Any = serialization.NoEncryption()
        if passphrase:
            how = serialization.BestAvailableEncryption(passphrase.encode())
        return self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, how).decode()


def certified(name: str, by: Pair | None = None) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.cert.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    return Pair(built.sign(by.key if by else key, hashes.SHA256()), key)


ROOT = certified("root")
CLIENT, OTHER, SERVER = certified("client-abc", ROOT), certified("client-xyz", ROOT), certified("api", ROOT)


class TlsServer:
    """It answers with the name in the caller's certificate."""

    def __init__(self, directory: Path) -> None:
        (directory / "server.pem").write_text(SERVER.cert_pem + SERVER.key_pem())
        (directory / "root.pem").write_text(ROOT.cert_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem")
        context.load_verify_locations(directory / "root.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self.callers: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                return

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fields = dict(pair for part in self.connection.getpeercert()["subject"] for pair in part)  # type: ignore[attr-defined]
                outer.callers.append(fields["commonName"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                return

        self.http = Server(("127.0.0.1", 0), Handler)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"https://127.0.0.1:{self.http.server_address[1]}"

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


class Rerouted(HttpTransport):
    """The vendor's host is on this machine, under a port that only the test knows."""

    def __init__(self, url: str) -> None:
        super().__init__(reach=LOOPBACK)
        self.url = url

    def send(self, request: Prepared) -> Reply:
        return super().send(msgspec.structs.replace(request, url=f"{self.url}/{request.url.split('/', 3)[3]}"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    made = TlsServer(tmp_path)
    yield made
    made.close()


@pytest.fixture
def transport(server: TlsServer) -> Iterator[Rerouted]:
    made = Rerouted(server.url)
    yield made
    made.close()
    gc.collect()


def shop(transport: Any, cert: str, key: str, text: str = CRM, **more: str) -> Shop:
    return Shop(text, vendor=transport, secrets={"cert": cert, "key": key, "ca": ROOT.cert_pem, **more})


def sent(crm: Shop) -> tuple[dict[str, int], str | None]:
    crm.post({"id": "1"})
    crm.drain()
    return crm.sums(), crm.lane().reason


@pytest.mark.parametrize("one_line", [False, True])
def test_a_client_is_known_by_its_certificate(one_line: bool, server: TlsServer, transport: Rerouted) -> None:
    cert, key = CLIENT.cert_pem, CLIENT.key_pem()
    if one_line:
        cert, key = cert.replace("\n", "\\n"), key.replace("\n", "\\n")
    assert sent(shop(transport, cert, key)) == ({"delivered": 1}, None)
    assert server.callers == ["client-abc"]


def test_each_client_comes_with_its_own(server: TlsServer, transport: Rerouted) -> None:
    for pair in (CLIENT, OTHER, CLIENT):
        assert sent(shop(transport, pair.cert_pem, pair.key_pem()))[0] == {"delivered": 1}
    assert server.callers == ["client-abc", "client-xyz", "client-abc"]
    assert len(transport.contexts) == 2  # one for each pair; nobody came without certificates


def test_a_private_key_may_be_encrypted(server: TlsServer, transport: Rerouted) -> None:
    text = CRM.replace('ca: "${', 'passphrase: "${ secrets.word }", ca: "${')
    assert sent(shop(transport, CLIENT.cert_pem, CLIENT.key_pem("open sesame"), text, word="open sesame"))[0] == {
        "delivered": 1
    }
    assert server.callers == ["client-abc"]


@pytest.mark.parametrize(
    ("cert", "key", "why"),
    [
        ("no certificate", CLIENT.key_pem(), "http.tls: certificate and key: can't be read as PEM"),
        (CLIENT.cert_pem, "no key", "http.tls: certificate and key: can't be read as PEM"),
        (CLIENT.cert_pem, OTHER.key_pem(), "http.tls: certificate and key: key and certificate do not belong together"),
        (CLIENT.cert_pem, CLIENT.key_pem("open sesame"), "http.tls: certificate and key: can't be read as PEM"),
    ],
)
def test_certificates_that_can_not_be_used_pause_the_lane_and_are_not_repeated(
    cert: str, key: str, why: str, server: TlsServer, transport: Rerouted
) -> None:
    crm = shop(transport, cert, key)
    assert sent(crm) == ({"waiting": 1}, why)
    assert (crm.lane().state, server.callers) == ("paused", [])
    assert key not in str([crm.lane(), crm.heard.events, crm.heard.alerts])


def test_a_root_that_is_none_pauses_too(transport: Rerouted) -> None:
    crm = shop(transport, CLIENT.cert_pem, CLIENT.key_pem(), ca="no root")
    assert sent(crm) == ({"waiting": 1}, "http.tls.ca: no certificate in PEM can be read")


def test_a_server_that_nobody_vouches_for_gets_nothing(server: TlsServer, transport: Rerouted) -> None:
    crm = shop(transport, CLIENT.cert_pem, CLIENT.key_pem(), CRM.replace(', ca: "${ secrets.ca }"', ""))
    sums, _ = sent(crm)
    assert (sums, crm.lane().state, server.callers) == ({"waiting": 1}, "throttled", [])
    assert "CERTIFICATE_VERIFY_FAILED" in str(crm.lane().reason)


def test_a_certificate_for_another_name_gets_nothing_though_the_address_is_the_one(server: TlsServer) -> None:
    """Connections go to a number; the certificate is still held against the name."""
    elsewhere = Rerouted(server.url.replace("127.0.0.1", "localhost"))
    counts, reason = sent(shop(elsewhere, CLIENT.cert_pem, CLIENT.key_pem()))
    elsewhere.close()
    gc.collect()
    assert (counts, server.callers) == ({"waiting": 1}, [])
    assert "certificate verify failed: Hostname mismatch" in (reason or "")


def test_log_ins_come_with_the_certificate_too() -> None:
    text = (
        CRM
        + """
auth:
  type: oauth2_client_credentials
  client_auth: none
  token_url: https://api.crm.example/token
  client_id: app-1
"""
    )
    vendor = Vendor()
    vendor.answers = [Reply(200, {}, b'{"access_token": "t-1234"}'), Reply(200, {}, b"{}")]
    assert sent(shop(vendor, "the cert", "the key", text))[0] == {"delivered": 1}
    expected = Tls(cert="the cert", key="the key", ca=ROOT.cert_pem)
    assert [request.tls for request in vendor.asked] == [expected, expected]
    assert "the key" not in repr(vendor.asked)


@pytest.mark.parametrize("memory", [True, False])
def test_no_key_is_left_in_a_file(memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = memory and hasattr(os, "memfd_create")
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    modes = []

    class Context(ssl.SSLContext):
        def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
            modes.append((Path(certfile).is_relative_to(tmp_path), os.stat(certfile).st_mode & 0o077))
            super().load_cert_chain(certfile, keyfile, password)

    monkeypatch.setattr(ssl, "create_default_context", lambda: Context(ssl.PROTOCOL_TLS_CLIENT))
    tls.context(Tls(cert=CLIENT.cert_pem, key=CLIENT.key_pem()))
    assert modes == [(not memory, 0 if not memory else modes[0][1])]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadValue):
        tls.context(Tls(cert="nothing", key="nothing"))
    assert list(tmp_path.iterdir()) == []
