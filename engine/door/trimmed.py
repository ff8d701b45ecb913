"""
The parts of uvicorn that serve, without what it imports besides: its command, which brings what restarts processes and
watches files, and what reads settings of logs. That is a seventh of what a start of `serve` takes.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType

if "uvicorn" not in sys.modules and threading.active_count() == 1:  # another thread could import a stand-in meanwhile
    _unused = {"uvicorn.main": ("Server", "main", "run"), "logging.config": (), "configparser": ("RawConfigParser",)}
    _absent = [name for name in _unused if name not in sys.modules]
    for _name in _absent:
        sys.modules[_name] = _stand_in = ModuleType(_name)
        vars(_stand_in).update(dict.fromkeys(_unused[_name]))
    try:
        import uvicorn
        import uvicorn.server

        vars(uvicorn)["Server"] = uvicorn.server.Server
    except (ImportError, AttributeError):  # a version that asks more of them is imported whole, below
        pass
    finally:
        for _name in _absent:  # whoever wants one later has the real one
            del sys.modules[_name]

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
