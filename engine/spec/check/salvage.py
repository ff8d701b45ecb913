"""What is left of a file with faults: the rest of it is checked as well, so that all findings come at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import SpecErrors
from engine.spec.findings import Finding, errors_in
from engine.spec.load import once
from engine.spec.located import MAX_BYTES, Located, Node, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path as FilePath

    from engine.spec.project import Project

    Path = tuple[str | int, ...]
    Mark = tuple[int, int]

MOST = 200  # faults; with more it is no spec that somebody is writing
ROUNDS = 30
_EXPRESSION = re.compile(r"\$\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\{\{.*?\}\}")
# What is found only after other faults are out; whatever else later rounds find was made by the cutting.
_LATER = ("auth", "schema", "unknown-setting", "unknown-use", "use", "use-cycle")


class Shortened(Node):
    """A list of which items were taken out; `numbers` are those that the others had before."""

    __slots__ = ("numbers",)

    def __init__(self, items: list[Node], before: Node, numbers: list[int]) -> None:
        super().__init__(items, before.line, before.column)
        self.numbers = numbers


def numbers(node: Node) -> list[int]:
    return node.numbers if isinstance(node, Shortened) else list(range(len(node.value)))


class Salvaged(NamedTuple):
    """What can be used, its long form, what was found on the way, and the names of what was cut."""

    value: Any
    located: Located
    findings: list[Finding]
    gone: set[str]


def salvage(text: str, file: str, load: Callable[[Located], tuple[Any, list[Finding], Located]]) -> Salvaged | None:
    """The file without its faulty parts; None where nothing of it can be used."""
    located, patched = _readable(text, file)
    if located is None:
        return None
    root = located.root
    seen: dict[Mark, int] = {}
    gone: set[str] = set()
    found = list(located.findings)
    for turn in range(ROUNDS):
        value, findings, grown = load(Located(file, text, root))
        if turn == 0:  # what was read past to get here has been said
            found = once(found, [each for each in findings if (each.line, each.column) not in patched])
        found += [each for each in findings if each.rule in _LATER and not (seen and _speaks_of(each, gone))]
        if value is not None:
            return Salvaged(value, grown, found, gone)
        marks = {(each.line, each.column) for each in errors_in(findings)}
        if len(marks) > MOST:
            return None
        for mark in marks:
            path = _path_to(root, mark, seen.get(mark, 0))
            seen[mark] = seen.get(mark, 0) + 1
            if path is None:
                continue
            if not path:
                return None
            gone |= _names_in(root, path)
            root = without(root, path)
    return None


def _readable(text: str, file: str) -> tuple[Located | None, set[Mark]]:
    """Read past expressions that should have stood in quotes: letters of the same number take their place."""
    patched: set[Mark] = set()
    for _ in range(ROUNDS):
        try:
            return read(text, file), patched
        except SpecErrors as error:
            marks = [(each.line, each.column) for each in error.findings if each.rule == "flow-expression"]
        lines = text.split("\n")
        for line, column in marks:
            written = lines[line - 1]
            if found := _EXPRESSION.match(written, column - 1):
                length = found.end() - found.start()
                lines[line - 1] = f"{written[: column - 1]}{'x' * length}{written[found.end() :]}"
        if (quoted := "\n".join(lines)) == text:
            break
        patched |= set(marks)
        text = quoted
    return None, patched


def text_of(project: Project, path: FilePath) -> str:
    """The file's text; empty where it can't be read as one, or is too large to be."""
    try:
        text = project.text(path)
    except (OSError, UnicodeDecodeError):
        return ""
    return text if len(text) <= MAX_BYTES else ""


def without(root: Node, path: Path) -> Node:
    """The tree without the part at `path`."""
    part, rest = path[0], path[1:]
    value: Any = root.value
    if isinstance(value, dict) and part in value:
        if not rest:
            return root.changed({key: child for key, child in value.items() if key != part})
        return root.changed({**value, str(part): without(value[part], rest)})
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        if rest:
            return Shortened([*value[:part], without(value[part], rest), *value[part + 1 :]], root, numbers(root))
        return Shortened([*value[:part], *value[part + 1 :]], root, [*numbers(root)[:part], *numbers(root)[part + 1 :]])
    return root


def _path_to(root: Node, mark: Mark, above: int) -> Path | None:
    """The deepest part that stands at `mark`, or one that is `above` levels over it."""
    best: Path | None = None
    waiting: list[tuple[Path, Node]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if node.mark == mark and (best is None or len(path) >= len(best)):
            best = path
        if isinstance(node.value, dict):
            for key, child in node.value.items():
                if node.keys.get(key) == mark and (best is None or len(path) + 1 >= len(best)):
                    best = (*path, key)
                waiting.append(((*path, key), child))
        elif isinstance(node.value, list):
            waiting += [((*path, index), child) for index, child in enumerate(node.value)]
    return None if best is None else best[: max(len(best) - above, 0)]


def _names_in(root: Node, path: Path) -> set[str]:
    node = root
    for part in path:
        node = node.value[part]
    names = {str(path[-1])}
    waiting = [node]
    while waiting:
        value = waiting.pop().value
        if isinstance(value, dict):
            names |= set(value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return names


def _speaks_of(finding: Finding, names: set[str]) -> bool:
    return any(word.strip(".,;") in names for word in finding.message.split()[1:])
