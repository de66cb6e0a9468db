"""Fields of a full event that a test gives: ``changes`` and ``snapshot_event``."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from devkit import samples
from devkit.deliver import Deliver, MakeDeliver, RunHandler
from tests.conftest import MakeHandlers

TYPE = "v1.customer.updated"
ONLY_THIN = "v1.customer.subscription.past_due"
CHANGES = {"before": {"name": None}, "after": {"name": "Jenny"}}
#: Keeps the full event.
FETCHING = "events = []\ndef handle(notif, client): events.append(notif.fetch_event())\n"


@pytest.fixture
def deliver(make_deliver: MakeDeliver) -> Deliver:
    """``deliver`` for a service whose callback fetches the event."""
    return make_deliver(modules={"v1_customer_updated": FETCHING})


def test_callback_fetches_what_was_given(deliver: Deliver) -> None:
    """The stand-in serves the fields of this event. The notification has none of them."""
    delivery = deliver(TYPE, changes=CHANGES, snapshot_event="evt_s")
    (event,) = deliver.receiver.module("v1_customer_updated").events
    assert (event.changes.to_dict(), event.snapshot_event) == (CHANGES, "evt_s")
    assert {"changes", "snapshot_event"} & delivery.body.keys() == set()


def test_nothing_changed_by_default(deliver: Deliver) -> None:
    """Both fields are null, as for an event whose type does not track changes."""
    deliver(TYPE)
    (event,) = deliver.receiver.module("v1_customer_updated").events
    assert (event.changes, event.snapshot_event) == (None, None)


def test_overlapping_deliveries_have_them_too(deliver: Deliver) -> None:
    """All ways to deliver take the same arguments."""
    deliver.overlapping(TYPE, changes=CHANGES)
    (event,) = deliver.receiver.module("v1_customer_updated").events
    assert event.changes.to_dict() == CHANGES


def test_run_handler_has_them_too(run_handler: RunHandler, make_handlers: MakeHandlers) -> None:
    """The callback alone fetches the same event."""
    package = make_handlers(v1_customer_updated=FETCHING)
    module = importlib.import_module(f"{package}.v1_customer_updated")
    run_handler(module, changes=CHANGES, snapshot_event="evt_s")
    (event,) = module.events
    assert (event.changes.to_dict(), event.snapshot_event) == (CHANGES, "evt_s")


@pytest.mark.parametrize(
    ("event_type", "given", "error", "problem"),
    [
        ("customer.updated", {"snapshot_event": "evt_s"}, TypeError, "^snapshot_event is a field"),
        ("customer.updated", {"changes": {}}, TypeError, "Use fields and previous_attributes$"),
        ("customer.updated", {"data": {"a": 1}}, TypeError, "^data is a field of thin events"),
        (TYPE, {"changes": {"befor": {}}}, ValueError, "has no 'befor'. It has before and after$"),
        (TYPE, {"changes": {"after": "Jenny"}}, TypeError, "is 'Jenny'. Use a dict of fields$"),
        (TYPE, {"snapshot_event": {"id": "evt_s"}}, ValueError, "Use the id of a snapshot event$"),
        (TYPE, {"snapshot_event": ""}, ValueError, "^snapshot_event is ''"),
        (ONLY_THIN, {"snapshot_event": "evt_s"}, ValueError, "has no snapshot event for 'v1.custo"),
        (TYPE, {"snapshot_evnt": "evt_s"}, TypeError, "takes no 'snapshot_evnt'. It takes context"),
        (TYPE, {"account": "acct_1"}, TypeError, "^v1.customer.updated takes no 'account'"),
        ("customer.updated", {"reason": {}}, TypeError, "^customer.updated takes no 'reason'"),
    ],
)
def test_wrong_field_is_refused(
    deliver: Deliver, event_type: str, given: dict[str, Any], error: type[Exception], problem: str
) -> None:
    """The error names the field, and says what to use. Nothing is delivered."""
    with pytest.raises(error, match=problem):
        deliver(event_type, **given)
    assert deliver.receiver.services.inbox.administration.latest(1) == []


def test_type_newer_than_the_sdk_can_have_a_snapshot_event(deliver: Deliver) -> None:
    """The SDK cannot know of it."""
    assert deliver("v1.thing.made", unknown=True, snapshot_event="evt_s").outcome == "fallback"


def test_full_event_keeps_what_it_has() -> None:
    """A body that is a full event already keeps its fields."""
    full = {**samples.notification(TYPE), "changes": CHANGES, "snapshot_event": "evt_s"}
    assert samples.event(full).items() >= full.items()
