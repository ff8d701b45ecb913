"""
The language as frozen values, field for field the JSON Schemas in `schemas/`.

`Template` is text with `{{ }}` or a whole `${ }`; `Value` is `${ }` or a literal; `Tree` is any YAML in which scalars
may be either and `$` keys are directives. A `_` at the end of a field (`else_`) stands for the same key without it.
What a key means is said in the schema; here is only its shape. Scalars that have units stay text here (`15m`, `1MB`,
`120/1m`).

Annotations are evaluated here and not put off: a decoder would evaluate each text for itself, a twentieth of a start.
"""

from decimal import Decimal
from typing import Any

import msgspec

Template = str
Value = Any
Tree = Any
Duration = str
Size = str
Rate = str


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=lambda name: name.rstrip("_")):
    """The base of everything below: frozen, keyword only, unknown keys refused."""


class SecretField(Part, frozen=True, kw_only=True):
    title: str = ""
    description: str = ""
    optional: bool = False
    when: Value = None


class SettingsSchema(Part, frozen=True, kw_only=True):
    required: list[str] = []
    properties: dict[str, dict[str, Any]] = {}


class Answer(Part, frozen=True, kw_only=True):
    """How `direct` answers the caller; statuses by outcome."""

    within: Duration = "25s"
    tries: int = 3
    delivered: int = 200
    retry: int = 202
    defer: int = 202
    throttle: int = 202
    reject: int = 422
    skip: int = 200
    pause: int = 503


class Receive(Part, frozen=True, kw_only=True):
    mode: str = "buffered"  # buffered | direct
    client: Value = None
    schema: dict[str, Any] | None = None
    id: Value = None
    dedupe: Duration = "0s"
    answer: Answer = Answer()


class Drop(Part, frozen=True, kw_only=True):
    """What is left out of a mapping: drop | keep, for each kind of empty value."""

    null: str = "keep"
    text: str = "keep"
    list: str = "keep"
    object: str = "keep"


class GrowingWait(Part, frozen=True, kw_only=True):
    initial: Duration
    factor: int | Decimal = 2
    max: Duration = "1h"


class Retry(Part, frozen=True, kw_only=True):
    attempts: int = 5
    initial: Duration = "1s"
    factor: int | Decimal = 2
    max: Duration = "5m"
    jitter: str = "full"  # full | none
    give_up_after: Duration = "3d"


class Limit(Part, frozen=True, kw_only=True):
    """One of rate, concurrency and budget."""

    rate: Value = None
    concurrency: Value = None
    budget: Value = None
    per: str = "day"  # hour | day | month; of a budget
    timezone: str = "UTC"
    by: Value = None
    then: str = "wait"  # wait | defer
    of: str = "client"
    when: Value = None


class JsonEncoding(Part, frozen=True, kw_only=True):
    ascii: bool = False


class Csv(Part, frozen=True, kw_only=True):
    rows: Value
    columns: list[str] | None = None
    line_ending: str = "LF"  # LF | CRLF
    clear: str = ""  # what a written null becomes in a cell


class Request(Part, frozen=True, kw_only=True):
    method: str = "POST"
    path: Template | None = None
    url: Template | None = None
    query: dict[str, Tree] = {}
    headers: dict[str, Tree] = {}
    json: Tree = None
    form: Tree = None
    csv: Csv | None = None
    ndjson: Tree = None
    multipart: dict[str, Tree] | None = None
    text: Template | None = None
    expect: Value = None
    max_bytes: Size | None = None
    timeout: Duration | None = None
    decode: list[str] = []
    cost: Value = 1
    auth: str | None = None
    limits: dict[str, Limit] = {}


class OutcomeRule(Part, frozen=True, kw_only=True):
    """Conditions joined by AND, then what follows. None at all only in the last rule of a list."""

    status: Any = None
    code: Any = None
    message: dict[str, Any] | None = None
    content_type: Any = None
    header: dict[str, Any] | None = None
    when: Value = None
    then: str
    wait: Any = None
    attempts: int | None = None
    else_: str | None = None
    forget: str | None = None
    from_: str | None = None
    scope: str = "connector"  # connector | action
    why: str = ""
    expected: bool = False
    all: bool = False


