from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import EVENTS, ROOT, SECRETS, Running, connect, environment, free_port, make_project

from engine.authoring import curl
from engine.authoring.preview import preview
from engine.expressions import Compiler
from engine.http import Prepared
from engine.sending import Masker
from engine.spec import types
from engine.spec.project import Project

BEARER = {"Authorization": "Bearer ***"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def test_a_preview_shows_what_responsys_would_get(home: Path) -> None:
    ended = connect("preview", "responsys", "responsys.json", "--client", "client-abc", "--json", project=home)
    assert (ended.code, ended.err) == (0, "")
    data = {
        "PRODUCT_ID": "PROD-1",
        "PRODUCT_NAME": "Café & Cia",
        "PRODUCT_PRICE": "1299.90",
        "PRODUCT_URL": "https://example.com/p",
        "EVENT_TYPE": "product_view",
    }
    body = {
        "customEvent": {"eventNumberDataMapping": "", "eventDateDataMapping": "", "eventStringDataMapping": ""},
        "recipientData": [
            {
                "recipient": {
                    "emailAddress": "user@example.com",
                    "emailFormat": "HTML_FORMAT",
                    "listName": {"folderName": "!MasterData", "objectName": "CONTACTS_LIST"},
                },
                "optionalData": [{"name": name, "value": value} for name, value in data.items()],
            }
        ],
    }
    assert ended.json == {
        "requests": [
            {
                "action": "trigger_event",
                "method": "POST",
                "url": "https://api2-012.responsys.net/rest/api/v1.3/events/product_view",
                "headers": {"Authorization": "***", **JSON},
                "body": body,
            }
        ],
        "skipped": [
            {"action": "trigger_email", "reason": "not active"},
            {"action": "update_profile", "reason": "not active"},
        ],
    }


def test_a_preview_shows_look_ups_too_and_log_ins_when_asked(home: Path) -> None:
    args = ("preview", "salesforce", home / "salesforce.json", "--json", "--project", home)
    plain = connect(*args, project=home, cwd=Path("/"))
    assert [(one["action"], one["method"], one["headers"]) for one in plain.json["requests"]] == [
        ("create_task", "GET", BEARER),
        ("create_task", "POST", {**BEARER, **JSON}),
    ]
    log_in = connect(*args, "--auth", project=home).json["requests"][0]
    assert log_in == {
        "action": "auth",
        "method": "POST",
        "url": "https://loja-def.my.salesforce.com/services/oauth2/token",
        "headers": {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"},
        "body": "grant_type=client_credentials&client_id=***&client_secret=***",
    }


def test_a_preview_for_people_hides_the_secrets_of_a_url(home: Path) -> None:
    ended = connect("preview", "rdstation", "-", project=home, stdin=json.dumps(EVENTS["rdstation"]))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        "send_conversion\n"
        "POST https://api.rd.services/platform/conversions?api_key=***\n"
        "Content-Type: application/json\n"
        "\n"
        "{\n"
        '  "event_type": "CONVERSION",\n'
        '  "event_family": "CDP",\n'
        '  "payload": {\n'
        '    "conversion_identifier": "product_view",\n'
        '    "email": "user@example.com",\n'
        '    "cf_product_id": "PROD-1",\n'
        '    "cf_product_name": "Café & Cia",\n'
        '    "cf_product_price": "1299.90",\n'
        '    "cf_product_url": "https://example.com/p",\n'
        '    "cf_timestamp": "2026-01-28T10:30:45.123Z"\n'
        "  }\n"
        "}\n"
        "\n"
        "send_conversion: delivered, says the sandbox\n"
    )


def test_a_preview_says_why_an_action_does_not_take_the_event(home: Path) -> None:
    event = {**EVENTS["responsys"], "eventType": "unheard_of"}
    ended = connect("preview", "responsys", "-", "--json", project=home, stdin=json.dumps(event))
    assert ended.json["requests"] == []
    assert ended.json["skipped"][0] == {
        "action": "trigger_event",
        "reason": "the event does not meet `when`: ${ fields.event_name }",
    }


def test_a_list_of_events_is_shown_as_the_batch_it_becomes(home: Path) -> None:
    events = [EVENTS["responsys"], {**EVENTS["responsys"], "email": "other@example.com"}]
    ended = connect("preview", "responsys", "-", "--json", project=home, stdin=json.dumps(events))
    (request,) = ended.json["requests"]
    people = [one["recipient"]["emailAddress"] for one in request["body"]["recipientData"]]
    assert people == ["user@example.com", "other@example.com"]


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"email": "a@example.com", "clientId": "client-abc"}, "connect: the event does not fit its schema; "),
        (
            [EVENTS["responsys"], {**EVENTS["responsys"], "email": "x"}],
            'event 2, email: "x" is not of the format email',
        ),
        ({**EVENTS["responsys"], "clientId": "client-abd"}, "clientId: does not say client-abc; client-abc would"),
    ],
)
def test_an_event_that_intake_refuses_is_a_failure_with_its_field(home: Path, event: object, says: str) -> None:
    ended = connect("preview", "responsys", "-", project=home, stdin=json.dumps(event))
    assert (ended.code, ended.out) == (1, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("responsis", "responsys.json"), 'connect: no connector is called responsis; did you mean "responsys"?\n'),
        (("responsys", "responsys.json", "--client", "client-xyz"), "client-xyz has no connector responsys; it has rd"),
        (("responsys", "none.json"), "connect: none.json: No such file or directory\n"),
    ],
)
def test_wrong_use_of_preview_says_what_is_there(home: Path, args: tuple[str, ...], says: str) -> None:
    ended = connect("preview", *args, project=home)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err


