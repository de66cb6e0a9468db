"""Templates of ``flask handlers new``: a handler module for any thin type, and its test."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from stripe.events import _event_classes as sdk

from app.stripe_api.catalog import Kind, event_types, module_name
from devkit import samples
from devkit.scaffold_imports import LINE_LENGTH, sdk_imports

if TYPE_CHECKING:
    import stripe

MODULE = '''\
"""{event_type}: say what it does."""

import structlog
{imports}{declaration}

log = structlog.get_logger(__name__)


def handle(
    notif: {notification},
    client: StripeClient,
) -> None:
    """Fetch {fetched}, and log a line.

    If this returns, the event is done. If it raises, the event is retried. If it raises
    app.GiveUp("reason"), the event is dead. A retry must not repeat what was done: send
    app.idempotency_key(notif, "purpose") with each request that changes something at Stripe, and
    do everything else in app.once(notif, "purpose").
    """
{body}
    log.info(
        "{log_name}",
{fields}
    )
'''

TEST = '''\
"""{event_type}: its handler."""

from devkit.deliver import Deliver, Logged
from devkit.stripe_api import StripeApi

TYPE = "{event_type}"


def test_event_is_handled(deliver: Deliver, stripe_api: StripeApi, logged: Logged) -> None:
    """The callback fetches in the account of the event, and logs a line."""
    delivery = deliver(TYPE, context="acct_1")

    assert (delivery.status, delivery.outcome) == (200, "handled")
    assert {{asked.stripe_context for asked in stripe_api.asked}} == {{"acct_1"}}
    line = logged("{log_name}")
    assert line["event_id"] == delivery.notification["id"]


def test_redelivery_does_not_run_it_again(deliver: Deliver) -> None:
    """Stripe may deliver an event more than once. It is handled once."""
    assert [each.outcome for each in deliver.twice(TYPE)] == ["handled", "duplicate"]


def test_failure_is_tried_again(deliver: Deliver) -> None:
    """After a failure of Stripe's API, the redelivery is handled."""
    assert [each.outcome for each in deliver.retried(TYPE)] == ["failed", "handled"]
'''


def module_text(event_type: str) -> str:
    """Return a handler module for ``event_type``. It is typed if the SDK knows the type."""
    known = event_type in event_types(Kind.THIN)
    notification = (
        sdk.get_v2_event_notification_class(event_type).__name__
        if known
        else "UnknownEventNotification"
    )
    related = samples.related_class(event_type) if known else None
    name = samples.object_name(related).rpartition(".")[2] if related else ""
    return MODULE.format(
        event_type=event_type,
        imports=sdk_imports({"stripe": ["StripeClient"], "stripe.events": [notification]}, related),
        declaration="" if known else f'\n\nEVENT_TYPE = "{event_type}"',
        notification=notification,
        fetched=f"the event and the current {name.replace('_', ' ')}" if name else "the event",
        body="\n".join([*_event_lines(event_type), *_related_lines(name, related)]),
        log_name=_log_name(event_type),
        fields=textwrap.indent("\n".join(_fields(event_type, name)), " " * 8),
    )


def test_text(event_type: str) -> str:
    """Return a test for the module of ``module_text``."""
    return TEST.format(event_type=event_type, log_name=_log_name(event_type))


def _log_name(event_type: str) -> str:
    """Return a static name of a log line: the type without its version."""
    return module_name(event_type).partition("_")[2]


def _event_lines(event_type: str) -> list[str]:
    """Return the lines that fetch the event, with a comment about its data."""
    event_class = sdk.get_v2_event_class(event_type)
    data = getattr(event_class, "__annotations__", {}).get("data")
    what = f"event.data has {', '.join(data.__annotations__)}" if data else "what happened"
    text = f"The full event: {what}. This is one request to Stripe's API."
    comment = textwrap.wrap(text, LINE_LENGTH - 6)
    return [*(f"    # {line}" for line in comment), "    event = notif.fetch_event()"]


def _related_lines(name: str, related: type[stripe.StripeObject] | None) -> list[str]:
    if related is None:
        return []
    return [
        "    # The current object, not its state at the event; 404 if deleted. One more request.",
        f"    {name}: {related.__name__} = notif.fetch_related_object()",
    ]


def _fields(event_type: str, name: str) -> list[str]:
    """Return the fields of the log line."""
    if not name:
        return ["created=event.created,"]
    attribute = "id" if samples.related_object_kind(event_type) == "object" else "object"
    return ["created=event.created,", f"{name}={name}.{attribute},"]
