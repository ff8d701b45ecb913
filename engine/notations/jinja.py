"""`{{ }}`: Jinja's tree to a Python expression of text; the library parses, this module translates, once at load."""

from __future__ import annotations

import re
from copy import copy
from functools import cache
from typing import TYPE_CHECKING, Any

from engine.notations import semantics
from engine.notations.calls import compare, emit_call, in_text, joined, written
from engine.notations.emitting import ABSENT, BOOLEAN, MAX_EXPRESSION, TEXT, Code, ExpressionError, exact, truth
from engine.notations.holes import place_of

if TYPE_CHECKING:
    from engine.notations.emitting import Emitter
    from engine.notations.holes import Place


def emit_template(em: Emitter, text: str, hole: str = "text") -> Code:
    """
    The variable or literal with a text with holes; absent where a hole is absent.

    `hole` names the helper that turns one value into text: text, segment (of a path), must (never absent), soql, sql;
    or the kind of text in which it depends on the place: url, html.
    """
    import jinja2

    if len(text) > MAX_EXPRESSION:
        raise ExpressionError("syntax", f"a text of {len(text)} characters with holes; {MAX_EXPRESSION} is the most")
    carriage = next(mark for mark in PRIVATE if mark not in text)  # the library would make \n of \r\n
    try:
        tree = parser().parse(text.replace("\r", carriage))
        return _Jinja(em, hole, carriage).whole(tree.body)
    except jinja2.TemplateSyntaxError as error:
        says, hint = _syntax(text, str(error.message))
        raise ExpressionError("syntax", f"not a template: {says}", hint) from None
    except RecursionError:
        raise ExpressionError("syntax", "a template nested too deeply") from None


def _syntax(text: str, says: str) -> tuple[str, str]:
    """What is wrong and what to write; `says` is what the library says."""
    if "${" in text:
        return says, "no ${ } inside {{ }}"
    if found := re.search(r"\|\s*(\w+)(?:\s*:\s*|\s+)([\w'\"]+)", text):
        return f"what {found[1]} is given stands in parentheses", f"write {{{{ … | {found[1]}({found[2]}) }}}}"
    if "unexpected end of template" in says:
        return "a {{ that is never closed", "write {{ … }}"
    if "end of print statement" in says:
        return "more than a path with filters in {{ }}", "such as {{ event.name | upper }}; logic is for `$if`"
    if "unexpected '}'" in says:
        return "a {{ that is closed by one }", "write {{ … }}"
    if "Unexpected end of template" in says:
        return "a {% if %} or {% for %} that is never closed", "write {% endif %} or {% endfor %} at its end"
    return says, "close every {{ with }} and every {% if %} with {% endif %}"


@cache
def parser() -> Any:
    """Jinja's parser, made on first use."""
    import jinja2

    return jinja2.Environment(keep_trailing_newline=True)


PRIVATE = [chr(point) for point in range(0xE000, 0xF8FF)]
_OPERATORS = {"eq": "eq", "ne": "ne", "lt": "lt", "lteq": "lte", "gt": "gt", "gteq": "gte"}


