# ruff: noqa: E501 (a directive and what it gives stand side by side)
from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BadValue
from engine.expressions import Compiler
from engine.mapping import compile_tree, encode_json
from engine.names import MAPPED
from engine.notations.emitting import Problem
from engine.program import Program, decode_event
from engine.spec.load import load_connector
from engine.spec.located import read, read_file
from engine.spec.types import Binding, Client, Drop
from engine.spec.violations import bundled

PLACE = ("actions", "x", "record")
EVENT: dict[str, Any] = {
    "name": "Ana",
    "price": Decimal("10.50"),
    "n": 5,
    "no": False,
    "empty": "",
    "none": [],
    "nothing_in": {},
    "kind": "b",
    "items": [{"id": "a", "q": 1}, {"id": "b"}, {"q": 3}],
    "extra": {"x": 1, "y": "2", "z": None},
}


def tree(text: str) -> Any:
    located = read(text, "f")
    assert located.findings == []
    return located.data


def mapped(text: str, event: dict[str, Any] | None = None, drop: Drop | None = None, **scope: Any) -> Any:
    compiler = Compiler()
    run = compile_tree(compiler, tree(text), MAPPED, PLACE, drop)
    assert compiler.problems == []
    return run({"event": EVENT if event is None else event, **scope})


def problems(text: str) -> list[Problem]:
    compiler = Compiler()
    compile_tree(compiler, tree(text), MAPPED, PLACE)
    return compiler.problems


def problem(text: str) -> tuple[str, str, str]:
    [found] = problems(text)
    assert found.place[: len(PLACE)] == PLACE
    return found.rule, found.message, found.hint


def fault(text: str, event: dict[str, Any] | None = None) -> str:
    with pytest.raises(BadValue) as raised:
        mapped(text, event)
    return str(raised.value)


# --- rule 5: absent leaves vanish, a written null is sent ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{A: '${ event.name }', B: '${ event.gone }'}", {"A": "Ana"}),
        ("{A: '${ event.name }', B: {C: '${ event.gone }', D: {E: '{{ event.gone }}'}}}", {"A": "Ana"}),
        ("{A: '${ event.gone }'}", None),
        ("{A: {}, B: []}", {"A": {}, "B": []}),
        ("{A: null, B: {C: null}}", {"A": None, "B": {"C": None}}),
        ("{A: ['${ event.gone }', null, 1]}", {"A": [None, 1]}),
        ("{A: ['${ event.gone }', {B: '${ event.gone }'}]}", None),
        ("['${ event.name }', '${ event.gone }']", ["Ana"]),
        (
            "{A: '${ event.no }', B: '${ event.empty }', C: '${ event.none }', D: '${ event.nothing_in }'}",
            {"A": False, "B": "", "C": [], "D": {}},
        ),
        ("{A: 0, B: '', C: '007', D: 1.50, E: true}", {"A": 0, "B": "", "C": "007", "D": Decimal("1.50"), "E": True}),
        ("null", None),
        ("{}", {}),
        ("'${ event.price }'", Decimal("10.50")),
    ],
)
def test_absent_leaves_vanish_with_what_is_then_empty_and_a_written_null_is_sent(text: str, expected: Any) -> None:
    assert mapped(text) == expected


def test_drop_says_what_else_is_left_out() -> None:
    text = (
        "{A: null, B: '', C: '${ event.empty }', D: '${ event.none }', E: '${ event.nothing_in }', F: {G: null}, H: 0}"
    )
    kept: dict[str, Any] = {"A": None, "B": "", "C": "", "D": [], "E": {}, "F": {"G": None}, "H": 0}
    assert mapped(text) == kept
    assert mapped(text, drop=Drop(null="drop")) == {"B": "", "C": "", "D": [], "E": {}, "H": 0}
    assert mapped(text, drop=Drop(text="drop")) == {"A": None, "D": [], "E": {}, "F": {"G": None}, "H": 0}
    assert mapped(text, drop=Drop(list="drop", object="drop")) == {
        "A": None,
        "B": "",
        "C": "",
        "F": {"G": None},
        "H": 0,
    }
    assert mapped(text, drop=Drop(null="drop", text="drop", list="drop", object="drop")) == {"H": 0}


