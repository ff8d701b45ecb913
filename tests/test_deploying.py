"""What `connect deploy aws` writes: names, rights, rates, sizes; linters of AWS read it, and a stack is made of it."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import ROOT, connect

from engine.deploying import naming, parts, permissions, shipping
from engine.deploying.bundle import Bundle, bundle
from engine.deploying.parts import Options, planned
from engine.deploying.references import references, rewritten
from engine.errors import SpecErrors, UsageError
from engine.spec.load import load_client
from engine.spec.located import read
from engine.spec.project import Project

OTHERS = """\
client: client-jkl
ingest: {signatures: ['env:JKL_SIGNING']}
connectors:
  klaviyo: {secrets: {api_key: 'env:JKL_KLAVIYO'}}
  netsuite:
    settings: {account: '1234567'}
    secrets: {consumer_key: 'env:JKL_A', consumer_secret: 'env:JKL_B', token_id: 'env:JKL_C', token_secret: 'env:JKL_D'}
"""
RDSTATION = """\
client: {name}
ingest: {{keys: ['env:KEY_{number}']}}
connectors: {{rdstation: {{match: '{name}', secrets: {{token: 'env:TOKEN_{number}'}}}}}}
"""
RESPONSYS = """\
client: {name}
ingest: {{keys: ['env:KEY_{number}']}}
connectors:
  responsys:
    settings: {{list: LIST}}
    secrets: {{username: 'env:USER_{number}', password: 'env:PASSWORD_{number}'}}
"""


def make(folder: Path, clients: dict[str, str] | None = None, settings: str = "name: shops\n") -> Project:
    """All connectors of the repository; its clients and one for the connectors that none of them has, unless given."""
    shutil.copytree(ROOT / "connectors", folder / "connectors")
    shutil.copytree(ROOT / "schemas/events", folder / "schemas/events")
    if clients is None:
        shutil.copytree(ROOT / "clients", folder / "clients")
        clients = {"client-jkl": OTHERS, "Odd.Name_1": RDSTATION.format(name="Odd.Name_1", number=1)}
    (folder / "clients").mkdir(exist_ok=True)
    for name, text in clients.items():
        (folder / "clients" / f"{name}.yaml").write_text(text)
    (folder / "connect.yaml").write_text(settings)
    return Project(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def bundles(whole: Project) -> dict[str, Bundle]:
    return {mode: bundle(whole, Options(functions=mode)) for mode in parts.MODES}


def resources(made: Bundle, file: str = "template.yaml") -> Any:
    return parsed(made.files[file])["Resources"]


@cache
def parsed(text: str) -> Any:
    return yaml.load(text, yaml.CSafeLoader)


def of_type(made: Bundle, kind: str) -> dict[str, Any]:
    return {name: each["Properties"] for name, each in resources(made).items() if each["Type"] == kind}


def findings(made: Bundle) -> list[str]:
    return [f"{each.severity}: {each}" for each in made.findings]


# --- AWS's own linters ---


def lint(file: Path) -> list[str]:
    from cfnlint.api import lint_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the linter's own
        return [str(each) for each in lint_file(file)]


def translated(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """As CloudFormation gets it from SAM, with the code in a bucket."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "sa-east-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from samtranslator.translator.transform import transform

        class NoPolicies:
            def load(self) -> dict[str, str]:
                return {}

        given = yaml.safe_load(made.files["template.yaml"])
        given["Globals"]["Function"]["CodeUri"] = "s3://bucket/app.zip"
        defaults = {name: each["Default"] for name, each in given["Parameters"].items()}
        found: dict[str, Any] = transform(given, defaults, NoPolicies())
        return found


