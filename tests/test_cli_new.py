"""`connect new`: from nothing to a project that passes, for people and for scripts."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import ROOT, connect, environment

from engine import cli
from engine.authoring.scaffold.auths import KINDS
from engine.cli.new import AUTHS

CONTACTS = ROOT / "tests/openapi/contacts-3.0.json"
ORDERS = ROOT / "tests/openapi/orders-3.1.yaml"
WRITTEN = [
    ".gitignore",
    "clients/acme-crm-example.yaml",
    "connectors/acme-crm.yaml",
    "docs/connectors/acme-crm.md",
    "docs/connectors/acme-crm.notes.md",
    "events/acme-crm.json",
    "schemas/client.schema.json",
    "schemas/connector.schema.json",
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONNECT_TRACE", raising=False)
    monkeypatch.delenv("CONNECT_PROJECT", raising=False)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run(*args: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.run([*map(str, args)])
    return (code, *capsys.readouterr())


def passes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("validate", "--strict", capsys=capsys)
    assert (code, re.sub(r"\d+ files", "N files", out), err) == (0, "no findings in N files\n", "")
    code, out, err = run("test", name, capsys=capsys)
    assert (code, out.partition(" passed, ")[2], err) == (0, "0 failed\n", "")
    code, out, err = run("preview", name, f"events/{name}.json", capsys=capsys)
    assert (code, out.strip().endswith(": delivered, says the sandbox"), err) == (0, True, "")


def test_from_an_empty_folder_to_a_project_with_the_next_commands(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run("new", "acme-crm", capsys=capsys)
    assert (code, err, files(here)) == (0, "", WRITTEN)
    assert out == (
        """\
connectors/acme-crm.yaml           the connector
clients/acme-crm-example.yaml      who uses it
events/acme-crm.json               an event to try
docs/connectors/acme-crm.notes.md  what its page takes in
docs/connectors/acme-crm.md        its page, by `connect docs`
schemas/connector.schema.json      for your editor
schemas/client.schema.json         for your editor
.gitignore                         what git leaves out

10 things are yours to decide. `grep -rn DECIDE:` finds them:
  connectors/acme-crm.yaml
      7  links to the vendor's pages, one for each endpoint: links: {events: ht…
     24  a harmless request that shows whether the credentials work
     30  the vendor's address; it is made up
     33  limits: what the vendor allows one account, such as 120/1m
     48  the vendor's own fields, in its own order; what the event does not hav…
     61  expect: what only a good reply has; a page with status 200 is none
     62  repeat: may a request whose answer never came be sent again? safe, may…
  docs/connectors/acme-crm.notes.md
      1  say what was tried with a real account, and what not.
      7  where a person finds each secret in the vendor's pages, and which righ…
     21  requests in a time, records in a request, bytes in a body; with a link.

Next:
  connect validate       # is anything wrong in any file?
  connect test acme-crm  # its examples, offline
  connect preview acme-crm events/acme-crm.json  # what would be sent
  connect sandbox        # plays the vendor; type the export lines it prints
  connect serve          # takes events in and delivers them
  connect send acme-crm events/acme-crm.json  # one event, for real
  connect docs acme-crm  # its page again, after a change
