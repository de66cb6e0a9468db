"""The options that select events. Every command takes them from here."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from app.inbox.filters import EventFilter
from app.states import OF_DELIVERIES, Outcome, State

#: The largest ``--limit``: an integer of both databases.
MAX_LIMIT = 2**31 - 1

# Not the enum: Click would offer the names of its members.
STATES = [each.value for each in State]
OUTCOMES = [each.value for each in Outcome if each not in OF_DELIVERIES]

#: Seconds of the units in ``30m`` or ``24h``.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Command = Callable[..., Any]

ACCOUNT = re.compile(r"acct_\w+(/acct_\w+)*")


def read_since(
    _context: click.Context | None, _parameter: click.Parameter | None, value: str | None
) -> float | None:
    """Return seconds since 1970 for ``2h``, ``2026-11-25`` or ``2026-11-25T10:00Z``."""
    if value is None:
        return None
    ago = re.fullmatch(r"([0-9]{1,9})([smhd])", value)
    if ago:
        return time.time() - int(ago[1]) * UNITS[ago[2]]
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is neither an age like 30m, 24h or 3d nor a time like 2026-11-25T10:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_interval(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | None:
    """Return the seconds of an interval like ``15m``."""
    if value is None:
        return None
    given = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", value)
    if given is None:
        raise click.BadParameter(f"{value!r} is no interval like 30s, 15m or 1h")
    return float(given[1]) * UNITS[given[2]]


def read_accounts(
    _context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse a value that is no account id."""
    for account in value:
        if not ACCOUNT.fullmatch(account):
            raise click.BadParameter(f"{account!r} is no account like acct_1 or acct_1/acct_2")
    return value


def since_option(text: str) -> Callable[[Command], Command]:
    """Return the option ``--since`` with this help."""
    return click.option("--since", callback=read_since, metavar="WHEN", help=text)


def accounts_option(text: str) -> Callable[[Command], Command]:
    """Return the option ``--account``, the argument ``accounts``, with this help."""
    return click.option(
        "--account",
        "accounts",
        multiple=True,
        callback=read_accounts,
        metavar="ACCT",
        help=f"{text} You can give it several times.",
    )


def limit_option(default: int) -> Callable[[Command], Command]:
    """Return the option ``--limit`` with this default."""
    return click.option(
        "--limit",
        default=default,
        show_default=True,
        type=click.IntRange(min=1, max=MAX_LIMIT),
        help="The most events.",
    )


def filter_options(command: Command) -> Command:
    """Give a ``command`` the options of its argument ``wanted``."""

    @click.option("--state", type=click.Choice(STATES), help="Only events in this state.")
    @click.option("--outcome", type=click.Choice(OUTCOMES), help="Only events with this outcome.")
    @click.option("--type", "type_", metavar="TYPE", help="Only events of this type.")
    @click.option("--context", metavar="ACCT", help="Only events of this account.")
    @since_option("Only events received since then: 30m, 24h, 3d, or a time (UTC).")
    @functools.wraps(command)
    def with_filters(
        *arguments: Any,
        state: str | None,
        outcome: str | None,
        type_: str | None,
        context: str | None,
        since: float | None,
        **options: Any,
    ) -> Any:
        wanted = EventFilter(state, type_, context, since, outcome)
        return command(*arguments, wanted=wanted, **options)

    return with_filters


def no_events(wanted: EventFilter) -> str:
    """Return the sentence for a filter that no event matches: ``No events are dead.``."""
    if wanted == EventFilter():
        return "The inbox is empty."
    words = ["No events"]
    words += [f"are {wanted.state}"] if wanted.state else []
    words += [f"with the outcome {wanted.outcome}"] if wanted.outcome else []
    words += [f"of type {wanted.type}"] if wanted.type else []
    words += [f"of {wanted.context}"] if wanted.context else []
    words += ["since then"] if wanted.since is not None else []
    return f"{' '.join(words)}."
