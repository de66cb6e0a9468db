"""Metrics: what the processes count, and the state of the inbox, for Prometheus."""
