"""huey's SQLite storage, in its own environment: each line on standard input is a turn of 200 tasks taken off it."""

import importlib.metadata
import json
import sys
import time

from huey.storage import SqliteStorage

TURN, BODY = 200, json.dumps({"email": "user@example.com", "text": "x" * 300}).encode()

queue = SqliteStorage("bench", filename=sys.argv[1], fsync=True)
print(json.dumps({"huey": importlib.metadata.version("huey")}), flush=True)
for _ in sys.stdin:
    for _ in range(TURN):
        queue.enqueue(BODY)
    began = time.perf_counter()
    for _ in range(TURN):
        assert queue.dequeue() is not None
    print(json.dumps({"count": TURN, "seconds": time.perf_counter() - began}), flush=True)
