"""Connectors and clients of a project -> the infrastructure that carries their events: a template, and its company."""
