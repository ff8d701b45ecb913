"""The tag: what `connect tag` writes, and what it does in a real browser on a shop's page, up to the simulated CRM."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from command import ROOT, SECRETS, Running, connect, make_project, soon

from engine.errors import UsageError
from engine.http import Prepared
from engine.sandbox import Sandbox, answer
from engine.spec.project import Project
from engine.tagging.script import script
from engine.tagging.settings import Tag, literal, tag_for
from engine.tagging.snippet import inside, policy, snippet
from engine.tagging.template import template

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ADDRESS = "https://events.example.com"
MOST = 3 * 1024  # bytes of the snippet


def tag(connector: str, client: str, **how: Any) -> Tag:
    project = Project(ROOT)
    return tag_for(project.connector(connector), project.client(client), **{"address": ADDRESS, **how})


EVERY = [(name, client.client) for client in Project(ROOT).all()[1].values() for name in client.connectors]


# What is written


@pytest.mark.parametrize(("connector", "client"), EVERY, ids=lambda part: part)
def test_the_snippet_is_under_3_kb_and_has_nothing_that_ends_a_script(connector: str, client: str) -> None:
    text = snippet(tag(connector, client).settings)
    assert (len(text.encode()) < MOST, len(gzip.compress(text.encode())) < 1800) == (True, True)
    assert re.findall(r"<[!/]\w*|<script", text) == ["<script", "</script"]
    assert "eval" not in text
    assert "http://" not in text


def test_the_settings_say_where_whose_and_what() -> None:
    found = tag("rdstation", "client-xyz")
    assert found.settings.as_json() == {
        "url": "https://events.example.com/rdstation?key=WRITE-KEY",
        "layer": "dataLayer",
        "consent": ["ad_storage", "analytics_storage"],
        "events": [
            "product_view", "category_view", "search", "add_to_cart", "remove_from_cart", "begin_checkout",
            "cart_abandoned", "purchase",
        ],
        "only": "eventId tid email eventType timestamp product items sessionId url query orderId cartId total currency "
        "consent id name price quantity brand category variant image marketing analytics source",
        "id": "eventId",
        "email": 1,
        "set": {"tid": "GA4.123456789.987654321"},
    }  # fmt: skip
    assert (found.origins, found.warnings, found.unwanted) == (("https://www.loja-xyz.example",), (), ())


def test_events_that_no_action_wants_are_not_sent() -> None:
    found = tag("responsys", "client-abc")
    assert found.unwanted == ("remove_from_cart", "begin_checkout")
    assert not set(found.unwanted) & set(found.settings.events)


OWN = """
connect: 1
name: acme
title: Acme
hosts: [api.acme.example]
receive:
  client: {client}
  {id}
  schema:
    type: object
    additionalProperties: false
    required: [email, eventType, tenant, loyalty]
    properties: {{email: {{type: string}}, eventType: {{enum: [purchase]}}, tenant: {{}}, loyalty: {{}}, who: {{}},
                  product: {{$ref: '#/$defs/thing'}}}}
    $defs:
      thing:
        {{type: object, additionalProperties: false, required: [id, margin], properties: {{id: {{}}, margin: {{}}}}}}
actions:
  note: {{record: {{}}, request: {{url: 'https://api.acme.example/n', json: '${{ record }}'}}}}
