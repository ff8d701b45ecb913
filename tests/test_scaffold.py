"""What `connect new` writes passes validate and test as it is, whatever it was made of."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from engine.authoring.openapi import Shape, api_of
from engine.authoring.scaffold import checked_base_url, checked_name, checked_path, decisions, files, write
from engine.authoring.scaffold.auths import KINDS, auth_of
from engine.authoring.scaffold.blank import blank
from engine.authoring.scaffold.closest import closest, snake
from engine.authoring.scaffold.draft import Draft
from engine.authoring.scaffold.from_openapi import Answers, draft_from
from engine.authoring.scaffold.writing import Inline, Note, Noted, block, comment, plain
from engine.errors import UsageError
from engine.spec.check import check
from engine.spec.located import read
from engine.spec.project import Project

BASE = "https://api.acme-crm.example/v1"


def draft(kind: str = "bearer", **more: Any) -> Draft:
    details = {"token_url": "https://login.acme-crm.example/token"} if kind.startswith("oauth2_") else {}
    auth = auth_of(kind, base_url=BASE, **details)
    return blank("acme-crm", title="Acme CRM", base_url=BASE, host="api.acme-crm.example", auth=auth, **more)


def findings(made: Draft, folder: Path) -> list[str]:
    """What `connect validate --strict` says of it; that runs the examples, too."""
    write(folder, files(made, "acme-example"))
    return [str(each) for each in check(Project(folder), strict=True)]


# --- written from nothing ---


@pytest.mark.parametrize(("kind", "records", "direct"), list(product(KINDS, (None, 1, 50), (False, True))))
def test_every_kind_of_connector_passes_as_it_is(kind: str, records: int | None, direct: bool, tmp_path: Path) -> None:
    assert findings(draft(kind, records=records, direct=direct, own_schema=direct), tmp_path) == []


def test_a_key_in_a_query_or_a_cookie_passes_as_it_is(tmp_path: Path) -> None:
    for where in ("header", "query", "cookie"):
        auth = auth_of("api_key", base_url=BASE, key_name="api.key[1]", key_in=where)
        made = blank("acme-crm", title="Acme", base_url=BASE, host="api.acme-crm.example", auth=auth)
        assert findings(made, tmp_path / where) == []


def test_the_sandbox_refuses_a_wrong_key_and_takes_the_made_up_one(tmp_path: Path) -> None:
    from engine.http import Prepared
    from engine.sandbox import Sandbox

    for kind, good in (
        ("bearer", "Bearer made-up-token"),
        ("basic", "Basic bWFkZS11cC11c2VybmFtZTptYWRlLXVwLXBhc3N3b3Jk"),
    ):
        write(tmp_path / kind, files(draft(kind), "acme-example"))
        sandbox = Sandbox(Project(tmp_path / kind).connector("acme-crm"))
        said = [
            sandbox.answer(
                Prepared("GET", f"{BASE}/account", {"Authorization": sent}, None, timeout_s=1.0, purpose="check"), 0.0
            ).status
            for sent in ("Bearer wrong", good)
        ]
        assert said == [401, 200]


def test_a_connector_reads_as_a_person_would_write_it() -> None:
    text = files(draft(records=50), "acme-example")["connectors/acme-crm.yaml"]
    start = text.index("actions:")
    assert text[start : text.index("\nexamples:")] == (
        """\
actions:
  send_event:
    title: An event on the contact
    # records and wait are a client's to change, max is the vendor's
    batch: {records: 50, wait: 5s, max: {records: 50}}
    record:
      # DECIDE: the vendor's own fields, in its own order; what the event does not have is left out
      email: ${ fields.email }
      activity: ${ fields.activity }
      occurred_at: ${ event.timestamp }
      product:
        id: ${ event.product.id }
        name: ${ truncate(event.product.name, `80`) }
        price: ${ event.product.price }
    require: [{schema: {required: [email]}}]  # without these a record is rejected, unsent
    request:
      method: POST
      path: /events
      json: {records: "${ batch.records }"}
      # DECIDE: what only a good reply has; a page with status 200 is none
      expect: ${ present(response.body.results) }
    results:
      # DECIDE: how the reply speaks of each record; here one result each, in their order
      at: ${ response.body.results }
      ok: ${ result.ok }
      code: ${ result.error }
    repeat: may_double  # DECIDE: may a request whose answer never came be sent again? safe, may_double or never
