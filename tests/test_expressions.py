from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import jmespath
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadValue
from engine.expressions import Compiler
from engine.names import BATCH, CHECKED, CLIENT, ROW
from engine.notations.emitting import Problem, Use

EVENT: dict[str, Any] = {
    "eventType": "product_view",
    "email": "ana@example.com",
    "product": {"id": "007", "name": "Café", "price": Decimal("1299.90"), "stock": 0, "sale": True},
    "items": [{"id": "a", "price": 5}, {"id": "b", "price": 20}, {"id": "c"}],
    "tags": ["new", "red"],
    "phone": "+5511999999999",
}
SCOPE: dict[str, Any] = {
    "event": EVENT,
    "fields": {"email": "ana@example.com"},
    "settings": {"plan": "pro"},
    "tables": {"subject": {"product_view": "Viewed"}},
    "record": {"Subject": "x"},
}

WHERE = "filter with where(list, key, value)"
KEYS = "use {% if %}, {% for %} or a $ key"
FILTERS = "functions stand as filters: {{ value | function(argument) }}"


def value(text: str, scope: dict[str, Any] = SCOPE, names: frozenset[str] = CHECKED) -> Any:
    compiler = Compiler()
    run = compiler.value(text, names, ("record", "Subject"))
    assert compiler.problems == []
    return run(scope)


def problem(text: str, names: frozenset[str] = CHECKED) -> Problem:
    compiler = Compiler()
    compiler.value(text, names, ("record", "Subject"))
    [found] = compiler.problems
    assert found.place == ("record", "Subject")
    return found


def holds(text: str, scope: dict[str, Any] = SCOPE) -> bool:
    compiler = Compiler()
    run = compiler.condition(text, CHECKED, ("when",))
    assert compiler.problems == []
    return run(scope)


# --- rule 1: a scalar is a literal, a value, or a text ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${ event.product.price }", Decimal("1299.90")),
        ("${ event.product.sale }", True),
        ("  ${ event.tags }\n", ["new", "red"]),
        ("Viewed {{ event.product.name }}", "Viewed Café"),
        ("{{ event.product.price }}", "1299.90"),
        ("{{ event.product.sale }}", "true"),
        ("literal", "literal"),
        ("007", "007"),
        ("", ""),
        (5, 5),
        (None, None),
        ({"a": [1]}, {"a": [1]}),
    ],
)
def test_a_scalar_is_a_literal_or_a_value_or_a_text(text: Any, expected: Any) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


@pytest.mark.parametrize(
    "text", ["007", "+5511999999999", "3.499,90", "1e5", "true", "null", "1_000", "[1]", "{{ event }}"]
)
def test_nothing_rendered_is_ever_read_again(text: str) -> None:
    scope = {"event": {"x": text}}
    assert value("{{ event.x }}", scope) == text
    assert value("${ event.x }", scope) == text
    assert value("a {{ event.x | upper }}", scope) == f"a {text.upper()}"


# --- rule 2: a text is paths and functions ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ tables.subject | get(event.eventType) }}", "Viewed"),
        ("{% if event.product.sale %}sale {% endif %}{{ event.product.id }}", "sale 007"),
        ("{% if event.nothing is defined %}a{% elif event.product.stock >= 0 %}b{% else %}c{% endif %}", "b"),
        ("{% if event.nothing is not defined and not event.nothing %}a{% endif %}", "a"),
        ("{% if event.email == 'x' or event.email != 'y' %}a{% endif %}", "a"),
        ("{% for one in event.items %}{{ one.id }};{% endfor %}", "a;b;c;"),
        ("{% for one in event.nothing %}{{ one.id }}{% endfor %}", ""),
        (
            "{% for a in event.items %}{% for b in event.tags %}{{ a.id }}{{ b }} {% endfor %}{% endfor %}",
            "anew ared bnew bred cnew cred ",
        ),
        ("{{ event.items[0].id }}{{ event.items[-1].id }}{{ event['email'] }}", "acana@example.com"),
        ("{{ event.product.price | add(1) }}", "1300.90"),
        ("one\r\ntwo {{ event.email }}\rthree\n", "one\r\ntwo ana@example.com\rthree\n"),
    ],
)
def test_a_text_is_paths_and_functions(text: str, expected: str) -> None:
    assert value(text) == expected


