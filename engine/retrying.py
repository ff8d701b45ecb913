"""(outcome, attempts, age) -> again, rejected or paused; and how long a wait is, in every form a vendor gives it."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from engine.errors import BadValue
from engine.records import Outcome, OutcomeKind
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.expressions import Compiler, Path
    from engine.http import Reply
    from engine.spec import types

LONGEST_S = 7 * 86400.0
DEFER_S = 60.0  # where nobody says how long


class Backoff:
    """`http.retry`, compiled: the growing wait between attempts, with jitter so that lanes do not come back as one."""

    def __init__(self, spec: types.Retry, jitter: Callable[[], float] = random.random) -> None:
        self.attempts = spec.attempts
        self.initial_s = units.duration(spec.initial)
        self.factor = float(spec.factor)
        self.max_s = units.duration(spec.max)
        self.give_up_s = units.duration(spec.give_up_after)
        self.jitter = jitter if spec.jitter == "full" else (lambda: 1.0)

    def wait_s(self, attempt: int) -> float:
        """Seconds before try number `attempt` + 1; full jitter takes anything from half to the whole of it."""
        longest = min(self.max_s, self.initial_s * self.factor ** min(max(attempt - 1, 0), 60))
        return longest * (0.5 + 0.5 * self.jitter())


def after_failure(outcome: Outcome, attempts: int, age_s: float, backoff: Backoff) -> tuple[OutcomeKind, float]:
    """
    What becomes of a delivery with `attempts` counted tries, this one included: retry after a wait, or the end.

    `attempts: n` of the rule counts repeats, else `http.retry.attempts` counts tries. What is not counted, such as an
    outage, ends by `give_up_after` alone.
    """
    most = outcome.attempts + 1 if outcome.attempts is not None else backoff.attempts
    if age_s >= backoff.give_up_s or (outcome.count and attempts >= most):
        return outcome.otherwise, 0.0
    return OutcomeKind.RETRY, outcome.wait_s if outcome.wait_s is not None else backoff.wait_s(attempts)


def retry_after(reply: Reply, scope: Mapping[str, Any]) -> float | None:
    """Seconds of a `Retry-After` header, in both its forms; a date is held against the reply's own `Date`."""
    text = reply.headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return min(float(text), LONGEST_S)
    at = http_date(text)
    if at is None:
        return None
    # by the vendor's own clock, which need not be ours
    since = http_date(reply.headers.get("date", ""))
    return min(max(at - (float(scope["now"]) if since is None else since), 0.0), LONGEST_S)


def http_date(text: str) -> float | None:
    try:
        return _dated(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def wait_of(
    compiler: Compiler, spec: Any, names: frozenset[str], place: Path
) -> Callable[[Mapping[str, Any]], float | None] | None:
    """`wait:` in any of its forms -> scope (with `now`, `failures`) -> seconds, None where the reply does not say."""
    if spec is None:
        return None
    if isinstance(spec, list):
        parts = [part for index, entry in enumerate(spec) if (part := wait_of(compiler, entry, names, (*place, index)))]
        return lambda scope: max((found for part in parts if (found := part(scope)) is not None), default=None)
    if isinstance(spec, str):
        seconds = units.duration(spec)
        return lambda _: seconds
    longest = units.duration(spec["max"]) if "max" in spec else LONGEST_S
    if "initial" in spec:
        initial, factor = units.duration(spec["initial"]), float(spec.get("factor", 2))
        return lambda scope: min(longest, initial * factor ** min(int(scope.get("failures") or 0), 60))
    if "until" in spec:
        zone = compiler.value(spec.get("timezone", "UTC"), names, (*place, "timezone"))

        def until(scope: Mapping[str, Any]) -> float:
            try:
                return until_midnight(float(scope["now"]), zone(scope))
            except BadValue:
                return until_midnight(float(scope["now"]), "UTC")

        return until
    unit = spec.get("unit", "s")
    if "header" in spec:
        name = str(spec["header"]).lower()
        return lambda scope: bounded_wait(scope["response"]["headers"].get(name), unit, float(scope["now"]), longest)
    read = compiler.value(spec["from"], names, (*place, "from"))

    def from_reply(scope: Mapping[str, Any]) -> float | None:
        try:
            return bounded_wait(read(scope), unit, float(scope["now"]), longest)
        except BadValue:
            return None

    return from_reply


def until_midnight(now: float, zone: Any) -> float:
    try:
        here = datetime.fromtimestamp(now, ZoneInfo(str(zone or "UTC")))
    except (ValueError, OSError, KeyError):
        here = datetime.fromtimestamp(now, ZoneInfo("UTC"))
    midnight = (here + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(midnight.timestamp() - now, 1.0)


def bounded_wait(value: Any, unit: str, now: float, longest: float) -> float | None:
    """A number (or its text) in s, ms, epoch, epoch_ms, or a date -> seconds from now, between 0 and `longest`."""
    at = moment(value, unit, now)
    return None if at is None else min(max(at - now, 0.0), longest)


def moment(value: Any, unit: str, now: float) -> float | None:
    """The unix time that a value with a unit means: a span counts from `now`."""
    if value is None or isinstance(value, (bool, list, dict)):
        return None
    if unit == "date":
        try:
            text = str(value).strip()
            parsed = datetime.fromisoformat(text) if text[:4].isdigit() else _dated(text)
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=ZoneInfo("UTC"))).timestamp()
        except (ValueError, TypeError, OverflowError):
            return None
    try:
        number = float(Decimal(str(value).strip()))
    except (ArithmeticError, ValueError):  # ValueError: sNaN
        return None
    if number != number or abs(number) > 1e15:
        return None
    return {"s": now + number, "ms": now + number / 1000, "epoch": number, "epoch_ms": number / 1000}[unit]


def _dated(text: str) -> datetime:
    """A date as HTTP writes it."""
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(text)
