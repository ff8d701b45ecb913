"""
YAML text -> plain data that remembers line and column of every key and value.

YAML 1.2 with JSON's types and nothing else: `true`, `false`, `null` and JSON numbers (exact) are typed, all other plain
text is text. Whatever two YAML readers would read differently is a finding. Nothing is ever constructed from a tag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

from engine.errors import SpecErrors
from engine.spec.findings import Finding, Severity, dotted, in_file_order

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_DIGITS = 40

Mark = tuple[int, int]
Path_ = Sequence[str | int]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?(?:[eE]([+-]?[0-9]+))?\Z")
_NUMBER_ELSEWHERE = re.compile(
    r"""[-+]?(?:
        0b[01_]+ | 0o[0-7_]+ | 0x[0-9a-fA-F_]+           # other bases
      | [0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?   # 007, 1_000, +5, 1.
      | \.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?               # .5
      | [0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?      # 12:30 counts in sixties
      | \.(?:inf|Inf|INF)
    )\Z | \.(?:nan|NaN|NAN)\Z""",
    re.VERBOSE,
)
_WORDS = {"true": True, "false": False, "null": None}
_WORDS_ELSEWHERE = {"~"} | {
    form for word in ("yes", "no", "on", "off", "true", "false", "null") for form in (word, word.title(), word.upper())
} - set(_WORDS)
_PATH = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+"
_CUT = re.compile(r"[ \t]{1,77}#(?:\{\{|\$\{)")
_OPENING = re.compile(r"\$\{|\{\{")
_INDENTATION = "check its indentation"
_SYNTAX = {  # what the YAML parsers say -> what to do about it
    "mapping values are not allowed": (
        'a ": " where none can stand',
        "put the text in quotes, or check the indentation",
    ),
    "sequence entries are not allowed": ('a "- " where none can stand', "a list begins in a line of its own"),
    "did not find expected key": ("this line fits under no key above it", _INDENTATION),
    "expected <block end>": ("this line fits under no key above it", _INDENTATION),
    "did not find expected '-' indicator": ('a list goes on with "- "', "check the indentation"),
    "could not find expected ':'": ('no ":" after the key', "write `key: value`, and check the indentation"),
    "unexpected end of stream": ("a quote that is never closed", ""),
    "unknown escape character": (
        "a backslash that YAML does not know in double quotes",
        "write it twice, or put the text in single quotes",
    ),
    "did not find expected ',' or '}'": ('no "," or "}" where one is due', "a text with , : { } [ ] stands in quotes"),
    "did not find expected ',' or ']'": ('no "," or "]" where one is due', "a text with , : { } [ ] stands in quotes"),
    "found unexpected ':'": ('a ":" with no space and no value after it', "write `key: value`"),
    "did not find expected alphabetic or numeric character": (
        "a text that begins with * or & is a reference in YAML",
        'put it in quotes, such as "*.example.com"',
    ),
    "cannot start any token": ("a text cannot begin with this character", "put the text in quotes"),
    "did not find expected node content": ("a value is missing here", ""),
}


class Node:
    """One value with its place; a map's `keys` are the places of its keys. Shared between trees, never changed."""

    __slots__ = ("column", "keys", "line", "value")

    def __init__(self, value: Any, line: int, column: int, keys: dict[str, Mark] | None = None) -> None:
        self.value = value
        self.line = line
        self.column = column
        self.keys = {} if keys is None else keys

    @property
    def mark(self) -> Mark:
        return self.line, self.column

    @property
    def is_map(self) -> bool:
        return isinstance(self.value, dict)

    def get(self, key: str) -> Node | None:
        found: Node | None = self.value.get(key) if isinstance(self.value, dict) else None
        return found

    def plain(self) -> Any:
        value = self.value
        if isinstance(value, dict):
            return {key: child.plain() for key, child in value.items()}
        if isinstance(value, list):
            return [child.plain() for child in value]
        return value

    def changed(self, entries: Mapping[str, Node], keys: Mapping[str, Mark] | None = None) -> Node:
        """The same map with these entries; a key without a known place takes the place of its value."""
        known = {**self.keys, **(keys or {})}
        places = {key: known.get(key, child.mark) for key, child in entries.items()}
        return Node(dict(entries), self.line, self.column, places)


def planted(value: Any, mark: Mark) -> Node:
    """Plain data as a tree whose every place is `mark`; nodes within it stay as they are."""
    if isinstance(value, Node):
        return value
    line, column = mark
    if isinstance(value, Mapping):
        children = {key: planted(child, mark) for key, child in value.items()}
        return Node(children, line, column, {key: children[key].mark for key in children})
    if isinstance(value, list):
        return Node([planted(child, mark) for child in value], line, column)
    return Node(value, line, column)


class Located:
    """A file that was read: its data, and where each part of it stands."""

    def __init__(self, file: str, text: str, root: Node, findings: Sequence[Finding] = ()) -> None:
        self.file = file
        self.text = text
        self.root = root
        self.findings = list(findings)

    @cached_property
    def data(self) -> Any:
        return self.root.plain()

    @cached_property
    def _lines(self) -> list[str]:
        return _LINE_BREAK.split(self.text)

    def grown(self, root: Node) -> Located:
        """The same text, read as another tree (definitions expanded)."""
        return Located(self.file, self.text, root, self.findings)

    def mark(self, path: Path_) -> Mark:
        """Line and column of the value at `path`, or of the nearest part above it that exists."""
        return self._walk(path)[-1][1]

    def key_mark(self, path: Path_) -> Mark:
        """Line and column of the key that `path` ends with; for a list's item, of the item."""
        return self._walk(path)[-1][0]

    def source_line(self, line: int) -> str:
        return self._lines[line - 1] if 0 < line <= len(self._lines) else ""

    def finding(self, path: Path_, rule: str, says: str, hint: str = "", *, on_key: bool = False) -> Finding:
        """An error at `path`, its message led by the path."""
        line, column = self.key_mark(path) if on_key else self.mark(path)
        name = dotted(path)
        return Finding(self.file, line, column, rule, "error", f"{name}: {says}" if name else says, hint)

    def _walk(self, path: Path_) -> list[tuple[Mark, Mark]]:
        node = self.root
        seen = [(node.mark, node.mark)]
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                key = node.keys[str(part)]
                node = node.value[part]
                seen.append((key, node.mark))
            elif isinstance(node.value, list) and isinstance(part, int) and 0 <= part < len(node.value):
                node = node.value[part]
                seen.append((node.mark, node.mark))
            else:
                break
        return seen


def read_file(path: Path, file: str | None = None) -> Located:
    """As `read`; also for what is no file or can't be opened."""
    name = str(path) if file is None else file
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for, a device has no end
        raise SpecErrors([Finding(name, 1, 1, "unreadable", "error", "not a regular file")])
    try:
        with path.open("rb") as source:
            raw = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecErrors([Finding(name, 1, 1, "unreadable", "error", _why_unreadable(path, error))]) from None
    return read(raw, name)


def read(text: bytes | str, file: str, *, loader: Any = None) -> Located:
    """
    Raises SpecErrors with all findings when the text can't be used at all; lesser ones are in `.findings`.

    `loader` is a PyYAML loader class; by default libyaml's, or the pure Python one where that is missing.
    """
    return _Reading(_checked(text if isinstance(text, str) else _decoded(text, file), file), file).run(
        loader or _LOADER
    )


def _why_unreadable(path: Path, error: OSError) -> str:
    if path.is_dir():
        return "a directory, where a file is wanted"
    return f"can't be read: {(error.strerror or 'unknown reason').lower()}"


def _decoded(raw: bytes, file: str) -> str:
    if len(raw) > MAX_BYTES:
        raise _too_large(file)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _place(raw[: error.start].decode("utf-8"))
        says = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise SpecErrors([Finding(file, line, column, "encoding", "error", says, "save it as UTF-8")]) from None


def _checked(text: str, file: str) -> str:
    if len(text) > MAX_BYTES:
        raise _too_large(file)
    text = text.removeprefix("\ufeff")
    if wrong := _NOT_YAML.search(text):
        line, column = _place(text[: wrong.start()])
        says = f"the character U+{ord(wrong[0]):04X} cannot stand in a YAML file"
        raise SpecErrors([Finding(file, line, column, "encoding", "error", says)])
    return text


def _too_large(file: str) -> SpecErrors:
    return SpecErrors([Finding(file, 1, 1, "too-large", "error", "the file is larger than 1 MB")])


def _place(before: str) -> Mark:
    lines = _LINE_BREAK.split(before)
    return len(lines), len(lines[-1]) + 1


class _Frame:
    """An open map or list; for a map also the key whose value comes next."""

    __slots__ = ("awaits_value", "flow", "is_map", "key", "key_mark", "node", "shadow")

    def __init__(self, node: Node, *, flow: bool, shadow: bool) -> None:
        self.node = node
        self.is_map = node.is_map
        self.flow = flow
        self.shadow = shadow  # it stands where a key should, so it is read past
        self.awaits_value = False
        self.key: str | None = None  # None while a value is awaited: the key was refused
        self.key_mark: Mark = (0, 0)


class _Reading:
    """One pass over the parser's events; no recursion, so depth is a count."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.findings: list[Finding] = []
        self.unusable = False
        self.stack: list[_Frame] = []
        self.root: Node | None = None
        self.last: Any = None  # the scalar that was read last

    def run(self, loader: Any) -> Located:
        parser = loader(self.text)
        scalar, take, get_event = self._scalar, self._take, parser.get_event
        try:
            while (event := get_event()) is not None:
                if type(event) is yaml.ScalarEvent:  # most are
                    scalar(event)
                elif not take(event):
                    break
        except yaml.YAMLError as error:
            self._explain(error)
        finally:
            parser.dispose()
        if self.root is None and not self.unusable:
            self._find((1, 1), "empty", "the file is empty", fatal=True)
        if self.unusable or self.root is None:
            raise SpecErrors(in_file_order(self.findings))
        return Located(self.file, self.text, self.root, in_file_order(self.findings))

    def _take(self, event: Any) -> bool:
        """Go on with the next event?"""
        kind = type(event)
        if kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            return self._open(event, {} if kind is yaml.MappingStartEvent else [])
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self._close()
        elif kind is yaml.AliasEvent:
            self._find(_mark(event), "anchor", f"*{event.anchor}: aliases are not read", _USE_INSTEAD, fatal=True)
            self._put(Node("", *_mark(event)))
        elif kind is yaml.DocumentStartEvent and self.root is not None:
            self._find(
                _mark(event), "second-document", "a second document", "write it to a file of its own", fatal=True
            )
            return False
        return True

    # values

    def _scalar(self, event: Any) -> None:
        start = event.start_mark
        mark = start.line + 1, start.column + 1
        self.last = event
        if event.tag is not None or event.anchor is not None:
            self._refuse_tag_and_anchor(event)
        frame = self.stack[-1] if self.stack else None
        if frame is not None and frame.is_map and not frame.awaits_value:
            self._key(frame, event, mark)
            return
        text = event.value
        if event.style:
            value: Any = text
        elif frame is not None and frame.is_map and frame.key is None:
            value = None
        else:
            value = self._plain_scalar(text, mark, event)
        self._put(Node(value, *mark))

    def _key(self, frame: _Frame, event: Any, mark: Mark) -> None:
        key = event.value
        frame.awaits_value = True
        frame.key = None
        frame.key_mark = mark
        if key == "<<" and not event.style:
            self._find(mark, "merge-key", "<<: merge keys are not read", _USE_INSTEAD)
        elif key == "" and not event.style:
            self._find(mark, "syntax", "a key is missing before the colon")
        elif key in frame.node.value:
            line, _ = frame.node.keys[key]
            self._find(mark, "duplicate-key", f"{key}: the same key stands in line {line}", "keep one of them")
        else:
            frame.key = key

    def _plain_scalar(self, text: str, mark: Mark, event: Any) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if not text:
            if any(frame.shadow for frame in self.stack):
                return None
            hint = 'write null, "", {} or [], or leave the key out'
            frame = self.stack[-1] if self.stack else None
            if frame is not None and frame.flow and frame.key is not None and re.fullmatch(_PATH, frame.key):
                mark, hint = frame.key_mark, f'an expression is written "${{ {frame.key} }}"'
            self._find(mark, "empty-value", "nothing stands here", hint)
            return None
        if text[0] in "-+.0123456789":
            return self._number(text, mark)
        if text in _WORDS_ELSEWHERE:
            self._unquoted(text, mark)
        elif "{" in text:
            self._expression(text, mark, event)
        elif _CUT.match(self.text, event.end_mark.index):
            says = "this text is cut at ` #`, which begins a comment"
            self._find(mark, "unclosed", says, "put the whole text in double quotes")
        return text

    def _number(self, text: str, mark: Mark) -> Any:
        found = _JSON_NUMBER.match(text)
        if found is None:
            if _NUMBER_ELSEWHERE.match(text):
                self._unquoted(text, mark)
            return text
        fraction, exponent = found.groups()
        digits = sum(char.isdigit() for char in text.lower().partition("e")[0])
        power = (exponent or "").lstrip("+-0")
        if digits > MAX_DIGITS or len(power) > 2 or int(power or 0) > MAX_DIGITS:
            says = f"a number of more than {MAX_DIGITS} digits"
            self._find(mark, "number", says, "put it in quotes if it is an identifier")
            return text
        return Decimal(text) if fraction or exponent else int(text)

    def _unquoted(self, text: str, mark: Mark) -> None:
        says = f"{text} is text to some YAML readers, and a number, a time, null or true/false to others"
        plain = {"~": "null"}.get(text, text.lower())
        hint = f'write {plain}, or quote it: "{text}"' if plain in _WORDS else f'quote it: "{text}"'
        self._find(mark, "unquoted", says, hint)

    def _expression(self, text: str, mark: Mark, event: Any) -> None:
        for opening, closing in (("${", "}"), ("{{", "}}")):
            start = text.rfind(opening)
            if start < 0 or closing in text[start:]:
                continue
            rest = self.text[event.end_mark.index :]
            if re.match(r"[ \t]+#", rest):
                says, hint = (
                    f"this {opening} is cut at ` #`, which begins a comment",
                    "put the whole text in double quotes",
                )
            else:
                says, hint = f"{opening} is never closed", f"write `{opening} … {closing}`"
            self._find(mark, "unclosed", says, hint)
            return

    # maps and lists

    def _open(self, event: Any, value: Any) -> bool:
        mark = _mark(event)
        if event.tag is not None or event.anchor is not None:
            self._refuse_tag_and_anchor(event)
        if len(self.stack) >= MAX_DEPTH:
            self._find(mark, "too-deep", f"nested more than {MAX_DEPTH} levels deep", fatal=True)
            return False
        frame = self.stack[-1] if self.stack else None
        stands_as_key = frame is not None and frame.is_map and not frame.awaits_value
        if stands_as_key and not any(open_.shadow for open_ in self.stack):
            self._collection_as_key(event, mark)
        node = Node(value, *mark)
        if not stands_as_key:
            self._put(node)
        self.stack.append(_Frame(node, flow=bool(event.flow_style), shadow=stands_as_key))
        return True

    def _collection_as_key(self, event: Any, mark: Mark) -> None:
        index = event.start_mark.index
        if self.text[index : index + 2] == "{{":
            self._find(mark, "flow-expression", *_BRACES, fatal=True)
        elif self.text[index - 1 : index + 1] == "{{":
            self._find((mark[0], mark[1] - 1), "flow-expression", *_BRACES, fatal=True)
        else:
            self._find(mark, "syntax", "a map or a list cannot be a key", fatal=True)

    def _close(self) -> None:
        frame = self.stack.pop()
        if frame.shadow:
            parent = self.stack[-1]
            parent.awaits_value = True
            parent.key = None

    def _put(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        if not frame.is_map:
            frame.node.value.append(node)
            return
        if not frame.awaits_value:  # an alias as a key
            frame.awaits_value, frame.key = True, None
            return
        if frame.key is not None:
            frame.node.value[frame.key] = node
            frame.node.keys[frame.key] = frame.key_mark
        frame.awaits_value, frame.key = False, None

    # findings

    def _refuse_tag_and_anchor(self, event: Any) -> None:
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._find(_mark(event), "tag", f"{tag}: tags are not read", "leave it out; quotes make a text")
        if event.anchor is not None:
            self._find(_mark(event), "anchor", f"&{event.anchor}: anchors are not read", _USE_INSTEAD)

    def _find(self, mark: Mark, rule: str, says: str, hint: str = "", *, fatal: bool = False) -> None:
        severity: Severity = "error"
        self.findings.append(Finding(self.file, mark[0], mark[1], rule, severity, says, hint))
        self.unusable = self.unusable or fatal

    def _explain(self, error: yaml.YAMLError) -> None:
        """What the parser could not read, as an author understands it."""
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = str(getattr(error, "problem", None) or "not YAML")
        if mark is None:
            self._find((1, 1), "syntax", problem, fatal=True)
            return
        index = min(mark.index, len(self.text))
        context = getattr(error, "context_mark", None)
        lines = [mark.line, mark.line - 1, *([context.line] if context else [])]
        if opening := self._loose_expression(index, lines):
            place, says, hint = opening
            self.findings = [finding for finding in self.findings if (finding.line, finding.column) != place]
            self._find(place, "flow-expression", says, hint, fatal=True)
            return
        place = (mark.line + 1, mark.column + 1)
        if self.text[index : index + 1] == "\t" or re.match(r" *\t", self._line(mark.line)):
            self._find(place, "tab", "a tab", "indent with spaces", fatal=True)
            return
        if "nesting depth" in problem:
            self._find(place, "too-deep", f"nested more than {MAX_DEPTH} levels deep", fatal=True)
            return
        if "could not find expected ':'" in problem and context:
            self._find(*self._without_colon(context.line), fatal=True)
            return
        if "mapping values are not allowed" in problem and (deeper := self._deeper(mark.line)):
            self._find((mark.line + 1, deeper[0]), "syntax", *deeper[1:], fatal=True)
            return
        if "end of stream" in problem and context:
            place = (context.line + 1, context.column + 1)
        last = self.last
        if last is not None and last.style in ("'", '"') and last.start_mark.line < last.end_mark.line == mark.line:
            says = f"this quote is closed only in line {mark.line + 1}"
            self._find(_mark(last), "syntax", says, "close it where the text ends", fatal=True)
            return
        if "expected" in problem and self._line(mark.line)[: mark.column].rstrip().endswith(('"', "'", "}", "]")):
            self._find(
                place, "syntax", "more text after the end of a value", "put the whole text in quotes", fatal=True
            )
            return
        for says, (message, hint) in _SYNTAX.items():
            if says in problem:
                if hint == _INDENTATION and (above := self._above(mark.line)) is not None:
                    hint = f"check its indentation and that of line {above + 1}"
                self._find(place, "syntax", message, hint, fatal=True)
                return
        self._find(place, "syntax", f"not YAML: {problem}", fatal=True)

    def _line(self, number: int) -> str:
        lines = _LINE_BREAK.split(self.text)
        return lines[number] if 0 <= number < len(lines) else ""

    def _without_colon(self, number: int) -> tuple[Mark, str, str, str]:
        """The line of a key without its colon: place, rule, what is wrong, what to write."""
        line = self._line(number)
        text = line.strip()
        place = (number + 1, len(line) - len(line.lstrip()) + 1)
        if found := re.match(r"([\w.$-]+)(?::\u00a0|\u00a0)\s*(.*)", text):
            return place, "syntax", "a hard blank (U+00A0) after the key", f"write `{found[1]}: {found[2]}`"
        if found := re.match(r"([\w.$-]+):(\S.*)", text):
            return place, "syntax", 'no blank after the ":"', f"write `{found[1]}: {found[2]}`"
        if found := re.match(r"([\w.$-]+)\s*=+>?\s*(\S.*)", text):
            return place, "syntax", 'a "=" where a ":" is due', f"write `{found[1]}: {found[2]}`"
        if found := re.match(r"([\w.$-]+)\s+(\S.*)", text):
            return place, "syntax", 'no ":" after the key', f"write `{found[1]}: {found[2]}`, and check the indentation"
        return place, "syntax", *_SYNTAX["could not find expected ':'"]

    def _above(self, number: int) -> int | None:
        """The nearest line above that has more than blanks and a comment."""
        return next((at for at in range(number - 1, -1, -1) if self._line(at).split("#")[0].strip()), None)

    def _deeper(self, number: int) -> tuple[int, str, str] | None:
        """The line is a key that stands deeper than the key above it, which has its value: column and words."""
        line = self._line(number)
        found = re.match(r"( *)[\w.$-]+:(?:\s|\Z)", line)
        above = self._above(number)
        if found is None or above is None:
            return None
        other = re.match(r"( *(?:- +)*)[\w.$-]+:\s+[^\s|>#]", self._line(above))
        if other is None or len(found[1]) <= len(other[1]):
            return None
        says = f"this line stands deeper than line {above + 1}, which has a value already"
        return (
            len(found[1]) + 1,
            says,
            f"begin it in column {len(other[1]) + 1}, or take the value out of line {above + 1}",
        )

    def _loose_expression(self, index: int, lines: Sequence[int]) -> tuple[Mark, str, str] | None:
        """The `${` or `{{` outside of quotes that made the parser stumble, if there is one."""
        if self.text[index - 1 : index + 1] == "${":
            line, column = _place(self.text[: index - 1])
            return (line, column), *_DOLLAR
        for number in lines:
            text = self._line(number)
            for found in _OPENING.finditer(text):
                if _quoted_at(text, found.start()):
                    continue
                says, hint = _BRACES if found[0] == "{{" else _DOLLAR
                before = text[: found.start()].rstrip()
                if found[0] == "${" and _fine_in_block(text, found.start()):
                    continue
                if found[0] == "{{" and before and before[-1] not in ":-,[{?":
                    continue  # {{ in the middle of a text is harmless
                return (number + 1, found.start() + 1), says, hint
        return None


_USE_INSTEAD = "name it under `definitions:` and write `$use: name`"
_DOLLAR = ("an expression in { } or [ ], or with `: ` in it, stands in double quotes", 'write "${ … }"')
_BRACES = ("a text that begins with {{ stands in double quotes", 'write "{{ … }}"')


def _fine_in_block(line: str, column: int) -> bool:
    """Is what stands from here on the whole value of a `key:` or `- `, with nothing in it that ends a plain text?"""
    if re.match(r"\s*(?:- +)*(?:[^\s\"'\[\]{},#][^\"'\[\]{},#]*:\s+)?\Z", line[:column]) is None:
        return False
    return re.match(r"\$\{(?:(?!:(?:\s|\Z)|\s#).)*(?:(?<=\})\s+#.*)?\Z", line[column:].rstrip()) is not None


def _quoted_at(line: str, column: int) -> bool:
    """Is this place inside quotes? A quote counts where a value can begin."""
    quote = ""
    for at, char in enumerate(line[:column]):
        if quote:
            quote = "" if char == quote and line[at - 1] != "\\" else quote
        elif char in "\"'" and (at == 0 or line[at - 1] in " \t[{,:("):
            quote = char
    return bool(quote)


def _mark(event: Any) -> Mark:
    return cast(int, event.start_mark.line) + 1, cast(int, event.start_mark.column) + 1
