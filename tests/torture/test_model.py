"""Any sequence of verbs against a model of what a buffer promises, on each store; Hypothesis looks for the sequence."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kinds_of_store import KINDS
from measured import PHASES, sized

from engine.errors import LeaseLost
from engine.records import Accepted, Draft, Lease, Settled
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from engine.ports import Store

ACTIONS = ("task", "note")
WINDOW_S = 40.0  # of dedupe
CLIENTS = st.sampled_from(["abc", "xyz"])


@dataclass
class Promise:
    """One delivery, as whoever handed it in may expect it."""

    client: str
    event_id: str
    action: str
    key: str | None
    due_at: float
    state: str = "waiting"
    attempts: int = 0
    waits_for: int | None = None


@dataclass
class Held:
    """A lease as its holder remembers it, who may be long out of date."""

    lease: Lease
    number: int


@dataclass
class Model:
    promises: dict[int, Promise] = field(default_factory=dict)  # by seq, in order of arrival
    empty: Counter[str] = field(default_factory=Counter)  # events that no action wanted
    seen: dict[tuple[str, str], float] = field(default_factory=dict)
    leases: dict[str, tuple[int, float]] = field(default_factory=dict)  # number and end of the last one of each lane
    number: int = 0

    def of(self, client: str, state: str) -> list[int]:
        return [seq for seq, one in self.promises.items() if (one.client, one.state) == (client, state)]

    def blocked(self, seq: int, now: float) -> bool:
        """Not due, waiting for another action, or behind an older one of its key for which that holds."""
        one = self.promises[seq]
        ahead = [
            other for at, other in self.promises.items()
            if at <= seq and other.state == "waiting" and (other.client, other.action) == (one.client, one.action)
            and (at == seq or (one.key is not None and other.key == one.key))
        ]  # fmt: skip
        return any(other.due_at > now or other.waits_for is not None for other in ahead)

    def end(self, seq: int, state: str) -> None:
        self.promises[seq].state = state
        for other in self.promises.values():
            if other.waits_for == seq and other.state == "waiting":
                if state == "rejected":
                    other.state = "skipped"
                else:
                    other.waits_for = None


class Buffer(RuleBasedStateMachine):
    """Each store is a subclass."""

    def new_store(self) -> Store:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.model, self.now, self.held = Model(), 1000.0, list[Held]()
        self.store = self.new_store()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.nothing_waits_for_ever()
            self.store.close()

    # --- what is done ---

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 31.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        client=CLIENTS,
        name=st.integers(1, 6),
        key=st.sampled_from([None, "ana", "bob"]),
        actions=st.sampled_from([(), ("task",), ("note",), ACTIONS]),
        follows=st.booleans(),
        dedupe=st.booleans(),
    )
    def put(
        self, client: str, name: int, key: str | None, actions: tuple[str, ...], follows: bool, dedupe: bool
    ) -> None:
        event_id = f"e{name}"
        drafts = tuple(
            Draft(action, key, ("task",) if follows and action == "note" and "task" in actions else ())
            for action in actions
        )
        event = Accepted("crm", client, event_id, b"{}", self.now, drafts, WINDOW_S if dedupe else 0)
        (stored,) = self.store.put([event], now=self.now).result()
        again = dedupe and self.model.seen.get((client, event_id), -1.0) > self.now
        assert stored.duplicate == again
        if again:
            return
        if dedupe:
            self.model.seen[client, event_id] = self.now + WINDOW_S
        self.model.empty[client] += not drafts
        assert [each.action for each in stored.deliveries] == list(actions)
        for draft, each in zip(drafts, stored.deliveries, strict=True):
            assert each.seq > max(self.model.promises, default=0)
            first = stored.deliveries[0].seq if draft.after else None
            self.model.promises[each.seq] = Promise(client, event_id, each.action, key, self.now, waits_for=first)

    @rule(client=CLIENTS, owner=st.sampled_from(["one", "two"]))
    def lease(self, client: str, owner: str) -> None:
        until = self.model.leases.get(client, (0, -1.0))[1]
        found = self.store.lease("crm", client, owner=owner, ttl_s=30, now=self.now)
        known = bool(self.model.empty[client]) or any(one.client == client for one in self.model.promises.values())
        free = until <= self.now
        assert (found is not None) == (known and free)
        if found is not None:
            self.model.number += 1
            self.model.leases[client] = (self.model.number, found.until)
            self.held.append(Held(found, self.model.number))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))
        self.store.release(held.lease, wake_at=self.now)
        if self.holds(held):
            self.model.leases[held.lease.client] = (self.model.number + 1, -1.0)
            self.model.number += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data(), kinds=st.lists(st.sampled_from(["delivered", "skipped", "rejected", "later"]), min_size=1))
    def settle(self, data: st.DataObject, kinds: list[str]) -> None:
        """Whoever holds a lease, or held one once, settles what waits in its lane."""
        held = data.draw(st.sampled_from(self.held))
        client = held.lease.client
        ready = [seq for seq in self.model.of(client, "waiting") if self.model.promises[seq].waits_for is None]
        chosen = dict(zip(ready, kinds, strict=False))
        done = [
            Settled(seq, kind, self.now + 5.0, self.model.promises[seq].attempts + 1) for seq, kind in chosen.items()
        ]
        if not self.holds(held):
            with pytest.raises(LeaseLost):
                self.store.settle(held.lease, done, now=self.now)
            return
        self.store.settle(held.lease, done, now=self.now)
        for seq, kind in chosen.items():
            if kind == "later":
                self.model.promises[seq].due_at = self.now + 5.0
                self.model.promises[seq].attempts += 1
            else:
                self.model.end(seq, kind)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))
        if not self.holds(held):
            with pytest.raises(LeaseLost):
                self.store.read(held.lease, "task", limit=9, now=self.now)
            return
        for action in ACTIONS:
            found = [each.seq for each in self.store.read(held.lease, action, limit=999, now=self.now)]
            expected = {
                seq
                for seq in self.model.of(held.lease.client, "waiting")
                if self.model.promises[seq].action == action and not self.model.blocked(seq, self.now)
            }
            assert (len(found), set(found)) == (len(expected), expected)
            by_key = Counter(self.model.promises[seq].key for seq in found)
            for key in by_key.keys() - {None}:
                of_key = [seq for seq in found if self.model.promises[seq].key == key]
                assert of_key == sorted(of_key), "one key keeps its order"

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        letters = self.store.dead(limit=1000)
        if letters:
            chosen = data.draw(st.sampled_from(letters)).id
            assert self.store.discard([chosen], reason="old", now=self.now) == 1

    @rule()
    def everybody_dies(self) -> None:
        self.store.reclaim(lambda _: True)
        for client in self.model.leases:
            self.model.leases[client] = (self.model.leases[client][0], -1.0)

    # --- what must hold ---

    def holds(self, held: Held) -> bool:
        return self.model.leases.get(held.lease.client, (0, 0.0))[0] == held.number and not self.freed(held)

    def freed(self, held: Held) -> bool:
        return self.model.leases[held.lease.client][1] < 0

    @invariant()
    def counters_say_what_was_done(self) -> None:
        if not hasattr(self, "store"):
            return
        for lane in self.store.lanes():
            states = Counter(one.state for one in self.model.promises.values() if one.client == lane.client)
            empty = self.model.empty[lane.client]
            assert (lane.waiting, lane.delivered, lane.rejected, lane.skipped) == (
                states["waiting"], states["delivered"], states["rejected"], states["skipped"] + empty,
            )  # fmt: skip
            assert lane.accepted == states.total() + empty

    def nothing_waits_for_ever(self) -> None:
        """Whoever comes last finds all that waits, in as many rounds as keys ask for."""
        self.now += 1000
        for lane in self.store.lanes():
            lease = self.store.lease("crm", lane.client, owner="last", ttl_s=60, now=self.now)
            assert lease is not None
            for action in ACTIONS:  # in the order in which they wait for each other
                done = [each.seq for each in self.store.read(lease, action, limit=9999, now=self.now)]
                self.store.settle(lease, [Settled(seq, "delivered") for seq in done], now=self.now)
        assert [lane.waiting for lane in self.store.lanes() if lane.waiting] == []


class InMemory(Buffer):
    def new_store(self) -> Store:
        return MemoryStore()


class InSqlite(Buffer):
    def new_store(self) -> Store:
        self.folder = tempfile.TemporaryDirectory()
        return SqliteStore(Path(self.folder.name) / "connect.db")

    @rule()
    def a_new_process(self) -> None:
        self.store.close()
        self.store = SqliteStore(Path(self.folder.name) / "connect.db")

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


def as_case(machine: type[Buffer], examples: int) -> Any:
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=PHASES,
    )
    return case


TestInMemory = as_case(InMemory, sized(40, 2000))
TestInSqlite = as_case(InSqlite, sized(20, 500))


def other(kind: str) -> type[Buffer]:
    """A store that stands elsewhere is made empty for each run."""

    class Elsewhere(Buffer):
        def new_store(self) -> Store:
            return KINDS[kind](Path())

    return Elsewhere


for _kind in sorted(KINDS.keys() - {"memory", "sqlite"}):
    globals()[f"TestIn{_kind.title()}"] = as_case(other(_kind), sized(3, 60))
