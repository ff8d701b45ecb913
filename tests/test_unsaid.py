"""Where an expression fails, or would take more work than one may: what becomes of the event. None is lost by it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from conftest import Shop, Vendor, program_from, reply

from engine import expressions
from engine.errors import SpecErrors
from engine.notations import semantics
from engine.notations.semantics import MAX_TEXT

if TYPE_CHECKING:
    from engine.http import Prepared, Reply

FEW = 1_000
LONG = "a" * 70
HOSTILE = {"client": "abc", "id": "1", "word": {}, "long": "x" * 3 * FEW, "list": [{"n": n} for n in range(2 * FEW)]}
STEPS = f"more than {FEW:,} steps; loops within loops over long lists"
WORD = "a text is needed, got an object"
OF_EVENT = ("upper(event.word)", "event.list[?n > `5000`]")  # fails; takes too much work
OF_RECORD = ("upper(record.word)", "record.list[?n > `5000`]")
OF_REPLY = ("upper(response.body.word)", "response.body.list[?n > `5000`]")
OF_SETTINGS = ("upper(settings.word)", "settings.list[?n > `5000`]")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rule with a smaller cap, so that the tests are quick."""
    monkeypatch.setattr(semantics, "MAX_STEPS", FEW)
    monkeypatch.setattr(expressions, "_KEPT", {})


def acted(more: str = "", *, record: str = '{id: "${ event.id }"}') -> str:
    """One action, with more of its keys."""
    whole = f'request: {{path: /notes, json: "${{ record }}"}}, record: {record}'
    return f"actions: {{note: {{{more}{', ' if more else ''}{whole}}}}}"


def looked(more: str) -> str:
    return acted(f"lookups: {{who: {{{more}}}}}")


def answered(more: str) -> str:
    """One action whose reply is read."""
    return acted(more) + "\nhttp: {base_url: https://api.crm.example/v1, retry: {attempts: 1}}"


RECEIVE = 'receive: {client: "${ event.client }", id: "${ event.id }"}'
KEYED = 'key: "${ event.id }", '
ASKED = "request: {path: /who}"
ROWS = 'rows: "${ response.body.rows }"'
MADE = f'{KEYED}sources: {{a: {{{ASKED}, rows: "${{ `[]` }}"}}}}, create: {{request: {{path: /made, method: POST}}, '
GUARDED = 'auths: {first: {when: "${ EXPR }", place: {}}, other: {place: {}}}\n' + acted()


class Place(NamedTuple):
    """A connector with an expression EXPR; what became of the event where it fails, and where it is beyond bounds."""

    text: str
    expressions: tuple[str, str]
    fails: str
    beyond: str


