"""
Some deliveries of one client -> what became of each: look up, map, check, fold, cut, send; a lease is only handed on.
"""

from __future__ import annotations

import uuid
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.batching import Unit
from engine.errors import BadValue
from engine.notations.semantics import plain
from engine.outcomes import DELIVERED, holds_back
from engine.owners import new_owner
from engine.program import Done, decode_event
from engine.records import Delivery, Ended, Lease, Outcome, OutcomeKind, Part, Progress
from engine.steps import Member
from engine.telemetry.journal import Journal
from engine.wire import Wire, new_nonce
from engine.writing import PATIENCE_S, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Set

    from engine.batching import Ready
    from engine.ports import Alerts, Clock, Store, Telemetry, Traces, Trail
    from engine.program import Action, Program
    from engine.sending import Masker, Transport
    from engine.turns import Alone


GROUP, ROW = "#group", "#row"  # beside what the steps saved: no step is called so
OVERTAKES = Outcome(OutcomeKind.RETRY, "an older one of its key waits", wait_s=5.0, count=False)
ANEW = Outcome(OutcomeKind.RETRY, "it begins anew", wait_s=0.0, count=False)


class Credentials(NamedTuple):
    """The resolved secrets of one client of one connector."""

    values: dict[str, str]
    fingerprint: str


class World(NamedTuple):
    """What the walk needs besides the programs; tests give a virtual clock and a scripted transport."""

    store: Store
    transport: Transport
    clock: Clock
    telemetry: Telemetry
    alerts: Alerts
    program: Callable[[str, str], Program | None]
    credentials: Callable[[Program], Credentials]
    masker: Callable[[Program], Masker]
    nonce: Callable[[], str] = new_nonce
    new_batch: Callable[[], str] = lambda: uuid.uuid4().hex
    outdated: Callable[[Program, str], bool] = lambda _program, _fingerprint: False  # have its secrets been exchanged?
    traces: Traces | None = None
    trail: Trail | None = None

    @property
    def is_followed(self) -> bool:
        """Does anybody want to know what a walk did, and when?"""
        return self.traces is not None or self.trail is not None


