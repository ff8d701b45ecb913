from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import SpecErrors
from engine.spec.findings import Finding, in_file_order
from engine.spec.located import Located, Node, planted, read, read_file

LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request: pytest.FixtureRequest) -> Any:
    return request.param


def found(text: bytes | str, loader: Any = None) -> list[str]:
    try:
        findings = read(text, "f", loader=loader).findings
    except SpecErrors as errors:
        findings = list(errors.findings)
    return [f"{finding.line}:{finding.column} {finding.rule}" for finding in findings]


def test_a_finding_is_one_line_an_editor_can_jump_to() -> None:
    finding = Finding(
        "connectors/rdstation.yaml", 4, 3, "unknown-key", "error", "auth.tokn: unknown key", 'did you mean "token"?'
    )
    assert str(finding) == 'connectors/rdstation.yaml:4:3: auth.tokn: unknown key; did you mean "token"? [unknown-key]'


def test_findings_sort_by_file_line_and_column_as_numbers() -> None:
    places = [("b", 1, 1), ("a", 10, 1), ("a", 9, 2), ("a", 9, 1), ("a", 9, 1)]
    ordered = in_file_order(Finding(file, line, column, "r", "error", "m") for file, line, column in places)
    assert [(each.file, each.line, each.column) for each in ordered] == [
        ("a", 9, 1),
        ("a", 9, 2),
        ("a", 10, 1),
        ("b", 1, 1),
    ]


def test_only_json_scalars_are_typed_and_numbers_are_exact(loader: Any) -> None:
    text = (
        'a: [true, false, null, 1, -7, 1299.90, 1e5, "1", true story, 2026-01-28, 120/1m, 1.2.3, -, =]\nb: {c: "yes"}\n'
    )
    located = read(text, "f", loader=loader)
    assert located.findings == []
    assert located.data == {
        "a": [
            True,
            False,
            None,
            1,
            -7,
            Decimal("1299.90"),
            Decimal("1e5"),
            "1",
            "true story",
            "2026-01-28",
            "120/1m",
            "1.2.3",
            "-",
            "=",
        ],
        "b": {"c": "yes"},
    }
    assert str(located.data["a"][5]) == "1299.90"


@pytest.mark.parametrize(
    "word",
    [
        "yes",
        "No",
        "ON",
        "off",
        "~",
        "12:30",
        "0777",
        "007",
        "1_000",
        ".5",
        "1.",
        "+5",
        "0x1F",
        "0o7",
        "0b1",
        "Null",
        "NULL",
        "TRUE",
        "False",
        ".nan",
        ".inf",
        "-.inf",
        "190:20:30",
    ],
)
def test_what_yaml_readers_disagree_on_must_be_quoted(word: str, loader: Any) -> None:
    located = read(f"a: {word}\n", "f", loader=loader)
    assert located.data == {"a": word}
    meant = "null" if word == "~" else word.lower()
    hint = f'write {meant}, or quote it: "{word}"' if meant in ("null", "true", "false") else f'quote it: "{word}"'
    assert [(finding.rule, finding.hint) for finding in located.findings] == [("unquoted", hint)]
    assert found(f"a: '{word}'\nb: |\n  {word}\n", loader) == []


def test_keys_are_always_text(loader: Any) -> None:
    assert read("on: a\n1: b\ntrue: c\nnull: d\n007: e\n", "f", loader=loader).data == {
        "on": "a",
        "1": "b",
        "true": "c",
        "null": "d",
        "007": "e",
    }


def test_every_key_and_value_knows_its_place(loader: Any) -> None:
    located = read('a:\n  - b\n  - é𝄞: {c: d}\n"k":   |\n  text\n', "f", loader=loader)
    assert located.mark(("a", 0)) == located.key_mark(("a", 0)) == (2, 5)
    assert located.key_mark(("a", 1, "é𝄞")) == (3, 5)
    assert located.mark(("a", 1, "é𝄞")) == (3, 9)
    assert located.mark(("a", 1, "é𝄞", "c")) == (3, 13)
    assert (located.key_mark(("k",)), located.mark(("k",))) == ((4, 1), (4, 8))
    assert located.mark(("a", 1, "not there", 3)) == (3, 5)
    assert located.source_line(2) == "  - b"
    assert located.source_line(99) == ""


