"""Who may look and who may act on the admin side: two tokens, a signed cookie for browsers, forms that are our own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import os
import threading
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from engine.door import answers
from engine.door.listening import is_loopback
from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.door.answers import Answer
    from engine.door.asgi import Scope

SESSION_S = 12 * 3600.0  # how long a log-in holds, whatever is done meanwhile
FORM_S = 2 * 3600.0  # how long a page may stand open before its forms are stale
WRONG_S = 60.0
MAX_WRONG = 10  # wrong tokens of one address within WRONG_S
MAX_ADDRESSES = 1_000  # that are remembered for a wrong token
MAX_ENDED = 10_000  # sessions that were logged out and would still hold
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")


class Role(StrEnum):
    OPERATE = "operate"
    READ = "read"


class Visit(NamedTuple):
    """One request of somebody who may look."""

    role: Role
    session: str  # what forms are bound to: the id of a session, or how it was proven otherwise
    address: str
    by_cookie: bool = False
    open: bool = False  # nobody is asked for a token here

    @property
    def acts(self) -> bool:
        return self.role is Role.OPERATE

    @property
    def who(self) -> str:
        """For the audit: the admin side knows tokens and not people."""
        how = "no token" if self.open else f"{self.role} token"
        return f"admin side ({how}, {self.address or 'unknown address'})"


class Access:
    """
    With a token: `Authorization: Bearer TOKEN`, Basic with it as the password, or the cookie of a log-in. The read
    token looks and changes nothing. Without a token: only a Host that is loopback, and not through a proxy.

    Sessions are signed, not stored: another token ends them all, and so does a new process for those who were let in
    without one.
    """

    def __init__(
        self,
        token: str | None,
        read_token: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: os.urandom(16).hex(),
    ) -> None:
        if read_token and not token:
            raise UsageError("CONNECT_ADMIN_READ_TOKEN is for looking only; CONNECT_ADMIN_TOKEN must be there, too")
        if token and token == read_token:
            raise UsageError("CONNECT_ADMIN_READ_TOKEN and CONNECT_ADMIN_TOKEN must differ")
        self.open = not token
        self._tokens = {role: value.encode() for role, value in self._named(token, read_token)}
        self._clock, self._new_id = clock, new_id
        seed = b"\0".join(self._tokens.values()) or os.urandom(32)
        self._key = hmac.digest(seed, b"DaxGO Connect, admin side", hashlib.sha256)
        self._wrong: dict[str, list[float]] = {}
        self._ended: dict[str, float] = {}
        self._lock = threading.Lock()
        self.cookie = f"connect_{self._sign('cookie')[:8]}"  # of its own: cookies do not tell ports apart

    @staticmethod
    def _named(token: str | None, read_token: str | None) -> list[tuple[Role, str]]:
        return [(role, value) for role, value in ((Role.OPERATE, token), (Role.READ, read_token)) if value]

    # --- who it is ---

    def visit(self, scope: Scope) -> Visit | Answer:
        """The visit, or what is answered to somebody who may not look."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        address = address_of(scope)
        if self.open:
            refusal = self.host_refused(scope)
            return refusal or Visit(Role.OPERATE, "open", address, open=True)
        if b"authorization" in headers:
            found = self.role_of(_given_token(headers), address)
            return found if not isinstance(found, Role) else Visit(found, f"token {found}", address)
        if (read := self._read_cookie(headers.get(b"cookie", b""))) is not None:
            role, session = read
            return Visit(role, session, address, by_cookie=True)
        return _unknown()

    def host_refused(self, scope: Scope) -> Answer | None:
        """Without a token no web page may reach in by a name of its own (DNS rebinding)."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self.open and (not is_loopback_host(host_of(scope)) or not headers.keys().isdisjoint(_FORWARDED)):
            return answers.problem(403, detail="without a token the admin side answers only to 127.0.0.1 and localhost")
        return None

    def role_of(self, given: bytes, address: str) -> Role | Answer:
        """Of a token; after too many wrong ones of an address not even the right one is looked at."""
        now = self._clock()
        with self._lock:
            times = [at for at in self._wrong.get(address, []) if at > now - WRONG_S]
            if len(times) >= MAX_WRONG:
                wait_s = math.ceil(times[-MAX_WRONG] + WRONG_S - now)
                return answers.too_many("too many wrong tokens from this address", wait_s)
            found = [role for role, token in self._tokens.items() if hmac.compare_digest(given, token)]
            if found:
                return found[0]
            if given:
                self._wrong.pop(address, None)
                self._wrong[address] = [*times, now]
                while len(self._wrong) > MAX_ADDRESSES:
                    del self._wrong[next(iter(self._wrong))]
        return _unknown()

    # --- sessions ---

    def begin(self, role: Role) -> str:
        """The value of the cookie."""
        head = f"{role}.{int(self._clock() + SESSION_S)}.{self._new_id()}"
        return f"{head}.{self._sign('session', head)}"

    def end(self, visit: Visit) -> None:
        """Its cookie serves no longer, wherever it was copied to."""
        with self._lock:
            now = self._clock()
            self._ended = {session: until for session, until in self._ended.items() if until > now}
            if len(self._ended) < MAX_ENDED:
                self._ended[visit.session] = now + SESSION_S

    def set_cookie(self, scope: Scope, value: str) -> str:
        """The header; an empty value takes the cookie away. Over plain http only a loopback address keeps it."""
        age = f"Max-Age={int(SESSION_S) if value else 0}"
        secure = "" if is_loopback_host(host_of(scope)) else "; Secure"
        return f"{self.cookie}={value}; Path=/; {age}; HttpOnly; SameSite=Strict{secure}"

    def _read_cookie(self, header: bytes) -> tuple[Role, str] | None:
        from http.cookies import CookieError, SimpleCookie  # not in the time of a start: only browsers send some

        try:
            morsel: Any = SimpleCookie(header.decode("latin-1")).get(self.cookie)
        except CookieError:
            return None
        if morsel is None or len(morsel.value) > 500:
            return None
        head, _, signature = morsel.value.rpartition(".")
        role, _, rest = head.partition(".")
        until, _, session = rest.partition(".")
        if not self._is_signed(signature, "session", head) or role not in self._tokens:
            return None
        if float(until) <= self._clock() or session in self._ended:
            return None
        return Role(role), session

    # --- forms ---

    def form_token(self, visit: Visit) -> str:
        """What stands in each form of a page; no other page knows it, and it does not serve for ever."""
        until = str(int(self._clock() + FORM_S))
        return f"{until}.{self._sign('form', visit.session, until)}"

    def is_fresh(self, visit: Visit, token: str) -> bool:
        until, _, signature = token.partition(".")
        if not self._is_signed(signature, "form", visit.session, until):
            return False
        return float(until) > self._clock()

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()

    def _is_signed(self, signature: str, *parts: str) -> bool:
        return hmac.compare_digest(signature.encode(), self._sign(*parts).encode())


NOBODY = Visit(Role.READ, "log-in", "")  # whom the form of the log-in is for


def address_of(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else ""


def host_of(scope: Scope) -> str:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers.get(b"host", b"").decode("latin-1")


def is_loopback_host(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _unknown() -> Answer:
    challenge = ((b"www-authenticate", b'Basic realm="DaxGO Connect", charset="UTF-8"'),)
    return answers.problem(401, detail="give the admin token as bearer or as password", headers=challenge)


def _given_token(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""
