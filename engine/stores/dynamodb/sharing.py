"""What processes share beside the lanes: tokens, locks, slots, and how much of a rate is used up."""

from __future__ import annotations

import zlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.errors import TokenUnreadable
from engine.records import TokenRow
from engine.stores.dynamodb.items import number, packed, read_number, text_key, unpacked
from engine.stores.dynamodb.table import Table, Unmet
from engine.stores.rules import refuse_impossible, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.privacy.people import Subject
    from engine.stores.dynamodb.table import Item

SHARDS = 8  # of the limits; one partition takes 1,000 writes a second
MOST_USES = 512  # moments that a limit keeps apart

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_values = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_decode_uses = msgspec.json.Decoder(list[tuple[float, int]]).decode
_NAMES = {"#owner": "owner", "#until": "until"}


class Cipher(Protocol):
    """What keeps tokens unreadable in the table."""

    def encrypt(self, data: bytes, /) -> bytes:
        """Bytes that only `decrypt` can read."""

    def decrypt(self, data: bytes, /) -> bytes:
        """What was encrypted; raises if it was by another key."""


class Tokens:
    """One for a store."""

    def __init__(self, table: Table, cipher: Cipher | None) -> None:
        self.table, self.cipher = table, cipher

    def token(self, name: str) -> TokenRow | None:
        item = self.table.get(_key("token", name))
        if item is None:
            return None
        return TokenRow(
            self._unsealed(unpacked(item["saved"]), name),
            float(item["obtained_at"]["N"]),
            read_number(item, "expires_at"),
            item["fingerprint"]["S"],
        )

    def names(self) -> list[tuple[str, str, str]]:
        """(connector, client, name) of each."""
        items = self.table.query("pk = :pk", {":pk": {"S": "token"}}, ConsistentRead=True)
        parts = (item["name"]["S"].split("/", 2) for item in items)
        return sorted((connector, client, name) for connector, client, name in parts)

    def save(self, name: str, row: TokenRow) -> None:
        saved = _encode(row.values)
        item = _key("token", name) | {
            "name": {"S": name},
            "saved": packed(saved if self.cipher is None else self.cipher.encrypt(saved)),
            "obtained_at": number(row.obtained_at),
            "fingerprint": {"S": row.fingerprint},
        }
        if row.expires_at is not None:
            item["expires_at"] = number(row.expires_at)
        self.table.put(item)

    def _unsealed(self, saved: bytes, name: str) -> dict[str, Any]:
        try:
            return _decode_values(saved if self.cipher is None else self.cipher.decrypt(saved))
        except Exception as error:  # a cipher has its own exceptions
            raise TokenUnreadable(
                f"{self.table}: the token {name} can't be decrypted; is the key the one it was saved with?"
            ) from error

    def lock(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        until = now + ttl_s
        item = _key("lock", name) | {"owner": {"S": owner}, "until": number(until), "ttl": _ttl(until)}
        values = {":now": number(now), ":owner": {"S": owner}}
        try:
            self.table.put(item, "attribute_not_exists(pk) OR #until <= :now OR #owner = :owner", values, _NAMES)
        except Unmet:
            return False
        return True

    def unlock(self, name: str, *, owner: str) -> None:
        self._let_go(_key("lock", name), owner)

    def _let_go(self, key: Item, owner: str) -> bool:
        given = {
            "Key": key,
            "ConditionExpression": "#owner = :owner",
            "ExpressionAttributeNames": {"#owner": "owner"},
            "ExpressionAttributeValues": {":owner": {"S": owner}},
        }
        try:
            self.table.call("delete_item", **given)
        except Unmet:
            return False
        return True

    def reclaim(self, gone: Callable[[str], bool]) -> None:
        for item in self.table.query("pk = :pk", {":pk": {"S": "lock"}}, ConsistentRead=True):
            if gone(item["owner"]["S"]):
                self._let_go({"pk": item["pk"], "sk": item["sk"]}, item["owner"]["S"])


class Limits:
    """One for a store."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def take(self, name: str, *, count: int, per_s: float, now: float, cost: int) -> float:
        refuse_impossible(name, count=count, cost=cost)
        key = _shard_key(name)
        for _ in self.table.patiently(f"the limit {name} is used by others all the time"):
            item = self.table.get(key)
            version = int(item["v"]["N"]) if item is not None else 0
            uses = _decode_uses(unpacked(item["uses"])) if item is not None else []
            uses = [(at, spent) for at, spent in uses if at + per_s > now]
            room = count - sum(spent for _, spent in uses)
            for at, spent in uses:
                if room >= cost:
                    break
                room += spent
                if room >= cost:
                    return wait_until(at + per_s, now)
            last_at, last_spent = uses[-1] if uses else (now, 0)
            at = max(now, last_at)  # clocks differ; the log must not go back
            uses[-1:] = [(at, last_spent + cost)] if at == last_at else [*uses[-1:], (at, cost)]
            until = at + per_s
            new = key | {"name": {"S": name}, "uses": packed(_encode(_fewer(uses))), "ttl": _ttl(until)}
            if self._swapped(new, version):
                return 0.0
        raise AssertionError

    def acquire(self, name: str, *, slots: int, owner: str, ttl_s: float, now: float) -> bool:
        key = _slots_key(name)
        for _ in self.table.patiently(f"the slots of {name} are used by others all the time"):
            version, held = self._held(key)
            held = {holder: until for holder, until in held.items() if until > now and holder != owner}
            if len(held) >= slots:
                return False
            held[owner] = now + ttl_s
            if self._keep(key, name, version, held):
                return True
        raise AssertionError

    def used(self, name: str, *, per_s: float, now: float) -> tuple[int, float | None]:
        item = self.table.get(_shard_key(name))
        uses = _decode_uses(unpacked(item["uses"])) if item is not None else []
        uses = [(at, spent) for at, spent in uses if at + per_s > now]
        return sum(spent for _, spent in uses), uses[0][0] if uses else None

    def held(self, name: str, *, now: float) -> int:
        return sum(until > now for until in self._held(_slots_key(name))[1].values())

    def release(self, name: str, gone: Callable[[str], bool]) -> None:
        """Give back the slots of these owners."""
        key = _slots_key(name)
        for _ in self.table.patiently(f"the slots of {name} are used by others all the time"):
            version, held = self._held(key)
            left = {holder: until for holder, until in held.items() if not gone(holder)}
            if left == held or self._keep(key, name, version, left):
                return

    def reclaim(self, gone: Callable[[str], bool]) -> None:
        for name, item in self._named():
            if "held" in item:
                self.release(name, gone)

    def forget(self, person: Subject, named_by: Callable[[Subject, str], bool], *, dry: bool) -> int:
        """The limits and slots that count for this person alone; how many names."""
        theirs = [(name, item) for name, item in self._named() if named_by(person, name)]
        for _, item in () if dry else theirs:
            self.table.delete({"pk": item["pk"], "sk": item["sk"]})
        return len({name for name, _ in theirs})

    def _named(self) -> Iterator[tuple[str, Item]]:
        for shard in range(SHARDS):
            for item in self.table.query("pk = :pk", {":pk": {"S": f"limit#{shard}"}}, ConsistentRead=True):
                yield item["name"]["S"], item

    def _held(self, key: Item) -> tuple[int, dict[str, float]]:
        item = self.table.get(key)
        if item is None:
            return 0, {}
        return int(item["v"]["N"]), {owner: float(until["N"]) for owner, until in item["held"]["M"].items()}

    def _keep(self, key: Item, name: str, version: int, held: dict[str, float]) -> bool:
        until = max(held.values(), default=0.0)
        item = key | {"name": {"S": name}, "held": {"M": {owner: number(at) for owner, at in held.items()}}}
        return self._swapped(item | {"ttl": _ttl(until)}, version)

    def _swapped(self, item: Item, version: int) -> bool:
        item = item | {"v": number(version + 1)}
        try:
            if version:
                self.table.put(item, "v = :v", {":v": number(version)})
            else:
                self.table.put(item, "attribute_not_exists(pk)")
        except Unmet:
            return False
        return True


def _fewer(uses: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Neighbours as one, that counts till the later of them is over: never more than the limit in any window."""
    while len(uses) > MOST_USES:
        pairs = [uses[at : at + 2] for at in range(0, len(uses), 2)]
        uses = [(pair[-1][0], sum(spent for _, spent in pair)) for pair in pairs]
    return uses


def _key(kind: str, name: str) -> Item:
    return {"pk": {"S": kind}, "sk": {"S": name if 0 < len(name.encode()) < 1000 else f"#{text_key(name)}"}}


def _shard_key(name: str, kind: str = "u") -> Item:
    return _key(f"limit#{zlib.crc32(name.encode()) % SHARDS}", f"{kind}#{name}")


def _slots_key(name: str) -> Item:
    return _shard_key(name, "s")


def _ttl(until: float) -> Item:
    """DynamoDB takes it away some time after."""
    return {"N": str(int(until) + 3600)}
