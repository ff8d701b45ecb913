"""The limits on a lane's page: what is allowed, what is used, and when it is free again, in both languages."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from conftest import reply
from test_dashboard import House, Opened, opened

__all__ = ["opened"]  # a fixture

# 10:30:45 UTC is 07:30:45 in São Paulo, which has its midnight at 03:00 UTC.
CRM = """
receive: {client: "${ event.client }", id: "${ event.id }"}
settings: {properties: {plan: {type: string, default: free}}}
http:
  base_url: https://api.crm.example/v1
  limits:
    calls: {rate: 2/1m}
    day: {budget: 1000, per: day, timezone: America/Sao_Paulo}
    open: {concurrency: 4}
    big: {rate: 100/1s, when: "${ settings.plan == 'big' }"}
actions:
  note:
    record: {id: "${ event.id }"}
    limits: {each: {rate: 1/24h, by: "${ event.email }", then: defer}}
    request: {path: /notes, json: "${ record }", cost: 250, limits: {notes: {rate: 60/1h, of: host}}}
"""


@pytest.fixture
def limited(opened: Opened) -> Iterator[House]:
    with opened(crm=CRM, abc="{client: abc, connectors: {crm: {}}}") as house:
        house.log_in()
        yield house


class Cells(HTMLParser):
    """The rows of the table of limits, cell by cell."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inside = False
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = self.inside or dict(attrs).get("id") == "limits"
        if self.inside and tag == "tr":
            self.rows.append([])
        elif self.inside and tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "table"

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def limits(house: House, language: str) -> list[list[str]]:
    return Cells(house.http.get("/lane/crm/abc", params={"lang": language}).text).rows


def test_each_limit_shows_what_it_allows_what_is_used_and_when_it_is_free(limited: House) -> None:
    head = ["Of", "Limit", "Used now", "Free again"]
    day = "Counted anew at 2026-01-29 03:00, in 16 h"
    assert limits(limited, "en") == [
        head,
        ["http.limits.calls of this client", "2 requests in 1m", "0 of 2 · 0.0 %", "There is room now."],
        ["http.limits.day of this client", "1,000 per day", "0 of 1,000 · 0.0 %", day],
        ["http.limits.open of this client", "4 at the same time", "0 of 4 · 0.0 %", "There is room now."],
        ["http.limits.big of this client", "100 requests in 1s", "Not in force for this client.", "-"],
        [
            "actions.note.limits.each of this client",
            "1 requests in 24h",
            "Each value is counted by itself; none was asked for by this process yet.",
            "-",
        ],
        [
            "actions.note.request.limits.notes of all clients of the connector",
            "60 requests in 1h",
            "0 of 60 · 0.0 %",
            "There is room now.",
        ],
    ]
    for at in range(2):
        limited.post({"id": str(at), "email": f"{at}@example.com"})
        limited.run()
        limited.clock.time += 15
    assert len(limited.vendor.asked) == 2
    said = [row[2:] for row in limits(limited, "pt")]
    assert said == [
        ["Em uso agora", "Livre de novo"],
        ["2 de 2 · 100 %", "Às 10:31:45, em 30 s"],
        ["500 de 1.000 · 50,0 %", "Recomeça em 2026-01-29 03:00, daqui a 16 h"],
        ["0 de 4 · 0,0 %", "Há espaço agora."],
        ["Não se aplica a este cliente.", "-"],
        [
            "1 de 1 · 100 % Cada valor é contado à parte; este é o mais cheio dos últimos 2, 2 sem espaço.",
            "Às 10:30:45, em 24 h",
        ],
        ["2 de 60 · 3,3 %", "Há espaço agora."],
    ]
    for _ in range(5):
        limits(limited, "en")  # who looks uses nothing
    assert [row[2:] for row in limits(limited, "pt")] == said
    limited.clock.time += 30
    assert limits(limited, "en")[1][2:] == ["1 of 2 · 50.0 %", "There is room now."]


