"""
`${ }` (JMESPath) and `{{ }}` (Jinja) to Python functions, once at load: scope -> value.

Both notations become plain Python over the local variables of one generated function, so that nothing is parsed or
interpreted for an event. `None` is absent. Numbers are int and Decimal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from engine.notations import semantics
from engine.notations.calls import in_text
from engine.notations.emitting import NONE, WHOLE, Emitter, ExpressionError, Problem, Use, is_expression, is_template
from engine.notations.jinja import emit_template
from engine.notations.jmes import emit_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.notations.emitting import Code, Scope
    from engine.notations.emitting import Path as Path
    from engine.notations.emitting import Run as Run

T = TypeVar("T")


def is_literal(spec: Any) -> bool:
    """Is there nothing in this scalar to compute?"""
    return not isinstance(spec, str) or not ("${" in spec or is_template(spec))


def emit_scalar(em: Emitter, value: Any, hole: str = "text") -> Code:
    """The variable or literal of any scalar: an expression, a template, or itself. None where it has a problem."""
    if not isinstance(value, str):
        return em.const(value)
    try:
        with em.undone():
            if match := WHOLE.match(value):
                return emit_expression(em, match.group(1))
            if "${" in value:
                raise ExpressionError(
                    "mixed", "${ } is the whole scalar or not there", "in a text write {{ path | function }}"
                )
            if is_template(value):
                return emit_template(em, value, hole)
    except ExpressionError as error:
        em.problem(error.rule, error.message, error.hint)
        return NONE
    return em.const(value)


class Compiled(NamedTuple):
    """What compiling one text at one place gave: many clients of a connector share it."""

    made: Any
    problems: tuple[Problem, ...]
    uses: tuple[Use, ...]


_KEPT: dict[Any, Compiled] = {}
MAX_KEPT = 50_000


@lru_cache(maxsize=10_000, typed=True)
def _same(spec: Any) -> Run:
    return lambda _scope: spec


def literally(spec: Any) -> Run:
    """A text, a whole number or a truth is itself: one function of each for all programs."""
    return _same(spec) if spec.__class__ in (str, int, bool) else lambda _scope: spec


# One for all programs: of the clients of a connector each has its own.
def _absent(_scope: Scope) -> None:
    return None


def _always(_scope: Scope) -> bool:
    return True


def _never(_scope: Scope) -> bool:
    return False


class Compiler:
    """Compiles the scalars of one spec; gathers what is wrong and what is read, by place."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.uses: list[Use] = []

    def emitter(self, names: Iterable[str], place: Path) -> Emitter:
        return Emitter(names, place, self.problems, self.uses)

    def made(self, part: object, place: Path) -> None:
        """Told of each compiled part that a walk goes through; `authoring.coverage` watches them, nobody else."""

    def kept(self, key: Any, make: Callable[[], T]) -> T:
        """What was compiled before from the same text, names and place, or `make` of it; with its problems and uses."""
        found = _KEPT.get(key)
        if found is None:
            problems, uses = len(self.problems), len(self.uses)
            made = make()
            if len(_KEPT) >= MAX_KEPT:
                _KEPT.clear()
            _KEPT[key] = Compiled(made, tuple(self.problems[problems:]), tuple(self.uses[uses:]))
            return made
        self.problems += found.problems
        self.uses += found.uses
        kept: T = found.made
        return kept

    def value(self, spec: Any, names: Iterable[str], place: Path) -> Run:
        """scope -> the value, None if absent. A literal is itself."""
        if spec is None:
            return _absent
        if is_literal(spec):
            return literally(spec)
        names = frozenset(names)

        def make() -> Run:
            em = self.emitter(names, place)
            return em.build(emit_scalar(em, spec))

        return self.kept(("value", spec, names, place), make)

    def condition(self, spec: Any, names: Iterable[str], place: Path, default: bool = True) -> Callable[[Scope], bool]:
        """scope -> does it hold? A value of a wrong type makes it false; no spec is `default`.

        What takes more work than an expression may, or gives more, is neither: TooMuch, which names the place.
        """
        if spec is None:
            return _always if default else _never
        if is_literal(spec):
            return _always if semantics.true(spec) else _never
        names = frozenset(names)

        def make() -> Run:
            em = self.emitter(names, place)
            holds = em.attempt(lambda: emit_scalar(em, spec))
            return em.build(f"True if {holds} else False")

        return self.kept(("condition", spec, names, place), make)

    def text(self, spec: Any, names: Iterable[str], place: Path, hole: str = "text") -> Run:
        """scope -> text or None; what is not text becomes it (numbers with all digits)."""
        if isinstance(spec, str) and is_literal(spec):
            return literally(spec)
        names = frozenset(names)
        if isinstance(spec, str):
            return self.kept(("text", hole, spec, names, place), lambda: self.made_text(spec, names, place, hole))
        return self.made_text(spec, names, place, hole)

    def made_text(self, spec: Any, names: Iterable[str], place: Path, hole: str) -> Run:
        em = self.emitter(names, place)
        code = emit_scalar(em, spec, hole)
        if not isinstance(spec, str):
            code = in_text(em, code, "text", "")
        elif is_expression(spec):
            code = in_text(em, code, hole, spec.strip()[2:-1].strip())
        return em.build(code)
