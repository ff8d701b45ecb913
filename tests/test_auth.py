"""Log-ins against a real OAuth server on loopback: Authlib's, with refresh tokens that serve once."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from conftest import START, Heard, Shop, Vendor, program_from, reply

from engine.auth import AuthFailed, jwt_expiry
from engine.clock import SystemClock
from engine.errors import SpecErrors
from engine.records import OutcomeKind, TokenRow
from engine.secrets import fingerprint
from engine.sending import HttpTransport, Masker
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore
from engine.walk import Walk
from engine.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engine.http import Prepared, Reply
    from engine.ports import Store
    from engine.program import Program

APP, APP_SECRET, USER, PASSWORD = "app-1", "app-s3cret/+", "ana@example.com", "pa55 wörd&"


class OAuthServer:
    """
    Authlib's authorization server behind `POST /token`, and `POST /notes`, which wants a live access token.

    A refresh token serves once; whoever comes with an old one is refused. `asked` has the grant of each token request.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.notes: list[str] = []
        self.live: set[str] = set()
        self.refresh: set[str] = set()
        self.expires_in: int | None = 3600
        self.with_refresh = True
        self.app_secret, self.password = APP_SECRET, PASSWORD
        self.numbers = count(1)
        self.down = False
        self.lock = threading.Lock()
        self.oauth = self.authlib()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                return

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                with outer.lock:
                    status, answer = outer.answer(self.path, dict(self.headers), body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
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

    def answer(self, path: str, headers: dict[str, str], body: str) -> tuple[int, Any]:
        if path == "/notes":
            given = headers.get("Authorization", "").removeprefix("Bearer ")
            self.notes.append(given)
            return (200, {"ok": True}) if given in self.live else (401, {"error": "invalid_token"})
        form = dict(parse_qsl(body, keep_blank_values=True))
        self.asked.append(form.get("grant_type", ""))
        self.forms.append(form)
        if self.down:
            return 503, {}
        found: tuple[int, Any] = self.oauth.create_token_response((headers, form))
        return found

    def authlib(self) -> Any:
        from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, OAuth2Payload, OAuth2Request, grants

        outer = self

        class Payload(OAuth2Payload):  # type: ignore[misc]
            def __init__(self, form: dict[str, str]) -> None:
                self.form = form

            @property
            def data(self) -> dict[str, str]:
                return self.form

        class Request(OAuth2Request):  # type: ignore[misc]
            def __init__(self, headers: dict[str, str], form: dict[str, str]) -> None:
                super().__init__("POST", "https://api.crm.example/token", headers=headers)
                self.payload, self.posted = Payload(form), form

            @property
            def args(self) -> dict[str, str]:
                return {}

            @property
            def form(self) -> dict[str, str]:
                return self.posted

        class App(ClientMixin):  # type: ignore[misc]
            def get_client_id(self) -> str:
                return APP

            def check_client_secret(self, client_secret: str) -> bool:
                return client_secret == outer.app_secret

            def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
                return endpoint == "token" and method in ("client_secret_basic", "client_secret_post")

            def check_grant_type(self, grant_type: str) -> bool:
                return grant_type in ("client_credentials", "password", "refresh_token")

            def get_allowed_scope(self, scope: str) -> str:
                return scope

        class Refreshable:
            def __init__(self, token: str) -> None:
                self.token = token

            def check_client(self, _: Any) -> bool:
                return True

            def get_scope(self) -> str:
                return ""

        class PasswordGrant(grants.ResourceOwnerPasswordCredentialsGrant):  # type: ignore[misc]
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

            def authenticate_user(self, username: str, password: str) -> str | None:
                return USER if (username, password) == (USER, outer.password) else None

        class RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")
            INCLUDE_NEW_REFRESH_TOKEN = True

            def authenticate_refresh_token(self, refresh_token: str) -> Refreshable | None:
                return Refreshable(refresh_token) if refresh_token in outer.refresh else None

            def authenticate_user(self, _: Any) -> str:
                return USER

            def revoke_old_credential(self, refresh_token: Refreshable) -> None:
                outer.refresh.discard(refresh_token.token)

        class CredentialsGrant(grants.ClientCredentialsGrant):  # type: ignore[misc]
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

        class Server(AuthorizationServer):  # type: ignore[misc]
            def query_client(self, client_id: str) -> App | None:
                return App() if client_id == APP else None

            def save_token(self, token: dict[str, Any], _: Any) -> None:
                outer.live.add(token["access_token"])
                if "refresh_token" in token:
                    outer.refresh.add(token["refresh_token"])

            def create_oauth2_request(self, request: tuple[dict[str, str], dict[str, str]]) -> Request:
                return Request(*request)

            def handle_response(self, status: int, body: Any, _: Any) -> tuple[int, Any]:
                return status, dict(body)

            def send_signal(self, *_: Any, **__: Any) -> None:
                return

        def token(include_refresh_token: bool = True, **_: Any) -> dict[str, Any]:
            number = next(outer.numbers)
            made = {"token_type": "Bearer", "access_token": f"access-token-{number}"}
            if outer.expires_in is not None:
                made["expires_in"] = outer.expires_in  # type: ignore[assignment]
            if outer.with_refresh and include_refresh_token:
                made["refresh_token"] = f"refresh-token-{number}"
            return made

        server = Server()
        for grant in (PasswordGrant, RefreshGrant, CredentialsGrant):
            server.register_grant(grant)
        server.register_token_generator("default", token)
        return server


@pytest.fixture
def oauth() -> Iterator[OAuthServer]:
    server = OAuthServer()
    yield server
    server.close()


@pytest.fixture
def transport(oauth: OAuthServer) -> Iterator[HttpTransport]:
    made = HttpTransport(oauth.url)
    yield made
    made.close()


def written(auth: str) -> str:
    return f"""
hosts: [api.crm.example]
secrets: {{client_id: {{}}, client_secret: {{}}, username: {{}}, password: {{}}, refresh_token: {{}}}}
http: {{base_url: 'https://api.crm.example', retry: {{attempts: 3, initial: 10s, jitter: none}}}}
auth:
  token_url: https://api.crm.example/token
  client_id: "{{{{ secrets.client_id }}}}"
  client_secret: "{{{{ secrets.client_secret }}}}"
{auth}
actions: {{note: {{record: {{id: "${{ event.id }}"}}, request: {{path: /notes, json: "${{ record }}"}}}}}}
"""


CREDENTIALS = written("  type: oauth2_client_credentials")
BY_PASSWORD = written(
    '  type: oauth2_password\n  username: "{{ secrets.username }}"\n  password: "{{ secrets.password }}"'
)
REFRESH = written('  type: oauth2_refresh_token\n  refresh_token: "{{ secrets.refresh_token }}"')
SECRETS = {"client_id": APP, "client_secret": APP_SECRET, "username": USER, "password": PASSWORD}


def shop(text: str, transport: HttpTransport, store: Store | None = None, /, **secrets: str) -> Shop:
    return Shop(text, vendor=transport, secrets={**SECRETS, **secrets}, store=store)


def stored(shop: Shop) -> TokenRow:
    return stored_in(shop)


def stored_in(place: Shop | Wire) -> TokenRow:
    row = place.store.token("crm", "abc", "default")
    assert row is not None
    return row


# --- the grants ---


@pytest.mark.parametrize(
    ("text", "grant", "more"),
    [
        (CREDENTIALS, "client_credentials", {}),
        (written("  type: oauth2_client_credentials\n  client_auth: basic"), "client_credentials", {}),
        (BY_PASSWORD, "password", {"username": USER, "password": PASSWORD}),
    ],
)
def test_a_log_in_is_made_once_and_its_token_serves(
    text: str, grant: str, more: dict[str, str], oauth: OAuthServer, transport: HttpTransport
) -> None:
    crm = shop(text, transport)
    crm.post({"id": "1"}, {"id": "2"}, {"id": "3"})
    crm.drain()
    assert (oauth.asked, oauth.notes) == ([grant], ["access-token-1"] * 3)
    assert more.items() <= oauth.forms[0].items()
    assert crm.sums() == {"delivered": 3}
    assert stored(crm).expires_at == START + 3600


def test_a_refresh_token_that_serves_once_is_followed_by_the_new_one(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.refresh = {"first"}
    crm = shop(REFRESH, transport, refresh_token="first")
    for hour in range(4):
        crm.post({"id": str(hour)})
        crm.drain(3590)
    assert oauth.asked == ["refresh_token"] * 4
    assert [form["refresh_token"] for form in oauth.forms] == ["first", *(f"refresh-token-{n}" for n in (1, 2, 3))]
    assert crm.sums() == {"delivered": 4}


def test_a_rotated_refresh_token_serves_also_after_a_week_without_an_event(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.refresh = {"first"}
    crm = shop(REFRESH, transport, refresh_token="first")
    crm.post({"id": "1"})
    crm.drain(7 * 86_400)
    crm.post({"id": "2"})
    crm.drain()
    assert [form["refresh_token"] for form in oauth.forms] == ["first", "refresh-token-1"]
    assert crm.sums() == {"delivered": 2}


def test_a_rotated_refresh_token_serves_also_when_the_access_token_is_refused(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.refresh = {"first"}
    crm = shop(REFRESH, transport, refresh_token="first")
    crm.post({"id": "1"})
    crm.drain()
    oauth.live.clear()
    crm.post({"id": "2"})
    crm.drain()
    assert crm.sums() == {"delivered": 2}


def test_while_the_vendor_is_down_no_spent_refresh_token_is_tried_in_place_of_the_newest(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.refresh = {"first"}
    crm = shop(REFRESH, transport, refresh_token="first")
    crm.post({"id": "1"})
    crm.drain(3590)
    oauth.down = True
    crm.post({"id": "2"})
    crm.drain(60)
    oauth.down = False
    crm.drain(3600)
    assert [form["refresh_token"] for form in oauth.forms] == ["first", *["refresh-token-1"] * (len(oauth.forms) - 1)]
    assert (len(oauth.forms) > 2, crm.sums()) == (True, {"delivered": 2})


def test_a_rotated_token_is_stored_before_it_is_used(oauth: OAuthServer, transport: HttpTransport) -> None:
    class Watching(MemoryStore):
        saved: list[tuple[str, int]] = []  # noqa: RUF012

        def save_token(self, connector: str, client: str, name: str, row: TokenRow) -> None:
            super().save_token(connector, client, name, row)
            self.saved.append((row.values["refresh_token"], len(oauth.notes)))

    oauth.refresh = {"first"}
    crm = shop(REFRESH, transport, Watching(), refresh_token="first")
    crm.post({"id": "1"})
    crm.drain(4000)
    crm.post({"id": "2"})
    crm.drain()
    assert Watching.saved == [("refresh-token-1", 0), ("refresh-token-2", 1)]


def test_a_process_that_dies_after_a_renewal_has_lost_nothing(
    oauth: OAuthServer, transport: HttpTransport, tmp_path: Path
) -> None:
    oauth.refresh = {"first"}
    first = shop(REFRESH, transport, SqliteStore(tmp_path / "connect.db"), refresh_token="first")
    first.post({"id": "1"})
    first.drain()
    first.store.close()
    second = shop(REFRESH, transport, SqliteStore(tmp_path / "connect.db"), refresh_token="first")
    second.clock.sleep(3580)
    second.post({"id": "2"})
    second.drain()
    assert [form["refresh_token"] for form in oauth.forms] == ["first", "refresh-token-1"]
    assert second.sums() == {"delivered": 2}
    second.store.close()


# --- new secrets, expiry, renewal ---


def test_new_secrets_win_over_a_token_of_old_ones(oauth: OAuthServer, transport: HttpTransport) -> None:
    oauth.refresh = {"first", "second"}
    crm = shop(REFRESH, transport, refresh_token="first")
    crm.post({"id": "1"})
    crm.drain()
    crm.secrets["refresh_token"] = "second"
    crm.post({"id": "2"})
    crm.drain()
    assert [form["refresh_token"] for form in oauth.forms] == ["first", "second"]
    assert oauth.notes == ["access-token-1", "access-token-2"]


def test_a_token_is_renewed_before_it_expires(oauth: OAuthServer, transport: HttpTransport) -> None:
    crm = shop(BY_PASSWORD, transport)
    crm.post({"id": "1"})
    crm.drain(3530)
    crm.post({"id": "2"})
    crm.drain(15)  # less than a minute is left
    crm.post({"id": "3"})
    crm.drain()
    assert oauth.asked == ["password", "refresh_token"]
    assert oauth.notes == ["access-token-1", "access-token-1", "access-token-2"]


def test_where_the_renewal_is_refused_the_log_in_is_made_again(oauth: OAuthServer, transport: HttpTransport) -> None:
    crm = shop(BY_PASSWORD, transport)
    crm.post({"id": "1"})
    crm.drain(3550)
    oauth.refresh.clear()
    crm.post({"id": "2"})
    crm.drain()
    assert oauth.asked == ["password", "refresh_token", "password"]
    assert (crm.sums(), len(crm.heard.named("token-refused"))) == ({"delivered": 2}, 1)


def test_a_token_that_lives_shorter_than_the_margin_is_not_renewed_for_every_request(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.expires_in = 60
    crm = shop(CREDENTIALS, transport)
    crm.post({"id": "1"}, {"id": "2"}, {"id": "3"})
    crm.drain()
    assert oauth.asked == ["client_credentials"]
    crm.drain(59)
    crm.post({"id": "4"})
    crm.drain()
    assert oauth.asked == ["client_credentials"] * 2


def test_a_token_without_a_word_on_its_end_serves_until_it_is_refused(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.expires_in = None
    crm = shop(CREDENTIALS, transport)
    crm.post({"id": "1"})
    crm.drain(30 * 86_400)
    crm.post({"id": "2"})
    crm.drain()
    assert oauth.asked == ["client_credentials"]


def test_a_token_that_is_refused_is_renewed_once_and_the_request_repeated(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    crm = shop(CREDENTIALS, transport)
    crm.post({"id": "1"})
    crm.drain(60)
    oauth.live.clear()
    crm.post({"id": "2"})
    crm.drain()
    assert (oauth.asked, oauth.notes) == (
        ["client_credentials"] * 2,
        ["access-token-1", "access-token-1", "access-token-2"],
    )
    assert crm.sums() == {"delivered": 2}


def test_a_second_refusal_in_a_row_pauses_the_lane(oauth: OAuthServer, transport: HttpTransport) -> None:
    crm = shop(CREDENTIALS, transport)
    oauth.live = type("Nothing", (set,), {"__contains__": lambda *_: False})()
    crm.post({"id": "1"}, {"id": "2"})
    crm.drain(86_400)
    assert (oauth.asked, len(oauth.notes)) == (["client_credentials"] * 2, 2)
    assert (crm.sums(), crm.lane().state) == ({"waiting": 2}, "paused")
    assert crm.lane().reason == "HTTP 401 again after one token renewal"


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        (CREDENTIALS, {"client_secret": "wrong-secret"}),
        (BY_PASSWORD, {"password": "wrong-password"}),
        (REFRESH, {"refresh_token": "wrong-refresh-token"}),
    ],
)
def test_a_refused_log_in_pauses_the_lane_and_is_not_tried_for_ever(
    text: str, secrets: dict[str, str], oauth: OAuthServer, transport: HttpTransport
) -> None:
    crm = shop(text, transport, **secrets)
    crm.post({"id": "1"}, {"id": "2"})
    crm.drain(7 * 86_400)
    assert (len(oauth.asked), oauth.notes) == (1, [])
    assert (crm.sums(), crm.lane().state) == ({"waiting": 2}, "paused")
    assert crm.lane().reason is not None
    assert crm.lane().reason.startswith("the log-in was refused (HTTP 40")  # type: ignore[union-attr]
    assert next(iter(secrets.values())) not in str([crm.lane(), crm.heard.events, crm.heard.alerts, crm.dead()])


def test_a_log_in_that_is_down_is_an_outage(oauth: OAuthServer, transport: HttpTransport) -> None:
    crm = shop(CREDENTIALS, transport)
    oauth.down = True
    crm.post({"id": "1"})
    crm.drain(3600)
    assert (crm.sums(), crm.lane().state) == ({"waiting": 1}, "throttled")
    oauth.down = False
    crm.drain(3600)
    assert crm.sums() == {"delivered": 1}


# --- one renewal at a time ---


def wires(program: Program, transport: HttpTransport, stores: list[Store], number: int) -> list[Wire]:
    return [
        Wire(
            connector="crm",
            client="abc",
            scope=program.scope,
            secrets=SECRETS,
            fingerprint=fingerprint(SECRETS),
            store=stores[at % len(stores)],
            transport=transport,
            clock=SystemClock(),
            masker=Masker(),
            telemetry=Heard(),
            owner=f"worker-{at}",
        )
        for at in range(number)
    ]


def tokens_at_once(programs: list[Program], all_wires: list[Wire]) -> set[str]:
    gate = threading.Barrier(len(all_wires))

    def ask(at: int) -> str:
        gate.wait()
        row = programs[at % len(programs)].auth.token(all_wires[at])
        assert row is not None
        return str(row.values["value"])

    with ThreadPoolExecutor(len(all_wires)) as pool:
        return set(pool.map(ask, range(len(all_wires))))


def test_a_token_is_renewed_ahead_where_it_would_not_last_and_only_there(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    program, [wire] = program_from(CREDENTIALS), wires(program_from(CREDENTIALS), transport, [MemoryStore()], 1)
    auth = program.auth
    assert auth.renew_ahead(wire, 600) is True  # there is none yet
    assert auth.renew_ahead(wire, 600) is False  # it lasts an hour
    assert (auth.renew_ahead(wire, 4 * 3600), len(oauth.asked)) == (False, 1)  # it is as new as can be
    token = stored_in(wire)
    wire.store.save_token("crm", "abc", "default", msgspec.structs.replace(token, obtained_at=token.obtained_at - 60))
    assert (auth.renew_ahead(wire, 4 * 3600), len(oauth.asked)) == (True, 2)
    assert (auth.token(wire), len(oauth.asked)) == (stored_in(wire), 2)


def test_a_renewal_ahead_spends_the_newest_refresh_token_once(oauth: OAuthServer, transport: HttpTransport) -> None:
    oauth.refresh = {"first"}
    crm = shop(REFRESH, transport, refresh_token="first")
    crm.post({"id": "1"})
    crm.drain()
    program = crm.programs["abc"]
    wire = Walk(crm.worker.world, program, keep_alive=lambda: None).wire
    crm.clock.sleep(60)
    assert [program.auth.renew_ahead(wire, 4 * 3600) for _ in range(2)] == [True, False]
    crm.clock.sleep(60)
    assert program.auth.renew_ahead(wire, 4 * 3600) is True
    assert [form["refresh_token"] for form in oauth.forms] == ["first", "refresh-token-1", "refresh-token-2"]
    crm.post({"id": "2"})
    crm.drain()
    assert (crm.sums(), len(oauth.forms)) == ({"delivered": 2}, 3)


def test_what_cannot_expire_or_has_no_log_in_is_not_renewed_ahead(oauth: OAuthServer, transport: HttpTransport) -> None:
    program, [wire] = program_from(), wires(program_from(), transport, [MemoryStore()], 1)
    assert program.auth.renew_ahead(wire, 4 * 3600) is False
    oauth.expires_in = None
    program, [wire] = program_from(CREDENTIALS), wires(program_from(CREDENTIALS), transport, [MemoryStore()], 1)
    assert [program.auth.renew_ahead(wire, 4 * 3600) for _ in range(2)] == [True, False]


def test_a_renewal_ahead_that_is_refused_says_why(oauth: OAuthServer, transport: HttpTransport) -> None:
    oauth.app_secret = "another"
    program, [wire] = program_from(CREDENTIALS), wires(program_from(CREDENTIALS), transport, [MemoryStore()], 1)
    with pytest.raises(AuthFailed, match="the log-in was refused"):
        program.auth.renew_ahead(wire, 600)
    assert wire.store.lock(program.auth.lock(wire), owner="another", ttl_s=1, now=0) is True


def test_of_eight_that_renew_ahead_one_does(oauth: OAuthServer, transport: HttpTransport) -> None:
    programs = [program_from(CREDENTIALS) for _ in range(8)]
    all_wires = wires(programs[0], transport, [MemoryStore()], 8)
    gate = threading.Barrier(8)

    def ahead(at: int) -> bool:
        gate.wait()
        return programs[at].auth.renew_ahead(all_wires[at], 4 * 3600)

    with ThreadPoolExecutor(8) as pool:
        assert (sorted(pool.map(ahead, range(8))), len(oauth.asked)) == ([False] * 7 + [True], 1)


def test_of_eight_threads_one_logs_in_and_all_have_its_token(oauth: OAuthServer, transport: HttpTransport) -> None:
    programs = [program_from(CREDENTIALS) for _ in range(8)]
    found = tokens_at_once(programs, wires(programs[0], transport, [MemoryStore()], 8))
    assert (oauth.asked, found) == (["client_credentials"], {"access-token-1"})


def test_of_two_processes_on_one_store_one_logs_in(
    oauth: OAuthServer, transport: HttpTransport, tmp_path: Path
) -> None:
    stores: list[Store] = [SqliteStore(tmp_path / "connect.db"), SqliteStore(tmp_path / "connect.db")]
    programs = [program_from(BY_PASSWORD) for _ in range(8)]
    found = tokens_at_once(programs, wires(programs[0], transport, stores, 8))
    assert (oauth.asked, found) == (["password"], {"access-token-1"})
    for store in stores:
        store.close()


def test_who_waits_for_another_s_log_in_does_not_wait_for_ever(transport: HttpTransport) -> None:
    crm = shop(CREDENTIALS, transport)
    crm.store.lock("token:crm:abc:default", owner="another", ttl_s=10_000, now=START)
    crm.post({"id": "1"})
    crm.drain(600)
    assert crm.sums() == {"waiting": 1}
    assert crm.lane().reason == "another process did not finish its log-in"


def test_a_process_that_died_in_its_log_in_is_followed_by_another(oauth: OAuthServer, transport: HttpTransport) -> None:
    crm = shop(CREDENTIALS, transport)
    crm.store.lock("token:crm:abc:default", owner="dead", ttl_s=90, now=START)
    crm.post({"id": "1"})
    crm.drain(3600)
    assert (crm.sums(), oauth.asked) == ({"delivered": 1}, ["client_credentials"])


# --- what a person may see ---


def everything(crm: Shop) -> str:
    """All that is written down or told of a shop, tokens apart."""
    return str([crm.store.lanes(), crm.dead(), crm.heard.events, crm.heard.alerts])


@pytest.mark.parametrize("status", [200, 400, 401, 422, 429, 500])
@pytest.mark.parametrize("echo", [json.dumps, str, lambda form: form["client_secret"], lambda form: form["password"]])
def test_no_secret_that_a_vendor_echoes_is_ever_written_down(status: int, echo: Callable[[Any], str]) -> None:
    text = BY_PASSWORD + (
        'replies: {code: "${ response.body.error }", message: "${ response.body.error_description }"}\n'
    )

    def refuse(request: Prepared) -> Reply:
        if request.purpose == "auth":
            form = dict(parse_qsl((request.content or b"").decode()))
            if status == 200 and echo is json.dumps:
                return reply(200, {"access_token": "top-secret-token", "expires_in": 3600})
            return reply(status, {"error": echo(form)[:80], "error_description": f"wrong: {echo(form)}"})
        return reply(422, {"error": request.headers["Authorization"], "error_description": "x"})

    crm = Shop(text, vendor=Vendor(answer=refuse), secrets=dict(SECRETS))
    crm.post({"id": "1"})
    crm.drain(3600)
    told = everything(crm)
    assert PASSWORD not in told
    assert APP_SECRET not in told
    assert "top-secret-token" not in told


PLACES = """
secrets: {key: {title: Key}}
auth:
  place:
    headers: {Authorization: "Key {{ secrets.key }}"}
    query: {api_key: "{{ secrets.key }}"}
    cookies: {sid: "{{ secrets.key }}"}
    json: {key: "{{ secrets.key }}"}
"""


def test_what_an_auth_places_goes_out_and_is_masked_in_what_stays() -> None:
    def echo(request: Prepared) -> Reply:
        return reply(422, {"you": [request.url, request.headers, (request.content or b"").decode()]})

    crm = Shop(PLACES, vendor=Vendor(answer=echo), secrets={"key": "k3y/+ secret"})
    crm.post({"id": "1"})
    crm.drain()
    (sent,) = crm.vendor.asked
    assert sent.headers["Authorization"] == "Key k3y/+ secret"
    assert sent.headers["Cookie"] == "sid=k3y/+ secret"
    assert sent.url.endswith("?api_key=k3y%2F%2B%20secret")
    assert crm.vendor.bodies == [{"id": "1", "key": "k3y/+ secret"}]
    told = everything(crm)
    assert "k3y/+ secret" not in told
    assert "k3y%2F%2B%20secret" not in told


def test_a_secret_that_is_missing_in_the_placement_pauses_the_lane_and_quotes_nothing() -> None:
    crm = Shop(PLACES.replace("title: Key", "optional: true"), secrets={})
    crm.post({"id": "1"})
    crm.drain()
    assert (crm.sums(), crm.lane().state, crm.vendor.asked) == ({"waiting": 1}, "paused", [])


# --- what a log-in's reply may say ---

LOG_IN = """
secrets: {user: {title: User}}
auth:
  token:
    request: {url: 'https://api.crm.example/login', json: {user: "{{ secrets.user }}"}}
    save: {value: "${ response.body.token }", base: "${ response.body.base }"}
    expires: EXPIRES
  place: {headers: {Authorization: "{{ token.value }}"}}
"""


def logged_in(expires: str, body: dict[str, Any]) -> TokenRow:
    crm = Shop(LOG_IN.replace("EXPIRES", expires), vendor=Vendor(reply(200, body)), secrets={"user": "me"})
    crm.post({"id": "1"})
    crm.drain()
    return stored(crm)


@pytest.mark.parametrize(
    ("expires", "said", "left"),
    [
        ("{after: 2h}", None, 7200),
        ('{in: "${ response.body.end }"}', 900, 900),
        ('{in: "${ response.body.end }"}', "900", 900),
        ('{in: "${ response.body.end }", unit: ms}', 900_000, 900),
        ('{at: "${ response.body.end }"}', START + 900, 900),
        ('{at: "${ response.body.end }", unit: ms}', (START + 900) * 1000, 900),
        ('{at: "${ response.body.end }", unit: epoch}', START + 900, 900),
        ('{at: "${ response.body.end }", unit: epoch_ms}', (START + 900) * 1000, 900),
        ('{at: "${ response.body.end }", unit: date}', "2026-01-28T10:45:45Z", 900),
        ('{in: "${ response.body.end }"}', None, None),
        ('{in: "${ response.body.end }"}', "soon", None),
        ("{never: true}", None, None),
        ("{unknown: true}", None, None),
    ],
)
def test_when_a_token_ends(expires: str, said: Any, left: float | None) -> None:
    row = logged_in(expires, {"token": "t-o-k-e-n", "base": "https://x", "end": said})
    assert (row.values["value"], row.obtained_at) == ("t-o-k-e-n", START)
    assert row.expires_at == (START + left if left is not None else None)


def test_a_log_in_that_gives_no_token_is_tried_at_the_lane_s_pace_however_many_wait() -> None:
    crm = Shop(LOG_IN.replace("EXPIRES", "{after: 2h}"), vendor=Vendor(reply(200, {"oops": 1})), secrets={"user": "me"})
    crm.post_many(100)
    crm.drain(3600)
    assert (crm.sums(), crm.lane().state, len(crm.vendor.asked)) == ({"waiting": 100}, "paused", 3)


def test_a_reply_without_a_token_is_tried_again_and_then_pauses() -> None:
    crm = Shop(LOG_IN.replace("EXPIRES", "{after: 2h}"), vendor=Vendor(reply(200, {"oops": 1})), secrets={"user": "me"})
    crm.post({"id": "1"})
    crm.drain(3600)
    assert (crm.sums(), crm.lane().state, len(crm.vendor.asked)) == ({"waiting": 1}, "paused", 3)


def test_a_base_url_from_a_log_in_can_not_lead_away_from_the_hosts() -> None:
    text = LOG_IN.replace("EXPIRES", "{after: 2h}") + 'http: {base_url: "{{ token.base }}"}\n'
    crm = Shop(
        text, vendor=Vendor(reply(200, {"token": "t0ken", "base": "https://evil.example"})), secrets={"user": "me"}
    )
    crm.post({"id": "1"})
    crm.drain()
    assert [request.url for request in crm.vendor.asked] == ["https://api.crm.example/login"]
    assert crm.sums().get("delivered") is None


def test_the_end_of_a_jwt_is_read_from_it() -> None:
    from base64 import urlsafe_b64encode

    body = urlsafe_b64encode(json.dumps({"exp": 1_800_000_000}).encode()).decode().rstrip("=")
    assert jwt_expiry(f"x.{body}.y") == 1_800_000_000
    for nonsense in ("", "a.b", "a.!!.c", "x.e30.y", "x.W10.y", "x.MQ.y", None, 5, "x.eyJleHAiOiAiYSJ9.y"):
        assert jwt_expiry(nonsense) is None


def test_a_jwt_tells_its_own_end() -> None:
    from base64 import urlsafe_b64encode

    body = urlsafe_b64encode(json.dumps({"exp": START + 900}).encode()).decode().rstrip("=")
    row = logged_in("{jwt: true}", {"token": f"x.{body}.y", "base": "https://x"})
    assert row.expires_at == START + 900


@pytest.mark.parametrize("auth", ["key", "refresh_token"])
def test_with_another_key_a_client_logs_in_anew_unless_that_would_spend_its_refresh_token(
    auth: str, oauth: OAuthServer, transport: HttpTransport, tmp_path: Path
) -> None:
    from cryptography.fernet import Fernet

    oauth.refresh = {"first"}
    text = REFRESH if auth == "refresh_token" else CREDENTIALS
    for number in range(2):
        cipher = Fernet(Fernet.generate_key())
        crm = shop(text, transport, SqliteStore(tmp_path / "connect.db", cipher=cipher), refresh_token="first")
        crm.post({"id": str(number)})
        crm.drain()
        sums, reason = crm.sums(), crm.lane().reason
        crm.store.close()
    if auth == "key":
        assert (sums, oauth.asked) == ({"delivered": 2}, ["client_credentials"] * 2)
    else:
        assert (sums, oauth.asked) == ({"delivered": 1, "waiting": 1}, ["refresh_token"])
        assert reason == "the stored token can't be read; is CONNECT_KEY the key that it was saved with?"


COOKIE = """
secrets: {user: {title: User}}
auth:
  type: login
  request: {url: 'https://api.crm.example/in', json: {user: "${ secrets.user }"}, expect: "${ response.cookies.sid }"}
  save: {value: "${ response.cookies.sid }"}
  expires: {unknown: true}
  place: {cookies: {sid: "${ token.value }", lang: en}}
"""


def test_a_session_may_be_a_cookie() -> None:
    cookies = "theme=dark; Expires=Wed, 21 Oct 2026 07:28:00 GMT; Path=/, sid=s-1234; HttpOnly; Secure"
    vendor = Vendor(reply(200, {}, set_cookie=cookies), reply(401, {}), reply(200, {}, set_cookie="sid=s-5678"))
    vendor.answers.append(reply(200, {"ok": True}))
    crm = Shop(COOKIE, vendor=vendor, secrets={"user": "me"})
    crm.post({"id": "1"})
    crm.drain()
    assert crm.sums() == {"delivered": 1}
    assert [request.headers.get("Cookie") for request in vendor.asked] == [
        None,
        "sid=s-1234; lang=en",
        None,
        "sid=s-5678; lang=en",
    ]


def test_an_auth_failure_says_what_it_means_for_the_lane(oauth: OAuthServer, transport: HttpTransport) -> None:
    program = program_from(CREDENTIALS)
    (wire,) = wires(program, transport, [MemoryStore()], 1)
    oauth.app_secret = "changed"
    with pytest.raises(AuthFailed) as caught:
        program.auth.token(wire)
    assert caught.value.outcome.kind is OutcomeKind.PAUSE


# --- several ways to log in, and log-ins of several steps ---

TWO_WAYS = """
settings: {properties: {login: {type: string, default: token}}}
secrets: {key: {title: Key}, user: {title: User}}
auths:
  token: {when: "${ settings.login == 'token' }", place: {headers: {X-Key: "${ secrets.key }"}}}
  user: {base_url: https://other.crm.example, place: {headers: {X-User: "${ secrets.user }"}}}
hosts: [api.crm.example, other.crm.example]
"""


def sent_with(text: str, settings: str = "{}") -> tuple[str, dict[str, str], set[str]]:
    shop = Shop(
        text,
        f"{{client: abc, connectors: {{crm: {{settings: {settings}}}}}}}",
        secrets={"key": "k-1234", "user": "u-1234"},
    )
    shop.post({"id": "1"})
    shop.drain()
    request = shop.vendor.asked[0]
    headers = {name: value for name, value in request.headers.items() if name.startswith("X-")}
    return urlsplit(request.url).netloc, headers, shop.programs["abc"].secret_names


def test_the_first_auth_whose_when_holds_serves_and_only_its_secrets_are_asked_for() -> None:
    assert sent_with(TWO_WAYS) == ("api.crm.example", {"X-Key": "k-1234"}, {"key"})
    assert sent_with(TWO_WAYS, "{login: user}") == ("other.crm.example", {"X-User": "u-1234"}, {"user"})


def test_a_request_may_name_its_auth() -> None:
    text = TWO_WAYS + "actions: {note: {request: {path: /notes, json: {}, auth: user}}}\n"
    host, headers, secrets = sent_with(text)
    assert (host, headers, secrets) == ("other.crm.example", {"X-User": "u-1234"}, {"key", "user"})


def test_an_auth_that_is_not_there_is_a_problem_with_a_hint() -> None:
    with pytest.raises(SpecErrors, match=r'no auth is called usr; did you mean "user"\?'):
        Shop(TWO_WAYS + "actions: {note: {request: {path: /notes, json: {}, auth: usr}}}\n")


CHAIN = """
secrets: {key: {title: Key}}
auth:
  token:
    steps:
      session:
        request: {url: https://api.crm.example/session, form: {key: "${ secrets.key }"}}
        save: {code: "${ response.body.code }"}
      exchange:
        request: {url: https://api.crm.example/token, json: {code: "${ steps.session.code }"}}
    save: {value: "${ response.body.token }", code: "${ steps.session.code }"}
  place: {headers: {Authorization: "Bearer {{ token.value }}"}}
"""


def test_a_log_in_of_two_steps_hands_on_what_the_first_saved() -> None:
    replies = [reply(200, {"code": "c-77"}), reply(200, {"token": "t-99"}), reply(200, {})]
    shop = Shop(CHAIN, vendor=Vendor(*replies), secrets={"key": "k-1234"})
    shop.post({"id": "1"})
    shop.drain()
    assert shop.vendor.lines == ["POST /session", "POST /token", "POST /v1/notes"]
    assert json.loads(shop.vendor.asked[1].content) == {"code": "c-77"}
    assert shop.vendor.asked[2].headers["Authorization"] == "Bearer t-99"
    assert shop.sums() == {"delivered": 1}


def test_a_step_of_a_log_in_that_is_refused_pauses_the_lane() -> None:
    shop = Shop(CHAIN, vendor=Vendor(reply(200, {"code": "c-77"}), reply(403, {})), secrets={"key": "k-1234"})
    shop.post({"id": "1"})
    shop.drain()
    assert (shop.lane().state, shop.lane().reason) == ("paused", "the log-in was refused (HTTP 403): HTTP 403")


XML = r"""
secrets: {user: {title: User}, word: {title: Password}}
auth:
  token:
    request:
      url: https://api.crm.example/soap
      headers: {Content-Type: text/xml; charset=utf-8, SOAPAction: login}
      text: "<login><user>{{ secrets.user | html }}</user><word>{{ secrets.word | html }}</word></login>"
      expect: ${ contains(response.text, '<sessionId>') }
    save:
      value: ${ regex_replace(response.text, '(?s).*<sessionId>([^<]*)</sessionId>.*', '\1') }
  place: {headers: {X-Session: "${ token.value }"}}
"""


def test_a_log_in_may_speak_xml() -> None:
    answer = reply(200, text="<r>\n<sessionId>s-1234</sessionId>\n<user>1</user></r>", content_type="text/xml")
    crm = Shop(XML, vendor=Vendor(answer, reply(200, {})), secrets={"user": "ana&co", "word": "a<b"})
    crm.post({"id": "1"})
    crm.drain()
    log_in, note = crm.vendor.asked
    assert log_in.content == b"<login><user>ana&amp;co</user><word>a&lt;b</word></login>"
    assert note.headers["X-Session"] == "s-1234"


TWO_TOKENS = """
secrets: {key: {title: Key}, user: {title: User}}
auth:
  token:
    steps:
      app:
        request: {url: https://api.crm.example/app, json: {key: "${ secrets.key }"}}
        save: {t: "${ response.body.t }"}
      user:
        request:
          url: https://api.crm.example/user
          headers: {X-App: "${ steps.app.t }"}
          json: {user: "${ secrets.user }", id: "${ uuid5(nonce) }", at: "${ date(now, '%d/%m/%Y %H:%M') }"}
    save: {app: "${ steps.app.t }", value: "${ response.body.t }"}
    expires: {after: 1h}
  place: {headers: {X-App: "${ token.app }", X-User: "${ token.value }"}}
"""


def test_a_log_in_may_yield_two_tokens() -> None:
    vendor = Vendor(reply(200, {"t": "app-1234"}), reply(200, {"t": "user-1234"}), reply(200, {}))
    crm = Shop(TWO_TOKENS, vendor=vendor, secrets={"key": "k-1234", "user": "u-1234"})
    crm.post({"id": "1"})
    crm.drain()
    assert vendor.asked[1].headers["X-App"] == "app-1234"
    assert vendor.bodies[1] == {"user": "u-1234", "id": vendor.bodies[1]["id"], "at": "28/01/2026 10:30"}
    assert len(vendor.bodies[1]["id"]) == 36
    assert (vendor.asked[2].headers["X-App"], vendor.asked[2].headers["X-User"]) == ("app-1234", "user-1234")
