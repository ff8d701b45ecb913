"""What lies in the table: lanes, deliveries, half-done batches and dead letters, to and from DynamoDB's items."""

from __future__ import annotations

import math
import zlib
from decimal import Decimal
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from engine.records import Dead, Delivery, Lane, Lease, Progress, Trace, Try
from engine.stores.rules import Wait, lane_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.stores.dynamodb.table import Item

Name = tuple[str, str]  # of a lane: connector, client

SHARDS = 4  # of the lanes; one partition of DynamoDB takes 1,000 writes a second
MAX_ITEM = 400_000  # DynamoDB's own bound is 409,600 bytes
MAX_EVENT = 370_000  # of an event's body; the rest is for its key, its tries and a letter's reason
MAX_TRIES = 12_000  # bytes of what is kept of the tries before

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_progress = msgspec.json.Decoder(Progress, float_hook=Decimal).decode
_decode_trace = msgspec.json.Decoder(Trace).decode
_decode_tries = msgspec.json.Decoder(tuple[Try, ...]).decode


# Values


def number(value: float) -> Item:
    """Exactly: a float's shortest text is the float."""
    return {"N": repr(value)}


def read_number(item: Item, name: str) -> float | None:
    return float(item[name]["N"]) if name in item else None


def packed(data: bytes) -> Item:
    """Compressed where that is shorter: writes are paid by the kilobyte."""
    pressed = zlib.compress(data, 6)
    return {"B": b"z" + pressed if len(pressed) < len(data) else b"=" + data}


def unpacked(value: Item) -> bytes:
    data: bytes = value["B"]
    return zlib.decompress(data[1:]) if data[:1] == b"z" else data[1:]


def text_key(text: str) -> str:
    """Any text as a part of a key."""
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


# Lanes


class LaneState(msgspec.Struct, frozen=True):
    """A lane as it stands in the table; `version` 0: it does not yet."""

    connector: str
    client: str
    version: int = 0
    writes: tuple[str, ...] = ()  # names of the last writes: whose answer was lost finds its own here
    made: int = 0  # lanes that are due at one time come in the order in which they came into being
    wake_at: float | None = None
    stirred: bool = False  # made due by someone else since it was leased
    owner: str | None = None
    until: float | None = None
    fence: int = 0
    paused: bool = False
    reason: str | None = None
    not_before: float = 0.0
    failures: int = 0
    failing_since: float | None = None
    delivered: int = 0
    rejected: int = 0
    skipped: int = 0
    touched: int = 0  # how often somebody changed its deliveries without holding the lease
    batches: tuple[tuple[str, str], ...] = ()  # half-done: (batch, action)
    leaving: bytes = b""  # deliveries that have ended and may still be there: whoever reads the lane takes them out
    lingers: float | None = None  # put to sleep at this time of the clock, while others may have thought it awake
    seen: bytes = b""  # while it lingers: the last seq of each action that its holder knew

    @property
    def name(self) -> Name:
        return self.connector, self.client

    @property
    def due_at(self) -> float | None:
        """When someone may lease it, or None."""
        if self.paused or self.wake_at is None:
            return None
        return max(self.wake_at, self.not_before, self.until if self.until is not None else -math.inf)

    @property
    def turn_at(self) -> float:
        """Its place among those that are due."""
        return max(self.wake_at or 0.0, self.not_before)

    def lease(self) -> Lease:
        assert self.owner is not None
        assert self.until is not None
        return Lease(
            *self.name,
            owner=self.owner,
            fence=self.fence,
            until=self.until,
            not_before=self.not_before,
            paused=self.paused,
            failures=self.failures,
            failing_since=self.failing_since,
        )

    def shown(self, waiting: int, oldest_at: float | None) -> Lane:
        return Lane(
            *self.name,
            state=lane_state(paused=self.paused, reason=self.reason, waiting=waiting),
            waiting=waiting,
            accepted=waiting + self.delivered + self.rejected + self.skipped,
            delivered=self.delivered,
            rejected=self.rejected,
            skipped=self.skipped,
            oldest_at=oldest_at,
            not_before=self.not_before,
            reason=self.reason,
            failures=self.failures,
            failing_since=self.failing_since,
        )


def lane_shard(shard: int) -> Item:
    return {"S": f"lane#{shard}"}


def lane_key(name: Name) -> Item:
    shard = zlib.crc32("/".join(name).encode()) % SHARDS
    return {"pk": lane_shard(shard), "sk": {"S": "/".join(name)}}


