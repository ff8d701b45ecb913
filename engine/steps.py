"""
A batch -> the exchanges of its steps -> exactly one outcome for each unit.

Progress is durable: after each step of several, and at each poll, what was saved is written down, so that a retry, or
another process after a crash, goes on at the step that failed.
"""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from engine.batching import ENCODED, encoded
from engine.errors import BadValue, ConnectError, EgressRefused, TooMuch
from engine.mapping import compile_tree, encode_json
from engine.names import BATCH, REPLY, SINGLE, WAIT
from engine.notations.emitting import Problem, dotted
from engine.notations.semantics import bounded, plain
from engine.outcomes import DELIVERED, Judge, Level, ResultsRule, holds_back
from engine.records import Outcome, OutcomeKind, Part, Progress
from engine.retrying import wait_of
from engine.spec import types, units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.batching import Unit
    from engine.caching import Cache
    from engine.exchange import Call, Exchanged
    from engine.expressions import Compiler, Path
    from engine.records import Trace
    from engine.wire import Wire

RESEND = Outcome(OutcomeKind.RETRY, "the rest again", count=False)  # at once, without those that the reply named
GIVES_WAY = Outcome(OutcomeKind.RETRY, "the rest goes on in a moment", wait_s=0.0, count=False)
BEHIND = Outcome(OutcomeKind.RETRY, "an older one of its key waits", wait_s=0.0, count=False)
SENT = "#sent "  # and a step with `each`: which of its items were sent, and what was saved of each
EVENT_PARTS = ("event", "fields", "record", "item", "vars", "lookups", "batch", "steps")


class Step:
    """One compiled step."""

    def __init__(
        self,
        compiler: Compiler,
        spec: types.Step,
        *,
        name: str,
        place: Path,
        action: types.Action,
        action_place: Path,
        connector: types.Connector,
        single: bool,
        call: Callable[..., Call],
        cache: Cache,
    ) -> None:
        self.spec, self.name = spec, name
        names = (SINGLE if single else BATCH) | ({"args"} if spec.args else set())
        self.by_record = spec.each == "records"
        self.each = None
        if self.by_record:
            names |= {"record"}
            if single:
                says = "each: records needs a batch: without one an action sends each record by itself"
                compiler.problems.append(Problem((*place, "each"), "each", says, "take `each` out, or write `batch:`"))
        elif spec.each is not None:
            self.each = compiler.value(spec.each, names, (*place, "each"))
            names |= {"item", "index"}
        self.once = Once(compiler, spec.once_per, names, (*place, "once_per"), cache) if spec.once_per else None
        read = names | REPLY
        self.args = compile_tree(compiler, spec.args, names, (*place, "args")) if spec.args else None
        self.when = compiler.condition(spec.when, names, (*place, "when"))
        levels = [
            Level(compiler, spec.replies, read | WAIT, (*place, "replies")),
            Level(compiler, action.replies, read | WAIT, (*action_place, "replies")),
            Level(compiler, connector.replies, read | WAIT, ("replies",)),
        ]
        self.results = [
            ResultsRule(compiler, rule, names, (*place, "results", index)) for index, rule in enumerate(spec.results)
        ]
        before = len(compiler.uses)
        judge = Judge(
            compiler,
            levels,
            self.results,
            spec.request.expect,
            read,
            (*place, "request"),
            never_repeat=spec.repeat == "never",
        )
        self.call = call(spec.request, names, (*place, "request"), judge)
        spoken = (*place, "request")
        judge.event_in_url = any(
            use.path[0] in EVENT_PARTS and use.place[len(spoken) : len(spoken) + 1] in (("path",), ("url",), ("query",))
            for use in compiler.uses[before:]
        )
        self.save = compile_tree(compiler, spec.save, read, (*place, "save"))
        self.poll = spec.poll
        if self.poll is not None:
            self.until = compiler.condition(self.poll.until, read, (*place, "poll", "until"))
            self.every = wait_of(compiler, self.poll.every, read | WAIT, (*place, "poll", "every"))
            self.give_up_s = units.duration(self.poll.give_up)
        compiler.made(self, place)


