"""Retry and give up all events of a filter. GET asks with the number, POST acts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from flask import Blueprint, Response, make_response, render_template, request, url_for
from werkzeug.exceptions import BadRequest

from app.formats import counted, mode
from app.inbox.filters import EventFilter, from_query, to_query
from app.inbox.models import Count, EventRow
from app.operations.bulk_run import BulkRun
from app.operations.selection_words import require_known, words
from app.services import services
from app.states import Outcome, State
from app.web.ops import results
from app.web.ops.actions import retrier, wake_workers
from app.web.ops.auth import viewer
from app.web.ops.confirmation import (
    REASON_NEEDED,
    Confirmation,
    ask,
    reason,
    refuse,
    require_right_to_act,
)

#: The maximum number of events of one action.
MOST = 10_000

#: The form has times in whole microseconds. Rounding must not leave out the latest event.
ROUNDING = 1e-6

#: In inline mode, the seconds in which one request runs events. The next request goes on.
SECONDS = 20.0

#: The states of the events that are retried and given up. An event that fails again in inline mode
#: becomes pending. Pending ones are first, so it does not come up twice.
RETRIED = (State.PENDING, State.DEAD)
GIVEN_UP = (State.PENDING,)

AFTER_FALLBACK = (
    "Select one type. Events that the fallback took are retried if their type has a handler module"
    " now."
)

blueprint = Blueprint("bulk", __name__)


@blueprint.get("/retry")
def ask_retry() -> Response:
    """Say what a retry of all events of the filter does, and to how many."""
    require_right_to_act()
    matching = _bounded(_filter(request.args))
    administration = services().inbox.administration
    is_paused = administration.paused() or administration.paused_types()
    how = (
        "They become due now, and the workers run them."
        + (" Those of paused types wait for the end of the pause." if is_paused else "")
        if services().settings.is_queue
        else f"Their callbacks run one after another, for up to {SECONDS:g} s. The next page says"
        " how many are left, and goes on."
    )
    by_fallback = matching.outcome == Outcome.FALLBACK
    takes = AFTER_FALLBACK if by_fallback else "Only pending and dead events are retried."
    question = Question("Retry", url_for("ops.bulk.retry"), takes, how)
    return _ask(question, matching, retried_states(matching))


@blueprint.post("/retry")
def retry() -> Response:
    """Retry all events of the filter: make them due, or in inline mode run them here."""
    matching = _filter(request.form)
    if not services().settings.is_queue:
        return _run(matching)
    services().inbox.administration.retry_many(
        _of_key(matching), by=viewer().name, why=reason(), limit=MOST
    )
    wake_workers()
    return results.lead_to_latest(_list_address(matching), "retry_many")


@blueprint.get("/give-up")
def ask_give_up() -> Response:
    """Say what giving up all events of the filter does, and to how many."""
    require_right_to_act()
    return _ask_give_up(_bounded(_filter(request.args)))


@blueprint.post("/give-up")
def give_up() -> Response:
    """Make all pending events of the filter dead, with the reason."""
    matching, why = _filter(request.form), reason()
    if not why:
        return _ask_give_up(matching, problem=REASON_NEEDED)
    services().inbox.administration.give_up_many(
        _of_key(matching), by=viewer().name, why=why, limit=MOST
    )
    return results.lead_to_latest(_list_address(matching), "give_up_many")


def _filter(values: Mapping[str, str]) -> EventFilter:
    """Return the filter of an address or a form. Raises 400."""
    try:
        matching = from_query(values)
        require_known(services().inbox, matching)
    except ValueError as error:
        raise BadRequest(f"{error}.") from None
    if matching.livemode not in {None, services().settings.livemode}:
        raise BadRequest(
            f"STRIPE_API_KEY is not of {mode(live=bool(matching.livemode))} mode, so these events"
            " cannot be changed here."
        )
    return matching


def _of_key(matching: EventFilter) -> EventFilter:
    """Return the filter for the mode of the key: no other event is changed here."""
    return replace(matching, livemode=services().settings.livemode)


def _bounded(matching: EventFilter) -> EventFilter:
    """Return the filter without the events that arrive or change while the question is open.

    So a form works once: its action changes the events that it takes.
    """
    now = services().inbox.alert_facts.now() + ROUNDING
    return replace(matching, until=matching.until or now, unchanged_since=now)


def retried_states(matching: EventFilter) -> list[State]:
    """Return the states of the selected events that a retry takes.

    Done events are taken only after the fallback, if their type has a handler module now.
    """
    if matching.outcome != Outcome.FALLBACK:
        return _selected(matching, RETRIED)
    is_handled = matching.type in services().registry.handled_types
    return _selected(matching, (State.DONE,)) if is_handled else []


def given_up_states(matching: EventFilter) -> list[State]:
    """Return the states of the selected events that can be given up."""
    return _selected(matching, GIVEN_UP)


def _selected(matching: EventFilter, states: tuple[State, ...]) -> list[State]:
    return [each for each in states if matching.state in {None, each.value}]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about all events of a filter.

    ``takes`` says which events are taken, ``how`` what happens to them.
    """

    verb: str
    action: str
    takes: str
    how: str
    is_danger: bool = False


