"""A person agrees once that a client's CRM may be written to; what that yields is kept in the store."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli import options, output

if TYPE_CHECKING:
    from engine.auth import Auth
    from engine.onboarding.login import Asked
    from engine.wire import Wire

PORT = 8400


@click.command("login")
@click.argument("name", metavar="CONNECTOR")
@click.argument("client", metavar="CLIENT")
@click.option("--auth", "which", metavar="NAME", help="Which of the connector's ways to log in.")
@click.option("--paste", is_flag=True, help="Paste the address that the page leads to, instead of waiting for it.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="Where to wait for it.")
@click.option("--redirect", metavar="URL", help="The redirect address that is registered with the vendor.")
@click.option("--no-browser", is_flag=True, help="Only show the page's address.")
@click.option("--timeout", "timeout_s", default=300.0, show_default=True, metavar="SECONDS", help="How long to wait.")
@click.option("--print", "shown", is_flag=True, help="Print the refresh token instead of keeping it.")
@options.via
@options.allow_private
@options.store
@options.project
def command(
    name: str,
    client: str,
    which: str | None,
    paste: bool,
    port: int,
    redirect: str | None,
    no_browser: bool,
    timeout_s: float,
    shown: bool,
    via: str | None,
    allow_private: bool | None,
    store_url: str | None,
    directory: Path,
) -> int:
    """
    Let a person agree once, for a vendor that asks for it.

    Shows the vendor's page, waits for its answer on this machine, and keeps the token in the store, where all processes
    find and renew it.
    """
    project = options.open_project(directory)
    from engine.errors import UsageError
    from engine.onboarding import login
    from engine.runtime import Engine
    from engine.stores.memory import MemoryStore
    from engine.walk import Walk

    address = options.store_address(store_url, project)
    if address.startswith("memory:") and not shown:
        raise UsageError("memory: keeps nothing for others; name a store with --store, or use --print")
    store = MemoryStore() if shown else options.open_store(store_url, project)
    engine = Engine(project, store, via=options.checked_via(via, project), reach=options.reach(allow_private, project))
    click.get_current_context().call_on_close(engine.close)
    program = engine.program(name, client)
    auth = login.consenting(program, which)
    wire = Walk(engine.worker.world, program, keep_alive=lambda: None).wire
    redirect_uri = redirect or login.redirect_of(auth, wire)
    if paste or (redirect_uri is not None and not login.is_loopback(redirect_uri)):
        page = login.asked(auth, wire, redirect_uri or f"http://127.0.0.1:{port}/callback")
        show(page, browser=not no_browser)
        said = click.prompt("then paste the address that it leads to (or the code in it)", err=True, hide_input=False)
        answer = login.answer_in(said, page)
    else:
        page, answer = waited(auth, wire, redirect_uri, port, timeout_s, browser=not no_browser)
    row = login.exchanged(auth, wire, page, answer, kept=not shown)
    if shown:
        click.echo(row.values.get("refresh_token") or row.values.get("value"))
        click.echo(f"put it where a secret of {client}'s file leads, such as `refresh_token: env:NAME`", err=True)
        return 0
    click.echo(f"{name}/{client} is logged in; the token is in the store and will be renewed by itself")
    if not os.environ.get("CONNECT_KEY"):
        click.echo("it is kept as it is; with CONNECT_KEY it would be encrypted (`connect key`)", err=True)
    lane = store.lane(name, client)
    if lane is not None and lane.state == "paused" and "connect login" in (lane.reason or ""):
        engine.resume(name, client)
        click.echo(f"its lane goes on; {lane.waiting} waiting")
    return 0


def waited(
    auth: Auth, wire: Wire, redirect_uri: str | None, port: int, timeout_s: float, *, browser: bool
) -> tuple[Asked, dict[str, str]]:
    """The page that was shown, and the answer that came to this machine."""
    from engine.onboarding import login

    callback = login.Callback(redirect_uri, port)
    try:
        page = login.asked(auth, wire, callback.redirect_uri)
        show(page, browser=browser)
        click.echo(f"waiting for its answer at {callback.redirect_uri}; Ctrl-C ends it", err=True)
        return page, callback.wait(page, timeout_s, lambda said: click.echo(said, err=True))
    finally:
        callback.close()


def show(page: Asked, *, browser: bool) -> None:
    click.echo("open this page and agree as the owner of the account:", err=True)
    click.echo(page.url, err=True)
    if browser and output.watched():
        webbrowser.open(page.url)