"""
    )
    passes("acme-crm", capsys)


TOKEN = ["--token-url", "https://login.acme.example/token"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--batch", "50", "--title", "Açaí: the CRM #1", "--path", "/v2/contacts"],
        ["--direct", "--event-schema", "--client", "my-shop", "--base-url", "https://api.acme.example"],
    ],
    ids=["bare", "batch", "direct"],
)
def test_all_flags_give_what_passes(kind: str, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = TOKEN if flags and (kind.startswith("oauth2_") or kind == "login") else []
    more += ["--key-name", "api_key", "--key-in", "query"] if flags and kind == "api_key" else []
    code, _, err = run("new", "acme-crm", "--auth", kind, *flags, *more, capsys=capsys)
    assert (code, err) == (0, "")
    passes("acme-crm", capsys)


@pytest.mark.parametrize(
    ("file", "operations", "flags"),
    [
        (CONTACTS, ["createContact"], []),
        (CONTACTS, ["POST:/contacts/{contactId}/notes"], ["--direct"]),
        (CONTACTS, ["importContacts"], ["--batch", "20", "--event-schema"]),
        (CONTACTS, ["createContact", "importContacts", "POST /contacts/{contactId}/notes"], ["--client", "shop"]),
        (ORDERS, ["orders.create"], ["--event-schema"]),
        (ORDERS, ["events.track"], ["--auth", "login"]),
        (ORDERS, ["POST:/sms"], ["--base-url", "https://api.ordens.example/v9", "--auth", "none"]),
        (ORDERS, ["orders.remove"], []),
    ],
)
def test_an_openapi_document_gives_what_passes(
    file: Path, operations: list[str], flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [word for each in operations for word in ("--operation", each)]
    code, out, err = run("new", "acme", "--from-openapi", file, *chosen, *flags, capsys=capsys)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    passes("acme", capsys)


def test_an_openapi_document_fills_in_what_it_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("new", "acme", "--from-openapi", CONTACTS, "--operation", "createContact", capsys=capsys)
    text = (here / "connectors/acme.yaml").read_text(encoding="utf-8")
    assert "title: Acme Contacts\n" in text
    assert "hosts: [eu.api.acme.example, us.api.acme.example]" in text
    assert 'auth: {type: api_key, key: "${ secrets.api_key }", name: X-Acme-Key}' in text
    assert 'base_url: "https://{{ settings.region }}.api.acme.example/v1"' in text
    assert "code: ${ response.body.error.code }" in text
    assert (
        """\
    record:
      email: ${ fields.email }  # at most 254 characters
      first_name: ${ truncate(event.firstName, `40`) }
      lastName: ${ event.lastName }
      owner: ${ settings.owner }  # DECIDE: one value for each client, or something of the event?
      # It also takes: tags (list), score (number)
    require: [{schema: {required: [email, first_name]}}]  # without these a record is rejected, unsent
    request:
      method: POST
      path: /contacts
      query:
        workspace: ${ settings.workspace }  # DECIDE: one value for each client, or something of the event?
      headers:
        Idempotency-Key: ${ delivery.id }
      json: ${ record }
      expect: ${ present(response.body.id) }  # DECIDE: what only a good reply has
"""
        in text
    )


def test_an_order_keeps_its_lines_and_a_list_becomes_a_batch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--operation", "orders.create", "--operation", "events.track"]
    run("new", "acme", "--from-openapi", ORDERS, *chosen, capsys=capsys)
    text = (here / "connectors/acme.yaml").read_text(encoding="utf-8")
    assert (
        """\
      lines:  # DECIDE: which events have items? Of one without, this is left out
        $each: ${ event.items }
        as: line
        do:
          sku: ${ line.sku }
          qty: ${ line.quantity }
          unit_price: ${ line.price }
          title: ${ line.name }
      currency: ${ event.currency }
      total: ${ string(event.total) }
      placed_on: ${ date(event.timestamp) }  # DECIDE: is it when the event happened?
      channel: web
"""
        in text
    )
    assert (
        """\
    # DECIDE: the document does not say how many a request may carry; 100 is a guess
    batch: {records: 100, wait: 5s, max: {records: 100}}
"""
        in text
    )
    assert "      json: ${ batch.records }\n" in text
    assert "  type: {product_view: viewed, purchase: bought, cart_abandoned: left}" in text


# --- what is there already ---


def test_nothing_is_written_over_without_force(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = here / "docs/connectors/acme-crm.md"
    page.parent.mkdir(parents=True)
    page.write_text("mine")
    code, out, err = run("new", "acme-crm", capsys=capsys)
    there = "connect: docs/connectors/acme-crm.md is there already; nothing was written; --force writes over it\n"
    assert (code, out, err) == (2, "", there)
    assert (files(here), page.read_text()) == (["docs/connectors/acme-crm.md"], "mine")
    assert run("new", "acme-crm", "--force", capsys=capsys)[0] == 0
    assert page.read_text().startswith("# Acme CRM\n")


def test_a_connector_that_is_there_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "connectors").mkdir()
    (here / "connectors/acme-crm.yml").write_text("connect: 1\n")
    code, _, err = run("new", "acme-crm", capsys=capsys)
    assert (code, err) == (
        2,
        "connect: connectors/acme-crm.yml is there already; choose another name, or write over it with --force\n",
    )


def test_a_connector_that_comes_with_the_engine_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("new", "rdstation", capsys=capsys)
    assert (code, err, files(here)) == (
        2,
        "connect: rdstation comes with the engine; choose another name, or put your own in its place with --force\n",
        [],
    )
    assert run("new", "rdstation", "--force", capsys=capsys)[0] == 0
    passes("rdstation", capsys)


def test_a_client_that_is_there_stays_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("new", "acme-crm", "--client", "shop", capsys=capsys)
    before = (here / "clients/shop.yaml").read_text()
    code, out, _ = run("new", "other-crm", "--client", "shop", "--auth", "basic", "--force", capsys=capsys)
    assert (code, (here / "clients/shop.yaml").read_text()) == (0, before)
    assert (
        """\
