"""What can be posted, as an OpenAPI 3.1 document: a path for each connector, with its event schema and every answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.intake import MAX_DEPTH, MAX_DIGITS, MAX_EVENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.spec.types import Connector

_PROBLEM = "#/components/schemas/Problem"
_SAYS = {
    "400": "Not JSON, or no client can be found for the event",
    "401": "No write key or signature, or a wrong one",
    "403": "The client is switched off, or the page or event is another client's",
    "404": "No connector of this name has a client",
    "405": "Events are sent with POST",
    "408": "The body was too slow",
    "413": "The body is too large, or has too many events or values",
    "415": "Not application/json or text/plain in UTF-8, or compressed",
    "422": "The event does not fit its schema",
    "429": "More than this client, or this address, may send; nothing was accepted",
    "500": "A fault of this program",
    "503": "Nothing can be stored now, and nothing was accepted",
}
_DATA = ("const", "default", "enum", "example", "examples")  # not schemas
_WAITS = ("429", "503")
_RETRY = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds", "required": True}}
_AS_TEXT = {"type": "string", "contentMediaType": "application/json", "description": "The same JSON, from a beacon"}
_OUTCOME = {"enum": ["delivered", "waiting", "rejected", "skipped"]}
_TEXT = {"type": "string"}
_FAULT = {
    "type": "object",
    "required": ["field", "reason"],
    "properties": {"index": {"type": "integer", "minimum": 0}, "field": _TEXT, "reason": _TEXT},
}
_ACTION = {"type": "object", "required": ["outcome"], "properties": {"outcome": _OUTCOME, "reason": _TEXT}}
_SCHEMAS: dict[str, Any] = {
    "Fault": _FAULT,
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail", "faults"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "faults": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
            "outcome": _OUTCOME,
            "id": _TEXT,
            "actions": {"type": "object", "additionalProperties": _ACTION},
        },
    },
    "Accepted": {
        "type": "object",
        "required": ["accepted", "ids"],
        "properties": {
            "accepted": {"type": "integer", "minimum": 1},
            "ids": {"type": "array", "items": _TEXT},
            "duplicates": {"type": "array", "items": _TEXT, "description": "Those that were there already"},
            "faults": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
        },
    },
    "Outcome": {
        "type": "object",
        "required": ["outcome", "id"],
        "properties": {
            "outcome": _OUTCOME,
            "id": _TEXT,
            "reason": _TEXT,
            "actions": {"type": "object", "additionalProperties": _ACTION},
        },
    },
    "Outcomes": {
        "type": "object",
        "required": ["results"],
        "properties": {
            "results": {
                "type": "array",
                "items": {
                    "allOf": [{"$ref": "#/components/schemas/Outcome"}],
                    "type": "object",
                    "required": ["index", "status"],
                    "properties": {"index": {"type": "integer", "minimum": 0}, "status": {"type": "integer"}},
                },
            },
            "faults": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
        },
    },
}
_SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": "X-Connect-Key", "description": "The client's write key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The client's write key"},
    "query": {"type": "apiKey", "in": "query", "name": "key", "description": "The write key of a beacon"},
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Connect-Signature",
        "description": "t=UNIX-SECONDS,v1=HEX; HEX is the HMAC-SHA256 of the seconds, a dot and the body",
    },
}


def openapi(connectors: Mapping[str, Connector], proven: Mapping[str, bool]) -> dict[str, Any]:
    """`proven`: connector -> whether nobody can send to it without a key or a signature."""
    schemas = {f"event-{name}": _event(spec) for name, spec in sorted(connectors.items())}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Events",
            "version": "1",
            "description": f"An event has at most {MAX_DEPTH} levels, and its numbers {MAX_DIGITS} digits; "
            "what is null counts as absent.",
        },
        "paths": {f"/{name}": _path(name, spec, proven[name]) for name, spec in sorted(connectors.items())},
        "components": {"schemas": {**_SCHEMAS, **schemas}, "securitySchemes": _SCHEMES},
    }


def _path(name: str, spec: Connector, proven: bool) -> dict[str, Any]:
    event = {"$ref": f"#/components/schemas/event-{name}"}
    posted = {"oneOf": [event, {"type": "array", "minItems": 1, "maxItems": MAX_EVENTS, "items": event}]}
    direct = "direct" in {action.mode or spec.receive.mode for action in spec.actions.values()}
    return {
        "post": {
            "operationId": name,
            "summary": spec.title,
            "description": spec.description,
            "security": [*({each: []} for each in _SCHEMES), *([] if proven else [{}])],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": posted},
                    "text/plain": {"schema": _AS_TEXT},
                },
            },
            "responses": {**(_told(spec) if direct else _stored()), **_problems(direct)},
        }
    }


def _event(spec: Connector) -> Any:
    """The connector's schema, with what it refers to in itself found in the document."""
    schema = spec.receive.schema
    if schema is None:
        return {"type": "object"}
    rest = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
    return _placed(rest, f"#/components/schemas/event-{spec.name}")


def _placed(schema: Any, place: str) -> Any:
    if isinstance(schema, list):
        return [_placed(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: value if key in _DATA else _placed(value, place) for key, value in schema.items()}
    reference = found.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        found["$ref"] = place + reference[1:]
    return found


def _stored() -> dict[str, Any]:
    return {"202": _json("Stored; it is delivered later", "Accepted")}


def _told(spec: Connector) -> dict[str, Any]:
    """A `direct` connector says what the CRM said, with the statuses its author chose."""
    one, several = ({"$ref": f"#/components/schemas/{name}"} for name in ("Outcome", "Outcomes"))
    answer = spec.receive.answer
    given = (200, 202, answer.delivered, answer.skip, answer.retry, answer.defer, answer.throttle, answer.pause)
    chosen = {str(each) for each in given if each < 400}
    return {
        status: {
            "description": "What the CRM said of the event, or (200) of each of a list",
            "content": {"application/json": {"schema": {"anyOf": [one, several]} if status == "200" else one}},
        }
        for status in sorted(chosen)
    }


def _problems(direct: bool) -> dict[str, Any]:
    """A direct connector may answer with any status that its author gave to a rejection."""
    found = {
        status: {
            "description": says,
            "content": {"application/problem+json": {"schema": {"$ref": _PROBLEM}}},
            **({"headers": _RETRY} if status in _WAITS else {}),
        }
        for status, says in _SAYS.items()
    }
    if direct:
        content = {"application/problem+json": {"schema": {"$ref": _PROBLEM}}}
        found["4XX"] = {"description": "The CRM did not take it", "content": content}
        found["5XX"] = {"description": "The CRM did not take it", "content": content}
    return found


def _json(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}
