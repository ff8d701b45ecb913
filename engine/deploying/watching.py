"""
What is measured -> alarms to the topic, a dashboard for each client, and one over all.

Names of metrics and dimensions are those of `engine.telemetry.measures`. A metric told by lane is looked at over
all lanes at once by a query, so that the number of alarms does not grow with the number of clients.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-Metrics-Insights-Alarms.html
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.authoring.scaffold.writing import Inline
from engine.deploying import naming
from engine.deploying.permissions import sub
from engine.stores.dynamodb.table import INDEX
from engine.telemetry.emf import DIMENSIONS, NAMESPACE, SUCCESS_RATE
from engine.telemetry.measures import LANE, METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.deploying.parts import Function, Parts
    from engine.spec.types import Client

Widget = dict[str, Any]

WIDE, HALF, HIGH = 24, 12, 6
OLDEST_S = 3_600
PERIOD_S = 300
LONG_S = 900  # as long as the usual wait of a batch: a lane that is looked at every 15 minutes tells its state as often


# --- alarms ---


def alarms(parts: Parts) -> dict[str, dict[str, Any]]:
    """By logical id, in the order in which they are read."""
    prefix = parts.options.prefix
    found = {
        "AlarmOldest": _by_query(
            f"{prefix}-oldest-event",
            "An event waits longer than OldestEventSeconds; `connect status` says whose, and why.",
            "OldestSeconds",
            "MAX",
            Inline(Ref="OldestEventSeconds"),
            LONG_S,
        ),
        "AlarmRejected": _by_query(
            f"{prefix}-dead-letters",
            "Events became dead letters; `connect dead list` shows them with the reasons.",
            "Rejected",
            "SUM",
            Inline(Ref="DeadLettersAtOnce"),
            PERIOD_S,
        ),
        "AlarmAuth": _by_query(
            f"{prefix}-auth-failures",
            "A vendor refuses a log-in, a token or a key; the lane is paused and keeps its events.",
            "AuthErrors",
            "SUM",
            0,
            PERIOD_S,
        ),
        "AlarmPaused": _by_query(
            f"{prefix}-paused",
            "A lane is paused until a person mends what is wrong; `connect status` says what.",
            "Paused",
            "MAX",
            0,
            LONG_S,
        ),
        "AlarmApi": _alarm(
            f"{prefix}-api-5xx",
            "The API answers with 5xx: events are not taken in.",
            Namespace="AWS/ApiGateway",
            MetricName="5xx",
            Dimensions=[Inline(Name="ApiId", Value=Inline(Ref="Api"))],
            Statistic="Sum",
            Period=PERIOD_S,
        ),
        "AlarmMissed": _alarm(
            f"{prefix}-missed-runs",
            "A run of a schedule failed or never began; its message lies in the queue.",
            Namespace="AWS/SQS",
            MetricName="NumberOfMessagesSent",  # and not how many lie there: the alarm ends when runs succeed again
            Dimensions=[Inline(Name="QueueName", Value=Inline({"Fn::GetAtt": ["Missed", "QueueName"]}))],
            Statistic="Sum",
            Period=PERIOD_S,
        ),
        "AlarmTable": _throttles(prefix),
    }
    for function in parts.functions:
        found[f"Alarm{function.id}"] = _alarm(
            naming.bounded(f"{function.name}-errors", 255),
            f"{function.name} ends in errors; its log says why.",
            Namespace="AWS/Lambda",
            MetricName="Errors",
            Dimensions=[Inline(Name="FunctionName", Value=Inline(Ref=function.id))],
            Statistic="Sum",
            Period=PERIOD_S,
        )
    return found


def _alarm(name: str, says: str, *, above: Any = 0, **properties: Any) -> dict[str, Any]:
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmName": name,
            "AlarmDescription": says,
            **properties,
            "ComparisonOperator": "GreaterThanThreshold",
            "Threshold": above,
            "EvaluationPeriods": 1,
            "TreatMissingData": "notBreaching",
            "AlarmActions": [Inline(Ref="Alerts")],
        },
    }


def _by_query(name: str, says: str, metric: str, how: str, above: Any, period_s: int) -> dict[str, Any]:
    """Over all lanes at once."""
    assert LANE in METRICS[metric].sets
    by = ", ".join(DIMENSIONS[label] for label in LANE)
    query = f'SELECT {how}({metric}) FROM SCHEMA("{NAMESPACE}", {by})'
    return _alarm(
        name, says, above=above, Metrics=[{"Id": "found", "Expression": query, "Period": period_s, "ReturnData": True}]
    )


def _throttles(prefix: str) -> dict[str, Any]:
    """Of the table and of its index, reads and writes together."""
    table = Inline(Name="TableName", Value=Inline(Ref="Table"))
    index = Inline(Name="GlobalSecondaryIndexName", Value=INDEX)
    metrics: list[dict[str, Any]] = [{"Id": "all", "Expression": "SUM(METRICS())", "ReturnData": True}]
    for id_, metric, dimensions in (
        ("reads", "ReadThrottleEvents", [table]),
        ("writes", "WriteThrottleEvents", [table]),
        ("due", "ReadThrottleEvents", [table, index]),
        ("marks", "WriteThrottleEvents", [table, index]),
    ):
        stat = {
            "Metric": {"Namespace": "AWS/DynamoDB", "MetricName": metric, "Dimensions": dimensions},
            "Period": PERIOD_S,
            "Stat": "Sum",
        }
        metrics.append({"Id": id_, "MetricStat": stat, "ReturnData": False})
    return _alarm(f"{prefix}-table-throttles", "DynamoDB throttles the table or its index.", Metrics=metrics)


# --- dashboards ---


def dashboard(name: str, widgets: Sequence[Widget]) -> dict[str, Any]:
    body = json.dumps({"widgets": _placed(widgets)}, ensure_ascii=False, separators=(",", ":"))
    return {
        "Type": "AWS::CloudWatch::Dashboard",
        "Properties": {"DashboardName": name, "DashboardBody": sub(body)},
    }


def of_client(prefix: str, client: Client) -> dict[str, Any]:
    """The seed's: success, latency, volume, token renewals and log-in errors of each connector of the client."""
    widgets = [_text(f"# {_safe(client.title or client.client)}\n`{client.client}`")]
    for connector in sorted(client.connectors):
        lane = {"connector": connector, "client": client.client}
        widgets += [
            _text(f"## {connector}"),
            _graph("Success rate (%)", [*_success(lane)], least=0, most=100),
            _graph("Volume", [_metric(each, lane) for each in ("EventsAccepted", "Delivered", "Rejected", "Skipped")]),
            _graph("Latency (ms)", [_metric("Latency", lane, stat=stat) for stat in ("p50", "p95", "Maximum")]),
            _graph("Token renewals", [_metric(each, lane) for each in ("LogIns", "LogInsFailed")]),
            _graph("Log-in errors and limits", [_metric(each, lane) for each in ("AuthErrors", "ApiLimitErrors")]),
            _graph(
                "Waiting, and age of the oldest (s)",
                [_metric("Waiting", lane, stat="Maximum"), _metric("OldestSeconds", lane, stat="Maximum", right=True)],
            ),
        ]
    return dashboard(naming.bounded(f"{prefix}-client-{client.client}", 255), widgets)


