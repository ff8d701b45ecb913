"""
A server to be sent events, in a process of its own: `python -m benchmarks.doors KIND FOLDER` prints its port.

bare: the same server with an app that reads the body and answers 202. uvicorn: the same app on a plain uvicorn.
durable: `serve` without deliveries. each: the same with one commit for each event. draining: `serve` that delivers, to
the CRM at `--via`. direct: `serve` of a connector whose caller is told what the CRM said.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.load import KEY
from benchmarks.measuring import ROOT

if TYPE_CHECKING:
    from engine.door.asgi import Receive, Scope, Send
    from engine.ports import Store
    from engine.records import Accepted, Stored

CLIENT = """\
client: bench
title: Bench
ingest: {keys: ['env:BENCH_KEY']}
connectors:
  responsys:
    settings: {list: CONTACTS_LIST, folder: '!MasterData', rate: 10000000/1m}
    secrets: {username: 'env:BENCH_KEY', password: 'env:BENCH_KEY'}
"""
ANSWER = b'{"accepted":1,"ids":["0b9c2a5e-7f3d-4c1e-9a53-2f5d8a1f3c77"]}'
SWITCH_S = 0.001  # as `connect serve`


@dataclass(frozen=True)
class Door:
    """A server that runs."""

    port: int
    process: subprocess.Popen[str]

    def lanes(self) -> dict[str, int]:
        """What is counted in the store, asked of the process itself."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("lanes\n")
        self.process.stdin.flush()
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def door(kind: str, folder: Path, via: str = "") -> Iterator[Door]:
    command = [sys.executable, "-m", "benchmarks.doors", kind, str(folder), "--via", via]
    environment = {**os.environ, "BENCH_KEY": KEY}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Door(int(process.stdout.readline()), process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and answers what intake would."""
    if scope["type"] != "http":
        return
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def say(port: int) -> None:
    print(port, flush=True)


def bare(stop: threading.Event) -> None:
    from engine.door import listening

    sock = listening.listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    listening.run([(nothing, sock)], stop=stop, grace_s=1, ready=lambda: say(port))


def plain_uvicorn() -> None:
    import uvicorn

    sock = socket.create_server(("127.0.0.1", 0), backlog=2048)
    say(sock.getsockname()[1])
    config = uvicorn.Config(
        nothing, loop="uvloop", http="httptools", access_log=False, lifespan="off", log_level="error"
    )
    uvicorn.Server(config).run([sock])


def one_commit_each(store: Store) -> None:
    """As if nobody had thought of committing together."""
    from engine.stores import sqlite

    sqlite.GROUP = 1
    together = store.put

    def put(events: Sequence[Accepted], *, now: float, hold_s: float = 0) -> Future[list[Stored]]:
        told: Future[list[Stored]] = Future()
        futures = [together([event], now=now, hold_s=hold_s) for event in events]
        futures[-1].add_done_callback(lambda _: told.set_result([future.result()[0] for future in futures]))
        return told

    store.put = put  # type: ignore[method-assign]


def project_in(folder: Path, *, direct: bool) -> None:
    (folder / "clients").mkdir(parents=True)
    (folder / "clients" / "bench.yaml").write_text(CLIENT)
    shutil.copytree(ROOT / "schemas", folder / "schemas")
    (folder / "connectors").mkdir()
    text = (ROOT / "connectors" / "responsys.yaml").read_text()
    if direct:
        text = text.replace("  mode: buffered\n", "  mode: direct\n")
    (folder / "connectors" / "responsys.yaml").write_text(text)


def served(kind: str, folder: Path, via: str, stop: threading.Event) -> None:
    from engine import wiring
    from engine.egress import PUBLIC
    from engine.serve import serve
    from engine.spec.project import Project

    project_in(folder, direct=kind == "direct")
    project = Project(folder)
    store = wiring.open_store(f"sqlite:///{folder}/connect.db", project)
    if kind == "each":
        one_commit_each(store)
    engine, telemetry, _ = wiring.make_engine(
        project, store, via=via or None, reach=PUBLIC, workers=1, log_level="error"
    )
    threading.Thread(target=engine.keep, args=(stop,), daemon=True).start()
    worker = threading.Thread(target=engine.worker.run, daemon=True)

    def ready(port: int, _admin: int) -> None:
        gc.freeze()  # as `connect serve` does
        gc.set_threshold(10_000, 20, 20)
        if kind == "draining":
            worker.start()
        say(port)

    def tell_lanes() -> None:
        for _ in sys.stdin:
            lanes = store.lanes()
            names = ("accepted", "waiting", "delivered", "rejected", "skipped")
            print(json.dumps({name: sum(getattr(lane, name) for lane in lanes) for name in names}), flush=True)

    threading.Thread(target=tell_lanes, daemon=True).start()
    serve(engine, port=0, on_ready=ready, stop=stop, telemetry=telemetry, clock=engine.clock.now, traces=engine.traces)
    engine.worker.stop()
    if worker.ident is not None:
        worker.join(30)
    engine.close()
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doors")
    parser.add_argument("kind", choices=("bare", "uvicorn", "durable", "each", "draining", "direct"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--via", default="")
    given = parser.parse_args()
    sys.setswitchinterval(SWITCH_S)
    stop = threading.Event()
    if given.kind == "bare":
        bare(stop)
    elif given.kind == "uvicorn":
        plain_uvicorn()
    else:
        served(given.kind, given.folder, given.via, stop)


if __name__ == "__main__":
    main()
