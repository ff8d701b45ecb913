from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import EVENTS, connect, make_project

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
