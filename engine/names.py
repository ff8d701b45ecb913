"""Which context names exist where; what is not in the set of a place is a finding there (docs/language.md, names)."""

from __future__ import annotations

CLIENT = frozenset({"settings", "client", "tables"})
ARRIVED = CLIENT | {"event", "received_at"}
ROW = ARRIVED | {"fields"}
BOUND = CLIENT | {"derived"}  # from here on the client's secrets are there: `derive` has parts of them
LOOKING = ROW | BOUND
LOOKED_UP = LOOKING | {"lookups", "delivery"}
MAPPED = LOOKED_UP | {"vars"}
CHECKED = MAPPED | {"record"}
BATCH = BOUND | {"batch", "steps", "delivery"}
SINGLE = CHECKED | {"steps"}  # an action without `batch:` stays with its one row
AUTH = BOUND | {"secrets", "token", "now"}
SIGNED = AUTH | {"sign", "nonce"}  # what a log-in sends, and what is placed
FINISHED = SIGNED | {"request"}  # a signer: the request is there once it is encoded
CONSENT = SIGNED | {"consent"}
ADDRESS = AUTH - {"secrets"}  # a base URL: it is logged and shown
REPLY = frozenset({"response"})
WAIT = frozenset({"now", "failures"})
SANDBOX = frozenset({"request", "path", "calls", "now"})
