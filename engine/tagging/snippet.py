"""The tag as a <script> of its own, and what a page's Content-Security-Policy must allow for it."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING

from engine.tagging.script import script
from engine.tagging.settings import KEY, literal

if TYPE_CHECKING:
    from engine.tagging.settings import Settings


def inside(settings: Settings) -> str:
    """What stands between <script> and </script>."""
    return f"{script()}connectTag.push([{literal(settings.as_json())}])"


def snippet(settings: Settings, *, nonce: str = "") -> str:
    """To be pasted into every page, once, at the end of <head>."""
    attribute = f' nonce="{escape(nonce)}"' if nonce else ""
    return f"<script{attribute}>{inside(settings)}</script>\n"


def policy(settings: Settings) -> dict[str, str]:
    """
    Directive -> the source that a strict policy lacks.

    Of the script its digest, which does without a nonce. It is that of the whole: there is none before the key is in.
    """
    scheme, _, rest = settings.address.partition("://")
    digest = base64.b64encode(hashlib.sha256(inside(settings).encode()).digest()).decode()
    of_script = (
        "a nonce (--nonce), or the digest that --show-key tells" if settings.key == KEY else f"'sha256-{digest}'"
    )
    return {"connect-src": f"{scheme}://{rest.partition('/')[0]}", "script-src": of_script}
