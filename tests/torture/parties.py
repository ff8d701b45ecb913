"""
Who takes part in a torture: a CRM that writes down what it got, senders that write down what was answered 202, and
`connect serve` as processes that are killed, stopped and started again.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from command import ROOT, environment
from measured import figures as figures
from measured import sized as sized

from engine.door.listening import listen, run
from engine.stores.opening import open_store
from engine.stores.sqlite import SqliteStore

RECORDS = 20


HEAD = """
connect: 1
name: {name}
title: A vendor that writes everything down
hosts: [api.ledger.example]
"""
HTTP = "http: {base_url: https://api.ledger.example, timeout: 5s, retry: {initial: 100ms, max: 1s}}"
BATCH = "batch: {records: 20, wait: 200ms}"
CONNECTORS = {
    "ledger": f"""
receive: {{client: "${{ event.client }}", id: "${{ event.id }}", dedupe: 1h}}
auth: {{type: none}}
{HTTP}
actions:
  note:
    record: {{id: "${{ event.id }}"}}
    {BATCH}
    request: {{path: /notes, json: "${{ batch.records }}"}}
    results: {{at: "${{ response.body }}", ok: "${{ result }}"}}
  tag:
    after: note
    record: {{id: "${{ event.id }}"}}
    {BATCH}
    request: {{path: /tags, json: "${{ batch.records }}"}}
    results: {{at: "${{ response.body }}", ok: "${{ result }}"}}
""",
    "direct": """
receive:
  client: ${ event.client }
  id: ${ event.id }
  dedupe: 1h
  mode: direct
  answer: {within: 500ms}
