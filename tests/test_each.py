"""`each`, `once_per` and `window`: one request for each record, the same one not twice, and folding before cutting."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from conftest import REFUSED, TIMED_OUT, Shop, Vendor, connector_from, reply

from engine.errors import SpecErrors
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Answer

    from engine.http import Prepared
    from engine.ports import Store

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


# --- each: records, where some wait ---

TWO = (
    RULES.replace("then: retry, wait: 1m}, {status: 422", "then: retry, wait: 1m, attempts: 9}, {status: 422").replace(
        "from: member", "from: one"
    )
    + """
key: ${ event.who }
actions:
  note:
    record: {id: "${ event.id }", who: "${ event.who }"}
    batch: {records: 10}
    steps:
      one: {each: records, request: {path: "/one/{{ record.id }}"}, save: {id: "${ response.body.id }"}}
      two:
        each: records
        request: {path: "/two/{{ record.id }}", json: {one: "${ steps.one.id }", key: "${ delivery.id }"}}
        results:
          match: test
          ok: ${ !(response.body.bad) }
          code: ${ response.body.bad }
          outcomes: [{code: again, then: retry, wait: 1m}, {code: slow, then: throttle, wait: 1m}]
"""
)
AGAIN, BACK, SLOW = reply(409, {}), reply(404, {}), reply(429, retry_after="60")


def sent(shop: Shop) -> list[str]:
    return [path.replace("/", "") for path, _ in shop.vendor.told]


def ids(*numbers: int, who: str | None = None) -> list[dict[str, Any]]:
    return [{"id": str(number)} | ({"who": who} if who else {}) for number in numbers]


def test_who_failed_before_the_lane_had_to_wait_does_not_send_the_others_again(store: Store) -> None:
    shop = posted(Shop(TWO, vendor=People(two_1=[AGAIN], two_3=[SLOW]), store=store), *ids(1, 2, 3))
    assert sent(shop) == ["one1", "one2", "one3", "two1", "two2", "two3"]
    shop.drain(for_s=60)
    assert sent(shop)[6:] == ["two1", "two3"]
    assert shop.sums() == {"delivered": 3}


def test_who_goes_back_goes_back_alone_when_the_lane_has_to_wait(store: Store) -> None:
    shop = posted(Shop(TWO, vendor=People(two_1=[BACK], two_3=[SLOW]), store=store), *ids(1, 2, 3))
    shop.drain(for_s=60)
    assert sorted(sent(shop)[6:]) == ["one1", "two1", "two3"]
    assert shop.sums() == {"delivered": 3}


def test_those_that_go_on_at_other_times_never_begin_anew(store: Store) -> None:
    vendor = People(one_2=[AGAIN], one_3=[AGAIN, AGAIN], two_1=[AGAIN] * 3, two_2=[AGAIN])
    shop = posted(Shop(TWO, vendor=vendor, store=store), *ids(1, 2, 3))
    shop.drain(for_s=600)
    assert {path: sent(shop).count(path) for path in sent(shop)} == {
        "one1": 1, "one2": 2, "one3": 3, "two1": 4, "two2": 2, "two3": 1,
    }  # fmt: skip
    assert shop.sums() == {"delivered": 3}


@pytest.mark.parametrize("trouble", [AGAIN, BACK])
@pytest.mark.parametrize("step", ["one", "two"])
def test_who_waits_is_not_overtaken_by_a_younger_one_of_its_key(step: str, trouble: Answer, store: Store) -> None:
    vendor = People(**{f"{step}_1": [trouble]})
    shop = posted(Shop(TWO, vendor=vendor, store=store), *ids(1, 2, who="a"), *ids(3, who="b"))
    shop.drain(for_s=600)
    again = sent(shop)[sent(shop).index(f"{step}1") + 1 :]
    assert again.index(f"{step}1") < again.index(f"{step}2")
    assert again.index("two1") < again.index("two2")
    assert [sent(shop).count(path) for path in ("one2", "two2", "one3", "two3")] == [1, 1, 1, 1]
    assert shop.sums() == {"delivered": 3}


def test_who_waits_is_not_overtaken_when_the_lane_has_to_wait_too(store: Store) -> None:
    vendor = People(two_1=[BACK], two_3=[SLOW])
    shop = posted(Shop(TWO, vendor=vendor, store=store), *ids(1, 2, who="a"), *ids(3, who="b"), *ids(4, who="a"))
    assert sent(shop)[4:] == ["two1", "two3"]
    shop.drain(for_s=600)
    mine = [path for path in sent(shop)[6:] if path != "two3"]
    assert mine == ["one1", "two1", "two2", "two4"]
    assert shop.sums() == {"delivered": 4}


def test_who_failed_earlier_does_not_overtake_an_older_one_that_got_further_and_holds_no_other_key(
    store: Store,
) -> None:
    vendor = People(one_2=[AGAIN], one_3=[AGAIN], two_1=[AGAIN, AGAIN])
    shop = posted(Shop(TWO, vendor=vendor, store=store), *ids(1, 2, who="a"), *ids(3, who="b"), *ids(4, who="c"))
    assert sent(shop) == ["one1", "one2", "one3", "one4", "two1", "two4"]
    shop.drain(for_s=60)
    assert sent(shop)[6:] == ["one3", "two3", "two1"]
    shop.drain(for_s=70)
    assert sent(shop)[9:] == ["two1", "one2", "two2"]
    assert shop.sums() == {"delivered": 4}


def test_results_of_one_record_are_its_own_and_it_goes_on_at_its_step(store: Store) -> None:
    shop = posted(Shop(TWO, vendor=People(two_1=[reply(200, {"bad": "again"})]), store=store), *ids(1, 2))
    shop.drain(for_s=60)
    assert sent(shop) == ["one1", "one2", "two1", "two2", "two1"]
    assert shop.sums() == {"delivered": 2}


def test_results_that_slow_the_lane_down_stop_the_others_too(store: Store) -> None:
    shop = posted(Shop(TWO, vendor=People(two_1=[reply(200, {"bad": "slow"})]), store=store), *ids(1, 2))
    assert sent(shop) == ["one1", "one2", "two1"]
    shop.drain(for_s=60)
    assert sent(shop)[3:] == ["two1", "two2"]
    assert shop.sums() == {"delivered": 2}


def test_what_may_have_arrived_of_one_says_nothing_of_the_others(store: Store) -> None:
    never = TWO.replace("    steps:", "    repeat: never\n    steps:")
    shop = posted(Shop(never, vendor=People(one_1=[TIMED_OUT]), store=store), *ids(1, 2))
    assert sent(shop) == ["one1", "one2", "two2"]
    assert shop.sums() == {"delivered": 1, "rejected": 1}


def test_each_request_of_a_record_has_the_id_of_its_own_delivery() -> None:
    ids_of = iter(["d1", "d2"])
    shop = Shop(TWO, vendor=People(two_1=[AGAIN]), store=MemoryStore(new_id=lambda: next(ids_of)))
    posted(shop, *ids(1, 2)).drain(for_s=60)
    assert [body["key"] for path, body in shop.vendor.told if path.startswith("two")] == ["d1", "d2", "d1"]


def test_a_record_that_fails_is_cleaned_up_by_itself_and_begins_anew(store: Store) -> None:
    abort = 'abort: {each: records, request: {method: DELETE, path: "/gone/{{ steps.one.id }}"}}'
    shop = Shop(f"{TWO}    on_failure:\n      {abort}\n", vendor=People(two_1=[AGAIN]), store=store)
    posted(shop, *ids(1, 2)).drain(for_s=60)
    assert sent(shop) == ["one1", "one2", "two1", "goneid-1-1", "two2", "one1", "two1"]
    assert shop.sums() == {"delivered": 2}


def test_what_was_looked_up_in_vain_is_looked_up_anew_whatever_the_others_have_sent(store: Store) -> None:
    forgets = TWO.replace("{status: 422, then: reject}", "{status: 410, then: retry, forget: person, wait: 1m}")
    forgets = forgets.replace(
        "    record: {",
        "    lookups: {person: {key: '${ event.id }', cache: 1h, sources: {people: {request: "
        "{path: '/person/{{ key }}'}, rows: '${ [response.body] }'}}}}\n"
        "    record: {person: '${ lookups.person.id }', ",
    )
    shop = posted(Shop(forgets, vendor=People(two_2=[reply(410, {})]), store=store), *ids(1, 2))
    shop.drain(for_s=60)
    assert sent(shop) == ["person1", "person2", "one1", "one2", "two1", "two2", "person2", "one2", "two2"]
    assert shop.sums() == {"delivered": 2}


FOUR = """
key: ${ event.who }
http: {base_url: https://api.crm.example/v1, retry: {attempts: 50, initial: 10s, max: 1m, jitter: none}}
replies: {outcomes: [{status: 409, then: retry, wait: 1m}, {status: 422, then: reject}, {status: 410, then: defer, wait: 30s}]}
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 6}
    steps:
      one: {each: records, request: {path: "/one/{{ record.id }}"}, save: {id: "${ response.body.id }"}}
      two: {each: records, request: {path: "/two/{{ record.id }}", json: {one: "${ steps.one.id }"}}}
      three: {request: {path: /three, json: {all: "${ batch.records[*].id }"}}}
      four: {each: records, request: {path: "/four/{{ record.id }}"}}