PLACES = {
    # At the door: the sender is told.
    "receive.client": Place(
        'receive: {client: "${ EXPR }"}', OF_EVENT, f"400 word: upper: {WORD}", f"400 list: {STEPS}"
    ),
    "receive.id": Place(
        RECEIVE.replace("event.id", "EXPR"), OF_EVENT, f"422 receive.id: upper: {WORD}", f"422 receive.id: {STEPS}"
    ),
    "fields": Place('fields: {a: "${ EXPR }"}', OF_EVENT, f"422 fields.a: upper: {WORD}", f"422 fields.a: {STEPS}"),
    "key": Place('key: "${ EXPR }"', OF_EVENT, f"422 key: upper: {WORD}", f"422 key: {STEPS}"),
    "an action's key": Place(
        acted('key: "${ EXPR }"'),
        OF_EVENT,
        f"422 actions.note.key: upper: {WORD}",
        f"422 actions.note.key: {STEPS}",
    ),
    "an action's when": Place(acted('when: "${ EXPR }"'), OF_EVENT, "skipped", f"422 actions.note.when: {STEPS}"),
    # On the way: a dead letter with the place.
    "require": Place(
        acted('require: [{that: "${ !(EXPR) }", reason: unfit}]'),
        OF_EVENT,
        "rejected: unfit",
        f"rejected: actions.note.require[0].that: {STEPS}",
    ),
    "require of the record": Place(
        acted('require: [{that: "${ !(EXPR) }", reason: unfit}]', record='{list: "${ event.list }", word: {a: 1}}'),
        OF_RECORD,
        "rejected: unfit",
        f"rejected: actions.note.require[0].that: {STEPS}",
    ),
    "a reason of require": Place(
        acted('require: [{that: "${ event.none }", reason: "${ EXPR }"}]'),
        OF_EVENT,
        "rejected: a check failed",
        "rejected: a check failed",
    ),
    "vars": Place(
        acted('vars: {a: "${ EXPR }"}'),
        OF_EVENT,
        f"rejected: actions.note.vars.a: upper: {WORD}",
        f"rejected: actions.note.vars.a: {STEPS}",
    ),
    "record": Place(
        acted(record='{a: "${ EXPR }"}'),
        OF_EVENT,
        f"rejected: actions.note.record.a: upper: {WORD}",
        f"rejected: actions.note.record.a: {STEPS}",
    ),
    "$if": Place(
        acted(record='{a: {$if: "${ EXPR }", then: x, else: y}}'),
        OF_EVENT,
        "delivered",
        f"rejected: actions.note.record.a: {STEPS}",
    ),
    "where of $each": Place(
        acted(record='{a: {$each: "${ `[1]` }", as: i, where: "${ EXPR }", do: x}, b: 1}'),
        OF_EVENT,
        "delivered",
        f"rejected: actions.note.record.a: {STEPS}",
    ),
    "{% if %}": Place(
        acted(record='{a: "{% if EXPR %}x{% endif %}"}'),
        ("event.word | upper", "event.long | regex_replace('z', 'y')"),
        "delivered",
        f"rejected: actions.note.record.a: {STEPS}",
    ),
    "group_by": Place(
        'actions: {note: {batch: {group_by: "${ EXPR }"}, record: {id: 1}, '
        'request: {path: /notes, json: "${ batch.records }"}}}',
        OF_EVENT,
        f"rejected: actions.note.batch.group_by: upper: {WORD}",
        f"rejected: actions.note.batch.group_by: {STEPS}",
    ),
    "fold.by": Place(
        'actions: {note: {batch: {fold: {by: "${ EXPR }", keep: last}}, record: {id: 1}, '
        'request: {path: /notes, json: "${ batch.records }"}}}',
        OF_EVENT,
        f"rejected: actions.note.batch.fold.by: upper: {WORD}",
        f"rejected: actions.note.batch.fold.by: {STEPS}",
    ),
    "a path": Place(
        'actions: {note: {record: {id: 1}, request: {path: "/notes/{{ vars.a }}{{ EXPR }}", json: {}}, vars: {a: b}}}',
        ("event.word | upper", "event.long | regex_replace('z', 'y')"),
        f"rejected: actions.note.request.path: upper: {WORD}",
        f"rejected: actions.note.request.path: {STEPS}",
    ),
    "a step's when": Place(
        'actions: {note: {record: {id: 1}, steps: {one: {when: "${ EXPR }", request: {path: /notes, json: {}}}}}}',
        OF_EVENT,
        "delivered",
        f"rejected: actions.note.steps.one.when: {STEPS}",
    ),
    "a step's each": Place(
        'actions: {note: {record: {id: 1}, steps: {one: {each: "${ EXPR }", request: {path: /notes, json: {}}}}}}',
        OF_EVENT,
        f"rejected: actions.note.steps.one.each: upper: {WORD}",
        f"rejected: actions.note.steps.one.each: {STEPS}",
    ),
    "once_per": Place(
        "actions: {note: {record: {id: 1}, steps: {one: {"
        'once_per: {key: "${ EXPR }", within: 1h}, request: {path: /notes, json: {}}}}}}',
        OF_EVENT,
        f"rejected: actions.note.steps.one.once_per.key: upper: {WORD}",
        f"rejected: actions.note.steps.one.once_per.key: {STEPS}",
    ),
    "by of a limit": Place(
        acted('limits: {all: {rate: 10/1s, by: "${ EXPR }"}}'),
        OF_EVENT,
        f"rejected: actions.note.limits.all.by: upper: {WORD}",
        f"rejected: actions.note.limits.all.by: {STEPS}",
    ),
    # Look-ups: the delivery is rejected; where only settings are read, no delivery is at fault, and the lane pauses.
    "a look-up's when": Place(
        looked(f'{KEYED}sources: {{a: {{{ASKED}, {ROWS}}}}}, when: "${{ EXPR }}"'),
        OF_EVENT,
        "delivered",
        f"rejected: actions.note.lookups.who.when: {STEPS}",
    ),
    "a document's when": Place(
        looked(f'{ASKED}, value: "${{ response.body.ok }}", when: "${{ EXPR }}"'),
        OF_EVENT,
        "delivered",
        f"rejected: actions.note.lookups.who.when: {STEPS}",
    ),
    "a look-up's key": Place(
        looked(f'key: "${{ EXPR }}", sources: {{a: {{{ASKED}, {ROWS}}}}}'),
        OF_EVENT,
        f"rejected: actions.note.lookups.who.key: upper: {WORD}",
        f"rejected: actions.note.lookups.who.key: {STEPS}",
    ),
    "a source's when": Place(
        looked(f'{KEYED}sources: {{a: {{{ASKED}, {ROWS}, when: "${{ EXPR }}"}}}}'),
        OF_SETTINGS,
        "rejected: look-up who: not found",
        f"paused: look-up who: actions.note.lookups.who.sources.a.when: {STEPS}",
    ),
    "when of a document's source": Place(
        looked(f'sources: {{a: {{{ASKED}, when: "${{ EXPR }}"}}}}, value: "${{ response.body.ok }}"'),
        OF_SETTINGS,
        "rejected: look-up who: not found",
        f"paused: look-up who: actions.note.lookups.who.sources.a.when: {STEPS}",
    ),
    "when of create": Place(
        looked(MADE + 'when: "${ EXPR }"}'),
        OF_EVENT,
        "rejected: look-up who: not found",
        f"rejected: look-up who: actions.note.lookups.who.create.when: {STEPS}",
    ),
    # The vendor's reply: it was sent, and nothing is known of it: once more, and then a person looks.
    "expect": Place(
        answered("").replace("path: /notes,", 'path: /notes, expect: "${ !(EXPR) }",'),
        OF_REPLY,
        "paused: HTTP 200 that is not the expected reply (application/json)",
        f"paused: the reply can't be read: actions.note.request.expect: {STEPS}",
    ),
    "when of an outcome": Place(
        answered('replies: {outcomes: [{when: "${ EXPR }", then: reject}]}'),
        OF_REPLY,
        "delivered",
        f"paused: the reply can't be read: actions.note.replies.outcomes[0].when: {STEPS}",
    ),
    "the code of a reply": Place(
        answered('replies: {code: "${ EXPR }", outcomes: [{code: BAD, then: reject}]}'),
        OF_REPLY,
        "delivered",
        f"paused: the reply can't be read: actions.note.replies.code: {STEPS}",
    ),
    "a wait": Place(
        answered('replies: {outcomes: [{status: 200, then: throttle, wait: {from: "${ EXPR }"}}]}'),
        OF_REPLY,
        "waiting: HTTP 200",
        "waiting: HTTP 200",
    ),
    "ok of results": Place(
        answered('results: [{at: "${ `[1]` }", ok: "${ EXPR }"}]'),
        OF_REPLY,
        "rejected: refused by the vendor",
        f"paused: the reply can't be read: actions.note.results[0].ok: {STEPS}",
    ),
    "the code of a result": Place(
        answered('results: [{match: test, code: "${ EXPR }", outcomes: [{code: BAD, then: reject}]}]'),
        OF_REPLY,
        "delivered",
        f"paused: the reply can't be read: actions.note.results[0].code: {STEPS}",
    ),
    "theirs of a match": Place(
        answered(
            'results: [{failed_at: "${ `[1]` }", unnamed: delivered, '
            'match: {ours: "${ record.id }", theirs: "${ EXPR }"}}]'
        ),
        OF_REPLY,
        "delivered",
        f"paused: the reply can't be read: actions.note.results[0].match.theirs: {STEPS}",
    ),
    "save": Place(
        'actions: {note: {record: {id: 1}, steps: {one: {request: {path: /notes, json: {}}, save: {a: "${ EXPR }"}}}}}'
        "\nhttp: {base_url: https://api.crm.example/v1, retry: {attempts: 1}}",
        OF_REPLY,
        f"paused: the reply can't be read: actions.note.steps.one.save.a: upper: {WORD}",
        f"paused: the reply can't be read: actions.note.steps.one.save.a: {STEPS}",
    ),
    "until of a poll": Place(
        "actions: {note: {record: {id: 1}, steps: {one: {request: {path: /notes, json: {}}, "
        'poll: {until: "${ EXPR }", every: 10m, give_up: 1h}}}}}'
        "\nhttp: {base_url: https://api.crm.example/v1, retry: {attempts: 1}}",
        OF_REPLY,
        "waiting:",
        f"paused: the reply can't be read: actions.note.steps.one.poll.until: {STEPS}",
    ),
    # Of settings alone: no delivery is at fault.
    "when of a limit": Place(
        acted('limits: {all: {rate: 10/1s, when: "${ EXPR }"}}'),
        OF_SETTINGS,
        "delivered",
        f"paused: actions.note.limits.all.when: {STEPS}",
    ),
    "when of an auth": Place(GUARDED, OF_SETTINGS, "delivered", f"error: auths.first.when: {STEPS}"),
    "a header of the auth": Place(
        'auth: {place: {headers: {Api-Key: "${ EXPR }"}}}\n' + acted(),
        OF_SETTINGS,
        "paused: auth: auth.place.headers.Api-Key: upper: a text is needed, got an object",
        f"paused: auth: auth.place.headers.Api-Key: {STEPS}",
    ),
}


