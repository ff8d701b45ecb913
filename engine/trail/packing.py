"""Events side by side in one row, and an index of them: what a name or a person stands at, in sorted numbers."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import suppress
from struct import pack, unpack
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BUCKETS = 256
REACH = 1 << 20  # places that a part of the index may span
_BASE = (1 << 48) - 1
_UNSIGNED = (1 << 64) - 1


class Events(msgspec.Struct, array_like=True):
    """Columns of events whose places follow each other; one without an id was taken out, or has its place elsewhere."""

    ids: list[str | None]
    times: list[float]  # received at
    people: list[int | None]
    others: list[int | None]  # empty: none of them has a second person
    seqs: list[int]  # of their deliveries in the store, for each as many; or of none

    def take_out(self, at: int) -> None:
        self.ids[at], self.times[at], self.people[at] = None, 0.0, None
        if self.others:
            self.others[at] = None

    def seqs_of(self, at: int) -> list[int]:
        each = len(self.seqs) // len(self.ids)
        return self.seqs[at * each : (at + 1) * each]

    def is_of(self, at: int, person: int) -> bool:
        return person == self.people[at] or (bool(self.others) and person == self.others[at])

    def part(self, begin: int, end: int) -> Events:
        each = len(self.seqs) // len(self.ids)
        seqs = self.seqs[begin * each : end * each]
        return Events(
            *(self.ids[begin:end], self.times[begin:end], self.people[begin:end], self.others[begin:end], seqs)
        )


packed = msgspec.msgpack.Encoder().encode
_events = msgspec.msgpack.Decoder(Events).decode
_numbers = msgspec.msgpack.Decoder(list[int]).decode


def packed_events(events: Events) -> bytes:
    try:
        return packed(events)
    except UnicodeEncodeError:  # half of a character
        events.ids = [None if each is None else whole(each) for each in events.ids]
        return packed(events)


def unpacked_events(given: bytes, count: int) -> Events:
    """Of a row that can't be read it is as if all of them had been taken out: the others are not lost with it."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        events = _events(given)
        if len(events.ids) == len(events.times) == len(events.people) == count:
            return events
    return Events([None] * count, [0.0] * count, [None] * count, [], [])


def packed_places(places: list[int]) -> bytes:
    """Neighbours are their first."""
    return packed(places[:1] if places == [*range(places[0], places[0] + len(places))] else places)


def unpacked_places(given: bytes, count: int) -> Sequence[int]:
    places = _numbers(given)
    return range(places[0], places[0] + count) if len(places) == 1 else places


def whole(text: str) -> str:
    return text.encode(errors="replace").decode()


# --- the index: 32 to 44 bits of what is looked for, 20 of where that is from the beginning of a part ---


def name_number(event_id: str) -> int:
    """Whoever reads the events at the places that it leads to sees which of them have this id."""
    return crc32(event_id.encode()) << 32


def person_number(person: int) -> int:
    return (person & _UNSIGNED) >> 20 << 20


def numbers_of(events: Events, at: int) -> list[int]:
    """All by which one event is found."""
    event_id = events.ids[at]
    people = [events.people[at], *(events.others[at : at + 1])]
    found = [] if event_id is None else [name_number(event_id)]
    return found + [person_number(person) for person in people if person is not None]


def index_of(base: int, rows: Iterable[tuple[int, Events]]) -> list[tuple[int, bytes]]:
    """Of events that begin at these places: the rows of a part of the index."""
    found: list[int] = []
    for first, events in rows:
        places = range(first - base, first - base + len(events.ids))
        found += [name_number(one) | place for one, place in zip(events.ids, places, strict=True) if one is not None]
        for column in (events.people, events.others):
            found += [person_number(one) | place for one, place in zip(column, places) if one is not None]  # noqa: B905
    found.sort()
    ends = [bisect_left(found, bucket << 56) for bucket in range(1, BUCKETS)]
    return [
        (bucket << 48 | base, packed_numbers(found[begin:end]))
        for bucket, (begin, end) in enumerate(zip([0, *ends], [*ends, len(found)], strict=True))
        if begin < end
    ]


def packed_numbers(numbers: Sequence[int]) -> bytes:
    return pack(f"<{len(numbers)}Q", *numbers)


def unpacked_numbers(given: bytes) -> tuple[int, ...]:
    return unpack(f"<{len(given) // 8}Q", given)


def bucket_rows(number: int) -> tuple[int, int]:
    """The first and the last id that rows of the index have where this is to be found."""
    bucket = number >> 56
    return bucket << 48, (bucket + 1 << 48) - 1


def part_row(number: int, base: int) -> int:
    """The id of the row of one part where this is to be found."""
    return number >> 56 << 48 | base


def part_rows(base: int) -> list[int]:
    return [bucket << 48 | base for bucket in range(BUCKETS)]


def places_of(number: int, rows: Iterable[Sequence[Any]]) -> Iterator[int]:
    """Where rows of the index say that this may be."""
    for row, given in rows:
        numbers = unpacked_numbers(given)
        at = bisect_left(numbers, number)
        while at < len(numbers) and numbers[at] - number < REACH:
            yield (row & _BASE) + numbers[at] - number
            at += 1
