"""The promises of the inbox, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable, StartError, Unstorable
from app.inbox import Claim, Failure, Inbox, NewEvent, Outcome
from app.inbox.engine import postgresql, transaction
from app.inbox.engine.postgresql_session import LOCK_TIMEOUT_MS
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context="acct_1", body=b'{"a": 1}')

#: Longer than a test takes: no lease expires during it.
LONG = 600.0
#: A lease that has expired before the next statement.
SHORT = -1.0


def claim(inbox: Inbox, event: NewEvent = EVENT) -> Claim:
    """Accept a delivery that has to get the claim."""
    accepted = inbox.deliveries.record_and_claim(event)
    assert accepted.claim is not None
    return accepted.claim


def test_new_event_is_recorded_and_claimed_at_once(inbox: Inbox) -> None:
    """The first delivery gets the claim, with the bytes as they were signed."""
    accepted = inbox.deliveries.record_and_claim(EVENT)

    event = inbox.administration.find("evt_1")
    assert event is not None
    token = event.claimed_by or ""
    assert accepted.claim == Claim(
        "evt_1", 1, "v1.customer.created", b'{"a": 1}', token, context="acct_1"
    )
    assert (event.state, event.attempt, event.deliveries) == ("running", 1, 1)
    assert (event.type, event.livemode, event.context, event.body) == (
        "v1.customer.created",
        False,
        "acct_1",
        b'{"a": 1}',
    )
    assert event.lease_until is not None
    assert event.lease_until - event.received_at == pytest.approx(LONG)
    assert event.claimed_by


def test_process_compiles_each_statement_once(make_inbox: MakeInbox) -> None:
    """A second inbox of the process compiles nothing to take, end and show an event."""
    caches = [
        *(postgresql._compile, transaction._compile),  # noqa: SLF001 - nothing else tells
        transaction._compile_batch,  # noqa: SLF001 - the same
    ]

    def compiled_and_found(event_id: str) -> tuple[int, int]:
        inbox = make_inbox()
        inbox.check()
        assert inbox.claims.finish(claim(inbox, replace(EVENT, id=event_id)))
        assert inbox.administration.find(event_id) is not None
        counts = [each.cache_info() for each in caches]
        return sum(each.misses for each in counts), sum(each.hits for each in counts)

    compiled, found = compiled_and_found("evt_1")
    again, found_again = compiled_and_found("evt_2")
    assert again == compiled
    assert found_again > found


@pytest.mark.processes
def test_no_two_claims_have_one_token(sqlite_url: str) -> None:
    """Tokens differ within a process, in its forked children, and in another inbox."""
    inbox = Inbox(sqlite_url, lease_seconds=LONG)
    names = [claim(inbox, replace(EVENT, id=f"evt_{number}")).token for number in range(3)]
    reading, writing = os.pipe()

    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                own = claim(inbox, replace(EVENT, id=f"evt_{os.getpid()}"))
                os.write(writing, f"{own.token}\n".encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as told:
        names += told.read().split()
    inbox.close()
    other = Inbox(sqlite_url, lease_seconds=LONG)
    names.append(claim(other, replace(EVENT, id="evt_other")).token)
    other.close()

    assert len(set(names)) == len(names) == 6
    assert len({name.rpartition(".")[0] for name in names}) == 4


def test_running_event_is_not_claimed_again(inbox: Inbox) -> None:
    """While a lease holds, further deliveries are counted and get no claim."""
    claim(inbox)

    again = inbox.deliveries.record_and_claim(EVENT)

    assert (again.state, again.attempt, again.claim) == ("running", 1, None)
    event = inbox.administration.find("evt_1")
    assert event is not None
    assert event.deliveries == 2


def test_first_stored_body_runs(make_inbox: MakeInbox) -> None:
    """A later delivery cannot put another body under an id that the inbox has."""
    inbox = make_inbox(SHORT)
    claim(inbox)
    raw_sql.abandon(inbox)

    again = claim(inbox, replace(EVENT, body=b"other", type="v1.other"))

    assert (again.body, again.type) == (EVENT.body, EVENT.type)


def test_orphan_can_be_taken_over(make_inbox: MakeInbox) -> None:
    """An event whose runner died is claimed by the next delivery, under the next attempt."""
    inbox = make_inbox(SHORT)
    claim(inbox)
    # An expired lease alone does not make an orphan.
    assert inbox.deliveries.record_and_claim(EVENT).claim is None
    raw_sql.abandon(inbox)

    assert claim(inbox).attempt == 2


@pytest.mark.parametrize("settle", ["finish", "fail", "mark dead", "renew"])
def test_lost_claim_cannot_settle(make_inbox: MakeInbox, settle: str) -> None:
    """Fencing: a claim of an earlier attempt changes nothing."""
    first = claim(make_inbox(SHORT))
    inbox = make_inbox(LONG)
    raw_sql.abandon(inbox)
    second = claim(inbox)
    before = inbox.administration.find("evt_1")

    assert SETTLE[settle](inbox, first) is False

    assert inbox.administration.find("evt_1") == before
    assert inbox.claims.finish(second) is True


def test_claim_lost_in_a_restore_settles_nothing(make_inbox: MakeInbox, database_url: str) -> None:
    """After a restore two processes can hold the same attempt. Only the recorded one settles."""
    inbox = make_inbox()
    forgotten = claim(inbox)
    raw_sql.execute(database_url, "DELETE FROM events")
    on_record = claim(inbox)

    assert forgotten.attempt == on_record.attempt
    assert inbox.claims.fail(forgotten, Failure("late")) is False
    assert inbox.claims.finish(on_record) is True


SETTLE: dict[str, Callable[[Inbox, Claim], bool]] = {
    "finish": lambda inbox, claim: inbox.claims.finish(claim),
    "fail": lambda inbox, claim: inbox.claims.fail(claim, Failure("late")),
    "mark dead": lambda inbox, claim: inbox.claims.mark_dead(claim, "gave_up", Failure("late")),
    "renew": lambda inbox, claim: inbox.claims.renew(claim),
}


def test_finished_event_is_never_claimed_again(inbox: Inbox) -> None:
    """Promise 2: after success there is no claim, whatever is delivered."""
    assert inbox.claims.finish(claim(inbox)) is True

    again = inbox.deliveries.record_and_claim(EVENT)

    assert (again.state, again.outcome, again.claim) == ("done", "handled", None)


def test_failed_event_is_due_at_once_for_the_next_delivery(inbox: Inbox) -> None:
    """A failure releases the event, keeps its reason, and the attempts count on."""
    assert inbox.claims.fail(claim(inbox), Failure("ValueError: no")) is True

    event = inbox.administration.find("evt_1")
    assert event is not None
    assert (event.state, event.outcome, event.reason) == ("pending", "failed", "ValueError: no")
    assert event.lease_until is None
    assert claim(inbox).attempt == 2


def test_success_forgets_the_reason_of_an_earlier_failure(inbox: Inbox) -> None:
    """A done event has no reason of an earlier failure."""
    inbox.claims.fail(claim(inbox), Failure("ValueError: no"))
    inbox.claims.finish(claim(inbox))

    event = inbox.administration.find("evt_1")
    assert event is not None
    assert (event.state, event.outcome, event.reason) == ("done", "handled", None)


def test_dead_event_is_kept_and_not_run(inbox: Inbox) -> None:
    """A dead event stays, with the reason, for a person."""
    assert inbox.claims.mark_dead(claim(inbox), "gave_up", Failure("no such plan")) is True

    again = inbox.deliveries.record_and_claim(EVENT)

    assert (again.state, again.outcome, again.claim) == ("dead", "gave_up", None)
    event = inbox.administration.find("evt_1")
    assert event is not None
    assert event.reason == "no such plan"


def test_dead_event_can_be_reopened_in_sql(inbox: Inbox, database_url: str) -> None:
    """As in the README: the state is set to pending in SQL, and the event is delivered again."""
    inbox.claims.mark_dead(claim(inbox), "gave_up", Failure("no such plan"))
    raw_sql.execute(database_url, "UPDATE events SET state = 'pending' WHERE id = 'evt_1'")

    assert inbox.claims.finish(claim(inbox)) is True


def test_settling_twice_is_settling_once(inbox: Inbox) -> None:
    """A statement whose answer was lost is sent again. It does not look like a lost claim."""
    mine = claim(inbox)

    assert inbox.claims.finish(mine) is True
    assert inbox.claims.finish(mine) is True
    assert inbox.claims.fail(mine, Failure("too late")) is False


def test_renewal_restores_an_expired_lease(make_inbox: MakeInbox) -> None:
    """A late renewal keeps the claim unless another process has taken the event."""
    mine = claim(make_inbox(SHORT))
    inbox = make_inbox(LONG)
    raw_sql.abandon(inbox)

    assert inbox.claims.renew(mine) is True

    assert inbox.deliveries.record_and_claim(EVENT).claim is None


def test_skipped_event_is_recorded_and_not_claimed(inbox: Inbox) -> None:
    """An event of the wrong mode is in the inbox, and every delivery of it is counted."""
    inbox.deliveries.record_skipped(EVENT, Outcome.WRONG_MODE)
    inbox.deliveries.record_skipped(EVENT, Outcome.WRONG_MODE)

    event = inbox.administration.find("evt_1")
    assert event is not None
    assert (event.state, event.outcome, event.attempt) == ("done", "wrong_mode", 0)
    assert event.deliveries == 2


def test_skipped_event_runs_when_it_is_delivered_again(inbox: Inbox) -> None:
    """It never ran, so a delivery after the key was corrected runs it."""
    inbox.deliveries.record_skipped(EVENT, Outcome.WRONG_MODE)

    assert claim(inbox).attempt == 1
    event = inbox.administration.find("evt_1")
    assert event is not None
    assert (event.state, event.outcome) == ("running", None)


def test_skipping_keeps_a_done_event(inbox: Inbox) -> None:
    """A delivery of the wrong mode does not change a handled event."""
    inbox.claims.finish(claim(inbox))

    assert inbox.deliveries.record_skipped(EVENT, Outcome.WRONG_MODE).outcome == "handled"


def test_of_many_deliveries_at_once_one_gets_the_claim(make_inbox: MakeInbox) -> None:
    """Deciding and recording are one statement: 100 deliveries of one event, one claim."""
    inboxes = [make_inbox() for _ in range(4)]
    for each in inboxes:
        each.migrate()  # a delivery waits for that one second at most
    ready = threading.Barrier(20)

    def deliver(number: int) -> list[Claim | None]:
        ready.wait(30)
        return [inboxes[number % 4].deliveries.record_and_claim(EVENT).claim for _ in range(5)]

    with ThreadPoolExecutor(20) as threads:
        claims = [each for claims in threads.map(deliver, range(20)) for each in claims]

    assert len([each for each in claims if each is not None]) == 1
    event = inboxes[0].administration.find("evt_1")
    assert event is not None
    assert event.deliveries == 100


def test_unknown_event_is_not_found(inbox: Inbox) -> None:
    """An id that the inbox does not have is None, not an error."""
    assert inbox.administration.find("evt_none") is None


def test_latest_events_come_first(inbox: Inbox) -> None:
    """The list is by time of receipt, and no longer than asked."""
    for number in range(3):
        inbox.deliveries.record_and_claim(replace(EVENT, id=f"evt_{number}"))

    assert [event.id for event in inbox.administration.latest(2)] == ["evt_2", "evt_1"]


def test_check_writes(inbox: Inbox, database_url: str) -> None:
    """The readiness check writes a row."""
    inbox.check()
    inbox.check()

    engine = raw_sql.make_engine(database_url)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id FROM readiness")).all()
    engine.dispose()
    assert len(rows) == 1


@pytest.mark.no_tables
def test_many_replicas_can_migrate_at_once(make_inbox: MakeInbox) -> None:
    """Ten that start together create the tables once, and all can use them."""
    inboxes = [make_inbox() for _ in range(10)]
    ready = threading.Barrier(10)

    def start(inbox: Inbox) -> None:
        ready.wait(30)
        inbox.migrate()
        inbox.check()
        inbox.close()

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(start, inboxes))


def test_start_waits_for_the_migration_of_another_process(postgresql_url: str) -> None:
    """A start waits longer than a statement waits for a row. A delivery is answered 503."""
    lock = "SELECT pg_advisory_xact_lock(hashtext('app.migrations'))"
    inbox = Inbox(postgresql_url, lease_seconds=LONG)
    engine = raw_sql.make_engine(postgresql_url)

    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as other:
            other.exec_driver_sql(lock)
            with pytest.raises(InboxUnavailable):
                inbox.migrate(fail_fast=True)
            starting = threads.submit(inbox.migrate)
            time.sleep(LOCK_TIMEOUT_MS / 1000 + 0.5)
            assert not starting.done()
        starting.result(60)

    inbox.check()
    inbox.close()
    engine.dispose()


def test_tables_of_a_newer_version_are_refused(inbox: Inbox, database_url: str) -> None:
    """An older version does not use tables of a newer one, and the error says what to do."""
    inbox.migrate()
    raw_sql.set_revision(database_url, "9999")

    with pytest.raises(StartError, match="revision 9999, made by a newer version"):
        Inbox(database_url, lease_seconds=LONG).migrate()


def test_delivery_does_not_wait_long_for_a_migration(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another thread migrates the tables, a delivery is answered 503."""
    monkeypatch.setattr("app.inbox.store.MIGRATION_WAIT_SECONDS", 0.05)

    with inbox._store._migrating, pytest.raises(InboxUnavailable) as raised:  # noqa: SLF001 - to be slow
        inbox.deliveries.record_and_claim(EVENT)
    assert raised.value.reason == "migrating"
    assert inbox.deliveries.record_and_claim(EVENT).claim is not None


