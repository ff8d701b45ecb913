"""
The values that walk: an accepted event becomes deliveries, deliveries become units of a batch, a batch gets outcomes.

Times are unix seconds (float), durations are seconds. Everything is frozen; a stage returns new values.
`None` inside an expression's result means absent; a `None` inside a record is a null that is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple, TypedDict

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong with what a sender sent: which field, and why."""

    field: str
    reason: str
    index: int | None = None  # position in the posted list, where a list was posted
    kind: str = ""  # whose fault it is, where it is our configuration's: unknown-client | inactive-client | unusable


class Draft(msgspec.Struct, frozen=True):
    """One delivery to be stored: what one action will do with one event."""

    action: str
    key: str | None = None  # deliveries of one action and key keep their order
    after: tuple[str, ...] = ()  # the actions of the same event whose deliveries must have ended before this one begins
    past_rejected: bool = False  # begin though one of them was rejected; otherwise this one is skipped


class Accepted(msgspec.Struct, frozen=True):
    """One event that passed intake, with the deliveries it causes; what `Buffer.put` takes."""

    connector: str
    client: str
    event_id: str
    body: bytes  # the event as JSON, UTF-8, nulls taken out
    received_at: float
    drafts: tuple[Draft, ...]  # empty: no action wants it; counted as skipped
    dedupe_s: float = 0  # the same event_id within this time is accepted once; 0: never checked

    @property
    def size(self) -> int:
        """Bytes that a row of it needs for what its sender chose: body, id, the longest key."""
        keys = (len((draft.key or "").encode(errors="replace")) for draft in self.drafts)
        return len(self.body) + len(self.event_id.encode(errors="replace")) + max(keys, default=0)


