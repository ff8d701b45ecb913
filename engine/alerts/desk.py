"""
Takes in what is wrong and has each way told, without making anybody wait: `ports.Alerts` of a process that runs.

One thread holds the ledger, another goes each way out: a webhook that hangs keeps neither the walk nor the others.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from engine.alerts.book import Busy
from engine.alerts.ledger import Key, Ledger, Trouble
from engine.alerts.messages import of_one, of_several
from engine.alerts.ways import LOG, PAUSES_S, Postman, Way
from engine.errors import told as told_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from engine.alerts.book import Book
    from engine.alerts.ledger import Entry
    from engine.alerts.messages import Message
    from engine.alerts.rules import Rules
    from engine.alerts.ways import Sent
    from engine.ports import Telemetry

QUEUE = 1_000
TURN_S = 15.0  # between two looks at the ledger while a trouble stands
AGAIN_S = 60.0  # for which a trouble that comes again and again is not looked at
TOGETHER = 3  # more than these at once are one message
A_MINUTE = 5  # messages to one way; what is more comes together in the next
DOWN_S = (60.0, 120.0, 300.0, 900.0)  # until a way that took nothing is tried again
BUSY_AGAIN_S = 1.0


class Stood(NamedTuple):
    """What a look at the store found: of these kinds, these and no others."""

    found: tuple[Trouble, ...]
    kinds: frozenset[str]
    at: float


class Gone(NamedTuple):
    key: Key


class Answer(NamedTuple):
    """What became of what a way was given."""

    way: str
    pairs: tuple[tuple[Key, str], ...]
    sent: Sent


Item = Trouble | Stood | Gone | Answer


class Outgoing:
    """One way with its thread, and how it has fared."""

    def __init__(self, way: Way, pauses_s: Sequence[float]) -> None:
        self.way, self.postman = way, Postman(way, pauses_s=pauses_s)
        self.sent_at: deque[float] = deque(maxlen=A_MINUTE)
        self.failures = 0
        self.not_before = float("-inf")

    def is_free(self, now: float) -> bool:
        return now >= self.not_before and (len(self.sent_at) < A_MINUTE or now - self.sent_at[0] >= 60.0)

    def heard(self, sent: Sent, now: float) -> None:
        self.failures = 0 if sent.told else self.failures + 1
        if not sent.told:
            self.not_before = now + max(sent.wait_s, DOWN_S[min(self.failures, len(DOWN_S)) - 1])


class Desk:
    """`mask` is given all texts that go out; `now` is the store's clock."""

    def __init__(
        self,
        book: Book,
        ways: Sequence[Way],
        rules: Callable[[], Rules],
        *,
        now: Callable[[], float],
        telemetry: Telemetry,
        mask: Callable[[str], str] = lambda text: text,
        pauses_s: Sequence[float] = PAUSES_S,
        limit: int = QUEUE,
    ) -> None:
        self._book, self.rules, self._now, self._mask = book, rules, now, mask
        self._telemetry = telemetry
        self._ways = {way.name: Outgoing(way, pauses_s) for way in ways}
        self._inbox: queue.Queue[Item] = queue.Queue(limit)
        self._lately: dict[Key, float] = {}
        self._work = threading.Condition()
        self._waiting = 0  # items and messages that are under way
        self._closing = self._stands = False
        self._thread: threading.Thread | None = None

    # --- ports.Alerts ---

    def alert(self, kind: str, *, connector: str, client: str, text: str, facts: Mapping[str, str]) -> None:
        now = self._now()
        key = (kind, connector, client)
        if now - self._lately.get(key, float("-inf")) < AGAIN_S:
            return
        if kind == "dead-letter" and self.rules().of(client).dead.uses > 1:
            return  # whether there are so many of them, the look at the store says
        if self._take(Trouble(kind, connector, client, text, now, dict(facts))):
            if len(self._lately) >= 10_000:
                self._lately.clear()
            self._lately[key] = now

    def over(self, kind: str, *, connector: str, client: str) -> None:
        self._lately.pop((kind, connector, client), None)
        self._take(Gone((kind, connector, client)))

    # --- the watcher ---

    def stands(self, found: Collection[Trouble], kinds: Collection[str], at: float) -> None:
        """What a look at the store found, that began at `at`."""
        self._take(Stood(tuple(found), frozenset(kinds), at))

    # --- at the end ---

    def flush(self, timeout_s: float = 5.0) -> bool:
        """
        Wait until what came in has gone out, or was given up; False where the time is over before.

        A process that is frozen between its turns, as a Lambda is, calls it at the end of each.
        """
        with self._work:
            return self._work.wait_for(lambda: self._waiting == 0, max(0.0, timeout_s))

    def close(self, timeout_s: float = 5.0) -> None:
        """Let what is on its way go out, for so long at most; what comes later is dropped."""
        self._closing = True
        self.flush(timeout_s)
        for outgoing in self._ways.values():
            outgoing.postman.close()

    # --- its thread ---

    def _take(self, item: Item) -> bool:
        if self._closing and not isinstance(item, Answer):
            return False
        with self._work:
            try:
                self._inbox.put_nowait(item)
            except queue.Full:
                return False
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
                self._thread.start()
        return True

    def _run(self) -> None:
        left: list[Item] = []
        while True:
            items = left + self._next(BUSY_AGAIN_S if left else TURN_S if self._stands else None)
            left = []
            try:
                self._turn(items)
            except Busy:
                left = items
                continue
            except Exception as error:  # of one turn; the next one is tried all the same
                self._fault("alerts", told_of(error))
            self._end(len(items))

    def _next(self, timeout_s: float | None) -> list[Item]:
        """What has come in, after waiting for it for a while; None: until something does."""
        found: list[Item] = []
        try:
            found.append(self._inbox.get(timeout=timeout_s))
            while True:
                found.append(self._inbox.get_nowait())
        except queue.Empty:
            return found

    def _end(self, count: int) -> None:
        with self._work:
            self._waiting -= count
            self._work.notify_all()

    def _turn(self, items: Sequence[Item]) -> None:
        rules = self.rules()
        for item in items:
            if isinstance(item, Answer):
                self._ways[item.way].heard(item.sent, self._now())
                if not item.sent.told:
                    target = shown(self._ways[item.way].way)  # several may be at one host
                    self._telemetry.event(
                        "fault", where="alerts", receiver=item.way, target=target, error=item.sent.answer
                    )
        letters = self._book.change(lambda ledger, now: self._changed(ledger, items, rules, now))
        for name, message, pairs in letters:
            self._post(name, message, pairs)

    def _changed(
        self, ledger: Ledger, items: Sequence[Item], rules: Rules, now: float
    ) -> list[tuple[str, Message, tuple[tuple[Key, str], ...]]]:
        """What is seen goes into the ledger; what each way is to be told comes out, and is claimed."""
        for item in items:
            match item:
                case Trouble():
                    ledger.begin(self._masked(item), now)
                case Gone(key):
                    ledger.end(key, now)
                case Stood(found, kinds, at):
                    ledger.only([self._masked(each) for each in found], kinds, at, now)
                case Answer(way, pairs, sent):
                    for key, state in pairs:
                        ledger.answered(key, way, state, now, told=sent.told)
        ledger.sweep(self._ways, now)
        self._stands = bool(ledger.entries)
        quiet = rules.is_quiet(now)
        letters = []
        for name, outgoing in self._ways.items():
            if not outgoing.is_free(now):
                continue
            asleep = quiet and name != LOG  # the log is no person
            due = list(ledger.due(name, now, rules.waiting_kinds() if asleep else frozenset()))
            for key, _ in due:
                ledger.claim(key, name, now)
            letters += [(name, *letter) for letter in grouped(ledger, due, rules, now)]
        return letters

    def _masked(self, trouble: Trouble) -> Trouble:
        facts = {name: self._mask(value) for name, value in trouble.facts.items()}
        return Trouble(*trouble.key, self._mask(trouble.text), trouble.since, facts)

    def _post(self, name: str, message: Message, pairs: tuple[tuple[Key, str], ...]) -> None:
        outgoing = self._ways[name]
        if name != LOG:
            outgoing.sent_at.append(self._now())
        with self._work:
            self._waiting += 1

        def done(sent: Sent) -> None:
            if not self._take(Answer(name, pairs, sent)):
                self._fault("alerts", "more alerts than can be written down")
            self._end(1)

        outgoing.postman.send(message, done)

    def _fault(self, where: str, error: str) -> None:
        self._telemetry.event("fault", where=where, error=error)


def grouped(
    ledger: Ledger, due: Sequence[tuple[Key, str]], rules: Rules, now: float
) -> list[tuple[Message, tuple[tuple[Key, str], ...]]]:
    """A message for each trouble, or one for all where there are many."""
    entries: list[tuple[Entry, str]] = [(ledger.entries[key], state) for key, state in due]
    waited = [pair for pair in entries if pair[0].waited]
    if len(due) > TOGETHER or len(waited) > 1:
        return [(of_several(entries, rules, now), tuple(due))]
    return [(of_one(entry, state, rules, now), ((entry.trouble.key, state),)) for entry, state in entries]


def shown(way: Way) -> str:
    """Without what is secret in its address, which may not be there at all."""
    try:
        return way.shown
    except Exception:
        return way.name