"""


def acme(folder: Path, *, client: str = "${ event.tenant }", id: str = "", **ingest: Any) -> Tag:
    for part in ("connectors", "clients"):
        (folder / part).mkdir()
    (folder / "connectors/acme.yaml").write_text(OWN.format(client=client, id=id))
    (folder / "clients/shop.yaml").write_text(
        json.dumps({"client": "shop", "ingest": ingest, "connectors": {"acme": {}}})
    )
    project = Project(folder)
    return tag_for(project.connector("acme"), project.client("shop"), address=ADDRESS)


def test_what_the_tag_cannot_give_is_told(tmp_path: Path) -> None:
    found = acme(tmp_path)
    assert found.warnings == (
        "no page may send for shop, and browsers are refused: add the shop's address to its file, "
        "`ingest: {origins: ['https://www.shop.example']}`",
        "acme has no `receive.id` that is a plain field: an event that is sent twice counts twice",
        "the connector wants `loyalty`, which no data-layer event has: let the page push it, and add it to `only`",
        "the connector wants `product.margin`, which no item of an e-commerce event has",
    )
    assert found.settings.only == ("tenant", "email", "eventType", "product", "id")
    assert (found.settings.key, found.settings.set, found.settings.events) == (None, {"tenant": "shop"}, ("purchase",))


def test_a_client_that_is_read_in_another_way_is_told(tmp_path: Path) -> None:
    found = acme(tmp_path, client="${ lower(event.who) }", origins=["https://a.example"], signatures=["env:S"])
    assert found.warnings[:2] == (
        "shop signs its events, which a page can't: give it a write key, `ingest.keys`",
        "`receive.client` is no plain field of the event: put what it reads into `set` of the settings",
    )


@pytest.mark.parametrize(
    "url", ["events.example.com", "ftp://x", "https://", "https://x/?a", "https://x y", "http://[", ""]
)
def test_a_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"it is the address of the door, such as https://events\.example\.com"):
        tag("responsys", "client-abc", address=url)


def test_a_value_cannot_leave_the_script() -> None:
    assert literal({"a": "</script><!--&\u2028é", "b-c": 1}) == (
        '{a:"\\u003c/script\\u003e\\u003c!--\\u0026\\u2028\\u00e9","b-c":1}'
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def test_the_command_writes_the_snippet_and_says_what_is_to_be_done(home: Path) -> None:
    done = connect("tag", "responsys", "--nonce", 'r"1', project=home)
    assert done.code == 0
    assert done.out.startswith('<script nonce="r&quot;1">(')
    assert done.out.endswith("}])</script>\n")
    assert done.err.splitlines() == [
        "not sent, for no action wants them: remove_from_cart, begin_checkout",
        "put the client's write key into WRITE-KEY (or use --show-key); it is public, as the page is",
        "a Content-Security-Policy needs: connect-src https://events.example.com; "
        "script-src a nonce (--nonce), or the digest that --show-key tells",
    ]


def test_the_key_is_written_only_when_it_is_asked_for(home: Path) -> None:
    with_key = connect("tag", "responsys", "--show-key", "--consent", "none", project=home, **SECRETS)
    shown = tag("responsys", "client-abc", key="key-of-abc", consent=()).settings
    assert with_key.out == snippet(shown)
    assert policy(shown)["script-src"] in with_key.err
    assert connect("tag", "responsys", "--show-key", project=home).code == 1  # it can't be read here
    assert "key-of-abc" not in connect("tag", "responsys", project=home, **SECRETS).out


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["tag", "respnsys"], 'no connector is called respnsys; did you mean "responsys"?'),
        (["tag", "responsys", "--client", "nobody"], "no client is called nobody"),
        (
            ["tag", "responsys", "--client", "client-xyz"],
            "client-xyz does not have responsys; its connectors are rdstation",
        ),
        (["tag", "responsys", "--consent", "Ad storage"], "--consent 'Ad storage': types of Google's consent mode"),
        (["tag", "responsys", "--url", "nowhere"], "--url 'nowhere': it is the address of the door"),
    ],
)
def test_wrong_use_is_told_in_a_line(home: Path, args: list[str], told: str) -> None:
    done = connect(*args, project=home)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


def test_a_file_and_a_page(home: Path) -> None:
    done = connect("tag", "rdstation", "--format", "page", "--out", "tag.md", project=home)
    text = (home / "tag.md").read_text()
    assert (done.code, done.out) == (0, f"tag.md: written, {len(text.encode())} bytes\n")
    assert "| `tid` | always `GA4.123456789.987654321` |" in text
    assert "| `view_item`, `product_view` | `product_view` |" in text
    assert "curl https://events.example.com/rdstation" in text


def test_tag_manager_is_told_that_it_needs_https(home: Path) -> None:
    done = connect("tag", "rdstation", "--format", "gtm", "--url", "http://127.0.0.1:8080", project=home)
    assert "warning: Tag Manager loads scripts over https only; give the public address with --url" in done.err


# The template, run with a stand-in of Tag Manager: its `require`, its permissions and its test functions


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^___(\w+)___\n", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


STAND_IN = """
const {sections, scenario} = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const same = (one, other) => require('util').isDeepStrictEqual(one, other);
const mocked = {}, called = [];
const allowed = JSON.parse(sections.WEB_PERMISSIONS).map(each => each.instance.key.publicId);
const needs = {createQueue: 'access_globals', injectScript: 'inject_script', isConsentGranted: 'access_consent',
  addConsentListener: 'access_consent', encodeUriComponent: null};