"""  # noqa: E501


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_vendor_says_none_is_lost_none_is_sent_twice_and_none_overtakes_one_of_its_key(seed: int) -> None:
    dice = random.Random(seed)
    taken: dict[str, list[int]] = {"one": [], "two": [], "three": [], "four": []}
    refused: set[int] = set()

    def answer(request: Prepared) -> Answer:
        step, _, number = request.url.split("/v1/")[1].partition("/")
        numbers = [int(number)] if number else [int(each) for each in request.decoded["all"]]
        status = dice.choices([200, 409, 410, 422, 429, 503], [40, 3, 2, 1, 2, 2])[0]
        if status == 422 and len(numbers) == 1:
            refused.update(numbers)
        if status == 200:
            taken[step] += numbers
        return reply(status, {"id": "x"})

    shop = Shop(FOUR, vendor=Vendor(answer=answer))
    who = [dice.choice("abc") for _ in range(14)]
    for number, key in enumerate(who):
        shop.post({"id": str(number), "who": key})
        if dice.random() < 0.3:
            shop.drain(for_s=dice.choice([0, 20]))
    shop.drain(for_s=100_000)
    done = [number for number in range(14) if number not in refused]
    assert shop.sums() == {"delivered": len(done)} | ({"rejected": len(refused)} if refused else {})
    for numbers in taken.values():
        assert sorted(number for number in numbers if number not in refused) == done
        for key in "abc":
            mine = [number for number in numbers if who[number] == key]
            assert mine == sorted(mine)


# --- each, where the connector was changed ---

CHANGED = (
    RULES
    + """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10}
    steps:
      one: {EACH request: {path: /one}, save: {id: "${ response.body.id }"}}
      two: {request: {path: /two}}
