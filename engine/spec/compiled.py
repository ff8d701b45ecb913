"""
The specs of a project, read and checked, in one file beside it: a start that finds it reads no YAML and no JSON Schema.

The file holds while every file it was made of, and the engine, are what they were; else the project is read as ever.
Connectors that come with the engine may be left out of a bundle. It is data and no code, and whoever can change it can
change the specs themselves.

A process that serves keeps the same in `.connect/cache` by itself, file by file: what has changed is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.errors import SpecErrors
from engine.spec.findings import errors_in
from engine.spec.project import Loaded, Project, Settings
from engine.spec.shipped import bundled
from engine.spec.types import Client, Connector

T = TypeVar("T")

NAME = "compiled.json"  # in the project's directory
SETTINGS = "connect.yaml"
KEPT = Path(".connect") / "cache" / "specs.json"  # in the project's directory
OURS = "bundled:"  # before the path of a file that comes with the engine


class _Connector(msgspec.Struct, frozen=True):
    spec: Connector  # without the schema of its events
    schema: msgspec.Raw  # null where it has none
    floats: bool  # is a fraction in the schema a float, as in a file of JSON, or a decimal, as in YAML?
    refers: str | None = None  # the path of the file that has the schema


class _Compiled(msgspec.Struct, frozen=True):
    engine: str
    files: dict[str, str]  # digest by path, in alphabetical order
    settings: Settings
    connectors: dict[str, _Connector]  # by path
    clients: dict[str, Client]  # by path


def write_compiled(project: Project, out: Path | None = None) -> Path:
    """
    Write the file, into the project's directory or that of a copy of it (`out`). SpecErrors where anything is unsound.
    """
    _, _, findings = project.all()
    if found := errors_in(findings):
        raise SpecErrors(found)
    connectors = {path: project.loaded_connector_at(path) for path in project.connector_files().values()}
    clients = {path: project.loaded_client(path) for path in project.client_files().values()}
    schemas = list(project.schema_files.values())
    name = partial(_name, project.directory)
    compiled = _Compiled(
        engine=_engine(),
        files=_digests({name(path): path for path in [*_specs(project), *schemas]}),
        settings=project.settings,
        connectors={name(path): _stored(_sound(loaded)) for path, loaded in connectors.items()},
        clients={name(path): _sound(loaded) for path, loaded in clients.items()},
    )
    target = (out or project.directory) / NAME
    target.write_bytes(_ENCODER.encode(compiled))
    return target


def open_project(directory: Path | str) -> Project:
    """The project in a directory, with what was compiled of it where that still holds."""
    project = Project(directory)
    compiled = _read(project)
    if compiled is None:
        return project
    settings = project.directory / SETTINGS
    if settings.exists():
        project.keep(settings, compiled.settings)
    for name, stored in compiled.connectors.items():
        project.keep(_path(project.directory, name), _restored(stored))
    for name, client in compiled.clients.items():
        project.keep(_path(project.directory, name), client)
    return project


def open_kept(directory: Path | str) -> Project:
    """The project in a directory, with what `keep` kept of each file that has not changed since."""
    project = open_project(directory)
    project.places = False
    compiled = None if project.has_kept else _decoded(project.directory / KEPT)
    if compiled is None:
        return project
    home = project.directory
    same = {
        name
        for name, digest in compiled.files.items()
        if (path := _path(home, name)).is_file() and _digest([path]) == digest
    }
    if SETTINGS in same:
        project.keep(home / SETTINGS, compiled.settings)
    for name, stored in compiled.connectors.items():
        if name in same and (stored.refers is None or stored.refers in same):
            project.keep(_path(home, name), _restored(stored))
            if stored.refers is not None:
                project.schema_files[_path(home, name)] = _path(home, stored.refers)
    for name, client in compiled.clients.items():
        if name in same:
            project.keep(_path(home, name), client)
    return project


def keep(project: Project) -> None:
    """
    Keep the files that are sound for the next `open_kept`, unless that is so. Where it can't be written, nothing is.
    """
    if project.has_kept and not project.has_read:  # asked without reading what is kept: that takes as much room again
        return
    home, before = project.directory, _decoded(project.directory / KEPT)
    name = partial(_name, home)
    connectors, clients, files = dict[str, _Connector](), dict[str, Client](), dict[str, str]()
    for path in project.connector_files().values():
        loaded = project.loaded_connector_at(path)
        if loaded.value is None or loaded.findings:
            continue
        refers = project.schema_files.get(path)
        digests = _digests({name(each): each for each in (path, refers) if each is not None})
        if refers is None or _is_of(loaded.value, refers):
            connectors[name(path)] = _stored(loaded.value, name(refers) if refers is not None else None)
            files |= digests
    for path in project.client_files().values():
        client = project.loaded_client(path)
        if client.value is not None and not client.findings:
            clients[name(path)] = client.value
            files |= _digests({name(path): path})
    settings = Settings()
    if (home / SETTINGS).exists() and not project.settings_errors:
        settings = project.settings
        files |= _digests({SETTINGS: home / SETTINGS})
    compiled = _Compiled(_engine(), files, settings, connectors, clients)
    if (before is None or before.files != files) and project.is_current():  # what was digested is what was read
        _write(home / KEPT, _ENCODER.encode(compiled))


def _is_of(spec: Connector, schema: Path) -> bool:
    """Is the schema of a connector what the file that it refers to has now?"""
    from engine.spec.load import read_schema

    return alike(read_schema(schema)[0], spec.receive.schema)


def _write(path: Path, content: bytes) -> None:
    import tempfile

    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        ignored = path.parents[1] / ".gitignore"
        if not ignored.exists():
            ignored.write_text("*\n", encoding="utf-8")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.replace(name, path)


def _decoded(path: Path) -> _Compiled | None:
    """Of this engine; None where there is none."""
    try:
        compiled = _DECODER.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return compiled if compiled.engine == _engine() else None


def _read(project: Project) -> _Compiled | None:
    """What was compiled; None where it is not there, or not of these files, or not of this engine."""
    compiled = _decoded(project.directory / NAME)
    if compiled is None:
        return None
    specs = {_name(project.directory, path) for path in _specs(project)}
    if not specs <= compiled.files.keys():
        return None
    files = {name: _path(project.directory, name) for name in compiled.files}
    gone = {name for name, path in files.items() if name.startswith(OURS) and not path.exists()}
    if _digests({name: path for name, path in files.items() if name not in gone}) != {
        name: digest for name, digest in compiled.files.items() if name not in gone
    }:
        return None
    return msgspec.structs.replace(
        compiled, connectors={name: each for name, each in compiled.connectors.items() if name not in gone}
    )


def _specs(project: Project) -> list[Path]:
    settings = project.directory / SETTINGS
    files = [*project.connector_files().values(), *project.client_files().values()]
    return [*files, settings] if settings.exists() else files


def _sound(loaded: Loaded[T]) -> T:
    assert loaded.value is not None
    return loaded.value


def _stored(spec: Connector, refers: str | None = None) -> _Connector:
    schema = msgspec.Raw(_ENCODER.encode(spec.receive.schema))
    bare = msgspec.structs.replace(spec, receive=msgspec.structs.replace(spec.receive, schema=None))
    for floats in (False, True):
        stored = _Connector(bare, schema, floats, refers)
        if alike(_restored(_CONNECTOR.decode(_ENCODER.encode(stored))), spec):
            return stored
    raise ValueError(f"{spec.name} can't be stored as it is")


def _restored(stored: _Connector) -> Connector:
    hook = None if stored.floats else Decimal
    schema = msgspec.json.Decoder(float_hook=hook).decode(stored.schema)
    receive = msgspec.structs.replace(stored.spec.receive, schema=schema)
    return msgspec.structs.replace(stored.spec, receive=receive)


def alike(one: Any, other: Any) -> bool:
    """Equal, and of the same types throughout: 1 is not 1.0, and the order of keys counts."""
    if type(one) is not type(other):
        return False
    if isinstance(one, msgspec.Struct):
        return all(alike(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def _name(directory: Path, path: Path) -> str:
    ours = bundled("connectors").parent
    for home, before in ((directory, ""), (ours, OURS)):
        if path.resolve().is_relative_to(home.resolve()):
            return before + path.resolve().relative_to(home.resolve()).as_posix()
    raise ValueError(f"{path} is neither in the project nor of the engine")


def _path(directory: Path, name: str) -> Path:
    return bundled("connectors").parent / name.removeprefix(OURS) if name.startswith(OURS) else directory / name


def _digests(files: dict[str, Path]) -> dict[str, str]:
    return {name: _digest([files[name]]) for name in sorted(files)}


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:32]


@cache
def _engine() -> str:
    """What reads and checks a spec: all of it that may tell another meaning of the same file."""
    folders = ((Path(__file__).parent, ".py"), (bundled("schemas"), ".json"))
    return _digest([at / name for at, end in folders for name in sorted(os.listdir(at)) if name.endswith(end)])


_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(_Compiled, float_hook=Decimal)
_CONNECTOR = msgspec.json.Decoder(_Connector, float_hook=Decimal)
