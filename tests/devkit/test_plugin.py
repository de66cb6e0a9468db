"""The fixtures for tests of handlers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import stripe

from app import GiveUp
from app.errors import StartError
from devkit import samples
from devkit.deliver import Deliver, Logged, MakeDeliver, Receiver, RunHandler
from devkit.stripe_api import StripeApi
from handlers import fallback, v1_checkout_session_completed
from tests.conftest import MakeHandlers

ROOT = Path(__file__).resolve().parents[2]
TYPE = "v1.customer.created"
METER = "v1.billing.meter.error_report_triggered"
NEWER = "v9.thing.made"
#: Settings of a live service, which tests of handlers do not use.
ORGANIZATION = "STRIPE_API_KEY_FILE=/no/such/file\nSTRIPE_MODE=live\nSTRIPE_CONTEXT=acct_1\n"

#: Fetches the customer, and records the address.
GREET = """
    calls = []

    def handle(notif, client):
        customer = notif.fetch_related_object()
        calls.append((notif.id, customer.email))
"""
NEITHER = "calls = []\ndef handle(notif, client): calls.append(notif.id)\n"


@pytest.fixture
def greet(make_deliver: MakeDeliver) -> Deliver:
    """``deliver`` for a service with a handler for new customers."""
    return make_deliver(modules={"v1_customer_created": GREET})


def calls(deliver: Deliver) -> list[Any]:
    """Return the records of the module."""
    noted: list[Any] = deliver.receiver.module("v1_customer_created").calls
    return noted


class TestInbox:
    """Each test has an inbox of its own, a copy of one whose tables were made once."""

    def test_tables_are_copied(
        self,
        make_receiver: Callable[..., Receiver],
        sqlite_url: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """An application finds the tables, in a file that only its owner can read."""
        # No mock: Alembic, which must not be called.
        monkeypatch.setattr(alembic.command, "upgrade", lambda *_: pytest.fail("it migrates"))
        receiver = make_receiver()
        file = Path(sqlite_url.removeprefix("sqlite:///"))
        assert [each.stat().st_mode & 0o777 for each in (file.parent, file)] == [0o700, 0o600]
        assert receiver.deliver(samples.notification(TYPE)).status_code == 200

    def test_second_application_has_the_same_inbox(
        self, make_receiver: Callable[..., Receiver]
    ) -> None:
        """The file of the first application stays."""
        body = samples.notification(TYPE)
        answers = [make_receiver().deliver(body).get_json() for _ in range(2)]
        assert [each["outcome"] for each in answers] == ["fallback", "duplicate"]

    def test_lost_inbox_is_not_replaced(
        self, make_receiver: Callable[..., Receiver], sqlite_url: str
    ) -> None:
        """A test that removes the file sees what the service does then."""
        receiver = make_receiver()
        assert receiver.deliver(samples.notification(TYPE)).status_code == 200
        receiver.services.inbox.close()
        Path(sqlite_url.removeprefix("sqlite:///")).unlink()
        assert make_receiver().deliver(samples.notification(TYPE)).status_code == 503

    def test_other_inbox_is_created_by_the_application(
        self, make_receiver: Callable[..., Receiver], tmp_path: Path
    ) -> None:
        """Only the file of the fixture is a copy."""
        file = tmp_path / "new" / "inbox.sqlite3"
        receiver = make_receiver(database_url=f"sqlite:///{file}")
        assert list(tmp_path.glob("*/inbox.sqlite3")) == []
        assert receiver.deliver(samples.notification(TYPE)).status_code == 200

    @pytest.mark.parametrize(
        "sqlite_url",
        [
            "postgresql+psycopg://me:hidden@127.0.0.1:9/in/box",
            "sqlite://",
            "sqlite:///new/inbox.sqlite3?timeout=5",
        ],
    )
    def test_other_url_in_the_place_of_the_fixture_makes_no_file(
        self,
        make_receiver: Callable[..., Receiver],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A project may have a fixture of that name with another database."""
        folder = tmp_path / "project"
        folder.mkdir()
        monkeypatch.chdir(folder)
        make_receiver()
        assert list(folder.iterdir()) == []

    def test_folder_that_cannot_be_made_is_left_to_the_application(
        self, tmp_path: Path, make_receiver: Callable[..., Receiver], sqlite_url: str
    ) -> None:
        """The delivery is answered 503, as by the service."""
        (tmp_path / "var").touch()
        assert Path(sqlite_url.removeprefix("sqlite:///")).parent == tmp_path / "var"
        assert make_receiver().deliver(samples.notification(TYPE)).status_code == 503


