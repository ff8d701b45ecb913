"""Write the tag that sends a shop's events: a template of Google Tag Manager, a snippet, or a page about it."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli import options


@click.command("tag")
@click.argument("name", metavar="CONNECTOR")
@click.option("--client", metavar="NAME", help="Whose shop it is.  [default: the only one that has the connector]")
@click.option("--url", metavar="URL", default="https://events.example.com", show_default=True, help="Where `serve` is.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["gtm", "snippet", "page"]),
    default="snippet",
    show_default=True,
    help="A template of Tag Manager, a <script>, or a page about it.",
)
@click.option(
    "--consent",
    metavar="TYPES",
    default="ad_storage,analytics_storage",
    show_default=True,
    help="What must be granted first; `none`: the page sees to it.",
)
@click.option("--nonce", metavar="TEXT", default="", help="For the snippet's <script nonce>.")
@click.option("--show-key", is_flag=True, help="Write the write key itself and not WRITE-KEY.")
@click.option(
    "--out", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of stdout."
)
@options.project
def command(
    name: str,
    client: str | None,
    url: str,
    form: str,
    consent: str,
    nonce: str,
    show_key: bool,
    out: Path | None,
    directory: Path,
) -> None:
    """
    Write what a shop's pages need to send their events to CONNECTOR.

    The write key in it is public: whoever opens the page can read it, and send events for this client with it. That
    is what it is for; it can do nothing else.
    """
    from engine.errors import UsageError
    from engine.tagging.page import page
    from engine.tagging.settings import KEY, tag_for
    from engine.tagging.snippet import policy, snippet
    from engine.tagging.template import script_url, template

    project = options.open_project(directory)
    connector = project.connector(name)
    found = project.client(options.client_of(project, name, client))
    key = KEY
    if show_key and found.ingest.keys:
        key = options.secrets_of(project).resolve(found.ingest.keys[0])
    try:
        types = consent_types(consent)
    except ValueError as error:
        raise UsageError(f"--consent {consent!r}: {error}") from None
    tag = tag_for(connector, found, address=url, key=key, consent=types)
    text = {
        "gtm": lambda: template(tag.settings),
        "snippet": lambda: snippet(tag.settings, nonce=nonce),
        "page": lambda: page(tag, client=found.title or found.client),
    }[form]()
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8", newline="\n")
        click.echo(f"{out}: written, {len(text.encode())} bytes")
    notes = [*(f"warning: {warning}" for warning in tag.warnings)]
    if tag.unwanted:
        notes.append(f"not sent, for no action wants them: {', '.join(tag.unwanted)}")
    if form == "gtm" and not url.startswith("https://"):
        notes.append("warning: Tag Manager loads scripts over https only; give the public address with --url")
    if tag.settings.key == KEY and form != "page":
        where = "the template's field" if form == "gtm" else KEY
        notes.append(f"put the client's write key into {where} (or use --show-key); it is public, as the page is")
    if form != "page":
        allowed = policy(tag.settings)
        script = script_url(tag.settings) if form == "gtm" else allowed["script-src"]
        notes.append(f"a Content-Security-Policy needs: connect-src {allowed['connect-src']}; script-src {script}")
    for note in notes:
        click.echo(note, err=True)


def consent_types(text: str) -> tuple[str, ...]:
    """`ad_storage,analytics_storage`; ValueError with what is wrong."""
    import re

    if text == "none":
        return ()
    found = tuple(part.strip() for part in text.split(","))
    for name in found:
        if not re.fullmatch(r"[a-z][a-z_]{0,49}", name):
            raise ValueError("types of Google's consent mode with commas between, or `none`")
    return found
