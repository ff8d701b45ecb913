"""
The exchanges of an example over real HTTP, recorded once by vcrpy and played offline ever after.

    tests/cassettes/CONNECTOR/EXAMPLE.yaml    from what it was recorded, what became of the events, the exchanges

It is recorded from the connector's own sandbox on a loopback port, on a virtual clock, or from the vendor itself with a
client's secrets. What is written down has been scrubbed first, requests and replies; while it is played the engine's
requests are scrubbed alike, so that only what is no secret is compared.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import unicodedata
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
import yaml

from engine.authoring.examples import Trial, Unlike, brief, client_of, secrets_of, shown, unlike
from engine.clock import VirtualClock
from engine.egress import PUBLIC
from engine.errors import ConnectError, UsageError
from engine.http import NoReply, Prepared
from engine.program import overlay
from engine.sandbox import Sandbox, application
from engine.sending import HttpTransport, Masker, maskable
from engine.spec import types, units
from engine.wire import new_nonce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from engine.egress import Egress
    from engine.http import Reply
    from engine.ports import Clock
    from engine.program import Program
    from engine.sending import Transport

FOLDER = ("tests", "cassettes")
SIMULATED_WAIT_S = 3600.0  # what would be sent later than that is `waiting`
VENDOR_WAIT_S = 60.0  # of real time
MOST = 200  # exchanges of one example
MARK = "scrubbed"
TELLER = "the cassette"
DROPPED = {"accept-encoding", "connection", "content-length", "host", "user-agent"}
DROPPED_OF_REPLY = {"connection", "content-encoding", "content-length", "date", "server", "transfer-encoding"}
CREDENTIALS = {"authorization", "cookie", "proxy-authorization"}
SECRET_NAMES = r"[\w.-]*(?:token(?!_?type)|secret|passw|session|signature|assertion|api_?key|jwt|nonce)[\w.-]*"
_JWT = re.compile(r"eyJ[\w-]{6,}\.eyJ[\w-]*(?:\.[\w-]*)?")


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cassette says besides its exchanges; `recorded_from` is its first line."""

    recorded_from: str
    connector: str
    example: str
    started_at: float  # when the events came in, in seconds since 1970
    outcomes: dict[str, list[str]]
    answered: list[int] = []
    client: str | None = None  # whose settings were used, where it was recorded from the vendor

    @property
    def patience_s(self) -> float:
        return VENDOR_WAIT_S if self.client is not None else SIMULATED_WAIT_S


class Account(NamedTuple):
    """A client of the project, whose account at the vendor is used."""

    client: types.Client
    secrets: Callable[[Program], dict[str, str]]


class Recorded(NamedTuple):
    """A cassette as text, and what it holds in short."""

    text: str
    header: Header
    exchanges: int


# --- names ---


