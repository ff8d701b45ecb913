"""What benchmarks/mapping.py maps: events, and the same mappings written by hand and for other tools."""
