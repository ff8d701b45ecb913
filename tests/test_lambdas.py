"""AWS Lambda: gateways' events in, the store between, deliveries out by real HTTP to sandboxes and a CRM of our own."""

from __future__ import annotations

import base64
import http.client
import json
import re
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dynamodb_server
import postgres_server
import pytest
from command import EVENTS, KEYS, ROOT, SECRETS, Running, environment, make_project

from engine import lambdas
from engine.door.gateway import FRAMING
from engine.errors import UsageError
from engine.lambdas import Functions, LanesFailed
from engine.spec.compiled import write_compiled
from engine.spec.project import Project
from engine.tagging.script import script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CRM = """
connect: 1
name: crm
title: CRM
hosts: [api.crm.example]
receive: {client: "${ event.client }", id: "${ event.id }", dedupe: 1d}
http:
  base_url: https://api.crm.example
  timeout: 2s
  retry: {attempts: 5, initial: 1s, jitter: none}
secrets: {token: {title: Token}}
auth: {place: {headers: {Authorization: "Bearer {{ secrets.token }}"}}}
actions:
  note: {record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}
"""


class Context:
    """What Lambda hands to a function besides the event."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.ends_at = time.time() + seconds
        self.aws_request_id = "8a2f"

    def get_remaining_time_in_millis(self) -> int:
        return round((self.ends_at - time.time()) * 1000)


def gateway(path: str, body: Any = None, *, method: str = "POST", query: str = "", **headers: str) -> dict[str, Any]:
    """An event of an HTTP API, as AWS documents it; `body` is JSON, or text, or bytes, which come in base64."""
    coded = isinstance(body, bytes)
    raw = (
        body if isinstance(body, bytes) else (body or "" if isinstance(body, str | None) else json.dumps(body)).encode()
    )
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {
        "version": "2.0",
        "routeKey": "POST /{connector}",
        "rawPath": f"/v1{path}",
        "rawQueryString": query,
        "headers": {
            "accept": "*/*",
            "content-length": str(len(raw)),
            "host": "a1b2c3.execute-api.sa-east-1.amazonaws.com",
            "x-forwarded-for": "203.0.113.7",
            **given,
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "a1b2c3",
            "domainName": "a1b2c3.execute-api.sa-east-1.amazonaws.com",
            "http": {"method": method, "path": f"/v1{path}", "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7"},
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "POST /{connector}",
            "stage": "v1",
            "timeEpoch": round(time.time() * 1000),
        },
        **({"body": base64.b64encode(raw).decode() if coded else raw.decode()} if body is not None else {}),
        "isBase64Encoded": coded,
    }


def function_url(path: str, body: Any, **headers: str) -> dict[str, Any]:
    """As of an HTTP API, but for the stage and the host."""
    event = gateway(path, body, **headers)
    event["rawPath"] = event["requestContext"]["http"]["path"] = path
    event["requestContext"] |= {"stage": "$default", "domainName": "a1b2c3.lambda-url.sa-east-1.on.aws"}
    return event


def rest(path: str, body: Any, **headers: str) -> dict[str, Any]:
    """An event of a REST API: payload format 1.0."""
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {
        "resource": "/{connector}",
        "path": path,
        "httpMethod": "POST",
        "headers": given,
        "multiValueHeaders": {name: [value] for name, value in given.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "requestContext": {
            "stage": "v1",
            "path": f"/v1{path}",
            "identity": {"sourceIp": "203.0.113.7"},
            "requestTimeEpoch": round(time.time() * 1000),
        },
        "body": json.dumps(body),
        "isBase64Encoded": False,
    }


class Vendor:
    """A CRM on loopback: `answer` says (status, seconds) to a request; `ids` are the notes it took."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.told: list[str] = []
        self.answer: Callable[[str], tuple[int, float]] = lambda _: (200, 0.0)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                return

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                status, seconds = outer.answer(self.headers.get("Authorization", ""))
                time.sleep(seconds)
                if self.path == "/told":
                    outer.told.append(body["text"])
                elif status < 300:
                    outer.ids.append(body["id"])
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def crm() -> Iterator[Vendor]:
    vendor = Vendor()
    yield vendor
    vendor.close()