class Replies(Part, frozen=True, kw_only=True):
    code: Value = None
    message: Value = None
    outcomes: list[OutcomeRule] = []


class ResultOn(Part, frozen=True, kw_only=True):
    status: Any = None
    when: Value = None


class Results(Part, frozen=True, kw_only=True):
    """How a reply speaks of its records."""

    on: ResultOn = ResultOn()
    match: Any = "position"  # position | test | {position, base} | {ours, theirs}
    at: Value = None
    ok_at: Value = None
    failed_at: Value = None
    ok: Value = None
    code: Value = None
    message: Value = None
    outcomes: list[OutcomeRule] = []
    unnamed: str = "retry"  # retry | delivered | resend
    items: list[str] = []
    args: dict[str, Tree] = {}


class Poll(Part, frozen=True, kw_only=True):
    until: Value
    every: Any = "10s"  # a duration or {initial, factor, max}
    give_up: Duration = "1h"
    then: str = "retry"


class OncePer(Part, frozen=True, kw_only=True):
    """What was sent for a key a moment ago is not sent again while its content is the same."""

    key: Value
    within: Duration


class Step(Part, frozen=True, kw_only=True):
    """One request of an action and all that belongs to it."""

    when: Value = None
    each: Value = None  # "records", or a list
    once_per: OncePer | None = None
    request: Request
    save: dict[str, Tree] = {}
    replies: Replies | None = None
    results: list[Results] = []
    poll: Poll | None = None
    repeat: str = "safe"  # safe | may_double | never
    args: dict[str, Tree] = {}


class Fold(Part, frozen=True, kw_only=True):
    by: Value
    order: Value = None
    keep: str = "last"  # last | merge


class BatchMax(Part, frozen=True, kw_only=True):
    records: int | None = None
    bytes: Size | None = None


class Batch(Part, frozen=True, kw_only=True):
    records: int = 100
    bytes: Size = "1MB"
    wait: Duration = "0s"
    window: Duration | None = None
    max: BatchMax = BatchMax()
    group_by: Value = None
    fold: Fold | None = None


class Source(Part, frozen=True, kw_only=True):
    """One place a look-up asks."""

    request: Request
    chunk: dict[str, Any] = {}  # {bytes: 6KB} | {keys: 50}
    rows: Value = None
    row_key: Value = None
    next: Value = None
    absent_on: list[int] = []
    replies: Replies | None = None
    when: Value = None
    args: dict[str, Tree] = {}
    add: dict[str, Tree] = {}


class Create(Part, frozen=True, kw_only=True):
    """What makes the row of a key that no source knows."""

    when: Value = None
    request: Request
    row: Value = None  # of one key
    rows: Value = None  # of several
    row_key: Value = None
    replies: Replies | None = None
    args: dict[str, Tree] = {}
    add: dict[str, Tree] = {}


class Lookup(Part, frozen=True, kw_only=True):
    when: Value = None
    key: Value = None
    keys: Value = None
    sources: dict[str, Source] = {}
    create: Create | None = None
    request: Request | None = None  # a look-up without key: one document for the client
    value: Value = None
    cache: Duration = "0s"
    when_absent: str = "reject"  # reject | skip | continue
    when_many: str = "first"  # first | reject
    args: dict[str, Tree] = {}


class Requirement(Part, frozen=True, kw_only=True):
    """A check on a record: a JSON Schema, or an expression with the reason for what fails it."""

    schema: dict[str, Any] | None = None
    that: Value = None
    reason: Template = ""


class Action(Part, frozen=True, kw_only=True):
    title: str = ""
    description: str = ""
    active: bool = True
    when: Value = None
    mode: str | None = None
    key: Value = None
    after: list[str] = []
    if_rejected: str = "skip"  # skip | continue
    vars: dict[str, Tree] = {}
    lookups: dict[str, Lookup] = {}
    record: Tree = None
    drop: Drop | None = None
    require: list[Requirement] = []
    batch: Batch | None = None
    steps: dict[str, Step]  # `request` beside the action's keys is the one step named "request"
    on_failure: dict[str, Step] = {}
    limits: dict[str, Limit] = {}
    replies: Replies | None = None
    auth: str | None = None


