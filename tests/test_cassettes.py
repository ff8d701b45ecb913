"""Exchanges are recorded over real HTTP without a secret, played offline, and compared with what is sent now."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
import yaml
from command import connect, make_project
from conftest import connector_from

from engine.authoring.cassettes import (
    Account,
    Keeping,
    Scrubber,
    files_of,
    film,
    keep,
    record,
    replay,
    served,
    slug,
    strangers,
)
from engine.authoring.examples import Unlike, client_of, secrets_of
from engine.clock import VirtualClock
from engine.errors import ConnectError, UsageError
from engine.program import Program
from engine.sandbox import Sandbox
from engine.sending import HttpTransport, Masker
from engine.spec import types
from engine.spec.project import Project

if TYPE_CHECKING:
    pass

ROOT = Path(__file__).parent.parent
PROJECT = Project(ROOT)
BUNDLED = sorted((ROOT / "tests" / "cassettes").glob("*/*.yaml"))
TODAY = VirtualClock(1_790_000_000.0)  # 2026-09-21


def texts(value: Any) -> list[str]:
    """Every text in some YAML, keys too."""
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in texts(one)]
    return [value.decode("latin-1") if isinstance(value, bytes) else str(value)]


def no_client(name: str) -> types.Client:
    raise UsageError(f"no client is called {name}")


def play(connector: types.Connector, file: Path, at: int = 0) -> str:
    """What differs, or an empty text."""
    try:
        replay(connector, connector.examples[at], file, client=no_client)
    except Unlike as error:
        return str(error)
    return ""


# --- the cassettes of this repository ---


def test_each_bundled_connector_with_a_sandbox_has_cassettes_and_none_is_left_over() -> None:
    recorded = {file.parent.name for file in BUNDLED}
    assert {"rdstation", "responsys", "salesforce"} <= recorded
    assert [file for name in recorded for file in strangers(ROOT, PROJECT.connector(name))] == []


@pytest.mark.parametrize("file", BUNDLED, ids=[f"{file.parent.name}/{file.stem}" for file in BUNDLED])
def test_what_is_sent_today_is_what_was_recorded(file: Path) -> None:
    connector = PROJECT.connector(file.parent.name)
    assert play(connector, file, files_of(ROOT, connector).index(file)) == "", f"connect test --record {connector.name}"


@pytest.mark.parametrize("file", BUNDLED, ids=[f"{file.parent.name}/{file.stem}" for file in BUNDLED])
def test_no_cassette_holds_a_secret_and_each_says_from_what_it_was_recorded(file: Path) -> None:
    connector, text = PROJECT.connector(file.parent.name), file.read_text(encoding="utf-8")
    secrets = {secret for one in connector.examples for secret in secrets_of(connector, one).values()}
    masker = Masker(secrets)
    assert [one for one in [text, *texts(yaml.safe_load(text))] if masker.mask(one) != one] == []
    assert re.findall(r"sandbox-\w+-\w+|eyJ[\w-]{8,}", text) == []
    first = text.partition("\n")[0]
    assert re.fullmatch(
        rf"recorded_from: '(SIMULATED: the sandbox of connector {connector.name}|VENDOR: .+), \d{{4}}-\d\d-\d\d'", first
    )


# --- recording ---

SECRET, PASSWORD, KEY = "usu/ário & Cia", 'p"ass+wörd\\9', "app-key-0123456789"

SECRETIVE = f"""
secrets: {{user: {{title: User}}, password: {{title: Password}}, app: {{title: App}}}}
receive: {{client: "${{ event.client }}"}}
auth:
  token:
    request:
      url: https://api.crm.example/v1/login
      form: {{user: "${{ secrets.user }}", password: "${{ secrets.password }}", key: "${{ secrets.app }}"}}
    save: {{value: "${{ response.body.session }}"}}
    expires: {{after: 1h}}
  place:
    headers: {{Authorization: "Bearer {{{{ token.value }}}}", X-Half: "{{{{ secrets.app | slice(0, 3) }}}}"}}
    query: {{app: "${{ secrets.app }}"}}
    json: {{sig: "{{{{ secrets.password | sha256 }}}}"}}
