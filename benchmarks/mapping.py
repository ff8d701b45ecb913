"""
From a decoded event to its record, on one core: what the connector's `fields` and `record` cost, beside the same
mapping written by hand and by other tools. The results are held against each other over 2,000 events before anything
is timed; what is timed are 200 of them, as many as a walk maps at a time. (2,000 decoded events are more than the cache
of a core holds: then it is the memory that is measured, and who else uses it.)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import competitors
from benchmarks.mapped import by_hand, plainly
from benchmarks.mapped.events import events
from benchmarks.measuring import (
    CPU,
    ROOT,
    Beside,
    Comparison,
    Contestant,
    alternate,
    at_least,
    compare,
    missing,
    version,
)
from engine.program import Program, decode_event
from engine.spec import types
from engine.spec.load import load_connector
from engine.spec.located import read_file

TITLE = "Mapping"
HERE = Path(__file__).parent
CONNECTORS = ROOT / "connectors"
COUNT, TOGETHER = 2_000, 200
AT = 1769596245.123
PERSON = {"Id": "003000000000001AAA", "type": "Contact"}
RESPONSYS = {"list": "CONTACTS_LIST", "folder": "!MasterData"}
SALESFORCE = {"domain": "acme.my.salesforce.com"}
Map = Callable[[dict[str, Any]], Any]
encode = msgspec.json.Encoder(decimal_format="number").encode


def program_of(file: Path, settings: dict[str, Any]) -> Program:
    connector, findings, _ = load_connector(read_file(file, file.name))
    assert connector is not None, findings
    binding = types.Binding(settings=settings)
    program = Program(connector, types.Client(client="client-abc", connectors={connector.name: binding}), binding)
    program.require_sound(file.name)
    return program


def ours(program: Program, action: str) -> Map:
    """As a walk does it: the row's context, its fields, the record."""
    wanted = program.actions[action]
    row = program.rows({**program.scope, "derived": {}}, fields=not wanted.makes_fields)
    record, looks_up = wanted.record, bool(wanted.lookups)
    assert not program.reads_delivery

    def run(event: dict[str, Any]) -> Any:
        scope = row(event, AT)
        if looks_up:
            scope["lookups"] = {"person": PERSON}
        made = record(scope)
        return scope["fields"], made

    return run


def by_hand_of(name: str, program: Program) -> Map:
    settings, tables = program.settings, program.scope["tables"]
    if name == "responsys":
        return lambda event: by_hand.responsys(event, settings, tables)
    if name == "salesforce":
        return lambda event: by_hand.salesforce(event, settings, tables, PERSON)
    return lambda event: by_hand.sixty(event, settings, tables)


MAPPINGS = {
    "responsys": ("the seed's Responsys record", CONNECTORS / "responsys.yaml", RESPONSYS, "trigger_event", 0.7),
    "salesforce": ("the seed's Salesforce task", CONNECTORS / "salesforce.yaml", SALESFORCE, "create_task", None),
    "sixty": ("60 fields with conditions, loops, functions", HERE / "mapped" / "sixty.yaml", {}, "upsert", 0.5),
}  # fmt: skip


def same(what: str, one: Map, other: Map, given: list[dict[str, Any]]) -> None:
    """Both give the same JSON for every event, key for key and digit for digit."""
    for event in given:
        left, right = encode(one(event)), encode(other(event))
        assert left == right, f"{what}: {event}\n{left!r}\n{right!r}"


def from_bytes(run: Map) -> Callable[[bytes], bytes]:
    return lambda body: encode(run(decode_event(body))[1])


def over(run: Callable[[Any], Any], given: list[Any]) -> Callable[[], int]:
    def turn() -> int:
        for each in given:
            run(each)
        return len(given)

    return turn


def measure(quick: bool) -> Iterator[Comparison]:
    yield from beside_by_hand(7 if quick else 21)
    with tempfile.TemporaryDirectory() as folder:
        yield from beside_others(Path(folder), 0.05 if quick else 0.4)


def beside_by_hand(rounds: int) -> Iterator[Comparison]:
    """Many short rounds, so that the two of a ratio meet with the same machine."""
    given = events(COUNT)
    some = given[:TOGETHER]
    bodies = [encode(event) for event in some]
    for name, (what, file, settings, action, goal) in MAPPINGS.items():
        program = program_of(file, settings)
        mapped, written = ours(program, action), by_hand_of(name, program)
        same(what, mapped, written, given)
        contestants = {"ours": over(mapped, some), "hand": over(written, some)}
        contestants["ours, bytes"] = over(from_bytes(mapped), bodies)
        contestants["hand, bytes"] = over(from_bytes(written), bodies)
        figures = alternate(contestants, rounds=rounds, clock=CPU, least_s=0.1)
        least = at_least(goal) if goal else None
        yield compare(what, figures, "ours", "hand", "Python written by hand", goal=least)
        yield compare(f"{what}, from bytes to bytes", figures, "ours, bytes", "hand, bytes", "Python written by hand")


