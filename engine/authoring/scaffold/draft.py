"""What `connect new` knows of a connector before it is written: by questions and flags, or by an OpenAPI document."""

from __future__ import annotations

from typing import Any

import msgspec

Tree = dict[Any, Any]

DECIDE = "DECIDE:"


class Auth(msgspec.Struct, frozen=True):
    """How requests are authorised: the connector's `auth`, what it needs, and what the sandbox does for it."""

    auth: Tree
    secrets: Tree = {}
    made_up: dict[str, str] = {}  # the sandbox's secrets
    token: Tree | None = None  # the sandbox's `tokens.key`
    routes: list[Tree] = []  # where the sandbox issues it
    hosts: tuple[str, ...] = ()
    refused: str = "pause"  # what a 401 leads to: "pause", or "reauth" where the engine can log in again
    notes: tuple[str, ...] = ()


class Body(msgspec.Struct, frozen=True):
    """What stands in a reply of the vendor's."""

    status: int
    value: Any = None
    headers: dict[str, str] = {}


class Action(msgspec.Struct, frozen=True):
    """One request for an event, or for a batch of them."""

    name: str
    title: str
    method: str
    path: str
    record: Tree
    path_note: str = ""
    content: str | None = "json"  # the key of the request's body: json, form, text; None: it has none
    content_type: str | None = None  # where the body's usual one is not what the vendor wants
    notes: tuple[str, ...] = ()
    query: Tree = {}
    headers: Tree = {}
    required: tuple[str, ...] = ()  # keys of the record that come from the event and must be there
    records: int | None = None  # how many a request carries; None: each event by itself
    batch_note: str = ""
    around: Tree | None = None  # the body around `${ batch.records }`; None: the list is the body
    record_notes: tuple[str, ...] = ()
    expect: str = ""
    expect_note: str = ""
    results: Tree | None = None  # how the reply speaks of single records
    results_in: str = ""  # the key of the reply under which they stand; empty: the reply is the list
    success: Body = Body(200)
    result: Any = None  # the success of one record, where there are `results`
    failure: Any = None  # and the failure of one
    rejected: Body = Body(422)
    throttled: Body = Body(429)
    event_type: str | None = None  # None: it takes every event


class Draft(msgspec.Struct, frozen=True):
    """A connector, as yet without the comments and examples that are the same for all."""

    name: str
    title: str
    base_url: str
    hosts: tuple[str, ...]
    auth: Auth
    actions: tuple[Action, ...]
    description: str = ""
    links: dict[str, str] = {}
    settings: Tree = {}  # its properties
    required: tuple[str, ...] = ()
    samples: dict[str, Any] = {}  # a value for each required setting, made up
    tables: Tree = {}
    code: str = ""
    message: str = ""
    outcomes: tuple[Any, ...] = ()
    reply_notes: tuple[str, ...] = ()
    check: Tree = {}  # its request
    check_note: str = ""
    base_notes: tuple[str, ...] = ()
    paths: frozenset[str] = frozenset()  # the parts of the event that are read
    check_reply: Any = None
    direct: bool = False
    own_schema: bool = False  # an event schema of its own, not the one of browsing events
    source: str = ""  # the OpenAPI document it was made from
