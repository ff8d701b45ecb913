"""Can we log in for a client? Asks the vendor what the connector's `checks:` ask, with a new log-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.auth import AuthFailed
from engine.errors import RecordError
from engine.walk import Walk

if TYPE_CHECKING:
    from engine.program import Program
    from engine.records import Outcome
    from engine.walk import World
    from engine.wire import Wire


class Checked(NamedTuple):
    """One check, with what came of it in words."""

    name: str
    passed: bool
    status: int | None
    text: str


def check(world: World, program: Program) -> list[Checked]:
    """The checks of the connector; where it has none, the log-in. SecretUnavailable where a secret can't be had."""
    wire = wire_of(world, program)
    return checks(program, wire) or [log_in(program, wire)]


def wire_of(world: World, program: Program) -> Wire:
    return Walk(world, program, keep_alive=lambda: None).wire


def checks(program: Program, wire: Wire) -> list[Checked]:
    found = []
    for name, call in program.checks.items():
        title = program.connector.checks[name].title or name
        try:
            done = call.run(wire, wire.scope, records=1)
        except RecordError as error:
            found.append(Checked(title, False, None, str(error)))
            continue
        said = f"HTTP {done.reply.status}" if done.reply is not None else "no reply"
        where = f"{done.trace.method} {done.trace.url}" if done.trace is not None else ""
        status = done.reply.status if done.reply is not None else None
        if good(done.verdict.outcome):
            found.append(Checked(title, True, status, f"{said} to {where}"))
        else:
            assert done.verdict.outcome is not None
            at = f" ({where})" if where else ""
            found.append(Checked(title, False, status, f"{done.verdict.outcome.reason or said}{at}"))
    return found


def good(outcome: Outcome | None) -> bool:
    return outcome is None or outcome.kind == "delivered"


def log_in(program: Program, wire: Wire) -> Checked:
    """For a connector without checks: a token, and whether everything is there that goes into a request."""
    try:
        token = program.auth.token(wire)
        program.auth.place(wire, token)
    except AuthFailed as failed:
        status = failed.trace.status if failed.trace is not None else None
        return Checked("log-in", False, status, failed.outcome.reason)
    if token is None:
        text = f"all there; {program.connector.name} has no check, so nothing was asked"
        return Checked("secrets", True, None, text)
    return Checked("log-in", True, 200, "a token that lives" if program.auth.is_precious else "a new token")
