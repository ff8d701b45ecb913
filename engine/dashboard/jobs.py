"""Many dead letters retried or discarded: in a thread beside the pages, in parts, with what became of them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import ConnectError, told
from engine.telemetry.audit import ids as audited

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.ports import Store
    from engine.records import Which
    from engine.telemetry.audit import Audit

PART = 500  # at once, so that nobody who writes to the store waits long
FOLLOW_S = 1.0  # how often it is asked what became of them
MAX_FOLLOWED_S = 3600.0
MAX_JOBS = 20  # that are remembered
MAX_CHOSEN = 1_000_000


class Short(NamedTuple):
    id: int
    delivery_id: str


class Job:
    """One of them; what is shown is read while it runs."""

    def __init__(self, verb: str, number: str) -> None:
        self.verb, self.number = verb, number  # retry | discard
        self.state = "collecting"  # collecting | acting | following | done | failed
        self.total = self.done = self.missing = 0
        self.waiting = self.ended = self.again = 0
        self.why = ""

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed")


class Jobs:
    """They run one after another: two that retry the same would only be in each other's way."""

    def __init__(self, store: Store, now: Callable[[], float], new_id: Callable[[], str]) -> None:
        self._store, self._now, self._new_id = store, now, new_id
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._turn, self._lock = threading.Lock(), threading.Lock()

    def get(self, number: str) -> Job | None:
        with self._lock:
            return self._jobs.get(number)

    def begin(
        self, verb: str, audit: Audit, *, ids: Sequence[int] | None = None, which: Which | None = None, why: str = ""
    ) -> Job:
        """Those named, or all that fit and are there now."""
        job = Job(verb, self._new_id())
        with self._lock:
            self._jobs[job.number] = job
            for old in [number for number, each in self._jobs.items() if each.is_over][: len(self._jobs) - MAX_JOBS]:
                del self._jobs[old]
        run = threading.Thread(target=self._run, args=(job, audit, ids, which or {}, why), daemon=True)
        run.name = f"dead-{verb}"
        run.start()
        return job

    def _run(self, job: Job, audit: Audit, ids: Sequence[int] | None, which: Which, why: str) -> None:
        try:
            with self._turn:
                chosen = self._named(ids) if ids is not None else self._fitting(which)
                job.total = len(chosen)
                job.missing = len(ids) - len(chosen) if ids is not None else 0
                facts = {"why": why} if job.verb == "discard" else {}
                audit.line(f"dead {job.verb}", **audited([one.id for one in chosen]), **which, **facts)
                job.state = "acting"
                self._act(job, chosen, why)
            if job.verb == "retry":
                job.state = "following"
                self._follow(job, [one.delivery_id for one in chosen])
            job.state = "done"
        except ConnectError as error:
            job.why, job.state = str(error), "failed"
        except Exception as error:
            job.why, job.state = told(error), "failed"

    def _named(self, ids: Sequence[int]) -> list[Short]:
        letters = [self._store.dead_letter(dead_id) for dead_id in dict.fromkeys(ids)]
        return [Short(dead.id, dead.delivery_id) for dead in letters if dead is not None]

    def _fitting(self, which: Which) -> list[Short]:
        """All of them before the first is touched: one that is rejected again is not taken twice."""
        chosen: list[Short] = []
        after = 0
        while len(chosen) < MAX_CHOSEN and (page := self._store.dead(limit=PART, after=after, **which)):
            chosen += [Short(dead.id, dead.delivery_id) for dead in page]
            after = page[-1].id
        return chosen

    def _act(self, job: Job, chosen: Sequence[Short], why: str) -> None:
        for at in range(0, len(chosen), PART):
            part = [one.id for one in chosen[at : at + PART]]
            if job.verb == "retry":
                count = self._store.requeue(part, now=self._now())
            else:
                count = self._store.discard(part, reason=why, now=self._now())
            job.done += count
            job.missing += len(part) - count

    def _follow(self, job: Job, ids: list[str]) -> None:
        """Until none of them waits; those that have ended are not asked for again."""
        until = time.monotonic() + MAX_FOLLOWED_S
        open_ = ids
        while True:
            still: list[str] = []
            for at in range(0, len(open_), PART):
                part = open_[at : at + PART]
                where = self._store.whereabouts(part)
                for one in part:
                    match where.get(one):
                        case "waiting":
                            still.append(one)
                        case "dead":
                            job.again += 1
                        case _:
                            job.ended += 1
            open_ = still
            job.waiting = len(open_)
            if not open_ or time.monotonic() > until:
                job.ended = max(job.ended - job.missing, 0)
                return
            time.sleep(FOLLOW_S)
