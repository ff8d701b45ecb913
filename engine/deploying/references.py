"""
References of client files -> secrets in AWS Secrets Manager: `env:ABC_USER` -> `aws-secretsmanager:/connect/…#user`.

No value is read here, only names. A reference that already leads there stays as it is; one to a file or a keyring
leads nowhere in a function, which is a finding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.errors import SpecErrors
from engine.spec.fix import Edit, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.spec.findings import Finding
    from engine.spec.located import Located
    from engine.spec.project import Loaded
    from engine.spec.types import Client

SCHEME = "aws-secretsmanager:"
PARAMETER = "aws-ssm:"
MOST_BYTES = 65_536  # of one secret; https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html
OF_A_KEY = 96  # bytes of a write key with its quotes, as a guess


class Reference(NamedTuple):
    """One reference of a client file. `connector` is None for write keys and what signs; `ours`: we make the secret."""

    client: str
    connector: str | None
    path: tuple[str | int, ...]
    given: str
    secret: str  # its name in Secrets Manager; `aws-ssm:` before that of a parameter
    field: str  # empty: the whole text
    ours: bool

    @property
    def becomes(self) -> str:
        if self.secret.startswith(PARAMETER):
            return self.given
        return f"{SCHEME}{self.secret}#{self.field}" if self.field else f"{SCHEME}{self.secret}"


def credentials(prefix: str, connector: str, client: str) -> str:
    """The seed's name of the secret of one client at one vendor."""
    return f"/{prefix}/{connector}/{client}/creds"


def write_keys(prefix: str, client: str | None) -> str:
    """Of one client, or of all: then a cold start asks once, however many clients there are."""
    return f"/{prefix}/ingest" if client is None else f"/{prefix}/clients/{client}/ingest"


def references(client: Client, *, prefix: str, together: bool) -> list[Reference]:
    """All of a client. `together`: the write keys of all clients are fields of one secret."""
    found = []
    of_client = None if together else client.client
    before = f"{client.client}/" if together else ""
    for kind, word in (("keys", "key"), ("signatures", "signature")):
        for index, given in enumerate(getattr(client.ingest, kind)):
            field = f"{before}{word}" + (f"_{index + 1}" if index else "")
            home = write_keys(prefix, of_client)
            found.append(_reference(client.client, None, ("ingest", kind, index), given, home, field))
    for connector, binding in client.connectors.items():
        home = credentials(prefix, connector, client.client)
        for name, given in binding.secrets.items():
            found.append(
                _reference(client.client, connector, ("connectors", connector, "secrets", name), given, home, name)
            )
    return found


def _reference(
    client: str, connector: str | None, path: tuple[str | int, ...], given: str, home: str, field: str
) -> Reference:
    if given.startswith(PARAMETER):
        name, _, inside = given.partition("#")
        return Reference(client, connector, path, given, name, inside, False)
    if not given.startswith(SCHEME):
        return Reference(client, connector, path, given, home, field, True)
    secret, _, inside = given.removeprefix(SCHEME).partition("#")
    return Reference(client, connector, path, given, secret, inside, secret == home)


def unreachable(loaded: Loaded[Client], found: Sequence[Reference]) -> Iterator[Finding]:
    """References to what no function can read."""
    assert loaded.located is not None
    for each in found:
        scheme = each.given.partition(":")[0]
        if scheme in ("file", "keyring"):
            where = "a file of this machine" if scheme == "file" else "a keyring"
            yield loaded.located.finding(
                each.path,
                "deploy-secret",
                f"{scheme}: leads to {where}, which no Lambda function has",
                f"write {each.becomes}, or env:NAME, which is put there when it is deployed",
            )


def rewritten(located: Located, found: Sequence[Reference]) -> str:
    """
    The client file with its references leading to Secrets Manager; all else of the text stays.

    Raises SpecErrors where one is written so that it does not stand in its line as it is.
    """
    source = Source(located.text)
    edits, lost = [], []
    for each in found:
        if each.given == each.becomes:
            continue
        line, column = located.mark(each.path)
        at = source.line(line).find(each.given, column - 1)
        if at < 0 or at > column:  # by `>-`, or with an escape
            says = "a reference that is not written in one piece"
            lost.append(located.finding(each.path, "deploy-secret", says, f"write {each.given}"))
        else:
            edits.append(Edit(line, at + 1, each.given, each.becomes))
    if lost:
        raise SpecErrors(lost)
    return source.with_edits(edits)
