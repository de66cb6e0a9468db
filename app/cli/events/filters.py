"""The options that select events. Every command takes them from here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from app.inbox.filters import OUTCOMES, STATES, UNITS, EventFilter, read_time
from app.inbox.models import Cursor
from app.operations import selection_words
from app.text import printable

if TYPE_CHECKING:
    from app.inbox import Event, Inbox

#: The largest ``--limit``: an integer of both databases.
MAX_LIMIT = 2**31 - 1

Command = Callable[..., Any]

ACCOUNT = re.compile(r"acct_\w+(/acct_\w+)*")


def read_since(
    _context: click.Context | None, _parameter: click.Parameter | None, value: str | None
) -> float | None:
    """Return seconds since 1970 for ``2h``, ``2026-11-25`` or ``2026-11-25T10:00Z``."""
    if value is None:
        return None
    try:
        return read_time(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def read_cursor(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Cursor | None:
    """Return the place in the list that an earlier list printed."""
    try:
        return None if value is None else Cursor.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


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
    @click.option("--type", metavar="TYPE", help="Only events of this type.")
    @click.option("--context", metavar="ACCT", help="Only events of this account.")
    @click.option("--object", "object_id", metavar="ID", help="Only events of this object: cus_...")
    @click.option("--group", metavar="GROUP", help="Only events with this error.")
    @click.option(
        "--failed-before",
        metavar="RELEASE",
        help="Only events that failed last under a release before this one.",
    )
    @since_option("Only events received since then: 30m, 24h, 3d, or a time (UTC).")
    @click.option(
        "--until",
        callback=read_since,
        metavar="WHEN",
        help="Only events received until then, in the same forms.",
    )
    @functools.wraps(command)
    def with_filters(*arguments: Any, **options: Any) -> Any:
        names = [each.name for each in fields(EventFilter) if each.name in options]
        wanted = EventFilter(**{name: options.pop(name) for name in names})
        return command(*arguments, wanted=wanted, **options)

    return with_filters


def require_selection(event_ids: tuple[str, ...], wanted: EventFilter) -> None:
    """Refuse a command without events, and one with IDs and options that select."""
    if event_ids and wanted != EventFilter():
        raise click.UsageError("Give either IDs or options that select events, not both.")
    if not event_ids and wanted == EventFilter():
        raise click.UsageError(
            "Give IDs, or select events with --state, --group, --since or another filter."
        )


def require_known(inbox: Inbox, wanted: EventFilter) -> None:
    """Refuse a filter with an error group or a release that the inbox does not have."""
    try:
        selection_words.require_known(inbox, wanted)
    except ValueError as error:
        raise click.ClickException(f"{error}.") from None


def find_all(inbox: Inbox, event_ids: tuple[str, ...]) -> list[Event]:
    """Return the events of these ids. Raises ``ClickException`` if one is missing."""
    found = {event_id: inbox.administration.find(event_id) for event_id in event_ids}
    missing = [event_id for event_id, event in found.items() if event is None]
    if missing:
        raise click.ClickException(f"The inbox has no event {printable(', '.join(missing))}.")
    return [event for event in found.values() if event is not None]


def no_events(wanted: EventFilter) -> str:
    """Return the sentence for a filter that no event matches: ``No events are dead.``."""
    if wanted == EventFilter():
        return "The inbox is empty."
    words = ["No events"]
    words += [f"are {wanted.state}"] if wanted.state else []
    words += [f"with the outcome {wanted.outcome}"] if wanted.outcome else []
    words += [f"of type {wanted.type}"] if wanted.type else []
    words += [f"of {each}" for each in (wanted.context, wanted.object_id) if each]
    words += [f"with the error {wanted.group}"] if wanted.group else []
    words += [f"failed before {wanted.failed_before}"] if wanted.failed_before else []
    words += ["since then"] if wanted.since is not None else []
    words += ["until then"] if wanted.until is not None else []
    return f"{' '.join(words)}."