const real = {encodeUriComponent: encodeURIComponent};
function load(name) {
  if (!(name in needs)) throw Error('no such API: ' + name);
  if (needs[name] && !allowed.includes(needs[name])) throw Error('not permitted: ' + name);
  return mocked[name] || real[name];
}
const fail = (...what) => { throw Error(JSON.stringify(what)); };
const assertThat = value => ({isEqualTo: other => same(value, other) || fail(value, other)});
const assertApi = name => ({wasCalled() { if (!called.includes(name)) throw Error(name + ' was not called'); }});
const mock = (name, value) => { mocked[name] = value; };
const runCode = given => new Function('require', 'data', sections.SANDBOXED_JS_FOR_WEB_TEMPLATE)(load, {...given,
  gtmOnSuccess: () => called.push('gtmOnSuccess'), gtmOnFailure: () => called.push('gtmOnFailure')});
const test = sections.TESTS_DATA.scenarios[scenario];
new Function('mock', 'runCode', 'assertThat', 'assertApi', sections.TESTS_DATA.setup + '\\n' + test.code)(
  mock, runCode, assertThat, assertApi);
console.log('passed');
"""


def node() -> str:
    from playwright._impl._driver import compute_driver_executable

    return shutil.which("node") or str(compute_driver_executable()[0])


@pytest.mark.parametrize("scenario", [0, 1, 2])
@pytest.mark.parametrize(("connector", "client"), [("responsys", "client-abc"), ("rdstation", "client-xyz")])
def test_the_templates_own_tests_pass(connector: str, client: str, scenario: int) -> None:
    parts: dict[str, Any] = sections(template(tag(connector, client).settings))
    parts["TESTS_DATA"] = yaml.safe_load(parts["TESTS"])
    done = subprocess.run(
        [node(), "-e", STAND_IN],
        input=json.dumps({"sections": parts, "scenario": scenario}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr[-600:]) == ("passed\n", "")


def test_the_template_has_its_parts_in_their_order_and_may_load_one_script_only() -> None:
    parts = sections(template(tag("responsys", "client-abc").settings))
    assert list(parts) == [
        "TERMS_OF_SERVICE", "INFO", "TEMPLATE_PARAMETERS", "SANDBOXED_JS_FOR_WEB_TEMPLATE", "WEB_PERMISSIONS", "TESTS",
        "NOTES",
    ]  # fmt: skip
    fields = {each["name"]: each["defaultValue"] for each in json.loads(parts["TEMPLATE_PARAMETERS"])}
    assert fields == {"key": "", "client": "client-abc", "email": "", "layer": "dataLayer"}
    permissions = {
        each["instance"]["key"]["publicId"]: each["instance"]["param"] for each in json.loads(parts["WEB_PERMISSIONS"])
    }
    assert list(permissions) == ["access_globals", "inject_script", "access_consent"]
    assert permissions["inject_script"] == [
        {"key": "urls", "value": {"type": 2, "listItem": [{"type": 1, "string": "https://events.example.com/tag.js"}]}}
    ]


# In a browser


class Server(ThreadingHTTPServer):
    """Quiet, in a thread of its own."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class House:
    """A shop on one origin, `connect serve` on another, the simulated Responsys behind it, and what came there."""

    def __init__(self, folder: Path) -> None:
        house = self
        self.came: list[dict[str, str]] = []  # each record's fields, as Responsys was sent them
        self.pages: dict[str, str] = {}
        project = make_project(folder)
        sandbox = Sandbox(Project(project).connector("responsys"))

        class Vendor(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                url = f"https://{self.headers['host']}{self.path}"
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = answer([sandbox], Prepared("POST", url, headers, body, 0.0), time.time())
                if "/events/" in self.path and reply.status == 200:
                    for one in json.loads(body)["recipientData"]:
                        data = {each["name"]: each["value"] for each in one["optionalData"]}
                        house.came.append({"email": one["recipient"]["emailAddress"], **data})
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.content)))
                self.end_headers()
                self.wfile.write(reply.content)

            def log_message(self, *_: object) -> None:
                return

        class Shop(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = house.pages.get(self.path.partition("?")[0], "").encode()
                self.send_response(200)
                scripts = f"script-src 'nonce-n1' {house.door}/tag.js"
                policy = f"default-src 'none'; img-src data:; {scripts}; connect-src {house.door}"
                self.send_header("content-security-policy", policy)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                return

        self.vendor, self.shop = Server(Vendor), Server(Shop)
        abc = project / "clients" / "client-abc.yaml"
        abc.write_text(abc.read_text().replace("https://www.loja-abc.example", self.shop.address))
        self.project = Project(project)
        self.serve = Running("serve", "--port", "0", "--via", self.vendor.address, project=project, **SECRETS)
        said = self.serve.lines_until("Tokens are")
        self.door = said[0].removeprefix("Events: ").partition("/{")[0]
        self.pages["/elsewhere"] = "<!doctype html><title>elsewhere</title><link rel=icon href=data:,>"

    def tag(self, **how: Any) -> Tag:
        project = self.project
        given = {"address": self.door, "key": "key-of-abc", **how}
        return tag_for(project.connector("responsys"), project.client("client-abc"), **given)

    def page(self, path: str, *, before: str = "", code: str | None = None) -> str:
        """The address of a page with the tag on it; `before` runs before it."""
        if code is None:
            code = inside(self.tag().settings)
        self.pages[path] = (
            "<!doctype html><meta charset=utf-8><title>shop</title><link rel=icon href=data:,>"
            f"<script nonce=n1>dataLayer=[];function gtag(){{dataLayer.push(arguments)}};{before}</script>"
            f"<script nonce=n1>{code}</script>"
        )
        return self.shop.address + path

    def of(self, email: str) -> list[dict[str, str]]:
        return [
            {name: value for name, value in one.items() if name != "email"}
            for one in self.came
            if one["email"] == email
        ]

    def end(self) -> None:
        self.serve.__exit__()
        for server in (self.shop, self.vendor):
            server.shutdown()
            server.server_close()


GRANT = "gtag('consent','default',{ad_storage:'granted',analytics_storage:'granted'});"
DENY = "gtag('consent','default',{ad_storage:'denied',analytics_storage:'denied'});"
GRANTED = "gtag('consent','update',{ad_storage:'granted',analytics_storage:'granted'})"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def house(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    del chromium  # without one there is nothing to serve
    found = House(tmp_path_factory.mktemp("tag"))
    yield found
    found.end()


class Visit:
    """A person's browser: what it asked for, and what it complained of."""

    def __init__(self, browser: Any, house: House) -> None:
        self.house, self.context = house, browser.new_context()
        self.complaints: list[str] = []
        self.asked: list[Any] = []
        self.page = self.context.new_page()
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.on("request", lambda request: self.asked.append(request))

    def posts(self) -> list[dict[str, Any]]:
        """The events that were posted, as the browser sent them."""
        return [json.loads(each.post_data) for each in self.asked if each.method == "POST"]

    def run(self, code: str) -> Any:
        return self.page.evaluate(code)

    def stored(self) -> int:
        """Events that wait in the browser's storage; -1: nothing of the tag was ever put there."""
        count: int = self.run("() => localStorage.length ? JSON.parse(Object.values(localStorage)[0]).length : -1")
        return count

    def wait(self, true: Any) -> None:
        """With the browser's own events going on."""
        until = time.monotonic() + 30
        while not true():
            assert time.monotonic() < until, self.complaints or "it did not happen in time"
            self.page.wait_for_timeout(50)


@pytest.fixture
def visit(chromium: Any, house: House) -> Iterator[Visit]:
    found = Visit(chromium, house)
    yield found
    hosts = {each.url.split("/")[2] for each in found.asked if each.url.startswith("http")}
    found.context.close()
    assert hosts <= {house.shop.address[7:], house.door[7:]}


HOSTILE = "</script><script>alert(1)</script> \u202eاختبار\u202c \U0001f9ff \"'&\\"


def test_an_e_commerce_event_of_a_page_arrives_in_the_crm(house: House, visit: Visit) -> None:
    item = {"item_id": 77, "item_name": HOSTILE, "price": "1299.9", "item_category": "C", "index": 3, "secret": "x"}
    view = literal({"event": "view_item", "ecommerce": {"currency": "BRL", "value": 1299.9, "items": [item]}})
    address = house.page("/p", before=f"{GRANT}dataLayer.push({{email:'first@example.com'}},{view});")
    visit.page.goto(address + "?token=abc#frag")
    visit.wait(lambda: house.of("first@example.com"))
    (sent,) = visit.posts()
    assert sent.pop("timestamp")[-1] == "Z"
    assert len(sent.pop("eventId")) > 20
    product = {"id": "77", "name": HOSTILE, "price": 1299.9, "category": "C", "url": address}
    assert sent == {
        "email": "first@example.com", "eventType": "product_view", "clientId": "client-abc", "url": address,
        "currency": "BRL", "total": 1299.9, "items": [product], "product": product,
    }  # fmt: skip
    assert house.of("first@example.com") == [
        {
            "PRODUCT_ID": "77",
            "PRODUCT_NAME": HOSTILE,
            "PRODUCT_PRICE": "1299.90",
            "PRODUCT_URL": address,
            "EVENT_TYPE": "product_view",
        }
    ]
    assert (visit.complaints, visit.stored()) == ([], 0)
    assert visit.run("() => Object.keys(window).filter(name => /tag/i.test(name))") == ["gtag", "connectTag"]


def test_the_seeds_own_fields_and_gtags_events_arrive_too(house: House, visit: Visit) -> None:
    visit.page.goto(house.page("/own", before=GRANT))
    own = {"id": "PROD-1", "name": "Smartphone", "price": 5, "image": "https://example.com/i.jpg"}
    seed = {
        "event": "product_view",
        "email": "own@example.com",
        "product": own,
        "sessionId": "abc123-session",
        "other": 1,
    }
    visit.run(
        f"() => dataLayer.push({json.dumps({**seed, 'timestamp': '2026-01-28T10:30:45.123Z', 'eventId': 'e-1'})})"
    )
    visit.run(
        "() => gtag('event', 'purchase', {transaction_id: 7, value: '0', items: [{item_name: 'A'}, {item_id: 'B'}]})"
    )
    visit.wait(lambda: len(house.of("own@example.com")) == 2)
    first, second = visit.posts()
    assert first == {
        "email": "own@example.com", "eventType": "product_view", "clientId": "client-abc", "product": own,
        "sessionId": "abc123-session", "timestamp": "2026-01-28T10:30:45.123Z", "eventId": "e-1",
        "url": house.shop.address + "/own",
    }  # fmt: skip
    assert (second["eventId"], second["orderId"], second["total"]) == ("purchase-7", "7", 0)
    assert second["items"] == [{"id": "A", "name": "A"}, {"id": "B", "name": "B"}]
    visit.run("() => gtag('event', 'purchase', {transaction_id: 7, items: [{item_name: 'A'}]})")
    with visit.page.expect_response(house.door + "/**") as reply:
        visit.run("() => gtag('event', 'purchase', {transaction_id: 7})")  # as when the page is loaded again
    assert reply.value.json()["duplicates"] == ["purchase-7"]


def test_without_consent_nothing_is_sent_or_stored_until_it_is_granted(house: House, visit: Visit) -> None:
    region = "gtag('consent','default',{ad_storage:'granted',analytics_storage:'granted',region:['BR']});"
    visit.page.goto(house.page("/consent", before=DENY + region))
    push = "() => dataLayer.push({event:'search',email:'shy@example.com',search_term:'x'})"
    visit.run(push)
    visit.run("() => gtag('consent','update',{analytics_storage:'granted'})")
    visit.page.wait_for_timeout(300)
    assert (visit.posts(), visit.stored(), visit.run("() => sessionStorage.length + document.cookie.length")) == (
        [],
        -1,
        0,
    )
    visit.run(push)  # the refusal before it let what was held go
    visit.run(f"() => {GRANTED}")
    visit.wait(lambda: house.of("shy@example.com"))
    assert [each["query"] for each in visit.posts()] == ["x"]
    visit.context.set_offline(True)
    visit.run(push)
    visit.wait(lambda: visit.stored() == 1)
    visit.run("() => gtag('consent','update',{ad_storage:'denied'})")
    assert visit.stored() == -1


def carts(email: str) -> str:
    """Three events and away."""
    pushes = "".join(
        f"dataLayer.push({{event:'add_to_cart',email:'{email}',ecommerce:{{items:[{{item_id:'I{n}'}}]}}}});"
        for n in range(3)
    )
    return f"() => {{ {pushes} location.href = '/elsewhere' }}"


def test_what_is_pushed_as_the_page_is_left_arrives_once(house: House, visit: Visit) -> None:
    visit.page.goto(house.page("/leave", before=GRANT))
    with visit.page.expect_navigation():
        visit.run(carts("gone@example.com"))
    soon(lambda: len(house.of("gone@example.com")) >= 3, 30)
    visit.page.wait_for_timeout(1500)  # a batch's wait: none comes twice
    assert sorted(each["PRODUCT_ID"] for each in house.of("gone@example.com")) == ["I0", "I1", "I2"]
    assert visit.complaints == []


def test_what_has_not_been_sent_goes_by_beacon_and_what_has_no_answer_with_the_next_page(
    house: House, visit: Visit
) -> None:
    visit.page.goto(house.page("/hangs", before="window.fetch = () => new Promise(() => {});" + GRANT))
    with visit.page.expect_navigation():
        visit.run(carts("beacon@example.com"))
    soon(lambda: len(house.of("beacon@example.com")) >= 2, 30)
    assert sorted(each["PRODUCT_ID"] for each in house.of("beacon@example.com")) == ["I1", "I2"]
    visit.page.goto(house.page("/next", before=GRANT))
    visit.wait(lambda: len(house.of("beacon@example.com")) == 3)
    assert (house.of("beacon@example.com")[2]["PRODUCT_ID"], visit.stored()) == ("I0", 0)


def test_offline_events_wait_in_the_browser_also_for_another_page(house: House, visit: Visit) -> None:
    never = "const later = setTimeout; window.setTimeout = (run, ms) => ms ? 0 : later(run);"  # no try by the clock
    visit.page.goto(house.page("/offline", before=never + GRANT))
    visit.context.set_offline(True)
    visit.run("() => dataLayer.push({event:'search',email:'tunnel@example.com',search_term:'1'})")
    visit.run("() => dataLayer.push({event:'search',search_term:'2'})")
    visit.wait(lambda: visit.stored() == 2)
    visit.context.set_offline(False)  # the page hears of it
    visit.wait(lambda: visit.stored() == 0)
    visit.context.set_offline(True)
    visit.run("() => dataLayer.push({event:'search',search_term:'3'})")
    visit.wait(lambda: visit.stored() == 1)
    page = visit.context.new_page()
    visit.page.close()
    visit.page = page
    visit.context.set_offline(False)
    visit.page.goto(house.page("/later", before=GRANT))
    visit.wait(lambda: len(house.of("tunnel@example.com")) == 3 and visit.stored() == 0)
    visit.page.wait_for_timeout(1500)  # a batch's wait: none comes twice
    assert (len(house.of("tunnel@example.com")), visit.stored()) == (3, 0)


def test_a_503_waits_as_long_as_the_door_asks_and_keeps_its_id(house: House, visit: Visit) -> None:
    tries: list[tuple[float, str]] = []

    def refuse_once(route: Any) -> None:
        tries.append((time.monotonic(), json.loads(route.request.post_data)["eventId"]))
        if len(tries) > 1:
            route.continue_()
            return
        allow = {"access-control-allow-origin": house.shop.address, "access-control-expose-headers": "retry-after"}
        route.fulfill(status=503, headers={**allow, "retry-after": "3"}, body="{}")

    visit.page.route(house.door + "/**", refuse_once)
    visit.page.goto(house.page("/busy", before=GRANT))
    visit.run("() => dataLayer.push({event:'search',email:'busy@example.com',search_term:'1'})")
    visit.wait(lambda: house.of("busy@example.com"))
    assert (len(tries), len({name for _, name in tries})) == (2, 1)
    assert tries[1][0] - tries[0][0] >= 2.9
    assert visit.stored() == 0


def test_what_the_door_refuses_is_not_sent_again(house: House, visit: Visit) -> None:
    visit.page.goto(house.page("/refused", before=GRANT))
    with visit.page.expect_response(house.door + "/**") as reply:
        visit.run("() => dataLayer.push({event:'search',email:'no address'})")
    visit.wait(lambda: visit.stored() == 0)
    assert reply.value.status == 422


def test_at_most_50_events_of_three_days_wait(house: House, visit: Visit) -> None:
    visit.page.goto(house.page("/many", before=GRANT))
    visit.context.set_offline(True)
    visit.run("() => dataLayer.push({email:'many@example.com'})")
    visit.run("() => { for (let n = 0; n < 60; n++) dataLayer.push({event: 'search', search_term: '' + n}) }")
    kept = "() => JSON.parse(Object.values(localStorage)[0]).map(one => JSON.parse(one[1]).query)"
    assert visit.run(kept) == [str(n) for n in range(10, 60)]
    visit.run("() => { const now = Date.now; Date.now = () => now() + 4 * 864e5; }")  # seen by pages to come only
    visit.run(
        "() => { const box = Object.keys(localStorage)[0]; localStorage[box] = JSON.stringify("
        "JSON.parse(localStorage[box]).map(([id, body, at, next]) => [id, body, at - 4 * 864e5, next])) }"
    )
    visit.run("() => dataLayer.push({event: 'search', search_term: 'new'})")
    assert visit.run(kept) == ["new"]


def test_a_browser_without_storage_and_odd_data_harm_neither_page_nor_tag(house: House, visit: Visit) -> None:
    broken = "Object.defineProperty(window,'localStorage',{get(){throw Error('no')}});"
    visit.page.goto(house.page("/odd", before=broken + GRANT))
    odd = (
        "[null, 1, 'x', [], () => 0, {event: {}}, {event: 'view_item', ecommerce: {items: [null]}},"
        "{event: 'purchase', ecommerce: 5}]"
    )
    assert visit.run(f"() => dataLayer.push(...{odd})") > 8
    visit.run("() => dataLayer.push({event:'search',user_data:{email:'odd@example.com'},search_term:'1'})")
    visit.wait(lambda: house.of("odd@example.com"))
    assert visit.complaints == []


def test_the_template_loads_the_script_of_the_door_and_tells_it_of_consent(house: House, visit: Visit) -> None:
    """Tag Manager is a stand-in here: its `require` with the five functions that the template asks for."""
    code = sections(template(house.tag().settings))["SANDBOXED_JS_FOR_WEB_TEMPLATE"]
    stand_in = f"""(() => {{
      const listeners = [];
      window.agree = () => listeners.forEach(([type, run]) => run(type, true));
      const api = {{
        createQueue: name => {{ const queue = window[name] = window[name] || []; return one => queue.push(one); }},
        isConsentGranted: () => false,
        addConsentListener: (...given) => listeners.push(given),
        encodeUriComponent: encodeURIComponent,
        injectScript: (src, onload) => {{
          document.head.append(Object.assign(document.createElement('script'), {{src, onload}}));
        }},
      }};
      const data = {{key: 'key-of-abc', client: 'client-abc', layer: 'dataLayer', email: 'gtm@example.com',
        gtmOnSuccess: () => window.ready = true}};
      (function (require) {{ {code} }})(name => api[name]);
    }})()"""  # fmt: skip
    visit.page.goto(house.page("/gtm", before="dataLayer.push({event:'search',search_term:'early'});", code=stand_in))
    visit.page.wait_for_function("() => window.ready")
    visit.run("() => dataLayer.push({event:'search',search_term:'late'})")
    assert visit.posts() == []
    visit.run("() => agree()")
    visit.wait(lambda: len(house.of("gtm@example.com")) == 2)
    assert [each["query"] for each in visit.posts()] == ["early", "late"]
    assert visit.complaints == []


def test_the_door_serves_the_script_to_every_page(house: House) -> None:
    reply = httpx.get(house.door + "/tag.js", trust_env=False)
    assert (reply.status_code, reply.text) == (200, script())
    assert {name: value for name, value in reply.headers.items() if name not in ("date", "content-length")} == {
        "cache-control": "public, max-age=3600",
        "access-control-allow-origin": "*",
        "cross-origin-resource-policy": "cross-origin",
        "x-content-type-options": "nosniff",
        "content-type": "text/javascript; charset=utf-8",
    }
    assert httpx.post(house.door + "/tag.js", trust_env=False).status_code == 404