"""
    )


def test_a_client_refers_to_its_secrets_and_holds_none() -> None:
    assert files(draft("basic"), "acme-example")["clients/acme-example.yaml"] == (
        """\
# yaml-language-server: $schema=../schemas/client.schema.json
# One account of Acme CRM: copy this file for each. A secret is a reference, never the value.
client: acme-example
title: An example client of Acme CRM
ingest: {keys: ['env:ACME_EXAMPLE_WRITE_KEY']}  # who sends this key is this client
connectors:
  acme-crm:
    secrets:
      username: env:ACME_EXAMPLE_USERNAME
      password: env:ACME_EXAMPLE_PASSWORD
"""
    )


def test_every_decision_is_counted_with_its_line_and_key() -> None:
    texts = {
        "a.yaml": "# DECIDE: one\nkey: 1\n  rate: 10/1s  # DECIDE: two\n# grep -n DECIDE: it\n",
        "b.md": "<!-- DECIDE: three -->",
    }
    assert [tuple(each) for each in decisions(texts)] == [
        ("a.yaml", 1, "one"),
        ("a.yaml", 3, "rate: two"),
        ("b.md", 1, "three"),
    ]


def test_the_page_is_the_one_that_connect_docs_writes(tmp_path: Path) -> None:
    from engine.cli.docs import pages

    for made in (draft("basic", records=50, own_schema=True), draft("none", direct=True)):
        write(tmp_path, written := files(made, "acme-example"))
        (_, text) = next(pages(Project(tmp_path), ("acme-crm",), None, language=False, functions=False))
        assert written["docs/connectors/acme-crm.md"] == text


# --- names and addresses ---


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Acme CRM", "acme-crm"),
        ("../acme", "acme"),
        ("acme.yaml", "acme-yaml"),
        ("Ünïcode", "n-code"),
        ("9lives", "lives"),
        ("", "acme-crm"),
        ("a" * 41, "a" * 40),
        ("-x", "x"),
        ("acme\n", "acme"),
    ],
)
def test_a_name_that_cannot_be_says_what_can(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        checked_name(name)
    assert str(error.value).endswith(
        "can't be a connector's name; it begins with a small letter and has at most 40 small letters, digits and "
        f'hyphens, such as "{hint}"'
    )
    assert "\n" not in str(error.value)
    assert checked_name(hint) == hint


@pytest.mark.parametrize("name", ["metrics", "lanes", "healthz", "readyz"])
def test_an_address_of_the_engine_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} is an address of the engine's own; call the connector otherwise"):
        checked_name(name)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://api.acme.example", "it begins with https://"),
        ("api.acme.example", "it begins with https://"),
        ("https://localhost/v1", "it has a host name such as api.acme-crm.com"),
        ("https://10.0.0.1", "it has a host name such as api.acme-crm.com"),
        ("https://api.acme.example:8443", "no port, no user name, small letters"),
        ("https://me@api.acme.example", "no port, no user name, small letters"),
        ("https://API.acme.example", "no port, no user name, small letters"),
        ("https://api.acme.example/v1?x=1", "behind the host only a path such as /v1"),
        ("https://api.acme.example/a/../b", "behind the host only a path such as /v1"),
        ("https://api.acme.example/{{ x }}", "it begins with https://"),
        ("https://[::1", "it begins with https://"),
    ],
)
def test_a_base_url_that_cannot_be_says_why(url: str, why: str) -> None:
    with pytest.raises(UsageError) as error:
        checked_base_url(url)
    assert str(error.value) == f"{url} can't be a base URL; {why}"


def test_a_base_url_loses_the_slash_at_its_end() -> None:
    assert checked_base_url(" https://api.acme.example/v1/ ") == "https://api.acme.example/v1"


@pytest.mark.parametrize("path", ["events", "/", "/a b", "/a/../b", "/{id}", "/a//b", "/a?b"])
def test_a_path_that_cannot_be_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="can't be a path; it begins with /"):
        checked_path(path)


# --- writing YAML ---

TEXTS = st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=30).filter(
    lambda text: "${" not in text and "{{" not in text
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXTS
    | st.sampled_from(["yes", "1e5", "007", "~", "- a", "a: b", "# no", "x #y", "'", '"', "", " a", "2026-01-28", "@x"])
    | st.sampled_from(["!t", "*a", "a,b", "a@b", "1s", "10/1m", "1_000", "12:30", "<<", "a'b", "=", "..", "../x"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(TEXTS, inner, max_size=3)
    | st.dictionaries(TEXTS, inner, max_size=3).map(Inline),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
@settings(max_examples=150)
def test_what_is_written_is_read_again_as_it_was(data: dict[str, Any]) -> None:
    located = read("\n".join(block(data)), "x.yaml")
    assert (located.data, located.findings) == (data, [])


def test_comments_stand_behind_a_value_or_above_where_it_is_too_long() -> None:
    data = {
        "a": Noted(1, "short"),
        Note("above\n  and further"): None,
        "b": [Noted(Inline(c="${ event.x }"), "of a list")],
        "d": Noted({"e": 1}, "of a map"),
        "f": Noted("x" * 100, "too long for this line"),
    }
    lines = block(data)
    assert lines == [
        "a: 1  # short",
        "# above",
        "#   and further",
        "b:",
        '  - {c: "${ event.x }"}  # of a list',
        "d:  # of a map",
        "  e: 1",
        "# too long for this line",
        f"f: {'x' * 100}",
    ]
    assert read("\n".join(lines), "x.yaml").data == plain(data)


def test_a_comment_never_leaves_its_line() -> None:
    assert comment("one\u2028two " + "long " * 40)[0].startswith("# one")
    assert all(line.startswith("#") for line in comment("a b " * 100))


# --- fields of the event ---


CENTS = "${ integer(multiply(event.product.price, `100`)) }"


@pytest.mark.parametrize(
    ("names", "shape", "value", "doubt"),
    [
        (("emailAddress",), Shape("string"), "${ fields.email }", ""),
        (("FIRST_NAME",), Shape("string", max_length=40), "${ truncate(event.firstName, `40`) }", ""),
        (("product", "name"), Shape("string"), "${ event.product.name }", ""),
        (("name",), Shape("string"), "${ event.name }", ""),
        (("total",), Shape("string"), "${ string(event.total) }", ""),
        (("price",), Shape("integer"), CENTS, "a whole number: is it in cents?"),
        (("occurred_at",), Shape("string", format="date-time"), "${ event.timestamp }", ""),
        (("occurred_at",), Shape("integer"), "${ epoch(event.timestamp) }", "a number: is it seconds since 1970?"),
        (("emailAdress",), Shape("string"), "${ fields.email }", "is this event.email?"),
    ],
)  # fmt: skip
def test_a_field_is_taken_from_the_part_of_the_event_that_its_name_says(
    names: tuple[str, ...], shape: Shape, value: str, doubt: str
) -> None:
    found = closest(names, shape)
    assert found is not None
    assert (found.value, found.doubt) == (value, doubt)


@pytest.mark.parametrize("name", ["owner", "list_id", "status", "message", "foo"])
def test_a_field_that_no_event_has_is_not_guessed(name: str) -> None:
    assert closest((name,), Shape("string")) is None


def test_names_become_names_that_expressions_can_use() -> None:
    assert [snake(name) for name in ("contactID", "List-Id", "9to5", "éa", "HTTPStatus")] == [
        "contact_id",
        "list_id",
        "value_9to5",
        "a",
        "http_status",
    ]


# --- from OpenAPI: addresses and log-ins ---


def made_of(tmp_path: Path, **more: Any) -> tuple[dict[str, Any], str]:
    """The connector's data and its text; it passes."""
    document = {
        "openapi": "3.0.0",
        "info": {"title": "Acme", "version": "1"},
        "servers": [{"url": "https://api.acme.com/v1"}],
        "paths": {"/a": {"post": {"responses": {"204": {"description": "done"}}}}},
        **more,
    }
    api = api_of(json.dumps(document).encode(), "api.json")
    made = draft_from(api, api.operations(), "acme-crm", "Acme", Answers())
    assert findings(made, tmp_path) == []
    text = files(made, "acme-example")["connectors/acme-crm.yaml"]
    return read(text, "x.yaml").data, text


