# ruff: noqa: E501 (YAML and what it leads to stand side by side)
from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import REFUSED, TIMED_OUT, Answer, Shop, Vendor, client_from, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.caching import Cache
from engine.clock import VirtualClock
from engine.http import Prepared
from engine.lookups import Found
from engine.program import Program
from engine.records import Outcome, OutcomeKind
from engine.sending import Masker
from engine.spec.load import load_connector
from engine.spec.located import read
from engine.stores.memory import MemoryStore
from engine.wire import Wire

HEAD = """
connect: 1
name: crm
title: CRM
hosts: [api.crm.example]
settings: {properties: {list: {type: string}}}
receive: {client: "${ event.client }"}
http: {base_url: https://api.crm.example/v1}
replies: {code: "${ response.body.code }", outcomes: [{code: SLOW, then: throttle, wait: 5s}, {code: BAD, then: reject}]}
"""

PEOPLE = """
actions:
  note:
    lookups:
      person:
        keys: ${ event.email }
        cache: 10m
        sources:
          contact:
            request: {method: GET, path: /contacts, query: {emails: "${ join(batch.keys, ',') }"}}
            rows: ${ response.body.rows }
            row_key: ${ row.email }
            next: ${ response.body.next }
            chunk: {bytes: 100B}
            add: {type: Contact}
          lead:
            request: {method: GET, path: /leads, query: {emails: "${ join(batch.keys, ',') }"}}
            rows: ${ response.body.rows }
            row_key: ${ row.email }
    record: {id: "${ lookups.person.id }"}
    request: {path: /notes, json: "${ record }"}
"""


class Wired:
    """One client's look-ups at a vendor that answers as it is told."""

    def __init__(self, actions: str, vendor: Vendor, settings: dict[str, Any] | None = None) -> None:
        connector, findings, _ = load_connector(read(HEAD + actions, "f"))
        assert connector is not None, findings
        client = client_from()
        binding = client.connectors["crm"]
        self.program = Program(connector, client, type(binding)(settings=settings or {}), jitter=lambda: 1.0)
        self.program.require_sound("f")
        self.vendor, self.clock = vendor, VirtualClock()
        self.heard: list[str] = []
        self.wire = Wire(
            connector="crm", client="abc", scope=self.program.scope, secrets={}, fingerprint="", store=MemoryStore(),
            transport=vendor, clock=self.clock, masker=Masker(), telemetry=self, owner="o",
        )  # fmt: skip

    def event(self, name: str, /, **_: object) -> None:
        self.heard.append(name)

    def find(self, *events: dict[str, Any], name: str = "person", action: str = "note") -> list[Found]:
        scopes = [{**self.program.row_scope(event, 0.0), "lookups": {}} for event in events]
        return self.program.actions[action].lookups[name].find(self.wire, scopes)

    def values(self, *emails: Any, **where: str) -> list[Any]:
        """The value of each address, or the outcome that ended its row."""
        found = self.find(*({} if email is None else {"email": email} for email in emails), **where)
        return [one.value if one.outcome is None else one.outcome for one in found]

    @property
    def lines(self) -> list[str]:
        return [
            f"{urlsplit(one.url).path} {parse_qs(urlsplit(one.url).query).get('emails', [''])[0]}"
            for one in self.vendor.asked
        ]


def asked_for(request: Prepared) -> list[str]:
    return parse_qs(urlsplit(request.url).query).get("emails", [""])[0].split(",")


def directory(**people: list[str]) -> Vendor:
    """Answers /contacts and /leads from lists of addresses."""

    def answer(request: Prepared) -> Answer:
        known = people.get(urlsplit(request.url).path.rsplit("/", 1)[1], [])
        return reply(200, {"rows": [{"email": one, "id": f"id-{one}"} for one in asked_for(request) if one in known]})

    return Vendor(answer=answer)


