"""A person is erased from the store, also from what is under way while it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.ports import Clock, Store
    from engine.trail.recording import Recorder

PATIENCE_S = 120.0  # for a turn of a lane: some ten seconds, and the request it is in
LOOK_S = 0.2


class Erased(NamedTuple):
    """What was found, by what it is, and the lanes that were not waited for to the end."""

    counts: dict[str, int]
    under_way: list[tuple[str, str]]
    unread: str = ""  # why the trail could not be looked through: all else was, and it is to be done again

    def with_trail(self, trail: Recorder, subject: str, *, by_key: bool, client: str | None, dry: bool) -> Erased:
        """With what is erased of the trail."""
        try:
            count = trail.forget(subject, by_key=by_key, client=client, dry=dry)
        except StoreUnavailable as error:
            return self._replace(unread=str(error))
        return self._replace(counts=self.counts | {"trail": count})


def erase(
    store: Store,
    subject: str,
    *,
    clock: Clock,
    by_key: bool = False,
    mentions: bool = False,
    client: str | None = None,
    patience_s: float = PATIENCE_S,
    waiting_for: Callable[[int], None] = lambda _: None,
    trail: Recorder | None = None,
) -> Erased:
    """
    Erase, wait for the lanes that a worker was in, and erase what it wrote down meanwhile.

    A worker has its deliveries in its memory: it may yet save how far a batch has come, or what was sent of it. What it
    takes up after the first pass has nothing of the person. `waiting_for` hears how many lanes are still waited for.
    The `trail` comes last: what other processes write there later of events from before has nothing of them, either.
    """
    found = erase_waiting(
        store,
        subject,
        clock=clock,
        by_key=by_key,
        mentions=mentions,
        client=client,
        patience_s=patience_s,
        waiting_for=waiting_for,
    )
    if trail is None:
        return found
    return found.with_trail(trail, subject, by_key=by_key, client=client, dry=False)


def erase_waiting(
    store: Store,
    subject: str,
    *,
    clock: Clock,
    by_key: bool,
    mentions: bool,
    client: str | None,
    patience_s: float,
    waiting_for: Callable[[int], None],
) -> Erased:
    """The store's part of it."""

    def forget() -> dict[str, int]:
        return store.forget(subject, now=clock.now(), by_key=by_key, mentions=mentions, client=client)

    held = {lane: fence for lane, fence in store.held(now=clock.now()).items() if client in (None, lane[1])}
    counts = forget()
    if not held or not (counts["waiting"] or counts["progress"]):
        return Erased(counts, [])
    until = clock.now() + patience_s
    while (left := still(store, held, clock.now())) and clock.now() < until:
        waiting_for(len(left))
        clock.sleep(LOOK_S)
    waiting_for(0)
    again = forget()
    summed = {name: count + again[name] for name, count in counts.items()} | {"mentioned": again["mentioned"]}
    return Erased(summed, left)


def still(store: Store, held: dict[tuple[str, str], int], now: float) -> list[tuple[str, str]]:
    """The lanes that are in the same turn as then."""
    now_held = store.held(now=now)
    return sorted(lane for lane, fence in held.items() if now_held.get(lane) == fence)