def test_a_lane_whose_oldest_was_put_off_says_until_when(limited: House) -> None:
    limited.post({"id": "1", "email": "ana@example.com"}, {"id": "2", "email": "ana@example.com"})
    limited.run()
    page = limited.page("/lane/crm/abc?lang=en")
    assert (
        "waiting The oldest was put off, by a limit or by an answer; it goes on by itself at 2026-01-29 10:30:45 "
        "(in 24 h). Its way so far Numbers"
    ) in page.text
    way = next(had["href"] for had in page.all("a") if had["href"].startswith("/event?"))
    assert "2026-01-29 10:30:45" in limited.page(way).text
    limited.clock.time += 86_399
    limited.log_in()
    assert "continua sozinho às 2026-01-29 10:30:45 (em 1 s)." in limited.page("/lane/crm/abc?lang=pt").text
    limited.clock.time += 1
    assert "It is about to get its turn." in limited.page("/lane/crm/abc?lang=en").text


def test_all_open_connections_are_free_with_the_next_answer(limited: House) -> None:
    for owner in "abcd":
        assert limited.engine.store.acquire(
            "crm/abc:http:open", slots=4, owner=owner, ttl_s=300, now=limited.clock.now()
        )
    assert limits(limited, "en")[3][2:] == ["4 of 4 · 100 %", "With the next answer"]
    assert limits(limited, "pt")[3][2:] == ["4 de 4 · 100 %", "Com a próxima resposta"]


def test_a_limit_of_credentials_that_cannot_be_read_and_one_that_settings_do_not_give_say_so(opened: Opened) -> None:
    crm = """
receive: {client: "${ event.client }"}
secrets: {key: {title: Key}}
auth: {place: {headers: {X-Key: "${ secrets.key }"}}}
http: {limits: {shared: {rate: 5/1m, of: credentials}, plan: {rate: "${ settings.rate }"}}}
settings: {properties: {rate: {type: string}}}
actions: {note: {record: {}, request: {path: /notes, json: "${ record }"}}}
"""
    abc = "{client: abc, connectors: {crm: {secrets: {key: 'env:GONE_AWAY'}, settings: {rate: often}}}}"
    with opened(crm=crm, abc=abc) as house:
        house.log_in()
        assert limits(house, "en")[1:] == [
            [
                "http.limits.shared of all clients with the same credentials",
                "5 requests in 1m",
                "Its secrets can't be read.",
                "-",
            ],
            [
                "http.limits.plan of this client",
                "The settings give none. http.limits.plan: 'often' is not a rate; write it as 120/1m or 10/1s",
                "-",
                "-",
            ],
        ]


def test_the_limits_of_a_log_in_are_among_those_of_a_lane_once_it_uses_that_log_in(opened: Opened) -> None:
    crm = """
receive: {client: "${ event.client }", id: "${ event.id }"}
http: {base_url: https://api.crm.example}
auths:
  token:
    token:
      request: {url: https://api.crm.example/token, json: {}, limits: {log_ins: {rate: 3/1h}}}
      renew: {request: {url: https://api.crm.example/renew, json: {}, limits: {renewals: {budget: 20, per: hour}}}}
      save: {value: "${ response.body.token }"}
    place: {headers: {X-Token: "${ token.value }"}}
  other:
    token:
      request: {url: https://api.crm.example/other, json: {}, limits: {unused: {rate: 3/1h}}}
      save: {value: "${ response.body.token }"}
    place: {headers: {X-Token: "${ token.value }"}}
actions: {note: {auth: token, record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}}
"""
    with opened(crm=crm) as house:
        house.log_in()
        house.vendor.answer = lambda _: reply(200, {"token": "t"})
        house.post({"id": "1"})
        house.run()
        assert [row[:3] for row in limits(house, "en")[1:]] == [
            ["auths.token.token.request.limits.log_ins of this client", "3 requests in 1h", "1 of 3 · 33.3 %"],
            ["auths.token.token.renew.request.limits.renewals of this client", "20 per hour", "0 of 20 · 0.0 %"],
        ]
