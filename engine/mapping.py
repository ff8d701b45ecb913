"""
A tree of YAML -> one generated function that builds the record: structure is keys with a `$`, leaves are expressions.

Absent leaves vanish with their key or list item, and so does a map or list of which nothing is left. A written null is
sent. What a directive does is one method here, named after it; a new directive is a new method.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import BadValue
from engine.expressions import Compiler, emit_scalar
from engine.names import ARRIVED, CLIENT, MAPPED
from engine.notations import semantics
from engine.notations.calls import deep
from engine.notations.emitting import (
    ABSENT,
    ANY,
    DEEP,
    NONE,
    TEXT,
    Code,
    Emitter,
    ExpressionError,
    closest,
    is_expression,
    is_template,
)
from engine.notations.holes import place_of
from engine.spec.types import Drop

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.notations.emitting import Path, Run

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
    found = [part if part.__class__ is str else semantics.plain(part) for part in parts if part is not None]
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
WRITTEN_NULL = Code("NULL", frozenset(), null=True, value=NULL)
LIST, OBJECT = frozenset({"list"}), frozenset({"object"})
KEPT = {"[]": LIST, "{}": OBJECT}
CLASSES = {"text": "str", "list": "list", "object": "dict"}
HOLE = re.compile(r"\A\$|\{\{|\$\{")
AT_ONCE = 8  # entries of one list or object that may be absent, for which all of them together are tried first
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
        self.leaves = 0  # that are computed, outside of loops
        self.parts = 0  # of one round of the loop that we are in: leaves, lists and objects
        self.loops = False  # `many` counts the parts that they make
        self.deepens = False  # a leaf may be a list or an object; `deep` says whether one is
        self.reading = False  # a leaf is read for what it holds, and not written
        self.missing: str | None = None  # inside $all: the flag that a leaf was absent

    def emit(self, node: Any, *keys: str | int) -> Code:
        """The variable or literal of the value of `node`, placed at the current place plus `keys`; NULL is a null."""
        code = self.entry(node, *keys)
        if code.unseen:
            self.deepen(f"if {code}.__class__ is not str and {deep(code)}: ")
        return code

    def entry(self, node: Any, *keys: str | int) -> Code:
        """The same for one that goes into a list or an object, which looks at it where it is put in."""
        outer = self.em.place
        self.em.place = (*outer, *keys)
        try:
            with self.em.undone():
                return self.value(node)
        except ExpressionError as error:
            self.em.problem(error.rule, error.message, error.hint)
            return NONE
        finally:
            self.em.place = outer

    def value(self, node: Any) -> Code:
        if node is None:
            return NONE if self.drop.null == "drop" else WRITTEN_NULL
        self.parts += 1
        if isinstance(node, dict):
            return self.object(node)
        if isinstance(node, list):
            return self.sequence(node)
        code = emit_scalar(self.em, node)
        computed = is_expression(node) or is_template(node)
        if not computed:
            return NONE if node == "" and self.drop.text == "drop" else code
        kept = self.leaf(code, written=is_expression(node))
        if self.missing and "absent" in kept.kinds:
            self.em.line(f"if {kept} is None: {self.missing} = True")
        self.leaves += not self.em.looping
        return kept

    def read(self, node: dict[str, Any], key: str) -> Code:
        """What a directive goes by: its value is not written as it is."""
        self.reading = isinstance(node[key], str)
        code = self.emit(node[key], key)
        self.reading = False
        return code

    def deepen(self, test: str = "") -> None:
        self.deepens = True
        self.em.line(f"{test}deep = True")

    def leaf(self, code: Code, *, written: bool) -> Code:
        """
        The value of a leaf, absent where it is an empty one that is dropped.

        `written`: it may be a list or an object, which `deep` tells where it goes into the tree.
        """
        empty = {
            kind
            for policy, kind in ((self.drop.text, "text"), (self.drop.list, "list"), (self.drop.object, "object"))
            if policy == "drop" and kind in code.kinds
        }
        deepens = written and not self.reading and code.kinds & DEEP
        if not empty:
            if not deepens:
                return code
            kept = Code(code, code.kinds, capped=code.capped, null=code.null, value=code.value)
            kept.small, kept.as_text, kept.unseen = code.small, code.as_text, True
            return kept
        if code.kinds <= empty | ABSENT:
            kept = self.em.assign(f"{code} or None", code.kinds | ABSENT)
        elif empty == {"text"}:
            kept = Code(self.em.fresh(), code.kinds | ABSENT, capped=code.capped)
            self.em.line(f"if {code}.__class__ is str: {kept} = {code} or None")
            with self.em.block("else:"):
                self.em.line(f"{kept} = {code}")
                if deepens:
                    self.deepen(f"if {deep(code)}: ")
        else:
            other = " and ".join(f"{code}.__class__ is not {CLASSES[kind]}" for kind in sorted(empty))
            kept = self.em.assign(f"{code} if {code} or {other} else None", code.kinds | ABSENT, capped=code.capped)
            if deepens:
                self.deepen(f"if {kept}.__class__ is not str and {deep(kept)}: ")
        return kept

    def weighed(self, code: Code) -> str:
        """
        The finished tree, held against the caps where it can reach them: not where few scalars are written into it.

        Most records are such, and a look at all their parts would take a third as long as making them.
        """
        made, test = plain(code), self.large()
        looked = f"weighed({made}, known=scope.get('#encoded'))"
        return looked if test == "True" else f"{looked} if {test} else {made}" if test else made

    def large(self) -> str:
        """A Python test: can the tree reach the caps? Empty where it never can."""
        if self.leaves > FEW:
            return "True"
        tests = ["deep"] if self.deepens else []
        if self.loops:
            tests.append(f"many > {FEW - self.leaves}")
        self.em.prelude += self.flags()
        self.em.risks += bool(tests)
        return " or ".join(tests)

    def flags(self) -> list[str]:
        return [*(["deep = False"] if self.deepens else []), *(["many = 0"] if self.loops else [])]

    def fields(self, node: dict[str, Any]) -> None:
        """Puts the context's `fields` into it; who reads one of them later reads the variable that it was made from."""
        plainly = directive_of(node) is None
        pairs = self.pairs(node) if plainly else []
        if plainly:
            fields = self.built(pairs, keeps_empty=True)
        else:
            fields = self.em.assign(f"{self.emit(node)} or {{}}", ANY, prefix="n")
        if test := self.large():
            with self.em.block(f"if {test}:"):
                self.em.line(f"weighed({fields}, known=scope.get('#encoded'))", risky=True)
                for flag in self.flags():  # of what comes next
                    self.em.line(flag)
        self.em.line(f"scope['fields'] = {fields}")
        self.em.made["fields"] = fields
        for name, value in pairs:
            if not value.literal and not value.null:
                self.em.known[-1][fields, name] = Code(value, value.kinds, capped=value.capped)

    def object(self, node: dict[str, Any]) -> Code:
        directive = directive_of(node)
        if directive is not None:
            return self.directive(directive, node)
        return self.built(self.pairs(node), keeps_empty=not node)

    def pairs(self, node: dict[str, Any]) -> list[tuple[str, Code]]:
        pairs: list[tuple[str, Code]] = []
        for key, child in node.items():
            name = key[1:] if key.startswith("$$") else key
            if "{{" in name or "${" in name:
                self.em.problem("key", f"a key is a literal: {name}", "computed keys: $object: [{key: …, value: …}]")
                continue
            code = self.entry(child, key)
            if code.value is not None:
                pairs.append((name, code))
        return pairs

    def built(self, pairs: list[tuple[str, Code]], *, keeps_empty: bool) -> Code:
        return self.made(
            Code(self.em.fresh("d"), OBJECT),
            [(f"{name!r}: {plain(code)}", code) for name, code in pairs],
            [f"[{name!r}] = {plain(code)}" for name, code in pairs],
            "{}",
            keeps_empty=keeps_empty,
        )

    def sequence(self, node: list[Any]) -> Code:
        return self.listed(self.children(node), keeps_empty=not node)

    def children(self, node: list[Any], *keys: str | int) -> list[Code]:
        return [self.entry(child, *keys, position) for position, child in enumerate(node)]

    def listed(self, codes: list[Code], *, keeps_empty: bool = False) -> Code:
        there = [code for code in codes if code.value is not None]
        return self.made(
            Code(self.em.fresh("l"), LIST),
            [(plain(code), code) for code in there],
            [f".append({plain(code)})" for code in there],
            "[]",
            keeps_empty=keeps_empty,
        )

    def made(
        self, built: Code, entries: list[tuple[str, Code]], steps: list[str], brackets: str, *, keeps_empty: bool
    ) -> Code:
        """A list or object of those entries that are there: at once where all are, else step by step."""
        unsure = [code for _, code in entries if code.unseen or "absent" in code.kinds]
        sure = next((at for at, (_, code) in enumerate(entries) if code in unsure), len(entries))
        may_be_empty = not keeps_empty and all("absent" in code.kinds for _, code in entries)

        def written(upto: int) -> str:
            return f"{brackets[0]}{', '.join(entry for entry, _ in entries[:upto])}{brackets[1]}"

        def one_by_one() -> None:
            self.em.line(f"{built} = {written(sure)}")
            for (_, code), step in zip(entries[sure:], steps[sure:], strict=True):
                self.put(code, f"{built}{step}")
            if may_be_empty:
                self.em.line(f"if not {built}: {built} = None")

        if may_be_empty:
            built.kinds = built.kinds | ABSENT if entries else ABSENT
        if not unsure:
            self.em.line(f"{built} = {written(len(entries)) if not may_be_empty else 'None'}")
        elif len(unsure) <= AT_ONCE:
            tests = " and ".join(
                f"{code}.__class__ is str" if code.unseen else f"{code} is not None" for code in dict.fromkeys(unsure)
            )
            self.em.line(f"if {tests}: {built} = {written(len(entries))}")
            with self.em.block("else:"):
                one_by_one()
        else:
            one_by_one()
        return built

    def put(self, code: Code, step: str) -> None:
        """The line that puts one entry into what is built, where it is there."""
        if not code.unseen:
            self.em.line(f"if {code} is not None: {step}" if "absent" in code.kinds else step)
            return
        self.deepens = True
        self.em.line(f"if {code}.__class__ is str: {step}")
        with self.em.block(f"elif {code} is not None:"):
            self.em.line(step)
            self.em.line(f"if {deep(code)}: deep = True")

    # --- directives: one method each ---

    def directive(self, name: str, node: dict[str, Any]) -> Code:
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
            code: Code = getattr(self, "on_" + name[1:])(node)
        finally:
            self.missing = outer
        if outer and code.value is None:
            self.em.line(f"{outer} = True")
        elif outer and "absent" in code.kinds:
            self.em.line(f"if {code} is None: {outer} = True")
        return code

    def on_literal(self, node: dict[str, Any]) -> Code:
        if node["$literal"] is None:
            return WRITTEN_NULL
        code = self.em.const(node["$literal"])
        if self.em.looping and code.kinds & DEEP:
            self.deepen()
        return Code(code, code.kinds)

    def condition(self, node: Any, *keys: str | int) -> str:
        outer, start = self.em.place, len(self.em.lines)
        self.em.place = (*outer, *keys)
        test = self.em.attempt(lambda: emit_scalar(self.em, node))
        self.em.place = outer
        self.em.places[start:] = [outer] * (len(self.em.lines) - start)  # what takes too much is told of the directive
        return test

    def branch(self, head: str, out: Code, node: Any, *keys: str | int) -> None:
        with self.em.block(head):
            self.em.passed(*keys)
            code = self.emit(node, *keys)
            self.em.line(f"{out} = {code}")
        out.kinds, out.null = out.kinds | code.kinds, out.null or code.null

    def on_if(self, node: dict[str, Any]) -> Code:
        if "then" not in node:
            raise ExpressionError("directive", "$if needs then")
        out = Code(self.em.fresh("b"), frozenset())
        test = self.condition(node["$if"], "$if")
        self.branch(f"if {test}:", out, node["then"], "then")
        if "else" in node:
            self.branch("else:", out, node["else"], "else")
        else:
            self.em.line(f"else: {out} = None")
            out.kinds |= ABSENT
        return out

    def on_switch(self, node: dict[str, Any]) -> Code:
        if not isinstance(node.get("cases"), dict):
            raise ExpressionError("directive", "$switch needs cases, a map from value to what it gives")
        out, chosen = Code(self.em.fresh("b"), frozenset()), self.read(node, "$switch")
        if chosen.literal or chosen.null or not chosen.kinds <= TEXT | ABSENT:
            quick = "" if chosen.literal else f"{chosen} if {chosen}.__class__ is str else "
            chosen = self.em.assign(f"{quick}case({chosen})", TEXT | ABSENT, risky=True)
        word = "if"
        for value, child in node["cases"].items():
            self.branch(f"{word} {chosen} == {str(value)!r}:", out, child, "cases", value)
            word = "elif"
        if "default" in node:
            self.branch("else:" if node["cases"] else "if True:", out, node["default"], "default")
        else:
            self.em.line(f"else: {out} = None" if node["cases"] else f"{out} = None")
            out.kinds |= ABSENT
        return out

    def on_each(self, node: dict[str, Any]) -> Code:
        if "do" not in node:
            raise ExpressionError("directive", "$each needs do, what each item gives")
        name = node.get("as", "item")
        if not isinstance(name, str) or not name.isidentifier():
            raise ExpressionError("directive", "as: is a name, such as item")
        if name in self.em.names:
            raise ExpressionError("directive", f"as: {name} hides the {name} of the context", "choose another name")
        listed = self.read(node, "$each")
        out = Code(self.em.fresh("l"), LIST | ABSENT)
        variable, index = Code(self.em.fresh("v")), Code(self.em.fresh("i"), frozenset({"number"}), capped=True)
        index.small = True
        self.em.line(f"{out} = []")
        head = f"for {index}, {variable} in enumerate(bounded({listed}, {self.em.work()})):"
        outer, parts, self.parts, self.loops = dict(self.em.bound), self.parts, 0, True
        at = len(self.em.lines)
        with self.em.block(head, risky=True):
            self.em.looping += 1
            self.em.bound.update({"index": index, name: variable})
            if "where" in node:
                self.em.line(f"if not {self.condition(node['where'], 'where')}: continue")
            code = self.emit(node["do"], "do")
            self.em.line(f"many += {self.parts + 1}")
            there = f"if {code} is not None: " if "absent" in code.kinds else ""
            self.em.line(f"{there}{out}.append({plain(code)})")
            self.em.looping -= 1
        if not any(index in line for _, line in self.em.lines[at + 1 :]):
            self.em.lines[at] = (self.em.depth, f"for {variable} in bounded({listed}, {self.em.work()}):")
        self.em.bound, self.parts = outer, parts
        self.em.line(f"if not {out}: {out} = None")
        return out

    def part(self, name: str, node: dict[str, Any]) -> list[Code]:
        if not isinstance(node[name], list):
            raise ExpressionError("directive", f"{name} takes a list")
        return self.children(node[name], name)

    def assigned(self, source: str, kinds: frozenset[str] = ANY, prefix: str = "t") -> Code:
        return self.em.assign(source, kinds, risky=True, prefix=prefix)

    def on_merge(self, node: dict[str, Any]) -> Code:
        return self.assigned(f"merged({self.listed(self.part('$merge', node), keeps_empty=True)})", OBJECT | ABSENT)

    def on_lines(self, node: dict[str, Any]) -> Code:
        codes = [code for code in self.part("$lines", node) if code.value is not None]
        if not codes or any(code.null or code.literal or not code.kinds <= TEXT | ABSENT for code in codes):
            return self.assigned(f"lines({self.listed(codes, keeps_empty=True)})", TEXT | ABSENT)
        there = " and ".join(f"{code} is not None" for code in dict.fromkeys(codes) if "absent" in code.kinds)
        whole = 'f"' + "\\n".join(f"{{{code}}}" for code in codes) + '"'
        made = f"{whole} if {there} else lines([{', '.join(codes)}])" if there else whole
        return self.em.assign(made, TEXT | (ABSENT if there else frozenset()))

    def on_object(self, node: dict[str, Any]) -> Code:
        if isinstance(node["$object"], dict):
            return self.assigned(f"as_object({self.emit(node['$object'], '$object')})", OBJECT | ABSENT)
        pairs = self.listed(self.part("$object", node), keeps_empty=True)
        return self.assigned(f"as_object({pairs})", OBJECT | ABSENT)

    def on_json(self, node: dict[str, Any]) -> Code:
        if self.em.looping:  # its text may be longer than what it is made of
            self.deepen()
        return self.assigned(f"json_text({self.emit(node['$json'], '$json')})", TEXT | ABSENT)

    def on_soql(self, node: dict[str, Any]) -> Code:
        return self.query(node, "soql")

    def on_sql(self, node: dict[str, Any]) -> Code:
        return self.query(node, "sql")

    def query(self, node: dict[str, Any], kind: str) -> Code:
        text = node[f"${kind}"]
        if not isinstance(text, str):
            raise ExpressionError("directive", f"${kind} takes a text")
        if is_expression(text):
            raise ExpressionError("query", "a query is a text with holes, each escaped", "… WHERE Email = {{ … }}")
        check_query_holes(text, escapes=kind == "soql")
        return emit_scalar(self.em, text, kind)

    def on_html(self, node: dict[str, Any]) -> Code:
        text = node["$html"]
        if not isinstance(text, str):
            raise ExpressionError("directive", "$html takes a text")
        if is_expression(text):
            raise ExpressionError("html-hole", "HTML is a text with holes, each escaped", "<p>{{ … }}</p>")
        if not is_template(text):
            place = place_of("html")
            place.read(text)
            place.end()
        return emit_scalar(self.em, text, "html")

    def on_all(self, node: dict[str, Any]) -> Code:
        outer, self.missing = self.missing, self.em.fresh("m")
        self.em.line(f"{self.missing} = False")
        code = self.emit(node["$all"], "$all")
        out = self.em.assign(f"None if {self.missing} else {code}", code.kinds | ABSENT, prefix="b")
        self.missing, out.null = outer, code.null
        return out

    def on_keep(self, node: dict[str, Any]) -> Code:
        empty = empty_of(node["$keep"])
        code = self.emit(node["$keep"], "$keep")
        if code.literal:
            return code if code.value is not None else self.em.assign(empty, KEPT[empty])
        out = self.em.assign(f"{empty} if {code} is None else {code}", code.kinds - ABSENT | KEPT[empty], prefix="b")
        out.null = code.null
        return out

    def on_drop(self, node: dict[str, Any]) -> Code:
        outer = self.drop
        try:
            self.drop = msgspec.convert(node["$drop"], Drop)
        except msgspec.ValidationError:
            raise ExpressionError("directive", "$drop takes null, text, list, object, each drop or keep") from None
        try:
            return self.emit(node.get("do"), "do")
        finally:
            self.drop = outer

    def on_rest(self, node: dict[str, Any]) -> Code:
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
        return self.assigned(f"rest({code}, {self.em.const(used)}, {self.em.const(only)})", OBJECT | ABSENT)

    def on_entries(self, node: dict[str, Any]) -> Code:
        key, value = names_of(node, "key", "value")
        source = node["$entries"]
        if "by" not in node and isinstance(source, dict) and not any(HOLE.search(name) for name in source):
            return self.entries_of(source, key, value)
        code = self.emit(source, "$entries")
        by = self.emit(node["by"], "by") if "by" in node else NONE
        return self.assigned(f"entries({code}, {key!r}, {value!r}, {by})", LIST | ABSENT)

    def entries_of(self, source: dict[str, Any], key: str, value: str) -> Code:
        """$entries of a map that stands there: its pairs at once."""
        self.parts += 1 + len(source)
        codes = [(name, self.entry(child, "$entries", name)) for name, child in source.items()]
        made = [
            (f"{{{key!r}: {name!r}, {value!r}: {plain(code)}}}", code) for name, code in codes if code.value is not None
        ]
        steps = [f".append({pair})" for pair, _ in made]
        return self.made(Code(self.em.fresh("l"), LIST), made, steps, "[]", keeps_empty=False)

    def on_rename(self, node: dict[str, Any]) -> Code:
        if "by" not in node:
            raise ExpressionError("directive", "$rename needs by, a map from the keys here to the names they get")
        code = self.emit(node["$rename"], "$rename")
        by = self.emit(node["by"], "by")
        return self.assigned(f"renamed({code}, {by})", OBJECT | ABSENT)

    def on_rows(self, node: dict[str, Any]) -> Code:
        code = self.emit(node["$rows"], "$rows")
        columns, rows = names_of(node, "columns", "rows")
        return self.assigned(f"columns_and_rows({code}, {columns!r}, {rows!r})", OBJECT | ABSENT)

    def on_with(self, node: dict[str, Any]) -> Code:
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


def directive_of(node: dict[str, Any]) -> str | None:
    return next((key for key in node if key.startswith("$") and not key.startswith("$$")), None)


def plain(code: Code) -> str:
    """The value as it is stored: a branch may give a written null, which has come as a value."""
    return "None" if code.value is NULL else f"plain_null({code})" if code.null else code


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
        return em.build(tree.weighed(tree.emit(spec)))

    return compiler.kept(("tree", encode_json([spec, args]), drop, names, place), make)


def compile_record(compiler: Compiler, fields: Any, spec: Any, place: Path, drop: Drop) -> Run:
    """
    scope -> the record, as `compile_tree` gives it, for a context without `fields`: these are put into it first.

    One function makes both, so that what both read is read once. The context's own parts are to be objects.
    """

    def make() -> Run:
        em = compiler.emitter(MAPPED, place)
        em.objects = CLIENT | {"event"}
        with em.apart(ARRIVED, ("fields",)):
            Tree(em, Drop()).fields(fields)
        tree = Tree(em, drop)
        return em.build(tree.weighed(tree.emit(spec)))

    return compiler.kept(("record", encode_json([fields, spec]), drop, place), make)
