"""Numbers: exact decimals, never binary fractions; halves are rounded away from zero."""

import re
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from engine.errors import BadValue
from engine.functions.definition import function
from engine.functions.values import EXACT, Number, Scalar, capped_number, described, printed

if TYPE_CHECKING:
    from babel import Locale

_DIVISION = Context(prec=28, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_LOCALE = re.compile(r"[A-Za-z]{2,3}(?:[_-][A-Za-z0-9]{2,8}){0,3}")
_MAX_PLACES = 40


@function(
    "A number from a text or a number; with `places` rounded or filled up with zeros to exactly so many decimals.",
    (("1299.90",), Decimal("1299.90")),
    ((Decimal("1299.9"), 2), Decimal("1299.90")),
    (("2.345", 2), Decimal("2.35")),
)
def decimal(subject: str | Number, places: int | None = None) -> Number:
    parsed = Decimal(_parsed(subject))
    return parsed if places is None else _quantized(parsed, _places(places))


@function(
    "A whole number from a text or a number; a fraction is an error (`round` takes it away).",
    (("42",), 42),
    ((Decimal("3.00"),), 3),
)
def integer(subject: str | Number) -> int:
    parsed = _parsed(subject)
    if parsed != int(parsed):
        raise BadValue(f"a whole number is needed, got {described(subject)}")
    return int(parsed)


@function(
    "A number from a text (its decimal sign a point, spaces around it left out) or a number, with the digits it has.",
    (("42",), 42),
    ((" 12.50 ",), Decimal("12.50")),
    (("1e5",), 100000),
)
def number(subject: str | Number) -> Number:
    return _parsed(subject)


@function(
    "True or false from itself, from the texts `true`, `false`, `1`, `0` (in any case), or from the numbers 1 and 0.",
    (("TRUE",), True),
    ((0,), False),
    ((True,), True),
)
def boolean(subject: Scalar) -> bool:
    written = printed(subject).strip().lower()
    if written not in ("true", "false", "1", "0"):
        raise BadValue(f"true, false, 1 or 0 is needed, got {described(subject)}")
    return written in ("true", "1")


@function(
    "The sum; of a list of numbers the sum of its items (absent ones are left out).",
    ((Decimal("0.1"), Decimal("0.2")), Decimal("0.3")),
    ((1, 2, 3), 6),
    (([Decimal("19.90"), Decimal("5.10")],), Decimal("25.00")),
)
def add(subject: Number | list[Any], *others: Number) -> Number:
    total: Number = 0
    for term in (*_terms(subject), *others):
        total = total + term if isinstance(total, int) and isinstance(term, int) else EXACT.add(total, term)
    return total


@function("The difference.", ((10, Decimal("0.10")), Decimal("9.90")))
def subtract(subject: Number, other: Number) -> Number:
    if isinstance(subject, int) and isinstance(other, int):
        return subject - other
    return EXACT.subtract(subject, other)


@function("The product.", ((Decimal("1299.90"), 2), Decimal("2599.80")), ((2, 3, 4), 24))
def multiply(subject: Number, *others: Number) -> Number:
    product = subject
    for factor in others:
        both_whole = isinstance(product, int) and isinstance(factor, int)
        product = capped_number(product * factor if both_whole else EXACT.multiply(product, factor))
    return product


@function(
    "The quotient, rounded half up at 28 digits where it has more; division by zero is an error.",
    ((10, 4), Decimal("2.5")),
    ((10, 5), 2),
    ((2, 3), Decimal("0.6666666666666666666666666667")),
)
def divide(subject: Number, other: Number) -> Number:
    if not other:
        raise BadValue("division by zero")
    if isinstance(subject, int) and isinstance(other, int) and subject % other == 0:
        return subject // other
    return _DIVISION.divide(subject, other)


@function(
    "Rounded half up (2.5 is 3, -2.5 is -3) to at most `digits` decimals; zeros are never added (`decimal` adds them).",
    ((Decimal("2.5"),), 3),
    ((Decimal("1299.995"), 2), Decimal("1300.00")),
    ((Decimal("12.5"), 2), Decimal("12.5")),
    ((1250, -2), 1300),
)
def round_(subject: Number, digits: int = 0) -> Number:
    if not -_MAX_PLACES <= digits <= _MAX_PLACES:
        raise BadValue(f"digits are -{_MAX_PLACES} to {_MAX_PLACES}, got {digits}")
    exact = Decimal(subject)
    if -int(exact.as_tuple().exponent) <= digits:
        return subject
    rounded = _quantized(exact, digits)
    return int(rounded) if digits <= 0 else rounded


@function(
    "An amount as people of a locale write it, with the currency's decimals; its space is an ordinary one (U+0020).",
    ((Decimal("3499.9"), "BRL", "pt_BR"), "R$ 3.499,90"),
    ((Decimal("1299.90"), "USD", "en_US"), "$1,299.90"),
    ((-5, "EUR", "de_DE"), "-5,00 €"),
)
def money(subject: Number, currency: str, locale: str) -> str:
    return _written(subject or 0, currency, locale)  # 0 and -0 are one and the same to a cache


@lru_cache(4096)  # a shop has few prices and many views
def _written(subject: Number, currency: str, locale: str) -> str:
    from babel.numbers import format_currency, get_currency_precision

    _check_currency(currency)
    amount = _quantized(Decimal(subject), get_currency_precision(currency))
    with localcontext(EXACT):  # babel quantizes in the thread's context, whose 28 digits are too few
        written = format_currency(amount, currency, locale=_locale(locale))
    return written.replace("\u00a0", " ").replace("\u202f", " ")


def _parsed(value: str | Number) -> Number:
    if not isinstance(value, str):
        return value
    written = value.strip()
    if len(written) > 100 or not _NUMBER.fullmatch(written):
        raise BadValue(f"a number is needed, got {described(value)}")
    exact = capped_number(Decimal(written))
    return int(exact) if written.lstrip("+-").isdecimal() else exact


def _terms(subject: Number | list[Any]) -> list[Number]:
    if not isinstance(subject, list):
        return [subject]
    terms = [term for term in subject if term is not None]
    for term in terms:
        if isinstance(term, bool) or not isinstance(term, int | Decimal):
            raise BadValue(f"a list of numbers is needed, got {described(term)} in it")
        capped_number(term)
    return terms


def _places(places: int) -> int:
    if not 0 <= places <= _MAX_PLACES:
        raise BadValue(f"places are 0 to {_MAX_PLACES}, got {places}")
    return places


def _quantized(exact: Decimal, places: int) -> Decimal:
    return exact.quantize(Decimal((0, (1,), -places)), context=EXACT)


@lru_cache(maxsize=256)
def _check_currency(code: str) -> None:
    from babel import Locale

    if code not in Locale("en").currencies:
        raise BadValue(f"a currency code such as BRL is needed, got {described(code)}")


@lru_cache(maxsize=256)
def _locale(name: str) -> "Locale":
    from babel import Locale, UnknownLocaleError

    if _LOCALE.fullmatch(name):
        try:
            return Locale.parse(name.replace("-", "_"))
        except (UnknownLocaleError, ValueError):
            pass
    raise BadValue(f"a locale such as pt_BR is needed, got {described(name)}")
