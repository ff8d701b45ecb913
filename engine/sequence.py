"""Which action of an event comes after which: all of them in an order that each can be begun in, or what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.notations.emitting import Problem, closest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.spec import types


def in_sequence(actions: Mapping[str, types.Action]) -> tuple[list[str], list[Problem]]:
    """
    The names, those that others wait for first and otherwise as they are written; and the faults of their `after`.

    Of a circle each is named once, where it is closed; its actions are still in the list.
    """
    ordered: list[str] = []
    problems: list[Problem] = []
    under_way: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        under_way.append(name)
        for index, other in enumerate(actions[name].after):
            place = ("actions", name, "after", index)
            if other not in actions:
                hint = closest(other, actions) or f"there are {', '.join(actions)}"
                problems.append(Problem(place, "unknown-action", f"there is no action {other}", hint))
            elif other in under_way:
                circle = " -> ".join([*under_way[under_way.index(other) :], other])
                says = f"{name} would wait for itself: {circle}"
                problems.append(Problem(place, "after-cycle", says, "take one of the `after` out"))
            else:
                visit(other)
        under_way.pop()
        ordered.append(name)

    for name in actions:
        visit(name)
    return ordered, problems
