"""What was settled -> what people hear of it: counts, log lines, alerts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from engine.privacy.personal import addresses
from engine.records import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.program import Program
    from engine.records import Ended, LaneChange, Settled, Skipped
    from engine.walk import World


OUTAGE_TRIES = 3  # tries of a lane in a row that end in an outage before someone hears of it


class Reporter:
    """One for a worker."""

    def __init__(self, world: World) -> None:
        self.world = world

    def settled(
        self, program: Program, ended: Sequence[Ended], rows: Sequence[Settled], change: LaneChange | None
    ) -> None:
        connector, client = program.connector.name, program.client.client
        telemetry = self.world.telemetry
        counts = Counter(
            [
                (one.delivery.action, row.kind)
                for one, row in zip(ended, rows, strict=True)
                if row.kind != "later" or one.outcome.kind is not OutcomeKind.PAUSE  # that is no retry: it stands
            ]
        )
        for (action, kind), count in counts.items():
            telemetry.event(kind, connector=connector, client=client, action=action, count=count)
        rejected = [row for row in rows if row.kind == "rejected" and not row.expected]
        if rejected:
            self.world.alerts.alert(
                "dead-letter",
                connector=connector,
                client=client,
                text=f"{connector}/{client}: {len(rejected)} rejected: {rejected[0].reason}",
                facts={"count": str(len(rejected)), "code": rejected[0].code},
            )
        if change is not None and change.pause:
            self.paused(connector, client, change.reason or "")
        elif change is not None and change.not_before is not None:
            telemetry.event(
                "throttled", connector=connector, client=client, why=change.reason or "", until=change.not_before
            )
            if change.failing_since and (change.failures or 0) >= OUTAGE_TRIES:
                self.outage(connector, client, change)

    def outage(self, connector: str, client: str, change: LaneChange) -> None:
        """Someone hears that a vendor does not answer, or says that it is down, though nothing has to be done."""
        self.world.alerts.alert(
            "outage",
            connector=connector,
            client=client,
            text=f"{connector}/{client}: {change.reason}; {change.failures} tries in a row failed; "
            "its events are kept and it is tried again",
            facts={"reason": change.reason or "", "tries": str(change.failures)},
        )

    def followed(self, program: Program, skipped: Sequence[Skipped]) -> None:
        """What the store skipped by itself: those that waited for one that was rejected."""
        connector, client = program.connector.name, program.client.client
        for action, why in dict.fromkeys((each.action, each.reason) for each in skipped):
            count = sum((each.action, each.reason) == (action, why) for each in skipped)
            self.world.telemetry.event(
                "skipped", connector=connector, client=client, action=action, count=count, why=why
            )

    def failed(self, connector: str, client: str, why: str) -> None:
        """A turn of a lane ended in an error: it is looked at again, and someone hears of it."""
        why = addresses(why)
        self.world.telemetry.event("lane-failed", connector=connector, client=client, why=why)
        text = f"{connector}/{client}: {why}; its events are kept and it is tried again"
        self.world.alerts.alert("lane-failed", connector=connector, client=client, text=text, facts={"reason": why})

    def withdrawn(self, connector: str, client: str, action: str, count: int | None) -> None:
        """Deliveries wait for an action that is not there; `count` None: very many."""
        text = (
            f"{connector}/{client}: {count or 'a thousand or more'} deliveries wait for the action {action}, which is"
            " not in the connector any more, or is switched off; put it back within a day of their arrival, or they"
            " become dead letters (code action-gone), which `connect dead retry` sends once it is back"
        )
        facts = {"action": action, "count": "" if count is None else str(count)}
        self.world.alerts.alert("action-gone", connector=connector, client=client, text=text, facts=facts)

    def back(self, connector: str, client: str) -> None:
        """An action that was not there is there again."""
        self.world.alerts.over("action-gone", connector=connector, client=client)

    def paused(self, connector: str, client: str, reason: str, action: str = "") -> None:
        """Someone hears that a lane, or one action of it, stands still until it is mended."""
        what = f"action {action}" if action else "lane"
        self.world.telemetry.event("lane-paused", connector=connector, client=client, action=action, why=reason)
        self.world.alerts.alert(
            "action-paused" if action else "lane-paused",
            connector=connector,
            client=client,
            text=f"{connector}/{client}: {reason}; {what} paused, its events are kept",
            facts={"reason": reason},
        )
