"""The fixtures for tests of handlers, with snapshot events."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import stripe

from app.stripe_api.catalog import Kind, module_name
from devkit import samples
from devkit.deliver import Deliver, Logged, MakeDeliver, RunHandler
from devkit.stripe_api import StripeApi
from tests.conftest import MakeHandlers

TYPE = "customer.source.created"
MODULE = "customer_source_created"
NEWER = "customer.thing.made"
#: Fetches the account of the event, and records it with the event.
NOTE = """
    calls = []

    def handle(event, client):
        fetched = client.v1.events.retrieve(event.id)
        calls.append((event, getattr(fetched, "account", None)))
"""
#: Records the event, and the account of the client.
QUIET = (
    "calls = []\n"
    "def handle(event, client): calls.append((event, client._requestor._options.stripe_context))\n"
)


@pytest.fixture
def noting(make_deliver: MakeDeliver) -> Deliver:
    """``deliver`` for a service with one snapshot module."""
    return make_deliver(modules={MODULE: NOTE})


def calls(deliver: Deliver, module: str = MODULE) -> list[Any]:
    """Return the records of a module."""
    noted: list[Any] = deliver.receiver.module(module).calls
    return noted


def test_every_snapshot_type_is_delivered(make_deliver: MakeDeliver) -> None:
    """An event of each type is handled, with the class of its object and a client of its account.

    The inbox has its account and its object.
    """
    types = samples.event_types(Kind.SNAPSHOT)
    assert len(types) == 275
    deliver = make_deliver(modules=dict.fromkeys(map(module_name, types), QUIET))
    for event_type in types:
        delivery = deliver(event_type, account="acct_1")
        assert (delivery.status, delivery.outcome) == (200, "handled"), delivery.error
        ((event, context),) = calls(deliver, module_name(event_type))
        assert (type(event), event.type, str(context)) == (stripe.Event, event_type, "acct_1")
        assert type(event.data.object) is samples.snapshot_class(event_type)
        assert delivery.event is not None
        assert (delivery.event.type, delivery.event.context) == (event_type, "acct_1")
        found = delivery.body["data"]["object"]
        words = (found["object"], found["id"]) if found.get("id") else (event_type,)
        assert delivery.event.concurrency_key == " ".join(["acct_1", *words])


def test_every_thin_type_is_delivered(make_deliver: MakeDeliver) -> None:
    """A notification of each type is handled, with its class and a client of its account."""
    types = samples.event_types(Kind.THIN)
    assert len(types) == 326
    quiet = QUIET.replace("event", "notif")
    deliver = make_deliver(modules=dict.fromkeys(map(module_name, types), quiet))
    for event_type in types:
        delivery = deliver(event_type, context="acct_1")
        assert (delivery.status, delivery.outcome) == (200, "handled"), delivery.error
        ((notif, context),) = calls(deliver, module_name(event_type))
        assert (type(notif).LOOKUP_TYPE, str(context)) == (event_type, "acct_1")
        assert delivery.event is not None
        assert (delivery.event.type, delivery.event.context) == (event_type, "acct_1")


def test_callback_finds_fields_and_account(noting: Deliver, stripe_api: StripeApi) -> None:
    """Given fields are in the object. Requests of the callback are for the event's account."""
    delivery = noting(
        TYPE,
        account="acct_1",
        fields={"status": "chargeable"},
        previous_attributes={"status": "pending"},
    )

    assert delivery.outcome == "handled"
    ((event, account),) = calls(noting)
    assert isinstance(event.data.object, stripe.Source)
    assert event.data.object.status == "chargeable"
    assert event.data.previous_attributes.status == "pending"
    assert account == "acct_1"
    (asked,) = stripe_api.asked
    assert (asked.path, asked.stripe_context) == (f"/v1/events/{event.id}", "acct_1")
    assert delivery.event is not None
    assert delivery.event.id == delivery.body["id"] == delivery.notification["id"]


