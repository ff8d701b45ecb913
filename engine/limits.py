"""Rates and slots of connector, action and request, taken from the store so that they hold across processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import BadValue
from engine.names import CLIENT
from engine.records import Outcome, OutcomeKind
from engine.semantics import plain
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.expressions import Compiler, Path
    from engine.ports import Limits
    from engine.spec import types

SLOT_TTL_S = 300.0


class Gate:
    """All limits that one request has to pass, for one client."""

    def __init__(self, lane: str) -> None:
        self.lane = lane
        self.limits: list[_Limit] = []

    def add(
        self, compiler: Compiler, limits: Mapping[str, types.Limit], names: frozenset[str], place: Path, *, owner: str
    ) -> None:
        """Those of one level; `owner` tells levels apart, so that two actions do not share a limit of the same name."""
        for name, spec in limits.items():
            self.limits.append(_Limit(compiler, spec, names, (*place, name), f"{self.lane}:{owner}:{name}"))

    def enter(self, store: Limits, scope: Mapping[str, Any], *, owner: str, now: float) -> Outcome | list[str]:
        """The slots taken (give them back), or the outcome that says how long to wait: nothing was sent then."""
        slots: list[str] = []
        for limit in self.limits:
            if not limit.when(scope):
                continue
            name = limit.name_for(scope)
            refused = limit.take(store, scope, name, owner, now)
            if refused is not None:
                self.leave(store, slots, owner)
                return refused
            if limit.spec.concurrency is not None:
                slots.append(name)
        return slots

    @staticmethod
    def leave(store: Limits, slots: list[str], owner: str) -> None:
        for name in slots:
            store.release_slot(name, owner=owner)

    def described(self, scope: Mapping[str, Any]) -> Iterator[str]:
        for limit in self.limits:
            if limit.when(scope):
                yield str(limit.rate(scope) or limit.concurrency(scope))


class _Limit:
    def __init__(self, compiler: Compiler, spec: types.Limit, names: frozenset[str], place: Path, name: str) -> None:
        self.spec, self.name = spec, name
        self.rate = compiler.value(spec.rate, CLIENT, (*place, "rate"))
        self.concurrency = compiler.value(spec.concurrency, CLIENT, (*place, "concurrency"))
        self.by = compiler.value(spec.by, names, (*place, "by")) if spec.by is not None else None
        self.when = compiler.condition(spec.when, CLIENT, (*place, "when"))

    def name_for(self, scope: Mapping[str, Any]) -> str:
        if self.by is None:
            return self.name
        value = self.by(scope)
        return f"{self.name}:{plain(value) if value is not None else ''}"

    def take(self, store: Limits, scope: Mapping[str, Any], name: str, owner: str, now: float) -> Outcome | None:
        if self.spec.rate is not None:
            text = self.rate(scope)
            try:
                rate = units.rate(text)
            except units.UnitError as error:
                raise BadValue(str(error), "limits") from None
            wait = store.take(name, count=rate.uses, per_s=rate.per_s, now=now)
            if wait > 0:
                kind = OutcomeKind.DEFER if self.spec.then == "defer" else OutcomeKind.THROTTLE
                return Outcome(kind, f"our limit of {text} is used up", "limit", wait, count=False)
        if self.spec.concurrency is not None:
            slots = self.concurrency(scope)
            if not isinstance(slots, int) or slots < 1:
                raise BadValue("concurrency is a number of at least 1", "limits")
            if not store.acquire(name, slots=slots, owner=owner, ttl_s=SLOT_TTL_S, now=now):
                return Outcome(OutcomeKind.THROTTLE, f"all {slots} connections are in use", "limit", 0.5, count=False)
        return None
