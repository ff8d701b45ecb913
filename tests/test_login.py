"""A person's consent, against Authlib's authorization server, with a browser that follows links and nothing else."""

from __future__ import annotations

import http.client
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from authlib_server import APP, APP_SECRET, OAuthServer
from command import ROOT, connect, environment
from conftest import Shop, Vendor, reply

from engine.errors import UsageError
from engine.onboarding import login
from engine.sending import HttpTransport
from engine.stores.sqlite import SqliteStore
from engine.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.wire import Wire

SPEC = """
hosts: [api.crm.example]
secrets:
  client_id: {title: Client id}
  client_secret: {title: Client secret}
  refresh_token: {title: Refresh token}
http: {base_url: 'https://api.crm.example', retry: {attempts: 3, initial: 10s, jitter: none}}
receive: {client: "${ event.client }", id: "${ event.id }"}
auth:
  type: oauth2_refresh_token
  token_url: https://api.crm.example/token
  authorize_url: https://api.crm.example/authorize
  scope: notes.write offline
  client_id: "${ secrets.client_id }"
  client_secret: "${ secrets.client_secret }"
  refresh_token: "${ secrets.refresh_token }"
actions: {note: {record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}}
"""
CLIENT = """
client: abc
ingest: {keys: ['env:ABC_KEY']}
connectors: {crm: {secrets: {client_id: 'env:APP', client_secret: 'env:APP_SECRET'}}}
"""
ENV = {"APP": APP, "APP_SECRET": APP_SECRET, "ABC_KEY": "key-of-abc"}
SECRETS = {"client_id": APP, "client_secret": APP_SECRET}


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