clients/shop.yaml stays as it is. It needs below `connectors:`

  other-crm:
    secrets:
      username: env:SHOP_USERNAME
      password: env:SHOP_PASSWORD
"""
        in out
    )
    assert "  connect preview other-crm events/other-crm.json --client shop\n" in out


def test_a_project_elsewhere_is_made(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("new", "acme-crm", "--project", "my project", capsys=capsys)
    assert (code, files(here / "my project")) == (0, WRITTEN)
    assert "\nNext:\n  cd 'my project'\n" in out


def test_a_file_where_a_folder_should_be_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "connectors").write_text("")
    code, _, err = run("new", "acme-crm", capsys=capsys)
    assert (code, err) == (
        2,
        "connect: connectors/acme-crm.yaml: can't be written: a file stands where a folder is needed\n",
    )


# --- wrong use ---


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "name the connector: connect new acme-crm"),
        (
            ["My CRM"],
            "My CRM can't be a connector's name; it begins with a small letter and has at most 40 small letters, "
            'digits and hyphens, such as "my-crm"',
        ),
        (
            ["../x"],
            "../x can't be a connector's name; it begins with a small letter and has at most 40 small letters, "
            'digits and hyphens, such as "x"',
        ),
        (["metrics"], "metrics is an address of the engine's own; call the connector otherwise: metrics-crm"),
        (["a", "--base-url", "http://x.example"], "http://x.example can't be a base URL; it begins with https://"),
        (["a", "--path", "x"], "x can't be a path; it begins with / and has letters, digits and . _ - ~"),
        (["a", "--title", "x\ny"], "a title is one line of at most 100 letters"),
        (["a", "--client", "../x"], "'../x' can't be a client's name; letters, digits, hyphens, dots and _"),
        (["a", "--auth", "basic", "--key-name", "x"], "--key-name says nothing for --auth basic"),
        (["a", "--auth", "bearer", "--token-url", "https://x.example"], "--token-url says nothing for --auth bearer"),
        (
            ["a", "--auth", "login", "--token-url", "http://x.example"],
            "http://x.example can't be the address of a token; it begins with https:// and has no port",
        ),
        (["a", "--auth", "api_key", "--key-name", "a b"], "'a b' can't be the key's name; letters, digits, - _ . [ ]"),
        (["a", "--operation", "x"], "--operation chooses of an OpenAPI document; name that with --from-openapi FILE"),
        (["a", "--from-openapi", "no.yaml"], "no.yaml: no such file or directory"),
        (
            ["a", "--from-openapi", str(CONTACTS), "--operation", "createContct"],
            f'{CONTACTS}: no operation is called createContct; did you mean "createContact"?',
        ),
        (
            ["a", "--from-openapi", str(CONTACTS)],
            f"{CONTACTS}: name what to take with --operation; it has POST:/contacts (createContact), "
            "POST:/contacts/{contactId}/notes, POST:/contacts/batch (importContacts), PUT:/photos (sendPhoto)",
        ),
        (
            ["a", "--from-openapi", str(CONTACTS), "--operation", "createContact", "--batch", "9"],
            f"{CONTACTS}: POST:/contacts takes one record in a request, and no list; leave --batch out",
        ),
        (
            ["a", "--from-openapi", str(CONTACTS), "--operation", "importContacts", "--batch", "900"],
            "--batch 900: the document allows 250 records in a request",
        ),
        (
            ["a", "--from-openapi", str(CONTACTS), "--operation", "sendPhoto"],
            f"{CONTACTS}:57: paths./photos.put.requestBody: multipart/form-data is not written for you, only JSON, "
            "forms and text are",
        ),
        (
            ["a", "--from-openapi", str(CONTACTS), "--path", "/x"],
            "--path goes without --from-openapi; choose with --operation METHOD:/path",
        ),
    ],
)  # fmt: skip
def test_wrong_use_is_told_in_a_line_and_writes_nothing(
    args: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("new", *args, capsys=capsys) == (2, "", f"connect: {says}\n")
    assert files(here) == []


def test_the_kinds_of_log_in_are_those_that_can_be_written() -> None:
    assert tuple(AUTHS) == KINDS


def test_a_pipe_is_asked_nothing(here: Path) -> None:
    ended = connect("new", "acme-crm", project=here, stdin="never read\n")
    assert (ended.code, ended.err, files(here)) == (0, "", WRITTEN)


# --- in a terminal ---


class Terminal:
    """A command with a terminal of 80 columns, into which a person types."""

    def __init__(self, *args: str | Path, folder: Path) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.cli", *map(str, args)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=environment(PYTHONPATH=str(ROOT), COLUMNS="80", TERM="dumb"),
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def read(self, end: float) -> bool:
        """Take in what is shown next; False at the end of it. Nothing for too long is a failure, not a wait."""
        while not select.select([self.ours], [], [], 0.2)[0]:
            if time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"nothing more came after {self.shown!r}")
        try:
            more = os.read(self.ours, 4096)
        except OSError:  # the other end is closed
            return False
        self.shown += more.decode()
        return bool(more)

    def until(self, prompt: str) -> None:
        """Wait until this is shown, after what was seen before."""
        end = time.monotonic() + 30
        while prompt not in self.shown and self.read(end):
            pass
        assert prompt in self.shown, self.shown
        self.shown = self.shown.partition(prompt)[2]

    def answer(self, prompt: str, text: str) -> None:
        self.until(prompt)
        os.write(self.ours, text.encode() + b"\n")

    def end(self) -> tuple[int, str]:
        end = time.monotonic() + 30
        while self.read(end):
            pass
        code = self.process.wait(30)
        os.close(self.ours)
        return code, self.shown.replace("\r\n", "\n")


def test_in_a_terminal_it_asks_and_asks_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal("new", folder=here)
    terminal.answer("Name, small letters and hyphens (acme-crm): ", "Acme CRM")
    terminal.until('such as "acme-crm"')
    terminal.answer("Name, small letters and hyphens (acme-crm): ", "acme-crm")
    terminal.answer("The vendor's name, for people [Acme CRM]: ", "")
    terminal.answer("Base URL of its API [https://api.acme-crm.example/v1]: ", "api.acme.com")
    terminal.until("it begins with https://")
    terminal.answer("Base URL of its API [https://api.acme-crm.example/v1]: ", "https://api.acme.com/v2/")
    terminal.answer("How does one log in? [bearer]: ", "4")
    terminal.answer("Where does the key stand? [header]: ", "query")
    terminal.answer("What is it called? [api_key]: ", "key")
    terminal.answer("Path that a record is sent to [/events]: ", "/contacts")
    terminal.answer("Records in one request [1]: ", "25")
    terminal.answer("Send while the caller waits? [y/N]: ", "")
    terminal.answer("An event schema of its own? [y/N]: ", "y")
    code, shown = terminal.end()
    assert (code, "connect test acme-crm" in shown) == (0, True)
    text = (here / "connectors/acme-crm.yaml").read_text(encoding="utf-8")
    assert 'auth: {type: api_key, key: "${ secrets.api_key }", name: key, in: query}' in text
    assert "base_url: https://api.acme.com/v2\n" in text
    assert "batch: {records: 25" in text
    passes("acme-crm", capsys)


def test_in_a_terminal_only_what_the_flags_leave_open_is_asked(here: Path) -> None:
    flags = ["--title", "Acme", "--base-url", "https://api.acme.com", "--auth", "none", "--path", "/x", "--batch", "1"]
    terminal = Terminal("new", "acme-crm", *flags, "--event-schema", "--buffered", folder=here)
    code, shown = terminal.end()
    assert (code, "?" in shown.partition("things are yours")[0]) == (0, False)


def test_in_a_terminal_the_operations_are_listed(here: Path) -> None:
    terminal = Terminal("new", "acme", "--from-openapi", CONTACTS, folder=here)
    terminal.until("    2  POST  /contacts/{contactId}/notes  Add a note")
    terminal.answer("Which of them? (numbers, apart by blanks) [1]: ", "9")
    terminal.until("numbers from 1 to 4, apart by blanks")
    terminal.answer("Which of them? (numbers, apart by blanks) [1]: ", "1, 3")
    terminal.answer("The vendor's name, for people [Acme Contacts]: ", "")
    assert terminal.end()[0] == 0
    text = (here / "connectors/acme.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^  (\w+):$", text.partition("\nactions:")[2].partition("\nexamples:")[0], re.MULTILINE) == [
        "create_contact",
        "import_contacts",
    ]


def test_ctrl_c_writes_nothing(here: Path) -> None:
    terminal = Terminal("new", "acme-crm", folder=here)
    terminal.until("The vendor's name, for people [Acme CRM]: ")
    for _ in range(10):  # one that comes just before the terminal is read is seen only with the next
        terminal.process.send_signal(signal.SIGINT)
        if select.select([terminal.ours], [], [], 2.0)[0]:
            break
    code, shown = terminal.end()
    assert (code, shown.strip(), files(here)) == (130, "stopped", [])
