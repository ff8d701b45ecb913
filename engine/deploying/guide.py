"""What is to be deployed -> the README that stands beside the template: what a person does next."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.deploying.parts import Function, Parts, Secret

MADE_BY = "<!-- Made by `connect deploy aws`; what is changed here by hand is not kept. -->"


def guide(parts: Parts) -> str:
    """Commands with names of secrets, and none of their values."""
    sections = [
        f"# {parts.options.prefix} on AWS",
        MADE_BY,
        _what(parts),
        _deploying(parts),
        _secrets(parts),
        _consents(parts),
        _tags(parts),
        _changing(parts),
        _removing(parts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _what(parts: Parts) -> str:
    rows = "\n".join(_row(function) for function in parts.functions)
    unused = f"\n\nNo client uses {', '.join(parts.unused)}; nothing is made for it." if parts.unused else ""
    return (
        f"`template.yaml` has {len(parts.functions)} functions for {_counted(parts.connectors, 'connector')} and"
        f" {_counted(parts.clients, 'client')} in {parts.options.region}, `app/` what they run.\n\n"
        f"| function | what | runs |\n| --- | --- | --- |\n{rows}{unused}"
    )


def _row(function: Function) -> str:
    when = f"every {_minutes(function.every_m)}" if function.every_m else "when it is called"
    return f"| `{function.name}` | {function.says} | {when} |"


def _minutes(minutes: int) -> str:
    return "minute" if minutes == 1 else f"{minutes} minutes"


def _counted(things: object, what: str) -> str:
    number = len(things)  # type: ignore[arg-type]
    return f"{number} {what}{'' if number == 1 else 's'}"


def _deploying(parts: Parts) -> str:
    del parts
    return (
        "## 1. Build and deploy\n\n"
        "You need [the SAM command line](https://docs.aws.amazon.com/serverless-application-model/) and credentials of"
        " the account.\n\n```console\n$ sam build --use-container\n$ sam deploy\n```\n\n"
        "`--use-container` fetches packages for the processors that the functions run on. Where no index has"
        " `daxgo-connect`, say where its wheel is: `connect deploy aws --package"
        " 'daxgo-connect[aws] @ https://ADDRESS/daxgo_connect-VERSION-py3-none-any.whl'`.\n\n"
        "Functions have reserved concurrency. A new account may run only ten functions at once: deploy with"
        " `--parameter-overrides ReserveConcurrency=false` there, and ask AWS for more."
    )


def _secrets(parts: Parts) -> str:
    blocks = [_put(secret, parts.options.region) for secret in parts.secrets]
    key = (
        "```console\n$ connect key | tr -d '\\n' | aws secretsmanager put-secret-value"
        f" --region {parts.options.region} --secret-id {parts.key} --secret-string file:///dev/stdin\n```"
    )
    return (
        "## 2. Put the secrets\n\n"
        "Each is made with a text that says nothing. A command below waits for the JSON: paste it, then Ctrl-D. So no"
        " value stands in a file or in the shell's history. Within five minutes the functions use it; nothing is"
        " deployed again, and no later deployment changes it. Until all credentials are there, runs fail and alarms say"
        " so; no event is lost by that. Until the write keys are there, senders are told 401, and what they do not send"
        " again is lost: put them before the tag is published.\n\n"
        f"The key that encrypts stored tokens, once and then never again:\n\n{key}\n\n" + "\n\n".join(blocks)
    )


def _put(secret: Secret, region: str) -> str:
    whose = f"`{secret.name}`"
    came = ", ".join(f"`{field}` (was `{given}`)" for field, given in secret.fields.items())
    form = json.dumps(dict.fromkeys(secret.fields, "…"), ensure_ascii=False)
    return (
        f"{whose}: {came}\n\n```console\n$ aws secretsmanager put-secret-value --region {region}"
        f" --secret-id {shlex.quote(secret.name)} --secret-string file:///dev/stdin\n{form}\n```"
    )


def _consents(parts: Parts) -> str:
    wanting = [
        f"$ connect login {name} {client}"
        for name, connector in parts.connectors.items()
        if any(auth.token is not None and auth.token.consent for auth in (connector.auth, *connector.auths.values()))
        for client in parts.clients
        if name in parts.clients[client].connectors
    ]
    if not wanting:
        return ""
    commands = "\n".join(wanting)
    return (
        "Where a vendor wants a person to agree on a page of its own (by OAuth, and only then), do it once, from a"
        " machine with credentials of the account. `CONNECT_KEY` is a reference here, too:\n\n```console\n"
        f"$ export CONNECT_STORE='dynamodb://{parts.options.prefix}-events?region={parts.options.region}'\n"
        f"$ export CONNECT_KEY=aws-secretsmanager:{parts.key}\n{commands}\n```"
    )


def _tags(parts: Parts) -> str:
    paths = "\n".join(f"- `{route.path}`" for route in parts.routes)
    query = "Stacks[0].Outputs[?OutputKey=='Url'].OutputValue"
    return (
        "## 3. Point the tags at it\n\n```console\n"
        f"$ aws cloudformation describe-stacks --region {parts.options.region} --stack-name {parts.options.prefix}"
        f' --query "{query}" --output text\n```\n\n'
        f"A tag posts its events to that address and one of these paths, with the client's write key:\n\n{paths}\n\n"
        "Then look at `connect status` (with `CONNECT_STORE` as above, or"
        f" `--store 'dynamodb://{parts.options.prefix}-events?region={parts.options.region}'`) and at the dashboards."
    )


def _changing(parts: Parts) -> str:
    del parts
    return (
        "## Changing, and rolling back\n\n"
        "Change connectors and clients in the project, then `connect validate --strict`, `connect test`,"
        " `connect deploy aws --out` this folder, `sam build --use-container` and `sam deploy`, which shows what"
        " changes before it does. Keep this folder under version control: in CI,"
        " `connect deploy aws --out` this folder `--check` ends with 1 where it is not current.\n\n"
        "A deployment that fails is rolled back by CloudFormation. To go back to an earlier one, check that revision of"
        " this folder out and deploy it. Events that wait stay in the table meanwhile and are delivered by whichever"
        " is there."
    )


def _removing(parts: Parts) -> str:
    region, prefix = parts.options.region, parts.options.prefix
    return (
        "## Removing it\n\n```console\n"
        f"$ sam delete --region {region} --stack-name {prefix}\n```\n\n"
        "The table with what waits, and the secrets, stay. When nobody needs them any more:\n\n```console\n"
        f"$ aws dynamodb update-table --region {region} --table-name {prefix}-events --no-deletion-protection-enabled\n"
        f"$ aws dynamodb delete-table --region {region} --table-name {prefix}-events\n"
        f"$ aws secretsmanager delete-secret --region {region} --secret-id {parts.key}\n```\n\n"
        "and so on for each secret above. While they are there, a new stack of this name can't be made: it would make"
        " them again."
    )