def get(url: str) -> tuple[int, str, str]:
    """(status, where it leads, what it says) of one page; nothing is followed."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port or 80, timeout=10)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        response = connection.getresponse()
        return response.status, response.getheader("Location", ""), response.read().decode()
    finally:
        connection.close()


def agree(server: OAuthServer, page: str) -> str:
    """A person opens the page and agrees: the address that it leads to."""
    parts = urlsplit(page)
    assert f"{parts.scheme}://{parts.netloc}" == "https://api.crm.example"
    status, leads_to, said = get(f"{server.url}{parts.path}?{parts.query}")
    assert status == 302, said
    return leads_to


def wire_of(shop: Shop) -> Wire:
    return Walk(shop.worker.world, shop.programs["abc"], keep_alive=lambda: None).wire


def page_of(shop: Shop, redirect: str = "http://127.0.0.1:8400/callback") -> tuple[Wire, Any, login.Asked]:
    wire, auth = wire_of(shop), login.consenting(shop.programs["abc"], None)
    return wire, auth, login.asked(auth, wire, redirect)


# --- the command ---


@contextmanager
def logging_in(project: Path, *args: str, **env: str) -> Iterator[Any]:
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "login", "crm", "abc", "--no-browser", *args],
        cwd=project,
        env=environment(PYTHONPATH=str(ROOT), **ENV, **env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def shown_page(process: Any) -> str:
    for line in process.stderr:
        if line.startswith("https://"):
            return str(line.strip())
    raise AssertionError("no page was shown")


def test_who_agreed_once_is_logged_in_for_all_processes(oauth: OAuthServer, project_from: Callable[..., Path]) -> None:
    project = project_from(crm=SPEC, abc=CLIENT)
    (project / "event.json").write_text('{"client": "abc", "id": "1"}')
    common: Any = {"project": project, **ENV, "CONNECT_VIA": oauth.url}
    before = connect("check", "crm", "abc", **common)
    assert (before.code, before.out) == (
        1,
        "log-in: failed, nobody has agreed yet: run `connect login crm abc`\n",
    )
    with logging_in(project, "--port", "0", "--via", oauth.url) as process:
        answer = agree(oauth, shown_page(process))
        status, _, said = get(answer)
        assert (status, "Thank you" in said) == (200, True)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (
        0,
        "crm/abc is logged in; the token is in the store and will be renewed by itself\n",
    ), err
    assert "with CONNECT_KEY it would be encrypted" in err
    assert APP_SECRET not in out + err
    sent = connect("send", "crm", "event.json", **common)
    assert (sent.code, sent.out) == (0, "note: delivered\n"), sent.err
    checked = connect("check", "crm", "abc", **common)
    assert (checked.code, checked.out) == (0, "log-in: passed, a token that lives\n")
    assert oauth.reused == 0


def test_a_lane_that_waited_for_consent_goes_on(oauth: OAuthServer, project_from: Callable[..., Path]) -> None:
    project = project_from(crm=SPEC, abc=CLIENT)
    before = Shop(SPEC, store=SqliteStore(project / "connect.db"), vendor=Vendor(), secrets=dict(SECRETS))
    before.post({"id": "1"}, {"id": "2"})
    before.drain()
    assert before.lane().state == "paused"
    before.store.close()
    with logging_in(project, "--port", "0", "--via", oauth.url) as process:
        get(agree(oauth, shown_page(process)))
        out, _ = process.communicate(timeout=30)
    assert out.splitlines()[-1] == "its lane goes on; 2 waiting"
    ended = connect("deliver", project=project, **ENV, CONNECT_VIA=oauth.url)
    assert ended.code == 0, ended.err
    after = SqliteStore(project / "connect.db")
    lane = after.lane("crm", "abc")
    after.close()
    assert lane is not None
    assert (lane.delivered, lane.waiting) == (2, 0)


def test_check_and_send_spend_no_refresh_token_that_others_need(
    oauth: OAuthServer, project_from: Callable[..., Path]
) -> None:
    oauth.issue("given")
    given = CLIENT.replace("client_id:", "refresh_token: 'env:REFRESH', client_id:")
    project = project_from(crm=SPEC, abc=given)
    (project / "event.json").write_text('{"client": "abc", "id": "1"}')
    common: Any = {"project": project, **ENV, "REFRESH": "given", "CONNECT_VIA": oauth.url}
    ended = [connect("check", "crm", "abc", **common), connect("send", "crm", "event.json", **common)]
    ended.append(connect("check", "crm", "abc", **common))
    assert [(one.code, one.err) for one in ended] == [(0, "")] * 3
    assert (oauth.asked, oauth.reused, oauth.notes) == (["refresh_token"], 0, [1])


def test_a_token_is_encrypted_in_the_store(oauth: OAuthServer, project_from: Callable[..., Path]) -> None:
    from cryptography.fernet import Fernet

    project = project_from(crm=SPEC, abc=CLIENT)
    with logging_in(project, "--port", "0", "--via", oauth.url, CONNECT_KEY=Fernet.generate_key().decode()) as process:
        get(agree(oauth, shown_page(process)))
        _, err = process.communicate(timeout=30)
    assert (process.returncode, "CONNECT_KEY" in err) == (0, False)
    kept = b"".join(path.read_bytes() for path in project.glob("connect.db*"))
    assert b"refresh-token-1" not in kept


@pytest.mark.parametrize("whole", [True, False])
def test_where_no_page_can_lead_to_this_machine_its_address_is_pasted(
    whole: bool, oauth: OAuthServer, project_from: Callable[..., Path]
) -> None:
    project = project_from(crm=SPEC, abc=CLIENT)
    with logging_in(project, "--redirect", "https://tools.example.com/back", "--print", "--via", oauth.url) as process:
        answer = agree(oauth, shown_page(process))
        assert answer.startswith("https://tools.example.com/back?")
        pasted = answer if whole else parse_qs(urlsplit(answer).query)["code"][0]
        out, err = process.communicate(f"{pasted}\n", timeout=30)
    assert (process.returncode, out) == (0, "refresh-token-1\n"), err
    assert "put it where a secret of abc's file leads, such as `refresh_token: env:NAME`" in err
    assert not (project / "connect.db").exists()


def test_a_connector_that_asks_nobody_says_so(project_from: Callable[..., Path]) -> None:
    project = project_from(
        crm="secrets: {key: {title: Key}}\nauth: {type: bearer, token: '${ secrets.key }'}", abc=CLIENT
    )
    ended = connect("login", "crm", "abc", project=project)
    assert (ended.code, ended.err) == (2, "connect: crm/abc logs in with its secrets; no person needs to agree\n")


TWO_WAYS = """
settings: {properties: {log_in: {type: string, default: token}}}
secrets: {key: {title: Key}, client_id: {title: Client id}, refresh_token: {title: Refresh token}}
auths:
  token: {when: "${ settings.log_in == 'token' }", type: bearer, token: "${ secrets.key }"}
  oauth:
    type: oauth2_refresh_token
    client_auth: none
    token_url: https://api.crm.example/token
    authorize_url: https://api.crm.example/authorize
    scope: notes.write
    client_id: "${ secrets.client_id }"
    refresh_token: "${ secrets.refresh_token }"
