"""Whose a request is: keys, signatures, origins."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from engine.door import senders
from engine.door.senders import Senders
from engine.errors import Refused

NOW = 1_700_000_000.4
BODY = b'{"id": "e-1"}'


def signed(secret: str = "secret-of-abc", body: bytes = BODY, at: int = 1_700_000_000, more: str = "") -> str:
    digest = hmac.new(secret.encode(), b"%d.%b" % (at, body), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}{more}"


def those(**more: Any) -> Senders:
    given = {
        "keys": {"abc": ["key-abc"], "web": ["key-web"]},
        "signatures": {"abc": ["old-secret", "secret-of-abc"], "def": ["secret-of-def"], "off": ["secret-of-off"]},
        "origins": {"web": ["https://www.web.example"]},
        "active": {"abc", "def", "web", "open"},
        **more,
    }
    return Senders(**given)


def found(signature: str | None = None, key: str | None = None, body: bytes = BODY) -> str | tuple[int, str] | None:
    try:
        return those().holder(key, signature, body, NOW)
    except Refused as refused:
        return refused.status, refused.faults[0].reason


NOBODYS = (401, "no client's secret gives it for this body; sign the bytes as they are sent")
UNREADABLE = (401, "it is written t=UNIX-SECONDS,v1=HEX")
TOO_OLD = (401, "its time is more than 5 minutes from ours; is the sender's clock right?")


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        (signed(), "abc"),
        (signed("old-secret"), "abc"),
        (signed("secret-of-def"), "def"),
        (signed().upper().replace("T=", "t=").replace("V1=", "v1="), "abc"),
        (signed().replace(",", " , "), "abc"),
        (signed(more=",v1=" + "0" * 64), "abc"),
        (signed("secret-of-def", more=",client=def"), "def"),
        (signed("secret-of-def", more=",client=abc"), NOBODYS),
        (signed("secret-of-def", more=",client=nobody"), NOBODYS),
        (signed(at=1_700_000_000 - 299), "abc"),
        (signed(at=1_700_000_000 + 300), "abc"),
        (signed(at=1_700_000_000 - 300), TOO_OLD),
        (signed(at=1_700_000_000 + 301), TOO_OLD),
        (signed("guess"), NOBODYS),
        (signed(body=BODY + b" "), NOBODYS),
        (signed().replace("t=1700000000", "t=1700000001"), NOBODYS),
        (signed()[:-1], NOBODYS),
        (signed().replace("v1=", "v1=é"), NOBODYS),
        (signed("secret-of-off"), (403, "off is switched off")),
        ("", UNREADABLE),
        ("t=1700000000", UNREADABLE),
        ("v1=00", UNREADABLE),
        ("t=1.7e9,v1=00", UNREADABLE),
        ("t=1700000000,t=1700000000,v1=00", UNREADABLE),
        ("t=1700000000" + ",v1=00" * 5, UNREADABLE),
        ("t=-1,v1=00", UNREADABLE),
        ("t=" + "9" * 5000 + ",v1=00", UNREADABLE),
        ("t=١٧٠٠٠٠٠٠٠٠,v1=00", UNREADABLE),
    ],
)
def test_a_signature_stands_for_the_client_whose_secret_gives_it(signature: str, expected: Any) -> None:
    assert found(signature) == expected


@pytest.mark.parametrize(
    ("key", "signature", "expected"),
    [
        (None, None, None),
        ("", None, None),
        ("key-abc", None, "abc"),
        ("key-ab", None, (401, "no client of this connector has this write key")),
        ("kéy", None, (401, "no client of this connector has this write key")),
        ("key-abc", signed(), "abc"),
        ("key-abc", signed("guess"), NOBODYS),
        ("key-abc", signed("secret-of-def"), NOBODYS),
        ("key-abc", signed(more=",client=def"), (403, "of another")),
        ("guess", signed(), (401, "no client of this connector has this write key")),
    ],
)
def test_of_key_and_signature_what_is_sent_has_to_be_right(
    key: str | None, signature: str | None, expected: Any
) -> None:
    assert found(signature, key) == expected


def test_where_every_client_proves_itself_nothing_without_proof_is_looked_at() -> None:
    with pytest.raises(Refused) as refused:
        those(active={"abc", "def", "web"}).holder(None, None, BODY, NOW)
    assert refused.value.status == 401


def test_the_client_of_a_large_body_is_looked_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    real = hmac.new

    def counted(*args: Any) -> Any:
        hashed.append(1)
        return real(*args)

    monkeypatch.setattr(senders.hmac, "new", counted)
    many = those(signatures={f"c{number}": [f"secret-{number}"] for number in range(100)}, active={"c7"})
    body = b" " * 200_000
    unnamed, named = signed("secret-7", body), signed("secret-7", body, more=",client=c7")
    hashed.clear()
    with pytest.raises(Refused, match="client=NAME"):
        many.holder(None, unnamed, body, NOW)
    assert hashed == []
    assert (many.holder(None, named, body, NOW), len(hashed)) == ("c7", 1)


def test_keys_and_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures by `compare_digest`, all secrets tried; a key is looked for by its digest and never by itself."""
    compared: list[str] = []
    real = hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        compared.append(other)
        return real(one, other)

    monkeypatch.setattr(senders.hmac, "compare_digest", counted)
    right = signed("old-secret")
    assert found(right) == "abc"
    assert compared == [right.partition("v1=")[2]] * 4
    assert all(isinstance(known, bytes) and len(known) == 32 for known in those()._keys)


@pytest.mark.parametrize(("client", "origin", "allowed"), [
    ("web", "https://www.web.example", True),
    ("web", "", True),
    ("web", "https://www.abc.example", False),
    ("abc", "https://www.web.example", False),
])  # fmt: skip
def test_a_page_sends_only_for_the_client_that_names_its_origin(client: str, origin: str, allowed: bool) -> None:
    if allowed:
        those().require_origin(client, origin)
        return
    with pytest.raises(Refused) as refused:
        those().require_origin(client, origin)
    assert refused.value.status == 403
