"""The door and the admin side on sockets of their own, until a signal; then requests in flight are finished."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from engine.door import listening
from engine.door.access import Access
from engine.door.admin import admin_app
from engine.door.events import Door, Limits
from engine.door.listening import is_loopback
from engine.errors import UsageError
from engine.telemetry.log import NullTelemetry

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute

    from engine.door.admin import Admin, Pages
    from engine.door.asgi import App
    from engine.door.events import Front
    from engine.door.listening import Stop
    from engine.ports import Telemetry, Traces

PREPARE_S = 0.5  # after the start, until what takes long to load is loaded, if nobody has asked for it before
NEEDS_TOKEN = "give it a token (CONNECT_ADMIN_TOKEN), or bind it to 127.0.0.1"


def serve(
    front: Front,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    admin_port: int | None = None,
    admin_host: str = "127.0.0.1",
    admin_token: str | None = None,
    access: Access | None = None,
    pages: Callable[[], Pages] | None = None,
    admin_routes: Sequence[BaseRoute] = (),
    on_ready: Callable[[int, int], None] | None = None,
    stop: Stop | None = None,
    telemetry: Telemetry | None = None,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
    traces: Traces | None = None,
) -> None:
    """
    Serve until SIGTERM, SIGINT or `stop`; then finish the requests in flight and return.

    Port 0 takes a free one; `on_ready` is told both ports once they answer (the second is 0 where there is no admin
    side). The admin side is on a port of its own, or nowhere. `access` says who may look there; without it the token
    does. `pages` makes those for people, after the start; `admin_routes` are Starlette routes behind the same guard.
    Raises UsageError for a port that is taken, and for an admin side that is open to others without a token.
    """
    stop, limits, telemetry = stop or threading.Event(), limits or Limits(), telemetry or NullTelemetry()
    admin: Admin | None = None
    if admin_port is not None:
        access = access or Access(admin_token, clock=clock)
        if access.open and not is_loopback(admin_host):
            raise UsageError(f"the admin side on {admin_host} is open to others: {NEEDS_TOKEN}")
        admin = admin_app(front, access=access, routes=admin_routes, pages=pages, telemetry=telemetry, clock=clock)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(limits.direct_workers, thread_name_prefix="direct"))
        beside = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="large"))
        door = Door(front, limits=limits, pool=pool, beside=beside, telemetry=telemetry, clock=clock, traces=traces)
        apps: list[tuple[App, socket.socket]] = [(door, stack.enter_context(listening.listen(host, port)))]
        if admin is not None and admin_port is not None:
            apps.append((admin, stack.enter_context(listening.listen(admin_host, admin_port))))
        ports = [sock.getsockname()[1] for _, sock in apps]

        def ready() -> None:
            if on_ready is not None:
                on_ready(ports[0], ports[-1] if admin is not None else 0)
            if admin is not None:
                later = threading.Timer(PREPARE_S, admin.prepare)
                later.daemon = True
                later.start()
                stack.callback(later.cancel)

        listening.run(apps, stop=stop, grace_s=limits.grace_s, ready=ready)
