from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command import EVENTS, KEYS, ROOT, SECRETS, Running, connect, environment, make_project, post, soon
from conftest import TIMED_OUT, Shop, Vendor, reply
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.http import Prepared, Reply
from engine.records import Stored
from engine.telemetry.tracing import Tracer, otlp, root_of, sender_of, trace_of

SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """A shop whose worker is traced, and what came out."""

    def __init__(self, text: str = "", *, vendor: Any = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = Tracer(self.exporter)
        self.shop = Shop(text, vendor=vendor)
        self.shop.worker.world = self.shop.worker.world._replace(traces=self.tracer)

    def spans(self) -> list[ReadableSpan]:
        """All so far, oldest first; the end of it."""
        self.tracer.close()
        return list(self.exporter.get_finished_spans())

    def tree(self) -> list[str]:
        """Each span below its parent, with its links to others of them."""
        spans = self.spans()
        names = {span.context.span_id: span.name for span in spans}
        lines: list[str] = []

        def walk(parent: int | None, depth: int) -> None:
            for span in spans:
                above = span.parent.span_id if span.parent is not None else None
                if above == parent or (parent is None and above not in names):
                    if parent is None and above is not None and above in names:
                        continue
                    linked = [names[link.context.span_id] for link in span.links if link.context.span_id in names]
                    failed = " !" if not span.status.is_ok and not span.status.is_unset else ""
                    lines.append("  " * depth + span.name + failed + (f" -> {', '.join(linked)}" if linked else ""))
                    walk(span.context.span_id, depth + 1)

        walk(None, 0)
        return lines


LOOKED_UP = """
actions:
  note:
    lookups:
      person:
        keys: ${ event.email }
        sources:
          contact:
            request: {method: GET, path: /people, query: {emails: "${ join(batch.keys, ',') }"}}
            rows: ${ response.body }
            row_key: ${ row.email }
    record: {id: "${ lookups.person.id }"}
    request: {path: /notes, json: "${ record }"}
"""


def people(request: Prepared) -> Reply:
    if request.method == "GET":
        return reply(200, [{"email": "ana@example.com", "id": 7}])
    return reply(201, {})


def test_one_event_is_one_trace_with_a_span_for_each_stage() -> None:
    traced = Traced(LOOKED_UP, vendor=Vendor(answer=people))
    traced.shop.post({"id": "e1", "email": "ana@example.com"})
    traced.shop.clock.time += 90
    traced.shop.drain()
    assert traced.tree() == [
        "deliver crm.note",
        "  lookup",
        "    GET note.lookup person",
        "  map",
        "  POST note.request",
        "  settle",
    ]


def test_attributes_are_names_counts_and_statuses_and_nothing_of_the_event() -> None:
    traced = Traced(LOOKED_UP, vendor=Vendor(answer=people))
    traced.shop.post({"id": "ana-s3cr3t", "email": "ana@example.com", "note": "s3cr3t"})
    received_at = traced.shop.clock.now()
    traced.shop.clock.time += 90
    traced.shop.drain()
    spans = traced.spans()
    lane = {"connect.connector": "crm", "connect.client": "abc"}
    sent = {**lane, "connect.action": "note", "server.address": "api.crm.example"}
    assert {span.name: dict(span.attributes or {}) for span in spans} == {
        "deliver crm.note": {
            **lane,
            "connect.action": "note",
            "connect.outcome": "delivered",
            "connect.attempt": 1,
            "connect.waited_s": 90.0,
        },
        "lookup": lane,
        "GET note.lookup person": {
            **sent, "connect.step": "lookup person", "http.request.method": "GET", "http.response.status_code": 200,
        },
        "map": lane,
        "POST note.request": {
            **sent, "connect.step": "request", "http.request.method": "POST", "http.response.status_code": 201,
        },
        "settle": lane,
    }  # fmt: skip
    assert {span.context.trace_id for span in spans} == {trace_of("crm", "abc", "ana-s3cr3t")}
    [deliver] = [span for span in spans if span.name.startswith("deliver")]
    assert deliver.parent is not None
    assert deliver.parent.span_id == root_of("crm", "abc", "ana-s3cr3t", received_at)
    assert not any(word in span.to_json() for span in spans for word in ("s3cr3t", "ana@", "ana-"))
    assert deliver.resource.attributes["service.name"] == "daxgo-connect"


BATCHED = """
actions:
  note:
    batch: {records: 10, wait: 1s}
    record: {id: "${ event.id }"}
    request: {path: /notes, json: "${ batch.records }"}
"""


def test_a_batch_is_a_trace_of_its_own_and_each_of_its_events_is_linked_to_it() -> None:
    traced = Traced(BATCHED)
    traced.shop.post_many(3)
    traced.shop.drain(for_s=2)
    spans = traced.spans()
    [batch] = [span for span in spans if span.name == "batch crm.note"]
    delivers = [span for span in spans if span.name == "deliver crm.note"]
    assert [span.context.trace_id for span in delivers] == [trace_of("crm", "abc", str(at)) for at in (1, 2, 3)]
    assert [[link.context for link in span.links] for span in delivers] == [[batch.context]] * 3
    assert [link.context for link in batch.links] == [span.context for span in delivers]
    inside = [span.name for span in spans if span.parent is not None and span.parent.span_id == batch.context.span_id]
    assert inside == ["map", "POST note.request", "settle"]


def test_each_try_is_a_span_in_the_same_trace_and_what_failed_is_told_apart() -> None:
    traced = Traced(vendor=Vendor(TIMED_OUT, reply(503), reply(400, {})))
    traced.shop.post({"id": "e1"})
    traced.shop.drain(for_s=3600)
    spans = traced.spans()
    assert {span.context.trace_id for span in spans} == {trace_of("crm", "abc", "e1")}
    told = [
        ((span.attributes or {})["connect.outcome"], span.status.is_ok or span.status.is_unset)
        for span in spans
        if span.name.startswith("deliver")
    ]
    assert told == [("later", True), ("later", True), ("rejected", False)]
    sent = [
        (span.attributes or {}).get("http.response.status_code") for span in spans if span.name == "POST note.request"
    ]
    assert sent == [None, 503, 400]


def test_what_a_direct_caller_waits_for_is_traced_alike() -> None:
    traced = Traced('receive: {mode: direct, client: "${ event.client }", id: "${ event.id }"}')
    traced.shop.post({"id": "e1"})
    assert traced.tree() == ["deliver crm.note", "  map", "  POST note.request", "  settle"]


# --- intake ---


def taken_in(parent: str = "", *, number: int = 1, duplicate: bool = False) -> list[ReadableSpan]:
    traced = Traced()
    events = [traced.shop.received({"client": "abc", "id": f"e{at}"}).accepted[0][1] for at in range(1, number + 1)]
    stored = [Stored(event.event_id, duplicate, ()) for event in events]
    now = traced.shop.clock.now()
    traced.tracer.taken_in("crm", events, stored, parent=parent, began=now, put_at=now + 1, now=now + 3)
    return traced.spans()


def test_an_event_that_comes_in_is_the_root_of_its_trace() -> None:
    intake, put = taken_in()
    assert (intake.name, intake.parent, intake.context.trace_id) == ("intake crm", None, trace_of("crm", "abc", "e1"))
    assert put.parent is not None
    assert (put.name, put.parent.span_id) == ("put", intake.context.span_id)
    assert [span.end_time - span.start_time for span in (intake, put)] == [3e9, 2e9]  # type: ignore[operator]


def test_an_id_that_comes_again_goes_on_in_its_trace_below_a_root_of_its_own() -> None:
    traced = Traced()
    roots = []
    for _ in range(2):
        roots.append(root_of("crm", "abc", "e1", traced.shop.clock.now()))
        traced.shop.post({"id": "e1"})
        traced.shop.drain()
        traced.shop.clock.time += 60
    delivers = [span for span in traced.spans() if span.name == "deliver crm.note"]
    assert {span.context.trace_id for span in delivers} == {trace_of("crm", "abc", "e1")}
    assert [span.parent.span_id for span in delivers if span.parent is not None] == roots
    assert len(set(roots)) == 2


def test_the_senders_trace_goes_on_with_a_span_that_is_linked_to_each_event() -> None:
    spans = taken_in(SENDER, number=2)
    [request] = [span for span in spans if span.name == "POST /crm"]
    intakes = [span for span in spans if span.name == "intake crm"]
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == tuple(SENDER.split("-")[1:3])  # type: ignore[union-attr]
    assert [link.context for link in request.links] == [span.context for span in intakes]
    assert [[link.context for link in span.links] for span in intakes] == [[request.context]] * 2
    assert dict(request.attributes or {}) == {"connect.connector": "crm", "connect.events": 2, "connect.duplicates": 0}


def test_an_event_that_was_there_before_begins_no_second_trace() -> None:
    assert [span.name for span in taken_in(duplicate=True)] == []
    assert [span.name for span in taken_in(SENDER, duplicate=True)] == ["POST /crm"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        "nonsense " * 50,
        SENDER[:-1],
        SENDER.upper(),
        SENDER.replace("00-", "ff-", 1),
        SENDER[:-2] + "00",  # not kept by the sender
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        "\x00é\u2028",
    ],
)
def test_a_traceparent_that_says_nothing_is_passed_over(text: str) -> None:
    assert sender_of(text) is None
    assert [span.name for span in taken_in(text)] == ["intake crm", "put"]


