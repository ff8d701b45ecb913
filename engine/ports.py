"""Protocols without bodies: what the walk asks of the world. Adapters stand in `stores/`, `secrets.py`, `alerts.py`."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, Unpack, overload, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from engine.privacy.personal import Personal
    from engine.records import (
        Accepted,
        Buried,
        Carried,
        Dead,
        Delivery,
        Ended,
        Held,
        Lane,
        LaneChange,
        Lease,
        Part,
        Progress,
        Remembered,
        Settled,
        Skipped,
        Stored,
        TokenRow,
        Use,
        Waiting,
        Walked,
        Which,
    )


class Clock(Protocol):
    """Time as an argument: tests run a virtual one."""

    def now(self) -> float:
        """Unix seconds."""

    def sleep(self, seconds: float) -> None:
        """Wait that long (a virtual clock jumps)."""


class Buffer(Protocol):
    """
    The durable lanes. Every method may be called from any thread; each raises StoreUnavailable, never a driver's error.

    A lane is (connector, client). It comes into being with the first event put for it.
    """

    def put(self, events: Sequence[Accepted], *, now: float, hold_s: float = 0) -> Future[list[Stored]]:
        """
        Store events and the deliveries they cause, all in one commit that other callers may share.

        The future is done after that commit (fsync). `hold_s` makes the deliveries due that much later: a `direct`
        caller holds them itself for so long. An event whose (connector, client, event_id) was accepted within its
        `dedupe_s` is reported as a duplicate and not stored. An event without drafts counts as accepted and skipped.

        A draft with `after` becomes a delivery that is never due, and holds back the younger ones of its key, until
        `settle` has ended those it waits for; names without a draft of this event count for nothing.
        """

    def wait(self, seconds: float) -> None:
        """
        Until something may have come due, and no longer than `seconds`; a store that is not told of what others put
        just waits. What it costs to ask `due_lanes` again and again is the store's to say: it may wait a little longer.
        """

    def due_lanes(self, *, now: float, limit: int = 100) -> list[tuple[str, str]]:
        """Lanes with something to do at `now`: awake, not paused, not leased, not held back; longest due first."""

    def next_due(self, *, now: float) -> float | None:
        """When the next lane that is not paused comes due (may be in the past), or None if nothing waits."""

    def lease(self, connector: str, client: str, *, owner: str, ttl_s: float, now: float) -> Lease | None:
        """
        Take the lane for `ttl_s` seconds, or None while another holds it.

        The fence rises by one with every lease; `settle` refuses an older one with LeaseLost.
        """

    def renew(self, lease: Lease, *, ttl_s: float, now: float) -> Lease:
        """The same lease until now + ttl_s; LeaseLost if the fence has risen."""

    def release(self, lease: Lease, *, wake_at: float | None) -> None:
        """Give the lane back; it is due again at `wake_at` (None: when something is put). Silent if already lost."""

    def reclaim(self, gone: Callable[[str], bool]) -> int:
        """
        Free the lanes, locks and slots whose owner is known to be dead; how many lanes. Progress and fences stay.

        A delivery that waits for others of which none is there any more waits no longer.
        """

    def backlog(self, lease: Lease, action: str, *, now: float, cap: int) -> tuple[int, float | None, float | None]:
        """(due deliveries of the action, counted up to `cap`; received_at of the oldest due; next due_at after now)."""

    def waiting_actions(self, lease: Lease) -> list[str]:
        """The actions that have deliveries waiting in the lane, due or not."""

    def read(self, lease: Lease, action: str, *, limit: int, now: float) -> list[Delivery]:
        """
        Up to `limit` due deliveries of the action in the order (due_at, seq), without writing a claim.

        A delivery with a key stands back while an older one of the same action and key is not due yet.
        Those of a half-done batch are read by `progress` and not here.
        """

    def progress(self, lease: Lease, action: str, *, now: float) -> list[tuple[Progress, list[Delivery]]]:
        """The half-done batches of the action whose deliveries are due, each with its deliveries in order of seq."""

    def save_progress(self, lease: Lease | None, progress: Progress, seqs: Sequence[int], *, now: float) -> None:
        """Remember how far a batch has come and that these deliveries belong to it."""

    def add_progress(self, lease: Lease, batch: str, action: str, part: Part, *, now: float) -> bool:
        """
        The same with one record more, at the cost of that one; until `save_progress` writes the batch whole again.

        False, and nothing done, where there is no such batch or this store can't: it is to be written whole.
        """

    def settle(
        self, lease: Lease | None, done: Sequence[Settled], *, now: float, change: LaneChange | None = None
    ) -> list[Skipped]:
        """
        One transaction: delivered rows leave, later ones get their due time, rejects move to the dead letters,
        counters rise, the lane changes. A batch none of whose deliveries is left in it is dropped.

        Deliveries that waited for one that ended here wait no longer, or are skipped where it was rejected, and so
        are those that wait for them: these skipped ones are what is returned.

        With `lease` None the caller holds the deliveries by `put(hold_s=…)`; rows that are gone are passed over.
        """

    def change_lane(self, connector: str, client: str, change: LaneChange, *, now: float) -> None:
        """Pause, resume or hold back a lane from outside a lease (operators, direct mode)."""

    def behind(self, connector: str, client: str, delivery: Delivery) -> bool:
        """
        Does an older delivery of the same action and key still wait in this lane?

        Where many wait that were put without `hold_s`, a store may say so without having looked through them.
        """

    def lane(self, connector: str, client: str) -> Lane | None:
        """One lane as `lanes` shows it."""

    def lanes(self) -> list[Lane]:
        """Every lane that ever held something; accepted = delivered + rejected + skipped + waiting."""

    def held(self, *, now: float) -> dict[tuple[str, str], int]:
        """The lanes that are leased now, each with its fence."""

    def dead(self, *, limit: int = 100, after: int = 0, newest: bool = False, **which: Unpack[Which]) -> list[Dead]:
        """Dead letters by id, those with id > `after`; `newest` first: those with id < `after` (0: all)."""

    def count_dead(self, by: str, **which: Unpack[Which]) -> dict[str, int]:
        """How many there are of each `reason`, `code`, `client`, `connector` or `action`."""

    def dead_letter(self, dead_id: int) -> Dead | None:
        """One dead letter whole."""

    def requeue(self, dead_ids: Sequence[int], *, now: float) -> int:
        """
        Back into their lanes, due now, attempts 0; they count as waiting again and no longer as rejected.

        What was skipped for the sake of one comes back with it and waits for it again.
        """

    def amend(self, dead_id: int, *, body: bytes, key: str | None) -> bool:
        """Another event in a dead letter, and in what comes back with it; False where there is no such letter."""

    def admit(self, letters: Sequence[Dead]) -> list[bool]:
        """
        Dead letters from elsewhere, under ids of this store; they count as accepted and rejected.

        False for one whose delivery is here already, waiting or dead.
        """

    def whereabouts(self, delivery_ids: Collection[str]) -> dict[str, str]:
        """`waiting` or `dead` for each that is here; the others have ended, or never were."""

    def revive(
        self, connector: str, client: str, event_id: str, actions: Collection[str], *, now: float, hold_s: float
    ) -> list[Delivery]:
        """The dead letters of an event and some actions back into their lane, as `requeue` does; due after `hold_s`."""

    def discard(self, dead_ids: Sequence[int], *, reason: str, now: float) -> int:
        """Gone for good; they stay counted as rejected."""

    def forget(
        self,
        subject: str,
        *,
        now: float,
        by_key: bool = False,
        mentions: bool = False,
        client: str | None = None,
        dry: bool = False,
    ) -> dict[str, int]:
        """
        Erase a person: an address or another text value anywhere in a body, or (`by_key`) only the key of a delivery;
        of one client or of all. How much was found, by what it is; with `dry` nothing is erased.

        `waiting`: deliveries, which count as skipped. `dead`: dead letters, which stay counted as rejected. `dedupe`:
        remembered ids. `progress`: half-done batches that begin anew. `traces`: dead letters of others that lose their
        request and reply. `limits`: names of limits. `mentioned`: deliveries and dead letters of others that name the
        person inside a longer text; they stay, but for `mentions`.
        """

    def forgotten(self) -> int:
        """How often a person was erased; whoever caches what people are looks here."""

    def scrub(self) -> bool:
        """Make what was deleted unreadable in the store's own files; False where a reader stood in the way."""

    def expire(self, *, dead_before: float | None, now: float, most: int = 1000) -> dict[str, int]:
        """Remove up to `most` dead letters rejected before a time, and of remembered ids that ran out: the counts."""

    def claim(self, name: str) -> None:
        """The store belongs to one project: the first name is written down, StoreUnavailable for another one."""

    def close(self) -> None:
        """Finish what is queued and let go of the store."""


