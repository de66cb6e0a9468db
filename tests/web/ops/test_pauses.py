"""Pause and resume on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from devkit import samples
from tests.web.ops.conftest import Browser
from tests.web.ops.test_actions import actions

TYPE = "v1.customer.created"

Make = Callable[..., Browser]


@pytest.fixture
def ops(make_ops: Make) -> Browser:
    """A service in queue mode with a pending event."""
    ops = make_ops(processing="queue")
    ops.receiver.deliver(samples.notification(TYPE, event_id="evt_1"))
    return ops


def test_all(ops: Browser) -> None:
    """The workers claim nothing until they are resumed. The question says how many events wait."""
    claims = ops.receiver.services.inbox.claims
    assert "1 pending event waits from then on." in ops.get("/ops/pause").text
    answer = ops.post("/ops/pause", {"why": "migration"}, follow=True)
    assert answer.status_code == 200
    assert claims.claim_due(livemode=False) is None
    assert "The workers are paused." in ops.get("/ops/events/evt_1").text
    assert "Resume all workers?" in ops.get("/ops/resume").text
    ops.post("/ops/resume")
    assert claims.claim_due(livemode=False) is not None
    assert actions(ops) == [("anna", "pause", "migration", None), ("anna", "resume", None, None)]


def test_one_type(ops: Browser) -> None:
    """Only events of the type wait. The list of the type says so, with the way to resume."""
    claims = ops.receiver.services.inbox.claims
    listed = f"/ops/events?type={TYPE}"
    assert "Pause this type" in ops.get(listed).text
    assert f"Pause the type {TYPE}?" in ops.get(f"/ops/pause?type={TYPE}").text
    text = ops.post("/ops/pause", {"type": TYPE, "why": "broken"}, follow=True).text
    assert "This type is paused since" in text
    assert "Resume this type" in text
    assert f"anna paused the events of type {TYPE}." in text
    assert claims.claim_due(livemode=False) is None
    assert "Its type is paused." in ops.get("/ops/events/evt_1").text
    text = ops.post("/ops/resume", {"type": TYPE}, follow=True).text
    assert f"anna resumed the events of type {TYPE}." in text
    assert claims.claim_due(livemode=False) is not None


def test_misspelt_type(ops: Browser) -> None:
    """The question warns of a type without a handler module and without events."""
    warning = "No handler module takes v1.customer.craeted, and the inbox has no event of it."
    assert warning in ops.get("/ops/pause?type=v1.customer.craeted").text
    for path in ("/ops/pause", f"/ops/pause?type={TYPE}"):
        assert "No handler module" not in ops.get(path).text


def test_second_pause(ops: Browser) -> None:
    """A second form changes nothing, and says by whom it is paused."""
    ops.post("/ops/pause")
    for answer in (ops.get("/ops/pause"), Browser(ops.receiver, name="ben").post("/ops/pause")):
        assert answer.status_code == 409
        assert "It is paused already, by anna." in answer.text
    assert len(actions(ops)) == 1


def test_resume_without_a_pause(ops: Browser) -> None:
    """What is not paused cannot be resumed."""
    for answer in (ops.get("/ops/resume"), ops.post("/ops/resume", {"type": TYPE})):
        assert answer.status_code == 409
        assert "It is not paused." in answer.text


def test_inline_mode(make_ops: Make) -> None:
    """In inline mode there is nothing to pause, and the list offers none."""
    ops = make_ops()
    assert "there are no workers to pause" in ops.get("/ops/pause").text
    assert ops.post("/ops/pause").status_code == 409
    assert "Pause this type" not in ops.get(f"/ops/events?type={TYPE}").text


def test_resume_in_inline_mode(make_ops: Make, tmp_path: Path) -> None:
    """A pause of queue mode can be ended. Its events are due again, though there is no worker."""
    url = f"sqlite:///{tmp_path}/moved.sqlite3"
    queue = make_ops(processing="queue", database_url=url)
    queue.receiver.deliver(samples.notification(TYPE, event_id="evt_1"))
    queue.receiver.services.inbox.administration.pause(by="anna", why=None, type_=TYPE)
    queue.receiver.services.inbox.administration.park()
    inline = make_ops(database_url=url)
    assert "In inline mode the pause has no effect." in inline.get(f"/ops/resume?type={TYPE}").text
    assert inline.receiver.services.inbox.administration.oldest_due_seconds() == 0
    inline.post("/ops/resume", {"type": TYPE})
    assert inline.receiver.services.inbox.administration.oldest_due_seconds() > 0


def test_pause_of_a_circuit_breaker(ops: Browser) -> None:
    """The page says that a success ends it, and what a resume before the repair does."""
    inbox = ops.receiver.services.inbox
    inbox.type_breakers.add(TYPE, 3, limit=3)
    assert inbox.type_breakers.open(TYPE, "3 failures in a row", -1.0)
    text = ops.get("/ops").text
    assert "by its circuit breaker: 3 failures in a row. One event is tried each minute" in text
    assert "they fail and use up attempts" in ops.get(f"/ops/resume?type={TYPE}").text


def test_retry_during_a_pause(ops: Browser) -> None:
    """The questions about a retry say that the event waits for the end of the pause."""
    assert "and a worker runs it." in ops.get("/ops/events/evt_1/retry").text
    assert "paused types wait" not in ops.get(f"/ops/retry?type={TYPE}").text
    ops.post("/ops/pause", {"type": TYPE})
    assert "a worker runs it after the pause." in ops.get("/ops/events/evt_1/retry").text
    assert "Those of paused types wait" in ops.get(f"/ops/retry?type={TYPE}").text


def test_invalid_type(ops: Browser) -> None:
    """A type that cannot be read is never taken as all."""
    assert ops.get("/ops/pause?type=a%20b").status_code == 400
    assert ops.post("/ops/pause", {"type": "a b"}).status_code == 400
    assert ops.receiver.services.inbox.administration.paused() is None
