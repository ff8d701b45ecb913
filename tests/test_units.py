from __future__ import annotations

from typing import Any

import pytest

from engine.spec import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("10s", 10), ("15m", 900), ("4h", 14_400), ("7d", 604_800), ("1.5s", 1.5), (" 0s ", 0)],
)
def test_a_duration_has_its_unit(text: str, seconds: float) -> None:
    assert units.duration(text) == seconds


@pytest.mark.parametrize(
    "text", [10, 1.5, "10", "s", "", "-1s", "10 s", "10S", "1h30m", "1e3s", "10min", None, True, "１0s", "5s\n5s"]
)
def test_a_duration_without_a_unit_says_how_it_is_written(text: Any) -> None:
    with pytest.raises(units.UnitError) as raised:
        units.duration(text)
    assert str(raised.value) == f"{text!r} is not a duration; write it as 250ms, 10s, 15m, 4h or 7d"


def test_a_size_is_decimal_or_binary_as_written() -> None:
    assert [units.size(text) for text in ("200B", "6KB", "1MB", "2GB", "512KiB", "1MiB", "1GiB")] == [
        200, 6000, 1_000_000, 2_000_000_000, 524_288, 1_048_576, 1_073_741_824,
    ]  # fmt: skip


@pytest.mark.parametrize("text", [100, "100", "1.5MB", "1mb", "1 MB", "-1KB", "MB", None, ""])
def test_a_size_without_a_unit_says_how_it_is_written(text: Any) -> None:
    with pytest.raises(units.UnitError) as raised:
        units.size(text)
    assert str(raised.value) == f"{text!r} is not a size; write it as 200B, 6KB, 512KiB or 1MB"


def test_a_rate_is_uses_in_a_time() -> None:
    assert [units.rate(text) for text in ("120/1m", "10/1s", "1/24h", "3/250ms")] == [
        (120, 60), (10, 1), (1, 86_400), (3, 0.25),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", [120, "120", "0/1m", "-1/1m", "1.5/1s", "120/", "/1m", "120/m", "120/1", "120 / 1m", None]
)
def test_a_rate_that_is_none_says_how_it_is_written(text: Any) -> None:
    with pytest.raises(units.UnitError, match=r"write it as (120/1m or 10/1s|250ms, 10s, 15m, 4h or 7d)"):
        units.rate(text)


@pytest.mark.parametrize("text", ["1/0s", "1/0ms", "5/0.0h"])
def test_a_rate_in_no_time_is_none(text: str) -> None:
    with pytest.raises(units.UnitError, match="is not a rate"):
        units.rate(text)


def test_statuses_are_one_a_class_a_range_or_a_list() -> None:
    def fit(spec: Any) -> list[int]:
        return [status for status in (200, 201, 299, 300, 400, 404, 422, 429, 500, 599) if units.statuses(spec)(status)]

    assert fit(429) == fit("429") == [429]
    assert fit("2xx") == [200, 201, 299]
    assert fit("400-422") == [400, 404, 422]
    assert fit([200, "5xx"]) == [200, 500, 599]


@pytest.mark.parametrize("spec", ["6xx", "20", "2XX", "400 - 422", 99, 600, "", None, [[200]], "422-400"])
def test_what_is_no_status_says_how_it_is_written(spec: Any) -> None:
    with pytest.raises(units.UnitError) as raised:
        units.statuses(spec)
    assert str(raised.value).endswith("is not a status; write it as 429, 5xx or 400-422")


@pytest.mark.parametrize(
    ("spec", "code", "holds"),
    [
        ("LIMIT", "LIMIT", True),
        ("LIMIT", "LIMIT_2", False),
        ("LIMIT", "limit", False),
        ("INVALID_*", "INVALID_FIELD", True),
        ("INVALID_*", "INVALID_", True),
        ("INVALID_*", "NOT_INVALID_FIELD", False),
        ("*_NOT_FOUND", "LIST_NOT_FOUND", True),
        ("*_NOT_FOUND", "LIST_NOT_FOUND_2", False),
        ("*LOCK*", "UNABLE_TO_LOCK_ROW", True),
        ("*LOCK*", "LOCK", True),
        ("*LOCK*", "UNABLE", False),
        ("*", "anything", True),
        ("*", "", True),
        ("*", None, False),
        ("A*B", "A*B", True),
        ("A*B", "AxB", False),
        (["A", "B_*", "*_C"], "x_C", True),
        (["A", "B_*", "*_C"], "C", False),
        ([], "A", False),
        (404, "404", True),
        ("404", 404, True),
        ("4*", 404, True),
        ("A", None, False),
    ],
)
def test_codes_compare_as_text_with_a_star_at_either_end(spec: Any, code: Any, holds: bool) -> None:
    assert units.codes(spec)(code) is holds
