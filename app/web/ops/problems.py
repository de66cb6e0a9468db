"""What is wrong now, in sentences, each with the page about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from markupsafe import Markup

from app.formats import counted, duration, sentence
from app.inbox import Note
from app.inbox.alerts import Alert
from app.inbox.findings import FAILING, OK, Finding
from app.inbox.groups import Group
from app.inbox.models import BREAKER
from app.services import services
from app.web.ops.view import when

if TYPE_CHECKING:
    from app.web.ops.overview import Facts

#: The alerts that the overview shows, with the page about each. It reads the facts of the other
#: alerts itself.
LINKS = {
    "failures": ("/groups", "Open the error groups"),
    "silence": ("/destinations", "Open the destinations"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. ``level`` is ``warn`` or ``fail``, ``path`` an address below the overview's."""

    level: str
    text: Markup
    path: str
    link: str


def of(facts: Facts) -> list[Problem]:
    """Return what is wrong, the worst first."""
    inbox = services().inbox
    found = [
        *_dead(facts),
        *_alerts(inbox.alerts.raised()),
        *_findings(inbox.findings.list()),
        *_backlog(facts),
        *_pauses(facts),
    ]
    return sorted(found, key=lambda problem: problem.level)  # fail before warn


def _dead(facts: Facts) -> Iterator[Problem]:
    if not facts.dead.number:
        return
    verb = "is" if str(facts.dead) == "1" else "are"
    text = Markup("{} {} dead.").format(counted(facts.dead, "event"), verb)
    if len(facts.groups) != 1:
        if facts.groups:
            first = min(group.first_at for group in facts.groups)
            text += Markup(" The first of these errors was {}.").format(when(first))
        yield Problem("fail", text, "/events?state=dead", "List them")
        return
    (group,) = facts.groups
    text += Markup(" One error, since {}: {}").format(when(group.first_at), cause(group))
    yield Problem("fail", text, f"/groups/{group.fingerprint}", "Open the group")


def cause(group: Group) -> str:
    """Return an error group in words: ``KeyError in handlers/v1_invoice_paid.py:31``."""
    if group.exception is None:
        return f"its process ended while it ran ({group.type})"
    place = f" in {group.place}" if group.place else ""
    release = f" (release {group.release})" if group.release else ""
    return f"{group.exception}{place}{release}"


def _backlog(facts: Facts) -> Iterator[Problem]:
    settings = services().settings
    limit = settings.alert_backlog_seconds
    if settings.is_queue and limit and facts.oldest_due > limit:
        text = Markup("{} pending, and the oldest due one has waited for {}.").format(
            counted(facts.pending, "event is", "events are"), duration(facts.oldest_due)
        )
        yield Problem("fail", text, "/events?state=pending", "List them")


def _pauses(facts: Facts) -> Iterator[Problem]:
    if facts.paused:
        text = Markup("The workers are paused {}").format(_pause(facts.paused))
        yield Problem("warn", text, "/resume", "Resume")
    for event_type, note in facts.paused_types.items():
        text = Markup("The type {} is paused {}").format(event_type, _pause(note))
        if note.by == BREAKER and services().settings.is_queue:
            text += ". One event is tried each minute, and a success resumes the type."
        yield Problem("warn", text, f"/resume?{urlencode({'type': event_type})}", "Resume")


def _pause(note: Note) -> Markup:
    by = f"its {BREAKER}" if note.by == BREAKER else note.by
    why = f": {note.why}" if note.why else "."
    return Markup("since {} by {}{}").format(when(note.at), by, why)


def _alerts(alerts: list[Alert]) -> Iterator[Problem]:
    for alert in alerts:
        if alert.alert in LINKS:
            text = Markup("{}. Since {}.").format(sentence(alert.text), when(alert.since))
            yield Problem("fail", text, *LINKS[alert.alert])


def _findings(findings: list[Finding]) -> Iterator[Problem]:
    for finding in findings:
        if finding.level != OK:
            level = "fail" if finding.level == FAILING else "warn"
            text = Markup("{}. Since {}.").format(sentence(finding.text), when(finding.since))
            yield Problem(level, text, "/destinations", "Destinations")
