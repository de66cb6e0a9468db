"""The StripeClient that callbacks get, and that the CLI uses."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import stripe

from app.inbox import Inbox
from app.settings import Settings
from app.stripe_api import fetch_cache
from app.stripe_api.rate_limiter import RateLimiter

#: Seconds to connect, and seconds to wait for an answer. The SDK's own 80 s would hold a
#: thread, and the delivery that waits for it, far longer than Stripe waits for us.
TIMEOUT = (3, 8)

#: The SDK repeats nothing by default. It repeats connection errors, 409 and 5xx, each with
#: the same idempotency key (https://docs.stripe.com/error-low-level#idempotency).
MAX_NETWORK_RETRIES = 2

#: The header that ``notif.fetch_event()`` and ``notif.fetch_related_object()`` send, and nothing
#: else does. What a callback asks for by other ways it may want to ask twice, to see a change.
TRIGGER = "Stripe-Request-Trigger"

#: What makes the same address mean another object, beside the address.
IDENTITY = ("Authorization", "Stripe-Context", "Stripe-Account", "Stripe-Version")

Answer = tuple[Any, int, Mapping[str, str]]


def build_client(settings: Settings, inbox: Inbox | None = None) -> stripe.StripeClient:
    """Return a client with the time-outs and retries of this service. It does not connect.

    With an ``inbox`` its requests keep to the budget that all share who have that inbox.
    Telemetry is off for the process: it writes a file to the home directory, which a
    container may not have, and then makes the first call fail.
    """
    stripe.enable_telemetry = False
    base = settings.stripe_api_base
    return stripe.StripeClient(
        settings.stripe_api_key,
        http_client=HTTPClient(_budget(settings, inbox)),
        max_network_retries=MAX_NETWORK_RETRIES,
        base_addresses={"api": base} if base else {},
    )


def _budget(settings: Settings, inbox: Inbox | None) -> RateLimiter | None:
    if inbox is None or not settings.requests_per_second:
        return None
    mode = "live" if settings.livemode else "test"
    return RateLimiter(inbox, settings.requests_per_second, mode=mode)


class HTTPClient(stripe.RequestsClient):
    """The SDK's own client, which keeps to a budget and fetches an object once in a run.

    Each try of a request is one for the budget: the SDK repeats what failed.
    """

    def __init__(self, budget: RateLimiter | None) -> None:
        """Take the ``budget``, or none to have no limit."""
        super().__init__(timeout=TIMEOUT)
        self._budget = budget

    def request(  # type: ignore[override]  # as in RequestsClient: nobody gives _usage
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> Answer:
        """Make one request, or answer it from what this run has fetched."""
        answers = fetch_cache.answers()
        if answers is None:
            return self._ask(method, url, headers, post_data)
        if method.lower() != "get":
            answers.clear()  # what was fetched before may no longer be so
            return self._ask(method, url, headers, post_data)
        if headers is None or TRIGGER not in headers:
            return self._ask(method, url, headers, post_data)
        key = (url, *(headers.get(name) for name in IDENTITY))
        if key in answers:
            kept: Answer = answers[key]
            return kept
        answer = self._ask(method, url, headers, post_data)
        if answer[1] == HTTPStatus.OK:
            answers[key] = answer
        return answer

    def request_stream(  # type: ignore[override]  # the same
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> Answer:
        """Make one request whose answer is read piece by piece."""
        if self._budget:
            self._budget.wait(method, url)
        return self._note(super().request_stream(method, url, headers, post_data))

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any
    ) -> Answer:
        if self._budget:
            self._budget.wait(method, url)
        return self._note(super().request(method, url, headers, post_data))

    def _note(self, answer: Answer) -> Answer:
        _, status, headers = answer
        if self._budget and status == HTTPStatus.TOO_MANY_REQUESTS:
            self._budget.slow_down(headers.get("Retry-After"))
        return answer
