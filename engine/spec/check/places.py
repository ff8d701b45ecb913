"""A problem at a path of the long form -> a finding at the line and under the name that its author wrote."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, cast

from engine.notations.emitting import Problem
from engine.spec.check.salvage import numbers
from engine.spec.findings import Finding, dotted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.spec.located import Located, Node

    Path = tuple[str | int, ...]

# What stands beside `request` in an action of one request, and in its step of the long form.
_OF_THE_STEP = ("request", "save", "results", "poll", "args")
_OF_KEYS = (
    "unknown-action",
    "unknown-client",
    "unknown-connector",
    "unknown-secret",
    "unknown-setting",
    "unknown-table",
    "unused-secret",
)
_HEADERS = ("request", "headers")


class Sheet:
    """One file, or one block of Markdown that is indented by `indent`, with what is found in it."""

    def __init__(self, located: Located, *, indent: int = 0) -> None:
        self.located, self.indent = located, indent
        self._found: dict[tuple[int, int, str, str, str], Finding] = {}

    def add(self, problems: Iterable[Problem], below: Path = ()) -> None:
        """Each once for a place, however many uses of a definition lead there. `below` leads each place."""
        for problem in problems:
            place = self.written((*below, *problem.place))
            line, column = self.mark(place, problem.rule)
            name = dotted(self.shown(place))
            says = f"{name}: {problem.message}" if name else problem.message
            severity = cast("Literal['error', 'warning']", problem.severity)
            finding = Finding(self.located.file, line, column, problem.rule, severity, says, problem.hint)
            self._found.setdefault((line, column, problem.rule, problem.message, problem.hint), finding)

    def findings(self) -> list[Finding]:
        return list(self._found.values())

    def where(self, place: Path) -> str:
        """file:line:column, for a finding in another file."""
        line, column = self.mark(self.written(place))
        return f"{self.located.file}:{line}:{column + self.indent}"

    def mark(self, place: Path, rule: str = "") -> tuple[int, int]:
        """Of a scalar its own; of a map or list that of its key; and of the key where that is what is wrong."""
        node = node_at(self.located.root, place)
        if node is None or not isinstance(node.value, str | int | Decimal):
            return self.located.key_mark(place)
        read = isinstance(node.value, str) and ("${" in node.value or "{{" in node.value)
        return self.located.key_mark(place) if rule in _OF_KEYS and not read else self.located.mark(place)

    def written(self, place: Path) -> Path:
        """The path in the long form's tree of a place as the compilers name it."""
        root = self.located.root
        if place[:1] == ("actions",) and len(place) > 2 and place[2] in _OF_THE_STEP:
            step: Path = (*place[:2], "steps", "request")
            if node_at(root, place[:3]) is None and node_at(root, (*step, place[2])) is not None:
                place = (*step, *place[2:])
        for at in range(len(place) - 2):
            if place[at : at + 2] == _HEADERS and node_at(root, place[: at + 3]) is None:
                shared: Path = ("http", "headers", *place[at + 2 :])
                return shared if node_at(root, shared[:3]) is not None else place
        return place

    def shown(self, place: Path) -> Path:
        """As the author would name it: without the step of a single request, and without `$with`."""
        said = self.numbered(place)
        if place[2:4] == ("steps", "request") and self.single(str(place[1])):
            said = [*said[:2], *said[4:]]
        shown: list[str | int] = []
        for part in said:
            if shown and shown[-1] == "$with" and part == "do":
                shown.pop()
            elif part is not None:
                shown.append(part)
        return tuple(part for part in shown if part != "$with")

    def numbered(self, place: Path) -> list[str | int | None]:
        """Items as they are counted in the file; None for the only one of what was written without brackets."""
        said: list[str | int | None] = []
        node: Node | None = self.located.root
        for part in place:
            inner = node_at(node, (part,)) if node is not None else None
            if node is not None and inner is not None and isinstance(part, int):
                said.append(None if node.mark == inner.mark else numbers(node)[part])
            else:
                said.append(part)
            node = inner
        return said

    def single(self, action: str) -> bool:
        """Is it an action of one request, written without `steps`?"""
        spec = node_at(self.located.root, ("actions", action))
        steps = spec.get("steps") if spec is not None else None
        if spec is None or steps is None or not steps.is_map or list(steps.value) != ["request"]:
            return False
        return bool(spec.keys.get("steps") == steps.value["request"].mark)


def node_at(root: Node, place: Path) -> Node | None:
    node = root
    for part in place:
        value: Any = node.value
        inside = isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value)
        if not inside and not (isinstance(value, dict) and part in value):
            return None
        node = value[part]
    return node
