"""``app.once`` when a process is killed: what is recorded is not repeated, and what is not, is."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest

from tests.support.services import DEADLINE, HANDLER, MODULE, Lab, state
from tests.support.waiting import wait_for

#: Notes a mail, and kills its process where the test says so.
MAILING = (
    HANDLER
    + """
    import signal
    import app

    def handle(notif, client):
        attempt = _current.get().claim.attempt
        with app.once(notif, "mail") as first:
            if first:
                note("mail", notif, attempt)
            if is_told("inside", notif, attempt):
                os.kill(os.getpid(), signal.SIGKILL)
        if is_told("after", notif, attempt):
            os.kill(os.getpid(), signal.SIGKILL)
        note("end", notif, attempt)
"""
)


@pytest.fixture
def modules() -> dict[str, str]:
    """The source of the handler module."""
    return {MODULE: MAILING}


def is_done(database_url: str, event_id: str) -> bool:
    """Return whether the second attempt of an event has succeeded."""
    return state(database_url, event_id) == ("done", "handled", 2)


def test_killed_process(lab: Lab, database_url: str) -> None:
    """SIGKILL after the block repeats nothing. SIGKILL between effect and record repeats it."""
    service = lab.start(database_url, PROCESSING="queue", LEASE_SECONDS=1)
    accounts = {}
    for word in ("after", "inside"):
        event_id = f"evt_{word}"
        lab.tell(word, event_id)
        wait_for(service.is_ready, DEADLINE)
        with contextlib.suppress(ConnectionError):  # it may end the process that is to answer
            service.deliver_until_taken(event_id)
        wait_for(partial(is_done, database_url, event_id), DEADLINE)
        accounts[word] = lab.account(event_id)

    assert accounts == {
        "after": [("mail", 1), ("end", 2)],
        "inside": [("mail", 1), ("mail", 2), ("end", 2)],
    }
