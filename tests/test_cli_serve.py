from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command import EVENTS, KEYS, ROOT, SECRETS, Running, connect, free_port, make_project, post, soon


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


BUNDLED = ", ".join(sorted(file.stem for file in (ROOT / "connectors").glob("*.yaml")))


@pytest.fixture(scope="module")
def vendors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A `connect sandbox` process; its address."""
    home = make_project(tmp_path_factory.mktemp("sandbox"))
    with Running("sandbox", "--port", "0", project=home) as sandbox:
        lines = sandbox.lines_until("export XYZ_WRITE_KEY")
        address = lines[1].removeprefix("export CONNECT_VIA=")
        assert lines == [
            f"# sandbox of {BUNDLED} at {address}",
            f"export CONNECT_VIA={address}",
            "export ABC_RESPONSYS_USERNAME=sandbox-api-user",
            "export ABC_RESPONSYS_PASSWORD=sandbox-api-password",
            "export ABC_WRITE_KEY=sandbox-key-client-abc",
            "export DEF_SALESFORCE_CLIENT_ID=sandbox-consumer-key",
            "export DEF_SALESFORCE_CLIENT_SECRET=sandbox-consumer-secret",
            "export DEF_WRITE_KEY=sandbox-key-client-def",
            "export XYZ_RDSTATION_TOKEN=sandbox-rd-public-token",
            "export XYZ_WRITE_KEY=sandbox-key-client-xyz",
        ]
        yield address
        assert sandbox.end() == (0, "", "")


def lane(connector: str, client: str, **changed: Any) -> dict[str, Any]:
    counts = {"state": "idle", "waiting": 0, "delivered": 0, "rejected": 0, "skipped": 0}
    return {"connector": connector, "client": client, **counts, "oldest_s": None, "reason": None, **changed}


def lanes(home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connect("status", "--json", project=home).json["lanes"]
    return found


def test_serve_takes_in_delivers_and_ends_in_order_with_nothing_lost(home: Path, vendors: str) -> None:
    with Running("serve", "--port", "0", "--via", vendors, project=home, **SECRETS) as serve:
        said = serve.lines_until("Tokens are")
        port = said[0].partition("127.0.0.1:")[2].partition("/")[0]
        admin = said[3].partition("127.0.0.1:")[2].partition("/")[0]
        assert admin != port
        assert said == [
            f"Events: http://127.0.0.1:{port}/{{rdstation,responsys,salesforce}}",
            "Clients: client-abc, client-def, client-xyz",
            "Store: sqlite:///connect.db",
            f"Admin: http://127.0.0.1:{admin}/",
            f"Every request goes to {vendors} and not to the vendors.",
            "Tokens are stored unencrypted; set CONNECT_KEY to what `connect key` prints.",
        ]
        answers = {}
        for name, event in EVENTS.items():
            status, answer = post(f"http://127.0.0.1:{port}/{name}", event, **{"X-Connect-Key": KEYS[name]})
            answers[name] = (status, answer.get("outcome") or answer.get("accepted"))
        assert answers == {"responsys": (202, 1), "salesforce": (202, 1), "rdstation": (200, "delivered")}
        soon(lambda: all(one["waiting"] == 0 for one in lanes(home)))
        post(f"http://127.0.0.1:{port}/responsys", EVENTS["responsys"], **{"X-Connect-Key": KEYS["responsys"]})
        ended = serve.end()
    assert ended.code == 0
    assert [json.loads(line)["event"] for line in ended.err.splitlines()] == ["token-renewed"] * 2
    left = {one["connector"]: one for one in lanes(home)}
    assert left["rdstation"] == lane("rdstation", "client-xyz", delivered=1)
    assert left["salesforce"] == lane("salesforce", "client-def", delivered=1)
    assert left["responsys"]["delivered"] + left["responsys"]["waiting"] == 2
    soon(
        lambda: (
            connect("deliver", "--via", vendors, project=home, **SECRETS).code == 0 and not lanes(home)[1]["waiting"]
        )
    )
    assert lanes(home)[1] == lane("responsys", "client-abc", delivered=2)


def test_options_come_from_the_environment_before_the_projects_file(home: Path, vendors: str) -> None:
    port, admin = free_port(), free_port()
    (home / "connect.yaml").write_text(
        f"port: {free_port()}\nadmin_port: {admin}\nstore: sqlite:///other.db\nvia: {vendors}\ndeliver: false\n"
    )
    key = connect("key", project=home).out.strip()
    with Running("serve", project=home, CONNECT_PORT=str(port), CONNECT_KEY=key, **SECRETS) as serve:
        assert serve.lines_until("Nothing is") == [
            f"Events: http://127.0.0.1:{port}/{{rdstation,responsys,salesforce}}",
            "Clients: client-abc, client-def, client-xyz",
            "Store: sqlite:///other.db",
            f"Admin: http://127.0.0.1:{admin}/",
            f"Every request goes to {vendors} and not to the vendors.",
            "Nothing is delivered here: --no-deliver.",
        ]
        post(f"http://127.0.0.1:{port}/salesforce", EVENTS["salesforce"], **{"X-Connect-Key": KEYS["salesforce"]})
        assert serve.end(signal.SIGINT) == (0, "", "")
    (waiting,) = lanes(home)
    assert waiting == lane("salesforce", "client-def", state="waiting", waiting=1, oldest_s=waiting["oldest_s"])
    with Running("deliver", "--watch", project=home, CONNECT_KEY=key, **SECRETS) as deliver:
        soon(lambda: lanes(home)[0]["delivered"] == 1)
        ended = deliver.end()
    assert (ended.code, ended.out) == (0, "1 delivered, 0 rejected, 0 skipped, 0 waiting\n")
    assert b"sandbox-org-token" not in (home / "other.db").read_bytes()


def test_a_client_without_its_secret_pauses_and_the_webhook_is_told(home: Path, vendors: str) -> None:
    told: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as hook:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{hook.server_port}/hook"
        env = {**SECRETS, "CONNECT_ALERT_WEBHOOKS": at, "CONNECT_ALERT_PRIVATE": "1"}
        del env["ABC_RESPONSYS_PASSWORD"]
        with Running("serve", "--port", "0", "--via", vendors, project=home, **env) as serve:
            port = serve.lines_until("Tokens are")[0].partition("127.0.0.1:")[2].partition("/")[0]
            post(f"http://127.0.0.1:{port}/responsys", EVENTS["responsys"], **{"X-Connect-Key": KEYS["responsys"]})
            soon(lambda: told)
            assert serve.end().code == 0
        hook.shutdown()
    reason = "env:ABC_RESPONSYS_PASSWORD: set the environment variable ABC_RESPONSYS_PASSWORD"
    assert [(one["kind"], one["connector"], one["client"]) for one in told] == [
        ("lane-paused", "responsys", "client-abc")
    ]
    assert reason in told[0]["text"]
    (paused,) = lanes(home)
    assert (paused["state"], paused["waiting"], paused["reason"]) == ("paused", 1, reason)
    late = connect("deliver", "--via", vendors, project=home, **env)
    assert (late.code, late.out) == (1, "0 delivered, 0 rejected, 0 skipped, 1 waiting\n")
    assert late.err.splitlines()[-1] == "paused: responsys/client-abc; see `connect status`"
    mended = connect("deliver", "--via", vendors, project=home, **SECRETS)
    assert (mended.code, mended.out) == (0, "1 delivered, 0 rejected, 0 skipped, 0 waiting\n")


def test_send_delivers_now_without_waiting_for_a_batch(home: Path, vendors: str) -> None:
    for name, action in [
        ("responsys", "trigger_event"),
        ("salesforce", "create_task"),
        ("rdstation", "send_conversion"),
    ]:
        ended = connect("send", name, f"{name}.json", "--via", vendors, project=home, **SECRETS)
        assert ended == (0, f"{action}: delivered\n", "")
    assert not (home / "connect.db").exists()


def test_send_says_what_the_vendor_said_and_fails(home: Path, vendors: str) -> None:
    env = {**SECRETS, "XYZ_RDSTATION_TOKEN": "wrong"}
    ended = connect("send", "rdstation", "rdstation.json", "--json", "--via", vendors, project=home, **env)
    (outcome,) = ended.json["outcomes"]
    assert (ended.code, outcome["action"], outcome["outcome"]) == (1, "send_conversion", "failed")
    assert "wrong" not in ended.out
    nobody = f"http://127.0.0.1:{free_port()}"
    down = connect("send", "responsys", "responsys.json", "--via", nobody, project=home, **SECRETS)
    assert (down.code, down.out) == (
        1,
        f"trigger_event: failed: no connection to login2.responsys.net by way of {nobody}: Connection refused\n",
    )


def test_check_asks_the_vendor_with_a_new_log_in(home: Path, vendors: str) -> None:
    args = ("check", "responsys", "client-abc", "--via", vendors)
    asked = "GET https://api2-012.responsys.net/rest/api/ratelimit"
    assert connect(*args, project=home, **SECRETS) == (
        0,
        f"Log in and read the account's rate limits: passed, HTTP 200 to {asked}\n",
        "",
    )
    refused = connect(*args, "--json", project=home, **{**SECRETS, "ABC_RESPONSYS_PASSWORD": "not-it-at-all"})
    (check,) = refused.json["checks"]
    assert (refused.code, check["passed"]) == (1, False)
    assert check["reason"].startswith("the log-in was refused (HTTP 400): Responsys refuses user name or password")
    assert "not-it-at-all" not in refused.out + refused.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--via", "http://crm.example.com"], "connect: --via http://crm.example.com: only this machine, such as"),
        (["--store", "redis://x"], "connect: no store is called redis; known are memory:"),
        (["--admin-port", "0", "--admin-host", "0.0.0.0"], "give it a token (CONNECT_ADMIN_TOKEN), or bind"),
        (["--max-store", "5 cows"], "connect: --max-store: '5 cows' is not a size; write it as 200B, 6KB, 512KiB"),
        (["--address-rate", "fast"], "connect: --address-rate: 'fast' is not a rate; write it as 120/1m or 10/1s"),
        (["--proxies", "10.0.0.0/8 nginx"], "connect: --proxies: 'nginx' does not appear to be an IPv4 or IPv6 net"),
        (["--project", "none"], "Directory 'none' does not exist."),
    ],
)  # fmt: skip
def test_wrong_options_end_serve_with_2(home: Path, args: list[str], says: str) -> None:
    ended = connect("serve", "--port", "0", *args, project=home)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err


def test_a_port_that_is_taken_is_wrong_use(home: Path, vendors: str) -> None:
    port = vendors.rpartition(":")[2]
    ended = connect("serve", "--port", port, project=home, **SECRETS)
    assert ended == (2, "", f"connect: can't listen on 127.0.0.1:{port}: Address already in use\n")


def test_a_store_that_holds_its_budget_is_503_until_deliveries_have_made_room(home: Path, vendors: str) -> None:
    sent = {**EVENTS["responsys"], "product": {**EVENTS["responsys"]["product"], "description": "x" * 20_000}}
    args = ("serve", "--port", "0", "--no-deliver", "--via", vendors, "--max-store", "400KB")
    with Running(*args, project=home, **SECRETS) as serve:
        port = serve.lines_until("Nothing is")[0].partition("127.0.0.1:")[2].partition("/")[0]
        url, key = f"http://127.0.0.1:{port}/responsys", {"X-Connect-Key": KEYS["responsys"]}
        statuses = []

        def refused() -> bool:
            status, answer = post(url, sent, **key)
            statuses.append(status)
            if status == 503:
                assert answer["detail"].endswith("and max_store is 400.0 KB; nothing was accepted, send it again later")
            return bool(status == 503)

        soon(refused)
        with pytest.raises(urllib.error.HTTPError, match="503") as not_ready:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10)
        not_ready.value.close()
        accepted = statuses.count(202)
        assert lanes(home)[0]["waiting"] == accepted
        soon(lambda: connect("deliver", "--via", vendors, project=home, **SECRETS) and not lanes(home)[0]["waiting"])
        soon(lambda: post(url, sent, **key)[0] == 202)
        ended = serve.end()
    assert [json.loads(line)["event"] for line in ended.err.splitlines()] == ["store-full", "store-has-room"]


def test_the_signed_event_of_the_operations_page_is_taken_and_only_so(home: Path, vendors: str) -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in page.split("```sh\n")[1:]]
    (script,) = [block.replace("my-shop", "client-abc") for block in blocks if "MY_SHOP_SIGNING_SECRET" in block]
    abc = home / "clients" / "client-abc.yaml"
    abc.write_text(re.sub(r"keys: \[.*\]", "signatures: ['env:MY_SHOP_SIGNING_SECRET']", abc.read_text()))
    secret = {"MY_SHOP_SIGNING_SECRET": "a secret of ours"}
    args = ("serve", "--port", "0", "--no-deliver", "--via", vendors)
    with Running(*args, project=home, **SECRETS, **secret) as serve:
        port = serve.lines_until("Nothing is")[0].partition("127.0.0.1:")[2].partition("/")[0]
        url = f"http://127.0.0.1:{port}/responsys"

        def run(**env: str) -> Any:
            told = subprocess.run(
                ["sh", "-c", script], env={"PATH": os.environ["PATH"], "CONNECT_URL": url, **env},
                capture_output=True, check=True, timeout=30,
            )  # fmt: skip
            return json.loads(told.stdout)

        assert run(**secret)["accepted"] == 1
        wrong = run(MY_SHOP_SIGNING_SECRET="a guess")
        assert (wrong["status"], wrong["faults"][0]["field"]) == (401, "signature")
        assert post(url, EVENTS["responsys"])[0] == 401
        serve.end()


def test_a_directory_that_is_no_project_gets_no_store(tmp_path: Path) -> None:
    ended = connect("serve", "--port", "0", project=tmp_path)
    assert ended == (2, "", "connect: no client in clients; is --project right?\n")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_used_is_our_fault_in_a_line(home: Path) -> None:
    (home / "connect.db").write_bytes(b"this is no database, and long enough to be looked at as one" * 20)
    ended = connect("serve", "--port", "0", project=home, **SECRETS)
    assert (ended.code, ended.out, ended.err.count("\n")) == (3, "", 1)
    assert "damaged or no SQLite database" in ended.err


def test_deliver_ends_by_the_time_that_it_is_given(home: Path, vendors: str) -> None:
    with Running("serve", "--port", "0", "--no-deliver", "--via", vendors, project=home, **SECRETS) as serve:
        port = serve.lines_until("Nothing is")[0].partition("127.0.0.1:")[2].partition("/")[0]
        post(f"http://127.0.0.1:{port}/salesforce", EVENTS["salesforce"], **{"X-Connect-Key": KEYS["salesforce"]})
        serve.end()
    deliver = ("deliver", "--watch", "--via", vendors)
    short = connect(*deliver, "--for", "2s", project=home, **SECRETS)  # an answer may take longer than that
    assert (short.code, short.out) == (0, "0 delivered, 0 rejected, 0 skipped, 1 waiting\n")
    assert connect("deliver", "--via", vendors, "--for", "10m", project=home, **SECRETS).code == 0
    wrong = connect(*deliver, "--for", "soon", project=home)
    assert (wrong.code, wrong.err.startswith("connect: --for: ")) == (2, True)
