"""What people read says what the code does: its YAML compiles, its tables are whole, its links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pages import FENCE, PAGES, ROOT, Block, blocks

from engine import names
from engine.authoring.examples import run_example
from engine.mapping import DIRECTIVES
from engine.onboarding.provisioning import Provisioning
from engine.program import Program
from engine.sandbox import Sandbox
from engine.spec import types
from engine.spec.load import load_client, load_connector
from engine.spec.located import read
from engine.spec.presets import PRESETS
from engine.spec.project import Project

LANGUAGE = (ROOT / "docs/language.md").read_text(encoding="utf-8")
# What stands around a fragment of the language page: `yaml connector` is part of a connector, `yaml action` of an
# action, `yaml record` of a record, `yaml rule` a list of outcome rules.
AROUND = {
    "connect": 1,
    "name": "acme-crm",
    "title": "Acme CRM",
    "hosts": ["api.acme-crm.example", "login.acme-crm.example", "*.acme-crm.example"],
    "fields": {"email": "${ event.email }", "activity": "${ event.eventType }"},
    "http": {"base_url": "https://api.acme-crm.example/v1"},
    "actions": {"add_note": {"record": {}, "request": {"path": "/notes", "json": "${ record }"}}},
}


YAML = [block for page in PAGES for block in blocks(page) if block.language == "yaml"]


def whole(block: Block) -> str:
    """The fragment with the rest of a connector around it, as JSON, which is YAML."""
    data = read(block.text, block.id).data
    connector = json.loads(json.dumps(AROUND))
    match block.kind:
        case "connector":
            connector |= data
        case "action":
            request = connector["actions"]["add_note"]
            connector["actions"]["add_note"] = {**({} if "steps" in data else request), "record": {}, **data}
        case "record":
            connector["actions"]["add_note"]["record"] = data
        case "rule":
            connector["replies"] = {"outcomes": data}
        case other:
            raise AssertionError(f"{block.id}: ```yaml {other}: say what it is a part of")
    return msgspec.json.Encoder(decimal_format="number").encode(connector).decode()


def compiled(connector: types.Connector) -> list[Any]:
    """What does not compile in it."""
    anyone = types.Client(client="anyone", connectors={})
    program = Program(connector, anyone, types.Binding())
    Provisioning(program)
    problems = list(program.compiler.problems)
    if connector.sandbox is not None:
        problems += Sandbox(connector).problems
    return problems


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.id)
def test_every_yaml_block_is_valid_and_compiles(block: Block) -> None:
    first = block.text.lstrip().partition("\n")[0]
    if first.startswith("client:"):
        client, findings, _ = load_client(read(block.text, block.id))
        assert (client is not None, findings) == (True, [])
        return
    text = block.text if "\nconnect:" in f"\n{block.text}" else whole(block)
    connector, findings, _ = load_connector(read(text, block.id))
    assert (connector is not None, findings) == (True, [])
    assert connector is not None
    assert compiled(connector) == []


def schema_properties(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from node.get("properties", {})
        for key, child in node.items():
            if not (key == "examples" and isinstance(child, list)):
                yield from schema_properties(child)
    elif isinstance(node, list):
        for child in node:
            yield from schema_properties(child)


def named_in(text: str) -> set[str]:
    """What stands in `code`, word by word."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\$?[A-Za-z_][\w-]*", code)}


@pytest.mark.parametrize("name", ["connector", "client"])
def test_every_field_of_the_schemas_is_named_in_the_language_page(name: str) -> None:
    schema = json.loads((ROOT / f"schemas/{name}.schema.json").read_text(encoding="utf-8"))
    assert set(schema_properties(schema)) - named_in(LANGUAGE) == set()


def test_every_directive_preset_and_context_name_is_described() -> None:
    told = named_in(LANGUAGE)
    assert (DIRECTIVES - {"$with"}) - told == set()  # $with is what an expanded $use becomes
    assert set(PRESETS) - told == set()
    known = set().union(*(getattr(names, place) for place in dir(names) if place.isupper())) - {"calls"}
    assert known - told == set()


def outcome_words(section: str) -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_the_table_of_outcomes_is_whole() -> None:
    schema = json.loads((ROOT / "schemas/connector.schema.json").read_text(encoding="utf-8"))
    section = LANGUAGE.partition("## 10. Outcomes")[2].partition("\n`replies` has")[0]
    assert outcome_words(section) == set(schema["$defs"]["outcome"]["enum"])


# the calls that make findings, and which argument is the rule's id; -1: the first text among them
RULE_AT = {
    "finding": 1,
    "_find": -1,
    "Finding": 3,
    "ExpressionError": 0,
    "problem": 0,
    "Problem": 1,
    "missing": 1,
    "wrong": 1,
}
MADE_IN = (
    "expressions",
    *(f"notations/{name}" for name in ("emitting", "holes", "jmes", "jinja")),
    "mapping",
    "bodies",
)


