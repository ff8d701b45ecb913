"""Simulated CRMs on a port of this machine, and what to export so that clients use them."""

from __future__ import annotations

import shlex
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.spec.types import Client, Connector


@click.command("sandbox")
@click.option("--port", default=8090, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@options.project
def command(port: int, directory: Path) -> None:
    """
    Simulated CRMs on a port of this machine, until Ctrl-C.

    What it prints can be sourced by a shell: where the sandbox is, and credentials it takes for each client.
    """
    from engine.door import listening
    from engine.errors import UsageError
    from engine.sandbox import Sandbox, application

    connectors, clients, _ = options.open_project(directory).all()
    simulated = {name: connector for name, connector in connectors.items() if connector.sandbox is not None}
    if not simulated:
        raise UsageError("no connector has a `sandbox:`")
    sandboxes = [Sandbox(connector) for connector in simulated.values()]
    for sandbox in sandboxes:
        sandbox.require_sound()
    sock = listening.listen("127.0.0.1", port)
    address = f"http://127.0.0.1:{sock.getsockname()[1]}"

    def ready() -> None:
        click.echo(f"# sandbox of {', '.join(simulated)} at {address}")
        click.echo(f"export CONNECT_VIA={address}")
        for name, value in environment(simulated, clients.values()).items():
            click.echo(f"export {name}={shlex.quote(value)}")

    listening.run([(application(sandboxes, time.time), sock)], stop=threading.Event(), grace_s=1.0, ready=ready)


def environment(simulated: dict[str, Connector], clients: Iterable[Client]) -> dict[str, str]:
    """A value for each environment variable that the clients of these connectors name: credentials and write keys."""
    found: dict[str, str] = {}
    for client in clients:
        bound = [name for name in client.connectors if name in simulated]
        for name in bound:
            spec = simulated[name].sandbox
            assert spec is not None
            for secret, reference in client.connectors[name].secrets.items():
                if reference.startswith("env:") and secret in spec.secrets:
                    found[reference.removeprefix("env:")] = spec.secrets[secret]
        for reference in client.ingest.keys if bound else ():
            if reference.startswith("env:"):
                found.setdefault(reference.removeprefix("env:"), f"sandbox-key-{client.client}")
    return found
