"""The quick parser of intake gives what the exact one gives, or leaves the body to it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import intake
from engine.errors import Refused
from engine.intake import exact, parse, parsed, quick
from engine.mapping import encode_json

LEAVES = st.none() | st.booleans() | st.text(max_size=8) | st.integers() | st.floats(allow_nan=False).map(repr)
KEYS = st.sampled_from(["a", "b", "é", "null", '"', "\\", ":", "a\u0000", "", "😀"])


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """As they may be written, wrong ones among them."""
    digits = st.text("0123456789", max_size=25)
    return "".join(
        (
            draw(st.sampled_from(["", "", "-", "+"])),
            draw(digits),
            draw(st.sampled_from(["", "", "."])),
            draw(digits),
            draw(st.sampled_from(["", "", "", "e", "E", "E+", "e-", "E-", "E+0"])),
            draw(st.text("0123456789", max_size=3)),
        )
    )


@st.composite
def strings(draw: st.DrawFn) -> str:
    """In quotes, escaped in one way or another."""
    text = draw(st.text(max_size=6))
    written = json.dumps(text, ensure_ascii=draw(st.booleans()))
    return written + draw(st.sampled_from(["", "", "", '"'])) if draw(st.booleans()) else written.replace("/", "\\/")


SCALARS = (
    numbers()
    | strings()
    | st.sampled_from(["null", "true", "false", "NaN", "Infinity", "-Infinity", '"\\ud800"', '"\\ud83d\\ude00"', "nul"])
    | st.integers(-(10**45), 10**45).map(str)
)
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n", "\x0b", "\u00a0"])


def lists(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda each, s: f"[{s}{f'{s},'.join(each)}{s}]", st.lists(children, max_size=3), SPACE)


def objects(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.builds(lambda key, s, value: f"{json.dumps(key)}{s}:{s}{value}", KEYS, SPACE, children)
    return st.builds(lambda each, s: f"{{{s}{f'{s},'.join(each)}{s}}}", st.lists(pair, max_size=4), SPACE)


TEXTS = st.recursive(SCALARS, lambda children: lists(children) | objects(children), max_leaves=8)
BODIES = (
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.binary(max_size=12)
    | st.builds(
        lambda text, at, junk: text[:at] + junk + text[at:],
        TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.integers(0, 40),
        st.sampled_from([b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b",", b'"', b"{", b"}", b"\\", b"\x1f"]),
    )
)


def read(body: bytes, *, quickly: bool) -> Any:
    """What a body is taken for, to the last digit, or the refusal."""
    try:
        return shown(parse(body, "application/json") if quickly else parse_exactly(body))
    except Refused as refused:
        return refused.status, refused.title, refused.faults


def parse_exactly(body: bytes) -> tuple[list[Any], bool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "quick", lambda _: None)
        return parse(body, "application/json")


def shown(value: Any) -> Any:
    """1 and True and 1.0 apart, and keys in their order."""
    if isinstance(value, dict):
        return ["object", [(key, shown(child)) for key, child in value.items()]]
    if isinstance(value, list | tuple):
        return [shown(child) for child in value]
    return type(value).__name__, value.as_tuple() if isinstance(value, Decimal) else value


@given(BODIES)
@settings(max_examples=1500, deadline=None)
def test_quick_and_exact_parser_read_the_same_and_refuse_the_same(body: bytes) -> None:
    assert read(body, quickly=True) == read(body, quickly=False)


@given(BODIES)
@settings(max_examples=500, deadline=None)
def test_what_the_quick_parser_gives_is_the_value_with_its_json(body: bytes) -> None:
    found = quick(body)
    if found is not None:
        value, written = found
        assert shown(value) == shown(exact(body))
        assert written == encode_json(exact(body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":1}',
        b'{"a":null,"a":1}',
        b'{"a":{"b":1,"b":1}}',
        b'[{"a":1},{"b":[{"c":1, "c":2}]}]',
        b'{"a":1E+41}',
        b'{"a":1e400}',
        b'{"a":1E-41}',
        b'{"a":12345678901234567890123456789012345678901}',
        b'{"a":1234567890123456789012345678901234567890.1}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\x01"}',
        b'{"a":01}',
        b'{"a":1,}',
        b'{"a":1} x',
        b"{'a':1}",
        b'{"a":1}\x00',
        b"[" * 100 + b"1" + b"]" * 100,
        b"[" * 5000,
        b"",
        b" ",
        b"9" * 5000,
    ],
)  # fmt: skip
def test_the_quick_parser_lets_nothing_pass_that_is_to_be_refused(body: bytes) -> None:
    refused = read(body, quickly=True)
    assert refused[0] == 400
    assert refused == read(body, quickly=False)


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (b'{"email":"a@b.c","price":1299.90}', b'{"email":"a@b.c","price":1299.90}'),
        (b' {"a": [1, -0.50, null, {"b": null, "c": ""}],\n "n": null} ', b'{"a":[1,-0.50,null,{"c":""}]}'),
        ('{"name":"Câmera 🚲"}'.encode(), '{"name":"Câmera 🚲"}'.encode()),
    ],
)  # fmt: skip
def test_an_event_as_browsers_write_it_is_read_by_the_quick_parser_and_kept_as_it_came(
    body: bytes, written: bytes
) -> None:
    events, listed, kept = parsed(body, "application/json")
    assert (kept, listed) == (written, False)
    assert shown(events) == shown([exact(body)])
    assert encode_json(events[0]) == written


def test_ids_are_uuids_of_version_4_and_a_forked_child_has_others() -> None:
    import os
    import uuid

    from engine.ids import random_id

    first = random_id()
    assert uuid.UUID(first).version == 4
    assert uuid.UUID(first).variant == uuid.RFC_4122
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        os.write(sending, random_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(receiving, 36).decode() != random_id()
    os.close(receiving)
    os.close(sending)
