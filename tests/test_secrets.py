from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.errors import SecretUnavailable
from engine.secrets import OwnSettings, SecretSources, fingerprint, looks_literal


class Refusal(Exception):
    """As botocore's ClientError carries it."""

    def __init__(self, code: str) -> None:
        super().__init__(f"secret s3cr3t: {code}")
        self.response = {"Error": {"Code": code}}


class Manager:
    """Secrets Manager and Parameter Store that hold what the test gives them."""

    def __init__(self, secrets: dict[str, Any]) -> None:
        self.secrets, self.asked = secrets, 0

    def get_secret_value(self, *, SecretId: str) -> dict[str, Any]:
        self.asked += 1
        value = self.secrets[SecretId]
        if isinstance(value, Exception):
            raise value
        return {"SecretBinary": value} if isinstance(value, bytes) else {"SecretString": value}

    def get_parameter(self, *, Name: str, WithDecryption: bool) -> dict[str, Any]:
        assert WithDecryption
        return {"Parameter": {"Value": self.get_secret_value(SecretId=Name)["SecretString"]}}

    def client(self, service: str, region: str | None) -> Manager:
        del service, region
        return self


def refusal_of(sources: SecretSources, reference: str) -> str:
    with pytest.raises(SecretUnavailable) as caught:
        sources.resolve(reference)
    assert "s3cr3t" not in str(caught.value)
    return str(caught.value)


def test_an_environment_variable_is_read_when_asked(tmp_path: Path) -> None:
    env = {"TOKEN": "one"}
    sources = SecretSources(tmp_path, env)
    assert sources.resolve("env:TOKEN") == "one"
    env["TOKEN"] = "two"
    assert sources.resolve("env:TOKEN") == "two"


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    sources = SecretSources(tmp_path, {"EMPTY": ""}, keyring=lambda _service, _user: None)
    (tmp_path / "dir").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "big").write_bytes(b"x" * 70_000)
    references = ["env:A", "env:EMPTY", "file:a.txt", "file:dir", "file:binary", "file:big", "keyring:crm/ana"]
    assert [refusal_of(sources, reference) for reference in references] == [
        "env:A: set the environment variable A",
        "env:EMPTY: it is empty",
        "file:a.txt: No such file or directory",
        "file:dir: it is not a regular file",
        "file:binary: it is not UTF-8 text",
        "file:big: it has more than 65536 bytes",
        "keyring:crm/ana: run `keyring set crm ana`",
    ]


@pytest.mark.parametrize(
    "literal",
    ["s3cr3t", "vault:s3cr3t", "env:s3cr3t-x", "env:", "aws-secretsmanager:a#b#s3cr3t", ""],
)
def test_a_literal_is_refused_and_never_repeated(tmp_path: Path, literal: str) -> None:
    assert looks_literal(literal)
    assert refusal_of(SecretSources(tmp_path, {}), literal) == (
        "a secret is given as one of env:NAME, file:PATH, keyring:SERVICE/USER, aws-secretsmanager:NAME#FIELD, "
        "aws-ssm:/NAME; what stands here is none of them"
    )


@pytest.mark.parametrize(
    "reference",
    [
        "env:A_1",
        "file:secrets/a b.pem",
        "keyring:crm/ana",
        "aws-secretsmanager:/connect/crm/a",
        "aws-secretsmanager:a#b",
        "aws-secretsmanager:arn:aws:secretsmanager:sa-east-1:123456789012:secret:connect/crm-AbCdEf#key",
        "aws-ssm:/connect/crm/a",
        "aws-ssm:/connect/crm#key",
    ],
)
def test_a_reference_does_not_look_literal(reference: str) -> None:
    assert not looks_literal(reference)


def test_a_file_loses_its_last_newline_and_nothing_else(tmp_path: Path) -> None:
    sources = SecretSources(tmp_path, {})
    for text, value in [("a\n", "a"), ("a\r\n", "a"), ("-a-\nb\n\n", "-a-\nb\n"), (" a ", " a ")]:
        (tmp_path / "s").write_bytes(text.encode())
        os.utime(tmp_path / "s", ns=(0, hash(text) % 10**9))
        assert sources.resolve("file:s") == value


def test_a_rotated_file_serves_without_restart(tmp_path: Path) -> None:
    sources = SecretSources(tmp_path, {})
    path = tmp_path / "token"
    path.write_text("old")
    assert sources.resolve("file:token") == "old"
    fresh = tmp_path / "fresh"
    fresh.write_text("new")
    fresh.rename(path)
    assert sources.resolve("file:token") == "new"


