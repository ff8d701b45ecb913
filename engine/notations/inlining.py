"""
What the commonest case of a function comes to, as a Python expression in the generated code; all else calls it.

Each gives exactly what the call would: where the expression does not fit, by class, size or number, it makes the call.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.functions import times
from engine.functions.definition import guarded_as
from engine.functions.values import EXACT, MAX_TEXT_BYTES
from engine.notations.emitting import Chain

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.notations.emitting import Code, Emitter

SHORT = MAX_TEXT_BYTES // 4 - 1  # characters; no text of at most so many is beyond the cap
_LETTERS = 3  # are the most that one letter is in another case
SMALL = 10**9  # numbers below it are within the caps, and so is what comes of two of them
_TEXT = frozenset({"text", "absent"})
_PLACES = 3  # with more, what stands before an exponent would be taken for a point in its place
_DIGITS = 25
_quantize = EXACT.quantize  # half as long as the number's own method, which is given the context

_NOT_SHORT = f"{{0}}.__class__ is not str or len({{0}}) > {SHORT}"
_CALLED = (  # a result that the caps, which are the call's, may have to do with
    f"({_NOT_SHORT}) and {{0}} is not None and not ({{0}}.__class__ is int and -{SMALL} < {{0}} < {SMALL})"
)


class Inline(NamedTuple):
    """`unless` is a Python test of the result, {0}: where it holds the call is made after all."""

    source: str
    risky: bool = True
    unless: str = ""
    there: bool = False  # it is never absent
    as_text: str = ""  # an expression that gives the number as text
    chain: Chain | None = None


def _else(value: Code, whole: str) -> str:
    return f"None if {value} is None else {whole}" if "absent" in value.kinds else whole


def _method(method: str, growth: int) -> Callable[[Emitter, list[Code], str], Inline | None]:
    """`growth`: of one character it makes at most so many."""

    def make(em: Emitter, arguments: list[Code], whole: str) -> Inline | None:
        (value,) = arguments
        if value.literal:
            return None
        subject, source, most = value, str(value), SHORT
        if value.chain is not None and em.only_just(value):
            subject, source, inner, most = value.chain
            whole = whole.replace(f"({value})", f"({inner})")
        chain = Chain(subject, f"{source}.{method}()", whole, most // growth)
        text = f"{subject} is not None" if subject.kinds <= _TEXT else f"{subject}.__class__ is str"
        quick = f"{chain.source} if {text} and len({subject}) <= {chain.most}"
        return Inline(f"{quick} else {_else(subject, whole)}", chain=chain)

    return make


def _string(_em: Emitter, arguments: list[Code], whole: str) -> Inline | None:
    (value,) = arguments
    if value.literal:
        return None
    return Inline(f"{value} if {value}.__class__ is str and len({value}) <= {SHORT} else {_else(value, whole)}")


def _get(_em: Emitter, arguments: list[Code], _whole: str) -> Inline | None:
    subject, key = arguments[:2]
    if subject.literal:
        return None
    return Inline(
        f"{subject}.get({key}) if {subject}.__class__ is dict and {key}.__class__ is str else None",
        unless=_NOT_SHORT,
    )


def _first_there(_em: Emitter, arguments: list[Code], _whole: str) -> Inline | None:
    source = ""
    for value in arguments:
        if "absent" not in value.kinds:
            return Inline(source + value, unless=_CALLED, there=True)
        source += f"{value} if {value} is not None else "
    return Inline(source + "None", unless=_CALLED)


def _at(position: int) -> Callable[[Emitter, list[Code], str], Inline | None]:
    def make(_em: Emitter, arguments: list[Code], whole: str) -> Inline | None:
        (value,) = arguments
        return Inline(
            f"{value}[{position}] if {value}.__class__ is list and {value} else {_else(value, whole)}", unless=_CALLED
        )

    return make


def _length(_em: Emitter, arguments: list[Code], whole: str) -> Inline | None:
    (value,) = arguments
    return Inline(
        f"len({value}) if {value}.__class__ is list or {value}.__class__ is str or {value}.__class__ is dict"
        f" else {_else(value, whole)}"
    )


def _affix(method: str) -> Callable[[Emitter, list[Code], str], Inline | None]:
    def make(_em: Emitter, arguments: list[Code], whole: str) -> Inline | None:
        value, part = arguments
        if value.literal or part.value.__class__ is not str:
            return None
        return Inline(f"{value}.{method}({part}) if {value}.__class__ is str else {_else(value, whole)}")

    return make


def _contains(_em: Emitter, arguments: list[Code], whole: str) -> Inline | None:
    value, part = arguments
    if value.literal or part.value.__class__ is not str:
        return None
    return Inline(f"{part} in {value} if {value}.__class__ is str else {_else(value, whole)}")


def _present(_em: Emitter, arguments: list[Code], _whole: str) -> Inline | None:
    (value,) = arguments
    if value.literal:
        return None
    return Inline(
        f"True if {value} else {value} is False or {value}.__class__ is int or {value}.__class__ is Decimal",
        risky=False,
    )


def _truncate(em: Emitter, arguments: list[Code], whole: str) -> Inline | None:
    value, length = arguments[:2]
    if len(arguments) > 2 or value.literal or length.value.__class__ is not int or not 0 < length.value < SHORT:
        return None
    cut = em.fresh()  # whose last character may be the first half of a pair
    half = f"'\\ud800' <= ({cut} := {value}[:{length}])[-1] <= '\\udbff'"
    return Inline(
        f"({value} if len({value}) <= {length} else {whole} if {half} else {cut}) if {value}.__class__ is str"
        f" else {_else(value, whole)}"
    )


def _add(_em: Emitter, arguments: list[Code], whole: str) -> Inline | None:
    if len(arguments) != 2:
        return None
    tests = []
    for value in arguments:
        if value.value.__class__ is int and abs(value.value) < SMALL:
            continue
        if value.literal:
            return None
        if value.small:
            continue
        tests.append(f"{value}.__class__ is int and -{SMALL} < {value} < {SMALL}")
    if all(value.literal for value in arguments):
        return None
    added = f"{arguments[0]} + {arguments[1]}"
    return Inline(
        f"{added} if {' and '.join(tests)} else {whole}" if tests else added, risky=bool(tests), there=not tests
    )


def _decimal(em: Emitter, arguments: list[Code], whole: str) -> Inline | None:
    value, *places = arguments
    if len(places) != 1 or places[0].value.__class__ is not int or not 0 < places[0].value <= _PLACES:
        return None
    name = f"to_{places[0].value}_places"
    em.globals[name], em.globals[f"{name}_text"] = to_places(places[0].value)
    given = f"({value}, {whole.partition('(')[0]})"
    return Inline(_else(value, name + given), as_text=_else(value, f"{name}_text{given}"))


@cache
def to_places(places: int) -> tuple[Callable[..., Any], Callable[..., str | None]]:
    """(value, the function) -> a value that is there to so many places, and as text; most prices have them already."""
    unit, least_small = Decimal((0, (1,), -places)), -SMALL
    point, one_less, one_more = -1 - places, -places, -2 - places
    least = places + 2

    def rounded(value: Any, call: Callable[..., Any]) -> Any:
        if value.__class__ is Decimal:
            digits = str(value)  # with a point, few and without an exponent: a finite number within the caps
            if least < len(digits) < _DIGITS:
                if digits[point] == ".":
                    return value
                if digits[one_more] == "." or digits[one_less] == ".":
                    return _quantize(value, unit)
        elif value.__class__ is int and least_small < value < SMALL:
            return _quantize(value, unit)
        return call(value, places)

    zeros = "." + "0" * places

    def text(value: Any, call: Callable[..., Any]) -> str | None:
        if value.__class__ is Decimal:
            digits = str(value)
            if least < len(digits) < _DIGITS:
                if digits[point] == ".":
                    return digits
                if digits[one_less] == ".":
                    return digits + "0"
                if digits[one_more] == ".":
                    return str(_quantize(value, unit))
        elif value.__class__ is int and least_small < value < SMALL:
            return f"{value}{zeros}"
        found = call(value, places)
        return None if found is None else str(found)  # which writes no exponent with so few places

    return rounded, text


_CUTS = {
    "%Y": "[:4]", "%m": "[5:7]", "%d": "[8:10]", "%H": "[11:13]", "%M": "[14:16]", "%S": "[17:19]",
}  # fmt: skip
_RUNS = {"%Y-%m-%d": "[:10]", "%H:%M:%S": "[11:19]", "%H:%M": "[11:16]", **_CUTS}
_CODES = re.compile("|".join(map(re.escape, _RUNS)) + r"|[^%]+|%")


def _date(em: Emitter, arguments: list[Code], _whole: str) -> Inline | None:
    """The moment is read once for all its formats; most of these are cut out of its ISO form."""
    value, *options = arguments
    if not options or options[0].value.__class__ is not str or not 0 < len(options[0].value) <= 1_000:
        return None
    pieces = _CODES.findall(options[0].value)
    if "%" in pieces:
        return None
    zone = options[1] if len(options) > 1 else em.const("UTC")
    em.globals["moment"] = guarded_as("date", times.iso_form, ("subject", "timezone"))
    at = em.once(
        ("moment", value, zone),
        lambda: em.assign(f"moment({value}, {zone})", frozenset({"text", "absent"}), risky=True, prefix="m"),
    )
    if len(pieces) == 1:
        source = f"{at}{_RUNS[pieces[0]]}" if pieces[0] in _RUNS else em.const(pieces[0])
    else:
        source = " + ".join(f"{at}{_RUNS[piece]}" if piece in _RUNS else em.const(piece) for piece in pieces)
    return Inline(f"None if {at} is None else {source}", risky=False)


INLINE: dict[str, Callable[[Emitter, list[Code], str], Inline | None]] = {
    "add": _add,
    "coalesce": _first_there,
    "contains": _contains,
    "date": _date,
    "decimal": _decimal,
    "default": _first_there,
    "ends_with": _affix("endswith"),
    "first": _at(0),
    "get": _get,
    "last": _at(-1),
    "length": _length,
    "lower": _method("lower", _LETTERS),
    "present": _present,
    "starts_with": _affix("startswith"),
    "string": _string,
    "trim": _method("strip", 1),
    "truncate": _truncate,
    "upper": _method("upper", _LETTERS),
}