class Walk:
    """The walk for one program over some deliveries."""

    def __init__(
        self,
        world: World,
        program: Program,
        *,
        keep_alive: Callable[[], None],
        over: Callable[[], bool] = lambda: False,
        mapped: Callable[[float], None] = lambda _: None,
        alone: Alone | None = None,
        failures: int = 0,
    ) -> None:
        """
        `over`: is a batch that sends many requests to go on another time? `mapped` hears how long mapping took.

        `alone`: where other lanes compute, too.
        """
        self.world, self.program, self.failures, self.mapped = world, program, failures, mapped
        self.alone = alone
        self.apart: dict[str, bool] = {}  # actions: were there more batches in the last window than it would fill?
        credentials = world.credentials(program)
        program.cache.keep_for(credentials.fingerprint)
        derived = program.derived(credentials.values)
        world.masker(program).add(*(plain(value) for value in derived.values() if not isinstance(value, bool)))
        shows = world.trail is not None
        self.journal = Journal(world.telemetry, world.clock, shows=shows) if world.is_followed else None
        self.wire = Wire(
            connector=program.connector.name,
            client=program.client.client,
            scope={**program.scope, "derived": derived},
            secrets=credentials.values,
            fingerprint=credentials.fingerprint,
            store=world.store,
            transport=world.transport,
            clock=world.clock,
            masker=world.masker(program),
            telemetry=self.journal or world.telemetry,
            looked_up=self.journal.looked_up if self.journal is not None else lambda: None,
            maps=self.journal.maps if self.journal is not None else lambda: None,
            away=alone.away if alone is not None else nullcontext,
            said=self.journal.said if self.journal is not None else None,
            owner=new_owner(),
            keep_alive=keep_alive,
            over=over,
            nonce=world.nonce,
            outdated=lambda: world.outdated(program, credentials.fingerprint),
        )

    def fresh(
        self, action: Action, deliveries: Sequence[Delivery], lease: Lease | None, held: Set[str] = frozenset()
    ) -> Iterator[list[Ended]]:
        """
        New deliveries, batch after batch, lazily: the caller settles each before the next is sent.

        Those whose key has come to be in `held` stay where they are: an older one of their key is to be sent again.
        """
        began = self.world.clock.now()
        if self.journal is not None:
            self.journal.begin()
        with self.alone or nullcontext():
            ready, done = action.prepare(self.program, self.wire, deliveries, failures=self.failures)
            batches: list[Any] = [done] if done else []
            if not any(lane_wide(one.outcome) for one in done):
                batches += self.cut(action, ready)
            else:
                wide = next(one for one in done if lane_wide(one.outcome))
                batches[0] = [*done, *(Done(one.delivery, wide.outcome, wide.trace) for one in ready)]
        if self.journal is not None:
            self.journal.mapped()
        self.mapped(self.world.clock.now() - began)
        yield from self.each(action, batches, lease, held)

    def window(self, action: Action) -> int:
        """How many deliveries to read at once, by how the last ones came out; of look-ups one may answer for many."""
        return action.batcher.window(apart=bool(action.lookups) or self.apart.get(action.name, True))

    def cut(self, action: Action, ready: Sequence[Ready]) -> list[tuple[Any, list[Unit]]]:
        batcher = action.batcher
        batches = batcher.cut(batcher.units(ready))
        if ready:
            self.apart[action.name] = (len(batches) - 1) * batcher.records >= len(ready)
        return batches

    def each(self, action: Action, batches: list[Any], lease: Lease | None, held: Set[str]) -> Iterator[list[Ended]]:
        for batch in batches:
            if isinstance(batch, list):
                yield [Ended(one.delivery, one.outcome, one.trace, None) for one in batch]
                continue
            group, members_of = batch
            if held:
                members_of = [unit for unit in members_of if not unit.keys & held]
            if not members_of:
                continue
            progress = Progress(
                batch=self.world.new_batch()
                if len(members_of) > 1 or len(members_of[0].deliveries) > 1
                else members_of[0].deliveries[0].id,
                action=action.name,
                step=action.steps.order[0],
                saved={},
            )
            yield self.run(action, members_of, group, progress, lease)

    def resumed(
        self, action: Action, progress: Progress, deliveries: Sequence[Delivery], lease: Lease | None
    ) -> list[Ended]:
        """A half-done batch goes on at its step, with the records as they were mapped then."""
        if self.journal is not None:
            self.journal.begin()
        left = {delivery.seq: delivery for delivery in deliveries}
        row = self.program.rows(self.wire.scope)
        units_: list[Unit] = []
        ended: list[Ended] = []
        for record, seqs in zip(progress.records, progress.members, strict=True):
            present = tuple(left.pop(seq) for seq in seqs if seq in left)
            if not present:
                continue
            try:
                scope = row(decode_event(present[-1].body), present[-1].received_at)
            except (BadValue, msgspec.DecodeError) as error:  # the connector is not what it was when the batch began
                ended += [
                    Ended(each, Outcome(OutcomeKind.REJECT, str(error), "invalid"), None, None) for each in present
                ]
                continue
            scope |= {"lookups": {}, "vars": {}, **progress.saved.get(ROW, {})}
            scope["delivery"] = {"id": present[-1].id, "attempt": present[-1].attempts + 1}
            units_.append(Unit(record, present, {**scope, "record": record}))
        together = [delivery for unit in units_ for delivery in unit.deliveries]
        if action.steps.single and len(together) > 1:  # of an action that has no batches any more
            ended += [Ended(each, ANEW, None, None) for each in together]
            units_ = []
        # A step had decided over these, and the process was killed before that was written down.
        ended += [Ended(delivery, ANEW, None, None) for delivery in left.values()]
        units_, held, own = self.overtaking(units_, progress)
        if units_ and held:
            self.save(action, own, [Member(unit) for unit in held], progress.saved.get(GROUP), lease)
        ended += [Ended(delivery, OVERTAKES, None, own) for unit in held for delivery in unit.deliveries]
        if units_:
            ended += self.run(action, units_, progress.saved.get(GROUP), progress, lease)
        return ended

    def overtaking(self, units_: list[Unit], progress: Progress) -> tuple[list[Unit], list[Unit], Progress]:
        """
        (those that may go on, those of whose key an older one waits elsewhere, where these go on then).

        It waits elsewhere when it passed a step at which the younger ones failed, and failed itself at a later one.
        """
        oldest: dict[str, Delivery] = {}
        for delivery in sorted((each for unit in units_ for each in unit.deliveries), key=lambda each: each.seq):
            if delivery.key is not None:
                oldest.setdefault(delivery.key, delivery)
        lane, behind = (self.wire.connector, self.wire.client), self.world.store.behind
        keys = {key for key, delivery in oldest.items() if behind(*lane, delivery)}
        held = [unit for unit in units_ if unit.keys & keys]
        free = [unit for unit in units_ if not unit.keys & keys]
        if free and held:
            progress = msgspec.structs.replace(progress, batch=f"{progress.batch}h{held[0].deliveries[-1].seq}")
        return free, held, progress

    def run(
        self, action: Action, units_: Sequence[Unit], group: Any, progress: Progress, lease: Lease | None
    ) -> list[Ended]:
        members = [Member(unit) for unit in units_]

        def save(reached: Progress, undecided: list[Member]) -> None:
            self.save(action, reached, undecided, group, lease)

        def add(reached: Progress, part: Part) -> bool:
            return lease is not None and self.add(lease, reached, part)

        action.steps.run(self.wire, members, group=group, progress=progress, save=save, add=add, failures=self.failures)
        ended = []
        for member in members:
            outcome = member.outcome or DELIVERED
            if outcome.forget:
                action.forget(self.wire, outcome.forget, member.unit.scope)
            ended += [Ended(delivery, outcome, member.trace, member.progress) for delivery in member.unit.deliveries]
        for kept, sharing in shared(members):
            save(kept, sharing)
        return ended

    def save(self, action: Action, reached: Progress, undecided: list[Member], group: Any, lease: Lease | None) -> None:
        whole = self.whole(reached, undecided, group, single=action.steps.single)
        seqs = [seq for listed in whole.members for seq in listed]
        world = self.world
        written(
            lambda: world.store.save_progress(lease, whole, seqs, now=world.clock.now()),
            clock=world.clock,
            telemetry=world.telemetry,
            patience_s=PATIENCE_S if lease is not None else 0.0,  # a caller waits for a direct one
        )

    def add(self, lease: Lease, reached: Progress, part: Part) -> bool:
        world = self.world
        return written(
            lambda: world.store.add_progress(lease, reached.batch, reached.action, part, now=world.clock.now()),
            clock=world.clock,
            telemetry=world.telemetry,
            patience_s=PATIENCE_S,
        )

    @staticmethod
    def whole(progress: Progress, members: list[Member], group: Any, *, single: bool) -> Progress:
        """The progress with all that its steps read, besides what they saved: nothing is looked up a second time."""
        saved = {**progress.saved, GROUP: group} if group is not None else progress.saved
        if single:
            scope = members[0].unit.scope
            saved = {**saved, ROW: {name: scope[name] for name in ("lookups", "vars") if scope.get(name)}}
        return msgspec.structs.replace(
            progress,
            saved=saved,
            records=[member.unit.record for member in members],
            members=[[delivery.seq for delivery in member.unit.deliveries] for member in members],
        )


def shared(members: list[Member]) -> list[tuple[Progress, list[Member]]]:
    """Members that go on later, by the half-done batch they belong to."""
    groups: dict[str, tuple[Progress, list[Member]]] = {}
    for member in members:
        if member.progress is not None:
            groups.setdefault(member.progress.batch, (member.progress, []))[1].append(member)
    return list(groups.values())


def lane_wide(outcome: Outcome) -> bool:
    """Does this outcome stop the lane for now?"""
    return holds_back(outcome) or outcome.everyone