"""


def test_of_several_ways_to_log_in_one_that_asks_is_named(oauth: OAuthServer, transport: HttpTransport) -> None:
    client = "{client: abc, connectors: {crm: {settings: {log_in: oauth}}}}"
    program = Shop(TWO_WAYS, secrets={"key": "k-1234"}).programs["abc"]
    with pytest.raises(UsageError, match=r"no person needs to agree; --auth oauth does$"):
        login.consenting(program, None)
    with pytest.raises(UsageError, match=r"crm has no auth ouath; there are token, oauth$"):
        login.consenting(program, "ouath")
    assert login.consenting(program, "oauth").name == "oauth"
    shop = Shop(TWO_WAYS, client, vendor=transport, secrets={"client_id": APP})
    shop.post({"id": "1"})
    shop.drain()
    assert shop.lane().reason == "nobody has agreed yet: run `connect login crm abc --auth oauth`"
    exchanged(oauth, shop)
    row = shop.store.token("crm", "abc", "oauth")
    assert row is not None
    assert row.values["refresh_token"] == "refresh-token-1"


def test_a_store_that_is_lost_with_the_process_keeps_no_log_in(project_from: Callable[..., Path]) -> None:
    ended = connect("login", "crm", "abc", "--store", "memory:", project=project_from(crm=SPEC, abc=CLIENT), **ENV)
    assert (ended.code, "use --print" in ended.err) == (2, True)


# --- the page and its answer ---


def test_the_page_has_all_that_the_vendor_needs_and_no_secret() -> None:
    _, _, page = page_of(Shop(SPEC, vendor=Vendor(), secrets=dict(SECRETS)))
    query = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
    assert query == {
        "response_type": "code",
        "client_id": APP,
        "redirect_uri": "http://127.0.0.1:8400/callback",
        "scope": "notes.write offline",
        "state": page.state,
        "code_challenge": page.before["code_challenge"],
        "code_challenge_method": "S256",
    }
    assert min(len(page.state), len(page.verifier)) >= 43
    assert page.verifier not in page.url
    assert APP_SECRET not in page.url


def test_two_log_ins_have_nothing_in_common() -> None:
    shop = Shop(SPEC, vendor=Vendor(), secrets=dict(SECRETS))
    (_, _, one), (_, _, other) = page_of(shop), page_of(shop)
    assert not {one.state, one.verifier} & {other.state, other.verifier}


PAGE = login.Asked("https://api.crm.example/authorize", "the-state", "v" * 43, "http://127.0.0.1:1/callback")


@pytest.mark.parametrize(
    ("pasted", "answer"),
    [
        ("http://127.0.0.1:1/callback?code=c-1&state=the-state", {"code": "c-1", "state": "the-state"}),
        ("  ?code=c-1&state=the-state\n", {"code": "c-1", "state": "the-state"}),
        ("code=c%2F1&state=the-state&realmId=7", {"code": "c/1", "state": "the-state", "realmId": "7"}),
        ("c-1", {"code": "c-1"}),
        ("c-1==", {"code": "c-1=="}),
    ],
)
def test_what_is_pasted_may_be_an_address_its_query_or_the_code(pasted: str, answer: dict[str, str]) -> None:
    assert login.answer_in(pasted, PAGE) == answer


@pytest.mark.parametrize(
    ("pasted", "why"),
    [
        ("http://127.0.0.1:1/callback?code=c-1&state=another", "the answer is not one to this log-in"),
        ("http://127.0.0.1:1/callback?code=c-1", "the answer is not one to this log-in"),
        (
            "http://127.0.0.1:1/callback?error=access_denied&error_description=The+owner+said+no&state=the-state",
            "nobody agreed: access_denied (The owner said no)",
        ),
        ("http://127.0.0.1:1/callback?state=the-state", "there is no code in it; paste the whole address"),
        ("http://127.0.0.1:1/callback?code=&state=the-state", "there is no code in it"),
        ("", "there is no code in it"),
        ("I clicked on it", "there is no code in it"),
    ],
)
def test_what_is_no_answer_to_the_page_is_refused(pasted: str, why: str) -> None:
    with pytest.raises(login.LoginFailed) as caught:
        login.answer_in(pasted, PAGE)
    assert str(caught.value).startswith(why)


@contextmanager
def callback(redirect_uri: str | None = None) -> Iterator[login.Callback]:
    made = login.Callback(redirect_uri, 0)
    try:
        yield made
    finally:
        made.close()


def test_an_answer_with_a_wrong_state_is_turned_away_and_the_right_one_still_heard() -> None:
    told: list[str] = []
    with callback() as door:
        page = PAGE._replace(redirect_uri=door.redirect_uri)
        door.page, door.tell = page, told.append
        assert door.take("/callback?code=theirs&state=guessed")[0] == 400
        assert door.take("/favicon.ico")[0] == 404
        assert door.take("/callback?code=ours&state=the-state")[0] == 200
        assert door.take("/callback?code=late&state=the-state")[0] == 410
        assert door.wait(page, 1, told.append) == {"code": "ours", "state": "the-state"}
    assert [text.split(";")[0] for text in told] == ["the answer is not one to this log-in (its `state` is another)"]


def test_a_refusal_ends_the_wait(oauth: OAuthServer, transport: HttpTransport) -> None:
    oauth.refusal = "access_denied"
    shop = Shop(SPEC, vendor=transport, secrets=dict(SECRETS))
    with callback() as door:
        _, _, page = page_of(shop, door.redirect_uri)
        door.page = page
        assert "Nobody agreed" in door.take(urlsplit(agree(oauth, page.url))._replace(scheme="", netloc="").geturl())[1]
        with pytest.raises(login.LoginFailed, match=r"^nobody agreed: access_denied$"):
            door.wait(page, 5, lambda _: None)


def test_who_does_not_answer_is_not_waited_for_for_ever() -> None:
    with callback() as door, pytest.raises(login.LoginFailed, match=r"^no answer within 0.05s; run it again, or use"):
        door.wait(PAGE, 0.05, lambda _: None)


def test_a_port_that_is_taken_is_said() -> None:
    with callback() as door, pytest.raises(UsageError, match="use --port, or --paste"):
        login.Callback(door.redirect_uri, 0)


# --- the exchange, and what follows ---


def exchanged(oauth: OAuthServer, shop: Shop) -> Any:
    wire, auth, page = page_of(shop)
    answer = login.answer_in(agree(oauth, page.url), page)
    return login.exchanged(auth, wire, page, answer, kept=True), (wire, auth, page, answer)


def test_a_code_serves_once(oauth: OAuthServer, transport: HttpTransport) -> None:
    _, again = exchanged(oauth, Shop(SPEC, vendor=transport, secrets=dict(SECRETS)))
    wire, auth, page, answer = again
    with pytest.raises(login.LoginFailed) as caught:
        login.exchanged(auth, wire, page, answer, kept=True)
    assert str(caught.value).startswith(
        "the log-in was refused (HTTP 400): HTTP 400 invalid_grant: Invalid 'code' in request."
    )
    assert str(caught.value).endswith("a code serves once and only for minutes, so run it again from the start")


def test_a_code_that_another_asked_for_is_worth_nothing(oauth: OAuthServer, transport: HttpTransport) -> None:
    shop = Shop(SPEC, vendor=transport, secrets=dict(SECRETS))
    wire, auth, page = page_of(shop)
    stolen = login.answer_in(agree(oauth, page.url), page)
    _, _, own = page_of(shop)
    with pytest.raises(login.LoginFailed, match="Code challenge failed"):
        login.exchanged(auth, wire, own, stolen, kept=True)
    assert shop.store.token("crm", "abc", "default") is None


def test_a_reply_without_a_refresh_token_is_not_kept(oauth: OAuthServer, transport: HttpTransport) -> None:
    oauth.with_refresh = False
    shop = Shop(SPEC, vendor=transport, secrets=dict(SECRETS))
    with pytest.raises(login.LoginFailed, match="the reply has no refresh token"):
        exchanged(oauth, shop)
    assert shop.store.token("crm", "abc", "default") is None


def test_a_lane_without_consent_pauses_and_says_what_to_do(oauth: OAuthServer, transport: HttpTransport) -> None:
    shop = Shop(SPEC, vendor=transport, secrets=dict(SECRETS))
    shop.post({"id": "1"})
    shop.drain(7 * 86_400)
    assert (shop.sums(), shop.lane().state, oauth.asked) == ({"waiting": 1}, "paused", [])
    assert shop.lane().reason == "nobody has agreed yet: run `connect login crm abc`"


def test_a_consent_serves_on_by_renewals_also_when_the_app_s_secret_changes(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    shop = Shop(SPEC, vendor=transport, secrets=dict(SECRETS))
    exchanged(oauth, shop)
    for number in range(3):
        shop.post({"id": str(number)})
        shop.drain(3590)
    shop.secrets["client_secret"] = "a newer secret"
    with app_secret("a newer secret"):
        shop.post({"id": "9"})
        shop.drain()
    assert (shop.sums(), shop.lane().state) == ({"delivered": 4}, "idle"), shop.lane().reason
    assert oauth.asked == ["authorization_code", "refresh_token", "refresh_token", "refresh_token"]
    assert oauth.reused == 0


@contextmanager
def app_secret(secret: str) -> Iterator[None]:
    import authlib_server

    before = authlib_server.APP_SECRET
    authlib_server.APP_SECRET = secret
    try:
        yield
    finally:
        authlib_server.APP_SECRET = before


def test_a_consent_that_was_withdrawn_pauses_the_lane_and_asks_for_another(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    shop = Shop(SPEC, vendor=transport, secrets=dict(SECRETS))
    exchanged(oauth, shop)
    for token in oauth.tokens:
        token.revoked = True
    shop.post({"id": "1"})
    shop.drain()
    assert (shop.sums(), shop.lane().state) == ({"waiting": 1}, "paused")
    assert shop.lane().reason == (
        "the log-in was refused (HTTP 400): HTTP 400 invalid_grant; agree anew: run `connect login crm abc`"
    )


def test_a_refresh_token_among_the_secrets_serves_without_consent(oauth: OAuthServer, transport: HttpTransport) -> None:
    oauth.issue("given")
    shop = Shop(SPEC, vendor=transport, secrets={**SECRETS, "refresh_token": "given"})
    shop.post({"id": "1"})
    shop.drain()
    assert (shop.sums(), oauth.asked) == ({"delivered": 1}, ["refresh_token"])


def test_an_optional_secret_that_is_not_there_is_no_lack_of_consent(
    oauth: OAuthServer, transport: HttpTransport
) -> None:
    oauth.issue("given")
    text = SPEC.replace(
        "client_secret: {title: Client secret}", "client_secret: {title: Client secret, optional: true}"
    )
    shop = Shop(text, vendor=transport, secrets={"client_id": APP, "refresh_token": "given"})
    shop.post({"id": "1"})
    shop.drain()
    assert (shop.sums(), shop.lane().reason) == ({"delivered": 1}, None)


def test_a_client_may_leave_out_the_secret_that_a_consent_stands_for(project_from: Callable[..., Path]) -> None:
    project = project_from(crm=SPEC, abc=CLIENT)
    found = connect("validate", project=project, **ENV)
    assert (found.code, "refresh_token" in found.out) == (0, False)
    resolved = connect("validate", "--resolve-secrets", "--format", "github", project=project, **ENV)
    (line,) = [line for line in resolved.out.splitlines() if "no-consent" in line]
    assert (resolved.code, line.split(" ", 1)[0]) == (1, "::error")
    for part in (
        "file=clients/abc.yaml,line=4,col=14",
        "run `connect login crm abc`, or give the secret refresh_token",
    ):
        assert part in line


LONG = """
hosts: [api.crm.example]
secrets: {client_id: {title: Client id}}
http: {base_url: 'https://api.crm.example'}
auth:
  token:
    consent:
      url: https://api.crm.example/authorize?audience=crm
      query: {client: "${ secrets.client_id }", back: "${ consent.redirect_uri }", state: "${ consent.state }"}
      redirect_uri: https://tools.example.com/{{ client.name }}
      request:
        url: https://api.crm.example/access
        json: {code: "${ consent.code }", shop: "${ consent.reply.shop }", back: "${ consent.redirect_uri }"}
    save: {value: "${ response.body.token }", shop: "${ consent.reply.shop }"}
    expires: {never: true}
  place: {headers: {X-Token: "${ token.value }", X-Shop: "${ token.shop }"}}
