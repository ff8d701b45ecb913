"""
A name as one segment of a URL's path, and back: also one with a slash, which servers and proxies would take apart.

Most names stay as `quote` writes them. `~` begins what no proxy or browser touches: `~2F` for `/`, `~` for no name.
"""

from __future__ import annotations

import re
from urllib.parse import quote

_WRITTEN = {"~": "~7E", "/": "~2F", "\\": "~5C"}
_MARK = re.compile(r"~(2F|5C|7E|2E)")


def segment(name: str) -> str:
    """The name, written so that it is one segment and arrives as it was."""
    if name in (".", ".."):  # browsers walk up at these, however they are quoted
        return name.replace(".", "~2E")
    return quote("".join(_WRITTEN.get(char, char) for char in name), safe="~", errors="replace") or "~"


def name_of(text: str) -> str:
    """The name again, from a segment that the server has unquoted."""
    return "" if text == "~" else _MARK.sub(lambda found: chr(int(found[1], 16)), text)
