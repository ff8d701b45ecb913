from __future__ import annotations

import json
import re

from command import ROOT
from mutants import MUTANTS, name_of, place
from page import KEPT, PAGE, ROW, collected, with_figures
from run import short


def test_every_promise_names_a_test_that_is_there_and_the_figures_that_were_measured() -> None:
    page = PAGE.read_text(encoding="utf-8")
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert [test for test in sorted(named) if f"def {test}(" not in tests] == []
    assert len(ROW.findall(page)) > 20
    assert with_figures(page, json.loads(KEPT.read_text(encoding="utf-8"))) == page


def test_the_last_figures_of_a_test_count_and_its_forms_stand_together() -> None:
    lines = [
        json.dumps({"test": test, "figures": text})
        for test, text in [("test_a[1]", "old"), ("test_a[1]", "one"), ("test_a[2]", "two"), ("test_b", "three")]
    ]
    assert collected(lines) == {"test_a": ["one", "two"], "test_b": ["three"]}
    page = "| Both | `test_a` | |\n| Once more | `test_a`, again | old |\n| None | `test_c` | old |\n"
    assert with_figures(page, {"test_a": ["one", "two"]}) == (
        "| Both | `test_a` | one<br>two |\n| Once more | `test_a`, again | one<br>two |\n| None | `test_c` | |\n"
    )


def test_a_run_ends_with_a_short_table_and_what_was_lost_in_all() -> None:
    lines = [
        json.dumps({"test": "test_a_kill[1]", "figures": "5 events, 2 lost"}),
        json.dumps({"test": "test_b", "figures": "7 events, 1 lost"}),
        json.dumps({"test": "run", "figures": "today, 9 lost"}),
    ]
    assert short(lines) == "a kill[1]\n    5 events, 2 lost\nb\n    7 events, 1 lost\nlost in all: 3"


def test_what_is_taken_out_to_see_a_test_fail_is_still_where_it_was() -> None:
    """Once in its file: else `make mutants` would take out something else, or nothing."""
    gone = {f"{one.file}: {one.old}": (ROOT / one.file).read_text(encoding="utf-8").count(one.old) for one in MUTANTS}
    assert {text: count for text, count in gone.items() if count != 1} == {}
    assert all(place(one.test) for one in MUTANTS)
    assert len({name_of(one) for one in MUTANTS}) == len(MUTANTS)


def test_every_promise_was_seen_broken() -> None:
    page = PAGE.read_text(encoding="utf-8")
    promised = {match["test"] for match in ROW.finditer(page)} | {"tests/torture/test_model.py"}
    assert sorted(promised - {one.test for one in MUTANTS}) == []
    assert sorted(json.loads(KEPT.read_text(encoding="utf-8"))["mutants"]) == sorted(map(name_of, MUTANTS))