def became(text: str) -> str:
    """What a sender is told, or what the store says of the event."""

    def answer(_: Prepared) -> Reply:
        body = {"ok": True, "word": {}, "list": HOSTILE["list"], "rows": [{"id": 1}]}
        return reply(200, body)

    settings = "settings: {properties: {word: {type: object}, list: {type: array}}}\n"
    client = f"{{client: abc, connectors: {{crm: {{settings: {json.dumps(SETTINGS)}}}}}}}"
    try:
        shop = Shop(settings + text, client, vendor=Vendor(answer=answer))
    except SpecErrors as error:
        return f"error: {error.findings[0].message}"
    received = shop.received(HOSTILE)
    if received.faults:
        return f"{received.status} {received.faults[0].field}: {received.faults[0].reason}"
    shop.store.put([received.accepted[0][1]], now=shop.clock.now()).result()
    shop.drain(30)
    lane = shop.lane()
    (ended,) = shop.sums()
    if ended == "waiting":
        return f"{'paused' if lane.state == 'paused' else 'waiting'}: {lane.reason or ''}".strip()
    return f"{ended}: {shop.dead()[0].reason}" if ended == "rejected" else ended


SETTINGS: dict[str, Any] = {"word": {}, "list": HOSTILE["list"]}


@pytest.mark.parametrize("name", PLACES)
def test_an_expression_that_fails_ends_its_event_as_its_place_says(name: str) -> None:
    place = PLACES[name]
    assert became(place.text.replace("EXPR", place.expressions[0])) == place.fails


