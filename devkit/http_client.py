"""Requests of the devkit: deliveries as Stripe makes them, and objects for the stand-in."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds to wait for an answer: in inline mode it comes after the callback.
ANSWER_SECONDS = 60

#: The headers of a delivery by Stripe, without the signature.
HEADERS = {
    "Content-Type": "application/json; charset=utf-8",
    "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a delivery. ``outcome`` is the error if it was refused."""

    status: int
    outcome: str
    milliseconds: float


def post(url: str, body: bytes, signature: str) -> Answer:
    """Deliver ``body`` to ``url`` as Stripe does, and wait for the answer.

    ``http.client`` follows no redirect, does not retry, returns any status, and uses no proxy.
    Raises ``OSError`` or ``HTTPException`` if there is no answer.
    """
    begin = time.perf_counter()
    status, content = _request("POST", url, body, {**HEADERS, "Stripe-Signature": signature})
    return Answer(status, _outcome(content), (time.perf_counter() - begin) * 1000)


def put(url: str, api_object: Mapping[str, Any]) -> int:
    """Let a stand-in for Stripe's API serve ``api_object`` at ``url``. Returns the status.

    It is 201 if the stand-in is one of the devkit. Raises as ``post`` does.
    """
    status, _ = _request("PUT", url, json.dumps(api_object).encode(), {})
    return status


def _request(method: str, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Return the status and the content of the answer."""
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    with closing(connect(parts.netloc, timeout=ANSWER_SECONDS)) as connection:
        connection.request(method, target, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()


def _outcome(content: bytes) -> str:
    """Return the outcome or the error in an answer of this service."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return "no JSON: is this the service's /webhook?"
    return str(answer.get("outcome") or answer.get("error"))
