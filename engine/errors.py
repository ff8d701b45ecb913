"""
The tree of exceptions; each knows the exit code a command ends with.

    ConnectError                   3  our fault, unless a subclass says otherwise
    ├── SpecErrors                 1  what `validate` found; carries every finding
    ├── UsageError                 2  the command line or the project is used wrongly
    ├── SecretUnavailable          1  a secret reference that yields nothing
    ├── StoreUnavailable           3  the buffer can't be read or written
    │   └── TokenUnreadable           a stored token, for the key is another
    ├── LeaseLost                  3  a lane was settled by one who no longer holds it
    ├── Refused                    1  an event that intake does not accept
    └── RecordError                1  one record can't be built, looked up or sent
        ├── BadValue                  a value of a wrong type or out of range
        │   └── TooMuch                  more work or output than one expression may cause
        └── EgressRefused             a request to a host the connector does not name
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.records import Fault
    from engine.spec.findings import Finding


def told(error: BaseException) -> str:
    """Class and place of an error that nobody expected; the text only of our own, for another's may hold a payload."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    at = f" at {place.tb_frame.f_globals.get('__name__')}:{place.tb_lineno}" if place is not None else ""
    said = f": {error}" if isinstance(error, ConnectError) else ""
    return f"{type(error).__name__}{said}{at}"


class ConnectError(Exception):
    """Anything this engine raises on purpose."""

    exit_code = 3


class SpecErrors(ConnectError):
    """A connector, client or project file with findings that stop it from being used."""

    exit_code = 1

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = tuple(findings)


class UsageError(ConnectError):
    """A wrong option, an unknown name, a project that is not there."""

    exit_code = 2


class SecretUnavailable(ConnectError):
    """A secret reference that yields nothing; the text names the reference, never a value."""

    exit_code = 1


class StoreUnavailable(ConnectError):
    """The store can't be reached, read or written; no driver's own error leaves an adapter."""


class TokenUnreadable(StoreUnavailable):
    """A stored token that the key at hand does not decrypt."""


class LeaseLost(ConnectError):
    """The lane has passed to another holder; what this one did is settled by that one."""


class Refused(ConnectError):
    """
    An event, or a whole request, that intake does not accept.

    `status` is the HTTP status; `faults` name field and reason, one for each thing that is wrong.
    """

    exit_code = 1

    def __init__(self, status: int, title: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.faults = tuple(faults)

    def __str__(self) -> str:  # senders are told the faults one by one; few of these are ever written in one line
        return "; ".join([self.title, *map(_told, self.faults)])


def _told(fault: Fault) -> str:
    event = f"event {fault.index + 1}, " if fault.index is not None else ""
    return f"{event}{fault.field}: {fault.reason}"


class RecordError(ConnectError):
    """One record can't go on; it is rejected with this text, its neighbours are not touched."""

    exit_code = 1


class BadValue(RecordError):
    """
    A value of a wrong type or out of range, met by a function or a directive.

    `at` is the target field in the mapping (`record.Subject`), filled in on the way out.
    """

    def __init__(self, reason: str, at: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = at

    def __str__(self) -> str:
        return f"{self.at}: {self.reason}" if self.at else self.reason


class TooMuch(BadValue):
    """More work or output than one expression or tree may cause; not even a condition passes over it."""


class EgressRefused(RecordError):
    """A request to a host that the connector's `hosts` does not name."""