actions:
  note:
    record: {{id: "${{ event.id }}", text: "${{ event.text }}"}}
    request: {{path: /notes, json: "${{ record }}"}}
examples:
  - name: a note is taken
    events: [{{client: shop, id: '1', text: olá}}]
    outcomes: {{note: [delivered]}}
sandbox:
  secrets: {{user: {json.dumps(SECRET)}, password: {json.dumps(PASSWORD)}, app: {KEY}}}
  tokens:
    session: {{accept: "${{ regex(request.headers.authorization, '^Bearer (.+)$', `1`) }}"}}
  routes:
    - path: /v1/login
      remember: {{key: password, value: "${{ request.form.password }}"}}
      reply:
        headers: {{Set-Cookie: "SID=abc123secret; Path=/"}}
        body:
          session: "${{ issue('session') }}"
          refresh_token: never-saved-refresh
          id_token: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln
          token_type: Bearer
          you: "${{ request.form.user }}"
          basic: "${{ base64(join([request.form.user, request.form.password], ':')) }}"
    - path: /v1/notes
      token: session
      reply:
        headers: {{X-Echo: "${{ request.headers.authorization }}", X-Rate-Left: '99'}}
        body:
          ok: true
          echoed: "${{ recall('password') }}"
          ticket: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln
          sent: "${{ request.headers.authorization }}"