def person(email: str, kind: str | None = "Contact") -> dict[str, str]:
    return {"email": email, "id": f"id-{email}"} | ({"type": kind} if kind else {})


NOT_FOUND = Outcome(OutcomeKind.REJECT, "look-up person: not found", "not-found", expected=True)


# --- keys ---


def test_the_keys_of_many_rows_are_one_request_and_each_row_gets_its_own() -> None:
    wired = Wired(PEOPLE, directory(contacts=["a", "b"]))
    assert wired.values("b", "a", "b", "b") == [person("b"), person("a"), person("b"), person("b")]
    assert wired.lines == ["/v1/contacts b,a"]


def test_the_second_source_is_asked_for_the_rest_only() -> None:
    wired = Wired(PEOPLE, directory(contacts=["a"], leads=["a", "c"]))
    assert wired.values("a", "b", "c") == [person("a"), NOT_FOUND, person("c", None)]
    assert wired.lines == ["/v1/contacts a,b,c", "/v1/leads b,c"]
    wired = Wired(PEOPLE, directory(contacts=["a"]))
    wired.values("a")
    assert wired.lines == ["/v1/contacts a"]


def test_an_absent_or_empty_key_asks_nobody() -> None:
    wired = Wired(PEOPLE, directory())
    assert wired.values(None, "") == [NOT_FOUND, NOT_FOUND]
    assert wired.vendor.asked == []


def test_a_key_of_a_wrong_type_is_that_row_s_own_fault() -> None:
    wired = Wired(PEOPLE, directory(contacts=["a", "5"]))
    first, bad, number = wired.values("a", ["x"], 5)
    assert (first, number) == (person("a"), person("5"))
    assert (bad.kind, bad.everyone) == (OutcomeKind.REJECT, False)
    assert wired.lines == ["/v1/contacts a,5"]


@given(st.lists(st.text("abcé", min_size=1, max_size=12), min_size=1, max_size=25, unique=True))
@settings(max_examples=50, deadline=None)
def test_chunks_never_exceed_the_bytes_of_the_url_and_lose_no_key(emails: list[str]) -> None:
    wired = Wired(PEOPLE, directory(contacts=emails))
    assert wired.values(*emails) == [person(email) for email in emails]
    urls = [one.url for one in wired.vendor.asked]
    assert [key for one in wired.vendor.asked for key in asked_for(one)] == emails
    for url, one in zip(urls, wired.vendor.asked, strict=True):
        assert len(url) <= 100 or len(asked_for(one)) == 1


def test_chunks_by_keys() -> None:
    wired = Wired(PEOPLE.replace("bytes: 100B", "keys: 2"), directory(contacts=list("abcde")))
    wired.values(*"abcde")
    assert wired.lines == ["/v1/contacts a,b", "/v1/contacts c,d", "/v1/contacts e"]


def test_a_look_up_with_key_asks_for_one_at_a_time() -> None:
    text = """
actions:
  note:
    lookups:
      person:
        key: ${ event.email }
        sources: {one: {request: {method: GET, path: "/people/{{ key }}"}, rows: "${ list(response.body) }", absent_on: [404]}}
    record: {}
    request: {path: /notes}
"""
    answers = {"/v1/people/a": reply(200, {"id": 1}), "/v1/people/b%2Fc": reply(404, {"error": "none"})}
    wired = Wired(text, Vendor(answer=lambda request: answers[urlsplit(request.url).path]))
    assert wired.values("a", "b/c", "a") == [{"id": 1}, NOT_FOUND, {"id": 1}]
    assert [urlsplit(one.url).path for one in wired.vendor.asked] == ["/v1/people/a", "/v1/people/b%2Fc"]