class Once:
    """What was just sent for a key: not again while its content is the same, and what was saved then is used."""

    def __init__(
        self, compiler: Compiler, spec: types.OncePer, names: frozenset[str], place: Path, cache: Cache
    ) -> None:
        self.key, self.cache = compiler.value(spec.key, names, (*place, "key")), cache
        self.within_s = units.duration(spec.within)
        self.of = dotted(place)

    def named(self, scope: dict[str, Any]) -> str | None:
        value = self.key(scope)
        return None if value is None or value == "" else plain(value)

    def saved(self, call: Call, scope: dict[str, Any], now: float) -> dict[str, Any] | None:
        """What was saved when the same was sent, or None where it has to be sent."""
        key = self.named(scope)
        kept = self.cache.get(self.of, key, now) if key is not None else None
        if kept is None or kept[0][0] != call.requester.fingerprint(scope):
            return None
        found: dict[str, Any] = kept[0][1]
        return found

    def remember(self, call: Call, scope: dict[str, Any], saved: dict[str, Any], now: float) -> None:
        if (key := self.named(scope)) is not None:
            self.cache.put(self.of, key, (call.requester.fingerprint(scope), saved), now, self.within_s)

    def forget(self, scope: dict[str, Any]) -> None:
        with suppress(BadValue):
            if (key := self.named(scope)) is not None:
                self.cache.forget(self.of, key)


def saving(progress: Progress, step: Step, saved: dict[str, Any]) -> Progress:
    """The progress with what this step saved."""
    return msgspec.structs.replace(progress, saved={**progress.saved, step.name: saved}) if saved else progress


def mark_of(member: Member) -> str:
    """What a record is known by while its batch is under way."""
    return str(member.unit.deliveries[-1].seq)


def by_mark(saved: Any) -> dict[str, Any]:
    """What a step saved of each record; of a step that was another one when the batch began nothing is known."""
    return saved if isinstance(saved, dict) else {}


def waits(outcome: Outcome | None) -> bool:
    """Is this one sent again, later?"""
    return outcome is not None and outcome.kind not in (OutcomeKind.DELIVERED, OutcomeKind.REJECT, OutcomeKind.SKIP)


class Member(msgspec.Struct):
    """One unit on its way through the steps."""

    unit: Unit
    outcome: Outcome | None = None  # decided
    named: bool = False  # a reply has spoken of it
    passed: str | None = None  # the step that is behind it while others of its batch are sent again
    trace: Trace | None = None
    progress: Progress | None = None  # where to go on from, if it waits; None begins anew