class TestDeliver:
    """A sample goes through the whole service, and its callback can fetch."""

    def test_delivery_has_status_outcome_and_row(self, greet: Deliver) -> None:
        """A delivery has the answer to Stripe and the event in the inbox."""
        delivery = greet(TYPE, context="acct_1")
        assert (delivery.status, delivery.outcome, delivery.error) == (200, "handled", None)
        assert delivery.event is not None
        assert (delivery.event.state, delivery.event.context) == ("done", "acct_1")
        assert delivery.event.id == delivery.notification["id"]

    def test_shipped_handlers_are_the_default(self, deliver: Deliver, logged: Logged) -> None:
        """By default the package of the team is tested."""
        delivery = deliver("v1.checkout.session.completed", object_id="cs_1")
        assert delivery.outcome == "handled"
        assert logged("checkout_completed")["session"] == "cs_1"

    def test_fields_and_data_are_what_the_callback_finds(
        self, greet: Deliver, deliver: Deliver, logged: Logged
    ) -> None:
        """Given values are in the object and the event. The others are placeholders."""
        delivery = greet(TYPE, fields={"email": "jenny@example.com"})
        assert calls(greet) == [(delivery.notification["id"], "jenny@example.com")]
        deliver(METER, data={"developer_message_summary": "no meter"})
        assert logged("meter_usage_rejected")["summary"] == "no meter"

    def test_refusal_has_its_words(self, greet: Deliver) -> None:
        """A refused delivery has an outcome, the error of the answer, and no event."""
        delivery = greet({**samples.notification(TYPE), "object": "customer"})
        assert (delivery.status, delivery.outcome, delivery.event) == (400, "refused", None)
        assert delivery.error is not None
        assert delivery.error.startswith("the body is neither")

    def test_unknown_type_is_a_slip(self, greet: Deliver) -> None:
        """A type that neither the SDK nor a module knows is an error with the nearest types."""
        with pytest.raises(samples.UnknownEventTypeError) as error:
            greet("v1.custommer.created")
        assert error.value.nearest[0] == TYPE
        with pytest.raises(LookupError, match="the inbox has no event evt_1"):
            greet.receiver.event("evt_1")
        assert greet("v1.custommer.created", unknown=True).outcome == "fallback"

    def test_type_of_a_module_is_known(self, make_deliver: MakeDeliver) -> None:
        """A type that is newer than the SDK can be delivered if it has a module."""
        deliver = make_deliver(modules={"thing": f"EVENT_TYPE = '{NEWER}'\n{NEITHER}"})
        delivery = deliver(NEWER)
        assert deliver.receiver.module("thing").calls == [delivery.notification["id"]]

    def test_fields_of_a_finished_notification_cannot_be_given(self, greet: Deliver) -> None:
        """Arguments without an effect are refused."""
        with pytest.raises(TypeError, match="has these fields already: context"):
            greet(samples.notification(TYPE), context="acct_1")


