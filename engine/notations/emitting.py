"""
One Python function in the making, and what both notations share: names, literals, what is wrong.

Each step of a computation is a line that gives its value a variable; so what is read twice is read once, what is known
of a value (`Code.kinds`) need not be looked at, and what may not be reached stands in a block of its own. The only
calls in generated code are the helpers of `engine.notations.semantics`, the functions of `engine.functions` and what
`inlining` writes for them; the only attribute of a value that is read is its class.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import BadValue, ConnectError
from engine.notations import semantics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import CodeType

    Path = tuple[str | int, ...]
    Scope = Mapping[str, Any]
    Run = Callable[[Scope], Any]

WHOLE = re.compile(r"\s*\$\{(.*)\}\s*\Z", re.DOTALL)
_VARIABLE = re.compile(r"\b[a-z][0-9]+\b")
MAX_EXPRESSION = 20_000


class Use(NamedTuple):
    """A path that an expression reads from its context: ("event", "product", "id"), and where it is written."""

    path: tuple[str, ...]
    place: tuple[str | int, ...]


class Problem(NamedTuple):
    """What is wrong with one scalar or key of a spec, by its path in the YAML."""

    place: tuple[str | int, ...]
    rule: str
    message: str
    hint: str = ""
    severity: str = "error"


class ExpressionError(ConnectError):
    """A text that does not compile; `rule`, message and `hint` make the finding."""

    exit_code = 1

    def __init__(self, rule: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.rule, self.message, self.hint = rule, message, hint


def is_expression(value: object) -> bool:
    """Is this scalar one whole `${ … }`?"""
    return isinstance(value, str) and WHOLE.match(value) is not None


def is_template(value: object) -> bool:
    """Is this scalar a text with holes or statements?"""
    return isinstance(value, str) and ("{{" in value or "{%" in value or "{#" in value)


def closest(name: str, names: Iterable[str]) -> str:
    """`did you mean "x"?`, or nothing."""
    near = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""


ANY = frozenset({"text", "number", "boolean", "list", "object", "absent"})
ABSENT = frozenset({"absent"})
TEXT = frozenset({"text"})
BOOLEAN = frozenset({"boolean"})
DEEP = frozenset({"list", "object"})
UNKNOWN: Any = object()


class Chain(NamedTuple):
    """Methods of a text one after the other, `p1.strip().lower()`, for a `p1` of at most so many characters."""

    subject: Code
    source: str
    whole: str  # the calls that give the same of all else
    most: int


class Code(str):
    """Python source of a value: a variable or a literal, so that it can be written twice. And what is known of it."""

    kinds: frozenset[str]  # what it may be
    capped: bool  # a number in it is within the caps, as one that a function gave
    unseen: bool  # nobody has looked yet whether it is a list or an object (mapping.Tree.settle)
    small: bool  # a whole number far from the caps
    as_text: str  # a Python expression that gives it as text at once
    chain: Chain | None  # what gives it, to put a further method behind
    null: bool  # it may be a written null (mapping.NULL)
    value: Any  # of a literal

    __slots__ = ("as_text", "capped", "chain", "kinds", "null", "small", "unseen", "value")

    def __new__(
        cls, text: str, kinds: frozenset[str] = ANY, *, capped: bool = False, null: bool = False, value: Any = UNKNOWN
    ) -> Code:
        made = super().__new__(cls, text)
        made.kinds, made.capped, made.null, made.value = kinds, capped, null, value
        made.small, made.unseen, made.as_text, made.chain = False, False, "", None
        return made

    @property
    def literal(self) -> bool:
        return self.value is not UNKNOWN


NONE = Code("None", ABSENT, value=None)


class Emitter:
    """One Python function in the making: lines, constants, context names read, and where each line comes from."""

    def __init__(self, names: Iterable[str], place: Path, problems: list[Problem], uses: list[Use]) -> None:
        self.names = frozenset(names)
        self.place: tuple[str | int, ...] = place
        self.problems = problems
        self.uses = uses
        self.globals: dict[str, Any] = dict(semantics.HELPERS)
        self.lines: list[tuple[int, str]] = []  # depth, text
        self.places: list[tuple[str | int, ...]] = []
        self.depth = 2
        self.bound: dict[str, Code] = {}  # loop variables: name -> Python variable
        self.roots: dict[str, Code] = {}  # context names read so far -> Python variable
        self.objects: frozenset[str] = frozenset()  # context names whose values are objects, whoever calls
        self.made: dict[str, Code] = {}  # context names that this function computes itself -> Python variable
        self.known: list[dict[Any, Code]] = [{}]  # for each block that we are in: what was computed -> its variable
        self.risks = 0  # lines so far that may raise
        self.counter = 0
        self.prelude: list[str] = []  # what stands before all else
        self.spare: set[str] = set()  # variables that may not be needed: what is made of them computes them at once
        self.looping = 0  # loops that the current place is within
        self.metered = False  # the function counts its steps in `work`
        self.read: list[tuple[str | int, ...]] = []  # every path this function reads
        self.watched: list[tuple[tuple[str, ...], set[str]]] = []  # a path, and what is read below it: for $rest

    def fresh(self, prefix: str = "t") -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def const(self, value: Any) -> Code:
        """Python source of a constant: a literal where that is safe, else a global of the generated function."""
        kinds = frozenset({KIND_OF[value.__class__]}) if value.__class__ in KIND_OF else ANY
        if value is None or isinstance(value, bool) or (isinstance(value, (str, int)) and len(str(value)) < 200):
            return Code(f"({value!r})" if kinds == NUMBER else repr(value), kinds, value=value)
        name = self.fresh("K")
        self.globals[name] = value
        return Code(name, kinds, value=value)

    def line(self, text: str, *, risky: bool = False) -> None:
        """`risky`: it may raise a BadValue."""
        self.lines.append((self.depth, text))
        self.places.append(self.place)
        self.risks += risky

    def assign(
        self, source: str, kinds: frozenset[str] = ANY, *, risky: bool = False, capped: bool = False, prefix: str = "t"
    ) -> Code:
        """A variable with the value of a Python expression."""
        code = Code(self.fresh(prefix), kinds, capped=capped)
        self.line(f"{code} = {source}", risky=risky)
        return code

    @contextmanager
    def block(self, head: str, *, risky: bool = False) -> Iterator[None]:
        """What stands in it may not be reached: what is computed there is not known after it."""
        self.line(head, risky=risky)
        self.depth += 1
        self.known.append({})
        before = len(self.lines)
        yield
        if len(self.lines) == before:
            self.line("pass")
        self.known.pop()
        self.depth -= 1

    @contextmanager
    def apart(self, names: Iterable[str], place: Path) -> Iterator[None]:
        """A part with names and a place of its own; what is wrong in it and what it reads is noted elsewhere."""
        outer = self.names, self.place, self.problems, self.uses, self.read
        self.names, self.place, self.problems, self.uses, self.read = frozenset(names), place, [], [], []
        yield
        self.names, self.place, self.problems, self.uses, self.read = outer
        self.watched.clear()
        if self.metered:  # each part has all the steps
            self.line(f"work[0] = {semantics.MAX_STEPS}")

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Where something in it does not compile, nothing of it stays."""
        state = len(self.lines), self.depth, self.looping, len(self.known)
        try:
            yield
        except ExpressionError:
            lines, self.depth, self.looping, known = state
            del self.lines[lines:], self.places[lines:]
            self.known = [{} for _ in range(known)]
            raise

    def once(self, key: Any, compute: Callable[[], Code]) -> Code:
        """What was computed before where we are, or `compute` of it; `key` tells it from all else."""
        found: Code | None = next((known[key] for known in reversed(self.known) if key in known), None)
        if found is None:
            found = compute()
            self.known[-1][key] = found
        return found

    def only_just(self, code: Code) -> bool:
        """Does the last line compute this? It is left out in the end, unless something reads the variable after all."""
        if not self.lines or not self.lines[-1][1].startswith(f"{code} = "):
            return False
        self.spare.add(str(code))
        return True

    def leave_out(self) -> None:
        """The lines whose variables nobody reads but those who compute the same at once."""
        read = Counter(name for _, text in self.lines for name in set(_VARIABLE.findall(text)) & self.spare)
        unread = {name for name in self.spare if read[name] == 1}  # where it is computed
        kept = [text.partition(" = ")[0] not in unread for _, text in self.lines]
        self.lines = list(compress(self.lines, kept))
        self.places[:] = compress(self.places, kept)

    def pay(self, steps: str) -> None:
        """A line that takes steps from the work that is left."""
        work = self.work()
        self.line(f"{work}[0] -= {steps}")
        self.line(f"if {work}[0] < 0: spend({work}, 0)", risky=True)

    def attempt(self, emit: Callable[[], Code]) -> str:
        """A Python test: is it true? A value of a wrong type makes it false."""
        start, risks = len(self.lines), self.risks
        self.line("try:")
        self.depth += 1
        self.known.append({})
        code = emit()
        self.depth -= 1
        known = self.known.pop()
        if self.risks == risks:
            del self.lines[start], self.places[start]
            self.lines[start:] = [(depth - 1, text) for depth, text in self.lines[start:]]
            self.known[-1].update(known)
            return truth(code)
        holds = self.fresh()
        self.depth += 1
        self.line(f"{holds} = {truth(code)}")
        self.depth -= 1
        self.line("except TooMuch: raise")
        self.line(f"except BadValue: {holds} = False")
        return holds

    def work(self) -> str:
        """The Python variable with the steps that are left, for what goes over a list or is called in a loop."""
        self.metered = True
        return "work"

    def passed(self, *keys: str | int) -> None:
        """Told of each branch, at the current place plus `keys`; `authoring.coverage` notes those that are taken."""

    def problem(self, rule: str, message: str, hint: str = "", severity: str = "error") -> None:
        self.problems.append(Problem(self.place, rule, message, hint, severity))

    def root(self, name: str) -> Code:
        """The Python variable of a context name, or ExpressionError with the nearest name."""
        if name in self.bound:
            return self.bound[name]
        if name not in self.names:
            known = sorted(self.names | set(self.bound))
            if name in ALL_NAMES:
                raise ExpressionError(
                    "name", f"{name} does not exist here; names here: {', '.join(known)}", WHERE.get(name, "")
                )
            hint = closest(name, known) or f"a path begins with one of these; a text stands in quotes: '{name}'"
            raise ExpressionError("name", f"unknown name {name}; names here: {', '.join(known)}", hint)
        if name in self.made:
            return self.made[name]
        return self.roots.setdefault(name, Code(f"n_{name}", OBJECT if name in self.objects else ANY))

    def key_of(self, code: Code, key: str) -> Code:
        """A key of an object, absent of all else."""

        def keys() -> Code:
            if code.kinds <= OBJECT:
                return code
            return self.assign(f"{code} if {code}.__class__ is dict else NO_KEYS", OBJECT, prefix="o")

        def read() -> Code:
            if code.literal:
                return self.assign(f"{code}.get({key!r}) if {code}.__class__ is dict else None", prefix="p")
            return self.assign(f"{self.once(('keys', code), keys)}.get({key!r})", prefix="p")

        return self.once((code, key), read) if not code.literal else read()

    def item_of(self, code: Code, position: int) -> Code:
        """An item of a list, absent of all else."""

        def read() -> Code:
            if position in (0, -1):
                return self.assign(f"{code}[{position}] if {code}.__class__ is list and {code} else None", prefix="p")
            return self.assign(f"item({code}, {position})", prefix="p")

        return self.once((code, position), read) if not code.literal else read()

    def use(self, path: tuple[str, ...]) -> None:
        if path and path[0] not in self.bound:
            self.uses.append(Use(path, self.place))
            self.read.append(path)
            for base, names in self.watched:
                note(base, path, names)

    def watch(self, base: tuple[str, ...], names: set[str]) -> None:
        """Add to `names` what this function reads directly below `base`, now and while the rest of it is compiled."""
        self.watched.append((base, names))
        for path in self.read:
            note(base, path, names)

    def names_read(self) -> list[str]:
        """Lines that take what is read out of the context: nearly always all of it is there."""
        if not self.roots:
            return []
        return [
            "  try:",
            *(f"   {variable} = scope[{name!r}]" for name, variable in self.roots.items()),
            "  except KeyError:",
            *(f"   {variable} = scope.get({name!r})" for name, variable in self.roots.items()),
        ]

    def build(self, result: str) -> Run:
        """The finished function: scope -> value; a BadValue that leaves it knows its target field."""
        source = ["def run(scope):", " try:"]
        source += [f"  {line}" for line in dict.fromkeys(self.prelude)]
        source += [f"  work = [{semantics.MAX_STEPS}]"] if self.metered else []
        source += self.names_read()
        first = len(source) + 1
        self.line(f"return {result}")
        if self.spare:
            self.leave_out()
        source += [" " * depth + text for depth, text in self.lines]
        source += [" except BadValue as error:", "  locate(error)", "  raise"]
        places = self.places

        def locate(error: BadValue) -> None:
            trace, line = error.__traceback__, 0
            while trace is not None:
                if trace.tb_frame.f_code.co_filename == SOURCE:
                    line = trace.tb_lineno
                trace = trace.tb_next
            if not error.at and first <= line < first + len(places):
                error.at = dotted(places[line - first])

        self.globals.update(BadValue=BadValue, locate=locate)
        try:
            code = _code("\n".join(source))
        except (SyntaxError, RecursionError, MemoryError):  # Python's own limits: 20 loops, 100 levels, 200 brackets
            self.problem("nesting", "nested too deeply", "take a part of it into vars")
            return lambda _scope: None
        exec(code, self.globals)
        run: Run = self.globals["run"]
        return run


