"""The rules by which workers claim the events of some types. The handler modules declare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

#: The lane of types without a rule.
NORMAL = ""

#: The lane of types with low priority and without a limit. No event type has this name.
LOW = "low"


@dataclass(frozen=True)
class ClaimRules:
    """The rules of one process. Types that no field names have none.

    ``low``: types whose events wait for those of others. ``limits``: pairs of a type and the number
    of its events that may run at once, in all processes. ``coalesced``: types with one run for all
    due events of an object.
    """

    low: frozenset[str] = frozenset()
    limits: frozenset[tuple[str, int]] = frozenset()
    coalesced: frozenset[str] = frozenset()

    @cached_property
    def limited(self) -> Mapping[str, int]:
        """The limits by type."""
        return dict(sorted(self.limits))

    @property
    def is_plain(self) -> bool:
        """True if no type has a rule."""
        return not (self.has_lanes or self.coalesced)

    @property
    def has_lanes(self) -> bool:
        """True if some types have a lane of their own."""
        return bool(self.low or self.limits)

    def lane(self, event_type: str) -> str:
        """Return the lane in which an event of this type waits.

        A type with a limit has a lane of its own, named as the type.
        """
        if event_type in self.limited:
            return event_type
        return LOW if event_type in self.low else NORMAL
