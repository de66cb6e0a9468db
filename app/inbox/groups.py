"""The inbox for error groups: failed attempts by exception and place, by hour and by release."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.inbox.models import Count
from app.inbox.sql import groups as statements
from app.inbox.store import Store

HOUR = 3600


@dataclass(frozen=True, slots=True)
class Group:
    """The failed attempts with one exception at one place in the code.

    ``type``, ``event_id`` and ``release`` are those of the latest failure. ``exception`` and
    ``place`` are None if the process ended before it could write them. ``open`` counts the pending
    and dead events whose latest attempt failed so.
    """

    fingerprint: str
    exception: str | None
    place: str | None
    type: str
    first_at: float
    last_at: float
    attempts: int
    event_id: str
    release: str | None
    open: Count


@dataclass(frozen=True, slots=True)
class GroupHour:
    """The failed attempts of one hour and release. ``hour`` is in hours since the epoch, UTC."""

    hour: int
    release: str
    """Empty if it is unknown."""
    attempts: int


@dataclass(frozen=True, slots=True)
class GroupRelease:
    """The failed attempts of one release, and the hours of the first and of the last of them."""

    release: str
    """Empty if it is unknown."""
    attempts: int
    first_hour: int
    last_hour: int


#: A list in ``Groups`` is its method.
Releases = list[GroupRelease]


class Groups:
    """Lists error groups, names them, and records releases."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store
        self._begun: str | None = None

    def note(self, fingerprint: str, exception: str, place: str) -> None:
        """Write the words for a group that has failed attempts."""
        self._store.write(
            statements.NOTE, fingerprint=fingerprint, exception_=exception, place_=place
        )

    def find(self, fingerprint: str) -> Group | None:
        """Return the group of a fingerprint, if there is one."""
        if "\0" in fingerprint:  # PostgreSQL refuses to compare it
            return None
        rows = self._store.read(statements.FIND, fingerprint=fingerprint)
        return _group(rows[0], statements.MOST_OPEN) if rows else None

    def hours(self, fingerprint: str, since: float) -> list[GroupHour]:
        """Return the failed attempts of each hour ``since`` and release, the first hour first."""
        hour = int(since // HOUR)
        rows = self._store.read(statements.HOURS, fingerprint=fingerprint, hour_=hour)
        return [GroupHour(*tuple(row)) for row in rows]

    def releases(self, fingerprints: Iterable[str]) -> dict[str, Releases]:
        """Return the releases of the failed attempts of each group, the latest failure first.

        Of each group there are 100 at most.
        """
        found: dict[str, Releases] = {each: [] for each in fingerprints}
        for row in self._store.read(statements.RELEASES, fingerprints=[*found]):
            found[row.fingerprint].append(GroupRelease(*tuple(row)[1:]))
        return found

    def begin_release(self, release: str) -> None:
        """Record the first start of a ``release``. Does nothing after it was recorded once."""
        if release and release != self._begun:
            self._store.write(statements.BEGIN_RELEASE, durable=True, release=release)
            self._begun = release

    def has_begun(self, release: str) -> bool:
        """Return True if a process of this ``release`` has recorded its start."""
        return bool(self._store.read(statements.HAS_BEGUN, release=release))

    def begun(self, limit: int) -> tuple[str, ...]:
        """Return up to ``limit`` releases that have begun, the latest first."""
        return tuple(row.release for row in self._store.read(statements.BEGUN, limit=limit))

    def list(
        self, limit: int, *, since: float | None = None, seconds: float | None = None
    ) -> list[Group]:
        """Return up to ``limit`` groups that failed ``since``, the latest failure first.

        Of each, up to 1,000 open events are counted. It takes up to ``seconds``.
        """
        rows = self._store.read(statements.LIST, seconds=seconds, since=since or 0.0, limit=limit)
        return [_group(row, statements.MOST_OPEN_IN_LIST) for row in rows]


def _group(row: sa.Row[Any], most: int) -> Group:
    count = Count(min(row.open, most), is_bounded=row.open > most)
    return Group(*(*tuple(row)[:-1], count))
