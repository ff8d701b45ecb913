"""Run the connectors' examples: against their own exchanges, against a cassette, or to record one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from engine.cli import options, output
from engine.errors import ConnectError, SpecErrors, UsageError
from engine.spec.findings import errors_in

if TYPE_CHECKING:
    from engine.authoring.cassettes import Account
    from engine.authoring.coverage import Coverage, Reached
    from engine.spec.project import Loaded, Project
    from engine.spec.types import Connector, Example


class Told(NamedTuple):
    """What came of one example."""

    message: str = ""  # of a failure: the first difference
    skipped: str = ""  # why there was nothing to do
    file: str = ""  # the cassette that was written
    note: str = ""  # of a cassette: what it holds


class Ran(NamedTuple):
    connector: str
    name: str
    passed: bool
    message: str
    file: str
    line: int
    column: int
    seconds: float
    told: Told


Try = Callable[["Connector", "Example", int], Told]


@click.command("test")
@click.argument("names", metavar="[CONNECTOR]...", nargs=-1)
@click.option("-k", "part", default="", metavar="TEXT", help="Only examples with this in their name.")
@click.option("--coverage", "covers", is_flag=True, help="List what no example reaches: actions, branches, rules.")
@click.option("--min", "least", type=click.IntRange(0, 100), metavar="PERCENT", help="Fail below this coverage.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write JUnit XML, too.")
@click.option("--record", is_flag=True, help="Record the exchanges with the sandbox to tests/cassettes/.")
@click.option("--replay", is_flag=True, help="Compare what is sent now with the cassettes; offline.")
@click.option("--via", envvar="CONNECT_VIA", metavar="URL", help="Record from this sandbox on this machine instead.")
@click.option("--vendor", is_flag=True, help="Record from the vendor itself: events are really sent.")
@click.option("--client", metavar="NAME", help="With --vendor: whose account is used.")
@options.as_json
@options.project
def command(
    names: tuple[str, ...],
    part: str,
    covers: bool,
    least: int | None,
    junit: Path | None,
    record: bool,
    replay: bool,
    via: str | None,
    vendor: bool,
    client: str | None,
    as_json: bool,
    directory: Path,
) -> int:
    """
    Run the examples of all connectors, or of those that are named.

    Each goes through the real engine, offline and on a virtual clock: no account and no waiting. For one that fails,
    the first difference is shown, and where it stands.

    With --record the events go over real HTTP to the connector's sandbox, and what was said is kept, without secrets;
    --replay shows later that the same is sent still.
    """
    covers = covers or least is not None
    given = click.get_current_context().get_parameter_source("via") is click.core.ParameterSource.COMMANDLINE
    require_sense(record=record, replay=replay, covers=covers, vendor=vendor, client=client, via=given)
    project = options.open_project(directory)
    chosen = names or (own(project) if record or replay or covers else ())
    found = usable(project, chosen) if chosen or not (record or replay or covers) else []
    wanted = [(loaded, at, example) for loaded in found for at, example in examples(loaded, part)]
    watched = {loaded.path: coverage_of(loaded) for loaded in found} if covers else {}
    attempt: Try | None = None
    if record:
        attempt = recording(project, options.checked_via(via, project) if via and not vendor else None, client)
    elif replay:
        attempt = replaying(project)
    ran = []
    with output.progress("examples", len(wanted)) as step:
        for loaded, at, example in wanted:
            ran.append(run(loaded, at, example, attempt or plainly(watched.get(loaded.path))))
            step(example.name)
    reached = [one.reached() for one in watched.values()]
    strange = strangers(project, found, remove=record and not part) if record or replay else []
    if junit is not None:
        write_junit(junit, ran)
    if as_json:
        output.print_json(as_data(ran, reached if covers else None, record=record))
    else:
        print_results(ran, reached, record=record)
        for said in strange:
            click.echo(output.wrapped(said, below="  "))
    failed = any(not one.passed for one in ran)
    low = [one for one in reached if least is not None and one.percent < least]
    if low and not as_json:
        click.echo(output.wrapped(f"below --min {least}: {', '.join(one.connector for one in low)}", below="  "))
    return 1 if failed or low else 0


def require_sense(*, record: bool, replay: bool, covers: bool, vendor: bool, client: str | None, via: bool) -> None:
    if record and replay:
        raise UsageError("--record or --replay, not both")
    if covers and (record or replay):
        raise UsageError("--coverage and --min go with the examples, not with --record or --replay")
    if (vendor or via) and not record:
        raise UsageError("--via and --vendor go with --record")
    if vendor and via:
        raise UsageError("--via or --vendor, not both")
    if vendor != (client is not None):
        raise UsageError("--vendor and --client NAME go together: the client's account at the vendor is used")


def own(project: Project) -> tuple[str, ...]:
    """The connectors of the project's own folder; those that come with the engine have their cassettes with it."""
    folder = (project.directory / "connectors").resolve()
    return tuple(name for name, path in project.connector_files().items() if path.resolve().parent == folder)


