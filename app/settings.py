"""The settings: one table of their defaults, conversions and descriptions."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from app import conversions
from app.conversions import LIVE_PREFIXES, one_of, seconds, whole_number
from app.errors import StartError

#: Requests a second, of the 100 and 25 that Stripe allows: others use the account as well.
LIVE_RATE_LIMIT = 80
TEST_RATE_LIMIT = 20


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of this process with ``changes``: for ``load``, or for a child."""
    return {**os.environ, **changes}


def _setting(
    default: str | None,
    convert: Callable[[str], object],
    description: str,
    *,
    variable: str | None = None,
    secret: bool = False,
) -> Any:
    """Return a field of ``Settings``.

    ``default`` is as it would stand in the environment; None where there is none. ``variable`` is
    the name of the environment variable, if it is not the attribute's. A ``secret`` stays out of
    the representation, so that it reaches no log by accident.
    """
    value = dataclasses.MISSING if default is None else convert(default)
    return dataclasses.field(
        default=value,
        repr=not secret,
        metadata={
            "default": default or "",
            "convert": convert,
            "description": description,
            "variable": variable,
        },
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process.

    The attributes are the environment variables in lower case.
    """

    stripe_api_key: str = _setting(
        None,
        conversions.api_key,
        "Secret or restricted key of the Stripe API (sk_... or rk_...). Its prefix says whether"
        " live or test events are run.",
        secret=True,
    )
    stripe_webhook_secrets: tuple[str, ...] = _setting(
        None,
        conversions.secrets,
        "Signing secret of the event destination (whsec_...). Separate several with commas.",
        variable="STRIPE_WEBHOOK_SECRET",
        secret=True,
    )
    stripe_api_base: str | None = _setting(
        "",
        conversions.api_base,
        "URL of a stand-in for Stripe's API. Empty: Stripe itself.",
    )
    stripe_rate_limit: int | None = _setting(
        "",
        conversions.rate_limit,
        "Requests to Stripe's API a second, of all processes that share an inbox; 0 for no limit."
        " Empty: 80 live, 20 test, none for a stand-in.",
    )
    database_url: str = _setting(
        "sqlite:///var/inbox.sqlite3",
        conversions.database_url,
        "Where events are kept: a SQLite file, or postgresql://user:password@host/database for"
        " more than one replica.",
        secret=True,
    )
    database_listen_url: str | None = _setting(
        "",
        conversions.listen_url,
        "Queue mode behind a PostgreSQL pooler: a URL of the database without the pooler, for"
        " notifications. Empty: DATABASE_URL.",
        secret=True,
    )
    handlers_package: str = _setting(
        "handlers",
        conversions.package,
        "The Python package that holds the handler modules.",
    )
    processing: str = _setting(
        "inline",
        one_of("inline", "queue"),
        "When callbacks run: inline (in the request) or queue (in workers, after the answer).",
    )
    lease_seconds: float = _setting(
        "30",
        seconds(1, 3600),
        "Seconds that a claim lasts unless it is renewed. After a crash, the event runs again"
        " within two leases.",
    )
    max_body_bytes: int = _setting(
        "65536",
        whole_number(1024, 16 * 1024 * 1024),
        "Largest notification that is accepted, in bytes.",
    )
    port: int = _setting("4242", whole_number(1, 65535), "The port to listen on.")
    web_concurrency: int = _setting("2", whole_number(1, 256), "Processes that answer requests.")
    web_threads: int = _setting(
        "8",
        whole_number(1, 1024),
        "Deliveries at once in each process; in inline mode, callbacks at once.",
    )
    worker_cpu_affinity: str = _setting(
        "auto",
        one_of("auto", "off"),
        "auto pins each process to one CPU if there are as many processes as CPUs, or a multiple;"
        " off lets them use all.",
    )
    worker_threads: int = _setting(
        "4",
        whole_number(0, 1024),
        "Queue mode: callbacks at once in each process; 0 when `flask worker` runs them.",
    )
    retry_base_seconds: float = _setting(
        "10",
        seconds(0.01, 86400),
        "Queue mode: the delay before the first retry is random, up to so many seconds. The range"
        " doubles with each failure.",
    )
    retry_cap_seconds: float = _setting(
        "21600",
        seconds(0.01, 604800),
        "Queue mode: the longest delay before a retry, in seconds.",
    )
    max_attempts: int = _setting(
        "35",
        whole_number(1, 10000),
        "Queue mode: failed attempts after which an event is dead. With the defaults that is after"
        " three days.",
    )
    max_crashes: int = _setting(
        "5",
        whole_number(1, 1000000),
        "Consecutive crashes after which an event is dead: its process ended while the event ran.",
    )
    log_level: str = _setting(
        "info",
        one_of("debug", "info", "warning", "error"),
        "debug, info, warning or error.",
    )
    log_format: str = _setting(
        "json",
        one_of("json", "console"),
        "json or console. Not set: console on a terminal, else json.",
    )

    @property
    def livemode(self) -> bool:
        """Whether the API key is a live one, which decides whose events are run."""
        return self.stripe_api_key.startswith(LIVE_PREFIXES)

    @property
    def requests_per_second(self) -> int:
        """How many requests Stripe's API gets in a second at most; 0 for no limit.

        The default stays below Stripe's own limits (https://docs.stripe.com/rate-limits). A
        stand-in has no limit.
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
        given = dict(dotenv_values(dotenv, interpolate=False)) if dotenv else {}
        given |= os.environ if environ is None else environ
        values = {name: text for name, text in given.items() if text}
        return cls(**_convert({"LOG_FORMAT": _log_format(), **values}))


def variable(field: dataclasses.Field[Any]) -> str:
    """Return the name of the environment variable of a field of ``Settings``."""
    return str(field.metadata["variable"] or field.name.upper())


def _log_format() -> str:
    """Return the default, which is for a person at a terminal."""
    return "console" if sys.stderr and sys.stderr.isatty() else "json"


def _convert(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of each setting. Raises ``StartError`` with all problems."""
    converted: dict[str, Any] = {}
    problems = []
    for field in dataclasses.fields(Settings):
        name = variable(field)
        try:
            text = values.get(name) or field.metadata["default"]
            converted[field.name] = field.metadata["convert"](text.strip())
        except ValueError as error:
            problems.append(f"{name} {error}")
    if problems:
        raise StartError("The settings cannot be used:", problems)
    return converted