def test_idioms(noting: Deliver) -> None:
    """Redeliveries, retries and overlapping deliveries take one line each."""
    assert [each.outcome for each in noting.twice(TYPE)] == ["handled", "duplicate"]
    assert [each.outcome for each in noting.retried(TYPE)] == ["failed", "handled"]
    first, second = noting.overlapping(TYPE, fields={"status": "chargeable"})
    assert [first.outcome, second.outcome] == ["handled", "deferred"]
    assert first.body["data"]["object"]["status"] == "chargeable"


def test_hook_key_and_effect(make_deliver: MakeDeliver, run_handler: RunHandler) -> None:
    """A snapshot callback runs within ``around``, and has the same keys and effects as others."""
    around = """
        from contextlib import contextmanager

        calls = []

        @contextmanager
        def around(event, client):
            calls.append(event.id)
            yield
    """
    source = """
        from app import idempotency_key, once

        effects, keys = [], []

        def handle(event, client):
            keys.append(idempotency_key(event, "note"))
            with once(event, "mail") as first:
                if first:
                    effects.append(event.id)
            if len(keys) == 1:
                raise ValueError("after the effect")
    """
    deliver = make_deliver(modules={MODULE: source, "around": around})
    delivery = deliver(TYPE)
    event_id = delivery.body["id"]
    assert [delivery.outcome, delivery.again().outcome] == ["failed", "handled"]
    module = deliver.receiver.module(MODULE)
    assert module.effects == [event_id]
    assert module.keys == [f"{event_id}:note"] * 2
    assert deliver.receiver.module("around").calls == [event_id] * 2
    assert run_handler(module).id == module.effects[-1]


def test_overlapping_fallbacks(make_deliver: MakeDeliver) -> None:
    """The snapshot fallback can be stopped like a callback."""
    deliver = make_deliver(modules={"snapshot_fallback": QUIET})
    first, second = deliver.overlapping(TYPE)
    assert [first.outcome, second.outcome] == ["fallback", "deferred"]


def test_event_without_module(make_deliver: MakeDeliver, logged: Logged) -> None:
    """Without a module and a snapshot fallback, the event is logged as a fallback."""
    delivery = make_deliver(modules={})(TYPE)
    assert (delivery.status, delivery.outcome) == (200, "fallback")
    line = logged("event_without_handler")
    assert (line["event_type"], line["known_to_sdk"]) == (TYPE, True)


def test_newer_type_of_a_module(make_deliver: MakeDeliver) -> None:
    """A type that is newer than the SDK can be delivered if it has a module, or by request."""
    deliver = make_deliver(modules={"thing": f"EVENT_TYPE = '{NEWER}'\n{QUIET}"})
    assert deliver(NEWER, fields={"size": 1}).outcome == "handled"
    ((event, _),) = calls(deliver, "thing")
    assert event.data.object.size == 1
    with pytest.raises(samples.UnknownEventTypeError):
        deliver("customer.thing.sold")
    assert deliver("customer.thing.sold", unknown=True).outcome == "fallback"


def test_run_handler_calls_a_snapshot_module(
    run_handler: RunHandler, make_handlers: MakeHandlers
) -> None:
    """The callback alone is called with a ``stripe.Event``. ``run_handler`` returns the event."""
    package = make_handlers(**{MODULE: QUIET, "snapshot_fallback": QUIET})
    module = importlib.import_module(f"{package}.{MODULE}")
    event = run_handler(module, account="acct_1", fields={"status": "chargeable"})
    assert (type(event), event.data.object.status) == (stripe.Event, "chargeable")
    assert [(each.id, str(context)) for each, context in module.calls] == [(event.id, "acct_1")]

    fallback = importlib.import_module(f"{package}.snapshot_fallback")
    assert run_handler(fallback, "customer.created").type == "customer.created"
    assert len(fallback.calls) == 1