def test_a_client_is_named_where_several_have_the_connector(home: Path) -> None:
    abc = (home / "clients" / "client-abc.yaml").read_text()
    (home / "clients" / "client-new.yaml").write_text(abc.replace("client: client-abc", "client: client-new"))
    ended = connect("preview", "responsys", "responsys.json", project=home)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "connect: name the client with --client; it is one of client-abc, client-new\n"


def test_a_connector_without_a_sandbox_is_answered_by_an_empty_200(home: Path) -> None:
    (home / "connectors" / "crm.yaml").write_text(
        "connect: 1\nname: crm\ntitle: CRM\nhosts: [api.example.com]\nsecrets: {token: {title: T}}\n"
        "receive: {client: '${ event.shop }'}\n"
        "auth: {place: {headers: {X-Token: '${ secrets.token }'}}}\nhttp: {base_url: https://api.example.com}\n"
        "actions: {add: {record: {id: '${ event.id }'}, request: {path: /add, form: {id: '${ record.id }'}}}}\n"
    )
    (home / "clients" / "shop.yaml").write_text("client: shop\nconnectors: {crm: {secrets: {token: env:NONE}}}\n")
    ended = connect("preview", "crm", "-", project=home, stdin='{"shop": "shop", "id": 7}')
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        "add\nPOST https://api.example.com/add\nX-Token: ***\nContent-Type: application/x-www-form-urlencoded\n"
        "\nid = 7\n\nadd: delivered, says an empty 200\n"
    )


# --- explain ---


def explained(home: Path, connector: str, *args: str) -> list[dict[str, Any]]:
    """The fields of the last request."""
    ended = connect("preview", connector, f"{connector}.json", "--json", "--explain", *args, project=home)
    assert (ended.code, ended.err) == (0, "")
    found: list[dict[str, Any]] = ended.json["explained"][-1]
    return found


def line_of(file: Path, text: str) -> int:
    return 1 + file.read_text().splitlines().index(next(line for line in file.read_text().splitlines() if text in line))


def test_a_field_is_explained_by_its_expression_its_line_and_what_it_read(home: Path) -> None:
    spec = home / "connectors" / "rdstation.yaml"
    (email,) = [one for one in explained(home, "rdstation") if one["field"] == "json.payload.email"]
    assert email == {
        "field": "json.payload.email",
        "value": "user@example.com",
        "at": f"connectors/rdstation.yaml:{line_of(spec, '        email: ${ fields.email }')}",
        "expression": "${ fields.email }",
        "reads": [
            {
                "name": "fields.email",
                "value": "user@example.com",
                "origin": {
                    "at": f"connectors/rdstation.yaml:{line_of(spec, '  email: ${ lower(trim(event.email)) }')}",
                    "expression": "${ lower(trim(event.email)) }",
                    "reads": [{"name": "event.email", "value": "user@example.com"}],
                },
            }
        ],
    }


def test_a_field_from_a_look_up_names_the_look_up_and_its_source(home: Path) -> None:
    (who,) = [one for one in explained(home, "salesforce") if one["field"] == "json.records[0].WhoId"]
    (read,) = who["reads"]
    assert (read["name"], read["origin"]["from"]) == ("lookups.person.Id", "look-up person, source contact")


def test_a_field_that_the_client_changed_is_explained_by_the_client_s_file(home: Path) -> None:
    file = home / "clients" / "client-def.yaml"
    changes = "    actions:\n      create_task:\n        record: {Priority: High}\n"
    file.write_text(file.read_text().rstrip("\n") + "\n" + changes)
    (priority,) = [one for one in explained(home, "salesforce") if one["field"] == "json.records[0].Priority"]
    assert priority == {
        "field": "json.records[0].Priority",
        "value": "High",
        "at": f"clients/client-def.yaml:{line_of(file, 'Priority: High')}",
        "expression": '"High"',
    }


