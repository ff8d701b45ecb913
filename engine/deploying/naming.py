"""Names of connectors and clients -> names that AWS takes; two that differ stay different."""

from __future__ import annotations

import hashlib
import re

MOST_OF_A_FUNCTION = 64  # characters; https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html
_WORD = re.compile(r"[a-z][a-z0-9]*\Z")
BETWEEN = "for"  # in logical ids of a connector and a client: ProcessResponsysForClientAbc


def prefix(stage: str) -> str:
    """What all names begin with: the seed's `connect` for `prod`, `connect-test` for a stage `test`."""
    return "connect" if stage == "prod" else f"connect-{stage}"


def bounded(name: str, most: int = MOST_OF_A_FUNCTION) -> str:
    """The name in letters, digits, - and _, cut to `most`; where that changes it, six digits of its hash follow."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    if plain == name and len(name) <= most:
        return name
    return marked(plain, name, most)


def marked(name: str, of: str, most: int = MOST_OF_A_FUNCTION) -> str:
    """The name with six digits of the hash of `of` behind it."""
    return f"{name[: most - 7]}-{_mark(of)}"


def logical(kind: str, *names: str) -> str:
    """
    A logical id of CloudFormation, letters and digits only: (Process, responsys, client-abc) ->
    ProcessResponsysForClientAbc.

    It never depends on what else there is, for a resource whose id changes is made anew.
    """
    joined = BETWEEN.title().join(_camel(name) for name in names)
    simple = all(_is_simple(name) for name in names)
    return f"{kind}{joined[:200]}" + ("" if simple and len(joined) <= 200 else _mark("\0".join(names)))


def number(name: str, below: int) -> int:
    """A number below `below` that depends on the name alone."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) % below


def _is_simple(name: str) -> bool:
    """Can the name be read back from its camel case?"""
    words = name.split("-")
    return BETWEEN not in words and all(map(_WORD.match, words))


def _camel(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", name))


def _mark(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:6]
