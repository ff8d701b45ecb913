"""Hashes and encodings of text; a text counts as its UTF-8 bytes, hashes are lower-case hex."""

import base64 as base64_codec
import hashlib
import uuid
from typing import Any
from urllib.parse import quote

from engine.errors import BadValue
from engine.functions.definition import function
from engine.functions.values import Budget, Scalar, described, json_text, printed

# Given once, at random; changing it would change every id that a vendor has already seen.
NAMESPACE = "b7c9a6c2-2f0e-4f5b-9a53-7f1d6a1c9e44"

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


@function("The MD5 hash.", (("ana@example.com",), "cdb9d6a1dddc375a09cc83e3001598dc"))
def md5(subject: str) -> str:
    return hashlib.md5(subject.encode(), usedforsecurity=False).hexdigest()


@function("The SHA-1 hash.", (("ana@example.com",), "36324b2c364c48481b618d96a698511b42dc76cf"))
def sha1(subject: str) -> str:
    return hashlib.sha1(subject.encode(), usedforsecurity=False).hexdigest()


@function(
    "The SHA-256 hash.",
    (("ana@example.com",), "8e43ca37701228e74983efdbd0cff5c16b3b1e5d4e29a7c05626d4d25a018e11"),
)
def sha256(subject: str) -> str:
    return hashlib.sha256(subject.encode()).hexdigest()


@function("Base64 with padding.", (("user:pass",), "dXNlcjpwYXNz"))
def base64(subject: str) -> str:
    return base64_codec.b64encode(subject.encode()).decode("ascii")


@function(
    "A UUID that is always the same for the same text, in a namespace of this engine's own or the one given.",
    (("event-1",), "520b9aa0-bf64-5df0-b6d5-53248c241c7b"),
    (("example.com", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "cfbff0d1-9375-5685-968c-48ce8b15ae17"),
)
def uuid5(subject: str, namespace: str = NAMESPACE) -> str:
    try:
        space = uuid.UUID(namespace)
    except ValueError:
        raise BadValue(f"a UUID is needed for `namespace`, got {described(namespace)}") from None
    return str(uuid.uuid5(space, subject))


@function(
    "Compact JSON text: exact decimals, order of keys kept, characters as they are.",
    (({"b": 1, "a": [True, None, "é"]},), '{"b":1,"a":[true,null,"é"]}'),
)
def json(subject: Any) -> str:
    return json_text(subject)


@function(
    "An object as a query text; a list repeats its key, absent values are left out, a space is `%20`.",
    (({"a": 1, "b": "x y&z"},), "a=1&b=x%20y%26z"),
    (({"id": [1, 2], "none": None},), "id=1&id=2"),
)
def urlencode(subject: dict[str, Any]) -> str:
    budget = Budget()
    pairs = []
    for key, value in subject.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                pairs.append(f"{url_part(key)}={url_part(item)}")
                budget.spend(len(pairs[-1]) + 1)
    return "&".join(pairs)


@function(
    "Escaped for HTML: `&`, `<`, `>`, `\"` and `'`.", (('<b>"A" & B</b>',), "&lt;b&gt;&quot;A&quot; &amp; B&lt;/b&gt;")
)
def html(subject: Scalar) -> str:
    return printed(subject).translate(_HTML)


@function(
    "Percent-encoded, all but letters, digits and `-._~`, so that it is one part of a path or query.",
    (("a/b c",), "a%2Fb%20c"),
    (("São",), "S%C3%A3o"),
)
def url_part(subject: Scalar) -> str:
    return quote(printed(subject), safe="")
