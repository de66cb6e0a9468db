"""Errors of Stripe's API, as one sentence that says what to do."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

import stripe

from app.text import printable

T = TypeVar("T")

#: Secrets in a message of Stripe's. No output may contain a part of one.
_SECRET = re.compile(r"\b((?:[prs]k_(?:live|test)|whsec)_)[^\s'\",;]+")

NOT_STRIPE = (
    "The answer is not from Stripe's API: it is not the JSON that Stripe sends. Check"
    " STRIPE_API_BASE and your proxies"
)
_STATUS_PAGE = "See https://status.stripe.com, and try again later"


class StripeFailed(Exception):
    """Stripe's API failed or refused. The text is the sentence to show.

    It may quote an answer, so it is made printable.
    """


@contextmanager
def explained() -> Iterator[None]:
    """Turn every error of the SDK inside the block into a ``StripeFailed``."""
    try:
        yield
    except stripe.StripeError as error:
        raise StripeFailed(printable(sentence(error))) from error
    except Exception as error:
        # The SDK raises arbitrary errors for JSON in another form, and for missing fields.
        if not _is_of_the_sdk(error):
            raise
        raise StripeFailed(NOT_STRIPE) from error


def checked(answer: T, kind: type[stripe.StripeObject] = stripe.StripeObject) -> T:
    """Return ``answer`` if it is an object of this ``kind``.

    The SDK promises the type but returns any JSON. Raises ``stripe.APIError`` for another type.
    """
    if not isinstance(answer, kind):
        raise stripe.APIError("the answer has another type", http_status=HTTPStatus.OK)
    return answer


def sentence(error: stripe.StripeError) -> str:
    """Return what ``error`` means and what to do, in one or two sentences without secrets."""
    if isinstance(error, stripe.APIConnectionError):
        return _no_answer(error)
    status = error.http_status or 0
    if status < HTTPStatus.BAD_REQUEST or error.error is None:
        return NOT_STRIPE
    return f"{_refused(error, status)}{_request_id(error)}"


def _is_of_the_sdk(error: Exception) -> bool:
    """Return true if the SDK's code raised ``error``, and not ours."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__")).startswith("stripe.")


def _refused(error: stripe.StripeError, status: int) -> str:
    """Return the meaning of an error that Stripe's API answered."""
    message = clean(error.user_message or "it gave no reason")
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            "Stripe does not accept the API key (401). Check STRIPE_API_KEY: it may have been"
            " rolled or deleted, see https://dashboard.stripe.com/apikeys"
        )
    if status == HTTPStatus.FORBIDDEN:
        return (
            f"The API key may not do this (403): {message}. Give the restricted key the permission"
            " at https://dashboard.stripe.com/apikeys"
        )
    if status == HTTPStatus.NOT_FOUND:
        return (
            f"Stripe does not have it (404): {message}. Check the id, and that STRIPE_API_KEY is of"
            " the same account and mode"
        )
    if isinstance(error, stripe.RateLimitError):
        return "Stripe's rate limit is reached (429). Wait a minute, and run the command again"
    if status == HTTPStatus.CONFLICT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"Stripe's API failed ({status}) at every attempt. {_STATUS_PAGE}"
    return f"Stripe's API refused the request ({status}): {message}"


def clean(message: str) -> str:
    """Return a text of Stripe's on one line, without its full stop, with all keys masked."""
    return _SECRET.sub(r"\1***", " ".join(message.split())).rstrip(".")


def _request_id(error: stripe.StripeError) -> str:
    return f" (request {error.request_id})" if error.request_id else ""


def _no_answer(error: stripe.APIConnectionError) -> str:
    """Return the reason of a failed connection, from the cause that the SDK keeps."""
    cause = error.__cause__
    name = type(cause).__name__
    if "Timeout" in name:
        return f"Stripe's API did not answer in time at any attempt. {_STATUS_PAGE}"
    if name == "SSLError":
        return (
            "The certificate of the server that answered for Stripe's API cannot be verified."
            " Check STRIPE_API_BASE and your proxies"
        )
    reason = next((word for sign, word in _REASONS.items() if sign in str(cause)), "no connection")
    return (
        f"Stripe's API cannot be reached: {reason}. Check the network, your proxies and"
        " STRIPE_API_BASE"
    )


#: Parts of the text of a connection error, and what they mean.
_REASONS = {
    "Connection refused": "the connection was refused",
    "Connection reset": "the connection broke off",
    "ConnectionResetError": "the connection broke off",
    "Remote end closed": "the connection broke off",
    "NameResolutionError": "its name cannot be resolved",
    "Failed to resolve": "its name cannot be resolved",
}
