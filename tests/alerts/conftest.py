"""Fixtures for alerts: a receiver on a real port, and a service that sends to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from app.alerts.evaluation import Evaluation
from app.alerts.outbox import Outbox
from app.alerts.tasks import make_evaluation, make_poster
from app.inbox.alerts import Alert
from devkit import samples
from tests.conftest import Receiver
from tests.support import raw_sql
from tests.support.alert_receiver import SECRET, AlertReceiver, receiving

TYPE = "v1.customer.created"
MODULE = "v1_customer_created"
GIVES_UP = """
    from app import GiveUp

    def handle(notif, client):
        raise GiveUp("the text of the error, which no alert shows")
"""

MakeReceiver = Callable[..., Receiver]


@pytest.fixture
def alert_receiver() -> Iterator[AlertReceiver]:
    """A receiver of alerts that serves."""
    with receiving() as receiver:
        yield receiver


class Lab:
    """A service, the receiver of its alerts, and the two tasks of the leader."""

    def __init__(self, service: Receiver, alert_receiver: AlertReceiver) -> None:
        """Take the service, and the receiver that it knows."""
        self.service = service
        self.receiver = alert_receiver
        self.settings = service.services.settings
        self.inbox = service.services.inbox

    def evaluation(self) -> Evaluation:
        """Return the task that raises and ends alerts, as in a new process."""
        return make_evaluation(self.settings, self.inbox)

    def outbox(self) -> Outbox:
        """Return the task that sends, as in a new process."""
        poster = make_poster(self.settings)
        assert poster is not None
        return Outbox(self.inbox.alerts, poster)

    def round(self) -> list[tuple[str, str]]:
        """Run both tasks once. Returns alert and state of the messages that arrived."""
        before = len(self.receiver.received)
        self.evaluation().run()
        self.outbox().run()
        return self.receiver.states[before:]

    def calm_round(self) -> list[tuple[str, str]]:
        """Run both tasks, a minute after each raised alert was seen last."""
        self.execute("UPDATE stripe_receiver_alerts SET seen_at = seen_at - 61")
        return self.round()

    def alert(self) -> Alert:
        """Return the one alert that the inbox lists."""
        (alert,) = self.inbox.alerts.latest()
        return alert

    def deliver(self, event_id: str, event_type: str = TYPE) -> int:
        """Deliver an event. Returns the status of the answer."""
        body = samples.encode(samples.notification(event_type, event_id=event_id))
        return self.service.deliver(body).status_code

    def execute(self, sql: str, *rows: dict[str, Any]) -> None:
        """Change the inbox, with the parameters of each row."""
        raw_sql.execute(self.settings.database_url, sql, *rows)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows that a query finds."""
        engine = raw_sql.make_engine(self.settings.database_url)
        with engine.connect() as connection:
            found = [tuple(each) for each in connection.execute(sa.text(sql))]
        engine.dispose()
        return found


def log_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the fields of all log lines."""
    return [json.loads(each) for each in capsys.readouterr().err.splitlines()]


@pytest.fixture
def make_lab(make_receiver: MakeReceiver, alert_receiver: AlertReceiver) -> Callable[..., Lab]:
    """A function that makes a service with changed settings."""

    def make(modules: dict[str, str] | None = None, **changes: Any) -> Lab:
        given = {"alert_url": alert_receiver.url, "alert_secret": SECRET, **changes}
        return Lab(make_receiver(modules or {MODULE: GIVES_UP}, **given), alert_receiver)

    return make
