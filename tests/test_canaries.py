"""Secrets that a test planted, and every command driven: none of them is in anything that was written."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

import pytest
from aws_server import aws_server, messages, subscribed
from command import Ended, Running, connect, post, soon
from cryptography.fernet import Fernet

from engine import aws

SPEC = r"""
connect: 1
name: leaky
title: Leaky
hosts: [api.leaky.example]
receive: {client: "${ event.client }", id: "${ event.id }"}
secrets:
  client_id: {title: Client id}
  client_secret: {title: Client secret}
  api_key: {title: Key}
  sign_key: {title: Key that signs}
derive: {shard: "${ regex(secrets.api_key, '-([a-z0-9]+)$', `1`) }"}
auth:
  sign:
    mac: {type: hmac, algorithm: sha256, key: "${ secrets.sign_key }", text: "{{ request.path }}{{ request.body }}"}
  token:
    request:
      method: POST
      url: https://api.leaky.example/token
      form: {client_id: "${ secrets.client_id }", client_secret: "${ secrets.client_secret }"}
      expect: ${ response.body.access_token }
    save: {value: "${ response.body.access_token }", refresh_token: "${ response.body.refresh_token }"}
    expires: {in: "${ response.body.expires_in }"}
    renew:
      request: {method: POST, url: 'https://api.leaky.example/token', form: {refresh_token: "${ token.refresh_token }"}}
  place:
    headers: {Authorization: "Bearer {{ token.value }}", X-Mac: "${ sign.mac }", X-Shard: "${ derived.shard }"}
    query: {key: "${ secrets.api_key }"}
http: {base_url: 'https://api.leaky.example/v1', retry: {attempts: 2, initial: 1s, jitter: none}}
checks: {ping: {request: {method: GET, path: /ping}}}
actions:
  note:
    record: {id: "${ event.id }", text: "${ event.text }"}
    request: {path: "/notes/{{ event.id }}", json: "${ record }"}
    replies:
      message: ${ response.body.message }
      outcomes: [{status: 401, then: reauth}, {status: 400, then: reject}]
sandbox:
  secrets: {api_key: made-up-key-us21}
  routes:
    - method: POST
      path: /token
      reply: {body: {access_token: made-up-token, refresh_token: made-up-refresh, expires_in: 3600}}
    - {method: POST, path: '/v1/notes/{id}', reply: {body: {ok: true}}}
examples:
  - name: a note
    events: [{client: a, id: "1", text: hello}]
    exchange:
      - sends: {method: POST, path: /v1/notes/1, json: {id: "1", text: hello}}
        answers: {body: {ok: true}}
    outcomes: {note: [delivered]}
"""
ASKING = r"""
connect: 1
name: asking
title: Asking
hosts: [api.leaky.example]
receive: {client: "${ event.client }", id: "${ event.id }"}
secrets: {client_id: {title: Id}, client_secret: {title: Secret}, refresh_token: {title: Refresh token}}
auth:
  type: oauth2_refresh_token
  token_url: https://api.leaky.example/token
  authorize_url: https://api.leaky.example/authorize
  client_auth: basic
  client_id: "${ secrets.client_id }"
  client_secret: "${ secrets.client_secret }"
  refresh_token: "${ secrets.refresh_token }"
http: {base_url: 'https://api.leaky.example/v1', retry: {attempts: 2, initial: 1s, jitter: none}}
actions: {note: {record: {id: "${ event.id }"}, request: {path: "/notes/{{ event.id }}", json: "${ record }"}}}
"""
CLIENT = """
client: shop
ingest: {keys: ['env:WRITE_KEY']}
connectors:
  leaky:
    secrets: {client_id: 'env:APP', client_secret: 'env:APP_SECRET', api_key: 'file:secrets/key', sign_key: 'env:SIGN'}
  asking:
    secrets: {client_id: 'env:APP', client_secret: 'env:APP_SECRET'}
