"""The StripeClient that callbacks get, and that the CLI uses."""

from __future__ import annotations

import stripe

from app.settings import Settings

#: Seconds to connect, and seconds to wait for an answer. The SDK's own 80 s would hold a
#: thread, and the delivery that waits for it, far longer than Stripe waits for us.
TIMEOUT = (3, 8)

#: The SDK repeats nothing by default. It repeats connection errors, 409 and 5xx, each with
#: the same idempotency key (https://docs.stripe.com/error-low-level#idempotency).
MAX_NETWORK_RETRIES = 2


def build_client(settings: Settings) -> stripe.StripeClient:
    """Return a client with the time-outs and retries of this service. It does not connect.

    Telemetry is off for the process: it writes a file to the home directory, which a
    container may not have, and then makes the first call fail.
    """
    stripe.enable_telemetry = False
    base = settings.stripe_api_base
    return stripe.StripeClient(
        settings.stripe_api_key,
        http_client=stripe.RequestsClient(timeout=TIMEOUT),
        max_network_retries=MAX_NETWORK_RETRIES,
        base_addresses={"api": base} if base else {},
    )