@pytest.mark.parametrize("name", ["keys", "items", "values", "get", "__class__", "__init__", "real", "upper", "pop"])
def test_a_dot_reads_items_never_attributes(name: str) -> None:
    for found in ({"a": 1}, ["a"], "text", 5, Decimal(1), True):
        assert value(f"${{ event.x.{name} }}", {"event": {"x": found}}) is None
        assert value(f"{{{{ event.x.{name} }}}}", {"event": {"x": found}}) is None
    assert value(f"{{{{ event.{name} }}}}", {"event": {name: "mine"}}) == "mine"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("{{ event.email.lower() }}", "no calls in {{ }}", FILTERS),
        ("{{ lower(event.email) }}", "no calls in {{ }}", FILTERS),
        ("{{ event.a + 1 }}", "no arithmetic in {{ }}", "use add, subtract, multiply, divide"),
        ("{{ -event.a }}", "no arithmetic in {{ }}", "use add, subtract, multiply, divide"),
        ("{{ event.a // 2 }}", "no arithmetic in {{ }}", "use add, subtract, multiply, divide"),
        ("{{ event.a ~ event.b }}", "no ~ in {{ }}", "write the two holes side by side"),
        ("{{ 'a' if event.a else 'b' }}", "no `a if b else c` in {{ }}", "use {% if %} or $if"),
        ("{{ tables.a[event.b] }}", "a key that is computed", "{{ map | get(key) }}"),
        ("{{ event.a in event.b }}", "compare two values with == != < <= > >=", "for lists: list | contains(value)"),
        ("{{ event.a is divisibleby(2) }}", "is divisibleby is not part of the language", "only `is defined`"),
        ("{% set x = 1 %}", "{% assign %} is not part of the language", KEYS),
        ("{% macro x() %}{% endmacro %}", "{% macro %} is not part of the language", KEYS),
        ("{% include 'x' %}", "{% include %} is not part of the language", KEYS),
        ("{% for a, b in event.x %}{% endfor %}", "only {% for name in list %}", WHERE),
        ("{% for a in event.x if a.b %}{% endfor %}", "only {% for name in list %}", WHERE),
        ("{% for event in event.x %}{% endfor %}", "event hides the event of the context", "choose another name"),
        ("{{ [1, 2] }}", "List is not part of the language", "a path and functions as filters"),
        ("{{ event.x | join(sep=',') }}", "join: arguments stand in order, without names", ""),
        ("{% filter upper %}a{% endfilter %}", "{% filterblock %} is not part of the language", KEYS),
    ],
)
def test_what_jinja_has_besides_is_refused(text: str, message: str, hint: str) -> None:
    assert problem(text) == Problem(("record", "Subject"), "template", message, hint)


def test_a_list_or_a_map_in_a_text_is_an_error_that_names_the_hole() -> None:
    for text in ("{{ event.product }}", "{{ event.tags }}"):
        compiler = Compiler()
        run = compiler.value(text, CHECKED, ("actions", "x", "record", "Subject"))
        with pytest.raises(BadValue) as raised:
            run(SCOPE)
        assert raised.value.at == "actions.x.record.Subject"
        assert text[3:-3] in str(raised.value)


# --- rule 3: names begin at the context ---


def test_a_name_exists_only_where_it_exists() -> None:
    assert problem("${ event.email }", BATCH) == Problem(
        ("record", "Subject"),
        "name",
        "event does not exist here; names here: batch, client, delivery, derived, settings, steps, tables",
        "from the batch on there are several events; map what you need into the record and read batch.records",
    )
    assert problem("{{ secrets.key }}", CLIENT) == Problem(
        ("record", "Subject"),
        "name",
        "secrets does not exist here; names here: client, settings, tables",
        "secrets are for auth only; place them there",
    )
    assert problem("${ now }", ROW).hint == "a mapping must be repeatable; use received_at or a time of the event"
    assert problem("${ record.x }", ROW).hint == "write it in the record first, or read the event"


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    for text in ("${ evnt.email }", "{{ evnt.email }}"):
        assert problem(text, CLIENT | {"event"}) == Problem(
            ("record", "Subject"),
            "name",
            "unknown name evnt; names here: client, event, settings, tables",
            'did you mean "event"?',
        )


