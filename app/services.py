"""The services of one process. ``app.factory`` constructs them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import cast

import stripe
from flask import Flask, current_app

from app.inbox import Inbox
from app.maintenance.schedule import Maintenance
from app.metrics.meter import Meter
from app.processing.deferred_results import DeferredResults
from app.processing.leases import Leases
from app.processing.receiver import Receiver
from app.processing.registry import Registry
from app.processing.runner import Runner
from app.processing.worker import Worker
from app.reconcile.reconciler import Reconciler
from app.runtime.watchdog import Watchdog
from app.settings import Settings
from app.tracing.spans import Tracing
from app.web.refusals import RefusalLog


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one process, one of each, in ``app.extensions["services"]``."""

    settings: Settings
    registry: Registry
    inbox: Inbox
    client: stripe.StripeClient
    watchdog: Watchdog
    deferred_results: DeferredResults
    leases: Leases
    runner: Runner
    worker: Worker
    receiver: Receiver
    reconciler: Reconciler
    refusals: RefusalLog
    meter: Meter
    tracing: Tracing
    maintenance: Maintenance
    stopping: threading.Event

    def unfinished(self) -> dict[str, int]:
        """Return the numbers of events and of results that a stop waits for."""
        return {"events": self.worker.unfinished, "unrecorded": len(self.deferred_results)}


def services(app: Flask | None = None) -> Services:
    """Return the services of ``app``, or of the application that handles this request."""
    return cast("Services", (app or current_app).extensions["services"])
