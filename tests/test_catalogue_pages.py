from __future__ import annotations

import html
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import httpx
import pytest
from conftest import reply
from test_dashboard import HOSTILE, LOOK, SCRIPT, TOKEN, House, Opened, Page, opened  # noqa: F401

from engine.dashboard.rendering import POLICY

CRM = """
title: The CRM
description: Notes of what people did.
links: {API: https://docs.crm.example/notes, odd: "https://crm.example/?a=<b>&c"}
settings:
  properties:
    region: {type: string, default: eu, title: Region of the account}
    list: {type: string}
  required: [list]
secrets:
  key: {title: API key}
  spare: {optional: true}
auth:
  place: {headers: {X-Key: "${ secrets.key }"}}
receive:
  client: "${ event.client }"
  id: "${ event.id }"
  schema:
    type: object
    properties:
      id: {type: string}
      client: {type: string}
      email: {type: string, format: email}
      note: {type: string}
    required: [id, client]
replies: {message: "${ response.body.error }"}
checks:
  account: {title: the account, request: {method: GET, path: /account}}
actions:
  note:
    when: "${ event.note }"
    record: {id: "${ event.id }", email: "${ lower(event.email) }", list: "${ settings.list }"}
    request: {path: /notes, json: "${ record }", expect: "${ response.status == `200` }"}
  visit:
    active: false
    record: {id: "${ event.id }"}
    request: {path: /visits, json: "${ record }", expect: "${ response.status == `200` }"}
examples:
  - name: a note
    client: {settings: {list: L1}}
    events: [{id: "1", client: example, email: ANA@EXAMPLE.COM, note: hello}]
    outcomes: {note: [delivered]}
    exchange: [{sends: {path: /v1/notes, json: {id: "1", email: ana@example.com, list: L1}}, answers: {status: 200}}]
  - name: a visit
    client: {settings: {list: L1}, actions: {visit: {active: true}}}
    events: [{id: "2", client: example}]
    outcomes: {visit: [delivered]}
    exchange: [{sends: {path: /v1/visits, json: {id: "2"}}, answers: {status: 200}}]
"""
PLANTED = "pl4nted-s3cret-value"
ABC = """
client: abc
title: Loja ABC
ingest: {keys: [env:ABC_WRITE], origins: ["https://www.loja.example", "https://m.loja.example"]}
connectors: {crm: {settings: {list: L9}, secrets: {key: env:ABC_KEY}}}
"""
XYZ = """
client: xyz
ingest: {keys: [env:XYZ_WRITE]}
connectors: {crm: {settings: {list: L8}, secrets: {key: env:NOT_THERE}}}
"""
WRITE = "wr1te-key-of-abc"


@pytest.fixture
def shop(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[House]]:  # noqa: F811
    monkeypatch.setenv("ABC_KEY", PLANTED)
    monkeypatch.setenv("ABC_WRITE", WRITE)

    def open_(**clients: str) -> AbstractContextManager[House]:
        return opened(crm=CRM, **(clients or {"abc": ABC, "xyz": XYZ}))  # type: ignore[no-any-return]

    return open_


@pytest.fixture
def house(shop: Callable[..., AbstractContextManager[House]]) -> Iterator[House]:
    with shop() as house:
        house.log_in()
        yield house


def settled(house: House, path: str) -> Page:
    """The live part of a page, once nothing more is to come."""
    until = time.monotonic() + 30
    while "data-over" not in (got := house.http.get(f"{path}?part=live")).text:
        assert time.monotonic() < until, got.text
        time.sleep(0.02)
    return Page(got.text)


def links(page: Page) -> list[str]:
    return [had["href"] for had in page.all("a")]


# Connectors


def test_the_list_of_connectors_says_title_mode_actions_clients_and_findings(house: House) -> None:
    settled(house, "/connectors")
    page = house.page("/connectors")
    shown = page.text.partition("Findings ")[2]
    assert shown.startswith("crm The CRM stored, then delivered note , visit (off) 2 none ")
    assert "hubspot" in shown  # those that come with the engine come behind
    assert "/connectors/crm" in links(page)


