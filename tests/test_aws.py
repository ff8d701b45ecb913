"""What reaches AWS, through boto3 and HTTP, at a server of the tests' own."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from aws_server import ACCOUNT, REGION, aws_server, messages, subscribed

from engine import aws
from engine.alerts import SeveralAlerts, SnsAlerts
from engine.errors import SecretUnavailable
from engine.secrets import SecretSources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
    parameters.put_parameter(Name="/connect/crm/token", Value="t0k3n", Type="SecureString")
    parameters.put_parameter(Name="/connect/crm/both", Value='{"token": "j50n"}', Type="SecureString")
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


def tell(alerts: Any, client: str = "abc") -> None:
    alerts.alert("lane-paused", connector="crm", client=client, text=f"crm/{client}: HTTP 401", facts={"kept": "100"})


def test_an_alert_reaches_those_who_subscribe_to_the_topic() -> None:
    topic = aws.client("sns").create_topic(Name="alerts")["TopicArn"]
    queue = subscribed(topic)
    alerts = SeveralAlerts([SnsAlerts(topic, clock=lambda: 1_700_000_000.0)])
    tell(alerts)
    assert alerts.flush(20)
    tell(alerts, "xyz")  # after a flush it goes on
    assert alerts.flush(20)
    found = messages(queue)
    assert [json.loads(message["Body"]) for message in found] == [
        {
            "text": f"crm/{client}: HTTP 401",
            "kind": "lane-paused",
            "connector": "crm",
            "client": client,
            "facts": {"kept": "100"},
            "at": 1_700_000_000.0,
        }
        for client in ("abc", "xyz")
    ]
    attributes = {name: one["StringValue"] for name, one in found[0]["MessageAttributes"].items()}
    assert attributes == {"kind": "lane-paused", "connector": "crm", "client": "abc"}
    alerts.close()


def test_a_topic_that_keeps_order_gets_a_group_for_each_client() -> None:
    made = aws.client("sns").create_topic(Name="alerts.fifo", Attributes={"FifoTopic": "true"})
    queue = subscribed(made["TopicArn"])
    alerts = SnsAlerts(made["TopicArn"])
    tell(alerts, "ação xyz")
    alerts.close(20)
    [message] = messages(queue)
    assert message["Attributes"]["MessageGroupId"] == "crm/a__o_xyz"
    assert len(message["Attributes"]["MessageDeduplicationId"]) == 64


def test_a_topic_of_another_region_is_told_there() -> None:
    topic = aws.client("sns", "eu-west-1").create_topic(Name="far")["TopicArn"]
    failures: list[tuple[str, str]] = []
    alerts = SnsAlerts(topic, pauses_s=(), failed=lambda *failure: failures.append(failure))
    tell(alerts)
    alerts.close(20)
    assert (topic.split(":")[3], failures) == ("eu-west-1", [])


def test_a_topic_that_is_not_there_is_a_line_of_the_log() -> None:
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:none"
    failures: list[tuple[str, str]] = []
    alerts = SnsAlerts(topic, pauses_s=(0, 0), failed=lambda *failure: failures.append(failure))
    tell(alerts)
    assert alerts.flush(20)
    says = "there is none of this name in this account and region"
    assert [(target, why.partition(": ")[2]) for target, why in failures] == [(topic, says)]
    alerts.close()


def test_a_flush_does_not_wait_longer_than_it_may() -> None:
    class Slow:
        def publish(self, **_: Any) -> None:
            time.sleep(0.3)

    alerts = SnsAlerts(f"arn:aws:sns:{REGION}:{ACCOUNT}:slow", sns=Slow())
    tell(alerts)
    began = time.monotonic()
    assert (alerts.flush(0.05), time.monotonic() - began < 0.25) == (False, True)
    assert alerts.flush(10)
    alerts.close()