@pytest.mark.parametrize("mode", parts.MODES)
def test_the_linter_and_sam_take_the_template_and_what_becomes_of_it(
    mode: str, bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundles[mode]
    (tmp_path / "template.yaml").write_text(made.files["template.yaml"])
    (tmp_path / "app").mkdir()
    assert lint(tmp_path / "template.yaml") == []
    out = translated(made, monkeypatch)
    (tmp_path / "out.json").write_text(json.dumps(out))
    assert lint(tmp_path / "out.json") == []
    assert len(out["Resources"]) == made.resources


# --- functions and schedules ---

# name, handler, how often it runs
SHARED = [
    ("connect-receive", "receive", None),
    ("connect-rdstation-shared", "receive", None),
    ("connect-activecampaign-process", "process", "rate(1 minute)"),
    ("connect-hubspot-process", "process", "rate(1 minute)"),
    ("connect-klaviyo-process", "process", "rate(1 minute)"),
    ("connect-mailchimp-process", "process", "rate(1 minute)"),
    ("connect-netsuite-process", "process", "rate(1 minute)"),
    ("connect-pipedrive-process", "process", "rate(1 minute)"),
    ("connect-rdstation-process", "process", "rate(1 minute)"),
    ("connect-responsys-process", "process", "rate(15 minutes)"),
    ("connect-salesforce-process", "process", "rate(15 minutes)"),
    ("connect-refresh-token", "refresh_tokens", "rate(15 minutes)"),
]
OF_THE_SEED = [
    ("connect-rdstation-shared", "receive", None),
    ("connect-rdstation-process", "process", "rate(1 minute)"),  # for what the caller did not wait for
    ("connect-responsys-client-abc-receive", "receive", None),
    ("connect-responsys-client-abc-process", "process", "rate(15 minutes)"),
    ("connect-responsys-refresh-token", "refresh_tokens", "rate(90 minutes)"),
    ("connect-salesforce-client-def-receive", "receive", None),
    ("connect-salesforce-client-def-process", "process", "rate(15 minutes)"),
    ("connect-salesforce-auth-token", "refresh_tokens", "rate(119 minutes)"),
]


def functions(made: Bundle) -> list[tuple[str, str, str | None]]:
    rates = {
        each["Target"]["Arn"]["Fn::GetAtt"][0]: each["ScheduleExpression"]
        for each in of_type(made, "AWS::Scheduler::Schedule").values()
    }
    return [
        (each["FunctionName"], each["Handler"].removeprefix("engine.lambdas."), rates.get(name))
        for name, each in of_type(made, "AWS::Serverless::Function").items()
    ]


def test_one_function_receives_and_one_for_each_connector_processes(bundles: dict[str, Bundle]) -> None:
    assert functions(bundles["shared"]) == SHARED


def test_functions_by_client_have_the_names_of_the_seed(bundles: dict[str, Bundle]) -> None:
    of_three = [
        each for each in functions(bundles["per-client"]) if re.search("rdstation|responsys|salesforce", each[0])
    ]
    assert of_three == OF_THE_SEED


def test_a_schedule_says_which_lanes_are_meant(bundles: dict[str, Bundle]) -> None:
    given = {
        mode: {
            each["Name"]: json.loads(each["Target"]["Input"])
            for each in of_type(made, "AWS::Scheduler::Schedule").values()
        }
        for mode, made in bundles.items()
    }
    assert given["shared"]["connect-responsys-process"] == {"connectors": ["responsys"]}
    assert given["per-client"]["connect-responsys-client-abc-process"] == {
        "connectors": ["responsys"],
        "clients": ["client-abc"],
    }


def test_the_shortest_wait_of_the_actions_in_use_sets_the_rate(tmp_path: Path) -> None:
    quick = RESPONSYS.format(name="quick", number=1) + "    actions: {trigger_event: {batch: {wait: 5m}}}\n"
    made = bundle(make(tmp_path, {"slow": RESPONSYS.format(name="slow", number=2), "quick": quick}), Options())
    assert ("connect-responsys-process", "process", "rate(5 minutes)") in functions(made)


def test_a_stage_has_names_of_its_own(whole: Project) -> None:
    made = bundle(whole, Options(stage="test"))
    names = [name for name, _, _ in functions(made)]
    assert names == [name.replace("connect-", "connect-test-", 1) for name, _, _ in SHARED]
    secrets = {each["Name"] for each in of_type(made, "AWS::SecretsManager::Secret").values()}
    assert {name.split("/")[1] for name in secrets} == {"connect-test"}


def test_every_connector_has_a_path_for_events_and_for_browsers_that_ask_first(bundles: dict[str, Bundle]) -> None:
    routes = {}
    for mode, made in bundles.items():
        (api,) = of_type(made, "AWS::Serverless::HttpApi").values()
        routes[mode] = {path: sorted(methods) for path, methods in api["DefinitionBody"]["paths"].items()}
    both = ["options", "post"]
    connectors = [name.removesuffix(".yaml") for name in sorted(path.name for path in (ROOT / "connectors").iterdir())]
    assert routes["shared"] == {f"/{name}": both for name in connectors}
    assert routes["per-client"] == routes["shared"] | {
        f"/{name}/{client}": both
        for name, client in [
            *((name, "client-ghi") for name in ("activecampaign", "hubspot", "mailchimp", "pipedrive")),
            *((name, "client-jkl") for name in ("klaviyo", "netsuite")),
            ("responsys", "client-abc"),
            ("salesforce", "client-def"),
        ]
    }


# --- rights ---


def rights(made: Bundle, function: str) -> dict[str, tuple[list[str], list[Any]]]:
    """What a function may do: sid -> actions, resources; of what depends on a condition, what there may be."""
    (id_,) = [
        name for name, each in of_type(made, "AWS::Serverless::Function").items() if each["FunctionName"] == function
    ]
    return statements(resources(made)[f"Role{id_}"])


def statements(role: dict[str, Any]) -> dict[str, tuple[list[str], list[Any]]]:
    found = {}
    for policy in role["Properties"]["Policies"]:
        for each in policy["PolicyDocument"]["Statement"]:
            allowed = each["Fn::If"][1] if "Fn::If" in each else each
            assert allowed["Effect"] == "Allow"
            found[allowed["Sid"]] = (allowed["Action"], allowed["Resource"])
    return found


def arn(*names: str) -> list[Any]:
    secret = "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:"
    return [{"Fn::Sub": f"{secret}{name}-??????"} for name in names]


def verbs(does: str) -> list[str]:
    return sorted(f"dynamodb:{verb}" for verb in permissions.TABLE[does])


TABLE = [{"Fn::GetAtt": ["Table", "Arn"]}]
DECRYPT = (["kms:Decrypt"], [{"Ref": "SecretsKeyArn"}])
ALERTS = (["sns:Publish"], [{"Ref": "Alerts"}])
MISSED = (["sqs:SendMessage"], [{"Fn::GetAtt": ["Missed", "Arn"]}])
INDEX = (["dynamodb:Query"], [{"Fn::Sub": "${Table.Arn}/index/due"}])
READ = ["secretsmanager:GetSecretValue"]


def logs(id_: str) -> tuple[list[str], list[Any]]:
    return (["logs:CreateLogStream", "logs:PutLogEvents"], [{"Fn::GetAtt": [f"Log{id_}", "Arn"]}])


def test_a_function_may_do_what_it_does_and_nothing_else(bundles: dict[str, Bundle]) -> None:
    shared, of_client = bundles["shared"], bundles["per-client"]
    assert rights(shared, "connect-receive") == {
        "Logs": logs("Receive"),
        "Table": (verbs("receive"), TABLE),
        "Secrets": (READ, arn("/connect/ingest")),
        "Decrypt": DECRYPT,
    }
    assert rights(shared, "connect-rdstation-shared") == {
        "Logs": logs("SharedRdstation"),
        "Table": (verbs("process"), TABLE),
        "Alerts": ALERTS,
        "Secrets": (READ, arn("/connect/ingest", "/connect/key", "/connect/rdstation/*/creds")),
        "Decrypt": DECRYPT,
    }
    assert rights(shared, "connect-responsys-process") == {
        "Logs": logs("ProcessResponsys"),
        "Table": (verbs("process"), TABLE),
        "Index": INDEX,
        "Alerts": ALERTS,
        "Secrets": (READ, arn("/connect/key", "/connect/responsys/*/creds")),
        "Decrypt": DECRYPT,
        "Missed": MISSED,
    }
    assert rights(of_client, "connect-responsys-client-abc-process")["Secrets"] == (
        READ,
        arn("/connect/key", "/connect/responsys/client-abc/creds"),
    )
    assert rights(of_client, "connect-responsys-client-abc-receive")["Secrets"] == (
        READ,
        arn("/connect/clients/client-abc/ingest"),
    )
    assert rights(of_client, "connect-salesforce-auth-token")["Secrets"] == (
        READ,
        arn("/connect/key", "/connect/salesforce/*/creds"),
    )


@pytest.mark.parametrize("mode", parts.MODES)
def test_no_role_has_a_star_for_its_actions_or_for_its_resources(mode: str, bundles: dict[str, Bundle]) -> None:
    made = bundles[mode]
    roles = {name: each for name, each in resources(made).items() if each["Type"] == "AWS::IAM::Role"}
    assert len(roles) == made.functions + 1
    for role in roles.values():
        assert set(role["Properties"]) == {"AssumeRolePolicyDocument", "Policies"}  # no policy of AWS's own
        for actions, named in statements(role).values():
            assert [action for action in actions if "*" in action] == []
            texts = [each if isinstance(each, str) else each.get("Fn::Sub", "") for each in named]
            assert [text for text in texts if text == "*" or text.endswith(":*")] == []


def test_secrets_of_a_project_s_own_are_named_one_by_one(tmp_path: Path) -> None:
    own = """\
client: own
ingest: {keys: ['aws-ssm:/shops/own/key']}
connectors:
  responsys:
    settings: {list: LIST}
    secrets: {username: 'aws-secretsmanager:shops/own#user', password: 'env:PASSWORD'}
"""
    made = bundle(make(tmp_path, {"own": own}), Options())
    assert rights(made, "connect-responsys-process")["Secrets"] == (
        READ,
        arn("/connect/key", "/connect/responsys/*/creds", "shops/own"),
    )
    assert rights(made, "connect-receive") == {
        "Logs": logs("Receive"),
        "Table": (verbs("receive"), TABLE),
        "Parameters": (
            ["ssm:GetParameter"],
            [{"Fn::Sub": "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter/shops/own/key"}],
        ),
        "Decrypt": DECRYPT,
    }
    assert {each["Name"] for each in of_type(made, "AWS::SecretsManager::Secret").values()} == {
        "/connect/key",
        "/connect/responsys/own/creds",
    }
    assert "password: 'aws-secretsmanager:/connect/responsys/own/creds#password'" in made.files["app/clients/own.yaml"]


# --- secrets ---


def test_a_client_file_keeps_all_but_its_references() -> None:
    text = """\
client: abc   # ours
ingest:
  keys: [env:A, "env:B"]
  signatures:
    - 'env:C'
connectors:
  crm: {secrets: {password: 'env:P'}}   # not env:P
"""
    client, _, located = load_client(read(text, "clients/abc.yaml"))
    assert client is not None
    found = references(client, prefix="connect", together=False)
    assert (
        rewritten(located, found)
        == """\
client: abc   # ours
ingest:
  keys: [aws-secretsmanager:/connect/clients/abc/ingest#key, "aws-secretsmanager:/connect/clients/abc/ingest#key_2"]
  signatures:
    - 'aws-secretsmanager:/connect/clients/abc/ingest#signature'
connectors:
  crm: {secrets: {password: 'aws-secretsmanager:/connect/crm/abc/creds#password'}}   # not env:P
"""
    )
    again, findings_, _ = load_client(read(rewritten(located, found), "clients/abc.yaml"))
    assert (again is not None, findings_) == (True, [])


def test_a_reference_that_no_function_can_follow_is_a_finding_in_its_line(tmp_path: Path) -> None:
    text = """\
client: abc
connectors:
  responsys:
    settings: {list: LIST}
    secrets:
      username: file:secrets/user
      password: keyring:shops/abc
"""
    made = bundle(make(tmp_path, {"abc": text}), Options())
    file = tmp_path / "clients/abc.yaml"
    home = "aws-secretsmanager:/connect/responsys/abc/creds"
    instead = "or env:NAME, which is put there when it is deployed"
    assert findings(made) == [
        f"error: {file}:6:17: connectors.responsys.secrets.username: file: leads to a file of this machine, which no "
        f"Lambda function has; write {home}#username, {instead} [deploy-secret]",
        f"error: {file}:7:17: connectors.responsys.secrets.password: keyring: leads to a keyring, which no Lambda "
        f"function has; write {home}#password, {instead} [deploy-secret]",
    ]


def test_a_reference_in_pieces_is_a_finding(tmp_path: Path) -> None:
    text = "client: abc\nconnectors:\n  rdstation:\n    secrets:\n      token: >-\n        env:TOKEN\n"
    with pytest.raises(SpecErrors) as caught:
        bundle(make(tmp_path, {"abc": text}), Options())
    assert str(caught.value) == (
        f"{tmp_path / 'clients/abc.yaml'}:5:14: connectors.rdstation.secrets.token: a reference that is not written in"
        " one piece; write env:TOKEN [deploy-secret]"
    )


def test_what_was_a_reference_to_the_environment_is_told_with_the_command_that_puts_it(
    bundles: dict[str, Bundle],
) -> None:
    guide = bundles["shared"].files["README.md"]
    assert (
        "`/connect/responsys/client-abc/creds`: `username` (was `env:ABC_RESPONSYS_USERNAME`), `password` (was"
        " `env:ABC_RESPONSYS_PASSWORD`)\n\n```console\n"
        "$ aws secretsmanager put-secret-value --region sa-east-1 --secret-id /connect/responsys/client-abc/creds"
        ' --secret-string file:///dev/stdin\n{"username": "…", "password": "…"}\n```'
    ) in guide
    assert "$ connect login pipedrive client-ghi\n" in guide


def test_what_is_shipped_is_a_project_that_can_be_used(
    whole: Project, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    for mode, made in bundles.items():
        shipping.write(tmp_path / mode, made.files, Options(), force=False)
        shipped = Project(tmp_path / mode / "app")
        connectors, clients, found = shipped.all()
        assert (found, set(clients)) == ([], set(whole.all()[1]))
        assert shipped.settings.name == "shops"
        given = {
            reference
            for client in clients.values()
            for binding in client.connectors.values()
            for reference in [*binding.secrets.values(), *client.ingest.keys, *client.ingest.signatures]
        }
        assert {reference.partition(":")[0] for reference in given} == {"aws-secretsmanager"}
        assert connectors["responsys"] == whole.connector("responsys")


# --- odd projects ---


def test_a_client_without_secrets_has_none_made_and_none_allowed(tmp_path: Path) -> None:
    (tmp_path / "p/connectors").mkdir(parents=True)
    (tmp_path / "p/clients").mkdir()
    (tmp_path / "p/connectors/open.yaml").write_text(
        "connect: 1\nname: open\ntitle: Open\nhosts: [api.open.example]\nhttp: {base_url: 'https://api.open.example'}\n"
        "actions: {note: {record: {id: '${ event.id }'}, request: {path: /notes, json: '${ record }'}}}\n"
    )
    (tmp_path / "p/clients/abc.yaml").write_text("client: abc\nconnectors: {open: {}}\n")
    made = bundle(Project(tmp_path / "p"), Options())
    assert functions(made) == [
        ("connect-receive", "receive", None),
        ("connect-open-process", "process", "rate(1 minute)"),
    ]
    assert list(rights(made, "connect-receive")) == ["Logs", "Table"]
    assert rights(made, "connect-open-process")["Secrets"] == (READ, arn("/connect/key"))
    assert [each["Name"] for each in of_type(made, "AWS::SecretsManager::Secret").values()] == ["/connect/key"]


def test_a_connector_without_clients_is_left_out_and_told(tmp_path: Path) -> None:
    made = bundle(make(tmp_path, {"abc": RDSTATION.format(name="abc", number=1)}), Options())
    assert [name for name, _, _ in functions(made)] == ["connect-rdstation-shared", "connect-rdstation-process"]
    assert made.unused == [
        *("activecampaign", "hubspot", "klaviyo", "mailchimp", "netsuite", "pipedrive", "responsys", "salesforce")
    ]
    assert "No client uses activecampaign, " in made.files["README.md"]
    assert [path for path in made.files if "connectors/" in path] == ["app/connectors/rdstation.yaml"]


def test_a_project_without_clients_has_nothing_to_deploy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no client uses a connector; there is nothing to deploy"):
        bundle(make(tmp_path, {}), Options())


ODD = ["a.b", "a-b", "a_b", "A-B", "ab", "a1", "a-1", "x" * 80, "x" * 79 + "y", "for-b", "0day", "refresh-token"]


@pytest.mark.parametrize("mode", parts.MODES)
def test_names_that_aws_does_not_take_stay_apart(mode: str, tmp_path: Path) -> None:
    clients = {str(number): RESPONSYS.format(name=name, number=number) for number, name in enumerate(ODD)}
    made = bundle(make(tmp_path / "p", clients), Options(functions=mode))
    assert [each for each in findings(made) if each.startswith("error")] == []
    names = [name for name, _, _ in functions(made)]
    assert len(set(names)) == len(names) == (2 * len(ODD) + 1 if mode == "per-client" else 3)
    assert [name for name in names if not re.fullmatch("[A-Za-z0-9_-]{1,64}", name)] == []
    shown = [each["DashboardName"] for each in of_type(made, "AWS::CloudWatch::Dashboard").values()]
    assert len(set(shown)) == len(shown) == len(ODD) + 1
    assert [id_ for id_ in resources(made) if not re.fullmatch("[A-Za-z0-9]{1,255}", id_)] == []


@pytest.mark.parametrize(
    ("kind", "names", "id_"),
    [
        ("Process", ("responsys",), "ProcessResponsys"),
        ("Process", ("responsys", "client-abc"), "ProcessResponsysForClientAbc"),
        ("Process", ("x", "a-1"), "ProcessXForA1" + naming._mark("x\0a-1")),
        ("Process", ("x", "a1"), "ProcessXForA1"),
        ("Process", ("x-for-y", "z"), "ProcessXForYForZ" + naming._mark("x-for-y\0z")),
    ],
)
def test_a_logical_id_can_be_read_back_or_has_a_mark(kind: str, names: tuple[str, ...], id_: str) -> None:
    assert naming.logical(kind, *names) == id_


def test_functions_of_connectors_and_clients_that_run_together_have_names_apart(tmp_path: Path) -> None:
    """x of y-z, and x-y of z: both would be connect-x-y-z-receive."""
    (tmp_path / "connectors").mkdir()
    (tmp_path / "clients").mkdir()
    for name in ("x", "x-y"):
        (tmp_path / f"connectors/{name}.yaml").write_text(
            f"connect: 1\nname: {name}\ntitle: X\nhosts: [api.x.example]\nhttp: {{base_url: 'https://api.x.example'}}\n"
            "actions: {note: {record: {id: '${ event.id }'}, request: {path: /notes, json: '${ record }'}}}\n"
        )
    (tmp_path / "clients/a.yaml").write_text("client: y-z\nconnectors: {x: {}}\n")
    (tmp_path / "clients/b.yaml").write_text("client: z\nconnectors: {x-y: {}}\n")
    names = [name for name, _, _ in functions(bundle(Project(tmp_path), Options(functions="per-client")))]
    assert len(set(names)) == len(names) == 4
    assert len({re.sub("-[0-9a-f]{6}$", "", name) for name in names}) == 2


# --- many clients ---


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Project:
    clients = {
        f"shop-{number:03}": (RDSTATION if number % 2 else RESPONSYS).format(name=f"shop-{number:03}", number=number)
        for number in range(500)
    }
    return make(tmp_path_factory.mktemp("many"), clients)


def test_five_hundred_clients_in_one_template_are_too_many_and_that_is_said(many: Project) -> None:
    made = bundle(many, Options())
    assert findings(made) == [
        "error: template.yaml:1:1: 1046 resources, and CloudFormation takes 500 in one template; use --stacks 9"
        " [deploy-size]",
        findings(made)[1],
    ]
    assert re.fullmatch(
        r"error: template\.yaml:1:1: \d{7} bytes, and CloudFormation takes 1000000 for one template; use --stacks 9"
        r" \[deploy-size\]",
        findings(made)[1],
    )


def test_five_hundred_clients_shared_out_to_stacks_are_taken(many: Project, tmp_path: Path) -> None:
    made = bundle(many, Options(stacks=parts.stacks_for(500)))
    assert findings(made) == []
    shipping.write(tmp_path, made.files, Options(), force=False)
    stacks = sorted(path.name for path in tmp_path.glob("clients-*.yaml"))
    assert len(stacks) == 9
    assert lint(tmp_path / "template.yaml") == []  # it looks into the stacks within, too
    secrets = [
        each["Properties"]["Name"]
        for file in stacks
        for each in resources(made, file).values()
        if each["Type"] == "AWS::SecretsManager::Secret"
    ]
    assert len(set(secrets)) == len(secrets) == 500
    assert max(len(text.encode()) for path, text in made.files.items() if path.endswith(".yaml")) < 400_000


def test_who_else_there_is_does_not_move_a_client_to_another_stack() -> None:
    chosen = Options(stacks=9)
    assert [chosen.stack_of(f"shop-{number}") for number in (1, 2, 3)] == [
        chosen.stack_of(f"shop-{number}") for number in (1, 2, 3)
    ]
    assert {chosen.stack_of(f"shop-{number}") for number in range(500)} == set(range(1, 10))


def test_functions_by_client_for_five_hundred_are_refused_with_what_to_do(many: Project) -> None:
    made = bundle(many, Options(functions="per-client"))
    assert {each.rule: each.severity for each in made.findings} == {
        "deploy-path": "warning",
        "deploy-policy": "error",
        "deploy-size": "error",
    }
    assert {each.hint for each in made.findings if each.severity == "error"} == {"use --functions shared"}


# --- files ---


def test_two_runs_write_the_same_whatever_the_order_of_sets(tmp_path: Path) -> None:
    make(tmp_path / "p")
    texts = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        ended = connect("deploy", "aws", "--out", out, project=tmp_path / "p", PYTHONHASHSEED=seed)
        assert (ended.code, ended.err) == (0, "")
        texts.append({str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert texts[0] == texts[1]


def test_a_folder_is_current_until_the_project_changes(tmp_path: Path) -> None:
    make(tmp_path / "p")
    (tmp_path / "p/clients/client-jkl.yaml").unlink()
    out = tmp_path / "out"

    def run(*args: str) -> tuple[int, str]:
        ended = connect("deploy", "aws", "--out", out, *args, project=tmp_path / "p")
        return ended.code, ended.out.replace(str(out), "out") + ended.err.replace(str(out), "out")

    assert run("--check")[0] == 1
    assert not out.exists()
    assert run("--region", "us-east-1", "--stage", "test")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert run() == (0, "out: written; 10 functions, 89 resources\nWhat comes next stands in out/README.md.\n")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    assert 'region = "us-east-1"' in (out / "samconfig.toml").read_text()  # it was said once
    assert run("--check") == (0, "out: current; 10 functions, 89 resources\n")
    client = tmp_path / "p/clients/client-abc.yaml"
    client.write_text(client.read_text().replace("title: Loja ABC", "title: Loja A"))
    assert run("--check") == (
        1,
        "out/app/clients/client-abc.yaml: not current\nout/app/compiled.json: not current\n"
        "out/template.yaml: not current\n"
        "out: not current; 10 functions, 89 resources\n",
    )
    client.unlink()
    assert run()[0] == 0
    assert not (out / "app/clients/client-abc.yaml").exists()
    assert not (out / "app/connectors/responsys.yaml").exists()


def test_what_this_command_did_not_make_is_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "p", {"abc": RDSTATION.format(name="abc", number=1)})
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine\n")
    (out / "notes.txt").write_text("mine\n")
    refused = connect("deploy", "aws", "--out", out, project=tmp_path / "p")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        f"connect: README.md in {out}: not made by this command, or changed since; nothing was written. --force"
        " overwrites it\n"
    )
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "notes.txt"]
    assert connect("deploy", "aws", "--out", out, "--force", project=tmp_path / "p").code == 0
    assert (out / "notes.txt").read_text() == "mine\n"
    (out / "template.yaml").write_text("changed: by hand\n")
    assert connect("deploy", "aws", "--out", out, project=tmp_path / "p").code == 2
    assert (out / "template.yaml").read_text() == "changed: by hand\n"


def test_no_value_of_a_secret_is_read_or_written(tmp_path: Path) -> None:
    make(tmp_path / "p")
    names = re.findall(r"env:(\w+)", "".join(path.read_text() for path in (tmp_path / "p/clients").iterdir()))
    ended = connect(
        *("deploy", "aws", "--out", tmp_path / "out", "--json"),
        project=tmp_path / "p",
        **dict.fromkeys(names, "canary-9f2c"),
    )
    written = "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert len(names) > 10
    assert "canary" not in written + ended.out + ended.err
    assert {name: ended.json[name] for name in ("state", "functions", "unused", "findings")} == {
        "state": "written",
        "functions": 12,
        "unused": [],
        "findings": [],
    }


def test_findings_keep_everything_from_being_written(tmp_path: Path) -> None:
    make(tmp_path / "p", {"abc": "client: abc\nconnectors: {rdstation: {secrets: {token: 'file:x'}}}\n"})
    ended = connect("deploy", "aws", "--out", tmp_path / "out", project=tmp_path / "p")
    assert (ended.code, (tmp_path / "out").exists()) == (1, False)
    assert ended.err.endswith("[deploy-secret]\n")


def test_a_client_that_lacks_a_secret_is_not_deployed(tmp_path: Path) -> None:
    make(tmp_path / "p", {"abc": "client: abc\ningest: {keys: ['env:KEY']}\nconnectors: {rdstation: {}}\n"})
    ended = connect("deploy", "aws", "--out", tmp_path / "out", project=tmp_path / "p")
    assert (ended.code, (tmp_path / "out").exists()) == (1, False)
    assert "clients/abc.yaml:3:14: connectors.rdstation.secrets: lacks the secret token" in ended.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--region", "mars"), "--region mars: a region such as sa-east-1"),
        (("--stage", "Test"), "--stage Test: up to 16 small letters and digits, such as test"),
        (("--email", "ops"), "--email ops: an address such as ops@example.com"),
    ],
)
def test_a_wrong_region_stage_or_address_is_wrong_use(args: tuple[str, str], says: str, tmp_path: Path) -> None:
    ended = connect("deploy", "aws", "--out", tmp_path / "out", *args, project=ROOT)
    assert (ended.code, ended.err) == (2, f"connect: {says}\n")


