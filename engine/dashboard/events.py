"""The pages on events: which there were, and one event's way through its attempts; found by id, person or time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.routing import Route

from engine.dashboard.asking import Trouble
from engine.dashboard.letters import LoadedSpecs
from engine.dashboard.rendering import see_other
from engine.privacy.people import digest
from engine.segments import segment
from engine.trail.entries import ACCEPTED, LEAST_PREFIX, UNWANTED, Cursor, Query, cursor_of
from engine.trail.ways import Search, bodies, found, now_at, way_of
from engine.upkeep.dead_letters import Desk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from engine.dashboard.asking import Ask
    from engine.dashboard.catalogue_pages import Frame
    from engine.runtime import Engine
    from engine.trail.ways import Way

PER_PAGE = 50
GROUPS = {  # what can be asked for -> outcomes
    "delivered": ("delivered",),
    "rejected": ("rejected",),
    "skipped": ("skipped",),
    "retry": ("retry", "throttle", "defer", "pause", "later"),
    "accepted": (ACCEPTED,),
    "unwanted": (UNWANTED,),
}


class EventPages:
    """What the board mounts beside its own pages."""

    def __init__(self, engine: Engine, frame: Frame) -> None:
        self.engine, self.frame = engine, frame

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/events", self.frame.get(self.events)), Route("/event", self.frame.get(self.event))]

    # --- many ---

    def events(self, ask: Ask) -> Response:
        given = ask.query.get("q", "").strip("\r\n\t ")[:500]
        asked = {
            "q": given,
            "client": ask.text("client", 200),
            "connector": ask.text("connector", 200),
            "outcome": ask.text("outcome") if ask.text("outcome") in GROUPS else "",
            "from": ask.text("from", 40),
            "to": ask.text("to", 40),
        }
        facts = {name: value for name, value in asked.items() if value and name != "q"}
        self.frame.audit(ask).line("event find", **facts, text=digest(given) if given else None)
        wrong = next((asked[name] for name in ("from", "to") if asked[name] and _time(asked[name]) is None), "")
        query = Query(
            connector=asked["connector"] or None,
            client=asked["client"] or None,
            outcomes=GROUPS.get(asked["outcome"]),
            since=_time(asked["from"]),
            until=_time(asked["to"]),
            before=cursor_of(ask.text("before", 80)),
        )
        rows, how, unread = Search([], "") if wrong else found(self.engine.trail, query, given, PER_PAGE + 1)
        if given and not rows and query.before is None:
            way = self._way(given, query.connector, query.client)
            if way.is_known:
                return see_other(f"/event?{urlencode({'id': way.event_id})}")
        state = self.engine.trail.state() if self.engine.trail is not None else None
        more = rows[PER_PAGE - 1] if len(rows) > PER_PAGE else None
        return self.frame.page(
            "events",
            ask,
            422 if wrong else 200,
            asked=asked,
            rows=rows[:PER_PAGE],
            how=how,
            wrong=wrong,
            more=str(Cursor(more.at, more.place)) if more is not None else "",
            first=query.before is None,
            groups=list(GROUPS),
            least=LEAST_PREFIX,
            state=state,
            unread=unread or (state.unread if state is not None else ""),
        )

    # --- one ---

    def event(self, ask: Ask) -> Response:
        given = ask.query.get("id", "")[:1000]
        connector, client = ask.text("connector", 200) or None, ask.text("client", 200) or None
        if not given:
            raise Trouble(404, "event_unknown")
        way = self._way(given, connector, client)
        named = {"connector": connector, "client": client}
        self.frame.audit(ask).line("event show", event_id=way.event_id, **named)
        return self.frame.page(
            "event",
            ask,
            200 if way.is_known else 404,
            way=way,
            now_at=now_at(way),
            bodies=bodies(way, Desk(LoadedSpecs(self.engine))),
            trail=self.engine.trail is not None,
            segment=segment,
        )

    def _way(self, given: str, connector: str | None, client: str | None) -> Way:
        return way_of(self.engine.store, self.engine.trail, given, connector=connector, client=client)


def _time(text: str) -> float | None:
    """As a browser's field writes it, in UTC; None for what is no time."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
