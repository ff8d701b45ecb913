"""Any event and any answer to every shipped connector; any use of rates by several threads and processes."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import subprocess
import sys
from bisect import bisect_right
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import ROOT, environment
from conftest import REFUSED, START, TIMED_OUT, Heard, balanced, reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measured import PHASES, figures, sized

from engine.bodies import csv_text
from engine.clock import VirtualClock
from engine.errors import BadValue
from engine.functions import REGISTRY
from engine.http import NoReply, Prepared, Reply
from engine.mapping import encode_json
from engine.program import Program
from engine.records import Accepted
from engine.sandbox import Sandbox
from engine.sending import Masker
from engine.spec import types
from engine.spec.check import check
from engine.spec.findings import errors_in
from engine.spec.load import load_connector
from engine.spec.located import read
from engine.spec.project import Project
from engine.spec.types import Binding, Client
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore
from engine.walk import Credentials, World
from engine.worker import Worker

SHIPPED = Project(ROOT)
NAMES = sorted(file.stem for file in (ROOT / "connectors").glob("*.yaml"))
HOSTILE = st.sampled_from(
    ["", " ", "'", '"', "\\", "\x00", "\ud7ff", "😀", "${ x }", "{{ x }}", "{% x %}", "' OR 1=1 --", "a\r\nX: y",
     "\u2028", "../../etc", "?a=b&c", "<script>", "1e400", "-0", "NaN", "2026-13-45T99:99:99Z", "9" * 400, "é" * 300]
)  # fmt: skip
ODD_VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, "", " ", "x", "a\r\nb", "é" * 300, "2026-13-45", "NaN", [], {}, [None], [[]],
    {"": 1}, [1, "a", None, {}], {"a": {"b": {"c": []}}}, ["x"] * 50,
]  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALARS | st.text(max_size=12) | HOSTILE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | HOSTILE, inner, max_size=3),
    max_leaves=8,
)


@cache
def all_of(name: str) -> tuple[Program, list[dict[str, Any]]]:
    """A shipped connector with all its actions for one client, and the events of its examples."""
    connector = SHIPPED.connector(name)
    events = [event for example in connector.examples for event in example.events]
    assert events, name
    return compiled(connector), events


def compiled(connector: types.Connector) -> Program:
    assert connector.sandbox is not None
    actions = {action: {"active": True} for action in connector.actions}
    binding = Binding(match="abc", settings=connector.sandbox.settings, actions=actions)
    client = Client(client="abc", connectors={connector.name: binding})
    return Program(connector, client, binding, jitter=lambda: 1.0)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, the whole of it left out."""
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        found += places(each, (*path, key))
    return found


