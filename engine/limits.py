"""
Rates, slots and budgets of connector, action and request, taken from the store so that they hold across processes.

A budget is counted for each hour, day or month of its time zone. What is spent in one stands in the store under a name
with the moment that it began, as if all of it were spent then: one row, that is swept when the time is over.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from engine.errors import BadValue, StoreUnavailable
from engine.names import BOUND
from engine.notations.emitting import dotted
from engine.notations.semantics import plain
from engine.privacy.people import digest
from engine.records import Outcome, OutcomeKind, Use
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.expressions import Compiler, Path
    from engine.ports import Limits
    from engine.spec import types

SLOT_TTL_S = 300.0
_NOBODY: deque[str] = deque(maxlen=0)
LATELY = 10  # values of one `by` that are remembered for those who look: each of them is asked of the store
A_PERIOD = {"hour": "an hour", "day": "a day", "month": "a month"}


class Period(NamedTuple):
    """An hour, day or month of some time zone; unix seconds, the end is the next one's beginning."""

    begins: float
    ends: float


def period_of(per: str, zone: ZoneInfo, now: float) -> Period:
    """The one that `now` lies in. A day in which the clocks change has 23 or 25 hours; an hour always has one."""
    here = datetime.fromtimestamp(now, zone)
    if per == "hour":
        begins = now - here.minute * 60 - here.second - here.microsecond / 1_000_000
        return Period(round(begins), round(begins) + 3600)
    first = here.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if per == "month":
        first = first.replace(day=1)
        after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    else:
        after = first + timedelta(days=1)
    return Period(first.timestamp(), after.timestamp())


class Bound(NamedTuple):
    """What one limit allows at this moment: `most` in `per_s` seconds; slots where these are 0."""

    most: int
    per_s: float
    period: Period | None = None  # of a budget


class Usage(NamedTuple):
    """How much of one limit is used at a moment; `most` None: the settings give none, as `says` tells."""

    at: str  # where it stands in the files, such as http.limits.calls
    kind: str  # rate | concurrency | budget
    of: str  # who counts together: client | credentials | host
    most: int | None
    per: str = ""  # of a rate its time, such as 1m; of a budget hour, day or month
    used: int | None = None  # None where it is not known
    free_at: float | None = None  # when there is room again, where there is none now; of a budget its next period
    says: str = ""
    active: bool = True  # its `when` holds
    apart: bool = False  # each value of its `by` is counted by itself
    values: int = 0  # then: how many this process asked for lately; `used` and `free_at` are of the fullest of them
    full: int = 0  # and how many of them have no room

    @property
    def is_full(self) -> bool:
        return self.most is not None and self.used is not None and self.used >= self.most


