"""Several requests for one batch: what is kept, where it goes on, polling, splitting, and cleaning up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from conftest import REFUSED, START, TIMED_OUT, Shop, Vendor, program_from, reply

from engine.clock import VirtualClock
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Answer

    from engine.http import Prepared
    from engine.ports import Store

JOB = """
replies: {outcomes: [{status: 409, then: retry, wait: 1m}, {status: 410, then: retry, from: open, wait: 1m},
  {status: 420, then: retry, from: start, wait: 1m}, {status: 418, then: reject, all: true}]}
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10}
    steps:
      open:
        request: {path: /jobs, json: {size: "${ batch.size }"}}
        save: {id: "${ response.body.id }"}
      fill:
        request: {method: PUT, path: "/jobs/{{ steps.open.id }}/rows", json: "${ batch.records }"}
      close:
        request: {method: PATCH, path: "/jobs/{{ steps.open.id }}", json: {state: closed}}
"""
DECIDING = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10}
    steps:
      open: {request: {path: /open, json: {}}, save: {id: "${ response.body.id }"}}
      check:
        request: {path: /check, json: "${ batch.records }"}
        results: {at: "${ response.body }", ok: "${ result }"}
      write: {request: {path: /write, json: "${ batch.records }"}}
"""
OPEN, FILL, CLOSE = "POST /v1/jobs", "PUT /v1/jobs/7/rows", "PATCH /v1/jobs/7"
SINGLE = """
replies: {outcomes: [{status: 409, then: retry, wait: 1m}]}
actions:
  note:
    record: {id: "${ event.id }", mail: "${ event.mail }"}
    steps:
      person: {request: {path: /people, json: {mail: "${ record.mail }"}}, save: {id: "${ response.body.id }"}}
      note:
        request: {path: "/people/{{ steps.person.id }}/notes", json: {id: "${ record.id }", mail: "${ event.mail }"}}
"""


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "connect.db")
    yield made
    made.close()


class Jobs(Vendor):
    """A vendor of jobs; `trouble` has answers for some requests, by method, used up one after the other."""

    def __init__(self, **trouble: list[Answer]) -> None:
        super().__init__()
        self.trouble = trouble
        self.answer = self.reply
        self.next_id = 7

    def reply(self, request: Prepared) -> Answer:
        listed = self.trouble.get(request.method)
        if listed:
            return listed.pop(0)
        if request.method == "POST":
            self.next_id += 1
            return reply(201, {"id": self.next_id - 1})
        return reply(200, {})


def two(shop: Shop) -> None:
    shop.post({"id": "1"}, {"id": "2"})


# --- progress ---


def test_steps_run_in_order_and_see_what_earlier_ones_saved(store: Store) -> None:
    shop = Shop(JOB, vendor=Jobs(), store=store)
    two(shop)
    shop.drain()
    assert shop.vendor.lines == [OPEN, FILL, CLOSE]
    assert shop.vendor.bodies == [{"size": 2}, [{"id": "1"}, {"id": "2"}], {"state": "closed"}]
    assert shop.sums() == {"delivered": 2}


@pytest.mark.parametrize("trouble", [reply(409, {}), reply(503), reply(429, retry_after="60"), REFUSED, TIMED_OUT])
def test_a_retry_goes_on_at_the_step_that_failed(trouble: Answer, store: Store) -> None:
    shop = Shop(JOB, vendor=Jobs(PATCH=[trouble, trouble]), store=store)
    two(shop)
    shop.drain(600)
    assert shop.vendor.lines == [OPEN, FILL, CLOSE, CLOSE, CLOSE]
    assert shop.sums() == {"delivered": 2}


def test_a_rule_may_go_back_to_a_step_or_to_the_start() -> None:
    again = Shop(JOB, vendor=Jobs(PATCH=[reply(410, {})]))
    two(again)
    again.drain(600)
    assert again.vendor.lines == [OPEN, FILL, CLOSE, OPEN, "PUT /v1/jobs/8/rows", "PATCH /v1/jobs/8"]
    start = Shop(JOB, vendor=Jobs(PATCH=[reply(420, {})]))
    two(start)
    start.drain(600)
    assert start.vendor.lines == [OPEN, FILL, CLOSE, OPEN, "PUT /v1/jobs/8/rows", "PATCH /v1/jobs/8"]
    assert (again.sums(), start.sums()) == ({"delivered": 2}, {"delivered": 2})


