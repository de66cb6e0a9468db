"""The way of an event: received, claimed, run by its callback, and settled."""