def test_a_file_outside_the_project_needs_leave(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "out").write_text("value")
    (project / "link").symlink_to(tmp_path / "out")
    strict, lenient = SecretSources(project, {}), SecretSources(project, {}, outside=True)
    for name in ["../out", str(tmp_path / "out"), "link"]:
        assert refusal_of(strict, f"file:{name}") == (
            f"file:{name}: it lies outside the project, which has to be allowed"
        )
        assert lenient.resolve(f"file:{name}") == "value"


def test_a_file_that_everyone_can_read_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("value")
    path.chmod(0o644)
    sources = SecretSources(tmp_path, {})
    assert sources.note("file:s") == "file:s: every user of this machine can read it; chmod 600"
    path.chmod(0o600)
    assert [sources.note("file:s"), sources.note("env:A"), sources.note("file:none")] == ["", "", ""]


def test_a_keyring_is_asked_with_service_and_user(tmp_path: Path) -> None:
    sources = SecretSources(tmp_path, {}, keyring=lambda service, user: f"{service}|{user}")
    assert sources.resolve("keyring:connect/crm/ana") == "connect/crm|ana"


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "keyring", None)
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    sources = SecretSources(tmp_path, {})
    assert refusal_of(sources, "keyring:crm/ana") == "keyring:crm/ana: install daxgo-connect[keyring]"
    assert refusal_of(sources, "aws-secretsmanager:a#b") == "aws-secretsmanager:a: install daxgo-connect[aws]"


def test_aws_secrets_are_fields_of_json_or_whole(tmp_path: Path) -> None:
    secrets = {"json": '{"user": "ana", "pin": 1.50, "deep": {"s3cr3t": 1}}', "plain": "s3cr3t", "binary": b"whole"}
    sources = SecretSources(tmp_path, {}, aws=Manager(secrets).client)
    fields = ["json#user", "json#pin", "plain", "binary"]
    assert [sources.resolve(f"aws-secretsmanager:{name}") for name in fields] == ["ana", "1.50", "s3cr3t", "whole"]
    assert [refusal_of(sources, f"aws-secretsmanager:{name}") for name in ["json#deep", "json#none", "plain#user"]] == [
        "aws-secretsmanager:json#deep: the secret's JSON has no text deep",
        "aws-secretsmanager:json#none: the secret's JSON has no text none",
        "aws-secretsmanager:plain#user: the secret is not a JSON object, so it has no field user",
    ]


def test_aws_is_asked_once_in_five_minutes_for_all_fields(tmp_path: Path) -> None:
    now = [0.0]
    manager = Manager({"a": '{"x": "1", "y": "2"}'})
    sources = SecretSources(tmp_path, {}, aws=manager.client, clock=lambda: now[0])
    assert (sources.resolve("aws-secretsmanager:a#x"), sources.resolve("aws-secretsmanager:a#y")) == ("1", "2")
    manager.secrets["a"] = '{"x": "3"}'
    now[0] = 299
    assert (sources.resolve("aws-secretsmanager:a#x"), manager.asked) == ("1", 1)
    now[0] = 300
    assert (sources.resolve("aws-secretsmanager:a#x"), manager.asked) == ("3", 2)


def test_a_secret_that_is_slow_to_come_keeps_no_other_waiting(tmp_path: Path) -> None:
    slow, going_on = threading.Event(), threading.Event()

    def keyring(service: str, _: str) -> str:
        if service == "slow":
            slow.set()
            assert going_on.wait(10)
        return "s3cr3t"

    sources = SecretSources(tmp_path, {}, keyring=keyring)
    waiting = threading.Thread(target=sources.resolve, args=("keyring:slow/u",))
    waiting.start()
    assert slow.wait(10)
    assert sources.resolve("keyring:quick/u") == "s3cr3t"
    going_on.set()
    waiting.join()


def test_an_outage_of_aws_serves_the_last_value_and_a_refusal_ends_it(tmp_path: Path) -> None:
    now = [0.0]
    manager = Manager({"a": "value"})
    sources = SecretSources(tmp_path, {}, aws=manager.client, clock=lambda: now[0])
    assert sources.resolve("aws-secretsmanager:a") == "value"
    manager.secrets["a"] = Refusal("ThrottlingException")
    now[0] = 300
    assert sources.resolve("aws-secretsmanager:a") == "value"
    manager.secrets["a"] = Refusal("ResourceNotFoundException")
    now[0] = 314
    assert sources.resolve("aws-secretsmanager:a") == "value"
    now[0] = 315
    missing = "aws-secretsmanager:a: ResourceNotFoundException: there is none of this name in this account and region"
    assert refusal_of(sources, "aws-secretsmanager:a") == missing
    manager.secrets["a"] = Refusal("ThrottlingException")
    asked = manager.asked
    assert refusal_of(sources, "aws-secretsmanager:a") == missing  # who asks every second does not ask AWS
    now[0] = 330
    busy = "aws-secretsmanager:a: ThrottlingException: AWS asks to wait; it is tried again"
    assert (refusal_of(sources, "aws-secretsmanager:a"), manager.asked) == (busy, asked + 1)