"""


def written(tmp_path: Path, connector: types.Connector, **options: Any) -> Path:
    """The cassette of the first example, recorded and kept."""
    file = files_of(tmp_path, connector)[0]
    keep(file, record(connector, connector.examples[0], clock=TODAY, **options).text)
    return file


def test_requests_and_replies_are_scrubbed_of_secrets_and_tokens_in_every_form(tmp_path: Path) -> None:
    connector = connector_from(SECRETIVE)
    file = written(tmp_path, connector)
    text = file.read_text(encoding="utf-8")
    found = [*texts(yaml.safe_load(text)), text]
    forms = {
        form
        for secret in (SECRET, PASSWORD, KEY)
        for form in (
            secret,
            quote(secret, safe=""),
            quote_plus(secret),
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            base64.b64encode(secret.encode()).decode(),
        )
    }
    forms |= {"sandbox-session-1", "never-saved-refresh", "eyJ", "abc123secret", "app", KEY[:3]} - {"app"}
    forms.add(base64.b64encode(f"{SECRET}:{PASSWORD}".encode()).decode()[4:-4])
    assert [(form, one) for one in found for form in forms if form != KEY[:3] and form in one] == []
    login, note = yaml.safe_load(text)["interactions"]
    assert login["request"]["uri"] == "https://api.crm.example/v1/login"
    assert login["request"]["body"] == "user=scrubbed&password=scrubbed&key=scrubbed"
    body = json.loads(login["response"]["body"]["string"])
    assert (body["session"], body["refresh_token"], body["id_token"], body["you"]) == ("scrubbed",) * 4
    assert body["token_type"] == "Bearer"
    assert login["response"]["headers"]["set-cookie"] == ["SID=scrubbed; Path=/"]
    assert note["request"]["uri"] == "https://api.crm.example/v1/notes?app=scrubbed"
    assert note["request"]["headers"] == {
        "authorization": ["scrubbed"],
        "content-type": ["application/json"],
        "x-half": ["scrubbed"],
    }
    assert json.loads(note["request"]["body"]) == {"id": "1", "text": "olá", "sig": "scrubbed"}
    assert json.loads(note["response"]["body"]["string"]) == {
        "ok": True,
        "echoed": "scrubbed",
        "ticket": "scrubbed",
        "sent": "Bearer scrubbed",
    }
    assert note["response"]["headers"]["x-echo"] == ["Bearer scrubbed"]
    assert note["response"]["headers"]["x-rate-left"] == ["99"]
    assert play(connector, file) == ""


def test_the_first_lines_say_from_what_when_and_what_became_of_the_events(tmp_path: Path) -> None:
    file = written(tmp_path, connector_from(SECRETIVE))
    assert file.relative_to(tmp_path) == Path("tests/cassettes/crm/a-note-is-taken.yaml")
    assert file.read_text(encoding="utf-8").splitlines()[:8] == [
        "recorded_from: 'SIMULATED: the sandbox of connector crm, 2026-09-21'",
        "connector: crm",
        "example: a note is taken",
        "started_at: 1769596245.0",
        "outcomes:",
        "  note:",
        "  - delivered",
        "version: 1",
    ]


def test_a_cassette_that_would_hold_a_secret_is_not_written() -> None:
    connector = connector_from(SECRETIVE)
    client = client_of(connector, connector.examples[0])
    scrubber = Scrubber(Keeping(["hush-hush"]), Program(connector, client, client.connectors["crm"]))
    scrubber.require_clean("a: quiet\n", {})
    for text in ("a: hush-hush\n", 'a: "hush\\x2dhush"\n', "hush-hush: b\n", "a: [{b: aHVzaC1odXNo}]\n"):
        with pytest.raises(ConnectError, match=r"^the cassette would hold a token, so it was not written$"):
            scrubber.require_clean(text, {"app": "something else"})
    named = connector_from(SECRETIVE.replace("a note is taken", f"a note with {KEY} is taken"))
    with pytest.raises(ConnectError, match=r"^the cassette would hold the secret app, so it was not written$"):
        record(named, named.examples[0], clock=TODAY)


def test_no_token_of_a_run_is_forgotten_however_many_there_were() -> None:
    masker = Keeping()
    for number in range(10, 30):
        masker.renew("crm/abc/default", f"token-{number}")
    assert masker.mask("token-10 token-20 token-29 token-30") == "*** *** *** token-30"


def test_what_stands_at_via_is_recorded_and_said(tmp_path: Path) -> None:
    connector = connector_from(SECRETIVE)
    with served(Sandbox(connector), TODAY.now) as address:
        file = written(tmp_path, connector, via=address)
    assert file.read_text().startswith(f"recorded_from: 'SIMULATED: {address} for the vendor, 2026-09-21'\n")
    assert play(connector, file) == ""


def test_nothing_is_recorded_of_an_endpoint_that_does_not_answer() -> None:
    connector = connector_from(SECRETIVE)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(Unlike, match=r"^exchange 1, POST /v1/login: no connection to api\.crm\.example by way of"):
        record(connector, connector.examples[0], clock=TODAY, via=address)


def test_without_a_sandbox_an_address_or_the_vendor_is_asked_for() -> None:
    connector = connector_from(SECRETIVE.partition("sandbox:")[0])
    with pytest.raises(UsageError, match=r"^crm has no sandbox; give --via URL, or --vendor --client NAME$"):
        record(connector, connector.examples[0], clock=TODAY)


SIGNED = """
secrets: {key: {title: Key}, app: {title: App}}
receive: {client: "${ event.client }"}
auth:
  sign:
    me: {type: jwt, algorithm: HS256, key: "${ secrets.key }", claims: {iss: me, jti: "${ nonce }"}, lifetime: 5m}
    all: {type: hmac, algorithm: sha256, key: "${ secrets.key }", text: "{{ now }}{{ request.body }}"}
  token:
    request:
      url: https://api.crm.example/v1/login
      form: {assertion: "${ sign.me }", nonce: "${ nonce }", app: "${ secrets.app }"}
    save: {value: "${ response.body.session }"}
    expires: {after: 1h}
  place:
    headers: {Authorization: "Bearer {{ token.value }}"}
    query: {at: "${ now }", nonce: "${ nonce }", sig: "${ sign.all }"}
actions:
  note: {record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}
examples:
  - {name: signed, events: [{client: shop, id: '1'}], outcomes: {note: [delivered]}}
sandbox:
  secrets: {key: a shared key of thirty-two bytes!, app: app-1}
  tokens: {session: {accept: "${ regex(request.headers.authorization, '^Bearer (.+)$', `1`) }"}}
  routes:
    - {path: /v1/login, reply: {body: {session: "${ issue('session') }"}}}
    - {path: /v1/notes, token: session, reply: {body: {sent: "${ request.query.sig }"}}}
