"""Reasons on pages in Portuguese: each sentence that the engine writes as one, and nothing of a vendor's."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import engine
from engine.dashboard.reasons import reason_in
from engine.dashboard.texts_reasons import REASONS

ROOT = Path(engine.__file__).parent
# Where reasons of lanes and deliveries are made; onboarding and the command line tell theirs to a terminal.
ROOMS = [
    *ROOT.glob("*.py"),
    *(ROOT / "functions").glob("*.py"),
    *(ROOT / "notations").glob("*.py"),
    *(ROOT / "signing").glob("*.py"),
]
TELLS = {
    "BadValue",
    "TooMuch",
    "EgressRefused",
    "NoReply",
    "AuthFailed",
    "Outcome",
    "SecretUnavailable",
    "_unavailable",
}
# A sentence that is put together from pieces -> one as it comes out; None: there is none of ours but what stands in it.
PIECES = {
    "7: 7": None,
    "7 (7)": None,
    "HTTP 7 7": None,
    "auth: 7": None,
    "our 7 is used up": "our limit of 5/1m is used up",
    "a request that costs 7 is above our whole 7": "a request that costs 5 is above our whole budget of 3 an hour",
    "7 is not a 7": "http.limits.day: 'many' is not a budget; write it as 30000",
    "the log-in was refused7: 7": "the log-in was refused (HTTP 400): invalid_grant",
    "certificate and key: 7": "certificate and key: can't be read as PEM",
    "the private key 7": "the private key is encrypted and needs a `passphrase`",
    "7; requests go to public addresses only7": "a.example leads to 10.0.0.1, a private address; requests go to public "
    "addresses only; if it is meant to, run with --allow-private (CONNECT_ALLOW_PRIVATE=1)",
    "7: 7 needed, got 7": "round: 1 to 2 arguments are needed, got 3",
    "a list is needed7, got a list": 'join: a text or a list is needed for `separator`, got text "a, or b"',
}
# What stands in a hole, where it matters of which kind it is.
GOT = re.compile(r"described\(|kind\(|\bodd\b|needed")


def sentence(node: ast.expr) -> str | None:
    """The text that an expression writes, with something that fits in each hole."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part if (part := sentence(each)) is not None else "" for each in node.values)
    if isinstance(node, ast.FormattedValue):
        return "a list" if GOT.search(ast.unparse(node.value)) else "7"
    return None


@cache
def written() -> tuple[tuple[str, str], ...]:
    found = []
    for file in ROOMS:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            told: list[ast.expr] = []
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                told = node.args[:2] if name in TELLS else []
            elif (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id == "reason"
            ):
                told = [node.value]
            for each in told:
                if (text := sentence(each)) is not None and " " in text.strip():
                    found.append((f"{file.name}:{each.lineno}", text))
    return tuple(found)


def test_each_reason_that_the_engine_writes_has_its_portuguese() -> None:
    """Where this fails, the sentence goes into engine/dashboard/texts_reasons.py."""
    english = []
    for at, text in written():
        said = PIECES.get(text, text)
        if said is not None and reason_in(said, "pt").language == "en":
            english.append(f"{at}: {said}")
    assert english == []
    assert PIECES.keys() <= {text for _, text in written()}


@pytest.mark.parametrize(
    ("english", "portuguese"),
    [
        ("look-up person: not found", "consulta person: não encontrado"),
        ("record.Subject: event.name is absent", "record.Subject: event.name está ausente"),
        (
            'record.price: round: a number is needed, got text "one or two"',
            'record.price: round: é preciso um número; veio texto "one or two"',
        ),
        (
            "get: a path such as 'id' or 'product.id' is needed, got nothing",
            "get: é preciso um caminho como 'id' ou 'product.id'; veio nada",
        ),
        (
            "record.x: event.tags is a list and can't stand in a text",
            "record.x: event.tags é uma lista e não pode estar em um texto",
        ),
        ("HTTP 503 try later (after 8 tries)", "HTTP 503 try later (depois de 8 tentativas)"),
        (
            "no connection to api.crm.example: Connection refused (given up: it went on for too long)",
            "sem conexão com api.crm.example: conexão recusada (desistiu: durou tempo demais)",
        ),
        ("look-up person: HTTP 400 BAD: no such", "consulta person: HTTP 400 BAD: no such"),
        ("env:ABC_KEY: set the environment variable ABC_KEY", "env:ABC_KEY: defina a variável de ambiente ABC_KEY"),
        (
            'the event does not fit its schema; price: "x" is not of type "number"',
            'o evento não segue o esquema; price: "x" não é do tipo "number"',
        ),
    ],
)
def test_a_reason_says_in_portuguese_what_it_is_about_and_what_was_got(english: str, portuguese: str) -> None:
    assert reason_in(english, "pt") == (portuguese, "pt-BR")
    assert reason_in(english, "en") == (english, "en")


@pytest.mark.parametrize(
    "vendor",
    [
        "HTTP 422 email_invalid: Contact Email Address is not valid.",
        "NO_RECIPIENT_FOUND: Recipient Not Found",
        "PERMISSION_DENIED: Permission denied",
        "Account needs an upgrade",
        "This is a value that nobody knows",
        "The list is needed for imports, got it?",
        "Campaign 5 of this account is paused",
        "{0} {x} %s",
    ],
)
def test_what_a_vendor_says_stays_as_it_came(vendor: str) -> None:
    assert reason_in(vendor, "pt") == (vendor, "en")


def test_the_portuguese_of_each_reason_has_the_holes_of_the_english() -> None:
    holes = re.compile(r"\{(\w+)\}")
    assert [english for english, said in REASONS if sorted(holes.findall(english)) != sorted(holes.findall(said))] == []
