"""
A tree of YAML -> one generated function that builds the record: structure is keys with a `$`, leaves are expressions.

Absent leaves vanish with their key or list item, and so does a map or list of which nothing is left. A written null is
sent. What a directive does is one method here, named after it; a new directive is a new method.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from engine import functions, semantics
from engine.emitting import Emitter, ExpressionError, closest, is_expression, is_template
from engine.errors import BadValue
from engine.expressions import Compiler, emit_scalar
from engine.holes import place_of
from engine.spec.types import Drop

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.emitting import Path, Run

encode_json = msgspec.json.Encoder(decimal_format="number").encode

_OUTSIDE = re.compile(r"[^\x00-\x7f]")


def ascii_only(raw: bytes) -> bytes:
    """The same JSON with every character beyond ASCII as `\\uXXXX`."""
    if raw.isascii():
        return raw

    def escape(match: re.Match[str]) -> str:
        units_ = match[0].encode("utf-16-be")
        return "".join(f"\\u{units_[at] << 8 | units_[at + 1]:04x}" for at in range(0, len(units_), 2))

    return _OUTSIDE.sub(escape, raw.decode()).encode("ascii")


class Null:
    """A null that was written, on its way to its key."""

    def __bool__(self) -> bool:
        return False


NULL = Null()


def plain_null(value: Any) -> Any:
    return None if value is NULL else value


def json_text(value: Any) -> str | None:
    return None if value is None else encode_json(plain_null(value)).decode()


def lines(parts: list[Any]) -> str | None:
    """Texts joined by newlines, absent ones left out."""
    found = [semantics.plain(part) for part in parts if part is not None]
    return "\n".join(found) if found else None


def merged(parts: list[Any]) -> dict[str, Any] | None:
    out: dict[str, Any] = {}
    for part in parts:
        if part.__class__ is not dict:
            raise BadValue(f"$merge needs objects, got {semantics.kind(part)}")
        out.update(part)
    return out or None


def rest(value: Any, dropped: set[str], only: list[str] | None) -> dict[str, Any] | None:
    if value is None:
        return None
    if value.__class__ is not dict:
        raise BadValue(f"$rest needs an object, got {semantics.kind(value)}")
    return {key: entry for key, entry in value.items() if key not in dropped and (only is None or key in only)} or None


def entries(value: Any, key: str, name: str, by: Any) -> list[dict[str, Any]] | None:
    if value is None:
        return None
    if value.__class__ is not dict:
        raise BadValue(f"$entries needs an object, got {semantics.kind(value)}")
    if by is not None:
        if by.__class__ is not dict:
            raise BadValue(f"by needs an object, got {semantics.kind(by)}")
        value = {str(by[found]): entry for found, entry in value.items() if found in by}
    return [{key: found, name: entry} for found, entry in value.items()] or None


def renamed(value: Any, by: Any) -> dict[str, Any] | None:
    """The object with its keys as `by` calls them; one that it does not name vanishes, of two alike the later wins."""
    if value is None:
        return None
    if value.__class__ is not dict:
        raise BadValue(f"$rename needs an object, got {semantics.kind(value)}")
    if by is None:
        return None
    if by.__class__ is not dict:
        raise BadValue(f"by needs an object, got {semantics.kind(by)}")
    found = {semantics.plain(by[key]): entry for key, entry in value.items() if by.get(key) is not None}
    return found or None


def as_object(value: list[Any] | None) -> dict[str, Any] | None:
    if value is None:
        return None
    if any(pair.__class__ is not dict for pair in semantics.bounded(value)):
        raise BadValue("$object needs a list of objects with key and value")
    if any("value" in pair and "key" in pair and pair["key"].__class__ is not str for pair in value):
        raise BadValue("$object needs texts as keys")
    return {pair["key"]: pair["value"] for pair in value if "key" in pair and "value" in pair} or None


def columns_and_rows(value: Any, columns: str, rows: str) -> dict[str, Any] | None:
    """Objects with equal keys as one list of names and a list of value lists."""
    listed = semantics.bounded(value)
    if not listed:
        return None
    if any(row.__class__ is not dict for row in listed):
        raise BadValue("$rows needs a list of objects")
    names = list(listed[0])
    if any(row.keys() != listed[0].keys() for row in listed):
        raise BadValue("$rows needs objects with the same keys")
    return {columns: names, rows: [[row[name] for name in names] for row in listed]}


def case(value: Any) -> str | None:
    return None if value is None or isinstance(value, (list, dict)) else semantics.plain(value)


HELPERS: dict[str, Any] = {
    function.__name__: function
    for function in (plain_null, json_text, lines, merged, rest, entries, renamed, as_object, columns_and_rows, case)
} | {"NULL": NULL, "DEEP": semantics.DEEP}
FEW = 100  # computed texts of a megabyte each are the most that is made without a look at their sum

ALONE = {
    "$literal", "$lines", "$json", "$soql", "$sql", "$html", "$all", "$keep", "$merge", "$object", "$entries", "$rest",
}  # fmt: skip
OPTIONS = {
    "$if": {"then", "else"}, "$switch": {"cases", "default"}, "$each": {"as", "where", "do"},
    "$rest": {"except", "only"}, "$entries": {"key", "value", "by"}, "$rows": {"columns", "rows"},
    "$rename": {"by"}, "$drop": {"do"}, "$with": set(),
}  # fmt: skip
OWN = {  # inside $all these judge their own leaves
    "$literal", "$lines", "$each", "$rows", "$entries", "$rename", "$rest", "$keep",
}  # fmt: skip
DIRECTIVES = ALONE | set(OPTIONS)


class Tree:
    """Emits one tree into an emitter."""

    def __init__(self, em: Emitter, drop: Drop) -> None:
        self.em, self.drop = em, drop
        em.globals.update(HELPERS)
        self.leaves = 0  # that are computed
        self.deepens = False  # one of them may be a list or an object; `deep` says whether it is
        self.missing: str | None = None  # inside $all: the flag that a leaf was absent

    def emit(self, node: Any, *keys: str | int) -> str:
        """Python source of the value of `node`, placed at the current place plus `keys`; None is absent, NULL null."""
        outer = self.em.place
        self.em.place = (*outer, *keys)
        try:
            return self.value(node)
        except ExpressionError as error:
            self.em.problem(error.rule, error.message, error.hint)
            return "None"
        finally:
            self.em.place = outer

    def value(self, node: Any) -> str:
        if node is None:
            return "None" if self.drop.null == "drop" else "NULL"
        if isinstance(node, dict):
            return self.object(node)
        if isinstance(node, list):
            return self.sequence(node)
        code = emit_scalar(self.em, node)
        kept = self.em.fresh()
        self.em.line(f"{kept} = {code}")
        computed = is_expression(node) or is_template(node)
        tests = [
            f"{kept} == {empty}"
            for policy, empty in ((self.drop.text, "''"), (self.drop.list, "[]"), (self.drop.object, "{}"))
            if policy == "drop" and (computed or node == "")
        ]
        if tests:
            self.em.line(f"if {' or '.join(tests)}: {kept} = None")
        if self.missing and computed:
            self.em.line(f"if {kept} is None: {self.missing} = True")
        self.leaves += computed
        if is_expression(node) and not gives_scalar(code):
            self.deepens = True
            self.em.line(f"if {kept}.__class__ in DEEP: deep = True")
        return kept

    def weighed(self, code: str) -> str:
        """
        The finished tree, held against the caps where it can reach them: not where few scalars are written into it.

        Most records are such, and a look at all their parts would take a third as long as making them.
        """
        code = f"plain_null({code})"
        known = "known=scope.get('#encoded')"
        if self.em.metered or self.leaves > FEW:
            return f"weighed({code}, {known})"
        return f"weighed({code}, {known}) if deep else {code}" if self.deepens else code

    def object(self, node: dict[str, Any]) -> str:
        directive = next((key for key in node if key.startswith("$") and not key.startswith("$$")), None)
        if directive is not None:
            return self.directive(directive, node)
        built = self.em.fresh("d")
        self.em.line(f"{built} = {{}}")
        for key, child in node.items():
            name = key[1:] if key.startswith("$$") else key
            if "{{" in name or "${" in name:
                self.em.problem("key", f"a key is a literal: {name}", "computed keys: $object: [{key: …, value: …}]")
                continue
            code = self.emit(child, key)
            self.em.place = (*self.em.place, key)
            if code == "NULL":
                self.em.line(f"{built}[{name!r}] = None")
            elif code != "None":
                self.em.line(f"if {code} is not None: {built}[{name!r}] = {unwrapped(code)}")
            self.em.place = self.em.place[:-1]
        if node:
            self.em.line(f"if not {built}: {built} = None")
        return built

    def sequence(self, node: list[Any]) -> str:
        built = self.items(node)
        if node:
            self.em.line(f"if not {built}: {built} = None")
        return built

    def items(self, node: list[Any], *keys: str | int) -> str:
        built = self.em.fresh("l")
        self.em.line(f"{built} = []")
        for position, child in enumerate(node):
            code = self.emit(child, *keys, position)
            if code != "None":
                self.em.line(f"if {code} is not None: {built}.append({unwrapped(code)})")
        return built

    # --- directives: one method each ---

    def directive(self, name: str, node: dict[str, Any]) -> str:
        if name not in DIRECTIVES:
            raise ExpressionError(
                "directive", f"unknown directive {name}", closest(name, DIRECTIVES) or "$literal keeps a map as it is"
            )
        for key in node:
            if key != name and key not in OPTIONS.get(name, ()):
                allowed = ", ".join(sorted(OPTIONS.get(name, ()))) or "no other key"
                raise ExpressionError("directive", f"{key} does not belong beside {name}", f"beside {name}: {allowed}")
        outer = self.missing
        if name in OWN:
            self.missing = None
        try:
            code = str(getattr(self, "on_" + name[1:])(node))
        finally:
            self.missing = outer
        if outer and code == "None":
            self.em.line(f"{outer} = True")
        elif outer and code != "NULL":
            self.em.line(f"if {code} is None: {outer} = True")
        return code

    def on_literal(self, node: dict[str, Any]) -> str:
        return "NULL" if node["$literal"] is None else self.assigned(self.em.const(node["$literal"]))

    def condition(self, node: Any, *keys: str | int) -> str:
        outer = self.em.place
        self.em.place = (*outer, *keys)
        code = emit_scalar(self.em, node)
        self.em.place = outer
        return f"true(attempt(lambda: {code}))"

    def branch(self, head: str, out: str, node: Any, *keys: str | int) -> None:
        self.em.line(head)
        self.em.depth += 1
        self.em.passed(*keys)
        self.em.line(f"{out} = {self.emit(node, *keys)}")
        self.em.depth -= 1

    def on_if(self, node: dict[str, Any]) -> str:
        if "then" not in node:
            raise ExpressionError("directive", "$if needs then")
        out, test = self.em.fresh("b"), self.em.fresh()
        self.em.line(f"{out} = None")
        self.em.line(f"{test} = {self.condition(node['$if'], '$if')}")
        self.branch(f"if {test}:", out, node["then"], "then")
        if "else" in node:
            self.branch("else:", out, node["else"], "else")
        return out

    def on_switch(self, node: dict[str, Any]) -> str:
        if not isinstance(node.get("cases"), dict):
            raise ExpressionError("directive", "$switch needs cases, a map from value to what it gives")
        out, chosen = self.em.fresh("b"), self.em.fresh()
        self.em.line(f"{out} = None")
        self.em.line(f"{chosen} = case({self.emit(node['$switch'], '$switch')})")
        word = "if"
        for value, child in node["cases"].items():
            self.branch(f"{word} {chosen} == {str(value)!r}:", out, child, "cases", value)
            word = "elif"
        if "default" in node:
            self.branch("else:" if node["cases"] else "if True:", out, node["default"], "default")
        return out

    def on_each(self, node: dict[str, Any]) -> str:
        if "do" not in node:
            raise ExpressionError("directive", "$each needs do, what each item gives")
        name = node.get("as", "item")
        if not isinstance(name, str) or not name.isidentifier():
            raise ExpressionError("directive", "as: is a name, such as item")
        if name in self.em.names:
            raise ExpressionError("directive", f"as: {name} hides the {name} of the context", "choose another name")
        listed = self.emit(node["$each"], "$each")
        out, variable, index = self.em.fresh("l"), self.em.fresh("v"), self.em.fresh("i")
        self.em.line(f"{out} = []")
        self.em.line(f"for {index}, {variable} in enumerate(bounded({listed}, {self.em.work()})):")
        self.em.depth += 1
        self.em.looping += 1
        outer = dict(self.em.bound)
        self.em.bound.update({"index": index, name: variable})
        if "where" in node:
            self.em.line(f"if not {self.condition(node['where'], 'where')}: continue")
        code = self.emit(node["do"], "do")
        self.em.line(f"if {code} is not None: {out}.append(plain_null({code}))")
        self.em.bound = outer
        self.em.looping -= 1
        self.em.depth -= 1
        self.em.line(f"if not {out}: {out} = None")
        return out

    def parts(self, name: str, node: dict[str, Any]) -> str:
        if not isinstance(node[name], list):
            raise ExpressionError("directive", f"{name} takes a list")
        return self.items(node[name], name)

    def assigned(self, code: str, prefix: str = "t") -> str:
        out = self.em.fresh(prefix)
        self.em.line(f"{out} = {code}")
        return out

    def on_merge(self, node: dict[str, Any]) -> str:
        return self.assigned(f"merged({self.parts('$merge', node)})")

    def on_lines(self, node: dict[str, Any]) -> str:
        return self.assigned(f"lines({self.parts('$lines', node)})")

    def on_object(self, node: dict[str, Any]) -> str:
        if isinstance(node["$object"], dict):
            return self.assigned(f"as_object({self.emit(node['$object'], '$object')})")
        return self.assigned(f"as_object({self.parts('$object', node)})")

    def on_json(self, node: dict[str, Any]) -> str:
        return self.assigned(f"json_text({self.emit(node['$json'], '$json')})")

    def on_soql(self, node: dict[str, Any]) -> str:
        return self.query(node, "soql")

    def on_sql(self, node: dict[str, Any]) -> str:
        return self.query(node, "sql")

    def query(self, node: dict[str, Any], kind: str) -> str:
        text = node[f"${kind}"]
        if not isinstance(text, str):
            raise ExpressionError("directive", f"${kind} takes a text")
        if is_expression(text):
            raise ExpressionError("query", "a query is a text with holes, each escaped", "… WHERE Email = {{ … }}")
        check_query_holes(text, escapes=kind == "soql")
        return self.assigned(emit_scalar(self.em, text, kind))

    def on_html(self, node: dict[str, Any]) -> str:
        text = node["$html"]
        if not isinstance(text, str):
            raise ExpressionError("directive", "$html takes a text")
        if is_expression(text):
            raise ExpressionError("html-hole", "HTML is a text with holes, each escaped", "<p>{{ … }}</p>")
        if not is_template(text):
            place = place_of("html")
            place.read(text)
            place.end()
        return self.assigned(emit_scalar(self.em, text, "html"))

    def on_all(self, node: dict[str, Any]) -> str:
        outer, self.missing = self.missing, self.em.fresh("m")
        self.em.line(f"{self.missing} = False")
        code = self.emit(node["$all"], "$all")
        out = self.assigned(f"None if {self.missing} else {code}", "b")
        self.missing = outer
        return out

    def on_keep(self, node: dict[str, Any]) -> str:
        empty = empty_of(node["$keep"])
        code = self.emit(node["$keep"], "$keep")
        return self.assigned(f"{empty} if {code} is None else {code}", "b")

    def on_drop(self, node: dict[str, Any]) -> str:
        outer = self.drop
        try:
            self.drop = msgspec.convert(node["$drop"], Drop)
        except msgspec.ValidationError:
            raise ExpressionError("directive", "$drop takes null, text, list, object, each drop or keep") from None
        try:
            return self.emit(node.get("do"), "do")
        finally:
            self.drop = outer

    def on_rest(self, node: dict[str, Any]) -> str:
        source = node["$rest"]
        code = self.emit(source, "$rest")
        only, dropped = node.get("only"), node.get("except", [])
        if not all(listed is None or isinstance(listed, list) for listed in (only, dropped)):
            raise ExpressionError("directive", "except and only take a list of names", "except: [used, name]")
        used: set[str] = {name for name in dropped if name != "used"}
        if "used" in dropped:
            if not is_expression(source):
                raise ExpressionError("directive", "except: [used] needs a path", "$rest: ${ event }")
            self.em.watch(tuple(source.strip()[2:-1].strip().split(".")), used)
        return self.assigned(f"rest({code}, {self.em.const(used)}, {self.em.const(only)})")

    def on_entries(self, node: dict[str, Any]) -> str:
        code = self.emit(node["$entries"], "$entries")
        by = self.emit(node["by"], "by") if "by" in node else "None"
        key, value = names_of(node, "key", "value")
        return self.assigned(f"entries({code}, {key!r}, {value!r}, {by})")

    def on_rename(self, node: dict[str, Any]) -> str:
        if "by" not in node:
            raise ExpressionError("directive", "$rename needs by, a map from the keys here to the names they get")
        code = self.emit(node["$rename"], "$rename")
        by = self.emit(node["by"], "by")
        return self.assigned(f"renamed({code}, {by})")

    def on_rows(self, node: dict[str, Any]) -> str:
        code = self.emit(node["$rows"], "$rows")
        columns, rows = names_of(node, "columns", "rows")
        return self.assigned(f"columns_and_rows({code}, {columns!r}, {rows!r})")

    def on_with(self, node: dict[str, Any]) -> str:
        """A definition used with arguments: `args` stands for them inside it."""
        inside = node["$with"]
        if not isinstance(inside, dict) or "do" not in inside:
            raise ExpressionError("directive", "$with is not written by hand", "write {$use: name, args: {…}}")
        args = self.emit(inside.get("args", {}), "$with", "args")
        outer = dict(self.em.bound)
        self.em.bound["args"] = args
        code = self.emit(inside["do"], "$with", "do")
        self.em.bound = outer
        return code


def gives_scalar(code: str) -> bool:
    """Is this the call of a function that gives a text, a number or a boolean?"""
    name = code.partition("(")[0].removeprefix("f_")
    function = functions.REGISTRY.get(name) if code.startswith("f_") else None
    return function is not None and function.returns in ("text", "number", "boolean")


def unwrapped(code: str) -> str:
    """The value as it is stored: only a branch (a variable b…) can be a written null that has come as a value."""
    return "None" if code == "NULL" else f"plain_null({code})" if code.startswith("b") else code


def names_of(node: dict[str, Any], *options: str) -> list[str]:
    """The keys that a directive writes: as named beside it, else as the options themselves are called."""
    names = [node.get(option, option) for option in options]
    if not all(isinstance(name, str) for name in names):
        raise ExpressionError("directive", f"{' and '.join(options)} are names, such as {options[0]}: {options[0]}")
    return names


def empty_of(node: Any) -> str:
    """What stays of `node` when nothing is left in it: [] or {}."""
    if isinstance(node, list):
        return "[]"
    if not isinstance(node, dict):
        raise ExpressionError("directive", "$keep takes a map or a list", "for a value write default")
    if "$each" in node or "$entries" in node:
        return "[]"
    inner: Any = None
    if "$switch" in node and isinstance(node.get("cases"), dict):
        inner = next(iter(node["cases"].values()), None)
    elif "$if" in node or "$drop" in node:
        inner = node.get("then", node.get("do"))
    return empty_of(inner) if isinstance(inner, (dict, list)) else "{}"


def check_query_holes(text: str, *, escapes: bool) -> None:
    """
    A hole between quotes would be quoted twice, or open the quotes for whoever wrote the value.

    `escapes`: a backslash takes the meaning from a quote.
    """
    quoted = False
    position = 0
    while position < len(text):
        if text.startswith("{{", position):
            if quoted:
                raise ExpressionError(
                    "query-quotes", "a hole inside quotes", "write {{ … }} without quotes; it brings its own"
                )
            position = max(text.find("}}", position), position) + 2
            continue
        if text[position] == "\\" and escapes:
            position += 1
        elif text[position] == "'":
            quoted = not quoted
        position += 1


def compile_tree(
    compiler: Compiler,
    spec: Any,
    names: Iterable[str],
    place: Path,
    drop: Drop | None = None,
    args: Mapping[str, Any] | None = None,
) -> Run:
    """scope -> the tree's value with all holes filled, or None if nothing is left of it."""
    if spec is None:
        return lambda _scope: None
    if spec == {}:
        return lambda _scope: {}
    names, drop = frozenset(names), drop or Drop()

    def make() -> Run:
        em = compiler.emitter(names, place)
        tree = Tree(em, drop)
        if args:
            em.bound["args"] = tree.emit(dict(args), "args")
        em.prelude.append("deep = False")
        return em.build(tree.weighed(tree.emit(spec)))

    return compiler.kept(("tree", encode_json([spec, args]), drop, names, place), make)
