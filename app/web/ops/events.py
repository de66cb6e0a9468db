"""The list of events, and the search."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for

from app.inbox.filters import NAMES, OUTCOMES, STATES, EventFilter, from_query, to_query
from app.inbox.models import Cursor
from app.operations.selection_words import no_events, require_known
from app.services import services
from app.states import State
from app.stripe_api.catalog import EVENT_TYPE_SHAPE
from app.web.ops import bulk, results
from app.web.ops.auth import viewer

#: Events on one page of the list.
PAGE = 50

#: The conditions that have no field in the form. A link sets them, and a chip removes them.
LABELS = {
    "object": "object",
    "context": "account",
    "group": "error",
    "failed-before": "failed before release",
}

_ACCOUNT = re.compile(r"acct_\w+(/acct_\w+)*")
_GROUP = re.compile(r"[0-9a-f]{12}|crashed\.[\x21-\x7e]{1,255}")
_OBJECT = re.compile(r"[a-z]+_\w+")

blueprint = Blueprint("events", __name__)


@dataclass(frozen=True, slots=True)
class Chip:
    """A condition of the list, and the address of the list without it."""

    label: str
    value: str
    address: str


@dataclass(frozen=True, slots=True)
class Action:
    """What can be done with all events of the list: a label, its name, and their filter."""

    label: str
    name: str
    query: str

    @property
    def address(self) -> str:
        """The address of the question."""
        return f"{url_for(f'ops.bulk.ask_{self.name}')}?{self.query}".removesuffix("?")


@blueprint.get("/events")
def show() -> Response:
    """Show a page of the events that the address selects, the latest first."""
    try:
        matching = from_query(request.args)
        require_known(services().inbox, matching)
        before, after = _cursor("before"), _cursor("after")
    except ValueError as error:
        return _page(400, problem=str(error))
    administration = services().inbox.administration
    page = administration.page(matching, limit=PAGE, before=before, after=after)
    return _page(
        200,
        page=page,
        count=administration.count(matching),
        newer=_address(after=page.newer),
        older=_address(before=page.older),
        no_events=no_events(matching),
        did=results.of_request(),
        pause=_pause_of(matching.type),
        actions=_actions(matching),
    )


def _page(status: int, **values: Any) -> Response:
    """Return the page with its form. ``values`` are those of the events."""
    names = {
        "queue": services().settings.is_queue,
        "types": sorted(services().registry.handled_types),
    }
    given = _given(request.args)
    html = render_template(
        "ops/events.html",
        given=given,
        chips=_chips(given),
        states=STATES,
        outcomes=OUTCOMES,
        tabs=_tabs(given),
        **names,
        **values,
    )
    return make_response(html, status)


def _given(query: Mapping[str, str]) -> dict[str, str]:
    """Return the conditions of an address as they were written."""
    return {name: text for name in NAMES.values() if (text := query.get(name, "").strip())}


def _chips(given: Mapping[str, str]) -> list[Chip]:
    return [
        Chip(LABELS.get(name, name), text, _list_address({**given, name: ""}))
        for name, text in given.items()
    ]


def _tabs(given: Mapping[str, str]) -> list[tuple[str, str, bool]]:
    """Return name and address of the list in each state, and whether it is the one shown."""
    chosen = given.get("state", "")
    names = {"": "All", **{each: each.capitalize() for each in STATES}}
    return [
        (name, _list_address({**given, "state": state}), state == chosen)
        for state, name in names.items()
    ]


def _list_address(values: Mapping[str, str]) -> str:
    query = urlencode({name: text for name, text in values.items() if text})
    return url_for("ops.events.show") + (f"?{query}" if query else "")


def _cursor(name: str) -> Cursor | None:
    text = request.args.get(name, "")
    return Cursor.parse(text) if text else None


def _address(**cursor: Cursor | None) -> str | None:
    """Return the address of another page of this list, or None without a cursor."""
    ((name, value),) = cursor.items()
    return _list_address({**_given(request.args), name: str(value)}) if value else None


def _pause_of(event_type: str | None) -> Any:
    """Return the note of the pause of this type, if the list is of one type and it is paused."""
    return services().inbox.administration.paused_types().get(event_type) if event_type else None


def _actions(matching: EventFilter) -> list[Action]:
    """Return what the viewer can do with all events of the list."""
    if not viewer().may_act:
        return []
    return [
        Action(_label(verb, matching, states), name, to_query(matching))
        for verb, name, states in (
            ("Retry", "retry", bulk.retried_states(matching)),
            ("Give up", "give_up", bulk.given_up_states(matching)),
        )
        if states
    ]


def _label(verb: str, matching: EventFilter, states: list[State]) -> str:
    return f"{verb} all" if matching.state else f"{verb} all {' and '.join(states)}"


@blueprint.get("/search")
def search() -> Response:
    """Go to what the text in the search field names."""
    text = request.args.get("q", "").strip()
    if text.startswith("evt_"):
        return _redirect(url_for("ops.event.show", event_id=text))
    for shape, name in (
        (_ACCOUNT, "context"),
        (_GROUP, ""),
        (EVENT_TYPE_SHAPE, "type"),
        (_OBJECT, "object"),
    ):
        if shape.fullmatch(text):
            to_group = url_for("ops.groups.show", fingerprint=text)
            return _redirect(_list_address({name: text}) if name else to_group)
    if text and services().inbox.administration.find(text):
        return _redirect(url_for("ops.event.show", event_id=text))
    return make_response(render_template("ops/search.html", text=text), 404 if text else 200)


def _redirect(address: str) -> Response:
    return redirect(address, 303)  # type: ignore[return-value]  # Werkzeug's type of the same class
