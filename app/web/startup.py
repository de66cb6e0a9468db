"""Builds the service for gunicorn."""

from __future__ import annotations

from pathlib import Path

import structlog

from app import create_app, start_warnings
from app.errors import InboxUnavailable
from app.metrics import folder
from app.services import Services, services
from app.settings import Settings
from app.stripe_api.destinations import WEBHOOK_PATH
from app.web import listen
from app.web.bridge import Background, Bridge

log = structlog.get_logger(__name__)


def load() -> Bridge:
    """Return the service, after the migration of the inbox's tables to this version.

    Raises ``StartError``. It is a ``SystemExit``, so gunicorn ends with its message alone.
    """
    settings = Settings.load()
    shared = _share_counts(settings)  # before a handler module can load the library
    flask_app = create_app(settings)
    parts = services(flask_app)
    log.info(
        "service_configured",
        mode="live" if parts.settings.livemode else "test",
        processing=parts.settings.processing,
        stripe_api=parts.settings.stripe_api_base,
        dotenv=parts.settings.origin.dotenv,
        release=parts.settings.release or None,
        handled=[module.event_type for module in parts.registry.modules],
        inbox=parts.inbox.address,
        webhook=f"{listen.local_url(parts.settings)}{WEBHOOK_PATH}",
        cpu_affinity=parts.settings.worker_cpu_affinity,
    )
    start_warnings.warn(parts.settings, parts.registry)
    try:
        parts.inbox.migrate()
    except InboxUnavailable as error:  # the first delivery migrates; until then it gets 503
        log.warning("inbox_unavailable_at_start", reason=error.reason)
    return Bridge(
        flask_app,
        threads=parts.settings.web_threads,
        max_body_bytes=parts.settings.max_body_bytes,
        stopping=parts.stopping,
        background=_background(parts, shared),
        refusals=parts.refusals,
    )


def _share_counts(settings: Settings) -> Path | None:
    """Return the folder in which the worker processes share their counts, if they are shown."""
    if not settings.serves_metrics:
        return None
    shared = folder.make()
    from app.metrics import exposition  # noqa: F401, PLC0415 - its memory is shared by the fork

    return shared


def _background(parts: Services, shared: Path | None) -> Background:
    """Return the threads that renew leases and, in queue mode, run events."""

    def start() -> None:
        if shared is not None:
            parts.meter.start(shared)
        parts.tracing.start()
        parts.watchdog.start()
        parts.leases.start()
        parts.maintenance.start()
        if parts.settings.is_queue:
            parts.worker.start(parts.settings.worker_threads)

    def end() -> None:
        parts.meter.flush()
        parts.tracing.flush()

    return Background(start, parts.unfinished, parts.worker.release, end)
