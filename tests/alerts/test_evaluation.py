"""Each condition is raised by the real thing and ended by it, once, on both databases."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial

import pytest

from app.inbox.sql.alert_facts import DEAD_BOUND
from tests.alerts.conftest import MODULE, TYPE, Lab, log_lines

MakeLab = Callable[..., Lab]

WORKS = {MODULE: "def handle(notif, client): pass\n"}
RAISED, RESOLVED = ("dead_events", "raised"), ("dead_events", "resolved")
DAY = 86400.0
GROUP = (
    "INSERT INTO stripe_receiver_error_groups"
    " (fingerprint, exception, place, type, first_at, last_at, attempts, event_id)"
    " VALUES (:name, :exception, :place, :type, 0, :at, :number, 'evt_0')"
)


@pytest.fixture
def lab(make_lab: MakeLab, sqlite_url: str) -> Lab:
    """A service whose callback gives up, on SQLite."""
    return make_lab(database_url=sqlite_url)


@pytest.fixture
def each_lab(make_lab: MakeLab, database_url: str) -> Lab:
    """The same on each database, for tests of the statements."""
    return make_lab(database_url=database_url)


def repair(lab: Lab) -> None:
    """Let all dead events succeed, as a retry with a repaired handler does."""
    lab.execute("UPDATE events SET state = 'done', outcome = 'handled' WHERE state = 'dead'")


class TestDeadEvents:
    """Events that die wake a person once, until they are repaired."""

    def test_raised_once_and_ended(self, each_lab: Lab) -> None:
        """There is one message about two dead events of a group, and one about the end."""
        assert each_lab.round() == []
        each_lab.deliver("evt_1")
        each_lab.deliver("evt_2")
        assert each_lab.round() == [RAISED]
        each_lab.deliver("evt_3")
        assert each_lab.round() == []
        repair(each_lab)
        assert each_lab.round() == []  # it may come back within a minute
        assert each_lab.calm_round() == [RESOLVED]
        assert each_lab.calm_round() == []

    def test_body(self, lab: Lab) -> None:
        """The body has the documented fields, and nothing of the event or of the error's text."""
        lab.deliver("evt_1")
        lab.round()
        event = lab.service.event("evt_1")
        (message,) = lab.receiver.received
        assert message.is_signed
        assert message.headers["content-type"] == "application/json"
        since = message.body.pop("since")
        place = f"{lab.settings.handlers_package}/{MODULE}.py:5"
        assert message.body == {
            "text": f"[test mode] 1 event is dead: app.errors.GiveUp in {place}."
            f" See `flask events groups {event.fingerprint}`",
            "alert": "dead_events",
            "state": "raised",
            "group": event.fingerprint,
            "count": 1,
            "types": [TYPE],
            "release": event.release,
            "runbook": "docs/operations.md#dead-events",
        }
        assert since == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.settled_at))

    def test_without_group(self, lab: Lab) -> None:
        """Dead events of an earlier version have no group: outcome and type stand for it."""
        lab.inbox.migrate()
        add_dead(lab, 1, None)
        lab.round()
        (body,) = lab.receiver.bodies
        assert body["group"] == f"exhausted.{TYPE}"
        assert body["text"] == (
            f"[test mode] 1 event is dead: the last attempt failed ({TYPE})."
            f" See `flask events list --state dead --type {TYPE}`"
        )

    def test_error_group(self, make_lab: MakeLab, database_url: str) -> None:
        """A group is named by its exception and its place, with the release and a link."""
        lab = make_lab(
            database_url=database_url, public_url="https://host", stripe_api_key="sk_live_fake"
        )
        lab.inbox.migrate()
        add_dead(lab, 2, "9f2c", "41c9")
        add_group(lab, "9f2c", "KeyError", "handlers/v1_invoice_paid.py:31")
        lab.round()
        (body,) = lab.receiver.bodies
        assert body["text"] == (
            "2 events are dead: KeyError in handlers/v1_invoice_paid.py:31."
            " https://host/ops/groups/9f2c"
        )
        assert (body["group"], body["release"]) == ("9f2c", "41c9")
        repair(lab)
        lab.calm_round()
        assert re.sub(r"\d+ s", "0 s", lab.receiver.texts[1]) == (
            "Well again after 0 s: no event is dead any more"
            " (KeyError in handlers/v1_invoice_paid.py:31)."
        )

    @pytest.mark.parametrize(
        ("exception", "cause"),
        [("KeyError", "KeyError"), ("crashed", f"the last attempt failed ({TYPE})")],
    )
    def test_group_without_place(
        self, make_lab: MakeLab, sqlite_url: str, exception: str, cause: str
    ) -> None:
        """An error of the SDK can have no place. A crash has no exception either."""
        lab = make_lab(database_url=sqlite_url)
        lab.inbox.migrate()
        add_dead(lab, 1, "9f2c")
        add_group(lab, "9f2c", exception, None)
        lab.round()
        assert f"1 event is dead: {cause}. See" in lab.receiver.texts[0]

    def test_releases_of_a_group(self, lab: Lab) -> None:
        """Events of one error count together, whatever the release and the type."""
        lab.inbox.migrate()
        for release in ("41c9", "52da"):
            add_dead(lab, 2, "9f2c", release)
        lab.execute("UPDATE events SET type = 'v1.a' WHERE id = 'evt_0'")
        assert lab.round() == [RAISED]
        (body,) = lab.receiver.bodies
        assert (body["count"], body["types"]) == (4, ["v1.a", TYPE])

    def test_mention_is_plain_text(self, make_lab: MakeLab, sqlite_url: str) -> None:
        """No name in an error can ping a channel, or look like a link."""
        lab = make_lab(database_url=sqlite_url)
        lab.inbox.migrate()
        add_dead(lab, 1, "9f2c")
        add_group(lab, "9f2c", "<!channel>Error", "handlers/@here.py:1")
        lab.round()
        assert "[!channel]Error in handlers/(at)here.py:1." in lab.receiver.texts[0]

    def test_given_up_by_an_operator(self, make_lab: MakeLab, database_url: str) -> None:
        """An operator who gives an event up needs no alert about it. Another event still does."""
        lab = make_lab(database_url=database_url)
        lab.inbox.migrate()
        add_dead(lab, 2, "9f2c")
        lab.execute("UPDATE events SET outcome = 'gave_up' WHERE id = 'evt_1'")
        lab.round()
        assert [each["count"] for each in lab.receiver.bodies] == [1]
        lab.execute("UPDATE events SET outcome = 'gave_up'")
        assert lab.calm_round() == [RESOLVED]

    def test_each_group_has_an_alert(self, lab: Lab) -> None:
        """Two groups are two alerts, and each has its own end."""
        lab.inbox.migrate()
        add_dead(lab, 1, "one")
        add_dead(lab, 1, "two")
        assert lab.round() == [RAISED, RAISED]
        assert sorted(each["group"] for each in lab.receiver.bodies) == ["one", "two"]
        lab.execute("UPDATE events SET state = 'done' WHERE fingerprint = 'one'")
        assert lab.calm_round() == [RESOLVED]
        assert lab.receiver.bodies[2]["group"] == "one"
        assert [each.id for each in lab.inbox.alerts.raised()] == ["dead_events:two"]

    def test_tenfold_growth_is_said_once_in_a_window(
        self, make_lab: MakeLab, sqlite_url: str
    ) -> None:
        """A group that grew tenfold is a message again, after the window."""
        lab = make_lab(database_url=sqlite_url)
        lab.inbox.migrate()
        add_dead(lab, 1, "one")
        assert lab.round() == [RAISED]
        add_dead(lab, 9, "one")
        assert lab.round() == []
        pass_window(lab)
        assert lab.round() == [("dead_events", "continues")]
        assert lab.receiver.texts[1].startswith("[test mode] Still: 10 events are dead: ")
        pass_window(lab)
        add_dead(lab, 89, "one")
        assert lab.round() == []
        add_dead(lab, DEAD_BOUND, "one")
        assert lab.round() == [("dead_events", "continues")]
        assert f"Still: {DEAD_BOUND}+ events are dead" in lab.receiver.texts[2]

    def test_raised_again_after_the_window(self, lab: Lab) -> None:
        """A group that is broken again within the window waits for its end."""
        lab.deliver("evt_1")
        lab.round()
        repair(lab)
        lab.calm_round()
        lab.deliver("evt_2")
        assert lab.round() == []
        pass_window(lab)
        assert lab.round() == [RAISED]
        assert lab.alert().is_raised

    def test_old_deaths_end_the_alert(self, lab: Lab) -> None:
        """Events that stay dead for a day without another one end it, and the text says so."""
        lab.deliver("evt_1")
        lab.round()
        lab.execute("UPDATE events SET settled_at = settled_at - :day", {"day": DAY})
        assert lab.calm_round() == [RESOLVED]
        assert (
            "no event died for a day; 1 event is still dead (app.errors.GiveUp in "
            in lab.receiver.texts[1]
        )
        pass_window(lab)
        assert lab.round() == []
        lab.deliver("evt_2")
        assert lab.round() == [RAISED]
        assert lab.receiver.bodies[2]["count"] == 2


