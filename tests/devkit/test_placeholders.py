"""Placeholders: all fields of the SDK's classes, and the given values."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

import pytest
import stripe
from stripe.events import _event_classes as sdk
from stripe.v2.core import EventNotification

from devkit import placeholders, samples
from devkit.stripe_api import StripeApi

METER = "v1.billing.meter.error_report_triggered"
CHECKOUT = "v1.checkout.session.completed"


def missing(found: object, wanted: type, where: str) -> list[str]:
    """Return the fields of the class ``wanted``, at any depth, that ``found`` does not have."""
    problems = []
    for name, hint in getattr(wanted, "__annotations__", {}).items():
        if name.startswith("_") or name == "OBJECT_NAME":
            continue
        value = getattr(found, name, missing)
        optional = type(None) in get_args(hint)
        if value is missing or (value is None and not optional):
            problems.append(f"{where}.{name}")
        elif isinstance(hint, type) and issubclass(hint, stripe.StripeObject):
            problems += missing(value, hint, f"{where}.{name}")
        elif get_origin(hint) is list and value != []:
            problems.append(f"{where}.{name} is no empty list")
    return problems


def test_each_type_has_all_fields(stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each type the SDK can read the event and the object, with all of their fields."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    client = stripe.StripeClient("sk_test_fake", base_addresses={"api": stripe_api.url})
    problems: list[str] = []
    for event_type in samples.event_types():
        notification = samples.notification(event_type, context="acct_1")
        notif: Any = EventNotification.from_json(samples.encode(notification), client)
        stripe_api.put_event(placeholders.event(notification))
        event_class = sdk.get_v2_event_class(event_type)
        data = event_class.__annotations__.get("data")
        event = notif.fetch_event()
        assert type(event) is event_class
        if data:
            problems += missing(event.data, data, event_type)
        related = samples.related_class(event_type)
        if related:
            stripe_api.put(
                notification["related_object"]["url"], placeholders.api_object(notification)
            )
            problems += missing(notif.fetch_related_object(), related, event_type)
    assert problems == []


def test_values_are_place_holders() -> None:
    """A text names its field, a literal type has its first value, an optional field is null."""
    session = placeholders.api_object(samples.notification(CHECKOUT))
    assert session["currency"] is None
    assert session["payment_status"] == "no_payment_required"
    data = placeholders.event(samples.notification(METER))["data"]
    assert data["developer_message_summary"] == "developer_message_summary_sample"
    assert data["reason"] == {"error_count": 0, "error_types": []}


def test_class_that_is_named_is_found() -> None:
    """A field with a string annotation is filled like any other."""
    body = placeholders.api_object(samples.notification("v1.issuing_authorization.created"))
    assert body["card"]["object"] == "issuing.card"
    assert body["card"]["cardholder"]["object"] == "issuing.cardholder"


def test_what_is_given_counts() -> None:
    """Given fields and data replace placeholders."""
    notification = samples.notification(CHECKOUT, object_id="cs_1")
    session = placeholders.api_object(notification, currency="eur")
    assert (session["id"], session["currency"]) == ("cs_1", "eur")
    meter = samples.notification(METER)
    summary = {"developer_message_summary": "no meter"}
    assert placeholders.event(meter, summary)["data"].items() > summary.items()
    assert "data" not in placeholders.event(notification)


def test_unknown_type_has_what_is_given() -> None:
    """For a type that is newer than the SDK there are no placeholders."""
    related = {"id": "thing_1", "type": "thing", "url": "/v9/things/thing_1"}
    unknown = samples.notification("v9.thing.made", unknown=True, related_object=related)
    assert placeholders.api_object(unknown, size=1) == {
        "id": "thing_1",
        "object": "thing",
        "size": 1,
    }
    assert "data" not in placeholders.event(unknown)
    assert json.loads(json.dumps(placeholders.event(unknown, {"size": 1})))["data"] == {"size": 1}
