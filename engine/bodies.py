"""What a request carries -> bytes: fields, CSV, JSON lines, parts; and back, for whoever plays the vendor."""

from __future__ import annotations

import csv
import io
import json
import re
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import BadValue
from engine.mapping import ascii_only, compile_tree, encode_json
from engine.notations import semantics
from engine.notations.emitting import Problem
from engine.spec import types

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.expressions import Compiler, Path, Run

JSON, CSV, TEXT = "application/json", "text/csv; charset=utf-8", "text/plain; charset=utf-8"
JSON_LINES = "application/x-ndjson"
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:;[\x20-\x7e]*)?\Z")
_PARAMETER = re.compile(r'([A-Za-z]+)="((?:[^"\\]|\\.)*)"')


def mapped(fields: Any, where: str) -> dict[str, Any]:
    """What a tree gave where only a map can stand: nothing is an empty one."""
    if fields is None:
        return {}
    if fields.__class__ is not dict:
        raise BadValue(f"a map is needed here, got {semantics.kind(fields)}", where)
    found: dict[str, Any] = fields
    return found


def pairs(fields: Any, where: str) -> list[tuple[str, str]]:
    """Names and texts; a list repeats its name; a null is an empty text."""
    out = []
    for name, value in mapped(fields, where).items():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, (dict, list)):
                raise BadValue(
                    f"{semantics.kind(entry)} can't stand in a {where}; $json makes it a text", f"{where}.{name}"
                )
            out.append((name, "" if entry is None else semantics.plain(entry)))
    return out


def json_document(value: Any, *, ascii: bool = False) -> bytes:
    raw = encode_json(value)
    return ascii_only(raw) if ascii else raw


def json_lines(rows: Any, *, ascii: bool = False) -> bytes:
    """One JSON document for each item, each with a line feed behind it; what stands inside of them has none."""
    if rows is not None and rows.__class__ is not list:
        raise BadValue(f"ndjson needs a list, got {semantics.kind(rows)}", "ndjson")
    return b"".join(json_document(row, ascii=ascii) + b"\n" for row in semantics.bounded(rows))


def csv_text(rows: Any, spec: types.Csv) -> str:
    """RFC 4180 with a header line; an absent cell is empty, a null is `clear`."""
    listed = semantics.bounded(rows)
    if any(row.__class__ is not dict for row in listed):
        raise BadValue("csv needs a list of objects", "csv.rows")
    columns = spec.columns or list(dict.fromkeys(name for row in listed for name in row))
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")  # with a line feed alone, a lone \r in a cell were not quoted
    writer.writerow(columns)
    for row in listed:
        writer.writerow(
            [
                spec.clear if name in row and row[name] is None else semantics.plain(row.get(name, ""))
                for name in columns
            ]
        )
    end = "\r\n" if spec.line_ending == "CRLF" else "\n"
    return "".join(line.removesuffix("\r\n") + end for line in lines)


class _Lines(list[str]):
    """What a csv.writer writes, line by line."""

    write = list.append


# --- multipart/form-data ---


class Part(msgspec.Struct, frozen=True):
    """One part of a body; a field has neither file name nor type."""

    name: str
    content: bytes
    filename: str | None = None
    content_type: str | None = None


class Multipart:
    """
    A compiled `multipart`: scope -> its parts.

    What is a field and what a file is written in the spec; no value of an event decides it.
    """

    def __init__(
        self,
        compiler: Compiler,
        spec: Mapping[str, Any],
        names: frozenset[str],
        place: Path,
        drop: types.Drop,
        *,
        ascii: bool = False,
    ) -> None:
        self.compiler, self.names, self.drop, self.ascii = compiler, names, drop, ascii
        self.parts: list[tuple[str, Run | File]] = []
        for key, child in spec.items():
            at = (*place, key)
            if (key.startswith("$") and not key.startswith("$$")) or "{{" in key or "${" in key:
                self.wrong(at, "key", f"the name of a part is a literal: {key}", "name: ${ … }")
            elif isinstance(child, dict) and not is_directive(child):
                self.parts.append((key.removeprefix("$"), File(self, child, at)))
            elif child is None and drop.null == "keep":
                self.parts.append((key.removeprefix("$"), lambda _scope: ""))
            else:
                self.parts.append((key.removeprefix("$"), self.tree(child, at)))

    def tree(self, spec: Any, place: Path) -> Run:
        return compile_tree(self.compiler, spec, self.names, place, self.drop)

    def wrong(self, place: Path, rule: str, message: str, hint: str = "") -> None:
        self.compiler.problems.append(Problem(place, rule, message, hint))

    def __call__(self, scope: Mapping[str, Any]) -> list[Part]:
        found: list[Part] = []
        for name, run in self.parts:
            if isinstance(run, File):
                content = run.content(scope)
                if content is not None:
                    found.append(Part(name, content, run.filename(scope), run.content_type(scope)))
            elif (value := run(scope)) is not None:
                found += [Part(key, text.encode()) for key, text in pairs({name: value}, "multipart")]
        return found


