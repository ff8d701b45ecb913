"""A store with some of everything in it, and what it holds in words that no store's own numbers are in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.records import (
    Accepted,
    Buried,
    Draft,
    LaneChange,
    Progress,
    Remembered,
    Settled,
    TokenRow,
    Trace,
    Waiting,
)

if TYPE_CHECKING:
    from engine.ports import Store
    from engine.records import Lane, Stored

NOW = 1_000.0
FAR = 10_000_000_000  # seconds: over when nobody asks any more
TRACE = Trace("POST", "https://api.crm.example/x", 400, "{}", "no such field")
EVERY: tuple[type, ...] = (Waiting, Progress, Buried, Remembered)


def put(
    store: Store, event_id: str, *drafts: Draft, lane: tuple[str, str] = ("crm", "abc"), dedupe_s: float = 0
) -> list[int]:
    body = f'{{"id":"{event_id}"}}'.encode()
    stored: list[Stored] = store.put([Accepted(*lane, event_id, body, NOW - 5, drafts, dedupe_s)], now=NOW).result()
    return [each.seq for each in stored[0].deliveries]


def fill(store: Store, *, more: int = 0) -> None:
    """
    Waiting, keyed, tried, due later, chains of actions, half-done batches, dead letters with what they took along,
    remembered ids, tokens, lanes that pause or hold back; `more` plain deliveries in a lane of their own.
    """
    for number in range(3):
        put(store, f"plain{number}", Draft("task"), dedupe_s=FAR)
    first, *_ = (put(store, f"keyed{number}", Draft("task", "ana"))[0] for number in range(3))
    store.settle(None, [Settled(first, "later", due_at=NOW + 60, attempts=2, reason="HTTP 503")], now=NOW)
    store.settle(None, [Settled(first, "later", due_at=NOW + 90, attempts=3, reason="HTTP 500")], now=NOW + 1)
    put(store, "chain", Draft("note", "bob", ("task",)), Draft("task"), Draft("log", None, ("note",), True))
    batch = [put(store, f"batch{number}", Draft("sync"))[0] for number in range(4)]
    progress = Progress(
        "b1",
        "sync",
        "wait",
        {"upload": {"id": 7}, "each": {str(batch[1]): {"row": 1}, str(batch[2]): {"row": 2}}},
        poll_since=NOW - 1,
        records=[{"a": 1}, {"a": 2}, {"a": 3}],
        members=[[batch[0], batch[1]], [batch[2]], [batch[3]]],
        polls=3,
    )
    lease = store.lease("crm", "abc", owner="w1", ttl_s=9, now=NOW)
    assert lease is not None
    store.save_progress(lease, progress, batch, now=NOW)
    rows = [Settled(seq, "later", due_at=NOW + 5, attempts=1, batch="b1") for seq in batch[:3]]
    store.settle(lease, [*rows, Settled(batch[3], "delivered")], now=NOW)
    store.release(lease, wake_at=NOW)
    dead, _, _ = put(
        store, "dead", Draft("task", "eve"), Draft("note", "eve", ("task",)), Draft("log", None, ("note",))
    )
    rejected = Settled(dead, "rejected", attempts=4, reason="no such field", code="E1", trace=TRACE, expected=True)
    store.settle(None, [Settled(dead, "later", due_at=NOW, attempts=1, reason="HTTP 500")], now=NOW)
    store.settle(None, [rejected], now=NOW + 2)
    again, done = put(store, "again", Draft("task"))[0], put(store, "done", Draft("task"))[0]
    store.settle(None, [Settled(again, "rejected", reason="not now"), Settled(done, "delivered")], now=NOW)
    store.requeue([letter.id for letter in store.dead() if letter.event_id == "again"], now=NOW + 3)
    put(store, "unwanted")
    paused, held = ("crm", "paused"), ("erp", "abc")
    put(store, "p", Draft("task"), lane=paused, dedupe_s=FAR)
    store.change_lane(*paused, LaneChange(pause=True, reason="HTTP 401", failures=2, failing_since=NOW), now=NOW)
    put(store, "h", Draft("task"), lane=held)
    change = LaneChange(not_before=NOW + 30, reason="HTTP 429", failures=1, failing_since=NOW - 9)
    store.change_lane(*held, change, now=NOW)
    for number in range(more):
        put(store, f"more{number}", Draft("task", f"key{number % 50}"), lane=("crm", "more"))
    store.save_token("crm", "abc", "login", TokenRow({"value": "secret-1"}, NOW, NOW + 60, "f1"))
    store.forget("nobody@example.com", now=NOW)


def whole(store: Store) -> dict[str, Any]:
    """All it holds, by delivery ids."""
    lanes = {}
    for lane in store.lanes():
        name = (lane.connector, lane.client)
        carried = {kind: list(every(store, name, kind)) for kind in EVERY}
        ids = {row.delivery.seq: row.delivery.id for row in carried[Waiting]}
        lanes["/".join(name)] = {
            "lane": lane,
            "deliveries": [waiting(row, ids) for row in carried[Waiting]],
            "batches": [batch(progress, ids) for progress in carried[Progress]],
            "dead": [buried(letter, ids) for letter in carried[Buried]],
            "ids": sorted((each.event_id, each.until) for each in carried[Remembered]),
        }
    tokens = {name: store.token(*name) for name in store.tokens()}
    return {"lanes": lanes, "tokens": tokens, "forgotten": store.forgotten()}


def every(store: Store, name: tuple[str, str], kind: Any, limit: int = 100) -> Any:
    after: Any = 0 if kind in (Waiting, Buried) else ""
    while page := store.carry_out(*name, kind, after=after, limit=limit):
        yield from page
        after = place(page[-1])


def place(item: Any) -> int | str:
    match item:
        case Waiting():
            return item.delivery.seq
        case Buried():
            return item.letter.id
        case Progress():
            return item.batch
        case other:
            return str(other.event_id)


def waiting(row: Waiting, ids: dict[int, str]) -> Any:
    each = row.delivery
    after = None if row.after is None else {ids.get(seq, "gone") for seq in row.after}
    named = (each.id, each.event_id, each.action, each.key, each.body, each.received_at, each.due_at, each.attempts)
    return (*named, each.batch, each.again_at, after, row.past_rejected, row.tries)


def batch(progress: Progress, ids: dict[int, str]) -> Any:
    kept = {
        name: {ids.get(int(key), "gone") if key.isdigit() else key: value for key, value in saved.items()}
        for name, saved in progress.saved.items()
    }
    members = [[ids[seq] for seq in listed if seq in ids] for listed in progress.members]
    return (progress.batch, progress.action, progress.step, kept, progress.poll_since, progress.records, members)


def buried(item: Buried, ids: dict[int, str]) -> Any:
    letter = {name: getattr(item.letter, name) for name in item.letter.__struct_fields__ if name != "id"}
    followers = [
        (
            each.delivery_id,
            each.action,
            each.key,
            {at if at >= 0 else ids.get(-at, "gone") for at in each.after},
            each.past_rejected,
        )
        for each in item.followers
    ]
    return letter, followers


def drained(store: Store, *, at: float = NOW + 10_000) -> dict[str, list[tuple[str, str, int]]]:
    """What each lane would send after its pauses ended, in that order: (delivery, action, tries); all is delivered."""
    sent: dict[str, list[tuple[str, str, int]]] = {}
    store.requeue([letter.id for letter in store.dead(limit=10_000)], now=at)
    for lane in store.lanes():
        store.change_lane(lane.connector, lane.client, LaneChange(pause=False, reason="", not_before=0.0), now=at)
        sent[f"{lane.connector}/{lane.client}"] = list(drained_lane(store, lane, at))
    return sent


def drained_lane(store: Store, lane: Lane, at: float) -> Any:
    lease = store.lease(lane.connector, lane.client, owner="drain", ttl_s=60, now=at)
    if lease is None:
        return
    while actions := store.waiting_actions(lease):
        before = len(actions)
        for action in actions:
            rows = [row for _, rows in store.progress(lease, action, now=at) for row in rows]
            rows += store.read(lease, action, limit=1_000, now=at)
            yield from ((row.id, row.action, row.attempts) for row in rows)
            store.settle(lease, [Settled(row.seq, "delivered") for row in rows], now=at)
            before += len(rows)
        assert before > len(actions), f"{lane.connector}/{lane.client}: nothing comes due"
    store.release(lease, wake_at=None)
