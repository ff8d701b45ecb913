"""
`${ }` (JMESPath) and `{{ }}` (Jinja) to Python source, once at load: the libraries parse, this module translates.

Both notations become plain Python expressions over the local variables of one generated function, so that nothing is
parsed or interpreted for an event. `None` is absent. Numbers are int and Decimal. The only calls in the generated code
are the helpers of `engine.semantics` and the functions of `engine.functions`; no attribute is ever read.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import functions, semantics
from engine.errors import BadValue, ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Path = tuple[str | int, ...]
    Scope = Mapping[str, Any]
    Run = Callable[[Scope], Any]

WHOLE = re.compile(r"\s*\$\{(.*)\}\s*\Z", re.DOTALL)
MAX_EXPRESSION = 20_000


class Use(NamedTuple):
    """A path that an expression reads from its context: ("event", "product", "id"), and where it is written."""

    path: tuple[str, ...]
    place: tuple[str | int, ...]


class Problem(NamedTuple):
    """What is wrong with one scalar or key of a spec, by its path in the YAML."""

    place: tuple[str | int, ...]
    rule: str
    message: str
    hint: str = ""
    severity: str = "error"


class ExpressionError(ConnectError):
    """A text that does not compile; `rule`, message and `hint` make the finding."""

    exit_code = 1

    def __init__(self, rule: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.rule, self.message, self.hint = rule, message, hint


def is_expression(value: object) -> bool:
    """Is this scalar one whole `${ … }`?"""
    return isinstance(value, str) and WHOLE.match(value) is not None


def is_template(value: object) -> bool:
    """Is this scalar a text with holes or statements?"""
    return isinstance(value, str) and ("{{" in value or "{%" in value or "{#" in value)


def closest(name: str, names: Iterable[str]) -> str:
    """`did you mean "x"?`, or nothing."""
    near = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""


class Emitter:
    """One Python function in the making: its lines, its constants, the context names it reads, where each line comes from."""

    def __init__(self, names: Iterable[str], place: Path, problems: list[Problem], uses: list[Use]) -> None:
        self.names = frozenset(names)
        self.place: tuple[str | int, ...] = place
        self.problems = problems
        self.uses = uses
        self.globals: dict[str, Any] = dict(semantics.HELPERS)
        self.lines: list[str] = []
        self.places: list[tuple[str | int, ...]] = []
        self.depth = 2
        self.bound: dict[str, str] = {}  # loop variables: name -> Python variable
        self.roots: dict[str, str] = {}  # context names read so far -> Python variable
        self.counter = 0
        self.root_uses: dict[str, set[str]] = {}

    def fresh(self, prefix: str = "t") -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def const(self, value: Any) -> str:
        """Python source of a constant: a literal where that is safe, else a global of the generated function."""
        if value is None or isinstance(value, bool):
            return repr(value)
        if isinstance(value, (str, int)) and len(str(value)) < 200:
            return repr(value)
        name = self.fresh("K")
        self.globals[name] = value
        return name

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)
        self.places.append(self.place)

    def problem(self, rule: str, message: str, hint: str = "", severity: str = "error") -> None:
        self.problems.append(Problem(self.place, rule, message, hint, severity))

    def root(self, name: str) -> str:
        """The Python variable of a context name, or ExpressionError with the nearest name."""
        if name in self.bound:
            return self.bound[name]
        if name not in self.names:
            known = sorted(self.names | set(self.bound))
            if name in ALL_NAMES:
                raise ExpressionError(
                    "name", f"{name} does not exist here; names here: {', '.join(known)}", WHERE.get(name, "")
                )
            raise ExpressionError("name", f"unknown name {name}; names here: {', '.join(known)}", closest(name, known))
        return self.roots.setdefault(name, f"n_{name}")

    def use(self, path: tuple[str, ...]) -> None:
        if path and path[0] not in self.bound:
            self.uses.append(Use(path, self.place))
            if len(path) > 1:
                self.root_uses.setdefault(path[0], set()).add(path[1])

    def build(self, result: str) -> Run:
        """The finished function: scope -> value; a BadValue that leaves it knows its target field."""
        source = ["def run(scope):", "    try:", "        pass"]
        source += [f"        {variable} = scope.get({name!r})" for name, variable in self.roots.items()]
        first = len(source) + 1
        source += self.lines
        source += [
            f"        return {result}",
            "    except BadValue as error:",
            "        locate(error)",
            "        raise",
        ]
        places = self.places

        def locate(error: BadValue) -> None:
            trace, line = error.__traceback__, 0
            while trace is not None:
                if trace.tb_frame.f_code.co_filename == SOURCE:
                    line = trace.tb_lineno
                trace = trace.tb_next
            if not error.at and first <= line < first + len(places):
                error.at = dotted(places[line - first])

        self.globals.update(BadValue=BadValue, locate=locate)
        exec(compile("\n".join(source), SOURCE, "exec"), self.globals)
        run: Run = self.globals["run"]
        return run


SOURCE = "<compiled spec>"
ALL_NAMES = frozenset(
    "event fields settings derived client tables received_at lookups vars delivery record batch steps args response "
    "result row now token secrets request path key group item index".split()
)
WHERE = {
    "secrets": "secrets are for auth only; place them there",
    "event": "from the batch on there are several events; map what you need into the record and read batch.records",
    "record": "write it in the record first, or read the event",
    "now": "a mapping must be repeatable; use received_at or a time of the event",
    "token": "what a log-in saved is for auth and http",
}


def dotted(path: Iterable[str | int]) -> str:
    """actions.create_task.record.Subject, lists as [0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


# --- ${ } ------------------------------------------------------------------------------------------------------------


def emit_expression(em: Emitter, text: str) -> str:
    """Python source of the inside of one `${ }`."""
    from jmespath import exceptions
    from jmespath.parser import Parser

    if len(text) > MAX_EXPRESSION:
        raise ExpressionError("syntax", f"an expression of {len(text)} characters; {MAX_EXPRESSION} is the most")
    if not text.strip():
        raise ExpressionError("syntax", "an empty ${ }")
    try:
        tree = Parser().parse(text.strip()).parsed
    except exceptions.JMESPathError as error:
        raise ExpressionError("syntax", *_syntax(text, error)) from None
    except RecursionError:
        raise ExpressionError("syntax", "an expression nested too deeply") from None
    return _Jmes(em).node(tree, None, True)


def _syntax(text: str, error: Any) -> tuple[str, str]:
    position = getattr(error, "lex_position", None)
    at = f" at character {position + 1}" if isinstance(position, int) else ""
    hint = ""
    if re.search(r"[=<>!]=?\s*-?\d", text):
        hint = "numbers stand in backticks: `1`"
    elif re.search(r"\w\[\s*[a-z_]", text):
        hint = "a key that is computed: get(map, key)"
    elif "{{" in text:
        hint = "no {{ }} inside ${ }"
    elif re.search(r"(?<![=<>!])=(?!=)", text):
        hint = "equality is =="
    elif re.search(r"\s(and|or|not)\s", text):
        hint = "logic is written && || !"
    elif re.search(r"\S\s*[-+*/]\s*\S", text):
        hint = "arithmetic is by functions: add, subtract, multiply, divide"
    return f"not a JMESPath expression{at}: {text.strip()[:80]}", hint


class _Jmes:
    """JMESPath's tree to Python; `cur` is the Python variable of the current item, or None at the context."""

    def __init__(self, em: Emitter) -> None:
        self.em = em

    def node(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        return str(getattr(self, "on_" + node["type"])(node, cur, start))

    def on_field(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        name = node["value"]
        if cur is None:
            variable = self.em.root(name)
            self.em.use((name,))
            return variable
        if start and (name in self.em.names or name in self.em.bound):
            raise ExpressionError(
                "context-in-item",
                f"{name} is read from the item here, not from the context",
                f"use where(list, 'field', {name}.…) or find(…) to compare with it; write @.{name} if the item has such a key",
            )
        return f"field({cur}, {name!r})"

    def on_subexpression(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        children = node["children"]
        if children[0]["type"] == "not_expression":
            raise ExpressionError("not-path", "! binds to the first name only, JMESPath reads (!a).b", "write !(a.b)")
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
                code = f"field({code}, {child['value']!r})"
            else:
                code = self.with_current(code, child, False)
        return code

    def with_current(self, code: str, node: dict[str, Any], start: bool) -> str:
        """`node` evaluated over the value of `code`."""
        if node["type"] in ("identity", "current"):
            return code
        item = self.em.fresh("c")
        return f"(lambda {item}: None if {item} is None else {self.node(node, item, start)})({code})"

    def on_index_expression(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        left, right = node["children"]
        if left["type"] == "not_expression":
            raise ExpressionError("not-path", "! binds to the first name only, JMESPath reads (!a)[…]", "write !(a[…])")
        code = self.node(left, cur, start)
        if right["type"] == "slice":
            first, last, step = right["children"]
            return f"cut({code}, {first!r}, {last!r}, {step!r})"
        return f"item({code}, {right['value']})"

    def on_index(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        return f"item({self.current(cur)}, {node['value']})"

    def on_slice(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        first, last, step = node["children"]
        return f"cut({self.current(cur)}, {first!r}, {last!r}, {step!r})"

    def current(self, cur: str | None) -> str:
        if cur is None:
            raise ExpressionError(
                "name", "@ and [ ] need a value before them", f"begin with a name: {', '.join(sorted(self.em.names))}"
            )
        return cur

    def on_current(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        return self.current(cur)

    on_identity = on_current

    def each(self, left: str, right: dict[str, Any]) -> str:
        if right["type"] == "identity":
            return f"compact({left})"
        item = self.em.fresh("c")
        return f"project({left}, lambda {item}: {self.node(right, item, False)})"

    def on_projection(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        left, right = node["children"]
        return self.each(self.node(left, cur, start), right)

    def on_value_projection(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        left, right = node["children"]
        return self.each(f"values({self.node(left, cur, start)})", right)

    def on_flatten(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        return f"flat({self.node(node['children'][0], cur, start)})"

    def on_filter_projection(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        left, right, condition = node["children"]
        item = self.em.fresh("c")
        kept = f"keep({self.node(left, cur, start)}, lambda {item}: {self.node(condition, item, True)})"
        return self.each(kept, right)

    def on_pipe(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        left, right = node["children"]
        return self.with_current(self.node(left, cur, start), right, True)

    def on_comparator(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        left, right = (self.node(child, cur, True) for child in node["children"])
        return compare(node["value"], left, right)

    def on_or_expression(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        left, right = (self.node(child, cur, True) for child in node["children"])
        kept = self.em.fresh()
        return f"({kept} if true({kept} := {left}) else {right})"

    def on_and_expression(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        left, right = (self.node(child, cur, True) for child in node["children"])
        kept = self.em.fresh()
        return f"({right} if true({kept} := {left}) else {kept})"

    def on_not_expression(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        return f"(not true({self.node(node['children'][0], cur, True)}))"

    def on_multi_select_list(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        return f"compact([{', '.join(self.node(child, cur, True) for child in node['children'])}])"

    def on_multi_select_dict(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        pairs = (f"{pair['value']!r}: {self.node(pair['children'][0], cur, True)}" for pair in node["children"])
        return f"solid({{{', '.join(pairs)}}})"

    def on_literal(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        return self.em.const(exact(node["value"]))

    def on_function_expression(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        name, children = node["value"], node["children"]
        if name == "join" and children and children[0]["type"] == "literal":
            raise ExpressionError("argument-order", "join takes the list first here", "join(list, ', ')")
        return emit_call(
            self.em, name, [self.node(child, cur, True) for child in children], [kind_of(child) for child in children]
        )

    def on_expref(self, node: dict[str, Any], cur: str | None, start: bool) -> str:
        raise ExpressionError("syntax", "& is not used here", "name the key in quotes: sort(list, 'price')")


def exact(value: Any) -> Any:
    """A literal with its floats made decimals, deeply."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return value


def kind_of(node: dict[str, Any]) -> str:
    """The kind of a literal argument, or "any"."""
    return semantics.kind(exact(node["value"])) if node["type"] == "literal" else "any"


def compare(operator: str, left: str, right: str) -> str:
    """eq and ne over all types (strictly), order over numbers; anything else is absent."""
    if operator in ("eq", "ne"):
        return f"same({left}, {right})" if operator == "eq" else f"(not same({left}, {right}))"
    return f"ordered({left}, {operator!r}, {right})"


def emit_call(em: Emitter, name: str, arguments: list[str], kinds: list[str]) -> str:
    """A call of a registered (or given) function, its count and literal kinds checked now."""
    function = EXTRA.get(name) if name in EXTRA and EXTRA_NAMES <= em.names else functions.REGISTRY.get(name)
    if function is None:
        hint = (
            f'did you mean "{near}"?' if (near := functions.closest(name)) else "docs/functions.md lists all functions"
        )
        raise ExpressionError("function", f"unknown function {name}", hint)
    if isinstance(function, str):
        return f"{em.root('calls')}[{name!r}]({', '.join(arguments)})"
    least = sum(parameter.required for parameter in function.parameters)
    most = None if any(parameter.variadic for parameter in function.parameters) else len(function.parameters)
    if len(arguments) < least or (most is not None and len(arguments) > most):
        wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        shape = ", ".join(parameter.name for parameter in function.parameters)
        raise ExpressionError("arguments", f"{name} takes {wanted} arguments, got {len(arguments)}", f"{name}({shape})")
    for position, kind in enumerate(kinds):
        parameter = function.parameters[min(position, len(function.parameters) - 1)]
        if kind not in ("any", "null") and not (parameter.kinds & {kind, "any"}):
            wanted = " or ".join(sorted(parameter.kinds))
            raise ExpressionError("arguments", f"{name}: {parameter.name} is to be {wanted}, got {kind}")
    em.globals[f"f_{name}"] = function.call
    return f"f_{name}({', '.join(arguments)})"


EXTRA_NAMES = frozenset({"calls"})
EXTRA = {name: name for name in ("recall", "sequence", "count", "find_all", "issue")}  # of the sandbox only


# --- {{ }} -----------------------------------------------------------------------------------------------------------


def emit_template(em: Emitter, text: str, hole: str = "text") -> str:
    """
    Python source of a text with holes; absent where a hole is absent.

    `hole` names the helper that turns one value into text: text, segment (of a path), must (never absent), soql.
    """
    import jinja2

    if len(text) > MAX_EXPRESSION:
        raise ExpressionError("syntax", f"a text of {len(text)} characters with holes; {MAX_EXPRESSION} is the most")
    try:
        tree = ENVIRONMENT().parse(text)
    except jinja2.TemplateSyntaxError as error:
        raise ExpressionError("syntax", f"not a template: {error.message}", _template_hint(text)) from None
    except RecursionError:
        raise ExpressionError("syntax", "a template nested too deeply") from None
    jinja = _Jinja(em, hole, text)
    if all(type(node).__name__ == "Output" for node in tree.body):
        parts = [jinja.part(part) for node in tree.body for part in node.nodes]  # type: ignore[attr-defined]
        return parts[0] if len(parts) == 1 else f"concat(({', '.join(parts)},))" if parts else "''"
    name = em.fresh("text")
    em.line(f"def {name}():")
    em.depth += 1
    em.line("out = []")
    jinja.statements(tree.body)
    em.line("return ''.join(out)")
    em.depth -= 1
    return f"{name}()"


def _template_hint(text: str) -> str:
    if "${" in text:
        return "no ${ } inside {{ }}"
    return "close every {{ with }} and every {% if %} with {% endif %}"


def ENVIRONMENT() -> Any:  # noqa: N802 (made once, on first use)
    global _ENVIRONMENT
    if _ENVIRONMENT is None:
        import jinja2

        _ENVIRONMENT = jinja2.Environment(keep_trailing_newline=True, autoescape=False)  # noqa: S701 (parser only)
    return _ENVIRONMENT


_ENVIRONMENT: Any = None
_OPERATORS = {"eq": "eq", "ne": "ne", "lt": "lt", "lteq": "lte", "gt": "gt", "gteq": "gte"}


class _Jinja:
    """Jinja's tree to Python: paths, registered filters, `if`, bounded `for`; everything else is refused."""

    def __init__(self, em: Emitter, hole: str, text: str) -> None:
        self.em, self.hole, self.text = em, hole, text

    def part(self, node: Any) -> str:
        if type(node).__name__ == "TemplateData":
            return self.em.const(node.data)
        value = self.node(node)
        named = self.em.const(describe(node))
        return f"{self.hole}({value}, {named})"

    def statements(self, nodes: list[Any]) -> None:
        for node in nodes:
            kind = type(node).__name__
            if kind == "Output":
                for part in node.nodes:
                    code = self.part(part)
                    if type(part).__name__ == "TemplateData":
                        self.em.line(f"out.append({code})")
                    else:
                        kept = self.em.fresh()
                        self.em.line(f"{kept} = {code}")
                        self.em.line(f"if {kept} is None: return None")
                        self.em.line(f"out.append({kept})")
            elif kind == "If":
                self.branch("if", node)
                for other in node.elif_:
                    self.branch("elif", other)
                if node.else_:
                    self.block("else:", node.else_)
            elif kind == "For":
                self.loop(node)
            else:
                raise ExpressionError(
                    "template",
                    f"{{% {kind.lower()} %}} is not part of the language",
                    "use {% if %}, {% for %} or a $ key",
                )

    def branch(self, word: str, node: Any) -> None:
        self.block(f"{word} true({self.node(node.test)}):", node.body)

    def block(self, head: str, nodes: list[Any]) -> None:
        self.em.line(head)
        self.em.depth += 1
        self.em.line("pass")
        self.statements(nodes)
        self.em.depth -= 1

    def loop(self, node: Any) -> None:
        if type(node.target).__name__ != "Name" or node.else_ or node.test or node.recursive:
            raise ExpressionError("template", "only {% for name in list %}", "filter with where(list, key, value)")
        name, variable = node.target.name, self.em.fresh("v")
        listed = self.node(node.iter)
        before = self.em.bound.get(name)
        self.em.bound[name] = variable
        self.block(f"for {variable} in bounded({listed}):", node.body)
        if before is None:
            del self.em.bound[name]
        else:
            self.em.bound[name] = before

    def node(self, node: Any) -> str:
        kind = type(node).__name__
        method = getattr(self, "on_" + kind.lower(), None)
        if method is None:
            raise ExpressionError(
                "template",
                *REFUSED.get(kind, (f"{kind} is not part of the language", "a path and functions as filters")),
            )
        return str(method(node))

    def on_const(self, node: Any) -> str:
        return self.em.const(exact(node.value))

    def on_name(self, node: Any) -> str:
        variable = self.em.root(node.name)
        self.em.use((node.name,))
        return variable

    def on_getattr(self, node: Any) -> str:
        return self.path(node, node.attr)

    def on_getitem(self, node: Any) -> str:
        if type(node.arg).__name__ != "Const" or not isinstance(node.arg.value, (str, int)):
            raise ExpressionError("template", "a key that is computed", "{{ map | get(key) }}")
        return self.path(node, node.arg.value)

    def path(self, node: Any, key: str | int) -> str:
        code = self.node(node.node)
        if isinstance(key, int):
            return f"item({code}, {key})"
        last = self.em.uses[-1] if self.em.uses else None
        if last is not None and last.path == path_of(node.node):
            self.em.uses.pop()
            self.em.use((*last.path, key))
        return f"field({code}, {key!r})"

    def on_filter(self, node: Any) -> str:
        if node.kwargs or node.dyn_args or node.dyn_kwargs:
            raise ExpressionError("template", f"{node.name}: arguments stand in order, without names")
        if node.name in ("name", "like") and self.hole == "soql" and node.node is not None and not node.args:
            return f"soql_{node.name}({self.node(node.node)})"
        if node.node is None:
            raise ExpressionError("template", "a filter needs a value before it")
        if node.name == "join" and type(node.node).__name__ == "Const":
            raise ExpressionError("argument-order", "join takes the list first", "{{ list | join(', ') }}")
        values = [node.node, *node.args]
        kinds = [semantics.kind(exact(value.value)) if type(value).__name__ == "Const" else "any" for value in values]
        return emit_call(self.em, node.name, [self.node(value) for value in values], kinds)

    def on_compare(self, node: Any) -> str:
        if len(node.ops) != 1 or node.ops[0].op not in _OPERATORS:
            raise ExpressionError(
                "template", "compare two values with == != < <= > >=", "for lists: list | contains(value)"
            )
        return compare(_OPERATORS[node.ops[0].op], self.node(node.expr), self.node(node.ops[0].expr))

    def on_and(self, node: Any) -> str:
        return f"(true({self.node(node.left)}) and true({self.node(node.right)}))"

    def on_or(self, node: Any) -> str:
        return f"(true({self.node(node.left)}) or true({self.node(node.right)}))"

    def on_not(self, node: Any) -> str:
        return f"(not true({self.node(node.node)}))"

    def on_test(self, node: Any) -> str:
        if node.name not in ("defined", "undefined"):
            raise ExpressionError("template", f"is {node.name} is not part of the language", "only `is defined`")
        return f"({self.node(node.node)} is {'not ' if node.name == 'defined' else ''}None)"


REFUSED = {
    "Call": ("no calls in {{ }}", "functions stand as filters: {{ value | function(argument) }}"),
    "CondExpr": ("no `a if b else c` in {{ }}", "use {% if %} or $if"),
    "Concat": ("no ~ in {{ }}", "write the two holes side by side"),
    **{name: ("no arithmetic in {{ }}", "use add, subtract, multiply, divide") for name in ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow", "Neg", "Pos")},
}  # fmt: skip


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


def emit_scalar(em: Emitter, value: Any, hole: str = "text") -> str:
    """Python source of any scalar: an expression, a template, or itself. Problems are noted at em.place; None then."""
    if not isinstance(value, str):
        return em.const(value) if not isinstance(value, (list, dict)) else em.const(json.loads(json.dumps(value)))
    try:
        if match := WHOLE.match(value):
            return emit_expression(em, match.group(1))
        if "${" in value:
            raise ExpressionError(
                "mixed", "${ } is the whole scalar or not there", "in a text write {{ path | function }}"
            )
        if is_template(value):
            return emit_template(em, value, hole)
    except ExpressionError as error:
        em.problem(error.rule, error.message, error.hint)
        return "None"
    return em.const(value)


class Compiler:
    """Compiles the scalars of one spec; gathers what is wrong and what is read, by place."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.uses: list[Use] = []

    def emitter(self, names: Iterable[str], place: Path) -> Emitter:
        return Emitter(names, place, self.problems, self.uses)

    def value(self, spec: Any, names: Iterable[str], place: Path) -> Run:
        """scope -> the value, None if absent. A literal is itself."""
        if spec is None or not isinstance(spec, str) or not (is_expression(spec) or is_template(spec) or "${" in spec):
            return lambda scope: spec
        em = self.emitter(names, place)
        return em.build(emit_scalar(em, spec))

    def condition(self, spec: Any, names: Iterable[str], place: Path, default: bool = True) -> Callable[[Scope], bool]:
        """scope -> does it hold? A value of a wrong type makes it false; no spec is `default`."""
        if spec is None:
            return lambda scope: default
        run = self.value(spec, names, place)
        true = semantics.true

        def holds(scope: Scope) -> bool:
            try:
                return true(run(scope))
            except BadValue:
                return False

        return holds

    def text(self, spec: Any, names: Iterable[str], place: Path, hole: str = "text") -> Run:
        """scope -> text or None; what is not text becomes it (numbers with all digits)."""
        em = self.emitter(names, place)
        code = emit_scalar(em, spec, hole)
        if not is_template(spec) and not isinstance(spec, str):
            code = f"text({code}, '')"
        elif is_expression(spec):
            code = f"{hole}({code}, {em.const(str(spec).strip()[2:-1].strip())})"
        return em.build(code)