def test_connectors_are_found_by_name_title_or_action(house: House) -> None:
    def found(search: str) -> list[str]:
        page = house.page(f"/connectors?{httpx.QueryParams({'q': search})}")
        return [link[12:] for link in links(page) if re.fullmatch(r"/connectors/[\w-]+", link)]

    assert found("THE crm") == ["crm"]
    assert found("visit note") == ["crm"]
    assert found("nobody") == []
    assert "Nothing fits the search." in house.page("/connectors?q=nobody").text


def test_a_connectors_page_says_how_it_logs_in_how_it_sends_and_where_each_field_comes_from(house: House) -> None:
    page = house.page("/connectors/crm")
    assert "The client's secret goes with each request (X-Key)." in page.text
    assert "A delivery is tried at most" in page.text
    assert "email ${ lower(event.email) } small letters" in page.text
    assert "list ${ settings.list }" in page.text
    assert "No findings. connectors/crm.yaml" in page.text
    outside = [had for had in page.all("a") if had["href"].startswith("http")]
    assert outside == [
        {"href": "https://docs.crm.example/notes", "rel": "noopener noreferrer"},
        {"href": "https://crm.example/?a=<b>&c", "rel": "noopener noreferrer"},
    ]
    assert {"/clients/abc", "/clients/xyz", "/connectors/crm/try", "/connectors/crm/docs"} <= set(links(page))


def test_the_docs_of_a_connector_are_a_page_with_notes_and_without_anybodys_html(house: House) -> None:
    notes = house.engine.project.directory / "docs" / "connectors"
    notes.mkdir(parents=True)
    text = (
        f"Ask *Ana*.\n\n## Set-up\n\n{SCRIPT}\n\n[in](../x.md) [js](javascript:alert(1)) ![i](https://x.example/i.png)"
    )
    text += '\n```mermaid\nflowchart LR\ndoor["#65; #9999999; #55296;"]\n```\n'
    (notes / "crm.notes.md").write_text(text)
    page = house.page("/connectors/crm/docs")
    assert "POST /crm; stored, then answered note; when event.note" in page.text
    assert "Ask Ana ." in page.text
    assert "A #9999999; #55296;" in page.text
    assert SCRIPT in page.text
    assert [had for had in page.all("script") if "src" not in had] == []
    assert page.all("img") == []
    assert "flowchart" not in page.text
    assert [link for link in links(page) if not re.match(r"[/?#]", link)] == [
        "https://docs.crm.example/notes",
        "https://crm.example/?a=%3Cb%3E&c",
        "https://x.example/i.png",  # a picture is a link
    ]


def test_findings_are_those_of_validate_and_are_looked_for_again_when_a_file_changes(house: House) -> None:
    file = house.engine.project.directory / "clients" / "xyz.yaml"
    assert "No findings. clients/xyz.yaml" in settled(house, "/clients/xyz").text
    file.write_text(XYZ.replace("settings: {list: L8}", f"settings: {{lits: L8, token: {PLANTED}}}"))
    time.sleep(1.1)
    shown = settled(house, "/clients/xyz").text
    assert "What connect validate says of clients/xyz.yaml" in shown
    assert 'did you mean "list"?' in shown
    assert "error" in shown
    assert PLANTED not in shown


def test_a_connector_whose_file_is_not_on_this_disk_says_what_is_not_to_be_had(house: House) -> None:
    (house.engine.project.directory / "connectors" / "crm.yaml").unlink()
    (house.engine.project.directory / "clients" / "abc.yaml").unlink()
    house.board.catalogue.catalogue._looked = (float("-inf"), {}, {})
    for path in ("/connectors/crm", "/clients/abc"):
        assert "Its file is not on the disk of this process" in house.page(path).text
    assert "lower(event.email)" in house.page("/connectors/crm").text
    assert "lower(event.email)" in house.page("/connectors/crm/docs").text


# Clients


def test_a_clients_page_shows_settings_and_whether_secrets_are_there_and_no_value_of_one(house: House) -> None:
    page = house.page("/clients/abc")
    assert "Loja ABC" in page.text
    assert "Write keys 1 Signing secrets 0 Origins 2" in page.text
    assert "region Region of the account eu default list L9" in page.text
    assert "key API key env:ABC_KEY yes" in page.text
    assert "spare none is given; not always needed -" in page.text
    missing = house.page("/clients/xyz").text
    assert "env:NOT_THERE no env:NOT_THERE" in missing
    assert "/lane/crm/abc" in links(page)


