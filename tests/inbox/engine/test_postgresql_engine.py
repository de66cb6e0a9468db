"""The engine for PostgreSQL: lost connections, and what its errors show."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import psycopg
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from app.errors import InboxUnavailable, StartError, Unstorable
from app.inbox import Claim, Inbox
from app.inbox.engine import limits, postgresql_listener, postgresql_session
from app.inbox.engine.postgresql_engine import PostgresqlEngine
from app.inbox.filters import EventFilter
from tests.support.network import Path
from tests.support.waiting import wait_for
from tests.support.writing import EVENT, numbered

EVENT_BEFORE = numbered(9)
"""An event that only Stripe's list has."""


@pytest.mark.parametrize("is_pooler", [False, True])
def test_connection_that_is_lost_twice_is_given_up(postgresql_url: str, *, is_pooler: bool) -> None:
    """A statement that loses its connection is sent once more, and then fails with the reason."""
    path = Path(postgresql_url, is_pooler=is_pooler)
    engine = PostgresqlEngine(path.url)
    suicide = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(InboxUnavailable) as raised:
        engine.execute(suicide, {})
    # The server's last message can be lost with the connection.
    assert re.search(
        "terminating connection|server closed|server conn crashed", raised.value.reason
    )
    assert path.accepted == 2
    assert engine.execute(sa.text("SELECT 1"), {}) == (1,)
    engine.close()
    path.close()


def test_statement_names_the_schema_of_its_moment(postgresql_url: str) -> None:
    """A statement that was compiled for another schema is compiled once more."""
    engine = PostgresqlEngine(sa.make_url(postgresql_url))
    words = sa.select(sa.Table("words", sa.MetaData(), sa.Column("word", sa.Text)))
    for schema in ("one", "other"):
        engine.execute(sa.text(f"CREATE SCHEMA {schema}"), {})
        engine.execute(sa.text(f"CREATE TABLE {schema}.words AS SELECT '{schema}' AS word"), {})

    for schema in ("one", "other", "one"):
        engine.schema = schema
        assert engine.read(words, {}) == [(schema,)]
    engine.close()


def test_statement_that_a_pooled_server_cancels_is_not_repeated(postgresql_url: str) -> None:
    """Its connection is not lost, and a second run would take as long."""
    path = Path(postgresql_url, is_pooler=True)
    engine = PostgresqlEngine(path.url)

    with pytest.raises(InboxUnavailable) as raised:
        engine.execute(sa.text("DO $$ BEGIN RAISE query_canceled; END $$"), {})
    assert raised.value.reason.startswith("QueryCanceled")
    assert path.accepted == 1
    engine.close()
    path.close()


def test_error_that_the_caller_handles_is_not_raised_again(postgresql_url: str) -> None:
    """A result can be recorded while the error of a callback is handled."""
    path = Path(postgresql_url, is_pooler=True)
    engine = PostgresqlEngine(path.url)
    engine.execute(sa.text("SELECT 1"), {})
    path.close()

    try:
        raise ValueError("of a callback")  # noqa: TRY301 - the error that is handled
    except ValueError:
        with pytest.raises(InboxUnavailable):
            engine.execute(sa.text("SELECT 1"), {})
    engine.close()


@pytest.fixture
def losing(postgresql_url: str) -> Iterator[tuple[Inbox, Path]]:
    """An inbox with three due events, and the network path to its server."""
    path = Path(postgresql_url)
    inbox = Inbox(path.url, lease_seconds=30)
    for number in range(3):
        inbox.deliveries.enqueue(numbered(number))
    inbox.claims.claim_orphan(livemode=False)  # its connection has the time-out of a claim
    yield inbox, path
    inbox.close()
    path.close()


@pytest.mark.parametrize("which", ["due", "one", "unfinished"])
def test_claim_whose_answer_is_lost_is_found(losing: tuple[Inbox, Path], which: str) -> None:
    """A second claim would take another event. The first one would be an orphan and a crash."""
    inbox, path = losing
    if which == "unfinished":
        inbox.reconciliation.backfill(EVENT_BEFORE)
        inbox.claims.claim_orphan(livemode=False)
    claims: dict[str, Callable[[], Claim | None]] = {
        "due": partial(inbox.claims.claim_due, livemode=False),
        "one": partial(inbox.claims.claim_one, "evt_0", by="me"),
        "unfinished": partial(inbox.claims.claim_unfinished, EVENT_BEFORE.id, livemode=False),
    }

    path.lose_answer()
    claim = claims[which]()

    assert claim is not None
    assert (claim.attempt, path.accepted) == (1, 3)
    running = inbox.administration.select(EventFilter(state="running"), 9)
    assert [each.id for each in running] == [claim.event_id]
    assert inbox.claims.finish(claim)


