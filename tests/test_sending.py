"""Requests as they stand on the wire, hosts that are refused, what people may see of it, and real HTTP on loopback."""

from __future__ import annotations

import base64
import json
import socket
import threading
from contextlib import contextmanager, suppress
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

import httpx
import pytest
from conftest import program_from, reply
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadValue, EgressRefused
from engine.http import MAX_REPLY, NoReply, Prepared
from engine.mapping import ascii_only, encode_json
from engine.sending import LONG_QUERY, Hosts, HttpTransport, Masker, Requester, join, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BASE = "https://api.crm.example/v1"


def requester(request: str, more: str = "") -> Requester:
    text = f"{more}\nactions: {{note: {{record: {{}}, request: {request}}}}}"
    return program_from(text).actions["note"].steps.steps["request"].call.requester


def prepared(request: str, event: dict[str, Any] | None = None, more: str = "", base: str = BASE) -> Prepared:
    scope: dict[str, Any] = {name: {} for name in ("settings", "client", "tables", "derived", "fields", "vars")}
    scope |= {"event": event or {}, "record": event or {}, "lookups": {}, "steps": {}, "delivery": {"id": "d1"}}
    return requester(request, more).prepare(scope, base)


@pytest.mark.parametrize("part", ["query", "headers", "form"])
def test_what_is_no_map_can_not_stand_where_a_map_is_needed(part: str) -> None:
    with pytest.raises(BadValue, match="a map is needed here, got list"):
        prepared(f'{{path: /x, {part}: {{$each: "${{ event.q }}", do: "${{ item }}"}}}}', {"q": ["a"]})


# --- URLs ---


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("https://a.example", "/x", "https://a.example/x"),
        ("https://a.example/", "/x", "https://a.example/x"),
        ("https://a.example/v1", "/x/y", "https://a.example/v1/x/y"),
        ("https://a.example/v1/", "/x/", "https://a.example/v1/x/"),
        ("https://a.example/v1", "", "https://a.example/v1"),
        ("https://a.example/v1", "/", "https://a.example/v1/"),
        ("https://a.example/v1", "/x?y=..", "https://a.example/v1/x?y=.."),
    ],
)
def test_base_url_and_path_are_joined_by_one_slash(base: str, path: str, url: str) -> None:
    assert join(base, path) == url


@pytest.mark.parametrize(
    "path", ["x", "x/y", "/../x", "/a/../../x", "/a/./b", "/a/%2e%2e/b", "/%2E/b", "/a/..", "?x=1"]
)
def test_a_path_begins_with_a_slash_and_stays_below_the_base(path: str) -> None:
    with pytest.raises(BadValue):
        join(BASE, path)


@pytest.mark.parametrize("path", ["/a b", "/a\tb", "/a\nb", "/a\\b", "/a\x00b", "/a\x7fb"])
def test_a_url_has_no_blank_backslash_or_control_character(path: str) -> None:
    with pytest.raises(BadValue):
        join(BASE, path)


@pytest.mark.parametrize("value", ["a/b", "a b", "ção", "a?b", "a#b", "%2e", "a%b", "a&b=c", ";x", "..a", "\U0001f600"])
def test_a_hole_in_the_path_is_one_encoded_segment(value: str) -> None:
    url = prepared('{path: "/people/{{ event.id }}/notes"}', {"id": value}).url
    assert url == f"{BASE}/people/{quote(value, safe='')}/notes"


@pytest.mark.parametrize("value", ["", ".", "..", None])
def test_a_hole_in_the_path_that_is_empty_or_leads_upwards_is_refused(value: str | None) -> None:
    with pytest.raises(BadValue):
        prepared('{path: "/people/{{ event.id }}"}', {"id": value} if value is not None else {})


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_no_value_in_a_path_leaves_its_place(value: str) -> None:
    try:
        url = SEGMENT.prepare(SCOPE | {"event": {"id": value}}, BASE).url
    except BadValue:
        return
    parts = urlsplit(url)
    assert (parts.netloc, parts.query, parts.fragment) == ("api.crm.example", "", "")
    assert parts.path.count("/") == 4


SEGMENT = requester('{path: "/people/{{ event.id }}/notes"}')
SCOPE: dict[str, Any] = {name: {} for name in ("settings", "client", "tables", "derived", "fields", "vars", "steps")}


