"""Retry and give up all events of a filter."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest

from app.inbox import Failure
from app.inbox.claims import Claims
from app.inbox.filters import EventFilter
from app.operations import bulk_run
from app.states import Outcome
from app.web.ops import bulk
from devkit import samples
from tests.support import raw_sql
from tests.web.ops.conftest import Browser
from tests.web.ops.test_actions import (
    COUNTING,
    CREATED,
    FAILING,
    GIVING_UP,
    TYPE,
    actions,
    calls,
    fields_of,
)

MENDED = "v1_customer_created"
FAILING_TWICE = """
calls = []

def handle(notif, client):
    calls.append(notif.id)
    if len(calls) <= 2:
        raise ValueError('not yet')
"""

Make = Callable[..., Browser]


def deliver(ops: Browser, *event_ids: str, event_type: str = TYPE) -> None:
    """Deliver events."""
    for event_id in event_ids:
        ops.receiver.deliver(samples.notification(event_type, event_id=event_id))


def states(ops: Browser, *event_ids: str) -> list[str]:
    """Return the states of events."""
    return [ops.receiver.event(each).state for each in event_ids]


class TestQueue:
    """In queue mode the workers run the events."""

    @pytest.fixture
    def ops(self, make_ops: Make) -> Browser:
        """Three dead events, one of them of another type."""
        ops = make_ops({CREATED: GIVING_UP, "v1_invoice_paid": GIVING_UP}, processing="queue")
        deliver(ops, "evt_1", "evt_2")
        deliver(ops, "evt_3", event_type="v1.invoice.paid")
        parts = ops.receiver.services
        while claim := parts.inbox.claims.claim_due(livemode=False):
            parts.runner.run(claim)
        return ops

    def test_retry(self, ops: Browser) -> None:
        """The question has the number. Then all selected events are due, and the list says so."""
        question = ops.get(f"/ops/retry?state=dead&type={TYPE}")
        assert "Retry 2 events?" in question.text
        assert f"This takes 2 events that are dead, of type {TYPE}" in question.text
        answer = ops.post("/ops/retry", {"why": "mended", **fields_of(question)}, follow=True)
        assert "anna retried 2 events." in answer.text
        assert states(ops, "evt_1", "evt_2", "evt_3") == ["pending", "pending", "dead"]
        assert actions(ops) == [("anna", "retry_many", "mended", 2)]

    def test_events_of_the_fallback(self, ops: Browser, make_ops: Make) -> None:
        """Events that the fallback took are retried by type, once the type has a module."""
        deliver(ops, "evt_4", event_type="v1.product.created")
        claims = ops.receiver.services.inbox.claims
        claim = claims.claim_due(livemode=False)
        assert claim is not None
        assert claims.finish(claim, Outcome.FALLBACK)
        selected = "outcome=fallback&type=v1.product.created"
        refused = ops.get(f"/ops/retry?{selected}")
        assert "if their type has a handler module now" in refused.text
        newer = make_ops({"v1_product_created": COUNTING}, processing="queue")
        newer.post("/ops/retry", fields_of(newer.get(f"/ops/retry?{selected}")))
        assert states(newer, "evt_4") == ["pending"]

    def test_later_events_are_not_taken(self, ops: Browser) -> None:
        """The form selects what the question has counted, not what arrives later."""
        fields = fields_of(ops.get("/ops/retry"))
        assert "until" in fields
        assert fields_of(ops.get("/ops/retry?until=2999-01-01"))["until"].startswith("2999-01-01")

    @pytest.mark.parametrize("action", ["retry", "give-up"])
    def test_list_keeps_all_filters(self, ops: Browser, action: str) -> None:
        """The list after an action, and the way back from its question, have each condition."""
        parts = ops.receiver.services
        for release in ("1.0.0", "2.0.0"):
            parts.inbox.groups.begin_release(release)
        sql = "UPDATE stripe_receiver_releases SET first_at = 1000 WHERE release = '1.0.0'"
        raw_sql.execute(parts.settings.database_url, sql)
        deliver(ops, "evt_4")
        claim = parts.inbox.claims.claim_due(livemode=False)
        assert claim is not None
        failure = Failure("no", fingerprint="g1", release="1.0.0", exception="E", place="p:1")
        parts.inbox.claims.fail(claim, failure)
        (row,) = parts.inbox.administration.page(EventFilter(group="g1"), limit=1).events
        assert row.object_id is not None
        given = {
            "state": "pending",
            "type": TYPE,
            "since": "2020-01-01T00:00:00Z",
            "outcome": "failed",
            "mode": "test",
            "object": row.object_id,
            "group": "g1",
            "until": "2999-01-01T00:00:00Z",
            "failed-before": "2.0.0",
        }
        question = ops.get(f"/ops/{action}?{urlencode(given)}")
        assert question.status_code == 200, question.text
        assert f'href="/ops/events?{escape(urlencode(given))}"' in question.text
        answer = ops.post(f"/ops/{action}", {"why": "x", **fields_of(question)})
        assert answer.status_code == 303
        shown = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
        assert shown.pop("did").isdigit()
        assert shown == given
        without = ops.post(f"/ops/{action}", {"why": "x", **fields_of(ops.get(f"/ops/{action}"))})
        assert {*parse_qs(urlsplit(without.headers["Location"]).query)} == {"did"}

    def test_form_works_once(self, ops: Browser) -> None:
        """A second form retries nothing that is pending already."""
        fields = fields_of(ops.get("/ops/retry?state=dead"))
        ops.post("/ops/retry", fields)
        ops.post("/ops/retry", fields)
        assert [affected for *_, affected in actions(ops)] == [3, 0]

    def test_second_form_takes_no_pending_event(self, ops: Browser) -> None:
        """Pending events are retried once by a form, also after they have failed again."""
        deliver(ops, "evt_4")
        parts = ops.receiver.services
        fields = fields_of(ops.get("/ops/retry"))
        assert "retried 4 events." in ops.post("/ops/retry", fields, follow=True).text
        again = ops.post("/ops/retry", fields, follow=True).text
        assert "the form was sent before: anna retried 0 events." in again
        while claim := parts.inbox.claims.claim_due(livemode=False):
            parts.runner.run(claim)
        ops.post("/ops/retry", fields)
        ops.post("/ops/retry", fields_of(ops.get("/ops/retry")))
        assert [affected for *_, affected in actions(ops)] == [4, 0, 0, 4]

    def test_second_form_gives_nothing_up(self, ops: Browser) -> None:
        """An event that was given up and retried is not given up by the old form."""
        deliver(ops, "evt_4")
        fields = {"why": "test data", **fields_of(ops.get("/ops/give-up"))}
        ops.post("/ops/give-up", fields)
        ops.post("/ops/retry", fields_of(ops.get("/ops/retry")))
        ops.post("/ops/give-up", fields)
        assert [affected for *_, affected in actions(ops)] == [1, 4, 0]

    def test_give_up(self, ops: Browser) -> None:
        """Pending events become dead, with a reason that is required."""
        deliver(ops, "evt_4", "evt_5")
        question = ops.get("/ops/give-up")
        assert "Give up 2 events?" in question.text
        fields = fields_of(question)
        without = ops.post("/ops/give-up", fields)
        assert without.status_code == 400
        assert "Write down the reason." in without.text
        answer = ops.post("/ops/give-up", {"why": "test data", **fields}, follow=True)
        assert "anna gave up 2 events." in answer.text
        assert states(ops, "evt_4", "evt_5") == ["dead", "dead"]
        assert actions(ops) == [("anna", "give_up_many", "test data", 2)]

    @pytest.mark.parametrize(
        ("action", "count"), [("retry?state=dead", 2), ("give-up?state=pending", 1)]
    )
    def test_events_of_the_other_mode_stay(self, ops: Browser, action: str, count: int) -> None:
        """They need the key of the other mode, also if the address or the form names it."""
        deliver(ops, "evt_4", "evt_5")
        url = ops.receiver.services.settings.database_url
        raw_sql.execute(url, "UPDATE events SET livemode = true WHERE id IN ('evt_1', 'evt_5')")
        path = action.partition("?")[0]
        form = {"why": "x", **fields_of(ops.get(f"/ops/{action}"))}
        for answer in (
            ops.get(f"/ops/{action}&mode=live"),
            ops.post(f"/ops/{path}", {**form, "mode": "live"}),
        ):
            assert answer.status_code == 400
            assert "STRIPE_API_KEY is not of live mode" in answer.text
        assert actions(ops) == []
        assert ops.post(f"/ops/{path}", form).status_code == 303
        assert [affected for *_, affected in actions(ops)] == [count]
        assert states(ops, "evt_1", "evt_5") == ["dead", "pending"]

    def test_limit_of_giving_up(self, ops: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
        """One action gives up a limited number of events, the oldest first."""
        monkeypatch.setattr(bulk, "MOST", 1)  # a lower limit, for fewer events in the test
        deliver(ops, "evt_4", "evt_5")
        ops.post("/ops/give-up", {"why": "test data", **fields_of(ops.get("/ops/give-up"))})
        assert states(ops, "evt_4", "evt_5") == ["dead", "pending"]

    def test_limit(self, ops: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
        """One action takes a limited number of events, and the question says so."""
        monkeypatch.setattr(bulk, "MOST", 2)  # a lower limit, for fewer events in the test
        question = ops.get("/ops/retry?state=dead")
        assert "One action takes 2 events at most." in question.text
        ops.post("/ops/retry", {**fields_of(question)})
        assert [affected for *_, affected in actions(ops)] == [2]

    @pytest.mark.parametrize("path", ["retry?state=done", "give-up?state=dead", "retry?type=v1.x"])
    def test_nothing_to_do(self, ops: Browser, path: str) -> None:
        """If no event can be taken, the page says which ones could be."""
        answer = ops.get(f"/ops/{path}")
        assert answer.status_code == 409
        assert "None of the events" in answer.text
        assert "received until" not in answer.text

    def test_nothing_to_do_before_a_time(self, ops: Browser) -> None:
        """The sentence has the conditions of the viewer, also a time."""
        until = "None of the events received until 2020-01-01T00:00:00Z can be taken."
        assert until in ops.get("/ops/retry?until=2020-01-01").text
        release = "of type v1.x, with their last failure before release r1 can be taken."
        ops.receiver.services.inbox.groups.begin_release("r1")
        assert release in ops.get("/ops/retry?type=v1.x&failed-before=r1").text

    def test_invalid_filter(self, ops: Browser) -> None:
        """A filter that cannot be read is never taken as none."""
        assert ops.get("/ops/retry?state=lost").status_code == 400
        assert ops.post("/ops/give-up", {"why": "x", "since": "yesterday"}).status_code == 400
        assert actions(ops) == []

    def test_result_leads_to_the_list(self, ops: Browser) -> None:
        """The address after the action keeps the filter of the list."""
        answer = ops.post("/ops/retry", {**fields_of(ops.get("/ops/retry?state=dead"))})
        query = parse_qs(urlsplit(answer.headers["Location"]).query)
        assert query["state"] == ["dead"]
        assert set(query) == {"state", "did"}


class TestInline:
    """In inline mode the page runs the events, for a limited time in one request."""

    def test_all(self, make_ops: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """All events run, and the page has the numbers of those that succeeded and failed."""
        monkeypatch.setattr(bulk_run, "CHUNK", 1)  # several reads, with fewer events in the test
        ops = make_ops({CREATED: FAILING_TWICE})
        deliver(ops, "evt_1", "evt_2")
        question = ops.get("/ops/retry")
        assert "for up to 20 s" in question.text
        answer = ops.post("/ops/retry", {"why": "mended", **fields_of(question)})
        assert "Retried 2 events" in answer.text
        assert "2 succeeded, 0 failed again." in answer.text
        assert "All events of the filter were taken." in answer.text
        assert states(ops, "evt_1", "evt_2") == ["done", "done"]
        assert actions(ops) == [("anna", "retry_many", "mended", 2)]

    def test_form_works_once(self, make_ops: Make) -> None:
        """A second form runs no event that the first one has run, though it failed again."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops, "evt_1")
        fields = fields_of(ops.get("/ops/retry"))
        ops.post("/ops/retry", fields)
        assert "Retried 0 events" in ops.post("/ops/retry", fields).text
        assert calls(ops) == 2

    def test_rest_is_run_by_the_next_request(
        self, make_ops: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the time is over, the page says how many are left, and its form goes on there."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops, "evt_1", "evt_2", "evt_3")
        monkeypatch.setattr(bulk, "SECONDS", -1.0)  # no time: each request runs one event
        answer = ops.post("/ops/retry", {"why": "x", **fields_of(ops.get("/ops/retry"))})
        assert "1 failed again" in answer.text
        assert "2 events are left." in answer.text
        answer = ops.post("/ops/retry", {**fields_of(answer)})
        assert "1 event is left." in answer.text
        monkeypatch.undo()
        answer = ops.post("/ops/retry", {**fields_of(answer)})
        assert "All events of the filter were taken." in answer.text
        assert calls(ops) == 6
        assert [(why, affected) for _, _, why, affected in actions(ops)] == [("x", 1)] * 3

    def test_dead_event_that_fails_again_runs_once(self, make_ops: Make) -> None:
        """An event that becomes pending again does not come up a second time."""
        ops = make_ops({CREATED: GIVING_UP})
        deliver(ops, "evt_1")
        ops.receiver.module(CREATED).GiveUp = ValueError
        answer = ops.post("/ops/retry", {**fields_of(ops.get("/ops/retry"))})
        assert "Retried 1 event" in answer.text
        assert states(ops, "evt_1") == ["pending"]
        assert calls(ops) == 2

    def test_event_that_was_taken_meanwhile(
        self, make_ops: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An event that another process has taken is counted as not run."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops, "evt_1")
        fields = fields_of(ops.get("/ops/retry"))
        # The other process acts between two statements of one request.
        monkeypatch.setattr(Claims, "claim_one", lambda *_, **__: None)
        assert "1 event was not run" in ops.post("/ops/retry", fields).text

    @pytest.mark.parametrize("place", ["dead:x", "lost:1.0", "done:1.0", "x"])
    def test_damaged_form(self, make_ops: Make, place: str) -> None:
        """A form with another place than the page has made is refused."""
        ops = make_ops({CREATED: FAILING})
        assert ops.post("/ops/retry", {"place": place}).status_code == 400
