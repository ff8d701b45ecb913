"""
A batch -> the exchanges of its steps -> exactly one outcome for each unit.

Progress is durable: after each step of several, and at each poll, what was saved is written down, so that a retry, or
another process after a crash, goes on at the step that failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import BadValue, ConnectError, EgressRefused
from engine.mapping import compile_tree
from engine.names import BATCH, REPLY, SINGLE, WAIT
from engine.outcomes import DELIVERED, Judge, Level, ResultsRule, holds_back
from engine.records import Outcome, OutcomeKind, Progress
from engine.retrying import wait_of
from engine.spec import types, units

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.batching import Unit
    from engine.exchange import Call, Exchanged
    from engine.expressions import Compiler, Path
    from engine.records import Trace
    from engine.wire import Wire

RESEND = Outcome(OutcomeKind.RETRY, "the rest again", count=False)  # at once, without those that the reply named
BEHIND = Outcome(OutcomeKind.RETRY, "an older one of its key waits", wait_s=0.0, count=False)
EVENT_PARTS = ("event", "fields", "record", "vars", "lookups", "batch", "steps")


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
    ) -> None:
        self.spec, self.name = spec, name
        names = (SINGLE if single else BATCH) | ({"args"} if spec.args else set())
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
        return len(self.order) > 1 or any(step.poll for step in self.steps.values())

    def run(
        self,
        wire: Wire,
        members: list[Member],
        *,
        group: Any,
        progress: Progress,
        save: Callable[[Progress, list[Member]], None],
        failures: int = 0,
    ) -> None:
        """Decide every member. `save` writes progress down, for those still undecided, before the next request."""
        at = self.order.index(progress.step) if progress.step in self.order else 0
        first, resent = progress.batch, 0
        while at < len(self.order):
            step = self.steps[self.order[at]]
            live = [member for member in members if member.outcome is None and member.passed != step.name]
            if not live and all(member.outcome is not None for member in members):
                return
            scope = self.scope(wire, live, group, progress) if live else {}
            try:
                skipped = not live or not step.when(self.inside(step, scope))
            except BadValue as error:
                self.decide(live, Outcome(OutcomeKind.REJECT, str(error)), None)
                return
            if not skipped:
                outcome, progress, done = self.one(wire, step, live, scope, progress, failures)
                if outcome is RESEND:
                    resent += 1  # another request is another batch, also to a vendor that looks at its id
                    progress = msgspec.structs.replace(progress, batch=f"{first}.{resent}")
                    self.tell_split(wire, sum(member.passed != step.name for member in live))
                    continue
                if outcome is not None:
                    self.leave(wire, live, outcome, done, group, progress, save, failures)
                    progress = msgspec.structs.replace(progress, batch=f"{progress.batch}p")  # of those that passed it
            at += 1
            if at < len(self.order):
                progress = msgspec.structs.replace(progress, step=self.order[at], poll_since=None, polls=0)
                undecided = [member for member in members if member.outcome is None]
                if self.durable and undecided:
                    save(progress, undecided)
        self.decide([member for member in members if member.outcome is None], DELIVERED, None)

    def scope(self, wire: Wire, live: list[Member], group: Any, progress: Progress) -> dict[str, Any]:
        saved = {"steps": progress.saved}
        delivery = {"id": progress.batch}
        if self.single:
            return {**live[0].unit.scope, **saved}
        records = [member.unit.record for member in live]
        batch = {"records": records, "size": len(records)}
        if group is not None:
            batch["group"] = group
        return {**wire.scope, "batch": batch, "delivery": delivery, **saved}

    @staticmethod
    def inside(step: Step, scope: dict[str, Any]) -> dict[str, Any]:
        return {**scope, "args": step.args(scope) or {}} if step.args is not None else scope

    def one(
        self, wire: Wire, step: Step, live: list[Member], scope: dict[str, Any], progress: Progress, failures: int
    ) -> tuple[Outcome | None, Progress, Exchanged | None]:
        """One request of one step: (None, progress) to go on, or the outcome for all that are still undecided."""
        try:
            scope = self.inside(step, scope)
            done = step.call.run(wire, scope, records=len(live), failures=failures)
        except (BadValue, EgressRefused) as error:
            kind = OutcomeKind.SPLIT if len(live) > 1 else OutcomeKind.REJECT
            return Outcome(kind, str(error), "not-sendable"), progress, None
        except ConnectError:
            raise
        except Exception as error:  # while the request was built: a fault of some record, as far as is known
            kind = OutcomeKind.SPLIT if len(live) > 1 else OutcomeKind.REJECT
            return Outcome(kind, wire.fault("request", error), "fault"), progress, None
        outcome = done.verdict.outcome
        if outcome is not None and outcome.kind is not OutcomeKind.DELIVERED:
            return outcome, progress, done
        assert done.reply is not None
        try:
            return *self.read(wire, step, live, scope, progress, done), done
        except Exception as error:
            why = error if isinstance(error, BadValue) else wire.fault("reply", error)
            return step.call.judge.again(f"the reply can't be read: {why}"), progress, done

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
            progress = msgspec.structs.replace(progress, saved={**progress.saved, step.name: saved})
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
        stays = outcome.kind in (OutcomeKind.THROTTLE, OutcomeKind.DEFER) or (outcome.outage and not outcome.restart)
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
            if waiting and self.onward(BEHIND, own) is None:
                later = [member for member in part if waiting & member.unit.keys]
                self.wait(later, BEHIND, None, None)
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
        if outcome.restart in self.steps:
            before = self.order[: self.order.index(outcome.restart)]
            saved = {name: value for name, value in progress.saved.items() if name in before}
            return msgspec.structs.replace(progress, step=outcome.restart, saved=saved, poll_since=None, polls=0)
        begun = progress.saved or progress.step != self.order[0] or progress.poll_since is not None
        return progress if begun else None

    def clean_up(self, wire: Wire, live: list[Member], group: Any, progress: Progress) -> None:
        """`on_failure`, once; its own failure is only logged. A step of it with an absent hole is left out."""
        scope = self.scope(wire, live, group, progress)
        for step in self.on_failure.values():
            try:
                inside = self.inside(step, scope)
                if step.when(inside):
                    done = step.call.run(wire, inside, records=1)
                    failed = done.verdict.outcome
                    if failed is not None and failed.kind is not OutcomeKind.DELIVERED:
                        wire.telemetry.event(
                            "clean-up-failed",
                            connector=wire.connector,
                            client=wire.client,
                            step=step.name,
                            why=failed.reason,
                        )
            except (BadValue, EgressRefused):
                continue

    @staticmethod
    def decide(members: list[Member], outcome: Outcome, trace: Trace | None) -> None:
        for member in members:
            member.outcome = outcome
            member.trace = trace or member.trace