def test_a_block_has_its_own_drop_and_gives_it_back() -> None:
    text = """
    A: {$drop: {text: drop, null: drop}, do: {B: "${ event.empty }", C: null, D: 1, E: {$drop: {}, do: {F: null}}}}
    G: "${ event.empty }"
    """
    assert mapped(text) == {"A": {"D": 1, "E": {"F": None}}, "G": ""}
    assert problem("{A: {$drop: {text: perhaps, nope: 1}, do: 1}}")[0] == "directive"


# --- rule 8: structure is YAML ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # $if
        ("{$if: '${ event.name }', then: {A: 1}, else: {A: 2}}", {"A": 1}),
        ("{$if: '${ event.no }', then: {A: 1}, else: {A: 2}}", {"A": 2}),
        ("{A: {$if: '${ event.no }', then: 1}, B: 2}", {"B": 2}),
        ("{A: {$if: '${ event.name }', then: null}}", {"A": None}),
        ("{A: {$if: '${ event.name }', then: '${ event.gone }', else: 1}}", None),
        ("{A: {$if: '${ upper(event.items) }', then: 1, else: 2}}", {"A": 2}),
        (
            "{A: {$if: true, then: {$if: '${ event.gone }', then: 1, else: {$if: '${ event.n > `4` }', then: 3}}}}",
            {"A": 3},
        ),
        # $switch
        ("{A: {$switch: '${ event.kind }', cases: {a: 1, b: 2}, default: 3}}", {"A": 2}),
        ("{A: {$switch: '${ event.n }', cases: {'5': five}}}", {"A": "five"}),
        ("{A: {$switch: '${ event.no }', cases: {'false': 'is off'}}}", {"A": "is off"}),
        ("{A: {$switch: '${ event.gone }', cases: {a: 1}, default: 3}}", {"A": 3}),
        ("{A: {$switch: '${ event.items }', cases: {a: 1}, default: 3}}", {"A": 3}),
        ("{A: {$switch: '${ event.gone }', cases: {a: 1}}}", None),
        ("{A: {$switch: '${ event.kind }', cases: {}, default: 3}}", {"A": 3}),
        ("{A: {$switch: '${ event.kind }', cases: {b: null}}}", {"A": None}),
        # $rename
        (
            "{A: {$rename: {B: '${ event.name }', C: 2, D: 3, E: '${ event.gone }'}, by: {C: c_1, B: 17, E: e}}}",
            {"A": {"17": "Ana", "c_1": 2}},
        ),
        ("{A: {$rename: '${ event.extra }', by: {x: one, y: one}}}", {"A": {"one": "2"}}),
        ("{A: {$rename: {B: {C: null}, D: null}, by: {B: b, D: d}}}", {"A": {"b": {"C": None}, "d": None}}),
        ("{A: {$rename: {B: 1}, by: '${ event.gone }'}, D: 1}", {"D": 1}),
        ("{A: {$rename: {B: 1}, by: {C: c}}, D: 1}", {"D": 1}),
        ("{A: {$all: {B: {$rename: {C: '${ event.gone }', D: 1}, by: {C: c, D: d}}}}}", {"A": {"B": {"d": 1}}}),
        # $each
        ("{A: {$each: '${ event.items }', do: '${ item.id }'}}", {"A": ["a", "b"]}),
        (
            "{A: {$each: '${ event.items }', as: it, where: '${ it.q }', do: {Id: '${ it.id }', N: '${ index }'}}}",
            {"A": [{"Id": "a", "N": 0}, {"N": 2}]},
        ),
        (
            "{A: {$each: '${ event.items }', as: a, do: {$each: '${ event.items }', as: b, do: '{{ a.id }}{{ b.id }}'}}}",
            {"A": [["aa", "ab"], ["ba", "bb"]]},
        ),
        ("{A: {$each: '${ event.gone }', do: 1}, B: 1}", {"B": 1}),
        ("{A: {$each: '${ event.none }', do: 1}}", None),
        ("{A: {$each: '${ event.items }', do: null}}", {"A": [None, None, None]}),
        ("{A: {$each: ['x', '${ event.gone }', 'y'], do: '{{ item }}{{ index }}'}}", {"A": ["x0", "y1"]}),
        # $merge
        (
            "{$merge: [{A: 1, B: 1}, {$if: '${ event.gone }', then: {C: 1}}, {B: 2}, '${ event.extra }']}",
            {"A": 1, "B": 2, "x": 1, "y": "2", "z": None},
        ),
        ("{A: {$merge: ['${ event.gone }', {B: '${ event.gone }'}]}}", None),
        # $rest
        ("{A: {$rest: '${ event.extra }', except: [x]}}", {"A": {"y": "2", "z": None}}),
        ("{A: {$rest: '${ event.extra }', only: [x, gone]}}", {"A": {"x": 1}}),
        ("{A: {$rest: '${ event.extra }', only: [gone]}}", None),
        ("{A: {$rest: '${ event.gone }'}}", None),
        (
            "{$merge: [{$rest: '${ event }', except: [used, items, none, nothing_in, extra]}, {N: '{{ event.name }}{{ event.n }}'},"
            " {K: '${ upper(event.kind) }'}]}",
            {"price": Decimal("10.50"), "no": False, "empty": "", "N": "Ana5", "K": "B"},
        ),
        (
            "{A: '${ event.extra.x }', B: {$rest: '${ event.extra }', except: [used]}}",
            {"A": 1, "B": {"y": "2", "z": None}},
        ),
        (
            "{B: {$rest: '${ event.extra }', except: [used]}, A: '{{ event.extra.y }}'}",
            {"B": {"x": 1, "z": None}, "A": "2"},
        ),
        # $entries
        (
            "{A: {$entries: '${ event.extra }'}}",
            {"A": [{"key": "x", "value": 1}, {"key": "y", "value": "2"}, {"key": "z", "value": None}]},
        ),
        (
            "{A: {$entries: {P: '${ event.name }', Q: '${ event.gone }'}, key: id, value: val}}",
            {"A": [{"id": "P", "val": "Ana"}]},
        ),
        ("{A: {$entries: {p: 1, q: 2}, by: {p: 17}}}", {"A": [{"key": "17", "value": 1}]}),
        ("{A: {$entries: '${ event.gone }'}}", None),
        # $object
        (
            "{A: {$object: [{key: '{{ event.kind }}1', value: '${ event.n }'}, {key: c, value: null}, {key: d, value: '${ event.gone }'}]}}",
            {"A": {"b1": 5, "c": None}},
        ),
        ("{A: {$object: [{key: '${ event.gone }', value: 1}]}}", None),
        (
            "{A: {$object: {$each: '${ event.items }', do: {key: '${ item.id }', value: '${ item.q }'}}}}",
            {"A": {"a": 1}},
        ),
        ("{A: {$object: {$each: '${ event.gone }', do: {key: a, value: 1}}}}", None),
        # $rows
        ("{A: {$rows: [{a: 1, b: 2}, {b: 4, a: 3}]}}", {"A": {"columns": ["a", "b"], "rows": [[1, 2], [3, 4]]}}),
        ("{A: {$rows: [{a: 1}], columns: names, rows: data}}", {"A": {"names": ["a"], "data": [[1]]}}),
        ("{A: {$rows: '${ event.none }'}}", None),
        # $all
        ("{A: {$all: {Id: '${ event.n }', V: '${ event.name }'}}}", {"A": {"Id": 5, "V": "Ana"}}),
        ("{A: {$all: {Id: '${ event.gone }', V: '${ event.name }'}}, B: 1}", {"B": 1}),
        ("{A: {$all: {X: {Y: ['{{ event.gone }}']}, V: 1}}}", None),
        ("{A: {$all: {V: '${ event.n }', W: null}}}", {"A": {"V": 5, "W": None}}),
        ("{A: {$all: {V: 1, W: {$if: '${ event.gone }', then: 1}}}}", None),
        ("{A: {$all: {V: 1, W: {$if: '${ event.n }', then: '${ event.gone }'}}}}", None),
        ("{A: {$all: {V: 1, W: {$lines: ['${ event.gone }', 'x']}}}}", {"A": {"V": 1, "W": "x"}}),
        ("{A: {$all: {V: 1, W: {$lines: ['${ event.gone }']}}}}", None),
        ("{A: {$all: {V: 1, W: {$each: '${ event.items }', do: '${ item.id }'}}}}", {"A": {"V": 1, "W": ["a", "b"]}}),
        ("{A: {$all: {V: 1, W: {$each: '${ event.gone }', do: 1}}}}", None),
        ("{A: {$all: {V: 1, W: {$all: {X: '${ event.gone }'}}}}}", None),
        (
            "{A: {$each: '${ event.items }', do: {$all: {i: '${ item.id }', q: '${ item.q }'}}}}",
            {"A": [{"i": "a", "q": 1}]},
        ),
        ("{A: {$all: {V: 1, W: {$keep: {X: '${ event.gone }'}}}}}", {"A": {"V": 1, "W": {}}}),
        # $lines
        (
            "{A: {$lines: ['x {{ event.name }}', '{{ event.gone }}', '${ event.price }', null, '']}}",
            {"A": "x Ana\n10.50\n"},
        ),
        ("{A: {$lines: ['${ event.gone }']}}", None),
        # $json
        (
            "{A: {$json: {B: '${ event.price }', C: ['{{ event.name }}'], D: null}}}",
            {"A": '{"B":10.50,"C":["Ana"],"D":null}'},
        ),
        ("{A: {$json: {B: '${ event.gone }'}}}", None),
        ("{A: {$json: null}}", {"A": "null"}),
        # $literal, $$
        ("{A: {$literal: {$if: '${ event.name }', b: '{{ x }}'}}}", {"A": {"$if": "${ event.name }", "b": "{{ x }}"}}),
        ("{A: {$literal: '${ event.name }'}}", {"A": "${ event.name }"}),
        ("{A: {$literal: null}, B: {$literal: 5}, C: {$literal: []}}", {"A": None, "B": 5, "C": []}),
        ("{$$if: 1, $$$x: 2}", {"$if": 1, "$$x": 2}),
        # $keep
        ("{A: {$keep: {B: '${ event.gone }'}}}", {"A": {}}),
        ("{A: {$keep: ['${ event.gone }']}}", {"A": []}),
        ("{A: {$keep: {$each: '${ event.gone }', do: '${ item }'}}}", {"A": []}),
        ("{A: {$keep: {$entries: '${ event.gone }'}}}", {"A": []}),
        ("{A: {$keep: {$if: '${ event.gone }', then: [1]}}}", {"A": []}),
        ("{A: {$keep: {$switch: '${ event.gone }', cases: {a: {$each: '${ event.items }', do: 1}}}}}", {"A": []}),
        ("{A: {$keep: {$drop: {}, do: ['${ event.gone }']}}}", {"A": []}),
        ("{A: {$keep: {$merge: ['${ event.gone }']}}}", {"A": {}}),
        ("{A: {$keep: {B: '${ event.n }'}}}", {"A": {"B": 5}}),
        # a written null comes through every directive that passes a value on
        (
            "{A: [{$if: true, then: null}, {$keep: {$if: true, then: null}}, {$all: {$if: true, then: null}}, {$drop: {}, do: null}]}",
            {"A": [None, None, None, None]},
        ),
        (
            "{A: {$with: {args: {}, do: {$if: true, then: null}}}, B: {$with: {args: {}, do: null}}}",
            {"A": None, "B": None},
        ),
        # $with
        (
            "{A: {$with: {args: {n: '${ event.n }', m: '${ event.gone }'}, do: {B: '${ args.n }', C: '{{ args.m }}', D: '{{ args.n }}!'}}}}",
            {"A": {"B": 5, "D": "5!"}},
        ),
        ("{A: {$with: {args: {}, do: '${ args.n }'}}, B: 1}", {"B": 1}),
        (
            "{A: {$with: {args: {n: 1}, do: {$with: {args: {m: '${ args.n }'}, do: {B: '${ args.m }', C: '${ args.n }'}}}}}}",
            {"A": {"B": 1}},
        ),
        (
            "{A: {$each: '${ event.items }', do: {$with: {args: {i: '${ item.id }'}, do: '<{{ args.i }}>'}}}}",
            {"A": ["<a>", "<b>"]},
        ),
    ],
)
def test_a_directive_gives(text: str, expected: Any) -> None:
    found = mapped(text)
    assert found == expected
    assert encode_json(found) == encode_json(expected)


