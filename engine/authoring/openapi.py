"""
An OpenAPI document (3.0 or 3.1, JSON or YAML) -> what a connector needs to know of it. Nothing is fetched.

`$ref`s lead to places of the same file; a schema that refers to itself ends where it comes round. What is wrong is a
UsageError with file, line and place.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from engine.errors import UsageError

MAX_BYTES = 10_000_000
MAX_DEPTH = 200  # of the file
MAX_LEVELS = 8  # of a schema: deeper parts are taken as they come
MAX_SHAPES = 3_000  # parts of one schema
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
WRITING = ("POST", "PUT", "PATCH")

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}\Z")
_FRACTION = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,2})?\Z")
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NOTHING = {"", "~", "null", "Null", "NULL"}
_MISSING: Any = object()

Path_ = tuple[str | int, ...]


class Shape(NamedTuple):
    """What a JSON Schema says of a value, as far as a mapping needs it. `kind` is a JSON type, or "any"."""

    kind: str
    parts: tuple[Part, ...] = ()
    item: Shape | None = None
    format: str = ""
    enum: tuple[Any, ...] = ()
    pattern: str = ""
    min_length: int | None = None
    max_length: int | None = None
    max_items: int | None = None
    minimum: Any = None
    description: str = ""
    example: Any = _MISSING
    note: str = ""  # what could not be told, such as a second form

    @property
    def has_example(self) -> bool:
        return self.example is not _MISSING

    @property
    def needed(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.required)


class Part(NamedTuple):
    """One key of an object."""

    name: str
    required: bool
    shape: Shape


class Parameter(NamedTuple):
    """A value in the path, the query or a header."""

    name: str
    where: str
    required: bool
    shape: Shape


class Body(NamedTuple):
    """The body of a request or a reply; `media` is empty where there is none."""

    media: str = ""
    shape: Shape | None = None
    example: Any = _MISSING

    @property
    def has_example(self) -> bool:
        return self.example is not _MISSING


class Answer(NamedTuple):
    """One documented reply; `status` is 201, 4XX or default."""

    status: str
    description: str
    body: Body
    headers: tuple[str, ...]


class Server(NamedTuple):
    """`url` may have `{variables}`; each has a default, its values where they are listed, and a description."""

    url: str
    description: str
    variables: dict[str, tuple[str, tuple[str, ...], str]]


class Scheme(NamedTuple):
    """One way to log in. `kind` is http, apiKey, oauth2, openIdConnect or mutualTLS."""

    name: str
    kind: str
    scheme: str = ""  # of http: basic, bearer, …
    key: str = ""  # of apiKey: the name, and where it stands
    where: str = ""
    flow: str = ""  # of oauth2
    token_url: str = ""
    scopes: tuple[str, ...] = ()
    description: str = ""


class Operation(NamedTuple):
    """A method at a path; read further with `Api.request`, `Api.answers` and the like."""

    method: str
    path: str
    id: str
    summary: str
    at: Path_
    value: Mapping[str, Any]
    shared: Sequence[Any]  # parameters of the path

    @property
    def name(self) -> str:
        return f"{self.method}:{self.path}"


def read_api(path: Path, *, file: str | None = None) -> Api:
    """Raises UsageError where the file can't be read, is broken, or is no OpenAPI 3 document."""
    name = str(path) if file is None else file
    try:
        with path.open("rb") as source:
            raw = source.read(MAX_BYTES + 1)
    except OSError as error:
        why = "a directory, where a file is wanted" if path.is_dir() else (error.strerror or "can't be read").lower()
        raise UsageError(f"{name}: {why}") from None
    return api_of(raw, name)


