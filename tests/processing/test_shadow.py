"""Shadows: thin modules that run beside their snapshot modules, and write nothing to Stripe."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import StartError
from app.idempotency import skip_effects
from app.processing import registry
from app.processing.results import UNKNOWN
from devkit import samples
from devkit.deliver import Deliver, Delivery, MakeDeliver
from devkit.stripe_api import StripeApi
from tests.conftest import MakeHandlers

SNAPSHOT, THIN = "customer.created", "v1.customer.created"
SHADOW = """
    import app

    SHADOW = True
    runs, mails = [], []
    act = lambda notif, client: None

    def handle(notif, client):
        runs.append(notif.id)
        with app.once(notif, "mail") as first:
            if first:
                mails.append(notif.id)
        act(notif, client)
"""
REAL = """
    import app

    mails = []

    def handle(event, client):
        with app.once(event, "mail") as first:
            if first:
                mails.append(event.id)
"""


@pytest.fixture
def deliver(make_deliver: MakeDeliver, database_url: str) -> Deliver:
    """``deliver`` for a service with a shadow."""
    modules = {"customer_created": REAL, "v1_customer_created": SHADOW}
    return make_deliver(modules=modules, database_url=database_url)


def module(deliver: Deliver, event_type: str = THIN) -> Any:
    """Return a handler module."""
    return deliver.receiver.module(event_type.replace(".", "_"))


def send_thin(deliver: Deliver, api: StripeApi, *, names: str | None = "evt_s") -> Delivery:
    """Deliver a thin event, which names a snapshot event."""
    thin = samples.notification(THIN, event_id="evt_n")
    api.put_event(samples.event(thin, snapshot_event=names))
    return deliver(thin)


@pytest.mark.parametrize("thin_first", [True, False])
def test_replica_without_it(
    make_deliver: MakeDeliver,
    stripe_api: StripeApi,
    deliver: Deliver,
    database_url: str,
    *,
    thin_first: bool,
) -> None:
    """While a deployment removes ``SHADOW``, one event of an action is handled."""
    modules = {"customer_created": REAL, "v1_customer_created": REAL.replace("event", "notif")}
    changed = make_deliver(modules=modules, database_url=database_url)
    snapshot = samples.snapshot_event(SNAPSHOT, event_id="evt_s")
    if thin_first:
        assert send_thin(changed, stripe_api).outcome == "handled"
        assert deliver(snapshot).outcome == "twin"
    else:
        assert deliver(snapshot).outcome == "handled"
        assert send_thin(changed, stripe_api).outcome == "twin"


@pytest.mark.parametrize("thin_first", [True, False])
def test_both_run(deliver: Deliver, stripe_api: StripeApi, *, thin_first: bool) -> None:
    """The shadow takes nothing from the snapshot module, and has no effect."""
    snapshot = samples.snapshot_event(SNAPSHOT, event_id="evt_s")
    if thin_first:
        assert send_thin(deliver, stripe_api).outcome == "shadow"
    assert deliver(snapshot).outcome == "handled"
    if not thin_first:
        assert send_thin(deliver, stripe_api).outcome == "shadow"
    assert send_thin(deliver, stripe_api).outcome == "duplicate"
    assert module(deliver).runs == ["evt_n"]
    assert module(deliver).mails == []
    assert module(deliver, SNAPSHOT).mails == ["evt_s"]


WRITES = {
    "client": lambda _notif, client: client.v1.customers.create({}),
    "client of the notification": lambda notif, _client: notif._client.v1.customers.create({}),  # noqa: SLF001 - as the SDK does
    "raw request": lambda _notif, client: client.raw_request("post", "/v1/customers"),
    "delete": lambda _notif, client: client.v1.customers.delete("cus_1"),
}


@pytest.mark.parametrize("name", WRITES)
def test_it_cannot_write(deliver: Deliver, stripe_api: StripeApi, name: str) -> None:
    """The request is not sent, and the reason of the event says so."""
    module(deliver).act = WRITES[name]
    delivery = send_thin(deliver, stripe_api)
    assert (delivery.status, delivery.outcome) == (200, "shadow")
    assert {each.method for each in stripe_api.asked} == {"GET"}
    assert delivery.event is not None
    assert (delivery.event.state, delivery.event.fingerprint) == ("done", None)
    assert "SHADOW = True, so its client only reads" in str(delivery.event.reason)
    assert "WriteRefused" in str(delivery.event.traceback)


def test_it_can_read(deliver: Deliver, stripe_api: StripeApi) -> None:
    """Its fetches are answered."""
    module(deliver).act = lambda notif, _client: notif.fetch_related_object()
    delivery = send_thin(deliver, stripe_api)
    assert delivery.outcome == "shadow"
    assert delivery.event is not None
    assert delivery.event.reason is None


def test_failed_fetch_is_a_failure_of_the_shadow(deliver: Deliver, stripe_api: StripeApi) -> None:
    """It is not retried: only the comparison misses this event."""
    stripe_api.fail(status=429)
    delivery = send_thin(deliver, stripe_api)
    assert delivery.outcome == "shadow"
    assert delivery.event is not None
    assert "RateLimitError" in str(delivery.event.reason)


def test_event_without_snapshot_event(deliver: Deliver, stripe_api: StripeApi) -> None:
    """It runs, and is compared with nothing."""
    assert send_thin(deliver, stripe_api, names=None).outcome == "shadow"
    assert module(deliver).runs == ["evt_n"]


def test_error_that_cannot_be_read(deliver: Deliver, stripe_api: StripeApi) -> None:
    """The event is done nevertheless."""

    class Hostile(Exception):
        @property
        def __notes__(self) -> list[str]:  # type: ignore[override]  # what a callback can do
            raise SystemExit

    def act(*_arguments: object) -> None:
        raise Hostile

    module(deliver).act = act
    delivery = send_thin(deliver, stripe_api)
    assert delivery.outcome == "shadow"
    assert delivery.event is not None
    assert delivery.event.reason == UNKNOWN


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        ({"v1_customer_created": "SHADOW = True"}, "needs the snapshot module customer_created.py"),
        ({"v1_customer_created": "SHADOW = 1"}, "SHADOW is 1. Use True or False"),
        (
            {"customer_created": "SHADOW = True"},
            "SHADOW is for thin events. A shadow runs beside the snapshot module",
        ),
        ({"fallback": "SHADOW = True"}, "SHADOW has no effect in the fallback"),
        ({"snapshot_fallback": "SHADOW = True"}, "SHADOW has no effect in the fallback"),
        ({"v1_customer_created": "SHADWO = True"}, "SHADWO has no effect; nearest: SHADOW"),
    ],
)
def test_wrong_shadow_is_refused_at_start(
    make_handlers: MakeHandlers, modules: dict[str, str], problem: str
) -> None:
    """The problem names the file and the remedy."""
    parameters = {
        "customer_created": "event, client",
        "snapshot_fallback": "event, client",
        "fallback": "notif, client, details",
    }
    sources = {
        name: f"{source}\ndef handle({parameters.get(name, 'notif, client')}): pass\n"
        for name, source in modules.items()
    }
    with pytest.raises(StartError, match=problem):
        registry.load(make_handlers(**sources))


def test_effects_outside_of_a_run() -> None:
    """There is nothing to skip."""
    skip_effects()
