"""Write a new connector, with its client, event, examples, sandbox and page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from engine.cli import output
from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.authoring.openapi import Api, Operation
    from engine.authoring.scaffold.draft import Draft

AUTHS = {
    "none": "it asks for nothing",
    "basic": "user name and password with each request",
    "bearer": "a token in the header Authorization",
    "api_key": "a key in another header, the query or a cookie",
    "oauth2_client_credentials": "the app's id and secret are exchanged for a token",
    "oauth2_password": "likewise, with a person's user name and password",
    "oauth2_refresh_token": "a person agreed once; the refresh token is kept",
    "login": "any other request that gives a token",
}


class Wanted(NamedTuple):
    """What the flags say; None is not said."""

    name: str | None
    title: str | None
    base_url: str | None
    auth: str | None
    key_name: str | None
    key_in: str | None
    token_url: str | None
    path: str | None
    batch: int | None
    direct: bool | None
    event_schema: bool | None
    client: str | None


@click.command("new")
@click.argument("name", required=False)
@click.option("--title", metavar="TEXT", help="The vendor's name.  [default: made of NAME]")
@click.option("--base-url", metavar="URL", help="What all paths stand behind.")
@click.option("--auth", type=click.Choice(list(AUTHS)), metavar="KIND", help=f"How to log in: {', '.join(AUTHS)}.")
@click.option("--key-name", metavar="NAME", help="api_key: what the header, parameter or cookie is called.")
@click.option("--key-in", type=click.Choice(["header", "query", "cookie"]), help="api_key: where it stands.")
@click.option("--token-url", metavar="URL", help="oauth2_…, login: where the token is got.")
@click.option("--path", metavar="/PATH", help="Where a record is sent to.  [default: /events]")
@click.option("--batch", type=click.IntRange(1, 100_000), metavar="N", help="Records in one request.")
@click.option("--direct/--buffered", default=None, help="Send while the caller waits, or later.  [default: later]")
@click.option("--event-schema", is_flag=True, default=None, help="Also write a schema of its events.")
@click.option("--client", metavar="NAME", help="Its first client.  [default: NAME-example]")
@click.option(
    "--from-openapi", "document", type=click.Path(path_type=Path), metavar="FILE", help="Read the vendor's API."
)
@click.option(
    "--operation", "operations", multiple=True, metavar="METHOD:/PATH", help="Of that; or operationId. Repeatable."
)
@click.option(
    "--project",
    "directory",
    envvar="CONNECT_PROJECT",
    default=".",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where to write; made where it is not there.  [default: the current one]",
)
@click.option("--force", is_flag=True, help="Write over files that are there.")
def command(document: Path | None, operations: tuple[str, ...], directory: Path, force: bool, **flags: Any) -> int:
    """
    Write a new connector.

    It has a client, an event to try, examples, a sandbox and a page, and passes `connect validate` and `connect test`
    as it is. What is yours to decide is marked with DECIDE. In a terminal it asks for what the flags do not say.
    """
    wanted = Wanted(**flags)
    if operations and document is None:
        raise UsageError("--operation chooses of an OpenAPI document; name that with --from-openapi FILE")
    ask = Asking(sys.stdin is not None and sys.stdin.isatty())
    name = _name(ask, wanted.name, directory, force)
    if document is not None:
        draft = _read(ask, name, wanted, document, operations)
    else:
        draft = _asked(ask, name, wanted)
    client = _client(wanted.client, name)
    _written(draft, client, wanted.client is not None, directory, force)
    return 0


class Asking:
    """Questions in a terminal; elsewhere each has its default for an answer."""

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal
        self.begun = False

    def text(self, question: str, default: str | None, check: Callable[[str], str] = str) -> str:
        """`check` raises UsageError for an answer that can't be used; it is shown, and the question comes again."""
        if not self.terminal:
            if default is None:
                raise UsageError(f"{question}?")
            return check(default)
        self.greet()
        while True:
            given = str(click.prompt(question, default=default, err=True)).strip()
            try:
                return check(given)
            except UsageError as error:
                click.echo(output.wrapped(f"  {error}", below="  "), err=True)

    def choice(self, question: str, meanings: Mapping[str, str], default: str) -> str:
        """One of the words, which may be given by its number."""
        choices = list(meanings)
        if not self.terminal:
            return default
        self.greet()
        wide = max(map(len, choices))
        for number, (each, says) in enumerate(meanings.items(), 1):
            click.echo(f"  {number}  {each:<{wide}}  {says}".rstrip(), err=True)

        def chosen(given: str) -> str:
            if given.isdecimal() and 0 < int(given) <= len(choices):
                return choices[int(given) - 1]
            if given in choices:
                return given
            raise UsageError(f"a number from 1 to {len(choices)}, or one of the words in front")

        return self.text(question, default, chosen)

    def yes(self, question: str, default: bool) -> bool:
        if not self.terminal:
            return default
        self.greet()
        return click.confirm(question, default=default, err=True)

    def greet(self) -> None:
        if not self.begun:
            click.echo("A few questions. Enter takes what stands in [ ]; Ctrl-C writes nothing.\n", err=True)
            self.begun = True


