"""Entries of the audit log by commands that work without the inbox."""

from __future__ import annotations

from app.cli.operator import operator
from app.cli.output import say
from app.errors import InboxUnavailable, StartError
from app.services import services


def note(action: str, target: str) -> None:
    """Record an action that changes no events.

    An inbox that cannot be written does not stop it. It may not exist before the first start.
    """
    inbox = services().inbox
    inbox.forbid_creation()
    try:
        inbox.audit.record(operator(), action, target)
    except (InboxUnavailable, StartError) as error:
        say(f"The audit log was not written: {error}.", err=True)
