"""What a walk for one client needs of the world: store, transport, clock, secrets; and the one place that sends."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from engine.errors import ConnectError, told
from engine.http import NoReply, Prepared, Reply
from engine.records import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.ports import Clock, Store, Telemetry
    from engine.records import Outcome, Trace
    from engine.sending import Masker, Transport

REASON, CODE = 500, 100  # characters


def new_nonce() -> str:
    """A text that nobody can guess and that never comes again, for what is signed."""
    return uuid.uuid4().hex


class Wire:
    """One for each walk of a lane."""

    def __init__(
        self,
        *,
        connector: str,
        client: str,
        scope: dict[str, Any],
        secrets: dict[str, str],
        fingerprint: str,
        store: Store,
        transport: Transport,
        clock: Clock,
        masker: Masker,
        telemetry: Telemetry,
        owner: str,
        keep_alive: Callable[[], None] = lambda: None,
        over: Callable[[], bool] = lambda: False,
        nonce: Callable[[], str] = new_nonce,
        outdated: Callable[[], bool] = lambda: False,
        looked_up: Callable[[], None] = lambda: None,
        maps: Callable[[], None] = lambda: None,
        away: Callable[[], AbstractContextManager[None]] = nullcontext,
        said: Callable[[Callable[[], Trace]], None] | None = None,
    ) -> None:
        self.connector, self.client, self.scope = connector, client, scope
        self.secrets, self.fingerprint = secrets, fingerprint
        self.store, self.transport, self.clock = store, transport, clock
        self.masker, self.telemetry, self.owner, self.keep_alive = masker, telemetry, owner, keep_alive
        self.nonce = nonce
        self.outdated = outdated  # asked where a vendor refused: are our secrets others now, at their source?
        self.looked_up = looked_up  # told when the look-ups of a window have been answered
        self.maps = maps  # told when records of a window are about to be mapped
        self.away = away  # entered while a window waits for its look-ups: another lane may compute
        self.said = said  # told how to show each exchange but those of log-ins, before the telemetry hears of it
        self.over = over  # is it time to let others send, or the end of the process?

    def shown(self, outcome: Outcome | None) -> Outcome | None:
        """The outcome as it may be written down and told: what the vendor echoes is masked first and cut then."""
        if outcome is None or not (outcome.reason or outcome.code):
            return outcome
        reason, code = self.masker.mask(outcome.reason), self.masker.mask(outcome.code)
        return msgspec.structs.replace(outcome, reason=cut(reason, REASON), code=cut(code, CODE))

    def exchange(self, prepared: Prepared, *, action: str, step: str) -> Reply | NoReply:
        """Send; no answer is a value here, not an exception."""
        self.keep_alive()
        began = self.clock.now()
        try:
            reply: Reply | NoReply = self.transport.send(prepared)
        except NoReply as error:
            reply = error
        except ConnectError:
            raise
        except Exception as error:  # of a library: as an outage the lane waits, and nothing is lost
            reply = NoReply(f"no reply: {self.fault('exchange', error)}", sent=True)
        if self.said is not None and prepared.purpose != "auth":
            self.said(lambda: self.trace(prepared, reply))
        self.telemetry.event(
            "exchange",
            connector=self.connector,
            client=self.client,
            action=action,
            step=step,
            method=prepared.method,
            host=urlsplit(prepared.url).hostname or "",
            status=reply.status if isinstance(reply, Reply) else 0,
            seconds=round(self.clock.now() - began, 6),
        )
        return reply.unpacked(prepared.decode) if isinstance(reply, Reply) else reply

    def trace(self, prepared: Prepared, reply: Reply | NoReply) -> Trace:
        """One exchange as it may be shown, secrets masked."""
        inside = reply.unpacked(prepared.decode) if isinstance(reply, Reply) else None
        return self.masker.trace(prepared, inside)

    def refused(self, outcome: Outcome | None, reply: Reply | NoReply, *, action: str) -> None:
        """Counts what a vendor says of us and not of a record: who we are is refused, or how much we ask of it."""
        if outcome is None or not isinstance(reply, Reply):
            return
        if outcome.kind is OutcomeKind.THROTTLE:
            name = "api-limit"
        elif outcome.kind is OutcomeKind.REAUTH or reply.status == 401:
            name = "access-refused"
        else:
            return
        # Its words may name a person of the batch; they stand, masked, beside the lane.
        self.telemetry.event(name, connector=self.connector, client=self.client, action=action, status=reply.status)

    def fault(self, where: str, error: Exception) -> str:
        """An error that nobody expected goes to the log; what may be told of it."""
        text = told(error)
        self.telemetry.event("fault", where=where, connector=self.connector, client=self.client, error=text)
        return f"a fault of this engine ({text})"


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
