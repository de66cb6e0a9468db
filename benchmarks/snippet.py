"""What the service is measured against: Stripe's own example of an event notification endpoint.

One SDK handler made at import, one route that feeds it the body and the signature, every error
answered 500, no record of anything. Served by the same gunicorn worker with the same settings.
See https://docs.stripe.com/webhooks/event-notification-handlers.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import stripe
from flask import Flask, Response, jsonify, request

from app.settings import Settings
from app.web.bridge import Bridge
from benchmarks import mixed
from benchmarks.burst import CALLBACK_SECONDS


def create_app(settings: Settings, seconds: float = 0.0, slow_type: str | None = None) -> Flask:
    """Return the example's application, with a callback that takes so many ``seconds``.

    With ``slow_type``, only events of this type take them.
    """
    app = Flask(__name__)
    client = stripe.StripeClient(settings.stripe_api_key)

    def callback(notif: Any, *_arguments: Any) -> None:
        if seconds and slow_type in {None, notif.type}:
            time.sleep(seconds)

    handler = client.notification_handler(settings.stripe_webhook_secrets[0], callback)

    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        try:
            handler.handle(request.data, request.headers.get("Stripe-Signature"))
        except Exception as error:  # noqa: BLE001 - as the example has it
            return jsonify(error=str(error)), 500
        return jsonify(success=True), 200

    return app


def load() -> Bridge:
    """Build the example for the service's own gunicorn worker."""
    return _bridge()


def load_slow() -> Bridge:
    """The same, with a callback that takes as long as those of the burst."""
    return _bridge(CALLBACK_SECONDS)


def load_mixed() -> Bridge:
    """The same, with slow callbacks for one type of events."""
    return _bridge(CALLBACK_SECONDS, mixed.SLOW_TYPE)


def _bridge(seconds: float = 0.0, slow_type: str | None = None) -> Bridge:
    settings = Settings.load()
    return Bridge(
        create_app(settings, seconds, slow_type),
        threads=settings.web_threads,
        max_body_bytes=settings.max_body_bytes,
        stopping=threading.Event(),
    )


def load_wsgi() -> Flask:
    """Build the example for gunicorn's gthread worker."""
    return create_app(Settings.load())
