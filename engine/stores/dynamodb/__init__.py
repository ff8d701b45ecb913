"""
The store in one DynamoDB table.

A lane is one item that changes only by compare-and-swap. A delivery is one item, written once and deleted once;
nothing is written to claim it, and no counter rises when it is put: what waits is counted when someone asks.
docs/stores.md says what lies where and why; docs/cost.md, what it costs.
"""
