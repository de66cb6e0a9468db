"""``flask alerts``, and the lines of ``flask doctor`` about alerts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from werkzeug import Response

from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support.alert_receiver import SECRET, AlertReceiver, receiving

MakeReceiver = Callable[..., Receiver]


@pytest.fixture
def alert_receiver() -> Iterator[AlertReceiver]:
    """A receiver of alerts that serves."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def ours(
    make_receiver: MakeReceiver, alert_receiver: AlertReceiver, stripe_api: StripeApi
) -> Receiver:
    """A service that sends signed alerts to it."""
    receiver = make_receiver(
        alert_url=alert_receiver.url, alert_secret=SECRET, stripe_api_base=stripe_api.url
    )
    receiver.services.inbox.migrate()
    return receiver


def run(receiver: Receiver, *arguments: str) -> tuple[int, str]:
    """Run ``flask``. Returns its exit status and its output."""
    result = receiver.app.test_cli_runner().invoke(args=arguments)
    assert "MarkerOfAlertUrl" not in result.output
    return result.exit_code, result.output


class TestTest:
    """``flask alerts test`` sends one message, and prints the answer."""

    def test_taken(self, ours: Receiver, alert_receiver: AlertReceiver) -> None:
        """The message has the form of an alert, and is signed."""
        status, output = run(ours, "alerts", "test")
        host = alert_receiver.url.split("/")[2]
        assert output == f"{host} took the test message, which is signed: 200 OK: ok\n"
        assert status == 0
        (request,) = alert_receiver.received
        assert request.is_signed
        assert request.body["text"] == (
            "[test mode] This is a test: alerts of stripe-event-receiver arrive here."
            " See `flask alerts list`"
        )
        assert (request.body["alert"], request.body["state"]) == ("test", "raised")

    def test_not_signed(self, make_receiver: MakeReceiver, alert_receiver: AlertReceiver) -> None:
        """The output says when there is no signature."""
        receiver = make_receiver(alert_url=alert_receiver.url)
        assert (
            "which is not signed, since ALERT_SECRET is not set"
            in run(receiver, "alerts", "test")[1]
        )

    def test_not_taken(self, ours: Receiver, alert_receiver: AlertReceiver) -> None:
        """The answer of the receiver is shown, and not the URL."""
        alert_receiver.answers.append(Response("no_team", 404))
        status, output = run(ours, "alerts", "test")
        assert status == 1
        assert "did not take the test message: 404 NOT FOUND: no_team. Check ALERT_URL." in output

    def test_not_set(self, receiver: Receiver) -> None:
        """Without ALERT_URL there is no receiver."""
        status, output = run(receiver, "alerts", "test")
        assert (status, output) == (1, "Error: ALERT_URL is not set, so alerts are only logged.\n")


class TestList:
    """``flask alerts list`` shows what is raised, and what ended lately."""

    def test_none(self, ours: Receiver) -> None:
        """An empty list has words."""
        assert run(ours, "alerts", "list") == (0, "No alert was raised within a week.\n")

    def test_table_and_json(self, ours: Receiver) -> None:
        """Both forms show each alert, and how many messages wait."""
        raise_alert(ours, "dead_events:9f2c")
        raise_alert(ours, "silence")
        alerts = ours.services.inbox.alerts
        silence = next(each for each in alerts.latest() if each.id == "silence")
        assert alerts.resolve(silence, silence.details)
        status, output = run(ours, "alerts", "list")
        rows = [line.split() for line in output.splitlines()]
        assert status == 0
        assert rows[0] == ["state", "since", "alert", "group", "count", "text"]
        since = "1970-01-01T00:00:01Z"
        assert rows[1] == [
            "raised",
            since,
            "dead_events",
            "9f2c",
            "2",
            "2",
            "events",
            "are",
            "dead",
        ]
        assert rows[2][:4] == ["resolved", since, "silence", "2"]
        found = json.loads(run(ours, "alerts", "list", "--json")[1])
        assert found["unsent_messages"] == 0
        first, second = found["alerts"]
        assert first == {
            "alert": "dead_events",
            "group": "9f2c",
            "state": "raised",
            "since": "1970-01-01T00:00:01.000Z",
            "resolved_at": None,
            "count": 2,
            "text": "2 events are dead",
            "runbook": "docs/operations.md#dead-events",
        }
        assert second["state"] == "resolved"
        assert second["resolved_at"].startswith("20")

    def test_unsent(self, ours: Receiver) -> None:
        """Messages that the receiver does not take are counted."""
        message = {"id": "msg_1", "body": {"text": "2 events are dead"}}
        raise_alert(ours, "silence", message=message)
        ours.services.inbox.alerts.hand_over()
        output = run(ours, "alerts", "list")[1]
        assert output.endswith("1 message could not be sent yet, after 0 tries.\n")


def raise_alert(receiver: Receiver, alert_id: str, **more: object) -> None:
    """Raise an alert, as the leader does."""
    alert, _, group = alert_id.partition(":")
    details = {"text": "2 events are dead", **more}
    assert receiver.services.inbox.alerts.raise_(
        alert_id,
        alert=alert,
        group=group or None,
        since=1.0,
        number=2,
        before="",
        details=details,
    )


class TestDoctor:
    """``flask doctor`` says where alerts go, and which are raised."""

    def test_lines(self, ours: Receiver, alert_receiver: AlertReceiver) -> None:
        """Where alerts are sent is OK. An alert that is raised is a WARN."""
        host = alert_receiver.url.split("/")[2]
        sent = f"sent to {host}, signed; `flask alerts test` sends a test"
        assert f"OK    alerts        {sent}\n" in run(ours, "doctor")[1]
        raise_alert(ours, "silence")
        output = run(ours, "doctor")[1]
        assert "WARN  alerts        1 alert is raised: silence\n" in output
        assert "-> See `flask alerts list`" in output

    def test_inbox_is_away(self, make_receiver: MakeReceiver, stripe_api: StripeApi) -> None:
        """If the inbox cannot be read, the line about the inbox says so."""
        away = make_receiver(
            database_url="postgresql+psycopg://me@127.0.0.1:9/inbox",
            stripe_api_base=stripe_api.url,
        )
        output = run(away, "doctor")[1]
        assert "FAIL  inbox" in output
        assert "alerts  " not in output