"""


def test_signatures_and_what_changes_with_them_are_kept_out_and_make_no_difference(tmp_path: Path) -> None:
    from conftest import client_from

    connector = connector_from(SIGNED)
    secrets = "{key: 'env:K', app: 'env:A'}"
    client = client_from(f"{{client: loja, connectors: {{crm: {{secrets: {secrets}}}}}}}")
    account = Account(client, lambda _: {"key": "the real key of the client's account", "app": "app-1"})
    with served(Sandbox(connector), TODAY.now) as address:
        transport, clock = HttpTransport(address), VirtualClock(TODAY.now() + 77)
        text = film(connector, connector.examples[0], transport, str, clock=clock, account=account).text
    login, note = yaml.safe_load(text)["interactions"]
    assert login["request"]["body"] == "assertion=scrubbed&nonce=scrubbed&app=scrubbed"
    assert note["request"]["uri"] == "https://api.crm.example/v1/notes?at=scrubbed&nonce=scrubbed&sig=scrubbed"
    assert note["response"]["body"]["string"] == '{"sent":"scrubbed"}'
    file = files_of(tmp_path, connector)[0]
    keep(file, text)
    replay(connector, connector.examples[0], file, client=lambda _: client)


def test_an_address_that_a_key_hides_is_kept_without_that_part(tmp_path: Path) -> None:
    from conftest import client_from

    connector = connector_from("""
hosts: ['*.crm.example']
secrets: {key: {title: Key}}
receive: {client: "${ event.client }"}
derive: {center: "${ last(split(secrets.key, '-')) }"}
auth: {type: bearer, token: "${ secrets.key }"}
http: {base_url: 'https://{{ derived.center }}.crm.example/v1'}
actions:
  note: {record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}
examples:
  - {name: hidden, events: [{client: shop, id: '1'}], outcomes: {note: [delivered]}}
sandbox:
  secrets: {key: made-up-us10}
  routes: [{path: "/{rest*}", reply: {body: {}}}]
""")
    client = client_from("{client: loja, connectors: {crm: {secrets: {key: 'env:K'}}}}")
    account = Account(client, lambda _: {"key": "the-real-one-us21"})
    with served(Sandbox(connector), TODAY.now) as address:
        transport, clock = HttpTransport(address), VirtualClock(TODAY.now())
        text = film(connector, connector.examples[0], transport, str, clock=clock, account=account).text
    assert text.startswith("recorded_from: scrubbed.crm.example\n")
    assert "us21" not in text
    file = files_of(tmp_path, connector)[0]
    keep(file, text)
    replay(connector, connector.examples[0], file, client=lambda _: client)


def test_of_a_real_account_a_secret_too_short_to_be_found_is_refused() -> None:
    from conftest import client_from

    connector = connector_from(SIGNED)
    client = client_from("{client: loja, connectors: {crm: {secrets: {key: 'env:K', app: 'env:A'}}}}")
    account = Account(client, lambda _: {"key": "long enough", "app": "abc"})
    says = r"^the secret app is too short to be found in a cassette; it has to have four characters$"
    with pytest.raises(UsageError, match=says):
        record(connector, connector.examples[0], clock=TODAY, account=account)


class Packed(BaseHTTPRequestHandler):
    """A vendor that compresses its replies, and echoes what it was sent."""

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"]))
        body = gzip.compress(json.dumps({"session": "tok-0123456789", "you": sent.decode()}).encode())
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


def test_a_compressed_reply_is_kept_as_text_without_its_secrets(tmp_path: Path) -> None:
    connector = connector_from(SECRETIVE)
    with ThreadingHTTPServer(("127.0.0.1", 0), Packed) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            file = written(tmp_path, connector, via=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
    login = yaml.safe_load(file.read_text())["interactions"][0]["response"]
    assert login["headers"] == {"content-type": ["application/json"]}
    assert json.loads(login["body"]["string"]) == {
        "session": "scrubbed",
        "you": "user=scrubbed&password=scrubbed&key=scrubbed",
    }
    assert play(connector, file) == ""


BUSY = """
receive: {client: "${ event.client }"}
actions:
  note:
    batch: {records: 10, wait: 20m}
    record: {id: "${ event.id }"}
    request: {path: /notes, headers: {X-Batch: "${ delivery.id }"}, json: {all: "${ batch.records }"}}
examples:
  - name: the first two are busy
    events: [{client: shop, id: '1'}, {client: shop, id: '2'}]
    outcomes: {note: [delivered, delivered]}