def test_restarted_service_finds_what_it_recorded(make_inbox: MakeInbox) -> None:
    """A second process finds the events of the first."""
    first = make_inbox()
    first.claims.finish(claim(first))
    first.close()

    assert make_inbox().deliveries.record_and_claim(EVENT).state == "done"


def test_unreachable_postgresql_is_unavailable() -> None:
    """The error for an unreachable server holds no password."""
    inbox = Inbox("postgresql+psycopg://user:fakepassword@127.0.0.1:1/none", lease_seconds=LONG)

    with pytest.raises(InboxUnavailable) as raised:
        inbox.check()
    assert inbox.address == "postgresql+psycopg://user:***@127.0.0.1:1/none"
    assert raised.value.reason.startswith("OperationalError: connection")
    assert "fakepassword" not in raised.value.reason


def test_closed_connections_are_replaced(inbox: Inbox, database_url: str) -> None:
    """After the server ended the connections, the next delivery is recorded."""
    inbox.deliveries.record_and_claim(EVENT)
    if database_url.startswith("postgresql"):
        end_connections(database_url)

    assert inbox.deliveries.record_and_claim(replace(EVENT, id="evt_2")).claim is not None


def end_connections(url: str) -> None:
    """Let the server end every other connection to this database, as a restart does."""
    engine = raw_sql.make_engine(url)
    with engine.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()


def test_refused_value_is_no_outage(postgresql_url: str) -> None:
    """It would be refused for ever, so it raises ``Unstorable``."""
    inbox = Inbox(postgresql_url, lease_seconds=LONG)

    with pytest.raises(Unstorable, match="NUL"):
        inbox.administration.pause(by="\0", why=None)
    assert inbox.administration.pause(by="me", why=None)
    inbox.close()
