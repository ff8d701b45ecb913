"""A connector and a client, compiled: what a client changes, which secrets are needed, what does not compile."""

from __future__ import annotations

import msgspec
import pytest
from conftest import Shop, Vendor, client_from, connector_from, program_from, reply

from engine.errors import SpecErrors
from engine.program import Program, overlay, patched
from engine.spec.types import Binding

NOTES = """
settings:
  properties:
    list: {type: string, default: all}
    zone: {type: object, properties: {name: {type: string, default: UTC}}}
tables: {kinds: {view: Viewed, cart: Cart}}
actions:
  note:
    when: "${ event.kind }"
    record:
      kind: ${ get(tables.kinds, event.kind) }
      list: ${ settings.list }
      zone: ${ settings.zone.name }
      fixed: one
    batch: {records: 100, max: {records: 50}}
    request: {path: /notes, json: "${ batch.records }"}
  task:
    active: false
    record: {id: "${ event.id }"}
    request: {path: /tasks, json: "${ record }"}
"""


def sent(client: str, **event: str) -> list[object]:
    shop = Shop(NOTES, f"client: abc\nconnectors: {{crm: {client}}}")
    shop.post({"id": "1", "kind": "view", **event})
    shop.drain()
    return list(zip(shop.vendor.lines, shop.vendor.bodies, strict=True))


NOTE = {"kind": "Viewed", "list": "all", "zone": "UTC", "fixed": "one"}


def test_settings_have_the_defaults_of_the_connector_also_inside_of_objects() -> None:
    assert sent("{}") == [("POST /v1/notes", [NOTE])]
    assert sent("{settings: {list: vip, zone: {name: BRT}}}") == [
        ("POST /v1/notes", [{**NOTE, "list": "vip", "zone": "BRT"}])
    ]


def test_a_client_may_change_tables_and_records() -> None:
    assert sent("{tables: {kinds: {view: Visto}}}") == [("POST /v1/notes", [{**NOTE, "kind": "Visto"}])]
    assert sent("{actions: {note: {record: {fixed: two, own: '${ event.id }'}}}}") == [
        ("POST /v1/notes", [{**NOTE, "fixed": "two", "own": "1"}])
    ]
    assert sent("{actions: {note: {record: {list: {$remove: true}, zone: {$remove: true}}}}}") == [
        ("POST /v1/notes", [{"kind": "Viewed", "fixed": "one"}])
    ]


def test_a_client_may_switch_actions_on_and_off() -> None:
    assert sent("{actions: {task: {active: true}}}") == [
        ("POST /v1/notes", [NOTE]),
        ("POST /v1/tasks", {"id": "1"}),
    ]
    assert sent("{actions: {note: {active: false}}}") == []


def test_a_client_may_change_when() -> None:
    assert sent("{actions: {note: {when: \"${ event.kind == 'cart' }\"}}}") == []


def test_what_a_client_must_not_change_stays() -> None:
    for change in ("request: {path: /evil}", "replies: {outcomes: []}", "auth: other"):
        with pytest.raises(SpecErrors):
            client_from(f"client: abc\nconnectors: {{crm: {{actions: {{note: {{{change}}}}}}}}}")


def test_what_a_client_must_not_change_stays_also_where_no_schema_was_asked() -> None:
    connector = connector_from(NOTES)
    binding = Binding(actions={"note": {"steps": {}, "auth": "other", "title": "Ours"}})
    note = connector.actions["note"]
    assert patched(connector, binding)["note"] == msgspec.structs.replace(note, title="Ours")


def test_a_patch_of_an_unknown_action_changes_nothing() -> None:
    connector = connector_from(NOTES)
    client = client_from("client: abc\nconnectors: {crm: {actions: {nothing: {active: true}}}}")
    assert patched(connector, client.connectors["crm"]) == connector.actions


