"""`connect store`, and whose a store is: as a person runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import connect, make_project

from engine.stores.sqlite import SqliteStore


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


# Whose it is


def test_two_projects_on_one_store_are_told_apart_by_their_names(home: Path) -> None:
    SqliteStore(home / "connect.db").close()
    (home / "connect.yaml").write_text("name: loja\n")
    assert connect("status", project=home).code == 0
    (home / "connect.yaml").write_text("name: outra\n")
    refused = connect("status", project=home)
    assert (refused.code, refused.out) == (3, "")
    assert refused.err == (
        "connect: connect.db: this store holds the events of project `loja`; this project is `outra`; "
        "use another store\n"
    )
    (home / "connect.yaml").write_text("workers: 8\n")
    assert connect("status", project=home).code == 0