def add_dead(lab: Lab, number: int, group: str | None, release: str | None = None) -> None:
    """Add events that died now, with an error group."""
    ((known,),) = lab.rows("SELECT count(*) FROM events")
    values = {"type": TYPE, "livemode": False, "now": time.time(), "body": b"{}"}
    values |= {"group": group, "release": release}
    lab.execute(
        "INSERT INTO events (id, type, livemode, body, state, outcome, attempt, deliveries,"
        " received_at, due_at, settled_at, subject, spent, crashes, source, fingerprint, release)"
        " VALUES (:id, :type, :livemode, :body, 'dead', 'exhausted', 1, 1, :now, :now, :now, 's',"
        " 1, 0, 'delivery', :group, :release)",
        *({**values, "id": f"evt_{known + each}"} for each in range(number)),
    )


def add_group(lab: Lab, name: str, exception: str, place: str | None, number: int = 1) -> None:
    """Add an error group with attempts that failed now."""
    now = time.time()
    values = {"name": name, "exception": exception, "place": place, "number": number}
    lab.execute(GROUP, {**values, "type": TYPE, "at": now})
    lab.execute(
        "INSERT INTO stripe_receiver_error_hours VALUES (:name, :hour, '', :number)",
        {"name": name, "hour": int(now // 3600), "number": number},
    )


def pass_window(lab: Lab) -> None:
    """Let the last message of each alert be older than the window."""
    for alert in lab.inbox.alerts.latest():
        details = alert.details
        details["said"]["at"] -= 901
        lab.execute(
            "UPDATE stripe_receiver_alerts SET details = :details WHERE id = :id",
            {"details": json.dumps(details), "id": alert.id},
        )


class TestBacklog:
    """Events that wait too long wake a person."""

    def test_queue(self, make_lab: MakeLab, database_url: str) -> None:
        """The oldest due event waits too long. The end comes at half the limit."""
        lab = make_lab(WORKS, database_url=database_url, processing="queue")
        lab.deliver("evt_1")
        assert lab.round() == []
        age(lab, 901)
        assert lab.round() == [("backlog", "raised")]
        assert (
            "1 event pending, the oldest due for 15 minutes. Start workers"
            in (lab.receiver.texts[0])
        )
        age(lab, -300)
        assert lab.calm_round() == []
        age(lab, -300)
        assert lab.calm_round() == [("backlog", "resolved")]
        assert "Well again after" in lab.receiver.texts[1]
        assert lab.receiver.texts[1].endswith(": events no longer wait too long.")

    def test_pause_is_named(self, make_lab: MakeLab, sqlite_url: str) -> None:
        """A pause that was forgotten is the reason. The text names no person."""
        lab = make_lab(WORKS, database_url=sqlite_url, processing="queue")
        lab.deliver("evt_1")
        lab.inbox.administration.pause(by="anna", why="a secret reason")
        age(lab, 901)
        lab.round()
        assert "Workers are paused since 20" in lab.receiver.texts[0]
        assert "anna" not in lab.receiver.texts[0]
        assert "reason" not in lab.receiver.texts[0]

    def test_paused_type_is_named(self, make_lab: MakeLab, database_url: str) -> None:
        """A pause of a type can be the reason too."""
        lab = make_lab(WORKS, database_url=database_url, processing="queue")
        lab.deliver("evt_1")
        lab.execute(
            "INSERT INTO stripe_receiver_type_pauses (type, at, by) VALUES (:type, 0, 'anna')",
            {"type": TYPE},
        )
        age(lab, 901)
        lab.round()
        assert f"Some types are paused: {TYPE}. See" in lab.receiver.texts[0]

    def test_inline(self, make_lab: MakeLab, sqlite_url: str) -> None:
        """In inline mode, an event waits for Stripe, until Stripe no longer redelivers."""
        lab = make_lab(
            {MODULE: "def handle(notif, client): raise ValueError\n"}, database_url=sqlite_url
        )
        lab.deliver("evt_1")
        age(lab, DAY - 60)
        assert lab.round() == []
        age(lab, 60)
        assert lab.round() == [("backlog", "raised")]
        assert "the oldest for 24 hours: Stripe no longer redelivers" in lab.receiver.texts[0]

    def test_zero_switches_it_off(self, make_lab: MakeLab, sqlite_url: str) -> None:
        """Without a limit, no backlog is too old."""
        lab = make_lab(WORKS, database_url=sqlite_url, processing="queue", alert_backlog_seconds=0)
        lab.deliver("evt_1")
        age(lab, 1e6)
        assert lab.round() == []


def age(lab: Lab, seconds: float) -> None:
    """Let all events have been received, and due, so many seconds earlier."""
    lab.execute(
        "UPDATE events SET received_at = received_at - :seconds, due_at = due_at - :seconds",
        {"seconds": seconds},
    )


class TestSilence:
    """No delivery wakes a person if there are some at this time on other days."""

    def test_raised_and_ended(self, make_lab: MakeLab, database_url: str) -> None:
        """Deliveries came in the same hours of the week, and then none."""
        lab = make_lab(WORKS, database_url=database_url)
        lab.inbox.migrate()
        for day in range(1, 8):
            add_deliveries(lab, day * DAY + 600, 40)
        add_deliveries(lab, 7.5 * DAY, 1)
        assert lab.round() == [("silence", "raised")]
        (body,) = lab.receiver.bodies
        assert "No delivery for 24 hours. In the same hours of 7 of the last 7 days" in body["text"]
        assert "there were 40 on average" in body["text"]
        lab.deliver("evt_1")
        lab.service.services.meter.flush()
        assert lab.calm_round() == [("silence", "resolved")]

    @pytest.mark.parametrize(
        "days",
        [
            {},
            {1: 40},
            {1: 40, 2: 40},
            {1: 40, 2: 40, 3: 40, 4: 40, 5: 40, 8: 40},
            {1: 5, 2: 5, 3: 5, 4: 5, 5: 5, 6: 5, 7: 5},
            {4: 40, 5: 40, 6: 40},
            {3: 40, 5: 40, 7: 40, 8: 1},
        ],
        ids=["new", "one day", "two days", "weekend", "few", "first weekend", "rare"],
    )
    def test_not_expected(self, make_lab: MakeLab, sqlite_url: str, days: dict[int, int]) -> None:
        """Nothing is expected of a new inbox, at weekends, or where deliveries are rare."""
        lab = make_lab(WORKS, database_url=sqlite_url)
        lab.inbox.migrate()
        for day, number in days.items():
            add_deliveries(lab, day * DAY + 600, number)
        assert lab.round() == []

    def test_pause(self, make_lab: MakeLab, sqlite_url: str) -> None:
        """While the workers are paused, a person knows."""
        lab = make_lab(WORKS, database_url=sqlite_url)
        lab.inbox.administration.pause(by="anna", why=None)
        for day in range(1, 8):
            add_deliveries(lab, day * DAY + 600, 40)
        assert lab.round() == []

    def test_stripe_lists_newer_events(self, make_lab: MakeLab, sqlite_url: str) -> None:
        """Where Stripe lists events that did not arrive, no other day is needed."""
        lab = make_lab(WORKS, database_url=sqlite_url)
        lab.inbox.findings.record("reconcile_gap", "fail", "Stripe lists 3 events more")
        add_deliveries(lab, DAY, 1)
        assert set(lab.round()) == {("silence", "raised"), ("reconcile_gap", "raised")}
        text = (
            "[test mode] No delivery for 24 hours. Stripe lists 3 events more. See `flask doctor`"
        )
        assert text in lab.receiver.texts


def add_deliveries(lab: Lab, seconds_ago: float, number: int) -> None:
    """Count deliveries of some time ago."""
    at = time.time() - seconds_ago
    add_activity(lab, "delivery", "handled", number, at)


def add_activity(lab: Lab, kind: str, name: str, number: int, at: float) -> None:
    """Count what happened at a time."""
    lab.execute(
        "INSERT INTO stripe_receiver_activity (kind, name, bucket, number, last_at)"
        " VALUES (:kind, :name, :bucket, :number, :at)",
        {"kind": kind, "name": name, "bucket": int(at // 300), "number": number, "at": at},
    )


class TestFailures:
    """A large share of failures wakes a person."""

    def test_raised_and_ended(self, make_lab: MakeLab, database_url: str) -> None:
        """More than the share failed. The end comes when fewer than half the share fail."""
        lab = make_lab(WORKS, database_url=database_url)
        lab.inbox.migrate()
        now = time.time()
        add_activity(lab, "attempt", "handled", 70, now)
        add_activity(lab, "attempt", "failed", 17, now)
        assert lab.round() == []
        add_activity(lab, "attempt", "gave_up", 1, now)
        assert lab.round() == [("failures", "raised")]
        assert "18 of 88 attempts failed within 15 minutes. " in lab.receiver.texts[0]
        set_failures(lab, 9)
        assert lab.calm_round() == []
        set_failures(lab, 6)
        assert lab.calm_round() == [("failures", "resolved")]

    def test_begin(self, make_lab: MakeLab, database_url: str) -> None:
        """It began in the first period of five minutes with a failure, not with the window."""
        lab = make_lab(WORKS, database_url=database_url)
        lab.inbox.migrate()
        now = time.time()
        add_activity(lab, "attempt", "handled", 5, now - 700)
        add_activity(lab, "attempt", "failed", 6, now - 350)
        add_activity(lab, "attempt", "gave_up", 6, now)
        lab.round()
        assert lab.alert().since == (now - 350) // 300 * 300
        pass_window(lab)
        lab.execute("DELETE FROM stripe_receiver_activity WHERE name = 'failed'")
        add_activity(lab, "attempt", "failed", 120, now)
        assert lab.round() == [("failures", "continues")]
        assert lab.receiver.bodies[1]["since"] == lab.receiver.bodies[0]["since"]

    def test_current_figures(self, make_lab: MakeLab, database_url: str) -> None:
        """While it is raised, its text has the figures of the last check, as its number has."""
        lab = make_lab(WORKS, database_url=database_url)
        lab.inbox.migrate()
        add_activity(lab, "attempt", "failed", 12, time.time())
        lab.round()
        assert lab.alert().text.startswith("12 of 12 attempts failed")
        add_activity(lab, "attempt", "handled", 3, time.time())
        assert lab.round() == []
        assert lab.alert().text.startswith("12 of 15 attempts failed")
        set_failures(lab, 20)
        lab.round()
        assert lab.alert().text.startswith("20 of 23 attempts failed")
        assert lab.alert().number == 20

    def test_stays_for_its_window(self, make_lab: MakeLab, sqlite_url: str) -> None:
        """It ends when the failures are older than the window, and not before."""
        lab = make_lab(WORKS, database_url=sqlite_url)
        lab.inbox.migrate()
        add_activity(lab, "attempt", "failed", 12, time.time())
        assert lab.round() == [("failures", "raised")]
        lab.execute("UPDATE stripe_receiver_activity SET bucket = bucket - 2")
        assert lab.calm_round() == []
        lab.execute("UPDATE stripe_receiver_activity SET bucket = bucket - 2")
        assert lab.calm_round() == [("failures", "resolved")]

    def test_callbacks_that_fail(self, make_lab: MakeLab, sqlite_url: str) -> None:
        """The attempts of real deliveries count, and the text names their error."""
        lab = make_lab(
            {MODULE: "def handle(notif, client): raise ValueError\n"}, database_url=sqlite_url
        )
        for number in range(10):
            lab.deliver(f"evt_{number}")
        lab.service.services.meter.flush()
        assert lab.round() == [("failures", "raised")]
        place = f"{lab.settings.handlers_package}/{MODULE}.py:1"
        text = "10 of 10 attempts failed within 15 minutes. Most of them: ValueError in"
        assert f"{text} {place}. See" in lab.receiver.texts[0]

    def test_worst_group_is_named(self, make_lab: MakeLab, database_url: str) -> None:
        """The text names the error group with the most failures."""
        lab = make_lab(WORKS, database_url=database_url)
        lab.inbox.migrate()
        now = time.time()
        add_activity(lab, "attempt", "failed", 30, now)
        for name, number in (("Rare", 1), ("Often", 29)):
            add_group(lab, name, f"{name}Error", "handlers/a.py:1", number)
        lab.round()
        assert "Most of them: OftenError in handlers/a.py:1. " in lab.receiver.texts[0]

    @pytest.mark.parametrize(("good", "bad"), [(0, 4), (7, 4), (4, 5), (100, 20)])
    def test_few_say_nothing(self, make_lab: MakeLab, sqlite_url: str, good: int, bad: int) -> None:
        """Few attempts, few failures, or a share up to the limit raise nothing."""
        lab = make_lab(WORKS, database_url=sqlite_url)
        lab.inbox.migrate()
        add_activity(lab, "attempt", "handled", good, time.time())
        add_activity(lab, "attempt", "failed", bad, time.time())
        assert lab.round() == []

    def test_zero_switches_it_off(self, make_lab: MakeLab, sqlite_url: str) -> None:
        """Without a share, nothing is raised."""
        lab = make_lab(WORKS, database_url=sqlite_url, alert_failure_share=0)
        lab.inbox.migrate()
        add_activity(lab, "attempt", "failed", 100, time.time())
        assert lab.round() == []


def set_failures(lab: Lab, number: int) -> None:
    """Let so many attempts have failed, of 70 and these."""
    lab.execute(
        "UPDATE stripe_receiver_activity SET number = :number WHERE name = 'failed'",
        {"number": number},
    )
    lab.execute("DELETE FROM stripe_receiver_activity WHERE name = 'gave_up'")


class TestFindings:
    """What the watch finds is raised and ended in the same way."""

    def test_raised_and_ended(self, lab: Lab) -> None:
        """A finding that fails is an alert, with its group. Most that warn are none."""
        lab.inbox.findings.record("key_revoked", "warn", "a test key that may not read events")
        lab.inbox.findings.record(
            "types_drifted:ed_1", "fail", f"not enabled at Stripe: {TYPE}", {"types": [TYPE]}
        )
        assert lab.round() == [("types_drifted", "raised")]
        (body,) = lab.receiver.bodies
        assert (body["group"], body["types"]) == ("ed_1", [TYPE])
        assert body["text"] == (f"[test mode] Not enabled at Stripe: {TYPE}. See `flask doctor`")
        lab.inbox.findings.record("types_drifted:ed_1", "ok", "ed_1 sends 1 handled type")
        assert lab.calm_round() == [("types_drifted", "resolved")]

    def test_removed_finding_ends_it(self, lab: Lab) -> None:
        """A destination that is gone fails no longer. Its finding keeps the time it began."""
        for text in ("It is disabled", "It is disabled (user)"):
            lab.inbox.findings.record("destination_disabled:ed_1", "fail", text)
        lab.execute("UPDATE stripe_receiver_findings SET since = since - 7200")
        lab.inbox.findings.record("destination_disabled:ed_1", "fail", "It is disabled")
        assert lab.round() == [("destination_disabled", "raised")]
        lab.inbox.findings.remove("destination_disabled:ed_1")
        assert lab.calm_round() == [("destination_disabled", "resolved")]
        assert "Well again after 2 hours: destination ed_1 is enabled" in lab.receiver.texts[1]


class TestLog:
    """Each transition is a line of the log, with or without a receiver."""

    def test_lines(self, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
        """One line for the begin, for the growth, and for the end."""
        lab.inbox.migrate()
        add_dead(lab, 1, None)
        lab.round()
        pass_window(lab)
        add_dead(lab, 9, None)
        lab.round()
        repair(lab)
        lab.calm_round()
        lines = [each for each in log_lines(capsys) if each["event"].startswith("alert_")]
        assert [(each["event"], each["alert"]) for each in lines] == [
            ("alert_raised", "dead_events"),
            ("alert_continues", "dead_events"),
            ("alert_resolved", "dead_events"),
        ]
        assert [each["level"] for each in lines] == ["warning", "warning", "info"]

    def test_without_a_receiver(
        self, make_lab: MakeLab, sqlite_url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """There are lines and listed alerts, and no messages."""
        lab = make_lab(database_url=sqlite_url, alert_url=None, alert_secret=None)
        lab.deliver("evt_1")
        lab.evaluation().run()
        assert [each["event"] for each in log_lines(capsys)].count("alert_raised") == 1
        place = f"{lab.settings.handlers_package}/{MODULE}.py:5"
        assert lab.alert().text == f"1 event is dead: app.errors.GiveUp in {place}"
        assert lab.inbox.alerts.unsent() == (0, 0)


class TestLeaders:
    """Two leaders make each transition once, wherever one of them ends."""

    def test_two_leaders(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A leader that was frozen during its round changes nothing afterwards."""
        lab.inbox.migrate()
        add_dead(lab, 1, None)
        freeze_first_round(lab, monkeypatch)
        assert lab.round() == [RAISED]
        pass_window(lab)
        add_dead(lab, 9, None)
        freeze_first_round(lab, monkeypatch)
        assert lab.round() == [("dead_events", "continues")]
        repair(lab)
        freeze_first_round(lab, monkeypatch)
        assert lab.calm_round() == [RESOLVED]
        events = [each["event"] for each in log_lines(capsys)]
        names = ("alert_raised", "alert_continues", "alert_resolved")
        assert [events.count(each) for each in names] == [1, 1, 1]

    def test_leader_ends_before_the_outbox(
        self, each_lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The message of a transition is sent by the next leader, with its id."""
        each_lab.deliver("evt_1")
        end_before_outbox(each_lab, monkeypatch)
        message = each_lab.alert().details["message"]
        assert each_lab.round() == [RAISED]
        assert [each.id for each in each_lab.receiver.received] == [message["id"]]
        each_lab.execute("UPDATE stripe_receiver_alert_messages SET sent_at = NULL, due_at = 0")
        each_lab.outbox().run()
        assert [each.id for each in each_lab.receiver.received] == 2 * [message["id"]]

    def test_leader_that_has_missed_an_end(self, each_lab: Lab) -> None:
        """An alert that another leader has raised and ended is not raised with older facts."""
        each_lab.inbox.migrate()
        alerts = each_lab.inbox.alerts
        raise_ = partial(alerts.raise_, "backlog", alert="backlog", group=None, since=1.0, number=1)
        for before, details in (("", {"round": 1}), ('{"round": 1}', {"round": 2})):
            assert raise_(before=before, details=details) is True
            assert alerts.resolve(each_lab.alert(), details) is True
        assert raise_(before='{"round": 1}', details={}) is False
        assert raise_(before='{"round": 2}', details={}) is True
        seen = each_lab.alert()
        assert alerts.continue_(seen, 10, {"round": 3}) is True
        assert alerts.resolve(seen, {}) is False

    def test_condition_ends_before_the_outbox(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next leader finds an end, and sends the begin before it."""
        lab.deliver("evt_1")
        end_before_outbox(lab, monkeypatch)
        repair(lab)
        lab.calm_round()
        lab.outbox().run()
        assert lab.receiver.states == [RAISED, RESOLVED]


def end_before_outbox(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a round of a leader whose process ends before it sends the messages."""
    with monkeypatch.context() as patch:
        # No mock: the process ends at this point.
        patch.setattr(lab.inbox.alerts, "hand_over", lambda: None)
        lab.evaluation().run()


def freeze_first_round(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another leader run a whole round after the next one has read the alerts."""
    facts, others = lab.inbox.alert_facts, [lab.evaluation()]
    now = facts.now

    def frozen() -> float:
        while others:
            others.pop().run()
        return now()

    # No mock: the real method, after a moment in which the process is frozen.
    monkeypatch.setattr(facts, "now", frozen)


def test_old_alerts_are_removed(each_lab: Lab) -> None:
    """An alert that ended a month ago goes, with messages of that age. A raised one stays."""
    each_lab.inbox.migrate()
    add_dead(each_lab, 1, "one")
    add_dead(each_lab, 1, "two")
    each_lab.round()
    each_lab.execute("UPDATE events SET state = 'done' WHERE fingerprint = 'one'")
    each_lab.calm_round()
    month = {"seconds": 31 * DAY}
    each_lab.execute(
        "UPDATE stripe_receiver_alerts SET resolved_at = resolved_at - :seconds", month
    )
    each_lab.execute("UPDATE stripe_receiver_alert_messages SET at = at - :seconds", month)
    each_lab.inbox.alerts.prune()
    assert each_lab.rows("SELECT id FROM stripe_receiver_alerts") == [("dead_events:two",)]
    assert each_lab.rows("SELECT id FROM stripe_receiver_alert_messages") == []


def test_forgotten_alert_is_raised_again(each_lab: Lab) -> None:
    """An alert that ended long ago is raised, though it is no longer listed."""
    each_lab.deliver("evt_1")
    each_lab.round()
    repair(each_lab)
    each_lab.calm_round()
    week = {"seconds": 8 * DAY}
    each_lab.execute("UPDATE stripe_receiver_alerts SET resolved_at = resolved_at - :seconds", week)
    assert each_lab.inbox.alerts.latest() == []
    each_lab.deliver("evt_2")
    assert each_lab.round() == [RAISED]


class TestTypePaused:
    """A type that its circuit breaker pauses wakes a person."""

    def test_raised_until_it_is_resumed(self, each_lab: Lab) -> None:
        """It names the type and the reason. A pause by a person is no alert."""
        administration = each_lab.inbox.administration
        administration.pause(by="jenny", why=None, type_="v1.invoice.paid")
        each_lab.inbox.type_breakers.add(TYPE, 10, 10)
        assert each_lab.inbox.type_breakers.open(TYPE, "10 failures in a row", -1.0)

        assert each_lab.round() == [("type_paused", "raised")]
        (alert,) = each_lab.inbox.alerts.raised()
        assert alert.group == TYPE
        assert alert.text == f"{TYPE} is paused by its circuit breaker: 10 failures in a row"

        assert each_lab.inbox.type_breakers.close(TYPE, "an event succeeded")
        assert each_lab.round() == []
        assert each_lab.calm_round() == [("type_paused", "resolved")]


class TestStepBackOfTheClock:
    """Times from before a step back of the database's clock delay no message."""

    def test_alert_ends(self, lab: Lab) -> None:
        """The condition was seen last at a time that is in the future now."""
        lab.deliver("evt_1")
        lab.round()
        repair(lab)
        lab.execute("UPDATE stripe_receiver_alerts SET seen_at = seen_at + 86400")
        assert lab.round() == [RESOLVED]

    def test_alert_is_raised_again(self, lab: Lab) -> None:
        """The window of the last message was counted from a time that is in the future now."""
        lab.deliver("evt_1")
        lab.round()
        repair(lab)
        lab.calm_round()
        details = lab.alert().details
        details["said"]["at"] += DAY
        lab.execute("UPDATE stripe_receiver_alerts SET details = :it", {"it": json.dumps(details)})
        lab.deliver("evt_2")
        assert lab.round() == [RAISED]
