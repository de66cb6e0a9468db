"""Errors of the inbox, as one sentence that says what to do."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from app.cli.hints import hint
from app.cli.output import sentence
from app.errors import InboxUnavailable, MigrationPending
from app.services import services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.inbox import Inbox


@contextmanager
def explained(*, may_create: bool = False) -> Iterator[None]:
    """Turn an inbox that is unavailable into a ``ClickException``.

    Unless it ``may_create``, a command does not create the inbox's file. A running service that
    lost its file would otherwise continue with an empty inbox.
    """
    if not may_create:
        services().inbox.forbid_creation()
    try:
        yield
    except MigrationPending as error:
        raise click.ClickException(
            f"{sentence(error.reason)}. Run {hint('db', 'upgrade')}."
        ) from None
    except InboxUnavailable as error:
        if _is_never_created(services().inbox):
            raise click.ClickException(
                f"There is no inbox here; create it with {hint('db', 'upgrade')}."
            ) from None
        raise click.ClickException(
            f"{sentence(error.message)}: {error.reason}. Run {hint('doctor')} to see what to do."
        ) from None
    except UnicodeError:
        raise click.UsageError("An argument is not valid text.") from None


def _is_never_created(inbox: Inbox) -> bool:
    """Return True if the folder of SQLite's file exists, and no process has used a file there.

    A lost file or folder may come back. A new inbox would be empty.
    """
    found = inbox.examine()
    return found is not None and found.has_folder and not (found.exists or found.known)