def test_another_process_goes_on_at_the_step_where_the_first_was_killed(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Gone(SqliteStore):
        def release(self, *_: Any, **__: Any) -> None:
            """A process that is killed does not give its lane back."""

    first = Shop(JOB, vendor=Jobs(), store=Gone(tmp_path / "connect.db"))
    answer = first.vendor.answer

    def die(request: Prepared) -> Answer:
        if request.method == "PATCH":
            raise Killed
        found: Answer = answer(request)
        return found

    first.vendor.answer = die
    two(first)
    with pytest.raises(Killed):
        first.worker.drain()
    first.store.close()
    second = Shop(JOB, vendor=Jobs(), store=SqliteStore(tmp_path / "connect.db"), clock=VirtualClock(START + 300))
    second.post({"id": "3"})
    second.drain(600)
    assert first.vendor.lines == [OPEN, FILL, CLOSE]
    assert second.vendor.lines[0] == CLOSE
    assert second.vendor.lines[1:] == [OPEN, FILL, CLOSE]  # the new event is a batch of its own
    assert second.vendor.bodies[2] == [{"id": "3"}]
    assert second.sums() == {"delivered": 3}
    second.store.close()


def test_a_resumed_batch_is_the_same_batch_with_the_records_as_they_were_mapped() -> None:
    shop = Shop(JOB, vendor=Jobs(PUT=[reply(503)]))
    two(shop)
    shop.drain()
    shop.post({"id": "3"})
    shop.drain(600)
    rows = [body for line, body in zip(shop.vendor.lines, shop.vendor.bodies, strict=True) if line.startswith("PUT")]
    assert rows == [[{"id": "1"}, {"id": "2"}]] * 2 + [[{"id": "3"}]]


def test_steps_of_a_single_event_see_the_event_again_when_they_go_on(store: Store) -> None:
    vendor = Vendor(reply(200, {"id": 5}), reply(409, {}), reply(200, {}))
    shop = Shop(SINGLE, vendor=vendor, store=store)
    shop.post({"id": "1", "mail": "ana@example.com"})
    shop.drain(600)
    note = {"id": "1", "mail": "ana@example.com"}
    assert shop.vendor.lines == ["POST /v1/people", "POST /v1/people/5/notes", "POST /v1/people/5/notes"]
    assert shop.vendor.bodies == [{"mail": "ana@example.com"}, note, note]
    assert shop.sums() == {"delivered": 1}


def test_steps_of_a_single_event_see_what_was_looked_up_when_they_go_on(store: Store) -> None:
    text = """
actions:
  note:
    lookups:
      person:
        key: "${ event.mail }"
        sources:
          people: {request: {method: GET, path: /people, query: {mail: "${ key }"}}, rows: "${ response.body }"}
    vars: {title: "Note {{ event.id }}"}
    record: {id: "${ event.id }"}
    steps:
      note: {request: {path: /notes, json: "${ record }"}, save: {id: "${ response.body.id }"}}
      link:
        request: {path: "/people/{{ lookups.person.id }}/notes/{{ steps.note.id }}", json: {title: "${ vars.title }"}}
"""
    answers = [reply(200, [{"id": "p1"}]), reply(200, {"id": "n1"}), reply(503, {}), reply(200, {})]
    shop = Shop(text, vendor=Vendor(*answers), store=store)
    shop.post({"id": "1", "mail": "a@shop.example"})
    shop.drain(3600)
    link = "POST /v1/people/p1/notes/n1"
    assert shop.vendor.lines == ["GET /v1/people?mail=a%40shop.example", "POST /v1/notes", link, link]
    assert (shop.vendor.bodies[-1], shop.sums()) == ({"title": "Note 1"}, {"delivered": 1})


def test_what_a_half_done_batch_can_not_read_any_more_is_rejected_alone() -> None:
    shop = Shop(SINGLE, vendor=Vendor(reply(200, {"id": 7}), reply(409, {}), reply(200, {"id": 7})))
    shop.post({"id": "1", "mail": 5})
    shop.drain()
    shop.programs["abc"] = program_from(SINGLE + 'fields: {mail: "${ lower(event.mail) }"}\n')
    shop.post({"id": "2", "mail": "a@shop.example"})
    shop.drain(3600)
    assert (shop.sums(), shop.reasons()) == (
        {"delivered": 1, "rejected": 1},
        {"1": "fields.mail: lower: a text is needed, got number 5"},
    )


def test_who_was_decided_by_a_step_before_the_process_was_killed_begins_anew(store: Store) -> None:
    class Killed(BaseException):
        pass

    def answer(request: Prepared) -> Answer:
        if request.url.endswith("/check"):
            return reply(200, [record["id"] != "1" for record in json.loads(request.content or b"")])
        if request.url.endswith("/write") and not killed:
            killed.append(True)
            raise Killed
        return reply(200, {"id": 7})

    killed: list[bool] = []
    shop = Shop(DECIDING, vendor=Vendor(answer=answer), store=store)
    shop.post_many(3)
    with pytest.raises(Killed):
        shop.drain()
    shop.clock.time += 60
    shop.worker = shop.new_worker()
    shop.drain(60)
    assert (shop.sums(), list(shop.reasons())) == ({"delivered": 2, "rejected": 1}, ["1"])
    assert shop.vendor.bodies[-3:] == [[{"id": "2"}, {"id": "3"}], {}, [{"id": "1"}]]


def test_a_half_done_second_half_does_not_overtake_those_of_its_keys_in_the_first(store: Store) -> None:
    answers = [reply(200, {"id": "o"}), reply(400), reply(409), reply(200, {}), reply(200, {}), reply(200, {})]
    shop = Shop('key: "${ event.who }"\n' + BATCH.strip(), vendor=Vendor(*answers), store=store)
    shop.post({"id": "1", "who": "a"}, {"id": "2"}, {"id": "3", "who": "a"}, {"id": "4"})
    shop.drain(for_s=66)
    assert [body["all"] for body in shop.vendor.bodies if body] == [
        ["1", "2", "3", "4"],
        ["1", "2"],
        ["4"],
        ["1", "2"],
        ["3"],
    ]
    assert shop.sums() == {"delivered": 4}


CHANGED = """
replies: {outcomes: [{status: 409, then: retry, wait: 1m}]}
actions:
  note:
    record: {id: "${ event.id }"}
    BATCH
    steps:
      open: {request: {path: /open}, save: {id: "${ response.body.id }"}}
      note: {request: {path: /notes, json: {of: "${ steps.open.id }", BODY}}}
"""
BATCH = CHANGED.replace("BATCH", "batch: {records: 9}").replace("BODY", 'all: "${ batch.records[*].id }"')


def test_a_half_done_batch_of_an_action_that_has_no_batches_any_more_loses_nobody(store: Store) -> None:
    shop = Shop(BATCH, vendor=Vendor(reply(200, {"id": "o"}), reply(409), reply(200, {"id": "o"})), store=store)
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain()
    single = CHANGED.replace("BATCH", "").replace("BODY", 'one: "${ record.id }"')
    shop = Shop(single, vendor=shop.vendor, store=store, clock=shop.clock)
    shop.drain(for_s=60)
    assert shop.vendor.bodies[1:] == [
        {"of": "o", "all": ["1", "2"]}, None, {"of": "o", "one": "1"}, None, {"of": "o", "one": "2"},
    ]  # fmt: skip
    assert shop.sums() == {"delivered": 2}


def test_a_step_that_has_another_name_now_is_gone_on_at_without_those_before_it(store: Store) -> None:
    shop = Shop(BATCH, vendor=Vendor(reply(200, {"id": "o"}), reply(409), reply(200, {"id": "o"})), store=store)
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain()
    shop = Shop(BATCH.replace("      note:", "      renamed:"), vendor=shop.vendor, store=store, clock=shop.clock)
    shop.drain(for_s=60)
    assert shop.vendor.lines == ["POST /v1/open", "POST /v1/notes", "POST /v1/notes"]
    assert shop.sums() == {"delivered": 2}


def test_a_step_whose_condition_does_not_hold_is_left_out() -> None:
    text = """
actions:
  note:
    record: {id: "${ event.id }"}
    steps:
      find: {request: {method: GET, path: /find}, save: {id: "${ response.body.id }"}}
      make:
        when: "${ !present(steps.find.id) }"
        request: {path: /make, json: {}}
        save: {id: "${ response.body.id }"}
      note: {request: {path: /notes, json: {person: "${ default(steps.find.id, steps.make.id) }"}}}
"""
    shop = Shop(
        text, vendor=Vendor(reply(200, {"id": 1}), reply(200, {}), reply(200, {}), reply(200, {"id": 2}), reply(200))
    )
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain()
    assert shop.vendor.lines == ["GET /v1/find", "POST /v1/notes", "GET /v1/find", "POST /v1/make", "POST /v1/notes"]
    assert [shop.vendor.bodies[1], shop.vendor.bodies[4]] == [{"person": 1}, {"person": 2}]


def breaking(_: Any) -> bool:
    raise ZeroDivisionError


def test_a_condition_or_a_list_that_breaks_rejects_its_records_and_not_the_lane() -> None:
    shop = Shop(BATCH)
    step = shop.programs["abc"].actions["note"].steps.steps["note"]
    step.when = breaking
    shop.post({"id": "1"})
    shop.drain()
    step.when, step.each = (lambda _: True), breaking
    shop.post({"id": "2"})
    shop.drain()
    assert [(event, "ZeroDivisionError" in why) for event, why in shop.reasons().items()] == [("1", True), ("2", True)]


def test_a_path_with_an_absent_hole_rejects_the_delivery_and_not_the_lane() -> None:
    shop = Shop(SINGLE, vendor=Vendor(reply(200, {}), reply(200, {"id": 6}), reply(200, {})))
    shop.post({"id": "1", "mail": "a"}, {"id": "2", "mail": "b"})
    shop.drain()
    assert shop.sums() == {"rejected": 1, "delivered": 1}
    assert "steps.person.id" in shop.reasons()["1"]


# --- several steps with results ---

RESULTS = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10}
    steps:
      people:
        request: {path: /people, json: "${ batch.records }"}
        results:
          match: {ours: "${ record.id }", theirs: "${ result.id }"}
          at: "${ response.body }"
          ok: "${ result.ok }"
      notes:
        request: {path: /notes, json: "${ batch.records }"}
        results:
          match: {ours: "${ record.id }", theirs: "${ result.id }"}
          at: "${ response.body }"
          ok: "${ result.ok }"