def overview(parts: Parts) -> dict[str, Any]:
    """All clients side by side, and how the machinery does."""
    by = ",".join([NAMESPACE, *(DIMENSIONS[label] for label in LANE)])

    def over(metric: str, stat: str) -> list[Any]:
        assert LANE in METRICS[metric].sets
        search = f"SEARCH('{{{by}}} MetricName=\"{metric}\"', '{stat}', {PERIOD_S})"
        return [{"expression": search, "id": metric.lower()}]

    table, api = {"TableName": "${Table}"}, {"ApiId": "${Api}"}
    widgets = [
        _text(f"# {parts.options.prefix}: all clients"),
        _graph("Delivered", [over("Delivered", "Sum")]),
        _graph("Rejected", [over("Rejected", "Sum")]),
        _graph("Waiting", [over("Waiting", "Maximum")]),
        _graph("Age of the oldest event (s)", [over("OldestSeconds", "Maximum")]),
        _graph("Log-in errors", [over("AuthErrors", "Sum")]),
        _graph("Latency of the vendors (ms, p95)", [over("Latency", "p95")]),
        _text("## The machinery"),
        _graph("API", [_of("AWS/ApiGateway", each, api) for each in ("Count", "4xx", "5xx")]),
        _graph("Errors of functions", [_errors(each) for each in parts.functions[:100]]),
        _graph(
            "Capacity of the table",
            [_of("AWS/DynamoDB", f"Consumed{each}CapacityUnits", table) for each in ("Read", "Write")],
        ),
        _graph(
            "Runs that were missed",
            [_of("AWS/SQS", "NumberOfMessagesSent", {"QueueName": "${Missed.QueueName}"})],
        ),
    ]
    return dashboard(f"{parts.options.prefix}-overview", widgets)


