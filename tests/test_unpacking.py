from __future__ import annotations

import gzip
import io
import struct
import tarfile
import time
import zipfile
from decimal import Decimal
from typing import Any

import pytest
from conftest import Shop, Vendor, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadValue
from engine.http import MAX_REPLY, Reply
from engine.unpacking import Unpacked, Unreadable, pack, unpack

MOST = 100_000


def tar(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def of_reply(content: bytes, *steps: str, status: int = 200, **headers: str) -> dict[str, Any]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    scope = Reply(status, headers, content).unpacked(steps).scope
    return {name: scope[name] for name in ("body", "rows", "files", "text") if name in scope}


# --- what each step gives ---


def test_an_archive_gives_what_its_files_hold_in_their_order() -> None:
    content = gzip.compress(tar(("b.json", b'{"a": 1.50}'), ("../a.json", b"[2]")))
    assert of_reply(content, "gzip", "tar", "json") == {
        "body": [{"a": Decimal("1.50")}, [2]],
        "files": [{"name": "b.json", "body": {"a": Decimal("1.50")}}, {"name": "../a.json", "body": [2]}],
        "text": '{"a": 1.50}\n[2]',
    }


def test_without_a_last_step_that_reads_files_are_texts_and_one_reply_is_read_as_ever() -> None:
    assert of_reply(tar(("a", b"x"), ("b", b"\xff")), "tar")["body"] == ["x", "\ufffd"]
    assert of_reply(gzip.compress(b'{"a": 1}'), "gzip") == {"body": {"a": 1}, "text": '{"a": 1}'}
    assert of_reply(gzip.compress(b"a,b\n1,2\n"), "gzip", content_type="text/csv")["rows"] == [{"a": "1", "b": "2"}]
    assert of_reply(b"eHnDqQ==", "base64", "text") == {"body": "xyé", "text": "xyé"}


def test_csv_of_several_files_is_one_list_of_rows() -> None:
    content = zipped(("a/", b""), ("a/1.csv", b"\xef\xbb\xbfId,E\n1,x\n"), ("a/2.csv", b"Id,E\n2,\n"))
    rows = [{"Id": "1", "E": "x"}, {"Id": "2", "E": ""}]
    found = of_reply(content, "zip", "csv")
    assert (found["rows"], found["body"], [file["name"] for file in found["files"]]) == (
        rows,
        [rows[:1], rows[1:]],
        ["a/1.csv", "a/2.csv"],
    )
    assert of_reply(b"Id\n1\n", "csv") == {"body": [{"Id": "1"}], "rows": [{"Id": "1"}], "text": "Id\n1\n"}


def test_json_lines_are_a_list() -> None:
    assert of_reply(b'{"a":1}\r\n\n[2]\n', "ndjson")["body"] == [{"a": 1}, [2]]


def test_base64_is_read_in_lines_url_safe_and_without_its_end() -> None:
    for text in (b"_-_-QQ", b"/+/+\r\nQQ==\n", b" _+_+ QQ = = "):
        assert unpack(text, ["base64"], most=MOST) == unpack(b"\xff\xef\xfeA", [], most=MOST)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_of_all_makers_are_read_with_long_names(form: int) -> None:
    name = "/".join(["d" * 60] * 3) + "/f"
    content = tar((name, b"x" * 513), ("b", b""), form=form)
    found = unpack(content, ["tar", "text"], most=MOST)
    assert found.files == [{"name": name, "body": "x" * 513}, {"name": "b", "body": ""}]


def test_what_is_no_file_in_a_tar_is_passed_over() -> None:
    for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        assert unpack(tar(("a", b""), kind=kind), ["tar"], most=MOST) == Unpacked([], "", None, [])


def test_a_gzip_that_the_transport_has_undone_is_not_undone_twice() -> None:
    assert of_reply(b'{"a": 1}', "gzip", "json", content_encoding="gzip")["body"] == {"a": 1}
    assert of_reply(gzip.compress(b'{"a": 1}'), "gzip", "json", content_encoding="gzip")["body"] == {"a": 1}


def test_only_a_2xx_is_unpacked() -> None:
    assert of_reply(b'{"error": "busy"}', "gzip", "tar", status=503)["body"] == {"error": "busy"}


# --- what can't be unpacked ---

GOOD_TAR = tar(("a", b"x" * 600), ("b", b"y"))


@pytest.mark.parametrize(
    ("content", "steps", "says"),
    [
        (b"", ["gzip"], "gzip: nothing is there"),
        (b"plain", ["gzip", "json"], "gzip: BadGzipFile"),
        (gzip.compress(b"x" * 100, mtime=0)[:-3], ["gzip"], "gzip: EOFError"),
        (gzip.compress(b"x", mtime=0) + b"garbage", ["gzip"], "gzip: BadGzipFile"),
        (gzip.compress(b"0" * 1_000_000), ["gzip"], "more than a reply may have"),
        (zipped(("a", b"0" * 60_000), ("b", b"0" * 60_000)), ["zip"], "more than a reply may have"),
        (
            zipped(*[(f"{n}", gzip.compress(b"0" * 60_000)) for n in "ab"]),
            ["zip", "gzip"],
            "more than a reply may have",
        ),
        (
            zipped(("a", b"x"), method=zipfile.ZIP_LZMA),
            ["zip"],
            "zip: a file that is encrypted or packed in another way",
        ),
        (b"PK\3\4", ["zip"], "zip: BadZipFile"),
        (zipped(("a", b"x"))[:-5], ["zip"], "zip: BadZipFile"),
        (b"", ["tar"], "tar: not an archive, or one that is cut off"),
        (b"x" * 512, ["tar"], "tar: not an archive, or one that is cut off"),
        (b"z" + GOOD_TAR[1:], ["tar"], "tar: not an archive, or one that is cut off"),
        (GOOD_TAR[:700], ["tar"], "tar: a file that is not whole"),
        (GOOD_TAR[:1536], ["tar"], "tar: not an archive, or one that is cut off"),
        (tar(("a", b""), kind=tarfile.GNUTYPE_SPARSE), ["tar"], "tar: a file that is not whole"),
        (b"a!b", ["base64"], "base64: Error"),
        (b"abcde", ["base64"], "base64: Error"),
        (b"{", ["json"], "json: DecodeError"),
        (b'{"a": 1e9999999999999999999}', ["json"], "json: InvalidOperation"),
        (b"[" * 5_000, ["json"], "json: RecursionError"),
        (b'{"a": 1}\n{', ["ndjson"], "ndjson: DecodeError"),
        (b'a\n"' + b"x" * 140_000, ["csv"], "csv: Error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # bytes have the time of day in them
)
def test_a_step_that_fails_says_which(content: bytes, steps: list[str], says: str) -> None:
    with pytest.raises(Unreadable) as raised:
        unpack(content, steps, most=MOST)
    assert str(raised.value) == says


def head(size: bytes, kind: bytes = b"0") -> bytes:
    """A header of a tar with a right checksum, whatever its size says."""
    block = bytearray(512)
    block[:1], block[124:136], block[156:157], block[257:263] = b"a", size.ljust(12, b"\0"), kind, b"ustar\0"
    block[148:156] = b"%06o\0 " % (sum(block) + 8 * 32)
    return bytes(block)


def test_a_tar_that_leads_back_to_its_beginning_or_has_a_header_of_megabytes_holds_nobody_up() -> None:
    began = time.monotonic()
    below_zero = b"\xff" * 4 + struct.pack(">q", -1024)
    for content in (head(below_zero), head(b"-2000"), head(b"99999999999")):
        with pytest.raises(Unreadable):
            unpack(content, ["tar"], most=MOST)
    long = b"1" * 5_000_000
    with pytest.raises(Unreadable, match="an extended header that can't be read"):
        unpack(head(b"%o" % len(long), b"x") + long + bytes(512 - len(long) % 512), ["tar"], most=MAX_REPLY)
    assert time.monotonic() - began < 5


@given(st.binary(max_size=2_000), st.lists(st.sampled_from(["gzip", "zip", "tar", "base64", "json", "ndjson", "csv"])))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_unpacked_or_unreadable(content: bytes, steps: list[str]) -> None:
    for tried in (content, GOOD_TAR[: len(content)] + content, gzip.compress(content), zipped(("a", content))):
        try:
            found = unpack(tried, steps, most=MOST)
        except Unreadable:
            continue
        assert (found.files is not None) == any(step in ("zip", "tar") for step in steps)


DOCUMENTS = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.text(st.characters(exclude_categories=["Cs"]))), max_size=3
)


@given(
    DOCUMENTS, st.sampled_from([["gzip", "tar", "json"], ["zip", "gzip", "json"], ["base64", "tar", "base64", "json"]])
)
@settings(max_examples=60, deadline=None)
def test_what_a_vendor_packs_is_what_is_unpacked(documents: list[Any], steps: list[str]) -> None:
    assert unpack(pack(documents, steps), steps, most=MAX_REPLY).body == documents


def test_what_no_step_gives_can_not_be_packed() -> None:
    for value, steps in ((5, ["tar", "csv"]), ([1], ["csv"]), ({"a": 1}, ["gzip", "ndjson"])):
        with pytest.raises(BadValue, match="is nothing that"):
            pack(value, steps)


# --- in a walk ---

DECODING = """
actions:
  note:
    record: {id: "${ event.id }"}
    steps:
      result:
        request: {method: GET, path: /result, decode: [gzip, json]}
        results: {match: position, at: "${ response.body }", ok: "${ result.ok }"}
"""


def packed(content: bytes, **options: Any) -> Any:
    return Reply(options.get("status", 200), {}, content)


def test_a_reply_is_unpacked_before_it_is_judged() -> None:
    shop = Shop(DECODING, vendor=Vendor(packed(gzip.compress(b'[{"ok": true}]'))))
    shop.post({"id": "1"})
    shop.drain()
    assert shop.sums() == {"delivered": 1}


def test_a_reply_that_can_not_be_unpacked_is_asked_for_again_and_then_pauses() -> None:
    shop = Shop(DECODING, vendor=Vendor(packed(b"[]")))
    shop.post({"id": "1"})
    shop.drain(86_400)
    assert (len(shop.vendor.asked), shop.lane().state) == (3, "paused")
    assert shop.lane().reason == "the reply can't be read: gzip: BadGzipFile"


def test_an_error_speaks_as_it_comes() -> None:
    shop = Shop(DECODING, vendor=Vendor(reply(422, {"error": "x"})))
    shop.post({"id": "1"})
    shop.drain()
    assert shop.sums() == {"rejected": 1}
