"""Deliveries in tests: events go through the real application into a real inbox.

Only Stripe is replaced. Deliveries are signed as Stripe signs them, and the stand-in answers the
requests of callbacks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.errors import CallbackFailed, Deferred, Refused, Stopping, TooLarge
from app.inbox import Event
from app.services import Services, services
from app.stripe_api.catalog import Kind, event_types, kind_of, snapshot_type
from devkit import samples
from devkit.door import Door
from devkit.run_handler import RunHandler as RunHandler  # noqa: PLC0414 - tests of teams import it here
from devkit.run_handler import sample_body
from devkit.stripe_api import StripeApi

SECRET = "whsec_fake_for_tests"  # noqa: S105 - a fake
API_KEY = "sk_test_fake_for_tests"

#: The arguments of a delivery that are fields of what the stand-in serves.
OFFERED = ("fields", "data", "changes", "snapshot_event")

#: Outcomes by the status of the answer, for answers without an outcome.
OUTCOMES = {
    error.status: error.outcome for error in (CallbackFailed, Deferred, Refused, Stopping, TooLarge)
}


@dataclass(frozen=True)
class Receiver:
    """A running application, for deliveries and for a look into its inbox."""

    app: Flask
    client: FlaskClient

    @property
    def services(self) -> Services:
        """The services of the application."""
        return services(self.app)

    def post(self, body: bytes, signature: str | None, **more: Any) -> TestResponse:
        """Post raw bytes with a raw ``Stripe-Signature``, or without one."""
        headers = {} if signature is None else {"Stripe-Signature": signature}
        return self.client.post(
            "/webhook", data=body, headers=headers, content_type="application/json", **more
        )

    def deliver(self, body: bytes | dict[str, Any], *, secret: str = SECRET) -> TestResponse:
        """Sign a body as Stripe does and post it."""
        raw = body if isinstance(body, bytes) else samples.encode(body)
        return self.post(raw, samples.sign(raw, secret))

    def event(self, event_id: str) -> Event:
        """Return an event from the inbox. Raises ``LookupError`` if it is not there."""
        event = self.services.inbox.administration.find(event_id)
        if event is None:
            raise LookupError(f"the inbox has no event {event_id}")
        return event

    def module(self, name: str) -> Any:
        """Return a handler module, to read its variables."""
        return sys.modules[f"{self.services.settings.handlers_package}.{name}"]

    def close(self) -> None:
        """End the threads and connections of the application."""
        self.services.worker.join()
        self.services.leases.close()
        self.services.inbox.close()


@dataclass(frozen=True)
class Delivery:
    """One delivery and its result."""

    status: int
    """The HTTP status of the answer."""
    outcome: str
    """``handled``, ``duplicate``, ... For an error: ``failed``, ``deferred``, ..."""
    error: str | None
    """The error in the answer, or None for a 2xx."""
    event: Event | None
    """The event in the inbox right after the answer. None if it was not recorded."""
    body: dict[str, Any]
    """The body of the delivery: a notification, or a snapshot event."""
    _deliver: Deliver = field(repr=False, compare=False)

    @property
    def notification(self) -> dict[str, Any]:
        """The body, by the name that it had before there were snapshot events."""
        return self.body

    def again(self) -> Delivery:
        """Deliver the same event again, with a new signature, as Stripe does."""
        return self._deliver(self.body)


class Deliver:
    """Delivers samples to the application. The stand-in serves their events and objects."""

    def __init__(self, receiver: Receiver, api: StripeApi, door: Door) -> None:
        """Take the application, its stand-in for Stripe's API, and the door of its callbacks."""
        self.receiver = receiver
        self._api = api
        self._door = door

    def __call__(
        self,
        event: str | Mapping[str, Any],
        *,
        fields: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        snapshot_event: str | None = None,
        **sample: Any,
    ) -> Delivery:
        """Deliver an event of a type, or an existing body.

        ``fields`` sets fields of the event's object. Three arguments are fields of the full event
        of a notification, which ``fetch_event()`` returns: ``data``, ``changes`` (``before`` and
        ``after``), and ``snapshot_event``, the id of the snapshot event of the same action. All
        other fields have placeholders. For further arguments (``event_id``, ``context``,
        ``object_id``, ...) see ``samples.notification``, and for those of a snapshot event
        (``account``, ``previous_attributes``, ...) ``samples.snapshot_event``.

        Raises ``TypeError`` or ``ValueError`` for an argument that the event cannot have.
        """
        body = self._body(event, fields, sample)
        self._api.offer(body, data, fields, changes=changes, snapshot_event=snapshot_event)
        return self._post(body)

    def twice(self, event: str | Mapping[str, Any], **more: Any) -> tuple[Delivery, Delivery]:
        """Deliver an event, and deliver it again."""
        first = self(event, **more)
        return first, first.again()

    def retried(
        self, event: str | Mapping[str, Any], *, status: int = 429, **more: Any
    ) -> tuple[Delivery, Delivery]:
        """Deliver an event while Stripe's API answers ``status``, and again after it recovers.

        The SDK retries a request after a 5xx, which takes a second or two.
        """
        self._api.fail(status=status, times=sys.maxsize)
        try:
            first = self(event, **more)
        finally:
            self._api.heal()
        return first, first.again()

    def out_of_order(
        self, earlier: str, later: str, *, object_id: str = "sample_of_both", **more: Any
    ) -> tuple[Delivery, Delivery]:
        """Deliver two events about one object in the wrong order: the later one first.

        Returns the deliveries in this order.
        """
        now = datetime.now(UTC)
        before = now - timedelta(seconds=1)
        first = self(later, object_id=object_id, created=now, **more)
        return first, self(earlier, object_id=object_id, created=before, **more)

    def overlapping(self, event: str | Mapping[str, Any], **more: Any) -> tuple[Delivery, Delivery]:
        """Deliver an event, and deliver it again while its callback runs.

        Returns the delivery whose callback ran, then the other one.
        """
        offered = {name: more.pop(name, None) for name in OFFERED}
        body = self._body(event, offered["fields"], more)
        with ThreadPoolExecutor(1) as pool:
            with self._door.held():
                running = pool.submit(self, body, **offered)
                while not self._door.reached.wait(0.01) and not running.done():
                    pass
                other = self._post(body)
            return running.result(), other

    def pair(
        self,
        first: str,
        *,
        account: str | None = None,
        changes: Mapping[str, Any] | None = None,
        object_id: str = "sample_of_both",
        **more: Any,
    ) -> tuple[Delivery, Delivery]:
        """Deliver the two events of one action: that of the type ``first``, then the other kind.

        The thin one names the snapshot event. ``account`` is that of both, and ``changes`` are in
        both. Returns the deliveries in this order. Raises ``ValueError`` for a type that has one
        kind only.
        """
        snapshot_id = samples.sample_id("evt")
        both: dict[Kind, dict[str, Any]] = {
            Kind.THIN: {"context": account, "changes": changes, "snapshot_event": snapshot_id},
            Kind.SNAPSHOT: {
                "account": account,
                "previous_attributes": (changes or {}).get("before"),
                "event_id": snapshot_id,
            },
        }

        def send(event_type: str) -> Delivery:
            return self(event_type, object_id=object_id, **both[kind_of(event_type)], **more)

        second = self._other_kind(first)
        return send(first), send(second)

    def burst(self, event_type: str, times: int = 3, **more: Any) -> list[Event]:
        """Deliver several events about one object, and run them after the last delivery.

        Returns the events of the inbox in the order of their deliveries. It needs queue mode,
        ``make_deliver(processing="queue")``: raises ``RuntimeError`` in inline mode, where each
        event runs at its delivery.
        """
        if not self.receiver.services.settings.is_queue:
            raise RuntimeError('a burst needs queue mode: make_deliver(processing="queue")')
        named = {"object_id": "sample_of_all", **more}
        ids = [self(event_type, **named).body["id"] for _ in range(times)]
        self.run_due()
        return [self.receiver.event(each) for each in ids]

    def run_due(self) -> list[Event]:
        """Run events in this thread until none is due, as workers of queue mode do.

        Returns the events that ran, as the inbox has them afterwards.
        """
        own = self.receiver.services
        ran: dict[str, None] = {}
        while claim := own.inbox.claims.claim_due(livemode=own.settings.livemode):
            ran[claim.event_id] = None
            with suppress(CallbackFailed, Deferred):
                own.runner.run(claim)
        return [self.receiver.event(each) for each in ran]

    def _other_kind(self, event_type: str) -> str:
        """Return the type of the other event of an action."""
        handled = self.receiver.services.registry.handled_types
        known = sorted(event_types() | handled)
        same = [each for each in known if snapshot_type(each) == snapshot_type(event_type)]
        others = [each for each in same if kind_of(each) is not kind_of(event_type)]
        if event_type not in same or not others:
            raise ValueError(f"{event_type!r} is not one of a pair: it has no event of each kind")
        return others[0]

    def _body(
        self,
        event: str | Mapping[str, Any],
        fields: Mapping[str, Any] | None,
        sample: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the body of a sample, or of an existing event."""
        if not isinstance(event, str):
            if sample:
                raise TypeError(f"the event has these fields already: {', '.join(sample)}")
            return dict(event)
        handled = self.receiver.services.registry.handled_types
        return sample_body(event, fields, {"unknown": event in handled, **sample})

    def _post(self, body: dict[str, Any]) -> Delivery:
        raw = samples.encode(body)
        answer = self.receiver.app.test_client().post(
            "/webhook", data=raw, headers={"Stripe-Signature": samples.sign(raw, SECRET)}
        )
        said = answer.get_json()
        return Delivery(
            status=answer.status_code,
            outcome=said.get("outcome") or OUTCOMES[answer.status_code],
            error=said.get("error"),
            event=self.receiver.services.inbox.administration.find(body["id"]),
            body=body,
            _deliver=self,
        )


class Logged(Protocol):
    """A function that returns the one log line with a name."""

    def __call__(self, name: str) -> dict[str, Any]:
        """Return the fields of the line. Fails unless there is exactly one."""


MakeDeliver = Callable[..., Deliver]
