"""What a process does beside its deliveries: caches that forget, dead letters that are old enough."""

from __future__ import annotations

from conftest import Shop, Vendor, reply

from engine.program import Program
from engine.upkeep.housekeeping import EVERY_S, Housekeeper

ONCE = """
actions:
  note:
    lookups:
      person:
        key: ${ event.email }
        cache: 1d
        sources: {crm: {request: {path: "/people/{{ key }}", method: GET}, rows: "${ [response.body] }"}}
    record: {person: "${ lookups.person.id }"}
    request: {path: /notes, json: "${ record }"}
"""


def keeper(shop: Shop, keep_dead_s: float | None = None) -> Housekeeper:
    programs: list[Program] = list(shop.programs.values())
    return Housekeeper(shop.store, shop.clock, shop.heard, lambda: programs, lambda: keep_dead_s)


def test_what_look_ups_found_is_looked_up_anew_once_a_person_was_erased() -> None:
    shop = Shop(ONCE, vendor=Vendor(reply(200, {"id": 7})))
    house = keeper(shop)

    def asked() -> int:
        """Look-ups that one more event asks for."""
        before = len(shop.vendor.asked)
        shop.post({"id": str(before), "email": "ana@x.com"})
        shop.drain()
        return len(shop.vendor.asked) - before - 1

    house.look()
    assert (asked(), asked()) == (1, 0)
    house.look()
    assert asked() == 0
    shop.store.forget("bia@x.com", now=shop.clock.now())
    house.look()
    assert (asked(), asked()) == (1, 0)
    assert shop.heard.named("caches-cleared") == [{"why": "a person was erased"}]


def test_a_process_that_only_answers_callers_forgets_at_their_next_event() -> None:
    shop = Shop(ONCE, vendor=Vendor(reply(200, {"id": 7})))
    house = keeper(shop)
    house.forget_soon()
    shop.post({"id": "1", "email": "ana@x.com"})
    shop.drain()
    shop.store.forget("bia@x.com", now=shop.clock.now())
    (program,) = shop.programs.values()
    house.forget_soon()
    assert len(program.cache.kept) == 1  # not yet: it looked a moment ago
    shop.clock.time += 2
    house.forget_soon()
    assert program.cache.kept == {}


def test_what_was_cached_before_the_first_look_is_not_kept() -> None:
    shop = Shop(ONCE, vendor=Vendor(reply(200, {"id": 7})))
    shop.post({"id": "1", "email": "ana@x.com"})
    shop.drain()
    keeper(shop).look()
    (program,) = shop.programs.values()
    assert (program.cache.kept, shop.heard.named("caches-cleared")) == ({}, [])


def test_dead_letters_go_when_they_are_older_than_they_are_kept_and_stay_counted() -> None:
    shop = Shop(vendor=Vendor(reply(400, {})))
    house = keeper(shop, 10 * 86_400.0)
    shop.post({"id": "1"})
    shop.drain()
    shop.clock.time += 9 * 86_400
    shop.post({"id": "2"})
    shop.drain()
    house.look()
    assert [dead.event_id for dead in shop.dead()] == ["1", "2"]
    shop.clock.time += 86_400 + 1
    house.look()
    assert [dead.event_id for dead in shop.dead()] == ["2"]
    assert shop.sums() == {"rejected": 2}
    assert shop.heard.named("dead-letters-expired") == [{"count": 1, "before": shop.clock.now() - 10 * 86_400}]


def test_it_looks_for_what_is_old_once_an_hour_and_keeps_dead_letters_for_good_unless_told_otherwise() -> None:
    shop = Shop(vendor=Vendor(reply(400, {})))
    shop.post({"id": "1"})
    shop.drain()
    shop.clock.time += 1000 * 86_400
    keeper(shop).look()
    assert len(shop.dead()) == 1
    house = keeper(shop, 86_400.0)
    house.removed_at = shop.clock.now() - EVERY_S + 1
    house.look()
    assert len(shop.dead()) == 1
    shop.clock.time += 1
    house.look()
    assert shop.dead() == []
