"""Connector, client and address -> what the tag is told (`tag.js`), and what a person should know about it."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

from engine.errors import BadValue, UsageError
from engine.expressions import Compiler
from engine.program import Program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.spec import types

CONSENT = ("ad_storage", "analytics_storage")
KEY = "WRITE-KEY"  # stands where the key is to be put
LAYER = "dataLayer"
# What the tag makes of the data layer: field of the event -> where it comes from.
FIELDS = {
    "email": "`email`, or `email` of `user_data` (`gtag('set', 'user_data', …)`, too); holds for the events after it",
    "eventType": "`event`, or the name in `gtag('event', …)`",
    "timestamp": "`timestamp`, or the moment at which it was pushed",
    "product": "`product`, or the first of the items",
    "items": "`items`, or those of `ecommerce`",
    "sessionId": "`sessionId`; the tag makes none",
    "url": "`url`, or the page's address without query",
    "query": "`query` or `search_term`",
    "orderId": "`orderId`, or `transaction_id` of `ecommerce`",
    "cartId": "`cartId`",
    "total": "`total`, or `value` of `ecommerce`",
    "currency": "`currency`, also of `ecommerce`",
    "consent": "`consent`, as the page gives it: `marketing`, `analytics`, `source`",
}
PRODUCT_FIELDS = {
    "id": "`item_id` or `id`; where there is none the name",
    "name": "`item_name` or `name`; where there is none the id",
    "price": "`price`",
    "quantity": "`quantity`",
    "brand": "`item_brand` or `brand`",
    "category": "`item_category` or `category`",
    "variant": "`item_variant` or `variant`",
    "image": "`item_image` or `image`",
    "url": "`item_url` or `url`; of `view_item` the page's address",
}
_CONSENT_FIELDS = ("marketing", "analytics", "source")
# The type of an event -> the names that Google's e-commerce events have for it.
TYPES = {
    "product_view": ("view_item",),
    "category_view": ("view_item_list",),
    "search": ("search", "view_search_results"),
    "add_to_cart": ("add_to_cart",),
    "remove_from_cart": ("remove_from_cart",),
    "begin_checkout": ("begin_checkout",),
    "cart_abandoned": (),
    "purchase": ("purchase",),
}
_PRODUCT = {"id": "P1", "name": "Product", "price": Decimal(1), "url": "https://www.example.com/p1", "category": "C"}
_SAMPLE = {
    "email": "person@example.com",
    "timestamp": "2026-01-28T10:30:45.123Z",
    "product": _PRODUCT,
    "items": [_PRODUCT],
    "eventId": "1",
    "url": "https://www.example.com/",
    "query": "product",
    "orderId": "1",
    "cartId": "1",
    "total": Decimal(1),
    "currency": "BRL",
    "consent": {"marketing": True, "analytics": True},
}


class Settings(NamedTuple):
    """What `tag.js` reads; see there."""

    address: str  # of the door
    connector: str
    key: str | None  # the write key; None: the client has none
    set: dict[str, str]  # fields that say which client it is
    id: str | None  # the field that tells copies of an event apart
    needs_email: bool
    consent: tuple[str, ...]
    events: tuple[str, ...]
    only: tuple[str, ...]  # the names of all fields that are sent, on whatever level

    @property
    def url(self) -> str:
        return f"{self.address}/{self.connector}"

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "url": self.url if self.key is None else f"{self.url}?key={quote(self.key, safe='')}",
            "layer": LAYER,
            "consent": list(self.consent),
            "events": list(self.events),
            "only": " ".join(self.only),
        }
        return told | ({"id": self.id} if self.id else {}) | self._email() | ({"set": self.set} if self.set else {})

    def _email(self) -> dict[str, int]:
        return {"email": 1} if self.needs_email else {}


class Tag(NamedTuple):
    settings: Settings
    origins: tuple[str, ...]
    warnings: tuple[str, ...]  # without what they ask for it will not work, or not as it should
    unwanted: tuple[str, ...]  # types of events that no action wants


def tag_for(
    connector: types.Connector, client: types.Client, *, address: str, key: str = KEY, consent: Sequence[str] = CONSENT
) -> Tag:
    """UsageError where the client does not have the connector, or the address is none."""
    binding = client.connectors.get(connector.name)
    if binding is None:
        had = ", ".join(sorted(client.connectors))
        raise UsageError(f"{client.client} does not have {connector.name}; its connectors are {had}")
    schema = connector.receive.schema or {}
    warnings = list(_about_client(connector, client, binding))
    field = _field(connector.receive.client)
    if connector.receive.client is not None and field is None:
        warnings.append("`receive.client` is no plain field of the event: put what it reads into `set` of the settings")
    id_field = _field(connector.receive.id)
    if id_field is None:
        warnings.append(
            f"{connector.name} has no `receive.id` that is a plain field: an event that is sent twice counts twice"
        )
    known = {*FIELDS, *([field] if field else []), *([id_field] if id_field else [])}
    warnings += [
        f"the connector wants `{name}`, which no data-layer event has: let the page push it, and add it to `only`"
        for name in schema.get("required", ())
        if name not in known
    ]
    product = _resolved(_properties(schema).get("product"), schema)
    warnings += [
        f"the connector wants `product.{name}`, which no item of an e-commerce event has"
        for name in product.get("required", ())
        if name not in PRODUCT_FIELDS
    ]
    wanted = [name for name in _types(schema) if _wants(connector, client, binding, name)]
    if not wanted:
        warnings.append("no action of this client wants any event that the tag knows")
    own = [name for name in (id_field, field) if name]
    top = [name for name in FIELDS if _takes(schema, name)]
    inner = [name for name in PRODUCT_FIELDS if _takes(product, name)] if {"product", "items"} & {*top} else []
    consented = _CONSENT_FIELDS if "consent" in top else ()
    settings = Settings(
        address=_address(address),
        connector=connector.name,
        key=key if client.ingest.keys else None,
        set={field: binding.match or client.client} if field else {},
        id=id_field,
        needs_email="email" in schema.get("required", ()),
        consent=tuple(consent),
        events=tuple(wanted),
        only=tuple(dict.fromkeys([*own, *top, *inner, *consented])),
    )
    unwanted = tuple(name for name in _types(schema) if name not in wanted)
    return Tag(settings, tuple(client.ingest.origins), tuple(warnings), unwanted)


def _about_client(connector: types.Connector, client: types.Client, binding: types.Binding) -> list[str]:
    found = []
    if not client.active or not binding.active:
        found.append(f"{client.client} is switched off for {connector.name}: its events are refused")
    if not client.ingest.origins:
        found.append(
            f"no page may send for {client.client}, and browsers are refused: add the shop's address to its file, "
            "`ingest: {origins: ['https://www.shop.example']}`"
        )
    if not client.ingest.keys:
        if client.ingest.signatures:
            found.append(f"{client.client} signs its events, which a page can't: give it a write key, `ingest.keys`")
        elif connector.receive.client is None:
            found.append(f"nothing says whose the events are: give {client.client} a write key, `ingest.keys`")
    return found


def _address(text: str) -> str:
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("https", "http") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username or not re.fullmatch(r"[!-~]+", text):
        raise UsageError(f"--url {text!r}: it is the address of the door, such as https://events.example.com")
    return text.rstrip("/")


def _field(expression: types.Value) -> str | None:
    """`${ event.clientId }` -> clientId; None for all that is more."""
    if expression is None:
        return None
    compiler = Compiler()
    compiler.value(expression, frozenset({"event", "received_at"}), ("receive",))
    paths = {use.path for use in compiler.uses}
    plain = re.fullmatch(r"\$\{\s*event\.(\w+)\s*\}", expression.strip()) if isinstance(expression, str) else None
    return plain[1] if plain and paths <= {("event", plain[1])} else None


def _resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """With what it refers to in the same document."""
    for _ in range(8):
        if not isinstance(schema, dict):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        found: Any = root
        for part in reference[2:].split("/"):
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        schema = found
    return {}


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    found = schema.get("properties", {})
    return found if isinstance(found, dict) else {}


def _takes(schema: dict[str, Any], name: str) -> bool:
    return name in _properties(schema) or schema.get("additionalProperties") is not False


def _types(schema: dict[str, Any]) -> list[str]:
    """Those that the tag knows, and those that the schema lists."""
    listed = _resolved(_properties(schema).get("eventType"), schema).get("enum")
    if isinstance(listed, list):
        return [name for name in listed if isinstance(name, str)]
    return list(TYPES)


def _wants(connector: types.Connector, client: types.Client, binding: types.Binding, name: str) -> bool:
    """Whether some action takes such an event; where that can't be said, it is sent."""
    program = Program(connector, client, binding)
    try:
        return bool(program.drafts({**_SAMPLE, "eventType": name}, 0.0))
    except BadValue:
        return True


def literal(value: Any) -> str:
    """As JavaScript that may stand in a <script>."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_key(key)}:{literal(each)}" for key, each in value.items()) + "}"
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else literal(name)