def test_soql_escapes_each_value_by_itself() -> None:
    text = '{$soql: "SELECT {{ event.f | name }} FROM C WHERE E IN {{ event.l }} AND N = {{ event.n }} AND Z LIKE {{ event.z | like }}"}'
    event = {"f": "Owner.Name", "l": ["o'x", 'a"\\'], "n": 5, "z": "50%_"}
    assert mapped(text, event) == (
        "SELECT Owner.Name FROM C WHERE E IN ('o\\'x','a\\\"\\\\') AND N = 5 AND Z LIKE '%50\\%\\_%'"
    )


def test_soql_says_what_can_not_stand_in_a_query() -> None:
    at = "actions.x.record: "
    assert fault("{$soql: 'x = {{ event.gone }}'}") == at + "event.gone is absent"
    assert fault("{$soql: 'x IN {{ event.none }}'}") == at + "event.none is an empty list"
    assert fault("{$soql: 'x = {{ event.extra }}'}") == at + "event.extra is object and can't stand in a text"
    assert fault("{$soql: 'SELECT {{ event.name | name }}'}", {"name": "Id FROM x"}) == (
        at + "a name in a query has letters, digits and _ only"
    )
    assert problem("{$soql: \"x = '{{ event.name }}'\"}") == (
        "query-quotes",
        "a hole inside quotes",
        "write {{ … }} without quotes; it brings its own",
    )
    assert problem("{$soql: '${ event.name }'}")[:2] == ("query", "a query is a text with holes, each escaped")
    assert problem("{$soql: [1]}")[1] == "$soql takes a text"


