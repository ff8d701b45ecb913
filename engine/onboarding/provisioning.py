"""
What must exist in a client's CRM before events come: looked for, made where that is wanted, else told to a person.

Compiled only when someone asks, so that serving pays nothing. Without `make` nothing but `look` requests are sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import BadValue, RecordError
from engine.names import BOUND, REPLY, WAIT
from engine.notations import semantics
from engine.notations.emitting import ALL_NAMES, Problem
from engine.outcomes import DELIVERED, Judge, Level
from engine.records import OutcomeKind
from engine.spec import types

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.exchange import Call, Exchanged
    from engine.expressions import Path
    from engine.http import Reply
    from engine.program import Program
    from engine.records import Outcome
    from engine.wire import Wire

PATIENCE_S = 60.0  # a longer wait that a limit or the vendor asks for is told instead
TRIES = 5
LABELS = ("title", "name", "label", "value", "key", "id")  # what an item that is a map is called, the first there is
TAKEN = ALL_NAMES - {"item", "key"}


class Thing(NamedTuple):
    """One thing that must exist, and what was found of it."""

    name: str  # of its entry in `provision`
    title: str
    label: str  # which item of `each`; empty without
    state: str  # there | made | missing | failed | manual
    reason: str = ""  # why it could not be looked at, or made
    manual: str = ""  # what a person does; empty where it is there
    can_make: bool = False
    suggests: tuple[tuple[str, Any], ...] = ()  # settings by their path, such as fields.last_product

    @property
    def shown(self) -> str:
        return f"{self.title}: {self.label}" if self.label else self.title


class Provisioning:
    """All of `provision`, compiled with a client's program; its problems are among those of the program's compiler."""

    def __init__(self, program: Program) -> None:
        self.kinds = [Kind(program, name, spec) for name, spec in program.connector.provision.items()]

    def run(self, wire: Wire, *, make: bool = False) -> list[Thing]:
        """Each thing in the order they are written; one whose request fails does not stop the others."""
        asking = Asking(wire)
        found = []
        for kind in self.kinds:
            things = kind.things(asking, make=make)
            if any(thing.state == "made" for thing in things):
                asking.forget()  # what the next kind looks at may have changed
            found += things
        return found


class Asking:
    """The requests of one run. The same request is sent once; where no vendor answers, none is asked again."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.replies: dict[tuple[str, str], Reply] = {}
        self.stopped: Outcome | None = None

    def forget(self) -> None:
        self.replies.clear()

    def ask(self, call: Call, scope: Mapping[str, Any]) -> tuple[Outcome, Reply | None]:
        """What the reply means by the rules, and the reply. BadValue and EgressRefused as in Call.run."""
        kind = call.step.rpartition(".")[2]  # what is looked for, by whichever entry, is no use where it is made
        key = (f"{kind} {call.auth.name}", call.requester.fingerprint(scope))
        if (reply := self.replies.get(key)) is not None:
            return call.verdict(self.wire, scope, reply, records=1, failures=0).outcome or DELIVERED, reply
        if self.stopped is not None:
            return self.stopped, None
        done = self.patiently(call, scope)
        outcome = done.verdict.outcome or DELIVERED
        if done.reply is not None:
            self.replies[key] = done.reply
        if done.reply is None or done.reply.status == 401:  # to log in once more for each thing could lock the account
            self.stopped = outcome
        return outcome, done.reply

    def patiently(self, call: Call, scope: Mapping[str, Any]) -> Exchanged:
        """Again after a short wait that a limit of ours or of the vendor asks for."""
        for _ in range(TRIES):
            done = call.run(self.wire, scope, records=1)
            outcome = done.verdict.outcome
            wait_s = outcome.wait_s if outcome is not None and outcome.kind is OutcomeKind.THROTTLE else None
            if wait_s is None or wait_s > PATIENCE_S:
                break
            self.wire.clock.sleep(wait_s)
        return done


