"""What one run of a callback has fetched already, so that the same object is fetched once.

A run is one call of a callback, in a context of its own. The runner begins it, and the client of
Stripe's API (``app/stripe_api/client.py``) keeps its answers in it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

#: The answers of this run, by what was asked. Only the thread of the callback is in the run.
_answers: ContextVar[dict[tuple[Any, ...], Any] | None] = ContextVar("answers", default=None)


def begin() -> None:
    """Let what is fetched from now on in this context be fetched once."""
    _answers.set({})


def answers() -> dict[tuple[Any, ...], Any] | None:
    """Return the answers of this run, to be read and added to; None outside of any run."""
    return _answers.get()
