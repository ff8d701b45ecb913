"""
Where token, secrets and signatures go in a request: headers, query, cookies, body fields, address.

What reads a signature over the finished request is put in last, once the body is encoded; each such value sees the
headers that were put in before it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec

from engine.errors import BadValue, ConnectError
from engine.http import Prepared, Tls
from engine.names import AUTH, SIGNED
from engine.notations import semantics
from engine.notations.emitting import Problem, is_expression
from engine.records import Outcome, OutcomeKind
from engine.sending import NOTHING, Placement, header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.expressions import Compiler, Path, Run
    from engine.records import Trace
    from engine.signing import Signers
    from engine.spec import types

    Scope = Mapping[str, Any]
    Hide = Callable[[str, str], None]

PARTS = ("headers", "query", "cookies", "form", "json")
LATE_PARTS = ("headers", "query")


class AuthFailed(ConnectError):
    """No token can be had now; `outcome` is what that means for the lane: pause, throttle or retry."""

    def __init__(self, outcome: Outcome, trace: Trace | None = None) -> None:
        super().__init__(outcome.reason)
        self.outcome = msgspec.structs.replace(outcome, private=True)  # of a log-in: nothing about an event
        self.trace = trace


class Certificates:
    """`http.tls`, compiled: scope -> the certificates that a connection is made with."""

    def __init__(self, compiler: Compiler, spec: types.Tls, place: Path) -> None:
        self.texts = {
            name: compiler.text(text, AUTH, (*place, name), "must")
            for name in ("cert", "key", "passphrase", "ca")
            if (text := getattr(spec, name)) is not None
        }

    def __call__(self, scope: Scope) -> Tls | None:
        return Tls(**{name: str(run(scope)) for name, run in self.texts.items()}) if self.texts else None


class Placing:
    """One compiled `place`."""

    def __init__(self, compiler: Compiler, spec: types.Place, signers: Signers, place: Path) -> None:
        self.signers = signers
        self.parts: dict[str, dict[str, Run]] = {part: {} for part in PARTS}
        self.late: list[tuple[str, str, Run, set[str]]] = []
        self.needs: set[str] = set()
        for part in PARTS:
            for key, text in getattr(spec, part).items():
                at = (*place, part, key)
                before = len(compiler.uses)
                run = compiler.text(text, SIGNED, at, "must")
                needs = signers.read(compiler.uses[before:])
                if not needs & signers.late:
                    self.parts[part][key] = run
                    self.needs |= needs
                elif part in LATE_PARTS:
                    self.late.append((part, key, run, needs))
                else:
                    says = f"what signs the finished request can't be put into its {part}"
                    compiler.problems.append(Problem(at, "signer", says, "place it in headers or query"))
        hole = "must" if is_expression(spec.url) else "url"  # an address that is given whole stays as it is
        self.url = compiler.text(spec.url, AUTH, (*place, "url"), hole) if spec.url else None

    def fill(self, scope: Scope, tls: Tls | None, hide: Hide) -> Placement:
        """`hide` is told each signature by its name. BadValue where a hole stays empty."""
        if self.needs:
            made = self.signers.made(scope, self.needs)
            for name in made.keys() & self.needs:
                hide(name, made[name])
            scope = {**scope, "sign": made}
        filled = {part: {key: run(scope) for key, run in runs.items()} for part, runs in self.parts.items()}
        if not any(filled.values()) and not self.late and tls is None:
            return NOTHING
        placement = msgspec.convert(filled, Placement)
        finish = (lambda request: self.finish(request, scope, hide)) if self.late else None
        return msgspec.structs.replace(placement, tls=tls, finish=finish)

    def finish(self, request: Prepared, scope: Scope, hide: Hide) -> Prepared:
        """The encoded request with what signs it. AuthFailed where a key can't be used."""
        for part, key, run, needs in self.late:
            finished = as_sent(request)
            try:
                made = self.signers.made({**scope, "request": finished}, needs)
                value = run({**scope, "sign": made})
                if part == "headers":
                    request = msgspec.structs.replace(request, headers={**request.headers, key: header(key, value)})
            except BadValue as error:
                if len(finished["body"]) > semantics.MAX_TEXT // 2:  # a text with such a body in it may be too long
                    raise
                raise AuthFailed(Outcome(OutcomeKind.PAUSE, f"auth: {unquoted(error)}")) from None
            for name in needs:
                hide(name, made[name])
            if part == "query":
                joined = "&" if "?" in request.url else "?"
                url = f"{request.url}{joined}{quote(key, safe='')}={quote(str(value), safe='')}"
                request = msgspec.structs.replace(request, url=url)
        return request


def as_sent(request: Prepared) -> dict[str, Any]:
    """`request` as signers see it, as it will stand on the wire."""
    parts = urlsplit(request.url)
    return {
        "method": request.method,
        "url": request.url,
        "host": parts.netloc.lower().removesuffix(":443"),
        "path": quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._"),
        "query": parts.query,
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "body": (request.content or b"").decode("utf-8", "surrogateescape"),
    }


def unquoted(error: BadValue) -> str:
    """The error without the values it quotes: here they are parts of secrets."""
    return re.sub(r'"[^"]*"|number \S+', "***", str(error))
