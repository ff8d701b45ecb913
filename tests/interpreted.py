"""
The mapping language read anew at each event, node by node: what the generated functions have to give, in few words.

It knows nothing of how the engine compiles. It shares with it the parsers, the registry of functions and what a
directive does to values that are there; the order in which things are computed, what is absent, which error comes first
and where, it says itself. Caps on work are not told here (tests/test_bounds.py).
"""

from __future__ import annotations

from typing import Any

import jinja2
import jmespath.parser

from engine import functions, mapping
from engine.errors import BadValue, TooMuch
from engine.notations import semantics
from engine.notations.emitting import WHOLE, dotted, exact, is_template

Scope = dict[str, Any]
TOP = object()  # the context, where an expression has come to no item yet


def true(value: Any) -> bool:
    return value.__class__ in semantics.NUMBERS or bool(value)


def key_of(value: Any, key: str) -> Any:
    return value.get(key) if value.__class__ is dict else None


def call(name: str, arguments: list[Any]) -> Any:
    return functions.REGISTRY[name].call(*arguments)


def compared(operator: str, left: Any, right: Any) -> Any:
    if operator in ("eq", "ne"):
        return semantics.same(left, right) is (operator == "eq")
    return semantics.ordered(left, operator, right)


# --- ${ } ---


def expression(text: str, scope: Scope) -> Any:
    return node(jmespath.parser.Parser().parse(text.strip()).parsed, TOP, scope)


def node(tree: dict[str, Any], cur: Any, scope: Scope) -> Any:
    kind, children = tree["type"], tree.get("children", [])
    match kind:
        case "field":
            return scope.get(tree["value"]) if cur is TOP else key_of(cur, tree["value"])
        case "literal":
            return exact(tree["value"])
        case "current" | "identity":
            return cur
        case "index":
            return semantics.item(cur, tree["value"])
        case "slice":
            return semantics.cut(cur, *children)
        case "subexpression" | "index_expression" | "pipe":
            for child in children:
                cur = node(child, cur, scope)
            return cur
        case "projection":
            return each(node(children[0], cur, scope), children[1], scope)
        case "value_projection":
            found = node(children[0], cur, scope)
            return each(list(found.values()) if found.__class__ is dict else None, children[1], scope)
        case "flatten":
            return semantics.flat(node(children[0], cur, scope), [10**9])
        case "filter_projection":
            left, right, condition = children
            listed = node(left, cur, scope)
            if listed.__class__ is not list:
                return None
            return each(
                [item for item in listed if holds(lambda item=item: node(condition, item, scope))], right, scope
            )
        case "comparator":
            left, right = (node(child, cur, scope) for child in children)
            return compared(tree["value"], left, right)
        case "or_expression":
            left = node(children[0], cur, scope)
            return left if true(left) else node(children[1], cur, scope)
        case "and_expression":
            left = node(children[0], cur, scope)
            return node(children[1], cur, scope) if true(left) else left
        case "not_expression":
            return not true(node(children[0], cur, scope))
        case "multi_select_list" if cur is not None:
            return [value for child in children if (value := node(child, cur, scope)) is not None]
        case "multi_select_dict" if cur is not None:
            made = {pair["value"]: node(pair["children"][0], cur, scope) for pair in children}
            return {key: value for key, value in made.items() if value is not None}
        case "multi_select_list" | "multi_select_dict":
            return None
        case "function_expression":
            return call(tree["value"], [node(child, cur, scope) for child in children])
    raise AssertionError(kind)


def each(listed: Any, right: dict[str, Any], scope: Scope) -> Any:
    if listed.__class__ is not list:
        return None
    return [found for item in listed if (found := node(right, item, scope)) is not None]


def holds(read: Any) -> bool:
    """A condition: a value of a wrong type makes it false."""
    try:
        return true(read())
    except TooMuch:
        raise
    except BadValue:
        return False


# --- {{ }} ---


class Gone(Exception):
    """A hole is absent, and so is its text."""