def test_args_of_a_definition_are_seen_by_request_rows_and_keys() -> None:
    text = """
actions:
  note:
    lookups:
      person:
        keys: ${ event.email }
        sources: {contact: {$use: find, args: {object: contacts, field: email}}, lead: {$use: find, args: {object: leads, field: mail}}}
    record: {}
    request: {path: /notes}
definitions:
  sources:
    find:
      request: {method: GET, path: "/{{ args.object }}", query: {emails: "${ join(batch.keys, ',') }"}}
      rows: ${ get(response.body, args.object) }
      row_key: ${ get(row, args.field) }
"""
    answers = {"contacts": {"contacts": [{"email": "a"}]}, "leads": {"leads": [{"mail": "b"}]}}
    wired = Wired(text, Vendor(answer=lambda request: reply(200, answers[urlsplit(request.url).path[4:]])))
    assert wired.values("a", "b") == [{"email": "a"}, {"mail": "b"}]
    assert wired.lines == ["/v1/contacts a,b", "/v1/leads b"]


# --- pages ---


def test_pages_are_followed_to_the_last() -> None:
    wired = Wired(
        PEOPLE,
        Vendor(
            reply(200, {"rows": [{"email": "a", "id": 1}], "next": "/v1/page/2"}),
            reply(200, {"rows": [], "next": "https://api.crm.example/v1/page/3"}),
            reply(200, {"rows": [{"email": "b", "id": 2}], "next": ""}),
        ),
    )
    assert [one["id"] for one in wired.values("a", "b")] == [1, 2]
    assert [one.url for one in wired.vendor.asked[1:]] == [
        "https://api.crm.example/v1/page/2",
        "https://api.crm.example/v1/page/3",
    ]


@pytest.mark.parametrize(
    "link",
    ["https://evil.example/", "http://api.crm.example/", "https://u:p@api.crm.example/", "//evil.example/x", "/a b"],
)
def test_a_page_elsewhere_is_refused_and_is_no_key_s_fault(link: str) -> None:
    wired = Wired(PEOPLE, Vendor(reply(200, {"rows": [{"email": "a"}], "next": link})))
    one, two = wired.values("a", "b")
    assert (one.kind, one.otherwise, one.everyone) == (OutcomeKind.RETRY, OutcomeKind.PAUSE, True)
    assert two == one
    assert len(wired.vendor.asked) == 1


def test_pages_without_end_end() -> None:
    wired = Wired(PEOPLE, Vendor(reply(200, {"rows": [], "next": "/v1/contacts"})))
    [found] = wired.values("a")
    assert (found.kind, found.reason) == (
        OutcomeKind.RETRY,
        "HTTP 200, and the reply can't be read: more than 1000 pages of rows",
    )


# --- none and many ---


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("reject", NOT_FOUND),
        ("skip", Outcome(OutcomeKind.SKIP, "look-up person: not found", "not-found", expected=True)),
        ("continue", None),
    ],
)
def test_when_absent_decides_what_becomes_of_a_row_that_is_not_found(answer: str, expected: Any) -> None:
    wired = Wired(PEOPLE.replace("cache: 10m", f"when_absent: {answer}"), directory(contacts=["a"]))
    assert wired.values("a", "b", None) == [person("a"), expected, expected]


def test_when_many_takes_the_first_or_rejects() -> None:
    two = Vendor(reply(200, {"rows": [{"email": "a", "id": 1}, {"email": "a", "id": 2}]}))
    assert Wired(PEOPLE, two).values("a") == [{"email": "a", "id": 1, "type": "Contact"}]
    many = Wired(PEOPLE.replace("cache: 10m", "when_many: reject"), two)
    assert many.values("a") == [Outcome(OutcomeKind.REJECT, "look-up person: 2 found, one is needed")]


def test_a_row_may_be_found_under_several_keys() -> None:
    vendor = Vendor(reply(200, {"rows": [{"id": 1, "mails": ["a", "b"]}]}))
    wired = Wired(PEOPLE.replace("row_key: ${ row.email }", "row_key: ${ row.mails }", 1), vendor)
    assert [one["id"] for one in wired.values("a", "b")] == [1, 1]


