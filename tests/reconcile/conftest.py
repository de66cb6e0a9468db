"""Fixtures for reconciliation: a service, the stand-in for Stripe's API, and a reconciler."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from werkzeug import Request, Response

from app.factory import make_client
from app.reconcile.gap import Gap
from app.reconcile.reconciler import Reconciler
from devkit import samples, snapshot_list
from devkit.event_list import EventList
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver

TYPE = "v1.customer.created"
SNAPSHOT = "customer.source.created"
CREATED = "v1_customer_created"
HANDLER = "calls = []\ndef handle(notif, client):\n    calls.append(notif)\n"
HOUR = 3600.0

Make = Callable[..., Receiver]


class Lab:
    """A service, the stand-in for Stripe's API, and a reconciler."""

    def __init__(self, receiver: Receiver, api: StripeApi) -> None:
        """Take service and stand-in."""
        self.receiver = receiver
        self.api = api
        self.inbox = receiver.services.inbox

    @property
    def reconciler(self) -> Reconciler:
        """A reconciler as in a new process."""
        own = self.receiver.services
        client = make_client(own.settings, own.inbox)
        return Reconciler(own.settings, own.registry, own.inbox, client, own.runner)

    def put(self, event_id: str, age: float = HOUR, **fields: Any) -> dict[str, Any]:
        """Add a thin event that is ``age`` seconds old to its list. Returns its notification."""
        values = {"event_type": TYPE, "event_id": event_id, "created": _ago(age), **fields}
        notification = samples.notification(**values)
        self.api.put_event(samples.event(notification, {"secret": "not for the inbox"}))
        return notification

    def put_snapshot(self, event_id: str, age: float = HOUR, **fields: Any) -> dict[str, Any]:
        """Add a snapshot event that is ``age`` seconds old to its list. Returns its body."""
        values = {"event_type": SNAPSHOT, "event_id": event_id, "created": _ago(age), **fields}
        body = samples.snapshot_event(**values)
        self.api.put_event(body)
        return body

    def missing(self, *accounts: str, since: float | None = None) -> list[str]:
        """Return the ids of the missing events."""
        return [each.event.id for each in self.reconciler.find(accounts, since).missing]

    def close(self, *accounts: str, since: float | None = None) -> Gap:
        """Find and record the missing events."""
        reconciler = self.reconciler
        gap = reconciler.find(accounts, since)
        reconciler.record(gap)
        return gap

    def reached(self, context: str = "") -> dict[str, float]:
        """Return the age of each watermark in seconds."""
        reached = self.inbox.reconciliation.watermarks(livemode=False, context=context)
        return {type_: time.time() - at for type_, at in reached.items()}


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


class OddList(EventList):
    """A list that returns one page as Stripe's API never would."""

    def __init__(self, data: list[Any]) -> None:
        """Take the items of the first page."""
        super().__init__()
        self._odd = [data]

    def answer(self, request: Request) -> Response | None:
        """Return the odd page first, then the real ones."""
        if not self._odd:
            return super().answer(request)
        page: dict[str, Any] = {"data": self._odd.pop(), "next_page_url": None}
        if request.path == snapshot_list.PATH:
            page = {"object": "list", "data": page["data"], "has_more": False, "url": request.path}
        return Response(json.dumps(page))


@pytest.fixture
def make_lab(make_receiver: Make, stripe_api: StripeApi) -> Callable[..., Lab]:
    """A function that makes one, by default with a handler for customers."""

    def make(modules: dict[str, str] | None = None, **changes: Any) -> Lab:
        chosen = {CREATED: HANDLER} if modules is None else modules
        return Lab(make_receiver(chosen, stripe_api_base=stripe_api.url, **changes), stripe_api)

    return make


@pytest.fixture
def lab(make_lab: Callable[..., Lab], database_url: str) -> Lab:
    """One in inline mode, on each database."""
    return make_lab(database_url=database_url)
