"""Results as tables: 80 columns for a terminal, Markdown for docs/performance.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from benchmarks.measuring import ROOT, Comparison, Goal
from benchmarks.results import Result

NOTES = ROOT / "benchmarks" / "notes"
ORDER = ("mapping", "intake", "direct", "drain", "walk", "growth", "memory", "startup")  # others after them, by name


def in_order(sections: Iterable[str]) -> list[str]:
    return sorted(sections, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def number(value: float | None) -> str:
    """Three figures that count: 1,230,000; 87.1; 0.0123."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        digits = len(str(int(abs(value))))
        return f"{round(value, min(0, 3 - digits)):,.0f}"
    return f"{value:.3g}"


def goal(wanted: Goal | None) -> str:
    if wanted is None:
        return ""
    return f"≥ {number(wanted.at_least)}" if wanted.at_least is not None else f"≤ {number(wanted.at_most)}"


def verdict(line: Comparison) -> str:
    if line.goal is None:
        return ""
    return {True: "yes", False: "NO", None: "not judged"}[line.met]


def for_terminal(line: Comparison) -> str:
    """What was measured, then the figures below it; never wider than 80 columns."""
    against = f" against {line.against}" if line.against else ""
    title = textwrap.fill(f"{line.what}{against}", 78, initial_indent="  ", subsequent_indent="    ")
    if line.missing:
        return f"{title}\n" + textwrap.fill(
            f"not had here: {line.missing}", 76, initial_indent="      ", subsequent_indent="      "
        )
    figures = f"      {number(line.ours):>10}"
    figures += f" : {number(line.theirs):<10}" if line.against else " " * 13
    figures += f" {line.unit:<9}"
    figures += f" = {number(line.ratio):<7}" if line.against else " " * 10
    figures += f" {goal(line.goal):<9} {verdict(line):<6}"
    if line.spread is not None:
        figures += f" ±{line.spread / 2:.0%}"
    return f"{title}\n{figures.rstrip()}"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def row(line: Comparison) -> str:
    cells = [
        cell(line.what),
        cell(line.against),
        f"{number(line.ours)} {line.unit}".strip() if line.ours is not None else "–",
        f"{number(line.theirs)} {line.unit}".strip() if line.theirs is not None else "",
        f"**{number(line.ratio)}**" if line.ratio is not None else "",
        f"± {line.spread / 2:.0%}" if line.spread is not None else "",
        goal(line.goal),
        "" if line.goal is None else f"**{verdict(line)}**" if line.met is False else verdict(line),
        cell(f"not had here: {line.missing}" if line.missing else line.how),
    ]
    return "| " + " | ".join(cells) + " |"


def table(result: Result) -> str:
    head = "| what | against | ours | theirs | ratio | spread | goal | met | how |\n"
    return (
        head
        + "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |\n"
        + "\n".join(map(row, result.comparisons))
    )


def page(results: Sequence[Result]) -> str:
    by_name = {result.section: result for result in results}
    ordered = [by_name[name] for name in in_order(by_name)]
    parts = [HEAD, written("before"), summary(ordered)]
    for result in ordered:
        about = textwrap.dedent(result.about)
        form = ", in the short form" if result.quick else ""
        parts.append(f"## {result.title}")
        parts.append(about)
        parts.append(f"*Taken {result.taken.replace('T', ' ').replace('Z', ' UTC')} of `{result.commit}`{form}, in "
                     f"{result.took_s:.0f} s, on {result.machine}.*")  # fmt: skip
        parts.append(table(result))
        parts.append(written(result.section))
    parts += [written("profile"), written("next"), written("no-help")]
    rest = {file.stem for file in NOTES.glob("*.md")} - set(by_name) - {"before", "profile", "next", "no-help"}
    parts += [written(name) for name in in_order(rest)]
    parts.append("## Versions\n\nOf what ours is made of: " + ", ".join(versions(ordered)) + ".")
    return "\n\n".join(part for part in parts if part) + "\n"


HEAD = """<!-- Written by `python -m benchmarks --write docs/performance.md`; the texts are in benchmarks/notes. -->

# Performance

Each figure was taken beside its contestant in one run, in turns, on one machine. Figures change with the machine;
ratios (`ours / theirs`) hold better, and the goals are ratios. The spread is half of what lies between the rounds'
smallest and largest ratio. `make bench` measures all of it again."""


def versions(results: Sequence[Result]) -> list[str]:
    return sorted({package for result in results for package in result.versions})


def summary(results: Sequence[Result]) -> str:
    """How many goals are met, and in plain words those that are not."""
    judged = [line for result in results for line in result.comparisons if line.met is not None]
    open_goals = [line for result in results for line in result.comparisons if line.goal and line.met is None]
    unmet = [line for line in judged if not line.met]
    said = f"**{len(judged) - len(unmet)} of {len(judged)} goals are met.**"
    if open_goals:
        said += f" {len(open_goals)} more could not be judged on this machine."
    listed = []
    for line in unmet:
        against = f" against {line.against}" if line.against else ""
        had = number(line.ratio) if line.against else f"{number(line.ours)} {line.unit}".strip()
        listed.append(f"- Not met: {line.what}{against}: {had}, the goal is {goal(line.goal)}.")
    return "\n\n".join([said, "\n".join(listed)] if listed else [said])


def written(name: str) -> str:
    file = NOTES / f"{name}.md"
    return file.read_text().strip() if file.exists() else ""
