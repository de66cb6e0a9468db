"""Indexes that are built beside deliveries, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Inbox, NewEvent
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox
from tests.support.waiting import wait_for

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
TYPE, OBJECT = "stripe_receiver_type", "stripe_receiver_object"
#: Any process that builds an index is seen here.
BUILDING = "(SELECT 1 FROM pg_stat_progress_create_index WHERE relid = 'events'::regclass) AS built"


@pytest.fixture
def make_inbox(open_inbox: MakeInbox, postgresql_url: str) -> MakeInbox:
    """A function that opens the test's database."""

    def make(schema: str | None = None) -> Inbox:
        return open_inbox(postgresql_url, schema=schema)

    return make


@pytest.fixture
def inbox(make_inbox: MakeInbox, postgresql_url: str) -> Inbox:
    """An inbox with one event that lacks an index."""
    inbox = make_inbox()
    inbox.deliveries.enqueue(EVENT)
    raw_sql.execute(postgresql_url, f"DROP INDEX {TYPE}")
    return inbox


@contextmanager
def writing(url: str) -> Iterator[None]:
    """Keep a transaction open that has written into the table. A build waits for its end."""
    engine = raw_sql.make_engine(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        connection.execute(sa.text("UPDATE events SET reason = 'open' WHERE id = 'evt_1'"))
        yield
    engine.dispose()


@contextmanager
def building(url: str, build: Callable[[], list[str]]) -> Iterator[Future[list[str]]]:
    """Run ``build`` in a thread. In the block it has begun and cannot end."""
    with ThreadPoolExecutor(1) as pool:
        with writing(url):
            built = pool.submit(build)
            wait_for(lambda: raw_sql.select(url, BUILDING) or built.done())
            assert not built.done()
            yield built
        built.exception()


def test_deliveries_go_on(inbox: Inbox, make_inbox: MakeInbox, postgresql_url: str) -> None:
    """While an index is built, events are recorded, claimed and settled. One process builds."""
    with building(postgresql_url, inbox.indexes.build) as built:
        another = make_inbox()
        assert another.indexes.build() == []
        another.deliveries.enqueue(replace(EVENT, id="evt_2"))
        claim = another.claims.claim_one("evt_2", by="me")
        assert claim is not None
        assert another.claims.finish(claim)
        assert not built.done()
    assert built.result() == [TYPE]
    assert inbox.indexes.missing() == []


def test_build_has_no_time_limit(inbox: Inbox, postgresql_url: str) -> None:
    """The limits of the database are for short statements. A process can wait for another one."""
    database = sa.make_url(postgresql_url).database
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        raw_sql.execute(postgresql_url, f'ALTER DATABASE "{database}" SET {name} = 200')
    with ThreadPoolExecutor(1) as pool, building(postgresql_url, inbox.indexes.build) as built:
        waiting = pool.submit(inbox.indexes.build, waits=True)
        with pytest.raises(TimeoutError):
            built.result(0.5)
        assert not waiting.done()
    assert built.result() == [TYPE]
    assert waiting.result() == []


def test_interrupted_build_is_repeated(inbox: Inbox, postgresql_url: str) -> None:
    """An index that was not completed is missing, and the next build replaces it."""
    with building(postgresql_url, inbox.indexes.build) as built:
        raw_sql.select(
            postgresql_url,
            "(SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index) AS cancelled",
        )
        with pytest.raises(InboxUnavailable):
            built.result()
    assert inbox.indexes.missing() == [TYPE]
    assert inbox.indexes.build() == [TYPE]
    assert inbox.indexes.missing() == []


def test_index_of_a_killed_process_is_kept(inbox: Inbox, postgresql_url: str) -> None:
    """The server goes on after its client was killed. The next process waits for the end."""

    def build_without_a_lock() -> list[str]:
        engine = raw_sql.make_engine(postgresql_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY {TYPE} ON events (type)")
        engine.dispose()
        return []

    with ThreadPoolExecutor(1) as pool, building(postgresql_url, build_without_a_lock):
        waiting = pool.submit(inbox.indexes.build)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
    assert waiting.result() == []


@pytest.mark.parametrize("schema", [None, 'Odd "name'])
def test_migration_of_a_large_inbox_leaves_the_indexes(
    make_inbox: MakeInbox, postgresql_url: str, schema: str | None
) -> None:
    """A table with events is migrated without its new indexes, and a new one with all of them."""
    inbox = make_inbox(schema)
    inbox.migrate()
    inbox.deliveries.enqueue(EVENT)
    assert inbox.indexes.missing() == []
    quoted = "" if schema is None else '"Odd ""name".'
    raw_sql.execute(postgresql_url, f"DROP INDEX {quoted}{OBJECT}, {quoted}{TYPE}")
    assert make_inbox(schema).indexes.build() == [TYPE, OBJECT]
    if schema is None:
        raw_sql.make_older(postgresql_url, "0005")
        older = make_inbox()
        older.deliveries.enqueue(EVENT)
        assert len(older.indexes.missing()) == 6
        assert len(older.indexes.build()) == 6


def test_sqlite_lacks_none(sqlite_url: str) -> None:
    """On SQLite the migration creates the indexes, and there is nothing to build."""
    inbox = Inbox(sqlite_url, lease_seconds=600)
    inbox.migrate()
    inbox.close()
    raw_sql.make_older(sqlite_url, "0005")
    inbox = Inbox(sqlite_url, lease_seconds=600)
    inbox.deliveries.enqueue(EVENT)
    assert inbox.indexes.missing() == inbox.indexes.build() == []
    inbox.close()