class File:
    """`{filename, content_type, content}`; it is left out where its content is absent."""

    def __init__(self, whole: Multipart, spec: dict[str, Any], place: Path) -> None:
        self.whole, self.kind, self.csv = whole, "text", types.Csv(rows=None)
        compiler, names = whole.compiler, whole.names
        for key in spec:
            if key not in ("filename", "content_type", "content"):
                whole.wrong((*place, key), "unknown-key", "unknown key", "a file has filename, content_type, content")
        if "content" not in spec:
            whole.wrong(place, "missing-key", 'needs "content"', "a file is {filename, content_type, content}")
        content, at = spec.get("content"), (*place, "content")
        if isinstance(content, dict) and not is_directive(content):
            self.kind = next(iter(content), "")
            if len(content) != 1 or self.kind not in ("json", "csv", "ndjson"):
                says = "the content of a file is a text, or one of json, csv and ndjson"
                whole.wrong(at, "value", says, "content: {csv: {rows: …}}")
            content, at = content.get(self.kind), (*at, self.kind)
        if self.kind == "csv":
            content, at = self.rows_of(content, at), (*at, "rows")
        self.body = whole.tree(content, at)
        self.name = compiler.text(spec.get("filename"), names, (*place, "filename"), "must")
        self.type = compiler.text(spec.get("content_type"), names, (*place, "content_type"), "must")
        self.named, self.typed = spec.get("filename") is not None, spec.get("content_type") is not None

    def rows_of(self, spec: Any, place: Path) -> Any:
        try:
            self.csv = msgspec.convert(spec, types.Csv)
        except msgspec.ValidationError as error:
            self.whole.wrong(place, "value", f"csv: {error}", "{rows, columns, line_ending, clear}")
        return self.csv.rows

    def content(self, scope: Mapping[str, Any]) -> bytes | None:
        value = self.body(scope)
        if value is None:
            return None
        if self.kind == "json":
            return json_document(value, ascii=self.whole.ascii)
        if self.kind == "ndjson":
            return json_lines(value, ascii=self.whole.ascii)
        if self.kind == "csv":
            return csv_text(value, self.csv).encode()
        return str(semantics.must(value, "content")).encode()

    def filename(self, scope: Mapping[str, Any]) -> str | None:
        return str(self.name(scope)) if self.named else None

    def content_type(self, scope: Mapping[str, Any]) -> str:
        if not self.typed:
            return {"json": JSON, "csv": CSV, "ndjson": JSON_LINES}.get(self.kind, TEXT)
        found = str(self.type(scope))
        if not _TYPE.match(found):
            raise BadValue("the content type of a file is written as text/csv", "multipart")
        return found


def is_directive(spec: dict[str, Any]) -> bool:
    return any(key.startswith("$") and not key.startswith("$$") for key in spec)


def encoded_parts(parts: list[Part]) -> tuple[bytes, str]:
    """Body and content type. The same parts give the same bytes: the boundary is made of what stands between it."""
    import httpx

    whole = msgspec.json.encode(parts)
    boundary = f"connect-{sha256(whole).hexdigest()[:40]}"
    while any(boundary.encode() in part.content for part in parts):
        boundary = f"connect-{sha256(boundary.encode()).hexdigest()[:40]}"
    content_type = f"multipart/form-data; boundary={boundary}"
    if not parts:
        return f"--{boundary}--\r\n".encode(), content_type
    files: Any = [(part.name, (part.filename, part.content, part.content_type)) for part in parts]
    request = httpx.Request("POST", "https://localhost", files=files, headers={"Content-Type": content_type})
    return request.read(), content_type


# --- and back ---


def read_json(text: str) -> Any:
    """A JSON document with exact numbers. ValueError or RecursionError where it is none."""
    return json.loads(text, parse_float=Decimal)


def read_json_lines(text: str) -> list[Any]:
    return [read_json(line) for line in text.split("\n") if line.strip()]


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def read_parts(content_type: str, content: bytes) -> list[Part]:
    """The parts of a body as a vendor finds them; none where it can't be read."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        return []
    found = []
    for piece in (b"\r\n" + content).split(b"\r\n--" + boundary[1].encode())[1:]:
        head, sign, body = piece.partition(b"\r\n\r\n")
        if not sign or piece.startswith(b"--"):
            continue
        lines = dict(line.partition(":")[::2] for line in head.decode("utf-8", "replace").split("\r\n") if line)
        headers = {name.lower(): value.strip() for name, value in lines.items()}
        says = {
            name.lower(): re.sub(r"\\(.)", r"\1", value)
            for name, value in _PARAMETER.findall(headers.get("content-disposition", ""))
        }
        found.append(Part(says.get("name", ""), body, says.get("filename"), headers.get("content-type")))
    return found


def read_body(content_type: str, content: bytes) -> dict[str, Any]:
    """`text`, and `json` or `rows` where the content type says so and it can be read."""
    kind = content_type.split(";")[0].strip().lower()
    text = content.decode("utf-8", "replace")
    found: dict[str, Any] = {"text": text}
    try:
        if kind == "text/csv":
            found["rows"] = read_csv(text)
        elif kind in (JSON_LINES, "application/jsonl", "application/ndjson"):
            found["rows"] = read_json_lines(text)
        elif kind == JSON or kind.endswith("+json"):
            found["json"] = read_json(text)
    except (ValueError, RecursionError, csv.Error):
        return {"text": text}
    return found


def read_form(content_type: str, content: bytes) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Fields by name, and files by name: `filename`, `content_type`, and what `read_body` finds in them."""
    form: dict[str, str] = {}
    files: dict[str, dict[str, Any]] = {}
    for part in read_parts(content_type, content):
        if part.filename is None and part.content_type is None:
            form[part.name] = part.content.decode("utf-8", "replace")
            continue
        named = {"filename": part.filename} if part.filename is not None else {}
        kind = part.content_type or ""
        files[part.name] = {**named, "content_type": kind, **read_body(kind, part.content)}
    return form, files
