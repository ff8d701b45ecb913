"""Show the requests that an event would cause; nothing leaves this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from engine.preview import Shown


@click.command("preview")
@click.argument("name", metavar="CONNECTOR")
@click.argument("file", metavar="EVENT.json", type=click.Path(path_type=Path))
@click.option("--client", metavar="NAME", help="The client; may be left out where only one has the connector.")
@click.option("--auth", is_flag=True, help="Show log-ins, too.")
@options.as_json
@options.project
def command(name: str, file: Path, client: str | None, auth: bool, as_json: bool, directory: Path) -> int:
    """
    Show the requests that an event would cause.

    The event (or a list of them; - reads stdin) goes through the real walk, and the connector's sandbox answers.
    Nothing is sent, no secret is needed, and secrets are shown as ***.
    """
    project = options.open_project(directory)
    connector = project.connector(name)
    who = project.client(options.client_of(project, name, client))
    if name not in who.connectors:
        from engine.errors import UsageError

        raise UsageError(f"{who.client} has no connector {name}; it has {', '.join(who.connectors)}")
    body = options.read_events(file)
    from engine.preview import preview

    shown = preview(connector, who, body, now=time.time(), auth=auth)
    if as_json:
        output.print_json({"requests": shown.requests, "skipped": shown.skipped})
    else:
        click.echo(text(shown, simulated=connector.sandbox is not None))
    return 1 if shown.paused else 0


def text(shown: Shown, *, simulated: bool) -> str:
    blocks = [request_text(one, step) for one, step in zip(shown.requests, shown.steps, strict=True)]
    ends = [f"{one['action']}: skipped, {one['reason']}" for one in shown.skipped]
    unsent = {one["action"] for one in shown.skipped}
    judge = "the sandbox" if simulated else "an empty 200"
    for one in shown.endings:
        if one.action not in unsent:
            because = f": {one.outcome.reason}" if one.outcome.reason else ""
            ends.append(f"{one.action}: {output.coloured(one.kind)}, says {judge}{because}")
    if shown.paused:
        ends.append(f"the lane would be {output.coloured('paused')}: {shown.paused}")
    return "\n\n".join([*blocks, "\n".join(ends)] if ends else blocks)


def request_text(request: dict[str, Any], step: str) -> str:
    title = request["action"] if step == "request" else f"{request['action']}, {step}"
    head = f"{click.style(title, bold=True)}\n{request['method']} {request['url']}"
    headers = [f"{name}: {value}" for name, value in request["headers"].items()]
    return "\n".join([head, *headers, *body_text(request)])


def body_text(request: dict[str, Any]) -> list[str]:
    body = request["body"]
    if body is None:
        return []
    kind = next((value for name, value in request["headers"].items() if name.lower() == "content-type"), "")
    if not isinstance(body, str):
        body = output.pretty(body)
    elif kind.startswith("application/x-www-form-urlencoded"):
        body = "\n".join(f"{name} = {value}" for name, value in parse_qsl(body, keep_blank_values=True))
    return ["", body.rstrip("\r\n").replace("\r\n", "\n")]
