"""Projects of any size out of the connectors and clients that come with the engine: copies under other names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from benchmarks.measuring import ROOT


def bound() -> dict[str, str]:
    """Of each connector that a sample client binds: what the client file says of it, its lines as they stand there."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "clients").glob("*.yaml")):
        lines, name = file.read_text().partition("\nconnectors:\n")[2].splitlines(), ""
        for line in lines:
            if begins := re.match(r"  (\w+):", line):
                name = begins[1]
                found[name] = []
            else:
                found[name].append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def write_project(folder: Path, *, connectors: int, clients: int) -> Path:
    """
    `connectors` of the size of real ones (beyond the few that there are, as copies) and `clients` that bind one each.

    A client has a write key of its own, and its secrets from variables that all share.
    """
    for part in ("connectors", "clients"):
        (folder / part).mkdir(parents=True)
    shutil.copytree(ROOT / "schemas", folder / "schemas")
    bindings = bound()
    names = []
    for number in range(connectors):
        of = sorted(bindings)[number % len(bindings)]
        name = of if number < len(bindings) else f"{of}{number // len(bindings)}"
        text = (ROOT / "connectors" / f"{of}.yaml").read_text()
        (folder / "connectors" / f"{name}.yaml").write_text(
            re.sub(rf"^name: {of}$", f"name: {name}", text, flags=re.MULTILINE)
        )
        names.append((name, of))
    for number in range(clients):
        name, of = names[number % len(names)]
        (folder / "clients" / f"shop-{number:04}.yaml").write_text(
            f"client: shop-{number:04}\ntitle: Loja {number}\n"
            f"ingest:\n  keys: ['env:SHOP_{number:04}_KEY']\n  origins: ['https://shop-{number:04}.example']\n"
            f"connectors:\n  {name}:\n{re.sub(r'match: .*', f'match: shop-{number:04}', bindings[of])}\n"
        )
    return folder
