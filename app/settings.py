"""The settings: one table of their defaults, conversions and descriptions."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app import conversions
from app.conversions import LIVE_PREFIXES, ORGANIZATION_PREFIX, one_of, seconds, whole_number
from app.database_url import database_url, listen_url
from app.environment import Origin, read
from app.errors import StartError
from app.operator_settings import OperatorSettings
from app.release import git_release
from app.setting_fields import contradictions, convert, names, setting, variable

__all__ = ["Settings", "environment", "variable"]

#: The first line of the message when the service cannot start.
HEADLINE = "The settings cannot be used:"

#: Requests per second. Stripe allows 100 and 25, and other programs use the account too.
LIVE_RATE_LIMIT = 80
TEST_RATE_LIMIT = 20


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of this process with ``changes``: for ``load``, or for a child."""
    return {**os.environ, **changes}


def export(name: str, value: str) -> None:
    """Set a variable in the environment of this process, for a library that reads it there."""
    os.environ[name] = value


@dataclass(frozen=True, slots=True)
class Settings(OperatorSettings):
    """All settings of one process.

    The attributes are the environment variables in lower case, except ``origin``.
    """

    stripe_api_key: str = setting(
        None,
        conversions.api_key,
        "Secret or restricted key of the Stripe API (sk_... or rk_...). Its prefix says whether"
        " live or test events are run.",
        secret=True,
    )
    stripe_webhook_secrets: tuple[str, ...] = setting(
        None,
        conversions.secrets,
        "Signing secret of the event destination (whsec_...). Separate several with commas.",
        variable="STRIPE_WEBHOOK_SECRET",
        secret=True,
    )
    stripe_mode: str = setting(
        "",
        conversions.optional(one_of("live", "test")),
        "For an organization key (sk_org_...), which has one prefix for both modes: live or test.",
    )
    stripe_context: str | None = setting(
        "",
        conversions.context,
        "For an organization key: the account of requests that name none, such as acct_1.",
    )
    stripe_api_base: str | None = setting(
        "",
        conversions.api_base,
        "URL of a stand-in for Stripe's API. Empty: Stripe itself.",
    )
    stripe_rate_limit: int | None = setting(
        "",
        conversions.rate_limit,
        "Requests to Stripe's API a second, of all processes that share an inbox; 0 for no limit."
        " Empty: 80 live, 20 test, none for a stand-in.",
    )
    database_url: str = setting(
        "sqlite:///var/inbox.sqlite3",
        database_url,
        "Where events are kept: a SQLite file, or postgresql://user:password@host/database for"
        " more than one replica.",
        secret=True,
    )
    database_schema: str | None = setting(
        "",
        conversions.schema,
        "The schema of PostgreSQL for the tables, created if it is missing. Empty: the one that the"
        " database role's search_path gives.",
    )
    migrate: str = setting(
        "auto",
        one_of("auto", "check"),
        "auto migrates the tables at the start; check waits until `flask db upgrade` has done it.",
    )
    database_listen_url: str | None = setting(
        "",
        listen_url,
        "Queue mode behind a PostgreSQL pooler: a URL of the database without the pooler, for"
        " notifications. Empty: DATABASE_URL.",
        secret=True,
    )
    handlers_package: str = setting(
        "handlers",
        conversions.package,
        "The Python package that holds the handler modules.",
    )
    release: str = setting(
        "", conversions.release, "The release of your code. Empty: git's commit."
    )
    processing: str = setting(
        "inline",
        one_of("inline", "queue"),
        "When callbacks run: inline (in the request) or queue (in workers, after the answer).",
    )
    lease_seconds: float = setting(
        "30",
        seconds(1, 3600),
        "Seconds that a claim lasts unless it is renewed. After a crash, the event runs again"
        " within two leases.",
    )
    max_body_bytes: int = setting(
        "524288",
        whole_number(1024, 16 * 1024 * 1024),
        "Largest event that is accepted, in bytes. Snapshot events can have 256 KB.",
    )
    bind_host: str = setting(
        "",
        conversions.bind_host,
        "The IPv4 or IPv6 address, or the host name, to listen on. Empty: all IPv4 addresses, and"
        " 127.0.0.1 alone with make dev.",
    )
    port: int = setting("4242", whole_number(1, 65535), "The port to listen on.")
    web_concurrency: int = setting("2", whole_number(1, 256), "Processes that answer requests.")
    web_threads: int = setting(
        "8",
        whole_number(1, 1024),
        "Deliveries at once in each process; in inline mode, callbacks at once.",
    )
    worker_cpu_affinity: str = setting(
        "auto",
        one_of("auto", "off"),
        "auto pins each process to one CPU if there are as many processes as CPUs, or a multiple;"
        " off lets them use all.",
    )
    worker_threads: int = setting(
        "4",
        whole_number(0, 1024),
        "Queue mode: callbacks at once in each process; 0 when `flask worker` runs them.",
    )
    retry_base_seconds: float = setting(
        "10",
        seconds(0.01, 86400),
        "Queue mode: the delay before the first retry is random, up to so many seconds. The range"
        " doubles with each failure.",
    )
    retry_cap_seconds: float = setting(
        "21600",
        seconds(0.01, 604800),
        "Queue mode: the longest delay before a retry, in seconds.",
    )
    max_attempts: int = setting(
        "35",
        whole_number(1, 10000),
        "Queue mode: failed attempts after which an event is dead. With the defaults that is after"
        " three days.",
    )
    max_crashes: int = setting(
        "5",
        whole_number(1, 1000000),
        "Consecutive crashes after which an event is dead: its process ended while the event ran.",
    )
    type_breaker_failures: int = setting(
        "10",
        whole_number(0, 1000000),
        "Queue mode: failures in a row after which an event type is paused until an event of it"
        " succeeds; 0 for never.",
    )
    retention_days: int = setting(
        "90",
        conversions.retention_days,
        "Days that done events are kept, 31 or more; 0 keeps them for ever. Dead events stay.",
    )
    log_level: str = setting(
        "info",
        one_of("debug", "info", "warning", "error"),
        "debug, info, warning or error.",
    )
    log_format: str = setting(
        "json",
        one_of("json", "console"),
        "json or console. Not set: console on a terminal, else json.",
    )

    origin: Origin = dataclasses.field(default=Origin(), compare=False)

    @property
    def livemode(self) -> bool:
        """True if live events are run, and not those of test mode."""
        if self.is_organization:
            return self.stripe_mode == "live"
        return self.stripe_api_key.startswith(LIVE_PREFIXES)

    @property
    def is_organization(self) -> bool:
        """True if the API key is one of an organization, for all of its accounts."""
        return self.stripe_api_key.startswith(ORGANIZATION_PREFIX)

    @property
    def key_kind(self) -> str:
        """The kind of the API key in words: ``a test key``."""
        mode = "live" if self.livemode else "test"
        if self.is_organization:
            return f"an organization key for {mode} mode and {self.stripe_context}"
        return f"a {mode} key"

    @property
    def requests_per_second(self) -> int:
        """The limit of requests to Stripe's API per second; 0 for none.

        The default stays below Stripe's own limits (https://docs.stripe.com/rate-limits). A
        stand-in has no limit.
        """
        if self.stripe_rate_limit is not None:
            return self.stripe_rate_limit
        if self.stripe_api_base:
            return 0
        return LIVE_RATE_LIMIT if self.livemode else TEST_RATE_LIMIT

    @property
    def serves_metrics(self) -> bool:
        """True if there is a ``/metrics``: with a token, or on a port of its own."""
        return bool(self.ops_token) or self.ops_port is not None

    @property
    def is_queue(self) -> bool:
        """True if callbacks run in workers, after the answer."""
        return self.processing == "queue"

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, dotenv: str | Path | None = ".env"
    ) -> Settings:
        """Read the settings from ``dotenv``, if that file is there, and the environment.

        ``environ`` defaults to the process's own, and wins over the file. An empty variable
        counts as one that is not set. Raises ``StartError`` with every problem at once.
        """
        try:
            given = read(names(cls), os.environ if environ is None else environ, dotenv)
        except ValueError as error:  # without its .env, each setting would be reported as missing
            raise StartError(HEADLINE, [str(error)]) from None
        problems = given.problems
        defaults = {"LOG_FORMAT": _log_format(), "RELEASE": git_release(Path.cwd())}
        values = convert(cls, {**defaults, **given.texts}, problems)
        if not problems:
            settings = cls(**values, origin=given.origin)
            problems = contradictions(settings)
            if not problems:
                return settings
        guesses = [
            f"{name} is no setting. Do you mean {one}?" for name, one in given.origin.misspelt
        ]
        raise StartError(HEADLINE, [*problems.values(), *guesses])


def _log_format() -> str:
    """Return the default, which is for a person at a terminal."""
    return "console" if sys.stderr and sys.stderr.isatty() else "json"
