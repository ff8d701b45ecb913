"""Print a new key for CONNECT_KEY, with which stored tokens are encrypted."""

from __future__ import annotations

import base64
import os

import click


@click.command("key")
def command() -> None:
    """
    Print a new key for CONNECT_KEY.

    With it, tokens are encrypted before they are stored. Keep it where the other secrets are; with another key, or
    without, clients log in anew.
    """
    click.echo(base64.urlsafe_b64encode(os.urandom(32)).decode())  # what Fernet.generate_key does