class Deployed:
    """A project with a store, as the functions find it; each of `made` is an environment that Lambda keeps."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home, self.patch = home, patch
        self.open: list[Functions] = []

    def new(self, *, takes_in: bool) -> Functions:
        made = Functions(takes_in=takes_in)
        self.open.append(made)
        return made

    def close(self) -> None:
        for made in reversed(self.open):
            made.close()


def store_url(kind: str, folder: Path) -> str:
    """A new store of one of KINDS, by its address."""
    if kind == "postgres":
        if (reason := postgres_server.why_none()) is not None:
            pytest.skip(reason)
        return postgres_server.shared().url(f"lambdas_{uuid.uuid4().hex[:8]}")
    return dynamodb_server.url(dynamodb_server.shared()) if kind == "dynamodb" else f"sqlite:///{folder}/events.db"


# Stores that several functions can share; one alone shows what is the same in all.
everywhere = pytest.mark.parametrize("deployed", ["sqlite", "postgres", "dynamodb"], indirect=True)
on_aws = pytest.mark.parametrize("deployed", ["sqlite", "dynamodb"], indirect=True)


@pytest.fixture
def deployed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    monkeypatch.setenv("CONNECT_PROJECT", str(tmp_path))
    monkeypatch.setenv("CONNECT_STORE", store_url(getattr(request, "param", "sqlite"), tmp_path))
    monkeypatch.setenv("CONNECT_METRICS", "emf")
    made = Deployed(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def shops(deployed: Deployed, crm: Vendor) -> Deployed:
    """Two clients of one connector, at the CRM of our own."""
    for folder, name, text in [
        ("connectors", "crm", CRM),
        ("clients", "abc", "client: abc\nconnectors: {crm: {secrets: {token: 'env:ABC_TOKEN'}}}\n"),
        ("clients", "xyz", "client: xyz\nconnectors: {crm: {secrets: {token: 'env:XYZ_TOKEN'}}}\n"),
    ]:
        (deployed.home / folder).mkdir(exist_ok=True)
        (deployed.home / folder / f"{name}.yaml").write_text(text)
    for name, value in [("CONNECT_VIA", crm.url), ("ABC_TOKEN", "token-of-abc"), ("XYZ_TOKEN", "token-of-xyz")]:
        deployed.patch.setenv(name, value)
    return deployed


@pytest.fixture(scope="module")
def vendors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The sandboxes of the bundled connectors, as a process."""
    home = make_project(tmp_path_factory.mktemp("vendors"))
    with Running("sandbox", "--port", "0", project=home) as sandbox:
        yield "http://" + sandbox.lines_until("export XYZ_WRITE_KEY")[0].partition("http://")[2].partition(" ")[0]


@pytest.fixture
def three(deployed: Deployed, vendors: str) -> Deployed:
    """The connectors of the seed, at their sandboxes."""
    make_project(deployed.home)
    for name, value in {**SECRETS, "CONNECT_VIA": vendors}.items():
        deployed.patch.setenv(name, value)
    return deployed


def put(functions: Functions, *ids: str, client: str = "abc") -> None:
    for each in ids:
        answer = functions.receive(gateway("/crm", {"client": client, "id": each}), Context())
        assert answer["statusCode"] == 202, answer


def took(**counts: Any) -> dict[str, Any]:
    """A summary of `process`; what is not said is 0."""
    names = ("lanes", "delivered", "rejected", "skipped", "retried", "waiting")
    return {**dict.fromkeys(names, 0), "failed": [], **counts}


# --- in, stored, out ---


