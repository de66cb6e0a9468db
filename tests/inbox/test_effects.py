"""Effects: what callbacks have done of an event."""

from __future__ import annotations

import pytest

from app.inbox import Inbox, NewEvent
from tests.support import raw_sql

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")


@pytest.fixture
def inbox(inbox: Inbox) -> Inbox:
    """An inbox with one event."""
    inbox.deliveries.enqueue(EVENT)
    return inbox


def test_effect_is_recorded_once(inbox: Inbox) -> None:
    """A second record changes nothing. Other purposes and other events are not recorded."""
    assert not inbox.effects.is_recorded("evt_1", "mail")
    inbox.effects.record("evt_1", "mail")
    before = inbox.effects.of_event("evt_1")
    inbox.effects.record("evt_1", "mail")
    assert inbox.effects.is_recorded("evt_1", "mail")
    assert not inbox.effects.is_recorded("evt_1", "parcel")
    assert not inbox.effects.is_recorded("evt_2", "mail")
    assert inbox.effects.of_event("evt_1") == before
    assert [each.purpose for each in before] == ["mail"]


def test_effect_needs_its_event(inbox: Inbox, database_url: str) -> None:
    """Nothing would ever remove the effect of an event that is not in the inbox."""
    inbox.effects.record("evt_2", "mail")
    assert raw_sql.select(database_url, "stripe_receiver_effects") == []
