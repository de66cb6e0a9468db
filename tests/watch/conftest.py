"""Fixtures for the watch: a service, the stand-in for Stripe's API, and its findings."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.alerts.tasks import make_evaluation
from app.factory import make_client
from app.inbox.findings import Finding
from app.stripe_api import client
from app.watch.watch import Watch
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import raw_sql

URL = "https://your.host/webhook"
TYPES = ["v1.customer.created", "v1.invoice.paid"]
MODULES = {
    "v1_customer_created": "def handle(notif, client): pass\n",
    "v1_invoice_paid": "def handle(notif, client): pass\n",
}


class Watched:
    """A service that is watched."""

    def __init__(self, service: Receiver, api: StripeApi) -> None:
        """Take the service and the stand-in."""
        self.service = service
        self.api = api
        self.settings = service.services.settings
        self.inbox = service.services.inbox

    def look(self) -> dict[str, Finding]:
        """Run one round of the watch, as in a new process. Returns all findings by their names."""
        parts = self.service.services
        Watch(self.settings, parts.registry, self.inbox, make_client(self.settings)).run()
        return {each.name: each for each in self.inbox.findings.list()}

    def levels(self) -> dict[str, str]:
        """Run one round. Returns the levels of all findings but of those that are always there."""
        return {name: each.level for name, each in self.look().items() if each.level != "ok"}

    def alerts(self) -> list[str]:
        """Return the ids of the alerts that are raised now."""
        make_evaluation(self.settings, self.inbox).run()
        return sorted(each.id for each in self.inbox.alerts.raised())

    def add_destination(self, url: str = URL, types: list[str] | None = None, **fields: Any) -> str:
        """Add a destination that exists for a long time."""
        found = self.api.destinations.add(url, TYPES if types is None else types)
        self.api.destinations.change(found, created="2026-01-01T00:00:00.000Z", **fields)
        return found

    def put_event(
        self, event_id: str, minutes: float, account: str | None = None
    ) -> dict[str, Any]:
        """Add an event that is so many minutes old to Stripe's list. Returns its notification."""
        created = datetime.now(UTC) - timedelta(minutes=minutes)
        notification = samples.notification(
            TYPES[0], event_id=event_id, created=created, context=account
        )
        self.api.put_event(samples.event(notification, {}))
        return notification

    def execute(self, sql: str, *rows: dict[str, Any]) -> None:
        """Change the inbox, with the parameters of each row."""
        raw_sql.execute(self.settings.database_url, sql, *rows)


@pytest.fixture
def make_watched(
    make_receiver: Callable[..., Receiver], stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Watched]:
    """A function that makes a service. Stripe is asked once: the same code, shorter tests."""
    monkeypatch.setattr(client, "MAX_NETWORK_RETRIES", 0)

    def make(modules: dict[str, str] | None = None, **changes: Any) -> Watched:
        chosen = MODULES if modules is None else modules
        service = make_receiver(chosen, stripe_api_base=stripe_api.url, **changes)
        service.services.inbox.migrate()
        return Watched(service, stripe_api)

    return make


@pytest.fixture
def watched(make_watched: Callable[..., Watched]) -> Watched:
    """A service with two handlers."""
    return make_watched()
