"""Figures of this machine: mapping, durable intake, drain. `make bench`."""
