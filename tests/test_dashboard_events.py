"""The pages on events: found by id, person and time, their way, and what hostile ids do to them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from conftest import reply
from test_dashboard import CRM, HOSTILE, LOOK, SCRIPT, House, Opened, Page, opened

from engine.dashboard.rendering import POLICY
from engine.dashboard.texts import TEXTS
from engine.privacy.people import digest
from engine.records import Accepted, Draft, Settled
from engine.trail.recording import Limits, Recorder
from engine.trail.sqlite import MEMORY, SqliteKeeper

__all__ = ["opened"]


def follow(house: House, *, share: float = 1.0) -> Recorder:
    """From now on the house keeps what becomes of its events."""
    trail = Recorder(
        SqliteKeeper(MEMORY), b"key", Limits(), now=house.clock.now, telemetry=house.heard, share=share, by_itself=False
    )
    worker, house.engine._trail = house.engine.worker, (trail,)
    worker.world = worker.reporter.world = worker.withdrawn.world = worker.world._replace(trail=trail)
    return trail


@pytest.fixture
def kept(opened: Opened) -> Iterator[House]:
    with opened() as house:
        house.log_in()
        follow(house)
        yield house


def run(house: House) -> None:
    house.run()
    assert house.engine.trail is not None
    assert house.engine.trail.flush(1.0)


def cells(html: str) -> list[list[str]]:
    """The rows of the first table, each cell's text."""
    body = html.split("<tbody>", 1)[1].split("</tbody>", 1)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [
        [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def listed(house: House, **query: str) -> list[list[str]]:
    got = house.http.get("/events", params=query)
    assert got.status_code == 200, got.text
    return cells(got.text) if "<tbody>" in got.text else []


def test_events_are_listed_with_what_became_of_them_the_newest_first(kept: House) -> None:
    kept.post({"id": "e1"})
    run(kept)
    kept.clock.time += 60
    kept.vendor.answer = lambda _: reply(422, {"error": "no such product"})
    kept.post({"id": "e2"})
    run(kept)
    assert listed(kept) == [
        ["e2", "2026-01-28 10:31:45", "abc crm", "note", "rejected HTTP 422 no such product"],
        ["e1", "2026-01-28 10:30:45", "abc crm", "note", "delivered"],
    ]
    assert [row[0] for row in listed(kept, outcome="rejected")] == ["e2"]
    assert [row[0] for row in listed(kept, to="2026-01-28T10:31")] == ["e1"]
    assert [row[0] for row in listed(kept, **{"from": "2026-01-28T10:31:00"})] == ["e2"]
    assert listed(kept, client="nobody") == []


def test_a_person_is_found_by_their_address_and_an_id_by_its_beginning(kept: House) -> None:
    kept.post({"id": "order-2026-1", "email": "ana@example.com"}, {"id": "order-2026-2", "email": "bea@example.com"})
    run(kept)
    assert [row[0] for row in listed(kept, q="ANA@example.com")] == ["order-2026-1"]
    assert [row[0] for row in listed(kept, q="order-2026-2")] == ["order-2026-2"]
    assert [row[0] for row in listed(kept, q="order-20")] == ["order-2026-2", "order-2026-1"]
    assert listed(kept, q="order-2") == []
    assert listed(kept, q="nobody@example.com") == []


def test_the_way_of_an_event_shows_each_attempt_with_request_and_answer(kept: House) -> None:
    kept.vendor.answers = [reply(503), reply(200, {"ok": True, "who": "ana@example.com"})]
    kept.post({"id": "e1", "email": "ana@example.com", "name": "Ana Lima", "note": "for Ana Lima"})
    run(kept)
    page = kept.page("/event?id=e1")
    assert "waits, next try" in page.text
    assert '"name": "***"' in page.text
    kept.clock.time += 3600
    run(kept)
    page = kept.page("/event?id=e1")
    assert "failed, tried again" in page.text
    assert "request: POST api.crm.example" in page.text
    assert [page.text.count(stage) for stage in (" accepted 2026-01-28 10:30:45.000", " taken up 2026-")] == [2, 2]
    assert "Request and answer" in page.text
    assert 'HTTP 200 { "ok": true, "who": "***@example.com" }' in page.text
    assert "The event itself is kept only while it waits" in page.text
    assert "Ana Lima" not in page.text
    assert [each["scope"] for each in page.all("th") if "scope" not in each] == []


def test_what_waits_or_is_a_dead_letter_is_found_without_a_trail_and_the_page_says_what_is_missing(
    opened: Opened,
) -> None:
    with opened() as house:
        house.log_in()
        house.post({"id": "e1", "email": "ana@example.com"})
        got = house.http.get("/events", params={"q": "e1"})
        assert (got.status_code, got.headers["location"]) == (303, "/event?id=e1")
        assert "waits" in house.page("/event?id=e1").text
        house.vendor.answer = lambda _: reply(422, {"error": "no"})
        house.run()
        page = house.page("/event?id=e1")
        assert "dead letter 1" in page.text
        assert {"href": "/dead/1"} in page.all("a")
        assert "is not kept here" in page.text
        assert "is not kept here" in house.page("/events").text
        assert {"href": "/event?id=e1"} in house.page("/dead/1").all("a")


def flushed(house: House) -> None:
    assert house.engine.trail is not None
    assert house.engine.trail.flush(1.0)


def test_an_event_deep_in_a_long_backlog_is_found_by_id_person_and_time_and_waits(
    kept: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.trail.ways.MOST_WAITING", 2)
    kept.post(*({"id": f"e{at}", "email": f"u{at}@example.com"} for at in range(9)))
    row = ["e7", "2026-01-28 10:30:45", "abc crm", "note", "accepted"]
    assert listed(kept, q="e7") == listed(kept, q="u7@example.com") == [row]
    assert row in listed(kept, outcome="accepted", to="2026-01-28T10:31")
    page = kept.page("/event?id=e7")
    assert "Accepted 2026-01-28 10:30:45, for note." in page.text
    assert cells(kept.http.get("/event?id=e7").text)[0] == ["note", "abc crm", "waits", "2026-01-28 10:30:45"]
    assert "were not looked through" not in page.text
    assert "u***@example.com" in page.text


def test_what_no_action_wanted_is_said_to_have_arrived(kept: House) -> None:
    event = Accepted("crm", "abc", "e1", b"{}", kept.clock.now(), ())
    kept.engine.put([event], kept.clock.now(), 0).result()
    flushed(kept)
    assert listed(kept, q="e1")[0][4] == "accepted, no action wanted it"
    assert listed(kept, outcome="unwanted") == listed(kept, q="e1")
    assert "Accepted 2026-01-28 10:30:45; no action wanted it." in kept.page("/event?id=e1").text


def test_what_does_not_wait_any_more_and_has_no_known_end_is_not_said_to_wait(kept: House) -> None:
    kept.post({"id": "e1"}, {"id": "e2"})
    flushed(kept)
    kept.engine.store.settle(None, [Settled(1, "delivered")], now=kept.clock.now())  # nobody wrote it down
    assert cells(kept.http.get("/event?id=e1").text)[0][2].startswith("not known: it does not wait any more")
    assert cells(kept.http.get("/event?id=e2").text)[0][2] == "waits"


def test_what_came_back_from_the_dead_letters_waits_again(kept: House) -> None:
    kept.vendor.answer = lambda _: reply(422, {"error": "no"})
    kept.post({"id": "e1"})
    run(kept)
    kept.post(*({"id": f"more-{at}"} for at in range(20)))
    assert kept.engine.store.requeue([1], now=kept.clock.now()) == 1
    assert cells(kept.http.get("/event?id=e1").text)[0][2].startswith("waits")


def test_an_id_that_comes_again_and_is_not_accepted_is_no_second_event(kept: House) -> None:
    event = Accepted("crm", "abc", "e1", b"{}", kept.clock.now(), (Draft("note"),), dedupe_s=60.0)
    for _ in range(2):
        kept.engine.put([event], kept.clock.now(), 0).result()
    flushed(kept)
    assert len(listed(kept, outcome="accepted")) == 1


def test_who_looks_for_an_event_that_never_was_is_told_so(kept: House) -> None:
    assert "Nothing is known of an event with this id" in kept.page("/event?id=e9", 404).text
    assert "Nothing is known of an event with this id" in kept.page("/event", 404).text
    assert "Nothing that is known fits." in kept.page("/events?q=e9").text


def test_a_time_that_is_none_is_said_and_not_ignored(kept: House) -> None:
    assert "This is no time: yesterday" in kept.page("/events?from=yesterday", 422).text


@pytest.mark.parametrize(
    "event_id", [SCRIPT, "\u202etxt.exe \u2066مرحبا", "a/../../b?c=d&e#f%2F..", "x" * 200, "{{ 7*7 }}", "'\"> "]
)
def test_a_hostile_id_is_shown_as_what_it_is_and_leads_to_its_event(kept: House, event_id: str) -> None:
    kept.vendor.answer = lambda _: reply(422, {"error": HOSTILE})
    kept.post({"id": event_id, "note": HOSTILE})
    run(kept)
    page = kept.page("/events")
    [link] = {each["href"] for each in page.all("a") if each.get("href", "").startswith("/event?")}
    assert link == f"/event?{urlencode({'id': event_id})}"
    for path in (link, f"/events?q={quote(event_id, safe='')}", "/events?client=" + quote(HOSTILE, safe="")):
        got = kept.http.get(path)
        assert got.status_code == 200
        assert got.headers["content-security-policy"] == POLICY
        shown = Page(got.text)
        assert (SCRIPT in got.text, "\u202e" in shown.text, "\x00" in shown.text) == (False, False, False)
        assert [each for each in shown.all("script") if "src" not in each] + shown.all("img") == []
    assert "dead letter 1" in kept.page(link).text


def test_long_lists_go_on_page_by_page(kept: House) -> None:
    for at in range(60):
        kept.clock.time += 1
        kept.post({"id": f"e{at}"})
        kept.run()
    run(kept)
    page = kept.page("/events?client=abc&outcome=delivered")
    [more] = [each["href"] for each in page.all("a") if each.get("rel") == "next"]
    got = kept.http.get(more)
    assert [row[0] for row in cells(got.text)] == [f"e{at}" for at in range(9, -1, -1)]
    assert 'rel="next"' not in got.text


def test_what_was_left_out_is_said(kept: House) -> None:
    trail = kept.engine.trail
    assert trail is not None
    trail._most = 0
    kept.post({"id": "e1"})
    run(kept)
    assert "2 entries are missing here" in kept.page("/events").text


def test_where_much_is_sent_the_exchange_of_what_went_well_may_be_left_out_and_the_page_says_so(kept: House) -> None:
    trail = kept.engine.trail
    assert trail is not None
    trail._share, trail._allowed_s = 0.0, 0.0
    kept.post({"id": "e1"})
    run(kept)
    assert "Request and answer of this batch were not kept" in kept.page("/event?id=e1").text
    kept.vendor.answer = lambda _: reply(422, {"error": "no such product"})
    kept.post({"id": "e2"})
    run(kept)
    assert 'HTTP 422 { "error": "no such product" }' in kept.page("/event?id=e2").text


def test_who_looks_at_events_is_in_the_audit_without_the_address(kept: House) -> None:
    kept.page("/events?q=ana@example.com&client=abc")
    kept.page("/event?id=e9", 404)
    _, found, shown = kept.audit()
    assert found == {"what": "event find", "client": "abc", "text": digest("ana@example.com")}
    assert shown == {"what": "event show", "event_id": "e9"}


def test_the_read_token_may_look_at_events_and_nobody_without_one(opened: Opened) -> None:
    with opened() as house:
        assert house.http.get("/events").status_code == 303
        house.log_in(LOOK)
        assert house.http.get("/events").status_code == 200


def test_pages_on_events_speak_portuguese(kept: House) -> None:
    kept.post({"id": "e1"})
    run(kept)
    page = kept.page("/event?id=e1&lang=pt")
    assert TEXTS["event_now"][1] in page.text
    assert "entregue" in page.text


def test_a_lane_leads_to_its_events(kept: House) -> None:
    kept.post({"id": "e1"})
    run(kept)
    assert {"href": "/events?connector=crm&client=abc"} in kept.page("/lane/crm/abc").all("a")


def test_a_trail_that_cannot_be_read_is_said_on_a_page(kept: House) -> None:
    trail = kept.engine.trail
    assert trail is not None
    trail.keeper.close()
    assert ":memory:: the trail is closed" in kept.page("/events").text


LOG_IN = """
secrets: {key: {title: API key}}
auth:
  token:
    request: {url: 'https://api.crm.example/login', json: {key: "{{ secrets.key }}"}}
    save: {value: "${ response.body.token }"}
    expires: {after: 2h}
  place: {headers: {Authorization: "{{ token.value }}"}}
"""


def stages(house: House, event_id: str = "e1") -> list[str]:
    """What the first attempt on an event's page went through."""
    table = house.http.get("/event", params={"id": event_id}).text.split('<table class="plain">', 1)[1]
    return [row[0] for row in cells(table)]


def test_of_a_log_in_that_failed_no_body_is_kept_and_the_page_says_so(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABC_KEY", "pl4nted-s3cret")
    with opened(crm=LOG_IN + CRM, abc="{client: abc, connectors: {crm: {secrets: {key: env:ABC_KEY}}}}") as house:
        house.log_in()
        follow(house)
        house.vendor.answer = lambda _: reply(401, {"error": "not you"})
        house.post({"id": "e1"})
        run(house)
        page = house.page("/event?id=e1")
        assert stages(house) == ["accepted", "taken up", "mapped", "auth log-in: POST api.crm.example", "written down"]
    kept = "without a body, or a log-in: no body of one is kept"
    assert f"POST https://api.crm.example/login {kept} What came back HTTP 401 {kept}" in page.text
    assert "pl4nted" not in page.text


def test_of_a_log_in_for_look_ups_that_failed_only_stages_are_shown_that_happened_and_the_pause_is_no_retry(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABC_KEY", "pl4nted-s3cret")
    look_up = """
    lookups:
      person:
        key: "${ event.email }"
        sources: {one: {request: {method: GET, path: "/people/{{ key }}"}, rows: "${ list(response.body) }"}}
"""
    crm = LOG_IN + CRM.replace("  note:\n", f"  note:{look_up}", 1)
    with opened(crm=crm, abc="{client: abc, connectors: {crm: {secrets: {key: env:ABC_KEY}}}}") as house:
        house.log_in()
        follow(house)
        house.vendor.answer = lambda _: reply(401, {"error": "not you"})
        house.post({"id": "e1", "email": "ana@example.com"}, {"id": "e2", "email": "bea@example.com"})
        run(house)
        lane = house.engine.store.lane("crm", "abc")
        assert lane is not None
        assert lane.state == "paused"
        assert stages(house) == ["accepted", "taken up", "auth log-in: POST api.crm.example", "written down"]
        assert [name for name, _ in house.heard.events if name == "later"] == []
        hour = next(row for row in cells(house.http.get("/lane/crm/abc").text) if row[0] == "Last hour")
        assert hour == ["Last hour", "0", "0", "0", "0", "0", "0", "1", "0"]


@pytest.mark.parametrize("lang", ["en", "pt"])
def test_where_the_trail_is_of_a_newer_version_the_pages_show_what_the_store_has_and_say_why(
    opened: Opened, tmp_path: Path, lang: str
) -> None:
    keeper = SqliteKeeper(tmp_path / "t.trail.db")
    keeper.salt()
    keeper.close()
    with closing(sqlite3.connect(tmp_path / "t.trail.db")) as db:
        db.execute("PRAGMA user_version = 4")
    with opened() as house:
        house.log_in()
        newer = Recorder(
            SqliteKeeper(tmp_path / "t.trail.db"),
            b"key",
            Limits(),
            now=house.clock.now,
            telemetry=house.heard,
            by_itself=False,
        )
        house.engine._trail = (newer,)
        house.post({"id": "e1"})
        assert house.http.get("/", params={"lang": lang}).status_code == 200
        why = f"{tmp_path}/t.trail.db: a newer version of this program has written it (format 4, this one knows 3)"
        said = {"en": "What became of events can't be read.", "pt": "O destino dos eventos não pode ser lido."}[lang]
        got = house.http.get("/events", params={"q": "e1"})
        assert (got.status_code, got.headers["location"]) == (303, "/event?id=e1")
        for path in ("/events", "/events?q=ana@example.com", "/event?id=e1"):
            text = unescape(house.http.get(path).text)
            assert (said in text, why in text) == (True, True), path
        assert TEXTS["event_waits"][lang == "pt"] in text
        gone = house.http.get("/event?id=e2")
        assert gone.status_code == 404
        assert TEXTS["event_unknown_unread"][lang == "pt"] in unescape(gone.text)
        house.engine.trail.close()


def test_how_many_lanes_with_dead_letters_were_not_asked_is_said(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.trail.ways.MOST_LANES", 1)
    both = {name: f"{{client: {name}, connectors: {{crm: {{}}}}}}" for name in ("abc", "xyz")}
    with opened(**both) as house:
        house.log_in()
        house.vendor.answer = lambda _: reply(422, {"error": "no"})
        house.post({"id": "e1"})
        house.post({"id": "e2"}, client="xyz")
        house.run()
        assert "1 of them were not asked" in house.page("/event?id=e1").text
        alone = house.page("/event?id=e2&client=xyz").text
        assert ("dead letter 2" in alone, "were not asked" in alone) == (True, False)
