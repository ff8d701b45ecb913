"""Webhook, Slack and mail, each at a real receiver on the loopback, well and ill."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from alert_receivers import Hook, Mailbox, silent
from conftest import START
from test_tls import ROOT, SERVER

from engine.alerts.ledger import OPEN, Entry, Trouble
from engine.alerts.mail import MailWay, letter_of, server_of
from engine.alerts.messages import Message, of_one, of_test
from engine.alerts.rules import Rules
from engine.alerts.topic import SnsWay
from engine.alerts.ways import NotTaken, Sent, Way, told
from engine.alerts.webhook import WebhookWay, retry_after
from engine.egress import LOOPBACK, PUBLIC
from engine.spec.project import AlertSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULES = Rules(AlertSettings())
SECRET = "whsec_" + base64.b64encode(b"a secret of the tests").decode()


def message(client: str = "loja-abc", text: str = "crm/loja-abc: HTTP 401") -> Message:
    entry = Entry(Trouble("lane-paused", "crm", client, text, START, {"kept": "100"}), START, START)
    return of_one(entry, OPEN, RULES, START)


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


def webhook(hook: Hook, **how: Any) -> WebhookWay:
    return WebhookWay("ops", lambda: hook.url, **{"reach": LOOPBACK, **how})


def tried(way: Way, what: Message | None = None, **how: Any) -> Sent:
    found = told(way, what or message(), **{"pauses_s": (0.0, 0.0), **how})
    way.close()
    return found


# --- webhooks ---


def test_a_webhook_gets_text_for_people_and_fields_for_programs(hook: Hook) -> None:
    assert tried(webhook(hook)) == Sent(True, "HTTP 200")
    [(headers, body)] = hook.raw
    do = RULES.do("lane-paused", "crm", "loja-abc")
    assert do.endswith("or `connect resume crm loja-abc`.")
    assert json.loads(body) == {
        "text": f"crm/loja-abc: HTTP 401\nsince 10:30 UTC\nwhat to do: {do}",
        "id": message().id,
        "kind": "lane-paused",
        "state": "open",
        "severity": "error",
        "connector": "crm",
        "client": "loja-abc",
        "what": "crm/loja-abc: HTTP 401",
        "since": "2026-01-28T10:30:45Z",
        "at": "2026-01-28T10:30:45Z",
        "facts": {"kept": "100"},
        "do": do,
    }
    assert headers["content-type"] == "application/json"
    assert headers.keys() & {"webhook-id", "webhook-signature", "x-connect-signature"} == set()


def test_a_webhook_is_signed_as_standard_webhooks_says_and_as_our_own_door_takes_it(hook: Hook) -> None:
    assert tried(webhook(hook, secret=lambda: SECRET, clock=lambda: START)).told
    [(headers, body)] = hook.raw
    whole = f"{message().id}.{int(START)}.".encode() + body
    standard = base64.b64encode(hmac.new(b"a secret of the tests", whole, hashlib.sha256).digest()).decode()
    ours = hmac.new(SECRET.encode(), f"{int(START)}.".encode() + body, hashlib.sha256).hexdigest()
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (message().id, str(int(START)))
    assert headers["webhook-signature"] == f"v1,{standard}"
    assert headers["x-connect-signature"] == f"t={int(START)},v1={ours}"


def test_a_signature_is_the_one_of_the_specification_s_own_example() -> None:
    from engine.alerts.webhook import signed

    body = b'{"test": 2432232314}'
    found = signed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_slack_gets_only_its_text_escaped(hook: Hook) -> None:
    assert tried(webhook(hook, slack=True), message(text="<!channel> & co")).told
    [body] = hook.bodies
    assert list(body) == ["text"]
    assert body["text"].split("\n")[:2] == ["*lane-paused: crm/loja-abc*", "&lt;!channel&gt; &amp; co"]


def test_a_failed_alert_is_tried_three_times_and_reported_without_its_address(hook: Hook) -> None:
    hook.statuses = [500, 503, 404]
    way = webhook(hook)
    assert (tried(way), way.shown, len(hook.bodies)) == (Sent(False, "HTTP 404"), "127.0.0.1", 3)


def test_a_repeated_try_has_the_same_id(hook: Hook) -> None:
    hook.statuses = [500, 200]
    assert tried(webhook(hook, secret=lambda: SECRET)) == Sent(True, "HTTP 200")
    assert len({headers["webhook-id"] for headers, _ in hook.raw}) == 1


def test_a_429_is_waited_for_as_long_as_it_says(hook: Hook) -> None:
    hook.statuses, hook.headers = [429, 200], {"retry-after": "7"}
    waited: list[float] = []
    assert tried(webhook(hook), wait=waited.append) == Sent(True, "HTTP 200")
    assert waited == [7.0]


def test_a_429_that_asks_for_long_is_for_later(hook: Hook) -> None:
    hook.statuses, hook.headers = [429], {"retry-after": "900"}
    assert tried(webhook(hook)) == Sent(False, "HTTP 429", 900.0)
    assert len(hook.bodies) == 1


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7.0), ("Wed, 28 Jan 2026 10:31:15 GMT", 30.0), ("soon", None), ("", None), (None, None), ("-1", None)],
)
def test_retry_after_is_a_number_or_a_date(given: str | None, seconds: float | None) -> None:
    assert retry_after(given, START) == seconds


def test_a_webhook_that_hangs_has_an_end(hook: Hook) -> None:
    hook.gate.clear()
    began = time.monotonic()
    assert tried(webhook(hook, timeout_s=0.2)) == Sent(False, "ReadTimeout")
    assert time.monotonic() - began < 5


def test_a_webhook_that_answers_in_drips_has_an_end() -> None:
    stop = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            while not stop.wait(0.05):
                connection.sendall(b".")

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        began = time.monotonic()
        sent = tried(WebhookWay("ops", lambda: url, reach=LOOPBACK, timeout_s=0.5), pauses_s=())
        took_s = time.monotonic() - began
        stop.set()
        thread.join()
    assert (sent, took_s < 5) == (Sent(False, "ReadTimeout"), True)


def test_a_webhook_that_is_down_is_reported_by_the_kind_of_error() -> None:
    assert tried(WebhookWay("ops", lambda: "http://127.0.0.1:1/s3cr3t", reach=LOOPBACK)) == Sent(False, "ConnectError")


def test_a_webhook_on_a_private_address_is_told_only_where_that_is_allowed(hook: Hook) -> None:
    why = "127.0.0.1 is an address of this machine; requests go to public addresses only"
    hint = "; if it is meant to, set CONNECT_ALERT_PRIVATE=1"
    safe = hook.url.replace("http:", "https:")
    assert (tried(WebhookWay("ops", lambda: safe)), hook.bodies) == (Sent(False, f"{why}{hint}"), [])


@pytest.mark.parametrize(
    ("secret", "url", "says"),
    [
        ("whsec_???", "http://127.0.0.1:1", "the secret begins with whsec_, and what follows is not base64"),
        ("x", "ftp://s3cr3t", "its address does not begin with https://"),
    ],
)
def test_what_is_set_up_wrongly_is_said_without_the_secret(secret: str, url: str, says: str) -> None:
    assert tried(WebhookWay("ops", lambda: url, secret=lambda: secret, reach=LOOPBACK)) == Sent(False, says)


def test_a_webhook_outside_of_ones_own_network_is_never_told_in_plain_text() -> None:
    way = WebhookWay("ops", lambda: "http://hooks.example.com/s3cr3t", reach=PUBLIC)
    assert tried(way) == Sent(False, "its address does not begin with https://")


# --- SNS ---


def test_sns_gets_a_subject_and_attributes_it_can_carry() -> None:
    class Topic:
        def __init__(self) -> None:
            self.published: list[dict[str, Any]] = []

        def publish(self, **one: Any) -> None:
            self.published.append(one)

    topic = Topic()
    assert tried(SnsWay("sns", lambda: "arn:aws:sns:sa-east-1:1:alerts", sns=topic), message("ação" + "x" * 100)).told
    [one] = topic.published
    assert one.pop("Subject") == "lane-paused: crm/a??o" + "x" * 79
    assert json.loads(one.pop("Message"))["client"] == "ação" + "x" * 100
    said = {
        "kind": "lane-paused",
        "connector": "crm",
        "client": "ação" + "x" * 100,
        "state": "open",
        "severity": "error",
    }
    assert one == {
        "TopicArn": "arn:aws:sns:sa-east-1:1:alerts",
        "MessageAttributes": {name: {"DataType": "String", "StringValue": value} for name, value in said.items()},
    }


# --- mail ---


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(of the server, of a client that trusts it)."""
    (tmp_path / "server.pem").write_text(SERVER.cert_pem + SERVER.key_pem())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.pem")
    return server, ssl.create_default_context(cadata=ROOT.cert_pem)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    yield box
    box.close()


