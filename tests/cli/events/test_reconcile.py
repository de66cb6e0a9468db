"""``flask events reconcile``: what it says, what it asks, and how it ends."""

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

Make = Callable[..., Receiver]


@pytest.fixture
def make(make_receiver: Make, stripe_api: StripeApi) -> Make:
    """A function that makes a service with a handler, which asks the stand-in."""

    def make_one(source: str = HANDLER, **changes: Any) -> Receiver:
        modules = {"v1_customer_created": source}
        return make_receiver(modules, stripe_api_base=stripe_api.url, **changes)

    return make_one


def put(api: StripeApi, event_id: str, minutes: float = 60, **fields: Any) -> dict[str, Any]:
    """Let Stripe have an event that is so old."""
    created = datetime.now(UTC) - timedelta(minutes=minutes)
    notification = samples.notification(TYPE, event_id=event_id, created=created, **fields)
    api.put_event(samples.event(notification))
    return notification


def run(receiver: Receiver, *options: str, answer: str | None = None) -> Result:
    """Run the command, and type an answer if it asks."""
    return receiver.app.test_cli_runner().invoke(
        args=["events", "reconcile", *options], input=answer
    )


def recorded(receiver: Receiver) -> set[tuple[str, str, str]]:
    """Return id, state and source of all that the inbox has."""
    return {
        (each.id, each.state, each.source)
        for each in receiver.services.inbox.administration.latest(1000)
    }