def test_values_of_the_query_are_encoded_lists_repeat_and_absent_ones_are_left_out() -> None:
    event = {"q": "a b&c=d/é", "list": ["x", 2], "price": Decimal("1299.90"), "yes": True}
    request = """
      {path: /find, query: {q: "${ event.q }", id: "${ event.list }", price: "${ event.price }", ok: "${ event.yes }",
       gone: "${ event.gone }", fixed: "1+1"}}"""
    assert prepared(request, event).url == (
        f"{BASE}/find?q=a%20b%26c%3Dd%2F%C3%A9&id=x&id=2&price=1299.90&ok=true&fixed=1%2B1"
    )


def test_a_structure_in_the_query_is_refused() -> None:
    with pytest.raises(BadValue, match="query"):
        prepared('{path: /find, query: {q: "${ event.map }"}}', {"map": {"a": 1}})


def test_a_query_is_added_to_one_that_the_url_has() -> None:
    url = "https://api.crm.example/x?a=1"
    assert prepared(f'{{url: "{url}", query: {{b: "2"}}}}').url == f"{url}&b=2"


# --- a whole address ---


@pytest.mark.parametrize(
    ("url", "x", "expected"),
    [
        ("https://api.crm.example/a/{{ event.x }}/b", "c/../d?e#f", "https://api.crm.example/a/c%2F..%2Fd%3Fe%23f/b"),
        ("https://api.crm.example/a?b={{ event.x }}&c=d", "e&f=g#h", "https://api.crm.example/a?b=e%26f%3Dg%23h&c=d"),
        ("https://api.crm.example/a?b={{ event.x }}", "", "https://api.crm.example/a?b="),
        ("https://api.crm.example?b={{ event.x }}", "/é", "https://api.crm.example?b=%2F%C3%A9"),
        ("https://{{ event.x }}.shop.example/a", "my-1", "https://my-1.shop.example/a"),
        ("https://{{ event.x }}/a", "a.b.shop.example", "https://a.b.shop.example/a"),
        ("https://{{ event.x }}:443/a", "api.crm.example", "https://api.crm.example:443/a"),
        ("{{ event.x }}/a", "https://api.crm.example/b", "https://api.crm.example/b/a"),
        ("${ event.x }", "https://api.crm.example/a?b=c%20d&e=f#g", "https://api.crm.example/a?b=c%20d&e=f#g"),
        (
            "https://{% if event.x %}{{ event.x }}{% else %}api{% endif %}.crm.example/{{ event.x }}",
            "api",
            "https://api.crm.example/api",
        ),
    ],
)
def test_a_hole_in_a_url_is_encoded_for_where_it_stands(url: str, x: str, expected: str) -> None:
    hosts = "hosts: [api.crm.example, '*.shop.example']"
    assert prepared(f"{{url: '{url}'}}", {"x": x}, hosts).url == expected


@pytest.mark.parametrize(
    ("url", "x"),
    [
        ("https://{{ event.x }}/a", "evil.example/"),
        ("https://{{ event.x }}.shop.example/a", "evil.example/?"),
        ("https://{{ event.x }}.shop.example/a", "evil.example#"),
        ("https://{{ event.x }}.shop.example/a", "me@evil"),
        ("https://{{ event.x }}.shop.example/a", "a\\b"),
        ("https://{{ event.x }}.shop.example/a", "a:443"),
        ("https://{{ event.x }}.shop.example/a", "a..b"),
        ("https://{{ event.x }}.shop.example/a", "-a"),
        ("https://{{ event.x }}.shop.example/a", "a "),
        ("https://{{ event.x }}.shop.example/a", "é"),
        ("https://{{ event.x }}.shop.example/a", ""),
        ("https://{{ event.x }}.shop.example/a", None),
        ("{{ event.x }}/a", "http://api.crm.example"),
        ("{{ event.x }}/a", "https://api.crm.example/?b="),
        ("{{ event.x }}/a", "https://me@api.crm.example"),
        ("{{ event.x }}/a", "https://api.crm.example/b/.."),
        ("https://api.crm.example/{{ event.x }}", ".."),
        ("https://api.crm.example/{{ event.x }}.", "."),
        ("https://api.crm.example/{{ event.x }}", ""),
        ("https://api.crm.example/{{ event.x }}", None),
        ("https://api.crm.example/?a={{ event.x }}", None),
        ("https://api.crm.example/?a={{ event.x }}", [1]),
    ],
)
def test_a_value_that_can_not_stand_in_a_url_rejects(url: str, x: Any) -> None:
    with pytest.raises(BadValue):
        prepared(f"{{url: '{url}'}}", {"x": x})


