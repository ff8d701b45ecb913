from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from command import EVENTS, KEYS, ROOT, SECRETS, Running, free_port, make_project, post, soon

from engine.telemetry.measures import FAMILIES

RULES = ROOT / "monitoring/prometheus/rules.yml"
DASHBOARD = ROOT / "monitoring/grafana/connect.json"
OURS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate"}}  # Prometheus makes these itself
PROMETHEUS = pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not on this machine")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def plain(query: str) -> str:
    """As Grafana sends it, with all connectors and clients chosen."""
    for name, value in {"$__rate_interval": "1m", "$__range": "1h", "$connector": ".*", "$client": ".*"}.items():
        query = query.replace(name, value)
    return query


def queries() -> dict[str, str]:
    found = {rule.get("record") or rule["alert"]: rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"{panel['gridPos']} {panel['title']} {target['refId']}"] = plain(target["expr"])
    return found


def selectors(query: str) -> list[tuple[str, set[str]]]:
    """(metric, labels that it is chosen by) of each selector."""
    promql_parser.parse(query)
    spaced = re.sub(r"\s+", " ", query)
    found = []
    for name, chosen in re.findall(r"\b(up|ALERTS|connect[_:][a-z0-9_:]+)\b(?:\{([^}]*)\})?", spaced):
        found.append((name, set(re.findall(r"([a-z_]+) ?(?:=~|!=|=)", chosen))))
    return found


def groupings(query: str) -> set[str]:
    """The labels that something is grouped or joined by."""
    return {label.strip() for names in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in names.split(",")} - {
        ""
    }


def known() -> dict[str, set[str]]:
    """Each series that there is, with its labels."""
    found = {name: set(labels) for name, labels in OURS.items()}
    for name, family in FAMILIES.items():
        found[family.shown(name)] = set(family.labels) | {"job", "instance"}
        if family.kind == "seconds":
            found[f"{name}_bucket"] = {*family.labels, "le", "job", "instance"}
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = groupings(rule["expr"]) - {"le"}
    return found


def test_every_query_names_only_metrics_and_labels_that_there_are() -> None:
    there = known()
    wrong = []
    for where, query in queries().items():
        labels = set()
        for name, chosen in selectors(query):
            wrong += [(where, name)] if name not in there else [(where, name, each) for each in chosen - there[name]]
            labels |= there.get(name, set())
        wrong += [(where, each) for each in groupings(query) - labels]
    assert wrong == []


def test_the_dashboard_shows_every_metric_there_is() -> None:
    shown = {name.removesuffix("_bucket") for query in queries().values() for name, _ in selectors(query)}
    assert sorted({family.shown(name) for name, family in FAMILIES.items()} - shown) == []
    on_it = {name for panel in panels() for target in panel["targets"] for name, _ in selectors(plain(target["expr"]))}
    assert sorted(on_it) == sorted(
        f"{name}_bucket" if family.kind == "seconds" else family.shown(name) for name, family in FAMILIES.items()
    )


def test_the_dashboard_is_what_its_panels_say() -> None:
    written = subprocess.run(
        [sys.executable, "-c", "import json, dashboard; print(json.dumps(dashboard.whole()))"],
        cwd=DASHBOARD.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(DASHBOARD.read_text()) == json.loads(written.stdout)


def test_no_two_panels_stand_in_one_place() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
                assert x < 24


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) == 13
    for rule in alerts:
        assert rule["labels"].keys() == {"severity"}, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}, rule["alert"]


def test_the_commands_of_the_runbooks_are_there() -> None:
    from engine.cli import COMMANDS

    named = {name for rule in rules() for name in re.findall(r"`connect ([a-z]+)", str(rule.get("annotations", "")))}
    assert sorted(named - COMMANDS.keys()) == []
    assert sorted(named) == ["check", "dead", "login", "resume", "status", "validate"]