def test_no_page_shows_a_secret_a_write_key_or_an_origin(house: House) -> None:
    house.vendor.answer = lambda _: reply(401, {"error": f"no such key {PLANTED}"})
    job = house.press("/clients/abc", "/clients/abc/check/crm").headers["location"]
    settled(house, job)
    event = json.dumps({"id": "1", "client": "abc", "note": "x"})
    tried = house.press("/connectors/crm/try", "/connectors/crm/preview", client="abc", event=event)
    paths = [
        "/connectors",
        "/connectors/crm",
        "/connectors/crm/docs",
        "/connectors/crm/try",
        "/clients",
        "/clients/abc",
        job,
    ]
    for text in [tried.text, *(house.http.get(path).text for path in paths)]:
        for secret in (PLANTED, WRITE, "loja.example"):
            assert secret not in text
    assert "***" in tried.text
    assert "no such key ***" in house.page(job).text


def test_five_hundred_clients_are_shown_by_pages_and_found_by_a_search(opened: Opened) -> None:  # noqa: F811
    with opened(**{f"c{at}": f"{{client: shop-{at:03}, connectors: {{crm: {{}}}}}}" for at in range(120)}) as house:
        house.log_in()

        def shown(query: str) -> list[str]:
            found = [link for link in links(house.page(f"/clients?{query}")) if link.startswith("/clients/")]
            return [link.removeprefix("/clients/shop-") for link in found]

        assert shown("") == [f"{at:03}" for at in range(50)]
        assert shown("page=3") == [f"{at:03}" for at in range(100, 120)]
        assert shown("q=SHOP-11+crm") == [f"{at}" for at in range(110, 120)]
        page = house.page("/connectors/crm")
        assert "and 70 more" in page.text


# Names


@pytest.mark.parametrize("name", ["a/b", "..", "n" * 200, "a?b#c%2F~2F", f"x{SCRIPT}", "\u202e/loja ção", "a/pause"])
def test_pages_are_found_whatever_the_names_are(opened: Opened, name: str) -> None:  # noqa: F811
    with opened() as house:
        house.log_in()
        house.engine.store.change_lane("crm", name, _a_change(), now=house.clock.now())
        house.clock.time += 2
        time.sleep(1.05)
        [lane] = [link for link in links(house.page("/")) if link.startswith("/lane/") and link != "/lane/crm/abc"]
        page = house.page(lane)
        assert _seen(name) in page.text
        done = house.press(lane, f"{lane}/resume")
        assert "It goes on." in house.page(done.headers["location"]).text
        [client] = [link for link in links(page) if link.startswith("/clients/")]
        assert _seen(name) in house.page(client).text
        assert lane in links(house.page(client))


def _a_change() -> Any:
    from engine.records import LaneChange

    return LaneChange(pause=True, reason="by hand")


def _seen(name: str) -> str:
    return name.replace("\u202e", "\\u202e")


def test_what_is_not_there_is_a_page_that_says_so(house: House) -> None:
    for path in (
        "/connectors/no",
        "/connectors/no/docs",
        "/connectors/no/try",
        "/clients/no",
        "/checks/no",
        "/sent/no",
    ):
        house.page(path, 404)
    assert house.page("/connectors/crm/try?client=nobody", 404)


# Check log-in


def test_a_log_in_is_checked_as_connect_check_does_and_the_outcome_is_on_the_page(house: House) -> None:
    done = house.press("/clients/abc", "/clients/abc/check/crm")
    page = settled(house, done.headers["location"])
    assert "The log-in works." in page.text
    assert "the account passed 200 HTTP 200 to GET https://api.crm.example/v1/account" in page.text
    [asked] = house.vendor.asked
    assert (asked.method, asked.headers["X-Key"]) == ("GET", PLANTED)
    house.vendor.answer = lambda _: reply(403, {"error": "not yours"})
    failed = settled(house, house.press("/clients/abc", "/clients/abc/check/crm").headers["location"])
    assert "The log-in does not work." in failed.text
    assert "the account failed 403" in failed.text
    no_secret = settled(house, house.press("/clients/xyz", "/clients/xyz/check/crm").headers["location"])
    assert "It could not be checked: env:NOT_THERE" in no_secret.text
    line = {"what": "check log-in", "connector": "crm"}
    assert house.audit()[1:] == [
        {**line, "client": "abc"},
        {**line, "client": "abc"},
        {**line, "client": "xyz"},
    ]


