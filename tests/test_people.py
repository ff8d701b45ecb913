"""Who is meant by an address, in keys, events and texts."""

from __future__ import annotations

import hashlib
import json

import pytest

from engine.privacy.people import Subject, digest

ANA = Subject(" Ana.B@x.com")


@pytest.mark.parametrize(
    ("key", "body", "theirs"),
    [
        ("ana.b@X.COM ", b"{}", True),
        (None, b'{"to": [{"mail": " ANA.B@x.com"}]}', True),
        (None, rb'{"mail": "\u0061na.b@x.com"}', True),
        (None, b'{"ana.b@x.com": {"opened": 3}}', True),
        (None, b'{"note": "not ana.b@x.com"}', False),
        (None, b'{"mail": "joana.b@x.com"}', False),
        ("joana.b@x.com", b"{}", False),
        (None, b'{"mail": ', False),
        (None, b'{"mail": "ana.b@x.com', True),
    ],
)
def test_an_event_is_theirs_by_its_key_or_by_a_whole_text_in_whatever_case(
    key: str | None, body: bytes, theirs: bool
) -> None:
    assert ANA.has(key, body) is theirs


def test_by_key_only_the_key_counts() -> None:
    seventeen = Subject("17", by_key=True)
    assert (seventeen.has("17", b"{}"), seventeen.has("170", b'{"product": "17"}')) == (True, False)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no such person ana.b@x.com.", True),
        ("https://crm.example/c?e=ANA.B%40x.com&a=1", True),
        ("/people/%3Cana.b%40x.com%3E", True),
        (json.dumps({"raw": "to:\nAna.B@x.com"}), True),
        ('{"raw": "\\u003cana.b@x.com\\u003e"}', True),
        (hashlib.sha256(b"ana.b@x.com").hexdigest(), True),
        (hashlib.md5(b"ana.b@x.com").hexdigest().upper(), True),
        ("joana.b@x.com", False),
        ("maria-ana.b@x.com", False),
        ("ana.b@x.com.br", False),
        ("ana.b@x.community", False),
    ],
)
def test_a_text_names_them_however_it_is_written_and_no_other(text: str, named: bool) -> None:
    assert ANA.named_in(text) is named
    assert ANA.named_in(text.encode()) is named
    assert ANA.named_in(ANA.taken_out(text)) is False


def test_a_digest_of_the_usual_spellings_is_known() -> None:
    assert {digest("ana.b@x.com"), digest("Ana.B@x.com"), digest(" Ana.B@x.com")} == set(ANA.digests)
