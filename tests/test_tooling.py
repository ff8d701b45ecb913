"""What other tools read: the hook of pre-commit, the workflow for GitHub, the settings for an editor."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.spec.violations import bundled
from tests.command import ROOT, connect, make_project

HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
WORKFLOW = yaml.safe_load((ROOT / "docs/github-workflow.yml").read_text())
SETTINGS = json.loads((ROOT / ".vscode/settings.json").read_text())


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_runs_for_the_files_that_are_checked(hook: dict[str, Any], tmp_path: Path) -> None:
    assert set(hook) == {"id", "name", "description", "entry", "language", "files", "pass_filenames"}
    runs = {
        name: re.search(hook["files"], name) is not None
        for name in (
            "connectors/acme.yaml",
            "shop/clients/a.yml",
            "connect.yaml",
            "docs/connectors/acme.md",
            "compose.yaml",
            "connectors/deep/acme.yaml",
            "reconnect.yaml",
        )
    }
    assert runs == dict(zip(runs, (True, True, True, False, False, False, False), strict=True))
    command, *arguments = shlex.split(hook["entry"])
    assert (command, hook["language"]) == ("connect", "python")
    project = make_project(tmp_path)
    assert connect(*arguments, project=project).code == 0
    file = project / "connectors/rdstation.yaml"
    file.write_text(file.read_text().replace("\ntitle:", "\nheadline:"))
    assert connect(*arguments, project=project).code == 1


def commands() -> list[list[str]]:
    """Each `connect …` of the workflow, without what the shell does with it."""
    lines = [line.strip() for step in WORKFLOW["jobs"]["check"]["steps"] for line in step.get("run", "").split("\n")]
    return [shlex.split(re.split(r" [>|]", line)[0]) for line in lines if line.startswith("connect ")]


def test_the_workflow_checks_tests_and_plans_with_options_that_there_are(tmp_path: Path) -> None:
    found = commands()
    assert [command[1] for command in found] == ["validate", "validate", "test", "plan"]
    for command in found:
        shown = connect(command[1], "--help", project=tmp_path).out
        assert [word for word in command if word.startswith("--") and word not in shown] == []


def test_the_workflow_uploads_what_it_wrote_and_asks_for_no_more_rights_than_that() -> None:
    steps = WORKFLOW["jobs"]["check"]["steps"]
    used = {step["uses"].partition("@")[0]: step.get("with", {}) for step in steps if "uses" in step}
    assert used["github/codeql-action/upload-sarif"]["sarif_file"] == "connect.sarif"
    assert used["actions/upload-artifact"]["path"] == "junit.xml"
    written = "\n".join(step.get("run", "") for step in steps)
    assert [name for name in ("connect.sarif", "junit.xml", "plan.md") if name not in written] == []
    assert WORKFLOW["permissions"] == {}
    assert WORKFLOW["jobs"]["check"]["permissions"] == {
        "contents": "read",
        "security-events": "write",
        "pull-requests": "write",
    }
    assert "${{" not in written, "what comes from outside reaches a shell as a variable only"


def test_the_editor_knows_the_schema_of_each_kind_of_file() -> None:
    known = {Path(schema).name: files for schema, files in SETTINGS["yaml.schemas"].items()}
    assert known == {
        "connector.schema.json": ["connectors/*.yaml", "connectors/*.yml"],
        "client.schema.json": ["clients/*.yaml", "clients/*.yml"],
        "project.schema.json": ["connect.yaml"],
    }
    for schema in SETTINGS["yaml.schemas"]:
        assert (ROOT / schema).is_file()
    for kind in ("connectors", "clients"):
        for file in bundled(kind).glob("*.yaml"):
            named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", file.read_text())
            assert named is not None, file
            assert (file.parent / named[1]).resolve().is_file()
