"""
The lanes of one store into another, of whatever kinds: page by page, so that it can be killed and run again.

What has been done stands in marks of the store that it goes to (a `Book` for each lane), and each page is harmless
when it is carried in twice. A lane is paused where it comes from before its first page is read, and where it goes to
until all lanes are there and counted: so no delivery is sent from two stores.
"""

from __future__ import annotations

import uuid
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.errors import StoreUnavailable, UsageError
from engine.owners import is_gone, new_owner
from engine.privacy.personal import addresses
from engine.records import Buried, Held, Lane, LaneChange, Progress, Remembered, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.ports import Store
    from engine.records import Carried, Lease, TokenRow

PAGE = 500
IDS = 10  # times as many ids, for they are small
NOTED = 8  # pages after which it is written down how far it has come: what was carried since is carried again
LEASE_S = 60.0
BY_HAND = "paused by hand: "  # such a pause ends by hand, too
COPIED = f"{BY_HAND}copied to "
IDENTITY = "identity"  # the mark by which a store is known under whatever address
ROUNDS = 3  # how often what came in meanwhile is fetched, before it is left to another run


class Round(msgspec.Struct, frozen=True):
    """Deliveries of a lane that were given their seqs together: those behind `after`, up to `upto`."""

    after: int
    upto: int
    shift: int  # the seq in the other store before that of the first

    def moved(self, seq: int) -> int | None:
        return self.shift + seq - self.after if self.after < seq <= self.upto else None


class Book(msgspec.Struct, frozen=True):
    """How far a lane has come; kept as a mark of the store that it goes to."""

    source: str  # the identity of the store that it comes from
    noted: Lane  # as it was there when this round began
    held: Held
    rounds: tuple[Round, ...] = ()
    deliveries: int = 0  # the last seq that was carried
    dead: int = 0  # the last dead letter
    counted: Lane | None = None  # what is in the counters of the other store already: it is done

    def moved(self, seq: int) -> int | None:
        """The seq in the other store; None for a delivery that ended before the copy began."""
        return next((at for each in self.rounds if (at := each.moved(seq)) is not None), None)


class Copied(NamedTuple):
    """What became of one lane."""

    connector: str
    client: str
    held: Held  # where it came from
    there: Held  # where it went
    problem: str = ""  # why it is not opened there yet
    left: int = 0  # came in where it came from, and is not carried yet


_decode_book = msgspec.json.Decoder(Book).decode
_decode_lane = msgspec.json.Decoder(Lane).decode


