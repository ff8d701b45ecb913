"""Log-ins at real authorization servers that the tests start: Authlib's in Python, and oidc-provider where node is."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from authlib_server import APP, APP_SECRET, TOKEN_URL, USER, OAuthServer
from command import ROOT
from conftest import Heard, Shop, program_from
from joserfc.jwk import RSAKey
from test_signing import pem, private

from engine.clock import SystemClock, VirtualClock
from engine.onboarding import login
from engine.secrets import fingerprint
from engine.sending import HttpTransport, Masker
from engine.stores.sqlite import SqliteStore
from engine.walk import Walk
from engine.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.records import TokenRow


@pytest.fixture
def oauth() -> Iterator[OAuthServer]:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    server = OAuthServer(private("rsa").public_key().public_bytes(serialization.Encoding.PEM, form).decode())
    yield server
    server.close()


@pytest.fixture
def transport(oauth: OAuthServer) -> Iterator[HttpTransport]:
    made = HttpTransport(oauth.url)
    yield made
    made.close()


SECRETS = {"client_id": APP, "client_secret": APP_SECRET, "private_key": pem("rsa"), "refresh_token": "first"}


def written(auth: str) -> str:
    return f"""
hosts: [api.crm.example]
secrets: {{client_id: {{}}, client_secret: {{}}, private_key: {{}}, refresh_token: {{}}}}
http: {{base_url: 'https://api.crm.example', retry: {{attempts: 3, initial: 10s, jitter: none}}}}
auth:
  token_url: https://api.crm.example/token
  client_id: "${{ secrets.client_id }}"
{auth}
actions: {{note: {{record: {{id: "${{ event.id }}"}}, request: {{path: /notes, json: "${{ record }}"}}}}}}
"""


def shop(text: str, transport: HttpTransport) -> Shop:
    """A shop in our own time, for the server looks at its own clock."""
    return Shop(text, vendor=transport, secrets=dict(SECRETS), clock=VirtualClock(time.time()))


def delivered(crm: Shop, number: str = "1") -> TokenRow:
    crm.post({"id": number})
    crm.drain()
    assert crm.sums().get("waiting") is None, crm.lane().reason
    row = crm.store.token("crm", "abc", "default")
    assert row is not None
    return row


SECRET = '  client_secret: "${ secrets.client_secret }"\n'
KEY = '  private_key: "${ secrets.private_key }"\n'
CREDENTIALS = "  type: oauth2_client_credentials\n"


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("client_secret_post", SECRET + "  client_auth: form\n"),
        ("client_secret_basic", SECRET + "  client_auth: basic\n"),
        ("client_assertion_jwt", KEY + "  client_auth: private_key_jwt\n"),
        (
            "client_assertion_jwt",
            KEY + "  client_auth: private_key_jwt\n  audience: https://api.crm.example/token\n  key_id: k-1\n",
        ),
        ("none", "  client_auth: none\n"),
    ],
)
def test_an_app_names_itself_in_the_one_way_that_the_server_takes(
    method: str, how: str, oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.methods = {method}
    kind = CREDENTIALS
    if method == "none":  # Authlib gives credentials to no public app
        oauth.issue("first")
        kind = '  type: oauth2_refresh_token\n  refresh_token: "${ secrets.refresh_token }"\n'
    crm = shop(written(kind + how), transport)
    delivered(crm)
    oauth.end()
    delivered(crm, "2")
    assert (oauth.notes, len(oauth.asked), crm.sums()) == ([1, 0, 2], 2, {"delivered": 2})


@pytest.mark.parametrize("wrong", ["audience: https://elsewhere.example.com", "algorithm: RS384", "key_as: base64"])
def test_an_assertion_that_the_server_refuses_pauses_the_lane(
    wrong: str, oauth: OAuthServer, transport: HttpTransport
) -> None:
    crm = shop(written(CREDENTIALS + KEY + f"  client_auth: private_key_jwt\n  {wrong}\n"), transport)
    crm.post({"id": "1"})
    crm.drain(3600)
    assert (crm.sums(), crm.lane().state, len(oauth.asked) <= 1) == ({"waiting": 1}, "paused", True)


def test_an_assertion_buys_a_token(oauth: OAuthServer, transport: HttpTransport) -> None:
    claims = f'{{iss: "${{ secrets.client_id }}", sub: {USER}, aud: "{TOKEN_URL}", jti: "${{ nonce }}"}}'
    crm = shop(written(f"  type: oauth2_jwt_bearer\n{KEY}  claims: {claims}\n  scope: notes\n"), transport)
    delivered(crm)
    oauth.end()
    delivered(crm, "2")
    assert oauth.asked == ["urn:ietf:params:oauth:grant-type:jwt-bearer"] * 2
    assert (oauth.notes, crm.sums()) == ([1, 0, 2], {"delivered": 2})


def test_a_new_log_in_is_followed_by_a_look_around_and_a_renewal_keeps_what_it_found(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.issue("first")
    text = written(f"""  type: oauth2_refresh_token
  refresh_token: "${{ secrets.refresh_token }}"
{SECRET}  discover:
    me:
      request:
        {{method: GET, url: 'https://api.crm.example/me', headers: {{Authorization: "Bearer {{{{ token.value }}}}"}}}}
      save: {{account: "${{ response.body.account }}"}}
