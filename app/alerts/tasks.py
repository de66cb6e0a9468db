"""The regular work of alerts in a serving process."""

from __future__ import annotations

from app.alerts.conditions import Rules
from app.alerts.evaluation import Evaluation
from app.alerts.host_note import HostNote
from app.alerts.outage import OutageAlert
from app.alerts.outbox import Outbox
from app.alerts.post import Poster
from app.alerts.texts import Texts
from app.inbox import Inbox
from app.maintenance.schedule import Task
from app.settings import Settings

#: Seconds between two rounds of each task.
EVALUATE_SECONDS, SEND_SECONDS, OUTAGE_SECONDS, PRUNE_SECONDS = 15.0, 5.0, 10.0, 3600.0


def alert_tasks(settings: Settings, inbox: Inbox) -> list[Task]:
    """Return the tasks. Each process watches the inbox itself, and one does the rest."""
    poster = make_poster(settings)
    evaluation = make_evaluation(settings, inbox)
    outage = make_outage(settings, inbox)
    tasks = [
        Task("alerts", EVALUATE_SECONDS, evaluation.run, by_leader=True),
        Task("alerts_prune", PRUNE_SECONDS, inbox.alerts.prune, by_leader=True),
        Task("inbox_outage", OUTAGE_SECONDS, outage.run),
    ]
    if poster is not None:
        outbox = Outbox(inbox.alerts, poster)
        tasks.append(Task("alert_messages", SEND_SECONDS, outbox.run, by_leader=True))
    return tasks


def make_evaluation(settings: Settings, inbox: Inbox) -> Evaluation:
    """Return what raises and ends the alerts of an inbox."""
    rules = Rules(
        backlog_seconds=settings.alert_backlog_seconds,
        silence_seconds=settings.alert_silence_seconds,
        failure_share=settings.alert_failure_share,
        window_seconds=settings.alert_window_seconds,
        is_queue=settings.is_queue,
        livemode=settings.livemode,
    )
    return Evaluation(inbox, rules, _texts(settings), has_receiver=settings.alert_url is not None)


def make_outage(settings: Settings, inbox: Inbox) -> OutageAlert:
    """Return what reports an outage of the inbox."""
    note = HostNote(inbox.address)
    return OutageAlert(inbox.check, note, _texts(settings), make_poster(settings))


def make_poster(settings: Settings) -> Poster | None:
    """Return the client of ``ALERT_URL``, or None if it is not set."""
    if settings.alert_url is None:
        return None
    return Poster(settings.alert_url, settings.alert_secret)


def _texts(settings: Settings) -> Texts:
    return Texts(settings.public_url, settings.livemode)