@pytest.mark.parametrize(
    ("event", "deployed"),
    [(gateway, "sqlite"), (gateway, "postgres"), (gateway, "dynamodb"), (function_url, "sqlite"), (rest, "sqlite")],
    indirect=["deployed"],
)
def test_an_event_of_each_connector_goes_in_waits_and_is_delivered(three: Deployed, event: Callable[..., Any]) -> None:
    door, lanes = three.new(takes_in=True), three.new(takes_in=False)
    told = {}
    for name, body in EVENTS.items():
        answer = door.receive(event(f"/{name}", body, X_Connect_Key=KEYS[name]), Context())
        said = json.loads(answer["body"])
        told[name] = (answer["statusCode"], said.get("outcome") or said.get("accepted"))
    assert told == {"responsys": (202, 1), "salesforce": (202, 1), "rdstation": (200, "delivered")}
    assert lanes.process({}, Context()) == took(lanes=2, delivered=2)
    assert lanes.process({"time": "2026-11-28T12:00:00Z"}, Context()) == took()


def test_metrics_are_written_before_the_answer(three: Deployed, capsys: pytest.CaptureFixture[str]) -> None:
    three.new(takes_in=True).receive(
        gateway("/responsys", EVENTS["responsys"], X_Connect_Key=KEYS["responsys"]), Context()
    )
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (line["Connector"], line["EventsAccepted"]) == ("responsys", 1)


ORIGIN = "https://www.loja-abc.example"
SENT = {**EVENTS["responsys"], "eventId": "e-1"}
KEY = {"X_Connect_Key": KEYS["responsys"]}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "an event": ("/responsys", {"body": SENT, **KEY}),
    "the same again": ("/responsys", {"body": SENT, **KEY}),
    "a list with a fault": ("/responsys", {"body": [{**SENT, "eventId": "e-2"}, {"x": 1}], **KEY}),
    "from a page": ("/responsys", {"body": SENT, **KEY, "Origin": ORIGIN}),
    "from another page": ("/responsys", {"body": SENT, **KEY, "Origin": "https://evil.example"}),
    "a preflight": ("/responsys", {"method": "OPTIONS", "Origin": ORIGIN}),
    "a beacon": (
        "/responsys",
        {"body": json.dumps(SENT), "content_type": "text/plain;charset=UTF-8", "query": f"key={KEYS['responsys']}"},
    ),
    "in base64": ("/responsys", {"body": json.dumps({**SENT, "name": "João"}, ensure_ascii=False).encode(), **KEY}),
    "by bearer": ("/responsys", {"body": SENT, "Authorization": f"Bearer {KEYS['responsys']}"}),
    "without a key": ("/responsys", {"body": SENT}),
    "with a wrong key": ("/responsys", {"body": SENT, "X_Connect_Key": "a guess"}),
    "what is no JSON": ("/responsys", {"body": "{", **KEY}),
    "what is no UTF-8": ("/responsys", {"body": b'{"name": "\xff"}', **KEY}),
    "nothing": ("/responsys", {"body": "", **KEY}),
    "what is too large": ("/responsys", {"body": b" " * 1_000_001, **KEY}),
    "XML": ("/responsys", {"body": "<a/>", "content_type": "application/xml", **KEY}),
    "compressed": ("/responsys", {"body": b"\x1f\x8b", "content_encoding": "gzip", **KEY}),
    "another method": ("/responsys", {"method": "GET"}),
    "elsewhere": ("/nowhere", {"body": SENT, **KEY}),
    "elsewhere, with an umlaut": ("/l%C3%A9/x", {"body": SENT, **KEY}),
    "health": ("/healthz", {"method": "GET"}),
    "readiness": ("/readyz", {"method": "GET"}),
    "the description": ("/openapi.json", {"method": "GET"}),
    "the tag": ("/tag.js", {"method": "GET"}),
    "the tag's head": ("/tag.js", {"method": "HEAD"}),
    "a post to the tag": ("/tag.js", {"body": SENT}),
    "a direct connector": ("/rdstation", {"body": EVENTS["rdstation"], "X_Connect_Key": KEYS["rdstation"]}),
}
UNLIKE = re.compile(r'"(ids?)":("[0-9a-f-]{36}"|\["[0-9a-f-]{36}"\])')  # made anew for each