@PROMETHEUS
def test_promtool_takes_the_rules_and_each_alert_is_raised_by_what_it_is_for() -> None:
    for command in (("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")):
        done = subprocess.run(
            ["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def vendors(home: Path) -> Iterator[str]:
    """A `connect sandbox` process; its address."""
    with Running("sandbox", "--port", "0", project=home) as sandbox:
        yield sandbox.lines_until("export CONNECT_VIA=")[-1].removeprefix("export CONNECT_VIA=")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path / "home")


def ask(port: int, path: str, **args: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(args)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())["data"]


def answers(port: int) -> bool:
    try:
        ask(port, "query", query="1")
    except OSError:
        return False
    return True


# What did not happen to this serve has no series: no refusal, retry, throttle, limit error, alert, fault.
EMPTY = {
    "Throttled, times a minute",
    "API-limit errors a minute",
    "Faults of the engine a minute",
    "Retries a minute",
}


@PROMETHEUS
def test_a_real_prometheus_scrapes_serve_and_every_panel_has_its_series(
    home: Path, tmp_path: Path, vendors: str
) -> None:
    args = ("serve", "--port", "0", "--admin-port", "0", "--log-level", "error", "--via", vendors)
    with Running(*args, project=home, **SECRETS) as serve:
        lines = serve.lines_until("Tokens")
        port = lines[0].partition("127.0.0.1:")[2].partition("/")[0]
        admin = next(line for line in lines if line.startswith("Admin")).rpartition(":")[2].strip("/\n")
        config = (RULES.parent / "prometheus.yml").read_text()
        changed = config.replace("127.0.0.1:8081", f"127.0.0.1:{admin}").replace("15s", "1s")
        changed = changed.replace("rules.yml", str(RULES))
        (tmp_path / "prometheus.yml").write_text("global: {evaluation_interval: 1s}\n" + changed)
        at = free_port()
        with subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb",
             f"--web.listen-address=127.0.0.1:{at}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as prometheus:  # fmt: skip
            try:
                soon(lambda: answers(at) and ask(at, "query", query='up{job="connect"} == 1')["result"], within_s=30)
                found: dict[str, bool] = {}

                def all_there() -> bool:
                    happens(port)
                    time.sleep(1)  # two scrapes make a rate
                    for panel in panels():
                        results = [
                            ask(at, "query", query=plain(target["expr"]))["result"] for target in panel["targets"]
                        ]
                        found[panel["title"]] = found.get(panel["title"], False) or all(results)
                    return all(found[title] for title in found.keys() - EMPTY)

                soon(all_there, within_s=60)
                assert {title for title, there in found.items() if not there} <= EMPTY
                health = {
                    rule["name"]: rule["health"] for group in ask(at, "rules")["groups"] for rule in group["rules"]
                }
                assert health == dict.fromkeys(health, "ok")
            finally:
                prometheus.terminate()


def happens(port: str) -> None:
    """A delivery, a dead letter, a log-in, an event of nobody, one that does not fit."""
    for name in ("responsys", "rdstation", "salesforce"):
        number = time.time_ns()
        sent = {**EVENTS[name], "email": f"p{number}@example.com"}
        post(f"http://127.0.0.1:{port}/{name}", sent, **{"X-Connect-Key": KEYS[name]})
        for email in ("poison@example.com", "expired@example.com"):
            bad = {**sent, "email": email}
            post(f"http://127.0.0.1:{port}/{name}", bad, **{"X-Connect-Key": KEYS[name]})
    nobody = {**EVENTS["rdstation"], "tid": "GA4.1.2"}
    post(f"http://127.0.0.1:{port}/rdstation", nobody, **{"X-Connect-Key": KEYS["rdstation"]})


def test_the_metrics_of_a_scrape_are_those_of_the_table() -> None:
    import io

    from engine.telemetry.log import Telemetry

    text = Telemetry(mask=str, stream=io.StringIO()).metrics().decode()
    described = set(re.findall(r"^# TYPE (connect_\S+) ", text, re.M))
    assert {name for name in described if not name.endswith("_created")} == {
        family.shown(name) for name, family in FAMILIES.items()
    }
