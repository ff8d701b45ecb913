"""
The loop that people write first, for two CRMs: a Jinja template for each field, compiled once; httpx; sqlite3.

It does what a drain must do at the least: it reads 200 rows, renders, sends, reads the answer record by record, and
deletes the rows in one commit. Nothing is tried again.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from jinja2 import Environment, Template

BATCH = 200
TABLES = {
    "activity": {"product_view": "Product View", "purchase": "Purchase"},
    "subject": {"product_view": "Visualizou produto", "purchase": "Comprou"},
}
RECIPIENT = {
    "recipient": {
        "emailAddress": "{{ event.email | trim | lower }}",
        "emailFormat": "HTML_FORMAT",
        "listName": {"objectName": "{{ settings.list }}"},
    },
    "optionalData": [
        {"name": "PRODUCT_ID", "value": "{{ event.product.id }}"},
        {"name": "PRODUCT_NAME", "value": "{{ event.product.name }}"},
        {"name": "PRODUCT_PRICE", "value": "{{ '%.2f' | format(event.product.price) }}"},
        {"name": "PRODUCT_IMAGE", "value": "{{ event.product.image }}"},
        {"name": "PRODUCT_URL", "value": "{{ event.product.url }}"},
        {"name": "EVENT_TYPE", "value": "{{ event.eventType }}"},
    ],
}
TASK = {
    "attributes": {"type": "Task"},
    "Subject": "{{ tables.subject[event.eventType] }}: {{ event.product.name | truncate(200, true, '') }}",
    "Description": "Produto: {{ event.product.name }} ({{ event.product.id }})\n"
    "Preço: {{ event.product.price | money }}\nURL: {{ event.product.url }}",
    "Status": "Completed",
    "Priority": "Normal",
    "WhoId": "{{ person.Id }}",
    "ActivityDate": "{{ event.timestamp | local_day }}",
    "Type": "{{ tables.activity[event.eventType] }}",
}
SOQL = "SELECT Id, Email FROM {} WHERE Email IN ({}){} ORDER BY LastModifiedDate DESC"


def money(value: float) -> str:
    return f"R$ {value:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")


def local_day(text: str) -> str:
    from datetime import datetime

    return datetime.fromisoformat(text).astimezone(ZoneInfo("America/Sao_Paulo")).strftime("%Y-%m-%d")


def compiled(environment: Environment, spec: Any) -> Any:
    if isinstance(spec, dict):
        return {key: compiled(environment, value) for key, value in spec.items()}
    if isinstance(spec, list):
        return [compiled(environment, value) for value in spec]
    return environment.from_string(spec) if "{{" in spec else spec


def rendered(tree: Any, context: dict[str, Any]) -> Any:
    if isinstance(tree, dict):
        return {key: rendered(value, context) for key, value in tree.items()}
    if isinstance(tree, list):
        return [rendered(value, context) for value in tree]
    return tree.render(context) if isinstance(tree, Template) else tree


class Loop:
    """One for each CRM: `drain` sends all that is in a table of `by_hand` and says how many."""

    def __init__(self, client: httpx.Client, base: str) -> None:
        environment = Environment()
        environment.filters |= {"money": money, "local_day": local_day}
        self.client, self.base = client, base
        self.recipient, self.task = compiled(environment, RECIPIENT), compiled(environment, TASK)

    def responsys(self, db: sqlite3.Connection) -> int:
        context = {"settings": {"list": "CONTACTS_LIST"}, "tables": TABLES}
        done = 0
        while rows := self.rows(db):
            events = [json.loads(body) for _, body in rows]
            records = [rendered(self.recipient, {**context, "event": event}) for event in events]
            url = f"{self.base}/rest/api/v1.3/events/{events[0]['eventType']}"
            reply = self.client.post(url, json={"customEvent": {}, "recipientData": records})
            results = reply.raise_for_status().json()
            done += self.leave(db, [row[0] for row, said in zip(rows, results, strict=True) if said["success"]])
        return done

    def salesforce(self, db: sqlite3.Connection) -> int:
        base, done = f"{self.base}/services/data/v59.0", 0
        while rows := self.rows(db):
            events = [json.loads(body) for _, body in rows]
            emails = [event["email"].strip().lower() for event in events]
            people: dict[str, Any] = {}
            for of, more in (("Contact", ""), ("Lead", " AND IsConverted = false")):
                left = [email for email in emails if email not in people]
                for at in range(0, len(left), 100):
                    keys = ",".join(f"'{email}'" for email in left[at : at + 100])
                    reply = self.client.get(f"{base}/query", params={"q": SOQL.format(of, keys, more)})
                    people |= {row["Email"].lower(): row for row in reply.raise_for_status().json()["records"]}
            records = [
                rendered(self.task, {"event": event, "tables": TABLES, "person": people[email]})
                for event, email in zip(events, emails, strict=True)
            ]
            reply = self.client.post(f"{base}/composite/sobjects", json={"allOrNone": False, "records": records})
            results = reply.raise_for_status().json()
            done += self.leave(db, [row[0] for row, said in zip(rows, results, strict=True) if said["success"]])
        return done

    @staticmethod
    def rows(db: sqlite3.Connection) -> list[tuple[int, bytes]]:
        return db.execute(
            "SELECT id, body FROM events INDEXED BY due WHERE reason IS NULL AND due_at <= 0 ORDER BY due_at, id"
            " LIMIT ?",
            (BATCH,),
        ).fetchall()

    @staticmethod
    def leave(db: sqlite3.Connection, gone: list[int]) -> int:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("DELETE FROM events WHERE id = ?", [(number,) for number in gone])
        db.execute("COMMIT")
        return len(gone)
