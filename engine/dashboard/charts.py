"""Numbers -> small charts as SVG, drawn by the server; the colours are the style sheet's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 120, 28  # of a small one
WIDE, HIGH = 600, 120


class Line(NamedTuple):
    """One series of a chart: the class that colours it, and its values, the oldest first."""

    name: str
    values: Sequence[float | None]


def bars(label: str, *stacked: Line, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """One bar for each slot, the series on top of each other. A bar is a thick stroke, which takes few bytes."""
    slots = list(zip(*(line.values for line in stacked), strict=True))
    count, most = len(slots), max((sum(value or 0 for value in slot) for slot in slots), default=0)
    parts = []
    if most:
        step = width / count
        middles = [_short((at + 0.5) * step) for at in range(count)]
        scale = (height - 1) / most
        floor = [height] * count
        for name, values in stacked:
            path = []
            for at, value in enumerate(values):
                if value:
                    tall = round(value * scale) or 1
                    path.append(f"M{middles[at]} {floor[at]}v-{tall}")
                    floor[at] -= tall
            if path:
                parts.append(f'<path class="{name}" d="{"".join(path)}"/>')
        return _svg(label, "bars", width, height, parts, f' stroke-width="{_short(step * 0.8)}"')
    return _svg(label, "bars", width, height, parts)


def lines(label: str, *series: Line, width: int = WIDE, height: int = HIGH) -> Markup:
    """One line for each series over a common scale; gaps where there is no value."""
    most = max((value for line in series for value in line.values if value is not None), default=0)
    parts = []
    for line in series:
        step, path, pen = width / max(len(line.values), 1), [], "M"
        for at, value in enumerate(line.values):
            if value is None:
                pen = "M"
                continue
            y = height - 1 - value / most * (height - 2) if most else height - 1
            x = at * step
            # a value that stands alone is a short dash, or nobody would see it
            path.append(f"{pen}{_short(x)} {_short(y)}h{_short(step * 0.8)}")
            pen = "L"
        if path:
            parts.append(f'<path class="{line.name}" d="{"".join(path)}"/>')
    return _svg(label, "lines", width, height, parts)


def share(label: str, part: int, whole: int, *, width: int = WIDTH, height: int = 10) -> Markup:
    """A bar that is filled so far."""
    filled = _short(min(part / whole, 1) * width) if whole else "0"
    name = "full" if part >= whole else "used"
    parts = [
        f'<path class="whole" d="M0 0h{width}v{height}H0z"/>',
        f'<path class="{name}" d="M0 0h{filled}v{height}H0z"/>',
    ]
    return _svg(label, "share", width, height, parts)


def highest(*series: Sequence[int]) -> int:
    """The highest stack of bars."""
    return max((sum(each) for each in zip(*series, strict=True)), default=0)


def _svg(label: str, kind: str, width: int, height: int, parts: list[str], more: str = "") -> Markup:
    base = f'<path class="base" d="M0 {height - 0.5}h{width}"/>'
    return Markup(
        f'<svg class="chart {kind}" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}"'
        f' preserveAspectRatio="none"{more}>{base}{"".join(parts)}</svg>'
    )


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
