"""What reaches AWS, through boto3 and HTTP, at a server of the tests' own."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from aws_server import ACCOUNT, REGION, aws_server, messages, subscribed
from conftest import START, Heard, Vendor, reply

from engine import aws
from engine.alerts.book import Book
from engine.alerts.desk import Desk
from engine.alerts.rules import Rules
from engine.alerts.topic import SnsWay
from engine.clock import VirtualClock
from engine.errors import SecretUnavailable
from engine.runtime import Engine
from engine.secrets import SecretSources
from engine.spec.project import AlertSettings, Project
from engine.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engine.http import NoReply, Prepared, Reply


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        yield from aws_server(patch)


def refusal_of(sources: SecretSources, reference: str) -> str:
    with pytest.raises(SecretUnavailable) as caught:
        sources.resolve(reference)
    return str(caught.value)


def test_secrets_of_both_kinds_are_read_by_name_by_arn_and_by_field(tmp_path: Path) -> None:
    manager, parameters = aws.client("secretsmanager"), aws.client("ssm")
    made = manager.create_secret(Name="/connect/crm/abc/creds", SecretString='{"user": "ana", "pin": 1.50}')
    manager.create_secret(Name="binary", SecretBinary=b"whole and of bytes")
    elsewhere = aws.client("secretsmanager", "eu-west-1").create_secret(Name="far", SecretString="over there")
    # Overwritten, for boto3 repeats a request that a busy machine answers late.
    parameters.put_parameter(Name="/connect/crm/token", Value="t0k3n", Type="SecureString", Overwrite=True)
    parameters.put_parameter(Name="/connect/crm/both", Value='{"token": "j50n"}', Type="SecureString", Overwrite=True)
    sources = SecretSources(tmp_path, {})
    references = {
        "aws-secretsmanager:/connect/crm/abc/creds#user": "ana",
        "aws-secretsmanager:/connect/crm/abc/creds#pin": "1.50",
        f"aws-secretsmanager:{made['ARN']}#user": "ana",
        f"aws-secretsmanager:{elsewhere['ARN']}": "over there",
        "aws-secretsmanager:binary": "whole and of bytes",
        "aws-ssm:/connect/crm/token": "t0k3n",
        f"aws-ssm:arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/connect/crm/token": "t0k3n",
        "aws-ssm:/connect/crm/both#token": "j50n",
    }
    assert {reference: sources.resolve(reference) for reference in references} == references
    says = "there is none of this name in this account and region"
    assert [refusal_of(sources, reference) for reference in ("aws-secretsmanager:none#a", "aws-ssm:/none")] == [
        f"aws-secretsmanager:none: ResourceNotFoundException: {says}",
        f"aws-ssm:/none: ParameterNotFound: {says}",
    ]


def test_a_secret_rotated_at_aws_serves_within_five_minutes(tmp_path: Path) -> None:
    manager, now = aws.client("secretsmanager"), [0.0]
    manager.create_secret(Name="rotated", SecretString='{"key": "old"}')
    sources = SecretSources(tmp_path, {}, clock=lambda: now[0])
    found = [sources.resolve("aws-secretsmanager:rotated#key")]
    manager.put_secret_value(SecretId="rotated", SecretString='{"key": "new"}')
    for now[0] in (299.0, 300.0):
        found.append(sources.resolve("aws-secretsmanager:rotated#key"))
    assert found == ["old", "old", "new"]


def test_no_server_at_all_is_an_outage_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert refusal_of(SecretSources(tmp_path, {}), "aws-secretsmanager:a") == (
        "aws-secretsmanager:a: EndpointConnectionError"
    )


def desk(topic: str, *, sns: Any = None, heard: Heard | None = None, clock: VirtualClock | None = None) -> Desk:
    """What tells a topic, with no other way out."""
    clock = clock or VirtualClock(START)
    ways = [SnsWay("sns", lambda: topic, sns=sns)]
    rules = Rules(AlertSettings())
    book = Book(MemoryStore(), clock.now)
    return Desk(book, ways, lambda: rules, now=clock.now, telemetry=heard or Heard(), pauses_s=(0, 0))


def faults(heard: Heard) -> list[tuple[object, str]]:
    return [(facts["target"], str(facts["error"])) for facts in heard.named("fault")]


def tell(alerts: Any, client: str = "abc") -> None:
    alerts.alert("lane-paused", connector="crm", client=client, text=f"crm/{client}: HTTP 401", facts={"kept": "100"})


def test_an_alert_reaches_those_who_subscribe_to_the_topic() -> None:
    topic = aws.client("sns").create_topic(Name="alerts")["TopicArn"]
    queue = subscribed(topic)
    alerts = desk(topic, clock=VirtualClock(1_700_000_000.0))
    tell(alerts)
    assert alerts.flush(20)
    tell(alerts, "xyz")  # after a flush it goes on
    assert alerts.flush(20)
    found = messages(queue)
    bodies = [json.loads(message["Body"]) for message in found]
    assert [body.pop("text").splitlines()[:2] for body in bodies] == [
        [f"crm/{client}: HTTP 401", "since 22:13 UTC"] for client in ("abc", "xyz")
    ]
    assert [(body.pop("id")[:4], body.pop("do")[:8]) for body in bodies] == [("msg_", "Mend wha")] * 2
    assert bodies == [
        {
            "kind": "lane-paused",
            "state": "open",
            "severity": "error",
            "connector": "crm",
            "client": client,
            "what": f"crm/{client}: HTTP 401",
            "since": "2023-11-14T22:13:20Z",
            "at": "2023-11-14T22:13:20Z",
            "facts": {"kept": "100"},
        }
        for client in ("abc", "xyz")
    ]
    attributes = {name: one["StringValue"] for name, one in found[0]["MessageAttributes"].items()}
    lane = {"kind": "lane-paused", "connector": "crm", "client": "abc"}
    assert attributes == {**lane, "state": "open", "severity": "error"}
    alerts.close()


def test_a_topic_that_keeps_order_gets_a_group_for_each_client() -> None:
    made = aws.client("sns").create_topic(Name="alerts.fifo", Attributes={"FifoTopic": "true"})
    queue = subscribed(made["TopicArn"])
    alerts = desk(made["TopicArn"])
    tell(alerts, "ação xyz")
    alerts.close(20)
    [message] = messages(queue)
    assert message["Attributes"]["MessageGroupId"] == "crm/a__o_xyz"
    assert len(message["Attributes"]["MessageDeduplicationId"]) == 64


def test_a_topic_of_another_region_is_told_there() -> None:
    topic = aws.client("sns", "eu-west-1").create_topic(Name="far")["TopicArn"]
    heard = Heard()
    alerts = desk(topic, heard=heard)
    tell(alerts)
    alerts.close(20)
    assert (topic.split(":")[3], heard.events) == ("eu-west-1", [])


def test_a_topic_that_is_not_there_is_a_line_of_the_log() -> None:
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:none"
    heard = Heard()
    alerts = desk(topic, heard=heard)
    tell(alerts)
    assert alerts.flush(20)
    says = "there is none of this name in this account and region"
    assert [(target, why.partition(": ")[2]) for target, why in faults(heard)] == [(topic, says)]
    alerts.close()


def test_a_flush_does_not_wait_longer_than_it_may() -> None:
    class Slow:
        def publish(self, **_: Any) -> None:
            time.sleep(0.3)

    alerts = desk(f"arn:aws:sns:{REGION}:{ACCOUNT}:slow", sns=Slow())
    tell(alerts)
    began = time.monotonic()
    assert (alerts.flush(0.05), time.monotonic() - began < 0.25) == (False, True)
    assert alerts.flush(10)
    alerts.close()


# --- the engine, its secrets and its alerts there ---

CRM = """
secrets: {token: {title: Token}}
auth: {place: {headers: {Authorization: "Bearer {{ secrets.token }}"}}}
"""
CLIENT = """
client: abc
ingest: {keys: ['aws-secretsmanager:NAME/ingest#key', 'file:key']}
connectors: {crm: {secrets: {token: 'aws-secretsmanager:NAME/creds#token'}}}
"""


class Shop:
    """An engine with its secrets at AWS, and a vendor that takes one token."""

    def __init__(self, folder: Callable[..., Path], name: str, *, connector: str = CRM) -> None:
        self.name, self.right, self.down = name, "one", False
        self.clock, self.heard, self.passed_s = VirtualClock(START), Heard(), [0.0]
        self.manager = aws.client("secretsmanager")
        self.manager.create_secret(Name=f"{name}/creds", SecretString='{"token": "one"}')
        self.manager.create_secret(Name=f"{name}/ingest", SecretString='{"key": "key-1"}')
        home = folder(crm=connector, abc=CLIENT.replace("NAME", name))
        (home / "key").write_text("from-a-file")
        self.vendor = Vendor(answer=self.answer)
        self.topic = aws.client("sns").create_topic(Name=name)["TopicArn"]
        self.queue = subscribed(self.topic)
        self.alerts = desk(self.topic, heard=self.heard, clock=self.clock)
        self.engine = Engine(
            Project(home),
            MemoryStore(),
            transport=self.vendor,
            clock=self.clock,
            telemetry=self.heard,
            alerts=self.alerts,
            secrets=SecretSources(home, {}, clock=lambda: self.passed_s[0]),
        )

    def answer(self, asked: Prepared) -> Reply | NoReply:
        if self.down:
            return reply(503)
        return reply(200) if asked.headers["Authorization"] == f"Bearer {self.right}" else reply(401)

    def post(self, event_id: str, key: str = "key-1") -> int:
        now = self.clock.now()
        body = json.dumps({"client": "abc", "id": event_id}).encode()
        received = self.engine.receive("crm", body, "application/json", key, now)
        if received.accepted:
            self.engine.put([event for _, event in received.accepted], now, 0.0).result()
        return received.status

    def drain(self) -> dict[str, int]:
        self.engine.worker.drain()
        lane = self.engine.store.lane("crm", "abc")
        assert lane is not None
        found = {name: getattr(lane, name) for name in ("delivered", "rejected", "waiting")}
        return {name: number for name, number in found.items() if number} | {lane.state: 1}

    def rotate(self, part: str, value: str) -> None:
        self.manager.put_secret_value(SecretId=f"{self.name}/{part}", SecretString=value)

    def told(self) -> list[tuple[str, str]]:
        """Kind and text of what came out of the topic."""
        assert self.alerts.flush(30)
        return [(body["kind"], body["what"]) for body in (json.loads(one["Body"]) for one in messages(self.queue))]


PAUSED = "lane paused, its events are kept"


def test_a_token_that_the_crm_refuses_is_told_and_a_new_one_goes_on_within_five_minutes(
    project_from: Callable[..., Path],
) -> None:
    shop = Shop(project_from, "refused")
    assert (shop.post("1"), shop.drain()) == (202, {"delivered": 1, "idle": 1})
    shop.right = "two"
    shop.post("2")
    assert shop.drain() == {"delivered": 1, "waiting": 1, "paused": 1}
    assert shop.told() == [("lane-paused", f"crm/abc: HTTP 401; {PAUSED}")]
    shop.engine.mark_paused()
    shop.rotate("creds", '{"token": "two"}')
    shop.passed_s[0] = 300.0
    shop.engine.mark_paused()
    assert shop.drain() == {"delivered": 2, "idle": 1}
    shop.alerts.close()


def test_a_secret_that_was_exchanged_at_aws_is_looked_for_before_anybody_is_told(
    project_from: Callable[..., Path],
) -> None:
    shop = Shop(project_from, "exchanged")
    shop.post("1")
    shop.drain()
    shop.rotate("creds", '{"token": "two"}')
    shop.right, shop.passed_s[0] = "two", 60.0  # the copy of the old one would serve for four minutes more
    shop.post("2")
    shop.drain()
    shop.clock.sleep(1.0)
    assert shop.drain() == {"delivered": 2, "idle": 1}
    assert [request.headers["Authorization"] for request in shop.vendor.asked] == [
        "Bearer one",
        "Bearer one",
        "Bearer two",
    ]
    assert shop.told() == []
    shop.alerts.close()


def test_a_crm_that_fails_three_times_in_a_row_is_told(project_from: Callable[..., Path]) -> None:
    shop = Shop(project_from, "down")
    shop.down = True
    shop.post("1")
    for _ in range(2):
        shop.drain()
        shop.clock.sleep(300.0)
    assert shop.told() == []
    assert shop.drain() == {"waiting": 1, "throttled": 1}
    kept = "3 tries in a row failed; its events are kept and it is tried again"
    assert shop.told() == [("outage", f"crm/abc: HTTP 503; {kept}")]
    shop.down = False
    shop.clock.sleep(300.0)
    assert shop.drain() == {"delivered": 1, "idle": 1}
    shop.alerts.close()


def test_a_direct_caller_s_event_that_the_crm_fails_three_times_is_told(project_from: Callable[..., Path]) -> None:
    direct = (
        'receive: {mode: direct, client: "${ event.client }", id: "${ event.id }", answer: {within: 2m, retry: 502}}'
    )
    shop = Shop(project_from, "direct", connector=f"{CRM}\n{direct}")
    shop.down = True
    now = shop.clock.now()
    received = shop.engine.receive("crm", b'{"client": "abc", "id": "1"}', "application/json", "key-1", now)
    [stored] = shop.engine.put([event for _, event in received.accepted], now, shop.engine.hold_s("crm")).result()
    answered = shop.engine.walk_now("crm", "abc", stored, now)
    assert (answered.status, answered.outcome, len(shop.vendor.asked)) == (502, "rejected", 3)
    why = "HTTP 503 (after 3 tries)"
    assert shop.told() == [("dead-letter", f"crm/abc: 1 rejected: {why}")]
    shop.alerts.close()


def test_write_keys_are_exchanged_without_a_restart_and_the_old_one_serves_meanwhile(
    project_from: Callable[..., Path],
) -> None:
    shop = Shop(project_from, "keys")
    key_file = shop.engine.project.directory / "key"
    shop.rotate("ingest", '{"key": "key-2"}')
    shop.engine.refresh_keys()
    assert [shop.post("1", key) for key in ("key-1", "key-2", "from-a-file", "other")] == [202, 401, 202, 401]
    shop.passed_s[0] = 300.0
    assert [shop.post("2", key) for key in ("key-1", "key-2")] == [202, 401]  # a request waits for no look-up
    shop.engine.refresh_keys()
    assert [shop.post("3", key) for key in ("key-1", "key-2")] == [401, 202]
    key_file.write_text("exchanged")
    shop.engine.refresh_keys()
    assert [shop.post("4", key) for key in ("from-a-file", "exchanged", "key-2")] == [401, 202, 202]
    key_file.unlink()
    shop.manager.delete_secret(SecretId="keys/ingest", ForceDeleteWithoutRecovery=True)
    shop.passed_s[0] = 600.0
    shop.engine.refresh_keys()  # both are gone: the last values serve, and the log says so
    assert [shop.post("5", key) for key in ("exchanged", "key-2", "other")] == [202, 202, 401]
    assert [facts["text"] for facts in shop.heard.named("finding")] == [
        "abc: aws-secretsmanager:keys/ingest: ResourceNotFoundException: there is none of this name in this account "
        "and region",
        "abc: file:key: No such file or directory",
    ]
    gone = "aws-secretsmanager:keys/ingest: ResourceNotFoundException"
    gone += ": there is none of this name in this account and region"
    assert shop.told() == [
        ("write-key", f"abc: a write key can't be had: {gone}; who sends with it may be told 401"),
    ]
    key_file.write_text("back")
    shop.manager.create_secret(Name="keys/ingest", SecretString='{"key": "key-3"}')
    shop.passed_s[0] = 900.0
    shop.engine.refresh_keys()
    assert [shop.post("6", key) for key in ("back", "key-3")] == [202, 202]
    assert shop.engine.without_keys == set()
    shop.alerts.close()


def test_a_key_that_is_slow_to_come_keeps_no_request_waiting(project_from: Callable[..., Path]) -> None:
    shop = Shop(project_from, "slow")
    asked, going_on = threading.Event(), threading.Event()
    resolve = shop.engine.secrets.resolve

    class Slow:
        def resolve(self, reference: str) -> str:
            asked.set()
            assert going_on.wait(30)
            return resolve(reference)

    shop.engine.secrets = Slow()
    shop.engine.looked_at = float("-inf")
    stop = threading.Event()
    keeper = threading.Thread(target=shop.engine.keep, args=(stop,), daemon=True)
    keeper.start()
    try:
        assert asked.wait(30)
        began = time.monotonic()
        assert [shop.post(str(number)) for number in range(20)] == [202] * 20
        assert time.monotonic() - began < 5
    finally:
        stop.set()
        going_on.set()
        keeper.join(30)
    shop.alerts.close()
