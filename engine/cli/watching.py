"""The lanes as they change: looks at the store -> rates and sparklines -> lines that fit a screen, trouble first."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from engine.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.text import Text

    from engine.records import Lane

COLUMNS = 10  # of a sparkline
COLUMN_S = 18.0  # three minutes in all
BARS = "▁▂▃▄▅▆▇█"
HEADS = ("state", "waiting", "", "/min", "", "oldest")
WIDTHS = (9, 7, COLUMNS, 6, COLUMNS, 6)
LEAST_NAME = 12
HEAD_LINES, FOOT_LINES = 3, 2
COLOURS = {"paused": "bold red", "throttled": "yellow", "waiting": "cyan", "idle": "dim"}

Piece = tuple[str, str]  # a text and its style


class Look(NamedTuple):
    """A lane at a moment."""

    at: float
    delivered: int
    rejected: int
    waiting: int


class Watched(NamedTuple):
    """A lane with what became of it over the last minutes."""

    lane: Lane
    per_minute: float | None  # over the last minute; None at the first look
    delivered: tuple[float | None, ...]  # a minute, by column; None: not looked at
    waiting: tuple[float | None, ...]  # at the end of each column
    rejected: int  # within all columns

    @property
    def trouble(self) -> tuple[int, float, float, str]:
        """What needs attention first comes first."""
        lane = self.lane
        rank = {"paused": 0, "throttled": 2}.get(lane.state, 3)
        if rank and self.rejected:
            rank = 1
        oldest = lane.oldest_at if lane.oldest_at is not None else float("inf")
        return rank, oldest, -(self.per_minute or 0.0), f"{lane.connector}/{lane.client}"


class History:
    """What was seen of each lane over the last minutes; rates are differences of its counters."""

    def __init__(self) -> None:
        self._looks: dict[tuple[str, str], deque[Look]] = {}

    def look(self, lanes: Iterable[Lane], now: float) -> list[Watched]:
        """Every lane, what needs attention first; `now` is unix seconds, and rises."""
        before, self._looks = self._looks, {}
        found = []
        for lane in lanes:
            name = (lane.connector, lane.client)
            looks = self._looks[name] = before.get(name, deque())
            looks.append(Look(now, lane.delivered, lane.rejected, lane.waiting))
            while len(looks) > 2 and looks[1].at <= now - COLUMNS * COLUMN_S:
                looks.popleft()
            found.append(_watched(lane, looks, now))
        return sorted(found, key=lambda each: each.trouble)


def _watched(lane: Lane, looks: Sequence[Look], now: float) -> Watched:
    ends: list[Look | None] = [None] * (COLUMNS + 1)  # the last look of each column, and the one before them all
    for look in looks:
        age = min(COLUMNS, max(0, int((now - look.at) // COLUMN_S)))
        ends[COLUMNS - age] = look
    delivered: list[float | None] = []
    last = ends[0] or looks[0]
    for end in ends[1:]:
        if end is None or end.at <= last.at:
            delivered.append(None)
            continue
        delivered.append(60 * max(0, end.delivered - last.delivered) / (end.at - last.at))
        last = end
    first = looks[0]
    whole_s = now - first.at
    recent = next((look for look in looks if look.at >= now - 60), looks[-1])
    recent_s = now - recent.at
    rate = 60 * max(0, looks[-1].delivered - recent.delivered) / recent_s if recent_s > 0 else None
    return Watched(
        lane,
        rate,
        tuple(delivered),
        tuple(float(end.waiting) if end is not None else None for end in ends[1:]),
        max(0, looks[-1].rejected - first.rejected) if whole_s > 0 else 0,
    )


def sparkline(values: Sequence[float | None]) -> str:
    """A bar for each value, the highest as tall as the line; a blank where there is none."""
    top = max((value for value in values if value is not None), default=0.0)
    return "".join(
        " " if value is None else BARS[0 if not value else max(1, round(value / top * (len(BARS) - 1)))]
        for value in values
    )


def number(value: float) -> str:
    """In at most six characters."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.0f}{unit}"
    return f"{value:.0f}" if value >= 9.95 or value == int(value) else f"{value:.1f}"


