from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engine.alerts import Alert, LogAlerts, Once, SeveralAlerts, SnsAlerts, WebhookAlerts, webhook_body
from engine.egress import LOOPBACK


class Hook:
    """A webhook on the loopback that remembers what it was sent and answers as told."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.statuses: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.gate.wait(5)
                hook.bodies.append((self.path, self.headers["content-type"], json.loads(body)))
                self.send_response(hook.statuses.pop(0) if hook.statuses else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/s3cr3t"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.gate.set()
    hook.server.shutdown()
    hook.server.server_close()


class Seen:
    """Telemetry that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def event(self, name: str, /, **facts: object) -> None:
        self.events.append((name, facts))


def paused(alerts: Any, client: str = "loja-abc", kind: str = "lane-paused") -> None:
    alerts.alert(kind, connector="crm", client=client, text=f"crm/{client}: HTTP 401", facts={"kept": "100"})


def test_a_webhook_gets_text_for_people_and_fields_for_programs(hook: Hook) -> None:
    alerts = WebhookAlerts([hook.url], reach=LOOPBACK, clock=lambda: 1_700_000_000.0)
    paused(alerts)
    alerts.close()
    assert hook.bodies == [
        (
            "/s3cr3t",
            "application/json",
            {
                "text": "crm/loja-abc: HTTP 401",
                "kind": "lane-paused",
                "connector": "crm",
                "client": "loja-abc",
                "facts": {"kept": "100"},
                "at": 1_700_000_000.0,
            },
        )
    ]


def test_slack_gets_only_its_text_escaped() -> None:
    alert = Alert("k", "crm", "a", "<b> & co", {}, 0.0, repeated=2)
    assert webhook_body(alert, slack=True) == {"text": "&lt;b&gt; &amp; co (2 more since the last alert)"}


def test_one_trouble_is_told_once_an_hour_with_what_was_held_back() -> None:
    once = Once()
    told = [once.passes("paused", "crm", "a", now) for now in [0, 1, 3599, 3600, 3601, 10_000]]
    assert told == [0, None, None, 2, None, 1]
    others = [("paused", "crm", "b"), ("dead", "crm", "a"), ("paused", "erp", "a")]
    assert [once.passes(*other, 10_000) for other in others] == [0, 0, 0]


def test_the_memory_for_troubles_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.alerts.KEEP", 2)
    once = Once()
    assert [once.passes("k", "crm", client, 0) for client in "abca"] == [0, 0, 0, 0]
    assert once.passes("k", "crm", "c", 0) is None


def test_the_walk_is_not_held_by_a_webhook_that_hangs(hook: Hook) -> None:
    hook.gate.clear()
    alerts = WebhookAlerts([hook.url], reach=LOOPBACK, limit=2)
    began = time.monotonic()
    for number in range(50):
        paused(alerts, f"client-{number}")
    assert time.monotonic() - began < 0.5
    hook.gate.set()
    alerts.close()
    assert 2 <= len(hook.bodies) <= 3


def test_a_failed_alert_is_tried_three_times_and_reported_without_its_address(hook: Hook) -> None:
    hook.statuses = [500, 503, 404]
    failures: list[tuple[str, str]] = []
    alerts = WebhookAlerts(
        [hook.url], reach=LOOPBACK, pauses_s=(0, 0), failed=lambda *failure: failures.append(failure)
    )
    paused(alerts)
    alerts.close()
    assert (len(hook.bodies), failures) == (3, [("127.0.0.1", "HTTP 404")])


def test_what_could_not_be_told_is_told_the_next_time(hook: Hook) -> None:
    hook.statuses = [500]
    failed = threading.Event()
    alerts = WebhookAlerts([hook.url], reach=LOOPBACK, pauses_s=(), failed=lambda _target, _why: failed.set())
    paused(alerts)
    assert failed.wait(5)
    deadline = time.monotonic() + 5
    while len(hook.bodies) < 2 and time.monotonic() < deadline:
        paused(alerts)
        time.sleep(0.005)
    alerts.close()
    assert len(hook.bodies) == 2


def test_one_target_that_is_down_does_not_keep_the_other_from_being_told(hook: Hook) -> None:
    failures: list[tuple[str, str]] = []
    alerts = WebhookAlerts(
        ["http://127.0.0.1:1/s3cr3t", hook.url],
        pauses_s=(),
        failed=lambda *failure: failures.append(failure),
        reach=LOOPBACK,
    )
    paused(alerts)
    alerts.close()
    assert (len(hook.bodies), failures) == (1, [("127.0.0.1", "ConnectError")])


def test_a_webhook_on_a_private_address_is_told_only_where_that_is_allowed(hook: Hook) -> None:
    failures: list[tuple[str, str]] = []
    alerts = WebhookAlerts([hook.url], pauses_s=(), failed=lambda *failure: failures.append(failure))
    paused(alerts)
    alerts.close()
    why = "127.0.0.1 is an address of this machine; requests go to public addresses only"
    hint = "; if it is meant to, set CONNECT_ALERT_PRIVATE=1"
    assert (hook.bodies, failures) == ([], [("127.0.0.1", f"{why}{hint}")])


def test_nothing_is_told_after_the_end(hook: Hook) -> None:
    alerts = WebhookAlerts([hook.url], reach=LOOPBACK)
    paused(alerts)
    alerts.close()
    paused(alerts, "other")
    alerts.close()
    assert len(hook.bodies) == 1


def test_an_alert_is_an_event_of_the_telemetry() -> None:
    seen = Seen()
    alerts = LogAlerts(seen, clock=lambda: 0.0)
    paused(alerts)
    paused(alerts)
    facts = {"kind": "lane-paused", "connector": "crm", "client": "loja-abc", "text": "crm/loja-abc: HTTP 401"}
    assert seen.events == [("alert", {**facts, "facts": {"kept": "100"}})]


def test_several_are_all_told(hook: Hook) -> None:
    seen = Seen()
    alerts = SeveralAlerts([LogAlerts(seen), WebhookAlerts([hook.url], reach=LOOPBACK)])
    paused(alerts)
    alerts.close()
    assert (len(seen.events), len(hook.bodies)) == (1, 1)


def test_sns_gets_a_subject_it_can_carry() -> None:
    class Topic:
        def __init__(self) -> None:
            self.published: list[dict[str, Any]] = []

        def publish(self, **message: Any) -> None:
            self.published.append(message)

    topic = Topic()
    alerts = SnsAlerts("arn:aws:sns:sa-east-1:1:alerts", sns=topic, clock=lambda: 7.0)
    paused(alerts, "ação" + "x" * 100)
    alerts.close()
    [message] = topic.published
    assert message.pop("Subject") == "lane-paused: crm/a??o" + "x" * 79
    assert json.loads(message.pop("Message"))["at"] == 7.0
    assert message == {
        "TopicArn": "arn:aws:sns:sa-east-1:1:alerts",
        "MessageAttributes": {
            "kind": {"DataType": "String", "StringValue": "lane-paused"},
            "connector": {"DataType": "String", "StringValue": "crm"},
            "client": {"DataType": "String", "StringValue": "ação" + "x" * 100},
        },
    }