def test_claim_that_was_not_committed_is_repeated(losing: tuple[Inbox, Path]) -> None:
    """A connection that is lost before its statement costs no claim."""
    inbox, path = losing
    end = sa.text(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with sa.create_engine(path.url, poolclass=sa.NullPool).connect() as other:
        other.execute(end)

    claim = inbox.claims.claim_due(livemode=False)
    assert claim is not None
    assert (claim.event_id, claim.attempt) == ("evt_0", 1)


def test_lost_answer_changes_no_result(losing: tuple[Inbox, Path]) -> None:
    """A statement that runs twice reports the result of its first run, and records it once."""
    inbox, path = losing
    reconciliation = inbox.reconciliation

    def lose(act: Callable[[], bool]) -> bool:
        inbox.check()  # its connection has the time-out of a write
        path.lose_answer()
        return act()

    advance = partial(
        reconciliation.advance_watermark, livemode=False, context="", type_="t", begin=0.0
    )
    assert lose(partial(advance, end=5.0))
    assert not advance(end=4.0)
    assert lose(partial(reconciliation.acquire_leadership, "name", "me", 5.0))
    assert lose(partial(reconciliation.backfill, EVENT_BEFORE))
    assert not reconciliation.backfill(EVENT_BEFORE)


def test_command_whose_answer_is_lost_fails(losing: tuple[Inbox, Path]) -> None:
    """It may have taken effect. A second run would report the opposite, or record it twice."""
    inbox, path = losing
    administration = inbox.administration

    for act in (
        partial(administration.reopen, "evt_0", by="me"),
        partial(administration.pause, by="me", why=None),
        partial(administration.resume, by="me"),
    ):
        inbox.check()
        path.lose_answer()
        with pytest.raises(InboxUnavailable, match="not available"):
            act()
    assert len(administration.retries("evt_0")) == 1
    assert administration.paused() is None


def test_pooler_is_recognised_when_the_server_process_changes(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some poolers pass on the process id. The settings then go with each statement."""
    path = Path(postgresql_url, is_pooler=True)
    # The statement of connecting finds the process of the handshake, and the next ones do not.
    same = postgresql_session._BEGIN_SESSION.replace("pg_backend_pid()", "$1")  # noqa: SLF001 - see above
    monkeypatch.setattr(postgresql_session, "_BEGIN_SESSION", same)
    engine = PostgresqlEngine(path.url)
    show = sa.text("SELECT current_setting('statement_timeout')")

    assert engine.execute(show, {}) == ("1200ms",)
    assert engine.execute(show, {}, slow_ok=True) == ("5s",)
    with engine._statements.pool.connection(0) as connection:  # noqa: SLF001 - no other way
        assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
        assert connection.prepare_threshold is None
    engine.close()
    path.close()


def test_shortage_of_memory_is_an_outage(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later try may succeed. As an error of the value, it would make a handled event dead."""
    engine = PostgresqlEngine(postgresql_url)

    def fail(*_arguments: object, **_options: object) -> None:
        raise MemoryError

    # The memory of a test cannot run out at this statement.
    with monkeypatch.context() as patch:
        patch.setattr(postgresql_session, "execute", fail)
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
    assert re.search(
        "terminating connection|server closed|server conn crashed", raised.value.reason
    )
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


def test_migration_asks_for_no_type(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy does not look for the extension hstore, which the inbox does not use."""
    # No mock: the driver's query, which must not run.
    monkeypatch.setattr(psycopg.types.TypeInfo, "fetch", lambda *_: pytest.fail("it asks"))
    with PostgresqlEngine(postgresql_url).migration() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


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


SETTINGS = ("statement_timeout", "lock_timeout", "synchronous_commit", "transaction_isolation")
SHOW = sa.text("SELECT " + ", ".join(f"current_setting('{name}')" for name in SETTINGS))


@pytest.fixture
def strict_url(make_postgresql_url: Callable[..., str], postgresql: str) -> str:
    """A database with defaults that the inbox must not use."""
    url = make_postgresql_url()
    with psycopg.connect(postgresql, autocommit=True) as connection:
        for default in ("synchronous_commit = off", "default_transaction_isolation = serializable"):
            connection.execute(f"ALTER DATABASE {sa.make_url(url).database} SET {default}")
    return url


@pytest.mark.parametrize("is_pooler", [False, True])
def test_defaults_of_the_database_do_not_count(strict_url: str, *, is_pooler: bool) -> None:
    """Commits are durable, isolation is READ COMMITTED and time is limited, behind a pooler too."""
    path = Path(strict_url, is_pooler=is_pooler)
    engine = PostgresqlEngine(path.url)
    reader = PostgresqlEngine(path.url)

    for _ in range(2):
        assert engine.execute(SHOW, {}) == ("1200ms", "1s", "on", "read committed")
        assert engine.execute(SHOW, {}, slow_ok=True) == ("5s", "1s", "on", "read committed")
    assert tuple(reader.read(SHOW, {})[0]) == ("30s", "1s", "on", "read committed")
    with engine.migration() as connection:
        values = tuple(connection.execute(SHOW).one())
    assert values == ("1min", "1s", "on", "read committed")
    engine.close()
    reader.close()
    path.close()


@pytest.mark.parametrize("is_pooler", [False, True])
def test_session_has_state_only_on_a_direct_connection(
    postgresql_url: str, *, is_pooler: bool
) -> None:
    """A pooler would give prepared statements and settings of a session to other clients."""
    path = Path(postgresql_url, is_pooler=is_pooler)
    engine = PostgresqlEngine(path.url)
    prepared = sa.text("SELECT count(*) FROM pg_prepared_statements")
    numbers = [engine.execute(prepared, {}) for _ in range(8)]

    assert numbers[-1] == (0 if is_pooler else 1,)
    (timeout,) = engine.execute(
        sa.text("SELECT reset_val FROM pg_settings WHERE name = 'statement_timeout'"), {}
    ) or ("",)
    assert timeout == "0"
    engine.close()
    path.close()


@pytest.mark.parametrize("is_pooler", [False, True])
def test_statement_that_fails_or_times_out_leaves_nothing(
    postgresql_url: str, caplog: pytest.LogCaptureFixture, *, is_pooler: bool
) -> None:
    """Its transaction is rolled back, and the next statement has a connection without an error."""
    path = Path(postgresql_url, is_pooler=is_pooler)
    engine = PostgresqlEngine(path.url)
    for sql in ("SELECT 1 / 0", "SELECT pg_sleep(60)", "no SQL"):
        with pytest.raises((InboxUnavailable, Unstorable)):
            engine.execute(sa.text(sql), {})

    assert engine.execute(sa.text("SELECT 1"), {}) == (1,)
    # On a busy machine the server's error can arrive before the commit is sent. The driver then
    # warns that the pipeline has failed too. The log of the service leaves that out.
    warned = [each.getMessage() for each in caplog.records]
    assert [each for each in warned if "error ignored terminating" not in each] == []
    engine.close()
    path.close()


def test_deliveries_are_not_refused_under_serializable(strict_url: str) -> None:
    """Threads that change the same rows wait for each other, and no delivery fails."""
    inbox = Inbox(strict_url, lease_seconds=30)
    inbox.migrate()  # a delivery would not wait long for that of another thread

    def deliver(_number: int) -> bool:
        recorded = inbox.deliveries.record_and_claim(EVENT)
        return recorded.claim is None or inbox.claims.finish(recorded.claim)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(deliver, range(80)))
    event = inbox.administration.find(EVENT.id)
    assert event is not None
    assert event.deliveries == 80
    inbox.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP"])
def test_encoding_that_lacks_characters_is_refused(
    make_postgresql_url: Callable[..., str], encoding: str
) -> None:
    """A traceback can have any character. Its result could not be recorded."""
    url = make_postgresql_url(f"ENCODING {encoding} TEMPLATE template0 LOCALE 'C'")
    inbox = Inbox(url, lease_seconds=30)

    with pytest.raises(StartError) as raised:
        inbox.migrate()
    (problem,) = raised.value.problems
    assert f"has the encoding {encoding}" in problem
    inbox.close()


def test_ascii_database_keeps_every_character(make_postgresql_url: Callable[..., str]) -> None:
    """SQL_ASCII stores bytes unchanged. The driver writes and reads them as UTF-8."""
    url = make_postgresql_url("ENCODING SQL_ASCII TEMPLATE template0 LOCALE 'C'")
    inbox = Inbox(url, lease_seconds=30)
    inbox.deliveries.record_and_claim(replace(EVENT, context="acct_é\u20ac\U0001f600"))

    event = inbox.administration.find(EVENT.id)
    assert event is not None
    assert event.context == "acct_é\u20ac\U0001f600"
    inbox.close()


def test_unanswered_statement_behind_a_pooler_ends_at_the_deadline(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The messages of one transaction share one deadline, and the driver logs nothing."""
    path = Path(postgresql_url, is_pooler=True)
    engine = PostgresqlEngine(path.url)
    assert engine.execute(sa.text("SELECT 1"), {}) == (1,)
    path.swallow()
    monkeypatch.setattr(limits, "SECONDS", 0.2)

    with pytest.raises(InboxUnavailable) as raised:
        engine.execute(sa.text("SELECT 1"), {})
    assert raised.value.reason == "TimedOut: PostgreSQL did not answer in time"
    assert caplog.records == []
    engine.close()
    path.close()


class TestListener:
    """The listener uses a direct connection, and says why it has none."""

    def test_notifications_arrive_on_a_direct_connection(self, postgresql_url: str) -> None:
        """Statements go through the pooler, and the listener uses the other address."""
        path = Path(postgresql_url, is_pooler=True)
        engine = PostgresqlEngine(path.url, listen_url=postgresql_url)

        assert engine.polling_reason() is None
        engine.close()
        path.close()

    def test_pooler_is_named(self, postgresql_url: str) -> None:
        """Behind a pooler the listener waits for the stop without a connection."""
        path = Path(postgresql_url, is_pooler=True)
        engine = PostgresqlEngine(path.url)
        stopping = threading.Event()

        assert engine.polling_reason() == "a pooler is in between"
        with capture_logs() as logs, ThreadPoolExecutor(1) as threads:
            listening = threads.submit(engine.listen, "word", lambda: None, stopping)
            wait_for(lambda: logs)
            stopping.set()
            listening.result(30)
        assert [each["event"] for each in logs] == ["listener_behind_pooler"]
        engine.close()
        path.close()

    def test_address_of_its_own_is_trusted(self, postgresql_url: str) -> None:
        """A proxy that hides the process id can keep the session, and then notifications arrive."""
        path = Path(postgresql_url, is_pooler=True)
        engine = PostgresqlEngine(postgresql_url, path.url)

        assert engine.polling_reason() is None
        engine.close()
        path.close()

    def test_other_database_is_named(
        self, make_postgresql_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A notification of the one database does not arrive in the other."""
        monkeypatch.setattr(postgresql_listener, "CHECK_SECONDS", 0.2)
        engine = PostgresqlEngine(make_postgresql_url(), listen_url=make_postgresql_url())

        assert engine.polling_reason() == "DATABASE_LISTEN_URL names a pooler or another database"
        engine.close()

    def test_address_that_cannot_be_reached_is_named(self, postgresql_url: str) -> None:
        """The driver's reason is shown. The inbox itself can be used."""
        engine = PostgresqlEngine(
            postgresql_url, listen_url="postgresql+psycopg://127.0.0.1:9/nowhere"
        )

        assert "refused" in (engine.polling_reason() or "")
        with pytest.raises(InboxUnavailable):
            engine.listen("word", lambda: None, threading.Event())
        assert engine.execute(sa.text("SELECT 1"), {}) == (1,)
        engine.close()

    @pytest.mark.parametrize("limit", [0, 1])
    def test_listener_takes_no_scarce_connection(
        self, make_limited_url: Callable[[int], str], limit: int
    ) -> None:
        """When the limit leaves no connection, or only one, the statements need it."""
        engine = PostgresqlEngine(make_limited_url(limit))
        stopping = threading.Event()
        pool = engine._statements.pool  # noqa: SLF001 - to wait for it
        with ThreadPoolExecutor(1) as threads:
            listening = threads.submit(engine.listen, "word", lambda: None, stopping)
            wait_for(lambda: pool.is_scarce)
            if limit:
                assert engine.execute(sa.text("SELECT 1"), {}) == (1,)
            stopping.set()
            listening.result(30)
        engine.close()