""").replace("path: /notes", "path: '/notes/{{ record.id }}'")
    crm = shop(text, transport)
    first = delivered(crm)
    crm.clock.sleep(3590)
    second = delivered(crm, "2")
    kept = {"value", "refresh_token", "account"}
    assert {name: value for name, value in first.values.items() if name in kept} == {
        "value": "access-token-1",
        "refresh_token": "refresh-token-1",
        "account": "acc-7",
    }
    assert {name: value for name, value in second.values.items() if name in kept} == {
        "value": "access-token-2",
        "refresh_token": "refresh-token-2",
        "account": "acc-7",
    }
    assert [facts["step"] for facts in crm.heard.named("exchange")] == [
        "log-in",
        "log-in",
        "request",
        "renewed",
        "request",
    ]


def test_each_new_log_in_is_followed_by_a_look_around_of_its_own(oauth: OAuthServer, transport: HttpTransport) -> None:
    text = written(f"""{CREDENTIALS}{SECRET}  discover:
    me:
      request:
        {{method: GET, url: 'https://api.crm.example/me', headers: {{Authorization: "Bearer {{{{ token.value }}}}"}}}}
      save: {{account: "${{ response.body.account }}"}}
""")
    crm = shop(text, transport)
    delivered(crm)
    oauth.end()
    delivered(crm, "2")
    steps = [facts["step"] for facts in crm.heard.named("exchange")]
    assert steps == ["log-in", "log-in", "request", "request", "log-in", "log-in", "request"]


def test_a_rotated_token_is_not_lost_where_the_look_around_fails(oauth: OAuthServer, transport: HttpTransport) -> None:
    oauth.issue("first")
    text = written(f"""  type: oauth2_refresh_token
  refresh_token: "${{ secrets.refresh_token }}"
{SECRET}  discover: {{me: {{request: {{method: GET, url: 'https://api.crm.example/me'}}, save: {{a: x}}}}}}
""")
    crm = shop(text, transport)
    crm.post({"id": "1"})
    crm.drain()
    assert (crm.lane().state, oauth.asked) == ("paused", ["refresh_token"])
    row = crm.store.token("crm", "abc", "default")
    assert row is not None
    assert row.values["refresh_token"] == "refresh-token-1"


def test_a_token_whose_end_only_an_introspection_tells(oauth: OAuthServer, transport: HttpTransport) -> None:
    basic = "${ join(['Basic ', base64(join([secrets.client_id, ':', secrets.client_secret], ''))], '') }"
    text = written("").replace(
        '  token_url: https://api.crm.example/token\n  client_id: "${ secrets.client_id }"\n', ""
    )
    text = text.replace(
        "auth:\n",
        f"""auth:
  token:
    steps:
      log_in:
        request: {{url: '{TOKEN_URL}', headers: {{Authorization: "{basic}"}}, form: {{grant_type: client_credentials}}}}
        save: {{value: "${{ response.body.access_token }}"}}
      look:
        request:
          url: https://api.crm.example/introspect
          headers: {{Authorization: "{basic}"}}
          form: {{token: "${{ steps.log_in.value }}"}}
    save: {{value: "${{ steps.log_in.value }}"}}
    expires: {{at: "${{ response.body.exp }}"}}
  place: {{headers: {{Authorization: "Bearer {{{{ token.value }}}}"}}}}
