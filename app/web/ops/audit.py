"""The audit log: the actions of people, the latest first."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Blueprint, render_template, request, url_for
from werkzeug.exceptions import BadRequest

from app.inbox import AuditEntry
from app.services import services

#: The entries of one page.
PAGE = 50

#: The largest id that both databases can compare.
MAX_ID = 2**31 - 1

#: The longest target in an address, in characters.
TARGET_LENGTH = 2000

blueprint = Blueprint("audit", __name__)


@blueprint.get("/audit")
def show() -> str:
    """Show a page of the log: all of it, or the entries about one ``target``."""
    target = request.args.get("target", "")[:TARGET_LENGTH] or None
    found = services().inbox.audit.entries(PAGE + 1, _before(), target)
    entries = found[:PAGE]
    return render_template(
        "ops/audit.html",
        address_of=address_of,
        entries=entries,
        is_first=_before() is None,
        older=_older(entries, target) if len(found) > PAGE else None,
        target=target,
    )


def _older(entries: list[AuditEntry], target: str | None) -> str:
    return url_for("ops.audit.show", before=entries[-1].id, target=target)


def _before() -> int | None:
    """Return the id of the address before which entries are shown. Raises 400."""
    text = request.args.get("before", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:12]) <= MAX_ID):
        raise BadRequest("before is not the number of an entry.")
    return int(text[:12])


def address_of(entry: AuditEntry) -> str | None:
    """Return the address of the page about the target of an entry, if there is one."""
    target = entry.target
    if not target:
        return None
    if target.startswith("evt_"):
        return url_for("ops.event.show", event_id=target)
    events = url_for("ops.events.show")
    if entry.action in {"pause", "resume"}:
        return f"{events}?{urlencode({'type': target})}"
    return f"{events}?{target}" if entry.action in {"retry_many", "give_up_many"} else None
