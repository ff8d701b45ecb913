"""Take events in and deliver them, in one process, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import gc
import os
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from engine import wiring
from engine.cli import options

if TYPE_CHECKING:
    from engine.egress import Egress
    from engine.runtime import Engine
    from engine.spec.project import Project

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
SWITCH_S = 0.001  # until a thread that computes lets the door have its turn; 5 ms, the usual, add up for a sender
PREPARE_S = 1.0  # after the start, until what was read is kept for the next one
COLLECTIONS = (10_000, 20, 20)  # as a worker's: a look for circles of garbage holds up all senders
JOIN_S = 60.0  # for batches in flight at the end; they are repeated at the next start if it is not enough


@click.command("serve")
@click.option("--host", envvar="CONNECT_HOST", metavar="ADDRESS", help="Where to listen.  [default: 127.0.0.1]")
@click.option("--port", envvar="CONNECT_PORT", type=click.IntRange(0, 65535), help="0: any free one.  [default: 8080]")
@click.option(
    "--admin-port",
    envvar="CONNECT_ADMIN_PORT",
    type=click.IntRange(0, 65535),
    help="Where the web page, health and metrics are.  [default: the port after --port]",
)
@click.option("--admin-host", envvar="CONNECT_ADMIN_HOST", metavar="ADDRESS", help="Where --admin-port listens.")
@click.option("--max-store", envvar="CONNECT_MAX_STORE", metavar="SIZE", help="What may wait, such as 5GB; then 503.")
@click.option(
    "--address-rate", envvar="CONNECT_ADDRESS_RATE", metavar="RATE", help="Requests of one address, such as 50/1s."
)
@click.option(
    "--proxies",
    envvar="CONNECT_PROXIES",
    metavar="NETWORKS",
    help="Load balancers: 10.0.0.0/8, apart by commas.",
)
@click.option("--deliver/--no-deliver", envvar="CONNECT_DELIVER", default=None, help="--no-deliver: only take in.")
@click.option("--reload/--no-reload", envvar="CONNECT_RELOAD", default=None, help="Heed changed files.  [default: yes]")
@options.workers
@options.via
@options.allow_private
@options.store
@options.log_level
@options.project
def command(
    host: str | None,
    port: int | None,
    admin_port: int | None,
    admin_host: str | None,
    max_store: str | None,
    address_rate: str | None,
    proxies: str | None,
    deliver: bool | None,
    reload: bool | None,
    workers: int | None,
    via: str | None,
    allow_private: bool | None,
    store_url: str | None,
    log_level: str | None,
    directory: Path,
) -> None:
    """
    Take events in at POST /CONNECTOR and deliver them, until SIGTERM or Ctrl-C.

    Every option can also be set in connect.yaml (`admin_port: 9090`) or in the environment (CONNECT_ADMIN_PORT).
    CONNECT_KEY encrypts stored tokens, CONNECT_ADMIN_TOKEN guards the web page (CONNECT_ADMIN_READ_TOKEN lets look
    only), CONNECT_ALERT_WEBHOOKS names addresses that are told of trouble.
    """
    sys.setswitchinterval(SWITCH_S)
    project = options.open_kept(directory)
    require_clients(project)
    settings = project.settings
    host, admin_host = host or settings.host, admin_host or settings.admin_host
    port = port if port is not None else settings.port
    admin_port = admin_port if admin_port is not None else settings.admin_port
    if admin_port is None:
        admin_port = port + 1 if 0 < port < 65535 else 0
    limits = wiring.door_limits(address_rate or settings.address_rate, proxies, settings.proxies)
    delivers = deliver if deliver is not None else settings.deliver
    via, reach = options.checked_via(via, project), options.reach(allow_private, project)
    from engine.errors import ConnectError
    from engine.serve import serve

    with ExitStack() as stack:
        store = options.open_store(store_url, project)
        stack.callback(store.close)
        engine, telemetry, alerts = options.make_engine(
            project,
            store,
            via=via,
            reach=reach,
            workers=workers,
            log_level=log_level,
            reloads=reload if reload is not None else settings.reload,
            max_store=wiring.size_of(max_store or settings.max_store),
        )
        stack.callback(engine.close)
        stack.callback(options.close_alerts, alerts)
        stack.callback(telemetry.close)
        if not os.environ.get("CONNECT_TRACE"):
            stack.callback(telemetry.catch())
        access, pages = options.admin_side(engine, telemetry, project)
        stop, kept = threading.Event(), threading.Event()
        stack.callback(kept.set)
        threading.Thread(target=engine.keep, args=(kept,), name="keep", daemon=True).start()
        delivery = Delivery(engine, stop)
        stack.callback(delivery.end)

        def ready(at: int, admin_at: int) -> None:
            lines = started(engine, host, at, admin_host, admin_at, options.store_address(store_url, project), via)
            click.echo("\n".join(lines if delivers else [*lines, "Nothing is delivered here: --no-deliver."]))
            gc.freeze()  # what the start has made stays, and need not be looked through
            gc.set_threshold(*COLLECTIONS)
            telemetry.begin()
            if delivers:
                delivery.begin()
            later = threading.Timer(PREPARE_S, options.keep, (project,))
            later.daemon = True
            later.start()
            stack.callback(later.cancel)

        serve(
            engine,
            host=host,
            port=port,
            admin_port=admin_port,
            admin_host=admin_host,
            access=access,
            pages=pages,
            on_ready=ready,
            stop=stop,
            telemetry=telemetry,
            limits=limits,
            clock=engine.clock.now,
            traces=engine.traces,
        )
    if delivery.failed is not None:
        raise ConnectError(f"deliveries stopped: {type(delivery.failed).__name__}; what waits is kept in the store")


class Delivery:
    """The worker and the look at changed files, in threads beside the door."""

    def __init__(self, engine: Engine, door: threading.Event) -> None:
        self.engine, self.door = engine, door
        self.over = threading.Event()
        self.failed: BaseException | None = None
        self.threads: list[threading.Thread] = []

    def begin(self) -> None:
        self._mark(starting=True)
        watch = threading.Thread(target=self.engine.watch, args=(self.over,), name="watch", daemon=True)
        worker = threading.Thread(target=self._work, name="worker", daemon=True)
        self.threads = [watch, worker]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Finish the batches in flight."""
        self.over.set()
        if self.threads:
            self.engine.prepare()  # its thread may still wait for that
            self.engine.worker.stop()
        for thread in self.threads:
            thread.join(JOIN_S)
        if self.threads:
            self._mark(starting=False)

    def _await_work(self) -> None:
        """Until the rest is loaded; what is due from before loads it at once."""
        from engine.errors import StoreUnavailable

        now = self.engine.clock.now()
        try:
            due_at = self.engine.store.next_due(now=now)
        except StoreUnavailable:  # the worker tells of it
            return
        if due_at is None or due_at > now:
            self.engine.prepared.wait(JOIN_S)

    def _mark(self, *, starting: bool) -> None:
        """With what paused lanes are configured: the next start asks whether that has changed."""
        try:
            self.engine.mark_paused(starting=starting)
        except Exception as error:
            from engine.errors import told

            self.engine.telemetry.event("fault", where="watch", error=told(error))

    def _work(self) -> None:
        try:
            self._await_work()
            if not self.over.is_set():
                self.engine.worker.run()
        except BaseException as error:  # a process that takes in and never delivers would look alive
            from engine.errors import told

            self.failed = error
            self.engine.telemetry.event("fault", where="worker", error=told(error))
            self.door.set()