# --- where requests may go ---

HOSTS = Hosts(["api.crm.example", "*.shop.example"])


@pytest.mark.parametrize(
    "url",
    [
        "https://api.crm.example/x",
        "https://API.CRM.example/x",
        "https://api.crm.example:443/x",
        "https://a.shop.example/",
        "https://a.b.shop.example/",
        "https://a.shop.example",
    ],
)
def test_hosts_that_are_named_are_allowed(url: str) -> None:
    HOSTS.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/x",
        "https://api.crm.example.evil.example/x",
        "https://evil-api.crm.example/x",
        "https://xapi.crm.example/x",
        "https://shop.example/x",
        "https://.shop.example/x",
        "https://evilshop.example/x",
        "https://a.shop.example.evil.example/",
        "http://api.crm.example/x",
        "ftp://api.crm.example/x",
        "//api.crm.example/x",
        "api.crm.example/x",
        "https://api.crm.example:8443/x",
        "https://api.crm.example:80/x",
        "https://api.crm.example:99999/x",
        "https://me@api.crm.example/x",
        "https://me:pw@api.crm.example/x",
        "https://api.crm.example@evil.example/x",
        "https://api.crm.example:@evil.example/x",
        "https://127.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://[::1/x",
        "https://2130706433/x",
        "https://localhost/x",
        "https:///x",
        "https://api.crm.example./x",
        "https://api.crm.example\\@evil.example/x",
        "https://api.crm.example%2eevil.example/x",
        "https://evil.example/https://api.crm.example",
        "https://evil.example#api.crm.example",
        "https://evil.example?api.crm.example",
        "",
    ],
)
def test_every_other_place_is_refused(url: str) -> None:
    with pytest.raises(EgressRefused):
        HOSTS.check(url)


def test_what_httpx_reads_as_the_host_is_what_was_checked() -> None:

    for url in ("https://a.shop.example/x", "https://API.crm.example/x", "https://a.shop.example:443/"):
        HOSTS.check(url)
        assert HOSTS.allows(httpx.URL(url).host)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), max_size=20))
def test_a_host_that_is_let_through_is_the_one_that_httpx_calls(text: str) -> None:

    url = f"https://{text}.shop.example/x"
    try:
        HOSTS.check(url)
        called = httpx.URL(url)
    except (EgressRefused, httpx.InvalidURL):
        return
    assert called.host.endswith(".shop.example")
    assert called.scheme == "https"


def test_a_setting_can_not_lead_a_request_away() -> None:
    with pytest.raises(EgressRefused):
        prepared("{path: /x}", base="https://evil.example")
    with pytest.raises(EgressRefused):
        prepared("{path: /x}", base="http://api.crm.example")


# --- headers and methods ---


def test_headers_of_connector_and_request_go_out_and_absent_ones_do_not() -> None:
    more = "http: {base_url: https://api.crm.example, headers: {X-One: '1', X-Two: '2'}}"
    request = prepared(
        '{path: /x, headers: {X-Two: two, X-Id: "${ event.id }", X-No: "${ event.no }"}}', {"id": 7}, more
    )
    assert request.headers == {"X-One": "1", "X-Two": "two", "X-Id": "7"}


@pytest.mark.parametrize("value", ["a\nb", "a\r\nSet-Cookie: x", "a\x00b", "\U0001f600", "Ł"])
def test_a_header_can_not_carry_a_line_break_or_what_can_not_be_sent(value: str) -> None:
    with pytest.raises(BadValue, match=r"headers\.X-Id"):
        prepared('{path: /x, headers: {X-Id: "${ event.id }"}}', {"id": value})


def test_a_method_is_a_word() -> None:
    assert prepared('{method: "${ event.m }", path: /x}', {"m": "patch"}).method == "PATCH"
    with pytest.raises(BadValue):
        prepared('{method: "${ event.m }", path: /x}', {"m": "GET /evil"})


# --- bodies ---


