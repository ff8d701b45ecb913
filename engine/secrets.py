"""References like `env:NAME` to the values behind them; a value is never repeated in a message."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import aws
from engine.errors import SecretUnavailable

if TYPE_CHECKING:
    from typing import NoReturn

FORMS = ("env:NAME", "file:PATH", "keyring:SERVICE/USER", "aws-secretsmanager:NAME#FIELD", "aws-ssm:/NAME")
OWN = "CONNECT_"
# Settings of the engine itself that are secrets: each may also be a reference to where its value is.
OWN_SECRETS = (
    "CONNECT_KEY",
    "CONNECT_ADMIN_TOKEN",
    "CONNECT_ADMIN_READ_TOKEN",
    "CONNECT_ALERT_WEBHOOKS",
    "CONNECT_ALERT_SECRET",
    "CONNECT_ALERT_SMTP",
)
CACHE_S = 300.0  # until keyring and AWS are asked again
AGAIN_S = 15.0  # until one is asked again that could not be had
FRESH_S = 30.0  # a value that is younger is not asked for again because a vendor refused it
MAX_FILE = 64 * 1024

_REFERENCE = (  # not compiled here: a start needs neither of them
    r"env:[A-Za-z_][A-Za-z0-9_]*|file:[^\0\n]+|keyring:[^/\n]+/[^\n]+|(aws-secretsmanager|aws-ssm):[^#\s]+(#[^#\s]+)?"
)
_OWN_REFERENCE = r"(file|keyring|aws-secretsmanager|aws-ssm):\S"
_SALT = b"daxgo-connect secrets v1"


def looks_literal(text: str) -> bool:
    """Whether a text that stands where a reference belongs is none: most likely the secret itself."""
    if text.startswith("env:") and text.isascii() and text[4:].isidentifier():  # most are: without the pattern below
        return False
    return re.fullmatch(_REFERENCE, text) is None


def fingerprint(values: Mapping[str, str]) -> str:
    """16 hex digits that change with any name or value; nothing can be read back from them."""
    digest = hashlib.sha256(_SALT)
    for name in sorted(values):
        for part in (name.encode(), values[name].encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


class SecretSources:
    """
    Values from the environment, files, the system's keyring and AWS; any thread may ask.

    A file is read again when it changes; keyring and AWS are asked again after five minutes, so a rotated secret
    needs no restart. `outside` allows files that lie outside the project, such as /run/secrets/NAME. `keyring` and
    `aws` stand in for the libraries: `get_password`, and (service, region) -> a client of boto3.
    """

    def __init__(
        self,
        project_dir: Path,
        env: Mapping[str, str],
        *,
        outside: bool = False,
        clock: Callable[[], float] = time.monotonic,
        keyring: Callable[[str, str], str | None] | None = None,
        aws: Callable[[str, str | None], Any] = aws.client,
    ) -> None:
        self._project = project_dir.resolve()
        self._env = env
        self._outside = outside
        self._clock = clock
        self._keyring = keyring
        self._aws = aws
        self._files: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._fetched: dict[str, _Fetched] = {}
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
                _, field = _parts(reference)
                text = self._fetch(_source(reference), lambda: self._from_aws(_source(reference)))
                value = _field_of(text, field, reference) if field else text
        if not value:
            _unavailable(reference, "it is empty")
        return value

    def forget(self, reference: str) -> None:
        """A vendor refused the value: the source is asked anew when it is next wanted, unless it was just now."""
        known = self._fetched.get(_source(reference))
        if known is not None and self._clock() - known.at >= FRESH_S:
            self._fetched.pop(_source(reference), None)

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

    def _from_aws(self, source: str) -> str:
        scheme, _, name = source.partition(":")
        service, action, kind = _SERVICES[scheme]
        try:
            client = self._aws(service, aws.region_of(name))
            if service == "ssm":
                return str(client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
            reply = client.get_secret_value(SecretId=name)
            return str(reply["SecretString"]) if "SecretString" in reply else bytes(reply["SecretBinary"]).decode()
        except ImportError:
            _unavailable(source, "install daxgo-connect[aws]")
        except UnicodeDecodeError:
            _unavailable(source, "it is binary and not UTF-8 text; keep it as text, such as base64")
        except Exception as error:
            why = aws.told(error, action=action, resource=name if name.startswith("arn:") else f"{kind} {name}")
            raise _Failed(f"{source}: {why}", for_good=aws.is_refusal(error)) from None

    def _fetch(self, source: str, ask: Callable[[], str]) -> str:
        """From the cache, or asked for; a source that is down for a while serves its last value on."""
        with self._fetching.setdefault(source, threading.Lock()):
            known, now = self._fetched.get(source), self._clock()
            if known is not None and now < known.until:
                if known.value is None:
                    raise SecretUnavailable(known.why)
                return known.value
            last = known.value if known is not None else None
            try:
                value = ask()
            except SecretUnavailable as error:
                if last is None or not isinstance(error, _Failed) or error.for_good:
                    self._fetched[source] = _Fetched(now, now + AGAIN_S, None, str(error))
                    raise SecretUnavailable(str(error)) from None
            except Exception as error:  # a back end of the keyring raises classes of its own
                if last is None:
                    raise SecretUnavailable(f"{source}: {type(error).__name__}") from None
            else:
                self._fetched[source] = _Fetched(now, now + CACHE_S, value)
                return value
            self._fetched[source] = _Fetched(now, now + AGAIN_S, last)
            assert last is not None
            return last


class OwnSettings(Mapping[str, str]):
    """
    The environment, with the engine's own secrets looked up where they are references (OWN_SECRETS).

    They are looked up when they are asked for. SecretUnavailable names the variable and the reference.
    """

    def __init__(self, env: Mapping[str, str], project_dir: Path, **sources: Any) -> None:
        self._env = env
        self._sources = SecretSources(project_dir, env, outside=True, **sources)

    def __getitem__(self, name: str) -> str:
        value = self._env[name]
        if name not in OWN_SECRETS or re.match(_OWN_REFERENCE, value) is None:
            return value
        try:
            return self._sources.resolve(value)
        except SecretUnavailable as error:
            raise SecretUnavailable(f"{name}: {error}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._env)

    def __len__(self) -> int:
        return len(self._env)


class _Fetched(NamedTuple):
    at: float
    until: float
    value: str | None  # None: it could not be had
    why: str = ""


class _Failed(SecretUnavailable):
    """AWS did not give it; `for_good`: an older value is no longer to be used either."""

    def __init__(self, text: str, *, for_good: bool) -> None:
        super().__init__(text)
        self.for_good = for_good


_SERVICES = {  # of boto3; what the process has to be allowed; on what
    "aws-secretsmanager": ("secretsmanager", "secretsmanager:GetSecretValue", "the secret"),
    "aws-ssm": ("ssm", "ssm:GetParameter", "the parameter"),
}


def _parts(reference: str) -> tuple[str, str]:
    """(what is asked for, the field of it)."""
    name, _, field = reference.partition("#")
    return name, field


def _source(reference: str) -> str:
    """What is fetched for it: fields of one secret share that."""
    return _parts(reference)[0] if reference.startswith("aws-") else reference


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


def _system_keyring(reference: str) -> Callable[[str, str], str | None]:
    try:
        import keyring
    except ImportError:
        _unavailable(reference, "install daxgo-connect[keyring]")
    get: Callable[[str, str], str | None] = keyring.get_password
    return get
