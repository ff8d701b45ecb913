"""Lists; a `path` is a text such as 'id' or 'product.id' (keys joined by dots), not an expression."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from engine.errors import BadValue
from engine.functions.definition import function
from engine.functions.values import Scalar, described, identity, in_range, printed

_ITEMS = [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 1}, {"sku": "a", "qty": 1}]


@function("A list: itself, or anything else as its only item.", (("a",), ["a"]), (([1, 2],), [1, 2]))
def list_(subject: Any) -> list[Any]:
    return subject if isinstance(subject, list) else [subject]


@function(
    "The value of a computed key (compared as text) or the item of that index; `other` where there is none.",
    (({"1": "a"}, 1), "a"),
    (({"product_view": "Product View"}, "search", "Other"), "Other"),
    ((["a", "b"], -1), "b"),
    (({"a": 1}, "b"), None),
)
def get(subject: dict[str, Any] | list[Any], key: Scalar | None, other: Any | None = None) -> Any:
    if key is None:
        return other
    found = subject.get(printed(key)) if isinstance(subject, dict) else _item(subject, key)
    return other if found is None else found


@function(
    "The items whose value at `path` equals `value` (types are strict: 1 is not '1').",
    ((_ITEMS, "sku", "a"), [_ITEMS[0], _ITEMS[2]]),
    ((_ITEMS, "sku", "z"), []),
)
def where(subject: list[Any], path: str, value: Any) -> list[Any]:
    return list(_matching(subject, path, value))


@function(
    "The first item whose value at `path` equals `value`, else absent.",
    ((_ITEMS, "sku", "b"), {"sku": "b", "qty": 1}),
    (([{"product": {"id": 7}}], "product.id", 7), {"product": {"id": 7}}),
    ((_ITEMS, "sku", "z"), None),
)
def find(subject: list[Any], path: str, value: Any) -> Any:
    return next(_matching(subject, path, value), None)


@function(
    "Ascending, by the value at `path` if given: all numbers, or all texts by code point; absent ones come last.",
    (([3, 1, 2],), [1, 2, 3]),
    ((_ITEMS, "qty"), [_ITEMS[1], _ITEMS[2], _ITEMS[0]]),
)
def sort(subject: list[Any], path: str | None = None) -> list[Any]:
    pairs = [(item if path is None else _at(item, _keys(path)), item) for item in subject]
    sortable = [pair for pair in pairs if pair[0] is not None]
    _check_comparable([value for value, _ in sortable])
    return [item for _, item in sorted(sortable, key=lambda pair: pair[0])] + [
        item for value, item in pairs if value is None
    ]


@function(
    "Without items that came before, by the value at `path` if given; items without a value there all stay.",
    ((["a", "b", "a"],), ["a", "b"]),
    ((_ITEMS, "sku"), [_ITEMS[0], _ITEMS[1]]),
)
def unique(subject: list[Any], path: str | None = None) -> list[Any]:
    seen = set()
    kept = []
    for item in subject:
        value = item if path is None else _at(item, _keys(path))
        mark = identity(value)
        if mark not in seen or (value is None and path is not None):
            kept.append(item)
        seen.add(mark)
    return kept


@function(
    "One `{key, items}` for each value at `path`, in order of appearance; no `key` for items without a value.",
    (
        (_ITEMS, "sku"),
        [{"key": "a", "items": [_ITEMS[0], _ITEMS[2]]}, {"key": "b", "items": [_ITEMS[1]]}],
    ),
)
def group(subject: list[Any], path: str) -> list[Any]:
    groups: dict[Any, dict[str, Any]] = {}
    for item in subject:
        value = _at(item, _keys(path))
        made = {"items": []} if value is None else {"key": value, "items": []}
        groups.setdefault(identity(value), made)["items"].append(item)
    return list(groups.values())


@function("Lists of `size` items, the last one of what is left.", (([1, 2, 3], 2), [[1, 2], [3]]))
def chunk(subject: list[Any], size: int) -> list[Any]:
    if size < 1:
        raise BadValue(f"`size` is 1 or more, got {size}")
    return [subject[start : start + size] for start in range(0, len(subject), size)]


@function("The first item; absent where the list is empty.", (([1, 2],), 1), (([],), None))
def first(subject: list[Any]) -> Any:
    return subject[0] if subject else None


@function("The last item; absent where the list is empty.", (([1, 2],), 2), (([],), None))
def last(subject: list[Any]) -> Any:
    return subject[-1] if subject else None


@function("How many characters, items or keys.", (("São",), 3), (([1, 2],), 2), (({"a": 1},), 1))
def length(subject: str | list[Any] | dict[str, Any]) -> int:
    return len(subject)


def _item(items: list[Any], key: Scalar) -> Any:
    if isinstance(key, bool) or not isinstance(key, int | Decimal) or key != int(key):
        raise BadValue(f"a whole number is needed for `key` of a list, got {described(key)}")
    index = int(key)
    return items[index] if -len(items) <= index < len(items) else None


def _keys(path: str) -> list[str]:
    keys = path.split(".")
    if "" in keys:
        raise BadValue(f"a path such as 'id' or 'product.id' is needed, got {described(path)}")
    return keys


def _at(item: Any, keys: list[str]) -> Any:
    for key in keys:
        if not isinstance(item, dict):
            return None
        item = item.get(key)
    return item


def _matching(items: list[Any], path: str, value: Any) -> Iterator[Any]:
    keys, wanted = _keys(path), identity(value)
    return (item for item in items if identity(_at(item, keys)) == wanted)


def _check_comparable(values: list[Any]) -> None:
    if all(isinstance(value, str) for value in values) or all(_is_number(value) for value in values):
        return
    odd = next((value for value in values if not isinstance(value, str) and not _is_number(value)), None)
    raise BadValue(f"all numbers or all texts are needed, got {'both' if odd is None else described(odd)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool) and in_range(value)
