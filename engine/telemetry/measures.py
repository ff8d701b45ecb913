"""All that is measured: one table for Prometheus and CloudWatch, and what each event of the telemetry adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.records import Lane

MAX_VALUES = 5_000  # different values of one label; further ones count as "other"
LANE = ("connector", "client")
NO_REPLY = ("5xx", "0xx", "none")


class Family(NamedTuple):
    """One metric of Prometheus: how it is called, what tells its series apart, what it means."""

    kind: str  # count | seconds | gauge
    labels: tuple[str, ...]
    meaning: str

    def shown(self, name: str) -> str:
        """The name as a scrape shows it."""
        return f"{name}_total" if self.kind == "count" else name


class Metric(NamedTuple):
    """
    One metric of CloudWatch: those series of a family whose labels are among `where`, summed over all other labels.

    Each of `sets` is a set of dimensions that it is told by, and so a custom metric for each of their values.
    """

    family: str
    unit: str  # as CloudWatch calls it
    seed: str = ""  # which line of the seed asks for it
    where: Mapping[str, tuple[str, ...]] = {}
    sets: tuple[tuple[str, ...], ...] = (LANE,)


class Sample(NamedTuple):
    """What an event adds to one family."""

    family: str
    labels: Mapping[str, str]
    amount: float


# Every metric of the engine. docs/metrics.md shows it, and a test compares the two.
FAMILIES: dict[str, Family] = {
    "connect_events_accepted": Family("count", LANE, "Events stored and answered for"),
    "connect_events_refused": Family("count", ("connector", "status"), "Requests or events not taken in"),
    "connect_configuration_errors": Family(
        "count", ("connector", "reason"), "Events of an unknown client, or of one that can't be served"
    ),
    "connect_deliveries": Family("count", (*LANE, "action", "outcome"), "Deliveries settled"),
    "connect_retries": Family("count", (*LANE, "action"), "Deliveries put back for another try"),
    "connect_exchanges": Family("count", (*LANE, "status_class"), "HTTP exchanges with vendors"),
    "connect_exchange_seconds": Family("seconds", (*LANE, "action"), "How long vendors took to answer"),
    "connect_token_renewals": Family("count", (*LANE, "result"), "Log-ins and renewals"),
    "connect_auth_errors": Family("count", LANE, "Log-ins, tokens and keys that a vendor refused"),
    "connect_api_limit_errors": Family("count", LANE, "Times a vendor said that too much was asked of it"),
    "connect_throttled": Family("count", LANE, "Times a lane has to wait for a vendor or a limit"),
    "connect_alerts": Family("count", ("kind", *LANE), "Alerts raised"),
    "connect_faults": Family("count", ("where",), "Errors of this program itself"),
    "connect_lane_waiting": Family("gauge", LANE, "Deliveries that wait"),
    "connect_lane_paused": Family("gauge", LANE, "1 while a person must act"),
    "connect_oldest_seconds": Family("gauge", LANE, "Age of the oldest waiting delivery"),
    "connect_dead_letters": Family("gauge", LANE, "Dead letters that are there, as counted in the last minutes"),
    "connect_store_up": Family("gauge", (), "1 while the store can be read"),
}

METRICS: dict[str, Metric] = {
    "EventsAccepted": Metric("connect_events_accepted", "Count", "5.2.7, 5.3.8: volume by client"),
    "EventsRefused": Metric("connect_events_refused", "Count", sets=(("connector",),)),
    "ConfigurationErrors": Metric(
        "connect_configuration_errors", "Count", "5.3.8: configuration errors (tid not found)", sets=(("connector",),)
    ),
    "Delivered": Metric(
        "connect_deliveries",
        "Count",
        "5.2.7, 5.3.8: success rate, conversions by client; 5.4.8: records created or updated, by action",
        {"outcome": ("delivered",)},
        (LANE, (*LANE, "action")),
    ),
    "Rejected": Metric(
        "connect_deliveries", "Count", "5.2.7, 5.3.8: success rate; 5.7: dead letters", {"outcome": ("rejected",)}
    ),
    "Skipped": Metric("connect_deliveries", "Count", where={"outcome": ("skipped",)}),
    "Retries": Metric("connect_retries", "Count"),
    "Requests": Metric("connect_exchanges", "Count"),
    "RequestsFailed": Metric("connect_exchanges", "Count", where={"status_class": NO_REPLY}),
    "Latency": Metric("connect_exchange_seconds", "Milliseconds", "5.2.7, 5.3.8, 5.4.8: latency of the CRM"),
    "LogIns": Metric(
        "connect_token_renewals", "Count", "5.2.7: tokens renewed; 5.4.8: log-ins", {"result": ("renewed",)}
    ),
    "LogInsFailed": Metric(
        "connect_token_renewals", "Count", "5.2.7: tokens renewed; 5.4.8: log-ins", {"result": ("refused", "failed")}
    ),
    "AuthErrors": Metric("connect_auth_errors", "Count", "5.7: authentication errors"),
    "ApiLimitErrors": Metric("connect_api_limit_errors", "Count", "5.4.8: API limit errors"),
    "Throttled": Metric("connect_throttled", "Count"),
    "Alerts": Metric("connect_alerts", "Count"),
    "Faults": Metric("connect_faults", "Count", sets=((),)),
    "Waiting": Metric("connect_lane_waiting", "Count"),
    "Paused": Metric("connect_lane_paused", "Count"),
    "OldestSeconds": Metric("connect_oldest_seconds", "Seconds"),
}


def samples(name: str, facts: Mapping[str, object]) -> list[Sample]:
    """What an event adds; nothing for a name that none counts."""
    connector, client = text_of(facts, "connector"), text_of(facts, "client")
    lane = {"connector": connector, "client": client}
    count = facts.get("count", 1)
    times = count if isinstance(count, int) else 1
    match name:
        case "accepted":
            return [Sample("connect_events_accepted", lane, times)]
        case "refused":
            labels = {"connector": connector, "status": text_of(facts, "status")}
            return [Sample("connect_events_refused", labels, times)]
        case "misconfigured":
            labels = {"connector": connector, "reason": text_of(facts, "reason")}
            return [Sample("connect_configuration_errors", labels, times)]
        case "delivered" | "rejected" | "skipped":
            labels = {**lane, "action": text_of(facts, "action"), "outcome": name}
            return [Sample("connect_deliveries", labels, times)]
        case "retry" | "later":
            return [Sample("connect_retries", {**lane, "action": text_of(facts, "action")}, times)]
        case "exchange":
            found = [Sample("connect_exchanges", {**lane, "status_class": _status_class(facts.get("status"))}, 1)]
            seconds = facts.get("seconds")
            if isinstance(seconds, int | float):
                labels = {**lane, "action": text_of(facts, "action")}
                found.append(Sample("connect_exchange_seconds", labels, seconds))
            return found
        case "token-renewed":
            return [Sample("connect_token_renewals", {**lane, "result": "renewed"}, 1)]
        case "token-refused":
            refused = Sample("connect_token_renewals", {**lane, "result": "refused"}, 1)
            return [refused, Sample("connect_auth_errors", lane, 1)]
        case "token-failed":
            return [Sample("connect_token_renewals", {**lane, "result": "failed"}, 1)]
        case "access-refused":
            return [Sample("connect_auth_errors", lane, 1)]
        case "api-limit":
            return [Sample("connect_api_limit_errors", lane, 1)]
        case "throttled":
            return [Sample("connect_throttled", lane, 1)]
        case "alert":
            return [Sample("connect_alerts", {"kind": text_of(facts, "kind"), **lane}, 1)]
        case "fault":
            return [Sample("connect_faults", {"where": text_of(facts, "where")}, 1)]
    return []


def dead_letters(counts: Mapping[tuple[str, str], int]) -> list[Sample]:
    """How many dead letters each lane has."""
    return [
        Sample("connect_dead_letters", {"connector": connector, "client": client}, count)
        for (connector, client), count in counts.items()
    ]


def states(lane: Lane, now: float) -> list[Sample]:
    """How a lane stands at a moment."""
    labels = {"connector": lane.connector, "client": lane.client}
    age = max(0.0, now - lane.oldest_at) if lane.oldest_at is not None else 0.0
    return [
        Sample("connect_lane_waiting", labels, lane.waiting),
        Sample("connect_lane_paused", labels, int(lane.state == "paused")),
        Sample("connect_oldest_seconds", labels, age),
    ]


class Bounds:
    """Labels that stay bounded whatever is passed in."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[str, set[str]] = {}

    def value(self, label: str, text: str) -> str:
        """The text, or `other` where this label has had too many."""
        seen = self._seen.setdefault(label, set())
        if text not in seen:
            if len(seen) >= self._most:
                return "other"
            seen.add(text)
        return text


def text_of(facts: Mapping[str, object], name: str) -> str:
    value = facts.get(name)
    return "" if value is None else str(value)[:200]


def _status_class(status: object) -> str:
    return f"{status // 100}xx" if isinstance(status, int) else "none"
