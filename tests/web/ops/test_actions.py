"""Retry and give up one event: the question, the action, and what was done."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress

import pytest
from werkzeug.test import TestResponse

from app.errors import DeliveryError, InboxUnavailable
from app.inbox.claims import Claims
from devkit import samples
from devkit.deliver import MakeDeliver
from devkit.stripe_api import StripeApi
from tests.support import pairs, raw_sql
from tests.web.ops.conftest import READ_TOKEN, TOKEN, Browser

TYPE = "v1.customer.created"
CREATED = "v1_customer_created"
COUNTING = "calls = []\ndef handle(notif, client):\n    calls.append(notif.id)\n"
FAILING_ONCE = f"{COUNTING}    if len(calls) == 1: raise ValueError('not yet')\n"
FAILING = f"{COUNTING}    raise ValueError('never')\n"
GIVING_UP = f"from app import GiveUp\n{COUNTING}    raise GiveUp('no such plan')\n"

Make = Callable[..., Browser]


def deliver(ops: Browser, event_id: str = "evt_1", event_type: str = TYPE) -> None:
    """Deliver an event."""
    ops.receiver.deliver(samples.notification(event_type, event_id=event_id))


def calls(ops: Browser) -> int:
    """Return how often the callback was called."""
    return len(ops.receiver.module(CREATED).calls)


def fields_of(answer: TestResponse) -> dict[str, str]:
    """Return the hidden fields of the form on a page, without the CSRF token."""
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', answer.text)
    return {name: value for name, value in found if name != "csrf_token"}


def ask(ops: Browser, what: str = "retry") -> dict[str, str]:
    """Load the question, and return the fields of its form."""
    answer = ops.get(f"/ops/events/evt_1/{what}")
    assert answer.status_code == 200, answer.text
    return fields_of(answer)


def state(ops: Browser) -> tuple[str, str | None, int]:
    """Return state, outcome and attempt of the event."""
    event = ops.receiver.event("evt_1")
    return event.state, event.outcome, event.attempt


def actions(ops: Browser) -> list[tuple[str, str, str | None, int | None]]:
    """Return the entries of the audit log: person, action, reason and number of events."""
    entries = ops.receiver.services.inbox.administration.audit(10)
    return [(each.by, each.action, each.why, each.affected) for each in reversed(entries)]


class TestRetry:
    """Retry one event."""

    def test_inline(self, make_ops: Make) -> None:
        """In inline mode the callback runs in the request. The event's page has the result."""
        ops = make_ops({CREATED: FAILING_ONCE})
        deliver(ops)
        question = ops.get("/ops/events/evt_1/retry").text
        assert "Its callback runs while you wait." in question
        answer = ops.post("/ops/events/evt_1/retry", {"why": "plan added", **ask(ops)}, follow=True)
        assert "anna retried evt_1." in answer.text
        assert "Done: the callback returned" in answer.text
        assert "plan added" in answer.text
        assert state(ops) == ("done", "handled", 2)
        assert actions(ops) == [("anna", "retry", "plan added", 1)]

    def test_queue(self, make_ops: Make) -> None:
        """In queue mode the event is due now, for a worker. Counted attempts are forgotten."""
        ops = make_ops({CREATED: GIVING_UP}, processing="queue")
        deliver(ops)
        claim = ops.receiver.services.inbox.claims.claim_due(livemode=False)
        assert claim is not None
        with pytest.raises(LookupError):
            ops.receiver.event("evt_2")
        ops.receiver.services.runner.run(claim)
        assert state(ops) == ("dead", "gave_up", 1)
        assert "a worker runs it" in ops.get("/ops/events/evt_1/retry").text
        answer = ops.post("/ops/events/evt_1/retry", ask(ops), follow=True)
        assert "anna retried evt_1." in answer.text
        assert "attempt 2 was due" in answer.text
        assert state(ops)[0] == "pending"

    def test_failure_is_shown(self, make_ops: Make) -> None:
        """A retry that fails leads to the event's page, which has the new attempt."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops)
        answer = ops.post("/ops/events/evt_1/retry", ask(ops), follow=True)
        assert answer.status_code == 200
        assert "Attempts 1 to 2: failed" in answer.text

    def test_form_works_once(self, make_ops: Make) -> None:
        """A form that is sent twice, or by two people, has the event run once."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops)
        fields = ask(ops)
        assert ops.post("/ops/events/evt_1/retry", fields).status_code == 303
        second = Browser(ops.receiver, name="ben").post("/ops/events/evt_1/retry", fields)
        assert second.status_code == 409
        assert "the event has changed since you opened the form" in second.text
        assert calls(ops) == 2
        assert [by for by, *_ in actions(ops)] == ["anna"]

    def test_form_works_once_in_queue_mode(self, make_ops: Make) -> None:
        """The event has made no attempt since the first form. Its state has changed."""
        ops = make_ops({CREATED: GIVING_UP}, processing="queue")
        deliver(ops)
        claim = ops.receiver.services.inbox.claims.claim_due(livemode=False)
        assert claim is not None
        ops.receiver.services.runner.run(claim)
        fields = ask(ops)
        assert ops.post("/ops/events/evt_1/retry", fields).status_code == 303
        assert ops.post("/ops/events/evt_1/retry", fields).status_code == 409
        assert [affected for *_, affected in actions(ops)] == [1]

    def test_form_of_a_waiting_event_works_once(self, make_ops: Make) -> None:
        """In queue mode a retried event is pending as before. The second form changes nothing."""
        ops = make_ops({CREATED: FAILING}, processing="queue")
        deliver(ops)
        claim = ops.receiver.services.inbox.claims.claim_due(livemode=False)
        assert claim is not None
        with suppress(DeliveryError):
            ops.receiver.services.runner.run(claim)
        fields = ask(ops)
        assert ops.post("/ops/events/evt_1/retry", fields).status_code == 303
        assert ops.post("/ops/events/evt_1/retry", fields).status_code == 409
        assert len(ops.receiver.services.inbox.administration.retries("evt_1")) == 1
        assert ops.post("/ops/events/evt_1/retry", ask(ops)).status_code == 303

    def test_event_that_a_delivery_takes_first(
        self, make_ops: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the inbox refuses the claim, nothing was run, and the audit log says 0 events."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops)
        fields = ask(ops)
        # The other claim comes between two statements of one request.
        monkeypatch.setattr(Claims, "claim_one", lambda *_, **__: None)
        assert ops.post("/ops/events/evt_1/retry", fields).status_code == 409
        assert actions(ops) == [("anna", "retry", None, 0)]
        assert calls(ops) == 1

    def test_done_event_needs_reason_and_second_answer(self, make_ops: Make) -> None:
        """An event that has succeeded is run again with a reason, after a second question."""
        ops = make_ops({CREATED: COUNTING})
        deliver(ops)
        assert "Retry although done" in ops.get("/ops/events/evt_1").text
        fields = ask(ops)
        without = ops.post("/ops/events/evt_1/retry", fields)
        assert without.status_code == 400
        assert "Write down the reason." in without.text
        second = ops.post("/ops/events/evt_1/retry", {"why": "lost effect", **fields})
        assert second.status_code == 200
        assert "A second run repeats its effects" in second.text
        assert ">lost effect</textarea>" in second.text
        assert calls(ops) == 1
        done = ops.post("/ops/events/evt_1/retry", {"why": "lost effect", **fields_of(second)})
        assert done.status_code == 303
        assert calls(ops) == 2
        repeated = ops.post("/ops/events/evt_1/retry", {"why": "lost effect", **fields_of(second)})
        assert repeated.status_code == 409
        assert calls(ops) == 2

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("twin", "is called only if its twin has not succeeded."),
            ("shadow", "With SHADOW in its module, it writes nothing to Stripe."),
        ],
    )
    def test_twin_and_shadow(
        self, make_deliver: MakeDeliver, stripe_api: StripeApi, kind: str, words: str
    ) -> None:
        """Both questions say what another run does. It repeats nothing."""
        modules = pairs.MODULES if kind == "twin" else pairs.FAILING_SHADOW
        deliver = make_deliver(modules=modules, ops_token=TOKEN)
        pairs.send_snapshot(deliver)
        pairs.send_thin(deliver, stripe_api)
        ops, address = Browser(deliver.receiver), "/ops/events/evt_n/retry"
        first = ops.get(address)
        second = ops.post(address, {"why": "check", **fields_of(first)})
        for question in (first, second):
            assert words in question.text
            assert "repeats" not in question.text
        assert "Run evt_n although it is done?" in second.text
        assert ops.post(address, {"why": "check", **fields_of(second)}).status_code == 303
        assert deliver.receiver.event("evt_n").outcome == kind

    def test_fallback_event(self, make_ops: Make) -> None:
        """An event of a type without a module counts as done: the fallback would run once more."""
        ops = make_ops()
        deliver(ops)
        assert "Retry although done" in ops.get("/ops/events/evt_1").text

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("livemode = true", "It is a live event, and STRIPE_API_KEY is of the other mode."),
            ("state = 'running', lease_until = 9e9", "It is running."),
            ("erased_at = 1000", "It was erased"),
        ],
    )
    def test_impossible(self, make_ops: Make, sqlite_url: str, change: str, words: str) -> None:
        """An event that cannot be run says why, to the question and to the form."""
        ops = make_ops({CREATED: GIVING_UP})
        deliver(ops)
        raw_sql.execute(sqlite_url, f"UPDATE events SET {change}")  # noqa: S608 - written here
        for answer in (ops.get("/ops/events/evt_1/retry"), ops.post("/ops/events/evt_1/retry")):
            assert answer.status_code == 409
            assert words in answer.text
        assert calls(ops) == 1

    def test_orphan_in_queue_mode(self, make_ops: Make, sqlite_url: str) -> None:
        """A worker rescues an orphan, so a retry is refused with that sentence."""
        ops = make_ops(processing="queue")
        deliver(ops)
        assert ops.receiver.services.inbox.claims.claim_due(livemode=False)
        raw_sql.orphan(sqlite_url)
        assert "a worker rescues it" in ops.get("/ops/events/evt_1/retry").text

    def test_result_that_is_recorded_later(
        self, make_ops: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the inbox is away when the callback returns, the page of the event is next."""
        ops = make_ops({CREATED: FAILING_ONCE})
        deliver(ops)
        fields = ask(ops)

        def fail(*_: object, **__: object) -> bool:
            raise InboxUnavailable("the inbox is not available", reason="test")

        with monkeypatch.context() as patch:
            # An outage exactly between two statements of one request.
            patch.setattr(Claims, "finish", fail)
            assert ops.post("/ops/events/evt_1/retry", fields).status_code == 303
        assert calls(ops) == 2


class TestGiveUp:
    """Give up one event."""

    def test_pending_event_is_dead(self, make_ops: Make) -> None:
        """It is dead with the reason, and its page says by whom."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops)
        fields = ask(ops, "give-up")
        without = ops.post("/ops/events/evt_1/give-up", fields)
        assert without.status_code == 400
        answer = ops.post("/ops/events/evt_1/give-up", {"why": "test data", **fields}, follow=True)
        assert "anna gave up evt_1." in answer.text
        assert "Dead: given up" in answer.text
        assert "gave it up, test data" in answer.text
        assert "Given up by a person" in answer.text
        assert "Attempt 1: failed" in answer.text
        assert state(ops)[:2] == ("dead", "gave_up")
        assert actions(ops) == [("anna", "give_up", "test data", 1)]

    def test_form_works_once(self, make_ops: Make) -> None:
        """An attempt that came between the question and the form is not thrown away."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops)
        fields = ask(ops, "give-up")
        deliver(ops)
        assert ops.post("/ops/events/evt_1/give-up", {"why": "x", **fields}).status_code == 409
        assert state(ops) == ("pending", "failed", 2)

    def test_other_states(self, make_ops: Make) -> None:
        """Only a pending event can be given up."""
        ops = make_ops({CREATED: COUNTING})
        deliver(ops)
        for answer in (
            ops.get("/ops/events/evt_1/give-up"),
            ops.post("/ops/events/evt_1/give-up", {"why": "x"}),
        ):
            assert answer.status_code == 409
            assert "It is done. Only a pending event can be given up." in answer.text


class TestRights:
    """Who may act."""

    @pytest.mark.parametrize(
        "path",
        ["events/evt_1/retry", "events/evt_1/give-up", "retry", "give-up", "pause", "resume"],
    )
    def test_reader_may_not(self, make_ops: Make, path: str) -> None:
        """A read-only token gets 403 with a sentence, for the question and for the form."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops)
        reader = Browser(ops.receiver, token=READ_TOKEN)
        for answer in (reader.get(f"/ops/{path}"), reader.post(f"/ops/{path}", {"why": "x"})):
            assert answer.status_code == 403
            assert "Your token may look and change nothing." in answer.text
        assert calls(ops) == 1

    @pytest.mark.parametrize("did", ["0", "17", "x", "9" * 30, "-1"])
    def test_made_up_result(self, make_ops: Make, did: str) -> None:
        """An address cannot claim an action that was not done."""
        ops = make_ops({CREATED: FAILING})
        deliver(ops)
        text = ops.get(f"/ops/events/evt_1?did={did}").text
        assert 'role="status"' not in text
