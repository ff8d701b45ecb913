"""An AWS of the tests' own: moto's server in a thread, which boto3 reaches over HTTP as it would reach AWS."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

REGION = "sa-east-1"
ACCOUNT = "123456789012"


def aws_server(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """For a fixture: the server's address; the environment leads boto3 there."""
    server = moto_server.started()
    address = "http://{}:{}".format(*server.get_host_and_port())
    environment = {
        "AWS_ENDPOINT_URL": address,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "made-up-for-the-tests",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        patch.setenv(name, value)
    try:
        yield address
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def subscribed(topic_arn: str) -> str:
    """The address of a queue that gets what the topic is sent, as it is."""
    from engine import aws

    sqs, sns = aws.client("sqs"), aws.client("sns")
    fifo = topic_arn.endswith(".fifo")
    name = f"q-{time.monotonic_ns()}{'.fifo' if fifo else ''}"
    queue: str = sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"} if fifo else {})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    return queue


def messages(queue: str) -> list[dict[str, Any]]:
    """What is in the queue, whole."""
    from engine import aws

    sqs = aws.client("sqs")
    found: list[dict[str, Any]] = []
    while batch := sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
    ).get("Messages"):
        found += batch
        for message in batch:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return found
