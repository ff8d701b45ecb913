"""
What events went through -> spans for OpenTelemetry, sent by OTLP over HTTP; the only module that knows its library.

Nothing is stored for it: the trace of an event is named by a digest of connector, client and event id, so that the
process that takes it in and the one that delivers it mean the same trace, and sample it alike. Attributes are names
from the project's files, counts, and statuses; no payload, no id that a sender chose, no person.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError

try:
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import Decision
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
except ImportError:
    raise UsageError("traces need OpenTelemetry: pip install 'daxgo-connect[otel]'") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.trace.export import SpanExporter

    from engine.records import Accepted, Delivery, Sent, Settled, Stored, Walked

SERVICE = "daxgo-connect"
MOST_LINKS = 128  # of one span; what is beyond is linked from its own side only
PATIENCE_S = 5.0  # for what is left, at the end of a process or an invocation
AGAIN_S = 60.0  # until it is said again that spans can't be sent
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SCOPE = InstrumentationScope("daxgo-connect")
_FAILED = Status(StatusCode.ERROR)
_FINE = Status(StatusCode.UNSET)


def trace_of(connector: str, client: str, event_id: str) -> int:
    """The id of an event's trace."""
    return int.from_bytes(_digest(connector, client, event_id)[:16]) or 1


def root_of(connector: str, client: str, event_id: str, received_at: float) -> int:
    """The id of its first span; an id that is accepted a second time goes on in the same trace, below another one."""
    return int.from_bytes(_digest(connector, client, event_id, f"{received_at:.3f}")[:8]) or 1


def _digest(*parts: str) -> bytes:
    return sha256("/".join(parts).encode(errors="replace")).digest()


def sender_of(traceparent: str) -> SpanContext | None:
    """The span that a sender's request belongs to; None where it names none, or says that it is not kept."""
    found = _PARENT.fullmatch(traceparent.strip())
    if found is None or not int(found[3], 16) & TraceFlags.SAMPLED:
        return None
    context = SpanContext(int(found[1], 16), int(found[2], 16), True, _SAMPLED)
    return context if context.is_valid else None


