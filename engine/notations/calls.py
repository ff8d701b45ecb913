"""What both notations do with values, as lines of the generated function: comparisons, texts, calls of functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import functions
from engine.functions.definition import checked
from engine.notations import inlining, semantics
from engine.notations.emitting import (
    ABSENT,
    ANY,
    BOOLEAN,
    DEEP,
    NUMBER,
    TEXT,
    Code,
    ExpressionError,
)

if TYPE_CHECKING:
    from engine.notations.emitting import Emitter

ORDER = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


def compare(em: Emitter, operator: str, left: Code, right: Code) -> Code:
    """eq and ne over all types (strictly), order over numbers; anything else is absent."""
    if operator in ("eq", "ne"):
        return equal(em, left, right, "" if operator == "eq" else "not ")
    if right.literal and right.kinds == NUMBER and not left.literal:
        number = f"{left}.__class__ is int or {left}.__class__ is Decimal"
        test = f"{left} {ORDER[operator]} {right} if {number} else None"
        return em.assign(test, BOOLEAN | ABSENT)
    return em.assign(f"ordered({left}, {operator!r}, {right})", BOOLEAN | ABSENT)


def equal(em: Emitter, left: Code, right: Code, negated: str) -> Code:
    if left.literal and not right.literal:
        left, right = right, left
    if left.literal and not DEEP & (left.kinds | right.kinds):
        return em.const((negated == "") is semantics.same(left.value, right.value))
    if right.literal and right.value.__class__ in (bool, type(None)):
        return em.assign(f"{negated}{left} is {right}", BOOLEAN)
    if right.literal and right.value.__class__ is str:
        return em.assign(f"{negated}({left}.__class__ is str and {left} == {right})", BOOLEAN)
    paid = f", {em.work()}" if em.looping else ""
    return em.assign(f"{negated}same({left}, {right}{paid})", BOOLEAN, risky=True)


def in_text(em: Emitter, value: Code, helper: str, name: str) -> Code:
    """One hole of a text, filled by a helper of `engine.notations.semantics`; `name` is what an error calls it."""
    named = em.const(name)
    if helper == "text" and value.kinds <= TEXT | ABSENT:
        return value
    if helper == "text" and value.kinds <= NUMBER | ABSENT and value.capped:
        if value.as_text and em.only_just(value):
            return em.assign(value.as_text, value.kinds - NUMBER | TEXT, risky=True)
        return em.assign(f"digits({value})", value.kinds - NUMBER | TEXT)
    if helper in ("text", "must"):
        kinds = (value.kinds & ABSENT if helper == "text" else frozenset()) | TEXT
        return em.assign(f"{value} if {value}.__class__ is str else {helper}({value}, {named})", kinds, risky=True)
    kinds = TEXT | (value.kinds & ABSENT) if helper.startswith("html") else TEXT
    return em.assign(f"{helper}({value}, {named})", kinds, risky=True)


def joined(em: Emitter, parts: list[Code]) -> Code:
    """The parts of a text one after the other, or absent if one of them is; held against the cap."""
    if not parts:
        return em.const("")
    if len(parts) == 1:
        return parts[0]
    out = Code(em.fresh(), TEXT | frozenset().union(*(part.kinds & ABSENT for part in parts)))
    there = " and ".join(f"{part} is not None" for part in dict.fromkeys(parts) if "absent" in part.kinds)
    made = f'f"{"".join(map(written_out, parts))}"'
    if there:
        with em.block(f"if {there}:"):
            em.line(f"{out} = {made}")
            em.line(f"if len({out}) > {semantics.MAX_TEXT}: too_long({out})", risky=True)
        em.line(f"else: {out} = None")
    else:
        em.line(f"{out} = {made}")
        em.line(f"if len({out}) > {semantics.MAX_TEXT}: too_long({out})", risky=True)
    return out


def written_out(part: Code) -> str:
    """A part of a text within an f-string."""
    if part.value.__class__ is not str:
        return f"{{{part}}}"
    plain = part.value.encode("unicode_escape").decode("ascii")
    return str(plain).replace('"', '\\"').replace("{", "{{").replace("}", "}}")


def emit_call(em: Emitter, name: str, arguments: list[Code], kinds: list[str]) -> Code:
    """A call of a registered (or given) function, its count and literal kinds checked now."""
    function = EXTRA.get(name) if name in EXTRA and em.names >= EXTRA_NAMES else functions.REGISTRY.get(name)
    if function is None:
        hint = (
            f'did you mean "{near}"?' if (near := functions.closest(name)) else "docs/functions.md lists all functions"
        )
        raise ExpressionError("function", f"unknown function {name}", hint)
    if isinstance(function, str):
        return em.assign(f"{em.root('calls')}[{name!r}]({', '.join(arguments)})", risky=True)
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
    how = METERED.get(name, "metered")
    if em.looping or how == "metered_slow":
        return metered_call(em, function, arguments, how)
    return em.once(("call", name, *arguments), lambda: plain_call(em, function, arguments))


def plain_call(em: Emitter, function: functions.Function, arguments: list[Code]) -> Code:
    """In line where the commonest case is short, else a call that looks only at the arguments it must look at."""
    sure = tuple(takes(function, position, code) for position, code in enumerate(arguments))
    called = f"f_{function.name}_{''.join('01'[one] for one in sure)}"
    em.globals[called] = checked(function.name, sure)
    whole = f"{called}({', '.join(arguments)})"
    kinds = ABSENT | (frozenset({function.returns}) if function.returns != "any" else ANY)
    made = inlining.INLINE.get(function.name, no_inlining)(em, arguments, whole)
    if made is None:
        return em.assign(whole, kinds, risky=True, capped=True)
    kinds = kinds - ABSENT if made.there else kinds
    code = em.assign(made.source, kinds, risky=made.risky, capped=True)
    code.as_text, code.chain = made.as_text, made.chain
    if made.unless:
        em.line(f"if {made.unless.format(code)}: {code} = {whole}", risky=True)
    return code


def no_inlining(em: Emitter, arguments: list[Code], whole: str) -> inlining.Inline | None:
    del em, arguments, whole
    return None


def takes(function: functions.Function, position: int, code: Code) -> bool:
    """Is it certain that the function takes this argument as it is?"""
    parameter = function.parameters[min(position, len(function.parameters) - 1)]
    if "absent" in code.kinds and not parameter.takes_absent:
        return False
    if "number" in code.kinds and not code.capped and "any" not in parameter.kinds:
        return code.literal and code.value.__class__ is int and abs(code.value) < 10**9 and "number" in parameter.kinds
    if parameter.whole and "number" in code.kinds:
        return False
    return "any" in parameter.kinds or code.kinds - ABSENT <= parameter.kinds


def metered_call(em: Emitter, function: functions.Function, arguments: list[Code], how: str) -> Code:
    """A call in a loop, or one that takes long: it pays for what it is given and for what it makes."""
    if how not in ("metered", "metered_quick"):
        called = f"f_{function.name}"
        em.globals[called] = function.call
        kinds = ABSENT | (frozenset({function.returns}) if function.returns != "any" else ANY)
        return em.assign(f"{how}({em.work()}, {called}, {', '.join(arguments)})", kinds, risky=True, capped=True)
    em.pay(" + ".join(["1", *filter(None, map(weight, arguments))]) if how == "metered" else "1")
    code = plain_call(em, function, arguments)
    if how == "metered":
        written(em, code)
    return code


def weight(code: Code) -> str:
    """What a call in a loop pays for this argument: a sixteenth of a text, one for each item or key."""
    if code.literal:
        size = len(code.value) >> 4 if code.value.__class__ is str else len(code.value) if code.kinds <= DEEP else 0
        return str(size) if size else ""
    if code.kinds <= TEXT:
        return f"(len({code}) >> 4)"
    if not code.kinds & (TEXT | DEEP):
        return ""
    return f"(len({code}) >> 4 if {code}.__class__ is str else len({code}) if {deep(code)} else 0)"


def deep(code: Code) -> str:
    """A Python test: is it a list or an object?"""
    return f"({code}.__class__ is list or {code}.__class__ is dict)"


def written(em: Emitter, code: Code) -> None:
    """A text that was made in a loop, where many of them may pile up, is paid for."""
    if code.kinds <= TEXT:
        em.pay(f"len({code}) >> 3")
    elif "text" in code.kinds:
        with em.block(f"if {code}.__class__ is str:"):
            em.pay(f"len({code}) >> 3")


METERED = {  # functions whose time depends on something else than the length of their texts and lists
    **dict.fromkeys(("get", "first", "last", "length"), "metered_quick"),
    **dict.fromkeys(("contains", "unique", "group", "where", "find", "json"), "metered_deep"),
    "regex_replace": "metered_slow",
}


EXTRA_NAMES = frozenset({"calls"})
EXTRA = {name: name for name in ("recall", "sequence", "count", "find_all", "issue")}  # of the sandbox only
