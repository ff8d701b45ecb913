"""Whose a lane is, and who is surely gone."""

from __future__ import annotations

import os

from engine import owners
from engine.owners import is_gone, new_owner


def test_each_owner_is_another_and_nothing_is_kept_of_them() -> None:
    made = {new_owner() for _ in range(1000)}
    assert len(made) == 1000
    assert not any(is_gone(owner) for owner in made)
    assert not any(isinstance(kept, (set, list, dict)) and len(kept) >= 1000 for kept in vars(owners).values())


def test_who_had_our_number_before_us_is_gone_and_of_other_machines_nothing_is_known() -> None:
    machine, ours, mark = new_owner().split("/")
    assert is_gone(f"{machine}/{ours}/0123456789ab-1")
    assert is_gone(f"{machine}/{2**22 + os.getpid()}/{mark}")
    assert not is_gone(f"{machine}/{os.getppid()}/{mark}")
    assert not is_gone(f"elsewhere/{ours}/0123456789ab-1")
    assert not is_gone("o")
