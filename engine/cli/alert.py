"""Alerts: try the ways out, and see which troubles stand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine import wiring
from engine.cli import options, output
from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.alerts.ledger import Entry
    from engine.alerts.rules import Rules

HEADS = ("kind", "connector", "client", "severity", "since", "told")


@click.group("alert")
def command() -> None:
    """Who is told of trouble: try it, and see what stands."""


@command.command("test")
@click.option("--to", "names", multiple=True, metavar="NAME", help="Only this one; may be given again.")
@options.as_json
@options.project
def test(names: tuple[str, ...], as_json: bool, directory: Path) -> int:
    """
    Send a test to everybody who is told, and say what each answered.

    The ways are those of `alerts.to` in connect.yaml and of the environment. The exit code is 1 if
    one of them was not told.
    """
    import time

    from engine.alerts.desk import shown
    from engine.alerts.messages import of_test
    from engine.alerts.ways import told

    project = options.open_project(directory)
    ways = wiring.alert_ways(project, options.reach(None, project), wiring.own_settings(project))
    known = [way.name for way in ways]
    if not ways:
        raise UsageError("nobody is told: see `alerts.to` of connect.yaml and CONNECT_ALERT_WEBHOOKS")
    if missing := [name for name in names if name not in known]:
        raise UsageError(f"there is no way {missing[0]}; there are {', '.join(known)}")
    results: list[dict[str, Any]] = []
    for way in ways:
        if names and way.name not in names:
            continue
        name = project.settings.name or project.directory.resolve().name
        message = of_test(name, time.time(), os.urandom(8).hex())
        sent = told(way, message, pauses_s=())
        way.close()
        results.append({"to": way.name, "at": shown(way), "told": sent.told, "answer": sent.answer})
    if as_json:
        output.print_json({"tests": results})
    else:
        for each in results:
            word = "told" if each["told"] else click.style("not told", fg="red")
            click.echo(f"{each['to']} ({each['at']}): {word}: {each['answer']}")
    return 0 if all(each["told"] for each in results) else 1


@command.command("list")
@options.as_json
@options.store
@options.project
def list_(as_json: bool, store_url: str | None, directory: Path) -> None:
    """List the troubles that stand, since when, what to do, and who was told."""
    from engine.alerts.book import MARK
    from engine.alerts.ledger import Ledger

    project = options.open_project(directory)
    store = options.open_shared_store(store_url, project)
    try:
        entries = Ledger.read(store.mark(MARK)).standing()
    finally:
        store.close()
    rules = wiring.alert_rules(project)()
    entries.sort(key=lambda entry: entry.trouble.since)
    if as_json:
        output.print_json({"troubles": [shown_entry(entry, rules) for entry in entries]})
        return
    if not entries:
        click.echo("no trouble stands")
        return
    rows = [
        [*entry.trouble.key, severity(entry), output.moment(entry.trouble.since), ", ".join(people(entry)) or "nobody"]
        for entry in entries
    ]
    click.echo(output.table(HEADS, rows, notes=[entry.trouble.text for entry in entries]))
    for text in dict.fromkeys(rules.do(*entry.trouble.key) for entry in entries):
        click.echo(output.wrapped(f"- {text}", below="  "))


def severity(entry: Entry) -> str:
    from engine.alerts.kinds import kind_of

    return kind_of(entry.trouble.kind).severity


def people(entry: Entry) -> list[str]:
    """The ways that know, but for the log."""
    return sorted(name for name in entry.told if name != "log")


def shown_entry(entry: Entry, rules: Rules) -> dict[str, Any]:
    from engine.alerts.rules import stamp

    kind, connector, client = entry.trouble.key
    return {
        "kind": kind,
        "connector": connector,
        "client": client,
        "severity": severity(entry),
        "what": entry.trouble.text,
        "since": stamp(entry.trouble.since),
        "do": rules.do(kind, connector, client),
        "told": people(entry),
        "facts": entry.trouble.facts,
    }
