from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from conftest import Shop, Vendor, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batching import Batcher, Unit, merge_deep
from engine.errors import BadValue
from engine.expressions import Compiler
from engine.http import Prepared, Reply
from engine.mapping import encode_json
from engine.records import Delivery
from engine.spec.located import read
from engine.spec.types import Batch


def batcher(text: str, *, rows: bool = False, ascii: bool = False) -> Batcher:
    compiler = Compiler()
    made = Batcher(compiler, msgspec.convert(read(text, "f").data, Batch), ("batch",), rows=rows, ascii=ascii)
    assert compiler.problems == []
    return made


def units(made: Batcher, *records: Any, **scope: Any) -> list[Unit]:
    deliveries = (Delivery(at, f"d{at}", f"e{at}", "a", None, b"{}", 0.0, 0.0) for at in range(len(records)))
    return made.units([made.ready(one, dict(scope), record) for one, record in zip(deliveries, records, strict=True)])


def batches(made: Batcher, *records: Any, **scope: Any) -> list[tuple[Any, list[Any]]]:
    return [(group, [unit.record for unit in part]) for group, part in made.cut(units(made, *records, **scope))]


def folded(made: Batcher, *records: Any) -> list[tuple[Any, list[str]]]:
    """Each record with the deliveries that share its outcome."""
    return [(unit.record, [one.id for one in unit.deliveries]) for unit in units(made, *records)]


TEXTS = st.text(max_size=12) | st.sampled_from(["é" * 9, "😀", '"\\\n'])


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), TEXTS | st.integers(), max_size=3) | st.none(), max_size=30),
    st.integers(1, 9),
    st.integers(20, 200),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_count_and_bytes_are_never_exceeded_and_order_is_kept(
    records: list[Any], most: int, size: int, ascii: bool
) -> None:
    made = batcher(f"{{records: {most}, bytes: {size}B}}", ascii=ascii)
    cut = made.cut(units(made, *records))
    assert [one.id for _, part in cut for unit in part for one in unit.deliveries] == [
        f"d{at}" for at in range(len(records))
    ]
    for _, part in cut:
        assert 1 <= len(part) <= most
        assert len(part) == 1 or sum(made.size(unit.record) for unit in part) <= size
    for (_, one), (_, two) in itertools.pairwise(cut):  # no batch is cut before it must be
        assert len(one) == most or sum(made.size(unit.record) for unit in [*one, two[0]]) > size


def test_bytes_beyond_ascii_are_counted_as_they_are_sent() -> None:
    assert batcher("{records: 9}").size({"a": "é😀"}) == len('{"a":"é😀"}'.encode()) + 1
    assert batcher("{records: 9}", ascii=True).size({"a": "é😀"}) == len(r'{"a":"\u00e9\ud83d\ude00"}') + 1


def test_the_vendor_s_maximum_holds_whatever_is_asked_for() -> None:
    made = batcher("{records: 500, bytes: 2MB, max: {records: 200, bytes: 1MB}}")
    assert (made.records, made.bytes) == (200, 1_000_000)
    made = batcher("{records: 50, bytes: 20KB, max: {records: 200, bytes: 1MB}}")
    assert (made.records, made.bytes) == (50, 20_000)


def test_fold_last_keeps_the_last_record_at_the_place_of_the_first() -> None:
    made = batcher("{records: 9, fold: {by: '${ record.e }'}}")
    assert folded(
        made, {"e": "a", "n": 1}, {"e": "b"}, {"n": 2}, {"e": "a", "m": 3}, {"n": 4}, {"e": ""}, {"e": ""}
    ) == [
        ({"e": "a", "m": 3}, ["d0", "d3"]),
        ({"e": "b"}, ["d1"]),
        ({"n": 2}, ["d2"]),
        ({"n": 4}, ["d4"]),
        ({"e": ""}, ["d5"]),
        ({"e": ""}, ["d6"]),
    ]