def slug(name: str) -> str:
    """`A view becomes a conversion` -> `a-view-becomes-a-conversion`; whole words, as many as 40 characters hold."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return words[: words.rfind("-", 0, 41) if "-" in words[:41] else 40] if len(words) > 40 else words or "example"


def files_of(directory: Path, connector: types.Connector) -> list[Path]:
    """Where the cassette of each example is, in the order of the examples; equal names are numbered."""
    folder, taken, found = directory.joinpath(*FOLDER, connector.name), set[str](), []
    for example in connector.examples:
        base = slug(example.name)
        numbered = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        name = next(name for name in numbered if name not in taken)
        taken.add(name)
        found.append(folder / f"{name}.yaml")
    return found


def strangers(directory: Path, connector: types.Connector) -> list[Path]:
    """Cassettes that belong to no example any more; files of other kinds are none."""
    folder = directory.joinpath(*FOLDER, connector.name)
    others = sorted(set(folder.glob("*.yaml")) - set(files_of(directory, connector)))
    return [file for file in others if file.read_bytes().startswith(b"recorded_from: ")]


def keep(file: Path, text: str) -> None:
    """Write a cassette whole or not at all; one that differs only in its first line, the date, stays as it is."""
    try:
        old = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        if old and old.partition("\n")[2] == text.partition("\n")[2] and kind_of(old) == kind_of(text):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(file)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None


def kind_of(text: str) -> str:
    """The first line without its date."""
    return text.partition("\n")[0].rpartition(",")[0]


# --- what must not be written down ---


class Keeping(Masker):
    """A masker that forgets nothing: what is scrubbed at the end has seen every token of the run."""

    def renew(self, name: str, *values: object) -> None:
        del name
        self.add(*values)


class Scrubber:
    """Takes secrets and tokens out of requests and replies, in all forms that the masker knows, and by their place."""

    def __init__(self, masker: Masker, program: Program) -> None:
        self.masker = masker
        tokens = [auth.spec.token for auth in program.auths.values() if auth.spec.token is not None]
        placed = [*(auth.spec.place for auth in program.auths.values()), *(token.place for token in tokens)]
        self.headers = CREDENTIALS | {name.lower() for place in placed for name in place.headers}
        self.query = [re.escape(name) for place in placed for name in place.query]
        self.body_fields = [re.escape(name) for place in placed for name in (*place.form, *place.json)]

    def text(self, text: str, names: Sequence[str] = ()) -> str:
        """Secrets and tokens anywhere; and what is called like one of `names`, in a form, a query or JSON."""
        text = _JWT.sub(MARK, self.masker.mask(text).replace("***", MARK))
        if names:
            named = "|".join(names)
            text = re.sub(rf'("(?:{named})"\s*:\s*)"(?:[^"\\]|\\.)*"', rf'\1"{MARK}"', text, flags=re.IGNORECASE)
            text = re.sub(rf"((?:^|[?&])(?:{named})=)[^&#\s]*", rf"\1{MARK}", text, flags=re.IGNORECASE)
        return text

    def body(self, content: bytes | None, names: Sequence[str]) -> bytes:
        raw = content or b""
        try:
            return self.text(raw.decode(), names).encode()
        except UnicodeDecodeError:
            return self.text(raw.decode("latin-1"), names).encode("latin-1", "replace")

    def request(self, request: Prepared) -> Prepared:
        of_log_in = [SECRET_NAMES] if request.purpose == "auth" else []
        headers = {
            name.lower(): MARK if name.lower() in self.headers else self.text(value)
            for name, value in request.headers.items()
            if name.lower() not in DROPPED
        }
        return msgspec.structs.replace(
            request,
            url=self.text(request.url, [*self.query, *of_log_in]),
            headers=dict(sorted(headers.items())),
            content=self.body(request.content, [*self.body_fields, *of_log_in]),
        )

    def reply(self, reply: dict[str, Any], *, log_in: bool) -> dict[str, Any]:
        """A response as vcrpy keeps it."""
        headers = {
            name.lower(): [self.cookie(value) if name.lower() == "set-cookie" else self.text(value) for value in values]
            for name, values in reply["headers"].items()
            if name.lower() not in DROPPED_OF_REPLY
        }
        body = self.body(reply["body"]["string"], [SECRET_NAMES] if log_in else [])
        return {"status": reply["status"], "headers": headers, "body": {"string": body}}

    def cookie(self, value: str) -> str:
        """Its value is a credential; its name and attributes are not."""
        return self.text(re.sub(r"\A([^=;]+)=[^;]*", rf"\1={MARK}", value))

    def require_clean(self, text: str, secrets: Mapping[str, str]) -> None:
        """ConnectError if something in this YAML is a secret still, such as the name of the example."""

        def texts(value: Any) -> Iterator[str]:
            if isinstance(value, dict):
                for key, inner in value.items():
                    yield str(key)
                    yield from texts(inner)
            elif isinstance(value, list):
                for inner in value:
                    yield from texts(inner)
            else:
                yield value.decode("latin-1") if isinstance(value, bytes) else str(value)

        found = [one for one in (text, *texts(yaml.safe_load(text))) if self.masker.mask(one) != one]
        if found:
            names = [name for name, value in secrets.items() if any(Masker([value]).mask(one) != one for one in found)]
            what = f"the secret {names[0]}" if names else "a token"
            raise ConnectError(f"the cassette would hold {what}, so it was not written")


# --- recording ---


class Tap:
    """A transport that remembers what went through; no answer ends the recording."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.sent: list[Prepared] = []
        self.wrong: str | None = None

    def send(self, request: Prepared) -> Reply:
        if len(self.sent) >= MOST:
            self.fail(f"more than {MOST} exchanges")
        self.sent.append(request)
        try:
            return self.transport.send(request)
        except NoReply as error:
            self.fail(f"exchange {len(self.sent)}, {request.method} {urlsplit(request.url).path}: {error.reason}")
            raise

    def fail(self, text: str) -> None:
        self.wrong = self.wrong or text
        raise Unlike(text)


