"""The settings, read from the environment once, complete and typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import sqlalchemy as sa
from dotenv import dotenv_values

from app.errors import StartError

LIVE_PREFIXES = ("sk_live_", "rk_live_")
TEST_PREFIXES = ("sk_test_", "rk_test_")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("json", "console")
PROCESSING = ("inline", "queue")
CPU_AFFINITY = ("auto", "off")
PLACEHOLDER = "whsec_replace_me"
#: Requests a second, of the 100 and 25 that Stripe allows: others use the account as well.
LIVE_RATE_LIMIT = 80
TEST_RATE_LIMIT = 20
DEFAULT_DATABASE_URL = "sqlite:///var/inbox.sqlite3"

T = TypeVar("T")


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of this process with ``changes``: for ``load``, or for a child."""
    return {**os.environ, **changes}


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process.

    The attributes are the environment's variables in lower case; ``.env.example`` describes
    them. Secrets are kept out of the representation, so that none reaches a log by accident.
    """

    stripe_api_key: str = field(repr=False)
    stripe_webhook_secrets: tuple[str, ...] = field(repr=False)
    stripe_api_base: str | None = None
    database_url: str = field(default=DEFAULT_DATABASE_URL, repr=False)
    stripe_rate_limit: int | None = None
    handlers_package: str = "handlers"
    processing: str = "inline"
    port: int = 4242
    web_concurrency: int = 2
    web_threads: int = 8
    worker_cpu_affinity: str = "auto"
    worker_threads: int = 4
    retry_base_seconds: float = 10.0
    retry_cap_seconds: float = 21600.0
    max_attempts: int = 35
    max_crashes: int = 5
    max_body_bytes: int = 65536
    lease_seconds: float = 30.0
    log_level: str = "info"
    log_format: str = "json"

    @property
    def livemode(self) -> bool:
        """Whether the API key is a live one, which decides whose events are run."""
        return self.stripe_api_key.startswith(LIVE_PREFIXES)

    @property
    def requests_per_second(self) -> int:
        """How many requests Stripe's API gets in a second at most; 0 for no limit.

        Unless it is set, there is none for a stand-in, and Stripe's own is kept away from
        (https://docs.stripe.com/rate-limits).
        """
        if self.stripe_rate_limit is not None:
            return self.stripe_rate_limit
        if self.stripe_api_base:
            return 0
        return LIVE_RATE_LIMIT if self.livemode else TEST_RATE_LIMIT

    @property
    def is_queue(self) -> bool:
        """Whether callbacks run in workers, after the answer."""
        return self.processing == "queue"

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, dotenv: str | Path | None = ".env"
    ) -> Settings:
        """Read the settings from ``dotenv``, if that file is there, and the environment.

        ``environ`` defaults to the process's own, and wins over the file. An empty variable
        counts as one that is not set. Raises ``StartError`` with every problem at once.
        """
        values = dict(dotenv_values(dotenv, interpolate=False)) if dotenv else {}
        values.update(os.environ if environ is None else environ)
        return _Reader({name: value for name, value in values.items() if value}).read()


class _Reader:
    """Turns variables into settings, and collects what is wrong with them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._problems: list[str] = []

    def read(self) -> Settings:
        """Return the settings, or raise ``StartError`` with all that is wrong."""
        settings = Settings(
            stripe_api_key=self._take("STRIPE_API_KEY", "", _api_key),
            stripe_webhook_secrets=self._take("STRIPE_WEBHOOK_SECRET", "", _secrets),
            stripe_api_base=self._take("STRIPE_API_BASE", "", _api_base),
            stripe_rate_limit=self._take("STRIPE_RATE_LIMIT", "", _rate_limit),
            database_url=self._take("DATABASE_URL", DEFAULT_DATABASE_URL, _database_url),
            handlers_package=self._take("HANDLERS_PACKAGE", "handlers", _package),
            processing=self._take("PROCESSING", "inline", _one_of(PROCESSING)),
            port=self._take("PORT", "4242", _whole(1, 65535)),
            web_concurrency=self._take("WEB_CONCURRENCY", "2", _whole(1, 256)),
            web_threads=self._take("WEB_THREADS", "8", _whole(1, 1024)),
            worker_cpu_affinity=self._take("WORKER_CPU_AFFINITY", "auto", _one_of(CPU_AFFINITY)),
            worker_threads=self._take("WORKER_THREADS", "4", _whole(0, 1024)),
            retry_base_seconds=self._take("RETRY_BASE_SECONDS", "10", _seconds(0.01, 86400)),
            retry_cap_seconds=self._take("RETRY_CAP_SECONDS", "21600", _seconds(0.01, 604800)),
            max_attempts=self._take("MAX_ATTEMPTS", "35", _whole(1, 10000)),
            max_crashes=self._take("MAX_CRASHES", "5", _whole(1, 1000000)),
            max_body_bytes=self._take("MAX_BODY_BYTES", "65536", _whole(1024, 16 * 1024 * 1024)),
            lease_seconds=self._take("LEASE_SECONDS", "30", _seconds(1, 3600)),
            log_level=self._take("LOG_LEVEL", "info", _one_of(LOG_LEVELS)),
            log_format=self._take("LOG_FORMAT", _default_log_format(), _one_of(LOG_FORMATS)),
        )
        if self._problems:
            raise StartError("The settings cannot be used:", self._problems)
        return settings

    def _take(self, name: str, default: str, convert: Callable[[str], T]) -> T:
        """Convert one variable. A problem is noted, and what is returned then is not used."""
        try:
            return convert(self._values.get(name, default).strip())
        except ValueError as error:
            self._problems.append(f"{name} {error}")
            return default  # type: ignore[return-value]  # never seen: read() raises


def _default_log_format() -> str:
    return "console" if sys.stderr and sys.stderr.isatty() else "json"


def _api_key(value: str) -> str:
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


def _secrets(value: str) -> tuple[str, ...]:
    """Read one or more signing secrets, separated by commas."""
    secrets = tuple(part.strip() for part in value.split(",") if part.strip())
    if not secrets:
        raise ValueError(
            "is not set. Take the signing secret (whsec_...) of the event destination from"
            " https://dashboard.stripe.com/webhooks; separate several with commas"
        )
    for position, secret in enumerate(secrets, start=1):
        _check_secret(secret, position, secrets)
    return secrets


def _check_secret(secret: str, position: int, secrets: tuple[str, ...]) -> None:
    """Check the secret at ``position``. The messages never hold the secret itself."""
    which = f"(secret {position} of {len(secrets)})"
    if len(secret.split()) > 1:
        raise ValueError(f"{which} has white space inside. Separate several secrets with commas")
    if not secret.startswith("whsec_"):
        raise ValueError(
            f"{which} does not begin with whsec_. Copy the destination's signing secret,"
            " not its id and not an API key"
        )
    if secret in {"whsec_", PLACEHOLDER}:
        raise ValueError(
            f"{which} is a placeholder, which everybody knows. Copy the whole signing secret;"
            " for a random one remove .env and call make run"
        )
    if secrets.index(secret) != position - 1:
        raise ValueError(f"{which} is the same as an earlier one. Remove it")


def _api_base(value: str) -> str | None:
    if not value:
        return None
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("is no URL like http://127.0.0.1:12111. Leave it empty to use Stripe")
    return value.rstrip("/")


def _database_url(value: str) -> str:
    """Accept SQLite in a file and PostgreSQL, and name psycopg as its driver."""
    try:
        url = sa.make_url(value)
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError(
            "is no database URL. Use sqlite:///var/inbox.sqlite3 or"
            " postgresql://user:password@host/database"
        ) from None
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if url.drivername != "sqlite":
        raise ValueError("names a database other than sqlite and postgresql. Use one of the two")
    if url.database in {None, "", ":memory:"}:
        raise ValueError("keeps SQLite in memory, which loses events. Name a file")
    return value


def _package(value: str) -> str:
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError("is no name of a Python package. Use a dotted name like team.handlers")
    return value


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def convert(value: str) -> str:
        if value.lower() not in allowed:
            raise ValueError(f"is {value!r}. Use one of: {', '.join(allowed)}")
        return value.lower()

    return convert


def _whole(least: int, most: int) -> Callable[[str], int]:
    def convert(value: str) -> int:
        if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
            raise ValueError(f"is {value!r}. Use a whole number from {least} to {most}")
        return int(value)

    return convert


def _rate_limit(value: str) -> int | None:
    return _whole(0, 10_000)(value) if value else None


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def convert(value: str) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = float("nan")
        if not least <= seconds <= most:
            raise ValueError(f"is {value!r}. Use seconds from {least:g} to {most:g}")
        return seconds

    return convert
