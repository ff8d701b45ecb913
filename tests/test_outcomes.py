"""How a reply is judged: for the request as a whole, and for each of its records."""

from __future__ import annotations

import os
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import REFUSED, START, TIMED_OUT, Answer, Heard, Shop, Vendor, balanced, program_from, reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.clock import VirtualClock
from engine.http import NoReply, Prepared, Reply
from engine.mapping import encode_json
from engine.program import Program
from engine.records import Accepted, Outcome, OutcomeKind
from engine.sandbox import Sandbox
from engine.sending import Masker
from engine.spec.project import Project
from engine.spec.types import Binding, Client
from engine.stores.memory import MemoryStore
from engine.walk import Credentials, World
from engine.worker import Worker

if TYPE_CHECKING:
    from engine.outcomes import Judge, Verdict
    from engine.spec.types import Connector
    from engine.steps import Step

LOG_IN = """
auth:
  type: oauth2_client_credentials
  token_url: https://api.crm.example/token
  client_id: me
  client_secret: "{{ secrets.s }}"
secrets: {s: {title: Secret}}
"""
BATCH = """
actions:
  note:
    record: {id: "${ event.id }", email: "${ event.email }"}
    batch: {records: 10}
    request: {path: /notes, json: {records: "${ batch.records }"}}
"""
IN_URL = """
actions:
  note: {request: {method: PUT, path: "/people/{{ event.id }}", json: {seen: true}}}
"""


def step_of(program: Program, name: str = "request") -> Step:
    return program.actions["note"].steps.steps[name]


def judge_of(text: str) -> Judge:
    return step_of(program_from(text)).call.judge


def scope_for(records: list[Any]) -> dict[str, Any]:
    event = {"id": "1", "email": "ana@example.com"}
    return {
        "settings": {"strict": True},
        **{name: {} for name in ("client", "tables", "derived", "fields", "lookups", "vars", "steps")},
        "event": event,
        "record": records[0] if records else None,
        "batch": {"records": records, "size": len(records)},
        "delivery": {"id": "d1"},
        "now": START,
        "failures": 0,
    }


def verdict(text: str, answer: Answer, *, records: int = 1) -> Verdict:
    return judge_of(text).verdict(scope_for([{"id": str(at)} for at in range(records)]), answer, records=records)


def outcome(text: str, answer: Answer, *, records: int = 1) -> Outcome:
    found = verdict(text, answer, records=records)
    assert found.outcome is not None
    return found.outcome


def kind(text: str, answer: Answer, *, records: int = 1) -> str:
    return outcome(text, answer, records=records).kind.value


def rules(*written: str) -> str:
    listed = "\n".join(f"    - {rule}" for rule in written)
    read = 'code: "${ response.body.code }"\n  message: "${ response.body.text }"'
    return f"replies:\n  {read}\n  outcomes:\n{listed}\n"


# --- what nobody wrote a rule for ---


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_is_delivered(status: int) -> None:
    assert outcome("", reply(status)) == Outcome(OutcomeKind.DELIVERED)


@pytest.mark.parametrize("status", [408, 425, 429])
def test_a_call_to_slow_down_throttles_the_lane(status: int) -> None:
    assert outcome("", reply(status)) == Outcome(OutcomeKind.THROTTLE, f"HTTP {status}")
    assert outcome("", reply(status, retry_after="7"), records=5) == Outcome(
        OutcomeKind.THROTTLE, f"HTTP {status}", wait_s=7.0
    )


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 599])
def test_a_5xx_is_an_outage_of_the_vendor(status: int) -> None:
    expected = Outcome(OutcomeKind.RETRY, f"HTTP {status}", count=False, outage=True)
    assert outcome("", reply(status)) == expected
    assert outcome(BATCH, reply(status), records=5) == expected


def test_no_connection_is_an_outage_and_nothing_has_arrived() -> None:
    assert outcome("", REFUSED) == Outcome(OutcomeKind.RETRY, REFUSED.reason, count=False, outage=True, private=True)


def test_no_reply_in_time_is_an_outage_that_may_have_arrived() -> None:
    assert outcome("", TIMED_OUT) == Outcome(
        OutcomeKind.RETRY, TIMED_OUT.reason, count=False, outage=True, private=True
    )


