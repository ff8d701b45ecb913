"""The pages and their addresses: a request -> what is shown or done, each deed with its audit line."""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.routing import Route

from engine.dashboard import lanes as lanes_
from engine.dashboard import letters as letters_
from engine.dashboard.asking import LANGUAGE_COOKIE, Ask, Trouble, form_of, words_of
from engine.dashboard.catalogue_pages import CataloguePages, Frame, client_path, connector_path
from engine.dashboard.events import EventPages
from engine.dashboard.jobs import Jobs
from engine.dashboard.lanes import Lanes
from engine.dashboard.letters import Counted, Letters, which_of
from engine.dashboard.rendering import HEADERS, Renderer, live_part, moment, number, page, percent, see_other
from engine.dashboard.texts import LANGUAGES
from engine.door.access import NOBODY, Access, Role, Visit, address_of, host_of, is_loopback_host
from engine.door.answers import Answer
from engine.errors import ConnectError, Refused, SpecErrors, UsageError, told
from engine.program import decode_event
from engine.segments import name_of, segment
from engine.telemetry.audit import Audit
from engine.upkeep.dead_letters import one_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from engine.dashboard.history import History
    from engine.door.asgi import Scope
    from engine.records import Dead
    from engine.runtime import Engine

LANES_S = 2.0  # how long a look at all lanes is remembered: many may watch
MAX_VIEWS = 50  # of one look: in each language, order, search and page
OPEN = ("/login",)
PROBLEMS = {
    404: "error_no_page",
    405: "error_method",
    503: "error_store",
}


class Look:
    """All lanes at one moment, and what was made of them: many who watch cost as much as one."""

    def __init__(self, at: float, rows: list[lanes_.Row]) -> None:
        self.at, self.rows = at, rows  # `at` by the monotonic clock
        self._views: dict[tuple[str, ...], Markup] = {}
        self._lock = threading.Lock()

    def view(self, key: tuple[str, ...], make: Callable[[], str]) -> Markup:
        """Made once, however many ask at the same time."""
        with self._lock:
            if key not in self._views:
                if len(self._views) >= MAX_VIEWS:
                    self._views.clear()
                self._views[key] = Markup(make())  # from our own template, which escapes
            return self._views[key]