"""
)
KINDS = {"records": "each: records,", "list": "each: \"${ ['x'] }\",", "none": ""}


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("at", ["one", "two"])
def test_a_half_done_batch_goes_on_when_a_step_becomes_one_for_each_or_no_more(
    at: str, before: str, after: str, store: Store
) -> None:
    trouble: dict[str, list[Answer]] = {
        at: [reply(200, {"id": "x"}), AGAIN] if at == "one" and before == "records" else [AGAIN]
    }
    shop = posted(Shop(CHANGED.replace("EACH", KINDS[before]), vendor=People(**trouble), store=store), *ids(1, 2))
    shop = Shop(CHANGED.replace("EACH", KINDS[after]), vendor=shop.vendor, store=store, clock=shop.clock)
    shop.drain(for_s=60)
    assert shop.sums() == {"delivered": 2}


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
    trouble: list[Answer] = [reply(200, {"id": "t"}), reply(409, {})]
    shop = posted(Shop(ITEMS, vendor=People(tags=trouble), store=store), {"id": "1", "tags": ["x", "y", "z"]})
    shop.drain(for_s=60)
    assert [body.get("tag") for path, body in shop.vendor.told if path.endswith("tags")] == ["x", "y", "y", "z"]
    assert shop.sums() == {"delivered": 1}


def test_an_absent_list_asks_nobody_and_what_is_no_list_rejects() -> None:
    shop = posted(Shop(ITEMS, vendor=People()), {"id": "1"}, {"id": "2", "tags": "x"})
    assert [path for path, _ in shop.vendor.told] == ["people", "close", "people"]
    assert shop.sums() == {"delivered": 1, "rejected": 1}


OF_ALL = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10}
    steps:
      one: {each: "${ batch.records }", request: {path: "/one/{{ item.id }}"}}
      two: {request: {path: /two, json: {ids: "${ batch.records[*].id }"}}}
"""


def test_a_list_made_of_many_records_loses_none_when_the_batch_is_halved(store: Store) -> None:
    shop = posted(Shop(OF_ALL, vendor=People(one_3=[reply(400, {})] * 9), store=store), *ids(1, 2, 3, 4))
    assert [body["ids"] for path, body in shop.vendor.told if path == "two"] == [["1", "2"], ["4"]]
    assert {"one1", "one2", "one4"} <= set(sent(shop))
    assert shop.reasons() == {"3": "HTTP 400"}
    assert shop.sums() == {"delivered": 3, "rejected": 1}


