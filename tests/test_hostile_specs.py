"""A spec is input: whatever it says, it is findings, and nothing of Python or of the disk is reached."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import ConnectError, SecretUnavailable
from engine.expressions import Compiler
from engine.mapping import compile_tree
from engine.secrets import SecretSources
from engine.spec.check import check
from engine.spec.findings import errors_in
from engine.spec.load import load_client, load_connector
from engine.spec.located import read
from engine.spec.project import Project
from engine.spec.violations import bundled

OURS = sorted(bundled("connectors").glob("*.yaml"))
HOSTILE: list[Any] = [
    "${ event.__class__.__mro__ }",
    "{{ event.__class__.__init__.__globals__ }}",
    "{{ ''.__class__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{% set x = event %}{{ x }}",
    "{% for a in event.items %}" * 30 + "{% endfor %}" * 30,
    "${ " + "[" * 500 + "]" * 500 + " }",
    "${ " + "!" * 5_000 + "event }",
    "${ " + "event | " * 2_000 + "event }",
    "${ event" + "[0]" * 5_000 + " }",
    "${ regex(event.a, '((a*)*)*b{1,1000}') }",
    "${ regex(event.a, '(') }",
    "${ `" + "[" * 5_000 + "` }",
    "${ eval('1') }",
    "${ open('/etc/passwd') }",
    "%(secret)s %s {0.__class__} {event.__class__}",
    "${ truncate(event.a, `1e999`) }",
    "${ event.a == `1e40` }",
    "{{ event.a | truncate(10 ** 10) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ range(10) }}",
    "file:../../etc/passwd",
    "../../../../etc/passwd",
    "\\ud800",
    "9" * 40,
    10**39,
    -1,
    None,
    True,
    [],
    {},
    [[]],
    {"$use": "x"},
    {"$each": "${ event }", "do": {"$each": 5}},
    {"$if": {"$if": {}}},
    {"$literal": {"$ref": "/etc/passwd"}},
    {"$ref": "../../../../../../etc/passwd"},
    {"$ref": "https://169.254.169.254/latest/meta-data"},
    {"$with": {"do": 1, "args": {"event": 2}}},
    {"__class__": 1, "__init__": 2},
]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """What takes longer hangs, as far as an author can tell."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (map or list, key) of a tree."""
    found = []
    entries = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
    for key, child in entries:
        found.append((tree, key))
        if isinstance(child, (dict, list)):
            found += places(child)
    return found


def mutated(chance: random.Random) -> tuple[str, str]:
    """One of our connectors with a few of its parts taken out, exchanged, renamed, or filled with what is hostile."""
    file = chance.choice(OURS)
    tree = yaml.load(
        file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader if chance.random() < 0.1 else yaml.CSafeLoader
    )
    for _ in range(chance.randint(1, 4)):
        spots = places(tree)
        within_, key = chance.choice(spots)
        if key not in within_ if isinstance(within_, dict) else key >= len(within_):
            continue
        match chance.randrange(6):
            case 0:
                del within_[key]
            case 1 | 2:
                within_[key] = chance.choice(HOSTILE)
            case 3:
                other, from_ = chance.choice(spots)
                if from_ in other if isinstance(other, dict) else from_ < len(other):
                    within_[key] = json.loads(json.dumps(other[from_], default=str))
            case 4 if isinstance(within_, dict):
                within_[chance.choice(["$each", "__class__", "$use", "a b", "when", "$$x", ""])] = within_.pop(key)
            case _ if isinstance(within_[key], str):
                at = chance.randint(0, len(within_[key]))
                within_[key] = within_[key][:at] + str(chance.choice(HOSTILE)) + within_[key][at:]
    return file.name, json.dumps(tree, default=str, ensure_ascii=chance.random() < 0.5)


@pytest.mark.parametrize("seed", range(24))
def test_no_change_to_a_connector_makes_validate_fail(seed: int, tmp_path: Path) -> None:
    chance = random.Random(f"hostile {seed}")
    (tmp_path / "connectors").mkdir()
    (tmp_path / "schemas").symlink_to(bundled("schemas"))
    for _ in range(10):
        name, text = mutated(chance)
        file = tmp_path / "connectors" / name
        file.write_text(text, encoding="utf-8")
        try:
            with within(20):
                found = check(Project(tmp_path), [file])
        except Exception as error:
            error.add_note(text)
            raise
        assert all(each.file and each.line > 0 for each in found)
        file.unlink()


