"""A microservice that receives Stripe's events.

Handler modules need four names of this package at most: ``GiveUp``, ``RetryLater``,
``idempotency_key`` and ``once``.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from app.errors import GiveUp, RetryLater
from app.idempotency import idempotency_key, once

if TYPE_CHECKING:
    from flask import Flask

    from app.settings import Settings

__all__ = ["GiveUp", "RetryLater", "create_app", "idempotency_key", "once"]


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application, as ``app.factory.create_app`` does."""
    # Not above: ``import app``, as in a handler module, loads no room of app/ and no dependency.
    from app.runtime.imports import without_collections  # noqa: PLC0415 - see above

    # A process of tests makes many applications. What they leave behind is to be collected.
    is_imported = "app.factory" in sys.modules
    with nullcontext() if is_imported else without_collections():
        from app import factory  # noqa: PLC0415 - see above

    return factory.create_app(settings)
