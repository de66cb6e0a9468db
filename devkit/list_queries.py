"""What the two event lists of the stand-in have in common: their limits, and how they refuse."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from devkit.api_answers import RefusedRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The most types in one query, and the largest page.
MOST_TYPES = 20
LARGEST_PAGE = 100
#: How long Stripe keeps events.
KEPT = timedelta(days=30)

COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": lambda one, other: one > other,
    "gte": lambda one, other: one >= other,
    "lt": lambda one, other: one < other,
    "lte": lambda one, other: one <= other,
}

TYPES = re.compile(r"types\[\d*\]")
BOUND = re.compile(r"created\[(gt|gte|lt|lte)\]")


def refusal(message: str) -> RefusedRequestError:
    """Return the error for a query that Stripe refuses."""
    return RefusedRequestError(message, code="invalid_fields")


def check_types(types: list[str]) -> None:
    """Refuse a query with too many types."""
    if len(types) > MOST_TYPES:
        raise refusal(f"types: at most {MOST_TYPES} event types can be given")


def read_limit(value: str) -> int:
    """Return the number of events on a page."""
    if not re.fullmatch(r"[1-9][0-9]{0,2}", value) or int(value) > LARGEST_PAGE:
        raise refusal(f"limit: must be between 1 and {LARGEST_PAGE}")
    return int(value)