class Tracer:
    """Spans are made when all of their times are known, and handed to a thread that sends them; any thread may call."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        failed: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`failed` hears once a minute why spans can't be sent. The environment's OTEL_… settings count."""
        named = OTELResourceDetector().detect().attributes
        given = {} if named.get(SERVICE_NAME) or os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: SERVICE}
        provider = TracerProvider(resource=Resource.create(given), shutdown_on_exit=False)
        self._resource, self._sampler = provider.resource, provider.sampler
        self._ids = RandomIdGenerator()
        self._processor = BatchSpanProcessor(exporter)
        self._waits: threading.Thread | None = None
        self._ear = _Ear(failed, clock)
        self._ear.begin()

    def taken_in(
        self,
        connector: str,
        events: Sequence[Accepted],
        stored: Sequence[Stored],
        *,
        parent: str,
        began: float,
        put_at: float,
        now: float,
    ) -> None:
        """Events that were read from `began` on, put at `put_at`, and are in the store; `parent`: a `traceparent`."""
        fresh = [event for event, put in zip(events, stored, strict=True) if not put.duplicate]
        kept = [event for event in fresh if self._keeps(trace_of(event.connector, event.client, event.event_id))]
        sender = sender_of(parent) if parent else None
        request = self._child(sender) if sender is not None else None
        roots = []
        for event in kept:
            lane = {"connect.connector": event.connector, "connect.client": event.client}
            context = self._root(event.connector, event.client, event.event_id, event.received_at)
            roots.append(context)
            links = [Link(request)] if request is not None else []
            self._span(f"intake {connector}", context, None, began, now, lane, kind=SpanKind.SERVER, links=links)
            self._span("put", self._child(context), context, put_at, now, lane)
        if request is not None and sender is not None:
            facts = {
                "connect.connector": connector,
                "connect.events": len(events),
                "connect.duplicates": len(events) - len(fresh),
            }
            self._span(
                f"POST /{connector}", request, sender, began, now, facts, kind=SpanKind.SERVER, links=_links(roots)
            )

    def settled(
        self,
        connector: str,
        client: str,
        deliveries: Sequence[Delivery],
        rows: Sequence[Settled],
        walked: Walked,
        *,
        settled_at: float,
        now: float,
    ) -> None:
        """What became of a batch: written down from `settled_at` to `now`, after what `walked` says."""
        began = min([walked.began, *(sent.began for sent in walked.sent)])
        kept = [
            (delivery, row)
            for delivery, row in zip(deliveries, rows, strict=True)
            if self._keeps(trace_of(connector, client, delivery.event_id))
        ]
        if not kept:
            return
        lane = {"connect.connector": connector, "connect.client": client}
        several = len(rows) > 1
        batch = SpanContext(self._ids.generate_trace_id(), self._ids.generate_span_id(), False, _SAMPLED)
        own = []
        for delivery, row in kept:
            root = self._root(connector, client, delivery.event_id, delivery.received_at)
            context = self._child(root)
            own.append(context)
            facts = {
                **lane,
                "connect.action": delivery.action,
                "connect.outcome": row.kind,
                "connect.attempt": delivery.attempts + 1,
                "connect.waited_s": round(max(0.0, began - delivery.received_at), 3),
            }
            status = _FAILED if row.kind == "rejected" else _FINE
            links = [Link(batch)] if several else []
            self._span(f"deliver {connector}.{delivery.action}", context, root, began, now, facts, status, links=links)
            if not several:
                self._stages(context, lane, walked, settled_at, now)
        if several:
            action = kept[0][0].action
            facts = {**lane, "connect.action": action, "connect.batch": len(rows)}
            self._span(f"batch {connector}.{action}", batch, None, began, now, facts, links=_links(own))
            self._stages(batch, lane, walked, settled_at, now)

    def flush(self) -> None:
        """Send what there is, before a process is frozen; no longer than PATIENCE_S, whatever the collector does."""
        self._within(self._processor.force_flush)

    def close(self) -> None:
        """Send what is left; nothing is taken from then on."""
        self._within(self._processor.shutdown)
        self._ear.end()

    def _within(self, work: Callable[[], object]) -> None:
        """In a thread of its own, for the library keeps to no time-out; one that still waits is waited for once."""
        if self._waits is None or not self._waits.is_alive():
            self._waits = threading.Thread(target=work, name="traces", daemon=True)
            self._waits.start()
            self._waits.join(PATIENCE_S)

    def _stages(
        self, parent: SpanContext, lane: Mapping[str, Any], walked: Walked, settled_at: float, now: float
    ) -> None:
        looked_up = walked.looked_up_at
        if looked_up is None and walked.window:  # they were not answered
            looked_up = walked.window[-1].ended
        if looked_up is not None:
            context = self._child(parent)
            self._span("lookup", context, parent, walked.began, looked_up, lane)
            for sent in walked.window:
                self._exchange(context, lane, sent)
        if walked.mapped_at is not None:
            since = looked_up if looked_up is not None else walked.began
            self._span("map", self._child(parent), parent, since, walked.mapped_at, lane)
        for sent in walked.sent:
            self._exchange(parent, lane, sent)
        self._span("settle", self._child(parent), parent, settled_at, now, lane)

    def _exchange(self, parent: SpanContext, lane: Mapping[str, Any], sent: Sent) -> None:
        facts = {
            **lane,
            "connect.action": sent.action,
            "connect.step": sent.step,
            "http.request.method": sent.method,
            "server.address": sent.host,
            **({"http.response.status_code": sent.status} if sent.status else {}),
        }
        status = _FINE if 0 < sent.status < 400 else _FAILED
        name = f"{sent.method} {sent.action}.{sent.step}".rstrip(".")
        self._span(name, self._child(parent), parent, sent.began, sent.ended, facts, status, kind=SpanKind.CLIENT)

    def _keeps(self, trace_id: int) -> bool:
        """The sampler goes by the id, and so decides the same wherever the event is."""
        return self._sampler.should_sample(None, trace_id, "event").decision is Decision.RECORD_AND_SAMPLE

    @staticmethod
    def _root(connector: str, client: str, event_id: str, received_at: float) -> SpanContext:
        trace_id = trace_of(connector, client, event_id)
        return SpanContext(trace_id, root_of(connector, client, event_id, received_at), True, _SAMPLED)

    def _child(self, parent: SpanContext) -> SpanContext:
        return SpanContext(parent.trace_id, self._ids.generate_span_id(), False, _SAMPLED)

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        began: float,
        ended: float,
        facts: Mapping[str, Any],
        status: Status = _FINE,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Sequence[Link] = (),
    ) -> None:
        self._processor.on_end(
            ReadableSpan(
                name,
                context,
                parent,
                self._resource,
                facts,
                links=links,
                kind=kind,
                status=status,
                start_time=int(began * 1e9),
                end_time=int(max(began, ended) * 1e9),
                instrumentation_scope=_SCOPE,
            )
        )


def _links(contexts: Sequence[SpanContext]) -> list[Link]:
    return [Link(context) for context in contexts[:MOST_LINKS]]


class _Ear(logging.Handler):
    """What the library would write to stderr, once a minute to `failed`: a log is JSON, a line for each thing."""

    def __init__(self, failed: Callable[[str], None], clock: Callable[[], float]) -> None:
        super().__init__(logging.WARNING)
        self._failed, self._clock = failed, clock
        self._said_at = float("-inf")
        self._logger = logging.getLogger("opentelemetry")

    def begin(self) -> None:
        self._logger.addHandler(self)
        self._logger.propagate = False

    def end(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        if self._clock() - self._said_at >= AGAIN_S:
            self._said_at = self._clock()
            self._failed(record.getMessage())


def otlp(failed: Callable[[str], None]) -> Tracer:
    """To the collector that OTEL_EXPORTER_OTLP_ENDPOINT names."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return Tracer(OTLPSpanExporter(), failed=failed)
