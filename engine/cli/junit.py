"""Results as JUnit XML, which every CI system reads: a testsuite for each connector, a testcase for each example."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Case(NamedTuple):
    """One test as a CI system shows it."""

    suite: str
    name: str
    seconds: float
    file: str
    line: int
    failure: str | None = None  # what differs
    skipped: str | None = None  # why it was left out


def document(cases: Iterable[Case]) -> bytes:
    """The XML, suites and cases in their order."""
    suites: dict[str, list[Case]] = {}
    for case in cases:
        suites.setdefault(case.suite, []).append(case)
    root = ET.Element("testsuites", {"name": "connect test", **sums([one for each in suites.values() for one in each])})
    for name, listed in suites.items():
        suite = ET.SubElement(root, "testsuite", {"name": clean(name), **sums(listed)})
        for case in listed:
            add(suite, case)
    ET.indent(root)
    text: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def add(suite: ET.Element, case: Case) -> None:
    attributes = {
        "classname": clean(case.suite),
        "name": clean(case.name),
        "time": f"{case.seconds:.3f}",
        "file": clean(case.file),
        "line": str(case.line),
    }
    element = ET.SubElement(suite, "testcase", attributes)
    if case.failure is not None:
        said = clean(case.failure)
        failure = ET.SubElement(element, "failure", {"message": said, "type": "AssertionError"})
        failure.text = f"{clean(case.file)}:{case.line}: {said}"
    elif case.skipped is not None:
        ET.SubElement(element, "skipped", {"message": clean(case.skipped)})


def sums(cases: list[Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(case.failure is not None for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.failure is None and case.skipped is not None for case in cases)),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }


def clean(text: str) -> str:
    """Without what can't stand in XML, such as most control characters."""
    return _NOT_XML.sub("\ufffd", text)


def write(file: Path, cases: Iterable[Case]) -> None:
    try:
        file.write_bytes(document(cases))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
