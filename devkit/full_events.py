"""Checks the fields of a full event that a test gives: those that no notification has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import stripe

from app.stripe_api.catalog import Kind, event_types, snapshot_type
from devkit import samples

#: The fields of ``changes``. Each has only the fields of the object that changed
#: (https://docs.stripe.com/api/v2/core/events/object).
CHANGES = ("before", "after")


def check(
    body: Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    snapshot_event: str | None = None,
) -> None:
    """Refuse fields that Stripe's full event of this ``body`` cannot have.

    Raises ``TypeError`` for a snapshot event, which is delivered with all of its fields, and
    ``TypeError`` or ``ValueError`` for a wrong value.
    """
    fields = {"data": data, "changes": changes, "snapshot_event": snapshot_event}
    given = [name for name, value in fields.items() if value is not None]
    if given and samples.is_snapshot(body):
        raise TypeError(
            f"{given[0]} is a field of thin events, and {body['type']!r} is a snapshot event."
            " Use fields and previous_attributes"
        )
    if changes is not None:
        _check_changes(changes)
    if snapshot_event is not None:
        _check_snapshot_event(body["type"], snapshot_event)


def _check_changes(changes: Mapping[str, Any]) -> None:
    for name, values in changes.items():
        if name not in CHANGES:
            raise ValueError(f"changes has no {name!r}. It has {' and '.join(CHANGES)}")
        if not isinstance(values, Mapping):
            raise TypeError(f"changes[{name!r}] is {values!r}. Use a dict of fields")


def _check_snapshot_event(event_type: str, given: object) -> None:
    if not (isinstance(given, str) and given):
        raise ValueError(f"snapshot_event is {given!r}. Use the id of a snapshot event")
    lacking = snapshot_type(event_type) not in event_types(Kind.SNAPSHOT)
    if lacking and event_type in event_types(Kind.THIN):
        raise ValueError(f"stripe {stripe.VERSION} has no snapshot event for {event_type!r}")
