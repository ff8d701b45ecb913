"""A lane out of the table and into it, as it stands: with its seqs, and counted by nobody."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from engine.records import Buried, Held, Progress, Remembered, Waiting
from engine.records import Follower as Carriable
from engine.stores.dynamodb.items import (
    Batch,
    Follower,
    LaneState,
    Letter,
    Member,
    Row,
    batch_item,
    batches_of,
    letter_item,
    letter_key,
    mark_item,
    marks_of,
    part_key,
    place,
    pointer_key,
    progress_items,
    read_letter,
    row_item,
    row_key,
    rows_of,
    seq_of,
    text_key,
    unpack_places,
)
from engine.stores.dynamodb.rows import in_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from engine.records import Carried, Lane
    from engine.stores.dynamodb.holding import Holdings
    from engine.stores.dynamodb.items import Name
    from engine.stores.dynamodb.lanes import Lanes
    from engine.stores.dynamodb.letters import Letters
    from engine.stores.dynamodb.rows import Rows
    from engine.stores.dynamodb.table import Item, Table

# A delivery that was due as soon as it was put; the lane's front is told by the order in which such ones came.
AT_ONCE_S = 2.0


class Carrying:
    """One for a store."""

    def __init__(
        self,
        table: Table,
        lanes: Lanes,
        rows: Rows,
        holdings: Holdings,
        letters: Letters,
        *,
        new_dead: Callable[[int], int],
    ) -> None:
        self.table, self.lanes, self.rows, self.holdings, self.letters = table, lanes, rows, holdings, letters
        self.new_dead = new_dead

    # Out

    def count(self, name: Name, now: float) -> Held:
        lane = self.lanes.fetch(name)
        leaving = set(unpack_places(lane.leaving))
        ended = sum(where in leaving for where in self._places(name)) if leaving else 0
        unless_over = {"ExpressionAttributeNames": {"#until": "until"}, "FilterExpression": "#until > :now"}
        return Held(
            self._counted({":pk": rows_of(name)}) - ended,
            len(lane.batches),
            sum(1 for _ in self._letters(name, 0)),
            self._counted({":pk": marks_of(name), ":now": {"N": repr(now)}}, **unless_over),
            max((self.rows.last(name, action) for action in self.rows.actions(name)), default=0),
        )

    def _counted(self, values: Item, **given: Any) -> int:
        pages = self.table.pages("pk = :pk", values, Select="COUNT", ConsistentRead=True, **given)
        return sum(page["Count"] for page in pages)

    def _places(self, name: Name) -> Iterator[str]:
        for page in self.table.pages(
            "pk = :pk", {":pk": rows_of(name)}, ProjectionExpression="sk", ConsistentRead=True
        ):
            yield from (item["sk"]["S"] for item in page["Items"])

    def out(self, name: Name, kind: Any, after: Any, limit: int) -> list[Any]:
        if kind is Waiting:
            return self._waiting(name, after, limit)
        if kind is Buried:
            found: list[Any] = []
            for item in self._letters(name, after):
                if len(found) == limit:
                    break
                found.append(_buried(read_letter(item)))
            return found
        if kind is Progress:
            ids = sorted(batch for batch, _ in self.lanes.fetch(name).batches if batch > after)[:limit]
            batches = self.rows.batches(name, ids)
            return [self.rows.progress(name, batches[each]) for each in ids if each in batches]
        values = {":pk": marks_of(name), ":after": {"S": text_key(after) if after else " "}}
        items = self.table.query("pk = :pk AND sk > :after", values, limit=limit, ConsistentRead=True)
        return [Remembered(item["e"]["S"], float(item["until"]["N"])) for item in items]

    def _letters(self, name: Name, after: int) -> Iterator[Item]:
        for item in self.letters.items(after):
            if (item["connector"]["S"], item["client"]["S"]) == name:
                yield item

    def _waiting(self, name: Name, after: int, limit: int) -> list[Waiting]:
        """Deliveries lie by action: of each so many as may be among the first of all."""
        lane = self.lanes.fetch(name)
        leaving = set(unpack_places(lane.leaving))
        found: list[Row] = []
        for action in self.rows.actions(name):
            seen: list[Row] = []
            more, ended = after, False
            while len(seen) < limit and not ended:
                rows, more, ended = self.rows.scan(name, action, after=more, limit=limit)
                seen += [row for row in rows if row.place not in leaving]
            found += seen
        first = sorted(found, key=lambda row: row.seq)[:limit]
        batches = self.rows.batches(name, [batch for batch, _ in lane.batches]).values() if lane.batches else ()
        return [_carriable(row) for row in in_batches(first, batches)]

    # In

    def make(self, name: Name) -> None:
        self.lanes.change(name, lambda lane: None if lane.version else lane)

    def carry_in(self, name: Name, items: Sequence[Carried]) -> None:
        for item in items:
            if isinstance(item, Progress):
                self._carry_batch(name, item)
        waiting = [item for item in items if isinstance(item, Waiting)]
        if waiting:
            self._carry_rows(name, waiting)
        self.table.write(
            {"PutRequest": {"Item": mark_item(name, item.event_id, item.until)}}
            for item in items
            if isinstance(item, Remembered)
        )
        for item in items:
            if isinstance(item, Buried):
                self._carry_letter(name, item)
        self.lanes.change(name, lambda lane: msgspec.structs.replace(lane, touched=lane.touched + 1))
        self.holdings.drop(name)
        self.rows.recount(name)

    def _carry_batch(self, name: Name, progress: Progress) -> None:
        before = self.rows.batches(name, [progress.batch]).get(progress.batch)
        saved = os.urandom(8).hex()
        parts = progress_items(name, saved, progress)
        self.table.write({"PutRequest": {"Item": item}} for item in parts)
        members = before.members if before is not None else {}
        version = before.version + 1 if before is not None else 1
        self.table.put(batch_item(name, Batch(progress.batch, progress.action, members, saved, len(parts), version)))

        def edit(lane: LaneState) -> LaneState | None:
            if any(batch == progress.batch for batch, _ in lane.batches):
                return None
            return msgspec.structs.replace(lane, batches=(*lane.batches, (progress.batch, progress.action)))

        self.lanes.change(name, edit)
        if before is not None:
            self._delete(part_key(name, before.saved, part) for part in range(before.parts))

    def _carry_rows(self, name: Name, items: Sequence[Waiting]) -> None:
        rows = {item.delivery.seq: _row(item) for item in items}
        wanted = {seq for item in items for seq in item.after or ()}
        earlier = self.rows.find(name, wanted - rows.keys())  # carried before these
        known = earlier | rows
        for item in items:
            places = frozenset(known[seq].place for seq in item.after or () if seq in known)
            rows[item.delivery.seq] = msgspec.structs.replace(rows[item.delivery.seq], after=places)
        changed: dict[int, Row] = {}
        for row in list(rows.values()):
            for seq in map(seq_of, row.after):
                other = rows.get(seq) or changed.get(seq) or earlier[seq]
                new = msgspec.structs.replace(other, waiters=other.waiters | {row.place})
                if seq in rows:
                    rows[seq] = new
                else:
                    changed[seq] = msgspec.structs.replace(new, version=earlier[seq].version + 1)
        self.table.write({"PutRequest": {"Item": row_item(name, row)}} for row in (*rows.values(), *changed.values()))
        for row in changed.values():
            self.rows.left(name, row)
        self._join_batches(name, items)

    def _join_batches(self, name: Name, items: Sequence[Waiting]) -> None:
        members: dict[str, dict[int, Member]] = {}
        for item in items:
            each = item.delivery
            if each.batch is not None:
                where = place(each.action, each.seq)
                member = Member(where, each.due_at, each.attempts, item.tries)
                members.setdefault(each.batch, {})[each.seq] = member
        for batch in self.rows.batches(name, members).values():
            joined = dict(sorted((batch.members | members[batch.batch]).items()))
            self.table.put(batch_item(name, msgspec.structs.replace(batch, members=joined, version=batch.version + 1)))

    def _carry_letter(self, name: Name, item: Buried) -> None:
        dead = item.letter
        values = {":pk": pointer_key(dead)["pk"], ":of": {"S": f"{text_key(dead.event_id)}#"}}
        for pointer in self.table.query("pk = :pk AND begins_with(sk, :of)", values, ConsistentRead=True):
            there = self.letters.one(seq_of(pointer["sk"]["S"]))
            if there is not None and there.dead.delivery_id == dead.delivery_id:
                return
        dead = msgspec.structs.replace(dead, id=self.new_dead(1))
        others = self.rows.find(name, {-at for each in item.followers for at in each.after if at < 0})
        letter = Letter(dead, tuple(_follower(each, others) for each in item.followers))
        self.table.transact([{"Put": {"Item": each}} for each in (letter_item(letter), pointer_key(dead))])

    def carry_away(self, name: Name) -> None:
        def edit(lane: LaneState) -> LaneState:
            return msgspec.structs.replace(lane, batches=(), touched=lane.touched + 1)

        self.lanes.change(name, edit)
        self._delete(row_key(name, where) for where in self._places(name))
        for of in (batches_of(name), marks_of(name)):
            keys = self.table.query("pk = :pk", {":pk": of}, ProjectionExpression="pk, sk", ConsistentRead=True)
            self._delete(keys)
        letters = [read_letter(item).dead for item in self._letters(name, 0)]
        self._delete(key for dead in letters for key in (letter_key(dead.id), pointer_key(dead)))
        self.holdings.drop(name)
        self.rows.recount(name)

    def carry_lane(self, lane: Lane, mark: Item) -> None:
        name = (lane.connector, lane.client)

        def edit(there: LaneState) -> LaneState:
            return msgspec.structs.replace(
                there,
                delivered=there.delivered + lane.delivered,
                rejected=there.rejected + lane.rejected,
                skipped=there.skipped + lane.skipped,
                paused=lane.state == "paused",
                reason=lane.reason,
                not_before=lane.not_before,
                failures=lane.failures,
                failing_since=lane.failing_since,
                touched=there.touched + 1,
            )

        done = self.lanes.change(name, edit, [{"Put": {"Item": mark}}])
        self.rows.recount(name)
        self.lanes.stir(name, self.holdings.first_at(name, self.holdings.outside(done)))

    def _delete(self, keys: Iterable[Item]) -> None:
        self.table.write({"DeleteRequest": {"Key": key}} for key in keys)


def _carriable(row: Row) -> Waiting:
    after = tuple(sorted(map(seq_of, row.after))) if row.after else None
    return Waiting(row.delivery(row.due_at), row.tries, after, row.past_rejected)


def _row(item: Waiting) -> Row:
    each = item.delivery
    at_once = not each.attempts and each.again_at is None and 0 <= each.due_at - each.received_at <= AT_ONCE_S
    return Row(
        seq=each.seq,
        action=each.action,
        id=each.id,
        event_id=each.event_id,
        key=each.key,
        body=each.body,
        received_at=each.received_at,
        due_at=each.due_at,
        attempts=each.attempts,
        again_at=each.again_at,
        tries=item.tries,
        past_rejected=item.past_rejected,
        timed=not at_once,
    )


def _buried(letter: Letter) -> Buried:
    return Buried(
        letter.dead,
        tuple(
            Carriable(
                each.id,
                each.action,
                each.key,
                tuple(sorted([*each.after, *(-seq_of(where) for where in each.others)])),
                each.past_rejected,
            )
            for each in letter.followers
        ),
    )


def _follower(each: Carriable, others: dict[int, Row]) -> Follower:
    return Follower(
        each.delivery_id,
        each.action,
        each.key,
        tuple(at for at in each.after if at >= 0),
        tuple(sorted(others[-at].place for at in each.after if -at in others)),
        each.past_rejected,
    )