@pytest.mark.parametrize("event", [gateway, function_url, rest])
def test_the_tag_comes_through_each_gateway_as_a_script_for_all_pages(three: Deployed, event: Any) -> None:
    asked = event("/tag.js", None)
    if "http" in asked["requestContext"]:
        asked["requestContext"]["http"]["method"] = "GET"
    else:
        asked["httpMethod"] = "GET"
    answer = three.new(takes_in=True).receive({**asked, "body": None}, Context())
    assert answer == {
        "statusCode": 200,
        "headers": {
            "cache-control": "public, max-age=3600",
            "access-control-allow-origin": "*",
            "cross-origin-resource-policy": "cross-origin",
            "x-content-type-options": "nosniff",
            "content-type": "text/javascript; charset=utf-8",
        },
        "body": script(),
        "isBase64Encoded": False,
    }


def test_the_answers_are_those_of_serve(three: Deployed, vendors: str) -> None:
    door = three.new(takes_in=True)
    (three.home / "served").mkdir()
    home = make_project(three.home / "served")
    serving = Running("serve", "--port", "0", "--no-deliver", "--via", vendors, project=home, **SECRETS)
    with serving as serve:
        port = int(serve.lines_until("Nothing is")[0].partition("127.0.0.1:")[2].partition("/")[0])
        for name, (path, sent) in REQUESTS.items():
            event = gateway(path, **sent)
            body = event.get("body", "")
            raw = base64.b64decode(body) if event["isBase64Encoded"] else body.encode()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            headers = {key: value for key, value in event["headers"].items() if key != "host"}
            url = path + (f"?{event['rawQueryString']}" if event["rawQueryString"] else "")
            connection.request(event["requestContext"]["http"]["method"], url, raw, headers)
            served = connection.getresponse()
            said = UNLIKE.sub(r'"\1":""', served.read().decode())
            connection.close()
            kept = {key: value for key, value in served.getheaders() if key not in ("date", *FRAMING)}
            answer = door.receive(event, Context())
            answer["body"] = UNLIKE.sub(r'"\1":""', answer["body"])
            assert (name, answer) == (
                name,
                {"statusCode": served.status, "headers": kept, "body": said, "isBase64Encoded": False},
            )


@pytest.mark.parametrize(
    ("base_path", "stage", "path"),
    [
        ("", "$default", "/crm"),
        ("", "v1", "/v1/crm"),
        ("", "v1", "/crm"),  # under a domain of one's own the stage does not show
        ("", "crm", "/crm"),
        ("/events", "$default", "/events/crm"),
        ("events/in/", "v1", "/v1/events/in/crm"),
        ("", "v1", "/v1/crm/abc"),  # the function of one client has an address of its own
    ],
)
def test_what_stands_before_the_connector_is_taken_off(shops: Deployed, base_path: str, stage: str, path: str) -> None:
    shops.patch.setenv("CONNECT_BASE_PATH", base_path)
    event = gateway("/crm", {"client": "abc", "id": "1"})
    event["rawPath"] = event["requestContext"]["http"]["path"] = path
    event["requestContext"]["stage"] = stage
    assert shops.new(takes_in=True).receive(event, Context())["statusCode"] == 202


def test_a_rate_counts_by_the_address_that_the_gateway_saw(shops: Deployed) -> None:
    shops.patch.setenv("CONNECT_ADDRESS_RATE", "2/1h")
    door = shops.new(takes_in=True)
    put(door, "1", "2")
    other = gateway("/crm", {"client": "abc", "id": "3"})
    other["requestContext"]["http"]["sourceIp"] = "198.51.100.1"
    third = gateway("/crm", {"client": "abc", "id": "4"}, x_forwarded_for="198.51.100.9")
    assert [door.receive(event, Context())["statusCode"] for event in (other, third)] == [202, 429]