"""


def listed(**found: bool) -> Answer:
    return reply(200, [{"id": name, "ok": fine} for name, fine in found.items()])


def test_the_results_of_several_steps_add_up() -> None:
    shop = Shop(RESULTS, vendor=Vendor(listed(a=True, b=False, c=True, d=True), listed(a=True, c=False, d=True)))
    shop.post(*({"id": name} for name in "abcd"))
    shop.drain()
    assert shop.vendor.bodies[1] == [{"id": "a"}, {"id": "c"}, {"id": "d"}]  # what failed is not in later steps
    assert (shop.sums(), sorted(shop.reasons())) == ({"delivered": 2, "rejected": 2}, ["b", "c"])


def test_a_record_that_only_an_earlier_step_named_is_settled_by_it() -> None:
    shop = Shop(RESULTS, vendor=Vendor(listed(a=True, b=True), listed(a=True)))
    shop.post({"id": "a"}, {"id": "b"})
    shop.drain()
    assert shop.sums() == {"delivered": 2}


ONE_RESULT = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10}
    request: {path: /notes, json: "${ batch.records }"}
    results:
      - {on: {status: "2xx,400"}, at: "${ response.body }", match: {ours: "${ record.id }", theirs: "${ result.id }"},
         ok: "${ result.ok }", unnamed: UNNAMED}
""".replace('"2xx,400"', "[2xx, 400]")


