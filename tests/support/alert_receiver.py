"""A receiver of alerts: it records the requests, verifies their signatures, and fails on demand."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from werkzeug import Request, Response

from devkit.http_server import HOST, serving

KEY = b"a key of the tests, 32 bytes ..."
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@dataclass(frozen=True)
class Received:
    """One request. ``is_signed``: its signature is the one of ``SECRET``."""

    id: str
    body: dict[str, Any]
    headers: dict[str, str]
    is_signed: bool


class AlertReceiver:
    """The receiver. It answers with ``answers`` first, and then with 200."""

    def __init__(self, port: int) -> None:
        """Take the port on which it serves."""
        self.url = f"http://{HOST}:{port}/services/MarkerOfAlertUrl"
        self.answers: list[Response] = []
        self.received: list[Received] = []
        self._may_answer = threading.Event()
        self._may_answer.set()

    def hold(self) -> None:
        """Answer no request until ``release``."""
        self._may_answer.clear()

    def release(self) -> None:
        """Answer the requests that wait, and all others."""
        self._may_answer.set()

    def take(self, received: Received) -> Response:
        """Record a request, and return the answer to it."""
        self.received.append(received)
        self._may_answer.wait()
        return self.answers.pop(0) if self.answers else Response("ok")

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of all requests."""
        return [each.body for each in self.received]

    @property
    def texts(self) -> list[str]:
        """The texts of all requests."""
        return [each["text"] for each in self.bodies]

    @property
    def states(self) -> list[tuple[str, str]]:
        """Alert and state of all requests."""
        return [(each["alert"], each["state"]) for each in self.bodies]


@contextmanager
def receiving() -> Iterator[AlertReceiver]:
    """Serve a receiver until the end of the block."""
    found: list[AlertReceiver] = []

    @Request.application
    def app(request: Request) -> Response:
        data = request.get_data()
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = _is_signed(headers, data)
        return found[0].take(Received(headers["webhook-id"], json.loads(data), headers, signed))

    with serving(app) as port:
        found.append(AlertReceiver(port))
        yield found[0]


def _is_signed(headers: dict[str, str], body: bytes) -> bool:
    """Verify the signature as a receiver does that knows https://www.standardwebhooks.com."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    return headers.get("webhook-signature") == f"v1,{wanted}"