def test_a_text_in_double_quotes_is_told_from_a_name() -> None:
    found = problem('${ default(event.name, "none") }')
    assert (found.message, found.hint) == (
        '"none" in double quotes is a name',
        "a text stands in single quotes: 'none'",
    )


@pytest.mark.parametrize(
    "text",
    [
        "${ event.items[?id == event.id] }",
        "${ event.items[*].[event.id] }",
        "${ event.product.{a: settings.plan} }",
        "${ event.items | event.id }",
        "${ event.items[?contains(tables, id)] }",
    ],
)
def test_a_context_name_inside_an_item_is_a_finding(text: str) -> None:
    assert problem(text).rule == "context-in-item"


def test_an_item_may_have_a_key_that_is_called_like_a_context_name() -> None:
    scope = {"event": {"items": [{"event": "a"}, {"event": "b"}]}}
    assert value("${ event.items[?@.event == 'b'] }", scope) == [{"event": "b"}]
    assert value("${ event.items[*].event }", scope) == ["a", "b"]


def test_what_an_expression_reads_is_known_by_its_path() -> None:
    compiler = Compiler()
    compiler.value("${ lower(event.product.id) || fields.email }", ROW, ("a",))
    compiler.value("{{ event.product.id | upper }}{% for x in event.items %}{{ x.id }}{% endfor %}", ROW, ("b",))
    assert compiler.problems == []
    assert compiler.uses == [
        Use(("event", "product", "id"), ("a",)),
        Use(("fields", "email"), ("a",)),
        Use(("event", "product", "id"), ("b",)),
        Use(("event", "items"), ("b",)),
    ]


# --- rule 4: one registry of functions for both notations ---


@pytest.mark.parametrize(
    ("call", "filtered"),
    [
        ("upper(event.email)", "event.email | upper"),
        ("truncate(event.email, `3`)", "event.email | truncate(3)"),
        ("default(event.nothing, 'none')", "event.nothing | default('none')"),
        ("join(event.tags, '-')", "event.tags | join('-')"),
        ("get(tables.subject, event.eventType)", "tables.subject | get(event.eventType)"),
        ("get(tables.subject, event.email, 'x')", "tables.subject | get(event.email, 'x')"),
        ("multiply(event.product.price, `2`)", "event.product.price | multiply(2)"),
        ("money(event.product.price, 'BRL', 'pt_BR')", "event.product.price | money('BRL', 'pt_BR')"),
        ("string(length(event.tags))", "event.tags | length"),
        ("regex_replace(event.phone, '[^0-9]', '')", "event.phone | regex_replace('[^0-9]', '')"),
        ("event.items[0].id", "event.items[0].id"),
        ("event.nothing", "event.nothing"),
    ],
)
def test_both_notations_give_the_same(call: str, filtered: str) -> None:
    found = value(f"${{ {call} }}")
    text = value(f"{{{{ {filtered} }}}}")
    assert text == (None if found is None else value("{{ event.x }}", {"event": {"x": found}}))


def test_an_unknown_function_is_told_with_the_nearest() -> None:
    for text in ("${ uper(event.a) }", "{{ event.a | uper }}"):
        assert problem(text) == Problem(
            ("record", "Subject"), "function", "unknown function uper", 'did you mean "upper"?'
        )
    assert problem("{{ event.a | tojson }}").hint == 'did you mean "json"?'
    assert problem("${ qqq(event.a) }").hint == "docs/functions.md lists all functions"


def test_arguments_are_counted_and_literals_are_held_against_their_kind() -> None:
    assert problem("${ truncate(event.a) }") == Problem(
        ("record", "Subject"), "arguments", "truncate takes 2 to 3 arguments, got 1", "truncate(subject, length, unit)"
    )
    assert problem("{{ event.a | truncate('x') }}").message == "truncate: length is to be number, got text"
    assert problem("${ truncate(event.a, 'x') }").message == "truncate: length is to be number, got text"


def test_the_order_of_stock_jmespath_in_join_is_a_finding() -> None:
    assert problem("${ join(', ', event.tags) }") == Problem(
        ("record", "Subject"), "argument-order", "join takes the list first here", "join(list, ', ')"
    )
    assert problem("{{ ', ' | join(event.tags) }}").rule == "argument-order"


