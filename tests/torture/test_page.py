from __future__ import annotations

import json
import re

from command import ROOT
from page import KEPT, PAGE, ROW, collected, with_figures


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
