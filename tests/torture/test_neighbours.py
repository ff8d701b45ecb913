"""Many clients in one process: one of them whose CRM is dead or never answers delays no other."""

from __future__ import annotations

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from command import soon
from parties import HEAD, Crm, Serve, figures, project, sized

LANES = 500
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


def delays(serve: Serve, crm: Crm, phase: str, seconds: float, *, also: str = "") -> list[float]:
    """Events of all clients but `also`, evenly: seconds from each one's answer 202 to its arrival at the CRM."""
    sent: dict[str, float] = {}
    rng = random.Random(phase)
    rate, ends_at = 60.0, time.monotonic() + seconds

    def post(name: str, event: str) -> None:
        answer = http.post(f"http://127.0.0.1:{serve.port}/ledger", json={"id": event, "client": name})
        assert answer.status_code == 202
        sent[event] = time.monotonic()

    with httpx.Client(trust_env=False, timeout=20) as http, ThreadPoolExecutor(4) as pool:
        number = 0
        while time.monotonic() < ends_at:
            number += 1
            name = f"c{rng.randrange(1, LANES)}"
            pool.submit(post, name, f"{name}:{phase}-{number}")
            if also and number % 20 == 1:
                pool.submit(post, also, f"{also}:{phase}-{number}")
            time.sleep(1 / rate)
    others = [event for event in sent if not event.startswith(f"{also}:")]
    soon(lambda: all(event in crm.times for event in others), 30)
    return [crm.times[event] - sent[event] for event in others]


@pytest.mark.parametrize("trouble", ["never answers", "is dead"] if sized(False, True) else ["never answers"])
def test_one_client_in_trouble_among_500_delays_no_other(tmp_path: Path, trouble: str) -> None:
    folder, crm = project(tmp_path / "project", clients=0), Crm(answer_s=0.005)
    (folder / "connectors" / "ledger.yaml").write_text(HEAD.format(name="ledger") + CONNECTOR)
    for number in range(LANES):
        name = f"c{number}"
        (folder / "clients" / f"{name}.yaml").write_text(f"{{client: {name}, connectors: {{ledger: {{}}}}}}")
    crm.stuck = {"c0"} if trouble == "never answers" else set()
    crm.broken = {"c0"} if trouble == "is dead" else set()
    serve = Serve(folder, crm.port)
    without: list[float] = []
    with_it: list[float] = []
    try:
        delays(serve, crm, "warm", 1.0)
        for turn in range(sized(1, 6)):  # in turns, for other things go on on this machine
            without += delays(serve, crm, f"without-{turn}", sized(1.5, 8.0))
            with_it += delays(serve, crm, f"with-{turn}", sized(1.5, 8.0), also="c0")
        waiting = {lane["client"]: lane["waiting"] for lane in serve.lanes() if lane["waiting"]}
        assert set(waiting) == {"c0"}
        serve.kill()
    finally:
        serve.close()
        crm.close()
    before, after = statistics.median(without), statistics.median(with_it)
    late, later = (1000 * statistics.quantiles(some, n=20)[-1] for some in (without, with_it))
    figures(
        f"test_one_client_in_trouble_among_500_delays_no_other[{trouble}]",
        f"one that {trouble}: median delay of the others {1000 * after:.0f} ms, without it {1000 * before:.0f} ms "
        f"({100 * (after / before - 1):+.1f} %), 95th percentile {later:.0f} ms, "
        f"without it {late:.0f} ms; {len(with_it)} events",
    )
    assert after <= before * sized(1.25, 1.10)