class TestIdioms:
    """Duplicates, retries and wrong orders take one line each."""

    def test_redelivery(self, greet: Deliver) -> None:
        """``twice`` and ``again`` deliver the same event again."""
        assert [each.outcome for each in greet.twice(TYPE)] == ["handled", "duplicate"]
        assert greet(TYPE).again().outcome == "duplicate"
        assert len(calls(greet)) == 2

    @pytest.mark.parametrize("status", [404, 429, 500])
    def test_failure_then_retry(self, greet: Deliver, stripe_api: StripeApi, status: int) -> None:
        """``retried`` lets Stripe's API fail during the first attempt only."""
        first, second = greet.retried(TYPE, status=status)
        assert [first.status, first.outcome] == [500, "failed"]
        assert first.event is not None
        assert first.event.state == "pending"
        assert [second.status, second.outcome] == [200, "handled"]
        assert second.event is not None
        assert second.event.attempt == 2
        assert len(stripe_api.asked) == (4 if status == 500 else 2)

    def test_out_of_order_pair(self, make_deliver: MakeDeliver) -> None:
        """``out_of_order`` delivers the later event of an object first."""
        note = "calls = []\ndef handle(notif, client): calls.append(notif)\n"
        names = ("v1_customer_created", "v1_customer_updated")
        deliver = make_deliver(modules=dict.fromkeys(names, note))
        first, second = deliver.out_of_order(TYPE, "v1.customer.updated")
        assert [first.outcome, second.outcome] == ["handled", "handled"]
        assert [first.notification["type"], second.notification["type"]] == [
            "v1.customer.updated",
            TYPE,
        ]
        assert first.notification["created"] > second.notification["created"]
        assert first.notification["related_object"] == second.notification["related_object"]

    @pytest.mark.parametrize("source", [GREET, NEITHER])
    def test_duplicate_while_one_runs(self, make_deliver: MakeDeliver, source: str) -> None:
        """``overlapping`` makes the second delivery while the callback runs."""
        deliver = make_deliver(modules={"v1_customer_created": source})
        first, second = deliver.overlapping(TYPE, fields={"email": "jenny@example.com"})
        assert [first.outcome, second.outcome] == ["handled", "deferred"]
        assert (second.status, first.notification) == (409, second.notification)
        assert len(calls(deliver)) == 1
        assert first.again().outcome == "duplicate"

    def test_duplicate_of_what_never_runs(self, greet: Deliver) -> None:
        """``overlapping`` does not wait for a callback that is never called."""
        first, second = greet.overlapping(TYPE, livemode=True)
        assert [first.outcome, second.outcome] == ["wrong_mode", "wrong_mode"]


class TestFailures:
    """A test can make Stripe's API fail."""

    def test_deleted_object(self, greet: Deliver, stripe_api: StripeApi) -> None:
        """A removed object is not found, even if a delivery offers it later."""
        notification = samples.notification(TYPE)
        stripe_api.remove(notification["related_object"]["url"])
        delivery = greet(notification)
        assert delivery.outcome == "failed"
        assert delivery.event is not None
        assert "404" in str(delivery.event.reason)

    def test_reset(self, greet: Deliver, stripe_api: StripeApi) -> None:
        """After a reset the SDK tries three times."""
        stripe_api.reset(times=3)
        delivery = greet(TYPE)
        assert delivery.outcome == "failed"
        assert delivery.event is not None
        assert "APIConnectionError" in str(delivery.event.reason)
        assert delivery.again().outcome == "handled"

    @pytest.mark.parametrize("api_timeout", [(5, 0.3)])
    def test_time_out(self, greet: Deliver, stripe_api: StripeApi) -> None:
        """``api_timeout`` shortens a test of a time-out."""
        stripe_api.hold(times=3)
        delivery = greet(TYPE)
        assert delivery.event is not None
        assert "timed out" in str(delivery.event.reason)

    def test_what_was_asked(self, greet: Deliver, stripe_api: StripeApi) -> None:
        """``asked`` has the path, account and trigger of each request."""
        delivery = greet(TYPE, context="acct_1", object_id="cus_1")
        (asked,) = stripe_api.asked
        assert (asked.method, asked.path) == ("GET", "/v1/customers/cus_1")
        assert asked.stripe_context == "acct_1"
        assert asked.request_trigger == f"event={delivery.notification['id']}"


