from __future__ import annotations

from decimal import Decimal
from email.parser import BytesParser
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bodies import read_parts
from engine.errors import BadValue
from engine.expressions import Compiler
from engine.http import Prepared
from engine.names import ROW
from engine.notations import semantics
from engine.sending import Hosts, HttpTransport, Requester
from engine.spec import types

HOSTILE = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(
            [
                '"',
                "'",
                "\\",
                "\\'",
                "{{",
                "}}",
                "${",
                "}",
                "\n",
                "\r\n",
                "\r",
                "/",
                "..",
                ".",
                "%2e",
                "%2F",
                "&",
                "=",
                "?",
                "#",
                ";",
                "😀",
                "é",
                "\0",
                "\t",
                "\x7f",
                " ",
                "@evil.com",
                "//evil.com",
                "' OR '1'='1",
                ")",
                "(",
                "%",
                "_",
                "\u2028",
                "a",
            ]
        ),
        max_size=8,
    ).map("".join),
)


def request(hostile: Any, **parts: Any) -> Prepared:
    compiler = Compiler()
    made = Requester(
        compiler,
        types.Request(**parts),
        names=ROW,
        place=("request",),
        drop=types.Drop(),
        http=types.Http(),
        hosts=Hosts(["api.example.com"]),
    )
    assert compiler.problems == []
    return made.prepare({"event": {"x": hostile}}, "https://api.example.com/base")


# --- a value lands as it is, and changes nothing but itself ---


@given(HOSTILE)
@settings(max_examples=200, deadline=None)
def test_a_text_lands_as_it_is_in_json_form_and_query(hostile: str) -> None:
    sent = request(
        hostile, path="/x", json={"a": "${ event.x }", "b": "<{{ event.x }}>", "c": {"$json": {"d": "${ event.x }"}}}
    )
    body = msgspec.json.decode(sent.content or b"")
    assert body == {"a": hostile, "b": f"<{hostile}>", "c": body["c"]}
    assert msgspec.json.decode(body["c"]) == {"d": hostile}
    sent = request(hostile, path="/x", form={"a": "{{ event.x }}", "b": "1"}, query={"q": "{{ event.x }}", "r": "1"})
    pairs = [("a", hostile), ("b", "1")]
    assert parse_qsl((sent.content or b"").decode(), keep_blank_values=True) == pairs
    parts = urlsplit(sent.url)
    assert parse_qsl(parts.query, keep_blank_values=True) == [("q", hostile), ("r", "1")]
    assert (parts.scheme, parts.netloc, parts.path, parts.fragment) == ("https", "api.example.com", "/base/x", "")


@given(HOSTILE, HOSTILE)
@settings(max_examples=200, deadline=None)
def test_a_hole_of_a_path_is_exactly_one_segment_or_rejects(one: str, two: str) -> None:
    scope = {"a": one, "b": two}
    try:
        sent = request(scope, path="/x/{{ event.x.a }}/y-{{ event.x.b }}/z")
    except BadValue:
        assert one in ("", ".", "..") or two in ("", ".", "..")
        return
    parts = urlsplit(sent.url)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("https", "api.example.com", "", "")
    assert [unquote(part) for part in parts.path.split("/")] == ["", "base", "x", one, f"y-{two}", "z"]


@pytest.mark.parametrize("found", ["", ".", "..", None, [], {}])
def test_a_part_of_a_path_that_is_absent_empty_or_dots_rejects_naming_the_expression(found: Any) -> None:
    with pytest.raises(BadValue, match=r"event\.x"):
        request(found, path="/x/{{ event.x }}")


def test_two_holes_together_are_no_way_out_of_the_base_url() -> None:
    with pytest.raises(BadValue, match=r"can.t be a part of a path"):
        request({"a": ".", "b": "x"}, path="/x/.{{ event.x.a }}/y")


@given(HOSTILE)
@settings(max_examples=200, deadline=None)
def test_a_header_carries_no_line_break(hostile: str) -> None:
    try:
        sent = request(hostile, path="/x", headers={"X-Name": "{{ event.x }}"})
    except BadValue as error:
        assert str(error) == "headers.X-Name: a header can't carry a line break or this character"  # noqa: PT017
        return
    assert sent.headers == {"X-Name": hostile.strip(" \t")}
    assert not set(hostile) & set("\r\n\0")


