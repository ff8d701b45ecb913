"""What a change of connectors and clients does to what is sent."""

from __future__ import annotations

import re
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.authoring.differences import Change
    from engine.authoring.planning import ConnectorPlan, Difference, Differing, Event, Plan

SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


@click.command("plan")
@click.argument("sides", metavar="[OLD NEW]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--against", metavar="REVISION", help="Compare with this revision of git.  [default: HEAD]")
@click.option(
    "--events", metavar="FILE", type=click.Path(path_type=Path), help="More events: JSON, or one in each line."
)
@click.option(
    "--from-store", "stored", metavar="URL N", type=(str, click.IntRange(1, 10_000)), help="N events that wait there."
)
@click.option("--values", is_flag=True, help="Show the values of stored events, too; else only their kinds.")
@click.option("--connector", metavar="NAME", help="Only this connector.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "markdown"]), default="text", help="How it is told."
)
@click.option("--json", "as_json", is_flag=True, help="As --format json.")
@click.option("--all", "every", is_flag=True, help="Show every sample, also those that differ alike.")
@click.option("--exit-code", is_flag=True, help="End with 1 where anything differs.")
@options.project
def command(
    sides: tuple[Path, ...],
    against: str | None,
    events: Path | None,
    stored: tuple[str, int] | None,
    values: bool,
    connector: str | None,
    form: str,
    as_json: bool,
    every: bool,
    exit_code: bool,
    directory: Path,
) -> int:
    """
    Show what a change does: what would be sent differently, and which rules are others.

    OLD and NEW are two connector files or two project directories; without them the project is compared with git's
    HEAD. The events of the examples walk through both sides, offline. Nothing is sent, and no stored event is touched.
    """
    from engine.errors import UsageError

    if sides and (len(sides) != 2 or against is not None):
        raise UsageError("name both sides, connect plan OLD NEW, or none and --against a revision of git")
    from engine.authoring import planning, versions

    given = [
        *(read_lines(events) if events is not None else []),
        *(read_store(stored, directory, values) if stored else []),
    ]
    told = f"{sides[0]} and {sides[1]}" if sides else f"{against or 'HEAD'} and now"
    with nullcontext(versions.pair(*sides)) if sides else versions.against(directory, against or "HEAD") as (old, new):
        if connector is not None:
            there = sorted({*old.connectors, *new.connectors})
            if connector not in there:
                raise UsageError(f"no connector is called {connector}; there are {', '.join(there)}")
            old, new = (
                side._replace(connectors={name: one for name, one in side.connectors.items() if name == connector})
                for side in (old, new)
            )
        found = planning.plan(old, new, given)
    if as_json or form == "json":
        output.print_json(planning.as_json(found))
    else:
        click.echo((markdown if form == "markdown" else text)(found, told, every=every))
    return 1 if exit_code and not found.nothing else 0


def read_lines(file: Path) -> list[Event]:
    """The events of JSON lines, or of one JSON object or list over several lines. UsageError names the line."""
    import msgspec

    from engine.authoring.planning import Event
    from engine.errors import UsageError

    raw = options.read_events(file)
    if raw.lstrip()[:1] == b"[":
        try:
            listed = msgspec.json.decode(raw, type=list[msgspec.Raw])
        except msgspec.DecodeError as error:
            raise UsageError(f"{file}: not JSON: {error}") from None
        return [Event(f"event {number}", bytes(one)) for number, one in enumerate(listed, 1)]
    with suppress(msgspec.DecodeError):
        msgspec.json.decode(raw, type=dict[str, Any])
        return [Event("event 1", raw)]
    found = []
    for number, line in enumerate(raw.splitlines(), 1):
        if line.strip():
            try:
                msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:
                raise UsageError(f"{file}:{number}: each line is one event, a JSON object") from None
            found.append(Event(f"line {number}", line))
    return found


def read_store(stored: tuple[str, int], directory: Path, values: bool) -> list[Event]:
    from engine.authoring.planning import Event
    from engine.stores.waiting import waiting

    return [
        Event(f"stored event {one.event_id}", one.body, one.connector, one.client, not values)
        for one in waiting(stored[0], directory, stored[1])
    ]


# --- for people ---


def summary(plan: Plan, told: str) -> str:
    """`3 of 12 samples differ between HEAD and now; 2 rules changed`."""
    strangers = f"; {counted(plan.strangers, 'event')} fit no client" if plan.strangers else ""
    if plan.nothing:
        return f"nothing is sent differently between {told}: {counted(plan.samples, 'sample')} walked{strangers}"
    rules = sum(len(one.rules) for one in plan.connectors)
    unseen = sum(len(one.unseen) for one in plan.connectors)
    parts = [f"{plan.differing} of {counted(plan.samples, 'sample')} differ between {told}"]
    parts += [f"{counted(rules, 'rule')} changed"] if rules else []
    parts += [f"{counted(unseen, 'change')} that no sample shows"] if unseen else []
    return "; ".join(parts) + strangers


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def text(plan: Plan, told: str, *, every: bool = False) -> str:
    blocks = [connector_text(one, every=every) for one in plan.connectors]
    return "\n\n".join([*blocks, output.wrapped(summary(plan, told))])


def groups(one: ConnectorPlan, *, every: bool) -> list[tuple[Differing, int]]:
    from engine.authoring.planning import alike

    return [(each, 0) for each in one.differing] if every else alike(one.differing)