sandbox:
  routes:
    - {path: /v1/notes, when: "${ count('x') <= `2` }", reply: {status: 503, headers: {Retry-After: '120'}}}
    - {path: /v1/notes, reply: {body: {ok: true}}}
"""


def test_batches_and_waits_take_no_time_and_are_the_same_each_time(tmp_path: Path) -> None:
    connector = connector_from(BUSY)
    file = written(tmp_path, connector)
    first = file.read_text()
    found = yaml.safe_load(first)
    assert [one["response"]["status"]["code"] for one in found["interactions"]] == [503, 503, 200]
    assert [one["request"]["headers"]["x-batch"] for one in found["interactions"]] == [["b1"], ["b2"], ["b3"]]
    assert written(tmp_path, connector).read_text() == first
    assert play(connector, file) == ""


def test_what_would_be_sent_more_than_an_hour_later_waits(tmp_path: Path) -> None:
    connector = connector_from(BUSY.replace("'120'", "'7200'"))
    file = written(tmp_path, connector)
    assert yaml.safe_load(file.read_text())["outcomes"] == {"note": ["waiting", "waiting"]}
    assert play(connector, file) == ""


def test_only_the_date_changed_is_no_reason_to_write(tmp_path: Path) -> None:
    connector = connector_from(BUSY)
    file = written(tmp_path, connector)
    before = file.read_text()
    keep(file, before.replace("2026-09-21", "2027-01-01"))
    assert file.read_text() == before
    keep(file, before.replace("the sandbox of connector crm", "http://127.0.0.1:1 for the vendor"))
    assert file.read_text() != before


# --- with a client's account ---

VENDOR_CLIENT = """
{client: loja, connectors: {crm: {settings: {list: REAL}, secrets: {user: 'env:U', password: 'env:P', app: 'env:A'}}}}
"""
WITH_LIST = (
    SECRETIVE.replace("path: /notes,", 'path: "/notes/{{ settings.list }}",')
    .replace("path: /v1/notes", "path: /v1/notes/{list}")
    .replace("secrets: {user: {title", "settings: {properties: {list: {type: string}}}\nsecrets: {user: {title", 1)
    .replace("  - name: a note is taken", "  - name: a note is taken\n    client: {settings: {list: MADE-UP}}")
)


def from_vendor(connector: types.Connector, client: types.Client) -> str:
    """As from the vendor, whose part a sandbox of the real secrets plays: real bytes, a clock that is not moved."""
    account = Account(client, lambda _: {"user": SECRET, "password": PASSWORD, "app": KEY})
    with served(Sandbox(connector), TODAY.now) as address:
        clock = VirtualClock(TODAY.now())
        transport, example = HttpTransport(address), connector.examples[0]
        return film(connector, example, transport, "VENDOR: {}".format, clock=clock, account=account).text


def test_a_client_s_account_is_used_with_its_settings_and_played_without_its_secrets(tmp_path: Path) -> None:
    from conftest import client_from

    client = client_from(VENDOR_CLIENT)
    text = from_vendor(connector_from(WITH_LIST), client)
    assert [secret for secret in (SECRET, PASSWORD, KEY) for one in texts(yaml.safe_load(text)) if secret in one] == []
    head = text.partition("version:")[0]
    assert "client: loja\n" in head
    assert head.startswith("recorded_from: 'VENDOR: api.crm.example'\n")
    assert "uri: https://api.crm.example/v1/notes/REAL?app=scrubbed\n" in text
    others = WITH_LIST.replace(json.dumps(SECRET), "someone").replace(json.dumps(PASSWORD), "other-word")
    connector = connector_from(others)  # at replay only made-up secrets are known
    file = files_of(tmp_path, connector)[0]
    keep(file, text)
    replay(connector, connector.examples[0], file, client=lambda _: client)
    assert play(connector, file) == "it was recorded with the client loja, who does not use crm here"


# --- what a stale cassette says ---

PLAIN = """
receive: {client: "${ event.client }"}
actions:
  note:
    record: {id: "${ event.id }", text: "${ event.text }"}
    request: {path: /notes, query: {from: web}, json: "${ record }"}
examples:
  - name: one note
    events: [{client: shop, id: '1', text: olá}]
    outcomes: {note: [delivered]}