def frame(
    found: Sequence[Watched], now: float, *, width: int, height: int | None, away: str | None = None
) -> list[list[Piece]]:
    """
    Lines of pieces, none wider than `width`; as many lanes as `height` lines have room for, the rest summed up.

    `away`: why the store could not be read.
    """
    if away is not None:
        return [_summary(found, now, width), [(output.shortened(away, width), "bold red")]]
    lines: list[list[Piece]] = [_summary(found, now, width), []]
    if not found:
        return [*lines[:1], [("no event has come in yet", "dim")]]
    name_width = max(LEAST_NAME, width - sum(WIDTHS) - 8)
    lines.append(_row(output.shortened("connector/client", name_width), HEADS, name_width, ["bold"] * 7))
    room = height - HEAD_LINES - FOOT_LINES if height is not None else None
    shown, used = 0, 0
    for each in found:
        said = _said(each, now)
        if room is not None and used + 1 + bool(said) > max(room, 1) and shown:
            break
        lines.append(_lane(each, now, name_width))
        if said:
            lines.append([("  " + output.shortened(said, width - 2), "dim")])
        shown, used = shown + 1, used + 1 + bool(said)
    if rest := found[shown:]:
        waiting, rate = sum(each.lane.waiting for each in rest), sum(each.per_minute or 0.0 for each in rest)
        text = f"… and {len(rest)} more: {waiting:,} waiting, {number(rate)}/min"
        lines += [[], [(output.shortened(text, width), "dim")]]
    return lines


def _summary(found: Sequence[Watched], now: float, width: int) -> list[Piece]:
    states = [each.lane.state for each in found]
    rejected = sum(each.rejected for each in found)
    parts: list[Piece] = [
        (time.strftime("%H:%M:%S", time.localtime(now)), "bold"),
        (f"{len(found):,} {'lane' if len(found) == 1 else 'lanes'}", ""),
    ]
    parts += [
        (f"{states.count(state):,} {state}", COLOURS[state]) for state in ("paused", "throttled") if state in states
    ]
    parts.append((f"{sum(each.lane.waiting for each in found):,} waiting", ""))
    if any(each.per_minute is not None for each in found):
        parts.append((f"{number(sum(each.per_minute or 0.0 for each in found))}/min", ""))
    if rejected:
        parts.append((f"{rejected:,} rejected", "red"))
    line: list[Piece] = []
    left = width
    for text, style in parts:
        gap = "  " if line else ""
        if len(gap) + len(text) > left:
            break
        line.append((gap + text, style))
        left -= len(gap) + len(text)
    return line


def _lane(each: Watched, now: float, name_width: int) -> list[Piece]:
    lane = each.lane
    oldest = output.ago(max(0.0, now - lane.oldest_at)) if lane.oldest_at is not None else ""
    cells = (
        lane.state,
        number(lane.waiting),
        sparkline(each.waiting),
        number(each.per_minute) if each.per_minute is not None else "",
        sparkline(each.delivered),
        oldest,
    )
    state = COLOURS.get(lane.state, "")
    return _row(named(lane, name_width), cells, name_width, ["", state, "", "cyan", "", "green", ""])


def _row(name: str, cells: Sequence[str], name_width: int, styles: Sequence[str]) -> list[Piece]:
    pieces = [(name.ljust(name_width), styles[0])]
    for at, (cell, wide) in enumerate(zip(cells, WIDTHS, strict=True)):
        text = cell.ljust(wide) if at in (0, 2, 4) else cell.rjust(wide)
        pieces.append((("  " if at in (0, 5) else " ") + text, styles[at + 1]))
    return pieces


def named(lane: Lane, width: int) -> str:
    """`connector/client`; of what is too long the connector's end goes first, then the middle of the client's name."""
    whole = f"{lane.connector}/{lane.client}"
    if len(whole) <= width:
        return whole
    connector = output.shortened(lane.connector, max(width // 3, width - 1 - len(lane.client)))
    room = width - len(connector) - 1
    if len(lane.client) <= room:
        return f"{connector}/{lane.client}"
    right = room // 3
    return f"{connector}/{lane.client[: room - 1 - right]}…{lane.client[len(lane.client) - right :]}"


def _said(each: Watched, now: float) -> str:
    """Why it stands as it does; empty where all is well."""
    lane, parts = each.lane, []
    if lane.state == "throttled" and lane.not_before > now:
        parts.append(f"for {output.ago(lane.not_before - now)} more")
    if lane.reason:
        parts.append(lane.reason)
    if each.rejected:
        parts.append(f"{each.rejected:,} rejected within {int(COLUMNS * COLUMN_S // 60)} minutes")
    return "; ".join(parts)


def plain(lines: Sequence[Sequence[Piece]]) -> str:
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def on_screen(
    looks: Iterator[list[Watched]], *, now: Callable[[], float], away: Callable[[], str | None] = lambda: None
) -> None:
    """Each look in the place of the one before, on a screen of its own, until there are no more."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stdout, highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for found in looks:
            lines = frame(found, now(), width=console.width, height=console.height, away=away())
            live.update(_text(lines[: console.height]), refresh=True)


def _text(lines: Sequence[Sequence[Piece]]) -> Text:
    from rich.text import Text

    whole = Text(no_wrap=True, overflow="crop", end="")
    for at, line in enumerate(lines):
        for text, style in line:
            whole.append(text, style)
        if at + 1 < len(lines):
            whole.append("\n")
    return whole
