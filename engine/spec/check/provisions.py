"""What must exist first: an entry that nobody could act on, and settings that are suggested but not declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.notations.emitting import Problem
from engine.spec.findings import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.spec.types import Connector

    Path = tuple[str | int, ...]


def provision_faults(connector: Connector) -> Iterator[Problem]:
    known = connector.settings.properties
    for name, spec in connector.provision.items():
        place: Path = ("provision", name)
        if spec.look is None and spec.make is not None:
            says = "without `look` nobody knows whether it is there, and it would be made each time"
            yield Problem((*place, "make"), "provision", says, "write how to look for it, or take `make` out")
        elif spec.look is None and not spec.manual:
            says = "nothing is looked for, and nothing is said to a person"
            yield Problem(place, "provision", says, "write `look:`, `manual:` or both")
        elif spec.look is not None and spec.make is None and not spec.manual:
            says = "where it is missing nobody is told what to do"
            yield Problem(place, "provision", says, "write `manual:` or `make:`", "warning")
        if spec.look is None and spec.suggest:
            says = "there is no reply to read it from"
            yield Problem((*place, "suggest"), "provision", says, "write `look:`, or take it out")
        for index, each in enumerate(spec.suggest):
            first = each.setting.split(".")[0]
            if "{" not in first and first not in known:
                hint = did_you_mean(first, known) or (f"there are {', '.join(known)}" if known else "there are none")
                at: Path = (*place, "suggest", index, "setting")
                yield Problem(at, "unknown-setting", f"{connector.name} has no setting {first}", hint)
