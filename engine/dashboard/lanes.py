"""Lanes as the pages show them: state, what needs attention first, and why one waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.errors import SecretUnavailable, SpecErrors, TokenUnreadable, UsageError
from engine.ports import Carrier
from engine.privacy.personal import addresses
from engine.records import Lane, LaneChange, Waiting
from engine.runtime import BY_HAND
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.dashboard.history import History
    from engine.limits import Gate, Limit, Usage
    from engine.program import Program
    from engine.runtime import Engine

PER_PAGE = 25  # a browser draws twice as many noticeably later
MUCH = 20  # rejected are many from one in so many in an hour
RENEWALS_S = 60.0  # how long a look at the stored tokens is remembered
KINDS = ("paused", "held", "throttled", "rejecting", "waiting", "fine", "none")
SORTS = ("attention", "name", "waiting", "oldest", "rejected")
_URGENCY = {kind: at for at, kind in enumerate(KINDS)}


class Row(NamedTuple):
    """One client of one connector."""

    lane: Lane
    kind: str  # one of KINDS
    rejected: int  # in an hour
    delivered: int

    @property
    def key(self) -> tuple[str, str]:
        return (self.lane.connector, self.lane.client)

    @property
    def needs_attention(self) -> bool:
        return self.kind in ("paused", "held", "rejecting") or self.lane.failures > 0


class Why(NamedTuple):
    """One sentence: a text with what stands in its holes, and what the engine says of it."""

    key: str
    holes: dict[str, Any]
    reason: str = ""


class Lanes:
    """What the engine knows of its lanes, for people."""

    def __init__(self, engine: Engine, history: History) -> None:
        self.engine, self.history = engine, history
        self._renewals: dict[tuple[str, str], tuple[float, float | None]] = {}

    # --- all of them ---

    def rows(self, now: float) -> list[Row]:
        """Every lane of the store, and every client that is bound and has none yet."""
        lanes = {(lane.connector, lane.client): lane for lane in self.engine.store.lanes()}
        for client in list(self.engine.client_specs.values()):
            for connector in client.connectors:
                lanes.setdefault((connector, client.client), Lane(connector, client.client))
        still = {key[:2] for key, until in list(self.engine.worker.held.items()) if until > now}
        return [self._row(lane, now, is_held=key in still) for key, lane in lanes.items()]

    def _row(self, lane: Lane, now: float, *, is_held: bool) -> Row:
        key = (lane.connector, lane.client)
        if lane.reason is not None:
            lane = msgspec.structs.replace(lane, reason=addresses(lane.reason))
        rejected, delivered = self.history.totals(key, "rejected", "delivered")
        kind = kind_of(lane, now, is_held=is_held)
        if kind in ("fine", "waiting") and rejected * MUCH > rejected + delivered:
            kind = "rejecting"
        return Row(lane, kind, rejected, delivered)

    def row(self, connector: str, client: str, now: float) -> Row | None:
        """One of them, or None where neither store nor files know it."""
        lane = self.engine.store.lane(connector, client)
        if lane is None:
            spec = self.engine.client_specs.get(client)
            if spec is None or connector not in spec.connectors:
                return None
            lane = Lane(connector, client)
        return self._row(lane, now, is_held=bool(self.held(connector, client, now)))

    def held(self, connector: str, client: str, now: float) -> dict[str, float]:
        """The actions of a lane that stand still, each with the time until then."""
        items = list(self.engine.worker.held.items())
        return {key[2]: until for key, until in items if key[:2] == (connector, client) and until > now}

    # --- one of them ---

    def program(self, connector: str, client: str) -> Program | None:
        """None where the files are gone or can't be used."""
        try:
            return self.engine.program(connector, client)
        except (UsageError, SpecErrors):
            return None

    def renewed_at(self, connector: str, client: str) -> float | None:
        """When the stored token was obtained; asked at most once a minute."""
        key, now = (connector, client), time.monotonic()
        asked = self._renewals.get(key)
        if asked is None or asked[0] < now - RENEWALS_S:
            if len(self._renewals) > 10_000:
                self._renewals.clear()
            asked = self._renewals[key] = (now, self._stored(connector, client))
        return asked[1]

    def _stored(self, connector: str, client: str) -> float | None:
        spec, who = self.engine.connector_specs.get(connector), self.engine.client_specs.get(client)
        if spec is None or who is None:
            return None
        times = []
        for name in spec.auths or ("default",):
            try:
                row = self.engine.store.token(connector, client, name)
            except TokenUnreadable:
                continue
            if row is not None:
                times.append(row.obtained_at)
        return max(times, default=None)

    def why(self, row: Row, now: float) -> list[Why]:
        """Why a lane is waiting: the first is what holds it, the others add to it."""
        lane = row.lane
        found: list[Why] = []
        if lane.state == "paused":
            found.append(Why("why_paused", {}, lane.reason or ""))
        elif lane.not_before > now:
            found.append(Why("why_throttled", {"at": lane.not_before}, lane.reason or ""))
            if lane.failures > 1:
                found.append(Why("why_tries", {"n": lane.failures}))
        for action in self.held(*row.key, now):
            found.append(Why("why_held", {"action": action}))
        if found:
            return found
        if not lane.waiting:
            return [Why("why_none" if row.kind == "none" else "why_nothing", {})]
        program = self.program(*row.key)
        if program is None or not (program.client.active and program.binding.active):
            return [Why("why_gone", {})]
        if row.key in self.engine.store.held(now=now):
            return [Why("why_now", {})]
        found += self._oldest(row, now)
        waits = [spec.batch.wait for spec in program.action_specs.values() if spec.active and spec.batch is not None]
        longest = max(waits, key=units.duration, default=None)
        if longest is not None and units.duration(longest) > 0 and (not found or lane.waiting > 1):
            found.append(Why("why_batch", {"wait": longest}))
        return found or [Why("why_turn", {})]

    def _oldest(self, row: Row, now: float) -> list[Why]:
        """Why the oldest is not due, where it is not: a limit or an answer has put it off, or it waits for another."""
        store = self.engine.store
        if not isinstance(store, Carrier):
            return []
        for waits in store.carry_out(*row.key, Waiting, after=0, limit=1):
            if waits.after or waits.delivery.due_at == float("inf"):
                return [Why("why_after", {"event": waits.delivery.event_id})]
            if waits.delivery.due_at > now:
                reason = addresses(waits.tries[-1].reason) if waits.tries else ""
                holes = {"at": waits.delivery.due_at, "event": waits.delivery.event_id}
                return [Why("why_put_off", holes, reason)]
        return []

    def limits(self, connector: str, client: str, now: float) -> list[Usage]:
        """What the files allow this client, and how much of it is used now; looking uses nothing."""
        program = self.program(connector, client)
        if program is None:
            return []
        kept: list[str | None] = []

        def credentials() -> str | None:
            if not kept:
                try:
                    kept.append(self.engine.credentials(program).fingerprint)
                except SecretUnavailable:
                    kept.append(None)
            return kept[0]

        log_ins = [gate for name in sorted(program.used_auths) for gate in program.auths[name].gates]
        gates = [*program.gates, *log_ins]
        limits: dict[str, tuple[Gate, Limit]] = {}
        for gate in gates:
            for limit in gate.limits:  # several requests pass through one; each knows the values that it asked for
                if limit.at not in limits or len(limit.lately) > len(limits[limit.at][1].lately):
                    limits[limit.at] = (gate, limit)
        scope = self._scope(program)
        store = self.engine.store
        return [gate.usage(limit, store, scope, now, credentials) for gate, limit in limits.values()]

    def _scope(self, program: Program) -> dict[str, Any]:
        """What a limit may read."""
        if not program.derive:
            return program.scope
        try:
            return {**program.scope, "derived": program.derived(self.engine.credentials(program).values)}
        except SecretUnavailable:
            return program.scope

    # --- done to one ---

    def pause(self, connector: str, client: str, why: str) -> None:
        """As `connect pause`."""
        change = LaneChange(pause=True, reason=f"{BY_HAND}: {why}" if why else BY_HAND)
        self.engine.store.change_lane(connector, client, change, now=self.engine.clock.now())

    def resume(self, connector: str, client: str) -> None:
        """As `connect resume`, and the actions that stand still in this process go on, too."""
        self.engine.resume(connector, client)


