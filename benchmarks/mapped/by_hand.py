"""
The same three mappings as a careful person writes them in Python.

They treat missing values, empty texts and numbers as the connectors do (benchmarks/mapping.py holds both results
against each other first), but trust the types of the event schema and know no caps.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from babel.numbers import format_currency

Event = dict[str, Any]
CENT = Decimal("0.01")


def cents(amount: int | Decimal) -> str:
    return str(Decimal(amount).quantize(CENT, ROUND_HALF_UP))


def printed(value: str | int | Decimal) -> str:
    return value if isinstance(value, str) else format(value, "f") if isinstance(value, Decimal) else str(value)


def responsys(event: Event, settings: dict[str, Any], tables: dict[str, Any]) -> tuple[Event, Event]:
    """The fields, by which events are routed and put into order, and the record."""
    email = event.get("email")
    if email is not None:
        email = email.strip().lower()
    event_type = event.get("eventType")
    fields = {}
    if email is not None:
        fields["email"] = email
    if (event_name := tables["events"].get(event_type)) is not None:
        fields["event_name"] = event_name
    product = event.get("product") or {}
    recipient = {}
    if email is not None:
        recipient["emailAddress"] = email
    recipient["emailFormat"] = "HTML_FORMAT"
    named = {}
    if (folder := settings.get("folder")) is not None:
        named["folderName"] = folder
    if (listed := settings.get("list")) is not None:
        named["objectName"] = listed
    if named:
        recipient["listName"] = named
    optional = []
    if (value := product.get("id")) is not None:
        optional.append({"name": "PRODUCT_ID", "value": value})
    if (value := product.get("name")) is not None:
        optional.append({"name": "PRODUCT_NAME", "value": value})
    if (value := product.get("price")) is not None:
        optional.append({"name": "PRODUCT_PRICE", "value": cents(value)})
    if (value := product.get("image")) is not None:
        optional.append({"name": "PRODUCT_IMAGE", "value": value})
    if (value := product.get("url")) is not None:
        optional.append({"name": "PRODUCT_URL", "value": value})
    if event_type is not None:
        optional.append({"name": "EVENT_TYPE", "value": event_type})
    record: Event = {"recipient": recipient}
    if optional:
        record["optionalData"] = optional
    return fields, record


@lru_cache
def zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@lru_cache(4096)
def money(amount: int | Decimal, currency: str, locale: str) -> str:
    written: str = format_currency(Decimal(amount).quantize(CENT, ROUND_HALF_UP), currency, locale=locale)
    return written.replace("\u00a0", " ").replace("\u202f", " ")


def salesforce(
    event: Event, settings: dict[str, Any], tables: dict[str, Any], person: dict[str, Any]
) -> tuple[Event, Event]:
    email = event.get("email")
    if email is not None:
        email = email.strip().lower()
    event_type = event.get("eventType")
    activity = tables["activity"].get(event_type)
    fields = {}
    if email is not None:
        fields["email"] = email
    if activity is not None:
        fields["activity"] = activity
    product = event.get("product") or {}
    name = product.get("name")
    record: Event = {}
    verb = tables["subject"].get(event_type)
    if verb is not None and name is not None:
        record["Subject"] = f"{verb}: {name[:200]}"
    lines = []
    if name is not None and (product_id := product.get("id")) is not None:
        lines.append(f"Produto: {name} ({product_id})")
    if (price := product.get("price")) is not None:
        currency = event.get("currency")
        if currency is None:
            currency = settings["currency"]
        lines.append(f"Preço: {money(price, currency, settings['locale'])}")
    if (url := product.get("url")) is not None:
        lines.append(f"URL: {url}")
    if lines:
        record["Description"] = "\n".join(lines)
    record["Status"] = "Completed"
    record["Priority"] = "Normal"
    if (who := person.get("Id")) is not None:
        record["WhoId"] = who
    if (timestamp := event.get("timestamp")) is not None:
        record["ActivityDate"] = f"{local(timestamp, settings['timezone']):%Y-%m-%d}"
    if activity is not None:
        record["Type"] = activity
    record["attributes"] = {"type": "Task"}
    return fields, record


def local(timestamp: str, timezone: str) -> datetime:
    """A time without an offset is UTC, as in the connectors."""
    at = datetime.fromisoformat(timestamp)
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return at.astimezone(zone(timezone))


def put(record: Event, key: str, value: Any) -> None:
    """Neither what is missing nor an empty text."""
    if value is not None and value != "":
        record[key] = value


def sixty(event: Event, settings: dict[str, Any], tables: dict[str, Any]) -> tuple[Event, Event]:
    email = event.get("email")
    if email is not None:
        email = email.strip().lower()
    event_type = event.get("eventType")
    activity = tables["activity"].get(event_type, "Other")
    fields = {"activity": activity} if email is None else {"email": email, "activity": activity}
    record: Event = {}
    put(record, "id", event.get("eventId"))
    put(record, "email", email)
    put(record, "activity", activity)
    record["source"] = "website"
    record["channel"] = "web"
    record["version"] = 2
    put(record, "event_type", event_type)
    put(record, "session", event.get("sessionId"))
    put(record, "client", event.get("clientId"))
    if (timestamp := event.get("timestamp")) is not None:
        put(record, "occurred_at", timestamp)
        at = local(timestamp, settings["timezone"])
        record["day"] = f"{at:%Y-%m-%d}"
        record["hour"] = f"{at:%H}"
        record["epoch"] = int(at.timestamp())
    record["person"] = person(event)
    if page := page_of(event):
        record["page"] = page
    utm = event.get("utm") or {}
    if (source := utm.get("source")) and (medium := utm.get("medium")):
        campaign = {"source": source, "medium": medium.lower()}
        put(campaign, "name", utm.get("campaign"))
        put(campaign, "term", utm.get("term"))
        put(campaign, "content", utm.get("content"))
        campaign["label"] = f"{source} / {medium}"
        record["campaign"] = campaign
    product = event.get("product") or {}
    product_fields(record, event, product, settings)
    record["band"] = {"purchase": "hot", "cart_abandoned": "warm", "add_to_cart": "warm"}.get(event_type or "", "cold")
    currency = event.get("currency")
    total = event.get("total")
    if (order_id := event.get("orderId")) and event_type == "purchase":
        order = {"id": order_id}
        if total is not None:
            order["total"] = total
            text_currency = currency if currency is not None else settings["currency"]
            order["total_text"] = f"{cents(total)} {text_currency}"
        order["currency"] = currency or settings["currency"]
        record["order"] = order
    put(record, "cart", event.get("cartId"))
    items = event.get("items")
    if items is not None:
        record["item_count"] = len(items)
        names = [name for item in items if (name := item.get("name")) is not None]
        put(record, "item_names", "; ".join(names))
        if items:
            put(record, "first_item", items[0].get("name"))
        if lines := lines_of(items):
            record["items"] = lines
        if categories := [category for item in items if (category := item.get("category"))]:
            record["categories"] = categories
    tags = ["web"]
    if event_type:
        tags.append(event_type)
    if brand := product.get("brand"):
        tags.append(brand)
    record["tags"] = tags
    return fields, record


def person(event: Event) -> Event:
    made: Event = {}
    if (name := event.get("name")) is not None:
        put(made, "full_name", name.strip())
    first = event.get("firstName")
    put(made, "first_name", first)
    if (last := event.get("lastName")) is not None:
        put(made, "last_name", last.upper())
    made["greeting"] = f"Olá {first if first is not None else 'cliente'}!"
    put(made, "phone", event.get("phone"))
    consent = event.get("consent") or {}
    made["marketing"] = "opted_in" if consent.get("marketing") else "opted_out"
    put(made, "analytics", consent.get("analytics"))
    put(made, "consent_source", consent.get("source"))
    return made


def page_of(event: Event) -> Event:
    page: Event = {}
    url = event.get("url")
    put(page, "url", url)
    put(page, "referrer", event.get("referrer"))
    if url is not None:
        page["secure"] = url.startswith("https://")
    return page


def product_fields(record: Event, event: Event, product: Event, settings: dict[str, Any]) -> None:
    product_id = product.get("id")
    put(record, "product_id", product_id)
    if (name := product.get("name")) is not None:
        put(record, "product_name", name[:40])
        if product_id is not None:
            record["product_title"] = f"{name[:80]} ({product_id})"
    price = product.get("price")
    if price is not None:
        record["product_price"] = price
        record["product_price_text"] = cents(price)
    currency = product.get("currency")
    if currency is None:
        currency = event.get("currency")
    put(record, "product_currency", currency if currency is not None else settings["currency"])
    quantity = product.get("quantity")
    record["product_quantity"] = quantity if quantity is not None else 1
    put(record, "product_image", product.get("image"))
    put(record, "product_url", product.get("url"))
    put(record, "product_category", product.get("category") or "uncategorised")
    put(record, "product_brand", product.get("brand"))
    put(record, "product_sku", product.get("sku"))
    put(record, "product_variant", product.get("variant"))
    if price is not None:
        record["expensive"] = price >= 1000


def lines_of(items: list[Event]) -> list[Event]:
    lines = []
    for index, item in enumerate(items):
        quantity = item.get("quantity")
        if quantity is None or quantity <= 0:
            continue
        line: Event = {"position": index + 1}
        put(line, "sku", item.get("sku"))
        name = item.get("name")
        if name is not None:
            put(line, "name", name[:40])
        price = item.get("price")
        if price is not None:
            line["price"] = price
            line["amount"] = price * quantity
        if name is not None:
            line["label"] = f"{printed(quantity)} x {name}"
        lines.append(line)
    return lines