class Expires(Part, frozen=True, kw_only=True):
    """When a token ends: one of after, in, at, jwt, never, unknown."""

    after: Duration | None = None
    in_: Value = None
    at: Value = None
    jwt: bool = False
    never: bool = False
    unknown: bool = False
    unit: str = "s"  # s | ms | epoch | epoch_ms | date
    margin: Duration = "1m"


class Renew(Part, frozen=True, kw_only=True):
    request: Request
    save: dict[str, Tree] = {}


class Place(Part, frozen=True, kw_only=True):
    headers: dict[str, Template] = {}
    query: dict[str, Template] = {}
    cookies: dict[str, Template] = {}
    form: dict[str, Template] = {}
    json: dict[str, Template] = {}
    url: Template | None = None


class Consent(Part, frozen=True, kw_only=True):
    """How a person agrees once; no part of the walk, see `connect login`."""

    url: Template
    query: dict[str, Tree] = {}
    redirect_uri: Template | None = None
    request: Request
    save: dict[str, Tree] = {}


class Token(Part, frozen=True, kw_only=True):
    request: Request | None = None
    steps: dict[str, Step] = {}
    save: dict[str, Tree] = {}
    expires: Expires = Expires(unknown=True)
    renew: Renew | None = None
    replies: Replies | None = None
    place: Place = Place()
    discover: dict[str, Step] = {}
    consent: Consent | None = None


class Jwt(Part, frozen=True, kw_only=True, tag_field="type", tag="jwt"):
    algorithm: str
    key: Template
    key_as: str | None = None  # text | hex | base64 | pem
    passphrase: Template | None = None
    header: dict[str, Tree] = {}
    claims: dict[str, Tree]
    lifetime: Duration | None = None


class Hmac(Part, frozen=True, kw_only=True, tag_field="type", tag="hmac"):
    algorithm: str
    key: Template
    key_as: str | None = None
    text: Template
    encoding: str = "hex"  # hex | base64 | base64url


class Hash(Part, frozen=True, kw_only=True, tag_field="type", tag="hash"):
    algorithm: str
    text: Template
    encoding: str = "hex"


class OAuth1(Part, frozen=True, kw_only=True, tag_field="type", tag="oauth1"):
    consumer_key: Template
    consumer_secret: Template = ""
    token: Template | None = None
    token_secret: Template = ""
    algorithm: str = "HMAC-SHA1"  # HMAC-SHA1 | HMAC-SHA256 | RSA-SHA1 | PLAINTEXT
    key: Template | None = None
    passphrase: Template | None = None
    realm: Template | None = None


class AwsSigV4(Part, frozen=True, kw_only=True, tag_field="type", tag="aws_sigv4"):
    access_key: Template
    secret_key: Template
    region: Template
    service: Template


Signer = Jwt | Hmac | Hash | OAuth1 | AwsSigV4


class Auth(Part, frozen=True, kw_only=True):
    """Expanded: presets have become token and place."""

    when: Value = None
    base_url: Template | None = None
    token: Token | None = None
    place: Place = Place()
    limits: dict[str, Limit] = {}
    sign: dict[str, Signer] = {}


class Tls(Part, frozen=True, kw_only=True):
    """Certificates of a client's own, as PEM texts."""

    cert: Template | None = None
    key: Template | None = None
    passphrase: Template | None = None
    ca: Template | None = None


class Http(Part, frozen=True, kw_only=True):
    base_url: Template = ""
    timeout: Duration = "30s"
    headers: dict[str, Tree] = {}
    json: JsonEncoding = JsonEncoding()
    limits: dict[str, Limit] = {}
    retry: Retry = Retry()
    tls: Tls = Tls()


class Check(Part, frozen=True, kw_only=True):
    request: Request
    title: str = ""
    replies: Replies | None = None


class ProvisionLook(Part, frozen=True, kw_only=True):
    request: Request
    exists: Value = None
    absent_on: list[int] = []
    replies: Replies | None = None


class Suggestion(Part, frozen=True, kw_only=True):
    setting: Template
    value: Value


