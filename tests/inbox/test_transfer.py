"""Exports and imports: whole events, from each database to each, and nothing that runs twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.inbox import Claim, Event, Failure, Inbox, NewEvent
from app.inbox.records import Record, read_record
from app.inbox.transfer import Added
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox

EVENT = NewEvent(
    "evt_done", "v1.customer.created", livemode=False, context="acct_1", body=b'{"a": "\xc3\xbc"}'
)
IDS = ["evt_done", "evt_dead", "evt_pending", "evt_running", "evt_bytes"]


@pytest.fixture
def inbox(open_inbox: MakeInbox, database_url: str) -> Inbox:
    """An inbox with an event of each kind."""
    inbox = open_inbox(database_url)
    failure = Failure("no", "at line 1", fingerprint="f1", release="r1")
    inbox.claims.fail(claim(inbox, "evt_done"), failure)
    inbox.claims.finish(claim(inbox, "evt_done"))
    inbox.effects.record("evt_done", "mail")
    inbox.pairs.note("evt_done", "evt_snapshot")
    for why in (None, "plan added"):
        raw_sql.note_retry(database_url, "evt_done", why=why)
    inbox.claims.mark_dead(claim(inbox, "evt_dead"), "gave_up", failure)
    inbox.claims.fail(claim(inbox, "evt_pending"), failure)
    claim(inbox, "evt_running")
    inbox.deliveries.enqueue(replace(EVENT, id="evt_bytes", body=b"\xff\x00"))
    return inbox


@pytest.fixture
def target(request: pytest.FixtureRequest, open_inbox: MakeInbox, tmp_path: Path) -> Inbox:
    """Another inbox, which is empty, in the database that the test names."""
    is_file = request.param == "sqlite"
    inbox = (
        open_inbox(f"sqlite:///{tmp_path}/target/inbox.sqlite3")
        if is_file
        else open_inbox(request.getfixturevalue("postgresql_url"), schema="target")
    )
    inbox.migrate()
    return inbox


def claim(inbox: Inbox, event_id: str) -> Claim:
    """Deliver an event that has to get the claim."""
    found = inbox.deliveries.record_and_claim(replace(EVENT, id=event_id)).claim
    assert found is not None
    return found


def records(inbox: Inbox, *event_ids: str) -> list[Record]:
    """Return the events as they are read from the lines of an export."""
    return [
        read_record(json.dumps(each).encode())
        for each in inbox.transfer.read(event_ids or tuple(IDS))
    ]


def find(inbox: Inbox, event_id: str) -> Event:
    """Return an event that has to be there."""
    event = inbox.administration.find(event_id)
    assert event is not None
    return event


@pytest.mark.parametrize("target", ["sqlite", "postgresql"], indirect=True)
def test_events_reach_the_other_inbox_whole(inbox: Inbox, target: Inbox) -> None:
    """Body, history and times are the same. A second import adds nothing, and changes nothing."""
    given = records(inbox)
    assert target.transfer.add(given, runnable=False) == Added(5, 0, 3)
    settled = ["evt_done", "evt_dead"]
    assert target.transfer.read(settled) == inbox.transfer.read(settled)
    assert len(target.administration.attempts("evt_done")) == 2
    assert [each.why for each in target.administration.retries("evt_done")] == [None, "plan added"]
    assert [each.purpose for each in target.effects.of_event("evt_done")] == ["mail"]
    assert find(target, "evt_bytes").body == b"\xff\x00"

    before = target.transfer.read(IDS)
    assert target.transfer.add(given, runnable=True) == Added(0, 5, 0)
    assert target.transfer.read(IDS) == before
    assert target.administration.reopen("evt_done", by="me", why=None, again=True)


@pytest.mark.parametrize("target", ["sqlite"], indirect=True)
def test_open_events_are_dead_where_they_are_imported(inbox: Inbox, target: Inbox) -> None:
    """They may still run where they were exported. A person decides."""
    target.transfer.add(records(inbox), runnable=False)
    for event_id, state in (("evt_pending", "pending"), ("evt_running", "running")):
        event = find(target, event_id)
        assert (event.state, event.outcome) == ("dead", "gave_up")
        assert str(event.reason).startswith(f"imported while it was {state}.")
    assert target.claims.claim_due(livemode=False) is None
    assert target.claims.claim_one("evt_pending", by="me") is not None


@pytest.mark.parametrize("target", ["sqlite"], indirect=True)
def test_open_events_can_be_moved(inbox: Inbox, target: Inbox) -> None:
    """With ``runnable`` they are due at once, and none has a claim of the other inbox."""
    assert target.transfer.add(records(inbox), runnable=True) == Added(5, 0, 0)
    claimed = set()
    while (found := target.claims.claim_due(livemode=False)) is not None:
        claimed.add((found.event_id, found.attempt))
    assert claimed == {("evt_pending", 2), ("evt_running", 2), ("evt_bytes", 1)}


def test_known_event_is_never_changed(inbox: Inbox) -> None:
    """A row of the inbox is newer than any export, and stays. Events in one file count once."""
    given = records(inbox, "evt_pending")
    inbox.claims.finish(claim(inbox, "evt_pending"))
    before = inbox.transfer.read(IDS)
    assert inbox.transfer.add(given * 2, runnable=True) == Added(0, 2, 0)
    assert inbox.transfer.read(IDS) == before


def test_removed_events_are_left_out(inbox: Inbox) -> None:
    """An event can be removed while an export is under way."""
    assert [each["id"] for each in inbox.transfer.read(["evt_gone", "evt_done"])] == ["evt_done"]


@pytest.mark.parametrize("target", ["sqlite"], indirect=True)
def test_erased_event_stays_erased(inbox: Inbox, target: Inbox) -> None:
    """It has no body, so no person can have it run where it is imported."""
    event = inbox.administration.find("evt_dead")
    assert event is not None
    assert inbox.erasure.erase(event, "cus_1") is True
    assert target.transfer.add(records(inbox, "evt_dead"), runnable=True) == Added(1, 0)
    imported = target.administration.find("evt_dead")
    assert imported is not None
    assert imported.erased_at == pytest.approx(inbox.rescue.clock(), abs=60)
    assert target.claims.claim_one("evt_dead", by="me", again=True) is None
