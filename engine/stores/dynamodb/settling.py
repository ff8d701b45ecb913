"""
What becomes of deliveries, written down in one step: the lane changes, and names those that leave.

That one write is the commit. Dead letters, later times and what was freed are in the same transaction; the deliveries
that have ended are deleted after it, each for one write unit instead of two, and whoever reads the lane next deletes
what a killed process left behind. A settling of very many exceptions is several of these, one after the other.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.records import Dead, Skipped
from engine.stores.dynamodb.items import (
    MAX_ITEM,
    Batch,
    Follower,
    LaneState,
    Letter,
    Member,
    Row,
    batch_item,
    batch_key,
    item_size,
    letter_item,
    pack_places,
    part_key,
    place,
    pointer_key,
    progress_items,
    row_item,
    row_key,
    seq_of,
    unpack_places,
)
from engine.stores.dynamodb.lanes import changed
from engine.stores.dynamodb.rows import in_batches
from engine.stores.dynamodb.table import MOST_IN_TRANSACTION, Unmet, conditional
from engine.stores.rules import Wait, follow, followers, tried

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from engine.records import LaneChange, Lease, Progress, Settled
    from engine.stores.dynamodb.holding import Holdings, View
    from engine.stores.dynamodb.items import Name
    from engine.stores.dynamodb.lanes import Lanes
    from engine.stores.dynamodb.rows import Rows
    from engine.stores.dynamodb.table import Item, Table

KINDS = ("delivered", "skipped", "rejected", "later")
MOST_EXCEPTIONS = 60  # operations beside the lane's own in one transaction; what waits for them comes on top
MOST_LEAVING = 5_000  # deliveries that one write of the lane names
MOST_BYTES = 3_000_000  # of one transaction; DynamoDB takes 4 MB


class Touched(Exception):
    """Someone changed the lane's deliveries since they were read."""


class TooMuch(Exception):
    """It does not fit into one transaction."""


class Ends(NamedTuple):
    """What one settling does, worked out from rows as they were read."""

    operations: list[Item]
    leaving: list[Row]
    changed: list[Row]
    counts: dict[str, int]
    batches: dict[str, Batch]  # as they are afterwards
    dropped: list[Batch]
    freed: bool
    skipped: list[Skipped]


