"""The service behind PgBouncer, which lends a server connection to each transaction."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import psycopg
import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.inbox.engine.postgresql_engine import PostgresqlEngine
from tests.pooler.conftest import Pooler
from tests.support.services import ACCEPTED, DEADLINE, HANDLED, ONCE, PASSWORD, Lab, state
from tests.support.waiting import wait_for
from tests.support.writing import EVENT

SETTINGS = ("statement_timeout", "lock_timeout", "synchronous_commit", "transaction_isolation")
SHOW = sa.text("SELECT " + ", ".join(f"current_setting('{name}')" for name in SETTINGS))
CHANNEL = "events_due"


def with_password(url: str) -> str:
    """Return the URL with a password that must not be logged."""
    return sa.make_url(url).set(password=PASSWORD).render_as_string(hide_password=False)


def test_each_transaction_makes_its_own_settings(pooler: Pooler) -> None:
    """The database's defaults are weaker, and the server connections keep none of the settings."""
    engine = PostgresqlEngine(pooler.url)

    assert engine.execute(SHOW, {}) == ("1200ms", "1s", "on", "read committed")
    assert engine.execute(SHOW, {}, slow_ok=True) == ("5s", "1s", "on", "read committed")
    assert tuple(engine.read(SHOW, {})[0]) == ("30s", "1s", "on", "read committed")
    with psycopg.connect(pooler.url.replace("+psycopg", ""), prepare_threshold=None) as other:
        left = other.execute(
            "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
            " current_setting('synchronous_commit'), count(*) FROM pg_prepared_statements"
        ).fetchone()
    assert left == ("0", "0", "off", 0)
    engine.close()


def test_inboxes_share_server_connections(pooler: Pooler) -> None:
    """Twelve threads of two inboxes use two server connections, and no statement is refused."""
    inboxes = [Inbox(pooler.url, lease_seconds=30) for _ in range(2)]

    def deliver(number: int) -> bool:
        inbox = inboxes[number % 2]
        claim = inbox.deliveries.record_and_claim(replace(EVENT, id=f"evt_{number}")).claim
        assert claim is not None
        assert inbox.rescue.suspects() == []
        return inbox.claims.finish(claim)

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(deliver, range(240)))
    for inbox in inboxes:
        inbox.close()


def test_search_path_of_another_client(pooler: Pooler) -> None:
    """Another client leaves its ``search_path`` on all server connections: no event goes there."""
    inbox = Inbox(pooler.url, lease_seconds=30)
    inbox.migrate()
    url = pooler.url.replace("+psycopg", "")
    with ExitStack() as stack:
        others = [
            stack.enter_context(psycopg.connect(url, autocommit=True, prepare_threshold=None))
            for _ in range(2)
        ]
        others[0].execute("CREATE SCHEMA other_app")
        for sql in ("BEGIN", "SET search_path = other_app", "COMMIT"):
            for each in others:
                each.execute(sql)

    assert inbox.deliveries.record_and_claim(EVENT).attempt == 1
    assert inbox.administration.find(EVENT.id) is not None
    with psycopg.connect(url, prepare_threshold=None) as other:
        found = other.execute(
            "SELECT to_regclass('public.events'), to_regclass('other_app.events')"
        )
        assert [each is not None for each in found.fetchone() or ()] == [True, False]
    inbox.close()


def test_statement_is_ended_by_the_server(pooler: Pooler) -> None:
    """The limit holds without a setting of the session, and the next statement succeeds."""
    engine = PostgresqlEngine(pooler.url)

    with pytest.raises(InboxUnavailable) as raised:
        engine.execute(sa.text("SELECT pg_sleep(60)"), {})
    assert raised.value.reason == "QueryCanceled: canceling statement due to statement timeout"
    assert engine.execute(sa.text("SELECT 1"), {}) == (1,)
    engine.close()


@pytest.mark.parametrize("is_direct", [False, True])
def test_listener_uses_a_direct_connection_only(pooler: Pooler, *, is_direct: bool) -> None:
    """A session of the pooler's would be another client's at the next transaction."""
    engine = PostgresqlEngine(pooler.url, listen_url=pooler.direct_url if is_direct else None)
    notified, stopping = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        listening = threads.submit(engine.listen, CHANNEL, notified.set, stopping)

        def is_notified() -> bool:
            engine.execute(sa.text(f"SELECT pg_notify('{CHANNEL}', '')"), {})
            return notified.is_set()

        if is_direct:
            wait_for(is_notified)
        stopping.set()
        listening.result(30)
    with psycopg.connect(pooler.url.replace("+psycopg", "")) as other:
        assert other.execute("SELECT pg_listening_channels()").fetchall() == []
    engine.close()


@pytest.mark.parametrize(("processing", "answer"), [("inline", HANDLED), ("queue", ACCEPTED)])
def test_service_handles_each_event_once(
    pooler: Pooler, lab: Lab, processing: str, answer: tuple[int, str]
) -> None:
    """The service starts, migrates, and handles events that arrive at the same time."""
    url = with_password(pooler.url)
    service = lab.start(url, PROCESSING=processing)
    events = [f"evt_{number}" for number in range(40)]

    assert service.deliver(events[0]).brief == answer  # alone: samples are not made by two threads
    assert {each.brief for each in lab.pool.map(service.deliver, events[1:])} == {answer}
    wait_for(lambda: all(lab.account(event) == ONCE for event in events), DEADLINE)
    wait_for(lambda: state(url, events[0]) == ("done", "handled", 1), DEADLINE)
    assert service.is_ready()
    assert "inbox_unavailable" not in service.log


def test_pooler_as_direct_address_is_noticed(pooler: Pooler) -> None:
    """A notification does not reach a listener through the pooler."""
    engine = PostgresqlEngine(pooler.url, listen_url=pooler.url)

    assert engine.polling_reason() == "DATABASE_LISTEN_URL names a pooler or another database"
    engine.close()
