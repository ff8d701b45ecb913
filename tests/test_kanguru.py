"""A connector written from the pages alone: log-in, a look-up in pages, a bulk that fails in part, polling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.authoring.examples import Result, run_example
from engine.spec.check import check
from engine.spec.load import load_connector
from engine.spec.located import read_file
from engine.spec.project import Project

if TYPE_CHECKING:
    from engine.spec.types import Example

FILE = Path(__file__).parent / "spec" / "good" / "kanguru.yaml"
KANGURU = load_connector(read_file(FILE))[0]
assert KANGURU is not None


def test_it_has_no_finding(tmp_path: Path) -> None:
    assert check(Project(tmp_path), [FILE], examples=False) == []


@pytest.mark.parametrize("example", KANGURU.examples, ids=[example.name for example in KANGURU.examples])
def test_each_example_is_what_the_engine_does(example: Example) -> None:
    assert KANGURU is not None
    assert run_example(KANGURU, example) == Result("kanguru", example.name, True)
