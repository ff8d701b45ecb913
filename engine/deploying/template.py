"""What is to be deployed -> one SAM template: plain data, with comments where a reader would ask why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.authoring.scaffold.writing import Inline, Note, block, plain
from engine.deploying import naming, watching
from engine.deploying.permissions import NO_VALUE, attribute, role, statements, sub
from engine.stores.dynamodb.table import INDEX, INDEX_KEYS, KEYS, TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.deploying.parts import Function, Parts, Secret

Resources = dict[Any, Any]

RUNTIME = "python3.12"
MEMORY_MB = 1024  # a cold start takes processor time, and that is given by memory
MOST_RESOURCES = 500  # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
MOST_BYTES = 1_000_000
SPARE_M = 5  # a token that ends before the next look, or soon after, is renewed at this one
PROJECT = "/var/task"  # where Lambda unpacks `app/`


def template(parts: Parts) -> dict[Any, Any]:
    """The whole template; keys that are a `Note` are comments, see `text`."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Transform": "AWS::Serverless-2016-10-31",
        "Description": f"DaxGO Connect: {', '.join(parts.connectors)} ({parts.options.stage}).",
        "Parameters": _parameters(parts),
        "Conditions": {
            "HasEmail": _given("AlertEmail"),
            "HasKey": _given("SecretsKeyArn"),
            "Reserves": Inline({"Fn::Equals": [Inline(Ref="ReserveConcurrency"), "true"]}),
        },
        "Globals": {"Function": _globals(parts)},
        "Resources": resources(parts),
        "Outputs": _outputs(parts),
    }


def text(made: dict[Any, Any], head: str) -> str:
    """As YAML, with `head` as comment before it; each section and resource apart."""
    lines = block({Note(head): None})
    for key, value in made.items():
        lines.append("")
        if key == "Resources":
            lines.append("Resources:")
            for name, resource in value.items():
                lines += block({name: resource}, 2) if isinstance(name, Note) else [*block({name: resource}, 2), ""]
            lines.pop()
        else:
            lines += block({key: value})
    return "\n".join(lines) + "\n"


def count(made: dict[Any, Any]) -> int:
    """Its resources once SAM has made two of some: what is called later has its set-up apart, an API its stage."""
    found: list[dict[str, Any]] = list(plain(made["Resources"]).values())
    apart = sum("EventInvokeConfig" in each.get("Properties", {}) for each in found)
    apis = sum(bool(each["Type"] == "AWS::Serverless::HttpApi") for each in found)
    return len(found) + apart + apis


def _parameters(parts: Parts) -> dict[str, Any]:
    return {
        "AlertEmail": {
            "Type": "String",
            "Default": parts.options.email or "",
            "Description": "Who is told of alarms and of lanes that are paused; empty, nobody is subscribed.",
        },
        "OldestEventSeconds": {
            "Type": "Number",
            "Default": watching.OLDEST_S,
            "Description": "An event that waits longer raises an alarm.",
        },
        "DeadLettersAtOnce": {
            "Type": "Number",
            "Default": 0,
            "Description": "More dead letters than this in five minutes raise an alarm.",
        },
        "LogDays": {
            "Type": "Number",
            "Default": 30,
            "AllowedValues": [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365],
            "Description": "How long logs are kept.",
        },
        "RequestsPerSecond": {
            "Type": "Number",
            "Default": 500,
            "Description": "Requests that the API takes in a second, all clients together; above it callers get 429.",
        },
        "RequestsAtOnce": {"Type": "Number", "Default": 1000, "Description": "Requests that may come at once."},
        "SecretsKeyArn": {
            "Type": "String",
            "Default": "",
            "Description": "A KMS key of your own that secrets are encrypted with; empty, it is AWS's own key.",
        },
        "ReserveConcurrency": {
            "Type": "String",
            "Default": "true",
            "AllowedValues": ["true", "false"],
            "Description": "false in an account that may run only few functions at once, such as a new one.",
        },
    }