def usable(project: Project, names: tuple[str, ...]) -> list[Loaded[Connector]]:
    """The connectors' files; UsageError for a name that is none, SpecErrors for a file that can't be used."""
    found = []
    for name in names or project.connector_files():
        project.connector(name)
        found.append(project.loaded_connector(name))
    from engine.spec.check import check

    wrong = errors_in(check(project, [Path(one.path) for one in found], examples=False))
    if wrong:
        raise SpecErrors(wrong)
    return found


def examples(loaded: Loaded[Connector], part: str) -> list[tuple[int, Example]]:
    assert loaded.value is not None
    return [(at, one) for at, one in enumerate(loaded.value.examples) if part.lower() in one.name.lower()]


def run(loaded: Loaded[Connector], at: int, example: Example, attempt: Try) -> Ran:
    assert loaded.value is not None
    assert loaded.located is not None
    began = time.perf_counter()
    told = attempt(loaded.value, example, at)
    seconds = time.perf_counter() - began
    line, column = loaded.located.mark(("examples", at))
    passed, file = not told.message, loaded.located.file
    return Ran(loaded.value.name, example.name, passed, told.message, file, line, column, seconds, told)


# --- what can be done with an example ---


def plainly(watch: Coverage | None) -> Try:
    """Against the exchange that it lists."""

    def attempt(connector: Connector, example: Example, at: int) -> Told:
        from engine.authoring.examples import run_example
        from engine.expressions import Compiler

        del at
        compiler = watch.compiler if watch is not None else Compiler
        return Told(run_example(connector, example, compiler=compiler).message)

    return attempt


def coverage_of(loaded: Loaded[Connector]) -> Coverage:
    from engine.authoring.coverage import Coverage

    assert loaded.value is not None
    assert loaded.located is not None
    return Coverage(loaded.value, loaded.located)


def recording(project: Project, via: str | None, client: str | None) -> Try:
    def attempt(connector: Connector, example: Example, at: int) -> Told:
        from engine.authoring import cassettes
        from engine.clock import SystemClock

        if example.refused is not None:
            return Told(skipped="its events are not taken in, so nothing is sent")
        account = account_of(project, connector, client) if client is not None else None
        reach = options.reach(None, project)
        try:
            recorded = cassettes.record(connector, example, clock=SystemClock(), via=via, account=account, reach=reach)
        except UsageError:
            raise
        except ConnectError as error:
            return Told(str(error))
        file = cassettes.files_of(project.directory, connector)[at]
        cassettes.keep(file, recorded.text)
        outcomes = [f"{action} {', '.join(kinds)}" for action, kinds in recorded.header.outcomes.items()]
        note = "; ".join([f"{recorded.exchanges} exchange{'s' if recorded.exchanges != 1 else ''}", *outcomes])
        return Told(file=shown(file, project), note=note)

    return attempt


