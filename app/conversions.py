"""Conversions of settings: each takes the text of a variable, and raises ``ValueError``.

The message of the error follows the name of the variable: "PORT is '0'. Use ...".
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

LIVE_PREFIXES = ("sk_live_", "rk_live_")
TEST_PREFIXES = ("sk_test_", "rk_test_")
#: The prefix of an organization's keys, live or test (docs.stripe.com/keys/organization-api-keys).
ORGANIZATION_PREFIX = "sk_org_"
PLACEHOLDER = "whsec_replace_me"
#: The minimum of characters of a token, and of different ones among them. Of 32 random hexadecimal
#: digits, fewer than 8 are different once in ten million tokens.
TOKEN_LENGTH = 32
TOKEN_VARIETY = 8
#: Stripe lists and resends an event for 30 days. An inbox that has removed it would run it again.
MIN_RETENTION_DAYS = 31
#: Digits of a number. Python converts no more than 4,300.
MOST_DIGITS = 20
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*")


def visible(value: str) -> str:
    """Accept a text for any setting. Raises ``ValueError`` for what a person cannot see in it."""
    for position, character in enumerate(value, start=1):
        if not character.isprintable():
            raise ValueError(
                f"has {_name(character)} at position {position}, which cannot be seen. Remove it"
            )
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        raise ValueError(
            "has quotes around it, which are a part of the value: only .env may have them, and"
            " `docker run --env-file` keeps them. Remove them"
        )
    return value


def _name(character: str) -> str:
    """Return the code point and the name of a character: ``U+200B (ZERO WIDTH SPACE)``."""
    name = unicodedata.name(character, "a control character")
    return f"U+{ord(character):04X} ({name})"


def _check_characters(value: str, which: str = "") -> None:
    """Refuse what no key and no secret of Stripe's has. The message does not hold the value."""
    if len(value.split()) > 1:
        raise ValueError(
            f"{which}has white space inside. Copy it again as one word; separate several secrets"
            " with commas"
        )
    for position, character in enumerate(value, start=1):
        if not character.isascii() or character in "\"'`\\":
            raise ValueError(
                f"{which}has {_name(character)} at position {position}, which Stripe never uses."
                " Copy it again"
            )


def api_key(value: str) -> str:
    """Accept a secret or restricted key."""
    if not value:
        raise ValueError(
            "is not set. Take a secret or restricted key (sk_..., rk_...) from"
            " https://dashboard.stripe.com/apikeys; in a new clone `make run` makes a .env to begin"
            " with"
        )
    _check_characters(value)
    if not value.startswith((*LIVE_PREFIXES, *TEST_PREFIXES, ORGANIZATION_PREFIX)):
        raise ValueError(
            "does not begin with sk_live_, rk_live_, sk_test_, rk_test_ or sk_org_. The prefix says"
            " whether live or test events are run; a publishable key (pk_) cannot be used"
        )
    return value


def context(value: str) -> str | None:
    """Accept an account, or a path of accounts, and return None for an empty text."""
    if not value:
        return None
    if not re.fullmatch(r"\w+(/\w+)*", value, re.ASCII):
        raise ValueError("is not an account like acct_1, or a path like acct_1/acct_2")
    return value


def secrets(value: str) -> tuple[str, ...]:
    """Read one or more signing secrets, separated by commas."""
    found = tuple(part.strip() for part in value.split(",") if part.strip())
    if not found:
        raise ValueError(
            "is not set. Take the signing secret (whsec_...) of the event destination from"
            " https://dashboard.stripe.com/webhooks; separate several with commas"
        )
    for position, secret in enumerate(found, start=1):
        _check_secret(secret, position, found)
    return found


def _check_secret(secret: str, position: int, found: tuple[str, ...]) -> None:
    """Check the secret at ``position``. The messages never hold the secret itself."""
    which = f"(secret {position} of {len(found)})"
    _check_characters(secret, f"{which} ")
    if not secret.startswith("whsec_"):
        raise ValueError(
            f"{which} does not begin with whsec_. Copy the destination's signing secret,"
            " not its id and not an API key"
        )
    if secret in {"whsec_", PLACEHOLDER}:
        raise ValueError(
            f"{which} is a placeholder, which is public. Copy the whole signing secret;"
            " for a random one remove .env and call make run"
        )
    if found.index(secret) != position - 1:
        raise ValueError(f"{which} is the same as an earlier one. Remove it")


