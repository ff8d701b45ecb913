"""What all functions agree on: exact numbers, how a value is printed, named in an error and compared, and the caps."""

import json
import threading
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Any, TypeAlias

from engine.errors import BadValue, TooMuch

Number: TypeAlias = int | Decimal
Scalar: TypeAlias = str | int | Decimal | bool

MAX_TEXT_BYTES = 1_000_000
MAX_ITEMS = 100_000
MAX_DIGITS = 40
MAX_EXPONENT = 40
MAX_COMPARED = 5_000_000  # values within one that is compared
_MAX_INTEGER: int = 10**MAX_EXPONENT
_SMALL = 10**15

# Wide enough that sums and products of numbers within the caps are exact; what comes out is capped afterwards.
EXACT = Context(prec=200, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])


def in_range(number: Number) -> bool:
    if isinstance(number, int):
        return -_MAX_INTEGER <= number <= _MAX_INTEGER
    written = str(number)
    if len(written) <= MAX_DIGITS and "E" not in written:  # nearly all; much quicker than counting its digits
        return number.is_finite()
    return number.is_finite() and len(number.as_tuple().digits) <= MAX_DIGITS and abs(number.adjusted()) <= MAX_EXPONENT


def capped_number(number: Number) -> Number:
    """The number in a form that prints without an exponent, or BadValue where it is beyond the caps."""
    if isinstance(number, Decimal) and "E" in str(number):
        number = _without_exponent(number)
    if not in_range(number):
        raise BadValue(f"the number has more than {MAX_DIGITS} digits or an exponent beyond {MAX_EXPONENT}; use round")
    return number


def _without_exponent(number: Decimal) -> Number:
    if not number and number.adjusted() < -MAX_EXPONENT:
        return 0
    return int(number) if in_range(number) and int(number.as_tuple().exponent) > 0 else number


def capped_text(text: str) -> str:
    if len(text) * 4 > MAX_TEXT_BYTES and len(text.encode()) > MAX_TEXT_BYTES:
        raise TooMuch("the text is longer than 1 MB")
    return text


def capped_items(count: int) -> None:
    if count > MAX_ITEMS:
        raise TooMuch(f"more than {MAX_ITEMS:,} items")


def capped(value: Any) -> Any:
    """A function's result, or BadValue where it is beyond the caps; what lies in a list or object was capped before."""
    if value.__class__ is int and -_SMALL < value < _SMALL:
        return value
    match value:
        case None | bool():
            return value
        case str():
            return capped_text(value)
        case int() | Decimal():
            return capped_number(value)
        case list() | dict():
            capped_items(len(value))
    return value


class Budget:
    """Counts characters while a result is built, so that what is too long is refused before it fills memory."""

    def __init__(self) -> None:
        self._left = MAX_TEXT_BYTES

    @property
    def spent(self) -> int:
        return MAX_TEXT_BYTES - self._left

    def spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise TooMuch("the result is longer than 1 MB")


def plain(number: Number) -> str:
    """All digits, never an exponent: 100000, 0.0000001, 12.50."""
    if not in_range(number):
        raise BadValue(f"the number has more than {MAX_DIGITS} digits or an exponent beyond {MAX_EXPONENT}")
    return str(number) if isinstance(number, int) else format(number, "f")


def printed(value: Any) -> str:
    """A scalar as `{{ }}` prints it; a list or an object has no text."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return plain(value)
    raise BadValue(f"a text, a number or a boolean is needed, got {described(value)}")


def described(value: Any) -> str:
    """What was got, for an error: scalars are quoted up to 20 characters, lists and objects never."""
    match value:
        case None:
            return "nothing"
        case str():
            return "text " + json.dumps(_shortened(value), ensure_ascii=False)
        case bool():
            return f"boolean {printed(value)}"
        case int() | Decimal():
            return f"number {_shortened(plain(value))}" if in_range(value) else "a number beyond the caps"
        case list():
            return "a list"
        case dict():
            return "an object"
    return f"a {type(value).__name__}"


def _shortened(text: str) -> str:
    shown = text if len(text) <= 20 else text[:19] + "…"
    return shown.encode(errors="replace").decode()


class Paying(threading.local):
    """Who pays for comparing whole lists and objects: the steps that are left to a loop of this thread."""

    work: list[int] | None = None


PAYING = Paying()


def identity(value: Any) -> Any:
    """
    A hashable stand-in, equal for the same JSON value: 1 and 1.0 are the same, 1 and true or '1' are not.

    BadValue for one in which the same list or object is so often that it is too large.
    """
    if value.__class__ not in (list, dict):
        return _identity(value, [0])
    left = [MAX_COMPARED]
    found = _identity(value, left)
    if PAYING.work is not None:
        PAYING.work[0] -= MAX_COMPARED - left[0]
        _paid(PAYING.work)
    return found


def _identity(value: Any, left: list[int]) -> Any:
    match value:
        case bool():
            return ("boolean", value)
        case list():
            left[0] -= len(value) + 1
            _paid(left)
            return ("list", *(_identity(item, left) for item in value))
        case dict():
            left[0] -= len(value) + 1
            _paid(left)
            return frozenset((key, _identity(item, left)) for key, item in value.items())
        case Decimal() if not value.is_finite():
            return ("not a number", str(value))
    return value


def _paid(left: list[int]) -> None:
    if left[0] < 0:
        raise TooMuch("lists or objects that are too large to compare")


def json_text(value: Any) -> str:
    """Compact JSON: exact decimals without exponents, key order kept, non-ASCII characters as they are."""
    parts: list[str] = []
    budget = Budget()
    try:
        _write_json(value, parts, budget)
    finally:
        if PAYING.work is not None:
            PAYING.work[0] -= budget.spent >> 3
    return "".join(parts)


def _write_json(value: Any, parts: list[str], budget: Budget) -> None:
    match value:
        case None:
            _put("null", parts, budget)
        case str():
            _put(json.dumps(value, ensure_ascii=False), parts, budget)
        case bool() | int() | Decimal():
            _put(printed(value), parts, budget)
        case list():
            separator = "["
            for item in value:
                _put(separator, parts, budget)
                _write_json(item, parts, budget)
                separator = ","
            _put("]" if value else "[]", parts, budget)
        case dict():
            separator = "{"
            for key, item in value.items():
                _put(f"{separator}{json.dumps(key, ensure_ascii=False)}:", parts, budget)
                _write_json(item, parts, budget)
                separator = ","
            _put("}" if value else "{}", parts, budget)
        case _:
            raise BadValue(f"a JSON value is needed, got {described(value)}")


def _put(text: str, parts: list[str], budget: Budget) -> None:
    budget.spend(len(text))
    parts.append(text)