def template(text: str, scope: Scope) -> str | None:
    out: list[str] = []
    body = jinja2.Environment(keep_trailing_newline=True).parse(text).body
    try:
        if all(type(part).__name__ == "Output" for part in body):  # each hole is filled, whatever is absent before it
            parts = [hole(each, scope) for output in body for each in output.nodes]
            return None if None in parts else "".join(parts)
        write(body, scope, out)
    except Gone:
        return None
    return "".join(out)


def write(body: list[Any], scope: Scope, out: list[str]) -> None:
    for statement in body:
        match type(statement).__name__:
            case "Output":
                for part in statement.nodes:
                    if (found := hole(part, scope)) is None:
                        raise Gone
                    out.append(found)
            case "If":
                for branch in (statement, *statement.elif_):
                    if holds(lambda branch=branch: hole_value(branch.test, scope)):
                        write(branch.body, scope, out)
                        break
                else:
                    write(statement.else_, scope, out)
            case "For":
                for item in semantics.bounded(hole_value(statement.iter, scope)):
                    write(statement.body, {**scope, statement.target.name: item}, out)


def hole(part: Any, scope: Scope) -> str | None:
    if type(part).__name__ == "TemplateData":
        return str(part.data)
    value = hole_value(part, scope)
    try:
        return None if value is None else semantics.plain(value)
    except BadValue:
        raise BadValue(f"{said(part)} is {semantics.kind(value)} and can't stand in a text") from None


def said(part: Any) -> str:
    match type(part).__name__:
        case "Filter":
            return said(part.node)
        case "Name":
            return str(part.name)
        case "Getattr":
            return f"{before}.{part.attr}" if (before := said(part.node)) != "a value" else before
    return "a value"


def hole_value(part: Any, scope: Scope) -> Any:
    match type(part).__name__:
        case "Const":
            return exact(part.value)
        case "Name":
            return scope.get(part.name)
        case "Getattr":
            return key_of(hole_value(part.node, scope), part.attr)
        case "Getitem":
            return semantics.item(hole_value(part.node, scope), part.arg.value)
        case "Filter":
            return call(part.name, [hole_value(each, scope) for each in (part.node, *part.args)])
        case "Compare":
            operator = {"lteq": "lte", "gteq": "gte"}.get(part.ops[0].op, part.ops[0].op)
            return compared(operator, hole_value(part.expr, scope), hole_value(part.ops[0].expr, scope))
        case "And":
            return true(hole_value(part.left, scope)) and true(hole_value(part.right, scope))
        case "Or":
            return true(hole_value(part.left, scope)) or true(hole_value(part.right, scope))
        case "Not":
            return not true(hole_value(part.node, scope))
        case "Test":
            return (hole_value(part.node, scope) is not None) is (part.name == "defined")
    raise AssertionError(part)


# --- trees ---

Drop = dict[str, str]
OWN = {"$literal", "$lines", "$each", "$rows", "$entries", "$rename", "$rest", "$keep"}
NULL = mapping.NULL


def scalar(spec: Any, scope: Scope) -> Any:
    if not isinstance(spec, str):
        return spec
    if whole := WHOLE.match(spec):
        return expression(whole[1], scope)
    return template(spec, scope) if is_template(spec) else spec


class Missing:
    """Whether a leaf inside `$all` was absent."""

    absent = False


def tree(spec: Any, scope: Scope, place: tuple[str | int, ...], drop: Drop, missing: Missing | None = None) -> Any:
    """The value, None where it is absent, NULL for a null that was written; an error knows its place."""
    try:
        return inner(spec, scope, place, drop, missing)
    except BadValue as error:
        error.at = error.at or dotted(place)
        raise


