from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Heard, Vendor, reply

from engine.dashboard.board import Board
from engine.dashboard.history import History
from engine.dashboard.rendering import FOLDER, POLICY, Renderer, seen
from engine.dashboard.texts import TEXTS, Words, chosen
from engine.door.access import FORM_S, MAX_WRONG, SESSION_S, WRONG_S, Access
from engine.errors import StoreUnavailable, UsageError
from engine.records import LaneChange
from engine.runtime import Engine
from engine.serve import serve
from engine.spec.project import Project
from engine.stores.memory import MemoryStore
from engine.withdrawn import says

TOKEN, LOOK = "t0k3n-of-the-admin-side", "t0k3n-to-look"
NOW = 1_769_596_245.0  # 2026-01-28 10:30:45 UTC
CRM = """
receive:
  client: "${ event.client }"
  id: "${ event.id }"
  schema:
    type: object
    properties:
      id: {type: string}
      client: {type: string}
      email: {type: string, x-personal: true}
      name: {type: string, x-personal: true}
      note: {type: string}
      price: {type: number}
    required: [id, client]
replies: {message: "${ response.body.error }"}
actions:
  note:
    record: {id: "${ event.id }", email: "${ event.email }", note: "${ event.note }"}
    request: {path: /notes, json: "${ record }"}
"""
ABC = "{client: abc, connectors: {crm: {}}}"
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
HOSTILE = f"\"'>{SCRIPT} \u202etxt.exe\u2066 مرحبا {{{{ 7*7 }}}} \x00"


class Clock:
    """Time that is moved by hand; nobody sleeps by it."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Away(MemoryStore):
    """A store that can be taken away."""

    away = False

    def lanes(self) -> Any:
        if self.away:
            raise StoreUnavailable("disk <b>full</b>")
        return super().lanes()


class Page(HTMLParser):
    """A page taken apart: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def form(self, action: str) -> dict[str, str]:
        """The hidden fields of the form that is posted there."""
        at = next(i for i, (tag, had) in enumerate(self.elements) if tag == "form" and had.get("action") == action)
        fields = {}
        for tag, had in self.elements[at + 1 :]:
            if tag == "form":
                break
            if tag == "input" and had.get("type") == "hidden":
                fields[had["name"]] = had["value"]
        return fields


class House:
    """An engine with its admin side, asked as a browser asks."""

    def __init__(self, engine: Engine, board: Board, clock: Clock, vendor: Vendor, heard: Heard, port: int) -> None:
        self.engine, self.board, self.clock, self.vendor, self.heard = engine, board, clock, vendor, heard
        self.port = port
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            trust_env=False,
            verify=False,  # nothing here is TLS, and the world's authorities take 30 ms to read
            headers={"accept": "text/html,*/*"},
            timeout=20,
        )

    def page(self, path: str, status: int = 200, **headers: str) -> Page:
        got = self.http.get(path, headers=headers)
        assert got.status_code == status, got.text
        assert got.headers["content-type"] == "text/html; charset=utf-8"
        return Page(got.text)

    def log_in(self, token: str = TOKEN) -> httpx.Response:
        return self.http.post("/login", data={**self.page("/login").form("/login"), "token": token})

    def press(self, page: str, action: str, **fields: str) -> httpx.Response:
        """Fill in a form of a page and send it."""
        return self.http.post(action, data={**self.page(page).form(action), **fields})

    def post(self, *events: dict[str, Any], client: str = "abc") -> None:
        """Events come in, and are delivered, or rejected."""
        for event in events:
            body = json.dumps({"client": client, **event}).encode()
            received = self.engine.receive("crm", body, "application/json", None, self.clock.now())
            assert received.faults == []
            self.engine.put([each for _, each in received.accepted], self.clock.now(), 0).result()

    def run(self) -> None:
        self.engine.worker.drain()

    def audit(self) -> list[dict[str, Any]]:
        """Without the time, and who: told apart by one test."""
        file = self.engine.project.directory / "audit.log"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [{key: line[key] for key in line if key not in ("at", "level", "event", "who")} for line in lines]


Opened = Callable[..., Any]


RENDERER = cache(Renderer)  # the templates are the same for every house, and are compiled once


