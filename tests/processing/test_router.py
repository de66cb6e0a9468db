"""Stored events reach the callback of their type, with a client of their account."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
import stripe
from structlog.testing import capture_logs

from app.errors import StartError
from app.processing import registry
from app.processing.router import Router
from app.stripe_api.catalog import Kind, event_types, kind_of, module_name
from tests.conftest import MakeHandlers

CALLS = "calls = []\ndef handle(event, client): calls.append((event, client))\n"
TYPE = "customer.source.created"
MODULE = "customer_source_created"
NEWER = "customer.thing.made"


def body(event_type: str, **more: Any) -> bytes:
    """Return a snapshot event."""
    values = {
        "id": "evt_1",
        "object": "event",
        "type": event_type,
        "api_version": stripe.api_version,
        "created": 1_795_000_000,
        "livemode": False,
        "data": {"object": {"id": "cus_1", "object": "customer", "email": "jenny@example.com"}},
        **more,
    }
    return json.dumps(values).encode()


class Package:
    """A package of handler modules and its router."""

    def __init__(self, name: str) -> None:
        """Load the modules of the package ``name``."""
        self.name = name
        self.loaded = registry.load(name)
        client = stripe.StripeClient("sk_test_fake")
        self.router: Router = self.loaded.register(client, lambda module: module.callback)

    def calls(self, module: str) -> list[Any]:
        """Return the arguments of the calls of a module."""
        noted: list[Any] = importlib.import_module(f"{self.name}.{module}").calls
        return noted


def context_of(client: stripe.StripeClient) -> str | None:
    """Return the context to which a client is bound."""
    context = client._requestor._options.stripe_context  # noqa: SLF001 - no getter
    return None if context is None else str(context)


def test_every_snapshot_type_reaches_its_module(make_handlers: MakeHandlers) -> None:
    """A module named after any of the SDK's snapshot types gets a ``stripe.Event`` of the type."""
    types = sorted(event_types(Kind.SNAPSHOT))
    assert len(types) == 275
    package = Package(make_handlers(**{module_name(each): CALLS for each in types}))

    assert package.loaded.types_of(Kind.SNAPSHOT) == frozenset(types)
    for each in types:
        package.router.route(each, body(each, account="acct_1"))
        ((event, client),) = package.calls(module_name(each))
        assert (type(event), event.type, event.account) == (stripe.Event, each, "acct_1")
        assert context_of(client) == "acct_1"


def test_names_of_modules_are_unambiguous() -> None:
    """No two event types of the SDK, of any kind, have one module name."""
    names = [module_name(each) for each in event_types()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({}, None),
        ({"account": "acct_1"}, "acct_1"),
        ({"account": "acct_1", "context": "org_1/acct_1"}, "org_1/acct_1"),
    ],
)
def test_client_is_bound_to_the_account(
    make_handlers: MakeHandlers, fields: dict[str, str], context: str | None
) -> None:
    """The client has the context of the event, or its account. The event's object is typed."""
    package = Package(make_handlers(**{MODULE: CALLS}))

    package.router.route(TYPE, body(TYPE, **fields))

    ((event, client),) = package.calls(MODULE)
    assert context_of(client) == context
    assert isinstance(event.data.object, stripe.Customer)
    assert event.data.object.email == "jenny@example.com"


def test_type_newer_than_the_sdk_is_declared(make_handlers: MakeHandlers) -> None:
    """A snapshot type that the SDK does not know is passed to the module that declares it."""
    package = Package(make_handlers(thing=f"EVENT_TYPE = {NEWER!r}\n{CALLS}"))
    package.router.route(NEWER, body(NEWER))
    assert len(package.calls("thing")) == 1


def test_event_without_module_reaches_the_snapshot_fallback(make_handlers: MakeHandlers) -> None:
    """``snapshot_fallback.py`` takes the snapshot events of all other types, and no thin event."""
    package = Package(make_handlers(snapshot_fallback=CALLS))
    package.router.route(TYPE, body(TYPE))
    ((event, _client),) = package.calls("snapshot_fallback")
    assert event.type == TYPE
    assert package.calls("fallback") == []