VARIABLE = {"shop": {"default": "demo"}}


@pytest.mark.parametrize(
    ("servers", "base_url", "hosts", "decide"),
    [
        ([{"url": "https://API.acme.com/v1/"}], "https://api.acme.com/v1", ["api.acme.com"], ""),
        ([], "https://api.acme-crm.example", ["api.acme-crm.example"], "the document has none that can be used"),
        ([{"url": "/v3"}], "https://api.acme-crm.example/v3", ["api.acme-crm.example"], "(it says /v3)"),
        (
            [{"url": "http://localhost:80/v1"}],
            "https://api.acme-crm.example/v1",
            ["api.acme-crm.example"],
            "(it says http://localhost:80/v1)",
        ),
        ([{"url": "http://api.acme.com"}], "https://api.acme.com", ["api.acme.com"], "says http:, where only https"),
        ([{"url": "https://api.acme.com:8443"}], "https://api.acme.com", ["api.acme.com"], "says port 8443"),
        (
            [{"url": "http://localhost"}, {"url": "https://api.acme.com"}],
            "https://api.acme.com",
            ["api.acme.com"],
            "has other addresses, too: http://localhost (no description)",
        ),
        (
            [{"url": "https://{shop}.acme.com/{shop}", "variables": VARIABLE}],
            "https://{{ settings.shop }}.acme.com/{{ settings.shop }}",
            ["*.acme.com"],
            "",
        ),
        (
            [{"url": "https://{shop}", "variables": VARIABLE}],
            "https://{{ settings.shop }}",
            ["*.acme-crm.example"],
            "leaves it all open",
        ),
        (
            [{"url": "https://{undescribed}.acme.com"}],
            "https://{{ settings.undescribed }}.acme.com",
            ["*.acme.com"],
            "",
        ),
        ([{"url": "https://[::1"}], "https://api.acme-crm.example", ["api.acme-crm.example"], "none that can be used"),
    ],
)
def test_the_address_is_that_of_the_first_server_that_can_be_one(
    servers: list[Any], base_url: str, hosts: list[str], decide: str, tmp_path: Path
) -> None:
    data, text = made_of(tmp_path, servers=servers)
    assert (data["http"]["base_url"], data["hosts"]) == (base_url, hosts)
    assert decide in text.partition("\nhttp:")[2].partition("base_url:")[0]