def test_a_crm_that_hangs_holds_up_one_check_and_nothing_else(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.dashboard.logins.LONGEST_S", 0.2)
    monkeypatch.setattr("engine.dashboard.logins.AT_ONCE", 1)
    go_on = threading.Event()

    def hang(_: Any) -> Any:
        go_on.wait(30)
        return reply(200, {})

    house.vendor.answer = hang
    try:
        first = house.press("/clients/abc", "/clients/abc/check/crm").headers["location"]
        assert house.press("/clients/abc", "/clients/abc/check/crm").headers["location"] == first
        other = house.press("/clients/xyz", "/clients/xyz/check/crm")
        assert (other.status_code, "Nothing was done." in other.text) == (429, True)
        time.sleep(0.3)
        assert "the CRM hangs, or is very slow" in house.page(first).text
        assert house.page("/").text.startswith("Overview")
    finally:
        go_on.set()
    assert "The log-in works." in settled(house, first).text


def test_as_many_checks_as_are_said_to_be_are_remembered(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.dashboard.logins.MAX_REMEMBERED", 4)
    pages = []
    for _ in range(5):
        pages.append(house.press("/clients/abc", "/clients/abc/check/crm").headers["location"])
        settled(house, pages[-1])
    assert [house.http.get(page).status_code for page in pages] == [404, 200, 200, 200, 200]


# Try an event


def test_an_example_is_offered_as_the_client_would_send_it(house: House) -> None:
    page = house.http.get("/connectors/crm/try?client=xyz")
    text = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page.text, re.DOTALL)
    assert text is not None
    assert json.loads(html.unescape(text[1])) == {
        "id": "1",
        "client": "xyz",
        "email": "ANA@EXAMPLE.COM",
        "note": "hello",
    }
    assert "(none: my own event) a note" in Page(page.text).text


def test_an_event_is_previewed_beside_what_it_would_cause_and_nothing_is_sent(house: House) -> None:
    event = {"id": "7", "client": "abc", "email": "BIA@EXAMPLE.COM", "note": "hi"}
    got = house.press("/connectors/crm/try", "/connectors/crm/preview", client="abc", event=json.dumps(event))
    assert got.status_code == 200
    shown = Page(got.text).text
    assert "POST https://api.crm.example/v1/notes" in shown
    assert '{ "id": "7", "email": "bia@example.com", "list": "L9" }' in shown
    assert "X-Key: ***" in shown
    assert "visit : not active" in shown
    assert "note : delivered" in shown
    assert house.vendor.asked == []
    assert house.engine.store.lanes() == []
    assert house.audit()[-1] == {"what": "event preview", "connector": "crm", "client": "abc"}


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ("{", "the body is not JSON"),
        ('{"id": 7, "client": "abc"}', "the event does not fit its schema"),
        ('{"id": "7", "client": "xyz"}', "the event is another client's"),
        ('{"client": "abc", "email": "x"}', "id missing"),
        (json.dumps([{"id": str(at), "client": "abc"} for at in range(21)]), "21 events; here 20 is the most"),
        (json.dumps({"id": "x" * 1_000_001, "client": "abc"}), "a body has at most 1000000 bytes"),
    ],
)
def test_an_event_that_would_not_be_taken_is_told_its_fields_and_reasons(house: House, event: str, says: str) -> None:
    for path, more in (("preview", {}), ("send", {"sure": "yes"})):
        fields = {**house.page("/connectors/crm/try").form("/connectors/crm/preview"), "event": event, **more}
        got = house.http.post(f"/connectors/crm/{path}", data=fields)
        assert got.status_code == 422
        if "another" not in says or path == "preview":
            assert says in Page(got.text).text
    assert house.engine.store.lanes() == []