# --- rule 5: absent in, absent out ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${ event.nothing }", None),
        ("${ upper(event.nothing) }", None),
        ("{{ event.nothing | upper }}", None),
        ("Hello {{ event.nothing }}", None),
        ("{{ event.nothing | default('x') }}!", "x!"),
        ("{% if event.nothing %}{{ event.nothing }}{% else %}b{% endif %}", "b"),
        ("{% for x in event.items %}{{ x.price }} {% endfor %}", None),
        ("${ event.nothing | default(@, 'x') }", "x"),
        ("${ event.nothing | 'x' }", "x"),
        ("${ [event.nothing, event.email] }", ["ana@example.com"]),
        ("${ {a: event.nothing, b: event.email} }", {"b": "ana@example.com"}),
        ("${ event.items[*].price }", [5, 20]),
        ("${ event.items[*].{id: id, price: price} | [2] }", {"id": "c"}),
        ("${ event.nothing.[a, b] }", None),
        ("${ event.nothing.{a: a} }", None),
        ("${ event.email.a.b }", None),
        ("${ event.items[7] }", None),
    ],
)
def test_absent_in_absent_out(text: str, expected: Any) -> None:
    assert value(text) == expected


def test_a_null_of_a_reply_is_absent() -> None:
    scope = {"response": {"body": {"a": None, "list": [None, {"x": None}, {"x": 1}]}}}
    names = frozenset({"response"})
    assert value("${ response.body.a }", scope, names) is None
    assert value("{{ response.body.a }}", scope, names) is None
    assert value("${ response.body.list[*].x }", scope, names) == [1]
    assert value("${ response.body.list[*].{y: x} }", scope, names) == [{}, {"y": 1}]


def test_a_value_of_a_wrong_type_rejects_in_a_mapping_and_is_false_in_a_condition() -> None:
    with pytest.raises(BadValue):
        value("${ upper(event.product) }")
    assert holds("${ upper(event.product) == 'A' }") is False
    assert value("{% if event.product | upper == 'A' %}a{% else %}b{% endif %}") == "b"
    scope = {"event": {"items": [{"name": "A"}, {"name": 5}, {"name": ["a"]}]}}
    assert value("${ event.items[?lower(name) == 'a'].name }", scope) == ["A"]


# --- rule 7: one truth, one comparison ---


@pytest.mark.parametrize("found", [None, False, "", [], {}])
def test_absent_false_and_what_is_empty_are_false(found: Any) -> None:
    scope = {"event": {"x": found}}
    assert holds("${ event.x }", scope) is False
    assert holds("${ !(event.x) }", scope) is True
    assert value("${ event.x || 'other' }", scope) == "other"
    assert value("${ event.x && 'other' }", scope) == found
    assert value("{% if event.x %}a{% else %}b{% endif %}", scope) == "b"
    assert value("{% if not event.x %}a{% endif %}", scope) == "a"


@pytest.mark.parametrize("found", [0, Decimal(0), True, "0", "false", " ", [None], {"a": None}])
def test_all_else_is_true_0_too(found: Any) -> None:
    scope = {"event": {"x": found}}
    assert holds("${ event.x }", scope) is True
    assert value("${ event.x || 'other' }", scope) == found
    assert value("{% if event.x %}a{% else %}b{% endif %}", scope) == "a"


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, Decimal("1.0"), True),
        (1, "1", False),
        (1, True, False),
        (0, False, False),
        ("", None, False),
        (None, None, True),
        ([1], [Decimal("1.00")], True),
        ([1], [True], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (Decimal("0.1"), Decimal("0.1"), True),
        ("a", "A", False),
    ],
)
def test_types_are_strict_and_numbers_exact(left: Any, right: Any, equal: bool) -> None:
    scope = {"event": {"a": left, "b": right}}
    assert value("${ event.a == event.b }", scope) is equal
    assert value("${ event.a != event.b }", scope) is (not equal)
    assert value("{% if event.a == event.b %}y{% else %}n{% endif %}", scope) == ("y" if equal else "n")