class Stored(msgspec.Struct, frozen=True):
    """What `put` did with one event."""

    event_id: str
    duplicate: bool
    deliveries: tuple[Delivery, ...]  # as stored; empty for a duplicate


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One durable row of a lane: one event for one action."""

    seq: int  # the store's row; rises with arrival
    id: str  # UUID, the same over all attempts: the idempotency key that a vendor may see
    event_id: str
    action: str
    key: str | None
    body: bytes
    received_at: float
    due_at: float  # inf while it, or an older one of its key, waits for another action
    attempts: int = 0  # how often it was tried and counted
    batch: str | None = None  # the half-done batch it belongs to
    again_at: float | None = None  # when it came back from the dead letters


class Lane(msgspec.Struct, frozen=True):
    """All that waits for one client of one connector, as `status` shows it."""

    connector: str
    client: str
    state: str = "idle"  # idle | waiting | throttled | paused
    waiting: int = 0
    accepted: int = 0
    delivered: int = 0
    rejected: int = 0
    skipped: int = 0
    oldest_at: float | None = None  # when the oldest waiting delivery was received
    not_before: float = 0.0  # throttled or backing off until then
    reason: str | None = None  # why it is paused, throttled or backing off
    failures: int = 0  # outages and throttles in a row; sets the next wait
    failing_since: float | None = None


class Lease(msgspec.Struct, frozen=True):
    """The right to read and settle a lane until `until`; a higher fence takes it away."""

    connector: str
    client: str
    owner: str
    fence: int
    until: float
    not_before: float = 0.0
    paused: bool = False
    failures: int = 0
    failing_since: float | None = None


class OutcomeKind(StrEnum):
    """One word for every reply and every record (docs/language.md, outcomes)."""

    DELIVERED = "delivered"
    RETRY = "retry"
    DEFER = "defer"
    THROTTLE = "throttle"
    SPLIT = "split"
    REAUTH = "reauth"
    REJECT = "reject"
    SKIP = "skip"
    PAUSE = "pause"


class Outcome(msgspec.Struct, frozen=True):
    """What is to happen to one delivery, or to a whole request, and why."""

    kind: OutcomeKind
    reason: str = ""  # for people; no secret, no whole payload
    code: str = ""  # the vendor's code, where it gave one
    wait_s: float | None = None  # None: the backoff decides
    count: bool = True  # does this use up an attempt?
    attempts: int | None = None  # how many attempts before `otherwise`
    otherwise: OutcomeKind = OutcomeKind.REJECT
    forget: str | None = None  # the look-up whose cached answer was stale
    restart: str | None = None  # the step to go back to, or "start"
    scope: str = "connector"  # of throttle and pause: connector | action
    expected: bool = False  # a reject that raises no alarm
    everyone: bool = False  # a verdict over a request with several records that is not split
    outage: bool = False  # no answer, or 5xx for the whole request: the lane's trouble, not the delivery's
    ours: bool = False  # a wait of our own making (a limit, a poll), not the vendor's word
    private: bool = False  # the reason names hosts, secrets, files or faults of ours: for operators, not for senders


class Trace(msgspec.Struct, frozen=True):
    """One exchange as a person may see it: secrets masked, bodies cut."""

    method: str
    url: str
    status: int | None = None
    request: str = ""
    reply: str = ""


class Sent(msgspec.Struct, frozen=True):
    """One exchange with a vendor: what it was for, how it ended, and when."""

    action: str
    step: str
    method: str
    host: str
    status: int  # 0: no reply
    began: float
    ended: float
    shown: Callable[[], Trace] | None = None  # it whole, secrets masked when it is asked for; never of a log-in


class Walked(msgspec.Struct, frozen=True):
    """What was done for a batch before it was settled; a time is None where there was no such stage."""

    began: float  # when its window, or the half-done batch, was taken up
    looked_up_at: float | None = None
    mapped_at: float | None = None
    window: tuple[Sent, ...] = ()  # for all of its window: look-ups
    sent: tuple[Sent, ...] = ()  # for it alone


class Settled(msgspec.Struct, frozen=True, gc=False):
    """
    What becomes of one delivery; `Buffer.settle` takes a list of them.

    kind "delivered", "skipped": the row leaves. "rejected": it moves to the dead letters.
    "later": it stays, due at `due_at` with `attempts`; `batch` None takes it out of its half-done batch.
    """

    seq: int
    kind: str
    due_at: float = 0.0
    attempts: int = 0
    batch: str | None = None
    reason: str = ""
    code: str = ""
    trace: Trace | None = None
    expected: bool = False


class Skipped(msgspec.Struct, frozen=True):
    """A delivery that the store ended by itself: what it waited for, of the same event, was rejected."""

    seq: int
    action: str
    reason: str
    event_id: str


class Use(msgspec.Struct, frozen=True):
    """What one request asks of one limit: `cost` of the `most` in `per_s` seconds, or a slot where these are 0."""

    name: str
    most: int
    per_s: float = 0.0
    at: float = 0.0  # of a budget its period's beginning
    cost: int = 1


class LaneChange(msgspec.Struct, frozen=True):
    """What a settle changes on the lane itself; a field that is None leaves it as it is."""

    not_before: float | None = None
    reason: str | None = None  # "" clears it
    pause: bool | None = None
    failures: int | None = None
    failing_since: float | None = None  # 0 clears it


class Progress(msgspec.Struct, frozen=True):
    """How far a batch of several steps has come; durable, so that a retry goes on at the step that failed."""

    batch: str
    action: str
    step: str  # the step to run next
    saved: dict[str, Any]  # what earlier steps saved, by step name
    poll_since: float | None = None  # when the polling of `step` began
    records: list[Any] = []  # the records as mapped, so that a resumed batch is the same batch
    members: list[list[int]] = []  # for each record, the seqs of the deliveries folded into it
    polls: int = 0  # how often `step` was asked and was not done


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What one record adds to the progress of its batch since that was written whole: nothing else of it changed."""

    step: str  # one with `each: records`
    mark: str  # of the record: the last of its seqs, as text
    saved: Any  # what the step saved of it
    gone: list[str] = []  # marks of records that are no more in the batch


