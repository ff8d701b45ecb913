"""`connect check --provision` against a CRM of the test's own, on a loopback socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command import Ended, Running, connect, free_port

CONNECTOR = """connect: 1
name: acme
title: Acme
hosts: [api.acme.example]
settings:
  properties:
    list: {type: string}
    group: {type: string, default: Daxgo}
    scores: {type: boolean, default: true}
    fields: {type: object}
secrets: {token: {title: Token}}
derive: {region: "${ last(split(secrets.token, '-')) }"}
auth: {type: bearer, token: "${ secrets.token }"}
http: {base_url: https://api.acme.example/v1}
replies:
  message: ${ response.body.error }
  outcomes:
    - {status: 403, then: pause, why: The token may not read fields}
tables:
  titles: {last_product: Last product, last_order: Last order, seen_at: Seen at}
provision:
  fields:
    title: Custom field
    each: ${ entries(tables.titles) }
    as: field
    look:
      request: {method: GET, path: /fields, query: {limit: 100}}
      exists: ${ find(response.body.fields, 'title', field.value) }
    make:
      request:
        path: /fields
        json: {title: "${ field.value }", position: "${ index }", group: "${ settings.group }"}
        expect: ${ response.body.id }
      replies: {outcomes: [{status: 409, then: delivered}]}
    suggest:
      - setting: fields.{{ field.key }}
        value: "${ coalesce(response.body.id, get(find(response.body.fields, 'title', field.value), 'id')) }"
  list:
    look:
      request: {method: GET, path: "/lists/{{ settings.list }}"}
      absent_on: [404]
    manual: >-
      Create the list {{ settings.list }} under Contacts, Lists, and give the user of the token leave to write to it.
      The region is {{ derived.region }}.
    suggest: [{setting: list, value: "${ response.body.id }"}]
  tracking: {title: Event tracking, manual: "Switch event tracking on under Settings, Tracking."}
  scores:
    title: Lead scores
    when: ${ settings.scores }
    look: {request: {method: GET, path: /scores}}
    make: {request: {path: /scores}}
actions:
  note:
    record: {id: "${ event.id }"}
    request: {path: /notes, json: "${ record }", expect: "${ response.body.id }"}
"""
CLIENT = """client: abc
ingest: {keys: ['env:ABC_KEY']}
connectors:
  acme:
    settings: {list: "7", fields: {seen_at: "41"}, scores: false}
    secrets: {token: 'env:ABC_TOKEN'}
"""
TOKEN = "made-up-token-us14"


class Crm:
    """What the account has, and every request that came; `answers` are told instead, by `GET /v1/fields`."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.lists = {"7": "Site"}
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.answers: dict[str, list[tuple[int, Any]]] = {}

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, Any]:
        called = f"{method} {path}"
        self.asked.append(called)
        if told := self.answers.get(called):
            return told.pop(0) if len(told) > 1 else told[0]
        if token != f"Bearer {TOKEN}":
            return 401, {"error": f"{token} is wrong"}
        match method, path.split("/")[2:]:
            case "GET", ["fields?limit=100"]:
                return 200, {"fields": [{"id": key, "title": title} for title, key in self.fields.items()]}
            case "POST", ["fields"]:
                self.bodies.append(body)
                self.fields[body["title"]] = f"{40 + len(self.fields)}"
                return 201, {"id": self.fields[body["title"]]}
            case "GET", ["lists", name] if name in self.lists:
                return 200, {"id": name}
        return 404, {"error": "no such thing"}


@pytest.fixture
def crm() -> Crm:
    return Crm()


@pytest.fixture
def via(crm: Crm) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            token = self.headers.get("authorization", "")
            sent = json.loads(raw) if self.headers.get("content-type") == "application/json" else None
            status, body = crm.answer(self.command, self.path, token, sent)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            if status == 429:
                self.send_header("retry-after", "0.2")
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, text in (("connectors/acme.yaml", CONNECTOR), ("clients/abc.yaml", CLIENT)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


def checked(home: Path, via: str, *more: str, token: str = TOKEN) -> Ended:
    return connect("check", "acme", "abc", "--provision", *more, "--via", via, project=home, ABC_TOKEN=token)


LOOKED = ["GET /v1/fields?limit=100", "GET /v1/lists/7"]


def changed(home: Path, old: str, new: str, file: str = "connectors/acme.yaml") -> None:
    text = (home / file).read_text()
    assert old in text
    (home / file).write_text(text.replace(old, new))


def test_the_project_has_no_finding(home: Path) -> None:
    ended = connect("validate", project=home)
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "1 warning in 2 files")
    assert "no example shows what it sends" in ended.out