class Steps:
    """The compiled steps of one action."""

    def __init__(self, name: str, steps: dict[str, Step], on_failure: dict[str, Step], *, single: bool) -> None:
        self.action, self.steps, self.on_failure, self.single = name, steps, on_failure, single
        self.order = list(steps)
        with_results = [step for step in steps if steps[step].results]
        self.last_results = with_results[-1] if with_results else None

    @property
    def durable(self) -> bool:
        """Is there progress worth writing down?"""
        return len(self.order) > 1 or any(step.poll or step.spec.each for step in self.steps.values())

    def run(
        self,
        wire: Wire,
        members: list[Member],
        *,
        group: Any,
        progress: Progress,
        save: Callable[[Progress, list[Member]], None],
        add: Callable[[Progress, Part], bool] = lambda _progress, _part: False,
        failures: int = 0,
    ) -> None:
        """
        Decide every member. `save` writes progress down, for those still undecided, before the next request.

        `add` does so for one record more of a progress that was written whole; False: it is to be written whole.
        """
        at = self.goes_on_at(progress)
        first, resent = progress.batch, 0
        while at < len(self.order):
            step = self.steps[self.order[at]]
            live = [member for member in members if member.outcome is None and member.passed != step.name]
            if not live and all(member.outcome is not None for member in members):
                return
            scope = self.scope(wire, live, group, progress) if live else {}
            if live and step.by_record:
                progress = self.by_record(wire, step, live, scope, group, progress, save, add, failures)
                if any(member.outcome is not None for member in live):
                    progress = self.passing(progress, members)
            elif live and step.each is not None:
                outcome, progress, done = self.by_item(wire, step, live, scope, progress, save, failures)
                if outcome is not None:
                    self.leave(wire, live, outcome, done, group, progress, save, failures)
                    return
            elif live and self.wanted(wire, step, live, scope):
                outcome, progress, done = self.one(wire, step, live, scope, progress, failures)
                if outcome is RESEND:
                    resent += 1  # another request is another batch, also to a vendor that looks at its id
                    progress = msgspec.structs.replace(progress, batch=f"{first}.{resent}")
                    self.tell_split(wire, sum(member.passed != step.name for member in live))
                    continue
                if outcome is not None:
                    self.leave(wire, live, outcome, done, group, progress, save, failures)
                    progress = self.passing(progress, members)
            at += 1
            if at < len(self.order):
                progress = msgspec.structs.replace(progress, step=self.order[at], poll_since=None, polls=0)
                undecided = [member for member in members if member.outcome is None]
                if self.durable and undecided:
                    save(progress, undecided)
        self.decide([member for member in members if member.outcome is None], DELIVERED, None)

    def goes_on_at(self, progress: Progress) -> int:
        """Its step; where a changed connector has no such step any more, the one behind all that saved something."""
        if progress.step in self.order:
            return self.order.index(progress.step)
        return max((at + 1 for at, name in enumerate(self.order) if name in progress.saved), default=0)

    @staticmethod
    def passing(progress: Progress, members: list[Member]) -> Progress:
        """
        A batch of its own for those that go on while others wait.

        It is named after one of them: of the batch they leave others may go on later, while this one is still there.
        """
        mark = next((f"p{mark_of(member)}" for member in members if member.outcome is None), "")
        return msgspec.structs.replace(progress, batch=f"{progress.batch}{mark}")

    def wanted(self, wire: Wire, step: Step, live: list[Member], scope: dict[str, Any]) -> bool:
        """Does `when` hold? Where that can't be said, those it is about are rejected."""
        try:
            return step.when(self.inside(step, scope))
        except Exception as error:  # whatever a record does to us, its lane goes on
            reason = str(error) if isinstance(error, BadValue) else wire.fault("condition", error)
            ours = not isinstance(error, BadValue)
            self.decide(live, Outcome(OutcomeKind.REJECT, reason, private=ours), None)
            return False

    def by_record(
        self,
        wire: Wire,
        step: Step,
        live: list[Member],
        scope: dict[str, Any],
        group: Any,
        progress: Progress,
        save: Callable[[Progress, list[Member]], None],
        add: Callable[[Progress, Part], bool],
        failures: int,
    ) -> Progress:
        """
        One request for each record, whose outcome is that record's own.

        What is done is written down after each: a batch that goes on later asks only for the records that are left.
        """
        finished: dict[str, Any] = dict(by_mark(progress.saved.get(step.name)))
        progress = msgspec.structs.replace(progress, saved={**progress.saved, step.name: finished})
        behind: dict[str, Progress | None] = {}  # keys of which an older one waits, with where that one goes on
        whole = False  # has it been written down whole, here?
        gone: list[str] = []  # marks of those that were decided since it was written down
        for at, member in enumerate(live):
            if at and live[at - 1].outcome is not None:
                gone.append(mark_of(live[at - 1]))
            if older := behind.keys() & member.unit.keys:
                self.decide([member], BEHIND, None)
                member.progress = behind[min(older)]
                continue
            if (mark := mark_of(member)) in finished:
                continue
            inner = self.of_record(member, scope, progress)
            kept: dict[str, Any] = {}
            if self.wanted(wire, step, [member], inner):
                before = msgspec.structs.replace(progress, saved={})
                outcome, after, done = self.one(wire, step, [member], inner, before, failures)
                outcome = member.outcome or outcome  # of results
                if outcome is not None and outcome.kind is not OutcomeKind.DELIVERED:
                    wide = self.stop(wire, member, outcome, done, group, progress)
                    if waits(member.outcome):
                        behind |= dict.fromkeys(member.unit.keys, member.progress)
                    if wide:
                        self.stand_still([each for each in live if each.outcome is None], outcome, progress, behind)
                        break
                    continue
                kept = after.saved.get(step.name, {})
            if member.outcome is not None:
                continue
            finished[mark] = kept
            if at < len(live) - 1 and wire.over():
                self.stand_still([each for each in live if each.outcome is None], GIVES_WAY, progress, behind)
                break
            if at < len(live) - 1:
                if not (whole and add(progress, Part(step.name, mark, kept, gone))):
                    save(progress, [other for other in live if other.outcome is None])
                whole, gone = True, []
        return progress

    def stand_still(
        self, members: list[Member], outcome: Outcome, progress: Progress, behind: dict[str, Progress | None]
    ) -> None:
        """Nothing more is sent for now; who is behind another of its key goes on where that one does."""
        theirs = msgspec.structs.replace(outcome, restart=None, forget=None)  # nothing was said about these
        self.wait(members, theirs, None, progress)
        for member in members:
            if older := behind.keys() & member.unit.keys:
                member.progress = behind[min(older)]

    def of_record(self, member: Member, scope: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """What the request of one record sees: its delivery is its own, and so is what steps for each record saved."""
        own = {
            name: by_mark(saved).get(mark_of(member), {}) if self.steps[name].by_record else saved
            for name, saved in progress.saved.items()
            if name in self.steps
        }
        delivery = {"id": member.unit.deliveries[-1].id}
        return {**scope, "record": member.unit.record, "delivery": delivery, "steps": own}

    def stop(
        self, wire: Wire, member: Member, outcome: Outcome, done: Exchanged | None, group: Any, progress: Progress
    ) -> bool:
        """One record of many leaves with its outcome. True: and nothing more is sent for now."""
        if outcome.kind is OutcomeKind.SPLIT:
            outcome = msgspec.structs.replace(outcome, kind=outcome.otherwise)
        wide = holds_back(outcome) or outcome.everyone
        failed = bool(self.on_failure) and not wide and outcome.kind is not OutcomeKind.DEFER
        if failed:
            self.clean_up(wire, [member], group, progress)
        self.wait([member], outcome, done.trace if done is not None else None, None if failed else progress)
        if member.progress is not None and outcome.restart is not None:
            member.progress = self.alone(member, member.progress, progress)
        self.void(wire, [member], outcome, group, progress)
        return wide

    def alone(self, member: Member, back: Progress, progress: Progress) -> Progress:
        """
        One record goes back to an earlier step: in a batch of its own, since the others of its batch do not.

        Those of its key go back with it to keep their order, and are not sent again where each has its own request.
        """
        mark = mark_of(member)
        behind = {
            name: {other: kept for other, kept in by_mark(progress.saved.get(name)).items() if other != mark}
            for name in self.order[self.order.index(back.step) :]
            if self.steps[name].by_record and name in progress.saved
        }
        batch = back.batch if back.batch.endswith(f"r{mark}") else f"{back.batch}r{mark}"
        return msgspec.structs.replace(back, batch=batch, saved={**back.saved, **behind})

    def by_item(
        self,
        wire: Wire,
        step: Step,
        live: list[Member],
        scope: dict[str, Any],
        progress: Progress,
        save: Callable[[Progress, list[Member]], None],
        failures: int,
    ) -> tuple[Outcome | None, Progress, Exchanged | None]:
        """
        One request for each item of a list; where one fails, the batch goes on at that item later.

        What was sent is known by its content, not its place: of a batch that goes on without some of its records the
        list may be another. Halves of a batch begin anew, since nobody knows whose item is whose.
        """
        assert step.each is not None
        try:
            items = bounded(step.each(self.inside(step, scope)))
        except Exception as error:
            reason = str(error) if isinstance(error, BadValue) else wire.fault("each", error)
            ours = not isinstance(error, BadValue)
            return Outcome(OutcomeKind.REJECT, reason, everyone=True, private=ours), progress, None
        sent: dict[str, list[Any]] = {mark: [*kept] for mark, kept in progress.saved.get(SENT + step.name, {}).items()}
        rest = {name: value for name, value in progress.saved.items() if name != SENT + step.name}
        anew = msgspec.structs.replace(progress, saved=rest)
        progress = msgspec.structs.replace(progress, saved={**rest, SENT + step.name: sent})
        left = {mark: [*kept] for mark, kept in sent.items()}
        finished: list[Any] = []
        for index, item in enumerate(items):
            mark = sha256(encode_json(item)).hexdigest()[:20]
            if earlier := left.get(mark):
                finished.append(earlier.pop(0))
                continue
            inner = {**scope, "item": item, "index": index}
            kept: dict[str, Any] = {}
            if self.wanted(wire, step, live, inner):
                before = msgspec.structs.replace(progress, saved={})
                outcome, after, done = self.one(wire, step, live, inner, before, failures)
                if outcome is RESEND:  # another request is not another batch here: a try that counts
                    outcome = msgspec.structs.replace(RESEND, count=True)
                if outcome is not None and outcome.kind is OutcomeKind.SPLIT:
                    if not (sent and step.call.judge.never_repeat):
                        return outcome, anew, done
                    outcome = msgspec.structs.replace(outcome, kind=outcome.otherwise)
                if outcome is not None and outcome.kind is not OutcomeKind.DELIVERED:
                    return outcome, progress, done
                kept = after.saved.get(step.name, {})
            undecided = [member for member in live if member.outcome is None]
            if not undecided:
                break
            finished.append(kept)
            sent.setdefault(mark, []).append(kept)
            if index < len(items) - 1 and wire.over():
                return GIVES_WAY, progress, None
            if index < len(items) - 1:
                save(progress, undecided)
        return None, msgspec.structs.replace(anew, saved={**rest, step.name: finished}), None

    def void(self, wire: Wire, live: list[Member], outcome: Outcome, group: Any, progress: Progress) -> None:
        """Going back to a step is no repeat of what was just sent: it is sent, whatever was remembered."""
        if outcome.restart is None:
            return
        back = self.order.index(outcome.restart) if outcome.restart in self.order else 0
        scope = self.scope(wire, live, group, progress)
        for step in (self.steps[name] for name in self.order[back:]):
            if step.once is not None:
                with suppress(BadValue):
                    for inner in self.requests(step, live, scope, progress):
                        step.once.forget(inner)

    def requests(
        self, step: Step, live: list[Member], scope: dict[str, Any], progress: Progress
    ) -> Iterator[dict[str, Any]]:
        """What each request of a step sees: one, or one for each record or item. Or a BadValue."""
        if step.by_record:
            yield from (self.inside(step, self.of_record(member, scope, progress)) for member in live)
        elif step.each is not None:
            for index, item in enumerate(bounded(step.each(self.inside(step, scope)))):
                yield self.inside(step, {**scope, "item": item, "index": index})
        else:
            yield self.inside(step, scope)

    def scope(self, wire: Wire, live: list[Member], group: Any, progress: Progress) -> dict[str, Any]:
        saved = {"steps": self.told(live, progress)}
        delivery = {"id": progress.batch}
        if self.single:
            return {**live[0].unit.scope, **saved}
        records = [member.unit.record for member in live]
        batch = {"records": records, "size": len(records)}
        if group is not None:
            batch["group"] = group
        known = encoded([member.unit for member in live], records)
        return {**wire.scope, "batch": batch, "delivery": delivery, **saved, ENCODED: known}

    def told(self, live: list[Member], progress: Progress) -> dict[str, Any]:
        """What the steps saved; of one that ran for each record a list, in the order of the records."""
        return {
            name: [by_mark(saved).get(mark_of(member), {}) for member in live]
            if name in self.steps and self.steps[name].by_record
            else saved
            for name, saved in progress.saved.items()
        }

    @staticmethod
    def inside(step: Step, scope: dict[str, Any]) -> dict[str, Any]:
        return {**scope, "args": step.args(scope) or {}} if step.args is not None else scope

    def one(
        self, wire: Wire, step: Step, live: list[Member], scope: dict[str, Any], progress: Progress, failures: int
    ) -> tuple[Outcome | None, Progress, Exchanged | None]:
        """One request of one step: (None, progress) to go on, or the outcome for all that are still undecided."""
        try:
            scope = self.inside(step, scope)
            if step.once is not None:
                known = step.once.saved(step.call, scope, wire.clock.now())
                if known is not None:
                    return None, saving(progress, step, known), None
            done = step.call.run(wire, scope, records=len(live), failures=failures)
        except (BadValue, EgressRefused) as error:
            kind = OutcomeKind.SPLIT if len(live) > 1 else OutcomeKind.REJECT
            ours = isinstance(error, EgressRefused)
            return Outcome(kind, str(error), "not-sendable", private=ours), progress, None
        except ConnectError:
            raise
        except Exception as error:  # while the request was built: a fault of some record, as far as is known
            kind = OutcomeKind.SPLIT if len(live) > 1 else OutcomeKind.REJECT
            return Outcome(kind, wire.fault("request", error), "fault", private=True), progress, None
        outcome = done.verdict.outcome
        if outcome is not None and outcome.kind is not OutcomeKind.DELIVERED:
            return outcome, progress, done
        assert done.reply is not None
        try:
            read, progress = self.read(wire, step, live, scope, progress, done)
            if read is None and step.once is not None and all(member.outcome is None for member in live):
                step.once.remember(step.call, scope, progress.saved.get(step.name, {}), wire.clock.now())
            return read, progress, done
        except Exception as error:
            why = error if isinstance(error, BadValue) else wire.fault("reply", error)
            unread = step.call.judge.again(f"the reply can't be read: {why}")
            return msgspec.structs.replace(unread, private=not isinstance(error, BadValue)), progress, done

    def read(
        self, wire: Wire, step: Step, live: list[Member], scope: dict[str, Any], progress: Progress, done: Exchanged
    ) -> tuple[Outcome | None, Progress]:
        """What a reply that was taken says of each record, what is kept of it, and whether it is the last of a poll."""
        assert done.reply is not None
        read = {**scope, "response": done.reply.scope}
        if done.verdict.results is not None:
            unmet = self.results(wire, step, live, read, done)
            if unmet is not None:
                return unmet, progress
        for member in live:
            member.trace = done.trace
        saved = step.save(read)
        if saved:
            progress = saving(progress, step, saved)
        if step.poll is not None and not step.until(read):
            return self.waits(wire, step, read, progress)
        return None, progress

    @staticmethod
    def waits(wire: Wire, step: Step, read: Mapping[str, Any], progress: Progress) -> tuple[Outcome, Progress]:
        """Not there yet: again after `every`, until `give_up`."""
        assert step.poll is not None
        assert step.every is not None
        now = wire.clock.now()
        since = progress.poll_since if progress.poll_since is not None else now
        polled, progress = progress.polls, msgspec.structs.replace(progress, poll_since=since, polls=progress.polls + 1)
        if now - since >= step.give_up_s:
            kind = OutcomeKind(step.poll.then)
            why = f"{step.name}: not finished after {step.poll.give_up}"
            return Outcome(kind, why, restart="start", everyone=True), msgspec.structs.replace(
                progress, poll_since=None, polls=0
            )
        wait = step.every({**read, "now": now, "failures": polled})
        return Outcome(
            OutcomeKind.DEFER, f"{step.name}: not finished yet", "poll", wait, count=False, everyone=True, ours=True
        ), progress

    def results(
        self, wire: Wire, step: Step, live: list[Member], read: dict[str, Any], done: Exchanged
    ) -> Outcome | None:
        """Read what the reply says of each record; an outcome only where it says nothing that can be read."""
        rule: ResultsRule = done.verdict.results
        assert done.reply is not None
        judged = {**read, "now": wire.clock.now(), "failures": 0}
        found = rule.outcomes(judged, done.reply, [member.unit.record for member in live])
        if found is None:
            reason = f"HTTP {done.reply.status} without the results of its records"
            return step.call.judge.again(reason)
        named = []
        for member, outcome in zip(live, map(wire.shown, found), strict=True):
            if outcome is None:
                continue
            named.append(member)
            member.named, member.trace = True, done.trace
            if outcome.kind is not OutcomeKind.DELIVERED:
                member.outcome = outcome
        if rule.spec.unnamed == "resend" and 0 < len(named) < len(live):
            for member in named:
                member.passed = step.name
            return RESEND
        unnamed = [member for member in live if not member.named]
        if step.name == self.last_results and unnamed:
            missing = rule.missing(done.reply)
            if missing.kind is not OutcomeKind.DELIVERED:
                self.decide(unnamed, missing, done.trace)
        return None

    def leave(
        self,
        wire: Wire,
        live: list[Member],
        outcome: Outcome,
        done: Exchanged | None,
        group: Any,
        progress: Progress,
        save: Callable[[Progress, list[Member]], None],
        failures: int,
    ) -> None:
        """The batch can't go on now: split it, or give all that are undecided the outcome."""
        undecided = [member for member in live if member.outcome is None]
        self.void(wire, undecided, outcome, group, progress)
        stays = outcome.kind in (OutcomeKind.THROTTLE, OutcomeKind.DEFER) or (outcome.outage and not outcome.restart)
        stays = stays or outcome is GIVES_WAY
        failed = bool(self.on_failure) and not stays
        if failed:
            self.clean_up(wire, live, group, progress)
        if outcome.kind is OutcomeKind.SPLIT and len(undecided) > 1:
            if failed:
                progress = msgspec.structs.replace(progress, step=self.order[0], saved={})
            self.halve(wire, undecided, group, progress, save, failures)
            return
        if outcome.kind is OutcomeKind.SPLIT:
            outcome = msgspec.structs.replace(outcome, kind=outcome.otherwise)
        self.wait(undecided, outcome, done.trace if done is not None else None, None if failed else progress)

    def halve(
        self,
        wire: Wire,
        members: list[Member],
        group: Any,
        progress: Progress,
        save: Callable[[Progress, list[Member]], None],
        failures: int,
    ) -> None:
        """Each half is a batch of its own; where the first is told that the lane stops, the second is not sent now."""
        half = (len(members) + 1) // 2
        stop: Outcome | None = None
        waiting: set[str] = set()
        for name, part in (("a", members[:half]), ("b", members[half:])):
            own = msgspec.structs.replace(progress, batch=f"{progress.batch}{name}")
            if stop is not None:
                self.wait(part, stop, None, own)
                return
            if later := [member for member in part if waiting & member.unit.keys]:
                theirs = msgspec.structs.replace(own, batch=f"{own.batch}h{mark_of(later[0])}")
                self.wait(later, BEHIND, None, theirs)
                part = [member for member in part if member.outcome is None]
                if not part:
                    return
            self.tell_split(wire, len(part))
            self.run(wire, part, group=group, progress=own, save=save, failures=failures)
            stop = next((member.outcome for member in part if member.outcome and holds_back(member.outcome)), None)
            waiting = {key for member in part if waits(member.outcome) for key in member.unit.keys}

    def wait(self, members: list[Member], outcome: Outcome, trace: Trace | None, progress: Progress | None) -> None:
        """All of them get the outcome, and go on from `progress` if they are sent again; None: from the start."""
        self.decide(members, outcome, trace)
        onward = self.onward(outcome, progress) if progress is not None else None
        for member in members:
            member.progress = onward

    def tell_split(self, wire: Wire, records: int) -> None:
        wire.telemetry.event("split", connector=wire.connector, client=wire.client, action=self.action, records=records)

    def onward(self, outcome: Outcome, progress: Progress) -> Progress | None:
        """Where a batch that waits goes on: at the step that failed, or at the one that the rule names."""
        if outcome.restart == "start" or not self.durable:
            return None
        if outcome.forget and outcome.restart is None:
            return None  # what it was looked up for is mapped anew
        if outcome.restart in self.steps:
            before = self.order[: self.order.index(outcome.restart)]
            saved = {name: value for name, value in progress.saved.items() if name in before}
            return msgspec.structs.replace(progress, step=outcome.restart, saved=saved, poll_since=None, polls=0)
        begun = any(progress.saved.values()) or progress.step != self.order[0] or progress.poll_since is not None
        return progress if begun else None

    def clean_up(self, wire: Wire, live: list[Member], group: Any, progress: Progress) -> None:
        """`on_failure`, once; its own failure is only logged. A step of it with an absent hole is left out."""
        scope = self.scope(wire, live, group, progress)
        for step in self.on_failure.values():
            try:
                for inside in self.requests(step, live, scope, progress):
                    if step.when(inside):
                        done = step.call.run(wire, inside, records=1)
                        failed = done.verdict.outcome
                        if failed is not None and failed.kind is not OutcomeKind.DELIVERED:
                            self.tell_unclean(wire, step, failed.reason)
            except TooMuch as error:
                self.tell_unclean(wire, step, str(error))
            except (BadValue, EgressRefused):
                continue
            except ConnectError:
                raise
            except Exception as error:
                self.tell_unclean(wire, step, wire.fault("clean-up", error))

    @staticmethod
    def tell_unclean(wire: Wire, step: Step, why: str) -> None:
        wire.telemetry.event("clean-up-failed", connector=wire.connector, client=wire.client, step=step.name, why=why)

    @staticmethod
    def decide(members: list[Member], outcome: Outcome, trace: Trace | None) -> None:
        for member in members:
            member.outcome = outcome
            member.trace = trace or member.trace
