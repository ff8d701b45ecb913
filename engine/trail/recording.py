"""
What was accepted and what was settled -> the trail, by one thread beside door and walk, which only hand over what they
have in their hands.

What can't be written in time is left out and counted: no delivery waits for its trail.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.errors import ConnectError, StoreUnavailable, told
from engine.privacy.personal import addresses, without
from engine.records import OutcomeKind, Trace
from engine.trail.digests import Digests
from engine.trail.entries import Attempt, Exchange, Missing, Query, Stages, State, Taken
from engine.trail.packing import Events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.ports import Telemetry
    from engine.privacy.personal import Personal
    from engine.records import Accepted, Delivery, Ended, Sent, Settled, Skipped, Stored, Walked
    from engine.trail.entries import Followed, Found, Keeper, People

FLUSH_S = 1.0
ASK_S = 0.5
SOON = 2_000  # entries (accepted events, deliveries) that are not left to wait for so long
MOST_WAITING = 30_000  # entries that wait to be written; more are left out
MOST_BYTES = 64 * 1024 * 1024  # of their events
MOST_EXCHANGES = 20  # of one batch that are kept, of each kind
SHARE = 0.005  # of the time that may go into showing exchanges that went well; those that failed are always shown
MOST_ALLOWED_S = 0.002  # of that time, saved up while there was little to show; one exchange may take more
EXPIRE_S = 60.0
REASON, CODE = 500, 100  # characters that are kept
DAY_S = 86_400.0
KINDS = {OutcomeKind.RETRY: "retry", OutcomeKind.REAUTH: "retry"} | {
    kind: kind.value for kind in (OutcomeKind.THROTTLE, OutcomeKind.DEFER, OutcomeKind.PAUSE)
}

SPARED = 100  # characters
_WAS_CUT = re.compile(r"… \(\d+ characters\)\Z")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class Limits(NamedTuple):
    """How long a trail is kept, and how large it may be."""

    keep_s: float = 7 * DAY_S
    max_bytes: int = 1_000_000_000


class _Batch(NamedTuple):
    connector: str
    client: str
    personal: Personal
    ended: Sequence[Ended]
    rows: Sequence[Settled]
    walked: Walked
    at: float
    size: int
    skipped: Sequence[Skipped]


class _Put(NamedTuple):
    events: Sequence[Accepted]
    stored: Sequence[Stored]
    at: float
    size: int


class Recorder:
    """The trail of one process; any thread may tell and ask."""

    def __init__(
        self,
        keeper: Keeper,
        key: bytes,
        limits: Limits,
        *,
        now: Callable[[], float],
        telemetry: Telemetry,
        most_waiting: int = MOST_WAITING,
        share: float = SHARE,
        by_itself: bool = True,
    ) -> None:
        """`key`: the secret of the installation. `by_itself` False: nothing is written before `flush`."""
        self.keeper, self.limits = keeper, limits
        self._key, self._now, self._telemetry = key, now, telemetry
        self._most, self._share, self._by_itself = most_waiting, share, by_itself
        self._digests: Digests | None = None
        self._queue: deque[_Batch | _Put] = deque()
        self._waiting = self._bytes = 0  # entries and bytes in the queue
        self._left_out = 0
        self._missing: list[Missing] = []  # not written down yet
        self._trouble = ""
        self._gate, self._writing = threading.Lock(), threading.Lock()
        self._wake, self._closed = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._allowed_s, self._allowed_at = MOST_ALLOWED_S, time.monotonic()
        self._expired_at = float("-inf")

    # --- told ---

    def settled(
        self,
        connector: str,
        client: str,
        personal: Personal,
        ended: Sequence[Ended],
        rows: Sequence[Settled],
        walked: Walked,
        *,
        now: float,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        size = sum([len(one.delivery.body) for one in ended])
        count = len(rows) + len(skipped)
        self._tell(_Batch(connector, client, personal, ended, rows, walked, now, size, skipped), count)

    def accepted(self, events: Sequence[Accepted], stored: Sequence[Stored], *, now: float) -> None:
        self._tell(_Put(events, stored, now, sum([len(event.body) for event in events])), len(events))

    def _tell(self, told: _Batch | _Put, count: int) -> None:
        with self._gate:
            if self._closed or self._waiting + count > self._most or self._bytes + told.size > MOST_BYTES:
                self._left_out += count
                return
            self._waiting += count
            self._bytes += told.size
            self._queue.append(told)
            if self._thread is None and self._by_itself:
                self._thread = threading.Thread(target=self._run, name="trail", daemon=True)
                self._thread.start()
            soon = self._waiting > SOON
        if soon:
            self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        """Write what there is; False where it took too long, or can't be written."""
        if not self._writing.acquire(timeout=timeout_s):
            return False
        try:
            self._write()
            return not self._trouble
        finally:
            self._writing.release()

    def close(self) -> None:
        """Write what is left; nothing is taken from then on."""
        with self._gate:
            self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(10.0)
        self.flush(1.0)
        self.keeper.close()

    # --- asked ---

    def find(self, query: Query, limit: int) -> list[Found]:
        self._write_first()
        with _readable():
            return self.keeper.find(query, limit)

    def of_event(self, event_id: str, limit: int) -> list[Followed]:
        self._write_first()
        with _readable():
            return self.keeper.of_event(event_id, limit)

    def state(self) -> State:
        """With what this process could not write yet."""
        unwritten = self._left_out + sum(each.many for each in self._missing)
        try:
            known = self.keeper.state()
        except StoreUnavailable as error:
            return State(None, unwritten, self._trouble, str(error))
        return State(known.since, known.missing + unwritten, self._trouble)

    def people(self, text: str) -> tuple[int, ...]:
        """What to search by for a person."""
        return (self._made_digests().of(text),)

    def forget(self, text: str, *, by_key: bool = False, client: str | None = None, dry: bool = False) -> int:
        """
        Erase what is theirs: by address or key and, but for `by_key`, where the text stands in an id, in a reason or
        in an exchange. How many deliveries.
        """
        if not dry:
            self.flush(1.0)
        named = None if by_key else text
        with _readable():
            return self.keeper.forget(list(self.people(text)), named, client=client, now=self._now(), dry=dry)

    def _write_first(self) -> None:
        """Who asks in the process that knows it need not wait for the thread."""
        if self._waiting:  # also what the thread has in its hands just now
            self.flush(ASK_S)

    # --- the thread ---

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(FLUSH_S)
            self._wake.clear()
            with self._writing:
                self._write()

    def _write(self) -> None:
        """Whatever goes wrong here, the walk goes on; it is said once, and on the page."""
        with self._gate:
            queue, self._queue = self._queue, deque()
            left_out, self._left_out = self._left_out, 0
            if left_out:
                self._missing.append(Missing(self._now(), left_out))
        puts = [told for told in queue if isinstance(told, _Put)]
        batches = [told for told in queue if isinstance(told, _Batch)]
        count = sum(len(put.events) for put in puts)
        count += sum(len(batch.rows) + len(batch.skipped) for batch in batches)
        try:
            if queue or self._missing:
                people = self._made_digests().of_event
                attempts = [attempt for batch in batches for attempt in self._attempts(batch)]
                self.keeper.write(_accepted(puts, people), attempts, self._missing, people)
                self._missing = []
            if self._thread is not None and self._now() - self._expired_at >= EXPIRE_S:
                now = self._now()
                limits = self.limits
                more = self.keeper.expire(before=now - limits.keep_s, now=now, max_bytes=limits.max_bytes)
                self._expired_at = float("-inf") if more else now
            self._trouble = ""
        except Exception as error:
            if count:
                self._missing = [Missing(self._now(), count + sum(each.many for each in self._missing))]
            says = str(error) if isinstance(error, ConnectError) else told(error)
            if not self._trouble:
                self._telemetry.event("trail-failed", why=says)
            self._trouble = says
        finally:
            with self._gate:
                self._waiting -= count
                self._bytes -= sum(told.size for told in queue)

    def _made_digests(self) -> Digests:
        if self._digests is None:
            self._digests = Digests(self._key, self.keeper.salt())
        return self._digests

    def _attempts(self, batch: _Batch) -> list[Attempt]:
        """Deliveries that ended alike are one."""
        if not batch.skipped and (one_for_all := self._delivered(batch)) is not None:
            return [one_for_all]
        alike: dict[tuple[Any, ...], list[Ended]] = {}
        last: tuple[Any, ...] | None = None
        together: list[Ended] = []
        for one, row in zip(batch.ended, batch.rows, strict=True):
            delivery = one.delivery
            if row.kind == "delivered":
                name: tuple[Any, ...] = (delivery.action, "delivered", "", "", delivery.attempts, 0)
            else:
                name = _name(one, row, batch.personal)
            if name != last:
                together = alike.setdefault(name, [])
                last = name
            together.append(one)
        stages = _encode(_stages(batch.walked))
        made = []
        masked: dict[int, Trace] = {}  # the same exchange once, however differently its records ended
        for (action, kind, reason, code, tries, which), ended in alike.items():
            trace = masked.get(which)
            if trace is None and (trace := self._trace(batch, kind, ended)) is not None and which:
                masked[which] = trace
            made.append(
                Attempt(
                    *(batch.connector, batch.client, action, batch.at, kind, _cut(reason, REASON), _cut(code, CODE)),
                    *(tries + 1, stages, trace, [one.delivery for one in ended]),
                )
            )
        return made + _skipped(batch) if batch.skipped else made

    def _delivered(self, batch: _Batch) -> Attempt | None:
        """What mostly is: all of it went well, for the first time or all again."""
        if {row.kind for row in batch.rows} != {"delivered"}:
            return None
        deliveries = [one.delivery for one in batch.ended]
        if len({(each.action, each.attempts) for each in deliveries}) != 1 or len(deliveries) != len(batch.rows):
            return None
        trace = self._trace(batch, "delivered", batch.ended)
        told = (deliveries[0].action, batch.at, "delivered", "", "", deliveries[0].attempts + 1)
        return Attempt(batch.connector, batch.client, *told, _encode(_stages(batch.walked)), trace, deliveries)

    def _trace(self, batch: _Batch, kind: str, ended: Sequence[Ended]) -> Trace | None:
        """The exchange, nothing personal in it; of what went well only while that costs little."""
        given = ended[0].trace
        if kind != "delivered":
            return None if given is None else _masked(given, batch)
        shown = next((sent.shown for sent in reversed(batch.walked.sent) if sent.shown is not None), None)
        if (given is None and shown is None) or not self._may_show():
            return None
        began = time.thread_time()
        try:
            return _masked(given if given is not None else shown(), batch)  # type: ignore[misc]
        finally:
            self._allowed_s -= time.thread_time() - began

    def _may_show(self) -> bool:
        now = time.monotonic()
        self._allowed_s = min(self._allowed_s + self._share * (now - self._allowed_at), MOST_ALLOWED_S)
        self._allowed_at = now
        return self._allowed_s > 0


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except msgspec.MsgspecError as error:
        raise StoreUnavailable(f"an entry of the trail can't be read: {error}") from error


