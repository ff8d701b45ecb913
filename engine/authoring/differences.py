"""Two JSON values -> what was added, removed or changed, by path; items of a list are told apart by what they are."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.mapping import encode_json
from engine.notations.semantics import same

if TYPE_CHECKING:
    from collections.abc import Iterator


class Absent:
    """What stands for a value that is not there, since a null is one."""

    def __repr__(self) -> str:
        return "absent"

    def __bool__(self) -> bool:
        return False


ABSENT = Absent()


class Change(NamedTuple):
    """A path with its value before and after; ABSENT where it was not, or is no more."""

    path: str
    old: Any
    new: Any

    @property
    def kind(self) -> str:
        return "added" if self.old is ABSENT else "removed" if self.new is ABSENT else "changed"


def changes(path: str, old: Any, new: Any) -> Iterator[Change]:
    """Every difference between two values, in the order of the new one; none where they are the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            below = f"{path}.{key}" if path else str(key)
            if key not in new:
                yield Change(below, old[key], ABSENT)
            elif key not in old:
                yield Change(below, ABSENT, new[key])
            else:
                yield from changes(below, old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list):
        yield from of_lists(path, old, new)
    elif not same(old, new):
        yield Change(path, old, new)


def of_lists(path: str, old: list[Any], new: list[Any]) -> Iterator[Change]:
    """Items that stayed are matched first; of the others those at the same place between them are compared inside."""
    before, after = [encode_json(one) for one in old], [encode_json(one) for one in new]
    for _, start, end, begin, stop in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if before[start:end] == after[begin:stop]:
            continue
        both = min(end - start, stop - begin)
        for at in range(both):
            yield from changes(f"{path}[{begin + at}]", old[start + at], new[begin + at])
        for at in range(start + both, end):
            yield Change(f"{path}[{at}]", old[at], ABSENT)
        for at in range(begin + both, stop):
            yield Change(f"{path}[{at}]", ABSENT, new[at])


def of_rules(path: str, old: list[Any], new: list[Any]) -> Iterator[Change]:
    """As `of_lists`, but a rule is a whole: one that differs is another, and has no number in its path."""
    before, after = [encode_json(one) for one in old], [encode_json(one) for one in new]
    for _, start, end, begin, stop in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if before[start:end] != after[begin:stop]:
            yield from (Change(path, one, ABSENT) for one in old[start:end])
            yield from (Change(path, ABSENT, one) for one in new[begin:stop])


def as_written(part: Any) -> Any:
    """A part of a spec as plain data, without what is at its default."""
    if isinstance(part, msgspec.Struct):
        found = {}
        for field in msgspec.structs.fields(part):
            value = getattr(part, field.name)
            default = field.default if field.default is not msgspec.NODEFAULT else None
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            if value != default or (field.required and value is not None):
                found[field.encode_name] = as_written(value)
        return found
    if isinstance(part, dict):
        return {key: as_written(child) for key, child in part.items()}
    if isinstance(part, list):
        return [as_written(child) for child in part]
    return part


def keys(part: Any) -> dict[str, Any] | None:
    """A map, or a part of a spec with its defaults, as what it has by key; None for anything else."""
    if isinstance(part, msgspec.Struct):
        found = {field.encode_name: getattr(part, field.name) for field in msgspec.structs.fields(part)}
        return {key: value for key, value in found.items() if value is not None}
    return part if isinstance(part, dict) else None
