"""A vendor's field -> the part of a browsing event that it most likely wants (schemas/events/browsing.schema.json)."""

from __future__ import annotations

import difflib
import re
from decimal import Decimal
from typing import Any, NamedTuple

from engine.authoring.openapi import Shape

SAMPLE: dict[str, Any] = {
    "eventId": "e-1001",
    "email": "ana@example.com",
    "eventType": "product_view",
    "timestamp": "2026-01-28T10:30:45Z",
    "name": "Ana Souza",
    "firstName": "Ana",
    "lastName": "Souza",
    "phone": "+5511999999999",
    "url": "https://shop.example.com/camera",
    "referrer": "https://www.example.org/",
    "query": "camera",
    "sessionId": "s-77",
    "storeId": "SP-01",
    "orderId": "ORDER-77",
    "cartId": "CART-42",
    "total": Decimal("1299.90"),
    "currency": "BRL",
    "product": {
        "id": "PROD-1",
        "name": "Camera",
        "price": Decimal("1299.90"),
        "quantity": 1,
        "category": "Photo",
        "brand": "Acme",
        "sku": "SKU-1",
        "variant": "black",
        "url": "https://shop.example.com/camera",
        "image": "https://shop.example.com/camera.jpg",
    },
    "utm": {"source": "newsletter", "medium": "email", "campaign": "summer", "term": "camera", "content": "banner-2"},
    "consent": {"marketing": True},
}
ALWAYS = ("eventId", "email", "eventType", "timestamp", "product.id", "product.name", "product.price")

# path of the event -> what vendors call it, without signs and capitals
_NAMES = {
    "email": "email emailaddress mail contactemail customeremail useremail personemail leademail subscriberemail",
    "eventType": "event eventtype eventname activity activitytype activityname action",
    "timestamp": "timestamp occurredat occurred eventtime eventtimestamp eventdate eventat happenedat activitydate"
    " datetime date time occurredon eventoccurredat",
    "eventId": "eventid externaleventid idempotencykey messageid deduplicationid uniqueid transactionuuid",
    "name": "name fullname displayname contactname customername leadname personname",
    "firstName": "firstname fname givenname forename",
    "lastName": "lastname lname surname familyname",
    "phone": "phone phonenumber mobile mobilenumber mobilephone telephone cellphone phonemobile",
    "url": "url pageurl pageuri page link location sourceurl eventsourceurl",
    "referrer": "referrer referer referrerurl",
    "query": "searchterm searchquery keyword keywords searchtext",
    "sessionId": "sessionid session visitid",
    "storeId": "storeid store branch branchid storecode",
    "orderId": "orderid ordernumber orderno order externalorderid",
    "cartId": "cartid cart cartnumber",
    "total": "total totalamount totalprice ordertotal totalvalue grandtotal revenue",
    "currency": "currency currencycode",
    "product.id": "productid productcode itemid",
    "product.name": "productname producttitle itemname",
    "product.price": "price unitprice productprice amount value saleprice",
    "product.category": "category productcategory",
    "product.brand": "brand productbrand",
    "product.sku": "sku productsku",
    "product.variant": "variant productvariant",
    "product.url": "producturl productlink",
    "product.image": "image imageurl productimage productimageurl",
    "product.quantity": "quantity qty",
    "utm.source": "utmsource source trafficsource",
    "utm.medium": "utmmedium medium trafficmedium",
    "utm.campaign": "utmcampaign campaign trafficcampaign campaignname",
    "utm.term": "utmterm",
    "utm.content": "utmcontent",
    "consent.marketing": "consent marketingconsent optin acceptsmarketing marketingoptin emailoptin subscribed",
}
_OF_PRODUCT = {
    "id": "product.id",
    "code": "product.id",
    "name": "product.name",
    "title": "product.name",
    "url": "product.url",
    "link": "product.url",
    "image": "product.image",
}
_BY_NAME = {name: path for path, names in _NAMES.items() for name in names.split()}
_PRODUCTS = re.compile(r"(line)?(product|item)s?\d*\Z|(order|cart)?(line)s?\Z|(order|cart)?items?\Z")
_TEXTS = {
    "note", "notes", "text", "message", "description", "summary", "subject", "title", "content", "comment", "label",
}  # fmt: skip
_NUMBERS = {"total", "product.price", "product.quantity"}
_FREE = {"name", "firstName", "lastName", "query", "product.name", "product.category", "product.brand"}


class Close(NamedTuple):
    """`path` is the part of the event; `value` the scalar to write; `doubt` what a person should look at, or empty."""

    path: str
    value: str
    doubt: str = ""