@lru_cache(maxsize=20_000)
def _code(source: str) -> CodeType:
    """Clients of one connector share what is compiled of the same text."""
    return compile(source, SOURCE, "exec")


def note(base: tuple[str, ...], path: tuple[str | int, ...], names: set[str]) -> None:
    if len(path) > len(base) and path[: len(base)] == base:
        names.add(str(path[len(base)]))


SOURCE = "<compiled spec>"
KIND_OF = {str: "text", int: "number", Decimal: "number", bool: "boolean", list: "list", dict: "object"}
KIND_OF[type(None)] = "absent"
OBJECT = frozenset({"object"})
NUMBER = frozenset({"number"})
ALL_NAMES = frozenset(
    {
        "event", "fields", "settings", "derived", "client", "tables", "received_at", "lookups", "vars", "delivery",
        "record", "batch", "steps", "args", "response", "result", "row", "now", "token", "secrets", "request", "path",
        "sign", "nonce", "consent",
        "key", "group", "item", "index",
    }
)  # fmt: skip
WHERE = {
    "secrets": "secrets are for auth only; place them there",
    "event": "from the batch on there are several events; map what you need into the record and read batch.records",
    "record": "write it in the record first, or read the event",
    "now": "a mapping must be repeatable; use received_at or a time of the event",
    "token": "what a log-in saved is for auth and http",
    "sign": "signatures are for auth only; place them there",
    "args": "here the definition is used without them; give them: {$use: name, args: {…}}",
    "nonce": "a mapping must be repeatable; delivery.id is the same over all tries",
}


def dotted(path: Iterable[str | int]) -> str:
    """actions.create_task.record.Subject, lists as [0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def exact(value: Any) -> Any:
    """A literal with its floats made decimals, deeply."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return value


def truth(code: Code) -> str:
    """A Python test: is it neither absent, false, "", [] nor {}? 0 is true."""
    if code.literal:
        return repr(semantics.true(code.value))
    if "number" not in code.kinds:
        return code
    return f"({code} or {code}.__class__ is int or {code}.__class__ is Decimal)"