# --- $html: a value never becomes markup ---

HTML: list[tuple[str, Any, str | None]] = [
    ("<b>{{ event.x }}</b>", "<i>\"'&", "<b>&lt;i&gt;&quot;&#x27;&amp;</b>"),
    ('<b title="{{ event.x }}">a < b</b>', '" onclick="', '<b title="&quot; onclick=&quot;">a < b</b>'),
    ("<b>{{ event.x | upper }} {{ event.n }}</b>", "<i>", "<b>&lt;I&gt; 1.50</b>"),
    ('<a href="{{ event.x }}">', "HTTPS://a.example/?b=1&c", '<a href="HTTPS://a.example/?b=1&amp;c">'),
    ('<a href="{{ event.x }}">', "mailto:ana@example.com", '<a href="mailto:ana@example.com">'),
    ('<a href="{{ event.x }}">', "javascript:alert(1)", '<a href="#">'),
    ('<a href="{{ event.x }}">', " javascript:alert(1)", '<a href="#">'),
    ('<a href="{{ event.x }}">', "java\nscript:alert(1)", '<a href="#">'),
    ('<a href="{{ event.x }}">', "www.example.com", '<a href="#">'),
    ('<img src="{{ event.x }}">', "data:text/html,<b>", '<img src="#">'),
    (
        '<a href="https://a.example/{{ event.x }}?q={{ event.x }}">',
        "b/c?d",
        '<a href="https://a.example/b%2Fc%3Fd?q=b%2Fc%3Fd">',
    ),
    ('<a href="mailto:{{ event.x }}">', "ana@example.com?cc=x", '<a href="mailto:ana@example.com%3Fcc%3Dx">'),
    ("{% for one in event.l %}<li>{{ one }}</li>{% endfor %}", "", "<li>&lt;</li><li>b</li>"),
    ("<p>{% if event.x %}<i>{{ event.x }}</i>{% else %}none{% endif %}</p>", ">", "<p><i>&gt;</i></p>"),
    ("<b>{{ event.gone }}</b>", "", None),
    ("<p>no hole</p>", "", "<p>no hole</p>"),
]


