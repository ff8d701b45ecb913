"""Options that several commands have; what is not given is in the environment, in `connect.yaml`, or a default."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute

    from engine.audit import Audit
    from engine.egress import Egress
    from engine.ports import Alerts, Secrets, Store, Telemetry
    from engine.program import Program
    from engine.runtime import Engine
    from engine.sending import Masker
    from engine.spec.project import Project
    from engine.spec.types import Client
    from engine.stores.lent import LentTokens
    from engine.telemetry import Telemetry as Logging

Command = TypeVar("Command", bound="Callable[..., Any]")

_PROXY = re.compile(r"https?://([^/@\s]+@)?[^/@:\s]+(:[0-9]+)?/?")
_VIA = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?/?")


def project(command: Command) -> Command:
    return click.option(
        "--project",
        "directory",
        envvar="CONNECT_PROJECT",
        default=".",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        help="The directory with connectors/, clients/ and connect.yaml.  [default: the current one]",
    )(command)


def store(command: Command) -> Command:
    return click.option(
        "--store",
        "store_url",
        envvar="CONNECT_STORE",
        metavar="URL",
        help="Where events wait.  [default: sqlite:///connect.db]",
    )(command)


def via(command: Command) -> Command:
    return click.option(
        "--via",
        envvar="CONNECT_VIA",
        metavar="URL",
        help="Send every request to this address instead: a sandbox on this machine.",
    )(command)


def allow_private(command: Command) -> Command:
    return click.option(
        "--allow-private/--no-allow-private",
        envvar="CONNECT_ALLOW_PRIVATE",
        default=None,
        help="Hosts may lead to addresses of private networks, too.  [default: no]",
    )(command)


def workers(command: Command) -> Command:
    return click.option(
        "--workers",
        envvar="CONNECT_WORKERS",
        type=click.IntRange(1, 256),
        help="Clients that are served at the same time.  [default: 8]",
    )(command)


def log_level(command: Command) -> Command:
    return click.option(
        "--log-level",
        envvar="CONNECT_LOG_LEVEL",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="What is logged, on stderr.  [default: info]",
    )(command)


def as_json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="For programs.")(command)


def lane_filters(command: Command) -> Command:
    for name in ("client", "connector"):
        command = click.option(f"--{name}", metavar="NAME", help=f"Only of this {name}.")(command)
    return command


def open_project(directory: Path) -> Project:
    from engine.spec.project import Project

    return Project(directory)


def checked_via(given: str | None, project: Project) -> str | None:
    """The address that stands in for all vendors; only one of this machine, for log-ins go there in plain text."""
    found = given or project.settings.via
    if found is not None and not _VIA.fullmatch(found):
        raise UsageError(f"--via {found}: only this machine, such as http://127.0.0.1:8090")
    return found


def reach(allowed: bool | None, project: Project) -> Egress:
    """What requests may reach: public addresses, private ones where that is said, and a proxy where one is named."""
    from engine.egress import Egress

    settings = project.settings
    proxy = os.environ.get("CONNECT_PROXY") or settings.proxy
    if proxy is not None and not _PROXY.fullmatch(proxy):
        raise UsageError("CONNECT_PROXY: an address such as http://proxy.example.com:3128")
    return Egress(allow_private=settings.allow_private if allowed is None else allowed, proxy=proxy)


def store_address(given: str | None, project: Project) -> str:
    return given or project.settings.store


def open_store(given: str | None, project: Project) -> Store:
    from engine.stores import opening

    return opening.open_store(store_address(given, project), project.directory, name=project.settings.name)


def open_shared_store(given: str | None, project: Project) -> Store:
    """The store of a serving process; one that was never written to is empty, and looking at it does not make it."""
    from engine.stores.memory import MemoryStore

    address = store_address(given, project)
    if address.startswith("memory:"):
        raise UsageError("memory: is seen only by the process that serves; ask its admin side")
    if address.startswith("sqlite:///") and not (project.directory / address.removeprefix("sqlite:///")).exists():
        return MemoryStore()
    return open_store(given, project)


def lend_tokens(store: LentTokens, program: Program, given: str | None, project: Project) -> None:
    """The stored tokens, where a log-in of its own would spend a refresh token that others still need."""
    if program.auth.is_precious and not store_address(given, project).startswith("memory:"):
        store.lender = open_store(given, project)


def client_of(project: Project, connector: str, given: str | None) -> str:
    """The client that was named, or the only one that has the connector."""
    if given is not None:
        return project.client(given).client
    project.connector(connector)
    clients: dict[str, Client] = project.all()[1]
    having = sorted(name for name, client in clients.items() if connector in client.connectors)
    if len(having) == 1:
        return having[0]
    known = f"it is one of {', '.join(having)}" if having else f"no client has {connector}"
    raise UsageError(f"name the client with --client; {known}")


class Masking:
    """The masker of an engine that is made after the log it writes to."""

    def __init__(self) -> None:
        self.masker: Masker | None = None

    def __call__(self, text: str) -> str:
        return self.masker.mask(text) if self.masker is not None else text


def make_engine(
    project: Project,
    store: Store,
    *,
    via: str | None,
    reach: Egress,
    workers: int | None,
    log_level: str | None,
    reloads: bool = True,
    max_store: int | None = None,
) -> tuple[Engine, Logging, Alerts]:
    """An engine that logs to stderr, counts, and alerts as the environment says."""
    from engine.runtime import Engine
    from engine.telemetry import Telemetry

    masking = Masking()
    telemetry = Telemetry(mask=masking, level=log_level or project.settings.log_level)
    alerts = make_alerts(telemetry, reach)
    engine = Engine(
        project,
        store,
        telemetry=telemetry,
        alerts=alerts,
        via=via,
        reach=reach,
        workers=workers or project.settings.workers,
        reloads=reloads,
        max_store=max_store,
    )
    masking.masker = engine.masker
    telemetry.watch(engine.lanes)
    return engine, telemetry, alerts


def make_alerts(telemetry: Telemetry, reach: Egress) -> Alerts:
    """The log, and what CONNECT_ALERT_WEBHOOKS (addresses, apart by blanks or commas) and CONNECT_ALERT_SNS name."""
    from engine.alerts import PRIVATE_ALERTS, LogAlerts, SeveralAlerts, SnsAlerts, WebhookAlerts
    from engine.egress import Egress

    def failed(target: str, why: str) -> None:
        telemetry.event("fault", where="alerts", target=target, error=why)

    found: list[Alerts] = [LogAlerts(telemetry)]
    urls = os.environ.get("CONNECT_ALERT_WEBHOOKS", "").replace(",", " ").split()
    if any(not url.startswith(("https://", "http://")) for url in urls):
        raise UsageError("CONNECT_ALERT_WEBHOOKS: addresses that begin with https://, apart by blanks or commas")
    if urls:
        private = os.environ.get(PRIVATE_ALERTS, "").lower() in ("1", "true", "yes")  # these no proxy can reach
        hooks = Egress(allow_private=True) if private else Egress(proxy=reach.proxy)
        found.append(WebhookAlerts(urls, failed=failed, reach=hooks))
    if topic := os.environ.get("CONNECT_ALERT_SNS"):
        if topic.count(":") < 5:
            raise UsageError("CONNECT_ALERT_SNS: a topic such as arn:aws:sns:sa-east-1:123456789012:alerts")
        found.append(SnsAlerts(topic, failed=failed))
    return SeveralAlerts(found)


def close_alerts(alerts: Alerts) -> None:
    """Let those that are still on their way go out."""
    from engine.alerts import SeveralAlerts

    if isinstance(alerts, SeveralAlerts):
        alerts.close()


def admin_routes(engine: Engine) -> Sequence[BaseRoute]:
    """What the admin side shows besides health, metrics and lanes."""
    del engine
    return ()


def audit(project: Project) -> Audit:
    """Where CONNECT_AUDIT or `audit` of `connect.yaml` says, as the user who runs this."""
    from engine.audit import Audit, operator

    named = os.environ.get("CONNECT_AUDIT") or project.settings.audit
    return Audit(None if named == "-" else project.directory / named, who=operator(os.environ))


def secrets_of(project: Project) -> Secrets:
    from engine.secrets import SecretSources

    return SecretSources(project.directory, os.environ)


def read_events(file: Path) -> bytes:
    """An event, or a list of them, from a file or from stdin for `-`."""
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
