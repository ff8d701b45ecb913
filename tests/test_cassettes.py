"""
One delivery of each connector, replayed from tests/cassettes/ with no server and no network.

The cassettes are SIMULATED: recorded from the connectors' own sandboxes over real HTTP on loopback, and each says so.
Record them anew with `CONNECT_RECORD=1 python -m pytest tests/test_cassettes.py`.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import vcr
import yaml

from engine.alerts import LogAlerts
from engine.clock import SystemClock
from engine.intake import Receiver
from engine.listening import listen, run
from engine.program import Program
from engine.sandbox import Sandbox, application
from engine.sending import HttpTransport, Masker
from engine.spec import types
from engine.spec.project import Project
from engine.stores.memory import MemoryStore
from engine.telemetry import NullTelemetry
from engine.walk import Credentials, World
from engine.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
CASSETTES = ROOT / "tests" / "cassettes"
RECORDING = os.environ.get("CONNECT_RECORD") == "1"
CONNECTORS = ["rdstation", "responsys", "salesforce"]
EVENT = {
    "email": "ana@example.com",
    "eventType": "product_view",
    "product": {"id": "PROD-456", "name": "Câmera DSLR", "price": 3499.90, "url": "https://example.com/camera"},
    "timestamp": "2026-01-28T12:00:00Z",
    "clientId": "cassette",
    "tid": "cassette",
}
SECRET_FIELDS = (
    "access_token",
    "authToken",
    "refresh_token",
    "signature",
    "password",
    "user_name",
    "client_secret",
    "client_id",
)


class Labelled:
    """vcrpy's YAML, with a first key that says where the exchanges come from."""

    @staticmethod
    def serialize(cassette: dict[str, Any]) -> str:
        label = "SIMULATED: the connector's own sandbox over HTTP on loopback; not the vendor"
        return yaml.safe_dump({"recorded_from": label, **cassette}, sort_keys=False, allow_unicode=True)

    @staticmethod
    def deserialize(text: str) -> dict[str, Any]:
        found = yaml.safe_load(text)
        found.pop("recorded_from")
        return found


def scrub_text(text: str) -> str:
    for field in SECRET_FIELDS:
        text = re.sub(rf'("{field}":\s*)"[^"]*"', r'\1"scrubbed"', text)
        text = re.sub(rf"(?<![\w.])({field}=)[^&]*", r"\1scrubbed", text)
    return text


def scrub_request(request: Any) -> Any:
    """The vendor's address instead of the loopback one, and no credential in URL, header or body."""
    host = request.headers.get("Host", request.headers.get("host", ""))
    uri = re.sub(r"http://127\.0\.0\.1:\d+", f"https://{host}", request.uri)
    request.uri = re.sub(r"(api_key=)[^&]*", r"\1scrubbed", uri)
    for name in list(request.headers):
        if name.lower() in ("authorization", "user-agent"):
            request.headers[name] = "scrubbed"
    if request.body:
        body = request.body if isinstance(request.body, str) else request.body.decode()
        request.body = scrub_text(body).encode()
    return request


def scrub_response(response: dict[str, Any]) -> dict[str, Any]:
    body = response["body"]["string"]
    text = scrub_text(body.decode() if isinstance(body, bytes) else body)
    response["body"]["string"] = text.encode()
    response["headers"] = {name: value for name, value in response["headers"].items() if name.lower() == "content-type"}
    return response


def tape(name: str) -> Any:
    recorder = vcr.VCR(
        cassette_library_dir=str(CASSETTES),
        record_mode="all" if RECORDING else "none",
        match_on=["method", "scheme", "host", "path", "body"],
        before_record_request=scrub_request,
        before_record_response=scrub_response,
    )
    recorder.register_serializer("labelled", Labelled)
    return recorder.use_cassette(f"{name}.yaml", serializer="labelled")


@contextmanager
def crm(connector: types.Connector) -> Iterator[str | None]:
    """The sandbox on a loopback port while recording; nothing at all while replaying."""
    if not RECORDING:
        yield None
        return
    socket, stop, ready = listen("127.0.0.1", 0), threading.Event(), threading.Event()
    port = socket.getsockname()[1]
    apps = [(application([Sandbox(connector)], time.time), socket)]
    server = threading.Thread(target=run, args=(apps,), kwargs={"stop": stop, "grace_s": 1.0, "ready": ready.set})
    server.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        server.join()


def deliver(connector: types.Connector, via: str | None) -> list[Any]:
    sandbox = connector.sandbox
    assert sandbox is not None
    binding = types.Binding(settings=sandbox.settings)
    program = Program(connector, types.Client(client="cassette", connectors={connector.name: binding}), binding)
    store, transport = MemoryStore(new_id=lambda: "00000000-0000-4000-8000-000000000001"), HttpTransport(via)
    worker = Worker(
        World(
            store=store,
            transport=transport,
            clock=SystemClock(),
            telemetry=NullTelemetry(),
            alerts=LogAlerts(NullTelemetry()),
            program=lambda *_: program,
            credentials=lambda _: Credentials(dict(sandbox.secrets), "cassette"),
            masker=lambda _: Masker(sandbox.secrets.values()),
        )
    )
    receiver = Receiver(
        connector, {"cassette": "cassette"}, lambda _: program, schema=connector.receive.schema, keys={}, inactive={}
    )
    long_ago = time.time() - 3600  # the batch has waited long enough
    received = receiver.receive(json.dumps(EVENT).encode(), "application/json", None, long_ago)
    store.put([received.accepted[0][1]], now=long_ago).result()
    worker.drain()
    transport.close()
    return store.lanes()


@pytest.mark.parametrize("name", CONNECTORS)
def test_a_delivery_is_replayed_from_its_cassette(name: str) -> None:
    connector = Project(ROOT).connector(name)
    with crm(connector) as via, tape(name):
        lanes = deliver(connector, via)
    assert [(lane.connector, lane.accepted, lane.delivered, lane.waiting, lane.rejected) for lane in lanes] == [
        (name, 1, 1, 0, 0)
    ]


@pytest.mark.parametrize("name", CONNECTORS)
def test_a_cassette_says_that_it_is_simulated(name: str) -> None:
    assert (CASSETTES / f"{name}.yaml").read_text().startswith("recorded_from: 'SIMULATED: ")


@pytest.mark.parametrize("name", CONNECTORS)
def test_no_cassette_holds_a_secret(name: str) -> None:
    sandbox = Project(ROOT).connector(name).sandbox
    assert sandbox is not None
    text = (CASSETTES / f"{name}.yaml").read_text()
    found = [secret for secret in sandbox.secrets.values() if secret in text]
    assert (found, re.findall(r"sandbox-\w+-[0-9a-f]{32}", text)) == ([], [])
