"""
The packages of others, each with the environment that `make competitors` makes for it under .cache/benchmarks.

They are never installed beside ours: what they pin would decide what we run. A contestant runs there as a process of
its own (`measuring.Beside([python(), script])`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

from benchmarks.measuring import ROOT

FOLDER = ROOT / ".cache" / "benchmarks"
PYTHON = FOLDER / "venv" / "bin" / "python"
NODE = FOLDER / "node"  # run node with this as its working directory, or NODE_PATH = NODE / "node_modules"
ASK = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@cache
def version(package: str) -> str | None:
    """Its name and version, "airbyte-cdk 7.39.1", "@segment/actions-core 3.170.0"; None where it is not installed."""
    found = NODE / "node_modules" / package / "package.json"
    if found.exists():
        return f"{package} {json.loads(found.read_text())['version']}" if shutil.which("node") else None
    if not PYTHON.exists():
        return None
    done = subprocess.run([PYTHON, "-c", ASK, package], capture_output=True, text=True, check=False)
    return f"{package} {done.stdout.strip()}" if done.returncode == 0 else None


def why_not(package: str) -> str:
    """Why it is not had here, for `measuring.missing`."""
    if package.startswith("@") and shutil.which("node") is None:
        return "node is not here"
    said = FOLDER / ("node.said" if package.startswith("@") else "venv.said")
    if said.exists():
        return f"make competitors could not install it ({said.relative_to(ROOT)})"
    return "not installed; run make competitors"


def python() -> Path:
    """The interpreter that has them."""
    return PYTHON


def node() -> str:
    found = shutil.which("node")
    if found is None:
        raise RuntimeError("node is not here")
    return found
