"""What the watch finds at Stripe, what it alerts of, and when each finding ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from app.reconcile.windows import TYPES_AT_ONCE
from app.watch import gap
from app.watch.tasks import watch_tasks
from devkit.destinations import PATH
from tests.conftest import SECRET
from tests.watch.conftest import TYPES, URL, Watched

MakeWatched = Callable[..., Watched]

EVENTS = "/v2/core/events"
DAY = 86400.0


class TestAllWell:
    """A service that is set up well has findings, and no alert."""

    def test_findings(self, watched: Watched) -> None:
        """Each thing has a sentence, and a page can show the destination without a request."""
        found = watched.add_destination()
        findings = watched.look()
        assert {name: each.text for name, each in findings.items()} == {
            "clock_off": "the clock is as Stripe's",
            f"destination_disabled:{found}": f"{found} sends 2 handled types to {URL}",
            "destination_failing": "deliveries are answered with 2xx",
            "key_revoked": "a test key that reads events and event destinations",
            "reconcile_gap": "the inbox has the events that Stripe lists",
            "stripe_api": "Stripe's API answers",
            "types_drifted": "2 handled types are enabled at Stripe",
        }
        assert {each.level for each in findings.values()} == {"ok"}
        details = dict(findings[f"destination_disabled:{found}"].details)
        assert details.pop("name")
        assert details == {
            "id": found,
            "url": URL,
            "status": "enabled",
            "payload": "thin",
            "enabled_events": 2,
            "missing": [],
            "unhandled": [],
            "problems": [],
        }
        assert watched.alerts() == []

    def test_few_requests(self, watched: Watched) -> None:
        """A round takes two requests: Stripe grants accounts with few payments few reads."""
        watched.add_destination()
        watched.look()
        assert [each.path for each in watched.api.asked] == [PATH, EVENTS]


def test_switched_off(watched: Watched) -> None:
    """WATCH_SECONDS=0 leaves the task out."""
    parts, settings = watched.service.services, watched.settings
    (task,) = watch_tasks(settings, parts.registry, watched.inbox, parts.client)
    assert (task.seconds, task.by_leader) == (600, True)
    off = replace(settings, watch_seconds=0)
    assert watch_tasks(off, parts.registry, watched.inbox, parts.client) == []


class TestDestinations:
    """A destination that sends nothing here wakes a person."""

    def test_disabled(self, watched: Watched) -> None:
        """It is an alert until it is enabled."""
        found = watched.add_destination()
        name = f"destination_disabled:{found}"
        watched.look()
        watched.api.destinations.change(found, status="disabled")
        assert watched.look()[name].text == (
            f"event destination {found} is disabled: Stripe sends nothing. Enable it in the"
            " dashboard"
        )
        assert watched.alerts() == [name]
        watched.api.destinations.change(found, status="enabled")
        assert watched.levels() == {}

    def test_gone(self, watched: Watched) -> None:
        """A destination that was removed is an alert, unless another one is there."""
        first, second = watched.add_destination(), watched.add_destination()
        watched.look()
        watched.api.destinations.remove(first)
        assert f"destination_disabled:{first}" not in watched.look()
        assert watched.alerts() == []
        watched.api.destinations.remove(second)
        for _ in range(2):
            assert watched.look()["destination_disabled"].text == (
                f"no event destination sends to a URL that ends in /webhook: {second} is gone"
            )
        assert watched.alerts() == ["destination_disabled"]
        watched.add_destination()
        assert watched.levels() == {}

    def test_none(self, watched: Watched) -> None:
        """A service without a destination is not set up yet: a warning."""
        watched.api.destinations.add("https://your.host/other", TYPES)
        watched.api.destinations.add(URL, TYPES, type="amazon_eventbridge")
        assert watched.levels() == {"destination_disabled": "warn"}

    def test_problems(self, watched: Watched) -> None:
        """Other problems are warnings, in the doctor's words."""
        found = watched.add_destination(event_payload="snapshot")
        finding = watched.look()[f"destination_disabled:{found}"]
        assert finding.level == "warn"
        assert "Its payload is snapshot, which the service refuses" in finding.text
        assert watched.alerts() == []

    def test_other_service(self, watched: Watched) -> None:
        """With several URLs, one that is disabled may be another service's: a warning."""
        found = watched.add_destination(status="disabled")
        other = watched.add_destination("https://other.host/webhook")
        assert watched.levels() == {f"destination_disabled:{found}": "warn"}
        watched.api.destinations.change(other, status="disabled")
        assert set(watched.levels().values()) == {"fail"}

    def test_public_url(self, make_watched: MakeWatched) -> None:
        """PUBLIC_URL says which of several URLs is this service's."""
        watched = make_watched(public_url="https://your.host")
        found = watched.add_destination(status="disabled")
        watched.add_destination("https://other.host/webhook")
        assert set(watched.look()) & {f"destination_disabled:{found}"}
        assert watched.alerts() == [f"destination_disabled:{found}"]