RESEND_FIRST = (
    ONE_RESULT.replace("    request:", "    steps:\n     notes:\n      request:")
    .replace("    results:\n      -", "      results:\n       -")
    .replace("\n         ok", " ok")
    + '     tags: {request: {path: /tags, json: "${ batch.records }"}}\n'
)


def test_who_is_not_named_is_sent_again_and_buried_in_the_end() -> None:
    shop = Shop(ONE_RESULT.replace("UNNAMED", "retry"), vendor=Vendor(answer=lambda _: listed(a=True)))
    shop.post({"id": "a"}, {"id": "b"})
    shop.drain(3600)
    assert shop.vendor.bodies == [[{"id": "a"}, {"id": "b"}], [{"id": "b"}], [{"id": "b"}]]
    assert (shop.sums(), shop.reasons()) == (
        {"delivered": 1, "rejected": 1},
        {"b": "HTTP 200 names no result for this record (after 3 tries)"},
    )


def test_who_is_not_named_may_count_as_delivered() -> None:
    shop = Shop(ONE_RESULT.replace("UNNAMED", "delivered"), vendor=Vendor(listed(b=False)))
    shop.post({"id": "a"}, {"id": "b"})
    shop.drain()
    assert (shop.sums(), list(shop.reasons())) == ({"delivered": 1, "rejected": 1}, ["b"])


