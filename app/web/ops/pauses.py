"""Pause and resume the workers, or the events of one type. GET asks, POST acts."""

from __future__ import annotations

from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import BadRequest

from app.formats import counted
from app.inbox import Note
from app.inbox.filters import EventFilter, from_query
from app.inbox.models import BREAKER
from app.operations.pausing import type_warnings
from app.services import services
from app.states import State
from app.web.ops import results
from app.web.ops.actions import wake_workers
from app.web.ops.auth import viewer
from app.web.ops.confirmation import Confirmation, ask, reason, refuse, require_right_to_act

INLINE = "PROCESSING is inline: callbacks run in the requests, so there are no workers to pause."

blueprint = Blueprint("pauses", __name__)


@blueprint.get("/pause")
def ask_pause() -> Response:
    """Say what a pause does."""
    require_right_to_act()
    event_type = _type(request.args.get("type", ""))
    if impossible := _impossible_pause(event_type):
        return impossible
    waiting = services().inbox.administration.count(EventFilter(State.PENDING, event_type))
    events = f"events of type {event_type}" if event_type else "events"
    return ask(
        Confirmation(
            title=f"Pause {_what(event_type)}?",
            sentences=[
                *type_warnings(
                    services().inbox, event_type, handled=services().registry.handled_types
                ),
                f"No worker of any replica claims {events} until you resume.",
                f"{counted(waiting, 'pending event waits', 'pending events wait')} from then on.",
                "Running callbacks continue. Deliveries are still recorded and answered 200.",
            ],
            button="Pause",
            action=url_for("ops.pauses.pause"),
            back=_back(event_type),
            fields=_fields(event_type),
        )
    )


@blueprint.post("/pause")
def pause() -> Response:
    """Pause the workers, or one type."""
    event_type = _type(request.form.get("type", ""))
    if impossible := _impossible_pause(event_type):
        return impossible
    services().inbox.administration.pause(by=viewer().name, why=reason(), type_=event_type)
    return results.lead_to_latest(_back(event_type), "pause")


@blueprint.get("/resume")
def ask_resume() -> Response:
    """Say what resuming does."""
    require_right_to_act()
    event_type = _type(request.args.get("type", ""))
    if impossible := _impossible_resume(event_type):
        return impossible
    waiting = services().inbox.administration.count(EventFilter(State.PENDING, event_type))
    return ask(
        Confirmation(
            title=f"Resume {_what(event_type)}?",
            sentences=[_after_resume(event_type, counted(waiting, "pending event"))],
            button="Resume",
            action=url_for("ops.pauses.resume"),
            back=_back(event_type),
            fields=_fields(event_type),
        )
    )


@blueprint.post("/resume")
def resume() -> Response:
    """Resume the workers, or one type."""
    event_type = _type(request.form.get("type", ""))
    if impossible := _impossible_resume(event_type):
        return impossible
    administration = services().inbox.administration
    administration.resume(by=viewer().name, why=reason(), type_=event_type)
    if services().settings.is_queue:
        wake_workers()
    else:
        administration.park()  # there are no workers that make parked events due
    return results.lead_to_latest(_back(event_type), "resume")


def _type(text: str) -> str | None:
    """Return the event type of an address or a form, None for all. Raises 400."""
    try:
        return from_query({"type": text}).type
    except ValueError as error:
        raise BadRequest(f"{error}.") from None


def _note(event_type: str | None) -> Note | None:
    """Return the pause of this type, or of all."""
    administration = services().inbox.administration
    return administration.paused_types().get(event_type) if event_type else administration.paused()


def _impossible_pause(event_type: str | None) -> Response | None:
    if not services().settings.is_queue:
        return refuse("There is nothing to pause", INLINE, _back(event_type))
    if note := _note(event_type):
        sentence = f"It is paused already, by {note.by}."
        return refuse("Nothing was changed", sentence, _back(event_type))
    return None


def _impossible_resume(event_type: str | None) -> Response | None:
    if _note(event_type):
        return None
    return refuse("Nothing was changed", "It is not paused.", _back(event_type))


def _after_resume(event_type: str | None, waiting: str) -> str:
    """Return what a resume does to the ``waiting`` events."""
    if not services().settings.is_queue:
        return "In inline mode the pause has no effect. It no longer holds in queue mode either."
    sentence = f"The workers claim the due ones of {waiting}."
    note = _note(event_type)
    if note and note.by == BREAKER:
        sentence += " If the cause of the failures remains, they fail and use up attempts."
    return sentence


def _what(event_type: str | None) -> str:
    return f"the type {event_type}" if event_type else "all workers"


def _fields(event_type: str | None) -> dict[str, str]:
    return {"type": event_type} if event_type else {}


def _back(event_type: str | None) -> str:
    """Return the address of the list of the type, or of the overview."""
    return (
        url_for("ops.events.show", type=event_type) if event_type else url_for("ops.overview.show")
    )
