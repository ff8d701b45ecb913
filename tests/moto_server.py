"""moto's server in a thread, made to cost the tests less: what AWS is, is read once."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer


@cache
def _read_once() -> None:
    """Every session of botocore's, and there is one for each store, reads the same files; here they share a reader."""
    import botocore.loaders
    import botocore.session

    reader = botocore.loaders.create_loader()

    def shared(search_path_string: str | None = None) -> Any:
        return botocore.loaders.create_loader(search_path_string) if search_path_string else reader

    botocore.session.create_loader = shared


@cache
def _cheaper() -> None:
    """moto does not list its folder for each request."""
    import moto.backends

    modules = tuple(moto.backends.list_of_moto_modules())
    moto.backends.list_of_moto_modules = lambda: modules


def started() -> ThreadedMotoServer:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    _read_once()
    _cheaper()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    return server
