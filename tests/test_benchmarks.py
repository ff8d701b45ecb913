"""How figures are taken, told and kept: ratios of one run, goals, the page, and what the hot paths may cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import budget, page, results
from benchmarks.__main__ import sections
from benchmarks.budget import LIMIT, Figure, Judged, counted, judged, moved, told
from benchmarks.hot_paths import HotPath, Work
from benchmarks.measuring import (
    CPU,
    ROOT,
    Beside,
    Comparison,
    Figures,
    Goal,
    Took,
    alternate,
    at_least,
    at_most,
    compare,
    measured,
    missing,
)
from benchmarks.page import for_terminal, number, table
from benchmarks.results import Result, from_json

FIGURES = Figures({"ours": [100, 120, 90, 200, 110], "theirs": [50, 40, 45, 50, 55]}, CPU)


def result(section: str, *comparisons: Comparison, quick: bool = False) -> Result:
    title, about = section.capitalize(), f"About {section}."
    return Result(
        section, title, about, "2026-11-28T18:04Z", "abc123", quick, 3.2, "2 cores", ("a 1.0",), tuple(comparisons)
    )


# --- comparing ---


def test_a_ratio_is_the_median_of_the_rounds_own_ratios_not_that_of_the_medians() -> None:
    assert compare("map", FIGURES, "ours", "theirs", "them 1.0", goal=at_least(3)) == Comparison(
        *("map", 110, "events/s", 50, "them 1.0", 2.0, Goal(at_least=3), 1.0),
        how="5 rounds, CPU time",
    )


def test_in_a_unit_of_time_a_figure_is_what_one_takes_and_less_is_better() -> None:
    figures = Figures({"ours": [100.0] * 5, "theirs": [50.0] * 5}, CPU)
    found = compare("map", figures, "ours", "theirs", unit="ms", goal=at_most(0.6))
    assert (found.ours, found.theirs, found.ratio, found.met) == (10.0, 20.0, 0.5, True)


def test_a_goal_without_a_contestant_is_one_for_our_own_figure_and_a_missing_contestant_leaves_it_open() -> None:
    lines = [
        measured("memory", 130, "MB", goal=at_most(120)),
        measured("memory", [100, 110, 130], "MB", goal=at_most(120)),
        missing("map", "them", "node is not here", goal=at_least(4)),
        measured("memory", 130, "MB"),
    ]
    assert [line.met for line in lines] == [False, True, None, None]


def test_contestants_take_turns_and_their_first_turn_is_not_counted() -> None:
    turns: list[str] = []

    def contestant(name: str, seconds: float) -> Took:
        turns.append(name)
        return Took(10, seconds if turns.count(name) > 1 else 1000.0)

    found = alternate({"a": lambda: contestant("a", 2.0), "b": lambda: contestant("b", 4.0)})
    assert (turns, found) == (["a", "b"] * 6, Figures({"a": [5.0] * 5, "b": [2.5] * 5}, CPU))


def test_a_contestant_in_another_process_is_asked_once_a_round() -> None:
    code = (
        'import sys, json; print(json.dumps("them 1.0"), flush=True)\n'
        'for n, _ in enumerate(sys.stdin): print(json.dumps({"count": n, "seconds": 2}), flush=True)'
    )
    with Beside([sys.executable, "-c", code]) as them:
        assert (them.hello, them(), them()) == ("them 1.0", Took(0, 2), Took(1, 2))
    assert them.process.returncode == 0


# --- telling ---


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1_234_567, "1,230,000"), (87.123, "87.1"), (0.012345, "0.0123"), (120, "120"), (0, "0"), (None, "–")],
)
def test_three_figures_of_a_number_are_shown(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_a_line_for_a_terminal_says_whether_the_goal_is_met_in_80_columns() -> None:
    line = compare("a mapping of sixty fields " * 5, FIGURES, "ours", "theirs", "them 1.0", goal=at_least(3))
    shown = for_terminal(line).splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[-1].split() == ["110", ":", "50", "events/s", "=", "2", "≥", "3", "NO", "±50%"]


def test_the_page_counts_the_goals_and_names_those_that_are_not_met(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page, "NOTES", tmp_path)
    (tmp_path / "drain.md").write_text("Written about drain.")
    (tmp_path / "next.md").write_text("## Next\n\nWhere it would come from.")
    drain = result("drain", compare("drain", FIGURES, "ours", "theirs", "them 1.0", goal=at_least(3)), quick=True)
    mapping = result(
        "mapping",
        compare("map", FIGURES, "ours", "theirs", "them 1.0", goal=at_least(2)),
        missing("map", "that", "node is not here", goal=at_least(4)),
    )
    taken = "*Taken 2026-11-28 18:04 UTC of `abc123`"
    assert page.page([drain, mapping]) == "\n\n".join(
        [
            page.HEAD,
            "**1 of 2 goals are met.** 1 more could not be judged on this machine.",
            "- Not met: drain against them 1.0: 2, the goal is ≥ 3.",
            "## Mapping",
            "About mapping.",
            f"{taken}, in 3 s, on 2 cores.*",
            table(mapping),
            "## Drain",
            "About drain.",
            f"{taken}, in the short form, in 3 s, on 2 cores.*",
            table(drain),
            "Written about drain.",
            "## Next\n\nWhere it would come from.",
            "## Versions\n\nOf what ours is made of: a 1.0.\n",
        ]
    )
    assert table(mapping).splitlines()[2:] == [
        "| map | them 1.0 | 110 events/s | 50 events/s | **2** | ± 50% | ≥ 2 | yes | 5 rounds, CPU time |",
        "| map | that | – |  |  |  | ≥ 4 | not judged | not had here: node is not here |",
    ]
    assert "| ≥ 3 | **NO** |" in table(drain)


def test_a_section_that_is_measured_again_replaces_only_its_own_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    one, two = result("mapping", measured("a", 1.5, "ms", goal=at_most(2))), result("drain", measured("b", 2, "ms"))
    for each in (one, two):
        each.save()
    again = result("drain", measured("b", 3, "ms"))
    again.save()
    assert results.saved() == [again, one]
    assert from_json(one.as_json()) == one


def test_the_page_in_the_docs_is_what_the_tool_writes_of_the_results_that_are_kept() -> None:
    kept = results.saved()
    assert {each.section for each in kept} <= set(sections())
    assert not kept or (ROOT / "docs" / "performance.md").read_text() == page.page(kept)


# --- the budget ---


@contextmanager
def summing(numbers: int) -> Iterator[Work]:
    """Some Python, and twice as many calls of C."""
    yield lambda number: lambda: [abs(abs(each)) + number for each in range(numbers)]


def cost(numbers: int) -> dict[str, float]:
    return {figure.kind: figure.value for figure in counted("sum", HotPath("sum", lambda: summing(numbers), counted=7))}


def test_instructions_and_calls_of_c_are_the_same_in_every_run_and_grow_with_the_work() -> None:
    one, double = cost(100), cost(200)
    assert cost(100) == one
    assert one["calls"] == 200
    assert (double["calls"], round(double["instructions"] / one["instructions"], 1)) == (400, 2.0)


KEPT = {
    "counts": {budget.PYTHON: {"map-responsys": {"instructions": 1000, "calls": 50}}, "3.99": {"load": {"calls": 7}}},
    "machine": "another",
    "times": {"map-responsys": 0.04},
}


def test_what_is_counted_may_cost_15_percent_more_and_no_more() -> None:
    def over(kind: str, value: float) -> bool:
        return judged(Figure("map-responsys", kind, value), KEPT).is_over

    assert [over("instructions", 1000 * LIMIT), over("instructions", 1151), over("calls", 57), over("calls", 58)] == [
        *(False, True, False, True)
    ]


def test_a_path_without_a_figure_is_new_and_fails_nothing() -> None:
    verdict = judged(Figure("load", "instructions", 9), KEPT)
    assert (verdict.is_over, told([verdict]).split()[-2:]) == (False, ["9", "new"])


def test_a_time_of_another_kind_of_machine_is_shown_and_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure("map-responsys", "time", 0.08)
    monkeypatch.setattr(budget, "timed", lambda name, _: Figure(name, "time", 0.06))
    elsewhere = judged(figure, KEPT)
    assert (elsewhere, told([elsewhere]).split()[-2:]) == (Judged(figure, 0.04, False), ["0.08", "(+100%)"])
    here = judged(figure, {**KEPT, "machine": budget.machine()})
    assert (here.is_over, told([here]).split()[-2:]) == (True, ["0.06", "+50%!"])


def test_a_time_that_is_over_is_taken_again_before_it_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "timed", lambda name, _: Figure(name, "time", 0.041))
    verdict = judged(Figure("map-responsys", "time", 0.08), {**KEPT, "machine": budget.machine()})
    assert (verdict.is_over, verdict.figure.value) == (False, 0.041)


def test_figures_are_moved_for_this_version_of_python_only() -> None:
    figures = [Figure("load", "instructions", 5), Figure("load", "calls", 2), Figure("encode", "time", 0.1)]
    assert moved(KEPT, figures) == {
        "counts": {budget.PYTHON: {"load": {"instructions": 5, "calls": 2}}, "3.99": {"load": {"calls": 7}}},
        "machine": budget.machine(),
        "times": {"encode": 0.1},
    }


def test_every_figure_in_the_repository_is_of_a_path_that_there_is() -> None:
    kept = budget.kept()
    paths = set(budget.HOT_PATHS) | set(budget.STARTS)
    assert {name for counts in kept["counts"].values() for name in counts} == paths
    assert set(kept["times"]) == {name for name, path in budget.HOT_PATHS.items() if path.is_timed}