def _errors(function: Function) -> list[Any]:
    return _of("AWS/Lambda", "Errors", {"FunctionName": "${" + function.id + "}"})


def _of(namespace: str, metric: str, dimensions: dict[str, str], stat: str = "Sum") -> list[Any]:
    named = [part for pair in dimensions.items() for part in pair]
    return [namespace, metric, *named, {"stat": stat}]


def _metric(metric: str, lane: dict[str, str], *, stat: str = "Sum", right: bool = False) -> list[Any]:
    assert LANE in METRICS[metric].sets
    shown = {"stat": stat, "label": metric if stat in ("Sum", "Maximum") and metric != "Latency" else stat}
    return [NAMESPACE, metric, *_named(lane), {**shown, **({"yAxis": "right"} if right else {})}]


def _named(lane: dict[str, str]) -> list[str]:
    return [part for label in LANE for part in (DIMENSIONS[label], lane[label])]


def _success(lane: dict[str, str]) -> list[list[Any]]:
    """What did not happen is not written, and counts as none."""
    shown: list[list[Any]] = [[{"expression": SUCCESS_RATE, "label": "delivered", "id": "rate"}]]
    for metric in ("Delivered", "Rejected"):
        counted = f"{metric.lower()}_counted"
        shown.append([{"expression": f"FILL({counted}, 0)", "id": metric.lower(), "visible": False}])
        shown.append([NAMESPACE, metric, *_named(lane), {"stat": "Sum", "id": counted, "visible": False}])
    return shown


def _graph(title: str, metrics: list[list[Any]], *, least: int | None = None, most: int | None = None) -> Widget:
    axis = {name: value for name, value in (("min", least), ("max", most)) if value is not None}
    properties: Widget = {"title": title, "region": "${AWS::Region}", "view": "timeSeries", "period": PERIOD_S}
    if axis:
        properties["yAxis"] = {"left": axis}
    return {"type": "metric", "width": HALF, "height": HIGH, "properties": {**properties, "metrics": metrics}}


def _text(markdown: str) -> Widget:
    return {"type": "text", "width": WIDE, "height": 2, "properties": {"markdown": markdown}}


def _placed(widgets: Sequence[Widget]) -> list[Widget]:
    """From left to right, then below."""
    placed, x, y, high = [], 0, 0, 0
    for each in widgets:
        if x + each["width"] > WIDE:
            x, y, high = 0, y + high, 0
        placed.append({"type": each["type"], "x": x, "y": y, **{key: each[key] for key in each if key != "type"}})
        x, high = x + each["width"], max(high, each["height"])
    return placed


def _safe(title: str) -> str:
    """Somebody's title within `Fn::Sub`."""
    return " ".join(title.split()).replace("${", "${!")