def test_a_byte_order_mark_is_read_past(loader: Any) -> None:
    located = read("\ufeffa: {b: c}\r\nd: 1\r\n".encode(), "f", loader=loader)
    assert located.data == {"a": {"b": "c"}, "d": 1}
    assert located.key_mark(("a",)) == (1, 1)
    assert located.source_line(1) == "a: {b: c}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x 1\nb: *x\n", ["1:4 anchor", "2:4 anchor"]),
        ("*x : 1\n", ["1:1 anchor"]),
        ("a: !!str 1\nb: !thing {c: 1}\n", ["1:4 tag", "2:4 tag"]),
        ("a: 1\n<<: {b: 1}\n", ["2:1 merge-key"]),
        ("a: 1\nb: {c: 1, c: 2}\na: 3\n", ["2:11 duplicate-key", "3:1 duplicate-key"]),
        ("a: 1\n---\nb: 2\n", ["2:1 second-document"]),
        ("a:\nb: {c: d, e}\n", ["1:3 empty-value", "2:12 empty-value"]),
        ("", ["1:1 empty"]),
        ("# only this\n", ["1:1 empty"]),
        ("? [a, b]\n: c\n", ["1:3 syntax"]),
        ("a:\n\tb: 1\n", ["2:1 tab"]),
        ("a: 'never\n\nclosed\n", ["1:4 syntax"]),
        ("a: b: c\n", ["1:5 syntax"]),
        ("a: @home\n", ["1:4 syntax"]),
        ('a: "b" c\n', ["1:8 syntax"]),
        ("a: 1" + "0" * 50 + "\n", ["1:4 number"]),
        ("a: 1e999999999999\n", ["1:4 number"]),
        ("[" * 65 + "]" * 65, ["1:65 too-deep"]),
    ],
)
def test_what_this_yaml_does_not_have_is_a_finding_at_its_place(text: str, expected: list[str], loader: Any) -> None:
    assert found(text, loader) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: ${ x\n", ["1:4 unclosed"]),
        ("a: Viewed {{ x\n", ["1:4 unclosed"]),
        ("a: ${ x == 'b #c' }\n", ["1:4 unclosed"]),
        ("a: Viewed {{ x #y }}\n", ["1:4 unclosed"]),
        ("a: {b: ${ x }}\n", ["1:8 flow-expression"]),
        ("a: [b, ${ x }]\n", ["1:8 flow-expression"]),
        ("a: {{ x }}\n", ["1:4 flow-expression"]),
        ("a: {{ x }} tail\n", ["1:4 flow-expression"]),
        ("a: {b: {{ x | f('a', 1) }}}\n", ["1:8 flow-expression"]),
        ("- {{ x }}\n", ["1:3 flow-expression"]),
        ("a: ${ {b: c} }\n", ["1:4 flow-expression"]),
        ('a: ${ x } # a comment\nb: Viewed {{ x }}\nc: "${ y #z }"\nd: [\'{{ z }}\', "{{ a: b }}"]\n', []),
    ],
)
def test_an_expression_that_yaml_would_tear_apart_is_told_to_be_quoted(
    text: str, expected: list[str], loader: Any
) -> None:
    assert found(text, loader) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a: 1\nb: caf\xe9\n", "f:2:7: byte 0xe9 is not UTF-8; save it as UTF-8 [encoding]"),
        (b"\xff\xfea\x00", "f:1:1: byte 0xff is not UTF-8; save it as UTF-8 [encoding]"),
        (b"a: 1\nb: \x00\n", "f:2:4: the character U+0000 cannot stand in a YAML file [encoding]"),
        (b"a: " + b"x" * 10_000_000, "f:1:1: the file is larger than 1 MB [too-large]"),
        (b"[" * 100_000, "f:1:1001: nested more than 64 levels deep [too-deep]"),
    ],
    ids=["latin-1", "utf-16", "nul", "ten megabytes", "brackets"],
)
def test_what_is_no_text_is_one_finding(raw: bytes, expected: str) -> None:
    with pytest.raises(SpecErrors) as caught:
        read(raw, "f")
    assert str(caught.value) == expected


def test_a_directory_and_a_missing_file_are_findings(tmp_path: Path) -> None:
    for path, says in [(tmp_path, "a directory, where a file is wanted"), (tmp_path / "x", "can't be read: no such")]:
        with pytest.raises(SpecErrors) as caught:
            read_file(path, "f")
        assert str(caught.value).startswith(f"f:1:1: {says}")


def test_a_tree_can_be_changed_and_keeps_the_places_of_its_parts() -> None:
    located = read("a: {b: 1}\nc: 2\n", "f")
    root = located.root.changed({"x": located.root.value["a"], "y": planted({"z": [3]}, (9, 9))}, {"x": (1, 1)})
    grown: Located = located.grown(root)
    assert grown.data == {"x": {"b": 1}, "y": {"z": [3]}}
    assert (grown.mark(("x", "b")), grown.key_mark(("x",)), grown.mark(("y", "z", 0))) == ((1, 8), (1, 1), (9, 9))
    assert located.data == {"a": {"b": 1}, "c": 2}
    assert isinstance(root, Node)


@pytest.mark.parametrize("good", ["${ a }", "${ a }   # why", "${ a } and more"])
def test_an_expression_that_is_fine_is_not_blamed_for_the_line_below_it(good: str, loader: Any) -> None:
    assert found(f"a:\n  b: {good}\n\t  c: 1\n", loader) == ["3:1 tab"]
    assert found(f"a:\n  b: {good}\n  c: @x\n", loader) == ["3:6 syntax"]
