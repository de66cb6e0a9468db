"""The event destinations at Stripe: their state, and the change of their event types."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from flask import Blueprint, Response, render_template, request, url_for
from werkzeug.exceptions import Conflict, Forbidden

from app.services import services
from app.stripe_api.destination_comparison import compare
from app.stripe_api.destination_sync import (
    ORDER_WHEN_ADDING,
    ORDER_WHEN_REMOVING,
    Plan,
    TypesChanged,
    TypesDiffer,
    change,
    make_plan,
    refusal,
)
from app.stripe_api.destinations import (
    Comparison,
    Expected,
    fetch,
    fetch_all,
    payload_of,
    status_of,
    url_of,
)
from app.stripe_api.errors import explained
from app.web.ops import results
from app.web.ops.auth import viewer

CHANGED = (
    "The event types or the handlers have changed since the plan was shown. Nothing was changed."
    " Open the plan again."
)
DIFFERS = "Stripe accepted the change, and the destination has other types now. Read it again."

blueprint = Blueprint("destinations", __name__)


@dataclass(frozen=True, slots=True)
class Planned:
    """A destination, the change of its types, and a fingerprint of both for the form."""

    comparison: Comparison
    plan: Plan
    prune: bool

    @property
    def seen(self) -> str:
        """A fingerprint of the types before and after. Another plan has another one."""
        before = sorted(self.comparison.destination.enabled_events)
        return hashlib.sha256(repr((before, self.plan.result)).encode()).hexdigest()


@blueprint.get("/destinations")
def show() -> str:
    """Show the findings of the watch, which are known without a request to Stripe."""
    findings = services().inbox.findings.list()
    return render_template(
        "ops/destinations.html",
        destinations=[each for each in findings if "id" in each.details],
        others=[each for each in findings if "id" not in each.details],
        watch_seconds=services().settings.watch_seconds,
    )


@blueprint.get("/destinations/now")
def show_now() -> str:
    """Read all destinations from Stripe, and compare them with the handlers."""
    _require_right()
    with explained():
        found = [compare(each, _expected()) for each in fetch_all(services().client)]
        return render_template(
            "ops/destinations_now.html",
            found=found,
            payload_of=payload_of,
            status_of=status_of,
            url_of=url_of,
        )


@blueprint.get("/destinations/<destination_id>/sync")
def ask_sync(destination_id: str) -> str:
    """Show the change that enables the handled types. With ``prune``, others are removed."""
    _require_right()
    with explained():
        return _render_plan(_plan(destination_id, prune="prune" in request.args))


@blueprint.post("/destinations/<destination_id>/sync")
def sync(destination_id: str) -> Response:
    """Change the types as the plan has shown. Raises 409 if it is no longer the same plan."""
    with explained():
        planned = _plan(destination_id, prune="prune" in request.form)
        if planned.seen != request.form.get("seen") or not planned.plan.changes:
            raise Conflict(CHANGED)
        audit_id = _change(planned)
    address = url_for("ops.destinations.ask_sync", destination_id=destination_id)
    return results.lead_to(address, audit_id)


def _change(planned: Planned) -> int:
    """Change the types, and return the id of the entry in the audit log."""
    audit, one = services().inbox.audit, planned.comparison.destination
    audit_id = audit.record(viewer().name, "sync_destination", one.id)
    try:
        change(services().client, one.id, planned.plan, one.enabled_events)
    except TypesChanged:
        audit.complete(audit_id, 0)
        raise Conflict(CHANGED) from None
    except TypesDiffer:
        raise Conflict(DIFFERS) from None
    return audit_id


def _require_right() -> None:
    """Refuse a viewer who may only look: each of these pages makes requests to Stripe."""
    if not viewer().may_act:
        raise Forbidden("Your token may not make requests to Stripe. Use the one in OPS_TOKEN.")


def _expected() -> Expected:
    registry = services().registry
    return Expected(registry.handled_types, services().settings.livemode, kinds=registry.kinds)


def _plan(destination_id: str, *, prune: bool) -> Planned:
    comparison = compare(fetch(services().client, destination_id), _expected())
    if reason := refusal(comparison, _expected()):
        raise Conflict(f"{reason}.")
    return Planned(comparison, make_plan(comparison, prune=prune), prune)


def _render_plan(planned: Planned) -> str:
    orders = [
        order
        for order, types in (
            (ORDER_WHEN_ADDING, planned.plan.add),
            (ORDER_WHEN_REMOVING, planned.plan.remove),
        )
        if types
    ]
    destination = planned.comparison.destination
    return render_template(
        "ops/sync.html",
        did=results.of_request(),
        planned=planned,
        destination=destination,
        orders=orders,
    )