def test_when_leaves_rows_out_without_asking() -> None:
    wired = Wired(PEOPLE.replace("cache: 10m", "when: \"${ event.email != 'a' }\""), directory(contacts=["a", "b"]))
    assert wired.values("a", "b") == [None, person("b")]
    assert wired.lines == ["/v1/contacts b"]


# --- cache ---


def test_what_was_found_is_kept_for_its_time_and_what_was_not_is_asked_again() -> None:
    wired = Wired(PEOPLE, directory(contacts=["a"]))
    wired.values("a", "b")
    wired.clock.sleep(599)
    assert wired.values("a", "b") == [person("a"), NOT_FOUND]
    wired.clock.sleep(2)
    wired.values("a")
    assert wired.lines == ["/v1/contacts a,b", "/v1/leads b", "/v1/contacts b", "/v1/leads b", "/v1/contacts a"]


def test_what_was_stale_is_forgotten() -> None:
    wired = Wired(PEOPLE, directory(contacts=["a"]))
    wired.values("a")
    wired.program.actions["note"].forget(wired.wire, "person", {"event": {"email": "a"}})
    wired.values("a")
    assert wired.lines == ["/v1/contacts a", "/v1/contacts a"]


TWO = """
actions:
  one: {lookups: {person: {$use: person}}, record: {}, request: {path: /x}}
  two: {lookups: {person: {$use: person}}, record: {}, request: {path: /x}}
  other: {lookups: {person: {$use: person, when_many: reject}}, record: {}, request: {path: /x}}
definitions:
  lookups:
    person:
      keys: ${ event.email }
      cache: 10m
      sources:
        contact:
          request: {method: GET, path: /contacts, query: {emails: "${ join(batch.keys, ',') }"}}
          rows: ${ response.body.rows }
          row_key: ${ row.email }
"""


def test_actions_share_what_one_look_up_found_but_not_one_that_only_has_the_name() -> None:
    wired = Wired(TWO, directory(contacts=["a"]))
    for action in ("one", "two", "other"):
        assert wired.values("a", action=action) == [person("a", None)]
    assert len(wired.vendor.asked) == 2


def test_a_full_cache_lets_the_oldest_go() -> None:
    cache = Cache()
    for at in range(100_001):
        cache.put("x", str(at), at, 0.0, 10.0)
    assert cache.get("x", "0", 0.0) is None
    assert cache.get("x", "1", 0.0) == (1,)
    assert cache.get("x", "1", 10.0) is None
    assert len(cache.kept) == 100_000


def test_what_is_over_leaves_the_cache_and_what_came_anew_is_not_the_oldest() -> None:
    cache = Cache()
    for at in range(10):
        cache.put("x", str(at), at, 0.0, 10.0)
    cache.put("x", "0", "again", 5.0, 10.0)
    for at in range(10, 20):
        cache.put("x", str(at), at, 11.0, 10.0)
    assert cache.get("x", "0", 11.0) == ("again",)
    assert [key for _, key in cache.kept] == ["0", *(str(at) for at in range(10, 20))]


# --- when the vendor does not answer ---


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (REFUSED, OutcomeKind.RETRY),
        (reply(503, {}), OutcomeKind.RETRY),
        (reply(200, {"code": "SLOW"}), OutcomeKind.THROTTLE),
        (reply(429, {}), OutcomeKind.THROTTLE),
        (reply(403, {}), OutcomeKind.PAUSE),
        (reply(200, {"unexpected": 1}), OutcomeKind.RETRY),
        (reply(200, {"rows": "none"}), OutcomeKind.RETRY),
        (reply(200, {"rows": [{"email": {"x": 1}}]}), OutcomeKind.RETRY),
        (reply(200, text="<html>"), OutcomeKind.RETRY),
        (reply(204), OutcomeKind.RETRY),
    ],
)
def test_a_failure_of_the_vendor_is_everyone_s_and_nobody_is_taken_for_not_found(
    answer: Answer, kind: OutcomeKind
) -> None:
    wired = Wired(PEOPLE, Vendor(answer))
    one, two = wired.values("a", "b")
    assert (one.kind, one.everyone) == (kind, True)
    assert two == one
    assert len(wired.vendor.asked) == 1