@pytest.mark.parametrize(("text", "value", "expected"), HTML)
def test_html_escapes_each_value_for_its_place(text: str, value: Any, expected: str | None) -> None:
    compiler = Compiler()
    run = compile_tree(compiler, {"$html": text}, MAPPED, PLACE)
    assert compiler.problems == []
    assert run({"event": {"x": value, "n": Decimal("1.50"), "l": ["<", "b"]}}) == expected


def test_lines_of_html_leave_out_those_that_lack_a_value() -> None:
    text = "{$lines: [{$html: '<b>{{ event.name }}</b>'}, {$html: '<i>{{ event.gone }}</i>'}, {$html: '<u>{{ event.n }}</u>'}]}"
    assert mapped(text) == "<b>Ana</b>\n<u>5</u>"
    assert (
        fault("{$html: '<b>{{ event.items }}</b>'}")
        == "actions.x.record: event.items is list and can't stand in a text"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<{{ event.x }}>", "a hole in the name of a tag"),
        ("</{{ event.x }}>", "a hole in the name of a tag"),
        ("<b{{ event.x }}>", "a hole in the name of a tag"),
        ("<b {{ event.x }}>", "a hole in a tag, outside of quotes"),
        ('<b a="1"{{ event.x }}>', "a hole in a tag, outside of quotes"),
        ("<b a{{ event.x }}>", "a hole in the name of an attribute"),
        ("<b a={{ event.x }}>", "a hole in an attribute without quotes"),
        ("<b a=b{{ event.x }}>", "a hole in an attribute without quotes"),
        ("<b a='{{ event.x }}'>", "a hole in an attribute in single quotes"),
        ("<!-- {{ event.x }} -->", "a hole in a comment"),
        ("<!{{ event.x }}>", "a hole in a comment"),
        ("<?{{ event.x }}>", "a hole in a comment"),
        ("<script>{{ event.x }}</script>", "a hole in <script>"),
        ("<SCRIPT >a</b>{{ event.x }}</SCRIPT>", "a hole in <script>"),
        ("<script><!--</script>{{ event.x }}", "a hole in <script>"),
        ("<style>{{ event.x }}</style>", "a hole in <style>"),
        ("<title>{{ event.x }}</title>", "a hole in <title>"),
        ('<b onclick="{{ event.x }}">', "a hole in onclick, which is more than a text"),
        ('<b STYLE="a:{{ event.x }}">', "a hole in style, which is more than a text"),
        ('<iframe srcdoc="{{ event.x }}">', "a hole in srcdoc, which is more than a text"),
        ('<a href="javascript:{{ event.x }}">', "a hole in the beginning of a link (href)"),
        ('<a href="https://{{ event.x }}">', "a hole in the beginning of a link (href)"),
        ('<a xlink:href="//{{ event.x }}">', "a hole in the beginning of a link (xlink:href)"),
        ("{{ event.x | html }}", "escaped twice: a hole of $html is escaped by itself"),
        ("<b{% if event.x %}>{% endif %}", "the branches of {% if %} end in different parts of the html"),
        ("{% for y in event.x %}<b{% endfor %}", "the rounds of {% for %} begin in different parts of the html"),
        ("<b>{{ event.x }}</b", "the text ends inside of the name of a tag"),
        ("<b title='", "the text ends inside of an attribute in single quotes"),
        ("${ event.x }", "HTML is a text with holes, each escaped"),
    ],
)
def test_a_hole_elsewhere_in_html_is_a_finding(text: str, says: str) -> None:
    compiler = Compiler()
    compile_tree(compiler, {"A": {"$html": text}}, MAPPED, PLACE)
    assert [(one.place, one.rule, one.message) for one in compiler.problems] == [((*PLACE, "A"), "html-hole", says)]


