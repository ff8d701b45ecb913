"""POSTs to a webhook, signed as Standard Webhooks says, and to Slack and what reads the same."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from engine import egress, tls
from engine.alerts.ways import TIMEOUT_S, NotTaken, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from engine.alerts.messages import Message

SLACK = "hooks.slack.com"
PREFIX = "whsec_"
MOST_READ = 64 * 1024  # bytes of an answer that nobody reads


class WebhookWay(Way):
    """
    `url` and `secret` are asked for at each try, so that a rotated one serves; `secret` None: not signed.

    `slack`: only `text`, as Slack writes it. Mattermost, Rocket.Chat, Google Chat and others read `text` of either.
    """

    def __init__(
        self,
        name: str,
        url: Callable[[], str],
        *,
        secret: Callable[[], str] | None = None,
        slack: bool = False,
        reach: egress.Egress = egress.PUBLIC,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self._url, self._secret, self._slack = name, url, secret, slack
        self._reach, self._timeout_s, self._clock = reach, timeout_s, clock
        self._http: httpx.Client | None = None

    @property
    def shown(self) -> str:  # type: ignore[override]
        """The host alone: with most webhooks whoever has the whole address may write there."""
        return urlsplit(self._url()).hostname or "a webhook"

    def send(self, message: Message) -> str:
        url = self._url()
        is_ours = self._reach.allow_private or self._reach.loopback_only  # in plain text only within one's own network
        if not url.startswith(("https://", "http://") if is_ours else "https://"):
            raise NotTaken("its address does not begin with https://")
        if self._http is None:
            self._http = egress.client(self._reach, tls.context(None), self._timeout_s)
        slack = self._slack or urlsplit(url).hostname == SLACK
        body = msgspec.json.encode({"text": slack_text(message)} if slack else message.fields)
        headers = {"content-type": "application/json", "user-agent": "daxgo-connect"}
        if self._secret is not None:
            headers |= signed(self._secret(), message.id, int(self._clock()), body)
        ends_at = time.monotonic() + self._timeout_s  # an answer that drips would have no end
        with egress.ends_at(ends_at), self._http.stream("POST", url, content=body, headers=headers) as reply:
            read = 0
            for part in reply.iter_raw():
                if (read := read + len(part)) > MOST_READ:
                    break
        if reply.is_success:
            return f"HTTP {reply.status_code}"
        raise NotTaken(f"HTTP {reply.status_code}", retry_after(reply.headers.get("retry-after"), self._clock()))

    def close(self) -> None:
        if self._http is not None:
            self._http.close()


def signed(secret: str, id_: str, seconds: int, body: bytes) -> dict[str, str]:
    """
    The headers of Standard Webhooks (standardwebhooks.com), and X-Connect-Signature as our own door takes it.

    A secret that begins with `whsec_` is base64, any other is taken as it is.
    """
    key = key_of(secret)
    whole = hmac.digest(key, f"{id_}.{seconds}.".encode() + body, hashlib.sha256)
    ours = hmac.digest(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(whole).decode()}",
        "x-connect-signature": f"t={seconds},v1={ours.hex()}",
    }


def key_of(secret: str) -> bytes:
    if secret.startswith(PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            raise NotTaken("the secret begins with whsec_, and what follows is not base64") from None
    return secret.encode()


def slack_text(message: Message) -> str:
    """The subject in bold, then the text; what Slack would take for its own signs is escaped."""
    return f"*{_escaped(message.subject)}*\n{_escaped(message.text)}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def retry_after(given: str | None, now: float) -> float | None:
    """Seconds, of a number or a date; None for what is neither."""
    if not given:
        return None
    if given.strip().isdigit():
        return float(given.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - now)
    except ValueError:
        return None
