"""
A person's consent, once: page to open -> answer (by a loopback callback, or pasted) -> code -> token in the store.

No part of the walk. The state ties the answer to this log-in, and PKCE (RFC 7636) ties the code to this process.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from engine.auth import CONSENTED, LOCK_TTL_S, AuthFailed
from engine.bodies import pairs
from engine.errors import BadValue, ConnectError, UsageError
from engine.placing import unquoted
from engine.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.auth import Auth
    from engine.ports import Store
    from engine.records import TokenRow
    from engine.spec.findings import Finding
    from engine.spec.project import Project
    from engine.wire import Wire

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOCK_STEP_S = 0.2
PAGE = "<!doctype html><meta charset=utf-8><title>connect login</title><p>{}</p>"


class LoginFailed(ConnectError):
    """A person did not agree, or what came back is of no use."""

    exit_code = 1


class Asked(NamedTuple):
    """The page a person opens, and what the answer is held against."""

    url: str
    state: str
    verifier: str
    redirect_uri: str

    def given(self, answer: Mapping[str, str]) -> dict[str, Any]:
        """`consent` as expressions see it once there is an answer."""
        return {**self.before, "code": answer.get("code", ""), "reply": dict(answer)}

    @property
    def before(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return {
            "state": self.state,
            "redirect_uri": self.redirect_uri,
            "code_verifier": self.verifier,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
        }


def consenting(program: Program, named: str | None) -> Auth:
    """The way to log in that asks a person. UsageError where there is none."""
    if named is not None and named not in program.auths:
        raise UsageError(f"{program.connector.name} has no auth {named}; there are {', '.join(program.auths)}")
    auth = program.auths[named] if named is not None else program.auth
    if auth.consent is None:
        others = [name for name, other in program.auths.items() if other.consent is not None]
        hint = f"; --auth {others[0]} does" if others else ""
        raise UsageError(f"{program.name} logs in with its secrets; no person needs to agree{hint}")
    return auth


def lacking(project: Project, store: Store) -> list[Finding]:
    """The clients for which a person still has to agree, each at its place."""
    from engine.spec.check.files import client_piece

    found = []
    connectors, clients, _ = project.all()
    for path in project.client_files().values():
        piece = client_piece(project, path)
        client = clients.get(piece.value.client) if piece.value is not None else None
        if client is None or not client.active or piece.located is None:
            continue
        for name, binding in client.connectors.items():
            if name not in connectors or not binding.active:
                continue
            auth = Program(connectors[name], client, binding).auth
            given = binding.secrets.keys()
            if auth.consent is None or (auth.request is not None and auth.granted <= given):
                continue
            row = store.token(name, client.client, auth.name)
            if row is None or CONSENTED not in row.values:
                lacked = sorted(auth.granted - given)
                other = f", or give the secret {lacked[0]}" if lacked else ""
                hint = f"run `{auth.log_in_command(name, client.client)}`{other}"
                place = ("connectors", name)
                found.append(piece.located.finding(place, "no-consent", "nobody has agreed yet", hint, on_key=True))
    return found


def redirect_of(auth: Auth, wire: Wire) -> str | None:
    """Where the connector says the page leads afterwards."""
    assert auth.consent is not None
    run = auth.consent.redirect_uri
    return str(run({**auth.log_in_scope(wire, None), "consent": {}})) if run is not None else None


def asked(auth: Auth, wire: Wire, redirect_uri: str, *, new: Callable[[], str] = secrets.token_urlsafe) -> Asked:
    """A page to open; `new` makes a text that nobody can guess. LoginFailed where a setting or secret is missing."""
    assert auth.consent is not None
    made = Asked("", new(), new() + new(), redirect_uri)
    scope = {**auth.log_in_scope(wire, None), "nonce": wire.nonce(), "consent": made.before}
    try:
        scope["sign"] = auth.signers.made(scope, auth.consent.signatures)
        address = str(auth.consent.url(scope))
        query = pairs(auth.consent.query(scope), "query")
    except BadValue as error:
        raise LoginFailed(f"the page can't be named: {unquoted(error)}") from None
    if urlsplit(address).scheme != "https":
        raise LoginFailed("the page where a person agrees must begin with https://")
    return made._replace(url=f"{address}{'&' if '?' in address else '?'}{urlencode(query)}")


def answer_in(text: str, page: Asked) -> dict[str, str]:
    """What a person pasted: the address that the page led to, its query, or the code alone. LoginFailed."""
    text = text.strip()
    query = urlsplit(text).query if "://" in text else text.removeprefix("?")
    if "=" not in query or not ({"code", "error"} & dict(parse_qsl(query)).keys()):
        if not text or "://" in text or any(letter.isspace() for letter in text):
            raise LoginFailed("there is no code in it; paste the whole address that the page led to")
        return {"code": text}
    return judged(dict(parse_qsl(query)), page)


def judged(answer: dict[str, str], page: Asked) -> dict[str, str]:
    """The answer, if it is one to this page and a person agreed. LoginFailed."""
    if not secrets.compare_digest(answer.get("state", "").encode(), page.state.encode()):
        raise WrongState("the answer is not one to this log-in (its `state` is another); open the page that was shown")
    if "error" in answer:
        more = answer.get("error_description", "")
        raise LoginFailed(f"nobody agreed: {answer['error']}{f' ({more})' if more else ''}"[:500])
    if not answer.get("code"):
        raise LoginFailed("the answer has no code in it")
    return answer


class WrongState(LoginFailed):
    """An answer to another log-in: an old window, or somebody's trick."""


