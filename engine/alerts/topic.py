"""Publishes to an SNS topic."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from engine import aws
from engine.alerts.ways import Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.alerts.messages import Message


class SnsWay(Way):
    """`sns` stands in for boto3's client."""

    def __init__(self, name: str, topic_arn: Callable[[], str], *, sns: Any = None) -> None:
        self.name, self._topic_arn, self._sns = name, topic_arn, sns

    @property
    def shown(self) -> str:  # type: ignore[override]
        return self._topic_arn()

    def send(self, message: Message) -> str:
        topic = self._topic_arn()
        if self._sns is None:
            self._sns = aws.client("sns", aws.region_of(topic))
        fifo = {}
        if topic.endswith(".fifo"):  # in order for each client; a repeated try within five minutes is told once
            once = sha256(message.id.encode()).hexdigest()
            fifo = {"MessageGroupId": _group(message), "MessageDeduplicationId": once}
        attributes = [(name, getattr(message, name)) for name in ("kind", "connector", "client", "state", "severity")]
        reply = self._sns.publish(
            TopicArn=topic,
            Subject=_ascii(message.subject, "?", 100, " "),
            Message=msgspec.json.encode(message.fields).decode(),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value} for name, value in attributes if value
            },
            **fifo,
        )
        return f"published {reply['MessageId']}" if isinstance(reply, dict) else "published"

    def why(self, error: Exception) -> str:
        if isinstance(error, ImportError):
            return "install daxgo-connect[aws]"
        if type(error).__module__.startswith("engine"):
            return super().why(error)
        return aws.told(error, action="sns:Publish", resource="the topic")


def _group(message: Message) -> str:
    return _ascii(f"{message.connector}/{message.client}", "_", 128, "!")


def _ascii(text: str, instead: str, most: int, first: str) -> str:
    """SNS takes printable ASCII, in a group without blanks."""
    return "".join(sign if first <= sign <= "~" else instead for sign in text)[:most]
