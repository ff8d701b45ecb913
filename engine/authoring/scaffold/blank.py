"""A connector of which only name, address and log-in are known: one action that stands for the vendor's."""

from __future__ import annotations

from typing import Any

from engine.authoring.scaffold.draft import DECIDE, Action, Auth, Body, Draft
from engine.authoring.scaffold.writing import Inline, Note

RECORD_PATHS = frozenset({"email", "eventType", "timestamp", "product.id", "product.name", "product.price"})


def blank(
    name: str,
    *,
    title: str,
    base_url: str,
    host: str,
    auth: Auth,
    path: str = "/events",
    records: int | None = None,
    direct: bool = False,
    own_schema: bool = False,
    guessed: bool = False,
) -> Draft:
    """`guessed`: nobody said the address."""
    record: dict[Any, Any] = {
        Note(f"{DECIDE} the vendor's own fields, in its own order; what the event does not have is left out"): None,
        "email": "${ fields.email }",
        "activity": "${ fields.activity }",
        "occurred_at": "${ event.timestamp }",
        "product": {
            "id": "${ event.product.id }",
            "name": "${ truncate(event.product.name, `80`) }",
            "price": "${ event.product.price }",
        },
    }
    action = Action(
        "send_event",
        "An event on the contact",
        "POST",
        path,
        record,
        required=("email",),
        rejected=Body(422, {"error": "invalid_email", "message": "email is not valid"}),
        throttled=Body(429, {"error": "slow_down"}),
        expect_note=f"{DECIDE} what only a good reply has; a page with status 200 is none",
    )
    change: dict[str, Any] = {
        "expect": "${ present(response.body.id) }",
        "success": Body(201, {"id": "1001"}),
    }
    if records is not None:
        change = {
            "records": records,
            "around": {"records": "${ batch.records }"},
            "expect": "${ present(response.body.results) }",
            "results": {
                Note(f"{DECIDE} how the reply speaks of each record; here one result each, in their order"): None,
                "at": "${ response.body.results }",
                "ok": "${ result.ok }",
                "code": "${ result.error }",
            },
            "results_in": "results",
            "success": Body(200, {}),
            "result": {"ok": True},
            "failure": {"ok": False, "error": "unknown_contact"},
        }
    import msgspec

    return Draft(
        name,
        title,
        base_url,
        (host,),
        auth,
        (msgspec.structs.replace(action, **change),),
        description=f"Carries shop events to {title}.",
        tables={"activity": Inline(product_view="Product view", cart_abandoned="Cart abandoned", purchase="Purchase")},
        code="${ response.body.error }",
        message="${ response.body.message }",
        check=Inline(method="GET", path="/account"),
        check_note=f"{DECIDE} a harmless request that shows whether the credentials work",
        check_reply={"id": "1"},
        base_notes=(f"{DECIDE} the vendor's address; it is made up",) if guessed else (),
        paths=RECORD_PATHS,
        direct=direct,
        own_schema=own_schema,
    )
