"""Dead letters as the pages show them: counted by reason, listed, one whole, changed, tried, given up."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.authoring.preview import preview as previewed
from engine.dashboard.asking import Trouble
from engine.errors import UsageError
from engine.privacy.personal import MASK
from engine.program import decode_event
from engine.upkeep import dead_letters
from engine.upkeep.dead_letters import Desk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.records import Dead, Which
    from engine.runtime import Engine
    from engine.spec.types import Client, Connector
    from engine.telemetry.audit import Audit

PER_PAGE = 50
MAX_ID = 2**63
MAX_GROUPS = 25
COUNTS_S = 5.0  # how long a count is remembered: it reads every letter
COUNTS_COST = 30  # and this many times as long as it took
MAX_COUNTS = 50
FILTERS = ("connector", "client", "action", "code", "key", "reason")


class LoadedSpecs:
    """The connectors and clients as the engine has them loaded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def connector(self, name: str) -> Connector:
        found = self._engine.connector_specs.get(name)
        if found is None:
            raise UsageError(f"there is no connector {name} that can be used")
        return found

    def client(self, name: str) -> Client:
        found = self._engine.client_specs.get(name)
        if found is None:
            raise UsageError(f"there is no client {name} that can be used")
        return found


class Group(NamedTuple):
    """Letters whose reasons differ by no more than an address or a number."""

    reason: str
    times: int
    words: str  # what to filter by, to see them


class Counted(NamedTuple):
    total: int
    groups: list[Group]  # the most first, MAX_GROUPS at most
    more: int  # groups beyond them


class Listed(NamedTuple):
    dead: Dead
    reason: str


class Changed(NamedTuple):
    fields: list[str]
    wanted: bool


class Letters:
    """What the store has of them, masked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._counts: dict[tuple[tuple[str, Any], ...], tuple[float, Counted]] = {}

    def desk(self) -> Desk:
        """A new one each time: files may have changed."""
        return Desk(LoadedSpecs(self.engine))

    def letter(self, dead_id: int) -> Dead:
        found = self.engine.store.dead_letter(dead_id) if dead_id < MAX_ID else None
        if found is None:
            raise Trouble(404, "error_no_letter", id=dead_id)
        return found

    def counted(self, which: Which) -> Counted:
        key, now = tuple(sorted(which.items())), time.monotonic()
        kept = self._counts.get(key)
        if kept is None or kept[0] < now:
            counts = self.engine.store.count_dead("reason", **which)
            groups = [Group(reason, count, words_in(reason)) for reason, count in dead_letters.alike(counts)]
            more = max(len(groups) - MAX_GROUPS, 0)
            done = time.monotonic()
            until = done + max(COUNTS_S, COUNTS_COST * (done - now))
            kept = (until, Counted(sum(counts.values()), groups[:MAX_GROUPS], more))
            if len(self._counts) >= MAX_COUNTS:
                self._counts.clear()
            self._counts[key] = kept
        return kept[1]

    def total(self, which: Which) -> int:
        """How many there are, without their reasons."""
        kept = self._counts.get(tuple(sorted(which.items())))
        return kept[1].total if kept is not None else sum(self.engine.store.count_dead("connector", **which).values())

    def forget_counts(self) -> None:
        """After something was done to them."""
        self._counts.clear()

    def page(self, which: Which, after: int, *, newest: bool = False) -> tuple[list[Listed], int | None]:
        """Those of one page, and the id to go on behind, where there are more."""
        found = self.engine.store.dead(limit=PER_PAGE + 1, after=after, newest=newest, **which)
        desk = self.desk()
        rows = [Listed(dead, desk.personal(dead.connector).text(dead.reason, dead.body)) for dead in found[:PER_PAGE]]
        return rows, rows[-1].dead.id if len(found) > PER_PAGE else None

    def parts(self, dead: Dead, *, reveal: bool) -> dict[str, Any]:
        return dead_letters.parts(dead, None if reveal else self.desk().personal(dead.connector))

    def preview(self, dead: Dead) -> tuple[list[dict[str, Any]], list[dict[str, str]], str | None]:
        """The requests, what sends nothing and why, and why the lane would pause; personal fields masked."""
        desk = self.desk()
        connector, client = desk.project.connector(dead.connector), desk.project.client(dead.client)
        if dead.action not in desk.program(dead.connector, dead.client).actions:
            raise UsageError(f"{dead.connector} has no action {dead.action} any more")
        shown = previewed(connector, client, dead.body, now=self.engine.clock.now(), letter=dead)
        personal = desk.personal(dead.connector)
        return (
            [personal.anywhere(one, dead.body) for one in shown.requests],
            [personal.anywhere(one, dead.body) for one in shown.skipped if one["action"] == dead.action],
            None if shown.paused is None else personal.text(shown.paused, dead.body),
        )

    def edit(self, dead: Dead, new: Any, audit: Audit) -> Changed:
        """The event anew; Refused where intake would not take it, UsageError where nobody could."""
        fields = dead_letters.differing(decode_event(dead.body), new)
        if not fields:
            return Changed([], True)
        mended = self.desk().mended(dead, new, self.engine.clock.now())
        audit.line("dead edit", id=dead.id, connector=dead.connector, client=dead.client, fields=fields)
        if not self.engine.store.amend(dead.id, body=mended.body, key=mended.key):
            raise Trouble(404, "error_no_letter", id=dead.id)
        return Changed(fields, mended.wanted)

    def edit_field(self, dead: Dead, path: str, value: str, audit: Audit) -> Changed:
        """One field: JSON or text; without a value it is taken out."""
        event, at = decode_event(dead.body), dead_letters.path_of(path)
        new = dead_letters.changed(event, at, dead_letters.value_of(value) if value else None, remove=not value)
        return self.edit(dead, new, audit)


def which_of(given: Mapping[str, str]) -> Which:
    """The filters among the fields of a query or a form."""
    found: Which = {}
    for name in FILTERS:
        if value := given.get(name, "").strip()[:500]:
            found[name] = value  # type: ignore[literal-required]
    return found


def words_in(reason: str) -> str:
    """The longest part of a reason that all of its group have in common."""
    pieces = re.split(rf"…|\S*{re.escape(MASK)}\S*", reason)
    return max((piece.strip() for piece in pieces), key=len, default="")