sandbox:
  routes:
    - {path: "/{rest*}", reply: {body: {ok: true}}}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("path: /notes", "method: PUT, path: /notes", 'exchange 1: method is "PUT", the cassette says "POST"'),
        ("path: /notes", "path: /posts", 'exchange 1: path is "/v1/posts", the cassette says "/v1/notes"'),
        ("path: /notes", "url: 'https://api2.crm.example/v1/notes'",
         'exchange 1: host is "api2.crm.example", the cassette says "api.crm.example"'),
        ("from: web", "from: app", 'exchange 1: query.from is "app", the cassette says "web"'),
        ("from: web", "from: web, more: x", 'exchange 1: query.more is "x", the cassette does not have it'),
        ("text: \"${ event.text }\"", "text: bye", 'exchange 1: json.text is "bye", the cassette says "olá"'),
        (", text: \"${ event.text }\"", "", 'exchange 1: json.text is missing, the cassette says "olá"'),
        ("json: \"${ record }\"", "form: {id: \"${ record.id }\"}",
         'exchange 1: body is "id=1", the cassette says "{\\"id\\":\\"1\\",\\"text\\":\\"olá\\"}"'),
        ("json: \"${ record }\"", "json: \"${ record }\", expect: \"${ response.body.id }\"",
         'one request more than was recorded: POST /v1/notes {"id":"1","text":"olá"}'),
        ("actions:", "replies: {outcomes: [{status: 200, then: reject}]}\nactions:",
         'outcomes.note[0] is "rejected", the cassette says "delivered"'),
        ("    record:", "    when: ${ event.never }\n    record:", "exchange 1 was never sent: POST /v1/notes"),
        ("name: one note", "name: ONE note", 'it is the cassette of crm, "one note"'),
    ],
)  # fmt: skip
def test_a_stale_cassette_says_what_differs(tmp_path: Path, old: str, new: str, says: str) -> None:
    hosts = "hosts: [api.crm.example, api2.crm.example]"
    file = written(tmp_path, connector_from(f"{hosts}\n{PLAIN}"))
    assert old in PLAIN
    changed = connector_from(f"{hosts}\n{PLAIN.replace(old, new, 1)}")
    assert play(changed, file) == says


def test_a_cassette_that_is_missing_or_broken_says_so(tmp_path: Path) -> None:
    connector = connector_from(PLAIN)
    file = files_of(tmp_path, connector)[0]
    assert play(connector, file) == "there is no cassette"
    whole = written(tmp_path, connector).read_text()
    for text, says in (
        ("", "the cassette can't be read: it has no interactions"),
        ("interactions: [", "the cassette can't be read: while parsing a flow node"),
        ("[1]", "the cassette can't be read: it has no interactions"),
        ("interactions: []", "the cassette can't be read: Object missing required field `recorded_from`"),
        (whole.replace("example: one note", "example: 1"), "the cassette can't be read: Expected `str`, got `int`"),
        (whole.replace("  response:", "  replies:"), "the cassette can't be read: 'response'"),
        (whole.replace('\'{"id"', '!!python/object:os.system \'{"id"'), "the cassette can't be read: "),
    ):
        file.write_text(text)
        assert play(connector, file).startswith(says), text
    file.write_bytes(b"\xff\xfe")
    assert play(connector, file).startswith("the cassette can't be read: 'utf-8' codec can't decode")


# --- names ---


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("A view becomes a conversion", "a-view-becomes-a-conversion"),
        ("São Paulo: às 10h, 50% off!", "sao-paulo-as-10h-50-off"),
        ("../../etc/passwd", "etc-passwd"),
        ("日本", "example"),
        ("one two three four five six seven eight nine ten", "one-two-three-four-five-six-seven-eight"),
        ("x" * 90, "x" * 40),
    ],
)
def test_a_file_is_named_after_the_example(name: str, file: str) -> None:
    assert slug(name) == file


