"""Project, store, secrets, transport -> a running engine; the only place that knows all the parts."""

from __future__ import annotations

import os
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec

from engine.alerts.log import LogAlerts
from engine.clock import SystemClock
from engine.door.meters import Meter
from engine.egress import PUBLIC
from engine.errors import Refused, SecretUnavailable, SpecErrors, TokenUnreadable, UsageError, told
from engine.privacy.masking import Masker
from engine.records import Answered, Fault, LaneChange, TokenRow
from engine.secrets import SecretSources, fingerprint
from engine.spec import units
from engine.spec.findings import Finding
from engine.telemetry.log import NullTelemetry
from engine.upkeep.capacity import Capacity
from engine.upkeep.housekeeping import Housekeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from concurrent.futures import Future

    from engine.alerts.looking import Watcher
    from engine.egress import Egress
    from engine.intake import Receiver
    from engine.ports import Alerts, Clock, Secrets, Store, Traces
    from engine.ports import Telemetry as TelemetryPort
    from engine.program import Program
    from engine.records import Accepted, Lane, Received, Stored
    from engine.sending import Transport
    from engine.spec.project import Project
    from engine.spec.types import Binding, Client, Connector
    from engine.trail.recording import Recorder
    from engine.walk import Credentials
    from engine.worker import Worker

LOOK_AGAIN_S = 2.0
PREPARE_S = 0.3  # after a start, until what takes events in and delivers them is loaded, if none has come before
CLOCKS_APART_S = 2.0  # of this machine and the store, before it is said
BY_HAND = "paused by hand"  # how the reason of such a pause begins; it ends by hand, too
PAUSED_WITH = "#paused-with"  # kept beside the tokens: the configuration that a lane was paused with


def password_in(address: str | None) -> list[str]:
    """What nobody may read in the address of a proxy, as it is written and decoded."""
    password = urlsplit(address or "").password
    return [password, unquote(password)] if password else []


