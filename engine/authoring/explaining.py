"""
Where each field of a request came from: target field, the expression as it is written, what that read, and why.

The real walk is listened to (`Watch`), so that requests and scopes are those of the engine. The trees of the spec are
then walked once more over those scopes; a leaf is computed by the mapping itself. A directive that is not known here
stands as one field with its whole text.
"""

from __future__ import annotations

import re
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from engine.errors import BadValue
from engine.expressions import Compiler
from engine.mapping import NULL, case, compile_tree, encode_json, plain_null
from engine.notations import semantics
from engine.notations.emitting import is_expression, is_template
from engine.spec.types import Drop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.batching import Batcher, Ready, Unit
    from engine.exchange import Call
    from engine.expressions import Path
    from engine.http import Prepared
    from engine.lookups import Lookup, Source
    from engine.program import Program
    from engine.spec import types
    from engine.spec.located import Located

_PURE = re.compile(r"\s*\$\{\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d+\])*)\s*\}\s*\Z")
_PART = re.compile(r"[A-Za-z_]\w*|\d+")
MOST_FIELDS = 2_000


class Read(NamedTuple):
    """A value that an expression read, and where that came from if it was computed, too."""

    name: str
    value: Any
    origin: Origin | None = None


class Origin(NamedTuple):
    expression: str  # as it is written
    place: Path  # in the long form
    reads: tuple[Read, ...] = ()
    because: tuple[str, ...] = ()  # the branches that led here
    note: str = ""


class Traced(NamedTuple):
    """A value with its origin; `parts` are those of a map or list."""

    value: Any
    origin: Origin | None = None
    parts: dict[str, Traced] | list[Traced] | None = None


class Field(NamedTuple):
    """One field of a request: `json.records[0].Subject`, `path`, `query.q`."""

    target: str
    value: Any
    origin: Origin | None


# --- listening to the walk ---


class Told(NamedTuple):
    """A request of the spec as it was filled: which, where it is written, and the scope it saw."""

    action: str
    place: Path
    spec: types.Request
    scope: Mapping[str, Any]
    prepared: Prepared | None = None
    following: bool = False  # a link to the next page, which the reply gave