def test_an_order_is_between_numbers_only() -> None:
    scope = {"event": {"a": 1, "b": Decimal("1.5"), "t": "2", "yes": True}}
    assert value("${ event.a < event.b }", scope) is True
    assert value("${ event.b >= `1.5` }", scope) is True
    for other in ("event.t", "event.yes", "event.nothing", "'z'"):
        assert value(f"${{ event.a < {other} }}", scope) is None
        assert holds(f"${{ event.a < {other} }}", scope) is False


@pytest.mark.parametrize(
    "text",
    ["${ !event.a.b }", "${ !event.a[?x] }", "${ !event.a[].b }", "${ !event.a.* }", "${ event.x && !event.a.b }"],
)
def test_a_not_that_jmespath_binds_to_the_first_name_only_is_a_finding(text: str) -> None:
    assert problem(text) == Problem(
        ("record", "Subject"), "not-path", "! binds to the first name only, JMESPath reads (!a).b", "write !(a.b)"
    )


def test_a_not_of_a_whole_path_or_function_is_fine() -> None:
    assert value("${ !(event.product.sale) }") is False
    assert value("${ !contains(event.tags, 'blue') }") is True
    assert value("${ !event }") is False
    assert value("${ !event.tags[0] }".replace("event.tags", "event")) is True


# --- the traps of those who write ---


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("${ event.price > 10 }", "numbers stand in backticks: `1`"),
        ("${ event.price == -1 }", "numbers stand in backticks: `1`"),
        ("${ truncate(event.name, 80) }", "numbers stand in backticks: `1`"),
        ("${ tables.a[event.b] }", "a key that is computed: get(map, key)"),
        ("${ lower({{ event.a }}) }", "no {{ }} inside ${ }"),
        ("${ event.a = 'b' }", "equality is =="),
        ("${ event.a and event.b }", "logic is written && || !"),
        ("${ not event.a }", "logic is written && || !"),
        ("${ join(event.errors[*.message, '; ') }", "a [ is never closed"),
        ("${ event.a + event.b }", "arithmetic is by functions: add, subtract, multiply, divide"),
        ("${ event.a. }", ""),
        ("${ event.`1` }", ""),
    ],
)
def test_a_syntax_error_comes_with_what_was_probably_meant(text: str, hint: str) -> None:
    found = problem(text)
    assert (found.rule, found.hint) == ("syntax", hint)
    assert found.message.startswith("not a JMESPath expression at character ")
    assert found.message.endswith(f": {text[2:-1].strip()}")


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        ("${ }", "syntax", "an empty ${ }"),
        ("a ${ event.x } b", "mixed", "${ } is the whole scalar or not there"),
        ("${ event.x", "mixed", "${ } is the whole scalar or not there"),
        ("${ event.x[::0] }", "syntax", "a slice can't go by steps of 0"),
        ("${ @ }", "name", "@ and [ ] need a value before them"),
        ("${ sort(event.x, &price) }", "syntax", "& is not used here"),
        (f"${{ {'!' * 5000}event }}", "syntax", "an expression nested too deeply"),
        (f"${{ {'event.a || (' * 120}event.a{')' * 120} }}", "nesting", "nested too deeply"),
        (f"${{ event{'.a' * 15_000} }}", "syntax", "an expression of 30007 characters; 20000 is the most"),
        (f"{'{% for a in event.b %}' * 25}{'{% endfor %}' * 25}", "nesting", "nested too deeply"),
    ],
)
def test_what_can_not_be_compiled_is_a_finding(text: str, rule: str, message: str) -> None:
    found = problem(text)
    assert (found.rule, found.message) == (rule, message)


def test_a_template_that_is_not_closed_says_so() -> None:
    for text, hint in {
        "{{ event.a": "write {{ … }}",
        "{{ event.a }": "write {{ … }}",
        "{% if event.a %}b": "write {% endif %} or {% endfor %} at its end",
        "{# event": "close every {{ with }} and every {% if %} with {% endif %}",
    }.items():
        found = problem(text)
        assert found.rule == "syntax"
        assert found.message.startswith("not a template: ")
        assert found.hint == hint


def test_what_stands_behind_a_filter_stands_in_parentheses() -> None:
    for text in ("{{ event.a | truncate 20 }}", "{{ event.a | truncate:20 }}"):
        assert problem(text).hint == "write {{ … | truncate(20) }}"


