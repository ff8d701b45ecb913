"""
A reply's bytes -> what is inside of them, by the steps of `decode`.

`tar` and `zip` give files, and each step after them is taken for every file. Names of files are told, and used for
nothing. All that is unpacked together has at most as many bytes as the largest reply.
"""

from __future__ import annotations

import binascii
import csv
import io
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import BadValue, ConnectError
from engine.notations import semantics

if TYPE_CHECKING:
    from collections.abc import Sequence

ARCHIVES = ("tar", "zip")
BLOCK = 512  # bytes of a tar
READ = ("json", "ndjson", "csv", "text")
_decode_json = msgspec.json.Decoder(float_hook=Decimal).decode


class Unreadable(ConnectError):
    """A step that failed; the message says which, and nothing of the content."""


class Member(msgspec.Struct):
    name: str | None  # None for what is no file of an archive
    content: bytes
    value: Any = None


class Unpacked(msgspec.Struct, frozen=True):
    """`files` is None where there was no archive."""

    body: Any
    text: str
    rows: list[dict[str, str]] | None = None
    files: list[dict[str, Any]] | None = None


def order_fault(steps: Sequence[str]) -> str:
    """Why steps can't follow each other so; empty if they can."""
    if len([step for step in steps if step in ARCHIVES]) > 1:
        return "one archive is unpacked: tar or zip, once"
    early = next((step for step in steps[:-1] if step in READ), None)
    return f"{early} reads what it is given, so it is the last step" if early else ""


def unpack(content: bytes, steps: Sequence[str], *, most: int, unzipped: bool = False) -> Unpacked:
    """
    What the steps make of it, of at most `most` bytes. Raises Unreadable.

    `unzipped`: the transport has undone a `Content-Encoding` of gzip already.
    """
    members = [Member(None, content)]
    for step in steps:
        try:
            left = most
            out: list[Member] = []
            for member in members:
                done = opened(step, member, left, unzipped=unzipped)
                left -= sum(len(each.content) for each in done)
                out += done
            members = out
        except Unreadable:
            raise
        except Exception as error:  # whatever a library says of bytes that are not what they should be
            raise Unreadable(f"{step}: {type(error).__name__}") from None
    read = steps[-1] if steps and steps[-1] in READ else ""
    text = "\n".join(member.content.decode("utf-8", "replace") for member in members)
    archive = any(step in ARCHIVES for step in steps)
    if not archive:
        body = members[0].value if read else json_or_none(members[0].content)
        return Unpacked(body, text, body if read == "csv" else None)
    values: list[Any] = [member.value if read else member.content.decode("utf-8", "replace") for member in members]
    rows = [row for value in values for row in value] if read == "csv" else None
    files = [{"name": member.name, "body": value} for member, value in zip(members, values, strict=True)]
    return Unpacked(values, text, rows, files)


def opened(step: str, member: Member, most: int, *, unzipped: bool) -> list[Member]:
    content = member.content
    match step:
        case "gzip":
            if unzipped and not content.startswith(b"\x1f\x8b"):
                return [member]
            if not content:
                raise Unreadable("gzip: nothing is there")
            import gzip

            return [Member(member.name, within(gzip.GzipFile(fileobj=io.BytesIO(content)), most))]
        case "base64":
            joined = b"".join(content.split()).translate(bytes.maketrans(b"-_", b"+/"))
            whole = joined.rstrip(b"=")
            return [Member(member.name, binascii.a2b_base64(whole + b"=" * (-len(whole) % 4), strict_mode=True))]
        case "tar":
            return untar(content)
        case "zip":
            return unzip(content, most)
    return [Member(member.name, content, parsed(step, content))]


def parsed(step: str, content: bytes) -> Any:
    if step == "json":
        return _decode_json(content)
    if step == "ndjson":
        return [_decode_json(line) for line in content.split(b"\n") if line.strip()]
    text = content.decode("utf-8-sig" if step == "csv" else "utf-8", "replace")
    return csv_rows(text) if step == "csv" else text


def csv_rows(text: str) -> list[dict[str, str]]:
    """A list of objects, by the header line. Raises csv.Error."""
    return [
        {key: value for key, value in row.items() if key is not None and isinstance(value, str)}
        for row in csv.DictReader(io.StringIO(text, newline=""))
    ]


def json_or_none(content: bytes) -> Any:
    """Parsed JSON, exact; None if it is not JSON."""
    try:
        return _decode_json(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ArithmeticError):
        return None  # the last: an exponent that no decimal can have


def within(source: Any, most: int) -> bytes:
    """All of an opened file, or Unreadable for more than `most` bytes: it is not unpacked any further."""
    found: bytes = source.read(most + 1)
    if len(found) > most:
        raise Unreadable("more than a reply may have")
    return found


