"""``flask events reconcile``: its output, its question, and its exit status."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from app.stripe_api import client
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import raw_sql

TYPE = "v1.customer.created"
HANDLER = "calls = []\ndef handle(notif, client):\n    calls.append(notif.id)\n"
FAILING = HANDLER + "    if len(calls) == 1: raise ValueError('not yet')\n"
LIST = "/v2/core/events"
TIME = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z"

Make = Callable[..., Receiver]


@pytest.fixture
def make(make_receiver: Make, stripe_api: StripeApi) -> Make:
    """A function that makes a service with a handler that uses the stand-in."""

    def make_one(source: str = HANDLER, **changes: Any) -> Receiver:
        modules = {"v1_customer_created": source}
        return make_receiver(modules, stripe_api_base=stripe_api.url, **changes)

    return make_one


def put(api: StripeApi, event_id: str, minutes: float = 60, **fields: Any) -> dict[str, Any]:
    """Let Stripe list an event of this age in minutes."""
    created = datetime.now(UTC) - timedelta(minutes=minutes)
    notification = samples.notification(TYPE, event_id=event_id, created=created, **fields)
    api.put_event(samples.event(notification))
    return notification


def run(receiver: Receiver, *options: str, answer: str | None = None) -> Result:
    """Run the command, and type an answer to its question."""
    return receiver.app.test_cli_runner().invoke(
        args=["events", "reconcile", *options], input=answer
    )


def recorded(receiver: Receiver) -> set[tuple[str, str, str]]:
    """Return id, state and source of all events in the inbox."""
    return {
        (each.id, each.state, each.source)
        for each in receiver.services.inbox.administration.latest(1000)
    }


class TestGap:
    """The output shows the missing events."""

    def test_nothing_is_missing(self, make: Make, stripe_api: StripeApi) -> None:
        """Without a missing event it says what was compared, and asks nothing."""
        receiver = make()
        receiver.deliver(put(stripe_api, "evt_1"))
        done = run(receiver, "--account", "acct_1")
        assert done.exit_code == 0
        compared, missing = done.stdout.splitlines()
        assert re.fullmatch(
            rf"Stripe lists 1 event of 1 handled type from {TIME} to {TIME}, for the"
            r" account of the key, acct_1\.",
            compared,
        )
        assert missing == "None is missing."

    def test_what_is_missing_is_shown_and_run_after_a_yes(
        self, make: Make, stripe_api: StripeApi, database_url: str
    ) -> None:
        """Missing events have time, id, type and account. After a yes each has its outcome."""
        receiver = make(database_url=database_url)
        one = put(stripe_api, "evt_1")
        other = put(stripe_api, "evt_2", 70, context="acct_1")
        done = run(receiver, "--account", "acct_1", answer="y\n")
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[1:] == [
            "Missing in the inbox: 2 events.",
            f"{'created':<24}  event id  {'type':<{len(TYPE)}}  context",
            f"{other['created']}  evt_2     {TYPE}  acct_1",
            f"{one['created']}  evt_1     {TYPE}  -",
            "Record and run 2 events? [y/N]: y",
            "Recorded 2 events.",
            f"evt_2  {TYPE}  handled",
            f"evt_1  {TYPE}  handled",
        ]
        assert recorded(receiver) == {
            ("evt_1", "done", "reconcile"),
            ("evt_2", "done", "reconcile"),
        }
        assert run(receiver, "--account", "acct_1").stdout.endswith("None is missing.\n")
        (entry,) = receiver.services.inbox.audit.entries(9)  # none of the second run
        assert (entry.action, entry.target, entry.affected) == ("reconcile", None, 2)

    def test_events_of_both_kinds(self, make_receiver: Make, stripe_api: StripeApi) -> None:
        """They are one table, sorted by time, and one number of types."""
        modules = {"v1_customer_created": HANDLER, "customer_created": HANDLER}
        receiver = make_receiver(modules, stripe_api_base=stripe_api.url)
        thin = put(stripe_api, "evt_1")
        created = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=50)
        snapshot = samples.snapshot_event("customer.created", event_id="evt_2", created=created)
        stripe_api.put_event(snapshot)
        done = run(receiver, "--yes")
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        assert lines[0].startswith("Stripe lists 2 events of 2 handled types")
        assert lines[3:] == [
            f"{thin['created']}  evt_1     {TYPE}  -",
            f"{created:%Y-%m-%dT%H:%M:%S}.000Z  evt_2     customer.created     -",
            "Recorded 2 events.",
            f"evt_1  {TYPE}  handled",
            "evt_2  customer.created  handled",
        ]

    def test_many_are_counted(self, make: Make, stripe_api: StripeApi) -> None:
        """Twenty events are shown, and the number of the others."""
        for number in range(22):
            put(stripe_api, f"evt_{number:02}", 60 - number)
        done = run(make(), "--dry-run")
        assert "evt_19" in done.stdout
        assert "evt_20" not in done.stdout
        assert "and 2 more (--json shows all)" in done.stdout

    @pytest.mark.parametrize("answer", ["n\n", "\n", ""])
    def test_without_a_yes_nothing_happens(
        self, make: Make, stripe_api: StripeApi, answer: str
    ) -> None:
        """Without a yes nothing is recorded, and the watermark does not advance."""
        receiver = make()
        put(stripe_api, "evt_1")
        assert run(receiver, answer=answer).exit_code == 1
        assert recorded(receiver) == set()
        assert receiver.services.inbox.reconciliation.watermarks(livemode=False, context="") == {}

    def test_dry_run_only_looks(self, make: Make, stripe_api: StripeApi) -> None:
        """--dry-run asks nothing and records nothing, even with --yes."""
        receiver = make()
        put(stripe_api, "evt_1")
        done = run(receiver, "--dry-run", "--yes")
        assert (done.exit_code, "evt_1" in done.stdout) == (0, True)
        assert recorded(receiver) == set()
        assert receiver.services.inbox.reconciliation.watermarks(livemode=False, context="") == {}

    def test_since(self, make: Make, stripe_api: StripeApi) -> None:
        """--since sets the start of the comparison."""
        put(stripe_api, "evt_1", 3 * 24 * 60)
        receiver = make()
        assert "None is missing." in run(receiver, "--dry-run").stdout
        assert "evt_1" in run(receiver, "--dry-run", "--since", "4d").stdout

    def test_queue_mode_leaves_it_to_the_workers(self, make: Make, stripe_api: StripeApi) -> None:
        """In queue mode the command records events, and the workers run them."""
        receiver = make(processing="queue")
        put(stripe_api, "evt_1")
        done = run(receiver, answer="y\n")
        assert "Record 1 event for the workers? [y/N]: y\nRecorded 1 event.\n" in done.stdout
        assert recorded(receiver) == {("evt_1", "pending", "reconcile")}


class TestRuns:
    """In inline mode the command runs the backfilled events."""

    def test_failed_event_runs_at_the_next_call(self, make: Make, stripe_api: StripeApi) -> None:
        """A failed event is exit status 1 with a remedy. The next call runs it again."""
        receiver = make(FAILING)
        put(stripe_api, "evt_1")
        first = run(receiver, "--yes")
        assert (first.exit_code, f"evt_1  {TYPE}  failed\n" in first.stdout) == (1, True)
        assert first.stderr.splitlines()[-1].startswith(
            "Error: 1 event did not succeed. Run `flask events show evt_1` for the reason."
        )
        assert recorded(receiver) == {("evt_1", "pending", "reconcile")}
        second = run(receiver, answer="y\n")
        assert second.exit_code == 0
        assert "Backfilled before and not yet successful: 1 event." in second.stdout
        assert "Record and run 1 event? [y/N]: y" in second.stdout
        assert recorded(receiver) == {("evt_1", "done", "reconcile")}


class TestJson:
    """The output for programs."""

    def test_all_of_it(self, make: Make, stripe_api: StripeApi) -> None:
        """JSON is one document on standard output."""
        receiver = make(FAILING)
        notification = put(stripe_api, "evt_1", context="acct_1")
        done = run(receiver, "--json", "--yes", "--account", "acct_1")
        document = json.loads(done.stdout)
        windows = document.pop("windows")
        assert [(window["context"], window["types"]) for window in windows] == [
            (None, [TYPE]),
            ("acct_1", [TYPE]),
        ]
        assert all(window["from"] < window["to"] for window in windows)
        row = {"id": "evt_1", "type": TYPE}
        assert document == {
            "warnings": [],
            "failed": [],
            "listed": 1,
            "missing": [
                {
                    **row,
                    "created": notification["created"],
                    "livemode": False,
                    "context": "acct_1",
                }
            ],
            "left": [],
            "recorded": 1,
            "ran": [{**row, "outcome": "failed"}],
        }
        assert done.exit_code == 1
        left = json.loads(run(receiver, "--json", "--dry-run").stdout)
        assert (left["missing"], left["left"], left["recorded"]) == ([], ["evt_1"], 0)

    def test_it_cannot_ask(self, make: Make) -> None:
        """With --json there is no question, so --yes or --dry-run is required."""
        done = run(make(), "--json")
        assert done.exit_code == 2
        assert "add --yes or --dry-run" in done.stderr


class TestRefusals:
    """Each refusal is one sentence."""

    @pytest.mark.parametrize("account", ["cus_1", "acct_", "acct_1/cus_1", "acct_1 acct_2"])
    def test_invalid_account(self, make: Make, account: str) -> None:
        """A value that is no account is refused before any request."""
        done = run(make(), "--account", account)
        assert done.exit_code == 2
        assert f"'{account}' is no account like acct_1 or acct_1/acct_2" in done.stderr

    def test_account_in_an_organization(self, make: Make, stripe_api: StripeApi) -> None:
        """The context of an account in an organization has several parts."""
        put(stripe_api, "evt_1", context="acct_1/acct_2")
        assert "evt_1" in run(make(), "--dry-run", "--account", "acct_1/acct_2").stdout

    def test_no_handlers(self, make_receiver: Make) -> None:
        """With only a fallback there is no event type to compare."""
        done = run(make_receiver())
        assert done.exit_code == 1
        assert done.stderr == (
            "Error: No event type has a handler module, so there are no events to look for.\n"
        )

    def test_missing_inbox(self, make: Make, tmp_path: Path) -> None:
        """If the inbox is unavailable, the sentence has the reason."""
        (tmp_path / "file").touch()
        done = run(make(database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3"), "--yes")
        assert done.exit_code == 1
        assert done.stderr.splitlines()[-1] == (
            "Error: The inbox's file is missing: inbox_file_missing."
            " Run `flask doctor` to see what to do."
        )

    def test_watermark_that_is_older_than_the_list(self, make: Make, sqlite_url: str) -> None:
        """A watermark older than 30 days is a warning: no backfill finds older events."""
        receiver = make()
        run(receiver)
        raw_sql.execute(sqlite_url, "UPDATE watermarks SET reached = reached - 31 * 86400")
        done = run(receiver, "--json", "--yes")
        (warning,) = json.loads(done.stdout)["warnings"]
        assert warning.startswith(f"{TYPE} of the account of the key was last reconciled more")
        raw_sql.execute(sqlite_url, "UPDATE watermarks SET reached = reached - 31 * 86400")
        assert f"Warning: {warning}" in run(receiver).stderr
        assert "Warning" not in run(receiver).stderr


class TestErrorsOfStripe:
    """Each error of Stripe's API is one sentence and the exit status 3."""

    @staticmethod
    def said(done: Result) -> str:
        """Return the sentence: the only line that is no log line."""
        lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert done.exit_code == 3, done.output
        assert "Traceback" not in done.output
        (line,) = lines
        return line

    @pytest.mark.parametrize(
        ("status", "begins"),
        [
            (400, "Error: Stripe's API refused the request (400): "),
            (401, "Error: Stripe does not accept the API key (401). "),
            (403, "Error: The API key may not do this (403): "),
            (404, "Error: Stripe does not have it (404): "),
            (429, "Error: Stripe's rate limit is reached (429). "),
            (500, "Error: Stripe's API failed (500) at every attempt. "),
        ],
    )
    def test_status(self, make: Make, stripe_api: StripeApi, status: int, begins: str) -> None:
        """After an error nothing is recorded, and the next call succeeds."""
        receiver = make()
        put(stripe_api, "evt_1")
        stripe_api.fail(LIST, status=status, times=3 if status == 500 else 1)  # the SDK retries
        assert self.said(run(receiver, "--yes")).startswith(begins)
        assert recorded(receiver) == set()
        assert run(receiver, "--yes").exit_code == 0
        assert recorded(receiver) == {("evt_1", "done", "reconcile")}

    @pytest.mark.parametrize("status", [403, 404])
    def test_one_of_several_accounts(self, make: Make, stripe_api: StripeApi, status: int) -> None:
        """The failed account is named, and the other accounts are reconciled."""
        receiver = make()
        put(stripe_api, "evt_1", context="acct_1")
        stripe_api.fail(LIST, status=status)
        done = run(receiver, "--yes", "--account", "acct_1")
        assert self.said(done).startswith("Error: the account of the key: ")
        assert f"({status})" in done.stderr
        assert recorded(receiver) == {("evt_1", "done", "reconcile")}

    def test_all_accounts(self, make: Make, stripe_api: StripeApi) -> None:
        """JSON names the error of each account."""
        stripe_api.fail(LIST, status=403, times=2)
        done = run(make(), "--yes", "--json", "--account", "acct_1")
        failed = json.loads(done.stdout)["failed"]
        assert [each["context"] for each in failed] == [None, "acct_1"]
        assert all("(403)" in each["error"] for each in failed)
        assert self.said(done).count("(403)") == 2
        stripe_api.fail(LIST, status=403, times=2)
        assert run(make(), "--account", "acct_1").stdout == "None is missing.\n"

    def test_time_out(
        self, make: Make, stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An API that does not answer is a time-out."""
        monkeypatch.setattr(client, "TIMEOUT", (1, 0.2))
        stripe_api.hold(LIST, times=3)
        assert "did not answer in time" in self.said(run(make(), "--yes"))

    def test_reset(self, make: Make, stripe_api: StripeApi) -> None:
        """A reset at every attempt is a connection that broke off."""
        stripe_api.reset(LIST, times=3)
        assert "cannot be reached: the connection broke off" in self.said(run(make(), "--yes"))

    def test_page_that_expires_while_the_list_is_read(
        self, make: Make, stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If a page expires, nothing is recorded. The next call reads the whole list."""
        monkeypatch.setattr("app.reconcile.listing.PAGE", 2)
        for number in range(3):
            put(stripe_api, f"evt_{number}", 60 - number)
        receiver = make()
        stripe_api.events.after_page(1, stripe_api.events.forget_pages)
        assert "the page token is not valid, or has expired" in self.said(run(receiver, "--yes"))
        assert recorded(receiver) == set()
        assert run(receiver, "--yes").exit_code == 0
        assert len(recorded(receiver)) == 3

    @pytest.mark.parametrize("body", [{}, {"data": None}, {"data": [1], "next_page_url": None}])
    def test_answer_that_is_not_from_stripe(
        self, make: Make, stripe_api: StripeApi, body: dict[str, Any]
    ) -> None:
        """JSON in another form, as from a proxy, is reported as such."""
        stripe_api.events.answer = lambda _request: None  # type: ignore[assignment,method-assign]  # no list
        stripe_api.put(LIST, body)
        assert "The answer is not from Stripe's API" in self.said(run(make(), "--yes"))
