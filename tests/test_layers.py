"""The house in its order: what is below knows nothing of what is above it (docs/architecture.md)."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent.parent / "engine"

# From the ground to the doors. A name stands for its package too; a module imports only what is listed before it.
LAYERS = (
    # ground
    "errors", "records", "ports", "clock", "ids", "names", "owners", "privacy.people", "segments", "writing",
    # the language
    "spec.units", "spec.types", "spec.findings", "functions", "notations", "expressions",
    # a spec, from its file to its types
    "spec.shipped", "spec.sound", "spec.located", "spec.presets", "spec.expand", "spec.violations", "spec.load",
    "spec.project", "spec.compiled",
    "spec.fix", "spec.report",
    # the stages
    "mapping", "bodies", "unpacking", "door.meters", "door.senders", "intake", "door.published", "caching", "batching",
    "limits", "privacy.personal", "http", "tls", "egress", "privacy.masking", "sending", "retrying", "outcomes",
    "wire", "signing", "placing", "auth", "exchange", "lookups", "steps", "sequence", "program",
    "onboarding.provisioning",
    # the walk
    "telemetry.journal", "turns", "walk", "reporting", "withdrawn", "settling", "direct", "worker",
    # adapters
    "aws", "telemetry.measures", "telemetry.emf", "telemetry.log", "telemetry.tracing", "telemetry.audit",
    "alerts", "secrets", "stores", "trail", "upkeep.capacity", "upkeep.counts",
    # what runs a spec without its vendor
    "sandbox", "authoring.examples", "authoring.explaining", "authoring.curl", "authoring.preview",
    "authoring.differences", "authoring.planning", "authoring.versions", "authoring.pages", "spec.check",
    "authoring.coverage",
    # what a shop's pages need
    "tagging",
    # what writes a new spec
    "authoring.openapi", "authoring.scaffold",
    # what puts a project into a cloud
    "deploying",
    # wiring
    "upkeep.housekeeping", "privacy.forgetting", "upkeep.copying", "runtime", "upkeep.dead_letters", "trail.ways",
    "onboarding.login", "onboarding.checking",
    # doors
    "door.answers", "door.asgi", "door.gateway", "door.trimmed", "door.listening", "door.access", "door.events",
    "dashboard", "wiring", "lambdas", "door.admin", "serve", "demo", "authoring.cassettes", "cli",
)  # fmt: skip


def modules() -> dict[str, Path]:
    """spec.load -> its file; a package is called by its folder."""
    found = {}
    for path in ENGINE.rglob("*.py"):
        name = ".".join(path.relative_to(ENGINE).with_suffix("").parts)
        found[name.removesuffix("__init__").removesuffix(".")] = path
    return {name: path for name, path in found.items() if name}


MODULES = modules()


def layer(module: str) -> str | None:
    """The listed name that a module belongs to: stores for stores.sqlite."""
    parts = module.split(".")
    return next((name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in LAYERS), None)


def imported(path: Path) -> set[str]:
    """The engine's modules that a file imports anywhere in it, but for those it only needs for its types."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are written whole"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                found.add(whole if whole.removeprefix("engine.") in MODULES else node.module)
    return {name.removeprefix("engine.") for name in found if name.startswith("engine.")}


@cache
def imports(module: str) -> set[str]:
    return imported(MODULES[module])


def test_every_module_is_in_the_list_and_the_list_has_no_other() -> None:
    packages = {"spec", "authoring", "door", "onboarding", "privacy", "telemetry", "upkeep"}
    assert [name for name in sorted(MODULES) if layer(name) is None and name not in packages] == []
    assert [name for name in LAYERS if name not in MODULES] == []
    assert len(set(LAYERS)) == len(LAYERS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_is_listed_before_it(module: str) -> None:
    own = layer(module)
    if own is None:
        assert imports(module) == set()
        return
    wrong = {
        other
        for other in imports(module)
        if (of := layer(other)) != own and (of is None or LAYERS.index(of) > LAYERS.index(own))
    }
    assert wrong == set()


def test_no_import_leads_back_to_where_it_came_from() -> None:
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for other in sorted(imports(module) - {module}):
                walk(other, (*way, module))
            done.add(module)

    for module in sorted(MODULES):
        walk(module, ())


SLOW = (
    "httpx",
    "authlib",
    "jsonschema",
    "babel",
    "boto3",
    "keyring",
    "rich",
    "starlette",
    "uvicorn",
    "cryptography",
    "opentelemetry",
)


def test_what_is_slow_to_import_is_imported_where_it_is_used() -> None:
    """`python -c "import engine.runtime"` stays quick."""
    import subprocess
    import sys

    code = f"import sys, engine.runtime, engine.spec.load; print([name for name in {SLOW!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