class Gate:
    """All limits that one request has to pass, for one client."""

    def __init__(self, lane: str) -> None:
        self.lane = lane  # connector/client
        self.limits: list[Limit] = []
        self.cost: Any = lambda _: 1
        self.cost_at = "cost"

    def add(
        self, compiler: Compiler, limits: Mapping[str, types.Limit], names: frozenset[str], place: Path, *, owner: str
    ) -> None:
        """Those of one level; `owner` tells levels apart, so that two actions do not share a limit of the same name."""
        for name, spec in limits.items():
            self.limits.append(Limit(compiler, spec, names, (*place, name), f"{owner}:{name}"))

    def costs(self, compiler: Compiler, cost: Any, names: frozenset[str], place: Path) -> None:
        """What the request at `place` spends of every budget."""
        self.cost, self.cost_at = compiler.value(cost, names, (*place, "cost")), dotted((*place, "cost"))

    def enter(
        self, store: Limits, scope: Mapping[str, Any], *, owner: str, now: float, credentials: str = ""
    ) -> Outcome | list[str]:
        """
        The slots taken (give them back), or the outcome that says how long to wait: nothing was sent then.

        Slots first, then rates from the shortest time to the longest, then budgets: a request that has to wait for its
        second uses up nothing of its day. Of budgets those first that put off only this delivery. `credentials` is the
        fingerprint that clients with the same secrets have in common.

        BadValue where the record gives no cost, or nothing to count it by.
        """
        try:
            active = [(limit.bound(scope, now), limit) for limit in self.limits if limit.when(scope)]
        except BadValue as error:  # of the settings: no delivery's fault
            return Outcome(OutcomeKind.PAUSE, str(error), "limit", private=True)
        active.sort(key=lambda found: found[1].turn(found[0]))
        cost = self.cost_of(scope) if any(bound.period for bound, _ in active) else 1
        for bound, limit in active:
            if bound.period is not None and cost > bound.most:
                reason = f"a request that costs {cost} is above our whole {limit.shown(scope, bound)}"
                return Outcome(OutcomeKind.PAUSE, f"{limit.at}: {reason}", "limit")
        uses: list[Use] = []
        asked: list[tuple[Bound, Limit]] = []  # for each use
        unread: BadValue | None = None
        for bound, limit in active:
            try:
                name = f"{self.shared_by(limit.spec.of, credentials)}:{limit.name_for(scope)}"
            except BadValue as error:  # those before it are asked all the same: one of them may have to be waited for
                unread = error
                break
            if bound.period is not None and cost == 0:
                continue
            uses.append(self.use(name, bound, cost, now))
            asked.append((bound, limit))
        full = store.enter(uses, owner=owner, ttl_s=SLOT_TTL_S, now=now) if uses else None
        if full is not None:
            return self.waits(*asked[full[0]], scope, full[1], now)
        slots = [use.name for use in uses if use.per_s == 0]
        if unread is not None:
            self.leave(store, slots, owner)
            raise unread
        return slots

    @staticmethod
    def use(name: str, bound: Bound, cost: int, now: float) -> Use:
        if bound.period is None:
            return Use(name, bound.most, bound.per_s, now)
        begins = bound.period.begins
        return Use(f"{name}@{begins:.0f}", bound.most, bound.per_s, begins, cost)

    @staticmethod
    def waits(bound: Bound, limit: Limit, scope: Mapping[str, Any], wait_s: float, now: float) -> Outcome:
        """What is said where this limit has no room."""
        if bound.per_s == 0:
            reason = f"all {bound.most} connections are in use"
            return Outcome(OutcomeKind.THROTTLE, reason, "limit", 0.5, count=False, ours=True)
        if bound.period is not None:
            wait_s = max(bound.period.ends - now, 1.0)
        kind = OutcomeKind.DEFER if limit.spec.then == "defer" else OutcomeKind.THROTTLE
        return Outcome(kind, f"our {limit.shown(scope, bound)} is used up", "limit", wait_s, count=False, ours=True)

    def cost_of(self, scope: Mapping[str, Any]) -> int:
        cost = self.cost(scope)
        if (number := whole_number(cost)) is None or number < 0:
            raise BadValue(f"{cost!r} is not a cost; it is a whole number such as 10", self.cost_at)
        return number

    def shared_by(self, of: str, credentials: str) -> str:
        """Who counts together: this lane, all clients with the same credentials, or all of the connector."""
        connector = self.lane.partition("/")[0]
        if of == "credentials":
            return f"{connector}#{credentials}"
        return connector if of == "host" else self.lane

    def usages(
        self, store: Limits, scope: Mapping[str, Any], *, now: float, credentials: Callable[[], str | None]
    ) -> list[Usage]:
        """
        How much of each limit is used; nothing is taken.

        `credentials` is asked where a limit counts by them; None: they can't be had.
        """
        return [self.usage(limit, store, scope, now, credentials) for limit in self.limits]

    def usage(
        self, limit: Limit, store: Limits, scope: Mapping[str, Any], now: float, credentials: Callable[[], str | None]
    ) -> Usage:
        spec = limit.spec
        kind = "rate" if spec.rate is not None else "concurrency" if spec.budget is None else "budget"
        found = Usage(limit.at, kind, spec.of, None, apart=limit.by is not None)
        try:
            found = found._replace(active=bool(limit.when(scope)))
            bound = limit.bound(scope, now)
        except BadValue as error:
            return found._replace(says=str(error))
        per = str(limit.rate(scope)).partition("/")[2] if kind == "rate" else spec.per if kind == "budget" else ""
        found = found._replace(most=bound.most, per=per, free_at=bound.period.ends if bound.period else None)
        fingerprint = credentials() if spec.of == "credentials" else ""
        names = list(limit.lately) if found.apart else [limit.name]
        if fingerprint is None or not names:
            return found
        shared = self.shared_by(spec.of, fingerprint)
        each = [self.used_of(found, bound, f"{shared}:{name}", store, now) for name in names]
        if not found.apart:
            return each[0]
        full = [one for one in each if one.is_full]
        fullest = min(full, key=lambda one: one.free_at or 0.0) if full else max(each, key=lambda one: one.used or 0)
        return fullest._replace(values=len(each), full=len(full))

    @staticmethod
    def used_of(found: Usage, bound: Bound, name: str, store: Limits, now: float) -> Usage:
        """With what is used under this name."""
        if bound.per_s == 0:
            return found._replace(used=store.slots_held(name, now=now))
        if bound.period is not None:
            used, _ = store.used(f"{name}@{bound.period.begins:.0f}", per_s=bound.per_s, now=bound.period.begins)
            return found._replace(used=used)
        used, first_at = store.used(name, per_s=bound.per_s, now=now)
        is_full = used >= bound.most and first_at is not None
        return found._replace(used=used, free_at=first_at + bound.per_s if is_full and first_at is not None else None)

    @staticmethod
    def leave(store: Limits, slots: list[str], owner: str) -> None:
        for name in slots:
            with suppress(StoreUnavailable):  # the reply counts for more, and a slot ends by itself
                store.release_slot(name, owner=owner)


