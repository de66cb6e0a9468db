"""What an action did, on the page to which it leads.

The address of that page names the entry of the audit log: ``?did=17``. So the sentence stays true
after a reload, and a link cannot claim anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flask import Response, redirect, request

from app.formats import counted
from app.inbox import AuditEntry
from app.services import services
from app.web.ops.auth import viewer

#: Entries of the audit log among which the viewer's latest action is.
RECENT = 50

#: The sentences about finished actions. ``events`` is the number of events with its noun.
SENTENCES = {
    "retry": "{by} retried {target}.",
    "retry_many": "{by} retried {events}.",
    "give_up": "{by} gave up {target}.",
    "give_up_many": "{by} gave up {events}.",
    "pause": "{by} paused {paused}. Running callbacks continue, and deliveries are recorded.",
    "resume": "{by} resumed {paused}.",
    "sync_destination": "{by} changed the event types of {target}.",
}

#: Before the sentence of an action on many events that changed none.
UNCHANGED = "The events changed since the question was shown, or the form was sent before: "


@dataclass(frozen=True, slots=True)
class Did:
    """An action of the audit log, and the sentence about it."""

    entry: AuditEntry
    sentence: str


def of_request() -> Did | None:
    """Return the action that the address of this request names, if there is one."""
    text = request.args.get("did", "")
    if not re.fullmatch("[0-9]{1,9}", text):
        return None
    found = services().inbox.administration.audit(1, before_id=int(text) + 1)
    if not found or found[0].id != int(text) or found[0].action not in SENTENCES:
        return None
    entry = found[0]
    return Did(entry, _sentence(entry))


def lead_to(address: str, audit_id: int) -> Response:
    """Return the redirect to a page that says what was done."""
    mark = "&" if "?" in address else "?"
    return redirect(f"{address}{mark}did={audit_id}", 303)  # type: ignore[return-value]  # its type is Werkzeug's


def lead_to_latest(address: str, action: str) -> Response:
    """Return the redirect to a page that says what the viewer did with this ``action`` just now."""
    entries = services().inbox.administration.audit(RECENT)
    own = [each for each in entries if (each.by, each.action) == (viewer().name, action)]
    return lead_to(address, own[0].id)


def _sentence(entry: AuditEntry) -> str:
    nothing = UNCHANGED if entry.action.endswith("_many") and entry.affected == 0 else ""
    return nothing + SENTENCES[entry.action].format(
        by=entry.by,
        target=entry.target,
        events=counted(entry.affected or 0, "event"),
        paused=f"the events of type {entry.target}" if entry.target else "the workers",
    )
