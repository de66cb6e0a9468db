"""A bound on the memory of large request bodies in one event loop.

A client needs no signature to send a body. With a limit for each body alone, the clients of all
connections together could fill the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

#: The bytes of each body that need no budget. Almost all bodies of Stripe are smaller.
FREE_BYTES = 65536

#: Large bodies that can wait for their end or for a thread, all of the largest size.
WAITING_BODIES = 32


class BodyBudget:
    """The bytes that all bodies together may have beyond the ``FREE_BYTES`` of each."""

    def __init__(self, max_body_bytes: int, threads: int) -> None:
        """Have room for ``WAITING_BODIES``, and for one body in each of the ``threads``."""
        bodies = WAITING_BODIES + threads
        self.free = bodies * max(max_body_bytes - FREE_BYTES, 0)
        """The bytes that no body has."""
        self._reading: dict[Share, None] = {}

    def share(self, drop: Callable[[], object]) -> Share:
        """Return the share of a new request. ``drop`` makes it end while its body arrives."""
        return Share(self, self._reading, drop)

    def make_room(self, wanted: int, share: Share) -> None:
        """Drop incomplete bodies, the oldest first, until ``wanted`` bytes are free.

        Small bodies have none to give. ``share`` itself is not dropped.
        """
        for other in [each for each in self._reading if each.size and each is not share]:
            if self.free >= wanted:
                return
            other.drop()


class Share:
    """The bytes of one request. A context manager that gives them back at its end."""

    def __init__(
        self, budget: BodyBudget, reading: dict[Share, None], drop: Callable[[], object]
    ) -> None:
        """Begin with none."""
        self._budget = budget
        self._reading = reading
        self._drop = drop
        self.size = 0
        self.is_dropped = False

    def __enter__(self) -> Self:
        """Begin to read the body."""
        self._reading[self] = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the bytes back."""
        self.end()

    def grow(self, body_bytes: int) -> bool:
        """Take the bytes for a body of ``body_bytes`` so far. False if there is no room."""
        if self.is_dropped:
            return False
        wanted = max(body_bytes - FREE_BYTES, 0) - self.size
        if wanted > self._budget.free:
            self._budget.make_room(wanted, self)
        if wanted > self._budget.free:
            return False
        self._budget.free -= wanted
        self.size += wanted
        return True

    def complete(self) -> None:
        """Note that the body is complete. It is no longer dropped for others."""
        self._reading.pop(self, None)

    def drop(self) -> None:
        """End the request in favour of another one."""
        self.is_dropped = True
        self.end()
        self._drop()

    def end(self) -> None:
        """Give the bytes back."""
        self.complete()
        self._budget.free += self.size
        self.size = 0
