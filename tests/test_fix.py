from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from engine.spec.check import check
from engine.spec.findings import Finding
from engine.spec.fix import Edit, Fixed, Source, edits_for, fixed, written
from engine.spec.project import Project
from tests.command import connect
from tests.test_mistakes import MISTAKES, Mistake, lay_out

HEAD = """# the vendor calls it Acme
connect: 1
name: acme
title: Acme
hosts: [api.acme.example]
settings: {properties: {domain: {type: string, default: x}}}
secrets: {key: {title: Key}}
receive: {client: "${ event.tid }"}
fields: {email: "${ lower(event.email) }"}
"""
TAIL = """
examples:
  - name: a note
    events: [{tid: t, a: b, email: E, product: {name: N, price: 7}}]
    exchange: [{sends: {path: /a}, answers: {body: {a: 1}}}]
    outcomes: {note: [delivered]}
"""


def connector(action: str, head: str = HEAD, http: str = "http: {base_url: https://api.acme.example}\n") -> str:
    return f"{head}{http}actions:\n  note:\n{action}{TAIL}"


NOTE = """    record: {a: "${ event.a }"}
    request: {path: /a, json: "${ record }", expect: "${ response.body }"}
"""


def mended(folder: Path, text: str, name: str = "connectors/acme.yaml") -> tuple[str, list[str]]:
    """The text with what is certain, and the rules of what is still found."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode())
    project = Project(folder)

    def look(text: str) -> list[Finding]:
        return [each for each in check(project.with_texts({path: text}), [path]) if each.file == str(path)]

    change, left = fixed(str(path), text, look(text), look)
    again, _ = fixed(str(path), change.after, left, look)
    assert again.edits == 0, "a second run finds nothing more to do"
    assert path.read_bytes() == text.encode()
    assert [each.rule for each in left] == [each.rule for each in look(change.after)]
    return change.after, [each.rule for each in left]


def record(line: str) -> str:
    return connector(
        f'    record:\n      a: "${{ event.a }}" # stays\n      {line}   # as it is\n'
        '    request: {path: /a, json: "${ record }", expect: "${ response.body }"}\n'
    )


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        # a name that is meant
        ("b: ${ settings.domian }", "b: ${ settings.domain }"),
        ('b: "${ settings.domian }"', 'b: "${ settings.domain }"'),
        ("b: ${ join([settings.domian, fields.emial], '-') }", "b: ${ join([settings.domain, fields.email], '-') }"),
        ("b: ${ lowr(event.email) }", "b: ${ lower(event.email) }"),
        ("b: ${ evnt.email }", "b: ${ event.email }"),
        ('b: "x {{ evnt.email | uper }}"', 'b: "x {{ event.email | upper }}"'),
        # quotes around an expression
        ("b: {c: ${ event.email }}", 'b: {c: "${ event.email }"}'),
        ("b: [${ event.email }, ${ event.a }]", 'b: ["${ event.email }", "${ event.a }"]'),
        ("b: {{ event.email }}", 'b: "${ event.email }"'),
        ("b: {{ event.email }} and more", 'b: "{{ event.email }} and more"'),
        ("b: {c: {{ event.email | upper }}}", 'b: {c: "{{ event.email | upper }}"}'),
        ("b: {c: ${ join([event.a, 'x'], ', ') }, d: 1}", "b: {c: \"${ join([event.a, 'x'], ', ') }\", d: 1}"),
        # what older readers of YAML take for something else
        ("b: yes", 'b: "yes"'),
        ("b: 12:30", 'b: "12:30"'),
        ("b: 007", 'b: "007"'),
        ("b: +5511999", 'b: "+5511999"'),
        ("b: True", "b: true"),
        ("b: ~", "b: null"),
        # the notation of the place
        ("b: fields.email", 'b: "${ fields.email }"'),
        ("b: $event.email", 'b: "${ event.email }"'),
        ('b: "$(event.email)"', 'b: "${ event.email }"'),
        ('b: "{{ event.email }}"', 'b: "${ event.email }"'),
        ("b: '{{ event.items[0].id }}'", "b: '${ event.items[0].id }'"),
        ("b: Dear ${ event.email }", "b: Dear {{ event.email }}"),
        ('b: {$if: "${ !event.product.name }", then: x}', 'b: {$if: "${ !(event.product.name) }", then: x}'),
    ],
)
def test_what_is_certain_is_mended_and_the_rest_of_the_file_stays(tmp_path: Path, wrong: str, right: str) -> None:
    assert mended(tmp_path, record(wrong)) == (record(right), [])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("title: Acme\n", "titel: Acme\n"),
        ("properties: {domain", "propertys: {domain"),
        ("secrets:", "secret:"),
    ],
)
def test_a_key_that_is_meant_is_written(tmp_path: Path, wrong: str, right: str) -> None:
    assert mended(tmp_path, connector(NOTE).replace(wrong, right)) == (connector(NOTE), [])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("timeout: 10 s", "timeout: 10s"),
        ("timeout: 10sec", "timeout: 10s"),
        ('timeout: "5 minutes"', 'timeout: "5m"'),
        ("limits: {calls: {rate: 120/min}}", "limits: {calls: {rate: 120/1m}}"),
        ("limits: {calls: {rate: 10 per second}}", "limits: {calls: {rate: 10/1s}}"),
        ("retry: {initial: 0}", "retry: {initial: 0s}"),
    ],
)
def test_a_unit_that_is_written_otherwise_is_written_as_units_are(tmp_path: Path, wrong: str, right: str) -> None:
    http = "http: {{base_url: https://api.acme.example, {}}}\n"
    changed = mended(tmp_path, connector(NOTE, http=http.format(wrong)))
    assert changed == (connector(NOTE, http=http.format(right)), [])


@pytest.mark.parametrize("given", ["timeout: 30", "limits: {calls: {rate: 120}}", "timeout: 5 M"])
def test_a_number_whose_unit_nobody_knows_stays(tmp_path: Path, given: str) -> None:
    text = connector(NOTE, http=f"http: {{base_url: https://api.acme.example, {given}}}\n")
    assert mended(tmp_path, text)[0] == text


@pytest.mark.parametrize(
    "line",
    [
        "b: ${ settings.xyz }",  # nothing is near
        "b: ${ 'settings.domian' }",  # a literal
        "b: 1_000",  # 1000 or a text?
        "b: 0x1F",
        "b: ${ event.email",
        "b: *here",
    ],
)
def test_what_is_not_certain_stays(tmp_path: Path, line: str) -> None:
    assert mended(tmp_path, record(line))[0] == record(line)


def test_yes_and_no_are_words_or_truths_by_what_is_wanted(tmp_path: Path) -> None:
    text = connector(f"    active: yes\n{NOTE}").replace("default: x", "default: no")
    right = connector(f"    active: true\n{NOTE}").replace("default: x", 'default: "no"')
    assert mended(tmp_path, text) == (right, [])


def test_a_number_where_a_text_is_wanted_gets_quotes_and_keeps_its_digits(tmp_path: Path) -> None:
    text = connector(NOTE).replace("title: Acme", "title: 1.10")
    assert mended(tmp_path, text) == (text.replace("1.10", '"1.10"'), [])


def test_a_number_or_a_truth_in_quotes_loses_them(tmp_path: Path) -> None:
    batch = '    active: "true"\n    batch: {records: "100"}\n'
    text = connector(f"{batch}{NOTE}".replace("${ record }", "${ batch.records }"))
    right = text.replace('"true"', "true").replace('"100"', "100")
    assert mended(tmp_path, text) == (right, [])


def test_a_path_where_an_expression_is_wanted_becomes_one(tmp_path: Path) -> None:
    text = connector(f"    when: event.email\n{NOTE}")
    assert mended(tmp_path, text) == (text.replace("event.email\n", '"${ event.email }"\n'), [])


def test_a_method_is_written_in_capitals(tmp_path: Path) -> None:
    text = connector(NOTE).replace("request: {path", "request: {method: post, path")
    assert mended(tmp_path, text) == (text.replace("post", "POST"), [])


def test_tabs_become_as_many_blanks_as_the_file_indents_by(tmp_path: Path) -> None:
    text = connector(NOTE)
    tabs = text.replace('    record: {a: "${ event.a }"}\n    request', '\t\trecord: {a: "${ event.a }"}\n\t\trequest')
    assert tabs != text
    assert mended(tmp_path, tabs) == (text, [])


def test_several_faults_behind_each_other_are_mended_in_one_go(tmp_path: Path) -> None:
    text = connector(NOTE)
    wrong = (
        text.replace("\ntitle", "\ntitel")
        .replace('{a: "${ event.a }"}', "{a: ${ evnt.a }}")
        .replace("  note:", "\tnote:")
    )
    assert mended(tmp_path, wrong) == (text, [])


def test_an_edit_that_brings_a_finding_is_not_made(tmp_path: Path) -> None:
    """Alone, the hole would be a number, and the example says it is a text."""
    shown = connector(
        '    record: {a: "${ event.a }", p: "{{ event.product.price }}"}\n'
        '    request: {path: /a, json: "${ record }", expect: "${ response.body }"}\n'
    ).replace("{sends: {path: /a}", "{sends: {path: /a, json: {a: b, p: '7'}}")
    assert mended(tmp_path, shown) == (shown, ["hole"])


def test_a_key_whose_right_name_stands_there_already_is_not_renamed(tmp_path: Path) -> None:
    text = connector(NOTE).replace("title: Acme\n", "title: Acme\ntitel: Acme\n")
    assert mended(tmp_path, text) == (text, ["unknown-key"])


def test_windows_line_ends_a_byte_order_mark_and_letters_beyond_ascii_stay(tmp_path: Path) -> None:
    text = "\ufeff" + connector(NOTE).replace("Acme\n", "Ação 😀\n").replace("\n", "\r\n")
    assert mended(tmp_path, text.replace("\ntitle", "\ntitel")) == (text, [])


def test_clients_and_blocks_of_markdown_are_mended_too(tmp_path: Path) -> None:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors/acme.yaml").write_text(connector(NOTE))
    client = "client: a\ningest: {keys: ['env:A']}\nconnectors: {acme: {settings: {domian: x}}}\n"
    assert mended(tmp_path, client, "clients/a.yaml") == (client.replace("domian", "domain"), [])
    page = f"# A page\n\n1. so:\n\n   ```yaml\n   {client.strip().replace(chr(10), chr(10) + '   ')}\n   ```\n"
    assert mended(tmp_path, page, "docs/page.md") == (page.replace("domian", "domain"), [])


def test_a_secret_that_is_written_out_is_nobodys_to_change(tmp_path: Path) -> None:
    client = "client: a\nconnectors: {acme: {secrets: {key: 0815}}}\n"
    assert mended(tmp_path, client, "clients/a.yaml")[0] == client


def test_no_two_edits_overlap_and_what_no_longer_stands_there_is_not_edited() -> None:
    def unknown(column: int, word: str, meant: str) -> Finding:
        return Finding("f", 1, column, "unknown-key", "error", f"{word}: unknown key", f'did you mean "{meant}"?')

    findings = [unknown(1, "titel", "title"), unknown(3, "tel", "tell"), unknown(40, "gone", "gane")]
    assert edits_for(findings, Source("titel: x\n")) == {findings[0]: [Edit(1, 1, "titel", "title")]}


def test_a_file_is_replaced_at_once_keeps_its_mode_and_is_not_touched_if_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a\n")
    path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    assert written(Fixed(str(link), "a\n", "b\n", 1))
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode), link.is_symlink()) == ("b\n", 0o640, True)
    assert not written(Fixed(str(path), "a\n", "c\n", 1))
    assert path.read_text() == "b\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.yaml", "link.yaml"]


# --- the command ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "connectors/acme.yaml").write_text(connector(NOTE).replace("\ntitle", "\ntitel"))
    return tmp_path


def test_diff_shows_what_fix_would_do_and_writes_nothing(folder: Path) -> None:
    before = (folder / "connectors/acme.yaml").read_text()
    ended = connect("validate", "--diff", project=folder)
    assert (ended.code, ended.err) == (1, "connectors/acme.yaml: 1 place would change\n")
    assert ended.out.splitlines() == [
        "--- a/connectors/acme.yaml",
        "+++ b/connectors/acme.yaml",
        "@@ -1,7 +1,7 @@",
        " # the vendor calls it Acme",
        " connect: 1",
        " name: acme",
        "-titel: Acme",
        "+title: Acme",
        " hosts: [api.acme.example]",
        " settings: {properties: {domain: {type: string, default: x}}}",
        " secrets: {key: {title: Key}}",
    ]
    assert (folder / "connectors/acme.yaml").read_text() == before


def test_fix_writes_says_how_much_and_shows_what_is_left(folder: Path) -> None:
    ended = connect("validate", "--fix", project=folder)
    assert ended == (0, "no findings in 1 file\n", "fixed connectors/acme.yaml: 1 place\n")
    assert (folder / "connectors/acme.yaml").read_text() == connector(NOTE)
    assert connect("validate", "--fix", project=folder) == (0, "no findings in 1 file\n", "")
    assert connect("validate", "--diff", project=folder) == (0, "", "0 places in 0 files would change\n")


def test_a_diff_shows_no_secret(folder: Path) -> None:
    (folder / "connectors/acme.yaml").write_text(connector(NOTE))
    (folder / "clients").mkdir()
    (folder / "clients/a.yaml").write_text(
        "client: a\ntitel: A\nconnectors:\n  acme:\n    secrets: {key: hunter2}\n    settings: {domian: x}\n"
    )
    ended = connect("validate", "--diff", project=folder)
    assert "hunter2" not in ended.out + ended.err
    assert [line for line in ended.out.splitlines() if line[0] in "+-"][2:] == [
        "-titel: A",
        "+title: A",
        "-    settings: {domian: x}",
        "+    settings: {domain: x}",
    ]


# --- all mistakes that are collected ---


# What is right, but not as it was in the good file: the mended line.
ANOTHER_WAY = {
    "a match that is a number": '    match: "12345"',
    "an action that is misspelt": "      note: {active: true}",
    "no for false": "      note: {active: false, batch: {records: 50}}",
    "an expression in a text": "      path: /notes/{{ settings.list }}",
    "dedup for dedupe": "  dedupe: 24h",
    "structure for structures": "  structures: {address: {a: 1}}",
    "a filter that is misspelt": '      text: "Viewed {{ event.product.name | upper }}"',
    "a path in save": '    save: {id: "${ response.body.id }"}',
    "rejected for reject": "    - {code: LOCKED, then: reject}",
    "yes for true": "    active: true",
    "true in quotes": "    active: true",
    "a condition without its braces": '    when: "${ event.eventType }"',
    "a text that begins with braces": '      text: "${ event.product.name }"',
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake.theme}: {mistake.title}")
def test_no_mistake_is_made_worse_and_what_is_mended_is_right(mistake: Mistake, tmp_path: Path) -> None:
    lay_out(tmp_path)
    good = (tmp_path / mistake.file).read_text()
    text = f"\n{good}".replace(f"\n{mistake.good}\n", f"\n{mistake.bad}\n")[1:]
    after, left = mended(tmp_path, text, mistake.file)
    assert len(left) <= len(mistake.findings)
    if mistake.title in ANOTHER_WAY:
        assert ANOTHER_WAY[mistake.title] in after.split("\n")
    elif after != text:
        assert (only_letters(after), left) == (only_letters(good), [])


def only_letters(text: str) -> str:
    """Without quotes and blanks, which may be others than they were."""
    return re.sub(r"[\s\"']", "", text)