def test_a_401_asks_for_a_new_token_where_one_can_be_had_and_pauses_elsewhere() -> None:
    assert outcome(LOG_IN, reply(401)) == Outcome(OutcomeKind.REAUTH, "HTTP 401")
    assert outcome("", reply(401)) == Outcome(OutcomeKind.PAUSE, "HTTP 401")


@pytest.mark.parametrize("status", [403, 404])
def test_a_403_or_404_pauses_unless_the_event_has_a_part_in_the_url(status: int) -> None:
    assert outcome("", reply(status)) == Outcome(OutcomeKind.PAUSE, f"HTTP {status}")
    assert outcome(BATCH, reply(status), records=5) == Outcome(OutcomeKind.PAUSE, f"HTTP {status}")
    assert outcome(IN_URL, reply(status)) == Outcome(OutcomeKind.REJECT, f"HTTP {status}")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("path: /notes, query: {email: '${ event.email }'}", "reject"),
        ("path: /notes, query: {q: 'email:{{ event.email }}'}", "reject"),
        ("path: '/notes/{{ record.id }}'", "reject"),
        ("path: '/notes/{{ fields.id }}'", "reject"),
        ("url: 'https://api.crm.example/notes/{{ event.id }}'", "reject"),
        ("path: '/notes/{{ settings.list }}'", "pause"),
        ("path: /notes, query: {list: '${ settings.list }'}", "pause"),
        ("path: /notes, headers: {X-Id: '${ event.id }'}", "pause"),
        ("path: /notes, json: {id: '${ event.id }'}", "pause"),
    ],
)
def test_what_counts_as_a_part_of_the_event_in_the_url(url: str, expected: str) -> None:
    text = f"""
settings: {{properties: {{list: {{type: string, default: all}}}}}}
fields: {{id: "${{ event.id }}"}}
actions: {{note: {{record: {{id: "${{ event.id }}"}}, request: {{{url}}}}}}}
"""
    assert kind(text, reply(404)) == expected


@pytest.mark.parametrize("status", [400, 402, 405, 409, 413, 415, 422, 451])
def test_any_other_4xx_halves_a_batch_and_rejects_what_stands_alone(status: int) -> None:
    assert outcome(BATCH, reply(status), records=2) == Outcome(OutcomeKind.SPLIT, f"HTTP {status}")
    assert outcome(BATCH, reply(status), records=1) == Outcome(OutcomeKind.REJECT, f"HTTP {status}")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_reply_that_nobody_follows(status: int) -> None:
    assert outcome("", reply(status, location="https://evil.example/")) == Outcome(
        OutcomeKind.PAUSE, f"HTTP {status}: a redirect is not followed"
    )


def test_the_reason_has_status_code_and_message() -> None:
    text = rules("{status: 418, then: skip}")
    assert outcome(text, reply(422, {"code": "BAD_MAIL", "text": "No such mailbox"})) == Outcome(
        OutcomeKind.REJECT, "HTTP 422 BAD_MAIL: No such mailbox", "BAD_MAIL"
    )


# --- written rules: each condition ---


@pytest.mark.parametrize(
    ("condition", "fits", "fails"),
    [
        ("status: 422", reply(422), reply(400)),
        ("status: 4xx", reply(499), reply(500)),
        ("status: 400-422", reply(409), reply(429)),
        ("status: [409, 5xx]", reply(503), reply(400)),
        ("code: DUP", reply(400, {"code": "DUP"}), reply(400, {"code": "DUPLICATE"})),
        ("code: DUP*", reply(400, {"code": "DUPLICATE"}), reply(400, {"code": "A_DUP"})),
        ("code: [A, 'B*']", reply(400, {"code": "BAD"}), reply(400, {"code": "AB"})),
        ("code: 42", reply(400, {"code": 42}), reply(400, {"code": 421})),
        ("code: 42", reply(400, {"code": "42"}), reply(400, {})),
        ("message: {contains: too long}", reply(400, {"text": "Name TOO LONG"}), reply(400, {"text": "short"})),
        ("message: {contains: [a1, b2]}", reply(400, {"text": "x b2"}), reply(400, {})),
        ("message: {matches: '^by [0-9]+$'}", reply(400, {"text": "by 5"}), reply(400, {"text": "not by 5"})),
        ("content_type: text/html", reply(400, text="x", content_type="text/html; charset=utf-8"), reply(400, {})),
        ("content_type: [csv, xml]", reply(400, text="", content_type="text/xml"), reply(400, text="")),
        ("content_type: {matches: '^text/'}", reply(400, text="", content_type="text/csv"), reply(400, {})),
        ("header: {X-Why: {contains: quota}}", reply(400, x_why="Quota"), reply(400, x_other="quota")),
        ("header: {x-why: quota}", reply(400, X_Why="my quota"), reply(400)),
        ("when: '${ response.body.busy }'", reply(400, {"busy": True}), reply(400, {"busy": False})),
        ("when: \"${ contains(response.text, 'maintenance') }\"", reply(400, text="in maintenance"), reply(400)),
        ("when: '${ settings.strict }'", reply(409), None),
    ],
)  # fmt: skip
def test_each_condition_of_a_rule(condition: str, fits: Answer, fails: Answer | None) -> None:
    text = "settings: {properties: {strict: {type: boolean, default: true}}}\n" + rules(f"{{{condition}, then: skip}}")
    assert kind(text, fits) == "skip"
    if fails is not None:
        assert kind(text, fails) != "skip"


