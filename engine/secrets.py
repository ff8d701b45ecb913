"""References like `env:NAME` to the values behind them; a value is never repeated in a message."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import SecretUnavailable

if TYPE_CHECKING:
    from typing import NoReturn

FORMS = ("env:NAME", "file:PATH", "keyring:SERVICE/USER", "aws-secretsmanager:NAME#FIELD")
OWN = "CONNECT_"
CACHE_S = 300.0
MAX_FILE = 64 * 1024

_REFERENCE = re.compile(
    r"env:[A-Za-z_][A-Za-z0-9_]*|file:[^\0\n]+|keyring:[^/\n]+/[^\n]+|aws-secretsmanager:[^#\s]+(#[^#\s]+)?"
)
_REFUSALS = {"ResourceNotFoundException", "AccessDeniedException", "InvalidRequestException", "DecryptionFailure"}
_SALT = b"daxgo-connect secrets v1"


def looks_literal(text: str) -> bool:
    """Whether a text that stands where a reference belongs is none: most likely the secret itself."""
    return _REFERENCE.fullmatch(text) is None


def fingerprint(values: Mapping[str, str]) -> str:
    """16 hex digits that change with any name or value; nothing can be read back from them."""
    digest = hashlib.sha256(_SALT)
    for name in sorted(values):
        for part in (name.encode(), values[name].encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


class SecretSources:
    """
    Values from the environment, files, the system's keyring and AWS Secrets Manager; any thread may ask.

    A file is read again when it changes; keyring and AWS are asked again after five minutes, so a rotated secret
    needs no restart. `outside` allows files that lie outside the project, such as /run/secrets/NAME. `keyring` and
    `aws` stand in for the libraries' `get_password` and Secrets Manager client.
    """

    def __init__(
        self,
        project_dir: Path,
        env: Mapping[str, str],
        *,
        outside: bool = False,
        clock: Callable[[], float] = time.monotonic,
        keyring: Callable[[str, str], str | None] | None = None,
        aws: Any = None,
    ) -> None:
        self._project = project_dir.resolve()
        self._env = env
        self._outside = outside
        self._clock = clock
        self._keyring = keyring
        self._aws = aws
        self._files: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._fetched: dict[str, tuple[float, str]] = {}
        self._fetching: dict[str, threading.Lock] = {}  # one that is slow to answer keeps no other waiting

    def resolve(self, reference: str) -> str:
        """The value; SecretUnavailable names the reference, unless that may be the secret itself."""
        if looks_literal(reference):
            raise SecretUnavailable(f"a secret is given as one of {', '.join(FORMS)}; what stands here is none of them")
        scheme, _, rest = reference.partition(":")
        match scheme:
            case "env":
                value = self._from_env(rest)
            case "file":
                value = self._from_file(rest)
            case "keyring":
                value = self._fetch(reference, lambda: self._from_keyring(rest))
            case _:
                name, _, field = rest.partition("#")
                text = self._fetch(f"{scheme}:{name}", lambda: self._from_aws(name))
                value = _field_of(text, field, reference) if field else text
        if not value:
            _unavailable(reference, "it is empty")
        return value

    def note(self, reference: str) -> str:
        """What is unsafe about where a secret lies, or an empty text."""
        if not reference.startswith("file:"):
            return ""
        path = self._path(reference.removeprefix("file:"))
        readable = path.is_file() and path.stat().st_mode & stat.S_IROTH
        return f"{reference}: every user of this machine can read it; chmod 600" if readable else ""

    def _from_env(self, name: str) -> str:
        if name.startswith(OWN):  # whoever writes a client file would have the key to the tokens of all clients
            _unavailable(f"env:{name}", f"variables that begin with {OWN} are the engine's own; use another name")
        value = self._env.get(name)
        return value if value is not None else _unavailable(f"env:{name}", f"set the environment variable {name}")

    def _from_file(self, name: str) -> str:
        path = self._path(name)
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                _unavailable(f"file:{name}", "it is not a regular file")
            if found.st_size > MAX_FILE:
                _unavailable(f"file:{name}", f"it has more than {MAX_FILE} bytes")
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            known = self._files.get(path)
            if known is None or known[0] != mark:
                known = self._files[path] = (mark, _last_newline_off(path.read_bytes().decode()))
        except OSError as error:
            _unavailable(f"file:{name}", os.strerror(error.errno) if error.errno else "it can't be read")
        except UnicodeDecodeError:
            _unavailable(f"file:{name}", "it is not UTF-8 text")
        return known[1]

    def _path(self, name: str) -> Path:
        path = (self._project / name).resolve()
        if not self._outside and not path.is_relative_to(self._project):
            _unavailable(f"file:{name}", "it lies outside the project, which has to be allowed")
        return path

    def _from_keyring(self, rest: str) -> str:
        service, _, user = rest.rpartition("/")
        get = self._keyring or _system_keyring(f"keyring:{rest}")
        value = get(service, user)
        return value if value is not None else _unavailable(f"keyring:{rest}", f"run `keyring set {service} {user}`")

    def _from_aws(self, name: str) -> str:
        if self._aws is None:
            self._aws = _secrets_manager(f"aws-secretsmanager:{name}")
        reply = self._aws.get_secret_value(SecretId=name)
        return str(reply["SecretString"]) if "SecretString" in reply else bytes(reply["SecretBinary"]).decode()

    def _fetch(self, reference: str, ask: Callable[[], str]) -> str:
        """From the cache, or asked for; a source that is down for a while serves its last value on."""
        with self._fetching.setdefault(reference, threading.Lock()):
            known = self._fetched.get(reference)
            if known is not None and self._clock() < known[0]:
                return known[1]
            try:
                value = ask()
            except SecretUnavailable:
                self._fetched.pop(reference, None)
                raise
            except Exception as error:  # boto3 and keyring back ends raise classes of their own
                code = _aws_code(error)
                if known is None or code in _REFUSALS:
                    self._fetched.pop(reference, None)
                    raise SecretUnavailable(f"{reference}: {code or type(error).__name__}") from None
                value = known[1]
            self._fetched[reference] = (self._clock() + CACHE_S, value)
            return value


def _unavailable(reference: str, why: str) -> NoReturn:
    raise SecretUnavailable(f"{reference}: {why}")


def _last_newline_off(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _field_of(text: str, field: str, reference: str) -> str:
    try:
        values = json.loads(text, parse_float=str, parse_int=str)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        _unavailable(reference, f"the secret is not a JSON object, so it has no field {field}")
    value = values.get(field)
    if not isinstance(value, str):
        _unavailable(reference, f"the secret's JSON has no text {field}")
    return value


def _aws_code(error: Exception) -> str:
    reply = getattr(error, "response", None)
    return str(reply.get("Error", {}).get("Code", "")) if isinstance(reply, dict) else ""


def _system_keyring(reference: str) -> Callable[[str, str], str | None]:
    try:
        import keyring
    except ImportError:
        _unavailable(reference, "install daxgo-connect[keyring]")
    get: Callable[[str, str], str | None] = keyring.get_password
    return get


def _secrets_manager(reference: str) -> Any:
    try:
        import boto3
        from botocore.config import Config  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        _unavailable(reference, "install daxgo-connect[aws]")
    return boto3.client(
        "secretsmanager", config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 3})
    )
