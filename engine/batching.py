"""Records -> units (folded) -> groups -> batches bounded by count and by encoded bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import BadValue
from engine.mapping import ascii_only, encode_json
from engine.names import CHECKED
from engine.notations import semantics
from engine.spec import types, units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.expressions import Compiler, Path
    from engine.records import Delivery


MAX_WINDOW = 5_000  # deliveries that are folded together


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A delivery whose record is built, with what it is folded, ordered and grouped by."""

    delivery: Delivery
    scope: dict[str, Any]
    record: Any
    fold: str | None = None
    order: tuple[int, Any] = (0, 0)
    group: Any = None
    encoded: bytes = b""  # where it is not folded: right after it was made it is still at hand


class Unit(msgspec.Struct, frozen=True, gc=False):
    """One record of a request, with the deliveries that share its outcome."""

    record: Any
    deliveries: tuple[Delivery, ...]
    scope: dict[str, Any]
    group: Any = None
    encoded: bytes = b""  # the record as it goes into a body of JSON; empty where it is not encoded yet

    @property
    def keys(self) -> set[str]:
        """Those in which deliveries keep their order."""
        return {each.key for each in self.deliveries if each.key is not None}


class Encoded(msgspec.Struct, frozen=True):
    """The records of a batch as JSON, so that a body with the very same list in it is not encoded a second time."""

    records: list[Any]
    raw: bytes
    levels: int  # at most so many, with that of the list


ENCODED = "#encoded"  # beside the names of a scope: no name is called so


def encoded(units_: Sequence[Unit], records: list[Any]) -> Encoded | None:
    """None where some of them have not been encoded."""
    parts = [unit.encoded for unit in units_]
    if b"" in parts:
        return None
    levels = 1 + max(part.count(b"{") + part.count(b"[") for part in parts)
    return Encoded(records, b"[%b]" % b",".join(parts), levels)


class Batcher:
    """A compiled `batch` section."""

    def __init__(
        self, compiler: Compiler, spec: types.Batch | None, place: Path, *, rows: bool, ascii: bool = False
    ) -> None:
        self.spec = spec
        limits = spec or types.Batch(records=1)
        self.records = min(limits.records, limits.max.records or limits.records)
        self.bytes = min(units.size(limits.bytes), units.size(limits.max.bytes or limits.bytes))
        self.collects = limits.window is not None  # all of a time is folded before it is cut
        self.wait_s = units.duration(limits.window or limits.wait)
        self.rows = rows  # records go out as columns and rows: those of unequal columns are kept apart
        self.ascii = ascii  # what is beyond ASCII takes six bytes or twelve
        self.group_by = compiler.value(limits.group_by, CHECKED, (*place, "group_by"))
        fold = limits.fold
        self.keep = fold.keep if fold else ""
        self.fold_by = compiler.value(fold.by, CHECKED, (*place, "fold", "by")) if fold else None
        self.fold_order = (
            compiler.value(fold.order, CHECKED, (*place, "fold", "order")) if fold and fold.order else None
        )

    @property
    def enough(self) -> int:
        """How many due deliveries are not waited with any longer."""
        return MAX_WINDOW if self.collects else self.records

    def goes(self, count: int, oldest_at: float, now: float) -> bool:
        """Are so many due deliveries, the oldest received at that moment, not waited with any longer?"""
        return count >= self.enough or oldest_at + self.wait_s <= now

    def window(self, *, apart: bool) -> int:
        """
        How many deliveries to read at once: more than a batch where some will be folded or come out sorted `apart`.

        Otherwise no more: what is used again while the processor still has it at hand costs less.
        """
        if self.collects:
            return MAX_WINDOW
        sorts = apart and self.spec is not None and self.spec.group_by
        return self.records * (5 if self.fold_by is not None or sorts else 1)

    def ready(self, delivery: Delivery, scope: dict[str, Any], record: Any) -> Ready:
        """The record joins the `scope`. BadValue if what it is folded, ordered or grouped by can't be read."""
        scope["record"] = record
        return Ready(
            delivery,
            scope,
            record,
            fold=(stable(self.fold_by, scope) or None) if self.fold_by is not None else None,
            order=sortable(self.fold_order(scope)) if self.fold_order is not None else (0, 0),
            group=self.group_by(scope),
            encoded=self.encoded(record) if self.fold_by is None else b"",
        )

    def units(self, ready: Sequence[Ready]) -> list[Unit]:
        """Folded, in the order in which each person was first seen; what has no person stays by itself."""
        if self.fold_by is None:
            return [Unit(one.record, (one.delivery,), one.scope, one.group, one.encoded) for one in ready]
        groups: dict[Any, list[Ready]] = {}
        for position, one in enumerate(ready):
            groups.setdefault(position if one.fold is None else one.fold, []).append(one)
        return [self.folded(group) for group in groups.values()]

    def folded(self, group: list[Ready]) -> Unit:
        group = sorted(group, key=lambda one: one.order)
        last = group[-1]
        record, by = last.record, last.group
        if self.keep == "merge" and len(group) > 1:
            record = {}
            for one in group:
                record = merge_deep(record, one.record)
            with suppress(BadValue):
                by = self.group_by({**last.scope, "record": record})
        scope = {**last.scope, "record": record}
        return Unit(record, tuple(one.delivery for one in group), scope, by, self.encoded(record))

    def encoded(self, record: Any) -> bytes:
        if record is None:
            return b""
        raw = encode_json(record)
        return ascii_only(raw) if self.ascii else raw

    def size(self, record: Any) -> int:
        """Bytes of a record in the body, with its comma."""
        return len(self.encoded(record)) + 1 if record is not None else 0

    def cut(self, units_: Sequence[Unit]) -> list[tuple[Any, list[Unit]]]:
        """
        (group, units) for each batch; a unit above the bytes stands alone.

        The envelope is not known here: a request whose whole body is above the bytes is halved before it is sent.
        """
        groups: dict[Any, tuple[Any, list[Unit]]] = {}
        for unit in units_:
            key: Any = unit.group
            if self.rows or not (key is None or key.__class__ is str):
                shape = sorted(unit.record) if self.rows and isinstance(unit.record, dict) else []
                key = encode_json([unit.group, shape])
            groups.setdefault(key, (unit.group, []))[1].append(unit)
        batches: list[tuple[Any, list[Unit]]] = []
        for value, members in groups.values():
            current: list[Unit] = []
            used = 0
            for unit in members:
                size = len(unit.encoded) + 1 if unit.encoded else self.size(unit.record)
                if current and (len(current) >= self.records or used + size > self.bytes):
                    batches.append((value, current))
                    current, used = [], 0
                current.append(unit)
                used += size
            batches.append((value, current))
        return batches


def stable(run: Any, scope: dict[str, Any]) -> str | None:
    """A value as a text to compare by, None where it is absent."""
    value = run(scope)
    return None if value is None else value if isinstance(value, str) else encode_json(value).decode()


def sortable(value: Any) -> tuple[int, Any]:
    if value is None:
        return (0, 0)
    if value.__class__ in semantics.NUMBERS:
        return (1, value)
    if value.__class__ is str:
        return (2, value)
    raise BadValue("fold.order needs a number or a text")


def merge_deep(older: Any, newer: Any) -> Any:
    """Maps are merged, later wins; lists are replaced."""
    if not isinstance(older, dict) or not isinstance(newer, dict):
        return newer
    return {**older, **{key: merge_deep(older[key], value) if key in older else value for key, value in newer.items()}}