def test_json_keeps_decimals_text_and_written_nulls() -> None:
    event = {"price": Decimal("1299.90"), "big": 12345678901234567890, "text": "007", "say": "ção \U0001f600"}
    request = prepared('{path: /x, json: {e: "${ event }", none: null, gone: "${ event.gone }"}}', event)
    assert request.headers == {"Content-Type": "application/json"}
    assert request.content is not None
    assert request.content.decode() == (
        '{"e":{"price":1299.90,"big":12345678901234567890,"text":"007","say":"ção \U0001f600"},"none":null}'
    )


def test_a_content_type_that_is_written_is_kept() -> None:
    request = prepared("{path: /x, headers: {content-type: application/vnd.api+json}, json: {a: 1}}")
    assert request.headers == {"content-type": "application/vnd.api+json"}


def test_ascii_json_escapes_everything_beyond_and_emoji_as_surrogates() -> None:
    more = "http: {base_url: https://api.crm.example, json: {ascii: true}}"
    request = prepared('{path: /x, json: {"name": "${ event.name }"}}', {"name": 'José "\U0001f600" \u2028\x7f'}, more)
    assert request.content == b'{"name":"Jos\\u00e9 \\"\\ud83d\\ude00\\" \\u2028\x7f"}'


TEXT = st.text(st.characters(codec="utf-8"))


@given(st.lists(TEXT | st.integers() | st.none(), max_size=5) | st.dictionaries(TEXT, TEXT, max_size=5))
def test_ascii_json_says_the_same_as_json(value: Any) -> None:
    raw = encode_json(value)
    assert json.loads(ascii_only(raw)) == json.loads(raw)
    assert ascii_only(raw).isascii()


def test_a_form_is_encoded_lists_repeat_and_structures_are_refused() -> None:
    request = prepared(
        '{path: /x, form: {a: "${ event.text }", b: ["1", "2"], c: null, gone: "${ event.gone }"}}', {"text": "ç&=+ x"}
    )
    assert (request.content, request.headers["Content-Type"]) == (
        b"a=%C3%A7%26%3D%2B+x&b=1&b=2&c=",
        "application/x-www-form-urlencoded",
    )
    with pytest.raises(BadValue, match="form"):
        prepared('{path: /x, form: {a: "${ event.map }"}}', {"map": {"b": 1}})


CSV_ROWS = [
    {"Id": 1, "Name": 'Ana "A", Souza'},
    {"Id": "2", "Name": "two\nlines"},
    {"Id": None, "Name": "=1+1"},
    {"Name": ""},
]


def test_csv_quotes_what_needs_it_and_a_null_is_what_clears_a_cell() -> None:
    request = prepared('{path: /x, csv: {rows: "${ event.rows }", clear: "#N/A"}}', {"rows": CSV_ROWS})
    assert request.content is not None
    assert request.content.decode() == 'Id,Name\n1,"Ana ""A"", Souza"\n2,"two\nlines"\n#N/A,=1+1\n,\n'
    assert request.headers["Content-Type"] == "text/csv; charset=utf-8"


def test_csv_with_the_line_ending_and_columns_that_are_asked_for() -> None:
    written = '{path: /x, csv: {rows: "${ event.rows }", columns: [Name, Id], line_ending: CRLF}}'
    request = prepared(written, {"rows": [{"Id": 1, "Name": "a\r\nb"}, {"Id": 2, "Name": "c", "Other": 3}]})
    assert request.content == b'Name,Id\r\n"a\r\nb",1\r\nc,2\r\n'


def test_text_is_sent_as_it_is() -> None:
    request = prepared('{path: /x, text: "<a>{{ event.t }}</a>"}', {"t": "é"})
    assert (request.content, request.headers["Content-Type"]) == ("<a>é</a>".encode(), "text/plain; charset=utf-8")


def test_json_lines_have_one_document_each_and_no_text_breaks_one() -> None:
    sent = prepared("{path: /x, ndjson: '${ event.l }'}", {"l": [{"a": "b\nc\u2028"}, [Decimal("1.50")], "é"]})
    assert sent.content == '{"a":"b\\nc\u2028"}\n[1.50]\n"é"\n'.encode()
    assert sent.headers == {"Content-Type": "application/x-ndjson"}
    ascii = prepared("{path: /x, ndjson: ['${ event.a }', {b: null}]}", {"a": "é"}, "http: {json: {ascii: true}}")
    assert ascii.content == b'"\\u00e9"\n{"b":null}\n'
    assert prepared("{path: /x, ndjson: '${ event.gone }'}").content == b""
    for wrong in ("{a: 1}", "'${ event.s }'"):
        with pytest.raises(BadValue, match="ndjson needs a list"):
            prepared(f"{{path: /x, ndjson: {wrong}}}", {"s": "a"})
    with pytest.raises(BadValue, match="a body of 12 bytes; 10 is the most"):
        prepared("{path: /x, ndjson: '${ event.l }', max_bytes: 10B}", {"l": ["abc", "def"]})


