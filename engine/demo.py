"""
The whole thing on sample traffic: simulated CRMs, a real `connect serve` process, real HTTP, and the sums at the end.

Everything is on loopback and in a temporary folder. The CRMs are the connectors' own sandboxes: what they answer is
simulated, how it is sent, kept and counted is not.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import UsageError
from engine.program import Program
from engine.sandbox import Sandbox, application
from engine.spec.project import Project
from engine.spec.types import Binding, Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PER_CLIENT = {
    "responsys": 150, "rdstation": 50, "salesforce": 150,
    "hubspot": 200, "mailchimp": 50, "activecampaign": 20, "pipedrive": 30,
}  # fmt: skip
ACTIONS = {"hubspot": 2, "activecampaign": 2}  # how many actions want each event; of the others it is one
SENDERS = 16
OUTAGE_S = 2.0
LONGEST_S = 26.0

CLIENTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "loja-abc": ("responsys", "Loja ABC", {"settings": {"list": "CONTACTS_LIST", "folder": "!MasterData"}}),
    "loja-sul": ("responsys", "Loja Sul", {"settings": {"list": "CLIENTES"}}),
    "loja-xyz": ("rdstation", "Loja XYZ Ltda", {"match": "GA4.123456789.987654321", "settings": {"plan": "advanced"}}),
    "loja-norte": ("rdstation", "Loja Norte", {"match": "GA4.222222222.333333333"}),
    "loja-def": ("salesforce", "Loja DEF", {"settings": {"domain": "loja-def.my.salesforce.com"}}),
    "loja-leste": ("salesforce", "Loja Leste", {"settings": {"domain": "loja-leste.my.salesforce.com"}}),
    "loja-oeste": ("hubspot", "Loja Oeste", {"settings": {"login": "oauth", "hub_id": "4567890"}}),
    "loja-rio": ("mailchimp", "Loja Rio", {"settings": {"list_id": "a1b2c3d4e5"}}),
    "loja-praia": (
        "activecampaign",
        "Loja Praia",
        {"settings": {"account": "acme.api-us1.com", "actid": "610000123", "fields": {"name": "7", "price": "8"}}},
    ),
    "loja-serra": ("pipedrive", "Loja Serra", {"settings": {"lead_events": []}}),
}
CHANGES: dict[str, dict[str, Any]] = {  # small batches, so that a demo is over soon
    "responsys": {"trigger_event": {"batch": {"records": 50, "wait": "1s"}}},
    "salesforce": {"create_task": {"batch": {"records": 100, "wait": "1s"}}},
    "hubspot": {
        "upsert_contact": {"batch": {"records": 50, "wait": "1s"}},
        "send_event": {"active": True, "batch": {"wait": "1s"}},
    },
}
PRODUCTS = [
    ("PROD-12345", "Smartphone XYZ", "1299.90"),
    ("PROD-789", "Notebook ABC", "2999.90"),
    ("PROD-456", "Câmera DSLR", "3499.90"),
    ("PROD-007", "Tênis d'Água “Maré” \\ nº 42", "199.00"),
    ("PROD-901", "Café {{ especial }} 500 g", "38.50"),
    ("PROD-314", "Bicicleta aro 29 🚲", "1890.00"),
]
TROUBLE = {  # the last word before the @ is what a sandbox listens to
    "responsys": ["unknown", "bounced", "locked", "poison", "expired", "double"],
    "rdstation": ["bounced", "keen", "limited", "outage", "poison"],
    "salesforce": ["unknown", "bounced", "locked", "poison", "expired", "lead"],
    "hubspot": ["unknown", "bounced", "locked", "poison", "expired"],
    "mailchimp": ["unknown", "bounced", "locked", "poison", "limited"],
    "activecampaign": ["unknown", "bounced", "locked", "poison", "expired"],
    "pipedrive": ["unknown", "bounced", "locked", "poison", "limited"],
}


class Posted(NamedTuple):
    """One request of the demo and its answer."""

    client: str
    connector: str
    status: int
    seconds: float
    accepted: int
    outcome: str


class Row(NamedTuple):
    """One line of the table."""

    client: str
    connector: str
    accepted: int  # deliveries of the events that were accepted
    delivered: int
    rejected: int
    skipped: int
    waiting: int
    answer_ms: float

    @property
    def holds(self) -> bool:
        return self.accepted == self.delivered + self.rejected + self.skipped + self.waiting


def clients_in(folder: Path) -> dict[str, str]:
    """Write the client files; the environment that their secrets come from."""
    folder.mkdir(parents=True)
    environment: dict[str, str] = {}
    specs = Project(folder.parent).all()[0]
    for name, (connector, title, binding) in CLIENTS.items():
        prefix = name.upper().replace("-", "_")
        secrets = {}
        sandbox = specs[connector].sandbox
        needed = Program(specs[connector], Client(client=name, connectors={}), Binding(**binding)).secret_names
        for secret, value in (sandbox.secrets if sandbox is not None else {}).items():
            if secret not in needed:
                continue
            environment[f"{prefix}_{secret.upper()}"] = value
            secrets[secret] = f"env:{prefix}_{secret.upper()}"
        environment[f"{prefix}_WRITE_KEY"] = f"demo-write-key-{name}"
        bound: dict[str, Any] = {**binding, "secrets": secrets}
        if connector in CHANGES:
            bound["actions"] = CHANGES[connector]
        client = {
            "client": name,
            "title": title,
            "ingest": {"keys": [f"env:{prefix}_WRITE_KEY"], "origins": [f"https://www.{name}.example"]},
            "connectors": {connector: bound},
        }
        (folder / f"{name}.yaml").write_text(json.dumps(client, indent=2, ensure_ascii=False))  # JSON is YAML, too
    return environment


def event(rng: random.Random, client: str, number: int, person: str) -> dict[str, Any]:
    """A browsing event as a tag would send it."""
    product, name, price = PRODUCTS[number % len(PRODUCTS)]
    connector, _, binding = CLIENTS[client]
    found: dict[str, Any] = {
        "eventId": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "email": person,
        "eventType": "product_view" if number % 4 else "cart_abandoned",
        "product": {
            "id": product,
            "name": name,
            "price": float(price),
            "url": f"https://www.{client}.example/p/{product}",
        },
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        "sessionId": f"s{number}",
    }
    if connector == "rdstation":
        found["tid"] = binding["match"]
    else:
        found["clientId"] = client
    return found


def traffic(seed: int = 7) -> list[tuple[str, str, bytes, dict[str, str]]]:
    """(client, connector, body, headers) of every request, well-behaved and not, in random order."""
    rng = random.Random(seed)
    requests = []
    for client, (connector, _, _) in CLIENTS.items():
        headers = {"X-Connect-Key": f"demo-write-key-{client}", "Content-Type": "application/json"}
        people = [f"{word}@{client}.example" for word in TROUBLE[connector]]
        people += [f"pessoa{number}@{client}.example" for number in range(PER_CLIENT[connector] - len(people))]
        for number, person in enumerate(people):
            body = json.dumps(event(rng, client, number, person), ensure_ascii=False).encode()
            requests.append((client, connector, body, headers))
        no_mail = event(rng, client, 1, "")
        del no_mail["email"]
        bad: list[tuple[bytes, dict[str, str]]] = [
            (b'{"email": "pessoa1@', {}),
            (json.dumps(no_mail).encode(), {}),
            (json.dumps({**event(rng, client, 2, "not an address"), "product": {"price": "NaN"}}).encode(), {}),
            (json.dumps(event(rng, client, 3, "pessoa3@x.example")).encode(), {"X-Connect-Key": "nobody's key"}),
            (
                json.dumps(
                    {**event(rng, client, 4, "pessoa4@x.example"), "clientId": "nobody", "tid": "GA4.0.0"}
                ).encode(),
                {},
            ),
            (b"<event/>", {"Content-Type": "application/xml"}),
        ]
        requests += [(client, connector, body, {**headers, **other}) for body, other in bad]
    rng.shuffle(requests)
    return requests


class Demo:
    """One run, with its two servers."""

    def __init__(self, folder: Path, *, keep: bool = False) -> None:
        self.folder, self.keep = folder, keep
        self.down_until = 0.0
        self.posted: list[Posted] = []
        self.began = time.monotonic()
        self.stop = threading.Event()
        self.environment = clients_in(folder / "clients")
        self.crm_port = self.start_crms()
        self.port, self.admin_port, self.process = self.start_serve()

    def start_crms(self) -> int:
        """All sandboxes in this process behind one port; Salesforce's fails for two seconds when told to."""
        from engine.door.listening import listen, run

        connectors = Project(self.folder).all()[0]
        self.sandboxes = [Sandbox(spec) for spec in connectors.values() if spec.sandbox is not None]
        inner = application(self.sandboxes, time.time)

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            host = dict(scope.get("headers", [])).get(b"host", b"")
            if host.endswith(b".my.salesforce.com") and time.monotonic() < self.down_until:
                await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/html")]})
                await send({"type": "http.response.body", "body": b"<html>down for maintenance</html>"})
                return
            await inner(scope, receive, send)

        socket = listen("127.0.0.1", 0)
        ready = threading.Event()
        threading.Thread(
            target=run,
            args=([(app, socket)],),
            kwargs={"stop": self.stop, "grace_s": 1.0, "ready": ready.set},
            daemon=True,
        ).start()
        if not ready.wait(10):
            raise UsageError("the simulated CRMs did not start")
        return int(socket.getsockname()[1])

    def start_serve(self) -> tuple[int, int, subprocess.Popen[bytes]]:
        """A `connect serve` of its own process, on free ports."""
        from engine.door.listening import listen

        with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as two:
            port, admin_port = one.getsockname()[1], two.getsockname()[1]
        command = [
            sys.executable, "-m", "engine.cli", "serve",
            "--project", str(self.folder), "--host", "127.0.0.1", "--port", str(port), "--admin-port", str(admin_port),
            "--store", "sqlite:///connect.db", "--via", f"http://127.0.0.1:{self.crm_port}",
        ]  # fmt: skip
        self.log = (self.folder / "serve.log").open("wb")
        process = subprocess.Popen(
            command, env={**os.environ, **self.environment}, stdout=self.log, stderr=subprocess.STDOUT
        )
        import httpx

        for _ in range(200):
            if process.poll() is not None:
                break
            try:
                if httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1, trust_env=False).status_code == 200:
                    return port, admin_port, process
            except httpx.HTTPError:
                time.sleep(0.05)
        text = (self.folder / "serve.log").read_text(errors="replace")[-2000:]
        raise UsageError(f"`connect serve` did not start:\n{text}")

    def post_all(self, progress: Callable[[int, int], None]) -> None:
        """Send the traffic from several senders; a CRM goes down on the way."""
        import httpx

        requests = traffic()
        lock = threading.Lock()
        self.accepted: dict[tuple[str, str], int] = {}

        def send(numbered: tuple[int, tuple[str, str, bytes, dict[str, str]]]) -> None:
            number, (client, connector, body, headers) = numbered
            if number == len(requests) // 3:
                self.down_until = time.monotonic() + OUTAGE_S
            began = time.perf_counter()
            answer = http.post(f"/{connector}", content=body, headers=headers, timeout=60)
            seconds = time.perf_counter() - began
            found = answer.json() if answer.content else {}
            taken = (
                int(found.get("accepted", 0))
                if answer.status_code == 202 and "accepted" in found
                else int("outcome" in found)
            )
            with lock:
                outcome = str(found.get("outcome", "buffered" if taken else "refused"))
                self.posted.append(Posted(client, connector, answer.status_code, seconds, taken, outcome))
                progress(len(self.posted), len(requests))

        with (
            httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as http,
            ThreadPoolExecutor(SENDERS) as pool,
        ):
            for done in [pool.submit(send, numbered) for numbered in enumerate(requests)]:
                done.result()

    def lanes(self) -> list[dict[str, Any]]:
        import httpx

        answer = httpx.get(f"http://127.0.0.1:{self.admin_port}/lanes", timeout=10, trust_env=False)
        found: list[dict[str, Any]] = answer.json()["lanes"]
        return found

    def drain(self, progress: Callable[[int], None]) -> list[dict[str, Any]]:
        """Until nothing waits but what a CRM has put off for long, or the time is over."""
        while True:
            lanes = self.lanes()
            waiting = sum(lane["waiting"] for lane in lanes)
            progress(waiting)
            # one lead of each RD Station client is at its daily limit and waits for tomorrow
            put_off = sum(posted.outcome == "waiting" for posted in self.posted if posted.connector == "rdstation")
            rest = sum(lane["waiting"] for lane in lanes if lane["connector"] != "rdstation")
            direct = waiting - rest
            patience = time.monotonic() - self.began > LONGEST_S
            if patience or (rest == 0 and direct <= min(put_off, 2)):
                return lanes
            time.sleep(0.2)

    def rows(self, lanes: list[dict[str, Any]]) -> list[Row]:
        rows = []
        for lane in lanes:
            times = sorted(p.seconds for p in self.posted if p.client == lane["client"] and p.accepted)
            rows.append(
                Row(
                    lane["client"], lane["connector"],
                    ACTIONS.get(lane["connector"], 1)
                    * sum(posted.accepted for posted in self.posted if posted.client == lane["client"]),
                    lane["delivered"], lane["rejected"], lane["skipped"], lane["waiting"],
                    1000 * times[len(times) // 2] if times else 0.0,
                )
            )  # fmt: skip
        return rows

    def dead(self) -> Iterator[dict[str, Any]]:
        from engine.stores.sqlite import SqliteStore

        store = SqliteStore(self.folder / "connect.db")
        try:
            for dead in store.dead(limit=1000):
                yield {
                    "id": dead.id, "client": dead.client, "connector": dead.connector, "action": dead.action,
                    "reason": dead.reason, "code": dead.code, "attempts": dead.attempts,
                    "url": dead.trace.url if dead.trace else "", "status": dead.trace.status if dead.trace else None,
                    "reply": dead.trace.reply if dead.trace else "",
                }  # fmt: skip
        finally:
            store.close()

    def close(self) -> int:
        """Ask serve to finish (SIGTERM); its exit code."""
        self.process.terminate()
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = -9
        self.stop.set()
        self.log.close()
        return code