def test_the_conditions_of_one_rule_must_all_hold() -> None:
    text = rules("{status: 400, code: A, message: {contains: b}, content_type: json, header: {x-h: c}, then: skip}")
    body = {"code": "A", "text": "b"}
    assert kind(text, reply(400, body, x_h="c")) == "skip"
    assert kind(text, reply(409, body, x_h="c")) == "reject"
    assert kind(text, reply(400, {**body, "code": "B"}, x_h="c")) == "reject"
    assert kind(text, reply(400, {**body, "text": "x"}, x_h="c")) == "reject"
    assert kind(text, reply(400, body, x_h="c", content_type="text/x")) == "reject"
    assert kind(text, reply(400, body, x_h="d")) == "reject"


def test_the_first_rule_that_fits_wins_so_a_code_may_stand_before_its_status() -> None:
    text = rules("{code: SLOW_DOWN, then: throttle, wait: 1m}", "{status: 401, then: pause, why: the key is wrong}")
    assert outcome(text, reply(401, {"code": "SLOW_DOWN"})) == Outcome(
        OutcomeKind.THROTTLE, "SLOW_DOWN", "SLOW_DOWN", 60.0
    )
    assert outcome(text, reply(401, {})) == Outcome(OutcomeKind.PAUSE, "the key is wrong (HTTP 401)")


def test_a_rule_without_conditions_is_the_last_and_takes_the_rest() -> None:
    text = rules("{status: 418, then: skip}", "{then: pause, why: nobody knows this reply}")
    assert kind(text, reply(418)) == "skip"
    assert outcome(text, reply(400)) == Outcome(OutcomeKind.PAUSE, "nobody knows this reply (HTTP 400)")


def test_no_answer_fits_no_rule() -> None:
    assert outcome(rules("{then: reject}"), REFUSED).kind is OutcomeKind.RETRY


def test_the_rules_of_a_step_come_before_those_of_the_action_and_of_the_connector() -> None:
    text = """
replies: {outcomes: [{status: 400, then: pause}, {status: 409, then: pause}, {status: 410, then: pause}]}
actions:
  note:
    replies: {outcomes: [{status: 400, then: skip}, {status: 409, then: skip}]}
    steps:
      first:
        request: {path: /notes, json: {}}
        replies: {outcomes: [{status: 400, then: reject}]}
      second:
        request: {path: /notes, json: {}}
"""
    step = step_of(program_from(text), "first")
    found = [step.call.judge.verdict(scope_for([{}]), reply(status), records=1).outcome for status in (400, 409, 410)]
    assert [one.kind.value for one in found if one] == ["reject", "skip", "pause"]


def test_all_that_a_rule_says_arrives_in_the_outcome() -> None:
    text = """
replies:
  code: ${ response.body.code }
  outcomes:
    - {code: GONE, then: retry, attempts: 1, else: pause, forget: person, from: start, scope: action, wait: 30s,
       why: the person is gone, expected: true}
"""
    assert outcome(text, reply(400, {"code": "GONE"})) == Outcome(
        OutcomeKind.RETRY,
        "the person is gone (GONE)",
        "GONE",
        wait_s=30.0,
        attempts=1,
        otherwise=OutcomeKind.PAUSE,
        forget="person",
        restart="start",
        scope="action",
        expected=True,
    )