def test_the_vendor_s_most_can_not_be_exceeded_by_a_client() -> None:
    text = "client: abc\nconnectors: {crm: {actions: {note: {batch: {records: 1000}}}}}"
    assert program_from(NOTES, text).actions["note"].batcher.records == 50


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": 1, "b": 2}, {"a": {"$remove": True}}, {"b": 2}),
        ({"a": 1}, {"x": {"$remove": True}}, {"a": 1}),
        (None, {"a": 1}, {"a": 1}),
    ],
)
def test_maps_merge_all_else_replaces_and_remove_takes_out(base: object, change: object, expected: object) -> None:
    assert overlay(base, change) == expected


# --- secrets ---

TWO_SECRETS = """
secrets: {key: {title: Key}, other: {title: Other}}
settings: {properties: {x: {type: string, default: y}}}
auth: {place: {headers: {X-Key: "{{ secrets.key }}"}}}
"""


def test_only_secrets_that_something_reaches_are_needed() -> None:
    assert program_from(TWO_SECRETS).secret_names == {"key"}


# --- what does not compile ---


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ('{record: {x: "${ evnt.id }"}, request: {path: /n, json: "${ record }"}}', "unknown name evnt"),
        ('{record: {x: "${ secrets.key }"}, request: {path: /n, json: "${ record }"}}', "secrets"),
        ('{batch: {records: 5}, record: {x: 1}, request: {path: /n, json: "${ event.id }"}}', "event"),
        ('{record: {x: "${ nothing(event.id) }"}, request: {path: /n, json: {}}}', "nothing"),
        ('{record: {x: "{{ event.id | nothing }}"}, request: {path: /n, json: {}}}', "nothing"),
        ("{record: {$unknown: 1}, request: {path: /n, json: {}}}", "$unknown"),
    ],
)
def test_what_does_not_compile_is_a_finding(action: str, says: str) -> None:
    with pytest.raises(SpecErrors) as caught:
        program_from(f"secrets: {{key: {{title: K}}}}\nactions: {{note: {action}}}")
    assert says in str(caught.value)


def test_all_that_does_not_compile_is_told_at_once() -> None:
    with pytest.raises(SpecErrors) as caught:
        program_from(
            'actions: {note: {record: {a: "${ x.a }", b: "${ y.b }"}, request: {path: "/{{ z.c }}", json: {}}}}'
        )
    assert len(caught.value.findings) == 3


# --- checks before and after ---

CHECKED = """
actions:
  note:
    record: {email: "${ event.email }", n: "${ event.n }"}
    require:
      - {that: "${ event.consent }", reason: "{{ event.id }} gave no consent"}
      - {that: "${ record.n > `0` }", reason: n must be positive}
      - schema: {required: [email], properties: {email: {format: email}}}
    request: {path: /notes, json: "${ record }"}
"""


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"consent": True, "n": 1, "email": "ana@example.com"}, None),
        ({"n": 1, "email": "ana@example.com"}, "1 gave no consent"),
        ({"consent": True, "n": 0, "email": "ana@example.com"}, "n must be positive"),
        ({"consent": True, "n": 1}, 'record: "email" is a required property'),
        ({"consent": True, "n": 1, "email": "nobody"}, 'email: "nobody" is not a "email"'),
    ],
)
def test_a_record_that_fails_a_check_is_rejected_with_its_reason(event: dict[str, object], reason: str | None) -> None:
    shop = Shop(CHECKED, vendor=Vendor(reply(200, {})))
    shop.post({"id": "1", **event})
    shop.drain()
    assert shop.reasons() == ({} if reason is None else {"1": reason})
    assert len(shop.vendor.asked) == (reason is None)


def test_a_check_of_the_connector_can_be_asked() -> None:
    text = "checks: {limits: {title: Limits, request: {method: GET, path: /limits}}}"
    connector, client = connector_from(text), client_from()
    program = Program(connector, client, client.connectors["crm"])
    assert list(program.checks) == ["limits"]