def texts_in(node: ast.AST) -> list[str]:
    return [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def rules_made(tree: ast.AST) -> Iterator[str]:
    """The ids of findings that a module makes, where they are written as texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            at = RULE_AT.get(name) if node.args else None
            if at == -1:
                yield from [each.value for each in node.args if isinstance(each, ast.Constant)][:1]
            elif at is not None and not any(isinstance(each, ast.Starred) for each in node.args[: at + 1]):
                yield from texts_in(node.args[at]) if isinstance(node.args[at], ast.Constant | ast.IfExp) else []
        elif isinstance(node, ast.FunctionDef) and node.name == "_in_words":  # gives (rule, what is wrong, hint)
            for each in ast.walk(node):
                if isinstance(each, ast.Return) and isinstance(each.value, ast.Tuple):
                    yield from texts_in(each.value.elts[0])


def rule_ids() -> set[str]:
    files = [*(ROOT / "engine/spec").rglob("*.py"), *(ROOT / f"engine/{name}.py" for name in MADE_IN)]
    found = {rule for file in files for rule in rules_made(ast.parse(file.read_text(encoding="utf-8")))}
    schemas = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "schemas").glob("*.json"))
    return found | set(re.findall(r'"x-rule": "([\w-]+)"', schemas))


def test_every_finding_is_in_the_table_with_what_to_write_instead() -> None:
    section = LANGUAGE.partition("## 24. Findings")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .+ \| (.+) \|$", section, re.MULTILINE))
    made = rule_ids()
    assert {"unknown-key", "secret-literal", "not-path", "directive"} <= made  # it does find them
    assert made - rows.keys() == set()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https:", "http:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


# --- connector pages ---

PROJECT = Project(ROOT)


@pytest.mark.parametrize("name", sorted(PROJECT.connector_files()))
def test_a_connector_page_shows_what_the_engine_sends(name: str) -> None:
    connector = PROJECT.connector(name)
    page = list(blocks(ROOT / f"docs/connectors/{name}.md"))
    (event,) = [exact_json(block.text) for block in page if block.kind == "event"]
    sent = [exact_json(block.text) for block in page if block.kind == "sent"]
    assert sent
    shown: list[Any] = []
    for example in connector.examples:
        if event in example.events:
            assert run_example(connector, example).message == ""
            shown += [each.sends["json"] for each in example.exchange if each.sends and "json" in each.sends]
    assert [body for body in sent if body not in shown] == []


@pytest.mark.parametrize("name", sorted(PROJECT.connector_files()))
def test_a_connector_page_names_every_setting_secret_action_and_table(name: str) -> None:
    connector = PROJECT.connector(name)
    wanted = {*connector.settings.properties, *connector.secrets, *connector.actions}
    tables = set(connector.tables) - {"rates"}  # the vendor's plans, which no client changes
    assert (wanted | tables) - named_in((ROOT / f"docs/connectors/{name}.md").read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("page", ["README.md", "README.pt-BR.md", "docs/README.md"])
def test_every_connector_is_listed_where_people_begin(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    listed = set(re.findall(r"\]\((?:docs/)?connectors/([a-z0-9-]+)\.md\)", text))
    assert listed == set(PROJECT.connector_files())


def exact_json(text: str) -> Any:
    return msgspec.json.Decoder(float_hook=Decimal).decode(text)


# --- commands, settings, metrics ---


def commands_named(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    consoles = [block.text for block in blocks(page) if block.language == "console"]
    typed = [line for text_ in consoles for line in text_.splitlines() if line.startswith("$ ")]
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return {name for code in [*spans, *typed] for name in re.findall(r"(?:^|[ ;])connect ([a-z]+)\b", code)}


def test_every_command_that_a_page_names_exists_and_every_command_is_named() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "engine.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    there = set(re.findall(r"^  ([a-z]+)  ", shown.stdout.partition("Commands:")[2], re.MULTILINE))
    named = set().union(*(commands_named(page) for page in PAGES))
    assert (named - there, there - named) == (set(), set())


OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")


def test_every_setting_and_variable_is_in_the_table() -> None:
    read = {
        name
        for file in (ROOT / "engine").rglob("*.py")
        for name in re.findall(r"\bCONNECT_[A-Z_]+\b", file.read_text(encoding="utf-8"))
    }
    schema = json.loads((ROOT / "schemas/project.schema.json").read_text(encoding="utf-8"))
    section = OPERATIONS.partition("## Settings")[2].partition("\n## ")[0]
    assert (read | set(schema["properties"])) - named_in(section) == set()


def test_the_table_of_metrics_is_whole() -> None:
    from engine.telemetry.log import Metrics

    families = Metrics(lambda: [], lambda: 0.0).registry.collect()
    ours = {each.name + ("_total" if each.type == "counter" else "") for each in families}
    section = (ROOT / "docs/metrics.md").read_text(encoding="utf-8").partition("## Prometheus")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(connect_\w+)` \|", section, re.MULTILINE))
    assert told == {name for name in ours if name.startswith("connect_")}


def test_every_default_of_the_language_page_is_the_schema_s() -> None:
    """Rows of the form | `key` | `default` | meaning | of the tables that mirror one part of the schema."""
    schema = json.loads((ROOT / "schemas/connector.schema.json").read_text(encoding="utf-8"))["$defs"]
    heads = {"retry": "retry", "expires": "expires", "poll": "poll", "batch": "batch", "fold": "fold", "csv": "csv"}
    wrong = []
    for head, part in heads.items():
        table = LANGUAGE.partition(f"| key of `{head}` | default |")[2].partition("\n\n")[0]
        for key, default in re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", table, re.MULTILINE):
            written = schema[part]["properties"][key].get("default")
            shown = json.dumps(written) if not isinstance(written, str) or not written else written
            if default != shown:
                wrong.append((part, key, default, written))
    assert wrong == []