# --- what authors get wrong ---


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("{A: {$iff: 1, then: 2}}", "unknown directive $iff", 'did you mean "$if"?'),
        ("{A: {$nonsense: 1}}", "unknown directive $nonsense", "$literal keeps a map as it is"),
        ("{A: {$if: 1, than: 2}}", "than does not belong beside $if", "beside $if: else, then"),
        ("{A: {$merge: [], B: 1}}", "B does not belong beside $merge", "beside $merge: no other key"),
        ("{A: {$if: 1}}", "$if needs then", ""),
        ("{A: {$switch: 1}}", "$switch needs cases, a map from value to what it gives", ""),
        ("{A: {$each: []}}", "$each needs do, what each item gives", ""),
        ("{A: {$each: [], as: event, do: 1}}", "as: event hides the event of the context", "choose another name"),
        ("{A: {$each: [], as: 'a b', do: 1}}", "as: is a name, such as item", ""),
        ("{A: {$merge: {B: 1}}}", "$merge takes a list", ""),
        ("{A: {$lines: x}}", "$lines takes a list", ""),
        ("{A: {$object: x}}", "$object takes a list", ""),
        ("{A: {$keep: x}}", "$keep takes a map or a list", "for a value write default"),
        ("{A: {$rest: '${ event }', except: name}}", "except and only take a list of names", "except: [used, name]"),
        ("{A: {$rest: {B: 1}, except: [used]}}", "except: [used] needs a path", "$rest: ${ event }"),
        ("{A: {$entries: {}, key: 5}}", "key and value are names, such as key: key", ""),
        ("{A: {$rename: {B: 1}}}", "$rename needs by, a map from the keys here to the names they get", ""),
        ("{A: {$html: [1]}}", "$html takes a text", ""),
        ("{A: {$rows: [], columns: [a]}}", "columns and rows are names, such as columns: columns", ""),
    ],
)
def test_a_directive_that_is_wrong_is_a_finding(text: str, message: str, hint: str) -> None:
    assert problems(text) == [Problem((*PLACE, "A"), "directive", message, hint)]


