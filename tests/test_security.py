"""The threat model names tests that exist, and the audit of packages never claims what it did not do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_that_the_threat_model_names_exists() -> None:
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8"))
    }
    named = set(re.findall(r"`(test_\w+)`", SECURITY))
    assert len(named) > 40
    assert named - there == set()


def test_every_row_of_the_threat_model_names_a_test() -> None:
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ") and "---" not in line]
    assert [row for row in rows if "`test_" not in row and "what stops them" not in row] == []


def test_an_audit_that_could_not_ask_says_that_nothing_was_checked(tmp_path: Path) -> None:
    """A stand-in for pip-audit: without an answer, with a finding, without one."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    tool = tmp_path / ".cache" / "audit" / "bin" / "pip-audit"
    tool.parent.mkdir(parents=True)

    def audited(script: str) -> tuple[int, str]:
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        env = {"PATH": os.environ["PATH"]}
        done = subprocess.run(["make", "audit"], cwd=tmp_path, capture_output=True, text=True, env=env, check=False)
        return done.returncode, done.stdout

    code, said = audited("echo 'requests.exceptions.ConnectionError: nobody there' >&2; exit 1")
    assert (code, "NOTHING WAS CHECKED" in said) == (2, True)
    code, said = audited("echo 'jinja2 2.0 CVE-2019-10906'; exit 1")
    assert (code != 0, said) == (True, "jinja2 2.0 CVE-2019-10906\n")
    assert audited("echo 'No known vulnerabilities found'") == (0, "No known vulnerabilities found\n")
