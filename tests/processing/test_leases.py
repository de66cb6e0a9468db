"""Leases are renewed while a callback runs, by one thread for all of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import Deferred, InboxUnavailable
from app.inbox import Claim, Inbox, NewEvent, Suspect
from app.inbox.claims import Claims
from app.inbox.rescue import Rescue
from app.processing.leases import Leases
from app.runtime.clocks import since_boot
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


MADE: list[Leases] = []


def make(inbox: Inbox) -> Leases:
    """Return leases of this test, which ends their thread."""
    MADE.append(Leases(inbox.claims, inbox.rescue, LEASE))
    return MADE[-1]


def close_all() -> None:
    """End the threads of this test."""
    while MADE:
        MADE.pop().close()


def claim(inbox: Inbox, event: NewEvent = EVENT) -> Claim:
    """Accept a delivery that has to get the claim."""
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
    """A callback of many leases' length keeps its event: nobody else gets the claim."""
    mine = claim(inbox)
    first = lease_end(inbox)

    with make(inbox).held(mine):
        wait_for(lambda: lease_end(inbox) > first + 3 * LEASE)
        assert inbox.deliveries.record_and_claim(EVENT).claim is None
    assert inbox.claims.finish(mine)


def test_lease_is_not_renewed_after_the_callback(inbox: Inbox) -> None:
    """An event that was let go without being settled is an orphan when its grace is over."""
    mine = claim(inbox)
    with make(inbox).held(mine):
        pass

    wait_for(lambda: inbox.deliveries.record_and_claim(EVENT).claim is not None)


