"""``flask events list``, ``show``, ``retry``, ``pause`` and ``resume``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask.testing import FlaskCliRunner

from app.cli.operator import operator
from app.cli.output import iso_time
from app.errors import InboxUnavailable
from app.inbox import Claim, Failure, NewEvent
from app.inbox.administration import Administration
from app.inbox.claims import Claims
from app.states import Outcome
from devkit import samples
from devkit.deliver import MakeDeliver
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import pairs, raw_sql

TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z")
TYPE = "v1.customer.created"
CREATED = "v1_customer_created"
SUCCEEDING = "calls = []\ndef handle(notif, client):\n    calls.append(notif.id)\n"
FAILING_ONCE = SUCCEEDING + "    if len(calls) == 1: raise ValueError('not yet')\n"
FAILING = SUCCEEDING + "    raise ValueError('never')\n"
GIVING_UP = "from app import GiveUp\n" + SUCCEEDING + "    raise GiveUp('no such plan')\n"
NOT_RUN = NewEvent(
    "evt_2",
    TYPE,
    livemode=False,
    context=None,
    body=samples.encode(samples.notification(TYPE, event_id="evt_2")),
)

#: The headings and a row of --dry-run.
HEAD = f"event id  {'type':<{len(TYPE)}}  state  reason\n"
ROW = f"evt_{{}}     {TYPE}  dead   no such plan\n"

Make = Callable[..., Receiver]


def run(receiver: Receiver, *arguments: str, answer: str | None = None) -> Result:
    """Run a command of ``flask events``, and type an answer to its question."""
    runner: FlaskCliRunner = receiver.app.test_cli_runner()
    return runner.invoke(args=["events", *arguments], input=answer)


def deliver(receiver: Receiver, event_id: str, **fields: Any) -> int:
    """Deliver an event, and return the status."""
    event_type = fields.pop("type", TYPE)
    notification = samples.notification(event_type, event_id=event_id, **fields)
    return receiver.deliver(notification).status_code


def state(receiver: Receiver, event_id: str) -> tuple[str, str | None, int]:
    """Return state, outcome and attempt of an event."""
    event = receiver.event(event_id)
    return event.state, event.outcome, event.attempt


class TestList:
    """``list`` shows events as a table."""

    def test_events_are_a_table(self, make_receiver: Make, database_url: str) -> None:
        """The latest event comes first. A row has state, attempts, outcome, account, reason."""
        receiver = make_receiver({CREATED: GIVING_UP}, database_url=database_url)
        deliver(receiver, "evt_1")
        deliver(receiver, "evt_2", type="v1.invoice.paid", context="acct_1")

        shown = run(receiver, "list")
        assert shown.exit_code == 0
        head, latest, first = (re.split(r" {2,}", line) for line in shown.stdout.splitlines())
        assert head[2:6] == ["type", "state", "attempts", "outcome"]
        assert head[6:] == ["next retry", "context", "reason"]
        assert latest[1:6] == ["evt_2", "v1.invoice.paid", "done", "1", "fallback"]
        assert latest[6:] == ["-", "acct_1", "-"]
        assert first[1:6] == ["evt_1", TYPE, "dead", "1", "gave_up"]
        assert first[6:] == ["-", "-", "no such plan"]

    def test_next_retry(self, make_receiver: Make) -> None:
        """A pending event has the time of its next attempt, or Stripe redelivers it."""
        queue = make_receiver({CREATED: GIVING_UP}, processing="queue")
        deliver(queue, "evt_1")
        due = iso_time(queue.event("evt_1").due_at, "seconds")
        assert f"  pending  0         -        {due}  " in run(queue, "list").stdout
        inline = make_receiver({CREATED: FAILING})
        deliver(inline, "evt_2")
        (row,) = (line for line in run(inline, "list").stdout.splitlines() if "evt_2" in line)
        assert row.endswith("  pending  1         failed   by Stripe   -        ValueError: never")

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--state", "dead"], ["evt_1"]),
            (["--type", "v1.invoice.paid"], ["evt_2"]),
            (["--context", "acct_1"], ["evt_2"]),
            (["--object", "cus_1"], ["evt_1"]),
            (["--until", "1h"], []),
            (["--since", "1h"], ["evt_2", "evt_1"]),
            (["--since", "2999-01-01"], []),
            (["--since", "2020-01-01T00:00+02:00", "--limit", "1"], ["evt_2"]),
        ],
    )
    def test_options_select(
        self, make_receiver: Make, options: list[str], expected: list[str]
    ) -> None:
        """Options select events by state, type, account, object, error, release and age."""
        receiver = make_receiver({CREATED: GIVING_UP})
        deliver(receiver, "evt_1", object_id="cus_1")
        deliver(receiver, "evt_2", type="v1.invoice.paid", context="acct_1")

        rows = json.loads(run(receiver, "list", "--json", *options).stdout)
        assert [row["id"] for row in rows] == expected

    def test_json_has_all_that_a_program_wants(self, make_receiver: Make) -> None:
        """JSON has all fields. Times are ISO 8601 in UTC, and fields that do not apply are null."""
        receiver = make_receiver({CREATED: FAILING})
        deliver(receiver, "evt_1", context="acct_1")

        (row,) = json.loads(run(receiver, "list", "--json").stdout)
        times = {name: row.pop(name) for name in ("received_at", "due_at", "settled_at")}
        assert all(TIME.fullmatch(time) for time in times.values())
        assert re.fullmatch("[0-9a-f]{12}", row.pop("group"))
        assert row == {
            "id": "evt_1",
            "type": TYPE,
            "livemode": False,
            "context": "acct_1",
            "state": "pending",
            "outcome": "failed",
            "reason": "ValueError: never",
            "release": None,
            "attempts": 1,
            "deliveries": 1,
            "source": "delivery",
            "lease_until": None,
            "claimed_by": None,
            "orphan": None,
            "erased_at": None,
        }

    def test_no_events_have_words(self, receiver: Receiver, sqlite_url: str) -> None:
        """For an empty list there is a sentence with the conditions."""
        asked = ["--state", "dead", "--type", TYPE, "--context", "acct_1", "--since", "3d"]
        assert run(receiver, "list", "--state", "dead").stdout == "No events are dead.\n"
        assert run(receiver, "list").stdout == "The inbox is empty.\n"
        assert run(receiver, "list", "--context", "acct_1").stdout == "No events of acct_1.\n"
        assert run(receiver, "list", *asked).stdout == (
            f"No events are dead of type {TYPE} of acct_1 since then.\n"
        )
        receiver.services.inbox.groups.begin_release("v2")
        deliver(receiver, "evt_1", object_id="cus_2")
        raw_sql.execute(sqlite_url, "UPDATE events SET fingerprint = 'ab', state = 'dead'")
        asked = ["--object", "cus_1", "--group", "ab", "--failed-before", "v2", "--until", "3d"]
        assert run(receiver, "list", *asked).stdout == (
            "No events of cus_1 with the error ab failed before v2 until then.\n"
        )

    def test_cut_list_continues(self, make_receiver: Make) -> None:
        """If the limit cuts the list, the output has the place from which it continues."""
        receiver = make_receiver()
        for number in (1, 2, 3):
            deliver(receiver, f"evt_{number}")

        first = run(receiver, "list", "--limit", "2").stdout
        assert "evt_2" in first
        (place,) = re.findall(r"There are more: continue with --before (\S+)\n", first)
        last = run(receiver, "list", "--limit", "2", "--before", place)
        assert "evt_1" in last.stdout
        assert "continue" not in last.stdout
        as_json = run(receiver, "list", "--limit", "2", "--json")
        assert [row["id"] for row in json.loads(as_json.stdout)] == ["evt_3", "evt_2"]
        assert f"continue with --before {place}" in as_json.stderr

    def test_search_that_stopped_early(
        self, make_receiver: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A list that ends at the bound of the search does not say that nothing matches."""
        receiver = make_receiver()
        for number in (1, 2, 3):
            deliver(receiver, f"evt_{number}")
        # A search of thousands of events would take as many deliveries.
        page = partialmethod(Administration.page, bound=1)
        monkeypatch.setattr(Administration, "page", page)

        shown = run(receiver, "list", "--outcome", "handled", "--state", "done").stdout
        assert re.fullmatch(r"The search stopped early: continue with --before \S+\n", shown)

    def test_invalid_place_is_refused(self, receiver: Receiver) -> None:
        """A place that no list printed is refused."""
        refused = run(receiver, "list", "--before", "evt_1")
        assert (refused.exit_code, "'evt_1' is no place" in refused.stderr) == (2, True)

    def test_invalid_time_is_refused(self, receiver: Receiver) -> None:
        """The error shows the valid forms of a time."""
        refused = run(receiver, "list", "--since", "yesterday")
        assert refused.exit_code == 2
        assert "'yesterday' is neither an age like 30m, 24h or 3d nor a time" in refused.stderr
        for option, time in (("--since", "999999999d"), ("--until", "9999-12-31T23:59-23:59")):
            refused = run(receiver, "list", option, time)
            assert refused.exit_code == 2
            assert f"'{time}' is not in the years 1 to 9999" in refused.stderr

    @pytest.mark.parametrize(
        "command", [["list"], ["show", "evt_1"], ["retry", "evt_1"], ["pause"], ["resume"]]
    )
    def test_unavailable_inbox_is_one_sentence(
        self, make_receiver: Make, command: list[str]
    ) -> None:
        """If the inbox is unavailable, a command fails with one sentence and no traceback."""
        receiver = make_receiver(database_url="postgresql+psycopg://x:fake@127.0.0.1:1/none")

        failed = run(receiver, *command)
        assert failed.exit_code == 1
        assert failed.stderr.startswith("Error: The inbox is not available: OperationalError")
        assert "fake" not in failed.stderr