@pytest.mark.parametrize(
    ("expression", "hint"),
    {
        "event.a | truncate(20)": "a function stands around its value: truncate(event.name, `20`)",
        "event.a ?? 'x'": "what stands in where nothing is there: coalesce(a, b), or a || b",
        "event.a?.b": "what is not there is absent by itself: write a plain .",
        "event.a ? 'b' : 'c'": "a choice is a directive: `$if:` with `then:` and `else:`",
        "event.a.0.b": "an item of a list is [0]",
        "event['a']": "a key stands after a point: event.name; one with other signs in double quotes",
        "event.a-b": 'a name with - stands in double quotes: event."list-price"; functions subtract',
        "not event.a": "logic is written && || !",
        "lower(event.a": "a ( is never closed",
    }.items(),
)
def test_habits_from_other_languages_are_told_how_it_is_written_here(expression: str, hint: str) -> None:
    assert problem(f"${{ {expression} }}").hint == hint


def test_two_faults_of_one_spec_are_both_found() -> None:
    compiler = Compiler()
    compiler.value("${ evnt.a }", ROW, ("a",))
    compiler.value("{{ event.b | nope }}", ROW, ("b", 0))
    assert [(one.place, one.rule) for one in compiler.problems] == [(("a",), "name"), (("b", 0), "function")]


def place_of_fault(run: Callable[[Any], Any]) -> str | None:
    try:
        run(SCOPE)
    except BadValue as error:
        return error.at
    return None


@pytest.mark.parametrize("literal", ["foo", "", "01", "1,5", "'x'", "{a: 1}", "\\`"])
def test_what_is_not_json_in_backticks_is_a_finding(literal: str) -> None:
    assert problem(f"${{ event.a == `{literal}` }}") == Problem(
        ("record", "Subject"),
        "syntax",
        f"`{literal}` is not JSON",
        "in backticks stand numbers; a text stands in single quotes",
    )


def test_backticks_inside_quotes_are_text() -> None:
    assert value("${ 'a `b` c' }") == "a `b` c"
    assert value("${ default(event.nothing, '`x') }") == "`x"
    assert value('${ `"a\\`b"` }') == "a`b"


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_text_breaks_the_compiler(text: str) -> None:
    assert faults_elsewhere(text) == []


def faults_elsewhere(text: str) -> list[str]:
    """The ways of writing the text that compile and then raise anything but a BadValue with its place."""
    found = []
    for spec in (text, f"${{ {text} }}", f"{{{{ {text} }}}}", f"{{% if {text} %}}{{% endif %}}"):
        compiler = Compiler()
        run = compiler.value(spec, CHECKED, ("a",))
        if not compiler.problems and place_of_fault(run) not in (None, "a"):
            found.append(spec)
    return found


PIECES = [
    "event",
    ".",
    "a",
    "[",
    "]",
    "*",
    "?",
    "|",
    "&&",
    "!",
    "(",
    ")",
    "{",
    "}",
    ":",
    ",",
    "`1`",
    "'x'",
    "==",
    "<",
    "@",
    "lower",
    "get",
    "[]",
    "[0]",
    "[*]",
    "-1",
    " ",
    "&",
    '"q"',
    "if",
    "not",
    "~",
    "join",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@settings(max_examples=200, deadline=None)
def test_no_mixture_of_the_language_s_own_pieces_breaks_the_compiler(text: str) -> None:
    assert faults_elsewhere(text) == []


# --- compiled, as stock jmespath gives it ---

NAMES = ["a", "b", "c"]
LEAVES = st.one_of(st.integers(2, 9), st.sampled_from(["x", "yy", "", "z'\"`"]), st.just(True))
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=14,
)


