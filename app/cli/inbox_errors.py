"""Errors of the inbox, as one sentence that says what to do."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from app.cli.hints import hint
from app.errors import InboxUnavailable
from app.services import services

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def explained() -> Iterator[None]:
    """Turn an inbox that is unavailable into a ``ClickException``.

    A command does not create the inbox's file. A running service that lost its file would
    otherwise continue with an empty inbox.
    """
    services().inbox.forbid_creation()
    try:
        yield
    except InboxUnavailable as error:
        message = error.message[0].upper() + error.message[1:]
        raise click.ClickException(
            f"{message}: {error.reason}. Run {hint('doctor')} to see what to do."
        ) from None
    except UnicodeError:
        raise click.UsageError("An argument is not valid text.") from None
