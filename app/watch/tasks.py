"""The regular work of the watch in a serving process."""

from __future__ import annotations

import stripe

from app.inbox import Inbox
from app.maintenance.schedule import Task
from app.processing.registry import Registry
from app.settings import Settings
from app.watch.watch import Watch


def watch_tasks(
    settings: Settings, registry: Registry, inbox: Inbox, client: stripe.StripeClient
) -> list[Task]:
    """Return the task of the watch, unless it is switched off."""
    if not settings.watch_seconds:
        return []
    watch = Watch(settings, registry, inbox, client)
    return [Task("watch", settings.watch_seconds, watch.run, by_leader=True)]
