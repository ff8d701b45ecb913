"""Keys of many rows -> few requests -> a value for each row, with a cache and an answer for none and for many."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.caching import Cache
from engine.errors import BadValue, ConnectError, EgressRefused, RecordError
from engine.http import Reply
from engine.mapping import compile_tree, encode_json
from engine.names import BOUND, LOOKING, REPLY, WAIT
from engine.notations import semantics
from engine.outcomes import Judge, Level, probed
from engine.placing import AuthFailed
from engine.privacy.people import digest
from engine.records import Outcome, OutcomeKind, Trace
from engine.spec import types, units

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.exchange import Call
    from engine.expressions import Compiler, Path
    from engine.http import Prepared
    from engine.wire import Wire

MAX_PAGES = 1_000


class Found(NamedTuple):
    """What a look-up gives one row: a value (None: absent), or the outcome that ends it."""

    value: Any = None
    outcome: Outcome | None = None
    trace: Trace | None = None


MADE_S = 60.0  # for so long what was made is known, whatever `cache` says
ANOTHER = Outcome(OutcomeKind.RETRY, "another delivery is having it made", wait_s=2.0, count=False, ours=True)


class Stopped(ConnectError):
    """The vendor's answer to a look-up is not about one key: the lane waits, pauses or tries again."""

    def __init__(self, outcome: Outcome, trace: Trace | None) -> None:
        super().__init__(outcome.reason)
        self.outcome, self.trace = outcome, trace


class Source:
    """One compiled place a look-up asks."""

    def __init__(
        self,
        compiler: Compiler,
        spec: types.Source,
        *,
        names: frozenset[str],
        place: Path,
        connector: types.Connector,
        call: Callable[..., Call],
        outer: frozenset[str] = BOUND,
    ) -> None:
        """`names` are those of the request, `outer` those that decide whether it is sent at all."""
        self.spec = spec
        names = names | {"args"}
        read = names | REPLY
        self.args = compile_tree(compiler, spec.args, outer, (*place, "args")) if spec.args else None
        self.when = compiler.condition(spec.when, outer, (*place, "when"))
        levels = [
            Level(compiler, spec.replies, read | WAIT, (*place, "replies")),
            Level(compiler, connector.replies, read | WAIT, ("replies",)),
        ]
        judge = Judge(
            compiler,
            levels,
            [],
            spec.request.expect,
            read,
            (*place, "request"),
            absent_on=spec.absent_on,
        )
        self.call: Call = call(spec.request, names, (*place, "request"), judge)
        self.rows = compiler.value(spec.rows, read, (*place, "rows"))
        self.row_key = compiler.value(spec.row_key, read | {"row"}, (*place, "row_key"))
        self.next = compiler.value(spec.next, read, (*place, "next"))
        self.add = compile_tree(compiler, spec.add, read | {"row"}, (*place, "add")) if spec.add else None
        self.chunk_bytes = units.size(spec.chunk["bytes"]) if "bytes" in spec.chunk else None
        self.chunk_keys = int(spec.chunk.get("keys", 0)) or None
        compiler.made(self, place)

    def inside(self, scope: dict[str, Any]) -> dict[str, Any]:
        return {**scope, "args": (self.args(scope) or {}) if self.args is not None else {}}

    def ask(
        self, wire: Wire, scope: dict[str, Any], keys: list[str], failures: int, prepared: Prepared | None = None
    ) -> dict[str, list[Any]]:
        """
        One request for these keys, which may be `prepared`, and the pages that follow: key -> rows.

        Raises Stopped; BadValue and EgressRefused if the request can't be built.
        """
        inside = self.inside(scope)
        done = self.call.run(wire, inside, records=len(keys), failures=failures, prepared=prepared)
        found: dict[str, list[Any]] = {}
        for _ in range(MAX_PAGES):
            outcome = done.verdict.outcome
            if outcome is not None and outcome.kind is not OutcomeKind.DELIVERED:
                raise Stopped(outcome, done.trace)
            if done.reply is None or done.reply.status in self.spec.absent_on:
                return found
            try:
                link = self.read({**inside, "response": done.reply.scope}, keys, found)
                if link is None or done.prepared is None:
                    return found
                following = self.call.follow(wire, link, done)
            except AuthFailed as failed:
                raise Stopped(failed.outcome, failed.trace) from None
            except (BadValue, EgressRefused) as error:  # the vendor's reply, and no fault of these keys
                raise Stopped(unreadable(done.reply.status, error), done.trace) from None
            reply = self.call.send(wire, following, inside)
            if isinstance(reply, Outcome):
                raise Stopped(reply, None)
            verdict = self.call.verdict(wire, inside, reply, records=len(keys), failures=failures)
            came = reply if isinstance(reply, Reply) else None
            done = done._replace(verdict=verdict, reply=came, trace=wire.masker.trace(following, came))
        raise Stopped(unreadable(200, BadValue(f"more than {MAX_PAGES} pages of rows")), done.trace)

    def read(self, scope: dict[str, Any], keys: list[str], found: dict[str, list[Any]]) -> str | None:
        """The rows of one reply sorted in, and the link to the next page."""
        listed = self.rows(scope)
        if listed is None:
            raise BadValue("it is without the rows that this look-up reads")
        inside = dict(scope)
        for row in semantics.bounded(listed):
            inside["row"] = row
            self.sort_in(found, inside, row, keys)
        link = self.next(scope)
        return link if isinstance(link, str) and link else None

    def sort_in(self, found: dict[str, list[Any]], scope: dict[str, Any], row: Any, keys: list[str]) -> None:
        named = self.row_key(scope) if self.spec.row_key is not None else (keys[0] if len(keys) == 1 else None)
        if self.add is not None and row.__class__ is dict:
            row = {**row, **(self.add(scope) or {})}
        for key in named if isinstance(named, list) else [named]:
            if key is not None:
                found.setdefault(semantics.plain(key), []).append(row)