@pytest.mark.parametrize("seed", range(10))
def test_no_change_to_a_client_makes_validate_fail(seed: int, tmp_path: Path) -> None:
    chance = random.Random(f"client {seed}")
    (tmp_path / "clients").mkdir()
    (tmp_path / "schemas").symlink_to(bundled("schemas"))
    for _ in range(6):
        source = chance.choice(sorted(bundled("clients").glob("*.yaml")))
        tree = yaml.safe_load(source.read_text(encoding="utf-8"))
        for _ in range(chance.randint(1, 3)):
            within_, key = chance.choice(places(tree))
            if key in within_ if isinstance(within_, dict) else key < len(within_):
                within_[key] = chance.choice(HOSTILE)
        file = tmp_path / "clients" / "a.yaml"
        file.write_text(json.dumps(tree, default=str), encoding="utf-8")
        with within(20):
            check(Project(tmp_path), [file])


# --- expressions reach nothing of Python ---

ESCAPES = [
    "${ event.__class__ }", "${ event.keys }", "${ event.a.__len__ }", "${ event.\"__class__\" }",
    "{{ event.__class__ }}", "{{ event['__class__'] }}", "{{ event.keys }}", "{{ event.a.upper }}",
    "{{ event.a.__class__.__mro__ }}", "{{ event.a.format }}", "{{ event.items }}", "{{ event.a.encode }}",
]  # fmt: skip


@pytest.mark.parametrize("text", ESCAPES)
def test_an_attribute_of_python_is_a_key_that_is_not_there(text: str) -> None:
    compiler = Compiler()
    run = compile_tree(compiler, text, ["event"], ("record",))
    assert compiler.problems == []
    assert run({"event": {"a": "text"}}) is None