def inner(spec: Any, scope: Scope, place: tuple[str | int, ...], drop: Drop, missing: Missing | None) -> Any:
    if spec is None:
        return None if drop.get("null") == "drop" else NULL
    if isinstance(spec, dict):
        name = next((key for key in spec if key.startswith("$") and not key.startswith("$$")), None)
        if name is not None:
            found = directive(name, spec, scope, place, drop, None if name in OWN else missing)
            if missing is not None and found is None:
                missing.absent = True
            return found
        made = {key.replace("$$", "$"): tree(child, scope, (*place, key), drop, missing) for key, child in spec.items()}
        left = {key: mapping.plain_null(value) for key, value in made.items() if value is not None}
        return left if left or not spec else None
    if isinstance(spec, list):
        left = items(spec, scope, place, drop, missing)
        return left if left or not spec else None
    found = scalar(spec, scope)
    computed = isinstance(spec, str) and (WHOLE.match(spec) is not None or is_template(spec))
    for kind, empty in (("text", ""), ("list", []), ("object", {})):
        if drop.get(kind) == "drop" and found.__class__ is empty.__class__ and found == empty:
            found = None
    if missing is not None and computed and found is None:
        missing.absent = True
    return found


def items(
    specs: list[Any], scope: Scope, place: tuple[str | int, ...], drop: Drop, missing: Missing | None
) -> list[Any]:
    made = [tree(child, scope, (*place, at), drop, missing) for at, child in enumerate(specs)]
    return [mapping.plain_null(value) for value in made if value is not None]


def directive(
    name: str, spec: dict[str, Any], scope: Scope, place: tuple[str | int, ...], drop: Drop, missing: Missing | None
) -> Any:
    def at(*keys: str | int, more: Scope | None = None) -> Any:
        below: Any = spec
        for key in keys:
            below = below[key]
        return tree(below, {**scope, **(more or {})}, (*place, *keys), drop, missing)

    def condition(key: str, more: Scope | None = None) -> bool:
        return holds(lambda: scalar(spec[key], {**scope, **(more or {})}))

    match name:
        case "$literal":
            return NULL if spec["$literal"] is None else spec["$literal"]
        case "$if":
            branch = "then" if condition("$if") else "else"
            return at(branch) if branch in spec else None
        case "$switch":
            chosen = mapping.case(at("$switch"))
            found = next((case for case in spec["cases"] if str(case) == chosen), None)
            return at("cases", found) if found is not None else at("default") if "default" in spec else None
        case "$each":
            made, title = [], spec.get("as", "item")
            for index, entry in enumerate(semantics.bounded(at("$each"))):
                more = {"index": index, title: entry}
                if "where" not in spec or condition("where", more):
                    made.append(at("do", more=more))
            return [mapping.plain_null(value) for value in made if value is not None] or None
        case "$merge":
            return mapping.merged(items(spec[name], scope, (*place, name), drop, missing))
        case "$lines":
            return mapping.lines(items(spec[name], scope, (*place, name), drop, missing))
        case "$object" if isinstance(spec[name], list):
            return mapping.as_object(items(spec[name], scope, (*place, name), drop, missing))
        case "$object":
            return mapping.as_object(at(name))
        case "$json":
            return mapping.json_text(at(name))
        case "$all":
            flag = Missing()
            found = tree(spec[name], scope, (*place, name), drop, flag)
            return None if flag.absent else found
        case "$keep":
            found = at(name)
            return type(spec[name])() if found is None else found
        case "$drop":
            return tree(spec["do"], scope, (*place, "do"), spec["$drop"], missing)
        case "$entries":
            listed = at(name)
            by = at("by") if "by" in spec else None
            return mapping.entries(listed, spec.get("key", "key"), spec.get("value", "value"), by)
        case "$rename":
            listed = at(name)
            return mapping.renamed(listed, at("by"))
        case "$rows":
            return mapping.columns_and_rows(at(name), spec.get("columns", "columns"), spec.get("rows", "rows"))
        case "$rest":
            return mapping.rest(at(name), set(spec.get("except", [])), spec.get("only"))
        case "$with":
            args = at("$with", "args")
            return at("$with", "do", more={"args": args})
    raise AssertionError(name)


def interpreted(spec: Any, scope: Scope, place: tuple[str | int, ...], drop: Drop) -> Any:
    return mapping.plain_null(tree(spec, scope, place, drop))
