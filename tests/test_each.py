"""`each`, `once_per` and `window`: one request for each record, the same one not twice, and folding before cutting."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from conftest import REFUSED, Shop, Vendor, connector_from, reply

from engine.errors import SpecErrors
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Answer

    from engine.ports import Store
    from engine.sending import Prepared

RULES = """
replies: {outcomes: [{status: 409, then: retry, wait: 1m}, {status: 422, then: reject},
  {status: 404, then: retry, from: member, wait: 1m}]}
"""
EACH = (
    RULES
    + """
actions:
  note:
    record: {id: "${ event.id }", mail: "${ event.mail }"}
    batch: {records: 10}
    steps:
      member:
        each: records
        when: ${ record.mail }
        request: {path: "/people/{{ record.mail }}", json: {size: "${ batch.size }"}}
        save: {id: "${ response.body.id }"}
      note:
        each: records
        request: {path: /notes, json: {id: "${ record.id }", person: "${ steps.member.id }"}}
      report: {request: {path: /done, json: {people: "${ steps.member[*].id }", size: "${ batch.size }"}}}
"""
)
ITEMS = (
    RULES
    + """
actions:
  note:
    record: {id: "${ event.id }", tags: "${ event.tags }"}
    steps:
      member: {request: {path: /people, json: {id: "${ record.id }"}}, save: {id: "${ response.body.id }"}}
      tag:
        each: ${ record.tags }
        when: ${ item != 'none' }
        request: {path: "/people/{{ steps.member.id }}/tags", json: {tag: "${ item }", at: "${ index }"}}
        save: {id: "${ response.body.id }"}
      close: {request: {path: /close, json: {tags: "${ steps.tag[*].id }"}}}
"""
)
ONCE = (
    RULES
    + """
key: ${ event.mail }
actions:
  note:
    record: {id: "${ event.id }", mail: "${ event.mail }", name: "${ event.name }"}
    steps:
      member:
        once_per: {key: "${ record.mail }", within: 10m}
        request: {path: /people, json: {mail: "${ record.mail }", name: "${ record.name }"}}
        save: {id: "${ response.body.id }"}
      note: {request: {path: "/people/{{ steps.member.id }}/notes", json: {id: "${ record.id }"}}}
