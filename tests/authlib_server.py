"""
An authorization server of Authlib's on loopback, as strict as a careful vendor.

Every client authentication, five grants, PKCE, introspection; a refresh token serves once, and one that comes a second
time ends all tokens of its family (RFC 9700, 4.14.2). `POST /notes` wants an access token that lives.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, OAuth2Payload, OAuth2Request, TokenMixin, grants
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion, JWTBearerGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from joserfc.jwk import RSAKey

APP, APP_SECRET, USER = "app-1", "app-s3cret/+", "ana@example.com"
TOKEN_URL = "https://api.crm.example/token"
METHODS = ("client_secret_basic", "client_secret_post", "client_assertion_jwt", "none")


class App(ClientMixin):  # type: ignore[misc]
    def __init__(self, server: OAuthServer) -> None:
        self.server = server

    def get_client_id(self) -> str:
        return APP

    def get_default_redirect_uri(self) -> str:
        return ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri.startswith("http://127.0.0.1:") or redirect_uri == "https://tools.example.com/back"

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == APP_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return endpoint in ("token", "introspection") and method in self.server.methods

    def check_grant_type(self, _: str) -> bool:
        return True

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def get_allowed_scope(self, scope: str) -> str:
        return scope


class Code(NamedTuple):
    code: str
    redirect_uri: str
    code_challenge: str | None
    code_challenge_method: str | None
    scope: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return ""

    def get_auth_time(self) -> int:
        return 0


class Issued(TokenMixin):  # type: ignore[misc]
    """A pair of tokens; `family` is what began with one log-in."""

    def __init__(self, access: str, refresh: str | None, family: int, expires_at: float, scope: str) -> None:
        self.access, self.refresh, self.family = access, refresh, family
        self.expires_at, self.scope = expires_at, scope
        self.spent = self.revoked = False

    def check_client(self, _: Any) -> bool:
        return True

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return time.time() >= self.expires_at

    def is_revoked(self) -> bool:
        return self.revoked


class Payload(OAuth2Payload):  # type: ignore[misc]
    def __init__(self, form: dict[str, str]) -> None:
        self.form = form

    @property
    def data(self) -> dict[str, str]:
        return self.form

    @property
    def datalist(self) -> dict[str, list[str]]:
        return {name: [value] for name, value in self.form.items()}


class Request(OAuth2Request):  # type: ignore[misc]
    def __init__(self, method: str, uri: str, headers: dict[str, str], form: dict[str, str]) -> None:
        super().__init__(method, uri, headers=headers)
        self.payload, self.posted = Payload(form), form

    @property
    def args(self) -> dict[str, str]:
        return self.posted if self.method == "GET" else {}

    @property
    def form(self) -> dict[str, str]:
        return self.posted


class OAuthServer:
    """`asked` has the grant of each token request, `forms` what came with it."""

    def __init__(self, public_key: str | None = None) -> None:
        self.public_key = RSAKey.import_key(public_key) if public_key else None
        self.methods = set(METHODS)
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.notes: list[int] = []
        self.lifetime_s = 3600
        self.with_refresh = True
        self.refusal = ""  # what the page answers instead of a code
        self.tokens: list[Issued] = []
        self.codes: dict[str, Code] = {}
        self.jtis: set[str] = set()
        self.reused = 0
        self.numbers, self.families = count(1), count(1)
        self.family: int | None = None
        self.lock = threading.Lock()
        self.oauth = authlib(self)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                return

            def do_GET(self) -> None:
                self.answer("GET", dict(parse_qsl(urlsplit(self.path).query)))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                self.answer("POST", dict(parse_qsl(body, keep_blank_values=True)))

            def answer(self, method: str, form: dict[str, str]) -> None:
                with outer.lock:
                    status, body, headers = outer.answer(method, self.path, dict(self.headers), form)
                content = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def issue(self, refresh: str) -> None:
        """A refresh token that a person has got by other means."""
        self.tokens.append(Issued(f"none-{refresh}", refresh, next(self.families), 0, ""))

    def end(self) -> None:
        """No access token lives on; refresh tokens do."""
        for token in self.tokens:
            token.expires_at = 0

    @property
    def alive(self) -> set[str]:
        return {token.access for token in self.tokens if not token.is_expired() and not token.revoked}

    def answer(self, method: str, path: str, headers: dict[str, str], form: dict[str, str]) -> tuple[int, Any, Any]:
        as_json = {"Content-Type": "application/json"}
        request = Request(method, f"https://api.crm.example{path}", headers, form)
        match urlsplit(path).path:
            case "/authorize":
                if self.refusal:
                    return 302, "", {"Location": f"{form['redirect_uri']}?error={self.refusal}&state={form['state']}"}
                grant = self.oauth.get_consent_grant(request, end_user=USER)
                return answered(self.oauth.create_authorization_response(request, grant_user=USER, grant=grant))
            case "/token":
                self.asked.append(form.get("grant_type", ""))
                self.forms.append(form)
                self.family = None
                return answered(self.oauth.create_token_response(request))
            case "/introspect":
                return answered(self.oauth.create_endpoint_response("introspection", request))
            case "/me":
                return (
                    (200, {"account": "acc-7"}, as_json) if self.bearer(headers) in self.alive else (401, {}, as_json)
                )
        given = self.bearer(headers)
        self.notes.append(int(given.rpartition("-")[2] or 0) if given in self.alive else 0)
        return (200, {"ok": True}, as_json) if given in self.alive else (401, {"error": "invalid_token"}, as_json)

    @staticmethod
    def bearer(headers: dict[str, str]) -> str:
        return headers.get("Authorization", "").removeprefix("Bearer ")


def answered(found: tuple[int, Any, Any]) -> tuple[int, Any, Any]:
    return found


def authlib(outer: OAuthServer) -> AuthorizationServer:
    class CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = METHODS

        def save_authorization_code(self, code: str, request: Request) -> Code:
            data = request.payload.data
            challenge = data.get("code_challenge"), data.get("code_challenge_method")
            outer.codes[code] = Code(code, data["redirect_uri"], *challenge, data.get("scope", ""))
            return outer.codes[code]

        def query_authorization_code(self, code: str, _: Any) -> Code | None:
            return outer.codes.get(code)

        def delete_authorization_code(self, code: Code) -> None:
            del outer.codes[code.code]

        def authenticate_user(self, _: Any) -> str:
            return USER

    class RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = METHODS
        INCLUDE_NEW_REFRESH_TOKEN = True

        def authenticate_refresh_token(self, refresh_token: str) -> Issued | None:
            token = next((token for token in outer.tokens if token.refresh == refresh_token), None)
            if token is not None and token.spent:
                outer.reused += 1
                for each in outer.tokens:
                    each.revoked = each.revoked or each.family == token.family
            if token is None or token.spent or token.revoked:
                return None
            outer.family = token.family
            return token

        def authenticate_user(self, _: Any) -> str:
            return USER

        def revoke_old_credential(self, refresh_token: Issued) -> None:
            refresh_token.spent = True

    class CredentialsGrant(grants.ClientCredentialsGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    class AssertionGrant(JWTBearerGrant):  # type: ignore[misc]
        def get_audiences(self) -> list[str]:
            return [TOKEN_URL]

        def resolve_issuer_client(self, issuer: str) -> App | None:
            return App(outer) if issuer == APP else None

        def resolve_client_public_key(self, _: Any) -> Any:
            return outer.public_key

        def authenticate_user(self, subject: str) -> str | None:
            return USER if subject == USER else None

        def has_granted_permission(self, *_: Any) -> bool:
            return True

    class AppAssertion(JWTBearerClientAssertion):  # type: ignore[misc]
        def get_audiences(self) -> list[str]:
            return [TOKEN_URL]

        def validate_jti(self, _: Any, jti: str) -> bool:
            return jti not in outer.jtis and not outer.jtis.add(jti)  # type: ignore[func-returns-value]

        def resolve_client_public_key(self, _: Any) -> Any:
            return outer.public_key

    class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
        CLIENT_AUTH_METHODS = METHODS

        def check_permission(self, *_: Any) -> bool:
            return True

        def query_token(self, text: str, _: Any) -> Issued | None:
            return next((token for token in outer.tokens if text in (token.access, token.refresh)), None)

        def introspect_token(self, token: Issued) -> dict[str, Any]:
            return {"active": True, "exp": int(token.expires_at), "username": USER}

    class Server(AuthorizationServer):  # type: ignore[misc]
        def query_client(self, client_id: str) -> App | None:
            return App(outer) if client_id == APP else None

        def save_token(self, token: dict[str, Any], request: Request) -> None:
            family = outer.family or next(outer.families)
            scope, ends_at = request.payload.data.get("scope", ""), time.time() + outer.lifetime_s
            outer.tokens.append(Issued(token["access_token"], token.get("refresh_token"), family, ends_at, scope))

        def create_oauth2_request(self, request: Request) -> Request:
            return request

        def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, Any, Any]:
            return status, body if isinstance(body, str) else dict(body), headers

        def send_signal(self, *_: Any, **__: Any) -> None:
            return

    def token(include_refresh_token: bool = True, **_: Any) -> dict[str, Any]:
        number = next(outer.numbers)
        made = {"token_type": "Bearer", "access_token": f"access-token-{number}", "expires_in": outer.lifetime_s}
        if outer.with_refresh and include_refresh_token:
            made["refresh_token"] = f"refresh-token-{number}"
        return made

    server = Server()
    server.register_grant(CodeGrant, [CodeChallenge(required=True)])
    for grant in (RefreshGrant, CredentialsGrant, AssertionGrant):
        server.register_grant(grant)
    server.register_client_auth_method(AppAssertion.CLIENT_AUTH_METHOD, AppAssertion())
    server.register_endpoint(Introspection)
    server.register_token_generator("default", token)
    return server
