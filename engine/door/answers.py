"""What a sender is told: what intake, store and CRM said about a posted body -> an HTTP answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from engine.privacy.personal import addresses

if TYPE_CHECKING:
    from engine.records import Answered, Fault, Lane, Received, Stored, Told

Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
PROBLEM = b"application/problem+json"

# http.HTTPStatus has older words for these, and they change with Python's version.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer, whole."""

    status: int
    body: bytes
    media_type: bytes = JSON
    headers: Headers = ()
    why: str = ""  # of a refusal at the door, for the log


def accepted(received: Received, stored: Sequence[Stored]) -> Answer:
    """202 for a buffered connector; an event that was there already counts as accepted and is named besides."""
    body: dict[str, Any] = {"accepted": len(stored), "ids": [event.event_id for event in stored]}
    if duplicates := [event.event_id for event in stored if event.duplicate]:
        body["duplicates"] = duplicates
    if received.faults:
        body["faults"] = [shown_fault(fault) for fault in received.faults]
    return Answer(202, encode(body), headers=retry_after(received.wait_s) if received.wait_s else ())


def answered(answer: Answered) -> Answer:
    """What the CRM said about the one event of a `direct` caller."""
    if answer.status >= 400:
        told = _outcome(answer)
        told.pop("reason", None)  # it is the detail
        failed = problem(answer.status, detail=answer.reason, **told)
        return msgspec.structs.replace(failed, why="")  # it was taken in; the CRM did not take it
    return Answer(answer.status, encode(_outcome(answer)))


def answered_list(received: Received, answers: Sequence[Answered]) -> Answer:
    """200 and what the CRM said about each event of a list; `index` is the place in the list."""
    results = [
        {"index": index, "status": answer.status, **_outcome(answer)}
        for (index, _), answer in zip(received.accepted, answers, strict=True)
    ]
    body: dict[str, Any] = {"results": results}
    if received.faults:
        body["faults"] = [shown_fault(fault) for fault in received.faults]
    return Answer(200, encode(body))


def refused(received: Received) -> Answer:
    """Nothing was accepted."""
    headers = retry_after(received.wait_s) if received.status == 429 else ()
    return problem(received.status, received.title, faults=received.faults, headers=headers)


def problem(
    status: int,
    title: str = "",
    *,
    detail: str = "",
    faults: Sequence[Fault] = (),
    headers: Headers = (),
    **more: Any,
) -> Answer:
    """An `application/problem+json` (RFC 9457); without a detail the faults are it."""
    title = title or _TITLES.get(status) or HTTPStatus(status).phrase
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail or _summary(faults) or title,
        "faults": [shown_fault(fault) for fault in faults],
        **more,
    }
    return Answer(status, encode(body), PROBLEM, headers, why=title)


def busy(detail: str, wait_s: float = 1.0) -> Answer:
    """503, and come again in a second, or later."""
    return problem(503, detail=detail, headers=retry_after(wait_s))


def too_many(detail: str, wait_s: float) -> Answer:
    """429, and come again then."""
    return problem(429, detail=detail, headers=retry_after(wait_s))


def retry_after(wait_s: float) -> Headers:
    """Whole seconds, one at least."""
    return ((b"retry-after", b"%d" % max(1, math.ceil(wait_s))),)


def shown_fault(fault: Fault) -> dict[str, Any]:
    place = {} if fault.index is None else {"index": fault.index}
    return {**place, "field": fault.field, "reason": fault.reason}


def shown_lane(lane: Lane, *, now: float) -> dict[str, Any]:
    """A lane as `connect status --json` and `GET /lanes` show it."""
    return {
        "connector": lane.connector,
        "client": lane.client,
        "state": lane.state,
        "waiting": lane.waiting,
        "delivered": lane.delivered,
        "rejected": lane.rejected,
        "skipped": lane.skipped,
        "oldest_s": None if lane.oldest_at is None else round(max(0.0, now - lane.oldest_at), 1),
        "reason": None if lane.reason is None else addresses(lane.reason),
    }


@lru_cache(maxsize=64)
def body_type(header: bytes | None) -> str | None:
    """`application/json`, a `+json` type or `text/plain`, in UTF-8; None for all that is not read here."""
    if header is None or len(header) > 200:
        return None
    kind, *parameters = [part.strip() for part in header.decode("latin-1").lower().split(";")]
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
            return None
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    return kind if is_json or kind == "text/plain" else None


def write_key(headers: dict[bytes, bytes], query: bytes) -> str | None:
    """The first of `X-Connect-Key`, `Authorization: Bearer` and `key=` in the query (sendBeacon sends no headers)."""
    if key := headers.get(b"x-connect-key"):
        return key.decode("latin-1").strip()
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and key.strip():
        return key.decode("latin-1").strip()
    if b"key=" in query:
        return dict(reversed(parse_qsl(query.decode("latin-1")))).get("key")
    return None


def _outcome(answer: Answered) -> dict[str, Any]:
    """Of several actions each is told besides, in the same words."""
    actions = {name: {"outcome": each.outcome, **_why(each)} for name, each in answer.actions.items()}
    return {
        "outcome": answer.outcome,
        "id": answer.event_id,
        **_why(answer),
        **({"actions": actions} if actions else {}),
    }


def _why(told: Answered | Told) -> dict[str, str]:
    return {"reason": told.reason} if told.reason else {}


def _summary(faults: Sequence[Fault]) -> str:
    if not faults:
        return ""
    first = f"{faults[0].field}: {faults[0].reason}" if faults[0].field else faults[0].reason
    return first if len(faults) == 1 else f"{first} (and {len(faults) - 1} more)"