def oauth(flow: str, **more: Any) -> dict[str, Any]:
    return {"type": "oauth2", "flows": {flow: {"tokenUrl": "/oauth/token", "scopes": {}, **more}}}


CLIENT = {"client_id": "${ secrets.client_id }", "client_secret": "${ secrets.client_secret }"}
TOKEN_URL = "https://api.acme.com/oauth/token"


@pytest.mark.parametrize(
    ("scheme", "auth", "decide"),
    [
        ({"type": "http", "scheme": "Bearer"}, {"type": "bearer", "token": "${ secrets.token }"}, ""),
        (
            {"type": "http", "scheme": "basic"},
            {"type": "basic", "username": "${ secrets.username }", "password": "${ secrets.password }"},
            "",
        ),
        (
            {"type": "apiKey", "in": "query", "name": "api_key"},
            {"type": "api_key", "key": "${ secrets.api_key }", "name": "api_key", "in": "query"},
            "",
        ),
        (
            {"type": "apiKey", "in": "cookie", "name": "sid"},
            {"place": {"cookies": {"sid": "${ secrets.api_key }"}}},
            "",
        ),
        (
            {"type": "apiKey", "in": "header", "name": "Authorization"},
            {"type": "api_key", "key": "${ secrets.api_key }", "name": "Authorization"},
            "or behind a word such as Token?",
        ),
        (
            oauth("clientCredentials"),
            {"type": "oauth2_client_credentials", "token_url": TOKEN_URL, **CLIENT, "scope": "read write"},
            "",
        ),
        (
            oauth("authorizationCode", authorizationUrl="https://x.example"),
            {
                "type": "oauth2_refresh_token",
                "token_url": TOKEN_URL,
                **CLIENT,
                "refresh_token": "${ secrets.refresh_token }",
            },
            "a person agrees once in the browser",
        ),
        (
            oauth("clientCredentials", tokenUrl="http://a b"),
            {"type": "oauth2_client_credentials", "token_url": TOKEN_URL, **CLIENT, "scope": "read write"},
            "the address that gives the token; the document has none that can be used",
        ),
        (
            {"type": "http", "scheme": "digest"},
            {"type": "bearer", "token": "${ secrets.token }"},
            "the_key is http digest",
        ),
        ({"type": "openIdConnect"}, {"type": "bearer", "token": "${ secrets.token }"}, "the_key is openIdConnect"),
    ],
)
def test_the_log_in_is_that_of_the_security_scheme(
    scheme: dict[str, Any], auth: dict[str, Any], decide: str, tmp_path: Path
) -> None:
    components = {"securitySchemes": {"the_key": scheme}}
    data, text = made_of(tmp_path, components=components, security=[{"the_key": ["read", "write"]}])
    assert data["auth"] == auth
    assert decide in text.partition("\nkey:")[2].partition("\nauth:")[0]


