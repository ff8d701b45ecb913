"""How long a wait is, in every form that a vendor gives it, and when trying again comes to its end."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from conftest import START, program_from, reply
from hypothesis import given
from hypothesis import strategies as st

from engine.records import Outcome, OutcomeKind
from engine.retrying import LONGEST_S, Backoff, after_failure, bounded_wait, retry_after
from engine.spec.types import Retry

if TYPE_CHECKING:
    from engine.http import Reply

DAY = 86400.0
IN_SAO_PAULO = 13 * 3600 + 29 * 60 + 15 + 3 * 3600  # from 07:30:45 there, which is 10:30:45 UTC, to its midnight
HTTP_DATE = "Wed, 28 Jan 2026 10:31:15 GMT"  # 30 seconds from now


def wait(written: str, answer: Reply, *, failures: int = 0) -> float | None:
    """The seconds of `wait: …` in a rule for this reply."""
    program = program_from(f"replies: {{outcomes: [{{status: 400, then: throttle, wait: {written}}}]}}")
    judge = program.actions["note"].steps.steps["request"].call.judge
    scope: dict[str, Any] = {name: {} for name in ("settings", "client", "tables", "derived", "event", "steps")}
    found = judge.verdict({**scope, "now": START, "failures": failures}, answer, records=1)
    assert found.outcome is not None
    return found.outcome.wait_s


BODY = reply(400, {"left": 37, "text": "12.5", "ms": 1500, "at": START + 90, "at_ms": (START + 90) * 1000})


@pytest.mark.parametrize(
    ("written", "answer", "seconds"),
    [
        ("15m", reply(400), 900.0),
        ("250ms", reply(400), 0.25),
        ("{header: x-reset}", reply(400, x_reset="12"), 12.0),
        ("{header: X-Reset, unit: s}", reply(400, x_reset=" 12.5 "), 12.5),
        ("{header: x-reset, unit: ms}", reply(400, x_reset="1500"), 1.5),
        ("{header: x-reset, unit: epoch}", reply(400, x_reset=str(int(START) + 60)), 60.0),
        ("{header: x-reset, unit: epoch_ms}", reply(400, x_reset=str((int(START) + 60) * 1000)), 60.0),
        ("{header: x-reset, unit: date}", reply(400, x_reset=HTTP_DATE), 30.0),
        ("{header: x-reset, unit: date}", reply(400, x_reset="2026-01-28T10:31:15Z"), 30.0),
        ("{header: x-reset, unit: date}", reply(400, x_reset="2026-01-28T07:31:15-03:00"), 30.0),
        ("{header: x-reset, unit: date}", reply(400, x_reset="2026-01-28T10:31:15"), 30.0),
        ('{from: "${ response.body.left }"}', BODY, 37.0),
        ('{from: "${ response.body.text }", unit: s}', BODY, 12.5),
        ('{from: "${ response.body.ms }", unit: ms}', BODY, 1.5),
        ('{from: "${ response.body.at }", unit: epoch}', BODY, 90.0),
        ('{from: "${ response.body.at_ms }", unit: epoch_ms}', BODY, 90.0),
        ('{from: "${ default(response.body.none, `20`) }"}', BODY, 20.0),
        ('{from: "${ response.body.left }", max: 10s}', BODY, 10.0),
        ("{header: x-reset, max: 1h}", reply(400, x_reset="86400"), 3600.0),
        ("{header: x-reset}", reply(400, x_reset="999999999"), LONGEST_S),
        ("{until: midnight}", reply(400), 13 * 3600 + 29 * 60 + 15.0),
        ("{until: midnight, timezone: America/Sao_Paulo}", reply(400), float(IN_SAO_PAULO)),
        ("[5s, 20s, 10s]", reply(400), 20.0),
        ("[1m, {header: x-reset}]", reply(400, x_reset="90"), 90.0),
        ("[1m, {header: x-reset}]", reply(400, x_reset="5"), 60.0),
        ("[1m, {header: x-reset}]", reply(400), 60.0),
        ("[{header: x-a}, {header: x-b}]", reply(400, x_b="7"), 7.0),
    ],
)
def test_a_wait_in_every_form(written: str, answer: Reply, seconds: float) -> None:
    assert wait(written, answer) == pytest.approx(seconds)


@pytest.mark.parametrize(("failures", "seconds"), [(0, 60), (1, 120), (2, 240), (3, 480), (4, 600), (10_000, 600)])
def test_a_wait_that_grows_with_every_turn(failures: int, seconds: int) -> None:
    assert wait("{initial: 1m, factor: 2, max: 10m}", reply(400), failures=failures) == seconds


@pytest.mark.parametrize(
    "said", ["", "soon", "NaN", "Infinity", "-Infinity", "1e999", "[]", "٣٠", "0x10", "--5", "1e400000000"]
)
@pytest.mark.parametrize("unit", ["s", "ms", "epoch", "epoch_ms", "date"])
def test_nonsense_from_a_vendor_is_no_wait_or_one_within_bounds(said: str, unit: str) -> None:
    found = wait(f"{{header: x-reset, unit: {unit}}}", reply(400, x_reset=said))
    assert found is None or 0 <= found <= LONGEST_S


@pytest.mark.parametrize("said", [True, False, None, [], {}, [5], {"s": 5}, "", "x"])
def test_a_body_that_says_no_number_is_no_wait(said: Any) -> None:
    assert wait('{from: "${ response.body.left }"}', reply(400, {"left": said})) is None


@pytest.mark.parametrize("said", ["-5", str(int(START) - 100)])
def test_a_moment_that_is_over_is_no_time_to_wait(said: str) -> None:
    assert wait("{header: x-reset, unit: epoch}", reply(400, x_reset=said)) == 0.0


@given(
    st.text() | st.integers() | st.decimals() | st.booleans() | st.none(),
    st.sampled_from(["s", "ms", "epoch", "epoch_ms", "date"]),
)
def test_any_value_gives_a_wait_within_bounds_or_none(value: object, unit: str) -> None:
    found = bounded_wait(value, unit, START, 3600.0)
    assert found is None or 0.0 <= found <= 3600.0


# --- Retry-After ---


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (HTTP_DATE, 30.0),
        ("Wednesday, 28-Jan-26 10:31:15 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("99999999999", LONGEST_S),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_S),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("1e5", None),
        ("²", None),
        ("٣", None),
        ("1.2.3", None),
        ("Wed, 99 Foo 2026 10:31:15 GMT", None),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None),
    ],
)
def test_retry_after_in_both_its_forms(said: str, seconds: float | None) -> None:
    assert retry_after(reply(429, retry_after=said), {"now": START}) == seconds


@given(st.text(st.characters(max_codepoint=255)))
def test_no_retry_after_can_do_harm(said: str) -> None:
    found = retry_after(reply(429, retry_after=said), {"now": START})
    assert found is None or 0.0 <= found <= LONGEST_S


def test_retry_after_counts_where_the_rule_says_no_wait_and_not_where_it_does() -> None:
    program = program_from(
        "replies: {outcomes: [{status: 420, then: throttle}, {status: 421, then: throttle, wait: 1m},"
        " {status: 422, then: retry}, {status: 423, then: defer}, {status: 424, then: pause}]}"
    )
    judge = program.actions["note"].steps.steps["request"].call.judge
    waits = [
        judge.verdict({"now": START, "failures": 0}, reply(status, retry_after="7"), records=1).outcome
        for status in (420, 421, 422, 423, 424)
    ]
    assert [one.wait_s for one in waits if one] == [7.0, 60.0, 7.0, 7.0, None]


# --- the growing wait between attempts ---


def test_the_wait_between_attempts_grows_to_its_maximum() -> None:
    backoff = Backoff(Retry(initial="1s", factor=3, max="20s", jitter="none"))
    assert [backoff.wait_s(attempt) for attempt in (1, 2, 3, 4, 5, 1_000_000)] == [1, 3, 9, 20, 20, 20]


@given(
    st.floats(min_value=0, max_value=1, exclude_max=True),
    st.integers(min_value=0, max_value=10**9),
    st.integers(min_value=1, max_value=3600),
    st.decimals(min_value=1, max_value=10, places=2),
)
def test_jitter_takes_between_half_and_the_whole_of_the_wait(
    chance: float, attempt: int, initial: int, factor: Decimal
) -> None:
    spec = Retry(initial=f"{initial}s", factor=factor, max="1h", jitter="full")
    still = Backoff(Retry(initial=spec.initial, factor=factor, max="1h", jitter="none")).wait_s(attempt)
    assert 0.5 * still <= Backoff(spec, lambda: chance).wait_s(attempt) <= still <= 3600


# --- when it comes to its end ---

BACKOFF = Backoff(Retry(attempts=3, initial="10s", factor=2, max="5m", jitter="none", give_up_after="1d"))
RETRY = Outcome(OutcomeKind.RETRY)


@pytest.mark.parametrize(
    ("outcome", "attempts", "age", "expected"),
    [
        (RETRY, 1, 0, ("retry", 10)),
        (RETRY, 2, 0, ("retry", 20)),
        (RETRY, 3, 0, ("reject", 0)),
        (RETRY, 1, DAY, ("reject", 0)),
        (Outcome(OutcomeKind.RETRY, wait_s=7), 1, 0, ("retry", 7)),
        (Outcome(OutcomeKind.RETRY, otherwise=OutcomeKind.PAUSE), 3, 0, ("pause", 0)),
        (Outcome(OutcomeKind.RETRY, attempts=1), 1, 0, ("retry", 10)),  # one repeat
        (Outcome(OutcomeKind.RETRY, attempts=1), 2, 0, ("reject", 0)),
        (Outcome(OutcomeKind.RETRY, attempts=1, otherwise=OutcomeKind.SKIP), 2, 0, ("skip", 0)),
        (Outcome(OutcomeKind.RETRY, attempts=9), 9, 0, ("retry", 300)),
        (Outcome(OutcomeKind.RETRY, attempts=0), 1, 0, ("reject", 0)),
        (Outcome(OutcomeKind.RETRY, count=False), 99, 0, ("retry", 300)),
        (Outcome(OutcomeKind.RETRY, count=False, outage=True), 99, DAY - 1, ("retry", 300)),
        (Outcome(OutcomeKind.RETRY, count=False, outage=True), 1, DAY, ("reject", 0)),
        (Outcome(OutcomeKind.RETRY, count=False, outage=True, wait_s=33), 4, 0, ("retry", 33)),
    ],
)
def test_when_trying_again_ends(outcome: Outcome, attempts: int, age: float, expected: tuple[str, float]) -> None:
    kind, seconds = after_failure(outcome, attempts, age, BACKOFF)
    assert (kind.value, seconds) == expected
