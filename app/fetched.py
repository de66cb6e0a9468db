"""What one run of a callback has fetched already, so that the same object is fetched once.

A run is one call of a callback. The runner opens it, and the client of Stripe's API
(``app/stripe_client.py``) keeps its answers in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

#: The answers of this run, by what was asked. Only the thread of the callback is in the run.
_answers: ContextVar[dict[tuple[Any, ...], Any] | None] = ContextVar("answers", default=None)


@contextmanager
def once() -> Iterator[None]:
    """Let what is fetched in the block be fetched once. It is forgotten at its end."""
    token = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(token)


def answers() -> dict[tuple[Any, ...], Any] | None:
    """Return the answers of this run, to be read and added to; None outside of any run."""
    return _answers.get()
