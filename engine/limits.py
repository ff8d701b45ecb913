"""Rates and slots of connector, action and request, taken from the store so that they hold across processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.emitting import dotted
from engine.errors import BadValue
from engine.names import BOUND
from engine.records import Outcome, OutcomeKind
from engine.semantics import plain
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.expressions import Compiler, Path
    from engine.ports import Limits
    from engine.spec import types

SLOT_TTL_S = 300.0


class Gate:
    """All limits that one request has to pass, for one client."""

    def __init__(self, lane: str) -> None:
        self.lane = lane  # connector/client
        self.limits: list[_Limit] = []

    def add(
        self, compiler: Compiler, limits: Mapping[str, types.Limit], names: frozenset[str], place: Path, *, owner: str
    ) -> None:
        """Those of one level; `owner` tells levels apart, so that two actions do not share a limit of the same name."""
        for name, spec in limits.items():
            self.limits.append(_Limit(compiler, spec, names, (*place, name), f"{owner}:{name}"))

    def enter(
        self, store: Limits, scope: Mapping[str, Any], *, owner: str, now: float, credentials: str = ""
    ) -> Outcome | list[str]:
        """
        The slots taken (give them back), or the outcome that says how long to wait: nothing was sent then.

        Slots first, then rates from the shortest time to the longest: a request that has to wait for its second uses up
        nothing of its day. `credentials` is the fingerprint that clients with the same secrets have in common.
        """
        try:
            active = sorted(
                ((limit.bound(scope), limit) for limit in self.limits if limit.when(scope)),
                key=lambda found: found[0].per_s,
            )
        except BadValue as error:  # of the settings: no delivery's fault
            return Outcome(OutcomeKind.PAUSE, str(error), "limit")
        slots: list[str] = []
        for bound, limit in active:
            try:
                name = f"{self.shared_by(limit.spec.of, credentials)}:{limit.name_for(scope)}"
            except BadValue:
                self.leave(store, slots, owner)
                raise
            if bound.per_s == 0:
                if not store.acquire(name, slots=bound.uses, owner=owner, ttl_s=SLOT_TTL_S, now=now):
                    self.leave(store, slots, owner)
                    reason = f"all {bound.uses} connections are in use"
                    return Outcome(OutcomeKind.THROTTLE, reason, "limit", 0.5, count=False, ours=True)
                slots.append(name)
            elif (wait := store.take(name, count=bound.uses, per_s=bound.per_s, now=now)) > 0:
                self.leave(store, slots, owner)
                kind = OutcomeKind.DEFER if limit.spec.then == "defer" else OutcomeKind.THROTTLE
                reason = f"our limit of {limit.rate(scope)} is used up"
                return Outcome(kind, reason, "limit", wait, count=False, ours=True)
        return slots

    def shared_by(self, of: str, credentials: str) -> str:
        """Who counts together: this lane, all clients with the same credentials, or all of the connector."""
        connector = self.lane.partition("/")[0]
        if of == "credentials":
            return f"{connector}#{credentials}"
        return connector if of == "host" else self.lane

    @staticmethod
    def leave(store: Limits, slots: list[str], owner: str) -> None:
        for name in slots:
            store.release_slot(name, owner=owner)


class _Limit:
    def __init__(self, compiler: Compiler, spec: types.Limit, names: frozenset[str], place: Path, name: str) -> None:
        self.spec, self.name, self.at = spec, name, dotted(place)
        self.rate = compiler.value(spec.rate, BOUND, (*place, "rate"))
        self.concurrency = compiler.value(spec.concurrency, BOUND, (*place, "concurrency"))
        self.by = compiler.value(spec.by, names, (*place, "by")) if spec.by is not None else None
        self.when = compiler.condition(spec.when, BOUND, (*place, "when"))

    def name_for(self, scope: Mapping[str, Any]) -> str:
        if self.by is None:
            return self.name
        value = self.by(scope)
        return f"{self.name}:{plain(value) if value is not None else ''}"

    def bound(self, scope: Mapping[str, Any]) -> units.Rate:
        """Uses and their seconds; 0 seconds are slots. BadValue if the settings give neither."""
        if self.spec.rate is not None:
            try:
                return units.rate(self.rate(scope))
            except units.UnitError as error:
                raise BadValue(str(error), self.at) from None
        slots = self.concurrency(scope)
        if slots.__class__ is not int or slots < 1:
            raise BadValue(f"{slots!r} is not a number of connections; write it as 10", self.at)
        return units.Rate(slots, 0)
