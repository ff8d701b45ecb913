"""Dead letters: one partition of the table, in the order of their ids."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from engine.records import Delivery
from engine.stores.dynamodb.items import (
    LETTERS,
    LaneState,
    Letter,
    Row,
    action_of,
    letter_item,
    letter_key,
    place,
    pointer_key,
    read_letter,
    row_item,
    seq_of,
    text_key,
)
from engine.stores.dynamodb.settling import there
from engine.stores.dynamodb.table import Unmet
from engine.stores.rules import tried

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from engine.records import Dead, Which
    from engine.stores.dynamodb.items import Name
    from engine.stores.dynamodb.lanes import Lanes
    from engine.stores.dynamodb.rows import Rows
    from engine.stores.dynamodb.settling import Settling
    from engine.stores.dynamodb.table import Item, Table

LAST = 2**63 - 1  # no id is beyond it
TOLD = {"connector": "connector", "client": "client", "action": "action", "reason": "reason", "code": "code"}
SAME = {"connector": "connector", "client": "client", "action": "action", "code": "code", "key": "k", "event_id": "e"}


class Letters:
    """One for a store."""

    def __init__(
        self,
        table: Table,
        lanes: Lanes,
        rows: Rows,
        settling: Settling,
        *,
        new_seq: Callable[[int], int],
        new_dead: Callable[[int], int],
    ) -> None:
        self.table, self.lanes, self.rows, self.settling = table, lanes, rows, settling
        self.new_seq, self.new_dead = new_seq, new_dead

    # Reading

    def one(self, dead_id: int) -> Letter | None:
        item = self.table.get(letter_key(dead_id)) if dead_id >= 0 else None
        return None if item is None else read_letter(item)

    def items(self, after: int = 0, *, newest: bool = False, **given: Any) -> Iterator[Item]:
        condition = "pk = :pk AND sk > :after"
        if newest:
            condition, given["ScanIndexForward"] = "pk = :pk AND sk < :after", False
            after = after or LAST
        values = {":pk": LETTERS, ":after": {"S": f"{max(after, 0):019d}"}}
        for page in self.table.pages(condition, values, ConsistentRead=True, **given):
            yield from page["Items"]

    def dead(self, which: Which, *, limit: int, after: int, newest: bool = False) -> list[Dead]:
        found: list[Dead] = []
        lane = (which.get("connector"), which.get("client"))
        if (event_id := which.get("event_id")) is not None and None not in lane:
            values = {":pk": {"S": "dead#{}/{}".format(*lane)}, ":of": {"S": f"{text_key(event_id)}#"}}
            pointers = self.table.query("pk = :pk AND begins_with(sk, :of)", values, ConsistentRead=True)
            ids = sorted((seq_of(item["sk"]["S"]) for item in pointers), reverse=newest)
            ids = [dead_id for dead_id in ids if not after or (dead_id < after if newest else dead_id > after)]
            letters = (self.table.get(letter_key(dead_id)) for dead_id in ids)
            return [read_letter(item).dead for item in letters if item is not None and _fits(item, which)][:limit]
        for item in self.items(after, newest=newest):
            if len(found) >= limit:
                break
            if _fits(item, which):
                found.append(read_letter(item).dead)
        return found

    def count(self, by: str, which: Which) -> dict[str, int]:
        names = {f"#{at}": name for at, name in enumerate(sorted({*TOLD.values(), *SAME.values(), "at"}))}
        items = self.items(ProjectionExpression=", ".join(names), ExpressionAttributeNames=names)
        return dict(Counter(item[TOLD[by]]["S"] for item in items if _fits(item, which)))

    def whereabouts(self, delivery_ids: Collection[str]) -> dict[str, str]:
        wanted = set(delivery_ids)
        found: dict[str, str] = {}
        if not wanted:
            return found
        for lane in self.lanes.all():
            found |= {row.id: "waiting" for row in self.rows.all(lane.name) if row.id in wanted}
        ids = (item["i"]["S"] for item in self.items(ProjectionExpression="i"))
        return found | {each: "dead" for each in ids if each in wanted}

    # Back into their lanes

    def requeue(self, dead_ids: Sequence[int], *, now: float) -> int:
        return sum(bool(self.back(dead_id, now, now)) for dead_id in dict.fromkeys(dead_ids))

    def revive(
        self, name: Name, event_id: str, actions: Collection[str], *, now: float, hold_s: float
    ) -> list[Delivery]:
        values = {":pk": {"S": f"dead#{name[0]}/{name[1]}"}, ":of": {"S": f"{text_key(event_id)}#"}}
        found = self.table.query("pk = :pk AND begins_with(sk, :of)", values, ConsistentRead=True)
        revived: list[Delivery] = []
        for dead_id in sorted(seq_of(item["sk"]["S"]) for item in found):
            letter = self.one(dead_id)
            if letter is not None and letter.dead.event_id == event_id and letter.dead.action in actions:
                rows = self.back(dead_id, now, now + hold_s)
                self.settling.remember(name, rows)
                revived += [row.delivery(row.turn_at) for row in rows]
        return revived

    def back(self, dead_id: int, now: float, due_at: float) -> list[Row]:
        """A dead letter and what was skipped for its sake, as deliveries of their lane; none if it is not there."""
        for _ in self.table.patiently(f"the dead letter {dead_id} is changed by others all the time"):
            letter = self.one(dead_id)
            if letter is None:
                return []
            try:
                return self._back(letter, now, due_at)
            except Unmet:
                continue
        raise AssertionError

    def _back(self, letter: Letter, now: float, due_at: float) -> list[Row]:
        dead, theirs = letter.dead, letter.followers
        name = (dead.connector, dead.client)
        first = self.new_seq(1 + len(theirs))
        places = [
            place(action, first + at) for at, action in enumerate([dead.action, *(each.action for each in theirs)])
        ]
        others = self.rows.get(name, [where for each in theirs for where in each.others if action_of(where)])
        waited: dict[int, set[str]] = {}  # by seq of another that is still there: who waits for it
        rows = [
            Row(
                seq=first,
                action=dead.action,
                id=dead.delivery_id,
                event_id=dead.event_id,
                key=dead.key,
                body=dead.body,
                received_at=dead.received_at,
                due_at=due_at,
                again_at=now,
                tries=tried(dead.tries, dead.at, dead.reason),
                waiters=frozenset(places[at] for at, each in enumerate(theirs, 1) if 0 in each.after),
                timed=due_at != now,
            )
        ]
        for at, each in enumerate(theirs, 1):
            still = [where for where in each.others if seq_of(where) in others]
            for where in still:
                waited.setdefault(seq_of(where), set()).add(places[at])
            rows.append(
                Row(
                    seq=first + at,
                    action=each.action,
                    id=each.id,
                    event_id=dead.event_id,
                    key=each.key,
                    body=dead.body,
                    received_at=dead.received_at,
                    due_at=due_at,
                    again_at=now,
                    after=frozenset([*(places[of] for of in each.after), *still]),
                    past_rejected=each.past_rejected,
                    waiters=frozenset(places[of] for of, other in enumerate(theirs, 1) if at in other.after),
                    timed=due_at != now,
                )
            )
        operations: list[Item] = [
            {"Delete": {"Key": letter_key(dead.id), "ConditionExpression": "attribute_exists(pk)"}},
            {"Delete": {"Key": pointer_key(dead)}},
            *({"Put": {"Item": row_item(name, row)}} for row in rows),
        ]
        changed = []
        for seq, places_ in waited.items():
            row = others[seq]
            new = msgspec.structs.replace(row, waiters=row.waiters | places_, version=row.version + 1)
            operations.append(there({"Put": {"Item": row_item(name, new)}}, row))
            changed.append(new)

        def edit(lane: LaneState) -> LaneState:
            return msgspec.structs.replace(
                lane,
                rejected=lane.rejected - 1,
                skipped=lane.skipped - len(theirs),
                touched=lane.touched + bool(changed),
            )

        self.lanes.change(name, edit, operations)
        for row in changed:
            self.rows.left(name, row)
        self.rows.recount(name)
        self.lanes.stir(name, self.settling.holdings.turn_at(name, rows))
        return rows

    # Changed, taken in, gone

    def amend(self, dead_id: int, *, body: bytes, key: str | None) -> bool:
        letter = self.one(dead_id)
        if letter is None:
            return False
        dead = msgspec.structs.replace(letter.dead, body=body, key=key)
        return self.rewrite(msgspec.structs.replace(letter, dead=dead))

    def rewrite(self, letter: Letter) -> bool:
        try:
            self.table.put(letter_item(letter), "attribute_exists(pk)")
        except Unmet:
            return False
        return True

    def admit(self, letters: Sequence[Dead]) -> list[bool]:
        here = set(self.whereabouts([letter.delivery_id for letter in letters]))
        admitted = []
        for letter in letters:
            admitted.append(letter.delivery_id not in here)
            if letter.delivery_id in here:
                continue
            here.add(letter.delivery_id)
            dead = msgspec.structs.replace(letter, id=self.new_dead(1))

            def edit(lane: LaneState) -> LaneState:
                return msgspec.structs.replace(lane, rejected=lane.rejected + 1)

            items = [letter_item(Letter(dead)), pointer_key(dead)]
            self.lanes.change((dead.connector, dead.client), edit, [{"Put": {"Item": item}} for item in items])
        return admitted

    def discard(self, dead_ids: Sequence[int]) -> int:
        gone = 0
        for dead_id in dict.fromkeys(dead_ids):
            letter = self.one(dead_id)
            gone += letter is not None and self.remove(letter.dead)
        return gone

    def remove(self, dead: Dead) -> bool:
        try:
            self.table.delete(letter_key(dead.id), "attribute_exists(pk)")
        except Unmet:
            return False
        self.table.delete(pointer_key(dead))
        return True

    def expire(self, before: float, most: int) -> int:
        wanted, names = "sk, #a, connector, client, e", {"#a": "at"}
        keys: list[tuple[Item, Item]] = []
        for item in self.items(ProjectionExpression=wanted, ExpressionAttributeNames=names):
            if float(item["at"]["N"]) < before and len(keys) < most:
                dead_id = int(item["sk"]["S"])
                of = {
                    "pk": {"S": f"dead#{item['connector']['S']}/{item['client']['S']}"},
                    "sk": {"S": f"{text_key(item['e']['S'])}#{dead_id:019d}"},
                }
                keys.append((letter_key(dead_id), of))
        self.table.write({"DeleteRequest": {"Key": key}} for pair in keys for key in pair)
        return len(keys)


def _fits(item: Item, which: Which) -> bool:
    same = all(
        value is None or item.get(SAME[name], {}).get("S") == value for name, value in which.items() if name in SAME
    )
    since, until, at = which.get("since"), which.get("until"), float(item["at"]["N"])
    return (
        same
        and (which.get("reason") or "") in item["reason"]["S"]
        and (since is None or at >= since)
        and (until is None or at < until)
    )