def test_examples_of_one_name_have_cassettes_of_their_own_and_others_are_strangers(tmp_path: Path) -> None:
    twice = PLAIN.replace("sandbox:", PLAIN.partition("examples:\n")[2].partition("sandbox:")[0] + "sandbox:")
    connector = connector_from(twice)
    files = files_of(tmp_path, connector)
    assert [file.name for file in files] == ["one-note.yaml", "one-note-2.yaml"]
    for file in (*files, files[0].with_name("old.yaml")):
        keep(file, "recorded_from: x\n")
    keep(files[0].with_name("other.yaml"), "x: 1\n")
    assert strangers(tmp_path, connector) == [files[0].with_name("old.yaml")]


# --- the command ---


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def test_the_command_records_and_replays_and_says_how_to_record_again(home: Path) -> None:
    first = connect("test", "--replay", "rdstation", "-k", "a product view becomes", project=home)
    assert (first.code, first.err) == (1, "")
    assert first.out.splitlines()[1:] == [
        "  tests/cassettes/rdstation/a-product-view-becomes-a-conversion.yaml: there is",
        "  no cassette; record it: connect test --record rdstation",
        "0 passed, 1 failed",
    ]
    done = connect("test", "--record", "rdstation", "-k", "a product view becomes", project=home)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "tests/cassettes/rdstation/a-product-view-becomes-a-conversion.yaml: 1 exchange;",
        "  send_conversion delivered",
        "1 recorded, 0 failed",
    ]
    again = connect("test", "--replay", "rdstation", "-k", "a product view becomes", project=home)
    assert (again.code, again.out) == (0, "1 passed, 0 failed\n")
    connector = home / "connectors" / "rdstation.yaml"
    connector.write_text(connector.read_text().replace("CONVERSION", "OTHER"))
    stale = connect("test", "--replay", "rdstation", "-k", "a product view becomes", "--json", project=home)
    message = stale.json["examples"][0]["message"]
    assert stale.code == 1
    assert message == (
        "tests/cassettes/rdstation/a-product-view-becomes-a-conversion.yaml: exchange 1: json.event_type is "
        '"OTHER", the cassette says "CONVERSION"; if that is as it should be, record it again: '
        "connect test --record rdstation"
    )


def test_recording_all_of_a_connector_removes_cassettes_of_no_example(home: Path) -> None:
    folder = home / "tests" / "cassettes" / "rdstation"
    folder.mkdir(parents=True)
    (folder / "old.yaml").write_text("recorded_from: x\n")
    (folder / "mine.yaml").write_text("x: 1\n")
    named = connect("test", "--record", "rdstation", "-k", "a product view becomes", project=home)
    stays = "tests/cassettes/rdstation/old.yaml: no example of rdstation has this cassette;"
    assert named.out.splitlines()[-2:] == [stays, "  delete it"]
    whole = connect("test", "--record", "rdstation", project=home)
    assert whole.out.splitlines()[-2:] == [stays, "  removed"]
    assert not (folder / "old.yaml").exists()
    assert (folder / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--record", "--replay"], "--record or --replay, not both"),
        (["--replay", "--coverage"], "--coverage and --min go with the examples, not with --record or --replay"),
        (["--vendor", "--client", "client-xyz"], "--via and --vendor go with --record"),
        (["--via", "http://127.0.0.1:1"], "--via and --vendor go with --record"),
        (["--record", "--vendor"],
         "--vendor and --client NAME go together: the client's account at the vendor is used"),
        (["--record", "--client", "client-xyz"],
         "--vendor and --client NAME go together: the client's account at the vendor is used"),
        (["--record", "--via", "http://example.com"], "--via http://example.com: only this machine, such as "
         "http://127.0.0.1:8090"),
        (["--record", "--vendor", "--client", "client-abc", "rdstation"],
         "client-abc has no connector rdstation; it has responsys"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_wrong_use(home: Path, args: list[str], says: str) -> None:
    ended = connect("test", *args, project=home)
    assert (ended.code, ended.out, ended.err) == (2, "", f"connect: {says}\n")


def test_the_vendor_is_not_asked_without_the_client_s_secrets(home: Path) -> None:
    ended = connect(
        "test", "--record", "--vendor", "--client", "client-xyz", "rdstation", "-k", "a product view", project=home
    )
    assert ended.code == 1
    assert "env:XYZ_RDSTATION_TOKEN: set the environment variable XYZ_RDSTATION_TOKEN" in " ".join(ended.out.split())
    assert not (home / "tests").exists()