def test_a_function_takes_in_only_for_those_it_is_there_for(shops: Deployed) -> None:
    for name in ("abc", "xyz"):
        file = shops.home / "clients" / f"{name}.yaml"
        file.write_text(f"{file.read_text()}ingest: {{keys: ['env:{name.upper()}_KEY']}}\n")
    shops.patch.setenv("CONNECT_CLIENTS", "abc")
    shops.patch.setenv("ABC_KEY", "key-of-abc")
    door = shops.new(takes_in=True)  # whoever runs it need not give it the key of xyz
    statuses = [
        door.receive(gateway("/crm", {"client": name, "id": "1"}, X_Connect_Key="key-of-abc"), Context())["statusCode"]
        for name in ("abc", "xyz")
    ]
    assert (statuses[0], statuses[1] >= 400, door.engine.told) == (202, True, set())


# --- events of another shape ---


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"requestContext": "x"}, "requestContext is no object"),
        ({"headers": ["x"]}, "headers is no object"),
        ({"headers": {"x": 1}}, "the header x is no text"),
        ({"rawPath": None}, "there is no rawPath"),
        ({"body": {"client": "abc"}}, "the body is no text"),
        ({"body": "{}", "isBase64Encoded": True}, "the body is not in base64, though the event says so"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(shops: Deployed, broken: dict[str, Any], says: str) -> None:
    answer = shops.new(takes_in=True).receive({**gateway("/crm", {}), **broken}, Context())
    assert (answer["statusCode"], answer["headers"]) == (400, {"content-type": "application/problem+json"})
    assert json.loads(answer["body"])["detail"] == says


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({}, "what came is empty"),
        ("x", "what came is no object but of the type str"),
        (None, "what came is no object but of the type NoneType"),
        ({"Records": [{"eventSource": "aws:s3", "s3": {}}]}, "what came has the keys Records, as of aws:s3"),
        ({"source": "aws.events", "detail": {}}, "what came has the keys detail, source, as of aws.events"),
    ],
)
def test_an_event_of_another_kind_is_an_error_that_names_what_was_expected(
    shops: Deployed, event: Any, says: str
) -> None:
    with pytest.raises(UsageError) as raised:
        shops.new(takes_in=True).receive(event, Context())
    expected = "receive takes events of API Gateway (an HTTP API or a REST API) and of Function URLs; "
    assert str(raised.value) == expected + says


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ("x", 'process takes an object, such as {} or {"clients": ["NAME"]}, and no str'),
        ({"clients": ["abc", "nobody"]}, "clients: there is no nobody; there are abc, xyz"),
        ({"connectors": "crn"}, "connectors: there is no crn; there are crm"),
        ({"clients": {"abc": 1}}, "clients: a list of names, such as ['abc']"),
        ({"clients": []}, "clients: a list of names, such as ['abc']"),
    ],
)
def test_process_says_which_names_there_are(shops: Deployed, event: Any, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        shops.new(takes_in=False).process(event, Context())
    assert str(raised.value) == says


# --- within the time there is ---


@on_aws
def test_at_the_end_of_its_time_it_hands_over_and_the_next_run_goes_on(shops: Deployed, crm: Vendor) -> None:
    shops.patch.setenv("CONNECT_MARGIN", "1s")  # an answer may take 2 s, and 5 s are left to write it down
    door, lanes = shops.new(takes_in=True), shops.new(takes_in=False)
    ids = [str(number) for number in range(12)]
    put(door, *ids)
    left_s: list[float] = []  # when each of them was asked

    def answer(_: object) -> tuple[int, float]:
        left_s.append(context.get_remaining_time_in_millis() / 1000)
        return 200, 0.6

    crm.answer = answer
    context = Context(12)
    first = lanes.process({}, context)
    assert 1 <= first["delivered"] <= 9
    assert first == took(lanes=1, delivered=first["delivered"], waiting=12 - first["delivered"])
    assert min(left_s) > 2 + 5
    assert context.get_remaining_time_in_millis() > 0
    assert lanes.store.held(now=time.time()) == {}
    another = shops.new(takes_in=False)  # another environment finds the lane free and due
    crm.answer = lambda _: (200, 0.0)
    assert another.process({}, Context()) == took(lanes=1, delivered=12 - first["delivered"])
    assert Counter(crm.ids) == Counter(ids)


def test_a_function_without_time_for_a_batch_says_so(shops: Deployed) -> None:
    lanes = shops.new(takes_in=False)
    with pytest.raises(UsageError, match=r"has 3 s, .* in its last 15 s \(CONNECT_MARGIN\); give it a longer Timeout"):
        lanes.process({}, Context(3))
    shops.patch.setenv("CONNECT_MARGIN", "2s")
    put(shops.new(takes_in=True), "1")
    with pytest.raises(LanesFailed, match=r"crm/abc: it needs 7 s at least, and this function has 6 s; give it"):
        shops.new(takes_in=False).process({}, Context(6))


def test_it_waits_for_what_is_tried_again_soon(shops: Deployed, crm: Vendor) -> None:
    answers = [(503, 0.0), (200, 0.0)]
    crm.answer = lambda _: answers.pop(0)
    put(shops.new(takes_in=True), "1")
    assert shops.new(takes_in=False).process({}, Context()) == took(lanes=1, delivered=1, retried=1)


@everywhere
def test_runs_at_the_same_time_share_the_lanes(shops: Deployed, crm: Vendor) -> None:
    crm.answer = lambda _: (200, 0.01)
    door = shops.new(takes_in=True)
    for client in ("abc", "xyz"):
        put(door, *(f"{client}-{number}" for number in range(8)), client=client)
    runs = [shops.new(takes_in=False) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lambda each: each.process({}, Context()), runs))
    while left := sum(lane.waiting for lane in door.store.lanes()):  # a run that met another ended at once
        assert left > 0
        told.append(runs[0].process({}, Context()))
    assert sum(each["delivered"] for each in told) == 16
    assert set(Counter(crm.ids).values()) == {1}


