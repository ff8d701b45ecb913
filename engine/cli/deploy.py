"""Write what puts the project's connectors and clients into a cloud."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from engine.deploying.bundle import Bundle
    from engine.deploying.parts import Options
    from engine.deploying.shipping import Change
    from engine.spec.project import Project

REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")
STAGE = re.compile(r"[a-z][a-z0-9]{0,15}")
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")


@click.group("deploy", short_help="Write the template that puts the project into AWS.")
def command() -> None:
    """Write what puts the project into a cloud; nothing is deployed by it."""


@command.command("aws", short_help="Write a template of AWS SAM, and all that goes with it.")
@click.option(
    "--out", required=True, metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Where it is written."
)
@click.option("--region", metavar="REGION", help="Of AWS.  [default: sa-east-1]")
@click.option("--stage", metavar="NAME", help="Begins all names but those of `prod`, such as test.  [default: prod]")
@click.option(
    "--functions",
    type=click.Choice(["shared", "per-client"]),
    help="One for all clients of a connector, or for each its own.  [default: shared]",
)
@click.option(
    "--stacks",
    metavar="N",
    type=click.IntRange(0, 200),
    help="Stacks for secrets and dashboards of clients.  [default: by the number of clients]",
)
@click.option("--email", metavar="ADDRESS", help="Who is told of alarms.")
@click.option("--package", metavar="REQUIREMENT", help="Where pip finds the engine.  [default: this version]")
@click.option("--check", is_flag=True, help="Write nothing; end with 1 where DIR is not current.")
@click.option("--force", is_flag=True, help="Overwrite files that this command did not make.")
@options.as_json
@options.project
def aws(
    out: Path,
    region: str | None,
    stage: str | None,
    functions: str | None,
    stacks: int | None,
    email: str | None,
    package: str | None,
    check: bool,
    force: bool,
    as_json: bool,
    directory: Path,
) -> int:
    """
    Write a template of AWS SAM for the project, and all that is needed to build and deploy it.

    API, functions, table, schedules, roles, names of secrets, alarms and dashboards: see docs/aws.md. What is chosen
    once is kept in DIR and need not be said again. No secret is read or written.
    """
    from engine.deploying import shipping
    from engine.deploying.bundle import bundle
    from engine.spec.check import check as check_files
    from engine.spec.findings import errors_in

    project = options.open_project(directory)
    before = shipping.read(out)
    given = {
        "region": checked("--region", region, REGION, "a region such as sa-east-1"),
        "stage": checked("--stage", stage, STAGE, "up to 16 small letters and digits, such as test"),
        "functions": functions,
        "stacks": stacks,
        "email": checked("--email", email, EMAIL, "an address such as ops@example.com"),
        "package": package,
    }
    chosen = choose(before.options if before is not None else None, given, project)
    made = bundle(project, chosen)
    # A client that lacks a secret or a setting could be deployed, and would stand still there.
    wrong = errors_in(check_files(project, list(project.client_files().values()), examples=False))
    made = made._replace(findings=[*wrong, *made.findings])
    if errors_in(made.findings):
        tell(made, [], out, as_json=as_json, done="nothing was written")
        return 1
    if check:
        changed = shipping.stale(out, made.files, chosen)
        tell(made, changed, out, as_json=as_json, done="not current" if changed else "current")
        return 1 if changed else 0
    written = shipping.write(out, made.files, chosen, force=force)
    tell(made, written, out, as_json=as_json, done="written")
    return 0


def checked(option: str, given: str | None, form: re.Pattern[str], wanted: str) -> str | None:
    from engine.errors import UsageError

    if given is not None and not form.fullmatch(given):
        raise UsageError(f"{option} {given}: {wanted}")
    return given


def choose(before: Options | None, given: dict[str, Any], project: Project) -> Options:
    """What was said now, else what was said before, else the default."""
    import msgspec

    from engine.deploying.parts import Options, stacks_for

    said = {name: value for name, value in given.items() if value is not None}
    if before is not None:
        return msgspec.structs.replace(before, **said)
    if "stacks" not in said and said.get("functions") != "per-client":
        said["stacks"] = stacks_for(len(project.client_files()))
    return Options(**said)


def tell(made: Bundle, changes: list[Change], out: Path, *, as_json: bool, done: str) -> None:
    from engine.deploying.shipping import shown

    if as_json:
        output.print_json(
            {
                "out": str(out),
                "state": done,
                "files": [shown(change) for change in changes],
                "functions": made.functions,
                "resources": made.resources,
                "unused": made.unused,
                "findings": [finding_as_json(each) for each in made.findings],
            }
        )
        return
    for each in made.findings:
        click.echo(("warning: " if each.severity == "warning" else "") + str(each), err=True)
    for change in changes:
        if change.state != "current":
            click.echo(f"{out / change.path}: {change.state if done != 'not current' else 'not current'}")
    click.echo(f"{out}: {done}; {made.functions} functions, {made.resources} resources")
    if done == "written":
        click.echo(f"What comes next stands in {out / 'README.md'}.")


def finding_as_json(finding: Any) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in finding.__struct_fields__}
