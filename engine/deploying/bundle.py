"""A project -> all files of the folder that `sam` builds and deploys, and what stands in the way of that."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.authoring.scaffold.writing import block, plain
from engine.deploying import permissions
from engine.deploying.guide import guide
from engine.deploying.parts import MOST_RESERVED, Parts, planned, stacks_for
from engine.deploying.references import MOST_BYTES as MOST_OF_A_SECRET
from engine.deploying.references import OF_A_KEY, rewritten, unreachable
from engine.deploying.template import MOST_BYTES, MOST_RESOURCES, count, of_clients, template, text
from engine.errors import SpecErrors
from engine.spec.compiled import NAME, write_compiled
from engine.spec.findings import Finding, errors_in, in_file_order
from engine.spec.project import Project

if TYPE_CHECKING:
    from engine.deploying.parts import Options
    from engine.spec.project import Settings

HEAD = "Made by `connect deploy aws`. Change the project and run it again; what is changed here by hand is not kept."
MADE_BY = "# " + HEAD
TEMPLATE = "template.yaml"


class Bundle(NamedTuple):
    """Files by their path in the folder; `findings` that are errors say why they should not be written."""

    files: dict[str, str]
    findings: list[Finding]
    functions: int
    resources: int
    unused: list[str]


def bundle(project: Project, options: Options) -> Bundle:
    """
    Nothing is written, and no secret is read.

    Raises UsageError where there is nothing to deploy, SpecErrors for a project with findings.
    """
    connectors, clients, findings = project.all()
    if errors := errors_in(findings):
        raise SpecErrors(errors)
    files = project.connector_files()
    home = project.directory.resolve()
    own = [name for name, path in files.items() if path.resolve().is_relative_to(home)]
    parts = planned(connectors, clients, own, options)
    made, nested = template(parts), of_clients(parts)
    shipped = {
        TEMPLATE: text(made, HEAD),
        **{file: text(each, HEAD) for file, each in nested.items()},
        "samconfig.toml": samconfig(options),
        "README.md": guide(parts),
        "app/requirements.txt": f"{MADE_BY}\n{options.package or package()}\n",
        "app/connect.yaml": settings(project.settings, options.prefix),
    }
    found: list[Finding] = []
    for name in parts.connectors:
        if name in own:
            shipped |= connector_files(files[name], home)
    for path in project.client_files().values():
        loaded = project.loaded_client(path)
        assert loaded.value is not None
        assert loaded.located is not None
        references = parts.references[loaded.value.client]
        lost = list(unreachable(loaded, references))
        found += lost
        if not lost:
            shipped[f"app/clients/{path.name}"] = f"{MADE_BY}\n{rewritten(loaded.located, references)}"
    found += too_much(parts, made, nested)
    if project.settings.name is None:
        says = "the project has no name; two of them on one stack or table would undo each other"
        found.append(_about("connect.yaml", "deploy-name", says, "write name: NAME into connect.yaml", "warning"))
    if not errors_in(found):
        shipped[f"app/{NAME}"] = compiled(shipped)
    return Bundle(
        shipped, in_file_order(found), len(parts.functions), sum(map(count, [made, *nested.values()])), parts.unused
    )


def compiled(shipped: dict[str, str]) -> str:
    """What is shipped, read and checked, so that a function starts without YAML."""
    with TemporaryDirectory() as folder:
        app = Path(folder) / "app"
        for path, text_ in shipped.items():
            if path.startswith("app/"):
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / path).write_text(text_, encoding="utf-8", newline="\n")
        return write_compiled(Project(app)).read_text(encoding="utf-8")


def package() -> str:
    """This version, as pip wants it said."""
    return f"daxgo-connect[aws]=={version('daxgo-connect')}"


def connector_files(path: Path, home: Path) -> dict[str, str]:
    """The connector as it is, and the schema of its events where that is the project's own."""
    from engine.spec.located import read_file

    shipped = {f"app/connectors/{path.name}": path.read_text(encoding="utf-8")}
    receive = read_file(path).data.get("receive")
    schema = receive.get("schema") if isinstance(receive, dict) else None
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if isinstance(reference, str) and not reference.startswith("#"):
        target = (path.parent / reference.partition("#")[0]).resolve()
        if target.is_file() and target.is_relative_to(home):
            shipped[f"app/{target.relative_to(home).as_posix()}"] = target.read_text(encoding="utf-8")
    return shipped