def require_clients(project: Project) -> None:
    """UsageError in a directory that is no project: a store made there would be looked for elsewhere later."""
    from engine.errors import UsageError

    if not project.client_files():
        raise UsageError(f"no client in {project.directory / 'clients'}; is --project right?")


def started(
    engine: Engine, host: str, port: int, admin_host: str, admin_port: int, store: str, via: str | None
) -> list[str]:
    """A few lines: where it listens, for whom, and what is not as it should be in production."""
    lines = [
        f"Events: http://{shown_host(host)}:{port}/{{{','.join(sorted(engine.connectors()))}}}",
        f"Clients: {', '.join(sorted(engine.active())) or 'none that is active'}",
        f"Store: {without_password(store)}",
    ]
    lines.append(f"Admin: http://{shown_host(admin_host)}:{admin_port}/")
    if via:
        lines.append(f"Every request goes to {via} and not to the vendors.")
    lines += told_reach(engine.reach, via)
    if not os.environ.get("CONNECT_KEY") and not store.startswith("memory:"):
        lines.append("Tokens are stored unencrypted; set CONNECT_KEY to what `connect key` prints.")
    if engine.broken:
        lines.append(f"{len(engine.broken)} findings keep files from being used; see `connect validate`.")
    return lines


def told_reach(reach: Egress, via: str | None) -> list[str]:
    """What is not as usual about where requests may go."""
    if via:
        return []
    lines = []
    if reach.allow_private:
        lines.append("Requests may go to private addresses: --allow-private.")
    if reach.proxy:
        lines.append(
            f"Requests go by way of {urlsplit(reach.proxy).hostname}; what addresses they reach is its choice."
        )
    elif ignored := [name for name in PROXIES if os.environ.get(name)]:
        lines.append(f"{', '.join(ignored)}: not used for requests to vendors; CONNECT_PROXY names a proxy.")
    return lines


def shown_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def without_password(store: str) -> str:
    """The address, with a password in it as ***."""
    if "@" not in store:
        return store
    import re

    return re.sub(r"(://[^/@:]*):[^@/]*@", r"\1:***@", store)