@pytest.mark.parametrize("then", ["reject", "skip", "defer"])
def test_a_verdict_for_one_record_halves_a_request_with_several_unless_it_is_for_all(then: str) -> None:
    text = BATCH + rules(f"{{status: 400, then: {then}, why: not this one}}")
    everyone = BATCH + rules(f"{{status: 400, then: {then}, all: true}}")
    assert kind(text, reply(400), records=1) == then
    assert kind(text, reply(400), records=2) == "split"
    assert kind(everyone, reply(400), records=2) == then


@pytest.mark.parametrize("then", ["retry", "throttle", "pause", "reauth"])
def test_a_verdict_for_the_lane_halves_nothing(then: str) -> None:
    assert kind(BATCH + rules(f"{{status: 400, then: {then}}}"), reply(400), records=9) == then


def test_a_written_split_rejects_what_stands_alone() -> None:
    text = BATCH + rules("{status: 400, then: split}")
    assert kind(text, reply(400), records=2) == "split"
    assert kind(text, reply(400), records=1) == "reject"


def test_a_written_retry_on_a_5xx_stays_an_outage_unless_it_counts_its_attempts() -> None:
    text = rules("{status: 503, then: retry, wait: 1m}", "{status: 500, then: retry, attempts: 2}")
    assert (outcome(text, reply(503)).outage, outcome(text, reply(503)).wait_s) == (True, 60.0)
    assert (outcome(text, reply(500)).outage, outcome(text, reply(500)).count) == (False, True)


# --- what a good reply looks like ---

EXPECT = """
replies: {code: "${ response.body.code }", message: "${ response.body.text }"}
actions: {note: {request: {path: /notes, json: {}, expect: "${ response.body.id }"}}}
"""


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, {}),
        reply(204),
        reply(200, text="<html>Welcome</html>", content_type="text/html"),
        reply(200, {"id": None}),
        reply(200, {"id": ""}),
        reply(200, [1]),
        reply(200, text=b"\xff\xfe"),
    ],
)
def test_a_2xx_that_is_not_what_was_expected_is_never_delivered(answer: Answer) -> None:
    found = outcome(EXPECT, answer)
    assert (found.kind, found.otherwise) == (OutcomeKind.RETRY, OutcomeKind.PAUSE)


def test_an_unmet_expectation_says_what_came() -> None:
    assert outcome(EXPECT, reply(200, {"code": "E1", "text": "no"})) == Outcome(
        OutcomeKind.RETRY,
        "HTTP 200 that is not the expected reply (application/json): E1: no",
        "E1",
        otherwise=OutcomeKind.PAUSE,
    )


def test_what_was_expected_is_delivered() -> None:
    assert outcome(EXPECT, reply(201, {"id": 7})) == Outcome(OutcomeKind.DELIVERED)


def test_an_expectation_is_held_up_before_the_results_are_read() -> None:
    text = """
actions:
  note:
    batch: {records: 10}
    record: {id: "${ event.id }"}
    request: {path: /notes, json: "${ batch.records }", expect: "${ response.body.done }"}
    results: {at: "${ response.body.rows }", ok: "${ result.ok }"}
"""
    assert kind(text, reply(200, {"rows": [{"ok": True}]})) == "retry"
    good = verdict(text, reply(200, {"done": True, "rows": [{"ok": True}]}))
    assert (good.outcome, good.results is not None) == (None, True)


def test_a_rule_that_says_delivered_is_still_held_against_what_is_expected_of_a_2xx() -> None:
    text = EXPECT + 'http: {base_url: "https://api.crm.example"}\n'
    text = text.replace(
        '"${ response.body.text }"}', '"${ response.body.text }", outcomes: [{status: 409, then: delivered}]}'
    )
    assert kind(text, reply(409, {})) == "delivered"  # the vendor says: it is there already
    assert kind(text, reply(200, {})) == "retry"


# --- what must not be sent twice ---

NEVER = 'actions: {note: {repeat: never, request: {path: /notes, json: {}, expect: "${ response.body.id }"}}}'


def test_what_must_not_be_repeated_is_rejected_when_no_answer_came_and_retried_when_it_was_not_sent() -> None:
    assert outcome(NEVER, TIMED_OUT) == Outcome(
        OutcomeKind.REJECT, f"{TIMED_OUT.reason}; it may have arrived and must not be repeated", private=True
    )
    assert outcome(NEVER, REFUSED) == Outcome(OutcomeKind.RETRY, REFUSED.reason, count=False, outage=True, private=True)