def kind_of(lane: Lane, now: float, *, is_held: bool) -> str:
    if lane.state == "paused":
        return "paused"
    if is_held:
        return "held"
    if lane.not_before > now and lane.waiting:
        return "throttled"
    if lane.waiting:
        return "waiting"
    return "fine" if lane.accepted or lane.delivered or lane.rejected or lane.skipped else "none"


def found(rows: Iterable[Row], search: str, kind: str) -> list[Row]:
    """Those whose client or connector has all words of the search, and that are of the kind where one is given."""
    words = search.casefold().split()
    return [
        row
        for row in rows
        if (not kind or row.kind == kind)
        and all(word in f"{row.lane.client} {row.lane.connector}".casefold() for word in words)
    ]


def ordered(rows: Iterable[Row], sort: str) -> list[Row]:
    """In one of SORTS; alike ones by their names."""
    return sorted(rows, key=lambda row: (*_ORDER[sort](row), row.lane.client, row.lane.connector))


def _attention(row: Row) -> tuple[Any, ...]:
    oldest = row.lane.oldest_at if row.lane.oldest_at is not None else float("inf")
    return (not row.needs_attention, _URGENCY[row.kind], -row.rejected, oldest)


_ORDER: dict[str, Callable[[Row], tuple[Any, ...]]] = {
    "attention": _attention,
    "name": lambda _: (),
    "waiting": lambda row: (-row.lane.waiting,),
    "oldest": lambda row: (row.lane.oldest_at if row.lane.oldest_at is not None else float("inf"),),
    "rejected": lambda row: (-row.rejected,),
}
