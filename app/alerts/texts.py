"""The texts and bodies of alerts. They hold no payload, no personal data and no secret."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.alerts.conditions import Condition
from app.formats import duration, iso_time, plural
from app.inbox.alert_facts import DeadGroup

#: The page with the runbooks. Its sections are named as the alerts.
RUNBOOKS = "docs/operations.md"

#: The alert of a test message.
TEST = "test"

#: Characters of a text. Mattermost splits longer messages.
TEXT_LENGTH = 1000

#: How chat programs mark links and mentions. No text of an error may ping a channel.
_MARKS = str.maketrans({"<": "[", ">": "]", "@": "(at)"})

#: What is well again. ``{}`` is the group.
ENDS = {
    "backlog": "events no longer wait too long",
    "silence": "deliveries arrive again",
    "failures": "attempts succeed again",
    "type_paused": "{} is no longer paused by its circuit breaker",
    "inbox_not_writable": "the inbox can be written on {}",
    "destination_disabled": "destination {} is enabled, or gone",
    "destination_failing": "deliveries are answered with 2xx",
    "types_drifted": "all handled types are enabled at Stripe",
    "clock_off": "the clock is as Stripe's",
    "key_revoked": "Stripe accepts the API key",
    "reconcile_gap": "the inbox has the events that Stripe lists",
}


@dataclass(frozen=True, slots=True)
class Texts:
    """Writes the bodies of messages. ``public_url`` is the URL before ``/ops``, or None."""

    public_url: str | None
    livemode: bool

    def raised(self, condition: Condition, state: str = "raised") -> dict[str, Any]:
        """Return the body about a condition that holds: ``raised`` or ``continues``."""
        still = "Still: " if state == "continues" else ""
        return self._body(
            f"{still}{condition.text}. {self._link(condition.page, condition.command)}",
            alert=condition.alert,
            state=state,
            since=condition.since,
            group=condition.group,
            count=condition.number,
            types=condition.types,
            release=condition.release,
        )

    def resolved(self, condition: Mapping[str, Any], end: str, seconds: float) -> dict[str, Any]:
        """Return the body about the ``end`` of a condition that held for so many ``seconds``.

        ``condition`` has the fields of the body that raised it.
        """
        return self._body(
            f"Well again after {duration(seconds)}: {end}.", **{**condition, "state": "resolved"}
        )

    def test(self, now: float) -> dict[str, Any]:
        """Return the body of a test message."""
        text = "This is a test: alerts of stripe-event-receiver arrive here"
        return self.raised(Condition(TEST, now, 0, text, "/ops", ("alerts", "list")))

    def _body(
        self, text: str, *, since: float, types: Sequence[str], **fields: Any
    ) -> dict[str, Any]:
        mode = "" if self.livemode else "[test mode] "
        return {
            "text": f"{mode}{plain(text)}"[:TEXT_LENGTH],
            "alert": fields["alert"],
            "state": fields["state"],
            "since": iso_time(since, "seconds"),
            "group": fields["group"],
            "count": fields["count"],
            "types": list(types),
            "release": fields["release"],
            "runbook": runbook(fields["alert"]),
        }

    def _link(self, page: str, command: Sequence[str]) -> str:
        if self.public_url:
            return f"{self.public_url}{page}"
        return f"See `flask {shlex.join(command)}`"


def runbook(alert: str) -> str:
    """Return the address of the runbook of an alert. A test message leads to the page of alerts."""
    if alert == TEST:
        return "docs/alerts.md"
    return f"{RUNBOOKS}#{alert.replace('_', '-')}"


def plain(text: str) -> str:
    """Return ``text`` without marks of chat programs."""
    return text.translate(_MARKS)


def end_of(alert: str, group: str | None, subject: str, dead: DeadGroup | None) -> str:
    """Return what is well again. ``dead`` are the events of the group that are still dead."""
    if alert != "dead_events":
        return ENDS.get(alert, alert).format(group)
    if dead is None:
        return f"no event is dead any more ({subject})"
    verb = "is" if dead.number == 1 else "are"
    return f"no event died for a day; {plural(dead.number, 'event')} {verb} still dead ({subject})"


def encoded(body: Mapping[str, Any]) -> bytes:
    """Return a body as the bytes that are signed and sent."""
    return json.dumps(body).encode()
