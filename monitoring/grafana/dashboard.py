"""The panels of the dashboard, in short -> connect.json as Grafana imports it; run this file to write it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("connect.json")
SOURCE = {"type": "prometheus", "uid": "${source}"}
LANE = 'connector=~"$connector", client=~"$client"'
CONNECTOR = 'connector=~"$connector"'
BY_LANE = "{{connector}}/{{client}}"
ENDED = f'{LANE}, outcome=~"delivered|rejected"'
REJECTED = f'{LANE}, outcome="rejected"'
UNKNOWN = f'{CONNECTOR}, reason="unknown-client"'


class Panel(NamedTuple):
    """One panel: what it shows, in which unit, by which queries with their legends."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8  # of 24
    says: str = ""
    red_above: float | None = None
    red_below: float | None = None


def success(by: str, span: str = "$__rate_interval") -> str:
    """What was not rejected of all that ended; a lane without a single rejection has no such series."""
    ended = f"sum by ({by}) (rate(connect_deliveries_total{{{ENDED}}}[{span}]))"
    rejected = f"sum by ({by}) (rate(connect_deliveries_total{{{REJECTED}}}[{span}]))"
    return f"1 - ({rejected} or 0 * {ended}) / ({ended} > 0)"


def rate(metric: str, by: str, where: str = LANE) -> str:
    """A minute."""
    return f"60 * sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def increase(metric: str, where: str, by: str = "") -> str:
    """Over the time that is shown."""
    return f"sum{f' by ({by})' if by else ''} (increase({metric}{{{where}}}[$__range]))"


def gauge(metric: str, how: str = "max") -> str:
    """Several processes may show the lanes of one store."""
    return f"{how} (max by (connector, client) ({metric}{{{LANE}}}))"