"""
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "connect.db")
    yield made
    made.close()


class People(Vendor):
    """Gives an id to all it is sent; `trouble` has answers for some requests, used up one after the other."""

    def __init__(self, **trouble: list[Answer]) -> None:
        super().__init__()
        self.trouble = trouble
        self.answer = self.reply

    def reply(self, request: Prepared) -> Answer:
        path = request.url.split("/v1/")[1]
        listed = self.trouble.get(path.replace("/", "_")) or self.trouble.get(path.rsplit("/", 1)[-1])
        return listed.pop(0) if listed else reply(200, {"id": f"id-{path.rsplit('/', 1)[-1]}-{len(self.asked)}"})

    @property
    def told(self) -> list[tuple[str, Any]]:
        return [(one.url.split("/v1/")[1], json.loads(one.content or b"null")) for one in self.asked]


def posted(shop: Shop, *events: dict[str, Any]) -> Shop:
    shop.post(*events)
    shop.drain()
    return shop


def three(shop: Shop) -> Shop:
    return posted(shop, {"id": "1", "mail": "a"}, {"id": "2", "mail": "b"}, {"id": "3"})


# --- each: records ---


def test_one_request_for_each_record_and_later_ones_see_what_their_own_saved(store: Store) -> None:
    shop = three(Shop(EACH, vendor=People(), store=store))
    assert shop.vendor.told == [
        ("people/a", {"size": 3}),
        ("people/b", {"size": 3}),
        ("notes", {"id": "1", "person": "id-a-1"}),
        ("notes", {"id": "2", "person": "id-b-2"}),
        ("notes", {"id": "3"}),
        ("done", {"people": ["id-a-1", "id-b-2"], "size": 3}),
    ]
    assert shop.sums() == {"delivered": 3}


def test_what_the_vendor_says_of_one_is_that_record_s_own_outcome(store: Store) -> None:
    shop = three(Shop(EACH, vendor=People(people_a=[reply(422, {})], notes=[reply(409, {})]), store=store))
    assert shop.vendor.told == [
        ("people/a", {"size": 3}),
        ("people/b", {"size": 3}),
        ("notes", {"id": "2", "person": "id-b-2"}),
        ("notes", {"id": "3"}),
        ("done", {"people": [], "size": 1}),
    ]
    assert shop.sums() == {"delivered": 1, "rejected": 1, "waiting": 1}
    shop.drain(for_s=60)
    assert shop.vendor.told[5:] == [
        ("notes", {"id": "2", "person": "id-b-2"}),
        ("done", {"people": ["id-b-2"], "size": 1}),
    ]
    assert shop.sums() == {"delivered": 2, "rejected": 1}


@pytest.mark.parametrize("trouble", [reply(503), reply(429, retry_after="60"), REFUSED])
def test_when_the_lane_has_to_wait_nothing_more_is_sent_and_nothing_is_sent_again(
    trouble: Answer, store: Store
) -> None:
    shop = three(Shop(EACH, vendor=People(people_b=[trouble]), store=store))
    assert [path for path, _ in shop.vendor.told] == ["people/a", "people/b"]
    assert shop.sums() == {"waiting": 3}
    shop.drain(for_s=60)
    assert [path for path, _ in shop.vendor.told[2:]] == ["people/b", "notes", "notes", "notes", "done"]
    assert shop.vendor.told[3] == ("notes", {"id": "1", "person": "id-a-1"})
    assert shop.sums() == {"delivered": 3}


class Killed(BaseException):
    pass


def test_after_a_kill_in_the_middle_only_the_rest_is_sent(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "connect.db")
    vendor = People()
    shop = Shop(EACH, vendor=vendor, store=store)
    usual = vendor.reply

    def dies(request: Prepared) -> Answer:
        if request.url.endswith("/people/b"):
            raise Killed
        return usual(request)

    vendor.answer = dies
    shop.post({"id": "1", "mail": "a"}, {"id": "2", "mail": "b"}, {"id": "3"})
    with pytest.raises(Killed):
        shop.drain()
    vendor.answer = usual
    shop.worker = shop.new_worker()
    shop.clock.time += 60
    shop.drain()
    assert [path for path, _ in vendor.told] == ["people/a", "people/b", "people/b", "notes", "notes", "notes", "done"]
    assert shop.sums() == {"delivered": 3}


def test_going_back_takes_only_the_one_record_back(store: Store) -> None:
    shop = three(Shop(EACH, vendor=People(notes=[reply(404, {})]), store=store))
    shop.drain(for_s=60)
    assert [path for path, _ in shop.vendor.told] == [
        "people/a", "people/b", "notes", "notes", "notes", "done", "people/a", "notes", "done",
    ]  # fmt: skip
    assert shop.sums() == {"delivered": 3}


# --- each over a list ---


def test_one_request_for_each_item_of_a_list(store: Store) -> None:
    shop = posted(Shop(ITEMS, vendor=People(), store=store), {"id": "1", "tags": ["x", "none", "y"]})
    assert shop.vendor.told == [
        ("people", {"id": "1"}),
        ("people/id-people-1/tags", {"tag": "x", "at": 0}),
        ("people/id-people-1/tags", {"tag": "y", "at": 2}),
        ("close", {"tags": ["id-tags-2", "id-tags-3"]}),
    ]
    assert shop.sums() == {"delivered": 1}


def test_a_list_goes_on_at_the_item_that_failed(store: Store) -> None:
    trouble = [reply(200, {"id": "t"}), reply(409, {})]
    shop = posted(Shop(ITEMS, vendor=People(tags=trouble), store=store), {"id": "1", "tags": ["x", "y", "z"]})
    shop.drain(for_s=60)
    assert [body.get("tag") for path, body in shop.vendor.told if path.endswith("tags")] == ["x", "y", "y", "z"]
    assert shop.sums() == {"delivered": 1}


def test_an_absent_list_asks_nobody_and_what_is_no_list_rejects() -> None:
    shop = posted(Shop(ITEMS, vendor=People()), {"id": "1"}, {"id": "2", "tags": "x"})
    assert [path for path, _ in shop.vendor.told] == ["people", "close", "people"]
    assert shop.sums() == {"delivered": 1, "rejected": 1}


# --- once_per ---


def test_what_was_just_sent_for_a_key_is_not_sent_again_and_its_values_are_used() -> None:
    events: list[dict[str, Any]] = [{"id": "1", "mail": "a"}, {"id": "2", "mail": "a"}, {"id": "3", "mail": "b"}]
    shop = posted(Shop(ONCE, vendor=People()), *events)
    assert shop.vendor.told == [
        ("people", {"mail": "a"}),
        ("people/id-people-1/notes", {"id": "1"}),
        ("people/id-people-1/notes", {"id": "2"}),
        ("people", {"mail": "b"}),
        ("people/id-people-4/notes", {"id": "3"}),
    ]


def test_it_is_sent_again_when_its_content_changes_and_after_the_time() -> None:
    shop = posted(Shop(ONCE, vendor=People()), {"id": "1", "mail": "a"}, {"id": "2", "mail": "a", "name": "Ana"})
    shop.clock.time += 599
    posted(shop, {"id": "3", "mail": "a", "name": "Ana"})
    shop.clock.time += 2
    posted(shop, {"id": "4", "mail": "a", "name": "Ana"})
    assert [body.get("name") for path, body in shop.vendor.told if path == "people"] == [None, "Ana", "Ana"]


def test_what_failed_was_not_sent() -> None:
    shop = posted(Shop(ONCE, vendor=People(people=[reply(409, {})])), {"id": "1", "mail": "a"})
    shop.drain(for_s=60)
    assert [path for path, _ in shop.vendor.told] == ["people", "people", "people/id-people-2/notes"]


def test_going_back_to_a_step_sends_it_whatever_was_remembered() -> None:
    shop = posted(Shop(ONCE, vendor=People(notes=[reply(404, {})])), {"id": "1", "mail": "a"})
    shop.drain(for_s=60)
    assert [path.rsplit("/", 1)[-1] for path, _ in shop.vendor.told] == ["people", "notes", "people", "notes"]
    assert shop.sums() == {"delivered": 1}


def test_without_a_key_it_is_always_sent() -> None:
    shop = posted(Shop(ONCE, vendor=People()), {"id": "1"}, {"id": "2"})
    assert [path.rsplit("/", 1)[-1] for path, _ in shop.vendor.told] == ["people", "notes", "people", "notes"]


# --- window ---

WINDOW = """
actions:
  note:
    record: {who: "${ event.who }", last: "${ event.id }"}
    batch: {records: 1, window: 5m, fold: {by: "${ record.who }"}}
    request: {path: /notes, json: "${ batch.records[0] }"}
