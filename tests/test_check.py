from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import SecretUnavailable, UsageError
from engine.spec.check import check, looked_at
from engine.spec.check.events import close
from engine.spec.check.rules import covers
from engine.spec.findings import Finding
from engine.spec.project import Project
from engine.spec.types import OutcomeRule
from engine.spec.violations import bundled

SPEC = Path(__file__).parent / "spec" / "check"
FILES = sorted(SPEC.glob("*.yaml"))
OURS = bundled("connectors").parent

CONNECTOR = """connect: 1
name: acme
title: Acme
hosts: [api.acme.example]
receive: {client: "${ event.tid }"}
http: {base_url: https://api.acme.example}
actions:
  note: {record: {a: "${ event.a }"}, request: {path: /a, json: "${ record }", expect: "${ response.body }"}}
examples:
  - name: a note
    events: [{tid: t, a: b}]
    exchange: [{sends: {path: /a}, answers: {body: {a: 1}}}]
    outcomes: {note: [delivered]}
"""
CLIENT = "client: {name}\ningest: {{keys: ['env:{name}']}}\nconnectors: {{acme: {{{rest}}}}}\n"


def said(finding: Finding) -> str:
    return (
        f"{finding.line}:{finding.column}: {'warning: ' if finding.severity == 'warning' else ''}{finding.message}"
        + (f"; {finding.hint} [{finding.rule}]" if finding.hint else f" [{finding.rule}]")
    )


def project(folder: Path, **files: str) -> Project:
    """Files by their path with / as __, such as clients__a."""
    for name, text in {"connectors__acme": CONNECTOR, **files}.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Project(folder)


def rules(findings: list[Finding]) -> list[tuple[str, int, str]]:
    return [(Path(finding.file).name, finding.line, finding.rule) for finding in findings]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_has_exactly_the_findings_it_ends_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SPEC)
    expected = [line.removeprefix("# expect: ") for line in path.read_text().splitlines() if line.startswith("# exp")]
    assert expected
    assert [said(finding) for finding in check(Project("."), [Path(path.name)])] == expected


def test_the_connectors_and_clients_that_come_with_the_engine_have_no_finding() -> None:
    assert check(Project(OURS)) == []


def test_strict_makes_a_warning_an_error(tmp_path: Path) -> None:
    acme = project(tmp_path, clients__a="client: a\nconnectors: {acme: {}}\n")
    assert [(each.rule, each.severity) for each in check(acme)] == [("no-key", "warning")]
    assert [(each.rule, each.severity) for each in check(acme, strict=True)] == [("no-key", "error")]


def test_two_clients_with_one_match_are_one_finding_that_names_both_places(tmp_path: Path) -> None:
    a, b = (CLIENT.format(name=name, rest="match: GA4.1") for name in "ab")
    acme = project(tmp_path, clients__a=a, clients__b=b)
    first, second = tmp_path / "clients/a.yaml", tmp_path / "clients/b.yaml"
    says = f"connectors.acme.match: events of acme with GA4.1 are also bound in {first}:3:28"
    assert check(acme) == [Finding(str(second), 3, 28, "duplicate-match", "error", says)]
    assert [each.file for each in check(acme, [first])] == [str(first)]
    assert check(acme, [tmp_path / "connectors"]) == []


def test_a_client_that_is_not_active_clashes_with_nobody(tmp_path: Path) -> None:
    a = CLIENT.format(name="a", rest="match: GA4.1")
    assert check(project(tmp_path, clients__a=a, clients__b=a.replace("client: a", "client: b\nactive: false"))) == []


def test_a_match_that_is_another_clients_name_is_a_clash(tmp_path: Path) -> None:
    a, b = CLIENT.format(name="a", rest=""), CLIENT.format(name="b", rest="match: a")
    assert rules(check(project(tmp_path, clients__a=a, clients__b=b))) == [("b.yaml", 3, "duplicate-match")]


def test_a_name_or_a_write_key_given_twice_is_a_clash(tmp_path: Path) -> None:
    a, b = CLIENT.format(name="a", rest=""), CLIENT.format(name="b", rest="").replace("env:b", "env:a")
    acme = project(tmp_path, clients__a=a, clients__b=b, clients__c=CLIENT.format(name="b", rest=""))
    assert rules(check(acme)) == [("b.yaml", 2, "duplicate-key"), ("c.yaml", 1, "duplicate-client")]


def test_a_secret_to_sign_with_is_as_good_as_a_key_and_as_much_its_own(tmp_path: Path) -> None:
    a, b = (CLIENT.format(name=name, rest="").replace("keys: ['env:b']", "signatures: ['env:a']") for name in "ab")
    acme = project(tmp_path, clients__a=a, clients__b=b)
    assert [(each.rule, each.line) for each in check(acme)] == [("duplicate-key", 2)]