def test_where_one_bad_record_made_the_vendor_refuse_all_the_rest_is_sent_again_at_once() -> None:
    def answer(_: Prepared) -> Answer:
        bad = [record["id"] for record in shop.vendor.bodies[-1] if record["id"] in "bd"]
        return (
            reply(400, [{"id": bad[0], "ok": False}])
            if bad
            else listed(**{record["id"]: True for record in shop.vendor.bodies[-1]})
        )

    shop = Shop(ONE_RESULT.replace("UNNAMED", "resend"))
    shop.vendor.answer = answer
    shop.post(*({"id": name} for name in "abcde"))
    shop.drain()
    assert [[record["id"] for record in body] for body in shop.vendor.bodies] == [
        list("abcde"),
        list("acde"),
        list("ace"),
    ]
    assert (shop.sums(), sorted(shop.reasons())) == ({"delivered": 3, "rejected": 2}, ["b", "d"])


def test_hundreds_that_are_named_one_by_one_are_sent_again_as_often() -> None:
    def answer(request: Prepared) -> Answer:
        return reply(400, [{"id": json.loads(request.content or b"")[0]["id"], "ok": False}])

    shop = Shop(
        ONE_RESULT.replace("UNNAMED", "resend").replace("records: 10", "records: 1000"), vendor=Vendor(answer=answer)
    )
    shop.post_many(600)
    shop.drain()
    assert (shop.sums(), len(shop.vendor.asked)) == ({"rejected": 600}, 600)


def test_who_is_named_as_delivered_is_not_among_the_rest() -> None:
    shop = Shop(ONE_RESULT.replace("UNNAMED", "resend"), vendor=Vendor(listed(a=True, b=False), listed(c=True)))
    shop.post({"id": "a"}, {"id": "b"}, {"id": "c"})
    shop.drain()
    assert shop.vendor.bodies == [[{"id": "a"}, {"id": "b"}, {"id": "c"}], [{"id": "c"}]]
    assert (shop.sums(), list(shop.reasons())) == ({"delivered": 2, "rejected": 1}, ["b"])


def test_who_passed_a_step_goes_on_to_the_next_whatever_becomes_of_the_rest() -> None:
    text = RESEND_FIRST.replace("UNNAMED", "resend")
    shop = Shop(text, vendor=Vendor(listed(a=True, b=False), reply(422, {}), reply(200, {})))
    shop.post({"id": "a"}, {"id": "b"}, {"id": "c"})
    shop.drain()
    assert shop.vendor.lines == ["POST /v1/notes", "POST /v1/notes", "POST /v1/tags"]
    assert shop.vendor.bodies[1:] == [[{"id": "c"}], [{"id": "a"}]]
    assert (shop.sums(), sorted(shop.reasons())) == ({"delivered": 1, "rejected": 2}, ["b", "c"])


@pytest.mark.parametrize("code", ["resend", "limit", "poll"])
def test_a_vendor_s_code_is_never_taken_for_a_word_of_ours(code: str) -> None:
    growing = (
        'replies: {code: "${ response.body.code }", outcomes: [{status: 429, then: throttle, wait: {initial: 1m}}]}'
    )
    shop = Shop(growing + BIG, vendor=Vendor(reply(429, {"code": code})))
    shop.post({"id": "a"})
    shop.drain(600)
    assert [at - START for at in shop.vendor.at] == [0, 60, 180, 420]


@pytest.mark.parametrize("body", [[], [{"id": "zzz", "ok": False}], [{"id": None}]])
def test_sending_the_rest_again_has_an_end_also_where_nobody_is_named(body: Any) -> None:
    shop = Shop(ONE_RESULT.replace("UNNAMED", "resend"), vendor=Vendor(reply(400, body)))
    shop.post({"id": "a"}, {"id": "b"})
    shop.drain(3600)
    assert len(shop.vendor.asked) <= 20
    assert shop.sums().get("delivered") is None


