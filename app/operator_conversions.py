"""Conversions of the operator's settings, as in ``conversions``."""

from __future__ import annotations

import base64
import binascii
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from app.conversions import seconds

#: The minimum of characters of a token, and of different ones among them. Of 32 random hexadecimal
#: digits, fewer than 8 are different once in ten million tokens.
TOKEN_LENGTH = 32
TOKEN_VARIETY = 8


def token(value: str) -> str:
    """Accept a token of the operations page, and return an empty text for none.

    The messages never hold the token.
    """
    if not value:
        return ""
    if not value.isascii() or " " in value:  # HTTP clients disagree about their encoding
        raise ValueError("has a space, or a character that is not ASCII. Use letters and digits")
    if len(value) < TOKEN_LENGTH or len(set(value)) < TOKEN_VARIETY:
        raise ValueError(
            f"is too easy to guess. Use {TOKEN_LENGTH} random characters or more, as `openssl rand"
            " -hex 32` prints them"
        )
    return value


def page_url(value: str) -> str | None:
    """Accept the URL before ``/ops``, also with it. Returns None for an empty text."""
    if not value:
        return None
    parts = _web_url(value, "https://your.host")
    if parts.query or parts.fragment:
        raise ValueError("has a ? or a #. Use a URL like https://your.host, without /ops")
    return value.rstrip("/").removesuffix("/ops")


def alert_url(value: str) -> str | None:
    """Accept an https URL, or any URL of this machine. Returns None for an empty text.

    The messages never hold the URL: that of Slack is a secret.
    """
    if not value:
        return None
    parts = _web_url(value, "https://hooks.slack.com/services/...")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ValueError("is not https, so others could read and change alerts. Use https")
    return value


def _web_url(value: str, example: str) -> SplitResult:
    """Return the parts of a URL of the web. The message of an error does not hold the URL."""
    try:
        parts = urlsplit(value)
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # an open bracket, or a port that is no number
        parts, valid = urlsplit(""), False
    if not valid or " " in value:
        raise ValueError(f"is not a URL like {example}")
    if "@" in parts.netloc:
        raise ValueError("has a user or a password before @. Remove it")
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def alert_secret(value: str) -> str | None:
    """Accept a secret of Standard Webhooks, and return None for an empty text."""
    if not value:
        return None
    try:
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not (value.startswith("whsec_") and 24 <= len(key) <= 64):  # noqa: PLR2004 - as specified
        raise ValueError(
            "is not whsec_ and 24 to 64 bytes in Base64. Make one with"
            " `echo whsec_$(openssl rand -base64 32)`"
        )
    return value


def interval(value: str) -> float:
    """Accept seconds between two rounds: a minute or more, or 0 for none."""
    given = seconds(0, 86400)(value)
    if 0 < given < 60:  # noqa: PLR2004 - a minute
        raise ValueError(f"is {value!r}. Use seconds from 60 to 86400, or 0 for never")
    return given


def share(value: str) -> float:
    """Accept a share from 0 to 1."""
    try:
        given = float(value)
    except ValueError:
        given = float("nan")
    if not 0 <= given <= 1:
        raise ValueError(f"is {value!r}. Use a share from 0 to 1, such as 0.2")
    return given
