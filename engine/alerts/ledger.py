"""One trouble, told once to each way, and told when it is over: which stand, who knows; plain data and `now`."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING

import msgspec

from engine.alerts.kinds import COVERED, kind_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

Key = tuple[str, str, str]  # kind, connector, client

MOST = 1_000  # troubles that are remembered; of further ones only the log tells
CALM_S = 120.0  # a trouble is over when it was away for so long: one that comes and goes is one
CLAIM_S = 120.0  # for which one process has the telling of a trouble; longer than three tries take
SEEN_S = 300.0  # between two writes that a trouble was seen again
KEEP_S = 86_400.0  # of a trouble that is over and could not be said to be
MOST_TEXT = 300
PACKED, PACKED_FROM = "zlib:", 50_000

OPEN, OVER, PAST = "open", "over", "past"  # it stands; it is over; it came and went while nobody was to be woken


class Trouble(msgspec.Struct, frozen=True):
    """What is wrong, for whom, since when (unix seconds)."""

    kind: str
    connector: str
    client: str
    text: str
    since: float
    facts: dict[str, str] = {}

    @property
    def key(self) -> Key:
        return self.kind, self.connector, self.client


class Entry(msgspec.Struct, omit_defaults=True):
    """A trouble, and who knows of it."""

    trouble: Trouble
    raised: float  # when it came into the ledger
    seen: float
    gone: float | None = None  # since when it stands no more
    waited: bool = False  # for the end of the quiet hours
    told: dict[str, float] = {}  # way -> when
    done: list[str] = []  # ways that know that it is over
    claimed: dict[str, float] = {}  # way -> until when somebody is telling it


class Ledger:
    """The troubles by key; `changed` says whether there is something to write."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: dict[Key, Entry] = {entry.trouble.key: entry for entry in entries}
        self.changed = False

    @classmethod
    def read(cls, text: str | None) -> Ledger:
        """An empty one for what can't be read: then what stands is told once more."""
        try:
            if text and text.startswith(PACKED):
                text = zlib.decompress(base64.b64decode(text.removeprefix(PACKED))).decode()
            return cls(msgspec.json.decode(text, type=list[Entry])) if text else cls()
        except (ValueError, zlib.error):
            return cls()

    def written(self) -> str:
        """One value for every store: DynamoDB's holds 400 KB, so a long one is packed."""
        text = msgspec.json.encode(list(self.entries.values()))
        if len(text) <= PACKED_FROM:
            return text.decode()
        return PACKED + base64.b64encode(zlib.compress(text)).decode()

    def standing(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.gone is None]

    # --- what is seen ---

    def begin(self, trouble: Trouble, now: float) -> None:
        """It stands: newly, again, or still."""
        entry = self.entries.get(trouble.key)
        if entry is None:
            if len(self.entries) < MOST:
                facts = {name: value[:MOST_TEXT] for name, value in trouble.facts.items()}
                shown = msgspec.structs.replace(trouble, text=trouble.text[:MOST_TEXT], facts=facts)
                self.entries[trouble.key] = Entry(shown, now, now)
                self.changed = True
            return
        if entry.gone is not None:
            if now - entry.gone >= CALM_S and (entry.done or not entry.told):  # over and said so: this is another
                del self.entries[trouble.key]
                self.begin(trouble, now)
                return
            entry.gone, self.changed = None, True
        if now - entry.seen >= SEEN_S:
            entry.seen, self.changed = now, True

    def end(self, key: Key, now: float) -> None:
        entry = self.entries.get(key)
        if entry is not None and entry.gone is None:
            entry.gone, self.changed = now, True

    def only(self, found: Collection[Trouble], kinds: Collection[str], looked_at: float, now: float) -> None:
        """Of these kinds those stand that were found, and no others; what came up after the look stays."""
        for trouble in found:
            self.begin(trouble, now)
        there = {trouble.key for trouble in found}
        for key, entry in list(self.entries.items()):
            if key[0] in kinds and key not in there and entry.seen < looked_at:
                self.end(key, now)

    def sweep(self, ways: Collection[str], now: float) -> None:
        """What nobody heard of for long is over; what is over and said to be so is forgotten."""
        for key, entry in list(self.entries.items()):
            if entry.gone is None:
                if not kind_of(key[0]).looked and now - entry.seen >= kind_of(key[0]).ends_s:
                    entry.gone, self.changed = entry.seen, True
                continue
            know = set(entry.told) - set(entry.done)
            waits = entry.waited and set(ways) - set(entry.done)
            claimed = any(until > now for until in entry.claimed.values())
            if now - entry.gone >= (KEEP_S if know or waits or claimed else CALM_S):
                del self.entries[key]
                self.changed = True

    # --- who is told ---

    def due(self, way: str, now: float, held: Collection[str] = ()) -> Iterator[tuple[Key, str]]:
        """What this way is to be told now; `held`: kinds that wait, for people sleep."""
        for key, entry in self.entries.items():
            if entry.claimed.get(way, 0.0) > now or way in entry.done:
                continue
            waits = key[0] in held
            if entry.gone is None:
                if way in entry.told or self.is_covered(key):
                    continue
                if waits:
                    if not entry.waited:
                        entry.waited = self.changed = True
                    continue
                yield key, OPEN
            elif now - entry.gone >= CALM_S and not waits:
                if way in entry.told:
                    yield key, OVER
                elif entry.waited:
                    yield key, PAST

    def is_covered(self, key: Key) -> bool:
        others = ((kind, *key[1:]) for kind in COVERED.get(key[0], ()))
        return any(key in self.entries and self.entries[key].gone is None for key in others)

    def claim(self, key: Key, way: str, now: float) -> None:
        self.entries[key].claimed[way] = now + CLAIM_S
        self.changed = True

    def answered(self, key: Key, way: str, state: str, now: float, *, told: bool) -> None:
        """It was told, or could not be and is tried again."""
        entry = self.entries.get(key)
        if entry is None:
            return
        entry.claimed.pop(way, None)
        self.changed = True
        if told and state == OPEN:
            entry.told[way] = now
        elif told and way not in entry.done:
            entry.done.append(way)