class Creation(Source):
    """What makes the row of a key that no source knows: asked as a source is, it answers with what it made."""

    def __init__(
        self,
        compiler: Compiler,
        spec: types.Create,
        *,
        names: frozenset[str],
        place: Path,
        connector: types.Connector,
        call: Callable[..., Call],
        outer: frozenset[str],
    ) -> None:
        source = types.Source(
            request=spec.request,
            rows=spec.rows,
            row_key=spec.row_key,
            replies=spec.replies,
            when=spec.when,
            args=spec.args,
            add=spec.add,
        )
        super().__init__(compiler, source, names=names, place=place, connector=connector, call=call, outer=outer)
        self.several = spec.rows is not None
        row = spec.row if spec.row is not None else "${ response.body }"
        self.row = compiler.value(row, names | REPLY | {"args"}, (*place, "row"))

    def read(self, scope: dict[str, Any], keys: list[str], found: dict[str, list[Any]]) -> str | None:
        if self.several:
            return super().read(scope, keys, found)
        row = self.row(scope)
        if not row:
            raise BadValue("it is without the row that was made")
        self.sort_in(found, {**scope, "row": row}, row, keys)
        return None


class Lookup:
    """One compiled look-up of a client; its cache is shared by the client's actions."""

    def __init__(
        self,
        compiler: Compiler,
        spec: types.Lookup,
        *,
        name: str,
        place: Path,
        connector: types.Connector,
        call: Callable[..., Call],
        cache: Cache,
    ) -> None:
        self.spec, self.name, self.cache = spec, name, cache
        self.cache_s = units.duration(spec.cache)
        # Look-ups of one name may differ by action; what is found is the same for whoever may do without it.
        same = msgspec.structs.replace(spec, when=None, when_absent="reject")
        self.cached_as = f"{name}#{sha256(encode_json(same)).hexdigest()}"
        names = BOUND
        self.when = compiler.condition(spec.when, LOOKING | {"lookups"}, (*place, "when"))
        key_names = LOOKING | {"lookups"}
        self.key = None
        if spec.keys is not None:
            names = BOUND | {"batch"}
            self.key = compiler.value(spec.keys, key_names, (*place, "keys"))
        elif spec.key is not None:
            names = BOUND | {"key"}
            self.key = compiler.value(spec.key, key_names, (*place, "key"))
        sources = spec.sources or ({"request": types.Source(request=spec.request)} if spec.request is not None else {})
        self.sources = {
            title: Source(
                compiler,
                source,
                names=names,
                place=(*place, "sources", title) if spec.sources else place,
                connector=connector,
                call=call,
            )
            for title, source in sources.items()
        }  # fmt: skip
        self.create = None
        if spec.create is not None:
            alone = spec.create.rows is None  # for one key the first event that asked for it can be read
            outer = key_names if alone else BOUND
            self.create = Creation(
                compiler,
                spec.create,
                names=outer | {"key"} if alone else names | outer,
                place=(*place, "create"),
                connector=connector,
                call=call,
                outer=outer | {"key"} if alone else outer,
            )
        self.value = (
            compiler.value(spec.value, names | REPLY | {"args"}, (*place, "value")) if spec.value is not None else None
        )
        compiler.made(self, place)

    def find(self, wire: Wire, scopes: Sequence[dict[str, Any]], *, failures: int = 0) -> list[Found]:
        """One answer for each row, in order; an absent key has none, and Stopped becomes everyone's outcome."""
        if self.key is None:
            return self.document(wire, scopes, failures)
        keys: list[str | Found | None] = [self.key_of(scope) for scope in scopes]
        wanted = list(dict.fromkeys(key for key in keys if isinstance(key, str)))
        now = wire.clock.now()
        known: dict[str, Found] = {}
        for key in wanted:
            if (cached := self.cache.get(self.cached_as, key, now)) is not None:
                known[key] = Found(cached[0])
        try:
            for source in self.sources.values():
                if source.when(wire.scope):
                    self.ask(wire, source, wanted, known, failures, lambda _: wire.scope)
            if self.create is not None:
                asked = [(key, scope) for key, scope in zip(keys, scopes, strict=True) if isinstance(key, str)]
                self.make(wire, self.create, wanted, known, failures, asked)
        except Stopped as stopped:
            rest = Found(outcome=of_lane(stopped.outcome), trace=stopped.trace)
            for key in wanted:
                known.setdefault(key, rest)
        except BadValue as error:  # a `when` of a source, which reads settings only: no delivery's fault
            rest = self.unasked(error)
            for key in wanted:
                known.setdefault(key, rest)
        return [
            key if isinstance(key, Found) else self.answer(known.get(key) if key is not None else None) for key in keys
        ]

    def unasked(self, error: ConnectError) -> Found:
        """Whether to ask can't be said, or the request can't be built, from settings alone."""
        return Found(outcome=Outcome(OutcomeKind.PAUSE, f"look-up {self.name}: {error}", everyone=True, private=True))

    def key_of(self, scope: dict[str, Any]) -> str | Found | None:
        assert self.key is not None
        try:
            if not self.when(scope):
                return Found()
            value = self.key(scope)
            return None if value is None or value == "" else semantics.plain(value)
        except BadValue as error:
            return Found(outcome=Outcome(OutcomeKind.REJECT, str(error)))

    def make(
        self,
        wire: Wire,
        create: Creation,
        keys: list[str],
        known: dict[str, Found],
        failures: int,
        asked: list[tuple[str, dict[str, Any]]],
    ) -> None:
        """What no source knew is made, where `when` wants it: in one request, or each by the first row it holds for."""
        if create.several:
            if create.when(wire.scope):
                self.ask(wire, create, keys, known, failures, lambda _: wire.scope)
            return
        first: dict[str, dict[str, Any]] = {}
        for key, scope in asked:
            if key in known or key in first:
                continue
            try:
                if create.when({**scope, "key": key}):
                    if self.ours_to_make(wire, key):
                        first[key] = scope
                    else:
                        known[key] = Found(outcome=ANOTHER)
            except BadValue as error:
                known[key] = Found(outcome=Outcome(OutcomeKind.REJECT, f"look-up {self.name}: {error}"))
        try:
            self.ask(wire, create, [*first], known, failures, lambda part: first[part[0]], several=False)
        finally:
            for key in first:
                if key not in known or known[key].outcome is not None:  # not made: the next one may try
                    wire.store.unlock(self.lock_of(wire, key), owner=wire.owner)

    def lock_of(self, wire: Wire, key: str) -> str:
        """A digest: the name stays in the store, and the key may be an address."""
        return f"make:{wire.connector}/{wire.client}/{self.name}:{digest(key)}"

    def ours_to_make(self, wire: Wire, key: str) -> bool:
        """
        May it be made here? Whoever made it keeps it locked for a minute: so long others ask the sources again, which
        may have been asked a moment before it was there.
        """
        return wire.store.lock(self.lock_of(wire, key), owner=wire.owner, ttl_s=MADE_S, now=wire.clock.now())

    def ask(
        self,
        wire: Wire,
        source: Source,
        keys: list[str],
        known: dict[str, Found],
        failures: int,
        scope_of: Callable[[list[str]], dict[str, Any]],
        *,
        several: bool | None = None,
    ) -> None:
        """One source, for those that are not known yet; `scope_of` what its request reads besides the keys."""
        missing = [key for key in keys if key not in known]
        several = self.spec.keys is not None if several is None else several
        parts = ([missing] if missing else []) if several else [[key] for key in missing]
        if source.chunk_keys is not None:
            parts = [
                part[at : at + source.chunk_keys] for part in parts for at in range(0, len(part), source.chunk_keys)
            ]
        while parts:
            part = parts.pop(0)
            half = len(part) // 2
            named = {"batch": {"keys": part, "size": len(part)}} if several else {"key": part[0]}
            scope = {**scope_of(part), **named}
            prepared: Prepared | None = None
            if half and source.chunk_bytes is not None:
                prepared = self.prepared(wire, source, scope)
                if prepared is not None and len(prepared.url) > source.chunk_bytes:
                    parts[:0] = [part[:half], part[half:]]
                    continue
            try:
                rows = source.ask(wire, scope, part, failures, prepared)
            except (BadValue, EgressRefused) as error:
                if half:
                    parts[:0] = [part[:half], part[half:]]
                else:
                    reason, ours = f"look-up {self.name}: {error}", isinstance(error, EgressRefused)
                    known[part[0]] = Found(outcome=Outcome(OutcomeKind.REJECT, reason, private=ours))
                continue
            except Stopped as stopped:
                outcome = stopped.outcome
                if outcome.kind is OutcomeKind.SPLIT and half:
                    parts[:0] = [part[:half], part[half:]]
                    continue
                if outcome.kind in (OutcomeKind.SPLIT, OutcomeKind.REJECT, OutcomeKind.SKIP, OutcomeKind.DEFER):
                    kind = OutcomeKind.REJECT if outcome.kind is OutcomeKind.SPLIT else outcome.kind
                    reason = f"look-up {self.name}: {outcome.reason}"
                    refused = msgspec.structs.replace(outcome, kind=kind, reason=reason)
                    known.update({key: Found(outcome=refused, trace=stopped.trace) for key in part})
                    continue
                raise
            self.take(wire, part, rows, known, made=isinstance(source, Creation))

    @staticmethod
    def prepared(wire: Wire, source: Source, scope: dict[str, Any]) -> Prepared | None:
        """The request, to see how long its encoded URL is."""
        try:
            inside = source.inside(scope)
            row = source.call.auth.token(wire)
            base, placed = source.call.auth.place(wire, row)
            return source.call.requester.prepare(inside, base, placed)
        except ConnectError:
            return None  # the request itself will say what is wrong

    def take(
        self, wire: Wire, keys: list[str], rows: dict[str, list[Any]], known: dict[str, Found], *, made: bool
    ) -> None:
        now = wire.clock.now()
        keep_s = max(self.cache_s, MADE_S) if made else self.cache_s  # a search may not find at once what was made
        for key in keys:
            found = rows.get(key)
            if not found:
                continue
            if len(found) > 1 and self.spec.when_many == "reject":
                reason = f"look-up {self.name}: {len(found)} found, one is needed"
                known[key] = Found(outcome=Outcome(OutcomeKind.REJECT, reason))
                continue
            known[key] = Found(found[0])
            if keep_s > 0:
                self.cache.put(self.cached_as, key, found[0], now, keep_s)

    def answer(self, found: Found | None) -> Found:
        if found is not None:
            return found
        if self.spec.when_absent == "continue":
            return Found()
        kind = OutcomeKind(self.spec.when_absent)
        return Found(outcome=Outcome(kind, f"look-up {self.name}: not found", "not-found", expected=True))

    def document(self, wire: Wire, scopes: Sequence[dict[str, Any]], failures: int) -> list[Found]:
        """One value for the client, asked once and kept for `cache`; rows that `when` leaves out have none."""
        wanted = [self.wants(scope) for scope in scopes]
        found = self.one_document(wire, failures) if True in wanted else Found()
        return [wants if isinstance(wants, Found) else found if wants else Found() for wants in wanted]

    def wants(self, scope: dict[str, Any]) -> bool | Found:
        try:
            return self.when(scope)
        except BadValue as error:
            return Found(outcome=Outcome(OutcomeKind.REJECT, str(error)))

    def one_document(self, wire: Wire, failures: int) -> Found:
        cached = self.cache.get(self.cached_as, "", wire.clock.now())
        if cached is not None:
            return Found(cached[0])
        for source in self.sources.values():
            try:
                if not source.when(wire.scope):
                    continue
                scope = source.inside(wire.scope)
                done = source.call.run(wire, scope, records=1, failures=failures)
            except (BadValue, EgressRefused) as error:  # it reads settings only: no delivery's fault
                return self.unasked(error)
            outcome = done.verdict.outcome
            if done.reply is None or (outcome is not None and outcome.kind is not OutcomeKind.DELIVERED):
                stopped = outcome or Outcome(OutcomeKind.RETRY, "no reply")
                kind = OutcomeKind.PAUSE if stopped.kind is OutcomeKind.REJECT else stopped.kind  # no delivery's fault
                reason = f"look-up {self.name}: {stopped.reason}"
                return Found(
                    outcome=of_lane(msgspec.structs.replace(stopped, kind=kind, reason=reason)), trace=done.trace
                )
            if done.reply.status in source.spec.absent_on:
                continue
            try:
                read = {**scope, "response": done.reply.scope}
                value = self.value(read) if self.value is not None else done.reply.body
            except BadValue as error:
                return Found(outcome=of_lane(unreadable(done.reply.status, error)), trace=done.trace)
            if value is not None:
                if self.cache_s > 0:
                    self.cache.put(self.cached_as, "", value, wire.clock.now(), self.cache_s)
                return Found(value)
        return self.answer(None)

    def forget(self, scope: dict[str, Any]) -> None:
        """What was found for this row was stale."""
        key = self.key_of(scope) if self.key is not None else ""
        if isinstance(key, str):
            self.cache.forget(self.cached_as, key)


def unreadable(status: int, why: RecordError) -> Outcome:
    reason = f"HTTP {status}, and the reply can't be read: {why}"
    return Outcome(OutcomeKind.RETRY, reason, otherwise=OutcomeKind.PAUSE, private=isinstance(why, EgressRefused))


def of_lane(outcome: Outcome) -> Outcome:
    """A verdict over a look-up as everyone's; a reply that none can read is asked for again at the lane's pace."""
    unread = outcome.kind is OutcomeKind.RETRY and outcome.otherwise is OutcomeKind.PAUSE and outcome.attempts is None
    outcome = probed(outcome) if unread else outcome
    return msgspec.structs.replace(outcome, everyone=True)