class Settling:
    """One for a store."""

    def __init__(
        self,
        table: Table,
        lanes: Lanes,
        rows: Rows,
        holdings: Holdings,
        new_dead: Callable[[int], int],
        *,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`new_dead` gives the first of so many ids; `step` is told before each step, for tests that end there."""
        self.table, self.lanes, self.rows, self.holdings = table, lanes, rows, holdings
        self.new_dead, self.step = new_dead, step
        self.places: dict[int, tuple[Name, str]] = {}  # where those are that a caller of this process holds

    # Where they are

    def located(self, seqs: Collection[int]) -> dict[Name, dict[int, Row]]:
        """By lane, those that are there."""
        known = {seq: self.places[seq] for seq in seqs if seq in self.places}
        found: dict[Name, dict[int, Row]] = {}
        for name in dict.fromkeys(name for name, _ in known.values()):
            found[name] = self.rows.get(name, [where for of, where in known.values() if of == name])
        unknown = [seq for seq in seqs if seq not in known]
        for lane in self.lanes.all() if unknown else ():
            rows = self.rows.find(lane.name, unknown)
            if rows:
                found[lane.name] = found.get(lane.name, {}) | rows
        return {name: rows for name, rows in found.items() if rows}

    def remember(self, name: Name, rows: Iterable[Row]) -> None:
        """A direct caller of this process holds them, and will settle them by their seq."""
        for row in rows:
            self.places[row.seq] = (name, row.place)
        while len(self.places) > 100_000:
            del self.places[next(iter(self.places))]

    # Settling

    def settle(
        self, lease: Lease | None, done: Sequence[Settled], *, now: float, change: LaneChange | None
    ) -> list[Skipped]:
        for settled in done:
            if settled.kind not in KINDS:
                raise ValueError(f"a delivery is delivered, skipped, rejected or later, not {settled.kind}")
        first = {settled.seq: settled for settled in reversed(done)}  # of two for one delivery the first holds
        ordered = [first[seq] for seq in dict.fromkeys(settled.seq for settled in done)]
        if lease is not None:
            return self._lane((lease.connector, lease.client), lease, ordered, now, change)
        skipped: list[Skipped] = []
        located = self.located([settled.seq for settled in ordered])
        here = {seq for rows in located.values() for seq in rows}
        buried = [settled.seq for settled in ordered if settled.kind == "rejected" and settled.seq in here]
        ids = dict(enumerate(buried, self.new_dead(len(buried)))) if buried else {}
        dead_ids = {seq: dead_id for dead_id, seq in ids.items()}
        for name, rows in located.items():
            of_lane = [settled for settled in ordered if settled.seq in rows]
            skipped += self._lane(name, None, of_lane, now, change, rows, dead_ids)
            for settled in of_lane:
                if settled.kind != "later":
                    self.places.pop(settled.seq, None)
        return sorted(skipped, key=lambda each: each.seq)

    def _lane(
        self,
        name: Name,
        lease: Lease | None,
        done: Sequence[Settled],
        now: float,
        change: LaneChange | None,
        rows: dict[int, Row] | None = None,
        dead_ids: dict[int, int] | None = None,
    ) -> list[Skipped]:
        skipped: list[Skipped] = []
        parts = self._parts(done, lease, rows or {})
        for part in parts:
            last = part is parts[-1]
            skipped += self._part(name, lease, part, now, change if last else None, dead_ids or {})
        return skipped

    @staticmethod
    def _parts(done: Sequence[Settled], lease: Lease | None, rows: Mapping[int, Row]) -> list[list[Settled]]:
        parts: list[list[Settled]] = [[]]
        weight, size = 0, 0
        for settled in done:
            more = {"later": 1, "rejected": 3}.get(settled.kind, 0) + (lease is None)
            row = rows.get(settled.seq)
            bytes_ = len(row.body) if row is not None else 30_000 if settled.kind in ("later", "rejected") else 0
            if parts[-1] and (
                weight + more > MOST_EXCEPTIONS or size + bytes_ > MOST_BYTES or len(parts[-1]) >= MOST_LEAVING
            ):
                parts.append([])
                weight, size = 0, 0
            parts[-1].append(settled)
            weight, size = weight + more, size + bytes_
        return parts

    def _part(
        self,
        name: Name,
        lease: Lease | None,
        done: Sequence[Settled],
        now: float,
        change: LaneChange | None,
        dead_ids: dict[int, int],
    ) -> list[Skipped]:
        places: dict[int, str] = {}
        for _ in self.table.patiently(f"the deliveries of {'/'.join(name)} are changed by others all the time"):
            try:
                return self._once(name, lease, done, now, change, dead_ids, places)
            except (Touched, Unmet):
                self.holdings.drop(name)
            except TooMuch:
                first, rest = done[: len(done) // 2], done[len(done) // 2 :]
                skipped = self._part(name, lease, first, now, None, dead_ids)
                return skipped + self._part(name, lease, rest, now, change, dead_ids)
        raise AssertionError

    def _once(
        self,
        name: Name,
        lease: Lease | None,
        done: Sequence[Settled],
        now: float,
        change: LaneChange | None,
        dead_ids: dict[int, int],
        known: dict[int, str],
    ) -> list[Skipped]:
        """`dead_ids` of those that were given theirs; `known`: where the deliveries are, as far as that was seen."""
        lane, view = self._looked(name, lease)
        rows = self._there(name, lease, lane, view, [settled.seq for settled in done], known)
        known |= {row.seq: row.place for row in rows.values()}
        if lease is None and not rows:
            return []
        found = [(rows[each.seq], each) for each in done if each.seq in rows]
        ends = self._ends(name, lease, found, view, now, dead_ids)
        if len(found) > 1 and not fits(ends.operations):
            raise TooMuch
        places = [row.place for row in ends.leaving]

        def edit(lane_: LaneState) -> LaneState | None:
            self._require(lease, lane_, lane, view)
            new = msgspec.structs.replace(
                lane_,
                delivered=lane_.delivered + ends.counts["delivered"],
                rejected=lane_.rejected + ends.counts["rejected"],
                skipped=lane_.skipped + ends.counts["skipped"],
                batches=_without(lane_.batches, ends.dropped),
            )
            if lease is not None:
                new = msgspec.structs.replace(new, leaving=pack_places(places) if places else b"")
            elif ends.leaving or ends.changed or ends.operations:
                new = msgspec.structs.replace(new, touched=lane_.touched + 1)
            if change is not None:
                new = changed(new, change)
            return None if new == lane_ and not ends.operations else new

        self.step("commit")
        after = self.lanes.change(name, edit, ends.operations)
        self._done(name, lease, view, ends, after)
        if lease is None:
            self.rows.recount(name)
            fresh = self.holdings.outside(self.lanes.picture(name) or self.lanes.fetch(name))
            self.lanes.stir(name, self.holdings.first_at(name, fresh))
        elif ends.freed:
            self.lanes.stir(name, self.holdings.first_at(name, view))
        return ends.skipped

    def _looked(self, name: Name, lease: Lease | None) -> tuple[LaneState, View]:
        """The lane, and what is known of its deliveries."""
        lane = self.lanes.picture(name) if lease is not None else None
        if lane is None or lease is None or lane.fence != lease.fence or lane.leaving:
            lane = self.lanes.fetch(name) if lane is None or self.lanes.taken_out.get(name) != lane.leaving else lane
        if lease is None:
            return lane, self.holdings.outside(lane)
        if (lane.fence, lane.owner) != (lease.fence, lease.owner):
            lane = self.lanes.held(lease, self.lanes.fetch(name))
        self.lanes.take_out(lane)
        return lane, self.holdings.view(lease, lane)

    def _require(self, lease: Lease | None, lane: LaneState, seen: LaneState, view: View) -> None:
        """Is the lane still as it was when the deliveries were read?"""
        if lease is None:
            if lane.version != seen.version:
                raise Touched
            return
        self.lanes.held(lease, lane)
        if lane.touched != view.touched or (lane.leaving and lane.leaving != self.lanes.taken_out.get(lane.name)):
            raise Touched

    def _there(
        self,
        name: Name,
        lease: Lease | None,
        lane: LaneState,
        view: View,
        seqs: Collection[int],
        places_: Mapping[int, str],
    ) -> dict[int, Row]:
        """As they lie, those that are there and have not ended."""
        if lease is not None:
            known = view.known(seqs)
            missing = [seq for seq in seqs if seq not in known and not self.rows.ended(name, seq)]
            known |= self.rows.get(name, [places_[seq] for seq in missing if seq in places_])
            return known | self.rows.find(name, [seq for seq in missing if seq not in places_])
        known_at = [self.places[seq] for seq in seqs if seq in self.places]
        places = [where for of, where in known_at if of == name]
        rows = self.rows.get(name, places)
        rows |= self.rows.find(name, [seq for seq in seqs if seq not in self.places])
        leaving = set(unpack_places(lane.leaving))
        return {seq: row for seq, row in rows.items() if row.place not in leaving}

    # Working it out

    def _ends(
        self,
        name: Name,
        lease: Lease | None,
        done: Sequence[tuple[Row, Settled]],
        view: View,
        now: float,
        dead_ids: dict[int, int],
    ) -> Ends:
        seen = {row.seq: row for row in in_batches([row for row, _ in done], view.batches.values())}
        members = {batch.batch: dict(batch.members) for batch in view.batches.values()}
        counts = dict.fromkeys(KINDS, 0)
        new: dict[int, Row] = {}
        for row, settled in done:
            counts[settled.kind] += 1
            was = seen[row.seq]
            if was.batch is not None:
                members[was.batch].pop(row.seq, None)
            if settled.kind == "later":
                tries = tried(was.tries, now, settled.reason)
                batch = view.batches.get(settled.batch or "")
                if batch is not None and batch.action == row.action:
                    members[batch.batch][row.seq] = Member(row.place, settled.due_at, settled.attempts, tries)
                else:
                    new[row.seq] = msgspec.structs.replace(
                        row, due_at=settled.due_at, attempts=settled.attempts, tries=tries, timed=True
                    )
        ended = {row.seq: settled.kind == "rejected" for row, settled in done if settled.kind != "later"}
        waiting = self._waiting(name, [row for row, settled in done if settled.kind != "later"], ended)
        waits = {seq: wait for seq, row in waiting.items() if (wait := row.wait) is not None}
        left, skipped = follow(ended, waits)
        for seq, wait in left.items():
            row = new.get(seq, waiting[seq])
            new[seq] = msgspec.structs.replace(
                row, after=frozenset(each for each in row.after if seq_of(each) in wait.after), timed=True
            )
        gone = [waiting[seq] for seq in skipped]
        for row in gone:
            counts["skipped"] += 1
            new.pop(row.seq, None)
            for each in members.values():
                each.pop(row.seq, None)
        letters = self._letters(name, done, seen, waiting, followers(skipped, waits), now, dead_ids)
        operations: list[Item] = []
        for letter in letters.values():
            operations.append({"Put": {"Item": letter_item(letter)}})
            operations.append({"Put": {"Item": pointer_key(letter.dead)}})
        changed_ = [self._rewritten(name, row, operations) for row in new.values()]
        leaving = [row for row, settled in done if settled.kind != "later"] + gone
        if lease is None:
            operations += [there({"Delete": {"Key": row_key(name, row.place)}}, row) for row in leaving]
        batches, dropped = self._batches(name, view, members, operations)
        return Ends(
            operations,
            leaving,
            changed_,
            counts,
            batches,
            dropped,
            freed=bool(gone) or any(not wait.after for wait in left.values()),
            skipped=[
                Skipped(seq, waiting[seq].action, f"{letters[root].dead.action} was rejected", waiting[seq].event_id)
                for seq, root in skipped.items()
            ],
        )

    def _waiting(self, name: Name, rows: Collection[Row], ended: Collection[int]) -> dict[int, Row]:
        """Those that wait for one of these, and those that wait for them."""
        found: dict[int, Row] = {}
        places = {where for row in rows for where in row.waiters}
        while places:
            new = self.rows.get(name, sorted(places))
            new = {seq: row for seq, row in new.items() if seq not in found and seq not in ended and row.after}
            found |= new
            places = {where for row in new.values() for where in row.waiters}
        return dict(sorted(found.items()))

    def _letters(
        self,
        name: Name,
        done: Sequence[tuple[Row, Settled]],
        seen: Mapping[int, Row],
        waiting: Mapping[int, Row],
        theirs: Mapping[int, Mapping[int, Wait]],
        now: float,
        dead_ids: dict[int, int],
    ) -> dict[int, Letter]:
        rejected = [(seen[row.seq], settled) for row, settled in done if settled.kind == "rejected"]
        unnamed = [row.seq for row, _ in rejected if row.seq not in dead_ids]
        if unnamed:
            first = self.new_dead(len(unnamed))
            dead_ids |= {seq: dead_id for dead_id, seq in enumerate(unnamed, first)}
        found = {}
        for row, settled in rejected:
            dead = Dead(
                id=dead_ids[row.seq],
                connector=name[0],
                client=name[1],
                action=row.action,
                delivery_id=row.id,
                event_id=row.event_id,
                key=row.key,
                body=row.body,
                reason=settled.reason,
                code=settled.code,
                attempts=max(row.attempts, settled.attempts),
                received_at=row.received_at,
                at=now,
                expected=settled.expected,
                trace=settled.trace,
                tries=row.tries,
            )
            kept = tuple(_follower(waiting[seq], wait) for seq, wait in theirs.get(row.seq, {}).items())
            found[row.seq] = Letter(dead, kept)
        return found

    @staticmethod
    def _rewritten(name: Name, row: Row, operations: list[Item]) -> Row:
        new = msgspec.structs.replace(row, version=row.version + 1)
        operations.append(there({"Put": {"Item": row_item(name, new)}}, row))
        return new

    @staticmethod
    def _batches(
        name: Name, view: View, members: Mapping[str, dict[int, Member]], operations: list[Item]
    ) -> tuple[dict[str, Batch], list[Batch]]:
        """What changes in the half-done batches, into the operations; (as they are then, those that are over)."""
        kept, dropped = {}, []
        for batch in view.batches.values():
            new = msgspec.structs.replace(batch, members=members[batch.batch], version=batch.version + 1)
            if not new.members:
                dropped.append(batch)
                operations.append({"Delete": _same({"Key": batch_key(name, batch.batch)}, batch)})
            elif new.members != batch.members:
                kept[batch.batch] = new
                operations.append({"Put": _same({"Item": batch_item(name, new)}, batch)})
            else:
                kept[batch.batch] = batch
        return kept, dropped

    # Afterwards

    def _done(self, name: Name, lease: Lease | None, view: View, ends: Ends, lane: LaneState) -> None:
        gone = [row.seq for row in ends.leaving]
        self.rows.end(name, gone)
        for row in ends.changed:
            self.rows.left(name, row)
        self.rows.counted(name, -len(gone))
        view.left(gone, ends.changed)
        view.batches = ends.batches
        if lease is not None:
            self.step("apply")
            self.lanes.take_out(lane)
        self._clear([(name, batch) for batch in ends.dropped])
        self.step("done")

    def _clear(self, batches: Sequence[tuple[Name, Batch]]) -> None:
        """What a batch had saved, and nobody can read any more."""
        keys = [part_key(name, batch.saved, part) for name, batch in batches for part in range(batch.parts)]
        self.table.write({"DeleteRequest": {"Key": key}} for key in keys)

    # Half-done batches

    def save_progress(self, lease: Lease | None, progress: Progress, seqs: Sequence[int]) -> None:
        if lease is not None:
            names = [(lease.connector, lease.client)]
        else:
            names = list(self.located(seqs))
        for name in names:
            for _ in self.table.patiently(f"the deliveries of {'/'.join(name)} are changed by others all the time"):
                try:
                    self._save(name, lease, progress, seqs)
                    break
                except (Touched, Unmet):
                    self.holdings.drop(name)

    def _save(self, name: Name, lease: Lease | None, progress: Progress, seqs: Sequence[int]) -> None:
        lane, view = self._looked(name, lease)
        there_ = self._there(name, lease, lane, view, seqs, {})
        rows = [row for row in in_batches(there_.values(), view.batches.values()) if row.action == progress.action]
        if lease is None and not rows:
            return
        before = view.batches.get(progress.batch)
        members = {batch.batch: dict(batch.members) for batch in view.batches.values()}
        ours = members.pop(progress.batch, {})
        if before is not None and before.action != progress.action:
            ours = {}
        for row in rows:
            for each in members.values():
                each.pop(row.seq, None)
            ours[row.seq] = Member(row.place, row.due_at, row.attempts, row.tries)
        operations: list[Item] = []
        view_batches = {batch: view.batches[batch] for batch in members}
        kept, dropped = self._batches(name, _Of(view_batches), members, operations)  # type: ignore[arg-type]
        saved = Batch(
            progress.batch,
            progress.action,
            dict(sorted(ours.items())),
            os.urandom(8).hex(),
            0,
            before.version + 1 if before is not None else 1,
        )
        if ours:
            parts = progress_items(name, saved.saved, progress)
            self.table.write({"PutRequest": {"Item": item}} for item in parts)
            saved = msgspec.structs.replace(saved, parts=len(parts))
            operations.append({"Put": _same({"Item": batch_item(name, saved)}, before)})

        def edit(lane_: LaneState) -> LaneState | None:
            self._require(lease, lane_, lane, view)
            if not ours:
                return None
            batches = _without(lane_.batches, dropped)
            if before is None:
                batches = (*batches, (saved.batch, saved.action))
            return msgspec.structs.replace(lane_, batches=batches, touched=lane_.touched + (lease is None))

        self.step("save")
        self.lanes.change(name, edit, operations)
        view.batches = kept | ({saved.batch: saved} if ours else {})
        self._clear([(name, each) for each in [*dropped, *([before] if before is not None and ours else [])]])


class _Of(NamedTuple):
    batches: dict[str, Batch]


def fits(operations: Sequence[Item]) -> bool:
    """Into one transaction, with the lane."""
    puts = (operation["Put"]["Item"] for operation in operations if "Put" in operation)
    return len(operations) < MOST_IN_TRANSACTION and sum(map(item_size, puts)) < MOST_BYTES + MAX_ITEM


def there(operation: Item, row: Row) -> Item:
    """Only while the delivery is as it was read."""
    ((verb, given),) = operation.items()
    if row.version > 1:
        return {verb: conditional(given, "v = :v", {":v": {"N": str(row.version)}}, None)}
    return {verb: conditional(given, "attribute_exists(pk) AND attribute_not_exists(v)", None, None)}


def _same(given: Item, batch: Batch | None) -> Item:
    if batch is None:
        return conditional(given, "attribute_not_exists(pk)", None, None)
    return conditional(given, "v = :v", {":v": {"N": str(batch.version)}}, None)


def _without(batches: tuple[tuple[str, str], ...], dropped: Collection[Batch]) -> tuple[tuple[str, str], ...]:
    over = {batch.batch for batch in dropped}
    return tuple(each for each in batches if each[0] not in over)


def _follower(row: Row, wait: Wait) -> Follower:
    at = {seq_of(where): where for where in row.after}
    return Follower(
        row.id,
        row.action,
        row.key,
        tuple(sorted(each for each in wait.after if each >= 0)),
        tuple(sorted(at.get(-each, place("", -each)) for each in wait.after if each < 0)),
        wait.past_rejected,
    )


__all__ = ["Settling", "Touched", "there"]
