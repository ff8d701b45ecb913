"""
A new connector as files: what `connect new` writes. It passes `connect validate` and `connect test` as it is.

A draft is made of answers and flags (`blank`) or of an OpenAPI document (`from_openapi`); what a person has to decide
stands behind `DECIDE:` in a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from engine.authoring.scaffold.draft import DECIDE, Draft
from engine.errors import UsageError

__all__ = ["Decision", "checked_base_url", "checked_name", "checked_path", "decisions", "files", "write"]

# The admin side answers under these on the port that takes events in.
RESERVED = ("healthz", "readyz", "metrics", "lanes", "dashboard", "admin")

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")
_HOST = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")


_DECISION = re.compile(rf"^\s*(?:- )?(?:(?P<key>[\w$-]+):.*  )?(?:#|<!--) {DECIDE} (?P<what>.*)")


class Decision(NamedTuple):
    """A place that is a person's to decide."""

    file: str
    line: int
    what: str


def checked_name(name: str) -> str:
    if not _NAME.match(name):
        close = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").lstrip("0123456789-")[:40].rstrip("-")
        hint = f', such as "{close or "acme-crm"}"'
        shown = name if name.isprintable() and len(name) <= 60 else ascii(name[:60])
        raise UsageError(
            f"{shown or 'an empty name'} can't be a connector's name; it begins with a small letter and has at most "
            f"40 small letters, digits and hyphens{hint}"
        )
    if name in RESERVED:
        raise UsageError(f"{name} is an address of the engine's own; call the connector otherwise: {name}-crm")
    return name


def checked_base_url(url: str) -> str:
    """https, a host name, a path at most; without the / at its end."""
    parts = urlsplit(url.strip() if re.fullmatch(r"[!-Z^-~]+", url.strip()) else "")  # no blank, no [ ]
    host = parts.hostname or ""
    wrong = ""
    if parts.scheme != "https":
        wrong = "it begins with https://"
    elif not _HOST.match(host) or host.rpartition(".")[2].isdigit():
        wrong = "it has a host name such as api.acme-crm.com"
    elif parts.netloc != host:
        wrong = "no port, no user name, small letters"
    elif parts.query or parts.fragment or re.search(r"[{}$\\]|//|/\.\.?(/|\Z)", parts.path):
        wrong = "behind the host only a path such as /v1"
    if wrong:
        raise UsageError(f"{url[:200]} can't be a base URL; {wrong}")
    return url.strip().rstrip("/")


def checked_path(path: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~!@:,;=+-]+)+/?", path) or re.search(r"/\.\.?(/|\Z)", path):
        raise UsageError(f"{path[:200]} can't be a path; it begins with / and has letters, digits and . _ - ~")
    return path


def host_of(base_url: str) -> str:
    return urlsplit(base_url).hostname or ""


def files(draft: Draft, client: str) -> dict[str, str]:
    """Path in the project -> text, the connector first. ConnectError where the engine would not do what they say."""
    from engine.authoring.scaffold import companions
    from engine.authoring.scaffold.connector import connector_text

    text, notes = connector_text(draft), companions.notes_text(draft, client)
    found = {
        f"connectors/{draft.name}.yaml": text,
        f"clients/{client}.yaml": companions.client_text(draft, client),
        f"events/{draft.name}.json": companions.event_text(draft),
    }
    if draft.own_schema:
        found[f"schemas/events/{draft.name}.schema.json"] = companions.schema_text(draft)
    found[f"docs/connectors/{draft.name}.notes.md"] = notes
    found[f"docs/connectors/{draft.name}.md"] = companions.page_text(draft, text, notes)
    return found


def shared_files() -> dict[str, str]:
    """What all of a project needs: the schemas that an editor reads, and what git leaves out."""
    from engine.spec.shipped import bundled

    names = ("connector.schema.json", "client.schema.json")
    schemas = {f"schemas/{name}": (bundled("schemas") / name).read_text(encoding="utf-8") for name in names}
    return {**schemas, ".gitignore": "connect.db*\nconnect.audit.log\n.connect/\n"}


def existing(directory: Path, wanted: Mapping[str, str]) -> list[str]:
    """Those of `wanted` that are there already."""
    return [name for name in wanted if (directory / name).exists() or (directory / name).is_symlink()]


def write(directory: Path, wanted: Mapping[str, str]) -> None:
    """Each file whole or not at all. UsageError where a folder or file can't be made."""
    for name, text in wanted.items():
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.new")
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"{path}: can't be written: a file stands where a folder is needed") from None
        except OSError as error:
            raise UsageError(f"{path}: can't be written: {(error.strerror or str(error)).lower()}") from None


def decisions(written: Mapping[str, str]) -> Iterator[Decision]:
    """In the order of the files; with the key that a comment stands behind."""
    for file, text in written.items():
        for number, line in enumerate(text.splitlines(), 1):
            found = _DECISION.search(line)
            if found:
                key = found["key"]
                what = found["what"].removesuffix("-->").strip()
                yield Decision(file, number, f"{key}: {what}" if key else what)
