"""Options that several commands have; what is not given is in the environment, in `connect.yaml`, or a default."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from engine.errors import UsageError
from engine.wiring import checked_via as checked_via
from engine.wiring import close_alerts as close_alerts
from engine.wiring import make_engine as make_engine
from engine.wiring import open_store as open_store
from engine.wiring import reach as reach
from engine.wiring import store_address as store_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.dashboard.board import Board
    from engine.door.access import Access
    from engine.ports import Secrets, Store
    from engine.program import Program
    from engine.runtime import Engine
    from engine.spec.project import Project
    from engine.spec.types import Client
    from engine.stores.lent import LentTokens
    from engine.telemetry.audit import Audit
    from engine.telemetry.log import Telemetry
    from engine.trail.recording import Recorder

Command = TypeVar("Command", bound="Callable[..., Any]")


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


def open_kept(directory: Path) -> Project:
    """What has not changed since a serving process read it is not read again."""
    from engine.spec import compiled

    return compiled.open_kept(directory)


def keep(project: Project) -> None:
    """For the next start."""
    from engine.spec import compiled

    compiled.keep(project)


def open_shared_store(given: str | None, project: Project) -> Store:
    """The store of a serving process; one that was never written to is empty, and looking at it does not make it."""
    from engine.stores import opening
    from engine.stores.memory import MemoryStore

    address = store_address(given, project)
    if address.startswith("memory:"):
        raise UsageError("memory: is seen only by the process that serves; ask its admin side")
    if opening.schema_of(address, project.directory).found is None:
        return MemoryStore()
    return open_store(given, project)


def open_trail(project: Project, store: Store) -> Recorder | None:
    """What became of events, where that was ever kept; to be looked at, or to forget somebody there."""
    import time

    from engine.telemetry.log import NullTelemetry
    from engine.trail.opening import existing_trail
    from engine.wiring import own_settings

    now = getattr(getattr(store, "clock", None), "now", time.time)
    return existing_trail(store, project.settings.trail, own_settings(project), now=now, telemetry=NullTelemetry())


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


def admin_side(engine: Engine, telemetry: Telemetry, project: Project) -> tuple[Access, Callable[[], Board]]:
    """
    Who may look at the admin side, and what makes its pages, which count what this process does from now on.

    They are made when somebody looks, or a little after the start: they take a good part of its time.
    """
    from engine.dashboard.history import History
    from engine.door.access import Access
    from engine.wiring import own_settings

    env = own_settings(project)
    access = Access(env.get("CONNECT_ADMIN_TOKEN"), env.get("CONNECT_ADMIN_READ_TOKEN"))
    history = History(engine.clock.now)
    telemetry.tell(history.hear)

    def board() -> Board:
        from engine.dashboard.board import Board

        engine.prepare()  # the pages show connectors that no client has, too
        return Board(engine, access, history, audit_file=audit_file(project), clock=engine.clock.now)

    return access, board


def audit_file(project: Project) -> Path | None:
    """Where CONNECT_AUDIT or `audit` of `connect.yaml` says; None for stderr."""
    named = os.environ.get("CONNECT_AUDIT") or project.settings.audit
    return None if named == "-" else project.directory / named


def audit(project: Project) -> Audit:
    """As the user who runs this."""
    from engine.telemetry.audit import Audit, operator

    return Audit(audit_file(project), who=operator(os.environ))


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
