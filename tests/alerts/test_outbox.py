"""Messages are sent at least once, in order, whatever the receiver or a leader does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from werkzeug import Response

from app.alerts.outbox import MAX_PAUSE, pause
from tests.alerts.conftest import Lab, log_lines

MakeLab = Callable[..., Lab]


@pytest.fixture
def lab(make_lab: MakeLab, sqlite_url: str) -> Lab:
    """A service with one raised alert, whose message is not sent yet, on SQLite."""
    return raised(make_lab(database_url=sqlite_url))


@pytest.fixture
def each_lab(make_lab: MakeLab, database_url: str) -> Lab:
    """The same on each database."""
    return raised(make_lab(database_url=database_url))


def raised(lab: Lab) -> Lab:
    """Let an event die, and raise its alert."""
    lab.deliver("evt_1")
    lab.evaluation().run()
    return lab


def make_due(lab: Lab) -> None:
    """Let the pause before the next try be over."""
    lab.execute("UPDATE stripe_receiver_alert_messages SET due_at = 0")


def test_failure_is_repeated_with_the_same_id(
    each_lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message that is not taken is logged, and sent again after a pause."""
    each_lab.receiver.answers += [Response("down", 503), Response("down", 503)]
    each_lab.outbox().run()
    each_lab.outbox().run()
    assert len(each_lab.receiver.received) == 1
    make_due(each_lab)
    each_lab.outbox().run()
    make_due(each_lab)
    each_lab.outbox().run()
    each_lab.outbox().run()
    ids = [each.id for each in each_lab.receiver.received]
    assert ids == 3 * ids[:1]
    lines = [each for each in log_lines(capsys) if each["event"] == "alert_not_sent"]
    assert [(each["tries"], each["reason"]) for each in lines] == [
        (1, "503 SERVICE UNAVAILABLE: down"),
        (2, "503 SERVICE UNAVAILABLE: down"),
    ]
    assert each_lab.inbox.alerts.unsent() == (0, 0)


def test_pause_grows_in_the_inbox(lab: Lab) -> None:
    """After many tries, the next one is minutes away, longer than a message is taken for."""
    lab.execute("UPDATE stripe_receiver_alert_messages SET tries = 9")
    lab.receiver.answers.append(Response("down", 503))
    lab.outbox().run()
    ((pause_seconds,),) = lab.rows("SELECT due_at - at FROM stripe_receiver_alert_messages")
    assert pause_seconds >= MAX_PAUSE


def test_end_waits_for_the_begin(each_lab: Lab) -> None:
    """The messages of one alert stay in order. Those of another alert do not wait."""
    each_lab.receiver.answers.append(Response("down", 503))
    each_lab.outbox().run()
    each_lab.execute("UPDATE events SET state = 'done'")
    each_lab.execute("UPDATE stripe_receiver_alerts SET seen_at = seen_at - 61")
    each_lab.inbox.findings.record("clock_off", "fail", "5 minutes behind Stripe's")
    each_lab.evaluation().run()
    each_lab.outbox().run()
    assert each_lab.receiver.states == [("dead_events", "raised"), ("clock_off", "raised")]
    assert each_lab.inbox.alerts.unsent() == (2, 1)
    make_due(each_lab)
    each_lab.outbox().run()
    assert each_lab.receiver.states[2:] == [("dead_events", "raised"), ("dead_events", "resolved")]


def test_two_processes_send_once(lab: Lab) -> None:
    """A message that a process takes is no other process's until its request has ended."""
    (message,) = lab.inbox.alerts.due()
    assert lab.inbox.alerts.take(message, 30) == 1
    assert lab.inbox.alerts.take(message, 30) is None
    lab.outbox().run()
    assert lab.receiver.received == []
    make_due(lab)  # the process ended
    lab.outbox().run()
    assert [each.id for each in lab.receiver.received] == [message.id]


def test_taken_between_the_two_statements(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that lists a message, and finds it taken, does not send it."""
    due = lab.inbox.alerts.due()
    lists = [due, []]
    # No mock: the list of a process that was frozen after it had read it.
    monkeypatch.setattr(lab.inbox.alerts, "due", lambda: lists.pop(0))
    assert lab.inbox.alerts.take(due[0], 30) == 1
    lab.outbox().run()
    assert lab.receiver.received == []


def test_old_message_is_not_sent(lab: Lab) -> None:
    """After a day, a message says nothing new."""
    lab.execute("UPDATE stripe_receiver_alert_messages SET at = at - 86401")
    lab.outbox().run()
    assert lab.receiver.received == []
    assert lab.inbox.alerts.unsent() == (0, 0)


def test_message_is_sent_after_a_step_back_of_the_clock(each_lab: Lab) -> None:
    """The pause before the next try was counted from a time that is in the future now."""
    each_lab.receiver.answers.append(Response("down", 503))
    each_lab.outbox().run()
    assert each_lab.inbox.alerts.due() == []
    each_lab.execute("UPDATE stripe_receiver_alert_messages SET due_at = due_at + 86400")
    each_lab.outbox().run()
    assert each_lab.receiver.states == 2 * [("dead_events", "raised")]
    assert each_lab.inbox.alerts.unsent() == (0, 0)


def test_pauses_double() -> None:
    """The pauses begin at 5 seconds and double, up to 5 minutes."""
    assert [pause(tries) for tries in (1, 2, 3, 7, 1000)] == [5, 10, 20, MAX_PAUSE, MAX_PAUSE]
