"""``flask events erase``: what it finds, asks and refuses, and that the object is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.inbox.erasure import Erasure
from app.inbox.sql.operations import audit
from devkit import samples
from tests.conftest import Receiver
from tests.support import raw_sql

Make = Callable[..., Receiver]
TYPE = "v1.customer.created"
OBJECT = "cus_Q1w2e3r4"
GIVING_UP = f"from app import GiveUp\ndef handle(notif, client):\n    raise GiveUp('{OBJECT}')\n"
WHY = ("--why", "request of 25 November")


@pytest.fixture
def receiver(make_receiver: Make, database_url: str) -> Receiver:
    """An inbox with two events about the object, one of them dead, and another event."""
    receiver = make_receiver({"v1_invoice_paid": GIVING_UP}, database_url=database_url)
    for event_id, object_id in (("evt_1", OBJECT), ("evt_2", "cus_other")):
        receiver.deliver(samples.notification(TYPE, event_id=event_id, object_id=object_id))
    receiver.deliver(samples.notification("v1.invoice.paid", event_id="evt_dead"))
    return receiver


def run(receiver: Receiver, *arguments: str, answer: str | None = None) -> tuple[int, str]:
    """Run a command of ``flask events``. Returns its exit status and its output."""
    done = receiver.app.test_cli_runner().invoke(args=["events", *arguments], input=answer)
    return done.exit_code, done.output


def erase(receiver: Receiver, *options: str, answer: str | None = None) -> tuple[int, str]:
    """Run ``erase`` for the object."""
    return run(receiver, "erase", "--object", OBJECT, *options, answer=answer)


def entries(receiver: Receiver) -> list[tuple[Any, ...]]:
    """Return action, target, reason and number of each entry in the audit log."""
    columns = ("action", "target", "why", "affected")
    url = receiver.services.settings.database_url
    names = [each.name for each in audit.columns]
    rows = [dict(zip(names, row, strict=True)) for row in raw_sql.select(url, audit.name)]
    return [tuple(row[name] for name in columns) for row in rows]


def test_it_says_what_it_found_and_asks(receiver: Receiver) -> None:
    """Nothing is erased before the answer. Afterwards no event names the object."""
    status, said = erase(receiver, *WHY, answer="n\n")
    assert status == 1
    assert said.startswith("2 events found: 1 dead, 1 done.\nErase the content of 2 events?")
    assert receiver.event("evt_1").body
    assert entries(receiver) == []

    status, said = erase(receiver, *WHY, answer="y\n")
    assert (status, said.splitlines()[-1]) == (0, "Erased the content of 2 events.")
    assert [receiver.event(each).body for each in ("evt_1", "evt_dead")] == [b"", b""]
    assert b"cus_other" in receiver.event("evt_2").body
    assert erase(receiver, *WHY) == (0, "No event names this object.\n")
    assert OBJECT not in str(raw_sql.select(receiver.services.settings.database_url, "events"))


def test_erased_event_stays_erased(receiver: Receiver) -> None:
    """A redelivery is a duplicate, and a retry says why it runs nothing."""
    erase(receiver, *WHY, "--yes")
    again = samples.notification(TYPE, event_id="evt_1", object_id=OBJECT)
    assert receiver.deliver(again).get_json()["outcome"] == "duplicate"
    assert receiver.event("evt_1").body == b""
    for arguments in (("evt_1", "--again"), ("evt_dead",)):
        status, said = run(receiver, "retry", *arguments, "--yes")
        assert status == 1
        assert "was erased, and cannot run" in said
    said = run(receiver, "show", "evt_1")[1]
    assert "erased_at" in said
    assert run(receiver, "send", "--redeliver", "evt_1")[1].startswith(
        "Error: The body of evt_1 was erased."
    )


def test_audit_log_does_not_name_the_object(receiver: Receiver) -> None:
    """It has the kind of the object, the reason and the number. Older entries forget it too."""
    receiver.services.inbox.audit.record("me", "retry_many", f"object={OBJECT}", "mended", 2)
    erase(receiver, *WHY, "--yes")
    assert entries(receiver) == [
        ("retry_many", "erased", None, 2),
        ("erase", "cus", "request of 25 November", 2),
    ]
    status, said = erase(receiver, "--why", f"for {OBJECT}")
    assert status == 2
    assert "Leave it out of --why." in said


def test_dry_run_erases_nothing(receiver: Receiver) -> None:
    """It shows the events."""
    status, said = erase(receiver, *WHY, "--dry-run")
    rows = [line.split() for line in said.splitlines()]
    assert status == 0
    assert sorted(row[1:] for row in rows[2:]) == [
        ["evt_1", TYPE, "done"],
        ["evt_dead", "v1.invoice.paid", "dead"],
    ]
    assert receiver.event("evt_1").body


def test_event_that_can_still_run(make_receiver: Make) -> None:
    """It is named, and nothing is erased."""
    queue = make_receiver({}, processing="queue", worker_threads=0)
    queue.deliver(samples.notification(TYPE, event_id="evt_1", object_id=OBJECT))
    status, said = erase(queue, *WHY, "--yes")
    assert status == 1
    assert "evt_1 is pending. Give up on it first: `flask events give-up evt_1" in said
    assert queue.services.inbox.claims.claim_one("evt_1", by="me") is not None
    status, said = erase(queue, *WHY, "--yes")
    assert status == 1
    assert "evt_1 is running. Call this again when it has ended." in said
    assert queue.event("evt_1").body


def test_event_that_changes_while_it_is_erased(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit status says that it has to be called again."""
    # A mock: the question is answered before another process can run the event.
    monkeypatch.setattr(Erasure, "erase", lambda *_arguments: False)
    status, said = erase(receiver, *WHY, "--yes")
    assert status == 1
    assert "Erased the content of 0 events." in said
    assert "An event has changed since it was found. Call this again." in said


@pytest.mark.parametrize("words", ["cus_1", "a b c d e", "*******", ""])
def test_object_that_is_no_id(receiver: Receiver, words: str) -> None:
    """A short word would be found in many events."""
    status, said = run(receiver, "erase", "--object", words, *WHY)
    assert status == 2
    assert "is no id like" in said


def test_object_without_a_prefix(receiver: Receiver) -> None:
    """An e-mail address or an id of your own works too. The audit log has no kind then."""
    assert run(receiver, "erase", "--object", "cus_other", *WHY, "--yes")[0] == 0
    body = samples.notification(TYPE, event_id="evt_3", object_id="gold-plan")
    receiver.deliver(body)
    assert run(receiver, "erase", "--object", "gold-plan", *WHY, "--yes")[0] == 0
    assert [target for _, target, _, _ in entries(receiver)] == ["cus", None]
