"""
The one registry of functions that both notations share, each with a runnable example.

`REGISTRY[name].call(subject, …)` gives None for absent and raises nothing but BadValue. The reference for people
(docs/functions.md) is written from it by `python -m engine.functions.reference`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from engine.functions import choices, encodings, lists, numbers, objects, texts, times
from engine.functions.definition import Example, Function, Parameter, registered

__all__ = ["REGISTRY", "THEMES", "Example", "Function", "Parameter", "closest"]

THEMES = {
    choices.__name__: "Where a value may be absent",
    lists.__name__: "Lists",
    objects.__name__: "Objects",
    numbers.__name__: "Numbers",
    texts.__name__: "Texts",
    times.__name__: "Dates and times",
    encodings.__name__: "Hashes and encodings",
}

REGISTRY: Mapping[str, Function] = MappingProxyType(
    {each.name: each for theme in THEMES for each in registered.values() if each.theme == theme}
)

# What stock JMESPath, Jinja and other languages call the same thing.
_ELSEWHERE = {
    "capitalize": "title",
    "count": "length",
    "e": "html",
    "endswith": "ends_with",
    "escape": "html",
    "float": "decimal",
    "groupby": "group",
    "group_by": "group",
    "int": "integer",
    "items": "entries",
    "len": "length",
    "not_null": "coalesce",
    "quote": "url_part",
    "selectattr": "where",
    "size": "length",
    "sort_by": "sort",
    "startswith": "starts_with",
    "strftime": "date",
    "strip": "trim",
    "substr": "slice",
    "substring": "slice",
    "sum": "add",
    "timestamp": "epoch",
    "to_array": "list",
    "to_number": "number",
    "to_string": "string",
    "tojson": "json",
    "uuid": "uuid5",
}


def closest(name: str) -> str | None:
    """The function that was meant by a name that none has, for "did you mean"."""
    from difflib import get_close_matches

    wanted = name.lower().replace("-", "_")
    if wanted in REGISTRY:
        return wanted
    if wanted in _ELSEWHERE:
        return _ELSEWHERE[wanted]
    return next(iter(get_close_matches(wanted, REGISTRY, n=1, cutoff=0.6)), None)