def words(name: str) -> str:
    """`firstName`, `first_name` and `FIRST-NAME` are one: firstname."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def snake(name: str, default: str = "value") -> str:
    """A name that expressions can use: `Contact List-ID` -> contact_list_id."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    plain = re.sub(r"[^a-z0-9]+", "_", apart.lower()).strip("_")
    if len(plain) > 40:  # at the end of a word, if there is one
        plain = plain[:41].rpartition("_")[0] or plain[:40]
    return plain if plain[:1].isalpha() else f"{default}_{plain}".rstrip("_")


def is_products(name: str) -> bool:
    return _PRODUCTS.match(words(name)) is not None


def is_text(name: str) -> bool:
    """A text for people, such as a note: it can be put together of several parts."""
    return words(name) in _TEXTS or any(words(name).endswith(end) for end in ("note", "description", "message"))


def closest(names: tuple[str, ...], shape: Shape, *, item: str = "event.product") -> Close | None:
    """
    For the field at `names` (from the outermost), or None where nothing is plausible.

    `item` is what stands for the product: within a list of them, each one.
    """
    path, exact = _path(names)
    if path is None:
        return None
    whole = "fields.email" if path == "email" else f"event.{path}"
    if path.startswith("product."):
        whole = f"{item}{path.removeprefix('product')}"
    written = _written(path, whole, names[-1], shape)
    if written is None:
        return None
    value, doubt = written
    return Close(path, value, doubt or ("" if exact else f"is this event.{path}?"))


def _path(names: tuple[str, ...]) -> tuple[str | None, bool]:
    last = words(names[-1])
    inner = len(names) > 1 and is_products(names[-2])
    if inner and last in _OF_PRODUCT:
        return _OF_PRODUCT[last], True
    if len(names) > 1 and (both := words(names[-2]) + last) in _BY_NAME:
        return _BY_NAME[both], True
    if last in _BY_NAME:
        return _BY_NAME[last], True
    if is_text(last):
        return None, False
    close = difflib.get_close_matches(last, _BY_NAME, n=1, cutoff=0.86)
    return (_BY_NAME[close[0]], False) if close else (None, False)


def _written(path: str, whole: str, name: str, shape: Shape) -> tuple[str, str] | None:
    """The scalar in the type that is wanted, and a doubt; None where no type fits."""
    numeric, wanted = path in _NUMBERS, shape.kind
    if path == "consent.marketing":
        return (_value(whole), "") if wanted == "boolean" else None
    if wanted in ("object", "array", "boolean") or (shape.enum and path != "currency"):
        return None
    if path == "timestamp":
        return _moment(whole, name, shape)
    if numeric:
        if wanted == "integer" and path != "product.quantity":
            return _value(f"integer(multiply({whole}, `100`))"), "a whole number: is it in cents?"
        return (_value(f"string({whole})"), "") if wanted == "string" else (_value(whole), "")
    if wanted in ("integer", "number"):
        return None
    most = shape.max_length
    if most is not None and path in _FREE:
        return _value(f"truncate({whole}, `{most}`)"), ""
    return _value(whole), ""


def _moment(whole: str, name: str, shape: Shape) -> tuple[str, str] | None:
    if shape.kind in ("integer", "number"):
        example = shape.example if shape.has_example else None
        ms = words(name).endswith(("ms", "millis")) or (isinstance(example, int) and example > 10**11)
        unit = "milliseconds" if ms else "seconds"
        return _value(f"{'epoch_ms' if ms else 'epoch'}({whole})"), f"a number: is it {unit} since 1970?"
    if shape.format == "date" or (words(name).endswith("date") and shape.format != "date-time"):
        return _value(f"date({whole})"), "" if shape.format == "date" else "which form of date?"
    return _value(whole), ""


def _value(expression: str) -> str:
    return f"${{ {expression} }}"


def sample_event(paths: set[str], event_type: str = "product_view") -> dict[str, Any]:
    """An event with what is always there and these parts, in the order of SAMPLE."""
    wanted = paths | set(ALWAYS)
    event: dict[str, Any] = {}
    for name, value in SAMPLE.items():
        if isinstance(value, dict):
            inner = {key: child for key, child in value.items() if f"{name}.{key}" in wanted}
            if inner:
                event[name] = inner
        elif name in wanted:
            event[name] = value
    event["eventType"] = event_type
    if "items" in wanted:
        event["items"] = [{**event["product"], "quantity": 2}]
    return event
