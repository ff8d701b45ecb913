"""Specs compiled at build: what is read from the file is what would have been read from the project, or nothing is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import whole

from engine.errors import SpecErrors
from engine.spec.compiled import KEPT, NAME, alike, keep, open_kept, open_project, write_compiled
from engine.spec.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
CRM = """
tables: {rates: {light: 0.5, whole: 1, exact: 1.50}}
receive:
  client: "${ event.client }"
  id: "${ event.id }"
  schema: {$ref: ../schemas/crm.json}
"""
SCHEMA = {"type": "object", "properties": {"price": {"type": "number", "multipleOf": 0.01}}}
ABC = "client: abc\nconnectors: {crm: {}}\n"


@pytest.fixture
def home(project_from: Callable[..., Path]) -> Path:
    home = project_from(crm=CRM, abc=ABC)
    (home / "schemas").mkdir()
    (home / "schemas" / "crm.json").write_text(json.dumps(SCHEMA))
    (home / "connect.yaml").write_text("workers: 3\n")
    return home


def is_read(project: Project) -> bool:
    """Is anything read from YAML?"""
    project.all()
    return any(loaded.located is not None for _, loaded in project._kept.values())


def test_what_is_compiled_is_what_would_be_read_to_the_last_type(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "clients", tmp_path / "clients")
    project = Project(tmp_path)
    write_compiled(project)
    compiled = open_project(tmp_path)
    assert (is_read(compiled), len(compiled.all()[0]) >= 9) == (False, True)
    assert alike(compiled.all()[0], project.all()[0])
    assert alike(compiled.all()[1], project.all()[1])


def test_a_project_of_ones_own_comes_back_with_its_schema_and_its_settings(home: Path) -> None:
    write_compiled(Project(home))
    compiled = open_project(home)
    assert not is_read(compiled)
    assert compiled.settings.workers == 3
    crm = compiled.connector("crm")
    assert alike(crm.receive.schema, SCHEMA)
    assert alike(crm.tables["rates"], {"light": Decimal("0.5"), "whole": 1, "exact": Decimal("1.50")})


def test_a_copy_of_the_project_takes_the_file_along(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("build") / "project"
    shutil.copytree(home, copy)
    write_compiled(Project(home), copy)
    assert (is_read(open_project(copy)), (home / NAME).exists()) == (False, False)


@pytest.mark.parametrize(
    "change",
    [
        lambda home: (home / "clients" / "abc.yaml").write_text(ABC + "title: Loja\n"),
        lambda home: (home / "clients" / "xyz.yaml").write_text(ABC.replace("abc", "xyz")),
        lambda home: (home / "clients" / "abc.yaml").unlink(),
        lambda home: (home / "connectors" / "crm.yaml").write_text(whole(CRM) + "description: Another\n"),
        lambda home: (home / "schemas" / "crm.json").write_text("{}"),
        lambda home: (home / "connect.yaml").write_text("workers: 4\n"),
        lambda home: (home / "connect.yaml").unlink(),
        lambda home: (home / NAME).write_text("{"),
        lambda home: (home / NAME).write_text((home / NAME).read_text().replace('"engine":"', '"engine":"0')),
        lambda home: (home / NAME).unlink(),
    ],
)
def test_when_anything_is_not_what_it_was_the_project_is_read(home: Path, change: Callable[[Path], object]) -> None:
    write_compiled(Project(home))
    change(home)
    assert is_read(open_project(home))


def test_what_is_not_sound_is_not_compiled(home: Path) -> None:
    (home / "clients" / "abc.yaml").write_text("client: abc\nconnectors: {crm: {secret: 1}}\n")
    with pytest.raises(SpecErrors, match="unknown key"):
        write_compiled(Project(home))
    assert not (home / NAME).exists()


def test_a_start_from_what_is_compiled_loads_neither_yaml_nor_json_schema_of_specs(home: Path) -> None:
    write_compiled(Project(home))
    code = (
        "import sys; from engine.spec.compiled import open_project; from engine.runtime import Engine;"
        "from engine.stores.memory import MemoryStore; engine = Engine(open_project(sys.argv[1]), MemoryStore());"
        "print(sorted(engine.receivers), [name for name in ('yaml', 'engine.spec.expand') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True, check=True)
    assert done.stdout == "['crm'] []\n"


# --- what a serving process keeps by itself ---


def kept(home: Path) -> Project:
    """A project that was read once, kept, and is opened again."""
    first = open_kept(home)
    first.all()
    keep(first)
    return open_kept(home)


def read_again(home: Path) -> list[str]:
    """The files that are read from YAML, of a project that was kept before."""
    project, seen = open_kept(home), list[str]()
    read = project.read

    def noted(path: Path) -> object:
        seen.append(path.name)
        return read(path)

    project.read = noted  # type: ignore[method-assign, assignment]
    project.all()
    return sorted(seen)


def test_what_was_served_once_is_not_read_again_and_is_the_same_to_the_last_type(home: Path) -> None:
    project = kept(home)
    assert read_again(home) == []
    assert alike(project.all()[:2], Project(home).all()[:2])
    assert (project.settings.workers, (home / ".connect/.gitignore").read_text()) == (3, "*\n")


@pytest.mark.parametrize(
    ("change", "read"),
    [
        (lambda home: (home / "clients/abc.yaml").write_text(ABC + "title: Loja\n"), ["abc.yaml"]),
        (lambda home: (home / "clients/xyz.yaml").write_text(ABC.replace("abc", "xyz")), ["xyz.yaml"]),
        (lambda home: (home / "connectors/crm.yaml").write_text(whole(CRM) + "description: Other\n"), ["crm.yaml"]),
        (lambda home: (home / "schemas/crm.json").write_text("{}"), ["crm.yaml"]),
        (lambda home: (home / "connect.yaml").write_text("workers: 4\n"), ["connect.yaml"]),
        (lambda home: (home / "clients/abc.yaml").unlink(), []),
    ],
)
def test_only_what_has_changed_since_it_was_served_is_read(
    home: Path, change: Callable[[Path], object], read: list[str]
) -> None:
    kept(home)
    change(home)
    assert read_again(home) == read
    assert alike(kept(home).all()[:2], Project(home).all()[:2])


def test_two_clients_of_one_name_are_told_from_what_was_kept_too(home: Path) -> None:
    (home / "clients/other.yaml").write_text(ABC)
    found = [str(each) for each in Project(home).all()[2]]
    assert [str(each) for each in kept(home).all()[2]] == found
    assert "is also the client of" in found[0]


def test_a_schema_that_changes_while_a_process_runs_is_not_kept_as_what_it_was(home: Path) -> None:
    first = open_kept(home)
    first.all()
    (home / "schemas/crm.json").write_text('{"type": "object"}')
    keep(first)
    assert open_kept(home).connector("crm").receive.schema == {"type": "object"}


@pytest.mark.parametrize("text", ["", "{", '{"engine": "0"}'])
def test_what_can_not_be_read_of_it_is_nothing(home: Path, text: str) -> None:
    kept(home)
    (home / KEPT).write_text(text)
    assert "crm.yaml" in read_again(home)


def test_a_folder_that_can_not_be_written_keeps_nothing(home: Path) -> None:
    (home / ".connect").write_text("")
    assert "crm.yaml" in read_again(home)
    kept(home)
    assert "crm.yaml" in read_again(home)


def test_a_file_with_a_fault_is_read_at_each_start_and_its_fault_is_told(home: Path) -> None:
    (home / "clients/xyz.yaml").write_text("client: xyz\nconnectors: {crm: {secret: 1}}\n")
    assert [each.rule for each in kept(home).all()[2]] == ["unknown-key"]
    assert read_again(home) == ["xyz.yaml"]
