"""Raises and ends alerts. One process of an inbox does it at a time."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from app.alerts.conditions import Condition, Rules, conditions
from app.alerts.texts import Texts, end_of
from app.inbox import Inbox
from app.inbox.alert_facts import Facts
from app.inbox.alerts import Alert

log = structlog.get_logger(__name__)

#: Seconds that a condition must be gone before its alert ends.
CALM_SECONDS = 60.0

#: The growth of the number of a raised alert that is a message of its own.
GROWTH = 10


class Evaluation:
    """Compares the conditions with the raised alerts, and records the transitions."""

    def __init__(self, inbox: Inbox, rules: Rules, texts: Texts, *, has_receiver: bool) -> None:
        """Take the services. Without ``has_receiver`` there are log lines and no messages."""
        self._alerts = inbox.alerts
        self._facts = inbox.alert_facts
        self._findings = inbox.findings
        self._rules = rules
        self._texts = texts
        self._has_receiver = has_receiver

    def run(self) -> None:
        """Record what began, what has grown, and what has ended. Raises ``InboxUnavailable``."""
        self._alerts.hand_over()
        known = {each.id: each for each in self._alerts.latest()}
        raised = {id_ for id_, each in known.items() if each.is_raised}
        facts = self._read()
        holding = {each.id: each for each in conditions(facts, self._rules, raised)}
        for condition in holding.values():
            self._hold(condition, known.get(condition.id), facts.now)
        for id_ in raised - holding.keys():
            self._end(known[id_], facts)
        self._alerts.hand_over()

    def _read(self) -> Facts:
        now = self._facts.now()
        rules = self._rules
        return Facts(
            now,
            dead=self._facts.dead(now),
            waiting=self._facts.waiting(),
            silence=self._facts.silence(now, rules.silence_seconds),
            failures=self._facts.failures(now, rules.window_seconds),
            findings=self._findings.list(),
            open_breakers=self._facts.open_breakers(),
        )

    def _hold(self, condition: Condition, alert: Alert | None, now: float) -> None:
        """Raise the alert of a condition that holds, or record that it has grown."""
        said = _last_message(alert)
        said_at = said.get("at", 0.0)
        # A time in the future was written before the clock stepped back.
        is_quiet = not said_at <= now < said_at + self._rules.window_seconds
        if alert is not None and alert.is_raised:
            if is_quiet and condition.number >= GROWTH * said.get("number", 1):
                details = self._details(replace(condition, since=alert.since), "continues", now)
                if self._alerts.continue_(alert, condition.number, details):
                    _log("alert_continues", condition)
            else:
                self._alerts.see(alert, condition.number, condition.text)
        elif is_quiet:
            self._raise(condition, alert, now)

    def _raise(self, condition: Condition, alert: Alert | None, now: float) -> None:
        is_raised = self._alerts.raise_(
            condition.id,
            alert=condition.alert,
            group=condition.group,
            since=condition.since,
            number=condition.number,
            before=alert.raw_details if alert else "",
            details=self._details(condition, "raised", now),
        )
        if is_raised:
            _log("alert_raised", condition)

    def _details(self, condition: Condition, state: str, now: float) -> dict[str, Any]:
        body = self._texts.raised(condition, state)
        details = {
            "text": condition.text,
            "subject": condition.subject,
            "types": list(condition.types),
            "release": condition.release,
            "page": condition.page,
            "said": {"at": now, "number": condition.number},
        }
        return self._with_message(details, body)

    def _end(self, alert: Alert, facts: Facts) -> None:
        """End an alert whose condition is gone, unless it was seen a moment ago."""
        if facts.now - CALM_SECONDS < alert.seen_at <= facts.now:
            return
        details = alert.details
        dead = next((each for each in facts.dead if each.key == alert.group), None)
        end = end_of(alert.alert, alert.group, str(details.get("subject", "")), dead)
        body = self._texts.resolved(
            {
                "alert": alert.alert,
                "since": alert.since,
                "group": alert.group,
                "count": alert.number,
                "types": details.get("types", []),
                "release": details.get("release"),
            },
            end,
            facts.now - alert.since,
        )
        if self._alerts.resolve(alert, self._with_message(details, body)):
            log.info("alert_resolved", alert=alert.alert, group=alert.group, reason=end)

    def _with_message(self, details: dict[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
        if self._has_receiver:
            details["message"] = {"id": new_message_id(), "body": body}
        return details


def new_message_id() -> str:
    """Return a ``webhook-id`` that no other message has."""
    return f"msg_{uuid.uuid4().hex}"


def _last_message(alert: Alert | None) -> dict[str, Any]:
    """Return time and number of the last message about a condition that held."""
    said: dict[str, Any] = alert.details.get("said", {}) if alert else {}
    return said


def _log(event: str, condition: Condition) -> None:
    log.warning(
        event,
        alert=condition.alert,
        group=condition.group,
        count=condition.number,
        reason=condition.text,
    )
