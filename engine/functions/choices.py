"""What to do where a value is absent."""

from typing import Any

from engine.functions.definition import function


@function(
    "The value, or `other` where it is absent; an empty text, 0 and false are there and stay.",
    ((None, "unknown"), "unknown"),
    (("", "unknown"), ""),
    ((0, 5), 0),
)
def default(subject: Any | None, other: Any | None) -> Any:
    return other if subject is None else subject


@function(
    "The first argument that is not absent.",
    ((None, None, "c"), "c"),
    ((None, False, "c"), False),
    ((None, None), None),
)
def coalesce(subject: Any | None, *others: Any | None) -> Any:
    return next((value for value in (subject, *others) if value is not None), None)


@function(
    "Whether something is there: false for absent and empty texts, lists, objects; true for all else, 0 and false too.",
    ((None,), False),
    (("",), False),
    (([],), False),
    ((False,), True),
    (("a",), True),
)
def present(subject: Any | None) -> bool:
    return subject is not None and subject not in ("", [], {})