def _globals(parts: Parts) -> dict[Any, Any]:
    return {
        "Runtime": RUNTIME,
        "Architectures": ["arm64"],
        "CodeUri": "app/",
        "MemorySize": MEMORY_MB,
        Note("Tracing (X-Ray) is off: traces would hold addresses of vendors and cost by the request."): None,
        "Environment": {
            "Variables": {
                "CONNECT_PROJECT": PROJECT,
                "CONNECT_STORE": sub("dynamodb://${Table}?region=${AWS::Region}"),
                "CONNECT_METRICS": "emf",
                "CONNECT_AUDIT": "-",
            }
        },
        "Tags": {"project": "daxgo-connect", "stage": parts.options.stage},
    }


def resources(parts: Parts) -> Resources:
    """All of them by logical id, those that belong together below one another."""
    found: Resources = {}

    def under(says: str, more: Resources) -> None:
        found[Note(says)] = None
        found.update(more)

    under("Events, tokens, leases: one table for all. It outlives the stack.", {"Table": _table(parts)})
    says = "The key that encrypts stored tokens: what `connect key` prints."
    under("Without the key nothing is sent; README.md says how to put it there.", {"Key": _secret(parts.key, says)})
    under(
        "Secrets hold a made-up text until the real ones are put there, see README.md. They outlive the stack.",
        {each.id: _secret_of(each) for each in parts.secrets if _stack(each, parts) == 0},
    )
    under(
        "Who is told of trouble. Alarms could not publish to a topic that is encrypted with AWS's own key.",
        _alerts(parts),
    )
    under("Runs of a schedule that failed or never began.", {"Missed": _queue(parts)})
    under("One path for each connector. The engine checks origins, by client, so OPTIONS goes there too.", _api(parts))
    for function in parts.functions:
        under(function.says, dict(_function(function, parts)))
    under("The schedules call these functions, and no others.", {"RoleScheduler": _scheduler(parts)})
    under("Alarms, all to the topic; those with a query look at all clients at once.", watching.alarms(parts))
    dashboards = {} if parts.options.stacks else _dashboards(parts, 0)
    under("Dashboards: all clients, then each.", {"Overview": watching.overview(parts), **dashboards})
    if parts.options.stacks:
        nested = {f"Clients{number}": _nested(number) for number in range(1, parts.options.stacks + 1)}
        under("Secrets and dashboards of clients, in stacks of their own: one template holds 500 resources.", nested)
    return found


def _table(parts: Parts) -> dict[str, Any]:
    return {
        "Type": "AWS::DynamoDB::Table",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "TableName": f"{parts.options.prefix}-events",
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [Inline(AttributeName=name, AttributeType=kind) for name, kind in TYPES.items()],
            "KeySchema": _schema(KEYS),
            "GlobalSecondaryIndexes": [
                {"IndexName": INDEX, "KeySchema": _schema(INDEX_KEYS), "Projection": Inline(ProjectionType="KEYS_ONLY")}
            ],
            "TimeToLiveSpecification": Inline(AttributeName="ttl", Enabled=True),
            "PointInTimeRecoverySpecification": Inline(PointInTimeRecoveryEnabled=True),
            "SSESpecification": Inline(SSEEnabled=True),
            "DeletionProtectionEnabled": True,
        },
    }


def of_clients(parts: Parts) -> dict[str, dict[Any, Any]]:
    """The templates of the stacks that clients are shared out to, by file."""
    found = {}
    for number in range(1, parts.options.stacks + 1):
        secrets = {each.id: _secret_of(each) for each in parts.secrets if _stack(each, parts) == number}
        found[stack_file(number)] = {
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": f"DaxGO Connect: secrets and dashboards of clients ({parts.options.stage}, {number}).",
            "Parameters": {"SecretsKeyArn": {"Type": "String", "Default": ""}},
            "Conditions": {"HasKey": _given("SecretsKeyArn")},
            "Resources": {**secrets, **_dashboards(parts, number), "Nothing": _placeholder()},
        }
    return found


def stack_file(number: int) -> str:
    return f"clients-{number}.yaml"


def _nested(number: int) -> dict[str, Any]:
    return {
        "Type": "AWS::CloudFormation::Stack",
        "Properties": {
            "TemplateURL": stack_file(number),
            "Parameters": {"SecretsKeyArn": Inline(Ref="SecretsKeyArn")},
        },
    }


