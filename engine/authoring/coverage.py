"""
Which parts of a connector no example reaches: actions, steps, branches, outcome rules, look-ups, checks.

The examples run on a program that was compiled by `Watching`, which notes what a walk goes through. A program that is
compiled as usual carries nothing of this: there is no test for "is somebody watching?" on the way of an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engine.expressions import Compiler, T
from engine.lookups import Lookup, Source
from engine.notations.emitting import Emitter, dotted
from engine.outcomes import Rule
from engine.program import Action, Check
from engine.spec import types
from engine.spec.check.places import Sheet, node_at
from engine.steps import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from engine.notations.emitting import Path
    from engine.spec.located import Located, Node

ASIDE = {
    "checks",
    "definitions",
    "examples",
    "links",
    "provision",
    "receive",
    "sandbox",
    "secrets",
    "settings",
    "tables",
}
CONDITIONS = ("status", "code", "message", "content_type", "header", "when")


class Part(NamedTuple):
    """One part that an example can reach, by its place in the long form."""

    kind: str  # action, step, branch, outcome, source, when_absent, when_many, require
    place: Path
    what: str  # as a person would name it


class Missed(NamedTuple):
    """A part that none of the examples reached, and where it is written."""

    file: str
    line: int
    column: int
    kind: str
    path: str
    what: str


class Reached(NamedTuple):
    """What the examples of one connector reach."""

    connector: str
    total: int
    missed: list[Missed]

    @property
    def percent(self) -> int:
        """Whole percents, rounded down: 100 only where nothing is missed."""
        return 100 * (self.total - len(self.missed)) // self.total if self.total else 100


class Coverage:
    """The parts of one connector, and those that its examples have reached so far."""

    def __init__(self, connector: types.Connector, located: Located) -> None:
        self.connector, self.located, self.sheet = connector, located, Sheet(located)
        self.noted: set[tuple[str, Path]] = set()

    def compiler(self) -> Compiler:
        """What to compile the program of an example by."""
        return Watching(self.noted)

    def reached(self) -> Reached:
        """A part of a definition is one part, however many uses it has, and reached by any of them."""
        noted = {self.written(kind, place) for kind, place in self.noted}
        parts: dict[tuple[str, int, int, str], tuple[Part, bool]] = {}
        for part in parts_of(self.connector, self.located.root):
            line, column = self.mark(part)
            key = (part.kind, line, column, str(part.place[-1]))
            first, before = parts.get(key, (part, False))
            parts[key] = (first, before or (part.kind, part.place) in noted)
        missed = [
            Missed(self.located.file, line, column, part.kind, dotted(self.sheet.shown(part.place)), part.what)
            for (_, line, column, _), (part, came) in parts.items()
            if not came
        ]
        return Reached(self.connector.name, len(parts), sorted(missed))

    def mark(self, part: Part) -> tuple[int, int]:
        """Where it is written; of a branch and of what has a name, the key."""
        return (
            self.located.mark(part.place) if part.kind in ("outcome", "require") else self.located.key_mark(part.place)
        )

    def written(self, kind: str, place: Path) -> tuple[str, Path]:
        """A place as the compilers name it -> in the long form, where an action of one request has a step."""
        if kind == "step" and len(place) == 2:
            return kind, (*place, "steps", "request")
        found = self.sheet.written(place)
        if node_at(self.located.root, found) is None and found[:1] == ("actions",):
            step = (*found[:2], "steps", "request", *found[2:])
            found = step if node_at(self.located.root, step) is not None else found
        return kind, found


def parts_of(connector: types.Connector, root: Node) -> Iterator[Part]:
    """All that an example can reach."""
    for name, action in connector.actions.items():
        place: Path = ("actions", name)
        yield Part("action", place, f"the action {name}")
        for of, steps in (("steps", action.steps), ("on_failure", action.on_failure)):
            for title in steps:
                single = title == "request" and len(steps) == 1 and of == "steps"
                what = f"the request of {name}" if single else f"the step {title} of {name}"
                yield Part("step", (*place, of, title), what)
        for title, lookup in action.lookups.items():
            yield from parts_of_lookup(lookup, title, (*place, "lookups", title))
        for index, check in enumerate(action.require):
            says = f": {check.reason}" if check.reason else ""
            yield Part("require", (*place, "require", index), f"a record that this check of {name} rejects{says}")
    yield from parts_in(root, ())


def parts_of_lookup(lookup: types.Lookup, title: str, place: Path) -> Iterator[Part]:
    for source in lookup.sources:
        yield Part("source", (*place, "sources", source), f"the source {source} of the look-up {title}")
    if lookup.create is not None:
        yield Part("source", (*place, "create"), f"what creates a row of the look-up {title}")
    if lookup.request is not None:
        yield Part("source", place, f"the request of the look-up {title}")
    what = f"nothing found by the look-up {title} (when_absent: {lookup.when_absent})"
    yield Part("when_absent", (*place, "when_absent"), what)
    if lookup.when_many != "first":
        what = f"several found by the look-up {title} (when_many: {lookup.when_many})"
        yield Part("when_many", (*place, "when_many"), what)


def parts_in(node: Node, place: Path) -> Iterator[Part]:
    """Branches and outcome rules, wherever they stand."""
    value: Any = node.value
    if isinstance(value, list):
        for index, child in enumerate(value):
            yield from parts_in(child, (*place, index))
        return
    if not isinstance(value, dict) or "$literal" in value:
        return
    if "$if" in value:
        yield from (Part("branch", (*place, key), f"{key} of the $if") for key in ("then", "else") if key in value)
    if "$switch" in value:
        cases = value.get("cases")
        named = cases.value if cases is not None and cases.is_map else {}
        yield from (Part("branch", (*place, "cases", case), f"the case {case} of the $switch") for case in named)
        if "default" in value:
            yield Part("branch", (*place, "default"), "the default of the $switch")
    rules = value.get("outcomes")
    if rules is not None and isinstance(rules.value, list):
        yield from (
            Part("outcome", (*place, "outcomes", index), f"the rule {brief(rule.plain())}")
            for index, rule in enumerate(rules.value)
        )
    for key, child in value.items():
        if place or key not in ASIDE:
            yield from parts_in(child, (*place, key))


def brief(rule: Any) -> str:
    """`status 404: reject`, of an outcome rule."""
    if not isinstance(rule, dict):
        return str(rule)
    said = [f"{name} {shown(rule[name])}" for name in CONDITIONS if name in rule]
    return f"{', '.join(said) or 'for all else'}: {rule.get('then', '')}"


def shown(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:59]}…"


class Watching(Compiler):
    """A compiler whose programs note what a walk goes through; it shares nothing with programs that don't."""

    def __init__(self, noted: set[tuple[str, Path]]) -> None:
        super().__init__()
        self.noted = noted

    def emitter(self, names: Iterable[str], place: Path) -> Emitter:
        em = Branches(names, place, self.problems, self.uses)
        em.globals["taken"] = lambda branch: self.noted.add(("branch", branch))
        return em

    def kept(self, key: Any, make: Callable[[], T]) -> T:
        del key
        return make()

    def made(self, part: object, place: Path) -> None:
        match part:
            case Action():
                self.watch(part, "prepare", lambda *_: [("action", place)])
            case Check():
                self.watch(part, "fails", lambda reason, *_: [("require", place)] if reason is not None else [])
            case Step():
                self.watch(part.call, "run", lambda done, *_: [("step", place)] if done.prepared is not None else [])
            case Source():
                self.watch(part.call, "run", lambda done, *_: [("source", place)] if done.prepared is not None else [])
            case Lookup():
                absent, many = (*place, "when_absent"), (*place, "when_many")
                self.watch(part, "answer", lambda _, found: [("when_absent", absent)] if found is None else [])
                self.watch(part, "take", lambda _, *given: several(given[1], given[2], many))
            case Rule():
                self.watch(part, "outcome", lambda *_: [("outcome", place)])

    def watch(self, part: object, method: str, says: Callable[..., Iterable[tuple[str, Path]]]) -> None:
        """From now on this part notes what `says` makes of each call: of its result and its arguments."""
        called = getattr(part, method)

        def noting(*args: Any, **named: Any) -> Any:
            result = called(*args, **named)
            self.noted.update(says(result, *args))
            return result

        setattr(part, method, noting)


def several(keys: Iterable[str], rows: dict[str, list[Any]], place: Path) -> list[tuple[str, Path]]:
    return [("when_many", place)] if any(len(rows.get(key, ())) > 1 for key in keys) else []


class Branches(Emitter):
    """An emitter whose functions note each branch that they take."""

    def passed(self, *keys: str | int) -> None:
        self.line(f"taken({(*self.place, *keys)!r})")
