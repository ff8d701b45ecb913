from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, Vendor, reply

from engine.authoring.examples import run_example
from engine.bodies import Part, csv_text, encoded_parts, read_body, read_form, read_parts
from engine.http import Prepared
from engine.sandbox import Sandbox, seen
from engine.spec import types
from engine.spec.load import load_connector
from engine.spec.located import read_file
from engine.unpacking import unpack

GOOD = Path(__file__).parent / "spec" / "good" / "bodies.yaml"


def connector() -> types.Connector:
    found = load_connector(read_file(GOOD, GOOD.name))[0]
    assert found is not None
    return found


@pytest.mark.parametrize("example", connector().examples, ids=lambda example: example.name)
def test_bodies_replies_and_addresses_of_all_kinds(example: types.Example) -> None:
    assert run_example(connector(), example).message == ""


def unlike(**sends: Any) -> str:
    """What the example of a file says where it lists other parts than were sent."""
    [example] = [each for each in connector().examples if each.name.startswith("a file")]
    last = example.exchange[-1]
    assert last.sends is not None
    parts = {key: value for key, value in {**last.sends["multipart"], **sends}.items() if value != "-"}
    other = types.Exchange(sends={**last.sends, "multipart": parts}, answers=last.answers)
    exchange = [*example.exchange[:-1], other]
    return run_example(connector(), types.Example(**{**vars_of(example), "exchange": exchange})).message


def vars_of(example: types.Example) -> dict[str, Any]:
    return {name: getattr(example, name) for name in example.__struct_fields__}


def test_an_example_says_which_part_differs() -> None:
    assert unlike() == ""
    assert unlike(list="2") == 'exchange 3: multipart.list is "1", the example says "2"'
    assert unlike(list="-") == 'exchange 3: multipart.list is "1", the example does not have it'
    assert unlike(more="x") == 'exchange 3: multipart.more is missing, the example says "x"'
    assert unlike(lines={"filename": "l"}) == 'exchange 3: multipart.lines.filename is "lines", the example says "l"'
    assert unlike(options={"content": {"json": {"dry": True}}}) == (
        "exchange 3: multipart.options.content.json.dry is false, the example says true"
    )


BATCH = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10, bytes: 250B}
    request: {path: /x, multipart: {file: {filename: f, content: {ndjson: "${ batch.records }"}}}, max_bytes: 230B}
"""


def test_a_batch_is_halved_until_its_parts_are_within_the_bytes() -> None:
    shop = Shop(BATCH, vendor=Vendor(reply()))
    shop.post(*({"id": f"{number}{'x' * 10}"} for number in range(6)))
    shop.drain()
    bodies = [request.content or b"" for request in shop.vendor.asked]
    assert shop.sums() == {"delivered": 6}
    assert len(bodies) > 1
    assert max(len(body) for body in bodies) <= 230


def test_a_sandbox_sees_lines_fields_and_files() -> None:
    content, kind = encoded_parts(
        [
            Part("a", b"1"),
            Part("f", b"x,y\n1,2\n", "é.csv", "text/csv"),
            Part("j", b'{"a":1.50}', None, "application/json"),
            Part("bad", b"{", "b", "application/json"),
        ]
    )
    asked = seen(Prepared("POST", "https://api.crm.example/x", {"Content-Type": kind}, content, 1.0))
    assert (asked["form"], asked["files"]) == (
        {"a": "1"},
        {
            "f": {
                "filename": "é.csv",
                "content_type": "text/csv",
                "text": "x,y\n1,2\n",
                "rows": [{"x": "1", "y": "2"}],
            },
            "j": {"content_type": "application/json", **read_body("application/json", b'{"a":1.50}')},
            "bad": {"filename": "b", "content_type": "application/json", "text": "{"},
        },
    )
    lines = {"content-type": "application/x-ndjson"}
    asked = seen(Prepared("POST", "https://api.crm.example/x", lines, b'{"a":1}\n[2]\n', 1.0))
    assert (asked["rows"], "json" in asked) == ([{"a": 1}, [2]], False)


@pytest.mark.parametrize(
    ("kind", "content"),
    [("multipart/form-data", b"x"), ("multipart/form-data; boundary=b", b"--b\r\nx"), ("", b"\r\n--b\r\n\r\n")],
)
def test_parts_that_can_not_be_read_are_none(kind: str, content: bytes) -> None:
    assert read_parts(kind, content) == []
    assert read_form(kind, content) == ({}, {})


def test_a_sandbox_answers_with_what_decode_unpacks() -> None:
    routes = [
        types.SandboxRoute(
            reply=types.SandboxReply(body=[{"a": "${ request.query.a }"}], packed=["gzip", "tar", "json"])
        )
    ]
    sandbox = types.Sandbox(routes=routes)
    given = types.Connector(
        connect=1, name="x", title="X", hosts=["a.example"], receive=types.Receive(), actions={}, sandbox=sandbox
    )
    answer = Sandbox(given).answer(Prepared("GET", "https://a.example/x?a=1", {}, None, 1.0), 0.0)
    assert unpack(answer.content, ["gzip", "tar", "json"], most=100_000).body == [{"a": "1"}]


@pytest.mark.parametrize("line_ending", ["LF", "CRLF"])
def test_a_line_break_of_any_kind_inside_a_cell_of_csv_stays_inside_of_it(line_ending: str) -> None:
    rows = [{"name": "Ana\rRua 1", "note": "a\nb"}, {"name": "Rui", "note": "c\r\nd"}]
    written = csv_text(rows, types.Csv(rows=None, line_ending=line_ending))
    end = {"LF": "\n", "CRLF": "\r\n"}[line_ending]
    assert written == f'name,note{end}"Ana\rRua 1","a\nb"{end}Rui,"c\r\nd"{end}'
