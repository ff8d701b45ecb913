"""Texts that are taken as they are, though their author probably meant something that is computed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.notations.emitting import Problem, Use

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.spec.check.names import Names
    from engine.spec.located import Located, Node

    Path = tuple[str | int, ...]

_WALKED = ("fields", "auth", "auths", "http", "replies", "checks", "provision", "actions", "definitions")
_ROOTS = "event|settings|fields|tables|lookups|vars|record|batch|steps|response|result|row|secrets|token|args"
_PATH = rf"(?:{_ROOTS})(?:\.[A-Za-z_]\w*|\[\d+\])+"
_BARE = re.compile(rf"\s*({_PATH})\s*\Z")
_OTHERWISE = re.compile(  # {event.x}, { {event.x} }, $event.x, $(event.x), %event.x%
    rf"(?<![{{$])\{{\s*({_PATH})\s*\}}(?!\}})|\{{\s+\{{\s*({_PATH})\s*\}}\s*\}}|(?<!\w)\$\(?\s*({_PATH})\)?|%({_PATH})%"
)
_BRACES = re.compile(r"(?<![{$])\{\s*(\w+)\s*\}(?!\})")
_AS_IT_IS = ("$literal", "$soql", "$sql", "$html", "title", "description", "why", "schema", "examples")
_DIRECTIVES = {"$if": ("if", "then"), "$switch": ("switch", "cases"), "$each": ("each", "do")}
_SAYS = "nothing is computed here, this is taken as it stands"


def literal_faults(located: Located, names: Names) -> Iterator[Problem]:
    """Warnings only: a text may look like anything. `names` tells which paths there are."""
    for name in _WALKED:
        if (node := located.root.get(name)) is not None:
            yield from _walk(node, (name,), names)


def _walk(node: Node, place: Path, names: Names) -> Iterator[Problem]:
    value = node.value
    if isinstance(value, dict):
        yield from _directive(value, place)
        for key, child in value.items():
            if key not in _AS_IT_IS:
                yield from _walk(child, (*place, key), names)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _walk(child, (*place, index), names)
    elif isinstance(value, str) and (hint := _meant(value, place, names)):
        yield Problem(place, "literal", _SAYS, hint, "warning")


def _directive(value: dict[str, Any], place: Path) -> Iterator[Problem]:
    for directive, keys in _DIRECTIVES.items():
        if all(key in value for key in keys) and len(value) <= 4:
            says = f"`{keys[0]}` beside `{keys[1]}` is a key like any other"
            yield Problem(
                (*place, keys[0]), "literal", says, f"write `{directive}`, if a choice or a loop is meant", "warning"
            )


def _meant(text: str, place: Path, names: Names) -> str:
    """What to write instead; empty for a text that looks like one."""
    if found := _BARE.match(text):
        return f"write ${{ {found[1]} }}" if _exists(found[1], place, names) else ""
    if text[:1] in "“”„‘’«" and text[-1:] in "“”‘’»" and len(text) > 1:
        return 'curly quotes are a part of the text; write straight ones: "…"'
    if "{%" in text:
        return ""
    if found := _OTHERWISE.search(text):
        path = next(part for part in found.groups() if part)
        return f"write ${{ {path} }}" if found[0] == text.strip() else f"write {{{{ {path} }}}}"
    if "${" in text or "{{" in text:
        return "a JSON body is written as a map, not as a text" if _json_text(text, place) else ""
    if place[-1:] == ("path",) and "request" in place and (found := _BRACES.search(text)):
        return f"write {{{{ … }}}} with the path of {found[1]}, such as {{{{ fields.{found[1]} }}}}"
    return ""


def _json_text(text: str, place: Path) -> bool:
    return place[-2:] == ("request", "json") and text.lstrip()[:1] in ("{", "[") and text.lstrip()[:2] != "{{"


def _exists(path: str, place: Path, names: Names) -> bool:
    """Does this path name something here? Only then it is no name of the vendor's that happens to have a point."""
    parts = tuple(re.findall(r"[A-Za-z_]\w*", path))
    if parts[0] == "event" and names.schema is None:
        return False
    if parts[0] in ("result", "row", "args", "batch"):
        return "results" in place or "lookups" in place or "request" in place
    try:
        return names.fault(Use(parts, place)) is None
    except (KeyError, IndexError):
        return False
