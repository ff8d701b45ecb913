"""
The mappings as a connector of airbyte-cdk's low-code language writes them; it runs in that package's own environment.

What is missing drops out of an object by itself there, but not out of a list: pairs without a value stay. What looks
like a number or a list becomes one, so that texts such as `00123` are written with quotes of their own.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from airbyte_cdk.sources.declarative.interpolation.interpolated_nested_mapping import InterpolatedNestedMapping

CENTS = "{{ \"'%.2f'\" | format(record['product']['price']) }}"
RESPONSYS = {
    "recipient": {
        "emailAddress": "{{ record['email'].strip().lower() }}",
        "emailFormat": "HTML_FORMAT",
        "listName": {"folderName": "{{ config['folder'] }}", "objectName": "{{ config['list'] }}"},
    },
    "optionalData": [
        {"name": "PRODUCT_ID", "value": "{{ record['product']['id'] }}"},
        {"name": "PRODUCT_NAME", "value": "{{ record['product']['name'] }}"},
        {"name": "PRODUCT_PRICE", "value": CENTS},
        {"name": "PRODUCT_IMAGE", "value": "{{ record['product']['image'] }}"},
        {"name": "PRODUCT_URL", "value": "{{ record['product']['url'] }}"},
        {"name": "EVENT_TYPE", "value": "{{ record['eventType'] }}"},
    ],
}

MONEY = (
    "{{ config['signs'][record['currency'] | default(config['currency'])] }} "
    "{{ '{:,.2f}'.format(record['product']['price']) | replace(',', ' ') | replace('.', ',') | replace(' ', '.') }}"
)
LINES = (
    "{% if record['product'] is defined %}"
    "Produto: {{ record['product']['name'] }} ({{ record['product']['id'] }})"
    "{% if record['product']['price'] is defined %}\nPreço: " + MONEY + "{% endif %}"
    "{% if record['product']['url'] is defined %}\nURL: {{ record['product']['url'] }}{% endif %}"
    "{% endif %}"
)
SALESFORCE = {
    "Subject": "{{ config['subject'][record['eventType']] }}: {{ record['product']['name'][:200] }}",
    "Description": LINES,
    "Status": "Completed",
    "Priority": "Normal",
    "WhoId": "{{ config['person']['Id'] }}",
    "ActivityDate": "{{ format_datetime(record['timestamp'], '%Y-%m-%d') }}",
    "Type": "{{ config['activity'][record['eventType']] }}",
    "attributes": {"type": "Task"},
}


def text(path: str) -> str:
    """A text that stays one, whatever it looks like."""
    return f"{{{{ \"'%s'\" | format({path}) if {path} else '' }}}}"


SIXTY = {
    "id": text("record['eventId']"),
    "email": "{{ record['email'].strip().lower() }}",
    "activity": "{{ config['activity'][record['eventType']] | default('Other') }}",
    "source": "website",
    "channel": "web",
    "version": 2,
    "event_type": "{{ record['eventType'] }}",
    "session": "{{ record['sessionId'] }}",
    "client": "{{ record['clientId'] }}",
    "occurred_at": "{{ record['timestamp'] }}",
    "day": "{{ format_datetime(record['timestamp'], '%Y-%m-%d') }}",
    "hour": "{{ \"'%s'\" | format(format_datetime(record['timestamp'], '%H')) }}",
    "epoch": "{{ timestamp(record['timestamp']) | int }}",
    "person": {
        "full_name": "{{ record['name'].strip() }}",
        "first_name": "{{ record['firstName'] }}",
        "last_name": "{{ record['lastName'].upper() }}",
        "greeting": "Olá {{ record['firstName'] | default('cliente') }}!",
        "phone": "{{ record['phone'] }}",
        "marketing": "{{ 'opted_in' if record['consent'] is defined and record['consent']['marketing'] "
        "else 'opted_out' }}",
        "analytics": "{{ record['consent']['analytics'] }}",
        "consent_source": "{{ record['consent']['source'] }}",
    },
    "page": {
        "url": "{{ record['url'] }}",
        "referrer": "{{ record['referrer'] }}",
        "secure": "{{ record['url'].startswith('https://') }}",
    },
    "campaign": {
        name: f"{{{{ {value} if record['utm'] is defined and record['utm']['source'] and record['utm']['medium'] }}}}"
        for name, value in {
            "source": "record['utm']['source']",
            "medium": "record['utm']['medium'].lower()",
            "name": "record['utm']['campaign']",
            "term": "record['utm']['term']",
            "content": "record['utm']['content']",
            "label": "record['utm']['source'] ~ ' / ' ~ record['utm']['medium']",
        }.items()
    },
    "product_id": "{{ record['product']['id'] }}",
    "product_name": "{{ record['product']['name'][:40] }}",
    "product_title": "{{ record['product']['name'][:80] }} ({{ record['product']['id'] }})",
    "product_price": "{{ record['product']['price'] }}",
    "product_price_text": CENTS,
    "product_currency": "{{ record['currency'] | default(config['currency']) }}",
    "product_quantity": "{{ 1 if record['product'] is undefined else record['product']['quantity'] | default(1) }}",
    "product_image": "{{ record['product']['image'] }}",
    "product_url": "{{ record['product']['url'] }}",
    "product_category": "{{ record['product']['category'] if record['product'] is defined and "
    "record['product']['category'] else 'uncategorised' }}",
    "product_brand": "{{ record['product']['brand'] }}",
    "product_sku": "{{ \"'%s'\" | format(record['product']['sku']) if record['product']['sku'] }}",
    "product_variant": "{{ record['product']['variant'] }}",
    "expensive": "{{ record['product']['price'] >= 1000 }}",
    "band": "{{ {'purchase': 'hot', 'cart_abandoned': 'warm', 'add_to_cart': 'warm'}"
    ".get(record['eventType'], 'cold') }}",
    "order": {
        name: f"{{{{ {value} if record['orderId'] and record['eventType'] == 'purchase' }}}}"
        for name, value in {
            "id": "record['orderId']",
            "total": "record['total']",
            "total_text": "'%.2f' % record['total'] ~ ' ' ~ (record['currency'] | default(config['currency']))",
            "currency": "record['currency'] or config['currency']",
        }.items()
    },
    "cart": "{{ record['cartId'] }}",
    "item_count": "{{ record['items_'] | length if record['items_'] is defined }}",
    "item_names": "{{ record['items_'] | map(attribute='name') | join('; ') if record['items_'] is defined }}",
    "first_item": "{{ record['items_'][0]['name'] }}",
    "items": (
        "{% if record['items_'] is defined %}[{% for line in record['items_'] %}"
        "{% if line['quantity'] is defined and line['quantity'] > 0 %}{'position': {{ loop.index }},"
        "{% if line['sku'] is defined %}'sku': '{{ line['sku'] }}',{% endif %}"
        "'name': '{{ line['name'][:40] }}',"
        "{% if line['price'] is defined %}'price': {{ line['price'] }},"
        "'amount': {{ line['price'] * line['quantity'] }},{% endif %}"
        "'label': '{{ line['quantity'] }} x {{ line['name'] }}'},{% endif %}{% endfor %}]{% endif %}"
    ),
    "categories": (
        "{% if record['items_'] is defined %}[{% for line in record['items_'] if line['category'] %}"
        "'{{ line['category'] }}',{% endfor %}]{% endif %}"
    ),
    "tags": "['web', '{{ record['eventType'] }}',{% if record['product'] is defined and record['product']['brand'] %}"
    "'{{ record['product']['brand'] }}'{% endif %}]",
}  # fmt: skip

MAPPINGS: dict[str, Any] = {"responsys": RESPONSYS, "salesforce": SALESFORCE, "sixty": SIXTY}


def main() -> None:
    name, file = sys.argv[1:]
    with open(file) as stream:
        given, config = (json.loads(line) for line in stream)
    for event in given:  # `items` of a dict is its method in the template language
        if "items" in event:
            event["items_"] = event["items"]
    mapping = InterpolatedNestedMapping(mapping=MAPPINGS[name], parameters={})
    print(json.dumps([mapping.eval(config, record=event) for event in given]), flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        for event in given:
            mapping.eval(config, record=event)
        print(json.dumps({"count": len(given), "seconds": time.process_time() - began}), flush=True)


if __name__ == "__main__":
    main()
