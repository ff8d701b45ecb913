"""A person erased: whole lanes are read for it, and never the whole table."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.privacy.people import Subject
from engine.records import Settled
from engine.stores.dynamodb.items import (
    Batch,
    LaneState,
    Letter,
    Row,
    batch_key,
    mark_key,
    marks_of,
    part_key,
    read_letter,
    row_item,
)
from engine.stores.dynamodb.rows import in_batches
from engine.stores.dynamodb.settling import there
from engine.stores.dynamodb.table import Table, Unmet
from engine.stores.rules import named_by_limit, names_in, without

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from engine.records import Dead
    from engine.stores.dynamodb.items import Name
    from engine.stores.dynamodb.lanes import Lanes
    from engine.stores.dynamodb.letters import Letters
    from engine.stores.dynamodb.rows import Rows
    from engine.stores.dynamodb.settling import Settling
    from engine.stores.dynamodb.sharing import Limits

_encode = msgspec.json.Encoder(decimal_format="number").encode


class _Found(NamedTuple):
    rows: list[tuple[Name, Row]]
    letters: list[Dead]
    named: list[Letter]  # of others, as they stay
    followed: list[Letter]  # of others, whose followers are theirs
    batches: list[tuple[Name, Batch]]
    lanes: list[Name]  # whose reason names them
    marks: list[tuple[Name, str, float]]
    mentioned: int


class People:
    """One for a store."""

    def __init__(
        self, table: Table, lanes: Lanes, rows: Rows, settling: Settling, letters: Letters, limits: Limits
    ) -> None:
        self.table, self.lanes, self.rows = table, lanes, rows
        self.settling, self.letters, self.limits = settling, letters, limits

    def forget(
        self, person: Subject, *, now: float, mentions: bool, client: str | None, dry: bool, counted: Callable[[], None]
    ) -> dict[str, int]:
        """`counted` is called before anything is erased: caches look at how often anybody was."""
        found = self._find(person, client, mentions=mentions)
        limits = 0 if client is not None else self.limits.forget(person, named_by_limit, dry=True)
        if not dry:
            counted()
            self._erase(person, found, now)
            if client is None:
                self.limits.forget(person, named_by_limit, dry=False)
        return {
            "waiting": len(found.rows),
            "dead": len(found.letters),
            "dedupe": sum(until > now for _, _, until in found.marks),
            "progress": len(found.batches),
            "traces": len(found.named),
            "limits": limits,
            "mentioned": found.mentioned,
        }

    # Found

    def _find(self, person: Subject, client: str | None, *, mentions: bool) -> _Found:
        found = _Found([], [], [], [], [], [], [], 0)
        mentioned = 0

        def theirs(key: str | None, body: bytes) -> bool:
            return person.has(key, body) or (mentions and person.named_in(body))

        names = [lane.name for lane in self.lanes.all() if client in (None, lane.client)]
        for name in names:
            for row in self.rows.all(name):
                if theirs(row.key, row.body):
                    found.rows.append((name, row))
                else:
                    mentioned += not person.by_key and person.named_in(row.body)
        for letter in map(read_letter, self.letters.items()):
            dead = letter.dead
            if client not in (None, dead.client):
                continue
            if theirs(dead.key, dead.body):
                found.letters.append(dead)
                continue
            mentioned += not person.by_key and person.named_in(dead.body)
            if names_in(person, dead):
                found.named.append(msgspec.structs.replace(letter, dead=without(person, dead)))
            if any(theirs(each.key, dead.body) for each in letter.followers):
                found.followed.append(letter)
        for name in names:
            self._find_in_lane(person, name, found)
        return found._replace(mentioned=mentioned)

    def _find_in_lane(self, person: Subject, name: Name, found: _Found) -> None:
        lane = self.lanes.fetch(name)
        if lane.reason is not None and person.taken_out(lane.reason) != lane.reason:
            found.lanes.append(name)
        seqs = {row.seq for of, row in found.rows if of == name}
        for batch in self.rows.batches(name, [each for each, _ in lane.batches]).values():
            progress = self.rows.progress(name, batch)
            if seqs & batch.members.keys() or person.named_in(_encode(progress)):
                found.batches.append((name, batch))
        events = {row.event_id for of, row in found.rows if of == name}
        events |= {dead.event_id for dead in found.letters if (dead.connector, dead.client) == name}
        for item in self.table.query("pk = :pk", {":pk": marks_of(name)}, ConsistentRead=True):
            event_id = item["e"]["S"]
            if event_id in events or event_id.casefold() == person.wanted:
                found.marks.append((name, event_id, float(item["until"]["N"])))

    # Erased

    def _erase(self, person: Subject, found: _Found, now: float) -> None:
        for name, batch in found.batches:
            self._disband(name, batch.batch)
        by_lane: dict[Name, list[Row]] = {}
        for name, row in found.rows:
            by_lane.setdefault(name, []).append(row)
        for name, rows in by_lane.items():
            self.settling.remember(name, rows)
            self.settling.settle(None, [Settled(row.seq, "skipped") for row in rows], now=now, change=None)
        for dead in found.letters:
            self.letters.remove(dead)
        mended = {letter.dead.id: letter for letter in found.named}
        for letter in found.followed:
            kept = mended.get(letter.dead.id, letter)
            mended[letter.dead.id] = msgspec.structs.replace(kept, followers=())
        for letter in mended.values():
            self.letters.rewrite(letter)
        for name in found.lanes:
            self.lanes.change(name, lambda lane: _nameless(lane, person))
        keys = [mark_key(name, event_id) for name, event_id, _ in found.marks]
        self.table.write({"DeleteRequest": {"Key": key}} for key in keys)

    def _disband(self, name: Name, batch_id: str) -> None:
        """What a half-done batch remembers may hold the person too: it goes, and the others in it start afresh."""
        for _ in self.table.patiently(f"the batch {batch_id} is changed by others all the time"):
            batch = self.rows.batches(name, [batch_id]).get(batch_id)
            if batch is None:
                return
            places = [member.place for member in batch.members.values()]
            if self._rewritten(name, batch, places):
                break
        stirred = self.settling.holdings.outside(self.lanes.fetch(name))
        self.lanes.stir(name, self.settling.holdings.first_at(name, stirred))

    def _rewritten(self, name: Name, batch: Batch, places: Collection[str]) -> bool:
        """Each keeps what the batch knew of it; in a batch still, it does not matter what stands with it."""
        rows = self.rows.get(name, places)
        items = []
        for row in in_batches(rows.values(), [batch]):
            new = msgspec.structs.replace(row, batch=None, timed=True, version=row.version + 1)
            items.append((there({"Put": {"Item": row_item(name, new)}}, rows[row.seq]), new))

        def edit(lane: LaneState) -> LaneState:
            left = tuple(each for each in lane.batches if each[0] != batch.batch)
            return msgspec.structs.replace(lane, batches=left, touched=lane.touched + 1)

        version = {":v": {"N": str(batch.version)}}
        gone = {
            "Key": batch_key(name, batch.batch),
            "ConditionExpression": "v = :v",
            "ExpressionAttributeValues": version,
        }
        try:
            for start in range(0, len(items), 50):
                self.table.transact([operation for operation, _ in items[start : start + 50]])
                for _, new in items[start : start + 50]:
                    self.rows.left(name, new)
            self.lanes.change(name, edit, [{"Delete": gone}])
        except Unmet:
            return False
        parts = [part_key(name, batch.saved, part) for part in range(batch.parts)]
        self.table.write({"DeleteRequest": {"Key": key}} for key in parts)
        return True


def _nameless(lane: LaneState, person: Subject) -> LaneState | None:
    return None if lane.reason is None else msgspec.structs.replace(lane, reason=person.taken_out(lane.reason))