# --- alarms and dashboards ---


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def test_every_alarm_goes_to_the_topic_and_every_function_has_one(bundles: dict[str, Bundle]) -> None:
    alarms = of_type(bundles["shared"], "AWS::CloudWatch::Alarm")
    assert {json.dumps(each["AlarmActions"]) for each in alarms.values()} == {'[{"Ref": "Alerts"}]'}
    assert {each["AlarmName"] for each in alarms.values()} == {
        *(f"{name}-errors" for name, _, _ in SHARED),
        *("connect-oldest-event", "connect-dead-letters", "connect-auth-failures", "connect-paused"),
        *("connect-api-5xx", "connect-missed-runs", "connect-table-throttles"),
    }
    assert alarms["AlarmOldest"]["Metrics"][0]["Expression"] == (
        'SELECT MAX(OldestSeconds) FROM SCHEMA("DaxGOConnect", Connector, Client)'
    )


def test_the_dashboard_of_a_client_has_what_the_seed_asks_for(bundles: dict[str, Bundle]) -> None:
    shown = of_type(bundles["shared"], "AWS::CloudWatch::Dashboard")["DashboardClientAbc"]
    body = json.loads(shown["DashboardBody"]["Fn::Sub"])
    assert [each["properties"].get("title") for each in body["widgets"]] == [
        *(None, None, "Success rate (%)", "Volume", "Latency (ms)", "Token renewals"),
        *("Log-in errors and limits", "Waiting, and age of the oldest (s)"),
    ]
    assert body["widgets"][2]["properties"]["metrics"] == [
        [{"expression": "100 * delivered / (delivered + rejected)", "label": "delivered", "id": "rate"}],
        [{"expression": "FILL(delivered_counted, 0)", "id": "delivered", "visible": False}],
        [
            *("DaxGOConnect", "Delivered", "Connector", "responsys", "Client", "client-abc"),
            {"stat": "Sum", "id": "delivered_counted", "visible": False},
        ],
        [{"expression": "FILL(rejected_counted, 0)", "id": "rejected", "visible": False}],
        [
            *("DaxGOConnect", "Rejected", "Connector", "responsys", "Client", "client-abc"),
            {"stat": "Sum", "id": "rejected_counted", "visible": False},
        ],
    ]


def test_a_title_with_a_hole_in_it_stays_as_it_is(tmp_path: Path) -> None:
    odd = RDSTATION.format(name="abc", number=1).replace(
        "client: abc\n", "client: abc\ntitle: 'Loja ${AWS::AccountId} \"x\"'\n"
    )
    made = bundle(make(tmp_path, {"abc": odd}), Options())
    body = of_type(made, "AWS::CloudWatch::Dashboard")["DashboardAbc"]["DashboardBody"]["Fn::Sub"]
    assert json.loads(body)["widgets"][0]["properties"]["markdown"] == '# Loja ${!AWS::AccountId} "x"\n`abc`'


def test_planning_needs_no_file() -> None:
    project = Project(ROOT)
    connectors, clients, _ = project.all()
    assert [each.path for each in planned(connectors, clients, [], Options()).routes][:2] == [
        "/activecampaign",
        "/hubspot",
    ]
