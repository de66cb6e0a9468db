"""Alerts: conditions that need a person, and the signed messages about them."""