def test_a_client_without_a_key_can_take_nothing_from_a_connector_that_reads_no_client(tmp_path: Path) -> None:
    silent = CONNECTOR.replace("receive: {client:", "receive: {id:")
    acme = project(tmp_path, connectors__acme=silent, clients__a="client: a\nconnectors: {acme: {}}\n")
    assert [(each.rule, each.severity) for each in check(acme)] == [("no-key", "error")]


def test_secrets_are_resolved_only_when_asked(tmp_path: Path) -> None:
    class Source:
        def resolve(self, reference: str) -> str:
            raise SecretUnavailable(f"{reference}: not set")

    acme = project(tmp_path, clients__a=CLIENT.format(name="a", rest=""))
    assert check(acme) == []
    assert [str(each).removeprefix(f"{tmp_path}/clients/") for each in check(acme, resolve=Source())] == [
        "a.yaml:2:17: ingest.keys[0]: env:a: not set [secret-unavailable]"
    ]


def test_no_finding_repeats_a_literal_secret() -> None:
    path = SPEC / "client-secret.yaml"
    assert "hunter" in path.read_text()
    assert not [each for each in check(Project(SPEC), [path]) if "hunter" in str(each)]


def test_a_path_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file or directory"):
        check(Project(tmp_path), [tmp_path / "nothing.yaml"])


def test_blocks_in_markdown_are_checked_with_the_lines_of_the_file(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n```yaml\nother: x\n```\n\n1. so\n\n   ```yaml\n   client: a\n   ingest: {keys: ['env:A']}\n"
        "   connectors: {acmee: {}}\n   ```\n\n"
        "~~~yaml\nconnect: 1\nname: x\ntitle: X\nhosts: [a.example.com]\nactions: {}\n~~~\n"
    )
    findings = check(project(tmp_path), [page])
    assert [(each.line, each.column, each.rule) for each in findings] == [
        (12, 17, "unknown-connector"),
        (20, 10, "value"),
    ]
    assert looked_at(project(tmp_path), [page]) == 1


def test_a_folder_is_searched_for_what_is_a_connector_or_a_client(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.yml").write_text("client: x\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "y.yaml").write_text("client: y\n")
    assert rules(check(Project("elsewhere"), [tmp_path])) == [("x.yml", 1, "missing-key")]


def test_connect_yaml_is_checked_with_the_project(tmp_path: Path) -> None:
    assert rules(check(project(tmp_path, connect="prot: 80\n"))) == [("connect.yaml", 1, "unknown-key")]


def test_alerts_for_a_client_that_is_not_there_are_found(tmp_path: Path) -> None:
    settings = "alerts:\n  clients:\n    loja-abc: {oldest: 5m}\n    loja-abd: {oldest: 5m}\n    other: {oldest: 5m}\n"
    home = project(
        tmp_path,
        connect=settings,
        connectors__acme=CONNECTOR,
        clients__one="client: loja-abc\nconnectors: {acme: {}}\n",
    )

    def told(**more: Any) -> list[str]:
        return [str(found) for found in check(home, **more) if found.rule != "no-key"]

    file = home.directory / "connect.yaml"
    expected = [
        f'{file}:4:5: alerts.clients.loja-abd: there is no such client; did you mean "loja-abc"? [unknown-client]',
        f"{file}:5:5: alerts.clients.other: there is no such client; there are loja-abc [unknown-client]",
    ]
    assert [told(), told(remember=True), told(remember=True)] == [expected] * 3
    (home.directory / "clients/two.yaml").write_text("client: other\nconnectors: {acme: {}}\n")
    assert told(remember=True) == expected[:1]


def test_a_connector_that_can_not_be_used_hides_no_finding_of_its_clients(tmp_path: Path) -> None:
    acme = project(
        tmp_path,
        connectors__acme=CONNECTOR.replace("title", "titel"),
        clients__a=CLIENT.format(name="a", rest="secrets: {t: hunter2}"),
    )
    assert rules(check(acme)) == [("acme.yaml", 3, "unknown-key"), ("a.yaml", 3, "secret-literal")][::-1]


def test_examples_can_be_left_out(tmp_path: Path) -> None:
    acme = project(tmp_path, connectors__acme=CONNECTOR.replace("path: /a}", "path: /b}"))
    assert [str(each).removeprefix(f"{tmp_path}/connectors/") for each in check(acme)] == [
        'acme.yaml:10:5: examples[0]: a note: exchange 1: path is "/a", the example says "/b" [example]'
    ]
    assert check(acme, examples=False) == []


