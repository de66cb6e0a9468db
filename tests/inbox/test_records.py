"""The JSON form of an event: what is written, read, and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.inbox.records import read_record, write_record

LEAST: dict[str, Any] = {
    "id": "evt_1",
    "type": "v1.a",
    "livemode": False,
    "body": '{"id": "evt_1"}',
    "state": "done",
    "received_at": "2026-11-25T10:00:00.000001Z",
}
ATTEMPT = {
    "attempt": 1,
    "started_at": "2026-11-25T10:00:00Z",
    "ended_at": "2026-11-25T10:00:01Z",
    "outcome": "failed",
}


def line(**changes: Any) -> bytes:
    """Return a line with changed fields. One that is ... is left out."""
    values = {**LEAST, **changes}
    return json.dumps({key: value for key, value in values.items() if value is not ...}).encode()


def test_few_fields_are_needed() -> None:
    """The others have the values of a new event. A done event has settled when it came."""
    record = read_record(line())
    assert record.event_id == "evt_1"
    event = record.event
    assert event["received_at"] == event["due_at"] == event["settled_at"] == 1795600800.000001
    assert (event["attempt"], event["source"], event["crashes"]) == (0, "delivery", 0)
    assert (event["concurrency_key"], event["context"]) == ("event evt_1", None)
    assert record.attempts == record.retries == []
    assert read_record(line(state="pending")).event["settled_at"] is None


@pytest.mark.parametrize("body", [b'{"a": "\xc3\xbc"}', b"\xff\x00", b""])
def test_written_event_reads_the_same(body: bytes) -> None:
    """That holds for any body, and for each time to the microsecond."""
    record = read_record(line(attempts=[ATTEMPT], retries=[{"at": "2026-11-25T10:00Z", "by": "a"}]))
    event = {**record.event, "body": body, "received_at": 1795600800.123457}
    written = write_record(event, record.attempts, record.retries)
    again = read_record(json.dumps(written).encode())
    assert (again.event, again.attempts, again.retries) == (event, record.attempts, record.retries)
    assert written["received_at"] == "2026-11-25T10:00:00.123457Z"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"{", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "is no JSON object"),
        (line(body=...), "needs one of body and body_base64"),
        (line(body_base64="e30="), "needs one of body and body_base64"),
        (line(body=7), "has a body that cannot be read"),
        (line(body="\ud800"), "has a body that cannot be read"),
        (line(body=..., body_base64="*"), "has a body_base64 that cannot be read"),
        (line(attempts={}), "has attempts that are no list of objects"),
        (line(retries=[1]), "has retries that are no list of objects"),
        (line(attempts=[{**ATTEMPT, "attempt": -1}]), "has a wrong 'attempt': is no whole number"),
        (line(attempts=[ATTEMPT, ATTEMPT]), "has two attempts of one number"),
        (line(id=""), "has a wrong 'id': is empty or too long"),
        (line(id=...), "has a wrong 'id': is no text"),
        (line(type="a\x00"), "has a wrong 'type': is no text"),
        (line(reason="\ud800"), "has a wrong 'reason': 'utf-8' codec"),
        (line(livemode=0), "has a wrong 'livemode': is neither true nor false"),
        (line(state="new"), "has a wrong 'state': 'new' is not a valid State"),
        (line(attempt=True), "has a wrong 'attempt': is no whole number"),
        (line(attempts_used="1"), "has a wrong 'attempts_used': is no number"),
        (line(attempts_used=float("inf")), "has a wrong 'attempts_used': is no number"),
        (line(received_at="2026-11-25T10:00:00"), "has a wrong 'received_at': has no time zone"),
        (line(received_at="yesterday"), "has a wrong 'received_at': Invalid isoformat"),
        (line(due_at=5), "has a wrong 'due_at': is no text"),
        (line(colour="red"), "has the field 'colour', which this version does not know"),
    ],
)
def test_line_that_is_refused(given: bytes, words: str) -> None:
    """The error says what is wrong with the line."""
    with pytest.raises(ValueError, match=r"^\w") as raised:
        read_record(given)
    assert str(raised.value).startswith(words)
