"""
A directory with `connectors/`, `clients/` and `connect.yaml`, read when asked for and kept until a file changes.

A connector of the project's own wins over the one of the same name that comes with the engine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from engine.errors import SpecErrors, UsageError
from engine.spec.findings import Finding, did_you_mean, errors_in, in_file_order
from engine.spec.shipped import bundled

if TYPE_CHECKING:
    from engine.spec.located import Located
    from engine.spec.types import Client, Connector

T = TypeVar("T")

_SUFFIXES = (".yaml", ".yml")


class DeadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dead` of `connect.yaml`."""

    keep: str | None = None


class TrailSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`trail` of `connect.yaml`."""

    active: bool = True
    keep: str = "7d"
    max: str = "1GB"


class AlertWay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `alerts.to`; `at` is a reference, or an SNS topic."""

    by: str  # webhook | slack | smtp | sns
    at: str
    secret: str | None = None
    sender: str | None = msgspec.field(default=None, name="from")
    to: list[str] = []


class ClientAlerts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `alerts.clients`."""

    oldest: str | None = None
    dead_letters: str | None = None


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`alerts` of `connect.yaml`."""

    oldest: str = "1h"
    dead_letters: str = "1/1h"
    store: str = "90%"
    quiet: str | None = None
    timezone: str = "UTC"
    urgent: list[str] | None = None
    clients: dict[str, ClientAlerts] = {}
    to: dict[str, AlertWay] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `connect.yaml` says."""

    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int | None = None
    admin_host: str = "127.0.0.1"
    name: str | None = None
    store: str = "sqlite:///connect.db"
    max_store: str | None = None
    address_rate: str | None = None
    proxies: list[str] = []
    via: str | None = None
    allow_private: bool = False
    proxy: str | None = None
    workers: int = 8
    deliver: bool = True
    reload: bool = True
    log_level: str = "info"
    metrics: str = "prometheus"  # prometheus | emf | both
    dead: DeadSettings = DeadSettings()
    trail: TrailSettings = TrailSettings()
    alerts: AlertSettings = AlertSettings()
    admin_url: str | None = None
    audit: str = "connect.audit.log"


class Loaded(NamedTuple, Generic[T]):
    """One file: its value (None where a finding is an error), its findings, and its places in the long form."""

    path: Path
    value: T | None
    findings: tuple[Finding, ...]
    located: Located | None


class Project:
    """
    Nothing is read before it is asked for; a file is read again when its time or size has changed.

    With `places` False what is sound is kept without the places in its file, which take ten times the room.
    """

    def __init__(self, directory: Path | str, *, places: bool = True) -> None:
        self.directory = Path(directory)
        self.places = places
        self.has_read = False  # was any file read since this was made?
        self.schema_files: dict[Path, Path] = {}  # by the connector's file, where its events' schema stands elsewhere
        self.texts: dict[Path, str] = {}
        self._kept: dict[Path, tuple[tuple[int, int], Loaded[Any]]] = {}

    def with_texts(self, texts: Mapping[Path, str]) -> Project:
        """The same project as it would be if these files had these texts; nothing is written."""
        other = Project(self.directory, places=self.places)
        other.texts = {**self.texts, **{path.resolve(): text for path, text in texts.items()}}
        other._kept = {path: kept for path, kept in self._kept.items() if path.resolve() not in other.texts}
        return other

    def read(self, path: Path) -> Located:
        """Raises SpecErrors where it can't be read."""
        from engine.spec.located import read, read_file

        text = self.texts.get(path.resolve()) if self.texts else None
        return read_file(path) if text is None else read(text, str(path))

    def keep(self, path: Path, value: Any) -> None:
        """What a file says, as it was read and checked before: until it changes."""
        self._kept[path] = (_version(path), Loaded(path, value, (), None))

    @property
    def has_kept(self) -> bool:
        return bool(self._kept)

    def is_current(self) -> bool:
        """Has no file changed since it was read?"""
        return all(version == _version(path) for path, (version, _) in list(self._kept.items()))

    def text(self, path: Path) -> str:
        """Raises OSError, also for what is no regular file, or UnicodeDecodeError."""
        text = self.texts.get(path.resolve()) if self.texts else None
        if text is None and not path.is_file():
            raise FileNotFoundError(path)
        return path.read_text(encoding="utf-8") if text is None else text

    # files

    def connector_files(self) -> dict[str, Path]:
        """By the file's name, which is the connector's."""
        return {**_yaml_files(bundled("connectors")), **_yaml_files(self.directory / "connectors")}

    def used_connector_files(self) -> dict[str, Path]:
        """Without those that come with the engine and that no client has."""
        clients = [self.loaded_client(path).value for path in self.client_files().values()]
        used = {name for client in clients if client is not None for name in client.connectors}
        ours, files = bundled("connectors"), self.connector_files()
        return {name: path for name, path in files.items() if name in used or path.parent != ours}

    def client_files(self) -> dict[str, Path]:
        return _yaml_files(self.directory / "clients")

    # values

    def connector(self, name: str) -> Connector:
        """Raises UsageError where there is none of this name, SpecErrors where it can't be used."""
        files = self.connector_files()
        if name not in files:
            raise UsageError(_no_such("connector", name, files))
        return _usable(self.loaded_connector(name))

    def client(self, name: str) -> Client:
        """By the name that the file says, not the file's. Raises as `connector` does."""
        files = self.client_files()
        first = [files[name]] if name in files else []
        names = []
        for path in [*first, *(path for path in files.values() if path not in first)]:
            loaded = self.loaded_client(path)
            called = _name_in(loaded)
            if called == name:
                return _usable(loaded)
            names.append(called)
        raise UsageError(_no_such("client", name, [each for each in names if each]))

    def client_names(self) -> list[str]:
        """Of all files, also of those that can't be used."""
        return [name for path in self.client_files().values() if (name := _name_in(self.loaded_client(path)))]

    def all(
        self, files: Mapping[str, Path] | None = None
    ) -> tuple[dict[str, Connector], dict[str, Client], list[Finding]]:
        """All that can be used, by name, and the findings of all files; `files`: of these connectors alone."""
        connectors, clients, findings = {}, {}, list(self.settings_errors)
        for name, path in (self.connector_files() if files is None else files).items():
            connector = self.loaded_connector_at(path)
            findings += connector.findings
            if connector.value is not None:
                connectors[name] = connector.value
        named_in: dict[str, Path] = {}
        for path in self.client_files().values():
            client = self.loaded_client(path)
            findings += client.findings
            if client.value is None:
                continue
            called = client.value.client
            if called in clients:
                findings.append(self._twice(path, client, named_in[called]))
                continue
            clients[called], named_in[called] = client.value, path
        return connectors, clients, in_file_order(findings)

    def _twice(self, path: Path, client: Loaded[Client], other: Path) -> Finding:
        located = client.located or self.read(path)
        says = f"{_name_in(client)} is also the client of {other}"
        return located.finding(("client",), "duplicate-client", says)

    def unusable(self, files: Mapping[str, Path]) -> tuple[set[str], set[str]]:
        """Those of these connectors, and the clients, whose files are there and can't be used."""
        connectors = {name for name, path in files.items() if self.loaded_connector_at(path).value is None}
        loaded = [self.loaded_client(path) for path in self.client_files().values()]
        return connectors, {_name_in(each) for each in loaded if each.value is None}

    @property
    def settings(self) -> Settings:
        """Raises SpecErrors where `connect.yaml` can't be used; without the file, the defaults."""
        loaded = self.loaded_settings()
        if loaded.value is None:
            raise SpecErrors(loaded.findings)
        return loaded.value

    @property
    def settings_errors(self) -> tuple[Finding, ...]:
        return self.loaded_settings().findings

    # one file with its findings and places

    def loaded_connector(self, name: str) -> Loaded[Connector]:
        return self.loaded_connector_at(self.connector_files()[name])

    def loaded_connector_at(self, path: Path) -> Loaded[Connector]:
        """One of `connector_files`; a folder of hundreds is then listed once."""
        return self._loaded(path, self._load_connector)

    def loaded_client(self, path: Path) -> Loaded[Client]:
        return self._loaded(path, _load_client)

    def loaded(self) -> list[Loaded[Any]]:
        """Every file of the project, for checks that look across files."""
        connectors = [self.loaded_connector_at(path) for path in self.connector_files().values()]
        return [*connectors, *(self.loaded_client(path) for path in self.client_files().values())]

    def loaded_settings(self) -> Loaded[Settings]:
        path = self.directory / "connect.yaml"
        if not path.exists():
            return Loaded(path, Settings(), (), None)
        return self._loaded(path, _load_settings)

    def _load_connector(self, located: Located) -> tuple[Connector | None, list[Finding], Located]:
        from engine.spec.load import load_connector, load_schema_ref, schema_file

        connector, found, grown = load_connector(located)
        stem = Path(located.file).stem
        if connector is None:
            return None, found, grown
        if connector.name != stem:
            hint = f"call the file {connector.name}.yaml, or the connector {stem}"
            found.append(grown.finding(("name",), "file-name", f"{connector.name} stands in {stem}.yaml", hint))
        schema, faults = load_schema_ref(grown, connector, root=self.directory)
        reference = (connector.receive.schema or {}).get("$ref")
        if schema is not None and isinstance(reference, str) and not reference.startswith("#"):
            path = Path(located.file)
            self.schema_files[path] = schema_file(reference, path.parent, self.directory)
        if schema is not None:
            receive = msgspec.structs.replace(connector.receive, schema=schema)
            connector = msgspec.structs.replace(connector, receive=receive)
        found = in_file_order([*found, *faults])
        return (None if errors_in(found) else connector), found, grown

    def _loaded(self, path: Path, load: Callable[[Located], tuple[T | None, list[Finding], Located]]) -> Loaded[T]:
        version = _version(path)
        kept = self._kept.get(path)
        if kept is not None and kept[0] == version:
            return kept[1]
        self.has_read = True
        try:
            value, findings, located = load(self.read(path))
            loaded = Loaded(path, value, tuple(findings), located)
            if not self.places and value is not None and not findings:
                loaded = loaded._replace(located=None)
        except SpecErrors as error:
            loaded = Loaded(path, None, error.findings, None)
        self._kept[path] = (version, loaded)
        return loaded


