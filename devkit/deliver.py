"""What tests do with the service: deliver an event to the real application, and look.

Nothing is imitated but Stripe: what is delivered is signed as Stripe signs it, goes through the
real application into a real inbox, and what callbacks ask is answered by the stand-in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event as Flag
from types import ModuleType
from typing import Any, Protocol

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.errors import CallbackFailed, Deferred, Refused, Stopping, TooLarge
from app.inbox import Event
from app.processing import registry
from app.processing.registry import Callback, Module, Registry
from app.services import Services, services
from app.settings import Settings
from app.stripe_api.client import build_client
from devkit import samples
from devkit.stripe_api import StripeApi

SECRET = "whsec_fake_for_tests"  # noqa: S105 - a fake
API_KEY = "sk_test_fake_for_tests"

#: The outcomes that an answer does not name, by its status.
OUTCOMES = {
    error.status: error.outcome for error in (CallbackFailed, Deferred, Refused, Stopping, TooLarge)
}


@dataclass(frozen=True)
class Receiver:
    """A running application, and what a test does with it: deliver, and look."""

    app: Flask
    client: FlaskClient

    @property
    def services(self) -> Services:
        """The parts of the application."""
        return services(self.app)

    def post(self, body: bytes, signature: str | None, **more: Any) -> TestResponse:
        """Post raw bytes with a raw header, as anybody could."""
        headers = {} if signature is None else {"Stripe-Signature": signature}
        return self.client.post(
            "/webhook", data=body, headers=headers, content_type="application/json", **more
        )

    def deliver(self, body: bytes | dict[str, Any], *, secret: str = SECRET) -> TestResponse:
        """Sign a body as Stripe does, and post it."""
        raw = body if isinstance(body, bytes) else samples.encode(body)
        return self.post(raw, samples.sign(raw, secret))

    def event(self, event_id: str) -> Event:
        """Return the event as the inbox has it. Raises ``LookupError`` if it has not."""
        event = self.services.inbox.administration.find(event_id)
        if event is None:
            raise LookupError(f"the inbox has no event {event_id}")
        return event

    def module(self, name: str) -> Any:
        """Return a handler module, for what it noted."""
        return sys.modules[f"{self.services.settings.handlers_package}.{name}"]

    def close(self) -> None:
        """Let go of the threads and connections of the application."""
        self.services.worker.join()
        self.services.leases.close()
        self.services.inbox.close()


class Door:
    """A door in front of each callback, open unless a test holds it."""

    def __init__(self) -> None:
        """Begin open."""
        self._open = Flag()
        self._open.set()
        self.reached = Flag()
        """Set as soon as a callback stands before the door."""

    def load(self, package_name: str) -> Registry:
        """Load the handler modules as the service does, and put the door in front of each."""
        loaded = _load(package_name)
        modules = tuple(map(self._guard, loaded.modules))
        return replace(loaded, modules=modules, fallback=self._guard(loaded.fallback))

    def _guard(self, module: Module) -> Module:
        def enter(*arguments: object) -> object:
            self.reached.set()
            self._open.wait()
            return module.callback(*arguments)

        return replace(module, callback=enter)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no callback begin until the block ends."""
        self.reached.clear()
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()


#: The service's own, whatever stands in its place while an application is put together.
_load = registry.load


@dataclass(frozen=True)
class Delivery:
    """What came of one delivery."""

    status: int
    """The HTTP status that Stripe would get."""
    outcome: str
    """``handled``, ``duplicate``, ...; if it was not accepted ``failed``, ``deferred``, ..."""
    error: str | None
    """The sentence in the answer if it was not accepted."""
    event: Event | None
    """The row in the inbox when it was answered: state, attempt, reason. None if not recorded."""
    notification: dict[str, Any]
    """What was delivered."""
    _deliver: Deliver = field(repr=False, compare=False)

    def again(self) -> Delivery:
        """Deliver the same event once more, signed anew as Stripe does."""
        return self._deliver(self.notification)