def test_a_key_that_makes_the_vendor_refuse_the_whole_request_is_found_by_halving() -> None:
    def answer(request: Prepared) -> Answer:
        keys = asked_for(request)
        return reply(200, {"code": "BAD"}) if "x" in keys else reply(200, {"rows": [person(key, None) for key in keys]})

    wired = Wired(PEOPLE, Vendor(answer=answer))
    *good, bad = wired.values(*"abcx")
    assert good == [person(key) for key in "abc"]
    assert (bad.kind, bad.reason.startswith("look-up person: ")) == (OutcomeKind.REJECT, True)
    assert wired.lines == [f"/v1/contacts {keys}" for keys in ("a,b,c,x", "a,b", "c,x", "c", "x")]


def test_what_the_first_chunks_found_is_not_lost_when_a_later_one_fails() -> None:
    answers = iter([reply(200, {"rows": [person("a", None)]}), reply(503, {})])
    wired = Wired(PEOPLE.replace("bytes: 100B", "keys: 1"), Vendor(answer=lambda _: next(answers)))
    one, two, three = wired.values("a", "b", "c")
    assert one == person("a")
    assert (two.kind, two.everyone) == (OutcomeKind.RETRY, True)
    assert three == two


# --- one document for the client ---

DOCUMENT = """
actions:
  note:
    lookups:
      fields:
        when: ${ event.email }
        cache: 1h
        sources:
          list:
            request: {method: GET, path: "/{{ args.what }}/{{ settings.list }}"}
            args: {what: fields}
            absent_on: [404]
        value: ${ response.body.fields }
    record: {}
    request: {path: /notes}
"""


def test_a_document_is_asked_once_for_all_rows_and_kept() -> None:
    wired = Wired(DOCUMENT, Vendor(reply(200, {"fields": {"a": 1}})), {"list": "x"})
    assert wired.values("a", None, "b", name="fields") == [{"a": 1}, None, {"a": 1}]
    assert wired.values("c", name="fields") == [{"a": 1}]
    assert [urlsplit(one.url).path for one in wired.vendor.asked] == ["/v1/fields/x"]
    wired.program.actions["note"].forget(wired.wire, "fields", {"event": {}})
    wired.values("c", name="fields")
    assert len(wired.vendor.asked) == 2


def test_nobody_asks_for_a_document_that_no_row_wants() -> None:
    wired = Wired(DOCUMENT, Vendor(), {"list": "x"})
    assert wired.values(None, name="fields") == [None]
    assert wired.vendor.asked == []


def test_a_document_that_is_not_there_is_absent() -> None:
    for answer in (reply(404, {"fields": 1}), reply(200, {})):
        assert Wired(DOCUMENT, Vendor(answer), {"list": "x"}).values("a", name="fields") == [
            Outcome(OutcomeKind.REJECT, "look-up fields: not found", "not-found", expected=True)
        ]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(REFUSED, OutcomeKind.RETRY), (reply(400, {}), OutcomeKind.PAUSE), (reply(429, {}), OutcomeKind.THROTTLE)],
)
def test_a_failure_of_a_document_rejects_nobody(answer: Answer, kind: OutcomeKind) -> None:
    [found] = Wired(DOCUMENT, Vendor(answer), {"list": "x"}).values("a", name="fields")
    assert (found.kind, found.everyone) == (kind, True)


def test_a_document_whose_request_can_not_be_built_stops_the_lane() -> None:
    wired = Wired(DOCUMENT, Vendor())
    [found] = wired.values("a", name="fields")
    assert (found.kind, found.everyone) == (OutcomeKind.PAUSE, True)
    assert "settings.list is absent" in found.reason
    assert wired.vendor.asked == []