def test_a_finding_names_its_place_and_all_are_found() -> None:
    text = """
    A: "${ evnt.x }"
    B: [1, {C: "{{ event.x | nope }}"}]
    D: {$if: "${ event.a.b > 5 }", then: {"{{ event.k }}": 1}}
    E: {$each: "${ event.items }", where: "${ it }", do: "${ item.x[y] }"}
    """
    assert [(one.place[3:], one.rule) for one in problems(text)] == [
        (("A",), "name"),
        (("B", 1, "C"), "function"),
        (("D", "$if"), "syntax"),
        (("D", "then"), "key"),
        (("E", "where"), "name"),
        (("E", "do"), "syntax"),
    ]


def test_loop_names_end_with_their_loop() -> None:
    assert [one.message for one in problems("{A: {$each: [], do: '${ item }'}, B: '${ item }'}")] == [
        "item does not exist here; names here: client, delivery, derived, event, fields, lookups, received_at, settings, tables, "
        "vars"
    ]
    assert [one.rule for one in problems("{A: {$with: {args: {}, do: 1}}, B: '${ args.x }'}")] == ["name"]


def test_too_deep_a_tree_is_a_finding() -> None:
    deep: Any = "${ event.x }"
    for _ in range(40):
        deep = {"$each": "${ event.items }", "do": deep}
    compiler = Compiler()
    compile_tree(compiler, deep, MAPPED, PLACE)
    assert compiler.problems == [Problem(PLACE, "nesting", "nested too deeply", "take a part of it into vars")]


# --- a bad value knows its field ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{Subject: 'x {{ event.items }}'}", "record.Subject: event.items is list and can't stand in a text"),
        ("{A: [1, {B: '${ upper(event.n) }'}]}", "record.A[1].B: upper: "),
        ("{A: {$each: '${ event.items }', do: {B: '${ upper(item) }'}}}", "record.A.do.B: upper: "),
        ("{A: {$each: '${ event.name }', do: 1}}", "record.A: a list is needed, got text"),
        ("{A: {$merge: ['${ event.name }']}}", "record.A: $merge needs objects, got text"),
        ("{A: {$rest: '${ event.name }'}}", "record.A: $rest needs an object, got text"),
        ("{A: {$entries: '${ event.name }'}}", "record.A: $entries needs an object, got text"),
        ("{A: {$entries: {B: 1}, by: '${ event.name }'}}", "record.A: by needs an object, got text"),
        ("{A: {$object: [{key: 5, value: 1}]}}", "record.A: $object needs texts as keys"),
        ("{A: {$object: ['${ event.n }']}}", "record.A: $object needs a list of objects with key and value"),
        (
            "{A: {$object: {$each: '${ event.items }', do: '${ item.q }'}}}",
            "record.A: $object needs a list of objects with key and value",
        ),
        ("{A: {$rows: '${ event.items }'}}", "record.A: $rows needs objects with the same keys"),
        ("{A: {$rows: [1]}}", "record.A: $rows needs a list of objects"),
        ("{A: {$lines: ['${ event.items }']}}", "record.A: "),
        ("{A: {$if: true, then: {B: '${ upper(event.n) }'}}}", "record.A.then.B: upper: "),
        ("'${ upper(event.n) }'", "record: upper: "),
        ("{A: '{% for x in event.items %}{{ x }}{% endfor %}'}", "record.A: x is object and can't stand in a text"),
        ("{A: {$with: {args: {}, do: {B: '${ upper(event.n) }'}}}}", "record.A.$with.do.B: upper: "),
    ],
)
def test_a_bad_value_names_its_target_field(text: str, expected: str) -> None:
    assert fault(text).startswith("actions.x." + expected)