class Deliver:
    """Delivers samples to the application, and offers what callbacks ask of Stripe's API."""

    def __init__(self, receiver: Receiver, api: StripeApi, door: Door) -> None:
        """Take the application, the stand-in that it asks, and the door of its callbacks."""
        self.receiver = receiver
        self._api = api
        self._door = door

    def __call__(
        self,
        event: str | Mapping[str, Any],
        *,
        data: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        **sample: Any,
    ) -> Delivery:
        """Deliver an event of a type, or a notification that was made before.

        ``data`` is the data of the full event and ``fields`` are those of the related object that
        the callback reads; all others have place holders. What else can be given (``context``,
        ``object_id``, ``livemode``, ...) is described at ``samples.notification``.
        """
        notification = self._notification(event, sample)
        self._api.offer(notification, data, fields)
        return self._post(notification)

    def twice(self, event: str | Mapping[str, Any], **more: Any) -> tuple[Delivery, Delivery]:
        """Deliver an event, and deliver it again."""
        first = self(event, **more)
        return first, first.again()

    def retried(
        self, event: str | Mapping[str, Any], *, status: int = 429, **more: Any
    ) -> tuple[Delivery, Delivery]:
        """Deliver an event while Stripe's API answers ``status``, and again when it is well.

        The SDK itself repeats a request that is answered 5xx, which takes a second or two.
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
        """Deliver two events about one object in the wrong order: the later one comes first.

        Returns the deliveries in the order in which they were made.
        """
        now = datetime.now(UTC)
        before = now - timedelta(seconds=1)
        first = self(later, object_id=object_id, created=now, **more)
        return first, self(earlier, object_id=object_id, created=before, **more)

    def overlapping(self, event: str | Mapping[str, Any], **more: Any) -> tuple[Delivery, Delivery]:
        """Deliver an event, and once more while its callback runs.

        Returns first what came of the one that ran, then what came of the other.
        """
        notification = self._notification(event, more)
        with ThreadPoolExecutor(1) as pool:
            with self._door.held():
                running = pool.submit(self, notification, **more)
                while not self._door.reached.wait(0.01) and not running.done():
                    pass
                other = self._post(notification)
            return running.result(), other

    def _notification(
        self, event: str | Mapping[str, Any], sample: dict[str, Any]
    ) -> dict[str, Any]:
        """Make a sample, and take out of ``sample`` what it was made with."""
        own = {name: sample.pop(name) for name in list(sample) if name not in {"data", "fields"}}
        if not isinstance(event, str):
            if own:
                raise TypeError(f"a notification has these fields already: {', '.join(own)}")
            return dict(event)
        handled = [module.event_type for module in self.receiver.services.registry.modules]
        return samples.notification(event, **{"unknown": event in handled, **own})

    def _post(self, notification: dict[str, Any]) -> Delivery:
        body = samples.encode(notification)
        answer = self.receiver.app.test_client().post(
            "/webhook", data=body, headers={"Stripe-Signature": samples.sign(body, SECRET)}
        )
        said = answer.get_json()
        return Delivery(
            status=answer.status_code,
            outcome=said.get("outcome") or OUTCOMES[answer.status_code],
            error=said.get("error"),
            event=self.receiver.services.inbox.administration.find(notification["id"]),
            notification=notification,
            _deliver=self,
        )


class Logged(Protocol):
    """A function that returns the one line of a name that was logged."""

    def __call__(self, name: str) -> dict[str, Any]:
        """Return the fields of the line. Fails if there is none, or more than one."""


class RunHandler:
    """Calls the callback of one module, with nothing of the service around it."""

    def __init__(self, settings: Settings, api: StripeApi) -> None:
        """Take the settings of the client, and the stand-in that it asks."""
        self._settings = settings
        self._api = api

    def __call__(
        self,
        module: ModuleType,
        event_type: str | None = None,
        *,
        data: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        **sample: Any,
    ) -> Any:
        """Call ``handle`` of ``module`` with a typed notification, and return the notification.

        What the callback raises comes through. ``event_type`` is the module's own, but for the
        fallback; for the other arguments see ``Deliver``. Raises ``StartError`` for a module with
        which the service would not start.
        """
        checked = registry.check(module)
        asked = event_type or checked.event_type
        sample.setdefault("unknown", checked.event_type != registry.FALLBACK)
        notification = samples.notification(asked, **sample)
        self._api.offer(notification, data, fields)
        modules = () if checked.event_type == registry.FALLBACK else (checked,)
        seen: list[Any] = []
        handler = Registry(modules, checked).register(
            build_client(self._settings), wrap=lambda each: _noting(each, seen)
        )
        handler.handle(samples.encode(notification))
        return seen[0]


def _noting(module: Module, seen: list[Any]) -> Callback:
    """Return the module's callback, which then notes what it is called with."""

    def call(notif: Any, *others: object) -> None:
        seen.append(notif)
        module.callback(notif, *others)

    return call


MakeDeliver = Callable[..., Deliver]