# --- in the walk ---


@pytest.mark.parametrize("answer", [REFUSED, reply(503, {}), reply(200, {"odd": 1}), reply(429, {}), reply(403, {})])
def test_a_look_up_that_fails_never_counts_as_delivered_or_not_found(answer: Answer) -> None:
    shop = Shop("\n".join([*HEAD.splitlines()[4:], PEOPLE]), vendor=Vendor(answer))
    shop.post({"id": "1", "email": "a"}, {"id": "2", "email": "b"})
    shop.drain()
    assert shop.sums() == {"waiting": 2}
    assert all("/notes" not in line for line in shop.vendor.lines)


def test_the_walk_goes_on_when_the_vendor_is_back() -> None:
    down = iter([reply(503, {})])

    def answer(request: Prepared) -> Answer:
        if request.method == "POST":
            return reply(200, {})
        return next(down, None) or reply(200, {"rows": [person(key, None) for key in asked_for(request) if key == "a"]})

    shop = Shop("\n".join([*HEAD.splitlines()[4:], PEOPLE]), vendor=Vendor(answer=answer))
    shop.post({"id": "1", "email": "a"}, {"id": "2", "email": "b"})
    shop.drain(for_s=3600)
    assert shop.sums() == {"delivered": 1, "rejected": 1}
    assert list(shop.reasons().values()) == ["look-up person: not found"]
    assert [body for body in shop.vendor.bodies if body] == [{"id": "id-a"}]


def test_with_other_secrets_nothing_is_known_any_more() -> None:
    auth = "secrets: {key: {title: Key}}\nauth: {type: bearer, token: '${ secrets.key }'}\n"
    text = "\n".join([*HEAD.splitlines()[4:], PEOPLE, auth])
    shop = Shop(text, vendor=directory(contacts=["a"]), secrets={"key": "one1"})
    for key in ("one1", "one1", "two2"):
        shop.secrets["key"] = key
        shop.post({"id": key, "email": "a"})
        shop.drain()
    assert [line.split()[0] for line in shop.vendor.lines] == ["GET", "POST", "POST", "GET", "POST"]


# --- what nobody knows is made ---

MAKING = """
actions:
  note:
    lookups:
      person:
        key: ${ event.email }
        cache: 10m
        sources:
          found:
            request: {method: GET, path: /people, query: {emails: "${ key }"}}
            rows: ${ response.body.rows }
        create:
          when: ${ settings.list != 'skip' }
          request: {path: /people, json: {email: "${ key }", name: "${ event.name }"}, expect: "${ response.body.data }"}
          row: ${ response.body.data }
          add: {new: true}
        when_absent: skip
    record: {id: "${ lookups.person.id }"}
    request: {path: /notes, json: "${ record }"}
"""
MADE = """
actions:
  note:
    lookups:
      person:
        keys: ${ event.email }
        create:
          request: {path: /people, json: {emails: "${ batch.keys }"}}
          rows: ${ response.body.rows }
          row_key: ${ row.email }
    record: {id: "${ lookups.person.id }"}
    request: {path: /notes, json: "${ record }"}
"""


def registry(*known: str) -> Vendor:
    """Answers /people: a GET knows only some, a POST makes what is asked for."""

    def answer(request: Prepared) -> Answer:
        if request.method == "GET":
            return reply(200, {"rows": [{"id": f"id-{one}"} for one in asked_for(request) if one in known]})
        body = request.decoded
        if "emails" in body:
            return reply(200, {"rows": [{"email": one, "id": f"id-{one}"} for one in body["emails"] if one != "bad"]})
        return reply(201, {"data": {"id": f"id-{body['email']}", "name": body.get("name")}})

    return Vendor(answer=answer)


def sent(wired: Wired) -> list[str]:
    return [
        f"{one.method} {one.decoded or parse_qs(urlsplit(one.url).query)['emails'][0]}" for one in wired.vendor.asked
    ]