def settings(given: Settings, prefix: str) -> str:
    """`connect.yaml` for a function: what has a meaning there. Its files can't be written, and never change."""
    kept: dict[str, Any] = {"name": given.name or prefix}
    for name, default in (("log_level", "info"), ("allow_private", False), ("proxy", None)):
        if getattr(given, name) != default:
            kept[name] = getattr(given, name)
    if given.dead.keep is not None:
        kept["dead"] = {"keep": given.dead.keep}
    kept |= {"reload": False, "audit": "-"}
    return "\n".join([MADE_BY, *block(kept)]) + "\n"


def samconfig(options: Options) -> str:
    """What `sam build` and `sam deploy` are called with."""
    quoted = msgspec.json.encode
    deploy: dict[str, Any] = {
        "stack_name": options.prefix,
        "region": options.region,
        "resolve_s3": True,
        "s3_prefix": options.prefix,
        "capabilities": "CAPABILITY_NAMED_IAM",
        "confirm_changeset": True,
        "fail_on_empty_changeset": False,
    }
    tables = {"global": {}, "build": {"cached": True, "parallel": True}, "deploy": deploy}
    lines = [MADE_BY, "version = 0.1"]
    for command, values in tables.items():
        if values:
            lines += [
                "",
                f"[default.{command}.parameters]",
                *(f"{key} = {quoted(value).decode()}" for key, value in values.items()),
            ]
    return "\n".join(lines) + "\n"


def too_much(parts: Parts, made: dict[Any, Any], nested: dict[str, dict[Any, Any]]) -> list[Finding]:
    """What AWS would not take, with what to do about it."""
    per_client = parts.options.functions == "per-client"
    less = "use --functions shared" if per_client else f"use --stacks {stacks_for(len(parts.clients))}"
    found = []
    for file, each in {TEMPLATE: made, **nested}.items():
        resources, size = count(each), len(text(each, HEAD).encode())
        if resources > MOST_RESOURCES:
            says = f"{resources} resources, and CloudFormation takes {MOST_RESOURCES} in one template"
            found.append(_about(file, "deploy-size", says, less))
        if size > MOST_BYTES:
            says = f"{size} bytes, and CloudFormation takes {MOST_BYTES} for one template"
            found.append(_about(file, "deploy-size", says, less))
    for name, resource in plain(made["Resources"]).items():
        if resource["Type"] == "AWS::IAM::Role":
            bytes_ = permissions.size(resource)
            if bytes_ > permissions.MOST_BYTES:
                says = f"{name}: a policy of {bytes_} bytes, and IAM takes {permissions.MOST_BYTES}"
                hint = less if per_client else "write env:NAME for secrets, so that one pattern covers them"
                found.append(_about(TEMPLATE, "deploy-policy", says, hint))
    for secret in parts.secrets:
        bytes_ = sum(len(field) + OF_A_KEY for field in secret.fields)
        if bytes_ > MOST_OF_A_SECRET:
            says = (
                f"{secret.name}: {len(secret.fields)} fields do not fit into the {MOST_OF_A_SECRET} bytes of a secret"
            )
            hint = "name secrets of your own, aws-secretsmanager:NAME#FIELD, or make two projects of it"
            found.append(_about(TEMPLATE, "deploy-size", says, hint))
    for name in parts.connectors:
        if per_client and f"/{name}" not in {route.path for route in parts.routes}:
            says = f"several clients have {name}, each with a function of its own, and an API tells them apart by path"
            hint = f"let their tags post to /{name}/CLIENT"
            found.append(_about(TEMPLATE, "deploy-path", says, hint, "warning"))
    reserved = sum(function.concurrency for function in parts.functions)
    if reserved > MOST_RESERVED:
        says = f"{reserved} concurrent executions are reserved, and an account has 1,000 at first"
        hint = "ask AWS for more, or deploy with ReserveConcurrency=false"
        found.append(_about(TEMPLATE, "deploy-concurrency", says, hint, "warning"))
    return found


def _about(file: str, rule: str, says: str, hint: str, severity: Any = "error") -> Finding:
    return Finding(file, 1, 1, rule, severity, says, hint)
