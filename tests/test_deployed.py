"""What is deployed works with what it may do: a stack of the template by moto, the functions with their variables."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import shutil
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import yaml
from aws_server import ACCOUNT, REGION, aws_server, messages, subscribed
from botocore.config import Config
from command import EVENTS, KEYS, ROOT, SECRETS, Running, make_project
from test_deploying import statements, translated
from test_lambdas import Context, gateway

from engine import aws
from engine.deploying import permissions, shipping
from engine.deploying.bundle import Bundle, bundle
from engine.deploying.parts import Options
from engine.lambdas import Functions, LanesFailed
from engine.spec.project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_KEY = "q2Y5bXlQd0lKZ0h3bWZqS2x6b1hVb3R5c3J2Y2d0ZWE="


class Stack:
    """A project that was deployed; `calls` are those of the function that runs: (service, operation, given)."""

    def __init__(self, made: Bundle, prefix: str, app: Path, patch: pytest.MonkeyPatch) -> None:
        self.made, self.prefix, self.app, self.patch = made, prefix, app, patch
        self.template = yaml.load(made.files["template.yaml"], yaml.CSafeLoader)["Resources"]
        self.calls: list[tuple[str, str, Any]] = []

    def create(self, template: dict[str, Any]) -> None:
        """moto knows table, topic, queue, functions, roles, logs and dashboards, and passes over the rest."""
        code = BytesIO()
        with zipfile.ZipFile(code, "w") as packed:
            packed.writestr("engine/lambdas.py", "")
        aws.client("s3").create_bucket(Bucket=self.prefix, CreateBucketConfiguration={"LocationConstraint": REGION})
        aws.client("s3").put_object(Bucket=self.prefix, Key="app.zip", Body=code.getvalue())
        body = (
            json.dumps(template).replace("s3://bucket/", f"s3://{self.prefix}/").replace('"bucket"', f'"{self.prefix}"')
        )
        patient = Config(read_timeout=300, retries={"total_max_attempts": 1})  # moto answers when all is made
        stacks = boto3.client("cloudformation", config=patient)
        stacks.create_stack(StackName=self.prefix, TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM"])
        assert stacks.describe_stacks(StackName=self.prefix)["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"

    def run(self, name: str, event: Any) -> Any:
        """One call of a function, in an environment of its own; its role must allow all that it asks AWS for."""
        (id_,) = [
            key
            for key, each in self.template.items()
            if each["Type"] == "AWS::Serverless::Function" and each["Properties"]["FunctionName"] == name
        ]
        variables = aws.client("lambda").get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        with self.patch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            patch.setenv("CONNECT_PROJECT", str(self.app))
            handler = self.template[id_]["Properties"]["Handler"].removeprefix("engine.lambdas.")
            self.calls.clear()
            made = Functions(takes_in=handler == "receive")
            try:
                return getattr(made, handler)(event, Context())
            finally:
                made.close()
                role = statements(self.template[f"Role{id_}"])
                assert [need for need in map(needed, self.calls) if not allowed(need, role)] == []

    def scheduled(self, name: str) -> Any:
        """What its schedule calls it with."""
        (target,) = [
            each["Properties"]["Target"]
            for each in self.template.values()
            if each["Type"] == "AWS::Scheduler::Schedule" and each["Properties"]["Name"] == name
        ]
        return json.loads(target["Input"])


OF_A_TRANSACTION = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}


def needed(call: tuple[str, str, Any]) -> tuple[frozenset[str], str]:
    """The actions of IAM that a call takes, and on what."""
    service, operation, given = call
    match service, operation:
        case "dynamodb", "TransactWriteItems":
            verbs = {OF_A_TRANSACTION[kind] for item in given["TransactItems"] for kind in item}
            return frozenset(f"dynamodb:{verb}" for verb in verbs), "table"
        case "dynamodb", _:
            return frozenset({f"dynamodb:{operation}"}), "index" if "IndexName" in given else "table"
        case "secretsmanager", _:
            return frozenset({f"secretsmanager:{operation}"}), given["SecretId"]
        case _:
            return frozenset({f"{service}:{operation}"}), str(given.get("TopicArn", ""))


def allowed(need: tuple[frozenset[str], str], role: dict[str, tuple[list[str], list[Any]]]) -> bool:
    actions, on = need
    return any(
        actions <= set(given) and any(fits(on, json.dumps(resource)) for resource in resources)
        for given, resources in role.values()
    )


def fits(on: str, resource: str) -> bool:
    if on == "table":
        return resource == '{"Fn::GetAtt": ["Table", "Arn"]}'
    if on == "index":
        return resource == '{"Fn::Sub": "${Table.Arn}/index/due"}'
    if on.startswith("arn:aws:sns:"):
        return on.endswith("-errors") and resource == '{"Ref": "Alerts"}'
    named = re.search(r":secret:([^\"]+)", resource)
    return named is not None and fnmatch.fnmatchcase(f"{on}-AbCdEf", named[1])


@pytest.fixture(scope="module")
def vendors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = make_project(tmp_path_factory.mktemp("vendors"))
    with Running("sandbox", "--port", "0", project=home) as sandbox:
        yield "http://" + sandbox.lines_until("export XYZ_WRITE_KEY")[0].partition("http://")[2].partition(" ")[0]


@pytest.fixture(scope="module", params=["shared", "per-client"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vendors: str) -> Iterator[Stack]:
    home = make_project(tmp_path_factory.mktemp("deployed"))
    (home / "connect.yaml").write_text("name: shops\n")
    options = Options(functions=request.param, stage="prod" if request.param == "shared" else "seed")
    made = bundle(Project(home), options)
    shipping.write(home / "out", made.files, Options(), force=False)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of moto, for what it passes over
        patch.setattr(aws, "_clients", {})
        server = aws_server(patch)
        next(server)
        patch.setenv("CONNECT_VIA", vendors)
        found = Stack(made, options.prefix, home / "out/app", patch)
        found.create(translated(made, patch))
        put_secrets(found)
        record(found, patch)
        yield found
        server.close()
    shutil.rmtree(home)


def put_secrets(stack: Stack) -> None:
    """As README.md says: each field where it says that it was a reference to the environment."""
    guide = stack.made.files["README.md"]
    for name, fields in re.findall(r"^`(/connect\S*)`: (.+)$", guide, re.MULTILINE):
        values = {field: SECRETS[given] for field, given in re.findall(r"`([^`]+)` \(was `env:(\w+)`\)", fields)}
        aws.client("secretsmanager").create_secret(Name=name, SecretString=json.dumps(values))
    aws.client("secretsmanager").create_secret(Name=f"/{stack.prefix}/key", SecretString=OWN_KEY)


def record(stack: Stack, patch: pytest.MonkeyPatch) -> None:
    from botocore.client import BaseClient

    plain = BaseClient._make_api_call

    def recorded(client: Any, operation: str, given: Any) -> Any:
        stack.calls.append((client.meta.service_model.service_name, operation, given))
        return plain(client, operation, given)

    patch.setattr(BaseClient, "_make_api_call", recorded)


def named(stack: Stack, connector: str, client: str, does: str) -> str:
    """The function that does this for a client."""
    names = [
        each["Properties"]["FunctionName"]
        for each in stack.template.values()
        if each["Type"] == "AWS::Serverless::Function"
    ]
    wanted = (
        f"{stack.prefix}-{connector}-{client}-{does}",
        f"{stack.prefix}-{connector}-{does}",
        f"{stack.prefix}-{connector}-{'auth-token' if does == 'refresh-token' else 'shared'}",
        f"{stack.prefix}-{does}",
    )
    return next(name for name in wanted if name in names)


CLIENTS = {"responsys": "client-abc", "salesforce": "client-def", "rdstation": "client-xyz"}


def test_an_event_of_each_connector_goes_in_waits_and_is_delivered_with_the_rights_there_are(stack: Stack) -> None:
    told, delivered = {}, {}
    renewed: list[str] = []
    for connector, client in CLIENTS.items():
        event = gateway(f"/{connector}", EVENTS[connector], X_Connect_Key=KEYS[connector])
        event["rawPath"] = event["requestContext"]["http"]["path"] = f"/{connector}"
        event["requestContext"]["stage"] = "$default"
        answer = stack.run(named(stack, connector, client, "receive"), event)
        said = json.loads(answer["body"])
        told[connector] = (answer["statusCode"], said.get("outcome") or said.get("accepted"))
    for connector in ("responsys", "salesforce"):
        name = named(stack, connector, CLIENTS[connector], "refresh-token")
        summary = stack.run(name, stack.scheduled(name))
        renewed += summary["renewed"]
    for connector, client in CLIENTS.items():
        name = named(stack, connector, client, "process")
        summary = stack.run(name, stack.scheduled(name))
        delivered[connector] = (summary["delivered"], summary["waiting"], summary["failed"])
    assert told == {"responsys": (202, 1), "salesforce": (202, 1), "rdstation": (200, "delivered")}
    assert delivered == {"responsys": (1, 0, []), "salesforce": (1, 0, []), "rdstation": (0, 0, [])}
    assert sorted(renewed) == ["responsys/client-abc", "salesforce/client-def"]  # at first, there is no token at all


def test_a_refused_log_in_reaches_the_topic_with_the_rights_there_are(stack: Stack) -> None:
    queue = subscribed(f"arn:aws:sns:{REGION}:{ACCOUNT}:{stack.prefix}-errors")
    home = f"/{stack.prefix}/salesforce/client-def/creds"
    secrets = aws.client("secretsmanager")
    good = secrets.get_secret_value(SecretId=home)["SecretString"]
    secrets.put_secret_value(SecretId=home, SecretString=json.dumps(dict.fromkeys(json.loads(good), "wrong")))
    event = gateway("/salesforce", EVENTS["salesforce"] | {"eventId": "another"}, X_Connect_Key=KEYS["salesforce"])
    event["rawPath"] = event["requestContext"]["http"]["path"] = "/salesforce"
    event["requestContext"]["stage"] = "$default"
    assert stack.run(named(stack, "salesforce", "client-def", "receive"), event)["statusCode"] == 202
    name = named(stack, "salesforce", "client-def", "process")
    with pytest.raises(LanesFailed, match="salesforce/client-def: paused"):
        stack.run(name, stack.scheduled(name))
    assert [json.loads(each["Body"])["kind"] for each in messages(queue)] == ["lane-paused"]
    secrets.put_secret_value(SecretId=home, SecretString=good)
    assert stack.run(name, stack.scheduled(name))["delivered"] == 1


def test_the_stack_has_what_the_template_says(stack: Stack) -> None:
    table = aws.client("dynamodb").describe_table(TableName=f"{stack.prefix}-events")["Table"]
    assert (table["KeySchema"], table["DeletionProtectionEnabled"], table["BillingModeSummary"]["BillingMode"]) == (
        [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        True,
        "PAY_PER_REQUEST",
    )
    functions = [each["FunctionName"] for each in aws.client("lambda").list_functions()["Functions"]]
    ours = [name for name in functions if name.startswith("connect-seed-") == (stack.prefix == "connect-seed")]
    assert len(ours) == stack.made.functions
    shown = [each["DashboardName"] for each in aws.client("cloudwatch").list_dashboards()["DashboardEntries"]]
    wanted = {f"{stack.prefix}-overview", *(f"{stack.prefix}-client-{client}" for client in CLIENTS.values())}
    assert wanted <= set(shown)
    assert aws.client("sqs").get_queue_url(QueueName=f"{stack.prefix}-missed-runs")["QueueUrl"]


def test_what_the_store_asks_of_dynamodb_is_what_process_may_do() -> None:
    """Read from its source: verbs of calls, and operations within transactions."""
    asked = set()
    for file in (ROOT / "engine/stores/dynamodb").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "call":
                asked |= {each.value for each in node.args[:1] if isinstance(each, ast.Constant)}
            if isinstance(node, ast.Dict):
                keys = {each.value for each in node.keys if isinstance(each, ast.Constant)}
                asked |= {OF_A_TRANSACTION[key] for key in keys & OF_A_TRANSACTION.keys()}
    verbs = {re.sub(r"(?:^|_)([a-z])", lambda found: found[1].upper(), str(each)) for each in asked}
    only_to_make_it = {"CreateTable", "UpdateTimeToLive"}
    assert only_to_make_it <= verbs
    assert verbs - only_to_make_it - {"TransactWriteItems"} == set(permissions.TABLE["process"])