auth: {type: none}
http: {base_url: https://api.ledger.example, timeout: 500ms, retry: {initial: 100ms, max: 1s}}
actions:
  lead: {record: {id: "${ event.id }"}, request: {path: /leads, json: ["${ record }"]}}
replies: {outcomes: [{status: 422, then: reject}]}
""",
    "jobs": f"""
receive: {{client: "${{ event.client }}", id: "${{ event.id }}", dedupe: 1h}}
auth: {{type: none}}
{HTTP}
actions:
  import:
    record: {{id: "${{ event.id }}"}}
    {BATCH}
    steps:
      create:
        request: {{path: /jobs, json: "${{ batch.records }}", expect: "${{ response.body.id }}"}}
        save: {{id: "${{ response.body.id }}"}}
      wait:
        request: {{method: GET, path: "/jobs/{{{{ steps.create.id }}}}"}}
        poll: {{until: "${{ response.body.results }}", every: 200ms}}
        results: {{at: "${{ response.body.results }}", ok: "${{ result }}"}}
""",
    "member": f"""
receive: {{client: "${{ event.client }}", id: "${{ event.id }}", dedupe: 1h}}
secrets: {{username: {{}}, password: {{}}}}
auth:
  type: oauth2_password
  token_url: https://api.ledger.example/token
  username: "{{{{ secrets.username }}}}"
  password: "{{{{ secrets.password }}}}"
{HTTP}
actions:
  entry:
    record: {{id: "${{ event.id }}"}}
    {BATCH}
    request: {{path: /entries, json: "${{ batch.records }}"}}
    results: {{at: "${{ response.body }}", ok: "${{ result }}"}}
""",
}
KINDS = {"/notes": "ledger", "/tags": "tag", "/leads": "direct", "/entries": "member"}
SECRETS = {"LEDGER_USERNAME": "ana", "LEDGER_PASSWORD": "pa55-of-ana"}


def project(folder: Path, *connectors: str, clients: int = 2) -> Path:
    """A project of some of these connectors; its clients are `c0`, `c1` …"""
    (folder / "connectors").mkdir(parents=True)
    (folder / "clients").mkdir()
    for name in connectors:
        (folder / "connectors" / f"{name}.yaml").write_text(HEAD.format(name=name) + CONNECTORS[name])
    for number in range(clients):
        bound: dict[str, Any] = {name: {} for name in connectors}
        if "member" in bound:
            bound["member"] = {"secrets": {"username": "env:LEDGER_USERNAME", "password": "env:LEDGER_PASSWORD"}}
        (folder / "clients" / f"c{number}.yaml").write_text(
            json.dumps({"client": f"c{number}", "connectors": bound})  # JSON is YAML, too
        )
    return folder


class Crm:
    """
    The vendor: it keeps every id that it was given and said yes to, takes 20 ms for an answer, and refuses ids that
    end in `-bad`. Its log-in gives out refresh tokens that serve once; its imports are jobs that are asked after.

    Who waits for `reached(point)` is told the moment that a request of that kind comes in, or was answered.
    """

    POINTS = ("ledger", "tag", "direct", "member", "token", "job", "poll")

    def __init__(self, *, answer_s: float = 0.02, ways: int = 1) -> None:
        """`ways`: so many ports, so that it knows of each host what it asked."""
        self.answer_s = answer_s
        self.came: list[Counter[str]] = [Counter() for _ in range(ways)]
        self.arrivals: list[float] = []  # of everything but log-ins, monotonic
        self.now_open = self.most_open = 0  # requests at once, but for log-ins
        self.expires_in = 3600
        self.seen: dict[str, Counter[str]] = {name: Counter() for name in ("ledger", "tag", "direct", "member", "jobs")}
        self.too_early: list[str] = []
        self.jobs: dict[str, tuple[float, list[bool]]] = {}
        self.live: set[str] = set()
        self.refresh: set[str] = set()
        self.spent: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.times: dict[str, float] = {}  # id -> when it came first, monotonic
        self.awaited, self.at = "", threading.Event()
        self.down = False
        self.stuck: set[str] = set()  # clients whose requests are not answered
        self.broken: set[str] = set()  # clients whose connections break
        sockets = [listen("127.0.0.1", 0) for _ in range(ways)]
        self.ports = [socket.getsockname()[1] for socket in sockets]
        self.port = self.ports[0]
        self.stop, ready = threading.Event(), threading.Event()
        self.thread = threading.Thread(
            target=run,
            args=([(partial(self.app, way), socket) for way, socket in enumerate(sockets)],),
            kwargs={"stop": self.stop, "grace_s": 1.0, "ready": ready.set},
            daemon=True,
        )
        self.thread.start()
        assert ready.wait(10)

    def close(self) -> None:
        self.stop.set()
        self.thread.join()

    def reached(self, point: str, within_s: float) -> bool:
        """Wait until a request of this kind is here (`job`) or was answered (`job answered`)."""
        self.at.clear()
        self.awaited = point
        if point.startswith("token"):
            self.live.clear()  # every token is revoked, so that somebody comes for a new one
        return self.at.wait(within_s)

    def passes(self, point: str) -> None:
        if point == self.awaited:
            self.awaited = ""
            self.at.set()

    async def app(self, way: int, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/token":
            return await self.serve(way, scope, receive, send)
        self.arrivals.append(time.monotonic())
        self.now_open += 1
        self.most_open = max(self.most_open, self.now_open)
        try:
            await self.serve(way, scope, receive, send)
        finally:
            self.now_open -= 1

    async def serve(self, way: int, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        kind = "poll" if path.startswith("/jobs/") else KINDS.get(path, path.strip("/").removesuffix("s"))
        self.asked[kind] += 1
        self.came[way][kind] += 1
        self.passes(kind)
        if self.broken and json.loads(body)[0]["id"].partition(":")[0] in self.broken:
            await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"9")]})
            return  # closed in mid-reply
        if self.stuck and json.loads(body)[0]["id"].partition(":")[0] in self.stuck:
            await asyncio.sleep(600)
        status, answer = (503, {}) if self.down else self.answer(path, dict(scope["headers"]), body)
        await asyncio.sleep(self.answer_s)
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        self.passes(f"{kind} answered")

    def answer(self, path: str, headers: dict[bytes, bytes], body: bytes) -> tuple[int, Any]:
        if path == "/token":
            return self.token(dict(httpx.QueryParams(body.decode())))
        if path.startswith("/jobs/"):
            done_at, results = self.jobs[path.removeprefix("/jobs/")]
            return 200, {"results": results} if time.monotonic() >= done_at else {"state": "running"}
        ids = [record["id"] for record in json.loads(body)]
        if path == "/jobs":
            name = str(len(self.jobs))
            self.jobs[name] = time.monotonic() + 0.3, self.take("jobs", ids)
            return 201, {"id": name}
        if path == "/entries":
            given = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
            if given not in self.live:
                return 401, {"error": "invalid_token"}
        if path == "/tags":
            self.too_early += [each for each in ids if each not in self.seen["ledger"]]
        taken = self.take(KINDS[path], ids)
        return (200 if all(taken) or path != "/leads" else 422), taken

    def take(self, kind: str, ids: list[str]) -> list[bool]:
        for each in ids:
            self.times.setdefault(each, time.monotonic())
        good = [not each.endswith("-bad") for each in ids]
        self.seen[kind].update(each for each, ok in zip(ids, good, strict=True) if ok)
        return good

    def token(self, form: dict[str, str]) -> tuple[int, Any]:
        if form["grant_type"] == "refresh_token":
            old = form["refresh_token"]
            if old not in self.refresh:
                self.spent.add(old)
                return 400, {"error": "invalid_grant"}
            self.refresh.remove(old)
        number = self.asked["token"]
        self.live.add(f"access-{number}")
        self.refresh.add(f"refresh-{number}")
        return 200, {
            "access_token": f"access-{number}", "refresh_token": f"refresh-{number}",
            "token_type": "bearer", "expires_in": self.expires_in,
        }  # fmt: skip

    @property
    def twice(self) -> int:
        return sum(count - 1 for counts in self.seen.values() for count in counts.values())


class Serve:
    """A `connect serve` that is killed and started again on the same port and file."""

    def __init__(
        self,
        folder: Path,
        crm_port: int,
        *more: str,
        store: str = "sqlite:///connect.db",
        before: str = "",
        env: dict[str, str] | None = None,
        starts: bool = True,
        **popen: Any,
    ) -> None:
        """`before`: Python that runs first in the process, to set a limit or to make a constant smaller."""
        with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as two:
            self.port, self.admin = one.getsockname()[1], two.getsockname()[1]
        self.folder, self.popen = folder, popen
        self.command = [
            sys.executable, "-c", f"{before}\nfrom engine.cli import main\nmain()",
            "serve", "--project", str(folder), "--store", store,
            "--port", str(self.port), "--admin-port", str(self.admin), "--via", f"http://127.0.0.1:{crm_port}", *more,
        ]  # fmt: skip
        self.env = environment(PYTHONPATH=str(ROOT), **SECRETS, **(env or {}))
        self.log = (folder / f"serve-{self.port}.log").open("ab")
        if starts:
            self.start()

    def start(self, within_s: float = 30.0) -> None:
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, env=self.env, **self.popen)
        until = time.monotonic() + within_s
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=1, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.02)
        raise AssertionError(f"serve did not come up: {self.said()[-2000:]}")

    def said(self) -> str:
        return (self.folder / f"serve-{self.port}.log").read_text(errors="replace")

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(20)

    def end(self) -> int:
        """In order; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self) -> None:
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        self.log.close()

    def lanes(self) -> list[dict[str, Any]]:
        found = httpx.get(f"http://127.0.0.1:{self.admin}/lanes", trust_env=False, timeout=20).json()["lanes"]
        return list(found)

    def waiting(self) -> int:
        return sum(lane["waiting"] for lane in self.lanes())


