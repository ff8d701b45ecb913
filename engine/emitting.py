"""
One Python function in the making, and what both notations share: names, literals, comparisons, calls, what is wrong.

The only calls in generated code are the helpers of `engine.semantics` and the functions of `engine.functions`; no
attribute is ever read.
"""

from __future__ import annotations

import re
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import functions, semantics
from engine.errors import BadValue, ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import CodeType

    Path = tuple[str | int, ...]
    Scope = Mapping[str, Any]
    Run = Callable[[Scope], Any]

WHOLE = re.compile(r"\s*\$\{(.*)\}\s*\Z", re.DOTALL)
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


class Emitter:
    """One Python function in the making: lines, constants, context names read, and where each line comes from."""

    def __init__(self, names: Iterable[str], place: Path, problems: list[Problem], uses: list[Use]) -> None:
        self.names = frozenset(names)
        self.place: tuple[str | int, ...] = place
        self.problems = problems
        self.uses = uses
        self.globals: dict[str, Any] = dict(semantics.HELPERS)
        self.lines: list[str] = []
        self.places: list[tuple[str | int, ...]] = []
        self.depth = 2
        self.bound: dict[str, str] = {}  # loop variables: name -> Python variable
        self.roots: dict[str, str] = {}  # context names read so far -> Python variable
        self.counter = 0
        self.prelude: list[str] = []  # what stands before all else
        self.looping = 0  # loops that the current place is within
        self.metered = False  # the function counts its steps in `work`
        self.read: list[tuple[str | int, ...]] = []  # every path this function reads
        self.watched: list[tuple[tuple[str, ...], set[str]]] = []  # a path, and what is read below it: for $rest

    def fresh(self, prefix: str = "t") -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def const(self, value: Any) -> str:
        """Python source of a constant: a literal where that is safe, else a global of the generated function."""
        if value is None or isinstance(value, bool):
            return repr(value)
        if isinstance(value, (str, int)) and len(str(value)) < 200:
            return repr(value)
        name = self.fresh("K")
        self.globals[name] = value
        return name

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)
        self.places.append(self.place)

    def work(self) -> str:
        """The Python variable with the steps that are left, for what goes over a list or is called in a loop."""
        self.metered = True
        return "work"

    def passed(self, *keys: str | int) -> None:
        """Told of each branch, at the current place plus `keys`; `authoring.coverage` notes those that are taken."""

    def problem(self, rule: str, message: str, hint: str = "", severity: str = "error") -> None:
        self.problems.append(Problem(self.place, rule, message, hint, severity))

    def root(self, name: str) -> str:
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
        return self.roots.setdefault(name, f"n_{name}")

    def key_of(self, code: str, key: str) -> str:
        """Python source that reads a key of what `code` gives; in line, since a call would cost as much again."""
        kept = self.fresh()
        return f"({kept}.get({key!r}) if ({kept} := {code}).__class__ is dict else None)"

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

    def build(self, result: str) -> Run:
        """The finished function: scope -> value; a BadValue that leaves it knows its target field."""
        source = ["def run(scope):", "    try:", "        pass"]
        source += [f"        {line}" for line in self.prelude]
        source += [f"        work = [{semantics.MAX_STEPS}]"] if self.metered else []
        source += [f"        {variable} = scope.get({name!r})" for name, variable in self.roots.items()]
        first = len(source) + 1
        self.line(f"result = {result}")
        source += self.lines
        source += [
            "        return result",
            "    except BadValue as error:",
            "        locate(error)",
            "        raise",
        ]
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


def compare(em: Emitter, operator: str, left: str, right: str) -> str:
    """eq and ne over all types (strictly), order over numbers; anything else is absent."""
    if operator in ("eq", "ne"):
        same = f"same({left}, {right}, {em.work()})" if em.looping else f"same({left}, {right})"
        return same if operator == "eq" else f"(not {same})"
    return f"ordered({left}, {operator!r}, {right})"


def emit_call(em: Emitter, name: str, arguments: list[str], kinds: list[str]) -> str:
    """A call of a registered (or given) function, its count and literal kinds checked now."""
    function = EXTRA.get(name) if name in EXTRA and em.names >= EXTRA_NAMES else functions.REGISTRY.get(name)
    if function is None:
        hint = (
            f'did you mean "{near}"?' if (near := functions.closest(name)) else "docs/functions.md lists all functions"
        )
        raise ExpressionError("function", f"unknown function {name}", hint)
    if isinstance(function, str):
        return f"{em.root('calls')}[{name!r}]({', '.join(arguments)})"
    least = sum(parameter.required for parameter in function.parameters)
    most = None if any(parameter.variadic for parameter in function.parameters) else len(function.parameters)
    if len(arguments) < least or (most is not None and len(arguments) > most):
        wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        shape = ", ".join(parameter.name for parameter in function.parameters)
        raise ExpressionError("arguments", f"{name} takes {wanted} arguments, got {len(arguments)}", f"{name}({shape})")
    for position, kind in enumerate(kinds):
        parameter = function.parameters[min(position, len(function.parameters) - 1)]
        if kind not in ("any", "null") and not (parameter.kinds & {kind, "any"}):
            wanted = " or ".join(sorted(parameter.kinds))
            raise ExpressionError("arguments", f"{name}: {parameter.name} is to be {wanted}, got {kind}")
    em.globals[f"f_{name}"] = function.call
    how = METERED.get(name, "metered")
    if em.looping or how == "metered_slow":
        return f"{how}({em.work()}, f_{name}, {', '.join(arguments)})"
    return f"f_{name}({', '.join(arguments)})"


METERED = {  # functions whose time depends on something else than the length of their texts and lists
    **dict.fromkeys(("get", "first", "last", "length"), "metered_quick"),
    **dict.fromkeys(("contains", "unique", "group", "where", "find", "json"), "metered_deep"),
    "regex_replace": "metered_slow",
}


EXTRA_NAMES = frozenset({"calls"})
EXTRA = {name: name for name in ("recall", "sequence", "count", "find_all", "issue")}  # of the sandbox only
