"""
`python tests/torture/page.py FIGURES` -> docs/guarantees.json, and what docs/guarantees.md says of the last run: when
and where it was, the column of figures, the table of what was taken out.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from mutants import MUTANTS, name_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, KEPT = DOCS / "guarantees.md", DOCS / "guarantees.json"
RUN = re.compile(r"^Last run: .*$", re.MULTILINE)
HEAD = "| promise's test | what was taken out | what it said |\n| --- | --- | --- |\n"
TAKEN = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")
ROW = re.compile(r"^\| (?P<promise>[^|]+) \| `(?P<test>test_\w+)`(?P<rest>[^|]*) \|(?P<figures>[^|]*)\|$", re.MULTILINE)


def taken_out(said: dict[str, str]) -> str:
    """The table of mutants.py: those of which it is known what their test said."""
    rows = [(mutant, said.get(name_of(mutant), "not run yet")) for mutant in MUTANTS]
    return HEAD + "".join(
        f"| `{mutant.test}`{f', {mutant.only}' if mutant.only else ''} | {mutant.taken} | `{text}` |\n"
        for mutant, text in rows
    )


def with_figures(page: str, kept: dict[str, Any]) -> str:
    """The page with what each test measured; a test that measures nothing has an empty cell."""

    def row(match: re.Match[str]) -> str:
        figures = "<br>".join(kept.get(match["test"], []))
        shown = f" {figures} " if figures else " "
        return f"| {match['promise']} | `{match['test']}`{match['rest']} |{shown}|"

    page = TAKEN.sub(lambda _: taken_out(kept.get("mutants", {})), ROW.sub(row, page))
    return RUN.sub(lambda _: f"Last run: {kept['run'][0]}", page) if "run" in kept else page


def collected(lines: list[str]) -> dict[str, list[str]]:
    """test -> its figures, one for each of its forms (`test_x[2]`)."""
    last = {(found := json.loads(line))["test"]: found["figures"] for line in lines}  # the run itself is a `test`, too
    kept: dict[str, list[str]] = {}
    for test, figures in last.items():
        kept.setdefault(test.partition("[")[0], []).append(figures)
    return kept


def main(file: str) -> None:
    before = json.loads(KEPT.read_text(encoding="utf-8"))  # a test that was not run keeps what it measured last
    kept = {**before, **collected(Path(file).read_text(encoding="utf-8").splitlines())}
    written_anew(kept)


def written_anew(kept: dict[str, Any]) -> None:
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