class Limit:
    def __init__(self, compiler: Compiler, spec: types.Limit, names: frozenset[str], place: Path, name: str) -> None:
        self.spec, self.name, self.at = spec, name, dotted(place)
        self.rate = compiler.value(spec.rate, BOUND, (*place, "rate"))
        self.concurrency = compiler.value(spec.concurrency, BOUND, (*place, "concurrency"))
        self.budget = compiler.value(spec.budget, BOUND, (*place, "budget"))
        self.timezone = compiler.value(spec.timezone, BOUND, (*place, "timezone"))
        self.by = compiler.value(spec.by, names, (*place, "by")) if spec.by is not None else None
        self.when = compiler.condition(spec.when, BOUND, (*place, "when"))
        # names by the last values of `by`; a deque takes half a kilobyte, and most limits have no `by`
        self.lately: deque[str] = deque(maxlen=LATELY) if self.by is not None else _NOBODY

    def name_for(self, scope: Mapping[str, Any]) -> str:
        if self.by is None:
            return self.name
        value = self.by(scope)
        # A digest: the name stays in the store, and what it counts by may be an address.
        name = f"{self.name}:{digest(plain(value)) if value is not None else ''}"
        if name not in self.lately:
            self.lately.append(name)
        return name

    def turn(self, bound: Bound) -> tuple[bool, bool, float]:
        """What is asked earlier sorts before."""
        budget = bound.period is not None
        return budget, budget and self.spec.then != "defer", bound.per_s

    def shown(self, scope: Mapping[str, Any], bound: Bound) -> str:
        if bound.period is not None:
            return f"budget of {bound.most} {A_PERIOD[self.spec.per]}"
        return f"limit of {self.rate(scope)}"

    def bound(self, scope: Mapping[str, Any], now: float) -> Bound:
        """What it allows now; BadValue if the settings give no limit."""
        if self.spec.rate is not None:
            try:
                return Bound(*units.rate(self.rate(scope)))
            except units.UnitError as error:
                raise BadValue(str(error), self.at) from None
        if self.spec.budget is None:
            return Bound(self.number(self.concurrency(scope), "number of connections; write it as 10"), 0.0)
        most = self.number(self.budget(scope), "budget; write it as 30000")
        zone = self.timezone(scope)
        try:
            period = period_of(self.spec.per, ZoneInfo(str(zone)), now)
        except (ValueError, OSError, KeyError):
            raise BadValue(f"{zone!r} is not a time zone; write it as America/Sao_Paulo or UTC", self.at) from None
        return Bound(most, period.ends - period.begins, period)

    def number(self, value: Any, what: str) -> int:
        if (number := whole_number(value)) is None or number < 1:
            raise BadValue(f"{value!r} is not a {what}", self.at)
        return number


def whole_number(value: Any) -> int | None:
    """Also of a decimal without a fraction, which arithmetic may give."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value != value // 1:
        return None
    return int(value)
