"""The parts of uvicorn that serve, without its command: that brings what restarts processes and watches files."""

from __future__ import annotations

import sys
from types import ModuleType

# uvicorn's package imports its command whatever part is asked for: a tenth of what a start of `serve` takes.
if "uvicorn" not in sys.modules:
    sys.modules["uvicorn.main"] = _stand_in = ModuleType("uvicorn.main")
    vars(_stand_in).update(Server=None, main=None, run=None)
    import uvicorn
    import uvicorn.server

    del sys.modules["uvicorn.main"]
    vars(uvicorn)["Server"] = uvicorn.server.Server

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HEADER_VALUE_RE, STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server

__all__ = [
    "HEADER_VALUE_RE",
    "HIGH_WATER_LIMIT",
    "STATUS_LINE",
    "Config",
    "HttpToolsProtocol",
    "RequestResponseCycle",
    "Server",
]
