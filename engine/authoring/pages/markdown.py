"""Markdown that stays what it is whatever stands in it: code, tables, blocks of JSON."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from engine.mapping import encode_json

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN = re.compile(r"[^\s\"'{}\[\],:#&*!|>%@`$](?:[^\n\"{}\[\],#:`]|:(?! ))*(?<!\s)\Z")
_JSON_LIKE = re.compile(r"(?:true|false|null|~|-?\d[\d.eE+-]*)\Z")


def code(text: str) -> str:
    """A text as code, in as many backticks as it needs."""
    line = " ".join(text.split()) or " "
    longest = max((len(found) for found in re.findall(r"`+", line)), default=0)
    mark = "`" * (longest + 1)
    return f"{mark} {line} {mark}" if "`" in (line[0], line[-1]) else f"{mark}{line}{mark}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without the columns in which nothing stands."""
    kept = [at for at in range(len(heads)) if at == 0 or any(row[at] for row in rows)]
    lines = [[heads[at] for at in kept], ["---"] * len(kept), *([cell(row[at]) for at in kept] for row in rows)]
    return "\n".join(re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(line)} |") for line in lines)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def link(text: str, page: str, anchor: str) -> str:
    """A link into a page; only the text where the page is not there."""
    return f"[{text}]({page}#{anchor})" if page else text


def block(language: str, text: str) -> str:
    longest = max((len(found) for found in re.findall(r"^`+", text, re.MULTILINE)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def pretty(value: Any) -> str:
    return msgspec.json.format(encode_json(value), indent=2).decode()


def flow(value: Any) -> str:
    """Plain data as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.match(value) and not _JSON_LIKE.match(value):
        return value
    if isinstance(value, str) and re.match(r"\s*\$\{.*\}\s*\Z", value, re.DOTALL):
        return value.strip()
    return encode_json(value).decode()


def listed(texts: Sequence[str], word: str = "and") -> str:
    """`a, b and c`."""
    return ", ".join(texts[:-1]) + f" {word} {texts[-1]}" if len(texts) > 1 else "".join(texts)