class Engine:
    """
    Everything wired for one project; what `serve`, `deliver`, `send` and `check` run.

    Programs are compiled when first needed and again when a file of theirs changes. A client with findings is left out
    and named in the log; the others run. What takes events in and what delivers them is a third of all that a start
    would import: it is loaded by the first event, or by `prepare`.
    """

    def __init__(
        self,
        project: Project,
        store: Store,
        *,
        transport: Transport | None = None,
        secrets: Secrets | None = None,
        clock: Clock | None = None,
        telemetry: TelemetryPort | None = None,
        alerts: Alerts | None = None,
        via: str | None = None,
        reach: Egress = PUBLIC,
        workers: int = 8,
        reloads: bool = True,
        takes_in: Callable[[str, str], bool] = lambda _connector, _client: True,
        max_store: int | None = None,
        traces: Traces | None = None,
        trail: Callable[[], Recorder | None] = lambda: None,
    ) -> None:
        """
        `reloads` False: files are read once, and changes need a new start. `takes_in`: which lanes have a door here;
        nobody else's write keys are looked up. `max_store`: bytes of what waits. `trail` makes one when it is needed.
        """
        self.project, self.store, self.reloads, self.takes_in = project, store, reloads, takes_in
        self.clock: Clock = clock or getattr(store, "clock", None) or SystemClock()  # one for all hosts of a store
        self.telemetry, self.traces = telemetry or NullTelemetry(), traces
        self._make_trail = trail
        self.masker = Masker()
        self.reach = reach
        self.masker.add(*password_in(reach.proxy))
        self.secrets = secrets or SecretSources(project.directory, os.environ)
        self.forget: Callable[[str], None] = getattr(self.secrets, "forget", lambda _: None)
        self.ingest_values: dict[str, str] = {}  # what the references to write keys and signing secrets yielded last
        self.whole = False  # are connectors read that come with the engine and that no client has?
        self.keeping = False  # does a thread look at changed files and keys, so that no request has to?
        self.lock = threading.RLock()
        self.programs: dict[tuple[str, str], tuple[object, object, Program]] = {}
        self.capacity = Capacity(
            used=getattr(store, "used_bytes", None),
            folder=getattr(store, "folder", None),
            max_bytes=max_store,
            telemetry=self.telemetry,
        )
        self.names: frozenset[str] = frozenset()  # of the connectors that have a door
        self._receivers: dict[str, Receiver] | None = None
        self._worker: Worker | None = None
        self._trail: tuple[Recorder | None] | None = None
        self.prepared = threading.Event()
        self.meters: dict[str, Meter] = {}  # by client; over all its connectors
        self.described: tuple[object, bytes] = (None, b"")
        self.origins: dict[str, set[str]] = {}
        self.connector_specs: dict[str, Connector] = {}
        self.client_specs: dict[str, Client] = {}
        self.broken: list[str] = []
        self.looked_at = float("-inf")
        self.told: set[str] = set()
        self.without_keys: set[str] = set()  # clients of which a write key can't be had
        # what a lane was configured with when an action of it paused
        self.held_with: dict[tuple[str, str], str] = {}
        self.served_with: dict[tuple[str, str], tuple[Connector | None, Client | None]] = {}
        self.house = Housekeeper(store, self.clock, self.telemetry, self.compiled, self.keep_dead_s)
        self.alerts = alerts or LogAlerts(self.telemetry)
        self._transport, self._workers = (transport, via), workers
        self.reload()

    # --- what a start does without ---

    def prepare(self) -> None:
        """Load what the first event would load, and the connectors that no client has; from any thread."""
        _ = self.receivers, self.worker
        if not self.whole:
            self.project.all()  # without the lock: who has an event needs none of these
            self.whole = True
            self.reread()
        self.prepared.set()

    @property
    def receivers(self) -> dict[str, Receiver]:
        """By connector."""
        if self._receivers is None:
            with self.lock:
                if self._receivers is None:
                    self._receivers = self._new_receivers()
        return self._receivers

    def _new_receivers(self) -> dict[str, Receiver]:
        return {name: self.receiver(self.connector_specs[name]) for name in self.names}

    @property
    def worker(self) -> Worker:
        if self._worker is None:
            with self.lock:
                if self._worker is None:
                    self._worker = self._new_worker()
        return self._worker

    def _new_worker(self) -> Worker:
        from engine.alerts.looking import TokenEar
        from engine.sending import HttpTransport
        from engine.walk import World
        from engine.worker import Worker

        transport, via = self._transport
        return Worker(
            World(
                store=self.store,
                transport=transport or HttpTransport(via, self.reach),
                clock=self.clock,
                telemetry=TokenEar(self.telemetry, self.alerts),
                alerts=self.alerts,
                program=self.program_or_none,
                credentials=self.credentials,
                masker=lambda _: self.masker,
                outdated=self.outdated,
                traces=self.traces,
                trail=self.trail,
            ),
            workers=self._workers,
        )

    @property
    def trail(self) -> Recorder | None:
        """What becomes of each event; None where that is not kept."""
        if self._trail is None:
            with self.lock:  # the first event and the worker may both be the first to ask
                if self._trail is None:
                    self._trail = (self._make_trail(),)
        return self._trail[0]

    @cached_property
    def watcher(self) -> Watcher | None:
        """Looks for troubles that stand; None where nobody but the log is told."""
        from engine.alerts.desk import Desk
        from engine.alerts.looking import Watcher

        if not isinstance(self.alerts, Desk):
            return None
        return Watcher(self.store, self.clock, self.alerts, self.capacity, self.paused_actions)

    # --- specs ---

    def reload(self) -> None:
        """Read what has changed; what is sound serves, what is not is named once."""
        self.reread()
        self.refresh_keys()

    def reread(self) -> None:
        with self.lock:
            files = self.project.connector_files() if self.whole else self.project.used_connector_files()
            connectors, clients, findings = self.project.all(files)
            broken_connectors, broken_clients = self.project.unusable(files)  # for them the last sound one serves on
            connectors |= {name: spec for name, spec in self.connector_specs.items() if name in broken_connectors}
            clients |= {name: spec for name, spec in self.client_specs.items() if name in broken_clients}
            self.looked_at = time.monotonic()
            same = self.same(connectors, self.connector_specs) and self.same(clients, self.client_specs)
            self.broken = [str(finding) for finding in findings if finding.severity == "error"]
            for text in self.broken:
                if text not in self.told:
                    self.told.add(text)
                    self.telemetry.event("finding", text=text)
            if same and self.names:
                return
            self.connector_specs, self.client_specs = connectors, clients
            self.meters = {name: self.meter(client) for name, client in clients.items() if client.ingest.rate}
            self.names = frozenset(name for name in connectors if self.bound(name))
            if self._receivers is not None:
                self._receivers = self._new_receivers()
            self.origins = {
                name: {origin for client, _ in self.bound(name) for origin in client.ingest.origins}
                for name in connectors
            }

    @staticmethod
    def same(new: dict[str, Any], old: dict[str, Any]) -> bool:
        return new.keys() == old.keys() and all(new[name] is old[name] for name in new)

    def bound(self, connector: str) -> list[tuple[Client, Binding]]:
        """Whose events come in here."""
        return [
            (client, client.connectors[connector])
            for client in self.client_specs.values()
            if connector in client.connectors and self.takes_in(connector, client.client)
        ]

    def active(self) -> set[str]:
        """The clients whose events are taken in."""
        bound = (each for name in self.names for each in self.bound(name))
        return {client.client for client, binding in bound if client.active and binding.active}

    def receiver(self, connector: Connector) -> Receiver:
        active: dict[str, str] = {}
        inactive: dict[str, str] = {}
        for client, binding in self.bound(connector.name):
            match = binding.match or client.client
            if client.active and binding.active:
                active.setdefault(match, client.client)
            else:
                inactive[match] = client.client
        from engine.intake import Receiver

        keys, signatures = self.proofs(connector.name)
        return Receiver(
            connector,
            active,
            lambda client: self.serving(connector.name, client),
            schema=connector.receive.schema,
            keys=keys,
            inactive=inactive,
            signatures=signatures,
            origins={client.client: client.ingest.origins for client, _ in self.bound(connector.name)},
            meters=self.meters,
            max_event_bytes=getattr(self.store, "max_event_bytes", None),
        )

    def meter(self, client: Client) -> Meter:
        """The one it has, with what it has counted, unless the rate is another now."""
        rate, kept = units.rate(client.ingest.rate), self.meters.get(client.client)
        return kept if kept is not None and kept.rate == rate else Meter(rate)

    def ingest_secrets(self, references: list[str]) -> list[str]:
        """Write keys as last looked up; one that was never to be had is a text that nobody knows."""
        return [self.ingest_values.get(reference) or f"unavailable-{os.urandom(16).hex()}" for reference in references]

    def tell_of_keys(self, client: str, missing: list[str]) -> None:
        """Someone hears that senders of this client may be told 401, and that it is over."""
        for why in missing:
            if (text := f"{client}: {why}") not in self.told:
                self.told.add(text)
                self.telemetry.event("finding", text=text)
        if missing:
            self.without_keys.add(client)
            text = f"{client}: a write key can't be had: {missing[0]}; who sends with it may be told 401"
            self.alerts.alert("write-key", connector="", client=client, text=text, facts={"missing": str(len(missing))})
        elif client in self.without_keys:
            self.without_keys.discard(client)
            self.told = {text for text in self.told if not text.startswith(f"{client}: ")}
            self.alerts.over("write-key", connector="", client=client)

    def refresh_keys(self) -> None:
        """
        Ask the sources of all write keys and signing secrets; new values serve from now on. May take its time.

        Where one can't be had the last value serves on; one that was never to be had is named in the log, and its
        client takes no events without a key either.
        """
        values: dict[str, str] = {}
        for client in list(self.client_specs.values()):
            if not any(self.takes_in(connector, client.client) for connector in client.connectors):
                continue
            missing: list[str] = []
            for reference in (*client.ingest.keys, *client.ingest.signatures):
                try:
                    values[reference] = self.secrets.resolve(reference)
                except SecretUnavailable as error:
                    missing.append(str(error))
                    if reference in self.ingest_values:
                        values[reference] = self.ingest_values[reference]
            self.tell_of_keys(client.client, missing)
        self.masker.add(*values.values())
        with self.lock:
            if values != self.ingest_values:
                self.ingest_values = values
                for receiver in (self._receivers or {}).values():
                    receiver.know(*self.proofs(receiver.connector.name))

    def proofs(self, connector: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """(write keys, signing secrets) of each client of a connector."""
        clients = [client for client, _ in self.bound(connector)]
        keys = {client.client: self.ingest_secrets(client.ingest.keys) for client in clients}
        return keys, {client.client: self.ingest_secrets(client.ingest.signatures) for client in clients}

    def look(self) -> None:
        """Reload if the last look is older than two seconds; of files that are read once only the keys."""
        if time.monotonic() - self.looked_at > LOOK_AGAIN_S:
            self.looked_at = time.monotonic()
            if self.reloads:
                self.reread()
            self.refresh_keys()

    def program(self, connector: str, client: str) -> Program:
        """What runs for this client, compiled. UsageError for unknown names, SpecErrors for what does not compile."""
        ready = self.programs.get((connector, client))
        if (
            ready is not None  # for each event: without the lock, and right whichever of the specs is the newer
            and ready[0] is self.connector_specs.get(connector)
            and ready[1] is self.client_specs.get(client)
        ):
            return ready[2]
        with self.lock:
            spec, who = self.connector_specs.get(connector), self.client_specs.get(client)
            if spec is None:
                spec = self.project.connector(connector)
            if who is None:
                who = self.project.client(client)
            if connector not in who.connectors:
                raise UsageError(f"{client} has no connector {connector}; it has {', '.join(who.connectors)}")
            kept = self.programs.get((connector, client))
            if kept is not None and kept[0] is spec and kept[1] is who:
                return kept[2]
            import re2

            from engine.program import Program

            try:
                program = Program(spec, who, who.connectors[connector])
            except (ValueError, re2.error) as error:  # a unit or a pattern that `connect validate` names with its place
                found = Finding(f"connectors/{connector}.yaml", 1, 1, "unusable", "error", str(error))
                raise SpecErrors([found]) from None
            program.require_sound(f"connectors/{connector}.yaml")
            self.programs[connector, client] = (spec, who, program)
            return program

    def serving(self, connector: str, client: str) -> Program:
        """For intake. Refused with 503 where this client's configuration can't be used; the others are served."""
        try:
            return self.program(connector, client)
        except (UsageError, SpecErrors) as error:
            self.telemetry.event("finding", connector=connector, client=client, text=str(error))
            says = f"the configuration of {client} has faults; they are in the log"
            fault = Fault("client", says, kind="unusable")
            raise Refused(503, "the client can't be served now", [fault]) from None

    def program_or_none(self, connector: str, client: str) -> Program | None:
        """For the worker: None where the client or its binding is gone or switched off."""
        try:
            program = self.program(connector, client)
        except (UsageError, SpecErrors) as error:
            self.telemetry.event("finding", connector=connector, client=client, text=str(error))
            return None
        return program if program.client.active and program.binding.active else None

    def credentials(self, program: Program) -> Credentials:
        """The secrets that this client's enabled actions reach. SecretUnavailable names the first that is missing."""
        from engine.walk import Credentials

        values: dict[str, str] = {}
        for name in sorted(program.secret_names):
            reference = program.binding.secrets.get(name)
            if reference is None:
                field = program.connector.secrets.get(name)
                if field is not None and (field.optional or field.when is not None):
                    continue
                if name in program.consented_secrets:
                    continue
                raise SecretUnavailable(
                    f"{program.name}: no secret {name}; add `secrets: {{{name}: env:NAME}}` to the client file"
                )
            values[name] = self.secrets.resolve(reference)
        self.masker.add(*values.values())
        return Credentials(values, fingerprint(values))

    def outdated(self, program: Program, used: str) -> bool:
        """Is at least one of the secrets another at its source than those of this fingerprint? Asks the sources."""
        for reference in program.binding.secrets.values():
            self.forget(reference)
        try:
            return self.credentials(program).fingerprint != used
        except SecretUnavailable:
            return False

    # --- the HTTP door (serve.Front) ---

    def connectors(self) -> Collection[str]:
        return self.names

    def allows_origin(self, connector: str, origin: str) -> bool:
        return origin in self.origins.get(connector, ())

    def receive(
        self,
        connector: str,
        body: bytes,
        content_type: str,
        key: str | None,
        now: float,
        *,
        signature: str | None = None,
        origin: str = "",
    ) -> Received:
        if not self.keeping:
            self.look()
        received = self.receivers[connector].receive(body, content_type, key, now, signature=signature, origin=origin)
        if received.faults:
            for kind in dict.fromkeys(fault.kind for fault in received.faults if fault.kind):
                count = sum(fault.kind == kind for fault in received.faults)
                self.telemetry.event("misconfigured", connector=connector, reason=kind, count=count)
        return received

    def full(self) -> str | None:
        return self.capacity.why()

    def openapi(self) -> bytes:
        receivers = self.receivers
        if self.described[0] is not receivers:
            specs = {name: receiver.connector for name, receiver in receivers.items()}
            proven = {name: receiver.senders.all_known for name, receiver in receivers.items()}
            from engine.door.published import openapi

            document = openapi(specs, proven)
            self.described = (receivers, msgspec.json.Encoder(decimal_format="number").encode(document))
        return self.described[1]

    def put(self, events: list[Accepted], now: float, hold_s: float) -> Future[list[Stored]]:
        put = self.store.put(events, now=now, hold_s=hold_s)
        if (trail := self.trail) is not None:

            def done(put: Future[list[Stored]]) -> None:
                if not put.cancelled() and put.exception() is None:
                    trail.accepted(events, put.result(), now=self.clock.now())

            put.add_done_callback(done)
        return put

    def hold_s(self, connector: str) -> float:
        spec = self.connector_specs[connector]
        return self.worker.hold_s(spec)

    def walk_now(self, connector: str, client: str, stored: Stored, now: float) -> Answered:
        del now
        self.house.forget_soon()
        return self.worker.walk_now(self.program(connector, client), stored)

    def ready(self) -> list[str]:
        """Why no traffic should come here; one client's faulty file is no reason, see `broken`."""
        self.prepare()
        reasons = []
        if not self.names:
            reasons.append("no client is bound to any connector")
        try:
            self.store.next_due(now=self.clock.now())
        except Exception as error:
            reasons.append(f"the store: {error}")
        if (full := self.capacity.measure()) is not None:
            reasons.append(full)
        return reasons

    def lanes(self) -> list[Lane]:
        return self.store.lanes()

    def metrics(self) -> bytes:
        read: Callable[[], bytes] | None = getattr(self.telemetry, "metrics", None)
        return read() if read is not None else b""

    # --- lanes that are paused ---

    def mark_paused(self, *, starting: bool = False, only: Callable[[str, str], bool] | None = None) -> None:
        """
        Remember what each paused lane was configured with, and let go of those whose configuration has changed.

        A lane goes on when the client file, the connector or a secret changes, or by hand. One whose process was killed
        before it wrote that down is tried once by the next that is `starting`. `only`: which lanes.
        """
        for lane in self.store.lanes():
            if only is not None and not only(lane.connector, lane.client):
                continue
            if lane.state != "paused" or (lane.reason or "").startswith(BY_HAND):
                continue
            print_ = self.configuration(lane.connector, lane.client)
            try:
                row = self.store.token(lane.connector, lane.client, PAUSED_WITH)
            except TokenUnreadable:
                row = None
            reason = row.values.get("reason") if row is not None else None
            changed = row is not None and row.values.get("print") != print_
            if row is None or changed or reason != lane.reason:
                values = {"print": print_, "reason": lane.reason or ""}
                self.store.save_token(
                    lane.connector, lane.client, PAUSED_WITH, TokenRow(values, self.clock.now(), None, "")
                )
            unknown = starting and (row is None or reason != lane.reason)
            if unknown or (
                changed and reason == lane.reason
            ):  # written down first: a change that mends nothing is tried once
                self.resume(lane.connector, lane.client)
        self.mark_held()

    def mark_held(self) -> None:
        """The same for single actions that stand still; only this process knows of them."""
        for lane in {key[:2] for key in self.paused_actions()}:
            print_ = self.configuration(*lane)
            if self.held_with.setdefault(lane, print_) != print_:
                del self.held_with[lane]
                self.let_go(*lane)
                self.store.change_lane(*lane, LaneChange(), now=self.clock.now())

    def resume(self, connector: str, client: str) -> None:
        """The lane goes on."""
        self.store.change_lane(
            connector,
            client,
            LaneChange(pause=False, reason="", not_before=0.0, failures=0, failing_since=0),
            now=self.clock.now(),
        )
        self.let_go(connector, client)
        self.telemetry.event("lane-resumed", connector=connector, client=client)

    def let_go(self, connector: str, client: str) -> None:
        """No action of the lane stands still any longer."""
        held = self._worker.held if self._worker is not None else {}
        for key in [key for key in list(held) if key[:2] == (connector, client)]:
            held.pop(key, None)
        self.alerts.over("action-paused", connector=connector, client=client)

    def paused_actions(self) -> list[tuple[str, str, str]]:
        """(connector, client, action) of each that stands still in this process until somebody acts."""
        held = self._worker.held if self._worker is not None else {}
        return [key for key, until in list(held.items()) if until == float("inf")]

    def configuration(self, connector: str, client: str) -> str:
        """A print of all that a person may change to mend a pause."""
        parts: dict[str, str] = {}
        try:
            program = self.program(connector, client)
            encoder = msgspec.json.Encoder(decimal_format="number")
            parts["connector"] = encoder.encode(program.connector).decode()
            parts["client"] = encoder.encode(program.client).decode()
            parts["secrets"] = self.credentials(program).fingerprint
        except (UsageError, SpecErrors, SecretUnavailable) as error:
            parts["error"] = str(error)
        if self.reach != PUBLIC:  # a lane that was paused for where its host leads goes on where that may be
            parts["reach"] = repr(self.reach)
        return fingerprint(parts)

    def wake_changed(self) -> None:
        """What a lane waits for may be another now: an action came back, a `wait` became shorter."""
        for lane in self.store.lanes():
            serving = (self.connector_specs.get(lane.connector), self.client_specs.get(lane.client))
            before = self.served_with.setdefault((lane.connector, lane.client), serving)
            if before[0] is not serving[0] or before[1] is not serving[1]:
                self.served_with[lane.connector, lane.client] = serving
                if lane.waiting:
                    self.store.change_lane(lane.connector, lane.client, LaneChange(), now=self.clock.now())

    def compiled(self) -> list[Program]:
        """The programs there are."""
        with self.lock:
            return [program for _, _, program in self.programs.values()]

    def keep_dead_s(self) -> float | None:
        """How long dead letters are kept; for good where `connect.yaml` does not say, or can't be read."""
        try:
            keep = self.project.settings.dead.keep
        except SpecErrors:
            return None
        return units.duration(keep) if keep is not None else None

    # --- running ---

    def keep(self, stop: threading.Event) -> None:
        """Load what is not yet, then look for changed files and write keys until `stop`: no request waits for these."""
        self.keeping = True
        wait_s = PREPARE_S
        while not stop.wait(wait_s):
            wait_s = LOOK_AGAIN_S / 2
            try:
                self.prepare()
                self.look()
            except Exception as error:
                self.telemetry.event("fault", where="keep", error=told(error))

    def watch(self, stop: threading.Event) -> None:
        """Look for changed files and mended lanes until `stop`."""
        while not stop.wait(LOOK_AGAIN_S):
            try:
                self.look()
                self.look_at_clock()
                self.mark_paused()
                self.wake_changed()
                self.house.look()
                if self.watcher is not None:
                    self.watcher.look_soon()
            except Exception as error:
                self.telemetry.event("fault", where="watch", error=told(error))

    def look_at_clock(self) -> None:
        """Say so, once, where this machine's clock is not that of the store, which all its hosts go by."""
        ahead_s = getattr(self.clock, "ahead_s", 0.0)
        if abs(ahead_s) > CLOCKS_APART_S and "clock" not in self.told:
            self.told.add("clock")
            way = "ahead of" if ahead_s > 0 else "behind"
            says = f"this machine's clock is {abs(ahead_s):.0f} s {way} the store's, which counts here; is NTP running?"
            self.telemetry.event("finding", text=says)

    def close(self) -> None:
        """Finish what is queued; let go of store and connections."""
        if self._trail is not None and self._trail[0] is not None:
            self._trail[0].close()
        self.store.close()
        if self._worker is not None:
            from engine.sending import HttpTransport

            if isinstance(transport := self._worker.world.transport, HttpTransport):
                transport.close()
