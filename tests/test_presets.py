from __future__ import annotations

from typing import Any

import pytest

from engine.expressions import Compiler
from engine.spec import types
from engine.spec.load import load_connector
from engine.spec.located import Located, read
from engine.spec.presets import PRESETS, UnknownPreset, expand
from engine.spec.violations import document

URL = "https://login.example.com/token"


def test_a_bearer_token_stands_behind_its_word() -> None:
    assert expand({"type": "bearer", "token": "{{ secrets.token }}"}) == {
        "place": {"headers": {"Authorization": "Bearer {{ secrets.token }}"}}
    }


def test_a_key_goes_to_a_header_or_into_the_query() -> None:
    key = {"type": "api_key", "key": "{{ secrets.key }}", "name": "X-Key"}
    assert expand(key) == {"place": {"headers": {"X-Key": "{{ secrets.key }}"}}}
    assert expand({**key, "in": "query"}) == {"place": {"query": {"X-Key": "{{ secrets.key }}"}}}


@pytest.mark.parametrize(
    ("username", "password", "header"),
    [
        ("{{ secrets.name }}", "{{ secrets.word }}", "Basic QW5hOnAnd1xk"),
        ("{{ secrets.name | lower }}-x", "{% raw %}{{{% endraw %}", "Basic YW5hLXg6e3s="),
        ("${ secrets.name }", "", "Basic QW5hOg=="),
        ("it's", "a\\b", "Basic aXQnczphXGI="),
    ],
)
def test_basic_is_one_expression_that_encodes_name_and_password_together(
    username: str, password: str, header: str
) -> None:
    long = expand({"type": "basic", "username": username, "password": password})
    compiler = Compiler()
    run = compiler.value(long["place"]["headers"]["Authorization"], {"secrets"}, ())
    assert compiler.problems == []
    assert run({"secrets": {"name": "Ana", "word": "p'w\\d"}}) == header


def test_client_credentials_are_one_form_and_what_the_vendor_answers() -> None:
    assert expand(
        {
            "type": "oauth2_client_credentials",
            "token_url": URL,
            "client_id": "{{ secrets.id }}",
            "client_secret": "{{ secrets.secret }}",
            "scope": "write",
            "extra": {"audience": "crm"},
            "save": {"instance_url": "${ response.body.instance_url }"},
            "limits": {"a": {"rate": "1/1s"}},
        }
    ) == {
        "limits": {"a": {"rate": "1/1s"}},
        "token": {
            "request": {
                "method": "POST",
                "url": URL,
                "headers": {"Accept": "application/json"},
                "form": {
                    "grant_type": "client_credentials",
                    "client_id": "{{ secrets.id }}",
                    "client_secret": "{{ secrets.secret }}",
                    "scope": "write",
                    "audience": "crm",
                },
                "expect": "${ response.body.access_token }",
            },
            "save": {
                "value": "${ response.body.access_token }",
                "instance_url": "${ response.body.instance_url }",
            },
            "expires": {"in": "${ response.body.expires_in }"},
        },
        "place": {"headers": {"Authorization": "Bearer {{ token.value }}"}},
    }


def test_an_app_names_itself_in_the_form_in_a_header_or_in_json() -> None:
    given = {"type": "oauth2_client_credentials", "token_url": URL, "client_id": "i", "client_secret": "s"}
    grant = {"grant_type": "client_credentials"}
    request = {how: expand({**given, "client_auth": how})["token"]["request"] for how in ("form", "json", "basic")}
    assert request["form"]["form"] == request["json"]["json"] == {**grant, "client_id": "i", "client_secret": "s"}
    assert request["basic"]["form"] == grant
    header = Compiler().value(request["basic"]["headers"]["Authorization"], (), ())
    assert header({}) == "Basic aTpz"


def test_the_newest_refresh_token_renews_and_the_given_one_is_the_first_and_the_last_resort() -> None:
    long = expand(
        {
            "type": "oauth2_refresh_token",
            "token_url": URL,
            "refresh_token": "{{ secrets.refresh_token }}",
            "expires": {"after": "1h"},
            "header_prefix": "OAuth",
        }
    )
    grant = {"grant_type": "refresh_token"}
    assert long["token"]["request"]["form"] == {**grant, "refresh_token": "{{ secrets.refresh_token }}"}
    assert long["token"]["renew"]["request"]["form"] == {**grant, "refresh_token": "{{ token.refresh_token }}"}
    assert long["token"]["save"]["refresh_token"] == "${ response.body.refresh_token }"
    assert long["token"]["expires"] == {"after": "1h"}
    assert long["place"] == {"headers": {"Authorization": "OAuth {{ token.value }}"}}


def test_where_a_person_agrees_the_code_is_exchanged_at_the_token_url() -> None:
    long = expand(
        {
            "type": "oauth2_refresh_token",
            "authorize_url": "https://app.example.com/oauth/authorize",
            "authorize_query": {"optional_scope": "timeline"},
            "scope": "contacts.write",
            "token_url": URL,
            "client_auth": "basic",
            "client_id": "i",
            "client_secret": "s",
        }
    )
    assert "request" not in long["token"]
    request = long["token"]["renew"]["request"]
    assert request["form"] == {"grant_type": "refresh_token", "refresh_token": "{{ token.refresh_token }}"}
    assert long["token"]["consent"] == {
        "url": "https://app.example.com/oauth/authorize",
        "query": {
            "response_type": "code",
            "client_id": "i",
            "redirect_uri": "${ consent.redirect_uri }",
            "scope": "contacts.write",
            "state": "${ consent.state }",
            "code_challenge": "${ consent.code_challenge }",
            "code_challenge_method": "S256",
            "optional_scope": "timeline",
        },
        "request": {
            **request,
            "form": {
                "grant_type": "authorization_code",
                "code": "${ consent.code }",
                "redirect_uri": "${ consent.redirect_uri }",
                "code_verifier": "${ consent.code_verifier }",
            },
        },
    }


