"""One thread renews all leases of a process while their callbacks run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import Deferred, InboxUnavailable
from app.factory import LeaseParts, make_leases
from app.inbox import Claim, Inbox, NewEvent, Suspect
from app.inbox.claims import Claims
from app.inbox.rescue import Rescue
from app.processing.leases import Leases
from app.runtime.clocks import since_boot
from app.states import State
from tests.support import raw_sql
from tests.support.waiting import wait_for

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
LEASE = 0.3


@pytest.fixture
def inbox(database_url: str) -> Iterator[Inbox]:
    """An inbox with short leases."""
    inbox = Inbox(database_url, lease_seconds=LEASE)
    yield inbox
    close_all()
    inbox.close()


@pytest.fixture
def log_text(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """A function that returns all log lines of the test so far, in whatever format."""
    pieces: list[str] = []

    def read() -> str:
        pieces.extend(capsys.readouterr())
        return "".join(pieces)

    return read


MADE: list[LeaseParts] = []


def make_parts(inbox: Inbox, lease_seconds: float = LEASE) -> LeaseParts:
    """Return a lease thread, which ends with the test, and its parts."""
    MADE.append(make_leases(inbox, lease_seconds))
    return MADE[-1]


def make(inbox: Inbox) -> Leases:
    """Return a lease thread, which ends with the test."""
    return make_parts(inbox).leases


def close_all() -> None:
    """End the threads of this test."""
    while MADE:
        MADE.pop().leases.close()


def claim(inbox: Inbox, event: NewEvent = EVENT) -> Claim:
    """Record a delivery that gets the claim."""
    accepted = inbox.deliveries.record_and_claim(event)
    assert accepted.claim is not None
    return accepted.claim


def lease_end(inbox: Inbox) -> float:
    """Return when the lease of the event ends."""
    event = inbox.administration.find("evt_1")
    assert event is not None
    assert event.lease_until is not None
    return event.lease_until


def test_lease_is_renewed_while_the_callback_runs(inbox: Inbox) -> None:
    """While a callback runs for many leases, no other delivery gets the claim."""
    mine = claim(inbox)
    first = lease_end(inbox)

    with make(inbox).renewing(mine):
        wait_for(lambda: lease_end(inbox) > first + 3 * LEASE)
        assert inbox.deliveries.record_and_claim(EVENT).claim is None
    assert inbox.claims.finish(mine)


def test_lease_is_not_renewed_after_the_callback(inbox: Inbox) -> None:
    """An event whose result was not recorded is an orphan after its grace."""
    mine = claim(inbox)
    with make(inbox).renewing(mine):
        pass

    wait_for(lambda: inbox.deliveries.record_and_claim(EVENT).claim is not None)


def test_lost_claim_is_logged_once_and_not_renewed(
    inbox: Inbox, log_text: Callable[[], str]
) -> None:
    """One warning is logged, and the lease of the attempt that claimed the event stays."""
    first = claim(inbox)
    wait_for(inbox.rescue.suspects)
    raw_sql.abandon(inbox)
    claim(inbox)

    # As if the claim was just made: an older one is verified before it is held.
    with make(inbox).renewing(replace(first, asked_at=since_boot())):
        wait_for(lambda: "lease_lost" in log_text())
        stop = threading.Event()
        stop.wait(LEASE)
    assert log_text().count("lease_lost") == 1


def test_late_claim_is_verified_before_it_is_held(inbox: Inbox) -> None:
    """The process was stopped right after its claim, so another one may have claimed the event."""
    late = replace(claim(inbox), asked_at=since_boot() - 60)
    parts = make_parts(inbox)
    with parts.leases.renewing(late):
        pass
    wait_for(inbox.rescue.suspects)
    raw_sql.abandon(inbox)
    claim(inbox)

    with pytest.raises(Deferred), parts.leases.renewing(late):
        pytest.fail("it is not held")
    assert not parts.held


class FlakyClaims(Claims):
    """The real claims. The next ``failures`` renewals raise ``how``.

    A subclass, because no real database can be unreachable for one statement.

    """

    failures = 0
    how: Exception = InboxUnavailable("away", reason="away")

    def renew(self, claim: Claim) -> bool:
        """Raise while there are failures left."""
        if self.failures:
            self.failures -= 1
            raise self.how
        return super().renew(claim)

    def renew_all(self, claims: list[Claim]) -> None:
        """Raise while there are failures left."""
        if self.failures:
            raise self.how
        super().renew_all(claims)


class Flaky(Inbox):
    """An inbox with these claims."""

    def __init__(self, url: str, *, lease_seconds: float) -> None:
        """Take the arguments of an inbox."""
        super().__init__(url, lease_seconds=lease_seconds)
        self.flaky = self.claims = FlakyClaims(self._store)


@pytest.mark.parametrize(
    "how", [InboxUnavailable("away", reason="away"), RuntimeError("unforeseen")]
)
def test_failed_renewal_is_retried_within_the_lease(
    sqlite_url: str, log_text: Callable[[], str], how: Exception
) -> None:
    """A short outage does not lose the claim, and no error ends the thread."""
    inbox = Flaky(sqlite_url, lease_seconds=LEASE)
    inbox.flaky.how = how
    mine = claim(inbox)
    first = lease_end(inbox)
    inbox.flaky.failures = 1

    with make(inbox).renewing(mine):
        wait_for(lambda: lease_end(inbox) > first)
    assert "lease_not_renewed" in log_text()
    close_all()
    inbox.close()


def test_unexpected_error_is_logged_with_its_event(
    sqlite_url: str, log_text: Callable[[], str]
) -> None:
    """A failed renewal names its event, and does not prevent the search for orphans."""

    class Broken(Rescue):
        def suspects(self) -> list[Suspect]:
            raise RuntimeError("unforeseen")

    inbox = Flaky(sqlite_url, lease_seconds=LEASE)
    inbox.rescue = Broken(inbox._store)  # noqa: SLF001 - only one of its parts is broken
    inbox.flaky.how = RuntimeError("unforeseen")
    mine = claim(inbox)
    first = lease_end(inbox)
    inbox.flaky.failures = 1

    with make(inbox).renewing(mine):
        wait_for(lambda: lease_end(inbox) > first)
    close_all()
    inbox.close()

    lines = log_text().splitlines()
    assert any("lease_not_renewed" in line and "evt_1" in line for line in lines)
    assert any("rescue_failed" in line for line in lines)


def test_outage_is_logged_once_for_all_claims(sqlite_url: str, log_text: Callable[[], str]) -> None:
    """One line for each outage, not for each try or each claim."""
    inbox = Flaky(sqlite_url, lease_seconds=LEASE)
    mine = [claim(inbox, replace(EVENT, id=f"evt_{number}")) for number in range(1, 4)]
    leases = make(inbox)

    def is_over(outage: int) -> bool:
        return not inbox.flaky.failures and log_text().count("inbox_available") == outage

    with contextlib.ExitStack() as stack:
        for each in mine:
            stack.enter_context(leases.renewing(each))
        for outage in (1, 2):
            inbox.flaky.failures = 9
            wait_for(partial(is_over, outage))
            assert log_text().count("lease_not_renewed") == outage
    close_all()
    inbox.close()


def test_outage_is_logged_without_claims(sqlite_url: str, log_text: Callable[[], str]) -> None:
    """Without a lease to renew, the lines are about the inbox alone."""
    inbox = Inbox(sqlite_url, lease_seconds=LEASE)
    inbox.migrate()
    file = Path(str(sa.make_url(sqlite_url).database))

    make(inbox).start()
    file.rename(f"{file}.away")
    wait_for(lambda: "inbox_unavailable" in log_text())
    Path(f"{file}.away").rename(file)
    wait_for(lambda: "inbox_available" in log_text())

    assert log_text().count("inbox_unavailable") == 1
    assert "lease_not_renewed" not in log_text()
    close_all()
    inbox.close()


def test_deferred_result_is_recorded_after_the_outage(inbox: Inbox) -> None:
    """The result is kept, and the event held, until the inbox records the result."""
    mine = claim(inbox)
    first = lease_end(inbox)
    parts = make_parts(inbox)
    away = threading.Event()
    away.set()
    tried: list[bool] = []

    def settle() -> bool:
        if away.is_set():
            tried.append(False)
            raise InboxUnavailable("away", reason="away")
        return inbox.claims.finish(mine)

    with parts.leases.renewing(mine):
        parts.deferred.add(mine, settle)
    wait_for(lambda: lease_end(inbox) > first + 2 * LEASE and len(tried) > 1)
    away.clear()

    wait_for(
        lambda: (
            (found := inbox.administration.find("evt_1")) is not None and found.state == State.DONE
        )
    )
    assert inbox.administration.find("evt_1") is not None


def count_threads() -> int:
    """Return the number of lease threads."""
    return [each.name for each in threading.enumerate()].count("leases")


def test_one_thread_serves_all_claims(inbox: Inbox) -> None:
    """Many callbacks need only one thread to renew their leases."""
    leases = make(inbox)
    before = count_threads()
    first = claim(inbox)
    second = claim(inbox, NewEvent("evt_2", "v1.x", livemode=False, context=None, body=b"{}"))

    with leases.renewing(first), leases.renewing(second):
        assert count_threads() == before + 1


def test_long_callback_is_logged(inbox: Inbox, log_text: Callable[[], str]) -> None:
    """Its lease is renewed without end, so warnings are logged again and again."""
    mine = claim(inbox)
    with make(inbox).renewing(mine):
        wait_for(lambda: log_text().count("callback_still_running") > 1)


def test_claim_is_not_held_when_no_thread_can_start(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process at its limit of threads does not hold an event that it does not run."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    parts = make_parts(inbox)
    mine = claim(inbox)
    # The limit of threads belongs to the user: it cannot be lowered for one test.
    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(RuntimeError, match="new thread"), parts.leases.renewing(mine):
        pass

    assert not parts.held


def test_renewal_after_the_result_is_no_lost_lease(
    inbox: Inbox, log_text: Callable[[], str]
) -> None:
    """The result may be recorded right before the lease thread renews the lease."""
    mine, parts = claim(inbox), make_parts(inbox, 600)  # the thread itself renews nothing
    with parts.leases.renewing(mine):
        held = parts.held._held[mine]  # noqa: SLF001 - a test cannot choose that moment
        inbox.claims.finish(mine)
    parts.held.renew(mine, held)

    assert not held.lost
    assert "lease_lost" not in log_text()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_locked_rows_keep_no_other_lease_from_being_renewed(database_url: str) -> None:
    """Each renewal of a locked row waits for a second. Twelve of them take longer than a lease."""
    inbox = Inbox(database_url, lease_seconds=6)
    mine = [claim(inbox, replace(EVENT, id=f"evt_{number}")) for number in range(1, 14)]
    leases = make_parts(inbox, 6).leases
    locked = [each.event_id for each in mine[1:]]
    with contextlib.ExitStack() as stack:
        for each in reversed(mine):
            stack.enter_context(leases.renewing(each))
        stack.enter_context(raw_sql.locking(database_url, *locked))
        wait_for(lambda: len(inbox.rescue.suspects()) >= len(locked))
        end = time.monotonic() + 12
        while time.monotonic() < end:
            assert "evt_1" not in {each.event_id for each in inbox.rescue.suspects()}
            time.sleep(0.05)
    close_all()
    inbox.close()


def test_claim_is_identified_by_event_and_token(inbox: Inbox, database_url: str) -> None:
    """When the answer to a claim is lost, it is repeated, and two events have one token.

    One of them is held. The other one is an orphan, even if there is no other process.

    """
    lost, mine = claim(inbox), claim(inbox, replace(EVENT, id="evt_2"))
    raw_sql.execute(database_url, f"UPDATE events SET claimed_by = '{mine.token}'")  # noqa: S608 - a test's own
    assert lost.token != mine.token

    with make(inbox).renewing(mine):
        wait_for(
            lambda: (found := inbox.administration.find("evt_1")) is not None and found.is_orphan
        )
        assert not inbox.administration.find("evt_2").is_orphan  # type: ignore[union-attr]  # it is there


def test_lines_name_the_account(inbox: Inbox, log_text: Callable[[], str]) -> None:
    """The log lines of a connected account's event name the account."""
    mine = claim(inbox, replace(EVENT, context="acct_1"))
    parts = make_parts(inbox)
    with parts.leases.renewing(mine):
        parts.deferred.add(mine, lambda: inbox.claims.finish(mine))
    wait_for(lambda: "acct_1" in log_text())
