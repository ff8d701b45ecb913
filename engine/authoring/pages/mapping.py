"""A mapping as rows: target field, where its value comes from, and what else is to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engine.authoring.pages.markdown import code, flow
from engine.authoring.pages.words import of_expression
from engine.notations.emitting import is_expression, is_template

if TYPE_CHECKING:
    from collections.abc import Iterator

Notes = tuple[str, ...]


class Row(NamedTuple):
    target: str
    source: str  # Markdown
    notes: Notes


def rows(tree: Any) -> list[Row]:
    """The rows of a record, or of any other tree."""
    return list(walk(tree, "", ()))


def walk(node: Any, target: str, notes: Notes) -> Iterator[Row]:
    if isinstance(node, dict):
        directive = next((key for key in node if key.startswith("$") and not key.startswith("$$")), None)
        if directive is not None:
            yield from DIRECTIVES.get(directive, whole)(node, target, notes)
            return
        if not node:
            yield Row(target, code("{}"), notes)
        for key, child in node.items():
            yield from walk(child, below(target, key[1:] if key.startswith("$$") else key), notes)
    elif isinstance(node, list):
        if not node:
            yield Row(target, code("[]"), notes)
        for at, child in enumerate(node):
            yield from walk(child, f"{target}[{at}]", notes)
    else:
        yield leaf(node, target, notes)


def below(target: str, key: str) -> str:
    return f"{target}.{key}" if target else key


def leaf(node: Any, target: str, notes: Notes) -> Row:
    if is_expression(node) or is_template(node):
        return Row(target, code(node), (*of_expression(node), *notes))
    return Row(target, f"always {code(flow(node))}", notes)


def whole(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    """A directive that is shown as it is written."""
    text = flow(node)
    yield Row(target, code(text), (*of_expression(text), *notes))


def on_if(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    test = code(flow(node["$if"]))
    yield from walk(node.get("then"), target, (*notes, f"if {test}"))
    if "else" in node:
        yield from walk(node["else"], target, (*notes, f"unless {test}"))


def on_switch(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    cases = {**node.get("cases", {}), **({"": node["default"]} if "default" in node else {})}
    if not any(isinstance(child, (dict, list)) for child in cases.values()):
        words = [f"{code(flow(value))} for {code(case) if case else 'all else'}" for case, value in cases.items()]
        yield Row(target, code(flow(node["$switch"])), ("; ".join(words), *notes))
        return
    for case, child in cases.items():
        which = f"is {code(case)}" if case else "is anything else"
        yield from walk(child, target, (*notes, f"where {code(flow(node['$switch']))} {which}"))


def on_each(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    name = node.get("as", "item")
    told = f"{code(name)}: each of {code(flow(node['$each']))}"
    if "where" in node:
        told += f" where {code(flow(node['where']))}"
    yield from walk(node.get("do"), f"{target}[]", (*notes, told))


def on_merge(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    for child in node["$merge"] if isinstance(node["$merge"], list) else []:
        if isinstance(child, dict):
            yield from walk(child, target, notes)
        else:
            yield leaf(child, below(target, "*"), (*notes, "all of its keys"))


def on_rest(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    told = [f"without {', '.join(map(code, node['except']))}"] if node.get("except") else []
    told += [f"only {', '.join(map(code, node['only']))}"] if node.get("only") else []
    yield Row(below(target, "*"), code(flow(node["$rest"])), (*told, *notes))


def on_rename(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    yield from named({"$entries": node["$rename"], "by": node.get("by")}, below(target, "*"), "", notes)


def on_entries(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    yield from named(
        node, f"{target}[]", f"as {code(str(node.get('key', 'key')))}, {code(str(node.get('value', 'value')))}", notes
    )


def named(node: dict[str, Any], target: str, how: str, notes: Notes) -> Iterator[Row]:
    """The entries of an object, by their names before `by` renames them."""
    inner = node["$entries"]
    told = (f"named as {code(flow(node['by']))} says; what is not there is left out",) if "by" in node else ()
    if not isinstance(inner, dict) or any(key.startswith("$") for key in inner):
        yield Row(target, code(flow(inner)), (*((how,) if how else ()), *told, *notes))
        return
    for at, (key, child) in enumerate(inner.items()):
        first = (*((how,) if how else ()), *told) if at == 0 else ()
        yield from walk(child, f"{target} {key}", (*first, *notes))


def on_object(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    inner = node["$object"]
    if isinstance(inner, dict) and "$entries" in inner:
        yield from named(inner, below(target, "*"), "", notes)
    elif isinstance(inner, list):
        for pair in inner:
            key = flow(pair.get("key")) if isinstance(pair, dict) else "*"
            yield from walk(pair.get("value") if isinstance(pair, dict) else pair, below(target, f"({key})"), notes)
    else:
        yield from whole(node, target, notes)


def on_lines(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    parts = node["$lines"] if isinstance(node["$lines"], list) else [node["$lines"]]
    written = [part if isinstance(part, str) else flow(part) for part in parts]
    text = " ".join(written)
    yield Row(
        target,
        "<br>".join(map(code, written)),
        (*of_expression(text), "a line each, without those whose value is absent", *notes),
    )


def on_all(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    yield from walk(node["$all"], target, (*notes, "all of it or nothing"))


def on_keep(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    yield from walk(node["$keep"], target, (*notes, "also where it is empty"))


def on_drop(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    yield from walk(node.get("do"), target, notes)


def on_json(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    yield Row(target, code(flow(node["$json"])), ("as JSON text", *notes))


def on_literal(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    yield Row(target, f"always {code(flow(node['$literal']))}", notes)


def on_with(node: dict[str, Any], target: str, notes: Notes) -> Iterator[Row]:
    args = node["$with"].get("args") or {}
    told = (f"with {', '.join(f'{code(name)} {code(flow(value))}' for name, value in args.items())}",) if args else ()
    yield from walk(node["$with"]["do"], target, (*told, *notes))


DIRECTIVES = {
    "$if": on_if, "$switch": on_switch, "$each": on_each, "$merge": on_merge, "$rest": on_rest, "$rename": on_rename,
    "$entries": on_entries,
    "$object": on_object, "$lines": on_lines, "$all": on_all, "$keep": on_keep, "$drop": on_drop, "$json": on_json,
    "$literal": on_literal, "$with": on_with,
}  # fmt: skip