def test_a_reply_that_lacks_the_results_of_what_must_not_be_repeated_rejects() -> None:
    text = ONE_RESULT.replace("UNNAMED", "retry").replace("    request:", "    repeat: never\n    request:")
    shop = Shop(text, vendor=Vendor(reply(200, text="<html>", content_type="text/html")))
    shop.post({"id": "a"})
    shop.drain(3600)
    assert (shop.sums(), len(shop.vendor.asked)) == ({"rejected": 1}, 1)


def test_a_reply_that_lacks_the_results_is_tried_again_and_then_pauses() -> None:
    shop = Shop(
        ONE_RESULT.replace("UNNAMED", "delivered"), vendor=Vendor(reply(200, text="<html>", content_type="text/html"))
    )
    shop.post({"id": "a"}, {"id": "b"})
    shop.drain(3600)
    assert (shop.sums(), shop.lane().state, len(shop.vendor.asked)) == ({"waiting": 2}, "paused", 3)


# --- halving ---

BIG = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 200}
    request: {path: /notes, json: "${ batch.records }"}
"""


@pytest.mark.parametrize("bad", [1, 2, 100, 101, 157, 199, 200])
def test_a_poisoned_record_in_two_hundred_is_found_in_at_most_sixteen_further_requests(bad: int) -> None:
    shop = Shop(BIG)
    shop.vendor.answer = lambda _: reply(400 if {"id": str(bad)} in shop.vendor.bodies[-1] else 200, {})
    shop.post_many(200)
    shop.drain()
    assert len(shop.vendor.asked) <= 1 + 16
    assert (shop.sums(), list(shop.reasons())) == ({"delivered": 199, "rejected": 1}, [str(bad)])
    good = [body for body in shop.vendor.bodies if {"id": str(bad)} not in body]
    assert sorted(int(record["id"]) for body in good for record in body) == [n for n in range(1, 201) if n != bad]


def test_a_batch_too_large_for_the_vendor_is_halved_until_it_fits() -> None:
    shop = Shop(BIG)
    shop.vendor.answer = lambda _: reply(413 if len(shop.vendor.bodies[-1]) > 30 else 200, {})
    shop.post_many(200)
    shop.drain()
    assert shop.sums() == {"delivered": 200}
    assert [len(body) for body in shop.vendor.bodies if len(body) <= 30] == [25] * 8


def test_where_every_record_is_refused_each_is_rejected_by_itself() -> None:
    shop = Shop(BIG, vendor=Vendor(reply(400, {})))
    shop.post_many(8)
    shop.drain()
    assert (len(shop.vendor.asked), shop.sums()) == (15, {"rejected": 8})


@pytest.mark.parametrize("trouble", [reply(429, {}, retry_after="60"), reply(401, {}), REFUSED])
def test_where_the_first_half_is_told_to_wait_the_second_is_not_sent_either(trouble: Answer) -> None:
    shop = Shop(BIG, vendor=Vendor(reply(413, {}), trouble))
    shop.post_many(8)
    shop.worker.drain()
    assert ([len(body) for body in shop.vendor.bodies], shop.sums()) == ([8, 4], {"waiting": 8})


def test_an_outage_in_the_middle_of_halving_loses_nothing() -> None:
    shop = Shop(BIG)

    def answer(_: Prepared) -> Answer:
        if len(shop.vendor.asked) in (3, 4, 5, 9):
            return reply(503)
        return reply(400 if {"id": "5"} in shop.vendor.bodies[-1] else 200, {})

    shop.vendor.answer = answer
    shop.post_many(32)
    shop.drain(3600)
    assert (shop.sums(), list(shop.reasons())) == ({"delivered": 31, "rejected": 1}, ["5"])


def test_split_halves_keep_their_own_progress(store: Store) -> None:
    """The middle step halves the batch; in one half the last step waits, and goes on with its own half only."""
    shop = Shop(JOB.replace("batch: {records: 10}", "batch: {records: 4}"), store=store)
    waited: list[int] = []

    def answer(request: Prepared) -> Answer:
        body = shop.vendor.bodies[-1]
        if request.method == "POST":
            return reply(201, {"id": 7})
        if request.method == "PUT":
            return reply(413 if len(body) > 2 else 200, {})
        if not waited:
            waited.append(1)
            return reply(409, {})
        return reply(200, {})

    shop.vendor.answer = answer
    shop.post(*({"id": str(at)} for at in range(1, 5)))
    shop.drain(600)
    assert shop.vendor.lines == [OPEN, FILL, FILL, CLOSE, FILL, CLOSE, CLOSE]
    rows = [
        [row["id"] for row in body]
        for line, body in zip(shop.vendor.lines, shop.vendor.bodies, strict=True)
        if line == FILL
    ]
    assert rows == [["1", "2", "3", "4"], ["1", "2"], ["3", "4"]]
    assert shop.sums() == {"delivered": 4}


# --- polling ---

POLL = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10}
    steps:
      start: {request: {path: /jobs, json: "${ batch.records }"}, save: {id: "${ response.body.id }"}}
      wait:
        request: {method: GET, path: "/jobs/{{ steps.start.id }}"}
        poll: {until: "${ response.body.done }", every: EVERY, give_up: 10m}
        save: {file: "${ response.body.file }"}
      read: {request: {method: GET, path: "/files/{{ steps.wait.file }}"}}
"""