class Kind:
    """One entry of `provision`, for any number of items."""

    def __init__(self, program: Program, name: str, spec: types.Provision) -> None:
        compiler = program.compiler
        place: Path = ("provision", name)
        self.name, self.spec, self.title = name, spec, spec.title or name
        if spec.as_ in TAKEN:
            says = f"{spec.as_} is a name of the language; an item needs another"
            compiler.problems.append(Problem((*place, "as"), "name", says, "such as field"))
        names = BOUND | ({spec.as_, "index"} if spec.each is not None else set())
        self.when = compiler.condition(spec.when, BOUND, (*place, "when"))
        self.each = compiler.value(spec.each, BOUND, (*place, "each"))
        self.manual = compiler.text(spec.manual, names, (*place, "manual"))
        self.look = self.make = self.exists = None
        if (look := spec.look) is not None:
            at: Path = (*place, "look")
            self.look = probe(program, look.request, look.replies, names, at, "look", look.absent_on)
            if look.exists is not None:
                self.exists = compiler.condition(look.exists, names | REPLY, (*at, "exists"))
        if spec.make is not None:
            self.make = probe(program, spec.make.request, spec.make.replies, names, (*place, "make"), "make")
        self.suggest = [
            (
                compiler.text(each.setting, names | REPLY, (*place, "suggest", index, "setting"), "must"),
                compiler.value(each.value, names | REPLY, (*place, "suggest", index, "value")),
            )
            for index, each in enumerate(spec.suggest)
        ]

    def things(self, asking: Asking, *, make: bool) -> list[Thing]:
        scope = asking.wire.scope
        try:
            if not self.when(scope):
                return []
            if self.spec.each is None:
                return [self.thing(asking, scope, "", make=make)]
            items = self.each(scope) or []
            if items.__class__ is not list:
                raise BadValue(f"a list is needed here, got {semantics.kind(items)}", f"provision.{self.name}.each")
        except BadValue as error:
            return [Thing(self.name, self.title, "", "failed", reason=asking.wire.masker.mask(str(error)))]
        return [
            self.thing(asking, {**scope, self.spec.as_: item, "index": index}, label_of(item, index), make=make)
            for index, item in enumerate(items)
        ]

    def thing(self, asking: Asking, scope: Mapping[str, Any], label: str, *, make: bool) -> Thing:
        mask = asking.wire.masker.mask
        thing = Thing(self.name, self.title, mask(label), "manual")
        try:
            thing = thing._replace(manual=mask(str(self.manual(scope) or "")))
            state, reason, reply = self.found(asking, scope, make=make)
            suggests = self.suggested(asking, scope, reply) if state in ("there", "made") else ()
        except RecordError as error:
            return thing._replace(state="failed", reason=mask(str(error)), manual="")
        if state in ("there", "made"):
            return thing._replace(state=state, manual="", suggests=suggests)
        if state == "failed":  # whether it is there is not known
            return thing._replace(state=state, reason=reason, manual="")
        can_make = state == "missing" and self.make is not None and not reason
        return thing._replace(state=state, reason=reason, can_make=can_make)

    def found(self, asking: Asking, scope: Mapping[str, Any], *, make: bool) -> tuple[str, str, Reply | None]:
        """(state, reason, the reply that found or made it)."""
        if self.look is None:
            return "manual", "", None
        outcome, reply = asking.ask(self.look, scope)
        if outcome.kind is not OutcomeKind.DELIVERED or reply is None:
            return "failed", reason_of(outcome, reply), None
        absent = self.spec.look is not None and reply.status in self.spec.look.absent_on
        if not absent and (self.exists is None or self.exists({**scope, "response": reply.scope})):
            return "there", "", reply
        if self.make is None or not make:
            return "missing", "", None
        outcome, reply = asking.ask(self.make, scope)
        if outcome.kind is not OutcomeKind.DELIVERED or reply is None:
            return "missing", f"it can't be made: {reason_of(outcome, reply)}", None
        return "made", "", reply

    def suggested(self, asking: Asking, scope: Mapping[str, Any], reply: Reply | None) -> tuple[tuple[str, Any], ...]:
        inside = {**scope, "response": reply.scope if reply is not None else {}}
        found = []
        for setting, value in self.suggest:
            if (read := value(inside)) is not None:
                found.append((str(setting(inside)), asking.wire.masker.deep(read)))
        return tuple(found)


def probe(
    program: Program,
    request: types.Request,
    replies: types.Replies | None,
    names: frozenset[str],
    place: Path,
    step: str,
    absent_on: Sequence[int] = (),
) -> Call:
    """A request of `provision`, judged by its own rules and those of the connector."""
    compiler, at = program.compiler, (*place, "request")
    levels = [
        Level(compiler, replies, names | REPLY | WAIT, (*place, "replies")),
        Level(compiler, program.connector.replies, BOUND | REPLY | WAIT, ("replies",)),
    ]
    judge = Judge(compiler, levels, [], request.expect, names | REPLY, at, absent_on=absent_on)
    call = program.caller("provision", place, types.Action(steps={}), f"{place[1]}.{step}")
    return call(request, names, at, judge)


def reason_of(outcome: Outcome, reply: Reply | None) -> str:
    return outcome.reason or (f"HTTP {reply.status}" if reply is not None else "no reply")


def label_of(item: Any, index: int) -> str:
    """What an item is called where a person reads it."""
    if isinstance(item, dict):
        item = next((item[key] for key in LABELS if semantics.true(item.get(key))), None)
    if item is None or isinstance(item, (dict, list)):
        return f"{index + 1}"
    return semantics.plain(item)


def settings_of(things: Sequence[Thing], given: Mapping[str, Any]) -> dict[str, Any]:
    """
    What belongs under the client's settings, as a tree: what is suggested and not `given` like that.

    Where two things suggest values for one setting the first one counts.
    """
    out: dict[str, Any] = {}
    for path, value in (each for thing in things for each in thing.suggests):
        *above, last = path.split(".")
        if at(given, path) == value:
            continue
        home = out
        for part in above:
            home = home.setdefault(part, {}) if isinstance(home, dict) else {}
        if isinstance(home, dict):
            home.setdefault(last, value)
    return out


def at(tree: Any, path: str) -> Any:
    """What stands at a path of settings; None where nothing does."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