def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    later = sender_of("cc-" + SENDER[3:] + "-what-is-new")
    assert later is not None
    assert later.span_id == 0xB7AD6B7169203331


def test_both_ends_sample_the_same_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.3")
    taken = {span.context.trace_id for span in taken_in(number=200)}
    traced = Traced()
    traced.shop.post(*({"id": f"e{at}"} for at in range(1, 201)))
    traced.shop.drain()
    assert {span.context.trace_id for span in traced.spans()} == taken
    assert 30 < len(taken) < 90


# --- over the wire ---


class Collector:
    """An OTLP receiver on a loopback port."""

    def __init__(self, status: int = 200) -> None:
        self.spans: list[Any] = []
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                found = ExportTraceServiceRequest.FromString(body)
                collector.paths.add(self.path)
                for resource in found.resource_spans:
                    collector.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def collector(status: int = 200) -> Iterator[Collector]:
    found = Collector(status)
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        thread.join()
        found.server.server_close()


def settings(address: str, **more: str) -> dict[str, str]:
    return {"CONNECT_TRACES": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "200", **more}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


@pytest.fixture
def vendors(home: Path) -> Iterator[str]:
    with Running("sandbox", "--port", "0", project=home) as sandbox:
        yield sandbox.lines_until("export CONNECT_VIA=")[-1].removeprefix("export CONNECT_VIA=")