def lane_item(lane: LaneState) -> Item:
    item = lane_key(lane.name) | {"v": number(lane.version), "w": {"S": " ".join(lane.writes)}}
    fields = msgspec.structs.asdict(lane)
    for name in ("made", "fence", "not_before", "failures", "delivered", "rejected", "skipped", "touched"):
        if fields[name]:
            item[name] = number(fields[name])
    for name in ("wake_at", "until", "failing_since", "lingers"):
        if fields[name] is not None:
            item[name] = number(fields[name])
    for name in ("stirred", "paused"):
        if fields[name]:
            item[name] = {"BOOL": True}
    for name in ("owner", "reason"):
        if fields[name] is not None:
            item[name] = {"S": fields[name]}
    for name in ("leaving", "seen"):
        if fields[name]:
            item[name] = {"B": fields[name]}
    if lane.batches:
        item["batches"] = {"S": _encode(lane.batches).decode()}
    at = -lane.lingers if lane.lingers is not None else lane.due_at
    if at is not None:
        item |= {"gpk": {"S": "lanes"}, "gsk": number(min(at, 1e15))}
    return item


def read_lane(item: Item) -> LaneState:
    connector, client = item["sk"]["S"].split("/", 1)
    given: dict[str, Any] = {}
    for name in ("made", "fence", "failures", "delivered", "rejected", "skipped", "touched"):
        if name in item:
            given[name] = int(item[name]["N"])
    for name in ("wake_at", "until", "failing_since", "lingers", "not_before"):
        if name in item:
            given[name] = float(item[name]["N"])
    for name in ("owner", "reason"):
        if name in item:
            given[name] = item[name]["S"]
    for name in ("leaving", "seen"):
        if name in item:
            given[name] = item[name]["B"]
    return LaneState(
        connector,
        client,
        version=int(item["v"]["N"]),
        writes=tuple(item["w"]["S"].split()),
        stirred="stirred" in item,
        paused="paused" in item,
        batches=tuple(map(tuple, msgspec.json.decode(item["batches"]["S"]))) if "batches" in item else (),
        **given,
    )


# Deliveries


class Row(msgspec.Struct, frozen=True):
    """A delivery as it stands in the table; in a half-done batch, the batch's word on it holds."""

    seq: int
    action: str
    id: str
    event_id: str
    key: str | None
    body: bytes
    received_at: float
    due_at: float  # its own, whatever stands before it
    attempts: int = 0
    again_at: float | None = None
    tries: tuple[Try, ...] = ()
    after: frozenset[str] = frozenset()  # places of those that it waits for
    past_rejected: bool = False
    waiters: frozenset[str] = frozenset()  # places of those that wait for it, or did
    timed: bool = False  # its due_at is not the time when it was put
    version: int = 1
    batch: str | None = None  # not written: the batch knows

    @property
    def place(self) -> str:
        return place(self.action, self.seq)

    @property
    def turn_at(self) -> float:
        """When it is due, but for those before it."""
        return math.inf if self.after else self.due_at

    @property
    def wait(self) -> Wait | None:
        return Wait(frozenset(map(seq_of, self.after)), self.past_rejected) if self.after else None

    def delivery(self, due_at: float) -> Delivery:
        return Delivery(
            seq=self.seq,
            id=self.id,
            event_id=self.event_id,
            action=self.action,
            key=self.key,
            body=self.body,
            received_at=self.received_at,
            due_at=due_at,
            attempts=self.attempts,
            batch=self.batch,
            again_at=self.again_at,
        )


def place(action: str, seq: int) -> str:
    """Where a delivery lies in its lane: by action, and in order of arrival."""
    return f"{action}#{seq:019d}"


def seq_of(where: str) -> int:
    return int(where.rpartition("#")[2])


def action_of(where: str) -> str:
    return where.rpartition("#")[0]


def rows_of(name: Name) -> Item:
    return {"S": f"d#{name[0]}/{name[1]}"}


def row_key(name: Name, where: str) -> Item:
    return {"pk": rows_of(name), "sk": {"S": where}}


def row_item(name: Name, row: Row) -> Item:
    item = row_key(name, row.place) | {
        "i": {"S": row.id},
        "e": {"S": row.event_id},
        "b": packed(row.body),
        "r": number(row.received_at),
    }
    if row.due_at != row.received_at:
        item["d"] = number(row.due_at)
    if row.key is not None:
        item["k"] = {"S": row.key}
    if row.attempts:
        item["n"] = number(row.attempts)
    if row.again_at is not None:
        item["g"] = number(row.again_at)
    if row.tries:
        item["t"] = packed_tries(row.tries)
    if row.after:
        item["a"] = {"SS": sorted(row.after)}
    if row.waiters:
        item["w"] = {"SS": sorted(row.waiters)}
    if row.past_rejected:
        item["p"] = {"BOOL": True}
    if row.timed:
        item["x"] = {"BOOL": True}
    if row.version > 1:
        item["v"] = number(row.version)
    return item


