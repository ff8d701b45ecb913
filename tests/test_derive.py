"""`derive`: short values made of settings and parts of secrets, once for each client."""

from __future__ import annotations

import pytest
from conftest import Shop, Vendor, program_from, reply

from engine.errors import SecretUnavailable, SpecErrors

CHIMP = """
hosts: ['*.chimp.example']
secrets: {api_key: {title: Key}}
derive: {dc: "${ last(split(secrets.api_key, '-')) }"}
auth: {type: bearer, token: "${ secrets.api_key }"}
http: {base_url: 'https://{{ derived.dc }}.chimp.example'}
actions:
  note:
    record: {id: "${ event.id }", region: "${ derived.dc }"}
    request: {path: /notes, json: "${ record }", expect: "${ response.body.ok }"}
"""
DERIVE = "\"${ last(split(secrets.api_key, '-')) }\""


def shop(text: str = CHIMP, key: str = "0123456789abcdef-us14", vendor: Vendor | None = None) -> Shop:
    return Shop(text, secrets={"api_key": key}, vendor=vendor)


def test_a_part_of_a_secret_can_stand_in_the_host_and_in_the_record() -> None:
    chimp = shop()
    chimp.post({"id": "1"})
    chimp.drain()
    assert [request.url for request in chimp.vendor.asked] == ["https://us14.chimp.example/notes"]
    assert chimp.vendor.bodies == [{"id": "1", "region": "us14"}]
    assert chimp.sums() == {"delivered": 1}


def test_what_was_derived_is_masked_like_a_secret() -> None:
    chimp = shop(vendor=Vendor(reply(400, {"ok": False})))
    chimp.post({"id": "1"})
    chimp.drain()
    [dead] = chimp.dead()
    assert dead.trace is not None
    assert dead.trace.url == "https://***.chimp.example/notes"
    assert dead.trace.request == '{"id":"1","region":"***"}'


def test_a_number_that_was_derived_is_masked_too() -> None:
    derive = DERIVE.replace("last(", "number(last(").replace("'-'))", "'-')))")
    chimp = shop(CHIMP.replace(DERIVE, derive), "0123456789abcdef-40417", Vendor(reply(400, {"ok": False})))
    chimp.post({"id": "1"})
    chimp.drain()
    [dead] = chimp.dead()
    assert dead.trace is not None
    assert (dead.trace.url, dead.trace.request) == ("https://***.chimp.example/notes", '{"id":"1","region":***}')


def test_a_whole_secret_is_not_derived_and_the_lane_pauses() -> None:
    chimp = shop(CHIMP.replace(DERIVE, '"${ secrets.api_key }"'))
    chimp.post({"id": "1"})
    chimp.drain()
    assert chimp.vendor.asked == []
    assert chimp.lane().reason == "crm/abc: derived.dc holds a whole secret; take a part of it"
    assert chimp.sums() == {"waiting": 1}


def test_what_can_not_be_derived_pauses_and_quotes_nothing() -> None:
    chimp = shop(CHIMP.replace(DERIVE, '"${ add(secrets.api_key, `1`) }"'))
    chimp.post({"id": "1"})
    chimp.drain()
    reason = chimp.lane().reason or ""
    assert reason.startswith("crm/abc: derived.dc can't be had: ")
    assert "0123456789abcdef" not in reason


def test_a_long_value_is_not_derived() -> None:
    program = program_from(CHIMP.replace(DERIVE, '"${ join([settings.long, settings.long], \'\') }"').replace(
        "derive:", "settings: {properties: {long: {type: string}}}\nderive:"),
        "{client: abc, connectors: {crm: {settings: {long: '" + "x" * 101 + "'}}}}")  # fmt: skip
    with pytest.raises(SecretUnavailable, match=r"derived\.dc is longer than 200 characters"):
        program.derived({"api_key": "k-us1"})


def test_what_is_not_there_is_absent() -> None:
    assert program_from(CHIMP).derived({}) == {}


@pytest.mark.parametrize("where", ["key: '${ derived.dc }'", "fields: {x: '${ derived.dc }'}"])
def test_nothing_is_derived_before_the_client_s_secrets_are_there(where: str) -> None:
    with pytest.raises(SpecErrors, match="derived"):
        Shop(CHIMP + where, secrets={"api_key": "k-us1"}).post({"id": "1"})