def _placeholder() -> dict[str, Any]:
    """A stack that no client falls to needs something in it."""
    return {"Type": "AWS::CloudFormation::WaitConditionHandle"}


def _stack(secret: Secret, parts: Parts) -> int:
    return parts.options.stack_of(secret.client) if secret.client is not None else 0


def _dashboards(parts: Parts, number: int) -> Resources:
    return {
        naming.logical("Dashboard", name): watching.of_client(parts.options.prefix, client)
        for name, client in parts.clients.items()
        if parts.options.stack_of(name) == number
    }


def _secret_of(secret: Secret) -> dict[str, Any]:
    return _secret(secret.name, f"A JSON object with {_some(list(secret.fields))}.")


def _given(parameter: str) -> Inline:
    return Inline({"Fn::Not": [Inline({"Fn::Equals": [Inline(Ref=parameter), ""]})]})


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _schema(keys: dict[str, str]) -> list[Inline]:
    return [Inline(AttributeName=name, KeyType=kind) for name, kind in keys.items()]


def _secret(name: str, says: str) -> dict[str, Any]:
    return {
        "Type": "AWS::SecretsManager::Secret",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "Name": name,
            "Description": says,
            "KmsKeyId": Inline({"Fn::If": ["HasKey", Inline(Ref="SecretsKeyArn"), NO_VALUE]}),
            "GenerateSecretString": Inline(PasswordLength=32, ExcludePunctuation=True),
        },
    }


