"""Compares Stripe's list of events with the inbox, and adds those that no delivery brought."""
