"""
How large a test is, and what it measured: `make torture` runs the large form and collects the figures.

CONNECT_TORTURE=full makes everything larger; CONNECT_FIGURES=FILE collects what was measured, a line for each test;
CONNECT_MUTANT=1 leaves out the search for the smallest input that fails.
"""

from __future__ import annotations

import json
import os
from typing import TypeVar

from hypothesis import Phase

T = TypeVar("T")
PHASES = (Phase.explicit, Phase.generate) if os.environ.get("CONNECT_MUTANT") else tuple(Phase)  # of Hypothesis
FULL = os.environ.get("CONNECT_TORTURE") == "full"


def sized(short: T, full: T) -> T:
    return full if FULL else short


def figures(test: str, text: str) -> None:
    """What was measured, for the page of guarantees."""
    print(f"\n{test}: {text}")
    if target := os.environ.get("CONNECT_FIGURES"):
        with open(target, "a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "form": "full" if FULL else "short", "figures": text}) + "\n")
