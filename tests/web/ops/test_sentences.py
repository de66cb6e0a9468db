"""The sentence of state of one event."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.inbox import Event
from app.processing.pairs import TWIN_RUNS
from app.states import Outcome, State
from app.web.ops.sentences import Sentence, Situation, of_state
from devkit import samples
from tests.conftest import Receiver

NOW = 1000.0
QUEUE = Situation(NOW, is_queue=True)
INLINE = Situation(NOW, is_queue=False)


@pytest.fixture
def event(receiver: Receiver) -> Event:
    """An event of which each test changes what it is about."""
    receiver.deliver(samples.notification("v1.customer.created", event_id="evt_1"))
    return replace(
        receiver.event("evt_1"), received_at=1.0, claimed_at=2.0, settled_at=3.0, due_at=4.0
    )


def words(sentence: Sentence) -> str:
    """Return a sentence with its time in seconds."""
    return f"{sentence.before} {sentence.at:g}{sentence.after}"


@pytest.mark.parametrize(
    ("changes", "situation", "expected"),
    [
        (
            {"state": State.DONE, "outcome": Outcome.HANDLED},
            QUEUE,
            "Done: the callback returned 3, in attempt 1.",
        ),
        (
            {"state": State.DONE, "outcome": Outcome.FALLBACK},
            QUEUE,
            "Done: its type has no handler module, and the fallback returned 3, in attempt 1.",
        ),
        (
            {"state": State.DONE, "outcome": Outcome.WRONG_MODE, "livemode": True},
            INLINE,
            "Recorded 1 and not run: it is a live event, and this service runs test events.",
        ),
        (
            {
                "state": State.DONE,
                "outcome": Outcome.SUPERSEDED,
                "reason": "superseded by evt_2",
            },
            QUEUE,
            "Not run since 3: superseded by evt_2, an event of the same object.",
        ),
        (
            {"state": State.DONE, "outcome": Outcome.TWIN},
            INLINE,
            "Done 3 without a run: the callback of its twin has succeeded.",
        ),
        (
            {"state": State.DONE, "outcome": Outcome.SHADOW},
            INLINE,
            "Done: the callback of the shadow returned 3, in attempt 1. The snapshot module does"
            " the work.",
        ),
        (
            {"state": State.DONE, "outcome": Outcome.SHADOW, "reason": "ValueError: no"},
            QUEUE,
            "Done, although the callback of the shadow raised 3, in attempt 1. It is not retried:"
            " the snapshot module does the work.",
        ),
        (
            {"state": State.PENDING, "outcome": Outcome.RELEASED, "reason": TWIN_RUNS},
            INLINE,
            "Pending: attempt 1 ended 3 without a call of its callback, because its twin was"
            " running. Stripe delivers the event again, for up to three days.",
        ),
        (
            {
                "state": State.PENDING,
                "outcome": Outcome.RELEASED,
                "reason": TWIN_RUNS,
                "due_at": NOW + 4,
            },
            QUEUE,
            "Pending: its twin was running. It is tried again 1004.",
        ),
        (
            {"state": State.PENDING, "outcome": Outcome.RELEASED, "reason": TWIN_RUNS},
            QUEUE,
            "Pending: attempt 2 was due 4. A worker claims it next.",
        ),
        (
            {"state": State.DONE, "outcome": Outcome.GAVE_UP, "erased_at": 9.0},
            INLINE,
            "Done: its outcome was gave_up. It was erased 9 for a deletion request. Its body and"
            " the ids in it are gone, and it cannot be run.",
        ),
        ({"state": State.RUNNING}, QUEUE, "Running: attempt 1 began 2."),
        (
            {"state": State.RUNNING, "is_orphan": True},
            QUEUE,
            "Orphaned: attempt 1 began 2, and its process died or no longer renews the lease."
            " A worker rescues it.",
        ),
        (
            {"state": State.RUNNING, "is_orphan": True},
            INLINE,
            "Orphaned: attempt 1 began 2, and its process died or no longer renews the lease."
            " Retry it, or wait for Stripe.",
        ),
        (
            {"state": State.PENDING},
            INLINE,
            "Pending: attempt 1 ended 3 without a success. Stripe delivers the event again, for up"
            " to three days.",
        ),
        (
            {"state": State.PENDING, "attempt": 0},
            INLINE,
            "Pending: not run yet. It was received 1. Queue mode accepted it, so Stripe does not"
            " deliver it again: retry it.",
        ),
        (
            {"state": State.PENDING, "due_at": 1500.0},
            QUEUE,
            "Pending: attempt 2 is due 1500.",
        ),
        (
            {"state": State.PENDING, "attempt": 0},
            QUEUE,
            "Pending: attempt 1 was due 4. A worker claims it next.",
        ),
        (
            {"state": State.PENDING},
            replace(QUEUE, is_paused=True),
            "Pending: attempt 2 was due 4. The workers are paused.",
        ),
        (
            {"state": State.PENDING},
            replace(QUEUE, is_type_paused=True),
            "Pending: attempt 2 was due 4. Its type is paused.",
        ),
        (
            {"state": State.PENDING},
            replace(QUEUE, concurrency=1),
            "Pending: attempt 2 was due 4. A worker claims it when its type has a free slot"
            " (CONCURRENCY = 1).",
        ),
        (
            {"state": State.DEAD, "outcome": Outcome.GAVE_UP, "attempt": 2},
            QUEUE,
            "Dead: given up 3.",
        ),
        (
            {"state": State.DEAD, "outcome": Outcome.EXHAUSTED},
            QUEUE,
            "Dead: the last attempt of the retry policy failed 3, after 1 attempt.",
        ),
        (
            {"state": State.DEAD, "outcome": "of_a_newer_version"},
            QUEUE,
            "Dead: of_a_newer_version 3.",
        ),
    ],
)
def test_sentence(
    event: Event, changes: dict[str, object], situation: Situation, expected: str
) -> None:
    """The sentence says the state, since when, why, and what happens next."""
    assert words(of_state(replace(event, **changes), situation)) == expected  # type: ignore[arg-type]  # each field has its type
