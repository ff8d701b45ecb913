from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest

from engine.segments import name_of, segment


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("client-abc", "client-abc"),
        ("loja abc", "loja%20abc"),
        ("a/b", "a~2Fb"),
        ("a%2Fb", "a%252Fb"),
        ("~2F", "~7E2F"),
        ("..", "~2E~2E"),
        (".", "~2E"),
        ("...", "..."),
        ("", "~"),
        ("~", "~7E"),
        ("a\\b?c#d", "a~5Cb%3Fc%23d"),
        ("ção", "%C3%A7%C3%A3o"),
        ("\u202e\x00", "%E2%80%AE%00"),
        ("/" * 200, "~2F" * 200),
    ],
)
def test_a_name_is_one_segment_of_an_address_and_comes_back_as_it_was(name: str, written: str) -> None:
    assert segment(name) == written
    path = urlsplit(f"http://localhost/lane/{written}/x").path
    assert path.split("/")[2:] == [written, "x"]
    assert name_of(unquote(written)) == name
