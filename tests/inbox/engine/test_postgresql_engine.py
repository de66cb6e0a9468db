"""The engine for PostgreSQL: lost connections, and what its errors show."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.inbox.engine import postgresql
from app.inbox.engine.postgresql_engine import PostgresqlEngine
from tests.support.writing import EVENT


def test_connection_that_is_lost_twice_is_given_up(postgresql_url: str) -> None:
    """A statement that loses its connection is sent once more, and then fails."""
    engine = PostgresqlEngine(postgresql_url)
    suicide = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(InboxUnavailable) as raised:
        engine.execute(suicide, {})
    assert "terminating connection" in raised.value.reason
    assert engine.execute(sa.text("SELECT 1"), {}) == (1,)
    engine.close()


def test_shortage_of_memory_is_an_outage(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later try may succeed. As an error of the value, it would make a handled event dead."""
    engine = PostgresqlEngine(postgresql_url)

    def fail(*_arguments: object) -> None:
        raise MemoryError

    # The memory of a test cannot run out at this statement.
    with monkeypatch.context() as patch:
        patch.setattr(postgresql, "_execute", fail)
        with pytest.raises(InboxUnavailable):
            engine.execute(sa.text("SELECT 1"), {})
    assert engine.execute(sa.text("SELECT 1"), {}) == (1,)
    engine.close()


def test_connection_lost_while_idle_does_not_fail_a_read(postgresql_url: str) -> None:
    """After a restart of the server a read is repeated once, on a new connection."""
    engine = PostgresqlEngine(postgresql_url)
    one = sa.text("SELECT 1")
    mine = engine.read(sa.text("SELECT pg_backend_pid()"), {})[0][0]
    engine.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": mine})

    assert engine.read(one, {})[0][0] == 1
    with pytest.raises(InboxUnavailable) as raised:
        engine.read(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"), {})
    assert "terminating connection" in raised.value.reason
    assert engine.read(one, {})[0][0] == 1
    engine.close()


def test_threads_that_ended_leave_no_connection(postgresql_url: str) -> None:
    """A thread that ends leaves its connection to other threads."""
    inbox = Inbox(postgresql_url, lease_seconds=30)
    inbox.check()
    for _ in range(5):
        thread = threading.Thread(target=inbox.check)
        thread.start()
        thread.join(30)

    count = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    # The connections of this thread, of the five threads in turn, and of the reader.
    assert inbox._store.engine.read(count, {})[0][0] <= 3  # noqa: SLF001 - no other way
    inbox.close()


def test_server_that_was_read_only_for_a_while_is_used_again(postgresql_url: str) -> None:
    """A demoted server keeps its connections open. One that refuses to write is dropped."""
    inbox = Inbox(postgresql_url, lease_seconds=30)
    inbox.check()
    engine = sa.create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    name = sa.make_url(postgresql_url).database

    def read_only(value: str) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(
                f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"
            )

    read_only("on")
    inbox.close()
    with pytest.raises(InboxUnavailable, match="not available"):
        inbox.check()
    with engine.connect() as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        connection.exec_driver_sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    engine.dispose()

    inbox.check()
    inbox.close()


def test_error_does_not_quote_the_row(postgresql_url: str) -> None:
    """PostgreSQL's error quotes the row of a failed statement, and a row holds a body."""
    inbox = Inbox(postgresql_url, lease_seconds=30)
    inbox.deliveries.record_and_claim(replace(EVENT, context="acct_of_the_row"))
    wrong = sa.text("UPDATE events SET state = 'wrong'")

    with pytest.raises(InboxUnavailable) as raised:
        inbox._store.engine.execute(wrong, {})  # noqa: SLF001 - no statement of the inbox fails so

    assert "known_state" in raised.value.reason
    assert "acct_of_the_row" not in raised.value.reason
    inbox.close()


def test_options_of_the_url_are_kept(postgresql_url: str) -> None:
    """The options in the URL hold beside the time limits of the service."""
    url = sa.make_url(postgresql_url).update_query_dict({"options": "-c work_mem=7MB"})
    inbox = Inbox(url.render_as_string(hide_password=False), lease_seconds=30)
    inbox.check()

    engine = inbox._store.engine  # noqa: SLF001 - no other way
    names = ("work_mem", "statement_timeout", "lock_timeout")
    shows = [sa.text(f"SHOW {name}") for name in names]
    assert [engine.read(show, {})[0][0] for show in shows] == ["7MB", "30s", "1s"]
    assert [engine.execute(show, {}) for show in shows] == [("7MB",), ("1200ms",), ("1s",)]
    inbox.close()
