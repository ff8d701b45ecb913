"""`connect demo`: the whole thing on sample traffic, with the sums at the end."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.demo.run import Demo, Row


MOST_REASONS = 6


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C, and say what to open.")
def command(keep: bool) -> None:
    """Run 1,000 browsing events through simulated CRMs and show where each one went."""
    from engine.demo.run import Demo
    from engine.demo.traffic import write_key

    watched = sys.stderr.isatty()

    def show(text: str) -> None:
        if watched:
            click.echo(f"\r\033[K{text}", nl=False, err=True)

    folder = Path(tempfile.mkdtemp(prefix="connect-demo-"))
    began = time.monotonic()
    click.echo("1,000 browsing events → connect serve → durable buffer → simulated CRMs")
    run = Demo(folder)
    code = 0
    try:
        run.post_all(lambda done, total: show(f"posting {done}/{total}") if done % 20 == 0 else None)
        posted_s = time.monotonic() - began
        lanes = run.drain(lambda waiting: show(f"draining, {waiting} waiting"))
        show("")
        drained_s = time.monotonic() - began
        rows = run.rows(lanes)
        table(rows)
        refused = Counter(posted.status for posted in run.posted if not posted.accepted)
        accepted = sum(posted.accepted for posted in run.posted)
        say(
            f"{len(run.posted)} requests: {accepted} events accepted, which make "
            f"{sum(row.accepted for row in rows)} deliveries; "
            f"{sum(refused.values())} refused at the door ("
            + ", ".join(
                f"{count}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{status}" for status, count in sorted(refused.items())
            )
            + ")"
        )
        say(
            f"posted in {posted_s:.1f} s, drained after {drained_s:.1f} s; "
            f"the CRMs saw {sum(box.served for box in run.sandboxes)} requests"
        )
        held_back = run.held_back(lanes)
        others = sum(row.waiting for row in rows) - held_back
        if held_back:
            say(f"{held_back} still waiting on purpose: a lead at the daily limit of its CRM is held, nobody else is")
        if others:
            say(f"{others} still waiting for another try")
        explain(run)
        if keep:
            shop = run.shops[0]
            click.echo(f"\nPost to   http://127.0.0.1:{run.port}/{shop.connector} (X-Connect-Key: {write_key(shop)})")
            click.echo(f"Look at   http://127.0.0.1:{run.admin_port}/lanes and /metrics")
            click.echo(f"Project   {folder} (connect status --project {folder})\nCtrl-C ends it.")
            try:
                while run.process.poll() is None:
                    time.sleep(0.5)
            except KeyboardInterrupt:
                click.echo("")
        held = all(row.holds for row in rows) and len(rows) == len(run.shops)
        if not held:
            click.echo(
                "THE SUMS DO NOT HOLD: an event is missing; please report this with the folder " + str(folder), err=True
            )
            code = 1
    finally:
        ended = run.close()
    if ended != 0:
        click.echo(f"connect serve ended with {ended}; see {folder}/serve.log", err=True)
        code = code or 1
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
        click.echo("")
        say(f"OK: every accepted event is delivered, rejected or waiting ({time.monotonic() - began:.1f} s).")
    sys.exit(code)


def say(text: str) -> None:
    click.echo(output.wrapped(text, below="  "))


def table(rows: list[Row]) -> None:
    """The one table, by client: the deliveries of accepted events = delivered + rejected + skipped + waiting."""
    head = (
        f"{'client':<11}{'connector':<15}{'accepted':>8} ={'delivered':>9} +{'rejected':>8} +{'skipped':>7} +"
        f"{'waiting':>7}{'answer':>7}"
    )
    click.echo(f"\n{head}\n{'-' * len(head)}")
    for row in rows:
        counts = (row.accepted, row.delivered, row.rejected, row.skipped, row.waiting)
        click.echo(line(row.client, row.connector, counts, f"{row.answer_ms:.0f} ms"))
    totals = [sum(each) for each in zip(*(row[2:7] for row in rows), strict=True)]
    click.echo("-" * len(head))
    click.echo(line("all", "", totals, "") + "\n")


def line(client: str, connector: str, counts: Sequence[int], answer: str) -> str:
    accepted, delivered, rejected, skipped, waiting = counts
    return (
        f"{client:<11}{connector:<15}{accepted:>8} ={delivered:>9} +{rejected:>8} +{skipped:>7} +"
        f"{waiting:>7}{answer:>7}"
    ).rstrip()


def explain(run: Demo) -> None:
    """One dead letter: what was sent, what came back, what it means, what to do."""
    found = list(run.dead())
    if not found:
        return
    one = next((dead for dead in found if "poison" in str(dead["reply"]) or dead["status"] == 400), found[0])
    reasons = Counter((dead["connector"], dead["code"] or "-") for dead in found)
    listed = ", ".join(
        f"{connector} {code}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{count}"
        for (connector, code), count in reasons.most_common(MOST_REASONS)
    )
    more = sum(count for _, count in reasons.most_common()[MOST_REASONS:])
    say(f"{len(found)} dead letters: {listed}{f' and {more} more' if more else ''}. One of them:")
    reply = " ".join(str(one["reply"]).split())
    for title, text in (
        (
            "which",
            f"no. {one['id']}, {one['connector']}/{one['client']}, action {one['action']}",
        ),
        ("why", one["reason"]),
        ("sent", one["url"]),
        ("came", f"HTTP {one['status']} {reply}"),
        ("next", "in a project of yours: `connect dead show ID`, mend the event or the spec, `connect dead retry ID`"),
    ):
        line = f"  {title:<6}{output.shortened(str(text), 150)}"
        click.echo(output.wrapped(line, below=" " * 8, whole_words=False))
