"""A leader that is killed during a message costs no message, and its successor repeats the id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from app.alerts.tasks import alert_tasks
from app.maintenance.schedule import Maintenance
from app.settings import environment
from tests.alerts.conftest import GIVES_UP, MODULE, Lab
from tests.conftest import API_KEY, SECRET, Receiver
from tests.support.alert_receiver import SECRET as ALERT_SECRET
from tests.support.alert_receiver import receiving
from tests.support.services import ROOT
from tests.support.waiting import wait_for

#: Runs each task of alerts once, as the leader.
LEADER = """
import threading
from app import create_app
from app.alerts.tasks import alert_tasks
from app.maintenance.schedule import Maintenance
from app.services import services

parts = services(create_app())
maintenance = Maintenance([], parts.inbox.reconciliation, threading.Event())
for task in alert_tasks(parts.settings, parts.inbox):
    maintenance.run_once(task, "first")
"""


def lead(lab: Lab, name: str) -> None:
    """Run each task of alerts once, in this process, if it is the leader."""
    maintenance = Maintenance([], lab.inbox.reconciliation, threading.Event())
    for task in alert_tasks(lab.settings, lab.inbox):
        maintenance.run_once(task, name)


def test_leader_is_killed_during_a_message(make_receiver: Callable[..., Receiver]) -> None:
    """The next leader sends the message again, with the same id, and nothing else twice."""
    with receiving() as receiver:
        service = make_receiver(
            {MODULE: GIVES_UP}, alert_url=receiver.url, alert_secret=ALERT_SECRET
        )
        lab = Lab(service, receiver)
        lab.deliver("evt_1")
        receiver.hold()
        values = {
            "STRIPE_API_KEY": API_KEY,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "DATABASE_URL": lab.settings.database_url,
            "HANDLERS_PACKAGE": lab.settings.handlers_package,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "ALERT_URL": receiver.url,
            "ALERT_SECRET": ALERT_SECRET,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", LEADER], cwd=ROOT, env=environment(**values)
        )
        wait_for(lambda: receiver.received)
        lead(lab, "second")
        assert len(receiver.received) == 1  # another process leads
        process.send_signal(signal.SIGKILL)
        process.wait()
        receiver.release()

        lead(lab, "second")
        assert len(receiver.received) == 1  # until the term of the leader ends
        lab.execute("UPDATE leaders SET until = 0")
        lab.execute("UPDATE stripe_receiver_alert_messages SET due_at = 0")
        lead(lab, "second")
        lead(lab, "second")
        first, second = receiver.received
        assert first.id == second.id
        assert first.is_signed
        assert second.is_signed
        assert lab.inbox.alerts.unsent() == (0, 0)
