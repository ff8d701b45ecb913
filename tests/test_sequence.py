"""Actions that come after others, as their author reads it: the order, the faults, the examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import connector_from, program_from

from engine.errors import SpecErrors
from engine.records import Draft
from engine.sequence import in_sequence
from engine.spec.check import check
from engine.spec.project import Project

GOOD = Path(__file__).parent / "spec" / "good" / "after.yaml"


def chained(**after: str) -> str:
    """Actions by name with what each comes after: `note="deal contact"`."""
    request = 'record: {id: "${ event.id }"}, request: {method: PUT, path: /x, json: "${ record }"}'
    return "actions:\n" + "".join(
        f"  {name}: {{{f'after: [{names}], ' if names else ''}{request}}}\n" for name, names in after.items()
    )


def test_those_that_others_wait_for_come_first_and_the_rest_stays_as_it_is_written() -> None:
    actions = connector_from(chained(a="", note="deal, contact", b="", deal="contact", contact="", c="")).actions
    assert in_sequence(actions) == (["a", "contact", "deal", "note", "b", "c"], [])


def test_a_draft_names_those_of_its_event_that_it_comes_after() -> None:
    text = chained(note="deal, contact, other", deal="contact", contact="", other="")
    text = text.replace("other: {", "other: {active: false, ").replace("deal: {", "deal: {when: '${ event.deal }', ")
    program = program_from(text.replace("after: [contact]", "after: contact, if_rejected: continue"))
    assert program.drafts({"id": "1"}, 0.0) == (Draft("contact"), Draft("note", None, ("contact",)))
    assert program.drafts({"id": "1", "deal": True}, 0.0) == (
        Draft("contact"),
        Draft("deal", None, ("contact",), past_rejected=True),
        Draft("note", None, ("deal", "contact")),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (chained(note="deel", deal=""), r'there is no action deel; did you mean "deal"\? \[unknown-action\]'),
        (chained(note="deal", deal="note"), r"deal would wait for itself: note -> deal -> note;.* \[after-cycle\]"),
    ],
)
def test_what_would_wait_for_ever_is_not_run(text: str, says: str) -> None:
    with pytest.raises(SpecErrors, match=says):
        program_from(text)


def test_examples_show_who_waits_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOOD.parent)
    assert check(Project("."), [Path(GOOD.name)]) == []
