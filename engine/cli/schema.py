"""Print a JSON Schema, for editors and other tools."""

from __future__ import annotations

import click

from engine.spec.shipped import bundled


@click.command("schema")
@click.argument("kind", default="connector", type=click.Choice(["connector", "client", "event", "project"]))
def command(kind: str) -> None:
    """
    Print the JSON Schema of connectors, clients, events or connect.yaml.

    An editor with a YAML language server reads it from the first line of a file:

        # yaml-language-server: $schema=connector.schema.json
    """
    click.echo((bundled("schemas") / f"{kind}.schema.json").read_text(encoding="utf-8"), nl=False)
