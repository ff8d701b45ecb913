"""The pages on connectors and clients, the check of a log-in, and events that are tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.routing import Route

from engine.dashboard import catalogue as catalogue_
from engine.dashboard.asking import Trouble
from engine.dashboard.catalogue import Catalogue, ClientRow, ConnectorRow, found_in
from engine.dashboard.findings import Findings
from engine.dashboard.logins import LONGEST_S, Logins, TooMany
from engine.dashboard.prose import prose
from engine.dashboard.sources import Sources, shown_reference
from engine.dashboard.trying import Trials, Tried, actions_of
from engine.errors import Refused
from engine.segments import segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from engine.dashboard.asking import Ask
    from engine.dashboard.findings import Looked
    from engine.dashboard.lanes import Row
    from engine.door.asgi import Scope
    from engine.runtime import Engine
    from engine.spec.types import Client, Connector
    from engine.telemetry.audit import Audit

WAIT_S = 2.0  # for findings and secrets, before the page is shown without them
LISTED = 50  # clients of a connector that its page names
MAX_FINDINGS = 100


class Frame(NamedTuple):
    """What the board gives to pages: who may see and post them, how they are rendered, what is written down."""

    get: Callable[[Callable[[Ask], Response]], Callable[..., Any]]
    post: Callable[[Callable[[Ask], Response]], Callable[..., Any]]
    page: Callable[..., Response]  # name of the template, ask, status, what stands in it
    back: Callable[[str], Response]  # to a path, after something was done
    audit: Callable[[Ask], Audit]
    rows: Callable[[], list[Row]]


class CataloguePages:
    """What the board mounts beside its own pages."""

    def __init__(self, engine: Engine, frame: Frame, new_id: Callable[[], str]) -> None:
        self.engine, self.frame = engine, frame
        self.catalogue = Catalogue(self.engine)
        self.findings = Findings(self.engine.project.directory)
        self.sources = Sources(self.engine)
        self.logins = Logins(self.engine, new_id)
        self.trials = Trials(self.engine, new_id)

    @property
    def routes(self) -> Sequence[BaseRoute]:
        get, post = self.frame.get, self.frame.post
        return [
            Route("/connectors", get(self.connectors)),
            Route("/connectors/{connector}", get(self.connector)),
            Route("/connectors/{connector}/docs", get(self.docs)),
            Route("/connectors/{connector}/try", get(self.trying)),
            Route("/connectors/{connector}/preview", post(self.preview), methods=["POST"]),
            Route("/connectors/{connector}/preview", get(self.trying)),  # where a posted page is loaded anew
            Route("/connectors/{connector}/send", post(self.send), methods=["POST"]),
            Route("/clients", get(self.clients)),
            Route("/clients/{client}", get(self.client)),
            Route("/clients/{client}/check/{connector}", post(self.check), methods=["POST"]),
            Route("/checks/{number}", get(self.checked)),
            Route("/sent/{number}", get(self.sent)),
        ]

    def only_looks(self, scope: Scope) -> bool:
        """Is it posted only because an event is too long, and too private, for an address?"""
        parts = scope["path"].split("/")
        return len(parts) == 4 and parts[1] == "connectors" and parts[3] == "preview"

    # --- connectors ---

    def connectors(self, ask: Ask) -> Response:
        every = self.catalogue.connectors()
        search = ask.text("q", 100)
        fitting = [row for row in every if found_in(_words(row), search)]
        return self._list("connectors", ask, fitting, len(every), search)

    def _list(
        self, name: str, ask: Ask, fitting: Sequence[ConnectorRow | ClientRow], total: int, search: str
    ) -> Response:
        pages = max(-(-len(fitting) // catalogue_.PER_PAGE), 1)
        at = min(max(ask.number("page", 1), 1), pages)
        rows = fitting[(at - 1) * catalogue_.PER_PAGE : at * catalogue_.PER_PAGE]
        files = [row.file for row in rows if row.file is not None]
        return self._page(
            name,
            ask,
            rows=rows,
            count=len(fitting),
            total=total,
            page=at,
            pages=pages,
            asked={"q": search},
            looked=self.findings.of(files),
        )

    def _connector(self, ask: Ask) -> ConnectorRow:
        name = ask.params["connector"]
        row = self.catalogue.connector(name)
        if row is None:
            raise Trouble(404, "error_no_connector", name=_short(name))
        return row

    def _spec(self, row: ConnectorRow) -> Connector:
        if row.spec is None:
            raise Trouble(422, "error_unusable", name=_short(row.name))
        return row.spec

    def connector(self, ask: Ask) -> Response:
        row = self._connector(ask)
        context: dict[str, Any] = {"row": row, "looked": self._looked(row, ask), "place": self._place(row)}
        if row.spec is not None and ask.text("part") != "live":
            having = self.catalogue.clients_of(row.name)
            context |= {
                "log_ins": catalogue_.log_ins(row.spec),
                "sending": prose(self._masked(catalogue_.paced(row.spec)), below=1),
                "mapping": prose(self._masked(catalogue_.mapped(row.spec)), below=1),
                "clients": having[:LISTED],
                "more": max(len(having) - LISTED, 0),
            }
        return self._page("connector", ask, **context)

    def docs(self, ask: Ask) -> Response:
        row = self._connector(ask)
        text = catalogue_.docs(self._spec(row), self.catalogue.notes(row.name))
        return self._page("connector_docs", ask, row=row, text=prose(self._masked(text)))

    # --- clients ---

    def clients(self, ask: Ask) -> Response:
        every = self.catalogue.clients(self.frame.rows())
        search = ask.text("q", 100)
        fitting = [row for row in every if found_in(_words(row), search)]
        return self._list("clients", ask, fitting, len(every), search)

    def _client(self, ask: Ask) -> ClientRow:
        name = ask.params["client"]
        row = self.catalogue.client(name, self.frame.rows())
        if row is None:
            raise Trouble(404, "error_no_client", name=_short(name))
        return row

    def client(self, ask: Ask) -> Response:
        row, bound = self._client(ask), []
        lanes = {lane.lane.connector: lane for lane in row.lanes}
        if row.spec is not None:
            for name, binding in row.spec.connectors.items():
                spec = self.engine.connector_specs.get(name)
                settings = self.catalogue.settings(spec, row.spec, name)
                changes = self.catalogue.changes(row.spec, name)
                secrets = self.catalogue.secrets(spec, row.spec, name)
                bound.append((name, binding, spec, lanes.get(name), settings, changes, secrets))
        references = [one.reference for *_, secrets in bound for one in secrets if one.reference]
        wait_s = WAIT_S if ask.text("part") != "live" else 0.0
        there = self.sources.of(references, wait_s=wait_s)
        return self._page(
            "client",
            ask,
            row=row,
            bound=bound,
            looked=self._looked(row, ask),
            place=self._place(row),
            there=there,
            is_over=all(reference in there for reference in references),
            reference=shown_reference,
        )

    # --- a log-in ---

    def check(self, ask: Ask) -> Response:
        connector, client = ask.params["connector"], ask.params["client"]
        self._bound(connector, client)

        def audit() -> None:
            self.frame.audit(ask).line("check log-in", connector=connector, client=client)

        try:
            job = self.logins.begin(connector, client, audit)
        except TooMany:
            raise Trouble(429, "error_many_checks") from None
        return self.frame.back(f"/checks/{job.number}")

    def checked(self, ask: Ask) -> Response:
        job = self.logins.get(ask.params["number"])
        if job is None:
            raise Trouble(404, "error_no_check")
        lane = self.engine.store.lane(job.connector, job.client)
        paused = lane is not None and lane.state == "paused"
        return self._page("check", ask, job=job, state=job.state, paused=paused, longest=int(LONGEST_S))

    # --- an event ---

    def trying(self, ask: Ask) -> Response:
        row = self._connector(ask)
        spec, having = self._spec(row), self.catalogue.clients_of(row.name)
        name, key, text = ask.query.get("client") or (having[0] if having else ""), ask.text("example"), ""
        if having:
            client = self._bound(row.name, name)
            key = key or next((sample.key for sample in self.trials.samples(spec)), "")
            text = self.trials.text_of(spec, client, key) if key != "own" else ""
        return self._try(ask, row, name, text, key=key, having=having)

    def preview(self, ask: Ask) -> Response:
        row = self._connector(ask)
        spec, client = self._spec(row), self._bound(row.name, ask.form.get("client", ""))
        self.frame.audit(ask).line("event preview", connector=row.name, client=client.client)
        text = ask.form.get("event", "")
        tried = self.trials.preview(spec, client, text)
        return self._try(ask, row, client.client, text, 422 if tried.says else 200, tried=tried)

    def send(self, ask: Ask) -> Response:
        row = self._connector(ask)
        client, text = self._bound(row.name, ask.form.get("client", "")), ask.form.get("event", "")
        if ask.form.get("sure") != "yes":  # the browser asks for it, other programs may not
            raise Trouble(422, "error_sure")

        def audit(events: Sequence[str]) -> None:
            line = {"connector": row.name, "client": client.client, "events": list(events)}
            self.frame.audit(ask).line("event send", **line)

        try:
            sent = self.trials.send(row.name, client.client, text, audit)
        except Refused as refused:
            tried = Tried(says=self._masked(refused.title), faults=refused.faults)
            return self._try(ask, row, client.client, text, 422, tried=tried)
        return self.frame.back(f"/sent/{sent.number}")

    def sent(self, ask: Ask) -> Response:
        sent = self.trials.sent(ask.params["number"])
        if sent is None:
            raise Trouble(404, "error_no_job")
        return self._page("sent", ask, sent=sent, actions_of=actions_of)

    def _try(self, ask: Ask, row: ConnectorRow, client: str, text: str, status: int = 200, **more: Any) -> Response:
        spec = self._spec(row)
        given: dict[str, Any] = {"tried": None, "key": "own", "having": None, **more}
        given["having"] = given["having"] or self.catalogue.clients_of(row.name)
        samples = self.trials.samples(spec)
        return self._page("try", ask, status, row=row, client=client, text=text, samples=samples, **given)

    def _bound(self, connector: str, client: str) -> Client:
        found = self.engine.client_specs.get(client)
        if found is None or connector not in found.connectors or connector not in self.engine.connector_specs:
            raise Trouble(404, "error_not_bound", client=_short(client), name=_short(connector))
        return found

    # --- around them ---

    def _looked(self, row: ConnectorRow | ClientRow, ask: Ask) -> Looked | None:
        if row.file is None:
            return None
        wait_s = WAIT_S if ask.text("part") != "live" else 0.0
        return self.findings.of([row.file], wait_s=wait_s).get(row.file)

    def _place(self, row: ConnectorRow | ClientRow) -> str:
        return "" if row.file is None else self.catalogue.place(row.file)

    def _masked(self, text: str) -> str:
        return self.engine.masker.mask(text)

    def _page(self, name: str, ask: Ask, status: int = 200, **context: Any) -> Response:
        return self.frame.page(
            name,
            ask,
            status,
            mask=self._masked,
            segment=segment,
            max_findings=MAX_FINDINGS,
            **context,
        )


def connector_path(name: str) -> str:
    return f"/connectors/{segment(name)}"


def client_path(name: str) -> str:
    return f"/clients/{segment(name)}"


def _words(row: ConnectorRow | ClientRow) -> list[str]:
    """What a search looks in."""
    if isinstance(row, ConnectorRow):
        return [row.name, row.title, *(row.spec.actions if row.spec is not None else ())]
    return [row.name, row.title, *(row.spec.connectors if row.spec is not None else ())]


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:200]}…"
