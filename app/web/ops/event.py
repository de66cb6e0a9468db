"""The page of one event: its state, attempts, body, object and history."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from flask import Blueprint, render_template
from werkzeug.exceptions import NotFound

from app.inbox import Event
from app.inbox.filters import EventFilter
from app.inbox.models import EventRow
from app.operations import history
from app.operations.history import Entry
from app.operations.retrying import AGAIN, Rules
from app.services import services
from app.states import State
from app.text import printable
from app.web.ops import results, sentences, stripe_links
from app.web.ops.auth import viewer

#: Other events of the same object on the page. The list has all of them.
OTHERS = 5

#: Actions on one event, the latest ones.
ACTIONS = 20

#: The words for actions of the audit log. The others are shown as they are called.
DID = {"give_up": "gave it up", "erase": "erased it"}

blueprint = Blueprint("event", __name__)


@dataclass(frozen=True, slots=True)
class Related:
    """What the concurrency key of an event names: its object's type and id, or neither."""

    kind: str | None
    object_id: str | None


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry of attempts. ``is_same``: an entry above it has the same traceback."""

    entry: Entry
    is_same: bool


@dataclass(frozen=True, slots=True)
class Act:
    """What a person did with the event."""

    at: float
    by: str
    what: str
    why: str | None


@blueprint.get("/events/<path:event_id>")
def show(event_id: str) -> str:
    """Show one event. 404 with a sentence if the inbox does not have it."""
    event = find(event_id)
    administration = services().inbox.administration
    package = services().settings.handlers_package
    related = related_object(event)
    return render_template(
        "ops/event.html",
        event=event,
        sentence=sentences.of_state(event, situation(event)),
        related=related,
        links=_links(event, related),
        others=_others(event, related),
        entries=list(_latest_first(history.entries(administration.attempts(event_id), package))),
        body=_body(event),
        effects=services().inbox.effects.of_event(event_id),
        twins=services().inbox.pairs.twins(event_id),
        has_failed=sentences.has_failed(event),
        acts=_acts(event_id),
        queue=services().settings.is_queue,
        did=results.of_request(),
        can=_possible_actions(event),
    )


def find(event_id: str) -> Event:
    """Return the event. Raises 404 with a sentence if the inbox does not have it."""
    found = services().inbox.administration.find(event_id)
    if found is None:
        raise NotFound(
            f"The inbox has no event {printable(event_id[:255])}. If Stripe has it, `flask events"
            " reconcile` records it."
        )
    return found


def situation(event: Event) -> sentences.Situation:
    """Return the facts beside the event that its sentence of state needs."""
    administration = services().inbox.administration
    return sentences.Situation(
        now=time.time(),
        is_queue=services().settings.is_queue,
        is_paused=administration.paused() is not None,
        is_type_paused=event.type in administration.paused_types(),
        concurrency=services().registry.policy(event.type).concurrency,
    )


def rules() -> Rules:
    """Return the rules for retries of this deployment."""
    settings = services().settings
    return Rules(settings.livemode, settings.is_queue, lambda: services().registry.handled_types)


def related_object(event: Event) -> Related:
    """Return the object of an event. An erased event has none."""
    _, _, rest = event.concurrency_key.partition(" ")
    kind, _, object_id = rest.partition(" ")
    return Related(kind, object_id) if object_id else Related(None, None)


def _possible_actions(event: Event) -> set[str]:
    """Return what the viewer can do with the event: retry it, retry it again, give it up."""
    if not viewer().may_act:
        return set()
    refusal = rules().refusal(event)
    can = {"give_up"} if event.state == State.PENDING else set()
    if refusal is None:
        return can | {"retry"}
    return can | ({"again"} if refusal in AGAIN else set())


def _links(event: Event, related: Related) -> dict[str, str]:
    """Return the pages of Stripe's dashboard, by what they show."""
    mode, context = event.livemode, event.context
    found = {"event": stripe_links.event_link(event.id, livemode=mode, context=context)}
    if related.object_id and not related.object_id.startswith("/"):  # a singleton has only a path
        found["object"] = stripe_links.object_link(
            related.object_id, livemode=mode, context=context
        )
    if context and (account := stripe_links.account_link(context, livemode=mode)):
        found["account"] = account
    return found


def _others(event: Event, related: Related) -> list[EventRow]:
    """Return the latest other events of the same object."""
    if not related.object_id:
        return []
    matching = EventFilter(object_id=related.object_id)
    found = services().inbox.administration.page(matching, limit=OTHERS + 1)
    return [each for each in found.events if each.id != event.id][:OTHERS]


def _latest_first(entries: list[Entry]) -> Iterator[Shown]:
    kinds: set[str] = set()
    for entry in reversed(entries):
        yield Shown(entry, entry.traceback.kind in kinds)
        if entry.last.traceback:
            kinds.add(entry.traceback.kind)


def _acts(event_id: str) -> list[Act]:
    """Return what people did with the event, the latest first."""
    administration = services().inbox.administration
    entries = administration.audit(ACTIONS, target=event_id)
    # Each retry has a note with the event, also one of many. The audit log repeats it.
    acts = [
        Act(each.at, each.by, DID.get(each.action, each.action), each.why)
        for each in entries
        if each.action != "retry" and each.affected != 0
    ]
    acts += [
        Act(each.at, each.by, "retried it", each.why) for each in administration.retries(event_id)
    ]
    return sorted(acts, key=lambda act: act.at, reverse=True)[:ACTIONS]


def _body(event: Event) -> str | None:
    """Return the body for a viewer who may see it, None for others."""
    if not viewer().sees_bodies or event.erased_at:
        return None
    return history.pretty_body(event.body)
