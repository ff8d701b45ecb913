"""
Where a hole stands in a URL or in HTML -> the helper of `engine.notations.semantics` that fills it there, or a finding.

Both read the fixed text of a template in its order, as a browser or a vendor would. What a helper yields never changes
where the text after it stands.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from engine.notations.emitting import ExpressionError


class Place(Protocol):
    """The place that a template has come to."""

    rule: str

    def read(self, text: str) -> None:
        """Fixed text has gone by."""

    def hole(self) -> str:
        """The helper for a hole here. ExpressionError where none may stand."""

    def state(self) -> Any:
        """What tells two places apart; every way through `{% if %}` has to end in the same one."""

    def end(self) -> None:
        """ExpressionError where the text must not end."""


class Anywhere:
    """A text in which all holes are filled alike."""

    rule = "template"

    def __init__(self, helper: str) -> None:
        self.helper = helper

    def read(self, text: str) -> None:
        pass

    def hole(self) -> str:
        return self.helper

    def state(self) -> Any:
        return None

    def end(self) -> None:
        pass


_SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Url:
    """The address of a request: begin -> host -> path -> query."""

    rule = "template"

    def __init__(self) -> None:
        self.part = "begin"

    def read(self, text: str) -> None:
        if self.part == "begin" and text.strip():
            scheme = _SCHEME.match(text)
            text = text[scheme.end() :] if scheme else text
            self.part = "host" if scheme else "path"
        if self.part == "host" and (end := re.search(r"[/?#\\]", text)):
            self.part = "path"
            text = text[end.start() :]
        if self.part == "path" and re.search(r"[?#]", text):
            self.part = "query"

    def hole(self) -> str:
        helper = {"begin": "url_base", "host": "url_host", "path": "segment", "query": "url_value"}[self.part]
        self.part = "host" if self.part == "begin" else self.part
        return helper

    def state(self) -> Any:
        return self.part

    def end(self) -> None:
        pass


_BLANK = " \t\n\r\f"
_RAW = {
    "script", "style", "textarea", "title", "iframe", "noembed", "noframes", "noscript", "xmp", "plaintext",
}  # fmt: skip
_LINKS = re.compile(r"href|src|url|uri|action|cite|poster|background|data|longdesc|usemap|manifest|profile|codebase")
_CODE = {"style", "srcdoc", "srcset", "imagesrcset", "ping", "content", "attributename", "from", "to", "by", "values"}
_BEGUN = re.compile(r"\s*(\0|https?://[^/?#\\\0]+[/?#]|/(?![/\\])|[?#])", re.IGNORECASE)
_MAIL = re.compile(r"\s*mailto:[^?]*\Z", re.IGNORECASE)
_MAIL_FIELD = re.compile(r"\s*mailto:[^?]*\?", re.IGNORECASE)
_WHERE = {
    "open": "the name of a tag",
    "close": "the name of a tag",
    "tag": "the name of a tag",
    "attributes": "a tag, outside of quotes",
    "name": "the name of an attribute",
    "named": "a tag, outside of quotes",
    "value": "an attribute without quotes",
    "bare": "an attribute without quotes",
    "single": "an attribute in single quotes",
    "declaration": "a comment",
    "bogus": "a comment",
    "comment": "a comment",
}


class Html:
    """A text of HTML, read as the HTML standard says."""

    rule = "html-hole"

    def __init__(self) -> None:
        self.mode = "text"
        self.tag = self.attribute = ""
        self.seen = ""  # of a value, a comment, or what stands in a script; a hole is \0
        self.closing = False

    def read(self, text: str) -> None:
        for mark in text:
            getattr(self, "in_" + self.mode)(mark)

    # --- one character in each mode ---

    def in_text(self, mark: str) -> None:
        if mark == "<":
            self.mode = "open"

    def in_open(self, mark: str) -> None:
        if mark == "/":
            self.mode = "close"
        elif mark == "!":
            self.mode, self.seen = "declaration", ""
        elif mark == "?":
            self.mode = "bogus"
        else:
            self.begin_tag(mark, closing=False)

    def in_close(self, mark: str) -> None:
        if mark == ">":
            self.mode = "text"
        elif mark.isascii() and mark.isalpha():
            self.begin_tag(mark, closing=True)
        else:
            self.mode = "bogus"

    def begin_tag(self, mark: str, *, closing: bool) -> None:
        if mark.isascii() and mark.isalpha():
            self.mode, self.tag, self.closing = "tag", mark.lower(), closing
        else:
            self.mode = "text"
            self.in_text(mark)

    def in_declaration(self, mark: str) -> None:
        self.seen += mark
        if self.seen == "--":
            self.mode = "comment"
        elif mark == ">":
            self.mode = "text"
        elif self.seen != "-":
            self.mode = "bogus"

    def in_bogus(self, mark: str) -> None:
        if mark == ">":
            self.mode = "text"

    def in_comment(self, mark: str) -> None:
        self.seen += mark
        if self.seen.endswith(("-->", "--!>")):
            self.mode = "text"

    def in_raw(self, mark: str) -> None:
        self.seen += mark.lower()
        if self.tag in ("noscript", "plaintext") or (self.tag == "script" and "<!--" in self.seen):
            return  # whether it ends depends on the browser
        if self.seen[:-1].endswith(f"</{self.tag}") and (mark in _BLANK or mark in "/>"):
            self.closing = True
            self.after_name(mark)

    def in_tag(self, mark: str) -> None:
        if mark in _BLANK or mark in "/>":
            self.after_name(mark)
        else:
            self.tag += mark.lower()

    def after_name(self, mark: str) -> None:
        """A blank, a slash or the end of a tag."""
        if mark != ">":
            self.mode = "attributes"
        elif not self.closing and self.tag in _RAW:
            self.mode, self.seen = "raw", ""
        else:
            self.mode = "text"

    def in_attributes(self, mark: str) -> None:
        if mark in _BLANK or mark in "/>":
            self.after_name(mark)
        else:
            self.mode, self.attribute = "name", mark.lower()

    def in_name(self, mark: str) -> None:
        if mark == "=":
            self.mode, self.seen = "value", ""
        elif mark in _BLANK:
            self.mode = "named"
        elif mark in "/>":
            self.after_name(mark)
        else:
            self.attribute += mark.lower()

    def in_named(self, mark: str) -> None:
        if mark == "=":
            self.mode, self.seen = "value", ""
        elif mark not in _BLANK:
            self.in_attributes(mark)

    def in_value(self, mark: str) -> None:
        if mark == '"':
            self.mode = "double"
        elif mark == "'":
            self.mode = "single"
        elif mark == ">":
            self.after_name(mark)
        elif mark not in _BLANK:
            self.mode = "bare"

    def in_double(self, mark: str) -> None:
        if mark == '"':
            self.mode = "attributes"
        else:
            self.seen += mark

    def in_single(self, mark: str) -> None:
        if mark == "'":
            self.mode = "attributes"

    def in_bare(self, mark: str) -> None:
        if mark in _BLANK or mark == ">":
            self.after_name(mark)

    # --- holes ---

    def hole(self) -> str:
        helper = self.helper()
        self.seen += "\0"
        return helper

    def helper(self) -> str:
        if self.mode == "text":
            return "html"
        if self.mode == "double":
            return self.in_attribute()
        hint = "holes stand in text, or in an attribute in double quotes"
        if self.mode in ("value", "bare", "single"):
            hint = f'{self.attribute}="{{{{ … }}}}"'
        raise ExpressionError(self.rule, f"a hole in {self.where()}", hint)

    def where(self) -> str:
        return f"<{self.tag}>" if self.mode == "raw" else _WHERE.get(self.mode, "an attribute")

    def in_attribute(self) -> str:
        name = self.attribute.rpartition(":")[2]
        if name.startswith("on") or name in _CODE:
            raise ExpressionError(
                self.rule, f"a hole in {self.attribute}, which is more than a text", "href, src, title or the like"
            )
        if not _LINKS.search(name) or self.attribute.startswith("data-"):
            return "html"
        if not self.seen.strip():
            return "html_link"
        if _MAIL.match(self.seen):
            return "html_mail"
        if _BEGUN.match(self.seen) or _MAIL_FIELD.match(self.seen):
            return "html_part"
        says = f"a hole in the beginning of a link ({self.attribute})"
        raise ExpressionError(self.rule, says, "the whole link as one hole, or https://host/ before it")

    def state(self) -> Any:
        seen = self.seen
        if self.mode == "double":
            try:
                seen = self.in_attribute()
            except ExpressionError as error:
                seen = str(error)
        inside = (self.tag, self.closing, self.attribute, seen) if self.mode != "text" else ()
        return (self.mode, *inside)

    def end(self) -> None:
        if self.mode not in ("text", "open", "close"):
            raise ExpressionError(self.rule, f"the text ends inside of {self.where()}", "close it in the same text")


def place_of(hole: str) -> Place:
    """By what a text is: url, html, or the helper for all of its holes."""
    return Url() if hole == "url" else Html() if hole == "html" else Anywhere(hole)