class TestTypes:
    """A type that is not enabled is an alert, after the time that a deployment takes."""

    def test_missing(self, watched: Watched) -> None:
        """The first round warns, and the second one fails."""
        found = watched.add_destination(types=TYPES[:1])
        assert watched.levels() == {"types_drifted": "warn"}
        finding = watched.look()["types_drifted"]
        assert finding.level == "fail"
        assert finding.text == (
            "not enabled at Stripe, so their handlers are never called: v1.invoice.paid."
            f" Run `flask destination sync {found}`"
        )
        assert watched.alerts() == ["types_drifted"]
        watched.add_destination(types=TYPES[1:])
        assert watched.levels() == {}

    def test_unhandled(self, watched: Watched) -> None:
        """A type without a handler is a warning. It is not one of the missing types."""
        watched.add_destination(types=[*TYPES, "v1.charge.failed"])
        assert watched.levels() == {"types_drifted": "warn"}
        assert watched.levels() == {"types_drifted": "warn"}
        assert "go to the fallback: v1.charge.failed" in watched.look()["types_drifted"].text


class TestClock:
    """A clock that is off is an alert before signatures are refused."""

    @pytest.mark.parametrize(("ahead", "level"), [(20, "ok"), (60, "warn"), (-400, "fail")])
    def test_levels(self, watched: Watched, ahead: int, level: str) -> None:
        """From half a minute on it is an alert, and from five minutes on a failure."""
        watched.add_destination()
        watched.api.clock_ahead = ahead
        assert watched.look()["clock_off"].level == level
        assert watched.alerts() == ([] if level == "ok" else ["clock_off"])

    def test_no_date(self, watched: Watched) -> None:
        """Without a date in the answer, the last finding stays."""
        watched.add_destination()
        watched.api.clock_ahead = 60
        watched.look()
        watched.api.clock_ahead = None
        assert watched.levels() == {"clock_off": "warn"}