def test_of_several_ways_to_log_in_the_first_that_can_be_done_is_taken(tmp_path: Path) -> None:
    schemes = {"tls": {"type": "mutualTLS"}, "basic": {"type": "http", "scheme": "basic"}}
    data, text = made_of(tmp_path, components={"securitySchemes": schemes}, security=[{"tls": []}, {"basic": []}])
    assert data["auth"]["type"] == "basic"
    assert "# DECIDE: the document has other ways to log in, too: tls\n" in text


def test_a_document_that_says_nothing_of_log_ins_is_marked(tmp_path: Path) -> None:
    data, text = made_of(tmp_path)
    assert "auth" not in data
    assert "# DECIDE: how to log in: the document says nothing of it; see `auth` in the language page\n" in text


def test_a_list_of_records_with_ids_is_a_batch_in_which_each_record_has_its_own(tmp_path: Path) -> None:
    item = {"required": ["id", "owner"], "properties": {"id": {"type": "string"}, "owner": {"type": "string"}}}
    body = {"required": ["inputs"], "properties": {"inputs": {"type": "array", "items": {"type": "object", **item}}}}
    fault = {"properties": {"category": {"type": "string"}, "message": {"type": "string"}}}
    operation = {
        "operationId": "post-/crm/v3/objects/contacts/batch/upsert",
        "requestBody": {"content": {"application/json": {"schema": body}}},
        "responses": {"200": {}, "default": {"content": {"*/*": {"schema": fault}}}},
    }
    data, text = made_of(tmp_path, paths={"/crm/v3/objects/contacts/batch/upsert": {"post": operation}})
    assert list(data["actions"]) == ["create_contacts_batch_upsert"]
    action = data["actions"]["create_contacts_batch_upsert"]
    assert action["record"] == {"id": "${ event.eventId }", "owner": "${ settings.owner }"}
    assert "id: ${ event.eventId }  # DECIDE: what tells one record from another?\n" in text
    assert action["batch"] == {"records": 100, "wait": "5s", "max": {"records": 100}}
    assert action["request"]["json"] == {"inputs": "${ batch.records }"}
    assert data["replies"]["message"] == "${ response.body.message }"