@pytest.fixture
def opened(project_from: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Opened:
    monkeypatch.setattr("engine.dashboard.board.Renderer", RENDERER)

    @contextmanager
    def open_(*, token: str | None = TOKEN, look: str | None = LOOK, crm: str = CRM, **clients: str) -> Iterator[House]:
        project = Project(project_from(crm=crm, **(clients or {"abc": ABC})))
        clock, vendor, heard, store = Clock(), Vendor(), Heard(), Away()
        history = History(clock.now)
        told = heard.event

        def event(name: str, /, **facts: object) -> None:
            told(name, **facts)
            history.hear(name, facts)

        heard.event = event  # type: ignore[method-assign]
        engine = Engine(project, store, transport=vendor, clock=clock, telemetry=heard, alerts=heard)
        access = Access(token, look, clock=clock.now)
        board = Board(engine, access, history, audit_file=project.directory / "audit.log", clock=clock.now)
        stop, there, ports = threading.Event(), threading.Event(), list[int]()

        def ready(_: int, admin_port: int) -> None:
            ports.append(admin_port)
            there.set()

        options: dict[str, Any] = {"access": access, "pages": lambda: board, "telemetry": heard, "clock": clock.now}
        server = threading.Thread(
            target=lambda: serve(engine, port=0, admin_port=0, on_ready=ready, stop=stop, **options)
        )
        server.start()
        assert there.wait(30)
        house = House(engine, board, clock, vendor, heard, ports[0])
        try:
            with house.http:
                yield house
        finally:
            stop.set()
            server.join(30)
            engine.close()
            assert not server.is_alive()

    return open_


@pytest.fixture
def house(opened: Opened) -> Iterator[House]:
    with opened() as house:
        house.log_in()
        yield house


def rejected(house: House, *notes: str, **more: Any) -> None:
    """Dead letters 1 … with these notes."""
    house.vendor.answer = lambda _: reply(422, {"error": "no such product"})
    house.post(*({"id": f"e{at}", "email": "ana@example.com", "note": note, **more} for at, note in enumerate(notes)))
    house.run()
    house.vendor.answer = None


# Who may look, and who may act


def test_a_browser_without_a_log_in_is_sent_to_it_and_from_there_to_where_it_wanted(opened: Opened) -> None:
    with opened() as house:
        sent = house.http.get("/dead?client=abc")
        assert (sent.status_code, sent.headers["location"]) == (303, "/login?to=%2Fdead%3Fclient%3Dabc")
        login = house.page(sent.headers["location"])
        fields = login.form("/login")
        done = house.http.post("/login", data={**fields, "token": TOKEN})
        assert (done.status_code, done.headers["location"]) == (303, "/dead?client=abc")
        assert house.page("/dead?client=abc").text.startswith("Dead letters")


def test_the_cookie_of_a_log_in_is_for_this_side_alone_and_says_nothing(opened: Opened) -> None:
    with opened() as house:
        name, _, rest = house.log_in().headers["set-cookie"].partition("=")
        value, *flags = rest.split("; ")
        assert re.fullmatch(r"connect_[0-9a-f]{8}", name)
        assert flags == ["Path=/", f"Max-Age={int(SESSION_S)}", "HttpOnly", "SameSite=Strict"]
        assert TOKEN not in value


def test_behind_a_name_the_cookie_goes_over_https_only() -> None:
    access = Access(TOKEN)
    scope = {"headers": [(b"host", b"connect.example")]}
    assert access.set_cookie(scope, "value").endswith("; HttpOnly; SameSite=Strict; Secure")


def test_a_wrong_token_is_told_so_and_too_many_of_an_address_are_not_even_looked_at(opened: Opened) -> None:
    with opened() as house:
        wrong = [house.log_in("wrong") for _ in range(MAX_WRONG)]
        assert {(got.status_code, "This is not the token." in got.text) for got in wrong} == {(401, True)}
        assert all("set-cookie" not in got.headers for got in wrong)
        right = house.log_in(TOKEN)
        assert (right.status_code, right.headers["retry-after"]) == (429, "60")
        assert house.http.get("/lanes", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 429
        house.clock.time += WRONG_S
        assert house.log_in(TOKEN).status_code == 303


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_a_log_in_leads_to_no_other_host(opened: Opened, to: str) -> None:
    with opened() as house:
        fields = {**house.page("/login").form("/login"), "to": to, "token": TOKEN}
        assert house.http.post("/login", data=fields).headers["location"] == "/"


def test_a_session_ends_by_log_out_by_time_and_by_another_token(opened: Opened) -> None:
    with opened() as house:
        house.log_in()
        cookie = dict(house.http.cookies)
        assert house.http.get("/").status_code == 200
        assert house.press("/", "/logout").headers["location"] == "/login"
        header = {"cookie": "; ".join(f"{name}={value}" for name, value in cookie.items())}
        assert house.http.get("/", headers=header).status_code == 303  # a copy of it serves no longer, too
        house.log_in()
        house.clock.time += SESSION_S - 1
        assert house.http.get("/").status_code == 200
        house.clock.time += 1
        assert house.http.get("/").status_code == 303
        [(name, value)] = dict(house.http.cookies).items()
        for changed in [value[:-1] + "0", value.replace("operate", "read"), "", "a.b.c.d", "ção", "x" * 5000]:
            assert house.http.get("/", headers={"cookie": f"{name}={changed}".encode()}).status_code == 303
    assert Access("another").cookie != name


def test_the_read_token_sees_all_and_changes_nothing(opened: Opened) -> None:
    with opened() as house:
        rejected(house, "x")
        house.log_in(TOKEN)
        own = {
            action: house.page(page).form(action)
            for page, action in [("/lane/crm/abc", "/lane/crm/abc/pause"), ("/dead/1", "/dead/1/retry")]
        }
        house.http.cookies.clear()
        house.log_in(LOOK)
        for path in ["/", "/lane/crm/abc", "/dead", "/dead/1", "/dead/1/preview"]:
            page = house.page(path)
            assert "Read only" in page.text
            assert [form["action"] for form in page.all("form") if form.get("method") == "post"] == ["/logout"]
        theirs = house.page("/").form("/logout")
        for action, fields in own.items():
            for form in (fields, theirs):
                got = house.http.post(action, data=form)
                assert (got.status_code, "The read token may look" in got.text) == (403, True)
        bearer = {"authorization": f"Bearer {LOOK}", "accept": "application/json"}
        assert [house.http.get(path, headers=bearer).status_code for path in ("/lanes", "/metrics")] == [200, 200]
        assert house.engine.store.lane("crm", "abc").state == "idle"  # type: ignore[union-attr]
        assert house.engine.store.dead_letter(1) is not None
        assert house.press("/", "/logout").status_code == 303


def test_a_read_token_alone_or_the_same_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="CONNECT_ADMIN_TOKEN must be there, too"):
        Access(None, LOOK)
    with pytest.raises(UsageError, match="must differ"):
        Access(TOKEN, TOKEN)


def test_without_a_token_the_pages_are_open_to_this_machine_and_forms_must_still_be_our_own(opened: Opened) -> None:
    with opened(token=None, look=None) as house:
        assert house.http.get("/login").headers["location"] == "/"
        for host in ["rebound.example", f"rebound.example:{house.port}"]:
            for path in ["/", "/login", "/static/page.js"]:
                assert house.http.get(path, headers={"host": host}).status_code == 403
        assert house.http.post("/lane/crm/abc/pause", data={"form": "1.x"}).status_code == 403
        assert house.http.post("/lane/crm/abc/pause").status_code == 415
        assert house.press("/lane/crm/abc", "/lane/crm/abc/pause").status_code == 303


# Forms


def test_a_stale_form_and_one_of_another_session_say_so_and_do_nothing(house: House) -> None:
    fields = house.page("/lane/crm/abc").form("/lane/crm/abc/pause")
    house.http.cookies.clear()
    house.log_in()
    another = house.http.post("/lane/crm/abc/pause", data=fields)
    fields = house.page("/lane/crm/abc").form("/lane/crm/abc/pause")
    house.clock.time += FORM_S
    stale = house.http.post("/lane/crm/abc/pause", data=fields)
    for got in (another, stale):
        assert got.status_code == 403
        assert "Nothing was done." in Page(got.text).text
    assert house.engine.store.lane("crm", "abc") is None
    assert [line["what"] for line in house.audit()] == ["log in", "log in"]


def test_a_page_of_another_origin_can_do_nothing(house: House) -> None:
    fields = house.page("/lane/crm/abc").form("/lane/crm/abc/pause")
    got = house.http.post("/lane/crm/abc/pause", data=fields, headers={"origin": "https://evil.example"})
    assert (got.status_code, "or was not from here" in got.text) == (403, True)
    assert house.engine.store.lane("crm", "abc") is None


def test_a_form_that_is_too_large_or_no_form_is_refused(house: House) -> None:
    fields = house.page("/lane/crm/abc").form("/lane/crm/abc/pause")
    assert house.http.post("/lane/crm/abc/pause", data={**fields, "why": "x" * 5_000_000}).status_code == 413
    many = "&".join(f"f{at}=" for at in range(200))
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert house.http.post("/lane/crm/abc/pause", content=many, headers=kind).status_code == 400
    assert house.http.post("/lane/crm/abc/pause", json=fields).status_code == 415


# What every page is


def every_page(house: House) -> list[httpx.Response]:
    rejected(house, "x")
    paths = ["/", "/?part=live", "/lane/crm/abc", "/lane/crm/abc?part=live", "/dead", "/dead/1", "/dead/1/preview"]
    paths += ["/nothing", "/lane/crm/nobody", "/dead/99", "/dead/job/none", "/login?to=/"]
    answers = [house.http.get(path) for path in paths]
    answers += [house.press("/dead/1", "/dead/1/reveal"), house.press("/dead/1", "/dead/1/open")]
    job = house.press("/dead/1", "/dead/1/retry").headers["location"]
    house.http.cookies.clear()
    return [*answers, house.http.get(job), house.http.get("/login"), house.http.get("/")]


def test_every_page_has_the_policy_and_no_script_or_style_in_it(house: House) -> None:
    for got in every_page(house):
        assert got.headers["content-security-policy"] == POLICY
        assert got.headers["cache-control"] == "no-store"
        assert got.headers["referrer-policy"] == "same-origin"
        assert got.headers["x-content-type-options"] == "nosniff"
        page = Page(got.text)
        for tag, attributes in page.elements:
            assert tag != "style"
            assert tag != "script" or (attributes["src"].startswith("/static/") and "defer" in attributes)
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
            for name in ("href", "src", "action"):
                assert re.match(r"[/?#]", attributes.get(name, "/")), attributes
        if page.all("script"):
            assert re.search(r"<script[^>]*></script>", got.text)


def test_every_page_can_be_read_aloud(house: House) -> None:
    for got in every_page(house):
        page = Page(got.text)
        if "<html" not in got.text:
            continue
        names = [name for name, _ in page.elements]
        assert page.all("html") == [{"lang": "en"}]
        assert (names.count("h1"), names.count("main"), names.count("header"), names.count("footer")) == (1, 1, 1, 1)
        assert page.all("a")[0] == {"class": "skip", "href": "#content"}
        assert names.count("caption") == names.count("table")
        assert all("scope" in had for had in page.all("th"))
        levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
        assert all(after - before <= 1 for before, after in pairwise(levels))
        ids = [had["id"] for _, had in page.elements if "id" in had]
        assert len(ids) == len(set(ids))
        fields = len(re.findall(r"<(?:input(?![^>]*hidden)|select|textarea)", got.text))
        assert fields == len(re.findall(r"<label[^>]*>[^<]*<(?:input|select|textarea)", got.text))
        assert all(had["role"] == "img" and had["aria-label"] for had in page.all("svg"))


def test_both_languages_have_every_text_with_the_same_holes() -> None:
    for key, pair in TEXTS.items():
        assert len(pair) == 2, key
        assert all(text.strip() for text in pair), key
        assert len({tuple(sorted(re.findall(r"\{(\w+)\}", text))) for text in pair}) == 1, key


def test_every_text_that_a_page_names_is_there_and_every_other_is_used() -> None:
    written = "\n".join(file.read_text() for file in FOLDER.rglob("*") if file.suffix in (".html", ".py"))
    named = set(re.findall(r"\bt\(\"(\w+)\"[,)]", written)) | set(re.findall(r"\bt\('(\w+)'[,)]", written))
    assert named - TEXTS.keys() == set()
    assert {key for key in TEXTS if not re.search(rf"[\"'](?:{key}|{key.rpartition('_')[0]}_)[\"']", written)} == set()


@pytest.mark.parametrize(
    ("asked", "kept", "header", "language"),
    [
        ("", "", "", "en"),
        ("", "", "pt-BR,pt;q=0.9,en;q=0.8", "pt"),
        ("", "", "de, en;q=0.5, pt;q=0.7", "pt"),
        ("", "", "de-DE", "en"),
        ("", "", "pt;q=0, en;q=0.1", "en"),
        ("en", "pt", "pt", "en"),
        ("", "pt", "en", "pt"),
        ("<script>", "x", ";;q=,,pt;q=2", "en"),
    ],
)
def test_the_language_is_as_asked_for_as_last_time_or_as_the_browser_likes(
    asked: str, kept: str, header: str, language: str
) -> None:
    assert chosen(asked, kept, header) == language


def test_a_language_that_was_chosen_stays(house: House) -> None:
    assert house.page("/", **{"accept-language": "pt-BR"}).all("html") == [{"lang": "pt-BR"}]
    assert "Visão geral" in house.page("/?lang=pt").text
    assert "Eventos rejeitados" in house.page("/dead").text


def test_what_stands_beside_the_pages_is_kept_by_the_browser_and_nothing_else_is_given_out(house: House) -> None:
    house.http.cookies.clear()
    sheet = house.page("/login").all("link")[1]["href"]
    got = house.http.get(sheet)
    assert (got.status_code, got.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    for name in ["../board.py", "%2e%2e%2fboard.py", "board.py", "..%2f..%2fadmin.py"]:
        assert house.http.get(f"/static/{name}").status_code in (303, 404)


# Overview


def test_the_overview_shows_what_needs_attention_first(opened: Opened) -> None:
    clients = {
        name: f"{{client: {name}, connectors: {{crm: {{}}}}}}" for name in ("aaa", "bad", "late", "new", "still")
    }
    with opened(**clients) as house:
        house.log_in()
        house.post({"id": "1"}, client="aaa")
        house.run()
        house.vendor.answer = lambda _: reply(422, {"error": "no"})
        house.post({"id": "1"}, client="bad")
        house.run()
        house.post({"id": "1"}, client="late")
        wait = LaneChange(not_before=NOW + 300, reason="HTTP 503", failures=3)
        house.engine.store.change_lane("crm", "late", wait, now=NOW)
        house.post({"id": "1"}, client="still")
        house.engine.store.change_lane("crm", "still", LaneChange(pause=True, reason="the key is refused"), now=NOW)
        house.clock.time += 30
        page = house.page("/")
        links = [had["href"] for had in page.all("a") if had["href"].startswith("/lane/")]
        assert links == [f"/lane/crm/{name}" for name in ("still", "late", "bad", "aaa", "new")]
        assert "still crm paused the key is refused 1 30 s" in page.text
        assert "late crm waits until 10:35:45 HTTP 503 1 30 s" in page.text
        assert "bad crm many are rejected 0 - 0 · 1 rejected 0 · 1 rejected 0.0 %" in page.text
        assert "new crm no event yet" in page.text
        assert "5 lanes 3 need attention 2 waiting 1 delivered in an hour 1 rejected in an hour" in page.text
        labels = [had["aria-label"] for had in page.all("svg")]
        assert labels.count("1 delivered, 0 rejected") == labels.count("0 delivered, 1 rejected") == 2


def test_five_hundred_clients_stay_readable(opened: Opened) -> None:
    with opened(**{f"c{at}": f"{{client: shop-{at:03}, connectors: {{crm: {{}}}}}}" for at in range(120)}) as house:
        house.log_in()

        def shown(query: str) -> list[str]:
            links = [had["href"] for had in house.page(f"/?{query}").all("a")]
            return [link.removeprefix("/lane/crm/shop-") for link in links if link.startswith("/lane/")]

        assert shown("sort=name") == [f"{at:03}" for at in range(25)]
        assert shown("sort=name&page=5") == [f"{at:03}" for at in range(100, 120)]
        assert shown("sort=name&page=99999999999999999999") == [f"{at:03}" for at in range(25)]
        assert shown("q=SHOP+-11") == [f"{at}" for at in range(110, 120)]
        assert shown("q=nobody") == []
        assert "Page 2 of 5" in house.page("/?page=2").text


def test_without_the_store_the_page_says_so(house: House) -> None:
    house.engine.store.away = True  # type: ignore[attr-defined]
    page = house.page("/", 503)
    assert "The store can't be read just now." in page.text
    assert "disk <b>full</b>" in page.text


def test_a_fault_of_ours_is_a_page_without_its_text(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("s3cr3t")

    monkeypatch.setattr(house.board.lanes, "rows", broken)
    house.clock.time += 1
    assert "This is our fault" in house.page("/", 500).text
    assert "s3cr3t" not in repr(house.heard.events)


# A lane


def test_a_lane_is_paused_and_resumed_with_a_line_each(house: House) -> None:
    house.post({"id": "1"})
    done = house.press("/lane/crm/abc", "/lane/crm/abc/pause", why="the CRM moves")
    page = house.page(done.headers["location"])
    assert "It is paused." in page.text
    assert "mends its configuration: paused by hand: the CRM moves" in page.text
    house.run()
    assert house.vendor.asked == []
    assert "It goes on." in house.page(house.press("/lane/crm/abc", "/lane/crm/abc/resume").headers["location"]).text
    house.run()
    assert len(house.vendor.asked) == 1
    lane = {"connector": "crm", "client": "abc"}
    assert house.audit()[1:] == [{"what": "pause", **lane, "why": "the CRM moves"}, {"what": "resume", **lane}]


def test_the_audit_says_by_which_token_and_from_where(house: House) -> None:
    line = json.loads((house.engine.project.directory / "audit.log").read_text())
    assert line == {
        "at": "2026-01-28T10:30:45.000Z",
        "level": "info",
        "event": "audit",
        "who": "admin side (operate token, 127.0.0.1)",
        "what": "log in",
    }


def test_what_the_audit_can_not_take_is_not_done_on_the_page_either(house: House) -> None:
    rejected(house, "x")
    pause = house.page("/lane/crm/abc").form("/lane/crm/abc/pause")
    retry = house.page("/dead/1").form("/dead/1/retry")
    house.board.audit_file = house.engine.project.directory / "no" / "such" / "folder"
    got = house.http.post("/lane/crm/abc/pause", data=pause)
    assert (got.status_code, "so nothing was done" in got.text) == (503, True)
    job = ended(house, house.http.post("/dead/1/retry", data=retry).headers["location"])
    assert "It stopped:" in job.text
    assert house.engine.store.lane("crm", "abc").state == "idle"  # type: ignore[union-attr]
    assert house.engine.store.dead_letter(1) is not None


def test_why_a_lane_waits_is_said_in_one_sentence(house: House) -> None:
    def why() -> str:
        return house.page("/lane/crm/abc").text.partition("Why is it waiting? ")[2].partition(" Numbers")[0]

    assert why() == "no event yet No event has come in yet."
    house.post({"id": "1"})
    assert why() == "waiting It is about to get its turn."
    house.vendor.answer = lambda _: reply(503, {"error": "down"}, retry_after="60")
    house.run()
    assert why().startswith("waits until 10:31:45 It goes on by itself at 10:31:45 (in 60 s): ")
    house.vendor.answer = None
    house.clock.time += 60
    house.run()
    assert why() == "fine Nothing waits."


def test_a_lane_shows_the_last_exchanges_without_contents(house: House) -> None:
    house.post({"id": "1", "email": "ana@example.com", "note": "s3cr3t"})
    house.run()
    page = house.page("/lane/crm/abc")
    assert "2026-01-28 10:30:45 note request POST api.crm.example 200 0 ms" in page.text
    assert "s3cr3t" not in page.text
    assert "ana" not in page.text


def test_a_lane_that_is_not_there_is_a_page_that_says_so(house: House) -> None:
    page = house.page("/lane/crm/nobody", 404)
    assert "There is no lane crm/nobody (any more)." in page.text
    fields = house.page("/lane/crm/abc").form("/lane/crm/abc/pause")
    assert house.http.post("/lane/crm/nobody/pause", data=fields).status_code == 404
    assert house.engine.store.lanes() == []


# Dead letters


def ended(house: House, job: str) -> Page:
    """The page of a job, once it is over."""
    until = time.monotonic() + 30
    while "data-over" not in (got := house.http.get(f"{job}?part=live")).text:
        assert time.monotonic() < until, got.text
        house.run()
        time.sleep(0.02)
    return Page(got.text)


def test_dead_letters_are_grouped_by_reason_and_each_group_leads_to_its_letters(house: House) -> None:
    house.vendor.answer = lambda request: reply(422, {"error": f"no order {json.loads(request.content)['id']}"})
    house.post({"id": "12345"}, {"id": "67890"})
    house.run()
    house.vendor.answer = lambda _: reply(422, {"error": "closed"})
    house.post({"id": "1"})
    house.run()
    page = house.page("/dead")
    groups = [had["href"] for had in page.all("a") if had["href"].startswith("/dead?reason=")]
    assert len(groups) == 2
    assert page.text.count("3 dead letters") == 1
    found = [had["href"] for had in house.page(groups[0]).all("a") if re.fullmatch(r"/dead/\d+", had["href"])]
    assert found == ["/dead/1", "/dead/2"]


def test_a_list_goes_on_page_by_page(house: House) -> None:
    rejected(house, *["x"] * 120)

    def walk(path: str) -> list[int]:
        page = house.page(path)
        ids = [int(had["href"][6:]) for had in page.all("a") if re.fullmatch(r"/dead/\d+", had["href"])]
        further = [had["href"] for had in page.all("a") if had.get("rel") == "next"]
        return ids + (walk(further[0]) if further else [])

    assert walk("/dead") == list(range(1, 121))


def test_a_letter_is_masked_until_somebody_asks_and_that_is_written_down(house: House) -> None:
    rejected(house, "hello", name="Ana Souza")
    page = house.page("/dead/1")
    assert "Souza" not in page.text
    assert "ana@" not in page.text
    assert '"email": "a***@example.com"' in page.text
    assert "no such product" in page.text
    shown = Page(house.press("/dead/1", "/dead/1/reveal").text)
    assert '"name": "Ana Souza"' in shown.text
    assert [line["what"] for line in house.audit()][-2:] == ["dead show", "dead reveal"]


def test_a_letter_is_mended_previewed_and_retried(house: House) -> None:
    rejected(house, "wrong")
    done = house.press("/dead/1", "/dead/1/field", path="note", value="right")
    assert "Changed: note." in house.page(done.headers["location"]).text
    preview = house.page("/dead/1/preview").text
    assert '"note": "right"' in preview.partition("What would be sent")[2]
    assert '"note": "wrong"' in preview.partition("What would be sent")[0]
    asked = len(house.vendor.asked)
    job = house.press("/dead/1", "/dead/1/retry").headers["location"]
    assert "Finished." in ended(house, job).text
    assert [body["note"] for body in house.vendor.bodies[asked:]] == ["right"]
    assert "There is no dead letter 1" in house.page("/dead/1", 404).text
    lane = {"connector": "crm", "client": "abc"}
    audit = [line for line in house.audit() if line["what"] not in ("log in", "dead list", "dead show", "dead preview")]
    assert audit == [
        {"what": "dead edit", "id": 1, **lane, "fields": ["note"]},
        {"what": "dead retry", "count": 1, "ids": [1]},
    ]


def test_a_whole_event_is_edited_and_what_intake_would_not_take_is_refused_with_what_was_written(house: House) -> None:
    rejected(house, "wrong")
    opened = Page(house.press("/dead/1", "/dead/1/open").text)
    assert '"email": "ana@example.com"' in opened.text
    fields = opened.form("/dead/1/event")
    for text in ["{", "[1, 2]", '{"id": 7, "client": "abc"}', '{"id": "1", "client": "other"}']:
        got = house.http.post("/dead/1/event", data={**fields, "event": text})
        assert got.status_code == 422
        assert text in Page(got.text).text
        assert "This event can't be taken:" in Page(got.text).text
    event = '{"id": "e0", "client": "abc", "note": "right", "price": 0.10000000000000000001}'
    assert house.http.post("/dead/1/event", data={**fields, "event": event}).status_code == 303
    assert json.loads(house.engine.store.dead_letter(1).body, parse_float=str)["price"] == (  # type: ignore[union-attr]
        "0.10000000000000000001"
    )


def test_all_that_a_filter_leaves_are_retried_once_even_if_they_are_rejected_again(house: House) -> None:
    rejected(house, "a", "b", "c")
    house.post({"id": "other"})
    asked = len(house.vendor.asked)
    house.vendor.answer = lambda _: reply(422, {"error": "still not"})
    job = house.press("/dead?reason=product", "/dead/retry").headers["location"]
    shown = ended(house, job)
    assert "Rejected again 3 Waiting 0" in shown.text
    assert len(house.vendor.asked) - asked == 4
    assert house.audit()[-1] == {"what": "dead retry", "count": 3, "ids": [1, 2, 3], "reason": "product"}


def test_letters_are_discarded_only_with_a_reason_and_a_yes(house: House) -> None:
    rejected(house, "a", "b")
    for fields in [{}, {"why": "test"}, {"sure": "yes"}, {"why": " ", "sure": "yes"}]:
        assert house.press("/dead", "/dead/discard", **fields).status_code == 422
    assert len(house.engine.store.dead()) == 2
    job = house.press("/dead", "/dead/discard", why="a test", sure="yes").headers["location"]
    assert "Discarded 2" in ended(house, job).text
    assert house.engine.store.dead() == []
    assert house.audit()[-1] == {"what": "dead discard", "count": 2, "ids": [1, 2], "why": "a test"}


def test_dead_letters_are_listed_with_the_oldest_or_the_newest_first_page_after_page(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.dashboard.letters.PER_PAGE", 2)
    rejected(house, *"abcde")

    def walked(path: str) -> list[list[str]]:
        pages = []
        while path:
            page = house.page(path)
            links = [had["href"] for had in page.all("a")]
            pages.append([link.removeprefix("/dead/") for link in links if re.fullmatch(r"/dead/\d+", link)])
            path = next((had["href"] for had in page.all("a") if had.get("rel") == "next"), "")
        return pages

    assert walked("/dead") == [["1", "2"], ["3", "4"], ["5"]]
    assert walked("/dead?order=newest&client=abc") == [["5", "4"], ["3", "2"], ["1"]]
    assert "Newest first" in house.page("/dead?order=newest&after=3").text
    assert "Novos primeiro" in house.page("/dead?order=newest&lang=pt").text


def test_many_who_watch_cost_as_much_as_one_and_what_has_not_changed_is_not_sent_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    rows = house.board.lanes.rows
    monkeypatch.setattr(house.board.lanes, "rows", lambda now: looks.append(now) or rows(now))
    made: list[str] = []
    html = house.board.renderer.html
    monkeypatch.setattr(house.board.renderer, "html", lambda name, **all: made.append(name) or html(name, **all))
    monkeypatch.setattr("engine.dashboard.board.LANES_S", 3600.0)

    def live(**headers: str) -> httpx.Response:
        return house.http.get("/?part=live", headers=headers)

    first = live()
    again = [live(**{"if-none-match": first.headers["etag"]}) for _ in range(5)]
    assert [(one.status_code, one.content, one.headers["etag"]) for one in again] == [
        (304, b"", first.headers["etag"])
    ] * 5
    assert live(**{"if-none-match": '"another"'}).text == first.text
    assert first.text in house.http.get("/").text
    assert (len(looks), made) == (1, ["overview_live.html", "overview.html"])
    house.http.get("/?part=live&lang=pt")
    house.http.get("/?part=live&lang=pt&sort=name")
    assert (len(looks), made[2:]) == (1, ["overview_live.html"] * 2)
    house.press("/lane/crm/abc", "/lane/crm/abc/pause")  # what was done is to be seen at once
    changed = live(**{"if-none-match": first.headers["etag"]})
    assert (changed.status_code, len(looks)) == (200, 2)


def test_a_reason_of_ours_is_told_in_the_page_s_language_and_a_vendor_s_as_it_came(house: House) -> None:
    def told(path: str, language: str) -> tuple[list[str], str]:
        page = house.page(f"{path}?lang={language}")
        languages = [had["lang"] for had in page.all("bdi") if "lang" in had]
        return languages, page.text

    lane = "/lane/crm/abc"
    for reason, portuguese in [
        ("paused by hand: a move", "pausada manualmente: a move"),
        ("our limit of 5/1m is used up", "nosso limite de 5/1m está esgotado"),
        ("our budget of 1000 a day is used up", "nosso orçamento de 1000 por dia está esgotado"),
        ("all 4 connections are in use", "todas as 4 conexões estão em uso"),
        (
            "HTTP 401 bad key again after one token renewal",
            "HTTP 401 bad key de novo, depois de renovar o token uma vez",
        ),
        (says("note"), "a ação note não está mais no conector, ou está desativada"),
    ]:
        house.engine.store.change_lane("crm", "abc", LaneChange(pause=True, reason=reason), now=NOW)
        house.board._back("/")
        for path in ("/", lane):
            assert [told(path, "en")[0], told(path, "pt")[0]] == [["en"], ["pt-BR"]]
            assert (reason in told(path, "en")[1], portuguese in told(path, "pt")[1]) == (True, True)
    house.engine.store.change_lane("crm", "abc", LaneChange(pause=True, reason="HTTP 503 try later"), now=NOW)
    languages, text = told(lane, "pt")
    assert (languages, "HTTP 503 try later" in text) == (["en"], True)


def test_a_dead_letter_s_reason_is_told_in_portuguese_with_the_words_it_has_in_the_log(opened: Opened) -> None:
    crm = CRM.replace("record: {", 'record: {rounded: "${ round(event.price, event.price) }", ')
    english = "actions.note.record.rounded: round: digits are -40 to 40, got 99"
    with opened(crm=crm) as house:
        house.log_in()
        house.post({"id": "e0", "price": 99})
        house.run()
        for path, times in [("/dead", 2), ("/dead/1", 1), ("/dead/1/preview", 1)]:
            page = house.page(f"{path}?lang=pt")
            assert page.all("bdi").count({"lang": "pt-BR", "title": english}) == times, path
            assert "actions.note.record.rounded: round: os dígitos vão de -40 a 40; veio 99" in page.text
            assert english in house.page(f"{path}?lang=en").text
        assert "rejeitado: actions.note" in house.page("/dead/1/preview?lang=pt").text
        assert house.page("/dead?reason=digits+are&lang=pt").text.count("os dígitos vão") == 2


def test_a_job_of_another_process_is_a_page_that_says_so(house: House) -> None:
    assert "This is not known any more" in house.page("/dead/job/abc", 404).text


@pytest.mark.parametrize("dead_id", ["99", str(2**63), str(10**40)])
def test_a_letter_that_is_not_there_is_a_page_that_says_so(house: House, dead_id: str) -> None:
    assert "There is no dead letter" in house.page(f"/dead/{dead_id}", 404).text


# Whatever stands in the data


def test_hostile_texts_are_shown_as_what_they_are(house: House) -> None:
    house.vendor.answer = lambda _: reply(422, {"error": HOSTILE})
    house.post({"id": HOSTILE, "email": HOSTILE, "note": HOSTILE, HOSTILE: HOSTILE})
    house.run()
    long = "n" * 200
    house.engine.store.change_lane("crm", "abc", LaneChange(pause=True, reason=HOSTILE), now=NOW)
    paths = ["/", "/lane/crm/abc", "/dead", "/dead/1", "/dead/1/preview", f"/?q={long}"]
    for name in ("q", "kind", "sort", "page", "part"):
        paths.append(f"/?{httpx.QueryParams({name: HOSTILE})}")
    for name in ("client", "reason", "code", "key", "after", "lang"):
        paths.append(f"/dead?{httpx.QueryParams({name: HOSTILE})}")
    paths.append(f"/dead/1?{httpx.QueryParams({'did': 'edit', 'fields': HOSTILE})}")
    for path in paths:
        got = house.http.get(path)
        assert got.status_code == 200, path
        page = Page(got.text)
        assert page.all("img") == [], path
        assert [had for had in page.all("script") if not had.get("src", "").startswith("/static/page.js")] == [], path
        assert not [name for _, had in page.elements for name in had if name.startswith("on")], path
        for mark in ("\u202e", "\u2066", "\x00"):
            assert not [text for text in page.texts if mark in text], path
    assert SCRIPT in house.page("/dead/1").text
    assert "{{ 7*7 }}" in house.page("/dead/1").text
    revealed = Page(house.press("/dead/1", "/dead/1/reveal").text)
    assert revealed.all("img") == []
    assert "\\u202e" in house.page("/").text


def test_marks_that_turn_a_line_around_are_shown_by_their_number() -> None:
    assert seen("a\u202eb\x00c\nd") == "a\\u202eb\\u0000c\nd"
    assert seen("x" * 30, 10) == "x" * 10 + "…"


def test_a_text_names_what_stands_in_its_holes() -> None:
    assert Words("pt")("dead_total", n="1.234") == "1.234 eventos rejeitados"