class _Jinja:
    """Jinja's tree to Python: paths, registered filters, `if`, bounded `for`; everything else is refused."""

    def __init__(self, em: Emitter, hole: str, carriage: str) -> None:
        self.em, self.hole, self.carriage = em, hole, carriage
        self.place = place_of(hole)

    def whole(self, body: list[Any]) -> Code:
        code = self.code(body)
        self.place.end()
        return code

    def code(self, body: list[Any]) -> Code:
        if all(type(node).__name__ == "Output" for node in body):
            parts = [self.part(part) for node in body for part in node.nodes]
            whole = joined(self.em, parts)
            if self.em.looping and len(parts) > 1:
                written(self.em, whole)
            return whole
        self.out = self.em.fresh("out")
        self.em.line(f"{self.out} = []")
        with self.em.block("while True:"):  # it is left at once where a hole is absent
            self.statements(body)
            self.em.line("break")
        made = f"None if {self.out} is None else concat(tuple({self.out}))"
        return self.em.assign(made, TEXT | ABSENT, risky=True)

    def part(self, node: Any) -> Code:
        if type(node).__name__ == "TemplateData":
            text = node.data.replace(self.carriage, "\r")
            self.place.read(text)
            return self.em.const(text)
        helper = self.place.hole()
        if self.hole == "html" and type(node).__name__ == "Filter" and node.name == "html":
            raise ExpressionError("html-hole", "escaped twice: a hole of $html is escaped by itself", "without | html")
        made = in_text(self.em, self.node(node), helper, describe(node))
        if self.em.looping:
            written(self.em, made)
        return made

    def statements(self, nodes: list[Any]) -> None:
        for node in nodes:
            kind = type(node).__name__
            if kind == "Output":
                for part in node.nodes:
                    code = self.part(part)
                    if "absent" in code.kinds:
                        with self.em.block(f"if {code} is None:"):
                            self.em.line(f"{self.out} = None")
                            self.em.line("break")
                    self.em.line(f"{self.out}.append({code})")
            elif kind == "If":
                self.choice(node)
            elif kind == "For":
                self.loop(node)
            else:
                raise ExpressionError(
                    "template",
                    f"{{% {kind.lower()} %}} is not part of the language",
                    "use {% if %}, {% for %} or a $ key",
                )

    def choice(self, node: Any) -> None:
        """`if`, `elif`, `else`: each begins at the same place, and all of them have to end at one."""
        begin = copy(self.place)
        chosen = self.em.assign("False") if node.elif_ else None
        self.branch(node, chosen)
        ends = [self.place]
        for other in node.elif_:
            self.place = copy(begin)
            with self.em.block(f"if not {chosen}:"):
                self.branch(other, chosen)
            ends.append(self.place)
        self.place = begin
        if node.else_:
            with self.em.block(f"if not {chosen}:" if chosen else "else:"):
                self.statements(node.else_)
        self.same_end([*ends, self.place], "the branches of {% if %} end")

    def same_end(self, places: list[Place], what: str) -> None:
        if any(place.state() != self.place.state() for place in places):
            raise ExpressionError(
                self.place.rule, f"{what} in different parts of the {self.hole}", "a whole text in each, with $if"
            )

    def branch(self, node: Any, chosen: Code | None) -> None:
        test = self.em.attempt(lambda: self.node(node.test))
        with self.em.block(f"if {test}:"):
            if chosen:
                self.em.line(f"{chosen} = True")
            self.statements(node.body)

    def loop(self, node: Any) -> None:
        if type(node.target).__name__ != "Name" or node.else_ or node.test or node.recursive:
            raise ExpressionError("template", "only {% for name in list %}", "filter with where(list, key, value)")
        name, variable = node.target.name, Code(self.em.fresh("v"))
        if name in self.em.names:
            raise ExpressionError("template", f"{name} hides the {name} of the context", "choose another name")
        listed = self.node(node.iter)
        before = self.em.bound.get(name)
        self.em.bound[name] = variable
        begin = copy(self.place)
        self.em.looping += 1
        with self.em.block(f"for {variable} in bounded({listed}, {self.em.work()}):", risky=True):
            self.statements(node.body)
        self.em.line(f"if {self.out} is None: break")
        self.em.looping -= 1
        self.same_end([begin], "the rounds of {% for %} begin")
        if before is None:
            del self.em.bound[name]
        else:
            self.em.bound[name] = before

    def node(self, node: Any) -> Code:
        kind = type(node).__name__
        method = getattr(self, "on_" + kind.lower(), None)
        if method is None:
            raise ExpressionError(
                "template",
                *REFUSED.get(kind, (f"{kind} is not part of the language", "a path and functions as filters")),
            )
        made: Code = method(node)
        return made

    def on_const(self, node: Any) -> Code:
        return self.em.const(exact(node.value))

    def on_name(self, node: Any) -> Code:
        variable = self.em.root(node.name)
        self.em.use((node.name,))
        return variable

    def on_getattr(self, node: Any) -> Code:
        return self.path(node, node.attr)

    def on_getitem(self, node: Any) -> Code:
        if type(node.arg).__name__ == "Neg" and type(node.arg.node).__name__ == "Const":  # the last: list[-1]
            return self.em.item_of(self.node(node.node), -node.arg.node.value)
        if type(node.arg).__name__ != "Const" or not isinstance(node.arg.value, (str, int)):
            raise ExpressionError("template", "a key that is computed", "{{ map | get(key) }}")
        return self.path(node, node.arg.value)

    def path(self, node: Any, key: str | int) -> Code:
        code = self.node(node.node)
        if isinstance(key, int):
            return self.em.item_of(code, key)
        last = self.em.uses[-1] if self.em.uses else None
        if last is not None and last.path == path_of(node.node):
            self.em.uses.pop()
            self.em.use((*last.path, key))
        return self.em.key_of(code, key)

    def on_filter(self, node: Any) -> Code:
        if node.kwargs or node.dyn_args or node.dyn_kwargs:
            raise ExpressionError("template", f"{node.name}: arguments stand in order, without names")
        if node.name in ("name", "like") and self.hole in ("soql", "sql") and node.node is not None and not node.args:
            return self.em.assign(f"{self.hole}_{node.name}({self.node(node.node)})", risky=True)
        if node.node is None:
            raise ExpressionError("template", "a filter needs a value before it")
        if node.name == "join" and type(node.node).__name__ == "Const":
            raise ExpressionError("argument-order", "join takes the list first", "{{ list | join(', ') }}")
        values = [node.node, *node.args]
        kinds = [semantics.kind(exact(value.value)) if type(value).__name__ == "Const" else "any" for value in values]
        return emit_call(self.em, node.name, [self.node(value) for value in values], kinds)

    def on_compare(self, node: Any) -> Code:
        if len(node.ops) != 1 or node.ops[0].op not in _OPERATORS:
            raise ExpressionError(
                "template", "compare two values with == != < <= > >=", "for lists: list | contains(value)"
            )
        return compare(self.em, _OPERATORS[node.ops[0].op], self.node(node.expr), self.node(node.ops[0].expr))

    def on_and(self, node: Any) -> Code:
        return self.both(node, "if {}:")

    def on_or(self, node: Any) -> Code:
        return self.both(node, "if not {}:")

    def both(self, node: Any, otherwise: str) -> Code:
        """Whether `and` or `or` hold; the right one is computed only where the left does not say it."""
        out = self.em.assign(f"not not {truth(self.node(node.left))}", BOOLEAN)
        with self.em.block(otherwise.format(out)):
            self.em.line(f"{out} = not not {truth(self.node(node.right))}")
        return out

    def on_not(self, node: Any) -> Code:
        return self.em.assign(f"not {truth(self.node(node.node))}", BOOLEAN)

    def on_test(self, node: Any) -> Code:
        if node.name not in ("defined", "undefined"):
            raise ExpressionError("template", f"is {node.name} is not part of the language", "only `is defined`")
        code = self.node(node.node)
        if code.literal:
            return self.em.const((code.value is not None) is (node.name == "defined"))
        return self.em.assign(f"{code} is {'not ' if node.name == 'defined' else ''}None", BOOLEAN)


REFUSED = {
    "Call": ("no calls in {{ }}", "functions stand as filters: {{ value | function(argument) }}"),
    "CondExpr": ("no `a if b else c` in {{ }}", "use {% if %} or $if"),
    "Concat": ("no ~ in {{ }}", "write the two holes side by side"),
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow", "Neg", "Pos"),
        ("no arithmetic in {{ }}", "use add, subtract, multiply, divide"),
    ),
}


def path_of(node: Any) -> tuple[str, ...]:
    """("event", "product") of a Jinja path, () for anything else."""
    kind = type(node).__name__
    if kind == "Name":
        return (node.name,)
    if kind == "Getattr":
        return (*path_of(node.node), node.attr)
    if kind == "Getitem" and type(node.arg).__name__ == "Const" and isinstance(node.arg.value, str):
        return (*path_of(node.node), node.arg.value)
    return ()


def describe(node: Any) -> str:
    """What a hole reads, for an error: event.product.id."""
    while type(node).__name__ == "Filter" and node.node is not None:
        node = node.node
    return ".".join(path_of(node)) or "a value"
