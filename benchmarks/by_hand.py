"""
What a careful engineer would write for one CRM, by hand, with httpx and sqlite3: the contestant of the whole walk.

At least once: a row leaves the table only after the answer that speaks of it, in one commit for a batch. A batch is
tried again after 5xx, 429 and broken connections, a record after its own error five times; then it is set aside with
the reason. It keeps no order of a person's events, masks nothing, knows no limit, no pause, no second process and no
other CRM; and each change of a field is a change of this file.
"""

from __future__ import annotations

import json
import sqlite3
import time
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import httpx

BATCH, TRIES = 200, 5
LIST = {"objectName": "CONTACTS_LIST"}
EVENTS = {"product_view", "category_view", "search", "add_to_cart", "cart_abandoned", "purchase"}


def opened(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(
        "CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, body BLOB NOT NULL, due_at REAL NOT NULL,"
        " tries INTEGER NOT NULL DEFAULT 0, reason TEXT)"
    )
    db.execute("CREATE INDEX IF NOT EXISTS due ON events (due_at, id) WHERE reason IS NULL")
    return db


def put(db: sqlite3.Connection, bodies: list[bytes]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO events (body, due_at) VALUES (?, 0)", [(body,) for body in bodies])
    db.execute("COMMIT")


def recipient(event: dict[str, Any]) -> dict[str, Any]:
    """The record of the connector's `trigger_event`, field for field."""
    product = event.get("product") or {}
    price = product.get("price")
    data = {
        "PRODUCT_ID": product.get("id"),
        "PRODUCT_NAME": product.get("name"),
        "PRODUCT_PRICE": str(price.quantize(Decimal("0.01"), ROUND_HALF_EVEN)) if price is not None else None,
        "PRODUCT_IMAGE": product.get("image"),
        "PRODUCT_URL": product.get("url"),
        "EVENT_TYPE": event.get("eventType"),
    }
    return {
        "recipient": {"emailAddress": event["email"].strip().lower(), "emailFormat": "HTML_FORMAT", "listName": LIST},
        "optionalData": [{"name": name, "value": value} for name, value in data.items() if value is not None],
    }


def logged_in(client: httpx.Client, base: str) -> dict[str, str]:
    form = {"user_name": "user", "password": "password", "auth_type": "password"}
    answer = client.post(f"{base}/rest/api/v1.3/auth/token", data=form).raise_for_status().json()
    return {"Authorization": answer["authToken"], "Content-Type": "application/json"}


def sent(client: httpx.Client, base: str, headers: dict[str, str], name: str, records: list[Any]) -> list[Any] | None:
    """What the CRM says of each record; None where the whole batch is to be tried again."""
    mapping = {"eventNumberDataMapping": "", "eventDateDataMapping": "", "eventStringDataMapping": ""}
    body = json.dumps({"customEvent": mapping, "recipientData": records}).encode()
    try:
        reply = client.post(f"{base}/rest/api/v1.3/events/{name}", content=body, headers=headers)
    except httpx.HTTPError:
        return None
    if reply.status_code == 401:
        headers.update(logged_in(client, base))
        return None
    if reply.status_code == 429 or reply.status_code >= 500:
        return None
    reply.raise_for_status()
    results: list[Any] = reply.json()
    return results if len(results) == len(records) else None


def drained(
    db: sqlite3.Connection,
    client: httpx.Client,
    base: str,
    slot: int = 0,
    slots: int = 1,
    headers: dict[str, str] | None = None,
) -> int:
    """Its share of the events, batch after batch, until none of them is due: how many it sent."""
    headers, done = headers or logged_in(client, base), 0
    while True:
        now = time.time()
        rows = db.execute(
            "SELECT id, body, tries FROM events INDEXED BY due WHERE reason IS NULL AND due_at <= ? AND id % ? = ?"
            " ORDER BY due_at, id LIMIT ?",
            (now, slots, slot, BATCH),
        ).fetchall()
        if not rows:
            break
        gone: list[tuple[int]] = []
        later: list[tuple[float, int, str | None, int]] = []
        groups: dict[str, list[tuple[int, int, Any]]] = {}
        for number, body, tries in rows:
            try:
                event = json.loads(body, parse_float=Decimal)
                record = recipient(event)
            except (ValueError, KeyError, AttributeError, ArithmeticError) as error:
                later.append((now, tries, f"can't be mapped: {type(error).__name__}", number))
                continue
            if event["eventType"] in EVENTS:
                groups.setdefault(event["eventType"], []).append((number, tries, record))
            else:
                gone.append((number,))
        for name, members in groups.items():
            results = sent(client, base, headers, name, [record for _, _, record in members])
            for at, (number, tries, _) in enumerate(members):
                if results is None:
                    later.append((now + 10 * 2**tries, tries + 1, None if tries < TRIES else "no answer", number))
                elif results[at]["success"]:
                    gone.append((number,))
                else:
                    later.append((now, tries, str(results[at]["errorMessage"])[:500], number))
        db.execute("BEGIN IMMEDIATE")
        db.executemany("DELETE FROM events WHERE id = ?", gone)
        db.executemany("UPDATE events SET due_at = ?, tries = ?, reason = ? WHERE id = ?", later)
        db.execute("COMMIT")
        done += len(rows)
    return done
