"""The checks of what waits: pending events, dead events, and pauses."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from app.cli.doctor.lines import Level, Line
from app.cli.events.pause_sentences import how_to_resume, since
from app.cli.hints import hint
from app.cli.output import counted, duration, plural
from app.inbox.filters import EventFilter
from app.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.inbox import Inbox, Note
    from app.inbox.report import Report
    from app.settings import Settings

#: Seconds in which Stripe redelivers, by live mode. In test mode it is some hours.
REDELIVERY_SECONDS = {True: 3 * 86400, False: 86400}
#: Seconds that an event is overdue before a WARN, and before a FAIL.
SLOW_SECONDS, STUCK_SECONDS = 60, 900
#: The oldest pending events that are examined in inline mode.
EXAMINED = 1_000


def lines(inbox: Inbox, report: Report, settings: Settings) -> Iterator[Line]:
    """Yield lines about pending and dead events, and one for each pause."""
    administration = inbox.administration
    paused = administration.paused()
    if not report.waiting.number:
        yield Line(Level.OK, "pending", "no event waits")
    elif settings.is_queue:
        yield _in_queue(report, paused)
    else:
        yield _inline(inbox, report, settings)
    notes = {None: paused} if paused else {}
    for event_type, note in (notes | administration.paused_types()).items():
        yield _paused(event_type, note, is_queue=settings.is_queue)
    yield _dead(report)


def _in_queue(report: Report, paused: Note | None) -> Line:
    text = f"{counted(report.waiting, 'event')}, the oldest for {duration(report.oldest)}"
    if report.overdue <= SLOW_SECONDS:
        return Line(Level.OK, "pending", text)
    level = Level.FAIL if report.overdue > STUCK_SECONDS else Level.WARN
    running = hint("events", "list", "--state", "running")
    remedy = (
        "The workers are paused: see below"
        if paused
        else "Start workers, or more of them (WORKER_THREADS). If enough are alive, look for a"
        f" callback that does not end: {running}"
    )
    return Line(level, "pending", f"{text}, due for {duration(report.overdue)}", remedy)


def _inline(inbox: Inbox, report: Report, settings: Settings) -> Line:
    text = f"{counted(report.waiting, 'event')}, the oldest for {duration(report.oldest)}"
    run = hint("events", "retry", "--state", "pending")
    oldest = islice(inbox.administration.walk(EventFilter(state=State.PENDING)), EXAMINED)
    if number := sum(each.attempt == 0 for each in oldest):
        return Line(
            Level.WARN,
            "pending",
            f"{text}. {plural(number, 'event')} of them never ran: queue mode accepted them, so"
            " Stripe does not redeliver them",
            f"Run them with {run}",
        )
    if report.oldest > REDELIVERY_SECONDS[settings.livemode]:
        return Line(
            Level.WARN,
            "pending",
            f"{text}: Stripe no longer redelivers",
            f"Resend them in Stripe's dashboard, or run them with {run}",
        )
    return Line(Level.OK, "pending", f"{text}: Stripe will redeliver")


def _paused(event_type: str | None, note: Note, *, is_queue: bool) -> Line:
    """Return the line about the pause of all workers, or of one type."""
    subject = f"{event_type} is" if event_type else "the workers are"
    text = f"{subject} {since(note)}"
    if not is_queue:
        text += ". It has no effect in inline mode, and holds again in queue mode"
    return Line(Level.WARN, "paused", text, how_to_resume(event_type, note, is_queue=is_queue))


def _dead(report: Report) -> Line:
    if not report.dead.number:
        return Line(Level.OK, "dead", "no event is dead")
    text = f"{counted(report.dead, 'dead event')}: given up, not readable, or failed too often"
    return Line(
        Level.WARN, "dead", text, f"Run {hint('events', 'list', '--state', 'dead')} for the reasons"
    )
