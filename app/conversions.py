"""Conversions of settings: each takes the text of a variable, and raises ``ValueError``.

The message of the error follows the name of the variable: "PORT is '0'. Use ...".
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import sqlalchemy as sa

LIVE_PREFIXES = ("sk_live_", "rk_live_")
TEST_PREFIXES = ("sk_test_", "rk_test_")
PLACEHOLDER = "whsec_replace_me"


def api_key(value: str) -> str:
    """Accept a secret or restricted key."""
    if not value:
        raise ValueError(
            "is not set. Take a secret or restricted key (sk_..., rk_...) from"
            " https://dashboard.stripe.com/apikeys; in a new clone `make run` makes a .env to begin"
            " with"
        )
    if not value.startswith(LIVE_PREFIXES + TEST_PREFIXES):
        raise ValueError(
            "does not begin with sk_live_, rk_live_, sk_test_ or rk_test_. The prefix says"
            " whether live or test events are run; a publishable key (pk_) cannot be used"
        )
    if len(value.split()) > 1:
        raise ValueError("has white space inside. Copy the key again, as one word")
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
    if len(secret.split()) > 1:
        raise ValueError(f"{which} has white space inside. Separate several secrets with commas")
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
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("is not a URL like http://127.0.0.1:12111. Leave it empty to use Stripe")
    return value.rstrip("/")


def database_url(value: str) -> str:
    """Accept SQLite in a file, and PostgreSQL, for which psycopg is the driver."""
    try:
        url = sa.make_url(value)
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError(
            "is not a database URL. Use sqlite:///var/inbox.sqlite3 or"
            " postgresql://user:password@host/database"
        ) from None
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if url.drivername != "sqlite":
        raise ValueError("names a database other than sqlite and postgresql. Use one of the two")
    if url.database in {None, "", ":memory:"}:
        raise ValueError("keeps SQLite in memory, which loses events. Name a file")
    return value


def listen_url(value: str) -> str | None:
    """Accept PostgreSQL, and return None for an empty text."""
    if not value:
        return None
    url = database_url(value)
    if url.startswith("sqlite"):
        raise ValueError("names SQLite, which has no notifications. Leave it empty")
    return url


def package(value: str) -> str:
    """Accept the dotted name of a package."""
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError(
            "is not the name of a Python package. Use a dotted name like team.handlers"
        )
    return value


def one_of(*allowed: str) -> Callable[[str], str]:
    """Return a conversion that accepts one of the ``allowed`` words."""

    def convert(value: str) -> str:
        if value.lower() not in allowed:
            raise ValueError(f"is {value!r}. Use one of: {', '.join(allowed)}")
        return value.lower()

    return convert


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a conversion that accepts a whole number."""

    def convert(value: str) -> int:
        if not (value.isascii() and value.isdigit() and minimum <= int(value) <= maximum):
            raise ValueError(f"is {value!r}. Use a whole number from {minimum} to {maximum}")
        return int(value)

    return convert


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
