"""
A Python that has imported the libraries already and forks a process for each command.

What it forks is otherwise as `python -m engine.cli` is: the engine is imported anew, in the order the command asks for,
with an environment, a folder, streams and an exit code of its own. What a start imports is tested without it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LIBRARIES = (
    "asyncio", "babel.numbers", "click", "concurrent.futures", "cryptography.x509", "httpx", "jinja2.sandbox",
    "jmespath", "jsonschema_rs", "msgspec", "re2", "sqlite3", "starlette.applications", "structlog", "yaml", "zoneinfo",
)  # fmt: skip
MOST_S = 60
_ASKING = threading.Lock()
READ_AT_START = ("PYTHON", "LC_", "LANG")  # Python itself reads these, before anything is imported


@cache
def _starter(root: Path) -> socket.socket:
    ours, its = socket.socketpair()
    environment = {"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error", "PYTHONPATH": str(root)}
    null = subprocess.DEVNULL
    command = [sys.executable, __file__, str(its.fileno())]
    process = subprocess.Popen(command, stdin=null, stdout=null, pass_fds=[its.fileno()], env=environment)
    its.close()

    def end() -> None:
        ours.close()  # what it listens to
        process.wait(10)

    atexit.register(end)
    return ours


def can_start(environment: Mapping[str, str]) -> bool:
    """Whether nothing in it is read where Python starts."""
    return not any(name.startswith(READ_AT_START) for name in environment)


def run(
    args: Sequence[str], *, root: Path, cwd: Path, env: Mapping[str, str], stdin: bytes
) -> tuple[int, bytes, bytes]:
    """The exit code of `connect` with `args` and nothing but `env`, what it printed, and what it said on stderr."""
    asked = json.dumps({"args": list(args), "cwd": str(cwd), "env": dict(env)}).encode()
    reading, writing = os.pipe()
    with contextlib.ExitStack() as files:
        told = files.enter_context(os.fdopen(reading, "rb", buffering=0))
        ins, out, err = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        ins.write(stdin)
        ins.seek(0)
        with os.fdopen(writing, "wb") as telling, _ASKING:
            handed = [stream.fileno() for stream in (ins, out, err, telling)]
            socket.send_fds(_starter(root), [len(asked).to_bytes(4, "big")], handed)
            _starter(root).sendall(asked)
        pid = int(told.readline())
        if not select.select([told], [], [], MOST_S)[0]:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(args), MOST_S)
        code = int(told.readline())
        for stream in (out, err):
            stream.seek(0)
        return code, out.read(), err.read()


def _forked(asking: socket.socket) -> dict[str, object]:
    """What is asked, in the process that is to do it; the starter itself never returns."""
    while True:
        size, handed, _, _ = socket.recv_fds(asking, 4, 4)
        if not size:
            os._exit(0)
        asked = b""
        while len(asked) < int.from_bytes(size, "big"):
            asked += asking.recv(65_536)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asking.close()
            told = handed.pop()
            done = os.fork()
            if done == 0:
                os.close(told)
                for number, stream in enumerate(handed):
                    os.dup2(stream, number)
                    os.close(stream)
                return dict(json.loads(asked))
            for stream in handed:
                os.close(stream)
            os.write(told, b"%d\n" % done)
            code = os.waitstatus_to_exitcode(os.waitpid(done, 0)[1])
            with contextlib.suppress(BrokenPipeError):  # nobody waited so long
                os.write(told, b"%d\n" % code)
            os._exit(0)
        for stream in handed:
            os.close(stream)


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for the commands are waited for by nobody
    wanted = _forked(socket.socket(fileno=int(sys.argv[1])))
    os.chdir(str(wanted["cwd"]))
    os.environ.clear()
    os.environ.update(wanted["env"])  # type: ignore[call-overload]
    time.tzset()
    sys.path[0] = str(wanted["cwd"])
    sys.argv[1:] = wanted["args"]  # type: ignore[call-overload]
    runpy.run_module("engine.cli", run_name="__main__", alter_sys=True)