def test_an_event_is_sent_only_if_it_is_meant_and_goes_the_way_of_one_that_was_posted(house: House) -> None:
    event = json.dumps({"id": "7", "client": "abc", "note": "hi", "email": "bia@example.com"})
    preview = Page(house.press("/connectors/crm/try", "/connectors/crm/preview", client="abc", event=event).text)
    fields = {**preview.form("/connectors/crm/send"), "event": event}
    assert fields["client"] == "abc"
    unsure = house.http.post("/connectors/crm/send", data=fields)
    assert (unsure.status_code, "Nothing was sent" in unsure.text) == (422, True)
    assert house.engine.store.lanes() == []
    done = house.http.post("/connectors/crm/send", data={**fields, "sure": "yes"})
    page = house.page(done.headers["location"])
    assert "It is in the buffer and on its way. Each event that was taken Id of the event Goes to 7 note" in page.text
    assert {"/lane/crm/abc", "/event?id=7"} <= set(links(page))
    assert house.heard.named("accepted") == [{"connector": "crm", "client": "abc", "count": 1}]
    house.run()
    assert house.vendor.bodies == [{"id": "7", "email": "bia@example.com", "list": "L9"}]
    assert "Accepted" in house.page("/lane/crm/abc").text
    again = house.http.post("/connectors/crm/send", data={**fields, "sure": "yes"})
    assert again.status_code == 303
    line = {"what": "event send", "connector": "crm", "client": "abc", "events": ["7"]}
    assert house.audit()[-2:] == [line, line]


# Who may what


def test_the_read_token_looks_and_previews_and_neither_checks_nor_sends(house: House) -> None:
    event = json.dumps({"id": "7", "client": "abc", "note": "hi"})
    check = house.page("/clients/abc").form("/clients/abc/check/crm")
    preview = Page(house.press("/connectors/crm/try", "/connectors/crm/preview", client="abc", event=event).text)
    send = {**preview.form("/connectors/crm/send"), "sure": "yes"}
    house.http.cookies.clear()
    house.log_in(LOOK)
    for path in ("/connectors", "/connectors/crm", "/connectors/crm/docs", "/clients", "/clients/abc"):
        forms = [form["action"] for form in house.page(path).all("form") if form.get("method") == "post"]
        assert forms == ["/logout"], path
    tried = house.press("/connectors/crm/try", "/connectors/crm/preview", client="abc", event=event)
    assert (tried.status_code, "POST https://api.crm.example/v1/notes" in tried.text) == (200, True)
    posted = [form["action"] for form in Page(tried.text).all("form") if form.get("method") == "post"]
    assert posted == ["/logout", "/connectors/crm/preview"]
    own = house.page("/").form("/logout")["form"]
    for action, fields in (("/clients/abc/check/crm", check), ("/connectors/crm/send", send)):
        for form in (fields["form"], own):
            got = house.http.post(action, data={**fields, "form": form})
            assert (got.status_code, "The read token may look" in got.text) == (403, True)
    assert house.vendor.asked == []
    assert house.engine.store.lanes() == []


def test_without_a_form_of_our_own_nothing_is_checked_tried_or_sent(house: House) -> None:
    event = json.dumps({"id": "7", "client": "abc", "note": "hi"})
    fields = {"client": "abc", "event": event, "sure": "yes"}
    for action in ("/clients/abc/check/crm", "/connectors/crm/preview", "/connectors/crm/send"):
        for form in ({}, {"form": "1.x"}):
            assert house.http.post(action, data={**fields, **form}).status_code == 403
    house.http.cookies.clear()
    for path in ("/connectors", "/connectors/crm", "/connectors/crm/try", "/clients", "/clients/abc", "/checks/x"):
        assert house.http.get(path).status_code == 303
    assert house.vendor.asked == []
    assert [line["what"] for line in house.audit()] == ["log in"]


# What each of them is