def account_of(project: Project, connector: Connector, client: str) -> Account:
    from engine.authoring.cassettes import Account
    from engine.errors import SecretUnavailable
    from engine.program import Program

    who, sources = project.client(client), options.secrets_of(project)
    if connector.name not in who.connectors:
        raise UsageError(f"{client} has no connector {connector.name}; it has {', '.join(who.connectors)}")

    def secrets(program: Program) -> dict[str, str]:
        given = program.binding.secrets
        missing = sorted(
            name
            for name in program.secret_names - given.keys()
            if (field := connector.secrets.get(name)) is None or not (field.optional or field.when is not None)
        )
        if missing:
            raise SecretUnavailable(f"{client} has no secret {missing[0]}; add it to the client file")
        return {name: sources.resolve(given[name]) for name in sorted(program.secret_names & given.keys())}

    return Account(who, secrets)


def replaying(project: Project) -> Try:
    def attempt(connector: Connector, example: Example, at: int) -> Told:
        from engine.authoring import cassettes

        if example.refused is not None:
            return Told(skipped="its events are not taken in, so nothing is sent")
        file = cassettes.files_of(project.directory, connector)[at]
        again = f"connect test --record {connector.name}"
        if not file.exists():
            return Told(f"{shown(file, project)}: there is no cassette; record it: {again}")
        try:
            cassettes.replay(connector, example, file, client=project.client)
        except UsageError:
            raise
        except ConnectError as error:
            return Told(f"{shown(file, project)}: {error}; if that is as it should be, record it again: {again}")
        return Told()

    return attempt


def shown(file: Path, project: Project) -> str:
    return str(file.relative_to(project.directory))


# --- what is told ---


def print_results(ran: list[Ran], reached: list[Reached], *, record: bool) -> None:
    failed = [one for one in ran if not one.passed]
    for one in ran:
        if one.told.file:
            click.echo(output.wrapped(f"{one.told.file}: {one.told.note}", below="  "))
    for one in failed:
        place = f"{one.file}:{one.line}:{one.column}"
        said = output.wrapped(f"{place}: failed {one.name}", below="  ")
        click.echo(said.replace("failed", output.coloured("failed"), 1))
        click.echo(output.wrapped(f"  {one.message}", below="  "))
    for each in reached:
        print_coverage(each)
    skipped = sum(bool(one.told.skipped) for one in ran)
    done = len(ran) - len(failed) - skipped
    parts = [f"{done} {'recorded' if record else 'passed'}", f"{len(failed)} failed"]
    click.echo(", ".join([*parts, *([f"{skipped} left out"] if skipped else [])]))


def print_coverage(reached: Reached) -> None:
    for one in reached.missed:
        click.echo(output.wrapped(f"{one.file}:{one.line}:{one.column}: not reached: {one.what}", below="  "))
    came = reached.total - len(reached.missed)
    click.echo(f"{reached.connector}: {reached.percent}% ({came} of {reached.total} parts)")


def strangers(project: Project, found: list[Loaded[Connector]], *, remove: bool) -> list[str]:
    """Cassettes of no example: named, and removed where all of a connector have been recorded anew."""
    from engine.authoring import cassettes

    told = []
    for loaded in found:
        assert loaded.value is not None
        for file in cassettes.strangers(project.directory, loaded.value):
            if remove:
                file.unlink(missing_ok=True)
            what = "removed" if remove else "delete it"
            told.append(f"{shown(file, project)}: no example of {loaded.value.name} has this cassette; {what}")
    return told


def as_data(ran: list[Ran], reached: list[Reached] | None, *, record: bool) -> dict[str, Any]:
    keys = ("connector", "name", "passed", "message")
    found: dict[str, Any] = {"examples": [dict(zip(keys, one, strict=False)) for one in ran]}
    if record:
        found["cassettes"] = [
            {"connector": one.connector, "name": one.name, "file": one.told.file} for one in ran if one.told.file
        ]
    if reached is not None:
        found["coverage"] = [
            {
                "connector": one.connector,
                "percent": one.percent,
                "reached": one.total - len(one.missed),
                "total": one.total,
                "missed": [each._asdict() for each in one.missed],
            }
            for one in reached
        ]
    return found


def write_junit(file: Path, ran: list[Ran]) -> None:
    from engine.cli.junit import Case, write

    cases = [
        Case(
            one.connector,
            one.name,
            one.seconds,
            one.file,
            one.line,
            failure=one.message or None,
            skipped=one.told.skipped or None,
        )
        for one in ran
    ]
    write(file, cases)
