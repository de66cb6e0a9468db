"""Changes of many events in small steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


def in_steps(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of up to ``size``."""
    rest = iter(items)
    while step := list(islice(rest, size)):
        yield step


def numbered_ids(ids: list[str], count: int) -> dict[str, Any]:
    """Return the parameters ``event_id_0`` and so on of a statement for ``count`` events.

    It has one SQL text for any number of ids: no event has the empty id of the others.
    """
    padded = [*ids, *[""] * (count - len(ids))]
    return {f"event_id_{number}": each for number, each in enumerate(padded)}