class Try(msgspec.Struct, frozen=True):
    """One try that did not end a delivery, or several in a row that ended alike."""

    at: float  # of the first of them
    until: float  # of the last
    reason: str
    times: int = 1


class Dead(msgspec.Struct, frozen=True):
    """A delivery that was rejected, kept with what was sent and what came back."""

    id: int
    connector: str
    client: str
    action: str
    delivery_id: str
    event_id: str
    key: str | None
    body: bytes
    reason: str
    code: str
    attempts: int
    received_at: float
    at: float
    expected: bool = False
    trace: Trace | None = None
    tries: tuple[Try, ...] = ()  # those before the last; a few of the latest


class Which(TypedDict, total=False):
    """Which dead letters are meant; what is None or left out leaves all."""

    connector: str | None
    client: str | None
    action: str | None
    reason: str | None  # a part of its text
    code: str | None
    key: str | None
    event_id: str | None
    since: float | None  # rejected at this time or later
    until: float | None  # rejected before this time


class Waiting(msgspec.Struct, frozen=True):
    """A delivery whole, as one store gives it to another; its `due_at` is its own, whatever stands before it."""

    delivery: Delivery
    tries: tuple[Try, ...] = ()
    after: tuple[int, ...] | None = None  # the seqs of its event that it waits for
    past_rejected: bool = False


class Follower(msgspec.Struct, frozen=True):
    """What was skipped for the sake of a dead letter, and comes back with it."""

    delivery_id: str
    action: str
    key: str | None
    after: tuple[int, ...]  # by place: 0 is the letter, then its followers; below 0 the negated seq of another
    past_rejected: bool = False


class Buried(msgspec.Struct, frozen=True):
    """A dead letter whole."""

    letter: Dead
    followers: tuple[Follower, ...] = ()


class Remembered(msgspec.Struct, frozen=True):
    """An event's id that is not accepted again until then."""

    event_id: str
    until: float


Carried = Waiting | Progress | Buried | Remembered  # what one store gives to another


class Held(msgspec.Struct, frozen=True):
    """How much a lane holds, by counting its rows."""

    deliveries: int = 0
    batches: int = 0  # half-done
    dead: int = 0
    ids: int = 0  # remembered, and not over yet
    last_seq: int = 0  # of its deliveries


class TokenRow(msgspec.Struct, frozen=True):
    """A token as the store keeps it: what log-in saved, and until when it serves."""

    values: dict[str, Any]  # value, refresh_token and whatever `save` names
    obtained_at: float
    expires_at: float | None  # None: not known or never
    fingerprint: str  # of the secrets it came from; another fingerprint makes it void


class Received(msgspec.Struct, frozen=True):
    """What intake made of one posted body: the good events with their place in the list, and the others' faults."""

    total: int
    accepted: list[tuple[int, Accepted]]
    faults: list[Fault]
    status: int = 202  # of the answer where nothing was accepted: 400 | 401 | 403 | 413 | 415 | 422 | 429 | 503
    title: str = ""
    direct: bool = False  # the caller waits for what the CRM says
    listed: bool = False  # the body was a list
    wait_s: float = 0.0  # until the client may send again, where its rate is used up


class Told(msgspec.Struct, frozen=True):
    """What a caller of a `direct` connector is told about one action."""

    status: int
    outcome: str  # delivered | waiting | rejected | skipped
    reason: str = ""


class Answered(msgspec.Struct, frozen=True):
    """What a caller of a `direct` connector is told about one event."""

    status: int
    outcome: str  # delivered | waiting | rejected | skipped
    event_id: str
    reason: str = ""
    actions: dict[str, Told] = {}  # where there are several: what became of each


class Ended(NamedTuple):
    """One delivery and what became of it on this walk."""

    delivery: Delivery
    outcome: Outcome
    trace: Trace | None
    progress: Progress | None