class TestShow:
    """``show`` shows one event with its history."""

    def test_attempts_and_body_are_shown(self, make_receiver: Make, database_url: str) -> None:
        """The output has the state, each attempt with its traceback, the retries, and the body."""
        receiver = make_receiver({CREATED: FAILING_ONCE}, database_url=database_url)
        deliver(receiver, "evt_1")
        run(receiver, "retry", "evt_1", "--yes", "--why", "the plan is there now")

        shown = run(receiver, "show", "evt_1").stdout
        assert "state        done" in shown
        assert "attempt 1: failed, from " in shown
        assert "ValueError: not yet" in shown
        assert f"{CREATED}.py" in shown
        assert "attempt 2: handled, from " in shown
        assert f"retried by {operator()} at " in shown
        assert ": the plan is there now\n" in shown
        assert f'\n  "type": "{TYPE}",\n' in shown
        assert shown.index("body") < shown.index("attempt 1")

    def test_json_has_the_same(self, make_receiver: Make) -> None:
        """JSON has the history, the retries and the body."""
        receiver = make_receiver({CREATED: FAILING_ONCE})
        deliver(receiver, "evt_1")
        run(receiver, "retry", "evt_1", "--yes")

        whole = json.loads(run(receiver, "show", "evt_1", "--json").stdout)
        assert [each["outcome"] for each in whole["history"]] == ["failed", "handled"]
        assert "ValueError: not yet" in whole["history"][0]["traceback"]
        assert [(each["by"], each["why"]) for each in whole["retries"]] == [(operator(), None)]
        assert json.loads(whole["body"])["id"] == "evt_1"
        assert "no reason given" in run(receiver, "show", "evt_1").stdout

    def test_event_that_runs_shows_its_lease(self, make_receiver: Make) -> None:
        """A running event shows the end of its lease and its process."""
        receiver = make_receiver(processing="queue")
        deliver(receiver, "evt_1")
        receiver.services.inbox.claims.claim_due(livemode=False)

        shown = json.loads(run(receiver, "show", "evt_1", "--json").stdout)
        assert shown["lease_until"]
        assert shown["claimed_by"] == receiver.event("evt_1").claimed_by
        assert shown["orphan"] is None

    def test_orphan_is_shown_as_one(self, make_receiver: Make, sqlite_url: str) -> None:
        """An orphan is marked as one, unlike an event that is running."""
        receiver = make_receiver(processing="queue")
        deliver(receiver, "evt_1")
        receiver.services.inbox.claims.claim_due(livemode=False)
        raw_sql.orphan(sqlite_url)

        assert "orphan       True\n" in run(receiver, "show", "evt_1").stdout

    def test_attempt_during_which_the_clock_stepped_back(
        self, make_receiver: Make, sqlite_url: str
    ) -> None:
        """If the clock stepped back during an attempt, its end is shown instead of a duration."""
        receiver = make_receiver({CREATED: GIVING_UP})
        deliver(receiver, "evt_1")
        raw_sql.execute(sqlite_url, "UPDATE events SET claimed_at = settled_at + 60")

        (line,) = (
            each
            for each in run(receiver, "show", "evt_1").stdout.splitlines()
            if "attempt 1" in each
        )
        assert " s, in " not in line
        assert " to 20" in line

    def test_unknown_event_is_one_sentence(self, receiver: Receiver) -> None:
        """An unknown id is an error of one sentence."""
        failed = run(receiver, "show", "evt_none")
        assert (failed.exit_code, failed.stderr) == (1, "Error: The inbox has no event evt_none.\n")

    def test_nothing_steers_the_terminal(self, make_receiver: Make) -> None:
        """Text from outside is shown without control characters."""
        receiver = make_receiver({CREATED: GIVING_UP.replace("no such plan", "\\x1b[2Jboo")})
        deliver(receiver, "evt_1")

        shown = run(receiver, "show", "evt_1").stdout
        assert "\x1b" not in shown
        assert "\ufffd[2Jboo" in shown


