"""Environment and `connect.yaml` -> an engine with its store, log and alerts: what every door starts with."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.door import Limits
    from engine.egress import Egress
    from engine.emf import EmfMetrics
    from engine.ports import Alerts, Store, Telemetry
    from engine.runtime import Engine
    from engine.secrets import OwnSettings
    from engine.sending import Masker
    from engine.spec.project import Project
    from engine.telemetry import Telemetry as Logging

_PROXY = re.compile(r"https?://([^/@\s]+@)?[^/@:\s]+(:[0-9]+)?/?")
_VIA = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?/?")


def checked_via(given: str | None, project: Project) -> str | None:
    """The address that stands in for all vendors; only one of this machine, for log-ins go there in plain text."""
    found = given or project.settings.via
    if found is not None and not _VIA.fullmatch(found):
        raise UsageError(f"--via {found}: only this machine, such as http://127.0.0.1:8090")
    return found


def reach(allowed: bool | None, project: Project) -> Egress:
    """What requests may reach: public addresses, private ones where that is said, and a proxy where one is named."""
    from engine.egress import Egress

    settings = project.settings
    proxy = os.environ.get("CONNECT_PROXY") or settings.proxy
    if proxy is not None and not _PROXY.fullmatch(proxy):
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

    from engine.door import Limits
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
    from engine.runtime import Engine
    from engine.telemetry import Telemetry

    masking = Masking()
    how = metrics_of(project)
    telemetry = Telemetry(
        mask=masking,
        level=log_level or project.settings.log_level,
        prometheus=how != "emf",
        emf=make_emf(masking) if how != "prometheus" else None,
    )
    alerts = make_alerts(telemetry, reach, own_settings(project))
    engine = Engine(
        project,
        store,
        telemetry=telemetry,
        alerts=alerts,
        via=via,
        reach=reach,
        workers=workers or project.settings.workers,
        reloads=reloads,
        takes_in=takes_in,
        max_store=max_store,
    )
    masking.masker = engine.masker
    telemetry.watch(engine.lanes)
    return engine, telemetry, alerts


def metrics_of(project: Project) -> str:
    """prometheus | emf | both, as CONNECT_METRICS or `connect.yaml` says."""
    found = os.environ.get("CONNECT_METRICS") or project.settings.metrics
    if found not in ("prometheus", "emf", "both"):
        raise UsageError(f"CONNECT_METRICS: one of prometheus, emf and both, not {found}")
    return found


def make_emf(mask: Masking) -> EmfMetrics:
    from engine.emf import EmfMetrics

    return EmfMetrics(mask=mask)


def own_settings(project: Project) -> OwnSettings:
    """The environment, with CONNECT_KEY and the like looked up where they are references."""
    from engine.secrets import OwnSettings

    return OwnSettings(os.environ, project.directory)


def make_alerts(telemetry: Telemetry, reach: Egress, env: Mapping[str, str]) -> Alerts:
    """The log, and what CONNECT_ALERT_WEBHOOKS (addresses, apart by blanks or commas) and CONNECT_ALERT_SNS name."""
    from engine.alerts import PRIVATE_ALERTS, LogAlerts, SeveralAlerts, SnsAlerts, WebhookAlerts
    from engine.egress import Egress

    def failed(target: str, why: str) -> None:
        telemetry.event("fault", where="alerts", target=target, error=why)

    found: list[Alerts] = [LogAlerts(telemetry)]
    urls = env.get("CONNECT_ALERT_WEBHOOKS", "").replace(",", " ").split()
    if any(not url.startswith(("https://", "http://")) for url in urls):
        raise UsageError("CONNECT_ALERT_WEBHOOKS: addresses that begin with https://, apart by blanks or commas")
    if urls:
        private = env.get(PRIVATE_ALERTS, "").lower() in ("1", "true", "yes")  # these no proxy can reach
        hooks = Egress(allow_private=True) if private else Egress(proxy=reach.proxy)
        found.append(WebhookAlerts(urls, failed=failed, reach=hooks))
    if topic := env.get("CONNECT_ALERT_SNS"):
        if topic.count(":") < 5:
            raise UsageError("CONNECT_ALERT_SNS: a topic such as arn:aws:sns:sa-east-1:123456789012:alerts")
        found.append(SnsAlerts(topic, failed=failed))
    return SeveralAlerts(found)


def flush_alerts(alerts: Alerts, timeout_s: float) -> bool:
    """Wait until those on their way have gone out, without closing; False where the time is over before."""
    from engine.alerts import SeveralAlerts

    return alerts.flush(timeout_s) if isinstance(alerts, SeveralAlerts) else True


def close_alerts(alerts: Alerts) -> None:
    """Let those that are still on their way go out."""
    from engine.alerts import SeveralAlerts

    if isinstance(alerts, SeveralAlerts):
        alerts.close()