PARTS = """{path: /x, multipart: {
  list: [7, "${ event.n }"],
  empty: null,
  gone: "${ event.gone }",
  note: "{{ event.s }}!",
  rows: {filename: "{{ event.s }}.csv", content: {csv: {rows: "${ event.l }", clear: "-", line_ending: CRLF}}},
  tree: {content: {json: {a: "${ event.n }", b: "${ event.gone }"}}},
  lines: {filename: lines, content_type: application/jsonl, content: {ndjson: "${ event.l }"}},
  none: {filename: none, content: "${ event.gone }"}}}
"""


def test_multipart_has_fields_and_files_in_their_order() -> None:
    event = {"n": Decimal("1.50"), "s": "é", "l": [{"a": "x"}, {"a": None}]}
    sent = prepared(PARTS, event)
    mark = sent.headers["Content-Type"].removeprefix("multipart/form-data; boundary=")
    pieces = [
        'name="list"\r\n\r\n7',
        'name="list"\r\n\r\n1.50',
        'name="empty"\r\n\r\n',
        'name="note"\r\n\r\né!',
        'name="rows"; filename="é.csv"\r\nContent-Type: text/csv; charset=utf-8\r\n\r\na\r\nx\r\n-\r\n',
        'name="tree"\r\nContent-Type: application/json\r\n\r\n{"a":1.50}',
        'name="lines"; filename="lines"\r\nContent-Type: application/jsonl\r\n\r\n{"a":"x"}\n{"a":null}\n',
    ]
    body = "".join(f"--{mark}\r\nContent-Disposition: form-data; {piece}\r\n" for piece in pieces) + f"--{mark}--\r\n"
    assert (sent.content or b"").decode() == body
    assert prepared(PARTS, event) == sent
    assert prepared(PARTS, {**event, "n": 2}).headers != sent.headers


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("{a: '${ event.o }'}", "object can't stand in a multipart; $json makes it a text"),
        ("{a: {content: '${ event.o }'}}", "content is object and can't stand in a text"),
        ("{a: {content: {csv: {rows: '${ event.o }'}}}}", "a list is needed, got object"),
        ("{a: {content: {ndjson: '${ event.o }'}}}", "ndjson needs a list, got object"),
        ("{a: {filename: '${ event.gone }', content: b}}", "event.gone is absent"),
        ("{a: {content_type: '${ event.s }', content: b}}", "the content type of a file is written as text/csv"),
    ],
)
def test_a_part_that_can_not_be_written_rejects(part: str, says: str) -> None:
    with pytest.raises(BadValue) as raised:
        prepared(
            f"{{path: /x, multipart: {part.replace(chr(39), chr(34))}}}", {"o": {"content": "x"}, "s": "a/b\r\nX: y"}
        )
    assert says in str(raised.value)


def test_multipart_of_nothing_is_its_end() -> None:
    sent = prepared("{path: /x, multipart: {a: '${ event.gone }'}}")
    assert sent.content == f"--{sent.headers['Content-Type'].partition('=')[2]}--\r\n".encode()


def test_a_body_that_is_too_large_is_refused_before_it_is_sent() -> None:
    assert prepared('{path: /x, max_bytes: 10B, json: {a: "xx"}}').content == b'{"a":"xx"}'
    with pytest.raises(BadValue, match="11 bytes; 10 is the most"):
        prepared('{path: /x, max_bytes: 10B, json: {a: "xxx"}}')


def test_a_request_without_a_body_has_none() -> None:
    assert (prepared("{method: GET, path: /x}").content, prepared("{method: GET, path: /x}").headers) == (None, {})


# --- replies ---