def untar(content: bytes) -> list[Member]:
    """
    The files of an archive in their order.

    Read here and not by the library, which long extended headers and sizes below zero can hold up without end.
    """
    found: list[Member] = []
    at, long_name = 0, ""
    while (head := content[at : at + BLOCK]) != bytes(BLOCK):
        if len(head) < BLOCK or octal(head[148:156]) != sum(head[:148]) + 8 * 32 + sum(head[156:]):
            raise Unreadable("tar: not an archive, or one that is cut off")
        size, kind = octal(head[124:136]), head[156:157]
        body = content[at + BLOCK : at + BLOCK + size]
        if len(body) < size or kind == b"S":
            raise Unreadable("tar: a file that is not whole")
        if kind in (b"0", b"\0", b"7"):
            found.append(Member(long_name or short_name(head), body))
        if kind == b"L":
            long_name = body.rstrip(b"\0").decode("utf-8", "replace")
        elif kind == b"x":
            long_name = extended_name(body)
        else:
            long_name = ""
        at += BLOCK + -(-size // BLOCK) * BLOCK
    return found


def octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits.isdigit():
        raise Unreadable("tar: not an archive, or one that is cut off")
    return int(digits, 8)


def short_name(head: bytes) -> str:
    parts = [head[345:500], head[:100]] if head[257:263] == b"ustar\0" else [head[:100]]
    return "/".join(part.split(b"\0")[0].decode("utf-8", "replace") for part in parts if part[:1] != b"\0")


def extended_name(body: bytes) -> str:
    """`path` of the records of an extended header, each with its length before it."""
    at, found = 0, ""
    while at < len(body):
        digits, sign, _ = body[at : at + 20].partition(b" ")
        if not sign or not digits.isdigit() or int(digits) <= len(digits):
            raise Unreadable("tar: an extended header that can't be read")
        key, _, value = body[at + len(digits) + 1 : at + int(digits)].partition(b"=")
        if key == b"path":
            found = value.rstrip(b"\n").decode("utf-8", "replace")
        at += int(digits)
    return found


def unzip(content: bytes, most: int) -> list[Member]:
    import zipfile

    found: list[Member] = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                raise Unreadable("zip: a file that is encrypted or packed in another way")
            if len(found) >= semantics.MAX_ITEMS:
                raise Unreadable("more files than a list may have")
            with archive.open(member) as source:
                body = within(source, most)
            most -= len(body)
            found.append(Member(member.filename, body))
    return found


# --- and back, for whoever plays the vendor ---


def pack(value: Any, steps: Sequence[str]) -> bytes:
    """
    Bytes that the steps unpack to `value`: a list for an archive, whose files are called 1, 2, ….

    BadValue for what they never give.
    """
    try:
        return packed(value, steps)
    except (AttributeError, TypeError, ValueError, csv.Error):
        raise BadValue(f"{semantics.kind(value)} is nothing that {', '.join(steps)} gives", "packed") from None


def packed(value: Any, steps: Sequence[str]) -> bytes:
    archive = next((at for at, step in enumerate(steps) if step in ARCHIVES), None)
    inside = steps[archive + 1 :] if archive is not None else steps
    outside = steps[:archive] if archive is not None else ()
    if archive is None:
        return wrapped(value, inside)
    listed = value if isinstance(value, list) else [value]
    members = [(str(at), wrapped(each, inside)) for at, each in enumerate(listed, 1)]
    out = io.BytesIO()
    if steps[archive] == "tar":
        import tarfile

        with tarfile.open(fileobj=out, mode="w:") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    else:
        import zipfile

        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members:
                zipped.writestr(zipfile.ZipInfo(name), content)
    return wrapped(out.getvalue(), outside)


def wrapped(value: Any, steps: Sequence[str]) -> bytes:
    """A value written as the last step reads it, then packed as the ones before it unpack it."""
    content = value if isinstance(value, bytes) else written(value, steps[-1] if steps else "")
    for step in reversed(steps):
        if step == "gzip":
            import gzip

            content = gzip.compress(content, mtime=0)
        elif step == "base64":
            content = binascii.b2a_base64(content, newline=False)
    return content


def written(value: Any, step: str) -> bytes:
    encode = msgspec.json.Encoder(decimal_format="number").encode
    if step in ("csv", "ndjson") and not isinstance(value, list):
        raise TypeError
    if step == "ndjson":
        return b"".join(encode(each) + b"\n" for each in value)
    if step == "csv":
        columns = list(dict.fromkeys(name for row in value for name in row))
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(value)
        return out.getvalue().encode()
    return value.encode() if isinstance(value, str) and step != "json" else encode(value)
