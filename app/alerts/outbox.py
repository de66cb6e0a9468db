"""Sends the messages of the outbox. One process of an inbox does it at a time."""

from __future__ import annotations

import structlog

from app.alerts.post import DEADLINE_SECONDS, Poster
from app.inbox.alerts import Alerts, Message

log = structlog.get_logger(__name__)

#: Seconds before the first repetition. They double with each try, up to the maximum.
FIRST_PAUSE, MAX_PAUSE = 5.0, 300.0

#: Seconds for which no other process takes a message: longer than a request.
TAKE_SECONDS = 2 * DEADLINE_SECONDS


class Outbox:
    """Posts each message until it was taken, those of one alert in their order.

    A message is repeated with the same id if this process ends after the POST and before it has
    recorded that.
    """

    def __init__(self, alerts: Alerts, poster: Poster) -> None:
        """Take the inbox's API for alerts, and the client of ``ALERT_URL``."""
        self._alerts = alerts
        self._poster = poster

    def run(self) -> None:
        """Post the messages that are due, until one fails. Raises ``InboxUnavailable``."""
        while messages := self._alerts.due():
            for message in messages:
                tries = self._alerts.take(message, TAKE_SECONDS)
                if tries is not None and not self._post(message, tries):
                    return

    def _post(self, message: Message, tries: int) -> bool:
        answer = self._poster.post(message.id, message.body.encode())
        if answer.is_taken:
            self._alerts.sent(message)
        else:
            fields = {"alert": message.alert_id, "message_id": message.id, "tries": tries}
            log.warning("alert_not_sent", reason=answer.text, **fields)
            self._alerts.postpone(message, pause(tries))
        return answer.is_taken


def pause(tries: int) -> float:
    """Return the seconds before the next try, after so many."""
    return float(min(FIRST_PAUSE * 2 ** min(tries - 1, 10), MAX_PAUSE))