class Copy:
    """
    One run from `source` to `target`, which are called so in what is said.

    `step` is told of each page: how many rows it had, and of which lane.
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        *,
        names: tuple[str, str],
        now: Callable[[], float],
        step: Callable[[int, str], None] | None = None,
        page: int = PAGE,
    ) -> None:
        self.source, self.target, self.now, self.step, self.page = source, target, now, step, page
        self.source_name, self.target_name = names
        self.reason = f"{COPIED}{self.target_name}"
        self.owner = new_owner()

    def run(self) -> list[Copied]:
        """Every lane, then the counters of all. UsageError or StoreUnavailable where it can't begin or go on."""
        self.identity = identity(self.source)
        if identity(self.target) == self.identity:
            raise UsageError(f"{self.source_name} and {self.target_name} are one store; name two")
        self.source.reclaim(is_gone)
        self.target.reclaim(is_gone)
        for token, row in self.readable_tokens():
            there = self.target.token(*token)
            if there is None or there.obtained_at < row.obtained_at:
                self.target.save_token(*token, row)
        self.target.carry_forgotten(self.source.forgotten())
        lanes = [(lane.connector, lane.client) for lane in self.source.lanes()]
        for name in lanes:
            self.refuse_strange(name)
        for name in lanes:
            self.carry(name)
        return [self.finish(name) for name in lanes]

    def readable_tokens(self) -> list[tuple[tuple[str, str, str], TokenRow]]:
        """All of them, before the first is written: a wrong key leaves nothing half done."""
        found = ((name, self.source.token(*name)) for name in self.source.tokens())
        return [(name, row) for name, row in found if row is not None]

    # One lane

    def refuse_strange(self, name: tuple[str, str]) -> None:
        """The other store has nothing of this lane but what a copy from here has brought."""
        book, there = self.book(name), self.target.lane(*name)
        if book is None and there is not None and there.accepted:
            raise UsageError(
                f"{self.target_name}: {'/'.join(name)} has had {there.accepted} deliveries there; "
                "a lane is copied where it has none"
            )
        if book is not None and book.source != self.identity:
            raise UsageError(
                f"{self.target_name}: {'/'.join(name)} is there as a copy of another store than {self.source_name}"
            )

    def carry(self, name: tuple[str, str]) -> None:
        """All that the lane holds and has not been carried."""
        lease = self.leased(name)
        try:
            book = self.begun(name)
            if book is not None:
                for count in self.pages(name, book):
                    if self.step is not None:
                        self.step(count, "/".join(name))
                    if lease.until - self.now() < LEASE_S / 2:
                        lease = self.source.renew(lease, ttl_s=LEASE_S, now=self.now())
        finally:
            self.source.change_lane(*name, LaneChange(), now=self.now())  # due when it was, once it is resumed
            self.source.release(lease, wake_at=None)

    def leased(self, name: tuple[str, str]) -> Lease:
        lease = self.source.lease(*name, owner=self.owner, ttl_s=LEASE_S, now=self.now())
        if lease is None:
            raise StoreUnavailable(
                f"{self.source_name}: {'/'.join(name)} is being delivered by a process that lives; "
                "stop `connect serve` and `connect deliver` on it, then run this again"
            )
        return lease

    def begun(self, name: tuple[str, str]) -> Book | None:
        """The lane paused here and its book there, for what is to be carried now; None where there is nothing new."""
        book = self.book(name)
        noted, held = self.look(name)
        if book is not None and book.counted is not None:
            if figures(noted) == figures(book.counted) or not grown(book.counted, noted):
                self.pause(name)
                return None
        elif book is not None and not grown(book.noted, noted):
            self.target.carry_away(*name)  # some of it has ended here since: what was carried is not so any more
            book = None
        if book is None:
            book = Book(self.identity, noted, held)
        book = self.numbered(name, msgspec.structs.replace(book, noted=noted, held=held))
        if book.counted is None:
            under_way = f"{BY_HAND}the copy from {self.source_name} is under way"
            self.target.change_lane(*name, LaneChange(pause=True, reason=under_way), now=self.now())
        self.write(name, book)
        self.pause(name)
        return book

    def numbered(self, name: tuple[str, str], book: Book) -> Book:
        """With seqs there for the deliveries that have none yet."""
        carried, last = book.rounds[-1].upto if book.rounds else 0, book.held.last_seq
        if last <= carried:
            self.target.reserve(*name, 0)
            return book
        (first,) = self.source.carry_out(*name, Waiting, after=carried, limit=1)
        before = first.delivery.seq - 1
        shift = self.target.reserve(*name, last - before)
        return msgspec.structs.replace(book, rounds=(*book.rounds, Round(before, last, shift)))

    def pause(self, name: tuple[str, str]) -> None:
        """So that nobody delivers it from here any more; how it was before is kept, for the other store."""
        lane = self.shown(name)
        if not (lane.reason or "").startswith(COPIED):
            if lane.reason is not None:  # a mark is not looked through when a person is erased
                lane = msgspec.structs.replace(lane, reason=addresses(lane.reason))
            self.source.write_mark(original(name), msgspec.json.encode(lane).decode())
        self.source.change_lane(*name, LaneChange(pause=True, reason=self.reason), now=self.now())

    def pages(self, name: tuple[str, str], book: Book) -> Iterator[int]:
        """Carries page by page; how many rows each had."""
        batch = ""
        batches: set[str] = set()  # of a lane that is open there already none can be new
        while book.counted is None and (found := self.source.carry_out(*name, Progress, after=batch, limit=self.page)):
            self.target.carry_in(*name, [moved(book, each) for each in found])
            batches.update(each.batch for each in found)
            batch = found[-1].batch
            yield len(found)
        pages = count(1)
        while rows := self.together(name, book.deliveries):
            rows = [loose(row, batches) for row in rows if row.delivery.seq <= book.held.last_seq]
            if not rows:
                break
            self.target.carry_in(*name, [moved(book, row) for row in rows])
            book = self.noted(name, msgspec.structs.replace(book, deliveries=rows[-1].delivery.seq), next(pages))
            yield len(rows)
        while letters := self.source.carry_out(*name, Buried, after=book.dead, limit=self.page):
            self.target.carry_in(*name, [moved(book, each) for each in letters])
            book = self.noted(name, msgspec.structs.replace(book, dead=letters[-1].letter.id), next(pages))
            yield len(letters)
        self.write(name, book)
        event_id = ""
        while ids := self.source.carry_out(*name, Remembered, after=event_id, limit=self.page * IDS):
            event_id = ids[-1].event_id
            self.target.carry_in(*name, [each for each in ids if each.until > self.now()])
            yield len(ids)

    def together(self, name: tuple[str, str], after: int) -> list[Waiting]:
        """A page, and what its deliveries wait for; the others of an event come right behind."""
        rows = self.source.carry_out(*name, Waiting, after=after, limit=self.page)
        furthest = max((seq for row in rows for seq in row.after or ()), default=0)
        while rows and rows[-1].delivery.seq < furthest:
            more = self.source.carry_out(*name, Waiting, after=rows[-1].delivery.seq, limit=self.page)
            if not more:
                break
            rows += more
        return rows

    # At the end

    def finish(self, name: tuple[str, str]) -> Copied:
        """Compare, and open the lane in the other store; what came in meanwhile is fetched a few times."""
        for _ in range(ROUNDS):
            book, (lane, held) = self.needed_book(name), self.look(name)
            if figures(lane) == figures(book.noted) or not grown(book.noted, lane):
                break
            self.carry(name)
        else:
            book, (lane, held) = self.needed_book(name), self.look(name)
        there = self.target.count(*name, now=self.now())
        if not grown(book.noted, lane):
            return Copied(*name, held, there, self.moved_on(book, lane))
        left = lane.accepted - book.noted.accepted
        if book.counted is not None and figures(book.counted) == figures(book.noted):
            return Copied(*name, book.held, there, left=left)
        opened = self.target.lane(*name)
        assert opened is not None
        if book.counted is None and (
            problem := differs(book.held, held, there, own=opened.waiting, grew=figures(lane) != figures(book.noted))
        ):
            return Copied(*name, book.held, there, problem)
        self.open(name, book, opened)
        return Copied(*name, book.held, there, left=left)

    def open(self, name: tuple[str, str], book: Book, opened: Lane) -> None:
        """What is counted there for the first time is counted by its rows; later, what has come since."""
        noted, before = book.noted, book.counted
        if before is None:
            state = _decode_lane(self.source.mark(original(name)) or msgspec.json.encode(noted))
            accepted = noted.accepted
            added = dict(zip(_ENDS, ended(noted), strict=True))
        else:
            state, accepted = opened, noted.accepted - before.accepted
            added = {kind: getattr(noted, kind) - getattr(before, kind) for kind in _ENDS}
        lane = msgspec.structs.replace(state, accepted=accepted, **added)
        done = msgspec.structs.replace(book, counted=noted)
        self.target.carry_lane(lane, mark=kept_as(name), value=msgspec.json.encode(done).decode())

    def moved_on(self, book: Book, lane: Lane) -> str:
        changes = [
            f"{kind} {before} -> {after}"
            for kind, before, after in zip(("accepted", *_ENDS), figures(book.noted), figures(lane), strict=True)
            if before != after
        ]
        said = f"{self.source_name} went on with this lane meanwhile ({', '.join(changes)})"
        if book.counted is not None:
            return f"{said} though it had been copied: what was sent from there may be sent again from here"
        return f"{said}; stop all that works on it, then run this again: the lane is copied anew"

    # Small things

    def shown(self, name: tuple[str, str]) -> Lane:
        lane = self.source.lane(*name)
        assert lane is not None
        return lane

    def look(self, name: tuple[str, str]) -> tuple[Lane, Held]:
        """Counters and rows of one moment; what was accepted is told by the rows."""
        for _ in range(100):
            before, held, after = self.shown(name), self.source.count(*name, now=self.now()), self.shown(name)
            if ended(before) == ended(after):
                accepted = sum(ended(after)) + held.deliveries
                return msgspec.structs.replace(after, accepted=accepted, waiting=held.deliveries, reason=None), held
        raise StoreUnavailable(f"{self.source_name}: {'/'.join(name)} does not stand still; stop what works on it")

    def book(self, name: tuple[str, str]) -> Book | None:
        kept = self.target.mark(kept_as(name))
        return None if kept is None else _decode_book(kept)

    def needed_book(self, name: tuple[str, str]) -> Book:
        book = self.book(name)
        assert book is not None
        return book

    def noted(self, name: tuple[str, str], book: Book, pages: int) -> Book:
        """Written down now and then only: that costs as much as carrying a page."""
        return book if pages % NOTED else self.write(name, book)

    def write(self, name: tuple[str, str], book: Book) -> Book:
        self.target.write_mark(kept_as(name), msgspec.json.encode(book).decode())
        return book