class Reel:
    """vcrpy's persister: hands over what is recorded, and gives out what is to be played."""

    def __init__(self, requests: list[Any] | None = None, responses: list[Any] | None = None) -> None:
        self.requests, self.responses = requests or [], responses or []
        self.full = requests is not None

    def load_cassette(self, _path: str, serializer: Any) -> tuple[list[Any], list[Any]]:
        from vcr.persisters.filesystem import CassetteNotFoundError

        del serializer
        if not self.full:
            raise CassetteNotFoundError
        return self.requests, self.responses

    def save_cassette(self, _path: str, kept: dict[str, Any], serializer: Any) -> None:
        del serializer
        self.requests, self.responses = kept["requests"], kept["responses"]


class Written:
    """vcrpy's serializer: its YAML below our header, one line for each text."""

    def __init__(self, header: Header | None = None) -> None:
        self.header = header

    def serialize(self, cassette: dict[str, Any]) -> str:
        assert self.header is not None
        said = {name: value for name, value in msgspec.to_builtins(self.header).items() if value not in (None, [])}
        return yaml.safe_dump({**said, **cassette}, sort_keys=False, allow_unicode=True, width=10_000_000)

    def deserialize(self, text: str) -> dict[str, Any]:
        found = yaml.safe_load(text)
        if not isinstance(found, dict) or not isinstance(found.get("interactions"), list):
            raise ValueError("it has no interactions")
        self.header = msgspec.convert(
            {name: found.pop(name) for name in Header.__struct_fields__ if name in found}, Header
        )
        return found


@contextmanager
def tape(reel: Reel, *, record: bool) -> Iterator[None]:
    """Within it, httpx is recorded, or answered from the reel in its order and without a network."""
    vcr = library()
    recorder = vcr.VCR(record_mode="all" if record else "none", match_on=(), decode_compressed_response=True)
    recorder.register_persister(reel)
    with recorder.use_cassette("reel"):
        yield


def library() -> Any:
    try:
        import vcr
    except ImportError:
        raise UsageError("cassettes need vcrpy: pip install 'daxgo-connect[cassettes]'") from None
    return vcr


@contextmanager
def served(sandbox: Sandbox, now: Callable[[], float]) -> Iterator[str]:
    """The sandbox on a free port of this machine."""
    from engine.door.listening import listen, run

    sock, stop, ready = listen("127.0.0.1", 0), threading.Event(), threading.Event()
    address = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = threading.Thread(
        target=run,
        args=([(application([sandbox], now), sock)],),
        kwargs={"stop": stop, "grace_s": 1.0, "ready": ready.set},
        name="sandbox",
    )
    server.start()
    try:
        if not ready.wait(10):
            raise UsageError("the sandbox did not start")
        yield address
    finally:
        stop.set()
        server.join()


def record(
    connector: types.Connector,
    example: types.Example,
    *,
    clock: Clock,
    via: str | None = None,
    account: Account | None = None,
    reach: Egress = PUBLIC,
) -> Recorded:
    """
    The events of an example against its sandbox, what stands at `via`, or the vendor with a client's `account`.

    `clock` gives the date and, for the vendor, the time; all else runs on a virtual clock. Raises Unlike where
    something did not answer or a refused event was not refused.
    """
    today = datetime.fromtimestamp(clock.now(), UTC).date()
    if account is not None:

        def vendor(hosts: str) -> str:
            return f"VENDOR: {hosts or connector.title}, {today}"

        return film(connector, example, HttpTransport(None, reach), vendor, clock=clock, account=account)
    virtual = VirtualClock()
    if via is not None:
        simulated = f"SIMULATED: {via} for the vendor, {today}"
        return film(connector, example, HttpTransport(via), lambda _: simulated, clock=virtual)
    if connector.sandbox is None:
        raise UsageError(f"{connector.name} has no sandbox; give --via URL, or --vendor --client NAME")
    count = itertools.count(1)
    sandbox = Sandbox(connector, new_id=lambda: f"{next(count)}")
    sandbox.require_sound()
    simulated = f"SIMULATED: the sandbox of connector {connector.name}, {today}"
    with served(sandbox, virtual.now) as address:
        return film(connector, example, HttpTransport(address), lambda _: simulated, clock=virtual)