def test_a_reply_is_read_as_json_text_and_rows() -> None:
    assert reply(200, {"a": Decimal("1.10")}).scope == {
        "status": 200,
        "headers": {"content-type": "application/json"},
        "body": {"a": Decimal("1.10")},
        "text": '{"a":1.10}',
        "content_type": "application/json",
    }
    assert reply(200, text='Id,Error\r\n1,"a ""b"""\r\n', content_type="text/csv; charset=utf-8").rows == [
        {"Id": "1", "Error": 'a "b"'}
    ]


@given(st.binary(), st.sampled_from(["application/json", "text/csv", "text/html", "", "x/y;csv"]))
def test_any_bytes_can_be_a_reply(content: bytes, kind: str) -> None:
    scope = reply(200, text=content, content_type=kind).scope
    assert scope["status"] == 200
    assert isinstance(scope["text"], str)


def test_a_reply_with_a_number_that_none_can_be_is_text() -> None:
    assert reply(200, text='{"n": 1e99999999999999999999}').body is None


def test_a_reply_nested_without_end_is_text() -> None:
    assert reply(200, text="[" * 100_000).body is None


# --- what people may see ---

SECRET = 's3cr/t+"é\\ %&='


def test_a_secret_is_masked_raw_url_encoded_base64_and_as_json() -> None:
    masker = Masker([SECRET])
    raw = SECRET.encode()
    forms = [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        base64.b64encode(raw).decode(),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode(),
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        json.dumps(SECRET)[1:-1].replace("/", "\\/"),
    ]
    assert [masker.mask(f"a {form} b") for form in forms] == ["a *** b"] * len(forms)


def test_of_two_secrets_the_longer_is_masked_first() -> None:
    assert Masker(["abcd", "abcdefgh"]).mask("x abcdefgh abcd") == "x *** ***"


def test_a_token_that_came_and_went_is_masked_no_longer() -> None:
    masker = Masker(["for-good"])
    for number in range(5):
        masker.renew("crm/abc", f"token-{number}", "shared")
    masker.renew("crm/xyz", "shared")
    text = "for-good " + " ".join(f"token-{number}" for number in range(5))
    assert masker.mask(text) == "*** token-0 token-1 *** *** ***"
    assert masker.mask("shared") == "***"
    assert len(masker.forms) < 60


def test_thousands_of_secrets_are_masked_as_fast_as_a_few() -> None:
    masker = Masker(f"secret-number-{at:05d}" for at in range(3000))
    assert masker.mask("x" * 100_000 + "secret-number-02999") == "x" * 100_000 + "***"


def test_a_secret_at_the_cut_of_a_trace_is_masked_whole() -> None:
    request = Prepared("POST", "https://a.example/", {}, b"x" * 1_995 + b"top-secret" + b"y" * 50, 1)
    assert Masker(["top-secret"]).trace(request, None).request == "x" * 1_995 + "***… (2055 characters)"
    request = Prepared("POST", "https://a.example/", {}, b"top-secret " * 10 + b"x" * 1_885 + b"top-secret" * 9, 1)
    assert "top" not in Masker(["top-secret"]).trace(request, None).request


@pytest.mark.parametrize("user", ["u", "ab", "abc", "ana@example.com"])
def test_a_secret_inside_basic_authorization_is_masked(user: str) -> None:
    header = base64.b64encode(f"{user}:my-password-1".encode()).decode()
    shown = Masker(["my-password-1"]).mask(f"Basic {header}")
    assert "***" in shown
    assert len(shown) < len(f"Basic {header}") - 10


def test_a_trace_shows_no_secret_and_is_cut() -> None:
    masker = Masker(["top-secret"])
    request = Prepared("POST", "https://a.example/?key=top-secret", {"X": "top-secret"}, b'{"k":"top-secret"}', 1)
    trace = masker.trace(request, reply(200, text="you said top-secret " + "x" * 5000))
    assert (trace.url, trace.request, trace.status) == ("https://a.example/?key=***", '{"k":"***"}', 200)
    assert trace.reply.startswith("you said *** xxx")
    assert len(trace.reply) < 2100


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), min_size=4),
    st.binary(max_size=4),
    st.binary(max_size=4),
)
def test_no_secret_comes_through_the_mask(secret: str, before: bytes, after: bytes) -> None:
    masker = Masker([secret])
    for form in (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]):
        assert masker.mask(f"<{form}>") in ("<***>", f"<{'*' * len(form)}>")
    whole = base64.b64encode(before + secret.encode() + after).decode()
    if len(secret.encode()) >= 9:
        assert "***" in masker.mask(whole)


