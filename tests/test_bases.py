"""A setting or a token in a base URL is a host or a part of a path there, and never leads to another place."""

from __future__ import annotations

import json

import pytest
from conftest import Shop, Vendor

HOSTS = "hosts: ['*.crm.example']\n"
HOST, PATH, WHOLE = (
    "https://{{ settings.a }}.crm.example/v1",
    "https://api.crm.example/{{ settings.a }}/v1",
    "${ settings.a }",
)
BEGIN = "{{ settings.a }}/v1"


def went(base: str, value: str, where: str = "http: {base_url: BASE}") -> str:
    """The address that a request went to, or why none went out."""
    text = f"{HOSTS}settings: {{properties: {{a: {{type: string}}}}}}\n{where.replace('BASE', json.dumps(base))}"
    shop = Shop(
        text, f"{{client: abc, connectors: {{crm: {{settings: {{a: {json.dumps(value)}}}}}}}}}", vendor=Vendor()
    )
    shop.post({"id": "1"})
    shop.drain()
    if shop.vendor.asked:
        return str(shop.vendor.asked[0].url)
    return f"{shop.lane().state}: {shop.lane().reason}" if shop.lane().waiting else f"rejected: {shop.dead()[0].reason}"


@pytest.mark.parametrize(
    ("base", "value", "url"),
    [
        (HOST, "eu", "https://eu.crm.example/v1/notes"),
        (HOST, "a.b", "https://a.b.crm.example/v1/notes"),
        (PATH, "v2 beta", "https://api.crm.example/v2%20beta/v1/notes"),
        (PATH, "a/../../b?c#d@e", "https://api.crm.example/a%2F..%2F..%2Fb%3Fc%23d%40e/v1/notes"),
        (PATH, "a\n", "https://api.crm.example/a%0A/v1/notes"),
        (BEGIN, "https://eu.crm.example/x", "https://eu.crm.example/x/v1/notes"),
        (WHOLE, "https://eu.crm.example/x", "https://eu.crm.example/x/notes"),
        (WHOLE, "https://eu.crm.example:443", "https://eu.crm.example:443/notes"),
    ],
)
def test_a_value_in_a_base_url_fills_its_place(base: str, value: str, url: str) -> None:
    assert went(base, value) == url


NO_HOST = "paused: auth: http.base_url: settings.a is no name of a host: letters, digits, - and dots"
NO_BASE = "paused: auth: http.base_url: settings.a is no https address that something can be put behind"
NO_PART = "paused: auth: http.base_url: settings.a is '..', which can't be a part of a path"


@pytest.mark.parametrize(
    ("base", "value", "why"),
    [
        *((HOST, f"other.crm.example{sign}", NO_HOST) for sign in ("/", "/x?", "#", "?", ":8443", "\n", "\\", "%2F")),
        (HOST, "user:word@other", NO_HOST),
        (HOST, "", NO_HOST),
        (PATH, "..", NO_PART),
        *((BEGIN, f"https://other.crm.example/x{sign}", NO_BASE) for sign in ("?", "#", "\n", " ", "\\")),
        *((WHOLE, f"https://other.crm.example/x{sign}", NO_BASE) for sign in ("?", "#", "\n", " ", "\\")),
        (WHOLE, "https://me@other.crm.example", NO_BASE),
        (WHOLE, "http://api.crm.example", NO_BASE),
        (WHOLE, "file:///etc/passwd", NO_BASE),
    ],
)
def test_a_value_that_would_lead_elsewhere_stops_the_lane(base: str, value: str, why: str) -> None:
    assert went(base, value) == why


def test_a_host_that_is_not_named_is_refused_though_it_is_one() -> None:
    assert went(WHOLE, "https://crm.example.evil.example") == (
        "rejected: crm.example.evil.example is not in the connector's hosts"
    )


@pytest.mark.parametrize("value", ["other.crm.example/x?", "other.crm.example#", "a@other.crm.example"])
def test_a_base_url_of_an_auth_is_filled_alike(value: str) -> None:
    assert went(HOST, value, "auth: {base_url: BASE, place: {}}").startswith("paused: auth: auth.base_url: settings.a")
