"""A connector's own simulator: routes, tokens, limits, memory, and many connectors behind one port."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import START, Shop, connector_from, program_from

from engine.errors import SpecErrors
from engine.http import Prepared
from engine.sandbox import Sandbox, SandboxTransport, answer, application, path_pattern
from engine.sending import Hosts
from engine.spec.project import Project

if TYPE_CHECKING:
    from engine.http import Reply


def sandbox(text: str) -> Sandbox:
    made = Sandbox(connector_from(f"sandbox:\n  hosts: [api.crm.example]\n{text}"), new_id=iter("abcdefgh").__next__)
    made.require_sound()
    return made


def asked(path: str, method: str = "GET", body: Any = None, **headers: str) -> Prepared:
    content = json.dumps(body).encode() if body is not None else None
    return Prepared(method, f"https://api.crm.example{path}", headers, content, 1.0)


def said(reply: Reply) -> tuple[int, Any]:
    return reply.status, reply.body if reply.body is not None else reply.text


ROUTES = """
  routes:
    - {method: GET, path: '/people/{id}', reply: {body: {id: '${ path.id }', q: '${ request.query.q }'}}}
    - {method: GET, path: '/files/{rest*}', reply: {text: 'file {{ path.rest }}'}}
    - {method: POST, path: /people, when: "${ request.json.name == 'bad' }", reply: {status: 400, body: {error: BAD}}}
    - {method: POST, path: /people, reply: {status: 201, body: {name: '${ request.json.name }'}, headers: {X-Id: '7'}}}
    - {path: /any, reply: {status: 204}}
"""


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked("/people/7?q=x"), (200, {"id": "7", "q": "x"})),
        (asked("/people/a%2Fb"), (200, {"id": "a/b"})),
        (asked("/files/a/b/c"), (200, "file a/b/c")),
        (asked("/people", "POST", {"name": "bad"}), (400, {"error": "BAD"})),
        (asked("/people", "POST", {"name": "ana"}), (201, {"name": "ana"})),
        (asked("/any", "DELETE"), (204, "")),
        (asked("/people/7/x"), (404, "sandbox: no route fits this request")),
        (asked("/people", "PUT", {}), (404, "sandbox: no route fits this request")),
    ],
)
def test_the_first_route_that_fits_answers(request_: Prepared, expected: tuple[int, Any]) -> None:
    assert said(sandbox(ROUTES).answer(request_, START)) == expected


def test_a_path_pattern_takes_no_other_characters_as_signs() -> None:
    import re

    assert re.fullmatch(path_pattern("/a.b/{id}"), "/axb/1") is None
    assert re.fullmatch(path_pattern("/a.b/{id}"), "/a.b/1") is not None


TOKENS = """
  secrets: {key: the-key}
  tokens:
    access:
      lifetime: 10m
      accept: ${ request.headers.authorization }
      refused: {status: 401, body: {error: expired}}
    key: {accept: '${ request.query.key }', value: the-key}
  limits: {calls: {rate: 2/1m, by: '${ request.query.key }', reply: {status: 429, body: {error: slow}}}}
  routes:
    - {method: POST, path: /login, reply: {body: {token: "${ issue('access') }"}}}
    - {path: /me, token: access, reply: {body: {ok: true}}}
    - {path: /limited, token: key, limit: calls, reply: {body: {ok: true}}}
"""


def test_a_token_lives_as_long_as_it_was_issued_for() -> None:
    box = sandbox(TOKENS)
    token = box.answer(asked("/login", "POST"), START).body["token"]
    assert said(box.answer(asked("/me", Authorization=token), START + 599)) == (200, {"ok": True})
    assert said(box.answer(asked("/me", Authorization=token), START + 600)) == (401, {"error": "expired"})
    assert said(box.answer(asked("/me", Authorization="made-up"), START)) == (401, {"error": "expired"})
    assert said(box.answer(asked("/me"), START)) == (401, {"error": "expired"})


def test_a_fixed_key_and_a_rate_for_each_key() -> None:
    box = sandbox(TOKENS)
    assert [said(box.answer(asked("/limited?key=the-key"), START + at))[0] for at in (0, 30, 59, 61, 62)] == [
        200,
        200,
        429,
        200,
        429,
    ]
    assert box.answer(asked("/limited?key=wrong"), START).status == 401


def test_it_remembers_counts_and_numbers() -> None:
    box = sandbox("""
  routes:
    - method: POST
      path: /people/{id}
      remember: {key: 'person-{{ path.id }}', value: '${ request.json }'}
      reply: {body: {number: "${ sequence('people') }", times: "${ count(path.id) }"}}
    - {method: GET, path: '/people/{id}', when: "${ recall(join(['person-', path.id], '')) }",
       reply: {body: "${ recall(join(['person-', path.id], '')) }"}}