class Tokens(Protocol):
    """Log-ins shared by all processes; one renews while the others wait."""

    def token(self, connector: str, client: str, name: str) -> TokenRow | None:
        """The stored token of auth `name`."""

    def save_token(self, connector: str, client: str, name: str, row: TokenRow) -> None:
        """Durable when this returns."""

    def lock(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        """Take the named lock, or False while another holds it."""

    def unlock(self, name: str, *, owner: str) -> None:
        """Let go; silent if it is not ours any more."""


class Limits(Protocol):
    """Rates and slots that hold across processes."""

    def take(self, name: str, *, count: int, per_s: float, now: float, cost: int = 1) -> float:
        """
        0.0 and one use recorded, if fewer than `count` were recorded within the last `per_s` seconds;
        else the seconds until there is room, and nothing recorded. No window of `per_s` ever holds more than `count`.

        What was used at one `now` leaves together and is kept as one; a budget gives its period's beginning as `now`.
        """

    def acquire(self, name: str, *, slots: int, owner: str, ttl_s: float, now: float) -> bool:
        """One of `slots` until released or `ttl_s` is over, or False if all are taken."""

    def release_slot(self, name: str, *, owner: str) -> None:
        """Give the slot back."""

    def enter(self, uses: Sequence[Use], *, owner: str, ttl_s: float, now: float) -> tuple[int, float] | None:
        """
        `acquire` and `take` for each, in order, as long as there is room. None: there was room for all.

        Else which of them had none, and of a rate the seconds until there may be; the slots taken here are given back.
        """

    def used(self, name: str, *, per_s: float, now: float) -> tuple[int, float | None]:
        """What `take` would count as used at `now`, and at which `now` the first of it was taken; nothing is taken."""

    def slots_held(self, name: str, *, now: float) -> int:
        """How many slots are taken."""


@runtime_checkable
class Carrier(Protocol):
    """
    What takes a lane out of one store and into another, of whatever kinds (`engine/upkeep/copying.py` holds the order).

    Whoever calls holds the lane's lease where it comes from, and has paused it where it goes to.
    """

    def mark(self, name: str) -> str | None:
        """What was written down under that name."""

    def write_mark(self, name: str, value: str) -> None:
        """Durable when this returns."""

    def count(self, connector: str, client: str, *, now: float) -> Held:
        """What a lane holds, by its rows and not by its counters."""

    @overload
    def carry_out(
        self, connector: str, client: str, kind: type[Waiting], *, after: int, limit: int
    ) -> list[Waiting]: ...
    @overload
    def carry_out(self, connector: str, client: str, kind: type[Buried], *, after: int, limit: int) -> list[Buried]: ...
    @overload
    def carry_out(
        self, connector: str, client: str, kind: type[Progress], *, after: str, limit: int
    ) -> list[Progress]: ...
    @overload
    def carry_out(
        self, connector: str, client: str, kind: type[Remembered], *, after: str, limit: int
    ) -> list[Remembered]: ...
    def carry_out(self, connector: str, client: str, kind: Any, *, after: Any, limit: int) -> list[Any]:
        """
        Up to `limit` of a kind, in the order of what `after` names: a seq, a dead letter's id, a batch, an event's id.

        Fewer than `limit` only at the end.
        """

    def reserve(self, connector: str, client: str, count: int) -> int:
        """The seq before `count` that no delivery here has or will be given; the lane comes into being."""

    def carry_in(self, connector: str, client: str, items: Sequence[Carried]) -> None:
        """
        Deliveries under seqs that were reserved, half-done batches, dead letters under ids of this store, event ids.

        What is here already (by seq, batch, delivery id, event id) stays or is written anew: twice is as once. Nothing
        is counted. The deliveries of one call are in order and come behind those of the calls before; what they wait
        for is among them, or came before.
        """

    def carry_away(self, connector: str, client: str) -> None:
        """Take out again all that a lane holds, but for its counters and its state."""

    def carry_lane(self, lane: Lane, *, mark: str, value: str) -> None:
        """
        A lane's counters are added, and its state is as in `lane`; it is due when the first of its deliveries is.

        In one commit with a mark, so that nothing is added twice.
        """

    def tokens(self) -> list[tuple[str, str, str]]:
        """(connector, client, name) of each stored token."""

    def carry_forgotten(self, times: int) -> None:
        """A person was erased at least so often."""

    def faults(self) -> list[str]:
        """What is wrong inside, as far as only the store itself can see it; what to do stands with each."""


class Store(Buffer, Tokens, Limits, Carrier, Protocol):
    """What a store adapter gives."""


class Secrets(Protocol):
    """References like `env:NAME` to values."""

    def resolve(self, reference: str) -> str:
        """The value; SecretUnavailable names the reference and what to do."""


class Alerts(Protocol):
    """Someone is told."""

    def alert(self, kind: str, *, connector: str, client: str, text: str, facts: Mapping[str, str]) -> None:
        """`kind` is a stable word (lane-paused, dead-letter, outage); never raises, never holds the walk."""

    def over(self, kind: str, *, connector: str, client: str) -> None:
        """It stands no more, if it ever did; whoever was told of it is told that."""


class Traces(Protocol):
    """The way of events, for a tracing system; no method raises or waits, and no payload is passed on."""

    def taken_in(
        self,
        connector: str,
        events: Sequence[Accepted],
        stored: Sequence[Stored],
        *,
        parent: str,
        began: float,
        put_at: float,
        now: float,
    ) -> None:
        """Events that were read from `began` on, put at `put_at`, and are in the store; `parent`: a `traceparent`."""

    def settled(
        self,
        connector: str,
        client: str,
        deliveries: Sequence[Delivery],
        rows: Sequence[Settled],
        walked: Walked,
        *,
        settled_at: float,
        now: float,
    ) -> None:
        """What became of a batch: written down from `settled_at` to `now`, after what `walked` says."""

    def flush(self) -> None:
        """Send what there is, before a process is frozen; the only one that may wait, some seconds."""

    def close(self) -> None:
        """Send what is left."""


class Trail(Protocol):
    """What became of each event, kept for a time so that people can ask; no method but `flush` waits or raises."""

    def accepted(self, events: Sequence[Accepted], stored: Sequence[Stored], *, now: float) -> None:
        """Events that are on disk, as `put` took and gave them."""

    def settled(
        self,
        connector: str,
        client: str,
        personal: Personal,
        ended: Sequence[Ended],
        rows: Sequence[Settled],
        walked: Walked,
        *,
        now: float,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        """
        What became of a batch that was written down at `now`, and what the store skipped for its sake.

        `personal`: what must not be kept of its events.
        """

    def flush(self, timeout_s: float) -> bool:
        """Write what there is, before a process is frozen; False where it took too long."""

    def close(self) -> None:
        """Write what is left."""


class Telemetry(Protocol):
    """What happened, for logs, metrics and alerts; no secret and no payload is passed in."""

    def event(self, name: str, /, **facts: object) -> None:
        """A stable name (`delivered`, `lane-paused`, `token-renewed`, `exchange`) with bounded facts."""
