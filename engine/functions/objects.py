"""Objects: keys and what stands at them; the order of keys is kept."""

from typing import Any

from engine.errors import BadValue
from engine.functions.definition import function
from engine.functions.values import Budget, capped_items, described


@function("Only the keys of these names.", (({"a": 1, "b": 2}, ["a", "z"]), {"a": 1}))
def pick(subject: dict[str, Any], names: list[Any]) -> dict[str, Any]:
    wanted = _texts(names)
    return {key: value for key, value in subject.items() if key in wanted}


@function("Without the keys of these names.", (({"a": 1, "b": 2}, ["a", "z"]), {"b": 2}))
def omit(subject: dict[str, Any], names: list[Any]) -> dict[str, Any]:
    unwanted = _texts(names)
    return {key: value for key, value in subject.items() if key not in unwanted}


@function(
    "One object of several; a later one wins key by key (shallow, as JMESPath's merge); absent ones are left out.",
    (({"a": 1, "b": {"x": 1}}, {"b": {"y": 2}}), {"a": 1, "b": {"y": 2}}),
    ((None, {"a": 1}), {"a": 1}),
)
def merge(subject: dict[str, Any] | None, *others: dict[str, Any] | None) -> dict[str, Any] | None:
    given = [each for each in (subject, *others) if each is not None]
    return {key: value for each in given for key, value in each.items()} if given else None


@function("A list with one `{key, value}` for each key.", (({"a": 1},), [{"key": "a", "value": 1}]))
def entries(subject: dict[str, Any]) -> list[Any]:
    return [{"key": key, "value": value} for key, value in subject.items()]


@function(
    "One level of keys joined by `separator`, list items by their index; an empty list or object stays as it is.",
    (({"a": {"b": 1, "c": [2, 3]}},), {"a.b": 1, "a.c.0": 2, "a.c.1": 3}),
    (({"a": {"b": 1}}, "_"), {"a_b": 1}),
)
def flatten(subject: dict[str, Any], separator: str = ".") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    _flatten(subject, "", separator, flat, Budget())
    return flat


@function("The keys as a list.", (({"a": 1, "b": 2},), ["a", "b"]))
def keys(subject: dict[str, Any]) -> list[Any]:
    return list(subject)


@function("The values as a list.", (({"a": 1, "b": 2},), [1, 2]))
def values(subject: dict[str, Any]) -> list[Any]:
    return list(subject.values())


def _texts(names: list[Any]) -> set[str]:
    for name in names:
        if not isinstance(name, str):
            raise BadValue(f"a list of texts is needed for `names`, got {described(name)} in it")
    return set(names)


def _flatten(value: Any, prefix: str, separator: str, flat: dict[str, Any], budget: Budget) -> None:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        name = f"{prefix}{key}"
        budget.spend(len(name))
        if isinstance(item, dict | list) and item:
            _flatten(item, name + separator, separator, flat, budget)
        elif name in flat:
            raise BadValue(f"two values for the key {described(name)}")
        else:
            flat[name] = item
            capped_items(len(flat))
