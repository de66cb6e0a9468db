"""A stand-in for Stripe's API: it serves the events and objects that it was given.

It is a WSGI app, run on a port of this machine by ``serve()``, so that the real ``StripeClient``
talks to it over real HTTP. It can be told to fail as the real one does, and remembers what it was
asked.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from werkzeug import Request, Response
from werkzeug.serving import WSGIRequestHandler, make_server

from devkit import placeholders, samples
from devkit.destinations import Destinations
from devkit.event_list import EventList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HOST = "127.0.0.1"
CODES = {404: "resource_missing", 429: "rate_limit"}
V2_CODES = {404: "not_found", 429: "rate_limit"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that the stand-in got. A header that was not sent is ``None``."""

    method: str
    path: str
    query: str
    stripe_context: str | None
    request_trigger: str | None
    idempotency_key: str | None
    authorization: str | None
    """Masked: ``Bearer sk_test_***``."""


@dataclass(slots=True)
class _Fault:
    """What happens to the next ``times`` requests for ``path``, or for any path."""

    path: str | None
    times: int
    strike: Callable[[Request], Response | None]

    def hits(self, path: str) -> bool:
        return self.times > 0 and self.path in {None, path}


class StripeApi:
    """The stand-in. All methods can be called from any thread, before and while it serves."""

    def __init__(self, source: Callable[[str], Mapping[str, Any] | None] | None = None) -> None:
        """Begin with nothing to serve and no faults.

        ``source`` is asked for a path that nothing was put for; with ``None`` it is not found.
        """
        self._source = source or (lambda _: None)
        self._lock = threading.Lock()
        self._bodies: dict[str, bytes | None] = {}
        self._faults: list[_Fault] = []
        self.events = EventList()
        self._holds: list[threading.Event] = []
        self._asked: list[Asked] = []
        self._url: str | None = None
        self.destinations = Destinations(self.put_event)
        self.clock_ahead: int | None = 0
        """Seconds by which the ``Date`` of each answer is ahead; ``None`` for one that is none."""

    @property
    def url(self) -> str:
        """The address while it serves, for ``STRIPE_API_BASE``. ``RuntimeError`` otherwise."""
        if self._url is None:
            raise RuntimeError("The stand-in has an address only inside `with api.serve():`")
        return self._url

    @property
    def asked(self) -> list[Asked]:
        """Everything that was asked so far, failed requests included, in order of arrival."""
        with self._lock:
            return list(self._asked)

    def put(self, path: str, body: Mapping[str, Any]) -> None:
        """Answer requests for ``path`` with ``body`` from now on."""
        with self._lock:
            self._bodies[path] = json.dumps(body).encode()

    def put_event(self, event: Mapping[str, Any]) -> None:
        """Serve a full event (see ``samples.event``) at ``/v2/core/events/{id}``, and list it."""
        self.events.put(event)
        self.put(f"/v2/core/events/{event['id']}", event)

    def put_related_object(self, notification: Mapping[str, Any], **fields: object) -> None:
        """Serve the related object of ``notification``, with ``fields``, at its own address."""
        body = samples.api_object(notification, **fields)
        self.put(notification["related_object"]["url"], body)

    def offer(
        self,
        notification: Mapping[str, Any],
        data: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Serve the event and the related object of ``notification``, filled with place holders.

        ``data`` of the event and ``fields`` of the object stand in their places. What was put or
        removed before stays as it is.
        """
        event = placeholders.event(notification, data)
        offered = {f"/v2/core/events/{notification['id']}": event}
        if "related_object" in notification:
            related = placeholders.api_object(notification, **(fields or {}))
            offered[notification["related_object"]["url"]] = related
        with self._lock:
            for path, body in offered.items():
                self._bodies.setdefault(path, json.dumps(body).encode())

    def remove(self, path: str) -> None:
        """Answer requests for ``path`` with 404 from now on, like those for a deleted object."""
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

        Faults apply in the order in which they were asked for. The SDK repeats 5xx and 409, and
        429 only with the header ``Stripe-Should-Retry: true``.
        """
        self._add(_Fault(path, times, lambda request: _error(request, status, headers)))

    def hold(self, path: str | None = None, *, times: int = 1) -> threading.Event:
        """Let the next ``times`` requests for ``path``, or for any, wait, as in a time-out.

        They are answered as soon as the returned event is set, or the stand-in ends.
        """
        release = threading.Event()
        with self._lock:
            self._holds.append(release)
        self._add(_Fault(path, times, lambda _: _wait(release)))
        return release

    def reset(self, path: str | None = None, *, times: int = 1) -> None:
        """Reset the connection of the next ``times`` requests for ``path``, or for any."""
        self._add(_Fault(path, times, _reset))

    def heal(self) -> None:
        """Forget the faults that were asked for and have not struck yet."""
        with self._lock:
            self._faults.clear()

    def garble(
        self, path: str | None = None, *, body: bytes = b"<html>", status: int = 200, times: int = 1
    ) -> None:
        """Answer the next ``times`` requests for ``path``, or for any, as no API of Stripe's would.

        ``body`` is sent as it stands, as a proxy on the way might.
        """
        self._add(_Fault(path, times, lambda _: _json(body, status)))

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[StripeApi]:
        """Serve on 127.0.0.1 from a thread of its own; port 0 takes one that is free.

        Requests that are still held when the block ends are let go.
        """
        server = make_server(HOST, port, self, threaded=True, request_handler=_Silent)
        thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
        self._url = f"http://{HOST}:{server.port}"
        thread.start()
        try:
            yield self
        finally:
            self._url = None
            self._release()
            server.shutdown()
            thread.join()
            self.destinations.close()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request: this object is the WSGI app."""
        request = Request(environ)
        fault = self._record(request)
        struck = fault.strike(request) if fault else None
        response = struck or self._find(request)
        return response(environ, start_response)

    def _add(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _record(self, request: Request) -> _Fault | None:
        """Remember the request, and use up the fault that is meant for it, if there is one."""
        with self._lock:
            self._asked.append(_asked(request))
            fault = next((fault for fault in self._faults if fault.hits(request.path)), None)
            if fault:
                fault.times -= 1
            return fault

    def _find(self, request: Request) -> Response:
        if (page := self.events.answer(request)) is not None:
            return page
        with self._lock:
            body = self._bodies.get(request.path)
            is_put = request.path in self._bodies  # a removed one is, as nothing
        if is_put:
            return _error(request, 404) if body is None else _json(body)
        if answer := self.destinations.answer(request):
            return answer
        made = self._source(request.path)
        return _error(request, 404) if made is None else _json(json.dumps(made).encode())

    def _release(self) -> None:
        with self._lock:
            for release in self._holds:
                release.set()


class _Silent(WSGIRequestHandler):
    """Handles a connection without a line of log for each request."""

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - named by werkzeug
        """Drop the line: ``StripeApi.asked`` remembers the request."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the ``Date`` of an answer, by the stand-in's own clock."""
        ahead: int | None = cast("Any", self.server).app.clock_ahead
        if ahead is None:
            return "today"
        return super().date_time_string((timestamp or time.time()) + ahead)

    def connection_dropped(
        self,
        error: BaseException,  # noqa: ARG002 - named by werkzeug
        environ: WSGIEnvironment | None = None,  # noqa: ARG002 - named by werkzeug
    ) -> None:
        """Do not wait for a second request on a connection that was reset."""
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
    """Keep of a key only what says its kind and mode."""
    if authorization is None:
        return None
    kind = re.match(r"Bearer ([sr]k_(?:live|test)_)?", authorization)
    return f"{kind[0] if kind else ''}***"


def _error(request: Request, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Answer in the form in which the SDK expects errors of the version that was asked.

    (https://docs.stripe.com/api/errors)
    """
    version2 = request.path.startswith("/v2/")
    error = {
        "type": "api_error" if status >= 500 else "invalid_request_error",  # noqa: PLR2004 - HTTP's own numbers
        "code": (V2_CODES if version2 else CODES).get(status),
        "message": f"The stand-in answers {status} to {request.method} {request.path}",
    }
    if version2 and status == 429:  # noqa: PLR2004 - HTTP's own numbers
        error["type"] = "rate_limit"
    body = {"error": {name: value for name, value in error.items() if value}}
    return _json(json.dumps(body).encode(), status, headers)


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, dict(headers or {}), content_type="application/json")


def _wait(release: threading.Event) -> None:
    """Wait, then let the request be answered as usual."""
    release.wait()


def _reset(request: Request) -> Response:
    """Close the connection so that the client gets a reset, not an end."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())
    raise ConnectionResetError(f"{request.path} was to be reset")