class Board:
    """What the admin side mounts: the pages over one engine."""

    def __init__(
        self,
        engine: Engine,
        access: Access,
        history: History,
        *,
        audit_file: Path | None,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(9),
    ) -> None:
        self.engine, self.access, self.history, self.clock = engine, access, history, clock
        self.audit_file = audit_file
        self.renderer = Renderer()
        self.lanes, self.letters = Lanes(engine, history), Letters(engine)
        self.jobs = Jobs(engine.store, engine.clock.now, new_id)
        frame = Frame(self._get, self._post, self._page, self._back, self._audit, self.rows)
        self.catalogue = CataloguePages(engine, frame, new_id)
        self.events = EventPages(engine, frame)
        self._look = Look(float("-inf"), [])
        self._look_lock = threading.Lock()

    # --- what admin.py asks ---

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/", self._get(self.overview)),
            Route("/lane/{connector}/{client}", self._get(self.lane)),
            Route("/lane/{connector}/{client}/pause", self._post(self.pause), methods=["POST"]),
            Route("/lane/{connector}/{client}/resume", self._post(self.resume), methods=["POST"]),
            Route("/dead", self._get(self.dead)),
            Route("/dead/retry", self._post(self.retry_all), methods=["POST"]),
            Route("/dead/discard", self._post(self.discard_all), methods=["POST"]),
            Route("/dead/job/{job}", self._get(self.job)),
            Route("/dead/{id:int}", self._get(self.letter)),
            Route("/dead/{id:int}/preview", self._get(self.preview)),
            Route("/dead/{id:int}/reveal", self._post(self.reveal), methods=["POST"]),
            Route("/dead/{id:int}/field", self._post(self.edit_field), methods=["POST"]),
            Route("/dead/{id:int}/open", self._post(self.open_event), methods=["POST"]),
            Route("/dead/{id:int}/event", self._post(self.edit_event), methods=["POST"]),
            Route("/dead/{id:int}/retry", self._post(self.retry), methods=["POST"]),
            Route("/dead/{id:int}/discard", self._post(self.discard), methods=["POST"]),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._post(self.log_out), methods=["POST"]),
            Route("/static/{name}", self._static),
            *self.catalogue.routes,
            *self.events.routes,
        ]

    def is_open(self, scope: Scope) -> bool:
        path = scope["path"]
        return path in OPEN or (path.startswith("/static/") and scope["method"] in ("GET", "HEAD"))

    def only_looks(self, scope: Scope) -> bool:
        return self.catalogue.only_looks(scope)

    def dressed(self, scope: Scope, answer: Answer) -> Answer:
        """A problem as a page, for a browser; who has not logged in is sent to the log-in."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if b"text/html" not in headers.get(b"accept", b""):
            return answer
        request = Request(scope)
        if answer.status == 401 and scope["method"] == "GET" and b"authorization" not in headers:
            to = quote(f"{scope['path']}?{scope.get('query_string', b'').decode('latin-1')}".rstrip("?"), safe="")
            where = b"/login" if to == "%2F" else f"/login?to={to}".encode()
            return Answer(303, b"", b"text/html", ((b"location", where), *_raw(HEADERS)))
        visit = scope.get("visit")
        if answer.status == 403 and not isinstance(visit, Visit):
            return answer
        key = PROBLEMS.get(answer.status, "error_fault")
        if answer.status == 403 and isinstance(visit, Visit):
            key = "error_stale" if visit.acts else "error_read_only"  # a page of another origin
        html = self._html(
            "trouble.html",
            Ask(scope["path"], {}, {}, {}, visit or NOBODY, words_of(request)),
            key=key,
            holes={},
            says="",
        )
        kept = tuple((name, value) for name, value in answer.headers if name not in (b"content-type",))
        return Answer(answer.status, html.encode(), b"text/html; charset=utf-8", (*kept, *_raw(HEADERS)))

    # --- overview and lanes ---

    def rows(self) -> list[lanes_.Row]:
        return self.look().rows

    def look(self) -> Look:
        """At all lanes, at most every LANES_S."""
        with self._look_lock:
            now = time.monotonic()
            if self._look.at < now - LANES_S:
                self._look = Look(now, self.lanes.rows(self.clock()))
            return self._look

    def overview(self, ask: Ask) -> Response:
        look = self.look()
        every = look.rows
        sort = ask.text("sort") if ask.text("sort") in lanes_.SORTS else "attention"
        kind = ask.text("kind") if ask.text("kind") in lanes_.KINDS else ""
        search = ask.text("q", 100)
        fitting = lanes_.ordered(lanes_.found(every, search, kind), sort)
        pages = max(-(-len(fitting) // lanes_.PER_PAGE), 1)
        at = min(max(ask.number("page", 1), 1), pages)
        shown = fitting[(at - 1) * lanes_.PER_PAGE : at * lanes_.PER_PAGE]
        sums = {
            "lanes": len(every),
            "attention": sum(row.needs_attention for row in every),
            "waiting": sum(row.lane.waiting for row in every),
            "delivered": sum(row.delivered for row in every),
            "rejected": sum(row.rejected for row in every),
        }
        context: dict[str, Any] = {
            "rows": shown,
            "count": len(fitting),
            "total": len(every),
            "page": at,
            "pages": pages,
            "asked": {"q": search, "sort": sort if sort != "attention" else "", "kind": kind},
            "sums": sums,
        }
        live = look.view(
            (ask.words.language, search, kind, sort, str(at)), lambda: self._html("overview_live.html", ask, **context)
        )
        if ask.text("part") == "live":
            return live_part(live, ask.known)
        context |= {"sort": sort, "kind": kind, "sorts": lanes_.SORTS, "kinds": lanes_.KINDS}
        return self._page("overview", ask, live=live, **context)

    def _row(self, ask: Ask) -> lanes_.Row:
        connector, client = ask.params["connector"], ask.params["client"]
        row = self.lanes.row(connector, client, self.clock())
        if row is None:
            raise Trouble(404, "error_no_lane", lane=f"{connector}/{client}")
        return row

    def lane(self, ask: Ask) -> Response:
        row = self._row(ask)
        return self._page(
            "lane",
            ask,
            row=row,
            why=self.lanes.why(row, self.clock()),
            limits=self.lanes.limits(*row.key, self.engine.clock.now()),
            did=ask.text("did"),
        )

    def pause(self, ask: Ask) -> Response:
        row = self._row(ask)
        connector, client = row.key
        why = ask.form.get("why", "").strip()[:500]
        self._audit(ask).line("pause", connector=connector, client=client, why=why or None)
        self.lanes.pause(connector, client, why)
        return self._back(f"{lane_path(row)}?did=pause")

    def resume(self, ask: Ask) -> Response:
        row = self._row(ask)
        connector, client = row.key
        self._audit(ask).line("resume", connector=connector, client=client)
        self.lanes.resume(connector, client)
        return self._back(f"{lane_path(row)}?did=resume")

    # --- dead letters ---

    def dead(self, ask: Ask) -> Response:
        which = which_of(ask.query)
        after = ask.number("after", 0, letters_.MAX_ID - 1)
        self._audit(ask).line("dead list", **which)
        counted = Counted(self.letters.total(which), [], 0) if after else self.letters.counted(which)
        newest = ask.text("order") == "newest"
        rows, more = self.letters.page(which, after, newest=newest)
        order = {"order": "newest"} if newest else {}
        return self._page(
            "dead", ask, which=which, counted=counted, rows=rows, more=more, after=after, newest=newest, order=order
        )

    def letter(self, ask: Ask) -> Response:
        dead = self._dead(ask)
        self._audit(ask).line("dead show", id=dead.id, **_lane_of(dead))
        fields = ask.text("fields", 2000)
        return self._letter(ask, dead, did=ask.text("did"), fields=fields)

    def _dead(self, ask: Ask) -> Dead:
        return self.letters.letter(ask.params["id"])

    def _letter(self, ask: Ask, dead: Dead, status: int = 200, **more: Any) -> Response:
        given = {"reveal": False, "did": "", "fields": "", "says": "", "path": "", "value": "", **more}
        shown = self.letters.parts(dead, reveal=given["reveal"])
        return self._page("letter", ask, status, dead=dead, shown=shown, **given)

    def reveal(self, ask: Ask) -> Response:
        dead = self._dead(ask)
        self._audit(ask).line("dead reveal", id=dead.id, **_lane_of(dead))
        return self._letter(ask, dead, reveal=True)

    def preview(self, ask: Ask) -> Response:
        dead = self._dead(ask)
        self._audit(ask).line("dead preview", id=dead.id, **_lane_of(dead))
        more: dict[str, Any] = {"requests": [], "skipped": [], "paused": None, "says": ""}
        try:
            more["requests"], more["skipped"], more["paused"] = self.letters.preview(dead)
        except (UsageError, SpecErrors, Refused) as error:
            more["says"] = self._masked(dead, str(error))
        shown = self.letters.parts(dead, reveal=False)
        return self._page("preview", ask, dead=dead, shown=shown, **more)

    def edit_field(self, ask: Ask) -> Response:
        dead, path, value = self._dead(ask), ask.form.get("path", "").strip(), ask.form.get("value", "").strip()
        try:
            changed = self.letters.edit_field(dead, path, value, self._audit(ask))
        except (UsageError, Refused) as error:
            says = self._masked(dead, str(error))
            return self._letter(ask, dead, 422, says=says, path=path, value=value)
        return self._changed(dead, changed)

    def open_event(self, ask: Ask) -> Response:
        """The whole event to be edited, with what is personal in it."""
        dead = self._dead(ask)
        self._audit(ask).line("dead reveal", id=dead.id, **_lane_of(dead))
        text = self.renderer.env.filters["pretty"](decode_event(dead.body))
        return self._page("edit", ask, dead=dead, text=text, says="")

    def edit_event(self, ask: Ask) -> Response:
        dead, text = self._dead(ask), ask.form.get("event", "")
        try:
            changed = self.letters.edit(dead, one_event(text.encode(errors="replace")), self._audit(ask))
        except (UsageError, Refused) as error:
            return self._page("edit", ask, 422, dead=dead, text=text, says=str(error))
        return self._changed(dead, changed)

    def _changed(self, dead: Dead, changed: letters_.Changed) -> Response:
        did = ("edit" if changed.wanted else "unwanted") if changed.fields else "nothing"
        return self._back(f"/dead/{dead.id}?{urlencode({'did': did, 'fields': ', '.join(changed.fields)[:1000]})}")

    def _masked(self, dead: Dead, text: str) -> str:
        return self.letters.desk().personal(dead.connector).text(text, dead.body)

    def retry(self, ask: Ask) -> Response:
        return self._begin(ask, "retry", ids=[self._dead(ask).id])

    def discard(self, ask: Ask) -> Response:
        return self._begin(ask, "discard", ids=[self._dead(ask).id], why=self._why(ask))

    def retry_all(self, ask: Ask) -> Response:
        return self._begin(ask, "retry", which=which_of(ask.form))

    def discard_all(self, ask: Ask) -> Response:
        return self._begin(ask, "discard", which=which_of(ask.form), why=self._why(ask))

    def _why(self, ask: Ask) -> str:
        why = ask.form.get("why", "").strip()[:500]
        if not why or ask.form.get("sure") != "yes":  # the browser asks for both, other programs may not
            raise Trouble(422, "error_method")
        return why

    def _begin(self, ask: Ask, verb: str, **what: Any) -> Response:
        job = self.jobs.begin(verb, self._audit(ask), **what)
        self.letters.forget_counts()
        return self._back(f"/dead/job/{job.number}")

    def job(self, ask: Ask) -> Response:
        job = self.jobs.get(ask.params["job"])
        if job is None:
            raise Trouble(404, "error_no_job")
        if job.is_over:
            self.letters.forget_counts()
        return self._page("job", ask, job=job)

    # --- logging in ---

    async def _login(self, request: Request) -> Response:
        words, scope = words_of(request), request.scope
        to = request.query_params.get("to", "/")
        status, says, wait_s = 200, "", ""
        ask = Ask("/login", {}, request.query_params, {}, NOBODY, words)
        if request.method == "POST":
            try:
                form = await form_of(request)
            except Trouble as trouble:
                return self._trouble(ask, trouble)
            to = form.get("to", "/")
            if not self.access.is_fresh(NOBODY, form.get("form", "")):
                return self._trouble(ask, Trouble(403, "error_stale"))
            role = self.access.role_of(form.get("token", "").strip().encode(), address_of(scope))
            if isinstance(role, Role):
                self._audit(Ask("/login", {}, {}, {}, Visit(role, "", address_of(scope)), words)).line("log in")
                answer = see_other(_own_path(to))
                answer.headers.append("Set-Cookie", self.access.set_cookie(scope, self.access.begin(role)))
                return answer
            status, says = role.status, "token_many" if role.status == 429 else "token_wrong"
            wait_s = dict(role.headers).get(b"retry-after", b"").decode()
        elif self.access.open or not isinstance(self.access.visit(scope), Answer):
            return see_other(_own_path(to))
        is_plain = request.headers.get("x-forwarded-proto", scope["scheme"]) != "https"
        plain = is_plain and not is_loopback_host(host_of(scope))
        html = self._html("login.html", ask, says=says, wait_s=wait_s, to=to[:2000], plain=plain)
        answer = page(html, status)
        if wait_s:
            answer.headers["Retry-After"] = wait_s
        return self._with_language(request, answer)

    def log_out(self, ask: Ask) -> Response:
        if ask.visit.by_cookie:
            self.access.end(ask.visit)
        return see_other("/login")

    async def _static(self, request: Request) -> Response:
        return self.renderer.file(request.path_params["name"])

    # --- around all of them ---

    @staticmethod
    def _asked(request: Request) -> Ask:
        params = {
            key: name_of(value) if isinstance(value, str) else value for key, value in request.path_params.items()
        }
        visit, known = request.scope["visit"], request.headers.get("if-none-match", "")[:100]
        return Ask(request.url.path, params, request.query_params, {}, visit, words_of(request), known)

    def _get(self, view: Callable[[Ask], Response]) -> Callable[[Request], Any]:
        async def shown(request: Request) -> Response:
            ask = self._asked(request)
            return self._with_language(request, await run_in_threadpool(self._safely, view, ask))

        return shown

    def _post(self, view: Callable[[Ask], Response]) -> Callable[[Request], Any]:
        """Only with a form of our own that is fresh; that the read token changes nothing is for the guard to see."""

        async def done(request: Request) -> Response:
            ask = self._asked(request)
            try:
                ask = ask._replace(form=await form_of(request))
                if not self.access.is_fresh(ask.visit, ask.form.get("form", "")):
                    raise Trouble(403, "error_stale")
            except Trouble as trouble:
                return self._trouble(ask, trouble)
            return await run_in_threadpool(self._safely, view, ask)

        return done

    def _safely(self, view: Callable[[Ask], Response], ask: Ask) -> Response:
        try:
            return view(ask)
        except Trouble as trouble:
            return self._trouble(ask, trouble)
        except (UsageError, SpecErrors, Refused) as error:
            return self._trouble(ask, Trouble(422, "error_method"), says=str(error))
        except ConnectError as error:  # the store, the audit
            return self._trouble(ask, Trouble(503, "error_store"), says=str(error))
        except Exception as error:
            self.engine.telemetry.event("fault", where="pages", error=told(error))
            return self._trouble(ask, Trouble(500, "error_fault"))

    def _trouble(self, ask: Ask, trouble: Trouble, says: str = "") -> Response:
        html = self._html("trouble.html", ask, key=trouble.key, holes=trouble.holes, says=says)
        return page(html, trouble.status)

    def _page(self, name: str, ask: Ask, status: int = 200, **context: Any) -> Response:
        """The page, or with `part=live` only what changes in it."""
        part = f"{name}_live.html"
        if ask.text("part") == "live" and part in self.renderer.names:
            return live_part(self._html(part, ask, **context), ask.known, status)
        return page(self._html(f"{name}.html", ask, **context), status)

    def _html(self, template: str, ask: Ask, **context: Any) -> str:
        words, visit = ask.words, ask.visit
        language = words.language
        kept = {key: value for key, value in ask.query.items() if key not in ("part", "did")}
        return self.renderer.html(
            template,
            ask=ask,
            t=words,
            visit=visit,
            logged_in=visit is not NOBODY,
            form_token=self.access.form_token(visit),
            languages={tag: (name, urlencode({**kept, "lang": tag})) for tag, name in LANGUAGES.items()},
            now=self.clock(),
            history=self.history,
            lanes=self.lanes,
            lane_path=lane_path,
            connector_path=connector_path,
            client_path=client_path,
            n=lambda value: number(value, language),
            percent=lambda part, whole: percent(part, whole, language),
            since=moment(self.history.since, form="%Y-%m-%d %H:%M"),
            **context,
        )

    def _with_language(self, request: Request, answer: Response) -> Response:
        if (asked := request.query_params.get("lang")) in LANGUAGES:
            answer.headers.append(
                "Set-Cookie", f"{LANGUAGE_COOKIE}={asked}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Strict"
            )
        return answer

    def _back(self, path: str) -> Response:
        self._look = Look(float("-inf"), [])
        return see_other(path)

    def _audit(self, ask: Ask) -> Audit:
        return Audit(self.audit_file, who=ask.visit.who, clock=self.clock)


def lane_path(row: lanes_.Row) -> str:
    return f"/lane/{segment(row.lane.connector)}/{segment(row.lane.client)}"


def _lane_of(dead: Dead) -> dict[str, str]:
    return {"connector": dead.connector, "client": dead.client}


def _own_path(to: str) -> str:
    """Only a path of this side: no other host, however it is written."""
    parts = urlsplit(to)
    if parts.scheme or parts.netloc or not to.startswith("/") or to.startswith(("//", "/\\")) or not to.isprintable():
        return "/"
    return quote(parts.path, safe="/%") + (f"?{urlencode(parse_qsl(parts.query))}" if parts.query else "")


def _raw(headers: dict[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items())
