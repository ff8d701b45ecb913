"""Who is told, on the loopback: a webhook and a mail server that remember what they were sent."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from command import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage


class Hook:
    """Answers as told; while `gate` is closed it hangs."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.raw: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.gate.wait(20)
                hook.raw.append(({name.lower(): value for name, value in self.headers.items()}, body))
                hook.bodies.append(json.loads(body))
                try:
                    self.send_response(hook.statuses.pop(0) if hook.statuses else 200)
                    for name, value in hook.headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", "0")
                    self.end_headers()
                except OSError:
                    return

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/s3cr3t"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()


class Mailbox:
    """A mail server; `context`: it has STARTTLS, and takes the user `ana` with the password `s3cr3t word`."""

    def __init__(self, context: ssl.SSLContext | None = None, *, secure: bool = False) -> None:
        self.letters: list[EmailMessage] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        self.logins: list[bytes] = []
        self.answer = "250 OK"
        tls = {} if context is None or secure else {"tls_context": context, "require_starttls": True}
        wants = context is not None
        self.controller = Controller(
            self,
            hostname="127.0.0.1",
            port=free_port(),
            ssl_context=context if secure else None,
            authenticator=self.authenticate if wants else None,
            auth_required=wants and not secure,
            auth_require_tls=wants and not secure,
            **tls,
        )
        self.controller.start()
        self.host, self.port = "127.0.0.1", self.controller.port

    def authenticate(self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login)
        return AuthResult(success=(data.login, data.password) == (b"ana", b"s3cr3t word"), handled=False)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        self.letters.append(message_from_bytes(content, policy=policy.default))
        self.envelopes.append((envelope.mail_from or "", list(envelope.rcpt_tos)))
        return self.answer

    def close(self) -> None:
        self.controller.stop()


def silent() -> Iterator[int]:
    """For a fixture: the port of a server that takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield int(server.getsockname()[1])
