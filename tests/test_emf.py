from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import START, Heard, Shop, Vendor, reply
from jsonschema_rs import validator_for

from engine.clock import VirtualClock
from engine.errors import StoreUnavailable
from engine.records import Lane
from engine.telemetry.emf import DIMENSIONS, MOST_VALUES, NAMESPACE, EmfMetrics
from engine.telemetry.log import Telemetry
from engine.telemetry.measures import FAMILIES, METRICS

UNITS = ["Seconds", "Milliseconds", "Bytes", "Percent", "Count", "None"]  # of those that CloudWatch knows
NAME = {"type": "string", "minLength": 1, "maxLength": 1024}
# What the specification of the Embedded Metric Format asks of a line, as a JSON Schema; `emf` looks at the rest.
RULES = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "additionalProperties": False,
            "properties": {
                "Timestamp": {"type": "integer", "minimum": 1_500_000_000_000, "maximum": 5_000_000_000_000},
                "CloudWatchMetrics": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "additionalProperties": False,
                        "properties": {
                            "Namespace": NAME,
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "array",
                                    "maxItems": 30,
                                    "items": {"type": "string", "minLength": 1, "maxLength": 250},
                                },
                            },
                            "Metrics": {
                                "type": "array",
                                "minItems": 1,
                                "maxItems": 100,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "additionalProperties": False,
                                    "properties": {
                                        "Name": NAME,
                                        "Unit": {"enum": UNITS},
                                        "StorageResolution": {"enum": [1, 60]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}
VALID = validator_for(RULES)


def emf(text: str) -> list[dict[str, Any]]:
    """The lines, each of which keeps the rules: also those that say what a name in it leads to."""
    lines = []
    for line in text.splitlines():
        assert len(line.encode()) <= 256 * 1024
        found = json.loads(line)
        VALID.validate(found)
        for directive in found["_aws"]["CloudWatchMetrics"]:
            for name in (name for one in directive["Dimensions"] for name in one):
                assert isinstance(found[name], str)
                assert 1 <= len(found[name]) <= 1024
            for metric in directive["Metrics"]:
                values = found[metric["Name"]]
                values = values if isinstance(values, list) else [values]
                assert 1 <= len(values) <= 100
                assert all(type(value) in (int, float) for value in values)
        lines.append(found)
    return lines


def shown(text: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """(values of the dimensions) -> the metrics."""
    found = {}
    for line in emf(text):
        [directive] = line["_aws"]["CloudWatchMetrics"]
        [names] = directive["Dimensions"]
        key = tuple(line[name] for name in names)
        assert key not in found
        found[key] = {metric["Name"]: line[metric["Name"]] for metric in directive["Metrics"]}
    return found


class Watched:
    """Metrics on a virtual clock, and what they wrote."""

    def __init__(self, **more: Any) -> None:
        self.clock = VirtualClock(START)
        self.stream = io.StringIO()
        self.metrics = EmfMetrics(stream=self.stream, clock=self.clock.now, **more)
        self.telemetry = Telemetry(
            mask=lambda text: text, stream=io.StringIO(), level="error", prometheus=False, emf=self.metrics
        )
        self.event = self.telemetry.event

    def written(self) -> dict[tuple[str, ...], dict[str, Any]]:
        self.telemetry.flush()
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return shown(text)


class Told(Heard):
    """Telemetry that is remembered and counted."""

    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__()
        self.telemetry = telemetry

    def event(self, name: str, /, **facts: object) -> None:
        super().event(name, **facts)
        self.telemetry.event(name, **facts)


LANE = {"connector": "crm", "client": "a"}


def test_a_line_is_one_json_object_as_the_format_asks() -> None:
    watched = Watched()
    watched.event("delivered", **LANE, action="lead", count=2)
    watched.telemetry.flush()
    assert emf(watched.stream.getvalue()) == [
        {
            "_aws": {
                "Timestamp": 1_769_596_245_000,
                "CloudWatchMetrics": [
                    {
                        "Namespace": "DaxGOConnect",
                        "Dimensions": [["Connector", "Client"]],
                        "Metrics": [{"Name": "Delivered", "Unit": "Count"}],
                    }
                ],
            },
            "Connector": "crm",
            "Client": "a",
            "Delivered": 2,
        },
        {
            "_aws": {
                "Timestamp": 1_769_596_245_000,
                "CloudWatchMetrics": [
                    {
                        "Namespace": "DaxGOConnect",
                        "Dimensions": [["Connector", "Client", "Action"]],
                        "Metrics": [{"Name": "Delivered", "Unit": "Count"}],
                    }
                ],
            },
            "Connector": "crm",
            "Client": "a",
            "Action": "lead",
            "Delivered": 2,
        },
    ]


def test_all_that_the_seed_asks_for_is_told_by_connector_and_client() -> None:
    watched = Watched()
    watched.telemetry.watch(lambda: [Lane("crm", "a", state="paused", waiting=7, oldest_at=START - 90)])
    watched.event("accepted", **LANE, count=3)
    watched.event("refused", connector="crm", status=422)
    watched.event("misconfigured", connector="crm", reason="unknown-client", count=2)
    watched.event("delivered", **LANE, action="lead", count=2)
    watched.event("rejected", **LANE, action="lead")
    watched.event("skipped", **LANE, action="lead", count=4)
    watched.event("retry", **LANE, action="lead", count=5)
    for status, seconds in [(200, 0.2), (204, 0.3004), (503, 1), (0, 30)]:
        watched.event("exchange", **LANE, action="lead", status=status, seconds=seconds)
    watched.event("token-renewed", **LANE)
    watched.event("token-refused", **LANE)
    watched.event("token-failed", **LANE)
    watched.event("access-refused", **LANE, action="lead", status=401)
    watched.event("api-limit", **LANE, action="lead", status=429)
    watched.event("throttled", **LANE)
    watched.event("alert", **LANE, kind="lane-paused")
    watched.event("fault", where="serve")
    watched.event("unheard-of", **LANE)
    assert watched.written() == {
        (): {"Faults": 1},
        ("crm",): {"EventsRefused": 1, "ConfigurationErrors": 2},
        ("crm", "a", "lead"): {"Delivered": 2},
        ("crm", "a"): {
            "EventsAccepted": 3,
            "Delivered": 2,
            "Rejected": 1,
            "Skipped": 4,
            "Retries": 5,
            "Requests": 4,
            "RequestsFailed": 2,
            "Latency": [200, 300.4, 1000, 30000],
            "LogIns": 1,
            "LogInsFailed": 2,
            "AuthErrors": 2,
            "ApiLimitErrors": 1,
            "Throttled": 1,
            "Alerts": 1,
            "Waiting": 7,
            "Paused": 1,
            "OldestSeconds": 90,
        },
    }
    assert watched.written() == {("crm", "a"): {"Waiting": 7, "Paused": 1, "OldestSeconds": 90}}  # told once


def test_nothing_is_written_where_nothing_happened() -> None:
    watched = Watched()
    watched.telemetry.flush()
    assert watched.stream.getvalue() == ""


def test_of_many_durations_a_hundred_are_told_and_the_longest_among_them() -> None:
    watched = Watched(chance=lambda below: (below * 7919) % below if below % 2 else below // 3)
    for number in range(5_000):
        watched.event("exchange", **LANE, action="lead", status=200, seconds=number / 1000 if number != 777 else 60.0)
    told = watched.written()["crm", "a"]
    assert (told["Requests"], len(told["Latency"]), max(told["Latency"])) == (5_000, MOST_VALUES, 60_000)


def test_dimensions_are_bounded_whatever_is_passed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.telemetry.emf.MOST_DIMENSIONS", 2)
    watched = Watched()
    for client in "abcda":
        watched.event("throttled", connector="crm", client=client)
    assert watched.written() == {
        ("crm", "a"): {"Throttled": 2},
        ("crm", "b"): {"Throttled": 1},
        ("crm", "other"): {"Throttled": 2},
    }


def test_the_store_that_is_away_keeps_no_counts_back() -> None:
    def away() -> list[Lane]:
        raise StoreUnavailable("locked")

    watched = Watched()
    watched.telemetry.watch(away)
    watched.event("throttled", **LANE)
    assert watched.written() == {("crm", "a"): {"Throttled": 1}}


def test_a_stream_that_is_closed_or_full_stops_nobody_and_what_it_did_not_take_is_not_kept() -> None:
    watched = Watched()
    watched.stream.close()
    watched.event("throttled", **LANE)
    watched.telemetry.flush()
    watched.telemetry.close()

    said: list[int] = []

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            said.extend(line["Throttled"] for line in emf(text))
            raise OSError("no space left on device")

    metrics = EmfMetrics(stream=Full())
    for _ in range(2):
        metrics.count("throttled", LANE)
        metrics.flush()
    metrics.close()
    assert said == [1, 1]


def test_a_process_that_runs_on_writes_once_in_a_while_and_at_its_end() -> None:
    watched = Watched()
    watched.metrics.begin(lambda: [], every_s=0.01)
    watched.event("throttled", **LANE)
    deadline = time.monotonic() + 10
    while not watched.stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.005)
    watched.event("throttled", **LANE)
    watched.telemetry.close()
    assert [line["Throttled"] for line in emf(watched.stream.getvalue())] == [1, 1]


def test_prometheus_is_not_loaded_where_nobody_scrapes() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom engine.telemetry.emf import EmfMetrics\nfrom engine.telemetry.log import Telemetry\n"
        "t = Telemetry(mask=str, prometheus=False, emf=EmfMetrics())\n"
        "t.event('delivered', connector='crm', client='a', action='lead')\nt.flush()\n"
        "print(t.metrics(), 'prometheus_client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "b'' False"


def test_every_metric_is_of_a_family_and_its_dimensions_are_labels_of_it() -> None:
    for name, metric in METRICS.items():
        family = FAMILIES[metric.family]
        labels = {*family.labels, "client"} if name == "Latency" else set(family.labels)
        assert {label for one in metric.sets for label in one} <= labels & DIMENSIONS.keys(), name
        assert metric.where.keys() <= set(family.labels), name
        assert metric.unit in UNITS, name
    assert NAMESPACE == "DaxGOConnect"


def test_what_a_walk_does_comes_out_as_metrics() -> None:
    """One is delivered after a refused token and a 429, another is rejected."""
    watched = Watched()
    log_ins = iter([reply(200, {"t": "one"}), reply(200, {"t": "two"})])
    answers = iter([reply(401), reply(429), reply(200), reply(400)])
    vendor = Vendor(answer=lambda asked: next(log_ins) if asked.purpose == "auth" else next(answers))
    auth = """
auth:
  token:
    request: {method: POST, url: 'https://api.crm.example/token', json: {}}
    save: {value: "${ response.body.t }"}
    expires: {never: true}
  place: {headers: {Authorization: "Bearer {{ token.value }}"}}
"""
    shop = Shop(auth, vendor=vendor)
    shop.heard = Told(watched.telemetry)
    shop.worker = shop.new_worker()
    shop.post({"id": "1"})
    shop.drain(for_s=3600)
    shop.post({"id": "2"})
    shop.drain()
    found = watched.written()["crm", "abc"]
    assert {name: found[name] for name in found if name not in ("Latency", "Retries")} == {
        "Delivered": 1,
        "Rejected": 1,
        "Requests": 6,
        "LogIns": 2,
        "AuthErrors": 1,
        "ApiLimitErrors": 1,
        "Throttled": 1,
    }
    assert found["Latency"] == [0] * 6  # the clock stands still while the vendor answers


def tables(text: str) -> list[list[list[str]]]:
    """The cells of the tables, without their heads."""
    found: list[list[list[str]]] = []
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        if rows:
            split = [row.replace("\\|", "\0").strip("|").split("|") for row in rows[2:]]
            found.append([[cell.strip().replace("\0", "|") for cell in row] for row in split])
    return found


def test_the_page_of_metrics_says_what_there_is() -> None:
    page = (Path(__file__).parent.parent / "docs/metrics.md").read_text(encoding="utf-8")
    families, _, metrics, *_ = tables(page)
    assert families == [
        [f"`{family.shown(name)}`", ", ".join(family.labels), family.meaning] for name, family in FAMILIES.items()
    ]
    rows = []
    for name, metric in METRICS.items():
        sets = "; ".join(", ".join(DIMENSIONS[label] for label in labels) or "none" for labels in metric.sets)
        where = "".join(f"{{{label}={'|'.join(words)}}}" for label, words in metric.where.items())
        series = f"`{FAMILIES[metric.family].shown(metric.family)}{where}`"
        rows.append([f"`{name}`", metric.unit, sets, series, metric.seed])
    assert metrics == rows
    assert f"namespace is `{NAMESPACE}`" in page