def test_it_only_looks_and_says_what_is_there_and_what_a_person_must_do(home: Path, crm: Crm, via: str) -> None:
    crm.fields, crm.lists = {"Last order": "12", "Seen at": "41"}, {}
    ended = checked(home, via)
    assert ended.err == ""
    assert ended.out == (
        "WHAT                        STATE\n"
        "Custom field: Last product  missing\n"
        "Custom field: Last order    there\n"
        "Custom field: Seen at       there\n"
        "list                        missing\n"
        "Event tracking              please see to it\n"
        "\n"
        "To do:\n"
        "1. list: Create the list 7 under Contacts, Lists, and give the user of the token\n"
        "   leave to write to it. The region is ***.\n"
        "2. Event tracking: Switch event tracking on under Settings, Tracking.\n"
        "\n"
        "For acme in the client file of abc:\n"
        "\n"
        "  settings:\n"
        "    fields:\n"
        '      last_order: "12"\n'
        "\n"
        "2 missing, 2 there, 1 please see to it\n"
        "1 can be made: connect check acme abc --provision --make\n"
    )
    assert ended.code == 1
    assert crm.asked == LOOKED  # one for three fields, and nothing that writes


def test_make_makes_what_is_missing_and_the_next_time_all_is_there(home: Path, crm: Crm, via: str) -> None:
    crm.fields = {"Last order": "12"}
    made = checked(home, via, "--make")
    assert made.out == (
        "WHAT                        STATE\n"
        "Custom field: Last product  made\n"
        "Custom field: Last order    there\n"
        "Custom field: Seen at       made\n"
        "list                        there\n"
        "Event tracking              please see to it\n"
        "\n"
        "To do:\n"
        "1. Event tracking: Switch event tracking on under Settings, Tracking.\n"
        "\n"
        "For acme in the client file of abc:\n"
        "\n"
        "  settings:\n"
        "    fields:\n"
        '      last_product: "41"\n'
        '      last_order: "12"\n'
        '      seen_at: "42"  # instead of "41"\n'
        "\n"
        "2 made, 2 there, 1 please see to it\n"
    )
    assert made.code == 0
    assert crm.bodies == [
        {"title": "Last product", "position": 0, "group": "Daxgo"},
        {"title": "Seen at", "position": 2, "group": "Daxgo"},
    ]
    crm.asked.clear()
    again = checked(home, via, "--make", "--json")
    assert (again.code, [one["state"] for one in again.json["provision"]]) == (0, ["there"] * 4 + ["manual"])
    assert again.json["settings"] == {"fields": {"last_product": "41", "last_order": "12", "seen_at": "42"}}
    assert crm.asked == LOOKED


def test_json_tells_each_thing(home: Path, crm: Crm, via: str) -> None:
    crm.fields = {"Last product": "12", "Seen at": "41"}
    ended = checked(home, via, "--json")

    def thing(name: str, title: str, label: str | None, state: str, **more: Any) -> dict[str, Any]:
        rest = {"reason": "", "manual": "", "can_make": False, "suggests": {}}
        return {"name": name, "title": title, "label": label, "state": state, **rest, **more}

    assert ended.json == {
        "provision": [
            thing("fields", "Custom field", "Last product", "there", suggests={"fields.last_product": "12"}),
            thing("fields", "Custom field", "Last order", "missing", can_make=True),
            thing("fields", "Custom field", "Seen at", "there", suggests={"fields.seen_at": "41"}),
            thing("list", "list", None, "there", suggests={"list": "7"}),
            thing(
                "tracking",
                "Event tracking",
                None,
                "manual",
                manual="Switch event tracking on under Settings, Tracking.",
            ),
        ],
        "settings": {"fields": {"last_product": "12"}},
        "complete": False,
    }
    assert ended.code == 1


def test_a_look_that_is_refused_says_why_and_the_others_go_on(home: Path, crm: Crm, via: str) -> None:
    crm.answers["GET /v1/fields?limit=100"] = [(403, {"error": "MISSING_SCOPES"})]
    ended = checked(home, via, "--make")
    assert ended.out.splitlines()[1:10] == [
        "Custom field: Last product  failed",
        "Custom field: Last order    failed",
        "Custom field: Seen at       failed",
        "list                        there",
        "Event tracking              please see to it",
        "",
        "To do:",
        "1. Custom field (Last product, Last order, Seen at): The token may not read",
        "   fields (MISSING_SCOPES)",
    ]
    assert (ended.code, crm.asked) == (1, LOOKED)


def test_what_can_not_be_made_says_why_and_what_a_person_may_do(home: Path, crm: Crm, via: str) -> None:
    changed(
        home,
        "    look:\n      request: {method: GET, path: /fields,",
        "    manual: Create it.\n    look:\n      request: {method: GET, path: /fields,",
    )
    crm.answers["POST /v1/fields"] = [(400, {"error": "no more than 2 fields"})]
    ended = checked(home, via, "--make", "--json")
    first = ended.json["provision"][0]
    assert (first["state"], first["reason"], first["manual"]) == (
        "missing",
        "it can't be made: HTTP 400 no more than 2 fields",
        "Create it.",
    )
    assert ended.code == 1


