from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import SpecErrors, UsageError
from engine.spec.project import Project, Settings
from engine.spec.violations import bundled

CONNECTOR = "connect: 1\nname: {}\ntitle: T\nhosts: [api.example.com]\nactions: {{a: {{request: {{path: /a}}}}}}\n"
CLIENT = "client: {}\nconnectors: {{crm: {{}}}}\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "connectors").mkdir()
    (tmp_path / "clients").mkdir()
    (tmp_path / "connectors" / "crm.yaml").write_text(CONNECTOR.format("crm"))
    (tmp_path / "clients" / "shop.yaml").write_text(CLIENT.format("client-abc"))
    return tmp_path


def test_a_project_has_its_own_connectors_and_those_of_the_engine(home: Path) -> None:
    connectors, clients, findings = Project(home).all()
    assert connectors.keys() == {"crm", *(path.stem for path in bundled("connectors").glob("*.yaml"))}
    assert clients.keys() == {"client-abc"}
    assert findings == []


def test_a_connector_of_the_project_wins_over_the_engines(home: Path) -> None:
    (home / "connectors" / "salesforce.yaml").write_text(CONNECTOR.format("salesforce"))
    assert Project(home).connector("salesforce").title == "T"


def test_a_client_is_found_by_the_name_it_says(home: Path) -> None:
    assert Project(home).client("client-abc").client == "client-abc"
    with pytest.raises(UsageError, match='no client is called client-abd; did you mean "client-abc"'):
        Project(home).client("client-abd")


def test_an_unknown_connector_says_which_is_meant(home: Path) -> None:
    with pytest.raises(UsageError, match='no connector is called crn; did you mean "crm"'):
        Project(home).connector("crn")


def test_a_file_is_read_again_only_when_it_has_changed(home: Path) -> None:
    project = Project(home)
    first = project.connector("crm")
    assert project.connector("crm") is first
    (home / "connectors" / "crm.yaml").write_text(CONNECTOR.format("crm") + "description: New\n")
    assert project.connector("crm").description == "New"
    (home / "connectors" / "new.yaml").write_text(CONNECTOR.format("new"))
    assert project.connector("new").name == "new"


def test_a_connector_is_called_like_its_file(home: Path) -> None:
    (home / "connectors" / "other.yaml").write_text(CONNECTOR.format("crm"))
    with pytest.raises(SpecErrors) as caught:
        Project(home).connector("other")
    assert str(caught.value) == (
        f"{home}/connectors/other.yaml:2:7: name: crm stands in other.yaml; "
        "call the file crm.yaml, or the connector other [file-name]"
    )


def test_two_files_of_one_client_are_a_finding(home: Path) -> None:
    (home / "clients" / "twin.yaml").write_text(CLIENT.format("client-abc"))
    _, clients, findings = Project(home).all()
    assert clients.keys() == {"client-abc"}
    assert [str(finding) for finding in findings] == [
        f"{home}/clients/twin.yaml:1:9: client: client-abc is also the client of {home}/clients/shop.yaml "
        "[duplicate-client]"
    ]


def test_a_broken_file_does_not_hide_the_others(home: Path) -> None:
    (home / "connectors" / "broken.yaml").write_text("a: [\n")
    (home / "clients" / "broken.yaml").mkdir()
    connectors, clients, findings = Project(home).all()
    assert "crm" in connectors
    assert clients.keys() == {"client-abc"}
    assert [finding.rule for finding in findings] == ["unreadable", "syntax"]


def test_a_client_that_cannot_be_used_shows_its_findings(home: Path) -> None:
    (home / "clients" / "shop.yaml").write_text("client: client-abc\nconnectors: {crm: {secrets: {a: b}}}\n")
    with pytest.raises(SpecErrors, match="secret-literal"):
        Project(home).client("client-abc")


def test_the_event_schema_a_connector_refers_to_is_in_its_value(home: Path) -> None:
    (home / "schemas").mkdir()
    (home / "schemas" / "event.json").write_text('{"required": ["email"]}')
    text = CONNECTOR.format("crm") + "receive: {schema: {$ref: ../schemas/event.json}}\n"
    (home / "connectors" / "crm.yaml").write_text(text)
    assert Project(home).connector("crm").receive.schema == {"required": ["email"]}


def test_a_project_may_say_how_it_is_served(home: Path) -> None:
    assert Project(home).settings == Settings()
    (home / "connect.yaml").write_text("port: 9000\nstore: postgresql://db/connect\n")
    project = Project(home)
    assert project.settings == Settings(port=9000, store="postgresql://db/connect")
    assert project.settings_errors == ()


def test_wrong_settings_are_findings(home: Path) -> None:
    (home / "connect.yaml").write_text("prot: 9000\nvia: http://example.com\nworkers: many\n")
    project = Project(home)
    assert [str(finding).removeprefix(f"{home}/") for finding in project.settings_errors] == [
        'connect.yaml:1:1: prot: unknown key; did you mean "port"? [unknown-key]',
        "connect.yaml:2:6: via: only this machine: http://127.0.0.1:PORT [value]",
        "connect.yaml:3:10: workers: must be a whole number, not text [type]",
    ]
    with pytest.raises(SpecErrors):
        _ = project.settings


def test_an_empty_directory_is_a_project_of_the_engines_connectors(tmp_path: Path) -> None:
    project = Project(tmp_path / "nowhere")
    assert project.client_files() == {}
    assert "salesforce" in project.connector_files()