_ENDS = ("delivered", "rejected", "skipped")


def ended(lane: Lane) -> tuple[int, ...]:
    return tuple(getattr(lane, kind) for kind in _ENDS)


def figures(lane: Lane) -> tuple[int, ...]:
    return (lane.accepted, *ended(lane))


def grown(before: Lane, now: Lane) -> bool:
    """Has nothing happened but that events came in? Some of them no action wants: they count as skipped."""
    more = now.accepted - before.accepted
    same = (before.delivered, before.rejected) == (now.delivered, now.rejected)
    return same and 0 <= now.skipped - before.skipped <= more


def kept_as(name: tuple[str, str]) -> str:
    return f"copy {'/'.join(name)}"


def original(name: tuple[str, str]) -> str:
    return f"before copy {'/'.join(name)}"


def identity(store: Store) -> str:
    known = store.mark(IDENTITY)
    if known is None:
        known = uuid.uuid4().hex
        store.write_mark(IDENTITY, known)
    return known


def differs(noted: Held, held: Held, there: Held, *, own: int, grew: bool) -> str:
    """
    What is not in the other store as it was here; empty: all is there. `own` wait there by the lane's counters: put
    there meanwhile, or, in a store that counts rows, all.
    """
    put = min(own, there.deliveries - noted.deliveries) if own == there.deliveries else own
    wanted = {
        "deliveries": (noted.deliveries, there.deliveries - max(put, 0)),
        "half-done batches": (noted.batches, there.batches),
        "dead letters": (noted.dead, there.dead),
        "remembered ids": (held.ids, held.ids if grew else there.ids),
    }
    wrong = [f"{what}: {here}, there {other}" for what, (here, other) in wanted.items() if here != other]
    return f"{'; '.join(wrong)}; run this again, and if it stays so run `connect store check` on both" if wrong else ""


