"""Connector files, project directories and git revisions as the two sides of a plan."""

from __future__ import annotations

import io
import subprocess
import tarfile
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from engine.authoring.planning import Version
from engine.errors import SpecErrors, UsageError
from engine.spec.findings import errors_in
from engine.spec.load import load_connector, load_schema_ref
from engine.spec.located import read_file
from engine.spec.project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.spec.types import Connector

LANGUAGE = 1
PARTS = ("connectors", "clients", "schemas", "connect.yaml")
_SUFFIXES = (".yaml", ".yml")


def pair(old: Path, new: Path) -> tuple[Version, Version]:
    """Two files of one connector, or two projects. SpecErrors where one can't be used, UsageError for anything else."""
    for path in (old, new):
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or directory")
    if old.is_dir() != new.is_dir():
        raise UsageError("a plan compares two files, or two directories; here is one of each")
    if old.is_dir():
        return project(old), project(new)
    before, after = connector(old), connector(new)
    # The file's own name counts for nothing here: what is compared is one connector before and after.
    before = msgspec.structs.replace(before, name=after.name)
    return tuple_of(before), tuple_of(after)


def tuple_of(one: Connector) -> Version:
    return Version({one.name: one}, {}, frozenset({one.name}))


def connector(path: Path) -> Connector:
    """One file, whatever it is called."""
    located = read_file(path)
    same_language(str(path), located.data)
    found, findings, grown = load_connector(located)
    if found is None:
        raise SpecErrors(errors_in(findings))
    schema, faults = load_schema_ref(grown, found, root=path.resolve().parent.parent)
    if faults:
        raise SpecErrors(faults)
    return msgspec.structs.replace(found, receive=msgspec.structs.replace(found.receive, schema=schema))


def project(directory: Path) -> Version:
    """A directory with connectors/ and clients/; besides its own the connectors that come with the engine."""
    found = Project(directory)
    own = {path.stem: path for path in files(directory / "connectors")}
    for path in own.values():
        same_language(str(path), read_file(path).data)
    connectors = {name: found.connector(name) for name in found.connector_files()}
    clients = {}
    for path in found.client_files().values():
        loaded = found.loaded_client(path)
        if loaded.value is None:
            raise SpecErrors(errors_in(loaded.findings))
        clients[loaded.value.client] = loaded.value
    used = {name for client in clients.values() for name in client.connectors}
    return Version({name: one for name, one in connectors.items() if name in used | set(own)}, clients, frozenset(own))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES and path.name[0] != ".")


def same_language(file: str, data: Any) -> None:
    """UsageError for a file of another version of the language, before anything else is found wrong with it."""
    written = data.get("connect") if isinstance(data, dict) else None
    if written is not None and written is not True and written != LANGUAGE:
        raise UsageError(
            f"{file} is written in version {written} of the language, and this engine reads version {LANGUAGE}; "
            "a plan needs both sides in that one: run it with an engine that reads both, or bring the file up first"
        )


# --- git ---


@contextmanager
def revision(directory: Path, name: str) -> Iterator[Path]:
    """The project's files as they are at a revision, in a directory that is gone afterwards."""
    commit = git(directory, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if commit is None:
        raise UsageError(f"{name}: git knows no such revision in {directory}")
    sha = commit.decode().strip()
    listed = git(directory, "ls-tree", "--name-only", "-z", sha, "--", *PARTS)
    there = [part for part in (listed or b"").decode().split("\0") if part]
    with TemporaryDirectory(prefix="connect-plan-") as folder:
        if there:
            packed = git(directory, "archive", "--format=tar", sha, "--", *there)
            if packed is None:
                raise UsageError(f"{name}: git can't give its files")
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(folder, filter="data")
        yield Path(folder)


def git(directory: Path, *args: str) -> bytes | None:
    """What git prints, or None where it says no; UsageError without git or outside of a repository."""
    try:
        done = subprocess.run(["git", "-C", str(directory), *args], capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed; name two files or directories instead: connect plan OLD NEW") from None
    if done.returncode and b"not a git repository" in done.stderr:
        raise UsageError(f"{directory} is in no git repository; name two files or directories: connect plan OLD NEW")
    return done.stdout if done.returncode == 0 else None


@contextmanager
def against(directory: Path, name: str) -> Iterator[tuple[Version, Version]]:
    """The project at a revision, and as it is now."""
    with revision(directory, name) as folder:
        try:
            old = project(folder)
        except SpecErrors as error:
            raise SpecErrors(
                [msgspec.structs.replace(one, file=shown(one.file, folder, name)) for one in error.findings]
            ) from None
        except UsageError as error:
            raise UsageError(shown(str(error), folder, name)) from None
        yield old, project(directory)


def shown(text: str, folder: Path, name: str) -> str:
    return text.replace(f"{folder}/", f"{name}:")
