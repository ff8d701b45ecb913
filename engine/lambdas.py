"""
The functions that AWS Lambda calls, over the same engine: `receive`, `process`, `refresh_tokens`.

One engine serves all calls of an environment that Lambda keeps; files are read once. It is made while Lambda loads this
module, which it does with a whole processor, however little memory the function has. Before a call returns, all that
was counted is written and all alerts are out, for Lambda freezes what is in the background.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import wiring
from engine.errors import ConnectError, SpecErrors, UsageError, told
from engine.privacy.personal import addresses
from engine.spec import units
from engine.spec.compiled import open_project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.door.gateway import Request
    from engine.ports import Alerts
    from engine.program import Program
    from engine.records import Lane
    from engine.runtime import Engine

MARGIN = "15s"  # before the end of `process`: no batch begins
PATIENCE = "60s"  # how long `process` waits for a lane that it has run to come due again
WITHIN = "4h"  # a token that ends sooner is renewed by `refresh_tokens`
ANSWER_S = 1.0  # for an answer that is on its way
TRAIL_S = 2.0  # for what became of events to be written; else it is, at the next invocation
ALERTS_S = 5.0  # for alerts that are on their way
OF_ONE_PROCESS = ("memory:", "sqlite:")
MOST_WORKERS = 256

_kept: dict[bool, Functions] = {}


def receive(event: Any, context: Any) -> dict[str, Any]:
    """An event of API Gateway or of a Function URL -> the answer, as `connect serve` gives it."""
    return functions(takes_in=True).receive(event, context)


def process(event: Any, context: Any) -> dict[str, Any]:
    """
    Deliver what is due, within the time there is: {"lanes", "delivered", "rejected", "skipped", "retried", "waiting",
    "failed"}.

    The event may narrow it: {"connectors": […], "clients": […]}. Raises LanesFailed, after all else is done, where a
    lane needs a person.
    """
    return functions(takes_in=False).process(event, context)


def refresh_tokens(event: Any, context: Any) -> dict[str, Any]:
    """
    Renew the tokens that end {"within": "4h"}: {"renewed", "lasting", "failed"}; narrowed as `process` is.

    Raises LanesFailed, after all others are renewed, where one could not be.
    """
    return functions(takes_in=False).refresh_tokens(event, context)


def functions(*, takes_in: bool) -> Functions:
    """Those of this environment, made once."""
    if takes_in not in _kept:
        _kept[takes_in] = Functions(takes_in=takes_in)
    return _kept[takes_in]


class LanesFailed(ConnectError):
    """All is done that could be; these lanes need a person. So Lambda counts an error, and its alarm tells someone."""

    exit_code = 1


class Failure(NamedTuple):
    """What became of a lane that was not served; `person`: someone has to act."""

    lane: str
    why: str
    person: bool

    def shown(self) -> dict[str, Any]:
        return {"lane": self.lane, "why": self.why, "person": self.person}


class Functions:
    """An engine with what the functions need of it; `takes_in`: events, too, through the door."""

    def __init__(self, *, takes_in: bool) -> None:
        """Raises UsageError, SpecErrors, StoreUnavailable or SecretUnavailable for what is set up wrongly."""
        env = os.environ
        env.setdefault("CONNECT_METRICS", "emf")
        directory = env.get("CONNECT_PROJECT") or str(Path(env.get("LAMBDA_TASK_ROOT", "/var/task")) / "project")
        project = open_project(directory)
        if not project.client_files():
            raise UsageError(f"no client in {Path(directory) / 'clients'}; CONNECT_PROJECT names the project's folder")
        address = wiring.store_address(env.get("CONNECT_STORE"), project)
        if env.get("AWS_LAMBDA_FUNCTION_NAME") and address.startswith(OF_ONE_PROCESS):
            raise UsageError(
                f"{address.split(':')[0]}: would be a store of its own for every environment of this function; "
                "CONNECT_STORE names one for all, such as dynamodb://TABLE?region=REGION"
            )
        self.margin_s, self.patience_s = duration("CONNECT_MARGIN", MARGIN), duration("CONNECT_PATIENCE", PATIENCE)
        self.within_s = duration("CONNECT_WITHIN", WITHIN)
        self.base_path = env.get("CONNECT_BASE_PATH", "")
        self.connectors, self.clients = names("CONNECT_CONNECTORS"), names("CONNECT_CLIENTS")
        self.store = wiring.open_store(env.get("CONNECT_STORE"), project)
        self.alerts: Alerts
        self.engine, self.telemetry, self.alerts = wiring.make_engine(
            project,
            self.store,
            via=wiring.checked_via(env.get("CONNECT_VIA"), project),
            reach=wiring.reach(flag("CONNECT_ALLOW_PRIVATE"), project),
            workers=number("CONNECT_WORKERS"),
            log_level=env.get("CONNECT_LOG_LEVEL"),
            reloads=False,
            takes_in=self.takes_in if takes_in else lambda _connector, _client: False,
            max_store=wiring.size_of(env.get("CONNECT_MAX_STORE") or project.settings.max_store),
        )
        self.engine.prepare()  # in the time of the start, which no event waits for
        self.release = self.telemetry.catch()
        self.entrance = Entrance(self.engine, self.telemetry, project.settings) if takes_in else None
        self.began = False

    def takes_in(self, connector: str, client: str) -> bool:
        """Is it for these that events come in here, as the environment says?"""
        return connector in (self.connectors or [connector]) and client in (self.clients or [client])

    def close(self) -> None:
        """For tests; an environment of Lambda is never closed, only killed."""
        self.release()
        if self.entrance is not None:
            self.entrance.close()
        self.engine.close()
        wiring.close_alerts(self.alerts)

    @contextmanager
    def call(self, context: Any, *, lanes: bool) -> Iterator[float]:
        """The seconds there are for it; at its end nothing is left in the background. `lanes`: measure them, too."""
        left_s = context.get_remaining_time_in_millis() / 1000 if context is not None else float("inf")
        worker = self.engine.worker
        worker.ends_at = self.engine.clock.now() + left_s if context is not None else None
        self.telemetry.bind(request_id=str(getattr(context, "aws_request_id", "")))
        try:
            yield left_s
        finally:
            wiring.flush_alerts(self.alerts, max(0.0, min(ALERTS_S, worker.time_left() - ANSWER_S)))
            if self.engine.trail is not None:
                self.engine.trail.flush(TRAIL_S)
            self.telemetry.flush(lanes=lanes)

    # --- receive ---

    def receive(self, event: Any, context: Any) -> dict[str, Any]:
        from engine.door import answers
        from engine.door.gateway import Malformed, answer_event, request_of

        assert self.entrance is not None
        with self.call(context, lanes=False):
            try:
                request = request_of(event, self.base_path)
            except Malformed as error:
                answer = answers.problem(400, detail=str(error))
                self.telemetry.event("refused", connector="", status=answer.status, why=answer.why)
                return answer_event(answer)
            self.hurry(request)
            self.lead(request)
            return self.entrance.answer(request)

    def lead(self, request: Request) -> None:
        """`/connector/client`, the address of a function that is one client's, is `/connector` to the door."""
        connector, slash, client = request.scope["path"][1:].partition("/")
        if slash and connector in self.engine.connectors() and client in self.engine.client_specs:
            request.scope["path"] = f"/{connector}"

    def hurry(self, request: Request) -> None:
        """A direct caller is told in time also where the gateway waits for less than this function may take."""
        worker = self.engine.worker
        worker.margin_s = ANSWER_S
        if request.until is not None:
            until = request.until - time.time() + self.engine.clock.now()
            worker.ends_at = min(until, worker.ends_at or until)

    # --- process ---

    def process(self, event: Any, context: Any) -> dict[str, Any]:
        wanted = Wanted(event, self.engine, "process")
        worker, house = self.engine.worker, self.engine.house
        with self.call(context, lanes=True) as left_s:
            if left_s <= self.margin_s:
                raise UsageError(
                    f"this function has {left_s:.0f} s, and no batch begins in its last {self.margin_s:.0f} s "
                    "(CONNECT_MARGIN); give it a longer Timeout"
                )
            worker.only, worker.margin_s, worker.tally = wanted.has, self.margin_s, type(worker.tally)()
            house.forget()
            self.engine.mark_paused(starting=not self.began, only=wanted.has)
            self.began = True
            worker.run(until_empty=True, patience_s=self.patience_s)
            self.engine.mark_paused(only=wanted.has)
            if worker.time_left() > self.margin_s:
                house.look()
                if self.engine.watcher is not None:
                    self.engine.watcher.look()
            lanes = [lane for lane in self.store.lanes() if wanted.has(lane.connector, lane.client)]
            failed = [*self.failures(lanes, left_s)]
            counts = worker.tally.counts
            summary = {
                "lanes": len(worker.tally.lanes),
                **{name: counts[name] for name in ("delivered", "rejected", "skipped")},
                "retried": counts["later"],
                "waiting": sum(lane.waiting for lane in lanes),
                "failed": [each.shown() for each in failed],
            }
            self.telemetry.event("processed", **summary)
            require(failed, "see `connect status`")
            return summary

    def failures(self, lanes: list[Lane], left_s: float) -> Iterator[Failure]:
        """The lanes that were not served, and why: they fail, are paused, or need more time than there is."""
        from engine.runtime import BY_HAND

        worker = self.engine.worker
        for lane in lanes:
            at, name = (lane.connector, lane.client), f"{lane.connector}/{lane.client}"
            reason = self.shown(lane.reason or "")
            if lane.state == "paused":
                if lane.waiting and not reason.startswith(BY_HAND):
                    yield Failure(name, f"paused: {reason}", person=True)
                continue
            if (why := worker.tally.failed.get(at)) is not None:
                yield Failure(name, self.shown(why), person=True)
            elif lane.failing_since is not None:
                yield Failure(name, reason, person=False)
            held = [key[2] for key, until in list(worker.held.items()) if key[:2] == at and until == float("inf")]
            for action in held:
                yield Failure(name, f"the action {action} is paused", person=True)
            needs_s = worker.needs_s(self.engine.program_or_none(*at))
            if lane.waiting and needs_s >= left_s:
                why = (
                    f"it needs {needs_s:.0f} s at least, and this function has {left_s:.0f} s; give it a longer Timeout"
                )
                yield Failure(name, why, person=True)

    # --- refresh_tokens ---

    def refresh_tokens(self, event: Any, context: Any) -> dict[str, Any]:
        wanted = Wanted(event, self.engine, "refresh_tokens")
        within_s = wanted.duration("within", self.within_s)
        done: dict[bool, list[str]] = {True: [], False: []}
        failed: list[Failure] = []
        with self.call(context, lanes=False):
            for connector, client in wanted.lanes():
                for auth in self.log_ins(connector, client, failed):
                    name = f"{connector}/{client}" + ("" if auth == "default" else f" {auth}")
                    try:
                        done[self.renewed(connector, client, auth, within_s)].append(name)
                    except Exception as error:  # of one log-in; the others are renewed all the same
                        why = str(error) if isinstance(error, ConnectError) else told(error)
                        failed.append(Failure(name, self.shown(why), person=True))
            summary = {
                "renewed": done[True],
                "lasting": len(done[False]),
                "failed": [each.shown() for each in failed],
            }
            self.telemetry.event("refreshed", **summary)
            require(failed, "see `connect check CONNECTOR CLIENT`")
            return summary

    def log_ins(self, connector: str, client: str, failed: list[Failure]) -> list[str]:
        """The ways to log in that this client uses and that yield a token."""
        try:
            program: Program = self.engine.program(connector, client)
        except (UsageError, SpecErrors) as error:
            failed.append(Failure(f"{connector}/{client}", str(error), person=True))
            return []
        return [name for name in sorted(program.used_auths) if program.auths[name].spec.token is not None]

    def renewed(self, connector: str, client: str, auth: str, within_s: float) -> bool:
        from engine.walk import Walk

        program, worker = self.engine.program(connector, client), self.engine.worker
        worker.margin_s = ANSWER_S
        if worker.time_left() <= worker.needs_s(program):
            raise UsageError("no time was left for it; give this function a longer Timeout")
        wire = Walk(worker.world, program, keep_alive=lambda: None).wire
        return program.auths[auth].renew_ahead(wire, within_s)

    def shown(self, why: str) -> str:
        return addresses(self.engine.masker.mask(why))