class TestKey:
    """A key that was revoked, or lost a permission, is an alert."""

    def test_revoked(self, watched: Watched) -> None:
        """A 401 is an alert. The other findings stay as they were."""
        found = watched.add_destination()
        watched.look()
        watched.api.fail(status=401)
        findings = watched.look()
        assert "Stripe does not accept the API key (401)" in findings["key_revoked"].text
        assert findings["key_revoked"].level == "fail"
        assert findings[f"destination_disabled:{found}"].level == "ok"
        assert watched.alerts() == ["key_revoked"]
        assert watched.levels() == {}

    @pytest.mark.parametrize(("path", "said"), [(PATH, "event destinations"), (EVENTS, "events")])
    def test_lost_permission(self, watched: Watched, path: str, said: str) -> None:
        """A permission that the key had, and lost, is an alert until it is back."""
        watched.add_destination()
        watched.look()
        for _ in range(2):
            watched.api.fail(path, status=403)
            finding = watched.look()["key_revoked"]
            assert (finding.level, finding.text) == (
                "fail",
                f"a test key that may not read {said} (403)",
            )
        assert watched.alerts() == ["key_revoked"]
        assert watched.levels() == {}

    def test_permission_that_it_never_had(self, watched: Watched) -> None:
        """A restricted key that never had a permission is a warning."""
        for _ in range(2):
            watched.api.fail(PATH, status=403)
            assert watched.levels() == {"key_revoked": "warn"}

    @pytest.mark.parametrize("status", [429, 500])
    def test_outage_of_stripe(
        self, watched: Watched, status: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An outage of Stripe's API is a warning, and a line of the log."""
        watched.add_destination()
        watched.look()
        watched.api.fail(status=status)
        assert watched.levels() == {"stripe_api": "warn"}
        lines = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
        assert [each["event"] for each in lines] == ["watch_failed"]
        assert watched.levels() == {}


class TestGap:
    """Events that Stripe lists, and that did not arrive, are an alert."""

    def test_missing(self, watched: Watched) -> None:
        """Nothing is recorded. The end comes when the events are there."""
        watched.add_destination()
        notification = watched.put_event("evt_lost", 30)
        watched.put_event("evt_new", 5)
        watched.put_event("evt_old", 90)
        finding = watched.look()["reconcile_gap"]
        assert finding.level == "fail"
        assert finding.text == (
            "Stripe lists 1 event that did not arrive (v1.customer.created)."
            " Run `flask events reconcile`"
        )
        assert watched.alerts() == ["reconcile_gap"]
        assert watched.inbox.administration.find("evt_lost") is None
        watched.service.deliver(notification, secret=SECRET)
        assert watched.levels() == {}

    def test_reconciler(self, watched: Watched) -> None:
        """A worker that reconciles closes the gap itself, so it is not looked for."""
        watched.add_destination()
        watched.put_event("evt_lost", 30)
        watched.look()
        assert watched.inbox.reconciliation.acquire_leadership("reconcile", "worker", 60)
        assert "reconcile_gap" not in watched.look()
        watched.execute("UPDATE leaders SET until = 0")
        assert watched.look()["reconcile_gap"].level == "fail"

    def test_connected_accounts(self, watched: Watched) -> None:
        """The accounts of the latest events are compared, if a destination sends their events."""
        destination = watched.add_destination(events_from=["@accounts"])
        for number, account in enumerate(("acct_1", "acct_2", "acct_3", "acct_4")):
            known = watched.put_event(f"evt_{number}", 90, account)
            watched.service.deliver(known, secret=SECRET)
            watched.execute("UPDATE events SET received_at = received_at - 9")
            watched.put_event(f"evt_lost_{number}", 30, account)
        watched.put_event("evt_own", 30)
        finding = watched.look()["reconcile_gap"]
        accounts = ["acct_4", "acct_3", "acct_2"]
        assert (finding.details["number"], finding.details["accounts"]) == (3, accounts)
        options = " ".join(f"--account {each}" for each in accounts)
        assert finding.text.endswith(f"Run `flask events reconcile {options}`")
        watched.api.destinations.change(destination, events_from=["@self"])
        finding = watched.look()["reconcile_gap"]
        assert (finding.details["number"], finding.details["accounts"]) == (1, [])

    def test_account_that_may_not_be_read(self, watched: Watched) -> None:
        """It is left out, and the others are compared."""
        watched.add_destination(events_from=["@accounts"])
        for account in ("acct_1", "acct_2"):
            known = watched.put_event(f"evt_{account}", 90, account)
            watched.service.deliver(known, secret=SECRET)
            watched.put_event(f"evt_lost_{account}", 30, account)
        watched.execute("UPDATE events SET received_at = received_at - 9 WHERE id = 'evt_acct_1'")
        watched.api.fail(EVENTS, status=403)
        assert watched.look()["reconcile_gap"].details["accounts"] == ["acct_1"]

    def test_what_is_not_sent_here(self, watched: Watched) -> None:
        """Types that are not enabled, and the time before the destination, are no gap."""
        found = watched.add_destination(types=TYPES[1:])
        watched.put_event("evt_1", 30)
        assert "reconcile_gap" not in watched.levels()
        watched.api.destinations.change(found, enabled_events=TYPES)
        assert "reconcile_gap" in watched.levels()
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        watched.api.destinations.change(found, created=now)
        assert watched.levels() == {}

    def test_bounds(self, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        """A round reads few pages, however many events there are."""
        monkeypatch.setattr(gap, "PAGES", 1)
        monkeypatch.setattr(gap, "PAGE", 2)
        watched.add_destination()
        for number in range(5):
            watched.put_event(f"evt_{number}", 30)
        assert watched.look()["reconcile_gap"].details["number"] == 2
        assert TYPES_AT_ONCE == 20


class TestFailing:
    """A destination whose deliveries all fail is an alert long before the ninth day."""

    @pytest.fixture
    def failing(self, make_watched: MakeWatched, database_url: str) -> Watched:
        """A service whose deliveries fail, on each database."""
        watched = make_watched(database_url=database_url)
        watched.add_destination()
        add(watched, "handled", 8 * DAY)
        add(watched, "failed", 5 * 3600)
        add(watched, "failed", 3600)
        return watched

    def test_warned_and_ended(self, failing: Watched) -> None:
        """It is an alert after six hours, and says when Stripe would disable the destination."""
        assert failing.look()["destination_failing"].level == "ok"
        add(failing, "unavailable", 7 * 3600)
        finding = failing.look()["destination_failing"]
        assert finding.level == "warn"
        end = time.strftime(
            "%Y-%m-%dT%H:%MZ", time.gmtime(finding.details["failing_since"] + 9 * DAY)
        )
        assert finding.text == (
            "no delivery was answered with 2xx for 7 hours (3 failed here). Stripe disables an"
            f" event destination after nine days of failures: on {end}"
        )
        assert failing.alerts() == ["destination_failing"]
        add(failing, "handled", 60)
        assert failing.levels() == {}

    def test_older_than_the_counters(self, failing: Watched) -> None:
        """The begin stays when the counters of it are gone."""
        add(failing, "unavailable", 6 * DAY)
        before = failing.look()["destination_failing"]
        assert before.level == "fail"
        yesterday = {"at": time.time() - DAY}
        failing.execute("DELETE FROM stripe_receiver_activity WHERE last_at < :at", yesterday)
        after = failing.look()["destination_failing"]
        assert after.details["failing_since"] == before.details["failing_since"]
        add(failing, "handled", 0)
        add(failing, "failed", -300)
        assert failing.look()["destination_failing"].level == "ok"

    def test_lost_on_the_way(self, watched: Watched) -> None:
        """Deliveries that never reach the service fail at Stripe too."""
        watched.add_destination()
        watched.put_event("evt_lost", 30)
        watched.look()
        watched.execute("UPDATE stripe_receiver_findings SET since = since - 30000")
        finding = watched.look()["destination_failing"]
        assert finding.level == "warn"
        assert "for 8 hours. Stripe disables" in finding.text


def add(watched: Watched, outcome: str, seconds_ago: float) -> None:
    """Count a delivery."""
    at = time.time() - seconds_ago
    watched.execute(
        "INSERT INTO stripe_receiver_activity (kind, name, bucket, number, last_at)"
        " VALUES ('delivery', :name, :bucket, 1, :at)",
        {"name": outcome, "bucket": int(at // 300), "at": at},
    )
