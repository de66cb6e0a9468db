"""The inbox for alerts: which are raised, and the outbox of their messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.inbox.sql import alerts as statements
from app.inbox.store import Store


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the outbox. ``id`` is its ``webhook-id``, ``body`` its JSON."""

    id: str
    alert_id: str
    body: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that is raised, or was. Times are seconds since the epoch.

    ``since``: when the condition began. ``seen_at``: when it was seen last. ``number``: how many
    events or attempts it is about. ``text``: what is wrong, in a sentence. ``number`` and ``text``
    are those of ``seen_at``.
    """

    id: str
    alert: str
    group: str | None
    since: float
    seen_at: float
    number: int
    resolved_at: float | None
    raw_details: str
    """The details as they are stored. A transition names them."""

    @property
    def details(self) -> dict[str, Any]:
        """The values that the alert was raised with, and its current text."""
        found: dict[str, Any] = json.loads(self.raw_details or "{}")
        return found

    @property
    def text(self) -> str:
        """What is wrong, in a sentence."""
        return str(self.details.get("text", ""))

    @property
    def is_raised(self) -> bool:
        """True until the alert has ended."""
        return self.resolved_at is None


class Alerts:
    """Raises and ends alerts, and hands out their messages.

    Each transition is one statement, which records its message too. Of two processes that make the
    same transition, one gets True. Every method raises ``InboxUnavailable``.
    """

    def __init__(self, store: Store) -> None:
        """Take the ``store``."""
        self._store = store

    def latest(self) -> list[Alert]:
        """Return the raised alerts, and those that ended within a week, the latest first."""
        rows = self._store.read(statements.LISTED)
        return [Alert(*tuple(each)) for each in rows]

    def raised(self) -> list[Alert]:
        """Return the raised alerts, the latest first."""
        return [each for each in self.latest() if each.is_raised]

    def raise_(  # noqa: PLR0913 - the columns, each named
        self,
        alert_id: str,
        *,
        alert: str,
        group: str | None,
        since: float,
        number: int,
        before: str,
        details: Mapping[str, Any],
    ) -> bool:
        """Raise an alert that is not raised. ``before`` are the stored details, or empty."""
        row = self._store.write(
            statements.RAISE,
            alert_id=alert_id,
            alert=alert,
            group=group,
            since=since,
            number=number,
            before=before,
            details=json.dumps(dict(details)),
        )
        return row is not None

    def continue_(self, alert: Alert, number: int, details: Mapping[str, Any]) -> bool:
        """Record that a raised alert has grown to ``number``."""
        row = self._store.write(
            statements.CONTINUE,
            alert_id=alert.id,
            number=number,
            before=alert.raw_details,
            details=json.dumps(dict(details)),
        )
        return row is not None

    def resolve(self, alert: Alert, details: Mapping[str, Any]) -> bool:
        """End a raised alert."""
        row = self._store.write(
            statements.RESOLVE,
            alert_id=alert.id,
            before=alert.raw_details,
            details=json.dumps(dict(details)),
        )
        return row is not None

    def see(self, alert: Alert, number: int, text: str) -> None:
        """Record that the condition of a raised alert still holds, with its current ``text``."""
        self._store.write(
            statements.SEE,
            alert_id=alert.id,
            number=number,
            before=alert.raw_details,
            details=json.dumps(alert.details | {"text": text}),
        )

    def hand_over(self) -> None:
        """Put the messages of all transitions into the outbox."""
        for alert in self.latest():
            details = alert.details
            message = details.pop("message", None)
            if message is None:
                continue
            self._store.write(
                statements.ADD_MESSAGE,
                message_id=message["id"],
                alert_id=alert.id,
                body=json.dumps(message["body"]),
            )
            self._store.write(
                statements.HANDED_OVER,
                alert_id=alert.id,
                before=alert.raw_details,
                details=json.dumps(details),
            )

    def due(self) -> list[Message]:
        """Return the first unsent message of each alert, if it is due."""
        rows = self._store.read(statements.DUE)
        return [Message(*tuple(each)) for each in rows]

    def take(self, message: Message, seconds: float) -> int | None:
        """Take a message for one try, which no other process gets for ``seconds``.

        Returns the number of tries, or None when another process has it.
        """
        row = self._store.write(statements.TAKE, message_id=message.id, seconds=seconds)
        return int(row[0]) if row else None

    def sent(self, message: Message) -> None:
        """Record that a message was taken by its receiver."""
        self._store.write(statements.SENT, message_id=message.id)

    def postpone(self, message: Message, seconds: float) -> None:
        """Let a message be due again in ``seconds``."""
        self._store.write(statements.POSTPONE, message_id=message.id, seconds=seconds)

    def unsent(self) -> tuple[int, int]:
        """Return how many messages wait, and the most tries of one of them."""
        (row,) = self._store.read(statements.UNSENT)
        return int(row.number), int(row.tries)

    def prune(self) -> None:
        """Remove alerts that ended thirty days ago, and messages of that age."""
        self._store.write(statements.PRUNE_ALERTS)
        self._store.write(statements.PRUNE_MESSAGES)