def test_what_must_not_be_repeated_is_rejected_when_the_reply_is_not_the_expected_one() -> None:
    found = outcome(NEVER, reply(200, {}))
    assert found.kind is OutcomeKind.REJECT
    assert "it may have been carried out" in found.reason


# --- results: what a reply says of each record ---

OK = "delivered"


def results(rule: str, answer: Answer, records: list[Any]) -> list[str | None] | None:
    """The word for each record; None for one that is not named, None at all where nothing can be read."""
    text = f"""
actions:
  note:
    batch: {{records: 100}}
    record: {{id: "${{ event.id }}"}}
    request: {{path: /notes, json: "${{ batch.records }}"}}
    results: {rule}
"""
    step = step_of(program_from(text))
    scope = scope_for(records)
    found = step.call.judge.verdict(scope, answer, records=len(records))
    assert found.results is not None, found
    decided = found.results.outcomes({**scope, "response": answer.scope}, answer, records)  # type: ignore[union-attr]
    if decided is None:
        return None
    assert len(decided) == len(records)
    return [one.kind.value if one is not None else None for one in decided]


THREE = [{"id": "a"}, {"id": "b"}, {"id": "c"}]


def test_results_by_position() -> None:
    rule = """
      {at: "${ response.body }", ok: "${ result.ok }", code: "${ result.code }",
       outcomes: [{code: LOCK, then: retry}]}"""
    answer = reply(200, [{"ok": True}, {"ok": False, "code": "LOCK"}, {"ok": False, "code": "BAD"}])
    assert results(rule, answer, THREE) == [OK, "retry", "reject"]


def test_fewer_results_than_records_leave_the_last_unnamed() -> None:
    rule = '{at: "${ response.body }", ok: "${ result.ok }"}'
    assert results(rule, reply(200, [{"ok": True}]), THREE) == [OK, None, None]
    assert results(rule, reply(200, []), THREE) == [None, None, None]


def test_more_results_than_records_say_nothing_of_anybody() -> None:
    rule = '{at: "${ response.body }", ok: "${ result.ok }"}'
    assert results(rule, reply(200, [{"ok": True}] * 4), THREE) is None


@pytest.mark.parametrize("body", [None, {}, {"rows": None}, {"rows": "fine"}, {"rows": 3}, [1], "text"])
def test_results_that_are_not_a_list_say_nothing_of_anybody(body: Any) -> None:
    assert results('{at: "${ response.body.rows }", ok: "${ result.ok }"}', reply(200, body), THREE) is None


def test_results_that_name_their_position() -> None:
    rule = (
        '{{match: {{position: "${{ result.row }}", base: {base}}}, at: "${{ response.body }}", ok: "${{ result.ok }}"}}'
    )
    answer = reply(200, [{"row": 2, "ok": True}, {"row": 1, "ok": False}])
    assert results(rule.format(base=1), answer, THREE) == ["reject", OK, None]
    assert results(rule.format(base=0), answer, THREE) == [None, "reject", OK]
    as_text = reply(200, [{"row": "2", "ok": True}, {"row": "x", "ok": True}, {"row": -5, "ok": True}, {"row": 99}, {}])
    assert results(rule.format(base=1), as_text, THREE) == [None, OK, None]


@pytest.mark.parametrize("position", ["²", "--1", "9" * 5000, "1.0", "", None, True, [0]])
def test_a_position_that_is_none_names_nobody(position: Any) -> None:
    rule = '{match: {position: "${ result.row }"}, at: "${ response.body }"}'
    assert results(rule, reply(200, [{"row": position}]), THREE) == [None, None, None]


def test_a_record_that_is_to_be_sent_again_after_a_5xx_has_its_attempts_counted() -> None:
    text = """
actions:
  note:
    record: {id: "${ event.id }", mail: "${ event.mail }"}
    request: {path: /notes, json: "${ record }"}
    results: {on: {status: 5xx}, match: test, outcomes: [{status: 5xx, then: retry}]}
"""
    shop = Shop(text, vendor=Vendor(reply(500, {})))
    shop.post({"id": "1"})
    shop.drain(86400)
    assert (shop.sums(), len(shop.vendor.asked)) == ({"rejected": 1}, 3)


