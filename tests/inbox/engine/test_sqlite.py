"""SQLite: the version that is safe, and how a connection is set up."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sqlalchemy as sa

from app.inbox import Inbox
from app.inbox.engine import sqlite
from tests.support.writing import EVENT


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 40, 1), "TRUNCATE"),
        ((3, 44, 5), "TRUNCATE"),
        ((3, 44, 6), "WAL"),
        ((3, 45, 0), "TRUNCATE"),
        ((3, 46, 1), "TRUNCATE"),
        ((3, 50, 6), "TRUNCATE"),
        ((3, 50, 7), "WAL"),
        ((3, 51, 2), "TRUNCATE"),
        ((3, 51, 3), "WAL"),
        ((4, 0, 0), "WAL"),
    ],
)
def test_wal_is_used_only_where_it_cannot_lose_commits(version: tuple[int, ...], mode: str) -> None:
    """The WAL-reset bug is in all versions before 3.51.3 but two backports."""
    assert sqlite.journal_mode(version) == mode


def pragma(inbox: Inbox, name: str) -> object:
    """Return one of SQLite's settings, on a connection of the inbox."""
    rows = inbox._store.engine.read(sa.text(f"PRAGMA {name}"), {})  # noqa: SLF001 - no other way
    return rows[0][0]


def test_sqlite_runs_in_wal_with_the_correction(sqlite_url: str) -> None:
    """The package pysqlite3 brings a SQLite in which WAL is safe."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()

    assert pragma(inbox, "journal_mode") == "wal"
    assert pragma(inbox, "synchronous") == 1  # NORMAL
    assert pragma(inbox, "busy_timeout") == sqlite.BUSY_TIMEOUT_MS
    inbox.close()


def test_affected_sqlite_is_used_without_wal_and_warned_about_once(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine without a corrected SQLite the service is slower, not unsafe."""
    monkeypatch.setattr(sqlite, "VERSION", (3, 40, 1))
    inbox = Inbox(sqlite_url, lease_seconds=30)

    inbox.migrate()
    inbox.migrate()
    assert inbox.deliveries.record_and_claim(EVENT).claim is not None

    assert pragma(inbox, "journal_mode") == "truncate"
    assert pragma(inbox, "synchronous") == 2  # FULL
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("sqlite_without_wal") == 1
    inbox.close()


@pytest.mark.processes
@pytest.mark.measured
def test_without_the_wheel_pythons_own_sqlite_is_used() -> None:
    """On a platform without a wheel of pysqlite3 the service still starts."""
    code = (
        "import sys; sys.modules['pysqlite3'] = None\n"
        "from app.inbox.engine import sqlite\n"
        "import sqlite3; print(sqlite.driver is sqlite3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "True\n"
