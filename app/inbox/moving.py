"""The inbox for ``flask migrate status``: which events of a type came as both kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.inbox.sql.moving import COMPARED
from app.inbox.store import Store


@dataclass(frozen=True, slots=True)
class Seen:
    """The recent events of one type that are done or dead. Times are seconds since the epoch.

    ``both``: the other event of the action is in the inbox, too. ``alone``: it is not, or no fetch
    of the thin event succeeded. ``alone_at`` is the latest one of these. ``both_since_at`` is the
    first one with a twin after that. ``failed``: dead events, and shadows whose callback failed.
    """

    both: int
    alone: int
    failed: int
    first_at: float | None
    alone_at: float | None
    both_since_at: float | None


class Moving:
    """Compares the snapshot and the thin events of a type. It only reads."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def seen(self, event_type: str, kind: str, *, livemode: bool, seconds: float) -> Seen:
        """Return the numbers of events of a type in the last ``seconds``, at most 10,000.

        ``kind`` is ``snapshot`` or ``thin``.
        """
        names: dict[str, Any] = {"type": event_type, "livemode": livemode}
        (row,) = self._store.read(COMPARED[kind], **names, within=seconds)
        numbers = int(row.both), int(row.alone), int(row.failed)
        return Seen(*numbers, row.first_at, row.alone_at, row.both_since_at)