def _skipped(batch: _Batch) -> list[Attempt]:
    """What the store skipped, with the events of the deliveries for the sake of which it did."""
    deliveries = {one.delivery.event_id: one.delivery for one in batch.ended}
    alike: dict[tuple[str, str], list[Delivery]] = {}
    for each in batch.skipped:
        if (of := deliveries.get(each.event_id)) is not None:
            alike.setdefault((each.action, each.reason), []).append(of)
    stages = _encode(Stages(batch.at))
    return [
        Attempt(*(batch.connector, batch.client, action, batch.at, "skipped", reason, "", 1, stages, None, passed))
        for (action, reason), passed in alike.items()
    ]


def _accepted(puts: Sequence[_Put], people: People) -> list[Taken]:
    """Of each lane, by the actions that want them; an id that was accepted before is no event."""
    alike: dict[tuple[str, ...], tuple[float, list[Accepted], list[tuple[Delivery, ...]]]] = {}
    for put in puts:
        for event, stored in zip(put.events, put.stored, strict=True):
            if not stored.duplicate:
                rows = stored.deliveries
                action = (rows[0].action,) if len(rows) == 1 else [row.action for row in rows]
                name = (event.connector, event.client, *action)
                if name not in alike:
                    alike[name] = (put.at, [], [])
                _, events, deliveries = alike[name]
                events.append(event)
                deliveries.append(rows)
    made = []
    for (connector, client, *actions), (at, events, deliveries) in alike.items():
        whose = [
            people(rows[0].key if rows else None, event.body) for event, rows in zip(events, deliveries, strict=True)
        ]
        columns = Events(
            [event.event_id for event in events],
            [event.received_at for event in events],
            [one for one, _ in whose],
            [other for _, other in whose],
            [row.seq for rows in deliveries for row in rows],
        )
        made.append(Taken(connector, client, " ".join(actions), at, columns))
    return made


