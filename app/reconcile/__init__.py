"""Compares Stripe's list of events with the inbox, and backfills events that were not delivered."""
