"""One e-mail for one trouble, by SMTP: plain text, TLS wherever the server has it, and no header but ours."""

from __future__ import annotations

import ipaddress
import smtplib
import socket
import threading
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from engine import egress, tls
from engine.alerts.ways import TIMEOUT_S, NotTaken, Way

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from engine.alerts.messages import Message

PORTS = {"smtp": 587, "smtps": 465}
WHOLE_S = 3 * TIMEOUT_S  # of one try: a server that answers each command late has an end, too
FORM = "an address such as smtp://user:password@mail.example.com:587, or smtps://"


class Server(NamedTuple):
    """Where mail is handed over; `secure`: TLS from the first byte, else STARTTLS."""

    host: str
    port: int
    secure: bool
    user: str
    password: str


def server_of(address: str) -> Server:
    """NotTaken for what is no address of a mail server; it is never repeated."""
    try:
        found = urlsplit(address)
        port = found.port
    except ValueError:
        raise NotTaken(f"its server is no address; write {FORM}") from None
    if found.scheme not in PORTS or not found.hostname:
        raise NotTaken(f"its server is no address; write {FORM}")
    user, password = unquote(found.username or ""), unquote(found.password or "")
    return Server(found.hostname, port or PORTS[found.scheme], found.scheme == "smtps", user, password)


class MailWay(Way):
    """
    `server` is asked for at each try. A user name is never sent without TLS; without one, a server that has no
    STARTTLS is told in the clear: a relay of one's own network.
    """

    def __init__(
        self,
        name: str,
        server: Callable[[], str],
        *,
        sender: str,
        to: Sequence[str],
        reach: egress.Egress = egress.PUBLIC,
        timeout_s: float = TIMEOUT_S,
        whole_s: float = WHOLE_S,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.name, self._server, self._sender, self._to = name, server, sender, tuple(to)
        self._reach, self._timeout_s, self._whole_s, self._context = reach, timeout_s, whole_s, context

    @property
    def shown(self) -> str:  # type: ignore[override]
        return server_of(self._server()).host

    def send(self, message: Message) -> str:
        server = server_of(self._server())
        context = self._context or tls.context(None)
        letter = letter_of(message, self._sender, self._to, server.host)
        smtp = _Guarded(self._reach, context if server.secure else None, self._timeout_s)
        ends = threading.Timer(self._whole_s, smtp.cut)
        ends.daemon = True
        ends.start()
        try:
            smtp.name(server.host)
            code, _ = smtp.connect(server.host, server.port)
            if code != 220:
                raise NotTaken(f"SMTP {code}")
            smtp.ehlo()
            if not server.secure and (smtp.has_extn("starttls") or server.user):
                smtp.starttls(context=context)
                smtp.ehlo()
            if server.user:
                smtp.login(server.user, server.password)
            refused = smtp.send_message(letter, self._sender, list(self._to))
        finally:
            ends.cancel()
            smtp.close()
        if refused:
            raise NotTaken(f"SMTP {next(iter(refused.values()))[0]} for {len(refused)} of {len(self._to)} receivers")
        return f"SMTP 250 by {server.host}"

    def why(self, error: Exception) -> str:
        if isinstance(error, smtplib.SMTPAuthenticationError):
            return f"SMTP {error.smtp_code}: user name or password are refused"
        if isinstance(error, smtplib.SMTPResponseException):  # never its text, which may repeat what was sent
            return f"SMTP {error.smtp_code}"
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            return f"SMTP {next(iter(error.recipients.values()))[0]}: no receiver was taken"
        if isinstance(error, smtplib.SMTPNotSupportedError):
            return "the server has no STARTTLS, or no log-in; a user name is not sent in the clear"
        return super().why(error)


class _Guarded(smtplib.SMTP):
    """Connects as everything else here does: each address is judged, and the one that was judged is reached."""

    def __init__(self, reach: egress.Egress, secure: ssl.SSLContext | None, timeout_s: float) -> None:
        self._reach, self._secure = reach, secure
        super().__init__(local_hostname="localhost", timeout=timeout_s)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        made = egress.connected(host, port, self._reach, timeout)
        if self._secure is None:
            return made
        self.sock = made  # for `cut`
        return self._secure.wrap_socket(made, server_hostname=host)

    def name(self, host: str) -> None:
        """Whom a certificate has to be for."""
        self._host = host

    def cut(self) -> None:
        """Whatever waits for the server waits no longer."""
        sock = self.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return


def letter_of(message: Message, sender: str, to: Sequence[str], host: str) -> EmailMessage:
    """Signs that would begin another header are blanks."""
    letter = EmailMessage(policy=SMTP)
    letter["Subject"] = line(f"[connect] {message.subject}")
    letter["From"], letter["To"] = sender, ", ".join(to)
    letter["Date"] = formatdate()
    letter["Message-ID"] = f"<{message.id}@connect.{_host(host)}>"
    letter["Auto-Submitted"] = "auto-generated"
    letter.set_content(message.text.replace("\r", " ") + "\n")
    return letter


def line(text: str) -> str:
    """One line, of a length that a subject has."""
    return "".join(sign if sign.isprintable() else " " for sign in text)[:200]


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)).replace(":", "-")
    except ValueError:
        return text
