"""DaxGO Connect: one engine that carries customer events into CRMs, each CRM described in YAML."""