@pytest.mark.parametrize("name", PLACES)
def test_an_expression_beyond_its_bounds_is_no_false_condition_and_the_reason_names_it(name: str) -> None:
    place = PLACES[name]
    assert became(place.text.replace("EXPR", place.expressions[1])) == place.beyond


def test_a_text_or_list_that_is_too_long_is_no_false_condition() -> None:
    shop = Shop(acted("when: \"${ replace(event.word, 'a', event.more) == event.id }\""))
    received = shop.received({"client": "abc", "id": "1", "word": "a" * 2_000, "more": LONG * 10})
    assert (received.status, [(each.field, each.reason) for each in received.faults]) == (
        422,
        [("actions.note.when", "replace: the result is longer than 1 MB")],
    )
    assert MAX_TEXT == 1_000_000


def test_a_way_to_log_in_that_can_t_say_whether_it_serves_is_an_error_of_the_program() -> None:
    with pytest.raises(SpecErrors) as caught:
        program_from(
            "settings: {properties: {list: {type: array}}}\n" + GUARDED.replace("EXPR", OF_SETTINGS[1]),
            f"{{client: abc, connectors: {{crm: {{settings: {json.dumps({'list': SETTINGS['list']})}}}}}}}",
        )
    assert [(each.rule, each.message) for each in caught.value.findings] == [("too-much", f"auths.first.when: {STEPS}")]