def with_changes(event: dict[str, Any], changes: list[tuple[tuple[Any, ...], Any]]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(encode_json(event))
    for path, value in changes:
        at: Any = changed
        try:
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
        except (KeyError, IndexError, TypeError):  # an earlier change took the place away
            continue
    return changed


@st.composite
def odd_events(draw: st.DrawFn, events: list[dict[str, Any]]) -> dict[str, Any]:
    event = draw(st.sampled_from(events))
    changes = draw(st.lists(st.tuples(st.sampled_from(places(event)), JSON), min_size=1, max_size=6))
    return with_changes(event, changes)


class Odd:
    """The connector's sandbox; where `replies` are given it answers with one of those, now and then."""

    def __init__(self, program: Program, clock: VirtualClock, data: st.DataObject | None = None) -> None:
        self.sandbox = Sandbox(program.connector)
        self.clock, self.data, self.left = clock, data, 12

    def send(self, request: Prepared) -> Reply:
        self.left -= 1
        if self.data is None or self.left < 0 or (request.purpose == "auth" and self.data.draw(st.booleans())):
            return self.sandbox.answer(request, self.clock.now())
        found = self.data.draw(REPLIES)
        if isinstance(found, NoReply):
            raise found
        return found


REPLIES = st.builds(
    lambda status, body, kind: reply(status, text=body, content_type=kind),
    st.sampled_from([200, 201, 202, 204, 207, 301, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503]),
    JSON.map(encode_json) | st.binary(max_size=40),
    st.sampled_from(["application/json", "text/html", "text/csv", ""]),
) | st.sampled_from([REFUSED, TIMED_OUT])


def walked(
    program: Program, events: list[dict[str, Any]], data: st.DataObject | None
) -> tuple[MemoryStore, Heard, int]:
    program.auth.cached = None
    program.cache.kept.clear()
    clock, store, heard = VirtualClock(START), MemoryStore(), Heard()
    assert program.connector.sandbox is not None
    secrets = dict(program.connector.sandbox.secrets)
    masker = Masker(secrets.values())
    world = World(
        store=store,
        transport=Odd(program, clock, data),
        clock=clock,
        telemetry=heard,
        alerts=heard,
        program=lambda *_: program,
        credentials=lambda _: Credentials(secrets, "x"),
        masker=lambda _: masker,
    )
    worker = Worker(world)
    accepted = 0
    for number, event in enumerate(events):
        body = encode_json(event)
        try:
            drafts = program.drafts(json.loads(body), START)
        except BadValue:  # told to the sender with 422
            continue
        accepted += len(drafts) or 1
        name = program.connector.name
        store.put([Accepted(name, "abc", f"e{number}", body, START, drafts)], now=START).result()
    for _ in range(8):
        worker.drain()
        balanced(store)
        due = store.next_due(now=clock.now())
        if due is None:
            break
        clock.time = max(due, clock.now() + 0.001)
    return store, heard, accepted


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=sized(15, 400), deadline=None, suppress_health_check=SLOW, phases=PHASES)
@given(data=st.data())
def test_no_event_breaks_a_mapping_it_is_refused_rejected_or_sent(name: str, data: st.DataObject) -> None:
    program, examples = all_of(name)
    event = data.draw(odd_events(examples) | st.dictionaries(st.text(max_size=6), JSON, max_size=5))
    store, heard, accepted = walked(program, [event], None)
    assert heard.named("fault") == []
    assert sum(lane.accepted for lane in store.lanes()) == accepted


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=sized(8, 200), deadline=None, suppress_health_check=SLOW, phases=PHASES)
@given(data=st.data())
def test_whatever_is_answered_every_record_has_exactly_one_end(name: str, data: st.DataObject) -> None:
    """Each event is accepted once for each action that wants it, and counted once at the end, whatever came back."""
    program, examples = all_of(name)
    events = data.draw(st.lists(st.sampled_from(examples), min_size=1, max_size=4))
    store, heard, accepted = walked(program, events, data)
    assert heard.named("fault") == []
    lanes = store.lanes()
    assert sum(lane.accepted for lane in lanes) == accepted
    counted = Counted(heard)
    assert counted.delivered == sum(lane.delivered for lane in lanes)
    assert counted.rejected == sum(lane.rejected for lane in lanes) == len(store.dead(limit=1000))


def expressions(tree: Any) -> list[str]:
    """Every text with a hole in it."""
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    own = [tree] if isinstance(tree, str) and ("${" in tree or "{{" in tree) else []
    return own + [text for each in inner for text in expressions(each)]


ELSEWHERE = re.compile(
    r"\b(response|request|records?|batch|steps|lookups|results?|item|entry|index|group|fields|page)\b"
)


def shuffled(name: str, chance: random.Random) -> str:
    """
    A shipped connector in which some holes of its records are filled by expressions of other places, or by functions
    of any value: what still validates may meet values that nobody meant. It is without its examples, which it breaks.
    """
    tree = yaml.safe_load((ROOT / "connectors" / f"{name}.yaml").read_text(encoding="utf-8"))
    tree.pop("examples")
    inner = [
        text[2:-1].strip()
        for action in tree["actions"].values()
        for text in expressions(action)
        if text.startswith("${") and text.count("${") == 1 and not ELSEWHERE.search(text)
    ]
    spots = [
        (where, key)
        for action in tree["actions"].values()
        for part in ("record", "when", "key")
        if part in action
        for where, key in [(action, part), *spots_of(action[part])]
        if isinstance(where[key], str) and "${" in where[key]
    ]
    functions = {function.name: len(function.parameters) for function in REGISTRY.values()}
    for _ in range(chance.randint(1, 4) if spots else 0):
        where, key = chance.choice(spots)
        first, second = chance.choice(inner), chance.choice(inner)
        function = chance.choice(sorted(functions))
        more = [f"`{chance.choice(['0', '-1', '1e30', 'null', '[]', '{}'])}`", second][: functions[function] - 1]
        where[key] = chance.choice(
            [
                f"${{ {first} }}",
                f"${{ {function}({', '.join([first, *more])}) }}",
                f"${{ {first} {chance.choice(['==', '<', '||', '&&'])} {second} }}",
            ]
        )
    return json.dumps(tree, default=str).replace('"true": ', '"on": ')  # which YAML reads as a truth


