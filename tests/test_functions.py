"""The registry: every example, absence, wrong types, exactness, caps, and the page for people."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jmespath
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BadValue
from engine.functions import REGISTRY, Function, closest
from engine.functions.reference import reference

PAGE = Path(__file__).parent.parent / "docs" / "functions.md"

NAMES = """
default coalesce get where find sort unique first last length present decimal integer number boolean string list
add subtract multiply divide round lower upper trim title slug truncate slice replace split join contains starts_with
ends_with regex regex_replace date datetime epoch epoch_ms add_time utc_offset money md5 sha1 sha256 base64 uuid5
json urlencode html url_part pick omit merge entries flatten keys values group chunk
"""

MEGABYTE = "a" * 1_000_000


def call(name: str, *args: Any) -> Any:
    return REGISTRY[name].call(*args)


def refusal(name: str, *args: Any) -> str:
    with pytest.raises(BadValue) as caught:
        call(name, *args)
    return str(caught.value)


every_function = pytest.mark.parametrize("function", REGISTRY.values(), ids=REGISTRY)
every_example = pytest.mark.parametrize(
    ("function", "example"),
    [(function, example) for function in REGISTRY.values() for example in function.examples],
    ids=lambda value: getattr(value, "expression", ""),
)


# What holds for all of them


def test_the_registry_holds_exactly_the_functions_of_the_language() -> None:
    assert sorted(REGISTRY) == sorted(NAMES.split())


@every_example
def test_every_example_gives_what_it_says(function: Function, example: Any) -> None:
    result = function.call(*example.args)
    assert (repr(result), type(result)) == (repr(example.result), type(example.result))


@every_example
def test_every_example_is_an_expression_with_the_same_arguments(function: Function, example: Any) -> None:
    node = jmespath.compile(example.expression).parsed
    assert (node["type"], node["value"]) == ("function_expression", function.name)
    assert [child["value"] for child in node["children"]] == [as_stock_reads(arg) for arg in example.args]


def as_stock_reads(value: Any) -> Any:
    match value:
        case Decimal():
            return float(value)
        case list():
            return [as_stock_reads(item) for item in value]
        case dict():
            return {key: as_stock_reads(item) for key, item in value.items()}
    return value


@every_function
def test_every_function_has_a_sentence_and_an_example(function: Function) -> None:
    assert function.examples
    assert function.summary.endswith(".")


def test_only_these_functions_take_an_absent_subject() -> None:
    assert [name for name, function in REGISTRY.items() if function.takes_absent] == [
        "default",
        "coalesce",
        "present",
        "merge",
    ]


@every_function
def test_an_absent_subject_gives_absent(function: Function) -> None:
    if not function.takes_absent:
        for example in function.examples:
            assert function.call(None, *example.args[1:]) is None


@every_function
def test_an_absent_argument_gives_absent_or_counts_as_left_out(function: Function) -> None:
    for example in function.examples:
        for position in range(1, len(example.args)):
            before, after = example.args[:position], example.args[position + 1 :]
            parameter = function.parameters[min(position, len(function.parameters) - 1)]
            if parameter.required or parameter.variadic:
                assert parameter.takes_absent or function.call(*before, None, *after) is None
            else:
                assert called(function, [*before, None]) == called(function, list(before))


@every_function
def test_a_subject_of_a_wrong_type_is_refused_with_what_was_got(function: Function) -> None:
    wrong = {"text": "text", "number": 5, "boolean": True, "list": ["secret"], "object": {"secret": 1}}
    kinds = function.parameters[0].kinds
    for kind, value in wrong.items():
        if kind not in kinds and "any" not in kinds:
            text = refusal(function.name, value, *function.examples[0].args[1:])
            assert text.startswith(f"{function.name}: ")
            assert " is needed, got " in text
            assert "secret" not in text


@every_function
def test_a_wrong_number_of_arguments_is_refused(function: Function) -> None:
    assert "needed, got 0" in refusal(function.name)
    if function.most_arguments is not None:
        count = function.most_arguments + 1
        assert f"needed, got {count}" in refusal(function.name, *["a"] * count)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**45), 10**45)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=30)
)
USEFUL: dict[str, st.SearchStrategy[Any]] = {
    "text": st.sampled_from(
        ["", "a", "id", "São Paulo", "12.50", "-1e5", "true", "2026-01-28T12:00:00.5-03:00", "0001-01-01", "9999-12-31",
         "9999-12-31T23:59:59Z", "%Y%j%V%:z", "Pacific/Apia", "UTC", "15m", "-999999d", "BRL", "pt_BR", "(a)|b", "(",
         "\\1", "\ud800", "\ud83d\ude00", "bytes", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "../etc/passwd", "Etc"]
    ) | st.text(max_size=20),
    "number": st.integers(-3, 5) | st.decimals("-1e13", "1e13", places=3) | st.sampled_from([10**40, Decimal("1E-40")]),
    "boolean": st.booleans(),
}  # fmt: skip
JSON = st.recursive(
    SCALARS | USEFUL["text"] | USEFUL["number"],
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(USEFUL["text"], inner, max_size=4),
    max_leaves=8,
)
USEFUL["list"] = st.lists(JSON, max_size=4) | st.lists(USEFUL["text"], max_size=4) | st.lists(USEFUL["number"])
USEFUL["object"] = st.dictionaries(USEFUL["text"], JSON, max_size=4)
USEFUL["any"] = JSON


POOL = st.fixed_dictionaries({kind: st.lists(values, min_size=4, max_size=4) for kind, values in USEFUL.items()})


def argument_lists(function: Function, pool: dict[str, list[Any]]) -> Iterator[list[Any]]:
    """Fitting ones of every length and kind, then with one of any type in each place."""
    places = range(len(function.parameters))
    for turn in range(3):
        kinds = [sorted(parameter.kinds) for parameter in function.parameters]
        fitting = [pool[kinds[place][turn % len(kinds[place])]][(place + turn) % 4] for place in places]
        yield from (fitting[:count] for count in range(function.least_arguments, len(fitting) + 1))
        yield from ([*fitting[:place], pool["any"][turn], *fitting[place + 1 :]] for place in places)


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(POOL)
def test_whatever_goes_in_only_a_json_value_or_a_bad_value_comes_out(pool: dict[str, list[Any]]) -> None:
    for function in REGISTRY.values():
        for args in argument_lists(function, pool):
            result, reason = called(function, args)
            assert is_json(result), (function.name, args)
            assert reason is None or (reason.startswith(f"{function.name}: ") and len(reason) < 300)


def called(function: Function, args: list[Any]) -> tuple[Any, str | None]:
    try:
        return function.call(*args), None
    except BadValue as error:
        return None, error.reason


def is_json(value: Any) -> bool:
    match value:
        case list():
            return all(map(is_json, value))
        case dict():
            return all(isinstance(key, str) and is_json(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | Decimal | str)


@pytest.mark.parametrize("number", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), 1.5])
def test_what_is_no_exact_number_is_refused(number: Any) -> None:
    for name in ("add", "string", "round", "epoch", "json", "sort"):
        assert refusal(name, [number, number] if name == "sort" else number).startswith(f"{name}: ")


# Errors


WEEKS = 'date: a date such as 2026-01-28T12:00:00Z is needed, got text "2026-W05-3T10:30:45Z"'


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("money", ["12,5", "BRL", "pt_BR"], 'money: a number is needed, got text "12,5"'),
        ("money", [5, "REAL", "pt_BR"], 'money: a currency code such as BRL is needed, got text "REAL"'),
        ("money", [5, "BRL", "xx_YY"], 'money: a locale such as pt_BR is needed, got text "xx_YY"'),
        ("lower", [["a"]], "lower: a text is needed, got a list"),
        ("truncate", ["a", Decimal("1.5")], "truncate: a whole number is needed for `length`, got number 1.5"),
        ("truncate", ["a", 1, "words"], "truncate: `unit` is 'characters' or 'bytes', got text \"words\""),
        ("truncate", ["a"], "truncate: 2 to 3 arguments are needed, got 1"),
        ("length", [True], "length: a text, a list or an object is needed, got boolean true"),
        ("number", ["3.499,90 and then some more"], 'number: a number is needed, got text "3.499,90 and then s…"'),
        ("integer", ["1.5"], 'integer: a whole number is needed, got text "1.5"'),
        ("boolean", ["sim"], 'boolean: true, false, 1 or 0 is needed, got text "sim"'),
        ("divide", [1, 0], "divide: division by zero"),
        ("join", [[["a"]], ","], "join: a text, a number or a boolean is needed, got a list"),
        ("sort", [[1, "a"]], "sort: all numbers or all texts are needed, got both"),
        ("where", [[], "a..b", 1], "where: a path such as 'id' or 'product.id' is needed, got text \"a..b\""),
        ("date", ["28/01/2026"], 'date: a date such as 2026-01-28T12:00:00Z is needed, got text "28/01/2026"'),
        ("date", ["2026-02-30"], 'date: a moment in the years 1 to 9999 is needed, got text "2026-02-30"'),
        ("date", ["2026-W05-3T10:30:45Z"], WEEKS),  # as Python would read it
        ("date", [0, "%Y", "Sao_Paulo"], 'date: a time zone such as America/Sao_Paulo is needed, got text "Sao_Paulo"'),
        ("add_time", [0, "1w"], 'add_time: a duration such as 15m or -1d is needed, got text "1w"'),
        ("regex", ["a", "(?=a)"], "regex: the pattern can't be used: invalid perl operator: (?="),
        ("flatten", [{"a.b": 1, "a": {"b": 2}}], 'flatten: two values for the key text "a.b"'),
        ("md5", ["\ud800"], "md5: the text has a character that is not valid Unicode"),
    ],
)
def test_an_error_says_what_is_needed_and_what_was_got(name: str, args: list[Any], text: str) -> None:
    assert refusal(name, *args) == text


def test_a_bad_pattern_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    refusal("regex", "a", "(")
    assert capfd.readouterr() == ("", "")


# Exact numbers


def test_numbers_never_print_an_exponent() -> None:
    written = {"1E+5": "100000", "1E-7": "0.0000001", "12.50": "12.50", "1E+40": "1" + "0" * 40, "0E+3": "0"}
    assert {text: call("string", Decimal(text)) for text in written} == {**written, "0E+3": "0"}
    assert call("json", [Decimal(text) for text in written]) == f"[{','.join(written.values())}]"
    assert repr(call("round", 123456, -5)) == "100000"
    assert repr(call("number", "1e5")) == "100000"


def test_halves_are_rounded_away_from_zero() -> None:
    given_and_rounded = {"0.5": 1, "1.5": 2, "2.5": 3, "-2.5": -3, "2.4999": 2}
    assert {text: call("round", Decimal(text)) for text in given_and_rounded} == given_and_rounded
    assert call("money", Decimal("0.125"), "USD", "en_US") == "$0.13"
    assert call("decimal", Decimal("-0.125"), 2) == Decimal("-0.13")


def test_sums_and_products_are_exact_or_refused() -> None:
    assert call("add", Decimal("0.1"), Decimal("0.2")) == Decimal("0.3")
    assert str(call("multiply", 3, Decimal("0.10"))) == "0.30"
    many = Decimal("1.2345678901234567890123456789")
    assert refusal("multiply", many, many).endswith("more than 40 digits or an exponent beyond 40; use round")


def test_money_writes_ordinary_spaces() -> None:
    assert call("money", Decimal("3499.90"), "BRL", "pt_BR") == "R$ 3.499,90"
    assert call("money", Decimal("1234.5"), "EUR", "fr_FR") == "1 234,50 €"
    assert call("money", 10**39, "JPY", "en_US").count(",") == 13


def test_money_writes_a_zero_without_a_sign_whatever_was_written_before_it() -> None:
    assert [call("money", zero, "CHF", "de_CH") for zero in (Decimal("-0.00"), 0, Decimal("-0"))] == ["CHF 0.00"] * 3


# Equality is strict, `get` compares as text


def test_equality_tells_types_apart() -> None:
    assert call("unique", [1, True, "1", Decimal("1.0"), [1], [True], {"a": 1}, {"a": 1}]) == [
        1, True, "1", [1], [True], {"a": 1},
    ]  # fmt: skip
    assert call("contains", [["boolean", 1], True], 1) is False
    assert call("where", [{"a": 1}, {"a": True}, {"a": "1"}], "a", True) == [{"a": True}]
    assert call("get", {"1": "a", "true": "b", "1.50": "c"}, Decimal("1.50")) == "c"
    assert call("get", {"1": "a", "true": "b"}, True) == "b"


def test_items_without_a_value_at_the_path_are_kept() -> None:
    items = [{"n": 1}, {"n": 2}, {"id": "b"}, {"id": "a"}, {"id": "b", "n": 3}]
    assert call("sort", items, "id") == [items[3], items[2], items[4], items[0], items[1]]
    assert call("unique", items, "id") == items[:4]
    assert call("group", items, "id") == [
        {"items": items[:2]},
        {"key": "b", "items": [items[2], items[4]]},
        {"key": "a", "items": [items[3]]},
    ]


# Text


def test_truncate_by_bytes_never_splits_a_character() -> None:
    text = "aé€😀"
    assert [call("truncate", text, length, "bytes") for length in range(11)] == [
        "", "a", "a", "aé", "aé", "aé", "aé€", "aé€", "aé€", "aé€", "aé€😀",
    ]  # fmt: skip
    assert call("truncate", "\ud83d\ude00", 1) == ""


def test_regex_takes_linear_time_on_a_pattern_that_makes_others_explode() -> None:
    assert call("regex", "a" * 50_000 + "!", "^(a+)+$") is None


# Time


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("2026-01-28T12:00:00Z", "2026-01-28T12:00:00.000Z"),
        ("2026-01-28 12:00", "2026-01-28T12:00:00.000Z"),
        ("2026-01-28T09:00:00.123456789-0300", "2026-01-28T12:00:00.123Z"),
        ("2026-01-28T09:00:00-03:00", "2026-01-28T12:00:00.000Z"),
        ("2026-01-28T17:45:00+05:45", "2026-01-28T12:00:00.000Z"),
        ("2026-01-28", "2026-01-28T00:00:00.000Z"),
        (99_999_999_999, "5138-11-16T09:46:39.000Z"),
        (100_000_000_000, "1973-03-03T09:46:40.000Z"),
        (Decimal("1769601600.25"), "2026-01-28T12:00:00.250Z"),
        (-1, "1969-12-31T23:59:59.000Z"),
    ],
)
def test_a_moment_is_a_text_or_seconds_or_milliseconds(subject: Any, expected: str) -> None:
    assert call("datetime", subject) == expected


@pytest.mark.parametrize("offset", ["-03:60", "+03:99", "+24:00", "-03:0x", "+3:000", "-03.00", "-03: 0"])
def test_an_offset_is_of_hours_and_minutes_below_a_day(offset: str) -> None:
    assert refusal("epoch", f"2026-01-28T09:00:00{offset}").endswith('is needed, got text "2026-01-28T09:00:00…"')


def test_every_code_of_a_format() -> None:
    codes = "%Y %y %m %d %H %I %M %S %f %p %j %a %A %b %B %u %G %V %z %:z %%"
    assert call("date", "2027-01-01T15:04:05.678Z", codes, "America/Sao_Paulo") == (
        "2027 27 01 01 12 12 04 05 678000 PM 001 Fri Friday Jan January 5 2026 53 -0300 -03:00 %"
    )
    assert 'text "%Q" in `format` is none of %Y' in refusal("date", 0, "%Q")
    assert 'text "%" in `format`' in refusal("date", 0, "at 5%")


def test_a_time_zone_follows_its_summer_time() -> None:
    assert call("utc_offset", "2026-01-28", "Europe/Berlin") == "+01:00"
    assert call("utc_offset", "2026-07-28", "Europe/Berlin") == "+02:00"
    assert call("utc_offset", "2026-07-28", "Asia/Kathmandu") == "+05:45"


# Caps


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("upper", [MEGABYTE + "a"]),
        ("html", ["<" * 300_000]),
        ("base64", [MEGABYTE]),
        ("replace", [MEGABYTE, "a", MEGABYTE]),
        ("regex_replace", [MEGABYTE[:5000], "a", MEGABYTE]),
        ("join", [[MEGABYTE, MEGABYTE], ""]),
        ("join", [["a"] * 1000, MEGABYTE]),
        ("slug", ["a " * 1000, MEGABYTE]),
        ("split", [MEGABYTE, "a"]),
        ("flatten", [{MEGABYTE[:500_000]: dict.fromkeys("abc", 1)}]),
        ("urlencode", [dict.fromkeys("abcd", MEGABYTE[:300_000])]),
        ("json", [[MEGABYTE[:300_000]] * 4]),
        ("chunk", [[0] * 100_001, 1]),
        ("entries", [dict.fromkeys(map(str, range(100_001)))]),
        ("multiply", [10**40, 10]),
        ("divide", [Decimal("1E-40"), 10]),
        ("number", ["1e41"]),
        ("date", [0, "%B" * 501]),
        ("regex", ["a", "a" * 1001]),
    ],
)
def test_what_is_beyond_a_cap_is_refused(name: str, args: list[Any]) -> None:
    assert refusal(name, *args).startswith(f"{name}: ")


def test_what_is_shared_many_times_over_is_refused_before_it_is_written() -> None:
    value: list[Any] = ["a"]
    for _ in range(60):
        value = [value, value]
    assert refusal("json", value) == "json: the result is longer than 1 MB"


def test_what_is_nested_without_end_is_refused() -> None:
    value: list[Any] = []
    for _ in range(5_000):
        value = [value]
    assert refusal("json", value) == "json: the value is nested too deeply"
    assert refusal("unique", [value]) == "unique: the value is nested too deeply"


# The page, the names, the start-up


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("trunctate", "truncate"), ("to_string", "string"), ("sum", "add"), ("Lower", "lower"), ("ends-with", "ends_with"),
     ("xyzzy", None)],
)  # fmt: skip
def test_a_name_that_none_has_leads_to_the_one_that_was_meant(wrong: str, right: str | None) -> None:
    assert closest(wrong) == right


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "python -m engine.functions.reference > docs/functions.md"


@every_function
def test_the_page_names_every_function_with_its_examples(function: Function) -> None:
    page = reference()
    assert f"### {function.name}\n" in page
    assert all(f"\n{example.expression} → " in page for example in function.examples)


def test_the_registry_loads_without_babel() -> None:
    code = "import engine.functions, sys; sys.exit('babel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
