"""Many clients in one process: one of them whose CRM is dead or never answers delays no other."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from command import soon
from parties import HEAD, Crm, Serve, figures, project, sized

LANES = 500
RATE = 60.0  # events a second, of all of them
CONNECTOR = """
receive: {client: "${ event.client }", id: "${ event.id }"}
auth: {type: none}
http: {base_url: https://api.ledger.example, timeout: 2s, retry: {initial: 1s, max: 4s}}
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 20, wait: 100ms}
    request: {path: /notes, json: "${ batch.records }"}
"""


def delays(serve: Serve, crm: Crm, phase: str, seconds: float) -> list[float]:
    """Events of all clients, evenly: seconds from each one's answer 202 to its arrival at the CRM, but for `c0`'s."""
    sent: dict[str, float] = {}
    rng = random.Random(phase)
    ends_at = time.monotonic() + seconds

    def post(name: str, event: str) -> None:
        answer = http.post(f"http://127.0.0.1:{serve.port}/ledger", json={"id": event, "client": name})
        assert answer.status_code == 202
        sent[event] = time.monotonic()

    with httpx.Client(trust_env=False, timeout=20) as http, ThreadPoolExecutor(4) as pool:
        number = 0
        while time.monotonic() < ends_at:
            number += 1
            name = "c0" if number % 20 == 1 else f"c{rng.randrange(1, LANES)}"
            pool.submit(post, name, f"{name}:{phase}-{number}")
            time.sleep(1 / RATE)
    others = [event for event in sent if not event.startswith("c0:")]
    soon(lambda: all(event in crm.times for event in others), 30)
    return [crm.times[event] - sent[event] for event in others]


def at(share: float, rounds: list[list[float]]) -> float:
    """The delay in ms that this share of all events had at most."""
    every = sorted(delay for one in rounds for delay in one)
    return 1000 * every[min(len(every) - 1, int(share * len(every)))]


def surely(share: float, quiet: list[list[float]], other: list[list[float]]) -> tuple[float, float]:
    """
    By how much the delay in `other` rounds is above that in `quiet` ones, in per cent: the bounds between which 95 of
    100 such measurements would be, found by drawing rounds anew. Rounds and not events, for what disturbs a machine
    lasts longer than one event.
    """
    rng = random.Random(1)
    drawn = sorted(
        at(share, rng.choices(other, k=len(other))) / at(share, rng.choices(quiet, k=len(quiet))) for _ in range(1000)
    )
    return 100 * (drawn[25] - 1), 100 * (drawn[974] - 1)


@pytest.mark.parametrize("trouble", ["never answers", "is dead"] if sized(False, True) else ["never answers"])
def test_one_client_in_trouble_among_500_delays_no_other(tmp_path: Path, trouble: str) -> None:
    """
    Rounds without trouble and rounds with it take turns, in an order by chance, on one server that has come to rest
    before each. Half of those without are held against the other half: that is what the machine itself does to delays.
    """
    folder, crm = project(tmp_path / "project", clients=0), Crm(answer_s=0.005)
    (folder / "connectors" / "ledger.yaml").write_text(HEAD.format(name="ledger") + CONNECTOR)
    for number in range(LANES):
        name = f"c{number}"
        (folder / "clients" / f"{name}.yaml").write_text(f"{{client: {name}, connectors: {{ledger: {{}}}}}}")
    serve = Serve(folder, crm.port)
    rounds: dict[str, list[list[float]]] = {"quiet": [], "quiet again": [], "trouble": []}
    rng = random.Random(7)
    try:
        delays(serve, crm, "warm", 1.0)
        for turn in range(sized(1, 8)):
            for kind in rng.sample(list(rounds), 3):
                if kind == "trouble":
                    (crm.stuck if trouble == "never answers" else crm.broken).add("c0")
                rounds[kind].append(delays(serve, crm, f"{kind}-{turn}", sized(1.5, 5.0)))
                if kind == "trouble":
                    assert {lane["client"] for lane in serve.lanes() if lane["waiting"]} == {"c0"}
                crm.stuck, crm.broken = set(), set()
                soon(lambda: serve.waiting() == 0, 30)
        serve.kill()
    finally:
        serve.close()
        crm.close()
    quiet = rounds["quiet"] + rounds["quiet again"]
    said = []
    for share in (0.5, 0.95, 0.99):
        low, high = surely(share, quiet, rounds["trouble"])
        noise = surely(share, rounds["quiet"], rounds["quiet again"])
        said.append(
            f"p{100 * share:.0f} {at(share, rounds['trouble']):.0f} ms, without it {at(share, quiet):.0f} ms "
            f"({low:+.0f} to {high:+.0f} %; without it twice {noise[0]:+.0f} to {noise[1]:+.0f} %)"
        )
    figures(
        f"test_one_client_in_trouble_among_500_delays_no_other[{trouble}]",
        f"one that {trouble}, delay of the others: {'; '.join(said)}; {sum(map(len, rounds['trouble']))} events in "
        f"{len(rounds['trouble'])} rounds and twice as many without",
    )
    for share in (0.5, 0.95):
        low, _ = surely(share, quiet, rounds["trouble"])
        assert at(share, rounds["trouble"]) <= at(share, quiet) * sized(1.5, 1.10) or low <= 0, share
