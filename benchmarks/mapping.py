"""
From a decoded event to its record, on one core: what the connector's `fields` and `record` cost, beside the same
mapping written by hand and by other tools. The results are held against each other over 2,000 events before anything
is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.mapped import by_hand
from benchmarks.mapped.events import events
from benchmarks.measuring import CPU, ROOT, Comparison, alternate, at_least, compare
from engine.program import Program, decode_event
from engine.spec import types
from engine.spec.load import load_connector
from engine.spec.located import read_file

TITLE = "Mapping"
HERE = Path(__file__).parent
CONNECTORS = ROOT / "connectors"
COUNT = 2_000
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
    """As a walk does it: the row's context, its fields, then the record."""
    wanted, bound = program.actions[action], {**program.scope, "derived": {}}

    def run(event: dict[str, Any]) -> Any:
        scope = program.row_scope(event, AT, bound)
        if program.reads_delivery:
            scope["delivery"] = {"id": "6f1e", "attempt": 1}
        if wanted.lookups:
            scope["lookups"] = {"person": PERSON}
        return scope["fields"], wanted.record(scope)

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
    given = events(COUNT)
    bodies = [encode(event) for event in given]
    least_s = 0.05 if quick else 0.4
    for name, (what, file, settings, action, goal) in MAPPINGS.items():
        program = program_of(file, settings)
        mapped, written = ours(program, action), by_hand_of(name, program)
        same(what, mapped, written, given)
        contestants = {"ours": over(mapped, given), "hand": over(written, given)}
        contestants["ours, bytes"] = over(from_bytes(mapped), bodies)
        contestants["hand, bytes"] = over(from_bytes(written), bodies)
        figures = alternate(contestants, rounds=7, clock=CPU, least_s=least_s)
        least = at_least(goal) if goal else None
        yield compare(what, figures, "ours", "hand", "Python written by hand", goal=least)
        yield compare(f"{what}, from bytes to bytes", figures, "ours, bytes", "hand, bytes", "Python written by hand")
