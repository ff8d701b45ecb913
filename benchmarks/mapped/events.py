"""Events as shops send them, some of whose keys are missing: the same ones in every run."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

TYPES = ("product_view", "add_to_cart", "cart_abandoned", "purchase")
WORDS = ("Câmera", "DSLR", "Tênis", "Smartphone", "XYZ", "Sofá", "Retrátil", "Livro", "Cadeira", "Gamer", "24", "Azul")


def events(count: int, seed: int = 7) -> list[dict[str, Any]]:
    """Valid by schemas/events/browsing.schema.json, numbers exact; each optional key is missing from one in six."""
    chance = random.Random(seed)
    return [present(event(chance), chance) for _ in range(count)]


def present(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        return {
            key: present(entry, chance) for key, entry in value.items() if key in REQUIRED or chance.random() > 1 / 6
        }
    return [present(entry, chance) for entry in value] if isinstance(value, list) else value


REQUIRED = frozenset({"email", "eventType", "timestamp", "id", "name", "clientId"})


def event(chance: random.Random) -> dict[str, Any]:
    number = chance.randrange(10**6)
    name = f"{chance.choice(('Ana', 'José', 'Zoë'))}.{number}"
    blank = chance.choice(("", "", "", " "))
    return {
        "email": f"{blank}{chance.choice((name, name.upper()))}@Example.com{blank}",
        "eventType": chance.choice(TYPES),
        "timestamp": moment(chance),
        "clientId": "client-abc",
        "eventId": f"{number:08x}-7f3d-4c1e-9a53-2f5d8a1f3c77",
        "sessionId": f"{number}-session",
        "name": f"  {name} Souza ",
        "firstName": name,
        "lastName": "Souza",
        "phone": f"+55 (11) 9{chance.randrange(10**8):08}",
        "url": f"https://example.com/product/{number}",
        "referrer": chance.choice(("https://www.example.org/", "")),
        "orderId": f"ORDER-{number}",
        "cartId": f"CART-{number}",
        "total": price(chance),
        "currency": chance.choice(("BRL", "EUR")),
        "product": product(chance),
        "items": [product(chance) for _ in range(chance.randrange(4))],
        "utm": {
            "source": "newsletter",
            "medium": "Email",
            "campaign": f"summer-{number % 50}",
            "term": "phone",
            "content": "",
        },
        "consent": {"marketing": chance.random() < 0.5, "analytics": True, "source": "cookie banner"},
    }


def product(chance: random.Random) -> dict[str, Any]:
    number = chance.randrange(10**5)
    return {
        "id": f"PROD-{number}",
        "name": " ".join(chance.choices(WORDS, k=chance.choice((2, 3, 60)))),
        "price": price(chance),
        "quantity": chance.randrange(5),
        "image": f"https://example.com/{number}.jpg",
        "url": f"https://example.com/product/{number}",
        "category": chance.choice(("Eletrônicos", "Casa", "")),
        "brand": "Acme",
        "sku": f"{number:05}",
        "variant": chance.choice(("blue", "")),
    }


def price(chance: random.Random) -> int | Decimal:
    cents = chance.randrange(1, 500_000)
    return chance.choice((cents // 100, Decimal(cents) / 100, Decimal(cents * 10 + 5) / 1000))


def moment(chance: random.Random) -> str:
    day, second = chance.randrange(1, 29), chance.randrange(86_400)
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return f"2026-01-{day:02}T{clock}" + chance.choice(("Z", f".{chance.randrange(1000):03}Z", "-03:00"))
