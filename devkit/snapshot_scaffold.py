"""Templates of ``flask handlers new`` for snapshot events: a handler module, and its test."""

from __future__ import annotations

import textwrap

from app.stripe_api.catalog import Kind, event_types, module_name
from devkit import samples
from devkit.scaffold_imports import sdk_imports

#: Types whose object can be of another class than the one that the SDK's names lead to.
SEVERAL_CLASSES = ("account.external_account.", "customer.source.")

MODULE = '''\
"""{event_type}: say what it does."""
{typing}
import structlog
{imports}{declaration}

log = structlog.get_logger(__name__)


def handle(event: Event, client: StripeClient) -> None:
    """Log a line about the object in the event.

    If this returns, the event is done. If it raises, the event is retried. If it raises
    app.GiveUp("reason"), the event is dead. A retry must not repeat what was done: send
    app.idempotency_key(event, "purpose") with each request that changes something at Stripe, and
    do everything else in app.once(event, "purpose").
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

TYPE = "{event_type}"


def test_event_is_handled(deliver: Deliver, logged: Logged) -> None:
    """The callback logs a line about the object in the event."""
    delivery = deliver(TYPE, account="acct_1")

    assert (delivery.status, delivery.outcome) == (200, "handled")
    line = logged("{log_name}")
    assert line["event_id"] == delivery.body["id"]


def test_redelivery_does_not_run_it_again(deliver: Deliver) -> None:
    """Stripe may deliver an event more than once. It is handled once."""
    assert [each.outcome for each in deliver.twice(TYPE)] == ["handled", "duplicate"]
'''


def module_text(event_type: str) -> str:
    """Return a handler module for ``event_type``. It is typed if the SDK knows the type."""
    known = event_type in event_types(Kind.SNAPSHOT)
    found = samples.snapshot_class(event_type) if known else None
    name = samples.object_name(found).rpartition(".")[2] if found else ""
    lines = _object_lines(event_type, name, found.__name__ if found else "")
    return MODULE.format(
        event_type=event_type,
        typing="\nfrom typing import cast\n" if found else "",
        imports=sdk_imports({"stripe": ["Event", "StripeClient"]}, found),
        declaration="" if known else f'\n\nEVENT_TYPE = "{event_type}"',
        body=textwrap.indent("\n".join(lines), " " * 4),
        log_name=module_name(event_type),
        fields=textwrap.indent("\n".join(_fields(event_type, name)), " " * 8),
    )


def test_text(event_type: str) -> str:
    """Return a test for the module of ``module_text``."""
    return TEST.format(event_type=event_type, log_name=module_name(event_type))


def _object_lines(event_type: str, name: str, class_name: str) -> list[str]:
    """Return the lines that read the object, with a comment about it."""
    if not name:
        return ["# The object at the time of the event is event.data.object."]
    lines = ["# The object at the time of the event. To get its current state, use the client."]
    if event_type.startswith(SEVERAL_CLASSES):
        lines.append("# It can be of another class: see its field object.")
    return [*lines, f'{name} = cast("{class_name}", event.data.object)']


def _fields(event_type: str, name: str) -> list[str]:
    """Return the fields of the log line."""
    if not name:
        return ["created=event.created,"]
    has_id = "id" in samples.snapshot_event(event_type)["data"]["object"]
    return ["created=event.created,", f"{name}={name}.{'id' if has_id else 'object'},"]