def _ask_give_up(matching: EventFilter, *, problem: str = "") -> Response:
    how = "They become dead. They are not run again unless a person retries them."
    takes = "Only pending events can be given up."
    question = Question("Give up", url_for("ops.bulk.give_up"), takes, how, is_danger=True)
    return _ask(question, matching, given_up_states(matching), problem=problem)


def _ask(
    question: Question, matching: EventFilter, states: list[State], *, problem: str = ""
) -> Response:
    """Return the question about all events of these states, or the page that there is none."""
    administration = services().inbox.administration
    own = _of_key(matching)
    counts = [administration.count(replace(own, state=each.value), MOST) for each in states]
    count = sum(counts, Count(0))
    conditions = words(matching)
    if not count.number and not count.is_bounded:
        sentence = f"None of the events{words(_as_given(matching))} can be taken. {question.takes}"
        return refuse("There is nothing to do", sentence, _list_address(matching))
    events = counted(count, "event")
    sentences = [f"This takes {events}{conditions}.", question.takes, question.how]
    if count.is_bounded or count.number > MOST:
        sentences.append(f"One action takes {MOST:,} events at most. Repeat it for the others.")
    confirmation = Confirmation(
        title=f"{question.verb} {events}?",
        sentences=sentences,
        button=f"{question.verb} {events}",
        action=question.action,
        back=_list_address(matching),
        fields=_fields(matching),
        needs_reason=question.is_danger,
        is_danger=question.is_danger,
    )
    return ask(confirmation, problem=problem)


def _fields(matching: EventFilter) -> dict[str, str]:
    """Return the filter as the fields of a form."""
    return dict(parse_qsl(to_query(matching)))


def _as_given(matching: EventFilter) -> EventFilter:
    """Return the conditions of the viewer, without the time at which the question was shown."""
    is_added = matching.until == matching.unchanged_since
    return replace(matching, until=None if is_added else matching.until, unchanged_since=None)


def _list_address(matching: EventFilter) -> str:
    """Return the address of the list that the viewer has come from."""
    query = to_query(_as_given(matching))
    return f"{url_for('ops.events.show')}?{query}".removesuffix("?")


def _run(matching: EventFilter) -> Response:
    """Run the events for a limited time. The page that follows has a form that goes on."""
    why, parts = reason(), services()
    place = request.form.get("place")
    try:
        own = _of_key(matching)
        run = BulkRun(parts.inbox.administration, own, retried_states(matching), place)
    except ValueError:
        raise BadRequest("The form is damaged. Go back to the list, and begin again.") from None
    audit_id = parts.inbox.audit.record(viewer().name, "retry_many", to_query(own), why, None)
    end = time.monotonic() + SECONDS
    again = retrier()

    def retry_one(event: EventRow) -> Outcome | None:
        return again.retry(event, by=viewer().name, why=why, again=False)

    try:
        run.run(retry_one, until=lambda: time.monotonic() > end or parts.stopping.is_set())
    finally:
        parts.inbox.audit.complete(audit_id, run.succeeded + run.failed)
    html = render_template(
        "ops/bulk.html",
        run=run,
        left=run.left() if run.place else None,
        fields={**_fields(matching), "place": run.place, "why": why or ""},
        address=_list_address(matching),
    )
    return make_response(html)