def test_arguments_of_results_that_can_not_be_read_are_absent() -> None:
    text = """
actions:
  note:
    record: {mail: "${ event.mail }"}
    request: {path: /notes, json: "${ record }"}
    results: {args: {mail: "${ lower(record.mail) }"}, at: "${ response.body }", ok: "${ result }"}
"""
    shop = Shop(text, vendor=Vendor(reply(200, [True])))
    shop.post({"id": "1", "mail": 5})
    shop.drain()
    assert (shop.sums(), len(shop.vendor.asked)) == ({"delivered": 1}, 1)


def test_results_that_name_a_key_in_any_order() -> None:
    rule = (
        '{match: {ours: "${ record.id }", theirs: "${ result.key }"}, at: "${ response.body }", ok: "${ result.ok }"}'
    )
    answer = reply(200, [{"key": "c", "ok": True}, {"key": "a", "ok": False}, {"key": "zzz", "ok": False}])
    assert results(rule, answer, THREE) == ["reject", None, OK]


def test_keys_are_compared_as_text() -> None:
    rule = (
        '{match: {ours: "${ record.id }", theirs: "${ result.key }"}, at: "${ response.body }", ok: "${ result.ok }"}'
    )
    assert results(rule, reply(200, [{"key": "7", "ok": True}, {"key": 8, "ok": True}]), [{"id": 7}, {"id": "8"}]) == [
        OK,
        OK,
    ]


def test_one_result_may_speak_of_several_keys() -> None:
    rule = (
        '{match: {ours: "${ record.id }", theirs: "${ result.keys }"}, at: "${ response.body }", ok: "${ result.ok }"}'
    )
    answer = reply(207, [{"keys": ["a", "c"], "ok": False}, {"keys": ["b"], "ok": True}])
    assert results(rule, answer, THREE) == ["reject", OK, "reject"]


def test_two_records_with_one_key_share_its_result() -> None:
    rule = '{match: {ours: "${ record.id }", theirs: "${ result }"}, failed_at: "${ response.body }"}'
    assert results(rule, reply(200, ["a"]), [{"id": "a"}, {"id": "b"}, {"id": "a"}]) == ["reject", None, "reject"]


def test_of_two_results_for_one_record_the_bad_one_holds() -> None:
    rule = '{match: {ours: "${ record.id }", theirs: "${ result.k }"}, at: "${ response.body }", ok: "${ result.ok }"}'
    good, bad = {"k": "a", "ok": True}, {"k": "a", "ok": False}
    assert results(rule, reply(200, [good, bad]), [{"id": "a"}]) == ["reject"]
    assert results(rule, reply(200, [bad, good]), [{"id": "a"}]) == ["reject"]


def test_good_and_bad_ones_may_stand_in_two_lists() -> None:
    rule = """
      {match: {ours: "${ record.id }", theirs: "${ result.id }"}, ok_at: "${ response.body.saved }",
       failed_at: "${ response.body.errors }", code: "${ result.code }", outcomes: [{code: BUSY, then: retry}]}"""
    answer = reply(200, {"saved": [{"id": "b"}], "errors": [{"id": "a", "code": "BUSY"}, {"id": "c", "code": "BAD"}]})
    assert results(rule, answer, THREE) == ["retry", OK, "reject"]
    assert results(rule, reply(200, {"saved": [{"id": "a"}]}), THREE) == [OK, None, None]


@pytest.mark.parametrize("unnamed", ["retry", "delivered", "resend"])
def test_neither_list_in_the_reply_says_nothing_of_anybody(unnamed: str) -> None:
    rule = f"""
      {{match: {{ours: "${{ record.id }}", theirs: "${{ result.id }}"}}, ok_at: "${{ response.body.saved }}",
       failed_at: "${{ response.body.errors }}", unnamed: {unnamed}}}"""
    assert results(rule, reply(200, {"oops": 1}), THREE) is None
    assert results(rule, reply(200, text="<html>", content_type="text/html"), THREE) is None
    assert results(rule, reply(200, {"errors": []}), THREE) == [None, None, None]


def test_the_entries_of_an_object_are_keys_and_values() -> None:
    rule = """
      {match: {ours: "${ record.id }", theirs: "${ result.key }"}, at: "${ response.body }",
       ok: "${ result.value == 'OK' }"}"""
    assert results(rule, reply(200, {"a": "OK", "c": "NO"}), THREE) == [OK, None, "reject"]


def test_each_record_is_held_against_rules_that_see_the_whole_reply() -> None:
    rule = """
      {match: test, on: {status: 200},
       outcomes: [{when: "${ contains(response.body.bad, record.id) }", then: reject, why: named as bad}]}"""
    assert results(rule, reply(200, {"bad": ["b"]}), THREE) == [OK, "reject", OK]


