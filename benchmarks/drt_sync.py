"""
One sync of drt-core, as `drt run` does it, in the environment that has it: rows of SQLite, a template, batches.

A contestant for `measuring.Beside`: it gets the CRM's address, the file of the table, and how many rows there are. Its
first line has the body of its first request, so that both sides can be held against each other.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from drt.config.models import RateLimitConfig, RestApiDestinationConfig, SyncConfig, SyncOptions
from drt.config.profiles import SQLiteProfile
from drt.destinations.rest_api import RestApiDestination
from drt.engine.sync import run_sync
from drt.sources.sqlite import SQLiteSource
from drt.templates.renderer import render_template

ALL = "SELECT * FROM events ORDER BY id"
TEMPLATE = """{"customEvent":{"eventNumberDataMapping":"","eventDateDataMapping":"","eventStringDataMapping":""},
"recipientData":[
{%- for row in rows -%}
{"recipient":{"emailAddress":{{ row.email | trim | lower | tojson_safe }},"emailFormat":"HTML_FORMAT",
"listName":{"objectName":"CONTACTS_LIST"}},"optionalData":[
{"name":"PRODUCT_ID","value":{{ row.product_id | tojson_safe }}},
{"name":"PRODUCT_NAME","value":{{ row.product_name | tojson_safe }}},
{"name":"PRODUCT_PRICE","value":"{{ '%.2f' % row.product_price }}"},
{"name":"PRODUCT_IMAGE","value":{{ row.product_image | tojson_safe }}},
{"name":"PRODUCT_URL","value":{{ row.product_url | tojson_safe }}},
{"name":"EVENT_TYPE","value":{{ row.event_type | tojson_safe }}}]}
{%- if not loop.last %},{% endif -%}
{%- endfor -%}
]}"""


def main() -> None:
    base, file, count, clock = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    now = time.process_time if clock == "cpu" else time.perf_counter
    profile = SQLiteProfile(type="sqlite", database=file)
    options = SyncOptions(batch_size=5_000, rate_limit=RateLimitConfig(requests_per_second=0))
    destination = RestApiDestinationConfig(
        type="rest_api",
        url=f"{base}/rest/api/v1.3/events/product_view",
        headers={"Content-Type": "application/json", "Authorization": "a-token-of-some-length"},
        body_mode="batch",
        batch_template=TEMPLATE,
        max_records_per_request=200,
    )
    sync = SyncConfig(name="events", model=ALL, destination=destination, sync=options)
    rows = [row for row, _ in zip(SQLiteSource().extract(ALL, profile), range(200), strict=False)]
    print(json.dumps(json.loads(render_template(TEMPLATE, rows=rows))), flush=True)
    for _ in sys.stdin:
        began = now()
        result = run_sync(sync, SQLiteSource(), RestApiDestination(), profile, Path(file).parent)
        seconds = now() - began
        assert (result.success, result.failed) == (count, 0), result
        print(json.dumps({"count": count, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
