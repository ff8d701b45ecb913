"""
Leases lanes that are due and calls the stages in order; the same walk, at once, serves `direct` connectors.

    lease → read a window → look up, map, check → fold, group, cut → steps → one outcome each → settle
"""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.batching import Unit
from engine.errors import ConnectError, LeaseLost, SecretUnavailable, StoreUnavailable
from engine.exchange import Wire
from engine.outcomes import DELIVERED
from engine.owners import is_gone, new_owner
from engine.program import Done, decode_event
from engine.records import (
    Answered,
    Delivery,
    LaneChange,
    Lease,
    Outcome,
    OutcomeKind,
    Progress,
    Settled,
    Stored,
    Trace,
)
from engine.retrying import after_failure
from engine.spec import units
from engine.steps import Member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Set

    from engine.ports import Alerts, Clock, Store, Telemetry
    from engine.program import Action, Program
    from engine.sending import Masker, Transport
    from engine.spec import types

LEASE_S = 30.0  # a heartbeat renews it; a lane whose holder died on another machine is free after that long
TURN_S = 10.0  # a lane gives way to others after that long
POLL_S = 0.1
STUMBLE_S = 1.0  # before a lane whose turn ended in an error is looked at again
HOLD_MARGIN_S = 5.0


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


class Ended(NamedTuple):
    """One delivery and what became of it on this walk."""

    delivery: Delivery
    outcome: Outcome
    trace: Trace | None
    progress: Progress | None


