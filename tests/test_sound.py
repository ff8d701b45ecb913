from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.spec import sound
from engine.spec.sound import Asked
from tests.command import connect

CONNECTOR = """connect: 1
name: acme
title: Acme
hosts: [api.acme.example]
settings: {properties: {shop: {type: string}}}
receive: {schema: {$ref: ../schemas/event.json}}
http: {base_url: https://api.acme.example}
actions:
  note: {record: {a: "${ event.a }"}, request: {path: /a, json: "${ record }", expect: "${ response.body }"}}
examples:
  - name: a note
    events: [{a: b}]
    exchange: [{sends: {path: /a}, answers: {body: {a: 1}}}]
    outcomes: {note: [delivered]}
"""
CLIENT = "client: a\ningest: {keys: ['env:A']}\nconnectors: {acme: {settings: {shop: x}}}\n"
SCHEMA = '{"type": "object", "properties": {"a": {"type": "string"}}}'
SAYS = "no findings in 2 files"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"connectors/acme.yaml": CONNECTOR, "clients/a.yaml": CLIENT, "schemas/event.json": SCHEMA}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def answered(folder: Path, *paths: Path) -> str | None:
    return Asked(folder, paths).answer()


def kept(folder: Path, *paths: Path) -> None:
    Asked(folder, paths).keep(SAYS, [str(folder / "schemas/event.json"), str(folder / "elsewhere.json")])
    assert answered(folder, *paths) == SAYS


def test_what_was_sound_is_said_again_of_the_same_files_only(folder: Path) -> None:
    kept(folder)
    assert answered(folder, folder / "clients/a.yaml") is None
    kept(folder, folder / "clients/a.yaml")
    assert answered(folder) == SAYS


CHANGES: dict[str, Callable[[Path], object]] = {
    "a connector": lambda folder: (folder / "connectors/acme.yaml").write_text(CONNECTOR + "\n"),
    "a client": lambda folder: (folder / "clients/a.yaml").unlink(),
    "one more client": lambda folder: (folder / "clients/b.yaml").write_text(CLIENT),
    "the settings": lambda folder: (folder / "connect.yaml").write_text("port: 8080\n"),
    "a schema": lambda folder: (folder / "schemas/event.json").write_text("{}"),
    "a schema that was not there": lambda folder: (folder / "elsewhere.json").write_text("{}"),
    "a name": lambda folder: (folder / "clients/a.yaml").rename(folder / "clients/c.yaml"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_after_a_change_files_are_looked_at_again(what: str, folder: Path) -> None:
    kept(folder)
    CHANGES[what](folder)
    assert answered(folder) is None


def test_another_engine_does_not_say_what_one_before_it_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(folder)
    monkeypatch.setattr(sound, "engine", lambda: "another")
    assert answered(folder) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"engine": 1}', '{"engine": "x", "answers": []}'])
def test_answers_that_can_not_be_read_are_none(text: str, folder: Path) -> None:
    kept(folder)
    (folder / ".connect/cache/sound.json").write_text(text)
    assert answered(folder) is None
    kept(folder)


def test_an_answer_of_another_shape_is_none(folder: Path) -> None:
    kept(folder)
    file = folder / ".connect/cache/sound.json"
    data = json.loads(file.read_text())
    for answer in (
        "yes",
        {"state": Asked(folder, ()).state},
        {"state": Asked(folder, ()).state, "refers": 1, "says": 2},
    ):
        file.write_text(json.dumps({**data, "answers": dict.fromkeys(data["answers"], answer)}))
        assert answered(folder) is None


def test_only_so_many_answers_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "MOST", 2)
    files = [folder / "connectors/acme.yaml", folder / "clients/a.yaml"]
    kept(folder)
    for file in files:
        kept(folder, file)
    assert [answered(folder), *(answered(folder, file) for file in files)] == [None, SAYS, SAYS]


def test_a_folder_or_a_page_is_always_looked_at(folder: Path) -> None:
    (folder / "page.md").write_text("# none")
    for path in (folder / "clients", folder / "page.md", folder / "nowhere.yaml"):
        asked = Asked(folder, [path])
        asked.keep(SAYS, [])
        assert asked.answer() is None


def test_validate_finds_what_a_change_broke_though_it_was_sound_before(folder: Path) -> None:
    for _ in range(2):
        assert connect("validate", project=folder).out == f"{SAYS}\n"
    (folder / "schemas/event.json").write_text(SCHEMA.replace('"a"', '"b"')[:-1] + ', "additionalProperties": false}')
    ended = connect("validate", project=folder)
    assert (ended.code, "[event-path]" in ended.out) == (1, True)
    (folder / "schemas/event.json").write_text(SCHEMA)
    assert connect("validate", project=folder).out == f"{SAYS}\n"


def test_a_warning_is_said_each_time(folder: Path) -> None:
    (folder / "clients/a.yaml").write_text(CLIENT.replace("ingest: {keys: ['env:A']}\n", ""))
    first, second = (connect("validate", project=folder) for _ in range(2))
    assert first == second
    assert "[no-key]" in first.out
