"""Retry and give up one event. GET asks, POST acts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from flask import Blueprint, Response, request, url_for

from app.errors import DeliveryError, InboxUnavailable
from app.formats import mode
from app.inbox import Event
from app.operations.retrying import Refusal, ResultDelayed, Retrier
from app.services import services
from app.states import State
from app.web.ops import results, sentences
from app.web.ops.auth import viewer
from app.web.ops.confirmation import (
    REASON_NEEDED,
    Confirmation,
    ask,
    reason,
    refuse,
    require_right_to_act,
)
from app.web.ops.event import find, rules, situation

#: Why an event cannot be run now.
IMPOSSIBLE = {
    Refusal.OTHER_MODE: "It is a {mode} event, and STRIPE_API_KEY is of the other mode.",
    Refusal.RUNNING: "It is running. Wait until the attempt has ended.",
    Refusal.ERASED: "It was erased, so there is no body to run it with.",
    Refusal.RESCUED_SOON: "Its process died, and a worker rescues it within seconds.",
}
#: What another run of a done event does, if it is not a repetition.
ANOTHER_RUN = {
    Refusal.SUPERSEDED: "Its callback has not run: a newer event of its object ran instead.",
    Refusal.TWIN: "Its callback has not run, and is called only if its twin has not succeeded.",
    Refusal.SHADOW: "It ran as a shadow. With SHADOW in its module, it writes nothing to Stripe.",
}
CHANGED = (
    "Nothing was done: the event has changed since you opened the form. Read its page again before"
    " you decide."
)

blueprint = Blueprint("actions", __name__)


@blueprint.get("/events/<path:event_id>/retry")
def ask_retry(event_id: str) -> Response:
    """Say what a retry does."""
    return _ask(event_id, _impossible_retry, _retry_question)


@blueprint.post("/events/<path:event_id>/retry")
def retry(event_id: str) -> Response:
    """Have the event run again. One that has succeeded needs a reason and a second answer."""
    event = find(event_id)
    if impossible := _impossible_retry(event):
        return impossible
    again = rules().refusal(event) is not None
    if again and not reason():
        return ask(_retry_question(event), problem=REASON_NEEDED)
    if not _is_unchanged(event):
        return _changed(event)
    if again and "sure" not in request.form:
        return ask(_second_question(event))
    return _retry(event, again=again)


@blueprint.get("/events/<path:event_id>/give-up")
def ask_give_up(event_id: str) -> Response:
    """Say what giving up does."""
    return _ask(event_id, _impossible_give_up, _give_up_question)


@blueprint.post("/events/<path:event_id>/give-up")
def give_up(event_id: str) -> Response:
    """Make the event dead, with the reason."""
    event = find(event_id)
    if impossible := _impossible_give_up(event):
        return impossible
    why = reason()
    if not why:
        return ask(_give_up_question(event), problem=REASON_NEEDED)
    if not _is_unchanged(event):
        return _changed(event)
    done = services().inbox.administration.give_up(
        event_id, by=viewer().name, why=why, seen_attempt=event.attempt
    )
    return results.lead_to_latest(_address(event), "give_up") if done else _changed(event)


def wake_workers() -> None:
    """Let the workers of all processes look for due events now."""
    services().worker.wake()
    with suppress(InboxUnavailable):  # the events are due, and workers poll
        services().inbox.deliveries.notify()


def retrier() -> Retrier:
    """Return what runs events again in this process."""
    parts = services()
    return Retrier(parts.inbox, parts.runner, is_queue=parts.settings.is_queue)


def _ask(
    event_id: str,
    impossible: Callable[[Event], Response | None],
    question: Callable[[Event], Confirmation],
) -> Response:
    require_right_to_act()
    event = find(event_id)
    return impossible(event) or ask(question(event))


def _retry(event: Event, *, again: bool) -> Response:
    audit, by, why = services().inbox.audit, viewer().name, reason()
    audit_id = audit.record(by, "retry", event.id, why)
    try:
        outcome = retrier().retry(event, by=by, why=why, again=again)
    except (DeliveryError, ResultDelayed) as error:  # it ran, and its page has the result
        outcome = error.outcome
    audit.complete(audit_id, int(outcome is not None))
    if outcome is None:
        return _changed(event)
    wake_workers()
    return results.lead_to(_address(event), audit_id)


def _is_unchanged(event: Event) -> bool:
    """Return whether the event is as the form has shown it."""
    return all(request.form.get(name) == value for name, value in _about(event).items())


def _changed(event: Event) -> Response:
    return refuse("Nothing was changed", CHANGED, _address(event))


def _address(event: Event) -> str:
    return url_for("ops.event.show", event_id=event.id)


def _impossible_retry(event: Event) -> Response | None:
    """Return the page that says why the event cannot be run, or None."""
    refusal = rules().refusal(event)
    words = IMPOSSIBLE.get(refusal) if refusal else None
    if words is None:
        return None
    sentence = words.format(mode=mode(live=event.livemode))
    return refuse("The event cannot be run", sentence, _address(event))


def _impossible_give_up(event: Event) -> Response | None:
    if event.state == State.PENDING:
        return None
    sentence = f"It is {event.state}. Only a pending event can be given up."
    return refuse("The event cannot be given up", sentence, _address(event))


def _about(event: Event) -> dict[str, str]:
    """Return the state that the question shows, as fields of the form."""
    return {
        "seen_attempt": str(event.attempt),
        "seen_state": event.state,
        # A retry of a pending event changes nothing else. Parking rounds it.
        "seen_due": f"{event.due_at:.3f}",
    }


def _sentence(event: Event) -> sentences.Sentence:
    return sentences.of_state(event, situation(event))


def _retry_question(event: Event) -> Confirmation:
    again = rules().refusal(event) is not None
    facts = situation(event)
    how = "Its callback runs while you wait. The next page has the result."
    if facts.is_queue:
        is_paused = facts.is_paused or facts.is_type_paused
        how = f"The event becomes due now, and a worker runs it{' after the pause' * is_paused}."
    if again:
        how += f" {_another_run(event) or 'It has succeeded, so its callback repeats what it did.'}"
    return Confirmation(
        title=f"Retry {event.id}" + (" although it is done?" if again else "?"),
        about=_sentence(event),
        sentences=[f"This is 1 event of type {event.type}.", how],
        button="Continue" if again else "Retry",
        action=url_for("ops.actions.retry", event_id=event.id),
        back=_address(event),
        fields=_about(event),
        needs_reason=again,
    )


def _second_question(event: Event) -> Confirmation:
    another = _another_run(event)
    repeats = (
        "Its callback has returned. A second run repeats its effects, unless it is idempotent."
    )
    return Confirmation(
        title=f"Run {event.id} although it is done?"
        if another
        else f"Run {event.id} a second time?",
        about=_sentence(event),
        sentences=[another or repeats],
        button="Retry although done",
        action=url_for("ops.actions.retry", event_id=event.id),
        back=_address(event),
        fields={**_about(event), "sure": "yes"},
        needs_reason=True,
        is_danger=True,
    )


def _another_run(event: Event) -> str | None:
    """Return what another run of a done event does, None if it repeats what the callback did."""
    refusal = rules().refusal(event)
    return ANOTHER_RUN.get(refusal) if refusal else None


def _give_up_question(event: Event) -> Confirmation:
    return Confirmation(
        title=f"Give up {event.id}?",
        about=_sentence(event),
        sentences=[
            f"This is 1 event of type {event.type}.",
            "The event becomes dead. It is not run again unless a person retries it.",
        ],
        button="Give up",
        action=url_for("ops.actions.give_up", event_id=event.id),
        back=_address(event),
        fields=_about(event),
        needs_reason=True,
        is_danger=True,
    )
