"""
A project -> what is to be deployed: functions with their names, times and secrets; nothing here knows CloudFormation.

Names are the seed's: `connect-responsys-client-abc-receive`, `connect-responsys-refresh-token`,
`connect-rdstation-shared`, `/connect/responsys/client-abc/creds`.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.deploying import naming
from engine.deploying.references import Reference, references, write_keys
from engine.errors import UsageError
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.spec.types import Auth, Binding, Client, Connector

MODES = ("shared", "per-client")
LONGEST_REFRESH_M = 240  # four hours, as the seed has it
UNKNOWN_REFRESH_M = 15  # where only the vendor's reply says how long a token lives
RUN_S = 300  # of one run of `process`; what is left then is the next run's
ANSWER_S = 29  # API Gateway waits no longer than 30 seconds
CLIENTS_IN_A_STACK = 60
MOST_RESERVED = 900  # of the 1,000 concurrent executions of an account, 100 must stay unreserved


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a person chooses; kept in the output, so that the next run makes the same."""

    region: str = "sa-east-1"
    stage: str = "prod"
    functions: str = "shared"
    email: str | None = None
    package: str | None = None  # a requirement of pip; None: this version, from an index
    stacks: int = 0  # that secrets and dashboards of clients are shared out to; 0: they stand in the one of all else

    @property
    def prefix(self) -> str:
        return naming.prefix(self.stage)

    def stack_of(self, client: str) -> int:
        """The number, from 1, of the stack with what is this client's alone: always the same, whoever else there is."""
        return naming.number(client, self.stacks) + 1 if self.stacks else 0


class Function(NamedTuple):
    """One Lambda function. `clients` empty: all of these connectors."""

    id: str
    name: str
    does: str  # receive | process | refresh
    connectors: tuple[str, ...]
    clients: tuple[str, ...]
    says: str
    timeout_s: int
    secrets: tuple[str, ...]  # patterns of names, as they stand in an ARN
    direct: bool = False  # receives, and delivers while the caller waits
    every_m: int = 0  # minutes between two runs; 0: it is called
    concurrency: int = 0  # 0: as many as there are calls

    @property
    def sends(self) -> bool:
        """Does it talk to vendors?"""
        return self.does != "receive" or self.direct


class Route(NamedTuple):
    path: str
    function: str  # its id


class Secret(NamedTuple):
    """One that the template makes, empty; `fields` -> the references that it takes the place of."""

    id: str
    name: str
    client: str | None  # None: of all
    fields: dict[str, str]


class Parts(NamedTuple):
    """All that is to be deployed."""

    options: Options
    connectors: dict[str, Connector]  # those that a client uses
    clients: dict[str, Client]
    unused: list[str]  # connectors of the project that no client uses
    references: dict[str, list[Reference]]  # by client
    functions: list[Function]
    routes: list[Route]
    secrets: list[Secret]
    key: str  # the secret with the key that encrypts stored tokens


def planned(
    connectors: dict[str, Connector], clients: dict[str, Client], own: Iterable[str], options: Options
) -> Parts:
    """`own`: the connectors of the project itself. UsageError where there is nothing to deploy."""
    used = {name for client in clients.values() for name in client.connectors}
    serving = {name: connectors[name] for name in sorted(used) if name in connectors}
    if not serving:
        raise UsageError("no client uses a connector; there is nothing to deploy")
    together = options.functions == "shared"
    found = {
        name: references(client, prefix=options.prefix, together=together) for name, client in sorted(clients.items())
    }
    making = _Making(options, serving, clients, found)
    functions, routes = making.shared() if together else making.per_client()
    functions = apart(functions)
    return Parts(
        options,
        serving,
        dict(sorted(clients.items())),
        sorted(set(own) - used),
        found,
        functions,
        routes,
        secrets(found, options.prefix),
        f"/{options.prefix}/key",
    )


