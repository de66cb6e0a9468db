"""The StripeClient of callbacks and of the CLI."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

import stripe

from app.settings import Settings
from app.stripe_api import fetch_cache
from app.stripe_api.rate_limiter import RateLimiter
from app.tracing.spans import Tracing

#: Seconds to connect, and seconds to wait for an answer. The SDK's default of 80 s would block a
#: thread and its delivery far longer than Stripe waits for an answer.
TIMEOUT = (3, 8)

#: By default the SDK repeats nothing. It repeats connection errors, 409 and 5xx, each with the
#: same idempotency key (https://docs.stripe.com/error-low-level#idempotency).
MAX_NETWORK_RETRIES = 2

#: The header that only ``notif.fetch_event()`` and ``notif.fetch_related_object()`` send. A
#: callback may repeat any other request to see a change, so no other is answered from the cache.
TRIGGER = "Stripe-Request-Trigger"

#: The header that names the account of a request (https://docs.stripe.com/context).
CONTEXT = "Stripe-Context"
#: The older header for it. Stripe prefers the context to it.
ACCOUNT = "Stripe-Account"

#: The headers on which the object at a URL depends.
IDENTITY = ("Authorization", CONTEXT, ACCOUNT, "Stripe-Version")

Answer = tuple[Any, int, Mapping[str, str]]


def _ignore(_status: str) -> None:
    """Do nothing with the status of a request."""


def build_client(
    settings: Settings,
    rate_limiter: RateLimiter | None = None,
    on_request: Callable[[str], object] = _ignore,
    tracing: Tracing | None = None,
) -> stripe.StripeClient:
    """Return a client with the time-outs and retries of this service. It does not connect.

    Without a ``rate_limiter`` its requests have no limit, and without ``tracing`` no spans.
    ``on_request`` is called with the HTTP status of each request, or with ``error`` if there was no
    answer. Telemetry is off for the process: it writes a file to the home directory, and the first
    call fails in a container without one.
    """
    stripe.enable_telemetry = False
    base = settings.stripe_api_base
    return stripe.StripeClient(
        settings.stripe_api_key,
        http_client=HTTPClient(rate_limiter, settings.stripe_context, on_request, tracing),
        max_network_retries=MAX_NETWORK_RETRIES,
        base_addresses={"api": base} if base else {},
    )


def read_only(client: stripe.StripeClient) -> stripe.StripeClient:
    """Return a client like this one that refuses each request which could change something.

    So do the clients that the SDK derives from it. They share its connections.
    """
    requestor = client._requestor  # noqa: SLF001 - as in ``StripeClient.with_stripe_context``
    http_client = cast("HTTPClient", copy.copy(requestor._client))  # noqa: SLF001 - the same
    http_client.reads_only = True
    options = requestor._options  # noqa: SLF001 - the same
    return stripe.StripeClient(
        str(options.api_key),
        stripe_version=options.stripe_version,
        base_addresses=options.base_addresses or {},
        max_network_retries=options.max_network_retries,
        http_client=http_client,
    )


class WriteRefused(Exception):
    """A module with ``SHADOW = True`` made a request that could change something at Stripe."""


class HTTPClient(stripe.RequestsClient):
    """The SDK's client with a rate limit. It fetches an event or a related object once in a run.

    The SDK repeats failed requests. The rate limiter counts each try.

    Requests without a context get the default one. The SDK's own option is not enough: the client
    of a callback has the context of its event, or none.
    """

    def __init__(
        self,
        rate_limiter: RateLimiter | None,
        default_context: str | None = None,
        on_request: Callable[[str], object] = _ignore,
        tracing: Tracing | None = None,
    ) -> None:
        """Take the ``rate_limiter``, or None to have no limit, and the default context or None.

        ``on_request`` is the one of ``build_client``.
        """
        super().__init__(timeout=TIMEOUT)
        self.reads_only = False
        self._rate_limiter = rate_limiter
        self._default_context = default_context
        self._on_request = on_request
        self._tracing = tracing or Tracing()

    def request(  # type: ignore[override]  # as in RequestsClient, which has no _usage either
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> Answer:
        """Make one request, or answer it from the cache of this run."""
        headers = self._in_context(headers)
        cache = fetch_cache.current()
        if cache is None:
            return self._ask(method, url, headers, post_data)
        if method.lower() != "get":
            cache.clear()  # the request may change what was fetched
            return self._ask(method, url, headers, post_data)
        if headers is None or TRIGGER not in headers:
            return self._ask(method, url, headers, post_data)
        key = (url, *(headers.get(name) for name in IDENTITY))
        if key in cache:
            cached: Answer = cache[key]
            return cached
        answer = self._ask(method, url, headers, post_data)
        if answer[1] == HTTPStatus.OK:
            cache[key] = answer
        return answer

    def request_stream(  # type: ignore[override]  # the same
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> Answer:
        """Make one request whose answer is read in pieces."""
        headers = self._in_context(headers)
        return self._send(super().request_stream, method, url, headers, post_data)

    def _in_context(self, headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Return ``headers`` with the default context, if there is one and they name no account."""
        given = headers or {}
        if self._default_context is None or CONTEXT in given or ACCOUNT in given:
            return headers
        return {**given, CONTEXT: self._default_context}

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any
    ) -> Answer:
        return self._send(super().request, method, url, headers, post_data)

    def _send(
        self,
        send: Callable[..., Answer],
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any,
    ) -> Answer:
        """Make one request within the rate limit. A 429 slows the rate limiter down."""
        if self.reads_only and method.lower() != "get":
            raise WriteRefused(
                f"{method.upper()} {urlsplit(url).path} was not sent: the handler module has"
                " SHADOW = True, so its client only reads"
            )
        if self._rate_limiter:
            self._rate_limiter.wait(method, url)
        with self._tracing.request(method, url) as span:
            try:
                answer = send(method, url, headers, post_data)
            except stripe.APIConnectionError:
                self._on_request("error")
                raise
            _, status, answer_headers = answer
            span.answered(status, answer_headers)
        self._on_request(str(status))
        if self._rate_limiter and status == HTTPStatus.TOO_MANY_REQUESTS:
            self._rate_limiter.slow_down(answer_headers.get("Retry-After"))
        return answer
