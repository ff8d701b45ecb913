"""A located file -> schema check -> long form -> the frozen types; or findings that say what to change."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.errors import SpecErrors
from engine.spec.expand import expand
from engine.spec.findings import Finding, did_you_mean, errors_in, in_file_order
from engine.spec.located import Located, read_file
from engine.spec.shipped import bundled
from engine.spec.types import Client, Connector
from engine.spec.violations import schema_fault, violations

T = TypeVar("T")

_TRUTHS = ("write true", "write false")
_AT = re.compile(r" - at `\$(.*)`\Z")
_FRACTIONS = ("Expected `int`, got `decimal`", "Expected `int | str`, got `decimal`")
_PART = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[(\.\.\.)\]")


def load_connector(located: Located, *, strict_schema: bool = True) -> tuple[Connector | None, list[Finding], Located]:
    """
    The connector (None where a finding is an error), all findings, and the file in its long form.

    The returned Located has the paths of the types: `actions.view.steps.request.request.path`.
    """
    found = list(located.findings)
    if strict_schema:
        found = once(found, violations(located, "connector"))
    if errors_in(found):
        return None, in_file_order(found), located
    grown, unexpanded = expand(located)
    found += unexpanded
    if not unexpanded:  # the long form is a valid short form; an expansion may have made something that is not
        found += violations(grown, "connector")
    connector = None if errors_in(found) else _converted(grown, Connector, found)
    if connector is not None:
        found += _unusable_schemas(connector, grown)
    return (None if errors_in(found) else connector), in_file_order(found), grown


def load_client(located: Located, *, strict_schema: bool = True) -> tuple[Client | None, list[Finding], Located]:
    """As load_connector; a client file has no short forms."""
    found = list(located.findings)
    if strict_schema:
        found = _without_secrets(once(found, violations(located, "client")))
    client = None if errors_in(found) else _converted(located, Client, found)
    return (None if errors_in(found) else client), in_file_order(found), located


def load_schema_ref(
    located: Located, connector: Connector, *, root: Path | None = None
) -> tuple[dict[str, Any] | None, list[Finding]]:
    """
    The event schema that `receive.schema` gives or refers to; None where there is none.

    A reference is taken from the connector's own folder, then from the schemas that come with the engine, and never
    from outside of `root`, the project's directory.
    """
    schema = connector.receive.schema
    path = ("receive", "schema")
    if schema is None:
        return None, []
    reference = schema.get("$ref")
    if not isinstance(reference, str) or reference.startswith("#"):
        return _usable(schema, located, path)
    if len(schema) > 1:
        return None, [located.finding(path, "schema", "beside $ref nothing else can stand here")]
    try:
        target = schema_file(reference, Path(located.file).parent, root)
    except ValueError as error:
        return None, [located.finding((*path, "$ref"), "schema", str(error))]
    read, says = read_schema(target)
    if says:
        return None, [located.finding((*path, "$ref"), "schema", says)]
    return _usable(read, located, (*path, "$ref"))


def once(read: list[Finding], violated: list[Finding]) -> list[Finding]:
    """Where a word should be true or false, that is said, and not that it should stand in quotes."""
    wanted = {(each.line, each.column) for each in violated if each.rule == "type" and each.hint in _TRUTHS}
    return [each for each in read if each.rule != "unquoted" or (each.line, each.column) not in wanted] + violated


def _without_secrets(findings: list[Finding]) -> list[Finding]:
    """Where a secret stands as a literal, no other finding shows it."""
    places = {(finding.line, finding.column) for finding in findings if finding.rule == "secret-literal"}
    return [each for each in findings if each.rule == "secret-literal" or (each.line, each.column) not in places]


def _usable(schema: Any, located: Located, path: tuple[str, ...]) -> tuple[dict[str, Any] | None, list[Finding]]:
    if fault := schema_fault(schema):
        return None, [located.finding(path, "schema", f"not a JSON Schema: {fault}")]
    return schema, []


def schema_file(reference: str, folder: Path, root: Path | None) -> Path:
    """The file that `receive.schema` of a connector in `folder` refers to. Raises ValueError with what is wrong."""
    if re.match(r"[a-z][a-z0-9+.-]*:|/|\\", reference, re.IGNORECASE):
        raise ValueError(f"{reference}: must be a path from this file, such as ../schemas/events/x.schema.json")
    target = (folder / reference.partition("#")[0]).resolve()
    home = root.resolve() if root is not None else folder.resolve().parent
    ours = bundled("schemas").resolve()
    if target.is_relative_to(home) or target.is_relative_to(ours):
        if target.is_file():
            return target
    else:
        raise ValueError(f"{reference}: leads out of the project")
    below = re.sub(r"^(\.\./)*(schemas/)?", "", reference)
    shipped = (ours / below).resolve()
    if shipped.is_relative_to(ours) and shipped.is_file():
        return shipped
    raise ValueError(f"{reference}: no such file")


def read_schema(target: Path) -> tuple[Any, str]:
    """The schema, or what is wrong with its file."""
    try:
        if target.suffix in (".yaml", ".yml"):
            return read_file(target).data, ""
        if target.stat().st_size > 1_000_000:
            return None, f"{target.name} is larger than 1 MB"
        schema = json.loads(target.read_bytes())
    except SpecErrors as error:
        return None, str(error.findings[0])
    except OSError as error:
        return None, f"{target.name} can't be read: {error.strerror}"
    except json.JSONDecodeError as error:
        return None, f"{target.name}:{error.lineno}:{error.colno}: not JSON: {error.msg}"
    except (UnicodeDecodeError, RecursionError):
        return None, f"{target.name}: not JSON"
    if not isinstance(schema, dict):
        return None, f"{target.name}: a JSON Schema is an object"
    return schema, ""


def _unusable_schemas(connector: Connector, located: Located) -> list[Finding]:
    found = []
    for name, setting in connector.settings.properties.items():
        if fault := schema_fault(setting):
            found.append(located.finding(("settings", "properties", name), "schema", f"not a JSON Schema: {fault}"))
    for name in connector.settings.required:
        if name not in connector.settings.properties:
            path = ("settings", "required", connector.settings.required.index(name))
            hint = did_you_mean(name, connector.settings.properties)
            found.append(located.finding(path, "unknown-setting", f"{name} is not among the properties", hint))
    for name, action in connector.actions.items():
        for index, requirement in enumerate(action.require):
            if requirement.schema is not None and (fault := schema_fault(requirement.schema)):
                place = ("actions", name, "require", index, "schema")
                found.append(located.finding(place, "schema", f"not a JSON Schema: {fault}"))
    return found


def _converted(located: Located, kind: type[T], found: list[Finding]) -> T | None:
    """Adds a finding where the data do not fit, such as 5.0 for a whole number, which a schema lets through."""
    try:
        return msgspec.convert(located.data, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        at = _AT.search(text)
        path = _path(at[1], located.data) if at else ()
        says = text[: at.start()] if at else text
        says = "must be a whole number, written without a point" if says in _FRACTIONS else says[:1].lower() + says[1:]
        found.append(located.finding(path, "shape", says))
        return None


def _path(text: str, data: Any) -> tuple[str | int, ...]:
    """msgspec names a map's entry `[...]`; from there on the place is not known."""
    path: list[str | int] = []
    for name, index, some in _PART.findall(text):
        if some or data is None:
            break
        part: str | int = int(index) if index else name
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            break
        path.append(part)
    return tuple(path)