class TestGap:
    """It shows what is missing."""

    def test_nothing_is_missing(self, make: Make, stripe_api: StripeApi) -> None:
        """It says what was compared, and asks nothing."""
        receiver = make()
        receiver.deliver(put(stripe_api, "evt_1"))
        done = run(receiver, "--account", "acct_1")
        assert done.exit_code == 0
        compared, missing = done.stdout.splitlines()
        assert re.fullmatch(
            r"Stripe lists 1 event of 1 handled type from \S+ \S+ to \S+ \S+ \(UTC\), for the"
            r" account of the key, acct_1\.",
            compared,
        )
        assert missing == "None is missing."

    def test_what_is_missing_is_shown_and_run_after_a_yes(
        self, make: Make, stripe_api: StripeApi, database_url: str
    ) -> None:
        """With time, id, type and account; then what became of each."""
        receiver = make(database_url=database_url)
        one = put(stripe_api, "evt_1")
        other = put(stripe_api, "evt_2", 70, context="acct_1")
        done = run(receiver, "--account", "acct_1", answer="y\n")
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[1:] == [
            "The inbox lacks 2 of them:",
            f"{other['created']}  evt_2  {TYPE}  acct_1",
            f"{one['created']}  evt_1  {TYPE}  -",
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

    def test_many_are_counted(self, make: Make, stripe_api: StripeApi) -> None:
        """A screen shows twenty."""
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
        """And the next call begins where this one began."""
        receiver = make()
        put(stripe_api, "evt_1")
        assert run(receiver, answer=answer).exit_code == 1
        assert recorded(receiver) == set()
        assert receiver.services.inbox.reconciliation.watermarks(livemode=False, context="") == {}

    def test_dry_run_only_looks(self, make: Make, stripe_api: StripeApi) -> None:
        """It asks nothing and records nothing, also with --yes."""
        receiver = make()
        put(stripe_api, "evt_1")
        done = run(receiver, "--dry-run", "--yes")
        assert (done.exit_code, "evt_1" in done.stdout) == (0, True)
        assert recorded(receiver) == set()
        assert receiver.services.inbox.reconciliation.watermarks(livemode=False, context="") == {}

    def test_since(self, make: Make, stripe_api: StripeApi) -> None:
        """As far back as is asked for."""
        put(stripe_api, "evt_1", 3 * 24 * 60)
        receiver = make()
        assert "None is missing." in run(receiver, "--dry-run").stdout
        assert "evt_1" in run(receiver, "--dry-run", "--since", "4d").stdout

    def test_queue_mode_leaves_it_to_the_workers(self, make: Make, stripe_api: StripeApi) -> None:
        """It asks whether to record, and runs nothing."""
        receiver = make(processing="queue")
        put(stripe_api, "evt_1")
        done = run(receiver, answer="y\n")
        assert "Record them for the workers? [y/N]: y\nRecorded 1 event.\n" in done.stdout
        assert recorded(receiver) == {("evt_1", "pending", "reconcile")}


class TestRuns:
    """In inline mode it runs what was brought back."""

    def test_failed_one_is_told_of_and_run_by_the_next_call(
        self, make: Make, stripe_api: StripeApi
    ) -> None:
        """The first call ends with 1 and says what to do, the second one succeeds."""
        receiver = make(FAILING)
        put(stripe_api, "evt_1")
        first = run(receiver, "--yes")
        assert (first.exit_code, f"evt_1  {TYPE}  failed\n" in first.stdout) == (1, True)
        assert first.stderr.splitlines()[-1].startswith(
            "Error: 1 event did not succeed. See why with: flask events show ID."
        )
        assert recorded(receiver) == {("evt_1", "pending", "reconcile")}
        second = run(receiver, answer="y\n")
        assert second.exit_code == 0
        assert "Of those brought back before, 1 event did not succeed yet." in second.stdout
        assert "Record and run 1 event? [y/N]: y" in second.stdout
        assert recorded(receiver) == {("evt_1", "done", "reconcile")}


class TestJson:
    """What a program reads."""

    def test_all_of_it(self, make: Make, stripe_api: StripeApi) -> None:
        """One document on standard output."""
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
        """So what to do has to be given."""
        done = run(make(), "--json")
        assert done.exit_code == 2
        assert "give --yes or --dry-run" in done.stderr


class TestRefusals:
    """What cannot be done is said in one sentence."""

    @pytest.mark.parametrize("account", ["cus_1", "acct_", "acct_1/cus_1", "acct_1 acct_2"])
    def test_what_is_no_account(self, make: Make, account: str) -> None:
        """Before anything is asked."""
        done = run(make(), "--account", account)
        assert done.exit_code == 2
        assert f"'{account}' is no account like acct_1 or acct_1/acct_2" in done.stderr

    def test_account_in_an_organization(self, make: Make, stripe_api: StripeApi) -> None:
        """A context can have several parts."""
        put(stripe_api, "evt_1", context="acct_1/acct_2")
        assert "evt_1" in run(make(), "--dry-run", "--account", "acct_1/acct_2").stdout

    def test_no_handlers(self, make_receiver: Make) -> None:
        """With only a fallback there is no type to ask for."""
        done = run(make_receiver())
        assert done.exit_code == 1
        assert done.stderr == (
            "Error: There is no handler module but the fallback, so no event type to look for.\n"
        )

    def test_inbox_that_is_away(self, make: Make, tmp_path: Path) -> None:
        """The reason is said."""
        (tmp_path / "file").touch()
        done = run(make(database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3"), "--yes")
        assert done.exit_code == 1
        assert done.stderr.splitlines()[-1] == (
            "Error: The inbox's file is missing: inbox_file_missing."
            " See what to do with `flask doctor`."
        )

    def test_watermark_that_is_older_than_the_list(self, make: Make, sqlite_url: str) -> None:
        """A warning says what nobody can bring back."""
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
    """Each error of Stripe's API is one clear sentence, and the exit code 3."""

    @staticmethod
    def said(done: Result) -> str:
        """Return the sentence: the only line that is no line of the log."""
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
            (500, "Error: Stripe's API failed (500), each time it was asked. "),
        ],
    )
    def test_status(self, make: Make, stripe_api: StripeApi, status: int, begins: str) -> None:
        """Nothing is recorded then."""
        receiver = make()
        put(stripe_api, "evt_1")
        stripe_api.fail(LIST, status=status, times=3 if status == 500 else 1)  # it is repeated
        assert self.said(run(receiver, "--yes")).startswith(begins)
        assert recorded(receiver) == set()
        assert run(receiver, "--yes").exit_code == 0
        assert recorded(receiver) == {("evt_1", "done", "reconcile")}

    @pytest.mark.parametrize("status", [403, 404])
    def test_one_of_several_accounts(self, make: Make, stripe_api: StripeApi, status: int) -> None:
        """The others are reconciled, and the one is named."""
        receiver = make()
        put(stripe_api, "evt_1", context="acct_1")
        stripe_api.fail(LIST, status=status)
        done = run(receiver, "--yes", "--account", "acct_1")
        assert self.said(done).startswith("Error: the account of the key: ")
        assert f"({status})" in done.stderr
        assert recorded(receiver) == {("evt_1", "done", "reconcile")}

    def test_all_accounts(self, make: Make, stripe_api: StripeApi) -> None:
        """Also to a program."""
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
        """An API that does not answer is not waited for."""
        monkeypatch.setattr(client, "TIMEOUT", (1, 0.2))
        stripe_api.hold(LIST, times=3)
        assert "did not answer in time" in self.said(run(make(), "--yes"))

    def test_reset(self, make: Make, stripe_api: StripeApi) -> None:
        """A connection that is reset each time."""
        stripe_api.reset(LIST, times=3)
        assert "cannot be reached: the connection broke off" in self.said(run(make(), "--yes"))

    def test_page_that_expires_while_the_list_is_read(
        self, make: Make, stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is recorded of what was read by then; the next call reads it all."""
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
    def test_what_is_not_stripe(
        self, make: Make, stripe_api: StripeApi, body: dict[str, Any]
    ) -> None:
        """JSON of another form, as of a proxy on the way."""
        stripe_api.events.answer = lambda _request: None  # type: ignore[assignment,method-assign]  # no list
        stripe_api.put(LIST, body)
        assert "What answered is not Stripe's API" in self.said(run(make(), "--yes"))
