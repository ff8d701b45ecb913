"""Connectors and clients as the pages show them: from what the engine serves, and from the files on disk."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.authoring.pages import WRITTEN, page
from engine.authoring.pages.actions import address, fields, mapping, tables
from engine.authoring.pages.markdown import flow
from engine.authoring.pages.pace import sending
from engine.program import with_defaults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.dashboard.lanes import Row
    from engine.runtime import Engine
    from engine.spec.types import Auth, Client, Connector

PER_PAGE = 50
LOOK_S = 1.0  # how long a look at the folders is remembered


class ConnectorRow(NamedTuple):
    """One connector; `spec` is None where its file can't be used, `file` where it is not on this disk."""

    name: str
    spec: Connector | None
    file: Path | None
    clients: int

    @property
    def title(self) -> str:
        return self.spec.title if self.spec is not None else ""

    @property
    def modes(self) -> list[str]:
        if self.spec is None:
            return []
        given = [action.mode or self.spec.receive.mode for action in self.spec.actions.values()]
        return list(dict.fromkeys(given))


class ClientRow(NamedTuple):
    """One client; `spec` is None where its file can't be used, `file` where it is not on this disk."""

    name: str
    spec: Client | None
    file: Path | None
    lanes: Sequence[Row]

    @property
    def title(self) -> str:
        return self.spec.title if self.spec is not None else ""


class Setting(NamedTuple):
    name: str
    value: str
    given: bool  # by the client's file; else the connector's default
    about: str


class Secret(NamedTuple):
    name: str
    reference: str  # empty where none is given
    needed: bool
    about: str


class Catalogue:
    """Over one engine; cheap enough for each view."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._looked: tuple[float, dict[str, Path], dict[str, Path]] = (float("-inf"), {}, {})

    def files(self) -> tuple[dict[str, Path], dict[str, Path]]:
        """(connectors, clients): by the name that is in them, the file on this disk."""
        with self._lock:
            now = time.monotonic()
            if self._looked[0] < now - LOOK_S:
                project = self._engine.project
                clients: dict[str, Path] = {}
                for path in project.client_files().values():
                    loaded = project.loaded_client(path)
                    data = loaded.located.data if loaded.located is not None else {}
                    said = data.get("client") if isinstance(data, dict) else None
                    name = loaded.value.client if loaded.value is not None else said
                    clients.setdefault(name if isinstance(name, str) and name else path.stem, path)
                self._looked = (now, project.connector_files(), clients)
            return self._looked[1], self._looked[2]

    def connectors(self) -> list[ConnectorRow]:
        """Those that clients have first."""
        files, specs = self.files()[0], dict(self._engine.connector_specs)
        counts: dict[str, int] = {}
        for client in list(self._engine.client_specs.values()):
            for name in client.connectors:
                counts[name] = counts.get(name, 0) + 1
        rows = [
            ConnectorRow(name, specs.get(name), files.get(name), counts.get(name, 0))
            for name in {**files, **specs, **counts}
        ]
        return sorted(rows, key=lambda row: (not row.clients, row.name))

    def connector(self, name: str) -> ConnectorRow | None:
        return next((row for row in self.connectors() if row.name == name), None)

    def clients(self, lanes: Iterable[Row]) -> list[ClientRow]:
        by_client: dict[str, list[Row]] = {}
        for lane in lanes:
            by_client.setdefault(lane.lane.client, []).append(lane)
        files, specs = self.files()[1], dict(self._engine.client_specs)
        return [
            ClientRow(
                name,
                specs.get(name),
                files.get(name),
                sorted(by_client.get(name, ()), key=lambda row: row.lane.connector),
            )
            for name in sorted({**files, **specs, **by_client})
        ]

    def client(self, name: str, lanes: Iterable[Row]) -> ClientRow | None:
        return next((row for row in self.clients(lanes) if row.name == name), None)

    def clients_of(self, connector: str) -> list[str]:
        return sorted(name for name, spec in list(self._engine.client_specs.items()) if connector in spec.connectors)

    def settings(self, connector: Connector | None, client: Client, name: str) -> list[Setting]:
        """With the connector's defaults; what the file says beyond them, too."""
        given = client.connectors[name].settings
        known = connector.settings.properties if connector is not None else {}
        every = with_defaults(connector.settings, given) if connector is not None else given
        return [
            Setting(key, self._shown(every.get(key)), key in given, str(known.get(key, {}).get("title", "")))
            for key in [*known, *(key for key in every if key not in known)]
        ]

    def changes(self, client: Client, name: str) -> list[tuple[str, str]]:
        """What the client's file changes of the connector besides: (where, what)."""
        binding = client.connectors[name]
        parts = [("tables", binding.tables), ("actions", binding.actions)]
        return [(f"{part}.{key}", self._shown(value)) for part, tree in parts for key, value in tree.items()]

    def secrets(self, connector: Connector | None, client: Client, name: str) -> list[Secret]:
        given, known = client.connectors[name].secrets, connector.secrets if connector is not None else {}
        return [
            Secret(
                key,
                given.get(key, ""),
                key in known and not known[key].optional and known[key].when is None,
                known[key].title if key in known else "",
            )
            for key in [*known, *(key for key in given if key not in known)]
        ]

    def place(self, file: Path) -> str:
        """The file as people know it, from the project's directory."""
        home = self._engine.project.directory
        return str(file.relative_to(home)) if file.is_relative_to(home) else file.name

    def notes(self, name: str) -> str:
        try:
            file = self._engine.project.directory / "docs" / "connectors" / f"{name}.notes.md"
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def _shown(self, value: Any) -> str:
        return self._engine.masker.mask(flow(value)) if value is not None else ""


def docs(connector: Connector, notes: str) -> str:
    """The page that `connect docs` writes, without its title."""
    return page(connector, source="", notes=notes).partition("\n")[2].replace(WRITTEN, "")


def mapped(connector: Connector) -> str:
    """From where each field of each action comes, as in the docs."""
    parts = [*(mapping(name, action) for name, action in connector.actions.items())]
    return "\n\n".join(part for part in [*parts, fields(connector), tables(connector)] if part)


def paced(connector: Connector) -> str:
    """Batches, limits and tries in words, as in the docs, without their heading."""
    return sending(connector, "").partition("\n")[2]


def log_ins(connector: Connector) -> list[tuple[str, str, dict[str, Any]]]:
    """Each log-in in a sentence: (its name, the key of the text, what stands in its holes)."""
    return [(name, *_log_in(auth)) for name, auth in (connector.auths or {"": connector.auth}).items()]


def _log_in(auth: Auth) -> tuple[str, dict[str, Any]]:
    token = auth.token
    if token is not None and token.consent is not None:
        return "auth_consent", {}
    if token is not None and token.request is not None:
        return "auth_renewed" if token.renew is not None else "auth_token", {"request": address(token.request)}
    if token is not None:
        return "auth_steps", {"steps": ", ".join(token.steps)}
    if auth.sign:
        return "auth_signed", {"names": ", ".join(auth.sign)}
    places: list[Mapping[str, Any]] = [auth.place.headers, auth.place.query, auth.place.cookies, auth.place.form]
    names = [name for place in [*places, auth.place.json] for name in place]
    return ("auth_placed", {"names": ", ".join(names)}) if names or auth.place.url else ("auth_none", {})


def found_in(texts: Iterable[str], search: str) -> bool:
    """Are all words of the search in these texts?"""
    whole = " ".join(texts).casefold()
    return all(word in whole for word in search.casefold().split())
