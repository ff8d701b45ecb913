"""`python tests/torture/page.py FIGURES` -> docs/guarantees.json, and the column of figures in docs/guarantees.md."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, KEPT = DOCS / "guarantees.md", DOCS / "guarantees.json"
ROW = re.compile(r"^\| (?P<promise>[^|]+) \| `(?P<test>test_\w+)`(?P<rest>[^|]*) \|(?P<figures>[^|]*)\|$", re.MULTILINE)


def with_figures(page: str, kept: dict[str, list[str]]) -> str:
    """The page with what each test measured; a test that measures nothing has an empty cell."""

    def row(match: re.Match[str]) -> str:
        figures = "<br>".join(kept.get(match["test"], []))
        shown = f" {figures} " if figures else " "
        return f"| {match['promise']} | `{match['test']}`{match['rest']} |{shown}|"

    return ROW.sub(row, page)


def collected(lines: list[str]) -> dict[str, list[str]]:
    """test -> its figures, one for each of its forms (`test_x[2]`)."""
    last = {(found := json.loads(line))["test"]: found["figures"] for line in lines}
    kept: dict[str, list[str]] = {}
    for test, figures in last.items():
        kept.setdefault(test.partition("[")[0], []).append(figures)
    return kept


def main(file: str) -> None:
    kept = collected(Path(file).read_text(encoding="utf-8").splitlines())
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
