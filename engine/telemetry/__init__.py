"""What happened, for whoever looks: log lines, metrics, spans, and who did what."""
