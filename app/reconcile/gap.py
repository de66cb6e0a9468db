"""The gap between Stripe's list and the inbox, and its lines in the log."""

from __future__ import annotations

from dataclasses import dataclass, field

import stripe
import structlog

from app.reconcile.listing import ListedEvent
from app.reconcile.windows import Window

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Gap:
    """The windows that were read, and the events in them that the inbox lacks, oldest first."""

    windows: list[Window] = field(default_factory=list)
    listed: int = 0
    missing: list[ListedEvent] = field(default_factory=list)
    failed: dict[str, stripe.StripeError] = field(default_factory=dict)
    """The error of each account that could not be read. Its watermarks do not move."""


def report(gap: Gap, recorded: int) -> None:
    """Log one reconciliation, and a warning for each account or window that needs a person."""
    for context, error in gap.failed.items():
        log.warning("account_not_reconciled", context=context or None, reason=error_kind(error))
    for window in gap.windows:
        if window.late:
            log.warning("events_out_of_reach", context=window.context or None, types=window.late)
    log.info("reconciled", listed=gap.listed, missing=len(gap.missing), recorded=recorded)


def error_kind(error: stripe.StripeError) -> str:
    """Return the type and status of an error of Stripe's API, without its text."""
    return " ".join(str(part) for part in (type(error).__name__, error.http_status) if part)