@pytest.fixture
def port() -> Iterator[int]:
    yield from silent()


def mail(address: str, **how: Any) -> MailWay:
    to = ["ops@example.com", "ana@example.com"]
    return MailWay("mail", lambda: address, sender="connect@example.com", to=to, **{"reach": LOOPBACK, **how})


def test_a_mail_is_plain_text_to_all_who_are_named(mailbox: Mailbox) -> None:
    way = mail(f"smtp://127.0.0.1:{mailbox.port}")
    assert tried(way, message("loja-são")) == Sent(True, "SMTP 250 by 127.0.0.1")
    [letter] = mailbox.letters
    assert mailbox.envelopes == [("connect@example.com", ["ops@example.com", "ana@example.com"])]
    assert (letter["subject"], letter["from"]) == ("[connect] lane-paused: crm/loja-são", "connect@example.com")
    assert (letter["to"], letter["auto-submitted"]) == ("ops@example.com, ana@example.com", "auto-generated")
    assert letter["message-id"].startswith(f"<{message('loja-são').id}@")
    assert letter.get_content_type() == "text/plain"
    assert letter.get_content().splitlines() == message("loja-são").text.splitlines()


def test_mail_logs_in_after_starttls_with_a_user_and_a_password_that_are_decoded(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    box = Mailbox(contexts[0])
    try:
        assert tried(mail(f"smtp://ana:s3cr3t%20word@127.0.0.1:{box.port}", context=contexts[1])).told
        wrong = tried(mail(f"smtp://ana:wrong@127.0.0.1:{box.port}", context=contexts[1]))
        stranger = tried(mail(f"smtp://ana:wrong@127.0.0.1:{box.port}"))
    finally:
        box.close()
    assert (len(box.letters), box.logins[0]) == (1, b"ana")
    assert wrong == Sent(False, "SMTP 535: user name or password are refused")
    assert stranger == Sent(False, "SSLCertVerificationError")


def test_smtps_is_tls_from_the_first_byte(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    box = Mailbox(contexts[0], secure=True)
    try:
        sent = tried(mail(f"smtps://ana:s3cr3t%20word@127.0.0.1:{box.port}", context=contexts[1]))
    finally:
        box.close()
    assert (sent, len(box.letters)) == (Sent(True, "SMTP 250 by 127.0.0.1"), 1)


def test_a_user_name_is_never_sent_in_the_clear(mailbox: Mailbox) -> None:
    sent = tried(mail(f"smtp://ana:word@127.0.0.1:{mailbox.port}"))
    assert sent == Sent(False, "the server has no STARTTLS, or no log-in; a user name is not sent in the clear")
    assert (mailbox.logins, mailbox.letters) == ([], [])


def test_a_mail_server_that_is_down_refuses_or_says_nothing_has_an_end(mailbox: Mailbox, port: int) -> None:
    assert tried(mail("smtp://127.0.0.1:1")) == Sent(False, "ConnectionRefusedError")
    mailbox.answer = "451 s3cr3t later"
    assert tried(mail(f"smtp://127.0.0.1:{mailbox.port}")) == Sent(False, "SMTP 451")
    began = time.monotonic()
    assert tried(mail(f"smtp://127.0.0.1:{port}", timeout_s=0.2)) == Sent(False, "SMTPServerDisconnected")
    cut = tried(mail(f"smtp://127.0.0.1:{port}", timeout_s=20, whole_s=0.2), pauses_s=())
    assert (cut.told, time.monotonic() - began < 10) == (False, True)


def test_a_mail_server_on_a_private_address_is_reached_only_where_that_is_allowed(mailbox: Mailbox) -> None:
    sent = tried(MailWay("m", lambda: f"smtp://127.0.0.1:{mailbox.port}", sender="a@b.c", to=["a@b.c"]))
    assert (sent.told, "set CONNECT_ALERT_PRIVATE=1" in sent.answer, mailbox.letters) == (False, True, [])


def test_no_name_begins_a_header_of_its_own(mailbox: Mailbox) -> None:
    evil = "x\r\nBcc: eve@example.com\r\n\r\nbody\u2028\u202e"
    assert tried(mail(f"smtp://127.0.0.1:{mailbox.port}"), message(evil, evil)).told
    [letter] = mailbox.letters
    assert (letter["bcc"], letter["subject"]) == (None, "[connect] lane-paused: crm/x  Bcc: eve@example.com    body  ")
    assert mailbox.envelopes[0][1] == ["ops@example.com", "ana@example.com"]
    whole = letter_of(message(evil), "a@b.c", ["a@b.c"], "h").as_bytes()
    assert whole.partition(b"\r\n\r\n")[0].lower().count(b"\r\nbcc:") == 0


@pytest.mark.parametrize("address", ["http://mail", "smtp://", "smtp://host:port", "mail.example.com", "smtp://[x"])
def test_what_is_no_mail_server_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(NotTaken, match=r"^its server is no address; write an address such as smtp://user:password@"):
        server_of(address)


def test_the_ports_of_mail_are_those_of_submission() -> None:
    assert [server_of(f"{scheme}://mail.example.com").port for scheme in ("smtp", "smtps")] == [587, 465]


def test_a_test_says_that_nothing_is_wrong() -> None:
    found = of_test("loja", START, "1")
    assert found.text == "This is a test of the alerts of DaxGO Connect, by loja. Nothing is wrong."
    assert found.id != of_test("loja", START, "2").id