actions: {note: {record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}}
"""


def test_a_vendor_with_ways_of_its_own_is_described_in_the_long_form() -> None:
    vendor = Vendor(reply(200, {"token": "t-1234"}), reply(200, {}))
    shop = Shop(LONG, vendor=vendor, secrets={"client_id": "app-7"})
    wire, auth = wire_of(shop), login.consenting(shop.programs["abc"], None)
    redirect = login.redirect_of(auth, wire)
    assert redirect == "https://tools.example.com/abc"
    page = login.asked(auth, wire, redirect)
    query = urlencode({"client": "app-7", "back": redirect, "state": page.state})
    assert page.url == f"https://api.crm.example/authorize?audience=crm&{query}"
    answer = login.answer_in(f"{redirect}?code=c-1&shop=s-9&state={page.state}", page)
    row = login.exchanged(auth, wire, page, answer, kept=True)
    assert (row.values["value"], row.values["shop"], row.expires_at) == ("t-1234", "s-9", None)
    shop.post({"id": "1"})
    shop.drain()
    assert shop.sums() == {"delivered": 1}
    assert vendor.bodies == [{"code": "c-1", "shop": "s-9", "back": redirect}, {"id": "1"}]
    assert (vendor.asked[1].headers["X-Token"], vendor.asked[1].headers["X-Shop"]) == ("t-1234", "s-9")