# --- rule 12: mapping is pure and repeatable ---


def test_the_same_row_gives_the_same_bytes_and_is_left_as_it_was() -> None:
    text = "{A: {$merge: ['${ event.extra }', {B: 1}]}, C: {$literal: {D: []}}, E: '${ event.items }'}"
    compiler = Compiler()
    run = compile_tree(compiler, tree(text), MAPPED, PLACE)
    event = {"extra": {"x": 1}, "items": [1]}
    first = encode_json(run({"event": event}))
    assert encode_json(run({"event": event})) == first == b'{"A":{"x":1,"B":1},"C":{"D":[]},"E":[1]}'
    assert event == {"extra": {"x": 1}, "items": [1]}


# --- any event, any connector: a record or a BadValue ---

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**39), 10**39),
        st.text(max_size=8),
        st.decimals(-1000, 1000, places=3),
        st.sampled_from(["a@b.c", "2024-05-01T10:00:00Z", "product_view", "1e5", "{{ x }}"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def programs() -> dict[str, Program]:
    found = {}
    for path in sorted(bundled("connectors").glob("*.yaml")):
        connector = load_connector(read_file(path, path.name))[0]
        assert connector is not None
        made_up = connector.sandbox.settings if connector.sandbox else {}
        binding = Binding(settings=made_up, actions={name: {"active": True} for name in connector.actions})
        found[connector.name] = Program(connector, Client(client="c", connectors={connector.name: binding}), binding)
    return found


PROGRAMS = programs()
EXAMPLES = [
    (name, event)
    for name, program in PROGRAMS.items()
    for example in program.connector.examples
    for event in example.events
]


def spoilt(event: dict[str, Any], draw: Any) -> dict[str, Any]:
    """The event with some of its values, deep inside, replaced by any JSON."""

    def walk(node: Any) -> Any:
        if draw(st.integers(0, 5)) == 0:
            return draw(JSON)
        if isinstance(node, dict):
            return {key: walk(child) for key, child in node.items()}
        return [walk(child) for child in node] if isinstance(node, list) else node

    return {key: walk(child) for key, child in event.items()}


@given(st.sampled_from(EXAMPLES), st.data())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_event_makes_a_mapping_raise_anything_but_a_bad_value(picked: tuple[str, Any], data: st.DataObject) -> None:
    name, event = picked
    program = PROGRAMS[name]
    body = encode_json(spoilt(event, data.draw))
    try:
        scope = program.row_scope(decode_event(body), 1_700_000_000.25)
    except BadValue as error:
        assert error.at.startswith("fields")  # noqa: PT017
        return
    for action in program.actions.values():
        action.when(scope)
        row = {
            **scope,
            "delivery": {"id": "d", "attempt": 1},
            "lookups": data.draw(st.sampled_from([{}, {"person": {"Id": "1"}}])),
        }
        try:
            row["vars"] = (action.vars(row) or {}) if action.vars is not None else {}
            encode_json(action.record(row))
            action.key(row)
        except BadValue as error:
            assert error.at.startswith(("actions.", "key"))  # noqa: PT017


def test_sql_doubles_quotes_and_takes_a_backslash_for_itself() -> None:
    text = '{$sql: "SELECT {{ event.f | name }} FROM C WHERE E IN {{ event.l }} AND N = {{ event.n }} AND Z LIKE {{ event.z | like }}"}'
    assert mapped(text, {"f": "Id", "l": ["o'b", "x\\"], "n": 1, "z": "5%_!'"}) == (
        "SELECT Id FROM C WHERE E IN ('o''b','x\\') AND N = 1 AND Z LIKE '%5!%!_!!''%' ESCAPE '!'"
    )


def test_in_sql_a_backslash_does_not_open_quotes_for_a_hole() -> None:
    assert mapped("{$sql: \"SELECT '\\\\' || {{ event.n }}\"}", {"n": "x"}) == "SELECT '\\' || 'x'"