def test_hostile_texts_on_these_pages_are_shown_as_what_they_are(
    shop: Callable[..., AbstractContextManager[House]],
) -> None:
    hostile = HOSTILE.replace("\x00", "")
    client = {
        "title": hostile,
        "connectors": {"crm": {"settings": {"list": hostile}, "secrets": {"key": "env:ABC_KEY"}}},
    }
    with shop(abc=f"{{client: abc, {json.dumps(client)[1:]}") as house:
        house.log_in()
        house.vendor.answer = lambda _: reply(400, {"error": HOSTILE})
        check = house.press("/clients/abc", "/clients/abc/check/crm").headers["location"]
        settled(house, check)
        event = json.dumps({"id": HOSTILE, "client": "abc", "note": HOSTILE, HOSTILE: HOSTILE})
        form = {**house.page("/connectors/crm/try").form("/connectors/crm/preview"), "event": event}
        sent = house.http.post("/connectors/crm/send", data={**form, "sure": "yes"}).headers["location"]
        answers = [house.http.post("/connectors/crm/preview", data=form)]
        answers += [house.http.post("/connectors/crm/preview", data={**form, "event": HOSTILE})]
        paths = ["/clients", "/clients/abc", "/connectors", "/connectors/crm", "/connectors/crm/docs", check, sent]
        paths += [f"/{name}?{httpx.QueryParams({'q': HOSTILE, 'page': HOSTILE})}" for name in ("clients", "connectors")]
        answers += [house.http.get(path) for path in paths]
        for got in answers:
            assert got.status_code in (200, 422), got.url
            page = Page(got.text)
            assert page.all("img") == [], got.url
            assert [had for had in page.all("script") if not had.get("src", "").startswith("/static/")] == [], got.url
            assert not [name for _, had in page.elements for name in had if name.startswith("on")], got.url
            for mark in ("\u202e", "\u2066", "\x00"):
                assert not [text for text in page.texts if mark in text and "textarea" not in got.text], got.url
        assert SCRIPT in house.page("/clients/abc").text


def test_these_pages_need_no_script_have_the_policy_and_can_be_read_aloud(house: House) -> None:
    event = json.dumps({"id": "7", "client": "abc", "note": "hi"})
    tried = house.press("/connectors/crm/try", "/connectors/crm/preview", client="abc", event=event)
    refused = house.press("/connectors/crm/try", "/connectors/crm/preview", client="abc", event='{"id": 1}')
    send = {**Page(tried.text).form("/connectors/crm/send"), "event": event, "sure": "yes"}
    sent = house.http.post("/connectors/crm/send", data=send).headers["location"]
    check = house.press("/clients/abc", "/clients/abc/check/crm").headers["location"]
    settled(house, check)
    paths = [
        "/connectors",
        "/connectors/crm",
        "/connectors/crm/docs",
        "/connectors/crm/try",
        "/clients",
        "/clients/abc",
    ]
    for got in [tried, refused, *(house.http.get(path) for path in [*paths, check, sent, "/connectors/hubspot/docs"])]:
        assert got.headers["content-security-policy"] == POLICY
        page = Page(got.text)
        names = [name for name, _ in page.elements]
        assert [name for name in names if name == "style"] == []
        assert not [name for _, had in page.elements for name in had if name == "style" or name.startswith("on")]
        assert (names.count("h1"), names.count("main"), names.count("script")) == (1, 1, 1)
        assert names.count("caption") == names.count("table")
        assert all("scope" in had for had in page.all("th"))
        levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
        assert all(after - before <= 1 for before, after in pairwise(levels)), levels
        ids = [had["id"] for _, had in page.elements if "id" in had]
        assert len(ids) == len(set(ids))
        fields = len(re.findall(r"<(?:input(?![^>]*hidden)|select|textarea)", got.text))
        assert fields == len(re.findall(r"<label[^>]*>[^<]*<(?:input|select|textarea)", got.text))
        for tag, had in page.elements:
            for name in ("src", "action"):
                assert re.match(r"[/?#]", had.get(name, "/"))
            if not re.match(r"[/?#]", had.get("href", "/")):
                assert (tag, had["rel"]) == ("a", "noopener noreferrer")


def test_these_pages_are_in_portuguese_too(house: House) -> None:
    house.page("/?lang=pt")
    assert "Nenhum problema." in house.page("/connectors/crm").text
    assert "Chaves de escrita 1" in house.page("/clients/abc").text
    assert "Testar um evento" in house.page("/connectors/crm/try").text
    assert TOKEN not in house.page("/clients").text
