"""The headers of a signed message (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac

#: The prefix of a secret. The rest is its key in Base64.
PREFIX = "whsec_"


def headers(message_id: str, timestamp: int, body: bytes, secret: str | None) -> dict[str, str]:
    """Return the headers of one try to send a message. They hold a signature if there is a secret.

    A repeated message has the same ``message_id``. ``timestamp`` is the time of this try, in
    seconds since the epoch.
    """
    found = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if secret:
        key = base64.b64decode(secret.removeprefix(PREFIX))
        signed = f"{message_id}.{timestamp}.".encode() + body
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        found["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return found