# --- questions ---


def _name(ask: Asking, given: str | None, directory: Path, force: bool) -> str:
    from engine.authoring.scaffold import checked_name
    from engine.spec.project import Project

    known = Project(directory).connector_files()

    def checked(name: str) -> str:
        checked_name(name)
        path = known.get(name)
        if path is None or force:
            return name
        own = path.parent == directory / "connectors"
        raise UsageError(
            f"{path} is there already; choose another name, or write over it with --force"
            if own
            else f"{name} comes with the engine; choose another name, or put your own in its place with --force"
        )

    if given is not None:
        return checked(given)
    if not ask.terminal:
        raise UsageError("name the connector: connect new acme-crm")
    return ask.text("Name, small letters and hyphens (acme-crm)", None, checked)


def _title(ask: Asking, given: str | None, default: str) -> str:
    def checked(title: str) -> str:
        if not title.strip() or len(title) > 100 or not title.isprintable():
            raise UsageError("a title is one line of at most 100 letters")
        return title.strip()

    return checked(given) if given is not None else ask.text("The vendor's name, for people", default, checked)


def _spelled(name: str) -> str:
    """acme-crm -> Acme CRM"""
    short = {"crm", "api", "erp", "cdp", "io", "sms"}
    return " ".join(part.upper() if part in short else part.capitalize() for part in name.split("-") if part)


