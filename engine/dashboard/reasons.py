"""Why a lane waits, in the engine's own words -> the same in Portuguese; what a vendor said stays as it is."""

from __future__ import annotations

import re
from typing import NamedTuple

# What the engine writes, whole; \1 and so on are what stands in it.
_PORTUGUESE: tuple[tuple[str, str], ...] = (
    (r"paused by hand", r"pausada manualmente"),
    (r"paused by hand: (.*)", r"pausada manualmente: \1"),
    (r"our limit of (\S+) is used up", r"nosso limite de \1 está esgotado"),
    (r"our budget of (\d+) an hour is used up", r"nosso orçamento de \1 por hora está esgotado"),
    (r"our budget of (\d+) a day is used up", r"nosso orçamento de \1 por dia está esgotado"),
    (r"our budget of (\d+) a month is used up", r"nosso orçamento de \1 por mês está esgotado"),
    (r"all (\d+) connections are in use", r"todas as \1 conexões estão em uso"),
    (
        r"the action (\S+) is not in the connector any more, or is switched off",
        r"a ação \1 não está mais no conector, ou está desativada",
    ),
    (r"(.*) again after one token renewal", r"\1 de novo, depois de renovar o token uma vez"),
    (r"(.*) and nothing to renew", r"\1, e não há o que renovar"),
    (r"no reply: (.*)", r"sem resposta: \1"),
    (
        r"(\S+): no secret (\S+); add `(.*)` to the client file",
        r"\1: falta o segredo \2; acrescente `\3` ao arquivo do cliente",
    ),
)
_RULES = [(re.compile(english, re.DOTALL), portuguese) for english, portuguese in _PORTUGUESE]


class Reason(NamedTuple):
    """A text and the language that it is in, as HTML names it."""

    text: str
    language: str


def reason_in(text: str, language: str) -> Reason:
    """The reason in the language of the page, where it is one of ours."""
    if language == "pt":
        for english, portuguese in _RULES:
            if (found := english.fullmatch(text)) is not None:
                return Reason(found.expand(portuguese), "pt-BR")
    return Reason(text, "en")
