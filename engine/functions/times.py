"""
Dates and times: a moment is an ISO 8601 text or a number since 1970.

A text without an offset is UTC; a date alone is that day in the time zone asked for, never the day before.
A number from 10^11 on is milliseconds, below it seconds.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

from engine.errors import BadValue
from engine.functions.definition import function
from engine.functions.values import EXACT, Number, described

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
_STEP = re.compile(r"([+-]?)([0-9]{1,12})(ms|s|m|h|d)")
_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_ZONE = re.compile(r"[A-Za-z0-9_+/-]{1,64}")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

_MAX_FORMAT = 1_000
_MILLISECONDS_FROM = 100_000_000_000
CODES: dict[str, Callable[[datetime], str]] = {
    "%Y": lambda at: f"{at.year:04}",
    "%y": lambda at: f"{at.year % 100:02}",
    "%m": lambda at: f"{at.month:02}",
    "%d": lambda at: f"{at.day:02}",
    "%H": lambda at: f"{at.hour:02}",
    "%I": lambda at: f"{at.hour % 12 or 12:02}",
    "%M": lambda at: f"{at.minute:02}",
    "%S": lambda at: f"{at.second:02}",
    "%f": lambda at: f"{at.microsecond:06}",
    "%p": lambda at: "AM" if at.hour < 12 else "PM",
    "%j": lambda at: f"{at.timetuple().tm_yday:03}",
    "%a": lambda at: _DAYS[at.weekday()][:3],
    "%A": lambda at: _DAYS[at.weekday()],
    "%b": lambda at: _MONTHS[at.month - 1][:3],
    "%B": lambda at: _MONTHS[at.month - 1],
    "%u": lambda at: str(at.isoweekday()),
    "%G": lambda at: f"{at.isocalendar().year:04}",
    "%V": lambda at: f"{at.isocalendar().week:02}",
    "%z": lambda at: _offset(at).replace(":", ""),
    "%:z": lambda at: _offset(at),
    "%%": lambda _: "%",
}


@function(
    "A moment in a time zone, written with the codes of a format (names of days and months are English).",
    (("2026-01-28T01:30:00Z", "%d/%m/%Y", "America/Sao_Paulo"), "27/01/2026"),
    (("2026-01-28T12:00:00Z",), "2026-01-28"),
    ((1769601600, "%Y-%m-%d %H:%M:%S"), "2026-01-28 12:00:00"),
    (("1990-05-17", "%d/%m/%Y", "America/Sao_Paulo"), "17/05/1990"),
)
def date(subject: str | Number, format: str = "%Y-%m-%d", timezone: str = "UTC") -> str:
    return _written(_moment(subject, timezone), format)


@function(
    "A moment as ISO 8601 with milliseconds (`Z` for UTC), or written with the codes of a format.",
    (("2026-01-28T12:00:00Z",), "2026-01-28T12:00:00.000Z"),
    (("2026-01-28T09:00:00.5-03:00",), "2026-01-28T12:00:00.500Z"),
    ((1769601600123,), "2026-01-28T12:00:00.123Z"),
    (("2026-01-28T12:00:00Z", None, "America/Sao_Paulo"), "2026-01-28T09:00:00.000-03:00"),
    (("2026-01-28T12:00:00Z", "%H:%M", "America/Sao_Paulo"), "09:00"),
)
def datetime_(subject: str | Number, format: str | None = None, timezone: str = "UTC") -> str:
    at = _moment(subject, timezone)
    return _iso(at, timezone) if format is None else _written(at, format)


@function(
    "Whole seconds since 1970; a fraction is cut off.",
    (("2026-01-28T12:00:00.900Z",), 1769601600),
    ((1769601600123,), 1769601600),
)
def epoch(subject: str | Number) -> int:
    since = _moment(subject, "UTC") - _EPOCH
    return since.days * 86_400 + since.seconds


@function("Milliseconds since 1970.", (("2026-01-28T12:00:00.123Z",), 1769601600123), ((1769601600,), 1769601600000))
def epoch_ms(subject: str | Number) -> int:
    since = _moment(subject, "UTC") - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000


@function(
    "The moment later by `duration` (`-` earlier; units ms, s, m, h, and d which is 24h), as `datetime` writes it.",
    (("2026-01-28T12:00:00Z", "15m"), "2026-01-28T12:15:00.000Z"),
    (("2026-01-28T12:00:00Z", "-1d"), "2026-01-27T12:00:00.000Z"),
)
def add_time(subject: str | Number, duration: str) -> str:
    found = _STEP.fullmatch(duration)
    if not found:
        raise BadValue(f"a duration such as 15m or -1d is needed, got {described(duration)}")
    sign, count, unit = found.groups()
    try:
        return _iso(_moment(subject, "UTC") + int(sign + count) * _UNITS[unit], "UTC")
    except OverflowError:
        raise BadValue("the moment lies outside of the years 1 to 9999") from None


@function(
    "The offset of a time zone from UTC at that moment.",
    (("2026-01-28T12:00:00Z", "America/Sao_Paulo"), "-03:00"),
    (("2026-07-01T12:00:00Z", "Europe/Berlin"), "+02:00"),
)
def utc_offset(subject: str | Number, timezone: str) -> str:
    return _offset(_moment(subject, timezone))


def iso_form(subject: str | Number, timezone: str) -> str:
    """The moment in that zone as 2026-01-28T12:00:00; not `isoformat`, which asks the zone for its offset again."""
    at = _moment(subject, timezone)  # and not an f-string, which takes twice as long
    return "%04d-%02d-%02dT%02d:%02d:%02d" % (at.year, at.month, at.day, at.hour, at.minute, at.second)  # noqa: UP031


def _moment(subject: str | Number, zone_name: str) -> datetime:
    zone = _zone(zone_name)
    try:
        moment = _parsed(subject, zone) if isinstance(subject, str) else _counted(subject)
        return moment.astimezone(zone)
    except (OverflowError, ValueError):
        raise BadValue(f"a moment in the years 1 to 9999 is needed, got {described(subject)}") from None


def _parsed(text: str, zone: tzinfo) -> datetime:
    # The forms that nearly all events have, which Python reads alike, are told by their marks: 2026-01-28T12:00:00Z
    marks, size = text[4:20:3], len(text)
    if (
        (size == 24 and marks == "--T::." and text[23] == "Z")
        or (size == 20 and marks == "--T::Z")
        or (size == 25 and marks in ("--T::-", "--T::+") and text[22] == ":" and text[23] <= "5")
    ):
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    found = _ISO.fullmatch(text.strip())
    if not found:
        raise BadValue(f"a date such as 2026-01-28T12:00:00Z is needed, got {described(text)}")
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    if hour is None:
        return datetime(int(year), int(month), int(day), tzinfo=zone)
    microsecond = int((fraction or "0")[:6].ljust(6, "0"))
    return datetime(
        int(year), int(month), int(day), int(hour), int(minute), int(second or 0), microsecond, _fixed(offset)
    )


def _fixed(offset: str | None) -> tzinfo:
    if offset is None or offset in "Zz":
        return UTC
    digits = offset[1:].replace(":", "").ljust(4, "0")
    if int(digits[2:]) > 59:
        raise ValueError(offset)
    shift = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-shift if offset[0] == "-" else shift)


def _counted(number: Number) -> datetime:
    per_unit = 1_000 if not -_MILLISECONDS_FROM < number < _MILLISECONDS_FROM else 1_000_000
    return _EPOCH + int(EXACT.multiply(Decimal(number), per_unit)) * _MICROSECOND


@lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    if _ZONE.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            pass
    raise BadValue(f"a time zone such as America/Sao_Paulo is needed, got {described(name)}")


def _iso(at: datetime, zone_name: str) -> str:
    suffix = "Z" if zone_name == "UTC" else _offset(at)
    return f"{at.year:04}-{at.month:02}-{at.day:02}T{at:%H:%M:%S}.{at.microsecond // 1000:03}{suffix}"


def _offset(at: datetime) -> str:
    minutes = (at.utcoffset() or timedelta()) // timedelta(minutes=1)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _written(at: datetime, format: str) -> str:
    return "".join(part if isinstance(part, str) else part(at) for part in _pieces(format))


@lru_cache(maxsize=512)
def _pieces(format: str) -> tuple[str | Callable[[datetime], str], ...]:
    if len(format) > _MAX_FORMAT:
        raise BadValue(f"a format has at most {_MAX_FORMAT:,} characters")
    pieces: list[str | Callable[[datetime], str]] = []
    for words, code in re.findall(r"([^%]+)|(%:?.?)", format, re.DOTALL):
        if code and code not in CODES:
            raise BadValue(f"{described(code)} in `format` is none of {' '.join(CODES)}")
        pieces.append(CODES[code] if code else words)
    return tuple(pieces)