class Entrance:
    """The door, on an event loop that is only run while a call lasts."""

    def __init__(self, engine: Engine, telemetry: Any, settings: Any) -> None:
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        from engine.door.events import Door

        env = os.environ
        limits = wiring.door_limits(
            env.get("CONNECT_ADDRESS_RATE") or settings.address_rate, env.get("CONNECT_PROXIES"), settings.proxies
        )
        self.pool = ThreadPoolExecutor(limits.direct_workers, thread_name_prefix="direct")
        self.beside = ThreadPoolExecutor(1, thread_name_prefix="large")
        self.door = Door(
            engine,
            limits=limits,
            pool=self.pool,
            beside=self.beside,
            telemetry=telemetry,
            clock=engine.clock.now,
            traces=engine.traces,
        )
        self.loop = asyncio.new_event_loop()

    def answer(self, request: Request) -> dict[str, Any]:
        from engine.door.gateway import answered

        return self.loop.run_until_complete(answered(self.door, request)).event()

    def close(self) -> None:
        self.pool.shutdown()
        self.beside.shutdown()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


class Wanted:
    """What an event asks for: some connectors, some clients, or all. UsageError for an unknown name."""

    def __init__(self, event: Any, engine: Engine, function: str) -> None:
        if event is not None and not isinstance(event, dict):
            raise UsageError(
                f'{function} takes an object, such as {{}} or {{"clients": ["NAME"]}}, and no {type(event).__name__}'
            )
        self.event, self.engine = event or {}, engine
        bound = {name for client in engine.client_specs.values() for name in client.connectors}
        self.connectors = self.named("connectors", bound)
        self.clients = self.named("clients", set(engine.client_specs))

    def named(self, kind: str, known: set[str]) -> set[str] | None:
        given = self.event.get(kind)
        if given is None:
            return None
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
            raise UsageError(f"{kind}: a list of names, such as {sorted(known)[:1]}")
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"{kind}: there is no {unknown[0][:100]}; there are {', '.join(sorted(known))}")
        return set(names)

    def has(self, connector: str, client: str) -> bool:
        return (self.connectors is None or connector in self.connectors) and (
            self.clients is None or client in self.clients
        )

    def lanes(self) -> list[tuple[str, str]]:
        """The active ones."""
        return [
            (connector, name)
            for name, client in self.engine.client_specs.items()
            for connector, binding in client.connectors.items()
            if client.active and binding.active and self.has(connector, name)
        ]

    def duration(self, key: str, default_s: float) -> float:
        return seconds(key, self.event[key]) if self.event.get(key) is not None else default_s


