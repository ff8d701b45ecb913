"""`connect check` for one client, in a thread beside the pages: a vendor that hangs harms no one."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from engine.alerts.log import LogAlerts
from engine.errors import ConnectError, told
from engine.onboarding.checking import check
from engine.program import Program
from engine.sending import HttpTransport
from engine.stores.lent import LentTokens
from engine.telemetry.log import NullTelemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.onboarding.checking import Checked
    from engine.runtime import Engine

LONGEST_S = 60.0  # until the page says that no answer came
AT_ONCE = 4  # one that hangs counts until its last request is over
MAX_REMEMBERED = 50


class TooMany(ConnectError):
    """As many checks as may run are running."""


class Check:
    """One of them; what is shown is read while it runs."""

    def __init__(self, number: str, connector: str, client: str, at: float) -> None:
        self.number, self.connector, self.client, self.at = number, connector, client, at
        self.began = time.monotonic()
        self.found: Sequence[Checked] = ()
        self.why = ""
        self.ended = False

    @property
    def state(self) -> str:
        """running | late | passed | failed | broken"""
        if not self.ended:
            return "late" if time.monotonic() - self.began > LONGEST_S else "running"
        if self.why:
            return "broken"
        return "passed" if all(one.passed for one in self.found) else "failed"


class Logins:
    """Of one lane one at a time: two log-ins of the same client may end each other's tokens."""

    def __init__(self, engine: Engine, new_id: Callable[[], str]) -> None:
        self._engine, self._new_id = engine, new_id
        self._checks: OrderedDict[str, Check] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: str) -> Check | None:
        with self._lock:
            return self._checks.get(number)

    def begin(self, connector: str, client: str, audit: Callable[[], None]) -> Check:
        """The one that is running for this lane, or a new one, once `audit` has written it down. TooMany."""
        with self._lock:
            running = [each for each in self._checks.values() if not each.ended]
            for each in running:
                if (each.connector, each.client) == (connector, client):
                    return each
            if len(running) >= AT_ONCE:
                raise TooMany("as many log-ins as may be checked at once are being checked; try again in a minute")
            audit()
            job = Check(self._new_id(), connector, client, self._engine.clock.now())
            self._checks[job.number] = job
            too_many = max(len(self._checks) - MAX_REMEMBERED, 0)
            for old in [each for each in self._checks.values() if each.ended][:too_many]:
                del self._checks[old.number]
        threading.Thread(target=self._run, args=(job,), name="check-log-in", daemon=True).start()
        return job

    def _run(self, job: Check) -> None:
        try:
            job.found = [
                one._replace(text=self._engine.masker.mask(one.text)) for one in self._check(job.connector, job.client)
            ]
        except ConnectError as error:
            job.why = self._engine.masker.mask(str(error))
        except Exception as error:
            self._engine.telemetry.event("fault", where="check", error=told(error))
            job.why = told(error)
        finally:
            job.ended = True

    def _check(self, connector: str, client: str) -> Sequence[Checked]:
        """With program, store and connections of its own: nothing that serves is touched but tokens that are lent."""
        serving = self._engine.program(connector, client)
        program = Program(serving.connector, serving.client, serving.binding)
        program.require_sound(f"connectors/{connector}.yaml")
        for reference in program.binding.secrets.values():
            self._engine.forget(reference)
        world = self._engine.worker.world
        transport = world.transport
        own = HttpTransport(transport.via, transport.reach) if isinstance(transport, HttpTransport) else None
        store = LentTokens()
        if program.auth.is_precious:
            store.lender = world.store
        quiet = NullTelemetry()
        try:
            return check(
                world._replace(
                    store=store,
                    transport=own or transport,
                    telemetry=quiet,
                    alerts=LogAlerts(quiet),
                    traces=None,
                ),
                program,
            )
        finally:
            if own is not None:
                own.close()
