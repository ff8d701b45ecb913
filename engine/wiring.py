"""Environment and `connect.yaml` -> an engine with its store, log and alerts: what every door starts with."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.alerts.desk import Desk
    from engine.alerts.rules import Rules
    from engine.alerts.ways import Way
    from engine.door.events import Limits
    from engine.egress import Egress
    from engine.ports import Alerts, Clock, Store, Telemetry, Traces
    from engine.privacy.masking import Masker
    from engine.runtime import Engine
    from engine.secrets import OwnSettings, SecretSources
    from engine.spec.project import Project
    from engine.telemetry.emf import EmfMetrics
    from engine.telemetry.log import Telemetry as Logging
    from engine.trail.recording import Recorder

# compiled when they are needed: each command imports this
_PROXY = r"https?://([^/@\s]+@)?[^/@:\s]+(:[0-9]+)?/?"
_MAILBOX = r"[^@\s<>,;:\"]+@[A-Za-z0-9.-]+"
_VIA = r"http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?/?"


def checked_via(given: str | None, project: Project) -> str | None:
    """The address that stands in for all vendors; only one of this machine, for log-ins go there in plain text."""
    found = given or project.settings.via
    if found is not None and not re.fullmatch(_VIA, found):
        raise UsageError(f"--via {found}: only this machine, such as http://127.0.0.1:8090")
    return found


def reach(allowed: bool | None, project: Project) -> Egress:
    """What requests may reach: public addresses, private ones where that is said, and a proxy where one is named."""
    from engine.egress import Egress

    settings = project.settings
    proxy = os.environ.get("CONNECT_PROXY") or settings.proxy
    if proxy is not None and not re.fullmatch(_PROXY, proxy):
        raise UsageError("CONNECT_PROXY: an address such as http://proxy.example.com:3128")
    return Egress(allow_private=settings.allow_private if allowed is None else allowed, proxy=proxy)


def store_address(given: str | None, project: Project) -> str:
    return given or project.settings.store


def open_store(given: str | None, project: Project) -> Store:
    from engine.stores import opening

    return opening.open_store(store_address(given, project), project.directory, name=project.settings.name)


def size_of(text: str | None) -> int | None:
    """UsageError for what is no size."""
    from engine.spec.units import UnitError, size

    try:
        return size(text) if text else None
    except UnitError as error:
        raise UsageError(f"--max-store: {error}") from None


def door_limits(rate: str | None, given: str | None, proxies: Sequence[str]) -> Limits:
    """UsageError for what is no rate, or no network."""
    from ipaddress import ip_network

    from engine.door.events import Limits
    from engine.spec import units

    named = given.replace(",", " ").split() if given is not None else proxies
    try:
        networks = tuple(ip_network(each) for each in named)
    except ValueError as error:
        raise UsageError(f"--proxies: {error}") from None
    try:
        return Limits(address_rate=units.rate(rate) if rate else None, proxies=networks)
    except units.UnitError as error:
        raise UsageError(f"--address-rate: {error}") from None


class Masking:
    """The masker of an engine that is made after the log it writes to."""

    def __init__(self) -> None:
        self.masker: Masker | None = None

    def __call__(self, text: str) -> str:
        return self.masker.mask(text) if self.masker is not None else text


def make_engine(
    project: Project,
    store: Store,
    *,
    via: str | None,
    reach: Egress,
    workers: int | None,
    log_level: str | None,
    reloads: bool = True,
    takes_in: Callable[[str, str], bool] = lambda _connector, _client: True,
    max_store: int | None = None,
) -> tuple[Engine, Logging, Alerts]:
    """An engine that logs to stderr, counts, and alerts as the environment says."""
    from engine.clock import SystemClock
    from engine.runtime import Engine
    from engine.telemetry.log import Telemetry
    from engine.upkeep.counts import DeadCounts

    masking = Masking()
    how, traces = metrics_of(project), make_traces(lambda why: telemetry.event("traces-failed", why=why))
    telemetry = Telemetry(
        mask=masking,
        level=log_level or project.settings.log_level,
        prometheus=how != "emf",
        emf=make_emf(masking) if how != "prometheus" else None,
        traces=traces,
    )
    clock = getattr(store, "clock", None) or SystemClock()
    alerts = make_alerts(project, store, telemetry, reach, masking, clock)
    engine = Engine(
        project,
        store,
        clock=clock,
        telemetry=telemetry,
        alerts=alerts,
        via=via,
        reach=reach,
        workers=workers or project.settings.workers,
        reloads=reloads,
        takes_in=takes_in,
        max_store=max_store,
        traces=traces,
        trail=make_trail(project, store, clock, telemetry),
    )
    masking.masker = engine.masker
    telemetry.watch(engine.lanes, DeadCounts(engine.store))
    return engine, telemetry, alerts


def metrics_of(project: Project) -> str:
    """prometheus | emf | both, as CONNECT_METRICS or `connect.yaml` says."""
    found = os.environ.get("CONNECT_METRICS") or project.settings.metrics
    if found not in ("prometheus", "emf", "both"):
        raise UsageError(f"CONNECT_METRICS: one of prometheus, emf and both, not {found}")
    return found


def make_traces(failed: Callable[[str], None]) -> Traces | None:
    """As CONNECT_TRACES says: `otlp`, or none; the library is loaded only then. `failed` hears why none can be sent."""
    found = os.environ.get("CONNECT_TRACES", "").lower()
    if found not in ("", "none", "otlp"):
        raise UsageError(f"CONNECT_TRACES: otlp or none, not {found}")
    if found != "otlp" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    from engine.telemetry.tracing import otlp

    return otlp(failed)


def make_trail(project: Project, store: Store, clock: Clock, telemetry: Telemetry) -> Callable[[], Recorder | None]:
    """What opens the trail of what becomes of each event, as `trail` of `connect.yaml` says at the start."""
    settings, env = project.settings.trail, own_settings(project)

    def opened() -> Recorder | None:
        from engine.trail.opening import open_trail

        return open_trail(store, settings, env, now=clock.now, telemetry=telemetry)

    return opened


def make_emf(mask: Masking) -> EmfMetrics:
    from engine.telemetry.emf import EmfMetrics

    return EmfMetrics(mask=mask)


def own_settings(project: Project) -> OwnSettings:
    """The environment, with CONNECT_KEY and the like looked up where they are references."""
    from engine.secrets import OwnSettings

    return OwnSettings(os.environ, project.directory)


def make_alerts(
    project: Project, store: Store, telemetry: Telemetry, reach: Egress, mask: Callable[[str], str], clock: Clock
) -> Desk:
    """Whoever `alerts.to` of `connect.yaml` and the environment name is told, and the log."""
    from engine.alerts.book import Book
    from engine.alerts.desk import Desk
    from engine.alerts.ways import LogWay
    from engine.privacy.personal import addresses

    return Desk(
        Book(store, clock.now),
        [LogWay(telemetry), *alert_ways(project, reach, own_settings(project))],
        alert_rules(project),
        now=clock.now,
        telemetry=telemetry,
        mask=lambda text: addresses(mask(text)),
    )


def alert_rules(project: Project) -> Callable[[], Rules]:
    """As `connect.yaml` says now; while it can't be read, as it said last."""
    from engine.alerts.rules import Rules
    from engine.errors import SpecErrors
    from engine.spec.project import Settings

    kept: list[tuple[object, Rules]] = []

    def rules() -> Rules:
        try:
            settings = project.settings
        except SpecErrors:
            settings = Settings()
            if kept:
                return kept[0][1]
        if not kept or kept[0][0] is not settings:
            kept[:] = [(settings, Rules(settings.alerts, os.environ.get("CONNECT_ADMIN_URL") or settings.admin_url))]
        return kept[0][1]

    return rules


