from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engine.errors import UsageError
from engine.spec.findings import Finding
from engine.spec.report import described, report, summary


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("connect: 1\nauth:\n  tokn: x # ação\n" + "long: " + "y" * 200 + "\nbell: \a\n")
    return "a.yaml"


def found(file: str, line: int = 3, column: int = 3, **other: str) -> Finding:
    given = {"rule": "unknown-key", "severity": "error", "message": "auth.tokn: unknown key", **other}
    return Finding(file, line, column, given.pop("rule"), **given)  # type: ignore[arg-type]


def test_text_shows_the_line_a_caret_and_what_to_write(file: str) -> None:
    findings = [
        found(file, hint='did you mean "token"?'),
        found(file, 1, 1, rule="hole", severity="warning", message="m"),
    ]
    assert report(findings, "text", files=7).splitlines() == [
        "a.yaml:3:3: auth.tokn: unknown key [unknown-key]",
        "    tokn: x # ação",
        "    ^",
        '    did you mean "token"?',
        "    fixable: run `connect validate --fix`",
        "",
        "a.yaml:1:1: warning: m [hole]",
        "    connect: 1",
        "    ^",
        "",
        "1 error, 1 warning in 7 files",
    ]


def test_text_keeps_to_80_columns_and_shows_the_part_of_a_long_line_around_the_caret(file: str) -> None:
    said = report([found(file, 4, 150, message="word " * 40)], "text", files=1)
    assert max(map(len, said.splitlines())) <= 80
    shown, caret = (line for line in said.splitlines() if line.strip().startswith(("y", "^")))
    assert shown[len(caret) - 1] == "y"


def test_text_has_no_control_character_of_a_file_and_colours_only_on_a_terminal(file: str) -> None:
    finding = found(file, 5, 7, message="bell: \x1b[31m \a")
    assert not {"\x1b", "\a"} & set(report([finding], "text", files=1))
    assert report([finding], "text", files=1, tty=True).startswith("\x1b[31m")


def test_a_line_that_is_not_there_is_not_shown() -> None:
    assert report([found("gone.yaml")], "text", files=1).splitlines() == [
        "gone.yaml:3:3: auth.tokn: unknown key [unknown-key]",
        "",
        "1 error in 1 file",
    ]


def test_lines_that_may_hold_a_secret_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "client: c\ningest: {keys: [hunter1]}\nconnectors:\n  x:\n    secrets:\n      a: hunter2\n"
        "      b: |\n        hunter3\n    settings: {a: hunter0}\n"
    )
    said = report([found(str(file), line, 7) for line in range(1, 10)], "text", files=1)
    assert [f"hunter{number}" in said for number in range(4)] == [True, False, False, False]


def test_nothing_found_is_said_in_one_line() -> None:
    assert report([], "text", files=2) == summary([], files=2) == "no findings in 2 files"


def test_github_annotations_escape_what_would_end_them() -> None:
    finding = found("a,b.yaml", message="50% of\nall", hint="so")
    assert report([finding], "github", files=1) == (
        "::error file=a%2Cb.yaml,line=3,col=3,title=unknown-key::50%25 of%0Aall; so"
    )


def test_json_has_the_fields_of_a_finding_and_the_edits_that_mend_it(file: str) -> None:
    findings = [found(file, hint='did you mean "token"?'), found("é.yaml", hint="h")]
    assert json.loads(report(findings, "json", files=1)) == {
        "findings": [
            {
                "file": name,
                "line": 3,
                "column": 3,
                "rule": "unknown-key",
                "severity": "error",
                "message": "auth.tokn: unknown key",
                "hint": hint,
                "fix": fix,
            }
            for name, hint, fix in (
                ("a.yaml", 'did you mean "token"?', [{"line": 3, "column": 3, "old": "tokn", "new": "token"}]),
                ("é.yaml", "h", []),
            )
        ]
    }


SARIF = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0-rtm.5.json").read_text())


def sarif(findings: list[Finding]) -> Any:
    """The one run; the whole is held against the published schema (its descriptions are left out there)."""
    log = json.loads(report(findings, "sarif", files=2))
    jsonschema.validate(log, SARIF, format_checker=jsonschema.FormatChecker())
    assert (log["version"], len(log["runs"])) == ("2.1.0", 1)
    return log["runs"][0]


@pytest.mark.usefixtures("file")
def test_sarif_without_findings_is_a_run_without_results() -> None:
    assert sarif([])["results"] == []


@pytest.mark.usefixtures("file")
def test_sarif_lists_each_rule_once_and_points_to_it() -> None:
    run = sarif([found("a b.yaml"), found("/x/c.yaml", rule="hole", severity="warning"), found("a b.yaml", 4)])
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["hole", "unknown-key"]
    assert [(each["ruleId"], each["ruleIndex"], each["level"]) for each in run["results"]] == [
        ("unknown-key", 1, "error"),
        ("hole", 0, "warning"),
        ("unknown-key", 1, "error"),
    ]


@pytest.mark.usefixtures("file")
def test_sarif_addresses_are_from_the_directory_of_the_run_and_places_count_from_1() -> None:
    inside = str(Path.cwd() / "deep" / "d.yaml")
    run = sarif([found("a b.yaml"), found(inside, 1, 1), found("/x/c.yaml")])
    assert list(run["originalUriBaseIds"]) == ["%SRCROOT%"]
    assert [each["locations"][0]["physicalLocation"] for each in run["results"]] == [
        {
            "artifactLocation": {"uri": "a%20b.yaml", "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": 3, "startColumn": 3},
        },
        {
            "artifactLocation": {"uri": "deep/d.yaml", "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": 1, "startColumn": 1},
        },
        {"artifactLocation": {"uri": "file:///x/c.yaml"}, "region": {"startLine": 3, "startColumn": 3}},
    ]


def test_sarif_describes_a_rule_as_the_language_page_does(file: str) -> None:
    rule = sarif([found(file, rule="mixed")])["tool"]["driver"]["rules"][0]
    assert rule == {
        "id": "mixed",
        "shortDescription": {"text": "`${ }` in the middle of a text."},
        "help": {
            "text": "`${ }` in the middle of a text. Write instead: `{{ path | function }}`",
            "markdown": "`${ }` in the middle of a text.\n\nWrite instead: `{{ path | function }}`",
        },
    }
    assert len(described()) > 80
    assert not [text for texts in described().values() for text in texts if "](" in text]


def test_sarif_has_the_edits_that_mend_a_finding(file: str) -> None:
    result = sarif([found(file, hint='did you mean "token"?')])["results"][0]
    assert result["fixes"] == [
        {
            "description": {"text": 'did you mean "token"?'},
            "artifactChanges": [
                {
                    "artifactLocation": {"uri": "a.yaml", "uriBaseId": "%SRCROOT%"},
                    "replacements": [
                        {
                            "deletedRegion": {"startLine": 3, "startColumn": 3, "endLine": 3, "endColumn": 7},
                            "insertedContent": {"text": "token"},
                        }
                    ],
                }
            ],
        }
    ]


def test_no_edit_shows_a_line_that_may_hold_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("client: c\nconnectors:\n  x:\n    secrets:\n      a: 0815\n    match: 0816\n")
    findings = [found(str(file), *place, rule="unquoted", hint="quote it") for place in ((5, 10), (6, 12))]
    for form in ("text", "json", "sarif"):
        assert "0815" not in report(findings, form, files=1)
        assert "0816" in report(findings, form, files=1)


def test_an_unknown_form_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="known are text, github, sarif, json"):
        report([], "xml", files=0)
