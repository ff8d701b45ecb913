"""A mapping takes bounded work and gives bounded output, whatever its spec and its event are: beyond it a reason."""

from __future__ import annotations

from typing import Any

import pytest

from engine import expressions
from engine.errors import BadValue
from engine.expressions import Compiler
from engine.functions import values
from engine.mapping import compile_tree
from engine.notations import semantics
from engine.notations.semantics import TooMuch

FEW = 20_000
ITEMS = [{"n": number, "text": "a"} for number in range(1_000)]
EVENT = {"items": ITEMS, "long": "x," * 5_000, "map": {str(number): number for number in range(1_000)}}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules with smaller caps, so that the tests are quick."""
    monkeypatch.setattr(semantics, "MAX_STEPS", FEW)
    monkeypatch.setattr(semantics, "MAX_NODES", FEW)
    monkeypatch.setattr(semantics, "MAX_WEIGHT", 10 * FEW)
    monkeypatch.setattr(values, "MAX_COMPARED", FEW)
    monkeypatch.setattr(expressions, "_KEPT", {})


def mapped(spec: Any, event: dict[str, Any] | None = None) -> Any:
    compiler = Compiler()
    run = compile_tree(compiler, spec, ["event"], ("record",))
    assert compiler.problems == []
    return run({"event": EVENT if event is None else event})


EACH = "${ event.items }"
STEPS = f"more than {FEW:,} steps; loops within loops over long lists"
PARTS = f"a value with more than {FEW:,} parts or {10 * FEW:,} characters"
TOO_MUCH: dict[str, tuple[Any, str]] = {
    "$each in $each": ({"$each": EACH, "as": "a", "do": {"$each": EACH, "do": "${ a.n }"}}, STEPS),
    "for in for": ("{% for a in event.items %}{% for b in event.items %}{{ b.n }}{% endfor %}{% endfor %}", STEPS),
    "a projection in $each": ({"$each": EACH, "do": "${ event.items[*].n }"}, STEPS),
    "a filter in $each": ({"$each": EACH, "do": "${ event.items[?n > `5000`] }"}, STEPS),
    "a flattening in $each": ({"$each": EACH, "do": "${ event.items[].n }"}, STEPS),
    "a filter in a condition": ({"$each": EACH, "where": "${ event.items[?n > `5000`] }", "do": "${ item.n }"}, STEPS),
    "a function over a list": ({"$each": EACH, "do": "${ length(join(event.items[*].text, '')) }"}, STEPS),
    "a function over a long text": ({"$each": EACH, "do": "${ default(regex(event.long, 'z'), 'none') }"}, STEPS),
    "a function over a large object": ({"$each": EACH, "do": "${ length(urlencode(event.map)) }"}, STEPS),
    "a comparison of lists": ({"$each": EACH, "where": "${ event.items == event.items }", "do": "${ item.n }"}, STEPS),
    "a search for a list": (
        {"$each": EACH, "where": "${ !contains([event.items], `1`) }", "do": "${ item.n }"},
        "contains: lists or objects",
    ),
    "JSON in a condition": ({"$each": EACH, "where": "${ json(event.items) == 'x' }", "do": "${ item.n }"}, STEPS),
    "many patterns": (f"${{ {'regex_replace(' * 3}event.long{', `;`, `.`)' * 3} }}".replace("`", "'"), STEPS),
    "long texts in $each": ({"$each": EACH, "do": "{{ event.long }}{{ item.n }}"}, STEPS),
    "long HTML in $each": ({"$each": EACH, "do": {"$html": "<p>{{ event.long }}</p>"}}, STEPS),
    "long texts in for": ("{% for a in event.items %}{{ event.long | upper }}{% endfor %}", STEPS),
    "the same text often": ({"$each": EACH, "do": "${ event.long }"}, PARTS),
    "the same list often": ({"$each": EACH, "do": "${ event.items }"}, PARTS),
    "two of it, again and again": (f"${{ event.items{' | [@,@]' * 60} }}", PARTS),
    "two of it, searched": ({"a": f"${{ contains(event.items{' | [@,@]' * 60}, `1`) }}"}, "contains: lists or objects"),
    "keys that hold the same": ({str(number): "${ event }" for number in range(40)}, PARTS),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_work_and_output_are_bounded(name: str) -> None:
    spec, why = TOO_MUCH[name]
    with pytest.raises(BadValue) as caught:
        mapped(spec)
    assert caught.value.reason[: len(why)] == why


def test_what_is_equal_and_too_large_is_not_compared() -> None:
    twice = f"event.items{' | [@,@]' * 60}"
    with pytest.raises(TooMuch) as caught:
        mapped({"a": f"${{ ({twice}) == ({twice}) }}"})
    assert caught.value.reason == PARTS


def test_a_value_is_nested_so_deep_and_no_deeper() -> None:
    deep: Any = 1
    for _ in range(semantics.MAX_LEVELS):
        deep = [deep]
    assert mapped("${ event.deep }", {"deep": deep}) == deep
    with pytest.raises(TooMuch) as caught:
        mapped("${ event.deep }", {"deep": [deep]})
    assert caught.value.reason == f"a value nested more than {semantics.MAX_LEVELS} levels deep"


def test_each_run_has_all_its_steps() -> None:
    compiler = Compiler()
    run = compile_tree(compiler, {"$each": EACH, "do": "${ upper(item.text) }"}, ["event"], ("record",))
    assert [len(run({"event": EVENT})) for _ in range(20)] == [1_000] * 20


def test_a_look_into_a_large_table_costs_one_step() -> None:
    assert len(mapped({"$each": EACH, "do": "${ get(event.map, '7') }"})) == 1_000


def test_an_expression_that_takes_too_much_rejects_its_record_and_no_other() -> None:
    from conftest import Shop, Vendor

    text = (
        'actions: {note: {record: {a: {$each: "${ event.list }", as: x, do: {$each: "${ event.list }", do: "${ x }"}}},'
        ' request: {path: /notes, json: "${ record }"}}}'
    )
    shop = Shop(text, vendor=Vendor())
    shop.post({"client": "abc", "id": "1", "list": [1] * 1_000}, {"client": "abc", "id": "2", "list": [1]})
    shop.drain()
    assert (shop.reasons(), shop.sums()["delivered"]) == ({"1": f"actions.note.record.a.do: {STEPS}"}, 1)


def test_many_texts_are_weighed_though_none_of_them_is_a_list() -> None:
    spec = {str(number): "${ event.long }" for number in range(150)}
    with pytest.raises(TooMuch) as caught:
        mapped(spec)
    assert caught.value.reason == PARTS
