"""``flask events prune``: what it removes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.inbox.retention import DAY_SECONDS
from devkit import samples
from tests.conftest import Receiver
from tests.support import raw_sql

Make = Callable[..., Receiver]
TYPE = "v1.customer.created"


@pytest.fixture
def receiver(make_receiver: Make, database_url: str) -> Receiver:
    """An inbox with two old events and a new one, all done."""
    receiver = make_receiver({}, database_url=database_url)
    for event_id in ("evt_old_1", "evt_old_2", "evt_new"):
        receiver.deliver(samples.notification(TYPE, event_id=event_id))
    raw_sql.execute(
        database_url,
        f"UPDATE events SET received_at = received_at - {50 * DAY_SECONDS},"  # noqa: S608 - the test's own
        f" settled_at = settled_at - {50 * DAY_SECONDS} WHERE id LIKE 'evt_old%'",
    )
    return receiver


def prune(receiver: Receiver, *options: str, answer: str | None = None) -> tuple[int, str]:
    """Run the command. Returns its exit status and its output."""
    arguments = ["events", "prune", *options]
    done = receiver.app.test_cli_runner().invoke(args=arguments, input=answer)
    return done.exit_code, done.output


def ids(receiver: Receiver) -> set[str]:
    """Return the ids of all events."""
    return {each.id for each in receiver.services.inbox.administration.latest(10)}


def test_it_says_how_many_and_asks(receiver: Receiver) -> None:
    """Nothing is removed before the answer, and then only what is older."""
    status, said = prune(receiver, "--older-than", "45d", answer="n\n")
    assert status == 1
    assert said.startswith("2 events received and settled before 20")
    assert "Remove 2 events? [y/N]" in said
    assert len(ids(receiver)) == 3

    status, said = prune(receiver, "--older-than", "45d", answer="y\n")
    assert (status, said.splitlines()[-1]) == (0, "Removed 2 events.")
    assert ids(receiver) == {"evt_new"}
    (entry,) = receiver.services.inbox.audit.entries(10)
    assert (entry.action, entry.affected) == ("prune", 2)
    assert str(entry.target).startswith("before=20")


def test_yes_answers_the_question(receiver: Receiver) -> None:
    """For cron: it removes at once."""
    status, said = prune(receiver, "--older-than", "45d", "--yes")
    assert (status, said.splitlines()[1:]) == (0, ["Removed 2 events."])
    assert ids(receiver) == {"evt_new"}


def test_dry_run_removes_nothing(receiver: Receiver) -> None:
    """It shows the number."""
    status, said = prune(receiver, "--older-than", "45d", "--dry-run")
    assert (status, said[:8]) == (0, "2 events")
    assert len(ids(receiver)) == 3


def test_nothing_to_remove(receiver: Receiver) -> None:
    """There is no question about no event."""
    status, said = prune(receiver, "--older-than", "60d", "--yes")
    assert (status, said[:8]) == (0, "0 events")
    assert len(ids(receiver)) == 3


@pytest.mark.parametrize(
    ("age", "words"),
    [
        ("30d", "'30d' is under 31 days. Stripe resends an event for 30 days"),
        ("743h", "'743h' is under 31 days"),
        ("45", "'45' is no interval"),
        ("999999999d", "'999999999d' is not in the years 1 to 9999"),
    ],
)
def test_age_that_is_refused(receiver: Receiver, age: str, words: str) -> None:
    """An event that Stripe still resends would run again."""
    status, said = prune(receiver, "--older-than", age, "--yes")
    assert status == 2
    assert words in " ".join(said.split())
    assert len(ids(receiver)) == 3
