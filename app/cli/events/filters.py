"""Options that say which events are meant, and words for what goes wrong."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from app.errors import InboxUnavailable
from app.inbox.sql.filters import STATES, EventFilter
from app.services import services

#: How many events can be asked for at once: what both databases count to.
MOST = 2**31 - 1

#: Seconds of the units in which a person says how far back.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@contextmanager
def explained() -> Iterator[None]:
    """Use the inbox if it is there, and say in one sentence if it is not.

    No file is made for it: a running service that lost its own would go on with an empty one.
    """
    services().inbox.create_nothing()
    try:
        yield
    except InboxUnavailable as error:
        what = error.message[0].upper() + error.message[1:]
        raise click.ClickException(
            f"{what}: {error.reason}. See what to do with `flask doctor`."
        ) from None
    except UnicodeError:
        raise click.UsageError("An argument is not text that can be looked for.") from None


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


def wanted_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a ``command`` the options of which its argument ``wanted`` is made."""

    @click.option("--state", type=click.Choice(STATES), help="Only events in this state.")
    @click.option("--type", "type_", metavar="TYPE", help="Only events of this type.")
    @click.option("--context", metavar="ACCT", help="Only events of this account.")
    @click.option(
        "--since",
        callback=read_since,
        metavar="WHEN",
        help="Only events received since then: 30m, 24h, 3d, or a time (UTC).",
    )
    @functools.wraps(command)
    def with_wanted(
        *arguments: Any,
        state: str | None,
        type_: str | None,
        context: str | None,
        since: float | None,
        **options: Any,
    ) -> Any:
        return command(*arguments, wanted=EventFilter(state, type_, context, since), **options)

    return with_wanted