def api_base(value: str) -> str | None:
    """Accept a URL, and return None for an empty text."""
    if not value:
        return None
    try:
        parts = urlsplit(value)
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # an open bracket, or a port that is no number
        valid = False
    if not valid:
        raise ValueError("is not a URL like http://127.0.0.1:12111. Leave it empty to use Stripe")
    if "@" in value:
        raise ValueError(
            "has a user or a password before @, which logs and commands would show. Remove it"
        )
    return value.rstrip("/")


def schema(value: str) -> str | None:
    """Accept the name of a schema that needs no quotes, and return None for an empty text."""
    if not value:
        return None
    # Its name is a part of the name of a channel, which has up to 63 bytes.
    if not re.fullmatch(r"(?!pg_)[a-z_][a-z0-9_]{0,49}", value):
        raise ValueError(
            f"is {value!r}. Use up to 50 lower-case letters, digits and underscores, without pg_ at"
            " the beginning"
        )
    return value


def bind_host(value: str) -> str:
    """Accept an IP address, also in brackets, or a host name. Empty stays empty."""
    host = value.removeprefix("[").removesuffix("]")
    with contextlib.suppress(ValueError):
        if "%" not in host:  # gunicorn takes no scope of an address
            return str(ip_address(host)) if host else ""
    if HOST_NAME.fullmatch(host) and not host.replace(".", "").isdigit():
        return host
    raise ValueError(
        f"is {value!r}. Use an address like 127.0.0.1 or ::, or a host name; PORT has the port"
    )


def package(value: str) -> str:
    """Accept the dotted name of a package."""
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError(
            "is not the name of a Python package. Use a dotted name like team.handlers"
        )
    return value


def release(value: str) -> str:
    """Accept the name of a release: a version, or a commit. Empty stays empty."""
    if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._+:/@-]{0,99})?", value):
        raise ValueError(
            f"is {value!r}. Use up to 100 letters, digits and ._+:/@-, such as 1.4.2 or a commit"
        )
    return value


def one_of(*allowed: str) -> Callable[[str], str]:
    """Return a conversion that accepts one of the ``allowed`` words."""

    def convert(value: str) -> str:
        if value.lower() not in allowed:
            raise ValueError(f"is {value!r}. Use one of: {', '.join(allowed)}")
        return value.lower()

    return convert


def optional(convert: Callable[[str], str]) -> Callable[[str], str]:
    """Return a conversion that also accepts an empty text."""
    return lambda value: convert(value) if value else ""


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a conversion that accepts a whole number."""

    def convert(value: str) -> int:
        digits = value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS
        if not (digits and minimum <= int(value) <= maximum):
            raise ValueError(f"is {value!r}. Use a whole number from {minimum} to {maximum}")
        return int(value)

    return convert


def retention_days(value: str) -> int:
    """Accept a number of days, or 0 to keep events for ever."""
    days = whole_number(0, 36_500)(value)
    if 0 < days < MIN_RETENTION_DAYS:
        raise ValueError(
            f"is {value!r}. Use {MIN_RETENTION_DAYS} or more, or 0 to keep all events: Stripe"
            " resends an event for 30 days, and one that was removed would run again"
        )
    return days


def optional_port(value: str) -> int | None:
    """Accept a port, and return None for an empty text."""
    return whole_number(1, 65535)(value) if value else None


def rate_limit(value: str) -> int | None:
    """Accept requests a second, and return None for an empty text."""
    return whole_number(0, 10_000)(value) if value else None


def seconds(minimum: float, maximum: float) -> Callable[[str], float]:
    """Return a conversion that accepts a number of seconds."""

    def convert(value: str) -> float:
        try:
            given = float(value)
        except ValueError:
            given = float("nan")
        if not minimum <= given <= maximum:
            raise ValueError(f"is {value!r}. Use seconds from {minimum:g} to {maximum:g}")
        return given

    return convert