def api_of(raw: bytes, file: str) -> Api:
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{file}: larger than {MAX_BYTES // 1_000_000} MB; cut out the operations that you need")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{file}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8") from None
    if not text.strip():
        raise UsageError(f"{file}: the file is empty")
    as_json = text.lstrip().startswith(("{", "["))
    data = _json(text, file) if as_json else _Yaml(text, file).read()
    return Api(file, text, _checked(data, file))


def _checked(data: Any, file: str) -> Mapping[str, Any]:
    """The document, if it is one of OpenAPI 3."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{file}: no OpenAPI document: it has no `openapi: 3.…` at its top")
    if "swagger" in data:
        raise UsageError(
            f"{file}: Swagger {data['swagger']} is not read, only OpenAPI 3.0 and 3.1; convert it first: "
            "npx swagger2openapi OLD.json -o openapi.yaml"
        )
    for key, name in (("asyncapi", "AsyncAPI"), ("raml", "RAML"), ("log", "HAR"), ("item", "Postman")):
        if key in data and "openapi" not in data:
            raise UsageError(f"{file}: this is {name}, not OpenAPI")
    version = str(data.get("openapi", ""))
    if not version:
        raise UsageError(f"{file}: no OpenAPI document: it has no `openapi: 3.…` at its top")
    if not re.match(r"3\.[012](\.|\Z)", version):
        raise UsageError(f"{file}: openapi: {version} is not read, only 3.0 and 3.1")
    return data


class Api:
    """A document with its references resolved when they are met."""

    def __init__(self, file: str, text: str, data: Mapping[str, Any]) -> None:
        from referencing import Registry
        from referencing.jsonschema import DRAFT202012

        self.file, self.text, self.data = file, text, data
        # Only pointers into this document are looked up, and its own `$id`s change nothing: it is the one resource.
        resource = DRAFT202012.create_resource(data)
        self._resolver = Registry().with_resource("", resource).resolver()
        self._left = MAX_SHAPES
        self._passed_over = "readOnly"

    # --- the document ---

    @property
    def title(self) -> str:
        return _said(self._map(self.data, "info", ()).get("title"))

    @property
    def description(self) -> str:
        return _said(self._map(self.data, "info", ()).get("description"))

    @property
    def docs(self) -> str:
        return _said(self._map(self.data, "externalDocs", ()).get("url"))

    def operations(self) -> list[Operation]:
        found = []
        paths = self._map(self.data, "paths", ())
        if not paths:
            raise self._error(("paths",), "no paths: there is no operation to take")
        for path, entry in paths.items():
            if path.startswith("x-"):
                continue
            at: Path_ = ("paths", path)
            if not path.startswith("/"):
                raise self._error(at, "a path begins with /")
            item, at = self.deref(entry, at)
            if not isinstance(item, Mapping):
                raise self._error(at, "a map of methods is wanted here")
            shared = self._list(item, "parameters", at)
            for method in METHODS:
                if method in item:
                    value, here = self.deref(item[method], (*at, method))
                    if not isinstance(value, Mapping):
                        raise self._error(here, "a map is wanted here")
                    name, summary = _said(value.get("operationId")), _said(value.get("summary"))
                    found.append(Operation(method.upper(), path, name, summary, here, value, shared))
        return found

    def operation(self, wanted: str) -> Operation:
        """By METHOD:/path, `METHOD /path` or operationId. UsageError for one that is not there."""
        known = self.operations()
        method, _, path = wanted.replace(" ", ":", 1).partition(":")
        for one in known:
            if one.id == wanted or (one.method == method.upper() and one.path == path):
                return one
        names = [name for one in known for name in (one.name, one.id) if name]
        close = difflib.get_close_matches(f"{method.upper()}:{path}" if path else wanted, names, n=1, cutoff=0.5)
        hint = f'did you mean "{close[0]}"?' if close else f"it has {listed(known)}"
        raise UsageError(f"{self.file}: no operation is called {wanted}; {hint}")

    def servers(self, operation: Operation | None = None) -> list[Server]:
        """Of the operation, of its path, or of the document."""
        own = operation.value.get("servers") if operation is not None else None
        at: Path_ = (*operation.at, "servers") if operation is not None and own else ("servers",)
        found = []
        for number, entry in enumerate(own or self._list(self.data, "servers", ())):
            here = (*at, number)
            if not isinstance(entry, Mapping) or not isinstance(entry.get("url"), str):
                raise self._error(here, "a server needs a url")
            variables = {}
            for name, value in self._map(entry, "variables", here).items():
                if not isinstance(value, Mapping):
                    raise self._error((*here, "variables", name), "a map is wanted here")
                listed_ = tuple(map(str, self._list(value, "enum", (*here, "variables", name))))
                default = str(value.get("default", listed_[0] if listed_ else ""))
                variables[name] = (default, listed_, _said(value.get("description")))
            found.append(Server(entry["url"].strip(), _said(entry.get("description")), variables))
        return found

    def security(self, operation: Operation) -> list[list[Scheme]]:
        """Ways to log in, of which one is enough; each is a list of schemes that go together, empty for none."""
        own = operation.value.get("security")
        at: Path_ = (*operation.at, "security") if own is not None else ("security",)
        wanted = own if own is not None else self.data.get("security")
        if wanted is not None and not isinstance(wanted, list):
            raise self._error(at, "a list is wanted here")
        if wanted is None:  # nothing is said: what the document knows is a better guess than no log-in
            return [[scheme] for name in self._schemes() if (scheme := self.scheme(name, (), ("components",)))]
        found = []
        for number, entry in enumerate(wanted):
            if not isinstance(entry, Mapping):
                raise self._error((*at, number), "a map is wanted here")
            scopes = {name: tuple(map(str, value or ())) for name, value in entry.items()}
            found.append([self.scheme(name, told, (*at, number, name)) for name, told in scopes.items()])
        return found

    def scheme(self, name: str, scopes: Sequence[str], at: Path_) -> Scheme:
        schemes = self._schemes()
        if name not in schemes:
            raise self._error(at, f"{name} is not among components.securitySchemes", known=schemes)
        here: Path_ = ("components", "securitySchemes", name)
        value, here = self.deref(schemes[name], here)
        if not isinstance(value, Mapping):
            raise self._error(here, "a map is wanted here")
        kind, said = _said(value.get("type")), _said(value.get("description"))
        match kind:
            case "http":
                return Scheme(name, kind, scheme=_said(value.get("scheme")).lower(), description=said)
            case "apiKey":
                key, where = _said(value.get("name")), _said(value.get("in"))
                if not key or where not in ("header", "query", "cookie"):
                    raise self._error(here, "an apiKey needs name, and in: header, query or cookie")
                return Scheme(name, kind, key=key, where=where, description=said)
            case "oauth2":
                flows = self._map(value, "flows", here)
                for flow in ("clientCredentials", "authorizationCode", "password", "implicit", "deviceAuthorization"):
                    if isinstance(flows.get(flow), Mapping):
                        url = _said(flows[flow].get("tokenUrl"))
                        return Scheme(name, kind, flow=flow, token_url=url, scopes=tuple(scopes), description=said)
                raise self._error((*here, "flows"), "no flow that is known")
            case "openIdConnect" | "mutualTLS":
                return Scheme(name, kind, description=said)
        raise self._error(here, f"type: {kind or 'nothing'} is none of http, apiKey, oauth2, openIdConnect, mutualTLS")

    def _schemes(self) -> Mapping[str, Any]:
        return self._map(self._map(self.data, "components", ()), "securitySchemes", ("components",))

    # --- an operation ---

    def parameters(self, operation: Operation) -> list[Parameter]:
        """Its own before those of its path; a name in the path that is not described is one all the same."""
        found: dict[tuple[str, str], Parameter] = {}
        places = [
            *((value, (*operation.at[:-1], "parameters", at)) for at, value in enumerate(operation.shared)),
            *(
                (value, (*operation.at, "parameters", at))
                for at, value in enumerate(self._list(operation.value, "parameters", operation.at))
            ),
        ]
        for entry, at in places:
            value, here = self.deref(entry, at)
            if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
                raise self._error(here, "a parameter needs a name")
            name, where = value["name"], _said(value.get("in"))
            if where not in ("path", "query", "header", "cookie"):
                raise self._error(here, f"{name}: in is path, query, header or cookie")
            content = next(iter(self._map(value, "content", here).values()), None)
            schema = content.get("schema", {}) if isinstance(content, Mapping) else value.get("schema", {})
            shape = self.shape(schema, (*here, "schema"))
            if "example" in value:
                shape = shape._replace(example=value["example"])
            if not shape.description:
                shape = shape._replace(description=_said(value.get("description")))
            found[where, name] = Parameter(name, where, bool(value.get("required")) or where == "path", shape)
        for name in re.findall(r"\{([^{}]+)\}", operation.path):
            found.setdefault(("path", name), Parameter(name, "path", True, Shape("string")))
        return list(found.values())

    def request(self, operation: Operation) -> Body:
        """JSON if it takes that, else a form, else text. UsageError where it takes only what a connector can't send."""
        if "requestBody" not in operation.value:
            return Body()
        value, at = self.deref(operation.value["requestBody"], (*operation.at, "requestBody"))
        if not isinstance(value, Mapping):
            raise self._error(at, "a map is wanted here")
        body = self._content(value, at, reply=False)
        if body.media and not sendable(body.media):
            raise self._error(at, f"{body.media} is not written for you, only JSON, forms and text are")
        return body

    def answers(self, operation: Operation) -> list[Answer]:
        found = []
        for status, entry in self._map(operation.value, "responses", operation.at).items():
            if status.startswith("x-"):
                continue
            value, at = self.deref(entry, (*operation.at, "responses", status))
            if not isinstance(value, Mapping):
                raise self._error(at, "a map is wanted here")
            headers = tuple(map(str, self._map(value, "headers", at)))
            found.append(Answer(status, _said(value.get("description")), self._content(value, at, reply=True), headers))
        return found

    def _content(self, value: Mapping[str, Any], at: Path_, *, reply: bool) -> Body:
        content = self._map(value, "content", at)
        if not content:
            return Body()
        media = min(content, key=lambda name: (_rank(name), list(content).index(name)))
        entry, here = self.deref(content[media], (*at, "content", media))
        if not isinstance(entry, Mapping):
            raise self._error(here, "a map is wanted here")
        shape = self.shape(entry["schema"], (*here, "schema"), reply=reply) if "schema" in entry else None
        example = entry.get("example", _MISSING)
        for one in self._map(entry, "examples", here).values() if example is _MISSING else ():
            told, _ = self.deref(one, (*here, "examples"))
            if isinstance(told, Mapping) and "value" in told:
                example = told["value"]
                break
        plain = media.partition(";")[0].strip().lower()
        return Body("application/json" if plain in ("*/*", "application/*") else plain, shape, example)

    # --- schemas ---

    def shape(self, schema: Any, at: Path_, *, reply: bool = False) -> Shape:
        """What is only for replies has no place in a request, and the other way round."""
        self._left = MAX_SHAPES
        self._passed_over = "writeOnly" if reply else "readOnly"
        return self._shape(schema, at, (), 0)

    def _shape(self, schema: Any, at: Path_, seen: tuple[str, ...], depth: int) -> Shape:
        if isinstance(schema, bool):
            return Shape("any")
        self._left -= 1
        if depth > MAX_LEVELS or self._left < 0:
            return Shape("any", note="more is nested here than is looked at")
        flat = self._flat(schema, at, seen, 0)
        if flat is None:
            return Shape("any", note=f"{_last(schema)} has itself as a part")
        value, seen, notes = flat
        kind, enum = _kind(value), _enum(value)
        parts: tuple[Part, ...] = ()
        item = None
        if kind == "object":
            parts = tuple(self._parts(value, at, seen, depth))
        elif kind == "array":
            item = self._shape(value.get("items", True), (*at, "items"), seen, depth + 1)
        example = next((value[key] for key in ("example", "const", "default") if key in value), _MISSING)
        listed_ = value.get("examples")
        if example is _MISSING and isinstance(listed_, list) and listed_:
            example = listed_[0]
        return Shape(
            kind,
            parts,
            item,
            format=_said(value.get("format")),
            enum=enum,
            pattern=_said(value.get("pattern")),
            min_length=_count(value.get("minLength")),
            max_length=_count(value.get("maxLength")),
            max_items=_count(value.get("maxItems")),
            minimum=value.get("minimum"),
            description=_said(value.get("description")) or _said(value.get("title")),
            example=example,
            note="; ".join(notes),
        )

    def _parts(self, value: Mapping[str, Any], at: Path_, seen: tuple[str, ...], depth: int) -> Iterator[Part]:
        wanted = [name for name in value.get("required", ()) if isinstance(name, str)]
        properties: dict[str, Any] = value.get("properties", {})
        # What is required is looked at first: the budget of a vast schema is not spent on the rest.
        order = {name: at for at, name in enumerate(properties)}
        made: dict[str, Part] = {}
        for name in sorted(properties, key=lambda each: (each not in wanted, order[each])):
            schema = properties[name]
            if isinstance(schema, Mapping) and schema.get(self._passed_over) is True:
                continue
            shape = self._shape(schema, (*at, "properties", name), seen, depth + 1)
            made[name] = Part(name, name in wanted, shape)
        yield from (made[name] for name in order if name in made)
        yield from (Part(name, True, Shape("any")) for name in wanted if name not in properties)

    def _flat(
        self, schema: Any, at: Path_, seen: tuple[str, ...], depth: int
    ) -> tuple[dict[str, Any], tuple[str, ...], list[str]] | None:
        """One schema in the place of `$ref`, `allOf`, `oneOf` and `anyOf`; None where it leads back to itself."""
        if depth > 40:
            raise self._error(at, "allOf, oneOf and anyOf stand too deep in each other")
        if isinstance(schema, bool):
            return {}, seen, []
        if not isinstance(schema, Mapping):
            raise self._error(at, "a schema is a map")
        merged: dict[str, Any] = {}
        notes: list[str] = []
        if "$ref" in schema:
            ref = schema["$ref"]
            target = self._lookup(ref, at)
            if ref in seen:
                return None
            inner = self._flat(target, _pointer(ref), (*seen, ref), depth + 1)
            if inner is None:
                return None
            merged, seen, notes = inner
        own = {key: value for key, value in schema.items() if key not in ("$ref", "allOf", "oneOf", "anyOf")}
        self._require(own, at)
        _join(merged, own)
        for number, part in enumerate(self._list(schema, "allOf", at)):
            inner = self._flat(part, (*at, "allOf", number), seen, depth + 1)
            if inner is not None:
                _join(merged, inner[0], over=False)
                notes += inner[2]
                seen = (*seen, *(ref for ref in inner[1] if ref not in seen))
        for word in ("oneOf", "anyOf"):
            forms = [
                (number, form)
                for number, form in enumerate(self._list(schema, word, at))
                if not (isinstance(form, Mapping) and form.get("type") == "null")
            ]
            if not forms:
                continue
            number, first = forms[0]
            inner = self._flat(first, (*at, word, number), seen, depth + 1)
            if inner is not None:
                _join(merged, inner[0], over=False)
                seen = (*seen, *(ref for ref in inner[1] if ref not in seen))
                notes += inner[2]
            if len(forms) > 1:
                notes.append(f"the first of {len(forms)} forms")
        return merged, seen, notes

    def _require(self, schema: Mapping[str, Any], at: Path_) -> None:
        """The few keywords that are read have the form they are read in."""
        for key, kind in (("properties", Mapping), ("required", list), ("enum", list)):
            found = schema.get(key, _MISSING)
            # `required: true` on a property is a habit of older documents
            if found is _MISSING or isinstance(found, kind) or (key == "required" and isinstance(found, bool)):
                continue
            raise self._error((*at, key), f"a {'map' if kind is Mapping else 'list'} is wanted here")

    # --- references and places ---

    def deref(self, value: Any, at: Path_) -> tuple[Any, Path_]:
        """What a `$ref` leads to, and where that stands."""
        met: list[Any] = []
        while isinstance(value, Mapping) and "$ref" in value:
            ref = value["$ref"]
            if ref in met:
                raise self._error(at, f"$ref {ref} leads back to itself")
            met.append(ref)
            value, at = self._lookup(ref, at), _pointer(ref)
        return value, at

    def _lookup(self, ref: Any, at: Path_) -> Any:
        from referencing.exceptions import Unresolvable

        if not isinstance(ref, str):
            raise self._error((*at, "$ref"), "a text is wanted here")
        if not ref.startswith("#"):
            raise self._error(
                (*at, "$ref"),
                f"{ref[:200]} is outside of this file, and nothing is fetched; bundle all into one file first: "
                "npx @redocly/cli bundle openapi.yaml -o whole.yaml",
            )
        try:
            return self._resolver.lookup(ref).contents
        except (Unresolvable, ValueError, TypeError, LookupError):
            known = self._siblings(ref)
            raise self._error((*at, "$ref"), f"{ref[:200]} leads nowhere", known=known, word=ref) from None

    def _siblings(self, ref: str) -> list[str]:
        value: Any = self.data
        *above, _ = _pointer(ref) or ("",)
        for part in above:
            value = value.get(part) if isinstance(value, Mapping) else None
        start = ref.rpartition("/")[0]
        return [f"{start}/{name}" for name in value] if isinstance(value, Mapping) else []

    def _map(self, value: Mapping[str, Any], key: str, at: Path_) -> Mapping[str, Any]:
        found = value.get(key)
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise self._error((*at, key), "a map is wanted here")
        return found

    def _list(self, value: Mapping[str, Any], key: str, at: Path_) -> list[Any]:
        found = value.get(key)
        if found is None:
            return []
        if not isinstance(found, list):
            raise self._error((*at, key), "a list is wanted here")
        return found

    def _error(self, at: Path_, says: str, *, known: Any = (), word: str = "") -> UsageError:
        close = difflib.get_close_matches(word or str(at[-1]), list(known), n=1, cutoff=0.6) if known else []
        hint = f'; did you mean "{close[0]}"?' if close else ""
        line = _line(self.text, at)
        place = ".".join(map(str, at))
        return UsageError(f"{self.file}{f':{line}' if line else ''}: {place}: {says}{hint}")


def listed(operations: Sequence[Operation], most: int = 6) -> str:
    """`POST:/contacts (createContact), … and 12 more`."""
    names = [f"{one.name} ({one.id})" if one.id else one.name for one in operations]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def sendable(media: str) -> bool:
    return _rank(media) < 4


def sample(shape: Shape, *, whole: bool = True) -> Any:
    """A value of this shape: the document's own example, else made up. `whole`: with the optional parts."""
    if shape.has_example and shape.example is not None:
        return shape.example
    if shape.enum:
        return next((value for value in shape.enum if value is not None), None)
    match shape.kind:
        case "object":
            return {part.name: sample(part.shape, whole=whole) for part in shape.parts if whole or part.required}
        case "array":
            return [sample(shape.item, whole=whole)] if shape.item is not None else []
        case "integer" | "number":
            least = shape.minimum if isinstance(shape.minimum, int) else 1
            return max(least, 1)
        case "boolean":
            return True
    text = _MADE_UP.get(shape.format, "made-up")
    text = text.ljust(shape.min_length or 0, "x")
    return text[: shape.max_length] if shape.max_length else text


_MADE_UP = {
    "date-time": "2026-01-28T10:30:45Z",
    "date": "2026-01-28",
    "email": "ana@example.com",
    "uuid": "0b9c2a5e-7f3d-4c1e-9a53-2f5d8a1f3c77",
    "uri": "https://example.com/made-up",
    "url": "https://example.com/made-up",
    "ipv4": "192.0.2.1",
}


def _rank(media: str) -> int:
    name = media.partition(";")[0].strip().lower()
    if name in ("application/json", "application/*", "*/*"):
        return 0
    if name.endswith("+json"):
        return 1
    if name == "application/x-www-form-urlencoded":
        return 2
    return 3 if name == "text/plain" else 4


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), None)
    if kind in ("object", "array", "string", "integer", "number", "boolean"):
        return str(kind)
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    for value in _enum(schema):
        match value:
            case bool():
                return "boolean"
            case int():
                return "integer"
            case str():
                return "string"
    return "any"