""")
    assert said(box.answer(asked("/people/1", "POST", {"n": "ana"}), START)) == (200, {"number": 1, "times": 1})
    assert said(box.answer(asked("/people/1", "POST", {"n": "bia"}), START)) == (200, {"number": 2, "times": 2})
    assert said(box.answer(asked("/people/2", "POST", {}), START)) == (200, {"number": 3, "times": 1})
    assert said(box.answer(asked("/people/1"), START)) == (200, {"n": "bia"})
    assert box.answer(asked("/people/9"), START).status == 404


def test_a_route_that_is_wrong_says_so_and_does_not_break_the_server() -> None:
    box = sandbox("  routes: [{path: /x, reply: {body: {n: '${ decimal(request.json) }'}}}]\n")
    reply = box.answer(asked("/x", "POST", {"a": 1}), START)
    assert reply.status == 500
    assert reply.text.startswith("sandbox: ")


def test_a_sandbox_that_does_not_compile_is_a_finding() -> None:
    with pytest.raises(SpecErrors, match="evnt"):
        sandbox("  routes: [{path: /x, reply: {body: '${ evnt.x }'}}]\n")


def test_a_host_that_no_sandbox_speaks_for_is_said() -> None:
    reply = answer([sandbox(ROUTES)], Prepared("GET", "https://other.example/x", {}, None, 1.0), START)
    assert said(reply) == (421, "sandbox: no connector here speaks for other.example")


def test_a_walk_against_the_sandbox_in_the_same_process() -> None:
    text = """
sandbox:
  routes:
    - {method: POST, path: /v1/notes, when: "${ request.json.id == '2' }", reply: {status: 422}}
    - {reply: {body: {}}}
"""
    shop = Shop(text, vendor=SandboxTransport([Sandbox(connector_from(text))], lambda: START))
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain()
    assert shop.sums() == {"delivered": 1, "rejected": 1}


def test_behind_one_port_the_host_tells_them_apart() -> None:
    app = application([sandbox(ROUTES)], lambda: START)

    def call(host: str, path: str, method: str = "GET", body: bytes = b"", query: bytes = b"") -> tuple[int, bytes]:
        sent: list[dict[str, Any]] = []
        incoming = [
            {"type": "http.request", "body": body[:3], "more_body": True},
            {"type": "http.request", "body": body[3:], "more_body": False},
        ]

        async def receive() -> dict[str, Any]:
            return incoming.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [(b"host", host.encode())],
        }
        asyncio.run(app(scope, receive, send))
        assert (b"x-sandbox", b"simulated") in sent[0]["headers"]
        return sent[0]["status"], sent[1]["body"]

    assert call("api.crm.example", "/people/a%2Fb", query=b"q=1") == (200, b'{"id":"a/b","q":"1"}')
    assert call("api.crm.example:8080", "/people", "POST", b'{"name": "ana"}') == (201, b'{"name":"ana"}')
    assert call("other.example", "/x")[0] == 421


def test_every_bundled_sandbox_compiles() -> None:
    project = Project(Path(__file__).parents[1])
    for name in project.connector_files():
        connector = project.connector(name)
        assert connector.sandbox is not None, name
        Sandbox(connector).require_sound()
    assert program_from().actions


def test_the_sandboxes_play_the_hosts_that_the_clients_of_this_repository_name() -> None:
    project = Project(Path(__file__).parents[1])
    named = []
    for path in project.client_files().values():
        client = project.loaded_client(path).value
        assert client is not None
        for name, binding in client.connectors.items():
            connector = project.connector(name)
            hosts = [value for value in binding.settings.values() if isinstance(value, str) and "." in value]
            named += [(name, host) for host in hosts if Hosts(connector.hosts).allows(host)]
            assert [host for host in hosts if Hosts(connector.hosts).allows(host)] == [
                host for host in hosts if Sandbox(connector).hosts.allows(host)
            ]
    assert ("activecampaign", "loja-ghi.api-us1.com") in named