# --- other tools, over events that all of them can map: in UTC, with prices in whole cents ---

AIRBYTE, SEGMENT, RUDDER = "airbyte-cdk", "@segment/actions-core", "@rudderstack/workflow-engine"
LEAST = {"responsys": 100, "salesforce": 50, "sixty": 20}  # times airbyte-cdk


def beside_others(folder: Path, least_s: float) -> Iterator[Comparison]:
    given = [in_cents(event) for event in events(TOGETHER)]
    for name, (what, file, settings, action, _) in MAPPINGS.items():
        program = program_of(file, {**settings, "timezone": "UTC"} if name != "responsys" else settings)
        mapped = ours(program, action)
        records = [mapped(event)[1] for event in given]
        tables = program.scope["tables"]
        config = {**program.settings, **tables, "person": PERSON, "signs": {"BRL": "R$", "EUR": "€"}}
        written = folder / f"{name}.jsonl"
        written.write_bytes(encode(given) + b"\n" + encode(config))
        with ExitStack() as stack:
            contestants: dict[str, Contestant] = {"ours": over(mapped, given)}
            goals: dict[str, float | None] = {}
            command: list[str | Path] = [competitors.python(), HERE / "mapped" / "airbyte.py", name, written]
            wanted: dict[str, tuple[list[str | Path], Path, float]] = {AIRBYTE: (command, ROOT, LEAST[name])}
            if name == "responsys":
                for package, script in ((SEGMENT, "segment.js"), (RUDDER, "rudder.js")):
                    wanted[package] = (["node", HERE / "mapped" / script, written], competitors.NODE, 4)
                for plain, run in (("jinja2", plainly.by_jinja()), ("jmespath", plainly.by_jmespath())):
                    alike(plain, records, [run(event) for event in given])
                    contestants[version(plain)], goals[version(plain)] = over(run, given), None
            for package, (told, cwd, least) in wanted.items():
                if (named := competitors.version(package)) is None:
                    yield missing(what, package, competitors.why_not(package), goal=at_least(least), unit="events/s")
                    continue
                other = stack.enter_context(Beside(told, cwd=cwd))
                alike(package, records, other.hello)
                contestants[named], goals[named] = other, least
            figures = alternate(contestants, rounds=5, clock=CPU, least_s=least_s)
            for named, goal in goals.items():
                yield compare(what, figures, "ours", named, named, goal=at_least(goal) if goal else None)


def in_cents(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: in_cents(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [in_cents(entry) for entry in value]
    return value.quantize(Decimal("0.01")) if isinstance(value, Decimal) else value


def alike(tool: str, records: list[Any], theirs: list[Any]) -> None:
    """The same values at the same places, as far as other tools can say them: see `loosely`."""
    for ours_, other in zip(records, theirs, strict=True):
        left, right = loosely(json.loads(encode(ours_))), loosely(other)
        assert left == right, f"{tool}: {difference(left, right)}"


def difference(left: Any, right: Any, at: str = "") -> str:
    if not isinstance(left, dict) or not isinstance(right, dict):
        return f"{at}: {left!r} here, {right!r} there"
    return "; ".join(
        difference(left.get(key), right.get(key), f"{at}.{key}")
        for key in {**left, **right}
        if left.get(key) != right.get(key)
    )


def loosely(value: Any) -> Any:
    """Without what is empty, and pairs without a value; numbers to two decimals, also in texts; letters small."""
    if isinstance(value, dict):
        left = {key: loosely(entry) for key, entry in value.items()}
        return {key: entry for key, entry in left.items() if entry not in (None, "", [], {})}
    if isinstance(value, list):
        return [entry for each in value if (entry := loosely(each)) not in (None, "", [], {}) and pair(entry)]
    if isinstance(value, str):
        try:
            return f"{float(value):.2f}"
        except ValueError:
            return value.strip().lower()
    return value if value is None or isinstance(value, bool) else f"{float(value):.2f}"


def pair(entry: Any) -> bool:
    return not isinstance(entry, dict) or set(entry) != {"name"}