def test_it_may_be_narrowed_to_some_clients(shops: Deployed, crm: Vendor) -> None:
    door = shops.new(takes_in=True)
    put(door, "1")
    put(door, "2", client="xyz")
    lanes = shops.new(takes_in=False)
    assert lanes.process({"connectors": ["crm"], "clients": ["xyz"]}, Context()) == took(lanes=1, delivered=1)
    assert lanes.process({"clients": "xyz"}, Context()) == took()
    assert crm.ids == ["2"]
    assert lanes.process(None, Context()) == took(lanes=1, delivered=1)


# --- what fails ---


@on_aws
def test_a_lane_that_needs_a_person_is_named_at_the_end_and_the_others_are_served(
    shops: Deployed, crm: Vendor, capsys: pytest.CaptureFixture[str]
) -> None:
    crm.answer = lambda token: (401 if token.endswith("abc") else 200, 0.0)
    door = shops.new(takes_in=True)
    put(door, "1", "2")
    put(door, "3", client="xyz")
    lanes = shops.new(takes_in=False)
    for _ in range(2):  # and at every run, for as long as it stands still
        with pytest.raises(LanesFailed) as raised:
            lanes.process({}, Context())
        assert re.fullmatch(
            r"1 lane needs a person: crm/abc: paused: HTTP 401.*; see `connect status`", str(raised.value)
        )
    assert crm.ids == ["3"]
    (first, second) = [
        line for line in map(json.loads, capsys.readouterr().err.splitlines()) if line["event"] == "processed"
    ]
    assert (first["delivered"], first["waiting"], second["delivered"]) == (1, 2, 0)
    assert [each["lane"] for each in first["failed"]] == ["crm/abc"]
    assert first["request_id"] == "8a2f"
    crm.answer = lambda _: (200, 0.0)
    shops.patch.setenv("ABC_TOKEN", "another-token")  # a new secret is a reason to go on
    assert shops.new(takes_in=False).process({}, Context()) == took(lanes=1, delivered=2)


