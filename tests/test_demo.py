"""The demo's shops: data beside the engine, in which every bundled connector has a part."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from engine.demo.traffic import client_files, shops, traffic
from engine.spec.project import Project


def test_the_demo_posts_a_thousand_events_of_people_and_six_refused_requests_a_shop() -> None:
    every = shops()
    requests = traffic(every, 1_769_596_245)
    assert requests == traffic(every, 1_769_596_245)  # the same on every machine
    assert Counter(request.shop.client for request in requests) == {shop.client: shop.people + 6 for shop in every}
    assert sum(shop.people for shop in every) == 1000
    assert {shop.connector for shop in every} == {
        "responsys", "rdstation", "salesforce", "hubspot", "mailchimp", "activecampaign", "pipedrive"
    }  # fmt: skip
    good = [json.loads(body) for _, body, headers in requests if body.startswith(b'{"eventId"') and len(headers) == 2]
    assert len({event["eventId"] for event in good}) == len(good)


def test_the_client_files_of_the_demo_are_sound_and_hold_no_secret(tmp_path: Path) -> None:
    environment = client_files(shops(), tmp_path / "clients")
    _, clients, findings = Project(tmp_path).all()
    assert ({client.client for client in clients.values()}, findings) == ({shop.client for shop in shops()}, [])
    said = "".join(file.read_text() for file in (tmp_path / "clients").iterdir())
    assert [value for value in environment.values() if value in said] == []
    for file in (tmp_path / "clients").iterdir():
        prefix, text = file.stem.upper().replace("-", "_"), file.read_text()
        assert [name for name in environment if name.startswith(prefix) and f"env:{name}" not in text] == []
