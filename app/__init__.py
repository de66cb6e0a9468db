"""A microservice that receives Stripe's event notifications.

``create_app`` is the one place where the parts are put together. Handler modules need two
names of this package at most: ``GiveUp`` and ``RetryLater``.
"""

from __future__ import annotations

import threading

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

from app import cli, health, log, registry, text, webhook
from app.cli import broken
from app.errors import GiveUp, RetryLater, StartError
from app.inbox import Inbox
from app.leases import Leases
from app.receiver import Receiver
from app.runner import Runner
from app.schedule import Schedule
from app.service import Service
from app.settings import Settings
from app.stripe_client import build_client
from app.worker import Worker

__all__ = ["GiveUp", "RetryLater", "create_app"]


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application, put together from ``settings`` or from the environment.

    Nothing is connected yet, neither to the inbox nor to Stripe, so that a server can fork
    afterwards. Raises ``StartError`` when the settings or the handler modules are wrong, but to
    ``flask doctor``, which is there to show them.
    """
    try:
        return _put_together(settings or Settings.load())
    except StartError as error:
        if settings is None and broken.looks_for_commands():
            return broken.only_doctor(error)
        raise


def _put_together(settings: Settings) -> Flask:
    log.configure(
        settings.log_level,
        settings.log_format,
        secrets=_secrets(settings),
    )
    app = Flask(__name__, static_folder=None)
    app.extensions["service"] = _build(settings)
    app.register_blueprint(webhook.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_error_handler(HTTPException, _answer_in_json)
    cli.register(app)
    return app


def _build(settings: Settings) -> Service:
    handlers = registry.load(settings.handlers_package)
    inbox = Inbox(
        settings.database_url,
        lease_seconds=settings.lease_seconds,
        max_crashes=settings.max_crashes,
    )
    leases = Leases(inbox, settings.lease_seconds)
    runner = Runner(
        handlers,
        build_client(settings, inbox),
        inbox,
        leases,
        schedule=_schedule(settings) if settings.is_queue else None,
        redact=text.redactor(_secrets(settings)),
    )
    stopping = threading.Event()
    worker = Worker(inbox, runner, leases, livemode=settings.livemode, stopping=stopping)
    receiver = Receiver(settings, inbox, runner, worker, stopping)
    return Service(settings, handlers, inbox, leases, runner, worker, receiver, stopping)


def _schedule(settings: Settings) -> Schedule:
    return Schedule(
        base_seconds=settings.retry_base_seconds,
        cap_seconds=settings.retry_cap_seconds,
        max_attempts=settings.max_attempts,
    )


def _secrets(settings: Settings) -> list[str]:
    return [settings.stripe_api_key, *settings.stripe_webhook_secrets]


def _answer_in_json(error: HTTPException) -> Response:
    """Answer what Flask refuses, such as a wrong method, in the form of all other answers."""
    response = jsonify(error=error.name.lower())
    response.status_code = error.code or 500
    response.headers.extend(
        (name, value) for name, value in error.get_headers() if name.lower() != "content-type"
    )
    return response
