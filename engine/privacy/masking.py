"""Secrets -> what nobody may read in a log, a page or a cassette, however they are written there."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import msgspec

from engine.records import Trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.http import Prepared, Reply

SHOWN = 2_000
KEPT = 3  # earlier tokens of one name that are masked still: requests with them may be under way
FEW_HEADS = 100  # beginnings of secrets that are looked for one after the other


class Masker:
    """Replaces secrets, also URL-encoded, in base64 and as JSON writes them, by `***` wherever a person may look."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.for_good: set[str] = set()
        self.passing: dict[str, deque[set[str]]] = {}
        self.forms: Counter[str] = Counter()
        self.heads: dict[tuple[str, ...], list[str]] = {}  # the first four characters -> forms, longest first
        self.few: tuple[str, ...] | None = ()  # the heads, where they are few
        self.changing = threading.Lock()
        self.add(*values)

    def add(self, *values: object) -> None:
        """Masked from now on."""
        with self.changing:
            for value in maskable(values) - self.for_good:
                self.for_good.add(value)
                self.hide(value)

    def renew(self, name: str, *values: object) -> None:
        """What `name` has now, such as the token of a client; what it had before is still masked for a few times."""
        with self.changing:
            kept, new = self.passing.setdefault(name, deque()), maskable(values)
            if new in kept:
                return
            kept.append(new)
            for value in new:
                self.hide(value)
            if len(kept) > KEPT:
                for value in kept.popleft():
                    self.show(value)

    def hide(self, value: str) -> None:
        for form in forms_of(value):
            self.forms[form] += 1
            if self.forms[form] == 1:
                head = tuple(form[:4])
                self.heads[head] = sorted([*self.heads.get(head, ()), form], key=len, reverse=True)
                if self.few is not None and "".join(head) not in self.few:
                    self.few = (*self.few, "".join(head)) if len(self.few) < FEW_HEADS else None

    def show(self, value: str) -> None:
        for form in forms_of(value):
            self.forms[form] -= 1
            if self.forms[form] == 0:
                del self.forms[form]
                head = tuple(form[:4])
                self.heads[head] = [other for other in self.heads[head] if other != form]

    def mask(self, text: str, most: int | None = None) -> str:
        """The text with secrets as `***`; of a long one the first `most` characters, and no part of a secret there."""
        end = len(text) if most is None else most
        seen = text[: end + 3]
        if not self.may_hide(seen):
            return text[:end]
        out: list[str] = []
        done = 0
        for at in range(min(end, len(text) - 3)):
            if at < done:
                continue
            for form in self.heads.get(tuple(text[at : at + 4]), ()):
                if text.startswith(form, at):
                    out += (text[done:at], "***")
                    done = at + len(form)
                    break
        return "".join([*out, text[done:end]])

    def may_hide(self, text: str) -> bool:
        """Does some secret begin in it?"""
        if (few := self.few) is not None:
            return any(head in text for head in few)
        return not self.heads.keys().isdisjoint(zip(text, text[1:], text[2:], text[3:], strict=False))

    def deep(self, value: Any) -> Any:
        """The same JSON value with every text masked."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, list):
            return [self.deep(entry) for entry in value]
        if isinstance(value, dict):
            return {self.mask(str(key)): self.deep(entry) for key, entry in value.items()}
        return value

    def trace(self, request: Prepared, reply: Reply | None) -> Trace:
        """One exchange as it may be shown and stored: masked, bodies cut, headers left out."""
        return Trace(
            method=request.method,
            url=self.mask(request.url, SHOWN),
            status=reply.status if reply is not None else None,
            request=self.shorten((request.content or b"").decode("utf-8", "replace")),
            reply=self.shorten(reply.text if reply is not None else ""),
        )

    def shorten(self, text: str) -> str:
        shown = self.mask(text, SHOWN)
        return shown if len(text) <= SHOWN else f"{shown}… ({len(text)} characters)"


def maskable(values: Iterable[object]) -> set[str]:
    """Texts of at least four characters: what is shorter stands in too many words."""
    return {value for value in values if isinstance(value, str) and len(value) >= 4}


def forms_of(value: str) -> set[str]:
    """A secret as it may look in a URL, a header, a form or JSON."""
    written = {msgspec.json.encode(value).decode()[1:-1], json.dumps(value)[1:-1]}
    written |= {form.replace("/", "\\/") for form in written}  # PHP escapes the slash
    return written | {value, quote(value, safe=""), quote_plus(value), quote(value), *base64_forms(value.encode())}


def base64_forms(raw: bytes) -> set[str]:
    """How a secret looks in base64: alone, and inside of a longer text such as `user:password`."""
    forms: set[str] = set()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        alone = encode(raw).decode()
        forms |= {alone, alone.rstrip("=")}
        for before in range(
            3
        ):  # of three places in a group of four letters; those at the ends depend on the neighbours
            inside = encode(bytes(before) + raw).decode().rstrip("=")
            end = len(inside) - 1 if (before + len(raw)) % 3 else len(inside)
            if len(core := inside[(0, 2, 3)[before] : end]) >= 8:
                forms.add(core)
    return forms