def _enum(schema: Mapping[str, Any]) -> tuple[Any, ...]:
    if "const" in schema and not isinstance(schema["const"], dict | list):
        return (schema["const"],)
    return tuple(value for value in schema.get("enum", ()) if not isinstance(value, dict | list))


def _join(into: dict[str, Any], more: Mapping[str, Any], *, over: bool = True) -> None:
    """Properties and required names add up; of all else the outer one wins."""
    for key, value in more.items():
        if key == "properties" and isinstance(value, Mapping):
            into[key] = _both(into.get("properties", {}), value)
        elif key == "required" and isinstance(value, list):
            into[key] = [*into.get(key, ()), *(name for name in value if name not in into.get(key, ()))]
        elif key == "required":
            continue
        elif over or key not in into:
            into[key] = value


def _both(held: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of two schemas that both hold: what each says of one name is put together."""
    found = dict(held)
    for name, schema in more.items():
        before = found.get(name)
        both = isinstance(before, Mapping) and isinstance(schema, Mapping)
        found[name] = {**before, **schema} if both and before is not None else schema
    return found


def _said(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _last(schema: Any) -> str:
    return str(schema.get("$ref", "it")).rpartition("/")[2] if isinstance(schema, Mapping) else "it"


def _pointer(ref: str) -> Path_:
    from urllib.parse import unquote

    parts = unquote(ref.removeprefix("#")).split("/")[1:]
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)


# --- files ---


def _json(text: str, file: str) -> Any:
    def refused(word: str) -> Any:
        raise UsageError(f"{file}: {word} is no JSON")

    try:
        return json.loads(text, parse_float=Decimal, parse_constant=refused)
    except json.JSONDecodeError as error:
        says = error.msg[:1].lower() + error.msg[1:]
        raise UsageError(f"{file}:{error.lineno}:{error.colno}: no JSON here: {says}") from None
    except RecursionError:
        raise UsageError(f"{file}: nested too deeply") from None
    except ValueError:
        raise UsageError(f"{file}: a number has too many digits") from None


class _Yaml:
    """
    One pass over the parser's events, without recursion.

    Aliases are shared, merge keys read, tags passed over; plain words are those of YAML 1.2, so that `no` and
    `2026-01-28` stay texts. With `wanted`, `line` is where the deepest part of it that is there stands.
    """

    def __init__(self, text: str, file: str, wanted: Path_ | None = None) -> None:
        self.text, self.file, self.wanted = text, file, wanted
        self.anchors: dict[str, Any] = {}
        self.stack: list[tuple[Any, list[Any]]] = []  # open maps and lists; for a map the key that waits for its value
        self.root: Any = _MISSING
        self.line, self.matched, self.left = 0, -1, False

    def read(self) -> Any:
        parser = _LOADER(self.text)
        try:
            while (event := self._next(parser)) is not None:
                kind = type(event)
                if kind is yaml.ScalarEvent:
                    self._put(self._scalar(event), event)
                elif kind in (yaml.MappingStartEvent, yaml.SequenceStartEvent):
                    if len(self.stack) >= MAX_DEPTH:
                        raise self._error(event.start_mark, f"nested more than {MAX_DEPTH} levels deep")
                    value: Any = {} if kind is yaml.MappingStartEvent else []
                    self._put(value, event)
                    self.stack.append((value, []))
                elif kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
                    self._close()
                elif kind is yaml.AliasEvent:
                    if event.anchor not in self.anchors:
                        raise self._error(event.start_mark, f"*{event.anchor}: no such anchor")
                    self._put(self.anchors[event.anchor], event)
                elif kind is yaml.DocumentStartEvent and self.root is not _MISSING:
                    break  # a second document is none of ours
        finally:
            parser.dispose()
        return None if self.root is _MISSING else self.root

    def _next(self, parser: Any) -> Any:
        try:
            return parser.get_event()
        except yaml.MarkedYAMLError as error:
            says = str(error.problem or error.context or "can't be read")
            raise self._error(error.problem_mark or error.context_mark, f"no YAML here: {says}") from None
        except yaml.YAMLError as error:
            raise UsageError(f"{self.file}: no YAML: {' '.join(str(error).split())[:200]}") from None

    def _put(self, value: Any, event: Any) -> None:
        if getattr(event, "anchor", None) and not isinstance(event, yaml.AliasEvent):
            self.anchors[event.anchor] = value
        if not self.stack:
            self.root = value if self.root is _MISSING else self.root
            return
        held, waiting = self.stack[-1]
        if isinstance(held, list):
            held.append(value)
            self._saw(len(held) - 1, event)
        elif not waiting:
            if isinstance(value, dict | list):
                raise self._error(event.start_mark, "a map or a list cannot be a key")
            key = event.value if isinstance(event, yaml.ScalarEvent) else str(value)
            waiting.append(key)
            self._saw(key, event)
        else:
            key = waiting.pop()
            if key == "<<" and isinstance(value, dict | list):
                for more in value if isinstance(value, list) else [value]:
                    for name, child in more.items() if isinstance(more, dict) else ():
                        held.setdefault(name, child)
            else:
                held[key] = value

    def _close(self) -> None:
        self.stack.pop()
        if self.wanted is not None and 0 < len(self.stack) <= self.matched + 1:
            self.left = True  # keys are unique: what is not found by now is not there

    def _saw(self, part: str | int, event: Any) -> None:
        """Keep the line of the deepest part of `wanted` that was met."""
        depth = len(self.stack) - 1
        if self.wanted is None or self.left or depth != self.matched + 1 or depth >= len(self.wanted):
            return
        if str(self.wanted[depth]) == str(part):
            self.matched, self.line = depth, event.start_mark.line + 1

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if event.style:
            return text
        if text in _NOTHING:
            return None
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.match(text):
            return int(text)
        return Decimal(text) if _FRACTION.match(text) else text

    def _error(self, mark: Any, says: str) -> UsageError:
        place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        return UsageError(f"{self.file}{place}: {says}")


def _line(text: str, at: Path_) -> int:
    """Where a part stands; 0 where that can't be told. The text is read once more: only for an error."""
    reading = _Yaml(text, "", at)
    try:
        reading.read()
    except UsageError:
        return 0
    return reading.line