def test_the_first_rule_whose_on_fits_reads_the_reply() -> None:
    text = """
actions:
  note:
    batch: {records: 10}
    record: {id: "${ event.id }"}
    request: {path: /notes, json: "${ batch.records }"}
    results:
      - {on: {status: 207}, at: "${ response.body.mixed }", ok: "${ result }"}
      - {on: {status: 200-299, when: "${ response.body.list }"}, at: "${ response.body.list }", ok: "${ result }"}
      - on: {status: 400}
        match: {ours: "${ record.id }", theirs: "${ result.id }"}
        at: "${ response.body.errors }"
        unnamed: resend
"""
    judge = judge_of(text)

    def chosen(answer: Answer) -> Any:
        found = judge.verdict(scope_for([{}]), answer, records=1)
        return judge.results.index(found.results) if found.results is not None else found.outcome

    assert chosen(reply(207, {"mixed": []})) == 0
    assert chosen(reply(207, {"list": [True]})) == 0
    assert chosen(reply(200, {"list": [True]})) == 1
    assert chosen(reply(400, {"errors": []})) == 2
    assert chosen(reply(200, {})) == Outcome(OutcomeKind.DELIVERED)
    assert chosen(reply(422, {})).kind is OutcomeKind.REJECT


def test_results_are_read_of_a_2xx_unless_the_rule_says_otherwise() -> None:
    text = """
actions:
  note:
    batch: {records: 10}
    record: {id: "${ event.id }"}
    request: {path: /notes, json: {}}
    results: {at: "${ response.body }", ok: "${ result }"}
"""
    assert verdict(text, reply(400, [True])).results is None
    assert kind(text, reply(500, [True])) == "retry"


def test_a_record_that_failed_for_no_known_reason_is_rejected_with_what_the_vendor_says() -> None:
    text = """
actions:
  note:
    batch: {records: 10}
    record: {id: "${ event.id }"}
    request: {path: /notes, json: {}}
    results: {at: "${ response.body }", ok: "${ result.ok }", code: "${ result.code }", message: "${ result.text }"}
"""
    step = step_of(program_from(text))
    answer = reply(200, [{"ok": False, "code": "E1", "text": "no mailbox"}, {"ok": False}])
    scope = {**scope_for(THREE), "response": answer.scope}
    assert step.results[0].outcomes(scope, answer, THREE[:2]) == [
        Outcome(OutcomeKind.REJECT, "E1: no mailbox", "E1"),
        Outcome(OutcomeKind.REJECT, "refused by the vendor"),
    ]


def test_what_a_vendor_says_at_length_is_cut_after_its_secrets_are_masked() -> None:
    text = rules("{status: 418, then: skip}")
    long = "x" * 490 + "my-secret" + "y" * 5000
    shop = Shop(text, vendor=Vendor(reply(422, {"code": "c" * 5000, "text": long})), secrets={"key": "my-secret"})
    shop.post({"id": "1"})
    shop.drain()
    (dead,) = shop.dead()
    assert (len(dead.reason), len(dead.code)) == (500, 100)
    assert "my-se" not in dead.reason


# --- any reply at all, to any request of the bundled connectors ---

EXAMPLES = int(os.environ.get("CONNECT_TEST_EXAMPLES", "20"))
BUNDLED = Project(Path(__file__).parents[1])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["INVALID_FIELD", "OK", "id"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "errors",
                    "errorCode",
                    "success",
                    "id",
                    "records",
                    "recordData",
                    "error",
                    "message",
                    "state",
                    "event_uuid",
                ]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "content-type", "x-ratelimit-reset", "location", "sforce-locator"]),
    st.sampled_from(["application/json", "text/html", "text/csv", "0", "5", "-1", "²", "sNaN", "1e999", "x", ""])
    | st.text(st.characters(max_codepoint=255), max_size=12),
)
STATUSES = st.sampled_from(
    [200, 201, 202, 204, 207, 301, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503]
) | st.integers(100, 599)
BODIES = JSON.map(encode_json) | st.text().map(str.encode) | st.binary()
REPLIES = st.builds(Reply, STATUSES, HEADERS, BODIES) | st.sampled_from([REFUSED, TIMED_OUT])
EVENTS = {
    "responsys": {"clientId": "abc"},
    "rdstation": {"tid": "abc"},
    "salesforce": {"clientId": "abc"},
}
BROWSED = {
    "email": "ana@example.com",
    "eventType": "product_view",
    "timestamp": "2026-01-28T10:30:45Z",
    "product": {"id": "P1", "name": "Phone", "price": Decimal("1299.90"), "url": "https://example.com/p1"},
}