def read_row(item: Item) -> Row:
    where = item["sk"]["S"]
    received_at = float(item["r"]["N"])
    return Row(
        seq=seq_of(where),
        action=action_of(where),
        id=item["i"]["S"],
        event_id=item["e"]["S"],
        key=item["k"]["S"] if "k" in item else None,
        body=unpacked(item["b"]),
        received_at=received_at,
        due_at=float(item["d"]["N"]) if "d" in item else received_at,
        attempts=int(item["n"]["N"]) if "n" in item else 0,
        again_at=read_number(item, "g"),
        tries=_decode_tries(unpacked(item["t"])) if "t" in item else (),
        after=frozenset(item["a"]["SS"]) if "a" in item else frozenset(),
        past_rejected="p" in item,
        waiters=frozenset(item["w"]["SS"]) if "w" in item else frozenset(),
        timed="x" in item,
        version=int(item["v"]["N"]) if "v" in item else 1,
    )


def packed_tries(tries: tuple[Try, ...]) -> Item:
    """Of many with long reasons the latest, so that the delivery still fits into its item."""
    kept = packed(_encode(tries))
    while len(tries) > 1 and len(kept["B"]) > MAX_TRIES:
        tries = tries[1:]
        kept = packed(_encode(tries))
    return kept


def pack_places(places: Iterable[str]) -> bytes:
    """Seqs by action, each as its distance from the one before."""
    by_action: dict[str, list[int]] = {}
    for where in sorted(places):
        by_action.setdefault(action_of(where), []).append(seq_of(where))
    steps = {
        action: [seqs[0], *(after - before for before, after in pairwise(seqs))] for action, seqs in by_action.items()
    }
    return zlib.compress(_encode(steps), 9)


def unpack_places(data: bytes) -> list[str]:
    found = []
    for action, steps in msgspec.json.decode(zlib.decompress(data)).items() if data else ():
        seq = 0
        for step in steps:
            seq += step
            found.append(place(action, seq))
    return found


# Half-done batches


class Member(msgspec.Struct, frozen=True, array_like=True):
    """What a half-done batch knows of a delivery in it."""

    place: str
    due_at: float
    attempts: int
    tries: tuple[Try, ...]


class Batch(msgspec.Struct, frozen=True):
    """A half-done batch: who is in it, and where its progress lies."""

    batch: str
    action: str
    members: dict[int, Member]
    saved: str  # names the parts of the progress
    parts: int
    version: int


_decode_members = msgspec.json.Decoder(list[Member]).decode


def batches_of(name: Name) -> Item:
    return {"S": f"b#{name[0]}/{name[1]}"}


def batch_key(name: Name, batch: str) -> Item:
    return {"pk": batches_of(name), "sk": {"S": f"m#{batch}"}}


def batch_item(name: Name, batch: Batch) -> Item:
    return batch_key(name, batch.batch) | {
        "batch": {"S": batch.batch},
        "action": {"S": batch.action},
        "members": packed(_encode(list(batch.members.values()))),
        "saved": {"S": batch.saved},
        "parts": number(batch.parts),
        "v": number(batch.version),
    }


def read_batch(item: Item) -> Batch:
    members = _decode_members(unpacked(item["members"]))
    return Batch(
        item["batch"]["S"],
        item["action"]["S"],
        {seq_of(each.place): each for each in members},
        item["saved"]["S"],
        int(item["parts"]["N"]),
        int(item["v"]["N"]),
    )


def part_key(name: Name, saved: str, part: int) -> Item:
    return {"pk": batches_of(name), "sk": {"S": f"p#{saved}#{part:04d}"}}


def progress_items(name: Name, saved: str, progress: Progress) -> list[Item]:
    """A batch with large records has more than fits into one item."""
    data: bytes = packed(_encode(progress))["B"]
    parts = [data[start : start + MAX_ITEM - 1000] for start in range(0, len(data), MAX_ITEM - 1000)]
    return [part_key(name, saved, at) | {"data": {"B": part}} for at, part in enumerate(parts)]


def read_progress(items: Sequence[Item]) -> Progress:
    data = b"".join(item["data"]["B"] for item in sorted(items, key=lambda item: str(item["sk"]["S"])))
    return _decode_progress(unpacked({"B": data}))


