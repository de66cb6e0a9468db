"""Backups of the inbox: one file for both databases.

A backup is an SQLite file with the inbox's tables. It can be restored into either database, so it
is also the way from one to the other. It needs no tool of PostgreSQL: the image has none.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from app.errors import StartError
from app.inbox import migrate
from app.inbox.engine import sqlite
from app.inbox.sql.operations import (
    audit,
    error_groups,
    error_hours,
    releases,
    type_failures,
    type_pauses,
)
from app.inbox.sql.revisions import columns_at
from app.inbox.sql.schema import (
    attempts,
    effects,
    events,
    pair_holds,
    pauses,
    retries,
    thin_events,
    watermarks,
)
from app.inbox.store import Store
from app.text import in_one_line

#: The tables of a backup. The others hold the state of running processes.
TABLES = (
    *(events, attempts, retries, effects, pair_holds, thin_events, pauses, watermarks),
    *(error_groups, error_hours, releases, audit, type_pauses, type_failures),
)

#: Tables whose numbers the database gives. PostgreSQL would give one that it did not give itself
#: once more.
NUMBERED = frozenset({retries, audit})

#: Tables that a start writes, so that an inbox without events has rows in them.
WRITTEN_AT_START = frozenset({releases})

#: Rows in memory at a time.
BATCH_SIZE = 200

_Batch = tuple[sa.Table, list[dict[str, Any]]]


class BackupError(Exception):
    """A backup cannot be written, read or restored. Its text is a sentence for a person."""


def back_up(store: Store, file: Path) -> int:
    """Write all events into a new ``file``, and return their number.

    The inbox may be in use: the backup has its state of one moment. Raises ``BackupError`` and
    ``InboxUnavailable``.
    """
    revisions = store.revisions()
    revision = revisions.current
    if revision is None:
        raise BackupError("the inbox has no tables")
    if revisions.is_newer:
        raise BackupError("the tables are of a newer version. Back them up with that version")
    if file.exists():
        raise BackupError(f"{file} exists already")
    with _file_errors(file), _new_file(file) as path, _opened(path) as engine:
        with engine.begin() as target, store.engine.snapshot() as source:
            with _file_errors(file):
                migrate.upgrade(target, None, may_create=False, to=revision)
            count = 0
            for batch in _read(source, revision):
                with _file_errors(file):  # an error of the source is one of the inbox
                    count += _write(target, batch)
        return count


def restore(store: Store, file: Path) -> int:
    """Write all events of a ``file`` into an empty inbox, and return their number.

    Missing tables are created. After an error the inbox is unchanged. Raises ``BackupError``,
    ``InboxUnavailable`` and ``StartError``.
    """
    with (
        _migrated(file) as path,
        _opened(path, read_only=True) as engine,
        store.engine.migration() as target,
    ):
        before = migrate.upgrade(target, store.schema, may_create=True)
        if before.is_newer:
            raise BackupError("the tables are of a newer version. Restore with that version")
        if any(target.execute(sa.select(each).limit(1)).first() for each in _of_events()):
            raise BackupError(
                "the inbox is not empty. Set DATABASE_URL to a new file or database, or"
                " DATABASE_SCHEMA to a new schema"
            )
        for table in WRITTEN_AT_START:
            target.execute(sa.delete(table))
        with engine.connect() as source:
            batches = _report_errors(file, _read(source, before.newest))
            return sum(_write(target, batch) for batch in batches)


def _of_events() -> list[sa.Table]:
    """Return the tables that are empty in an inbox without events."""
    return [each for each in TABLES if each not in WRITTEN_AT_START]


def _read(source: sa.Connection, revision: str) -> Iterator[_Batch]:
    """Yield the rows of all tables of a ``revision``, in batches."""
    known = columns_at(revision)
    for table in TABLES:
        columns = [each for each in table.columns if each.name in known.get(table.name, ())]
        if columns:
            select = sa.select(*columns).order_by(*table.primary_key)
            result = source.execution_options(yield_per=BATCH_SIZE).execute(select)
            for rows in result.mappings().partitions():
                yield table, [{each.key: row[each] for each in columns} for row in rows]


def _write(target: sa.Connection, batch: _Batch) -> int:
    """Write a batch, and return the number of events in it."""
    table, rows = batch
    if table in NUMBERED:
        rows = [{name: value for name, value in row.items() if name != "id"} for row in rows]
    target.execute(sa.insert(table), rows)
    return len(rows) if table is events else 0


def _report_errors(file: Path, batches: Iterator[_Batch]) -> Iterator[_Batch]:
    with _file_errors(file):
        yield from batches


@contextmanager
def _file_errors(file: Path) -> Iterator[None]:
    """Turn an error of the backup's ``file`` into a ``BackupError``."""
    try:
        yield
    except (sa.exc.DBAPIError, OSError) as error:
        raise BackupError(f"{file} cannot be used ({in_one_line(error)})") from error


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """Give a new private file to the block, and rename it to ``file`` if the block succeeds."""
    path = Path(tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)[1])
    try:
        yield path
        path.rename(file)
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _migrated(file: Path) -> Iterator[Path]:
    """Give the ``file``, or a copy that is brought to this version, to the block."""
    if not _is_older(file):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        with _file_errors(file):
            path = Path(shutil.copy(file, folder))
        with _opened(path) as engine, engine.begin() as connection:
            migrate.upgrade(connection, None, may_create=False)
        yield path


def _is_older(file: Path) -> bool:
    """Return True if the backup has tables of an older version."""
    try:
        with _file_errors(file), _opened(file, read_only=True) as engine, engine.connect() as found:
            revisions = migrate.examine(found, None)
    except StartError:
        raise _no_backup(file) from None
    if revisions.current is None or revisions.is_newer:
        raise _no_backup(file)
    return revisions.is_pending


def _no_backup(file: Path) -> BackupError:
    return BackupError(f"{file} is no backup of an inbox, or one of a newer version")


@contextmanager
def _opened(path: Path, *, read_only: bool = False) -> Iterator[sa.Engine]:
    name, query = str(path), {}
    if read_only:
        name, query = f"file:{quote(str(path))}", {"mode": "ro", "uri": "true"}
    url = sa.URL.create("sqlite", database=name, query=query)
    engine = sa.create_engine(url, module=sqlite.driver, hide_parameters=True)
    try:
        yield engine
    finally:
        engine.dispose()
