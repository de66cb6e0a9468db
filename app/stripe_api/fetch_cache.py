"""The cache of one run, so that a callback fetches an object from Stripe once.

A run is one call of a callback, in a context of its own. The runner begins it. The client of
Stripe's API (``app/stripe_api/client.py``) fills the cache.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

Cache = dict[tuple[Any, ...], Any]

#: The answers of this run by request. Only the thread of the callback is in the run.
_cache: ContextVar[Cache | None] = ContextVar("fetch_cache", default=None)


def begin() -> None:
    """Begin a run with an empty cache in this context."""
    _cache.set({})


def current() -> Cache | None:
    """Return the cache of this run, to read and to fill. None outside of a run."""
    return _cache.get()