def test_a_body_of_which_nothing_is_known_gets_a_field_and_a_mark(tmp_path: Path) -> None:
    schema = {"properties": {"flavour": {"type": "string"}, "weight_class": {"type": "string"}}}
    operation = {"requestBody": {"content": {"application/json": {"schema": schema}}}, "responses": {"204": {}}}
    data, text = made_of(tmp_path, paths={"/a": {"post": operation}})
    assert data["actions"]["create_a"]["record"] == {"flavour": "${ settings.flavour }"}
    assert "# DECIDE: nothing is required, and no name is like one of the event's; an example:\n" in text


# --- from OpenAPI, whatever it says ---

NAMES = st.sampled_from(
    ["email", "name", "$type", "a-b", "items", "price", "note", "type", "when", "x y", "é", "1st", "event", "id", "or"]
)
SAID = st.text(max_size=20) | st.sampled_from(
    ["${ x }", "{{ x }}", "{% if", "{# x", "a # b", "x: y", "'", "- ", "DECIDE: x"]
)
LEAVES = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer", "number", "boolean", ["string", "null"]])},
    optional={
        "format": st.sampled_from(["date-time", "date", "email", "uuid"]),
        "maxLength": st.integers(0, 80),
        "description": SAID,
        "enum": st.lists(SAID | st.integers(0, 9), min_size=1, max_size=3, unique_by=str),
        "example": SAID | st.integers(),
        "nullable": st.booleans(),
    },
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(NAMES, inner, max_size=4)},
        optional={"required": st.lists(NAMES, max_size=3), "description": SAID},
    )


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        objects(inner)
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"maxItems": st.integers(1, 500)})
        | st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=2)})
        | st.fixed_dictionaries({"allOf": st.lists(objects(inner), min_size=1, max_size=2)})
        | st.just({"$ref": "#/components/schemas/Loop"})
    ),
    max_leaves=8,
)


@given(
    body=SCHEMAS,
    reply=SCHEMAS,
    wrong=SCHEMAS,
    media=st.sampled_from(["application/json", "application/x-www-form-urlencoded", "text/plain", "a/hal+json"]),
    path=st.sampled_from(["/a", "/a/{email}", "/a/{contact-id}/b.{format}"]),
    title=SAID,
)  # fmt: skip
@settings(
    max_examples=40, phases=(Phase.explicit, Phase.generate), derandomize=True
)  # a failure is not made smaller: that takes minutes
def test_any_document_gives_a_connector_that_passes(
    tmp_path_factory: pytest.TempPathFactory, body: Any, reply: Any, wrong: Any, media: str, path: str, title: str
) -> None:
    def content(schema: Any, kind: str = "application/json") -> Any:
        return {"content": {kind: {"schema": schema}}}

    responses = {
        "200": {"description": title, **content(reply)},
        "400": {"description": "no", **content(wrong)},
        "429": {"description": "slow", **content(wrong)},
    }
    document = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": title},
        "paths": {path: {"post": {"requestBody": content(body, media), "responses": responses}}},
        "components": {
            "schemas": {
                "Loop": {"type": "object", "properties": {"in": {"$ref": "#/components/schemas/Loop"}, "a": {}}}
            }
        },
    }
    api = api_of(json.dumps(document).encode(), "api.json")
    made = draft_from(api, api.operations(), "acme-crm", "Acme", Answers())
    assert findings(made, tmp_path_factory.mktemp("made")) == []