class TestRetryInline:
    """In inline mode ``retry`` runs the events itself."""

    def test_dead_event_is_run(self, make_receiver: Make, database_url: str) -> None:
        """A dead event runs after a confirmation. The outcome is shown and recorded."""
        receiver = make_receiver({CREATED: FAILING_ONCE}, database_url=database_url)
        deliver(receiver, "evt_1")

        done = run(receiver, "retry", "evt_1", answer="y\n")
        assert done.exit_code == 0
        assert "Run 1 event again? [y/N]: y\n" in done.stdout
        assert f"evt_1  {TYPE}  handled\n" in done.stdout
        assert state(receiver, "evt_1") == ("done", "handled", 2)

    def test_no_is_no(self, make_receiver: Make) -> None:
        """Without a yes no event runs."""
        receiver = make_receiver({CREATED: FAILING_ONCE})
        deliver(receiver, "evt_1")

        assert run(receiver, "retry", "evt_1", answer="n\n").exit_code == 1
        assert state(receiver, "evt_1") == ("pending", "failed", 1)

    def test_failure_says_where_to_look(self, make_receiver: Make) -> None:
        """A failed callback is exit status 1, with the command that shows the traceback."""
        receiver = make_receiver({CREATED: FAILING})
        deliver(receiver, "evt_1")

        failed = run(receiver, "retry", "evt_1", "--yes")
        assert failed.exit_code == 1
        assert "failed: run `flask events show evt_1` for the traceback" in failed.stdout
        assert "Error: 1 of 1 event did not succeed." in failed.stderr

    def test_event_that_was_taken_over_says_so(
        self, make_receiver: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If another process has taken the event over, its result is not recorded here."""
        receiver = make_receiver({CREATED: FAILING_ONCE})
        deliver(receiver, "evt_1")
        # The moment of a takeover within one command cannot be chosen.
        monkeypatch.setattr(Claims, "finish", lambda *_: False)

        assert (
            "deferred: the event was taken over" in run(receiver, "retry", "evt_1", "--yes").stdout
        )

    def test_outage_stops_no_other_event(
        self, make_receiver: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A result that has to be recorded later has a line, and the next events run."""
        receiver = make_receiver({CREATED: FAILING_ONCE}, lease_seconds=1)
        deliver(receiver, "evt_1")
        receiver.services.inbox.deliveries.enqueue(NOT_RUN)
        outages = [InboxUnavailable("the inbox is not available", reason="away")]
        finish = Claims.finish

        def finish_after_outage(claims: Claims, claim: Claim, outcome: Outcome) -> bool:
            if outages:
                raise outages.pop()
            return finish(claims, claim, outcome)

        # A real outage would not end between two events.
        monkeypatch.setattr(Claims, "finish", finish_after_outage)
        done = run(receiver, "retry", "--state", "pending", "--yes")

        assert f"evt_1  {TYPE}  unavailable: the inbox is not available\n" in done.stdout
        assert f"evt_2  {TYPE}  handled\n" in done.stdout
        assert done.exit_code == 1
        assert state(receiver, "evt_1") == ("done", "handled", 2)


class TestRetryQueue:
    """In queue mode ``retry`` leaves the events to the workers."""

    def test_dead_event_becomes_due(self, make_receiver: Make, database_url: str) -> None:
        """A dead event becomes due at once, with the full number of attempts."""
        receiver = make_receiver(
            {CREATED: SUCCEEDING}, processing="queue", database_url=database_url
        )
        deliver(receiver, "evt_1")
        claim = receiver.services.inbox.claims.claim_due(livemode=False)
        assert claim is not None
        receiver.services.inbox.claims.mark_dead(claim, "exhausted", Failure("no", attempts_used=9))

        done = run(receiver, "retry", "evt_1", "--yes")
        assert done.stdout == f"evt_1  {TYPE}  due now\n"
        event = receiver.event("evt_1")
        assert (event.state, event.attempts_used) == ("pending", 0)

    def test_pause_is_named(self, make_receiver: Make) -> None:
        """The event does not run before the pause ends. The output says so, and how to end it."""
        receiver = make_receiver({CREATED: SUCCEEDING}, processing="queue")
        deliver(receiver, "evt_1")
        run(receiver, "pause", "--type", "v1.invoice.paid")
        assert run(receiver, "retry", "evt_1", "--yes").stdout == f"evt_1  {TYPE}  due now\n"
        run(receiver, "pause", "--type", TYPE)
        run(receiver, "pause")
        done = run(receiver, "retry", "evt_1", "--yes")
        row, *pauses = done.stdout.splitlines()
        assert (done.exit_code, row) == (0, f"evt_1  {TYPE}  due, but paused")
        commands = [each.rpartition("with ")[2] for each in pauses]
        assert commands == ["`flask events resume`.", f"`flask events resume --type {TYPE}`."]

    def test_running_event(self, make_receiver: Make) -> None:
        """An event whose callback hangs is refused, with what ends it."""
        receiver = make_receiver({CREATED: SUCCEEDING}, processing="queue")
        deliver(receiver, "evt_1")
        assert receiver.services.inbox.claims.claim_due(livemode=False)
        for refused in (
            run(receiver, "retry", "evt_1", "--yes"),
            run(receiver, "give-up", "evt_1", "--why", "hangs", "--yes"),
        ):
            assert refused.exit_code == 1
            assert "evt_1: is running; if it never ends, restart its process" in refused.stderr
        assert "claimed_at   20" in run(receiver, "show", "evt_1").stdout

    def test_accepted_before_inline_mode(self, make_receiver: Make, tmp_path: Path) -> None:
        """Stripe does not deliver an event again that queue mode accepted: the list says so."""
        url = f"sqlite:///{tmp_path}/moved.sqlite3"
        deliver(make_receiver(processing="queue", database_url=url), "evt_1")
        row = run(make_receiver(database_url=url), "list").stdout.splitlines()[1]
        assert "  pending  0         -        by a retry  " in row


class TestSelection:
    """The selection of events for ``retry``."""

    @pytest.fixture
    def several(self, make_receiver: Make) -> Receiver:
        """Three events: two dead, one that succeeded."""
        modules = {CREATED: GIVING_UP, "v1_invoice_paid": SUCCEEDING}
        receiver = make_receiver(modules, processing="inline")
        for number in (1, 2):
            deliver(receiver, f"evt_{number}")
        deliver(receiver, "evt_3", type="v1.invoice.paid")
        return receiver

    def test_count_comes_first_and_dry_run_does_nothing(self, several: Receiver) -> None:
        """--dry-run lists the selected events, the oldest first, and runs none."""
        shown = run(several, "retry", "--state", "dead", "--type", TYPE, "--dry-run")
        assert shown.stdout == (f"2 events selected.\n{HEAD}{ROW.format(1)}{ROW.format(2)}")
        assert several.event("evt_1").attempt == 1

    def test_there_is_a_cap(self, several: Receiver) -> None:
        """No more events than --limit are run, and the output says so."""
        shown = run(several, "retry", "--since", "1h", "--limit", "1", "--dry-run")
        assert shown.stdout == (
            f"2 events selected; the oldest one will be run (--limit).\n{HEAD}{ROW.format(1)}"
        )

    def test_one_event_is_one(self, several: Receiver) -> None:
        """The number of one event is in the singular."""
        several.services.inbox.administration.reopen("evt_2", by="me")
        assert "1 event selected.\n" in run(several, "retry", "--state", "dead", "--dry-run").stdout

    def test_nothing_selected_has_words(self, receiver: Receiver) -> None:
        """An empty selection is no error."""
        nothing = run(receiver, "retry", "--state", "dead")
        assert nothing.exit_code == 0
        assert nothing.stdout == "0 events selected.\nThere is no event to run again.\n"

    def test_success_is_refused_unless_again(self, several: Receiver) -> None:
        """An event that succeeded runs again only with --again."""
        refused = run(several, "retry", "evt_3", "evt_1", "--yes")
        assert refused.exit_code == 1
        assert "evt_3: has succeeded; to run it a second time add --again" in refused.stderr
        assert several.event("evt_1").attempt == 1
        again = run(several, "retry", "evt_3", "--again", "--yes")
        assert again.exit_code == 0
        assert state(several, "evt_3") == ("done", "handled", 2)
        assert len(several.services.inbox.administration.retries("evt_3")) == 1

    @pytest.mark.parametrize(
        ("modules", "words"),
        [
            (pairs.MODULES, "was not run, because its twin succeeded; to check that once more add"),
            (pairs.FAILING_SHADOW, "ran as a shadow; to run it once more add"),
        ],
        ids=["twin", "shadow"],
    )
    def test_twin_and_shadow_are_refused_unless_again(
        self, make_deliver: MakeDeliver, stripe_api: StripeApi, modules: dict[str, str], words: str
    ) -> None:
        """The reason is not that they have succeeded. Run again, they end in the same way."""
        deliver = make_deliver(modules=modules)
        pairs.send_snapshot(deliver)
        outcome = pairs.send_thin(deliver, stripe_api).outcome
        refused = run(deliver.receiver, "retry", "evt_n", "--yes")
        assert f"evt_n: {words} --again" in refused.stderr
        assert run(deliver.receiver, "retry", "evt_n", "--again", "--yes").exit_code == 0
        assert state(deliver.receiver, "evt_n") == ("done", outcome, 2)

    def test_other_mode_is_refused(self, make_receiver: Make) -> None:
        """A live event is not run with a test key."""
        receiver = make_receiver()
        deliver(receiver, "evt_1", livemode=True)

        refused = run(receiver, "retry", "evt_1", "--yes")
        assert "evt_1: is a live event, and STRIPE_API_KEY is of the other mode" in refused.stderr
        assert refused.exit_code == 1

    @pytest.mark.parametrize("selection", [["--state", "dead"], ["--since", "1h"]])
    def test_other_mode_is_not_selected(self, make_receiver: Make, selection: list[str]) -> None:
        """Events of the other mode do not use up --limit, though they are older."""
        test = make_receiver({CREATED: GIVING_UP})
        deliver(test, "evt_1")
        package = test.services.settings.handlers_package
        live = make_receiver(handlers_package=package, stripe_api_key="sk_live_fake_for_tests")
        deliver(live, "evt_2", livemode=True)

        shown = run(live, "retry", *selection, "--limit", "1", "--dry-run")
        assert shown.stdout == f"1 event selected.\n{HEAD}{ROW.format(2)}"

    def test_test_event_is_refused_with_a_live_key(self, make_receiver: Make) -> None:
        """A test event is not run with a live key."""
        receiver = make_receiver(stripe_api_key="sk_live_fake_for_tests")
        deliver(receiver, "evt_1")

        assert "is a test event" in run(receiver, "retry", "evt_1", "--yes").stderr

    def test_running_event_is_refused(self, make_receiver: Make) -> None:
        """An event that is running is refused: it must not run twice at once."""
        receiver = make_receiver(processing="queue")
        deliver(receiver, "evt_1")
        receiver.services.inbox.claims.claim_due(livemode=False)

        assert "evt_1: is running" in run(receiver, "retry", "evt_1", "--yes").stderr

    def test_orphan_is_run(self, make_receiver: Make) -> None:
        """In inline mode the command rescues an orphan: there are no workers that do."""
        receiver = make_receiver({CREATED: SUCCEEDING}, processing="queue", lease_seconds=1)
        deliver(receiver, "evt_1")
        receiver.services.inbox.claims.claim_due(livemode=False)
        raw_sql.orphan(receiver.services.settings.database_url)
        queue = run(receiver, "retry", "evt_1", "--yes")
        assert "evt_1: is an orphan: a worker rescues it" in queue.stderr

        package = receiver.services.settings.handlers_package
        inline = make_receiver(handlers_package=package)
        assert run(inline, "retry", "--since", "1h", "--yes").exit_code == 0
        assert state(inline, "evt_1") == ("done", "handled", 2)

    def test_event_with_an_expired_lease(self, make_receiver: Make) -> None:
        """The command waits for the grace, and runs the event if no process renews the lease."""
        receiver = make_receiver({CREATED: FAILING_ONCE}, lease_seconds=1)
        deliver(receiver, "evt_1")
        raw_sql.execute(
            receiver.services.settings.database_url,
            "UPDATE events SET state = 'running', claimed_by = 'dead',"
            " lease_until = 0, lease_seconds = 1",
        )

        done = run(receiver, "retry", "evt_1", "--yes")

        assert "1 lease expired. Waiting for a process to renew it" in done.stderr
        assert done.exit_code == 0
        assert state(receiver, "evt_1")[:2] == ("done", "handled")

    @pytest.mark.parametrize(
        "command", [["show", "evt_\udcff"], ["list", "--type", "\udcff"], ["retry", "\udcff"]]
    )
    def test_invalid_text_is_refused(self, receiver: Receiver, command: list[str]) -> None:
        """An argument that is no valid text is an error of one sentence."""
        refused = run(receiver, *command)
        assert refused.exit_code == 2
        assert "An argument is not valid text." in refused.stderr

    def test_limit_has_a_limit(self, receiver: Receiver) -> None:
        """A limit that is no integer of the databases is refused before any query."""
        assert run(receiver, "list", "--limit", "9" * 20).exit_code == 2

    def test_selection_is_required(self, receiver: Receiver) -> None:
        """No selection, two selections, and an unknown id are errors."""
        assert "Give IDs, or select events with --state" in run(receiver, "retry").stderr
        both = run(receiver, "retry", "evt_1", "--state", "dead").stderr
        assert "Give either IDs or options that select events, not both." in both
        assert "The inbox has no event evt_1." in run(receiver, "retry", "evt_1").stderr

    @pytest.mark.parametrize(
        ("processing", "room", "act"),
        [("inline", Claims, "claim_one"), ("queue", Administration, "reopen")],
    )
    def test_event_that_has_changed_is_not_run(
        self,
        make_receiver: Make,
        monkeypatch: pytest.MonkeyPatch,
        processing: str,
        room: type,
        act: str,
    ) -> None:
        """An event that changed between the question and the answer is not run."""
        receiver = make_receiver({CREATED: FAILING_ONCE})
        deliver(receiver, "evt_1")
        receiver = make_receiver(
            handlers_package=receiver.services.settings.handlers_package, processing=processing
        )
        # The moment between two statements of one command cannot be chosen.
        monkeypatch.setattr(room, act, lambda *_, **__: None)

        answer = run(receiver, "retry", "evt_1", "--yes").stdout
        assert "not run: it has changed since you were asked" in answer


class TestStats:
    """``flask events stats``: how much waits, and for how long."""

    def test_numbers(self, make_receiver: Make) -> None:
        """Waiting and dead events are counted, and the oldest due event has its age."""
        receiver = make_receiver({CREATED: GIVING_UP})
        deliver(receiver, "evt_1")
        receiver.services.inbox.deliveries.record_skipped(NOT_RUN, Outcome.WRONG_MODE)
        url = receiver.services.settings.database_url
        raw_sql.execute(url, "UPDATE events SET state='pending', due_at=due_at-9 WHERE id='evt_2'")

        numbers = json.loads(run(receiver, "stats", "--json").stdout)

        assert (numbers["waiting"], numbers["dead"], numbers["paused"]) == (1, 1, False)
        assert 9 <= numbers["oldest_due_seconds"] < 90
        assert 0 <= numbers["oldest_waiting_seconds"] < 9

    def test_table(self, make_receiver: Make) -> None:
        """A person gets one number in each line."""
        receiver = make_receiver(processing="queue")
        run(receiver, "pause")
        lines = [line.split() for line in run(receiver, "stats").stdout.splitlines()]
        assert lines == [
            ["waiting", "0"],
            ["dead", "0"],
            ["oldest_waiting_seconds", "0.0"],
            ["oldest_due_seconds", "0.0"],
            ["paused", "True"],
            ["paused_types", "none"],
        ]

    def test_paused_types(self, make_receiver: Make) -> None:
        """Each paused type is named."""
        receiver = make_receiver({CREATED: SUCCEEDING}, processing="queue")
        for event_type in ("v1.invoice.paid", TYPE):
            run(receiver, "pause", "--type", event_type)
        types = [TYPE, "v1.invoice.paid"]
        assert run(receiver, "stats").stdout.splitlines()[-1].split()[1:] == [f"{TYPE},", types[1]]
        assert json.loads(run(receiver, "stats", "--json").stdout)["paused_types"] == types


class TestPause:
    """``pause`` and ``resume``."""

    def test_pause_and_resume(self, make_receiver: Make, database_url: str) -> None:
        """The operator and the reason are shown in each list, until the workers are resumed."""
        receiver = make_receiver(processing="queue", database_url=database_url)

        paused = run(receiver, "pause", "--why", "a deployment")
        assert paused.exit_code == 0
        assert f"by {operator()}: a deployment. Resume them with" in paused.stdout
        assert "The workers are already paused." in run(receiver, "pause").stdout
        assert "The workers are paused since" in run(receiver, "list").stdout
        assert run(receiver, "resume").stdout == "The workers are resumed.\n"
        assert run(receiver, "resume").stdout == "The workers are not paused.\n"
        assert "by " + operator() + ". Resume them" in run(receiver, "pause").stdout

    def test_inline_mode_has_no_workers(self, receiver: Receiver) -> None:
        """In inline mode the output says that there are no workers."""
        inline = "PROCESSING is inline: callbacks run in the requests, without workers."
        queue = " A pause takes effect when you set PROCESSING=queue."
        assert f"{inline}{queue}\n" in run(receiver, "pause").stderr
        assert f"{inline}\n" in run(receiver, "resume").stderr

    def test_paused_and_resumed_at_the_same_moment(
        self, make_receiver: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If another operator resumes in between, the command prints nothing."""
        receiver = make_receiver(processing="queue")
        monkeypatch.setattr(Administration, "paused", lambda _: None)  # the moment cannot be chosen

        assert run(receiver, "pause").stdout == ""


def test_operator_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the user may have no name. The record has the host."""

    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    monkeypatch.setattr("getpass.getuser", fail)  # this process's user has a name
    assert operator().startswith("unknown@")


def test_claims_of_the_command_are_its_own(make_receiver: Make) -> None:
    """A result is recorded only under the claim of the run."""
    receiver = make_receiver({CREATED: FAILING_ONCE})
    deliver(receiver, "evt_1")
    claim = receiver.services.inbox.claims.claim_one("evt_1", by="me")
    assert claim is not None
    assert receiver.services.inbox.claims.finish(replace(claim, attempt=1)) is False