def film(
    connector: types.Connector,
    example: types.Example,
    transport: HttpTransport,
    source: Callable[[str], str],
    *,
    clock: Clock,
    account: Account | None = None,
) -> Recorded:
    """Run and record; `source` makes the first line of the hosts that were spoken to."""
    tap, masker, reel = Tap(transport), Keeping(), Reel()
    trial = trial_of(connector, example, tap, clock, masker, account)
    if account is not None:
        require_long(trial.secrets)
    lead = lead_s(trial.program) if account is not None else 0.0
    started_at = float(int(clock.now() - lead))
    try:
        with tape(reel, record=True):
            play(trial, tap, started_at, VENDOR_WAIT_S if account is not None else SIMULATED_WAIT_S)
    finally:
        transport.close()
    if len(tap.sent) != len(reel.responses):
        raise Unlike(f"{len(tap.sent)} requests were sent and {len(reel.responses)} recorded")
    scrubber = Scrubber(masker, trial.program)
    requests = [scrubber.request(request) for request in tap.sent]
    replies = [
        scrubber.reply(reply, log_in=request.purpose == "auth")
        for request, reply in zip(tap.sent, reel.responses, strict=True)
    ]
    header = Header(
        recorded_from=source(", ".join(dict.fromkeys(urlsplit(request.url).netloc for request in requests))),
        connector=connector.name,
        example=example.name,
        started_at=started_at,
        outcomes=kinds(trial),
        answered=trial.answered,
        client=account.client.client if account is not None else None,
    )
    text = spelled(header, requests, replies)
    scrubber.require_clean(text, trial.secrets)
    return Recorded(text, header, len(requests))


def require_long(secrets: Mapping[str, str]) -> None:
    """UsageError for a secret that the masker can't tell from other text."""
    short = [name for name, value in secrets.items() if value and not maskable([value])]
    if short:
        raise UsageError(
            f"the secret {short[0]} is too short to be found in a cassette; it has to have four characters"
        )


def spelled(header: Header, requests: list[Prepared], replies: list[dict[str, Any]]) -> str:
    library()
    from vcr.request import Request
    from vcr.serialize import serialize

    kept = [Request(one.method, one.url, one.content, one.headers) for one in requests]
    return str(serialize({"requests": kept, "responses": replies}, Written(header)))


def trial_of(
    connector: types.Connector,
    example: types.Example,
    transport: Transport,
    clock: Clock,
    masker: Masker,
    account: Account | None,
) -> Trial:
    client, secrets = client_of(connector, example), lambda _: secrets_of(connector, example)
    if account is not None:
        client, secrets = of_account(connector, example, account.client), account.secrets
    nonce = new_nonce if account is not None else None
    return Trial(
        connector,
        example,
        client=client,
        secrets=secrets,
        transport=transport,
        clock=clock,
        masker=masker,
        nonce=nonce,
    )


def of_account(connector: types.Connector, example: types.Example, client: types.Client) -> types.Client:
    """The client with the actions, tables and limits that the example is about; its own settings stay."""
    own, about = client.connectors[connector.name], client_of(connector, example).connectors[connector.name]
    binding = msgspec.structs.replace(
        own,
        actions=overlay(own.actions, about.actions),
        tables=overlay(own.tables, about.tables),
        limits={**own.limits, **about.limits},
        match=about.match,
    )
    return msgspec.structs.replace(client, connectors={connector.name: binding})


def lead_s(program: Program) -> float:
    """How long the batches of this program wait for others to join them."""
    batches = [action.spec.batch for action in program.actions.values() if action.spec.batch is not None]
    return max((units.duration(batch.wait) for batch in batches), default=0.0)


def play(trial: Trial, tap: Tap, started_at: float, patience_s: float) -> None:
    """Take the events in, let their batches be full, and carry them until what is left waits longer than that."""

    def step(work: Callable[[], object]) -> None:
        work()
        if tap.wrong is not None:
            raise Unlike(tap.wrong)

    clock = trial.clock
    step(lambda: trial.enter(started_at))
    clock.sleep(max(started_at + lead_s(trial.program) - clock.now(), 0.0))
    while True:
        step(trial.worker.drain)
        due = trial.store.next_due(now=clock.now())
        if due is None or due - clock.now() > patience_s:
            return
        clock.sleep(max(due - clock.now(), 0.001))


def kinds(trial: Trial) -> dict[str, list[str]]:
    return {action: [kind for kind, _ in ended] for action, ended in trial.outcomes().items()}