def test_a_key_that_no_source_knows_is_made_by_the_first_row_that_asked_and_cached_at_once() -> None:
    wired = Wired(MAKING, registry("a"))
    events = [{"email": "a"}, {"email": "b", "name": "Bea"}, {"email": "b", "name": "Ben"}]
    made = {"id": "id-b", "name": "Bea", "new": True}
    for _ in range(2):
        assert [one.value for one in wired.find(*events)] == [{"id": "id-a"}, made, made]
    assert sent(wired) == ["GET a", "GET b", "POST {'email': 'b', 'name': 'Bea'}"]


def test_nothing_is_made_where_the_client_does_not_want_it() -> None:
    wired = Wired(MAKING, registry(), {"list": "skip"})
    assert wired.values("b") == [Outcome(OutcomeKind.SKIP, "look-up person: not found", "not-found", expected=True)]
    assert sent(wired) == ["GET b"]


def test_a_row_that_does_not_want_it_made_keeps_no_other_row_from_making_it() -> None:
    wired = Wired(MAKING.replace("settings.list != 'skip'", "event.name"), registry())
    made = {"id": "id-b", "name": "Bea", "new": True}
    assert [one.value for one in wired.find({"email": "b"}, {"email": "b", "name": "Bea"})] == [made, made]
    assert sent(wired) == ["GET b", "POST {'email': 'b', 'name': 'Bea'}"]


def test_what_one_action_made_another_does_not_make_again_though_it_may_do_without_it() -> None:
    note = MAKING.split("actions:\n")[1]
    other = note.replace("  note:", "  other:", 1).replace("when_absent: skip", "when_absent: continue")
    wired = Wired(MAKING + other, registry())
    assert [wired.values("b", action=action) for action in ("note", "other")] == [
        [{"id": "id-b", "name": None, "new": True}]
    ] * 2
    assert [line.split()[0] for line in sent(wired)] == ["GET", "POST"]


def test_one_that_can_not_be_made_is_its_own_row_s_fault() -> None:
    wired = Wired(MAKING, Vendor(reply(200, {"rows": []}), reply(422, {"code": "BAD"})))
    assert [one.outcome and one.outcome.kind for one in wired.find({"email": "b"})] == [OutcomeKind.REJECT]


def test_a_reply_without_what_was_made_is_not_taken_for_it() -> None:
    wired = Wired(MAKING, Vendor(reply(200, {"rows": []}), reply(201, {"data": None})))
    [found] = wired.find({"email": "b"})
    assert found.value is None
    assert found.outcome is not None
    assert found.outcome.kind is OutcomeKind.RETRY


def test_after_a_creation_without_an_answer_the_sources_are_asked_first() -> None:
    wired = Wired(MAKING, Vendor(reply(200, {"rows": []}), TIMED_OUT, reply(200, {"rows": [{"id": "7"}]})))
    [found] = wired.find({"email": "b"})
    assert found.outcome is not None
    assert found.outcome.outage
    assert wired.values("b") == [{"id": "7"}]
    assert sent(wired) == ["GET b", "POST {'email': 'b'}", "GET b"]


def test_a_look_up_may_only_make_and_for_many_keys_at_once() -> None:
    wired = Wired(MADE, registry())
    assert wired.values("a", "b", "bad") == [
        {"email": "a", "id": "id-a"},
        {"email": "b", "id": "id-b"},
        NOT_FOUND,
    ]
    assert sent(wired) == ["POST {'emails': ['a', 'b', 'bad']}"]


def test_what_was_made_is_forgotten_like_what_was_found() -> None:
    wired = Wired(MAKING, registry())
    wired.values("b")
    lookup = wired.program.actions["note"].lookups["person"]
    lookup.forget({**wired.program.row_scope({"email": "b"}, 0.0), "lookups": {}})
    wired.values("b")
    assert [line.split()[0] for line in sent(wired)] == ["GET", "POST", "GET", "POST"]