CHOICES = """\
connect: 1
name: crm
title: CRM
hosts: [api.example.com]
secrets: {token: {title: T}}
receive: {client: '${ event.shop }'}
auth: {type: bearer, token: '${ secrets.token }'}
http: {base_url: https://api.example.com}
actions:
  add:
    record:
      stage: {$if: "${ event.order }", then: customer, else: visitor}
      kind: {$switch: "${ event.type }", cases: {buy: Sale}, default: Other}
      lines: {$each: "${ event.items }", where: "${ item.n > `0` }", do: {sku: "${ item.sku }", at: "${ index }"}}
      both: {$merge: [{source: web}, "${ event.utm }"]}
      named: {$object: [{key: "${ event.type }", value: "${ event.order }"}]}
      rest: {$rest: "${ event.utm }", except: [medium]}
      price: {$all: {amount: "${ event.total }"}}
      tags: {$keep: ["${ event.tag }"]}
      raw: {$json: {type: "${ event.type }"}}
    request: {path: "/people/{{ event.shop }}", json: "${ record }"}
"""
CHOSEN = {
    "shop": "shop",
    "type": "buy",
    "utm": {"source": "mail", "medium": "x"},
    "total": 5,
    "items": [{"sku": "none", "n": 0}, {"sku": "a1", "n": 2}],
}


def choices(home: Path) -> Path:
    (home / "connectors" / "crm.yaml").write_text(CHOICES)
    (home / "clients" / "shop.yaml").write_text("client: shop\nconnectors: {crm: {secrets: {token: env:NONE}}}\n")
    (home / "crm.json").write_text(json.dumps(CHOSEN))
    return home


def test_explain_tells_which_branch_was_taken_and_what_each_item_read(home: Path) -> None:
    fields = {one.pop("field"): one for one in explained(choices(home), "crm")}
    told = {
        name: (one["value"], one.get("because", []), [each["name"] for each in one.get("reads", [])])
        for name, one in fields.items()
    }
    assert told == {
        "path": ("/people/shop", [], ["event.shop"]),
        "headers.Authorization": ("Bearer ***", [], []),
        "json.stage": ("visitor", ["$if ${ event.order } does not hold"], []),
        "json.kind": ("Sale", ['$switch ${ event.type } is "buy"'], []),
        "json.lines[0].sku": ("a1", [], ["item.sku"]),
        "json.lines[0].at": (1, [], ["index"]),
        "json.both.source": ("mail", [], ["event.utm"]),
        "json.both.medium": ("x", [], ["event.utm"]),
        "json.rest.source": ("mail", [], ["event.utm"]),
        "json.price.amount": (5, [], ["event.total"]),
        "json.tags": ([], [], ["event.tag"]),
        "json.raw": ('{"type":"buy"}', [], ["event.type"]),
    }
    assert fields["json.lines[0].sku"]["at"] == "connectors/crm.yaml:14"


def test_explain_for_people_shows_the_way_back_in_lines_that_fit(home: Path) -> None:
    ended = connect("preview", "crm", "crm.json", "--explain", project=choices(home))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(
        "add\n"
        "POST https://api.example.com/people/shop\n"
        "Authorization: Bearer ***\n"
        "Content-Type: application/json\n"
        "\n"
        'path = "/people/shop"\n'
        '  ← "/people/{{ event.shop }}"  connectors/crm.yaml:21\n'
        '    ← event.shop = "shop"\n'
        "\n"
        'headers.Authorization = "Bearer ***"\n'
        "  ← ${ join(['Bearer ', secrets.token], '') }  connectors/crm.yaml:7\n"
        "  ← the log-in\n"
        "\n"
        'json.stage = "visitor"\n'
        '  ← "visitor"  connectors/crm.yaml:12\n'
        "  ← since $if ${ event.order } does not hold\n"
    )
    assert max(map(len, ended.out.splitlines())) <= 80


@pytest.mark.parametrize("name", sorted(Project(ROOT).connector_files()))
def test_every_field_of_every_request_of_the_examples_is_explained_by_the_value_that_was_sent(name: str) -> None:
    """The walk for the explanation and the walk that sends agree on every connector we have."""
    connector = Project(ROOT).connector(name)
    unlike: list[Any] = []
    explained_ = 0
    for example in connector.examples:
        if example.refused is not None:
            continue
        given, sandbox = example.client, connector.sandbox
        binding = msgspec.convert(
            {
                "settings": sandbox.settings if sandbox else {},
                **{key: given[key] for key in given if key in ("settings", "tables", "actions", "match")},
            },
            types.Binding,
        )
        for event in example.events:
            who = binding.match or said(connector, event)
            client = types.Client(client=who, connectors={name: binding})
            body = msgspec.json.Encoder(decimal_format="number").encode(event)
            shown = preview(connector, client, body, now=1_769_596_245.0, explain=True)
            for request, fields in zip(shown.requests, shown.fields, strict=True):
                if isinstance(request["body"], str | None):
                    continue
                sent = dict(leaves("json", request["body"]))
                told = dict(
                    pair for one in fields if one.target.startswith("json") for pair in leaves(one.target, one.value)
                )
                unlike += [(example.name, sent, told)] if sent != told else []
                unlike += [(example.name, one) for one in fields if one.origin is None]
                explained_ += len(told)
    assert unlike == []
    assert explained_ > 0 or not connector.examples


