"""From one kind of store to another: nothing is lost, nothing is there twice, whatever happens on the way."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import kinds_of_store
import msgspec
import pytest
from kinds_of_store import KINDS
from whole_stores import EVERY, NOW, drained, every, fill, put, whole

from engine.errors import StoreUnavailable, UsageError
from engine.records import Draft, Held, LaneChange, Settled, TokenRow, Waiting
from engine.stores.checking import check
from engine.upkeep import copying
from engine.upkeep.copying import Copied, Copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.ports import Store
    from engine.stores.memory import MemoryStore
    from engine.stores.sqlite import SqliteStore


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    """An empty store of a kind, in a folder of its own."""
    made: list[Store] = []
    numbers = count(1)

    def one(kind: str) -> Store:
        number = next(numbers)
        folder = tmp_path / str(number)
        folder.mkdir()
        store = kinds_of_store.postgres(folder, f"copy{number % 3}") if kind == "postgres" else ALL[kind](folder)
        made.append(store)
        return made[-1]

    yield one
    for store in made:
        store.close()


def copy(source: Store, target: Store, **more: Any) -> Copy:
    return Copy(source, target, names=("old", "new"), now=lambda: NOW, **more)


def filled(make: Callable[[str], Store], kind: str = "sqlite", *, more: int = 0) -> Store:
    store = make(kind)
    fill(store, more=more)
    return store


def problems(done: list[Copied]) -> list[tuple[str, int]]:
    return [(each.problem, each.left) for each in done]


def sums(store: Store) -> dict[str, tuple[int, ...]]:
    return {
        f"{lane.connector}/{lane.client}": (
            *(lane.accepted, lane.delivered, lane.rejected, lane.skipped, lane.waiting),
            store.count(lane.connector, lane.client, now=NOW).deliveries,
        )
        for lane in store.lanes()
    }


FINE = [("", 0)] * 3
ALL = {**KINDS, "dynamodb": kinds_of_store.dynamodb}
PAIRS = [(one, other) for one in sorted(ALL) for other in sorted(ALL)]


@pytest.mark.parametrize(("kind", "other"), PAIRS)
def test_all_that_a_store_holds_is_in_the_other_as_it_was(make: Callable[[str], Store], kind: str, other: str) -> None:
    source, target, twin = filled(make, kind), make(other), filled(make, "memory")
    put(target, "theirs", *[Draft("task")] * 5, lane=("crm", "theirs"))  # so that nothing has the number it had
    before, theirs = whole(source), whole(target)["lanes"]
    done = copy(source, target, page=2).run()
    assert problems(done) == FINE
    assert [msgspec.structs.replace(each.held, last_seq=0) for each in done] == [
        Held(13, 1, 1, 3),
        Held(1, 0, 0, 1),
        Held(1, 0, 0, 0),
    ]
    assert whole(target) == {**before, "lanes": {**before["lanes"], **theirs}}
    assert {lane.reason for lane in source.lanes()} == {"paused by hand: copied to new"}
    assert source.due_lanes(now=NOW + 10_000) == []
    sent = drained(target)
    assert len(sent.pop("crm/theirs")) == 5
    assert sent == drained(twin)


@pytest.mark.parametrize("kind", sorted(ALL))
def test_what_is_carried_in_twice_is_there_once(make: Callable[[str], Store], kind: str) -> None:
    source, target = filled(make, "memory"), make(kind)
    name = ("crm", "abc")
    shift = target.reserve(*name, 20)
    assert shift >= 0
    for _ in range(2):
        for of in EVERY:
            target.carry_in(*name, list(every(source, name, of)))
    kept = whole(target)["lanes"]["crm/abc"]
    assert {**kept, "lane": None} == {**whole(source)["lanes"]["crm/abc"], "lane": None}
    assert put(target, "new", Draft("task"), lane=name) > [20]
    target.carry_away(*name)
    assert target.count(*name, now=NOW) == Held()


class Killed(Exception):
    """The process ends here."""


class Mortal:
    """A store whose user is killed at a verb that writes: before it, or when it is done."""

    WRITES = (
        "write_mark",
        "reserve",
        "carry_in",
        "carry_lane",
        "change_lane",
        "lease",
        "release",
        "save_token",
        "renew",
    )

    def __init__(self, store: Store, life: list[int], *, after: bool) -> None:
        self.store, self.life, self.after = store, life, after

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self.store, name)
        if name not in self.WRITES:
            return verb

        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.life[0] -= 1
            if self.life[0] == 0 and not self.after:
                raise Killed
            done = verb(*args, **kwargs)
            if self.life[0] == 0:
                raise Killed
            return done

        return guarded


def gone(owner: str) -> bool:
    """Owners of a copy that was killed are of this process, which lives; the real test is below, with processes."""
    return "/" in owner


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("kind", "other"), [("memory", "sqlite"), ("sqlite", "memory"), ("memory", "postgres"), ("postgres", "memory")]
)
def test_a_copy_killed_at_any_of_its_steps_is_whole_when_it_is_run_again(
    make: Callable[[str], Store], kind: str, other: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "is_gone", gone)
    before = whole(filled(make, kind))
    steps = 0
    for life in count(1, 9 if "postgres" in (kind, other) else 3):
        source, target = filled(make, kind), make(other)
        mine = [life]
        try:
            dying: Any = [Mortal(store, mine, after=after) for store in (source, target)]
            copy(*dying, page=2).run()
        except Killed:
            steps += 1
        assert problems(copy(source, target, page=2).run()) == FINE
        found = whole(target)
        assert {**found["lanes"]} == before["lanes"], life
        assert found == before
        source.close()
        target.close()
        if mine[0] > 0:
            break
    assert steps > (4 if "postgres" in (kind, other) else 15)


def test_a_copy_that_is_complete_is_left_as_it_is_by_another_run(make: Callable[[str], Store]) -> None:
    source, target = filled(make), make("memory")
    copy(source, target).run()
    drained(target)
    moved_on = whole(target)
    done = copy(source, target).run()
    assert problems(done) == FINE
    assert whole(target) == moved_on


def test_what_is_put_into_the_old_store_meanwhile_is_fetched(make: Callable[[str], Store]) -> None:
    source, target = filled(make), make("memory")
    arriving = iter(["late1", "late2"])

    def step(_: int, lane: str) -> None:
        if lane == "crm/abc" and (event := next(arriving, None)) is not None:
            put(source, event, Draft("task", "ana"), Draft("note", None, ("task",)))
            put(source, f"{event}-unwanted")

    assert problems(copy(source, target, page=3, step=step).run()) == FINE
    assert sums(target) == sums(source)
    assert sums(target)["crm/abc"] == (25, 2, 1, 5, 17, 17)


def test_what_is_put_into_the_old_store_after_a_copy_is_fetched_by_another_run(
    make: Callable[[str], Store],
) -> None:
    source, target = filled(make), make("sqlite")
    copy(source, target).run()
    drained(target)
    (late,) = put(source, "late", Draft("task", "ana"), dedupe_s=9)
    assert problems(copy(source, target).run()) == FINE
    assert [each[0] for each in drained(target)["crm/abc"]] == [
        each.delivery.id for each in every(source, ("crm", "abc"), Waiting) if each.delivery.seq == late
    ]
    after = sums(target)["crm/abc"]
    assert after[0] == sum(after[1:5])
    assert problems(copy(source, target).run()) == FINE
    assert sums(target)["crm/abc"] == after


def test_a_lane_that_went_on_meanwhile_is_not_opened_and_copied_anew_by_another_run(
    make: Callable[[str], Store],
) -> None:
    source, target = filled(make), make("memory")
    seqs = [each.delivery.seq for each in every(source, ("crm", "abc"), Waiting)][:1]

    def step(_: int, lane: str) -> None:
        if lane == "crm/abc" and seqs:  # a direct caller holds no lease
            source.settle(None, [Settled(seqs.pop(), "delivered")], now=NOW)

    first, *others = copy(source, target, page=3, step=step).run()
    assert problems(others) == FINE[:2]
    assert first.problem == (
        "old went on with this lane meanwhile (delivered 2 -> 3); stop all that works on it, then run this again: "
        "the lane is copied anew"
    )
    lane = target.lane("crm", "abc")
    assert lane is not None
    assert (lane.state, lane.reason) == ("paused", "paused by hand: the copy from old is under way")
    assert problems(copy(source, target, page=3).run()) == FINE
    assert sums(target) == sums(source)


def test_what_was_delivered_from_the_old_store_after_a_copy_is_said(make: Callable[[str], Store]) -> None:
    source, target = filled(make), make("memory")
    copy(source, target).run()
    before = whole(target)
    seq = next(each.delivery.seq for each in every(source, ("crm", "abc"), Waiting))
    source.settle(None, [Settled(seq, "delivered")], now=NOW)
    first, *_ = copy(source, target).run()
    assert first.problem == (
        "old went on with this lane meanwhile (delivered 2 -> 3) though it had been copied: "
        "what was sent from there may be sent again from here"
    )
    assert whole(target) == before


def test_a_lane_that_someone_delivers_is_named(make: Callable[[str], Store]) -> None:
    source, target = filled(make), make("memory")
    source.lease("erp", "abc", owner="w1", ttl_s=60, now=NOW)
    with pytest.raises(StoreUnavailable, match="old: erp/abc is being delivered by a process that lives; stop"):
        copy(source, target).run()
    assert problems(copy(source, target).run() if source.reclaim(lambda owner: owner == "w1") else []) == FINE


def test_a_store_that_has_had_the_lane_is_refused_and_nothing_is_changed(make: Callable[[str], Store]) -> None:
    source, target = filled(make), filled(make, "memory")
    before = whole(source), whole(target)
    with pytest.raises(UsageError, match="new: crm/abc has had 19 deliveries there; a lane is"):
        copy(source, target).run()
    assert (whole(source)["lanes"], whole(target)["lanes"]) == (before[0]["lanes"], before[1]["lanes"])


def test_a_copy_of_another_store_is_not_gone_on_with(make: Callable[[str], Store]) -> None:
    target = make("memory")
    copy(filled(make), target).run()
    with pytest.raises(UsageError, match="crm/abc is there as a copy of another store than old"):
        copy(filled(make), target).run()


def test_a_store_is_not_copied_into_itself(make: Callable[[str], Store]) -> None:
    store = filled(make)
    with pytest.raises(UsageError, match="old and new are one store; name two"):
        copy(store, store).run()


def test_a_newer_token_stays(make: Callable[[str], Store]) -> None:
    source, target = filled(make), make("memory")
    fresh = TokenRow({"value": "fresh"}, NOW + 1, None, "f1")
    target.save_token("crm", "abc", "login", fresh)
    copy(source, target).run()
    assert target.token("crm", "abc", "login") == fresh


def test_how_a_lane_was_before_is_kept_by_any_number_of_copies(make: Callable[[str], Store]) -> None:
    source, first, second = filled(make), make("memory"), make("sqlite")
    before = whole(source)
    copy(source, first).run()
    copy(source, second).run()
    assert whole(first) == whole(second) == before


def test_what_can_not_be_is_mended_on_the_way(make: Callable[[str], Store]) -> None:
    """Counters that do not fit their rows, and deliveries of a half-done batch that is not there."""
    source, target = filled(make), make("memory")
    store = cast("SqliteStore", source)
    store._writer.run(lambda db: db.execute("UPDATE lanes SET accepted = 4 WHERE client = 'abc'"))
    store._writer.run(lambda db: db.execute("DELETE FROM batches"))
    assert len(check(source, now=NOW, step=lambda *_: None).findings) == 3
    assert problems(copy(source, target).run()) == FINE
    assert check(target, now=NOW, step=lambda *_: None).findings == []
    assert sums(target)["crm/abc"] == (19, 2, 1, 3, 13, 13)
    assert len(drained(target)["crm/abc"]) == 13 + 3


def test_no_address_is_kept_in_what_a_copy_writes_down(make: Callable[[str], Store]) -> None:
    source, target = filled(make, "memory"), make("memory")
    source.change_lane("crm", "abc", LaneChange(reason="ana@example.com is not a contact"), now=NOW)
    copy(source, target).run()
    lane = target.lane("crm", "abc")
    assert lane is not None
    assert lane.reason == "a***@example.com is not a contact"
    assert "ana@" not in str([cast("MemoryStore", store)._marks for store in (source, target)])