def test_a_lane_paused_by_hand_is_nobodys_error(shops: Deployed) -> None:
    from engine.records import LaneChange

    put(shops.new(takes_in=True), "1")
    lanes = shops.new(takes_in=False)
    lanes.store.change_lane("crm", "abc", LaneChange(pause=True, reason="paused by hand: a sale"), now=time.time())
    assert lanes.process({}, Context()) == took(waiting=1)


def test_a_crm_that_is_away_is_named_and_calls_nobody(shops: Deployed, crm: Vendor) -> None:
    shops.patch.setenv("CONNECT_PATIENCE", "0s")
    crm.answer = lambda _: (503, 0.0)
    put(shops.new(takes_in=True), "1")
    told = shops.new(takes_in=False).process({}, Context())
    assert told == took(lanes=1, retried=1, waiting=1, failed=told["failed"])
    (failed,) = told["failed"]
    assert (failed["lane"], failed["why"].startswith("HTTP 503"), failed["person"]) == ("crm/abc", True, False)


def test_alerts_are_out_before_it_returns(shops: Deployed, crm: Vendor) -> None:
    shops.patch.setenv("CONNECT_ALERT_WEBHOOKS", f"{crm.url}/told")
    shops.patch.setenv("CONNECT_ALERT_PRIVATE", "1")
    put(shops.new(takes_in=True), "1")
    crm.answer = lambda token: (400 if token else 200, 0.2)
    assert shops.new(takes_in=False).process({}, Context()) == took(lanes=1, rejected=1)
    assert [text.partition("\n")[0] for text in crm.told] == ["crm/abc: 1 rejected: HTTP 400"]


# --- direct ---


def test_a_direct_caller_is_told_in_time_and_the_lane_goes_on(three: Deployed) -> None:
    door = three.new(takes_in=True)
    event = gateway("/rdstation", {**EVENTS["rdstation"], "eventId": "e-1"}, X_Connect_Key=KEYS["rdstation"])
    began = time.monotonic()
    answer = door.receive(event, Context(4))  # RD Station may take 10 s, and then nobody would be told
    assert (answer["statusCode"], json.loads(answer["body"])["outcome"]) == (202, "waiting")
    assert time.monotonic() - began < 4
    time.sleep(max(0.0, began + 4 - time.monotonic()))
    told = three.new(takes_in=False).process({"connectors": ["rdstation"]}, Context())
    assert told == took(lanes=1, delivered=1)


def test_an_http_api_waits_for_29_seconds_from_when_the_request_came(three: Deployed) -> None:
    door = three.new(takes_in=True)
    event = gateway("/rdstation", EVENTS["rdstation"], X_Connect_Key=KEYS["rdstation"])
    door.receive(event, Context(300))
    worker = door.engine.worker
    came = event["requestContext"]["timeEpoch"] / 1000
    assert worker.ends_at == pytest.approx(came + 29, abs=0.5)
    event["requestContext"]["timeEpoch"] -= 20_000  # as when an environment took that long to start
    assert json.loads(door.receive(event, Context(300))["body"])["outcome"] == "waiting"
    another = {**EVENTS["rdstation"], "email": "ana@example.com"}
    answer = door.receive(function_url("/rdstation", another, X_Connect_Key=KEYS["rdstation"]), Context(300))
    assert json.loads(answer["body"])["outcome"] == "delivered"


# --- tokens ---


@on_aws
def test_tokens_are_renewed_ahead(three: Deployed) -> None:
    lanes = three.new(takes_in=False)
    both = ["responsys/client-abc", "salesforce/client-def"]
    assert lanes.refresh_tokens({"within": "1h"}, Context()) == {"renewed": both, "lasting": 0, "failed": []}
    assert lanes.refresh_tokens({}, Context()) == {"renewed": [], "lasting": 2, "failed": []}
    again = three.new(takes_in=False).refresh_tokens({"clients": ["client-abc"]}, Context())
    assert again == {"renewed": [], "lasting": 1, "failed": []}