REFUSED = [
    "{{ event.a.upper() }}", "{{ event.keys() }}", "{{ ''.join(event.a) }}", "{{ lipsum }}", "{{ cycler }}",
    "{{ self }}", "{{ namespace() }}", "{{ range(9) }}", "{{ event | attr('__class__') }}", "{{ event | map('x') }}",
    "{{ ().__class__ }}", "{{ [].append }}", "{{ event.a % 5 }}", "{{ event.a * 5 }}", "{{ 'a' ~ event.a }}",
    "{% set a = event %}", "{% macro a() %}{% endmacro %}", "{% include 'x' %}", "{% import 'os' as o %}",
    "{% extends 'x' %}", "{% block a %}{% endblock %}", "{% raw %}{{ event.a }}{% endraw %}{{ os }}",
    "{% for a in event.a recursive %}{% endfor %}", "{{ event[event.a] }}", "{{ event.a if true else 1 }}",
    "${ __import__('os') }", "${ eval('1') }", "${ exec('1') }", "${ getattr(event, 'a') }", "${ __builtins__ }",
    "${ globals() }", "${ type(event) }", "${ to_string(event) }", "${ map(&a, event) }", "${ os }", "${ work }",
    "${ BadValue }", "${ locate }", "${ scope }", "${ f_upper }", "${ n_event }", "${ secrets.token }",
    "{{ secrets.token }}", "{{ token.value }}",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_of_the_language_does_not_compile(text: str) -> None:
    compiler = Compiler()
    compile_tree(compiler, text, ["event"], ("record",))
    assert compiler.problems


@pytest.mark.parametrize(
    "key", ["a'b", 'a"b', "a\\", "a\nb", "'+__import__('os').system('id')+'", "{x}", "a\0b", "\u2028"]
)
def test_a_name_with_any_sign_in_it_is_a_name_and_no_code(key: str) -> None:
    compiler = Compiler()
    run = compile_tree(compiler, {key: "${ event.a }"}, ["event"], ("record",))
    assert (compiler.problems, run({"event": {"a": 1}})) == ([], {key: 1})
    named = f"${{ event.{json.dumps(key)} }}"
    path = compile_tree(Compiler(), named, ["event"], ("record",))
    assert path({"event": {key: "found"}}) == "found"
    literal = compile_tree(Compiler(), f"${{ `{json.dumps([key])}` }}", ["event"], ("record",))
    assert literal({}) == [key]


# --- nor the disk ---


@pytest.mark.parametrize(
    "reference",
    ["file:../out", "file:/etc/passwd", "file:a/../../out", "file:link", "file:folder/link", "file:folder", "file:./",
     "file:fifo", "file:/dev/stdin", "file:/proc/self/environ", "file:..", "file:large"],
)  # fmt: skip
def test_a_secret_s_file_lies_in_the_project_and_is_small(tmp_path: Path, reference: str) -> None:
    project = tmp_path / "project"
    (project / "folder").mkdir(parents=True)
    (tmp_path / "out").write_text("value")
    (project / "link").symlink_to(tmp_path / "out")
    (project / "folder" / "link").symlink_to("/etc/passwd")
    (project / "large").write_text("x" * 100_000)
    os.mkfifo(project / "fifo")
    with pytest.raises(SecretUnavailable), within(5):
        SecretSources(project, {}).resolve(reference)


@pytest.mark.parametrize("name", ["CONNECT_KEY", "CONNECT_ADMIN_TOKEN", "CONNECT_PROXY", "CONNECT_ALERT_WEBHOOKS"])
def test_a_client_can_t_have_what_is_secret_of_the_engine_itself(tmp_path: Path, name: str) -> None:
    with pytest.raises(SecretUnavailable) as caught:
        SecretSources(tmp_path, {name: "the key to all tokens"}).resolve(f"env:{name}")
    assert str(caught.value) == f"env:{name}: variables that begin with CONNECT_ are the engine's own; use another name"


@pytest.mark.parametrize("name", ["../a", "a/b", "..", "", "a b", "a\nb", "a\0", ".a", "-", "a" * 200, "con/../x"])
def test_a_client_has_a_plain_name(name: str) -> None:
    text = {"client": name, "connectors": {"crm": {}}}
    client, findings, _ = load_client(read(json.dumps(text), "clients/a.yaml"))
    assert client is None
    assert errors_in(findings)


@pytest.mark.parametrize("name", ["../a", "a/b", "..", "", "a b", "A", ".a"])
def test_a_connector_has_a_plain_name(name: str) -> None:
    text = {"connect": 1, "name": name, "title": "x", "hosts": ["a.example"], "actions": {}}
    connector, findings, _ = load_connector(read(json.dumps(text), "connectors/a.yaml"))
    assert connector is None
    assert errors_in(findings)


# --- nor the memory ---

BOMBS: dict[str, Callable[[], str]] = {
    "anchors": lambda: "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(100)),
    "levels": lambda: "[" * 100_000,
    "levels of maps": lambda: "".join(" " * level + "a:\n" for level in range(1_000)),
    "bytes": lambda: "a: " + "x" * 1_100_000,
    "keys": lambda: "".join(f"k{n}: 1\n" for n in range(60_000)),
    "findings": lambda: "a:\n" + "".join(f"  - yes\n  - 0{n}\n" for n in range(40_000)),
    "digits": lambda: "a: " + "9" * 900_000,
    "tags": lambda: "a: !!python/object/apply:os.system ['id']",
    "documents": lambda: "---\na: 1\n" * 50_000,
    "quotes": lambda: 'a: "' + "\\u0041" * 100_000,
    "merge keys": lambda: "<<: {a: 1}\n" * 20_000,
    "templates": lambda: "connect: 1\nname: a\ntitle: " + json.dumps("{{" * 10_000) + "\n",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_is_a_bomb_is_findings_within_seconds(bomb: str, tmp_path: Path) -> None:
    (tmp_path / "connectors").mkdir()
    file = tmp_path / "connectors" / "a.yaml"
    file.write_text(BOMBS[bomb]())
    with within(20):
        found = check(Project(tmp_path), [file])
    assert errors_in(found)
    assert all(len(each.message) < 1_000 for each in found)


@pytest.mark.parametrize("linked", ["/etc/passwd", "/dev/zero", "pipe"])
def test_a_connector_that_is_a_link_to_no_spec_shows_nothing_of_it(tmp_path: Path, linked: str) -> None:
    (tmp_path / "connectors").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "connectors" / "a.yaml").symlink_to(tmp_path / linked)
    with within(20):
        found = check(Project(tmp_path), [tmp_path / "connectors" / "a.yaml"])
    assert errors_in(found)
    assert not any(re.search("root:|/bin/", str(each)) for each in found)


def test_a_project_that_is_nothing_of_the_kind_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "connect.yaml").write_text("[" * 10_000)
    with pytest.raises(ConnectError):
        _ = Project(tmp_path).settings
    shutil.rmtree(tmp_path)