class Walk:
    """The walk for one program over some deliveries; knows nothing of leases."""

    def __init__(self, world: World, program: Program, *, keep_alive: Callable[[], None], failures: int = 0) -> None:
        self.world, self.program, self.failures = world, program, failures
        credentials = world.credentials(program)
        self.wire = Wire(
            connector=program.connector.name,
            client=program.client.client,
            scope=program.scope,
            secrets=credentials.values,
            fingerprint=credentials.fingerprint,
            store=world.store,
            transport=world.transport,
            clock=world.clock,
            masker=world.masker(program),
            telemetry=world.telemetry,
            owner=new_owner(),
            keep_alive=keep_alive,
        )

    def fresh(
        self, action: Action, deliveries: Sequence[Delivery], lease: Lease | None, held: Set[str] = frozenset()
    ) -> Iterator[list[Ended]]:
        """
        New deliveries, batch after batch, lazily: the caller settles each before the next is sent.

        Those whose key has come to be in `held` stay where they are: an older one of their key is to be sent again.
        """
        ready, done = action.prepare(self.program, self.wire, deliveries, failures=self.failures)
        batches: list[Any] = [done] if done else []
        if not any(lane_wide(one.outcome) for one in done):
            batches += action.batcher.cut(action.batcher.units(ready))
        else:
            wide = next(one for one in done if lane_wide(one.outcome))
            batches[0] = [*done, *(Done(one.delivery, wide.outcome, wide.trace) for one in ready)]
        yield from self.each(action, batches, lease, held)

    def each(self, action: Action, batches: list[Any], lease: Lease | None, held: Set[str]) -> Iterator[list[Ended]]:
        for batch in batches:
            if isinstance(batch, list):
                yield [Ended(one.delivery, one.outcome, one.trace, None) for one in batch]
                continue
            group, members_of = batch
            members_of = [unit for unit in members_of if not any(each.key in held for each in unit.deliveries)]
            if not members_of:
                continue
            progress = Progress(
                batch=uuid.uuid4().hex
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
        by_seq = {delivery.seq: delivery for delivery in deliveries}
        units_ = []
        for record, seqs in zip(progress.records, progress.members, strict=True):
            present = tuple(by_seq[seq] for seq in seqs if seq in by_seq)
            if not present:
                continue
            scope = self.program.row_scope(decode_event(present[-1].body), present[-1].received_at)
            scope |= {
                "lookups": {},
                "vars": {},
                "delivery": {"id": present[-1].id, "attempt": present[-1].attempts + 1},
            }
            units_.append(Unit(record, present, {**scope, "record": record}))
        if not units_:
            return []
        return self.run(action, units_, progress.saved.get("#group"), progress, lease)

    def run(
        self, action: Action, units_: Sequence[Unit], group: Any, progress: Progress, lease: Lease | None
    ) -> list[Ended]:
        members = [Member(unit) for unit in units_]

        def save(reached: Progress, undecided: list[Member]) -> None:
            whole = self.whole(reached, undecided, group)
            seqs = [seq for listed in whole.members for seq in listed]
            self.world.store.save_progress(lease, whole, seqs, now=self.world.clock.now())

        action.steps.run(self.wire, members, group=group, progress=progress, save=save, failures=self.failures)
        ended = []
        for member in members:
            outcome = member.outcome or DELIVERED
            if outcome.forget:
                action.forget(self.wire, outcome.forget, member.unit.scope)
            ended += [Ended(delivery, outcome, member.trace, member.progress) for delivery in member.unit.deliveries]
        for kept, sharing in shared(members):
            save(kept, sharing)
        return ended

    @staticmethod
    def whole(progress: Progress, members: list[Member], group: Any) -> Progress:
        saved = {**progress.saved, "#group": group} if group is not None else progress.saved
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
    return outcome.kind in (OutcomeKind.THROTTLE, OutcomeKind.PAUSE) or outcome.outage or outcome.everyone


class Verdicts:
    """The outcomes of one batch -> rows to settle, and what changes on the lane."""

    def __init__(self, world: World, program: Program, lease: Lease | None) -> None:
        self.world, self.program, self.lease = world, program, lease
        self.failures = lease.failures if lease else 0
        self.failing_since = lease.failing_since if lease else None
        self.held = lease is not None and lease.not_before > 0

    def of(self, ended: Sequence[Ended], now: float) -> tuple[list[Settled], LaneChange | None, dict[str, float]]:
        """(rows, lane change, action -> until when it stands still)."""
        rows: list[Settled] = []
        hold: float | None = None
        reason = ""
        pause: str | None = None
        actions: dict[str, float] = {}
        for one in ended:
            outcome, delivery = one.outcome, one.delivery
            batch = one.progress.batch if one.progress is not None else None
            kind, wait = outcome.kind, outcome.wait_s
            attempts = delivery.attempts
            if kind in (OutcomeKind.RETRY, OutcomeKind.REAUTH):
                attempts += 0 if outcome.outage or not outcome.count else 1
                since = max(self.failing_since, delivery.received_at) if self.failing_since is not None else now
                age = now - since if outcome.outage else 0.0
                counted = attempts if not outcome.outage else self.failures + 1
                kind, wait = after_failure(outcome, counted, age, self.program.backoff)
                if kind is OutcomeKind.RETRY and outcome.outage:
                    hold, reason, wait = max(hold or 0.0, now + wait), outcome.reason, 0.0
            if kind is OutcomeKind.DELIVERED:
                rows.append(Settled(delivery.seq, "delivered"))
            elif kind is OutcomeKind.SKIP:
                rows.append(Settled(delivery.seq, "skipped", reason=outcome.reason))
            elif kind in (OutcomeKind.REJECT, OutcomeKind.SPLIT):
                text = (
                    outcome.reason
                    if outcome.kind is not OutcomeKind.RETRY
                    else f"{outcome.reason} (after {attempts} tries)"
                )
                rows.append(
                    Settled(
                        delivery.seq,
                        "rejected",
                        attempts=attempts,
                        reason=text,
                        code=outcome.code,
                        trace=one.trace,
                        expected=outcome.expected,
                    )
                )
            elif kind is OutcomeKind.PAUSE:
                rows.append(Settled(delivery.seq, "later", due_at=now, attempts=attempts, batch=batch))
                if outcome.scope == "action":
                    actions[delivery.action] = float("inf")
                pause = outcome.reason
            elif kind is OutcomeKind.THROTTLE:
                wait = wait if wait is not None else self.program.backoff.wait_s(self.failures + 1)
                if outcome.scope == "action":
                    actions[delivery.action] = now + wait
                    rows.append(Settled(delivery.seq, "later", due_at=now + wait, attempts=attempts, batch=batch))
                else:
                    hold, reason = max(hold or 0.0, now + wait), outcome.reason
                    rows.append(Settled(delivery.seq, "later", due_at=now, attempts=attempts, batch=batch))
            else:  # retry and defer: this delivery again, later
                rows.append(Settled(delivery.seq, "later", due_at=now + (wait or 0.0), attempts=attempts, batch=batch))
        return rows, self.change(ended, hold, reason, pause, actions, now), actions

    def change(
        self,
        ended: Sequence[Ended],
        hold: float | None,
        reason: str,
        pause: str | None,
        actions: dict[str, float],
        now: float,
    ) -> LaneChange | None:
        if pause is not None and not actions:
            return LaneChange(pause=True, reason=pause)
        if hold is not None:
            ours = all(one.outcome.code == "limit" for one in ended if lane_wide(one.outcome))
            self.failures += 0 if ours else 1
            self.failing_since = self.failing_since or now
            since, self.held = self.failing_since if not ours else None, True
            return LaneChange(not_before=hold, reason=reason, failures=self.failures, failing_since=since)
        if (self.failures or self.held) and any(one.outcome.kind is OutcomeKind.DELIVERED for one in ended):
            self.failures, self.failing_since, self.held = 0, None, False
            return LaneChange(reason="", failures=0, failing_since=0)
        return None


class Worker:
    """Runs lanes; one for a process."""

    def __init__(self, world: World, *, workers: int = 4) -> None:
        self.world = world
        self.workers = workers
        self.owner = new_owner()
        self.running: dict[tuple[str, str], Future[bool]] = {}
        self.stopping = threading.Event()
        self.held: dict[tuple[str, str, str], float] = {}  # (connector, client, action) -> until
        self.turns: dict[tuple[str, str], Turn] = {}

    # --- lanes ---

    def run_lane(self, connector: str, client: str) -> bool:
        """Lease one lane, take its turn, release it. True if anything was settled."""
        world = self.world
        lease = world.store.lease(connector, client, owner=self.owner, ttl_s=LEASE_S, now=world.clock.now())
        if lease is None:
            return False
        turn = self.turns[connector, client] = Turn(self, lease)
        wake_at: float | None = world.clock.now() + STUMBLE_S  # however this turn ends, the lane comes due again
        try:
            worked = turn.take()
            wake_at = turn.wake_at
            return worked
        except LeaseLost as error:
            world.telemetry.event("lease-lost", connector=connector, client=client, why=str(error))
            return False
        finally:
            del self.turns[connector, client]
            world.store.release(turn.lease, wake_at=wake_at)

    def drain(self) -> int:
        """Run every lane that is due, one after the other, until none is; how many turns settled something."""
        turns = 0
        while True:
            due = self.world.store.due_lanes(now=self.world.clock.now())
            worked = [self.run_lane(connector, client) for connector, client in due]
            if not any(worked):
                return turns
            turns += sum(worked)

    def run(self, *, until_empty: bool = False) -> None:
        """Lanes in a bounded pool of threads until `stop`, or until nothing is due."""
        self.world.store.reclaim(is_gone)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="lane") as pool:
            threading.Thread(target=self.beat, name="heartbeat", daemon=True).start()
            while not self.stopping.is_set():
                try:
                    started = self.start_due(pool)
                except StoreUnavailable as error:
                    self.world.telemetry.event("store-unavailable", why=str(error))
                    started = 0
                if until_empty and not started and not self.running:
                    return
                self.stopping.wait(POLL_S if not started else 0.01)
            for future in list(self.running.values()):
                future.exception()

    def beat(self) -> None:
        """Renew the leases of lanes that are being run, so that a slow CRM does not cost us the lane."""
        while not self.stopping.wait(LEASE_S / 3) or self.turns:
            for turn in list(self.turns.values()):
                try:
                    turn.renew()
                except ConnectError as error:
                    self.world.telemetry.event(
                        "lease-lost", connector=turn.lease.connector, client=turn.lease.client, why=str(error)
                    )
            if self.stopping.is_set():
                time.sleep(POLL_S)

    def start_due(self, pool: ThreadPoolExecutor) -> int:
        for lane, future in list(self.running.items()):
            if future.done():
                del self.running[lane]
                if (error := future.exception()) is not None:
                    self.world.telemetry.event(
                        "lane-failed", connector=lane[0], client=lane[1], why=f"{type(error).__name__}: {error}"
                    )
        free = self.workers - len(self.running)
        started = 0
        if free > 0:
            for lane in self.world.store.due_lanes(now=self.world.clock.now(), limit=free + len(self.running)):
                if lane not in self.running and started < free:
                    self.running[lane] = pool.submit(self.run_lane, *lane)
                    started += 1
        return started

    def stop(self) -> None:
        self.stopping.set()

    # --- direct ---

    def hold_s(self, spec: types.Connector) -> float:
        """How long a direct caller holds its deliveries before a lane may take them."""
        return units.duration(spec.receive.answer.within) + 2 * units.duration(spec.http.timeout) + HOLD_MARGIN_S

    def walk_now(self, program: Program, stored: Stored) -> Answered:
        """The walk at once, for one event of a `direct` connector; the answer for its caller."""
        if stored.duplicate:
            return Answered(200, "duplicate", stored.event_id)
        answers = [Direct(self, program, delivery).answer() for delivery in stored.deliveries]
        if not answers:
            return Answered(
                program.connector.receive.answer.skip, "skipped", stored.event_id, "no action wants this event"
            )
        status, outcome, reason = max(answers, key=lambda answer: answer[0])
        return Answered(status, outcome, stored.event_id, reason)

    # --- what people hear of ---

    def report(
        self, program: Program, ended: Sequence[Ended], rows: Sequence[Settled], change: LaneChange | None
    ) -> None:
        connector, client = program.connector.name, program.client.client
        telemetry = self.world.telemetry
        counts: dict[tuple[str, str], int] = {}
        for one, row in zip(ended, rows, strict=True):
            counts[one.delivery.action, row.kind] = counts.get((one.delivery.action, row.kind), 0) + 1
        for (action, kind), count in counts.items():
            telemetry.event(kind, connector=connector, client=client, action=action, count=count)
        rejected = [row for row in rows if row.kind == "rejected" and not row.expected]
        if rejected:
            self.world.alerts.alert(
                "dead-letter",
                connector=connector,
                client=client,
                text=f"{connector}/{client}: {len(rejected)} rejected: {rejected[0].reason}; see `connect dead list`",
                facts={"count": str(len(rejected)), "code": rejected[0].code},
            )
        if change is not None and change.pause:
            self.tell_paused(connector, client, change.reason or "")
        elif change is not None and change.not_before is not None:
            telemetry.event(
                "throttled", connector=connector, client=client, why=change.reason or "", until=change.not_before
            )

    def tell_paused(self, connector: str, client: str, reason: str, action: str = "") -> None:
        """Someone hears that a lane, or one action of it, stands still until it is mended."""
        what = f"action {action}" if action else "lane"
        self.world.telemetry.event("lane-paused", connector=connector, client=client, action=action, why=reason)
        self.world.alerts.alert(
            "lane-paused",
            connector=connector,
            client=client,
            text=f"{connector}/{client}: {reason}; {what} paused, its events are kept; "
            f"mend it and run `connect check {connector} {client}`",
            facts={"reason": reason},
        )