"""
PLANTED = {
    "APP_SECRET": "c4n4ry/of+the=app&secret~1",
    "SIGN": "c4n4ry-of-the-signing-key-2",
    "WRITE_KEY": "c4n4ry-of-the-write-key-3",
    "CONNECT_ADMIN_TOKEN": "c4n4ry-of-the-admin-side-4",
}
IN_A_FILE = "c4n4ry of the key-us21x9"
HOOK = "c4n4ry-of-the-webhook-5"
CODE = "c4n4ry-of-the-code-6"
CLOUD = "c4n4ry-of-the-cloud-7"


class Vendor:
    """It gives out tokens, and repeats in its answers, in every way, what it was sent."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()  # that it gave or saw
        self.told: list[str] = []  # to the webhook
        self.hits: list[str] = []
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                return

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                parts = urlsplit(self.path)
                with lock:
                    outer.hits.append(parts.path)
                    for name in ("X-Mac", "Authorization"):
                        if value := self.headers.get(name):
                            outer.secrets |= {value.rpartition(" ")[2]}
                    number = len(outer.hits)
                if HOOK in parts.path:
                    outer.told.append(body)
                    return self.answer(204, b"")
                if parts.path == "/token":
                    if CODE in body and "bad" in body:
                        return self.answer(400, json.dumps({"error": "no", "error_description": body}).encode())
                    made = {"access_token": f"c4n4ry-token-{number}/+", "refresh_token": f"c4n4ry-refresh-{number}=~"}
                    outer.secrets |= set(made.values())
                    return self.answer(200, json.dumps({**made, "expires_in": 3600}).encode())
                seen = [f"{name}: {value}" for name, value in self.headers.items()]
                echo = "\n".join([self.path, *seen, body, *(base64.b64encode(one.encode()).decode() for one in seen)])
                echo += "\n" + quote(echo) + json.dumps(echo)
                kind = parts.path.rpartition("/")[2]
                if kind.startswith("refused"):
                    return self.answer(400, json.dumps({"message": echo, "all": echo}).encode())
                if kind.startswith("html"):
                    return self.answer(400, f"<pre>{echo}</pre>".encode(), "text/html")
                if kind.startswith("down"):
                    return self.answer(500, echo.encode(), "text/plain")
                if kind.startswith("old") and outer.hits.count(parts.path) == 1:
                    return self.answer(401, json.dumps({"message": echo}).encode())
                if kind.startswith("moved"):
                    return self.answer(302, b"", location=f"https://evil.example/?{parts.query}&{seen[-1]}")
                return self.answer(200, b'{"ok": true}')

            do_GET = do_POST

            def answer(self, status: int, body: bytes, kind: str = "application/json", location: str = "") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    made = Vendor()
    yield made
    made.close()


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of a process that is to reach an AWS of the tests' own."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", CLOUD)
    for address in aws_server(monkeypatch):
        names = ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        yield {name: os.environ[name] for name in names} | {"AWS_ENDPOINT_URL": address}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("connectors", "clients", "secrets"):
        (tmp_path / name).mkdir()
    (tmp_path / "connectors" / "leaky.yaml").write_text(SPEC)
    (tmp_path / "connectors" / "asking.yaml").write_text(ASKING)
    (tmp_path / "clients" / "shop.yaml").write_text(CLIENT)
    key = tmp_path / "secrets" / "key"
    key.write_text(IN_A_FILE)
    key.chmod(0o600)
    (tmp_path / "event.json").write_text(json.dumps({"client": "shop", "id": "fine", "text": "hello"}))
    (tmp_path / "refused.json").write_text(json.dumps({"client": "shop", "id": "refused", "text": "hello"}))
    (tmp_path / "down.json").write_text(json.dumps({"client": "shop", "id": "down", "text": "hello"}))
    return tmp_path


