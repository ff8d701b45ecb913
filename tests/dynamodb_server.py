"""
A DynamoDB of the tests' own, on a free loopback port: moto's server always, and Amazon's DynamoDB Local where it is.

`make dynamodb` fetches DynamoDB Local into .cache/dynamodb; it needs Java 17.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import moto_server

CHOSEN = "CONNECT_TEST_DYNAMODB"  # the address of a server to be used instead of moto's
LOCAL = Path(__file__).parent.parent / ".cache/dynamodb/lib"
REGION = "sa-east-1"
_NUMBERS = count(1)


def credentials() -> None:
    """Any will do for these servers, but there have to be some."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "tests")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "tests")


@cache
def shared() -> str:
    """The address of the server that most tests use."""
    credentials()
    return os.environ.get(CHOSEN) or moto()


def moto() -> str:
    """A server of moto's in this process."""
    _one_at_a_time()
    server = moto_server.started()
    atexit.register(server.stop)
    return "http://{}:{}".format(*server.get_host_and_port())


@cache
def _one_at_a_time() -> None:
    """A transaction of moto's copies whole tables, and puts the copies back if it fails: nobody may write meanwhile."""
    from moto.dynamodb.responses import DynamoHandler

    gate, call = threading.Lock(), DynamoHandler.call_action

    def alone(handler: DynamoHandler) -> Any:
        with gate:
            return call(handler)

    DynamoHandler.call_action = alone  # type: ignore[method-assign]


def why_no_local() -> str | None:
    """Why DynamoDB Local can't be started here, or None."""
    if shutil.which("java") is None:
        return "java is not here"
    if not list(LOCAL.glob("DynamoDBLocal-*.jar")):
        return "DynamoDB Local is not in .cache/dynamodb; `make dynamodb` does it"
    return None


@cache
def local() -> str:
    """DynamoDB Local in a process of its own, that ends with this one."""
    credentials()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    main = "com.amazonaws.services.dynamodbv2.local.main.ServerRunner"
    command = ["java", f"-Djava.library.path={LOCAL}", "-Xmx512m", "-cp", f"{LOCAL}/*", main]
    command += ["-inMemory", "-disableTelemetry", "-port"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*command, str(port)], stdout=quiet, stderr=quiet, cwd=LOCAL.parent)

    def end() -> None:
        process.terminate()
        process.wait(10)

    atexit.register(end)
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return f"http://127.0.0.1:{port}"
        time.sleep(0.1)
    raise AssertionError("DynamoDB Local did not start within 60 s")


def new_name() -> str:
    return f"connect-{os.getpid()}-{next(_NUMBERS)}-{uuid.uuid4().hex[:6]}"


def url(endpoint: str, name: str | None = None, *, create: bool = True) -> str:
    """Of a store in a table of its own."""
    asked = {"region": REGION, "endpoint": endpoint, **({"create": "1"} if create else {})}
    return f"dynamodb://{name or new_name()}?{urlencode(asked)}"