def steps(start: str) -> st.SearchStrategy[str]:
    """Paths that go on from a value: names, indexes, slices, projections, filters, flattening, pipes."""
    name = st.sampled_from([f".{name}" for name in NAMES])
    bound = st.one_of(st.just(""), st.integers(-4, 4).map(str))
    stride = st.sampled_from(["", ":1", ":2", ":-1"])
    part = st.one_of(
        name,
        name,
        st.integers(-3, 3).map(lambda at: f"[{at}]"),
        st.builds(lambda first, last, by: f"[{first}:{last}{by}]", bound, bound, stride),
        st.sampled_from(
            ["[*]", "[]", ".*", " | [0]", " | @", "[?a]", "[?a == b]", "[?a != `3`]", "[?!b]", "[?b > `4`].a"]
        ),
        st.sampled_from(["[?a && b || c]", "[*].a[]", " | [*].b", "[?@.a == 'x']", "[?a[0] == `2`]"]),
    )
    return st.lists(part, max_size=5).map(lambda parts: start + "".join(parts))


SELECTS = ["", "", ".[a, b]", ".{x: a, y: b}", "[*].[a, b]", "[*].{x: a, y: b.c}", "[*].{x: @.a[0]}"]
EXPRESSIONS = st.one_of(
    st.builds("{}{}".format, steps("event"), st.sampled_from(SELECTS)),
    st.builds(
        lambda left, op, right: f"({left}) {op} ({right})",
        steps("event"),
        st.sampled_from(["||", "&&", "==", "!="]),
        steps("event"),
    ),
    st.builds(lambda inner: f"!({inner})", steps("event")),
)


def plain(found: Any) -> Any:
    """Nulls vanish from what a multi-select gives, here and in what is compared."""
    if isinstance(found, list):
        return [plain(entry) for entry in found if entry is not None]
    if isinstance(found, dict):
        return {key: plain(entry) for key, entry in found.items() if entry is not None}
    return found


@given(EXPRESSIONS, DOCUMENTS)
@settings(max_examples=400, deadline=None)
def test_paths_projections_filters_slices_and_pipes_give_what_stock_jmespath_gives(text: str, document: Any) -> None:
    ours = value(f"${{ {text} }}", {"event": document})
    try:
        stock = jmespath.search(text, {"event": document})
    except TypeError:  # stock can't bear 'x' > 4
        return
    assert plain(ours) == plain(stock)
    assert type(ours) is type(stock)


@given(DOCUMENTS)
@settings(max_examples=100, deadline=None)
def test_a_literal_is_what_its_json_says(document: Any) -> None:
    assert value(f"${{ `{json.dumps(document).replace('`', chr(92) + '`')}` }}") == document


def test_a_literal_number_is_exact() -> None:
    assert value("${ `0.1` }") == Decimal("0.1")
    assert value("${ add(`0.1`, `0.2`) }") == Decimal("0.3")
    assert value("{{ 0.1 | add(0.2) }}") == "0.3"


# --- hostile values change nothing but themselves ---

HOSTILE = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            [
                '"',
                "'",
                "{{",
                "}}",
                "${",
                "}",
                "{%",
                "%}",
                "{#",
                "\\",
                "\n",
                "\r\n",
                "/",
                "..",
                "%2e",
                "&",
                "=",
                "?",
                "#",
                "😀",
                "é",
                "\0",
                "\x1b",
                "${ secrets.x }",
                "{{ event }}",
                "' OR '1'='1",
                "\u2028",
                ";",
                "<b>",
                "\ue000",
            ]
        ),
        max_size=8,
    ).map("".join),
)


@given(HOSTILE)
@settings(max_examples=150, deadline=None)
def test_a_text_lands_as_it_is(hostile: str) -> None:
    scope = {"event": {"x": hostile}}
    assert value("${ event.x }", scope) == hostile
    assert value("<{{ event.x }}|{{ event.x }}>\r\n", scope) == f"<{hostile}|{hostile}>\r\n"
    assert value("{% if event.x == event.x %}{{ event.x }}{% endif %}", scope) == hostile
    assert msgspec.json.decode(msgspec.json.encode(value("{{ event.x }}", scope))) == hostile


def test_a_text_that_grows_too_long_is_refused() -> None:
    scope = {"event": {"x": "x" * 600_000, "list": [1] * 90_000}}
    for text in ("{{ event.x }}{{ event.x }}", "{% for a in event.list %}{{ a }}{{ a }}123456789012{% endfor %}"):
        with pytest.raises(BadValue, match="1000000 is the most"):
            value(text, scope)
    with pytest.raises(BadValue, match="100000 is the most"):
        value("{% for a in event.list %}{% endfor %}", {"event": {"list": [1] * 100_001}})