@pytest.mark.parametrize(("event_type", "known"), [(TYPE, True), (NEWER, False)])
def test_event_is_logged_without_a_snapshot_fallback(
    make_handlers: MakeHandlers, event_type: str, *, known: bool
) -> None:
    """Without the module such an event is logged, with whether the SDK knows its type."""
    package = Package(make_handlers())
    with capture_logs() as lines:
        package.router.route(event_type, body(event_type))
    assert [(each["event"], each["known_to_sdk"]) for each in lines] == [
        ("event_without_handler", known)
    ]


def test_other_api_version_is_logged_once(make_handlers: MakeHandlers) -> None:
    """An event of another API version than the SDK's has a warning, one for each version."""
    package = Package(make_handlers(**{MODULE: CALLS}))
    with capture_logs() as lines:
        for version in ("2020-08-27", stripe.api_version, "2020-08-27", "2022-11-15", None):
            package.router.route(TYPE, body(TYPE, api_version=version))
    assert [each["api_version"] for each in lines] == ["2020-08-27", "2022-11-15"]
    assert {each["sdk_api_version"] for each in lines} == {stripe.api_version}
    assert len(package.calls(MODULE)) == 5


def test_notification_of_a_type_without_version_is_thin(make_handlers: MakeHandlers) -> None:
    """The body decides for a notification whose type is spelled like one of a snapshot event."""
    package = Package(make_handlers(**{MODULE: CALLS}))
    values = {
        "id": "evt_1",
        "object": "v2.core.event",
        "type": TYPE,
        "created": "",
        "livemode": False,
    }
    package.router.route(TYPE, json.dumps(values).encode())
    assert package.calls(MODULE) == []
    ((notif, *_),) = package.calls("fallback")
    assert notif.type == TYPE


@pytest.mark.parametrize(
    ("event_type", "raw"),
    [
        *((each, raw) for each in (TYPE, "v1.customer.created") for raw in (b"{}", b"[]")),
        ("v1.customer.created", body("v1.customer.created")),
    ],
)
def test_body_of_another_kind_cannot_be_read(
    make_handlers: MakeHandlers, event_type: str, raw: bytes
) -> None:
    """A body that does not fit the stored type raises, and no callback is called."""
    package = Package(make_handlers(**{MODULE: CALLS}))
    with pytest.raises((ValueError, KeyError, AttributeError)):
        package.router.route(event_type, raw)
    assert package.calls(MODULE) == package.calls("fallback") == []


def test_parameters_are_checked_by_kind(make_handlers: MakeHandlers) -> None:
    """A snapshot module defines ``handle(event, client)``, and so does the snapshot fallback."""
    swapped = "def handle(client, event): pass\n"
    package = make_handlers(**{MODULE: swapped, "snapshot_fallback": swapped})
    with pytest.raises(StartError) as raised:
        registry.load(package)
    assert len(raised.value.problems) == 2
    for problem in raised.value.problems:
        assert "handle has its parameters in another order" in problem
        assert "def handle(event, client)" in problem


@pytest.mark.parametrize(
    ("event_type", "kind"),
    [
        ("v1.customer.created", Kind.THIN),
        ("v2.core.account.closed", Kind.THIN),
        ("v10.thing.made", Kind.THIN),
        ("customer.created", Kind.SNAPSHOT),
        ("v.customer", Kind.SNAPSHOT),
        ("v0.customer", Kind.SNAPSHOT),
    ],
)
def test_kind_is_in_the_type(event_type: str, kind: Kind) -> None:
    """The types of thin events begin with a version. The SDK's lists agree."""
    assert kind_of(event_type) is kind
    for each in Kind:
        assert {kind_of(type_) for type_ in event_types(each)} == {each}