""",
    )
    oauth.lifetime_s = 1200
    crm = shop(text, transport)
    began = time.time()
    row = delivered(crm)
    assert row.expires_at is not None
    assert began + 1198 <= row.expires_at <= time.time() + 1201


def test_short_lifetimes_are_met_by_renewals_and_no_request_is_refused(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.issue("first")
    oauth.lifetime_s = 2
    text = written(f'  type: oauth2_refresh_token\n  refresh_token: "${{ secrets.refresh_token }}"\n{SECRET}')
    crm = Shop(text, vendor=transport, secrets=dict(SECRETS), clock=SystemClock())  # type: ignore[arg-type]
    until, number = time.time() + 5, 0
    while time.time() < until:
        number += 1
        crm.post({"id": str(number)})
        crm.worker.drain()
        time.sleep(0.05)
    assert (crm.sums(), 0 in oauth.notes, oauth.reused) == ({"delivered": number}, False, 0)
    assert 3 <= len(oauth.asked) <= 8


# --- one renewal at a time, over all processes ---


def renew_often(
    database: str, url: str, text: str, secrets: dict[str, str], worker: int, ready: Any, results: Any
) -> None:
    """A process of its own: asks for a token again and again while tokens live a second."""
    store, transport = SqliteStore(Path(database)), HttpTransport(url)
    program = program_from(text)
    wire = Wire(
        connector="crm",
        client="abc",
        scope=program.scope,
        secrets=secrets,
        fingerprint=fingerprint(secrets),
        store=store,
        transport=transport,
        clock=SystemClock(),
        masker=Masker(),
        telemetry=Heard(),
        owner=f"process-{worker}",
    )
    ready.wait()
    found: list[str] = []
    until = time.time() + 5
    try:
        while time.time() < until:
            row = program.auth.token(wire)
            assert row is not None
            found.append(str(row.values["value"]))
            time.sleep(0.01)
        results.put((worker, "", sorted(set(found))))
    except Exception as error:
        results.put((worker, repr(error), sorted(set(found))))
    finally:
        transport.close()
        store.close()


def test_of_several_processes_one_renews_at_a_time_and_no_refresh_token_comes_twice(
    oauth: OAuthServer, tmp_path: Path
) -> None:
    oauth.issue("first")
    oauth.lifetime_s = 1
    text = written(f'  type: oauth2_refresh_token\n  refresh_token: "${{ secrets.refresh_token }}"\n{SECRET}')
    database = str(tmp_path / "connect.db")
    SqliteStore(tmp_path / "connect.db").close()
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=renew_often, args=(database, oauth.url, text, SECRETS, at, ready, results))
        for at in range(3)
    ]
    for process in processes:
        process.start()
    ended = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(10)
    assert [why for _, why, _ in ended] == ["", "", ""]
    assert oauth.reused == 0
    spent = [form["refresh_token"] for form in oauth.forms]
    assert spent == ["first", *(f"refresh-token-{number}" for number in range(1, len(spent)))]
    assert len(spent) >= 5  # there was something to be at odds about
    assert len({token for _, _, tokens in ended for token in tokens}) == len(spent)


def test_a_refresh_token_that_comes_twice_ends_its_family(oauth: OAuthServer, transport: HttpTransport) -> None:
    """What the test above would see if two processes renewed at once."""
    oauth.issue("first")
    text = written(f'  type: oauth2_refresh_token\n  refresh_token: "${{ secrets.refresh_token }}"\n{SECRET}')
    delivered(shop(text, transport))
    other = shop(text, transport)  # on a store of its own it knows only the first
    other.post({"id": "1"})
    other.drain()
    assert (oauth.reused, other.lane().state, oauth.alive) == (1, "paused", set())


# --- oidc-provider, a certified server ---

AUTHSERVER = ROOT / "tests/authserver"
INSTALLED = ROOT / ".cache/authserver"


def why_not() -> str:
    """Why the server of the npm registry can't be started here; empty if it can."""
    if shutil.which("node") is None:
        return "node is not here"
    if not (INSTALLED / "node_modules/oidc-provider").is_dir():
        return "oidc-provider is not installed in .cache/authserver; `make authserver` does it"
    return ""


needs_node = pytest.mark.skipif(bool(why_not()), reason=why_not())