# Dead letters


class Follower(msgspec.Struct, frozen=True):
    """
    What was skipped for the sake of a dead letter, and comes back with it.

    `after` is by place among them: 0 is the letter. `others` of its event may still be there then.
    """

    id: str
    action: str
    key: str | None
    after: tuple[int, ...]
    others: tuple[str, ...]
    past_rejected: bool = False


class Letter(msgspec.Struct, frozen=True):
    """A dead letter whole."""

    dead: Dead
    followers: tuple[Follower, ...] = ()


_decode_followers = msgspec.json.Decoder(tuple[Follower, ...]).decode
LETTERS = {"S": "dead"}


def letter_key(dead_id: int) -> Item:
    return {"pk": LETTERS, "sk": {"S": f"{dead_id:019d}"}}


def pointer_key(dead: Dead) -> Item:
    """What finds the dead letters of an event."""
    return {
        "pk": {"S": f"dead#{dead.connector}/{dead.client}"},
        "sk": {"S": f"{text_key(dead.event_id)}#{dead.id:019d}"},
    }


def letter_item(letter: Letter) -> Item:
    """Whole where it fits; else its request and reply go, for they are the only part that can be had again."""
    item = _letter_item(letter)
    if letter.dead.trace is not None and item_size(item) > MAX_ITEM:
        trace = msgspec.structs.replace(letter.dead.trace, request="(too long to keep)", reply="(too long to keep)")
        item = _letter_item(msgspec.structs.replace(letter, dead=msgspec.structs.replace(letter.dead, trace=trace)))
    return item


def _letter_item(letter: Letter) -> Item:
    dead = letter.dead
    item = letter_key(dead.id) | {
        "connector": {"S": dead.connector},
        "client": {"S": dead.client},
        "action": {"S": dead.action},
        "i": {"S": dead.delivery_id},
        "e": {"S": dead.event_id},
        "b": packed(dead.body),
        "reason": {"S": dead.reason},
        "code": {"S": dead.code},
        "n": number(dead.attempts),
        "r": number(dead.received_at),
        "at": number(dead.at),
    }
    if dead.key is not None:
        item["k"] = {"S": dead.key}
    if dead.expected:
        item["expected"] = {"BOOL": True}
    if dead.trace is not None:
        item["trace"] = packed(_encode(dead.trace))
    if dead.tries:
        item["t"] = packed_tries(dead.tries)
    if letter.followers:
        item["followers"] = packed(_encode(letter.followers))
    return item


def read_letter(item: Item) -> Letter:
    dead = Dead(
        id=int(item["sk"]["S"]),
        connector=item["connector"]["S"],
        client=item["client"]["S"],
        action=item["action"]["S"],
        delivery_id=item["i"]["S"],
        event_id=item["e"]["S"],
        key=item["k"]["S"] if "k" in item else None,
        body=unpacked(item["b"]),
        reason=item["reason"]["S"],
        code=item["code"]["S"],
        attempts=int(item["n"]["N"]),
        received_at=float(item["r"]["N"]),
        at=float(item["at"]["N"]),
        expected="expected" in item,
        trace=_decode_trace(unpacked(item["trace"])) if "trace" in item else None,
        tries=_decode_tries(unpacked(item["t"])) if "t" in item else (),
    )
    return Letter(dead, _decode_followers(unpacked(item["followers"])) if "followers" in item else ())


# Event ids


def marks_of(name: Name) -> Item:
    return {"S": f"e#{name[0]}/{name[1]}"}


def mark_key(name: Name, event_id: str) -> Item:
    return {"pk": marks_of(name), "sk": {"S": text_key(event_id)}}


def mark_item(name: Name, event_id: str, until: float) -> Item:
    """DynamoDB takes it away some time after it has run out."""
    end = {"until": number(until), "ttl": number(int(until) + 3600)}
    return mark_key(name, event_id) | {"e": {"S": event_id}} | end


# Sizes


def item_size(item: Item) -> int:
    """As DynamoDB counts it: names and values, numbers at two digits a byte."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Item) -> int:
    ((kind, inner),) = value.items()
    match kind:
        case "S":
            return len(inner.encode(errors="surrogatepass"))
        case "N":
            return len(inner.strip("-").replace(".", "").strip("0")) // 2 + 2
        case "B":
            return len(inner)
        case "SS":
            return sum(len(each.encode()) for each in inner)
        case "L":
            return 3 + sum(1 + _value_size(each) for each in inner)
        case "M":
            return 3 + sum(1 + len(name.encode()) + _value_size(each) for name, each in inner.items())
    return 1
