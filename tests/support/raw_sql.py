"""Changes that a test, or a person, makes to the inbox in SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from app.inbox import Inbox
from app.inbox.engine import sqlite

#: Seconds.
LONGER_THAN_ANY_GRACE = 1e9


def make_engine(url: str, **options: Any) -> sa.Engine:
    """Return SQLAlchemy's engine for the inbox's database.

    It uses the same SQLite library: two in one process do not see each other's locks.
    """
    more = {"module": sqlite.driver} if url.startswith("sqlite") else {}
    return sa.create_engine(url, **more, **options)


def execute(url: str, sql: str) -> None:
    """Run one statement, and commit it."""
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(sql))
    engine.dispose()


def set_revision(url: str, revision: str) -> None:
    """Make the tables those of a ``revision``, with which no older one works."""
    execute(
        url,
        f"UPDATE stripe_receiver_version SET version_num = '{revision}', works_with = '{revision}'",  # noqa: S608 - the test's own
    )


@contextmanager
def locking(url: str, *event_ids: str) -> Iterator[None]:
    """Lock the rows of these events on PostgreSQL during the block."""
    engine = make_engine(url)
    with engine.connect() as connection:
        names: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
        select = sa.text("SELECT id FROM events WHERE id IN :ids FOR UPDATE").bindparams(names)
        connection.execute(select, {"ids": event_ids})
        yield
    engine.dispose()


def abandon(inbox: Inbox) -> None:
    """Make orphans of the events whose lease ran out, as live processes do after the grace."""
    for each in inbox.rescue.suspects():
        assert inbox.rescue.add_unrenewed(each, LONGER_THAN_ANY_GRACE) is True


def orphan(url: str) -> None:
    """Make every running event an orphan, even one with a live lease."""
    execute(url, "UPDATE events SET suspected_lease = lease_until, suspected_seconds = 1e9")


def select(url: str, table: str) -> list[tuple[Any, ...]]:
    """Return all rows of a table."""
    engine = make_engine(url)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {table}"))]  # noqa: S608 - a name of the test's own
    engine.dispose()
    return rows
