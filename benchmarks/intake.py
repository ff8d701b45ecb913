"""
From the sender to the store: parse, check, bind, commit, answer; over HTTP on loopback, the store a file with fsync.

The load generator (`benchmarks/load.py`, raw sockets on uvloop) is a process of its own, and so are the servers; all of
them share the machine's cores, so that with two cores a server has a good one to itself. What is shown against the bare
server is so much of what HTTP alone allows here. Events are as browsers write them, with spaces nowhere.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.crm import crm
from benchmarks.doors import Door, door
from benchmarks.load import Load, load
from benchmarks.measuring import (
    CPU,
    WALL,
    Comparison,
    Figures,
    Took,
    alternate,
    at_least,
    at_most,
    compare,
    measured,
    version,
)
from engine.errors import Refused
from engine.intake import Receiver, parsed
from engine.spec.project import Project

TITLE = "Intake"
EVENT = {
    "email": "user@example.com",
    "eventType": "product_view",
    "product": {
        "id": "PROD-12345",
        "name": "Smartphone XYZ",
        "price": 1299.90,
        "image": "https://example.com/image.jpg",
        "url": "https://example.com/product/xyz",
    },
    "timestamp": "2026-01-28T10:30:45.123Z",
    "sessionId": "abc123-session",
    "clientId": "bench",
    "tid": "bench",
}
BAD = {**EVENT, "email": "nobody", "timestamp": "yesterday", "product": {"price": -1}, "currency": "real"}
CONNECTIONS = 64
PACED = 5_000.0
ROOT = Path(__file__).resolve().parents[1]


def written(event: object) -> str:
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False)


BODY = written({**EVENT, "email": "p%010d@example.com"})


def measure(quick: bool) -> Iterator[Comparison]:
    yield from checking(quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield from committing(folder, 0.5 if quick else 2.0)
        yield from while_draining(folder, 0.5 if quick else 2.0)
        yield from directly(folder, 0.5 if quick else 2.0)


def checking(quick: bool) -> Iterator[Comparison]:
    """Parse and validate; the other is given the event parsed."""
    import jsonschema

    connector = Project(ROOT).connector("responsys")
    schema = connector.receive.schema
    receiver = Receiver(connector, {}, lambda _: None, schema=schema, keys={}, inactive={})  # type: ignore[arg-type, return-value]
    assert schema is not None
    alone = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)

    def faults(body: bytes) -> int:
        [event], _, _ = parsed(body, "application/json")
        try:
            receiver.validate(event)
        except Refused as refused:
            return len(refused.faults)
        return 0

    def ours(body: bytes) -> Callable[[], int]:
        def run() -> int:
            for _ in range(100):
                faults(body)
            return 100

        return run

    def theirs(event: object) -> Callable[[], int]:
        def run() -> int:
            for _ in range(10):
                assert len(list(alone.iter_errors(event))) == found
            return 10

        return run

    against = f"{version('jsonschema')} alone"
    least_s = 0.1 if quick else 0.3
    for what, event, goal in (
        ("parse + validate an event, formats included", EVENT, at_least(25)),
        ("the same for all errors of a bad event", BAD, at_least(5)),
    ):
        found = len(list(alone.iter_errors(event)))
        assert faults(written(event).encode()) == found
        pair = {"ours": ours(written(event).encode()), "theirs": theirs(event)}
        yield compare(what, alternate(pair, clock=CPU, least_s=least_s), "ours", "theirs", against, goal=goal)


class Posts:
    """A contestant that is sent events for some time, and remembers how late the answers were."""

    def __init__(self, to: Door, seconds: float, *, good: bool = True) -> None:
        self.to, self.seconds, self.good = to, seconds, good
        self.p99s: list[float] = []

    def __call__(self) -> Took:
        found = load(self.to.port, "/responsys", BODY, connections=CONNECTIONS, seconds=self.seconds)
        assert not found.refused, found
        assert not found.unanswered, found
        self.p99s.append(1_000 / found.p99_ms)
        return Took(found.answered, found.seconds)


def committing(folder: Path, seconds: float) -> Iterator[Comparison]:
    with ExitStack() as stack:
        doors = {
            kind: stack.enter_context(door(kind, folder / kind)) for kind in ("bare", "uvicorn", "durable", "each")
        }
        posts = {kind: Posts(each, seconds) for kind, each in doors.items()}
        figures = alternate(posts, clock=WALL)
        late = Figures({kind: each.p99s[1:] for kind, each in posts.items()}, WALL)
        lanes = doors["durable"].lanes()
    what = f"durable intake, {CONNECTIONS} connections"
    yield compare(
        what, figures, "durable", "bare", "the same server answering 202 and doing nothing", goal=at_least(0.5)
    )
    yield compare(what, figures, "durable", "uvicorn", f"{version('uvicorn')} with an app that does nothing")
    yield compare(what, figures, "durable", "each", "the same with one commit for each event", goal=at_least(6))
    yield compare(
        f"p99 of it, {CONNECTIONS} connections",
        late, "durable", "bare", "the same server doing nothing", unit="ms", goal=at_most(3),
    )  # fmt: skip
    assert lanes["accepted"] == lanes["waiting"] > 0, lanes


def while_draining(folder: Path, seconds: float) -> Iterator[Comparison]:
    with ExitStack() as stack:
        via = stack.enter_context(crm())
        draining = stack.enter_context(door("draining", folder / "draining", via))
        only = stack.enter_context(door("durable", folder / "only"))
        posts = {"both": Posts(draining, seconds), "only": Posts(only, seconds)}
        figures = alternate(posts, clock=WALL)
        yield compare(
            "intake while what comes in is delivered at full speed", figures, "both", "only", "receiving only",
            goal=at_least(0.75),
        )  # fmt: skip
        before = draining.lanes()["accepted"]
        paced: Load = load(draining.port, "/responsys", BODY, connections=CONNECTIONS, seconds=2 * seconds, rate=PACED)
        lanes = draining.lanes()
    how = f"{PACED:,.0f} a second due, {2 * seconds:g} s; answered meanwhile"
    yield measured("paced, while delivering: served", 100 * paced.answered / paced.due, "%", goal=at_least(90), how=how)
    yield measured("paced, while delivering: the longest wait", paced.worst_ms, "ms", goal=at_most(250), how=how)
    lost = paced.taken - (lanes["accepted"] - before)
    yield measured(
        "paced, while delivering: answered 202 and not in the store", lost, "events", goal=at_most(0), how=how
    )


def directly(folder: Path, seconds: float) -> Iterator[Comparison]:
    """One event at a time; the CRM answers at once, so that all that is waited for is ours."""
    with crm() as via, door("direct", folder / "direct", via) as direct:
        load(direct.port, "/responsys", BODY, connections=1, seconds=seconds / 2)
        found = [load(direct.port, "/responsys", BODY, connections=1, seconds=seconds) for _ in range(5)]
        lanes = direct.lanes()
    assert lanes["delivered"] == lanes["accepted"] > 0, lanes
    how = "5 rounds, one event at a time, with the CRM's own time (at once)"
    yield measured(
        "direct: from the request to the answer, median",
        [each.p50_ms for each in found],
        "ms",
        goal=at_most(3),
        how=how,
    )
    yield measured("direct: p99", [each.p99_ms for each in found], "ms", goal=at_most(10), how=how)
