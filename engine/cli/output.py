"""What commands print: tables that fit a terminal, colours only where a person watches, JSON for programs."""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from click._termui_impl import ProgressBar

_JSON = msgspec.json.Encoder(decimal_format="number", enc_hook=str)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
COLOURS = {
    "delivered": "green",
    "passed": "green",
    "throttled": "yellow",
    "paused": "red",
    "rejected": "red",
    "failed": "red",
}


def print_json(value: Any) -> None:
    click.echo(pretty(value))


def pretty(value: Any) -> str:
    """JSON over several lines, numbers exact."""
    return msgspec.json.format(_JSON.encode(value), indent=2).decode()


def coloured(word: str) -> str:
    """In the colour of what it says; click takes colours out again where nobody watches."""
    colour = COLOURS.get(word)
    return click.style(word, fg=colour) if colour and not os.environ.get("NO_COLOR") else word


def watched() -> bool:
    """Does a person look at what is printed?"""
    return sys.stdout is not None and sys.stdout.isatty()


def width() -> int:
    """80 for programs and pipes."""
    return shutil.get_terminal_size((80, 24)).columns if watched() else 80


def plain(text: str) -> str:
    """A text from elsewhere, without what a terminal would obey: each such character by its number."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shortened(text: str, length: int) -> str:
    """One line of plain text, cut where it is longer."""
    line = plain(" ".join(text.split()))
    return line if len(line) <= length else f"{line[: max(length - 1, 0)]}…"


def wrapped(text: str, *, below: str = "", whole_words: bool = True) -> str:
    """In lines that fit; all but the first begin with `below`. A word that is longer than a line stays whole, if so."""
    import textwrap

    fitting = textwrap.wrap(
        text, width(), subsequent_indent=below, break_long_words=not whole_words, break_on_hyphens=False
    )
    return "\n".join(fitting)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], *, notes: Sequence[str] = ()) -> str:
    """
    Columns as wide as they need to be, numbers to the right; the first column gives way where the line is too long.

    `notes` holds one text for each row, shown below it and cut to the line's end; empty: none.
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(heads), *texts]) for at in range(len(heads))]
    room = width()
    while sum(widths) + 2 * (len(widths) - 1) > room and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    right = [bool(rows) and all(isinstance(row[at], int | None) for row in rows) for at in range(len(heads))]

    def line(cells: Sequence[str], paint: Callable[[str], str]) -> str:
        padded = []
        for cell, wide, to_right in zip(cells, widths, right, strict=True):
            cut = shortened(cell, wide)
            blank = " " * (wide - len(cut))
            padded.append(f"{blank}{paint(cut)}" if to_right else f"{paint(cut)}{blank}")
        return "  ".join(padded).rstrip()

    lines = [line(heads, lambda text: click.style(text, bold=True))]
    for number, row in enumerate(texts):
        lines.append(line(row, coloured))
        if number < len(notes) and notes[number]:
            lines.append(click.style(f"  {shortened(notes[number], room - 2)}", dim=True))
    return "\n".join(lines)


def ago(seconds: float | None) -> str:
    """`45s`, `12m`, `3h`, `2d`: how long something has waited."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def moment(at: float) -> str:
    """A time of the machine's own zone, to the second."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


@contextmanager
def progress(label: str, length: int) -> Iterator[Callable[..., None]]:
    """
    A bar on stderr, where a person watches and there is more than one thing to do; call it with what comes next,
    and with how many were done if it is not one.
    """
    if length < 2 or sys.stderr is None or not sys.stderr.isatty():
        yield lambda *_: None
        return
    shown = [""]
    bar: ProgressBar[int]
    with click.progressbar(
        length=length, label=label, file=sys.stderr, item_show_func=lambda _: shown[0] or None
    ) as bar:

        def step(what: str, count: int = 1) -> None:
            shown[0] = shortened(what, 30)
            bar.update(count)

        yield step