def _client(given: str | None, name: str) -> str:
    import re

    def checked(client: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", client):
            raise UsageError(f"{client[:80]!r} can't be a client's name; letters, digits, hyphens, dots and _")
        return client

    return checked(given if given is not None else f"{name}-example")


def _asked(ask: Asking, name: str, wanted: Wanted) -> Draft:
    from engine.authoring.scaffold import checked_base_url, checked_path, host_of
    from engine.authoring.scaffold.auths import auth_of
    from engine.authoring.scaffold.blank import blank

    title = _title(ask, wanted.title, _spelled(name))
    made_up = f"https://api.{name.strip('-')}.example/v1"
    base_url = (
        checked_base_url(wanted.base_url)
        if wanted.base_url is not None
        else ask.text("Base URL of its API", made_up, checked_base_url)
    )
    kind = wanted.auth or ask.choice("How does one log in?", AUTHS, "bearer")
    details = _details(ask, kind, wanted, base_url)
    path = (
        checked_path(wanted.path)
        if wanted.path is not None
        else ask.text("Path that a record is sent to", "/events", checked_path)
    )
    batch = wanted.batch if wanted.batch is not None else int(ask.text("Records in one request", "1", _count))
    direct = wanted.direct if wanted.direct is not None else ask.yes("Send while the caller waits?", False)
    own = wanted.event_schema if wanted.event_schema is not None else ask.yes("An event schema of its own?", False)
    return blank(
        name,
        title=title,
        base_url=base_url,
        host=host_of(base_url),
        auth=auth_of(kind, base_url=base_url, **details),
        path=path,
        records=batch if batch > 1 else None,
        direct=direct,
        own_schema=own,
        guessed=base_url == made_up,
    )


def _details(ask: Asking, kind: str, wanted: Wanted, base_url: str) -> dict[str, Any]:
    """What a kind of log-in needs besides its name. UsageError for a flag that belongs to another."""
    from engine.authoring.scaffold import host_of
    from engine.authoring.scaffold.auths import checked_key_name, checked_token_url

    has_token = kind.startswith("oauth2_") or kind == "login"
    for flag, given, fits in (
        ("--key-name", wanted.key_name, kind == "api_key"),
        ("--key-in", wanted.key_in, kind == "api_key"),
        ("--token-url", wanted.token_url, has_token),
    ):
        if given is not None and not fits:
            raise UsageError(f"{flag} says nothing for --auth {kind}")
    if kind == "api_key":
        where = wanted.key_in or ask.choice(
            "Where does the key stand?", dict.fromkeys(("header", "query", "cookie"), ""), "header"
        )
        default = "X-Api-Key" if where == "header" else "api_key"
        name = wanted.key_name
        key = checked_key_name(name) if name is not None else ask.text("What is it called?", default, checked_key_name)
        return {"key_name": key, "key_in": where}
    if has_token:
        default = f"https://{host_of(base_url)}/{'login' if kind == 'login' else 'oauth/token'}"
        url = wanted.token_url
        token_url = (
            checked_token_url(url)
            if url is not None
            else ask.text("Address that gives the token", default, checked_token_url)
        )
        guessed = url is None and not ask.terminal
        return {"token_url": token_url, "guessed": guessed}
    return {}


def _count(given: str) -> str:
    if not given.isdecimal() or not 0 < int(given) <= 100_000:
        raise UsageError("a whole number, from 1")
    return given


def _read(ask: Asking, name: str, wanted: Wanted, document: Path, operations: tuple[str, ...]) -> Draft:
    from engine.authoring.openapi import read_api
    from engine.authoring.scaffold import checked_base_url
    from engine.authoring.scaffold.from_openapi import Answers, draft_from

    if wanted.path is not None:
        raise UsageError("--path goes without --from-openapi; choose with --operation METHOD:/path")
    api = read_api(document)
    chosen = [api.operation(each) for each in operations] or _choose(ask, api)
    base_url = checked_base_url(wanted.base_url) if wanted.base_url is not None else None
    kind = wanted.auth
    details = _details(ask, kind, wanted, base_url or f"https://api.{name.strip('-')}.example") if kind else {}
    if kind is None and (wanted.key_name or wanted.key_in or wanted.token_url):
        raise UsageError("--key-name, --key-in and --token-url go with --auth")
    answers = Answers(
        base_url=base_url,
        auth=kind,
        details=details,
        records=wanted.batch,
        direct=bool(wanted.direct),
        own_schema=bool(wanted.event_schema),
    )
    from engine.authoring.scaffold.writing import one_line

    title = _title(ask, wanted.title, _vendor(one_line(api.title, 60)) or _spelled(name))
    return draft_from(api, list({one.name: one for one in chosen}.values()), name, title, answers)


def _vendor(title: str) -> str:
    """Acme Contacts API v2 -> Acme Contacts"""
    import re

    return re.sub(r"\s+(?:rest\s+|public\s+|web\s+)*api(?:\s+v?[0-9.]+)?\Z", "", title, flags=re.IGNORECASE)


def _choose(ask: Asking, api: Api) -> list[Operation]:
    from engine.authoring.openapi import WRITING, listed

    known = [one for one in api.operations() if one.method in WRITING]
    if not known:
        raise UsageError(f"{api.file}: no POST, PUT or PATCH in it; name another with --operation METHOD:/path")
    if len(known) == 1:
        return known
    if not ask.terminal:
        raise UsageError(f"{api.file}: name what to take with --operation; it has {listed(known)}")
    ask.greet()
    click.echo(f"{api.file} writes with:", err=True)
    wide = min(max(len(one.path) for one in known), 40)
    for number, one in enumerate(known, 1):
        room = output.width() - 15 - max(wide, len(one.path))
        says = output.shortened(one.summary or one.id, room) if room > 8 else ""
        click.echo(f"  {number:>3}  {one.method:<5} {one.path:<{wide}}  {says}".rstrip(), err=True)
    chosen: list[Operation] = []

    def checked(given: str) -> str:
        chosen.clear()
        for each in given.replace(",", " ").split():
            if not each.isdecimal() or not 0 < int(each) <= len(known):
                raise UsageError(f"numbers from 1 to {len(known)}, apart by blanks")
            chosen.append(known[int(each) - 1])
        if not chosen:
            raise UsageError(f"one number at least, from 1 to {len(known)}")
        return given

    ask.text("Which of them? (numbers, apart by blanks)", "1", checked)
    return chosen


# --- writing ---


def _written(draft: Draft, client: str, named: bool, directory: Path, force: bool) -> None:
    from engine.authoring import scaffold
    from engine.authoring.scaffold import companions
    from engine.authoring.scaffold.writing import block

    wanted = scaffold.files(draft, client)
    mine = f"clients/{client}.yaml"
    there = _client_file(directory, client)
    keep = there is not None and (named or not force)
    if keep:
        del wanted[mine]
    taken = scaffold.existing(directory, wanted)
    if taken and not force:
        raise UsageError(f"{directory / taken[0]} is there already; nothing was written; --force writes over it")
    shared = scaffold.shared_files()
    wanted |= {name: text for name, text in shared.items() if not (directory / name).exists()}
    scaffold.write(directory, wanted)
    width = max(map(len, wanted))
    for name in wanted:
        click.echo(f"{name:<{width}}  {_what(name)}".rstrip())
    if keep:
        click.echo(f"\n{there} stays as it is. It needs below `connectors:`\n")
        click.echo("\n".join(block(companions.binding(draft, client), 2)))
    written = {name: text for name, text in wanted.items() if name not in shared}
    _decisions({name: text for name, text in written.items() if not _generated(name)})
    _next(draft.name, client, directory)


def _generated(name: str) -> bool:
    return name.endswith(".md") and not name.endswith(".notes.md")


def _what(name: str) -> str:
    if name.startswith("schemas/events/"):
        return "what an event has"
    if name.endswith(".notes.md"):
        return "what its page takes in"
    kinds = {
        "connectors": "the connector",
        "clients": "who uses it",
        "events": "an event to try",
        "docs": "its page, by `connect docs`",
        "schemas": "for your editor",
        ".gitignore": "what git leaves out",
    }
    return kinds[name.partition("/")[0]]


def _client_file(directory: Path, client: str) -> Path | None:
    """The file that says this client, or has its name."""
    from engine.spec.project import Project

    project = Project(directory)
    for stem, path in project.client_files().items():
        loaded = project.loaded_client(path)
        if stem == client or (loaded.value is not None and loaded.value.client == client):
            return path
    return None


def _decisions(texts: dict[str, str]) -> None:
    from engine.authoring.scaffold import decisions

    found = list(decisions(texts))
    places = {name: [one for one in found if one.file == name] for name in texts}
    click.echo(f"\n{len(found)} things are yours to decide. `grep -rn DECIDE:` finds them:")
    for name, mine in places.items():
        if mine:
            click.echo(f"  {name}")
        for one in mine:
            click.echo(f"  {one.line:>5}  {output.shortened(one.what, output.width() - 9)}")


def _next(name: str, client: str, directory: Path) -> None:
    from engine.spec.project import Project

    clients = Project(directory).all()[1].values()
    alone = [each.client for each in clients if name in each.connectors] == [client]
    whose = "" if alone else f" --client {client}"
    steps = [
        *([] if directory == Path(".") else [(f"cd {shlex.quote(str(directory))}", "")]),
        ("connect validate", "is anything wrong in any file?"),
        (f"connect test {name}", "its examples, offline"),
        (f"connect preview {name} events/{name}.json{whose}", "what would be sent"),
        ("connect sandbox", "plays the vendor; type the export lines it prints"),
        ("connect serve", "takes events in and delivers them"),
        (f"connect send {name} events/{name}.json{whose}", "one event, for real"),
        (f"connect docs {name}", "its page again, after a change"),
    ]
    wide = max(len(step) for step, _ in steps if len(step) < 30)
    click.echo("\nNext:")
    for step, says in steps:
        line = f"  {step:<{wide}}  # {says}" if says else f"  {step}"
        click.echo(line if len(line) <= output.width() else f"  {step}")
