"""
Leases lanes that are due and calls the stages in order; the same walk, at once, serves `direct` connectors.

    lease → read a window → look up, map, check → fold, group, cut → steps → one outcome each → settle
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from engine.direct import Caller
from engine.errors import LeaseLost, SecretUnavailable, StoreUnavailable, told
from engine.owners import is_gone, new_owner
from engine.privacy.personal import addresses
from engine.records import Answered, Ended, LaneChange, Lease, OutcomeKind, Settled, Skipped, Stored
from engine.reporting import Reporter
from engine.settling import Verdicts
from engine.spec import units
from engine.turns import Alone
from engine.walk import Walk, World
from engine.withdrawn import Withdrawn, is_said
from engine.writing import Unreachable, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from engine.program import Action, Program
    from engine.records import Delivery, Walked
    from engine.spec import types
    from engine.telemetry.journal import Journal

LEASE_S = 30.0  # a heartbeat renews it; a lane whose holder died on another machine is free after that long
TURN_S = 10.0  # a lane gives way to others after that long
POLL_S = 0.1
STUMBLE_S = 1.0  # before a lane whose turn ended in an error is looked at again
HOLD_MARGIN_S = 5.0
SETTLE_S = 5.0  # for what is left to do after the last answer of a batch
STANDS_S = 1.0  # a lane that settled nothing for so long waits for its CRM; others are served meanwhile
MOST_LANES = 8  # times `workers`: lanes at a time, with those that wait
SWITCH_S = 0.001
COLLECTIONS = (50_000, 10, 10)  # objects made, and looks at the younger ones, before a look for circles of garbage
MOST_DUE = 10_000  # lanes asked for where only some of them are ours


class Tally:
    """What was done since it was made; any thread may add to it."""

    def __init__(self) -> None:
        self.lanes: set[tuple[str, str]] = set()  # that had their turn
        self.counts: Counter[str] = Counter()  # deliveries by what became of them: delivered, rejected, skipped, later
        self.failed: dict[tuple[str, str], str] = {}  # lanes whose last turn ended in an error, with the reason
        self.lock = threading.Lock()

    def turn(self, connector: str, client: str) -> None:
        with self.lock:
            self.lanes.add((connector, client))
            self.failed.pop((connector, client), None)

    def settled(self, rows: Iterable[Settled], skipped: Sequence[Skipped]) -> None:
        kinds = Counter([row.kind for row in rows])
        with self.lock:
            self.counts.update(kinds)
            self.counts["skipped"] += len(skipped)

    def fail(self, connector: str, client: str, why: str) -> None:
        with self.lock:
            self.failed[connector, client] = why


class Worker:
    """Runs lanes; one for a process."""

    def __init__(self, world: World, *, workers: int = 4) -> None:
        self.world = world
        self.reporter = Reporter(world)
        self.withdrawn = Withdrawn(world, self.reporter)
        self.workers = workers
        self.owner = new_owner()
        self.running: dict[tuple[str, str], Future[bool]] = {}
        self.stopping = threading.Event()
        self.ended = threading.Event()  # has a lane's turn ended since it was last looked, or is all to stop?
        self.tally = Tally()
        self.computes = threading.Lock()  # held by the lane that reads or maps
        self.begun = False
        self.ends_at: float | None = None  # until when what is under way must have ended; the process may stop then
        self.margin_s = 0.0  # before that no batch begins, nor is a direct caller kept waiting
        self.only: Callable[[str, str], bool] | None = None  # the lanes (connector, client) to run
        self.wakes: dict[tuple[str, str], float] = {}  # when lanes that were run come due again
        self.held: dict[tuple[str, str, str], float] = {}  # (connector, client, action) -> until
        self.failing: dict[str, float] = {}  # id of a delivery -> when it first failed in what looked like an outage
        self.turns: dict[tuple[str, str], Turn] = {}
        self.unreachable = Unreachable(world.telemetry, world.clock.now)
        self.gave_way: dict[tuple[str, str], str] = {}  # the action at which a lane's last turn was over

    # --- lanes ---

    def run_lane(self, connector: str, client: str) -> bool:
        """Lease one lane, take its turn, release it. True if anything was settled."""
        world = self.world
        lease = world.store.lease(connector, client, owner=self.owner, ttl_s=LEASE_S, now=world.clock.now())
        if lease is None:
            return False
        turn = self.turns[connector, client] = Turn(self, lease)
        wake_at: float | None = world.clock.now() + STUMBLE_S  # however this turn ends, the lane comes due again
        self.tally.turn(connector, client)
        try:
            self.wakes.pop((connector, client), None)
            worked = turn.take()
            wake_at = turn.wake_at
            if (at := turn.goes_on_at()) is not None:
                self.wakes[connector, client] = at
            return worked
        except LeaseLost as error:
            world.telemetry.event("lease-lost", connector=connector, client=client, why=str(error))
            return False
        finally:
            del self.turns[connector, client]
            written(  # or nobody could have the lane before its lease is over, though the store is back by then
                lambda: world.store.release(turn.lease, wake_at=wake_at),
                clock=world.clock,
                telemetry=world.telemetry,
                over=lambda: self.stopping.is_set() or self.time_left() <= 0,
                patience_s=LEASE_S,
            )

    def drain(self) -> int:
        """Run every lane that is due, one after the other, until none is; how many turns settled something."""
        turns = 0
        while True:
            due = self.world.store.due_lanes(now=self.world.clock.now())
            worked = [self.run_lane(connector, client) for connector, client in due]
            if not any(worked):
                return turns
            turns += sum(worked)

    def run(self, *, until_empty: bool = False, patience_s: float = 0.0) -> None:
        """
        Lanes in a bounded pool of threads until `stop`, or until `margin_s` before `ends_at`.

        With `until_empty` it is over sooner, once nothing is due and none of the lanes that were run comes due within
        `patience_s`. It can be called again.
        """
        ended = threading.Event()
        with ThreadPoolExecutor(MOST_LANES * self.workers, thread_name_prefix="lane") as pool:
            beats = threading.Thread(target=self.beat, args=(ended,), name="heartbeat", daemon=True)
            beats.start()
            try:
                self.run_due(pool, until_empty=until_empty, patience_s=patience_s)
            finally:
                wait(self.running.values())
                self.take_back()
                ended.set()
        beats.join(POLL_S)

    def begin(self) -> None:
        """
        What a lane waits for may have been changed while nobody ran it; so each is looked at.

        Python looks for circles of garbage less often from now on: a window of deliveries is many objects, no circle.
        And its threads take turns more often: who has an answer to read or to write down waits less for who maps.
        """
        gc.set_threshold(*COLLECTIONS)
        sys.setswitchinterval(SWITCH_S)
        store, now = self.world.store, self.world.clock.now()
        store.reclaim(is_gone)
        for lane in store.lanes():
            if lane.waiting and (self.only is None or self.only(lane.connector, lane.client)):
                stale = "" if is_said(lane.reason) else None  # it is said again where it still holds
                store.change_lane(lane.connector, lane.client, LaneChange(reason=stale), now=now)
        self.begun = True

    def run_due(self, pool: ThreadPoolExecutor, *, until_empty: bool, patience_s: float) -> None:
        while not self.stopping.is_set() and self.time_left() > self.margin_s:
            try:
                if not self.begun:
                    self.begin()
                started = self.start_due(pool)
            except StoreUnavailable as error:
                self.unreachable.tell(error)
                started = 0
            if until_empty and not started and not self.running and not self.goes_on(patience_s):
                return
            if started:  # what ends at once and is due again is not begun more often than that
                self.stopping.wait(0.01)
            elif self.running:  # a lane that has ended makes room, and may be due again at once
                self.ended.wait(POLL_S)
            else:
                self.world.store.wait(POLL_S)

    def goes_on(self, patience_s: float) -> bool:
        """Does a lane that was run here come due again so soon? One that is late by now, another process has."""
        now = self.world.clock.now()
        return any(now - STUMBLE_S < at <= now + patience_s for at in self.wakes.values()) if patience_s else False

    def time_left(self) -> float:
        """Seconds until `ends_at`."""
        return self.ends_at - self.world.clock.now() if self.ends_at is not None else float("inf")

    def needs_s(self, program: Program | None) -> float:
        """Seconds that must be left for a batch of this connector to begin: its answer may come late."""
        if program is None:
            return self.margin_s
        return max(self.margin_s, units.duration(program.connector.http.timeout) + SETTLE_S)

    def beat(self, ended: threading.Event) -> None:
        """Renew the leases of lanes that are being run, so that a slow CRM does not cost us the lane."""
        while not ended.wait(LEASE_S / 3):
            for lane, turn in list(self.turns.items()):
                try:
                    turn.renew()
                except Exception as error:  # of one lane; the others' leases are renewed all the same
                    if self.turns.get(lane) is not turn:  # it has given its lane back meanwhile
                        continue
                    self.world.telemetry.event(
                        "lease-lost", connector=turn.lease.connector, client=turn.lease.client, why=told(error)
                    )

    def take_back(self) -> None:
        """Of turns that have ended: whoever is to hear of an error does."""
        for lane, future in list(self.running.items()):
            if future.done():
                del self.running[lane]
                if (error := future.exception()) is not None:
                    self.tally.fail(*lane, addresses(told(error)))
                    self.reporter.failed(*lane, told(error))

    def start_due(self, pool: ThreadPoolExecutor) -> int:
        self.ended.clear()
        self.take_back()
        waiting = sum(turn.stands() for turn in list(self.turns.values()))
        free = min(self.workers + waiting, MOST_LANES * self.workers) - len(self.running)
        started = 0
        if free > 0:
            for lane in self.due(free + len(self.running)):
                if lane not in self.running and started < free:
                    self.running[lane] = turn = pool.submit(self.run_lane, *lane)
                    turn.add_done_callback(lambda _: self.ended.set())
                    started += 1
        return started

    def due(self, limit: int) -> list[tuple[str, str]]:
        """The lanes that are due, ours, and have the time to send something."""
        store, now, only = self.world.store, self.world.clock.now(), self.only
        if only is None:
            found = store.due_lanes(now=now, limit=limit)
        else:
            found = [lane for lane in store.due_lanes(now=now, limit=MOST_DUE) if only(*lane)]
        if self.ends_at is None:
            return found
        return [lane for lane in found if self.time_left() > self.needs_s(self.world.program(*lane))]

    def stop(self) -> None:
        self.stopping.set()
        self.ended.set()

    # --- direct ---

    def hold_s(self, spec: types.Connector) -> float:
        """How long a direct caller holds its deliveries before a lane may take them; no longer than this process is."""
        hold_s = units.duration(spec.receive.answer.within) + 2 * units.duration(spec.http.timeout) + HOLD_MARGIN_S
        return min(hold_s, max(0.0, self.time_left() - self.margin_s))

    def walk_now(self, program: Program, stored: Stored) -> Answered:
        """The walk at once, for one event of a `direct` connector; the answer for its caller."""
        return Caller(self.world, self.reporter, program, self.held).walk(stored, self.hold_s(program.connector))


class Turn:
    """One lease of one lane: batch after batch until it is empty, held back, or its time is over."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self.worker, self.world, self.lease = worker, worker.world, lease
        self.wake_at: float | None = None
        self.settled = False
        self.gives_way_at = self.ends_at = self.world.clock.now() + TURN_S
        self.needs_s = 0.0  # that must be left of the process's time for another batch
        self.not_before: float | None = None  # inf: until a person acts
        self.renewing = threading.Lock()
        self.alone = Alone(worker.computes)
        self.journal: Journal | None = None  # of its walk, where somebody follows it
        self.moved_at = time.monotonic()  # when it began, or last settled something

    def stands(self) -> bool:
        """Does it wait for its CRM? Then it needs none of the processor, and its place is another lane's."""
        return time.monotonic() - self.moved_at > STANDS_S

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
            walk = Walk(
                world,
                program,
                keep_alive=self.keep_alive,
                over=self.over,
                mapped=self.mapped,
                alone=self.alone,
                failures=lease.failures,
            )
        except SecretUnavailable as error:
            self.pause(str(error))
            return False
        self.journal = walk.journal
        verdicts = Verdicts(world, program, lease, self.worker.failing)
        self.needs_s = self.worker.needs_s(program)
        while not self.ending():
            worked = self.round(walk, verdicts, program)
            if worked is None:  # held back or paused; `not_before` and the pause keep it from being due
                self.wake(world.clock.now())
            if not worked:
                break
            if world.clock.now() >= self.ends_at:
                self.wake(world.clock.now())
                break
        if self.ending():
            self.wake(world.clock.now())
        return self.settled

    def ending(self) -> bool:
        """Is it the end of the process, so that nothing more begins?"""
        return self.worker.stopping.is_set() or self.worker.time_left() <= self.needs_s

    def goes_on_at(self) -> float | None:
        """When the lane comes due again by itself, as far as this turn knows."""
        if self.wake_at is None or self.not_before == math.inf:
            return None
        return max(self.wake_at, self.not_before or 0.0)

    def over(self) -> bool:
        """Does another lane wait for its turn, or is it the end of the process?"""
        if self.ending():
            return True
        now = self.world.clock.now()
        return now >= self.ends_at and bool(self.world.store.due_lanes(now=now, limit=1))

    def mapped(self, seconds: float) -> None:
        """What took so long to look up and map is used for as long, before it would have to be done again."""
        self.ends_at = max(self.ends_at, self.world.clock.now() + seconds)

    def give_way(self, action: str) -> bool:
        self.worker.gave_way[self.lease.connector, self.lease.client] = action
        return True

    def in_turn(self, actions: list[str]) -> list[str]:
        """The one that the lane gave way at comes last, so that one with much to do leaves time for the others."""
        last = self.worker.gave_way.pop((self.lease.connector, self.lease.client), "")
        return [name for name in actions if name > last] + [name for name in actions if name <= last]

    def wake(self, at: float) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)

    def pause(self, reason: str) -> None:
        self.not_before = math.inf
        self.world.store.settle(
            self.lease, [], now=self.world.clock.now(), change=LaneChange(pause=True, reason=reason)
        )
        self.worker.reporter.paused(self.lease.connector, self.lease.client, reason)

    def round(self, walk: Walk, verdicts: Verdicts, program: Program) -> bool | None:
        """Every action once. True: something was settled, look again. None: the lane is held back."""
        store, worked = self.world.store, False
        self.wake_at = None
        for name in self.in_turn(store.waiting_actions(self.lease)):
            action = program.actions.get(name)
            now = self.world.clock.now()
            if action is None:
                self.keep_alive()
                buried, again_at = self.worker.withdrawn.look(self.lease, program, name)
                self.settled = self.settled or buried
                worked = worked or buried
                if again_at is not None:
                    self.wake(again_at)
                continue
            self.worker.withdrawn.forget(self.lease, name)
            if self.stands_still(name):
                continue
            for progress, deliveries in store.progress(self.lease, name, now=now):
                if self.over() or self.stands_still(name):
                    break
                if not self.settle(walk.resumed(action, progress, deliveries, self.lease), verdicts, program):
                    return None
                worked = True
            if self.over():
                return self.give_way(name)
            if self.stands_still(name):
                continue
            count, oldest, next_due = store.backlog(self.lease, name, now=now, cap=action.batcher.enough)
            if next_due is not None:
                self.wake(next_due)
            if not count or oldest is None:
                continue
            if not action.batcher.goes(count, oldest, now):
                self.wake(oldest + action.batcher.wait_s)
                continue
            for deliveries in self.windows(walk, action):
                held_keys: set[str] = set()
                for ended in walk.fresh(action, deliveries, self.lease, held_keys):
                    worked = True
                    if not self.settle(ended, verdicts, program, held_keys):
                        return None
                    walk.failures = verdicts.failures
                    if self.over():
                        return self.give_way(name)
                    if self.stands_still(name):
                        break
                self.ends_at = self.gives_way_at  # what was mapped has been used
                if self.over():
                    return self.give_way(name)
        return worked

    def windows(self, walk: Walk, action: Action) -> Iterator[list[Delivery]]:
        """New deliveries, window after window while they come full; then it is looked what else the lane has to do."""
        left = action.batcher.window(apart=True)
        while left > 0 and not self.stands_still(action.name):
            limit, now = walk.window(action), self.world.clock.now()
            with self.alone:
                deliveries = self.world.store.read(self.lease, action.name, limit=limit, now=now)
            if not deliveries or not action.batcher.goes(
                len(deliveries), min(delivery.received_at for delivery in deliveries), now
            ):
                return
            yield deliveries
            left = left - limit if len(deliveries) == limit else 0

    def stands_still(self, action: str) -> bool:
        """Is this one action held back? The lane wakes when it goes on."""
        until = self.worker.held.get((self.lease.connector, self.lease.client, action), 0.0)
        if until <= self.world.clock.now():
            return False
        if until != float("inf"):
            self.wake(until)
        return True

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
        skipped = written(
            lambda: self.write_down(rows, now, change),
            clock=self.world.clock,
            telemetry=self.world.telemetry,
            over=lambda: self.worker.stopping.is_set() or self.worker.time_left() <= 0,
        )
        self.settled = True
        if self.journal is not None:
            self.follow(program, ended, rows, self.journal.take(), now, skipped)
        self.worker.tally.settled(rows, skipped)
        if held_keys is not None and any(row.kind == "later" for row in rows):
            pairs = zip(ended, rows, strict=True)
            held_keys.update(
                one.delivery.key for one, row in pairs if row.kind == "later" and one.delivery.key is not None
            )
        if change is not None and (change.pause or change.not_before is not None):
            self.not_before = math.inf if change.pause else change.not_before
        for action, until in actions.items():
            self.worker.held[self.lease.connector, self.lease.client, action] = until
        self.worker.reporter.settled(program, ended, rows, change)
        self.worker.reporter.followed(program, skipped)
        if float("inf") in actions.values():
            paused = next(one for one in ended if one.outcome.kind is OutcomeKind.PAUSE)
            reason = program.personal.text(paused.outcome.reason, paused.delivery.body)
            self.worker.reporter.paused(self.lease.connector, self.lease.client, reason, ", ".join(actions))
        return change is None or not (change.pause or change.not_before is not None)

    def follow(
        self,
        program: Program,
        ended: list[Ended],
        rows: list[Settled],
        walked: Walked,
        now: float,
        skipped: Sequence[Skipped],
    ) -> None:
        lane, ended_at = (self.lease.connector, self.lease.client), self.world.clock.now()
        if self.world.traces is not None:
            deliveries = [one.delivery for one in ended]
            self.world.traces.settled(*lane, deliveries, rows, walked, settled_at=now, now=ended_at)
        if self.world.trail is not None:
            personal = program.personal
            self.world.trail.settled(*lane, personal, ended, rows, walked, now=ended_at, skipped=skipped)

    def write_down(self, rows: list[Settled], now: float, change: LaneChange | None) -> list[Skipped]:
        self.keep_alive()
        skipped = self.world.store.settle(self.lease, rows, now=now, change=change)
        self.moved_at = time.monotonic()
        return skipped
