"""Events that Stripe has and the inbox lacks are backfilled, through the real SDK and HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stripe

from app.conversions import MIN_RETENTION_DAYS
from app.errors import InboxUnavailable
from app.inbox import NewEvent
from app.inbox.reconciliation import Reconciliation
from app.reconcile import listing, reconciler
from app.reconcile.gap import report
from app.reconcile.windows import LIST_LAG_SECONDS, OVERLAP_SECONDS, STRIPE_KEEPS_SECONDS
from app.states import Outcome, State
from app.stripe_api.catalog import module_name
from devkit import samples
from tests.reconcile.conftest import CREATED, HANDLER, HOUR, TYPE, Lab, OddList
from tests.support import raw_sql
from tests.support.waiting import wait_for

OTHER = "v1.invoice.paid"
FEW = 120.0
"""Tolerance in seconds between two readings of a clock."""


def set_back(url: str, seconds: float) -> None:
    """Move all watermarks back."""
    raw_sql.execute(url, f"UPDATE watermarks SET reached = reached - {seconds}")  # noqa: S608 - a number


class TestFind:
    """Which events are missing."""

    def test_missing_events_are_found(self, lab: Lab) -> None:
        """The missing events are returned oldest first, whatever the inbox did with the others."""
        lab.receiver.deliver(lab.put("evt_1"))
        lab.put("evt_2", 1800)
        lab.put("evt_3", 5400)
        assert lab.missing() == ["evt_3", "evt_2"]

    def test_event_that_failed_is_not_missing(self, make_lab: Callable[..., Lab]) -> None:
        """A failed event was delivered, and Stripe redelivers it. A dead one was delivered too."""
        lab = make_lab({CREATED: "def handle(notif, client): 1 / 0\n"})
        assert lab.receiver.deliver(lab.put("evt_1")).status_code == 500
        assert lab.missing() == []

    def test_find_changes_nothing(self, lab: Lab) -> None:
        """``find`` records no event and moves no watermark."""
        lab.put("evt_1")
        assert lab.missing() == lab.missing() == ["evt_1"]
        assert lab.reached() == {}
        assert lab.inbox.administration.latest(1) == []

    def test_only_handled_types_are_reconciled(self, lab: Lab) -> None:
        """Events without a module of their own are not backfilled."""
        lab.put("evt_1", event_type=OTHER)
        assert lab.missing() == []
        (asked,) = lab.api.asked
        assert f"types%5B0%5D={TYPE}&created" in asked.query

    def test_type_that_is_newer_than_the_sdk(self, make_lab: Callable[..., Lab]) -> None:
        """A type that the SDK does not know is listed and backfilled like any other."""
        lab = make_lab({"new": f'EVENT_TYPE = "v9.thing.made"\n{HANDLER}'})
        lab.put("evt_1", event_type="v9.thing.made", unknown=True)
        assert lab.missing() == ["evt_1"]

    def test_twenty_types_are_requested_at_once(self, make_lab: Callable[..., Lab]) -> None:
        """Stripe's list takes twenty types in one request. All types are requested."""
        types = samples.event_types()[:45]
        lab = make_lab({module_name(type_): HANDLER for type_ in types})
        for number, type_ in enumerate(types):
            lab.put(f"evt_{number:02}", HOUR - number, event_type=type_)
        assert lab.missing() == [f"evt_{number:02}" for number in range(45)]
        assert [asked.query.count("types%5B") for asked in lab.api.asked] == [20, 20, 5]

    def test_all_pages_are_read(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """All pages are read, with any page size and any number of ids per question."""
        monkeypatch.setattr(listing, "PAGE", 3)
        monkeypatch.setattr(reconciler, "ASK_AT_ONCE", 4)
        for number in range(10):
            lab.put(f"evt_{number}", HOUR - number)
        lab.receiver.deliver(lab.put("evt_5"))
        assert lab.missing() == [f"evt_{number}" for number in range(10) if number != 5]
        assert len(lab.api.asked) == 4

    def test_list_that_changes_while_it_is_read(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """New and removed events during the reading hide no other event."""
        monkeypatch.setattr(listing, "PAGE", 2)
        for number in range(6):
            lab.put(f"evt_{number}", HOUR - number)

        def change() -> None:
            lab.put("evt_new", HOUR / 2)
            lab.api.events.remove("evt_5")

        lab.api.events.after_page(1, change)
        assert lab.missing() == [f"evt_{number}" for number in range(6)]
        assert "evt_new" in lab.missing()

    def test_each_account_has_its_list(self, lab: Lab) -> None:
        """The list of the key's account and of each given account is read once."""
        lab.put("evt_own", 30 * 60)
        lab.put("evt_1", 40 * 60, context="acct_1")
        lab.put("evt_2", 50 * 60, context="acct_2")
        assert lab.missing() == ["evt_own"]
        assert lab.missing("acct_1", "acct_2", "acct_1") == ["evt_2", "evt_1", "evt_own"]
        contexts = [asked.stripe_context for asked in lab.api.asked[1:]]
        assert contexts == [None, "acct_1", "acct_2"]

    def test_account_that_fails_does_not_hide_the_others(self, lab: Lab) -> None:
        """An account that is no longer connected is reported. The others are reconciled."""
        lab.put("evt_2", context="acct_2")
        lab.api.fail("/v2/core/events", status=403, times=1)  # the account of the key
        gap = lab.close("acct_2")
        assert [each.event.id for each in gap.missing] == ["evt_2"]
        assert isinstance(gap.failed[""], stripe.PermissionError)
        assert (lab.reached(), set(lab.reached("acct_2"))) == ({}, {TYPE})

    @pytest.mark.parametrize("status", [401, 403, 429, 500])
    def test_error_for_all_accounts_is_raised(self, lab: Lab, status: int) -> None:
        """No watermark moves when the key is wrong or Stripe does not answer."""
        lab.api.fail("/v2/core/events", status=status, times=3)
        with pytest.raises(stripe.StripeError):
            lab.close()
        assert lab.reached() == {}

    @pytest.mark.parametrize("item", ["evt_1", 1, None, {"object": "customer"}, {"id": "evt_1"}])
    def test_item_that_is_no_event(self, lab: Lab, item: object) -> None:
        """A list with an item that is no event is an error of the API, not a gap."""
        lab.api.events = OddList([item])
        with pytest.raises(stripe.APIError, match="a listed event cannot be read"):
            lab.missing()


class TestWindow:
    """Which part of Stripe's list is read."""

    def test_last_minutes_are_left_to_deliveries(self, lab: Lab) -> None:
        """The list is not complete yet, and the event is on its way."""
        lab.put("evt_1", FEW)
        lab.put("evt_2", LIST_LAG_SECONDS + 60)
        assert lab.missing() == ["evt_2"]

    def test_first_window_is_a_day(self, lab: Lab) -> None:
        """The first window is a day, or begins at ``--since``."""
        lab.put("evt_1", 23 * HOUR)
        lab.put("evt_2", 25 * HOUR)
        assert lab.missing() == ["evt_1"]
        assert lab.missing(since=time.time() - 26 * HOUR) == ["evt_2", "evt_1"]
        assert lab.missing(since=time.time() - HOUR) == []
        assert lab.missing(since=time.time()) == []

    def test_windows_overlap(self, lab: Lab) -> None:
        """An event that appears late in the list is found within the overlap."""
        lab.close()
        assert lab.reached() == {TYPE: pytest.approx(LIST_LAG_SECONDS, abs=FEW)}
        lab.put("evt_1", LIST_LAG_SECONDS + OVERLAP_SECONDS - FEW)
        lab.put("evt_2", LIST_LAG_SECONDS + OVERLAP_SECONDS + FEW)
        assert lab.missing() == ["evt_1"]

    def test_window_begins_at_the_watermark_after_a_pause(
        self, lab: Lab, database_url: str
    ) -> None:
        """After a week without reconciliation the whole week is read."""
        lab.close()
        set_back(database_url, 7 * 86400)
        lab.put("evt_1", 6 * 86400)
        assert lab.missing() == ["evt_1"]

    def test_new_type_has_its_own_watermark(
        self, make_lab: Callable[..., Lab], sqlite_url: str
    ) -> None:
        """A type that is handled from now on has its own watermark."""
        make_lab(database_url=sqlite_url).close()
        later = make_lab({CREATED: HANDLER, "v1_invoice_paid": HANDLER}, database_url=sqlite_url)
        later.put("evt_1", 20 * HOUR, event_type=OTHER)
        assert later.missing() == ["evt_1"]

    def test_new_type_does_not_extend_other_windows(
        self, make_lab: Callable[..., Lab], sqlite_url: str
    ) -> None:
        """A window holds types with similar watermarks."""
        types = samples.event_types()[:21]
        make_lab({module_name(type_): HANDLER for type_ in types[1:]}).close()
        later = make_lab({module_name(type_): HANDLER for type_ in types}, database_url=sqlite_url)
        gap = later.reconciler.find([])
        assert types[0] in gap.windows[0].types
        assert [len(window.types) for window in gap.windows] == [20, 1]
        assert gap.windows[1].begin == pytest.approx(
            time.time() - LIST_LAG_SECONDS - OVERLAP_SECONDS, abs=FEW
        )

    def test_removed_event_is_not_found_again(self, lab: Lab, database_url: str) -> None:
        """An event that retention may remove is too old for Stripe's list."""
        days = MIN_RETENTION_DAYS
        lab.put("evt_1", days * 24 * HOUR)
        lab.put("evt_2", days * 24 * HOUR - 1.5 * 24 * HOUR)
        assert lab.missing(since=0) == ["evt_2"]
        lab.close(since=0)
        set_back(database_url, STRIPE_KEEPS_SECONDS)
        assert lab.missing() == []

    @pytest.mark.parametrize(
        ("ago", "reached"),
        [(2 * HOUR, LIST_LAG_SECONDS), (0.5 * HOUR, HOUR)],
        ids=["before", "after"],
    )
    def test_watermark_does_not_skip_a_range(
        self, lab: Lab, database_url: str, ago: float, reached: float
    ) -> None:
        """With ``--since`` after the watermark, the range between them is still to be read."""
        lab.close()
        set_back(database_url, HOUR - LIST_LAG_SECONDS)
        lab.close(since=time.time() - ago)
        assert lab.reached() == {TYPE: pytest.approx(reached, abs=FEW)}

    def test_first_watermark_needs_the_first_day(self, lab: Lab) -> None:
        """Reading the last hour does not complete the day before it."""
        lab.close(since=time.time() - HOUR)
        assert lab.reached() == {}
        lab.close(since=time.time() - 25 * HOUR)
        assert set(lab.reached()) == {TYPE}

    def test_thirty_days_at_most(
        self, lab: Lab, database_url: str, logged: Callable[[str], dict[str, Any]]
    ) -> None:
        """Events that Stripe no longer lists are reported once, and the watermark moves on."""
        lab.put("evt_1", 29 * 86400)
        assert lab.missing(since=0) == ["evt_1"]
        lab.close()
        set_back(database_url, STRIPE_KEEPS_SECONDS)
        gap = lab.reconciler.find([])
        assert [window.late for window in gap.windows] == [(TYPE,)]
        assert [each.event.id for each in gap.missing] == ["evt_1"]
        report(gap, lab.reconciler.record(gap))
        assert logged("events_out_of_reach")["types"] == [TYPE]
        assert lab.reached() == {TYPE: pytest.approx(LIST_LAG_SECONDS, abs=FEW)}
        assert lab.reconciler.find([]).windows[0].late == ()


class TestRecord:
    """A missing event is recorded as if it had been delivered."""

    def test_backfilled_event_equals_a_delivered_one(self, lab: Lab) -> None:
        """Its body has the same bytes, without the event's data. Only its source differs."""
        notification = lab.put("evt_1", reason=samples.request_reason(), context="acct_1")
        lab.close("acct_1")
        event = lab.receiver.event("evt_1")
        assert json.loads(event.body) == notification
        assert (event.type, event.livemode, event.context) == (TYPE, False, "acct_1")
        delivered = {**notification, "id": "evt_2"}
        lab.receiver.deliver(delivered)
        assert lab.receiver.event("evt_2").concurrency_key == event.concurrency_key
        assert (event.source, lab.receiver.event("evt_2").source) == ("reconcile", "delivery")

    def test_context_is_that_of_the_list(self, lab: Lab) -> None:
        """An event without a context belongs to the account whose list has it."""
        listed = samples.event(samples.notification(TYPE, event_id="evt_1"))
        lab.api.fail("/v2/core/events", status=403)  # for the account of the key
        lab.api.events = OddList([listed])
        (missing,) = lab.reconciler.find(["acct_1"]).missing
        assert missing.event.context == "acct_1"
        assert json.loads(missing.event.body)["context"] == "acct_1"

    def test_line_of_the_log_has_the_context(
        self, lab: Lab, logged: Callable[[str], dict[str, Any]]
    ) -> None:
        """Each backfilled event has a line in the log."""
        lab.put("evt_1", context="acct_1")
        lab.close("acct_1")
        line = logged("event_backfilled")
        assert (line["event_id"], line["event_type"], line["context"]) == ("evt_1", TYPE, "acct_1")

    def test_recording_is_idempotent(self, lab: Lab) -> None:
        """A second run finds nothing, and recording a gap twice records it once."""
        lab.put("evt_1")
        gap = lab.reconciler.find([])
        assert [lab.reconciler.record(gap) for _ in range(2)] == [1, 0]
        assert lab.missing() == []

    def test_delivery_between_reading_and_recording(self, lab: Lab) -> None:
        """An event that was delivered in between keeps its state and does not run again."""
        notification = lab.put("evt_1")
        gap = lab.reconciler.find([])
        lab.receiver.deliver(notification)
        assert lab.reconciler.record(gap) == 0
        assert list(lab.reconciler.run_unfinished()) == []
        assert len(lab.receiver.module(CREATED).calls) == 1
        assert lab.receiver.event("evt_1").source == "delivery"

    def test_event_of_the_other_mode_is_not_run(self, lab: Lab) -> None:
        """As for a delivery, the event is recorded and not run."""
        lab.put("evt_1", livemode=True)
        lab.close()
        assert list(lab.reconciler.run_unfinished()) == []
        event = lab.receiver.event("evt_1")
        assert (event.state, event.outcome) == (State.DONE, Outcome.WRONG_MODE)

    def test_watermark_advances_after_all_events_are_recorded(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After an outage of the inbox the next run begins at the old watermark."""
        for number in range(3):
            lab.put(f"evt_{number}", HOUR - number)
        backfill = Reconciliation.backfill

        def fail_at_the_last(self: Reconciliation, event: NewEvent, **more: Any) -> bool:
            if event.id == "evt_2":
                raise InboxUnavailable("away", reason="away")
            return backfill(self, event, **more)

        # The real inbox, except for one statement: a test cannot choose the moment of an outage.
        with monkeypatch.context() as patch:
            patch.setattr(Reconciliation, "backfill", fail_at_the_last)
            with pytest.raises(InboxUnavailable):
                lab.close()
        assert lab.reached() == {}
        assert lab.missing() == ["evt_2"]


class TestRun:
    """Backfilled events are run as the mode demands."""

    def test_inline_mode_runs_the_events(self, lab: Lab) -> None:
        """Inline mode runs them one by one, oldest first, in the context of their account."""
        lab.put("evt_1", 1800, context="acct_1")
        lab.put("evt_2", 5400)
        lab.close("acct_1")
        ran = [(claim.event_id, outcome) for claim, outcome in lab.reconciler.run_unfinished()]
        assert ran == [("evt_2", Outcome.HANDLED), ("evt_1", Outcome.HANDLED)]
        calls = lab.receiver.module(CREATED).calls
        assert [(notif.id, str(notif.context or "")) for notif in calls] == [
            ("evt_2", ""),
            ("evt_1", "acct_1"),
        ]
        assert lab.receiver.event("evt_1").state == State.DONE

    def test_events_run_in_their_order(self, make_lab: Callable[..., Lab]) -> None:
        """They keep their order, even within one tick of the database's clock."""
        lab = make_lab()
        expected = [f"evt_{number * 7 % 30}" for number in range(30)]
        for place, event_id in enumerate(expected):
            lab.put(event_id, HOUR - place)
        lab.close()
        assert [claim.event_id for claim, _ in lab.reconciler.run_unfinished()] == expected

    def test_failed_event_stays_pending_and_the_others_run(
        self, make_lab: Callable[..., Lab]
    ) -> None:
        """The next run retries it, until it succeeds."""
        source = HANDLER + "    if len(calls) == 1: raise ValueError\n"
        lab = make_lab({CREATED: source})
        lab.put("evt_1", 5400)
        lab.put("evt_2", 1800)
        lab.close()
        assert [outcome for _, outcome in lab.reconciler.run_unfinished()] == [
            Outcome.FAILED,
            Outcome.HANDLED,
        ]
        assert lab.receiver.event("evt_1").state == State.PENDING
        assert lab.reconciler.unfinished_ids() == ["evt_1"]
        assert [outcome for _, outcome in lab.reconciler.run_unfinished()] == [Outcome.HANDLED]
        assert lab.reconciler.unfinished_ids() == []

    def test_dead_events_are_dead_as_after_a_delivery(self, make_lab: Callable[..., Lab]) -> None:
        """An event that gave up or is unreadable is dead, as after a delivery."""
        source = "from app import GiveUp\ndef handle(notif, client):\n    raise GiveUp('no')\n"
        lab = make_lab({CREATED: source, "v1_invoice_paid": HANDLER})
        lab.put("evt_1", 5400)
        notification = lab.put("evt_2", 1800, event_type=OTHER)
        lab.api.put_event(samples.event({**notification, "related_object": None}))
        lab.close()
        assert [outcome for _, outcome in lab.reconciler.run_unfinished()] == [
            Outcome.GAVE_UP,
            Outcome.UNREADABLE,
        ]
        assert {event.state for event in lab.inbox.administration.latest(2)} == {State.DEAD}

    def test_event_of_another_claim_is_skipped(self, lab: Lab) -> None:
        """A delivery or another process may have run the event in between."""
        notification = lab.put("evt_1", 5400)
        lab.put("evt_2", 1800)
        lab.close()
        run = lab.reconciler.run_unfinished()
        taken = lab.reconciler.run_unfinished()
        assert next(run)[0].event_id == "evt_1"
        assert next(taken)[0].event_id == "evt_2"
        assert list(run) == []
        assert lab.receiver.deliver(notification).json == {"success": True, "outcome": "duplicate"}
        assert len(lab.receiver.module(CREATED).calls) == 2

    def test_poison_event_is_marked_dead(
        self, make_lab: Callable[..., Lab], logged: Callable[[str], dict[str, Any]]
    ) -> None:
        """It does not prevent the other events from running."""
        lab = make_lab(max_crashes=1)
        lab.put("evt_1")
        lab.close()
        assert (
            lab.inbox.claims.claim_unfinished("evt_1", livemode=False) is not None
        )  # and its result was never recorded
        raw_sql.orphan(lab.receiver.services.settings.database_url)
        assert list(lab.reconciler.run_unfinished()) == []
        assert lab.receiver.event("evt_1").state == State.DEAD
        assert logged("event_crashed")["event_id"] == "evt_1"

    def test_queue_mode_leaves_the_events_to_workers(
        self, make_lab: Callable[..., Lab], database_url: str
    ) -> None:
        """Queue mode only records the event. A worker runs it like a delivered one."""
        lab = make_lab(processing="queue", database_url=database_url)
        lab.put("evt_1")
        lab.close()
        assert list(lab.reconciler.run_unfinished()) == []
        assert lab.receiver.event("evt_1").state == State.PENDING
        lab.receiver.services.worker.start(1)
        wait_for(lambda: lab.receiver.event("evt_1").state == State.DONE)
        assert len(lab.receiver.module(CREATED).calls) == 1


class TestEvery:
    """In workers the reconciler runs periodically, in one process at a time."""

    @pytest.fixture
    def start(self) -> Iterator[Callable[..., threading.Event]]:
        """A function that starts a reconciler, and returns a function that stops it."""
        stops: list[tuple[threading.Event, threading.Thread]] = []

        def begin(lab: Lab, seconds: float = 0.05, *accounts: str) -> threading.Event:
            stop = threading.Event()
            arguments = (seconds, stop, accounts)
            thread = threading.Thread(target=lab.reconciler.run_every, args=arguments)
            thread.start()
            stops.append((stop, thread))
            return stop

        yield begin
        for stop, thread in stops:
            stop.set()
            thread.join()

    def test_missing_events_are_recorded_periodically(
        self, make_lab: Callable[..., Lab], start: Callable[..., threading.Event], database_url: str
    ) -> None:
        """Missing events are recorded at once, and after each interval."""
        lab = make_lab(processing="queue", database_url=database_url)
        lab.put("evt_1")
        start(lab, 0.05, "acct_1")
        wait_for(lambda: lab.inbox.administration.find("evt_1"))
        lab.put("evt_2", LIST_LAG_SECONDS + 60, context="acct_1")
        wait_for(lambda: lab.inbox.administration.find("evt_2"))

    def test_one_process_is_the_leader(
        self, make_lab: Callable[..., Lab], start: Callable[..., threading.Event], database_url: str
    ) -> None:
        """The others wait until the leader's term has ended. Then one of them takes over."""
        lab = make_lab(processing="queue", database_url=database_url)
        assert lab.inbox.reconciliation.acquire_leadership("reconcile", "another process", 600)
        start(lab)
        start(lab)
        lab.put("evt_1")
        lab.inbox.check()
        assert lab.inbox.administration.find("evt_1") is None
        assert lab.api.asked == []
        raw_sql.execute(database_url, "UPDATE leaders SET until = 0")
        wait_for(lambda: lab.inbox.administration.find("evt_1"))
        ((_, leader_id, *_),) = raw_sql.select(database_url, "leaders")
        wait_for(lambda: len(lab.api.asked) > 3)
        assert [row[1] for row in raw_sql.select(database_url, "leaders")] == [leader_id]

    def test_stop_interrupts_reading(
        self, make_lab: Callable[..., Lab], start: Callable[..., threading.Event]
    ) -> None:
        """Nothing is recorded after the stop."""
        lab = make_lab(processing="queue")
        lab.put("evt_1")
        release = lab.api.hold("/v2/core/events")
        stop = start(lab)
        wait_for(lambda: lab.api.asked)
        stop.set()
        release.set()

    def test_errors_do_not_end_the_thread(
        self,
        make_lab: Callable[..., Lab],
        start: Callable[..., threading.Event],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Errors of Stripe, of the inbox and unexpected ones are logged. The next round comes."""
        lab = make_lab(processing="queue")
        lab.api.events = OddList(["no event"])
        lab.put("evt_1")
        lab.api.fail("/v2/core/events", status=429)
        lead = Reconciliation.acquire_leadership
        errors = [RuntimeError("odd"), InboxUnavailable("", reason="away_for_once")]

        def fail_at_first(self: Reconciliation, name: str, leader_id: str, seconds: float) -> bool:
            if errors:
                raise errors.pop()
            return lead(self, name, leader_id, seconds)

        # The real inbox, except for two calls: a test cannot choose the moment of a failure.
        monkeypatch.setattr(Reconciliation, "acquire_leadership", fail_at_first)
        start(lab)
        wait_for(lambda: lab.inbox.administration.find("evt_1"))
        lines = map(json.loads, capsys.readouterr().err.splitlines())
        failed = [line for line in lines if line["event"] == "reconcile_failed"]
        reasons = [line.get("reason") for line in failed]
        assert reasons == ["away_for_once", None, "RateLimitError 429", "APIError"]
        assert "RuntimeError: odd" in failed[1]["exception"]