def alert_ways(project: Project, reach: Egress, env: Mapping[str, str]) -> list[Way]:
    """
    Of CONNECT_ALERT_WEBHOOKS (addresses, apart by blanks or commas), CONNECT_ALERT_SNS and CONNECT_ALERT_SMTP, and
    those of `connect.yaml`. UsageError for what can't be one.
    """
    named = ("CONNECT_ALERT_WEBHOOKS", "CONNECT_ALERT_SNS", "CONNECT_ALERT_SMTP")
    if not project.settings.alerts.to and not any(map(env.get, named)):
        return []
    from engine.alerts.mail import MailWay, server_of
    from engine.alerts.topic import SnsWay
    from engine.alerts.ways import PRIVATE_ALERTS, NotTaken
    from engine.alerts.webhook import WebhookWay
    from engine.egress import Egress
    from engine.secrets import SecretSources

    private = env.get(PRIVATE_ALERTS, "").lower() in ("1", "true", "yes")  # these no proxy can reach
    hooks = Egress(allow_private=True) if private else Egress(proxy=reach.proxy)
    common = (lambda: env["CONNECT_ALERT_SECRET"]) if env.get("CONNECT_ALERT_SECRET") else None
    found: list[Way] = []
    urls = env.get("CONNECT_ALERT_WEBHOOKS", "").replace(",", " ").split()
    if any(not url.startswith(("https://", "http://")) for url in urls):
        raise UsageError("CONNECT_ALERT_WEBHOOKS: addresses that begin with https://, apart by blanks or commas")
    for number, url in enumerate(urls, 1):
        found.append(WebhookWay(f"webhook-{number}", _given(url), secret=common, reach=hooks))
    if topic := env.get("CONNECT_ALERT_SNS"):
        if topic.count(":") < 5:
            raise UsageError("CONNECT_ALERT_SNS: a topic such as arn:aws:sns:sa-east-1:123456789012:alerts")
        found.append(SnsWay("sns", _given(topic)))
    mails = Egress(allow_private=private)
    if server := env.get("CONNECT_ALERT_SMTP"):
        try:
            server_of(server)
        except NotTaken as error:
            raise UsageError(f"CONNECT_ALERT_SMTP: {error.why}") from None
        sender, to = env.get("CONNECT_ALERT_FROM", ""), env.get("CONNECT_ALERT_TO", "").replace(",", " ").split()
        if not to or not all(re.fullmatch(_MAILBOX, each) for each in (sender, *to)):
            raise UsageError("CONNECT_ALERT_SMTP: CONNECT_ALERT_FROM and CONNECT_ALERT_TO name addresses, too")
        found.append(MailWay("mail", _given(server), sender=sender, to=to, reach=mails))
    sources = SecretSources(project.directory, os.environ)
    for name, way in project.settings.alerts.to.items():
        if any(each.name == name for each in found) or name == "log":
            raise UsageError(f"connect.yaml: alerts.to.{name}: another one has this name; call it otherwise")
        at = _given(way.at) if way.at.startswith("arn:") else _looked_up(sources, way.at)
        match way.by:
            case "smtp":
                found.append(MailWay(name, at, sender=way.sender or "", to=way.to, reach=mails))
            case "sns":
                found.append(SnsWay(name, at))
            case _:
                secret = _looked_up(sources, way.secret) if way.secret else common
                found.append(WebhookWay(name, at, secret=secret, slack=way.by == "slack", reach=hooks))
    return found


def _given(text: str) -> Callable[[], str]:
    return lambda: text


def _looked_up(sources: SecretSources, reference: str) -> Callable[[], str]:
    """At each use, so that a rotated one serves."""
    return lambda: sources.resolve(reference)


def flush_alerts(alerts: Alerts, timeout_s: float) -> bool:
    """Wait until those on their way have gone out, without closing; False where the time is over before."""
    from engine.alerts.desk import Desk

    return alerts.flush(timeout_s) if isinstance(alerts, Desk) else True


def close_alerts(alerts: Alerts) -> None:
    """Let those that are still on their way go out."""
    from engine.alerts.desk import Desk

    if isinstance(alerts, Desk):
        alerts.close()
