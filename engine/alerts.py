"""Someone is told, by log, webhook (Slack and its kin too) or SNS: once for one trouble, never in the walk's way."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from engine import aws, egress, tls
from engine.errors import EgressRefused

if TYPE_CHECKING:
    import httpx

    from engine.ports import Alerts, Telemetry

REPEAT_S = 3600.0
KEEP = 10_000  # troubles remembered; more are told again
QUEUE = 1_000
PAUSES_S = (1.0, 5.0)  # before the second and the third try
TIMEOUT_S = 10.0
PRIVATE_ALERTS = "CONNECT_ALERT_PRIVATE"


class Alert(msgspec.Struct, frozen=True):
    """What is told; `repeated` counts the same trouble since it was last told."""

    kind: str
    connector: str
    client: str
    text: str
    facts: dict[str, str]
    at: float
    repeated: int = 0

    def line(self) -> str:
        """One line for people."""
        again = f" ({self.repeated} more since the last alert)" if self.repeated else ""
        return f"{self.text}{again}"


class Once:
    """One alert for one trouble: the same (kind, connector, client) again after an hour at the earliest."""

    def __init__(self, repeat_s: float = REPEAT_S) -> None:
        self._repeat_s = repeat_s
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def passes(self, kind: str, connector: str, client: str, now: float) -> int | None:
        """How often it was held back since it was last told, or None while it is to be held back."""
        trouble = (kind, connector, client)
        with self._lock:
            told_at, held_back = self._told.get(trouble, (None, 0))
            if told_at is not None and now - told_at < self._repeat_s:
                self._told[trouble] = (told_at, held_back + 1)
                return None
            if told_at is None and len(self._told) >= KEEP:
                del self._told[next(iter(self._told))]
            self._told.pop(trouble, None)
            self._told[trouble] = (now, 0)
            return held_back

    def forget(self, alert: Alert) -> None:
        """It could not be told: the next one of its kind is not held back."""
        with self._lock:
            self._told.pop((alert.kind, alert.connector, alert.client), None)


class LogAlerts:
    """Alerts as `alert` events of the telemetry: a line in the log and a count."""

    def __init__(
        self, telemetry: Telemetry, *, repeat_s: float = REPEAT_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._telemetry, self._clock = telemetry, clock
        self._once = Once(repeat_s)

    def alert(self, kind: str, *, connector: str, client: str, text: str, facts: Mapping[str, str]) -> None:
        repeated = self._once.passes(kind, connector, client, self._clock())
        if repeated is not None:
            told = Alert(kind, connector, client, text, dict(facts), self._clock(), repeated)
            self._telemetry.event(
                "alert", kind=kind, connector=connector, client=client, text=told.line(), facts=told.facts
            )


class SeveralAlerts:
    """All of them are told."""

    def __init__(self, alerts: Sequence[Alerts]) -> None:
        self._alerts = tuple(alerts)

    def alert(self, kind: str, *, connector: str, client: str, text: str, facts: Mapping[str, str]) -> None:
        for alerts in self._alerts:
            alerts.alert(kind, connector=connector, client=client, text=text, facts=facts)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until what is queued has gone out, or was given up; False where the time is over before."""
        until = time.monotonic() + timeout_s
        background = [alerts for alerts in self._alerts if isinstance(alerts, BackgroundAlerts)]
        return all(alerts.flush(until - time.monotonic()) for alerts in background)

    def close(self, timeout_s: float = 5.0) -> None:
        """Let those that send in the background finish."""
        for alerts in self._alerts:
            if isinstance(alerts, BackgroundAlerts):
                alerts.close(timeout_s)


class BackgroundAlerts(ABC):
    """
    Alerts that a thread of its own carries out; `alert` returns at once and drops what a full queue can't hold.

    `failed` is told the target and the kind of error of an alert that three tries did not carry, never an address.
    """

    def __init__(
        self,
        *,
        repeat_s: float = REPEAT_S,
        pauses_s: Sequence[float] = PAUSES_S,
        clock: Callable[[], float] = time.time,
        failed: Callable[[str, str], None] = lambda _target, _why: None,
        limit: int = QUEUE,
    ) -> None:
        self._pauses_s, self._clock, self._failed = tuple(pauses_s), clock, failed
        self._once = Once(repeat_s)
        self._queue: queue.Queue[Alert | None] = queue.Queue(limit)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._waiting = 0  # alerts that are queued or under way
        self._told = threading.Condition()

    def alert(self, kind: str, *, connector: str, client: str, text: str, facts: Mapping[str, str]) -> None:
        if self._closing.is_set():
            return
        repeated = self._once.passes(kind, connector, client, self._clock())
        if repeated is None:
            return
        told = Alert(kind, connector, client, text, dict(facts), self._clock(), repeated)
        with self._told:
            try:
                self._queue.put_nowait(told)
            except queue.Full:
                self._once.forget(told)
                return
            self._waiting += 1
        self._start()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """
        Wait until what is queued has gone out, or was given up; False where the time is over before.

        A process that is frozen between its turns, as a Lambda is, calls it at the end of each.
        """
        with self._told:
            return self._told.wait_for(lambda: self._waiting == 0, max(0.0, timeout_s))

    def close(self, timeout_s: float = 5.0) -> None:
        """Carry out what is queued, for `timeout_s` seconds at most; later alerts are dropped."""
        self._closing.set()
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=timeout_s)
            except queue.Full:
                return
            self._thread.join(timeout_s)

    @abstractmethod
    def targets(self) -> Sequence[str]:
        """Where each alert goes; what `send` takes."""

    @abstractmethod
    def send(self, target: str, alert: Alert) -> None:
        """Tell one target; any exception counts as not told."""

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (alert := self._queue.get()) is not None:
            told = [self._tell(target, alert) for target in self.targets()]
            if not any(told):
                self._once.forget(alert)
            with self._told:
                self._waiting -= 1
                self._told.notify_all()

    def why(self, error: Exception) -> str:
        """What is told of an error; never its own text, which may name a secret address."""
        return _why(error)

    def _tell(self, target: str, alert: Alert) -> bool:
        for pause_s in (*self._pauses_s, None):
            try:
                self.send(target, alert)
                return True
            except Exception as error:  # whatever it is, the walk must not hear of it
                why = self.why(error)
            if pause_s is not None:
                self._closing.wait(pause_s)
        self._failed(_shown(target), why)
        return False