def test_a_renewal_that_fails_is_named_at_the_end_without_its_secret(
    three: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    three.patch.setenv("ABC_RESPONSYS_PASSWORD", "wr0ng-passw0rd")
    with pytest.raises(LanesFailed) as raised:
        three.new(takes_in=False).refresh_tokens({}, Context())
    assert str(raised.value).startswith("1 lane needs a person: responsys/client-abc: the log-in was refused")
    said = capsys.readouterr()
    (line,) = [json.loads(line) for line in said.err.splitlines() if '"refreshed"' in line]
    assert (line["renewed"], line["lasting"]) == (["salesforce/client-def"], 0)
    assert "wr0ng-passw0rd" not in said.out + said.err + str(raised.value)


def test_refresh_tokens_says_what_a_duration_is(three: Deployed) -> None:
    with pytest.raises(UsageError, match=r"^within: "):
        three.new(takes_in=False).refresh_tokens({"within": "soon"}, Context())


# --- an environment of Lambda ---


def test_one_engine_serves_all_calls_of_an_environment(shops: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambdas, "_kept", {})
    try:
        for each in ("1", "2"):
            assert lambdas.receive(gateway("/crm", {"client": "abc", "id": each}), Context())["statusCode"] == 202
        assert lambdas.process({}, Context()) == took(lanes=1, delivered=2)
        assert lambdas.refresh_tokens({}, Context()) == {"renewed": [], "lasting": 0, "failed": []}
        assert sorted(lambdas._kept) == [False, True]
    finally:
        shops.open += lambdas._kept.values()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CONNECT_PROJECT", "/nowhere", "no client in /nowhere/clients; CONNECT_PROJECT names the project's folder"),
        ("CONNECT_MARGIN", "15", "CONNECT_MARGIN: "),
        ("CONNECT_WORKERS", "many", "CONNECT_WORKERS: a number from 1 to 256, not many"),
        ("CONNECT_WORKERS", "0", "CONNECT_WORKERS: a number from 1 to 256, not 0"),
        ("CONNECT_ALLOW_PRIVATE", "maybe", "CONNECT_ALLOW_PRIVATE: true or false, not maybe"),
        ("AWS_LAMBDA_FUNCTION_NAME", "f", "sqlite: would be a store of its own for every environment of this function"),
    ],
)
def test_what_is_set_up_wrongly_is_said_in_a_line(shops: Deployed, name: str, value: str, says: str) -> None:
    shops.patch.setenv(name, value)
    with pytest.raises(UsageError, match=re.escape(says)):
        shops.new(takes_in=True)


HEAVY = (
    *("uvicorn", "uvloop", "starlette", "rich", "click", "jsonschema", "yaml", "httpx", "structlog"),
    *("prometheus_client", "cryptography", "boto3", "engine.cli", "engine.serve", "engine.authoring"),
)


def started(shops: Deployed, code: str, *args: str, **env: str) -> str:
    """What an environment of its own says on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        env=environment(
            PYTHONPATH=str(ROOT),
            CONNECT_PROJECT=str(shops.home),
            CONNECT_STORE=f"sqlite:///{shops.home}/events.db",
            PYTHONWARNINGS="ignore",
            **env,
        ),
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stderr


def test_a_start_loads_only_what_it_needs(shops: Deployed) -> None:
    write_compiled(Project(shops.home))
    code = (
        "import json, sys\nfrom engine import lambdas\n"
        "class Context:\n    aws_request_id = '1'\n    def get_remaining_time_in_millis(self): return 60_000\n"
        "lambdas.receive(json.loads(sys.argv[1]), Context())\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    assert started(shops, code, json.dumps(gateway("/crm", {"client": "abc", "id": "1"}))) == "[]\n"


@pytest.mark.parametrize(("handler", "kept"), [("receive", [True]), ("process", [False]), ("refresh_tokens", [False])])
def test_all_is_made_while_lambda_loads_the_module(shops: Deployed, handler: str, kept: list[bool]) -> None:
    code = "import sys; from engine import lambdas; print(list(lambdas._kept), file=sys.stderr)"
    assert started(shops, code, _HANDLER=f"engine.lambdas.{handler}") == f"{kept}\n"