class Watch:
    """It hears each request of a program that is filled, which records stand in it, and which source found a row."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.latest: Told | None = None
        self.units: list[Unit] = []
        self.sources: dict[tuple[str, int], tuple[str, Any]] = {}  # look-up, id of a row -> its source, the row
        for name, action in program.actions.items():
            spec = program.action_specs[name]
            for key, compiled, steps in (
                ("steps", action.steps.steps, spec.steps),
                ("on_failure", action.steps.on_failure, spec.on_failure),
            ):
                for title, step in compiled.items():
                    self.hear(step.call, Told(name, ("actions", name, key, title, "request"), steps[title].request, {}))
            for title, lookup in action.lookups.items():
                self.hear_lookup(name, title, lookup)
            self.hear_units(action.batcher)

    def told(self, request: Prepared) -> Told | None:
        """How a request that was sent had been filled; a signature may have been added to it since."""
        found = self.latest
        if found is None or found.prepared is None or found.prepared.content != request.content:
            return None
        return found if spec_path(found.prepared) == spec_path(request) else None

    def hear(self, call: Call, told: Told) -> None:
        prepare, follow = call.requester.prepare, call.requester.follow

        def prepared(scope: Mapping[str, Any], *more: Any) -> Prepared:
            request = prepare(scope, *more)
            self.latest = told._replace(scope=scope, prepared=request)
            return request

        def followed(*link: Any) -> Prepared:
            request = follow(*link)
            self.latest = told._replace(prepared=request, following=True)
            return request

        vars(call.requester).update(prepare=prepared, follow=followed)

    def hear_lookup(self, action: str, name: str, lookup: Lookup) -> None:
        place: Path = ("actions", action, "lookups", name)
        for title, source in lookup.sources.items():
            at = (*place, "sources", title) if lookup.spec.sources else place
            self.hear_source(action, name, title, source, at)
        if lookup.create is not None:
            self.hear_source(action, name, "", lookup.create, (*place, "create"))

    def hear_source(self, action: str, lookup: str, title: str, source: Source, place: Path) -> None:
        self.hear(source.call, Told(action, (*place, "request"), source.spec.request, {}))
        ask = source.ask

        def asked(*more: Any) -> dict[str, list[Any]]:
            found = ask(*more)
            for rows in found.values():
                for row in rows:
                    self.sources[lookup, id(row)] = (title, row)
            return found

        vars(source).update(ask=asked)

    def hear_units(self, batcher: Batcher) -> None:
        units = batcher.units

        def made(ready: Sequence[Ready]) -> list[Unit]:
            found = units(ready)
            self.units += found
            return found

        vars(batcher).update(units=made)


# --- explaining ---


class Explainer:
    """Requests of one program, field by field."""

    def __init__(self, program: Program, watch: Watch) -> None:
        self.program, self.watch = program, watch

    def fields(self, told: Told, request: Prepared) -> list[Field]:
        """The fields of a request in the order method, path, query, headers, body."""
        if told.following:
            return [Field("url", request.url, Origin("", told.place, note="the next page, as the reply says"))]
        scope, known = dict(told.scope), self.known(told)
        http, spec, place = self.program.connector.http, told.spec, told.place
        trees = Trees(self.program.action_specs[told.action].drop or self.program.connector.drop)
        found: list[Field] = []
        if spec.url is not None:
            found.append(Field("url", request.url, trees.leaf(spec.url, (*place, "url"), scope, known).origin))
        elif spec.path is not None:
            found.append(
                Field("path", spec_path(request), trees.leaf(spec.path, (*place, "path"), scope, known).origin)
            )
        for name, child in spec.query.items():
            found += flat(f"query.{name}", trees.trace(child, (*place, "query", name), scope, known))
        for headers, at in ((http.headers, ("http", "headers")), (spec.headers, (*place, "headers"))):
            for name, child in headers.items():
                found += flat(f"headers.{name}", trees.trace(child, (*at, name), scope, known))
        found += self.placed(told, request)
        for kind in ("json", "form", "ndjson", "multipart", "text"):
            if (body := getattr(spec, kind)) is not None:
                found += flat(kind, trees.trace(body, (*place, kind), scope, known))
        if spec.csv is not None:
            found += flat("csv", trees.trace(spec.csv.rows, (*place, "csv", "rows"), scope, known))
        return found[:MOST_FIELDS]

    def placed(self, told: Told, request: Prepared) -> list[Field]:
        """What the log-in puts into the address and the headers; its parts are secrets, so only how it is written."""
        program = self.program
        named = told.spec.auth or program.action_specs[told.action].auth
        auth = program.auths.get(named, program.auth) if named else program.auth
        place: Path = ("auths", auth.name, "place") if program.connector.auths else ("auth", "place")
        query = dict(parse_qsl(urlsplit(request.url).query, keep_blank_values=True))
        found = []
        for part, there in (("query", query), ("headers", request.headers)):
            for name, text in getattr(auth.spec.place, part).items():
                if name in there:
                    origin = Origin(written(text), (*place, part, name), note="the log-in")
                    found.append(Field(f"{part}.{name}", there[name], origin))
        return found

    def known(self, told: Told) -> dict[str, Traced]:
        """What was computed before the request, with its origins."""
        scope = told.scope
        known = self.saved(told)
        if isinstance(args := self.args_of(told), dict) and args:
            trees = Trees(Drop())
            known["args"] = trees.trace(args, (*told.place[:-1], "args"), dict(scope), known)
        if isinstance(scope.get("record"), dict) and "batch" in scope:  # of a step for each record
            known["record"] = self.record(told.action, scope["record"])
        if "batch" not in scope:
            return {**self.row(told.action, dict(scope)), **known} if "event" in scope else known
        batch = scope["batch"]
        parts: dict[str, Traced] = {name: Traced(value) for name, value in batch.items()}
        if "records" in batch:
            parts["records"] = Traced(
                batch["records"], parts=[self.record(told.action, record) for record in batch["records"]]
            )
        return {**known, "batch": Traced(batch, parts=parts)}

    def args_of(self, told: Told) -> Any:
        """What a definition was used with, where this request stands in one."""
        spec = self.program.action_specs[told.action]
        match told.place[2:]:
            case ("lookups", str(lookup), "sources", str(source), "request"):
                return {**spec.lookups[lookup].args, **spec.lookups[lookup].sources[source].args}
            case ("lookups", str(lookup), "create", "request"):
                create = spec.lookups[lookup].create
                return {**spec.lookups[lookup].args, **(create.args if create is not None else {})}
            case ("steps", str(step), "request"):
                return spec.steps[step].args
        return None

    def record(self, action: str, record: Any) -> Traced:
        """One record of a batch; of several events folded into it the last that holds a value counts."""
        unit = next((one for one in self.watch.units if one.record is record), None) or next(
            (one for one in self.watch.units if one.record == record), None
        )
        if unit is None:
            return Traced(record)
        return self.row(action, unit.scope).get("record", Traced(record))

    def row(self, action: str, scope: dict[str, Any]) -> dict[str, Traced]:
        connector, spec = self.program.connector, self.program.action_specs[action]
        drop = spec.drop or connector.drop
        known: dict[str, Traced] = {}
        known["fields"] = Trees(Drop()).trace(connector.fields, ("fields",), scope, known)
        known["lookups"] = Traced(
            scope.get("lookups"),
            parts={name: self.looked_up(action, name, row) for name, row in (scope.get("lookups") or {}).items()},
        )
        made = {name: Traced(None) for name in spec.vars}
        for name, tree in spec.vars.items():
            made[name] = Trees(drop).trace(tree, ("actions", action, "vars", name), scope, known)
            known["vars"] = Traced(scope.get("vars"), parts=made)
        known["record"] = Trees(drop).trace(spec.record, ("actions", action, "record"), scope, known)
        return known

    def looked_up(self, action: str, name: str, row: Any) -> Traced:
        place: Path = ("actions", action, "lookups", name)
        found = self.watch.sources.get((name, id(row)))
        note = (
            f"look-up {name}, source {found[0]}" if found is not None and found[0] != "request" else f"look-up {name}"
        )
        origin = Origin("", place, note=note)
        if isinstance(row, dict):
            return Traced(row, origin, {key: Traced(value, origin) for key, value in row.items()})
        return Traced(row, origin)

    def saved(self, told: Told) -> dict[str, Traced]:
        """`steps.NAME.KEY`, by what the step's `save` says."""
        specs = self.program.action_specs[told.action].steps
        steps = {}
        for name, kept in told.scope.get("steps", {}).items():
            if name in specs:
                at: Path = ("actions", told.action, "steps", name, "save")
                parts = {
                    key: Traced(value, Origin(written(specs[name].save.get(key)), (*at, key), note=f"step {name}"))
                    for key, value in kept.items()
                }
                steps[name] = Traced(kept, parts=parts)
        return {"steps": Traced(told.scope.get("steps"), parts=steps)} if steps else {}