def test_fold_merge_is_deep_later_wins_lists_are_replaced_nulls_kept() -> None:
    made = batcher("{records: 9, fold: {by: '${ record.e }', keep: merge}}")
    assert folded(
        made,
        {"e": 1, "p": {"x": 1, "y": {"z": 1}}, "l": [1, 2], "q": 1},
        {"e": Decimal("1"), "p": {"y": {"w": 2}}, "l": [3], "q": None},
    ) == [({"e": Decimal("1"), "p": {"x": 1, "y": {"z": 1, "w": 2}}, "l": [3], "q": None}, ["d0", "d1"])]
    assert merge_deep({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
    assert merge_deep({"a": 1}, {"a": {"b": 1}}) == {"a": {"b": 1}}


def test_fold_order_decides_who_is_last_not_arrival() -> None:
    made = batcher("{records: 9, fold: {by: '${ record.e }', order: '${ record.at }'}}")
    late, early, none = {"e": "a", "at": 9}, {"e": "a", "at": Decimal("2.5")}, {"e": "a"}
    assert folded(made, late, early, none) == [(late, ["d2", "d1", "d0"])]
    texts = [{"e": "a", "at": "2026-01-02"}, {"e": "a", "at": "2026-01-01"}]
    assert folded(made, *texts) == [(texts[0], ["d1", "d0"])]


def test_equal_in_order_keeps_arrival() -> None:
    made = batcher("{records: 9, fold: {by: '${ record.e }', order: '${ record.at }'}}")
    assert folded(made, {"e": "a", "at": 1, "n": 1}, {"e": "a", "at": 1, "n": 2}) == [
        ({"e": "a", "at": 1, "n": 2}, ["d0", "d1"])
    ]


def test_group_by_keeps_apart_and_is_known_to_the_batch() -> None:
    made = batcher("{records: 2, group_by: '${ record.t }'}")
    assert batches(made, {"t": "x", "n": 1}, {"t": "y", "n": 2}, {"t": "x", "n": 3}, {"n": 4}, {"t": "x", "n": 5}) == [
        ("x", [{"t": "x", "n": 1}, {"t": "x", "n": 3}]),
        ("x", [{"t": "x", "n": 5}]),
        ("y", [{"t": "y", "n": 2}]),
        (None, [{"n": 4}]),
    ]


def test_groups_are_told_apart_by_kind_not_only_by_text() -> None:
    made = batcher("{records: 9, group_by: '${ record.t }'}")
    assert [group for group, _ in batches(made, {"t": 1}, {"t": "1"}, {"t": True}, {"t": [1]})] == [1, "1", True, [1]]


def test_a_folded_record_is_grouped_by_what_it_became() -> None:
    made = batcher("{records: 9, group_by: '${ record.t }', fold: {by: '${ record.e }', keep: merge}}")
    assert batches(made, {"e": "a", "t": "x"}, {"e": "a", "n": 1}) == [("x", [{"e": "a", "t": "x", "n": 1}])]


def test_unequal_columns_under_rows_are_grouped_apart_never_filled_up() -> None:
    records = [{"a": 1, "b": 1}, {"a": 2}, {"b": 3, "a": 3}, {"a": 4}]
    assert batches(batcher("{records: 9}", rows=True), *records) == [
        (None, [{"a": 1, "b": 1}, {"b": 3, "a": 3}]),
        (None, [{"a": 2}, {"a": 4}]),
    ]
    assert batches(batcher("{records: 9}"), *records) == [(None, records)]


@pytest.mark.parametrize(
    "text",
    [
        "{records: 9, fold: {by: '${ upper(record.e) }'}}",
        "{records: 9, fold: {by: '${ record.x }', order: '${ record.e }'}}",
        "{records: 9, group_by: '${ upper(record.e) }'}",
    ],
)
def test_what_can_not_be_folded_or_grouped_is_that_record_s_own_fault(text: str) -> None:
    made = batcher(text)
    delivery = Delivery(1, "d1", "e1", "a", None, b"{}", 0.0, 0.0)
    with pytest.raises(BadValue):
        made.ready(delivery, {}, {"e": [1], "x": 1})
    made.ready(delivery, {}, {"e": "a", "x": 1})


# --- in the walk ---

BATCHED = """
http: {base_url: https://api.crm.example, json: {ascii: true}}
actions:
  note:
    batch: {records: 50, bytes: 300B}
    record: {id: "${ event.id }", text: "${ event.text }"}
    request: {path: /notes, json: {envelope: "a long word around the records", records: "${ batch.records }"}}
"""


def test_no_body_with_its_envelope_is_above_the_bytes_of_the_batch() -> None:
    shop = Shop(BATCHED)
    shop.post(*({"id": str(at), "text": "é" * (at % 7)} for at in range(60)))
    shop.drain()
    sizes = [len(request.content or b"") for request in shop.vendor.asked]
    assert max(sizes) <= 300
    assert len(sizes) < 25
    assert sorted(int(one["id"]) for body in shop.vendor.bodies for one in body["records"]) == list(range(60))
    assert shop.sums() == {"delivered": 60}


def test_a_record_that_alone_is_above_the_bytes_is_rejected_and_its_neighbours_are_sent() -> None:
    shop = Shop(BATCHED)
    shop.post({"id": "1"}, {"id": "2", "text": "x" * 400}, {"id": "3"})
    shop.drain()
    assert shop.sums() == {"delivered": 2, "rejected": 1}
    assert shop.reasons() == {"2": "request: a body of 478 bytes; 300 is the most"}


def test_a_record_that_can_not_be_folded_is_rejected_and_its_neighbours_are_sent() -> None:
    shop = Shop(
        """
actions:
  note:
    batch: {records: 50, fold: {by: "${ lower(record.email) }", keep: merge}}
    record: {email: "${ event.email }", n: "${ event.n }"}
    request: {path: /notes, json: "${ batch.records }"}
"""
    )
    shop.post({"id": "1", "email": "A", "n": 1}, {"id": "2", "email": ["A"]}, {"id": "3", "email": "a"})
    shop.drain()
    assert shop.vendor.bodies == [[{"email": "a", "n": 1}]]
    assert shop.sums() == {"delivered": 2, "rejected": 1}
    assert shop.reasons()["2"].startswith("actions.note.batch.fold.by: lower: ")


def test_folded_deliveries_share_their_record_s_outcome() -> None:
    def answer(request: Prepared) -> Reply:
        import json

        return reply(200, [{"ok": one["email"] == "a"} for one in json.loads(request.content or b"")])

    shop = Shop(
        """
actions:
  note:
    batch: {records: 50, fold: {by: "${ record.email }"}}
    record: {email: "${ event.email }"}
    request: {path: /notes, json: "${ batch.records }"}
    results: {at: "${ response.body }", ok: "${ result.ok }"}
""",
        vendor=Vendor(answer=answer),
    )
    shop.post(*({"id": str(at), "email": "ab"[at % 2]} for at in range(6)))
    shop.drain()
    assert shop.sums() == {"delivered": 3, "rejected": 3}
    assert sorted(shop.reasons()) == ["1", "3", "5"]
    assert encode_json(shop.vendor.bodies) == b'[[{"email":"a"},{"email":"b"}]]'
