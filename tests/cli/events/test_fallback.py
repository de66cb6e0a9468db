"""Events that the fallback took can be selected, and run once their type has a handler module."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import Result

from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import MakeHandlers, Receiver

Make = Callable[..., Receiver]
CREATED = "v1.customer.created"
PAID = "v1.invoice.paid"
MODULE = "def handle(notif, client): pass\n"
MODES = pytest.mark.parametrize("processing", ["inline", "queue"])


def run(receiver: Receiver, *arguments: str) -> Result:
    """Run a command of ``flask events``."""
    return receiver.app.test_cli_runner().invoke(args=["events", *arguments])


def outcome(receiver: Receiver, event_id: str) -> tuple[str, str | None, int]:
    """Return state, outcome and attempt of an event."""
    event = receiver.event(event_id)
    return event.state, event.outcome, event.attempt


@pytest.fixture
def taken(make_receiver: Make, make_handlers: MakeHandlers, database_url: str) -> Make:
    """A function that makes the application after a handler was written for one of two types.

    Before, the fallback took an event of each.
    """
    before = make_receiver(database_url=database_url)
    for event_id, event_type in (("evt_1", PAID), ("evt_2", CREATED)):
        notification = samples.notification(event_type, event_id=event_id)
        assert before.deliver(notification).json == {"success": True, "outcome": "fallback"}
    package = make_handlers(v1_customer_created=MODULE)

    def make(**changes: object) -> Receiver:
        return make_receiver(database_url=database_url, handlers_package=package, **changes)

    return make


def test_outcome_can_be_listed(taken: Make) -> None:
    """--outcome selects by the outcome, and the sentence for none names it."""
    receiver = taken()
    receiver.deliver(samples.notification(CREATED, event_id="evt_3"))
    rows = json.loads(run(receiver, "list", "--outcome", "fallback", "--json").stdout)
    assert [(row["id"], row["state"], row["outcome"]) for row in rows] == [
        ("evt_2", "done", "fallback"),
        ("evt_1", "done", "fallback"),
    ]
    assert run(receiver, "list", "--outcome", "crashed").stdout == (
        "No events with the outcome crashed.\n"
    )
    assert run(receiver, "list", "--outcome", "accepted").exit_code == 2


@MODES
def test_events_of_the_new_module_run(taken: Make, processing: str) -> None:
    """Only those of types with a module are selected, so that they run without --again."""
    receiver = taken(processing=processing)
    done = run(receiver, "retry", "--outcome", "fallback", "--yes")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("1 event selected.\n")
    if processing == "queue":
        claim = receiver.services.inbox.claims.claim_due(livemode=False)
        assert claim is not None
        receiver.services.runner.run(claim)
    assert outcome(receiver, "evt_2") == ("done", "handled", 2)
    assert outcome(receiver, "evt_1") == ("done", "fallback", 1)
    again = run(receiver, "retry", "--outcome", "fallback", "--yes")
    assert again.stdout.endswith("There is no event to run again.\n")


@pytest.mark.parametrize("selection", [["evt_1"], ["--outcome", "fallback", "--type", PAID]])
def test_type_without_a_module_runs_only_again(taken: Make, selection: list[str]) -> None:
    """Without a module the fallback would take it once more."""
    receiver = taken()
    refused = run(receiver, "retry", *selection, "--yes")
    assert "evt_1: has no handler module yet; to run the fallback once more" in refused.stderr
    assert outcome(receiver, "evt_1") == ("done", "fallback", 1)
    assert run(receiver, "retry", *selection, "--again", "--yes").exit_code == 0
    assert outcome(receiver, "evt_1") == ("done", "fallback", 2)


def test_redelivery_is_a_duplicate(taken: Make) -> None:
    """An event that the fallback took is done: only a person has it run again."""
    receiver = taken()
    answer = receiver.deliver(samples.notification(CREATED, event_id="evt_2"))
    assert answer.json == {"success": True, "outcome": "duplicate"}


def test_doctor_names_the_types(taken: Make) -> None:
    """A WARN has the number of events, the types that have a module now, and the command."""
    receiver = taken()
    runner = receiver.app.test_cli_runner()
    warning = "the fallback took 1 event before there was a handler for v1.customer.created"
    shown = runner.invoke(args=["doctor", "--no-ping"]).output
    assert f"WARN  handlers      {warning}\n" in shown
    assert "-> Run them with `flask events retry --outcome fallback`" in shown

    run(receiver, "retry", "--outcome", "fallback", "--yes")
    assert "the fallback took" not in runner.invoke(args=["doctor", "--no-ping"]).output


def test_doctor_does_not_repeat_an_outage(make_receiver: Make) -> None:
    """If the inbox is unavailable, one line says so."""
    receiver = make_receiver(database_url="postgresql+psycopg://x:fake@127.0.0.1:1/none")
    shown = receiver.app.test_cli_runner().invoke(args=["doctor", "--no-ping"]).output
    assert shown.count("cannot be reached or written") == 1


def test_untyped_module_is_no_fallback(make_receiver: Make) -> None:
    """A type that is newer than the SDK reaches its module through the SDK's fallback."""
    module = "EVENT_TYPE = 'v2.thing.made'\n" + MODULE
    receiver = make_receiver({"newer": module})
    notification = samples.notification("v2.thing.made", unknown=True)
    assert receiver.deliver(notification).json == {"success": True, "outcome": "handled"}


def test_reconcile_does_not_miss_it(taken: Make, stripe_api: StripeApi) -> None:
    """The inbox has the event, so reconciliation neither records nor runs it."""
    receiver = taken(stripe_api_base=stripe_api.url)
    created = datetime.now(UTC) - timedelta(hours=1)
    notification = samples.notification(CREATED, event_id="evt_2", created=created)
    stripe_api.put_event(samples.event(notification))
    shown = run(receiver, "reconcile", "--yes", "--since", "24h").stdout
    assert "Stripe lists 1 event of 1 handled type" in shown
    assert "None is missing." in shown
    assert outcome(receiver, "evt_2") == ("done", "fallback", 1)
