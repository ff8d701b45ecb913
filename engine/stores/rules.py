"""What all stores agree on: when a lane is due, what waits for what, how tries are kept, and what names a person."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.errors import BadValue, LeaseLost, StoreUnavailable
from engine.records import Try

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.ports import Limits
    from engine.privacy.people import Subject
    from engine.records import Accepted, Dead, Lease, Part, Progress, Use


def wait_until(then: float, now: float) -> float:
    """Seconds from now to then, such that now + seconds is never before then."""
    wait = then - now
    return wait if now + wait >= then else math.nextafter(then, math.inf) - now


def first_of(times: Iterable[float | None]) -> float | None:
    """The first of these times; inf, that of a delivery which waits for another, is no time."""
    return min((time for time in times if time is not None and time < math.inf), default=None)


def lane_state(*, paused: bool, reason: str | None, waiting: int) -> str:
    if paused:
        return "paused"
    if reason is not None:
        return "throttled"
    return "waiting" if waiting else "idle"


def refuse_impossible(name: str, *, count: int, cost: int) -> None:
    if cost > count:
        raise BadValue(f"a request that costs {cost} never fits into the {count} that {name} allows")


def enter_one_by_one(
    store: Limits, uses: Sequence[Use], *, owner: str, ttl_s: float, now: float
) -> tuple[int, float] | None:
    """`Limits.enter` by the other verbs."""
    slots: list[str] = []
    for at, use in enumerate(uses):
        wait_s = 0.0
        if use.per_s:
            wait_s = store.take(use.name, count=use.most, per_s=use.per_s, now=use.at, cost=use.cost)
            fits = wait_s <= 0
        elif fits := store.acquire(use.name, slots=use.most, owner=owner, ttl_s=ttl_s, now=now):
            slots.append(use.name)
        if not fits:
            for name in slots:
                with suppress(StoreUnavailable):  # a slot ends by itself
                    store.release_slot(name, owner=owner)
            return at, wait_s
    return None


def lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"{lease.connector}/{lease.client}: {lease.owner} no longer holds the lane")


PROJECT = "project"  # the mark that says whose a store is


def refuse_another(where: str, owner: str, name: str) -> None:
    """`where` is how the store is called, `owner` the project that it belongs to."""
    if owner != name:
        raise StoreUnavailable(
            f"{where}: this store holds the events of project `{owner}`; this project is `{name}`; use another store"
        )


class Wait(NamedTuple):
    """The deliveries of its event that one waits for, by seq."""

    after: frozenset[int]
    past_rejected: bool


def waits_of(event: Accepted, first: int) -> dict[int, Wait]:
    """Which deliveries of an event wait for which, where that of its first draft has the seq `first`."""
    seqs = {draft.action: seq for seq, draft in enumerate(event.drafts, first)}
    waits = {}
    for seq, draft in enumerate(event.drafts, first):
        if after := frozenset(seqs[name] for name in draft.after if name in seqs) - {seq}:
            waits[seq] = Wait(after, draft.past_rejected)
    return waits


def follow(ended: Mapping[int, bool], waits: Mapping[int, Wait]) -> tuple[dict[int, Wait], dict[int, int]]:
    """
    (what those still wait for that waited for one of `ended`, and for whose sake others are skipped), by seq.

    `ended` says which were rejected. What waits for one that was skipped for its sake is skipped too.
    """
    left: dict[int, Wait] = {}
    skipped: dict[int, int] = {}
    news = {seq: seq if rejected else None for seq, rejected in ended.items()}
    while news:
        heard, news = news, {}
        for seq, wait in waits.items():
            over = wait.after & heard.keys()
            if seq in skipped or not over:
                continue
            roots = [root for each in sorted(over) if (root := heard[each]) is not None]
            if roots and not wait.past_rejected:
                skipped[seq] = news[seq] = roots[0]
                left.pop(seq, None)
            else:
                left[seq] = Wait(left.get(seq, wait).after - over, wait.past_rejected)
    return left, dict(sorted(skipped.items()))


def followers(skipped: Mapping[int, int], waits: Mapping[int, Wait]) -> dict[int, dict[int, Wait]]:
    """
    For each that was rejected, those skipped for its sake: what comes back with it if it is tried again.

    Each waits by place: 0 is the rejected one, then they follow in order. Below 0 is the seq of another, if it is still
    there then.
    """
    by_root: dict[int, dict[int, Wait]] = {}
    for root in sorted(set(skipped.values())):
        seqs = sorted(seq for seq in skipped if skipped[seq] == root)
        places = {seq: place for place, seq in enumerate([root, *seqs])}
        by_root[root] = {
            seq: Wait(frozenset(places.get(each, -each) for each in waits[seq].after), waits[seq].past_rejected)
            for seq in seqs
        }
    return by_root


def with_parts(progress: Progress, parts: Sequence[Part]) -> Progress:
    """The progress as if it had been written whole with the last of them."""
    if not parts:
        return progress
    saved = dict(progress.saved)
    for step in {part.step for part in parts}:
        before = saved.get(step)
        saved[step] = dict(before) if isinstance(before, dict) else {}
    for part in parts:
        saved[part.step][part.mark] = part.saved
    gone = {mark for part in parts for mark in part.gone}
    left = [at for at, seqs in enumerate(progress.members) if not seqs or str(seqs[-1]) not in gone]
    return msgspec.structs.replace(
        progress,
        saved=saved,
        records=[progress.records[at] for at in left],
        members=[progress.members[at] for at in left],
    )


MOST_TRIES = 20


def tried(tries: tuple[Try, ...], now: float, reason: str) -> tuple[Try, ...]:
    """With one more try; those that ended alike are one, and of many the latest stay."""
    if not reason:
        return tries
    if tries and tries[-1].reason == reason:
        return (*tries[:-1], msgspec.structs.replace(tries[-1], until=now, times=tries[-1].times + 1))
    return (*tries, Try(now, now, reason))[-MOST_TRIES:]


def names_in(person: Subject, letter: Dead) -> bool:
    """Is the person named in what was said of another's dead letter, or in what was sent with it?"""
    trace = letter.trace is not None and person.named_in(msgspec.json.encode(letter.trace))
    return trace or any(map(person.named_in, (letter.reason, *(each.reason for each in letter.tries))))


def named_by_limit(person: Subject, name: str) -> bool:
    """Is this the name of a limit that counts for this person alone? It ends in a digest; once in the value itself."""
    value = name.split(":")[-1].partition("@")[0]
    return value in person.digests or person.named_in(name)


def without(person: Subject, letter: Dead) -> Dead:
    """Another's dead letter without the person: a request or reply that names them goes whole."""
    tries = tuple(msgspec.structs.replace(each, reason=person.taken_out(each.reason)) for each in letter.tries)
    trace = letter.trace
    if trace is not None and person.named_in(msgspec.json.encode(trace)):
        trace = None
    return msgspec.structs.replace(letter, trace=trace, reason=person.taken_out(letter.reason), tries=tries)