def latency(quantile: str, by: str) -> str:
    grouped = f"sum by ({by}) (rate(connect_exchange_seconds_bucket{{{LANE}}}[$__rate_interval]))"
    return f"histogram_quantile({quantile}, {grouped})"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel("Events in", "short", ((increase("connect_events_accepted_total", LANE), ""),), "stat", 3),
        Panel(
            "Success rate",
            "percentunit",
            ((success("", "$__range"), ""),),
            "stat",
            3,
            "Delivered, of delivered and rejected.",
            red_below=0.95,
        ),
        Panel("Waiting", "short", ((gauge("connect_lane_waiting", "sum"), ""),), "stat", 3),
        Panel("Oldest event", "s", ((gauge("connect_oldest_seconds"), ""),), "stat", 3, red_above=3600),
        Panel(
            "Lanes paused",
            "short",
            ((gauge("connect_lane_paused", "sum"), ""),),
            "stat",
            3,
            "A person must act.",
            red_above=1,
        ),
        Panel(
            "New dead letters",
            "short",
            ((f"{increase('connect_deliveries_total', REJECTED)} or vector(0)", ""),),
            "stat",
            3,
            red_above=1,
        ),
        Panel(
            "Of an unknown tid",
            "short",
            ((f"{increase('connect_configuration_errors_total', UNKNOWN)} or vector(0)", ""),),
            "stat",
            3,
            "Events of a client that no file names.",
            red_above=1,
        ),
        Panel("Store", "short", (("min(connect_store_up)", ""),), "stat", 3, "1 while it can be read.", red_below=1),
    ),
    "By connector": (
        Panel("Events in a minute", "short", ((rate("connect_events_accepted_total", "connector"), "{{connector}}"),)),
        Panel("Success rate", "percentunit", ((success("connector"), "{{connector}}"),)),
        Panel(
            "The CRM's answer: p50 and p95",
            "s",
            (
                (latency("0.5", "connector, le"), "{{connector}} p50"),
                (latency("0.95", "connector, le"), "{{connector}} p95"),
            ),
        ),
        Panel("p95 by action", "s", ((latency("0.95", "connector, action, le"), "{{connector}}.{{action}}"),)),
        Panel(
            "Records delivered a minute, by action",
            "short",
            (
                (
                    rate("connect_deliveries_total", "connector, action", f'{LANE}, outcome="delivered"'),
                    "{{connector}}.{{action}}",
                ),
            ),
            says="Created or updated, as the action's name says.",
        ),
        Panel(
            "Requests a minute, by answer",
            "short",
            ((rate("connect_exchanges_total", "connector, status_class"), "{{connector}} {{status_class}}"),),
            says="0xx: no reply.",
        ),
        Panel(
            "Refused at the door a minute",
            "short",
            ((rate("connect_events_refused_total", "connector, status", CONNECTOR), "{{connector}} {{status}}"),),
        ),
        Panel(
            "Nobody's events a minute",
            "short",
            ((rate("connect_configuration_errors_total", "connector, reason", CONNECTOR), "{{connector}} {{reason}}"),),
            says="unknown-client: a tid that no file names.",
        ),
        Panel(
            "Faults of the engine a minute",
            "short",
            (("60 * sum by (where) (rate(connect_faults_total[$__rate_interval]))", "{{where}}"),),
        ),
    ),
    "By client": (
        Panel("Events in a minute", "short", ((rate("connect_events_accepted_total", "connector, client"), BY_LANE),)),
        Panel("Success rate", "percentunit", ((success("connector, client"), BY_LANE),)),
        Panel(
            "Dead letters a minute",
            "short",
            ((rate("connect_deliveries_total", "connector, client", REJECTED), BY_LANE),),
        ),
        Panel("Dead letters", "short", ((f"max by (connector, client) (connect_dead_letters{{{LANE}}})", BY_LANE),)),
        Panel("The CRM's answer: p95", "s", ((latency("0.95", "connector, client, le"), BY_LANE),)),
        Panel("Waiting", "short", ((f"max by (connector, client) (connect_lane_waiting{{{LANE}}})", BY_LANE),)),
        Panel("Oldest event", "s", ((f"max by (connector, client) (connect_oldest_seconds{{{LANE}}})", BY_LANE),)),
        Panel("Paused", "short", ((f"max by (connector, client) (connect_lane_paused{{{LANE}}})", BY_LANE),)),
        Panel("Retries a minute", "short", ((rate("connect_retries_total", "connector, client"), BY_LANE),)),
        Panel("Throttled, times a minute", "short", ((rate("connect_throttled_total", "connector, client"), BY_LANE),)),
        Panel(
            "API-limit errors a minute",
            "short",
            ((rate("connect_api_limit_errors_total", "connector, client"), BY_LANE),),
        ),
        Panel(
            "Token renewals a minute",
            "short",
            ((rate("connect_token_renewals_total", "connector, client, result"), BY_LANE + " {{result}}"),),
        ),
        Panel(
            "Refused log-ins, tokens, keys a minute",
            "short",
            ((rate("connect_auth_errors_total", "connector, client"), BY_LANE),),
        ),
        Panel(
            "Alerts a minute",
            "short",
            ((rate("connect_alerts_total", "kind, connector, client"), "{{kind}} " + BY_LANE),),
        ),
    ),
}


def whole() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row, shown in ROWS.items():
        panels.append({"type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": place(0, y, 24, 1)})
        x, y = 0, y + 1
        for panel in shown:
            height = 4 if panel.kind == "stat" else 7
            if x + panel.width > 24:
                x, y = 0, y + height
            panels.append(of(panel, place(x, y, panel.width, height)))
            x += panel.width
        y += height
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return {
        "uid": "daxgo-connect",
        "title": "DaxGO Connect",
        "tags": ["daxgo-connect"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                chosen("connector", "label_values(connect_lane_waiting, connector)"),
                chosen("client", 'label_values(connect_lane_waiting{connector=~"$connector"}, client)'),
            ]
        },
        "panels": panels,
    }


def place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def chosen(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def of(panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.red_above is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.red_above}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    elif panel.red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.unit == "percentunit":
        defaults["max"] = 1
    stat = panel.kind == "stat"
    targets = [
        {"refId": chr(65 + number), "datasource": SOURCE, "expr": query, "legendFormat": legend, "instant": stat}
        for number, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}}
        if stat
        else {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": targets,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(whole(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
