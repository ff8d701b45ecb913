"""Which troubles stand, as the store shows it: so none is missed after a restart, and its end is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.alerts.kinds import KINDS
from engine.alerts.ledger import Trouble
from engine.alerts.rules import lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from engine.alerts.desk import Desk
    from engine.alerts.rules import Rules
    from engine.ports import Alerts, Clock, Store, Telemetry
    from engine.records import Dead, Lane, Which
    from engine.spec.units import Rate
    from engine.upkeep.capacity import Capacity

LOOK_S = 15.0
OUTAGE_TRIES = 3  # of a lane in a row that end in an outage before someone hears of it
TOKEN_TRIES = 3
PAGE, MOST_PAGES = 100, 10  # of dead letters that are read to leave out expected ones
LOOKED = frozenset(name for name, kind in KINDS.items() if kind.looked)


class Died(NamedTuple):
    """The dead letters of a lane within a time, as last counted; `until` when nothing but a new one changes that."""

    rejected: int  # as the lane had counted then
    until: float
    many: int = 0
    reason: str = ""
    code: str = ""
    since: float = 0.0


class Watcher:
    """One for a process that delivers; `held` gives the lanes that have an action paused in this process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        desk: Desk,
        capacity: Capacity,
        held: Callable[[], Iterable[tuple[str, str, str]]] = lambda: (),
    ) -> None:
        self.store, self.clock, self.desk = store, clock, desk
        self.capacity, self.held = capacity, held
        self.looked_at = float("-inf")
        self.dead: dict[tuple[str, str], Died] = {}

    def look_soon(self) -> None:
        """Called every few seconds; looks every quarter of a minute."""
        if self.clock.now() - self.looked_at >= LOOK_S:
            self.look()

    def look(self) -> None:
        now = self.looked_at = self.clock.now()
        rules = self.desk.rules()
        found = [trouble for lane in self.store.lanes() for trouble in self.of_lane(lane, rules, now)]
        self.desk.stands([*found, *self.of_store(rules, now)], LOOKED, now)
        for connector, client, action in self.held():
            text = f"{connector}/{client}: the action {action} is paused; its events are kept"
            self.desk.alert("action-paused", connector=connector, client=client, text=text, facts={"action": action})

    def of_lane(self, lane: Lane, rules: Rules, now: float) -> Iterator[Trouble]:
        name = (lane.connector, lane.client)
        place = f"{lane.connector}/{lane.client}"
        bounds = rules.of(lane.client)
        if lane.state == "paused":
            what = f"{place}: {lane.reason or 'paused'}; lane paused, {kept(lane.waiting)}"
            yield Trouble("lane-paused", *name, what, now, {"reason": lane.reason or "", "waiting": str(lane.waiting)})
        elif lane.failing_since and lane.failures >= OUTAGE_TRIES:
            what = f"{place}: {lane.reason}; {lane.failures} tries in a row failed, {kept(lane.waiting)}"
            facts = {"reason": lane.reason or "", "tries": str(lane.failures)}
            yield Trouble("outage", *name, what, lane.failing_since, facts)
        if lane.oldest_at is not None and now - lane.oldest_at > bounds.oldest_s:
            why = f"; {lane.reason}" if lane.reason else ""
            what = f"{place}: the oldest event, of {lane.waiting}, has waited {lasting(now - lane.oldest_at)}{why}"
            facts = {"waiting": str(lane.waiting), "bound_s": f"{bounds.oldest_s:.0f}"}
            yield Trouble("oldest", *name, what, lane.oldest_at + bounds.oldest_s, facts)
        if lane.rejected and (dead := self.dead_of(lane, bounds.dead, now)).many >= bounds.dead.uses:
            many = "1 was" if dead.many == 1 else f"{dead.many} were"
            what = f"{place}: {many} rejected within {lasting(bounds.dead.per_s)}, the first: {dead.reason}"
            yield Trouble("dead-letter", *name, what, dead.since, {"count": str(dead.many), "code": dead.code})

    def dead_of(self, lane: Lane, bound: Rate, now: float) -> Died:
        """Dead letters within the bound's time; asked for again when one came, or when some may be older now."""
        name = (lane.connector, lane.client)
        known = self.dead.get(name)
        if known is not None and known.rejected == lane.rejected and (known.many == 0 or now < known.until):
            return known
        until = now + min(60.0, bound.per_s / 10)
        which: Which = {"connector": lane.connector, "client": lane.client, "since": now - bound.per_s}
        count = sum(self.store.count_dead("code", **which).values())
        found = Died(lane.rejected, until)
        if count >= bound.uses:
            found = self.unexpected(which, bound.uses, count, found)
        self.dead[name] = found
        return found

    def unexpected(self, which: Which, uses: int, count: int, none: Died) -> Died:
        """With those that a rule expects left out, as far as it takes to see whether there are so many."""
        letters: list[Dead] = []
        after, expected = 0, 0
        for _ in range(MOST_PAGES):
            page = self.store.dead(limit=PAGE, after=after, **which)
            letters += [letter for letter in page if not letter.expected]
            expected += sum(letter.expected for letter in page)
            if len(letters) >= uses or len(page) < PAGE:
                break
            after = page[-1].id
        if len(letters) < uses:
            return none
        first = letters[0]
        return Died(none.rejected, none.until, count - expected, first.reason, first.code, first.at)

    def of_store(self, rules: Rules, now: float) -> Iterator[Trouble]:
        if (why := self.capacity.why()) is not None:
            yield Trouble("store-full", "", "", f"nothing is taken in: {why}", now)
        share = self.capacity.share()
        if share is not None and share >= rules.share:
            what = f"the store is nearly full: {share:.0%} of what it may hold is used"
            yield Trouble("store-filling", "", "", what, now, {"used": f"{share:.0%}"})


def kept(waiting: int) -> str:
    return "1 event is kept" if waiting == 1 else f"{waiting} events are kept"


class TokenEar:
    """A telemetry that also counts log-ins: three that failed in a row are a trouble, one that came off is its end."""

    def __init__(self, telemetry: Telemetry, alerts: Alerts) -> None:
        self._telemetry, self._alerts = telemetry, alerts
        self._failed: dict[tuple[str, str], int] = {}

    def event(self, name: str, /, **facts: object) -> None:
        self._telemetry.event(name, **facts)
        if name not in ("token-failed", "token-renewed"):
            return
        connector, client = str(facts.get("connector")), str(facts.get("client"))
        lane = (connector, client)
        if name == "token-renewed":
            self._failed.pop(lane, None)
            self._alerts.over("token-failing", connector=connector, client=client)
            return
        self._failed[lane] = tries = self._failed.get(lane, 0) + 1
        if tries >= TOKEN_TRIES:
            why = str(facts.get("why") or "")
            text = f"{connector}/{client}: the log-in failed {tries} times in a row: {why}; its events are kept"
            said = {"reason": why, "tries": str(tries)}
            self._alerts.alert("token-failing", connector=connector, client=client, text=text, facts=said)
