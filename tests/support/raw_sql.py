"""Changes that a test, or a person, makes to the inbox in SQL."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from app.inbox import Inbox
from app.inbox.engine import sqlite
from app.inbox.migrate import upgrade
from app.inbox.sql.revisions import columns_at, versions
from app.inbox.sql.schema import metadata
from tests.support.waiting import wait_for

#: The functions of the triggers on PostgreSQL.
FUNCTIONS = ("remember_attempt", "forget_event", "stripe_receiver_failed")

#: Seconds.
LONGER_THAN_ANY_GRACE = 1e9


def make_engine(url: str, **options: Any) -> sa.Engine:
    """Return SQLAlchemy's engine for the inbox's database.

    It uses the same SQLite library: two in one process do not see each other's locks.
    """
    more = {"module": sqlite.driver} if url.startswith("sqlite") else {}
    return sa.create_engine(url, **more, **options)


def execute(url: str, sql: str, *rows: dict[str, Any]) -> None:
    """Run one statement, with the parameters of each row, and commit it."""
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(sql), list(rows) or None)
    engine.dispose()


def note_retry(url: str, event_id: str, *, by: str = "me", why: str | None = None) -> None:
    """Record a retry of an event that has ended since."""
    at = time.time()
    sql = 'INSERT INTO retries (event_id, at, "by", why) VALUES (:event_id, :at, :by, :why)'
    execute(url, sql, {"event_id": event_id, "at": at, "by": by, "why": why})


def state(url: str, event_id: str) -> tuple[str, str | None, int] | None:
    """Return state, outcome and attempt of an event, by the driver. A missing file is an error."""
    sql = f"SELECT state, outcome, attempt FROM events WHERE id = '{event_id}'"  # noqa: S608 - the test's own
    row: tuple[str, str | None, int] | None = _first_row(url, sql)
    return row


def count_done(url: str) -> int:
    """Return the number of done events, by the driver. A missing file is an error."""
    return int(_first_row(url, "SELECT count(*) FROM events WHERE state = 'done'")[0])


def _first_row(url: str, sql: str) -> Any:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        opened = sqlite.driver.connect(f"file:{parsed.database}?mode=rw", uri=True)
    else:
        opened = psycopg.connect(
            parsed.set(drivername="postgresql").render_as_string(hide_password=False),
            autocommit=True,
            connect_timeout=5,
        )
    with contextlib.closing(opened) as connection:
        return connection.execute(sql).fetchone()


def set_revision(url: str, revision: str) -> None:
    """Let the tables say that they are of a ``revision``, with which no older one works."""
    execute(
        url,
        f"UPDATE stripe_receiver_version SET version_num = '{revision}', works_with = '{revision}'",  # noqa: S608 - the test's own
    )


def make_older(url: str, revision: str) -> None:
    """Replace the tables by those of a ``revision``, with which no older one works.

    The rows stay, without the columns and tables that the revision does not have.
    """
    engine = make_engine(url)
    with engine.begin() as connection:
        is_postgresql = connection.dialect.name == "postgresql"
        known = columns_at(revision)
        kept = {table: _rows(connection, table, known) for table in metadata.sorted_tables}
        for table in (*metadata.sorted_tables, versions):
            connection.execute(sa.schema.DropTable(table, if_exists=True))
        for function in FUNCTIONS if is_postgresql else ():
            connection.execute(sa.text(f"DROP FUNCTION IF EXISTS {function}()"))
        upgrade(connection, None, may_create=True, to=revision)
        for table, rows in kept.items():
            if rows:
                connection.execute(sa.insert(table), rows)
        connection.execute(sa.update(versions).values(works_with=revision))
    engine.dispose()


def _rows(
    connection: sa.Connection, table: sa.Table, known: Mapping[str, frozenset[str]]
) -> list[dict[str, Any]]:
    columns = [each for each in table.columns if each.name in known.get(table.name, ())]
    if not columns or not sa.inspect(connection).has_table(table.name):
        return []
    found = connection.execute(sa.select(*columns)).mappings()
    return [{each.key: row[each] for each in columns} for row in found]


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

    def add() -> bool:
        suspects = inbox.rescue.suspects()
        added = [inbox.rescue.add_unrenewed(each, LONGER_THAN_ANY_GRACE) for each in suspects]
        return all(added)

    wait_for(add)  # a live process of the test can add seconds at the same moment


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
