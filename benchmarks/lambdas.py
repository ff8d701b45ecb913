"""
Cold and warm times of the functions for AWS Lambda, on this machine: `python -m benchmarks.lambdas`.

Each cold start is a process of its own. What Lambda adds (its machine, its runtime, the network to AWS) is not in it; a
function with little memory has a slower processor than this one, so that ratios hold better than figures.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from moto.server import ThreadedMotoServer

from engine.demo.traffic import client_files, shops, write_key
from engine.spec.compiled import NAME, write_compiled
from engine.spec.project import Project
from engine.stores.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).parents[1]
COLD, WARM = 7, 30  # runs; medians are told
CHILD = """
import json, sys, time
def now():
    return time.perf_counter(), time.process_time()
def since(began):
    return [end - start for start, end in zip(began, now())]
began = now()
from engine import lambdas
imported = since(began)
class Context:
    aws_request_id = "bench"
    def get_remaining_time_in_millis(self):
        return 60_000
times = []
for name, event in json.load(sys.stdin):
    at = now()
    getattr(lambdas, name)(event, Context())
    times.append(since(at))
print("\\n" + json.dumps([imported, times, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
LARGE = ("asyncio", "jinja2", "jmespath", "httpx", "boto3", "botocore", "cryptography", "yaml", "prometheus_client")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}  # moto takes any
CALLS: dict[str, Any] = {
    "process": {},
    "refresh_tokens": {"within": "1m", "connectors": ["salesforce"]},  # others limit their log-ins
}
PRODUCT = {"id": "PROD-1", "name": "Smartphone XYZ", "price": 1299.90, "url": "https://www.loja.example/p"}


class Case(NamedTuple):
    """One row of the table."""

    says: str
    function: str
    client: str = ""  # whose events come in
    waiting: int = 0  # events that were put before
    compiled: bool = True
    bytecode: bool = True
    warm: bool = True
    dynamodb: bool = False


CASES = (
    Case("`receive`, buffered (Responsys)", "receive", "loja-abc"),
    Case("… read from YAML", "receive", "loja-abc", compiled=False, warm=False),
    Case("… without byte code", "receive", "loja-abc", bytecode=False, warm=False),
    Case("… into DynamoDB (moto)", "receive", "loja-abc", dynamodb=True),
    Case("`receive`, direct (RD Station)", "receive", "loja-xyz"),
    Case("`process`, nothing due", "process"),
    Case("… in DynamoDB (moto)", "process", dynamodb=True),
    Case("`process`, 100 events of Salesforce", "process", "loja-def", waiting=100, warm=False),
    Case("`refresh_tokens`, all last", "refresh_tokens"),
)


class Times(NamedTuple):
    """Seconds: by the clock, and of the processor, which others on the machine hardly change."""

    clock: float
    processor: float

    def ms(self) -> str:
        return " | ".join(f"{seconds * 1000:.{0 if self.clock >= 0.01 else 1}f}" for seconds in self)


class Row(NamedTuple):
    imported: Times
    first: Times
    warm: Times | None
    modules: list[str]

    def line(self, says: str) -> str:
        cold = Times(self.imported.clock + self.first.clock, self.imported.processor + self.first.processor)
        loaded = ", ".join(each for each in LARGE if each in self.modules)
        warm = self.warm.ms() if self.warm is not None else " | "
        return f"| {says} | {cold.ms()} | {self.imported.processor * 1000:.0f} | {warm} | {loaded} |"


def middle(times: Iterable[Sequence[float]]) -> Times:
    clocks, processors = zip(*times, strict=True)
    return Times(median(clocks), median(processors))


class Place:
    """A project with the demo's clients, at sandboxes, and a store that is new for every run."""

    def __init__(self, folder: Path, vendors: str, aws: str, secrets: dict[str, str]) -> None:
        self.folder, self.aws = folder, aws
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "CONNECT_PROJECT": str(folder),
            "CONNECT_VIA": vendors,
            "CONNECT_PATIENCE": "5s",
            "CONNECT_METRICS": "emf",
            **CREDENTIALS,
            **secrets,
        }

    def run(self, calls: list[tuple[str, Any]], store: str, *, bytecode: bool = True) -> Row:
        flags = [] if bytecode else ["-B", "-X", f"pycache_prefix={self.folder}/none"]
        done = subprocess.run(
            [sys.executable, *flags, "-c", CHILD],
            input=json.dumps(calls),
            env={**self.env, "CONNECT_STORE": store},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        imported, times, modules = json.loads(done.stdout.splitlines()[-1])
        return Row(Times(*imported), Times(*times[0]), middle(times[1:]) if times[1:] else None, modules)

    def row(self, case: Case) -> Row:
        """The medians of so many starts."""
        compiled = self.folder / NAME
        compiled.unlink(missing_ok=True)
        if case.compiled:
            write_compiled(Project(self.folder))
        rows = []
        for _ in range(COLD):
            store = self.new_table() if case.dynamodb else self.new_store()
            if case.waiting:
                self.run([("receive", self.event(case.client)) for _ in range(case.waiting)], store)
            if case.function == "refresh_tokens":
                self.run([("refresh_tokens", CALLS["refresh_tokens"])], store)
            calls = [
                (case.function, self.event(case.client) if case.function == "receive" else CALLS[case.function])
                for _ in range(1 + (WARM if case.warm else 0))
            ]
            rows.append(self.run(calls, store, bytecode=case.bytecode))
        warm = [row.warm for row in rows if row.warm is not None]
        return Row(
            middle(row.imported for row in rows),
            middle(row.first for row in rows),
            middle(warm) if warm else None,
            rows[-1].modules,
        )

    def new_store(self) -> str:
        return f"sqlite:///{self.folder}/{uuid.uuid4().hex}.db"

    def new_table(self) -> str:
        name = f"bench-{uuid.uuid4().hex}"
        url = f"dynamodb://{name}?region=sa-east-1&endpoint={self.aws}"
        open_store(f"{url}&create=1", self.folder, self.env).close()
        return url

    @staticmethod
    def event(client: str) -> dict[str, Any]:
        """As an HTTP API sends it."""
        shop = next(shop for shop in shops() if shop.client == client)
        body = {
            "eventId": uuid.uuid4().hex,
            "email": f"{uuid.uuid4().hex[:8]}@example.com",
            "eventType": "product_view",
            "product": PRODUCT,
            "timestamp": "2026-01-28T10:30:45.123Z",
            **shop.event,
        }
        return {
            "version": "2.0",
            "rawPath": f"/{shop.connector}",
            "rawQueryString": "",
            "headers": {"content-type": "application/json", "x-connect-key": write_key(shop)},
            "requestContext": {"stage": "$default", "http": {"method": "POST", "sourceIp": "203.0.113.7"}},
            "body": json.dumps(body),
            "isBase64Encoded": False,
        }


def moto() -> str:
    """The address of a DynamoDB in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return "http://{}:{}".format(*server.get_host_and_port())


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        secrets = client_files(shops(), folder / "clients")
        command = [sys.executable, "-m", "engine.cli", "sandbox", "--port", "0", "--project", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as sandbox:
            try:
                assert sandbox.stdout is not None
                found = re.search(r"http://[0-9.:]+", sandbox.stdout.readline())
                assert found is not None
                os.environ.update(CREDENTIALS)
                place = Place(folder, found[0], moto(), secrets)
                print(f"Milliseconds; medians of {COLD} starts, and of {WARM} further calls after each.\n")
                print("| | cold, clock | processor | of it import | warm, clock | processor | loaded |")
                print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
                for case in CASES:
                    print(place.row(case).line(case.says))
            finally:
                sandbox.terminate()


if __name__ == "__main__":
    main()