def test_the_examples_of_a_file_with_an_unquoted_expression_are_not_run(tmp_path: Path) -> None:
    unquoted = CONNECTOR.replace('record: {a: "${ event.a }"}', "record: {a: ${ event.a }}")
    assert rules(check(project(tmp_path, connectors__acme=unquoted))) == [("acme.yaml", 8, "flow-expression")]


BROKEN: dict[str, bytes] = {
    "not-yaml": b"connect: 1\n}{\n",
    "duplicate": b"connect: 1\nconnect: 1\n",
    "anchors": b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "tabs": b"connect: 1\nactions:\n\tx: 1\n",
    "large": b"connect: 1\nname: " + b"x" * 10_000_000,
    "encoding": b"connect: 1\nname: \xff\xfe\n",
    "empty": b"",
    "deep": b"connect: 1\nname: " + b"[" * 5000,
    "null": b"\0",
    "list": b"- 1\n",
    "text": b"connect",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("folder", ["connectors", "clients"])
def test_what_is_no_yaml_is_findings_with_a_place(tmp_path: Path, name: str, folder: str) -> None:
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / f"{name}.yaml"
    path.write_bytes(BROKEN[name])
    for findings in (check(Project(tmp_path)), check(Project(tmp_path), [path])):
        assert findings
        assert {(each.file, each.line > 0, each.column > 0) for each in findings} == {(str(path), True, True)}


def test_a_directory_and_a_link_to_nothing_are_findings(tmp_path: Path) -> None:
    (tmp_path / "connectors" / "a.yaml").mkdir(parents=True)
    (tmp_path / "connectors" / "b.yaml").symlink_to("nothing")
    assert rules(check(Project(tmp_path))) == [("a.yaml", 1, "unreadable"), ("b.yaml", 1, "unreadable")]


# --- damage ---

VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, "", "x", "9" * 50, "\u2028", [], [1], ["x"], {}, {"a": {"b": [None]}}),
    *("${ event.x }", "${ ", "{{ x", "{{ event.x }}", {"$use": "x"}, {"$each": 1}),
]


def damaged(tree: Any, dice: random.Random) -> Any:
    """One part of the tree taken out, renamed, or replaced by something of another kind."""
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        children = (
            list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
        )
        places += [(node, key) for key, _ in children]
        waiting += [child for _, child in children]
    node, key = dice.choice(places)
    match dice.randrange(4):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[dice.choice(["x", f"{key}x", "$each", "$use", "$with", "steps", ""])] = node.pop(key)
        case _:
            node[key] = dice.choice(VALUES)
    return tree


@pytest.mark.parametrize(
    "path", [*sorted((OURS / "connectors").glob("*.yaml")), *FILES[:3]], ids=lambda path: path.stem
)
def test_damage_is_never_more_than_findings(path: Path, tmp_path: Path) -> None:
    dice = random.Random(path.stem)
    folder = tmp_path / ("clients" if path.name.startswith("client-") else "connectors")
    folder.mkdir()
    target = folder / path.name
    if folder.name == "clients":
        shutil.copytree(SPEC / "connectors", tmp_path / "connectors")
    whole = yaml.safe_load(path.read_text())
    whole.pop("examples", None)
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    until = time.monotonic() + 1.2
    for _ in range(40):
        tree = yaml.safe_load(text)
        for _ in range(dice.randrange(1, 4)):
            tree = damaged(tree, dice)
        target.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
        for finding in check(Project(tmp_path), [target], examples=False):
            assert finding.line > 0, finding
        if time.monotonic() > until:
            break


def test_near_words_are_two_letters_apart_short_ones_one() -> None:
    assert close("prodcut", "product")
    assert close("idd", "id")
    assert close("clientid", "clientId")
    assert not close("tax", "tid")
    assert not close("phone", "name")


def test_a_rule_covers_another_if_it_takes_all_that_that_one_would() -> None:
    def rule(**conditions: Any) -> OutcomeRule:
        return OutcomeRule(then="retry", **conditions)

    assert covers(rule(), rule(status=500))
    assert covers(rule(status="5xx"), rule(status=[500, 503], code="A"))
    assert covers(rule(code="A*"), rule(code=["AB", "A*"]))
    assert covers(rule(when="${ a }"), rule(when="${ a }", status=400))
    assert not covers(rule(status=500), rule(status="5xx"))
    assert not covers(rule(code="AB"), rule(code="A*"))
    assert not covers(rule(code="A*"), rule(code="*A"))
    assert not covers(rule(status=500), rule(code="A"))
