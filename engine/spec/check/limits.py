"""Limits: time zones that do not exist, and requests that cost more than a whole budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.notations.emitting import Problem
from engine.spec.check.requests import all_requests
from engine.spec.check.rules import all_auths, zone_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.spec.types import Connector, Limit

    Path = tuple[str | int, ...]

PER_S = {"hour": 3600, "day": 86_400, "month": 30 * 86_400}


def limit_faults(connector: Connector) -> Iterator[Problem]:
    yield from zone_faults(connector.http.limits, ("http", "limits"))
    for at, auth in all_auths(connector):
        yield from zone_faults(auth.limits, (*at, "limits"))
    for name, action in connector.actions.items():
        yield from zone_faults(action.limits, ("actions", name, "limits"))
    for place, request in all_requests(connector):
        yield from zone_faults(request.limits, (*place, "limits"))
        above = request.limits if place[0] in ("auth", "auths") else {**connector.http.limits, **request.limits}
        if place[0] == "actions":
            above |= connector.actions[str(place[1])].limits
        least = min((limit.budget for limit in above.values() if isinstance(limit.budget, int)), default=None)
        if least is not None and isinstance(request.cost, int) and request.cost > least:
            says = f"a request that costs {request.cost} is never sent: a whole budget is {least}"
            yield Problem((*place, "cost"), "cost", says, f"write at most {least}, or a larger budget")


def zone_faults(limits: Mapping[str, Limit], place: Path) -> Iterator[Problem]:
    for name, limit in limits.items():
        if "${" not in limit.timezone and (says := zone_fault(limit.timezone)):
            yield Problem((*place, name, "timezone"), "unit", says, "such as America/Sao_Paulo or UTC")