def spots_of(tree: Any) -> list[tuple[Any, Any]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [spot for key, each in inner for spot in [(tree, key), *spots_of(each)]]


def test_no_event_breaks_a_mapping_of_any_connector_that_validates(tmp_path: Path) -> None:
    """Shuffled connectors, each that `validate` lets through with its examples' events, changed at some places."""
    for part in ("connectors", "clients"):
        (tmp_path / part).mkdir()
    (tmp_path / "schemas").symlink_to(ROOT / "schemas")
    chance, tries, sound, walks = random.Random(6), sized(12, 600), 0, 0
    for _ in range(tries):
        name = chance.choice(NAMES)
        file = tmp_path / "connectors" / f"{name}.yaml"
        text = shuffled(name, chance)
        file.write_text(text, encoding="utf-8")
        connector, findings, _ = load_connector(read(text, f"connectors/{name}.yaml"))
        findings = findings if errors_in(findings) else check(Project(tmp_path), [file])
        if connector is None or errors_in(findings):
            continue
        sound += 1
        program = compiled(connector)
        _, examples = all_of(name)
        for _ in range(3):
            event = chance.choice(examples)
            at = chance.sample(places(event), min(3, len(places(event))))
            event = with_changes(event, [(path, deepcopy(chance.choice(ODD_VALUES))) for path in at])
            store, heard, accepted = walked(program, [event], None)
            assert heard.named("fault") == [], text
            assert sum(lane.accepted for lane in store.lanes()) == accepted
            walks += 1
        file.unlink()
    figures(
        "test_no_event_breaks_a_mapping_of_any_connector_that_validates",
        f"{tries} shuffled connectors, {sound} of them valid: {walks} changed events walked, 0 faults",
    )
    assert sound > tries / 10


class Counted:
    """What telemetry heard: each end once."""

    def __init__(self, heard: Heard) -> None:
        self.delivered, self.rejected = (
            sum(int(str(facts["count"])) for facts in heard.named(kind)) for kind in ("delivered", "rejected")
        )


@settings(max_examples=sized(40, 1500), deadline=None)
@given(
    count=st.integers(1, 6),
    per_s=st.sampled_from([0.1, 1.0, 7.0]),
    uses=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 3)), max_size=60),
    durable=st.booleans(),
)
def test_no_window_holds_more_than_its_rate_whoever_asks_when(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    per_s: float,
    uses: list[tuple[float, int, int]],
    durable: bool,
) -> None:
    store = SqliteStore(tmp_path_factory.mktemp("rates") / "s.db") if durable else MemoryStore()
    now, taken = START, list[tuple[float, int]]()
    for after, cost in uses:
        now += after
        if cost > count:
            continue
        wait = store.take("r", count=count, per_s=per_s, now=now, cost=cost)
        if wait > 0:
            now += wait  # waiting as long as said is enough
            assert store.take("r", count=count, per_s=per_s, now=now, cost=cost) == 0
        taken.append((now, cost))
    store.close()
    for at, _ in taken:
        assert sum(cost for other, cost in taken if at <= other < at + per_s) <= count


@settings(max_examples=sized(60, 1500), deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({"a": st.text() | HOSTILE, "b": st.text() | HOSTILE}), min_size=1, max_size=4)
)
def test_a_cell_of_csv_stays_one_cell(rows: list[dict[str, str]]) -> None:
    written = csv_text(rows, types.Csv(rows="", columns=["a", "b"]))
    read_again = list(csv.reader(io.StringIO(written, newline="")))
    assert read_again == [["a", "b"], *([row["a"], row["b"]] for row in rows)]


TAKER = """
import sys, threading, time
from engine.stores.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
until = time.time() + float(sys.argv[2])
def take():
    while (now := time.time()) < until:
        if store.take("r", count=20, per_s=0.5, now=now) == 0:
            print(now, flush=True)
        else:
            time.sleep(0.002)
threads = [threading.Thread(target=take) for _ in range(3)]
for each in threads: each.start()
for each in threads: each.join()
store.close()
"""


def test_four_processes_of_three_threads_never_exceed_a_rate_in_any_window(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKER, str(tmp_path / "s.db"), str(sized(1.5, 20.0))]
    SqliteStore(tmp_path / "s.db").close()
    env = environment(PYTHONPATH=str(ROOT))
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) for _ in range(4)]
    times = sorted(float(line) for process in processes for line in process.communicate()[0].split())
    assert [process.returncode for process in processes] == [0] * 4
    # the log is in order of the commits, times are those of the askers: they may lag by a commit
    most = max(bisect_right(times, at + 0.5 - 0.05) - place for place, at in enumerate(times))
    figures(
        "test_four_processes_of_three_threads_never_exceed_a_rate_in_any_window",
        f"4 processes with 3 threads each at 20 in 0.5 s: {len(times)} granted in {times[-1] - times[0]:.1f} s, "
        f"at most {most} in any window",
    )
    assert most <= 20
    assert len(times) >= 20 * (times[-1] - times[0]) / 0.5 * 0.5, "it is not held back without need"
    assert os.path.exists(tmp_path / "s.db")
