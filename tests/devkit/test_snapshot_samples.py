"""Samples of snapshot events are derived from the SDK for each event type."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from app.stripe_api.catalog import Kind
from devkit import placeholders, samples
from devkit.sdk_classes import object_name
from devkit.stripe_api import StripeApi

TYPE = "customer.source.created"
TYPES = samples.event_types(Kind.SNAPSHOT)


@pytest.fixture(scope="module")
def client() -> stripe.StripeClient:
    """A client that makes no request."""
    return stripe.StripeClient("sk_test_fake")


def read(client: stripe.StripeClient, body: dict[str, Any]) -> Any:
    """Return the SDK's event for a sample."""
    return client.construct_event_without_verification(samples.encode(body))


def test_sdk_reads_each_sample(client: stripe.StripeClient) -> None:
    """The SDK reads the object of each type as the class of the type, with all of its fields."""
    assert len(TYPES) == 275
    for event_type in TYPES:
        event = read(client, samples.snapshot_event(event_type, account="acct_1"))
        found = event.data.object
        assert (event.type, event.account, event.livemode) == (event_type, "acct_1", False)
        assert type(found) is samples.snapshot_class(event_type)
        names = {name.removesuffix("_") for name in type(found).__annotations__ if name[0] != "_"}
        assert names - {"OBJECT_NAME"} == {*found.to_dict()}


def test_object_is_that_of_the_thin_form() -> None:
    """A type with a thin form has the object of that form, except for the sum of an alert."""
    thin = {*samples.event_types(Kind.THIN)}
    others = {}
    for event_type in TYPES:
        related = samples.related_class(f"v1.{event_type}") if f"v1.{event_type}" in thin else None
        if related not in {None, samples.snapshot_class(event_type)}:
            others[event_type] = object_name(samples.snapshot_class(event_type))
    assert others == {"billing.alert.triggered": "billing.alert_triggered"}


@pytest.mark.parametrize(
    ("event_type", "name"),
    [
        ("account.application.authorized", "application"),
        ("account.external_account.created", "bank_account"),
        ("application_fee.refund.updated", "fee_refund"),
        ("charge.dispute.created", "dispute"),
        ("customer.discount.created", "discount"),
        (TYPE, "source"),
        ("issuing_authorization.request", "issuing.authorization"),
        ("sigma.scheduled_query_run.created", "scheduled_query_run"),
        ("source.mandate_notification", "source_mandate_notification"),
        ("source.transaction.created", "source_transaction"),
    ],
)
def test_object_has_another_name_than_its_type(event_type: str, name: str) -> None:
    """The names in the SDK lead from a type to its object."""
    assert samples.snapshot_event(event_type)["data"]["object"]["object"] == name


def test_given_values_are_in_the_body() -> None:
    """Each argument is a field of the body. Without an argument, optional fields are missing."""
    body = samples.snapshot_event(
        "customer.updated",
        event_id="evt_1",
        account="acct_1",
        context="org_1/acct_1",
        livemode=True,
        created=datetime(2026, 11, 5, tzinfo=UTC),
        object_id="cus_1",
        fields={"email": "jenny@example.com"},
        previous_attributes={"email": None},
        api_version="2020-08-27",
        request={"id": "req_1", "idempotency_key": "key_1"},
    )
    data = body.pop("data")
    assert body == {
        "id": "evt_1",
        "object": "event",
        "account": "acct_1",
        "api_version": "2020-08-27",
        "context": "org_1/acct_1",
        "created": 1793836800,
        "livemode": True,
        "pending_webhooks": 1,
        "request": {"id": "req_1", "idempotency_key": "key_1"},
        "type": "customer.updated",
    }
    assert data["object"].items() > {"id": "cus_1", "email": "jenny@example.com"}.items()
    assert data["previous_attributes"] == {"email": None}
    plain = samples.snapshot_event("customer.updated")
    assert not {"account", "context"} & set(plain)
    assert plain["api_version"] == stripe.api_version
    assert list(plain["data"]) == ["object"]


def test_object_without_an_id() -> None:
    """An object that has no id at Stripe has none in a sample."""
    assert "id" not in samples.snapshot_event("balance.available")["data"]["object"]


def test_unknown_type_has_what_it_is_given() -> None:
    """With ``unknown``, a type that the SDK does not know has an object of the given fields."""
    with pytest.raises(samples.UnknownEventTypeError) as error:
        samples.snapshot_event("custommer.created")
    assert error.value.nearest[0] == "customer.created"
    with pytest.raises(samples.UnknownEventTypeError):
        samples.snapshot_class("custommer.created")
    body = samples.snapshot_event("thing.made", unknown=True, fields={"object": "thing"})
    assert body["data"] == {"object": {"object": "thing"}}
    assert samples.object_url(body) is None
    body = samples.snapshot_event("thing.made", unknown=True, object_id="thing_1")
    assert body["data"] == {"object": {"id": "thing_1"}}
    known = samples.snapshot_event(TYPE, unknown=True)["data"]["object"]
    assert known["object"] == "source"


@pytest.mark.parametrize(
    ("event_type", "fields", "path"),
    [
        ("customer.created", {"id": "cus_1"}, "/v1/customers/cus_1"),
        ("balance.available", {}, "/v1/balance"),
        ("tax.settings.updated", {}, "/v1/tax/settings"),
        ("cash_balance.funds_available", {"customer": "cus_1"}, "/v1/customers/cus_1/cash_balance"),
        (
            "capability.updated",
            {"id": "card", "account": "acct_1"},
            "/v1/accounts/acct_1/capabilities/card",
        ),
        ("customer.discount.created", {}, None),
        ("billing.alert.triggered", {}, None),
    ],
)
def test_path_of_the_object(event_type: str, fields: dict[str, str], path: str | None) -> None:
    """The path has the id of the object and of its parents. Some objects have no path."""
    assert samples.object_url(samples.snapshot_event(event_type, fields=fields)) == path


def test_stand_in_serves_event_and_object(
    stripe_api: StripeApi, client: stripe.StripeClient
) -> None:
    """An offered event is served with its object. Another path has no answer."""
    body = samples.snapshot_event("customer.created", fields={"email": "jenny@example.com"})
    stripe_api.offer(body)
    asking = stripe.StripeClient("sk_test_fake", base_addresses={"api": stripe_api.url})
    customer_id = body["data"]["object"]["id"]

    assert asking.v1.events.retrieve(body["id"]) == read(client, body)
    assert asking.v1.customers.retrieve(customer_id).email == "jenny@example.com"
    assert placeholders.answer(body, "/v1/customers/cus_other") is None


def test_put_event_serves_a_snapshot_event(stripe_api: StripeApi) -> None:
    """A snapshot event that a test puts into the stand-in is served at its own path."""
    body = samples.snapshot_event(TYPE)
    stripe_api.put_event(body)
    asking = stripe.StripeClient("sk_test_fake", base_addresses={"api": stripe_api.url})
    assert asking.v1.events.retrieve(body["id"]).type == TYPE