def test_a_step_is_polled_until_it_is_done(store: Store) -> None:
    begun, busy, done = reply(200, {"id": 1}), reply(200, {"done": False}), reply(200, {"done": True, "file": "f"})
    shop = Shop(POLL.replace("EVERY", "30s"), vendor=Vendor(begun, busy, busy, done, reply(200, {})), store=store)
    two(shop)
    shop.drain(600)
    assert shop.vendor.lines == ["POST /v1/jobs", *["GET /v1/jobs/1"] * 3, "GET /v1/files/f"]
    assert [round(at - START) for at in shop.vendor.at] == [0, 0, 30, 60, 60]
    assert shop.sums() == {"delivered": 2}


def test_the_wait_between_polls_may_grow() -> None:
    begun, busy = reply(200, {"id": 1}), reply(200, {"done": False})
    written = POLL.replace("EVERY", "{initial: 10s, factor: 2, max: 1m}")
    shop = Shop(written, vendor=Vendor(begun, busy, busy, busy, busy, busy, reply(200, {"done": True, "file": "f"})))
    two(shop)
    shop.drain(600)
    assert [round(at - START) for at in shop.vendor.at[1:7]] == [0, 10, 30, 70, 130, 190]


def test_polling_is_given_up_and_begins_anew_with_an_attempt_counted() -> None:
    busy = reply(200, {"done": False})
    shop = Shop(POLL.replace("EVERY", "1m"))
    shop.vendor.answer = lambda request: reply(200, {"id": 1}) if request.method == "POST" else busy
    two(shop)
    shop.drain(7200)
    assert [line for line in shop.vendor.lines if line.startswith("POST")] == ["POST /v1/jobs"] * 3
    assert (shop.sums(), set(shop.reasons().values())) == (
        {"rejected": 2},
        {"wait: not finished after 10m (after 3 tries)"},
    )


def test_polling_that_begins_with_the_first_step_is_given_up_too(store: Store) -> None:
    text = """
actions:
  note:
    request: {method: GET, path: /ready}
    poll: {until: "${ response.body.ready }", every: 1m, give_up: 10m, then: reject}
"""
    shop = Shop(text, vendor=Vendor(reply(200, {"ready": False})), store=store)
    shop.post({"id": "1"})
    shop.drain(86400)
    assert (shop.sums(), len(shop.vendor.asked)) == ({"rejected": 1}, 11)


def test_what_giving_up_means_can_be_written() -> None:
    shop = Shop(POLL.replace("EVERY", "1m").replace("give_up: 10m", "give_up: 10m, then: pause"))
    shop.vendor.answer = lambda request: reply(200, {"id": 1} if request.method == "POST" else {"done": False})
    two(shop)
    shop.drain(7200)
    assert (shop.sums(), shop.lane().state) == ({"waiting": 2}, "paused")