class Turn:
    """One lease of one lane: batch after batch until it is empty, held back, or its time is over."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self.worker, self.world, self.lease = worker, worker.world, lease
        self.wake_at: float | None = None
        self.settled = False
        self.renewing = threading.Lock()

    def keep_alive(self) -> None:
        if self.lease.until - self.world.clock.now() < LEASE_S / 2:
            self.renew()

    def renew(self) -> None:
        with self.renewing:
            self.lease = self.world.store.renew(self.lease, ttl_s=LEASE_S, now=self.world.clock.now())

    def take(self) -> bool:
        lease, world = self.lease, self.world
        program = world.program(lease.connector, lease.client)
        if program is None:
            self.pause("the client or its connector is not there any more, or not active")
            return False
        try:
            walk = Walk(world, program, keep_alive=self.keep_alive, failures=lease.failures)
        except SecretUnavailable as error:
            self.pause(str(error))
            return False
        verdicts = Verdicts(world, program, lease)
        ends_at = world.clock.now() + TURN_S
        while not self.worker.stopping.is_set():
            worked = self.round(walk, verdicts, program)
            if worked is None:  # held back or paused; `not_before` and the pause keep it from being due
                self.wake(world.clock.now())
            if not worked:
                break
            if world.clock.now() >= ends_at:
                self.wake(world.clock.now())
                break
        if self.worker.stopping.is_set():
            self.wake(world.clock.now())
        return self.settled

    def wake(self, at: float) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)

    def pause(self, reason: str) -> None:
        self.world.store.settle(
            self.lease, [], now=self.world.clock.now(), change=LaneChange(pause=True, reason=reason)
        )
        self.worker.tell_paused(self.lease.connector, self.lease.client, reason)

    def round(self, walk: Walk, verdicts: Verdicts, program: Program) -> bool | None:
        """Every action once. True: something was settled, look again. None: the lane is held back."""
        store, worked = self.world.store, False
        self.wake_at = None
        for name in store.waiting_actions(self.lease):
            action = program.actions.get(name)
            now = self.world.clock.now()
            if action is None:
                continue
            held = self.worker.held.get((self.lease.connector, self.lease.client, name), 0.0)
            if held > now:
                if held != float("inf"):
                    self.wake(held)
                continue
            for progress, deliveries in store.progress(self.lease, name, now=now):
                if not self.settle(walk.resumed(action, progress, deliveries, self.lease), verdicts, program):
                    return None
                worked = True
            count, oldest, next_due = store.backlog(self.lease, name, now=now, cap=action.batcher.records)
            if next_due is not None:
                self.wake(next_due)
            if not count or oldest is None:
                continue
            if count < action.batcher.records and oldest + action.batcher.wait_s > now:
                self.wake(oldest + action.batcher.wait_s)
                continue
            deliveries = store.read(self.lease, name, limit=action.batcher.window, now=now)
            held_keys: set[str] = set()
            for ended in walk.fresh(action, deliveries, self.lease, held_keys):
                worked = True
                if not self.settle(ended, verdicts, program, held_keys):
                    return None
                walk.failures = verdicts.failures
                if self.worker.stopping.is_set():
                    return True
        return worked

    def settle(
        self, ended: list[Ended], verdicts: Verdicts, program: Program, held_keys: set[str] | None = None
    ) -> bool:
        """
        Write down what became of one batch; `held_keys` takes the keys of those that wait.

        False: the lane goes no further now.
        """
        if not ended:
            return True
        now = self.world.clock.now()
        rows, change, actions = verdicts.of(ended, now)
        self.keep_alive()
        self.world.store.settle(self.lease, rows, now=now, change=change)
        self.settled = True
        if held_keys is not None:
            pairs = zip(ended, rows, strict=True)
            held_keys.update(
                one.delivery.key for one, row in pairs if row.kind == "later" and one.delivery.key is not None
            )
        for action, until in actions.items():
            self.worker.held[self.lease.connector, self.lease.client, action] = until
        self.worker.report(program, ended, rows, change)
        if float("inf") in actions.values():
            reason = next(one.outcome.reason for one in ended if one.outcome.kind is OutcomeKind.PAUSE)
            self.worker.tell_paused(self.lease.connector, self.lease.client, reason, ", ".join(actions))
        return change is None or not (change.pause or change.not_before is not None)


class Direct:
    """One delivery walked while its caller waits."""

    def __init__(self, worker: Worker, program: Program, delivery: Delivery) -> None:
        self.worker, self.world, self.program, self.delivery = worker, worker.world, program, delivery
        self.spec = program.connector.receive.answer
        self.lane = (program.connector.name, program.client.client)

    def answer(self) -> tuple[int, str, str]:
        """(status, outcome, reason)."""
        clock = self.world.clock
        action = self.program.actions[self.delivery.action]
        lane = self.world.store.lane(*self.lane)
        if lane is not None and lane.state == "paused":
            return self.end(Outcome(OutcomeKind.PAUSE, lane.reason or "the lane is paused"), None, already=True)
        if lane is not None and lane.not_before > clock.now():
            return self.later(self.spec.throttle, lane.reason or "throttled", lane.not_before)
        if self.delivery.key is not None and self.world.store.behind(*self.lane, self.delivery):
            return self.later(self.spec.defer, "an older event of the same key waits", clock.now())
        ends_at = clock.now() + units.duration(self.spec.within)
        try:
            walk = Walk(self.world, self.program, keep_alive=lambda: None)
        except ConnectError as error:
            return self.end(Outcome(OutcomeKind.PAUSE, str(error)), None)
        for tried in range(1, self.spec.tries + 1):
            one = next(iter(walk.fresh(action, [self.delivery], None)))[0]
            if one.outcome.kind is not OutcomeKind.RETRY or one.progress is not None:
                return self.end(one.outcome, one.trace)
            wait = one.outcome.wait_s if one.outcome.wait_s is not None else self.program.backoff.wait_s(tried)
            if tried == self.spec.tries:
                break
            if clock.now() + wait >= ends_at:
                return self.later(202, one.outcome.reason, clock.now() + wait, attempts=tried)
            clock.sleep(wait)
        reason = f"{one.outcome.reason} (after {self.spec.tries} tries)"
        return self.end(msgspec.structs.replace(one.outcome, reason=reason), one.trace, attempts=self.spec.tries)

    def later(self, status: int, reason: str, due_at: float, attempts: int = 0) -> tuple[int, str, str]:
        """It goes on from the buffer, or ends as a dead letter where the caller is told 4xx or 5xx."""
        if status >= 400:
            return self.bury(status, reason, "", None, attempts)
        self.settle(Settled(self.delivery.seq, "later", due_at=due_at, attempts=attempts))
        return status, "waiting", reason

    def end(
        self, outcome: Outcome, trace: Trace | None, *, attempts: int = 1, already: bool = False
    ) -> tuple[int, str, str]:
        now, spec = self.world.clock.now(), self.spec
        match outcome.kind:
            case OutcomeKind.DELIVERED:
                self.settle(Settled(self.delivery.seq, "delivered"))
                return spec.delivered, "delivered", ""
            case OutcomeKind.SKIP:
                self.settle(Settled(self.delivery.seq, "skipped", reason=outcome.reason))
                return spec.skip, "skipped", outcome.reason
            case OutcomeKind.THROTTLE:
                until = now + (outcome.wait_s if outcome.wait_s is not None else self.program.backoff.wait_s(1))
                if outcome.code != "limit":
                    self.change(LaneChange(not_before=until, reason=outcome.reason))
                return self.later(spec.throttle, outcome.reason, until)
            case OutcomeKind.DEFER:
                return self.later(spec.defer, outcome.reason, now + (outcome.wait_s or 60.0))
            case OutcomeKind.PAUSE:
                if not already:
                    self.change(LaneChange(pause=True, reason=outcome.reason))
                if spec.pause >= 400:
                    return self.bury(spec.pause, outcome.reason, outcome.code, trace, attempts)
                return self.later(spec.pause, outcome.reason, now)
            case OutcomeKind.RETRY | OutcomeKind.REAUTH:
                wait = outcome.wait_s if outcome.wait_s is not None else self.program.backoff.wait_s(attempts)
                return self.later(spec.retry, outcome.reason, now + wait, attempts)
            case _:
                return self.bury(spec.reject, outcome.reason, outcome.code, trace, attempts, expected=outcome.expected)

    def bury(
        self, status: int, reason: str, code: str, trace: Trace | None, attempts: int, *, expected: bool = False
    ) -> tuple[int, str, str]:
        self.settle(
            Settled(
                self.delivery.seq,
                "rejected",
                attempts=attempts,
                reason=reason,
                code=code,
                trace=trace,
                expected=expected,
            )
        )
        return status, "rejected", reason

    def settle(self, row: Settled) -> None:
        self.world.store.settle(None, [row], now=self.world.clock.now())
        ended = Ended(self.delivery, Outcome(OutcomeKind.DELIVERED), None, None)
        self.worker.report(self.program, [ended], [row], None)

    def change(self, change: LaneChange) -> None:
        self.world.store.change_lane(*self.lane, change, now=self.world.clock.now())
        self.worker.report(self.program, [], [], change)