def test_what_the_rules_take_for_made_is_made(home: Path, crm: Crm, via: str) -> None:
    crm.answers["POST /v1/fields"] = [(409, {"error": "it is there, for another user"})]
    ended = checked(home, via, "--make", "--json")
    assert [(one["state"], one["suggests"]) for one in ended.json["provision"][:3]] == [("made", {})] * 3
    assert ended.json["settings"] == {}


def test_a_refused_token_is_shown_to_the_vendor_once_and_to_nobody_else(home: Path, crm: Crm, via: str) -> None:
    ended = checked(home, via, token="the-wrong-token")
    assert crm.asked == LOOKED[:1]
    assert "1. Custom field (Last product, Last order, Seen at): HTTP 401 Bearer *** is" in ended.out
    assert "2. list: HTTP 401 Bearer *** is wrong" in ended.out
    assert "the-wrong-token" not in ended.out + ended.err
    assert ended.code == 1


def test_a_vendor_that_is_not_there_is_asked_once(home: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    ended = checked(home, nobody, "--json")
    reasons = {one["reason"] for one in ended.json["provision"]}
    assert reasons == {f"no connection to api.acme.example by way of {nobody}: Connection refused", ""}
    assert ended.code == 1


def test_a_short_wait_that_the_vendor_asks_for_is_waited(home: Path, crm: Crm, via: str) -> None:
    crm.answers["GET /v1/lists/7"] = [(429, {"error": "slow down"}), (200, {"id": "7"})]
    ended = checked(home, via, "--json")
    assert ended.json["provision"][3]["state"] == "there"
    assert crm.asked == [*LOOKED, LOOKED[1]]


def test_limits_hold_for_provisioning_too(home: Path, crm: Crm, via: str) -> None:
    changed(home, "https://api.acme.example/v1}", "https://api.acme.example/v1, limits: {daily: {budget: 2}}}")
    ended = checked(home, via, "--make", "--json")
    assert [(one["state"], one["reason"]) for one in ended.json["provision"]] == [
        ("made", ""),
        ("missing", "it can't be made: our budget of 2 a day is used up"),
        ("missing", "it can't be made: our budget of 2 a day is used up"),
        ("failed", "our budget of 2 a day is used up"),
        ("manual", ""),
    ]
    assert crm.asked == [LOOKED[0], "POST /v1/fields"]


def test_one_thing_that_is_wanted_twice_is_made_once(home: Path, crm: Crm, via: str) -> None:
    changed(home, "seen_at: Seen at}", "seen_at: Last product}")
    changed(home, 'position: "${ index }", ', "")
    ended = checked(home, via, "--make", "--json")
    assert [body["title"] for body in crm.bodies] == ["Last product", "Last order"]
    assert ended.json["settings"]["fields"] == {"last_product": "40", "last_order": "41", "seen_at": "40"}


def test_what_is_no_list_and_what_can_not_be_built_is_told_of_that_thing_alone(home: Path, crm: Crm, via: str) -> None:
    changed(home, "${ entries(tables.titles) }", "${ settings.list }")
    changed(home, 'settings: {list: "7"', 'settings: {list: ".."', "clients/abc.yaml")
    ended = checked(home, via, "--json")
    assert [(one["state"], one["reason"]) for one in ended.json["provision"]] == [
        ("failed", "provision.fields.each: a list is needed here, got text"),
        ("failed", "provision.list.look.request.path: settings.list is '..', which can't be a part of a path"),
        ("manual", ""),
    ]
    assert crm.asked == []


def test_a_request_may_go_with_another_log_in_whose_secret_only_provisioning_needs(home: Path, via: str) -> None:
    changed(
        home,
        "secrets: {token: {title: Token}}",
        "secrets: {token: {title: Token}, admin: {title: Key, optional: true}}",
    )
    changed(
        home,
        'auth: {type: bearer, token: "${ secrets.token }"}',
        'auths: {usual: {type: bearer, token: "${ secrets.token }"},'
        ' admin: {type: bearer, token: "${ secrets.admin }"}}',
    )
    changed(home, 'path: "/lists/{{ settings.list }}"', 'path: "/lists/{{ settings.list }}", auth: admin')
    changed(home, "token: 'env:ABC_TOKEN'", "token: 'env:ABC_TOKEN', admin: 'env:ABC_ADMIN'", "clients/abc.yaml")
    ended = connect(
        *("check", "acme", "abc", "--provision", "--json", "--via", via),
        project=home,
        ABC_TOKEN=TOKEN,
        ABC_ADMIN="key-of-an-admin-eu1",
    )
    assert ended.json["provision"][3]["reason"] == "HTTP 401 Bearer *** is wrong"
    without = checked(home, via)
    assert (without.code, "ABC_ADMIN" in without.err) == (1, True)


def test_a_stored_token_serves_for_provisioning_though_that_needs_more_secrets(home: Path, crm: Crm, via: str) -> None:
    changed(
        home,
        'auth: {type: bearer, token: "${ secrets.token }"}',
        "auths: {usual: {type: oauth2_refresh_token, token_url: https://api.acme.example/token,"
        ' refresh_token: "${ secrets.refresh }"}, admin: {type: bearer, token: "${ secrets.token }"}}',
    )
    changed(home, "secrets: {", "secrets: {refresh: {title: Refresh token}, ")
    changed(home, 'derive: {region: "${ last(split(secrets.token', 'derive: {region: "${ last(split(secrets.refresh')
    changed(home, 'path: "/lists/{{ settings.list }}"', 'path: "/lists/{{ settings.list }}", auth: admin')
    changed(home, "secrets: {", "secrets: {refresh: 'env:ABC_REFRESH', ", "clients/abc.yaml")
    crm.answers["POST /token"] = [(200, {"access_token": TOKEN, "expires_in": 3600}), (400, {"error": "spent"})]
    for more in ((), ("--provision",), ("--provision",), ()):
        args = ("check", "acme", "abc", "--via", via, *more)
        ended = connect(*args, project=home, ABC_TOKEN=TOKEN, ABC_REFRESH="spent-when-it-is-used")
        assert "spent" not in ended.out
    assert crm.asked == ["POST /token", *LOOKED, *LOOKED]


def test_without_provision_there_is_nothing_to_do(home: Path, crm: Crm, via: str) -> None:
    text = (home / "connectors/acme.yaml").read_text()
    before, _, after = text.partition("provision:\n")
    (home / "connectors/acme.yaml").write_text(before + "actions:\n" + after.partition("actions:\n")[2])
    ended = checked(home, via)
    assert (ended, crm.asked) == ((0, "acme needs nothing to be there before\n", ""), [])


def test_make_alone_is_wrong_use(home: Path) -> None:
    ended = connect("check", "acme", "abc", "--make", project=home)
    assert ended == (2, "", "connect: --make belongs to --provision\n")


def test_what_does_not_compile_in_provision_stops_it_and_not_the_serving(home: Path, via: str, crm: Crm) -> None:
    changed(home, "${ settings.group }", "${ settings.gruop.x | }")
    ended = checked(home, via)
    assert (ended.code, crm.asked) == (1, [])
    assert "provision.fields.make.request.json.group" in ended.err
    changed(
        home,
        "hosts: [api.acme.example]",
        "hosts: [api.acme.example]\nchecks: {lists: {request: {method: GET, path: /lists/7}}}",
    )
    fine = connect("check", "acme", "abc", "--via", via, project=home, ABC_TOKEN=TOKEN)
    assert (fine.code, crm.asked) == (0, ["GET /v1/lists/7"])


def test_it_works_against_the_connector_s_own_sandbox(home: Path) -> None:
    sandbox = """
sandbox:
  secrets: {token: made-up-token-us14}
  tokens: {key: {accept: "${ request.headers.authorization }", value: Bearer made-up-token-us14}}
  routes:
    - method: GET
      path: /v1/fields
      token: key
      reply:
        body:
          fields:
            $each: [Last product, Last order, Seen at]
            where: ${ recall(item) }
            do: {id: "${ recall(item) }", title: "${ item }"}
    - method: POST
      path: /v1/fields
      token: key
      remember: {key: "${ request.json.title }", value: "id-{{ 'field' | sequence }}"}
      reply: {status: 201, body: {id: "${ recall(request.json.title) }"}}
    - {method: GET, path: "/v1/lists/{name}", token: key, reply: {body: {id: "${ path.name }"}}}
"""
    with (home / "connectors/acme.yaml").open("a") as file:
        file.write(sandbox)
    with Running("sandbox", "--port", "0", project=home) as running:
        address = running.lines_until("export CONNECT_VIA=")[-1].removeprefix("export CONNECT_VIA=")
        runs = [checked(home, address, *more, "--json") for more in ((), ("--make",), ())]
    states = [[one["state"] for one in ended.json["provision"]] for ended in runs]
    assert states == [[state] * 3 + ["there", "manual"] for state in ("missing", "made", "there")]
    assert runs[2].json["settings"] == {"fields": {"last_product": "id-1", "last_order": "id-2", "seen_at": "id-3"}}