def test_lost_claim_is_said_once_and_not_renewed(
    inbox: Inbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """When another attempt has the event, there is a warning, and that attempt is let alone."""
    first = claim(inbox)
    wait_for(inbox.rescue.suspects)
    raw_sql.abandon(inbox)
    claim(inbox)

    seen: list[str] = []

    def look() -> str:
        seen.append(said(capsys))
        return "".join(seen)

    # As if it had just been asked for: an older claim is verified before it is held.
    with make(inbox).held(replace(first, asked_at=since_boot())):
        wait_for(lambda: "lease_lost" in look())
        stop = threading.Event()
        stop.wait(LEASE)
    assert look().count("lease_lost") == 1


def test_claim_that_is_late_is_verified_before_it_is_held(inbox: Inbox) -> None:
    """The process was stopped right after it asked: the event may run elsewhere by now."""
    late = replace(claim(inbox), asked_at=since_boot() - 60)
    leases = make(inbox)
    with leases.held(late):
        pass
    wait_for(inbox.rescue.suspects)
    raw_sql.abandon(inbox)
    claim(inbox)

    with pytest.raises(Deferred), leases.held(late):
        pytest.fail("it is not held")
    assert not leases._held  # noqa: SLF001 - nothing else tells


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was logged since the last look, whatever logging is set up to."""
    printed = capsys.readouterr()
    return printed.out + printed.err


class FlakyClaims(Claims):
    """The real claims, except that the next ``failures`` renewals find the inbox unreachable.

    A subclass, because no real database can be away for just one statement.
    """

    failures = 0
    how: Exception = InboxUnavailable("away", reason="away")

    def renew(self, claim: Claim) -> bool:
        """Fail as often as told."""
        if self.failures:
            self.failures -= 1
            raise self.how
        return super().renew(claim)

    def renew_all(self, claims: list[Claim]) -> None:
        """Fail as long as the others do."""
        if self.failures:
            raise self.how
        super().renew_all(claims)


class Flaky(Inbox):
    """An inbox with such claims."""

    def __init__(self, url: str, *, lease_seconds: float) -> None:
        """Take what an inbox takes."""
        super().__init__(url, lease_seconds=lease_seconds)
        self.flaky = self.claims = FlakyClaims(self._store)


@pytest.mark.parametrize(
    "how", [InboxUnavailable("away", reason="away"), RuntimeError("unforeseen")]
)
def test_failed_renewal_is_tried_again_within_the_lease(
    sqlite_url: str, capsys: pytest.CaptureFixture[str], how: Exception
) -> None:
    """An inbox that is away for a moment does not cost the claim, and nothing ends the thread."""
    inbox = Flaky(sqlite_url, lease_seconds=LEASE)
    inbox.flaky.how = how
    mine = claim(inbox)
    first = lease_end(inbox)
    inbox.flaky.failures = 1

    with make(inbox).held(mine):
        wait_for(lambda: lease_end(inbox) > first)
    assert "lease_not_renewed" in said(capsys)
    close_all()
    inbox.close()


def test_unforeseen_failure_is_logged_with_its_event(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A renewal that fails names its event, and a failed look for orphans keeps none from it."""

    class Broken(Rescue):
        def suspects(self) -> list[Suspect]:
            raise RuntimeError("unforeseen")

    inbox = Flaky(sqlite_url, lease_seconds=LEASE)
    inbox.rescue = Broken(inbox._store)  # noqa: SLF001 - only one of its parts is broken
    inbox.flaky.how = RuntimeError("unforeseen")
    mine = claim(inbox)
    first = lease_end(inbox)
    inbox.flaky.failures = 1

    with make(inbox).held(mine):
        wait_for(lambda: lease_end(inbox) > first)
    close_all()
    inbox.close()

    lines = said(capsys).splitlines()
    assert any("lease_not_renewed" in line and "evt_1" in line for line in lines)
    assert any("rescue_failed" in line for line in lines)


def test_outage_is_said_once_however_many_wait(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not at every try and not for every claim; the next outage is said again."""
    inbox = Flaky(sqlite_url, lease_seconds=LEASE)
    mine = [claim(inbox, replace(EVENT, id=f"evt_{number}")) for number in range(1, 4)]
    leases = make(inbox)
    seen: list[str] = []

    def count(event: str) -> int:
        seen.append(said(capsys))
        return "".join(seen).count(event)

    def is_over(outage: int) -> bool:
        return not inbox.flaky.failures and count("inbox_available") == outage

    with contextlib.ExitStack() as stack:
        for each in mine:
            stack.enter_context(leases.held(each))
        for outage in (1, 2):
            inbox.flaky.failures = 9
            wait_for(partial(is_over, outage))
            assert count("lease_not_renewed") == outage
    close_all()
    inbox.close()


def test_outage_is_said_where_nothing_runs(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a lease to renew the line is about the inbox alone, and so is that of its end."""
    inbox = Inbox(sqlite_url, lease_seconds=LEASE)
    inbox.migrate()
    file = Path(str(sa.make_url(sqlite_url).database))
    seen: list[str] = []

    def is_said(word: str) -> bool:
        seen.append(said(capsys))
        return word in "".join(seen)

    make(inbox).start()
    file.rename(f"{file}.away")
    wait_for(partial(is_said, "inbox_unavailable"))
    Path(f"{file}.away").rename(file)
    wait_for(partial(is_said, "inbox_available"))

    assert "".join(seen).count("inbox_unavailable") == 1
    assert not is_said("lease_not_renewed")
    close_all()
    inbox.close()


def test_what_could_not_be_settled_is_held_and_settled_later(inbox: Inbox) -> None:
    """The result of a callback is kept, and its event held, until the inbox takes it."""
    mine = claim(inbox)
    first = lease_end(inbox)
    leases = make(inbox)
    away = threading.Event()
    away.set()
    tried: list[bool] = []

    def settle() -> bool:
        if away.is_set():
            tried.append(False)
            raise InboxUnavailable("away", reason="away")
        return inbox.claims.finish(mine)

    with leases.held(mine):
        leases.defer_result(mine, settle)
    wait_for(lambda: lease_end(inbox) > first + 2 * LEASE and len(tried) > 1)
    away.clear()

    wait_for(
        lambda: (found := inbox.administration.find("evt_1")) is not None and found.state == "done"
    )
    assert inbox.administration.find("evt_1") is not None


def count_threads() -> int:
    """Return how many threads there are that keep leases."""
    return [each.name for each in threading.enumerate()].count("leases")


def test_one_thread_serves_all_claims(inbox: Inbox) -> None:
    """Many callbacks at once do not need many threads to keep their leases."""
    leases = make(inbox)
    before = count_threads()
    first = claim(inbox)
    second = claim(inbox, NewEvent("evt_2", "v1.x", livemode=False, context=None, body=b"{}"))

    with leases.held(first), leases.held(second):
        assert count_threads() == before + 1


def test_callback_that_does_not_return_is_said(
    inbox: Inbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lease goes on as long as it runs, so somebody has to hear of it, and not too often."""
    mine = claim(inbox)
    seen: list[str] = []

    def look() -> int:
        seen.append(said(capsys))
        return "".join(seen).count("callback_still_running")

    with make(inbox).held(mine):
        wait_for(lambda: look() == 2)


def test_claim_is_let_go_when_no_thread_can_be_started(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process at its limit of threads does not hold an event that it does not run."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    leases = make(inbox)
    mine = claim(inbox)
    # The limit of threads is the whole user's: it cannot be lowered for one test alone.
    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(RuntimeError, match="new thread"), leases.held(mine):
        pass

    assert not leases._held  # noqa: SLF001 - nothing else tells


def test_renewal_that_comes_after_the_end_is_no_loss(
    inbox: Inbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the look at what is due and its renewal a callback can end, and settle its claim."""
    mine, leases = claim(inbox), make(inbox)
    with leases.held(mine):
        held = leases._held[mine]  # noqa: SLF001 - the moment between the two cannot be chosen
        inbox.claims.finish(mine)
    leases._renew(mine, held)  # noqa: SLF001 - as above

    assert not held.lost
    assert "lease_lost" not in capsys.readouterr().err


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_locked_rows_keep_no_other_lease_from_being_renewed(database_url: str) -> None:
    """Each of them is waited for, for a second. Twelve are more than the whole lease."""
    inbox = Inbox(database_url, lease_seconds=6)
    mine = [claim(inbox, replace(EVENT, id=f"evt_{number}")) for number in range(1, 14)]
    leases = Leases(inbox.claims, inbox.rescue, 6)
    MADE.append(leases)
    locked = [each.event_id for each in mine[1:]]
    with contextlib.ExitStack() as stack:
        for each in reversed(mine):
            stack.enter_context(leases.held(each))
        stack.enter_context(raw_sql.locking(database_url, *locked))
        wait_for(lambda: len(inbox.rescue.suspects()) >= len(locked))
        end = time.monotonic() + 12
        while time.monotonic() < end:
            assert "evt_1" not in {each.event_id for each in inbox.rescue.suspects()}
            time.sleep(0.05)
    close_all()
    inbox.close()


def test_token_of_a_claim_is_not_the_claim(inbox: Inbox, database_url: str) -> None:
    """A claim whose answer was lost is asked for again: two events then have one token.

    One of them is held. The other one is an orphan, also where this is the only process.
    """
    lost, mine = claim(inbox), claim(inbox, replace(EVENT, id="evt_2"))
    raw_sql.execute(database_url, f"UPDATE events SET claimed_by = '{mine.token}'")  # noqa: S608 - a test's own
    assert lost.token != mine.token

    with make(inbox).held(mine):
        wait_for(
            lambda: (found := inbox.administration.find("evt_1")) is not None and found.is_orphan
        )
        assert not inbox.administration.find("evt_2").is_orphan  # type: ignore[union-attr]  # it is there


def test_lines_name_the_account(inbox: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an event of a connected account, the line says whose it is."""
    mine = claim(inbox, replace(EVENT, context="acct_1"))
    leases = make(inbox)
    with leases.held(mine):
        leases.defer_result(mine, lambda: inbox.claims.finish(mine))
    seen: list[str] = []

    def look() -> str:
        seen.append(said(capsys))
        return "".join(seen)

    wait_for(lambda: "acct_1" in look())