class OidcProvider:
    def __init__(self, lifetime_s: int) -> None:
        shutil.copy(AUTHSERVER / "server.mjs", INSTALLED)
        jwk = RSAKey.import_key(pem("rsa")).as_dict(private=False)
        given = json.dumps({"publicJwk": {**jwk, "kid": "k-1"}, "lifetime": lifetime_s})
        self.process = subprocess.Popen(
            ["node", "server.mjs", given],
            cwd=INSTALLED,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("port "), line
        self.port = int(line.split()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def get(self, path: str, cookies: dict[str, str] | None = None) -> tuple[str, str]:
        """(where it leads, what it says); cookies are kept as a browser would."""
        jar = cookies if cookies is not None else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            headers = {"Host": "api.crm.example", "Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            for set_cookie in response.headers.get_all("Set-Cookie") or []:
                name, _, value = set_cookie.partition(";")[0].partition("=")
                jar[name] = value
            return response.getheader("Location", ""), response.read().decode()
        finally:
            connection.close()

    def agree(self, page: str) -> str:
        """A browser follows the page until it leads back to us."""
        cookies: dict[str, str] = {}
        leads_to, said = page, ""
        for _ in range(10):
            parts = urlsplit(leads_to)
            leads_to, said = self.get(f"{parts.path}?{parts.query}" if parts.query else parts.path, cookies)
            if leads_to.startswith("http://127.0.0.1:"):
                return leads_to
        raise AssertionError(f"the page leads nowhere: {said[:500]}")

    def granted(self) -> list[str]:
        found: list[str] = json.loads(self.get("/granted")[1])
        return found

    def close(self) -> None:
        self.process.communicate(timeout=10)  # it ends with its standard input


@pytest.fixture
def oidc() -> Iterator[OidcProvider]:
    server = OidcProvider(lifetime_s=3600)
    yield server
    server.close()


def oidc_shop(server: OidcProvider, auth: str, **secrets: str) -> tuple[Shop, HttpTransport]:
    transport = HttpTransport(server.url)
    text = written(auth).replace('"${ secrets.client_id }"', secrets.pop("app"))
    crm = Shop(text, vendor=transport, secrets={**SECRETS, **secrets}, clock=VirtualClock(time.time()))
    return crm, transport


@needs_node
@pytest.mark.parametrize(
    ("app", "how"),
    [
        ("basic", SECRET + "  client_auth: basic\n"),
        ("post", SECRET + "  client_auth: form\n"),
        ("signs", KEY + "  client_auth: private_key_jwt\n  audience: https://api.crm.example\n  key_id: k-1\n"),
        (
            "signs",
            KEY + "  client_auth: private_key_jwt\n  audience: https://api.crm.example\n  algorithm: PS256\n",
        ),
    ],
)
def test_a_certified_server_takes_every_way_in_which_an_app_names_itself(
    app: str, how: str, oidc: OidcProvider
) -> None:
    crm, transport = oidc_shop(oidc, CREDENTIALS + how, app=app, client_secret=f"s3cret-of-{app}")
    try:
        row = delivered(crm)
    finally:
        transport.close()
    assert (oidc.granted(), row.expires_at) == (["client_credentials"], pytest.approx(time.time() + 3600, abs=30))


@needs_node
@pytest.mark.parametrize("app", ["basic", "public"])
def test_a_consent_at_a_certified_server_is_renewed_by_rotation(app: str, oidc: OidcProvider) -> None:
    how = f"{SECRET}  client_auth: basic\n" if app == "basic" else "  client_auth: none\n"
    auth = f"""  type: oauth2_refresh_token
  authorize_url: https://api.crm.example/auth
  authorize_query: {{prompt: consent}}
  scope: openid offline_access notes
{how}"""
    crm, transport = oidc_shop(oidc, auth, app=app, client_secret="s3cret-of-basic")
    wire, way = Walk(crm.worker.world, crm.programs["abc"], keep_alive=lambda: None).wire, crm.programs["abc"].auth
    try:
        page = login.asked(way, wire, "http://127.0.0.1:8400/callback")
        answer = login.answer_in(oidc.agree(page.url), page)
        login.exchanged(way, wire, page, answer, kept=True)
        first = delivered(crm)
        crm.clock.sleep(3590)
        second = delivered(crm, "2")
        with pytest.raises(login.LoginFailed, match="a code serves once"):
            login.exchanged(way, wire, page, answer, kept=True)
        crm.clock.sleep(3590)
        crm.post({"id": "3"})
        crm.drain()
    finally:
        transport.close()
    assert first.values["refresh_token"] != second.values["refresh_token"]
    granted = oidc.granted()
    assert granted[:2] == ["authorization_code", "refresh_token"]
    assert granted[2].startswith(("invalid_grant", "revoked"))
    # the server took back all that came of a code that was used twice, so that a person has to agree again
    assert (crm.sums(), crm.lane().state) == ({"delivered": 2, "waiting": 1}, "paused")
    assert str(crm.lane().reason).endswith("agree anew: run `connect login crm abc`")


@needs_node
def test_a_code_is_worth_nothing_without_the_verifier_at_a_certified_server(oidc: OidcProvider) -> None:
    auth = f"""  type: oauth2_refresh_token
  authorize_url: https://api.crm.example/auth
  scope: openid offline_access
{SECRET}  client_auth: basic
"""
    crm, transport = oidc_shop(oidc, auth, app="basic", client_secret="s3cret-of-basic")
    wire, way = Walk(crm.worker.world, crm.programs["abc"], keep_alive=lambda: None).wire, crm.programs["abc"].auth
    try:
        page = login.asked(way, wire, "http://127.0.0.1:8400/callback")
        answer = login.answer_in(oidc.agree(page.url), page)
        with pytest.raises(login.LoginFailed, match="invalid_grant"):
            login.exchanged(way, wire, page._replace(verifier="v" * 43), answer, kept=True)
    finally:
        transport.close()
    assert crm.store.token("crm", "abc", "default") is None