def test_what_must_not_be_repeated_is_not_sent_anew_for_halves(store: Store) -> None:
    never = OF_ALL.replace("    steps:", "    repeat: never\n    steps:")
    shop = posted(Shop(never, vendor=People(one_3=[reply(400, {})]), store=store), *ids(1, 2, 3, 4))
    assert sent(shop) == ["one1", "one2", "one3"]
    assert shop.sums() == {"rejected": 4}


def test_a_list_that_has_become_shorter_goes_on_at_the_item_that_failed(store: Store) -> None:
    named = OF_ALL.replace(
        '"/one/{{ item.id }}"}',
        '"/one/{{ item.id }}"}, results: {at: "${ response.body.gone }", '
        'match: {ours: "${ record.id }", theirs: "${ result }"}, ok: "${ `false` }", unnamed: delivered}',
    )
    vendor = People(one_1=[reply(200, {"gone": ["1"]})], one_2=[reply(200, {"gone": []})], one_3=[SLOW])
    vendor.trouble |= {f"one_{number}": [reply(200, {"gone": []})] for number in (4,)}
    shop = posted(Shop(named, vendor=vendor, store=store), *ids(1, 2, 3, 4))
    vendor.trouble["one_3"] = [reply(200, {"gone": []})]
    shop.drain(for_s=60)
    assert sent(shop) == ["one1", "one2", "one3", "one3", "one4", "two"]
    assert shop.sums() == {"delivered": 3, "rejected": 1}


def test_of_equal_items_each_is_sent_once(store: Store) -> None:
    trouble: list[Answer] = [reply(200, {"id": "t"}), reply(200, {"id": "u"}), AGAIN]
    shop = posted(Shop(ITEMS, vendor=People(tags=trouble), store=store), {"id": "1", "tags": ["x", "x", "x"]})
    shop.drain(for_s=60)
    assert [path for path in sent(shop) if path.endswith("tags")] == ["peopleid-people-1tags"] * 4
    assert shop.vendor.told[-1] == ("close", {"tags": ["t", "u", "id-tags-5"]})


def test_an_item_that_names_only_some_records_is_not_asked_for_ever() -> None:
    named = OF_ALL.replace(
        '"/one/{{ item.id }}"}',
        '"/one/{{ item.id }}"}, results: {at: "${ response.body.ok }", '
        'match: {ours: "${ record.id }", theirs: "${ result }"}, unnamed: resend}',
    )
    vendor = People(one_1=[reply(200, {"ok": ["1"]})] * 99)
    shop = posted(Shop(named, vendor=vendor), *ids(1, 2))
    shop.drain(for_s=3600)
    assert sent(shop).count("one1") == 3


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


ONCE_ITEMS = (
    RULES
    + """
actions:
  note:
    record: {id: "${ event.id }", tags: "${ event.tags }"}
    steps:
      member:
        each: ${ record.tags }
        once_per: {key: "${ item }", within: 10m}
        request: {path: "/tags/{{ item }}"}
        results:
          match: test
          ok: ${ !(response.body.bad) }
          outcomes: [{when: "${ record }", then: retry, wait: 1m}]
      note: {request: {path: /notes}}
"""
)


def test_going_back_sends_each_item_again_whatever_was_remembered() -> None:
    shop = posted(Shop(ONCE_ITEMS, vendor=People(notes=[BACK])), {"id": "1", "tags": ["x", "y"]})
    shop.drain(for_s=60)
    assert sent(shop) == ["tagsx", "tagsy", "notes", "tagsx", "tagsy", "notes"]


def test_what_results_call_bad_was_not_sent() -> None:
    shop = Shop(ONCE_ITEMS, vendor=People(tags_x=[reply(200, {"bad": True})]))
    posted(shop, {"id": "1", "tags": ["x"]}).drain(for_s=60)
    assert sent(shop) == ["tagsx", "tagsx", "notes"]
    assert shop.sums() == {"delivered": 1}


def test_a_key_that_is_no_text_rejects_its_record_alone() -> None:
    shop = posted(Shop(ONCE, vendor=People()), {"id": "1", "mail": ["a"]}, {"id": "2", "mail": "b"})
    assert shop.sums() == {"delivered": 1, "rejected": 1}


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


@pytest.mark.parametrize("key", ["poll: {until: '${ response.body.ok }'}", "results: {at: '${ response.body }'}"])
def test_a_step_that_cleans_up_is_neither_polled_nor_read_for_results(key: str) -> None:
    text = EACH + "    on_failure:\n      undo: {request: {path: /undo}, " + key + "}\n"
    with pytest.raises(SpecErrors, match="a step that cleans up is neither polled nor read for results"):
        Shop(text)