def _yaml_files(folder: Path) -> dict[str, Path]:
    """By name without its ending; names alone are looked at, for this is asked about once a second."""
    try:
        found = sorted(name for name in os.listdir(folder) if name.endswith(_SUFFIXES) and name[0] != ".")
    except OSError:
        return {}
    return {name.rpartition(".")[0]: folder / name for name in found}


def _version(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, -1
    return stat.st_mtime_ns, stat.st_size


def _load_client(located: Located) -> tuple[Client | None, list[Finding], Located]:
    from engine.spec.load import load_client

    return load_client(located)


def _load_settings(located: Located) -> tuple[Settings | None, list[Finding], Located]:
    from engine.spec.violations import violations

    found = in_file_order([*located.findings, *violations(located, "project")])
    return (None if errors_in(found) else msgspec.convert(located.data, Settings)), found, located


def _name_in(loaded: Loaded[Client]) -> str:
    """Also of a file that can't be used, so that its findings are shown and not "no such client"."""
    if loaded.value is not None:
        return loaded.value.client
    data = loaded.located.data if loaded.located is not None else {}
    name = data.get("client") if isinstance(data, Mapping) else None
    return name if isinstance(name, str) else loaded.path.stem


def _usable(loaded: Loaded[T]) -> T:
    if loaded.value is None:
        raise SpecErrors(errors_in(loaded.findings))
    return loaded.value


def _no_such(kind: str, name: str, known: Any) -> str:
    hint = did_you_mean(name, known) or (f"there are {', '.join(sorted(known))}" if known else f"there is no {kind}")
    return f"no {kind} is called {name}; {hint}"