@pytest.mark.parametrize("found", ["a\r\nX: y", "a\nb", "a\r", "\0", "\x1b", "😀", "\u2028"])
def test_a_header_with_what_can_not_be_sent_rejects(found: str) -> None:
    with pytest.raises(BadValue, match=r"headers\.X-Name"):
        request(found, path="/x", headers={"X-Name": "${ event.x }"})


def test_absent_is_legal_in_bodies_queries_and_headers_and_rejects_elsewhere() -> None:
    sent = request(
        None, path="/x", json={"a": "${ event.x }", "b": 1}, query={"q": "${ event.x }"}, headers={"X": "{{ event.x }}"}
    )
    assert (sent.url, sent.headers, sent.content) == (
        "https://api.example.com/base/x",
        {"Content-Type": "application/json"},
        b'{"b":1}',
    )
    for parts in (
        {"path": "/{{ event.x }}"},
        {"url": "https://{{ event.x }}/"},
        {"path": "/x", "method": "{{ event.x }}"},
    ):
        with pytest.raises(BadValue, match=r"event\.x is absent"):
            request(None, **parts)


# --- SOQL ---


def literals(query: str) -> list[str]:
    """The string literals of a SOQL text, unescaped; ValueError if a quote stays open.."""
    escapes = {
        "n": "\n",
        "r": "\r",
        "t": "\t",
        "b": "\b",
        "f": "\f",
        '"': '"',
        "'": "'",
        "\\": "\\",
        "_": "_",
        "%": "%",
    }
    found: list[str] = []
    current: list[str] | None = None
    position = 0
    while position < len(query):
        character = query[position]
        if current is None:
            current = [] if character == "'" else None
        elif character == "\\":
            position += 1
            current.append(escapes[query[position]])
        elif character == "'":
            found.append("".join(current))
            current = None
        else:
            current.append(character)
        position += 1
    if current is not None:
        raise ValueError("open quote")
    return found


@given(HOSTILE, HOSTILE)
@settings(max_examples=300, deadline=None)
def test_a_hole_of_a_query_stays_one_literal(one: str, two: str) -> None:
    query = "SELECT I FROM C WHERE A = {{ event.x.a }} AND B IN {{ event.x.l }} AND C LIKE {{ event.x.b | like }}"
    sent = request({"a": one, "b": two, "l": [one, two]}, path="/q", query={"q": {"$soql": query}})
    [(_, soql)] = parse_qsl(urlsplit(sent.url).query, keep_blank_values=True)
    kept, other = one.replace("\0", ""), two.replace("\0", "")
    assert literals(soql) == [kept, kept, other, f"%{other}%"]
    outside = "".join(part for at, part in enumerate(split_quotes(soql)) if at % 2 == 0)
    assert outside == "SELECT I FROM C WHERE A =  AND B IN (,) AND C LIKE "


def split_quotes(query: str) -> list[str]:
    """Outside, inside, outside, … of single quotes."""
    parts, escaped = [""], False
    for character in query:
        if character == "'" and not escaped:
            parts.append("")
        else:
            parts[-1] += character
        escaped = character == "\\" and not escaped
    return parts


@given(st.text(max_size=12))
@settings(max_examples=200, deadline=None)
def test_a_name_of_a_query_has_letters_digits_and_dots_only(name: str) -> None:
    try:
        found = semantics.soql_name(name)
    except BadValue:
        return
    assert found == name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")
    assert name


@pytest.mark.parametrize(
    ("found", "expected"),
    [(5, "5"), (Decimal("1.50"), "1.50"), (True, "true"), ("a", "'a'"), (["a", 1], "('a',1)"), ("", "''")],
)
def test_a_value_in_a_query_is_written_by_its_kind(found: Any, expected: str) -> None:
    assert semantics.soql(found, "x") == expected


# --- reading ---


