"""What a direct caller is told: the CRM's word on the event, and nothing of our hosts, addresses, secrets and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import REFUSED, START, TIMED_OUT, Shop, Vendor, reply

from engine import walk
from engine.direct import PAUSED, THROTTLED, UNREACHED, UNSENT
from engine.door.answers import answered
from engine.errors import SecretUnavailable
from engine.http import NoReply
from engine.records import LaneChange
from engine.sending import HttpTransport

if TYPE_CHECKING:
    from conftest import Answer

    from engine.http import Prepared, Reply

RECEIVE = 'receive: {mode: direct, client: "${ event.client }", id: "${ event.id }", answer: {tries: 1}}\n'
OURS = ("crm.example", "10.1.2.3", "127.0.0.1", "CRM_KEY", "/etc/keys", "engine.", "secrets.", "settings.")
INSIDE = NoReply("api.crm.example leads to 10.1.2.3, a private address", sent=False, ours=True)
FILE = NoReply("the certificate can't be used: /etc/keys/crm.pem", sent=False, ours=True)
NEVER = RECEIVE + "actions: {note: {repeat: never, record: {id: 1}, request: {path: /notes, json: {}}}}"
ELSEWHERE = RECEIVE + 'actions: {note: {record: {id: 1}, request: {url: "${ event.url }", json: {}}}}'
LOOKED = (
    RECEIVE
    + 'actions: {note: {record: {id: 1}, request: {path: /notes, json: {}}, lookups: {who: {key: "${ event.id }", '
    "sources: {a: {request: {path: /who}, rows: '${ response.body.rows }', next: '${ response.body.next }'}}}}}}"
)
LOG_IN = RECEIVE + (
    'secrets: {CRM_KEY: {}}\nauth: {token: {request: {url: "https://api.crm.example/token", method: POST, '
    "form: {key: '${ secrets.CRM_KEY }'}}, save: {value: '${ response.body.token }'}}, "
    "place: {headers: {Authorization: 'Bearer {{ token.value }}'}}}"
)
LIMITED = RECEIVE + "http: {base_url: https://api.crm.example/v1, limits: {all: {rate: '${ settings.rate }'}}}"
TURNED = reply(200, {"rows": [], "next": "https://10.1.2.3/next"})


def told(text: str, *answers: Answer, event: dict[str, str] | None = None) -> tuple[int, str, str, str]:
    """(status, outcome, what the caller reads, what operators read)."""
    shop = Shop(text, vendor=Vendor(*answers), secrets={"CRM_KEY": "abcdefgh"})
    (answer,) = shop.post({"id": "1", **(event or {})})
    kept = shop.dead()[0].reason if shop.dead() else str(shop.lane().reason)
    raw = answered(answer).body.decode()
    assert not [word for word in OURS if word in raw], raw
    return answer.status, answer.outcome, answer.reason, kept


def test_what_the_crm_says_of_the_event_is_told_as_it_is() -> None:
    text = RECEIVE + 'replies: {message: "${ response.body.error }"}'
    says = "HTTP 422 no such country"
    assert told(text, reply(422, {"error": "no such country"})) == (422, "rejected", says, says)


OUR_SIDE = {
    "an address inside": (RECEIVE, INSIDE, (503, "rejected", PAUSED, INSIDE.reason)),
    "a file": (RECEIVE, FILE, (503, "rejected", PAUSED, FILE.reason)),
    "no connection": (RECEIVE, REFUSED, (202, "waiting", UNREACHED)),
    "no answer": (RECEIVE, TIMED_OUT, (202, "waiting", UNREACHED)),
    "no answer, and none again": (NEVER, TIMED_OUT, (422, "rejected", UNSENT)),
    "a host of the event": (ELSEWHERE, reply(), (422, "rejected", UNSENT, "10.1.2.3 is not in the connector's hosts")),
    "no look-up": (LOOKED, REFUSED, (202, "waiting", UNREACHED)),
    "a page elsewhere": (LOOKED, TURNED, (202, "waiting", UNREACHED)),
    "a look-up inside": (LOOKED, INSIDE, (503, "rejected", PAUSED, INSIDE.reason)),
    "a log-in": (LOG_IN, reply(401, {"error": "bad CRM_KEY"}), (503, "rejected", PAUSED)),
    "a log-in inside": (LOG_IN, INSIDE, (503, "rejected", PAUSED, INSIDE.reason)),
    "a limit": (LIMITED, reply(), (503, "rejected", PAUSED)),
}


@pytest.mark.parametrize("name", OUR_SIDE)
def test_what_is_said_of_our_side_is_kept_for_operators(name: str) -> None:
    text, answer, expected = OUR_SIDE[name]
    assert told(text, answer, event={"url": "https://10.1.2.3/notes"})[: len(expected)] == expected


def test_a_fault_of_the_engine_is_told_without_its_place() -> None:
    def broken(_: Prepared) -> Reply:
        raise ZeroDivisionError

    shop = Shop(RECEIVE, vendor=Vendor(answer=broken))
    (answer,) = shop.post({"id": "1"})
    assert (answer.status, answer.outcome, answer.reason) == (202, "waiting", UNREACHED)


def test_a_secret_that_can_t_be_had_is_not_named_to_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object, **__: object) -> None:
        raise SecretUnavailable("env:CRM_KEY is not set")

    shop = Shop(RECEIVE)
    monkeypatch.setattr(walk.Walk, "__init__", unavailable)
    (answer,) = shop.post({"id": "1"})
    assert (answer.status, answer.outcome, answer.reason) == (503, "rejected", PAUSED)
    assert shop.reasons() == {"1": "env:CRM_KEY is not set"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (LaneChange(pause=True, reason=INSIDE.reason), (503, PAUSED)),
        (LaneChange(not_before=START + 60, reason=REFUSED.reason), (202, THROTTLED)),
    ],
)
def test_why_a_lane_stands_still_is_not_told_to_callers(change: LaneChange, expected: tuple[int, str]) -> None:
    shop = Shop(RECEIVE)
    shop.post({"id": "1"})
    shop.store.change_lane("crm", "abc", change, now=START)
    (answer,) = shop.post({"id": "2"})
    assert (answer.status, answer.reason) == expected


def test_a_name_that_leads_inside_is_told_without_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(*_: object, **__: object) -> list[object]:
        return [(2, 1, 6, "", ("10.1.2.3", 443))]

    monkeypatch.setattr("socket.getaddrinfo", resolved)
    transport = HttpTransport()
    shop = Shop(RECEIVE, vendor=transport)
    (answer,) = shop.post({"id": "1"})
    transport.close()
    assert (answer.status, answer.outcome, answer.reason) == (503, "rejected", PAUSED)
    assert shop.reasons()["1"].startswith("api.crm.example leads to 10.1.2.3, a private address")