def forms(secret: str) -> dict[str, bytes]:
    """How a secret may be written: as it is, in a URL, in JSON, in base64 at each of three places, in hex."""
    raw = secret.encode()
    found = {
        "plain": raw, "url": quote(secret, safe="").encode(), "form": quote_plus(secret).encode(),
        "json": json.dumps(secret)[1:-1].encode(), "hex": raw.hex().encode(), "reversed": raw[::-1],
    }  # fmt: skip
    for place in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(b"\0" * place + raw + b"\0\0\0")
            found[f"{encode.__name__} {place}"] = whole[(0, 2, 3)[place] : (place + len(raw)) * 8 // 6]
    return found


def leaks(written: dict[str, bytes], secrets: set[str]) -> set[tuple[str, str, str]]:
    return {
        (where, secret, form)
        for secret in secrets
        for form, text in forms(secret).items()
        for where, content in written.items()
        if text in content
    }


def test_no_secret_is_in_anything_that_was_written(home: Path, vendor: Vendor, cloud: dict[str, str]) -> None:
    env = {**PLANTED, "APP": "app-1", "CONNECT_KEY": Fernet.generate_key().decode()}
    topic = aws.client("sns").create_topic(Name="alerts")["TopicArn"]
    queue = subscribed(topic)
    served = {
        **env,
        **cloud,
        "CONNECT_METRICS": "both",
        "CONNECT_ALERT_SNS": topic,
        "CONNECT_ALERT_WEBHOOKS": f"{vendor.url}/{HOOK}",
        "CONNECT_ALERT_PRIVATE": "1",
        "CONNECT_ALERT_SECRET": "c4n4ry-of-the-signature",
        "CONNECT_ALERT_SMTP": "smtp://ana:c4n4ry-of-the-mail@127.0.0.1:1",
        "CONNECT_ALERT_FROM": "connect@example.com",
        "CONNECT_ALERT_TO": "ops@example.com",
        "CONNECT_PROXY": "http://user:c4n4ry-of-the-proxy@proxy.example.com:3128",
        "CONNECT_TRACE": "1",
    }
    written: dict[str, bytes] = {}
    codes: dict[str, int] = {}

    def run(*args: str | Path, stdin: str = "", **more: str) -> Ended:
        ended = connect(*args, project=home, stdin=stdin, **{**env, **more})
        name = " ".join(map(str, args))
        assert name not in written, name
        written[name], codes[name] = f"{ended.out}\n{ended.err}".encode(), ended.code
        return ended

    via = ("--via", vendor.url)
    with Running("serve", "--port", "0", *via, "--log-level", "debug", project=home, **served) as serve:
        lines = serve.lines_until("Every request")
        port = lines[0].partition("127.0.0.1:")[2].partition("/")[0]
        written["/proc"] = Path(f"/proc/{serve.process.pid}/cmdline").read_bytes()
        key = {"X-Connect-Key": PLANTED["WRITE_KEY"]}
        for id_ in ("fine", "refused", "html", "old", "down", "moved"):
            answer = post(f"http://127.0.0.1:{port}/leaky", {"client": "shop", "id": id_, "text": "hello"}, **key)
            written[f"answer {id_}"] = json.dumps(answer[1]).encode()
            assert answer[0] == 202
        written["answer without"] = json.dumps(post(f"http://127.0.0.1:{port}/leaky", {"client": "shop"})).encode()
        wrong = post(f"http://127.0.0.1:{port}/leaky", {"client": "shop"}, **{"X-Connect-Key": "wrong"})
        written["answer wrong"] = json.dumps(wrong).encode()
        post(f"http://127.0.0.1:{port}/asking", {"client": "shop", "id": "fine", "text": "hello"}, **key)
        soon(lambda: len(vendor.told) > 2 and len({path for path in vendor.hits if "/notes/" in path}) == 6)
        admin = {"Authorization": f"Bearer {PLANTED['CONNECT_ADMIN_TOKEN']}"}
        for page in ("metrics", "lanes", "", "healthz", "readyz", "openapi.json"):
            written[f"admin {page}"] = fetched(f"http://127.0.0.1:{port}/{page}", admin)
        ended = serve.end()
        written["serve"] = "\n".join([*lines, ended.out, ended.err]).encode()
        codes["serve"] = ended.code
    written["webhook"] = "\n".join(vendor.told).encode()
    published = messages(queue)
    assert {json.loads(one["Body"])["kind"] for one in published} >= {"dead-letter"}
    written["sns"] = json.dumps(published).encode()
    assert b'"Namespace":"DaxGOConnect"' in written["serve"]
    run("status")
    run("status", "--json")
    listed = run("dead", "list", "--json")
    for letter in listed.json["dead"][:3]:
        run("dead", "show", str(letter["id"]))
        run("dead", "show", str(letter["id"]), "--json", "--reveal")
        run("dead", "preview", str(letter["id"]))
    run("dead", "list")
    run("dead", "export", "--out", "letters.ndjson")
    run("check", "leaky", "shop", *via)
    run("check", "leaky", "shop", "--json", *via)
    run("send", "leaky", "event.json", *via)
    run("send", "leaky", "refused.json", *via)
    run("send", "leaky", "refused.json", "--json", *via)
    run("send", "leaky", "down.json", *via, CONNECT_TRACE="1", CONNECT_LOG_LEVEL="debug")
    run("send", "leaky", "event.json")  # no such host: an error of the network
    for flags in ([], ["--auth"], ["--explain"], ["--curl"], ["--auth", "--curl"], ["--json", "--auth"]):
        run("preview", "leaky", "event.json", *flags)
    for form in ("text", "github", "sarif", "json"):
        run("validate", "--format", form, "--resolve-secrets")
    run("docs", "leaky", "asking")
    run("test", "--json", "leaky")
    run("test", "--record", "leaky")
    run("test", "--record", "leaky", *via)
    run("test", "--replay", "leaky")
    changed = SPEC.replace('text: "${ event.text }"', 'text: "${ event.text }", more: "1"')
    (home / "old.yaml").write_text(SPEC)
    (home / "new.yaml").write_text(changed)
    run("plan", "old.yaml", "new.yaml", "--all", "--values")
    run("login", "asking", "shop", "--paste", *via, stdin=f"{CODE}-bad\n")
    run("login", "asking", "shop", "--paste", "--no-browser", *via, stdin=f"{CODE}\n")
    run("deliver", *via, "--log-level", "debug")
    run("pause", "leaky", "shop")
    run("resume", "leaky", "shop")
    run("deliver", *via, "--workers", "1", CONNECT_TRACE="1")
    run("check", "leaky", "nobody", CONNECT_TRACE="1")
    (home / "connectors" / "asking.yaml").write_text(ASKING.replace("secrets.client_id", "secrets.client_idd"))
    run("validate")
    run("send", "asking", "event.json", *via, CONNECT_TRACE="1")
    assert set(codes.values()) <= {0, 1, 2}, codes
    for begins in (
        "login",
        "dead show",
        "dead preview",
        "dead export",
        "test --record",
        "test --replay",
        "plan",
        "check",
    ):
        assert any(code == 0 for name, code in codes.items() if name.startswith(begins)), (begins, codes)
    files = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert {"connect.db", "letters.ndjson"} <= files.keys()
    assert any("cassettes" in name for name in files)
    assert files.pop("secrets/key").decode() == IN_A_FILE
    written |= files
    secrets = {*PLANTED.values(), IN_A_FILE, "us21x9", HOOK, CODE, CLOUD, env["CONNECT_KEY"], "c4n4ry-of-the-proxy"}
    secrets |= {cloud["AWS_SECRET_ACCESS_KEY"], "c4n4ry-of-the-signature", "c4n4ry-of-the-mail"}
    secrets |= {one for one in vendor.secrets if one}
    assert len(vendor.secrets) > 20
    assert leaks(written, secrets) == set()
    assert leaks({"log": b"c4n4ry-of-the-write-key-3"}, secrets) != set()


def fetched(url: str, headers: dict[str, str]) -> bytes:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return bytes(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.read()


def test_tokens_are_encrypted_with_the_key_and_without_one_it_is_said_at_the_start(home: Path, vendor: Vendor) -> None:
    env = {**PLANTED, "APP": "app-1"}
    run_to_the_end(home, vendor, env, says=True)
    assert leaks(store(home), vendor.secrets)
    for file in home.glob("connect.db*"):
        file.unlink()
    run_to_the_end(home, vendor, {**env, "CONNECT_KEY": Fernet.generate_key().decode()}, says=False)
    assert not leaks(store(home), vendor.secrets)


def store(home: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in home.glob("connect.db*")}


def run_to_the_end(home: Path, vendor: Vendor, env: dict[str, str], *, says: bool) -> None:
    with Running("serve", "--port", "0", "--via", vendor.url, project=home, **env) as serve:
        lines = serve.lines_until("Tokens are stored unencrypted" if says else "Every request")
        port = lines[0].partition("127.0.0.1:")[2].partition("/")[0]
        before = len(vendor.hits)
        event = {"client": "shop", "id": "fine", "text": "hello"}
        post(f"http://127.0.0.1:{port}/leaky", event, **{"X-Connect-Key": PLANTED["WRITE_KEY"]})
        soon(lambda: "/v1/notes/fine" in vendor.hits[before:])
        assert serve.end().code == 0


def test_a_secret_in_a_file_is_exchanged_without_a_restart(home: Path, vendor: Vendor) -> None:
    """The old one and the new one are both masked; the log-in is made anew with the new one."""
    env = {**PLANTED, "APP": "app-1"}
    new = "c4n4ry of the next-eu77y2"
    with Running("serve", "--port", "0", "--via", vendor.url, project=home, **env) as serve:
        port = serve.lines_until("Every request")[0].partition("127.0.0.1:")[2].partition("/")[0]
        key = {"X-Connect-Key": PLANTED["WRITE_KEY"]}
        post(f"http://127.0.0.1:{port}/leaky", {"client": "shop", "id": "fine", "text": "x"}, **key)
        soon(lambda: connect("status", "--json", project=home).json["lanes"][0]["delivered"] == 1)  # its turn is over
        logins = vendor.hits.count("/token")
        (home / "secrets" / "key").write_text(new)
        post(f"http://127.0.0.1:{port}/leaky", {"client": "shop", "id": "refused", "text": "x"}, **key)
        soon(lambda: "/v1/notes/refused" in vendor.hits)
        soon(lambda: connect("status", "--json", project=home).json["lanes"][0]["rejected"] == 1)
        ended = serve.end()
    assert vendor.hits.count("/token") == logins + 1
    shown = connect("dead", "list", "--json", project=home).out
    assert leaks({"log": ended.err.encode(), "dead": shown.encode()}, {IN_A_FILE, new, "eu77y2", "us21x9"}) == set()
    assert "refused" in shown
