"""What a store holds and whether it can be so: counted by its rows, not by its counters; nothing is changed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import TokenUnreadable
from engine.records import Buried, Held, Progress, Remembered, Waiting
from engine.stores.rules import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.ports import Store
    from engine.records import Lane

PAGE = 1_000
SHOWN = 3  # of many that are alike


class Checked(NamedTuple):
    """What was found; `findings` say what is wrong and what to do."""

    project: str | None
    lanes: list[tuple[Lane, Held]]
    tokens: int
    unreadable: list[str]  # tokens that the key at hand does not decrypt
    findings: list[str]


def check(store: Store, *, now: float, step: Callable[[str, int], object]) -> Checked:
    """Every row is read. `step` is told how many rows of which lane were."""
    lanes, findings = [], store.faults()
    for lane in store.lanes():
        name = f"{lane.connector}/{lane.client}"
        held = store.count(lane.connector, lane.client, now=now)
        lanes.append((lane, held))
        findings += [f"{name}: {said}" for said in _of_lane(store, lane, held, partial(step, name))]
    names = store.tokens()
    unreadable = ["/".join(name) for name in names if not _readable(store, name)]
    if unreadable:
        findings.append(
            f"{_several(unreadable)}: can't be read; start with the CONNECT_KEY that it was saved with, "
            "or log in again (`connect login`)"
        )
    return Checked(store.mark(PROJECT), lanes, len(names), unreadable, findings)


def _readable(store: Store, name: tuple[str, str, str]) -> bool:
    try:
        store.token(*name)
    except TokenUnreadable:
        return False
    return True


def _of_lane(store: Store, lane: Lane, held: Held, step: Callable[[int], object]) -> Iterator[str]:
    ends = lane.delivered + lane.rejected + lane.skipped
    if lane.accepted != ends + held.deliveries:
        yield (
            f"accepted {lane.accepted} is not delivered {lane.delivered} + rejected {lane.rejected} + "
            f"skipped {lane.skipped} + {held.deliveries} that wait; `connect store copy` into a new store counts anew"
        )
    if held.dead > lane.rejected:
        yield f"{held.dead} dead letters, but {lane.rejected} rejected: another program has written here"
    waits: dict[int, tuple[int, ...]] = {}
    there: set[int] = set()
    members: dict[str, int] = {}
    for row in _every(store, lane, Waiting, step):
        there.add(row.delivery.seq)
        if row.after is not None:
            waits[row.delivery.seq] = row.after
        if row.delivery.batch is not None:
            members[row.delivery.batch] = members.get(row.delivery.batch, 0) + 1
    batches = {progress.batch for progress in _every(store, lane, Progress, step)}
    if alone := sorted(batches - members.keys()):
        yield f"half-done batch {_several(alone)} without deliveries: harmless, for it is never read"
    if torn := sorted(members.keys() - batches):
        yield (
            f"{sum(members[batch] for batch in torn)} deliveries of the half-done batch {_several(torn)}, which is not "
            "there: they would wait for good; bring them into a new store with `connect store copy`"
        )
    if stuck := endless(waits, there):
        yield (
            f"{len(stuck)} deliveries wait for others that are not there (seq {_several(map(str, stuck))}): "
            "the next start of `connect serve` or `connect deliver` lets them go on"
        )
    for _ in _every(store, lane, Buried, step):
        pass


def endless(waits: dict[int, tuple[int, ...]], there: set[int]) -> list[int]:
    """Those that wait for one that is gone, for each other in a circle, or for one of these."""
    ends = there - waits.keys()
    left = dict(waits)
    while free := [seq for seq, after in left.items() if ends.issuperset(after)]:
        ends.update(free)
        for seq in free:
            del left[seq]
    return sorted(left)


def _every(store: Store, lane: Lane, kind: Any, step: Callable[[int], object]) -> Iterator[Any]:
    after: Any = 0 if kind in (Waiting, Buried) else ""
    while page := store.carry_out(lane.connector, lane.client, kind, after=after, limit=PAGE):
        yield from page
        after = place(page[-1])
        step(len(page))


def place(item: Waiting | Progress | Buried | Remembered) -> int | str:
    """Where one stands among those of its kind: what `carry_out` goes on behind."""
    match item:
        case Waiting():
            return item.delivery.seq
        case Progress():
            return item.batch
        case Buried():
            return item.letter.id
        case Remembered():
            return item.event_id


def _several(names: Any) -> str:
    listed = list(names)
    more = len(listed) - SHOWN
    return ", ".join(listed[:SHOWN]) + (f" and {more} more" if more > 0 else "")
