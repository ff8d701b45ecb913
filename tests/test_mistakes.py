"""
What people mistype in a spec: each mistake alone, in a good file, with the exact findings it brings.

A block of `tests/spec/bad/mistakes/THEME.txt` is a title (`#`), the lines that stand around (blank), the lines that go
(`-`), those that come in their place (`+`), and what `connect validate` says (`=`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from engine.spec.check import check
from engine.spec.findings import Finding
from engine.spec.project import Project
from engine.spec.violations import bundled

HOME = Path(__file__).parent / "spec" / "bad" / "mistakes"
MOST_LIKELY = 60


class Mistake(NamedTuple):
    theme: str
    title: str
    good: str
    bad: str
    findings: list[str]

    @property
    def file(self) -> str:
        """The file that it is made in."""
        return "clients/shop.yaml" if self.theme == "clients" else "connectors/acme.yaml"


def mistakes() -> list[Mistake]:
    found = []
    for path in sorted(HOME.glob("*.txt")):
        for block in path.read_text(encoding="utf-8").strip("\n").split("\n\n"):
            title, *lines = block.split("\n")
            good = [line[1:] for line in lines if line[:1] in (" ", "-")]
            bad = [line[1:] for line in lines if line[:1] in (" ", "+")]
            said = [line[2:] for line in lines if line[:2] == "= "]
            assert title.startswith("# ")
            assert {line[:1] for line in lines} <= set(" -+="), block
            found.append(Mistake(path.stem, title[2:], "\n".join(good), "\n".join(bad), said))
    return found


MISTAKES = mistakes()


def lay_out(folder: Path) -> None:
    """A project of the two good files."""
    for name, home in (("acme", "connectors"), ("shop", "clients")):
        (folder / home).mkdir()
        shutil.copy(HOME / f"{name}.yaml", folder / home)
    (folder / "schemas").symlink_to(bundled("schemas"))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)


def said(finding: Finding, file: str) -> str:
    return str(finding).removeprefix(f"{file}:")


def test_the_files_have_no_finding_before_a_mistake_is_made() -> None:
    assert check(Project(".")) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake.theme}: {mistake.title}")
def test_a_mistake_has_exactly_these_findings(mistake: Mistake) -> None:
    path = Path(mistake.file)
    text = path.read_text(encoding="utf-8")
    assert f"\n{text}".count(f"\n{mistake.good}\n") == 1, "the lines stand once in the file"
    path.write_text(f"\n{text}".replace(f"\n{mistake.good}\n", f"\n{mistake.bad}\n")[1:], encoding="utf-8")
    found = check(Project("."), [path])
    assert [said(each, mistake.file) for each in found] == mistake.findings
    assert mistake.findings


def test_there_are_at_least_as_many_mistakes_as_people_are_likely_to_make() -> None:
    assert len({(each.good, each.bad) for each in MISTAKES}) == len(MISTAKES)
    assert len({(each.theme, each.title) for each in MISTAKES}) == len(MISTAKES)
    assert len(MISTAKES) >= MOST_LIKELY


def test_one_mistake_is_one_finding_with_what_to_write_instead() -> None:
    """But for a few that are wrong in two places, and those whose message alone says what is right."""
    several = [each.title for each in MISTAKES if len(each.findings) > 1]
    assert len(several) <= 4, several
    without = [each.title for each in MISTAKES for line in each.findings if "; " not in line]
    assert len(without) <= 34, without