def test_an_event_is_followed_from_the_door_of_one_process_to_the_crm_by_another(home: Path, vendors: str) -> None:
    with collector() as found:
        env = {**SECRETS, **settings(found.address)}
        with Running("serve", "--port", "0", "--no-deliver", "--via", vendors, project=home, **env) as serve:
            port = serve.lines_until("Nothing is")[0].partition("127.0.0.1:")[2].partition("/")[0]
            headers = {"X-Connect-Key": KEYS["responsys"], "traceparent": SENDER}
            status, said = post(f"http://127.0.0.1:{port}/responsys", EVENTS["responsys"], **headers)
            assert status == 202, said
            soon(lambda: len(found.spans) == 3)
            assert serve.end().code == 0
        delivered = connect("deliver", "--via", vendors, project=home, **env)
        while delivered.out.startswith("0 delivered"):  # its batch waits a second for more
            assert (delivered.code, delivered.err) == (0, "")
            delivered = connect("deliver", "--via", vendors, project=home, **env)
        assert delivered.code == 0
    assert [json.loads(line)["event"] for line in delivered.err.splitlines()] == ["token-renewed"]
    assert found.paths == {"/v1/traces"}
    of_event = [span for span in found.spans if span.trace_id.hex() != SENDER.split("-")[1]]
    assert len({span.trace_id for span in of_event}) == 1
    names = [span.name for span in of_event]
    assert (sorted(names[:2]), names[2]) == (["intake responsys", "put"], "deliver responsys.trigger_event")
    assert names[-1] == "settle"
    assert "POST trigger_event.request" in names
    assert [span.name for span in found.spans if span not in of_event] == ["POST /responsys"]
    said = b"".join(span.SerializeToString() for span in found.spans)
    assert not any(word in said for word in (b"example.com", b"PROD-1", b"sandbox-api", b"key-of"))


def test_a_collector_that_refuses_costs_a_line_in_the_log_and_no_event(home: Path, vendors: str) -> None:
    with collector(400) as found:
        env = {**SECRETS, **settings(found.address)}
        with Running("serve", "--port", "0", "--no-deliver", "--via", vendors, project=home, **env) as serve:
            port = serve.lines_until("Nothing is")[0].partition("127.0.0.1:")[2].partition("/")[0]
            for _ in range(3):
                headers = {"X-Connect-Key": KEYS["responsys"]}
                before = len(found.spans)
                assert post(f"http://127.0.0.1:{port}/responsys", EVENTS["responsys"], **headers)[0] == 202
                soon(lambda before=before: len(found.spans) > before)
            ended = serve.end()
    assert ended.code == 0
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert [line["event"] for line in lines] == ["traces-failed"]
    assert "400" in lines[0]["why"]
    status = json.loads(connect("status", "--json", project=home).out)
    assert [lane["waiting"] for lane in status["lanes"] if lane["waiting"]] == [3]


def test_a_collector_that_never_answers_holds_neither_the_walk_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.telemetry.tracing.PATIENCE_S", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        said: list[str] = []
        tracer = otlp(said.append)
        shop = Shop()
        shop.worker.world = shop.worker.world._replace(traces=tracer)
        shop.post({"id": "e1"}, {"id": "e2"})
        began = time.monotonic()
        shop.drain()
        tracer.flush()
        tracer.flush()  # the first still waits: it is not waited for again
        assert shop.sums() == {"delivered": 2}
        tracer.close()
        assert time.monotonic() - began < 1.5
        for thread in [each for each in threading.enumerate() if each.name == "traces"]:
            thread.join(10)
        assert not any("Traceback" in text for text in said)


def test_a_word_that_names_no_way_of_traces_is_wrong_use(home: Path) -> None:
    ended = connect("deliver", project=home, CONNECT_TRACES="jaeger")
    assert ended == (2, "", "connect: CONNECT_TRACES: otlp or none, not jaeger\n")


def test_without_traces_their_library_is_not_loaded(home: Path) -> None:
    code = """
import sys
from pathlib import Path
from engine.egress import PUBLIC
from engine.spec.project import Project
from engine.stores.memory import MemoryStore
from engine.wiring import make_engine
engine, *_ = make_engine(Project(Path(".")), MemoryStore(), via=None, reach=PUBLIC, workers=1, log_level=None)
print(engine.traces, engine.worker.world.traces, [name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "None None []\n"