class TestRunHandler:
    """``run_handler`` calls one callback like the service, without the service."""

    def test_notification_is_typed(self, run_handler: RunHandler, logged: Logged) -> None:
        """The callback gets the SDK's class and can fetch the object."""
        notif = run_handler(v1_checkout_session_completed, fields={"currency": "eur"})
        assert type(notif) is stripe.events.V1CheckoutSessionCompletedEventNotification
        assert logged("checkout_completed")["currency"] == "eur"

    def test_fields_of_the_notification(self, run_handler: RunHandler) -> None:
        """All arguments of a sample are accepted."""
        notif = run_handler(v1_checkout_session_completed, context="acct_1", object_id="cs_1")
        assert (str(notif.context), notif.related_object.id) == ("acct_1", "cs_1")

    def test_data_of_the_event(self, run_handler: RunHandler, make_handlers: MakeHandlers) -> None:
        """``data`` sets data of the fetched event."""
        source = "def handle(notif, client): assert notif.fetch_event().data.reason == 'none'\n"
        package = make_handlers(v1_billing_meter_error_report_triggered=source)
        module = importlib.import_module(f"{package}.v1_billing_meter_error_report_triggered")
        run_handler(module, data={"reason": "none"})
        with pytest.raises(AssertionError):
            run_handler(module)

    def test_what_is_raised_comes_through(
        self, run_handler: RunHandler, make_handlers: MakeHandlers
    ) -> None:
        """An exception of the callback reaches the test."""
        source = "from app import GiveUp\ndef handle(notif, client): raise GiveUp('no plan')\n"
        package = make_handlers(v1_customer_created=source)
        module = importlib.import_module(f"{package}.v1_customer_created")
        with pytest.raises(GiveUp, match="no plan"):
            run_handler(module)

    @pytest.mark.parametrize(("event_type", "known"), [(TYPE, True), (NEWER, False)])
    def test_fallback(
        self, run_handler: RunHandler, logged: Logged, event_type: str, *, known: bool
    ) -> None:
        """The fallback is called with an event of the given type."""
        notif = run_handler(fallback, event_type, unknown=not known)
        assert notif.type == event_type
        assert logged("event_without_handler")["known_to_sdk"] is known

    def test_newer_type(self, run_handler: RunHandler, make_handlers: MakeHandlers) -> None:
        """For a type that the SDK does not know, the callback gets the SDK's generic class."""
        package = make_handlers(thing=f"EVENT_TYPE = '{NEWER}'\n{NEITHER}")
        module = importlib.import_module(f"{package}.thing")
        notif = run_handler(module)
        assert module.calls == [notif.id]
        assert type(notif) is stripe.events.UnknownEventNotification

    def test_module_that_cannot_be_used(
        self, run_handler: RunHandler, make_handlers: MakeHandlers
    ) -> None:
        """A module that prevents a start is refused with the same message."""
        package = make_handlers(v1_customer_created="async def handle(notif, client): ...\n")
        with pytest.raises(StartError, match="handle is async and would never run"):
            run_handler(importlib.import_module(f"{package}.v1_customer_created"))


def test_lines_are_found_in_any_order(deliver: Deliver, logged: Logged) -> None:
    """``logged`` returns a line without losing the others."""
    deliver(METER)
    assert logged("delivery")["outcome"] == "handled"
    assert logged("meter_usage_rejected")["level"] == "error"


@pytest.mark.processes
def test_a_team_needs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another project, with another package name, one line adds the fixtures."""
    package, tests = tmp_path / "team" / "hooks", tmp_path / "tests"
    package.mkdir(parents=True)
    tests.mkdir()
    for name, text in {
        "__init__.py": "",
        "fallback.py": "def handle(notif, client, details): ...\n",
        "v1_customer_created.py": "def handle(notif, client): notif.fetch_event()\n",
    }.items():
        (package / name).write_text(text, encoding="utf-8")
    (tests / "conftest.py").write_text("pytest_plugins = ['devkit.plugin']\n")
    (tests / "test_it.py").write_text(
        f"def test_it(deliver, run_handler, stripe_api, logged):\n"
        f"    assert deliver('{TYPE}').outcome == 'handled'\n"
        f"    from team.hooks import v1_customer_created\n"
        f"    assert run_handler(v1_customer_created).type == '{TYPE}'\n"
        f"    assert len(stripe_api.asked) == 2\n"
        f"    assert logged('delivery')['status'] == 200\n"
    )
    (tmp_path / ".env").write_text("HANDLERS_PACKAGE=team.hooks\n" + ORGANIZATION)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
