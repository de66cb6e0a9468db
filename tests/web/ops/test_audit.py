"""The page of the audit log: its entries, their links, and its parts."""

from __future__ import annotations

import re

import pytest

from app.web.ops import audit
from tests.web.ops.conftest import Browser

HOSTILE = "<script>alert(1)</script>\u202e"


def test_empty_log(ops: Browser) -> None:
    """A log without an entry has words."""
    assert "No person has acted on this inbox yet." in ops.get("/ops/audit").text
    assert "No entry about it." in ops.get("/ops/audit?target=evt_1").text
    assert "No further entry." in ops.get("/ops/audit?before=1").text


def test_entries(ops: Browser) -> None:
    """Each entry has person, action, target, reason and number, with a link to the target."""
    log = ops.receiver.services.inbox.audit
    log.record("anna", "retry", "evt_1", "mended", 1)
    log.record("anna", "give_up_many", "state=dead&type=v1.invoice.paid", "old", 1204)
    log.record("ben", "pause", "v1.invoice.paid", None, None)
    log.record("ben", "resume", None, None, None)
    log.record("anna", "sync_destination", "we_1", None, None)
    text = ops.get("/ops/audit").text
    assert 'href="/ops/events/evt_1"' in text
    assert 'href="/ops/events?state=dead&amp;type=v1.invoice.paid"' in text
    assert 'href="/ops/events?type=v1.invoice.paid"' in text
    assert re.findall(r'"Action">([^<]+)<', text) == [
        "sync destination",
        "resume",
        "pause",
        "give up many",
        "retry",
    ]
    assert re.findall(r'"Events" class="number">([^<]+)<', text) == ["-", "-", "-", "1,204", "1"]
    assert "we_1</td>" in text


def test_entries_about_one_target(ops: Browser) -> None:
    """The log can be narrowed to one event."""
    log = ops.receiver.services.inbox.audit
    log.record("anna", "retry", "evt_1", "one reason", 1)
    log.record("anna", "retry", "evt_2", "other reason", 1)
    text = ops.get("/ops/audit?target=evt_2").text
    assert "other reason" in text
    assert "one reason" not in text
    assert "Show all" in text


def test_log_has_parts(ops: Browser) -> None:
    """A long log is shown in parts. Only the first one refreshes."""
    log = ops.receiver.services.inbox.audit
    for number in range(audit.PAGE + 1):
        log.record("anna", "retry", "evt_1", f"reason {number}.", 1)
    first = ops.get("/ops/audit?target=evt_1").text
    assert "reason 50." in first
    assert "reason 0." not in first
    assert "data-refresh" in first
    (older,) = re.findall(r'href="([^"]+)" rel="next"', first)
    last = ops.get(older.replace("&amp;", "&")).text
    assert re.findall(r"reason \d+\.", last) == ["reason 0."]
    assert "data-refresh" not in last
    assert "Latest" in last


def test_text_of_people_is_escaped(ops: Browser) -> None:
    """Names, targets and reasons are text: no markup, no character that reverses it."""
    ops.receiver.services.inbox.audit.record(HOSTILE, HOSTILE, HOSTILE, HOSTILE, None)
    text = ops.get("/ops/audit", query_string={"target": HOSTILE}).text
    assert "<script>" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("before", ["x", "-1", "9" * 30, "99999999999", "\u0663"])
def test_wrong_part(ops: Browser, before: str) -> None:
    """A number that no entry can have is refused."""
    answer = ops.get("/ops/audit", query_string={"before": before})
    assert answer.status_code == 400
    assert "before is not the number of an entry." in answer.text
