"""The pages of dead letters among many: a page reads as much as one among few, and all are counted seldom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_dashboard import House, opened, rejected

from engine.records import Dead
from engine.stores.sqlite import SqliteStore

__all__ = ["opened"]  # a fixture

FEW, MANY = 300, 3_000
LOOKS: dict[str, Callable[[SqliteStore], Any]] = {
    "the first page": lambda store: store.dead(limit=51),
    "the newest": lambda store: store.dead(limit=51, newest=True),
    "a page further on": lambda store: store.dead(limit=51, after=150),
    "of a client": lambda store: store.dead(limit=51, connector="crm", client="c1"),
    "the newest of a client": lambda store: store.dead(limit=51, connector="crm", client="c1", newest=True),
    "of a client that has one": lambda store: store.dead(limit=51, connector="crm", client="rare"),
    "one": lambda store: store.dead_letter(200),
}


def steps_of(store: SqliteStore, look: Callable[[SqliteStore], Any]) -> int:
    """How many steps SQLite's machine takes for it, in tens."""
    taken = 0

    def took() -> int:
        nonlocal taken
        taken += 1
        return 0

    with store._readers.reading() as db:
        db.set_progress_handler(took, 10)
    try:
        found = look(store)
    finally:
        with store._readers.reading() as db:
            db.set_progress_handler(None, 0)
    assert found
    return taken


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = []
    for count in (FEW, MANY):
        store = SqliteStore(tmp_path_factory.mktemp("letters") / "connect.db")
        letters = [
            Dead(
                0,
                "crm",
                f"c{at % 3}" if at else "rare",
                "note",
                f"d{at}",
                f"e{at}",
                None,
                b"{}",
                f"reason {at}",
                "E7",
                1,
                0.0,
                float(at),
            )
            for at in range(count)
        ]
        assert store.admit(letters) == [True] * count
        made.append(store)
    yield made
    for store in made:
        store.close()


@pytest.mark.parametrize("look", LOOKS)
def test_a_page_of_dead_letters_reads_no_more_among_many_than_among_few(stores: Any, look: str) -> None:
    few, many = (steps_of(store, LOOKS[look]) for store in stores)
    assert many <= few * 1.1
    assert steps_of(stores[1], lambda store: store.count_dead("reason")) > 9 * steps_of(
        stores[0], lambda store: store.count_dead("reason")
    )  # counting does read them all: that is what is remembered


def test_all_dead_letters_are_counted_once_however_often_their_page_is_asked_for(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house: House
    with opened() as house:
        house.log_in()
        rejected(house, "a", "b")
        asked = list[str]()
        count = house.engine.store.count_dead

        def counted(by: Any, **which: Any) -> dict[str, int]:
            asked.append(by)
            return count(by, **which)

        monkeypatch.setattr(house.engine.store, "count_dead", counted)
        for _ in range(5):
            assert "2 dead letters" in house.page("/dead").text
        assert asked == ["reason"]
        house.press("/dead/1", "/dead/1/retry")
        house.page("/dead")
        assert len(asked) == 2