class Trees:
    """A tree of the spec over one scope: its value and, beside each part of it, where that came from."""

    def __init__(self, drop: Drop, because: tuple[str, ...] = ()) -> None:
        self.drop, self.because = drop, because

    def trace(self, node: Any, place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        if isinstance(node, dict):
            directive = next((key for key in node if key.startswith("$") and not key.startswith("$$")), None)
            if directive is not None:
                method: Callable[..., Traced] = getattr(self, f"on_{directive[1:]}", self.whole)
                return method(node, place, scope, known)
            parts = {
                key[1:] if key.startswith("$$") else key: self.trace(child, (*place, key), scope, known)
                for key, child in node.items()
            }
            return self.mapping(parts, empty=not node)
        if isinstance(node, list):
            return self.listing(
                [self.trace(child, (*place, at), scope, known) for at, child in enumerate(node)], empty=not node
            )
        return self.leaf(node, place, scope, known)

    @staticmethod
    def mapping(parts: dict[str, Traced], *, empty: bool = False) -> Traced:
        there = {key: part for key, part in parts.items() if part.value is not None}
        value = {key: plain_null(part.value) for key, part in there.items()}
        return Traced(value if value or empty else None, parts=there)

    @staticmethod
    def listing(parts: list[Traced], *, empty: bool = False) -> Traced:
        there = [part for part in parts if part.value is not None]
        value = [plain_null(part.value) for part in there]
        return Traced(value if value or empty else None, parts=there)

    def computed(self, node: Any, place: Path, scope: Mapping[str, Any]) -> tuple[Any, list[tuple[str, ...]]]:
        """What the mapping itself makes of a node, and the paths that it reads."""
        if node is None:
            return (None if self.drop.null == "drop" else NULL), []
        compiler = Compiler()
        try:
            run = compile_tree(compiler, node, scope.keys(), place, self.drop)
            value = run(scope)
        except BadValue:
            value = None
        return value, list(dict.fromkeys(use.path for use in compiler.uses))

    def leaf(self, node: Any, place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        value, paths = self.computed(node, place, scope)
        reads = tuple(self.read(path, scope, known) for path in paths)
        origin = Origin(written(node), place, reads, self.because)
        if isinstance(node, str) and (pure := _PURE.match(node)):
            found = at(known, [int(part) if part.isdigit() else part for part in _PART.findall(pure[1])])
            if found is not None and found.parts is not None:
                return Traced(value, origin, found.parts)
        if isinstance(value, dict):
            return Traced(value, origin, self.passed_on(value, paths, known, origin) or None)
        return Traced(value, origin)

    @staticmethod
    def passed_on(
        value: dict[str, Any], paths: Iterable[tuple[str, ...]], known: Mapping[str, Traced], origin: Origin
    ) -> dict[str, Traced]:
        """What a function let through of the maps that it was given: `omit(record, ['id'])`."""
        sources = [found.parts for path in paths if (found := at(known, path)) and isinstance(found.parts, dict)]
        parts = {}
        for key, entry in value.items():
            same = (parts_[key] for parts_ in sources if key in parts_ and plain_null(parts_[key].value) == entry)
            parts[key] = next(same, Traced(entry, origin))
        return parts if sources else {}

    @staticmethod
    def read(path: tuple[str, ...], scope: Mapping[str, Any], known: Mapping[str, Traced]) -> Read:
        value: Any = scope
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        found = at(known, path)
        return Read(".".join(path), value, found.origin if found is not None else None)

    def whole(self, node: Any, place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        value, paths = self.computed(node, place, scope)
        return Traced(
            value, Origin(written(node), place, tuple(self.read(p, scope, known) for p in paths), self.because)
        )

    def led_here(self, why: str) -> Trees:
        return Trees(self.drop, (*self.because, why))

    # --- directives: one method each; those that have none are shown whole ---

    def on_if(self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        holds = Compiler().condition(node["$if"], scope.keys(), place)(scope)
        branch, word = ("then", "holds") if holds else ("else", "does not hold")
        if branch not in node:
            return Traced(None)
        return self.led_here(f"$if {written(node['$if'])} {word}").trace(node[branch], (*place, branch), scope, known)

    def on_switch(
        self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]
    ) -> Traced:
        chosen = case(plain_null(self.computed(node["$switch"], place, scope)[0]))
        why = self.led_here(f"$switch {written(node['$switch'])} is {written(chosen) if chosen else 'absent'}")
        for value, child in node["cases"].items():
            if chosen == str(value):
                return why.trace(child, (*place, "cases", value), scope, known)
        return why.trace(node["default"], (*place, "default"), scope, known) if "default" in node else Traced(None)

    def on_each(self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        listed = self.trace(node["$each"], (*place, "$each"), scope, known)
        name = node.get("as", "item")
        made = []
        for index, item in enumerate(listed.value if isinstance(listed.value, list) else []):
            inside = {**scope, name: item, "index": index}
            if "where" in node and not Compiler().condition(node["where"], inside.keys(), place)(inside):
                continue
            part = listed.parts[index] if isinstance(listed.parts, list) and index < len(listed.parts) else Traced(item)
            made.append(self.trace(node["do"], (*place, "do"), inside, {**known, name: part, "index": Traced(index)}))
        return self.listing(made)

    def on_merge(self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        parts: dict[str, Traced] = {}
        for index, child in enumerate(node["$merge"]):
            one = self.trace(child, (*place, "$merge", index), scope, known)
            parts.update(children(one))
        return self.mapping(parts)

    def on_rest(self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        whole = self.whole(node, place, scope, known)
        if whole.origin is None or not isinstance(whole.value, dict):
            return whole
        return Traced(whole.value, None, {key: Traced(value, whole.origin) for key, value in whole.value.items()})

    def on_rename(
        self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]
    ) -> Traced:
        inner = children(self.trace(node["$rename"], (*place, "$rename"), scope, known))
        names = plain_null(self.computed(node["by"], (*place, "by"), scope)[0])
        if not isinstance(names, dict):
            return self.whole(node, place, scope, known)
        return self.mapping(
            {semantics.plain(names[key]): part for key, part in inner.items() if names.get(key) is not None}
        )

    def on_entries(
        self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]
    ) -> Traced:
        inner = children(self.trace(node["$entries"], (*place, "$entries"), scope, known))
        names = plain_null(self.computed(node["by"], place, scope)[0]) if "by" in node else None
        key, value = node.get("key", "key"), node.get("value", "value")
        pairs = []
        for title, part in inner.items():
            if names is not None and title not in names:
                continue
            name_of = Origin("", (*place, "$entries", title), note="its key, renamed by `by`" if names else "its key")
            called = Traced(str(names[title]) if names is not None else title, name_of)
            pairs.append(self.mapping({key: called, value: part}))
        return self.listing(pairs)

    def on_object(
        self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]
    ) -> Traced:
        listed = self.trace(node["$object"], (*place, "$object"), scope, known)
        parts: dict[str, Traced] = {}
        for pair in listed.parts if isinstance(listed.parts, list) else []:
            inside = children(pair)
            if "key" in inside and "value" in inside:
                parts[str(inside["key"].value)] = inside["value"]
        return self.mapping(parts)

    def on_rows(self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        listed = self.trace(node["$rows"], (*place, "$rows"), scope, known)
        rows = [children(row) for row in listed.parts] if isinstance(listed.parts, list) else []
        if not rows:
            return self.whole(node, place, scope, known)
        whole = Origin(written(node["$rows"]), place, (), self.because)
        columns = [Traced(name, whole) for name in rows[0]]
        cells = [self.listing([row.get(name, Traced(NULL, whole)) for name in rows[0]]) for row in rows]
        return self.mapping(
            {node.get("columns", "columns"): self.listing(columns), node.get("rows", "rows"): self.listing(cells)}
        )

    def on_all(self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        inner = self.trace(node["$all"], (*place, "$all"), scope, known)
        return inner if self.computed(node, place, scope)[0] is not None else Traced(None)

    def on_keep(self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        inner = self.trace(node["$keep"], (*place, "$keep"), scope, known)
        return inner if inner.value is not None else self.whole(node, place, scope, known)

    def on_drop(self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        other = Trees(msgspec.convert(node["$drop"], Drop), self.because)
        return other.trace(node.get("do"), (*place, "do"), scope, known)

    def on_with(self, node: dict[str, Any], place: Path, scope: dict[str, Any], known: Mapping[str, Traced]) -> Traced:
        args = self.trace(node["$with"].get("args", {}), (*place, "$with", "args"), scope, known)
        inside = {**scope, "args": args.value or {}}
        return self.trace(node["$with"]["do"], (*place, "$with", "do"), inside, {**known, "args": args})


def children(traced: Traced) -> dict[str, Traced]:
    """The keys of a map, each with what is known of it."""
    if isinstance(traced.parts, dict):
        return traced.parts
    value = plain_null(traced.value)
    return {key: Traced(entry, traced.origin) for key, entry in value.items()} if isinstance(value, dict) else {}


def at(known: Mapping[str, Traced], path: Sequence[str | int]) -> Traced | None:
    """What is known of a path, or of the nearest part above it that has an origin of its own."""
    if not path or path[0] not in known:
        return None
    found = known[str(path[0])]
    for part in path[1:]:
        inner = entry(found.parts, part)
        if inner is None:
            return Traced(None, found.origin) if found.origin is not None else None
        found = inner
    return found


def entry(within: Any, part: str | int) -> Any:
    """A key of a map or an index of a list; None where it is not there."""
    if isinstance(within, list):
        return within[part] if isinstance(part, int) and part < len(within) else None
    return within.get(part) if isinstance(within, dict) else None


def flat(target: str, traced: Traced) -> list[Field]:
    """The leaves below a target, each with its origin."""
    if traced.value is None:
        return []
    if isinstance(traced.parts, dict) and traced.parts:
        return [field for key, part in traced.parts.items() for field in flat(f"{target}.{key}", part)]
    if isinstance(traced.parts, list) and traced.parts:
        return [field for index, part in enumerate(traced.parts) for field in flat(f"{target}[{index}]", part)]
    return [Field(target, plain_null(traced.value), traced.origin)]


def spec_path(request: Prepared) -> str:
    return urlsplit(request.url).path


def written(node: Any) -> str:
    """A scalar or tree as one line of YAML in flow style."""
    if isinstance(node, str):
        mark = "'" if '"' in node else '"'
        return (
            node if is_expression(node) else f"{mark}{node}{mark}" if is_template(node) else encode_json(node).decode()
        )
    if isinstance(node, dict):
        return "{" + ", ".join(f"{key}: {written(child)}" for key, child in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(written, node)) + "]"
    return "null" if node is None else encode_json(node).decode()


class Places:
    """The file and line of a place of the long form; what a client file changed stands in the client file."""

    def __init__(self, connector: Located, client: Located | None, name: str) -> None:
        self.connector, self.client, self.name = connector, client, name

    def of(self, place: Path) -> str:
        if self.client is not None and place[:1] == ("actions",):
            inside: Path = ("connectors", self.name, *place)
            if reduce(entry, inside, self.client.data) is not None:
                return f"{self.client.file}:{self.client.mark(inside)[0]}"
        return f"{self.connector.file}:{self.connector.mark(place)[0]}"


def shown_value(value: Any) -> str:
    """A value as JSON in one line; absent as that word."""
    return "absent" if value is None else encode_json(value).decode()
