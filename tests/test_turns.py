"""Lanes that compute one after the other, and how far ahead each reads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from conftest import Shop, Vendor, reply

from engine.turns import Alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.http import Prepared, Reply

LONG_S = 10.0  # that nobody waits for in earnest
LOOKED_UP = """
actions:
  note:
    lookups:
      who:
        key: ${ event.id }
        sources: {all: {request: {method: GET, path: /who, query: {id: '${ key }'}}, rows: '${ response.body.rows }'}}
    record: {id: '${ event.id }'}
    request: {path: /notes, json: '${ record }'}
"""
GROUPED = """
actions:
  note:
    record: {id: '${ event.id }', kind: '${ event.kind }'}
    batch: {records: 2, group_by: '${ record.kind }'}
    request: {path: /notes, json: "${ batch.records }"}
"""
KNOWN = """
actions:
  note:
    lookups:
      who:
        keys: ${ event.id }
        sources:
          all:
            request: {method: GET, path: /who, query: {ids: "${ join(batch.keys, ',') }"}}
            rows: ${ response.body.rows }
            row_key: ${ row.id }
    record: {id: '${ lookups.who.id }'}
    batch: {records: 2, group_by: '${ client.name }'}
    request: {path: /notes, json: "${ batch.records }"}
"""


def beside(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_one_computes_at_a_time_and_the_next_when_it_has_left() -> None:
    lock, began = threading.Lock(), threading.Event()
    one, other = Alone(lock, LONG_S), Alone(lock, LONG_S)

    def compute() -> None:
        with other:
            began.set()

    with one:
        thread = beside(compute)
        assert not began.wait(0.05)
    thread.join(LONG_S)
    assert began.is_set()
    assert not lock.locked()


def test_while_one_is_away_another_computes() -> None:
    lock, seen = threading.Lock(), []
    one, other = Alone(lock, LONG_S), Alone(lock, LONG_S)

    def compute() -> None:
        with other:
            seen.append("another")

    with one:
        with one.away():
            beside(compute).join(LONG_S)
        seen.append("one again")
        assert lock.locked()
    assert seen == ["another", "one again"]
    assert not lock.locked()


def test_who_has_waited_long_enough_computes_all_the_same() -> None:
    lock, seen = threading.Lock(), []
    one, other = Alone(lock, LONG_S), Alone(lock, 0.01)

    def compute() -> None:
        with other:
            seen.append("another")

    with one:
        beside(compute).join(LONG_S)
        assert lock.locked(), "it did not leave what it had not entered"
    assert seen == ["another"]


def test_while_a_lane_waits_for_its_vendor_others_compute() -> None:
    shop = Shop(LOOKED_UP, vendor=Vendor(answer=lambda request: answer(request)))

    def answer(request: Prepared) -> Reply:
        held[request.url.split("?")[0].rsplit("/", 1)[1]] = shop.worker.computes.locked()
        return reply(200, {"rows": [{"id": "1"}]})

    held: dict[str, bool] = {}
    shop.post({"id": "1"})
    shop.drain()
    assert held == {"who": False, "notes": False}
    assert shop.sums() == {"delivered": 1}


def test_a_lane_reads_and_maps_when_no_other_does() -> None:
    shop = Shop(LOOKED_UP, vendor=Vendor(answer=lambda _: reply(200, {"rows": [{"id": "1"}]})))
    shop.post({"id": "1"})
    with shop.worker.computes:
        thread = beside(shop.drain)
        thread.join(0.05)
        assert shop.vendor.asked == []
    thread.join(LONG_S)
    assert [line.split("?")[0] for line in shop.vendor.lines] == ["GET /v1/who", "POST /v1/notes"]


def test_where_batches_come_out_full_no_more_than_one_is_read_ahead_and_else_more() -> None:
    shop = Shop(GROUPED)
    kinds = "a" * 14 + "ab" * 8
    shop.post(*({"id": str(at), "kind": kind} for at, kind in enumerate(kinds)))
    read: list[int] = []
    reading = shop.store.read

    def counted(*arguments: object, limit: int, now: float) -> object:
        read.append(limit)
        return reading(*arguments, limit=limit, now=now)  # type: ignore[arg-type]

    shop.store.read = counted  # type: ignore[method-assign,assignment]
    shop.drain()
    assert read == [10, 2, 2, 2, 10, 10]
    assert ["".join(record["kind"] for record in body) for body in shop.vendor.bodies] == (
        ["aa"] * 7 + ["a", "b"] + ["aa", "aa", "a", "bb", "bb", "b"] + ["aa", "bb"]
    )


def test_one_look_up_answers_for_several_batches_also_where_these_come_out_full() -> None:
    rows = [{"id": str(at)} for at in range(1, 21)]
    shop = Shop(KNOWN, vendor=Vendor(answer=lambda _: reply(200, {"rows": rows})))
    shop.post_many(20)
    shop.drain()
    one_for_five = ["GET /v1/who", *["POST /v1/notes"] * 5]
    assert [line.split("?")[0] for line in shop.vendor.lines] == one_for_five * 2