def test_a_poll_is_judged_before_it_is_read_and_an_outage_does_not_end_it() -> None:
    begun, busy, done = reply(200, {"id": 1}), reply(200, {"done": False}), reply(200, {"done": True, "file": "f"})
    vendor = Vendor(begun, busy, reply(503), REFUSED, busy, done, reply(200, {}))
    shop = Shop(POLL.replace("EVERY", "30s"), vendor=vendor)
    two(shop)
    shop.drain(3600)
    assert shop.vendor.lines == ["POST /v1/jobs", *["GET /v1/jobs/1"] * 5, "GET /v1/files/f"]
    assert shop.sums() == {"delivered": 2}


def test_while_a_job_is_polled_other_batches_go_on() -> None:
    shop = Shop(POLL.replace("EVERY", "30s").replace("records: 10", "records: 1"))
    done = {"1": 3, "2": 1}

    def answer(request: Prepared) -> Answer:
        if request.method == "POST":
            return reply(200, {"id": shop.vendor.bodies[-1][0]["id"]})
        job = request.url.rsplit("/", 1)[1]
        if "/files/" in request.url:
            return reply(200, {})
        done[job] -= 1
        return reply(200, {"done": done[job] <= 0, "file": job})

    shop.vendor.answer = answer
    two(shop)
    shop.drain(10)
    assert shop.sums() == {"waiting": 1, "delivered": 1}
    shop.drain(600)
    assert shop.sums() == {"delivered": 2}


# --- cleaning up ---

CLEAN = (
    JOB
    + """
    on_failure:
      abort: {request: {method: DELETE, path: "/jobs/{{ steps.open.id }}"}}
"""
)
ABORT = "DELETE /v1/jobs/7"


def test_a_batch_that_fails_is_cleaned_up_once_and_begins_anew() -> None:
    shop = Shop(CLEAN, vendor=Jobs(PATCH=[reply(409, {})]))
    two(shop)
    shop.drain(600)
    assert shop.vendor.lines == [OPEN, FILL, CLOSE, ABORT, OPEN, "PUT /v1/jobs/8/rows", "PATCH /v1/jobs/8"]
    assert shop.sums() == {"delivered": 2}


def test_what_is_rejected_is_cleaned_up_too() -> None:
    shop = Shop(CLEAN, vendor=Jobs(PATCH=[reply(418, {})]))
    two(shop)
    shop.drain(600)
    assert (shop.vendor.lines, shop.sums()) == ([OPEN, FILL, CLOSE, ABORT], {"rejected": 2})


@pytest.mark.parametrize("trouble", [reply(429, retry_after="60"), reply(503), REFUSED])
def test_a_throttle_or_an_outage_cleans_nothing_up(trouble: Answer) -> None:
    shop = Shop(CLEAN, vendor=Jobs(PATCH=[trouble]))
    two(shop)
    shop.drain(600)
    assert (shop.vendor.lines, shop.sums()) == ([OPEN, FILL, CLOSE, CLOSE], {"delivered": 2})


def test_a_clean_up_with_an_absent_hole_is_left_out_and_its_own_failure_is_only_logged() -> None:
    early = Shop(CLEAN, vendor=Jobs(POST=[reply(418, {})]))
    two(early)
    early.drain(600)
    assert (early.vendor.lines, early.sums()) == ([OPEN], {"rejected": 2})
    failing = Shop(CLEAN, vendor=Jobs(PATCH=[reply(418, {})], DELETE=[reply(500)]))
    two(failing)
    failing.drain(600)
    assert (failing.vendor.lines, failing.sums()) == ([OPEN, FILL, CLOSE, ABORT], {"rejected": 2})
    assert [facts["step"] for facts in failing.heard.named("clean-up-failed")] == ["abort"]


def test_a_clean_up_may_have_arguments() -> None:
    shop = Shop(
        CLEAN.replace("abort: {", 'abort: {args: {job: "${ steps.open.id }"}, ').replace(
            'DELETE, path: "/jobs/{{ steps.open.id }}"', 'DELETE, path: "/jobs/{{ args.job }}"'
        ),
        vendor=Jobs(PUT=[reply(422, {})]),
    )
    shop.post({"id": "1"})
    shop.drain()
    assert shop.vendor.lines == [OPEN, FILL, ABORT]


def test_what_is_delivered_is_not_cleaned_up() -> None:
    shop = Shop(CLEAN, vendor=Jobs())
    two(shop)
    shop.drain(600)
    assert shop.vendor.lines == [OPEN, FILL, CLOSE]