class _Making:
    def __init__(
        self,
        options: Options,
        connectors: dict[str, Connector],
        clients: dict[str, Client],
        found: dict[str, list[Reference]],
    ) -> None:
        self.prefix, self.connectors, self.clients, self.found = options.prefix, connectors, clients, found

    def shared(self) -> tuple[list[Function], list[Route]]:
        """One that receives, one for each connector that answers at once, one that processes for each connector."""
        buffered = [name for name in self.connectors if not self.direct(name)]
        functions: list[Function] = []
        routes: list[Route] = []
        if buffered:
            functions.append(self.receive(f"{self.prefix}-receive", "Receive", buffered, ()))
        for name in self.connectors:
            if self.direct(name):
                functions.append(self.answer(name))
            routes.append(Route(f"/{name}", functions[-1].id if self.direct(name) else "Receive"))
        functions += [self.process(name, ()) for name in self.connectors]
        renewing = [name for name in self.connectors if refresh_minutes(self.connectors[name])]
        if renewing:
            functions.append(self.refresh(f"{self.prefix}-refresh-token", "RefreshToken", renewing))
        return functions, routes

    def per_client(self) -> tuple[list[Function], list[Route]]:
        """As the seed draws it: receive and process for each client, except for connectors that answer at once."""
        functions: list[Function] = []
        routes: list[Route] = []
        for name in self.connectors:
            if self.direct(name):
                functions += [self.answer(name), self.process(name, ())]
                routes.append(Route(f"/{name}", functions[-2].id))
            else:
                own = self.having(name)
                for client in own:
                    called = naming.bounded(f"{self.prefix}-{name}-{client}-receive")
                    receive = self.receive(called, naming.logical("Receive", name, client), [name], (client,))
                    functions += [receive, self.process(name, (client,))]
                    routes.append(Route(f"/{name}/{client}", receive.id))
                    if len(own) == 1:
                        routes.append(Route(f"/{name}", receive.id))
            if refresh_minutes(self.connectors[name]):
                word = "refresh-token" if renews(self.connectors[name]) else "auth-token"
                called = naming.bounded(f"{self.prefix}-{name}-{word}")
                functions.append(self.refresh(called, naming.logical("RefreshToken", name), [name]))
        return functions, routes

    def direct(self, connector: str) -> bool:
        return self.connectors[connector].receive.mode == "direct"

    def having(self, connector: str) -> list[str]:
        return sorted(name for name, client in self.clients.items() if connector in client.connectors)

    def receive(self, name: str, id_: str, connectors: Sequence[str], clients: tuple[str, ...]) -> Function:
        of = f"{', '.join(connectors)} of {', '.join(clients) or 'all clients'}"
        says = f"Takes events in for {of}; they wait in the table."
        return Function(
            id_, name, "receive", tuple(connectors), clients, says, ANSWER_S, self.keys(connectors, clients)
        )

    def answer(self, connector: str) -> Function:
        says = f"Takes events in for {connector} and delivers them while the caller waits."
        secrets_ = {*self.keys([connector], ()), *self.credentials([connector], ())}
        return Function(
            naming.logical("Shared", connector),
            naming.bounded(f"{self.prefix}-{connector}-shared"),
            "receive",
            (connector,),
            (),
            says,
            ANSWER_S,
            tuple(sorted(secrets_)),
            direct=True,
        )

    def process(self, connector: str, clients: tuple[str, ...]) -> Function:
        own = [self.clients[name] for name in clients or self.having(connector)]
        every_m = process_minutes(self.connectors[connector], own)
        return Function(
            naming.logical("Process", connector, *clients),
            naming.bounded("-".join([self.prefix, connector, *clients, "process"])),
            "process",
            (connector,),
            clients,
            f"Delivers what waits for {connector} of {', '.join(clients) or 'all clients'}.",
            RUN_S,
            self.credentials([connector], clients),
            every_m=every_m,
            # A run that meets another finds its lanes leased and ends; one that is throttled would be an alarm.
            concurrency=math.ceil(RUN_S / (every_m * 60)) + 1,
        )

    def refresh(self, name: str, id_: str, connectors: Sequence[str]) -> Function:
        every_m = min(refresh_minutes(self.connectors[each]) for each in connectors)
        return Function(
            id_,
            name,
            "refresh",
            tuple(connectors),
            (),
            f"Renews tokens of {', '.join(connectors)} before they end.",
            RUN_S,
            self.credentials(connectors, ()),
            every_m=every_m,
            concurrency=1,
        )

    def credentials(self, connectors: Sequence[str], clients: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the vendors; of all clients by one pattern, others that a client file names one by one."""
        patterns = set()
        for each in self.all_references():
            if each.connector in connectors and (not clients or each.client in clients):
                star = f"/{self.prefix}/{each.connector}/*/creds"
                patterns.add(each.secret if clients or not each.ours else star)
        return tuple(sorted(patterns))

    def keys(self, connectors: Sequence[str], clients: tuple[str, ...]) -> tuple[str, ...]:
        """Write keys of the clients that have one of these connectors."""
        having = {client for name in connectors for client in self.having(name)}
        patterns = set()
        for each in self.all_references():
            if each.connector is None and each.client in having and (not clients or each.client in clients):
                star = f"/{self.prefix}/clients/*/ingest"
                one = clients or not each.ours or each.secret == write_keys(self.prefix, None)
                patterns.add(each.secret if one else star)
        return tuple(sorted(patterns))

    def all_references(self) -> list[Reference]:
        return [each for found in self.found.values() for each in found]


def apart(functions: list[Function]) -> list[Function]:
    """Two that would have one name (`x` of `y-z`, `x-y` of `z`) have a mark of their own each."""
    names = Counter(function.name for function in functions)
    return [
        each._replace(name=naming.marked(each.name, "/".join([*each.connectors, *each.clients])))
        if names[each.name] > 1
        else each
        for each in functions
    ]


def secrets(found: dict[str, list[Reference]], prefix: str) -> list[Secret]:
    """Those to make, by name; each once."""
    made: dict[str, Secret] = {}
    for references_ in found.values():
        for each in references_:
            if not each.ours:
                continue
            if each.secret not in made:
                shared = each.secret == write_keys(prefix, None)
                if shared:
                    id_ = "WriteKeys"
                elif each.connector is None:
                    id_ = naming.logical("WriteKeysOf", each.client)
                else:
                    id_ = naming.logical("Credentials", each.connector, each.client)
                made[each.secret] = Secret(id_, each.secret, None if shared else each.client, {})
            made[each.secret].fields[each.field] = each.given
    return [made[name] for name in sorted(made)]


def stacks_for(clients: int) -> int:
    """How many stacks hold what is each client's alone; 0: they fit into the one of all else."""
    return math.ceil(clients / CLIENTS_IN_A_STACK) if clients > CLIENTS_IN_A_STACK else 0


def process_minutes(connector: Connector, clients: Iterable[Client]) -> int:
    """As long as the batch that waits the shortest; a minute where the caller waits, or nothing does."""
    if connector.receive.mode == "direct":
        return 1
    waits = [
        units.duration(wait) for client in clients for wait in _waits(connector, client.connectors[connector.name])
    ]
    return max(1, int(min(waits, default=60.0) // 60))


def _waits(connector: Connector, binding: Binding) -> list[str]:
    """`wait` of the batches of the actions that this client uses."""
    found = []
    for name, action in connector.actions.items():
        patch = binding.actions.get(name, {})
        if patch.get("active", action.active):
            own = patch.get("batch", {})
            found.append(own.get("wait", action.batch.wait if action.batch is not None else "0s"))
    return found


def refresh_minutes(connector: Connector) -> int:
    """Between two looks at its tokens; 0 where no token ends. A token lives on until the next look."""
    rates = [_refresh_minutes(auth) for auth in (connector.auth, *connector.auths.values())]
    return min((rate for rate in rates if rate), default=0)


def _refresh_minutes(auth: Auth) -> int:
    token = auth.token
    if token is None or token.expires.never or not (token.request or token.steps or token.renew or token.consent):
        return 0
    if token.expires.after is None:
        return UNKNOWN_REFRESH_M
    lives_s = units.duration(token.expires.after) - units.duration(token.expires.margin)
    return max(1, min(int(lives_s // 60), LONGEST_REFRESH_M))


def renews(connector: Connector) -> bool:
    """Is there a token that is exchanged for the next, and not only a log-in?"""
    return any(auth.token is not None and auth.token.renew for auth in (connector.auth, *connector.auths.values()))
