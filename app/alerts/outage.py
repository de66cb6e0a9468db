"""Alerts when the inbox itself cannot be written, so that its outbox is not there.

Each serving process tests the inbox. One process of a host sends the messages: the one that locks
the host's note. The note says what was sent. So another process, even one of a later start, sends
the end.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import structlog

from app.alerts import outbox
from app.alerts.conditions import Condition
from app.alerts.evaluation import new_message_id
from app.alerts.host_note import HostNote, Outage
from app.alerts.post import Poster
from app.alerts.texts import Texts, encoded, end_of
from app.errors import InboxUnavailable
from app.formats import iso_time

log = structlog.get_logger(__name__)

ALERT = "inbox_not_writable"

#: Seconds that the inbox must be away before there is an alert.
OUTAGE_SECONDS = 30.0

#: Seconds after which the end of an outage is no longer sent.
OLD_SECONDS = 86400.0


class OutageAlert:
    """Tests the inbox, and sends the begin and the end of an outage."""

    def __init__(
        self, check: Callable[[], object], note: HostNote, texts: Texts, poster: Poster | None
    ) -> None:
        """Take the ``check``, which raises ``InboxUnavailable``, and the ``note`` of the host.

        Without a ``poster`` there are only log lines.
        """
        self._check = check
        self._note = note
        self._texts = texts
        self._poster = poster
        self._host = socket.gethostname()
        self._began: float | None = None

    def run(self) -> None:
        """Test the inbox once, and send what is due."""
        try:
            self._check()
        except InboxUnavailable as error:
            now = time.monotonic()
            self._began = now if self._began is None else self._began
            if now >= self._began + OUTAGE_SECONDS:
                self._raise(error.reason, time.time() - (now - self._began))
        else:
            self._began = None
            if self._note.is_written:
                self._resolve()

    def _raise(self, reason: str, since: float) -> None:
        with self._note.locked() as is_ours:
            if not is_ours:
                return
            outage = self._note.read()
            if outage is None:
                outage = Outage(since, new_message_id(), new_message_id())
                self._note.write(outage)
                log.warning("alert_raised", alert=ALERT, group=self._host, count=1, reason=reason)
            if not outage.is_raised and self._send(
                outage, outage.raised_id, self._texts.raised(self._condition(outage))
            ):
                outage.is_raised, outage.tries, outage.due_at = True, 0, 0.0
                self._note.write(outage)

    def _resolve(self) -> None:
        with self._note.locked() as is_ours:
            outage = self._note.read() if is_ours else None
            if outage is None:
                return
            end = end_of(ALERT, self._host, "", None)
            is_old = time.time() > outage.since + OLD_SECONDS
            if is_old or self._send(outage, outage.resolved_id, self._resolved(outage, end)):
                self._note.write(None)
                log.info("alert_resolved", alert=ALERT, group=self._host, reason=end)

    def _send(self, outage: Outage, message_id: str, body: dict[str, Any]) -> bool:
        """Post a message if it is due. True if it was taken, or if there is no receiver."""
        if self._poster is None:
            return True
        # A longer pause was counted from a time before the clock stepped back.
        if 0 < outage.due_at - time.time() <= outbox.MAX_PAUSE:
            return False
        answer = self._poster.post(message_id, encoded(body))
        if not answer.is_taken:
            outage.tries += 1
            outage.due_at = time.time() + outbox.pause(outage.tries)
            self._note.write(outage)
            fields = {"alert": ALERT, "message_id": message_id, "tries": outage.tries}
            log.warning("alert_not_sent", reason=answer.text, **fields)
        return answer.is_taken

    def _condition(self, outage: Outage) -> Condition:
        since = iso_time(outage.since, "seconds")
        text = f"The inbox cannot be written on {self._host} since {since}"
        return Condition(
            ALERT,
            outage.since,
            1,
            f"{text}. Deliveries are answered 503, and Stripe repeats them",
            "/ops",
            ("doctor",),
            self._host,
        )

    def _resolved(self, outage: Outage, end: str) -> dict[str, Any]:
        fields = {"alert": ALERT, "since": outage.since, "group": self._host, "count": 1}
        seconds = time.time() - outage.since
        return self._texts.resolved({**fields, "types": [], "release": None}, end, seconds)