def said(connector: types.Connector, event: dict[str, Any]) -> str:
    if connector.receive.client is None:
        return "anyone"
    return str(Compiler().value(connector.receive.client, frozenset({"event", "received_at"}), ())({"event": event}))


def leaves(target: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from leaves(f"{target}.{key}", child)
    elif isinstance(value, list) and value:
        for index, child in enumerate(value):
            yield from leaves(f"{target}[{index}]", child)
    else:
        yield target, value


# --- curl ---


@pytest.mark.parametrize("name", ["rdstation", "responsys", "salesforce"])
def test_the_commands_of_curl_do_what_the_engine_would_when_they_are_pasted(home: Path, name: str) -> None:
    port = free_port()
    with Running("sandbox", "--port", str(port), project=home) as sandbox:
        sandbox.line()
        args = ("--client", "client-abc") if name == "responsys" else ()
        ended = connect(
            "preview", name, f"{name}.json", *args, "--curl", "--via", f"http://127.0.0.1:{port}", project=home
        )
        assert (ended.code, ended.err) == (0, "")
        assert [value for value in SECRETS.values() if value in ended.out] == []
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", ended.out],
            capture_output=True,
            text=True,
            timeout=30,
            env=environment(**SECRETS),
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    answers = {"rdstation": "event_uuid", "responsys": '"errorMessage":null', "salesforce": '"success":true'}
    assert answers[name] in done.stdout


def test_a_command_with_what_no_variable_can_stand_for_says_so(home: Path) -> None:
    spec = CHOICES.replace(
        "auth: {type: bearer, token: '${ secrets.token }'}",
        "auth: {place: {headers: {X-Sum: '${ sha256(secrets.token) }', X-Part: '${ base64(secrets.token) }'}}}",
    )
    (choices(home) / "connectors" / "crm.yaml").write_text(spec)
    ended = connect("preview", "crm", "crm.json", "--curl", project=home)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(
        "# add\n# *** is a signature, or a part of a secret; with it the vendor refuses this\ncurl -sS -X POST "
    )
    assert "X-Part: ***" in ended.out


def test_a_curl_command_keeps_every_text_one_word_and_every_secret_a_variable() -> None:
    mean = 'it\'s "$HOME" `id` \\\\ \n& |'
    request = Prepared(
        "POST",
        "https://api.example.com/a[1]?key=top%20secret",
        {
            "Authorization": "Basic dXNlcjp0b3Agc2VjcmV0",
            "X-Mean": "it's $HOME",
            "X-Empty": "",
            "Content-Type": "application/json",
        },
        json.dumps({"text": mean}).encode(),
        30.0,
    )
    text = curl.command(request, {"top secret": "API_KEY"}, mask=Masker(["top secret"]).mask)
    assert "secret" not in text
    assert shlex.split(text.replace("\\\n", "")) == [
        *(
            "curl",
            "-sS",
            "--globoff",
            "-X",
            "POST",
            "https://api.example.com/a[1]?key=$(printf %s $API_KEY | jq -sRr @uri)",
        ),
        *("-u", "user:$API_KEY", "-H", "X-Mean: it's $HOME", "-H", "X-Empty;", "-H", "Content-Type: application/json"),
        *("--data-raw", json.dumps({"text": mean})),
    ]


def test_a_form_is_a_field_for_each_name_and_a_log_in_fills_the_variables() -> None:
    request = Prepared(
        "POST",
        "https://a.example.com/token",
        {"Content-Type": "application/x-www-form-urlencoded"},
        b"user=a+b&pass=s%26cret",
        30.0,
    )
    text = curl.command(request, {"s&cret": "PASS"}, mask=str, via="http://127.0.0.1:8090/")
    assert text == (
        "curl -sS -X POST http://127.0.0.1:8090/token \\\n  -H 'Host: a.example.com' \\\n"
        "  -H 'Content-Type: application/x-www-form-urlencoded' \\\n"
        "  --data-urlencode 'user=a b' \\\n  --data-urlencode pass=\"$PASS\""
    )
    saves = {"TOKEN": "${ response.body.access.token }", "HOST": "${ lower(response.body.host) }"}
    assert curl.kept("curl x", saves) == (
        "# HOST is ${ lower(response.body.host) } of the reply\n"
        'REPLY="$(curl x)"\nTOKEN="$(printf %s "$REPLY" | jq -r .access.token)"'
    )
