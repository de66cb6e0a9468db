"""Sends one message to ``ALERT_URL``. This is the only module outside of ``app/web`` with HTTP."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from http import HTTPStatus

import requests

from app.alerts import signing
from app.text import Redact, printable, redactor, url_secrets

#: Seconds to connect, and seconds without a byte of the answer.
TIMEOUT = (3, 8)

#: Seconds for the whole request. Neither the resolution of a name nor an answer that arrives byte
#: by byte is limited by ``TIMEOUT``.
DEADLINE_SECONDS = 15.0

#: The bytes of an answer that are read, and the characters that are shown.
ANSWER_BYTES = 4096
SHOWN_LENGTH = 200

#: Parts of the text of a connection error, and what they mean. The text itself holds the URL, which
#: is a secret.
_REASONS = {
    "Connection refused": "the connection was refused",
    "Connection reset": "the connection broke off",
    "ConnectionResetError": "the connection broke off",
    "Remote end closed": "the connection broke off",
    "RemoteDisconnected": "the connection broke off",
    "NameResolutionError": "its name cannot be resolved",
    "Failed to resolve": "its name cannot be resolved",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request: whether it was taken, and what came back, in a few words."""

    is_taken: bool
    text: str


class Poster:
    """Posts messages to one URL. Its requests never take longer than ``DEADLINE_SECONDS``."""

    def __init__(self, url: str, secret: str | None) -> None:
        """Take the ``url``, and the ``secret`` of the signature or None."""
        self._url = url
        self._secret = secret
        self._redact = redactor(url_secrets(url))
        self._unanswered: threading.Thread | None = None

    def post(self, message_id: str, body: bytes) -> Answer:
        """Post a JSON ``body``, signed. No error leaves this method."""
        if self._unanswered is not None and self._unanswered.is_alive():
            return Answer(is_taken=False, text="the last request has no answer yet")
        answers: list[Answer] = []
        # A thread can be left alone at the deadline. A blocked request cannot be ended.
        request = threading.Thread(
            target=lambda: answers.append(self._post(message_id, body)), daemon=True
        )
        request.start()
        request.join(DEADLINE_SECONDS)
        if answers:
            return answers[0]
        self._unanswered = request
        return Answer(is_taken=False, text=_no_answer(DEADLINE_SECONDS))

    def _post(self, message_id: str, body: bytes) -> Answer:
        headers = signing.headers(message_id, int(time.time()), body, self._secret)
        headers |= {"Content-Type": "application/json", "User-Agent": "stripe-event-receiver"}
        try:
            with requests.Session() as session:
                # Without it, the credentials of the user's .netrc would be sent.
                session.auth = _no_credentials
                response = session.post(
                    self._url,
                    data=body,
                    headers=headers,
                    timeout=TIMEOUT,
                    allow_redirects=False,
                    stream=True,
                )
                with response:
                    return _answer(response, self._redact)
        except requests.Timeout:
            return Answer(is_taken=False, text=_no_answer(TIMEOUT[1]))
        except requests.exceptions.SSLError:
            return Answer(is_taken=False, text="its certificate cannot be verified")
        except Exception as error:  # noqa: BLE001 - urllib3 raises errors of its own too
            reason = next((word for sign, word in _REASONS.items() if sign in str(error)), None)
            return Answer(is_taken=False, text=reason or type(error).__name__)


def _no_answer(seconds: float) -> str:
    return f"no answer within {seconds:g} s"


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _answer(response: requests.Response, redact: Redact) -> Answer:
    """Return the status with the begin of the body, redacted. A redirect is not followed."""
    status = redact(f"{response.status_code} {response.reason}".strip())
    if HTTPStatus.MULTIPLE_CHOICES <= response.status_code < HTTPStatus.BAD_REQUEST:
        return Answer(is_taken=False, text=f"{status}: redirects are not followed")
    read = response.raw.read(ANSWER_BYTES, decode_content=False)
    words = redact(" ".join(read.decode("utf-8", "replace").split()))
    text = printable(words)[:SHOWN_LENGTH]
    is_taken = response.status_code < HTTPStatus.MULTIPLE_CHOICES
    return Answer(is_taken, f"{status}: {text}" if text else status)
