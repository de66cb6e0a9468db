"""Verifies the signature of a delivery (https://docs.stripe.com/webhooks#verify-manually)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import stripe

from app.errors import Refused

#: The maximum age of a signature in seconds, and how far ahead of this machine's clock it may be.
#: The SDK checks the age only (https://docs.stripe.com/webhooks#replay-attacks).
TOLERANCE = 300


def verify(body: bytes, signature: str | None, secrets: Sequence[str]) -> int:
    """Return the position, from 1, of the secret that signed ``body``.

    ``signature`` is the ``Stripe-Signature`` header, None without one. Raises ``Refused`` when no
    secret matches, or when the signature is too old or from the future.
    """
    if not signature:
        raise Refused("the Stripe-Signature header is missing", reason="signature_missing")
    for position, secret in enumerate(secrets, start=1):
        if _matches(body, signature, secret):
            _refuse_future(signature)
            return position
    raise Refused("the signature does not match the body", reason="signature_mismatch")


def _matches(body: bytes, signature: str, secret: str) -> bool:
    """Return whether ``secret`` made the signature.

    Raises ``Refused`` if the header is malformed or too old, whatever the secret.
    """
    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE)
    except stripe.SignatureVerificationError as error:
        message = str(error)
        if message.startswith("No signatures found matching"):
            return False
        if message.startswith("Timestamp outside"):  # the SDK checks the age after the signature
            raise Refused("the signature is too old", reason="signature_stale") from None
        raise _malformed() from None
    except UnicodeDecodeError:
        raise Refused("the body is not UTF-8", reason="body_not_utf8") from None
    except TypeError:  # hmac.compare_digest() raises it for a character outside ASCII
        raise _malformed() from None
    return True


def _malformed() -> Refused:
    return Refused("the Stripe-Signature header is malformed", reason="signature_malformed")


def _refuse_future(signature: str) -> None:
    """Raise ``Refused`` if the timestamp is too far ahead of this machine's clock."""
    pairs = [item.split("=", 2) for item in signature.split(",")]
    timestamp = int(next(pair[1] for pair in pairs if pair[0] == "t"))
    if timestamp > time.time() + TOLERANCE:
        raise Refused("the signature is from the future", reason="signature_from_future")
