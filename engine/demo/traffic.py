"""The shops of the demo -> their client files, their secrets, and the requests that their tags would send."""

from __future__ import annotations

import json
import random
import time
import uuid
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from engine.program import Program
from engine.spec.project import Project
from engine.spec.types import Binding, Client

if TYPE_CHECKING:
    from pathlib import Path

PRODUCTS = [
    ("PROD-12345", "Smartphone XYZ", "1299.90"),
    ("PROD-789", "Notebook ABC", "2999.90"),
    ("PROD-456", "Câmera DSLR", "3499.90"),
    ("PROD-007", "Tênis d'Água “Maré” \\ nº 42", "199.00"),
    ("PROD-901", "Café {{ especial }} 500 g", "38.50"),
    ("PROD-314", "Bicicleta aro 29 🚲", "1890.00"),
]


class Shop(NamedTuple):
    """One entry of shops.yaml, where its keys are described."""

    client: str
    title: str
    connector: str
    binding: dict[str, Any]
    event: dict[str, str]
    people: int
    trouble: list[str]
    deliveries: int = 1
    held: int = 0
    outage: str = ""


class Request(NamedTuple):
    """What one tag sends, well-behaved or not."""

    shop: Shop
    body: bytes
    headers: dict[str, str]


def shops() -> list[Shop]:
    text = files("engine.demo").joinpath("shops.yaml").read_text(encoding="utf-8")
    return [Shop(**entry) for entry in yaml.safe_load(text)]


def write_key(shop: Shop) -> str:
    return f"demo-write-key-{shop.client}"


def client_files(shops: list[Shop], folder: Path) -> dict[str, str]:
    """Write the client files; the environment that their secrets come from."""
    folder.mkdir(parents=True)
    environment: dict[str, str] = {}
    specs = Project(folder.parent).all()[0]
    for shop in shops:
        prefix = shop.client.upper().replace("-", "_")
        spec = specs[shop.connector]
        needed = Program(spec, Client(client=shop.client, connectors={}), Binding(**shop.binding)).secret_names
        secrets = {}
        for secret, value in (spec.sandbox.secrets if spec.sandbox is not None else {}).items():
            if secret in needed:
                environment[f"{prefix}_{secret.upper()}"] = value
                secrets[secret] = f"env:{prefix}_{secret.upper()}"
        environment[f"{prefix}_WRITE_KEY"] = write_key(shop)
        client = {
            "client": shop.client,
            "title": shop.title,
            "ingest": {"keys": [f"env:{prefix}_WRITE_KEY"], "origins": [f"https://www.{shop.client}.example"]},
            "connectors": {shop.connector: {**shop.binding, "secrets": secrets}},
        }
        text = yaml.safe_dump(client, sort_keys=False, allow_unicode=True)
        (folder / f"{shop.client}.yaml").write_text(text, encoding="utf-8")
    return environment


def event(rng: random.Random, shop: Shop, number: int, person: str, now: float) -> dict[str, Any]:
    """A browsing event as a tag would send it."""
    product, name, price = PRODUCTS[number % len(PRODUCTS)]
    return {
        "eventId": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "email": person,
        "eventType": "product_view" if number % 4 else "cart_abandoned",
        "product": {
            "id": product,
            "name": name,
            "price": float(price),
            "url": f"https://www.{shop.client}.example/p/{product}",
        },
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now)),
        "sessionId": f"s{number}",
        **shop.event,
    }


def traffic(shops: list[Shop], now: float, seed: int = 7) -> list[Request]:
    """All requests of all shops in random order: an event of each person, and six that are refused."""
    rng = random.Random(seed)
    requests = []
    for shop in shops:
        headers = {"X-Connect-Key": write_key(shop), "Content-Type": "application/json"}
        people = [f"{word}@{shop.client}.example" for word in shop.trouble]
        people += [f"pessoa{number}@{shop.client}.example" for number in range(shop.people - len(people))]
        for number, person in enumerate(people):
            body = json.dumps(event(rng, shop, number, person, now), ensure_ascii=False).encode()
            requests.append(Request(shop, body, headers))
        no_mail = event(rng, shop, 1, "", now)
        del no_mail["email"]
        nobody = dict.fromkeys(shop.event, "nobody")
        bad: list[tuple[bytes, dict[str, str]]] = [
            (b'{"email": "pessoa1@', {}),
            (json.dumps(no_mail).encode(), {}),
            (json.dumps({**event(rng, shop, 2, "not an address", now), "product": {"price": "NaN"}}).encode(), {}),
            (json.dumps(event(rng, shop, 3, "pessoa3@x.example", now)).encode(), {"X-Connect-Key": "nobody's key"}),
            (json.dumps({**event(rng, shop, 4, "pessoa4@x.example", now), **nobody}).encode(), {}),
            (b"<event/>", {"Content-Type": "application/xml"}),
        ]
        requests += [Request(shop, body, {**headers, **other}) for body, other in bad]
    rng.shuffle(requests)
    return requests
