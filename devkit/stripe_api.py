"""A stand-in for Stripe's API: it serves the events and objects that a test puts into it.

It is a WSGI app that ``serve()`` runs on a local port, so that the real ``StripeClient`` talks to
it over real HTTP. It fails on demand as the real API does, and records all requests.
"""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from werkzeug import Request, Response

from devkit import event_list, full_events, placeholders, samples, snapshot_list
from devkit.api_answers import error_answer, json_answer
from devkit.destinations import Destinations
from devkit.event_list import EventList
from devkit.faults import Fault, reset_connection, wait_for
from devkit.http_server import HOST, SilentHandler, serving
from devkit.webhook_endpoints import WebhookEndpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to the stand-in. A header that was not sent is ``None``."""

    method: str
    path: str
    query: str
    stripe_context: str | None
    request_trigger: str | None
    idempotency_key: str | None
    authorization: str | None
    """Masked: ``Bearer sk_test_***``."""


class StripeApi:
    """The stand-in. All methods are thread-safe, before and while it serves."""

    def __init__(self, source: Callable[[str], Mapping[str, Any] | None] | None = None) -> None:
        """Start with nothing to serve and no faults.

        ``source`` returns the body for a path without a body of its own, or ``None`` for a 404.
        """
        self._source = source or (lambda _: None)
        self._lock = threading.Lock()
        self._bodies: dict[str, bytes | None] = {}
        self._faults: list[Fault] = []
        self.events = EventList()
        self._holds: list[threading.Event] = []
        self._asked: list[Asked] = []
        self._url: str | None = None
        self.destinations = Destinations(self.put_event)
        self.webhook_endpoints = WebhookEndpoints()
        self.clock_ahead: int | None = 0
        """Seconds by which the ``Date`` of each answer is ahead; ``None`` for an invalid date."""

    @property
    def url(self) -> str:
        """The address for ``STRIPE_API_BASE``. Raises ``RuntimeError`` unless it serves."""
        if self._url is None:
            raise RuntimeError("The stand-in has an address only inside `with api.serve():`")
        return self._url

    @property
    def asked(self) -> list[Asked]:
        """All requests so far, failed ones included, in order of arrival."""
        with self._lock:
            return list(self._asked)

    def put(self, path: str, body: Mapping[str, Any]) -> None:
        """Answer requests for ``path`` with ``body`` from now on."""
        with self._lock:
            self._bodies[path] = json.dumps(body).encode()

    def put_event(self, event: Mapping[str, Any]) -> None:
        """Serve a full event at its own path, and list it.

        See ``samples.event`` and ``samples.snapshot_event``.
        """
        self.events.put(event)
        self.put(samples.event_url(event), event)

    def put_related_object(self, notification: Mapping[str, Any], **fields: object) -> None:
        """Serve the related object of ``notification``, with ``fields``, at its own path."""
        body = samples.api_object(notification, **fields)
        self.put(notification["related_object"]["url"], body)

    def offer(
        self,
        event: Mapping[str, Any],
        data: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Serve the event and the object of a delivered body, with placeholder values.

        ``data`` of the full event and ``fields`` of the related object replace placeholders.
        ``more`` are the fields ``changes`` and ``snapshot_event`` of the full event. The values of
        a snapshot event are in the body. A path that was put or removed before keeps its answer.

        Raises ``TypeError`` or ``ValueError`` for a field that the full event cannot have.
        """
        full_events.check(event, data=data, **more)
        paths = filter(None, (samples.event_url(event), samples.object_url(event)))
        offered = {path: placeholders.answer(event, path, data, fields, **more) for path in paths}
        with self._lock:
            for path, body in offered.items():
                self._bodies.setdefault(path, json.dumps(body).encode())

    def remove(self, path: str) -> None:
        """Answer requests for ``path`` with 404 from now on, as for a deleted object."""
        with self._lock:
            self._bodies[path] = None

    def fail(
        self,
        path: str | None = None,
        *,
        status: int = 500,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next ``times`` requests for ``path``, or for any, with an error of Stripe's.

        Faults apply in the order of these calls. The SDK retries 5xx and 409, and 429 only with
        the header ``Stripe-Should-Retry: true``.
        """
        self._add(Fault(path, times, lambda request: error_answer(request, status, headers)))

    def hold(self, path: str | None = None, *, times: int = 1) -> threading.Event:
        """Delay the next ``times`` requests for ``path``, or for any, to simulate a time-out.

        They are answered when the returned event is set, or when the stand-in stops.
        """
        release = threading.Event()
        with self._lock:
            self._holds.append(release)
        self._add(Fault(path, times, lambda _: wait_for(release)))
        return release

    def reset(self, path: str | None = None, *, times: int = 1) -> None:
        """Reset the connection of the next ``times`` requests for ``path``, or for any."""
        self._add(Fault(path, times, reset_connection))

    def heal(self) -> None:
        """Drop all faults that have not occurred yet."""
        with self._lock:
            self._faults.clear()

    def garble(
        self, path: str | None = None, *, body: bytes = b"<html>", status: int = 200, times: int = 1
    ) -> None:
        """Answer the next ``times`` requests for ``path``, or for any, with an arbitrary ``body``.

        The body is sent unchanged: a proxy between the service and Stripe can answer anything.
        """
        self._add(Fault(path, times, lambda _: json_answer(body, status)))

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[StripeApi]:
        """Serve on 127.0.0.1 in a thread; port 0 selects a free port.

        Requests that ``hold`` still delays are answered when the block ends.
        """
        with ExitStack() as stack:
            stack.callback(self.destinations.close)
            number = stack.enter_context(serving(self, port=port, handler=_Handler))
            stack.callback(self._release)
            self._url = f"http://{HOST}:{number}"
            try:
                yield self
            finally:
                self._url = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request. This object is the WSGI app."""
        request = Request(environ)
        fault = self._record(request)
        struck = fault.strike(request) if fault else None
        response = struck or self._find(request)
        return response(environ, start_response)

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _record(self, request: Request) -> Fault | None:
        """Record the request, and return the fault that applies to it, if any."""
        with self._lock:
            self._asked.append(_asked(request))
            fault = next((fault for fault in self._faults if fault.applies_to(request.path)), None)
            if fault:
                fault.times -= 1
            return fault

    def _find(self, request: Request) -> Response:
        if request.method == "PUT":  # not a method of Stripe's API
            return self._take(request)
        if (page := self.events.answer(request)) is not None:
            return page
        with self._lock:
            body = self._bodies.get(request.path)
            is_known = request.path in self._bodies  # also with None, when it was removed
        if is_known:
            return error_answer(request, 404) if body is None else json_answer(body)
        for each in (self.destinations, self.webhook_endpoints):
            if answer := each.answer(request):
                return answer
        found = self._source(request.path)
        return error_answer(request, 404) if found is None else json_answer(found)

    def _take(self, request: Request) -> Response:
        """Serve the JSON object in ``request`` at its path from now on. An event is listed, too."""
        body = request.get_json(force=True, silent=True)
        if not isinstance(body, dict):
            return error_answer(request, 404)
        if request.path.startswith((f"{event_list.PATH}/", f"{snapshot_list.PATH}/")):
            self.events.put(body)
        self.put(request.path, body)
        return json_answer(body, 201)

    def _release(self) -> None:
        with self._lock:
            for release in self._holds:
                release.set()


class _Handler(SilentHandler):
    """Handles a connection, with the clock and the faults of the stand-in."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the ``Date`` of an answer by the clock of the stand-in."""
        ahead: int | None = cast("Any", self.server).app.clock_ahead
        if ahead is None:
            return "today"
        return super().date_time_string((timestamp or time.time()) + ahead)

    def connection_dropped(
        self,
        error: BaseException,  # noqa: ARG002 - named by werkzeug
        environ: WSGIEnvironment | None = None,  # noqa: ARG002 - named by werkzeug
    ) -> None:
        """Close a connection that was reset: it has no second request."""
        self.close_connection = True


def _asked(request: Request) -> Asked:
    headers = request.headers
    return Asked(
        method=request.method,
        path=request.path,
        query=request.query_string.decode(),
        stripe_context=headers.get("Stripe-Context"),
        request_trigger=headers.get("Stripe-Request-Trigger"),
        idempotency_key=headers.get("Idempotency-Key"),
        authorization=_masked(headers.get("Authorization")),
    )


def _masked(authorization: str | None) -> str | None:
    """Return the header with the kind and mode of the key only."""
    if authorization is None:
        return None
    kind = re.match(r"Bearer ([sr]k_(?:live|test|org)_)?", authorization)
    return f"{kind[0] if kind else ''}***"
