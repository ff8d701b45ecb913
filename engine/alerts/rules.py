"""`alerts` of `connect.yaml` -> what counts as a trouble, for whom, and when people sleep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from engine.alerts.kinds import KINDS, kind_of
from engine.spec import units

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from engine.spec.project import AlertSettings


class Bounds(NamedTuple):
    """Of one client."""

    oldest_s: float
    dead: units.Rate


class Rules:
    """What the settings say; read anew whenever the file changes."""

    def __init__(self, settings: AlertSettings, admin_url: str | None = None) -> None:
        """`admin_url`: where people reach the admin side."""
        self.settings = settings
        self.admin_url = admin_url.rstrip("/") if admin_url else None
        self.share = int(settings.store.removesuffix("%")) / 100
        self.urgent = frozenset(
            settings.urgent if settings.urgent is not None else (name for name, kind in KINDS.items() if kind.urgent)
        )
        self.bounds = Bounds(units.duration(settings.oldest), units.rate(settings.dead_letters))
        self.quiet = tuple(map(_minutes, settings.quiet.split("-"))) if settings.quiet else None

    @cached_property
    def zone(self) -> ZoneInfo:
        from zoneinfo import ZoneInfo  # looks for its files when it is loaded: when the first trouble is told

        return ZoneInfo(self.settings.timezone)

    def of(self, client: str) -> Bounds:
        own = self.settings.clients.get(client)
        if own is None:
            return self.bounds
        return Bounds(
            units.duration(own.oldest) if own.oldest else self.bounds.oldest_s,
            units.rate(own.dead_letters) if own.dead_letters else self.bounds.dead,
        )

    def waiting_kinds(self) -> frozenset[str]:
        """What wakes nobody."""
        return frozenset(KINDS) - self.urgent

    def is_quiet(self, now: float) -> bool:
        """Do people sleep now?"""
        if self.quiet is None:
            return False
        at = datetime.fromtimestamp(now, self.zone)
        minute, (begin, end) = at.hour * 60 + at.minute, self.quiet
        return begin <= minute < end if begin <= end else minute >= begin or minute < end

    def do(self, kind: str, connector: str, client: str) -> str:
        """What to do next, with the names in it."""
        return kind_of(kind).do.replace("CONNECTOR", connector).replace("CLIENT", client)

    def moment(self, at: float, now: float) -> str:
        """`14:03`, with the day where it is another one, in the zone of the settings."""
        found, today = datetime.fromtimestamp(at, self.zone), datetime.fromtimestamp(now, self.zone)
        day = "" if found.date() == today.date() else f"{found:%Y-%m-%d} "
        return f"{day}{found:%H:%M} {self.settings.timezone}"


def lasting(seconds: float) -> str:
    """`40 s`, `14 min`, `3 h 5 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def stamp(at: float) -> str:
    """As programs read it: 2026-01-28T10:30:45Z."""
    return (datetime.fromtimestamp(0, UTC) + timedelta(seconds=int(at))).isoformat().replace("+00:00", "Z")


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
