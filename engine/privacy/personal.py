"""Fields that the event schema declares personal (`x-personal: true`) -> what is masked in events and in texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

MARK = "x-personal"
MASK = "***"
MAX_REFS = 32  # of one schema into another, before it is taken for a circle
_ADDRESS = re.compile(r"([\w.+-])[\w.+-]*(@|%40)([\w-]+\.[\w.-]+)")
_decode = msgspec.json.Decoder(float_hook=Decimal).decode

Leaf = Callable[[Any], Any]


class Personal:
    """What is personal in the events of one connector; without a schema nothing is but addresses."""

    def __init__(self, schema: Any) -> None:
        self.root = schema if isinstance(schema, Mapping) else {}
        self.marks = MARK in json.dumps(self.root, default=str)

    def event(self, event: Any) -> Any:
        """The event with personal fields masked, and every e-mail address in the others."""
        return addresses_in(self._visit(event, [self.root], masked, inside=False) if self.marks else event)

    def values(self, event: Any) -> list[Any]:
        """What stands in the personal fields of an event."""
        found: list[Any] = []

        def kept(value: Any) -> Any:
            found.append(value)
            return value

        if self.marks:
            self._visit(event, [self.root], kept, inside=False)
        return found

    def text(self, text: str, *bodies: bytes) -> str:
        """A text about these events (as JSON) without what is personal in them, and without any address."""
        if text and self.marks:
            for body in bodies:
                try:
                    text = without(text, self.values(_decode(body)))
                except (msgspec.DecodeError, RecursionError):
                    continue
        return addresses(text)

    def anywhere(self, value: Any, *bodies: bytes) -> Any:
        """The same for a value with texts anywhere in it."""
        return _mapped(value, lambda text: self.text(text, *bodies))

    def _visit(self, value: Any, schemas: Iterable[Any], leaf: Leaf, *, inside: bool) -> Any:
        found = list(self._applied(schemas))
        inside = inside or any(schema.get(MARK) is True for schema in found)
        if isinstance(value, dict):
            return {key: self._visit(item, _of_key(found, key), leaf, inside=inside) for key, item in value.items()}
        if isinstance(value, list):
            items = [schema[name] for schema in found for name in ("items", "contains") if name in schema]
            return [self._visit(item, items, leaf, inside=inside) for item in value]
        return leaf(value) if inside else value

    def _applied(self, schemas: Iterable[Any], left: int = MAX_REFS) -> Iterable[Mapping[str, Any]]:
        """These schemas and those they are made of: references, alternatives, conditions."""
        for schema in schemas:
            if not isinstance(schema, Mapping) or left == 0:
                continue
            yield schema
            others = [self._referred(schema["$ref"])] if "$ref" in schema else []
            for name in ("allOf", "anyOf", "oneOf"):
                others += schema.get(name) or []
            others += [schema[name] for name in ("then", "else") if name in schema]
            if others:
                yield from self._applied(others, left - 1)

    def _referred(self, reference: Any) -> Any:
        found: Any = self.root
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        for part in filter(None, reference[1:].split("/")):
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        return found


EVERYTHING = Personal({MARK: True})  # for events of a connector that can't be read


def _of_key(schemas: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    found = []
    for schema in schemas:
        named = schema.get("properties") or {}
        patterns = [
            each for pattern, each in (schema.get("patternProperties") or {}).items() if re.search(pattern, key)
        ]
        if key in named:
            found.append(named[key])
        found += patterns
        if key not in named and not patterns:
            found.append(schema.get("additionalProperties"))
    return found


def masked(value: Any) -> Any:
    """A value of a personal field as a person may see it: of an address the first letter and the domain."""
    if value is None:
        return None
    return shown if isinstance(value, str) and (shown := addresses(value)) != value else MASK


def addresses(text: str) -> str:
    """The text with every e-mail address as `u***@example.com`."""
    return _ADDRESS.sub(rf"\1{MASK}\2\3", text) if "@" in text or "%40" in text else text


def addresses_in(value: Any) -> Any:
    return _mapped(value, addresses)


def without(text: str, values: Iterable[Any]) -> str:
    """The text with *** where one of the values stands, however it is written there."""
    folded, digits = text.casefold(), re.sub(r"\D", "", text)
    for value in values:
        for form, pattern in _forms(value):
            if form.casefold() in folded:
                text = re.sub(pattern, MASK, text, flags=re.IGNORECASE)
        for number in _numbers(value):  # a telephone number is written in many ways
            if number in digits:
                written = r"[\s()+.\-/]*".join(number)
                text = re.sub(rf"\+?(?<!\d)\(?{written}(?!\d)", MASK, text)
    return text


def _mapped(value: Any, of_text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return of_text(value)
    if isinstance(value, list):
        return [_mapped(one, of_text) for one in value]
    if isinstance(value, dict):
        return {of_text(key): _mapped(one, of_text) for key, one in value.items()}
    return value


def _forms(value: Any) -> list[tuple[str, str]]:
    """Each form with the pattern that finds it as a word; the parts of a name too."""
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, str) and "@" in value:
        return []  # an address, masked as such
    text = str(value).strip()
    words = [word for word in text.split() if len(word) > 2] if isinstance(value, str) else []
    forms = []
    for each in dict.fromkeys([text, *words]):
        if len(each) > 1 and (isinstance(value, str) or len(each) > 3):
            written = {each, quote(each, safe=""), quote_plus(each), json.dumps(each)[1:-1]}
            forms += [(form, rf"(?<!\w){re.escape(form)}(?!\w)") for form in sorted(written, key=len, reverse=True)]
    return forms


def _numbers(value: Any) -> list[str]:
    """The digits of a telephone number: whole, without the country, without the area."""
    if not isinstance(value, str) or not re.fullmatch(r"[\d\s()+.\-/]{8,}", value.strip()):
        return []
    digits = re.sub(r"\D", "", value)
    return [digits[cut:] for cut in (0, 2, 4) if len(digits) - cut >= 8]