"""


def test_a_window_collects_and_folds_before_records_cuts() -> None:
    shop = Shop(WINDOW, vendor=People())
    shop.post(*({"id": str(number), "who": "ab"[number % 2]} for number in range(40)))
    shop.drain(for_s=299)
    assert shop.vendor.asked == []
    shop.drain(for_s=1)
    assert shop.vendor.told == [("notes", {"who": "a", "last": "38"}), ("notes", {"who": "b", "last": "39"})]
    assert shop.sums() == {"delivered": 40}


def test_what_a_window_could_not_send_is_folded_with_what_came_since() -> None:
    shop = Shop(WINDOW, vendor=People(notes=[reply(200, {}), reply(429, retry_after="60")]))
    shop.post({"id": "1", "who": "a"}, {"id": "2", "who": "b"})
    shop.drain(for_s=300)
    shop.post({"id": "3", "who": "b"})
    shop.drain(for_s=60)
    assert [body["last"] for _, body in shop.vendor.told] == ["1", "2", "3"]
    assert shop.sums() == {"delivered": 3}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EACH.replace("        when: ${ record.mail }\n", "        poll: {until: '${ response.body.ok }'}\n"),
         "a step with each is not polled"),
        (lambda: EACH.replace("each: records", "each: all", 1), "each is records, or a list"),
        (lambda: EACH.replace("    batch: {records: 10}\n", "").replace("batch.size", "record.id"),
         "each: records needs a batch"),
    ],
)  # fmt: skip
def test_what_each_can_not_be(make: Callable[[], str], says: str) -> None:
    with pytest.raises(SpecErrors, match=says):
        Shop(make())


def test_an_each_stands_beside_a_single_request_too() -> None:
    connector = connector_from(
        "actions: {a: {batch: {}, record: {}, each: records, once_per: {key: x, within: 1m}, request: {path: /a}}}"
    )
    assert connector.actions["a"].steps["request"].each == "records"
    assert connector.actions["a"].steps["request"].once_per is not None
