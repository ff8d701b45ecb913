"""`connect` as a process of its own, on a project of its own: how the tests of the command line run it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import starter

ROOT = Path(__file__).resolve().parents[1]
SECRETS = {
    "ABC_RESPONSYS_USERNAME": "sandbox-api-user",
    "ABC_RESPONSYS_PASSWORD": "sandbox-api-password",
    "DEF_SALESFORCE_CLIENT_ID": "sandbox-consumer-key",
    "DEF_SALESFORCE_CLIENT_SECRET": "sandbox-consumer-secret",
    "XYZ_RDSTATION_TOKEN": "sandbox-rd-public-token",
    "ABC_WRITE_KEY": "key-of-abc",
    "DEF_WRITE_KEY": "key-of-def",
    "XYZ_WRITE_KEY": "key-of-xyz",
}
PRODUCT = {"id": "PROD-1", "name": "Café & Cia", "price": 1299.90, "url": "https://example.com/p"}
EVENT = {"email": "user@example.com", "eventType": "product_view", "product": PRODUCT}
EVENTS: dict[str, dict[str, Any]] = {
    "responsys": {**EVENT, "timestamp": "2026-01-28T10:30:45.123Z", "clientId": "client-abc"},
    "salesforce": {**EVENT, "timestamp": "2026-01-28T10:30:45.123Z", "clientId": "client-def"},
    "rdstation": {**EVENT, "timestamp": "2026-01-28T10:30:45.123Z", "tid": "GA4.123456789.987654321"},
}
KEYS = {"responsys": "key-of-abc", "salesforce": "key-of-def", "rdstation": "key-of-xyz"}


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """No CONNECT_ variable, no home, no terminal: what a cron job or a bare container has."""
    return {"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error", **more}


def connect(*args: str | Path, project: Path, stdin: str = "", cwd: Path | None = None, **env: str) -> Ended:
    """A process that ends by itself: the starter's, but where Python itself is to start otherwise."""
    whole = environment(PYTHONPATH=str(ROOT), **env)
    if starter.can_start(env):
        asked = {"root": ROOT, "cwd": cwd or project, "env": whole, "stdin": stdin.encode()}
        code, out, err = starter.run([*map(str, args)], **asked)
        return Ended(code, out.decode(), err.decode())
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", *map(str, args)],
        input=stdin.encode(),
        capture_output=True,
        timeout=60,
        cwd=cwd or project,
        env=whole,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding))


def make_project(folder: Path) -> Path:
    """Three of the bundled connectors and their clients; batches that wait a second and not a quarter of an hour."""
    shutil.copytree(ROOT / "schemas", folder / "schemas")
    parts = {
        "connectors": ("responsys", "rdstation", "salesforce"),
        "clients": ("client-abc", "client-def", "client-xyz"),
    }
    for part, names in parts.items():
        (folder / part).mkdir()
        for name in names:
            shutil.copy(ROOT / part / f"{name}.yaml", folder / part)
    for file in (folder / "connectors").iterdir():
        file.write_text(file.read_text().replace("wait: 15m", "wait: 1s"))
    abc = folder / "clients" / "client-abc.yaml"
    abc.write_text(abc.read_text().replace("wait: 15m", "wait: 1s"))
    for name, event in EVENTS.items():
        (folder / f"{name}.json").write_text(json.dumps(event))
    return folder


class Running:
    """A command that goes on until it is told to end; used as a context."""

    def __init__(self, *args: str | Path, project: Path, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.cli", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=project,
            env=environment(PYTHONPATH=str(ROOT), **env),
        )
        self.ended: Ended | None = None

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.ended is None:
            self.process.kill()
            self.process.communicate()

    def line(self) -> str:
        """The next line that it prints; empty at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def lines_until(self, start: str) -> list[str]:
        """The lines up to the first that begins so."""
        lines = [self.line()]
        while not lines[-1].startswith(start):
            assert lines[-1] or self.process.poll() is None, self.end()
            lines.append(self.line())
        return lines

    def end(self, number: int = signal.SIGTERM) -> Ended:
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        self.ended = Ended(self.process.returncode, out.decode(), err.decode())
        return self.ended


def free_port() -> int:
    """Below those that the system gives to others meanwhile."""
    while True:
        port = 15_000 + secrets.randbelow(15_000)  # not by `random`, whose seed other tests set: alike in all workers
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


def post(url: str, body: Any, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def soon(true: Any, within_s: float = 15.0) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)