def test_keys_of_many_rows_are_looked_up_at_once_and_made_one_by_one() -> None:
    text = MAKING.replace("key: ${ event.email }", "keys: ${ event.email }").replace(
        'emails: "${ key }"', "emails: \"${ join(batch.keys, ',') }\""
    ).replace('rows: "${ response.body.rows }"', "")  # fmt: skip
    text = text.replace(
        "rows: ${ response.body.rows }", "rows: ${ response.body.rows }\n            row_key: ${ row.email }"
    )
    known = Vendor(answer=lambda request: reply(200, {"rows": [{"email": "a", "id": "id-a"}]})
                   if request.method == "GET" else reply(201, {"data": {"id": f"id-{request.decoded['email']}"}}))  # fmt: skip
    wired = Wired(text, known)
    events = [{"email": "a"}, {"email": "b", "name": "Bea"}, {"email": "c"}, {"email": "b"}]
    made = {"id": "id-b", "new": True}
    assert [one.value for one in wired.find(*events)] == [
        {"email": "a", "id": "id-a"}, made, {"id": "id-c", "new": True}, made,
    ]  # fmt: skip
    assert sent(wired) == ["GET a,b,c", "POST {'email': 'b', 'name': 'Bea'}", "POST {'email': 'c'}"]


UNCACHED = 'receive: {mode: direct, client: "${ event.client }", id: "${ event.id }"}\n' + MAKING.replace(
    "        cache: 10m\n", ""
).replace("          when: ${ settings.list != 'skip' }\n", "")


def makings(vendor: Vendor) -> int:
    return vendor.lines.count("POST /v1/people")


def test_what_was_just_made_is_known_before_the_vendor_s_search_finds_it_though_nothing_is_cached() -> None:
    found = reply(200, {"rows": []})
    vendor = Vendor(answer=lambda asked: found if asked.method == "GET" else reply(201, {"data": {"id": "b"}}))
    shop = Shop(UNCACHED.replace("mode: direct", "mode: buffered"), vendor=vendor)
    for number in ("1", "2"):
        shop.post({"id": number, "email": "b"})
        shop.drain()
    assert (makings(shop.vendor), shop.sums()) == (1, {"delivered": 2})


def test_what_one_process_makes_another_does_not_make_meanwhile() -> None:
    """The second has a memory of its own, and asks while the first one's request is under way and right after it."""
    found: list[str] = []

    def answer(request: Prepared) -> Answer:
        if request.method == "GET":
            return reply(200, {"rows": [{"id": one} for one in found]})
        if not request.url.endswith("/people"):
            return reply(200, {})
        if not second.vendor.asked:
            second.post({"id": "2", "email": "b"})
        return reply(201, {"data": {"id": "b"}})

    first = Shop(UNCACHED, vendor=Vendor(answer=answer))
    second = Shop(UNCACHED, vendor=Vendor(answer=answer), store=first.store, clock=first.clock)
    first.post({"id": "1", "email": "b"})
    second.post({"id": "3", "email": "b"})
    assert (makings(first.vendor) + makings(second.vendor), first.sums()) == (1, {"delivered": 1, "waiting": 2})
    found.append("b")
    second.drain(60)
    assert (makings(first.vendor) + makings(second.vendor), first.sums()) == (1, {"delivered": 3})


def test_one_that_could_not_be_made_may_be_made_by_the_next_at_once() -> None:
    refused = [reply(422, {"code": "BAD"})]
    made = Vendor(
        answer=lambda request: (
            reply(200, {"rows": []})
            if request.method == "GET"
            else refused.pop()
            if refused
            else reply(201, {"data": {"id": "b"}})
        )
    )
    shop = Shop(UNCACHED, vendor=made)
    assert [told.status for told in shop.post({"id": "1", "email": "b"}, {"id": "2", "email": "b"})] == [422, 200]