# --- real HTTP ---


class Handler(BaseHTTPRequestHandler):
    """Answers by path; remembers requests."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.seen.append(
            {
                "method": self.command,
                "path": self.path,
                "host": self.headers["Host"],
                "headers": dict(self.headers),
                "body": self.rfile.read(length),
            }
        )
        if self.path.startswith("/hang"):
            self.server.hanging.wait(5)  # type: ignore[attr-defined]
            return
        if self.path.startswith("/half"):
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
            return
        status, content, headers = 200, b'{"ok":true}', {"Content-Type": "application/json"}
        if self.path.startswith("/huge"):
            content = b"x" * 20_000_000
        if self.path.startswith("/elsewhere"):
            status, headers = 302, {"Location": "https://evil.example/"}
        if self.path.startswith("/cookie"):
            headers = {**headers, "Set-Cookie": "session=of-one-client; Path=/"}
        if self.path.startswith("/drops"):
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            with suppress(OSError):
                while not self.server.hanging.wait(0.05):  # type: ignore[attr-defined]
                    self.wfile.write(b"x")
            return
        if self.path.startswith("/zipped"):
            import gzip

            content, headers = gzip.compress(b'{"zipped":1}'), {**headers, "Content-Encoding": "gzip"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(content)
        except OSError:
            self.close_connection = True

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET


@contextmanager
def served() -> Iterator[str]:
    Handler.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.hanging = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.hanging.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def vendor() -> Iterator[str]:
    with served() as url:
        yield url


@pytest.fixture
def transport_to() -> Iterator[Callable[[str], HttpTransport]]:
    made: list[HttpTransport] = []

    def make(via: str) -> HttpTransport:
        made.append(HttpTransport(via))
        return made[-1]

    yield make
    for one in made:
        one.close()


def asking(
    path: str, method: str = "GET", content: bytes | None = None, timeout_s: float = 5.0, **headers: str
) -> Prepared:
    return Prepared(method, f"https://api.crm.example{path}", headers, content, timeout_s)


def test_via_sends_to_loopback_with_host_path_and_query_unchanged(
    vendor: str, transport_to: Callable[[str], HttpTransport]
) -> None:
    sent = asking("/v1/a%2Fb/%C3%A7?q=a%20b&q=2&e=", "PUT", b"body", X_One="1")
    came = transport_to(vendor).send(sent)
    assert (came.status, came.body, came.content_type) == (200, {"ok": True}, "application/json")
    (seen,) = Handler.seen
    assert (seen["method"], seen["path"], seen["host"], seen["body"]) == (
        "PUT",
        "/v1/a%2Fb/%C3%A7?q=a%20b&q=2&e=",
        "api.crm.example",
        b"body",
    )
    assert (seen["headers"]["X_One"], seen["headers"]["User-Agent"]) == ("1", "daxgo-connect")


def test_the_query_on_the_wire_says_what_the_spec_says(
    vendor: str, transport_to: Callable[[str], HttpTransport]
) -> None:
    event = {"q": "á&b=c d+e%20'\"<>", "id": "x/y?z#"}
    request = prepared('{method: GET, path: "/p/{{ event.id }}", query: {q: "${ event.q }"}}', event)
    transport_to(vendor).send(request)
    parts = urlsplit(Handler.seen[0]["path"])
    assert (parts.path, parse_qsl(parts.query)) == ("/v1/p/x%2Fy%3Fz%23", [("q", event["q"])])


def test_a_cookie_of_one_client_s_reply_goes_into_no_other_request(
    vendor: str, transport_to: Callable[[str], HttpTransport]
) -> None:
    transport = transport_to(vendor)
    transport.send(asking("/cookie"))
    transport.send(asking("/x"))
    transport.send(asking("/x", Cookie="mine=1"))
    assert [seen["headers"].get("Cookie") for seen in Handler.seen] == [None, None, "mine=1"]


def test_a_vendor_that_sends_its_reply_in_drops_is_not_waited_for_without_end(
    vendor: str, transport_to: Callable[[str], HttpTransport]
) -> None:
    with pytest.raises(NoReply) as caught:
        transport_to(vendor).send(asking("/drops", timeout_s=0.2))
    assert (caught.value.sent, caught.value.reason) == (True, "a reply that was not whole within 0.4s")


@pytest.mark.parametrize("host", ["a..crm.example", f"{'x' * 70}.crm.example"])
def test_a_host_that_can_not_be_is_one_without_a_connection(host: str) -> None:
    with pytest.raises(NoReply) as caught:
        HttpTransport().send(Prepared("GET", f"https://{host}/", {}, None, 1.0))
    assert (caught.value.sent, caught.value.reason) == (False, f"no host can be called {host}")


def test_a_redirect_is_a_reply_that_is_not_followed(vendor: str, transport_to: Callable[[str], HttpTransport]) -> None:
    came = transport_to(vendor).send(asking("/elsewhere"))
    assert (came.status, came.headers["location"], len(Handler.seen)) == (302, "https://evil.example/", 1)


def test_a_zipped_reply_is_unzipped(vendor: str, transport_to: Callable[[str], HttpTransport]) -> None:
    assert transport_to(vendor).send(asking("/zipped")).body == {"zipped": 1}


def test_a_vendor_that_hangs_may_have_got_the_request(
    vendor: str, transport_to: Callable[[str], HttpTransport]
) -> None:
    with pytest.raises(NoReply) as caught:
        transport_to(vendor).send(asking("/hang", timeout_s=0.5))
    assert (caught.value.sent, caught.value.reason) == (
        True,
        f"no reply from api.crm.example by way of {vendor}: not within 0.5s",
    )


def test_a_refused_connection_has_not_sent_anything(transport_to: Callable[[str], HttpTransport]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        via = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NoReply) as caught:
            transport_to(via).send(asking("/x"))
    assert (caught.value.sent, caught.value.reason) == (
        False,
        f"no connection to api.crm.example by way of {via}: Connection refused",
    )


def test_half_a_body_is_no_reply_and_may_have_been_carried_out(
    vendor: str, transport_to: Callable[[str], HttpTransport]
) -> None:
    with pytest.raises(NoReply) as caught:
        transport_to(vendor).send(asking("/half", "POST", b"{}"))
    assert caught.value.sent is True


def test_a_reply_of_20_megabytes_is_cut_off(vendor: str, transport_to: Callable[[str], HttpTransport]) -> None:
    with pytest.raises(NoReply) as caught:
        transport_to(vendor).send(asking("/huge"))
    assert (caught.value.sent, caught.value.reason) == (True, f"a reply of more than {MAX_REPLY} bytes")


def test_a_thread_has_a_client_of_its_own(vendor: str, transport_to: Callable[[str], HttpTransport]) -> None:
    transport = transport_to(vendor)
    threads = [threading.Thread(target=lambda: [transport.send(asking("/x")) for _ in range(3)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(transport.clients), len(Handler.seen)) == (4, 12)


@pytest.mark.parametrize("link", ["//[", "https://[::1", "https://evil.example/next", "//evil.example/next", "/a b"])
def test_a_next_link_that_leads_away_or_is_no_url_is_refused(link: str) -> None:
    with pytest.raises((BadValue, EgressRefused)):
        requester("{path: /x}").follow(link, BASE, {})


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("/v1/notes?page=2", "https://api.crm.example/v1/notes?page=2"),
        ("notes?page=2", f"{BASE}/notes?page=2"),
        ("?page=2", f"{BASE}/?page=2"),
        ("https://api.crm.example/other", "https://api.crm.example/other"),
    ],
)
def test_a_next_link_is_followed_at_the_same_base(link: str, url: str) -> None:
    assert requester("{path: /x}").follow(link, BASE, {}).url == url


@given(
    st.lists(
        st.sampled_from(
            ["a", "Z9", "-._~", "!$&'()*+,;=:@/?", "%20", "%c3%A9", "%", "%4", " ", '"', "<", "é", "\\", "|"]
        )
    )
)
def test_a_long_query_is_read_as_the_library_reads_it(parts: list[str]) -> None:
    query = "".join(parts) + "q" * LONG_QUERY
    for start in ("https://crm.com/a%20b/../c", "https://crm.com", "https://crm.com/#x"):
        url = f"{start}?{query}"
        ours, theirs = parsed(url), httpx.URL(url)
        assert (ours, ours.raw_path, ours.raw_host) == (theirs, theirs.raw_path, theirs.raw_host)