class Sender(threading.Thread):
    """Posts one event after the other, whatever happens to the servers; keeps what was accepted."""

    def __init__(
        self, ports: list[int], name: str, done: threading.Event, *, pace_s: float = 0.0, clients: int = 2,
        pad: int = 0, timeout_s: float = 20, **kinds: int,
    ) -> None:  # fmt: skip
        """`kinds`: how many of the events in a round go to which connector."""
        super().__init__(daemon=True)
        self.ports, self.prefix, self.done, self.pace_s, self.clients = ports, name, done, pace_s, clients
        self.pad, self.timeout_s = "x" * pad, timeout_s
        self.round = [kind for kind, count in kinds.items() for _ in range(count)]
        self.accepted: dict[str, list[str]] = {kind: [] for kind in kinds}
        self.answers: Counter[str] = Counter()
        self.told: dict[str, set[str]] = {}  # status -> what Retry-After said
        self.times: dict[str, float] = {}  # id -> when it was posted, monotonic

    def run(self) -> None:
        number = 0
        with httpx.Client(trust_env=False, timeout=self.timeout_s) as http:
            while not self.done.is_set():
                number += 1
                kind = self.round[number % len(self.round)]
                bad = "-bad" if number % 97 == 0 else ""
                event = {"id": f"{self.prefix}-{number}{bad}", "client": f"c{number % self.clients}"}
                if self.pad:
                    event["pad"] = self.pad
                port = self.ports[number % len(self.ports)]
                self.times[event["id"]] = time.monotonic()
                try:
                    answer = http.post(f"http://127.0.0.1:{port}/{kind}", json=event)
                except httpx.HTTPError:
                    self.answers["no answer"] += 1
                    time.sleep(0.02)
                    continue
                self.answers[str(answer.status_code)] += 1
                if answer.status_code in (429, 503):
                    self.told.setdefault(str(answer.status_code), set()).add(answer.headers.get("retry-after", "0"))
                # a direct caller that is told 422 by the CRM has been told the end: that event was accepted, too
                if answer.status_code in (200, 202) or (answer.status_code == 422 and bad):
                    self.accepted[kind].append(event["id"])
                elif answer.status_code == 503:
                    time.sleep(0.05)
                time.sleep(self.pace_s)