def _name(one: Ended, row: Settled, personal: Personal) -> tuple[Any, ...]:
    """What deliveries of a batch have in common that ended alike."""
    delivery, outcome = one.delivery, one.outcome
    kind = KINDS.get(outcome.kind, "later") if row.kind == "later" else row.kind
    reason = row.reason or personal.text(outcome.reason, delivery.body)
    return delivery.action, kind, reason, row.code or outcome.code, delivery.attempts, id(one.trace)


def _stages(walked: Walked) -> Stages:
    sent = walked.sent
    kept = sent if len(sent) <= MOST_EXCHANGES else (*sent[: MOST_EXCHANGES // 2], *sent[-MOST_EXCHANGES // 2 :])
    return Stages(
        walked.began,
        walked.looked_up_at,
        walked.mapped_at,
        tuple(map(_exchange, walked.window[:MOST_EXCHANGES])),
        tuple(map(_exchange, kept)),
        len(sent) - len(kept) + max(len(walked.window) - MOST_EXCHANGES, 0),
    )


def _exchange(sent: Sent) -> Exchange:
    action = sent.action if sent.action == "auth" else ""
    return Exchange(sent.step, sent.method, sent.host, sent.status, sent.began, sent.ended, action)


def _masked(trace: Trace, batch: _Batch) -> Trace:
    """A batch has one request, and it names all of them, however few of them ended like this."""
    values: list[Any] = []
    if batch.personal.marks:
        for one in batch.ended:
            with suppress(msgspec.DecodeError, RecursionError):
                values += batch.personal.values(_decode(one.delivery.body))
    url, request, reply = (addresses(without(_ended(text), values)) for text in (trace.url, trace.request, trace.reply))
    return Trace(trace.method, url, trace.status, request, reply)


def _ended(text: str) -> str:
    """A text that was cut ends a little earlier: what is masked stands there whole, and not in part."""
    found = _WAS_CUT.search(text)
    return text if found is None else text[: max(found.start() - SPARED, 0)] + found[0]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