def _alerts(parts: Parts) -> Resources:
    return {
        "Alerts": {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": f"{parts.options.prefix}-errors"}},
        "AlertsByEmail": {
            "Type": "AWS::SNS::Subscription",
            "Condition": "HasEmail",
            "Properties": {
                "TopicArn": Inline(Ref="Alerts"),
                "Protocol": "email",
                "Endpoint": Inline(Ref="AlertEmail"),
            },
        },
    }


def _queue(parts: Parts) -> dict[str, Any]:
    return {
        "Type": "AWS::SQS::Queue",
        "Properties": {
            "QueueName": f"{parts.options.prefix}-missed-runs",
            "MessageRetentionPeriod": 1_209_600,
            "SqsManagedSseEnabled": True,
        },
    }


# --- the API ---


def _api(parts: Parts) -> Resources:
    prefix = parts.options.prefix
    paths: dict[str, Any] = {}
    for route in parts.routes:
        invoked = (
            "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${%s.Arn}/invocations"
        )
        integration = {
            "type": "aws_proxy",
            "httpMethod": "POST",
            "payloadFormatVersion": "2.0",
            "uri": sub(invoked % route.function),
        }
        operation = {"x-amazon-apigateway-integration": integration}
        paths[route.path] = {"post": operation, "options": operation}
    named = ("requestId", "requestTime", "routeKey", "status", "responseLatency", "integrationErrorMessage")
    context = {"requestId": "requestId", "integrationErrorMessage": "integration.error"}
    line = json.dumps({name: f"$context.{context.get(name, name)}" for name in named})
    return {
        "Api": {
            "Type": "AWS::Serverless::HttpApi",
            "Properties": {
                "StageName": "$default",
                "DefaultRouteSettings": {
                    "ThrottlingRateLimit": Inline(Ref="RequestsPerSecond"),
                    "ThrottlingBurstLimit": Inline(Ref="RequestsAtOnce"),
                },
                Note("No address and no query stands in this log."): None,
                "AccessLogSettings": {"DestinationArn": attribute("LogApi"), "Format": line},
                "DefinitionBody": {"openapi": "3.0.1", "info": Inline(title=prefix, version="1.0"), "paths": paths},
            },
        },
        "LogApi": _log(f"/aws/vendedlogs/{prefix}-api"),
    }


def _log(name: str) -> dict[str, Any]:
    return {
        "Type": "AWS::Logs::LogGroup",
        "Properties": {"LogGroupName": name, "RetentionInDays": Inline(Ref="LogDays")},
    }


# --- functions ---

HANDLERS = {"receive": "receive", "process": "process", "refresh": "refresh_tokens"}


def _function(function: Function, parts: Parts) -> Iterator[tuple[str, dict[str, Any]]]:
    log = f"Log{function.id}"
    properties: dict[Any, Any] = {
        "FunctionName": function.name,
        "Description": function.says[:256],
        "Handler": f"engine.lambdas.{HANDLERS[function.does]}",
        "Timeout": function.timeout_s,
        "Role": attribute(f"Role{function.id}"),
        "LoggingConfig": {"LogGroup": Inline(Ref=log)},
    }
    if variables := _variables(function, parts):
        properties["Environment"] = {"Variables": variables}
    if function.concurrency:
        properties["ReservedConcurrentExecutions"] = Inline({"Fn::If": ["Reserves", function.concurrency, NO_VALUE]})
    if function.every_m:
        # The next run does what this one did not; a second try of the same would only meet it.
        properties["EventInvokeConfig"] = {
            "MaximumRetryAttempts": 0,
            "MaximumEventAgeInSeconds": max(60, min(function.every_m * 60, 3_600)),
            "DestinationConfig": {"OnFailure": {"Type": "SQS", "Destination": attribute("Missed")}},
        }
    yield function.id, {"Type": "AWS::Serverless::Function", "Properties": properties}
    allowed = statements(function, logs=log, key=parts.key)
    yield f"Role{function.id}", role(function.does, "lambda.amazonaws.com", allowed)
    yield log, _log(f"/aws/lambda/{function.name}")
    if function.every_m:
        yield f"When{function.id}", _schedule(function)
    else:
        called_by = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/*/*"
        yield (
            f"May{function.id}",
            {
                "Type": "AWS::Lambda::Permission",
                "Properties": {
                    "Action": "lambda:InvokeFunction",
                    "FunctionName": Inline(Ref=function.id),
                    "Principal": "apigateway.amazonaws.com",
                    "SourceArn": sub(called_by),
                },
            },
        )


def _variables(function: Function, parts: Parts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if function.does == "receive":
        found["CONNECT_CONNECTORS"] = ",".join(function.connectors)
        if function.clients:
            found["CONNECT_CLIENTS"] = ",".join(function.clients)
    if function.sends:
        found |= {"CONNECT_KEY": f"aws-secretsmanager:{parts.key}", "CONNECT_ALERT_SNS": Inline(Ref="Alerts")}
    return found


def _schedule(function: Function) -> dict[str, Any]:
    unit = "minute" if function.every_m == 1 else "minutes"
    only: dict[str, Any] = {"connectors": list(function.connectors)}
    if function.clients:
        only["clients"] = list(function.clients)
    if function.does == "refresh":
        only["within"] = f"{function.every_m + SPARE_M}m"
    return {
        "Type": "AWS::Scheduler::Schedule",
        "Properties": {
            "Name": function.name,
            "Description": function.says[:512],
            "ScheduleExpression": f"rate({function.every_m} {unit})",
            "FlexibleTimeWindow": Inline(Mode="OFF"),
            "Target": {
                "Arn": attribute(function.id),
                "RoleArn": attribute("RoleScheduler"),
                "Input": json.dumps(only),
                "RetryPolicy": Inline(MaximumRetryAttempts=0, MaximumEventAgeInSeconds=60),
                "DeadLetterConfig": Inline(Arn=attribute("Missed")),
            },
        },
    }


def _scheduler(parts: Parts) -> dict[str, Any]:
    called = [attribute(function.id) for function in parts.functions if function.every_m]
    allowed = [
        {"Sid": "Call", "Effect": "Allow", "Action": ["lambda:InvokeFunction"], "Resource": called},
        {"Sid": "Missed", "Effect": "Allow", "Action": ["sqs:SendMessage"], "Resource": [attribute("Missed")]},
    ]
    return role("schedules", "scheduler.amazonaws.com", allowed)


def _outputs(parts: Parts) -> dict[str, Any]:
    urls = "https://${Api}.execute-api.${AWS::Region}.${AWS::URLSuffix}"
    return {
        "Url": {"Description": "Tags post to this address and the path of a connector.", "Value": sub(urls)},
        "TableName": {"Value": Inline(Ref="Table")},
        "AlertsTopic": {"Value": Inline(Ref="Alerts")},
        "Stage": {"Value": parts.options.stage},
    }
