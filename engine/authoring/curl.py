"""
A request -> a curl command for a POSIX shell, in which secrets and tokens are variables and never stand as text.

What a variable can't stand for, such as a secret inside of a signature, is `***`.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.http import Prepared

_PLAIN_PATH = re.compile(r"\s*\$\{\s*response\.body((?:\.[A-Za-z_]\w*)+)\s*\}\s*\Z")
_GLOBBED = re.compile(r"[\[\]{}]")


def variable(reference: str, name: str) -> str:
    """NAME of `env:NAME`, so that the shell may have it already; else the secret's own name in capitals."""
    found = reference.removeprefix("env:") if reference.startswith("env:") else name
    cleaned = re.sub(r"\W", "_", found, flags=re.ASCII)
    cleaned = cleaned if reference.startswith("env:") else cleaned.upper()
    return cleaned if cleaned[:1].isalpha() or cleaned[:1] == "_" else f"SECRET_{cleaned}"


def command(
    request: Prepared, variables: Mapping[str, str], *, mask: Callable[[str], str], via: str | None = None
) -> str:
    """`variables`: secret -> the variable that holds it. `via` sends it to a sandbox of this machine instead."""
    shell = Shell(variables, mask)
    url, headers = request.url, dict(request.headers)
    if via is not None:
        parts = urlsplit(url)
        headers = {"Host": parts.netloc, **headers}
        url = via.rstrip("/") + (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    first = "--head" if request.method == "HEAD" else f"-X {request.method}"
    words = [f"curl -sS {'--globoff ' if _GLOBBED.search(url) else ''}{first} {shell.text(url, encoded=True)}"]
    for name, value in headers.items():
        words.append(shell.basic(value) if name.lower() == "authorization" and shell.is_basic(value) else "")
        if not words[-1]:
            words[-1] = f"-H {shell.text(f'{name}: {value}' if value else f'{name};')}"
    if request.content is not None:
        kind = next((value for name, value in headers.items() if name.lower() == "content-type"), None)
        content = request.content.decode("utf-8", "replace")
        if kind is None:
            words.append("-H 'Content-Type;'")
        if kind is not None and kind.startswith("application/x-www-form-urlencoded") and content:
            fields = parse_qsl(content, keep_blank_values=True)
            words += [f"--data-urlencode {shell.text(f'{quote_plus(name)}={value}')}" for name, value in fields]
        else:
            words.append(f"--data-raw {shell.text(content)}")
    return " \\\n  ".join(words)


def kept(command: str, saves: Mapping[str, object]) -> str:
    """A log-in whose reply fills variables: name of the variable -> the expression that reads the reply."""
    paths = {name: _PLAIN_PATH.match(str(expression)) for name, expression in saves.items()}
    lines = [f"# {name} is {saves[name]} of the reply" for name, path in paths.items() if path is None]
    if not any(paths.values()):
        return "\n".join([*lines, command])
    reads = [f'{name}="$(printf %s "$REPLY" | jq -r {shlex.quote(path[1])})"' for name, path in paths.items() if path]
    return "\n".join([*lines, f'REPLY="$({command})"', *reads])


class Shell:
    """Texts as words of a shell."""

    def __init__(self, variables: Mapping[str, str], mask: Callable[[str], str]) -> None:
        self.mask = mask
        self.names: dict[str, str] = {}
        for value, name in variables.items():
            if len(value) >= 4:  # what is shorter stands in too many words
                self.names |= dict.fromkeys((quote_plus(value), quote(value, safe=""), value), name)
        longest = sorted(self.names, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest))) if longest else None

    def text(self, text: str, *, encoded: bool = False) -> str:
        """One word: what is literal in single quotes, what is secret as a variable, `encoded` for a URL."""
        if self.pattern is None:
            return shlex.quote(self.mask(text))
        words, done = [], 0
        for found in self.pattern.finditer(text):
            name = self.names[found[0]]
            words.append(self.literal(text[done : found.start()]))
            words.append(f'"$(printf %s "${name}" | jq -sRr @uri)"' if encoded else f'"${name}"')
            done = found.end()
        words.append(self.literal(text[done:]))
        return "".join(words) or "''"

    def literal(self, text: str) -> str:
        return shlex.quote(self.mask(text)) if text else ""

    def is_basic(self, value: str) -> bool:
        return self.pattern is not None and bool(self.pattern.search(decoded_basic(value)))

    def basic(self, value: str) -> str:
        return f"-u {self.text(decoded_basic(value))}"


def decoded_basic(value: str) -> str:
    """`user:password` of a Basic header, or nothing."""
    kind, _, encoded = value.partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