# --- playing ---


def replay(
    connector: types.Connector,
    example: types.Example,
    file: Path,
    *,
    client: Callable[[str], types.Client],
) -> None:
    """
    The events again, answered from the cassette: the same requests, and the same end for each.

    `client` gives a client of the project by its name, for a cassette that was recorded with its account. Unlike
    says what is missing or differs.
    """
    header, requests, responses = opened(file)
    if (header.connector, header.example) != (connector.name, example.name):
        raise Unlike(f"it is the cassette of {header.connector}, {brief(header.example)}")
    account = None
    if header.client is not None:
        try:
            account = Account(client(header.client), lambda _: secrets_of(connector, example))
            account.client.connectors[connector.name]
        except (UsageError, KeyError):
            raise Unlike(
                f"it was recorded with the client {header.client}, who does not use {connector.name} here"
            ) from None
    transport, masker = HttpTransport(), Keeping()
    clock = VirtualClock(header.started_at)
    player = Player(transport, requests)
    trial = trial_of(connector, example, player, clock, masker, account)
    player.scrubber = Scrubber(masker, trial.program)
    try:
        with tape(Reel(requests, responses), record=False):
            play(trial, player, header.started_at, header.patience_s)
    finally:
        transport.close()
    if len(player.sent) < len(requests):
        left = requests[len(player.sent)]
        raise Unlike(f"exchange {len(player.sent) + 1} was never sent: {left.method} {urlsplit(left.uri).path}")
    found = msgspec.structs.replace(header, outcomes=kinds(trial), answered=trial.answered)
    for name in ("outcomes", "answered"):
        if (differs := unlike(name, getattr(header, name), getattr(found, name), TELLER)) is not None:
            raise Unlike(differs)


def opened(file: Path) -> tuple[Header, list[Any], list[Any]]:
    """What a cassette says, and vcrpy's requests and responses."""
    library()
    from vcr.serialize import deserialize

    written = Written()
    try:
        requests, responses, *_ = deserialize(file.read_text(encoding="utf-8"), written)
    except FileNotFoundError:
        raise Unlike("there is no cassette") from None
    except OSError as error:
        raise Unlike(f"the cassette can't be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise Unlike(f"the cassette can't be read: {' '.join(str(error).split())[:200]}") from None
    assert written.header is not None
    return written.header, requests, responses


class Player(Tap):
    """A transport that lets a request through only if it is the one that was recorded next."""

    scrubber: Scrubber

    def __init__(self, transport: Transport, recorded: list[Any]) -> None:
        super().__init__(transport)
        self.recorded = recorded

    def send(self, request: Prepared) -> Reply:
        number, sent = len(self.sent) + 1, self.scrubber.request(request)
        if number > len(self.recorded):
            self.fail(f"one request more than was recorded: {shown(sent)}")
        if (differs := unlike_recorded(self.recorded[number - 1], sent)) is not None:
            self.fail(f"exchange {number}: {differs}")
        return super().send(request)


def unlike_recorded(recorded: Any, sent: Prepared) -> str | None:
    """The first of method, host, path, query and body that differs; `recorded` is a request of vcrpy."""
    was, now = urlsplit(recorded.uri), urlsplit(sent.url)
    for name, listed, found in (
        ("method", recorded.method, sent.method),
        ("host", was.netloc, now.netloc),
        ("path", was.path, now.path),
    ):
        if listed != found:
            return f"{name} is {brief(found)}, {TELLER} says {brief(listed)}"
    query = unlike("query", fields(was.query), fields(now.query), TELLER)
    kind = sent.headers.get("content-type", "")
    old, new = recorded.body or b"", sent.content or b""
    return query or unlike_bodies(kind, old.decode("utf-8", "replace"), new.decode("utf-8", "replace"))


def unlike_bodies(kind: str, listed: str, found: str) -> str | None:
    if "json" in kind:
        try:
            return unlike(
                "json", json.loads(listed, parse_float=Decimal), json.loads(found, parse_float=Decimal), TELLER
            )
        except ValueError:
            pass
    if "form" in kind and "=" in listed:
        return unlike("form", fields(listed), fields(found), TELLER)
    return unlike("body", listed, found, TELLER)


def fields(text: str) -> Mapping[str, Any]:
    """Names with their values; of a name that comes several times, a list of them."""
    listed: dict[str, list[str]] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        listed.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in listed.items()}
