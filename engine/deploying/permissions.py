"""
A function -> what it may do in AWS, as statements of its role: these actions on these resources and nothing with `*`.

`TransactWriteItems` and `TransactGetItems` are no actions of IAM; who may do what is in them may do them.
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazondynamodb.html
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from engine.authoring.scaffold.writing import Inline
from engine.deploying.references import PARAMETER
from engine.stores.dynamodb.table import INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.deploying.parts import Function

MOST_BYTES = (
    10_240  # of the policies within a role; https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
)

# What the DynamoDB store does, by what a function is for.
TABLE = {
    "receive": ("DescribeTable", "GetItem", "BatchGetItem", "Query", "PutItem", "BatchWriteItem"),
    "process": (
        *("DescribeTable", "GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem", "DeleteItem"),
        "BatchWriteItem",
    ),
    "refresh": ("DescribeTable", "GetItem", "Query", "PutItem", "DeleteItem"),
}
A_FUNCTION = 113  # characters of its ARN in quotes, at most
NO_VALUE = Inline(Ref="AWS::NoValue")


def statements(function: Function, *, logs: str, key: str) -> list[dict[str, Any]]:
    """`logs` is the id of its log group, `key` the name of the secret that encrypts stored tokens."""
    verbs = TABLE["process" if function.sends and function.does == "receive" else function.does]
    found = [
        _allow("Logs", ["logs:CreateLogStream", "logs:PutLogEvents"], [attribute(logs)]),
        _allow("Table", [f"dynamodb:{verb}" for verb in sorted(verbs)], [attribute("Table")]),
    ]
    if function.does == "process":  # which lanes are due
        found.append(_allow("Index", ["dynamodb:Query"], [sub("${Table.Arn}/index/" + INDEX)]))
    if function.sends:
        found.append(_allow("Alerts", ["sns:Publish"], [Inline(Ref="Alerts")]))
    names = sorted({*function.secrets, *([key] if function.sends else [])})
    parameters = [name.removeprefix(PARAMETER) for name in names if name.startswith(PARAMETER)]
    names = [name for name in names if not name.startswith(PARAMETER)]
    if names:
        found.append(_allow("Secrets", ["secretsmanager:GetSecretValue"], [secret(name) for name in names]))
    if parameters:
        found.append(_allow("Parameters", ["ssm:GetParameter"], [parameter(name) for name in parameters]))
    if names or parameters:
        decrypt = _allow("Decrypt", ["kms:Decrypt"], [Inline(Ref="SecretsKeyArn")])
        found.append({"Fn::If": ["HasKey", decrypt, NO_VALUE]})
    if function.every_m:
        found.append(_allow("Missed", ["sqs:SendMessage"], [attribute("Missed")]))
    return found


def secret(name: str) -> Any:
    """Its ARN; AWS puts a hyphen and six letters behind the name."""
    if name.startswith("arn:"):
        return name
    return sub("arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:" + f"{name}-??????")


def parameter(name: str) -> Any:
    """The ARN of a parameter of Systems Manager."""
    if name.startswith("arn:"):
        return name
    return sub("arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter/" + name.removeprefix("/"))


def role(name: str, service: str, allowed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    trusting = {"Effect": "Allow", "Principal": Inline(Service=service), "Action": "sts:AssumeRole"}
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trusting]},
            "Policies": [{"PolicyName": name, "PolicyDocument": {"Version": "2012-10-17", "Statement": list(allowed)}}],
        },
    }


def _allow(sid: str, actions: list[str], resources: list[Any]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}


def attribute(id_: str) -> Inline:
    return Inline({"Fn::GetAtt": [id_, "Arn"]})


def sub(text: str) -> Inline:
    return Inline({"Fn::Sub": text})


def size(made: dict[str, Any]) -> int:
    """Bytes that the policies of a role will have, with names as long as they get; IAM does not count blanks."""
    text = re.sub(r"\s", "", json.dumps([policy["PolicyDocument"] for policy in made["Properties"]["Policies"]]))
    text = re.sub(r'\{"Fn::GetAtt":[^}]*\}', "x" * A_FUNCTION, text)
    for hole, length in (("${AWS::Partition}", 10), ("${AWS::Region}", 14), ("${AWS::AccountId}", 12)):
        text = text.replace(hole, "x" * length)
    return len(text)
