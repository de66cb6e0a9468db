"""Events that the fallback took can be selected, and run once their type has a handler module."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest
from click.testing import Result

from app.inbox import Claim, NewEvent, Outcome
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import MakeHandlers, Receiver

Make = Callable[..., Receiver]
CREATED = "v1.customer.created"
PAID = "v1.invoice.paid"
MODULE = "def handle(notif, client): pass\n"
MODES = pytest.mark.parametrize("processing", ["inline", "queue"])


CHANGED = "not run: it has changed since you were asked"
ACTING = "acts = []\ndef handle(notif, client):\n    while acts: acts.pop()()\n"


class Answer(BytesIO):
    """The answer ``y``, typed after ``act`` has been called."""

    def __init__(self, act: Callable[[], object]) -> None:
        """Take the function to call while the question is open."""
        super().__init__(b"y\n")
        self._act = act

    def read1(self, size: int | None = -1) -> bytes:
        """Act before the first byte is read."""
        if self.tell() == 0:
            self._act()
        return super().read1(size)


def run(receiver: Receiver, *arguments: str, answer: Answer | None = None) -> Result:
    """Run a command of ``flask events``."""
    return receiver.app.test_cli_runner().invoke(args=["events", *arguments], input=answer)


def work(receiver: Receiver) -> None:
    """Run what is due, as a worker does."""
    while claim := receiver.services.inbox.claims.claim_due(livemode=False):
        receiver.services.runner.run(claim)


def outcome(receiver: Receiver, event_id: str) -> tuple[str, str | None, int]:
    """Return state, outcome and attempt of an event."""
    event = receiver.event(event_id)
    return event.state, event.outcome, event.attempt


def live_claim(receiver: Receiver) -> Claim:
    """Record a live event, and return its claim."""
    body = samples.encode(samples.notification(CREATED, event_id="evt_live", livemode=True))
    event = NewEvent("evt_live", CREATED, livemode=True, context=None, body=body)
    claim = receiver.services.inbox.deliveries.record_and_claim(event).claim
    assert claim is not None
    return claim


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
    work(receiver)
    assert outcome(receiver, "evt_2") == ("done", "handled", 2)
    assert outcome(receiver, "evt_1") == ("done", "fallback", 1)
    again = run(receiver, "retry", "--outcome", "fallback", "--yes")
    assert again.stdout.endswith("There is no event to run again.\n")


@MODES
def test_snapshot_event_of_the_new_module_runs(
    make_receiver: Make, make_handlers: MakeHandlers, database_url: str, processing: str
) -> None:
    """A snapshot event without a module runs once its type has one, like a thin event."""
    before = make_receiver(database_url=database_url)
    event = samples.snapshot_event("customer.source.created", event_id="evt_1")
    assert before.deliver(event).json == {"success": True, "outcome": "fallback"}
    assert "no handler module" in run(before, "retry", "evt_1", "--yes").output
    package = make_handlers(customer_source_created=MODULE.replace("notif", "event"))
    receiver = make_receiver(
        database_url=database_url, handlers_package=package, processing=processing
    )

    done = run(receiver, "retry", "--outcome", "fallback", "--yes")

    assert done.stdout.startswith("1 event selected.\n")
    work(receiver)
    assert outcome(receiver, "evt_1") == ("done", "handled", 2)


@pytest.mark.parametrize("selection", [["evt_1"], ["--outcome", "fallback", "--type", PAID]])
def test_type_without_a_module_runs_only_again(taken: Make, selection: list[str]) -> None:
    """Without a module the fallback would take it once more."""
    receiver = taken()
    refused = run(receiver, "retry", *selection, "--yes")
    assert "evt_1: has no handler module yet; to run the fallback once more" in refused.stderr
    assert outcome(receiver, "evt_1") == ("done", "fallback", 1)
    assert run(receiver, "retry", *selection, "--again", "--yes").exit_code == 0
    assert outcome(receiver, "evt_1") == ("done", "fallback", 2)


@MODES
@pytest.mark.parametrize(
    "selection",
    [
        ["--outcome", "fallback"],
        ["evt_2", "--again"],
        ["--outcome", "fallback", "--type", PAID, "--again"],
    ],
)
def test_second_operator_during_the_question(
    taken: Make, processing: str, selection: list[str]
) -> None:
    """An event that succeeded while the question was open does not run again, nor is it noted."""
    receiver = taken(processing=processing)

    def second() -> None:
        assert run(receiver, "retry", *selection, "--yes").exit_code == 0
        work(receiver)

    first = run(receiver, "retry", *selection, answer=Answer(second))
    work(receiver)

    assert first.exit_code == 1
    assert CHANGED in first.stdout
    event_id = "evt_1" if PAID in selection else "evt_2"
    assert receiver.event(event_id).attempt == 2
    assert len(receiver.services.inbox.administration.retries(event_id)) == 1


@MODES
def test_redelivery_during_the_question(
    make_receiver: Make, make_handlers: MakeHandlers, database_url: str, processing: str
) -> None:
    """An event of the wrong mode that Stripe redelivers meets the question: it runs once."""
    notification = samples.notification(CREATED, event_id="evt_1")
    live = make_receiver(stripe_api_key="sk_live_fake_for_tests", database_url=database_url)
    assert live.deliver(notification).json == {"success": True, "outcome": "wrong_mode"}
    receiver = make_receiver(
        database_url=database_url,
        handlers_package=make_handlers(v1_customer_created=MODULE),
        processing=processing,
    )

    def redeliver() -> None:
        assert receiver.deliver(notification).status_code == 200
        work(receiver)

    shown = run(receiver, "retry", "--outcome", "wrong_mode", answer=Answer(redeliver))
    work(receiver)

    assert CHANGED in shown.stdout
    assert outcome(receiver, "evt_1") == ("done", "handled", 1)


def test_two_jobs_at_once(
    make_receiver: Make, make_handlers: MakeHandlers, database_url: str
) -> None:
    """Two jobs with --yes that select the same events run each of them once."""
    before = make_receiver(database_url=database_url)
    for event_id in ("evt_1", "evt_2"):
        before.deliver(samples.notification(CREATED, event_id=event_id))
    package = make_handlers(v1_customer_created=ACTING)
    receiver = make_receiver(database_url=database_url, handlers_package=package)
    job = ("retry", "--outcome", "fallback", "--yes")
    assert receiver.services.registry.modules
    acts = sys.modules[f"{package}.v1_customer_created"].acts
    seconds: list[Result] = []
    acts.append(lambda: seconds.append(run(receiver, *job)))

    first = run(receiver, *job)

    (second,) = seconds
    assert f"evt_1  {CREATED}  handled" in first.stdout
    assert f"evt_2  {CREATED}  handled" in second.stdout
    assert f"evt_2  {CREATED}  {CHANGED}" in first.stdout
    assert outcome(receiver, "evt_1") == outcome(receiver, "evt_2") == ("done", "handled", 2)


def test_redelivery_is_a_duplicate(taken: Make) -> None:
    """An event that the fallback took is done: only a person has it run again."""
    receiver = taken()
    answer = receiver.deliver(samples.notification(CREATED, event_id="evt_2"))
    assert answer.json == {"success": True, "outcome": "duplicate"}


def test_doctor_names_the_types(taken: Make, stripe_api: StripeApi) -> None:
    """A WARN has the number of events, the types that have a module now, and the command."""
    receiver = taken(stripe_api_base=stripe_api.url)
    runner = receiver.app.test_cli_runner()
    warning = "the fallback took 1 event before there was a handler for v1.customer.created"
    shown = runner.invoke(args=["doctor", "--no-ping"]).output
    assert f"WARN  handlers      {warning}\n" in shown
    assert "-> Run them with `flask events retry --outcome fallback`" in shown

    run(receiver, "retry", "--outcome", "fallback", "--yes")
    assert "the fallback took" not in runner.invoke(args=["doctor", "--no-ping"]).output


def test_events_of_the_other_mode(taken: Make, stripe_api: StripeApi) -> None:
    """The doctor does not count them, and they do not use up --limit, though they are older."""
    receiver = taken(stripe_api_key="sk_live_fake_for_tests", stripe_api_base=stripe_api.url)
    doctor = receiver.app.test_cli_runner().invoke(args=["doctor", "--no-ping"])
    assert "the fallback took" not in doctor.output
    shown = run(receiver, "retry", "--outcome", "fallback", "--limit", "1", "--yes")
    assert shown.stdout == "0 events selected.\nThere is no event to run again.\n"
    receiver.services.inbox.claims.finish(live_claim(receiver), Outcome.FALLBACK)
    shown = run(receiver, "retry", "--outcome", "fallback", "--limit", "1", "--yes")
    assert shown.stdout == f"1 event selected.\nevt_live  {CREATED}  handled\n"


def test_doctor_does_not_repeat_an_outage(make_receiver: Make, stripe_api: StripeApi) -> None:
    """If the inbox is unavailable, one line says so."""
    url = "postgresql+psycopg://x:fake@127.0.0.1:1/none"
    receiver = make_receiver(database_url=url, stripe_api_base=stripe_api.url)
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