def connector_text(one: ConnectorPlan, *, every: bool) -> str:
    from engine.authoring.planning import together
    from engine.cli.preview import painted

    title = one.name if one.kind == "changed" else f"{one.name}: {one.kind}"
    lines = [painted(title, bold=True)]
    for each, more in groups(one, every=every):
        lines.append(f"  {sample_title(each, more, output.width() - 2)}")
        for difference, times in together(each.requests):
            lines += ["    " + line for line in difference_lines(difference, times, output.width() - 4)]
        lines += ["    " + change_line(change, output.width() - 4) for change in each.outcomes]
    for head, listed in (("rules", one.rules), ("changed, and no sample shows it", one.unseen)):
        if listed:
            lines += [f"  {head}", *(f"    {change_line(change, output.width() - 4)}" for change in listed)]
    return "\n".join(lines)


def sample_title(each: Differing, more: int, room: int) -> str:
    """The name of the sample, cut to the room; for whom; and how many more differ so."""
    end = f", for {each.client}" if each.client else ""
    end += f" (and {more} more)" if more else ""
    return output.shortened(each.sample, max(room - len(end), 20)) + end


def difference_lines(difference: Difference, times: int, room: int) -> list[str]:
    from engine.cli.preview import painted

    sign, colour = SIGNS[difference.kind]
    often = f" ({times} times)" if times > 1 else ""
    head = output.shortened(f"{request_name(difference)}: {address(difference)}", room - 2 - len(often))
    lines = [f"{painted(sign, fg=colour)} {head}{often}"]
    return [*lines, *(f"  {change_line(change, room - 2)}" for change in difference.fields)]


def request_name(difference: Difference) -> str:
    one = difference.request
    return one.action if one.step == "request" else f"{one.action}, {one.step}"


def address(difference: Difference) -> str:
    """Method and address without the scheme, which is always https."""
    return f"{difference.request.method} {difference.request.url.removeprefix('https://')}".rstrip()


def change_line(change: Change, room: int) -> str:
    """`~ http.retry.attempts  5 → 8` in one line."""
    from engine.cli.preview import painted

    sign, colour = SIGNS[change.kind]
    most = max(room // 2, 20)
    path = change.path if len(change.path) <= most else f"…{change.path[1 - most :]}"
    free = room - len(path) - 4
    if change.kind != "changed":
        value = written(change.new if change.kind == "added" else change.old)
        return f"{painted(sign, fg=colour)} {path}  {output.shortened(value, free)}"
    old, new = written(change.old), written(change.new)
    half = max((free - 3) // 2, 8)
    if len(old) + len(new) + 3 > free:
        old, new = unlike(old, new)
        old = output.shortened(old, max(half, free - 3 - len(new)))
        new = output.shortened(new, max(half, free - 3 - len(old)))
    return f"{painted(sign, fg=colour)} {path}  {old} → {new}"


def unlike(old: str, new: str) -> tuple[str, str]:
    """Two long texts without what they begin with both, but for the last word of it, or the end of a long one."""
    begin = next(
        (at for at, (one, two) in enumerate(zip(old, new, strict=False)) if one != two), min(len(old), len(new))
    )
    cut = max(old.rfind(" ", 0, max(begin - 1, 0)) + 1, begin - 8) if begin > 12 else 0
    return (f"…{old[cut:]}", f"…{new[cut:]}") if cut else (old, new)


def written(value: Any) -> str:
    """A value as YAML in one line, a plain text without quotes."""
    from engine.mapping import encode_json

    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {written(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[^\s\"'{}\[\],:#&*!|>%@`](?:[^\n\"{}\[\],#:]|:(?! ))*(?<!\s)", value):
        return value
    return encode_json(value).decode()


# --- for a comment on a change ---


def markdown(plan: Plan, told: str, *, every: bool = False) -> str:
    from engine.authoring.planning import together

    lines = ["### What this change sends", "", summary(plan, told) + "."]
    for one in plan.connectors:
        lines += ["", f"#### `{one.name}`" + ("" if one.kind == "changed" else f" ({one.kind})")]
        for each, more in groups(one, every=every):
            lines += ["", f"**{plain(sample_title(each, more, 200))}**"]
            for difference, times in together(each.requests):
                often = f" ({times} times)" if times > 1 else ""
                lines += ["", f"{request_head(difference)}{often}", *fenced(difference_body(difference))]
            if each.outcomes:
                lines += [
                    "",
                    "What becomes of it:",
                    *fenced([line for change in each.outcomes for line in diff_lines(change)]),
                ]
        for head, listed in (("Rules", one.rules), ("Changed, and no sample shows it", one.unseen)):
            if listed:
                lines += ["", f"**{head}**", *fenced([line for change in listed for line in diff_lines(change)])]
    return "\n".join(lines)


def request_head(difference: Difference) -> str:
    return f"{code(request_name(difference))}, {difference.kind}: {code(address(difference))}"


def difference_body(difference: Difference) -> list[str]:
    from engine.authoring.differences import ABSENT, Change

    if difference.kind == "changed":
        return [line for change in difference.fields for line in diff_lines(change)]
    body = difference.request.parts.get("body")
    if body is None:
        return []
    sides = (ABSENT, body) if difference.kind == "added" else (body, ABSENT)
    return diff_lines(Change("body", *sides))


def diff_lines(change: Change) -> list[str]:
    """The lines of a `diff` block; a value in one line."""
    lines = [] if change.kind == "added" else [f"- {change.path}: {written(change.old)}"]
    return lines if change.kind == "removed" else [*lines, f"+ {change.path}: {written(change.new)}"]


def fenced(lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    longest = max((len(found) for line in lines for found in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}diff", *lines, fence]


def code(text: str) -> str:
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    mark = "`" * (longest + 1)
    return f"{mark} {text} {mark}" if longest else f"`{text}`"


def plain(text: str) -> str:
    """A name that no Markdown is in."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)