@pytest.mark.parametrize("found", [None, "abc", 5, {"0": 1}, True])
def test_reading_what_is_not_there_is_absent_never_an_error(found: Any) -> None:
    assert semantics.item(found, 0) is None
    assert semantics.cut(found, 0, 1, None) is None
    for text in ("${ event.found[*].a }", "${ event.found[?a] }", "${ event.found[0].a }"):
        assert Compiler().value(text, ROW, ("record",))({"event": {"found": found}}) is None
    assert semantics.flat(found, [1]) is None
    assert semantics.compact(found) is None


def test_numbers_in_a_text_have_all_their_digits() -> None:
    for found, expected in (
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("12.50"), "12.50"),
        (10**30, "1" + "0" * 30),
        (True, "true"),
        (False, "false"),
    ):
        assert semantics.text(found, "x") == expected


# --- and over the wire ---


@pytest.mark.parametrize("value", ["a", "é", " a", "a\t", "\ta b", " ", "x-\xff"])
def test_a_header_that_was_not_rejected_can_be_sent(value: str) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    came: list[str | None] = []

    class Vendor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            came.append(self.headers.get("X-Name"))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Vendor) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        transport = HttpTransport(via=f"http://127.0.0.1:{server.server_port}")
        reply = transport.send(request(value, method="GET", path="/x", headers={"X-Name": "${ event.x }"}))
        thread.join()
        transport.close()
    assert (reply.status, came) == (204, [value.strip()])


# --- bodies of lines and parts, whole addresses ---


@given(HOSTILE)
@settings(max_examples=100, deadline=None)
def test_no_text_breaks_a_line_of_json_lines(hostile: str) -> None:
    sent = request([{"a": hostile}, hostile], path="/x", ndjson="${ event.x }")
    lines = (sent.content or b"").split(b"\n")
    assert [msgspec.json.decode(line) for line in lines[:-1]] == [{"a": hostile}, hostile]
    assert lines[-1] == b""


@given(HOSTILE, HOSTILE)
@settings(max_examples=100, deadline=None)
def test_no_text_breaks_out_of_its_part(one: str, two: str) -> None:
    spec = {
        "a": "${ event.x.a }",
        "f": {"filename": "{{ event.x.b }}.txt", "content": "${ event.x.a }"},
        "j": {"filename": "j", "content": {"json": {"a": "${ event.x.b }"}}},
    }
    sent = request({"a": one, "b": two}, path="/x", multipart=spec)
    kind = sent.headers["Content-Type"]
    parts = read_parts(kind, sent.content or b"")
    assert [part.name for part in parts] == ["a", "f", "j"]
    assert [part.content for part in parts[:2]] == [one.encode(), one.encode()]
    assert msgspec.json.decode(parts[2].content) == {"a": two}
    assert all("\r" not in (part.filename or "") and "\n" not in (part.filename or "") for part in parts)
    others = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + (sent.content or b""))
    assert [part.get_content_type() for part in others.get_payload()] == ["text/plain"] * 2 + ["application/json"]
    assert [part.keys() for part in others.get_payload()] == [
        ["Content-Disposition"],
        *[["Content-Disposition", "Content-Type"]] * 2,
    ]


@given(HOSTILE, HOSTILE)
@settings(max_examples=200, deadline=None)
def test_a_hole_of_a_url_stays_in_its_part(one: str, two: str) -> None:
    try:
        sent = request({"a": one, "b": two}, url="https://api.example.com/x/{{ event.x.a }}/y?q={{ event.x.b }}&r=1")
    except BadValue:
        assert one in ("", ".", "..")
        return
    parts = urlsplit(sent.url)
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "api.example.com", "")
    assert [unquote(part) for part in parts.path.split("/")] == ["", "x", one, "y"]
    assert parse_qsl(parts.query, keep_blank_values=True) == [("q", two), ("r", "1")]


@given(HOSTILE)
@settings(max_examples=200, deadline=None)
def test_a_hole_of_a_host_is_a_part_of_a_name_or_rejects(hostile: str) -> None:
    compiler = Compiler()
    made = compiler.text("https://a{{ event.x }}.example.com/b", ROW, ("url",), "url")
    try:
        url = made({"event": {"x": hostile}})
    except BadValue:
        return
    assert urlsplit(url).hostname == f"a{hostile}.example.com".lower()
    assert urlsplit(url)[2:] == ("/b", "", "")