class Callback:
    """A door on this machine for one answer."""

    def __init__(self, redirect_uri: str | None, port: int) -> None:
        """UsageError where it can't be opened. Port 0 is any that is free."""
        parts = urlsplit(redirect_uri or f"http://127.0.0.1:{port}/callback")
        self.path = parts.path or "/"
        self.found: list[dict[str, str]] = []
        self.came = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                return

            def do_GET(self) -> None:
                status, said = outer.take(self.path)
                content = PAGE.format(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Referrer-Policy", "no-referrer")
                self.end_headers()
                self.wfile.write(content)

        try:
            self.server = HTTPServer(("127.0.0.1", parts.port or 80), Handler)
        except OSError as error:
            at = f"127.0.0.1:{parts.port or 80}"
            raise UsageError(f"{at}: {error.strerror}; use --port, or --paste") from None
        self.redirect_uri = redirect_uri or f"http://127.0.0.1:{self.server.server_address[1]}{self.path}"
        self.page: Asked | None = None
        self.tell: Callable[[str], None] = lambda _: None
        self.failed: LoginFailed | None = None
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def take(self, target: str) -> tuple[int, str]:
        parts = urlsplit(target)
        if parts.path != self.path or self.page is None:
            return 404, "There is nothing here."
        if self.came.is_set():
            return 410, "The answer has come already. You can close this window."
        try:
            self.found.append(judged(dict(parse_qsl(parts.query)), self.page))
        except WrongState as error:
            self.tell(str(error))
            return 400, "This is not the answer to the log-in that waits. Open the page that the terminal shows."
        except LoginFailed as error:
            self.failed = error
            self.came.set()
            return 200, "Nobody agreed; the terminal says more. You can close this window."
        self.came.set()
        return 200, "Thank you. The terminal says how it ended. You can close this window."

    def wait(self, page: Asked, timeout_s: float, tell: Callable[[str], None]) -> dict[str, str]:
        """The answer. LoginFailed for a refusal, or where none came in time."""
        self.page, self.tell = page, tell
        self.thread.start()
        if not self.came.wait(timeout_s):
            raise LoginFailed(f"no answer within {timeout_s:g}s; run it again, or use --paste")
        if self.failed is not None:
            raise self.failed
        return self.found[0]

    def close(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
        self.server.server_close()


def is_loopback(redirect_uri: str) -> bool:
    parts = urlsplit(redirect_uri)
    return parts.scheme == "http" and parts.hostname in LOOPBACK


def exchanged(auth: Auth, wire: Wire, page: Asked, answer: Mapping[str, str], *, kept: bool) -> TokenRow:
    """The token for the code, in the store where `kept`; nobody renews an older one meanwhile. LoginFailed."""
    wire.masker.add(page.verifier, answer.get("code"))  # a vendor that refuses them may repeat them
    until = wire.clock.now() + LOCK_TTL_S
    while not auth.locked(wire):
        if wire.clock.now() > until:
            raise LoginFailed("another process is logging in and does not end; run it again")
        wire.clock.sleep(LOCK_STEP_S)
    try:
        row = auth.agreed(wire, page.given(answer), kept=False)
        if row.expires_at is not None and auth.renewal is not None and not row.values.get("refresh_token"):
            raise LoginFailed(
                "the reply has no refresh token, so it would end soon; "
                "many vendors give one only with a scope such as offline_access, or access_type=offline"
            )
        if kept:
            wire.store.save_token(wire.connector, wire.client, auth.name, row)
        return row
    except AuthFailed as failed:
        raise LoginFailed(
            f"{failed.outcome.reason}; a code serves once and only for minutes, so run it again from the start"
        ) from None
    finally:
        wire.store.unlock(auth.lock(wire), owner=wire.owner)