class Provision(Part, frozen=True, kw_only=True):
    """One kind of thing that must exist in the CRM before events can come."""

    title: str = ""
    when: Value = None
    each: Value = None
    as_: str = "item"
    look: ProvisionLook | None = None
    make: Check | None = None
    manual: Template = ""
    suggest: list[Suggestion] = []


class Exchange(Part, frozen=True, kw_only=True):
    """One request that an example expects, with the answer it gets; or a wait (`after`)."""

    after: Duration | None = None
    sends: dict[str, Any] | None = None  # method, path, host, query, headers and one body
    answers: dict[str, Any] | None = None  # status, headers, body | text; or {fails: timeout | connect | half}


class Example(Part, frozen=True, kw_only=True):
    name: str
    client: dict[str, Any] = {}  # settings, tables, actions as in a client file; secrets are invented
    events: list[dict[str, Any]] = []
    exchange: list[Exchange] = []
    outcomes: dict[str, list[Any]] = {}  # action -> one of delivered | rejected | skipped | waiting for each event
    answered: Any = None  # direct mode: {status} for each event, or one
    refused: Any = None  # intake: {status, field}
    lane: dict[str, Any] = {}  # {state, why}


class SandboxReply(Part, frozen=True, kw_only=True):
    status: Any = 200
    headers: dict[str, Tree] = {}
    body: Tree = None
    packed: list[str] = []  # as `decode` unpacks it
    text: Template | None = None
    csv: Csv | None = None


class SandboxRoute(Part, frozen=True, kw_only=True):
    method: str = "any"
    path: str = "/{rest*}"
    host: str | None = None
    when: Value = None
    token: str | None = None  # the token of `tokens` that the request must carry
    limit: str | None = None
    remember: Any = None  # {key, value} or a list of them
    reply: SandboxReply = SandboxReply()


class SandboxToken(Part, frozen=True, kw_only=True):
    """A credential the sandbox issues or accepts: `accept` finds it in a request."""

    lifetime: Duration = "2h"
    accept: Value = None
    value: Value = None  # what is expected where it is fixed; else what `issue` made
    refused: SandboxReply = SandboxReply(status=401)


class SandboxLimit(Part, frozen=True, kw_only=True):
    rate: Rate
    by: Value = None
    reply: SandboxReply = SandboxReply(status=429)


class Sandbox(Part, frozen=True, kw_only=True):
    hosts: list[str] = []
    secrets: dict[str, str] = {}  # made-up credentials that the sandbox takes
    settings: dict[str, Any] = {}  # settings of a made-up client
    tokens: dict[str, SandboxToken] = {}
    limits: dict[str, SandboxLimit] = {}
    routes: list[SandboxRoute] = []


class Connector(Part, frozen=True, kw_only=True):
    connect: int
    name: str
    title: str
    description: str = ""
    links: dict[str, str] = {}
    hosts: list[str]
    settings: SettingsSchema = SettingsSchema()
    secrets: dict[str, SecretField] = {}
    receive: Receive = Receive()
    fields: dict[str, Tree] = {}
    key: Value = None
    drop: Drop = Drop()
    derive: dict[str, Value] = {}
    auth: Auth = Auth()
    auths: dict[str, Auth] = {}
    checks: dict[str, Check] = {}
    http: Http = Http()
    replies: Replies = Replies()
    tables: dict[str, dict[str, Any]] = {}
    actions: dict[str, Action]
    definitions: dict[str, dict[str, Any]] = {}
    provision: dict[str, Provision] = {}
    examples: list[Example] = []
    sandbox: Sandbox | None = None


class Ingest(Part, frozen=True, kw_only=True):
    keys: list[str] = []
    signatures: list[str] = []
    origins: list[str] = []
    rate: Rate | None = None


class Binding(Part, frozen=True, kw_only=True):
    """What a client says to one connector."""

    active: bool = True
    match: str | None = None
    settings: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    tables: dict[str, dict[str, Any]] = {}
    limits: dict[str, Limit] = {}
    actions: dict[str, dict[str, Any]] = {}  # patches: active, when, batch, limits, record, vars


class Client(Part, frozen=True, kw_only=True):
    client: str
    title: str = ""
    active: bool = True
    ingest: Ingest = Ingest()
    connectors: dict[str, Binding]
