"""`${ }`: JMESPath's tree to a Python expression; the library parses, this module translates, once at load."""

# ruff: noqa: ARG002 (every kind of node is visited with the same three arguments)

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from engine.notations import semantics
from engine.notations.calls import compare, emit_call
from engine.notations.emitting import ABSENT, BOOLEAN, MAX_EXPRESSION, Code, ExpressionError, exact, truth

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.notations.emitting import Emitter

LIST = frozenset({"list"})
OBJECT = frozenset({"object"})


def emit_expression(em: Emitter, text: str) -> Code:
    """The variable or literal with the value of the inside of one `${ }`."""
    from jmespath import exceptions
    from jmespath.parser import Parser

    if len(text) > MAX_EXPRESSION:
        raise ExpressionError("syntax", f"an expression of {len(text)} characters; {MAX_EXPRESSION} is the most")
    if not text.strip():
        raise ExpressionError("syntax", "an empty ${ }")
    try:
        check_literals(text)
        tree: Any = Parser().parse(text.strip()).parsed
        return _Jmes(em, text).node(tree, None, True)
    except exceptions.JMESPathError as error:
        raise ExpressionError("syntax", *_syntax(text, error)) from None
    except RecursionError:
        raise ExpressionError("syntax", "an expression nested too deeply") from None


def check_literals(text: str) -> None:
    """What stands in backticks is JSON; the library would take anything else for a text, and warn."""
    for found in QUOTED.finditer(text):
        try:
            json.loads(found[1].replace("\\`", "`") if found[1] is not None else "0")
        except ValueError:
            raise ExpressionError(
                "syntax", f"`{found[1][:40]}` is not JSON", "in backticks stand numbers; a text stands in single quotes"
            ) from None


QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`((?:\\.|[^`\\])*)`""", re.DOTALL)
# What stands in an expression that can't be read, without its texts -> what its author should write.
_HABITS = (
    (r"\{\{", "no {{ }} inside ${ }"),
    (r"\|\s*\w+\s*(?:\(|\Z)", "a function stands around its value: truncate(event.name, `20`)"),
    (r"[^\[]\?\?|^\?\?", "what stands in where nothing is there: coalesce(a, b), or a || b"),
    (r"[^\[]\?\.", "what is not there is absent by itself: write a plain ."),
    (r"[^\[]\?[^:]*:", "a choice is a directive: `$if:` with `then:` and `else:`"),
    (r"\w\.\d", "an item of a list is [0]"),
    (r"\w\[\s*''\s*\]", "a key stands after a point: event.name; one with other signs in double quotes"),
    (r"[=<>!(,]=?\s*-?\d", "numbers stand in backticks: `1`"),
    (r"\w\[\s*[a-z_]", "a key that is computed: get(map, key)"),
    (r"(?<![=<>!])=(?!=)", "equality is =="),
    (r"(?:\A|[\s(])(?:and|or|not)\s", "logic is written && || !"),
    (r"[A-Za-z_]-[A-Za-z_]", 'a name with - stands in double quotes: event."list-price"; functions subtract'),
    (r"[^\s\[]\s*[-+*/]\s*\S", "arithmetic is by functions: add, subtract, multiply, divide"),
)


def _syntax(text: str, error: Any) -> tuple[str, str]:
    position = getattr(error, "lex_position", None)
    at = f" at character {position + 1}" if isinstance(position, int) else ""
    bare = QUOTED.sub("''", text)
    hint = next((hint for pattern, hint in _HABITS if re.search(pattern, bare)), "")
    for opening, closing in ("()", "[]", "{}"):
        if (bare.count(opening) > bare.count(closing)) and not hint:
            hint = f"a {opening} is never closed"
    return f"not a JMESPath expression{at}: {text.strip()[:80]}", hint


STEPS = {"subexpression", "index_expression", "projection", "value_projection", "filter_projection", "flatten"}


def cut(em: Emitter, code: Code, node: dict[str, Any]) -> Code:
    first, last, step = node["children"]
    if step == 0:
        raise ExpressionError("syntax", "a slice can't go by steps of 0", "[::2] takes each second item")
    return em.assign(f"cut({code}, {first!r}, {last!r}, {step!r})", LIST | ABSENT)


class _Jmes:
    """JMESPath's tree to Python; `cur` is the Python variable of the current item, or None at the context."""

    def __init__(self, em: Emitter, text: str) -> None:
        self.em, self.text = em, text

    def node(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        if node["type"] in STEPS and node["children"][0]["type"] == "not_expression":
            raise ExpressionError("not-path", "! binds to the first name only, JMESPath reads (!a).b", "write !(a.b)")
        made: Code = getattr(self, "on_" + node["type"])(node, cur, start)
        return made

    def on_field(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        name = node["value"]
        if cur is None:
            if name not in self.em.names and name not in self.em.bound and f'"{name}"' in self.text:
                text = name.replace("\\", "\\\\").replace("'", "\\'")
                raise ExpressionError(
                    "name", f'"{name}" in double quotes is a name', f"a text stands in single quotes: '{text}'"
                )
            variable = self.em.root(name)
            self.em.use((name,))
            return variable
        if start and (name in self.em.names or name in self.em.bound):
            raise ExpressionError(
                "context-in-item",
                f"{name} is read from the item here, not from the context",
                f"where(list, 'field', {name}.…) or find(…) compares with it; @.{name} is a key of the item",
            )
        return self.em.key_of(cur, name)

    def on_subexpression(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        children = node["children"]
        path = []
        if cur is None and children[0]["type"] == "field" and children[0]["value"] not in self.em.bound:
            for child in children:
                if child["type"] != "field":
                    break
                path.append(child["value"])
        code = self.node(children[0], cur, start)
        if len(path) > 1:
            self.em.uses.pop()
            self.em.use(tuple(path))
        for child in children[1:]:
            if child["type"] == "field":
                code = self.em.key_of(code, child["value"])
            else:
                code = self.with_current(code, child, False)
        return code

    def with_current(self, code: Code, node: dict[str, Any], start: bool) -> Code:
        """`node` evaluated over the value of `code`."""
        return code if node["type"] in ("identity", "current") else self.node(node, code, start)

    def on_index_expression(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        left, *steps = node["children"]
        code = self.node(left, cur, start)
        for step in steps:
            code = cut(self.em, code, step) if step["type"] == "slice" else self.em.item_of(code, step["value"])
        return code

    def on_index(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        return self.em.item_of(self.current(cur), node["value"])

    def on_slice(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        return cut(self.em, self.current(cur), node)

    def current(self, cur: Code | None) -> Code:
        if cur is None:
            raise ExpressionError(
                "name", "@ and [ ] need a value before them", f"begin with a name: {', '.join(sorted(self.em.names))}"
            )
        return cur

    def on_current(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        return self.current(cur)

    on_identity = on_current

    def each(self, listed: Code, right: dict[str, Any]) -> Code:
        if right["type"] == "identity":
            return self.em.assign(f"compact({listed})", LIST | ABSENT)

        def rest(item: Code, out: Code) -> None:
            code = self.node(right, item, False)
            self.em.line(f"if {code} is not None: {out}.append({code})")

        return self.loop(listed, rest)

    def loop(self, listed: Code, do: Callable[[Code, Code], None]) -> Code:
        """What is done with each item of a list, one step each; absent where it is none."""
        out, item = Code(self.em.fresh("l"), LIST | ABSENT), Code(self.em.fresh("c"))
        with self.em.block(f"if {listed}.__class__ is list:"):
            self.em.pay(f"len({listed})")
            self.em.line(f"{out} = []")
            with self.em.block(f"for {item} in {listed}:"):
                self.em.looping += 1
                do(item, out)
                self.em.looping -= 1
        self.em.line(f"else: {out} = None")
        return out

    def on_projection(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        left, right = node["children"]
        return self.each(self.node(left, cur, start), right)

    def on_value_projection(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        left, right = node["children"]
        listed = self.em.assign(f"values({self.node(left, cur, start)})", LIST | ABSENT)
        return self.each(listed, right)

    def on_flatten(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        listed = self.node(node["children"][0], cur, start)
        return self.em.assign(f"flat({listed}, {self.em.work()})", LIST | ABSENT, risky=True)

    def on_filter_projection(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        left, right, condition = node["children"]

        def keep(item: Code, out: Code) -> None:
            holds = self.em.attempt(lambda: self.node(condition, item, True))
            self.em.line(f"if {holds}: {out}.append({item})")

        return self.each(self.loop(self.node(left, cur, start), keep), right)

    def on_pipe(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        left, right = node["children"]
        return self.with_current(self.node(left, cur, start), right, True)

    def on_comparator(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        left, right = (self.node(child, cur, True) for child in node["children"])
        return compare(self.em, node["value"], left, right)

    def on_or_expression(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        return self.one_of(node, cur, "if not {}:")

    def on_and_expression(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        return self.one_of(node, cur, "if {}:")

    def one_of(self, node: dict[str, Any], cur: Code | None, otherwise: str) -> Code:
        """The left value, or the right one where the left is false (`||`) or true (`&&`); only then it is computed."""
        first, second = node["children"]
        left = self.node(first, cur, True)
        out = self.em.assign(left)
        with self.em.block(otherwise.format(truth(left))):
            right = self.node(second, cur, True)
            self.em.line(f"{out} = {right}")
        kept = left.kinds - ABSENT if "not" in otherwise else left.kinds
        out.kinds, out.capped = kept | right.kinds, left.capped and right.capped
        return out

    def on_not_expression(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        return self.em.assign(f"not {truth(self.node(node['children'][0], cur, True))}", BOOLEAN)

    def on_multi_select_list(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        def make() -> str:
            return f"compact([{', '.join([self.node(child, cur, True) for child in node['children']])}])"

        return self.selected(make, cur, LIST)

    def on_multi_select_dict(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        def make() -> str:
            pairs = [f"{pair['value']!r}: {self.node(pair['children'][0], cur, True)}" for pair in node["children"]]
            return f"solid({{{', '.join(pairs)}}})"

        return self.selected(make, cur, OBJECT)

    def selected(self, make: Callable[[], str], cur: Code | None, kinds: frozenset[str]) -> Code:
        if cur is None:
            return self.em.assign(make(), kinds)
        out = Code(self.em.fresh(), kinds | ABSENT)
        with self.em.block(f"if {cur} is not None:"):
            self.em.line(f"{out} = {make()}")
        self.em.line(f"else: {out} = None")
        return out

    def on_literal(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        return self.em.const(exact(node["value"]))

    def on_function_expression(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        name, children = node["value"], node["children"]
        if name == "join" and children and children[0]["type"] == "literal":
            raise ExpressionError("argument-order", "join takes the list first here", "join(list, ', ')")
        return emit_call(
            self.em, name, [self.node(child, cur, True) for child in children], [kind_of(child) for child in children]
        )

    def on_expref(self, node: dict[str, Any], cur: Code | None, start: bool) -> Code:
        raise ExpressionError("syntax", "& is not used here", "name the key in quotes: sort(list, 'price')")


def kind_of(node: dict[str, Any]) -> str:
    """The kind of a literal argument, or "any"."""
    return semantics.kind(exact(node["value"])) if node["type"] == "literal" else "any"