def test_without_pkce_the_page_and_the_exchange_know_nothing_of_it() -> None:
    given = {"type": "oauth2_refresh_token", "authorize_url": URL, "token_url": URL, "client_id": "i"}
    with_it, without = (str(expand({**given, "pkce": pkce})) for pkce in (True, False))
    assert ("code_verifier" in with_it, "code_verifier" in without, "code_challenge" in without) == (True, False, False)


def test_an_app_that_signs_sends_a_fresh_assertion_and_no_secret() -> None:
    long = expand(
        {
            "type": "oauth2_client_credentials",
            "token_url": URL,
            "client_id": "i",
            "client_auth": "private_key_jwt",
            "private_key": "{{ secrets.key }}",
            "key_id": "k-1",
            "sign": {"other": {"type": "hash", "algorithm": "md5", "text": "x"}},
        }
    )
    assert long["sign"] == {
        "other": {"type": "hash", "algorithm": "md5", "text": "x"},
        "client": {
            "type": "jwt",
            "algorithm": "RS256",
            "key": "{{ secrets.key }}",
            "header": {"kid": "k-1"},
            "claims": {"iss": "i", "sub": "i", "aud": URL, "jti": "${ nonce }"},
            "lifetime": "5m",
        },
    }
    assert long["token"]["request"]["form"] == {
        "grant_type": "client_credentials",
        "client_id": "i",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": "${ sign.client }",
    }


def test_an_assertion_is_the_grant_and_the_app_may_sign_as_well() -> None:
    given = {"type": "oauth2_jwt_bearer", "token_url": URL, "private_key": "k", "claims": {"iss": "i"}}
    long = expand(given)
    assert long["sign"] == {
        "assertion": {"type": "jwt", "algorithm": "RS256", "key": "k", "claims": {"iss": "i"}, "lifetime": "5m"}
    }
    assert long["token"]["request"]["form"] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": "${ sign.assertion }",
    }
    assert set(expand({**given, "client_id": "i", "client_auth": "private_key_jwt"})["sign"]) == {"assertion", "client"}


def test_what_has_no_type_is_long_already() -> None:
    assert expand({"place": {"query": {"k": "v"}}}) == {"place": {"query": {"k": "v"}}}


def test_an_unknown_preset_says_which_is_meant() -> None:
    with pytest.raises(UnknownPreset, match='oauth2_pasword: no such preset; did you mean "oauth2_password"'):
        expand({"type": "oauth2_pasword"})


def test_the_schema_knows_exactly_these_presets() -> None:
    defs = document("connector")["$defs"]
    assert set(defs["auth_type"]["enum"]) == set(PRESETS)
    assert {name for name in defs if name.removeprefix("auth_") in PRESETS} == {f"auth_{name}" for name in PRESETS}


def loaded(auth: str) -> tuple[types.Auth, Located]:
    head = "connect: 1\nname: a\ntitle: A\nhosts: [login.example.com]\n"
    text = head + f"auth: {auth}\nactions: {{a: {{request: {{path: /a}}}}}}\n"
    connector, findings, located = load_connector(read(text, "f"))
    assert findings == []
    assert connector is not None
    return connector.auth, located


@pytest.mark.parametrize(
    ("auth", "path", "place"),
    [
        ('{type: bearer, token: "{{ secrets.token }}"}', ("place", "headers", "Authorization"), (5, 29)),
        ('{type: basic, username: "{{ secrets.u }}"}', ("place", "headers", "Authorization"), (5, 7)),
        (
            '{type: oauth2_password, token_url: /t, username: "{{ secrets.u }}", password: "{{ secrets.p }}"}',
            ("token", "request", "form", "password"),
            (5, 85),
        ),
        ("{type: login, request: {url: /x}, save: {value: x}}", ("token", "request", "url"), (5, 36)),
    ],
)
def test_a_part_of_the_long_form_has_the_place_of_its_parameter(
    auth: str, path: tuple[str, ...], place: tuple[int, int]
) -> None:
    value, located = loaded(auth)
    assert isinstance(value, types.Auth)
    assert located.mark(("auth", *path)) == place


@pytest.mark.parametrize("kind", sorted(PRESETS))
def test_every_preset_becomes_the_type(kind: str) -> None:
    given: dict[str, Any] = {
        "basic": "username: u",
        "bearer": "token: t",
        "api_key": "key: k, name: X-Key",
        "oauth2_client_credentials": f"token_url: {URL}, client_id: i, client_secret: s",
        "oauth2_password": f"token_url: {URL}, username: u, password: p",
        "oauth2_refresh_token": f"token_url: {URL}, refresh_token: r",
        "oauth2_jwt_bearer": f"token_url: {URL}, private_key: k, claims: {{iss: i}}",
        "oauth1": "consumer_key: k",
        "aws_sigv4": "access_key: a, secret_key: s, region: sa-east-1, service: execute-api",
        "login": f"request: {{url: {URL}}}, save: {{value: x}}",
    }
    value, _ = loaded(f"{{{', '.join(['type: ' + kind, *([given[kind]] if kind in given else [])])}}}")
    assert (value.token is not None) == kind.startswith(("oauth2", "login"))
