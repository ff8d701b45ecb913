from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from engine.spec.expand import MAX_NODES, expand
from engine.spec.located import read, read_file

DEFINITIONS = Path(__file__).parent / "spec" / "good" / "definitions.yaml"


def grown(text: str) -> tuple[Any, list[str]]:
    located, findings = expand(read(text, "f"))
    return located.data, [str(finding) for finding in findings]


def test_each_kind_of_definition_becomes_what_it_stands_for() -> None:
    located, findings = expand(read_file(DEFINITIONS, "f"))
    assert findings == []
    search = {"method": "GET", "path": "/search"}
    assert located.data["actions"]["view"] == {
        "lookups": {
            "person": {
                "keys": "${ event.email }",
                "cache": "1m",
                "sources": {
                    "contact": {
                        "request": {**search, "query": {"limit": 10, "object": "{{ args.object }}"}},
                        "rows": "${ response.body.rows }",
                        "args": {"object": "Contact"},
                    },
                    "lead": {
                        "request": {**search, "query": {"limit": 10, "object": "{{ args.object }}"}},
                        "rows": "${ response.body.rows }",
                        "args": {"open": True, "object": "Lead", "state": True},
                    },
                },
            }
        },
        "record": {
            "Email": "${ event.email }",
            "Product": {
                "$with": {
                    "args": {"id": "${ event.product.id }"},
                    "do": {"Id": "${ args.id }", "Colour": "blue", "Raw": {"$literal": {"$use": "nothing"}}},
                },
                "Colour": "red",
            },
            "Name": "{{ event.name }}",
        },
        "replies": {"code": "${ response.body.code }"},
        "steps": {
            "request": {
                "request": {"path": "/write", "json": "${ batch.records }", "query": {"dry": "${ settings.dry }"}},
                "results": [
                    {"at": "${ get(response.body, args.list) }", "ok": "${ result.ok }", "args": {"list": "created"}}
                ],
            }
        },
    }
    assert located.data["actions"]["load"] == {
        "record": {
            "$with": {
                "args": {"id": "${ event.id }"},
                "do": {"Id": "${ args.id }", "Colour": "blue", "Raw": {"$literal": {"$use": "nothing"}}},
            }
        },
        "steps": {
            "create": {
                "repeat": "may_double",
                "request": {"path": "/jobs", "expect": "${ response.body.id }"},
                "save": {"id": "${ response.body.id }"},
            },
            "close": {"request": {"path": "/close"}, "repeat": "never"},
        },
    }


def test_an_expanded_part_keeps_the_place_of_its_definition() -> None:
    located, _ = expand(read_file(DEFINITIONS, "f"))
    steps = ("actions", "view", "steps", "request")
    written = located.source_line(located.mark((*steps, "request", "path"))[0])
    assert written.strip().startswith("write: {path: /write")
    assert (
        located.source_line(located.mark((*steps, "request", "query", "dry"))[0]).strip().startswith("request: {$use")
    )
    assert located.source_line(located.key_mark((*steps, "results", 0, "ok"))[0]).strip().startswith("by_position")


def test_a_definition_used_twice_by_each_next_one_is_stopped_before_it_fills_the_memory() -> None:
    lines = ["actions: {a: {record: {$use: d0}}}", "definitions:", "  structures:"]
    lines += [f"    d{n}: {{a: {{$use: d{n + 1}}}, b: {{$use: d{n + 1}}}}}" for n in range(60)]
    begun = time.perf_counter()
    _, findings = grown("\n".join([*lines, "    d60: 1"]))
    assert time.perf_counter() - begun < 5
    assert [finding.partition(": ")[2] for finding in findings] == [
        f"actions.a.record.a.a.a: definitions grow to more than {MAX_NODES} values or 128 levels [too-large]"
    ]


def test_a_chain_of_definitions_may_not_be_endless() -> None:
    lines = ["actions: {a: {record: {$use: d0}}}", "definitions:", "  structures:"]
    lines += [f"    d{n}: {{$use: d{n + 1}}}" for n in range(300)]
    _, findings = grown("\n".join([*lines, "    d300: 1"]))
    assert [finding.rpartition("[")[2] for finding in findings] == ["too-large]"]


def test_what_is_of_a_wrong_shape_is_left_for_others_to_complain_of() -> None:
    text = "actions: {a: 1, b: [2], c: {steps: 3, lookups: [4], request: 5, results: 6}}\nauth: 7\ndefinitions: 8\n"
    assert grown(text)[1] == []