class WebhookAlerts(BackgroundAlerts):
    """
    POSTs `{"text", "kind", "connector", "client", "facts", "at"}` to each URL; to Slack only the text.

    Mattermost, Rocket.Chat, Google Chat and others read `text` and pass over the rest.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        repeat_s: float = REPEAT_S,
        pauses_s: Sequence[float] = PAUSES_S,
        clock: Callable[[], float] = time.time,
        failed: Callable[[str, str], None] = lambda _target, _why: None,
        limit: int = QUEUE,
        reach: egress.Egress = egress.PUBLIC,
    ) -> None:
        super().__init__(repeat_s=repeat_s, pauses_s=pauses_s, clock=clock, failed=failed, limit=limit)
        self._urls, self._reach = tuple(urls), reach
        self._http: httpx.Client | None = None

    def targets(self) -> Sequence[str]:
        return self._urls

    def send(self, target: str, alert: Alert) -> None:
        if self._http is None:
            self._http = egress.client(self._reach, tls.context(None), TIMEOUT_S)
        reply = self._http.post(
            target,
            content=msgspec.json.encode(webhook_body(alert, slack=urlsplit(target).hostname == "hooks.slack.com")),
            headers={"content-type": "application/json"},
        )
        reply.raise_for_status()

    def _run(self) -> None:
        super()._run()
        if self._http is not None:
            self._http.close()


class SnsAlerts(BackgroundAlerts):
    """Publishes to an SNS topic; `sns` stands in for boto3's client."""

    def __init__(
        self,
        topic_arn: str,
        *,
        sns: Any = None,
        repeat_s: float = REPEAT_S,
        pauses_s: Sequence[float] = PAUSES_S,
        clock: Callable[[], float] = time.time,
        failed: Callable[[str, str], None] = lambda _target, _why: None,
        limit: int = QUEUE,
    ) -> None:
        super().__init__(repeat_s=repeat_s, pauses_s=pauses_s, clock=clock, failed=failed, limit=limit)
        self._topic_arn, self._sns = topic_arn, sns

    def targets(self) -> Sequence[str]:
        return (self._topic_arn,)

    def send(self, target: str, alert: Alert) -> None:
        if self._sns is None:
            self._sns = aws.client("sns", aws.region_of(target))
        message = msgspec.json.encode(webhook_body(alert))
        fifo = {}
        if target.endswith(".fifo"):  # in order for each client; a repeated try within five minutes is told once
            fifo = {"MessageGroupId": _group(alert), "MessageDeduplicationId": sha256(message).hexdigest()}
        self._sns.publish(
            TopicArn=target,
            Subject=_subject(alert),
            Message=message.decode(),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in [("kind", alert.kind), ("connector", alert.connector), ("client", alert.client)]
                if value
            },
            **fifo,
        )

    def why(self, error: Exception) -> str:
        if isinstance(error, ImportError):
            return "install daxgo-connect[aws]"
        return aws.told(error, action="sns:Publish", resource="the topic")


def webhook_body(alert: Alert, *, slack: bool = False) -> dict[str, Any]:
    if slack:
        return {"text": alert.line().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
    return {
        "text": alert.line(),
        "kind": alert.kind,
        "connector": alert.connector,
        "client": alert.client,
        "facts": alert.facts,
        "at": alert.at,
    }


def _subject(alert: Alert) -> str:
    # SNS takes up to 100 printable ASCII characters.
    text = f"{alert.kind}: {alert.connector}/{alert.client}"
    return "".join(sign if " " <= sign <= "~" else "?" for sign in text)[:100]


def _group(alert: Alert) -> str:
    # SNS takes up to 128 letters, digits and signs.
    text = f"{alert.connector}/{alert.client}"
    return "".join(sign if "!" <= sign <= "~" else "_" for sign in text)[:128]


def _why(error: Exception) -> str:
    # An HTTP error's own text names the whole URL, and that is a secret with most webhooks.
    reply = getattr(error, "response", None)
    status = getattr(reply, "status_code", None)
    if isinstance(error, EgressRefused):
        return str(error).replace(egress.HINT, f"; if it is meant to, set {PRIVATE_ALERTS}=1")
    return f"HTTP {status}" if status is not None else type(error).__name__


def _shown(target: str) -> str:
    return urlsplit(target).hostname or target
