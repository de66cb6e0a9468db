"""The operations page, ``/ops``: the state of the inbox, and actions on its events.

It exists only with ``OPS_TOKEN``. Each page is a blueprint of its own below this one. A request is
authenticated before its route runs. A POST also needs the right to act, and has to come from the
page itself. So no route checks any of this.
"""

from __future__ import annotations

from flask import Blueprint, Flask

from app.errors import InboxUnavailable
from app.stripe_api.errors import StripeFailed
from app.web.ops import (
    actions,
    audit,
    auth,
    bulk,
    destinations,
    errors,
    event,
    events,
    groups,
    overview,
    pauses,
    security,
    static,
    view,
)

#: The path of the operations page. All of its addresses begin with it.
PATH = "/ops"

PAGES = tuple(
    page.blueprint
    for page in (
        *(overview, events, event, groups, destinations, audit),
        *(actions, bulk, pauses, static, errors),
    )
)


def register(app: Flask) -> None:
    """Add the operations page to ``app``, and the state that it keeps in each process."""
    app.extensions["ops_failures"] = auth.FailureLimit()
    app.register_blueprint(make_blueprint())


def make_blueprint() -> Blueprint:
    """Return the blueprint of all pages."""
    blueprint = Blueprint("ops", __name__, url_prefix=PATH, template_folder="templates")
    blueprint.before_request(security.bound_body)
    blueprint.before_request(auth.require_viewer)
    blueprint.before_request(security.require_same_origin)
    blueprint.before_request(auth.require_right_to_act)
    blueprint.after_request(security.add_headers)
    blueprint.context_processor(view.context)
    for name, function in view.FILTERS.items():
        blueprint.add_app_template_filter(function, name)
    blueprint.register_error_handler(Exception, errors.answer)
    blueprint.register_error_handler(InboxUnavailable, errors.answer_without_inbox)
    blueprint.register_error_handler(StripeFailed, errors.answer_without_stripe)
    for page in PAGES:
        blueprint.register_blueprint(page)
    return blueprint
