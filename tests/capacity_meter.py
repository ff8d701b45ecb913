"""What DynamoDB bills: the units that it reports for each call, and those that its rules give for what was sent."""

from __future__ import annotations

import threading
from collections import Counter
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.stores.dynamodb.items import item_size

if TYPE_CHECKING:
    from engine.stores.dynamodb.table import Table


class Units(NamedTuple):
    writes: float = 0.0
    reads: float = 0.0


class Meter:
    """
    Counts from now on. `reported`: as the server says; `by_rule`: from the sizes of what was sent and came back, for
    servers that do not count. Both by the verb.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.reported: Counter[tuple[str, str]] = Counter()
        self.by_rule: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[str] = Counter()
        self._gate = threading.Lock()  # a store calls from several threads, and += may lose what another adds
        inner = table.call

        def call(verb: str, **given: Any) -> dict[str, Any]:
            with self._gate:
                self.calls[verb] += 1
            if verb in BILLED:
                given["ReturnConsumedCapacity"] = "INDEXES"
            reply = inner(verb, **given)
            if verb in BILLED:
                with self._gate:
                    self._count(verb, given, reply)
            return reply

        table.call = call  # type: ignore[method-assign]

    def units(self, *, by_rule: bool = False) -> Units:
        counted = self.by_rule if by_rule else self.reported
        return Units(*(sum(many for (_, of), many in counted.items() if of == kind) for kind in ("writes", "reads")))

    def _count(self, verb: str, given: dict[str, Any], reply: dict[str, Any]) -> None:
        told = reply.get("ConsumedCapacity", [])
        for each in told if isinstance(told, list) else [told]:
            self.reported[verb, kind_of(verb)] += each["CapacityUnits"]
        self.by_rule[verb, kind_of(verb)] += self._rule(verb, given, reply)

    def _rule(self, verb: str, given: dict[str, Any], reply: dict[str, Any]) -> float:
        """Without the index, whose units hang on what stood there before."""
        match verb:
            case "put_item":
                return written(given["Item"])
            case "batch_write_item":
                (requests,) = given["RequestItems"].values()
                return sum(written(each["PutRequest"]["Item"]) if "PutRequest" in each else 1 for each in requests)
            case "transact_write_items":
                return sum(2 * written(op["Put"]["Item"]) if "Put" in op else 2 for op in given["TransactItems"])
            case "get_item":
                return read([reply["Item"]] if "Item" in reply else [], consistent=given.get("ConsistentRead"))
            case "batch_get_item":
                ((_, found),) = reply["Responses"].items() or [("", [])]
                (asked,) = given["RequestItems"].values()
                return sum(read([item], consistent=asked.get("ConsistentRead")) for item in found)
            case "query":
                return read(reply.get("Items", []), consistent=given.get("ConsistentRead"))
        return 1


BILLED = {
    "put_item": "writes",
    "update_item": "writes",
    "delete_item": "writes",
    "batch_write_item": "writes",
    "transact_write_items": "writes",
    "get_item": "reads",
    "batch_get_item": "reads",
    "query": "reads",
}


def kind_of(verb: str) -> str:
    return BILLED[verb]


def written(item: dict[str, Any]) -> int:
    return ceil(item_size(item) / 1024)


def read(items: list[dict[str, Any]], *, consistent: bool | None) -> float:
    return max(1, ceil(sum(map(item_size, items)) / 4096)) * (1.0 if consistent else 0.5)
