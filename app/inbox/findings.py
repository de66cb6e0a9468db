"""The findings of the watch: the latest state of each thing that it checks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.inbox.sql import findings as statements
from app.inbox.store import Store

#: The levels of a finding. A finding that is failing raises an alert.
OK, WARNING, FAILING = "ok", "warn", "fail"

#: The names of findings about one event destination begin with this, and end with its id.
DESTINATION = "destination_disabled:"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: ``name`` or ``name:group``, its level, and a sentence.

    ``since``: when it got this level. ``seen_at``: when it was checked last. Both are seconds since
    the epoch. ``details`` are values for programs.
    """

    name: str
    level: str
    text: str
    since: float
    seen_at: float
    details: Mapping[str, Any] = field(default_factory=dict)


class WatchFindings:
    """Records and lists the findings. Every method raises ``InboxUnavailable``."""

    def __init__(self, store: Store) -> None:
        """Take the ``store``."""
        self._store = store

    def record(
        self, name: str, level: str, text: str, details: Mapping[str, Any] | None = None
    ) -> None:
        """Record the state of one thing. ``since`` stays while the level stays."""
        self._store.write(
            statements.RECORD,
            name=name,
            level=level,
            text=text,
            details=json.dumps(dict(details or {})),
        )

    def remove(self, name: str) -> None:
        """Remove the finding of a thing that is gone."""
        self._store.write(statements.REMOVE, name=name)

    def list(self, *, seconds: float | None = None) -> list[Finding]:
        """Return all findings, by name. It takes at most ``seconds`` if they are given."""
        rows = self._store.read(statements.FINDINGS, seconds=seconds)
        return [
            Finding(
                each.name,
                each.level,
                each.text,
                each.since,
                each.seen_at,
                json.loads(each.details or "{}"),
            )
            for each in rows
        ]
