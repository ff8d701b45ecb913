"""Show the requests that an event would cause; nothing leaves this machine."""

from __future__ import annotations

import os
import re
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from engine.authoring.explaining import Field, Origin, Places
    from engine.authoring.preview import Shown
    from engine.spec.project import Project

NO_VARIABLE = "# *** is a signature, or a part of a secret; with it the vendor refuses this\n"
_JSON_LINE = re.compile(r'(\s*)("(?:[^"\\]|\\.)*")(: )?(.*)\Z')


@click.command("preview")
@click.argument("name", metavar="CONNECTOR")
@click.argument("file", metavar="EVENT.json", type=click.Path(path_type=Path))
@click.option("--client", metavar="NAME", help="The client; may be left out where only one has the connector.")
@click.option("--auth", is_flag=True, help="Show log-ins, too.")
@click.option("--explain", is_flag=True, help="Show where each field came from: file, line, expression, values.")
@click.option("--curl", is_flag=True, help="Show each request as a curl command, secrets as shell variables.")
@click.option("--via", metavar="URL", help="With --curl: send to this address, a sandbox on this machine.")
@options.as_json
@options.project
def command(
    name: str,
    file: Path,
    client: str | None,
    auth: bool,
    explain: bool,
    curl: bool,
    via: str | None,
    as_json: bool,
    directory: Path,
) -> int:
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
    if via is not None:
        via = options.checked_via(via, project)
    body = options.read_events(file)
    from engine.authoring.preview import preview

    shown = preview(connector, who, body, now=time.time(), auth=auth, explain=explain, as_curl=curl, via=via)
    places = places_of(project, name, who.client) if explain else None
    if as_json:
        found: dict[str, Any] = {"requests": shown.requests, "skipped": shown.skipped}
        if places is not None:
            found["explained"] = [[field_json(one, places) for one in fields] for fields in shown.fields]
        if curl:
            found["curl"] = shown.commands
        output.print_json(found)
    else:
        click.echo(text(shown, simulated=connector.sandbox is not None, places=places, curl=curl))
    return 1 if shown.paused else 0


def places_of(project: Project, connector: str, client: str) -> Places:
    from engine.authoring.explaining import Places

    loaded = project.loaded_connector(connector).located
    assert loaded is not None
    files = [project.loaded_client(path) for path in project.client_files().values()]
    located = next((one.located for one in files if one.value is not None and one.value.client == client), None)
    return Places(loaded, located, connector)


def text(shown: Shown, *, simulated: bool, places: Places | None = None, curl: bool = False) -> str:
    if curl:
        blocks = [
            f"# {title(one, step)}\n{NO_VARIABLE if '***' in command else ''}{command}"
            for one, step, command in zip(shown.requests, shown.steps, shown.commands, strict=True)
        ]
    elif places is not None:
        blocks = [
            explained_text(one, step, fields, places)
            for one, step, fields in zip(shown.requests, shown.steps, shown.fields, strict=True)
        ]
    else:
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
    if curl:
        ends = [f"# {line}" for line in ends]
    return "\n\n".join([*blocks, "\n".join(ends)] if ends else blocks)


def title(request: dict[str, Any], step: str) -> str:
    return request["action"] if step == "request" else f"{request['action']}, {step}"


def request_text(request: dict[str, Any], step: str) -> str:
    return "\n".join([*head(request, step), *body_text(request)])


def head(request: dict[str, Any], step: str) -> list[str]:
    """The title, the request line and the headers."""
    return [
        painted(title(request, step), bold=True),
        f"{painted(request['method'], fg='cyan', bold=True)} {painted(request['url'], fg='cyan')}",
        *(painted(f"{name}: {value}", dim=True) for name, value in request["headers"].items()),
    ]


def body_text(request: dict[str, Any]) -> list[str]:
    body = request["body"]
    if body is None:
        return []
    kind = next((value for name, value in request["headers"].items() if name.lower() == "content-type"), "")
    if not isinstance(body, str):
        body = "\n".join(map(json_line, output.pretty(body).splitlines()))
    elif kind.startswith("application/x-www-form-urlencoded"):
        body = "\n".join(f"{name} = {value}" for name, value in parse_qsl(body, keep_blank_values=True))
    return ["", body.rstrip("\r\n").replace("\r\n", "\n")]


def painted(line: str, **style: Any) -> str:
    return line if os.environ.get("NO_COLOR") else click.style(line, **style)


def json_line(line: str) -> str:
    """A line of JSON with its key and its text in colours."""
    found = _JSON_LINE.match(line)
    if found is None:
        return line
    blank, text, colon, rest = found.groups()
    if not colon:
        return f"{blank}{painted(text, fg='green')}{rest}"
    return f"{blank}{painted(text, fg='blue')}{colon}{json_line(rest)}"


# --- where each field came from ---


def explained_text(request: dict[str, Any], step: str, fields: list[Field], places: Places) -> str:
    lines = head(request, step)
    for one in fields:
        lines += ["", *field_lines(one, places)]
    if not fields and request["body"] is not None:
        lines += body_text(request)
    return "\n".join(lines)


def field_lines(field: Field, places: Places) -> list[str]:
    """`target = value`, then what it came from, each in a line that fits."""
    from engine.authoring.explaining import shown_value

    room = output.width()
    value = shown_value(field.value)
    lines = [f"{painted(field.target, fg='blue')} = {cut(value, room - len(field.target) - 3)}"]
    if field.origin is None:
        return lines
    lines += origin_lines(field.origin, places, "  ", room)
    return lines


def origin_lines(origin: Origin, places: Places, indent: str, room: int) -> list[str]:
    """The expression, whole, and where it is written; the branches that led to it; what it read and where from."""
    from engine.authoring.explaining import shown_value

    lines = arrow(indent, origin.expression or origin.note, places.of(origin.place), room)
    if origin.expression and origin.note:
        lines += arrow(indent, origin.note, "", room)
    for why in origin.because:
        lines += arrow(indent, f"since {why}", "", room)
    for read in origin.reads:
        value = cut(shown_value(read.value), room - len(indent) - len(read.name) - 7)
        lines.append(f"{indent}  ← {read.name} = {value}")
        if read.origin is not None:
            lines += origin_lines(read.origin, places, f"{indent}    ", room)
    return lines


def arrow(indent: str, text: str, where: str, room: int) -> list[str]:
    """The way back, over as many lines as it needs; where it is written stands at its end."""
    below = f"{indent}  "
    lines = textwrap.wrap(
        f"← {text}",
        room,
        initial_indent=indent,
        subsequent_indent=below,
        break_on_hyphens=False,
        break_long_words=False,
    )
    if where and len(lines[-1]) + 2 + len(where) <= room:
        lines[-1] += f"  {painted(where, dim=True)}"
    elif where:
        lines.append(f"{below}{painted(where, dim=True)}")
    return lines


def cut(text: str, length: int) -> str:
    return output.shortened(text, max(length, 12))


def field_json(field: Field, places: Places) -> dict[str, Any]:
    return {"field": field.target, "value": field.value, **(origin_json(field.origin, places) if field.origin else {})}


def origin_json(origin: Origin, places: Places) -> dict[str, Any]:
    found: dict[str, Any] = {"at": places.of(origin.place)}
    if origin.expression:
        found["expression"] = origin.expression
    if origin.note:
        found["from"] = origin.note
    if origin.because:
        found["because"] = list(origin.because)
    if origin.reads:
        found["reads"] = [
            {
                "name": read.name,
                "value": read.value,
                **({"origin": origin_json(read.origin, places)} if read.origin else {}),
            }
            for read in origin.reads
        ]
    return found
