"""
A Python function becomes a function of the language; its signature is the one place that says what it takes.

    @function("…one sentence…", ((3, 4), 7))
    def add(subject: Number, *others: Number) -> Number: ...

`str` takes a text, `Number` a number, `int` a whole number; `bool`, `list[Any]`, `dict[str, Any]` and `Any` what they
say; a union takes either. `| None` takes an absent value too. Elsewhere an absent argument never reaches the body:
where the parameter has a default it counts as left out, where it has none the result is absent.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from engine.errors import BadValue
from engine.functions.values import MAX_TEXT_BYTES, capped, described, in_range, json_text

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    kinds: frozenset[str]  # of any text number boolean list object
    required: bool
    variadic: bool
    default: str = ""  # as it is written in an expression; empty where there is none
    whole: bool = False  # a number without a fraction is needed
    takes_absent: bool = False  # an absent value reaches the function; elsewhere see the module

    @property
    def needed(self) -> str:
        """What to write, for an error: `a text or a list`."""
        names = {
            "text": "a text",
            "number": "a whole number" if self.whole else "a number",
            "boolean": "a boolean",
            "list": "a list",
            "object": "an object",
        }
        wanted = [name for kind, name in names.items() if kind in self.kinds] or ["a value"]
        return " or ".join(filter(None, [", ".join(wanted[:-1]), wanted[-1]]))


@dataclass(frozen=True, slots=True)
class Example:
    args: tuple[Any, ...]
    result: Any  # None: absent
    expression: str  # JMESPath, every argument a literal


@dataclass(frozen=True, slots=True)
class Function:
    """`call` takes positional arguments only, gives None for absent, and raises nothing but BadValue."""

    name: str
    call: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    returns: str  # a kind
    takes_absent: bool  # an absent subject reaches the function
    summary: str
    examples: tuple[Example, ...]
    theme: str  # the module it stands in, a key of THEMES
    body: Callable[..., Any] = field(repr=False, compare=False)  # without the looks at its arguments and its result
    defaults: tuple[Any, ...] = field(repr=False, compare=False)

    @property
    def least_arguments(self) -> int:
        return sum(parameter.required for parameter in self.parameters)

    @property
    def most_arguments(self) -> int | None:
        return None if self.parameters[-1].variadic else len(self.parameters)


registered: dict[str, Function] = {}


def function(summary: str, *examples: tuple[tuple[Any, ...], Any]) -> Callable[[F], F]:
    """Register the function under its own name (a trailing `_` is left out); the function itself stays as it is."""

    def register(body: F) -> F:
        name = body.__name__.rstrip("_")
        signature = inspect.signature(body)
        parameters = tuple(_parameter(each) for each in signature.parameters.values())
        defaults = tuple(each.default for each in signature.parameters.values())
        registered[name] = Function(
            name=name,
            call=_guarded(name, body, parameters, defaults),
            parameters=parameters,
            returns=_returned(signature.return_annotation),
            takes_absent=parameters[0].takes_absent,
            summary=summary,
            examples=tuple(Example(args, result, expression(name, args)) for args, result in examples),
            theme=body.__module__,
            body=body,
            defaults=defaults,
        )
        return body

    return register


def expression(name: str, args: Sequence[Any]) -> str:
    return f"{name}({', '.join(literal(arg) for arg in args)})"


def literal(value: Any) -> str:
    """A value as JMESPath writes it: 'text', or JSON between backticks."""
    if isinstance(value, str) and "\\" not in value:
        return "'" + value.replace("'", "\\'") + "'"
    return "`" + json_text(value).replace("`", "\\`") + "`"


_SHORT = MAX_TEXT_BYTES // 4  # characters; no text of fewer is beyond the cap
_SMALL = 10**15  # whole numbers below it are in range

_KINDS: dict[Any, str] = {
    str: "text", int: "number", Decimal: "number", bool: "boolean", list: "list", dict: "object", Any: "any",
}  # fmt: skip


def _parameter(parameter: inspect.Parameter) -> Parameter:
    types = _types(parameter.annotation)
    variadic = parameter.kind is inspect.Parameter.VAR_POSITIONAL
    has_default = parameter.default is not inspect.Parameter.empty
    return Parameter(
        name=parameter.name,
        kinds=frozenset(_KINDS[each] for each in types - {NoneType}),
        required=not has_default and not variadic,
        variadic=variadic,
        default=literal(parameter.default) if has_default and parameter.default is not None else "",
        whole=int in types and Decimal not in types,
        takes_absent=NoneType in types,
    )


def _types(annotation: Any) -> frozenset[Any]:
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return frozenset(get_origin(part) or part for part in parts)


def _returned(annotation: Any) -> str:
    kinds = {_KINDS[each] for each in _types(annotation) - {NoneType}}
    return kinds.pop() if len(kinds) == 1 else "any"


def _guarded(
    name: str, body: Callable[..., Any], parameters: Sequence[Parameter], defaults: Sequence[Any]
) -> Callable[..., Any]:
    takers = [_taker(parameter) for parameter in parameters]
    quick = [_quick(parameter) for parameter in parameters]
    least = sum(parameter.required for parameter in parameters)
    variadic = parameters[-1].variadic
    last = len(parameters) - 1

    def call(*args: Any) -> Any:
        count = len(args)
        if count < least or (count > last + 1 and not variadic):
            raise BadValue(f"{name}: {_arity(least, None if variadic else last + 1)} needed, got {count}")
        try:
            values = []
            for position, value in enumerate(args):
                index = position if position < last else last
                if value.__class__ in quick[index]:
                    values.append(value)
                elif value is not None or parameters[index].takes_absent:
                    values.append(takers[index](value))
                elif parameters[index].required or parameters[index].variadic:
                    return None
                else:
                    values.append(defaults[index])
            result = body(*values)
            if result.__class__ is str and len(result) < _SHORT:
                return result
            return capped(result)
        except BadValue as error:
            raise type(error)(f"{name}: {error.reason}") from None
        except UnicodeEncodeError:
            raise BadValue(f"{name}: the text has a character that is not valid Unicode") from None
        except RecursionError:
            raise BadValue(f"{name}: the value is nested too deeply") from None

    return call


@lru_cache(maxsize=4096)
def checked(name: str, sure: tuple[bool, ...]) -> Callable[..., Any]:
    """
    The function for a call with so many arguments, of which it looks only at those that are not `sure`: of a kind that
    it takes, in its range. Their count is right.
    """
    function = registered[name]
    return _written(name, function.body, function.parameters, function.defaults, sure)


@lru_cache(maxsize=64)
def guarded_as(name: str, body: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """A part of the function `name`, which takes some of its parameters; its errors are those of the whole."""
    function = registered[name]
    at = [[each.name for each in function.parameters].index(one) for one in names]
    parameters, defaults = [function.parameters[one] for one in at], [function.defaults[one] for one in at]
    return _written(name, body, parameters, defaults, (False,) * len(at))


def _written(
    name: str, body: Callable[..., Any], parameters: Sequence[Parameter], defaults: Sequence[Any], sure: Sequence[bool]
) -> Callable[..., Any]:
    """What `_guarded` does, written out for one count of arguments."""
    given: dict[str, Any] = {"body": body, "capped": capped, "BadValue": BadValue}
    last = len(parameters) - 1
    names = [f"a{position}" for position in range(len(sure))]
    lines = [f"def call({', '.join(names)}):", " try:"]
    for position, (value, known) in enumerate(zip(names, sure, strict=True)):
        if known:
            continue
        index = min(position, last)
        parameter, quick = parameters[index], _quick(parameters[index])
        given[f"take{index}"], given[f"quick{index}"] = _taker(parameter), quick
        given[f"default{index}"] = defaults[index]
        if len(quick) == 1:
            (given[f"quick{index}"],) = quick
            lines.append(f"  if {value}.__class__ is not quick{index}:")
        else:
            lines.append(f"  if {value}.__class__ not in quick{index}:")
        if parameter.takes_absent:
            lines.append(f"   if {value} is not None: {value} = take{index}({value})")
        elif parameter.required or parameter.variadic:
            lines += [f"   if {value} is None: return None", f"   {value} = take{index}({value})"]
        else:
            lines.append(f"   {value} = default{index} if {value} is None else take{index}({value})")
    lines += [
        f"  result = body({', '.join(names)})",
        f"  if result.__class__ is str and len(result) < {_SHORT}: return result",
        "  return capped(result)",
        " except BadValue as error:",
        f"  raise type(error)(f'{name}: {{error.reason}}') from None",
        " except UnicodeEncodeError:",
        f"  raise BadValue('{name}: the text has a character that is not valid Unicode') from None",
        " except RecursionError:",
        f"  raise BadValue('{name}: the value is nested too deeply') from None",
    ]
    exec("\n".join(lines), given)
    call: Callable[..., Any] = given["call"]
    return call


def _quick(parameter: Parameter) -> frozenset[type]:
    """The classes that go to the body as they are; numbers are looked at first."""
    if "any" in parameter.kinds:
        return frozenset({str, bool, list, dict})
    classes: dict[str, type] = {"text": str, "boolean": bool, "list": list, "object": dict}
    return frozenset(classes[kind] for kind in parameter.kinds if kind in classes)


def _taker(parameter: Parameter) -> Callable[[Any], Any]:
    """Argument → the value that the body gets, or BadValue where it is of a wrong type."""
    kinds, needed, whole = parameter.kinds, parameter.needed, parameter.whole
    where = "" if parameter.name == "subject" else f" for `{parameter.name}`"

    takes_any, takes_numbers, takes_decimals = "any" in kinds, "number" in kinds, "number" in kinds and not whole

    def take(value: Any) -> Any:
        if value is None or takes_any:
            return value
        if value.__class__ is int:
            if takes_numbers and -_SMALL < value < _SMALL:
                return value
        elif value.__class__ is Decimal and takes_decimals and in_range(value):
            return value
        kind = _kind(value)
        if kind not in kinds:
            raise BadValue(f"{needed} is needed{where}, got {described(value)}")
        if kind != "number":
            return value
        if not in_range(value):
            raise BadValue(f"{needed} is needed{where}, got {described(value)}")
        if whole and isinstance(value, Decimal):
            if value != value.to_integral_value():
                raise BadValue(f"{needed} is needed{where}, got {described(value)}")
            return int(value)
        return value

    return take


def _kind(value: Any) -> str:
    """The kind of a value; empty for what is no JSON value (a float is none: numbers are exact)."""
    found = _KINDS.get(type(value))
    if found is not None:
        return found
    return next((kind for each, kind in _KINDS.items() if each is not Any and isinstance(value, each)), "")


def _arity(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more arguments are"
    if least == most:
        return f"{least} argument{'s are' if least > 1 else ' is'}"
    return f"{least} to {most} arguments are"