def test_what_aws_refuses_is_said_with_what_to_allow(tmp_path: Path) -> None:
    arn = "arn:aws:secretsmanager:sa-east-1:123456789012:secret:b-AbCdEf"
    secrets = {
        "a": Refusal("AccessDeniedException"),
        arn: Refusal("AccessDeniedException"),
        "c": Refusal("DecryptionFailure"),
        "d": Refusal("InvalidRequestException"),
        "e": Refusal("ExpiredTokenException"),
        "f": Refusal("InternalServiceError"),
        "g": b"\xff\xfe",
    }
    sources = SecretSources(tmp_path, {}, aws=Manager(secrets).client)
    own_key = "and kms:Decrypt on its key if that is one of your own"
    assert [refusal_of(sources, f"aws-secretsmanager:{name}") for name in secrets] == [
        "aws-secretsmanager:a: AccessDeniedException: allow secretsmanager:GetSecretValue on the secret a, " + own_key,
        f"aws-secretsmanager:{arn}: AccessDeniedException: allow secretsmanager:GetSecretValue on {arn}, {own_key}",
        "aws-secretsmanager:c: DecryptionFailure: allow kms:Decrypt on the key that the secret c is encrypted with",
        "aws-secretsmanager:d: InvalidRequestException: it is marked for deletion, or has no value yet",
        "aws-secretsmanager:e: ExpiredTokenException: AWS does not take the credentials of this process",
        "aws-secretsmanager:f: InternalServiceError",
        "aws-secretsmanager:g: it is binary and not UTF-8 text; keep it as text, such as base64",
    ]
    assert refusal_of(sources, "aws-ssm:a") == (
        "aws-ssm:a: AccessDeniedException: allow ssm:GetParameter on the parameter a, " + own_key
    )


def test_a_refused_value_is_asked_for_anew_unless_it_is_fresh(tmp_path: Path) -> None:
    now = [0.0]
    manager = Manager({"a": '{"x": "old"}'})
    sources = SecretSources(tmp_path, {}, aws=manager.client, clock=lambda: now[0])
    assert sources.resolve("aws-secretsmanager:a#x") == "old"
    manager.secrets["a"] = '{"x": "new"}'
    now[0] = 29
    sources.forget("aws-secretsmanager:a#x")
    assert sources.resolve("aws-secretsmanager:a#x") == "old"
    now[0] = 30
    sources.forget("aws-secretsmanager:a#x")
    assert sources.resolve("aws-secretsmanager:a#x") == "new"


def test_the_engine_s_own_secrets_may_be_references(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    env = {
        "CONNECT_KEY": f"file:{tmp_path / 'key'}",
        "CONNECT_ADMIN_TOKEN": "aws-ssm:/connect/admin#token",
        "CONNECT_ALERT_WEBHOOKS": "https://hooks.example/a",
        "CONNECT_STORE": "file:is-no-secret",
    }
    manager = Manager({"/connect/admin": '{"token": "t0k3n"}'})
    own = OwnSettings(env, tmp_path, aws=manager.client)
    assert (manager.asked, len(own), sorted(own)) == (0, 4, sorted(env))  # looked up when it is wanted
    assert {name: own[name] for name in own} == {
        "CONNECT_KEY": "from a file",
        "CONNECT_ADMIN_TOKEN": "t0k3n",
        "CONNECT_ALERT_WEBHOOKS": "https://hooks.example/a",
        "CONNECT_STORE": "file:is-no-secret",
    }
    missing = OwnSettings({"CONNECT_KEY": "file:/no/such/file"}, tmp_path)
    with pytest.raises(SecretUnavailable, match=r"^CONNECT_KEY: file:/no/such/file: No such file or directory$"):
        missing.get("CONNECT_KEY")


def test_a_fingerprint_changes_with_any_name_or_value_and_not_with_order() -> None:
    assert fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"}) == "17317778f48072ac"
    others = [{"a": "1"}, {"a": "1", "b": "3"}, {"a": "1", "c": "2"}, {"a": "1b", "": "2"}, {"a1": "", "b": "2"}, {}]
    assert len({fingerprint(values) for values in others} | {"17317778f48072ac"}) == 7