class Sums(dict[str, int]):
    """accepted, delivered, rejected, skipped, waiting of a whole store, each lane in balance."""


def opened(store: Path | str) -> Any:
    """By its file or its URL."""
    return SqliteStore(store) if isinstance(store, Path) else open_store(store, Path())


def sums(store: Path | str) -> tuple[Sums, set[str]]:
    """The counters of a store that nobody uses, and the ids of events with dead letters."""
    found = Sums(dict.fromkeys(("accepted", "delivered", "rejected", "skipped", "waiting"), 0))
    dead: set[str] = set()
    with closing(opened(store)) as there:
        for lane in there.lanes():
            assert lane.accepted == lane.delivered + lane.rejected + lane.skipped + lane.waiting, lane
            for name in found:
                found[name] += getattr(lane, name)
        after = 0
        while letters := there.dead(limit=1000, after=after):
            dead |= {letter.event_id for letter in letters}
            after = letters[-1].id
    return found, dead


def proven(senders: list[Sender], crm: Crm, store: Path | str) -> tuple[int, set[str]]:
    """
    How many ids were accepted, and which of them are lost: neither taken by the CRM nor a dead letter.

    Nothing waits any more when this is asked; the counters of the store must say the same.
    """
    found, dead = sums(store)
    assert found["waiting"] == 0, found
    accepted = {kind: {one for s in senders for one in s.accepted.get(kind, [])} for kind in CONNECTORS}
    lost = {one for kind, ids in accepted.items() for one in ids if one not in crm.seen[kind] and one not in dead}
    lost |= {one for one in accepted["ledger"] if one not in crm.seen["tag"] and one not in dead}
    number = sum(map(len, accepted.values()))
    # more: of those whose answer was lost with the connection, the sender knows nothing
    assert found["accepted"] >= number + len(accepted["ledger"]), found
    assert all(one.endswith("-bad") for one in dead), "only what the vendor refused is a dead letter"
    assert crm.too_early == [], "no tag comes before its note"
    return number, lost


def until_empty(serve: Serve, within_s: float = 120.0) -> float:
    """Seconds until nothing waits."""
    began = time.monotonic()
    while serve.waiting():
        assert time.monotonic() < began + within_s, serve.lanes()
        time.sleep(0.1)
    return time.monotonic() - began
