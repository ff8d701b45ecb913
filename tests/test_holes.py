from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_semantics import HOSTILE

from engine.expressions import Compiler
from engine.mapping import compile_tree
from engine.names import ROW
from engine.notations.emitting import ExpressionError
from engine.notations.holes import Html, Url

PAGE = (
    '<div class="{{ event.x }}"><p>{{ event.x }}</p><a href="{{ event.y }}" title="{{ event.x }}">{{ event.y }}</a>'
    '{% for z in event.l %}<li>{{ z }}</li>{% endfor %}<img src="https://a.example/{{ event.x }}?b={{ event.y }}">'
    '<a href="mailto:{{ event.x }}">m</a></div>'
)
MARKUP = st.one_of(
    HOSTILE,
    st.lists(
        st.sampled_from(
            ["<", ">", '"', "'", "&", "/", "<script>", "</p>", "<!--", "-->", "javascript:", "https://", "&lt;",
             "&#34;", "=", " ", "onclick", "data:", "\t", "\n", "mailto:", "//", "vbscript:", "a"]
        ),
        max_size=8,
    ).map("".join),
)  # fmt: skip


class Seen(HTMLParser):
    """The structure of a text, and apart from it what stands in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: dict[tuple[int, str], str | None] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(f"{tag} {' '.join(name for name, _ in attrs)}")
        self.values |= {(len(self.tags), name): value for name, value in attrs}

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_comment(self, data: str) -> None:
        self.tags.append(f"a comment {data}")

    def handle_decl(self, decl: str) -> None:
        self.tags.append(f"a declaration {decl}")


def page(x: str, y: str) -> Seen:
    compiler = Compiler()
    run = compile_tree(compiler, {"$html": PAGE}, ROW, ("x",))
    assert compiler.problems == []
    return Seen(run({"event": {"x": x, "y": y, "l": [x, y]}}))


PLAIN = page("a", "https://b.example")


@given(MARKUP, MARKUP)
@settings(max_examples=150, deadline=None)
def test_no_text_in_a_hole_changes_the_structure_of_html(x: str, y: str) -> None:
    found = page(x, y)
    assert found.tags == PLAIN.tags
    assert found.values[1, "class"] == x
    links = [value for (_, name), value in found.values.items() if name in ("href", "src")]
    assert all(link == "#" or (link or "").lower().startswith(("http://", "https://", "mailto:")) for link in links)
    image = found.values[next(place for place in found.values if place[1] == "src")] or ""
    assert image.startswith("https://a.example/")
    assert (image.count("/"), image.count("?")) == (3, 1)


@given(st.lists(st.sampled_from(["<", ">", "/", "!", "--", "b", " ", "=", '"', "'", "script", "a", "?"]), max_size=14))
@settings(max_examples=300, deadline=None)
def test_wherever_a_hole_may_stand_its_value_stays_what_it_is(pieces: list[str]) -> None:
    text = "".join(pieces)
    place = Html()
    place.read(text)
    try:
        helper = place.hole()
    except ExpressionError:
        return
    if helper != "html":
        return
    closing = '"></b>' if place.mode == "double" else ""
    tags = [Seen(f"{text}{value}{closing}").tags for value in ("x", "&lt;script&gt;&quot;&#x27;")]
    assert tags[0] == tags[1]


def where(text: str, reader: Any) -> Any:
    place = reader()
    for piece in text.split("{}"):
        place.read(piece)
        helper = place.hole()
    return helper


@pytest.mark.parametrize(
    ("text", "helper"),
    [
        ("", "url_base"),
        ("{}", "url_host"),
        ("{}/", "segment"),
        ("https://", "url_host"),
        ("https://a.", "url_host"),
        ("https://a.b:443", "url_host"),
        ("https://a.b/c", "segment"),
        ("https://a.b/c/{}-", "segment"),
        ("https://a.b?", "url_value"),
        ("https://a.b/c?d=e/", "url_value"),
        ("https://a.b#", "url_value"),
        ("https://a\\", "segment"),
        ("/a", "segment"),
        ("/a?", "url_value"),
    ],
)
def test_a_hole_of_a_url_is_filled_for_its_part(text: str, helper: str) -> None:
    assert where(text, Url) == helper


@pytest.mark.parametrize(
    ("text", "helper"),
    [
        ("", "html"),
        ("a < b", "html"),
        ("<b>", "html"),
        ("<b/>", "html"),
        ("</b >", "html"),
        ("<!-- <b a= -->", "html"),
        ("<!-->", "html"),
        ("<!DOCTYPE html>", "html"),
        ("<?xml a='?>", "html"),
        ("</ a>", "html"),
        ("<b a='>\"'>", "html"),
        ("<b a='b'>", "html"),
        ("<b a=>", "html"),
        ("<b a = b>", "html"),
        ('<b a="', "html"),
        ('<b a b="{}', "html"),
        ('<b data-href="', "html"),
        ('<a HREF="', "html_link"),
        ('<a href=" ', "html_link"),
        ('<a href="{}', "html_part"),
        ('<a href="https://a.b/', "html_part"),
        ('<a href="/a/', "html_part"),
        ('<a href="#', "html_part"),
        ('<a href="mailto:', "html_mail"),
        ('<a href="mailto:{}?subject=', "html_part"),
        ("<style>a</style>", "html"),
        ("<script>a</scriptx></script >", "html"),
    ],
)
def test_a_hole_of_html_is_escaped_for_its_place(text: str, helper: str) -> None:
    assert where(text, Html) == helper
