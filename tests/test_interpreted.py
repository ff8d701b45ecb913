"""The generated function gives what the language says when it is read node by node, down to errors."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.errors import BadValue
from engine.expressions import Compiler
from engine.functions.definition import literal
from engine.mapping import compile_record, compile_tree
from engine.names import ARRIVED, MAPPED
from engine.spec.types import Drop
from tests.interpreted import interpreted

PLACE = ("actions", "do", "record")

# --- events: what is wanted, what is missing, and what nobody wanted ---

NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([10**9, 10**15, -(10**39), 10**40 + 1, Decimal("1299.90"), Decimal("0"), Decimal("-0.00")]),
    st.decimals(-(10**6), 10**6, places=3),
    st.sampled_from([Decimal("1E+5"), Decimal("1E-9"), Decimal("1E+41"), Decimal("0." + "3" * 41)]),
)
TEXTS = st.one_of(
    st.sampled_from(["", " ", " Ana ", "ana@example.com", "1299.9", "007", "true", "São Paulo", "İß", "a,b", "x" * 90]),
    st.sampled_from(["BRL", "pt_BR", "America/Sao_Paulo", "UTC", "%Y", "product_view", "sku", "a.b", "{} \\ \" ' \n"]),
    st.sampled_from(
        [
            "2026-01-28", "2026-01-28T10:30:45Z", "2026-01-28T10:30:45.123Z", "2026-01-28T23:30:45-03:00",
            "2026-02-30T10:30:45Z", "2026-W05-3T10:30:45Z", "20a6-01-28T10:30:45Z", " 2026-01-28T10:30:45.1Z ",
            "2026-01-28T10:30:45.12aZ", "2026-01-28T10:30:45+25:00", "0001-01-01T00:00:00Z", "2026-01-28T10:30:45z",
        ]
    ),
    st.text(max_size=5),
)  # fmt: skip
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
LINES = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {}, optional={"sku": TEXTS, "qty": NUMBERS, "name": SCALARS, "tags": st.lists(SCALARS, max_size=2)}
        ),
        SCALARS,
        st.none(),
    ),
    max_size=3,
)  # fmt: skip
ANYTHING = st.one_of(SCALARS, LINES, st.dictionaries(TEXTS, SCALARS, max_size=2), st.just([]), st.just({}))
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "a": ANYTHING, "b": ANYTHING, "text": TEXTS, "number": NUMBERS, "flag": st.booleans(), "when": TEXTS,
        "items": st.one_of(LINES, LINES, ANYTHING),
        "product": st.one_of(
            st.fixed_dictionaries({}, optional={"name": TEXTS, "price": NUMBERS, "id": SCALARS, "more": ANYTHING}),
            ANYTHING,
        ),
    },
)  # fmt: skip
SCOPES = st.fixed_dictionaries(
    {
        "event": EVENTS,
        "fields": st.fixed_dictionaries({}, optional={"email": ANYTHING}),
        "settings": st.just({"zone": "America/Sao_Paulo", "currency": "BRL"}),
        "tables": st.just({"kinds": {"product_view": "View", "": "None", "1": "One", "n": 5}}),
    }
)

# --- expressions ---

PATHS = st.sampled_from(
    [
        "event.a", "event.b", "event.text", "event.number", "event.flag", "event.when", "event.items", "event.product",
        "event.product.name", "event.product.price", "event.product.id", "event.product.more", "event.product.more.x",
        "event.items[0]", "event.items[-1].sku", "event.items[1].qty", "event", "fields.email", "fields",
        "settings.zone", "tables.kinds", "event.nothing", "event.nothing.x",
    ]
)  # fmt: skip
WRITTEN = st.sampled_from([0, 1, -3, 10**9, 10**20, Decimal("2.50"), True, False, [], {}, {"x": 1}, [{"sku": "a"}, 1]])
LITERALS = st.one_of(TEXTS, WRITTEN).map(literal)
INSIDE = ["@", "sku", "qty", "name", "tags", "tags[0]", "@.sku", "qty > `1`", "lower(sku)", "!(qty)", "sku || name"]
CALLS = {  # by what they are mostly given
    "lower": ["event.text"], "upper": ["event.product.name"], "trim": ["fields.email"], "string": ["event.number"],
    "title": ["event.text"], "truncate": ["event.product.name", "`3`"], "slice": ["event.text", "`1`"],
    "replace": ["event.text", "'a'", "'b'"], "split": ["event.text", "','"], "join": ["event.items[*].sku", "', '"],
    "contains": ["event.text", "'a'"], "starts_with": ["event.text", "'a'"], "ends_with": ["event.text", "' '"],
    "regex": ["event.text", "'[0-9]+'"], "default": ["event.a", "'none'"], "coalesce": ["event.a", "event.b", "`0`"],
    "present": ["event.a"], "get": ["tables.kinds", "event.text", "'Other'"], "first": ["event.items"],
    "last": ["event.items"], "length": ["event.items"], "list": ["event.a"], "unique": ["event.items"],
    "where": ["event.items", "'sku'", "event.text"], "find": ["event.items", "'sku'", "event.text"],
    "add": ["event.number", "`1`"], "subtract": ["event.number", "`1`"], "multiply": ["event.number", "`2`"],
    "divide": ["event.number", "`3`"], "round": ["event.number", "`1`"], "decimal": ["event.product.price", "`2`"],
    "integer": ["event.number"], "number": ["event.text"], "boolean": ["event.text"],
    "date": ["event.when", "'%Y-%m-%d'", "settings.zone"], "datetime": ["event.when"], "epoch": ["event.when"],
    "epoch_ms": ["event.when"], "add_time": ["event.when", "'15m'"], "money": ["event.number", "'BRL'", "'pt_BR'"],
    "merge": ["event.product", "event.a"], "keys": ["event.product"], "json": ["event.a"], "md5": ["event.text"],
}  # fmt: skip
FORMATS = ["'%d/%m/%Y'", "'%H:%M'", "'%H:%M:%S at %Y'", "'%%'", "'%'", "'%Q'", "'today'", "''"]


@st.composite
def calls(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    name = draw(st.sampled_from(sorted(CALLS)))
    arguments = list(CALLS[name])
    for at in range(len(arguments)):
        if draw(st.integers(0, 3)) == 0:
            arguments[at] = draw(st.one_of(inner, inner, LITERALS, st.sampled_from(FORMATS)))
    if len(arguments) > 1 and name in ("date", "coalesce", "get", "decimal") and draw(st.booleans()):
        arguments.pop()
    return f"{name}({', '.join(arguments)})"


def deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, inner)
    operators = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    lists = st.sampled_from(["event.items", "event.a", "event.product.more"])
    return st.one_of(
        calls(inner),
        calls(inner),
        two.map(lambda pair: f"({pair[0]} || {pair[1]})"),
        two.map(lambda pair: f"({pair[0]} && {pair[1]})"),
        inner.map(lambda one: f"!({one})"),
        st.tuples(inner, operators, st.one_of(inner, LITERALS)).map(lambda three: f"({' '.join(three)})"),
        st.tuples(LITERALS, operators, inner).map(lambda three: f"({' '.join(three)})"),
        st.tuples(lists, st.sampled_from(INSIDE)).map(lambda pair: f"{pair[0]}[?{pair[1]}]"),
        st.tuples(lists, st.sampled_from(["sku", "qty", "tags", "tags[]", "[sku, qty]", "{s: sku, q: qty}"])).map(
            lambda pair: f"{pair[0]}[*].{pair[1]}" if pair[1][0] != "@" else f"{pair[0]}[*]"
        ),
        st.sampled_from(["event.items[]", "event.product.*", "event.items[:2]", "event.items[*].tags | [0]"]),
        st.sampled_from(["[event.a, event.b]", "{x: event.a, y: event.text}", "event.items | [?qty > `0`].name | [0]"]),
        st.sampled_from(
            ["event.items[*].lower(sku)", "event.items[*].[sku, add(qty, `1`)]", "event.product.{n: name}"]
        ),
    )


EXPRESSIONS = st.recursive(st.one_of(PATHS, PATHS, PATHS, LITERALS), deeper, max_leaves=4)
HOLES = st.one_of(
    st.sampled_from(
        [
            "event.text", "event.number", "event.flag", "event.product.name", "event.product.price", "event.a",
            "event.product.price | decimal(2)", "event.number | decimal(2)", "event.text | trim | lower",
            "event.product.name | truncate(4)", "event.text | default('-')",
            "event.when | date('%d/%m/%Y', settings.zone)",
            "tables.kinds | get(event.text)", "event.items[0].sku", "event.items | length",
            "event.number | add(1)", "5",
            "event.product.price | money('BRL', 'pt_BR')", "event.number | string", "event.product.id", "'x'",
        ]
    )
)  # fmt: skip
WORDS = st.sampled_from(["", ": ", "{ } ", "\\ ' \" \n", "ção ", "# "])
TESTS = st.sampled_from(
    [
        "event.a", "event.text is defined", "event.a is undefined", "event.number > 1",
        "event.text == 'ana@example.com'",
        "not event.flag", "event.flag and event.number", "event.a or event.b == true", "event.number | add(1) > 2",
        "event.text | upper == 'A'", "event.number == 1",
    ]
)  # fmt: skip


@st.composite
def templates(draw: st.DrawFn, inside: tuple[str, ...] = ()) -> str:
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        hole = draw(st.sampled_from(inside)) if inside and draw(st.booleans()) else draw(HOLES)
        kind = draw(st.integers(0, 7))
        if kind == 0:
            other = draw(st.sampled_from(["", "{% else %}no", "{% elif event.b %}b{% else %}{{ event.text }}"]))
            parts.append(f"{{% if {draw(TESTS)} %}}y {{{{ {hole} }}}}{other}{{% endif %}}")
        elif kind == 1:
            parts.append("{% for one in event.items %}{{ one.sku }}{% if one.qty > 1 %}!{% endif %};{% endfor %}")
        else:
            parts.append(f"{draw(WORDS)}{{{{ {hole} }}}}")
    return "".join(parts)


# --- trees ---


def leaves(looping: bool) -> st.SearchStrategy[Any]:
    inside = ("item.sku", "item.qty", "index", "item.name | lower", "item.qty | decimal(2)") if looping else ()
    own = st.sampled_from(
        ["item", "item.sku", "item.qty", "index", "add(index, `1`)", "lower(item.sku)", "item.tags", "event.text",
         "multiply(item.qty, `2`)", "date(event.when, '%Y', settings.zone)", "item.qty > `1`",
         "get(tables.kinds, item.sku)", "truncate(item.name, `2`)", "default(item.sku, event.text)",
         "length(item.sku)", "item.sku || event.a"]
    )  # fmt: skip
    expressions = st.one_of(own, EXPRESSIONS) if looping else EXPRESSIONS
    return st.one_of(
        expressions.map(lambda text: f"${{ {text} }}"),
        expressions.map(lambda text: f"${{ {text} }}"),
        templates(inside),
        st.sampled_from(["word", "", 5, True, None, "null"]),
    )


def within(children: st.SearchStrategy[Any], looping: bool) -> st.SearchStrategy[Any]:
    conditions = EXPRESSIONS.map(lambda text: f"${{ {text} }}")
    keys = st.sampled_from(["x", "y", "z", "$$s", "key", "value"])
    maps = st.dictionaries(keys, children, max_size=4)
    lists = st.lists(children, max_size=3)
    pairs = st.lists(
        st.fixed_dictionaries({"key": st.sampled_from(["k", "${ event.text }"]), "value": children}), max_size=2
    )
    drops = st.fixed_dictionaries({}, optional={kind: st.sampled_from(["drop", "keep"]) for kind in KINDS})
    choices = [
        maps,
        maps,
        lists,
        st.fixed_dictionaries({"$if": conditions, "then": children}, optional={"else": children}),
        st.fixed_dictionaries(
            {"$switch": conditions, "cases": st.dictionaries(st.sampled_from(["1", "true", ""]), children, max_size=2)},
            optional={"default": children},
        ),
        lists.map(lambda listed: {"$lines": listed}),
        st.lists(maps, max_size=3).map(lambda listed: {"$merge": listed}),
        st.one_of(maps, lists).map(lambda one: {"$all": one}),
        st.one_of(maps, lists).map(lambda one: {"$keep": one}),
        maps.map(lambda one: {"$json": one}),
        maps.map(lambda one: {"$entries": one, "key": "name"}),
        pairs.map(lambda listed: {"$object": listed}),
        st.tuples(drops, children).map(lambda pair: {"$drop": pair[0], "do": pair[1]}),
        st.sampled_from([{"$literal": {"$if": "x"}}, {"$literal": None}, {"$rest": "${ event }", "except": ["a"]}]),
        st.sampled_from([{"$entries": "${ event.product }", "by": "${ tables.kinds }"}, {"$rows": "${ event.items }"}]),
        maps.map(lambda one: {"$rename": one, "by": {"x": "X", "y": "${ event.text }"}}),
    ]  # fmt: skip
    if not looping:
        rounds = st.fixed_dictionaries(
            {"$each": st.sampled_from(["${ event.items }", "${ event.a }", "${ event.items[?qty] }"]), "do": INNER},
            optional={"where": st.sampled_from(["${ item.qty > `0` }", "${ lower(item.sku) }", "${ index }"])},
        )
        choices += [rounds, rounds]
    return st.one_of(choices)


KINDS = ("null", "text", "list", "object")
INNER: st.SearchStrategy[Any] = st.recursive(leaves(True), lambda children: within(children, True), max_leaves=4)
TREES = st.recursive(leaves(False), lambda children: within(children, False), max_leaves=8)
DROPS = st.fixed_dictionaries({}, optional={kind: st.sampled_from(["drop", "keep"]) for kind in KINDS})


# Wide and flat, over events that have everything: what one function does differently is not hidden by what is absent.
WIDE = st.lists(leaves(False), min_size=5, max_size=9).map(
    lambda made: {f"k{at}": leaf for at, leaf in enumerate(made)}
)
WHOLE = st.fixed_dictionaries(
    {
        "event": st.fixed_dictionaries(
            {
                "a": ANYTHING, "b": ANYTHING, "text": TEXTS, "number": NUMBERS, "flag": st.booleans(), "when": TEXTS,
                "items": LINES,
                "product": st.fixed_dictionaries({"name": TEXTS, "price": NUMBERS, "id": SCALARS, "more": ANYTHING}),
            }
        ),
        "fields": st.fixed_dictionaries({"email": TEXTS}),
        "settings": st.just({"zone": "America/Sao_Paulo", "currency": "BRL"}),
        "tables": st.just({"kinds": {"product_view": "View", "": "None", "1": "One", "n": 5}}),
    }
)  # fmt: skip


def shown(run: Any) -> tuple[str, str]:
    """What came of it, with the order of keys and the kinds of numbers; or the error with its place."""
    try:
        return "value", repr(run())
    except BadValue as error:
        return type(error).__name__, str(error)


@given(TREES, DROPS, st.lists(SCOPES, min_size=3, max_size=3))
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@example({"a": "${ event.a }", "b": "${ event.a }"}, {"text": "drop"}, [{"event": {"a": ""}}] * 3)
@example({"a": "${ event.items[?lower(qty)] }"}, {}, [{"event": {"items": [{"qty": 1}, {"qty": "a"}]}}] * 3)
@example({"a": "{{ event.a }}{{ event.items }}"}, {}, [{"event": {"items": [1]}}] * 3)
@example({"a": "{% if event.b %}b{% endif %}{{ event.a }}{{ event.items }}"}, {}, [{"event": {"items": [1]}}] * 3)
def test_the_generated_function_gives_what_the_language_says(
    spec: Any, drop: dict[str, str], scopes: list[dict[str, Any]]
) -> None:
    assert differences(spec, drop, scopes) == []


@given(WIDE, DROPS, st.lists(WHOLE, min_size=6, max_size=6))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@example({"a": "${ event.a && 'x' }"}, {}, [{"event": {}}, {"event": {"a": 0}}])
@example({"a": "${ trim(event.a) }", "b": "{{ event.a | lower }}"}, {"text": "drop"}, [{"event": {"a": " "}}])
@example(
    {"a": "${ upper(trim(event.a)) }", "b": "${ trim(upper(lower(event.a))) }"},
    {},
    [{"event": {"a": a}} for a in (None, 5, " ΐ ", " " * 90_000 + "ΐ", "ΐ" * 200_000, "ΐ" * 400_000)],
)
@example(
    {
        "a": "${ trim(event.a) }",
        "b": "{{ event.a | trim | lower }}",
        "c": "${ [trim(event.b), lower(trim(event.b)), upper(lower(trim(event.b)))] }",
        "d": "${ trim(event.text) | replace(@, lower(@), upper(@)) }",
        "e": "${ decimal(event.number, `2`) }",
        "f": "{{ event.number | decimal(2) }}",
    },
    {},
    [{"event": {"a": " Ana ", "b": " B ", "text": " c ", "number": Decimal("12.5")}}, {"event": {"a": 5}}],
)
@example({"a": "${ get(event, 'k', 'other') }"}, {}, [{"event": {}}, {"event": {"k": Decimal("1E+5")}}])
@example(
    {"a": "${ date(event.a, '%d') }"}, {}, [{"event": {"a": "2026-W05-3T10:30:45Z"}}, {"event": {"a": "2026-01-28"}}]
)
def test_each_expression_gives_what_the_language_says(
    spec: Any, drop: dict[str, str], scopes: list[dict[str, Any]]
) -> None:
    alone = spec.values()  # for the first error of a record hides the others
    assert [found for each in (*alone, spec) if (found := differences(each, drop, scopes))] == []


def differences(spec: Any, drop: dict[str, str], scopes: list[dict[str, Any]]) -> list[Any]:
    """Scopes for which the two forms differ, with what each gives."""
    compiler = Compiler()
    run = compile_tree(compiler, spec, MAPPED, PLACE, msgspec.convert(drop, Drop))
    if compiler.problems:
        return []
    both = [
        (scope, shown(partial(run, scope)), shown(partial(interpreted, spec, scope, PLACE, drop))) for scope in scopes
    ]
    return [each for each in both if each[1] != each[2]]


FIELDS = st.dictionaries(st.sampled_from(["email", "x", "k"]), leaves(False) | TREES, min_size=1, max_size=3)
READING = st.sampled_from(
    [
        "${ fields.email }", "${ lower(fields.email) }", "{{ fields.x }}: {{ event.text }}", "${ fields }",
        "${ fields.k.x }", {"$rest": "${ event }", "except": ["used"]},
        {"$each": "${ fields.x }", "do": "${ item.sku }"},
    ]
)  # fmt: skip
RECORDS = st.one_of(READING, st.dictionaries(st.sampled_from("abcde"), st.one_of(READING, READING, TREES), max_size=5))


@given(st.one_of(FIELDS, TREES.filter(lambda tree: isinstance(tree, dict) and tree)), RECORDS, DROPS, SCOPES, WHOLE)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@example({"x": None}, "${ fields.x }", {"null": "keep"}, {}, {})
@example({"x": "${ event.a }"}, {"$rest": "${ event }", "except": ["used"]}, {}, {"event": {"a": 1, "b": 2}}, {})
@example({"x": "${ event.a[*].b }"}, {"y": "${ fields.x }"}, {}, {"event": {"a": [{"b": [1]}]}}, {})
@example({"x": "${ lower(event.a) }"}, "${ upper(fields.x) }", {}, {"event": {"a": 5}}, {"event": {"a": "İß"}})
def test_a_record_made_with_its_fields_is_the_one_made_after_them(
    fields: Any, spec: Any, drop: dict[str, str], one: dict[str, Any], other: dict[str, Any]
) -> None:
    after, kept = Compiler(), msgspec.convert(drop, Drop)
    make_fields = compile_tree(after, fields, ARRIVED, ("fields",))
    record = compile_tree(after, spec, MAPPED, PLACE, kept)
    if after.problems:
        return
    together = Compiler()
    both = compile_record(together, fields, spec, PLACE, kept)
    assert together.problems == []
    assert set(together.uses) == {use for use in after.uses if use.place[0] != "fields"}
    for given_ in (one, other):
        scope = {"event": {}, "settings": {}, "tables": {}, "client": {}, **given_}

        def in_turn(scope: dict[str, Any]) -> Any:
            made = {**scope, "fields": make_fields(scope) or {}}
            return record(made), made["fields"]

        def at_once(scope: dict[str, Any]) -> Any:
            row = {**scope, "fields": None}
            return both(row), row["fields"]

        assert shown(lambda scope=scope: at_once(scope)) == shown(lambda scope=scope: in_turn(scope))