class Unruly:
    """Log-ins are answered by the connector's own sandbox, so that the walk goes on; everything else by anything."""

    def __init__(self, connector: Connector, data: st.DataObject, clock: VirtualClock) -> None:
        self.sandbox = Sandbox(connector)
        self.data, self.clock, self.left = data, clock, 12
        self.spoken: list[tuple[Prepared, Reply | NoReply]] = []

    def send(self, request: Prepared) -> Reply:
        if request.purpose == "auth" and self.data.draw(st.booleans()):
            return self.sandbox.answer(request, self.clock.now())
        self.left -= 1
        # a look-up of persons by the sandbox now and then, so that the requests after it are reached
        tame = self.left > 6 and request.method == "GET" and self.data.draw(st.booleans())
        found = self.sandbox.answer(request, self.clock.now()) if tame else self.data.draw(REPLIES)
        self.spoken.append((request, found))
        if isinstance(found, NoReply):
            raise found
        return found


@cache
def everything_of(name: str) -> Program:
    """All actions of a bundled connector for one client, compiled."""
    connector = BUNDLED.connector(name)
    assert connector.sandbox is not None
    actions = {action: {"active": True} for action in connector.actions}
    binding = Binding(match="abc", settings=connector.sandbox.settings, actions=actions)
    client = Client(client="abc", connectors={name: binding})
    return Program(connector, client, binding, jitter=lambda: 1.0)


@pytest.mark.parametrize("name", sorted(EVENTS))
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(data=st.data())
def test_whatever_a_vendor_answers_every_delivery_has_one_place_and_nothing_breaks(
    name: str, data: st.DataObject
) -> None:
    program = everything_of(name)
    connector = program.connector
    assert connector.sandbox is not None
    program.auth.cached = None
    program.cache.kept.clear()
    clock, store = VirtualClock(START), MemoryStore()
    unruly = Unruly(connector, data, clock)
    heard = Heard()
    secrets = dict(connector.sandbox.secrets)
    world = World(
        store=store,
        transport=unruly,
        clock=clock,
        telemetry=heard,
        alerts=heard,
        program=lambda *_: program,
        credentials=lambda _: Credentials(secrets, "x"),
        masker=lambda _: Masker(secrets.values()),
    )
    worker = Worker(world)
    body = encode_json({**BROWSED, **EVENTS[name]})
    drafts = program.drafts({**BROWSED, **EVENTS[name]}, START)
    assert drafts
    events = [Accepted(name, "abc", f"e{at}", body, START, drafts) for at in range(3)]
    store.put(events, now=START).result()
    for _ in range(6):
        worker.drain()
        balanced(store)
        due = store.next_due(now=clock.now())
        if due is None or unruly.left <= 0:
            break
        clock.time = max(due, clock.now() + 0.001)
    (lane,) = store.lanes()
    assert lane.accepted == 3 * len(drafts)
    if lane.delivered:  # somebody said so with a 2xx, or by a rule that the connector's author wrote
        assert any(isinstance(found, Reply) and found.status < 300 for _, found in unruly.spoken)
    seen = str([lane, store.dead(limit=100), heard.events, heard.alerts])
    assert not [secret for secret in secrets.values() if secret in seen]


@settings(max_examples=100)
@given(answer=st.builds(Reply, STATUSES, HEADERS, BODIES), records=st.integers(1, 5))
def test_no_reply_but_a_2xx_that_is_as_expected_counts_as_delivered(answer: Reply, records: int) -> None:
    scope = scope_for([{"id": str(at)} for at in range(records)])
    for judge, expected in ((PLAIN, False), (EXPECTING, True)):
        found = judge.verdict(scope, answer, records=records)
        assert (found.outcome is None) == (found.results is not None)
        if found.outcome is not None and found.outcome.kind is OutcomeKind.DELIVERED:
            assert 200 <= answer.status < 300
            body = answer.body
            assert not expected or (isinstance(body, dict) and bool(body.get("id") or body.get("id") == 0))


PLAIN, EXPECTING = judge_of(BATCH), judge_of(EXPECT)