def loose(row: Waiting, batches: set[str]) -> Waiting:
    """A delivery of a half-done batch that is not there would wait for good: it starts afresh."""
    if row.delivery.batch is None or row.delivery.batch in batches:
        return row
    return msgspec.structs.replace(row, delivery=msgspec.structs.replace(row.delivery, batch=None))


def moved(book: Book, item: Carried) -> Carried:
    """With the seqs of the other store."""
    match item:
        case Waiting():
            delivery = msgspec.structs.replace(item.delivery, seq=book.moved(item.delivery.seq))
            after = None if item.after is None else tuple(at for each in item.after if (at := book.moved(each)))
            return msgspec.structs.replace(item, delivery=delivery, after=after or None)
        case Progress():
            seqs = {str(seq): str(at) for listed in item.members for seq in listed if (at := book.moved(seq))}
            return msgspec.structs.replace(
                item,
                members=[[at for seq in listed if (at := book.moved(seq))] for listed in item.members],
                saved={name: renamed(kept, seqs) for name, kept in item.saved.items()},
            )
        case Buried():
            followers = tuple(
                msgspec.structs.replace(each, after=tuple(places(book, each.after))) for each in item.followers
            )
            return msgspec.structs.replace(item, followers=followers)
        case Remembered():
            return item


def places(book: Book, after: tuple[int, ...]) -> Iterator[int]:
    for place in after:
        if place >= 0:
            yield place
        elif seq := book.moved(-place):
            yield -seq


def renamed(kept: Any, seqs: dict[str, str]) -> Any:
    """What a step saved of each record is known by the seq of its delivery."""
    return {seqs.get(key, key): value for key, value in kept.items()} if isinstance(kept, dict) else kept
