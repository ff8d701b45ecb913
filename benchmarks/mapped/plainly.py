"""The Responsys record by jinja2 (a template for each value, compiled once) and by one expression of jmespath."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2
import jmespath

PAIRS = {
    "PRODUCT_ID": "{{ event.product.id }}",
    "PRODUCT_NAME": "{{ event.product.name }}",
    "PRODUCT_PRICE": "{% if event.product.price is defined %}{{ '%.2f' | format(event.product.price) }}{% endif %}",
    "PRODUCT_IMAGE": "{{ event.product.image }}",
    "PRODUCT_URL": "{{ event.product.url }}",
    "EVENT_TYPE": "{{ event.eventType }}",
}


def by_jinja() -> Callable[[dict[str, Any]], Any]:
    environment = jinja2.Environment(undefined=jinja2.ChainableUndefined)
    email = environment.from_string("{{ event.email | trim | lower }}").render
    pairs = {name: environment.from_string(text).render for name, text in PAIRS.items()}

    def run(event: dict[str, Any]) -> Any:
        made = [(name, render(event=event)) for name, render in pairs.items()]
        return {
            "recipient": {
                "emailAddress": email(event=event),
                "emailFormat": "HTML_FORMAT",
                "listName": {"folderName": "!MasterData", "objectName": "CONTACTS_LIST"},
            },
            "optionalData": [{"name": name, "value": value} for name, value in made if value],
        }

    return run


def by_jmespath() -> Callable[[dict[str, Any]], Any]:
    """It has neither lower case nor two decimals, so it does less."""
    paths = {
        "PRODUCT_ID": "product.id", "PRODUCT_NAME": "product.name", "PRODUCT_PRICE": "product.price",
        "PRODUCT_IMAGE": "product.image", "PRODUCT_URL": "product.url", "EVENT_TYPE": "eventType",
    }  # fmt: skip
    pairs = ", ".join(f"{{name: '{name}', value: {path}}}" for name, path in paths.items())
    listed = "{folderName: '!MasterData', objectName: 'CONTACTS_LIST'}"
    expression = jmespath.compile(
        f"{{recipient: {{emailAddress: email, emailFormat: 'HTML_FORMAT', listName: {listed}}},"
        f" optionalData: [{pairs}][?value != null]}}"
    )
    return lambda event: expression.search(event)