def require(failed: list[Failure], hint: str) -> None:
    """LanesFailed where any of them needs a person."""
    if acting := [each for each in failed if each.person]:
        lanes = "; ".join(f"{each.lane}: {each.why}" for each in acting[:10])
        more = f"; and {len(acting) - 10} more" if len(acting) > 10 else ""
        need = "lane needs" if len(acting) == 1 else "lanes need"
        raise LanesFailed(f"{len(acting)} {need} a person: {lanes}{more}; {hint}")


def names(variable: str) -> list[str]:
    return os.environ.get(variable, "").replace(",", " ").split()


def duration(name: str, default: str) -> float:
    return seconds(name, os.environ.get(name) or default)


def seconds(name: str, text: Any) -> float:
    try:
        return units.duration(text)
    except (units.UnitError, TypeError, AttributeError) as error:
        raise UsageError(f"{name}: {error}") from None


def number(name: str) -> int | None:
    """What an environment variable counts, from 1 on; None where it says nothing."""
    text = os.environ.get(name, "")
    if text and not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_WORKERS):
        raise UsageError(f"{name}: a number from 1 to {MOST_WORKERS}, not {text[:20]}")
    return int(text) if text else None


def flag(name: str) -> bool | None:
    """What an environment variable says that is on or off; None where it says nothing."""
    text = os.environ.get(name, "").lower()
    if text not in ("", "1", "true", "yes", "on", "0", "false", "no", "off"):
        raise UsageError(f"{name}: true or false, not {text[:20]}")
    return text in ("1", "true", "yes", "on") if text else None


if os.environ.get("_HANDLER", "").startswith(f"{__name__}."):  # what Lambda is to call
    functions(takes_in=os.environ["_HANDLER"] == f"{__name__}.receive")
